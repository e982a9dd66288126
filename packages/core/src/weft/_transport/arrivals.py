"""Connections on their way: they have not proven themselves, so they get little room and time.

At most `most` are on their way at once. When another comes, the oldest gives way: it has had the
most time, and who greets as fast as it can is let in even while somebody opens connections without
end and says nothing. One that is still here after `patience_s` gives up too.

It belongs to the thread of one loop, which lends it its timer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from weft._clock import monotonic

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 5.0
MOST = 256


class PendingConnection(Protocol):
    """Something on its way. Hashable by identity."""

    def give_up(self, reason: str) -> None:
        """End: it took too long, or too many came after it. It has been taken off the list."""
        ...


class Arrivals:
    """Those on their way, the oldest first."""

    def __init__(
        self,
        call_later: Callable[[float, Callable[[], None]], None],
        *,
        patience_s: float = PATIENCE_S,
        most: int = MOST,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`call_later(delay_s, function)`: how the loop calls a function once, after a delay."""
        self.patience_s = patience_s
        self.most = most
        self._call_later = call_later
        self._clock = clock
        self._due_at: dict[PendingConnection, float] = {}
        self._is_timed = False
        """A call of `_expire` is to come."""

    def __len__(self) -> int:
        return len(self._due_at)

    def add(self, arrival: PendingConnection) -> None:
        """Let one more be on its way; the oldest gives way if they are too many."""
        while len(self._due_at) >= self.most:
            oldest = next(iter(self._due_at))
            del self._due_at[oldest]
            oldest.give_up(f"over {self.most} connections are on their way")
        self._due_at[arrival] = self._clock() + self.patience_s
        self._time()

    def discard(self, arrival: PendingConnection) -> None:
        """It has arrived, or has ended, or has not been on its way at all."""
        self._due_at.pop(arrival, None)

    def _time(self) -> None:
        if self._due_at and not self._is_timed:
            self._is_timed = True
            due_at = next(iter(self._due_at.values()))
            self._call_later(max(0.0, due_at - self._clock()), self._expire)

    def _expire(self) -> None:
        self._is_timed = False
        now = self._clock()
        while self._due_at:
            oldest, due_at = next(iter(self._due_at.items()))
            if due_at > now:
                break
            del self._due_at[oldest]
            oldest.give_up(f"it took over {self.patience_s:g} s")
        self._time()
