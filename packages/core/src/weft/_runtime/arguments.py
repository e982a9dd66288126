"""A call's arguments on their way.

References at the top level become their values, those further in stay references.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from weft._refs import ObjectRef
from weft._runtime.bundles import INLINE_BYTES
from weft._runtime.loop import Waiter
from weft._runtime.room import ARGUMENT
from weft._serialize.pickling import dumps_call
from weft._wire.messages import Bundle, Held, Shared

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from weft._runtime.links import Links
    from weft._runtime.objects import Objects
    from weft._serialize.pickling import Serialized
    from weft._wire.messages import Call, Packed, Run, Value


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
    """The pickle, if it is too large for a message: an object, which the last of `inner` keeps."""


NO_ARGUMENTS = Arguments(b"", [], [])


class PackedArguments(NamedTuple):
    """Stands for the arguments of a call that another process has pickled."""

    serialized: Serialized
    deps: list[ObjectRef[Any]]


def pack_arguments(links: Links, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Pickle a call's arguments. Whatever is raised, nothing is left behind."""
    if not args and not kwargs:
        return NO_ARGUMENTS
    if type(args) is PackedArguments:
        serialized, deps = args
    else:
        serialized, deps = pickle_arguments(args, kwargs)
    inner = serialized.refs
    if serialized.size_bytes <= INLINE_BYTES:
        return Arguments(serialized.pack(), deps, inner)
    objects = links.objects
    object_id = links.ids.task_id().object_id(1)

    def own(packed: Value) -> None:
        # With the reference, and not later: an interrupt may come before the call is made.
        inner.append(objects.own(object_id, packed))

    large = objects.store_value(serialized, label="arguments of a call", claim=own)
    assert type(large) is Shared
    return Arguments(b"", deps, inner, large)


def pickle_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Serialized, list[ObjectRef[Any]]]:
    """Pickle arguments in which Dependencies stand for references; return these, too."""
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
    return dumps_call(args, kwargs), deps


def prefetch(objects: Objects, message: Run | Call) -> Sequence[object]:
    """Have arguments brought that are on other nodes; return what will keep them here.

    Inside the guard. Of those that come in bundles nothing is done.
    """
    values: list[Packed] = [*message.deps, *([message.large] if message.large is not None else [])]
    if len(values) < len(message.owners):
        return ()
    far = objects.far(
        (value, source)
        for value, source in zip(values, message.owners, strict=True)
        if not isinstance(value, Bundle)
    )
    return objects.room.want(far, Waiter(len(far)), ARGUMENT) if far else ()


def unpack_arguments(
    objects: Objects,
    data: bytes,
    deps: Sequence[Packed],
    owners: Sequence[Held],
    large: Shared | None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs). An error of a dependency is raised."""
    brought: Sequence[object] = ()
    if objects.copies is not None and owners:
        values = [*unpacked(objects, deps), *([large] if large is not None else [])]
        # Kept until they are loaded.
        brought = objects.bring(list(zip(values, owners, strict=True)))
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
    del brought
    return args, kwargs


def unpacked(objects: Objects, deps: Sequence[Packed]) -> Iterator[Value]:
    """Yield the values of dependencies as they were sent, those of one bundle at a time."""
    for packed in deps:
        if isinstance(packed, Bundle):
            yield from objects.unpack_bundle(packed)
        else:
            yield packed
