"""One process's table of objects: what it owns, what it borrows, and what may be freed.

The process that makes a reference owns its object: it keeps the value or its place, and counts who
needs it. Every other process that holds a reference borrows it, and tells the owner once when it
begins to and once when it ends.

    owned      made -> sealed (value known) -> freed (nobody needs it)
    borrowed   adopted -> registered (the owner counts us) -> returned (nobody here needs it)

A borrower's registration takes a message's time. Until the owner has answered, something that is
counted already must keep the object: the task that brought the reference, or the object that
contains it (`Adopted.keeper`).

What is always true
1. An object is in the table while it is needed: `local + pins > 0`, or it has borrowers, or its
   registration is under way, or a request for its value is not answered.
2. An owned, sealed object pins every reference inside its value, or inside its error; freeing it
   unpins them.
3. A borrowed object that is registered is returned exactly once, when it leaves the table.
4. A keeper is pinned until every reference that it keeps is registered or has left.
5. The value of an object never changes once sealed.

Source: Wang et al., "Ownership: A Distributed Futures System for Fine-Grained Tasks", NSDI 2021,
section 4. The acknowledged registration replaces the paper's long-poll on each borrower: here a
connection's end tells that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, assert_never

import msgspec

from weft._ids import ObjectId
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
        "local",
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


class TaskEnding(msgspec.Struct, frozen=True):
    """A task here is about to answer: what it still holds must be registered first."""


Event = (
    ObjectMade | Sealed | Adopted | Counted | Released | Pinned | Unpinned | Wanted | Requested
    | Lent | Returned | PeerLost | Registered | OwnerLost | TaskEnding
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


class Freed(msgspec.Struct, frozen=True):
    """The object has left the table: its task need not be kept for it."""

    entry: Entry


Effect = Ready | SendValue | SendBorrow | SendReturn | SendBorrowed | SendFetch | Recycled | Freed

_NOTHING: list[Effect] = []


class Ownership:
    """The table."""

    def __init__(self) -> None:
        self.entries: dict[ObjectId, Entry] = {}
        self.unregistered: dict[ObjectId, Entry] = {}
        """Borrowed objects that a running task's caller still keeps for it."""
        self.asked: set[ObjectId] = set()
        """Objects whose registration is under way."""
        self._requested: dict[ObjectId, Entry] = {}
        """Those that have requests."""
        self._lent_to: dict[Peer, set[ObjectId]] = {}

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
                return self._lose_peer(event.peer)
            case Registered():
                return self._registered(event)
            case OwnerLost():
                return self._lose_owner(event)
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
        return _NOTHING

    def _request(self, event: Requested) -> list[Effect]:
        entry = self.entries[event.object_id]
        if entry.value is not None:
            return [SendValue(event.peer, event.object_id, entry.value)]
        if entry.requests is None:
            entry.requests = []
            self._requested[event.object_id] = entry
        entry.requests.append(event.peer)
        return _NOTHING

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
        """Take an object out, and those that only it kept.

        Without recursion: such chains can be long.
        """
        dropped = [entry]
        while dropped:
            entry = dropped.pop()
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
                for held in value.held:
                    inner = self.entries[ObjectId(held.object_id)]
                    inner.pins -= 1
                    if not inner.needed:
                        dropped.append(inner)

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
            self.asked.add(entry.id)
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
            self.asked.discard(object_id)
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
            self._lent_to.setdefault(event.peer, set()).add(object_id)
        return [SendBorrowed(event.peer, known, lost)]

    def _return(self, peer: Peer, object_ids: Sequence[ObjectId]) -> list[Effect]:
        effects: list[Effect] = []
        lent = self._lent_to.get(peer)
        for object_id in object_ids:
            if lent is not None:
                lent.discard(object_id)
            entry = self.entries.get(object_id)
            if entry is None or entry.borrowers is None:
                continue
            entry.borrowers.discard(peer)
            if not entry.needed:
                self._drop(entry, effects)
        if not lent:
            self._lent_to.pop(peer, None)
        return effects

    def _lose_peer(self, peer: Peer) -> list[Effect]:
        effects = self._return(peer, list(self._lent_to.get(peer, ())))
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
            self.asked.discard(entry.id)
            entry.registered = "no"
            if entry.keeps is not None:
                keeper, entry.keeps = entry.keeps, None
                self._unpin(keeper, effects)
            if entry.value is None:
                effects.extend(self._seal(entry.id, event.failure))
            if not entry.needed:
                self._drop(entry, effects)
        return effects

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        asked = {entry.id for entry in self.entries.values() if entry.registered == "asked"}
        assert self.asked == asked, (1, self.asked ^ asked)
        for object_id, entry in self.entries.items():
            assert entry.id == object_id
            assert entry.local >= 0 and entry.pins >= 0 and entry.needed, (1, entry.id)
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
