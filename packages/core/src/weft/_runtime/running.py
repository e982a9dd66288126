"""What the calling code is part of.

The task or method call that runs in this thread or coroutine.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft._ids import TaskId
    from weft._machines.ownership import Entry


class Running:
    """One task or call while it runs here."""

    __slots__ = (
        "began",
        "cancelled",
        "children",
        "depth",
        "finished",
        "function",
        "is_late",
        "name",
        "task_id",
        "thread",
        "waits",
        "waits_for_memory",
    )

    def __init__(
        self, task_id: TaskId, *, name: str, function: str, depth: int, thread: int, began: float
    ) -> None:
        self.task_id = task_id
        self.name = name
        self.function = function
        self.depth = depth
        self.thread = thread
        """Ident of the thread that runs it."""
        self.began = began
        """Monotonic, seconds."""
        self.cancelled = False
        self.is_late = False
        """It was cancelled because it ran over its time limit."""
        self.finished = False
        self.children: set[TaskId] | None = None
        """Tasks that it submitted and that have not ended."""
        self.waits: list[Entry] = []
        """What it waits for; what has come is not taken out at once."""
        self.waits_for_memory = False


running: ContextVar[Running | None] = ContextVar("weft_running", default=None)
