from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import given, settings

from weft._ids import NodeId, PlacementGroupId
from weft._machines.nodes import Nodes
from weft._machines.placement import BundleView, NodeView
from weft._machines.spillover import (
    ANEW_S,
    DEAL_REST_S,
    DEBIT_S,
    HOPELESS_S,
    HOPS,
    MOST_AT_ONCE,
    REST_S,
    BoundHere,
    DemandHeard,
    DemandsGone,
    Effect,
    Event,
    GrantedHere,
    GroupEnded,
    LocalChanged,
    QueueHere,
    RefuseDemand,
    SendOn,
    Spillover,
    SpilloverTicked,
    ViewsChanged,
)
from weft._resources import UNITS, Resources
from weft._specs import Shape

if TYPE_CHECKING:
    import pytest

IDS = [NodeId(bytes([97 + i] * 16)) for i in range(6)]
A, B, C = IDS[:3]
G = PlacementGroupId(b"g" * 16)
X, Y = b"client x", b"client y"


def shape(strategy: str = "DEFAULT", **amounts: float) -> Shape:
    return Shape(tuple(sorted(Resources(amounts).items())), strategy)


def view(node_id: NodeId, cpus: float, free: float | None = None, **facts: Any) -> NodeView:
    left = cpus if free is None else free
    return NodeView(node_id, Resources({"CPU": cpus}), Resources({"CPU": left}), **facts)


CPU = shape(CPU=1)


class Daemon:
    """One node's decisions, checked after every event."""

    def __init__(self, local: NodeView, *others: NodeView) -> None:
        self.spillover = Spillover(local)
        self.now = 0.0
        self.see(*others)

    def tell(self, event: Event) -> list[Effect]:
        effects = self.spillover.handle(event, self.now)
        self.spillover.check()
        return effects

    def see(self, *views: NodeView, gone: tuple[NodeId, ...] = ()) -> list[Effect]:
        return self.tell(ViewsChanged(views, gone))

    def demand(self, workers: int = 1, wanted: Shape = CPU, **facts: Any) -> list[Effect]:
        client = facts.pop("client", X)
        return self.tell(DemandHeard(client, facts.pop("key", 1), wanted, workers, **facts))

    def later(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.tell(SpilloverTicked())


def sends(effects: list[Effect]) -> dict[NodeId, int]:
    return {each.node_id: each.workers for each in effects if isinstance(each, SendOn)}


def queued(effects: list[Effect]) -> list[int]:
    return [each.workers for each in effects if isinstance(each, QueueHere)]


def test_demand_that_fits_here_is_queued_here() -> None:
    daemon = Daemon(view(A, 4), view(B, 4))
    assert daemon.demand(2) == [QueueHere(X, 1, CPU, 2)]
    assert daemon.spillover.has((X, 1))
    assert not daemon.spillover.has((X, 2))
    daemon.tell(GrantedHere(X, 1))
    daemon.tell(BoundHere(X, 1))
    assert daemon.spillover.waiting() == [(X, 1, CPU, 1)]
    assert daemon.spillover.wake_at() == ANEW_S
    daemon.tell(GrantedHere(X, 1))
    assert daemon.spillover.wake_at() is None
    daemon.tell(BoundHere(X, 1))
    assert daemon.spillover.waiting() == []


def test_what_does_not_fit_here_is_sent_where_it_is_free_and_the_rest_waits_here() -> None:
    daemon = Daemon(view(A, 2, 1), view(B, 2), view(C, 2, 0))
    effects = daemon.demand(5)
    assert sends(effects) == {B: 2}
    assert queued(effects) == [3]
    (send,) = [each for each in effects if isinstance(each, SendOn)]
    assert send.hops == 1
    assert send.reason == "needs CPU 1, this node has 0 free"


def test_half_full_node_sends_on_to_an_emptier_one_and_says_why() -> None:
    daemon = Daemon(view(A, 4, 1), view(B, 4))
    (send,) = daemon.demand(1)
    assert send == SendOn(X, 1, CPU, 1, B, 1, "another node is less in use")


def test_of_a_thousand_demands_alike_only_those_that_may_go_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon = Daemon(view(A, 4, 0), view(B, 4, 0))
    for number in range(1000):
        daemon.demand(client=number.to_bytes(16, "big"))
    looks = 0
    real = Nodes.find

    def counting(self: Nodes, *wanted: Any) -> Any:
        nonlocal looks
        looks += 1
        return real(self, *wanted)

    monkeypatch.setattr(Nodes, "find", counting)
    effects = daemon.see(view(B, 4, 2))
    assert [each.client for each in effects if isinstance(each, SendOn)] == [
        number.to_bytes(16, "big") for number in range(2)
    ]
    assert looks < 20


def test_demand_goes_where_its_arguments_are() -> None:
    daemon = Daemon(view(A, 4), view(B, 4))
    assert sends(daemon.demand(1, bytes_at={B: 1 << 20})) == {B: 1}


SPREAD = shape("SPREAD", CPU=1)


def test_demands_that_spread_go_round_also_to_nodes_that_seem_to_be_busy() -> None:
    daemon = Daemon(view(A, 1), view(B, 1, 0), view(C, 1))
    where = [daemon.demand(1, SPREAD, key=key) for key in range(6)]
    assert [sends(effects) for effects in where] == [{B: 1}, {C: 1}, {}] * 2
    assert queued(where[2] + where[5]) == [1, 1]


def test_many_demands_that_spread_are_dealt_out_once() -> None:
    daemon = Daemon(view(A, 1, 0), view(B, 1, 0), view(C, 1, 0))
    assert sends(daemon.demand(6, SPREAD)) == {B: 2, C: 2}
    assert daemon.later(ANEW_S) == []
    assert sends(daemon.demand(5, SPREAD)) == {B: 1, C: 1}
    assert daemon.spillover.waiting() == [(X, 1, SPREAD, 3)]


def test_demand_that_spreads_and_waits_where_it_was_dealt_to_looks_elsewhere_after_a_while() -> (
    None
):
    daemon = Daemon(view(A, 1, 0), view(B, 1), view(C, 1, 0))
    assert queued(daemon.demand(1, SPREAD, hops=1)) == [1]
    assert daemon.see(view(B, 1)) == []
    assert sends(daemon.later(DEAL_REST_S)) == {B: 1}
    daemon.see(view(B, 1, 0))
    assert queued(daemon.demand(1, SPREAD, key=2, hops=1)) == [1]
    assert daemon.later(DEAL_REST_S) == []
    daemon.now += DEAL_REST_S
    assert sends(daemon.see(view(B, 1))) == {B: 1}


def test_demand_that_spreads_and_fits_nowhere_is_refused() -> None:
    daemon = Daemon(view(A, 1), view(B, 1))
    assert daemon.demand(1, shape("SPREAD", CPU=2)) == []
    (refused,) = daemon.later(HOPELESS_S)
    assert isinstance(refused, RefuseDemand)


def test_demand_that_spreads_waits_where_it_is_free_in_the_end() -> None:
    daemon = Daemon(view(A, 1, 0), view(B, 1))
    daemon.demand(1, SPREAD, hops=1)
    daemon.tell(LocalChanged(view(A, 1)))
    assert daemon.later(DEAL_REST_S) == []
    assert daemon.spillover.waiting() == [(X, 1, SPREAD, 1)]


def test_what_was_sent_counts_as_in_use_there_for_a_while() -> None:
    daemon = Daemon(view(A, 1, 0), view(B, 2))
    assert sends(daemon.demand(1)) == {B: 1}
    assert sends(daemon.demand(5, client=Y)) == {B: 1}
    # What the node says is what it had before that came.
    assert sends(daemon.see(view(B, 2, 2))) == {}
    assert sends(daemon.later(DEBIT_S / 2)) == {}
    assert sends(daemon.later(DEBIT_S)) == {B: 2}


def test_what_was_sent_long_ago_is_not_held_against_a_node_when_a_demand_comes() -> None:
    daemon = Daemon(view(A, 1, 0), view(B, 1))
    daemon.demand(1)
    daemon.now += DEBIT_S
    assert sends(daemon.demand(1)) == {B: 1}


def test_what_is_shown_of_nodes_counts_what_was_sent_there_until_they_have_said_so() -> None:
    daemon = Daemon(view(A, 1, 0), view(B, 2), view(C, 2))
    daemon.demand(8, SPREAD)

    def free() -> list[int]:
        return [each.free.get("CPU", 0) // UNITS for each in daemon.spillover.views(daemon.now)]

    assert free() == [0, 0, 0]
    assert "-" not in daemon.spillover.explain(CPU, daemon.now)
    # What has ended by then is not seen: nobody says what is as it was.
    daemon.now += DEBIT_S
    assert free() == [0, 2, 2]
    assert daemon.spillover.explain(CPU, daemon.now).splitlines()[1:] == []


def test_node_that_goes_while_something_was_sent_there_is_forgotten() -> None:
    daemon = Daemon(view(A, 1, 0), view(B, 2))
    daemon.demand(1)
    assert daemon.see(gone=(B, C)) == []
    assert daemon.later(1.0) == []
    assert B not in daemon.spillover.nodes


def test_demand_that_waits_is_sent_on_when_another_node_becomes_free() -> None:
    daemon = Daemon(view(A, 1, 0), view(B, 1, 0))
    assert daemon.demand(1) == [QueueHere(X, 1, CPU, 1)]
    effects = daemon.see(view(B, 1, 1))
    assert queued(effects) == [0]
    assert sends(effects) == {B: 1}
    assert daemon.spillover.waiting() == []


def test_own_amounts_that_change_decide_nothing_before_the_next_time() -> None:
    daemon = Daemon(view(A, 1), view(B, 1))
    assert daemon.demand(1) == [QueueHere(X, 1, CPU, 1)]
    # Another one was faster.
    assert daemon.tell(LocalChanged(view(A, 1, 0))) == []
    assert daemon.later(ANEW_S / 2) == []
    assert sends(daemon.later(ANEW_S)) == {B: 1}


def test_what_others_say_of_this_node_is_not_looked_at() -> None:
    daemon = Daemon(view(A, 1), view(B, 1))
    daemon.see(view(A, 1, 0), gone=(A,))
    assert daemon.demand(1) == [QueueHere(X, 1, CPU, 1)]


def test_demand_that_was_sent_here_takes_what_is_free_here() -> None:
    daemon = Daemon(view(A, 4, 1), view(B, 4))
    assert daemon.demand(1, hops=1) == [QueueHere(X, 1, CPU, 1)]


def test_demand_is_sent_on_twice_then_waits_ever_longer() -> None:
    for hops in (HOPS, HOPS + 1, HOPS + 2):
        daemon = Daemon(view(A, 1, 0), view(B, 1))
        rest_s = REST_S * 2 ** (hops - HOPS)
        assert queued(daemon.demand(1, hops=hops)) == [1]
        assert daemon.later(rest_s - 0.01) == []
        effects = daemon.later(ANEW_S)
        assert sends(effects) == {B: 1}
        assert [each.hops for each in effects if isinstance(each, SendOn)] == [hops + 1]


def test_demand_that_only_other_nodes_can_hold_goes_to_wait_there() -> None:
    daemon = Daemon(view(A, 1), view(B, 4, 0), view(C, 4, 0))
    assert sends(daemon.demand(4, shape(CPU=2))) == {B: 2, C: 2}


def test_demand_that_cannot_go_on_yet_is_parked_and_then_goes() -> None:
    daemon = Daemon(view(A, 1), view(B, 4, 0))
    wanted = shape(CPU=2)
    assert daemon.demand(1, wanted, hops=HOPS) == []
    assert daemon.spillover.waiting() == [(X, 1, wanted, 1)]
    assert sends(daemon.later(REST_S)) == {B: 1}


def test_draining_node_sends_all_on() -> None:
    daemon = Daemon(view(A, 4), view(B, 1, 0))
    daemon.demand(1)
    daemon.tell(LocalChanged(view(A, 4, draining="preemption")))
    effects = daemon.later(ANEW_S)
    assert queued(effects) == [0]
    assert sends(effects) == {B: 1}


def test_demand_that_no_node_can_hold_is_refused_with_the_reason_after_a_while() -> None:
    daemon = Daemon(view(A, 1), view(B, 2))
    assert daemon.demand(1, shape(CPU=4)) == []
    assert daemon.later(HOPELESS_S - 0.1) == []
    assert daemon.later(0.1) == [
        RefuseDemand(
            X,
            1,
            "unschedulable",
            "needs CPU 4, node 616161616161 has 1; needs CPU 4, node 626262626262 has 2",
        )
    ]
    assert daemon.spillover.waiting() == []


def test_node_that_joins_in_time_gets_the_demand() -> None:
    daemon = Daemon(view(A, 1))
    daemon.demand(1, shape(CPU=4))
    daemon.later(HOPELESS_S - 0.1)
    assert sends(daemon.see(view(B, 4))) == {B: 1}


def test_hard_affinity_to_a_node_that_is_gone_fails_and_soft_runs_elsewhere() -> None:
    daemon = Daemon(view(A, 1), view(B, 2))
    daemon.see(gone=(B,))
    assert queued(daemon.demand(1, shape(f"node:{B.hex()}:soft", CPU=1), key=2)) == [1]
    daemon.demand(1, shape(f"node:{B.hex()}:hard", CPU=1))
    (refused,) = daemon.later(HOPELESS_S)
    assert isinstance(refused, RefuseDemand)
    assert refused.reason == f"needs node {B.hex()}, this node has another id"


def test_refusal_leaves_those_that_are_granted_already() -> None:
    daemon = Daemon(view(A, 1))
    daemon.demand(2)
    daemon.tell(GrantedHere(X, 1))
    daemon.tell(LocalChanged(view(A, 0)))
    assert daemon.later(ANEW_S) == [QueueHere(X, 1, CPU, 1)]
    (refused,) = daemon.later(HOPELESS_S)
    assert isinstance(refused, RefuseDemand)
    daemon.tell(BoundHere(X, 1))
    assert daemon.later(HOPELESS_S) == []


def test_demand_for_a_group_waits_for_its_bundles_and_follows_them() -> None:
    daemon = Daemon(view(A, 4), view(B, 4))
    wanted = shape(f"group:{G.hex()}:any", CPU=1)
    assert daemon.demand(1, wanted) == []
    assert daemon.later(10 * HOPELESS_S) == []
    one = Resources({"CPU": 1})
    assert sends(daemon.see(view(B, 4, bundles={G: {0: BundleView(one, one, 1)}}))) == {B: 1}


def test_demands_for_a_group_go_to_as_many_bundles_as_there_are() -> None:
    one = Resources({"CPU": 1})
    bundles = {0: BundleView(one, one, 4), 1: BundleView(one, one, 4)}
    others = {2: BundleView(one, one, 4), 3: BundleView(one, one, 4)}
    daemon = Daemon(view(A, 2, bundles={G: bundles}), view(B, 4, bundles={G: others}))
    wanted = shape(f"group:{G.hex()}:any", CPU=1)
    effects = daemon.demand(5, wanted)
    assert sends(effects) == {B: 2}
    assert queued(effects) == [3]
    assert daemon.spillover.nodes[B].free == Resources({"CPU": 4})
    # It says itself that the bundles are full, before what was sent there is forgotten.
    full = {index: BundleView(one, Resources(), 4) for index in others}
    assert daemon.see(view(B, 4, bundles={G: full})) == []
    assert daemon.later(DEBIT_S) == []


def test_demand_for_a_group_that_is_removed_is_refused() -> None:
    daemon = Daemon(view(A, 4))
    one = Resources({"CPU": 1})
    wanted = shape(f"group:{G.hex()}:0", CPU=1)
    daemon.tell(LocalChanged(view(A, 4, bundles={G: {0: BundleView(one, Resources(), 1)}})))
    daemon.demand(2, wanted)
    daemon.demand(1, key=2)
    daemon.tell(GrantedHere(X, 1))
    assert daemon.tell(GroupEnded(G, "nobody needs it")) == [
        QueueHere(X, 1, wanted, 1),
        RefuseDemand(X, 1, "placement_group", "nobody needs it"),
    ]
    assert daemon.spillover.waiting() == [(X, 2, CPU, 1)]


def test_later_demand_replaces_the_earlier_and_none_withdraws_it() -> None:
    daemon = Daemon(view(A, 1, 0))
    assert queued(daemon.demand(3)) == [3]
    assert queued(daemon.demand(1)) == [1]
    assert queued(daemon.demand(0)) == [0]
    assert daemon.demand(0) == []
    daemon.demand(1, shape(CPU=4))
    assert daemon.demand(0) == []
    assert daemon.spillover.wake_at() is None


def test_demand_that_replaces_another_rests_as_long_as_it_has_to() -> None:
    daemon = Daemon(view(A, 1, 0), view(B, 9))
    daemon.demand(1, hops=HOPS)
    daemon.now += REST_S / 2
    daemon.demand(2, hops=HOPS)
    assert sends(daemon.later(REST_S / 2)) == {B: 2}
    daemon.demand(1, hops=HOPS)
    daemon.demand(1, hops=HOPS + 1)
    # What comes from nearer does not shorten that, nor does it go far for it.
    daemon.demand(1, hops=0)
    assert sends(daemon.later(REST_S)) == {}
    (send,) = [each for each in daemon.later(REST_S) if isinstance(each, SendOn)]
    assert (send.node_id, send.hops) == (B, 1)


def test_client_that_ends_wants_nothing_more() -> None:
    daemon = Daemon(view(A, 1, 0))
    daemon.demand(1)
    daemon.demand(1, key=2)
    daemon.demand(1, client=Y)
    assert daemon.tell(DemandsGone(X, 2)) == []
    assert [client for client, *_ in daemon.spillover.waiting()] == [X, Y]
    assert daemon.tell(DemandsGone(X)) == []
    assert [client for client, *_ in daemon.spillover.waiting()] == [Y]


def test_news_of_a_demand_that_is_gone_change_nothing() -> None:
    daemon = Daemon(view(A, 1))
    assert daemon.tell(GrantedHere(X, 1)) == []
    assert daemon.tell(BoundHere(X, 1)) == []
    daemon.demand(1)
    daemon.tell(BoundHere(X, 1))
    daemon.tell(GrantedHere(X, 1))
    daemon.tell(GrantedHere(X, 1))
    assert daemon.spillover.waiting() == []


def test_very_large_demand_is_decided_in_pieces() -> None:
    daemon = Daemon(view(A, 1, 0), view(B, 10_000))
    assert sends(daemon.demand(MOST_AT_ONCE + 1)) == {B: MOST_AT_ONCE}
    assert sends(daemon.later(ANEW_S)) == {B: 1}


def test_why_says_how_long_it_waits_and_what_all_nodes_lack() -> None:
    daemon = Daemon(view(A, 1, 0), view(B, 1, 0))
    daemon.demand(2, hops=HOPS)
    daemon.demand(1, client=Y)
    daemon.now = 0.25
    assert daemon.spillover.explain(CPU, daemon.now).splitlines() == [
        "3 wait on this node, the longest for 0.2 s",
        "sent on 2 times, and not again for 0.8 s",
        "needs CPU 1, 2 nodes have 0 free",
    ]
    daemon.see(view(B, 4))
    assert daemon.spillover.explain(shape(CPU=2), daemon.now) == ""
    daemon.demand(1, shape(CPU=3), key=5)
    daemon.demand(1, shape(CPU=9), key=6)
    assert daemon.spillover.explain(shape(CPU=9), daemon.now).splitlines()[0] == (
        "1 wait on this node, the longest for 0.0 s"
    )


# ------------------------------------------------------------------ many daemons

STEP_S = 0.05
VIEW_S = 0.1


class Site:
    """A node: its daemon, and a queue that grants in order what is free."""

    def __init__(self, node_id: NodeId, cpus: int) -> None:
        self.node_id = node_id
        self.cpus = self.free = cpus
        self.daemon = Daemon(view(node_id, cpus))
        self.queue: dict[tuple[bytes, int], int] = {}
        self.ends_at: list[tuple[float, int]] = []

    def view(self) -> NodeView:
        return view(self.node_id, self.cpus, self.free)


class Cluster:
    """Nodes whose views are late, and clients who ask where they are told to."""

    def __init__(
        self, cpus: list[int], need_of: dict[tuple[bytes, int], int], lasts_s: float
    ) -> None:
        self.now = 0.0
        self.sites = {IDS[i]: Site(IDS[i], each) for i, each in enumerate(cpus)}
        self.need_of = need_of
        self.lasts_s = lasts_s
        self.want: dict[tuple[NodeId, bytes, int], int] = {}
        self.hops: dict[tuple[bytes, int], int] = {}
        self.granted: dict[tuple[bytes, int], int] = {}
        self.publish()

    def publish(self) -> None:
        views = [site.view() for site in self.sites.values()]
        for site in self.sites.values():
            self.tell(site, ViewsChanged(tuple(views)))

    def demand(self, site: Site, client: bytes, key: int, workers: int, hops: int = 0) -> None:
        at = (site.node_id, client, key)
        self.want[at] = self.want.get(at, 0) + workers
        wanted = shape(CPU=self.need_of[client, key])
        self.tell(site, DemandHeard(client, key, wanted, self.want[at], hops))

    def tell(self, site: Site, event: Event) -> None:
        site.daemon.now = self.now
        effects = site.daemon.tell(event)
        for effect in effects:
            at = (effect.client, effect.key)
            if isinstance(effect, QueueHere):
                site.queue[at] = effect.workers
                if not effect.workers:
                    del site.queue[at]
            elif isinstance(effect, SendOn):
                # A client hears all that it is told before it asks again.
                self.want[site.node_id, *at] -= effect.workers
        self.grant(site)
        for effect in effects:
            if isinstance(effect, SendOn):
                at = (effect.client, effect.key)
                assert effect.hops <= HOPS + 1 + math.log2(1 + self.now / REST_S)
                self.demand(self.sites[effect.node_id], *at, effect.workers, effect.hops)
            assert not isinstance(effect, RefuseDemand)

    def grant(self, site: Site) -> None:
        for at in list(site.queue):
            while site.queue.get(at, 0) and self.need_of[at] <= site.free:
                site.free -= self.need_of[at]
                site.ends_at.append((self.now + self.lasts_s, self.need_of[at]))
                site.queue[at] -= 1
                if not site.queue[at]:
                    del site.queue[at]
                self.want[site.node_id, *at] -= 1
                self.granted[at] = self.granted.get(at, 0) + 1
                site.daemon.tell(GrantedHere(*at))
                site.daemon.tell(BoundHere(*at))
        site.daemon.tell(LocalChanged(site.view()))

    def step(self) -> None:
        self.now += STEP_S
        for site in self.sites.values():
            ended = [need for at, need in site.ends_at if at <= self.now]
            site.ends_at = [(at, need) for at, need in site.ends_at if at > self.now]
            site.free += sum(ended)
            self.tell(site, SpilloverTicked())
        if self.now % VIEW_S < STEP_S:
            self.publish()


@given(
    cpus=st.lists(st.integers(0, 4), min_size=2, max_size=6),
    demands=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(1, 12)), min_size=1, max_size=6
    ),
    lasts_s=st.sampled_from([0.05, 0.3, 2.0]),
)
@settings(deadline=None, max_examples=60)
def test_every_demand_is_granted_once_however_late_views_are(
    cpus: list[int], demands: list[tuple[int, int, int]], lasts_s: float
) -> None:
    need_of = {(X, key): min(need, max(cpus)) for key, (_, need, _) in enumerate(demands)}
    cluster = Cluster(cpus, need_of, lasts_s)
    for key, (at, _, workers) in enumerate(demands):
        cluster.demand(cluster.sites[IDS[at % len(cpus)]], X, key, workers)
    wanted = {(X, key): workers for key, (_, _, workers) in enumerate(demands)}
    # All of them one after the other on the largest node alone, and the rests between hops.
    work_s = sum(wanted.values()) * (lasts_s + STEP_S) + 20.0
    while cluster.granted != wanted:
        cluster.step()
        assert cluster.now < work_s, (cluster.granted, wanted)
    assert not any(cluster.want.values())
    for site in cluster.sites.values():
        assert site.daemon.spillover.waiting() == []
        assert not site.queue
