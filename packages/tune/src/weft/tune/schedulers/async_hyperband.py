"""ASHA: stop the worst at each rung, and never wait for the others.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, section 3.2: the
asynchronous form of successive halving, with eta (`reduction_factor`), r (`grace_period`), R
(`max_t`) and s (a bracket's early-stopping rate). The rungs of bracket s are at r eta^(s+k) for
k = 0, 1, ... below R. A trial that comes to a rung leaves its score there, and goes on if it is in
top_k of the rung with k = |rung| / eta, at least one; otherwise it is stopped.

Algorithm 2 of the paper pauses those that are not promoted, so that a later one's bad score can
still promote them. Here they are stopped: no checkpoint is needed, and no trial waits.

What is always true
1. A trial's score enters a rung once, and the rungs that it enters rise.
2. Whoever comes to a rung is judged with those that are there: the verdict on the m-th is that of
   successive halving among the first m. The first to come always goes on; of equals, too.
3. A trial that passes several rungs between two results enters the last of them only.

What it does not do: it corrects no verdict. A trial that came early and went on is not stopped when
better ones have come after it; the next rung does that.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune._arguments import check_integer, check_number
from weft.tune.schedulers._scores import ScoringScheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.tune.schedulers.orders import Order
    from weft.tune.schedulers.trial_scheduler import Verdict
    from weft.tune.views import ExperimentView, TrialView


class _Rung:
    """Scores of the trials that came to one resource."""

    def __init__(self, resource: float) -> None:
        self.resource = resource
        self.scores: list[float] = []
        """Sorted."""

    def admits(self, score: float, eta: float) -> bool:
        """Enter a score; return whether it is in the top 1/eta of those that are there."""
        insort(self.scores, score)
        better = len(self.scores) - bisect_right(self.scores, score)
        return better < max(1, int(len(self.scores) / eta))


class _AsyncBracket:
    """The rungs of one early-stopping rate."""

    def __init__(self, rungs: Sequence[float], weight: float) -> None:
        self.rungs = [_Rung(resource) for resource in rungs]
        self.weight = weight
        """How many trials of this bracket cost as much as those of another."""
        self.size = 0
        """Trials that were added."""


class AsyncHyperBandScheduler(ScoringScheduler):
    """Stops, at growing distances in time, the trials that are not among the best so far.

    The first choice where many trials run and early results say something about later ones.

    Args:
        time_attr: The metric that counts time; it only grows.
        metric: What is compared. None: as TuneConfig says.
        mode: "min" or "max". None: as TuneConfig says.
        max_t: R: at this time a trial is stopped, however good.
        grace_period: r: no trial is stopped earlier.
        reduction_factor: eta: of those at a rung, one in eta goes on.
        brackets: How many early-stopping rates s = 0, 1, ... share the trials. More than one: some
            trials are spared the first s rungs, in case early results mislead.
        stop_last_trials: Whether trials end at max_t.

    Raises:
        OptionError: An argument is out of its range; or, at a result, it has no such metric.
    """

    def __init__(
        self,
        time_attr: str = "training_iteration",
        metric: str | None = None,
        mode: str | None = None,
        max_t: float = 100,
        grace_period: float = 1,
        reduction_factor: float = 4,
        brackets: int = 1,
        stop_last_trials: bool = True,
    ) -> None:
        super().__init__(time_attr, metric, mode)
        check_number(self._name, "grace_period", grace_period, least=0, above=True)
        check_number(self._name, "max_t", max_t, least=grace_period)
        check_number(self._name, "reduction_factor", reduction_factor, least=1, above=True)
        self.R = max_t
        self.r = grace_period
        self.eta = reduction_factor
        self._stop_last_trials = stop_last_trials
        resources = self._resources()
        check_integer(self._name, "brackets", brackets, least=1)
        if brackets > len(resources) + 1:
            raise OptionError(
                f"brackets of {self._name} is at most {len(resources) + 1}, one more than the "
                f"rungs {resources} below max_t={max_t}: {brackets!r}"
            )
        # As in the paper's Algorithm 1, a bracket's trials cost the same at each of its rungs: so
        # at the same cost, there are eta times fewer trials where the first rung is eta times as
        # high, and as many times more as there are rungs fewer.
        self._brackets = [
            _AsyncBracket(resources[s:], self.eta**-s / (len(resources) + 1 - s))
            for s in range(brackets)
        ]
        self._place_of: dict[str, tuple[_AsyncBracket, int]] = {}
        """By trial: its bracket, and the index of the rung that it comes to next."""
        self._stopped = 0

    def _resources(self) -> list[float]:
        """Return the resources r eta^k below R."""
        all_of_them = (self.r * self.eta**k for k in range(10_000))
        return list(takewhile(lambda resource: resource < self.R, all_of_them))

    @override
    def on_trial_add(self, tune_controller: ExperimentView, trial: TrialView) -> Sequence[Order]:
        bracket = min(self._brackets, key=lambda bracket: (bracket.size + 1) / bracket.weight)
        bracket.size += 1
        self._place_of[trial.trial_id] = bracket, 0
        return ()

    @override
    def on_trial_result(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Verdict | Sequence[Order]:
        time, score = self._read(trial.trial_id, result)
        bracket, next_k = self._place_of[trial.trial_id]
        admitted = True
        for k in reversed(range(next_k, len(bracket.rungs))):
            if bracket.rungs[k].resource <= time:
                admitted = bracket.rungs[k].admits(score, self.eta)
                self._place_of[trial.trial_id] = bracket, k + 1
                break
        if admitted and not (self._stop_last_trials and time >= self.R):
            return self.CONTINUE
        self._stopped += not admitted
        return self.STOP

    @override
    def on_trial_complete(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Sequence[Order]:
        self._place_of.pop(trial.trial_id, None)
        return ()

    @override
    def on_trial_error(self, tune_controller: ExperimentView, trial: TrialView) -> Sequence[Order]:
        self._place_of.pop(trial.trial_id, None)
        return ()

    @override
    def debug_string(self) -> str:
        rungs = "; ".join(
            f"bracket {s}: "
            + (
                ", ".join(f"{len(rung.scores)} at {rung.resource:g}" for rung in bracket.rungs)
                or "no rungs"
            )
            for s, bracket in enumerate(self._brackets)
        )
        return f"{self._name}: {self._stopped} stopped early; trials came to rungs: {rungs}"


ASHAScheduler = AsyncHyperBandScheduler
