from __future__ import annotations

import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest

from weft._node.clients import Client, Clients
from weft._transport.sockets import Poller, SocketConnection, connect
from weft._wire.messages import Hello, Message
from weft._wire.version import WIRE, check_hello
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from pathlib import Path


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


def test_caller_of_a_distant_release_is_refused_and_told_which_release_this_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = str(tmp_path / "daemon")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    poller = Poller()
    me = Hello(WIRE, b"n" * 16, address, os.getpid(), "daemon")
    met: list[Client] = []
    clients = Clients(
        poller,
        listener.detach(),
        met=met.append,
        said=lambda *_: None,
        lost=lambda _: None,
        me=me,
    )
    heard: list[Message] = []
    ended: list[str] = []
    connection = SocketConnection(
        poller,
        connect(address),
        lambda _, messages: heard.extend(messages),
        lambda _, reason: ended.append(reason),
    )
    connection.queue(Hello(WIRE + 2, b"l" * 16, "", 42, "driver"))
    connection.flush()
    while not ended:
        poller.poll(1)
    line = (
        f"the peer (process 42) speaks wire version {WIRE + 2}, this process {WIRE}: "
        "install neighbouring releases of weft-core"
    )
    assert f"weft: a connection was closed: {line}\n" == capfd.readouterr().err
    assert heard == [me]
    with pytest.raises(ProtocolError, match=f"wire version {WIRE}, this process {WIRE + 2}"):
        check_hello(heard[0], WIRE + 2)
    assert met == []
    connection.close()
    clients._acceptor.close()
    poller.close()
