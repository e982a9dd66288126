from __future__ import annotations

from collections import Counter, deque
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from weft._ids import NodeId
from weft._machines.governor import (
    CALM_S,
    DISK_S,
    EPISODE_S,
    LEAST_INTERVAL_S,
    MARGIN_BYTES,
    MOST_INTERVAL_S,
    SAMPLES,
    STALL_S,
    WRITE_S,
    Effect,
    EndForMemory,
    FreeStore,
    Governor,
    Learn,
    MemoryBound,
    PauseWorker,
    Restrain,
    ResumeWorker,
    Sampled,
    TellUser,
    WorkerMemory,
)
from weft._machines.headroom import MemoryMeasured
from weft._machines.leases import (
    Demanded,
    Grant,
    LeaseBound,
    LeaseReturned,
    Leases,
)
from weft._machines.peaks import FUNCTIONS_KEPT
from weft._machines.placement import NodeView
from weft._resources import UNITS, Resources
from weft._specs import Shape

MB = 1 << 20
LIMIT = 1000 * MB
MARGIN = 100 * MB
A, B, C, D = b"a", b"b", b"c", b"d"
OTHER = b"other"
FILL_S = 2.98


def bound(used_bytes: int, name: str = "this machine", limit_bytes: int = LIMIT) -> MemoryBound:
    return MemoryBound(name, limit_bytes, used_bytes)


class Node:
    """Workers and a governor that is checked after every sample; it counts what they hold."""

    def __init__(self, cpus: int = 4) -> None:
        self.governor = Governor(cpus=cpus, cores=2, most_bytes=700 * MB)
        self.now = 0.0
        self.workers: dict[bytes, WorkerMemory] = {}
        self.outside_bytes = self.store_bytes = 0
        self.holds_back = self.is_writing = False
        self.width: int | None = None
        self.room_bytes = 0
        self.lets_one_pass = False

    def put(self, worker: bytes, own: int, **facts: Any) -> None:
        """Add or change a worker; `own` in MB."""
        before = self.workers.get(worker)
        if before is None:
            lease = len(self.workers) + 1
            before = WorkerMemory(
                worker, 100 + lease, 0, lease, task=b"t", function="f", may_repeat=True
            )
        changed = {"own_bytes": own * MB, **facts}
        self.workers[worker] = WorkerMemory(
            **{
                name: changed.get(name, getattr(before, name))
                for name in WorkerMemory.__struct_fields__
            }
        )

    def used(self) -> int:
        return (
            self.outside_bytes
            + self.store_bytes
            + sum(seen.own_bytes for seen in self.workers.values())
        )

    def sample(self, *bounds: MemoryBound, after_s: float = 0.02) -> list[Effect]:
        self.now += after_s
        event = Sampled(
            bounds or [bound(self.used())],
            list(self.workers.values()),
            holds_back=self.holds_back,
            store_bytes=self.store_bytes,
            is_writing=self.is_writing,
        )
        effects = self.governor.handle(event, self.now)
        self.governor.check()
        for effect in effects:
            if isinstance(effect, Restrain):
                self.width, self.room_bytes = effect.width, effect.room_bytes
                self.lets_one_pass = effect.lets_one_pass
        return effects

    def fill(self, *own: int, **facts: Any) -> list[Effect]:
        """Let tasks run that hold so much each, in MB, and are known for two samples.

        They have taken it slowly, in `FILL_S`.
        """
        for worker, _ in zip((A, B, C, D), own, strict=False):
            self.put(worker, 0, **facts)
        self.sample()
        for worker, amount in zip((A, B, C, D), own, strict=False):
            self.put(worker, amount)
        return self.sample(after_s=FILL_S)


def steps(effects: list[Effect]) -> list[tuple[str, bytes]]:
    """Return (kind, worker) of what was done to workers, in order."""
    return [
        (type(effect).__name__, effect.worker)
        for effect in effects
        if isinstance(effect, PauseWorker | ResumeWorker | EndForMemory)
    ]


def told(effects: list[Effect]) -> list[str]:
    return [effect.text for effect in effects if isinstance(effect, TellUser)]


def learned(effects: list[Effect]) -> list[Learn]:
    return [effect for effect in effects if isinstance(effect, Learn)]


# ------------------------------------------------------------------ the lines


def test_with_room_nothing_happens() -> None:
    node = Node()
    assert node.fill(190, 190, 190, 190) == []


def test_from_two_margins_no_more_tasks_start() -> None:
    node = Node()
    node.holds_back = True
    words = "840.0 MiB of 1000.0 MiB in use (this machine)"
    assert node.fill(210, 210, 210, 210) == [
        TellUser(f"memory is short, {words}: no more tasks start"),
        Restrain(4, 50 * MB, words),
    ]


def test_from_one_margin_the_youngest_are_paused_the_more_the_less_room_there_is() -> None:
    node = Node()
    effects = node.fill(230, 230, 230, 215)
    assert steps(effects) == [("PauseWorker", D)]
    words = "905.0 MiB of 1000.0 MiB in use (this machine)"
    assert told(effects) == [f"memory is short, {words}: f (process 104, 215.0 MiB) is paused"]
    node = Node()
    assert steps(node.fill(240, 240, 240, 200)) == [("PauseWorker", D), ("PauseWorker", C)]
    node = Node()
    effects = node.fill(240, 240, 240, 240)
    assert steps(effects) == [("PauseWorker", D), ("PauseWorker", C), ("PauseWorker", B)]
    assert "and 2 more" in told(effects)[0]


def test_the_faster_memory_is_filled_the_more_are_paused() -> None:
    for megabytes, chosen in ((0, [D]), (10, [D, C]), (20, [D, C, B])):
        node = Node()
        node.fill(230 - megabytes, 230, 220, 220)
        node.put(A, 235)
        assert steps(node.sample()) == [("PauseWorker", worker) for worker in chosen]


def test_tasks_that_would_take_too_much_before_the_next_sample_are_paused_at_once() -> None:
    node = Node()
    node.fill(200, 200, 200, 200)
    node.put(A, 220)
    assert steps(node.sample()) == []
    node.put(A, 290)
    assert node.used() < LIMIT - MARGIN
    assert steps(node.sample()) == [("PauseWorker", D), ("PauseWorker", C), ("PauseWorker", B)]


def test_tasks_that_have_got_room_beforehand_may_fill_it_as_fast_as_they_like() -> None:
    node = Node()
    node.fill(200, 200, 200, 200, kept_bytes=320 * MB)
    node.put(A, 290)
    assert steps(node.sample()) == []


def test_while_tasks_are_paused_none_start() -> None:
    node = Node()
    node.fill(230, 230, 230, 215)
    assert (node.width, node.room_bytes) == (1, 0)


def test_below_half_a_margin_paused_tasks_are_put_back_youngest_first() -> None:
    node = Node()
    node.fill(240, 240, 240, 240)
    node.put(A, 260)
    effects = node.sample()
    assert steps(effects) == [("EndForMemory", D)]
    (ended,) = [effect for effect in effects if isinstance(effect, EndForMemory)]
    assert ended.retry == "free"
    assert ended.reason.startswith("memory")
    assert "is ended, and its task runs again later" in told(effects)[0]


def test_as_many_are_put_back_as_it_takes_but_never_the_oldest() -> None:
    node = Node()
    node.fill(600, 120, 120, 120)
    node.put(A, 950)
    ended = [("EndForMemory", D), ("EndForMemory", C), ("EndForMemory", B)]
    assert steps(node.sample()) == ended


def test_the_oldest_that_can_go_on_is_not_put_back_but_ended_in_the_end() -> None:
    """Else a task that does not fit beside those that wait for it would be run for ever."""
    node = Node()
    node.fill(400, 200, is_blocked=True)
    node.put(C, 0)
    node.sample()
    node.put(C, 380)
    assert steps(node.sample()) == [("PauseWorker", A)]
    assert steps(node.sample())[0] == ("EndForMemory", A)
    node = Node()
    node.fill(300, 300, is_blocked=True)
    node.put(C, 0)
    node.sample()
    node.put(C, 380)
    assert steps(node.sample()) == [("PauseWorker", C)]
    (ended,) = [effect for effect in node.sample() if isinstance(effect, EndForMemory)]
    assert (ended.worker, ended.retry) == (C, "counts")


def test_nothing_more_is_ended_until_what_was_ended_is_gone() -> None:
    node = Node()
    node.fill(600, 120, 120, 120)
    node.put(A, 740)
    assert steps(node.sample()) == [("EndForMemory", D), ("EndForMemory", C)]
    node.put(A, 999)
    assert steps(node.sample()) == []
    del node.workers[D], node.workers[C]
    assert steps(node.sample()) == [("EndForMemory", B)]


def test_what_may_not_be_run_again_is_not_put_back() -> None:
    node = Node()
    node.fill(240, 240, 240, 240)
    node.put(D, 240, may_repeat=False)
    node.put(C, 240, may_repeat=False)
    node.put(A, 250)
    assert steps(node.sample()) == [("EndForMemory", B)]


def test_what_holds_little_is_not_put_back() -> None:
    node = Node()
    node.fill(480, 465, 10)
    assert steps(node.sample()) == [("EndForMemory", B)]


# ------------------------------------------------------------------ objects


def freed(effects: list[Effect]) -> list[int]:
    return [effect.size_bytes // MB for effect in effects if isinstance(effect, FreeStore)]


def test_from_one_margin_objects_go_to_disk_and_that_is_asked_for_again_only_after_a_while() -> (
    None
):
    node = Node()
    node.store_bytes = 400 * MB
    assert freed(node.fill(500)) == []
    node.put(A, 510)
    effects = node.sample()
    assert freed(effects) == [110]
    assert steps(effects) == []
    assert told(effects) == [
        "memory is short, 910.0 MiB of 1000.0 MiB in use (this machine): objects go to disk"
    ]
    assert freed(node.sample()) == []
    effects = node.sample(after_s=DISK_S / 2)
    assert freed(effects) == [110]
    assert told(effects) == []


def test_no_more_is_asked_for_than_objects_take() -> None:
    node = Node()
    node.store_bytes = 50 * MB
    assert freed(node.fill(900)) == [50]


def test_who_holds_most_is_stopped_and_not_ended_while_objects_go_to_disk() -> None:
    node = Node()
    node.store_bytes = 400 * MB
    assert steps(node.fill(590)) == [("PauseWorker", A)]
    assert steps(node.sample(after_s=DISK_S / 2)) == []
    # What has gone counts, however little it is.
    node.store_bytes = 399 * MB
    assert steps(node.sample(after_s=DISK_S / 4)) == []
    assert steps(node.sample(after_s=DISK_S / 2)) == []
    node.store_bytes = 200 * MB
    assert steps(node.sample(after_s=DISK_S / 2)) == [("ResumeWorker", A)]


def test_who_holds_most_is_ended_when_no_more_objects_go_to_disk() -> None:
    node = Node()
    node.store_bytes = 300 * MB
    node.fill(690)
    assert steps(node.sample(after_s=DISK_S / 2)) == []
    assert steps(node.sample(after_s=DISK_S / 2)) == [("EndForMemory", A)]


def test_who_would_take_the_rest_before_objects_are_on_disk_is_stopped_for_as_long() -> None:
    node = Node()
    node.store_bytes = 300 * MB
    node.put(A, 580)
    node.sample()
    node.put(A, 630)
    assert steps(node.sample()) == [("PauseWorker", A)]
    assert steps(node.sample()) == [("ResumeWorker", A)]
    node.put(A, 660)
    assert steps(node.sample()) == [("PauseWorker", A)]
    # Another program takes so much that it would be ended, if no objects were going to disk.
    node.outside_bytes = 10 * MB
    assert steps(node.sample()) == []
    assert steps(node.sample(after_s=2 * DISK_S)) == [("ResumeWorker", A)]
    node.outside_bytes = 20 * MB
    node.put(A, 659)
    assert [step for step, _ in steps(node.sample())] == ["PauseWorker"]
    assert [step for step, _ in steps(node.sample())] == ["EndForMemory"]


def test_nothing_is_ended_while_a_large_object_is_being_written_unless_the_disk_hangs() -> None:
    node = Node()
    node.store_bytes, node.is_writing = 300 * MB, True
    node.fill(690)
    for _ in range(int(WRITE_S) - 1):
        assert steps(node.sample(after_s=1.0)) == []
    assert steps(node.sample(after_s=1.0)) == [("EndForMemory", A)]


def test_a_store_that_others_fill_is_not_told_of_again_and_again() -> None:
    node = Node()
    node.store_bytes = 950 * MB
    assert len(told(node.sample())) == 1
    assert told(node.sample(after_s=EPISODE_S + 1)) == []


# ------------------------------------------------------------------ who is spared


def test_young_tasks_that_were_seen_once_are_not_paused() -> None:
    node = Node()
    node.put(A, 450)
    node.sample()
    node.put(B, 460)
    assert steps(node.sample()) == []
    assert steps(node.sample()) == [("PauseWorker", B)]


@pytest.mark.parametrize("fact", ["is_timed", "is_lender", "is_blocked"])
def test_what_others_or_a_clock_wait_for_is_not_paused(fact: str) -> None:
    node = Node()
    node.fill(300, 300)
    node.put(C, 0, **{fact: True})
    node.sample()
    node.put(C, 310)
    assert steps(node.sample()) == [("PauseWorker", B)]


def test_actors_are_not_paused() -> None:
    node = Node()
    node.put(A, 400, is_actor=True)
    node.sample()
    node.put(B, 250)
    node.put(C, 240)
    node.sample()
    node.put(C, 260)
    assert steps(node.sample()) == [("PauseWorker", C)]
    node.put(A, 430)
    assert steps(node.sample()) == []


@pytest.mark.parametrize("fact", ["is_timed", "is_lender", "is_blocked"])
def test_what_turns_out_to_be_waited_for_is_resumed_at_once(fact: str) -> None:
    node = Node()
    node.fill(300, 300, 310)
    node.put(C, 310, **{fact: True})
    assert ("ResumeWorker", C) in steps(node.sample())


def test_a_task_that_ended_before_the_signal_came_leaves_a_worker_that_is_resumed() -> None:
    node = Node()
    node.fill(300, 300, 310)
    node.put(C, 310, task=b"", function="")
    assert ("ResumeWorker", C) in steps(node.sample())


# ------------------------------------------------------------------ who waits unseen


def test_one_that_hardly_uses_a_processor_holds_nobody_back() -> None:
    """It may wait for the one that is paused, over a socket say."""
    node = Node()
    node.fill(450, 460)
    assert steps(node.sample(after_s=STALL_S - FILL_S - 0.1)) == []
    assert steps(node.sample(after_s=0.1)) == [("ResumeWorker", B)]
    # It is the one that goes on, and is not paused again.
    assert steps(node.sample()) == []
    # The first one does, too.
    node.put(A, 450, cpu_s=5.0)
    node.put(B, 460, cpu_s=5.0)
    assert steps(node.sample(after_s=STALL_S)) == [("PauseWorker", B)]


def test_one_that_uses_a_processor_is_waited_for() -> None:
    node = Node()
    node.fill(450, 460)
    for second in range(30):
        node.put(A, 450, cpu_s=0.03 * (FILL_S + second))
        assert steps(node.sample(after_s=1.0)) == []


def test_when_all_that_run_seem_to_wait_one_more_is_leased() -> None:
    node = Node()
    node.fill(450, 440)
    node.put(B, 440, is_blocked=True)
    node.sample()
    for _ in range(2):
        node.sample(after_s=STALL_S + 1)
        assert node.lets_one_pass
        node.put(C, 0, task=str(node.now).encode())
        node.sample()
        assert not node.lets_one_pass


# ------------------------------------------------------------------ the last step


def test_a_task_that_alone_takes_all_memory_is_stopped_then_ended_for_good() -> None:
    node = Node()
    node.put(A, 500)
    node.sample()
    node.put(A, 980)
    assert steps(node.sample()) == [("PauseWorker", A)]
    effects = node.sample()
    (ended,) = [effect for effect in effects if isinstance(effect, EndForMemory)]
    assert ended == EndForMemory(
        A,
        "never",
        "memory ran out: it held 980.0 MiB, with 980.0 MiB of 1000.0 MiB in use (this machine); "
        "let it do less at a time, or give it more memory",
    )
    (line,) = told(effects)
    assert line.endswith(": f (process 101, 980.0 MiB) is ended: it held most")


def test_the_largest_of_several_is_ended_at_the_price_of_a_retry() -> None:
    node = Node()
    node.fill(300, 380, may_repeat=False)
    node.put(A, 605)
    assert steps(node.sample()) == [("PauseWorker", B)]
    assert steps(node.sample()) == [("PauseWorker", A)]
    (ended,) = [effect for effect in node.sample() if isinstance(effect, EndForMemory)]
    assert (ended.worker, ended.retry) == (A, "counts")
    assert "run fewer at once" in ended.reason


def test_who_was_stopped_to_be_ended_goes_on_if_there_is_room_again() -> None:
    node = Node()
    node.put(A, 500, is_actor=True)
    node.sample()
    node.put(A, 980)
    assert steps(node.sample()) == [("PauseWorker", A)]
    node.put(A, 500)
    assert steps(node.sample()) == [("ResumeWorker", A)]


def test_an_actor_that_takes_all_memory_is_ended() -> None:
    node = Node()
    node.put(A, 980, is_actor=True, task=b"", function="")
    node.sample()
    effects = node.sample()
    (ended,) = [effect for effect in effects if isinstance(effect, EndForMemory)]
    assert (ended.worker, ended.retry) == (A, "counts")
    assert "an actor (process 101" in told(effects)[0]


def test_nothing_is_ended_for_what_other_programs_hold() -> None:
    node = Node()
    node.outside_bytes = 900 * MB
    node.put(A, 90)
    node.sample()
    effects = node.sample()
    assert steps(effects) == []
    node = Node()
    node.outside_bytes = 985 * MB
    effects = node.sample()
    assert steps(effects) == []
    (line,) = told(effects)
    assert line.endswith(": other programs than tasks and actors hold it")


# ------------------------------------------------------------------ and back


def test_paused_tasks_are_resumed_in_order_of_age_as_room_comes() -> None:
    node = Node()
    node.fill(320, 215, 215, 215)
    node.put(A, 0, task=b"")
    assert steps(node.sample()) == [("ResumeWorker", B)]
    assert steps(node.sample()) == [("ResumeWorker", C)]
    # All three may take 320, as A did: there is not so much.
    assert steps(node.sample()) == []
    node.put(B, 0, task=b"")
    assert steps(node.sample()) == [("ResumeWorker", D)]
    assert steps(node.sample()) == []


def test_a_task_that_has_had_its_peak_is_expected_to_have_no_other() -> None:
    node = Node()
    node.fill(240, 240, 240, 240)
    node.put(A, 5)
    assert steps(node.sample()) == [("ResumeWorker", B)]


def test_when_the_last_that_runs_has_ended_the_oldest_paused_one_goes_on() -> None:
    node = Node()
    node.fill(240, 240, 240, 240)
    node.put(A, 240, task=b"", function="")
    assert steps(node.sample())[-1] == ("ResumeWorker", B)


def test_when_the_last_that_runs_waits_for_others_the_oldest_paused_one_goes_on() -> None:
    node = Node()
    node.fill(230, 230, 230, 215)
    for worker in (A, B, C):
        node.put(worker, 230, is_blocked=True)
    assert steps(node.sample()) == [("ResumeWorker", D)]


def test_width_grows_with_each_while_of_calm_and_ends_where_it_restrains_nobody() -> None:
    node = Node()
    node.fill(210, 210, 210, 210)
    node.sample(after_s=CALM_S)
    assert node.width == 5
    node.sample(after_s=CALM_S)
    assert node.width == 5
    node.put(A, 100)
    node.put(b"e", 0)
    node.sample(after_s=CALM_S)
    assert node.width == 10
    node.put(B, 240)
    node.sample(after_s=CALM_S / 2)
    assert node.width == 10
    node.sample(after_s=CALM_S / 2)
    assert node.width is None


def test_width_is_forgotten_when_no_task_is_leased() -> None:
    node = Node()
    node.fill(210, 210, 210, 210)
    node.workers.clear()
    node.outside_bytes = 850 * MB
    node.sample()
    assert node.width is None


def test_nobody_is_restrained_any_more_when_the_paused_one_dies_and_the_other_ends() -> None:
    node = Node()
    node.fill(450, 460)
    assert not node.governor.is_at_rest
    del node.workers[B]
    node.sample()
    assert not node.governor.is_at_rest
    node.workers.clear()
    node.sample()
    assert node.governor.is_at_rest


def test_steps_are_told_once_in_an_episode_and_so_is_its_end() -> None:
    node = Node()

    def lines_of_an_episode() -> list[str]:
        lines = told(node.fill(230, 230, 230, 215))
        for worker in node.workers:
            node.put(worker, 1, cpu_s=node.now)
        for _ in range(4):
            lines += told(node.sample(after_s=CALM_S))
        return lines

    first = lines_of_an_episode()
    assert [line.rpartition(":")[2] for line in first] == [
        " f (process 104, 215.0 MiB) is paused",
        " 1, of at most 0.5 s",
    ]
    assert lines_of_an_episode() == []
    node.sample(after_s=EPISODE_S)
    assert len(lines_of_an_episode()) == 2


# ------------------------------------------------------------------ which limit


def test_the_limit_with_the_least_room_counts() -> None:
    node = Node()
    node.fill(10, 10)
    small = bound(190 * MB, "cgroup box", 200 * MB)
    effects = node.sample(bound(300 * MB), small)
    assert steps(effects) == [("PauseWorker", B)]
    assert "190.0 MiB of 200.0 MiB in use (cgroup box)" in told(effects)[0]


def test_margins_of_large_machines_are_bounded() -> None:
    assert bound(0, limit_bytes=1 << 40).margin == MARGIN_BYTES


def test_samples_are_taken_the_sooner_the_less_room_there_is() -> None:
    node = Node()
    node.sample(bound(0, limit_bytes=1 << 40))
    assert node.governor.interval_s == MOST_INTERVAL_S
    node.sample(bound(0, limit_bytes=2_000_000_000))
    assert node.governor.interval_s == pytest.approx(0.225)
    node.sample(bound(0, limit_bytes=1 << 40), bound(950 * MB))
    assert node.governor.interval_s == LEAST_INTERVAL_S


# ------------------------------------------------------------------ peaks


def run_once(node: Node, worker: bytes, *own: int, **facts: Any) -> list[Effect]:
    """Let a task take so much, one sample each, and end; return what its end led to."""
    task = facts.pop("task", str(node.now).encode())
    for amount in own:
        node.put(worker, amount, task=task, **facts)
        node.sample()
    node.put(worker, 0, task=b"", function="")
    return node.sample()


def test_a_function_whose_tasks_could_take_half_of_the_limit_is_learned() -> None:
    node = Node(cpus=4)
    assert learned(run_once(node, A, 0, 60, 124, 124, function="f")) == []
    assert learned(run_once(node, A, 0, 60, 125, 125, function="f")) == [Learn("f", 125 * MB)]


def test_small_changes_of_a_peak_are_not_told() -> None:
    node = Node(cpus=4)
    assert learned(run_once(node, A, 0, 249, 249, function="f")) == [Learn("f", 250 * MB)]
    assert learned(run_once(node, A, 0, 250, 250, function="f")) == []
    assert learned(run_once(node, A, 0, 251, 251, function="f")) == [Learn("f", 252 * MB)]


def test_a_peak_falls_slowly_and_is_forgotten_when_it_matters_no_more() -> None:
    node = Node(cpus=4)
    assert learned(run_once(node, A, 0, 200, 200, function="f")) == [Learn("f", 200 * MB)]
    lower = []
    for _ in range(30):
        lower += learned(run_once(node, A, 0, 1, 1, function="f"))
    assert [learn.memory_bytes // MB for learn in lower] == [148, 0]


def test_a_task_that_was_hardly_seen_lowers_no_peak() -> None:
    node = Node(cpus=4)
    run_once(node, A, 0, 200, 200, function="f")
    for _ in range(30):
        assert learned(run_once(node, A, *[0] * (SAMPLES - 1), function="f")) == []


def test_no_more_is_asked_for_than_the_node_has() -> None:
    node = Node()
    assert learned(run_once(node, A, 0, 790, 790)) == [Learn("f", 700 * MB)]


def test_what_another_function_left_behind_is_not_a_functions_peak() -> None:
    node = Node(cpus=4)
    node.put(A, 0, function="large", task=b"1")
    node.sample()
    node.put(A, 300)
    node.sample()
    node.put(A, 300, function="small", task=b"2")
    assert learned(node.sample()) == [Learn("large", 300 * MB)]
    node.put(A, 301)
    node.sample()
    node.put(A, 301, task=b"")
    assert learned(node.sample()) == []
    # Also after it was idle.
    assert learned(run_once(node, A, 301, 302, function="small")) == []


def test_what_an_idle_worker_held_is_forgotten_when_it_is_gone() -> None:
    node = Node(cpus=4)
    node.put(A, 300, task=b"", function="")
    node.sample()
    del node.workers[A]
    node.sample()
    assert learned(run_once(node, A, 300, 300, 300)) == [Learn("f", 300 * MB)]


def test_what_a_function_leaves_behind_itself_counts() -> None:
    node = Node(cpus=4)
    for index in range(4):
        node.put(A, 50 * index, task=bytes([index + 1]))
        node.sample()
    node.put(A, 150, task=b"")
    assert learned(node.sample()) == [Learn("f", 150 * MB)]


def test_peaks_of_those_that_run_are_told_before_any_is_paused_or_put_back() -> None:
    node = Node()
    effects = node.fill(230, 230, 230, 215)
    assert [type(effect) for effect in effects[:2]] == [Learn, PauseWorker]
    node.put(A, 300)
    (again,) = learned(node.sample())
    assert again == Learn("f", 300 * MB)


def test_peaks_of_few_functions_are_kept() -> None:
    node = Node()
    run_once(node, A, 0, 300, 300, function="first")
    for index in range(FUNCTIONS_KEPT):
        run_once(node, A, 0, function=f"f{index}")
    assert learned(run_once(node, A, 0, 300, 300, function="first")) == [Learn("first", 300 * MB)]


def test_what_leases_stand_for_is_not_counted_twice() -> None:
    node = Node()
    assert learned(run_once(node, A, 0, 300, 300)) == [Learn("f", 300 * MB)]
    assert node.room_bytes == 890 * MB
    node.put(A, 0, task=b"again", function="f", kept_bytes=300 * MB)
    node.put(B, 0, task=b"again", function="g")
    node.sample()
    node.put(A, 200)
    node.sample()
    assert node.room_bytes == 890 * MB
    node.put(B, 100)
    node.sample()
    assert node.room_bytes == 790 * MB


# ------------------------------------------------------------------ a whole job, in pretended time

STEP_S = 0.02
JOB = b"driver"


class Job:
    """Many tasks of one function on a node whose leases the governor restrains."""

    def __init__(
        self, tasks: int, peak: int, cpus: int, *, duration_s: float, width: int = 0
    ) -> None:
        """`peak` in MB; `width`: a fixed one, without a governor."""
        total = Resources({"CPU": width or cpus, "memory": 0.7 * LIMIT})
        self.leases = Leases(NodeView(NodeId(b"n" * 16), total, total, is_local=True))
        self.governor = Governor(cpus=cpus, cores=cpus, most_bytes=int(0.7 * LIMIT))
        self.is_governed = not width
        self.peak_bytes, self.duration_s = peak * MB, duration_s
        self.memory_bytes = 0
        self.queue = deque(range(tasks))
        self.ran_s: dict[int, float] = {}
        """How long the task on each lease has run."""
        self.task_on: dict[int, int] = {}
        self.paused: set[int] = set()
        self.done: Counter[int] = Counter()
        self.steps: Counter[str] = Counter()
        self.now = self.sample_at = 0.0
        self.most_bytes = 0

    def own(self, lease: int) -> int:
        """It fills its memory in the first half of its time, and keeps it."""
        return int(self.peak_bytes * min(1.0, self.ran_s[lease] / (self.duration_s / 2)))

    def do(self, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case Grant(lease):
                    self.do(self.tell(LeaseBound(lease)))
                    self.task_on[lease] = self.queue.popleft()
                    self.ran_s[lease] = 0.0
                case Restrain(width, room_bytes, words, lets_one_pass):
                    room = room_bytes * UNITS
                    self.do(self.tell(MemoryMeasured(width, room, words, lets_one_pass)))
                case PauseWorker(worker):
                    self.steps["paused"] += 1
                    self.paused.add(int(worker))
                case ResumeWorker(worker):
                    self.paused.remove(int(worker))
                case EndForMemory(worker, retry):
                    assert retry == "free"
                    self.steps["put back"] += 1
                    self.queue.appendleft(self.task_on[int(worker)])
                    self.paused.discard(int(worker))
                    self.end(int(worker))
                case Learn("f", memory_bytes):
                    self.do(self.demand(0))
                    self.memory_bytes = memory_bytes
                case _:
                    pass

    def tell(self, event: Any) -> list[Any]:
        effects = self.leases.handle(event, self.now)
        self.leases.check()
        return effects

    def demand(self, workers: int) -> list[Any]:
        amounts = {"CPU": 1.0, "memory": float(self.memory_bytes)}
        shape = Shape(tuple(sorted(Resources(amounts).items())), is_learned=self.memory_bytes > 0)
        return self.tell(Demanded(JOB, self.memory_bytes, shape, workers))

    def end(self, lease: int) -> None:
        del self.task_on[lease], self.ran_s[lease]
        self.do(self.tell(LeaseReturned(lease)))

    def sample(self) -> None:
        workers = [
            WorkerMemory(
                str(lease).encode(),
                lease,
                self.own(lease),
                lease,
                kept_bytes=self.leases.memory_of(lease) // UNITS,
                task=str(task).encode(),
                function="f",
                may_repeat=True,
                cpu_s=self.now,
            )
            for lease, task in self.task_on.items()
        ]
        used = sum(seen.own_bytes for seen in workers)
        event = Sampled([bound(used)], workers, holds_back=self.leases.holds_back())
        self.do(self.governor.handle(event, self.now))
        self.governor.check()
        self.sample_at = self.now + self.governor.interval_s

    def run(self) -> float:
        """Run all tasks; return how long that took, in seconds."""
        demanded = None
        while self.queue or self.task_on:
            if demanded != (demanded := (len(self.queue), self.memory_bytes)):
                self.do(self.demand(len(self.queue)))
            if self.is_governed and self.sample_at <= self.now:
                self.sample()
            self.now += STEP_S
            for lease in list(self.task_on):
                if lease in self.paused:
                    continue
                self.ran_s[lease] += STEP_S
                if self.ran_s[lease] >= self.duration_s:
                    self.done[self.task_on[lease]] += 1
                    self.end(lease)
            self.most_bytes = max(self.most_bytes, sum(map(self.own, self.task_on)))
            assert self.now < 1000
        return self.now


@pytest.mark.slow
@pytest.mark.parametrize("peak", [150, 240, 290, 420, 900])
def test_a_job_that_needs_more_than_all_memory_ends_in_time_and_never_takes_more(peak: int) -> None:
    tasks, cpus = 32, 8
    # Whoever tunes by hand leaves the same reserve.
    most = (LIMIT - MARGIN) // (peak * MB)
    best_s = Job(tasks, peak, cpus, duration_s=4.0, width=min(cpus, most)).run()
    job = Job(tasks, peak, cpus, duration_s=4.0)
    took_s = job.run()
    assert job.done == Counter(range(tasks))
    assert job.most_bytes < LIMIT
    assert took_s < 1.5 * best_s
    # What was learned serves the next job.
    job.queue.extend(range(tasks))
    job.steps.clear()
    began = job.now
    job.run()
    assert not job.steps
    assert job.now - began < 1.5 * best_s
    assert job.most_bytes < LIMIT


# ------------------------------------------------------------------ any order of events


class GovernorStories(RuleBasedStateMachine):
    """Tasks and actors that do as they like, on a node that does as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node()
        self.stopped: set[bytes] = set()
        self.seen_stopped: set[bytes] = set()
        self.ending: set[bytes] = set()
        self.lines: Counter[str] = Counter()
        self.names = 0
        self.deaths: Counter[int] = Counter()

    places = st.integers(0, 5)

    def at(self, place: int) -> bytes:
        """Return the worker in a place; after its death there is another."""
        return bytes([place, self.deaths[place]])

    @rule(place=places, is_actor=st.booleans(), may_repeat=st.booleans())
    def begins(self, place: int, is_actor: bool, may_repeat: bool) -> None:
        worker = self.at(place)
        self.names += 1
        if worker not in self.node.workers:
            lease = self.names
            self.node.put(worker, 5, lease=lease, is_actor=is_actor, task=b"", function="")
        if worker not in self.stopped:
            task = str(self.names).encode()
            self.node.put(worker, 5, task=task, function="f", may_repeat=may_repeat)

    @rule(place=places)
    def ends(self, place: int) -> None:
        worker = self.at(place)
        if worker in self.node.workers and worker not in self.stopped:
            self.node.put(worker, 5, task=b"", function="")

    @rule(place=places, own=st.integers(0, 600))
    def takes(self, place: int, own: int) -> None:
        worker = self.at(place)
        if worker in self.node.workers and worker not in self.stopped:
            self.node.put(worker, own)

    @rule(place=places, fact=st.sampled_from(["is_blocked", "is_lender", "is_timed"]))
    def turns(self, place: int, fact: str) -> None:
        """Also of those that are stopped: what was said before is read late."""
        seen = self.node.workers.get(self.at(place))
        if seen is not None:
            own = seen.own_bytes // MB
            self.node.put(seen.worker, own, **{fact: not getattr(seen, fact)})

    @rule(place=places)
    def dies(self, place: int) -> None:
        self.gone(self.at(place))

    @precondition(lambda self: self.ending)
    @rule(data=st.data())
    def is_reaped(self, data: st.DataObject) -> None:
        self.gone(data.draw(st.sampled_from(sorted(self.ending))))

    def gone(self, worker: bytes) -> None:
        self.deaths[worker[0]] += 1
        self.node.workers.pop(worker, None)
        self.stopped.discard(worker)
        self.ending.discard(worker)

    @rule(outside=st.integers(0, 900), store=st.sampled_from([0, 300]), waiting=st.booleans())
    def changes_outside(self, outside: int, store: int, waiting: bool) -> None:
        self.node.outside_bytes = outside * MB
        self.node.store_bytes = store * MB
        self.node.holds_back = waiting

    @rule(after_s=st.sampled_from([0.02, 0.02, CALM_S, EPISODE_S]))
    def samples(self, after_s: float) -> None:
        room = LIMIT - self.node.used()
        self.seen_stopped = set(self.stopped)
        was_ending = set(self.ending)
        effects = self.node.sample(after_s=after_s)
        kinds = set()
        for effect in effects:
            kinds.add(type(effect))
            match effect:
                case PauseWorker(worker):
                    assert room < 2 * MARGIN
                    assert worker not in self.stopped
                    self.stopped.add(worker)
                case ResumeWorker(worker):
                    self.stopped.remove(worker)
                case EndForMemory(worker, retry):
                    assert room < MARGIN // 2 if retry == "free" else room < MARGIN // 4
                    assert not was_ending
                    assert worker in self.seen_stopped
                    seen = self.node.workers[worker]
                    assert retry != "free" or (seen.may_repeat and not seen.is_lender)
                    assert retry != "free" or worker != self.oldest()
                    self.stopped.remove(worker)
                    self.ending.add(worker)
                case FreeStore(size_bytes):
                    assert room < MARGIN
                    assert 0 < size_bytes <= self.node.store_bytes
                case _:
                    pass
        # One kind of step at a time.
        assert not (PauseWorker in kinds and EndForMemory in kinds)
        self.check_progress()

    def oldest(self) -> bytes:
        """Return the worker of the oldest task that can go on."""
        able = [run.last for run in self.node.governor._run_of.values() if not run.waits]
        since = self.node.governor._run_of
        return min(able, key=lambda seen: (since[seen.worker].since, seen.lease)).worker

    def check_progress(self) -> None:
        tasks = [
            seen
            for worker, seen in self.node.workers.items()
            if seen.is_task and seen.task and worker not in self.ending
        ]
        paused = [seen for seen in tasks if seen.worker in self.stopped]
        running = self.node.governor._running()
        assert running or not paused or self.node.governor._stopped in self.stopped

    def teardown(self) -> None:
        """With room all go on, and nothing is restrained."""
        for worker in sorted(self.ending):
            self.gone(worker)
        self.node.outside_bytes = self.node.store_bytes = 0
        for _ in range(10):
            for worker in self.node.workers:
                self.node.put(worker, 5)
                self.ends(worker[0])
            self.samples(after_s=CALM_S)
        assert not self.stopped
        last = self.node.governor._restraint
        assert last is None or last.width is None


TestGovernorStories = GovernorStories.TestCase
TestGovernorStories.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, database=None
)
