"""One process's table of objects: what it owns, what it borrows, and what may be freed.

The process that makes a reference owns its object: it keeps the value or its place, and counts who
needs it. Every other process that holds a reference borrows it, and tells the owner once when it
begins to and once when it ends.

    owned      made -> sealed (value known) -> freed (nobody needs it)
    borrowed   adopted -> registered (the owner counts us) -> returned (nobody here needs it)
               registered -> the connection broke (OwnerMetAgain, PeerParted) -> registered again

A borrower's registration takes a message's time. Until the owner has answered, something that is
counted already must keep the object: the task that brought the reference, or the object that
contains it (`Adopted.keeper`).

The bytes of a large object can be lost while its owner lives. The owner then has the task run again
that made it, as its lineage says (lineage.py, docs/design/0006). What a lineage mentions and nobody
needs is a shadow: it stays in the table without a value that takes room, and is made again when
somebody wants it.

    owned      sealed -> missing (lost, or given up by a shadow) -> sealed again

What is always true
1. An object is in the table while it is needed: `local + pins > 0`, or it has borrowers, or its
   registration is under way, or a request for its value is not answered; or while a lineage
   mentions it. A shadow has no value in a segment, and none that holds references.
2. An owned, sealed object pins every reference inside its value, or inside its error; freeing it
   unpins them.
3. A borrowed object that is registered is returned exactly once, when it leaves the table.
4. A keeper is pinned until every reference that it keeps is registered or has left.
5. The value of an object never changes once sealed, unless its segment is lost: then it is unknown
   until the object is sealed again; or the object is freed by hand: then it is a failure for good.
6. A lineage is kept, unless the bound is passed, from the task's end until none of its results that
   can be lost is in the table. `mentions` counts exactly what is kept.

Source: Wang et al., "Ownership: A Distributed Futures System for Fine-Grained Tasks", NSDI 2021,
section 4. The acknowledged registration replaces the paper's long-poll on each borrower: here a
connection's end tells that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, assert_never

import msgspec

from weft._ids import ObjectId
from weft._machines.lineage import Lineage, Lineages, can_go
from weft._wire.messages import Failure, Held, Shared, Value

Peer = Any
"""Whatever the shell uses to name a process that asks: hashable."""


class Entry:
    """One object in the table.

    The shell may read it, and keeps its own notes in `leaving` and `waiters`.
    """

    __slots__ = (
        "asked",
        "borrowers",
        "id",
        "keeps",
        "leaving",
        "lineage",
        "local",
        "mentions",
        "missing",
        "owner",
        "pins",
        "registered",
        "requests",
        "value",
        "waiters",
    )

    def __init__(self, object_id: ObjectId, owner: str) -> None:
        self.id = object_id
        self.owner = owner
        """The owner's address; empty if it is this process."""
        self.local = 0
        """References and views in this process."""
        self.pins = 0
        """Pending tasks that need it, owned objects that contain it, keepers' duties."""
        self.borrowers: set[Peer] | None = None
        self.requests: list[Peer] | None = None
        """Who asked for the value before it was known."""
        self.value: Value | None = None
        self.registered: Literal["no", "asked", "yes"] = "no"
        self.asked = False
        """A borrowed object's value is on its way."""
        self.keeps: Entry | None = None
        """The object that this one's registration keeps alive."""
        self.waiters: list[Any] | None = None
        self.lineage: Lineage | None = None
        """Of an owned object that may be lost, or was."""
        self.mentions = 0
        """Lineages that mention it, as often as they do."""
        self.missing = ""
        """Why an owned object's value is not there any more."""
        self.leaving = 0
        """Of `local`, those that the shell knows to be gone and has not told yet."""

    @property
    def needed(self) -> bool:
        """Whether it has to stay in the table."""
        return bool(
            self.local > 0
            or self.pins
            or self.borrowers
            or self.requests
            or self.registered == "asked"
        )


# ------------------------------------------------------------------ events


class ObjectMade(msgspec.Struct, frozen=True, gc=False):
    """A task was submitted, or a value is put: its object is owned here, with one reference."""

    object_id: ObjectId


class Sealed(msgspec.Struct, frozen=True):
    """The value is known: from `put`, a task's end, or the owner's answer."""

    object_id: ObjectId
    value: Value


class Adopted(msgspec.Struct, frozen=True):
    """A reference from elsewhere appeared here.

    `defer`: a running task keeps it until `TaskEnding`.
    """

    object_id: ObjectId
    owner: str
    keeper: ObjectId | None
    defer: bool


class Counted(msgspec.Struct, frozen=True, gc=False):
    """One more reference or view exists here."""

    object_id: ObjectId


class Released(msgspec.Struct, frozen=True):
    """References or views are gone; an id stands here once for each."""

    object_ids: Sequence[ObjectId]


class Pinned(msgspec.Struct, frozen=True):
    """A pending task needs these."""

    object_ids: Sequence[ObjectId]


class Unpinned(msgspec.Struct, frozen=True):
    """It needs them no longer."""

    object_ids: Sequence[ObjectId]


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """Somebody here waits for the value."""

    object_id: ObjectId


class Requested(msgspec.Struct, frozen=True):
    """A borrower asks for the value."""

    object_id: ObjectId
    peer: Peer


class Lent(msgspec.Struct, frozen=True):
    """A borrower has begun to hold these."""

    peer: Peer
    object_ids: Sequence[ObjectId]


class Returned(msgspec.Struct, frozen=True):
    """A borrower holds these no longer."""

    peer: Peer
    object_ids: Sequence[ObjectId]


class PeerLost(msgspec.Struct, frozen=True):
    """A process is gone: it borrows nothing any more."""

    peer: Peer


class PeerParted(msgspec.Struct, frozen=True):
    """The connection to a process broke, which may live: it borrows until `PeerLost`.

    If it comes back it is another peer, which borrows and asks again.
    """

    peer: Peer


class Registered(msgspec.Struct, frozen=True):
    """The owner counts us for these; `lost` are gone there, and become `failure` here."""

    object_ids: Sequence[ObjectId]
    lost: Sequence[ObjectId]
    failure: Failure


class OwnerLost(msgspec.Struct, frozen=True):
    """The owner of borrowed objects is gone.

    `failure` is what they become where no value is known.
    """

    owner: str
    failure: Failure


class OwnerMetAgain(msgspec.Struct, frozen=True):
    """The owner of borrowed objects has another connection: it may have heard nothing of late."""

    owner: str


class SegmentGone(msgspec.Struct, frozen=True):
    """Somebody found that the object's bytes are neither in memory nor on disk."""

    object_id: ObjectId
    segment: str
    reason: str


class FreeAsked(msgspec.Struct, frozen=True):
    """Somebody frees the object by hand: `failure` is what it becomes, and it is not made again."""

    object_id: ObjectId
    failure: Failure


class Yielding(msgspec.Struct, frozen=True):
    """A task that has not ended has sealed one more object."""

    object_id: ObjectId
    lineage: Lineage


class TaskEnded(msgspec.Struct, frozen=True):
    """A task has sealed what it made, for the first time or again.

    `lineage` says how it can be run again, or why not; `failure`, why running it again came to
    nothing.
    """

    lineage: Lineage
    made: Sequence[ObjectId] = ()
    failure: str = ""


class TaskEnding(msgspec.Struct, frozen=True):
    """A task here is about to answer: what it still holds must be registered first."""


Event = (
    ObjectMade | Sealed | Adopted | Counted | Released | Pinned | Unpinned | Wanted | Requested
    | Lent | Returned | PeerLost | PeerParted | Registered | OwnerLost | OwnerMetAgain | TaskEnding
    | SegmentGone | Yielding | TaskEnded | FreeAsked
)  # fmt: skip

# ------------------------------------------------------------------ effects


class Ready(msgspec.Struct, frozen=True):
    """Tell those who wait in this process."""

    entry: Entry


class SendValue(msgspec.Struct, frozen=True):
    """Answer a borrower's request."""

    peer: Peer
    object_id: ObjectId
    value: Value


class SendBorrow(msgspec.Struct, frozen=True):
    """Register with the owner."""

    owner: str
    object_ids: list[ObjectId]


class SendReturn(msgspec.Struct, frozen=True):
    """Tell the owner that these are not held here any more."""

    owner: str
    object_ids: list[ObjectId]


class SendBorrowed(msgspec.Struct, frozen=True):
    """Answer a registration."""

    peer: Peer
    object_ids: list[ObjectId]
    lost: list[ObjectId]


class SendFetch(msgspec.Struct, frozen=True):
    """Ask the owner for the value."""

    owner: str
    object_id: ObjectId


class Recycled(msgspec.Struct, frozen=True):
    """Nobody reads this segment any more."""

    value: Shared


class Discarded(msgspec.Struct, frozen=True):
    """Remove this segment, which processes may know of still: it may not be filled again."""

    value: Shared


class SendFree(msgspec.Struct, frozen=True):
    """Tell the owner that the object is freed by hand."""

    owner: str
    object_id: ObjectId


class Freed(msgspec.Struct, frozen=True):
    """The object has left the table: its task need not be kept for it."""

    entry: Entry


class SendGone(msgspec.Struct, frozen=True):
    """Tell the owner that the object's bytes are gone."""

    owner: str
    object_id: ObjectId
    segment: str
    reason: str


class RunAgain(msgspec.Struct, frozen=True):
    """Run a task again whose result is missing."""

    lineage: Lineage


class Unrecoverable(msgspec.Struct, frozen=True):
    """Seal the object with a failure: it is lost, and cannot be made again."""

    entry: Entry
    why: str


Effect = (
    Ready | SendValue | SendBorrow | SendReturn | SendBorrowed | SendFetch | Recycled | Freed
    | SendGone | RunAgain | Unrecoverable | Discarded | SendFree
)  # fmt: skip

_NOTHING: list[Effect] = []
_FREED = "its value was freed when nobody needed it"


class Ownership:
    """The table."""

    def __init__(self, lineage_bytes: int) -> None:
        self.lineages = Lineages(lineage_bytes)
        self.entries: dict[ObjectId, Entry] = {}
        self.unregistered: dict[ObjectId, Entry] = {}
        """Borrowed objects that a running task's caller still keeps for it."""
        self.asked: dict[ObjectId, None] = {}
        """Objects whose registration is under way."""
        self._requested: dict[ObjectId, Entry] = {}
        """Those that have requests."""
        self._lent_to: dict[Peer, dict[ObjectId, None]] = {}

    def handle(self, event: Event) -> list[Effect]:
        """Take an event; return what to do, in order.

        KeyError for an unknown object changes nothing.
        """
        match event:
            case ObjectMade():
                if event.object_id in self.entries:
                    raise KeyError(event.object_id)
                entry = self.entries[event.object_id] = Entry(event.object_id, "")
                entry.local = 1
                return _NOTHING
            case Sealed():
                return self._seal(event.object_id, event.value)
            case Released():
                return self._release(event.object_ids)
            case Counted():
                self.entries[event.object_id].local += 1
                return _NOTHING
            case Pinned():
                for entry in [self.entries[object_id] for object_id in event.object_ids]:
                    entry.pins += 1
                return _NOTHING
            case Unpinned():
                effects: list[Effect] = []
                for entry in [self.entries[object_id] for object_id in event.object_ids]:
                    self._unpin(entry, effects)
                return effects
            case Wanted():
                return self._want(self.entries[event.object_id])
            case Adopted():
                return self._adopt(event)
            case TaskEnding():
                return self._register_all()
            case Requested():
                return self._request(event)
            case Lent():
                return self._lend(event)
            case Returned():
                return self._return(event.peer, event.object_ids)
            case PeerLost():
                effects = self._return(event.peer, list(self._lent_to.get(event.peer, ())))
                return effects + self._drop_requests(event.peer)
            case PeerParted():
                return self._drop_requests(event.peer)
            case Registered():
                return self._registered(event)
            case OwnerLost():
                return self._lose_owner(event)
            case OwnerMetAgain():
                return self._ask_again(event.owner)
            case SegmentGone():
                return self._lose_segment(event)
            case FreeAsked():
                return self._free(event)
            case Yielding():
                self._attach(event.object_id, event.lineage)
                return _NOTHING
            case TaskEnded():
                return self._task_ended(event)
            case _:
                assert_never(event)

    # -------------------------------------------------------------- values

    def _seal(self, object_id: ObjectId, value: Value) -> list[Effect]:
        entry = self.entries.get(object_id)
        effects: list[Effect] = []
        if entry is None or (entry.value is not None and not entry.owner):
            # Nobody waits for it: a task's result whose references are gone, or that came after the
            # task was ended.
            if isinstance(value, Shared) and (entry is None or entry.value != value):
                effects.append(Recycled(value))
            return effects
        if entry.value is not None:
            return effects
        entry.value = value
        entry.missing = ""
        if not entry.owner:
            for held in value.held:
                self._pin_held(held, effects)
        effects.append(Ready(entry))
        if entry.requests is not None:
            requests, entry.requests = entry.requests, None
            del self._requested[object_id]
            effects.extend(SendValue(peer, object_id, value) for peer in requests)
            if not entry.needed:
                self._drop(entry, effects)
        elif entry.mentions and not entry.needed:
            self._drop(entry, effects)
        return effects

    def _pin_held(self, held: Held, effects: list[Effect]) -> None:
        object_id = ObjectId(held.object_id)
        entry = self.entries.get(object_id)
        if entry is None:
            entry = self.entries[object_id] = Entry(object_id, held.owner)
            self._register([entry], effects)
        entry.pins += 1

    def _want(self, entry: Entry) -> list[Effect]:
        if entry.value is None and entry.owner and not entry.asked:
            entry.asked = True
            return [SendFetch(entry.owner, entry.id)]
        if entry.missing:
            return self._recover(entry)
        return _NOTHING

    def _request(self, event: Requested) -> list[Effect]:
        entry = self.entries[event.object_id]
        if entry.value is not None:
            return [SendValue(event.peer, event.object_id, entry.value)]
        if entry.requests is None:
            entry.requests = []
            self._requested[event.object_id] = entry
        entry.requests.append(event.peer)
        return self._recover(entry) if entry.missing else _NOTHING

    # -------------------------------------------------------------- counts

    def _release(self, object_ids: Sequence[ObjectId]) -> list[Effect]:
        effects: list[Effect] = []
        entries = self.entries
        for object_id in object_ids:
            entry = entries.get(object_id)
            if entry is None:
                continue
            entry.local -= 1
            entry.leaving = 0
            if entry.local <= 0 and not entry.pins and not entry.needed:
                self._drop(entry, effects)
        return effects

    def _unpin(self, entry: Entry, effects: list[Effect]) -> None:
        entry.pins -= 1
        if not entry.pins and not entry.needed:
            self._drop(entry, effects)

    def _drop(self, entry: Entry, effects: list[Effect]) -> None:
        self._drop_all([entry], effects)

    def _drop_all(self, dropped: list[Entry], effects: list[Effect]) -> None:
        """Take objects out, and those that only they kept.

        What a lineage mentions stays, as a shadow. Without recursion: such chains can be long.
        """
        while dropped:
            entry = dropped.pop()
            if entry.mentions:
                self._fade(entry, effects, dropped)
                continue
            if self.entries.pop(entry.id, None) is None:
                continue
            if entry.owner:
                self.unregistered.pop(entry.id, None)
                if entry.registered == "yes":
                    effects.append(SendReturn(entry.owner, [entry.id]))
                continue
            value = entry.value
            effects.append(Freed(entry))
            if isinstance(value, Shared):
                effects.append(Recycled(value))
            if value is not None:
                self._let_inner_go(value, dropped)
            if entry.lineage is not None:
                self._part(entry, dropped)

    def _let_inner_go(self, value: Value, dropped: list[Entry]) -> None:
        for held in value.held:
            inner = self.entries[ObjectId(held.object_id)]
            inner.pins -= 1
            if not inner.needed:
                dropped.append(inner)

    def _fade(self, entry: Entry, effects: list[Effect], dropped: list[Entry]) -> None:
        """Make a shadow of an object that only lineages mention.

        A small value that holds nothing stays: it costs less than to make it again.
        """
        effects.append(Freed(entry))
        value = entry.value
        if value is None or not can_go(value):
            return
        entry.value = None
        entry.missing = _FREED
        if isinstance(value, Shared):
            effects.append(Recycled(value))
        self._let_inner_go(value, dropped)

    # -------------------------------------------------------------- what is freed by hand

    def _free(self, event: FreeAsked) -> list[Effect]:
        entry = self.entries.get(event.object_id)
        effects: list[Effect] = []
        if entry is None:
            # Nobody needs it any more.
            return effects
        dropped: list[Entry] = []
        if entry.owner:
            effects.append(SendFree(entry.owner, entry.id))
        elif entry.lineage is not None:
            self._part(entry, dropped)
        value = entry.value
        if value is None:
            # Whoever waits is told. What its task makes is recycled when it comes.
            effects += self._seal(entry.id, event.failure)
        else:
            entry.value = event.failure
            if not entry.owner:
                if isinstance(value, Shared):
                    effects.append(Discarded(value))
                self._let_inner_go(value, dropped)
        self._drop_all(dropped, effects)
        return effects

    # -------------------------------------------------------------- what is lost

    def _lose_segment(self, event: SegmentGone) -> list[Effect]:
        entry = self.entries.get(event.object_id)
        if (
            entry is None
            or not isinstance(value := entry.value, Shared)
            or value.segment != event.segment
        ):
            # It was told already, or nobody needs it any more.
            return _NOTHING
        entry.value = None
        if entry.owner:
            entry.asked = True
            return [
                SendGone(entry.owner, entry.id, event.segment, event.reason),
                SendFetch(entry.owner, entry.id),
            ]
        entry.missing = event.reason
        effects = self._recover(entry)
        # What it held goes after: the task that is run again may need it.
        effects.append(Recycled(value))
        dropped: list[Entry] = []
        self._let_inner_go(value, dropped)
        self._drop_all(dropped, effects)
        return effects

    def _recover(self, entry: Entry) -> list[Effect]:
        """Have a missing object made again, or say why it cannot be."""
        lineage = entry.lineage
        if lineage is None:
            return [Unrecoverable(entry, "weft.put stored it, and no task can make it again")]
        if lineage.why_not:
            return [Unrecoverable(entry, lineage.why_not)]
        if lineage.running:
            # Its task may have passed the place where it makes this one.
            lineage.again = True
            return []
        lineage.running = True
        return [RunAgain(lineage)]

    def _attach(self, object_id: ObjectId, lineage: Lineage) -> None:
        entry = self.entries.get(object_id)
        if entry is not None and (entry.missing or can_go(entry.value)):
            entry.lineage = lineage
            lineage.results[object_id] = None

    def _task_ended(self, event: TaskEnded) -> list[Effect]:
        lineage = event.lineage
        effects: list[Effect] = []
        dropped: list[Entry] = []
        lineage.running = False
        if not lineage.ended:
            lineage.ended = True
            self._keep(lineage, event.made, effects)
        is_over = bool(event.failure) or not lineage.again
        lineage.again = False
        for object_id in list(lineage.results):
            entry = self.entries[object_id]
            if entry.value is not None and not can_go(entry.value):
                # Made again, it was small.
                self._part(entry, dropped)
            elif not entry.missing or not entry.needed:
                continue
            elif is_over:
                why = event.failure or lineage.why_not or "its task did not make it again"
                effects.append(Unrecoverable(entry, why))
            else:
                effects.extend(self._recover(entry))
        self._drop_all(dropped, effects)
        return effects

    def _keep(self, lineage: Lineage, made: Sequence[ObjectId], effects: list[Effect]) -> None:
        for object_id in made:
            self._attach(object_id, lineage)
        if not lineage.results or lineage.why_not:
            return
        for object_id in lineage.mentions:
            self.entries[object_id].mentions += 1
        self.lineages.keep(lineage)
        while (oldest := self.lineages.oldest_over_limit()) is not None:
            why_not = (
                "how to make it again was forgotten, since that took more than "
                f"{self.lineages.limit_bytes} bytes in its owner"
            )
            self._drop_all(self._unmention(oldest, why_not), effects)

    def _part(self, entry: Entry, dropped: list[Entry]) -> None:
        """Take an object from its lineage, which goes with the last."""
        lineage, entry.lineage = entry.lineage, None
        assert lineage is not None
        del lineage.results[entry.id]
        if not lineage.results:
            dropped += self._unmention(lineage, "nobody needs it")

    def _unmention(self, lineage: Lineage, why_not: str) -> list[Entry]:
        """Forget a lineage; return what only it kept in the table."""
        unneeded: list[Entry] = []
        for object_id in self.lineages.forget(lineage, why_not):
            entry = self.entries[object_id]
            entry.mentions -= 1
            if not entry.mentions and not entry.needed:
                unneeded.append(entry)
        return unneeded

    # -------------------------------------------------------------- borrowing

    def _adopt(self, event: Adopted) -> list[Effect]:
        entry = self.entries.get(event.object_id)
        effects: list[Effect] = []
        if entry is None:
            entry = self.entries[event.object_id] = Entry(event.object_id, event.owner)
            if event.defer:
                self.unregistered[event.object_id] = entry
            else:
                if (
                    event.keeper is not None
                    and (keeper := self.entries.get(event.keeper)) is not None
                ):
                    keeper.pins += 1
                    entry.keeps = keeper
                self._register([entry], effects)
        entry.local += 1
        return effects

    def _register(self, entries: Sequence[Entry], effects: list[Effect]) -> None:
        by_owner: dict[str, list[ObjectId]] = {}
        for entry in entries:
            entry.registered = "asked"
            self.asked[entry.id] = None
            by_owner.setdefault(entry.owner, []).append(entry.id)
        effects.extend(SendBorrow(owner, object_ids) for owner, object_ids in by_owner.items())

    def _register_all(self) -> list[Effect]:
        if not self.unregistered:
            return _NOTHING
        effects: list[Effect] = []
        entries = list(self.unregistered.values())
        self.unregistered.clear()
        self._register(entries, effects)
        return effects

    def _registered(self, event: Registered) -> list[Effect]:
        effects: list[Effect] = []
        for object_id in (*event.object_ids, *event.lost):
            self.asked.pop(object_id, None)
            entry = self.entries.get(object_id)
            if entry is None or entry.registered != "asked":
                continue
            if entry.keeps is not None:
                keeper, entry.keeps = entry.keeps, None
                self._unpin(keeper, effects)
            if object_id in event.lost:
                entry.registered = "no"
                effects.extend(self._seal(object_id, event.failure))
            else:
                entry.registered = "yes"
            if not entry.needed:
                self._drop(entry, effects)
        return effects

    def _lend(self, event: Lent) -> list[Effect]:
        known: list[ObjectId] = []
        lost: list[ObjectId] = []
        for object_id in event.object_ids:
            entry = self.entries.get(object_id)
            if entry is None or entry.owner:
                lost.append(object_id)
                continue
            known.append(object_id)
            if entry.borrowers is None:
                entry.borrowers = set()
            entry.borrowers.add(event.peer)
            self._lent_to.setdefault(event.peer, {})[object_id] = None
        return [SendBorrowed(event.peer, known, lost)]

    def _return(self, peer: Peer, object_ids: Sequence[ObjectId]) -> list[Effect]:
        effects: list[Effect] = []
        lent = self._lent_to.get(peer)
        for object_id in object_ids:
            if lent is not None:
                lent.pop(object_id, None)
            entry = self.entries.get(object_id)
            if entry is None or entry.borrowers is None:
                continue
            entry.borrowers.discard(peer)
            if not entry.needed:
                self._drop(entry, effects)
        if not lent:
            self._lent_to.pop(peer, None)
        return effects

    def _drop_requests(self, peer: Peer) -> list[Effect]:
        effects: list[Effect] = []
        for entry in list(self._requested.values()):
            assert entry.requests is not None
            entry.requests = [other for other in entry.requests if other != peer] or None
            if entry.requests is None:
                del self._requested[entry.id]
                if not entry.needed:
                    self._drop(entry, effects)
        return effects

    def _lose_owner(self, event: OwnerLost) -> list[Effect]:
        effects: list[Effect] = []
        for entry in [entry for entry in self.entries.values() if entry.owner == event.owner]:
            self.unregistered.pop(entry.id, None)
            self.asked.pop(entry.id, None)
            entry.registered = "no"
            if entry.keeps is not None:
                keeper, entry.keeps = entry.keeps, None
                self._unpin(keeper, effects)
            if entry.value is None:
                effects.extend(self._seal(entry.id, event.failure))
            if not entry.needed:
                self._drop(entry, effects)
        return effects

    def _ask_again(self, owner: str) -> list[Effect]:
        effects: list[Effect] = []
        borrowed = [entry for entry in self.entries.values() if entry.owner == owner]
        self._register([entry for entry in borrowed if entry.registered != "no"], effects)
        effects += [
            SendFetch(owner, entry.id) for entry in borrowed if entry.asked and entry.value is None
        ]
        return effects

    def borrows_from(self, owner: str) -> bool:
        """Tell whether objects of a process are in the table."""
        return any(entry.owner == owner for entry in self.entries.values())

    def lends_to(self, peer: Peer) -> bool:
        """Tell whether a process holds objects of this one."""
        return peer in self._lent_to

    @property
    def is_lender(self) -> bool:
        """Whether other processes hold objects of this one."""
        return bool(self._lent_to)

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        asked = {entry.id for entry in self.entries.values() if entry.registered == "asked"}
        assert self.asked.keys() == asked, (1, self.asked.keys() ^ asked)
        for object_id, entry in self.entries.items():
            assert entry.id == object_id
            assert entry.local >= 0 and entry.pins >= 0, (1, entry.id)
            assert entry.needed or entry.mentions > 0, (1, entry.id)
            if not entry.needed:
                assert entry.value is None or not can_go(entry.value), (1, entry.id)
            assert not entry.missing or (entry.value is None and not entry.owner), (5, entry.id)
            assert not (entry.owner and entry.borrowers), (1, entry.id)
        inside: dict[ObjectId, int] = {}
        for entry in self.entries.values():
            if not entry.owner and entry.value is not None:
                for held in entry.value.held:
                    inside[ObjectId(held.object_id)] = inside.get(ObjectId(held.object_id), 0) + 1
            if entry.keeps is not None:
                assert entry.registered != "yes", (4, entry.id)
                inside[entry.keeps.id] = inside.get(entry.keeps.id, 0) + 1
        for object_id, count in inside.items():
            assert self.entries[object_id].pins >= count, (2, object_id)
        self._check_lineages()

    def _check_lineages(self) -> None:
        self.lineages.check()
        for entry in self.entries.values():
            assert entry.lineage is None or entry.id in entry.lineage.results, (6, entry.id)
        mentions: dict[ObjectId, int] = {}
        for lineage in self.lineages.kept.values():
            assert lineage.results, (6, lineage.task_id)
            for object_id in lineage.results:
                assert self.entries[object_id].lineage is lineage, (6, object_id)
            for object_id in lineage.mentions:
                mentions[object_id] = mentions.get(object_id, 0) + 1
        for entry in self.entries.values():
            assert entry.mentions == mentions.get(entry.id, 0), (6, entry.id)
