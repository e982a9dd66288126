from __future__ import annotations

import pytest

import weft
from weft.exceptions import OptionError, TaskUnschedulableError
from weft.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)


def test_task_runs_on_the_node_that_is_named(engine: str) -> None:
    @weft.remote
    def node() -> str:
        return weft.get_runtime_context().get_node_id()

    here = weft.nodes()[0]["NodeID"]
    strategy = NodeAffinitySchedulingStrategy(here, soft=False)
    assert weft.get(node.options(scheduling_strategy=strategy).remote()) == here
    assert here in repr(strategy)


def test_node_that_is_not_there_will_do_only_if_it_is_soft(engine: str) -> None:
    @weft.remote
    def one() -> int:
        return 1

    elsewhere = "0" * 32
    hard = NodeAffinitySchedulingStrategy(elsewhere, soft=False)
    with pytest.raises(TaskUnschedulableError):
        weft.get(one.options(scheduling_strategy=hard).remote())
    soft = NodeAffinitySchedulingStrategy(elsewhere, soft=True)
    assert weft.get(one.options(scheduling_strategy=soft).remote()) == 1


def test_strategy_shows_its_conditions_as_selectors_write_them() -> None:
    strategy = NodeLabelSchedulingStrategy(
        hard={"disk": In("ssd", "nvme"), "gpu": DoesNotExist()},
        soft={"zone": NotIn("b"), "rack": Exists()},
    )
    assert repr(strategy) == (
        "NodeLabelSchedulingStrategy({'disk': 'in(ssd,nvme)', 'gpu': '!exists()'}, "
        "soft={'zone': '!in(b)', 'rack': 'exists()'})"
    )


def test_wrong_conditions_are_refused() -> None:
    with pytest.raises(OptionError, match="needs a condition"):
        NodeLabelSchedulingStrategy({})
    with pytest.raises(OptionError, match="has to hold In"):
        NodeLabelSchedulingStrategy({"disk": "ssd"})  # type: ignore[dict-item]
    with pytest.raises(OptionError, match="at least one"):
        In()
    with pytest.raises(OptionError, match="plain word"):
        NotIn("a,b")
    with pytest.raises(OptionError, match="hexadecimal"):
        NodeAffinitySchedulingStrategy(b"1", soft=False)  # type: ignore[arg-type]
