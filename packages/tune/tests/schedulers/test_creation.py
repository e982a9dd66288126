"""Schedulers by name, and the scheduler that does nothing."""

from __future__ import annotations

from typing import Any

import pytest

from weft.exceptions import OptionError
from weft.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    create_scheduler,
)
from weft.tune.schedulers.creation import SCHEDULERS


@pytest.mark.parametrize(
    ("name", "arguments", "made"),
    [
        ("fifo", {}, FIFOScheduler),
        ("async_hyperband", {"max_t": 9}, ASHAScheduler),
        ("ASHA", {}, ASHAScheduler),
        ("hyperband", {"metric": "loss", "mode": "min"}, HyperBandScheduler),
        ("median_stopping_rule", {}, MedianStoppingRule),
        ("pbt", {"hyperparam_mutations": {"lr": [1, 2]}}, PopulationBasedTraining),
    ],
)
def test_scheduler_is_made_by_its_name(name: str, arguments: dict[str, Any], made: type) -> None:
    assert type(create_scheduler(name, **arguments)) is made


def test_unknown_name_is_told_with_those_that_are_known() -> None:
    with pytest.raises(OptionError, match="no scheduler 'hyperbad', did you mean 'hyperband'") as e:
        create_scheduler("hyperbad")
    assert all(name in str(e.value) for name in SCHEDULERS)
    with pytest.raises(OptionError, match="no scheduler 'x'; there are: "):
        create_scheduler("x")


def test_unknown_argument_is_told_with_those_that_are_known() -> None:
    with pytest.raises(OptionError, match=r"takes no maxt; it takes: time_attr, metric, .*max_t"):
        create_scheduler("asha", maxt=3)
    with pytest.raises(OptionError, match="FIFOScheduler takes no metric; it takes: nothing"):
        create_scheduler("fifo", metric="loss")


def test_trials_do_not_wait_for_fifo_and_wait_for_those_made_from_it() -> None:
    class Deciding(FIFOScheduler):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> Any:
            return self.STOP

    class Renamed(FIFOScheduler):
        pass

    class Quick(FIFOScheduler):
        supports_buffered_results = True

        def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> Any:
            return self.CONTINUE

    assert FIFOScheduler.supports_buffered_results
    assert Renamed.supports_buffered_results
    assert Quick.supports_buffered_results
    assert not Deciding.supports_buffered_results
