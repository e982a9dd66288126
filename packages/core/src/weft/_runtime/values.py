"""Putting values, and waiting for them."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from weft._clock import monotonic
from weft._ids import ObjectId
from weft._machines.ownership import SegmentGone
from weft._override import override
from weft._runtime.loop import Waiter
from weft._runtime.room import ARGUMENT, GET, SegmentLost, check_copy
from weft._runtime.running import running
from weft._serialize.pickling import dumps
from weft._wire.messages import Blocked, Failure, Inline, Shared, Unblocked
from weft.exceptions import GetTimeoutError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._machines.ownership import Entry
    from weft._refs import ObjectRef
    from weft._runtime.leasing import Leasing
    from weft._runtime.links import Links
    from weft._runtime.questions import Questions
    from weft._runtime.room import Brought
    from weft._wire.messages import Held, Value

# How long `get` waits for an actor's answer before it says that this worker is blocked: most
# answers are quicker.
CALL_PATIENCE_S = 0.002


class Caller(Waiter):
    """Calls back instead of letting a thread go on."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        super().__init__()
        self._callback = callback

    @override
    def open(self) -> None:
        """It is there."""
        self._callback()


def callback_with(callback: Callable[[], None], kept: object) -> None:
    """Call back, while something is kept."""
    callback()


class Values:
    """What `put`, `get` and `wait` do. Without the guard: these block."""

    def __init__(self, links: Links, leasing: Leasing, questions: Questions) -> None:
        self._links = links
        self._loop = links.loop
        self._guard = links.guard
        self._objects = links.objects
        self._peers = links.peers
        self._leasing = leasing
        self._questions = questions
        self._blocked = 0
        """Threads of this process that wait inside tasks."""
        self.on_block: Callable[[], None] = lambda: None
        """Called, inside the guard, when a task begins to wait."""

    def wait_for(self, waiter: Waiter, deadline: float | None) -> bool:
        """Wait for something that is no object; return whether it came in time."""
        if running.get() is None:
            return self._loop.wait(waiter, deadline)
        return self.wait_in_task(waiter, deadline, ())

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value; see Engine."""
        return self.keep(value, label="weft.put")

    def keep(self, value: Any, *, label: str, site: str = "") -> ObjectRef[Any]:
        """Store a value that was made by `label`, and at `site` if not by the calling code."""
        object_id = self._links.ids.task_id().object_id(1)
        objects = self._objects
        refs: list[ObjectRef[Any]] = []

        def own(packed: Value) -> None:
            refs.append(objects.own(object_id, packed))

        objects.store_value(dumps(value), label=label, site=site, claim=own)
        return refs[0]

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Wait for values; see Engine."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        self._await_all(refs, timeout_s)
        # Held until the values are loaded.
        brought = self._bring(refs, deadline) if self._objects.copies is not None else ()
        try:
            return [self._value(ref) for ref in refs]
        except SegmentLost:
            return self._get_again(refs, deadline)
        finally:
            del brought

    def _await_all(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> None:
        pending = [ref._entry for ref in refs if ref._entry.value is None]
        if pending and not self._await(pending, len(pending), timeout_s):
            raise self._too_late(pending, timeout_s)

    def _get_again(self, refs: Sequence[ObjectRef[Any]], deadline: float | None) -> list[Any]:
        """Return values of which some are lost: those are made again, all at a time."""
        found: list[Any] = [None] * len(refs)
        left = list(range(len(refs)))
        brought: Sequence[object] = ()
        while True:
            lost: list[int] = []
            for index in left:
                try:
                    found[index] = self._value(refs[index])
                except SegmentLost:
                    lost.append(index)
                except Exception:
                    if not lost:
                        raise
                    # An error that comes first in order is told first.
                    lost.append(index)
            if not lost:
                del brought
                return found
            timeout_s = None if deadline is None else max(0.0, deadline - monotonic())
            self._await_all([refs[index] for index in lost], timeout_s)
            if self._objects.copies is not None:
                brought = self._bring([refs[index] for index in lost], deadline)
            left = lost

    def _bring(self, refs: Sequence[ObjectRef[Any]], deadline: float | None) -> Sequence[object]:
        """Wait until values that were made on other nodes are here; return what keeps them.

        One that its owner does not know of any more is told to be lost.
        GetTimeoutError, StoreFullError: some are not here.
        """
        objects = self._objects
        with self._guard:
            values = [(ref._entry.value, objects.held_entry(ref._entry)) for ref in refs]
        brought = self._fetch(values, [ref._entry for ref in refs], deadline, GET)
        for request, source in brought:
            try:
                check_copy(request)
            except SegmentLost as lost:
                with self._guard:
                    assert request.edition is not None
                    segment = request.edition.segment
                    objects.handle(SegmentGone(ObjectId(source.object_id), segment, str(lost)))
        return brought

    def bring_arguments(self, values: Sequence[tuple[Value | None, Held]]) -> Sequence[object]:
        """Wait until these are here that were made on other nodes; return what keeps them.

        What cannot be brought is found missing by who loads it.
        """
        return self._fetch(values, (), None, ARGUMENT)

    def _fetch(
        self,
        values: Sequence[tuple[Value | None, Held]],
        entries: Sequence[Entry],
        deadline: float | None,
        priority: int,
    ) -> list[tuple[Brought, Held]]:
        """Have all brought at a time that are on other nodes. GetTimeoutError: some are not here.

        `entries`: of whose objects the user is told.
        """
        room = self._objects.room
        waiter = Waiter(0)
        with self._guard:
            far = self._objects.far(values)
            if not far:
                return []
            waiter.missing = len(far)
            brought = room.want(far, waiter, priority)
        try:
            if running.get() is None:
                self._wait_aloud(waiter, deadline, entries)
            else:
                self.wait_in_task(waiter, deadline, entries)
        finally:
            if waiter.missing > 0:
                with self._guard:
                    room.end(brought)
        if waiter.missing > 0:
            if self._loop.closed:
                raise SessionError("the session ended while this thread waited in it")
            are = "value was" if waiter.missing == 1 else "values were"
            raise GetTimeoutError(
                f"{waiter.missing} {are} on other nodes, and not brought here in time; "
                "weft.why(ref) tells more",
                waiting=waiter.missing,
            )
        return list(zip(brought, [source for _, source in far], strict=True))

    def wait_for_object(self, entry: Entry) -> None:
        """Block until an object has its value."""
        while entry.value is None:
            self._await([entry], 1, None)

    def _too_late(self, pending: Sequence[Entry], timeout_s: float | None) -> GetTimeoutError:
        with self._guard:
            missing = [entry for entry in pending if entry.value is None]
            reason = f": {self._questions.explain_object(missing[0].id).text}" if missing else ""
        values = "the value was" if len(missing) == 1 else f"{len(missing)} values were"
        return GetTimeoutError(
            f"{values} not there after {timeout_s or 0:g} s{reason}; weft.why(ref) tells more",
            timeout_s=timeout_s,
            waiting=len(missing),
        )

    def packed(self, ref: ObjectRef[Any]) -> tuple[bytes | memoryview, bool]:
        """Wait for a value; return its packed form, and whether it is an error's."""
        while True:
            self._await_all([ref], None)
            brought = self._bring([ref], None) if self._objects.copies is not None else ()
            entry: Entry = ref._entry
            value = entry.value
            try:
                if type(value) is Inline:
                    return value.data, False
                if type(value) is Failure:
                    return value.error, True
                if type(value) is Shared:
                    return self._objects.view(value, entry), False
            except SegmentLost:
                continue  # It is made again.
            finally:
                del brought

    def _value(self, ref: ObjectRef[Any]) -> Any:
        entry: Entry = ref._entry
        value = entry.value
        if value is None:
            raise SegmentLost("another thread found that")
        return self._objects.load(value, entry)

    def wait(
        self,
        refs: Sequence[ObjectRef[Any]],
        ready: int,
        timeout_s: float | None,
        *,
        fetch_local: bool,
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait for some; see Engine."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        done, rest = _part(refs, ready)
        if len(done) < ready:
            # Also without any time: what has arrived is read.
            self._await([ref._entry for ref in rest], ready - len(done), timeout_s)
            done, rest = _part(refs, ready)
        if fetch_local and self._objects.copies is not None:
            return self._wait_here(refs, ready, deadline)
        return done, rest

    def _wait_here(
        self, refs: Sequence[ObjectRef[Any]], ready: int, deadline: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait until some that have values have them on this node; return these, and the rest.

        One whose value cannot come counts as well: who gets it hears why.
        """
        chosen = self._here(refs)[:ready]
        if len(chosen) < ready:
            known = set(map(id, chosen))
            sealed = [ref for ref in refs if ref._entry.value is not None]
            far = [ref for ref in sealed if id(ref) not in known][: ready - len(chosen)]
            values = [(ref._entry.value, self._objects.held_entry(ref._entry)) for ref in far]
            try:
                brought = self._fetch(values, [ref._entry for ref in far], deadline, GET)
            except GetTimeoutError:
                chosen = self._here(refs)[:ready]
            else:
                chosen += far
                del brought
        taken = set(map(id, chosen))
        done = [ref for ref in refs if id(ref) in taken]
        return done, [ref for ref in refs if id(ref) not in taken]

    def _here(self, refs: Sequence[ObjectRef[Any]]) -> list[ObjectRef[Any]]:
        """Return those whose values are on this node."""
        objects = self._objects
        with self._guard:
            return [
                ref
                for ref in refs
                if (value := ref._entry.value) is not None
                and not objects.far([(value, objects.held_entry(ref._entry))])
            ]

    def free(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """Free values by hand; see Engine."""
        with self._guard:
            self._links.refuse_if_ended()
            self._objects.drain()
            self._objects.free([ref._id for ref in refs])
            self._links.peers.flush()

    def _await(self, entries: Sequence[Entry], count: int, timeout_s: float | None) -> bool:
        """Block until `count` of these are sealed, or time is up; return whether they are."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        waiter = Waiter(count)
        objects, ready = self._objects, waiter.ready
        is_some = count < len(entries)
        try:
            with self._guard:
                objects.drain()
                if is_some:
                    objects.while_sealed(entries, ready)
                else:
                    for entry in entries:
                        if entry.value is not None or not objects.when_sealed(entry, ready):
                            ready()
            if running.get() is None:
                return self._wait_aloud(waiter, deadline, entries)
            return self.wait_in_task(waiter, deadline, entries)
        finally:
            with self._guard:
                if is_some:
                    objects.forget(ready)
                elif waiter.missing > 0:
                    for entry in entries:
                        if entry.waiters and ready in entry.waiters:
                            entry.waiters.remove(ready)
            if self._loop.closed and waiter.missing > 0:
                raise SessionError("the session ended while this thread waited in it")

    def _wait_aloud(self, waiter: Waiter, deadline: float | None, entries: Sequence[Entry]) -> bool:
        """Wait; if it takes long the driver says once what for."""

        def why() -> str:
            for entry in entries:
                if entry.value is None:
                    return self._questions.why_entry(entry)
            return "" if self._objects.copies is None else self._objects.room.why()

        return self._links.wait_aloud(waiter, why, deadline)

    def wait_in_task(
        self, waiter: Waiter, deadline: float | None, entries: Sequence[Entry]
    ) -> bool:
        """Wait inside a task: tell the daemon that this worker's CPU is free meanwhile."""
        if not any(entry.id.task_id() in self._leasing.tasks.open for entry in entries):
            patience = monotonic() + CALL_PATIENCE_S
            if deadline is not None and deadline <= patience:
                return self._loop.wait(waiter, deadline)
            if self._loop.wait(waiter, patience) or self._loop.closed:
                return waiter.missing <= 0
        now = running.get()
        assert now is not None
        with self._guard:
            self._blocked += 1
            self.on_block()
            if self._blocked == 1:
                self._peers.send(self._links.daemon, Blocked())
            now.waits.extend(entries)
        try:
            return self._wait_aloud(waiter, deadline, entries)
        finally:
            with self._guard:
                now.waits.clear()
                self._blocked -= 1
                if not self._blocked:
                    self._peers.send(self._links.daemon, Unblocked())

    def when_ready(self, ref: ObjectRef[Any], callback: Callable[[], None]) -> None:
        """Call back when the value is there; see Engine."""
        entry = ref._entry
        with self._guard:
            self._objects.drain()
            if entry.value is None:
                now = running.get()
                if now is not None:
                    now.waits.append(entry)
                # Outside the guard: the callback may be the user's.
                if self._objects.when_sealed(entry, lambda _entry: self._when_here(ref, callback)):
                    self._peers.flush()
                    return
            if self._objects.copies is not None and self._when_brought(entry, callback):
                self._peers.flush()
                return
        callback()

    def _when_here(self, ref: ObjectRef[Any], callback: Callable[[], None]) -> None:
        """Call back later, when the value is on this node. Inside the guard."""
        if self._objects.copies is None or not self._when_brought(ref._entry, callback):
            self._loop.later(callback)

    def _when_brought(self, entry: Entry, callback: Callable[[], None]) -> bool:
        """Call back when a value has come from another node; False: it is here. Inside the guard.

        If it cannot come, who loads it finds that out.
        """
        objects = self._objects
        far = objects.far([(entry.value, objects.held_entry(entry))])
        if not far:
            return False
        waiter = Caller(lambda: self._loop.later(partial(callback_with, callback, brought)))
        brought = objects.room.want(far, waiter, GET)
        return True

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        """Return a future; see Engine."""
        future: Future[Any] = Future()
        self.when_ready(ref, partial(self._settle, future, ref))
        return future

    def _settle(self, future: Future[Any], ref: ObjectRef[Any]) -> None:
        if future.set_running_or_notify_cancel():
            self._finish(future, ref)

    def _finish(self, future: Future[Any], ref: ObjectRef[Any]) -> None:
        try:
            future.set_result(self._value(ref))
        except SegmentLost:
            self.when_ready(ref, partial(self._finish, future, ref))
        except BaseException as error:  # noqa: BLE001 - it belongs to who asks the future
            # Its traceback would lead through this frame to the future that has it.
            future.set_exception(error.with_traceback(None))


def _part(
    refs: Sequence[ObjectRef[Any]], most: int
) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """Return the first references whose values are there, and all others."""
    done: list[ObjectRef[Any]] = []
    rest: list[ObjectRef[Any]] = []
    for index, ref in enumerate(refs):
        if ref._entry.value is None:
            rest.append(ref)
            continue
        done.append(ref)
        if len(done) == most:
            rest += refs[index + 1 :]
            break
    return done, rest
