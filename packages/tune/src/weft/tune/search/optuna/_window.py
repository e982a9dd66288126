"""A study that stays small, and a TPE that is seeded for one trial.

TPE divides the trials that ended into good ones, at most 25, and others; it suggests where the
density of the good ones is large beside that of the others (Bergstra et al. 2011, section 4). In
optuna each trial weighs less the older it is, but for the newest 25. So a window keeps
- every trial that TPE takes for a good one: the division is the same as that of all trials;
- the newest;
- an even choice of the others. What is chosen from again and again is thinned the more the older it
  is, as the weights are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from weft.lowlevel import override

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    Rank = tuple[float, ...]


class EndedTrial(Protocol):
    """What there is to know of a trial that has ended: a FrozenTrial has it."""

    @property
    def state(self) -> TrialState:
        """How it ended."""

    @property
    def values(self) -> Sequence[float] | None:
        """Its result."""

    @property
    def intermediate_values(self) -> Mapping[int, float]:
        """What was reported at which step."""


MOST = 300
"""Trials in a study; one more, and it is made to have `KEPT`."""
KEPT = 252
"""At 250 and more, optuna's TPE takes 25 for good ones, however many there are."""
BEST = 25
NEWEST = 75


class SeededTPE(TPESampler):
    """TPE for one suggestion.

    Args:
        seed: Of its random numbers.
        space: What every trial has; None: to be found in the study.
    """

    def __init__(self, seed: int, space: dict[str, BaseDistribution] | None) -> None:
        super().__init__(seed=seed)
        self._whole = space

    @override
    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        # Several objectives: optuna looks at each parameter by itself.
        if self._whole is None or len(study.directions) > 1:
            return super().infer_relative_search_space(study, trial)
        return {name: found for name, found in self._whole.items() if not found.single()}


def rank_of(trial: EndedTrial, direction: StudyDirection) -> Rank:
    """Return what TPE sorts an ended trial by: complete ones go first, then those that went far."""
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    if trial.state == TrialState.COMPLETE and trial.values:
        return (0, sign * trial.values[0])
    if not trial.intermediate_values:
        return (2,)
    step, value = max(trial.intermediate_values.items())
    return (1, -step, math.inf if math.isnan(value) else sign * value)


def kept(ranks: Sequence[Rank]) -> list[int]:
    """Return which trials are to be kept, the oldest first, of all with their ranks."""
    numbers = set(sorted(range(len(ranks)), key=ranks.__getitem__)[:BEST])
    numbers.update(range(max(len(ranks) - NEWEST, 0), len(ranks)))
    others = [number for number in range(len(ranks)) if number not in numbers]
    room = min(KEPT - len(numbers), len(others))
    numbers.update(others[number * len(others) // room] for number in range(room))
    return sorted(numbers)
