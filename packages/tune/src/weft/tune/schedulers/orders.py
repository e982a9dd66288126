"""What a scheduler may order: records, carried out by the loop in their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from weft.tune.execution.placement_groups import PlacementGroupFactory


class Stop(msgspec.Struct, frozen=True):
    """End a trial; its outcome is "stopped"."""

    trial_id: str


class Pause(msgspec.Struct, frozen=True):
    """Save a running trial, and let its resources go until `Resume`.

    A trial that cannot be saved starts again from its last checkpoint, or from its beginning.
    """

    trial_id: str


class Resume(msgspec.Struct, frozen=True):
    """Let a paused trial run again, when there is room; paused trials go before fresh ones."""

    trial_id: str


class Restart(msgspec.Struct, frozen=True):
    """Go on with another configuration, or other resources, from a checkpoint.

    The checkpoint is the last one of `source` at the moment of the order; it is not removed before
    this trial has loaded it. A paused trial is resumed by this; one that has never run begins with
    that configuration.
    """

    trial_id: str
    source: str
    """Id of the trial whose checkpoint is loaded; its own: from where it is."""
    config: Mapping[str, Any]
    resources: Mapping[str, float] | PlacementGroupFactory | None = None
    """None: as before. Amounts: a trial of several bundles keeps the first, which its own process
    holds, and the others become what is left."""


class Save(msgspec.Struct, frozen=True):
    """Have a trial write a checkpoint before its next step."""

    trial_id: str


class Write(msgspec.Struct, frozen=True):
    """Put a small text file into the experiment's folder, in place of one of that name.

    It is whole in each order, so that what a crash has lost comes again with the next one.
    """

    file: str
    """A name, without folders."""
    text: str


Order = Stop | Pause | Resume | Restart | Save | Write
