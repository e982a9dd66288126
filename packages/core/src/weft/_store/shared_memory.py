"""Large objects in shared memory: one segment each, recycled warm, read without a copy.

A segment is a file in the session's store directory (on /dev/shm). The process that creates an
object writes it once and never again; readers in any process map the file. When the owner says that
nobody reads a segment any more, its creator keeps it warm for the next object: writing to mapped
pages that exist runs at memcpy's speed, fresh pages at a tenth of it (measured: 15.3 against 1.3
GB/s).

What is always true
1. A segment's name stands for one file, never for another; its size is a size class.
2. A segment is written by who reserved it, before anyone else knows its name, and not again until
   it is recycled.
3. A view keeps its bytes readable for as long as it lives, whatever else happens to the segment's
   file.

Facts about views: numpy arrays, Arrow buffers and memoryviews keep alive the object whose buffer
they show. That object is a ctypes array over the mapping, of a class made here, because those can
be referred to weakly: when it is collected, the last view is gone. ctypes knows writable memory
only, so readers get a read-only memoryview of it.

Facts about mmap: until Python 3.13 `mmap.mmap` keeps a descriptor open for each mapping. A process
may have 1,024 of them, and many more objects: so the mappings here are made by libc's function.
"""

from __future__ import annotations

import contextlib
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


_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
)  # fmt: skip
_munmap = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED = ctypes.c_void_p(-1).value

_window_class_of: dict[int, type[ctypes.Array[ctypes.c_char]]] = {}


class Mapping:
    """A file's bytes in this process's memory, until the last window on them is gone."""

    __slots__ = ("_address", "size_bytes")

    def __init__(self, fd: int, size_bytes: int) -> None:
        address = _mmap(None, size_bytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
        if address == _MAP_FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._address = address
        self.size_bytes = size_bytes

    def window(self) -> ctypes.Array[ctypes.c_char]:
        """Return all the bytes, as an object that keeps them and can be referred to weakly."""
        window_class = _window_class_of.get(self.size_bytes)
        if window_class is None:
            length = {"_type_": ctypes.c_char, "_length_": self.size_bytes}
            window_class = type("Window", (ctypes.Array,), length)
            _window_class_of[self.size_bytes] = window_class
        window = window_class.from_address(self._address)
        window.__dict__["mapping"] = self
        return window

    # At the interpreter's end the module's names may be gone before the last mapping is.
    def __del__(self, munmap: Callable[[int, int], int] = _munmap) -> None:
        address = getattr(self, "_address", None)
        if address is not None:
            munmap(address, self.size_bytes)


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

    def __init__(self, name: str, mapping: Mapping) -> None:
        self.name = name
        self.mapping = mapping
        self.size_bytes = mapping.size_bytes

    def fill(self, size_bytes: int, write_into: Callable[[memoryview], None]) -> None:
        """Let `write_into` write the first `size_bytes`."""
        with memoryview(self.mapping.window()).cast("B") as whole, whole[:size_bytes] as view:
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
        self._mapped: OrderedDict[str, Mapping] = OrderedDict()
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
        try:
            return self._make(size_bytes)
        except StoreFullError:
            if not self._spare_bytes:
                raise
        # What is kept for objects of other sizes is in the way.
        for segments in self._spare.values():
            for segment in segments:
                self._remove(segment)
        self._spare.clear()
        self._spare_bytes = 0
        return self._make(size_bytes)

    def _make(self, size_bytes: int) -> Segment:
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
            mapping = Mapping(fd, size_bytes)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise
            raise StoreFullError(
                f"an object of {size_bytes} bytes does not fit: {error.strerror} "
                f"in {self.directory}, "
                f"where {self._free_bytes()} bytes are free; drop references, or store less"
            ) from None
        finally:
            os.close(fd)
        return Segment(name, mapping)

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
            self._remove(segment)
            return
        self._spare_bytes += segment.size_bytes
        self._spare.setdefault(segment.size_bytes, []).append(segment)

    def _remove(self, segment: Segment) -> None:
        """Let the memory of a segment go that nobody reads.

        Other processes may still have it mapped, to read the next object in it without a new
        mapping: so the file gives its pages up first.
        """
        path = self.directory / segment.name
        with contextlib.suppress(FileNotFoundError):
            os.truncate(path, 0)
            path.unlink()

    def view(self, name: str, size_bytes: int, gone: Callable[[], object]) -> memoryview:
        """Return the object's bytes, read-only.

        `gone` is called, from any thread, when the last view of them is.

        FileNotFoundError: the segment is no more.
        """
        window = self._mapping(name).window()
        view = _View(window, _view_ended)
        view.gone = gone
        _views[id(view)] = view
        return memoryview(window).cast("B")[:size_bytes].toreadonly()

    def _mapping(self, name: str) -> Mapping:
        segment = self._mine.get(name)
        if segment is not None:
            return segment.mapping
        mapping = self._mapped.get(name)
        if mapping is not None:
            self._mapped.move_to_end(name)
            return mapping
        fd = os.open(self.directory / name, os.O_RDWR | os.O_CLOEXEC)
        try:
            mapping = Mapping(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        self._mapped[name] = mapping
        self._mapped_bytes += mapping.size_bytes
        # A dropped mapping goes when its last view does.
        while self._mapped and (
            len(self._mapped) > KEPT_MAPPINGS or self._mapped_bytes > KEPT_BYTES
        ):
            self._mapped_bytes -= self._mapped.popitem(last=False)[1].size_bytes
        return mapping

    def close(self) -> None:
        """Let everything go; views stay readable."""
        self._mine.clear()
        self._spare.clear()
        self._spare_bytes = 0
        self._mapped.clear()
        self._mapped_bytes = 0
