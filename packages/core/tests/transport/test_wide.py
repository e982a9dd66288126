from __future__ import annotations

import os
import select
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from weft._transport.credentials import NODE, make_credentials
from weft._transport.wide import FETCH_BYTES, WideSocket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from weft._transport.credentials import MemberCredentials


class Pair:
    """Both ends of a connection."""

    def __init__(self, net: Any, calling: ssl.SSLContext, called: ssl.SSLContext) -> None:
        mine, theirs = net.tcp_pair()
        self.near, self.far = WideSocket(calling, mine, NODE), WideSocket(called, theirs, None)

    def greet(self) -> None:
        open_ends: set[WideSocket] = set()
        while len(open_ends) < 2:
            for end in (self.near, self.far):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                open_ends.add(end)

    def close(self) -> None:
        self.near.close()
        self.far.close()


def wait(end: WideSocket) -> None:
    poll = select.poll()
    poll.register(end, select.POLLIN)
    assert poll.poll(10_000)


@pytest.fixture
def pair(net: Any, credentials: MemberCredentials) -> Iterator[Pair]:
    made = Pair(net, credentials.calling, credentials.called)
    yield made
    made.close()


def test_certificate_of_another_cluster_is_refused_and_the_peer_is_told(
    net: Any, credentials: MemberCredentials, tmp_path: Path
) -> None:
    other = make_credentials(tmp_path / "other")
    pair = Pair(net, other.calling, credentials.called)
    with pytest.raises(ssl.SSLCertVerificationError):
        pair.greet()
    wait(pair.far)
    with pytest.raises(ssl.SSLError, match="unknown ca"):
        pair.far.do_handshake()
    pair.close()


def test_peer_that_ends_before_the_handshake_is_said(pair: Pair) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        pair.near.do_handshake()
    wait(pair.far)
    with pytest.raises(ssl.SSLWantReadError):
        pair.far.do_handshake()
    pair.far.shutdown(socket.SHUT_WR)
    pair.near.do_handshake()
    assert pair.near.read(10) == b""


def test_what_is_taken_and_does_not_go_is_the_rest(pair: Pair) -> None:
    pair.greet()
    data = os.urandom(FETCH_BYTES)
    sent = 0
    while not pair.near.has_rest:
        sent += pair.near.send(data)
    with pytest.raises(BlockingIOError):
        pair.near.send(data)
    with pytest.raises(ssl.SSLWantWriteError):
        pair.near.write(data)
    got = bytearray()
    while pair.near.has_rest or len(got) < sent:
        try:
            got += pair.far.recv(1 << 20)
        except BlockingIOError:
            wait(pair.far)
        try:
            pair.near.send_rest()
        except BlockingIOError:
            continue
    assert got == data * (sent // FETCH_BYTES)


def test_little_is_taken_of_what_is_behind_a_message(pair: Pair) -> None:
    """Its place may be another one."""
    pair.greet()
    pair.near.write(b"message")
    pair.near.send(b"x" * 1000)
    wait(pair.far)
    assert pair.far.recv(1 << 20) == b"message"
    assert pair.far.pending() > 1000
    place = memoryview(bytearray(600))
    assert pair.far.recv_into(place) == 600
    assert pair.far.pending() == 400
    assert pair.far.recv() == b"x" * 400
    assert not pair.far.pending()
    for read in (pair.far.recv, lambda: pair.far.recv_into(place)):
        with pytest.raises(BlockingIOError):
            read()


def test_what_came_before_the_end_is_read_and_then_the_end(pair: Pair) -> None:
    pair.greet()
    pair.near.send(b"the last")
    pair.near.close()
    wait(pair.far)
    place = memoryview(bytearray(100))
    assert pair.far.recv_into(place) == len(b"the last")
    assert pair.far.recv_into(place) == 0
    assert pair.far.recv() == b""


def test_what_came_before_the_connection_broke_is_read_first(pair: Pair) -> None:
    pair.greet()
    pair.near.send(b"x" * 10)
    pair.far.send(b"nobody reads this")
    wait(pair.near)
    pair.near.close()
    wait(pair.far)
    assert pair.far.recv() == b"x" * 10
    with pytest.raises(ConnectionResetError):
        pair.far.recv()
    assert pair.far.recv() == b""
    assert pair.far.recv_into(bytearray(10)) == 0
