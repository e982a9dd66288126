"""The consumer's end of streams: what a generator task has yielded and nobody has taken yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from weft._ids import TaskId
from weft._machines.ownership import Entry


class Stream:
    """One generator task, as its owner sees it. The loop's guard is held in every method."""

    __slots__ = ("ended", "limit", "ready", "received", "taken", "task_id", "waiters")

    def __init__(self, task_id: TaskId, limit: int) -> None:
        self.task_id = task_id
        self.limit = limit
        """Items that may be ready before the task waits; 0: no limit."""
        self.ready: deque[Entry] = deque()
        """Pinned by this stream."""
        self.received = 0
        self.taken = 0
        self.ended = False
        self.waiters: list[Callable[[], object]] = []

    def changed(self) -> None:
        """Tell those who wait for the next item, or the end."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter()

    @property
    def would_block(self) -> bool:
        """Whether the next item is still to come."""
        return not self.ready and not self.ended
