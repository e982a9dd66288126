"""The workers of a pool, and the one thread that gives them work.

    user's threads  --post-->  inbox  -->  crew thread: backlog, members  -->  actors
    actors' answers --post-->    |                      job._take(outcomes)
    end of session  --post-->    |

A member gets chunks in batches, and its next batch before it has answered the last. A batch that
takes longer than was expected ends early: what it had not begun goes to whoever is free.

What is always true
1. Until it has ended, only the crew's thread touches the state; everybody else posts. So a signal
   in the main thread finds nothing half done.
2. A chunk that has ended well is run once, unless its worker died within a moment of that. When a
   member dies, its chunks are given out again, each to a member of its own; one that was alone
   when its member died has failed.
3. `size` members are there, or being started, until the pool closes. One that dies or has run its
   share is replaced; if the initializer fails, the pool fails, with that error.
"""

from __future__ import annotations

import threading
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from weft._api.actors import kill
from weft._api.decorators import remote
from weft._api.session import started
from weft._engine import current
from weft._log import logger
from weft.exceptions import (
    ActorDiedError,
    SessionError,
    TaskCancelledError,
    TaskError,
    WeftError,
)
from weft.util._endings import wait_until_gone
from weft.util.multiprocessing._backlog import Backlog, PoolChunk, numbered
from weft.util.multiprocessing._results import error_of
from weft.util.multiprocessing._worker import PoolWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from weft._refs import ObjectRef
    from weft.util.multiprocessing._backlog import PoolWork
    from weft.util.multiprocessing._results import PoolJob

# A member has so many batches, so that it finds the next one when it has done the last.
BATCHES_AHEAD = 2
# So many chunks for each member are drawn from an iterable before there is room: they may be large.
FED_AHEAD = 16
# How long `terminate` waits until the workers are gone.
END_S = 5.0


class _Member:
    """One worker."""

    __slots__ = ("actor", "batches", "given", "has_started")

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.batches: dict[ObjectRef[Any], list[PoolChunk]] = {}
        """Given and not answered, in the order in which it runs them."""
        self.given = 0
        self.has_started = False

    def has_suspect(self) -> bool:
        """Tell whether it runs a chunk that wants it for itself."""
        return any(chunk.is_suspect for batch in self.batches.values() for chunk in batch)


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
        self._backlog = Backlog(is_one_by_one=share is not None)
        self._fed: dict[PoolJob, threading.Semaphore] = {}
        """The jobs whose chunks come from threads of their own, and the room that those have."""
        self._closing = False
        self._broken: BaseException | None = None
        self.ended = False
        self._draining = threading.RLock()
        """Held by whoever does what is posted after the end."""
        for _ in range(size):
            self._inbox.put(self._hire)
        current.at_end.add(self._tell_session_ends)
        if current.engine is not self._engine:
            self._tell_session_ends()
        self.thread = threading.Thread(target=self._serve, name="weft-pool", daemon=True)
        self.thread.start()

    # -------------------------------------------------------------- from any thread

    def submit(self, job: PoolJob, work: PoolWork, chunks: Iterator[Sequence[Any]]) -> None:
        """Queue a job. The chunks are drawn in the crew's thread: drawing one must not block."""
        self._post(partial(self._add, job, numbered(job, work, chunks)))

    def feed(self, job: PoolJob, work: PoolWork, chunks: Iterator[Sequence[Any]]) -> None:
        """Queue a job whose chunks a thread of its own draws.

        Drawing one may take any time, or fail.
        """
        self._post(partial(self._begin_feed, job, work, chunks))

    def close(self) -> None:
        """Let the workers end when all work is done. Safe from `__del__`."""
        self._inbox.put(self._close)

    def terminate(self) -> None:
        """End the workers now; what is not done fails."""
        self._post(self._terminate)

    # -------------------------------------------------------------- the crew's thread

    def _serve(self) -> None:
        while not self.ended:
            posted = self._inbox.get()
            try:
                posted()
            except Exception as error:  # noqa: BLE001 - else everybody would wait for ever
                if current.engine is self._engine:
                    logger().exception("a pool failed")
                self._break(error)
        current.at_end.discard(self._tell_session_ends)
        self._drain()

    def _post(self, what: Callable[[], object]) -> None:
        self._inbox.put(what)
        if self.ended:
            self._drain()

    def _drain(self) -> None:
        """Do what was posted when nobody serves any more: it fails, and nobody waits in vain."""
        # Feeders come here too, each in its own thread.
        with self._draining:
            while True:
                try:
                    posted = self._inbox.get_nowait()
                except Empty:
                    return
                posted()

    def _tell_session_ends(self) -> None:
        self._inbox.put(self._session_ends)

    def _session_ends(self) -> None:
        """End with the session: what was asked of its actors is never answered."""
        self.ended = True
        self._break(SessionError("the session of this pool has ended"))
        self._members.clear()
        self._leaving.clear()

    def _hire(self) -> None:
        if self._broken is not None or (self._closing and not self._has_work()):
            return
        try:
            # In its own session: `remote` would start another one if that has just ended.
            member = _Member(self._worker._create(self._engine, self._worker_args, {}))
            ready = member.actor.__weft_ready__.remote()
        except Exception as error:  # noqa: BLE001 - the initializer's arguments may be anything
            self._break(error)
            return
        self._members.append(member)
        self._watch(ready, partial(self._joined, member))

    def _watch(self, ref: ObjectRef[Any], then: Callable[[ObjectRef[Any]], object]) -> None:
        self._engine.when_ready(ref, partial(self._inbox.put, partial(then, ref)))

    def _joined(self, member: _Member, ref: ObjectRef[Any]) -> None:
        try:
            self._engine.get([ref], None)
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

    def _begin_feed(self, job: PoolJob, work: PoolWork, chunks: Iterator[Sequence[Any]]) -> None:
        if self._broken is not None:
            job._fail(self._broken)
            return
        room = self._fed[job] = threading.Semaphore(self._size * FED_AHEAD)
        threading.Thread(
            target=self._feed, args=(job, work, chunks, room), name="weft-pool-feeder", daemon=True
        ).start()

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
                if job._abandoned:
                    break
                chunk = PoolChunk(job, work, index, calls)
                self._post(partial(self._add_fed, chunk, room))
                index += 1
        except Exception as error:  # noqa: BLE001 - the user's iterable
            self._post(partial(job._take, index, [(False, error)]))
            index += 1
        self._post(partial(self._end_feed, job, index))

    def _add_fed(self, chunk: PoolChunk, room: threading.Semaphore) -> None:
        self._add(chunk.job, _one(chunk, room))

    def _end_feed(self, job: PoolJob, chunks: int) -> None:
        del self._fed[job]
        job._end(chunks)
        self._leave_if_done()

    def _add(self, job: PoolJob, chunks: Iterator[PoolChunk]) -> None:
        self._backlog.add(job, chunks)
        if self._broken is not None:
            self._fail_all(self._broken)
        self._hand_out()

    # -------------------------------------------------------------- giving out

    def _has_work(self) -> bool:
        return bool(self._backlog or self._fed)

    def _hand_out(self) -> None:
        """Give work to members that have room."""
        while (member := self._freest()) is not None:
            batch = self._backlog.take_batch(is_urgent=not member.batches)
            if not batch:
                break
            self._give(member, batch)
        self._leave_if_done()

    def _freest(self) -> _Member | None:
        best: _Member | None = None
        for member in self._members:
            if not member.has_started or (self._share and member.given >= self._share):
                continue
            if not member.batches:
                return member
            if len(member.batches) < BATCHES_AHEAD and best is None and not member.has_suspect():
                best = member
        return best

    def _give(self, member: _Member, batch: list[PoolChunk]) -> None:
        try:
            ref = member.actor.run.remote([chunk.as_given() for chunk in batch])
        except Exception as error:  # noqa: BLE001 - pickling runs the user's code
            if len(batch) > 1:
                for chunk in batch:
                    self._give(member, [chunk])
            else:
                batch[0].fail(error)
            return
        member.given += 1
        member.batches[ref] = batch
        self._watch(ref, partial(self._answered, member))

    def _answered(self, member: _Member, ref: ObjectRef[Any]) -> None:
        batch = member.batches.pop(ref, None)
        if batch is None:
            return
        try:
            answers = self._engine.get([ref], None)[0]
        except Exception as error:  # noqa: BLE001 - whatever ended it is the outcome
            # A TaskError tells of another actor's death, which a call met.
            if isinstance(error, ActorDiedError) and TaskError not in type(error).__mro__:
                batch = self._lost(member, batch)
            for chunk in batch:
                chunk.fail(error)
        else:
            for chunk, (duration_s, outcomes) in zip(batch, answers, strict=False):
                self._backlog.note_pace(chunk, duration_s)
                chunk.job._take(chunk.index, outcomes)
            self._backlog.put_back(batch[len(answers) :])
        if self._share and member.given >= self._share and not member.batches:
            self._dismiss(member)
            self._hire()
        self._hand_out()

    def _lost(self, member: _Member, batch: list[PoolChunk]) -> list[PoolChunk]:
        """A member died: return what has failed; what may be innocent is given out again."""
        chunks = [*batch, *(chunk for others in member.batches.values() for chunk in others)]
        member.batches.clear()
        if member in self._members:
            self._members.remove(member)
            self._hire()
        if len(chunks) == 1:
            return chunks
        for chunk in chunks:
            chunk.is_suspect = True
        self._backlog.put_back(chunks)
        return []

    # -------------------------------------------------------------- the end

    def _dismiss(self, member: _Member) -> None:
        """Let a member end as programs do, with its exit hooks."""
        if member in self._members:
            self._members.remove(member)
        self._leaving.append(member)
        try:
            member.actor.__weft_terminate__.remote()
            # Behind that it is never answered: it fails when the process is gone.
            gone = member.actor.__weft_ready__.remote()
        except WeftError:
            self._left(member, None)
            return
        self._watch(gone, partial(self._left, member))

    def _left(self, member: _Member, _ref: ObjectRef[Any] | None) -> None:
        if member in self._leaving:
            self._leaving.remove(member)
        self._leave_if_done()

    def _close(self) -> None:
        self._closing = True
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if not self._closing or self.ended or self._has_work():
            return
        for member in list(self._members):
            if not member.batches:
                self._dismiss(member)
        if not self._members and not self._leaving:
            self._broken = self._broken or ValueError("Pool not running")
            self.ended = True

    def _terminate(self) -> None:
        if self.ended:
            return
        self.ended = True
        members = [*self._members, *self._leaving]
        self._break(
            TaskCancelledError(error_message="the pool was terminated before this was done")
        )
        if current.engine is self._engine:
            for member in members:
                kill(member.actor)
            wait_until_gone(self._engine, [member.actor for member in members], END_S)
        self._members.clear()

    def _break(self, error: BaseException) -> None:
        """No worker can be started: whatever is asked of the pool fails with `error`."""
        self._broken = error
        self._fail_all(error)
        self._leave_if_done()

    def _fail_all(self, error: BaseException) -> None:
        """Fail what is not done."""
        for member in self._members:
            for batch in member.batches.values():
                self._backlog.put_back(batch)
            member.batches.clear()
        for job, room in list(self._fed.items()):
            job._fail(error)
            # Its feeder sees that and ends, unless it is inside the user's iterable.
            room.release()
        while (chunk := self._backlog.take()) is not None:
            chunk.fail(error)


def _one(chunk: PoolChunk, room: threading.Semaphore) -> Iterator[PoolChunk]:
    room.release()
    yield chunk
