"""Who is connected to the daemon: drivers, workers and tools; in a cluster, others' too.

Of other nodes come guests, which are drivers and workers that want something of this node, and
daemons. A daemon that this one has called (`reach`) is a client as well, of no id: what it says is
heard, and what is sent there goes over that connection.

What is always true
1. A connection becomes a client with its Hello, which the daemon may refuse; until then it is told
   nothing.
2. A client's messages are handed on one at a time, in order; its loss after the last of them, once.
3. A peer that breaks the protocol loses its connection, and nobody else anything.
4. What is queued is sent by `flush`, one batch a client.
5. A process that connects when there are no descriptors left is turned away, and that is told; it
   ends by that, and nobody else.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from weft._transport.addresses import split
from weft._transport.sockets import Poller, SocketAcceptor, SocketConnection
from weft._wire.messages import Hello
from weft._wire.version import WIRE, check_hello
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._transport.outside import Outside
    from weft._wire.messages import Message


TOOL = "tool"
"""Role of who only looks, and has a person before it."""
GUEST, NEIGHBOUR = "guest", "daemon"
"""Roles of who comes from another node."""
_OUTSIDE = object()
"""Stands for who has called from another node, and has not said Hello yet."""


class Client:
    """A process that is connected and has said who it is."""

    __slots__ = ("address", "connection", "has_left", "pid", "role", "worker_id")

    def __init__(self, connection: SocketConnection, hello: Hello) -> None:
        self.connection = connection
        self.worker_id = hello.worker_id
        self.address = hello.address
        self.pid = hello.pid
        self.role = hello.role
        self.has_left = False
        """It has said goodbye, and is heard no more."""

    @property
    def is_local(self) -> bool:
        """Whether it is a process of this node."""
        return self.role not in {GUEST, NEIGHBOUR}

    def heard(self, hello: Hello) -> None:
        """A daemon that was called has answered."""
        self.worker_id, self.pid = hello.worker_id, hello.pid


class Clients:
    """The connections of a daemon."""

    def __init__(
        self,
        poller: Poller,
        listen_fd: int,
        *,
        met: Callable[[Client], None],
        said: Callable[[Client, Message], None],
        lost: Callable[[Client], None],
        me: Hello,
        outside: Outside | None = None,
    ) -> None:
        """`met` may raise ProtocolError to refuse a client, `said` to end its connection.

        `outside` reaches other nodes; None: there are none.
        """
        self._me = me
        self._outside = outside
        self._reached: dict[str, Client] = {}
        """Daemons of other nodes that this one has called, by address."""
        self._poller = poller
        self._met = met
        self._said = said
        self._lost_client = lost
        self._client_of: dict[bytes, Client] = {}
        self._unsent: dict[SocketConnection, None] = {}
        self._acceptor = SocketAcceptor(
            poller, socket.socket(fileno=listen_fd), self._accept, self._turned_away
        )

    def get(self, worker_id: bytes) -> Client | None:
        """Return the client of this id, if it is connected."""
        return self._client_of.get(worker_id)

    def send(self, client: Client, message: Message) -> None:
        """Queue a message; `flush` sends it."""
        client.connection.queue(message)
        self._unsent[client.connection] = None

    def send_to(self, worker_id: bytes, message: Message) -> bool:
        """Queue a message; False: that process is not connected."""
        client = self._client_of.get(worker_id)
        if client is None:
            return False
        self.send(client, message)
        return True

    def send_to_workers(self, message: Message) -> set[bytes]:
        """Queue a message to every worker; return which."""
        return self._send_to_roles({"worker"}, message)

    def send_to_runtimes(self, message: Message) -> set[bytes]:
        """Queue a message to every driver and worker; return which."""
        return self._send_to_roles({"driver", "worker"}, message)

    def _send_to_roles(self, roles: set[str], message: Message) -> set[bytes]:
        clients = [client for client in self._client_of.values() if client.role in roles]
        for client in clients:
            self.send(client, message)
        return {client.worker_id for client in clients}

    def reach(self, address: str) -> Client:
        """Return the daemon of another node, calling it if need be.

        If nobody is there, it is lost later. OSError: there is no way to that host.
        """
        client = self._reached.get(address)
        if client is None:
            assert self._outside is not None
            connection = self._outside.connect(address, self._receive, self._lost)
            client = Client(connection, Hello(WIRE, b"", address, 0, NEIGHBOUR))
            connection.peer = client
            self._reached[address] = client
            self.send(client, self._me)
        return client

    def lose_node(self, daemon: str, cause: str) -> None:
        """Another node is dead: lose all of its processes. `daemon`: the address of its own."""
        node = split(daemon).node
        for client in [*self._client_of.values(), *self._reached.values()]:
            if not client.is_local and split(client.address).node == node:
                client.connection.close()
                self._lost(client.connection, cause)

    def accept_remote(self, sock: socket.socket) -> None:
        """Take a call from another node."""
        assert self._outside is not None
        connection = self._outside.accept(sock, self._receive, self._lost)
        connection.peer = _OUTSIDE

    def flush(self) -> None:
        """Send what is queued."""
        unsent, self._unsent = self._unsent, {}
        for connection in unsent:
            connection.flush()

    def close(self, worker_id: bytes) -> None:
        """End a client's connection, if there is one, without a word to `lost`."""
        client = self._client_of.pop(worker_id, None)
        if client is not None:
            self._unsent.pop(client.connection, None)
            client.connection.close()

    def _accept(self, sock: socket.socket) -> None:
        SocketConnection(self._poller, sock, self._receive, self._lost)

    def _turned_away(self) -> None:
        print(  # noqa: T201
            "weft: a process was turned away: the daemon may have no more open files (ulimit -n)",
            file=sys.stderr,
        )

    def _receive(self, connection: SocketConnection, messages: Sequence[Message]) -> None:
        try:
            for message in messages:
                if connection.closed:
                    return
                client = connection.peer
                if isinstance(client, Client) and client.worker_id:
                    self._said(client, message)
                else:
                    self._greet(connection, check_hello(message))
        except ProtocolError as error:
            print(f"weft: a connection was closed: {error}", file=sys.stderr)  # noqa: T201
            if not isinstance(connection.peer, Client):
                # If it is of another release it can say so itself.
                connection.queue(self._me)
                connection.flush()
            connection.close()
            self._lost(connection, str(error))

    def _greet(self, connection: SocketConnection, hello: Hello) -> None:
        if isinstance(connection.peer, Client):
            connection.peer.heard(hello)
            return
        client = Client(connection, hello)
        if client.is_local == (connection.peer is _OUTSIDE):
            raise ProtocolError(f"process {hello.pid} says that it is a {hello.role}, from there")
        if hello.worker_id in self._client_of:
            raise ProtocolError(
                f"process {hello.pid} says that it is one that is connected already"
            )
        self._met(client)
        connection.peer = client
        self._client_of[client.worker_id] = client

    def _lost(self, connection: SocketConnection, reason: str) -> None:
        client = connection.peer
        if isinstance(client, Client):
            self._unsent.pop(connection, None)
            if self._reached.get(client.address) is client:
                del self._reached[client.address]
            else:
                del self._client_of[client.worker_id]
            self._lost_client(client)
