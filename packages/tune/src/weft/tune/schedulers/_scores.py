"""What the schedulers share that compare trials by one metric over time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune._arguments import check_metric, check_objective
from weft.tune._readings import read_number
from weft.tune.schedulers.trial_scheduler import TrialScheduler

if TYPE_CHECKING:
    from collections.abc import Mapping

WORST = -math.inf
"""The score of a metric that is NaN or infinite: whatever has diverged is not preferred."""


class ScoringScheduler(TrialScheduler):
    """Knows its objective, and reads a result as a time and a score, of which more is better."""

    def __init__(self, time_attr: str, metric: str | None, mode: str | None) -> None:
        self._name = type(self).__name__
        self.time_attr = time_attr
        self.metric = metric
        self.mode = mode
        check_metric(self._name, "time_attr", time_attr)
        check_objective(self._name, metric, mode)

    @override
    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Take what the constructor was not given; False if it was given something else.

        Raises:
            OptionError: The metric or the mode is given nowhere.
        """
        for mine, other in ((self.metric, metric), (self.mode, mode)):
            if None not in (mine, other) and mine != other:
                return False
        self.metric = self.metric or metric
        self.mode = self.mode or mode
        check_objective(self._name, self.metric, self.mode)
        self._check_complete()
        return True

    def _check_complete(self) -> None:
        missing = [name for name in ("metric", "mode") if getattr(self, name) is None]
        if missing:
            raise OptionError(
                f"{self._name} needs a metric and a mode: give {' and '.join(missing)} to "
                "TuneConfig or to the scheduler"
            )

    def _read(self, trial_id: str, result: Mapping[str, Any]) -> tuple[float, float]:
        """Return the time and the score of a result.

        Raises:
            OptionError: It has no such number, or its time is not finite.
        """
        self._check_complete()
        assert self.metric is not None  # noqa: S101 - checked in the line before
        time = read_number(result, self.time_attr, reader=self._name, trial_id=trial_id)
        value = read_number(result, self.metric, reader=self._name, trial_id=trial_id)
        if not math.isfinite(time):
            raise OptionError(f"time {self.time_attr!r} of trial {trial_id} is {time}")
        if not math.isfinite(value):
            return time, WORST
        return time, value if self.mode == "max" else -value
