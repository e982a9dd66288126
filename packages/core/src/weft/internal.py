"""What few programs need: to free values by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._api.session import running
from weft._refs import ObjectRef
from weft.exceptions import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["free"]


def free(
    object_refs: ObjectRef[Any] | Sequence[ObjectRef[Any]],
    local_only: bool = False,
) -> None:
    """Let values go at once, although references to them exist.

    Values go by themselves with their last reference; this is for a program that cannot drop its
    references yet, and knows that nobody will get the values. Does not block. Memory comes back
    within moments; views that exist stay readable, and keep theirs.

    Who gets a freed value meets ObjectFreedError, and so does a task whose argument it is. It is
    not made again. That holds in every process as soon as its owner has heard of it; another
    process that has a small value already (up to 100 KiB) may go on reading it. A value whose task
    has not ended is freed beforehand: the task goes on, and what it returns is thrown away.

    To free what is freed is nothing to do.

    Args:
        object_refs: A reference, or a list of them.
        local_only: Only the copies on this node. There is one copy of a value, so this frees it.

    Raises:
        ArgumentError: What was given is no reference (a TypeError). Nothing was freed.
        SessionError: There is no session.
    """
    refs = [object_refs] if isinstance(object_refs, ObjectRef) else object_refs
    if not isinstance(refs, list | tuple) or not all(isinstance(ref, ObjectRef) for ref in refs):
        raise ArgumentError(
            "weft.internal.free takes an ObjectRef or a list of them, "
            f"not {_described(object_refs)}"
        )
    running().free(refs)


def _described(given: object) -> str:
    kinds = sorted({type(each).__name__ for each in given}) if isinstance(given, list) else []
    return f"a list of {', '.join(kinds)}" if kinds else type(given).__name__
