"""HyperBand: successive halving in brackets that weigh many trials against long ones.

Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 18,
2018, Algorithm 1, with R (`max_t`) and eta (`reduction_factor`). Bracket s = s_max, ..., 0 begins
with n trials at resource r = R eta^-s. At its i-th rung, at r_i = r eta^i, all n_i trials that are
left wait for each other; the best n_(i+1) = floor(n_i / eta) go on, the others are stopped. Those
that come to R have their whole budget. After bracket 0 comes s_max again.

n is floor((s_max + 1) / (s + 1)) eta^s. Algorithm 1 has the ceiling of (s_max + 1) eta^s / (s + 1),
which does not give the paper's own Table 1 (34 instead of 27 trials for s = 3).

What is always true
1. A trial is in one bracket, and waits there at the next rung only, paused and so on no worker.
2. A bracket takes trials until it has n; when nothing else can run, with those that it has.
3. When the last of a rung comes, is stopped by others, or fails, the others are decided upon.
4. A rung that any trial comes to alive lets one at least go on.

What it does not do: resources are not freed for the trials of one bracket. Where there is room, the
next bracket begins (so does BOHB, see `hb_bohb`). Trials must be able to save and restore, or they
begin again at each rung.
"""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._arguments import check_number
from weft.tune.schedulers._scores import ScoringScheduler
from weft.tune.schedulers.orders import Resume, Stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.tune.schedulers.orders import Order
    from weft.tune.schedulers.trial_scheduler import Verdict
    from weft.tune.views import ExperimentView, TrialView


def bracket_table(R: float, eta: float) -> list[list[tuple[int, float]]]:  # noqa: N803 - the paper's
    """Return (n_i, r_i) for each rung i of the brackets s = s_max, ..., 0."""
    s_max = 0
    while eta ** (s_max + 1) <= R:
        s_max += 1
    brackets = []
    for s in reversed(range(s_max + 1)):
        n = floor((s_max + 1) // (s + 1) * eta**s)
        rungs = []
        for i in range(s + 1):
            rungs.append((n, R / eta ** (s - i)))
            n = max(1, floor(n / eta))
        brackets.append(rungs)
    return brackets


class _Bracket:
    """One run of successive halving."""

    def __init__(self, s: int, n: int, resources: Sequence[float]) -> None:
        self.s = s
        self.places = n
        """How many trials it still takes."""
        self.r = resources
        self.i = 0
        self.score_of: dict[str, float | None] = {}
        """By trial that is left: its score at rung i; None: it is not there yet."""

    @property
    def is_decidable(self) -> bool:
        """Whether all that will come to the rung are there."""
        return not self.places and bool(self.score_of) and None not in self.score_of.values()

    def halve(self, eta: float) -> tuple[list[str], list[str]]:
        """Go to the next rung; return the trials that go on, and those that do not."""
        scores = {trial: score for trial, score in self.score_of.items() if score is not None}
        best = sorted(scores, key=scores.__getitem__, reverse=True)
        n = max(1, floor(len(best) / eta))
        self.i += 1
        self.score_of = dict.fromkeys(best[:n])
        return best[:n], best[n:]


class HyperBandScheduler(ScoringScheduler):
    """Pauses trials at rungs until it can tell which of them go on.

    Takes longer than ASHA where trials are of different speed, but never stops the better of two.

    Args:
        time_attr: The metric that counts time; it only grows.
        metric: What is compared. None: as TuneConfig says.
        mode: "min" or "max". None: as TuneConfig says.
        max_t: R: the time that a trial has, if it goes on at each rung.
        reduction_factor: eta: of those at a rung, one in eta goes on.
        stop_last_trials: Whether trials end at max_t.

    Raises:
        OptionError: An argument is out of its range; or, at a result, it has no such metric.
    """

    def __init__(
        self,
        time_attr: str = "training_iteration",
        metric: str | None = None,
        mode: str | None = None,
        max_t: float = 81,
        reduction_factor: float = 3,
        stop_last_trials: bool = True,
    ) -> None:
        super().__init__(time_attr, metric, mode)
        check_number(self._name, "max_t", max_t, least=1)
        check_number(self._name, "reduction_factor", reduction_factor, least=1, above=True)
        self.eta = reduction_factor
        self._stop_last_trials = stop_last_trials
        self._table = bracket_table(max_t, reduction_factor)
        self._begun = 0
        """Brackets so far."""
        self._filling: _Bracket | None = None
        self._bracket_of: dict[str, _Bracket] = {}
        self._stopped = 0

    def state(self) -> dict[str, int]:
        """Return how many brackets have begun (`num_brackets`), and trials stopped at rungs."""
        return {"num_brackets": self._begun, "num_stopped": self._stopped}

    @override
    def on_trial_add(self, tune_controller: ExperimentView, trial: TrialView) -> Sequence[Order]:
        if self._filling is None:
            rungs = self._table[self._begun % len(self._table)]
            n = rungs[0][0]
            self._filling = _Bracket(len(rungs) - 1, n, [resource for _, resource in rungs])
            self._begun += 1
        bracket = self._filling
        bracket.places -= 1
        bracket.score_of[trial.trial_id] = None
        self._bracket_of[trial.trial_id] = bracket
        if not bracket.places:
            self._filling = None
        return ()

    @override
    def on_trial_result(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Verdict | Sequence[Order]:
        time, score = self._read(trial.trial_id, result)
        bracket = self._bracket_of[trial.trial_id]
        if time < bracket.r[bracket.i]:
            return self.CONTINUE
        if bracket.i == bracket.s:
            return self.STOP if self._stop_last_trials else self.CONTINUE
        bracket.score_of[trial.trial_id] = score
        if not bracket.is_decidable:
            return self.PAUSE
        # A trial that is not named goes on: the one that has reported needs no Resume.
        return [order for order in self._decide(bracket) if order != Resume(trial.trial_id)]

    @override
    def on_trial_complete(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Sequence[Order]:
        return self._forget(trial.trial_id)

    @override
    def on_trial_error(self, tune_controller: ExperimentView, trial: TrialView) -> Sequence[Order]:
        return self._forget(trial.trial_id)

    @override
    def on_idle(self, tune_controller: ExperimentView) -> Sequence[Order]:
        bracket = self._filling
        if bracket is None:
            return ()
        bracket.places = 0
        self._filling = None
        return self._decide(bracket) if bracket.is_decidable else ()

    def _forget(self, trial_id: str) -> Sequence[Order]:
        """Take an ended trial out of its bracket, which may have waited for it alone."""
        bracket = self._bracket_of.pop(trial_id, None)
        if bracket is None:
            return ()
        bracket.score_of.pop(trial_id)
        return self._decide(bracket) if bracket.is_decidable else ()

    def _decide(self, bracket: _Bracket) -> list[Order]:
        good, bad = bracket.halve(self.eta)
        for trial_id in bad:
            del self._bracket_of[trial_id]
        self._stopped += len(bad)
        return [*map(Stop, bad), *map(Resume, good)]

    @override
    def debug_string(self) -> str:
        brackets = dict.fromkeys(self._bracket_of.values())
        rungs = ", ".join(
            f"s={bracket.s} has {len(bracket.score_of)} before {bracket.r[bracket.i]:g}"
            for bracket in brackets
        )
        return f"{self._name}: {self._stopped} stopped early; brackets: {rungs or 'none'}"
