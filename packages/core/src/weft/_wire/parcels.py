"""Frames and, between them, parcels: many bytes for which the receiver has a place already.

A parcel is a header of 13 bytes, `<u32 length> <u8 kind> <u64 tag>` (little-endian), its bytes,
and one byte that says whether they count: 1, or 0 if what they were read from was gone before all
were sent. The tag is the receiver's own, from its request. The bytes are not collected here: they
go from the socket to their place, but for those that were read together with what stood before.

What is always true
1. Bodies of frames, parcels and their bytes are handed out in the order in which they came.
2. A frame over the bound, an unknown kind, or a parcel with another end raises ProtocolError, and
   so does every later call.
3. `left` is how many bytes of the parcel that was handed out last are still to come.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from weft._wire.frame import HEADER, HEADER_BYTES, FrameReader
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

PARCEL = 2
"""The kind that marks a parcel where a frame could stand."""
PARCEL_HEADER = struct.Struct("<IBQ")
WHOLE_END, GONE_END = b"\x01", b"\x00"


class Parcel(NamedTuple):
    """The beginning of one."""

    tag: int
    size: int
    """Of its bytes, which follow."""


class ParcelEnd(NamedTuple):
    """All bytes of the parcel that was handed out last have come."""

    is_whole: bool
    """They count; else they are worth nothing."""


class ParcelReader:
    """Collects received bytes, and hands out bodies of frames, parcels, their bytes and ends."""

    def __init__(self) -> None:
        self.left = 0
        self._frames = FrameReader()
        self._head = bytearray()
        """The header that is not complete."""
        self._frame_left = 0
        self._is_ending = False
        """The end of a parcel is to come, behind what is left of it."""
        self._failed = ""

    def receive(self, data: bytes) -> Iterator[bytes | Parcel | memoryview | ParcelEnd]:
        """Take bytes; yield bodies of frames, parcels, what there is of their bytes, their ends.

        ProtocolError: the peer does not speak this protocol.
        """
        rest = memoryview(data)
        while rest:
            if self._failed:
                raise ProtocolError(self._failed)
            if self.left:
                part, rest = rest[: self.left], rest[self.left :]
                self.left -= len(part)
                yield part
            elif self._is_ending:
                yield self._end(rest[:1])
                rest = rest[1:]
            elif self._frame_left:
                part, rest = rest[: self._frame_left], rest[self._frame_left :]
                self._frame_left -= len(part)
                yield from self._frames.receive(part)
            else:
                missing = self._header_bytes() - len(self._head)
                self._head += rest[:missing]
                rest = rest[missing:]
                if len(self._head) == self._header_bytes():
                    yield from self._begin(bytes(self._head))

    def passed(self, size: int) -> None:
        """So many bytes of the parcel have gone to their place without being seen here."""
        self.left -= size

    def missing(self) -> int:
        """Return how many bytes the incomplete frame still lacks, 0 if unknown or none."""
        return self._frame_left

    def _header_bytes(self) -> int:
        is_parcel = len(self._head) >= HEADER_BYTES and self._head[HEADER_BYTES - 1] == PARCEL
        return PARCEL_HEADER.size if is_parcel else HEADER_BYTES

    def _begin(self, head: bytes) -> Iterator[bytes | Parcel]:
        self._head.clear()
        if len(head) == PARCEL_HEADER.size:
            self.left, _, tag = PARCEL_HEADER.unpack(head)
            self._is_ending = True
            yield Parcel(tag, self.left)
        else:
            yield from self._frames.receive(head)
            self._frame_left, _ = HEADER.unpack(head)

    def _end(self, end: memoryview) -> ParcelEnd:
        if end not in (WHOLE_END, GONE_END):
            self._failed = f"not the end of a parcel: {end.hex()}"
            raise ProtocolError(self._failed)
        self._is_ending = False
        return ParcelEnd(end == WHOLE_END)


def parcel_header(tag: int, size: int) -> bytes:
    """Return what stands before the bytes of a parcel."""
    return PARCEL_HEADER.pack(size, PARCEL, tag)
