"""What users write as `stop=`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.exceptions import OptionError
from weft.tune.stopper.function_stopper import FunctionStopper
from weft.tune.stopper.metrics import DictStopper
from weft.tune.stopper.noop import NoopStopper
from weft.tune.stopper.stopper import CombinedStopper, Stopper


def as_stopper(stop: Any) -> Stopper:
    """Return the stopper that is meant by `stop=`.

    Args:
        stop: A stopper; values by metric; a function of a trial's id and result; a list of these,
            of which any stops; None.

    Raises:
        OptionError: It is none of these.
    """
    if stop is None:
        return NoopStopper()
    if isinstance(stop, Stopper):
        return stop
    if isinstance(stop, Mapping):
        return DictStopper(stop) if stop else NoopStopper()
    if isinstance(stop, list):
        return CombinedStopper(*map(as_stopper, stop)) if stop else NoopStopper()
    if FunctionStopper.is_valid_function(stop):
        return FunctionStopper(stop)
    raise OptionError(
        f"stop is a dictionary of values by metric, a function, or a stopper: {stop!r}"
    )
