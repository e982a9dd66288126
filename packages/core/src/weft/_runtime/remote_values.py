"""Putting values, and waiting for them, in a program whose values are elsewhere."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from weft._clock import monotonic
from weft._runtime.bundles import INLINE_BYTES
from weft._runtime.loop import Waiter
from weft._runtime.remote_objects import FAILED, LARGE, PENDING, VALUE, RemoteEntry
from weft._serialize.failures import calling_site, unpack_failure
from weft._serialize.pickling import dumps, unpack
from weft._wire import remote
from weft.exceptions import GetTimeoutError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from weft._ids import IdSource
    from weft._refs import ObjectRef
    from weft._runtime.loop import Loop
    from weft._runtime.remote_talk import RemoteTalk

# How long a question without any time of its own is waited for, or a large value that is there: a
# way through half the world.
PROMPT_S = 1.0


class RemoteValues:
    """What `put`, `get` and `wait` do. Without the guard: these block."""

    def __init__(self, loop: Loop, talk: RemoteTalk, ids: IdSource) -> None:
        self._loop = loop
        self._guard = loop.guard
        self._talk = talk
        self._objects = talk.objects
        self._ids = ids

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value; see Engine."""
        serialized = dumps(value)
        object_id = self._ids.task_id().object_id(1)
        order = partial(
            remote.Puts,
            object_id=object_id,
            data=serialized.pack(),
            inner=[bytes(ref._id) for ref in serialized.refs],
            site=calling_site(),
        )
        with self._guard:
            self._talk.refuse_if_ended()
            ref = self._objects.make(object_id)
            if serialized.size_bytes <= INLINE_BYTES:
                self._talk.order(order(0))
                self._objects.settle(ref._entry, VALUE, serialized.pack())
                return ref
        self._talk.ask(order, kept=ref)
        with self._guard:
            self._objects.settle(ref._entry, LARGE, b"")
        return ref

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Wait for values; see Engine."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        self._wait_for(refs, len(refs), deadline)
        missing = sum(ref._entry.state == PENDING for ref in refs)
        if not missing:
            missing = self._load({ref._entry.id: ref._entry for ref in refs}.values(), deadline)
        if missing:
            values = "the value was" if missing == 1 else f"{missing} values were"
            raise GetTimeoutError(
                f"{values} not there after {timeout_s or 0:g} s; weft.why(ref) tells more",
                timeout_s=timeout_s,
                waiting=missing,
            )
        return [self._value(ref._entry) for ref in refs]

    def _value(self, entry: RemoteEntry) -> Any:
        """Return a value that is here, or raise its error."""
        with self._guard:
            state, data = entry.state, entry.data
            if state == VALUE and len(data) > INLINE_BYTES:
                # Once: who gets it again has it brought again.
                entry.state, entry.data = LARGE, b""
        if state == LARGE:
            self._load([entry])
            return self._value(entry)
        reading = self._objects.reading
        before, reading.inside = reading.inside, bytes(entry.id)
        try:
            if state == VALUE:
                return unpack(data)
            error = unpack_failure(data)
        finally:
            reading.inside = before
        raise error

    def _load(self, entries: Iterable[RemoteEntry], deadline: float | None = None) -> int:
        """Have large values brought, all at a time. Blocks; return how many have not come."""
        waiter = Waiter(0)
        with self._guard:
            waiter.missing = sum(self._begin_load(entry, waiter.ready) for entry in entries)
        if waiter.missing > 0:
            until = None if deadline is None else max(deadline, monotonic() + PROMPT_S)
            self._loop.wait(waiter, until)
            self._refuse_if_closed(waiter)
        return waiter.missing

    def _refuse_if_closed(self, waiter: Waiter) -> None:
        if self._loop.closed and waiter.missing > 0:
            raise SessionError("the session ended while this thread waited in it")

    def _begin_load(self, entry: RemoteEntry, then: Callable[[], object]) -> bool:
        """Have a large value brought. Inside the guard. False: it is here."""
        if entry.state != LARGE:
            return False

        def loaded(answer: remote.Replied) -> None:
            is_error = bool(answer.error)
            self._objects.settle(
                entry, FAILED if is_error else VALUE, answer.error if is_error else answer.body
            )
            then()

        self._talk.send(lambda request: remote.Loads(request, entry.id), loaded)
        return True

    def _wait_for(
        self, refs: Sequence[ObjectRef[Any]], number: int, deadline: float | None
    ) -> None:
        """Block until so many of these are there, or time is up."""
        entries: list[RemoteEntry] = [ref._entry for ref in refs]
        missing = number - sum(entry.state != PENDING for entry in entries)
        if missing <= 0:
            return
        waiter = Waiter(missing)
        asked = Waiter()
        waiting: list[RemoteEntry] = []
        ready = waiter.ready
        try:
            with self._guard:
                self._talk.refuse_if_ended()
                for entry in entries:
                    if entry.state == PENDING:
                        entry.waiters.append(ready)
                        waiting.append(entry)
                is_new = self._follow(waiting, asked)
            if is_new and deadline is not None:
                # Also without any time: what is there is told.
                self._loop.wait(asked, max(deadline, monotonic() + PROMPT_S))
            self._loop.wait(waiter, deadline)
        finally:
            with self._guard:
                for entry in waiting:
                    if ready in entry.waiters:
                        entry.waiters.remove(ready)
        self._refuse_if_closed(waiter)

    def _follow(self, entries: Sequence[RemoteEntry], asked: Waiter | None = None) -> bool:
        """Have the deputy say when values are there. Inside the guard. False: it does already."""
        unknown = [entry for entry in entries if entry.state == PENDING and not entry.is_followed]
        if not unknown:
            return False
        for entry in unknown:
            entry.is_followed = True
        ids = list({bytes(entry.id) for entry in unknown})
        if asked is None:
            self._talk.order(remote.Follows(0, ids))
        else:
            self._talk.send(lambda request: remote.Follows(request, ids), lambda _: asked.ready())
        return True

    def wait(
        self,
        refs: Sequence[ObjectRef[Any]],
        ready: int,
        timeout_s: float | None,
        *,
        fetch_local: bool,
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait for some; see Engine. What is here is only what is got."""
        self._wait_for(refs, ready, None if timeout_s is None else monotonic() + timeout_s)
        done: list[ObjectRef[Any]] = []
        rest: list[ObjectRef[Any]] = []
        for ref in refs:
            is_done = ref._entry.state != PENDING and len(done) < ready
            (done if is_done else rest).append(ref)
        return done, rest

    def free(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """Let values go by hand; see Engine."""
        with self._guard:
            self._talk.order(remote.Frees(0, [bytes(ref._id) for ref in refs]))
            for ref in refs:
                entry: RemoteEntry = ref._entry
                entry.state, entry.data = LARGE, b""  # What is asked for it says that it is freed.

    def is_ready(self, ref: ObjectRef[Any]) -> bool:
        """Tell whether `get` would return at once; see Engine."""
        self._wait_for([ref], 1, monotonic())
        is_ready: bool = ref._entry.state != PENDING
        return is_ready

    def when_ready(self, ref: ObjectRef[Any], callback: Callable[[], None]) -> None:
        """Call back when the value is there, and here; see Engine."""
        entry: RemoteEntry = ref._entry

        def later() -> None:
            self._loop.later(partial(_call_with, callback, ref))

        def there() -> None:
            if self._talk.ended is not None or not self._begin_load(entry, later):
                later()

        with self._guard:
            if entry.state == PENDING:
                self._talk.refuse_if_ended()
                entry.waiters.append(there)
                self._follow([entry])
                return
            if self._begin_load(entry, later):
                return
        callback()

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        """Return a future; see Engine."""
        future: Future[Any] = Future()
        self.when_ready(ref, partial(self._settle, future, ref))
        return future

    def _settle(self, future: Future[Any], ref: ObjectRef[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(self.get([ref], None)[0])
        except BaseException as error:  # noqa: BLE001 - it belongs to who asks the future
            # Its traceback would lead through this frame to the future that has it.
            future.set_exception(error.with_traceback(None))


def _call_with(callback: Callable[[], None], kept: object) -> None:
    """Call back, while something is kept."""
    callback()
