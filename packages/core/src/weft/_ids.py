"""The identifiers of Weft: 16 bytes each, typed, printable, ordered.

A task's id ends in four zero bytes; the objects that it makes share its first twelve bytes and end
in their index, counted from one. So an object's task, and a task's objects, are known without a
table.

What is always true
1. An id is a `bytes` of length 16: it hashes, compares and travels as such.
2. Two ids from one `IdSource` differ; two sources differ by 64 random bits.
"""

from __future__ import annotations

import os
from itertools import count
from typing import Self

from weft._override import override

ID_BYTES = 16
_INDEX_BYTES = 4
_HEAD_BYTES = ID_BYTES - _INDEX_BYTES
_NO_INDEX = bytes(_INDEX_BYTES)
_MOST = (1 << 8 * _HEAD_BYTES) - 1


class UniqueId(bytes):
    """An identifier of 16 bytes."""

    __slots__ = ()

    @classmethod
    def from_binary(cls, id_bytes: bytes) -> Self:
        """Make an id of its 16 bytes; ValueError for another length."""
        if len(id_bytes) != ID_BYTES:
            raise ValueError(f"an id has {ID_BYTES} bytes, not {len(id_bytes)}")
        return cls(id_bytes)

    @classmethod
    def from_hex(cls, hex_id: str) -> Self:
        """Make an id of its 32 hexadecimal digits; ValueError if they are not."""
        return cls.from_binary(bytes.fromhex(hex_id))

    @classmethod
    def from_random(cls) -> Self:
        """Draw an id from the system's random source."""
        return cls(os.urandom(ID_BYTES))

    @classmethod
    def nil(cls) -> Self:
        """Return the id that stands for nothing: all bits set."""
        return cls(b"\xff" * ID_BYTES)

    @classmethod
    def size(cls) -> int:
        """Return the length of an id in bytes."""
        return ID_BYTES

    def binary(self) -> bytes:
        """Return the 16 bytes."""
        return bytes(self)

    def is_nil(self) -> bool:
        """Tell whether this is the id that stands for nothing."""
        return self == b"\xff" * ID_BYTES

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    __str__ = __repr__


class JobId(UniqueId):
    """One driver's life on a cluster."""

    __slots__ = ()


class NodeId(UniqueId):
    """One machine of a cluster."""

    __slots__ = ()


class WorkerId(UniqueId):
    """One process that owns objects or runs tasks: a worker or a driver."""

    __slots__ = ()


class ActorId(UniqueId):
    """One actor, through all its restarts."""

    __slots__ = ()


class PlacementGroupId(UniqueId):
    """One placement group."""

    __slots__ = ()


class FunctionId(UniqueId):
    """The code of a function or class: a hash of its pickle."""

    __slots__ = ()


class ObjectId(UniqueId):
    """One value, in the hands of its owner."""

    __slots__ = ()

    def task_id(self) -> TaskId:
        """Return the id of the task that makes this object."""
        return TaskId(self[:_HEAD_BYTES] + _NO_INDEX)

    def number(self) -> int:
        """Return which of its task's objects this is, counted from one."""
        return int.from_bytes(self[_HEAD_BYTES:], "big")


class TaskId(UniqueId):
    """One call of a remote function or method, through all its attempts."""

    __slots__ = ()

    def object_id(self, index: int) -> ObjectId:
        """Return the id of this task's object `index`, counted from one."""
        return ObjectId(self[:_HEAD_BYTES] + index.to_bytes(_INDEX_BYTES, "big"))


class IdSource:
    """Makes the ids of one process: a random head and a counter. Safe from threads."""

    __slots__ = ("_base", "_next")

    def __init__(self, seed: bytes | None = None) -> None:
        head = seed if seed is not None else os.urandom(8)
        self._base = int.from_bytes(head, "big") << 32
        self._next = count(1).__next__

    def task_id(self) -> TaskId:
        """Return a task id that nobody else has."""
        # The counter has 32 bits of its own, and goes on in the random ones: as far from those of
        # other sources as before.
        number = (self._base + self._next()) & _MOST
        return TaskId(number.to_bytes(_HEAD_BYTES, "big") + _NO_INDEX)
