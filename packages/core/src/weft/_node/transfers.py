"""Objects that come from other nodes and go there: the shell round the machine of transfers.

To the store the daemon is a process like others: it is lent memory, makes segments and opens them.
What a copy is called, and what is open, is kept here; where chunks go, object_links.py knows.

    a process:  WantCopy -> ... pulled -> CopyHere, Restored -> it maps the copy
    its end:    the store has no room (CopiesDropped), or the owner says so (EndCopy)

What is always true
1. A file that is being received has a loan, or is on disk. Both are returned if it does not come.
2. What is sent is read only while its segment is open here, and so is not filled anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from weft import _settings
from weft._clock import monotonic
from weft._machines.offers import CloseSegment, OpenSegment, ReadChunk
from weft._machines.pulls import TellOwner, TellPeer
from weft._machines.transfer_events import (
    AbandonArrival,
    AnswerWant,
    ArrivalFailed,
    AskRoom,
    BeginArrival,
    ChunkBroken,
    ChunkCame,
    DropCopy,
    Effect,
    FinishCopy,
    KeepSegment,
    OwnerDied,
    ReturnRoom,
    RoomLent,
    RoomRefused,
    SegmentMissing,
    SegmentReady,
)
from weft._machines.transfers import Transfers
from weft._node.object_links import ObjectLinks, check_chunk
from weft._node.transfer_news import TransferNews
from weft._override import override
from weft._store.chunks import BUFFER_BYTES, Arrival, ChunkFile, chunk_bytes
from weft._store.shared_memory import size_class
from weft._store.spill import SpillError, SpillPlace
from weft._wire.messages import (
    AskLoan,
    Discard,
    Evict,
    Evicted,
    Loan,
    LoanReturned,
    MadeSegment,
    Recall,
    Restore,
    Restored,
    SegmentsClosed,
    SegmentsMade,
    SegmentsOpened,
    Transfer,
)
from weft._wire.transfers import (
    Chunk,
    CopyHere,
    NodeLife,
    pack_transfer,
)
from weft.exceptions import StoreFullError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from weft._machines.segments import ClientMessage
    from weft._node.memory import NodeMemory
    from weft._store.chunks import Landing
    from weft._transport.outside import Outside
    from weft._wire.messages import Message
    from weft._wire.transfers import Edition

LABEL = "a copy from another node"


class _Granted:
    """What the store has lent for the next object."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        """Of its segment; 0: it goes to disk."""
        self.file = ""
        """One to make it of."""


class _Coming:
    """An object on its way."""

    def __init__(self, size_bytes: int, segment_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.segment_bytes = segment_bytes
        """Of its loan; 0: it goes to disk."""
        self.arrival: Arrival | None = None
        """None: it could not be made."""


class _Open:
    """A segment whose chunks are sent."""

    def __init__(self, name: str, file: ChunkFile, *, is_mapped: bool) -> None:
        self.name = name
        self.file = file
        self.is_mapped = is_mapped
        """The store knows of it."""


class NodeTransfers(TransferNews):
    """What goes from this node to others and comes from there."""

    def __init__(
        self,
        life: tuple[bytes, int, str],
        memory: NodeMemory,
        outside: Outside,
        *,
        store_dir: str,
        tell_client: Callable[[bytes, Message], bool],
        tell_owner: Callable[[str, Transfer], bool],
    ) -> None:
        """`life` is the node's, as in NodeLife.

        Both functions queue a message; False: that process is not there.
        """
        super().__init__(monotonic, tell_client, checks=_settings.CHECK.value())
        self._me = NodeLife(*life)
        self.machine = Transfers(self._me)
        self._outside = outside
        self._memory = memory
        self._store_dir = Path(store_dir)
        self._tell_owner = tell_owner
        self.links = ObjectLinks(self._me, outside, self)
        self._asked_bytes = 0
        """Of the loan that the store was asked for."""
        self._granted: _Granted | None = None
        self._coming: dict[Edition, _Coming] = {}
        self._open: dict[Edition, _Open] = {}
        self._opening: dict[int, tuple[Edition | None, str]] = {}
        """By request, what is to be opened; None: nobody waits for it any more."""
        self._requests = 0
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._stale_loans = 0
        """How many were asked for in an earlier life, and are to come."""
        memory.serve(self._me.node_id, heard=self._store_said, dropped=self.dropped)

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
        self._opening = {request: (None, name) for request, (_, name) in self._opening.items()}
        if self._asked_bytes:
            self._stale_loans += 1
        self.links.close()
        self._me = NodeLife(self._me.node_id, incarnation, self._me.address)
        self.machine = Transfers(self._me)
        self.links = ObjectLinks(self._me, self._outside, self)

    def accept(self, sock: socket.socket) -> None:
        """Take a call of another daemon."""
        self.links.accept(sock)

    def flush(self) -> None:
        """Send what is queued."""
        self.links.flush()

    def close(self) -> None:
        """End the connections, and leave the files."""
        self.links.close()
        for opened in self._open.values():
            opened.file.close()
        for coming in self._coming.values():
            if coming.arrival is not None:
                coming.arrival.abandon()

    # -------------------------------------------------------------- of other daemons (ChunkTaker)

    def sink_of(self, peer: NodeLife, chunk: Chunk) -> _Incoming | None:
        """Return who takes a chunk's bytes."""
        coming = self._coming.get(chunk.edition)
        if coming is None or coming.arrival is None:
            return None
        check_chunk(chunk, coming.size_bytes)
        landing = coming.arrival.begin(chunk.index, self._buffer)
        return _Incoming(self, peer, chunk, coming.arrival, landing)

    def is_coming(self, edition: Edition, arrival: Arrival) -> bool:
        """Tell whether an object is still on its way."""
        coming = self._coming.get(edition)
        return coming is not None and coming.arrival is arrival

    def chunk_came(self, peer: NodeLife, edition: Edition, index: int, *, is_right: bool) -> None:
        """All bytes of a chunk are there."""
        self._tell(ChunkCame(peer, edition, index, is_right))

    def chunk_failed(self, edition: Edition, error: str) -> None:
        """There is no room for a chunk's bytes."""
        self._tell(ArrivalFailed(edition, error))

    def chunk_broken(self, edition: Edition, error: str) -> None:
        """A chunk that is to be sent cannot be read."""
        self._tell(ChunkBroken(edition, error))

    # -------------------------------------------------------------- the store

    def _store(self, message: ClientMessage) -> None:
        self._memory.said_here(message)

    def _store_said(self, message: Message) -> None:
        match message:
            case Loan():
                self._lent(message)
            case Recall():
                # All is in use, or about to be.
                self._store(LoanReturned(0))
            case Evict(names):
                opened = {each.name for each in self._open.values() if each.is_mapped}
                self._store(
                    Evicted(
                        [name for name in names if name not in opened],
                        [name for name in names if name in opened],
                    )
                )
            case Restored():
                self._opened(message)
            case _:
                raise TypeError(f"the store said {message!r} to the daemon")

    def _lent(self, loan: Loan) -> None:
        if self._stale_loans:
            self._stale_loans -= 1
            self._store(LoanReturned(loan.size_bytes))
            return
        asked, self._asked_bytes = self._asked_bytes, 0
        if loan.error:
            self._tell(RoomRefused(loan.request, loan.error))
            return
        granted = self._granted = _Granted(0 if loan.directory else asked)
        granted.file = loan.file
        if loan.size_bytes > granted.size_bytes:
            self._store(LoanReturned(loan.size_bytes - granted.size_bytes))
        self._tell(RoomLent(loan.request, loan.directory))

    def _opened(self, restored: Restored) -> None:
        edition, name = self._opening.pop(restored.request)
        facts = self._memory.machine.facts(name)
        if edition is None:
            if not restored.error and not restored.path:
                self._store(SegmentsClosed([name]))
            return
        if restored.error or facts is None:
            self._tell(SegmentMissing(edition, restored.error or f"segment {name} is gone"))
            return
        size_bytes = facts.object_bytes
        try:
            if not restored.path:
                file = ChunkFile.open(self._store_dir / name, size_bytes)
            elif facts.checksum is None:
                file = ChunkFile.open(Path(restored.path), size_bytes)
            else:
                place = SpillPlace(restored.offset, size_bytes, facts.checksum)
                file = ChunkFile.open_spilled(Path(restored.path), place)
        except (OSError, SpillError) as error:
            if not restored.path:
                self._store(SegmentsClosed([name]))
            self._tell(SegmentMissing(edition, str(error)))
            return
        is_mapped = not restored.path
        if is_mapped:
            self._store(SegmentsOpened([name]))
        self._open[edition] = _Open(name, file, is_mapped=is_mapped)
        self._tell(SegmentReady(edition, size_bytes))

    # -------------------------------------------------------------- the machine

    @override
    def _do(self, effect: Effect) -> None:
        match effect:
            case TellPeer(peer, message):
                self.links.send(peer, message)
            case TellOwner(owner, message):
                if not self._tell_owner(owner, Transfer(pack_transfer(message))):
                    self.owner_lost(owner)
            case AskRoom(request, size_bytes):
                self._asked_bytes = size_class(size_bytes)
                self._store(AskLoan(request, self._asked_bytes))
            case ReturnRoom():
                self._return_room()
            case BeginArrival():
                self._begin(effect)
            case AbandonArrival(edition):
                self._abandon(edition)
            case FinishCopy():
                self._finish(effect)
            case KeepSegment(name):
                self._memory.note_copy(name, is_elsewhere=False)
            case DropCopy(name):
                self._store(Discard([name]))
            case AnswerWant():
                self._answer(effect)
            case OpenSegment(edition, name):
                self._requests += 1
                self._opening[self._requests] = (edition, name)
                self._store(Restore(self._requests, name))
            case CloseSegment(edition):
                self._close(edition)
            case ReadChunk(peer, edition, index):
                self._read(peer, edition, index)
            case _:
                assert_never(effect)

    # -------------------------------------------------------------- what comes

    def _return_room(self) -> None:
        granted, self._granted = self._granted, None
        assert granted is not None
        if granted.file:
            (self._store_dir / granted.file).unlink(missing_ok=True)
        if granted.size_bytes:
            self._store(LoanReturned(granted.size_bytes))

    def _begin(self, effect: BeginArrival) -> None:
        granted, self._granted = self._granted, None
        assert granted is not None
        coming = _Coming(effect.size_bytes, granted.size_bytes)
        self._coming[effect.edition] = coming
        directory = Path(effect.directory) if effect.directory else self._store_dir
        over = self._store_dir / granted.file if granted.file else None
        try:
            coming.arrival = Arrival(
                directory / effect.name,
                effect.size_bytes,
                segment_bytes=granted.size_bytes,
                over=over,
            )
        except StoreFullError as error:
            self._tell(ArrivalFailed(effect.edition, str(error)))

    def _abandon(self, edition: Edition) -> None:
        coming = self._coming.pop(edition)
        if coming.arrival is not None:
            coming.arrival.abandon()
        if coming.segment_bytes:
            self._store(LoanReturned(coming.segment_bytes))

    def _finish(self, effect: FinishCopy) -> None:
        coming = self._coming.pop(effect.edition)
        arrival = coming.arrival
        assert arrival is not None
        file = arrival.finish()
        is_on_disk = not coming.segment_bytes
        made = MadeSegment(
            effect.name,
            coming.segment_bytes or coming.size_bytes,
            coming.size_bytes,
            self._me.node_id,
            LABEL,
            "",
            is_on_disk,
        )
        self._store(SegmentsMade([made]))
        if effect.is_open:
            self._open[effect.edition] = _Open(effect.name, file, is_mapped=not is_on_disk)
            if not is_on_disk:
                self._store(SegmentsOpened([effect.name]))
        else:
            file.close()
        if not is_on_disk:
            self._store(Evicted([effect.name], []))
        self._memory.note_copy(effect.name, is_elsewhere=not effect.is_kept)

    def _answer(self, effect: AnswerWant) -> None:
        client, request = effect.waiter.client, effect.waiter.request
        here = CopyHere(effect.edition, request, effect.name, effect.failure, effect.reason)
        self._tell_client(client, Transfer(pack_transfer(here)))
        if effect.name:
            self._memory.restore_copy(client, request, effect.name)

    # -------------------------------------------------------------- what goes

    def _close(self, edition: Edition) -> None:
        opened = self._open.pop(edition, None)
        if opened is None:
            for request, (opening, name) in self._opening.items():
                if opening == edition:
                    self._opening[request] = (None, name)
            return
        opened.file.close()
        if opened.is_mapped:
            self._store(SegmentsClosed([opened.name]))

    def _read(self, peer: NodeLife, edition: Edition, index: int) -> None:
        opened, coming = self._open.get(edition), self._coming.get(edition)
        if opened is not None:
            file = opened.file
        elif coming is not None and coming.arrival is not None:
            file = coming.arrival.file
        else:
            # It was ended by what was done just before.
            return
        source = _Outgoing(self, edition, index, file)
        self.links.send_chunk(peer, Chunk(edition, index, source.size_bytes), source)


class _Outgoing:
    """The bytes of one chunk, as they go: a ParcelSource of bulk.py."""

    def __init__(
        self, transfers: NodeTransfers, edition: Edition, index: int, file: ChunkFile
    ) -> None:
        self.size_bytes = chunk_bytes(file.size_bytes, index)
        self._transfers = transfers
        self._edition = edition
        self._index = index
        self._file = file

    def read_into(self, buffer: memoryview, at: int) -> int:
        """Put bytes from `at` on into a buffer; return how many. 0: they are gone."""
        try:
            return len(self._file.read_into(buffer, self._index, at))
        except SpillError as error:
            self._fail(error)
            return 0

    def send(self, socket_fd: int, at: int) -> int:
        """Have the kernel send bytes from `at` on; return how many. 0: they are gone."""
        try:
            return self._file.send(socket_fd, self._index, at)
        except SpillError as error:
            self._fail(error)
            return 0

    def _fail(self, error: SpillError) -> None:
        # Of a file that was closed nobody is served any more.
        if not self._file.closed:
            self._transfers.chunk_broken(self._edition, str(error))


class _Incoming:
    """The bytes of one chunk, as they come."""

    def __init__(
        self,
        transfers: NodeTransfers,
        peer: NodeLife,
        chunk: Chunk,
        arrival: Arrival,
        landing: Landing,
    ) -> None:
        self._transfers = transfers
        self._peer = peer
        self._chunk = chunk
        self._arrival = arrival
        self._landing: Landing | None = landing
        """None: the rest goes nowhere."""
        self._left = chunk.size_bytes
        self._buffer = landing.window()

    def window(self) -> memoryview:
        """Return where the next bytes go."""
        return self._buffer[: self._left]

    def took(self, size_bytes: int) -> None:
        """So many came."""
        self._left -= size_bytes
        if (landing := self._wanted()) is not None:
            try:
                landing.took(size_bytes)
            except StoreFullError as error:
                self._fail(error)

    def ended(self, *, is_whole: bool) -> None:
        """All have come, and count or not."""
        if (landing := self._wanted()) is not None:
            try:
                landing.ended(is_whole=is_whole)
            except StoreFullError as error:
                self._fail(error)
            else:
                self._landing = None
                self._transfers.chunk_came(
                    self._peer, self._chunk.edition, self._chunk.index, is_right=landing.is_right
                )

    def _wanted(self) -> Landing | None:
        if not self._transfers.is_coming(self._chunk.edition, self._arrival):
            self._landing = None
        return self._landing

    def _fail(self, error: StoreFullError) -> None:
        self._landing = None
        self._transfers.chunk_failed(self._chunk.edition, str(error))

    def gave_up(self) -> None:
        """No more bytes come: the connection broke."""
        if (landing := self._wanted()) is not None:
            landing.give_up()
