"""A call's arguments on their way.

References at the top level become their values, those further in stay references.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from weft._refs import ObjectRef
from weft._serialize.pickling import dumps_call
from weft._wire.messages import Bundle, Held, Inline, Shared

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from weft._runtime.objects import Objects
    from weft._wire.messages import Packed, Value


class Dependency(msgspec.Struct, frozen=True):
    """Stands in pickled arguments for the value of the call's dependency `index`."""

    index: int


class Arguments(msgspec.Struct, frozen=True):
    """Arguments as they are sent."""

    data: bytes
    """Pickled (args, kwargs); empty for none."""
    deps: list[ObjectRef[Any]]
    """Whose values are arguments."""
    inner: list[ObjectRef[Any]]
    """What lies inside the arguments."""
    large: Shared | None = None
    """The pickle, if it is too large for a message."""


NO_ARGUMENTS = Arguments(b"", [], [])


def pack_arguments(objects: Objects, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Pickle a call's arguments. PicklingError, StoreFullError: nothing is left behind."""
    if not args and not kwargs:
        return NO_ARGUMENTS
    deps: list[ObjectRef[Any]] = []

    def stand_in(value: Any) -> Any:
        if isinstance(value, ObjectRef):
            deps.append(value)
            return Dependency(len(deps) - 1)
        return value

    for value in args:
        if type(value) is ObjectRef:
            args = tuple([stand_in(value) for value in args])
            break
    for value in kwargs.values():
        if type(value) is ObjectRef:
            kwargs = {name: stand_in(value) for name, value in kwargs.items()}
            break
    serialized = dumps_call(args, kwargs)
    packed = objects.store_value(serialized, label="arguments of a call")
    if type(packed) is Shared:
        return Arguments(b"", deps, serialized.refs, packed)
    assert type(packed) is Inline
    return Arguments(packed.data, deps, serialized.refs)


def unpack_arguments(
    objects: Objects,
    data: bytes,
    deps: Sequence[Packed],
    owners: Sequence[Held],
    large: Shared | None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs). An error of a dependency is raised."""
    if large is not None:
        args, kwargs = objects.load_argument(large, owners[-1])
    elif data:
        args, kwargs = objects.unpack_arguments(data)
    else:
        return (), {}
    if deps:
        values = [
            objects.load_argument(value, source)
            for value, source in zip(unpacked(objects, deps), owners, strict=False)
        ]
        args = tuple(
            [values[value.index] if type(value) is Dependency else value for value in args]
        )
        kwargs = {
            name: values[value.index] if type(value) is Dependency else value
            for name, value in kwargs.items()
        }
    return args, kwargs


def unpacked(objects: Objects, deps: Sequence[Packed]) -> Iterator[Value]:
    """Yield the values of dependencies as they were sent, those of one bundle at a time."""
    for packed in deps:
        if isinstance(packed, Bundle):
            yield from objects.unpack_bundle(packed)
        else:
            yield packed
