"""Large objects in shared memory: one segment each, recycled warm, read without a copy.

A segment is a file in the session's store directory (on /dev/shm). The process that creates an
object writes it once and never again; readers in any process map the file. When the owner says that
nobody reads a segment any more, its creator keeps it warm for the next object: writing to mapped
pages that exist runs at memcpy's speed, fresh pages at a tenth of it (measured: 15.3 against 1.3
GB/s; 2.3 where they are written with a system call before they are mapped, as is done here).

The memory is on loan from the node's daemon, which may write a segment to disk that nobody here
views and take its memory (docs/design/0004). What it has to know is told to it as messages.

What is always true
1. A segment's name stands for one file at a time; its size is a size class. A file that was evicted
   may become another segment, of any process: so a mapping that the daemon was told is gone is.
2. A segment is written by who reserved it, before anyone else knows its name, and not again until
   it is recycled.
3. A view keeps its bytes readable for as long as it lives, whatever else happens to the segment's
   file.
4. The segments that this process made and keeps, spare ones among them, fit its loan, unless it is
   overdrawn by what is passing.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import weakref
from collections import OrderedDict, deque
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from weft._store.mappings import Mapping, Resting, map_file
from weft._wire.messages import (
    OVERDRAWN,
    AskLoan,
    Discard,
    Evicted,
    LoanReturned,
    MadeSegment,
    SegmentsClosed,
    SegmentsFree,
    SegmentsMade,
    SegmentsOpened,
)
from weft.exceptions import StoreFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from weft._wire.messages import Message, Shared

SMALLEST_BYTES = 128 * 1024
# Spare segments are warm memory that nobody uses: enough for a few large results in turn. The
# daemon recalls them when others need room, and when this process made nothing for a while.
SPARE_BYTES = 2 * 1024**3
# Mappings of other processes' segments that are kept for their next object.
KEPT_MAPPINGS = 64
KEPT_BYTES = 2 * 1024**3
# Copied or written at a time: other threads, and a Ctrl-C, wait no longer than for that.
STRIDE_BYTES = 64 * 1024 * 1024
# The kernel takes 1,024 parts of a write.
PARTS = 512


def size_class(size_bytes: int) -> int:
    """Return the segment size for an object: 4 to 7 times a power of two, at most 25 % over."""
    if size_bytes <= SMALLEST_BYTES:
        return SMALLEST_BYTES
    step = 1 << max(0, (size_bytes - 1).bit_length() - 3)
    return -(-size_bytes // step) * step


class Segment:
    """A segment that this process made: a file, and its mapping once there is a use for it."""

    __slots__ = ("_fd", "_filled_bytes", "mapping", "name", "on_disk", "path", "size_bytes")

    def __init__(
        self, path: str, size_bytes: int, *, on_disk: bool = False, over: str = ""
    ) -> None:
        """Make the file, of the file `over` if that is there. StoreFullError: it cannot be made."""
        self.path = path
        self.name = path.rpartition("/")[2]
        self.size_bytes = size_bytes
        self.on_disk = on_disk
        self.mapping: Mapping | None = None
        self._filled_bytes = 0
        """Of its pages, those that exist; the others are promised only."""
        try:
            if over:
                with contextlib.suppress(FileNotFoundError):
                    Path(over).rename(path)
            create = os.O_CREAT if over else os.O_CREAT | os.O_EXCL
            self._fd = os.open(path, os.O_RDWR | create | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreFullError(
                f"no segment of {size_bytes} bytes can be made in {Path(path).parent}: {error}"
            ) from None
        try:
            os.ftruncate(self._fd, size_bytes)
        except BaseException as error:
            self.close()
            Path(path).unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise
            raise self._full(size_bytes, error) from None

    def fill(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write an object's parts, one after the other, to the beginning.

        StoreFullError: there is no room for them in the file system; nothing can be said of the
        bytes then.
        """
        size_bytes = sum(map(len, parts))
        try:
            if self.mapping is None and self._fd >= 0:
                self._write(parts)
                self._filled_bytes = max(self._filled_bytes, size_bytes)
                return
            if size_bytes > self._filled_bytes:
                # A write to a page that is promised only, and does not fit, would end the process.
                self._reserve(size_bytes)
            with memoryview(self.map().window()).cast("B") as whole:
                end = 0
                for stride in chain.from_iterable(_strides(parts)):
                    start, end = end, end + len(stride)
                    whole[start:end] = stride
        except OSError as error:
            raise self._full(size_bytes, error) from None
        finally:
            self.close()

    def _write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write to a file whose pages do not exist yet: faster than to fault each of them in."""
        offset = 0
        for batch in _strides(parts):
            while batch:
                written = os.pwritev(self._fd, batch, offset)
                offset += written
                while batch and written >= len(batch[0]):
                    written -= len(batch.pop(0))
                if written:
                    batch[0] = batch[0][written:]

    def _reserve(self, size_bytes: int) -> None:
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, size_bytes)
        finally:
            os.close(fd)
        self._filled_bytes = size_bytes

    def _full(self, size_bytes: int, error: OSError) -> StoreFullError:
        folder = Path(self.path).parent
        state = os.statvfs(folder)
        return StoreFullError(
            f"an object of {size_bytes} bytes does not fit: {error.strerror} in {folder}, "
            f"where {state.f_bavail * state.f_frsize} bytes are free; "
            "drop references, or store less"
        )

    def map(self) -> Mapping:
        """Return its mapping."""
        if self.mapping is None:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self.mapping = map_file(fd, self.size_bytes)
            finally:
                os.close(fd)
        return self.mapping

    def close(self) -> None:
        """Close the file; mappings stay."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if getattr(self, "_fd", -1) >= 0:
            close(self._fd)


def _strides(parts: Sequence[bytes | memoryview]) -> Iterator[list[memoryview]]:
    """Yield the parts in lists of at most `STRIDE_BYTES` together."""
    batch: list[memoryview] = []
    room = STRIDE_BYTES
    for part in parts:
        left = memoryview(part)
        while left:
            batch.append(left[:room])
            left = left[room:]
            room -= len(batch[-1])
            if not room or len(batch) == PARTS:
                yield batch
                batch, room = [], STRIDE_BYTES
    if batch:
        yield batch


class SharedMemoryStore:
    """This process's segments and its mappings of others'.

    Not safe from threads: the runtime's lock guards it.
    """

    directory: Path
    """The session's; known once the daemon has answered."""

    def __init__(self, prefix: str, tell: Callable[[Message], None]) -> None:
        """Make a store without a loan.

        Args:
            prefix: Of the names of its segments.
            tell: Sends the daemon a message, in order, soon.
        """
        self._prefix = prefix
        self._tell = tell
        self._made = 0
        self.opens = ctypes.c_uint64()
        """How often others' segments were opened, or are about to be: see opens.py."""
        self._mine: dict[str, Segment] = {}
        """Those that hold an object of which the daemon was told."""
        self._spare: dict[int, list[Segment]] = {}
        self._spare_bytes = 0
        self._free_bytes = 0
        """Of the loan: in no segment."""
        self._opened: weakref.WeakValueDictionary[str, Mapping] = weakref.WeakValueDictionary()
        """All mappings of others' segments."""
        self._kept: OrderedDict[str, Mapping] = OrderedDict()
        """Those that stay without a view; the one used last is the last."""
        self._kept_bytes = 0
        self._copies: weakref.WeakValueDictionary[object, Mapping] = weakref.WeakValueDictionary()
        """Of these, those of objects that were made on other nodes, by the objects."""
        self.resting = Resting()
        """What was mapped of copies that went."""
        self._idle: deque[str] = deque()
        """Segments that the daemon wanted to evict, and that were viewed until now."""
        self._unmapped: deque[str] = deque()
        """Others' segments that were mapped here until now."""

    # -------------------------------------------------------------- segments of this process

    def lend(self, size_bytes: int, file: str = "", file_bytes: int = 0) -> None:
        """So much more is lent to this process; `file_bytes` of it are in `file`, if that is named.

        If the file is gone, or cannot be opened, that part is like the rest.
        """
        self._free_bytes += size_bytes
        if file:
            path = self._next_path(self.directory)
            try:
                segment = Segment(path, file_bytes, over=f"{self.directory}/{file}")
            except StoreFullError:
                _unlink(Path(path))
                return
            self._free_bytes -= file_bytes
            self._spare_bytes += file_bytes
            self._spare.setdefault(file_bytes, []).append(segment)

    def try_reserve(self, size_bytes: int) -> Segment | None:
        """Return a segment of at least `size_bytes` for the caller to fill.

        Spare if there is one, else fresh; None if the loan is too small for that. It is the
        caller's until `made` or `abandon`.

        StoreFullError: it cannot be made; nothing is left behind then.
        """
        size_bytes = size_class(size_bytes)
        segment = self._try_spare(size_bytes)
        if segment is not None:
            return segment
        if size_bytes > self._free_bytes:
            return None
        segment = Segment(self._next_path(self.directory), size_bytes)
        self._free_bytes -= size_bytes
        return segment

    def _try_spare(self, size_bytes: int) -> Segment | None:
        spare = self._spare.get(size_bytes)
        while spare:
            self._spare_bytes -= size_bytes
            segment = spare.pop()
            if os.access(segment.path, os.F_OK):
                return segment
            # Somebody has removed its file: no other process could open it.
            self._free_bytes += size_bytes
        return None

    def reserve_passing(self, size_bytes: int) -> Segment:
        """Return a segment for what soon goes again, and is no object. Never waits.

        The daemon is not told of it, so it stays in memory until `recycle`. If the loan is too
        small it is overdrawn, which the daemon covers when it has room.

        StoreFullError: it cannot be made; nothing is left behind then.
        """
        segment = self.try_reserve(size_bytes)
        if segment is None:
            segment = Segment(self._next_path(self.directory), size_class(size_bytes))
            self._free_bytes -= segment.size_bytes
            if self._free_bytes < 0:
                self._tell(AskLoan(OVERDRAWN, -self._free_bytes))
        self._mine[segment.name] = segment
        return segment

    def reserve_on_disk(self, size_bytes: int, directory: Path) -> Segment:
        """Return a segment on disk, outside of the loan. StoreFullError: there is no room."""
        return Segment(self._next_path(directory), size_class(size_bytes), on_disk=True)

    def _next_path(self, directory: Path) -> str:
        self._made += 1
        return f"{directory}/{self._prefix}-{self._made}"

    def made(
        self, segment: Segment, object_bytes: int, *, owner: bytes, label: str, site: str
    ) -> None:
        """Tell the daemon of an object in a segment.

        Args:
            segment: The one that was filled.
            object_bytes: Of its bytes, the object's.
            owner: Worker id of the process that owns the object.
            label: What made it, in the user's words.
            site: File and line of that.
        """
        self._mine[segment.name] = segment
        record = MadeSegment(
            segment.name, segment.size_bytes, object_bytes, owner, label, site, segment.on_disk
        )
        self._tell(SegmentsMade([record]))

    def abandon(self, segment: Segment) -> None:
        """A segment was reserved and will hold no object."""
        segment.close()
        if segment.on_disk:
            _unlink(Path(segment.path))
        else:
            self._put_back(segment)

    def recycle(self, name: str) -> None:
        """Nobody reads this segment any more: keep it for another object, or let its memory go.

        The daemon does that with what this process does not have.
        """
        segment = self._mine.pop(name, None)
        if segment is None:
            self._tell(Discard([name]))
            return
        self._tell(SegmentsFree([name]))
        if not segment.on_disk:
            self._put_back(segment)

    def _put_back(self, segment: Segment) -> None:
        if self._free_bytes < 0:
            self._free_bytes += segment.size_bytes
            self._remove(segment)
            return
        self._spare_bytes += segment.size_bytes
        self._spare.setdefault(segment.size_bytes, []).append(segment)
        if self._spare_bytes > SPARE_BYTES:
            self._tell(LoanReturned(self._trim(self._spare_bytes - SPARE_BYTES)))

    def recall(self, size_bytes: int) -> None:
        """Give so much of the loan back, or what is not in use; tell how much that is."""
        # What is in no segment first: it is not warm.
        unused = max(0, min(self._free_bytes, size_bytes))
        self._free_bytes -= unused
        self._tell(LoanReturned(unused + self._trim(size_bytes - unused)))

    def _trim(self, size_bytes: int) -> int:
        """Remove spare segments of so many bytes together; return of how many."""
        trimmed = 0
        # The largest first: they are the fewest.
        for kind in sorted(self._spare, reverse=True):
            segments = self._spare[kind]
            while segments and trimmed < size_bytes:
                self._remove(segments.pop())
                trimmed += kind
            if not segments:
                del self._spare[kind]
        self._spare_bytes -= trimmed
        return trimmed

    def _remove(self, segment: Segment) -> None:
        """Let the memory of a segment go that nobody reads.

        Other processes may still have it mapped, to read the next object in it without a new
        mapping: so the file gives its pages up first.
        """
        with contextlib.suppress(FileNotFoundError):
            os.truncate(segment.path, 0)
        _unlink(Path(segment.path))

    # -------------------------------------------------------------- views

    def try_view(self, value: Shared, gone: Callable[[], object]) -> memoryview | None:
        """Return an object's bytes, read-only.

        `gone` is called, from any thread, when the last view of them is.

        None: there is no such file; the segment is no more, or its object is on disk only.
        """
        segment = self._mine.get(value.segment)
        try:
            if segment is None:
                mapping = self.open(value.segment)
            else:
                mapping = segment.mapping or segment.map()
        except FileNotFoundError:
            return None
        return mapping.view(0, value.size_bytes, gone)

    def try_view_copy(
        self, key: object, size_bytes: int, gone: Callable[[], object]
    ) -> memoryview | None:
        """Return the bytes of what `keep_copy` was told of, as `try_view` does."""
        mapping = self._copies.get(key)
        return None if mapping is None else mapping.view(0, size_bytes, gone)

    def has_copy(self, key: object) -> bool:
        """Tell whether `try_view_copy` would return something."""
        return key in self._copies

    def keep_copy(self, key: object, mapping: Mapping) -> None:
        """This mapping is of a copy; it is found by the key as long as it is there."""
        self._copies[key] = mapping
        mapping.is_copy = True

    def view_file(
        self, path: str, offset: int, size_bytes: int, gone: Callable[[], object]
    ) -> memoryview:
        """Return the bytes of an object that stays on disk, as `view` does."""
        start = offset % mmap.PAGESIZE
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            mapping = map_file(fd, start + size_bytes, offset - start, mmap.PROT_READ)
        finally:
            os.close(fd)
        return mapping.view(start, size_bytes, gone)

    def open(self, name: str) -> Mapping:
        """Return the mapping of another process's segment. FileNotFoundError: see `try_view`."""
        mapping = self._kept.get(name)
        if mapping is not None:
            self._kept.move_to_end(name)
            return mapping
        mapping = self._opened.get(name)
        if mapping is None:
            self.opens.value += 1
            try:
                fd = os.open(self.directory / name, os.O_RDWR | os.O_CLOEXEC)
                try:
                    state = os.fstat(fd)
                    mapping = self.resting.try_wake(state.st_ino, state.st_size)
                    if mapping is None:
                        mapping = map_file(fd, state.st_size)
                finally:
                    os.close(fd)
            except BaseException:
                self.opens.value -= 1
                raise
            mapping.inode = state.st_ino
            mapping.ended = partial(self._unmapped.append, name)
            self._opened[name] = mapping
            self._tell(SegmentsOpened([name]))
        self._kept[name] = mapping
        self._kept_bytes += mapping.size_bytes
        # A dropped mapping goes when its last view does.
        while self._kept and (len(self._kept) > KEPT_MAPPINGS or self._kept_bytes > KEPT_BYTES):
            self._kept_bytes -= self._kept.popitem(last=False)[1].size_bytes
        return mapping

    def leave(self, name: str) -> None:
        """The daemon has brought a segment back for this process, which does not open it."""
        if name not in self._opened:
            self._tell(SegmentsClosed([name]))

    def tell_ends(self) -> None:
        """Tell of the views and mappings that ended since the last call, wherever that was."""
        idle = self._idle
        if idle:
            self.evict([idle.popleft() for _ in range(len(idle))])
        unmapped = self._unmapped
        if unmapped:
            # Meanwhile one may have been mapped again.
            names = [unmapped.popleft() for _ in range(len(unmapped))]
            self._tell(SegmentsClosed([name for name in names if name not in self._opened]))

    def evict(self, names: Sequence[str]) -> None:
        """Let the mappings of these go that nobody views, and tell which those are.

        The memory of those that this process made is no longer in its loan.
        """
        idle: list[str] = []
        in_use: list[str] = []
        for name in names:
            segment = self._mine.get(name)
            mapping = self._opened.get(name) if segment is None else segment.mapping
            if mapping is None or not mapping.views:
                if segment is not None:
                    del self._mine[name]
                elif mapping is not None and self._kept.pop(name, None) is not None:
                    self._kept_bytes -= mapping.size_bytes
                if mapping is not None and mapping.is_copy:
                    mapping.resting = self.resting
                # It stays if it came back for somebody who is about to view it.
                mapping = None
                mapping = self._opened.get(name)
            if mapping is None:
                idle.append(name)
            else:
                mapping.resting = None
                in_use.append(name)
                mapping.idle = partial(self._idle.append, name)
        self._tell(Evicted(idle, in_use))

    def close(self) -> None:
        """Let everything go; views stay readable."""
        self._mine.clear()
        self._spare.clear()
        self._spare_bytes = 0
        self._kept.clear()
        self._kept_bytes = 0
        self.resting.close()


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
