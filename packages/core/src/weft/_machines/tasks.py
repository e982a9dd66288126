"""A process's own tasks, from submission to their end, and the workers it leases for them.

    waiting -> ready -> sent -> done
       |        ^ |       |
       |        | +-------+  given back, worker lost and retried, exception retried
       +--------+-> done     cancelled, refused

A result that is lost makes a task wait again, as a retry.

Tasks of one shape share a pool of leased workers. A short task is sent to a worker that has others
yet to run, as many deep as are expected to finish within `PIPELINE_S`; a function that was never
timed is sent to idle workers only. A worker that turns out to be busy gives its unstarted tasks
back.

What is always true
1. A task is in exactly one place: waiting, in its pool's queue, or with one lease.
2. A lease holds at most one task that carries a time limit, and then no other.
3. Tasks that were never started cost no retry when their worker is lost; those that may have been
   started, for nobody saw what it ran, do. A worker whose process is to be ended gets no task more.
4. A pool without queued tasks wants no worker; a lease without tasks is returned when others wait,
   or after `LINGER_S`; at once, if it was for a task that spreads. A pool is forgotten that has
   neither leases nor tasks to come. When others have waited for `YIELD_S`, a lease takes no more
   tasks: a queue that never ends does not keep its workers.
5. Every task ends in exactly one Complete or Fail.

Effects are in the order in which they must be done. `next_deadline` says when `Ticked` is due.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Any, assert_never

import msgspec

from weft._ids import TaskId, WorkerId
from weft._machines.attempts import (
    GRACE_S,
    Answered,
    ArgumentFailed,
    ArgumentsReady,
    AskCancel,
    Attempted,
    AttemptEvent,
    Attempts,
    CancelAsked,
    Complete,
    Fail,
    FailKind,
    Kill,
    Ticked,
)
from weft._wire.messages import Certificate

# Long enough to hide a round trip (0.1 ms) and a scheduler's slice, short enough that a wrong guess
# is not felt.
PIPELINE_S = 0.004
PIPELINE_TASKS = 256
# An idle lease saves the next task a round trip to the daemon; another client that wants it gets it
# at once.
LINGER_S = 0.5
# A lease that goes round costs its client a millisecond. One with devices costs a worker: its
# process has to end before another may use them.
YIELD_S = 0.5
YIELD_DEVICES_S = 10.0
NEVER = float("inf")
MOST_WANTED = 1024
# Weight of the newest duration in a function's running mean.
_NEWEST = 0.2


class Task(Attempted):
    """One task of this process."""

    __slots__ = ("function", "shape", "spreads", "worker")

    def __init__(
        self,
        task_id: TaskId,
        name: str,
        function: bytes,
        *,
        retries: int,
        timeout_s: float,
        note: Any,
        spreads: bool = False,
    ) -> None:
        super().__init__(task_id, name, retries=retries, timeout_s=timeout_s, note=note)
        self.function = function
        self.shape = 0
        """Key of its pool."""
        self.spreads = spreads
        """It has a pool of its own: where it runs is chosen for it alone."""
        self.worker: WorkerId | None = None
        """Who has it, while it is sent."""


class Lease:
    """A worker that this process may send tasks to."""

    __slots__ = (
        "busy", "has_devices", "idle_at", "listed", "lost", "number", "paused", "pool", "tasks",
        "worker", "yields_at",
    )  # fmt: skip

    def __init__(self, worker: WorkerId, pool: LeasePool, *, has_devices: bool) -> None:
        self.worker = worker
        self.pool = pool
        self.tasks: dict[TaskId, Task] = {}
        """Sent and not answered, in order: the first may be running."""
        self.busy = False
        """It gave tasks back: nothing is sent until it answers."""
        self.has_devices = has_devices
        self.yields_at = NEVER
        """From then on it takes no more tasks; NEVER: nobody else waits for it."""
        self.idle_at = 0.0
        self.lost = False
        """Its process is gone, or is being ended: nothing more is sent."""
        self.paused = False
        """Its process is stopped: it reads nothing."""
        self.number = pool.granted
        """Among all of its pool."""
        self.listed = 0
        """Under which numbers of tasks it stands in the list of its pool, as bits."""

    def yield_soon(self, now: float) -> None:
        """Note that others wait for it."""
        after_s = YIELD_DEVICES_S if self.has_devices else YIELD_S
        self.yields_at = min(self.yields_at, now + after_s)

    def takes_more(self, now: float) -> bool:
        """Tell whether more tasks may be sent, as far as it does not depend on which."""
        if self.busy or self.lost or self.paused or now >= self.yields_at:
            return False
        return not self.tasks or not next(iter(self.tasks.values())).timeout_s


class LeasesByLoad:
    """The leases of a pool by how many tasks they have, so that none has to be looked for.

    A lease is put again whenever it has more or fewer tasks, or may take some again. What does not
    hold any more is left where it is until it is found: so each is under each number once at most.
    """

    __slots__ = ("_heaps", "_least")

    def __init__(self) -> None:
        self._heaps: list[list[tuple[int, Lease]]] = []
        self._least = 0
        """There is none with fewer tasks."""

    def put(self, lease: Lease) -> None:
        """Note how many tasks a lease has."""
        load = len(lease.tasks)
        if lease.listed >> load & 1:
            return
        while load >= len(self._heaps):
            self._heaps.append([])
        heappush(self._heaps[load], (lease.number, lease))
        lease.listed |= 1 << load
        self._least = min(self._least, load)

    def find(self, most: int, now: float) -> Lease | None:
        """Return the lease with the fewest tasks, fewer than `most`; of these the oldest."""
        for load in range(self._least, min(most, len(self._heaps))):
            heap = self._heaps[load]
            while heap:
                lease = heap[0][1]
                if len(lease.tasks) == load and lease.takes_more(now):
                    return lease
                heappop(heap)
                lease.listed &= ~(1 << load)
            self._least = load + 1
        return None


class LeasePool:
    """The tasks and leases of one shape."""

    __slots__ = (
        "by_load", "coming", "full", "granted", "key", "leases", "mean_s", "queue", "spreads",
        "told", "wanted",
    )  # fmt: skip

    def __init__(self, key: int, *, spreads: bool) -> None:
        self.key = key
        self.spreads = spreads
        """Nothing comes for a lease that has nothing to do."""
        self.coming = 0
        """Tasks that are still to come: their arguments are, or they were sent from the pool that
        they belonged to before."""
        self.queue: deque[Task] = deque()
        self.leases: dict[WorkerId, Lease] = {}
        self.by_load = LeasesByLoad()
        self.granted = 0
        """How many leases there have been."""
        self.wanted = 0
        """Told to the daemon, less what it has granted since."""
        self.told = False
        """The daemon's last word from here is not that nothing is wanted."""
        self.full = False
        """No lease had room at the last look."""
        self.mean_s: dict[bytes, float] = {}
        """Running mean of each function's duration."""


# ------------------------------------------------------------------ events


class Submitted(msgspec.Struct, frozen=True):
    """A call was made."""

    task: Task


class Resubmitted(msgspec.Struct, frozen=True):
    """A result of a task that had ended is lost: it is to be run again, as a retry.

    It waits for its arguments, and has its pool's key.
    """

    task: Task


class LeaseGranted(msgspec.Struct, frozen=True):
    """The daemon gave a worker."""

    key: int
    worker: WorkerId
    contended: bool
    has_devices: bool = False


class LeaseMissed(msgspec.Struct, frozen=True):
    """The worker that the daemon gave was gone already: the demand stands."""

    key: int


class LeaseRefused(msgspec.Struct, frozen=True):
    """The daemon never gives a worker of this shape."""

    key: int
    kind: FailKind
    reason: str


class GivenBack(msgspec.Struct, frozen=True):
    """A worker will not start these."""

    worker: WorkerId
    task_ids: Sequence[TaskId]
    busy: bool


class LeasePaused(msgspec.Struct, frozen=True):
    """A worker's process was stopped, or goes on."""

    worker: WorkerId
    paused: bool


class Moved(msgspec.Struct, frozen=True):
    """These tasks belong to another pool from now on, also those that are with a worker."""

    tasks: Sequence[Task]
    key: int


class LeaseLost(msgspec.Struct, frozen=True):
    """The connection to a worker broke; how it ended is being asked."""

    worker: WorkerId


class WorkerEnded(msgspec.Struct, frozen=True):
    """How a lost worker ended. `began`: the last attempt that it began, as (task, number)."""

    worker: WorkerId
    began: tuple[TaskId, int] | None
    certificate: Certificate


class Reclaimed(msgspec.Struct, frozen=True):
    """Idle leases are to be returned. `others_wait`: and those that become idle later."""

    others_wait: bool = True


Event = (
    AttemptEvent | Submitted | Resubmitted | LeaseGranted | LeaseMissed | LeaseRefused | GivenBack
    | LeasePaused | Moved | LeaseLost | WorkerEnded | Reclaimed
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


class ForgetPool(msgspec.Struct, frozen=True):
    """There is nothing left under this key."""

    key: int


class AskAbort(msgspec.Struct, frozen=True):
    """Have the worker that has the task end its process if it runs it, else drop it."""

    task: Task


OwnEffect = Send | Want | GiveUpLease | ForgetPool | AskAbort | Kill[Task]
Effect = OwnEffect | AskCancel[Task] | Complete[Task] | Fail[Task]


class Tasks:
    """The tasks that this process owns."""

    def __init__(self) -> None:
        self.attempts: Attempts[Task] = Attempts()
        self.pools: dict[int, LeasePool] = {}
        self.leases: dict[WorkerId, Lease] = {}
        self._idle: dict[WorkerId, Lease] = {}
        """Those without tasks; who has been so for the longest time comes first."""

    @property
    def next_deadline(self) -> float | None:
        """When `Ticked` is due; None: never, as things are."""
        deadline = self.attempts.next_deadline
        for lease in self._idle.values():
            idle_until = lease.idle_at + LINGER_S
            return idle_until if deadline is None else min(idle_until, deadline)
        return deadline

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event at time `now` (seconds, monotonic); return what to do.

        An impossible event raises KeyError.
        """
        effects: list[Effect] = []
        match event:
            case Submitted():
                self._submit(event.task, now, effects)
            case Resubmitted():
                event.task.worker = None
                if self.attempts.begin_again(event.task):
                    event.task.state = "waiting"
                    self._submit(event.task, now, effects)
                else:
                    effects.append(Fail(event.task, "exhausted"))
            case Answered():
                self._answered(event, now, effects)
            case ArgumentsReady():
                task = self.attempts.waiting(event.task_id)
                if task is not None:
                    pool = self.pools[task.shape]
                    pool.coming -= 1
                    task.state = "ready"
                    pool.queue.append(task)
                    self._dispatch(pool, now, effects)
            case ArgumentFailed():
                task = self.attempts.waiting(event.task_id)
                if task is not None:
                    self._fail_unsent(task, "argument", event.error, effects)
            case LeaseGranted():
                self._grant(event, now, effects)
            case LeaseMissed():
                if event.key in self.pools:
                    self.pools[event.key].wanted = 0
                    self._want(self.pools[event.key], effects)
            case LeaseRefused():
                self._refuse(event, effects)
            case GivenBack():
                self._give_back(event, now, effects)
            case LeasePaused():
                if event.worker in self.leases:
                    lease = self.leases[event.worker]
                    lease.paused = event.paused
                    lease.pool.by_load.put(lease)
                    self._serve([lease.pool], now, effects)
            case Moved():
                self._move(event, now, effects)
            case LeaseLost():
                lease = self.leases[event.worker]
                lease.lost = True
                self._idle.pop(event.worker, None)
            case WorkerEnded():
                self._worker_ended(event, now, effects)
            case CancelAsked():
                self._cancel(event, now, effects)
            case Reclaimed():
                for lease in list(self._idle.values()):
                    self._give_up(lease, effects)
                if event.others_wait:
                    for lease in self.leases.values():
                        lease.yield_soon(now)
            case Ticked():
                self._tick(now, effects)
            case _:
                assert_never(event)
        return effects

    # -------------------------------------------------------------- towards a worker

    def _submit(self, task: Task, now: float, effects: list[Effect]) -> None:
        self.attempts.open[task.id] = task
        pool = self._pool(task.shape, task)
        if task.state == "waiting":
            pool.coming += 1
        else:
            pool.queue.append(task)
            self._dispatch(pool, now, effects)

    def _pool(self, key: int, task: Task) -> LeasePool:
        """Return a pool; it is made for its first task."""
        pool = self.pools.get(key)
        if pool is None:
            pool = self.pools[key] = LeasePool(key, spreads=task.spreads)
        return pool

    def _move(self, event: Moved, now: float, effects: list[Effect]) -> None:
        pool = self._pool(event.key, event.tasks[0])
        left = self._homes(event.tasks, pool)
        for task in event.tasks:
            self.pools[task.shape].coming -= self._is_coming(task)
            task.shape = event.key
            pool.coming += self._is_coming(task)
            if task.state == "ready":
                pool.queue.append(task)
        for before in left:
            before.queue = deque(task for task in before.queue if task.shape == before.key)
        self._serve(left, now, effects)

    def _is_coming(self, task: Task) -> bool:
        """Tell whether a task is still to come to its pool."""
        if task.worker is not None:
            return self.leases[task.worker].pool.key != task.shape
        return task.state == "waiting"

    def _serve(self, pools: Iterable[LeasePool], now: float, effects: list[Effect]) -> None:
        """Look again at pools whose tasks or leases have changed."""
        for pool in pools:
            pool.full = False
            self._dispatch(pool, now, effects)
            self._forget_if_unused(pool, effects)

    def _dispatch(self, pool: LeasePool, now: float, effects: list[Effect]) -> None:
        queue = pool.queue
        while queue and not pool.full:
            task = queue[0]
            lease = self._roomy(pool, task, now)
            if lease is None:
                pool.full = True
                break
            queue.popleft()
            if not lease.tasks:
                self._idle.pop(lease.worker, None)
            lease.tasks[task.id] = task
            pool.by_load.put(lease)
            task.worker = lease.worker
            self.attempts.send(task, now)
            effects.append(Send(lease.worker, task))
        if queue or pool.told:
            self._want(pool, effects)

    def _roomy(self, pool: LeasePool, task: Task, now: float) -> Lease | None:
        mean_s = pool.mean_s.get(task.function)
        room = 1
        if mean_s is not None and not task.timeout_s:
            room = (
                PIPELINE_TASKS
                if mean_s * PIPELINE_TASKS <= PIPELINE_S
                else max(1, int(PIPELINE_S / mean_s))
            )
        return pool.by_load.find(1 if task.timeout_s else room, now)

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
        pool.granted += 1
        lease = Lease(event.worker, pool, has_devices=event.has_devices)
        if event.contended:
            lease.yield_soon(now)
        pool.leases[event.worker] = self.leases[event.worker] = lease
        pool.by_load.put(lease)
        pool.full = False
        self._dispatch(pool, now, effects)
        if not lease.tasks:
            self._rest(lease, now, effects)

    def _refuse(self, event: LeaseRefused, effects: list[Effect]) -> None:
        """Fail what waits. The next task of the shape asks anew: things may have changed."""
        pool = self.pools.get(event.key)
        if pool is None:
            return
        pool.wanted = 0
        pool.told = False
        while pool.queue:
            task = pool.queue.popleft()
            effects.append(self.attempts.fail(task, event.kind, event.reason))
        self._forget_if_unused(pool, effects)

    # -------------------------------------------------------------- back from a worker

    def _answered(self, event: Answered, now: float, effects: list[Effect]) -> None:
        task = self.attempts.open[event.task_id]
        if task.worker is None:
            raise KeyError(event.task_id)
        lease = self.leases[task.worker]
        del lease.tasks[task.id]
        lease.busy = False
        pool = lease.pool
        pool.by_load.put(lease)
        pool.full = False
        mean_s = pool.mean_s.get(task.function)
        pool.mean_s[task.function] = (
            event.duration_s if mean_s is None else mean_s + _NEWEST * (event.duration_s - mean_s)
        )
        home = self._home(task, pool)
        if event.retriable and self.attempts.try_again(task):
            task.worker = None
            home.queue.append(task)
        else:
            effects.append(self.attempts.answer(task))
        if pool.queue:
            self._dispatch(pool, now, effects)
        if home is not pool:
            self._serve([home], now, effects)
        if not lease.tasks and not lease.lost:
            self._rest(lease, now, effects)

    def _home(self, task: Task, pool: LeasePool) -> LeasePool:
        """Return the pool of a task that comes back from a lease of `pool`."""
        home = self.pools[task.shape]
        if home is not pool:
            home.coming -= 1
        return home

    def _homes(self, tasks: Iterable[Task], pool: LeasePool) -> list[LeasePool]:
        """Return a pool and those that tasks belong to."""
        homes = {task.shape: self.pools[task.shape] for task in tasks}
        homes[pool.key] = pool
        return list(homes.values())

    def _rest(self, lease: Lease, now: float, effects: list[Effect]) -> None:
        if lease.yields_at < NEVER or lease.pool.spreads:
            self._give_up(lease, effects)
        else:
            lease.idle_at = now
            self._idle.pop(lease.worker, None)
            self._idle[lease.worker] = lease

    def _give_up(self, lease: Lease, effects: list[Effect]) -> None:
        self._idle.pop(lease.worker, None)
        lease.lost = True  # It is not to be found any more.
        del self.leases[lease.worker], lease.pool.leases[lease.worker]
        effects.append(GiveUpLease(lease.worker))
        self._forget_if_unused(lease.pool, effects)

    def _forget_if_unused(self, pool: LeasePool, effects: list[Effect]) -> None:
        if not (pool.queue or pool.leases or pool.coming):
            del self.pools[pool.key]
            effects.append(ForgetPool(pool.key))

    def _give_back(self, event: GivenBack, now: float, effects: list[Effect]) -> None:
        lease = self.leases.get(event.worker)
        if lease is None:
            return
        given = [task for task_id in event.task_ids if (task := lease.tasks.pop(task_id, None))]
        # Without a task that is still there, nothing would ever end its being busy.
        lease.busy = (lease.busy or event.busy) and bool(lease.tasks)
        lease.pool.by_load.put(lease)
        homes = self._homes(given, lease.pool)
        self._put_back(given, lease.pool, None, effects)
        self._serve(homes, now, effects)
        if not lease.tasks and not lease.lost:
            self._rest(lease, now, effects)

    def _worker_ended(self, event: WorkerEnded, now: float, effects: list[Effect]) -> None:
        lease = self.leases.pop(event.worker, None)
        if lease is None:
            return
        self._idle.pop(event.worker, None)
        lease.lost = True
        pool = lease.pool
        del pool.leases[event.worker]
        sent = list(lease.tasks.values())
        started = len(sent)
        if event.certificate.is_seen:
            numbered = enumerate(sent, start=1)
            at = (number for number, task in numbered if (task.id, task.attempt) == event.began)
            started = next(at, 0)
        homes = self._homes(sent, pool)
        self._put_back(sent[started:], pool, event.certificate, effects)
        retry = event.certificate.retry
        for task in reversed(sent[:started]):
            home = self._home(task, pool)
            is_over = retry == "never" and task is sent[started - 1]
            if not is_over and self.attempts.try_again(task, is_free=retry == "free"):
                task.worker = None
                home.queue.appendleft(task)
            else:
                effects.append(self.attempts.fail(task, "died", event.certificate))
        self._serve(homes, now, effects)

    def _put_back(
        self, tasks: Sequence[Task], pool: LeasePool, detail: Any, effects: list[Effect]
    ) -> None:
        """Queue tasks that were sent and not started, before the others.

        Those that were to stop end instead.
        """
        for task in reversed(tasks):
            home = self._home(task, pool)
            if task.timed_out or task.cancelled:
                effects.append(self.attempts.fail(task, "cancelled", detail))
            else:
                self.attempts.unsend(task)
                task.worker = None
                home.queue.appendleft(task)

    # -------------------------------------------------------------- users and time

    def _cancel(self, event: CancelAsked, now: float, effects: list[Effect]) -> None:
        task = self.attempts.open.get(event.task_id)
        if task is None:
            return
        if task.state == "sent":
            self._cancel_sent(task, now, effects, force=event.force)
            return
        self._fail_unsent(task, "cancelled", None, effects)

    def _fail_unsent(self, task: Task, kind: FailKind, detail: Any, effects: list[Effect]) -> None:
        pool = self.pools[task.shape]
        if task.state == "waiting":
            pool.coming -= 1
        else:
            pool.queue.remove(task)
            self._want(pool, effects)
        effects.append(self.attempts.fail(task, kind, detail))
        self._forget_if_unused(pool, effects)

    def _cancel_sent(self, task: Task, now: float, effects: list[Effect], *, force: bool) -> None:
        assert task.worker is not None
        task.cancelled = True
        lease = self.leases[task.worker]
        if not force and not lease.paused:
            effects.append(AskCancel(task))
            return
        # Only the worker knows what it runs at the moment when it ends.
        effects.append(AskAbort(task))
        if next(iter(lease.tasks)) == task.id and not lease.lost:
            # Unless it runs code that lets nobody in.
            self.attempts.end_by(task, now + GRACE_S)

    def _tick(self, now: float, effects: list[Effect]) -> None:
        while (lease := next(iter(self._idle.values()), None)) is not None:
            if lease.idle_at + LINGER_S > now:
                break
            self._give_up(lease, effects)
        for effect in self.attempts.tick(now):
            if isinstance(effect, Kill):
                assert effect.task.worker is not None
                self.leases[effect.task.worker].lost = True
            effects.append(effect)

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        self.attempts.check()
        placed: dict[TaskId, int] = {}
        for pool in self.pools.values():
            for task in pool.queue:
                assert task.state == "ready", (1, task.id)
                placed[task.id] = placed.get(task.id, 0) + 1
            assert pool.queue or pool.leases or pool.coming, (4, pool.key)
            assert pool.queue or not (pool.told or pool.wanted), (4, pool.key)
        for worker, lease in self.leases.items():
            assert lease.pool.leases[worker] is lease, (4, worker)
            assert self.pools[lease.pool.key] is lease.pool, (4, worker)
            for task in lease.tasks.values():
                assert task.state == "sent" and task.worker == worker, (1, task.id)
                placed[task.id] = placed.get(task.id, 0) + 1
                assert not task.timeout_s or len(lease.tasks) == 1, (2, worker)
            if not lease.tasks and not lease.lost:
                assert worker in self._idle, (4, worker)
            if lease.yields_at == NEVER and lease.takes_more(0.0):
                assert lease.listed >> len(lease.tasks) & 1, (4, worker)
        open_tasks = self.attempts.open
        coming = sum(map(self._is_coming, open_tasks.values()))
        assert coming == sum(pool.coming for pool in self.pools.values()), 1
        for task_id, task in open_tasks.items():
            assert placed.get(task_id, 0) == (0 if task.state == "waiting" else 1), (1, task_id)
        assert placed.keys() <= open_tasks.keys(), (5, placed.keys() - open_tasks.keys())
