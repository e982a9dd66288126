"""How lost objects are made again: the tasks that one process keeps for that, up to a bound.

A lineage is kept while a result that could be lost lives, or is mentioned by the lineage of another
task. It mentions the task's arguments: their entries stay in the table, not their values
(ownership.py). So it costs a record and the pickled arguments, and recovery goes back through it.

What is always true
1. `total_bytes` is the sum over what is kept, with each function's code once, and at most the
   limit.
2. A lineage that is not kept mentions nothing, and `why_not` says why it is not.

Source: Wang et al., "Ownership: A Distributed Futures System for Fine-Grained Tasks", NSDI 2021,
section 4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._wire.messages import Inline, Shared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft._ids import ObjectId, TaskId
    from weft._wire.messages import Value


def can_go(value: Value | None) -> bool:
    """Tell whether a value may be lost, or given up: then its object can be made again.

    A small value with references inside is given up, since it would keep their objects.
    """
    return type(value) is Shared or (type(value) is Inline and bool(value.held))


class Lineage:
    """How one task's results can be made again, or why they cannot.

    The shell fills it in before it tells that the task has ended.
    """

    __slots__ = (
        "again", "code_bytes", "ended", "function", "mentions", "note", "results", "running",
        "size_bytes", "task_id", "why_not",
    )  # fmt: skip

    def __init__(self, task_id: TaskId) -> None:
        self.task_id = task_id
        self.mentions: Sequence[ObjectId] = ()
        """Owned objects among the arguments, or inside them; an id may stand here twice."""
        self.size_bytes = 0
        self.function = b""
        self.code_bytes = 0
        self.why_not = ""
        """Why the task cannot be run again; empty if it can."""
        self.note: Any = None
        """The shell's."""
        self.results: dict[ObjectId, None] = {}
        """Those in the table that were, or can be, lost; in the order in which they are made."""
        self.ended = False
        """The task has ended for the first time."""
        self.running = True
        """The task has not ended, or is being run again."""
        self.again = False
        """Somebody wanted meanwhile what is missing."""


class Lineages:
    """Those that are kept; the oldest first."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.total_bytes = 0
        self.kept: dict[TaskId, Lineage] = {}
        self._users: dict[bytes, int] = {}
        """By function: how many of those kept run it."""

    def keep(self, lineage: Lineage) -> None:
        """Keep one; too much may be kept then."""
        self.kept[lineage.task_id] = lineage
        self.total_bytes += lineage.size_bytes
        users = self._users.get(lineage.function, 0)
        self._users[lineage.function] = users + 1
        if not users:
            self.total_bytes += lineage.code_bytes

    def oldest_over_limit(self) -> Lineage | None:
        """Return what has to go first, if too much is kept."""
        return next(iter(self.kept.values())) if self.total_bytes > self.limit_bytes else None

    def forget(self, lineage: Lineage, why_not: str) -> Sequence[ObjectId]:
        """Keep one no longer, if it is kept; return what it mentioned."""
        if self.kept.pop(lineage.task_id, None) is None:
            return ()
        self.total_bytes -= lineage.size_bytes
        users = self._users[lineage.function] - 1
        if users:
            self._users[lineage.function] = users
        else:
            del self._users[lineage.function]
            self.total_bytes -= lineage.code_bytes
        mentioned, lineage.mentions = lineage.mentions, ()
        lineage.note = None
        lineage.why_not = why_not
        return mentioned

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        codes = {kept.function: kept.code_bytes for kept in self.kept.values()}
        sizes = sum(kept.size_bytes for kept in self.kept.values())
        assert self.total_bytes == sizes + sum(codes.values()), 1
        assert self.total_bytes <= self.limit_bytes, 1
        for task_id, lineage in self.kept.items():
            assert lineage.task_id == task_id and not lineage.why_not, (2, task_id)
