"""Find out why something cannot be sent to a task."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from weft._override import override
from weft._serialize.blame import Search
from weft._serialize.pickling import can_pickle, reduce_instance

if TYPE_CHECKING:
    from typing import TextIO


class FailureTuple:
    """A part that cannot be pickled.

    Attributes:
        obj: The part.
        path: The way to it from the object that was asked about, as one would write it in Python.
        parent: What holds the part; None if it is that object itself.
        reason: Why it cannot be pickled.
    """

    __slots__ = ("obj", "parent", "path", "reason")

    def __init__(self, obj: Any, path: str, parent: Any, reason: str = "") -> None:
        self.obj = obj
        self.path = path
        self.parent = parent
        self.reason = reason

    @property
    def name(self) -> str:
        """The same as `path`."""
        return self.path

    @override
    def __repr__(self) -> str:
        return f"FailureTuple({self.path}: {self.reason})"


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Tell whether an object can be sent to a task, and print which parts of it cannot.

    It pickles the object, and after a failure its parts, so their own pickling code runs. Nothing
    is sent.

    Args:
        base_obj: Anything.
        name: What to call it in the output; its own name if None.
        depth: How many steps to go down for the part to blame.
        print_file: Where to print; standard output if None.

    Returns:
        Whether the object can be sent, and the parts to blame if it cannot.
    """
    called = name or getattr(base_obj, "__qualname__", None) or type(base_obj).__qualname__
    called = called.rpartition("<locals>.")[2]
    search = Search(can_pickle, reduce_instance, depth)
    failures = [
        FailureTuple(culprit.obj, culprit.path, culprit.parent, culprit.reason)
        for culprit in search.culprits(base_obj, called)
    ]
    lines = [f"{called} can be sent to a task."]
    if failures:
        lines = [f"{called} cannot be sent to a task:"]
        lines += [f"  {failure.path}: {failure.reason}" for failure in failures]
    (print_file or sys.stdout).write("\n".join(lines) + "\n")
    return not failures, set(failures)
