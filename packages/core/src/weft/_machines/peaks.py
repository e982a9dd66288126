"""The most memory that tasks of a function were seen to take, for those functions that take much.

What is always true
1. A peak rises at once, and falls slowly: too low a one costs more than too high a one.
2. What is told of a peak changes only with a change that matters, and is 0 where the peak does not.
3. The peaks of `FUNCTIONS_KEPT` functions are kept, those that ran last.
"""

from __future__ import annotations

from collections import OrderedDict
from math import ceil

# How much of the way to a lower peak an estimate goes with each task.
FALL = 0.1
# A lower one is told from so much of the last on.
LOWER = 0.8
FUNCTIONS_KEPT = 1000


class _Peak:
    __slots__ = ("size_bytes", "told")

    def __init__(self) -> None:
        self.size_bytes = 0.0
        self.told = 0


class Peaks:
    """What is known of functions."""

    def __init__(self, most_bytes: int) -> None:
        """No more than `most_bytes` is told of any."""
        self._most_bytes = most_bytes
        self._peak_of: OrderedDict[str, _Peak] = OrderedDict()

    def of(self, function: str) -> float:
        """Return a function's peak, in bytes."""
        return self._peak(function).size_bytes

    def rise(self, function: str, size_bytes: int) -> None:
        """A task was seen to take so much."""
        peak = self._peak(function)
        peak.size_bytes = max(peak.size_bytes, size_bytes)

    def fall(self, function: str, size_bytes: int) -> None:
        """A task has ended that took so much at most."""
        peak = self._peak(function)
        peak.size_bytes -= max(0.0, peak.size_bytes - size_bytes) * FALL

    def news(self, function: str, least_bytes: int, above: float) -> int | None:
        """Return what is to be told of a function, in bytes; None: nothing.

        A peak below `least_bytes` does not matter. A higher one than was told last is told only
        from `above` times that on.
        """
        peak = self._peak(function)
        now = 0
        if peak.size_bytes >= least_bytes:
            now = min(_round_up(peak.size_bytes), self._most_bytes)
        if peak.told * LOWER <= now <= peak.told * above:
            return None
        peak.told = now
        return now

    @property
    def is_any_told(self) -> bool:
        """Whether tasks of any function ask for what is known of it."""
        return any(peak.told for peak in self._peak_of.values())

    def _peak(self, function: str) -> _Peak:
        peak = self._peak_of.setdefault(function, _Peak())
        self._peak_of.move_to_end(function)
        if len(self._peak_of) > FUNCTIONS_KEPT:
            self._peak_of.popitem(last=False)
        return peak


def _round_up(size_bytes: float) -> int:
    """Return the next of 64 steps an octave, so that small changes are none."""
    step = 1 << max(0, int(size_bytes).bit_length() - 7)
    return ceil(size_bytes / step) * step
