"""The shell round the table of objects: does its effects, and turns values into bytes and back.

The loop's guard is held in every method whose docstring does not say otherwise.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from weft import _settings
from weft._ids import ObjectId
from weft._machines.ownership import (
    Adopted,
    Counted,
    Discarded,
    Effect,
    Entry,
    Event,
    FreeAsked,
    Freed,
    Lent,
    ObjectMade,
    Ownership,
    Ready,
    Recycled,
    Registered,
    Released,
    Requested,
    Returned,
    RunAgain,
    Sealed,
    SegmentGone,
    SendBorrow,
    SendBorrowed,
    SendFetch,
    SendFree,
    SendGone,
    SendReturn,
    SendValue,
    TaskEnding,
    Unrecoverable,
    Wanted,
)
from weft._machines.ownership import OwnerLost as OwnerLostEvent
from weft._refs import ObjectRef
from weft._runtime import bundles
from weft._runtime.bundles import INLINE_BYTES
from weft._runtime.loop import refuse_deep_stack
from weft._runtime.room import SegmentLost
from weft._runtime.signals import in_main_thread
from weft._serialize.failures import calling_site, pack_error, unpack_failure
from weft._serialize.pickling import Serialized, unpack
from weft._store.shared_memory import SharedMemoryStore
from weft._wire.messages import (
    Borrow,
    Borrowed,
    Discard,
    Failure,
    Fetch,
    Fetched,
    Free,
    Gone,
    Held,
    Inline,
    Recycle,
    Return,
    SegmentsClosed,
    SegmentsFree,
    SegmentsMade,
    SegmentsOpened,
    Shared,
    WatchOwner,
)
from weft.exceptions import (
    ObjectFreedError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    OwnerDiedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from weft._engine import Engine
    from weft._ids import WorkerId
    from weft._machines.lineage import Lineage
    from weft._runtime.copies import Copies
    from weft._runtime.loop import Loop
    from weft._runtime.partings import Partings
    from weft._runtime.peers import Peer, Peers
    from weft._runtime.room import Room
    from weft._store.shared_memory import Segment
    from weft._wire.messages import Bundle, Message, Value

# What the daemon has to know soon, and together: each message alone would wake it.
_NEWS = (SegmentsMade, SegmentsFree, SegmentsOpened, SegmentsClosed)
MANY_NEWS = 64
NEWS_S = 0.02
# So many dropped references are worth waking the loop for, if it sleeps.
MANY_RELEASED = 1000

_HELD = contextlib.nullcontext()


class Countdown:
    """Calls back when it was told so many times."""

    __slots__ = ("_callback", "_missing")

    def __init__(self, missing: int, callback: Callable[[], object]) -> None:
        self._missing = missing
        self._callback = callback

    def tell(self) -> None:
        """One of them has come."""
        self._missing -= 1
        if not self._missing:
            self._callback()


class _Source(msgspec.Struct, frozen=True):
    """Where the references are from that are found while something is unpickled."""

    keeper: ObjectId | None = None
    """The object that keeps the references inside it, until they are registered."""
    defer: bool = False
    """A running task's arguments keep them instead."""
    met: list[Entry] | None = None
    """Objects that stay meanwhile: each counts one reference more at the end."""
    pins: bool = False
    """The keeper is owned here: all that it holds stays meanwhile."""
    guarded: bool = False
    """The guard is held already."""


class _Loading(threading.local):
    """What is being unpickled in this thread."""

    source = _Source()


class Objects:
    """This process's objects."""

    peers: Peers
    daemon: Peer
    room: Room
    copies: Copies | None = None
    """In a cluster: what is on other nodes."""
    partings: Partings | None = None
    """In a cluster: the processes to which the connection broke."""

    def __init__(self, loop: Loop, worker_id: WorkerId, address: str, engine: Engine) -> None:
        self.machine = Ownership(_settings.LINEAGE.value())
        self.store = SharedMemoryStore(worker_id.hex(), self._tell_daemon)
        self.worker_id = worker_id
        self.address = address
        self.on_freed: Callable[[Entry], None] = lambda _entry: None
        self.run_again: Callable[[Lineage], None]
        """Runs a task again, at once or later."""
        self.bring: Callable[[Sequence[tuple[Value | None, Held]]], Sequence[object]]
        """Blocks, outside the guard, until arguments have come from other nodes."""
        self.wait: Callable[[Entry], None]
        """Blocks, outside the guard, until an object has its value."""
        self.engine = engine
        self._loop = loop
        self._guard = loop.guard
        self._news: list[Message] = []
        self._news_at: float | None = None
        self._released: deque[ObjectId] = deque()
        self._nudged = False
        self._loading = _Loading()
        self._registering: dict[ObjectId, list[Countdown]] = {}
        self._some: dict[Callable[[Entry], object], set[Entry]] = {}
        """Who waits for some of several objects, and for which."""
        self._watched: set[str] = set()
        """Processes of other nodes for which large objects were made here."""
        self._to_run_again: deque[Lineage] = deque()
        self._is_running_again = False

    # -------------------------------------------------------------- effects

    def handle(self, event: Event) -> None:
        """Give the machine an event and do what it says."""
        effects = self.machine.handle(event)
        if effects:
            self._do(effects)
            if self._to_run_again:
                self._run_all_again()

    def _do(self, effects: Sequence[Effect]) -> None:
        peers = self.peers
        for effect in effects:
            match effect:
                case Ready():
                    entry = effect.entry
                    waiters, entry.waiters = entry.waiters, None
                    if waiters:
                        for ready in waiters:
                            ready(entry)
                    for ready, entries in self._some.items():
                        if entry in entries:
                            ready(entry)
                case Freed():
                    self.on_freed(effect.entry)
                case Recycled():
                    self.recycle(effect.value)
                case SendValue():
                    peers.send(effect.peer, Fetched(effect.object_id, effect.value))
                case SendBorrowed():
                    peers.send(effect.peer, Borrowed(effect.object_ids, effect.lost))
                case SendBorrow():
                    self._tell_owner(effect.owner, Borrow(effect.object_ids))
                case SendReturn():
                    self._tell_owner(effect.owner, Return(effect.object_ids))
                case SendFetch():
                    self._tell_owner(effect.owner, Fetch(effect.object_id))
                case SendGone():
                    gone = Gone(effect.object_id, effect.segment, effect.reason)
                    self._tell_owner(effect.owner, gone)
                case Discarded():
                    self._discard(effect.value)
                case SendFree():
                    self._tell_owner(effect.owner, Free([effect.object_id]))
                case RunAgain():
                    self._to_run_again.append(effect.lineage)
                case Unrecoverable():
                    self._fail_lost(effect.entry, effect.why)

    def _run_all_again(self) -> None:
        """Run tasks again that made what is missing.

        Without recursion: each may miss arguments that other tasks made.
        """
        if not self._is_running_again:
            self._is_running_again = True
            try:
                while self._to_run_again:
                    self.run_again(self._to_run_again.popleft())
            finally:
                self._is_running_again = False

    def _fail_lost(self, entry: Entry, why: str) -> None:
        object_hex, why = entry.id.hex(), f"{entry.missing}; {why}"
        error = (
            ObjectLostError(object_hex, self.address, message=f"object {object_hex} is lost: {why}")
            if entry.lineage is None
            else ObjectReconstructionFailedError(
                object_hex, reason_message=why, owner_address=self.address
            )
        )
        self.handle(Sealed(entry.id, Failure(pack_error(error))))

    def _tell_owner(self, owner: str, message: Borrow | Return | Fetch | Gone | Free) -> None:
        peer = self.peers.connect(owner)
        if peer is not None:
            if self.partings is not None:
                self.partings.met(owner, peer)
            self.peers.send(peer, message)
        elif not isinstance(message, Return) and not (
            self.partings is not None and self.partings.wait_for(owner)
        ):
            self.owner_lost(owner)

    # -------------------------------------------------------------- news of segments

    def _tell_daemon(self, message: Message) -> None:
        """Tell of a segment: at once what is an answer or a question, together what is news."""
        self._news.append(message)
        if type(message) not in _NEWS or len(self._news) >= MANY_NEWS:
            self.send_news()

    def send_news(self) -> None:
        """Queue for the daemon what it was not told yet. It comes before what is told next."""
        news, self._news = self._news, []
        self._news_at = None
        if not self.daemon.connection.closed:
            for message in news:
                self.peers.send(self.daemon, message)

    def tick(self, now: float) -> float | None:
        """Send news that are due; return when to call again."""
        if not self._news:
            return None
        if self._news_at is None:
            self._news_at = now + NEWS_S
        elif self._news_at <= now:
            self.send_news()
        return self._news_at

    def owner_lost(self, owner: str, why: str = "") -> None:
        """The process at `owner` is gone, and what it owned with it.

        `why` it is believed to be; empty: it has ended, or as is known of its node.
        """
        asked = self.machine.asked.copy()
        self._watched.discard(owner)
        if not why and self.partings is not None:
            why = self.partings.why_lost(owner)
        error = OwnerDiedError(owner_address=owner, why=why)
        self.handle(OwnerLostEvent(owner, Failure(pack_error(error))))
        # Registrations that nobody will answer hold nothing back.
        self._tell_registered([each for each in asked if each not in self.machine.asked])

    def fail_pending(self, failure: Failure) -> None:
        """Nothing that is still to come will come: whoever waits is told."""
        for entry in list(self.machine.entries.values()):
            if entry.value is None:
                self.handle(Sealed(entry.id, failure))

    def watch_owner(self, address: str) -> None:
        """What is made next here is for a process of another node: it ends with that."""
        if address not in self._watched:
            self._watched.add(address)
            self.peers.send(self.daemon, WatchOwner(address))

    def recycle(self, value: Shared) -> None:
        """Nobody reads this segment any more: its creator may use it again."""
        if self.copies is not None:
            self.copies.ended(value.segment)
        if value.creator == self.address:
            self.store.recycle(value.segment)
            return
        peer = self.peers.by_address.get(value.creator)
        if peer is not None:
            self.peers.send(peer, Recycle([value.segment]))
        elif self.copies is not None and self.copies.is_far(value):
            self.copies.discard(value)
        else:
            self.peers.send(self.daemon, Discard([value.segment]))

    def _discard(self, value: Shared) -> None:
        if self.copies is not None:
            self.copies.ended(value.segment)
            if self.copies.is_far(value):
                self.copies.discard(value)
                return
        self._tell_daemon(Discard([value.segment]))

    # -------------------------------------------------------------- those who wait, those who
    # borrow

    def when_sealed(self, entry: Entry, callback: Callable[[Entry], object]) -> bool:
        """Call back when the value comes.

        False: it is there, perhaps because its owner turned out to be gone.
        """
        if entry.owner or entry.missing:
            self.handle(Wanted(entry.id))
            if entry.value is not None:
                return False
        if entry.waiters is None:
            entry.waiters = []
        entry.waiters.append(callback)
        return True

    def when_lost(self, entry: Entry, callback: Callable[[Entry], object]) -> None:
        """Call back when the owner of an actor's token is gone; at once if it is known to be."""
        self.handle(TaskEnding())  # It is to count this process, and is called for that.
        if entry.value is not None:
            callback(entry)
            return
        if entry.waiters is None:
            entry.waiters = []
        entry.waiters.append(callback)

    def while_sealed(self, entries: Sequence[Entry], callback: Callable[[Entry], object]) -> None:
        """Call back as each of these gets its value, until `forget`; at once for what is there.

        However many there are, hardly more is done than for one: who waits for the next of a
        thousand comes again and again.
        """
        self._some[callback] = set(entries)
        for entry in [entry for entry in entries if entry.value is not None]:
            callback(entry)
        for entry in [
            entry for entry in entries if entry.missing or (entry.owner and not entry.asked)
        ]:
            # The owner of one may turn out to be gone, and all its objects fail.
            if entry.value is None:
                self.handle(Wanted(entry.id))

    def forget(self, callback: Callable[[Entry], object]) -> None:
        """End what `while_sealed` began, if it did."""
        self._some.pop(callback, None)

    def when_registered(
        self, object_ids: Sequence[ObjectId], callback: Callable[[], object]
    ) -> None:
        """Call `callback` when the owners have counted this process for all of these."""
        entries = self.machine.entries
        waiting = [
            key for key in set(object_ids) if key in entries and entries[key].registered == "asked"
        ]
        if not waiting:
            callback()
            return
        waiter = Countdown(len(waiting), callback)
        for object_id in waiting:
            self._registering.setdefault(object_id, []).append(waiter)

    def on_fetch(self, peer: Peer, message: Fetch) -> None:
        object_id = ObjectId(message.object_id)
        if object_id in self.machine.entries:
            self.handle(Requested(object_id, peer))
        else:
            self.peers.send(peer, Fetched(message.object_id, lost_failure(object_id, self.address)))

    def on_fetched(self, peer: Peer, message: Fetched) -> None:
        object_id = ObjectId(message.object_id)
        if object_id in self.machine.entries:
            self.handle(Sealed(object_id, message.value))

    def on_gone(self, peer: Peer, message: Gone) -> None:
        object_id = ObjectId(message.object_id)
        self.handle(SegmentGone(object_id, message.segment, message.reason))

    def free(self, object_ids: Sequence[ObjectId]) -> None:
        """Free objects by hand: their values are gone, for those who hold references too."""
        for object_id in object_ids:
            error = ObjectFreedError(object_id.hex(), self.address)
            self.handle(FreeAsked(object_id, Failure(pack_error(error))))

    def on_free(self, peer: Peer, message: Free) -> None:
        self.free([ObjectId(object_id) for object_id in message.object_ids])

    def on_borrow(self, peer: Peer, message: Borrow) -> None:
        self.handle(Lent(peer, [ObjectId(object_id) for object_id in message.object_ids]))
        if self.partings is not None:
            self.partings.borrows_again(peer)

    def on_borrowed(self, peer: Peer, message: Borrowed) -> None:
        lost = [ObjectId(object_id) for object_id in message.lost]
        known = [ObjectId(object_id) for object_id in message.object_ids]
        failure = lost_failure(lost[0], peer.address) if lost else Failure(b"")
        self.handle(Registered(known, lost, failure))
        self._tell_registered((*known, *lost))

    def _tell_registered(self, object_ids: Iterable[ObjectId]) -> None:
        for object_id in object_ids:
            for waiter in self._registering.pop(object_id, ()):
                waiter.tell()

    def on_return(self, peer: Peer, message: Return) -> None:
        self.handle(Returned(peer, [ObjectId(object_id) for object_id in message.object_ids]))

    def on_recycle(self, peer: Peer, message: Recycle) -> None:
        for segment in message.segments:
            self.store.recycle(segment)

    # -------------------------------------------------------------- references

    def ref(self, entry: Entry) -> ObjectRef[Any]:
        """Return a reference to an object in the table, that counts already."""
        return ObjectRef(entry.id, self.engine, entry.owner or self.address, entry)

    def own(self, object_id: ObjectId, value: Value) -> ObjectRef[Any]:
        """Become the owner of a value; return the reference that keeps it."""
        self.drain()
        self.handle(ObjectMade(object_id))
        self.handle(Sealed(object_id, value))
        return self.ref(self.machine.entries[object_id])

    def new_ref(self, entry: Entry) -> ObjectRef[Any]:
        """Return one more reference to an object in the table."""
        entry.local += 1
        return ObjectRef(entry.id, self.engine, entry.owner or self.address, entry)

    def release(self, object_id: ObjectId) -> None:
        """A reference is gone.

        Without the guard: `__del__` calls this in the middle of anything.
        """
        released = self._released
        released.append(object_id)
        if not self._nudged:
            entry = self.machine.entries.get(object_id)
            if entry is None:
                return
            entry.leaving += 1
            if entry.leaving < entry.local:
                return
            # Large memory goes at once, also if what pins it is about to go. Of the others, those
            # that are pinned can wait until somebody looks anyway: a value may hold ten thousand.
            if type(entry.value) is Shared or (not entry.pins and len(released) > MANY_RELEASED):
                self._nudged = True
                self._loop.nudge()

    def drain(self) -> None:
        """Count the references that went since the last call."""
        released = self._released
        self._nudged = False
        self.store.tell_ends()
        if released:
            # Others go on appending: those are for the next time.
            self.handle(Released([released.popleft() for _ in range(len(released))]))

    def rebuild_ref(self, object_id: bytes, owner: str) -> ObjectRef[Any]:
        """Make the reference that was found inside a value. Without the guard."""
        source = self._loading.source
        is_own = owner == self.address
        entries = self.machine.entries
        entry = entries.get(object_id)  # type: ignore[call-overload]  # an id is its bytes
        if entry is None and is_own:
            raise ObjectLostError(object_ref_hex=object_id.hex(), owner_address=owner)
        if entry is not None and source.met is not None and (is_own or source.pins):
            # What brought the reference keeps its object meanwhile, so the count can wait: a value
            # may hold ten thousand.
            source.met.append(entry)
            return ObjectRef(entry.id, self.engine, owner, entry)
        key = ObjectId(object_id)
        with _HELD if source.guarded else self._guard:
            if is_own:
                self.handle(Counted(key))
            else:
                self.handle(Adopted(key, owner, source.keeper, source.defer))
            return ObjectRef(key, self.engine, owner, entries[key])

    def held(self, refs: Sequence[ObjectRef[Any]]) -> list[Held]:
        """Return how references inside a value travel. Without the guard."""
        return [Held(ref._id, ref._owner) for ref in refs]

    # -------------------------------------------------------------- values

    def store_value(
        self,
        serialized: Serialized,
        *,
        label: str,
        claim: Callable[[Value], object],
        site: str = "",
        owner: bytes = b"",
    ) -> Value:
        """Turn a pickled value into one that can be kept or sent.

        Without the guard. Blocks while there is no room. StoreFullError: there will be none.

        Args:
            serialized: The value.
            label: What made it, in the user's words.
            claim: Takes the value on, inside the guard: an interrupt may come before this returns.
            site: File and line of that; empty: of the code that calls.
            owner: Worker id of the process that will own the object; empty: this one.
        """
        held = self.held(serialized.refs) if serialized.refs else []
        size_bytes = serialized.size_bytes
        value: Value | None = None
        if size_bytes <= INLINE_BYTES:
            value = Inline(serialized.pack(), held)
            with self._guard:
                claim(value)
            return value
        self._drain_released()
        segment = self.room.reserve(size_bytes)
        try:
            segment.fill(serialized.parts())
            site = site or calling_site()
            with self._guard:
                self._tell_made(segment, size_bytes, owner=owner, label=label, site=site)
                value = Shared(segment.name, size_bytes, self.address, held)
                claim(value)
        except BaseException:
            if value is None:
                with self._guard:
                    self.store.abandon(segment)
            raise
        return value

    def _tell_made(
        self, segment: Segment, size_bytes: int, *, owner: bytes, label: str, site: str
    ) -> None:
        self.store.made(segment, size_bytes, owner=owner or self.worker_id, label=label, site=site)
        if owner or segment.on_disk:
            # Who reads an object on disk asks the daemon where it is. And that knows of one
            # before its owner does: if this process dies in between, it is not taken for what
            # nobody was told of.
            self.send_news()
            self.daemon.connection.flush()

    def _drain_released(self) -> None:
        """Have what was dropped before recycled first."""
        if self._released:
            with self._guard:
                self.drain()

    def load(self, value: Value, entry: Entry) -> Any:
        """Return the Python value of an object in the table, or raise its error.

        Without the guard. SegmentLost: its owner was told, and the value is not known any more.
        """
        if type(value) is Inline:
            if not value.held:
                return unpack(value.data)
            return self._unpack_with_refs(value.data, entry, defer=False)
        if type(value) is Shared:
            return self._unpack_with_refs(self.view(value, entry), entry, defer=False)
        assert type(value) is Failure
        with self._reading(_Source(entry.id)):
            error = unpack_failure(value.error)
        raise error

    def view(self, value: Shared, entry: Entry) -> memoryview:
        """Return a view of an object's segment, which counts as a reference.

        Without the guard. SegmentLost: as of `load`.
        """
        with self._guard:
            entry.local += 1
            view = self.store.try_view(value, partial(self.release, entry.id))
        if view is None:
            try:
                view = self._bring_back(value, entry)
            except BaseException:
                self.release(entry.id)
                raise
        return view

    def adopt(self, object_id: bytes, owner: str, inside: ObjectId | None) -> ObjectRef[Any]:
        """Make a reference that was found elsewhere, in a value of this process's. As above."""
        with self._reading(_Source(inside)):
            return self.rebuild_ref(object_id, owner)

    def far(self, values: Iterable[tuple[Value | None, Held]]) -> list[tuple[Shared, Held]]:
        """Return those that were made on other nodes and are not mapped here, each once.

        Inside the guard, in a cluster.
        """
        copies, store = self.copies, self.store
        assert copies is not None
        found: dict[object, tuple[Shared, Held]] = {}
        for value, source in values:
            if type(value) is Shared and copies.is_far(value):
                edition = copies.edition(source.object_id, value)
                if not store.has_copy(edition):
                    found[edition] = value, source
        return list(found.values())

    def held_entry(self, entry: Entry) -> Held:
        """Return how a reference to an object in the table travels."""
        return Held(entry.id, entry.owner or self.address)

    def reading_inside(self) -> AbstractContextManager[None]:
        """Let what is unpickled meanwhile hold references, although the guard is held.

        Something else keeps them: who sent it, for instance, until it is told that it was read.
        """
        return self._reading(_Source(guarded=True))

    def load_argument(self, value: Value, source: Held | None) -> Any:
        """Return the Python value of a task's argument. Without the guard.

        `source` is the object whose value it is: views on it that outlive the task borrow it.
        """
        if type(value) is Inline and not value.held:
            return unpack(value.data)
        return self._unpack_with_refs(self.packed_argument(value, source), None, defer=True)

    def packed_argument(self, value: Value, source: Held | None) -> bytes | memoryview:
        """Return the packed form of a task's argument, or raise its error. Without the guard."""
        if type(value) is Inline:
            return value.data
        if type(value) is Shared:
            assert source is not None
            object_id = ObjectId(source.object_id)
            with self._guard:
                if source.owner == self.address:
                    self.handle(Counted(object_id))
                else:
                    self.handle(Adopted(object_id, source.owner, None, defer=True))
                    self.handle(Sealed(object_id, value))
                view = self.store.try_view(value, partial(self.release, object_id))
            if view is None:
                return self._packed_again(value, object_id)
            return view
        assert type(value) is Failure
        raise unpack_failure(value.error)

    def _packed_again(self, value: Shared, object_id: ObjectId) -> bytes | memoryview:
        """Return the packed form of an argument whose segment has no file; it is counted."""
        entry = self.machine.entries[object_id]
        try:
            while True:
                try:
                    return self._bring_back(value, entry)
                except SegmentLost:
                    self.wait(entry)
                known = entry.value
                if type(known) is Inline:
                    self.release(object_id)
                    return known.data
                if type(known) is Failure:
                    raise unpack_failure(known.error)  # noqa: TRY301 - counted like any other
                assert type(known) is Shared
                value = known
        except BaseException:
            self.release(object_id)
            raise

    def unpack_arguments(self, data: bytes) -> Any:
        """Return what `data` holds; the running task keeps the references inside.

        Without the guard.
        """
        return self._unpack_with_refs(data, None, defer=True)

    def unpack_bundle(self, bundle: Bundle) -> list[Value]:
        """Return the values of a bundle. Without the guard."""
        with self._guard:
            return bundles.unpack(self, bundle)

    def packed(self, entry: Entry) -> bytes | memoryview | None:
        """Return the packed form of an object's value; None if it is not at hand."""
        value = entry.value
        if type(value) is Shared:
            view = self.store.try_view(value, partial(self.release, entry.id))
            if view is not None:
                entry.local += 1
            return view
        return value.data if type(value) is Inline else None

    def _bring_back(self, value: Shared, entry: Entry) -> memoryview:
        """Return a view of an object whose segment has no file here; it is counted already.

        SegmentLost: its owner was told.
        """
        try:
            return self.room.view(value, self.held_entry(entry), partial(self.release, entry.id))
        except SegmentLost as lost:
            with self._guard:
                self.handle(SegmentGone(entry.id, value.segment, str(lost)))
            raise

    def _unpack_with_refs(
        self, data: bytes | memoryview, keeper: Entry | None, *, defer: bool
    ) -> Any:
        loading, guard = self._loading, self._guard
        met: list[Entry] = []
        key = None if keeper is None else keeper.id
        pins = keeper is not None and not keeper.owner
        before, source = loading.source, _Source(key, defer, met, pins)
        # What is met has to be counted: whatever could prevent that must do it now.
        refuse_deep_stack(more=2)
        is_main = in_main_thread()
        loading.source = source
        try:
            return unpack(data)
        finally:
            if is_main:
                # No call of `shield`, where an interrupt could come.
                guard.shields += 1
            try:
                loading.source = before
                if met:
                    with guard:
                        for entry in met:
                            entry.local += 1
                        self.drain()
            finally:
                guard.unshield()

    @contextlib.contextmanager
    def _reading(self, source: _Source) -> Iterator[None]:
        loading = self._loading
        before, loading.source = loading.source, source
        try:
            yield
        finally:
            loading.source = before


def lost_failure(object_id: ObjectId, owner: str) -> Failure:
    """Return what a reference becomes whose owner has freed it."""
    return Failure(pack_error(ObjectLostError(object_ref_hex=object_id.hex(), owner_address=owner)))
