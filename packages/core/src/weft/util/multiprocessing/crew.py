"""The workers of a pool, and the one thread that gives them work.

    user's threads  --post-->  inbox  -->  crew thread: queue of sources, members  -->  actors
    actors' answers --post-->    |                        job.take(outcomes)

A source yields the chunks of one job; the crew draws from it when a member is free, so that no member waits while there
is work. Members that answer within a moment get a few chunks at a time: a long one holds up no more than those.

What is always true
1. Only the crew's thread touches the state; everybody else posts. A signal in the main thread finds nothing half done.
2. A chunk is given to a member that has started, and run once: if the member dies, the chunk that it ran fails, and the
   ones behind it go to others.
3. `size` members are there, or being started, until the pool closes. One that dies or has run its share is replaced;
   if the initializer fails, the pool fails, with that error.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from queue import SimpleQueue
from types import BuiltinFunctionType, FunctionType
from typing import Any

from weft._api.actors import kill
from weft._api.decorators import remote
from weft._api.objects import get, wait
from weft._api.session import started
from weft._clock import monotonic
from weft._engine import current
from weft._refs import ObjectRef
from weft._serialize.failures import pack_failure
from weft._serialize.pickling import load_code
from weft.exceptions import (
    ActorDiedError,
    SessionError,
    TaskCancelledError,
    TaskError,
    WeftError,
)
from weft.util.multiprocessing.results import PoolJob, error_of

# How a call's arguments are given.
ONE, STARRED, BOTH = range(3)

# Work for so long is kept waiting at a member: long against the way there and back (0.2 ms), short for who waits.
AHEAD_S = 0.002
MOST_AHEAD = 128
# How long `terminate` waits until the workers are gone.
END_S = 5.0
# Functions that a worker keeps.
KEPT_FUNCTIONS = 32


class PoolWorker:
    """The actor that is one of a pool's workers."""

    def __init__(
        self, initializer: Callable[..., object] | None, initargs: Sequence[Any]
    ) -> None:
        self._functions: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()
        if initializer is not None:
            initializer(*initargs)

    def run(
        self, code: bytes, name: str, how: int, calls: Sequence[Any], *, stops: bool
    ) -> tuple[float, list[tuple[bool, Any]]]:
        """Make calls; return how long they took and the outcome of each. `stops`: at the first that raises."""
        began = monotonic()
        function = self._load(code)
        outcomes: list[tuple[bool, Any]] = []
        for call in calls:
            try:
                outcomes.append((True, _call(function, how, call)))
            except Exception as error:  # noqa: BLE001 - whatever user code raises is the call's outcome
                outcomes.append((False, pack_failure(error, task=name)))
                if stops:
                    break
        return monotonic() - began, outcomes

    def _load(self, code: bytes) -> Callable[..., Any]:
        known = self._functions.get(code)
        if known is not None:
            return known
        function: Callable[..., Any] = load_code(code)
        # What has state of its own, such as a partial or a bound method, comes fresh with every chunk, as in a Pool.
        if isinstance(function, FunctionType | BuiltinFunctionType | type):
            self._functions[code] = function
            if len(self._functions) > KEPT_FUNCTIONS:
                self._functions.popitem(last=False)
        return function


def _call(function: Callable[..., Any], how: int, call: Any) -> Any:
    if how == ONE:
        return function(call)
    if how == STARRED:
        return function(*call)
    args, kwargs = call
    return function(*args, **kwargs)


class PoolWork:
    """A function that is called many times, as it travels."""

    __slots__ = ("code", "how", "name", "stops")

    def __init__(self, code: bytes | ObjectRef[bytes], name: str, how: int, *, stops: bool) -> None:
        self.code = code
        self.name = name
        self.how = how
        self.stops = stops


class PoolChunk:
    """Calls that are made one after the other by one worker."""

    __slots__ = ("calls", "index", "job", "work")

    def __init__(self, job: PoolJob, work: PoolWork, index: int, calls: Sequence[Any]) -> None:
        self.job = job
        self.work = work
        self.index = index
        self.calls = calls


class _Member:
    """One worker."""

    __slots__ = ("actor", "chunks", "given", "has_started", "leaving")

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.chunks: dict[ObjectRef[Any], PoolChunk] = {}
        """Given and not answered, in the order in which it runs them."""
        self.given = 0
        self.has_started = False
        self.leaving: ObjectRef[Any] | None = None


class Crew:
    """The workers of one pool."""

    def __init__(
        self,
        size: int,
        options: Mapping[str, Any],
        initializer: Callable[..., object] | None,
        initargs: Sequence[Any],
        share: int | None,
    ) -> None:
        """Start `size` workers. `share`: how many chunks each runs before it is replaced."""
        self._size = size
        self._worker = remote(PoolWorker).options(**options)
        self._worker_args = (initializer, initargs)
        self._share = share
        self._engine = started()
        self._inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._members: list[_Member] = []
        self._leaving: list[_Member] = []
        self._sources: deque[tuple[PoolJob, Iterator[PoolChunk]]] = deque()
        self._returned: deque[PoolChunk] = deque()
        """Drawn, and with no member: it died before it came to them, or all are busy."""
        self._fed: dict[PoolJob, threading.Semaphore] = {}
        """The jobs whose chunks come from threads of their own, and the room that those have."""
        self._pace: OrderedDict[bytes | ObjectRef[bytes], float] = OrderedDict()
        """Seconds that a call of a function takes, in the mean of the last few chunks."""
        self._closing = False
        self._broken: BaseException | None = None
        self.ended = False
        self.thread = threading.Thread(target=self._serve, name="weft-pool", daemon=True)
        self.thread.start()

    # -------------------------------------------------------------- from any thread

    def submit(self, job: PoolJob, work: PoolWork, chunks: Iterator[Sequence[Any]]) -> None:
        """Queue a job. The chunks are drawn in the crew's thread: drawing one must not block."""
        self._inbox.put(partial(self._add, job, _numbered(job, work, chunks)))

    def feed(self, job: PoolJob, work: PoolWork, chunks: Iterator[Sequence[Any]]) -> None:
        """Queue a job whose chunks a thread of its own draws: drawing one may take any time, or fail."""
        room = threading.Semaphore(self._size * (1 + MOST_AHEAD))
        self._inbox.put(partial(self._begin_feed, job, room))
        threading.Thread(
            target=self._feed, args=(job, work, chunks, room), name="weft-pool-feeder", daemon=True
        ).start()

    def close(self) -> None:
        """Let the workers end when all work is done. Safe from `__del__`."""
        self._inbox.put(self._close)

    def terminate(self) -> None:
        """End the workers now; what is not done fails."""
        self._inbox.put(self._terminate)

    # -------------------------------------------------------------- the crew's thread

    def _serve(self) -> None:
        for _ in range(self._size):
            self._hire()
        while not self.ended:
            self._inbox.get()()
        while not self._inbox.empty():
            # Posted by a thread that did not know yet.
            self._inbox.get()()

    def _hire(self) -> None:
        if self._broken is not None or self._closing and not self._has_work():
            return
        if current.engine is not self._engine:
            self._break(SessionError("the session of this pool has ended"))
            return
        try:
            member = _Member(self._worker.remote(*self._worker_args))
        except Exception as error:  # noqa: BLE001 - the initializer's arguments may be anything
            self._break(error)
            return
        self._members.append(member)
        self._watch(member.actor.__weft_ready__.remote(), partial(self._joined, member))

    def _watch(self, ref: ObjectRef[Any], then: Callable[[ObjectRef[Any]], object]) -> None:
        self._engine.when_ready(ref, partial(self._inbox.put, partial(then, ref)))

    def _joined(self, member: _Member, ref: ObjectRef[Any]) -> None:
        try:
            get(ref)
        except ActorDiedError as error:
            self._members = [each for each in self._members if each is not member]
            if self.ended:
                return
            # An initializer that fails once would do so again.
            cause = error.cause
            self._break(error_of(cause) if isinstance(cause, TaskError) else error)
            return
        except WeftError as error:
            self._break(error)
            return
        member.has_started = True
        self._hand_out()

    def _begin_feed(self, job: PoolJob, room: threading.Semaphore) -> None:
        self._fed[job] = room

    def _feed(
        self,
        job: PoolJob,
        work: PoolWork,
        chunks: Iterator[Sequence[Any]],
        room: threading.Semaphore,
    ) -> None:
        """Draw chunks and post them, not too far ahead. In a thread of its own."""
        index = 0
        try:
            for calls in chunks:
                room.acquire()
                if job.abandoned:
                    break
                chunk = PoolChunk(job, work, index, calls)
                self._inbox.put(partial(self._add_fed, chunk, room))
                index += 1
        except Exception as error:  # noqa: BLE001 - the user's iterable may raise anything
            self._inbox.put(partial(job.take, index, [(False, error)]))
            index += 1
        self._inbox.put(partial(self._end_feed, job, index))

    def _add_fed(self, chunk: PoolChunk, room: threading.Semaphore) -> None:
        self._add(chunk.job, _one(chunk, room))

    def _end_feed(self, job: PoolJob, chunks: int) -> None:
        del self._fed[job]
        job.end(chunks)
        self._leave_if_done()

    def _add(self, job: PoolJob, chunks: Iterator[PoolChunk]) -> None:
        self._sources.append((job, chunks))
        if self._broken is not None:
            self._fail_all(self._broken)
        self._hand_out()

    # -------------------------------------------------------------- giving out

    def _next_chunk(self) -> PoolChunk | None:
        while self._returned:
            chunk = self._returned.popleft()
            if not chunk.job.abandoned:
                return chunk
        while self._sources:
            job, chunks = self._sources[0]
            chunk = None if job.abandoned else next(chunks, None)
            if chunk is not None:
                return chunk
            self._sources.popleft()
        return None

    def _has_work(self) -> bool:
        return bool(self._sources or self._returned or self._fed)

    def _hand_out(self) -> None:
        """Give chunks to members that have room for one."""
        while (chunk := self._next_chunk()) is not None:
            member = self._freest(chunk)
            if member is None:
                self._returned.appendleft(chunk)
                break
            self._give(member, chunk)
        self._leave_if_done()

    def _freest(self, chunk: PoolChunk) -> _Member | None:
        """Return the member that comes to the chunk first; None if it is better to wait."""
        best: _Member | None = None
        for member in self._members:
            if not member.has_started or (self._share and member.given >= self._share):
                continue
            if best is None or len(member.chunks) < len(best.chunks):
                best = member
                if not member.chunks:
                    return member
        if best is None or self._share or len(best.chunks) >= MOST_AHEAD:
            return None
        waits_s = sum(self._expected_s(each) for each in best.chunks.values())
        return best if waits_s + self._expected_s(chunk) <= AHEAD_S else None

    def _expected_s(self, chunk: PoolChunk) -> float:
        return self._pace.get(chunk.work.code, AHEAD_S) * len(chunk.calls)

    def _note_pace(self, chunk: PoolChunk, duration_s: float) -> None:
        code, call_s = chunk.work.code, duration_s / len(chunk.calls)
        before = self._pace.get(code, call_s)
        self._pace[code] = before + (call_s - before) / 4
        if len(self._pace) > KEPT_FUNCTIONS:
            self._pace.popitem(last=False)

    def _give(self, member: _Member, chunk: PoolChunk) -> None:
        work = chunk.work
        try:
            ref = member.actor.run.remote(
                work.code, work.name, work.how, chunk.calls, stops=work.stops
            )
        except Exception as error:  # noqa: BLE001 - an argument that cannot be pickled, by code of its own
            chunk.job.take(chunk.index, [(False, error)])
            return
        member.given += 1
        member.chunks[ref] = chunk
        self._watch(ref, partial(self._answered, member))

    def _answered(self, member: _Member, ref: ObjectRef[Any]) -> None:
        chunk = member.chunks.pop(ref, None)
        if chunk is None:
            return
        try:
            duration_s, outcomes = get(ref)
        except Exception as error:  # noqa: BLE001 - whatever ended the call is its outcome
            if isinstance(error, ActorDiedError) and not isinstance(error, TaskError):
                self._lost(member)
            outcomes = [(False, error)]
        else:
            self._note_pace(chunk, duration_s)
        chunk.job.take(chunk.index, outcomes)
        if self._share is not None and member.given >= self._share and not member.chunks:
            self._dismiss(member)
            self._hire()
        self._hand_out()

    def _lost(self, member: _Member) -> None:
        """It died in the chunk that was its first: the others never began."""
        self._returned.extend(member.chunks.values())
        member.chunks.clear()
        if member in self._members:
            self._members.remove(member)
            self._hire()

    # -------------------------------------------------------------- the end

    def _dismiss(self, member: _Member) -> None:
        """Let a member end as programs do, with its exit hooks."""
        if member in self._members:
            self._members.remove(member)
        self._leaving.append(member)
        try:
            member.leaving = member.actor.__weft_terminate__.remote()
        except WeftError:
            self._left(member, None)
            return
        self._watch(member.leaving, partial(self._left, member))

    def _left(self, member: _Member, _ref: ObjectRef[Any] | None) -> None:
        self._leaving.remove(member)
        self._leave_if_done()

    def _close(self) -> None:
        self._closing = True
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if not self._closing or self.ended or self._has_work():
            return
        for member in list(self._members):
            if not member.chunks:
                self._dismiss(member)
        if not self._members and not self._leaving:
            self.ended = True

    def _terminate(self) -> None:
        self.ended = True
        members = [*self._members, *self._leaving]
        self._break(TaskCancelledError(error_message="the pool was terminated before this was done"))
        if current.engine is self._engine:
            for member in members:
                kill(member.actor)
            # Calls of an actor that is gone fail: then they are.
            gone = [member.actor.__weft_ready__.remote() for member in members]
            wait(gone, num_returns=max(1, len(gone)), timeout=END_S)
        self._members.clear()

    def _break(self, error: BaseException) -> None:
        """No worker can be started: whatever is asked of the pool fails with `error`."""
        self._broken = error
        self._fail_all(error)
        self._leave_if_done()

    def _fail_all(self, error: BaseException) -> None:
        """Fail what is not done."""
        for member in self._members:
            self._returned.extend(member.chunks.values())
            member.chunks.clear()
        while (chunk := self._next_chunk()) is not None:
            chunk.job.take(chunk.index, [(False, error)])
        for job, room in self._fed.items():
            job.fail(error)
            # Its feeder sees that and ends, unless it is inside the user's iterable.
            room.release()


def _numbered(
    job: PoolJob, work: PoolWork, chunks: Iterator[Sequence[Any]]
) -> Iterator[PoolChunk]:
    """Yield a job's chunks; tell it in the end how many those were."""
    index = 0
    for calls in chunks:
        yield PoolChunk(job, work, index, calls)
        index += 1
    job.end(index)


def _one(chunk: PoolChunk, room: threading.Semaphore) -> Iterator[PoolChunk]:
    room.release()
    yield chunk
