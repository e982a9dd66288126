"""The stopper that counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._arguments import check_integer
from weft.tune._readings import read_number
from weft.tune.stopper.stopper import Stopper

if TYPE_CHECKING:
    from collections.abc import Mapping


class MaximumIterationStopper(Stopper):
    """Stops a trial at its `training_iteration` number `max_iter`.

    Args:
        max_iter: 1 or more.
    """

    def __init__(self, max_iter: int) -> None:
        check_integer("MaximumIterationStopper", "max_iter", max_iter, least=1)
        self._max_iter = max_iter

    @override
    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        reader = type(self).__name__
        return self._max_iter <= read_number(
            result, "training_iteration", reader=reader, trial_id=trial_id
        )
