from __future__ import annotations

import errno
import os
import socket
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft._override import override
from weft._transport import bulk
from weft._transport.bulk import BulkConnection
from weft._transport.tls import wrap
from weft._transport.wide import WideSocket
from weft._wire.frame import HEADER
from weft._wire.parcels import Parcel, parcel_header
from weft.exceptions import ProtocolError
from weft.testing.transport_suite import End, TransportSuite, large, numbered, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft._transport.base import Connection
    from weft._transport.credentials import MemberCredentials
    from weft._wire.messages import Message


class Bytes:
    """Bytes of a file, which can be sent until it ends."""

    def __init__(self, file: Any, offset: int, size_bytes: int) -> None:
        self.file, self.offset, self.size_bytes = file, offset, size_bytes

    def read_into(self, buffer: memoryview, at: int) -> int:
        return os.preadv(self.file.fileno(), [buffer], self.offset + at)

    def send(self, socket_fd: int, at: int) -> int:
        left = self.size_bytes - at
        return os.sendfile(socket_fd, self.file.fileno(), self.offset + at, left)


class BulkEnd(End):
    """It has places for parcels, and logs those that have come between the messages."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[int, bytearray] = {}
        self.came: list[Message | str | int] = []
        """Messages, and the tags of parcels; of those that were gone, less than 0."""

    @override
    def receive(self, connection: Connection, messages: Any) -> None:
        super().receive(connection, messages)
        self.came += messages

    def sink_for(self, parcel: Parcel) -> Place | None:
        place = self.places.get(parcel.tag)
        if place is None:
            return None
        if len(place) != parcel.size:
            raise ProtocolError(f"a parcel of {parcel.size} bytes came for a place of {len(place)}")
        return Place(self, parcel.tag)


class Place:
    """The place of a parcel, filled by windows of some size."""

    def __init__(self, end: BulkEnd, tag: int) -> None:
        self.end, self.tag = end, tag
        self.left = memoryview(end.places[tag])

    def window(self) -> memoryview:
        return self.left[: window_bytes(self.tag)]

    def took(self, size_bytes: int) -> None:
        assert size_bytes
        self.left = self.left[size_bytes:]

    def ended(self, *, is_whole: bool) -> None:
        assert not self.left
        self.end.came.append(self.tag if is_whole else -self.tag)


def window_bytes(tag: int) -> int:
    """Return how large windows are: some larger than a record, some less."""
    return (100_000, 3_000)[tag % 2]


def connect(net: Any, host: Any, sock: Any, part: Any, end: End) -> BulkConnection:
    """Make a connection of a host's."""
    places = end if isinstance(end, BulkEnd) else BulkEnd()
    connection = BulkConnection(
        host.poller, sock, end.receive, end.lost, part=part, arrivals=host.arrivals,
        sink_for=places.sink_for,
    )  # fmt: skip
    host.connections.append(connection)
    host.ends.append(end)
    return connection


class TestBulkConnections(TransportSuite):
    """Without parcels it is a connection as any other."""

    wrap: Any = WideSocket
    net: Any
    credentials: MemberCredentials

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _have_helpers(cls, net: Any, credentials: MemberCredentials) -> None:
        cls.net, cls.credentials = net, credentials

    @override
    def connect(self, first: End, second: End) -> tuple[Connection, Connection]:
        self.hosts = [self.net.Host(), self.net.Host()]
        wrap = type(self).wrap
        parts = (self.net.calling(self.credentials, wrap), self.net.called(self.credentials, wrap))
        made = [
            connect(self.net, host, sock, part, end)
            for host, sock, part, end in zip(
                self.hosts, self.net.tcp_pair(), parts, (first, second), strict=True
            )
        ]
        self.net.run(*self.hosts, until=lambda: not any(host.arrivals for host in self.hosts))
        return made[0], made[1]

    @override
    def move(self) -> None:
        # Who is not closed hears of the other's end.
        self.net.run(*self.hosts, until=lambda: self.near.closed == self.far.closed)

    @override
    def disconnect(self) -> None:
        super().disconnect()
        for host in self.hosts:
            host.close()


class TestBulkConnectionsWhereTheKernelEncrypts(TestBulkConnections):
    """So it is asked once for each record."""

    wrap = wrap


class Ends:
    """Two connections, and a file to send from."""

    def __init__(
        self,
        net: Any,
        hosts: Callable[[], Any],
        credentials: MemberCredentials,
        wraps: tuple[Any, Any] = (WideSocket, WideSocket),
    ) -> None:
        self.net, self.near_host, self.far_host = net, hosts(), hosts()
        mine, theirs = net.tcp_pair()
        self.first, self.second = BulkEnd(), BulkEnd()
        self.near = connect(
            net, self.near_host, mine, net.calling(credentials, wraps[0]), self.first
        )
        self.far = connect(
            net, self.far_host, theirs, net.called(credentials, wraps[1]), self.second
        )
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the fixture
        self.content = os.urandom(1 << 20) * 5
        self.file.write(self.content)
        self.file.flush()

    def run(self) -> None:
        hosts = (self.near_host, self.far_host)
        self.net.run(*hosts, until=lambda: self.near.closed == self.far.closed)

    def close(self) -> None:
        self.near.close()
        self.far.close()
        self.file.close()


@pytest.fixture(
    params=[(WideSocket, WideSocket), (wrap, wrap), (WideSocket, wrap), (wrap, WideSocket)],
    ids=["wide", "records", "wide to records", "records to wide"],
)
def ends(request: Any, net: Any, hosts: Any, credentials: MemberCredentials) -> Iterator[Ends]:
    made = Ends(net, hosts, credentials, request.param)
    yield made
    made.close()


def test_bytes_of_a_file_go_to_their_place_between_the_messages(ends: Ends) -> None:
    ends.second.places = {7: bytearray(4 << 20), 8: bytearray(100)}
    for message in numbered(0, 2):
        ends.near.queue(message)
    ends.near.send_parcel(7, Bytes(ends.file, 5, 4 << 20))
    send(ends.near, numbered(2, 3))
    ends.near.send_parcel(8, Bytes(ends.file, 1000, 100))
    send(ends.near, numbered(3, 5))
    ends.run()
    assert ends.second.came == [*numbered(0, 2), 7, *numbered(2, 3), 8, *numbered(3, 5)]
    assert ends.second.places == {
        7: ends.content[5 : 5 + (4 << 20)], 8: ends.content[1000:1100],
    }  # fmt: skip
    assert not ends.near.is_sending


def test_both_ends_send_parcels_at_once(ends: Ends) -> None:
    for end in (ends.first, ends.second):
        end.places = {tag: bytearray(1 << 20) for tag in range(4)}
    for tag in range(4):
        for connection in (ends.near, ends.far):
            connection.send_parcel(tag, Bytes(ends.file, tag << 20, 1 << 20))
    ends.run()
    for end in (ends.first, ends.second):
        assert end.came == [0, 1, 2, 3]
        assert b"".join(end.places.values()) == ends.content[: 4 << 20]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.integers(1, 40_000), st.integers(-3, -1), st.just(300_000)), max_size=12)
)
def test_parcels_and_messages_keep_their_order_and_bytes(
    net: Any, credentials: MemberCredentials, sizes: list[int]
) -> None:
    """A negative number is a message."""
    made: list[Any] = []

    def hosts() -> Any:
        made.append(net.Host())
        return made[-1]

    ends = Ends(net, hosts, credentials)
    expected: list[Any] = []
    for number, size in enumerate(sizes):
        if size < 0:
            expected += numbered(number, number + 1)
            send(ends.near, numbered(number, number + 1))
        else:
            expected.append(number)
            ends.second.places[number] = bytearray(size)
            ends.near.send_parcel(number, Bytes(ends.file, number * 1000, size))
    ends.run()
    assert ends.second.came == expected
    for number, place in ends.second.places.items():
        assert place == ends.content[number * 1000 : number * 1000 + len(place)]
    ends.close()
    for host in made:
        host.close()


def test_parcel_that_is_not_wanted_any_more_is_dropped(ends: Ends) -> None:
    ends.second.places = {2: bytearray(10)}
    for tag, size in ((1, 3 << 20), (2, 10), (3, 1)):
        ends.near.send_parcel(tag, Bytes(ends.file, 0, size))
    send(ends.near, numbered(0, 1))
    ends.run()
    assert ends.second.came == [2, *numbered(0, 1)]


def test_sender_never_waits(ends: Ends) -> None:
    ends.run()
    ends.second.places = {tag: bytearray(5 << 20) for tag in range(8)}
    for tag in range(8):
        ends.near.send_parcel(tag, Bytes(ends.file, 0, 5 << 20))
    assert ends.near.is_sending
    ends.run()
    assert not ends.near.is_sending
    assert ends.second.came == list(range(8))


@pytest.mark.parametrize("by_kernel", [False, True])
def test_what_is_gone_is_filled_with_zeros_and_does_not_count(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, by_kernel: bool
) -> None:
    """It was dropped while it was sent."""
    ends.run()
    if by_kernel:
        monkeypatch.setattr(type(ends.near._socket), "has_kernel_sending", True)
        monkeypatch.setattr(os, "sendfile", lambda *_arguments: 0)
    ends.second.places = {1: bytearray(6 << 20)}
    ends.near.send_parcel(1, Bytes(ends.file, 5 << 19, 6 << 20))
    send(ends.near, numbered(0, 1))
    ends.run()
    assert ends.second.came == [-1, *numbered(0, 1)]
    # Where it is the kernel's, it sends none of them at all.
    there = b"" if by_kernel else ends.content[5 << 19 :]
    assert ends.second.places[1] == there + bytes((6 << 20) - len(there))


def test_place_of_another_size_ends_the_connection(ends: Ends) -> None:
    ends.second.places = {1: bytearray(99)}
    ends.near.send_parcel(1, Bytes(ends.file, 0, 100))
    ends.run()
    assert ends.second.reasons == ["a parcel of 100 bytes came for a place of 99"]


def test_place_is_let_go_when_the_connection_ends(ends: Ends) -> None:
    """A mapping cannot be closed while somebody has a view of it."""
    ends.run()
    place = bytearray(1 << 20)
    ends.second.places = {1: place}
    ends.near._outbox.append(memoryview(parcel_header(1, 1 << 20) + bytes(1000)))
    ends.near.flush()
    ends.run()
    with pytest.raises(BufferError):
        place.clear()
    ends.near.close()
    ends.run()
    place.clear()
    assert ends.second.came == []


def test_handler_can_close_between_parcels(ends: Ends) -> None:
    ends.second.places = {1: bytearray(10), 2: bytearray(10)}
    ends.second.on_receive = lambda connection, _messages: connection.close()
    send(ends.near, numbered(0, 1))
    ends.near.send_parcel(1, Bytes(ends.file, 0, 10))
    ends.run()
    assert ends.second.came == numbered(0, 1)


def test_what_is_sent_after_closing_goes_nowhere_and_leaves_nothing(ends: Ends) -> None:
    ends.run()
    ends.near.send_parcel(1, Bytes(ends.file, 0, 5 << 20))
    ends.near.close()
    ends.near.send_parcel(1, Bytes(ends.file, 0, 10))
    ends.run()
    assert not ends.near.is_sending
    assert ends.second.came == []


def test_drain_waits_until_all_is_sent(ends: Ends) -> None:
    ends.run()
    ends.second.places = {1: bytearray(5 << 20)}
    ends.near.send_parcel(1, Bytes(ends.file, 0, 5 << 20))
    pid = os.fork()
    if not pid:
        while not ends.second.came:
            ends.far_host.poller.poll(None)
        os._exit(0 if ends.second.places[1] == ends.content else 1)
    ends.near.drain()
    assert not ends.near.is_sending
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_drain_gives_up_in_the_end(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    ends.run()
    monkeypatch.setattr(bulk, "DRAIN_S", 0.05)
    for _ in range(4):
        ends.near.send_parcel(1, Bytes(ends.file, 0, 5 << 20))
    ends.near.drain()
    assert ends.near.is_sending


def test_forked_child_leaves_the_parcels_to_its_parent(ends: Ends) -> None:
    ends.run()
    ends.second.places = {1: bytearray(5 << 20)}
    ends.near.send_parcel(1, Bytes(ends.file, 0, 5 << 20))
    pid = os.fork()
    if not pid:
        ends.near.abandon()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    ends.run()
    assert ends.second.places[1] == ends.content


def test_kernel_sends_the_file_where_it_encrypts(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it does not, another test sends; what goes to the kernel is looked at here."""
    asked: list[tuple[int, ...]] = []

    def sendfile(out: int, file: int, offset: int, size: int) -> int:
        asked.append((offset, size))
        if len(asked) == 2:
            raise BlockingIOError(errno.EAGAIN, "full")
        return min(size, 600)

    ends.run()
    monkeypatch.setattr(type(ends.near._socket), "has_kernel_sending", True)
    monkeypatch.setattr(os, "sendfile", sendfile)
    ends.near.send_parcel(1, Bytes(ends.file, 50, 1000))
    assert ends.near.is_sending
    ends.near_host.poller.poll(1)
    assert asked == [(50, 1000), (650, 400), (650, 400)]
    assert not ends.near.is_sending


@pytest.mark.parametrize(
    "garbage",
    [HEADER.pack(10, 9), HEADER.pack(10, 1) + b"\xff" * 10, b"\xff\xff\xff\xff\x01"],
    ids=["kind", "no message", "too long"],
)
def test_peer_that_does_not_speak_the_protocol_is_lost(ends: Ends, garbage: bytes) -> None:
    ends.run()
    send(ends.near, numbered(0, 1))
    ends.near._outbox.append(memoryview(garbage))
    ends.near.flush()
    ends.run()
    assert ends.second.messages == numbered(0, 1)
    assert len(ends.second.reasons) == 1


def test_large_messages_and_parcels_share_the_way(ends: Ends) -> None:
    ends.second.places = {1: bytearray(5 << 20)}
    send(ends.near, [large(1)])
    ends.near.send_parcel(1, Bytes(ends.file, 0, 5 << 20))
    send(ends.near, [large(2)])
    ends.run()
    assert ends.second.came == [large(1), 1, large(2)]


def _congestion(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


@pytest.mark.parametrize(("caller", "is_same"), [("127.0.0.1", True), ("127.0.0.2", False)])
def test_only_what_stays_on_the_host_is_not_paced(caller: str, is_same: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        calling = socket.create_connection(listener.getsockname(), source_address=(caller, 0))
        called, _ = listener.accept()
    with calling, called:
        before = _congestion(called)
        bulk.hasten(called)
        assert _congestion(called) == (b"reno" if is_same else before)
        assert calling.sendall(b"x") is None
        assert called.recv(1) == b"x"


def test_peer_that_is_gone_is_not_hastened() -> None:
    with socket.socket() as sock:
        before = _congestion(sock)
        bulk.hasten(sock)
        assert _congestion(sock) == before
