"""The stopper that stops nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune.stopper.stopper import Stopper

if TYPE_CHECKING:
    from collections.abc import Mapping


class NoopStopper(Stopper):
    """Stops nothing: trials end by themselves, or by the scheduler."""

    @override
    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False
