"""The median stopping rule: stop what is worse than the half of the others were by then.

Golovin et al., "Google Vizier: A Service for Black-Box Optimization", KDD 2017, section 3.2.1: a
trial is stopped at step s if its best value until s is worse than the median of the running
averages of the other trials' values until s. There the others are those that are completed; here
those that have come as far as s, ended or not, so that the rule begins to work with the first
trials.

What is always true
1. Of each trial, whatever has become of it, the times and running averages of its results after the
   grace period are kept: 16 bytes per result, and 8 more while it is not ended.
2. A trial that goes back in time (it failed, and goes on from a checkpoint) forgets what it
   reported beyond.
3. A trial that yielded, or was paused instead of stopped, is resumed: the first kind when no
   trial waits, both when nothing else is to be done. The second kind is not judged again.
4. A trial that began anew after it had yielded, as it cannot be saved, does not yield again.

Who was stopped has not come as far as the others: as time goes on, survivors are compared with
survivors.

What it does not do: it is not quick with very many trials, as each verdict looks at all of them
(some ms with 10,000 trials). A NaN makes a running average the worst from there on.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from statistics import median
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._arguments import check_integer, check_number
from weft.tune.schedulers._scores import ScoringScheduler
from weft.tune.schedulers.orders import Pause, Resume, Stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weft.tune.schedulers.orders import Order
    from weft.tune.schedulers.trial_scheduler import Verdict
    from weft.tune.views import ExperimentView, TrialView


class _Curve:
    """What one trial has reported."""

    def __init__(self) -> None:
        self.times = array("d")
        self.averages = array("d")
        self.bests = array("d")

    def append(self, time: float, score: float) -> None:
        """Take a result, instead of those of this time or later."""
        kept = bisect_left(self.times, time)
        for values in (self.times, self.averages, self.bests):
            del values[kept:]
        total = self.averages[-1] * kept if kept else 0.0
        self.times.append(time)
        self.averages.append((total + score) / (kept + 1))
        self.bests.append(max(score, self.bests[-1]) if kept else score)


class MedianStoppingRule(ScoringScheduler):
    """Stops a trial whose best value is worse than the median of the others' averages.

    Needs no budget that is known beforehand, and fits where curves flatten.

    Args:
        time_attr: The metric that counts time; it only grows.
        metric: What is compared. None: as TuneConfig says.
        mode: "min" or "max". None: as TuneConfig says.
        grace_period: Results before this time do not count, and stop nothing.
        min_samples_required: How many other trials must have come as far.
        min_time_slice: A trial that cannot be judged for want of others lets those run that wait
            for room, once it has had so much time. 0: it never does.
        hard_stop: Whether trials are stopped. If not, they are paused until the others are ended.

    Raises:
        OptionError: An argument is out of its range; or, at a result, it has no such metric.
    """

    def __init__(
        self,
        time_attr: str = "time_total_s",
        metric: str | None = None,
        mode: str | None = None,
        grace_period: float = 60.0,
        min_samples_required: int = 3,
        min_time_slice: float = 0,
        hard_stop: bool = True,
    ) -> None:
        super().__init__(time_attr, metric, mode)
        check_number(self._name, "grace_period", grace_period, least=0)
        check_number(self._name, "min_time_slice", min_time_slice, least=0)
        check_integer(self._name, "min_samples_required", min_samples_required, least=1)
        self._grace_period = grace_period
        self._min_samples = min_samples_required
        self._min_time_slice = min_time_slice
        self._hard_stop = hard_stop
        self._curve_of: dict[str, _Curve] = {}
        self._slice_begun_at: dict[str, float] = {}
        """By trial that runs: the time of its first result since it began or was resumed."""
        self._yielded_at: dict[str, float] = {}
        """By trial: its time when it did so last; infinite: it lost what it had done by that."""
        self._yielded: dict[str, None] = {}
        self._suspended: dict[str, None] = {}
        """Paused instead of stopped."""
        self._spared: set[str] = set()
        """Resumed after that, and not judged again."""
        self._stopped = 0

    @override
    def on_trial_add(self, tune_controller: ExperimentView, trial: TrialView) -> Sequence[Order]:
        self._curve_of[trial.trial_id] = _Curve()
        return ()

    @override
    def on_trial_result(
        self, tune_controller: ExperimentView, trial: TrialView, result: Mapping[str, Any]
    ) -> Verdict | Sequence[Order]:
        time, score = self._read(trial.trial_id, result)
        slice_begun_at = self._begin_slice(trial.trial_id, time)
        waiting = any(other.status == "PENDING" for other in tune_controller.get_trials())
        # Where no trial waits for room, those that yielded theirs ask for it again.
        resumed = [] if waiting else self._resume(self._yielded)
        if time < self._grace_period:
            return resumed
        curve = self._curve_of[trial.trial_id]
        curve.append(time, score)
        averages = self._averages_of_others(curve, time)
        if len(averages) < self._min_samples:
            had_its_slice = time - slice_begun_at >= self._min_time_slice > 0
            if waiting and had_its_slice and self._yielded_at.get(trial.trial_id) != math.inf:
                self._yielded_at[trial.trial_id] = time
                self._pause(trial.trial_id, self._yielded)
                return self.PAUSE
            return resumed
        if trial.trial_id in self._spared or curve.bests[-1] >= median(averages):
            return resumed
        self._stopped += 1
        if not self._hard_stop:
            self._pause(trial.trial_id, self._suspended)
            return [*resumed, Pause(trial.trial_id)]
        return [*resumed, Stop(trial.trial_id)]

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
        self._spared.update(self._suspended)
        return [*self._resume(self._yielded), *self._resume(self._suspended)]

    def _begin_slice(self, trial_id: str, time: float) -> float:
        """Return when the trial's slice has begun: at this time, if none has."""
        if trial_id not in self._slice_begun_at:
            self._slice_begun_at[trial_id] = time
            if time <= self._yielded_at.get(trial_id, -math.inf):
                self._yielded_at[trial_id] = math.inf
        return self._slice_begun_at[trial_id]

    def _averages_of_others(self, curve: _Curve, time: float) -> list[float]:
        """Return the running averages of the other trials that have come as far."""
        # One expression, without calls of our own: it is all of the cost.
        return [
            other.averages[bisect_right(times, time) - 1]
            for other in self._curve_of.values()
            if (times := other.times) and times[-1] >= time >= times[0] and other is not curve
        ]

    def _pause(self, trial_id: str, paused: dict[str, None]) -> None:
        paused[trial_id] = None
        self._slice_begun_at.pop(trial_id, None)

    def _resume(self, paused: dict[str, None]) -> list[Order]:
        orders: list[Order] = [Resume(trial_id) for trial_id in paused]
        paused.clear()
        return orders

    def _forget(self, trial_id: str) -> Sequence[Order]:
        """Drop all of an ended trial but its curve."""
        for kept in (self._slice_begun_at, self._yielded_at, self._yielded, self._suspended):
            kept.pop(trial_id, None)
        self._spared.discard(trial_id)
        self._curve_of[trial_id].bests = array("d")
        return ()

    @override
    def debug_string(self) -> str:
        did = "stopped" if self._hard_stop else "paused"
        return f"{self._name}: {self._stopped} {did} below the median of {len(self._curve_of)}"
