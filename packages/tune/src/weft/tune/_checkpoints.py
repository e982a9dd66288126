"""Which checkpoints of a trial are kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from weft.tune._values import flattened

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


class Kept(msgspec.Struct, frozen=True):
    """A checkpoint that is in the storage."""

    name: str
    iteration: int
    """How many results came before it."""
    time_total_s: float
    score: float
    """The larger, the better; -inf if it has none."""


class Keeping(msgspec.Struct, frozen=True):
    """The rule: so many of the best, or of the latest."""

    num_to_keep: int | None = None
    attribute: str | None = None
    """A metric; None: the later, the better."""
    order: Literal["max", "min"] = "max"

    def score(self, result: Mapping[str, Any]) -> float:
        """Return what a checkpoint with this result is worth."""
        if self.attribute is None:
            return 0.0
        value = flattened(dict(result)).get(self.attribute)
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            return -math.inf
        return float(value) if self.order == "max" else -float(value)

    def surplus(self, kept: Sequence[Kept], needed: Collection[str] = ()) -> list[str]:
        """Return the names to remove: neither among the best, nor the last, nor `needed`.

        `kept` has the oldest first. Of equal ones the later is better.
        """
        if self.num_to_keep is None or len(kept) <= self.num_to_keep:
            return []
        ranked = sorted(enumerate(kept), key=lambda entry: (entry[1].score, entry[0]))
        stay = {found.name for _, found in ranked[-self.num_to_keep :]} | {kept[-1].name}
        return [each.name for each in kept if each.name not in stay and each.name not in needed]
