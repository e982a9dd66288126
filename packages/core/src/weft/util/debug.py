"""Saying something once, or once a minute, however often it comes up."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from weft._clock import monotonic

if TYPE_CHECKING:
    from collections.abc import Hashable

PERIOD_S = 60.0
"""How long a key counts as said after `enable_periodic_logging`."""


class _Said:
    """What was said in this process, and when."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.said_at: dict[Hashable, float] = {}
        self.is_silent = False
        self.period_s = float("inf")


_said = _Said()


def log_once(key: Hashable) -> bool:
    """Tell whether something is to be said: True the first time for this key in this process.

    Safe from threads.

        if log_once("slow disk"):
            logger.warning("the disk is slow")

    Args:
        key: Stands for what is said.
    """
    with _said.lock:
        if _said.is_silent:
            return False
        now = monotonic()
        said_at = _said.said_at.get(key)
        if said_at is not None and now - said_at < _said.period_s:
            return False
        _said.said_at[key] = now
        return True


def reset_log_once(key: Hashable) -> None:
    """Let `log_once` return True once more for this key.

    Args:
        key: As it was given to `log_once`.
    """
    with _said.lock:
        _said.said_at.pop(key, None)


def disable_log_once_globally() -> None:
    """Let `log_once` return False from here on, for every key."""
    with _said.lock:
        _said.is_silent = True


def enable_periodic_logging() -> None:
    """Let `log_once` return True once a minute for each key, instead of once for ever."""
    with _said.lock:
        _said.period_s = PERIOD_S
