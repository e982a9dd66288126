"""Where tasks and actors have to run: nodes by id, labels, fallbacks."""

# ruff: noqa: D101, D102, D103, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.exceptions import ActorError, OptionError, UnschedulableError
from weft.testing.semantics.engines import LIMIT_S, EngineSemantics
from weft.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)

if TYPE_CHECKING:
    from weft.util.scheduling_strategies import LabelCondition


@weft.remote
def here() -> str:
    return weft.get_runtime_context().get_node_id()


@weft.remote
class Resident:
    @weft.method
    def here(self) -> str:
        return weft.get_runtime_context().get_node_id()


def runs(**options: Any) -> bool:
    """Run a task and an actor with these options on the one node there is."""
    node = weft.get_runtime_context().get_node_id()
    ran = [here.options(**options).remote(), Resident.options(**options).remote().here.remote()]
    return weft.get(ran, timeout=LIMIT_S) == [node, node]


def never_runs(*words: str, **options: Any) -> None:
    """Check that neither a task nor an actor can run, and that the error says so."""
    for ref in (
        here.options(**options).remote(),
        Resident.options(**options).remote().here.remote(),
    ):
        with pytest.raises((UnschedulableError, ActorError)) as caught:
            weft.get(ref, timeout=LIMIT_S)
        for word in words:
            assert word in str(caught.value)


def on(hard: dict[str, LabelCondition] | None = None, **soft: LabelCondition) -> Any:
    return NodeLabelSchedulingStrategy(hard, soft=soft)


class PlacementSemantics(EngineSemantics):
    options = {"num_cpus": 4, "labels": {"disk": "ssd", "zone": "b"}}  # noqa: RUF012 - a Mapping

    # ---------------------------------------------------------------- a node by its id

    def test_hard_affinity_to_this_node_works(self) -> None:
        node = weft.get_runtime_context().get_node_id()
        assert runs(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))

    def test_hard_affinity_to_no_node_fails(self) -> None:
        nowhere = NodeAffinitySchedulingStrategy("0" * 32, soft=False)
        never_runs("needs node 00000", scheduling_strategy=nowhere)

    def test_soft_affinity_to_no_node_runs_elsewhere(self) -> None:
        assert runs(scheduling_strategy=NodeAffinitySchedulingStrategy("0" * 32, soft=True))

    # ---------------------------------------------------------------- label selectors

    @pytest.mark.parametrize(
        ("label", "condition"),
        [
            ("disk", "ssd"),
            ("disk", "in(hdd,ssd)"),
            ("disk", "exists()"),
            ("zone", "!a"),
            ("zone", "!in(a,c)"),
            ("rack", "!exists()"),
            ("rack", "!7"),
        ],
    )
    def test_condition_that_the_node_meets_lets_it_run(self, label: str, condition: str) -> None:
        assert runs(label_selector={label: condition})

    @pytest.mark.parametrize(
        ("label", "condition"),
        [
            ("disk", "hdd"),
            ("disk", "!ssd"),
            ("disk", "in(hdd,tape)"),
            ("disk", "!exists()"),
            ("rack", "7"),
            ("rack", "in(7,8)"),
            ("rack", "exists()"),
        ],
    )
    def test_condition_that_no_node_meets_fails_with_it_and_the_labels_that_there_are(
        self, label: str, condition: str
    ) -> None:
        never_runs(
            f"needs label {label}={condition}, this node has disk=ssd, zone=b",
            label_selector={label: condition},
        )

    def test_what_no_node_can_ever_meet_fails_within_a_second(self) -> None:
        took_s = []
        for _ in range(3):
            began = time.monotonic()
            never_runs("disk=hdd", label_selector={"disk": "hdd"})
            took_s.append(time.monotonic() - began)
        assert min(took_s) < 1

    def test_all_conditions_of_a_selector_have_to_hold(self) -> None:
        never_runs("zone=a", label_selector={"disk": "ssd", "zone": "a"})

    # ---------------------------------------------------------------- fallbacks

    def test_fallback_is_taken_where_the_selector_cannot_be_met(self) -> None:
        fallbacks = [{"label_selector": {"disk": "tape"}}, {"label_selector": {"disk": "ssd"}}]
        assert runs(label_selector={"disk": "hdd"}, fallback_strategy=fallbacks)

    def test_fallback_without_conditions_is_met_by_every_node(self) -> None:
        assert runs(label_selector={"disk": "hdd"}, fallback_strategy=[{"label_selector": {}}])

    def test_selector_that_is_met_needs_no_fallback(self) -> None:
        fallbacks = [{"label_selector": {"disk": "tape"}}]
        assert runs(label_selector={"disk": "ssd"}, fallback_strategy=fallbacks)

    def test_fallbacks_that_cannot_be_met_either_are_all_named(self) -> None:
        fallbacks = [{"label_selector": {"disk": "tape"}}, {"label_selector": {"zone": "in(a,c)"}}]
        never_runs(
            "needs label disk=hdd or else disk=tape or else zone=in(a,c), "
            "this node has disk=ssd, zone=b",
            label_selector={"disk": "hdd"},
            fallback_strategy=fallbacks,
        )

    def test_fallback_replaces_the_labels_alone(self) -> None:
        never_runs(
            "needs CPU 1000",
            num_cpus=1000,
            label_selector={"disk": "hdd"},
            fallback_strategy=[{"label_selector": {"disk": "ssd"}}],
        )

    # ---------------------------------------------------------------- strategies that name labels

    def test_strategy_whose_conditions_hold_lets_it_run(self) -> None:
        assert runs(
            scheduling_strategy=on(
                {"disk": In("hdd", "ssd"), "zone": NotIn("a"), "rack": DoesNotExist()}
            )
        )
        assert runs(scheduling_strategy=on({"disk": Exists(), "rack": NotIn("7")}))

    @pytest.mark.parametrize(
        ("label", "condition", "written"),
        [
            ("disk", In("hdd", "tape"), "disk=in(hdd,tape)"),
            ("disk", NotIn("ssd"), "disk=!in(ssd)"),
            ("rack", Exists(), "rack=exists()"),
            ("zone", DoesNotExist(), "zone=!exists()"),
        ],
    )
    def test_hard_condition_that_no_node_meets_fails_with_it_and_the_labels_that_there_are(
        self, label: str, condition: LabelCondition, written: str
    ) -> None:
        never_runs(
            f"needs label {written}, this node has disk=ssd, zone=b",
            scheduling_strategy=on({label: condition}),
        )

    def test_soft_condition_that_no_node_meets_is_let_go(self) -> None:
        assert runs(scheduling_strategy=on(disk=In("hdd")))
        assert runs(scheduling_strategy=on({"disk": In("ssd")}, zone=NotIn("b"), rack=Exists()))

    def test_strategy_and_selector_have_to_hold_both(self) -> None:
        strategy = on({"disk": In("ssd")})
        assert runs(scheduling_strategy=strategy, label_selector={"zone": "b"})
        never_runs("zone=a", scheduling_strategy=strategy, label_selector={"zone": "a"})
        never_runs("disk=!ssd", scheduling_strategy=strategy, label_selector={"disk": "!ssd"})

    def test_hard_conditions_hold_for_fallbacks_too(self) -> None:
        options = {
            "label_selector": {"zone": "a"},
            "fallback_strategy": [{"label_selector": {"zone": "b"}}],
        }
        assert runs(scheduling_strategy=on({"disk": In("ssd")}), **options)
        never_runs("disk=in(hdd)", scheduling_strategy=on({"disk": In("hdd")}), **options)

    def test_what_is_no_strategy_is_refused_at_the_call(self) -> None:
        with pytest.raises(OptionError, match="NodeLabelSchedulingStrategy"):
            here.options(scheduling_strategy={"disk": In("ssd")})
