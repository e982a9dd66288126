"""How long a node waits for a control service that does not answer: then it ends, and says so.

A head that is started again, or one that stands by, is found meanwhile. A node that nobody leads
any more would keep its machine's memory and its workers for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._clock import monotonic

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
        self._since: float | None = None
        """Since when there is no answer."""

    def begin(self) -> None:
        """There is no answer from here on. Idempotent."""
        if self._since is not None:
            return
        self._since = monotonic()
        self._waits += 1
        wait = self._waits
        if self._limit_s:
            self._timers.call_later(self._limit_s, lambda: self._end(wait))

    def end(self) -> None:
        """There was an answer. Idempotent."""
        self._since = None

    def explain(self) -> str:
        """Say for how long there is no answer, and what follows; empty: there is one."""
        if self._since is None:
            return ""
        silent_s = monotonic() - self._since
        words = f"no head has answered for {silent_s:.0f} s"
        if not self._limit_s:
            return words
        return f"{words}; if none does, this node ends in {self._limit_s - silent_s:.0f} s"

    def _end(self, wait: int) -> None:
        if self._since is not None and wait == self._waits:
            self._over()
