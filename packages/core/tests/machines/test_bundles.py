from __future__ import annotations

from collections import deque
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft._ids import NodeId, PlacementGroupId
from weft._machines import bundles as bundles_module
from weft._machines import group_queue
from weft._machines.bundle_plans import BundleSpec, Strategy
from weft._machines.bundles import (
    PRESS_S,
    BundleEvent,
    Bundles,
    BundlesCommitted,
    BundlesRefused,
    BundlesReserved,
    BundlesTicked,
    CommitBundles,
    GroupCreated,
    GroupFacts,
    GroupRemoved,
    HeldBundles,
    NodeGone,
    NodeResumed,
    NodesSeen,
    OwnerEnded,
    RecoveryBegun,
    RefuseGroup,
    ReleaseBundles,
    ReserveBundles,
    TellGroup,
)
from weft._machines.group_queue import FOREVER, LATE_S, PASSED_S, ROUND_S
from weft._machines.placement import NodeView
from weft._machines.reservations import (
    AmountsGranted,
    BundleEnded,
    BundleKey,
    CommitAsked,
    ControlUnlinked,
    DropAmounts,
    EndBundle,
    OpenBundle,
    ReleaseAsked,
    ReservationEffect,
    ReservationEvent,
    Reservations,
    ReservationsTicked,
    ReserveAsked,
    TellCommitted,
    TellRefused,
    TellReserved,
    WantAmounts,
)
from weft._resources import Resources

IDS = [NodeId(bytes([97 + i] * 16)) for i in range(5)]
A, B, C, D = IDS[:4]
G, H, K = (PlacementGroupId(bytes([103 + i] * 16)) for i in range(3))
NOTHING = Resources()


def cpus(amount: float) -> Resources:
    return Resources({"CPU": amount})


class Site:
    """A node: its reservations, and its amounts."""

    def __init__(self, node_id: NodeId, incarnation: int, total: Resources, **facts: Any) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.total = total
        self.facts = facts
        self.reservations = Reservations(total)
        self.tasks = NOTHING
        """What runs outside of bundles."""
        self.actors = NOTHING
        """The same, and does not end."""
        self.taken: dict[BundleKey, Resources] = {}
        self.wanted: dict[BundleKey, Resources] = {}
        self.open: dict[BundleKey, Resources] = {}
        self.ending: list[BundleKey] = []
        self.inbox: deque[Any] = deque()
        self.outbox: deque[BundleEvent] = deque()
        self.is_linked = True

    @property
    def free(self) -> Resources:
        return self.total - self.tasks - self.actors - sum(self.taken.values(), NOTHING)

    def view(self) -> NodeView:
        bundles = self.reservations.views(lambda key: self.open[key])
        return NodeView(self.node_id, self.total, self.free, bundles=bundles, **self.facts)

    def tell(self, event: ReservationEvent, now: float) -> None:
        effects = self.reservations.handle(event, now)
        self.reservations.check()
        for effect in effects:
            self.do(effect)
        self.grant(now)

    def do(self, effect: ReservationEffect) -> None:
        at = (self.node_id, self.incarnation)
        match effect:
            case WantAmounts(bundle, amounts):
                self.wanted[bundle] = amounts
            case DropAmounts(bundle):
                assert self.wanted.pop(bundle, None) or self.taken.pop(bundle)
                self.open.pop(bundle, None)
            case OpenBundle(bundle):
                self.open[bundle] = self.taken[bundle]
            case EndBundle(bundle):
                self.ending.append(bundle)
            case TellReserved(group, attempt):
                self.outbox.append(BundlesReserved(*at, group, attempt))
            case TellRefused(group, attempt, reason):
                self.say()
                self.outbox.append(BundlesRefused(*at, group, attempt, reason))
            case TellCommitted(group, attempt):
                self.outbox.append(BundlesCommitted(*at, group, attempt))

    def grant(self, now: float) -> None:
        for bundle, amounts in list(self.wanted.items()):
            if bundle in self.wanted and amounts.fits(self.free):
                self.taken[bundle] = self.wanted.pop(bundle)
                self.tell(AmountsGranted(bundle), now)

    def say(self) -> None:
        if self.is_linked:
            self.outbox.append(NodesSeen(((self.incarnation, self.view()),)))


class World:
    """Control and its nodes, with links that are in order while they hold."""

    def __init__(
        self, *nodes: tuple[NodeId, float], press_s: float = FOREVER, **facts: Any
    ) -> None:
        self.now = 0.0
        self.press_s = press_s
        self.control = 1
        self.incarnations = 0
        self.bundles = Bundles(press_s)
        self.sites: dict[NodeId, Site] = {}
        self.told: list[TellGroup | RefuseGroup] = []
        self.journal: list[BundleEvent] = []
        self.tell(RecoveryBegun(frozenset(), self.control))
        for node_id, amount in nodes:
            self.join(node_id, cpus(amount), **facts)
        self.pump()

    # ------------------------------------------------------------ what happens

    def join(self, node_id: NodeId, total: Resources, **facts: Any) -> None:
        self.incarnations += 1
        self.sites[node_id] = Site(node_id, self.incarnations, total, **facts)
        self.sites[node_id].say()

    def die(self, node_id: NodeId) -> None:
        site = self.sites.pop(node_id)
        self.tell(NodeGone(node_id, site.incarnation))

    def unlink(self, site: Site) -> None:
        """What is on the way is lost, in both directions."""
        site.is_linked = False
        site.inbox.clear()
        site.outbox.clear()
        site.tell(ControlUnlinked(), self.now)
        site.outbox.clear()

    def relink(self, site: Site) -> None:
        site.is_linked = True
        held = site.reservations.held()
        site.say()
        site.outbox.append(NodeResumed(site.node_id, site.incarnation, held))

    def restart(self) -> None:
        for site in self.sites.values():
            self.unlink(site)
        self.control += 1
        self.bundles = Bundles(self.press_s)
        for event in self.journal:
            self.bundles.handle(event, self.now)
        nodes = frozenset((s.node_id, s.incarnation) for s in self.sites.values())
        self.tell(RecoveryBegun(nodes, self.control))
        for site in self.sites.values():
            self.relink(site)

    def create(
        self, group: PlacementGroupId, *amounts: float, strategy: Strategy = "PACK", **facts: Any
    ) -> None:
        specs = tuple(BundleSpec(cpus(amount)) for amount in amounts)
        self.command(GroupCreated(group, specs, strategy, **facts))

    def remove(self, group: PlacementGroupId) -> None:
        self.command(GroupRemoved(group, "nobody needs it"))

    def command(self, event: BundleEvent) -> None:
        self.journal.append(event)
        self.tell(event)

    def tell(self, event: BundleEvent) -> None:
        for effect in self.bundles.handle(event, self.now):
            if isinstance(effect, TellGroup | RefuseGroup):
                self.told.append(effect)
                continue
            site = self.sites.get(effect.node_id)
            if site is not None and site.is_linked and site.incarnation == effect.incarnation:
                site.inbox.append((self.control, effect))
        self.bundles.check()

    # ------------------------------------------------------------ what is delivered

    def deliver(self, site: Site) -> None:
        """Let a node hear one thing."""
        control, effect = site.inbox.popleft()
        event: ReservationEvent
        match effect:
            case ReserveBundles(_, _, group, attempt, bundles, size, job, patience_s, commits):
                at = (control, group, attempt)
                event = ReserveAsked(*at, bundles, size, patience_s, job, commits)
            case CommitBundles(group=group, attempt=attempt):
                event = CommitAsked(control, group, attempt)
            case ReleaseBundles(group=group, attempt=attempt, reason=reason):
                event = ReleaseAsked(control, group, attempt, reason)
        site.tell(event, self.now)

    def hear(self, site: Site) -> None:
        """Let control hear one thing of a node."""
        self.tell(site.outbox.popleft())

    def end_bundles(self, site: Site) -> None:
        ending, site.ending = site.ending, []
        for bundle in ending:
            site.tell(BundleEnded(bundle), self.now)

    def pump(self) -> None:
        """Deliver all that is on the way, until nothing is."""
        for _ in range(10_000):
            for site in list(self.sites.values()):
                while site.inbox:
                    self.deliver(site)
                self.end_bundles(site)
                while site.outbox:
                    self.hear(site)
            if not any(s.inbox or s.outbox or s.ending for s in self.sites.values()):
                return
        raise AssertionError("it does not come to rest")

    def report(self) -> None:
        """Let all nodes say what they have, and time pass until the next round."""
        self.pump()
        for site in self.sites.values():
            site.say()
        self.pump()
        self.pass_time(LATE_S)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for site in self.sites.values():
            site.tell(ReservationsTicked(site.free, site.free + site.tasks), self.now)
        at = self.bundles.wake_at()
        if at is not None and at <= self.now:
            self.tell(BundlesTicked())
        self.pump()

    # ------------------------------------------------------------ questions

    def facts(self, group: PlacementGroupId) -> GroupFacts:
        facts = self.bundles.facts(group)
        assert facts is not None
        return facts

    def state(self, group: PlacementGroupId) -> str:
        return self.facts(group).state

    def places(self, group: PlacementGroupId) -> dict[int, NodeId]:
        return self.facts(group).places

    def free(self) -> dict[NodeId, float]:
        return {node_id: site.free.get("CPU", 0) / 10_000 for node_id, site in self.sites.items()}


# ------------------------------------------------------------------ strategies


def test_strictly_packed_bundles_are_on_one_node_or_nowhere() -> None:
    world = World((A, 2), (B, 4))
    world.create(G, 2, 1, strategy="STRICT_PACK")
    world.create(H, 2, 1, strategy="STRICT_PACK")
    world.pump()
    assert world.places(G) == {0: B, 1: B}
    assert world.state(H) == "pending"
    assert world.bundles.explain(H, 1.0).splitlines() == [
        "pending for 1.0 s",
        (
            "all 2 bundles on one node: needs CPU 3, node 626262626262 has 1 free; "
            "needs CPU 3, node 616161616161 has 2"
        ),
    ]


def test_group_that_no_node_can_ever_hold_is_told_why() -> None:
    world = World((A, 2), (B, 4))
    fits, never = (
        GroupCreated(G, (BundleSpec(cpus(2)), BundleSpec(cpus(amount))), "STRICT_PACK")
        for amount in (2, 3)
    )
    assert world.bundles.why_never(fits) == ""
    assert "CPU" in world.bundles.why_never(never)


def test_packed_bundles_are_on_few_nodes() -> None:
    world = World((A, 2), (B, 4), (C, 1))
    world.create(G, 1, 1, 1, 1, 1, 1, strategy="PACK")
    world.pump()
    assert sorted(world.places(G).values()) == [A, A, B, B, B, B]
    assert world.free() == {A: 0, B: 0, C: 1}


def test_spread_bundles_are_on_different_nodes_while_there_are_any() -> None:
    world = World((A, 4), (B, 4))
    world.create(G, 1, 1, 1, strategy="SPREAD")
    world.pump()
    assert {*world.places(G).values()} == {A, B}


def test_strictly_spread_bundles_are_on_different_nodes_or_nowhere() -> None:
    world = World((A, 4), (B, 4))
    world.create(G, 1, 1, strategy="STRICT_SPREAD")
    world.create(H, 1, 1, 1, strategy="STRICT_SPREAD")
    world.pump()
    assert sorted(world.places(G).values()) == [A, B]
    assert world.bundles.explain(H, 0.5).splitlines() == [
        "pending for 0.5 s",
        "bundle 2: 2 nodes have other bundles of it",
        "it would not fit if all of every node were free",
    ]
    world.join(C, cpus(1))
    world.pump()
    assert sorted(world.places(H).values()) == [A, B, C]


def test_bundles_go_where_the_labels_are() -> None:
    world = World((A, 4))
    world.join(B, cpus(4), labels={"zone": "b"})
    world.pump()
    spec = BundleSpec(cpus(1), (("zone", "b"),))
    world.command(GroupCreated(G, (spec, spec), "PACK"))
    world.command(GroupCreated(H, (BundleSpec(cpus(1), (("zone", "c"),)),), "PACK"))
    world.pump()
    assert world.places(G) == {0: B, 1: B}
    assert "needs label zone=c, node 626262626262 has zone=b" in world.bundles.explain(H, 0)


def test_infeasible_group_says_in_numbers_what_no_node_has() -> None:
    world = World((A, 2), (B, 4))
    world.create(G, 1, 8)
    assert world.bundles.explain(G, 2.0).splitlines() == [
        "pending for 2.0 s",
        (
            "bundle 1: needs CPU 8, node 616161616161 has 2; needs CPU 8, node 626262626262 has 4; "
            "no node could ever hold it"
        ),
        "it would not fit if all of every node were free",
    ]


def test_draining_node_takes_no_bundles() -> None:
    world = World((A, 4), draining="idle")
    world.create(G, 1)
    world.pump()
    assert "this node takes nothing new: idle" in world.bundles.explain(G, 0)


# ------------------------------------------------------------------ reserve, commit, release


def test_group_is_ready_when_all_nodes_have_reserved_and_these_are_told_to_commit() -> None:
    world = World((A, 1), (B, 1))
    world.create(G, 1, 1)
    a, b = world.sites[A], world.sites[B]
    world.deliver(a)
    world.hear(a)
    assert not a.inbox  # nobody commits before all have reserved
    assert world.bundles.explain(G, 0) == "preparing: 1 nodes have not answered yet"
    world.deliver(b)
    assert world.state(G) == "preparing"
    world.hear(b)
    assert world.state(G) == "ready"
    for site in (a, b):
        assert not site.open
        world.deliver(site)
        assert site.open
        assert not site.outbox
    assert world.bundles.explain(G, 0) == "ready"
    assert world.told == [TellGroup(G, "pending", {}), TellGroup(G, "ready", {0: A, 1: B})]
    assert a.open
    assert b.open


def test_node_that_refuses_ends_the_attempt_and_what_others_reserved_is_released() -> None:
    world = World((A, 1), (B, 1))
    world.sites[B].tasks = cpus(1)  # which control has not heard of
    world.create(G, 1, 1)
    world.pump()
    assert world.free() == {A: 0, B: 0}
    world.pass_time(1.0)
    assert world.state(G) == "pending"
    assert world.free() == {A: 1, B: 0}
    assert world.facts(G).reason == (
        f"node {B.hex()} has refused it: needs CPU 1, this node has 0 free"
    )
    world.sites[B].tasks = NOTHING
    world.report()
    assert world.state(G) == "ready"


def test_node_that_has_refused_is_asked_again_only_after_it_has_changed() -> None:
    world = World((A, 2), (B, 1))
    a = world.sites[A]
    world.create(G, 2)
    asked = a.inbox.popleft()[1]
    refusal = BundlesRefused(A, a.incarnation, G, asked.attempt, "in parts of two devices")
    world.tell(refusal)
    assert not a.inbox
    world.pass_time(1.0)
    assert world.state(G) == "pending"
    assert "1 node has refused it" in world.bundles.explain(G, 1.0)
    a.tasks = cpus(0.5)
    a.say()
    a.tasks = NOTHING
    world.report()
    assert world.state(G) == "ready"
    world.tell(refusal)  # which is late
    assert world.state(G) == "ready"


def test_refused_group_goes_to_another_node() -> None:
    world = World((A, 2), (B, 2))
    world.sites[A].tasks = cpus(2)
    world.create(G, 2)
    world.pump()
    world.pass_time(1.0)
    assert world.places(G) == {0: B}


@pytest.mark.parametrize("delivered", range(6))
def test_group_that_is_removed_in_any_state_leaves_nothing(delivered: int) -> None:
    world = World((A, 1), (B, 1))
    world.create(G, 1, 1)
    for _ in range(delivered):
        for site in world.sites.values():
            if site.inbox:
                world.deliver(site)
                break
            if site.outbox:
                world.hear(site)
                break
    world.remove(G)
    world.remove(G)
    world.pump()
    assert world.free() == {A: 1, B: 1}
    assert world.state(G) == "removed"
    assert world.bundles.explain(G, 0) == "removed: nobody needs it"
    assert world.told[-1] == TellGroup(G, "removed", {}, "nobody needs it")
    world.create(H, 1, 1)
    world.report()
    assert world.state(H) == "ready"


@pytest.mark.parametrize("delivered", range(7))
def test_node_that_dies_in_any_state_loses_only_its_bundles(delivered: int) -> None:
    world = World((A, 1), (B, 1), (C, 1))
    world.create(G, 1, 1)
    world.pump() if delivered == 6 else None
    for _ in range(delivered):
        for site in world.sites.values():
            if site.inbox:
                world.deliver(site)
                break
            if site.outbox:
                world.hear(site)
                break
    world.die(A)
    if delivered == 6:
        assert world.state(G) == "preparing"
        assert world.places(G) == {1: B}  # which stays where it is
        assert world.told[-1] == TellGroup(G, "rescheduling", {1: B}, f"node {A.hex()} died")
    world.pump()
    world.report()
    assert sorted(world.places(G).values()) == [B, C]
    assert world.free() == {B: 0, C: 0}


# ------------------------------------------------------------------ tasks in the way


def test_group_that_finds_no_room_waits_for_tasks_to_end() -> None:
    world = World((A, 2), (B, 1), press_s=PRESS_S)
    world.sites[A].tasks = cpus(2)
    world.report()
    world.create(G, 2)
    world.report()
    assert world.state(G) == "pending"
    world.pass_time(PRESS_S)
    world.pump()
    assert world.state(G) == "preparing"
    world.sites[A].tasks = NOTHING
    world.report()
    assert world.places(G) == {0: A}


def test_group_waits_for_tasks_for_a_while_then_lets_others_pass_for_twice_as_long() -> None:
    world = World((A, 2), press_s=PRESS_S)
    world.sites[A].tasks = cpus(1)
    world.report()
    world.create(G, 2)
    world.pass_time(PRESS_S)
    world.pump()
    assert world.state(G) == "preparing"
    world.create(K, 1)
    world.report()
    assert world.state(K) == "pending"
    world.pass_time(PRESS_S)
    world.report()
    assert world.state(K) == "ready"
    assert world.state(G) == "pending"
    assert "has refused it: needs CPU 2, this node has 1 free" in world.bundles.explain(G, 0)
    world.remove(K)
    world.sites[A].tasks = NOTHING
    world.report()
    assert world.state(G) == "ready"


def test_node_where_actors_are_in_the_way_refuses_at_once_and_another_is_tried() -> None:
    world = World((A, 2), (B, 2), (C, 2), press_s=PRESS_S)
    world.sites[A].actors = cpus(2)
    world.sites[B].actors = cpus(1)
    world.sites[C].tasks = cpus(2)
    world.report()
    world.create(G, 2)
    world.pump()
    for _ in range(3):
        world.pass_time(PRESS_S)
        world.pump()
    world.sites[C].tasks = NOTHING
    world.report()
    assert world.places(G) == {0: C}


def test_group_whose_node_dies_before_it_commits_keeps_the_rest() -> None:
    world = World((A, 1), (B, 1))
    world.create(G, 1, 1)
    for site in world.sites.values():
        world.deliver(site)
        world.hear(site)
    assert world.state(G) == "ready"
    world.die(A)
    assert world.state(G) == "rescheduling"
    assert world.places(G) == {1: B}
    world.pump()
    assert world.sites[B].open
    assert world.free() == {B: 0}


def test_node_that_did_not_hear_that_it_is_to_commit_is_told_again() -> None:
    world = World((A, 1), (B, 1))
    world.create(G, 1, 1)
    a = world.sites[A]
    for site in world.sites.values():
        world.deliver(site)
        world.hear(site)
    world.unlink(a)
    assert not a.open
    world.relink(a)
    world.pump()
    assert a.open
    assert world.state(G) == "ready"


def test_lost_bundles_wait_before_others_and_keep_the_rest() -> None:
    world = World((A, 1), (B, 1))
    world.create(G, 1, 1, strategy="STRICT_SPREAD")
    world.create(H, 1)
    world.pump()
    world.die(A)
    world.pump()
    assert world.state(G) == "rescheduling"
    assert "rescheduling for" in world.bundles.explain(G, 1.0)
    assert world.places(G) == {1: B}
    world.join(C, cpus(1))
    world.pump()
    assert world.places(G) == {0: C, 1: B}
    assert world.state(H) == "pending"


def test_second_node_that_dies_while_bundles_are_rescheduled_loses_its_own_too() -> None:
    world = World((A, 1), (B, 1), (C, 1))
    world.create(G, 1, 1, 1, strategy="STRICT_SPREAD")
    world.pump()
    world.die(A)
    world.die(B)
    assert world.places(G) == {2: C}
    world.join(A, cpus(1))
    world.sites[A].say()
    while world.sites[A].outbox:
        world.hear(world.sites[A])
    world.join(D, cpus(1))
    while world.sites[D].outbox:
        world.hear(world.sites[D])
    assert world.state(G) == "preparing"
    world.die(C)
    assert world.state(G) == "rescheduling"
    world.pump()
    assert world.free() == {A: 1, D: 1}
    world.join(C, cpus(1))
    world.pump()
    assert world.state(G) == "ready"


def test_packed_group_is_mended_on_its_own_nodes_first() -> None:
    world = World((A, 2), (B, 2))
    world.create(G, 2, 1)
    world.pump()
    assert world.places(G) == {0: A, 1: B}
    world.die(A)
    world.join(C, cpus(4))
    world.pump()
    assert world.places(G) == {0: C, 1: B}
    world.die(C)
    world.create(H, 1, 1)
    world.join(D, cpus(1))
    world.pump()
    world.remove(G)
    world.report()
    assert world.state(H) == "ready"


def test_job_that_is_over_ends_its_groups_and_not_detached_ones() -> None:
    world = World((A, 3))
    world.create(G, 1, owner=b"job 1")
    world.create(H, 1, owner=b"job 2")
    world.create(K, 1)
    world.pump()
    world.command(OwnerEnded(b"job 1"))
    world.pump()
    assert [world.state(group) for group in (G, H, K)] == ["removed", "ready", "ready"]
    assert world.bundles.groups() == [H, K]


def test_group_of_a_job_that_is_over_is_not_created(monkeypatch: pytest.MonkeyPatch) -> None:
    # A node that was cut off asks again for what its driver wanted before it ended.
    monkeypatch.setattr(bundles_module, "OWNERS_KEPT", 2)
    world = World((A, 3))
    for job in (b"job 1", b"job 2", b"job 3"):
        world.command(OwnerEnded(job))
    world.create(G, 1, owner=b"job 3")
    assert world.told == [RefuseGroup(G, "the job that creates it is over", "exists")]
    again = Bundles()
    again.restore(world.bundles.state(), 0.0)
    assert again.state() == world.bundles.state()
    assert again.state().over == (b"job 2", b"job 3")
    world.create(H, 1, owner=b"job 1")
    assert world.state(H) != "removed"


# ------------------------------------------------------------------ creation


def test_repeated_creation_gets_the_same_answer() -> None:
    world = World((A, 1))
    world.create(G, 1)
    world.pump()
    world.create(G, 1)
    assert world.told[-1] == TellGroup(G, "ready", {0: A})


def test_name_is_taken_until_its_group_is_removed() -> None:
    world = World((A, 4))
    world.create(G, 1, name="one", namespace="n")
    world.create(H, 1, name="one", namespace="n")
    assert isinstance(world.told[-1], RefuseGroup)
    assert "the name 'one' is taken in namespace 'n'" in world.told[-1].reason
    assert world.bundles.find("one", "n") == G
    world.remove(G)
    assert world.bundles.find("one", "n") is None
    world.create(H, 1, name="one", namespace="n")
    assert world.bundles.find("one", "n") == H


def test_group_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World((A, 4))
    world.create(G)
    world.create(G, 1, 0)
    world.create(H, 1)
    world.remove(H)
    world.create(H, 1)
    monkeypatch.setattr(bundles_module, "MOST_GROUPS", 0)
    world.create(K, 1)
    refused = [each.reason for each in world.told if isinstance(each, RefuseGroup)]
    assert refused == [
        "it needs at least one bundle, and each bundle an amount of something",
        "it needs at least one bundle, and each bundle an amount of something",
        "it was removed: nobody needs it",
        "there are 0 placement groups, which is the most there can be",
    ]
    assert world.bundles.facts(K) is None
    assert world.bundles.explain(K, 0) == "no such placement group is known"


def test_removed_groups_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles_module, "REMOVED_KEPT", 1)
    world = World((A, 4))
    for group in (G, H):
        world.create(group, 1)
        world.remove(group)
    assert world.bundles.facts(G) is None
    assert world.state(H) == "removed"


# ------------------------------------------------------------------ what control knows is late


def test_amounts_that_are_released_are_planned_again_before_the_node_has_said_so() -> None:
    world = World((A, 2), (B, 2))
    world.create(G, 2, 2)
    world.pump()
    world.report()
    world.create(H, 2, 2)
    assert world.state(H) == "pending"
    world.remove(G)
    assert world.state(H) == "preparing"
    for site in world.sites.values():
        site.say()  # what it had before it hears of either
        world.hear(site)
    world.create(K, 1)
    assert world.state(K) == "pending"
    world.pump()
    assert world.state(H) == "ready"
    assert world.free() == {A: 0, B: 0}


def test_bundles_that_are_on_their_way_are_counted_once_whatever_the_node_shows() -> None:
    world = World((A, 1), (B, 2))
    world.create(G, 1, 1, strategy="STRICT_SPREAD")
    a, b = world.sites[A], world.sites[B]
    world.deliver(b)
    b.say()  # it is reserved there, and not committed
    while b.outbox:
        world.hear(b)
    world.create(H, 1)
    assert world.state(H) == "preparing"
    assert [type(effect) for _, effect in a.inbox] == [ReserveBundles]
    world.pump()
    assert world.places(H) == {0: B}


def test_amounts_that_were_planned_are_not_planned_again_before_the_node_shows_them() -> None:
    world = World((A, 2))
    world.create(G, 2)
    a = world.sites[A]
    a.say()  # it has not heard of it yet
    world.hear(a)
    world.create(H, 2)
    world.pump()
    assert world.state(G) == "ready"
    assert world.state(H) == "pending"
    world.remove(G)
    world.report()
    assert world.state(H) == "ready"


def test_view_of_a_life_that_is_over_is_not_taken() -> None:
    world = World((A, 2))
    old = NodesSeen(((world.sites[A].incarnation, world.sites[A].view()),))
    world.die(A)
    world.join(A, cpus(1))
    world.pump()
    world.tell(old)
    world.create(G, 2)
    assert world.state(G) == "pending"
    world.tell(NodeGone(A, 1))
    world.create(H, 1)
    world.pump()
    assert world.state(H) == "ready"
    world.tell(NodeGone(A, 1))
    assert world.state(H) == "ready"


# ------------------------------------------------------------------ breaks and restarts


@pytest.mark.parametrize("delivered", range(6))
def test_link_that_breaks_at_any_time_changes_nothing_in_the_end(delivered: int) -> None:
    world = World((A, 1), (B, 1))
    world.create(G, 1, 1)
    for _ in range(delivered):
        for site in world.sites.values():
            if site.inbox:
                world.deliver(site)
                break
            if site.outbox:
                world.hear(site)
                break
    for site in world.sites.values():
        world.unlink(site)
        world.relink(site)
    world.pump()
    world.report()
    assert world.state(G) == "ready"
    assert world.free() == {A: 0, B: 0}


def test_node_that_was_asked_twice_answers_twice_and_counts_once() -> None:
    world = World((A, 1))
    a = world.sites[A]
    world.unlink(a)
    world.relink(a)
    world.create(G, 1)
    # It reserves, while what it held before is still on the way: so it is asked again.
    world.deliver(a)
    while a.outbox:
        world.hear(a)
    assert [type(effect) for _, effect in a.inbox] == [ReserveBundles]
    world.pump()
    assert world.told == [TellGroup(G, "pending", {}), TellGroup(G, "ready", {0: A})]


def test_group_that_is_removed_while_the_link_is_broken_is_released_afterwards() -> None:
    world = World((A, 1))
    world.create(G, 1)
    world.pump()
    world.unlink(world.sites[A])
    world.remove(G)
    world.relink(world.sites[A])
    world.pump()
    assert world.free() == {A: 1}


def test_bundle_that_a_node_has_lost_is_rescheduled() -> None:
    world = World((A, 1))
    world.create(G, 1)
    world.pump()
    a = world.sites[A]
    world.tell(NodeResumed(A, a.incarnation, ()))
    assert world.told[-1] == TellGroup(G, "rescheduling", {}, f"node {A.hex()} lost it")


def test_node_that_has_lost_all_is_asked_anew_for_all() -> None:
    world = World((A, 2), (B, 1))
    world.create(G, 1, 1, strategy="SPREAD")
    world.pump()
    world.die(B)
    world.report()
    a = world.sites[A]
    assert world.places(G) == {0: A, 1: A}
    # From two attempts.
    assert len(a.reservations.held()) == 2
    world.join(B, cpus(1))
    world.die(A)
    world.join(A, cpus(2))
    world.pump()
    assert world.state(G) == "ready"


def test_node_that_lost_a_bundle_while_it_was_asked_for_another_is_told_to_release_that() -> None:
    world = World((A, 2), (B, 1))
    world.create(G, 1, 1, strategy="SPREAD")
    world.pump()
    world.die(B)
    a = world.sites[A]
    a.say()
    world.hear(a)
    assert world.state(G) == "preparing"
    assert len(a.inbox) == 1
    world.tell(NodeResumed(A, a.incarnation, ()))
    # What it was asked for is taken back, and all is asked for anew.
    asked = [ReserveBundles, ReleaseBundles, ReserveBundles]
    assert [type(effect) for _, effect in a.inbox] == asked
    assert world.state(G) == "preparing"
    assert world.places(G) == {}


def test_node_that_has_lost_one_part_ends_the_attempt_that_it_is_part_of_as_well() -> None:
    world = World((A, 2), (B, 1))
    world.create(G, 1, 1, strategy="SPREAD")
    world.pump()
    world.die(B)
    world.report()
    a = world.sites[A]
    b = PlacementGroupId(b"z" * 16)
    world.tell(NodeResumed(A, a.incarnation, (HeldBundles(b, 1, (0,), is_committed=True),)))
    assert world.state(G) == "preparing"
    assert world.places(G) == {}
    assert [effect.group for _, effect in a.inbox] == [b, G]


@pytest.mark.parametrize("delivered", range(7))
def test_restarted_control_finds_its_groups_as_they_were(delivered: int) -> None:
    world = World((A, 1), (B, 1))
    world.create(G, 1, 1)
    if delivered == 6:
        world.pump()
    for _ in range(delivered):
        for site in world.sites.values():
            if site.inbox:
                world.deliver(site)
                break
            if site.outbox:
                world.hear(site)
                break
    world.restart()
    assert "2 nodes have not said yet" in world.bundles.explain(G, 0)
    world.pump()
    world.report()
    world.report()
    assert world.state(G) == "ready"
    assert sorted(world.places(G).values()) == [A, B]


def test_restarted_control_waits_for_nodes_that_may_hold_a_group_or_be_dead() -> None:
    world = World((A, 1), (B, 1), (C, 1))
    world.create(G, 1, 1, strategy="STRICT_SPREAD")
    world.create(H, 1)
    world.pump()
    world.restart()
    world.remove(H)
    for node_id in (B, C):
        while world.sites[node_id].outbox:
            world.hear(world.sites[node_id])
    assert "1 nodes have not said yet" in world.bundles.explain(G, 0)
    world.create(K, 2)
    world.die(A)
    world.pump()
    world.report()
    assert sorted(world.places(G).values()) == [B, C]
    assert world.told[-1].group in (G, K)


def test_restart_without_nodes_is_over_at_once() -> None:
    world = World((A, 1))
    world.create(G, 1)
    world.die(A)
    world.restart()
    assert world.state(G) == "pending"


def test_of_two_that_hold_the_same_bundle_after_a_restart_the_committed_one_counts() -> None:
    world = World((A, 1), (B, 1), (C, 1))
    world.create(G, 1)
    world.restart()
    for site in world.sites.values():
        site.outbox.clear()
        site.say()
    for attempt, (node_id, is_committed) in enumerate([(A, False), (B, True), (C, False)]):
        incarnation = world.sites[node_id].incarnation
        held = HeldBundles(G, attempt, (0,), is_committed)
        world.tell(NodeResumed(node_id, incarnation, (held,)))
    released = {n: [e.attempt for _, e in s.inbox] for n, s in world.sites.items() if s.inbox}
    assert released == {A: [0], C: [2]}
    assert world.places(G) == {0: B}
    assert world.state(G) == "ready"


def test_bundle_that_is_there_already_after_a_restart_is_released_on_another_node() -> None:
    world = World((A, 1), (B, 1), (C, 1))
    world.create(G, 1, 1)
    world.restart()
    for attempt, (node_id, is_committed) in enumerate([(B, True), (C, False)]):
        held = (
            HeldBundles(G, attempt, (0,), is_committed),
            HeldBundles(G, attempt + 9, (7,), is_committed),
        )
        world.tell(NodeResumed(node_id, world.sites[node_id].incarnation, held))
    released = {n: [e.attempt for _, e in s.inbox] for n, s in world.sites.items() if s.inbox}
    # Also those that the group does not have.
    assert released == {B: [9], C: [1, 10]}
    assert world.places(G) == {0: B}


def test_node_that_says_what_it_holds_before_what_it_has_free_is_taken_as_it_is() -> None:
    world = World((A, 2))
    world.create(G, 2)
    world.pump()
    world.restart()
    a = world.sites[A]
    a.outbox.popleft()
    world.hear(a)
    assert world.state(G) == "ready"
    world.create(H, 2)
    world.now += PASSED_S
    world.tell(BundlesTicked())
    world.remove(G)
    world.report()
    world.pass_time(PASSED_S)
    assert world.state(H) == "ready"


def test_snapshot_is_what_the_journal_is() -> None:
    world = World((A, 2))
    world.create(G, 1, name="one")
    world.create(H, 1)
    world.remove(H)
    world.pump()
    fresh = Bundles()
    fresh.restore(world.bundles.state(), 0.0)
    assert fresh.state() == world.bundles.state()
    assert fresh.find("one", "") == G
    fresh.check()


# ------------------------------------------------------------------ who waits


def test_large_group_is_not_starved_by_small_ones_that_come_for_ever() -> None:
    world = World((A, 4), (B, 4))
    small: deque[tuple[float, PlacementGroupId]] = deque()

    def add_small(number: int) -> None:
        group = PlacementGroupId(number.to_bytes(16, "big"))
        world.create(group, 2)
        small.append((world.now + 1.0 + number % 3, group))

    for number in range(8):
        add_small(number)
    world.create(G, 4)
    number = 8
    while world.state(G) != "ready":
        assert world.now < 60.0
        while small and small[0][0] <= world.now:
            world.remove(small.popleft()[1])
            add_small(number)
            number += 1
        world.report()
    assert world.now > PASSED_S  # small ones went before it at first


@given(
    strategy=st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]),
    stream=st.lists(
        st.tuples(st.sampled_from([0.5, 1, 2, 3]), st.sampled_from([0.3, 1.0, 3.0])),
        min_size=1,
        max_size=4,
    ),
)
@settings(deadline=None, max_examples=25)
def test_no_group_that_fits_waits_for_ever_while_others_end(
    strategy: Strategy, stream: list[tuple[float, float]]
) -> None:
    """However many small ones come, for as long as they like."""
    world = World((A, 4), (B, 4))
    small: list[tuple[float, PlacementGroupId]] = []
    number = 0
    amounts = [2, 2] if strategy == "STRICT_PACK" else [4, 4]
    for step in range(400):
        for ends_at, group in [each for each in small if each[0] <= world.now]:
            small.remove((ends_at, group))
            world.remove(group)
        while sum(world.state(group) != "ready" for _, group in small) < 4:
            number += 1
            amount, lasts_s = stream[number % len(stream)]
            group = PlacementGroupId(number.to_bytes(16, "big"))
            world.create(group, amount)
            small.append((world.now + lasts_s, group))
        if step == 8:
            world.create(G, *amounts, strategy=strategy)
        world.report()
        if step >= 8 and world.state(G) == "ready":
            return
    raise AssertionError(f"{strategy} has waited for {world.now} s")


def test_late_group_is_kept_a_place_for_a_while_and_others_hear_why_they_wait() -> None:
    world = World((A, 4))
    world.create(G, 2)
    world.pump()
    world.create(H, 4)
    world.pass_time(PASSED_S)
    world.create(K, 2)
    assert world.state(K) == "pending"
    text = world.bundles.explain(K, world.now)
    assert "a group that has waited longer is kept a place, for 1.0 s more" in text
    assert "is tried" not in text
    world.pass_time(PASSED_S)  # now it lets others pass
    world.report()
    assert world.state(K) == "ready"
    world.remove(G)
    world.remove(K)
    world.report()
    assert world.state(H) == "ready"


def test_place_is_kept_only_for_a_group_that_would_fit_if_others_ended() -> None:
    world = World((A, 4))
    world.sites[A].tasks = cpus(2)  # which is not of groups
    world.report()
    world.create(H, 4)
    world.report()
    world.now += PASSED_S
    world.report()
    world.create(K, 2)
    world.pump()
    assert world.state(K) == "ready"


def test_group_that_is_kept_a_place_gets_it_first() -> None:
    world = World((A, 4))
    world.create(G, 4)
    world.pump()
    world.create(H, 4)
    world.create(K, 1)
    world.pass_time(PASSED_S)
    world.remove(G)
    for site in world.sites.values():
        while site.inbox:
            world.deliver(site)
        world.end_bundles(site)
        site.say()
    world.pump()
    assert world.state(H) == "ready"
    world.die(A)
    world.join(B, cpus(5))
    world.pump()
    assert world.state(H) == "ready"
    assert world.state(K) == "ready"


def test_node_where_a_place_was_kept_may_die() -> None:
    world = World((A, 4), (B, 1))
    world.create(G, 4)
    world.create(H, 4)
    world.pump()
    world.pass_time(PASSED_S)
    world.die(A)
    world.create(K, 1)
    world.pump()
    assert world.state(K) == "ready"
    world.remove(H)
    world.pass_time(PASSED_S)
    assert world.state(G) == "rescheduling"


def test_long_queue_is_tried_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_queue, "FAILED_PER_ROUND", 2)
    world = World((A, 1))
    world.create(G, 1)
    world.pump()
    for number in range(7):
        world.create(PlacementGroupId(number.to_bytes(16, "big")), 2)
    world.create(H, 1)
    world.remove(G)
    world.report()
    assert world.state(H) == "pending"
    assert world.bundles.wake_at() == world.now + ROUND_S
    assert "it is tried with the next round" in world.bundles.explain(H, world.now)
    for _ in range(2):
        world.pass_time(ROUND_S)
    assert world.state(H) == "ready"


# ------------------------------------------------------------------ any order of events

GROUPS = [PlacementGroupId(bytes([i] * 16)) for i in range(6)]
STRATEGIES: list[Strategy] = ["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


class BundleStories(RuleBasedStateMachine):
    """Control and nodes, with late news, broken links, deaths and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World((A, 4), (B, 3), (C, 2), press_s=PRESS_S)
        self.made = 0

    @rule(
        amounts=st.lists(st.sampled_from([0.5, 1, 2, 4]), min_size=1, max_size=4),
        strategy=st.sampled_from(STRATEGIES),
    )
    def creates(self, amounts: list[float], strategy: Strategy) -> None:
        self.made += 1
        group = PlacementGroupId(self.made.to_bytes(16, "big"))
        self.world.create(group, *amounts, strategy=strategy)

    @precondition(lambda self: self.world.bundles.groups())
    @rule(data=st.data())
    def removes(self, data: st.DataObject) -> None:
        self.world.remove(data.draw(st.sampled_from(self.world.bundles.groups())))

    @rule(data=st.data(), steps=st.integers(1, 8))
    def delivers(self, data: st.DataObject, steps: int) -> None:
        for _ in range(steps):
            ways = [(s, way) for s in self.world.sites.values() for way in ("in", "out", "ends")]
            ways = [
                (site, way)
                for site, way in ways
                if {"in": site.inbox, "out": site.outbox, "ends": site.ending}[way]
            ]
            if not ways:
                return
            site, way = data.draw(st.sampled_from(ways))
            if way == "in":
                self.world.deliver(site)
            elif way == "out":
                self.world.hear(site)
            else:
                self.world.end_bundles(site)

    @rule(seconds=st.sampled_from([0.1, 0.6, PASSED_S]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        for site in self.world.sites.values():
            site.tell(ReservationsTicked(site.free, site.free + site.tasks), self.world.now)
        self.world.tell(BundlesTicked())

    @precondition(lambda self: self.world.sites)
    @rule(data=st.data(), kind=st.sampled_from(["dies", "breaks", "works", "rests", "says"]))
    def node_does(self, data: st.DataObject, kind: str) -> None:
        site = self.world.sites[data.draw(st.sampled_from(sorted(self.world.sites)))]
        if kind == "dies":
            self.world.die(site.node_id)
        elif kind == "breaks":
            self.world.unlink(site)
            self.world.relink(site)
        elif kind == "works" and cpus(1).fits(site.free):
            site.tasks += cpus(1)
        elif kind == "rests":
            site.tasks = NOTHING
            site.grant(self.world.now)
        site.say()

    @rule(node_id=st.sampled_from([A, B, C, D]), amount=st.integers(1, 4))
    def joins(self, node_id: NodeId, amount: int) -> None:
        if node_id not in self.world.sites:
            self.world.join(node_id, cpus(amount))

    @rule()
    def control_restarts(self) -> None:
        self.world.restart()

    @invariant()
    def no_amount_is_held_twice(self) -> None:
        for site in self.world.sites.values():
            assert all(units >= 0 for units in site.free.values())
            assert site.open.keys() <= site.taken.keys()

    @invariant()
    def what_is_ready_is_held_by_living_nodes(self) -> None:
        for group in self.world.bundles.groups():
            facts = self.world.facts(group)
            if facts.state != "ready":
                continue
            assert len(facts.places) == len(facts.created.bundles)
            for index, node_id in facts.places.items():
                site = self.world.sites[node_id]
                held = [key for key in site.taken if (key.group, key.index) == (group, index)]
                assert held, facts
            nodes = set(facts.places.values())
            if facts.created.strategy == "STRICT_PACK":
                assert len(nodes) == 1
            if facts.created.strategy == "STRICT_SPREAD":
                assert len(nodes) == len(facts.places)

    def teardown(self) -> None:
        world = self.world
        for site in world.sites.values():
            site.tasks = NOTHING
        for _ in range(40):
            for site in world.sites.values():
                site.grant(world.now)
            world.pump()
            world.report()
        self.no_amount_is_held_twice()
        self.what_is_ready_is_held_by_living_nodes()
        states = {group: world.state(group) for group in world.bundles.groups()}
        assert {*states.values()} <= {"ready", "pending", "rescheduling"}
        held = {(key.group, key.index) for s in world.sites.values() for key in s.taken}
        placed = {(g, index) for g in states for index in world.places(g)}
        assert held == placed
        assert all(site.open.keys() == site.taken.keys() for site in world.sites.values())
        for group in world.bundles.groups():
            world.remove(group)
        for _ in range(3):
            world.pump()
            world.report()
        for site in world.sites.values():
            assert site.free == site.total
            assert not site.wanted
            assert site.reservations.held() == ()


TestBundleStories = BundleStories.TestCase
TestBundleStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
