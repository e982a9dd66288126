"""The processes that this one is connected to, of this node and of others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import structs

from weft._ids import ActorId, WorkerId
from weft._override import override
from weft._transport.addresses import is_daemon, is_path, split
from weft._transport.sockets import SocketConnection, connect
from weft._wire.messages import Hello, Message
from weft._wire.version import WIRE, check_hello
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from weft._runtime.loop import Loop
    from weft._transport.addresses import Home
    from weft._transport.outside import Outside


class Peer:
    """A process at the other end of a connection. Hashable by identity."""

    __slots__ = (
        "actor_id", "address", "connection", "exported", "has_called", "is_far", "pid", "role",
        "worker_id",
    )  # fmt: skip

    def __init__(self, address: str, *, is_far: bool = False) -> None:
        self.address = address
        self.is_far = is_far
        """It is on another node: it cannot read segments of this one."""
        self.has_called = not address
        """It has opened the connection."""
        self.worker_id = WorkerId.nil()
        self.actor_id = ActorId.nil()
        """The actor that it is, if this process calls it."""
        self.pid = 0
        self.role = ""
        self.exported: set[bytes] = set()
        """The functions whose code it has."""
        self.connection: SocketConnection

    @property
    def connects_to_daemon(self) -> bool:
        """Whether it is the daemon of another node, which this process has called."""
        return is_daemon(self.address) and not self.has_called

    @override
    def __repr__(self) -> str:
        return f"{self.role or 'peer'} {self.address}"


class Peers:
    """Opens, accepts and keeps connections; joins what is sent between two flushes.

    The loop's guard is held throughout.
    """

    def __init__(
        self,
        loop: Loop,
        me: Hello,
        received: Callable[[Peer, Sequence[Message]], None],
        lost: Callable[[Peer, str], None],
        *,
        home: Home,
        outside: Outside | None = None,
    ) -> None:
        """`outside` reaches processes of other nodes; None: there are none."""
        self._loop = loop
        self._me = me
        self._home = home
        self._outside = outside
        self._received = received
        self._lost = lost
        self.by_address: dict[str, Peer] = {}
        self._all: set[Peer] = set()
        self._unflushed: list[Peer] = []

    def connect(self, address: str) -> Peer | None:
        """Return the peer at `address`, connecting if need be.

        None if nobody listens there any more. Of another node that is not known at once: if so, the
        peer is lost later.
        """
        peer = self.by_address.get(address)
        if peer is None:
            path = self._home.path_of(address)
            try:
                peer = self._join(address) if path is None else self._add(connect(path), address)
            except OSError:
                return None
            self.by_address[address] = peer
        return peer

    def accept(self, sock: socket.socket) -> None:
        """Take a connection that a process of this node opened; it says who it is in its Hello."""
        self._add(sock, "")

    def accept_remote(self, sock: socket.socket) -> None:
        """Take one that a process of another node opened."""
        assert self._outside is not None
        self._begin(
            Peer("", is_far=True),
            self._outside.accept(sock, self._on_messages, self._on_lost),
            self._me,
        )

    def _add(self, sock: socket.socket, address: str) -> Peer:
        connection = SocketConnection(self._loop.poller, sock, self._on_messages, self._on_lost)
        return self._begin(Peer(address), connection, self._me)

    def _join(self, address: str) -> Peer:
        if self._outside is None:
            raise ConnectionRefusedError(f"{address} is of a cluster, and this process is of none")
        me = structs.replace(self._me, role="guest") if is_daemon(address) else self._me
        connection = self._outside.connect(address, self._on_messages, self._on_lost)
        return self._begin(Peer(address, is_far=True), connection, me)

    def _begin(self, peer: Peer, connection: SocketConnection, me: Hello) -> Peer:
        peer.connection = connection
        connection.peer = peer
        self._all.add(peer)
        connection.queue(me)
        connection.flush()
        return peer

    def _on_messages(self, connection: SocketConnection, messages: Sequence[Message]) -> None:
        peer = connection.peer
        assert isinstance(peer, Peer)
        if not peer.role:
            try:
                hello = check_hello(messages[0])
            except ProtocolError as error:
                connection.close()
                self._on_lost(connection, str(error))
                return
            peer.role, peer.pid, peer.worker_id = hello.role, hello.pid, WorkerId(hello.worker_id)
            if not peer.address:
                peer.address = hello.address
                # A daemon that has called speaks about objects. Who asks it for something says so
                # in a Hello of its own, as a guest.
                if not is_daemon(peer.address):
                    self.by_address.setdefault(peer.address, peer)
            messages = messages[1:]
        if messages:
            self._received(peer, messages)

    def _on_lost(self, connection: SocketConnection, reason: str) -> None:
        peer = connection.peer
        assert isinstance(peer, Peer)
        self._all.discard(peer)
        if self.by_address.get(peer.address) is peer:
            del self.by_address[peer.address]
        self._lost(peer, reason)

    def lose_node(self, daemon: str, cause: str) -> None:
        """Another node is dead: lose all of its processes; the daemon first, which is given."""
        node = split(daemon).node
        lost = [peer for peer in self._all if not is_path(peer.address)]
        lost = [peer for peer in lost if split(peer.address).node == node]
        for peer in sorted(lost, key=lambda each: not each.connects_to_daemon):
            self.lose(peer, cause)

    def lose(self, peer: Peer, cause: str) -> None:
        """Hear nothing more of a process: it is lost, if it was not before."""
        if peer in self._all:
            peer.connection.close()
            self._on_lost(peer.connection, cause)

    def send(self, peer: Peer, message: Message) -> None:
        """Queue a message; it goes with the next flush."""
        if not peer.connection.queued:
            self._unflushed.append(peer)
        peer.connection.queue(message)

    def flush(self) -> None:
        """Send all that is queued."""
        if self._unflushed:
            peers, self._unflushed = self._unflushed, []
            for peer in peers:
                peer.connection.flush()

    def drain(self) -> None:
        """Send all that is queued, waiting for peers that are slow to take it."""
        self.flush()
        for peer in self._all:
            peer.connection.drain()

    def abandon(self) -> None:
        """Let go of the connections in a forked child; the parent goes on with them."""
        for peer in self._all:
            peer.connection.abandon()

    def close(self) -> None:
        """End every connection."""
        self.flush()
        for peer in self._all:
            peer.connection.close()
        self._all.clear()
        self.by_address.clear()


def hello(worker_id: WorkerId, address: str, role: str) -> Hello:
    """Return this process's Hello."""
    return Hello(WIRE, worker_id, address, os.getpid(), role)
