"""The stopper that looks at the clock."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from weft.lowlevel import override
from weft.tune._arguments import check_number
from weft.tune.stopper.stopper import Stopper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class TimeoutStopper(Stopper):
    """Ends the experiment after some time, counted from when it is first asked.

    A restored experiment has its full time again.

    Args:
        timeout: In seconds, or a timedelta; 0 or more.
        clock: Returns seconds; for tests.
    """

    def __init__(
        self, timeout: float | timedelta, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        check_number("TimeoutStopper", "timeout", seconds, least=0)
        self._timeout_s = seconds
        self._clock = clock
        self._begun_at: float | None = None

    @override
    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return self.stop_all()

    @override
    def stop_all(self) -> bool:
        now = self._clock()
        if self._begun_at is None:
            self._begun_at = now
        return now - self._begun_at >= self._timeout_s
