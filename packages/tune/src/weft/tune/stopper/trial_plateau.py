"""The stopper of trials that change no more."""

from __future__ import annotations

import math
from statistics import pstdev
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._arguments import check_integer, check_metric, check_mode, check_number
from weft.tune._readings import read_number
from weft.tune.stopper.stopper import Stopper

if TYPE_CHECKING:
    from collections.abc import Mapping


class TrialPlateauStopper(Stopper):
    """Stops a trial whose last results are nearly the same.

    A trial's last results deviate by `std` or less (population standard deviation). As long as NaN
    or an infinity is among them, it is no plateau.

    Args:
        metric: What to look at.
        std: The deviation, 0 or more.
        num_results: How many results are looked at, 1 or more.
        grace_period: How many results come before the first stop.
        metric_threshold: If given, only a trial that has reached this value is stopped.
        mode: How it is reached: "min", by being it or less; "max", by being it or more. Goes with
            a threshold only.
    """

    def __init__(
        self,
        metric: str,
        std: float = 0.01,
        num_results: int = 4,
        grace_period: int = 4,
        metric_threshold: float | None = None,
        mode: str | None = None,
    ) -> None:
        me = type(self).__name__
        check_metric(me, "metric", metric)
        check_number(me, "std", std, least=0)
        check_integer(me, "num_results", num_results, least=1)
        check_integer(me, "grace_period", grace_period, least=0)
        if metric_threshold is not None:
            check_number(me, "metric_threshold", metric_threshold, least=-math.inf)
            check_mode(me, mode)
        self._metric = metric
        self._std = std
        self._num_results = num_results
        self._grace_period = grace_period
        self._threshold = metric_threshold
        self._mode = mode
        self._last: dict[str, tuple[int, tuple[float, ...]]] = {}
        """By trial: how many results it has had, and the last ones."""

    @override
    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        value = read_number(result, self._metric, reader=type(self).__name__, trial_id=trial_id)
        seen, last = self._last.get(trial_id, (0, ()))
        seen += 1
        last = (*last, value)[-self._num_results :]
        self._last[trial_id] = seen, last
        if seen < self._grace_period or len(last) < self._num_results:
            return False
        if not self._is_reached(value) or not all(map(math.isfinite, last)):
            return False
        if pstdev(last) > self._std:
            return False
        del self._last[trial_id]
        return True

    def _is_reached(self, value: float) -> bool:
        if self._threshold is None:
            return True
        return value <= self._threshold if self._mode == "min" else value >= self._threshold
