"""The stopper of experiments that find nothing better."""

from __future__ import annotations

import math
from bisect import insort
from statistics import pstdev
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._arguments import check_integer, check_metric, check_mode, check_number
from weft.tune._readings import read_number
from weft.tune.stopper.stopper import Stopper

if TYPE_CHECKING:
    from collections.abc import Mapping


class ExperimentPlateauStopper(Stopper):
    """Ends the experiment when its best values are nearly the same, and stay so.

    The best values of all results deviate by `std` or less (population standard deviation), and
    have done so at `patience` results in a row before. NaN and infinities are not looked at.

    Args:
        metric: What to look at.
        std: The deviation, 0 or more.
        top: How many values are looked at, 1 or more.
        mode: Which are the best: "min", the least; "max", the greatest.
        patience: How many further results without a change it takes, 0 or more.
    """

    def __init__(
        self, metric: str, std: float = 0.001, top: int = 10, mode: str = "min", patience: int = 0
    ) -> None:
        me = type(self).__name__
        check_metric(me, "metric", metric)
        check_number(me, "std", std, least=0)
        check_integer(me, "top", top, least=1)
        check_mode(me, mode)
        check_integer(me, "patience", patience, least=0)
        self._metric = metric
        self._std = std
        self._top = top
        self._sign = 1 if mode == "min" else -1
        self._patience = patience
        self._best: list[float] = []
        """The best values, with the sign turned if the greatest are; sorted."""
        self._waited = -1
        """How many results since the plateau was reached; -1: it is not."""

    @override
    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        value = read_number(result, self._metric, reader=type(self).__name__, trial_id=trial_id)
        if math.isfinite(value):
            insort(self._best, self._sign * value)
            del self._best[self._top :]
        self._waited = self._waited + 1 if self.has_plateaued() else -1
        return self.stop_all()

    def has_plateaued(self) -> bool:
        """Return whether the best values are nearly the same."""
        return len(self._best) == self._top and pstdev(self._best) <= self._std

    @override
    def stop_all(self) -> bool:
        return self._waited >= self._patience
