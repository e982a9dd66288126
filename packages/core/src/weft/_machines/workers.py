"""One node's worker processes: who starts, who serves a lease, who idles, who ends.

    StartWorker -> starting -> idle <-> leased -> ending -> gone
                      |          |         |         ^
                      |          +---------+---------+   retired, surplus (EndWorker), KillProcess
                      +-> gone (never came up)           crashes lead to gone from every state

A worker belongs to one environment for its whole life. One that had devices is not used again (the
shell retires it): a library that has opened a device keeps it and its memory.

What is always true
1. A worker is in exactly one state; a leased one serves exactly one lease, and no lease has two
   workers.
2. No lease waits while a worker that suits it idles.
3. For each environment with waiting leases some worker is starting, unless `max_starting` others
   are.
4. A worker that idles over `IDLE_S` and is not among the newest `keep` ends, or is in an
   environment that was left; one that is asked to end and does not within `END_S` is killed.
5. After `MAX_FAILURES` workers in a row that never came up, their environment is given up.

`wake_at` says when `WorkersTicked` is due.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, assert_never

import msgspec

# Long enough that a program's next phase finds its workers, short enough that memory comes back
# while one watches.
IDLE_S = 10.0
# An exit hook that writes a file has the time; a worker that hangs does not hold its memory for
# long.
END_S = 5.0
# One may die of a stray signal; three in a row have a reason.
MAX_FAILURES = 3


# ------------------------------------------------------------------ events


class PoolOpened(msgspec.Struct, frozen=True):
    """The node is up: start `workers` ahead of demand."""

    workers: int
    env: str = ""


class WorkerWanted(msgspec.Struct, frozen=True):
    """A lease needs a worker."""

    lease: int
    env: str
    first: bool = False
    """Before all that wait already."""


class WantCancelled(msgspec.Struct, frozen=True):
    """The lease needs no worker any more. One that it was given was not used and idles again."""

    lease: int


class WorkerReady(msgspec.Struct, frozen=True):
    """A started worker has connected."""

    worker: bytes


class WorkerReleased(msgspec.Struct, frozen=True):
    """The lease is over. `retire`: the worker is not to be used again."""

    worker: bytes
    retire: bool = False


class WorkerDoomed(msgspec.Struct, frozen=True):
    """Kill this worker; no lease gets it any more."""

    worker: bytes
    reason: str


class WorkerExited(msgspec.Struct, frozen=True):
    """The process is gone. `why`: its last words. `blameless`: another process took it along."""

    worker: bytes
    why: str = ""
    blameless: bool = False


class EnvironmentsLeft(msgspec.Struct, frozen=True):
    """Who wanted workers in these is gone: those that idle end. Somebody may want one still."""

    envs: frozenset[str]


class WorkersTicked(msgspec.Struct, frozen=True):
    """Time has passed."""


Event = (
    PoolOpened
    | WorkerWanted
    | WantCancelled
    | WorkerReady
    | WorkerReleased
    | WorkerDoomed
    | WorkerExited
    | EnvironmentsLeft
    | WorkersTicked
)


# ------------------------------------------------------------------ effects


class StartWorker(msgspec.Struct, frozen=True):
    """Start a process under this id."""

    worker: bytes
    env: str


class UseWorker(msgspec.Struct, frozen=True):
    """The lease has its worker."""

    lease: int
    worker: bytes


class EndWorker(msgspec.Struct, frozen=True):
    """Ask the worker to end; it does nothing, or nothing that counts."""

    worker: bytes
    reason: str


class KillProcess(msgspec.Struct, frozen=True):
    """Kill the process."""

    worker: bytes
    reason: str


class LoseLease(msgspec.Struct, frozen=True):
    """The worker of this lease is gone."""

    lease: int
    worker: bytes


class GiveUp(msgspec.Struct, frozen=True):
    """Workers in this environment do not come up."""

    env: str
    reason: str


Effect = StartWorker | UseWorker | EndWorker | KillProcess | LoseLease | GiveUp


# ------------------------------------------------------------------ state


class _Worker:
    __slots__ = ("env", "id", "lease", "since", "state")

    def __init__(self, worker_id: bytes, env: str, since: float) -> None:
        self.id = worker_id
        self.env = env
        self.state: Literal["starting", "idle", "leased", "ending"] = "starting"
        self.since = since
        """When it came into its state, seconds."""
        self.lease: int | None = None
        """Stays while the worker is ending, until it is gone, if the lease is to be told of that.
        """


class Workers:
    """The worker processes of one node."""

    def __init__(self, *, keep: int, max_starting: int, id_head: bytes) -> None:
        """`keep`: idle workers that stay; `id_head`: 8 random bytes that its ids begin with."""
        self._keep = keep
        self._max_starting = max_starting
        self._id_head = id_head
        self._started = 0
        self._worker_of: dict[bytes, _Worker] = {}
        self._idle: list[_Worker] = []
        """The newest last."""
        self._waiting: deque[WorkerWanted] = deque()
        self._starting_in: dict[str, int] = {}
        self._ahead_in: dict[str, int] = {}
        """Workers to start before anyone wants them."""
        self._failures_in: dict[str, int] = {}
        self._kill_at: dict[bytes, float] = {}
        self._left: set[str] = set()
        """Environments that were left and have workers."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event; return what to do, in order."""
        effects: list[Effect] = []
        match event:
            case PoolOpened(workers, env):
                self._ahead_in[env] = workers
            case WorkerWanted():
                if event.first:
                    self._waiting.appendleft(event)
                else:
                    self._waiting.append(event)
            case WantCancelled(lease):
                self._cancelled(lease, now)
            case WorkerReady(worker_id):
                self._ready(self._worker_of[worker_id], now)
            case WorkerReleased(worker_id, retire):
                self._released(self._worker_of[worker_id], now, effects, retire=retire)
            case WorkerDoomed(worker_id, reason):
                self._doomed(self._worker_of[worker_id], reason, now, effects)
            case WorkerExited(worker_id, why, blameless):
                self._exited(self._worker_of[worker_id], why, effects, blameless=blameless)
            case EnvironmentsLeft(envs):
                self._left_behind(envs, now, effects)
            case WorkersTicked():
                self._ticked(now, effects)
            case _:
                assert_never(event)
        self._match(now, effects)
        return effects

    def wake_at(self) -> float | None:
        """Return when `WorkersTicked` is due, in seconds; None: never."""
        times = list(self._kill_at.values())
        idle = self._idle_to_end()
        if idle is not None:
            times.append(idle.since + IDLE_S)
        return min(times, default=None)

    def _idle_to_end(self) -> _Worker | None:
        """Return the worker that ends next if it goes on idling."""
        if len(self._idle) > self._keep:
            return self._idle[0]
        if not self._left:
            return None
        return next((worker for worker in self._idle if worker.env in self._left), None)

    # -------------------------------------------------------------- events

    def _ready(self, worker: _Worker, now: float) -> None:
        if worker.state == "starting":
            self._count_started(worker)
            self._failures_in.pop(worker.env, None)
            self._rest(worker, now)

    def _cancelled(self, lease: int, now: float) -> None:
        self._waiting = deque(want for want in self._waiting if want.lease != lease)
        for worker in self._worker_of.values():
            if worker.lease == lease:
                worker.lease = None
                if worker.state == "leased":
                    self._rest(worker, now)

    def _released(
        self, worker: _Worker, now: float, effects: list[Effect], *, retire: bool
    ) -> None:
        if worker.state != "leased":
            return
        if retire:
            # What the lease took is free when the process is gone: its memory and its devices are
            # in use until then.
            self._ask_to_end(worker, "it has run its last task", now, effects)
        else:
            worker.lease = None
            self._rest(worker, now)

    def _rest(self, worker: _Worker, now: float) -> None:
        worker.state, worker.since = "idle", now
        self._idle.append(worker)

    def _doomed(self, worker: _Worker, reason: str, now: float, effects: list[Effect]) -> None:
        if worker.state == "starting":
            self._count_started(worker)
        elif worker.state == "idle":
            self._idle.remove(worker)
        worker.state, worker.since = "ending", now
        self._kill_at.pop(worker.id, None)
        effects.append(KillProcess(worker.id, reason))

    def _exited(self, worker: _Worker, why: str, effects: list[Effect], *, blameless: bool) -> None:
        del self._worker_of[worker.id]
        self._kill_at.pop(worker.id, None)
        if worker.env in self._left and all(
            other.env != worker.env for other in self._worker_of.values()
        ):
            self._left.discard(worker.env)
        if worker.state == "starting":
            self._count_started(worker)
            if not blameless:
                self._never_came_up(worker.env, why, effects)
        elif worker.state == "idle":
            self._idle.remove(worker)
        if worker.lease is not None:
            effects.append(LoseLease(worker.lease, worker.id))

    def _never_came_up(self, env: str, why: str, effects: list[Effect]) -> None:
        failures = self._failures_in.get(env, 0) + 1
        if failures < MAX_FAILURES:
            self._failures_in[env] = failures
            return
        self._failures_in.pop(env, None)
        self._ahead_in.pop(env, None)
        self._waiting = deque(want for want in self._waiting if want.env != env)
        effects.append(GiveUp(env, f"{failures} workers in a row ended as they started: {why}"))

    def _ticked(self, now: float, effects: list[Effect]) -> None:
        for worker_id, at in list(self._kill_at.items()):
            if at <= now:
                del self._kill_at[worker_id]
                effects.append(KillProcess(worker_id, f"it did not end within {END_S:g} s"))
        while (idle := self._idle_to_end()) is not None and idle.since + IDLE_S <= now:
            self._idle.remove(idle)
            self._ask_to_end(idle, "it was idle", now, effects)

    def _left_behind(self, envs: frozenset[str], now: float, effects: list[Effect]) -> None:
        for env in envs:
            self._ahead_in.pop(env, None)
        for worker in [worker for worker in self._idle if worker.env in envs]:
            self._idle.remove(worker)
            self._ask_to_end(worker, "its job has ended", now, effects)
        self._left |= envs & {worker.env for worker in self._worker_of.values()}

    def _ask_to_end(self, worker: _Worker, reason: str, now: float, effects: list[Effect]) -> None:
        worker.state, worker.since = "ending", now
        self._kill_at[worker.id] = now + END_S
        effects.append(EndWorker(worker.id, reason))

    # -------------------------------------------------------------- leases to workers

    def _match(self, now: float, effects: list[Effect]) -> None:
        unmet: deque[WorkerWanted] = deque()
        for want in self._waiting:
            worker = self._suiting(want)
            if worker is None:
                unmet.append(want)
                continue
            self._idle.remove(worker)
            worker.state, worker.since = "leased", now
            worker.lease = want.lease
            effects.append(UseWorker(want.lease, worker.id))
        self._waiting = unmet
        self._start(now, effects)

    def _suiting(self, want: WorkerWanted) -> _Worker | None:
        return next((worker for worker in reversed(self._idle) if worker.env == want.env), None)

    def _start(self, now: float, effects: list[Effect]) -> None:
        wanted_in: dict[str, int] = {}
        for want in self._waiting:
            wanted_in[want.env] = wanted_in.get(want.env, 0) + 1
        for env, ahead in self._ahead_in.items():
            # Those that start ahead of demand are for whoever wants one meanwhile.
            wanted_in[env] = max(ahead, wanted_in.get(env, 0))
        starting = sum(self._starting_in.values())
        for env, wanted in wanted_in.items():
            for _ in range(wanted - self._starting_in.get(env, 0)):
                if starting >= self._max_starting:
                    return
                starting += 1
                self._starting_in[env] = self._starting_in.get(env, 0) + 1
                self._started += 1
                worker = _Worker(self._id_head + self._started.to_bytes(8, "big"), env, now)
                self._worker_of[worker.id] = worker
                effects.append(StartWorker(worker.id, env))

    def _count_started(self, worker: _Worker) -> None:
        """A worker is starting no longer."""
        self._starting_in[worker.env] -= 1
        if not self._starting_in[worker.env]:
            del self._starting_in[worker.env]
        ahead = self._ahead_in.get(worker.env, 0)
        if ahead > 1:
            self._ahead_in[worker.env] = ahead - 1
        else:
            self._ahead_in.pop(worker.env, None)

    # -------------------------------------------------------------- questions

    def state_of(self, worker: bytes) -> str:
        """Return starting, idle, leased, ending or gone."""
        found = self._worker_of.get(worker)
        return found.state if found else "gone"

    def lease_of(self, worker: bytes) -> int | None:
        """Return the lease that a worker serves."""
        found = self._worker_of.get(worker)
        return found.lease if found else None

    def workers(self) -> list[tuple[bytes, str, str]]:
        """Return (id, state, environment) of each."""
        return [(worker.id, worker.state, worker.env) for worker in self._worker_of.values()]

    def check(self) -> None:
        """Assert what is always true."""
        workers = list(self._worker_of.values())
        assert sorted(w.id for w in self._idle) == sorted(
            w.id for w in workers if w.state == "idle"
        ), 1
        assert all(w.lease is not None for w in workers if w.state == "leased"), 1
        assert all(w.lease is None for w in workers if w.state in ("starting", "idle")), 1
        leases = [w.lease for w in workers if w.lease is not None]
        leases += [want.lease for want in self._waiting]
        assert len(leases) == len(set(leases)), 1
        assert all(self._suiting(want) is None for want in self._waiting), 2
        starting: dict[str, int] = {}
        for worker in workers:
            if worker.state == "starting":
                starting[worker.env] = starting.get(worker.env, 0) + 1
        assert starting == self._starting_in, 3
        is_busy = sum(starting.values()) >= self._max_starting
        assert is_busy or all(want.env in starting for want in self._waiting), 3
        assert all(self._worker_of[w].state == "ending" for w in self._kill_at), 4
        assert self._left <= {worker.env for worker in workers}, 4
        assert all(failures < MAX_FAILURES for failures in self._failures_in.values()), 5
