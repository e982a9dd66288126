"""Connections to other nodes' daemons over which objects go: messages, and chunks behind them.

For each node there are two at most: this daemon has called one, to take chunks from there; the
other daemon has called one, to take them from here. So what is asked, and what is answered to it,
keep their order on one connection. Neither is opened before it is needed.

What is always true
1. If one of the two breaks, the other is closed, and the loss is told once: before anything that
   the next one brings.
2. A connection that was called says first which life of its node it is; a call for another life is
   given up, as nobody is there. A life without a node's id is whichever has that address.
3. Bytes come only behind the Chunk that announces them.
4. At most `KEY_BYTES` of chunks are encrypted with one key: then the connections are made anew.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Protocol

from weft._store.chunks import chunk_bytes
from weft._transport.addresses import OBJECTS
from weft._wire.messages import Hello, Transfer
from weft._wire.transfers import (
    AskChunks,
    Chunk,
    EndChunks,
    MoreChunks,
    NoCopy,
    NodeLife,
    SendChunk,
    ServesOthers,
    Serving,
    pack_transfer,
    unpack_transfer,
)
from weft._wire.version import WIRE, check_hello
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from weft._transport.bulk import BulkConnection, ParcelSource
    from weft._transport.outside import Outside
    from weft._wire.messages import Message
    from weft._wire.parcels import Parcel
    from weft._wire.transfers import PeerMessage, Spoken

KEY_BYTES = 1 << 38
"""AES-GCM is good for 2^24.5 full records (RFC 8446, 5.5), which are 388 GB."""

_OF_PULLER = (AskChunks, EndChunks, SendChunk)
_OF_PEERS = (*_OF_PULLER, Serving, ServesOthers, MoreChunks, NoCopy)


class ChunkSink(Protocol):
    """Takes the bytes of one chunk: a Sink of bulk.py."""

    def window(self) -> memoryview:
        """Return where the next bytes go."""
        ...

    def took(self, size_bytes: int) -> None:
        """So many came into the window."""
        ...

    def ended(self, *, is_whole: bool) -> None:
        """All have come, and count or not."""
        ...

    def gave_up(self) -> None:
        """The connection broke. Also told when all had come."""
        ...


class ChunkTaker(Protocol):
    """Who gets what these connections bring. In the daemon's loop."""

    def peer_said(self, peer: NodeLife, message: PeerMessage) -> None:
        """Another daemon has said something. ProtocolError: it cannot be; its connection ends."""
        ...

    def sink_of(self, peer: NodeLife, chunk: Chunk) -> ChunkSink | None:
        """Return who takes a chunk's bytes; None: they are not wanted. ProtocolError: as above."""
        ...

    def peer_cut(self, peer: NodeLife) -> None:
        """The connections to another daemon broke, or there is none."""
        ...


class ObjectLinks:
    """All of them, of one daemon in one life of its node."""

    def __init__(self, me: NodeLife, outside: Outside, taker: ChunkTaker) -> None:
        self._me = me
        self._outside = outside
        self._taker = taker
        self._called: dict[NodeLife, _NodeLink] = {}
        self._callers: dict[NodeLife, _NodeLink] = {}
        self._strangers: set[_NodeLink] = set()
        """Who has called and has not said who it is."""
        self._unsent: dict[_NodeLink, None] = {}

    def send(self, peer: NodeLife, message: PeerMessage) -> None:
        """Queue a message; `flush` sends it. It is lost if the connection breaks."""
        if isinstance(message, _OF_PULLER):
            link = self._called.get(peer)
            if link is None and not isinstance(message, EndChunks):
                link = self._call(peer)
        else:
            link = self._callers.get(peer)
        if link is not None:
            self._queue(link, message)

    def send_chunk(self, peer: NodeLife, chunk: Chunk, source: ParcelSource) -> None:
        """Queue a chunk."""
        link = self._callers.get(peer)
        if link is None:
            return
        link.sent_bytes += chunk.size_bytes
        if link.sent_bytes > KEY_BYTES:
            # Who pulls asks again.
            self.cut(peer)
            return
        self._queue(link, chunk)
        link.connection.send_parcel(0, source)

    def _queue(self, link: _NodeLink, message: Spoken) -> None:
        link.connection.queue(Transfer(pack_transfer(message)))
        self._unsent[link] = None

    def flush(self) -> None:
        """Send what is queued."""
        while self._unsent:
            unsent, self._unsent = self._unsent, {}
            for link in unsent:
                link.connection.flush()

    def peers_at(self, address: str) -> list[NodeLife]:
        """Return what a node is known as to which there is a connection."""
        return [peer for peer in {**self._called, **self._callers} if peer.address == address]

    def forget(self, peer: NodeLife) -> None:
        """A node is dead: end what leads there, without a word."""
        for links in (self._called, self._callers):
            link = links.pop(peer, None)
            if link is not None:
                self._unsent.pop(link, None)
                link.close()

    def close(self) -> None:
        """End all."""
        for peer in (*self._called, *self._callers):
            self.forget(peer)
        for link in self._strangers:
            link.close()
        self._strangers.clear()

    # -------------------------------------------------------------- calls

    def _call(self, peer: NodeLife) -> _NodeLink | None:
        link = _NodeLink(self, peer)
        try:
            link.connection = self._outside.connect_bulk(
                f"{peer.address}/{OBJECTS}", link.receive, link.lost, link.sink_for
            )
        except OSError:
            self.cut(peer)
            return None
        self._called[peer] = link
        self._greet(link)
        return link

    def accept(self, sock: socket.socket) -> None:
        """Take a call."""
        link = _NodeLink(self, None)
        link.connection = self._outside.accept_bulk(sock, link.receive, link.lost, link.sink_for)
        self._strangers.add(link)
        self._greet(link)

    def _greet(self, link: _NodeLink) -> None:
        me = self._me
        hello = Hello(WIRE, me.node_id, me.address, os.getpid(), "daemon", me.incarnation)
        link.connection.queue(hello)
        self._unsent[link] = None

    def met(self, link: _NodeLink, hello: Hello) -> None:
        """The peer has said who it is."""
        life = NodeLife(hello.worker_id, hello.incarnation, hello.address)
        if hello.role != "daemon":
            raise ProtocolError(f"a {hello.role} called for objects")
        if link.peer is not None:
            if link.peer.node_id and life != link.peer:
                raise ProtocolError(f"node {link.peer} was called, and {life} is there")
            return
        if life in self._callers:
            # What is left of the last one is lost.
            self.cut(life)
        self._strangers.discard(link)
        link.peer = life
        self._callers[life] = link

    def said(self, peer: NodeLife, message: PeerMessage) -> None:
        """Hand on what a peer has said."""
        self._taker.peer_said(peer, message)

    def sink_of(self, peer: NodeLife, chunk: Chunk) -> ChunkSink | None:
        """Return who takes a chunk's bytes."""
        return self._taker.sink_of(peer, chunk)

    # -------------------------------------------------------------- the end of some

    def lost(self, link: _NodeLink, reason: str) -> None:
        """A connection broke."""
        self._unsent.pop(link, None)
        self._strangers.discard(link)
        peer = link.peer
        if peer is not None and link in (self._called.get(peer), self._callers.get(peer)):
            self.cut(peer)

    def cut(self, peer: NodeLife) -> None:
        """End what leads to a node, and tell."""
        self.forget(peer)
        self._taker.peer_cut(peer)


class _NodeLink:
    """One connection."""

    connection: BulkConnection

    def __init__(self, links: ObjectLinks, peer: NodeLife | None) -> None:
        self.peer = peer
        """None: it has called, and not said who it is."""
        self.sent_bytes = 0
        """Of chunks."""
        self._links = links
        self._has_greeted = False
        self._coming: Chunk | None = None
        """The chunk whose bytes are next."""
        self._sink: ChunkSink | None = None
        """Who took the last ones, or takes them."""

    def receive(self, connection: object, messages: Sequence[Message]) -> None:
        try:
            for message in messages:
                if self.connection.closed:
                    return
                self._take(message)
        except ProtocolError as error:
            print(f"weft: a connection was closed: {error}", file=sys.stderr)  # noqa: T201
            self.connection.close()
            self.lost(connection, str(error))

    def _take(self, message: Message) -> None:
        if not self._has_greeted:
            self._links.met(self, check_hello(message))
            self._has_greeted = True
            return
        if not isinstance(message, Transfer):
            raise ProtocolError(f"{type(message).__name__} came among objects")
        assert self.peer is not None
        said = unpack_transfer(message.body)
        if isinstance(said, Chunk):
            self._coming = said
        elif isinstance(said, _OF_PEERS):
            self._links.said(self.peer, said)
        else:
            raise ProtocolError(f"{type(said).__name__} came among objects")

    def sink_for(self, parcel: Parcel) -> ChunkSink | None:
        chunk, self._coming = self._coming, None
        if chunk is None or self.peer is None or chunk.size_bytes != parcel.size:
            raise ProtocolError(f"a parcel of {parcel.size} bytes came without its message")
        self._sink = self._links.sink_of(self.peer, chunk)
        return self._sink

    def lost(self, connection: object, reason: str) -> None:
        self._give_up()
        self._links.lost(self, reason)

    def close(self) -> None:
        self._give_up()
        self.connection.close()

    def _give_up(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.gave_up()


def check_chunk(chunk: Chunk, size_bytes: int) -> None:
    """See whether a chunk can be one of an object. ProtocolError: it cannot."""
    if (
        chunk.index < 0
        or not chunk.size_bytes
        or chunk.size_bytes != chunk_bytes(size_bytes, chunk.index)
    ):
        raise ProtocolError(
            f"chunk {chunk.index} of {chunk.size_bytes} bytes is none of {chunk.edition}"
        )
