"""How long a node waits for a control service that does not answer: then it ends, and says so.

A head that is started again, or one that stands by, is found meanwhile. A node that nobody leads
any more would keep its machine's memory and its workers for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._transport.timers import Timers


class Patience:
    """One wait at a time."""

    def __init__(self, timers: Timers, limit_s: float, over: Callable[[], None]) -> None:
        """`limit_s`: 0 waits for ever. `over`: it has been so long."""
        self._timers = timers
        self._limit_s = limit_s
        self._over = over
        self._waits = 0
        """How many waits have begun."""
        self._is_waiting = False

    def begin(self) -> None:
        """There is no answer from here on. Idempotent."""
        if self._is_waiting or not self._limit_s:
            return
        self._is_waiting = True
        self._waits += 1
        wait = self._waits
        self._timers.call_later(self._limit_s, lambda: self._end(wait))

    def end(self) -> None:
        """There was an answer. Idempotent."""
        self._is_waiting = False

    def _end(self, wait: int) -> None:
        if self._is_waiting and wait == self._waits:
            self._over()
