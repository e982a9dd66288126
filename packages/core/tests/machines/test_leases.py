from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft._ids import NodeId
from weft._machines import lanes
from weft._machines.headroom import MemoryMeasured
from weft._machines.lanes import WINDOW
from weft._machines.leases import (
    ACTOR_KEY,
    PASSED_S,
    RECLAIM_AGAIN_S,
    UNBOUND_PER_DEMAND,
    ActorEnded,
    ActorWanted,
    AskReclaim,
    CancelGrant,
    ClientGone,
    Demanded,
    Effect,
    EnvironmentFailed,
    Event,
    Grant,
    JobWithheld,
    KillLease,
    LeaseBound,
    LeaseReturned,
    Leases,
    LeasesTicked,
    Refuse,
    TaskBlocked,
    TaskUnblocked,
)
from weft._machines.placement import NodeView
from weft._override import override
from weft._resources import UNITS, Resources
from weft._specs import Shape

A, B, C = b"client a", b"client b", b"client c"


def shape(env: str = "", **amounts: float) -> Shape:
    return Shape(amounts=tuple(sorted(Resources(amounts).items())), env=env)


CPU = shape(CPU=1)


class Node:
    """Leases that are checked after every event."""

    def __init__(self, devices: int = 0, **amounts: float) -> None:
        if devices:
            amounts["GPU"] = devices
        total = Resources(amounts)
        view = NodeView(NodeId(b"n" * 16), total, total, is_local=True)
        self.leases = Leases(view, {"GPU": [str(i) for i in range(devices)]} if devices else None)
        self.now = 0.0

    def tell(self, event: Event) -> list[Effect]:
        effects = self.leases.handle(event, self.now)
        self.leases.check()
        return effects

    def demand(
        self, client: bytes, workers: int = 1, wanted: Shape = CPU, **facts: Any
    ) -> list[Effect]:
        return self.tell(Demanded(client, facts.pop("key", 1), wanted, workers, **facts))

    def bind(self, effects: list[Effect]) -> list[int]:
        """Bind what was granted; return the leases."""
        numbers = grants(effects)
        for number in numbers:
            assert self.tell(LeaseBound(number)) == []
        return numbers

    def returned(self, lease: int) -> list[bytes]:
        """Return a lease, and bind what is granted then; return to whom."""
        effects = self.tell(LeaseReturned(lease))
        self.bind(effects)
        return clients(effects)

    def available(self) -> dict[str, float]:
        return self.leases.available(self.now).to_floats()

    def why(self, **amounts: float) -> list[str]:
        return self.leases.explain(shape(**amounts), self.now).splitlines()

    def free(self) -> dict[str, float]:
        return self.leases.free.to_floats()


def grants(effects: list[Effect]) -> list[int]:
    return [effect.lease for effect in effects if isinstance(effect, Grant)]


def clients(effects: list[Effect]) -> list[bytes]:
    return [effect.client for effect in effects if isinstance(effect, Grant)]


def test_demand_that_fits_is_granted_at_once_and_lowered() -> None:
    node = Node(CPU=2)
    effects = node.demand(A, 1)
    assert effects == [Grant(1, A, 1, CPU, {}, contended=False)]
    assert node.leases.is_unbound(1)
    assert node.free() == {"CPU": 1.0}
    assert node.leases.waiting() == []


def test_demand_for_more_than_is_free_waits_for_the_rest() -> None:
    node = Node(CPU=2)
    assert grants(node.demand(A, 3)) == [1, 2]
    assert node.leases.waiting() == [(A, 1, CPU, 1)]
    node.tell(LeaseBound(1))
    assert grants(node.tell(LeaseReturned(1))) == [3]


def test_demand_over_the_total_is_refused_with_the_numbers() -> None:
    node = Node(CPU=2)
    effects = node.demand(A, 1, shape(CPU=4, GPU=1))
    reason = "needs CPU 4, this node has 2; needs GPU 1, this node has 0"
    assert effects == [Refuse(A, 1, "unschedulable", reason)]
    assert node.leases.waiting() == []


def test_cancelling_a_demand_that_never_fits_is_silent() -> None:
    node = Node(CPU=2)
    assert node.demand(A, 0, shape(CPU=4)) == []


def test_later_demand_replaces_the_earlier() -> None:
    node = Node(CPU=1)
    node.bind(node.demand(A, 5))
    node.demand(A, 2)
    assert node.leases.waiting() == [(A, 1, CPU, 2)]
    node.demand(A, 0)
    assert node.leases.waiting() == []


def test_grants_without_a_worker_count_towards_the_new_demand() -> None:
    node = Node(CPU=4)
    assert grants(node.demand(A, 2)) == [1, 2]
    assert node.demand(A, 2) == []
    assert grants(node.demand(A, 3)) == [3]


def test_lower_demand_cancels_grants_without_a_worker_newest_first() -> None:
    node = Node(CPU=4)
    node.demand(A, 3)
    node.tell(LeaseBound(1))
    assert node.demand(A, 1) == [CancelGrant(3)]
    assert node.demand(A, 0) == [CancelGrant(2)]
    assert node.free() == {"CPU": 3.0}


def test_cancelled_grant_serves_the_next_demand() -> None:
    node = Node(CPU=1)
    node.demand(A)
    node.demand(B)
    effects = node.demand(A, 0)
    assert effects[0] == CancelGrant(1)
    assert clients(effects) == [B]


def test_deepest_demand_goes_first_then_the_first_come() -> None:
    node = Node(CPU=1)
    (held,) = node.bind(node.demand(A))
    node.demand(A, depth=0, key=2)
    node.demand(B, depth=3)
    node.demand(C, depth=3)
    order = []
    for _ in range(3):
        effects = node.tell(LeaseReturned(held))
        order += clients(effects)
        (held,) = node.bind(effects)
    assert order == [B, C, A]


def test_granted_demand_goes_behind_others_of_its_depth() -> None:
    node = Node(CPU=1)
    (held,) = node.bind(node.demand(A, 3))
    node.demand(B, 2)
    order = []
    for _ in range(4):
        effects = node.tell(LeaseReturned(held))
        order += clients(effects)
        (held,) = node.bind(effects)
    assert order == [A, B, A, B]


def test_replaced_demand_keeps_its_place() -> None:
    node = Node(CPU=1)
    (held,) = node.bind(node.demand(C))
    node.demand(A)
    node.demand(B)
    node.demand(A, 4)
    assert clients(node.tell(LeaseReturned(held))) == [A]


def test_small_demand_passes_a_large_one_that_does_not_fit() -> None:
    node = Node(CPU=2)
    node.bind(node.demand(A))
    assert grants(node.demand(B, 1, shape(CPU=2))) == []
    assert clients(node.demand(C)) == [C]


def test_demands_of_nothing_start_a_bounded_number_of_workers_at_once() -> None:
    node = Node(CPU=1)
    effects = node.demand(A, 100, shape())
    assert len(grants(effects)) == UNBOUND_PER_DEMAND
    assert grants(node.tell(LeaseBound(1))) == [UNBOUND_PER_DEMAND + 1]


def test_blocked_lease_gives_back_its_cpu_only() -> None:
    node = Node(CPU=1, devices=1)
    (held,) = node.bind(node.demand(A, 1, shape(CPU=1, GPU=1)))
    node.demand(B, 1, shape(CPU=1, GPU=1))
    node.demand(C)
    effects = node.tell(TaskBlocked(held))
    assert clients(effects) == [C]
    assert node.free() == {}


def test_unblocked_lease_takes_its_cpu_back_without_waiting() -> None:
    node = Node(CPU=1)
    (held,) = node.bind(node.demand(A))
    node.tell(TaskBlocked(held))
    (other,) = node.bind(node.demand(B))
    assert node.tell(TaskUnblocked(held)) == []
    assert node.free() == {"CPU": -1.0}
    assert grants(node.demand(C)) == []
    assert grants(node.tell(LeaseReturned(other))) == []
    assert grants(node.tell(LeaseReturned(held))) == [3]


def test_blocking_twice_is_blocking_once() -> None:
    node = Node(CPU=1)
    (held,) = node.bind(node.demand(A))
    node.tell(TaskBlocked(held))
    node.tell(TaskBlocked(held))
    assert node.free() == {"CPU": 1.0}
    node.tell(TaskUnblocked(held))
    node.tell(TaskUnblocked(held))
    assert node.free() == {}


def test_lease_that_ends_while_blocked_gives_back_what_it_had() -> None:
    node = Node(CPU=1, devices=1)
    (held,) = node.bind(node.demand(A, 1, shape(CPU=1, GPU=0.5)))
    node.tell(TaskBlocked(held))
    node.tell(LeaseReturned(held))
    assert node.free() == {"CPU": 1.0, "GPU": 1.0}


def test_recursion_needs_about_depth_times_cores_processes() -> None:
    """fib(14) as tasks: each waits for two below it, so blocked workers pile up along the paths in
    progress only.
    """
    node = Node(CPU=2)
    most = running = 0
    lease_of: dict[bytes, int] = {}
    depth_of: dict[bytes, int] = {}
    todo: dict[bytes, list[bytes]] = {}

    def name(parent: bytes, n: int) -> bytes:
        return parent + bytes([n])

    def start(effects: list[Effect]) -> None:
        nonlocal most, running
        for effect in effects:
            if isinstance(effect, Grant):
                task = effect.client
                lease_of[task] = effect.lease
                running += 1
                most = max(most, len(lease_of))
                node.tell(LeaseBound(effect.lease))
                ready.append(task)

    # A task demands a worker for itself under its own name, which stands for its parent's demand.
    ready: list[bytes] = []
    root = b"\x0e"
    depth_of[root] = 0
    start(node.demand(root, depth=0))
    finished: set[bytes] = set()
    while ready:
        task = ready.pop()
        n = task[-1]
        children = [name(task, n - 1), name(task, n - 2)] if n > 1 else []
        if children:
            todo[task] = children
            for child in children:
                depth_of[child] = depth_of[task] + 1
                start(node.demand(child, depth=depth_of[child]))
            start(node.tell(TaskBlocked(lease_of[task])))
            continue
        while True:
            finished.add(task)
            start(node.tell(LeaseReturned(lease_of.pop(task))))
            parent = task[:-1]
            if not parent or not all(child in finished for child in todo[parent]):
                break
            start(node.tell(TaskUnblocked(lease_of[parent])))
            task = parent
    assert root in finished
    assert most <= 14 * 2 + 2


def test_actor_goes_before_tasks() -> None:
    node = Node(CPU=1)
    (held,) = node.bind(node.demand(A))
    node.demand(B, depth=9)
    node.tell(ActorWanted(b"actor", CPU, "Counter"))
    effects = node.tell(LeaseReturned(held))
    assert effects[0] == Grant(2, b"actor", ACTOR_KEY, CPU, {}, contended=True)


def test_actor_that_ends_before_it_has_a_worker_gives_up_its_place() -> None:
    node = Node(CPU=1)
    node.tell(ActorWanted(b"actor", CPU))
    node.tell(ActorWanted(b"other", CPU))
    assert node.tell(ActorEnded(b"other")) == []
    assert node.tell(ActorEnded(b"actor")) == [CancelGrant(1)]
    assert node.tell(ActorEnded(b"actor")) == []
    assert node.free() == {"CPU": 1.0}


def test_actor_that_has_a_worker_keeps_its_amounts_until_that_is_gone() -> None:
    node = Node(CPU=1)
    (held,) = node.bind(node.tell(ActorWanted(b"actor", CPU)))
    assert node.tell(ActorEnded(b"actor")) == []
    assert node.free() == {}
    node.tell(LeaseReturned(held))
    assert node.free() == {"CPU": 1.0}


def test_client_that_is_gone_loses_demands_and_leases() -> None:
    node = Node(CPU=3)
    node.bind(node.demand(A))
    node.demand(A, 1, key=2)
    node.demand(A, 9, shape(CPU=2), key=3)
    effects = node.tell(ClientGone(A))
    assert [type(effect) for effect in effects] == [KillLease, CancelGrant]
    assert node.leases.waiting() == []
    assert node.free() == {"CPU": 2.0}
    node.tell(LeaseReturned(1))
    assert node.free() == {"CPU": 3.0}


def test_client_without_anything_may_go() -> None:
    assert Node(CPU=1).tell(ClientGone(A)) == []


def test_job_that_is_withheld_takes_nothing_until_it_goes_on() -> None:
    node = Node(CPU=2)
    node.bind(node.demand(A, job=b"slow"))
    (unbound,) = grants(node.demand(A, 2, job=b"slow", key=2))
    assert node.tell(JobWithheld(b"another", "why")) == []
    assert node.tell(JobWithheld(b"slow", "its driver is slow")) == [CancelGrant(unbound)]
    assert node.free() == {"CPU": 1}
    assert node.why(CPU=1)[:2] == [
        "its driver is slow",
        "2 wait for this, the longest for 0.0 s; 0 demands are before it",
    ]
    assert node.tell(ActorWanted(C, CPU, job=b"slow")) == []
    node.now = PASSED_S
    assert node.available() == {"CPU": 1}, "nothing is kept for those that are late"
    (other,) = node.bind(node.demand(B, job=b"quick"))
    assert node.tell(JobWithheld(b"slow", "")) == [AskReclaim(A), AskReclaim(B)]
    assert node.returned(other) == [C]


def test_memory_that_is_short_holds_back_no_job_that_is_withheld() -> None:
    node = Node(CPU=4)
    node.tell(measured(0, width=1))
    node.demand(A, 2, job=b"slow")
    assert node.leases.holds_back()
    node.tell(JobWithheld(b"slow", "why"))
    assert not node.leases.holds_back()


def test_failed_environment_refuses_all_who_want_it() -> None:
    node = Node(CPU=1)
    broken = shape("{}", CPU=1)
    node.demand(A, 2, broken)
    node.demand(B, 1, broken)
    node.demand(C)
    effects = node.tell(EnvironmentFailed("{}", "pip said no"))
    assert effects[:3] == [
        Refuse(A, 1, "environment", "pip said no"),
        Refuse(B, 1, "environment", "pip said no"),
        CancelGrant(1),
    ] or effects[:3] == [
        CancelGrant(1),
        Refuse(A, 1, "environment", "pip said no"),
        Refuse(B, 1, "environment", "pip said no"),
    ]
    assert clients(effects) == [C]


# ------------------------------------------------------------------ late demands


SMALL, LARGE = b"small", b"large"


def fill(node: Node, workers: int, wanted: Shape = CPU, **facts: Any) -> list[int]:
    """Lend SMALL all that it asks for."""
    leases = node.bind(node.demand(SMALL, workers, wanted, **facts))
    assert len(leases) == workers
    return leases


def let_wait(node: Node, wanted: Shape, **facts: Any) -> None:
    """Let LARGE become late with a demand that does not fit."""
    assert grants(node.demand(LARGE, 1, wanted, **facts)) == []
    node.now += PASSED_S


def test_late_demand_gets_what_is_freed_although_small_ones_keep_coming() -> None:
    node = Node(CPU=2)
    first, second = fill(node, 2)
    node.demand(LARGE, 1, shape(CPU=2))
    node.demand(SMALL, 9)
    assert node.returned(first) == [SMALL]
    node.now += PASSED_S
    assert node.returned(second) == []
    assert node.free() == {"CPU": 1.0}
    assert node.returned(3) == [LARGE]
    assert node.returned(4) == [SMALL, SMALL]


def test_late_demands_are_granted_in_the_order_in_which_they_came() -> None:
    node = Node(CPU=2)
    first, second = fill(node, 2)
    node.demand(A, 1)
    node.demand(LARGE, 1, shape(CPU=2))
    node.demand(B, 1)
    node.now += PASSED_S
    assert node.returned(first) == [A]
    assert node.returned(second) == []
    assert node.returned(3) == [LARGE]
    assert node.returned(4) == [B]


def test_demand_that_was_granted_is_not_late_for_its_next_worker() -> None:
    node = Node(CPU=2)
    first, second = fill(node, 2)
    node.demand(LARGE, 2, shape(CPU=2))
    node.now += PASSED_S
    node.demand(SMALL, 9)
    assert node.returned(first) == []
    assert node.returned(second) == [LARGE]
    assert node.returned(3) == [SMALL, SMALL]
    assert node.returned(4) == [SMALL]


def test_replaced_demand_stays_late() -> None:
    node = Node(CPU=2)
    first, second = fill(node, 2)
    let_wait(node, shape(CPU=2))
    node.demand(SMALL, 9)
    node.demand(LARGE, 5, shape(CPU=2))
    assert node.returned(first) == []
    assert node.returned(second) == [LARGE]


def test_others_get_what_a_late_demand_does_not_need() -> None:
    node = Node(CPU=3, devices=1, disk=1)
    fill(node, 1, shape(GPU=1))
    let_wait(node, shape(CPU=2, GPU=1))
    assert clients(node.demand(A, 2)) == [A]
    assert clients(node.demand(B, 1, shape(disk=1))) == [B]
    assert clients(node.demand(C, 1, shape())) == [C]


def test_others_get_no_device_of_the_kind_that_a_late_demand_needs() -> None:
    """The halves that are free of three devices are more than it needs, and not what it needs."""
    node = Node(CPU=9, devices=3)
    first, second, third, _, fifth, _ = fill(node, 6, shape(GPU=0.5))
    let_wait(node, shape(GPU=1))
    node.demand(SMALL, 9, shape(GPU=0.5))
    assert [node.returned(lease) for lease in (first, third, fifth)] == [[], [], []]
    assert node.free()["GPU"] == 1.5
    assert node.returned(second) == [LARGE, SMALL, SMALL]


def test_what_is_kept_goes_to_others_when_the_late_demand_is_gone() -> None:
    for gone in (Demanded(LARGE, 1, shape(CPU=2), 0), ClientGone(LARGE)):
        node = Node(CPU=2)
        first, _ = fill(node, 2)
        let_wait(node, shape(CPU=2))
        node.demand(SMALL, 1)
        assert node.returned(first) == []
        assert clients(node.tell(gone)) == [SMALL]
        assert node.leases.wake_at() is None


def test_late_demands_of_different_kinds_are_kept_for_side_by_side() -> None:
    node = Node(CPU=2, devices=1)
    first, second = fill(node, 2)
    (third,) = fill(node, 1, shape(GPU=1), key=2)
    node.demand(b"other", 1, shape(GPU=1))
    let_wait(node, shape(CPU=2))
    node.demand(A, 9)
    node.demand(B, 9, shape(GPU=0.5))
    assert node.returned(first) == []
    assert node.returned(third) == [b"other"]
    assert node.returned(second) == [LARGE]


def test_nothing_is_kept_for_a_demand_that_actors_leave_no_room() -> None:
    node = Node(CPU=2)
    node.bind(node.tell(ActorWanted(b"actor", CPU)))
    (held,) = fill(node, 1)
    let_wait(node, shape(CPU=2))
    node.demand(SMALL, 9)
    assert node.returned(held) == [SMALL]


def test_actor_goes_before_late_tasks() -> None:
    node = Node(CPU=2)
    first, _ = fill(node, 2)
    let_wait(node, shape(CPU=2))
    assert node.returned(first) == []
    assert clients(node.tell(ActorWanted(b"actor", CPU))) == [b"actor"]


def test_late_actor_is_kept_for_too() -> None:
    node = Node(CPU=2)
    first, second = fill(node, 2)
    node.tell(ActorWanted(b"actor", shape(CPU=2)))
    node.now += PASSED_S
    node.demand(SMALL, 9)
    assert node.returned(first) == []
    assert node.returned(second) == [b"actor"]


# Blocked tasks give their CPU back, and may wait for those that are held back.


def test_what_a_blocked_task_may_wait_for_passes_a_late_demand() -> None:
    node = Node(CPU=2)
    parent, running = fill(node, 2)
    let_wait(node, shape(CPU=2))
    node.tell(TaskBlocked(parent))
    assert clients(node.demand(A, 1, depth=0)) == []
    (child,) = node.bind(node.demand(B, 1, depth=1))
    assert node.returned(child) == []
    assert node.returned(running) == [LARGE]


def test_deep_demands_that_no_task_waits_for_do_not_pass_a_late_one() -> None:
    """As those of an actor that submits for ever."""
    node = Node(CPU=2)
    first, second = fill(node, 2, depth=1)
    let_wait(node, shape(CPU=2))
    node.demand(SMALL, 9, depth=1)
    assert node.returned(first) == []
    assert node.returned(second) == [LARGE]


def test_late_demand_that_fits_goes_before_deep_ones_that_no_task_waits_for() -> None:
    node = Node(CPU=1)
    (held,) = fill(node, 1, depth=1)
    let_wait(node, CPU)
    node.demand(SMALL, 9, depth=1)
    assert node.returned(held) == [LARGE]


def test_blocked_actor_lets_no_deep_demand_pass() -> None:
    node = Node(CPU=2)
    (actor,) = node.bind(node.tell(ActorWanted(b"actor", shape())))
    node.tell(TaskBlocked(actor))
    first, _ = fill(node, 2, depth=1)
    let_wait(node, shape(CPU=2))
    node.demand(SMALL, 9, depth=1)
    assert node.returned(first) == []


def test_nothing_is_kept_for_a_demand_that_needs_what_a_blocked_task_holds() -> None:
    node = Node(CPU=2, devices=1)
    (parent,) = fill(node, 1, shape(CPU=1, GPU=1))
    node.tell(TaskBlocked(parent))
    let_wait(node, shape(CPU=2, GPU=1))
    assert clients(node.demand(A, 3, depth=0)) == [A, A]


def test_task_that_goes_on_takes_its_cpu_out_of_what_is_kept() -> None:
    node = Node(CPU=2)
    parent, running = fill(node, 2)
    let_wait(node, shape(CPU=2))
    node.demand(SMALL, 9)
    assert clients(node.tell(TaskBlocked(parent))) == []
    assert node.free() == {"CPU": 1.0}
    node.tell(TaskUnblocked(parent))
    assert node.free() == {}
    assert node.returned(running) == []
    assert node.returned(parent) == [LARGE]


# A group of tasks that meets over sockets would wait for ever for those that are held back.


def test_those_held_back_in_vain_pass_after_a_while_each_time_a_longer_one() -> None:
    node = Node(CPU=2)
    first, _ = fill(node, 2)
    let_wait(node, shape(CPU=2))
    assert node.returned(first) == []
    assert node.leases.wake_at() is None  # nobody is held back
    for while_s in (PASSED_S, 2 * PASSED_S, 4 * PASSED_S):
        assert grants(node.demand(SMALL, 9)) == []
        assert node.leases.wake_at() == node.now + while_s
        node.now += while_s
        (passed,) = node.bind(node.tell(LeasesTicked()))
        assert node.leases.wake_at() is None
        node.now += 2 * while_s - 0.1
        assert node.returned(passed) == [SMALL]
        node.demand(SMALL, 0)
        node.now += 0.1
        assert node.returned(passed + 1) == []


def test_demand_that_held_others_back_in_vain_is_kept_for_again() -> None:
    node = Node(CPU=2)
    first, second = fill(node, 2)
    let_wait(node, shape(CPU=2))
    node.demand(SMALL, 9)
    assert node.returned(first) == []
    node.now += PASSED_S
    (third,) = node.bind(node.tell(LeasesTicked()))
    node.now += PASSED_S
    assert node.returned(second) == [SMALL]
    node.now += PASSED_S
    assert node.returned(third) == []
    assert node.returned(4) == [LARGE]


def test_what_is_kept_is_not_available_and_why_says_for_whom() -> None:
    node = Node(CPU=4)
    first, second, *_ = fill(node, 4, task_name="count")
    node.demand(LARGE, 1, shape(CPU=4), task_name="train")
    node.now += 1.5
    node.demand(SMALL, 3, task_name="count")
    node.returned(first)
    node.returned(second)
    node.now += 0.25
    assert node.free() == {"CPU": 2.0}
    assert node.available() == {}
    assert node.why(CPU=1) == [
        "needs CPU 1, this node has 2 free, kept for others",
        "kept for tasks of train: needs CPU 4, this node has 2 free; has waited 1.8 s",
        "3 wait for this, the longest for 0.2 s; 1 demands are before it",
    ]
    assert node.why(CPU=4) == [
        "needs CPU 4, this node has 2 free, kept for this",
        "1 wait for this, the longest for 1.8 s; 0 demands are before it",
        "CPU 2 in use by tasks of count",
    ]


def test_what_is_available_changes_with_events_and_at_the_times_that_are_told() -> None:
    node = Node(CPU=4)
    first, *_ = fill(node, 4)
    assert node.leases.same_until(node.now) == float("inf")
    node.demand(LARGE, 1, shape(CPU=4))
    late_at = node.leases.same_until(node.now)
    before = node.leases.events
    node.returned(first)
    assert node.leases.events == before + 1
    assert node.available() == {"CPU": 1.0}
    node.now = late_at
    assert node.available() == {}
    node.demand(SMALL)
    kept_until = node.leases.same_until(node.now)
    assert kept_until > late_at
    node.now = kept_until
    assert node.available() == {"CPU": 1.0}


def test_what_a_late_demand_does_not_need_is_available() -> None:
    node = Node(CPU=4, disk=2)
    fill(node, 1, shape(disk=1))
    let_wait(node, shape(CPU=1, disk=2))
    assert node.available() == {"CPU": 3.0}
    assert node.why(CPU=3) == ["a worker process is being started"]


# ------------------------------------------------------------------ giving way


def reclaims(effects: list[Effect]) -> list[bytes]:
    return [effect.client for effect in effects if isinstance(effect, AskReclaim)]


def test_holders_are_asked_once_when_others_wait() -> None:
    node = Node(CPU=2)
    node.bind(node.demand(A, 2))
    assert reclaims(node.demand(B)) == [A]
    assert reclaims(node.demand(B, 2)) == []
    assert reclaims(node.demand(C)) == []


def test_holder_is_asked_for_a_lease_of_which_it_hears_after_it_was_asked() -> None:
    node = Node(CPU=2)
    node.bind(node.demand(A, 1))
    (late,) = grants(node.demand(A, 1))
    assert reclaims(node.demand(B, 1, shape(CPU=2))) == [A]
    assert node.tell(LeaseBound(late)) == [AskReclaim(A)]


def test_holders_are_asked_again_for_a_new_wait() -> None:
    node = Node(CPU=1)
    node.bind(node.demand(A, 1))
    assert reclaims(node.demand(B)) == [A]
    node.demand(B, 0)
    assert reclaims(node.demand(B)) == [A]


def test_holders_are_asked_again_for_a_demand_that_comes_much_later() -> None:
    node = Node(CPU=1)
    node.bind(node.demand(A, 1))
    node.demand(B)
    node.now += RECLAIM_AGAIN_S
    assert reclaims(node.demand(C)) == [A]


def test_client_is_not_asked_for_its_own_demand_of_the_same_key() -> None:
    node = Node(CPU=1)
    node.bind(node.demand(A, 1))
    assert node.demand(A, 5) == []
    assert reclaims(node.demand(A, 1, key=2)) == [A]


def test_holder_of_other_resources_is_not_asked() -> None:
    node = Node(CPU=2, devices=1)
    node.bind(node.demand(A, 1))
    node.bind(node.demand(B, 1, shape(GPU=1)))
    assert reclaims(node.demand(C, 1, shape(GPU=1))) == [B]


def test_actors_are_not_asked() -> None:
    node = Node(CPU=1)
    node.bind(node.tell(ActorWanted(b"actor", CPU)))
    assert node.demand(A) == []


def test_grant_is_contended_when_another_waits_for_the_same() -> None:
    node = Node(CPU=1)
    (held,) = node.bind(node.demand(A))
    node.demand(B)
    node.demand(C)
    (first, *_) = node.tell(LeaseReturned(held))
    assert isinstance(first, Grant)
    assert first.contended
    node.bind([first])
    (last, *_) = node.tell(LeaseReturned(first.lease))
    assert isinstance(last, Grant)
    assert not last.contended


# ------------------------------------------------------------------ devices


def devices(effects: list[Effect]) -> list[list[str]]:
    return [effect.accelerators.get("GPU", []) for effect in effects if isinstance(effect, Grant)]


def test_devices_are_lent_whole() -> None:
    node = Node(CPU=9, devices=3)
    assert devices(node.demand(A, 1, shape(GPU=2))) == [["0", "1"]]
    assert devices(node.demand(B, 1, shape(GPU=1))) == [["2"]]
    assert devices(node.demand(C, 1)) == [[]]


def test_fractions_share_the_fullest_device() -> None:
    node = Node(CPU=9, devices=2)
    assert devices(node.demand(A, 1, shape(GPU=0.25))) == [["0"]]
    assert devices(node.demand(B, 1, shape(GPU=0.5))) == [["0"]]
    assert devices(node.demand(C, 1, shape(GPU=0.5))) == [["1"]]


def test_whole_device_waits_although_the_parts_of_two_would_do() -> None:
    node = Node(CPU=9, devices=2)
    (first,) = node.bind(node.demand(A, 1, shape(GPU=0.75)))
    node.bind(node.demand(B, 1, shape(GPU=0.75)))
    assert reclaims(node.demand(C, 1, shape(GPU=0.5))) == [A, B]
    assert "free only in parts" in node.leases.explain(shape(GPU=0.5), 0)
    assert devices(node.tell(LeaseReturned(first))) == [["0"]]


def test_more_than_one_device_in_fractions_is_refused() -> None:
    (refused,) = Node(CPU=1, devices=4).demand(A, 1, shape(GPU=1.5))
    assert isinstance(refused, Refuse)
    assert refused.reason == "needs GPU 1.5: more than one device is lent whole"


# ------------------------------------------------------------------ questions


def test_explanation_names_numbers_the_queue_and_who_holds_what() -> None:
    node = Node(CPU=2)
    node.bind(node.demand(A, 1, task_name="train"))
    node.bind(node.tell(ActorWanted(b"actor", CPU, "Counter")))
    node.demand(B, 1, depth=1)
    node.demand(C, 2, shape(CPU=2))
    node.now = 4.0
    text = node.leases.explain(shape(CPU=2), node.now)
    assert text.splitlines() == [
        "needs CPU 2, this node has 0 free",
        "2 wait for this, the longest for 4.0 s; 1 demands are before it",
        "CPU 1 in use by tasks of train",
        "CPU 1 in use by actor Counter",
    ]


def test_explanation_of_what_never_fits_and_of_what_is_on_its_way() -> None:
    node = Node(CPU=1)
    assert "no node can ever hold it: needs CPU 2" in node.leases.explain(shape(CPU=2), 0)
    assert node.leases.explain(CPU, 0) == "a worker process is being started"


def test_amounts_of_a_lease() -> None:
    node = Node(CPU=1)
    (held,) = node.bind(node.demand(A))
    assert node.leases.amounts_of(held) == {"CPU": UNITS}
    assert not node.leases.is_unbound(held)
    assert not node.leases.is_unbound(held + 1)


# ------------------------------------------------------------------ when memory is short

GB = 1 << 30


def learned(memory: int, **amounts: float) -> Shape:
    """The shape of tasks that were seen to take so many GiB."""
    found = Resources({"CPU": 1, **amounts, "memory": memory * GB})
    return Shape(amounts=tuple(sorted(found.items())), is_learned=True)


def measured(room: int, width: int | None = None) -> MemoryMeasured:
    return MemoryMeasured(width, room * GB * UNITS, "7.0 GiB of 8.0 GiB in use (this machine)")


def test_tasks_start_up_to_the_width_and_all_when_it_is_gone() -> None:
    node = Node(CPU=4)
    node.bind(node.demand(A, 1))
    assert node.tell(measured(0, width=2)) == []
    (second,) = node.bind(node.demand(B, 3))
    assert node.leases.holds_back()
    assert grants(node.tell(LeaseReturned(second))) == [3]
    assert grants(node.tell(measured(0))) == [4]
    assert not node.leases.holds_back()


def test_width_is_no_reason_that_nothing_runs() -> None:
    node = Node(CPU=2)
    (parent,) = node.bind(node.demand(A, 1))
    node.tell(measured(0, width=1))
    assert grants(node.demand(B, 2)) == []
    # Who waits for others gives them the right to start.
    assert grants(node.tell(TaskBlocked(parent))) == [2]
    node.tell(TaskUnblocked(parent))
    assert grants(node.tell(LeaseReturned(2))) == []
    assert grants(node.tell(LeaseReturned(parent))) == [3]


def test_actors_start_whatever_the_width() -> None:
    node = Node(CPU=2)
    node.demand(A, 1)
    node.tell(measured(0, width=1))
    assert grants(node.tell(ActorWanted(b"actor", CPU))) == [2]


def test_who_holds_what_tasks_wait_for_when_memory_is_short_is_asked_for_it() -> None:
    node = Node(CPU=4)
    node.bind(node.demand(A, 1))
    node.tell(measured(0, width=1))
    assert node.demand(B, 1) == [AskReclaim(A)]


def test_demand_that_waits_for_a_worker_or_a_cpu_is_not_held_back_by_memory() -> None:
    node = Node(CPU=1)
    node.demand(A, 2)
    node.tell(measured(0, width=1))
    assert not node.leases.holds_back()
    node = Node()
    node.demand(A, UNBOUND_PER_DEMAND + 1, shape())
    node.tell(measured(0, width=1))
    assert not node.leases.holds_back()


def test_tasks_whose_memory_is_known_start_as_far_as_it_goes_whatever_the_width() -> None:
    node = Node(CPU=9, memory=10 * GB)
    node.tell(measured(7, width=1))
    assert grants(node.demand(A, 9, learned(2))) == [1, 2, 3]
    assert node.free() == {"CPU": 6.0, "memory": 4.0 * GB}
    assert not node.leases.holds_back()
    assert grants(node.demand(A, 9, learned(1), key=2)) == [4]
    assert grants(node.tell(measured(9))) == [5]


def test_what_is_measured_counts_for_known_tasks_not_what_users_have_asked_for() -> None:
    node = Node(CPU=9, memory=4 * GB)
    node.tell(ActorWanted(b"actor", shape(memory=4 * GB)))
    node.tell(measured(5))
    assert grants(node.demand(A, 9, learned(2))) == [2, 3]
    assert node.free() == {"CPU": 7.0, "memory": -4.0 * GB}
    # That of tasks does, too: they may not have taken it yet.
    node.tell(measured(20))
    assert grants(node.demand(B, 9, shape(memory=3 * GB))) == []


def test_one_task_starts_also_where_its_memory_is_not_left() -> None:
    node = Node(CPU=4, memory=8 * GB)
    node.tell(measured(0))
    assert grants(node.demand(A, 2, learned(8))) == [1]
    assert grants(node.tell(TaskBlocked(1))) == [2]
    node.tell(TaskUnblocked(1))
    assert node.free() == {"CPU": 2.0, "memory": -8.0 * GB}


def test_once_one_starts_although_memory_is_short_when_those_that_run_seem_to_wait() -> None:
    for wanted in (CPU, learned(2)):
        node = Node(CPU=4, memory=8 * GB)
        node.bind(node.demand(A, 1))
        words = "all of it in use"
        node.tell(MemoryMeasured(1, 0, words))
        assert grants(node.demand(B, 2, wanted)) == []
        assert grants(node.tell(MemoryMeasured(1, 0, words, lets_one_pass=True))) == [2]
        assert grants(node.tell(MemoryMeasured(1, 0, words))) == []


def test_task_that_waits_for_others_lends_them_the_memory_that_it_was_seen_to_take() -> None:
    node = Node(CPU=4, memory=8 * GB)
    node.tell(measured(8))
    node.bind(node.demand(A, 2, learned(4)))
    node.demand(B, 1, learned(4))
    assert node.leases.memory_of(1) == 4 * GB * UNITS
    assert not node.leases.is_blocked(1)
    assert grants(node.tell(TaskBlocked(1))) == [3]
    assert node.leases.memory_of(1) == 0
    assert node.leases.is_blocked(1)


def test_why_says_how_much_memory_is_left_and_how_many_may_run() -> None:
    node = Node(CPU=4, memory=8 * GB)
    in_use = "7.0 GiB of 8.0 GiB in use (this machine)"
    node.tell(measured(5, width=1))
    node.demand(A, 1)
    node.demand(B, 2, learned(4))
    assert node.leases.explain(learned(4), node.now).splitlines() == [
        "needs 4.0 GiB of memory, as such tasks did before, and 1.0 GiB are left, " + in_use,
        "1 wait for this, the longest for 0.0 s; 0 demands are before it",
    ]
    node.demand(C, 1)
    assert node.leases.explain(CPU, node.now).splitlines() == [
        f"memory is short, {in_use}: not more than 1 tasks at once",
        "1 wait for this, the longest for 0.0 s; 1 demands are before it",
    ]
    node.demand(C, 9, learned(4, CPU=5))
    assert "needs CPU 5, this node has 4" in node.leases.explain(learned(4, CPU=5), node.now)


def test_why_says_no_numbers_before_there_are_any() -> None:
    node = Node(CPU=4, memory=8 * GB)
    node.demand(A, 3, learned(4))
    assert node.leases.explain(learned(4), node.now).splitlines()[0] == (
        "needs 4.0 GiB of memory, as such tasks did before, and 0 bytes are left"
    )


# ------------------------------------------------------------------ any order of events


# ------------------------------------------------------------------ many that are alike

CROWD = [b"%03d" % number for number in range(3 * WINDOW)]


def crowded(**amounts: float) -> Node:
    """A node whose one CPU is in use, and more demands alike than are looked at."""
    node = Node(CPU=1, **amounts)
    node.bind(node.demand(A))
    for client in CROWD:
        assert clients(node.demand(client)) == []
    return node


def test_demands_alike_are_granted_in_the_order_in_which_they_came() -> None:
    node = crowded()
    for number, client in enumerate(CROWD, 1):
        assert node.returned(number) == [client]


def test_several_that_are_freed_at_once_go_to_several_of_a_crowd() -> None:
    node = Node(CPU=2 * WINDOW)
    node.bind(node.demand(A, 1, shape(CPU=2 * WINDOW)))
    for client in CROWD:
        node.demand(client)
    assert node.returned(1) == CROWD[: 2 * WINDOW]


def test_late_ones_of_a_crowd_go_in_order_too() -> None:
    node = Node(CPU=2 * WINDOW)
    node.bind(node.demand(A, 1, shape(CPU=2 * WINDOW)))
    for client in CROWD:
        node.demand(client)
    node.now = 2 * PASSED_S
    assert node.returned(1) == CROWD[: 2 * WINDOW]


def test_granted_demand_goes_behind_the_whole_crowd() -> None:
    node = Node(CPU=1)
    node.bind(node.demand(A))
    node.demand(B, 2)
    for client in CROWD:
        node.demand(client)
    got = [client for number in range(1, len(CROWD) + 3) for client in node.returned(number)]
    assert got == [B, *CROWD, B]


def test_demand_of_another_kind_passes_a_crowd() -> None:
    node = crowded(disk=1)
    assert clients(node.demand(B, 1, shape(disk=1))) == [B]
    node.demand(C, depth=3)
    assert node.returned(1) == [C]


def test_one_of_a_crowd_keeps_its_place_when_it_wants_more_and_leaves_when_it_goes() -> None:
    node = crowded()
    node.demand(CROWD[1], 2)
    node.demand(CROWD[-1], 2)
    for client in CROWD[2:-1]:
        node.tell(ClientGone(client))
    assert node.leases.waiting() == [
        (CROWD[0], 1, CPU, 1),
        (CROWD[1], 1, CPU, 2),
        (CROWD[-1], 1, CPU, 2),
    ]
    got = [client for number in range(1, 6) for client in node.returned(number)]
    assert got == [CROWD[0], CROWD[1], CROWD[-1], CROWD[1], CROWD[-1]]


def test_one_of_a_crowd_whose_depth_changes_is_of_another() -> None:
    node = crowded()
    node.demand(CROWD[-1], depth=1)
    assert node.returned(1) == [CROWD[-1]]


def test_why_counts_a_whole_crowd() -> None:
    node = crowded()
    node.demand(B, 2, shape(CPU=0.5))
    assert node.why(CPU=1)[1].startswith(f"{len(CROWD)} wait for this")
    assert node.why(CPU=0.5)[1].endswith(f"{len(CROWD)} demands are before it")


class LeaseStories(RuleBasedStateMachine):
    """The machine against a plain account of what was granted and returned."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(CPU=3, devices=2, memory=4 * GB)
        self.unbound: dict[int, Grant] = {}
        self.bound: dict[int, Grant] = {}
        self.doomed: set[int] = set()
        self.depth_of: dict[tuple[bytes, int], int] = {}

    def tell(self, event: Event) -> None:
        self.node.now += 0.01
        granted = []
        for effect in self.node.tell(event):
            match effect:
                case Grant(lease):
                    assert lease not in self.unbound
                    assert lease not in self.bound
                    self.unbound[lease] = effect
                    granted.append(effect)
                case CancelGrant(lease):
                    del self.unbound[lease]
                case KillLease(lease):
                    assert lease in self.bound
                    self.doomed.add(lease)
                case Refuse() | AskReclaim():
                    pass
        self.check_order(granted)

    def check_order(self, granted: list[Grant]) -> None:
        """Of demands alike, none was granted while a deeper one waited."""
        for wanted in {grant.shape for grant in granted}:
            depths = [self.depth_of[g.client, g.key] for g in granted if g.shape == wanted]
            assert depths == sorted(depths, reverse=True)
            unbound = Counter((grant.client, grant.key) for grant in self.unbound.values())
            waiting = [
                self.depth_of[client, key]
                for client, key, other, _ in self.node.leases.waiting()
                if other == wanted and unbound[client, key] < UNBOUND_PER_DEMAND
            ]
            assert max(waiting, default=0) <= min(depths)

    @rule(why=st.sampled_from(["", "its driver is slow"]))
    def withholds(self, why: str) -> None:
        self.tell(JobWithheld(b"", why))
        assert not (why and self.unbound)

    @rule(
        client=st.sampled_from([A, B, C]),
        key=st.integers(1, 2),
        wanted=st.sampled_from(
            [
                CPU,
                shape(CPU=2),
                shape(CPU=0.5),
                shape(GPU=0.5),
                shape(GPU=1),
                shape(CPU=1, GPU=2),
                shape(),
                learned(2),
            ]
        ),
        workers=st.integers(0, 20),
        depth=st.integers(0, 3),
    )
    def demands(self, client: bytes, key: int, wanted: Shape, workers: int, depth: int) -> None:
        self.depth_of[client, key] = depth
        self.tell(Demanded(client, key, wanted, workers, depth))
        unbound = sum((g.client, g.key) == (client, key) for g in self.unbound.values())
        waiting = sum(n for c, k, _, n in self.node.leases.waiting() if (c, k) == (client, key))
        assert unbound + waiting == workers

    @rule(actor=st.sampled_from([b"actor 1", b"actor 2"]), gpu=st.sampled_from([0, 0.5]))
    def wants_actor(self, actor: bytes, gpu: float) -> None:
        self.depth_of[actor, ACTOR_KEY] = 99
        self.tell(ActorWanted(actor, shape(CPU=1, GPU=gpu)))

    @rule(actor=st.sampled_from([b"actor 1", b"actor 2"]))
    def ends_actor(self, actor: bytes) -> None:
        self.tell(ActorEnded(actor))

    @precondition(lambda self: self.unbound)
    @rule(data=st.data())
    def binds(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.unbound)))
        self.bound[lease] = self.unbound.pop(lease)
        self.tell(LeaseBound(lease))

    @precondition(lambda self: self.bound)
    @rule(data=st.data())
    def returns(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.bound)))
        del self.bound[lease]
        self.doomed.discard(lease)
        self.tell(LeaseReturned(lease))

    @precondition(lambda self: self.bound)
    @rule(data=st.data(), blocked=st.booleans())
    def blocks(self, data: st.DataObject, blocked: bool) -> None:
        lease = data.draw(st.sampled_from(sorted(self.bound)))
        self.tell(TaskBlocked(lease) if blocked else TaskUnblocked(lease))

    @rule(room=st.integers(0, 4), width=st.sampled_from([None, None, 1, 2]))
    def memory_changes(self, room: int, width: int | None) -> None:
        self.tell(measured(room, width))

    @rule(client=st.sampled_from([A, B, C]))
    def goes(self, client: bytes) -> None:
        self.tell(ClientGone(client))
        assert all(
            grant.client != client or lease in self.doomed for lease, grant in self.bound.items()
        )

    @invariant()
    def same_is_available_until_then(self) -> None:
        leases, now = self.node.leases, self.node.now
        until = min(leases.same_until(now), now + 100.0)
        assert leases.available(now + 0.999 * (until - now)) == leases.available(now)

    @invariant()
    def never_over_granted(self) -> None:
        lent = Resources()
        for grant in (*self.unbound.values(), *self.bound.values()):
            lent += Resources.of_units(dict(grant.shape.amounts))
        assert lent.get("GPU", 0) <= 2 * UNITS

    @invariant()
    def nothing_is_lost(self) -> None:
        if not self.unbound and not self.bound:
            assert self.node.leases.free == self.node.leases.total

    def teardown(self) -> None:
        for client in (A, B, C):
            self.tell(ClientGone(client))
        for actor in (b"actor 1", b"actor 2"):
            self.tell(ActorEnded(actor))
        for lease in list(self.bound):
            del self.bound[lease]
            self.tell(LeaseReturned(lease))
        assert not self.unbound
        assert self.node.leases.free == self.node.leases.total


class LateLeaseStories(LeaseStories):
    """Time passes as well."""

    @rule(seconds=st.sampled_from([0.3, PASSED_S, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.node.now += seconds
        at = self.node.leases.wake_at()
        if at is not None and at <= self.node.now:
            self.tell(LeasesTicked())

    @override
    def check_order(self, granted: list[Grant]) -> None:
        """Late demands have changed it."""


class NarrowLeaseStories(LateLeaseStories):
    """One demand of each kind is looked at."""

    def __init__(self) -> None:
        lanes.WINDOW = 1
        super().__init__()

    @override
    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            lanes.WINDOW = WINDOW


TestNarrowLeaseStories = NarrowLeaseStories.TestCase
TestNarrowLeaseStories.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, database=None
)
TestLeaseStories = LeaseStories.TestCase
TestLateLeaseStories = LateLeaseStories.TestCase
TestLateLeaseStories.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, database=None
)
TestLeaseStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)


NEEDS = st.sampled_from(
    [
        shape(CPU=0.5),
        CPU,
        shape(CPU=2),
        shape(CPU=4),
        shape(GPU=0.5),
        shape(GPU=1),
        shape(GPU=2),
        shape(CPU=4, GPU=2),
        shape(CPU=0.5, GPU=0.5),
    ]
)
STEP_S = 0.25
LONGEST_S = 3.0
DURATIONS = st.sampled_from([STEP_S, 3 * STEP_S, LONGEST_S])


@given(
    wanted=NEEDS,
    depth=st.integers(0, 2),
    stream=st.lists(st.tuples(NEEDS, st.integers(0, 3)), min_size=1, max_size=6),
    durations=st.lists(DURATIONS, min_size=1),
)
@settings(deadline=None)
def test_no_demand_waits_for_ever_while_leases_are_returned(
    wanted: Shape, depth: int, stream: list[tuple[Shape, int]], durations: list[float]
) -> None:
    """However many others come, small or large, deep or not, for as long as they like."""
    node = Node(CPU=4, devices=2)
    lasts_s = itertools.cycle(durations)
    ends_at: dict[int, float] = {}
    granted: set[bytes] = set()

    def start(effects: list[Effect]) -> None:
        granted.update(clients(effects))
        for number in grants(effects):
            ends_at[number] = node.now + next(lasts_s)
            start(node.tell(LeaseBound(number)))

    for step in range(400):
        for key, (need, deep) in enumerate(stream):
            start(node.demand(SMALL, 4, need, key=key, depth=deep))
        if step == 4:
            start(node.demand(LARGE, 1, wanted, depth=depth))
        if LARGE in granted:
            return
        node.now += STEP_S
        for number in [number for number, at in ends_at.items() if at <= node.now]:
            del ends_at[number]
            start(node.tell(LeaseReturned(number)))
    raise AssertionError(f"{wanted} has waited for {node.now} s")
