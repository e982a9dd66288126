"""Waking those who follow something: what changed is a name, and who is woken looks for itself.

So a slow follower costs a name for each thing that it follows, however often that changes; it sees
the newest state, and may miss those between.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

KEYS = 200_000
"""What one follower may follow at a time."""


class Listener:
    """One follower. It must be closed."""

    def __init__(self, bells: Bells) -> None:
        self._bells = bells
        self._keys: set[Hashable] = set()
        self._rung: dict[Hashable, None] = {}
        self._wake = asyncio.Event()

    def follow(self, keys: Iterable[Hashable]) -> None:
        """Follow more, each as if it had just rung. ValueError: too many."""
        for key in keys:
            self._keys.add(key)
            self._bells.add(key, self)
            self.ring(key)
        if len(self._keys) > KEYS:
            raise ValueError(f"one watch follows {len(self._keys)}, at most {KEYS}: open another")

    def leave(self, keys: Iterable[Hashable]) -> None:
        """Follow some no more."""
        for key in keys:
            self._keys.discard(key)
            self._rung.pop(key, None)
            self._bells.remove(key, self)

    def ring(self, key: Hashable) -> None:
        """Note that something has changed."""
        self._rung[key] = None
        self._wake.set()

    async def wait_rung(self) -> list[Hashable]:
        """Wait until something changes; return what has changed since the last time, each once."""
        await self._wake.wait()
        self._wake.clear()
        rung = list(self._rung)
        self._rung.clear()
        return rung

    def close(self) -> None:
        """Follow nothing any more."""
        self.leave(list(self._keys))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Bells:
    """All that is followed. One loop."""

    def __init__(self) -> None:
        self._listeners_of: dict[Hashable, dict[Listener, None]] = {}

    def listen(self) -> Listener:
        """Return a new follower."""
        return Listener(self)

    def ring(self, key: Hashable) -> None:
        """Wake those who follow something."""
        for listener in list(self._listeners_of.get(key, ())):
            listener.ring(key)

    def add(self, key: Hashable, listener: Listener) -> None:
        """Let a follower follow something."""
        self._listeners_of.setdefault(key, {})[listener] = None

    def remove(self, key: Hashable, listener: Listener) -> None:
        """Let a follower not follow something."""
        listeners = self._listeners_of.get(key, {})
        listeners.pop(listener, None)
        if not listeners:
            self._listeners_of.pop(key, None)
