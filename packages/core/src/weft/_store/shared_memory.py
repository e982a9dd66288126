"""Large objects in shared memory: one segment each, recycled warm, read without a copy.

A segment is a file in the session's store directory (on /dev/shm). The process that creates an
object writes it once and never again; readers in any process map the file. When the owner says that
nobody reads a segment any more, its creator keeps it warm for the next object: writing to mapped
pages that exist runs at memcpy's speed, fresh pages at a tenth of it (measured: 15.3 against 1.3
GB/s).

What is always true
1. A segment's name is used once; its file has the size of a size class.
2. A segment is written by who reserved it, before anyone else knows its name, and not again until
   it is recycled.
3. A view keeps its bytes readable for as long as it lives, whatever else happens to the segment's
   file.

Facts about views: numpy arrays, Arrow buffers and memoryviews keep alive the object whose buffer
they show. That object is a ctypes array over the mapping, of a class made here, because those can
be referred to weakly: when it is collected, the last view is gone. ctypes wants writable memory, so
readers get a read-only memoryview of it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING

from weft.exceptions import StoreFullError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALLEST_BYTES = 128 * 1024
# Spare segments are warm memory that nobody uses: enough for a few large results in turn, a small
# part of a machine.
SPARE_BYTES = 512 * 1024 * 1024
# Mappings of other processes' segments that are kept for their next object.
KEPT_MAPPINGS = 64
KEPT_BYTES = 512 * 1024 * 1024


def size_class(size_bytes: int) -> int:
    """Return the segment size for an object: 4 to 7 times a power of two, at most 25 % over."""
    if size_bytes <= SMALLEST_BYTES:
        return SMALLEST_BYTES
    step = 1 << max(0, (size_bytes - 1).bit_length() - 3)
    return -(-size_bytes // step) * step


_window_class_of: dict[int, type[ctypes.Array[ctypes.c_char]]] = {}


def _window(mapping: mmap.mmap, size_bytes: int) -> ctypes.Array[ctypes.c_char]:
    window_class = _window_class_of.get(size_bytes)
    if window_class is None:
        window_class = type(
            "Window", (ctypes.Array,), {"_type_": ctypes.c_char, "_length_": size_bytes}
        )
        _window_class_of[size_bytes] = window_class
    return window_class.from_buffer(mapping)


class _View(weakref.ref["ctypes.Array[ctypes.c_char]"]):
    """Knows what to call when the last view through a window is gone."""

    __slots__ = ("gone",)

    gone: Callable[[], object]


_views: dict[int, _View] = {}


def _view_ended(view: weakref.ref[ctypes.Array[ctypes.c_char]]) -> None:
    _views.pop(id(view)).gone()


class Segment:
    """A segment that this process created."""

    __slots__ = ("mapping", "name", "size_bytes")

    def __init__(self, name: str, mapping: mmap.mmap, size_bytes: int) -> None:
        self.name = name
        self.mapping = mapping
        self.size_bytes = size_bytes

    def fill(self, size_bytes: int, write_into: Callable[[memoryview], None]) -> None:
        """Let `write_into` write the first `size_bytes`."""
        with memoryview(self.mapping) as whole, whole[:size_bytes] as view:
            write_into(view)


class SharedMemoryStore:
    """This process's segments and its mappings of others'.

    Not safe from threads: the runtime's lock guards it.
    """

    directory: Path
    """The session's; known once the daemon has answered."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._made = 0
        self._mine: dict[str, Segment] = {}
        self._spare: dict[int, list[Segment]] = {}
        self._spare_bytes = 0
        self._mapped: OrderedDict[str, mmap.mmap] = OrderedDict()
        self._mapped_bytes = 0

    def reserve(self, size_bytes: int) -> Segment:
        """Return a segment of at least `size_bytes` for the caller to write.

        Spare if there is one, else fresh.

        StoreFullError: there is no room for it; nothing is left behind then.
        """
        segment = self._take(size_class(size_bytes))
        self._mine[segment.name] = segment
        return segment

    def _take(self, size_bytes: int) -> Segment:
        spare = self._spare.get(size_bytes)
        if spare:
            self._spare_bytes -= size_bytes
            return spare.pop()
        self._made += 1
        name = f"{self._prefix}-{self._made}"
        path = self.directory / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreFullError(
                f"no segment of {size_bytes} bytes can be made in {self.directory}: {error}"
            ) from None
        try:
            # Reserved, not only promised: a write to a page that does not fit would end the process
            # (SIGBUS).
            os.posix_fallocate(fd, 0, size_bytes)
            mapping = mmap.mmap(fd, size_bytes)
        except OSError as error:
            path.unlink()
            raise StoreFullError(
                f"an object of {size_bytes} bytes does not fit: {error.strerror} "
                f"in {self.directory}, "
                f"where {self._free_bytes()} bytes are free; drop references, or store less"
            ) from None
        finally:
            os.close(fd)
        return Segment(name, mapping, size_bytes)

    def _free_bytes(self) -> int:
        state = os.statvfs(self.directory)
        return state.f_bavail * state.f_frsize

    def recycle(self, name: str) -> None:
        """Nobody reads this segment any more: keep it for another object, or let its memory go."""
        segment = self._mine.pop(name, None)
        if segment is not None:
            self._put_back(segment)

    def _put_back(self, segment: Segment) -> None:
        if self._spare_bytes + segment.size_bytes > SPARE_BYTES:
            (self.directory / segment.name).unlink(missing_ok=True)
            return
        self._spare_bytes += segment.size_bytes
        self._spare.setdefault(segment.size_bytes, []).append(segment)

    def view(self, name: str, size_bytes: int, gone: Callable[[], object]) -> memoryview:
        """Return the object's bytes, read-only.

        `gone` is called, from any thread, when the last view of them is.

        FileNotFoundError: the segment is no more.
        """
        mapping = self._mapping(name)
        window = _window(mapping, len(mapping))
        view = _View(window, _view_ended)
        view.gone = gone
        _views[id(view)] = view
        return memoryview(window).cast("B")[:size_bytes].toreadonly()

    def _mapping(self, name: str) -> mmap.mmap:
        segment = self._mine.get(name)
        if segment is not None:
            return segment.mapping
        mapping = self._mapped.get(name)
        if mapping is not None:
            self._mapped.move_to_end(name)
            return mapping
        fd = os.open(self.directory / name, os.O_RDWR | os.O_CLOEXEC)
        try:
            mapping = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        self._mapped[name] = mapping
        self._mapped_bytes += len(mapping)
        # A dropped mapping goes when its last view does.
        while self._mapped and (
            len(self._mapped) > KEPT_MAPPINGS or self._mapped_bytes > KEPT_BYTES
        ):
            self._mapped_bytes -= len(self._mapped.popitem(last=False)[1])
        return mapping

    def close(self) -> None:
        """Let everything go; views stay readable."""
        self._mine.clear()
        self._spare.clear()
        self._mapped.clear()
