"""Hosts for tests: a poller, what is on its way to it, and real TCP between them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import ssl
import struct
import termios
from typing import TYPE_CHECKING, Any

import pytest

from weft._clock import monotonic
from weft._transport.arrivals import Arrivals
from weft._transport.credentials import NODE, make_credentials
from weft._transport.opening import CalledPart, CallingPart
from weft._transport.secure import SecureConnection
from weft._transport.sockets import Poller
from weft.testing.transport_suite import End

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft._transport.credentials import Credentials, MemberCredentials

QUIET_MS = 10
"""What nobody waits for has come by then, or it does not matter to the test."""
END_S = 10.0
"""What somebody waits for has come by then, or never comes."""


class Timers:
    """A loop's timers, which ring when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        self.waiting.append((self.now + delay_s, function))

    def go_on(self, delay_s: float) -> None:
        self.now += delay_s
        due = [timer for timer in self.waiting if timer[0] <= self.now]
        self.waiting = [timer for timer in self.waiting if timer[0] > self.now]
        for _, function in due:
            function()


class Host:
    """One process, as it were."""

    def __init__(self, most: int = 256) -> None:
        self.poller = Poller()
        self.timers = Timers()
        self.arrivals = Arrivals(self.timers.call_later, most=most, clock=lambda: self.timers.now)
        self.ends: list[End] = []
        self.connections: list[SecureConnection] = []

    def open(self, sock: socket.socket, part: Any) -> SecureConnection:
        """Make a connection; what it tells is in `ends`."""
        end = End()
        self.ends.append(end)
        connection = SecureConnection(
            self.poller, sock, end.receive, end.lost, part=part, arrivals=self.arrivals
        )
        self.connections.append(connection)
        return connection

    @property
    def is_sending(self) -> bool:
        """Whether TCP has something of its connections that has not arrived."""
        return any(
            struct.unpack("i", fcntl.ioctl(connection._socket, termios.TIOCOUTQ, bytes(4)))[0]
            for connection in self.connections
            if not connection.closed and connection._socket.fileno() >= 0
        )

    @property
    def is_lost(self) -> bool:
        """Whether its first connection has ended."""
        return self.connections[0].closed

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        assert len(self.arrivals) == 0
        self.poller.close()


def run(*hosts: Host, until: Callable[[], bool] = lambda: True) -> None:
    """Let everything happen that can, and more until something is true."""
    outer = select.poll()
    for host in hosts:
        outer.register(host.poller, select.POLLIN)
    end = monotonic() + END_S
    while outer.poll(QUIET_MS) or not until() or any(host.is_sending for host in hosts):
        for host in hosts:
            host.poller.poll(0)
        if monotonic() > end:
            return  # What the test expects has not happened: it says so.


def tcp_pair(address: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a TCP connection, who called first."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listening:
        caller = socket.create_connection(listening.getsockname()[:2])
        called, _ = listening.accept()
    for sock in (caller, called):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    return caller, called


class Stranger:
    """The far end of a host's connection, in the hands of the test: it may do TLS, and say all."""

    def __init__(self, host: Host, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.host = host
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=context.protocol == ssl.PROTOCOL_TLS_SERVER,
            server_hostname=None if context.protocol == ssl.PROTOCOL_TLS_SERVER else NODE,
        )

    def greet(self) -> None:
        """Do the TLS handshake."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.move()
            else:
                break
        self.move()

    def move(self) -> None:
        """Send what TLS has to send; let the host answer, and take that."""
        self.send_raw(self.outgoing.read())
        self.incoming.write(self.read_raw())

    def say(self, data: bytes) -> None:
        """Say something inside TLS."""
        if data:
            self.tls.write(data)
        self.move()

    def hear(self) -> bytes:
        """Return what the host has said inside TLS, as soon as it has said something."""
        heard = b""
        end = monotonic() + END_S
        while not heard and monotonic() < end:
            self.move()
            with contextlib.suppress(ssl.SSLError):
                while part := self.tls.read():
                    heard += part
        return heard

    def send_raw(self, data: bytes) -> None:
        """Send bytes of TCP."""
        with contextlib.suppress(ConnectionError):  # The host has ended it.
            self.sock.sendall(data)
        run(self.host)

    def read_raw(self) -> bytes:
        """Return what has come by TCP."""
        read = b""
        try:
            while part := self.sock.recv(1 << 16):
                read += part
        except OSError:
            pass  # There is no more, or the host has reset it.
        return read


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> MemberCredentials:
    return make_credentials(tmp_path_factory.mktemp("cluster") / "credentials")


@pytest.fixture(scope="session")
def other_credentials(tmp_path_factory: pytest.TempPathFactory) -> MemberCredentials:
    """Those of another cluster."""
    return make_credentials(tmp_path_factory.mktemp("other") / "credentials")


@pytest.fixture
def hosts() -> Iterator[Callable[..., Host]]:
    """Make hosts, which are closed after the test."""
    made: list[Host] = []

    def make(most: int = 256) -> Host:
        made.append(Host(most))
        return made[-1]

    yield make
    for host in made:
        host.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the quickest


class Net:
    """The above, for tests, which import no helpers."""

    Host = Host
    Stranger = Stranger
    run = staticmethod(run)
    tcp_pair = staticmethod(tcp_pair)
    descriptors = staticmethod(descriptors)

    @staticmethod
    def called(credentials: MemberCredentials, *wrap: Any) -> CalledPart:
        return CalledPart(credentials, *wrap)

    @staticmethod
    def calling(credentials: Credentials, *wrap: Any) -> CallingPart:
        return CallingPart(credentials, NODE, "10.0.0.1", 6379, *wrap)


@pytest.fixture(scope="session")
def net() -> type[Net]:
    return Net
