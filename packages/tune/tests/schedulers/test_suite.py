"""The suite of schedulers on each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("weft.tune.testing.scheduler_suite")

from weft.tune.schedulers import (  # noqa: E402 - its assertions are rewritten first
    ASHAScheduler,
    FIFOScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    ResourceChangingScheduler,
)
from weft.tune.schedulers.pb2 import PB2  # noqa: E402
from weft.tune.testing.scheduler_suite import SchedulerSuite  # noqa: E402

if TYPE_CHECKING:
    from weft.tune.schedulers import TrialScheduler

OBJECTIVE = {"time_attr": "training_iteration", "metric": "score", "mode": "max"}


class TestFIFO(SchedulerSuite):
    reads_results = False

    def make_scheduler(self) -> TrialScheduler:
        return FIFOScheduler()


class TestASHA(SchedulerSuite):
    def make_scheduler(self) -> TrialScheduler:
        return ASHAScheduler(**OBJECTIVE, max_t=20, reduction_factor=2)


class TestASHAWithBrackets(SchedulerSuite):
    def make_scheduler(self) -> TrialScheduler:
        return ASHAScheduler(**OBJECTIVE, max_t=30, reduction_factor=3, brackets=3)


class TestHyperBand(SchedulerSuite):
    def make_scheduler(self) -> TrialScheduler:
        return HyperBandScheduler(**OBJECTIVE, max_t=9)


class TestHyperBandWithoutLimit(SchedulerSuite):
    def make_scheduler(self) -> TrialScheduler:
        return HyperBandScheduler(
            **OBJECTIVE, max_t=5, reduction_factor=1.7, stop_last_trials=False
        )


class TestHyperBandForBOHB(SchedulerSuite):
    def make_scheduler(self) -> TrialScheduler:
        return HyperBandForBOHB(**OBJECTIVE, max_t=9)


class TestMedianStopping(SchedulerSuite):
    def make_scheduler(self) -> TrialScheduler:
        return MedianStoppingRule(**OBJECTIVE, grace_period=2, min_samples_required=2)


class TestMedianPausing(SchedulerSuite):
    def make_scheduler(self) -> TrialScheduler:
        return MedianStoppingRule(
            **OBJECTIVE,
            grace_period=2,
            min_samples_required=3,
            min_time_slice=3,
            hard_stop=False,
        )


class TestPBT(SchedulerSuite):
    def make_scheduler(self) -> TrialScheduler:
        return PopulationBasedTraining(
            **OBJECTIVE,
            perturbation_interval=2,
            hyperparam_mutations={"x": [0.1, 0.2, 0.4], "drawn": [1, 2]},
            quantile_fraction=0.5,
            seed=1,
        )


class TestPBTThatWaits(SchedulerSuite):
    def make_scheduler(self) -> TrialScheduler:
        return PopulationBasedTraining(
            **OBJECTIVE,
            perturbation_interval=3,
            hyperparam_mutations={"x": [0.1, 0.2, 0.4]},
            synch=True,
            seed=1,
        )


class TestPB2(SchedulerSuite):
    def make_scheduler(self) -> TrialScheduler:
        return PB2(
            **OBJECTIVE,
            perturbation_interval=7,
            hyperparam_bounds={"x": [0.0, 2.0], "n": [1, 10]},
            seed=1,
        )


class TestResourceChanging(SchedulerSuite):
    reads_results = False

    def make_scheduler(self) -> TrialScheduler:
        return ResourceChangingScheduler()


class TestResourceChangingRoundHyperBand(SchedulerSuite):
    def make_scheduler(self) -> TrialScheduler:
        return ResourceChangingScheduler(HyperBandScheduler(**OBJECTIVE, max_t=9))


class TestResourceChangingRoundPBT(SchedulerSuite):
    def make_scheduler(self) -> TrialScheduler:
        return ResourceChangingScheduler(
            PopulationBasedTraining(
                **OBJECTIVE,
                perturbation_interval=2,
                hyperparam_mutations={"x": [0.1, 0.2, 0.4]},
                seed=1,
            )
        )
