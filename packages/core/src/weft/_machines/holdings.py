"""What is where in a node's shared memory, and which processes have it: the table of segments.py.

An entry stands for one segment that holds an object. It is in one group, which says where its bytes
are. A process keeps the segments that it made: its loan pays for them, until it gives them up or
ends; then they are the node's. Others may have them mapped.

A file that is unlinked while it is mapped still takes memory. Its entry is a ghost: it has a name,
but cannot be found by it. A process may also have files mapped that hold no known object: spare
ones, which their creator will fill again, and those of which SegmentsMade was not read yet.

A vacant file is one whose object went to disk, or was a copy of another node's, kept under another
name for its pages. The file of a ghost may have such a name already.

What is always true
1. Used bytes are all loans, the node's entries in memory, ghosts among them, and vacant files.
2. What a process keeps fits its loan.
3. An entry is in exactly one group; only one in memory is kept, mapped or promised.
4. What is on disk has a copy; a file of copies is there as long as one of its objects is.

It decides nothing: that is the machine's matter.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weft._wire.messages import MadeSegment


class SegmentFacts(msgspec.Struct, frozen=True):
    """One segment, for people."""

    name: str
    state: str
    """The name of its group (class Holdings)."""
    size_bytes: int
    object_bytes: int
    creator: bytes
    owner: bytes
    label: str
    site: str
    mapped: int
    """How many processes have it mapped, beside its creator."""
    checksum: int | None = None
    """Of its copy in a spill file, if there is one."""


class StoreUsage(msgspec.Struct, frozen=True):
    """The memory of a node in numbers."""

    budget_bytes: int
    used_bytes: int
    """Loans and the node's own."""
    vacant_bytes: int
    """Of these, in files that are kept for the next segments."""
    lent_bytes: int
    spare_bytes: int
    """Lent, and in no segment that holds an object."""
    spilled_bytes: int
    """Objects that are on disk only."""
    disk_bytes: int
    """Spill files, and objects that were made on disk."""
    segments: dict[str, int]
    """How many, by state."""
    waiting: int
    """Loans that wait."""


class SpillFile:
    """A file with copies of segments."""

    __slots__ = ("live", "name", "size_bytes")

    def __init__(self, name: str, live: int, size_bytes: int) -> None:
        self.name = name
        self.live = live
        """Objects in it that were not dropped."""
        self.size_bytes = size_bytes


class Copy:
    """Where an object is on disk."""

    __slots__ = ("checksum", "file", "offset", "size_bytes")

    def __init__(self, file: SpillFile, place: tuple[int, int, int]) -> None:
        self.file = file
        self.offset, self.size_bytes, self.checksum = place


class Group:
    """The entries in one state, in the order in which they came into it."""

    __slots__ = ("entries", "is_memory", "name", "size_bytes")

    def __init__(self, name: str, *, is_memory: bool) -> None:
        self.name = name
        self.is_memory = is_memory
        self.entries: OrderedDict[SegmentEntry, None] = OrderedDict()
        self.size_bytes = 0

    def first(self) -> SegmentEntry | None:
        """Return who came first."""
        return next(iter(self.entries), None)


class VacantFiles:
    """Files of which no process has anything, by size; the size asked for least recently first."""

    __slots__ = ("names_of", "size_bytes", "size_of")

    def __init__(self) -> None:
        self.size_of: dict[str, int] = {}
        self.names_of: OrderedDict[int, list[str]] = OrderedDict()
        self.size_bytes = 0

    def add(self, name: str, size_bytes: int) -> None:
        """A file is kept."""
        self.size_of[name] = size_bytes
        self.names_of.setdefault(size_bytes, []).append(name)
        self.size_bytes += size_bytes

    def try_take(self, size_bytes: int) -> str:
        """Return the name of a file of this size, which is kept no longer; empty: there is none."""
        if size_bytes not in self.names_of:
            return ""
        self.names_of.move_to_end(size_bytes)
        name = self.names_of[size_bytes][-1]
        self.remove(name)
        return name

    def first(self) -> str:
        """Return the name of the file that is missed least."""
        return next(iter(self.names_of.values()))[0]

    def remove(self, name: str) -> int:
        """A file is kept no longer; return its size."""
        size_bytes = self.size_of.pop(name)
        names = self.names_of[size_bytes]
        names.remove(name)
        if not names:
            del self.names_of[size_bytes]
        self.size_bytes -= size_bytes
        return size_bytes


class Account:
    """One process."""

    __slots__ = (
        "id",
        "kept",
        "kept_bytes",
        "lent_bytes",
        "mapped",
        "owned",
        "promised",
        "recalled_bytes",
        "recalls",
        "refused_in",
    )

    def __init__(self, client: bytes) -> None:
        self.id = client
        self.lent_bytes = 0
        self.kept: dict[str, SegmentEntry] = {}
        self.kept_bytes = 0
        self.owned: dict[str, SegmentEntry] = {}
        """Of whose objects it is the owner."""
        self.mapped: dict[str, None] = {}
        """Names of all that it has mapped, known or not."""
        self.promised: dict[str, None] = {}
        """Names that it was told it can open."""
        self.recalls: deque[int] = deque()
        """What it was asked to return, in bytes: those of which it has not said what it did."""
        self.recalled_bytes = 0
        self.refused_in = 0
        """The arrival at which it had less to return than was recalled."""

    @property
    def spare_bytes(self) -> int:
        """What it may fill, or return."""
        return self.lent_bytes - self.kept_bytes

    @property
    def recallable_bytes(self) -> int:
        """What it may be asked to return."""
        return self.spare_bytes - self.recalled_bytes


class SegmentEntry:
    """One segment that holds an object, or one unlinked file that is mapped still."""

    __slots__ = (
        "askers",
        "copy",
        "creator",
        "group",
        "is_dropped",
        "is_elsewhere",
        "keeper",
        "loss",
        "made",
        "mapped",
        "name",
        "pending",
        "promised",
        "refused_in",
        "since",
        "size_bytes",
        "vacated",
    )

    def __init__(self, made: MadeSegment, creator: bytes) -> None:
        self.made = made
        self.name = made.name
        self.size_bytes = made.size_bytes
        self.creator = creator
        self.keeper: Account | None = None
        """Its creator, or nobody: then it is the node's."""
        self.group: Group | None = None
        self.copy: Copy | None = None
        self.mapped: dict[bytes, None] = {}
        """Processes that have its file mapped, beside the keeper."""
        self.promised: dict[bytes, None] = {}
        """Processes that may open it next."""
        self.pending: dict[bytes, None] = {}
        """Who has not answered Evict."""
        self.askers: list[tuple[bytes, int]] = []
        """(client, request) of who waits for it to be restored."""
        self.is_dropped = False
        """The object is gone; a process or the spiller has the segment still."""
        self.is_elsewhere = False
        """Another node keeps the object: for room this copy is dropped, not written."""
        self.since = 0.0
        """When it was asked for, or was found to be viewed."""
        self.refused_in = 0
        """The arrival at which it was found to be viewed."""
        self.loss = ""
        """Why it is lost."""
        self.vacated = ""
        """What a ghost's file is called, to be vacant when nobody has it; empty: it is unlinked."""

    @property
    def is_free(self) -> bool:
        """Whether no process has it."""
        return self.keeper is None and not self.mapped

    def facts(self) -> SegmentFacts:
        """Describe it."""
        assert self.group is not None
        made = self.made
        return SegmentFacts(
            self.name,
            self.group.name,
            self.size_bytes,
            made.object_bytes,
            self.creator,
            made.owner,
            made.label,
            made.site,
            len(self.mapped),
            None if self.copy is None else self.copy.checksum,
        )


class Holdings:
    """The table of one node."""

    def __init__(self) -> None:
        self.account_of: dict[bytes, Account] = {}
        self.entry_of: dict[str, SegmentEntry] = {}
        self.ghosts_of: dict[str, list[SegmentEntry]] = {}
        self.mappers_of: dict[str, dict[bytes, None]] = {}
        """Who has a file mapped that holds no known object."""
        self.file_of: dict[str, SpillFile] = {}
        self.vacant = VacantFiles()
        self.lent_bytes = 0
        self.kept_bytes = 0
        self.object_bytes = 0
        """In memory: what is kept, and what is the node's."""
        self.memory = Group("memory", is_memory=True)
        """What nothing is to happen to; the least recently used first."""
        self.copies = Group("copy", is_memory=True)
        """Likewise, of what other nodes keep."""
        self.viewed = Group("viewed", is_memory=True)
        """What was viewed when it was asked for."""
        self.promised = Group("promised", is_memory=True)
        """What somebody is about to open."""
        self.asked = Group("asked", is_memory=True)
        """What somebody has not answered Evict for."""
        self.idle = Group("idle", is_memory=True)
        """What nobody has, and is to be written."""
        self.spilling = Group("spilling", is_memory=True)
        self.restoring = Group("restoring", is_memory=True)
        self.fetching = Group("fetching", is_memory=False)
        """What is on its way to this node's disk, for there is no room in memory."""
        self.disk = Group("disk", is_memory=False)
        self.waiting = Group("waiting", is_memory=False)
        """What is on disk, and is to be restored when there is room."""
        self.lost = Group("lost", is_memory=False)
        """What could not be read back."""
        self.file = Group("file", is_memory=False)
        """What was made on disk."""
        self.groups = (
            self.memory, self.copies, self.viewed, self.promised, self.asked, self.idle,
            self.spilling, self.restoring, self.fetching, self.disk, self.waiting, self.lost,
            self.file,
        )  # fmt: skip

    @property
    def spare_bytes(self) -> int:
        """What is lent, and holds no object."""
        return self.lent_bytes - self.kept_bytes

    @property
    def used_bytes(self) -> int:
        """Loans, and the node's own."""
        return self.spare_bytes + self.object_bytes + self.vacant.size_bytes

    def account(self, client: bytes) -> Account:
        """Return the account of a process, or a fresh one."""
        account = self.account_of.get(client)
        if account is None:
            account = self.account_of[client] = Account(client)
        return account

    # -------------------------------------------------------------- entries

    def add(self, made: MadeSegment, creator: Account) -> SegmentEntry:
        """Enter a segment that was made."""
        entry = self.entry_of[made.name] = SegmentEntry(made, creator.id)
        entry.mapped = self.mappers_of.pop(made.name, entry.mapped)
        if made.on_disk:
            self.move(entry, self.file)
        else:
            entry.keeper = creator
            creator.kept[made.name] = entry
            creator.kept_bytes += made.size_bytes
            self.kept_bytes += made.size_bytes
            self.move(entry, self.memory)
        return entry

    def move(self, entry: SegmentEntry, group: Group | None) -> None:
        """Bring an entry into a group, behind those that are in it already."""
        if group is self.memory and entry.is_elsewhere:
            group = self.copies
        before = entry.group
        if before is not None:
            del before.entries[entry]
            before.size_bytes -= entry.size_bytes
            if before.is_memory:
                self.object_bytes -= entry.size_bytes
        entry.group = group
        if group is not None:
            group.entries[entry] = None
            group.size_bytes += entry.size_bytes
            if group.is_memory:
                self.object_bytes += entry.size_bytes

    def put_first(self, entry: SegmentEntry) -> None:
        """Make an entry the least recently used."""
        self.move(entry, self.memory)
        assert entry.group is not None
        entry.group.entries.move_to_end(entry, last=False)

    def disown(self, entry: SegmentEntry) -> None:
        """Its owner's end will mean nothing to it."""
        owner = self.account_of.get(entry.made.owner)
        if owner is not None:
            owner.owned.pop(entry.name, None)

    def end_keeping(self, entry: SegmentEntry) -> Account:
        """No loan pays for the segment any more; return whose did."""
        keeper, entry.keeper = entry.keeper, None
        assert keeper is not None
        del keeper.kept[entry.name]
        keeper.kept_bytes -= entry.size_bytes
        self.kept_bytes -= entry.size_bytes
        return keeper

    def lend(self, account: Account, size_bytes: int) -> None:
        """Make a loan larger; less than 0: smaller."""
        account.lent_bytes += size_bytes
        self.lent_bytes += size_bytes

    def forget(self, entry: SegmentEntry) -> None:
        """Take an entry out. Who has the file mapped may find another object in it."""
        self.disown(entry)
        if entry.mapped:
            self.mappers_of[entry.name] = entry.mapped
        self.move(entry, None)
        del self.entry_of[entry.name]

    def add_ghost(self, entry: SegmentEntry) -> SegmentEntry:
        """Return the entry of a file without its name; it has the mappings that this one had."""
        ghost = SegmentEntry(entry.made, entry.creator)
        ghost.is_dropped = True
        ghost.mapped, entry.mapped = entry.mapped, {}
        self.ghosts_of.setdefault(entry.name, []).append(ghost)
        self.move(ghost, self.memory)
        return ghost

    def is_ghost(self, entry: SegmentEntry) -> bool:
        """Tell whether the name stands for another file, or for none."""
        return entry is not self.entry_of.get(entry.name)

    def end_ghost(self, ghost: SegmentEntry) -> None:
        """Nobody has the file any more."""
        self.move(ghost, None)
        ghosts = self.ghosts_of[ghost.name]
        ghosts.remove(ghost)
        if not ghosts:
            del self.ghosts_of[ghost.name]

    def drop_copy(self, entry: SegmentEntry) -> list[str]:
        """The copy of an entry is not needed; return the file that has no other."""
        copy, entry.copy = entry.copy, None
        if copy is None:
            return []
        copy.file.live -= 1
        if copy.file.live:
            return []
        del self.file_of[copy.file.name]
        return [copy.file.name]

    # -------------------------------------------------------------- who has it mapped

    def open(self, account: Account, name: str) -> SegmentEntry | None:
        """A process has a file mapped; return its entry, if it is known."""
        account.mapped[name] = None
        entry = self.entry_of.get(name)
        if entry is None or entry.group is None or not entry.group.is_memory:
            # It opened the file just before that was unlinked.
            ghosts = self.ghosts_of.get(name)
            entry = ghosts[-1] if ghosts else self.add_ghost(entry) if entry else None
        mapped = self.mappers_of.setdefault(name, {}) if entry is None else entry.mapped
        mapped[account.id] = None
        return entry

    def close(self, account: Account, name: str) -> list[SegmentEntry]:
        """A process has no mapping of this name; return the entries of which it had one."""
        account.mapped.pop(name, None)
        mappers = self.mappers_of.get(name)
        if mappers is not None:
            mappers.pop(account.id, None)
            if not mappers:
                del self.mappers_of[name]
        closed = [entry for entry in self.called(name) if account.id in entry.mapped]
        for entry in closed:
            del entry.mapped[account.id]
        return closed

    def called(self, name: str) -> Iterator[SegmentEntry]:
        """Yield the entries of all files that have or had this name."""
        yield from self.ghosts_of.get(name, ())
        entry = self.entry_of.get(name)
        if entry is not None:
            yield entry

    def promise(self, entry: SegmentEntry, client: bytes) -> None:
        """A process is about to open this."""
        entry.promised[client] = None
        self.account_of[client].promised[entry.name] = None

    def keep_promise(self, account: Account, name: str) -> None:
        """A process has opened this, or will not."""
        if name in account.promised:
            del account.promised[name]
            entry = self.entry_of[name]
            del entry.promised[account.id]
            if entry.group is self.promised and not entry.promised:
                self.move(entry, self.memory)

    def break_promises(self, entry: SegmentEntry) -> None:
        """Who was about to open this will not find its object."""
        for client in entry.promised:
            del self.account_of[client].promised[entry.name]
        entry.promised.clear()

    # -------------------------------------------------------------- questions

    def usage(self, budget_bytes: int, waiting: int) -> StoreUsage:
        """Return the memory in numbers."""
        files = sum(file.size_bytes for file in self.file_of.values())
        away = (self.disk, self.waiting, self.restoring, self.fetching)
        on_disk = [entry for group in away for entry in group.entries]
        return StoreUsage(
            budget_bytes=budget_bytes,
            used_bytes=self.used_bytes,
            vacant_bytes=self.vacant.size_bytes,
            lent_bytes=self.lent_bytes,
            spare_bytes=self.spare_bytes,
            spilled_bytes=sum(entry.made.object_bytes for entry in on_disk),
            disk_bytes=files + self.file.size_bytes,
            segments={group.name: len(group.entries) for group in self.groups if group.entries},
            waiting=waiting,
        )

    def largest(self, most: int) -> list[SegmentFacts]:
        """Return at most so many entries in memory, the largest first."""
        groups = (group for group in self.groups if group.is_memory)
        entries = (entry for group in groups for entry in group.entries)
        found = heapq.nlargest(most, entries, key=lambda entry: entry.size_bytes)
        return [entry.facts() for entry in found]

    # -------------------------------------------------------------- what is always true

    def check(self) -> None:
        """Assert what is always true."""
        self._check_bytes()
        entries = {entry for group in self.groups for entry in group.entries}
        ghosts = {ghost for ghosts in self.ghosts_of.values() for ghost in ghosts}
        assert entries == {*self.entry_of.values(), *ghosts}, 3
        for entry in entries:
            self._check_entry(entry)
        assert all(ghost.mapped and ghost.is_dropped for ghost in ghosts), 3
        copies: dict[SpillFile, int] = {}
        for entry in entries:
            if entry.copy is not None:
                copies[entry.copy.file] = copies.get(entry.copy.file, 0) + 1
            else:
                away = (self.disk, self.waiting, self.restoring, self.fetching)
                assert entry.group not in away, 4
        assert {file: file.live for file in self.file_of.values()} == copies, 4

    def _check_bytes(self) -> None:
        accounts = self.account_of.values()
        for account in accounts:
            assert account.kept_bytes == sum(e.size_bytes for e in account.kept.values()), 2
            assert account.kept_bytes <= account.lent_bytes, 2
            assert account.recalled_bytes == sum(account.recalls), 2
            assert all(entry.keeper is account for entry in account.kept.values()), 2
            assert all(account.id in self.entry_of[n].promised for n in account.promised), 3
            assert not any(entry.is_dropped for entry in account.owned.values()), 3
            for name in account.mapped:
                mappers = [entry.mapped for entry in self.called(name)]
                assert any(account.id in m for m in (*mappers, self.mappers_of.get(name, ()))), 3
        assert self.lent_bytes == sum(account.lent_bytes for account in accounts), 1
        assert self.kept_bytes == sum(account.kept_bytes for account in accounts), 1
        for group in self.groups:
            assert all(entry.group is group for entry in group.entries), 3
            assert group.size_bytes == sum(entry.size_bytes for entry in group.entries), 1
        in_memory = [entry for group in self.groups if group.is_memory for entry in group.entries]
        assert self.object_bytes == sum(entry.size_bytes for entry in in_memory), 1
        of_node = sum(entry.size_bytes for entry in in_memory if entry.keeper is None)
        vacant = self.vacant
        assert vacant.size_bytes == sum(vacant.size_of.values()), 1
        by_size = {name: size for size, names in vacant.names_of.items() for name in names}
        assert vacant.size_of == by_size, 1
        assert all(vacant.names_of.values()), 1
        assert self.used_bytes == self.lent_bytes + of_node + vacant.size_bytes, 1

    def _check_entry(self, entry: SegmentEntry) -> None:
        group = entry.group
        if entry.keeper is not None:
            assert entry.name in entry.keeper.kept, 2
        away = (self.restoring, self.fetching, self.disk, self.waiting)
        if group in (self.idle, self.spilling, *away):
            assert entry.keeper is None, 3
        if group in (self.idle, self.disk, self.waiting, self.fetching, self.lost):
            assert not entry.mapped, 3
        if group is not self.spilling:
            assert bool(entry.promised) == (group is self.promised), 3
        assert bool(entry.pending) == (group is self.asked), 3
        assert not entry.askers or group in (self.waiting, self.restoring, self.fetching), 3
        for client in (*entry.mapped, *entry.pending, *entry.promised):
            assert client in self.account_of, 3
