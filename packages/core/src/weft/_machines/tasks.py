"""A process's own tasks, from submission to their end, and the workers it leases for them.

    waiting -> queued -> sent -> done
       |         ^ |       |
       |         | +-------+  given back, worker lost and retried, exception retried
       +---------+-> done     cancelled, refused

Tasks of one shape share a pool of leased workers. A short task is sent to a worker that has others
yet to run, as many deep as are expected to finish within `PIPELINE_S`; a function that was never
timed is sent to idle workers only. A worker that turns out to be busy gives its unstarted tasks
back.

What is always true
1. A task is in exactly one place: waiting, in its pool's queue, or with one lease.
2. A lease holds at most one task that carries a time limit, and then no other.
3. Tasks that were never started cost no retry when their worker is lost.
4. A pool without queued tasks wants no worker; a lease without tasks is returned when others wait,
   or after `LINGER_S`.
5. Every task ends in exactly one Complete or Fail.

Effects are in the order in which they must be done. `next_deadline` says when `TasksTicked` is due.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, assert_never

import msgspec

from weft._ids import TaskId, WorkerId
from weft._wire.messages import Certificate

# Long enough to hide a round trip (0.1 ms) and a scheduler's slice, short enough that a wrong guess
# is not felt.
PIPELINE_S = 0.004
PIPELINE_TASKS = 256
# An idle lease saves the next task a round trip to the daemon; another client that wants it gets it
# at once.
LINGER_S = 0.5
# After the limit a task is asked to stop; so long after that its process is ended.
GRACE_S = 0.5
MOST_WANTED = 1024
# Weight of the newest duration in a function's running mean.
_NEWEST = 0.2


class Task:
    """One task of this process. `note` is the shell's."""

    __slots__ = (
        "attempt",
        "cancelled",
        "deadline",
        "function",
        "id",
        "name",
        "note",
        "retries",
        "shape",
        "state",
        "timed_out",
        "timeout_s",
        "waits",
        "worker",
    )

    def __init__(
        self,
        task_id: TaskId,
        name: str,
        function: bytes,
        *,
        retries: int,
        timeout_s: float,
        note: Any,
    ) -> None:
        self.id = task_id
        self.name = name
        self.shape = 0
        """Key of its pool."""
        self.function = function
        self.retries = retries
        """Attempts left after this one; -1: no end."""
        self.waits = 0
        """Arguments that are not there yet."""
        self.timeout_s = timeout_s
        """0: none."""
        self.state: Literal["waiting", "queued", "sent", "done"] = "waiting"
        self.worker: WorkerId | None = None
        self.deadline = 0.0
        self.timed_out = False
        self.cancelled = False
        self.attempt = 0
        self.note = note


class Lease:
    """A worker that this process may send tasks to."""

    __slots__ = ("busy", "contended", "idle_at", "lost", "pool", "tasks", "worker")

    def __init__(self, worker: WorkerId, pool: LeasePool, *, contended: bool) -> None:
        self.worker = worker
        self.pool = pool
        self.tasks: dict[TaskId, Task] = {}
        """Sent and not answered, in order: the first may be running."""
        self.busy = False
        """It gave tasks back: nothing is sent until it answers."""
        self.contended = contended
        self.idle_at = 0.0
        self.lost = False


class LeasePool:
    """The tasks and leases of one shape."""

    __slots__ = ("full", "key", "leases", "queue", "refused", "told", "wanted")

    def __init__(self, key: int) -> None:
        self.key = key
        self.queue: deque[Task] = deque()
        self.leases: dict[WorkerId, Lease] = {}
        self.wanted = 0
        """Told to the daemon, less what it has granted since."""
        self.told = False
        """The daemon's last word from here is not that nothing is wanted."""
        self.full = False
        """No lease had room at the last look."""
        self.refused: LeaseRefused | None = None


# ------------------------------------------------------------------ events


class Submitted(msgspec.Struct, frozen=True):
    """A call was made."""

    task: Task


class ArgumentReady(msgspec.Struct, frozen=True):
    """One more argument of a waiting task is there."""

    task_id: TaskId


class ArgumentFailed(msgspec.Struct, frozen=True):
    """An argument ended in an error: the task cannot run."""

    task_id: TaskId
    error: Any


class LeaseGranted(msgspec.Struct, frozen=True):
    """The daemon gave a worker."""

    key: int
    worker: WorkerId
    contended: bool


class LeaseMissed(msgspec.Struct, frozen=True):
    """The worker that the daemon gave was gone already: the demand stands."""

    key: int


class LeaseRefused(msgspec.Struct, frozen=True):
    """The daemon never gives a worker of this shape."""

    key: int
    kind: str
    reason: str


class Finished(msgspec.Struct, frozen=True):
    """A worker answered. `retriable`: with an exception that the task wants retried."""

    worker: WorkerId
    task_id: TaskId
    duration_s: float
    retriable: bool


class GivenBack(msgspec.Struct, frozen=True):
    """A worker will not start these."""

    worker: WorkerId
    task_ids: Sequence[TaskId]
    busy: bool


class LeaseLost(msgspec.Struct, frozen=True):
    """The connection to a worker broke; how it ended is being asked."""

    worker: WorkerId


class WorkerEnded(msgspec.Struct, frozen=True):
    """How a lost worker ended. `last`: the last task that it started."""

    worker: WorkerId
    last: TaskId | None
    certificate: Certificate


class CancelAsked(msgspec.Struct, frozen=True):
    """The user cancels a task."""

    task_id: TaskId
    force: bool


class Reclaimed(msgspec.Struct, frozen=True):
    """Idle leases are to be returned. `others_wait`: and those that become idle later."""

    others_wait: bool = True


class TasksTicked(msgspec.Struct, frozen=True):
    """`next_deadline` has come."""


Event = (
    Submitted | Finished | ArgumentReady | ArgumentFailed | LeaseGranted | LeaseMissed
    | LeaseRefused | GivenBack | LeaseLost | WorkerEnded | CancelAsked | Reclaimed | TasksTicked
)  # fmt: skip

# ------------------------------------------------------------------ effects


class Send(msgspec.Struct, frozen=True):
    """Send the task to the worker."""

    worker: WorkerId
    task: Task


class Want(msgspec.Struct, frozen=True):
    """Tell the daemon how many more workers of the shape are wanted."""

    key: int
    workers: int


class GiveUpLease(msgspec.Struct, frozen=True):
    """Return the lease."""

    worker: WorkerId


class Complete(msgspec.Struct, frozen=True):
    """The worker's answer is the task's end."""

    task: Task


class Fail(msgspec.Struct, frozen=True):
    """The task ends without an answer. `detail` depends on `kind`."""

    task: Task
    kind: Literal["cancelled", "timeout", "died", "unschedulable", "environment", "argument"]
    detail: Any = None


class AskCancel(msgspec.Struct, frozen=True):
    """Ask the worker to stop the task."""

    worker: WorkerId
    task: Task


class Kill(msgspec.Struct, frozen=True):
    """End the worker's process."""

    worker: WorkerId
    reason: str


Effect = Send | Want | GiveUpLease | Complete | Fail | AskCancel | Kill


class Tasks:
    """The tasks that this process owns."""

    def __init__(self) -> None:
        self.tasks: dict[TaskId, Task] = {}
        self.pools: dict[int, LeasePool] = {}
        self.leases: dict[WorkerId, Lease] = {}
        self.mean_s: dict[bytes, float] = {}
        """Running mean of each function's duration."""
        self._idle: dict[WorkerId, Lease] = {}
        self._timed: dict[TaskId, Task] = {}

    @property
    def next_deadline(self) -> float | None:
        """When `TasksTicked` is due; None: never, as things are."""
        times = [lease.idle_at + LINGER_S for lease in self._idle.values()]
        times += [task.deadline for task in self._timed.values()]
        return min(times, default=None)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event at time `now` (seconds, monotonic); return what to do.

        An impossible event raises KeyError.
        """
        effects: list[Effect] = []
        match event:
            case Submitted():
                self._submit(event.task, now, effects)
            case Finished():
                self._finish(event, now, effects)
            case ArgumentReady():
                task = self.tasks.get(event.task_id)
                if task is not None and task.state == "waiting":
                    task.waits -= 1
                    if not task.waits:
                        self._enqueue(task, now, effects)
            case ArgumentFailed():
                task = self.tasks.get(event.task_id)
                if task is not None and task.state == "waiting":
                    self._end(task)
                    effects.append(Fail(task, "argument", event.error))
            case LeaseGranted():
                self._grant(event, now, effects)
            case LeaseMissed():
                pool = self.pools[event.key]
                pool.wanted = 0
                self._want(pool, effects)
            case LeaseRefused():
                self._refuse(event, effects)
            case GivenBack():
                self._give_back(event, now, effects)
            case LeaseLost():
                lease = self.leases[event.worker]
                lease.lost = True
                self._idle.pop(event.worker, None)
            case WorkerEnded():
                self._worker_ended(event, now, effects)
            case CancelAsked():
                self._cancel(event, effects)
            case Reclaimed():
                for lease in list(self._idle.values()):
                    self._give_up(lease, effects)
                for lease in self.leases.values():
                    lease.contended = lease.contended or event.others_wait
            case TasksTicked():
                self._tick(now, effects)
            case _:
                assert_never(event)
        return effects

    # -------------------------------------------------------------- towards a worker

    def _submit(self, task: Task, now: float, effects: list[Effect]) -> None:
        self.tasks[task.id] = task
        if not task.waits:
            self._enqueue(task, now, effects)

    def _enqueue(self, task: Task, now: float, effects: list[Effect]) -> None:
        pool = self.pools.get(task.shape)
        if pool is None:
            pool = self.pools[task.shape] = LeasePool(task.shape)
        if pool.refused is not None:
            self._end(task)
            effects.append(Fail(task, pool.refused.kind, pool.refused.reason))  # type: ignore[arg-type]
            return
        task.state = "queued"
        pool.queue.append(task)
        self._dispatch(pool, now, effects)

    def _dispatch(self, pool: LeasePool, now: float, effects: list[Effect]) -> None:
        queue = pool.queue
        while queue and not pool.full:
            task = queue[0]
            lease = self._roomy(pool, task)
            if lease is None:
                pool.full = True
                break
            queue.popleft()
            if not lease.tasks:
                self._idle.pop(lease.worker, None)
            lease.tasks[task.id] = task
            task.worker = lease.worker
            task.state = "sent"
            if task.timeout_s:
                task.deadline = now + task.timeout_s
                self._timed[task.id] = task
            effects.append(Send(lease.worker, task))
        self._want(pool, effects)

    def _roomy(self, pool: LeasePool, task: Task) -> Lease | None:
        mean_s = self.mean_s.get(task.function)
        room = 1
        if mean_s is not None and not task.timeout_s:
            room = (
                PIPELINE_TASKS
                if mean_s * PIPELINE_TASKS <= PIPELINE_S
                else max(1, int(PIPELINE_S / mean_s))
            )
        best: Lease | None = None
        for lease in pool.leases.values():
            sent = len(lease.tasks)
            if sent < room and not lease.busy and not lease.lost:
                if not sent:
                    return lease
                first = next(iter(lease.tasks.values()))
                if not task.timeout_s and not first.timeout_s:
                    best, room = lease, sent
        return best

    def _want(self, pool: LeasePool, effects: list[Effect]) -> None:
        """Tell the daemon, in powers of two, so that ten thousand tasks cost ten messages.

        A grant and a word to the daemon may cross, so its number can be larger than `wanted`: the
        last word is zero.
        """
        queued = len(pool.queue)
        wanted = min(1 << (queued - 1).bit_length(), MOST_WANTED) if queued else 0
        if wanted > pool.wanted or (not queued and pool.told):
            pool.wanted = wanted
            pool.told = queued > 0
            effects.append(Want(pool.key, wanted))

    def _grant(self, event: LeaseGranted, now: float, effects: list[Effect]) -> None:
        pool = self.pools[event.key]
        pool.wanted = max(0, pool.wanted - 1)
        lease = Lease(event.worker, pool, contended=event.contended)
        pool.leases[event.worker] = self.leases[event.worker] = lease
        pool.full = False
        self._dispatch(pool, now, effects)
        if not lease.tasks:
            self._rest(lease, now, effects)

    def _refuse(self, event: LeaseRefused, effects: list[Effect]) -> None:
        pool = self.pools[event.key]
        pool.wanted = 0
        pool.told = False
        # An environment may be mended and tried again; what fits no node never will.
        pool.refused = event if event.kind == "unschedulable" else None
        while pool.queue:
            task = pool.queue.popleft()
            self._end(task)
            effects.append(Fail(task, event.kind, event.reason))  # type: ignore[arg-type]

    # -------------------------------------------------------------- back from a worker

    def _finish(self, event: Finished, now: float, effects: list[Effect]) -> None:
        lease = self.leases[event.worker]
        task = lease.tasks.pop(event.task_id)
        lease.busy = False
        pool = lease.pool
        pool.full = False
        mean_s = self.mean_s.get(task.function)
        self.mean_s[task.function] = (
            event.duration_s if mean_s is None else mean_s + _NEWEST * (event.duration_s - mean_s)
        )
        if event.retriable and task.retries and not task.cancelled and not task.timed_out:
            self._again(task)
            pool.queue.append(task)
        else:
            self._end(task)
            if task.timed_out:
                effects.append(Fail(task, "timeout"))
            else:
                effects.append(Complete(task))
        if pool.queue:
            self._dispatch(pool, now, effects)
        if not lease.tasks and not lease.lost:
            self._rest(lease, now, effects)

    def _rest(self, lease: Lease, now: float, effects: list[Effect]) -> None:
        if lease.contended:
            self._give_up(lease, effects)
        else:
            lease.idle_at = now
            self._idle[lease.worker] = lease

    def _give_up(self, lease: Lease, effects: list[Effect]) -> None:
        self._idle.pop(lease.worker, None)
        del self.leases[lease.worker], lease.pool.leases[lease.worker]
        effects.append(GiveUpLease(lease.worker))

    def _again(self, task: Task) -> None:
        """Take one retry and queue the task; the caller puts it into the queue."""
        if task.retries > 0:
            task.retries -= 1
        task.attempt += 1
        self._unsend(task)

    def _unsend(self, task: Task) -> None:
        self._timed.pop(task.id, None)
        task.state = "queued"
        task.worker = None

    def _end(self, task: Task) -> None:
        self._timed.pop(task.id, None)
        task.state = "done"
        del self.tasks[task.id]

    def _give_back(self, event: GivenBack, now: float, effects: list[Effect]) -> None:
        lease = self.leases.get(event.worker)
        if lease is None:
            return
        given = [task for task_id in event.task_ids if (task := lease.tasks.pop(task_id, None))]
        # Without a task that is still there, nothing would ever end its being busy.
        lease.busy = (lease.busy or event.busy) and bool(lease.tasks)
        pool = lease.pool
        self._put_back(given, pool, None, effects)
        pool.full = False
        self._dispatch(pool, now, effects)
        if not lease.tasks and not lease.lost:
            self._rest(lease, now, effects)

    def _worker_ended(self, event: WorkerEnded, now: float, effects: list[Effect]) -> None:
        lease = self.leases.pop(event.worker, None)
        if lease is None:
            return
        self._idle.pop(event.worker, None)
        pool = lease.pool
        del pool.leases[event.worker]
        sent = list(lease.tasks.values())
        started = 0
        for index, task in enumerate(sent):
            if task.id == event.last:
                started = index + 1
        self._put_back(sent[started:], pool, event.certificate, effects)
        for task in reversed(sent[:started]):
            if task.timed_out or task.cancelled or not task.retries:
                self._fail_sent(task, event.certificate, effects)
            else:
                self._again(task)
                pool.queue.appendleft(task)
        pool.full = False
        self._dispatch(pool, now, effects)

    def _put_back(
        self, tasks: Sequence[Task], pool: LeasePool, detail: Any, effects: list[Effect]
    ) -> None:
        """Queue tasks that were sent and not started, before the others.

        Those that were to stop end instead.
        """
        for task in reversed(tasks):
            if task.timed_out or task.cancelled:
                self._fail_sent(task, detail, effects)
            else:
                self._unsend(task)
                pool.queue.appendleft(task)

    def _fail_sent(self, task: Task, detail: Any, effects: list[Effect]) -> None:
        self._end(task)
        kind: Literal["timeout", "cancelled", "died"] = (
            "timeout" if task.timed_out else "cancelled" if task.cancelled else "died"
        )
        effects.append(Fail(task, kind, detail))

    # -------------------------------------------------------------- users and time

    def _cancel(self, event: CancelAsked, effects: list[Effect]) -> None:
        task = self.tasks.get(event.task_id)
        if task is None:
            return
        if task.state == "sent":
            assert task.worker is not None
            task.cancelled = True
            lease = self.leases[task.worker]
            first = next(iter(lease.tasks))
            if event.force and first == task.id and not lease.lost:
                effects.append(Kill(task.worker, f"{task.name} was cancelled with force"))
            else:
                effects.append(AskCancel(task.worker, task))
            return
        if task.state == "queued":
            self.pools[task.shape].queue.remove(task)
            self._want(self.pools[task.shape], effects)
        self._end(task)
        effects.append(Fail(task, "cancelled"))

    def _tick(self, now: float, effects: list[Effect]) -> None:
        for lease in [lease for lease in self._idle.values() if lease.idle_at + LINGER_S <= now]:
            self._give_up(lease, effects)
        for task in [task for task in self._timed.values() if task.deadline <= now]:
            assert task.worker is not None
            if task.timed_out:
                del self._timed[task.id]
                effects.append(
                    Kill(
                        task.worker, f"{task.name} ran over its time limit of {task.timeout_s:g} s"
                    )
                )
            else:
                task.timed_out = True
                task.deadline = now + GRACE_S
                effects.append(AskCancel(task.worker, task))

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        placed: dict[TaskId, int] = {}
        for pool in self.pools.values():
            for task in pool.queue:
                assert task.state == "queued", (1, task.id)
                placed[task.id] = placed.get(task.id, 0) + 1
            assert pool.queue or not (pool.told or pool.wanted), (4, pool.key)
        for worker, lease in self.leases.items():
            assert lease.pool.leases[worker] is lease, (4, worker)
            for task in lease.tasks.values():
                assert task.state == "sent" and task.worker == worker, (1, task.id)
                placed[task.id] = placed.get(task.id, 0) + 1
                assert not task.timeout_s or len(lease.tasks) == 1, (2, worker)
            if not lease.tasks and not lease.lost:
                assert worker in self._idle, (4, worker)
        for task_id, task in self.tasks.items():
            assert placed.get(task_id, 0) == (0 if task.state == "waiting" else 1), (1, task_id)
        assert placed.keys() <= self.tasks.keys(), (5, placed.keys() - self.tasks.keys())
