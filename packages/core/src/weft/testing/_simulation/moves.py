"""What goes from a node of a world to others, and comes from there.

Real are the machine of transfers, with pulls and offers, and the connections between daemons
(`ObjectLinks`). Modelled here is what joins them to the store (`_node/transfers.py`), and chunks:
each arrives whole, and is read where it is sent as late as can be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from weft._machines.offers import CloseSegment, OpenSegment, ReadChunk
from weft._machines.pulls import TellOwner, TellPeer
from weft._machines.transfer_events import (
    AbandonArrival,
    AnswerWant,
    AskRoom,
    BeginArrival,
    ChunkCame,
    DropCopy,
    Effect,
    Event,
    FinishCopy,
    KeepSegment,
    OwnerDied,
    ReturnRoom,
    RoomLent,
    SegmentMissing,
    SegmentReady,
)
from weft._machines.transfers import Transfers
from weft._node.object_links import ObjectLinks, check_chunk
from weft._node.transfer_news import TransferNews
from weft._override import override
from weft._store.chunks import chunk_bytes
from weft._transport.addresses import OBJECTS, split
from weft._wire.messages import Transfer
from weft._wire.parcels import Parcel
from weft._wire.transfers import (
    Chunk,
    CopyHere,
    NodeLife,
    pack_transfer,
)
from weft.testing._simulation.links import VirtualConnection
from weft.testing._simulation.promises import Broken

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._wire.transfers import Edition
    from weft.testing._simulation.daemons import VirtualDaemon
    from weft.testing._simulation.stores import Blob
    from weft.testing._simulation.world import VirtualEnd

ROOM_S = (0.0, 0.01)
"""What the store takes to lend room."""
CHECK_EVERY = 16


class _Bytes:
    """A chunk on its way: what it has, as of when it was sent and as of when it arrives."""

    def __init__(self, size_bytes: int, sender: VirtualDaemon, read: Callable[[], Any]) -> None:
        self.size_bytes = size_bytes
        self._sender = sender
        self._read = read
        self._sent = read()

    @override
    def __repr__(self) -> str:
        return f"{self.size_bytes} bytes"

    def content(self) -> Any:
        """Return what has come; None: it does not count."""
        return self._read() if self._sender.is_alive else self._sent


class _BulkConnection(VirtualConnection):
    """A connection for messages and chunks (`BulkConnection`)."""

    def __init__(self, end: VirtualEnd, receive: Any, lost: Any, sink_for: Any) -> None:
        super().__init__(end, receive, lost)
        self._sink_for = sink_for

    def send_parcel(self, tag: int, source: _Bytes) -> None:
        self.queue(source)

    @override
    def heard(self, end: VirtualEnd, message: Any) -> None:
        if not isinstance(message, _Bytes):
            super().heard(end, message)
            return
        sink = self._sink_for(Parcel(0, message.size_bytes))
        if sink is not None:
            sink.come(message.content())


class _VirtualComing:
    """An object on its way."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.chunks: dict[int, Blob] = {}


class _VirtualIncoming:
    """The bytes of one chunk, as they come (`_Incoming`)."""

    def __init__(
        self, moves: VirtualMoves, peer: NodeLife, chunk: Chunk, coming: _VirtualComing
    ) -> None:
        self._moves = moves
        self._peer = peer
        self._chunk = chunk
        self._coming = coming

    def come(self, blob: Blob | None) -> None:
        if self._moves.is_coming(self._chunk.edition, self._coming):
            if blob is not None:
                self._coming.chunks[self._chunk.index] = blob
            self._moves.chunk_came(self._peer, self._chunk, is_right=blob is not None)

    def gave_up(self) -> None:
        pass


class VirtualMoves(TransferNews):
    """The transfers of one daemon (`NodeTransfers`)."""

    def __init__(self, daemon: VirtualDaemon, tell_owner: Callable[[str, Any], bool]) -> None:
        super().__init__(lambda: daemon.world.now, daemon.send_to, checks=False)
        self._daemon = daemon
        self._tell_owner = tell_owner
        self._memory = daemon.memory
        self._coming: dict[Edition, _VirtualComing] = {}
        self._open: dict[Edition, tuple[str, Blob]] = {}
        self._opening: dict[Edition, None] = {}
        self._steps = 0
        self._begin_life(0)

    def _begin_life(self, incarnation: int) -> None:
        self._me = NodeLife(self._daemon.node_id, incarnation, split(self._daemon.address).node)
        self.machine = Transfers(self._me)
        shells: Any = self
        self.links = ObjectLinks(self._me, shells, shells)

    @property
    def life(self) -> tuple[bytes, int, str]:
        """The node's, as in NodeLife."""
        return self._me.node_id, self._me.incarnation, self._me.address

    def registered(self, incarnation: int) -> None:
        """The node is a member under this number. What it had as another one ends."""
        for owner in self.machine.owners():
            self._tell(OwnerDied(owner, "this node was declared dead"))
        for edition in list(self._open):
            self._close(edition)
        self._opening.clear()
        self.links.close()
        self._begin_life(incarnation)

    # -------------------------------------------------------------- connections (`Outside`)

    def connect_bulk(self, address: str, receive: Any, lost: Any, sink_for: Any) -> _BulkConnection:
        """Call another daemon."""
        objects = f"{split(address).node}/{OBJECTS}"
        end = self._daemon.call(objects, None, _too_early, _too_early)
        if end is None:
            raise ConnectionRefusedError("nobody is there")
        return self.accept_bulk(end, receive, lost, sink_for)

    def accept_bulk(
        self, end: VirtualEnd, receive: Any, lost: Any, sink_for: Any
    ) -> _BulkConnection:
        """Take a call, or what has been called."""
        return _BulkConnection(end, receive, lost, sink_for)

    def accept(self, end: VirtualEnd) -> None:
        """Another daemon has called for objects."""
        sock: Any = end
        self.links.accept(sock)

    # -------------------------------------------------------------- other daemons (`ChunkTaker`)

    def sink_of(self, peer: NodeLife, chunk: Chunk) -> _VirtualIncoming | None:
        """Return who takes a chunk's bytes."""
        coming = self._coming.get(chunk.edition)
        if coming is None:
            return None
        check_chunk(chunk, coming.size_bytes)
        return _VirtualIncoming(self, peer, chunk, coming)

    def is_coming(self, edition: Edition, coming: _VirtualComing) -> bool:
        """Tell whether an object is still on its way."""
        return self._coming.get(edition) is coming

    def chunk_came(self, peer: NodeLife, chunk: Chunk, *, is_right: bool) -> None:
        """All bytes of a chunk are there."""
        self._tell(ChunkCame(peer, chunk.edition, chunk.index, is_right))

    # -------------------------------------------------------------- the machine

    @override
    def _tell(self, event: Event) -> None:
        self._steps += 1
        self._checks = not self._steps % CHECK_EVERY
        super()._tell(event)

    @override
    def _do(self, effect: Effect) -> None:
        match effect:
            case TellPeer(peer, message):
                self.links.send(peer, message)
            case TellOwner(owner, message):
                if not self._tell_owner(owner, Transfer(pack_transfer(message))):
                    self.owner_lost(owner)
            case AskRoom(request):
                self._ask_room(request)
            case ReturnRoom():
                pass
            case BeginArrival(edition, _, size_bytes):
                self._coming[edition] = _VirtualComing(size_bytes)
            case AbandonArrival(edition):
                del self._coming[edition]
            case FinishCopy():
                self._finish(effect)
            case KeepSegment(name):
                self._memory.keep(name)
            case DropCopy(name):
                self._memory.discard(name)
            case AnswerWant(waiter, edition, name, failure, reason):
                here = CopyHere(edition, waiter.request, name, failure, reason)
                self._tell_client(waiter.client, Transfer(pack_transfer(here)))
                if name:
                    self._memory.restore(waiter.client, waiter.request, name)
            case OpenSegment(edition, name):
                self._opening[edition] = None
                self._daemon.later(0.0, lambda: self._opened(edition, name))
            case CloseSegment(edition):
                self._close(edition)
            case ReadChunk(peer, edition, index):
                self._read(peer, edition, index)
            case _:
                assert_never(effect)

    def _ask_room(self, request: int) -> None:
        machine = self.machine

        def lent() -> None:
            if machine is self.machine:
                self._tell(RoomLent(request))

        self._daemon.later(self._daemon.world.random.uniform(*ROOM_S), lent)

    def _finish(self, effect: FinishCopy) -> None:
        coming = self._coming.pop(effect.edition)
        blobs = list(coming.chunks.values())
        object_id = effect.edition.object_id
        if any(blob != blobs[0] for blob in blobs) or blobs[0].object_id != object_id:
            name = self._daemon.story.name_of(object_id)
            raise Broken(f"{name} has come as {blobs}", name, self._daemon.name)
        self._memory.add_copy(effect.name, blobs[0], is_kept=effect.is_kept)
        if effect.is_open:
            self._opened_file(effect.edition, effect.name)

    # -------------------------------------------------------------- what goes

    def _opened(self, edition: Edition, name: str) -> None:
        if edition not in self._opening:
            return
        del self._opening[edition]
        if name not in self._memory.owner_of:
            self._tell(SegmentMissing(edition, f"segment {name} is gone"))
            return
        self._opened_file(edition, name)
        _, blob = self._open[edition]
        self._tell(SegmentReady(edition, blob.size_bytes))

    def _opened_file(self, edition: Edition, name: str) -> None:
        files = self._memory.files
        files.open[name] = files.open.get(name, 0) + 1
        self._open[edition] = name, files.blob_of[name]

    def _close(self, edition: Edition) -> None:
        self._opening.pop(edition, None)
        opened = self._open.pop(edition, None)
        if opened is not None:
            self._memory.files.open[opened[0]] -= 1

    def _read(self, peer: NodeLife, edition: Edition, index: int) -> None:
        opened, coming = self._open.get(edition), self._coming.get(edition)
        if opened is not None:
            name, blob = opened
        elif coming is not None:
            name, blob = "", coming.chunks[index]
        else:
            # It was ended by what was done just before.
            return

        def read() -> Blob | None:
            if self._open.get(edition) == opened or self._coming.get(edition) is coming:
                # A file that was filled again has other bytes; one without a name has its own.
                return self._memory.files.blob_of.get(name, blob)
            return None

        size_bytes = chunk_bytes(blob.size_bytes, index)
        source: Any = _Bytes(size_bytes, self._daemon, read)
        self.links.send_chunk(peer, Chunk(edition, index, size_bytes), source)


def _too_early(end: VirtualEnd, what: Any) -> None:
    """Hear what comes before anybody listens: nothing does."""
    raise AssertionError(what)
