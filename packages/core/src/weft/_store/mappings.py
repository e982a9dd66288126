"""Files in this process's memory, and the views of them.

Facts about views: numpy arrays, Arrow buffers and memoryviews keep alive the object whose buffer
they show. That object is a ctypes array over the mapping, of a class made here, because those can
be referred to weakly: when it is collected, the last view is gone. ctypes knows writable memory
only, so readers get a read-only memoryview of it.

Facts about mmap: until Python 3.13 `mmap.mmap` keeps a descriptor open for each mapping. A process
may have 1,024 of them, and many more objects: so the mappings here are made by libc's function.

Facts about page faults: the first touch of 100 MiB that are in shared memory takes 13 ms, and to
unmap them 5 ms. A copy of another node's object is often followed by one as large in the same file
(docs/design/0004): so what was mapped of it rests for that.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from weft._clock import monotonic

if TYPE_CHECKING:
    from collections.abc import Callable

# The daemon keeps a file that nobody has for so long, to be filled again.
REST_S = 1.0
RESTING = 4

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

    __slots__ = (
        "__weakref__", "_address", "ended", "idle", "inode", "is_copy", "resting", "size_bytes",
        "views",
    )  # fmt: skip

    def __init__(self, address: int, size_bytes: int) -> None:
        """Own an address range that `map_file` made, or that rested."""
        self._address = address
        self.size_bytes = size_bytes
        self.inode = 0
        """The file's, if that is a segment that another process made."""
        self.is_copy = False
        """The file holds a copy of an object that was made on another node."""
        self.ended: Callable[[], object] | None = None
        """Called when the mapping is gone, in any thread."""
        self.idle: Callable[[], object] | None = None
        """Called when no view is left, in any thread."""
        self.resting: Resting | None = None
        """Where the address range goes when the mapping is gone; None: it is unmapped."""
        self.views: dict[int, _View] = {}
        """The views through it that live, by their ids. They leave in any thread."""

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

    def view(self, start: int, size_bytes: int, gone: Callable[[], object]) -> memoryview:
        """Return some of the bytes, read-only; call `gone` when the last view of them is."""
        window = self.window()
        view = _View(window, _view_ended)
        view.gone = gone
        view.mapping = self
        self.views[id(view)] = view
        return memoryview(window).cast("B")[start : start + size_bytes].toreadonly()

    # At the interpreter's end the module's names may be gone before the last mapping is.
    def __del__(self, munmap: Callable[[int, int], int] = _munmap) -> None:
        if self.resting is None:
            munmap(self._address, self.size_bytes)
        else:
            self.resting.add(self.inode, self._address, self.size_bytes)
        if self.ended is not None:
            self.ended()


class _View(weakref.ref["ctypes.Array[ctypes.c_char]"]):
    """Knows what to call when the last view through a window is gone."""

    __slots__ = ("gone", "mapping")

    gone: Callable[[], object]
    mapping: Mapping


def _view_ended(view: Any) -> None:
    mapping = view.mapping
    del mapping.views[id(view)]
    if mapping.idle is not None and not mapping.views:
        mapping.idle()
    view.gone()


def map_file(
    fd: int,
    size_bytes: int,
    offset: int = 0,
    protection: int = mmap.PROT_READ | mmap.PROT_WRITE,
) -> Mapping:
    """Map a part of a file. OSError: that cannot be."""
    address = _mmap(None, size_bytes, protection, mmap.MAP_SHARED, fd, offset)
    if address == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return Mapping(address, size_bytes)


class _Rested(NamedTuple):
    """An address range of a file whose bytes nobody here may look at."""

    since: float
    address: int
    size_bytes: int


class Resting:
    """The address ranges of a few files that another object is written to, if one comes soon.

    A file that lost its last name keeps its memory while a range of it rests. The daemon cuts files
    that nobody has before it removes them; for the rest of the cases there is `REST_S`.

    Not safe from threads.
    """

    def __init__(self) -> None:
        self._of_inode: OrderedDict[int, _Rested] = OrderedDict()
        """The one that rests for longest is the first."""

    def add(self, inode: int, address: int, size_bytes: int) -> None:
        """Let a range rest."""
        self._of_inode[inode] = _Rested(monotonic(), address, size_bytes)
        if len(self._of_inode) > RESTING:
            self._unmap(next(iter(self._of_inode)))

    def try_wake(self, inode: int, size_bytes: int) -> Mapping | None:
        """Return a mapping of a file that is mapped already, if one of it rests."""
        rested = self._of_inode.get(inode)
        if rested is None:
            return None
        if rested.size_bytes != size_bytes:
            self._unmap(inode)
            return None
        del self._of_inode[inode]
        return Mapping(rested.address, size_bytes)

    def tick(self, now: float) -> float | None:
        """Unmap what has rested for long; return when to be called again."""
        for inode, rested in list(self._of_inode.items()):
            if now < rested.since + REST_S:
                return rested.since + REST_S
            self._unmap(inode)
        return None

    def close(self) -> None:
        """Unmap all."""
        for inode in list(self._of_inode):
            self._unmap(inode)

    def _unmap(self, inode: int) -> None:
        rested = self._of_inode.pop(inode)
        _munmap(rested.address, rested.size_bytes)
