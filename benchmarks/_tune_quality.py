"""What TPE finds in 100 trials: Weft's searcher, Ray's, and random search, with 20 seeds.

Each function takes the system and returns the best loss for each seed. The searcher alone is asked
and told, one trial after the other, as with Ray 6,000 trials would take hours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import _tune_digits
from _tune_problems import BRANIN, HARTMANN6
from _tune_searchers import opened

from weft.tune.search.sample import randint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SEEDS = 20
TRIALS = 100


def branin(system: str) -> list[float]:
    return bests(system, BRANIN.space, BRANIN.loss)


def hartmann6(system: str) -> list[float]:
    return bests(system, HARTMANN6.space, HARTMANN6.loss)


def digits(system: str) -> list[float]:
    """The space is that of the places in the grid."""
    space = {name: randint(0, len(values)) for name, values in _tune_digits.GRID.items()}
    return bests(system, space, _tune_digits.loss_of)


def bests(
    system: str, space: Mapping[str, Any], loss_of: Callable[[Mapping[str, Any]], float]
) -> list[float]:
    found = []
    for seed in range(SEEDS):
        searcher = opened(system, space, seed)
        losses = []
        for _ in range(TRIALS):
            losses.append(loss_of(searcher.ask()))
            searcher.tell(losses[-1])
        found.append(min(losses))
    return found
