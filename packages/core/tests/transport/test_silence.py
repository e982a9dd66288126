"""Connections that are dead alone: the other end hears nothing, and says nothing."""

from __future__ import annotations

import ctypes
import select
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from weft._transport import silence
from weft._transport.silence import LIMIT_S, end_when_silent

if TYPE_CHECKING:
    from collections.abc import Iterator

SO_ATTACH_FILTER = 26
BLOCKED_S = 20.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    with near, far:
        yield near, far


def deafen(sock: socket.socket) -> None:
    """Drop all that comes, as if it were lost on the way."""
    # A filter of one instruction: return 0.
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    sock.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program))
    )


def how_it_ends(sock: socket.socket) -> int:
    """Wait until it ends; return the error."""
    poller = select.poll()
    poller.register(sock, 0)
    assert poller.poll(BLOCKED_S * 1000), "it has not ended"
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


@pytest.mark.slow
@pytest.mark.parametrize("is_daemons", [True, False])
def test_idle_connection_whose_other_end_is_gone_ends(
    ends: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    is_daemons: bool,
) -> None:
    monkeypatch.setattr(silence, "PROBE_S", 1)
    monkeypatch.setattr(silence, "LIMIT_S", 2)
    near, far = ends
    end_when_silent(near, is_daemons=is_daemons)
    deafen(far)
    assert how_it_ends(near)


@pytest.mark.slow
def test_connection_of_a_daemon_that_gets_no_acknowledgement_ends(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "LIMIT_S", 1)
    near, far = ends
    end_when_silent(near, is_daemons=True)
    deafen(far)
    near.send(b"x")
    assert how_it_ends(near)


def test_processes_that_do_not_read_are_waited_for(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    for sock, is_daemons, limit_ms in zip(ends, (True, False), (LIMIT_S * 1000, 0), strict=True):
        end_when_silent(sock, is_daemons=is_daemons)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == limit_ms
