from __future__ import annotations

import pytest

from weft._ids import NodeId
from weft._machines.placement import Never, NodeView, Placed, Waits, is_match, place
from weft._resources import Resources
from weft._specs import Shape

A = NodeId(b"a" * 16)
B = NodeId(b"b" * 16)


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
    strategy: str = "DEFAULT", labels: dict[str, str] | None = None, **amounts: float
) -> Shape:
    units = tuple(sorted(Resources(amounts).items()))
    return Shape(amounts=units, strategy=strategy, labels=tuple((labels or {}).items()))


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
    nodes = [node(A, {"CPU": 1}), node(B, {"CPU": 4}, {})]
    assert place(shape(CPU=2), nodes) == Waits({B: "needs CPU 2, this node has 0 free"})


def test_default_prefers_the_local_node_below_half_load() -> None:
    nodes = [node(A, {"CPU": 4}, {"CPU": 3}), node(B, {"CPU": 4}, {"CPU": 3}, is_local=True)]
    assert place(shape(CPU=1), nodes) == Placed(B)


def test_default_packs_below_half_load() -> None:
    nodes = [node(A, {"CPU": 4}), node(B, {"CPU": 4}, {"CPU": 3})]
    assert place(shape(CPU=1), nodes) == Placed(B)


def test_default_spreads_above_half_load() -> None:
    nodes = [node(A, {"CPU": 4}, {"CPU": 1}, is_local=True), node(B, {"CPU": 4}, {"CPU": 1.5})]
    assert place(shape(CPU=1), nodes) == Placed(B)


def test_spread_takes_the_least_loaded_node() -> None:
    nodes = [node(A, {"CPU": 4}, {"CPU": 3}, is_local=True), node(B, {"CPU": 4})]
    assert place(shape("SPREAD", CPU=1), nodes) == Placed(B)


def test_soft_affinity_prefers_its_node_and_falls_back() -> None:
    strategy = f"node:{B.hex()}:soft"
    nodes = [node(A, {"CPU": 4}, is_local=True), node(B, {"CPU": 4})]
    assert place(shape(strategy, CPU=1), nodes) == Placed(B)
    assert place(shape(strategy, CPU=1), nodes[:1]) == Placed(A)


def test_hard_affinity_takes_no_other_node() -> None:
    strategy = f"node:{B.hex()}:hard"
    nodes = [node(A, {"CPU": 4}, is_local=True), node(B, {"CPU": 4})]
    assert place(shape(strategy, CPU=1), nodes) == Placed(B)
    found = place(shape(strategy, CPU=1), nodes[:1])
    assert isinstance(found, Never)
    assert found.text() == f"needs node {B.hex()}, this is node {A.hex()}"


@pytest.mark.parametrize("strategy", ["node:xyz:hard", "node:only", "PACK", f"disk:{A.hex()}:hard"])
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
    ],
)
def test_label_conditions(condition: str, matches: bool) -> None:
    assert is_match((("region", condition),), {"region": "eu"}) is matches


def test_label_that_is_missing_matches_only_negations() -> None:
    assert not is_match((("region", "eu"),), {})
    assert is_match((("region", "!eu"),), {})


def test_label_that_no_node_has_is_named() -> None:
    found = place(
        shape(labels={"region": "eu"}, CPU=1), [node(A, {"CPU": 1}, labels={"region": "us"})]
    )
    assert isinstance(found, Never)
    assert found.text() == "needs label region=eu, this node has us"
    found = place(shape(labels={"region": "eu"}, CPU=1), [node(A, {"CPU": 1})])
    assert isinstance(found, Never)
    assert "this node has no such label" in found.text()
