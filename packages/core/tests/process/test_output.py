"""What workers write, on its way to a driver that is slow to read."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from weft._node.clients import Client
from weft._node.driver import JobDriver
from weft._node.output import Outputs, Pipe
from weft._transport.sockets import Poller, SocketConnection
from weft._transport.timers import Timers
from weft._wire.messages import Hello
from weft._wire.version import WIRE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft._wire.messages import Message


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


class Slow:
    """A reader that is behind until it is told otherwise."""

    def __init__(self) -> None:
        self.behind = True
        self.waiting: list[Callable[[], None]] = []

    def is_behind(self) -> bool:
        return self.behind

    def when_it_has_read(self, function: Callable[[], None]) -> None:
        self.waiting.append(function)


def test_pipes_are_not_read_while_the_reader_is_behind(poller: Poller) -> None:
    reader = Slow()
    outputs = Outputs(poller, Timers())
    read: list[bytes] = []
    pipes = [Pipe(outputs, read.append, reader) for _ in range(2)]
    for number, pipe in enumerate(pipes):
        fd = pipe.open()
        os.write(fd, b"line %d\n" % number)
        os.close(fd)
    poller.poll(1)
    poller.poll(0)
    assert read == []
    (resume,) = reader.waiting
    reader.behind = False
    resume()
    poller.poll(1)
    assert sorted(read) == [b"line 0\n", b"line 1\n"]
    for pipe in pipes:
        pipe.close()


@pytest.fixture
def driver(poller: Poller) -> Iterator[tuple[JobDriver, socket.socket]]:
    """A session's driver, and the other end of its connection."""

    def send(client: Client, message: Message) -> None:
        client.connection.queue(message)
        client.connection.flush()

    ends: list[str] = []
    found = JobDriver(poller, os.getpid(), send=send, ended=ends.append)
    ours, theirs = socket.socketpair()
    connection = SocketConnection(poller, ours, lambda *_: None, lambda *_: None)
    found.connected(Client(connection, Hello(WIRE, b"d" * 16, "", os.getpid(), "driver")))
    yield found, theirs
    found.close()
    theirs.close()
    assert ends == []


def fall_behind(driver: JobDriver) -> None:
    assert not driver.is_behind()
    while not driver.is_behind():
        driver.show(b"w" * 16, 1, "f", bytes(16 * 1024), is_stderr=False)


def test_driver_is_behind_until_it_has_read(
    poller: Poller, driver: tuple[JobDriver, socket.socket]
) -> None:
    found, theirs = driver
    fall_behind(found)
    told: list[str] = []
    found.when_it_has_read(lambda: told.append("it has"))
    poller.poll(0)
    assert told == []
    while found.is_behind():
        theirs.recv(1 << 20)
    poller.poll(1)
    assert told == ["it has"]
    poller.poll(0)
    assert told == ["it has"], "once"


def test_driver_that_is_gone_is_not_behind(driver: tuple[JobDriver, socket.socket]) -> None:
    found, theirs = driver
    fall_behind(found)
    theirs.close()
    assert not found.is_behind()
