"""Small values that are large together: they go through the store, so many at a time.

A value of up to `INLINE_BYTES` travels in the message itself. Ten thousand of them would be a
message of a gigabyte: over the bound of a frame, and several times in both sides' memory. In the
store they are there once, and the reader takes them out bundle by bundle. To another node they go
one by one all the same: its connection takes longer for them than the memory.

The loop's guard is held in every function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._wire import codec
from weft._wire.messages import Bundle, Inline, Shared, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from weft._runtime.objects import Objects
    from weft._wire.messages import Packed

# Up to here a copy through two sockets is cheaper than a segment, its mapping and its recycling.
INLINE_BYTES = 100 * 1024
# A unix socket's buffer holds 208 KiB. Who writes more waits for the reader, again and again
# (measured: 600 KiB take 0.9 ms in a message, 0.4 ms in the store; 6 MiB 9.5 ms and 1.5 ms).
LOOSE_BYTES = 2 * INLINE_BYTES
# So many are in memory twice at a time, on each side. More make it no faster.
BUNDLE_BYTES = 1024 * 1024


def pack_together(objects: Objects, values: list[Value]) -> list[Packed]:
    """Return the values as they are sent: in bundles, if there are too many for a message.

    StoreFullError: there is no room for them; nothing is left behind.
    """
    if len(values) * INLINE_BYTES <= LOOSE_BYTES or sum(map(_size, values)) <= LOOSE_BYTES:
        return [*values]
    packed: list[Packed] = []
    begun: list[Value] = []
    size_bytes = 0
    try:
        for value in values:
            begun.append(value)
            size_bytes += _size(value)
            if size_bytes >= BUNDLE_BYTES:
                packed.append(_bundle(objects, begun))
                begun, size_bytes = [], 0
        if begun:
            packed.append(_bundle(objects, begun))
    except BaseException:
        recycle(objects, packed)
        raise
    return packed


def _size(value: Value) -> int:
    return len(value.data) if type(value) is Inline else 0


def _bundle(objects: Objects, values: list[Value]) -> Bundle:
    data = codec.pack(values)
    segment = objects.store.reserve_passing(len(data))
    try:
        segment.fill([data])
    except BaseException:
        objects.store.recycle(segment.name)
        raise
    return Bundle(Shared(segment.name, len(data), objects.address))


def unpack(objects: Objects, bundle: Bundle) -> list[Value]:
    """Return the values of a bundle. They are copies, which do not keep its segment."""
    place = bundle.place
    view = objects.store.try_view(place, lambda: None)
    assert view is not None, "a bundle is kept until it was read"
    return codec.unpack(view, list[Value])  # type: ignore[arg-type]  # any buffer does


def loosen(objects: Objects, packed: Sequence[Packed]) -> Sequence[Packed]:
    """Return values as they are sent to another node, which cannot read bundles of this one."""
    if not any(isinstance(each, Bundle) for each in packed):
        return packed
    values: list[Packed] = []
    for each in packed:
        values += unpack(objects, each) if isinstance(each, Bundle) else [each]
    return values


def unpack_all(objects: Objects, packed: Sequence[Packed]) -> list[Value]:
    """Return all values of an answer, and give the segments of its bundles back."""
    if len(packed) == 1 and not isinstance(packed[0], Bundle):
        return [packed[0]]
    values: list[Value] = []
    for each in packed:
        if isinstance(each, Bundle):
            values += unpack(objects, each)
            objects.recycle(each.place)
        else:
            values.append(each)
    return values


def recycle(objects: Objects, packed: Iterable[Packed]) -> None:
    """Give the segments of bundles back, whose values nobody needs any more."""
    for each in packed:
        if isinstance(each, Bundle):
            objects.recycle(each.place)
