from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import Any

import pytest
from msgspec import structs

from weft._machines import members, spillover, tasks
from weft._machines.asks import Asks
from weft._machines.attempts import Attempts
from weft._machines.bundles import Bundles
from weft._machines.calls import Calls
from weft._machines.leases import Leases
from weft._machines.members import Members
from weft._machines.ownership import Ownership, Recycled, Unrecoverable
from weft._machines.reservations import Reservations
from weft._machines.spillover import Spillover
from weft._machines.standings import Standings
from weft._machines.transfers import Transfers
from weft._machines.wants import Wants
from weft._node.actor_watchers import ActorWatchers
from weft._node.cluster_acting import ClusterActing
from weft._node.grants import Grants
from weft._runtime.copies import Copies
from weft._wire.messages import Shared
from weft.testing import BrokenPromiseError, simulate
from weft.testing._simulation.plans import (
    ActorPlan,
    CallPlan,
    DriverPlan,
    FaultPlan,
    GetPlan,
    NodePlan,
    SchedulePlan,
    TaskPlan,
    plan_of,
)
from weft.testing._simulation.runs import Schedule

SEEDS = 200
"""In each run of the tests; `WEFT_TEST_SEEDS=5000` for more."""


@pytest.mark.slow
def test_promises_are_kept_whatever_goes_wrong() -> None:
    for seed in range(int(os.environ.get("WEFT_TEST_SEEDS", SEEDS))):
        simulate(seed, faults=seed % 5)


def test_report_says_how_tasks_ended() -> None:
    report = simulate(5)
    assert sum(report.ended.values()) == report.tasks > 0
    assert report.runs >= report.ended["done"]
    assert report.virtual_s > 0 < report.steps


TELL = """
from weft.testing._simulation.plans import plan_of
from weft.testing._simulation.runs import Schedule
for seed in 11, 39, 65:
    schedule = Schedule(plan_of(seed))
    schedule.run()
    print(schedule.world.story.tell(lines=100_000))
"""


@pytest.mark.slow
def test_seed_tells_the_same_story_in_every_process() -> None:
    stories = {
        subprocess.run(
            [sys.executable, "-c", TELL],
            env={**os.environ, "PYTHONHASHSEED": str(number)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for number in (0, 1)
    }
    (story,) = stories
    assert story.count("\n") > 900


def test_seeds_differ() -> None:
    assert plan_of(1) != plan_of(2)
    one, other = Schedule(plan_of(1)), Schedule(plan_of(2))
    one.run()
    other.run()
    assert one.world.story.tell() != other.world.story.tell()


# ------------------------------------------------------------------ what chance rarely finds


def alike(number: int, *, lasts_s: float, retries: int) -> tuple[TaskPlan, ...]:
    return tuple(
        TaskPlan(f"t{i}", b"f", lasts_s, retries=retries, strategy="SPREAD") for i in range(number)
    )


@pytest.mark.slow
def test_tasks_without_retries_run_once_though_their_node_goes_among_many() -> None:
    nodes = (NodePlan(1), NodePlan(2), NodePlan(1))
    drivers = (DriverPlan(0, 0.0, alike(300, lasts_s=0.0002, retries=0)),)
    for seed in range(40):
        draw = random.Random(seed)
        kind = draw.choice(("tear", "kill node", "lose host", "cut"))
        fault = FaultPlan(draw.uniform(0.05, 0.2), kind, draw.random(), 6.5)
        simulate(seed, plan=SchedulePlan(seed, nodes, drivers, (fault,)))


@pytest.mark.slow
def test_driver_that_greets_after_its_own_node_was_found_dead_keeps_nothing() -> None:
    drivers = (DriverPlan(0, 0.3, alike(6, lasts_s=0.5, retries=3)),)
    for seed in range(60):
        at_s = random.Random(seed).uniform(0.2999, 0.3015)
        stands_still = FaultPlan(at_s, "stop", 2.5 / 8, 9.0)
        is_lost = FaultPlan(at_s + 0.001, "lose host", 0.1, 60.0)
        plan = SchedulePlan(seed, (NodePlan(2), NodePlan(2)), drivers, (stands_still, is_lost))
        simulate(seed, plan=plan)


ACTOR = ActorPlan("a", 0.4, (CallPlan("a.0", 0.0, 0.001),), max_restarts=3)


@pytest.mark.slow
def test_actor_whose_creation_is_heard_after_the_end_of_its_makers_node_is_not_made() -> None:
    drivers = (DriverPlan(1, 0.3, (), (), (ACTOR,)),)
    nodes = (NodePlan(2), NodePlan(2), NodePlan(2))
    for seed in range(40):
        lasts_s = random.Random(seed).uniform(4.0, 7.0)
        faults = (FaultPlan(0.35, "cut", 0.0, lasts_s), FaultPlan(0.5, "lose host", 0.5, 0.5))
        simulate(seed, plan=SchedulePlan(seed, nodes, drivers, faults))


@pytest.mark.slow
def test_node_that_was_cut_off_becomes_no_actor_by_an_order_of_before() -> None:
    actors = tuple(structs.replace(ACTOR, name=f"a{n}", at_s=n / 100) for n in range(4))
    drivers = (DriverPlan(0, 0.0, (), (), actors),)
    for seed in range(40):
        cut = FaultPlan(random.Random(seed).uniform(0.05, 0.4), "cut", 0.0, 7.5)
        simulate(seed, plan=SchedulePlan(seed, (NodePlan(3), NodePlan(3)), drivers, (cut,)))


def test_calls_of_actors_are_in_the_report() -> None:
    plan = SchedulePlan(1, (NodePlan(2),), (DriverPlan(0, 0.0, (), (), (ACTOR,)),), ())
    assert simulate(1, plan=plan).calls == {"done": 1}


# ------------------------------------------------------------------ what it is for

planted = pytest.mark.slow


def find(monkeypatch: pytest.MonkeyPatch, within: int, *faults: tuple[object, str, Any]) -> str:
    """Plant a fault; return what the first seed says that shows it."""
    for owner, name, wrong in faults:
        monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(BrokenPromiseError) as caught:
        all(simulate(seed, faults=4) for seed in range(within))
    with pytest.raises(BrokenPromiseError):
        simulate(0, plan=caught.value.plan)
    return str(caught.value)


def nothing(*_args: object) -> list[Any]:
    return []


@planted
def test_demand_that_a_dead_daemon_was_asked_for_and_nobody_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = find(monkeypatch, 400, (Asks, "_go_home", nothing))
    assert "does not end" in text or "beside a node with room" in text


@planted
def test_leases_of_a_client_that_is_gone_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    text = find(monkeypatch, 200, (Leases, "_client_gone", nothing))
    assert "keeps amounts" in text or "does not end" in text


@planted
def test_node_that_is_silent_and_never_buried(monkeypatch: pytest.MonkeyPatch) -> None:
    find(monkeypatch, 400, (Members, "_tick", nothing))


@planted
def test_task_that_is_tried_again_without_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    def generous(self: Attempts[Any], task: Any, *, is_free: bool = False) -> bool:
        task.attempt += 1
        self.unsend(task)
        return True

    assert "retries ran" in find(monkeypatch, 200, (Attempts, "try_again", generous))


@planted
def test_worker_that_is_lost_before_it_is_bound_and_not_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find(monkeypatch, 400, (Grants, "lose", nothing))


@planted
def test_death_that_nobody_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Standings.change

    def calm(self: Standings, change: Any) -> Any:
        return structs.replace(real(self, change), died=())

    find(monkeypatch, 1000, (Standings, "change", calm))


@planted
def test_bundles_that_are_released_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    find(monkeypatch, 400, (Reservations, "_release", nothing))


@planted
def test_group_that_waits_and_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    find(monkeypatch, 1000, (Bundles, "_see", nothing))


@planted
def test_demand_that_is_sent_on_and_never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    find(
        monkeypatch,
        1000,
        (spillover, "REST_S", 1e9),
    )


@planted
def test_node_that_is_gone_and_is_still_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Spillover._see

    def blind(self: Spillover, views: Any, gone: Any) -> None:
        real(self, views, ())

    find(monkeypatch, 400, (Spillover, "_see", blind))


@planted
def test_task_that_was_given_back_and_counted_as_started(monkeypatch: pytest.MonkeyPatch) -> None:
    find(monkeypatch, 3000, (tasks.Tasks, "_give_back", nothing))


@planted
def test_calls_that_are_sent_again_without_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    def generous(self: Calls, callee: Any, cause: str, effects: Any) -> None:
        for call in reversed([*callee.sent.values()]):
            self.attempts.unsend(call)
            callee.queue.appendleft(call)
        callee.sent.clear()

    assert "ran 2 times" in find(monkeypatch, 400, (Calls, "_take_back", generous))


@planted
def test_news_of_actors_that_nobody_passes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "does not end" in find(monkeypatch, 200, (ActorWatchers, "changed", nothing))


@planted
def test_want_that_is_lost_with_the_node_that_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    find(monkeypatch, 3000, (Wants, "_daemon_lost", nothing))


@planted
def test_owner_that_is_gone_and_whose_actors_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    find(monkeypatch, 400, (ClusterActing, "gone", nothing))


@planted
def test_fence_that_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Members.handle

    def silent(self: Members, event: Any, now: float) -> list[Any]:
        return [e for e in real(self, event, now) if not isinstance(e, members.Fence)]

    find(monkeypatch, 1000, (Members, "handle", silent))


def lose_values(seed: int) -> None:
    """Run tasks on two nodes, end the other one, and read what they have made."""
    tasks = tuple(
        structs.replace(task, makes=200_000) for task in alike(8, lasts_s=0.1, retries=-1)
    )
    gets = tuple(GetPlan(task.name, 9.0) for task in tasks)
    drivers = (DriverPlan(0, 0.0, tasks, gets=gets),)
    fault = FaultPlan(3.0, "lose host", 0.9, 1.0)
    simulate(seed, plan=SchedulePlan(seed, (NodePlan(2), NodePlan(2)), drivers, (fault,)))


def test_values_that_are_lost_with_a_node_are_made_again() -> None:
    for seed in range(5):
        lose_values(seed)


def test_values_of_a_dead_node_that_nobody_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Copies, "node_lost", nothing)
    with pytest.raises(BrokenPromiseError, match="does not get it"):
        lose_values(1)


@planted
def test_copy_that_is_kept_when_its_object_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "that nobody needs" in find(monkeypatch, 200, (Transfers, "_drop", nothing))


def test_task_whose_lost_result_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def given_up(self: Ownership, entry: Any) -> list[Any]:
        return [Unrecoverable(entry, "nobody tries")]

    monkeypatch.setattr(Ownership, "_recover", given_up)
    with pytest.raises(BrokenPromiseError, match="though it can be made again"):
        lose_values(1)


@planted
def test_segment_that_is_filled_again_while_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Ownership._drop_all

    def eager(self: Ownership, dropped: Any, effects: list[Any]) -> None:
        real(self, dropped, effects)
        values = [each.value for each in self.entries.values() if not each.owner]
        effects += [Recycled(value) for value in values if isinstance(value, Shared)]

    find(monkeypatch, 200, (Ownership, "_drop_all", eager))
