"""Bytes to frames and back: incremental, bounded, no I/O.

A frame is a header of five bytes, `<u32 body length> <u8 kind>` (little-endian), and its body.

What is always true
1. A body is handed out whole, once, in the order of the bytes.
2. A frame over `MAX_BODY_BYTES`, or of an unknown kind, raises ProtocolError, and so does every
   later call.
3. At most one incomplete frame is kept.
"""

from __future__ import annotations

import struct

from weft.exceptions import ProtocolError

HEADER = struct.Struct("<IB")
HEADER_BYTES = HEADER.size
MESSAGES = 1
"""The one kind of frame: a msgpack list of messages."""
# Values over 100 KiB travel in shared memory, and so do smaller ones that are many, so a frame is
# large only when a batch is, or names very many objects.
MAX_BODY_BYTES = 512 * 1024 * 1024


class FrameReader:
    """Collects received bytes and hands out the bodies of complete frames."""

    __slots__ = ("_buffer", "_failed")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._failed = ""

    def receive(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take bytes; return the bodies that they complete.

        ProtocolError: the peer does not speak this protocol; frames that the same bytes completed
        are dropped.
        """
        if self._failed:
            raise ProtocolError(self._failed)
        if self._buffer:
            self._buffer += data
            if len(self._buffer) >= HEADER_BYTES:
                self._length_at(self._buffer, 0)
            if self.missing() > 0:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        view = memoryview(data)
        bodies: list[bytes] = []
        start, end = 0, len(view)
        while end - start >= HEADER_BYTES:
            after = start + HEADER_BYTES + self._length_at(view, start)
            if after > end:
                break
            bodies.append(bytes(view[start + HEADER_BYTES : after]))
            start = after
        if start < end:
            self._buffer += view[start:]
        return bodies

    def _length_at(self, data: memoryview | bytearray, start: int) -> int:
        length, kind = HEADER.unpack_from(data, start)
        if kind != MESSAGES or length > MAX_BODY_BYTES:
            self._failed = f"not a frame: kind {kind}, {length} bytes"
            self._buffer.clear()
            raise ProtocolError(self._failed)
        return int(length)

    def missing(self) -> int:
        """Return how many bytes the incomplete frame still lacks, 0 if unknown or none."""
        if len(self._buffer) < HEADER_BYTES:
            return 0
        length, _ = HEADER.unpack_from(self._buffer)
        return HEADER_BYTES + int(length) - len(self._buffer)
