from __future__ import annotations

import errno
import gc
import os
import resource
import select
import socket
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from weft._override import override
from weft._transport.sockets import (
    Poller,
    SocketConnection,
    SocketListener,
    connect,
    peer_uid,
)
from weft._wire import codec
from weft._wire.codec import encode
from weft._wire.frame import HEADER_BYTES
from weft.exceptions import ProtocolError
from weft.testing.transport_suite import End, TransportSuite, large, numbered, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from weft._transport.base import Connection


def run(*pollers: Poller) -> None:
    """Let everything happen that can: a local socket's bytes are there once they are sent."""
    quiet = 0
    while quiet < len(pollers):
        for poller in pollers:
            events = poller.wait(0)
            poller.dispatch(events)
            quiet = 0 if events else quiet + 1


class SocketSuite(TransportSuite):
    """Two processes, as it were: each end has a poller of its own."""

    @override
    def connect(self, first: End, second: End) -> tuple[Connection, Connection]:
        self.pollers = [Poller(), Poller()]
        left, right = self.sockets()
        return (
            SocketConnection(self.pollers[0], left, first.receive, first.lost),
            SocketConnection(self.pollers[1], right, second.receive, second.lost),
        )

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        raise NotImplementedError

    @override
    def move(self) -> None:
        run(*self.pollers)

    @override
    def disconnect(self) -> None:
        super().disconnect()
        for poller in self.pollers:
            poller.close()


class TestUnixSockets(SocketSuite):
    @override
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return socket.socketpair()


class TestUnixSocketsWithSmallBuffers(SocketSuite):
    @override
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        for sock in pair:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return pair


# ------------------------------------------------------------------ a connection


class Wire:
    """A connection whose far end is a bare socket."""

    def __init__(self) -> None:
        self.poller = Poller()
        mine, self.far = socket.socketpair()
        self.end = End()
        self.near = SocketConnection(self.poller, mine, self.end.receive, self.end.lost)

    def run(self) -> None:
        run(self.poller)

    def close(self) -> None:
        self.near.close()
        self.far.close()
        self.poller.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def test_batch_is_one_frame(wire: Wire) -> None:
    for message in numbered(0, 3):
        wire.near.queue(message)
    assert wire.near.queued == 3
    wire.near.flush()
    assert wire.near.queued == 0
    assert wire.far.recv(1 << 16) == encode(numbered(0, 3))


def test_batch_over_the_bound_of_a_frame_goes_in_several(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "MAX_BODY_BYTES", 20)
    send(wire.near, numbered(0, 3))
    sent = wire.far.recv(1 << 16)
    assert len(sent) > 20 + HEADER_BYTES
    wire.far.sendall(sent)
    wire.run()
    assert wire.end.log == numbered(0, 3)


def test_message_over_the_bound_of_a_frame_is_refused(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "MAX_BODY_BYTES", 20)
    with pytest.raises(ProtocolError):
        send(wire.near, [large(1, 100)])
    wire.near.queue(large(1, 100))
    wire.near.close()
    assert wire.far.recv(1 << 16) == b""


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x01\0\0\0\x01\xff", b"\xff\xff\xff\xff\x01"],
    ids=["other protocol", "no message", "too long"],
)
def test_peer_that_does_not_speak_the_protocol_is_lost(wire: Wire, garbage: bytes) -> None:
    wire.far.sendall(encode(numbered(0, 2)))
    wire.run()
    wire.far.sendall(garbage)
    wire.run()
    assert wire.end.messages == numbered(0, 2)
    assert len(wire.end.reasons) == 1
    assert wire.near.closed
    assert wire.far.recv(1) == b""


def test_poller_keeps_nothing_of_a_connection_that_was_closed() -> None:
    wire = Wire()
    end = weakref.ref(wire.end)
    wire.near.close()
    wire.far.close()
    poller = wire.poller
    del wire
    gc.collect()
    assert end() is None
    poller.close()


def test_peer_that_dies_within_a_frame_is_lost(wire: Wire) -> None:
    wire.far.sendall(encode(numbered(0, 2))[:-1])
    wire.far.close()
    wire.run()
    assert wire.end.log == ["the peer closed the connection"]


def test_peer_that_resets_the_connection_is_lost(wire: Wire) -> None:
    """A socket that is closed with unread bytes resets its connection."""
    send(wire.near, numbered(0, 1))
    wire.far.close()
    wire.run()
    assert wire.end.log == ["Connection reset by peer"]


def test_frames_that_come_byte_by_byte_are_received(wire: Wire) -> None:
    for byte in encode(numbered(0, 2)):
        wire.far.sendall(bytes([byte]))
        wire.run()
    assert wire.end.log == numbered(0, 2)


def test_rest_follows_as_the_peer_takes_it(wire: Wire) -> None:
    send(wire.near, [large(1)])
    send(wire.near, [large(2)])
    expected = bytes(encode([large(1)])) + bytes(encode([large(2)]))
    taken = bytearray()
    while len(taken) < len(expected):
        wire.run()
        taken += wire.far.recv(1 << 20)
    assert taken == expected
    # Nothing is left to be told: the wait does not return for a socket that can be written.
    assert wire.poller.wait(0) == []


def test_rest_for_a_peer_that_is_gone_is_dropped(wire: Wire) -> None:
    send(wire.near, [large(1)])
    wire.far.close()
    wire.run()
    assert len(wire.end.reasons) == 1


def test_close_sends_what_the_peer_can_take_by_now(wire: Wire) -> None:
    send(wire.near, [large(1)])
    first = wire.far.recv(1 << 20)
    wire.near.close()
    assert len(wire.far.recv(1 << 20)) > 0
    assert first == bytes(encode([large(1)]))[: len(first)]


def test_drain_waits_until_the_peer_has_taken_all(wire: Wire) -> None:
    send(wire.near, [large(1)])
    expected = bytes(encode([large(1)]))
    taken = bytearray()

    def take() -> None:
        while len(taken) < len(expected):
            taken.extend(wire.far.recv(1 << 20))

    taker = threading.Thread(target=take)
    taker.start()
    wire.near.drain()
    taker.join()
    assert taken == expected


def test_drain_of_nothing_does_nothing(wire: Wire) -> None:
    wire.near.drain()
    wire.near.close()
    wire.near.drain()


def test_drain_gives_up_on_a_peer_that_is_gone(wire: Wire) -> None:
    send(wire.near, [large(1)])
    wire.far.close()
    wire.near.drain()


def test_read_rest_takes_what_has_arrived_up_to_the_end(wire: Wire) -> None:
    for message in [*numbered(0, 3), large(1, 100_000)]:
        wire.far.sendall(encode([message]))
    wire.far.close()
    wire.near.read_rest()
    assert wire.end.log == [*numbered(0, 3), large(1, 100_000), "the peer closed the connection"]
    wire.near.read_rest()
    assert len(wire.end.reasons) == 1


def test_read_rest_does_not_wait(wire: Wire) -> None:
    wire.near.read_rest()
    assert wire.end.log == []


class FaultySocket:
    """A socket whose `send` fails in a way that no test can bring about."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.failure: OSError | None = None

    def send(self, data: memoryview) -> int:
        if self.failure is not None:
            raise self.failure
        return self.real.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.fixture
def faulty() -> Iterator[tuple[Wire, FaultySocket]]:
    made = Wire()
    made.near._socket = FaultySocket(made.near._socket)  # type: ignore[assignment]
    yield made, made.near._socket  # type: ignore[misc]
    made.close()


def test_connection_that_cannot_send_ends_after_what_had_arrived(
    faulty: tuple[Wire, FaultySocket],
) -> None:
    """A frame that the kernel had no memory for must not be missing in the middle."""
    wire, sock = faulty
    wire.far.sendall(encode(numbered(0, 2)))
    sock.failure = OSError(errno.ENOBUFS, "No buffer space available")
    send(wire.near, numbered(0, 1))
    sock.failure = None
    send(wire.near, numbered(1, 2))
    wire.run()
    assert wire.end.log == [*numbered(0, 2), "sending failed: No buffer space available"]
    assert wire.far.recv(1 << 16) == b""


def test_connection_that_cannot_send_its_rest_ends(faulty: tuple[Wire, FaultySocket]) -> None:
    wire, sock = faulty
    send(wire.near, [large(1)])
    wire.far.recv(1 << 20)
    sock.failure = OSError(errno.ENOBUFS, "No buffer space available")
    wire.run()
    assert wire.end.log == ["sending failed: No buffer space available"]


def test_forked_child_leaves_its_parents_connections_alone(tmp_path: Path) -> None:
    poller = Poller()
    mine, far = socket.socketpair()
    end = End()
    connection = SocketConnection(poller, mine, end.receive, end.lost)
    listener = SocketListener(poller, tmp_path / "l", lambda sock: sock.close())
    pid = os.fork()
    if not pid:
        connection.abandon()
        listener.abandon()
        poller.abandon()
        poller.wake()
        connection.close()
        listener.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    far.sendall(encode(numbered(0, 1)))
    run(poller)
    assert end.log == numbered(0, 1)
    assert (tmp_path / "l").exists()
    listener.close()
    connection.close()
    far.close()
    poller.close()


# ------------------------------------------------------------------ the wait


@pytest.fixture
def poller() -> Iterator[Poller]:
    made = Poller()
    yield made
    made.close()


def test_wake_ends_a_wait_in_another_thread(poller: Poller) -> None:
    woken = threading.Thread(target=lambda: poller.poll(None))
    woken.start()
    poller.wake()
    woken.join()


def test_wake_before_a_wait_ends_it(poller: Poller) -> None:
    poller.wake()
    poller.wake()
    poller.poll(None)
    assert poller.wait(0) == []


def test_wake_that_comes_while_another_is_seen_is_not_the_last_that_works(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the event lets other threads run: one of them may call `wake` there."""
    read = os.eventfd_read

    def read_late(fd: int) -> int:
        poller.wake()
        return read(fd)

    poller.wake()
    with monkeypatch.context() as patch:
        patch.setattr(os, "eventfd_read", read_late)
        poller.poll(None)
    poller.wake()
    assert poller.wait(0)


def test_wake_after_close_does_nothing() -> None:
    poller = Poller()
    poller.close()
    poller.wake()
    poller.close()


def test_close_waits_for_a_wake_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would write to a descriptor that stands for something else by then."""
    poller = Poller()
    closer = threading.Thread(target=poller.close)
    write = os.eventfd_write

    def write_late(fd: int, value: int) -> None:
        closer.start()
        closer.join(0.02)
        write(fd, value)

    monkeypatch.setattr(os, "eventfd_write", write_late)
    poller.wake()
    closer.join()
    assert poller.closed


def test_handler_that_was_removed_in_the_same_round_is_not_called(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def handler(number: int) -> Any:
        def handle(_events: int) -> None:
            called.append(number)
            poller.remove(pairs[1 - number][0].fileno())

        return handle

    for number, (left, right) in enumerate(pairs):
        poller.add(left.fileno(), handler(number))
        right.sendall(b"x")
    poller.poll(0)
    assert len(called) == 1
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_removing_twice_does_nothing(poller: Poller) -> None:
    left, right = socket.socketpair()
    poller.add(left.fileno(), lambda _events: None)
    poller.remove(left.fileno())
    poller.remove(left.fileno())
    right.sendall(b"x")
    assert poller.wait(0) == []
    left.close()
    right.close()


def test_poller_can_be_waited_for_by_another(poller: Poller) -> None:
    outer = select.epoll()
    outer.register(poller.fileno(), select.EPOLLIN)
    assert outer.poll(0) == []
    poller.wake()
    assert outer.poll(0)
    outer.close()


# ------------------------------------------------------------------ listening


@pytest.fixture
def address(tmp_path: Path) -> Path:
    return tmp_path / "l"


def test_listener_hands_out_connections_of_this_user(poller: Poller, address: Path) -> None:
    accepted: list[socket.socket] = []
    listener = SocketListener(poller, address, accepted.append)
    callers = [connect(listener.address) for _ in range(3)]
    run(poller)
    assert len(accepted) == 3
    assert peer_uid(callers[0]) == os.getuid()
    assert address.stat().st_mode & 0o777 == 0o600
    listener.close()
    assert not address.exists()
    listener.close()
    for sock in (*callers, *accepted):
        sock.close()


def test_other_users_are_turned_away(
    poller: Poller, address: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[socket.socket] = []
    listener = SocketListener(poller, address, accepted.append)
    caller = connect(listener.address)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    run(poller)
    assert accepted == []
    assert caller.recv(1) == b""
    caller.close()
    listener.close()


def test_caller_is_turned_away_when_there_are_no_descriptors_left(
    poller: Poller, address: Path
) -> None:
    accepted: list[socket.socket] = []
    listener = SocketListener(poller, address, accepted.append)
    caller, late = connect(listener.address), socket.socket(socket.AF_UNIX)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        run(poller)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert accepted == []
    assert caller.recv(1) == b""
    late.connect(listener.address)
    run(poller)
    assert len(accepted) == 1
    for sock in (caller, late, *accepted):
        sock.close()
    listener.close()


def test_connecting_to_nobody_raises_and_leaves_nothing(address: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect(os.fspath(address))
