"""One node's shared memory: what is lent to whom, what goes to disk, and who waits for room.

    memory -> asked -> idle -> spilling -> disk -> waiting -> restoring -> promised -> memory

    asked -> viewed                  somebody has views of it; others go first
    asked -> disk                    it has a copy there already
    asked -> (dropped)               another node keeps the object; else it is as in memory
    asked, idle, spilling -> memory  it was opened meanwhile; or wanted, then -> promised
    waiting -> disk                  no room will come: it is read where it lies
    waiting -> fetching -> file      the same, and it lies elsewhere: it is fetched to this disk
    restoring -> disk, fetching      the file system has less room than the budget
    fetching -> waiting              nor has the disk: it is tried again
    restoring -> lost                its copy cannot be read
    file                             it was made on disk, and stays there

The file of a segment that goes to disk is vacant: it is kept under another name for the next
restore or loan of its size, since pages that exist are filled four times as fast as fresh ones.
Such files are there while objects take more than half of the budget, and for at most `VACANT_S`
after the last was of use: who drops his objects gives all of the memory back at once. So is the
file of a copy that goes: the next one from another node is often as large, and comes soon.

The loan of a process pays for the segments that it made, until it gives them up (`Evicted`) or
ends. What is spare of it is recalled when others need it, or when it made nothing for `REST_S`. A
segment that was restored keeps its copy on disk, so that it goes again without a write.

Room comes first from spare memory (`Recall`), then from copies of what other nodes keep, then from
the segments that were used least recently.
Restores go before loans, but only `MAX_PASSES` of them pass one loan. When all that is left is
viewed, the first in line is served on disk: by a loan there, or by the place of the copy.

What is always true
1. Lending and restoring never take more than the budget. Used bytes exceed it only by unlinked
   files that are mapped, of which the machine may hear late.
2. A file is unlinked when no living process keeps its segment, and then only if its copy is on disk
   or its object was dropped; and not between Restored and the reader's next word.
3. The first in line waits only while what is on its way makes room enough for it: memory that was
   recalled, segments that were asked for or are written. Each of these comes to an end, or is not
   counted on after `ANSWER_S`.
4. Only a segment that no process has is written; at most `MAX_BATCHES` files at a time, each of one
   segment or of at most `BATCH_BYTES`.
5. A spill file is deleted when the last of its objects is dropped, not before: so a living object
   keeps at most `BATCH_BYTES` of dead ones on disk.
6. A file becomes vacant when no process has it, nor can come to have it: the shell sees to that
   (`VacateFiles`). It counts like what is used; it goes before anybody waits for its room. What
   nobody has and is not kept is vacant for a moment, too: so it may be cut before it is removed.
What is true of the table of segments stands in holdings.py. The rest is one file, for whatever
happens changes the room, and who waits is served after every event.

Order of effects: files are unlinked and swept before their room is lent; Evict and Unlink are last.

It does not count a mapping of which it hears after the object and its file are gone; it asks that
back.

`wake_at` says when `SegmentsTicked` is due.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, TypeVar, assert_never

import msgspec

from weft._machines.holdings import (
    Account,
    Copy,
    Holdings,
    SegmentEntry,
    SegmentFacts,
    SpillFile,
    StoreUsage,
)
from weft._wire.messages import (
    OVERDRAWN,
    AskLoan,
    Discard,
    Evict,
    Evicted,
    Loan,
    LoanReturned,
    MadeSegment,
    Orphaned,
    Recall,
    Restore,
    Restored,
    SegmentsClosed,
    SegmentsFree,
    SegmentsMade,
    SegmentsOpened,
    Spill,
    Spilled,
    Unlink,
    Unspill,
    Unspilled,
)
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft._machines.holdings import Group

K = TypeVar("K", bytes, str)

# Shares of the budget that objects take. Above the high mark they are written ahead of need, down
# to the low one: so a put seldom waits for the disk, and what fits easily is never written.
HIGH_MARK = 0.8
LOW_MARK = 0.7
# Who lacks one byte makes others give up this share of the budget: the round of questions that
# frees a byte frees many.
STEP_SHARE = 32
# A loan is at most doubled by what nobody asked for, and takes this share of what is free.
SURPLUS_SHARE = 8
# Large enough for a disk's full speed, small enough to be done soon.
BATCH_BYTES = 64 * 1024 * 1024
# One is written while the next is read from memory.
MAX_BATCHES = 2
# So much is on its way to disk ahead of need: what is written, and the next. What its creator gave
# up early it cannot use again.
AHEAD_BYTES = 2 * MAX_BATCHES * BATCH_BYTES
# Vacant files take at most this share of the budget: less than objects leave free that are written
# ahead of need. And none where objects take so little that they seldom have to go.
VACANT_SHARE = 4
NEEDED_SHARE = 2
# A disk that nobody used for so long may rest longer.
VACANT_S = 1.0
# Spare memory is warm: what is made of it takes a tenth of the time. A process that made nothing
# for so long has no need of that.
REST_S = 10.0
# A process that runs C code for long does not answer; who waits goes elsewhere then.
ANSWER_S = 1.0
# What was viewed is asked for again after so long; or at once for who begins to wait, but then only
# so many: to ask for ten thousand takes longer than to write one on disk.
AGAIN_S = 1.0
MAX_AGAIN = 1000
# A disk that failed may have room again.
RETRY_S = 10.0
# How an error begins that is for want of room.
FULL = "full: "
MAX_PASSES = 16
# The last word about a dead process's objects comes within moments of its end, and that about a
# mapping within moments of the end of its file.
GONE_KEPT = 1000
HOLDERS_NAMED = 5
# How the names of files of several objects begin.
SPILL_FILE = "spill-"
# No segment has such a name, so nobody asks for it.
VACANT_FILE = ".vacant-"


# ------------------------------------------------------------------ events

ClientMessage = (
    AskLoan | LoanReturned | SegmentsMade | SegmentsFree | SegmentsOpened | SegmentsClosed | Evicted
    | Restore | Discard
)  # fmt: skip


class ClientSaid(msgspec.Struct, frozen=True):
    """A process has sent a message.

    Restore and Discard of a name that is not known may have overtaken its SegmentsMade, on another
    connection: the shell reads all connections once more before it tells of them.
    """

    client: bytes
    message: ClientMessage


class ClientLost(msgspec.Struct, frozen=True):
    """A process has ended, and all that it sent was told."""

    client: bytes


class ClientBack(msgspec.Struct, frozen=True):
    """A process of another node that was lost is connected again, or seems to be.

    It was out of reach, not dead: what is made for it from now on is kept.
    """

    client: bytes


class DiskFull(msgspec.Struct, frozen=True):
    """There is no room for a LendOnDisk."""

    client: bytes
    request: int
    size_bytes: int
    disk: str
    """What there is instead: "D has 77 free"."""


class FilesGone(msgspec.Struct, frozen=True):
    """Some of VacateFiles are removed, since a process may have one of them open."""

    names: list[str]
    """Those that they got."""


class SegmentsTicked(msgspec.Struct, frozen=True):
    """Time has passed."""


class RoomAsked(msgspec.Struct, frozen=True):
    """The memory of the node is short: let so much of the store's become free, if there is it."""

    size_bytes: int


class CopyNoted(msgspec.Struct, frozen=True):
    """Whether another node keeps the object of a segment: this one is dropped for room then."""

    name: str
    is_elsewhere: bool


Event = (
    ClientSaid | ClientLost | ClientBack | Spilled | Unspilled | DiskFull | FilesGone
    | SegmentsTicked | RoomAsked | CopyNoted
)  # fmt: skip
"""A spiller that dies has failed its batches, Spilled says so. What it was reading is asked of the
next spiller: an error in Unspilled means that the object is lost.
"""


# ------------------------------------------------------------------ effects


class TellClient(msgspec.Struct, frozen=True):
    """Send a message to a process."""

    client: bytes
    message: Loan | Recall | Evict | Restored | Orphaned


class LendOnDisk(msgspec.Struct, frozen=True):
    """If the disk has room, send its directory as a Loan; else say DiskFull."""

    client: bytes
    request: int
    size_bytes: int


class UnlinkSegments(msgspec.Struct, frozen=True):
    """Remove these from the store's directory. Who has them mapped keeps their memory.

    But nobody has those that have the name of a vacant file: they are cut before.
    """

    names: list[str]


class CopiesDropped(msgspec.Struct, frozen=True):
    """These copies are gone for want of room: say so to who had them made."""

    names: list[str]


class VacateFiles(msgspec.Struct, frozen=True):
    """Give segments' files other names; then remove them if anybody may have them open.

    First the names, so that nobody can open them any more. Then each process is looked at that
    could until then: if it has begun to open more segments than it has told of, say FilesGone.
    """

    name_of: dict[str, str]
    """By the other name."""


class LendFile(msgspec.Struct, frozen=True):
    """Send a loan, and give a vacant file to that process, under a name of its own."""

    client: bytes
    request: int
    size_bytes: int
    name: str


class SweepFiles(msgspec.Struct, frozen=True):
    """Remove the files that this process made and of which `knows` is false.

    In the store's directory (truncated first: others may have them mapped, but view nothing in
    them) and in the one for the disk.
    """

    client: bytes


Effect = (
    TellClient | LendOnDisk | LendFile | CopiesDropped | UnlinkSegments | VacateFiles | SweepFiles
    | Spill | Unspill | Unlink
)  # fmt: skip


# ------------------------------------------------------------------ state


class _Wish:
    """A loan that waits."""

    __slots__ = ("account", "passed", "request", "size_bytes")

    def __init__(self, account: Account, request: int, size_bytes: int) -> None:
        self.account = account
        self.request = request
        self.size_bytes = size_bytes
        self.passed = 0
        """How many restores went before it while it was the first of the loans."""


class Segments:
    """The shared memory of one node."""

    def __init__(self, budget_bytes: int, disk_dir: str, *, is_remote: bool = False) -> None:
        """`disk_dir`: where segments are that are made on disk, and spill files.

        `is_remote`: those are elsewhere, where nobody can read them in place.
        """
        self._budget = budget_bytes
        self._high = int(budget_bytes * HIGH_MARK)
        self._low = int(budget_bytes * LOW_MARK)
        self._disk_dir = disk_dir
        self._is_remote = is_remote
        self._table = Holdings()
        self._gone: OrderedDict[bytes, None] = OrderedDict()
        """Processes that have ended, the last ones."""
        self._buried: OrderedDict[str, None] = OrderedDict()
        """Segments whose objects and files are gone, the last ones."""

        self._wishes: deque[_Wish] = deque()
        self._wished_bytes = 0
        self._arrivals = 0
        """Of loans and restores that wait, so far. Who refused is asked again for the next one."""
        self._again = 0
        """How many segments that were viewed may be asked for again, for the last arrival."""
        self._is_ahead = False
        """Objects are written ahead of need."""
        self._recalls: OrderedDict[bytes, float] = OrderedDict()
        """Who has not answered Recall, and since when."""
        self._recalled_bytes = 0
        self._active: OrderedDict[bytes, float] = OrderedDict()
        """Who has used its loan, or asked for one, and when; the longest ago first."""
        self._silent: set[bytes] = set()
        """Processes that owe an answer for long and have said nothing since."""

        self._vacated = 0
        """Files that were vacated so far."""
        self._vacated_at = float("-inf")
        """When one was vacated or taken last."""
        self._copied_at = float("-inf")
        """When the file of a copy was vacated last."""

        self._batches: dict[int, list[SegmentEntry]] = {}
        self._batch = 0
        self._unspills: dict[int, SegmentEntry] = {}
        self._unspill = 0
        self._spill_error = ""
        self._spill_failed_at = float("-inf")
        self._fetch_failed_at = float("-inf")

        self._now = 0.0
        """When the event is that is handled. What it leads to is collected in the next six."""
        self._effects: list[Effect] = []
        self._dropped: list[str] = []
        self._unlinked: list[str] = []
        self._vacate: dict[str, str] = {}
        self._evict: dict[bytes, list[str]] = {}
        self._dead_files: list[str] = []

    # -------------------------------------------------------------- events

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event; return what to do, in order.

        ProtocolError: a process says what cannot be. Nothing is changed then.
        """
        self._now = now
        match event:
            case ClientSaid(client, message):
                self._heard(self._table.account(client), message)
            case ClientLost(client):
                self._client_lost(client)
            case ClientBack(client):
                self._gone.pop(client, None)
            case Spilled(batch, error, places):
                self._spilled(batch, error, places)
            case Unspilled(request, error):
                self._unspilled(request, error)
            case DiskFull():
                self._refuse(event)
            case FilesGone(names):
                self._files_gone(names)
            case SegmentsTicked():
                pass
            case RoomAsked(size_bytes):
                self._shrink(size_bytes)
            case CopyNoted(name, is_elsewhere):
                self._note_copy(name, is_elsewhere=is_elsewhere)
            case _:
                assert_never(event)
        self._count_on_nobody_late()
        self._recall_resting()
        self._evict_ahead()
        self._remove_unlinked()
        if isinstance(event, ClientLost):
            self._effects.append(SweepFiles(event.client))
        self._serve()
        self._bound_vacant()
        self._remove_unlinked()
        self._spill()
        if self._evict:
            self._effects += [TellClient(c, Evict(self._evict[c])) for c in sorted(self._evict)]
            self._evict = {}
        if self._dead_files:
            self._effects.append(Unlink(self._dead_files))
            self._dead_files = []
        effects, self._effects = self._effects, []
        return effects

    def _remove_unlinked(self) -> None:
        """Before their room is lent."""
        if self._dropped:
            self._effects.append(CopiesDropped(self._dropped))
            self._dropped = []
        if self._vacate:
            self._effects.append(VacateFiles(self._vacate))
            self._vacate = {}
        if self._unlinked:
            self._effects.append(UnlinkSegments(self._unlinked))
            self._unlinked = []

    def wake_at(self) -> float | None:
        """Return when `SegmentsTicked` is due, in seconds; None: never."""
        times = list(self._recalls.values())[:1]
        if (entry := self._table.asked.first()) is not None:
            times.append(entry.since)
        times = [min(times) + ANSWER_S] if times else []
        if self._table.waiting.entries and self._fetch_failed_at > float("-inf"):
            times.append(self._fetch_failed_at + RETRY_S)
        if self._table.vacant.size_of:
            times.append(self._vacated_at + VACANT_S)
        if self._active:
            times.append(next(iter(self._active.values())) + REST_S)
        return min(times) if times else None

    def _heard(self, account: Account, message: ClientMessage) -> None:
        self._silent.discard(account.id)
        if isinstance(message, AskLoan | SegmentsMade | SegmentsFree):
            self._active[account.id] = self._now
            self._active.move_to_end(account.id)
        match message:
            case AskLoan(request, size_bytes):
                self._wish(account, request, size_bytes)
            case LoanReturned(size_bytes):
                self._returned(account, size_bytes)
            case SegmentsMade(segments):
                self._made(account, segments)
            case SegmentsFree(names):
                self._freed(account, names)
            case SegmentsOpened(names):
                for name in names:
                    self._opened(account, name)
            case SegmentsClosed(names):
                for name in names:
                    self._table.keep_promise(account, name)
                    self._closed(account, name)
            case Evicted(idle, in_use):
                self._evicted(account, idle, in_use)
            case Restore(request, name):
                self._restore(account, request, name)
            case Discard(names):
                for name in names:
                    if (entry := self._table.entry_of.get(name)) is not None:
                        self._drop(entry)
            case _:
                assert_never(message)

    def _tell(self, client: bytes, message: Loan | Recall | Restored | Orphaned) -> None:
        self._effects.append(TellClient(client, message))

    # -------------------------------------------------------------- segments come and go

    def _made(self, account: Account, made: Sequence[MadeSegment]) -> None:
        names = {record.name for record in made}
        if len(names) < len(made) or any(name in self._table.entry_of for name in names):
            raise ProtocolError(f"a segment was made twice: {sorted(names)}")
        if any(not 0 <= record.object_bytes <= record.size_bytes for record in made):
            raise ProtocolError("an object is larger than its segment")
        size_bytes = sum(record.size_bytes for record in made if not record.on_disk)
        if size_bytes > account.spare_bytes:
            raise ProtocolError(
                f"segments of {size_bytes} bytes were made in a loan of which "
                f"{account.spare_bytes} are spare"
            )
        for record in made:
            entry = self._table.add(record, account)
            if record.owner in self._gone:
                self._drop(entry)
            else:
                self._table.account(record.owner).owned[record.name] = entry

    def _freed(self, account: Account, names: Sequence[str]) -> None:
        known = [name for name in dict.fromkeys(names) if name in self._table.entry_of]
        entries = [self._table.entry_of[name] for name in known]
        for entry in entries:
            if entry.keeper is not account and entry.group is not self._table.file:
                raise ProtocolError(f"segment {entry.name} was freed by who does not keep it")
        account.refused_in = 0
        for entry in entries:
            if entry.keeper is None:
                self._drop(entry)
            else:
                self._table.break_promises(entry)
                self._table.end_keeping(entry)
                self._table.forget(entry)

    def _drop(self, entry: SegmentEntry) -> None:
        """The object is gone: so is its segment, as soon as no process and no spiller has it."""
        if entry.is_dropped:
            return
        table, group = self._table, entry.group
        entry.is_dropped = True
        table.disown(entry)
        table.break_promises(entry)
        self._answer(entry, error="its object was dropped")
        for ghost in table.ghosts_of.get(entry.name, ()):
            # Who has it mapped keeps that for the next view, and there will be none.
            if ghost.group is not table.asked:
                self._ask(ghost)
        if group in (table.spilling, table.restoring, table.fetching):
            return
        self._dead_files += table.drop_copy(entry)
        if group is table.file:
            self._dead_files.append(entry.name)
        if entry.keeper is None:
            self._bury(entry)
        elif group is not table.asked:
            # Its creator may have views; and it must not fill a segment that has no name any more.
            self._ask(entry)

    def _bury(self, entry: SegmentEntry) -> None:
        """Nobody keeps the segment of a dropped object."""
        if entry.group is not None and entry.group.is_memory:
            self._unlink(entry)
        self._table.forget(entry)
        _note(self._buried, entry.name)

    def _unlink(self, entry: SegmentEntry) -> None:
        """Remove the file; ask those who have it mapped to let the memory go."""
        if entry.is_elsewhere and not entry.mapped:
            self._copied_at = self._now
            self._leave_file(entry)
            return
        if entry.mapped:
            ghost = self._table.add_ghost(entry)
            if entry.is_elsewhere:
                ghost.vacated = self._vacate_as(entry)
            self._ask(ghost)
        if not entry.is_elsewhere:
            self._unlinked.append(entry.name)

    def _note_copy(self, name: str, *, is_elsewhere: bool) -> None:
        entry = self._table.entry_of.get(name)
        if entry is not None:
            entry.is_elsewhere = is_elsewhere
            if entry.group in (self._table.memory, self._table.copies):
                self._table.move(entry, self._table.memory)

    def _client_lost(self, client: bytes) -> None:
        _note(self._gone, client)
        self._silent.discard(client)
        self._active.pop(client, None)
        table = self._table
        account = table.account_of.pop(client, None)
        if account is None:
            return
        self._wishes = deque(wish for wish in self._wishes if wish.account is not account)
        self._wished_bytes = sum(wish.size_bytes for wish in self._wishes)
        for entry in self._wanted():
            entry.askers = [asker for asker in entry.askers if asker[0] != client]
            if entry.group is table.waiting and not entry.askers:
                table.move(entry, table.disk)
        self._end_recalls(account)
        for name in list(account.promised):
            table.keep_promise(account, name)
        for name in list(account.mapped):
            self._closed(account, name)
        for entry in list(account.kept.values()):
            self._given_up(entry)
        table.lend(account, -account.lent_bytes)
        for entry in list(account.owned.values()):
            self._drop(entry)
        self._tell_owners(client)

    def _wanted(self) -> list[SegmentEntry]:
        """Return what somebody waits for."""
        table = self._table
        groups = (table.waiting, table.restoring, table.fetching)
        return [entry for group in groups for entry in group.entries]

    def _tell_owners(self, creator: bytes) -> None:
        """Name to others what a process made for them: only it may know what they let go of."""
        names_of: dict[bytes, list[str]] = {}
        for entry in self._table.entry_of.values():
            owner = entry.made.owner
            if entry.creator == creator and owner in self._table.account_of:
                names_of.setdefault(owner, []).append(entry.name)
        for owner, names in names_of.items():
            self._tell(owner, Orphaned(creator, names))

    # -------------------------------------------------------------- who has a segment

    def _opened(self, account: Account, name: str) -> None:
        self._table.keep_promise(account, name)
        entry = self._table.open(account, name)
        if name in self._table.entry_of:
            assert entry is not None
            self._use(entry)
        elif entry is not None:
            # It was opened just before it went with its object: nobody will read it there.
            self._ask(entry)
        elif name in self._buried:
            self._evict.setdefault(account.id, []).append(name)

    def _use(self, entry: SegmentEntry) -> None:
        """The entry is the one used last. It is not evicted, if it was to be."""
        table = self._table
        if entry.group in (table.memory, table.copies, table.viewed, table.asked, table.idle):
            entry.pending.clear()
            table.move(entry, table.memory)

    def _closed(self, account: Account, name: str) -> None:
        for entry in self._table.close(account, name):
            self._left(entry, account.id)

    def _given_up(self, entry: SegmentEntry) -> None:
        """The segment and its bytes are the node's: who kept it gave it up, or has ended."""
        keeper = self._table.end_keeping(entry)
        self._table.lend(keeper, -entry.size_bytes)
        if entry.is_dropped:
            self._bury(entry)
        else:
            self._left(entry, keeper.id)

    def _left(self, entry: SegmentEntry, client: bytes) -> None:
        """A process has the segment no longer."""
        table = self._table
        entry.pending.pop(client, None)
        if entry.is_dropped:
            # Others than ghosts go with their keeper, or with the spiller's answer.
            if entry.is_free and table.is_ghost(entry):
                table.end_ghost(entry)
                if entry.vacated:
                    self._leave_ghost(entry)
        elif entry.group is table.asked and not entry.pending:
            self._put_out(entry)
        elif entry.group is table.viewed and entry.is_free:
            table.put_first(entry)

    # -------------------------------------------------------------- eviction

    def _ask(self, entry: SegmentEntry) -> None:
        """Ask all who have the segment whether they can do without it."""
        entry.pending = dict(entry.mapped)
        if entry.keeper is not None:
            entry.pending[entry.keeper.id] = None
        for client in entry.pending:
            self._evict.setdefault(client, []).append(entry.name)
        entry.since = self._now
        self._table.move(entry, self._table.asked)
        if not entry.pending:
            self._put_out(entry)

    def _evicted(self, account: Account, idle: Sequence[str], in_use: Sequence[str]) -> None:
        # It need not be the answer to the last question, nor to any that still counts: what it says
        # of the process is true all the same.
        for name in idle:
            entry = self._table.entry_of.get(name)
            if entry is not None and entry.keeper is account:
                self._given_up(entry)
            self._closed(account, name)
        for name in in_use:
            for entry in self._table.called(name):
                if account.id in entry.pending:
                    self._set_aside(entry)

    def _put_out(self, entry: SegmentEntry) -> None:
        """No process has the segment: its memory can go once its object is on disk."""
        table = self._table
        if entry.copy is not None:
            self._leave_file(entry)
            table.move(entry, table.disk)
        elif entry.is_elsewhere:
            self._dropped.append(entry.name)
            self._drop(entry)
        elif self._is_disk_failing():
            table.put_first(entry)
        else:
            table.move(entry, table.idle)

    def _set_aside(self, entry: SegmentEntry) -> None:
        """The segment is viewed, or may be: take others before it."""
        entry.pending.clear()
        entry.since = self._now
        entry.refused_in = self._arrivals
        self._table.move(entry, self._table.viewed)

    def _count_on_nobody_late(self) -> None:
        """Expect no answer that should have come long ago."""
        late = self._now - ANSWER_S
        while (entry := self._table.asked.first()) is not None and entry.since <= late:
            self._silent.update(entry.pending)
            self._set_aside(entry)
        while self._recalls and next(iter(self._recalls.values())) <= late:
            account = self._table.account_of[next(iter(self._recalls))]
            account.refused_in = self._arrivals
            self._silent.add(account.id)
            self._end_recalls(account)

    # -------------------------------------------------------------- vacant files

    def _leave_file(self, entry: SegmentEntry) -> None:
        """Nobody has the file, and its object is on disk: keep the file if it may be of use."""
        vacant, size_bytes, first = self._table.vacant, entry.size_bytes, self._first()
        is_wanted = first is not None and first.size_bytes == size_bytes
        if is_wanted or vacant.size_bytes + size_bytes <= self._vacant_bound():
            self._vacated_at = self._now
            vacant.add(self._vacate_as(entry), size_bytes)
        else:
            self._unlinked.append(self._vacate_as(entry))

    def _vacate_as(self, entry: SegmentEntry) -> str:
        """Have the file renamed; return how it is called then."""
        self._vacated += 1
        name = f"{VACANT_FILE}{self._vacated}"
        self._vacate[name] = entry.name
        return name

    def _leave_ghost(self, ghost: SegmentEntry) -> None:
        """Nobody has the file of a copy any more."""
        vacant, size_bytes = self._table.vacant, ghost.size_bytes
        self._copied_at = self._vacated_at = self._now
        if (
            size_bytes <= self._budget - self._table.used_bytes
            and vacant.size_bytes + size_bytes <= self._vacant_bound()
        ):
            vacant.add(ghost.vacated, size_bytes)
        else:
            self._unlinked.append(ghost.vacated)

    def _vacant_bound(self) -> int:
        """Return how many bytes of them may stay."""
        is_needed = (
            self._table.object_bytes > self._budget // NEEDED_SHARE
            or self._now < self._copied_at + VACANT_S
        )
        return self._budget // VACANT_SHARE if is_needed else 0

    def _bound_vacant(self) -> None:
        """Remove those of which there are too many."""
        bound = self._vacant_bound() if self._now < self._vacated_at + VACANT_S else 0
        self._remove_vacant(self._table.vacant.size_bytes - bound)

    def _remove_vacant(self, size_bytes: int) -> int:
        """Remove so many bytes of them, or all; return how many."""
        vacant, removed = self._table.vacant, 0
        while vacant.size_of and removed < size_bytes:
            name = vacant.first()
            removed += vacant.remove(name)
            self._unlinked.append(name)
        return removed

    def _take_room(self, size_bytes: int, file_bytes: int) -> str:
        """Room is to be used: let vacant files go that are in the way.

        Return the name of one of `file_bytes`, which is a part of that room; empty: there is none.
        """
        table = self._table
        name = table.vacant.try_take(file_bytes)
        if name:
            self._vacated_at = self._now
        self._remove_vacant(table.used_bytes + size_bytes - self._budget)
        self._remove_unlinked()
        return name

    def _files_gone(self, names: Sequence[str]) -> None:
        """Some may be in use by now: who was to fill it makes another, as large."""
        vacant = self._table.vacant
        for name in names:
            if name in vacant.size_of:
                vacant.remove(name)
        ghosts = (ghost for ghosts in self._table.ghosts_of.values() for ghost in ghosts)
        for ghost in ghosts:
            ghost.vacated = "" if ghost.vacated in names else ghost.vacated

    # -------------------------------------------------------------- room

    def _room(self) -> int:
        return self._budget - self._table.used_bytes + self._table.vacant.size_bytes

    def _leaving(self) -> int:
        table = self._table
        return table.asked.size_bytes + table.idle.size_bytes + table.spilling.size_bytes

    def _expected(self) -> int:
        """Return how much room there is, or will be without more being done."""
        return self._room() + self._recalled_bytes + self._leaving()

    def _is_disk_failing(self) -> bool:
        return self._now < self._spill_failed_at + RETRY_S

    def _evict_ahead(self) -> None:
        """Above the high mark evict before somebody waits, down to the low one."""
        leaving = self._leaving()
        staying = self._table.object_bytes - leaving
        if staying > self._high:
            self._is_ahead = True
        elif staying <= self._low:
            self._is_ahead = False
        if self._is_ahead:
            self._evict_some(min(staying - self._low, AHEAD_BYTES - leaving), arrival=0)

    def _make_room(self, size_bytes: int) -> None:
        """Let at least so much more room come; nothing is done if that cannot be."""
        table = self._table
        possible = table.spare_bytes - self._recalled_bytes + table.copies.size_bytes
        if not self._is_disk_failing():
            possible += table.memory.size_bytes + table.viewed.size_bytes
        if size_bytes <= possible:
            size_bytes -= self._recall(size_bytes)
            if size_bytes > 0:
                wanted = max(size_bytes, self._budget // STEP_SHARE)
                self._evict_some(wanted, arrival=self._arrivals)

    def _shrink(self, size_bytes: int) -> None:
        """Let so much more go than is on its way, though nobody waits for it."""
        self._arrived()
        size_bytes -= self._remove_vacant(size_bytes) + self._recalled_bytes + self._leaving()
        if size_bytes > 0:
            self._evict_some(size_bytes - self._recall(size_bytes), arrival=self._arrivals)

    def _evict_some(self, size_bytes: int, arrival: int) -> None:
        while size_bytes > 0 and (entry := self._candidate(arrival)) is not None:
            size_bytes -= entry.size_bytes
            self._ask(entry)

    def _candidate(self, arrival: int) -> SegmentEntry | None:
        """Return what to evict next; None: nothing.

        What was viewed is asked for again if that was long ago, or before this arrival.
        """
        if (copy := self._first_answering(self._table.copies)) is not None:
            return copy
        if self._is_disk_failing():
            return None
        if (entry := self._first_answering(self._table.memory)) is not None:
            return entry
        while (entry := self._table.viewed.first()) is not None:
            if entry.since + AGAIN_S > self._now:
                if entry.refused_in >= arrival or not self._again:
                    return None
                self._again -= 1
            if not self._is_silent(entry):
                return entry
            self._set_aside(entry)
        return None

    def _first_answering(self, group: Group) -> SegmentEntry | None:
        """Return the least recently used one about which somebody would answer."""
        while (entry := group.first()) is not None:
            if not self._is_silent(entry):
                return entry
            self._set_aside(entry)
        return None

    def _is_silent(self, entry: SegmentEntry) -> bool:
        """Tell whether somebody has the segment who would not answer."""
        return bool(self._silent) and (
            not self._silent.isdisjoint(entry.mapped)
            or (entry.keeper is not None and entry.keeper.id in self._silent)
        )

    def _recall(self, size_bytes: int) -> int:
        """Recall so much spare memory, from those first who have most; return how much it is."""
        accounts = [
            account
            for account in self._table.account_of.values()
            if account.recallable_bytes > 0
            and account.refused_in < self._arrivals
            and account.id not in self._silent
        ]
        left = size_bytes
        for account in sorted(accounts, key=lambda account: -account.recallable_bytes):
            if not left:
                break
            wanted = min(account.recallable_bytes, left)
            left -= wanted
            self._recall_from(account, wanted)
        return size_bytes - left

    def _recall_from(self, account: Account, size_bytes: int) -> None:
        account.recalls.append(size_bytes)
        account.recalled_bytes += size_bytes
        self._recalled_bytes += size_bytes
        self._recalls.setdefault(account.id, self._now)
        self._tell(account.id, Recall(size_bytes))

    def _recall_resting(self) -> None:
        """Have back what is spare where nothing was made for long, though nobody waits for it."""
        while self._active and next(iter(self._active.values())) <= self._now - REST_S:
            client, _ = self._active.popitem(last=False)
            account = self._table.account_of[client]
            if account.recallable_bytes > 0 and client not in self._silent:
                self._recall_from(account, account.recallable_bytes)

    def _returned(self, account: Account, size_bytes: int) -> None:
        if not 0 <= size_bytes <= account.spare_bytes:
            raise ProtocolError(
                f"{size_bytes} bytes of a loan were returned, of which {account.spare_bytes} "
                "are spare"
            )
        self._table.lend(account, -size_bytes)
        if account.recalls:
            wanted = account.recalls.popleft()
            account.recalled_bytes -= wanted
            self._recalled_bytes -= wanted
            del self._recalls[account.id]
            if account.recalls:
                self._recalls[account.id] = self._now
            if size_bytes < wanted:
                account.refused_in = self._arrivals

    def _end_recalls(self, account: Account) -> None:
        self._recalls.pop(account.id, None)
        self._recalled_bytes -= account.recalled_bytes
        account.recalled_bytes = 0
        account.recalls.clear()

    # -------------------------------------------------------------- those who wait

    def _wish(self, account: Account, request: int, size_bytes: int) -> None:
        if size_bytes <= 0:
            raise ProtocolError(f"a loan of {size_bytes} bytes was asked for")
        if size_bytes > self._budget:
            # There is nothing to wait for.
            self._effects.append(LendOnDisk(account.id, request, size_bytes))
        else:
            self._arrived()
            self._wishes.append(_Wish(account, request, size_bytes))
            self._wished_bytes += size_bytes

    def _arrived(self) -> None:
        """Somebody begins to wait, or the node needs room."""
        self._arrivals += 1
        self._again = MAX_AGAIN

    def _serve(self) -> None:
        """Give those who wait what they wait for, in turn."""
        if self._now >= self._fetch_failed_at + RETRY_S:
            self._fetch_failed_at = float("-inf")
        while (first := self._first()) is not None:
            if first.size_bytes > self._expected():
                self._make_room(first.size_bytes - self._expected())
            if self._room() < first.size_bytes <= self._expected():
                # Those behind it shall wait no longer than they must.
                missing = self._wished_bytes + self._table.waiting.size_bytes - self._expected()
                if missing > 0:
                    self._make_room(missing)
                # What has a copy on disk goes at once.
                if self._room() < first.size_bytes:
                    return
            if isinstance(first, _Wish):
                self._lend(first)
            else:
                self._read_back(first)

    def _first(self) -> _Wish | SegmentEntry | None:
        """Return who is served next."""
        wish = self._wishes[0] if self._wishes else None
        if wish is not None and wish.passed >= MAX_PASSES:
            return wish
        if self._fetch_failed_at > float("-inf"):
            return wish
        return self._table.waiting.first() or wish

    def _lend(self, wish: _Wish) -> None:
        """Grant the loan that waits longest; on disk if no room will come."""
        self._wishes.popleft()
        account, size_bytes = wish.account, wish.size_bytes
        self._wished_bytes -= size_bytes
        room = self._room()
        if size_bytes > room:
            self._effects.append(LendOnDisk(account.id, wish.request, size_bytes))
            return
        if self._first() is None:
            left = room - (self._budget - self._low) - size_bytes
            size_bytes += max(0, min(account.lent_bytes + size_bytes, left // SURPLUS_SHARE))
        # What a process has taken already is in files.
        file_bytes = wish.size_bytes if wish.request != OVERDRAWN else 0
        name = self._take_room(size_bytes, file_bytes)
        self._table.lend(account, size_bytes)
        account.refused_in = 0
        if name:
            self._effects.append(LendFile(account.id, wish.request, size_bytes, name))
        else:
            self._tell(account.id, Loan(wish.request, size_bytes))

    def _refuse(self, event: DiskFull) -> None:
        trouble = f"; spilling fails ({self._spill_error})" if self._is_disk_failing() else ""
        holders = "; ".join(
            f"{facts.size_bytes} bytes of {facts.label} ({facts.site}) in {facts.name}"
            for facts in self.largest(HOLDERS_NAMED)
        )
        error = (
            f"no room for {event.size_bytes} bytes: {self._table.used_bytes} of {self._budget} are "
            f"used, {event.disk}{trouble}; drop references to the largest: "
            f"{holders or 'there are none'}"
        )
        self._tell(event.client, Loan(event.request, 0, error=error))

    # -------------------------------------------------------------- to disk and back

    def _spill(self) -> None:
        """Write what nobody has, small ones together."""
        idle = self._table.idle
        while idle.entries and len(self._batches) < MAX_BATCHES:
            entries: list[SegmentEntry] = []
            left_bytes = BATCH_BYTES
            while (entry := idle.first()) is not None:
                left_bytes -= entry.made.object_bytes
                if entries and left_bytes < 0:
                    break
                entries.append(entry)
                self._table.move(entry, self._table.spilling)
            self._batch += 1
            self._batches[self._batch] = entries
            names = [entry.name for entry in entries]
            sizes = [entry.made.object_bytes for entry in entries]
            self._effects.append(Spill(self._batch, _file_name(self._batch), names, sizes))

    def _spilled(self, batch: int, error: str, places: Sequence[tuple[int, int, int]]) -> None:
        table = self._table
        entries = self._batches[batch]
        if error:
            self._spill_error, self._spill_failed_at = error, self._now
            self._dead_files.append(_file_name(batch))
            # What was to be written next stays in memory as well.
            for entry in list(reversed(table.idle.entries)):
                table.put_first(entry)
        else:
            pairs = list(zip(entries, places, strict=True))
            size_bytes = sum(size for _, size, _ in places)
            file = SpillFile(_file_name(batch), len(entries), size_bytes)
            table.file_of[file.name] = file
            for entry, place in pairs:
                entry.copy = Copy(file, place)
        del self._batches[batch]
        # Of those that are put first, the last one is the first.
        for entry in entries[::-1] if error else entries:
            if entry.is_dropped:
                self._dead_files += table.drop_copy(entry)
                self._bury(entry)
            elif entry.promised:
                table.move(entry, table.promised)
            elif entry.mapped:
                table.move(entry, table.memory)
            elif error:
                table.put_first(entry)
            else:
                self._put_out(entry)

    def _restore(self, account: Account, request: int, name: str) -> None:
        table = self._table
        entry = table.entry_of.get(name)
        if entry is None or entry.is_dropped:
            self._tell(account.id, Restored(request, error=f"no object is in segment {name}"))
        elif entry.group is table.lost:
            self._tell(account.id, Restored(request, error=entry.loss))
        elif entry.group is table.file:
            self._tell(account.id, Restored(request, path=f"{self._disk_dir}/{name}"))
        elif entry.group in (table.disk, table.waiting, table.restoring, table.fetching):
            entry.askers.append((account.id, request))
            if entry.group is table.disk:
                self._arrived()
                table.move(entry, table.waiting)
        else:
            self._promise(entry, account.id)
            self._tell(account.id, Restored(request))

    def _promise(self, entry: SegmentEntry, client: bytes) -> None:
        """Keep the segment in memory until this process has opened it."""
        table = self._table
        table.promise(entry, client)
        entry.pending.clear()
        if entry.group is not table.spilling:
            table.move(entry, table.promised)

    def _read_back(self, entry: SegmentEntry) -> None:
        """Restore a segment; if no room will come, have it read on disk."""
        if entry.size_bytes > self._room():
            self._read_on_disk(entry)
            return
        if self._wishes:
            self._wishes[0].passed += 1
        name = self._take_room(entry.size_bytes, entry.size_bytes)
        self._table.move(entry, self._table.restoring)
        self._begin_unspill(entry, over=name)

    def _read_on_disk(self, entry: SegmentEntry) -> None:
        """Say where a segment's copy is, or have it fetched from elsewhere."""
        if self._is_remote and entry.askers:
            self._table.move(entry, self._table.fetching)
            self._begin_unspill(entry, directory=self._disk_dir)
        else:
            copy = entry.copy
            assert copy is not None
            self._table.move(entry, self._table.disk)
            self._answer(entry, path=f"{self._disk_dir}/{copy.file.name}", offset=copy.offset)

    def _begin_unspill(self, entry: SegmentEntry, *, over: str = "", directory: str = "") -> None:
        copy = entry.copy
        assert copy is not None
        self._unspill += 1
        self._unspills[self._unspill] = entry
        self._effects.append(
            Unspill(
                request=self._unspill,
                name=entry.name,
                file=copy.file.name,
                offset=copy.offset,
                size_bytes=copy.size_bytes,
                segment_bytes=entry.size_bytes,
                checksum=copy.checksum,
                directory=directory,
                over=over,
            )
        )

    def _unspilled(self, request: int, error: str) -> None:
        table = self._table
        entry = self._unspills.pop(request)
        if entry.group is table.fetching:
            self._fetched(entry, error)
            return
        if error and entry.mapped:
            # What was opened meanwhile is the file that was unlinked.
            table.add_ghost(entry)
        if entry.is_dropped:
            self._dead_files += table.drop_copy(entry)
            if error:
                table.forget(entry)
            else:
                self._bury(entry)
        elif error.startswith(FULL):
            self._read_on_disk(entry)
        elif error:
            self._lose(entry, error)
        else:
            table.move(entry, table.memory)
            for client, _ in entry.askers:
                self._promise(entry, client)
            self._answer(entry)

    def _fetched(self, entry: SegmentEntry, error: str) -> None:
        table = self._table
        if entry.is_dropped:
            self._dead_files += table.drop_copy(entry)
            if not error:
                self._dead_files.append(entry.name)
            table.forget(entry)
        elif error.startswith(FULL):
            table.move(entry, table.waiting)
            self._fetch_failed_at = self._now
        elif error:
            self._lose(entry, error)
        else:
            self._dead_files += table.drop_copy(entry)
            table.move(entry, table.file)
            self._answer(entry, path=f"{self._disk_dir}/{entry.name}")

    def _lose(self, entry: SegmentEntry, error: str) -> None:
        entry.loss = f"segment {entry.name} cannot be read from disk: {error}"
        self._answer(entry, error=entry.loss)
        self._dead_files += self._table.drop_copy(entry)
        self._table.move(entry, self._table.lost)

    def _answer(
        self, entry: SegmentEntry, *, error: str = "", path: str = "", offset: int = 0
    ) -> None:
        """Answer all who asked for the segment."""
        askers, entry.askers = entry.askers, []
        for client, request in askers:
            self._tell(client, Restored(request, error, path, offset))

    # -------------------------------------------------------------- questions

    def knows(self, name: str) -> bool:
        """Tell whether a segment of this name holds an object, in memory or on disk."""
        return name in self._table.entry_of

    def facts(self, name: str) -> SegmentFacts | None:
        """Return what is known of a segment that holds an object; None: none has this name."""
        entry = self._table.entry_of.get(name)
        return None if entry is None else entry.facts()

    @property
    def used_bytes(self) -> int:
        """What is lent, and what the node has itself."""
        return self._table.used_bytes

    def usage(self) -> StoreUsage:
        """Return the memory in numbers."""
        return self._table.usage(self._budget, len(self._wishes))

    def largest(self, most: int) -> list[SegmentFacts]:
        """Return at most so many segments in memory, the largest first."""
        return self._table.largest(most)

    def list_segments(self) -> list[SegmentFacts]:
        """Return all segments; files that are unlinked and mapped still are among them."""
        return [entry.facts() for group in self._table.groups for entry in group.entries]

    def explain(self, client: bytes) -> str:
        """Say what the loans and restores of a process wait for, a line each."""
        lines = [
            f"waits for {wish.size_bytes} bytes: {self._explain_room()}"
            for wish in self._wishes
            if wish.account.id == client
        ]
        for entry in self._wanted():
            if any(client == asker for asker, _ in entry.askers):
                if entry.group is self._table.waiting:
                    what = f"waits for {entry.size_bytes} bytes: {self._explain_room()}"
                else:
                    what = "is being read from disk"
                lines.append(f"segment {entry.name} {what}")
        return "\n".join(lines)

    def _explain_room(self) -> str:
        table = self._table
        parts = [f"{table.used_bytes} of {self._budget} are used"]
        if spilled := len(table.idle.entries) + len(table.spilling.entries):
            parts.append(f"{spilled} segments are being spilled")
        if table.asked.entries:
            parts.append(f"{len(table.asked.entries)} segments are asked for")
        if self._recalled_bytes:
            parts.append(f"{self._recalled_bytes} spare bytes are recalled")
        return ", ".join(parts)

    def check(self) -> None:
        """Assert what is always true."""
        table = self._table
        table.check()
        ghosts = sum(ghost.size_bytes for ghosts in table.ghosts_of.values() for ghost in ghosts)
        assert table.used_bytes <= self._budget + ghosts, 1
        for entry in (*table.disk.entries, *self._wanted()):
            assert entry.copy is not None, 2
        assert self._wished_bytes == sum(wish.size_bytes for wish in self._wishes), 3
        recalled = {a.id: a.recalled_bytes for a in table.account_of.values() if a.recalled_bytes}
        assert self._recalls.keys() == recalled.keys(), 3
        assert self._recalled_bytes == sum(recalled.values()), 3
        first = self._first()
        assert first is None or self._room() < first.size_bytes <= self._expected(), 3
        assert len(self._batches) <= MAX_BATCHES, 4
        written = [entry for batch in self._batches.values() for entry in batch]
        assert set(written) == table.spilling.entries.keys(), 4
        for batch in self._batches.values():
            assert len(batch) == 1 or sum(e.made.object_bytes for e in batch) <= BATCH_BYTES, 4
        read = {*table.restoring.entries, *table.fetching.entries}
        assert set(self._unspills.values()) == read, 4
        assert all(file.live > 0 for file in table.file_of.values()), 5


def _note(kept: OrderedDict[K, None], key: K) -> None:
    """Keep the last ones only."""
    kept[key] = None
    if len(kept) > GONE_KEPT:
        kept.popitem(last=False)


def _file_name(batch: int) -> str:
    return f"{SPILL_FILE}{batch}"
