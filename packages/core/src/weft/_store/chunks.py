"""Objects that come or go in chunks: the files of them, and no connection.

What comes goes through a buffer that stays in the CPU's cache to the object's file, which gets its
name when all chunks are there and right. Chunks come in any order, and one may come twice at once,
from two sources: the one that came first is written as it comes, the other is kept aside until it
is whole; whichever is right first counts, and the bytes of the other go nowhere.

What goes is read from the file when the connection takes it, be it a segment, what has arrived of
one, or a copy on disk. If the file was closed meanwhile, or cannot be read, the chunk is gone, and
who gets it is told so behind its bytes.

What is always true
1. A chunk that is there was whole at its source until all of it was sent. It is not written again.
2. A file has its object's name only when it is whole. It has a name that begins with a dot till
   then, and is removed if the object does not come.
3. What was spilled is checked, all of it, before a chunk of it is sent.
4. Of a closed file nothing is read: its memory may be another object's by then.

Not safe from threads. A chunk has no checksum: those who send it and those who get it read it from
memory, and in between TLS notices what is damaged. An object's chunks have the size of a spilled
object's pieces, so it can be checked by them.

Facts about receiving (measured: 512 MiB to tmpfs, GB/s of the receiver's processor time over a unix
socket; over TCP all are nearer, since its own work is half). Straight into the mapping of pages
that do not exist 1.25, of pages that were reserved 1.3, with a checksum 1.0; through a buffer of
256 KiB and pwrite 2.2, with a checksum 1.6; of 1 MiB 1.6. Into a file whose pages exist: a mapping
1.9, with a checksum 1.5; the buffer with a checksum 2.6. And a write to a mapping that finds no
memory ends the process, while pwrite says so.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from typing import TYPE_CHECKING

from weft._store.spill import SpillError, check_place, joined_checksum, unborn_segment
from weft._wire.transfers import CHUNK_BYTES, chunks_of
from weft.exceptions import StoreFullError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from weft._store.spill import SpillPlace

# Less than the second-level cache of the CPUs that servers have.
BUFFER_BYTES = 256 * 1024


def chunk_bytes(size_bytes: int, index: int) -> int:
    """Return the size of one chunk of an object: that of the last may be less."""
    return min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES)


class ChunkFile:
    """An open file with an object's bytes, to be sent in chunks."""

    def __init__(self, fd: int, size_bytes: int, offset: int = 0) -> None:
        """Take the descriptor; the object begins at the offset."""
        self._fd = fd
        self._offset = offset
        self.size_bytes = size_bytes

    @classmethod
    def open(cls, path: Path, size_bytes: int) -> ChunkFile:
        """Open an object's segment. FileNotFoundError: there is no such file."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), size_bytes)

    @classmethod
    def open_spilled(cls, path: Path, place: SpillPlace) -> ChunkFile:
        """Open an object in a spill file, and check it; that reads all of it.

        SpillError: it is damaged, or not there.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SpillError(f"{path}: {error}") from error
        file = cls(fd, place.size_bytes, place.offset)
        try:
            checksums = [file._checksum(index) for index in range(chunks_of(file.size_bytes))]
            check_place(f"{path} at offset {place.offset}", place, joined_checksum(checksums))
        except BaseException:
            file.close()
            raise
        return file

    def _checksum(self, index: int) -> int:
        checksum = at = 0
        buffer = memoryview(bytearray(BUFFER_BYTES))
        while at < chunk_bytes(self.size_bytes, index):
            part = self.read_into(buffer, index, at)
            checksum = zlib.crc32(part, checksum)
            at += len(part)
        return checksum

    @property
    def closed(self) -> bool:
        """Whether nothing can be read any more."""
        return self._fd < 0

    def send(self, socket_fd: int, index: int, at: int) -> int:
        """Send a chunk from the byte `at` on, as far as the socket takes it; return how much.

        For connections whose bytes the kernel takes from a file. SpillError: it cannot be read.
        What a socket raises comes through, BlockingIOError too.
        """
        self._check_open(index)
        left = chunk_bytes(self.size_bytes, index) - at
        sent = os.sendfile(socket_fd, self._fd, self._offset + index * CHUNK_BYTES + at, left)
        if not sent:
            raise SpillError(f"chunk {index} ends {left} bytes too early")
        return sent

    def read_into(self, buffer: memoryview, index: int, at: int) -> memoryview:
        """Return bytes of a chunk from `at` on, as many as fit into the buffer.

        SpillError: it cannot be read.
        """
        self._check_open(index)
        part = buffer[: chunk_bytes(self.size_bytes, index) - at]
        try:
            length = os.preadv(self._fd, [part], self._offset + index * CHUNK_BYTES + at)
        except OSError as error:
            raise SpillError(f"chunk {index} cannot be read: {error}") from error
        if not length:
            raise SpillError(f"chunk {index} ends {len(part)} bytes too early")
        return part[:length]

    def _check_open(self, index: int) -> None:
        if self.closed:
            raise SpillError(f"chunk {index} cannot be read: its file was closed")

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class Arrival:
    """An object that comes in chunks."""

    def __init__(
        self, path: Path, size_bytes: int, *, segment_bytes: int = 0, over: Path | None = None
    ) -> None:
        """Make the file, of the file `over` if that is there. StoreFullError: it cannot be made.

        Args:
            path: What it is called when it is whole.
            size_bytes: Of the object.
            segment_bytes: Of its file, if that is larger.
            over: A file as large, of which nobody has anything; its pages exist.
        """
        self.path = path
        self.size_bytes = size_bytes
        self._unborn = unborn_segment(path)
        self._there: set[int] = set()
        self._direct: dict[int, Landing] = {}
        """By chunk, what writes it as it comes."""
        with self._told():
            if over is not None:
                with contextlib.suppress(FileNotFoundError):
                    over.rename(self._unborn)
            create = os.O_CREAT if over is not None else os.O_CREAT | os.O_EXCL
            self._fd = os.open(self._unborn, os.O_RDWR | create | os.O_CLOEXEC, 0o600)
        self.file = ChunkFile(self._fd, size_bytes)
        """Of which the chunks that are there can be sent on."""
        try:
            with self._told():
                os.ftruncate(self._fd, max(size_bytes, segment_bytes))
        except StoreFullError:
            self.abandon()
            raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say of what a failure is."""
        try:
            yield
        except OSError as error:
            raise StoreFullError(
                f"a copy of {self.size_bytes} bytes cannot be written to {self.path}: {error}"
            ) from error

    @property
    def is_whole(self) -> bool:
        """Whether all chunks are there."""
        return len(self._there) == chunks_of(self.size_bytes)

    def has(self, index: int) -> bool:
        """Tell whether a chunk is there, and right."""
        return index in self._there

    def begin(self, index: int, buffer: memoryview) -> Landing:
        """A chunk begins to come.

        Args:
            index: Which one.
            buffer: Of `BUFFER_BYTES`, for its bytes on their way; others may use it in between.
        """
        landing = Landing(self, index, buffer)
        if index not in self._direct:
            self._direct[index] = landing
        return landing

    def is_direct(self, landing: Landing) -> bool:
        """Tell whether this one is to write its bytes as they come."""
        return self._direct.get(landing.index) is landing

    def write(self, index: int, at: int, part: memoryview) -> None:
        """Write a part of a chunk that is not there yet. StoreFullError: it does not fit."""
        with self._told():
            start = index * CHUNK_BYTES + at
            while part:
                written = os.pwrite(self._fd, part, start)
                start, part = start + written, part[written:]

    def landed(self, landing: Landing) -> None:
        """All bytes of a chunk were taken, or no more of them will come."""
        if self.is_direct(landing):
            del self._direct[landing.index]
        if landing.is_right:
            self._there.add(landing.index)

    def finish(self) -> ChunkFile:
        """It is whole: give the file its name, and return it, for the caller to close."""
        self._unborn.rename(self.path)
        return self.file

    def abandon(self) -> None:
        """The object does not come: remove what there is of it. Nothing may be received after."""
        self.file.close()
        self._unborn.unlink(missing_ok=True)


class Landing:
    """One chunk that comes from one source.

    Receive into `window()` and say `took(n)`, until all have come; then it has `ended`.
    """

    __slots__ = ("_arrival", "_aside", "_at", "_buffer", "_left", "index", "is_right")

    def __init__(self, arrival: Arrival, index: int, buffer: memoryview) -> None:
        self.index = index
        self.is_right = False
        """Whether all bytes came, and count."""
        self._arrival = arrival
        self._buffer = buffer
        self._at = 0
        self._left = chunk_bytes(arrival.size_bytes, index)
        self._aside = bytearray()
        """The bytes so far, while another one writes the chunk."""

    def window(self) -> memoryview:
        """Return where the next bytes go."""
        return self._buffer[: self._left]

    def took(self, size_bytes: int) -> None:
        """So many bytes came into the window. StoreFullError: there is no room for them."""
        part = self._buffer[:size_bytes]
        arrival = self._arrival
        self._left -= size_bytes
        if not arrival.has(self.index):
            if arrival.is_direct(self):
                arrival.write(self.index, self._at, part)
            else:
                self._aside += part
        self._at += size_bytes

    def ended(self, *, is_whole: bool) -> None:
        """All bytes came, and count or not. StoreFullError: there is no room for them."""
        self.is_right = is_whole and not self._left
        arrival = self._arrival
        if self.is_right and not arrival.has(self.index) and not arrival.is_direct(self):
            arrival.write(self.index, 0, memoryview(self._aside))
        arrival.landed(self)

    def give_up(self) -> None:
        """No more bytes come: the connection broke."""
        self._arrival.landed(self)
