"""How a program of a benchmark is timed. Imports little: one of the rows measures an import."""

from __future__ import annotations

from itertools import repeat
from time import perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK_S = 0.01
"""The clock is read once in a block of calls about this long."""


class Rate:
    """Calls an operation over and over and tells how often it went in a second.

    Args:
        seconds: How long is measured. Before, it runs for half of that unmeasured, at least once.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, operation: Callable[[], object], count: float = 1) -> float:
        """Return the rate: calls of `operation` times `count`, what one call does, in a second."""
        begin = perf_counter()
        calls = 0
        while (passed_s := perf_counter() - begin) < self.seconds / 2 or not calls:
            operation()
            calls += 1
        block = max(1, int(BLOCK_S * calls / passed_s))
        calls = 0
        begin = perf_counter()
        while (passed_s := perf_counter() - begin) < self.seconds or not calls:
            for _ in repeat(None, block):
                operation()
            calls += block
        return count * calls / passed_s
