"""Functions to be called after a delay."""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

from weft._clock import monotonic

if TYPE_CHECKING:
    from collections.abc import Callable


class Timers:
    """The timers of a loop, which asks `sleep_s` how long it may sleep and then calls `ring`."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._next: list[Callable[[], None]] = []
        """To be called after the next sleep."""
        self._ripe: list[Callable[[], None]] = []
        """To be called after the sleep that is now."""

    def call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        """Call a function once, after a delay."""
        heapq.heappush(self._heap, (monotonic() + delay_s, next(self._numbers), function))

    def call_next(self, function: Callable[[], None]) -> None:
        """Call a function once, after the next sleep, which takes no time.

        So the loop has looked once more at all that has arrived.
        """
        self._next.append(function)

    def sleep_s(self, until: float | None = None) -> float | None:
        """Return how long nothing is due, at most to a point in time; None: for ever."""
        self._ripe += self._next
        self._next = []
        if self._ripe:
            return 0.0
        times = [until] if until is not None else []
        if self._heap:
            times.append(self._heap[0][0])
        return max(0.0, min(times) - monotonic()) if times else None

    def tick(self, now: float) -> float | None:
        """Call those that are due; return when the next one is."""
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
        return self._heap[0][0] if self._heap else None

    def ring(self) -> None:
        """Call those that are due."""
        ripe, self._ripe = self._ripe, []
        for function in ripe:
            function()
        self.tick(monotonic())
