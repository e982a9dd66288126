from __future__ import annotations

from itertools import product

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from weft._ids import NodeId
from weft._machines.bundle_plans import BundleSpec, GroupWish, Strategy, plan, why_never, why_not
from weft._machines.nodes import Nodes
from weft._machines.placement import NodeView
from weft._resources import Resources

IDS = [NodeId(bytes([97 + i] * 16)) for i in range(4)]
A, B, C, D = IDS
STRATEGIES: list[Strategy] = ["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


def nodes_of(*free: float, total: float = 8) -> Nodes:
    return Nodes(
        NodeView(node_id, Resources({"CPU": total}), Resources({"CPU": each}))
        for node_id, each in zip(IDS, free, strict=False)
    )


def wish(
    strategy: Strategy,
    *amounts: float,
    held: dict[int, NodeId] | None = None,
    refused_by: frozenset[NodeId] = frozenset(),
) -> GroupWish:
    first = len(held or {})
    specs = {first + i: BundleSpec(Resources({"CPU": each})) for i, each in enumerate(amounts)}
    return GroupWish(strategy, specs, held or {}, refused_by)


def test_pack_uses_two_nodes_where_two_are_enough() -> None:
    found = plan(wish("PACK", 1, 4, 1, 1, 1), nodes_of(1, 1, 8, 4))
    assert found is not None
    assert {*found.values()} == {C}
    found = plan(wish("PACK", 4, 4, 4), nodes_of(4, 4, 8, 4))
    assert found is not None
    assert len({*found.values()}) == 2


def test_scarcest_bundles_are_placed_first() -> None:
    assert plan(wish("SPREAD", 1, 8), nodes_of(8, 1)) == {0: B, 1: A}


def test_packed_group_goes_first_where_it_is_already() -> None:
    assert plan(wish("PACK", 1, held={0: B}), nodes_of(8, 8)) == {1: B}
    # The larger one goes to a node of its own, the smaller one beside what is there.
    assert plan(wish("PACK", 4, 1, held={0: B}), nodes_of(4, 1, 3)) == {1: A, 2: B}


def test_strictly_packed_group_stays_on_the_node_that_it_has() -> None:
    assert plan(wish("STRICT_PACK", 2, held={0: B}), nodes_of(8, 2)) == {1: B}
    assert plan(wish("STRICT_PACK", 4, held={0: B}), nodes_of(8, 2)) is None


def test_node_that_has_refused_is_passed_over() -> None:
    for strategy in STRATEGIES:
        refused = wish(strategy, 1, refused_by=frozenset({A}))
        assert plan(refused, nodes_of(8, 8)) == {0: B}
        assert plan(refused, nodes_of(8)) is None
        assert why_not(refused, nodes_of(8)).endswith("1 node has refused it")
        assert not why_never(refused, nodes_of(8))
    held = wish("PACK", 1, held={0: A}, refused_by=frozenset({A}))
    assert plan(held, nodes_of(8, 8)) == {1: B}


def test_what_can_be_placed_has_no_reason_why_not() -> None:
    assert why_not(wish("PACK", 1), nodes_of(8)) == ""


# ------------------------------------------------------------------ topologies


def racks_of(**free: float) -> Nodes:
    """Return a node for each letter, in the rack of that name (`_`: in none)."""
    return Nodes(
        NodeView(
            node_id,
            Resources({"CPU": 8}),
            Resources({"CPU": each}),
            {} if name.startswith("_") else {"rack": name[0]},
        )
        for node_id, (name, each) in zip(IDS, free.items(), strict=False)
    )


def within_racks(wanted: GroupWish) -> GroupWish:
    return msgspec.structs.replace(wanted, topology="rack")


def test_group_of_a_topology_is_on_nodes_with_one_value_of_its_label() -> None:
    wanted = within_racks(wish("STRICT_SPREAD", 4, 4))
    assert plan(wanted, racks_of(x1=8, y1=8, y2=4)) == {0: C, 1: B}
    assert plan(wanted, racks_of(x1=8, y1=8, y2=3)) is None
    assert plan(wanted, racks_of(_1=8, _2=8)) is None


def test_value_with_the_fewest_nodes_is_taken_and_to_spread_the_one_with_most() -> None:
    nodes = racks_of(x1=2, x2=2, y1=4, y2=4)
    assert plan(within_racks(wish("PACK", 2, 2)), nodes) in ({0: C, 1: C}, {0: D, 1: D})
    found = plan(within_racks(wish("SPREAD", 2, 2)), nodes)
    assert found is not None
    assert {*found.values()} == {A, B}


def test_group_of_a_topology_stays_with_the_value_that_it_has() -> None:
    wanted = within_racks(wish("SPREAD", 4, held={0: C}))
    assert plan(wanted, racks_of(x1=8, x2=8, y1=3, y2=4)) == {1: D}
    full = racks_of(x1=8, x2=8, y1=3, y2=3)
    assert plan(wanted, full) is None
    assert why_not(wanted, full).startswith("where rack is y: bundle 1: needs CPU 4")
    assert not why_never(wanted, full)


def test_group_of_a_topology_says_of_some_values_why_there_is_no_place() -> None:
    wanted = within_racks(wish("STRICT_PACK", 2, 2))
    assert why_not(wanted, racks_of(x1=4)) == ""
    text = why_not(wanted, racks_of(w1=3, x1=3, y1=3, z1=3))
    assert text.startswith(
        "where rack is w: all 2 bundles on one node: needs CPU 4, this node has 3"
    )
    assert text.endswith("; as little with 1 other values")
    has_none = "all its nodes are to have one value of label rack, and none has it"
    assert why_not(wanted, racks_of(_1=8)) == has_none
    assert why_never(wanted, racks_of(_1=8)) == has_none
    held = within_racks(wish("PACK", 1, held={0: A}))
    assert "none that has the others has it" in why_not(held, racks_of(_1=8, x1=8))


@given(
    strategy=st.sampled_from(STRATEGIES),
    free=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    amounts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    held=st.lists(st.sampled_from(IDS), max_size=2),
)
@settings(deadline=None, max_examples=300)
def test_plans_are_right_and_strict_ones_are_found_wherever_there_is_one(
    strategy: Strategy, free: list[int], amounts: list[int], held: list[NodeId]
) -> None:
    nodes = nodes_of(*free)
    held = [node_id for node_id in held if node_id in nodes]
    if strategy == "STRICT_PACK":
        held = held[:1]
    elif strategy == "STRICT_SPREAD":
        held = sorted({*held})
    wanted = wish(strategy, *amounts, held=dict(enumerate(held)))
    before = nodes.views()

    def is_right(places: tuple[NodeId, ...]) -> bool:
        for node_id, left in zip(IDS, free, strict=False):
            if sum(n for n, at in zip(amounts, places, strict=True) if at == node_id) > left:
                return False
        everywhere = [*held, *places]
        if strategy == "STRICT_PACK":
            return len({*everywhere}) == 1
        return strategy != "STRICT_SPREAD" or len({*everywhere}) == len(everywhere)

    found = plan(wanted, nodes)
    reason = why_not(wanted, nodes)
    assert nodes.views() == before
    assert bool(reason) is (found is None)
    if found is not None:
        assert found.keys() == wanted.bundles.keys()
        assert is_right(tuple(found[index] for index in sorted(found)))
    elif strategy.startswith("STRICT"):
        assert not any(map(is_right, product(IDS[: len(free)], repeat=len(amounts))))
