from __future__ import annotations

import os
import resource
import socket
from typing import TYPE_CHECKING

from weft._node.clients import Client, Clients
from weft._transport.sockets import Poller, SocketConnection, connect
from weft._wire.messages import Hello
from weft._wire.version import WIRE

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_who_comes_when_there_are_no_descriptors_is_turned_away_and_others_are_served(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = str(tmp_path / "daemon")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    poller = Poller()
    met: list[Client] = []
    clients = Clients(
        poller,
        listener.detach(),
        met=met.append,
        said=lambda *_: None,
        lost=lambda _: None,
        me=Hello(WIRE, b"n" * 16, address, os.getpid(), "daemon"),
    )
    caller, late = connect(address), socket.socket(socket.AF_UNIX)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        poller.poll(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caller.recv(1) == b""
    assert "turned away" in capfd.readouterr().err
    late.connect(address)
    connection = SocketConnection(poller, late, lambda *_: None, lambda *_: None)
    connection.queue(Hello(WIRE, b"l" * 16, "", os.getpid(), "driver"))
    connection.flush()
    while not met:
        poller.poll(1)
    assert clients.get(b"l" * 16) is met[0]
    caller.close()
    connection.close()
    met[0].connection.close()
    clients._acceptor.close()
    poller.close()
