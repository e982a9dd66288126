"""Serializers for classes that pickle cannot handle, or not well enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from weft._serialize.pickling import deregister_reducer, register_reducer

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def register_serializer(
    cls: type[T], *, serializer: Callable[[T], Any], deserializer: Callable[[Any], T]
) -> None:
    """Say how instances of a class travel between processes.

    It holds for this process and for instances of exactly `cls`. The deserializer travels with each
    value, so only a process that sends such values has to register; a task that returns them is
    one.

    Args:
        cls: The class.
        serializer: Turns an instance into something that can be pickled.
        deserializer: Turns that into an instance again.
    """

    def reduce(obj: T) -> tuple[Callable[[Any], T], tuple[Any]]:
        return deserializer, (serializer(obj),)

    register_reducer(cls, reduce)


def deregister_serializer(cls: type) -> None:
    """Forget how instances of a class travel; nothing happens if nothing was registered for it."""
    deregister_reducer(cls)
