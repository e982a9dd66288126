"""The stopper that asks the user's function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import override
from weft.tune.stopper.stopper import Stopper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class FunctionStopper(Stopper):
    """Stops a trial when a function of its id and result says so.

    Args:
        function: Is called with both; what it returns is taken as true or false.
    """

    def __init__(self, function: Callable[[str, Mapping[str, Any]], bool]) -> None:
        if not self.is_valid_function(function):
            raise OptionError(
                f"FunctionStopper takes a function of a trial's id and a result: {function!r}"
            )
        self._function = function

    @override
    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return bool(self._function(trial_id, result))

    @classmethod
    def is_valid_function(cls, fn: object) -> bool:
        """Return whether this can be called, and is no stopper or class."""
        return callable(fn) and not isinstance(fn, Stopper | type)
