"""Schedulers by name."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.tune.schedulers.async_hyperband import AsyncHyperBandScheduler
from weft.tune.schedulers.fifo import FIFOScheduler
from weft.tune.schedulers.hb_bohb import HyperBandForBOHB
from weft.tune.schedulers.hyperband import HyperBandScheduler
from weft.tune.schedulers.median_stopping_rule import MedianStoppingRule
from weft.tune.schedulers.pb2 import PB2
from weft.tune.schedulers.pbt import PopulationBasedTraining
from weft.tune.schedulers.pbt_replay import PopulationBasedTrainingReplay
from weft.tune.schedulers.resource_changing_scheduler import ResourceChangingScheduler

if TYPE_CHECKING:
    from weft.tune.schedulers.trial_scheduler import TrialScheduler

SCHEDULERS: dict[str, type[TrialScheduler]] = {
    "async_hyperband": AsyncHyperBandScheduler,
    "asynchyperband": AsyncHyperBandScheduler,
    "asha": AsyncHyperBandScheduler,
    "fifo": FIFOScheduler,
    "hb_bohb": HyperBandForBOHB,
    "hyperband": HyperBandScheduler,
    "median_stopping_rule": MedianStoppingRule,
    "medianstopping": MedianStoppingRule,
    "pb2": PB2,
    "pbt": PopulationBasedTraining,
    "pbt_replay": PopulationBasedTrainingReplay,
    "resource_changing": ResourceChangingScheduler,
}


def create_scheduler(scheduler: str, **kwargs: Any) -> TrialScheduler:
    """Return a scheduler by its name.

    Args:
        scheduler: "fifo", "asha" or "async_hyperband", "hyperband", "hb_bohb",
            "median_stopping_rule", "pbt", "pbt_replay", "pb2" or "resource_changing".
        **kwargs: Of its constructor.

    Raises:
        OptionError: There is none of that name, or it takes no such argument.
    """
    made = SCHEDULERS.get(scheduler.lower())
    if made is None:
        near = get_close_matches(scheduler.lower(), SCHEDULERS, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise OptionError(
            f"there is no scheduler {scheduler!r}{hint}; there are: {', '.join(SCHEDULERS)}"
        )
    known = inspect.signature(made).parameters
    unknown = [name for name in kwargs if name not in known]
    if unknown:
        takes = ", ".join(known) or "nothing"
        raise OptionError(f"{made.__name__} takes no {', '.join(unknown)}; it takes: {takes}")
    return made(**kwargs)
