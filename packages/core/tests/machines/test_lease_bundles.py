"""The queue of leases with bundles of placement groups in it."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft._ids import NodeId, PlacementGroupId
from weft._machines.headroom import MemoryMeasured
from weft._machines.leases import (
    ACTOR_KEY,
    ActorWanted,
    AmountsDropped,
    AmountsLent,
    AmountsWanted,
    AskReclaim,
    BundleClosed,
    BundleEmpty,
    BundleOpened,
    CancelGrant,
    ClientGone,
    Demanded,
    Effect,
    EnvironmentFailed,
    Event,
    Grant,
    GroupGone,
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
from weft._machines.open_bundles import BundleKey
from weft._machines.placement import NodeView
from weft._resources import UNITS, Resources
from weft._specs import Shape

A, B = b"client a", b"client b"
G, H = PlacementGroupId(b"g" * 16), PlacementGroupId(b"h" * 16)
FIRST, SECOND = BundleKey(G, 7, 0), BundleKey(G, 7, 1)
GB = 10**9


def shape(group: PlacementGroupId | None = None, index: int | str = "any", **amounts: Any) -> Shape:
    facts = {name: amounts.pop(name) for name in ("env", "is_learned") if name in amounts}
    strategy = "DEFAULT" if group is None else f"group:{group.hex()}:{index}"
    return Shape(tuple(sorted(Resources(amounts).items())), strategy, **facts)


class Node:
    """Leases that are checked after every event."""

    def __init__(self, devices: int = 0, **amounts: float) -> None:
        if devices:
            amounts["GPU"] = devices
        total = Resources(amounts)
        view = NodeView(NodeId(b"n" * 16), total, total, {"disk": "ssd"}, is_local=True)
        self.leases = Leases(view, {"GPU": [str(i) for i in range(devices)]} if devices else None)
        self.now = 0.0

    def tell(self, event: Event) -> list[Effect]:
        effects = self.leases.handle(event, self.now)
        self.leases.check()
        return effects

    def demand(
        self, wanted: Shape, workers: int = 1, client: bytes = A, key: int = 1
    ) -> list[Effect]:
        return self.tell(Demanded(client, key, wanted, workers))

    def granted(self, wanted: Shape, client: bytes = A, key: int = 1) -> Grant:
        (grant,) = self.demand(wanted, 1, client, key)
        assert isinstance(grant, Grant)
        self.tell(LeaseBound(grant.lease))
        return grant

    def open(self, bundle: BundleKey, size: int = 1, **amounts: float) -> None:
        assert AmountsLent(bundle) in self.tell(AmountsWanted(bundle, Resources(amounts)))
        self.tell(BundleOpened(bundle, size))

    def open_two(self) -> None:
        self.open(FIRST, 2, CPU=1)
        self.open(SECOND, 2, CPU=2)

    def free(self) -> dict[str, float]:
        return self.leases.available(self.now).to_floats()

    def free_in(self, bundle: BundleKey) -> dict[str, float]:
        return self.leases.bundles.free_in(bundle).to_floats()

    def why(self, wanted: Shape) -> list[str]:
        return self.leases.explain(wanted, self.now).splitlines()


def grants(effects: list[Effect]) -> list[int]:
    return [effect.lease for effect in effects if isinstance(effect, Grant)]


# ------------------------------------------------------------------ amounts


def test_bundles_of_a_job_that_is_withheld_have_what_they_need() -> None:
    node = Node(CPU=2)
    node.tell(JobWithheld(b"slow", "why"))
    assert node.tell(AmountsWanted(FIRST, Resources({"CPU": 1}), b"slow")) == [AmountsLent(FIRST)]
    node.tell(JobWithheld(b"slow", "why again"))
    assert node.free().get("CPU") == 1


def test_bundle_that_is_closed_without_a_word_is_closed() -> None:
    node = Node(CPU=2)
    node.open(FIRST, CPU=1)
    assert node.tell(BundleClosed(FIRST, "")) == [BundleEmpty(FIRST)]


def test_bundle_takes_its_amounts_from_the_node_before_any_task() -> None:
    node = Node(CPU=4)
    task = node.granted(shape(CPU=4))
    assert node.demand(shape(CPU=1), 9, B) == [AskReclaim(A)]
    assert node.tell(AmountsWanted(FIRST, Resources({"CPU": 2}))) == []
    assert node.leases.lasting == Resources()
    assert AmountsLent(FIRST) in node.tell(LeaseReturned(task.lease))
    assert node.leases.lasting == Resources({"CPU": 2})


def test_open_bundles_are_shown_by_group_and_index() -> None:
    node = Node(CPU=4)
    assert node.leases.bundles.views() == {}
    node.open_two()
    views = node.leases.bundles.views()
    totals = {index: view.total.to_floats() for index, view in views.pop(G).items()}
    assert totals == {FIRST.index: {"CPU": 1}, SECOND.index: {"CPU": 2}}
    assert views == {}


def test_amounts_that_are_not_wanted_any_more_are_free_again() -> None:
    node = Node(CPU=2)
    node.tell(AmountsWanted(FIRST, Resources({"CPU": 2})))
    assert node.tell(AmountsWanted(SECOND, Resources({"CPU": 1}))) == []
    assert node.tell(AmountsDropped(SECOND)) == []
    assert node.tell(AmountsDropped(FIRST)) == []
    assert node.free() == {"CPU": 2}
    assert node.leases.lasting == Resources()


# ------------------------------------------------------------------ who gets in


def test_demand_of_a_group_waits_until_a_bundle_is_open() -> None:
    node = Node(CPU=4)
    assert node.demand(shape(G, CPU=1)) == []
    assert node.tell(AmountsWanted(FIRST, Resources({"CPU": 1}))) == [AmountsLent(FIRST)]
    assert grants(node.tell(BundleOpened(FIRST, 1))) == [2]
    assert node.free() == {"CPU": 3}
    assert node.free_in(FIRST) == {}


def test_demand_without_amounts_waits_for_its_bundle_too() -> None:
    node = Node(CPU=4)
    assert node.demand(shape(G, 1)) == []
    node.open(FIRST, 2, CPU=1)
    assert node.leases.waiting()
    node.tell(AmountsWanted(SECOND, Resources({"CPU": 1})))
    assert len(grants(node.tell(BundleOpened(SECOND, 2)))) == 1


def test_demand_goes_to_its_bundle_and_others_stay_out() -> None:
    node = Node(CPU=3)
    node.open_two()
    assert node.demand(shape(CPU=1), client=B) == []
    assert len(grants(node.demand(shape(G, 1, CPU=1), 9))) == 2
    assert node.free_in(FIRST) == {"CPU": 1}
    assert node.free_in(SECOND) == {}
    assert node.demand(shape(H, CPU=1), key=2) == []


def test_demand_for_any_bundle_goes_to_the_fullest_that_has_it_free() -> None:
    node = Node(CPU=5)
    node.open_two()
    node.open(BundleKey(G, 7, 2), 3, CPU=2)
    node.granted(shape(G, 2, CPU=1), key=2)
    node.granted(shape(G, CPU=0.5), key=3)
    assert node.free_in(BundleKey(G, 7, 2)) == {"CPU": 0.5}
    node.granted(shape(G, CPU=1), key=4)
    assert node.free_in(FIRST) == {}
    node.granted(shape(G, CPU=2), key=5)
    assert node.free_in(SECOND) == {}


def test_lease_that_is_returned_lets_the_next_one_into_the_bundle() -> None:
    node = Node(CPU=3)
    node.open_two()
    one = node.granted(shape(G, 0, CPU=1))
    assert node.demand(shape(G, 0, CPU=1), client=B) == [AskReclaim(A)]
    assert grants(node.tell(LeaseReturned(one.lease))) == [one.lease + 1]


def test_blocked_task_lends_its_cpu_to_its_bundle_alone() -> None:
    node = Node(CPU=3)
    node.open_two()
    one = node.granted(shape(G, 0, CPU=1))
    node.demand(shape(CPU=1), client=B)
    assert node.tell(TaskBlocked(one.lease)) == []
    two = node.granted(shape(G, 0, CPU=1), key=2)
    node.tell(TaskUnblocked(one.lease))
    assert node.free_in(FIRST) == {"CPU": -1}
    node.tell(LeaseReturned(two.lease))
    assert node.free_in(FIRST) == {}


@pytest.mark.parametrize("index", ["any", 0])
def test_demand_that_no_bundle_can_hold_is_refused_when_all_are_here(index: int | str) -> None:
    node = Node(CPU=3)
    node.open_two()
    wanted = shape(G, index, CPU=3)
    (refused,) = node.demand(wanted)
    assert isinstance(refused, Refuse)
    assert refused.reason.startswith("needs CPU 3, bundle 0 has 1")
    assert refused.kind == "unschedulable"


def test_demand_waits_while_not_all_bundles_are_known_here() -> None:
    node = Node(CPU=3)
    node.open(FIRST, 2, CPU=1)
    assert node.demand(shape(G, CPU=3)) == []
    (line, *_) = node.why(shape(G, CPU=3))
    assert line == "needs CPU 3, bundle 0 has 1"


# ------------------------------------------------------------------ devices, memory


def test_bundle_has_devices_of_its_own() -> None:
    node = Node(3, CPU=3)
    node.open(FIRST, 2, GPU=2)
    node.open(SECOND, 2, GPU=0.5)
    assert node.granted(shape(G, 0, GPU=1), key=1).accelerators == {"GPU": ["0"]}
    assert node.granted(shape(G, 0, GPU=0.5), key=2).accelerators == {"GPU": ["1"]}
    assert node.granted(shape(G, 1, GPU=0.25), key=3).accelerators == {"GPU": ["2"]}
    assert node.granted(shape(GPU=0.5), key=4).accelerators == {"GPU": ["2"]}
    assert node.demand(shape(G, 1, GPU=0.5), client=B) == [AskReclaim(A)]
    (first, *_) = node.why(shape(G, 1, GPU=0.5))
    assert first == "needs GPU 0.5, bundle 1 has 0.25 free"


def test_memory_that_tasks_were_seen_to_take_is_no_part_of_a_bundle() -> None:
    node = Node(CPU=2, memory=4 * GB)
    node.open(FIRST, 1, CPU=2)
    one = node.granted(shape(G, CPU=1, memory=3 * GB, is_learned=True))
    assert node.leases.memory_of(one.lease) == 3 * GB * UNITS
    assert node.free() == {"memory": 4 * GB}
    node.tell(MemoryMeasured(None, 4 * GB * UNITS, ""))
    waits = node.demand(shape(G, CPU=1, memory=2 * GB, is_learned=True), key=2)
    assert grants(waits) == []
    (line, *_) = node.why(shape(G, CPU=1, memory=2 * GB, is_learned=True))
    assert line.startswith("needs 1.9 GiB of memory, as such tasks did before")
    node.tell(TaskBlocked(one.lease))
    assert node.leases.memory_of(one.lease) == 0
    assert node.leases.amounts_of(one.lease) == {"CPU": UNITS, "memory": 3 * GB * UNITS}


# ------------------------------------------------------------------ the end


def test_closed_bundle_is_empty_when_all_that_ran_in_it_has_ended() -> None:
    node = Node(CPU=3)
    node.open_two()
    one, two = (node.granted(shape(G, 1, CPU=1), key=key) for key in (1, 2))
    node.tell(TaskBlocked(one.lease))
    killed = [KillLease(lease, "why") for lease in (one.lease, two.lease)]
    assert node.tell(BundleClosed(SECOND, "why")) == killed
    assert node.tell(BundleClosed(SECOND, "again")) == [
        KillLease(lease, "again") for lease in (one.lease, two.lease)
    ]
    node.tell(TaskUnblocked(one.lease))
    assert node.tell(LeaseReturned(one.lease)) == []
    assert node.tell(LeaseReturned(two.lease)) == [BundleEmpty(SECOND)]
    assert node.free() == {}
    node.tell(AmountsDropped(SECOND))
    assert node.free() == {"CPU": 2}


def test_nothing_is_let_into_a_closed_bundle_while_it_empties() -> None:
    node = Node(CPU=3)
    node.open_two()
    one = node.granted(shape(G, 0, CPU=0.5))
    node.demand(shape(G, 0, CPU=1), key=2)
    node.tell(BundleClosed(FIRST, "why"))
    assert node.demand(shape(G, 0), key=3) == []
    assert node.tell(LeaseReturned(one.lease)) == [BundleEmpty(FIRST)]
    assert len(node.leases.waiting()) == 2


def test_empty_bundle_is_closed_at_once() -> None:
    node = Node(CPU=3)
    node.open_two()
    assert node.tell(BundleClosed(FIRST, "why")) == [BundleEmpty(FIRST)]
    assert node.tell(BundleClosed(FIRST, "why")) == []


def test_grant_without_a_worker_waits_again_when_its_bundle_is_closed() -> None:
    node = Node(CPU=3)
    node.open_two()
    effects = node.demand(shape(G, 1, CPU=1), 3)
    cancelled = [CancelGrant(lease) for lease in grants(effects)]
    assert node.tell(BundleClosed(SECOND, "why")) == [*cancelled, BundleEmpty(SECOND)]
    assert node.leases.waiting() == [(A, 1, shape(G, 1, CPU=1), 3)]
    node.tell(AmountsDropped(SECOND))
    node.open(BundleKey(G, 8, 1), 2, CPU=2)
    assert node.leases.waiting() == [(A, 1, shape(G, 1, CPU=1), 1)]


def test_single_grant_without_a_worker_waits_again_too() -> None:
    node = Node(CPU=3)
    node.open_two()
    node.demand(shape(G, 0, CPU=1))
    node.tell(BundleClosed(FIRST, "why"))
    assert node.leases.waiting() == [(A, 1, shape(G, 0, CPU=1), 1)]


def test_group_that_ends_refuses_who_waits_for_it() -> None:
    node = Node(CPU=3)
    node.open_two()
    node.demand(shape(G, 0, CPU=1), 2, key=1)
    node.demand(shape(G, CPU=1, env="x"), 1, key=2)
    node.demand(shape(H, CPU=1), key=3)
    effects = node.tell(GroupGone(G, "it was removed"))
    refused = [effect for effect in effects if isinstance(effect, Refuse)]
    assert {(each.key, each.kind) for each in refused} == {
        (1, "placement_group"),
        (2, "placement_group"),
    }
    assert len([effect for effect in effects if isinstance(effect, CancelGrant)]) == 2
    assert [key for _, key, _, _ in node.leases.waiting()] == [3]


def test_group_that_ends_refuses_its_actors_also_those_that_live() -> None:
    node = Node(CPU=3)
    node.open_two()
    (grant,) = grants(node.tell(ActorWanted(b"actor", shape(G, 0, CPU=1))))
    node.tell(LeaseBound(grant))
    node.granted(shape(G, 1, CPU=1))
    assert node.leases.lasting == Resources({"CPU": 3})
    assert node.tell(GroupGone(G, "why")) == [Refuse(b"actor", ACTOR_KEY, "placement_group", "why")]


def test_environment_that_cannot_be_built_takes_back_what_was_granted_in_a_bundle() -> None:
    node = Node(CPU=3)
    node.open_two()
    node.demand(shape(G, 0, CPU=1, env="x"))
    effects = node.tell(EnvironmentFailed("x", "why"))
    assert [type(effect) for effect in effects] == [CancelGrant, Refuse]
    assert node.free_in(FIRST) == {"CPU": 1}


# ------------------------------------------------------------------ why


def test_explanation_has_the_bundle_and_who_is_in_it() -> None:
    node = Node(CPU=3)
    node.open_two()
    node.tell(Demanded(A, 1, shape(G, 0, CPU=1), 1, task_name="f"))
    node.demand(shape(G, 0, CPU=1), client=B)
    assert node.why(shape(G, 0, CPU=1)) == [
        "needs CPU 1, bundle 0 has 0 free",
        "1 wait for this, the longest for 0.0 s; 0 demands are before it",
        "CPU 1 in use by tasks of f",
    ]
    assert node.why(shape(G, 2, CPU=1))[0] == (
        f"needs bundle 2 of placement group {G.hex()}, this node has none"
    )


def test_explanation_of_who_waits_for_the_node_names_the_bundles_that_have_it() -> None:
    node = Node(CPU=3)
    node.open_two()
    node.demand(shape(CPU=3))
    assert node.why(shape(CPU=3))[2:] == [
        f"CPU 1 in use by bundle 0 of placement group {G.hex()}",
        f"CPU 2 in use by bundle 1 of placement group {G.hex()}",
    ]


def test_explanation_of_a_grant_says_that_its_worker_is_being_started() -> None:
    node = Node(CPU=3)
    node.open_two()
    assert node.why(shape(G, 0, CPU=1)) == ["a worker process is being started"]


# ------------------------------------------------------------------ stories


class LentBundleStories(RuleBasedStateMachine):
    """Bundles come and go while tasks and actors run in them and beside them."""

    keys = st.sampled_from([BundleKey(G, 1, 0), BundleKey(G, 1, 1), BundleKey(H, 1, 0)])
    shapes = st.sampled_from(
        [
            shape(CPU=1),
            shape(GPU=0.5),
            shape(G, CPU=1),
            shape(G, 0, CPU=0.5),
            shape(G, 1, GPU=0.5),
            shape(G, GPU=1),
            shape(H),
            shape(H, CPU=1, memory=2 * GB, is_learned=True),
        ]
    )

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(2, CPU=4, memory=4 * GB)
        self.unbound: dict[int, Grant] = {}
        self.bound: dict[int, Grant] = {}
        self.step: dict[BundleKey, str] = {}
        """wanted, lent, open, closed, empty."""

    def tell(self, event: Event) -> None:
        self.node.now += 0.01
        for effect in self.node.tell(event):
            match effect:
                case Grant(lease):
                    self.unbound[lease] = effect
                case CancelGrant(lease):
                    del self.unbound[lease]
                case KillLease(lease):
                    assert lease in self.bound
                case AmountsLent(bundle):
                    assert self.step[bundle] == "wanted"
                    self.step[bundle] = "lent"
                case BundleEmpty(bundle):
                    assert self.step[bundle] == "closed"
                    self.step[bundle] = "empty"
                case Refuse() | AskReclaim():
                    pass

    @rule(bundle=keys, cpu=st.sampled_from([0, 1, 2]), gpu=st.sampled_from([0, 0.5, 1]))
    def wants_amounts(self, bundle: BundleKey, cpu: float, gpu: float) -> None:
        if bundle not in self.step and cpu + gpu:
            self.step[bundle] = "wanted"
            self.tell(AmountsWanted(bundle, Resources({"CPU": cpu, "GPU": gpu})))

    @rule(bundle=keys)
    def goes_on(self, bundle: BundleKey) -> None:
        match self.step.get(bundle):
            case "lent":
                self.step[bundle] = "open"
                self.tell(BundleOpened(bundle, 2 if bundle.group == G else 1))
            case "open":
                self.step[bundle] = "closed"
                self.tell(BundleClosed(bundle, "it is not needed"))
            case "empty":
                del self.step[bundle]
                self.tell(AmountsDropped(bundle))

    @rule(bundle=keys)
    def drops_amounts(self, bundle: BundleKey) -> None:
        if self.step.get(bundle) in ("wanted", "lent"):
            del self.step[bundle]
            self.tell(AmountsDropped(bundle))

    @rule(group=st.sampled_from([G, H]))
    def ends_group(self, group: PlacementGroupId) -> None:
        for bundle in [key for key, step in self.step.items() if step == "open"]:
            if bundle.group == group:
                self.close(bundle)
        self.tell(GroupGone(group, "it was removed"))
        waiting = [wanted for _, _, wanted, _ in self.node.leases.waiting()]
        assert all(group.hex() not in wanted.strategy for wanted in waiting)

    def close(self, bundle: BundleKey) -> None:
        self.step[bundle] = "closed"
        self.tell(BundleClosed(bundle, "it was removed"))

    @rule(
        client=st.sampled_from([A, B]),
        key=st.integers(1, 3),
        wanted=shapes,
        workers=st.integers(0, 4),
    )
    def demands(self, client: bytes, key: int, wanted: Shape, workers: int) -> None:
        self.tell(Demanded(client, key, wanted, workers))

    @rule(actor=st.sampled_from([b"actor 1", b"actor 2"]), wanted=shapes)
    def wants_actor(self, actor: bytes, wanted: Shape) -> None:
        if not wanted.is_learned:
            self.tell(ActorWanted(actor, wanted))

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
        self.tell(LeaseReturned(lease))

    @precondition(lambda self: self.bound)
    @rule(data=st.data(), blocked=st.booleans())
    def blocks(self, data: st.DataObject, blocked: bool) -> None:
        lease = data.draw(st.sampled_from(sorted(self.bound)))
        self.tell(TaskBlocked(lease) if blocked else TaskUnblocked(lease))

    @rule(seconds=st.sampled_from([0.5, 1.5, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.node.now += seconds
        self.tell(LeasesTicked())

    @rule(wanted=shapes)
    def is_explained(self, wanted: Shape) -> None:
        assert self.node.why(wanted)

    @rule(client=st.sampled_from([A, B]))
    def goes(self, client: bytes) -> None:
        self.tell(ClientGone(client))

    @invariant()
    def what_runs_in_a_bundle_fits_into_it(self) -> None:
        for key, step in self.step.items():
            if step == "open":
                free = self.node.leases.bundles.free_in(key)
                assert all(units >= 0 for name, units in free.items() if name != "CPU")

    def teardown(self) -> None:
        for client in (A, B, b"actor 1", b"actor 2"):
            self.tell(ClientGone(client))
        for bundle in [key for key, step in self.step.items() if step == "open"]:
            self.close(bundle)
        for lease in list(self.bound):
            del self.bound[lease]
            self.tell(LeaseReturned(lease))
        assert {*self.step.values()} <= {"wanted", "lent", "empty"}
        for bundle in self.step:
            self.tell(AmountsDropped(bundle))
        assert not self.unbound
        assert self.node.leases.free == self.node.leases.total
        assert self.node.leases.lasting == Resources()


TestLentBundleStories = LentBundleStories.TestCase
TestLentBundleStories.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
