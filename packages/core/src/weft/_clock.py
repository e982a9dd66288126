"""Time: the only importer of `time`."""

from __future__ import annotations

import time
from typing import Protocol

monotonic = time.monotonic
"""Seconds from some point in the past; never jumps."""
wall = time.time
"""Seconds since 1970; may jump."""


class Clock(Protocol):
    """What a shell asks for the time."""

    def monotonic(self) -> float:
        """Return seconds from some point in the past; never jumps."""
        ...

    def wall(self) -> float:
        """Return seconds since 1970; may jump."""
        ...


def processor() -> float:
    """Return the processor time that this thread has taken, in seconds."""
    return time.thread_time()
