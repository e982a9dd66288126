"""Arguments that are objects: they are awaited, and their values are put together for the message.

The loop's guard is held in every function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._runtime import bundles
from weft._runtime.arguments import NO_ARGUMENTS
from weft._serialize.failures import pack_error
from weft._wire.messages import Failure, Held
from weft.exceptions import StoreFullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._runtime.links import Links
    from weft._runtime.submissions import Submission
    from weft._wire.messages import Value


def gather(links: Links, note: Submission, then: Callable[[Failure | None], None]) -> None:
    """Call `then` when all arguments are there, or with the failure of the first that fails.

    At once, or later.
    """
    left = 1

    def came(value: Value | None) -> None:
        nonlocal left
        if left:
            left = 0 if type(value) is Failure else left - 1
            if left:
                return
            if type(value) is not Failure and not _are_there(note):
                # What came first was lost before the last came: it is made again.
                gather(links, note, then)
            else:
                then(_take(links, note))

    for ref in note.arguments.deps:
        entry = ref._entry
        if entry.value is None and links.objects.when_sealed(
            entry, lambda entry: came(entry.value)
        ):
            left += 1
        elif type(entry.value) is Failure:
            came(entry.value)
            return
    came(None)


def try_gather(links: Links, note: Submission) -> bool:
    """Put the arguments together if all are there, and fit; return whether."""
    return _are_there(note) and _take(links, note) is None


def _are_there(note: Submission) -> bool:
    return all(ref._entry.value is not None for ref in note.arguments.deps)


def _take(links: Links, note: Submission) -> Failure | None:
    """Take the arguments' values; return why they cannot be had, if so."""
    arguments = note.arguments
    values: list[Value] = []
    owners: list[Held] = []
    for ref in arguments.deps:
        value = ref._entry.value
        if type(value) is Failure:
            # What its error holds is kept as long as the argument is.
            return Failure(value.error, links.objects.held([ref])) if value.held else value
        values.append(value)
        owners.append(Held(ref._id, ref._owner))
    if arguments.large is not None:
        holder = arguments.inner[-1]
        owners.append(Held(holder._id, holder._owner))
    try:
        note.deps = bundles.pack_together(links.objects, values)
    except StoreFullError as error:
        return Failure(pack_error(error))
    note.owners = owners
    return None


def let_go(links: Links, note: Submission) -> None:
    """The arguments are not needed any more."""
    note.arguments = NO_ARGUMENTS
    bundles.recycle(links.objects, note.deps)
    note.deps = ()
