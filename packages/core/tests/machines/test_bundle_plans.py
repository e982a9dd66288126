from __future__ import annotations

from itertools import product

import hypothesis.strategies as st
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
