"""The stopper behind `stop={"metric": value}`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune._arguments import check_metric, check_number
from weft.tune._readings import read_number
from weft.tune.stopper.stopper import Stopper

if TYPE_CHECKING:
    from collections.abc import Mapping


class DictStopper(Stopper):
    """Stops a trial when one of its metrics has reached a value: is that or more.

    Each metric must be in each result. NaN reaches nothing.

    Args:
        criteria: Values by metric; `"eval/loss"` is in the nested results `eval`. Not empty.
    """

    def __init__(self, criteria: Mapping[str, float]) -> None:
        for metric, value in criteria.items():
            check_metric("stop", "key", metric)
            check_number("stop", metric, value, least=-math.inf)
        if not criteria:
            raise OptionError("DictStopper needs one metric or more: NoopStopper stops nothing")
        self._criteria = dict(criteria)

    @override
    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        # Each is read, so that the first result tells of every misspelled name.
        reached = [
            read_number(result, metric, reader="stop", trial_id=trial_id) >= value
            for metric, value in self._criteria.items()
        ]
        return any(reached)
