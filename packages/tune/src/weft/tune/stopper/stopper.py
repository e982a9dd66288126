"""The interface of stoppers, and how several are one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.exceptions import OptionError
from weft.lowlevel import override

if TYPE_CHECKING:
    from collections.abc import Mapping


class Stopper:
    """Says when a trial, or all of them, is to end.

    The loop calls it from one thread: with each result of each trial, in the order in which they
    were seen, and `stop_all` after each of these calls. When an experiment is restored, the results
    from its journal come again first, so that a stopper needs no state on disk.

    Stoppers are joined with `|`: `MaximumIterationStopper(100) | TimeoutStopper(3600)`.
    """

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Return whether the trial is to end with this result."""
        raise NotImplementedError

    def stop_all(self) -> bool:
        """Return whether every trial is to end, and none to begin."""
        return False

    def __or__(self, other: Stopper) -> CombinedStopper:
        """Return the stopper that stops when one of two does."""
        return CombinedStopper(self, other)


class CombinedStopper(Stopper):
    """Stops when any of its stoppers does. Each sees every result, whatever the others say.

    Args:
        *stoppers: One at least.
    """

    def __init__(self, *stoppers: Stopper) -> None:
        if not stoppers:
            raise OptionError("CombinedStopper needs one stopper or more")
        for stopper in stoppers:
            if not isinstance(stopper, Stopper):
                raise OptionError(f"CombinedStopper joins stoppers, and this is none: {stopper!r}")
        self._stoppers = stoppers

    @override
    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        verdicts = [stopper(trial_id, result) for stopper in self._stoppers]
        return any(verdicts)

    @override
    def stop_all(self) -> bool:
        return any(stopper.stop_all() for stopper in self._stoppers)
