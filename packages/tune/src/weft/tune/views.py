"""What searchers and schedulers see of an experiment: frozen records, never the loop.

Who writes one names them from here: `from weft.tune.views import TrialView`. A view may be kept: it
stays what it was when it was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

Status = Literal["PENDING", "RUNNING", "PAUSED", "TERMINATED", "ERROR"]
"""PENDING: never run, or to be run again. TERMINATED: it came to its end, or was stopped."""
Outcome = Literal["completed", "stopped", "failed"]
"""How a trial ended: by itself or at a stopping criterion; by the scheduler; with an error."""


class TrialView(msgspec.Struct, frozen=True):
    """One trial at one moment."""

    trial_id: str
    config: Mapping[str, Any]
    """With every value drawn; nested as in the space."""
    status: Status
    result: Mapping[str, Any]
    """The last one that was reported; empty before that."""
    iterations: int
    """How many results it has reported: `result["training_iteration"]`."""
    has_checkpoint: bool
    resources: Mapping[str, float]
    """What it reserves: `{"CPU": 1.0}`."""
    bundles: Sequence[Mapping[str, float]] = ()
    """The same, bundle by bundle: its own process holds the first, the others are for tasks and
    actors that it starts. Empty: there is one."""


class ExperimentView(msgspec.Struct, frozen=True):
    """All trials that are not ended, and what there is to run them."""

    trials: Mapping[str, TrialView]
    """By id, in the order of their creation; ended ones are not among them."""
    total_resources: Mapping[str, float]
    """Of the cluster."""

    def get_trials(self) -> Sequence[TrialView]:
        """Return the trials that are not ended, the oldest first."""
        return list(self.trials.values())
