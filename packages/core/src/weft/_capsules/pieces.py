"""The values that a failed call needs: found in its pickles, taken apart, described.

Nothing here asks the engine for a reference: pickles are read with stand-ins in the place of
references. So it may run where the engine cannot be called, and counts stay as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from io import BytesIO
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec

from weft._capsules.records import Piece
from weft._error_parts import type_name
from weft._override import override
from weft._serialize.pickling import (
    RAW_TYPES,
    Memory,
    Serialized,
    dumps,
    dumps_call,
    layout_of,
    unpack_by,
)
from weft._serialize.refs import rebuild_ref

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Arguments below it stay in the pickle of all of them.
OWN_PIECE_BYTES = 4096
# A value whose pickle is larger than this is not read only to say what it is: its arrays lie
# outside of the pickle, so this is a matter of objects.
READ_BYTES = 64 * 1024
# Of a value that is larger, so many blocks are hashed: 2 MiB, a millisecond or two.
BLOCKS = 32
BLOCK_BYTES = 64 * 1024

# ------------------------------------------------------------------ references


class _SinkType(type):
    """A class that takes whatever is done to it, and stays as it is."""

    @override
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls

    def __setitem__(cls, key: Any, value: Any) -> None:
        return

    def __setstate__(cls, state: Any) -> None:
        return

    def append(cls, value: Any) -> None:
        """Take an item of a list."""

    def extend(cls, values: Any) -> None:
        """Take items of a list."""

    def add(cls, value: Any) -> None:
        """Take an item of a set."""


class _Sink(metaclass=_SinkType):
    """Stands for everything that a pickle names."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls


def references_in(memory: Memory) -> list[tuple[bytes, str]]:
    """Return the references inside a packed value: (id, owner's address). Runs none of its code."""
    found: list[tuple[bytes, str]] = []
    _, inband, _ = layout_of(memory)
    _find_references(bytes(inband), found)
    return found


def _find_references(data: bytes, found: list[tuple[bytes, str]]) -> None:
    if rebuild_ref.__name__.encode() not in data:
        return

    def note(object_id: bytes, owner: str) -> type[_Sink]:
        found.append((object_id, owner))
        return _Sink

    def note_class(tracker: str, version: int, code: bytes) -> type[_Sink]:
        # A class's own pickle lies inside, as bytes.
        found.extend(references_in(code))
        return _Sink

    read = {
        (rebuild_ref.__module__, rebuild_ref.__name__): note,
        ("weft._serialize.pickling", "load_class"): note_class,
    }

    class Finder(pickle.Unpickler):
        @override
        def find_class(self, module_name: str, global_name: str, /) -> Any:
            return read.get((module_name, global_name), _Sink)

    Finder(BytesIO(data), buffers=repeat(b"")).load()


class StandIn(msgspec.Struct, frozen=True):
    """Stands for a reference; pickles as that."""

    object_id: bytes
    owner: str

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_ref, (self.object_id, self.owner)


class _WithStandIns(pickle.Unpickler):
    @override
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == (rebuild_ref.__module__, rebuild_ref.__name__):
            return StandIn
        return super().find_class(module_name, global_name)


# ------------------------------------------------------------------ taking apart


def take_apart(
    memory: Memory, placeholder: Callable[[], Any]
) -> tuple[Memory, list[tuple[Serialized, Any]]]:
    """Take the larger arguments out of a packed (args, kwargs).

    Return what is left, with a new placeholder for each, and those: serialized, and as they are.
    """
    args, kwargs = unpack_by(memory, _WithStandIns)
    taken: list[tuple[Serialized, Any]] = []

    def take(value: Any) -> Any:
        serialized = dumps(value)
        if serialized.size_bytes < OWN_PIECE_BYTES:
            return value
        taken.append((serialized, value))
        return placeholder()

    args = tuple([take(value) for value in args])
    kwargs = {name: take(value) for name, value in kwargs.items()}
    return dumps_call(args, kwargs).pack(), taken


# ------------------------------------------------------------------ describing


def describe(memory: Memory) -> Piece:
    """Say what a packed value is that is left out."""
    kind, inband, buffers = layout_of(memory)
    said = hashed(memory)
    if kind in RAW_TYPES:
        name, length = RAW_TYPES[kind].__name__, buffers[0].nbytes
        return msgspec.structs.replace(said, type=name, length=length)
    if inband.nbytes > READ_BYTES:
        return said
    with contextlib.suppress(Exception):  # user code that unpickles; its type is then not told
        return _described(unpack_by(memory, _WithStandIns), said)
    return said


def hashed(memory: Memory) -> Piece:
    """Say of a packed value only how large it is, and its hash."""
    _, inband, buffers = layout_of(memory)
    return _hashed(memoryview(memory).nbytes, inband, buffers)


def fingerprint(value: Any, serialized: Serialized) -> Piece:
    """Say of a value what `describe` says of its packed form."""
    inband = memoryview(serialized.inband)
    return _described(value, _hashed(serialized.size_bytes, inband, serialized.buffers))


def _described(value: Any, said: Piece) -> Piece:
    shape = getattr(value, "shape", None)
    is_shape = isinstance(shape, tuple) and all(type(length) is int for length in shape)
    try:
        length = len(value)
    except Exception:  # noqa: BLE001 - it has none, or its `__len__` fails
        length = None
    return msgspec.structs.replace(
        said,
        type=type_name(value),
        shape=shape if is_shape else None,
        dtype=str(value.dtype) if is_shape and hasattr(value, "dtype") else "",
        length=length,
    )


def _hashed(size_bytes: int, inband: memoryview, buffers: Sequence[memoryview]) -> Piece:
    # The pickle tells arrays that may be written to from those that may not.
    sha256, is_sampled = digest(buffers or [inband])
    return Piece(size_bytes=size_bytes, sha256=sha256, is_sampled=is_sampled)


def digest(parts: Sequence[memoryview]) -> tuple[str, bool]:
    """Return a hash over the parts of a value, and whether it left something out.

    Of more than `BLOCKS * BLOCK_BYTES` bytes only blocks of `BLOCK_BYTES` are hashed, `BLOCKS` of
    them over all and at least two a part, spread evenly, the first and the last among them.
    """
    total = sum(part.nbytes for part in parts)
    most = BLOCKS * BLOCK_BYTES
    state = hashlib.sha256()
    is_sampled = False
    for part in parts:
        content = part.cast("B")
        blocks = max(2, BLOCKS * content.nbytes // total) if total > most else 0
        if not blocks or blocks * BLOCK_BYTES >= content.nbytes:
            state.update(content)
            continue
        is_sampled = True
        last = content.nbytes - BLOCK_BYTES
        for number in range(blocks):
            start = last * number // (blocks - 1)
            state.update(content[start : start + BLOCK_BYTES])
    return state.hexdigest(), is_sampled
