from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import pytest

from weft._override import override
from weft._transport.arrivals import Arrivals
from weft._transport.credentials import NODE, make_credentials
from weft._transport.opening import CalledPart, CallingPart
from weft._transport.secure import SecureConnection
from weft._transport.sockets import Poller
from weft.testing.transport_suite import End, TransportSuite

if TYPE_CHECKING:
    from weft._transport.base import Connection
    from weft._transport.credentials import MemberCredentials


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> MemberCredentials:
    return make_credentials(tmp_path_factory.mktemp("cluster") / "credentials")


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        caller = socket.create_connection(listening.getsockname())
        called, _ = listening.accept()
    for sock in (caller, called):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return caller, called


def run(*pollers: Poller) -> None:
    """Let everything happen that can: what TCP has on its way is here within the time."""
    outer = select.poll()
    for poller in pollers:
        outer.register(poller, select.POLLIN)
    while outer.poll(20):
        for poller in pollers:
            poller.poll(0)


class TestSecure(TransportSuite):
    """Two processes, as it were: each end has a poller of its own."""

    credentials: MemberCredentials

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _have_credentials(cls, credentials: MemberCredentials) -> None:
        cls.credentials = credentials

    @override
    def connect(self, first: End, second: End) -> tuple[Connection, Connection]:
        self.pollers = [Poller(), Poller()]
        caller, called = tcp_pair()
        arrivals = Arrivals(lambda _delay_s, _function: None)
        ends = (
            SecureConnection(
                self.pollers[0],
                caller,
                first.receive,
                first.lost,
                part=CallingPart(self.credentials, NODE, "127.0.0.1", 1),
                arrivals=arrivals,
            ),
            SecureConnection(
                self.pollers[1],
                called,
                second.receive,
                second.lost,
                part=CalledPart(self.credentials),
                arrivals=arrivals,
            ),
        )
        run(*self.pollers)
        assert len(arrivals) == 0
        return ends

    @override
    def move(self) -> None:
        run(*self.pollers)

    @override
    def disconnect(self) -> None:
        super().disconnect()
        for poller in self.pollers:
            poller.close()
