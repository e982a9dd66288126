from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from weft._ids import NodeId, PlacementGroupId
from weft._machines import nodes as nodes_module
from weft._machines.nodes import Nodes
from weft._machines.placement import BundleView, Never, NodeView, Placed, Waits, place
from weft._resources import Resources
from weft._specs import Shape

if TYPE_CHECKING:
    import pytest

IDS = [NodeId(bytes([97 + i] * 16)) for i in range(8)]
A, B, C, D = IDS[:4]
G = PlacementGroupId(b"g" * 16)


def view(node_id: NodeId, cpus: float = 4, free: float | None = None, **facts: object) -> NodeView:
    total = Resources({"CPU": cpus})
    left = total if free is None else Resources({"CPU": free})
    return NodeView(node_id, total, left, **facts)  # type: ignore[arg-type]


def shape(strategy: str = "DEFAULT", **amounts: float) -> Shape:
    return Shape(tuple(sorted(Resources(amounts).items())), strategy)


CPU = shape(CPU=1)
ONE = Resources({"CPU": 1})


def test_what_is_taken_moves_the_next_demand_to_another_node() -> None:
    nodes = Nodes([view(A), view(B)])
    taken = []
    while (found := nodes.find(CPU)) is not None:
        taken.append(found.node_id)
        nodes.take(found.node_id, ONE)
    assert taken == [A, A, A, B, B, B, A, B]
    assert isinstance(nodes.why(CPU), Waits)
    nodes.give(B, ONE)
    assert nodes.find(CPU) == Placed(B)


def test_spread_begins_after_the_local_node_and_goes_round() -> None:
    nodes = Nodes([view(A), view(B, is_local=True), view(C), view(D, free=0)])
    spread = shape("SPREAD", CPU=1)
    found = [nodes.find(spread) for _ in range(4)]
    assert found == [Placed(C), Placed(A), Placed(B), Placed(C)]


def test_spread_is_dealt_to_all_that_could_hold_it_whether_they_have_it_free_or_not() -> None:
    nodes = Nodes([view(A, free=0), view(B, is_local=True), view(C), view(D, 0.5)])
    spread = shape("SPREAD", CPU=1)
    assert [nodes.deal(spread) for _ in range(4)] == [C, A, B, C]
    nodes.put(view(C, draining="idle"))
    assert [nodes.deal(spread) for _ in range(3)] == [A, B, A]
    assert nodes.deal(shape("SPREAD", CPU=9)) is None
    assert nodes.deal(shape("SPREAD?", CPU=1)) is None
    here_only = Nodes([view(B)])
    assert [here_only.deal(spread) for _ in range(2)] == [B, B]


def test_nodes_that_come_change_and_go_are_found_as_they_are() -> None:
    nodes = Nodes([view(A, 1)])
    assert nodes.find(shape(CPU=2)) is None
    assert isinstance(nodes.why(shape(CPU=2)), Never)
    nodes.put(view(B, 4))
    assert nodes.find(shape(CPU=2)) == Placed(B)
    assert nodes.total == Resources({"CPU": 5})
    nodes.put(view(B, 4, draining="idle"))
    assert nodes.find(shape(CPU=2)) is None
    nodes.put(view(A, 2))
    assert nodes.find(shape(CPU=2)) == Placed(A)
    nodes.remove(A)
    assert A not in nodes
    assert B in nodes
    assert nodes[B].draining == "idle"
    assert len(nodes) == 1
    assert nodes.total == Resources({"CPU": 4})
    assert nodes.find(shape(CPU=2)) is None


def test_node_of_many_that_gets_free_is_found() -> None:
    nodes = Nodes([*map(view, IDS[1:]), view(A, free=0)])
    assert nodes.find(CPU) == Placed(B)
    nodes.give(A, Resources({"CPU": 4}))
    assert nodes.find(CPU) == Placed(A)


def test_nodes_that_a_group_has_already_are_passed_over() -> None:
    nodes = Nodes([view(A), view(B), view(C, free=0)])
    assert nodes.find(CPU, but_not={A}) == Placed(B)
    assert nodes.find(CPU, but_not={A, B}) is None


def test_strategy_that_is_not_known_finds_nothing_and_says_so() -> None:
    nodes = Nodes([view(A)])
    for strategy in ("UPWARDS", "group:xyz:any", "group:1:2:3"):
        wanted = shape(strategy, CPU=1)
        assert nodes.find(wanted) is None
        assert not nodes.able(wanted)
        assert nodes.is_hopeless(shape("UPWARDS", CPU=1))
        assert nodes.obstacle(wanted, A) == ""
        assert strategy in str(nodes.why(wanted))


def test_able_nodes_are_those_that_a_demand_may_wait_for() -> None:
    nodes = Nodes([view(A, 1), view(B, 4, 0), view(C, 4)])
    assert nodes.able(shape(CPU=2)) == {B, C}
    assert nodes.find_at(shape(CPU=2), C) == Placed(C)
    assert nodes.find_at(shape(CPU=2), B) is None
    assert nodes.find_at(shape(CPU=2), A) is None
    assert not nodes.is_hopeless(shape(CPU=2))
    assert nodes.is_hopeless(shape(CPU=9))
    assert nodes.obstacle(shape(CPU=2), A) == "needs CPU 2, this node has 1"
    assert nodes.obstacle(shape(CPU=2), C) == ""


def test_bundles_are_found_as_they_come_and_go() -> None:
    nodes = Nodes([view(A), view(B)])
    wanted = shape(f"group:{G.hex()}:any", CPU=1)
    assert nodes.find(wanted) is None
    assert not nodes.able(wanted)
    assert not nodes.is_hopeless(wanted)
    nodes.put(view(B, bundles={G: {0: BundleView(ONE, ONE, 1)}}))
    assert nodes.find(wanted) == Placed(B, 0)
    assert nodes.able(wanted) == {B}
    assert nodes.is_hopeless(shape(f"group:{G.hex()}:any", CPU=2))
    nodes.put(view(A, bundles={G: {1: BundleView(ONE, ONE, 2)}}))
    nodes.remove(B)
    assert nodes.find(wanted) == Placed(A, 1)
    nodes.put(view(A))
    assert nodes.find(wanted) is None


def test_what_is_taken_of_a_bundle_is_not_taken_of_its_node() -> None:
    nodes = Nodes([view(A, bundles={G: {0: BundleView(ONE, ONE, 2), 1: BundleView(ONE, ONE, 2)}})])
    wanted = shape(f"group:{G.hex()}:any", CPU=1)
    nodes.take(A, ONE, G, 0)
    assert nodes.find(wanted) == Placed(A, 1)
    nodes.take(A, ONE, G, 1)
    nodes.take(A, ONE, G, 2)  # which is not known
    assert nodes.find(wanted) is None
    assert nodes[A].free == nodes[A].total


def test_index_keeps_a_bounded_number_of_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "SHAPES", 2)
    nodes = Nodes([view(A), view(B)])
    for cpus in (1, 2, 3):
        assert nodes.find(shape("SPREAD", CPU=cpus)) == Placed(A)
    # Where the first one went last is forgotten.
    assert nodes.find(shape("SPREAD", CPU=1)) == Placed(A)
    assert nodes.find(shape("SPREAD", CPU=3)) == Placed(B)


def test_locality_breaks_ties_by_the_order_of_choice() -> None:
    nodes = Nodes([view(A), view(B, is_local=True), view(C, free=0)])
    assert nodes.find(CPU, {A: 5, C: 9}) == Placed(A)
    assert nodes.find(CPU, {A: 5, B: 5}) == Placed(B)
    assert nodes.find(CPU, {C: 9, A: 0}) == Placed(B)


# ------------------------------------------------------------------ against the plain function

SHAPES = [
    shape(CPU=1),
    shape(CPU=2),
    shape(CPU=0.5, GPU=0.5),
    shape(),
    shape("SPREAD", CPU=1),
    msgspec.structs.replace(shape(CPU=1), labels=(("zone", "a"),), fallbacks=((),)),
    msgspec.structs.replace(shape("SPREAD", CPU=1), preferred=(("zone", "!a"),)),
    msgspec.structs.replace(shape(CPU=1), preferred=(("zone", "in(b,c)"),)),
    *(shape(f"node:{A.hex()}:{kind}", CPU=1) for kind in ("hard", "soft", "spill")),
    shape(f"group:{G.hex()}:any", CPU=1),
    shape(f"group:{G.hex()}:1", CPU=1),
]
AMOUNTS = st.sampled_from([0, 0.5, 1, 2, 4])


@st.composite
def views(draw: st.DrawFn) -> NodeView:
    node_id = draw(st.sampled_from(IDS))
    cpus, gpus = draw(AMOUNTS), draw(st.sampled_from([0, 1]))
    total = Resources({"CPU": cpus, "GPU": gpus})
    free = Resources({"CPU": min(draw(AMOUNTS), cpus), "GPU": gpus})
    indices = draw(st.sets(st.integers(0, 2), max_size=2))
    bundles = {i: BundleView(Resources({"CPU": 2}), Resources({"CPU": i}), 3) for i in indices}
    return NodeView(
        node_id,
        total,
        free,
        draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])),
        node_id == C,
        draw(st.sampled_from(["", "", "", "idle"])),
        {G: bundles} if bundles else {},
    )


class NodesStories(RuleBasedStateMachine):
    """The index answers as the function does over all nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = Nodes()
        self.plain: dict[NodeId, NodeView] = {}
        self.after: dict[Shape, NodeId] = {}
        self.has_seen_local = False

    @rule(said=st.lists(views(), max_size=6))
    def says(self, said: list[NodeView]) -> None:
        for each in said:
            self.nodes.put(each)
            self.plain[each.node_id] = each
            self.has_seen_local = self.has_seen_local or each.is_local

    @precondition(lambda self: self.plain)
    @rule(data=st.data(), amounts=AMOUNTS)
    def changes(self, data: st.DataObject, amounts: float) -> None:
        node_id = data.draw(st.sampled_from(sorted(self.plain)))
        free = self.plain[node_id].free - Resources({"CPU": amounts})
        self.nodes.take(node_id, Resources({"CPU": amounts}))
        self.plain[node_id] = msgspec.structs.replace(self.plain[node_id], free=free)

    @precondition(lambda self: self.plain)
    @rule(data=st.data())
    def goes(self, data: st.DataObject) -> None:
        node_id = data.draw(st.sampled_from(sorted(self.plain)))
        self.nodes.remove(node_id)
        del self.plain[node_id]

    @rule(
        wanted=st.sampled_from(SHAPES),
        bytes_at=st.dictionaries(st.sampled_from(IDS), st.integers(0, 3), max_size=3),
    )
    def is_asked(self, wanted: Shape, bytes_at: dict[NodeId, int]) -> None:
        # It begins after the local node, C, if that has been seen.
        near = C if self.has_seen_local else None
        after = self.after.get(wanted, near)
        expected = place(wanted, self.plain.values(), bytes_at=bytes_at, after=after, near=near)
        found = self.nodes.find(wanted, bytes_at)
        if isinstance(expected, Placed):
            assert found == expected
            assert self.nodes.find_at(wanted, expected.node_id) == expected
            if wanted.strategy == "SPREAD":
                self.after[wanted] = expected.node_id
        else:
            assert found is None
            assert self.nodes.why(wanted) == expected
            if not wanted.strategy.startswith("group:"):
                assert self.nodes.is_hopeless(wanted) is isinstance(expected, Never)

    def teardown(self) -> None:
        total = sum((each.total for each in self.plain.values()), Resources())
        assert self.nodes.total == total
        assert {each.node_id: each for each in self.nodes.views()} == self.plain


TestNodesStories = NodesStories.TestCase
TestNodesStories.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, database=None
)


@given(
    wanted=st.sampled_from(SHAPES),
    said=st.lists(views(), max_size=6, unique_by=lambda v: v.node_id),
)
def test_what_is_placed_is_free_and_what_waits_could_be_held(
    wanted: Shape, said: list[NodeView]
) -> None:
    found = place(wanted, said)
    if isinstance(found, Placed):
        (node,) = [each for each in said if each.node_id == found.node_id]
        assert not node.draining
        free = node.free if found.bundle < 0 else node.bundles[G][found.bundle].free
        assert Resources.of_units(dict(wanted.amounts)).fits(free)
    else:
        assert found.reasons.keys() == {each.node_id for each in said}
        assert all(found.reasons.values())
