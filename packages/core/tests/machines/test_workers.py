from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from weft._machines.workers import (
    END_S,
    IDLE_S,
    MAX_FAILURES,
    Effect,
    EndWorker,
    EnvironmentsLeft,
    Event,
    GiveUp,
    KillProcess,
    LoseLease,
    PoolOpened,
    StartWorker,
    UseWorker,
    WantCancelled,
    WorkerDoomed,
    WorkerExited,
    WorkerReady,
    WorkerReleased,
    Workers,
    WorkersTicked,
    WorkerWanted,
)


class Pool:
    """A pool that is checked after every event."""

    def __init__(self, keep: int = 2, max_starting: int = 4) -> None:
        self.workers = Workers(keep=keep, max_starting=max_starting, id_head=b"headhead")
        self.now = 100.0

    def tell(self, event: Event) -> list[Effect]:
        effects = self.workers.handle(event, self.now)
        self.workers.check()
        return effects

    def start(self, lease: int, env: str = "") -> bytes:
        """Want a worker for a lease, and bring it up."""
        (effect,) = self.tell(WorkerWanted(lease, env))
        assert isinstance(effect, StartWorker)
        assert self.tell(WorkerReady(effect.worker)) == [UseWorker(lease, effect.worker)]
        return effect.worker


def started(effects: list[Effect]) -> list[bytes]:
    return [effect.worker for effect in effects if isinstance(effect, StartWorker)]


def test_pool_starts_workers_ahead_of_demand() -> None:
    pool = Pool()
    first, second = started(pool.tell(PoolOpened(2)))
    assert first != second
    assert pool.tell(WorkerReady(first)) == []
    assert pool.workers.state_of(first) == "idle"
    assert pool.tell(WorkerWanted(1, "")) == [UseWorker(1, first)]
    assert pool.tell(WorkerWanted(2, "")) == [], "the second that starts already is for it"
    assert pool.tell(WorkerReady(second)) == [UseWorker(2, second)]


def test_want_beyond_what_starts_ahead_starts_another() -> None:
    pool = Pool()
    pool.tell(PoolOpened(1))
    assert pool.tell(WorkerWanted(1, "")) == []
    assert len(started(pool.tell(WorkerWanted(2, "")))) == 1


def test_lease_without_idle_worker_starts_one() -> None:
    pool = Pool()
    worker = pool.start(7)
    assert pool.workers.state_of(worker) == "leased"
    assert pool.workers.lease_of(worker) == 7


def test_released_worker_serves_the_next_lease() -> None:
    pool = Pool()
    worker = pool.start(1)
    assert pool.tell(WorkerReleased(worker)) == []
    assert pool.tell(WorkerWanted(2, "")) == [UseWorker(2, worker)]


def test_released_worker_serves_the_lease_that_waits() -> None:
    pool = Pool()
    worker = pool.start(1)
    pool.tell(WorkerWanted(2, ""))
    assert pool.tell(WorkerReleased(worker)) == [UseWorker(2, worker)]


def test_newest_idle_worker_is_used_first() -> None:
    pool = Pool()
    first, second = pool.start(1), pool.start(2)
    pool.tell(WorkerReleased(first))
    pool.tell(WorkerReleased(second))
    assert pool.tell(WorkerWanted(3, "")) == [UseWorker(3, second)]


def test_worker_of_another_environment_does_not_serve() -> None:
    pool = Pool()
    worker = pool.start(1, "env")
    pool.tell(WorkerReleased(worker))
    effects = pool.tell(WorkerWanted(2, ""))
    assert [type(effect) for effect in effects] == [StartWorker]
    assert pool.tell(WorkerWanted(3, "env")) == [UseWorker(3, worker)]


def test_at_most_so_many_start_at_once() -> None:
    pool = Pool(max_starting=2)
    first, _ = started([e for i in range(5) for e in pool.tell(WorkerWanted(i, ""))])
    effects = pool.tell(WorkerReady(first))
    assert effects[0] == UseWorker(0, first)
    assert len(started(effects)) == 1


def test_cancelled_want_leaves_its_worker_to_idle() -> None:
    pool = Pool()
    (worker,) = started(pool.tell(WorkerWanted(1, "")))
    pool.tell(WantCancelled(1))
    assert pool.tell(WorkerReady(worker)) == []
    assert pool.workers.state_of(worker) == "idle"


def test_cancelled_want_gives_back_a_worker_that_was_chosen() -> None:
    pool = Pool()
    worker = pool.start(1)
    pool.tell(WantCancelled(1))
    assert pool.workers.state_of(worker) == "idle"
    assert pool.workers.lease_of(worker) is None


def test_cancelled_lease_of_an_ending_worker_is_not_told_of_its_end() -> None:
    pool = Pool()
    worker = pool.start(1)
    pool.tell(WorkerReleased(worker, retire=True))
    pool.tell(WantCancelled(1))
    assert pool.workers.state_of(worker) == "ending"
    assert pool.tell(WorkerExited(worker)) == []


def test_want_that_is_first_passes_those_that_wait() -> None:
    pool = Pool()
    (worker,) = started(pool.tell(WorkerWanted(1, "")))
    pool.tell(WorkerWanted(2, "", first=True))
    assert pool.tell(WorkerReady(worker)) == [UseWorker(2, worker)]


def test_retired_worker_ends_and_its_lease_with_it() -> None:
    pool = Pool()
    worker = pool.start(1)
    assert pool.tell(WorkerReleased(worker, retire=True)) == [
        EndWorker(worker, "it has run its last task")
    ]
    assert pool.workers.state_of(worker) == "ending"
    assert pool.tell(WorkerReleased(worker)) == []
    assert pool.tell(WorkerExited(worker)) == [LoseLease(1, worker)]
    assert pool.workers.state_of(worker) == "gone"


def test_worker_that_does_not_end_is_killed() -> None:
    pool = Pool()
    worker = pool.start(1)
    pool.tell(WorkerReleased(worker, retire=True))
    assert pool.workers.wake_at() == pool.now + END_S
    assert pool.tell(WorkersTicked()) == []
    pool.now += END_S
    (killed,) = pool.tell(WorkersTicked())
    assert isinstance(killed, KillProcess)
    assert killed.worker == worker
    assert pool.workers.wake_at() is None


def test_worker_that_dies_while_leased_is_reported_and_replaced() -> None:
    pool = Pool()
    worker = pool.start(1)
    assert pool.tell(WorkerExited(worker)) == [LoseLease(1, worker)]
    assert len(started(pool.tell(WorkerWanted(1, "")))) == 1


def test_worker_that_dies_idle_is_forgotten() -> None:
    pool = Pool()
    worker = pool.start(1)
    pool.tell(WorkerReleased(worker))
    assert pool.tell(WorkerExited(worker)) == []
    assert len(started(pool.tell(WorkerWanted(2, "")))) == 1


def test_doomed_worker_is_killed_in_any_state() -> None:
    pool = Pool()
    leased = pool.start(1)
    idle, ending = pool.start(2), pool.start(4)
    pool.tell(WorkerReleased(idle))
    pool.tell(WorkerReleased(ending, retire=True))
    (starting,) = started(pool.tell(WorkerWanted(3, "env")))
    for worker in (leased, idle, ending, starting):
        effects = pool.tell(WorkerDoomed(worker, "because"))
        assert effects[0] == KillProcess(worker, "because")
        assert pool.workers.state_of(worker) == "ending"
    assert pool.tell(WorkerExited(leased)) == [LoseLease(1, leased)]
    assert pool.tell(WorkerReady(starting)) == [], "it was ready too late"


def test_worker_that_dies_as_it_starts_is_started_again() -> None:
    pool = Pool()
    (worker,) = started(pool.tell(WorkerWanted(1, "")))
    assert len(started(pool.tell(WorkerExited(worker, "boom")))) == 1


def test_environment_whose_workers_never_come_up_is_given_up() -> None:
    pool = Pool()
    effects = pool.tell(WorkerWanted(1, "env"))
    pool.tell(WorkerWanted(2, ""))
    for _ in range(MAX_FAILURES - 1):
        (worker,) = started(effects)
        effects = pool.tell(WorkerExited(worker, "boom"))
    (worker,) = started(effects)
    assert pool.tell(WorkerExited(worker, "boom")) == [
        GiveUp("env", f"{MAX_FAILURES} workers in a row ended as they started: boom")
    ]
    assert len(started(pool.tell(WorkerWanted(3, "env")))) == 1, "the next demand tries again"


def test_workers_that_are_pulled_down_are_not_blamed_on_their_environment() -> None:
    pool = Pool()
    effects = pool.tell(WorkerWanted(1, "env"))
    for _ in range(MAX_FAILURES + 1):
        (worker,) = started(effects)
        effects = pool.tell(WorkerExited(worker, blameless=True))
    assert len(started(effects)) == 1


def test_one_that_comes_up_clears_the_failures() -> None:
    pool = Pool()
    (worker,) = started(pool.tell(WorkerWanted(1, "")))
    (worker,) = started(pool.tell(WorkerExited(worker, "boom")))
    pool.tell(WorkerReady(worker))
    pool.tell(WorkerExited(worker))
    (worker,) = started(pool.tell(WorkerWanted(1, "")))
    (worker,) = started(pool.tell(WorkerExited(worker, "boom")))
    assert len(started(pool.tell(WorkerExited(worker, "boom")))) == 1


def test_surplus_idle_workers_end_the_oldest_first() -> None:
    pool = Pool(keep=1)
    first, second, third = (pool.start(i) for i in range(3))
    assert pool.workers.wake_at() is None
    for worker in (first, second, third):
        pool.now += 1
        pool.tell(WorkerReleased(worker))
    assert pool.workers.wake_at() == pool.now - 2 + IDLE_S
    pool.now += IDLE_S - 1
    assert pool.tell(WorkersTicked()) == [
        EndWorker(first, "it was idle"),
        EndWorker(second, "it was idle"),
    ]
    pool.tell(WorkerExited(first))
    pool.tell(WorkerExited(second))
    assert pool.workers.wake_at() is None
    assert pool.workers.workers() == [(third, "idle", "")]


def test_workers_of_an_environment_that_was_left_end_and_those_of_others_stay() -> None:
    pool = Pool(keep=4)
    other, idle, leased = pool.start(1), pool.start(2, "env"), pool.start(3, "env")
    pool.tell(WorkerReleased(other))
    pool.tell(WorkerReleased(idle))
    left = EnvironmentsLeft(frozenset({"env", "unknown"}))
    assert pool.tell(left) == [EndWorker(idle, "its job has ended")]
    pool.tell(WorkerExited(idle))
    assert pool.workers.wake_at() is None
    # Somebody who outlives the job uses the other one on; then it ends, though few idle.
    pool.tell(WorkerReleased(leased))
    assert pool.tell(WorkerWanted(4, "env")) == [UseWorker(4, leased)]
    pool.tell(WorkerReleased(leased))
    assert pool.workers.wake_at() == pool.now + IDLE_S
    pool.now += IDLE_S
    assert pool.tell(WorkersTicked()) == [EndWorker(leased, "it was idle")]
    pool.tell(WorkerExited(leased))
    assert pool.workers.workers() == [(other, "idle", "")]
    # Who begins there again is served as ever.
    pool.tell(WorkerReleased(pool.start(5, "env")))
    assert pool.workers.wake_at() is None


def test_nothing_is_started_ahead_in_an_environment_that_was_left() -> None:
    pool = Pool()
    first, _ = started(pool.tell(PoolOpened(2, "env")))
    pool.tell(EnvironmentsLeft(frozenset({"env"})))
    assert started(pool.tell(WorkerExited(first, "boom"))) == []


class PoolStories(RuleBasedStateMachine):
    """Any order of events: every lease gets its worker, and no worker two."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(keep=1, max_starting=3)
        self.wants: dict[int, str] = {}
        self.starting: set[bytes] = set()
        self.worker_of: dict[int, bytes] = {}
        self.living: set[bytes] = set()
        self.leases = 0

    def tell(self, event: Event) -> None:
        for effect in self.pool.tell(event):
            match effect:
                case StartWorker(worker):
                    self.starting.add(worker)
                    self.living.add(worker)
                case UseWorker(lease, worker):
                    del self.wants[lease]
                    assert worker not in self.worker_of.values()
                    assert worker not in self.starting
                    self.worker_of[lease] = worker
                case LoseLease(lease, worker):
                    assert self.worker_of.pop(lease) == worker
                case GiveUp(env):
                    self.wants = {lease: e for lease, e in self.wants.items() if e != env}
                case EndWorker(worker) | KillProcess(worker):
                    assert worker in self.living

    @rule(env=st.sampled_from(["", "env"]), first=st.booleans())
    def wants_worker(self, env: str, first: bool) -> None:
        self.leases += 1
        self.wants[self.leases] = env
        self.tell(WorkerWanted(self.leases, env, first=first))

    @precondition(lambda self: self.wants or self.worker_of)
    @rule(data=st.data())
    def cancels(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted({*self.wants, *self.worker_of})))
        self.wants.pop(lease, None)
        self.worker_of.pop(lease, None)
        self.tell(WantCancelled(lease))

    @precondition(lambda self: self.starting)
    @rule(data=st.data())
    def comes_up(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.starting)))
        self.starting.remove(worker)
        self.tell(WorkerReady(worker))

    @precondition(lambda self: self.worker_of)
    @rule(data=st.data(), retire=st.booleans())
    def releases(self, data: st.DataObject, retire: bool) -> None:
        lease = data.draw(st.sampled_from(sorted(self.worker_of)))
        worker = self.worker_of[lease]
        if self.pool.workers.state_of(worker) == "leased" and not retire:
            del self.worker_of[lease]
        self.tell(WorkerReleased(worker, retire=retire))

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def dooms(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.living)))
        self.starting.discard(worker)
        self.tell(WorkerDoomed(worker, "because"))

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.living)))
        self.living.remove(worker)
        self.starting.discard(worker)
        self.tell(WorkerExited(worker, "boom"))

    @rule(envs=st.frozensets(st.sampled_from(["", "env"])))
    def leaves(self, envs: frozenset[str]) -> None:
        self.tell(EnvironmentsLeft(envs))

    @rule(seconds=st.floats(0, IDLE_S))
    def waits(self, seconds: float) -> None:
        self.pool.now += seconds
        self.tell(WorkersTicked())

    def teardown(self) -> None:
        while self.starting:
            worker = self.starting.pop()
            self.tell(WorkerReady(worker))
            for lease, used in list(self.worker_of.items()):
                if used == worker:
                    del self.worker_of[lease]
                    self.tell(WorkerReleased(worker))
        assert not self.wants


TestPoolStories = PoolStories.TestCase
TestPoolStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
