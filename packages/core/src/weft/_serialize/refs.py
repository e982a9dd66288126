"""References inside values: met while pickling, rebuilt while unpickling.

A pickle holds a reference as its id and its owner's address. Who pickles learns which references
it met, so that they are counted before the value leaves; who unpickles asks the engine for the
reference, so that the engine knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._ids import ObjectId
    from weft._refs import ObjectRef


def _no_engine(object_id: bytes, owner: str) -> NoReturn:
    raise RuntimeError(
        f"the value holds a reference ({object_id.hex()}, owned by {owner or 'nobody'}), "
        "but no session runs in this process: call weft.init() first"
    )


class Hooks:
    """What the engine of this process lends to the serializer."""

    __slots__ = ("rebuild_ref",)

    def __init__(self) -> None:
        self.rebuild_ref: Callable[[bytes, str], ObjectRef[Any]] = _no_engine
        """Makes the ObjectRef of this process for (object id, owner's address), in any thread."""

    def reset(self) -> None:
        """Forget the engine: references can no longer be unpickled."""
        self.rebuild_ref = _no_engine


hooks = Hooks()


def rebuild_ref(object_id: bytes, owner: str) -> ObjectRef[Any]:
    """Make the reference that was pickled. Its name is part of the format of pickles."""
    return hooks.rebuild_ref(object_id, owner)


def reduce_ref(
    ref: ObjectRef[Any], met: dict[ObjectId, ObjectRef[Any]]
) -> tuple[Callable[[bytes, str], ObjectRef[Any]], tuple[bytes, str]]:
    """Return what pickle is to write for `ref`, and note in `met` that it was there."""
    object_id = ref._id
    if object_id not in met:
        met[object_id] = ref
    return rebuild_ref, (bytes(object_id), ref._owner)
