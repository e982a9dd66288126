"""Schedulers and searchers of users, as type checkers see them. Read by mypy and pyright."""

from collections.abc import Mapping, Sequence
from typing import Any

from weft.lowlevel import override
from weft.tune.schedulers import FIFOScheduler, TrialScheduler
from weft.tune.schedulers.orders import Order, Pause, Resume
from weft.tune.schedulers.trial_scheduler import Verdict
from weft.tune.search import Searcher
from weft.tune.search.searcher import Config, Finished
from weft.tune.views import ExperimentView, Outcome, TrialView


class StopsAtTen(FIFOScheduler):
    """Answers with a word."""

    @override
    def on_trial_result(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Verdict:
        return self.STOP if trial.iterations >= 10 else self.CONTINUE


class OneByOne(TrialScheduler):
    """Answers with orders."""

    @override
    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return metric is None and mode is None

    @override
    def on_trial_result(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Sequence[Order]:
        return [Pause(trial.trial_id)]

    @override
    def on_idle(self, tune_controller: ExperimentView) -> Sequence[Order]:
        return [Resume(tune_controller.get_trials()[0].trial_id)]


class Halving(Searcher):
    """Learns from each trial's end."""

    def __init__(self, metric: str, mode: str) -> None:
        super().__init__(metric, mode)
        self.x = 1.0

    @override
    def ask(self, trial_id: str) -> Config | Finished | None:
        return {"x": self.x} if self.x > 1e-3 else Searcher.FINISHED

    @override
    def tell(self, trial: TrialView, outcome: Outcome | None) -> None:
        if outcome == "completed" and trial.result:
            self.x = trial.config["x"] / 2
