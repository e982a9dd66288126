from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from weft._ids import NodeId, PlacementGroupId
from weft._machines.placement import (
    LINES,
    BundleView,
    Never,
    NodeView,
    Placed,
    Waits,
    is_match,
    place,
)
from weft._resources import Resources
from weft._specs import Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

A = NodeId(b"a" * 16)
B = NodeId(b"b" * 16)
C = NodeId(b"c" * 16)
G = PlacementGroupId(b"g" * 16)


def node(
    node_id: NodeId, total: dict[str, float], free: dict[str, float] | None = None, **facts: object
) -> NodeView:
    return NodeView(
        node_id=node_id,
        total=Resources(total),
        free=Resources(total if free is None else free),
        **facts,  # type: ignore[arg-type]
    )


def shape(
    strategy: str = "DEFAULT",
    labels: dict[str, str] | None = None,
    fallbacks: Sequence[dict[str, str]] = (),
    preferred: dict[str, str] | None = None,
    **amounts: float,
) -> Shape:
    return Shape(
        amounts=tuple(sorted(Resources(amounts).items())),
        strategy=strategy,
        labels=tuple((labels or {}).items()),
        fallbacks=tuple(tuple(each.items()) for each in fallbacks),
        preferred=tuple((preferred or {}).items()),
    )


def test_demand_over_the_total_is_never_placed_and_the_numbers_say_why() -> None:
    found = place(shape(CPU=4, GPU=1), [node(A, {"CPU": 2})])
    assert isinstance(found, Never)
    assert found.text() == "needs CPU 4, this node has 2; needs GPU 1, this node has 0"


def test_without_nodes_nothing_is_placed() -> None:
    found = place(shape(CPU=1), [])
    assert isinstance(found, Never)
    assert found.text() == "there is no node"


def test_demand_that_fits_the_total_waits_for_what_is_in_use() -> None:
    found = place(shape(CPU=2), [node(A, {"CPU": 2}, {"CPU": 0.5})])
    assert found == Waits({A: "needs CPU 2, this node has 0.5 free"})


def test_a_node_that_cannot_hold_it_does_not_make_it_wait() -> None:
    nodes = [node(A, {"CPU": 1})]
    assert isinstance(place(shape(CPU=2), nodes), Never)
    assert place(shape(CPU=2), [*nodes, node(B, {"CPU": 4}, {})]) == Waits(
        {A: "needs CPU 2, this node has 1", B: "needs CPU 2, this node has 0 free"}
    )


def test_default_prefers_the_local_node_below_half_load() -> None:
    nodes = [node(A, {"CPU": 4}, {"CPU": 3}), node(B, {"CPU": 4}, {"CPU": 3}, is_local=True)]
    assert place(shape(CPU=1), nodes) == Placed(B)


def test_default_packs_below_half_load() -> None:
    nodes = [node(A, {"CPU": 4}), node(B, {"CPU": 4}, {"CPU": 3})]
    assert place(shape(CPU=1), nodes) == Placed(B)


def test_default_spreads_above_half_load() -> None:
    nodes = [node(A, {"CPU": 4}, {"CPU": 1}, is_local=True), node(B, {"CPU": 4}, {"CPU": 1.5})]
    assert place(shape(CPU=1), nodes) == Placed(B)


def test_daemons_that_decide_alike_begin_with_different_nodes() -> None:
    ids = [NodeId(hashlib.sha256(bytes([i])).digest()[:16]) for i in range(40)]
    nodes = [node(each, {"CPU": 4}) for each in ids]
    chosen = {place(shape(CPU=1), nodes, near=each) for each in ids}
    assert len(chosen) > 20
    assert place(shape(CPU=1), nodes) == Placed(min(ids))


def test_spread_goes_round_the_nodes_that_have_it_free() -> None:
    nodes = [node(B, {"CPU": 4}), node(C, {"CPU": 4}, {}), node(A, {"CPU": 4}, is_local=True)]
    wanted = shape("SPREAD", CPU=1)
    assert place(wanted, nodes) == Placed(A)
    assert place(wanted, nodes, after=A) == Placed(B)
    assert place(wanted, nodes, after=B) == Placed(A)
    assert place(wanted, nodes, after=NodeId(b"z" * 16)) == Placed(A)


def test_soft_affinity_prefers_its_node_and_falls_back_when_that_is_gone_or_too_small() -> None:
    strategy = f"node:{B.hex()}:soft"
    nodes = [node(A, {"CPU": 4}, is_local=True), node(B, {"CPU": 2})]
    assert place(shape(strategy, CPU=1), nodes) == Placed(B)
    assert place(shape(strategy, CPU=1), nodes[:1]) == Placed(A)
    assert place(shape(strategy, CPU=3), nodes) == Placed(A)
    draining = [nodes[0], node(B, {"CPU": 2}, draining="preemption")]
    assert place(shape(strategy, CPU=1), draining) == Placed(A)


def test_soft_affinity_waits_for_its_node_and_one_that_may_spill_does_not() -> None:
    nodes = [node(A, {"CPU": 4}, is_local=True), node(B, {"CPU": 2}, {})]
    assert place(shape(f"node:{B.hex()}:soft", CPU=1), nodes) == Waits(
        {
            A: "would do, but another node is waited for",
            B: "needs CPU 1, this node has 0 free",
        }
    )
    assert place(shape(f"node:{B.hex()}:spill", CPU=1), nodes) == Placed(A)
    free = [nodes[0], node(B, {"CPU": 2}, {"CPU": 1})]
    assert place(shape(f"node:{B.hex()}:spill", CPU=1), free) == Placed(B)


def test_hard_affinity_takes_no_other_node() -> None:
    strategy = f"node:{B.hex()}:hard"
    nodes = [node(A, {"CPU": 4}, is_local=True), node(B, {"CPU": 4})]
    assert place(shape(strategy, CPU=1), nodes) == Placed(B)
    found = place(shape(strategy, CPU=1), nodes[:1])
    assert isinstance(found, Never)
    assert found.text() == f"needs node {B.hex()}, this node has another id"


@pytest.mark.parametrize(
    "strategy",
    ["node:xyz:hard", "node:only", "PACK", f"disk:{A.hex()}:hard", f"group:{A.hex()}:first"],
)
def test_unknown_strategy_is_never_placed(strategy: str) -> None:
    found = place(shape(strategy, CPU=1), [node(A, {"CPU": 4})])
    assert isinstance(found, Never)
    assert strategy in found.text()


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        ("eu", True),
        ("us", False),
        ("!eu", False),
        ("!us", True),
        ("in(us, eu)", True),
        ("in(us,asia)", False),
        ("!in(us,eu)", False),
        ("!in(us,asia)", True),
        ("exists()", True),
        ("!exists()", False),
    ],
)
def test_label_conditions(condition: str, matches: bool) -> None:
    assert is_match((("region", condition),), {"region": "eu"}) is matches


def test_label_that_is_missing_matches_only_negations() -> None:
    assert not is_match((("region", "eu"),), {})
    assert is_match((("region", "!eu"),), {})
    assert not is_match((("region", "exists()"),), {})
    assert is_match((("region", "!exists()"),), {})


def why_never(wanted: Shape, *nodes: NodeView) -> str:
    found = place(wanted, list(nodes))
    assert isinstance(found, Never)
    return found.text()


def test_label_that_no_node_has_is_named_with_those_that_there_are() -> None:
    wanted = shape(labels={"region": "eu"}, CPU=1)
    assert (
        why_never(wanted, node(A, {"CPU": 1}, labels={"region": "us", "disk": "ssd"}))
        == "needs label region=eu, this node has disk=ssd, region=us"
    )
    assert why_never(wanted, node(A, {"CPU": 1})).endswith("this node has no labels")


def test_labels_that_every_node_has_are_told_only_to_who_asks_for_them() -> None:
    labels = {"weft.io/node-id": "12", "disk": "ssd"}
    wanted = shape(labels={"region": "exists()"})
    assert why_never(wanted, node(A, {}, labels=labels)).endswith("this node has disk=ssd")
    wanted = shape(labels={"weft.io/node-id": "34"})
    assert (
        why_never(wanted, node(A, {}, labels=labels))
        == "needs label weft.io/node-id=34, this node has disk=ssd, weft.io/node-id=12"
    )


def test_nodes_that_are_alike_are_told_once() -> None:
    nodes = [node(at, {"CPU": 1}, labels={"region": "us"}) for at in (A, B)]
    wanted = shape(labels={"region": "eu"}, CPU=1)
    assert why_never(wanted, *nodes) == "needs label region=eu, 2 nodes have region=us"


def test_reasons_of_many_nodes_are_told_in_a_bounded_number_of_lines() -> None:
    nodes = [node(NodeId(bytes([i] * 16)), {"CPU": i}) for i in range(1, 21)]
    text = why_never(shape(CPU=30), *nodes, node(A, {"CPU": 20}))
    assert text.startswith("needs CPU 30, 2 nodes have 20; needs CPU 30, node 010101010101 has 1;")
    assert text.count("needs CPU 30") == LINES
    assert text.endswith("and 12 nodes more, for reasons like these")


def test_node_that_is_too_small_and_has_other_labels_is_told_both() -> None:
    wanted = shape(labels={"region": "eu"}, CPU=2)
    assert (
        why_never(wanted, node(A, {"CPU": 1}, labels={"region": "us"}))
        == "needs label region=eu, this node has region=us; needs CPU 2, this node has 1"
    )


# ------------------------------------------------------------------ fallbacks


EU, US = {"region": "eu"}, {"region": "us"}


def test_first_fallback_that_some_node_meets_counts() -> None:
    nodes = [node(A, {"CPU": 4}, labels=EU), node(B, {"CPU": 4}, labels=US)]
    wanted = shape(labels={"region": "asia"}, fallbacks=[{"region": "africa"}, US, EU], CPU=1)
    assert place(wanted, nodes) == Placed(B)


def test_selector_that_a_node_can_meet_is_waited_for_although_a_fallback_is_free() -> None:
    nodes = [node(A, {"CPU": 4}, {"CPU": 0.5}, labels=EU), node(B, {"CPU": 4}, labels=US)]
    found = place(shape(labels=EU, fallbacks=[US], CPU=1), nodes)
    assert found == Waits(
        {
            A: "needs CPU 1, this node has 0.5 free",
            B: "would do, but another node is waited for",
        }
    )


def test_node_that_is_too_small_does_not_keep_from_the_fallback() -> None:
    nodes = [node(A, {"CPU": 1}, labels=EU), node(B, {"CPU": 4}, labels=US)]
    assert place(shape(labels=EU, fallbacks=[US], CPU=2), nodes) == Placed(B)


def test_node_that_is_not_the_named_one_does_not_keep_from_the_fallback() -> None:
    nodes = [node(A, {"CPU": 4}, labels=EU), node(B, {"CPU": 4}, labels=US)]
    strategy = f"node:{B.hex()}:hard"
    assert place(shape(strategy, labels=EU, fallbacks=[US], CPU=2), nodes) == Placed(B)


def test_fallbacks_that_no_node_meets_are_all_named() -> None:
    wanted = shape(labels={"disk": "ssd", "zone": "a"}, fallbacks=[{"zone": "b"}], CPU=1)
    assert (
        why_never(wanted, node(A, {"CPU": 1}, labels={"disk": "ssd", "zone": "c"}))
        == "needs label zone=a or else zone=b, this node has disk=ssd, zone=c"
    )


def test_labels_are_not_blamed_where_a_fallback_is_met_and_the_node_too_small() -> None:
    wanted = shape(labels=EU, fallbacks=[US], CPU=2)
    assert why_never(wanted, node(A, {"CPU": 1}, labels=US)) == "needs CPU 2, this node has 1"


# ------------------------------------------------------------------ preferred labels


def test_node_that_meets_most_of_what_is_preferred_comes_first() -> None:
    nodes = [
        node(A, {"CPU": 4}, {"CPU": 3}, labels={"disk": "ssd"}, is_local=True),
        node(B, {"CPU": 4}, labels={"disk": "ssd", "zone": "b"}),
    ]
    assert place(shape(CPU=1), nodes) == Placed(A)
    assert place(shape(preferred={"zone": "b"}, CPU=1), nodes) == Placed(B)
    assert place(shape(preferred={"disk": "ssd", "zone": "b"}, CPU=1), nodes) == Placed(B)
    assert place(shape(preferred={"disk": "ssd", "zone": "!b"}, CPU=1), nodes) == Placed(A)


def test_node_that_meets_nothing_of_what_is_preferred_will_do() -> None:
    assert place(shape(preferred={"zone": "b"}, CPU=1), [node(A, {"CPU": 1})]) == Placed(A)


def test_preferred_node_is_not_waited_for() -> None:
    nodes = [node(A, {"CPU": 4}), node(B, {"CPU": 4}, {}, labels={"zone": "b"})]
    assert place(shape(preferred={"zone": "b"}, CPU=1), nodes) == Placed(A)


def test_what_is_preferred_does_not_replace_what_has_to_hold() -> None:
    nodes = [node(A, {"CPU": 4}, labels=EU), node(B, {"CPU": 4}, labels={"zone": "b"})]
    assert place(shape(labels=EU, preferred={"zone": "b"}, CPU=1), nodes) == Placed(A)


# ------------------------------------------------------------------ where the arguments are


def test_node_with_most_bytes_of_the_arguments_comes_first_if_it_has_it_free() -> None:
    nodes = [node(A, {"CPU": 4}, is_local=True), node(B, {"CPU": 4}), node(C, {"CPU": 4}, {})]
    bytes_at = {A: 10, B: 20, C: 30}
    assert place(shape(CPU=1), nodes, bytes_at=bytes_at) == Placed(B)
    assert place(shape(CPU=1), nodes, bytes_at={B: 10, A: 10}) == Placed(A)


def test_bytes_count_less_than_what_the_shape_wishes_for() -> None:
    nodes = [node(A, {"CPU": 4}), node(B, {"CPU": 4}, labels={"zone": "b"}), node(C, {"CPU": 4})]
    bytes_at = {A: 10}
    assert place(shape(preferred={"zone": "b"}, CPU=1), nodes, bytes_at=bytes_at) == Placed(B)
    assert place(shape(f"node:{C.hex()}:soft", CPU=1), nodes, bytes_at=bytes_at) == Placed(C)
    assert place(shape("SPREAD", CPU=1), nodes, bytes_at={B: 10}) == Placed(A)


def test_fractions_and_custom_resources_are_counted_exactly() -> None:
    nodes = [node(A, {"CPU": 1, "licence": 0.3}, {"CPU": 1, "licence": 0.1})]
    assert place(shape(CPU=0.1, licence=0.1), nodes) == Placed(A)
    assert place(shape(CPU=0.1, licence=0.1001), nodes) == Waits(
        {A: "needs licence 0.1001, this node has 0.1 free"}
    )


# ------------------------------------------------------------------ draining


def test_of_several_nodes_it_is_said_which_or_how_many_fall_short() -> None:
    lent_twice = Resources({"CPU": 4}) - Resources({"CPU": 5})
    busy = msgspec.structs.replace(node(A, {"CPU": 4}), free=lent_twice)
    found = place(shape(CPU=1), [busy, node(B, {}), node(C, {})])
    assert isinstance(found, Waits)
    assert found.text() == "needs CPU 1, 2 nodes have 0; needs CPU 1, node 616161616161 has 0 free"
    going = [node(each, {"CPU": 4}, draining="it is drained") for each in (A, B)]
    assert why_never(shape(CPU=1), *going) == "2 nodes take nothing new: it is drained"
    assert (
        why_never(shape(f"node:{C.hex()}:hard", CPU=1), *going)
        == f"needs node {C.hex()}, 2 nodes have another id"
    )
    unknown = why_never(Shape((), "unheard of"), *going)
    assert unknown == "strategy 'unheard of' is not known (2 nodes)"


def test_memory_is_told_as_people_write_it() -> None:
    assert why_never(shape(memory=3 << 30), node(A, {"memory": 2 << 30})) == (
        "needs memory 3.0 GiB, this node has 2.0 GiB"
    )


def test_draining_node_takes_nothing() -> None:
    nodes = [node(A, {"CPU": 4}, draining="preemption", is_local=True), node(B, {"CPU": 4})]
    assert place(shape(CPU=1), nodes) == Placed(B)
    assert why_never(shape(CPU=1), nodes[0]) == "this node takes nothing new: preemption"


# ------------------------------------------------------------------ bundles


def bundle(total: float, free: float | None = None, bundles: int = 2) -> BundleView:
    left = total if free is None else free
    return BundleView(Resources({"CPU": total}), Resources({"CPU": left}), bundles)


def in_group(index: object = "any", cpus: float = 1, labels: dict[str, str] | None = None) -> Shape:
    return shape(f"group:{G.hex()}:{index}", labels, CPU=cpus)


def test_demand_of_a_group_goes_into_the_bundle_that_it_names() -> None:
    nodes = [
        node(A, {"CPU": 4}, {}, bundles={G: {0: bundle(2)}}),
        node(B, {"CPU": 4}, bundles={G: {1: bundle(2)}}),
    ]
    assert place(in_group(0), nodes) == Placed(A, 0)
    assert place(in_group(1), nodes) == Placed(B, 1)


def test_demand_of_a_group_goes_into_any_bundle_that_has_it_free_the_fullest_first() -> None:
    bundles = {0: bundle(4), 1: bundle(4, 2), 2: bundle(4, 0)}
    nodes = [node(A, {"CPU": 16}, bundles={G: bundles}), node(B, {"CPU": 16})]
    assert place(in_group(cpus=2), nodes) == Placed(A, 1)
    assert place(in_group(cpus=3), nodes) == Placed(A, 0)


def test_demand_of_a_group_waits_for_its_bundle_although_the_node_is_idle() -> None:
    nodes = [node(A, {"CPU": 4}, bundles={G: {0: bundle(2, 0.5)}}), node(B, {"CPU": 4})]
    assert place(in_group(0), nodes) == Waits(
        {
            A: "needs CPU 1, bundle 0 has 0.5 free",
            B: f"needs bundle 0 of placement group {G.hex()}, this node has none",
        }
    )


def test_demand_of_a_group_waits_while_bundles_are_on_their_way() -> None:
    nodes = [node(A, {"CPU": 4}, bundles={G: {0: bundle(1)}})]
    assert isinstance(place(in_group(1), nodes), Waits)
    assert isinstance(place(in_group(cpus=2), nodes), Waits)
    assert isinstance(place(in_group(), [node(A, {"CPU": 4})]), Waits)
    assert isinstance(place(in_group(), []), Waits)


def test_demand_that_no_bundle_of_its_group_can_hold_is_never_placed() -> None:
    nodes = [node(A, {"CPU": 4}, bundles={G: {0: bundle(1), 1: bundle(2)}})]
    assert why_never(in_group(cpus=3), *nodes) == (
        "needs CPU 3, bundle 0 has 1; needs CPU 3, bundle 1 has 2"
    )
    assert why_never(in_group(0, cpus=2), *nodes) == "needs CPU 2, bundle 0 has 1"


def test_demand_of_a_group_meets_labels_as_well() -> None:
    nodes = [
        node(A, {"CPU": 4}, bundles={G: {0: bundle(1)}}),
        node(B, {"CPU": 4}, bundles={G: {1: bundle(1)}}, labels=EU),
    ]
    assert place(in_group(labels=EU), nodes) == Placed(B, 1)
    assert "needs label region=us" in why_never(in_group(labels=US), *nodes)


def test_bundle_of_a_draining_node_is_waited_for() -> None:
    nodes = [node(A, {"CPU": 4}, draining="idle", bundles={G: {0: bundle(1, bundles=1)}})]
    assert place(in_group(), nodes) == Waits({A: "this node takes nothing new: idle"})
