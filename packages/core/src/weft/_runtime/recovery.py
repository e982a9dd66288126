"""What a task leaves behind so that it can be run again, when a result of it is lost.

The loop's guard is held in every function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._ids import ObjectId
from weft._machines.ownership import Adopted
from weft._runtime.arguments import Arguments
from weft._serialize.failures import unpack_failure
from weft._wire.messages import Failure, Held, Inline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft._machines.lineage import Lineage
    from weft._refs import ObjectRef
    from weft._runtime.objects import Objects
    from weft._runtime.submissions import Submission

# What a task leaves beside its arguments (measured: 2.1 KB a result, with its entry).
RECORD_BYTES = 2_000


class Sources:
    """A task's arguments, without its references: their names keep nothing."""

    __slots__ = ("data", "deps", "inner")

    def __init__(self, arguments: Arguments) -> None:
        self.data = arguments.data
        self.deps = [Held(ref._id, ref._owner) for ref in arguments.deps]
        self.inner = [Held(ref._id, ref._owner) for ref in arguments.inner]


def describe(lineage: Lineage, note: Submission) -> None:
    """Write down how a task that has ended can be run again."""
    arguments = note.arguments
    note.sources = Sources(arguments)
    entries = [ref._entry for ref in (*arguments.deps, *arguments.inner)]
    lineage.mentions = [entry.id for entry in entries if not entry.owner]
    lineage.function, _, code = note.code
    lineage.code_bytes = len(code)
    lineage.size_bytes = RECORD_BYTES + len(arguments.data)
    for entry in entries:
        # It stays also where nothing else needs it.
        if type(entry.value) is Inline:
            lineage.size_bytes += len(entry.value.data)


def restore_arguments(note: Submission, objects: Objects) -> list[ObjectId]:
    """Give a task its references again; return those that their owners have to count first."""
    sources = note.sources
    assert sources is not None
    borrowed: list[ObjectId] = []
    note.arguments = Arguments(
        sources.data,
        _refs(sources.deps, objects, borrowed),
        _refs(sources.inner, objects, borrowed),
    )
    return borrowed


def _refs(
    sources: Sequence[Held], objects: Objects, borrowed: list[ObjectId]
) -> list[ObjectRef[object]]:
    refs: list[ObjectRef[object]] = []
    entries = objects.machine.entries
    for source in sources:
        object_id = ObjectId(source.object_id)
        if source.owner == objects.address:
            refs.append(objects.new_ref(entries[object_id]))
            continue
        objects.handle(Adopted(object_id, source.owner, None, defer=False))
        refs.append(objects.ref(entries[object_id]))
        borrowed.append(object_id)
    return refs


def in_words(failure: Failure, objects: Objects) -> str:
    """Return an error's class and first line."""
    with objects.reading_inside():
        error = unpack_failure(failure.error)
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
