"""The references of a program whose objects are all elsewhere, and what is known of their values.

Inside the guard of the loop, where a docstring does not say otherwise.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from weft._ids import ObjectId, TaskId
from weft._refs import ObjectRef
from weft._wire.remote import Adopts, Releases

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._engine import Engine
    from weft._runtime.loop import Loop
    from weft._wire.messages import Held
    from weft._wire.remote import Order

PENDING, VALUE, FAILED, LARGE = range(4)


class RemoteEntry:
    """One object, as long as the program has a reference to it."""

    __slots__ = ("data", "given", "id", "is_followed", "local", "owner", "state", "waiters")

    def __init__(self, object_id: ObjectId, owner: str) -> None:
        self.id = object_id
        self.owner = owner
        self.local = 0
        """References in this process."""
        self.given = 0
        """Counts that the deputy holds for them."""
        self.state = PENDING
        self.data = b""
        """The packed value, or error."""
        self.is_followed = False
        """The deputy says when the value is there."""
        self.waiters: list[Callable[[], object]] = []


class RemoteStream:
    """A stream, as its consumer sees it."""

    __slots__ = ("error", "is_asked", "is_ended", "ready", "task_id", "waiters")

    def __init__(self, task_id: TaskId) -> None:
        self.task_id = task_id
        self.ready: deque[ObjectRef[Any]] = deque()
        self.is_asked = False
        """For the next item."""
        self.is_ended = False
        self.error = b""
        self.waiters: list[Callable[[], object]] = []

    @property
    def would_block(self) -> bool:
        """Whether the next item is still to come."""
        return not (self.ready or self.is_ended or self.error)


class _Reading(threading.local):
    """What is being unpickled in this thread: the object whose value it is."""

    inside = b""


class RemoteObjects:
    """The table of them."""

    def __init__(self, engine: Engine, loop: Loop, say: Callable[[Order], None]) -> None:
        self._engine = engine
        self._loop = loop
        self._say = say
        self._released: deque[ObjectId | TaskId] = deque()
        self._is_nudged = False
        self.entries: dict[bytes, RemoteEntry] = {}
        self.address = ""
        """Of the deputy, which owns what is made here."""
        self.reading = _Reading()

    # -------------------------------------------------------------- references

    def make(self, object_id: ObjectId) -> ObjectRef[Any]:
        """Return the first reference to what the deputy is about to be told to make."""
        entry = self.entries.get(object_id)
        if entry is None:
            entry = self.entries[bytes(object_id)] = RemoteEntry(object_id, self.address)
        entry.given += 1
        return self.ref(entry)

    def ref(self, entry: RemoteEntry) -> ObjectRef[Any]:
        """Return one more reference."""
        entry.local += 1
        return ObjectRef(entry.id, self._engine, entry.owner, entry)

    def take(self, held: Held) -> ObjectRef[Any]:
        """Return a reference that the deputy has handed over."""
        entry = self.entries.get(held.object_id)
        if entry is None:
            object_id = ObjectId(held.object_id)
            entry = self.entries[held.object_id] = RemoteEntry(object_id, held.owner)
        entry.given += 1
        return self.ref(entry)

    def rebuild_ref(self, object_id: bytes, owner: str) -> ObjectRef[Any]:
        """Make a reference that was found inside a value. Without the guard."""
        with self._loop.guard:
            entry = self.entries.get(object_id)
            if entry is None:
                entry = self.entries[object_id] = RemoteEntry(ObjectId(object_id), owner)
                entry.given = 1
                self._say(Adopts(object_id, owner, self.reading.inside))
            return self.ref(entry)

    def release(self, object_id: ObjectId | TaskId) -> None:
        """A reference or a stream is gone. Without the guard, in the middle of anything."""
        self._released.append(object_id)
        if not self._is_nudged:
            self._is_nudged = True
            self._loop.nudge()

    def drain(self) -> None:
        """Tell the deputy what has gone."""
        self._is_nudged = False
        counts: list[tuple[bytes, int]] = []
        streams: list[bytes] = []
        released = self._released
        while released:
            gone = released.popleft()
            if isinstance(gone, TaskId):
                streams.append(bytes(gone))
                continue
            entry = self.entries.get(gone)
            if entry is None:
                continue
            entry.local -= 1
            if not entry.local:
                del self.entries[gone]
                counts.append((bytes(gone), entry.given))
        if counts or streams:
            self._say(Releases(counts, streams))

    # -------------------------------------------------------------- values

    def settle(self, entry: RemoteEntry, state: int, data: bytes) -> None:
        """The value is there."""
        entry.state, entry.data = state, data
        waiters, entry.waiters = entry.waiters, []
        for waiter in waiters:
            waiter()

    def fail_all(self, packed: bytes) -> None:
        """No value comes any more."""
        for entry in list(self.entries.values()):
            if entry.state in {PENDING, LARGE}:
                self.settle(entry, FAILED, packed)
