"""What the calling code is part of: the task or method call that runs in this thread or coroutine."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from weft._ids import TaskId


class Running:
    """One task or call while it runs here."""

    __slots__ = ("cancelled", "children", "depth", "finished", "function", "job", "name", "task_id", "thread")

    def __init__(self, task_id: TaskId, *, name: str, function: str, depth: int, thread: int, job: Any) -> None:
        self.task_id = task_id
        self.name = name
        self.function = function
        self.depth = depth
        self.thread = thread
        """Ident of the thread that runs it."""
        self.job = job
        """The executor's own record."""
        self.cancelled = False
        self.finished = False
        self.children: set[TaskId] | None = None
        """Tasks that it submitted and that have not ended."""


running: ContextVar[Running | None] = ContextVar("weft_running", default=None)
