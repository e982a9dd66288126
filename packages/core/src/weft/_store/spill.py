"""Where spilled bytes go: files that hold several segments each, on a disk or behind a URL.

What is always true
1. A spill file is whole: one that could not be written to its end is removed.
2. A segment appears under its name when it is whole and its checksum is right; until then its file
   has a name that begins with a dot.
3. That there is no room is told apart from all else: it is a StoreFullError, and for want of disk
   an OutOfDiskError.

What is not promised: that spilled bytes outlive the session. Nothing waits until the disk has them.
They stay in the page cache while there is memory for it, and a file that is removed before the
kernel wrote it costs the disk nothing.

A segment is copied in pieces, two at a time. Its checksum is that of its pieces' checksums, so that
they need no order.

Facts about copying (measured: segments of 64 MiB on tmpfs, ext4, two cores; GB/s). To the disk's
page cache, which takes 5.0: write() of the mapped segment 1.1 to 2.3, since all its pages have to
be mapped; sendfile 3.2, but nobody sees the bytes; copy_file_range does not leave tmpfs; through a
buffer that stays in the CPU's cache 2.4 with the checksum, by two threads 4.0. Back from it:
sendfile 2.8, into a mapping 1.2, through the buffer 2.0 with the checksum, by two threads 3.2. Back
from a disk that reads 3.4: by two threads 2.2; past the page cache (O_DIRECT) half of that, and
with POSIX_FADV_WILLNEED too. Back from the
page cache into pages of tmpfs that exist: 7.5 with the checksum, by two threads. Checksums alone:
crc32 7.0, adler32 4.1, sha1 2.2, blake2b 1.4.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import itertools
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from weft._lazy import lazy
from weft.exceptions import OutOfDiskError, StoreFullError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import fsspec
else:
    fsspec = lazy("fsspec")

PIECE_BYTES = 4 * 1024 * 1024
# Less than the second-level cache of the CPUs that servers have.
CHUNK_BYTES = 256 * 1024
# A segment begins on a page of its file, so that it can be mapped there.
PAGE_BYTES = 4096
# Sent to a URL and fetched from it at once, and in memory meanwhile.
SENT_BYTES = 8 * 1024 * 1024
FETCHED_PIECES = 4


class SpillError(Exception):
    """Bytes could not be spilled, or could not be had again. The message says which and why."""


class SpillSource(NamedTuple):
    """A segment that is to be spilled: the first bytes of a file."""

    path: str
    size_bytes: int


class SpillPlace(NamedTuple):
    """Where in its file a spilled segment is."""

    offset: int
    """A multiple of `PAGE_BYTES`."""
    size_bytes: int
    checksum: int


class SpillFiles(Protocol):
    """The spill files of one session, by their names.

    Every method blocks, and may be called from any thread. A name is given to one file only. A file
    may be read by several at once. It may be removed meanwhile: they notice nothing, or meet a
    SpillError.
    """

    def write(self, file: str, sources: Sequence[SpillSource]) -> list[SpillPlace]:
        """Write a new file of these segments; return their places, in the same order.

        SpillError: a segment is missing or shorter than said, or the file cannot be written.
        OutOfDiskError: it has no room. There is no such file then.
        """
        ...

    def read(self, file: str, place: SpillPlace, target_fd: int) -> None:
        """Copy a segment's bytes to the beginning of an open file, and check them.

        SpillError: the file is missing or too short, or the checksum is another. StoreFullError:
        the target has no room. Some bytes of the target may be written then.
        """
        ...

    def remove(self, file: str) -> None:
        """Remove a file, if it is there. SpillError: it cannot be removed."""
        ...

    def remove_all(self) -> None:
        """Remove every file, and the place that was for the session.

        SpillError: something cannot be removed, and some of the rest may be there too.
        """
        ...

    def free_bytes(self) -> int | None:
        """Return for how many bytes there is room; None: nobody can say."""
        ...


def is_full(error: BaseException) -> bool:
    """Tell whether this is for want of room, or of what the user may have of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_url(where: str) -> bool:
    """Tell whether this is for fsspec; else it is a directory."""
    return "://" in where


def open_spill_files(where: str) -> SpillFiles:
    """Return the spill files in a directory, which must be there, or below a URL. Does no I/O."""
    return UrlSpillFiles(where) if is_url(where) else LocalSpillFiles(where)


def restore(
    files: SpillFiles,
    file: str,
    place: SpillPlace,
    *,
    segment: Path,
    segment_bytes: int,
    over: Path | None = None,
) -> None:
    """Make a segment of what a file holds. Blocks; may be called from any thread.

    If the file `over` is there, which is as large as the segment, it becomes that. The bytes after
    the object's are reserved too: who maps the segment and writes to it meets no page that does not
    fit.

    SpillError: the bytes cannot be had. StoreFullError: there is no room for the segment. There is
    no segment then.
    """
    unborn = unborn_segment(segment)
    try:
        if over is not None:
            with _told(over), contextlib.suppress(FileNotFoundError):
                over.rename(unborn)
        with _told(unborn), _new_file(unborn, is_there=over is not None) as fd:
            files.read(file, place, fd)
            if place.size_bytes < segment_bytes:
                os.posix_fallocate(fd, place.size_bytes, segment_bytes - place.size_bytes)
            unborn.rename(segment)
    except StoreFullError as error:
        raise StoreFullError(
            f"a segment of {segment_bytes} bytes does not fit into {segment.parent}"
        ) from error


def unborn_segment(segment: Path) -> Path:
    """Return the name of a segment's file until it is whole."""
    return segment.with_name(f".{segment.name}")


# ------------------------------------------------------------------ files


@contextlib.contextmanager
def _told(what: object, *, full: type[StoreFullError] = StoreFullError) -> Iterator[None]:
    """Say of what a failure is, and whether it is one of room."""
    try:
        yield
    except (OSError, EOFError) as error:
        kind = full if is_full(error) else SpillError
        raise kind(f"{what}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _new_file(path: Path, *, is_there: bool = False) -> Iterator[int]:
    """Open a file that is not there yet, or may be; it is removed if the block fails."""
    create = os.O_CREAT if is_there else os.O_CREAT | os.O_EXCL
    fd = os.open(path, os.O_RDWR | create | os.O_CLOEXEC, 0o600)
    try:
        try:
            yield fd
        finally:
            os.close(fd)  # A network's file system may say only here that it is full.
    except BaseException:
        path.unlink(missing_ok=True)
        raise


class _Buffer(threading.local):
    """The memory through which a thread copies."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(CHUNK_BYTES))


_buffer = _Buffer()


def _chunks(path: str, start: int, size_bytes: int) -> Iterator[memoryview]:
    """Yield a part of a file, chunk by chunk; each is there until the next. EOFError: it ends."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = start + size_bytes
        while start < end:
            chunk = _buffer.view[: end - start]
            length = os.preadv(fd, [chunk], start)
            if not length:
                raise EOFError(f"{path} ends at byte {start}, {end - start} bytes too early")
            yield chunk[:length]
            start += length
    finally:
        os.close(fd)


def _write_all(fd: int, data: memoryview | bytes, at: int) -> None:
    written = os.pwrite(fd, data, at)
    while written < len(data):  # There is hardly any room; the next call says so.
        written += os.pwrite(fd, data[written:], at + written)


# ------------------------------------------------------------------ pieces


class _Copy(NamedTuple):
    """Bytes that go from one file to another."""

    source: str
    source_at: int
    target_fd: int
    target_at: int
    size_bytes: int

    def pieces(self) -> list[_Copy]:
        return [
            _Copy(
                self.source,
                self.source_at + start,
                self.target_fd,
                self.target_at + start,
                size_bytes,
            )
            for start, size_bytes in _pieces(self.size_bytes)
        ]

    def run(self) -> int:
        """Copy; return the checksum."""
        checksum, at = 0, self.target_at
        for chunk in _chunks(self.source, self.source_at, self.size_bytes):
            checksum = zlib.crc32(chunk, checksum)
            _write_all(self.target_fd, chunk, at)
            at += len(chunk)
        return checksum


def _pieces(size_bytes: int) -> list[tuple[int, int]]:
    """Return (start, length) of the pieces of so many bytes."""
    return [
        (start, min(PIECE_BYTES, size_bytes - start)) for start in range(0, size_bytes, PIECE_BYTES)
    ]


def _run(copies: Sequence[_Copy]) -> list[int]:
    """Copy, two pieces at a time; return the checksum of each copy.

    More than two would wait for each other: a file takes bytes of one thread at a time.
    """
    pieces_of = [copy.pieces() for copy in copies]
    pieces = list(itertools.chain.from_iterable(pieces_of))
    checksum_of: dict[int, int] = {}
    failure_of: dict[int, Exception] = {}
    left = iter(range(len(pieces)))

    def work() -> None:
        for index in left:
            try:
                checksum_of[index] = pieces[index].run()
            except (OSError, EOFError) as error:
                failure_of[index] = error
                # Nothing more is begun, by the other one either.
                collections.deque(left, maxlen=0)

    if len(pieces) > 1:
        helper = threading.Thread(target=work, name="weft-spill-piece")
        helper.start()
        work()
        helper.join()
    else:
        work()
    if failure_of:
        raise failure_of[min(failure_of)]
    checksums = (checksum_of[index] for index in range(len(pieces)))
    return [joined_checksum(list(itertools.islice(checksums, len(part)))) for part in pieces_of]


def joined_checksum(checksums: Sequence[int]) -> int:
    """Return the checksum of a segment from those of its pieces of `PIECE_BYTES`."""
    return zlib.crc32(struct.pack(f"<{len(checksums)}I", *checksums))


def check_place(what: str, place: SpillPlace, checksum: int) -> None:
    """SpillError: what was read of a place has another checksum."""
    if checksum != place.checksum:
        raise SpillError(
            f"{what}: its {place.size_bytes} bytes are damaged: their checksum is "
            f"{checksum:08x}, not {place.checksum:08x}"
        )


def _places(sources: Sequence[SpillSource], checksums: Sequence[int]) -> list[SpillPlace]:
    return [
        SpillPlace(offset, source.size_bytes, checksum)
        for offset, source, checksum in zip(_offsets(sources), sources, checksums, strict=True)
    ]


def _offsets(sources: Sequence[SpillSource]) -> list[int]:
    offsets, end = [], 0
    for source in sources:
        offsets.append(end)
        end += -(-source.size_bytes // PAGE_BYTES) * PAGE_BYTES
    return offsets


# ------------------------------------------------------------------ the two places


class LocalSpillFiles:
    """Spill files in a directory of this machine, which only this user can read."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def write(self, file: str, sources: Sequence[SpillSource]) -> list[SpillPlace]:
        """Write a new file. See SpillFiles."""
        path = self._directory / file
        with _told(path, full=OutOfDiskError), _new_file(path) as fd:
            checksums = _run(
                [
                    _Copy(source.path, 0, fd, offset, source.size_bytes)
                    for source, offset in zip(sources, _offsets(sources), strict=True)
                ]
            )
        return _places(sources, checksums)

    def read(self, file: str, place: SpillPlace, target_fd: int) -> None:
        """Copy a segment's bytes. See SpillFiles."""
        path = self._directory / file
        what = f"{path} at offset {place.offset}"
        with _told(what):
            copy = _Copy(str(path), place.offset, target_fd, 0, place.size_bytes)
            (checksum,) = _run([copy])
        check_place(what, place, checksum)

    def remove(self, file: str) -> None:
        """Remove a file. See SpillFiles."""
        path = self._directory / file
        with _told(path):
            path.unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Remove the directory. See SpillFiles."""
        with _told(self._directory), contextlib.suppress(FileNotFoundError):
            for path in list(self._directory.iterdir()):
                path.unlink(missing_ok=True)
            self._directory.rmdir()

    def free_bytes(self) -> int:
        """Return the room on the disk. See SpillFiles."""
        with _told(self._directory):
            state = os.statvfs(self._directory)
        return state.f_bavail * state.f_frsize


class UrlSpillFiles:
    """Spill files behind a URL that fsspec understands, such as s3://bucket/path.

    They are as private as the place is; what a machine that lost its power left there stays.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    @functools.cached_property
    def _system(self) -> tuple[Any, str]:
        """The file system, and the path there."""
        try:
            system, path = fsspec.url_to_fs(self._url)
        except ModuleNotFoundError as error:
            raise SpillError(f"a URL needs a package: pip install {error.name}") from error
        except ImportError as error:
            package = getattr(error.__cause__, "name", None) or "what that names"
            raise SpillError(f"{error}: pip install {package}") from error
        except ValueError as error:
            raise SpillError(f"{error}: pip install the package that has it for fsspec") from error
        return system, path

    def write(self, file: str, sources: Sequence[SpillSource]) -> list[SpillPlace]:
        """Write a new file. See SpillFiles."""
        with self._calling(file, full=OutOfDiskError):
            system, root = self._system
            path = f"{root}/{file}"
            try:
                with contextlib.closing(_created(system, path)) as stream:
                    checksums = [
                        _append(stream, source, offset)
                        for source, offset in zip(sources, _offsets(sources), strict=True)
                    ]
            except BaseException:
                # The end of the stream has made a file of what was there.
                with contextlib.suppress(Exception):
                    system.rm_file(path)
                raise
        return _places(sources, checksums)

    def read(self, file: str, place: SpillPlace, target_fd: int) -> None:
        """Copy a segment's bytes. See SpillFiles."""
        what = f"{file} at offset {place.offset}"
        with self._calling(what):
            system, root = self._system
            pieces = _pieces(place.size_bytes)
            checksums: list[int] = []
            for first in range(0, len(pieces), FETCHED_PIECES):
                checksums += _fetch(
                    system,
                    f"{root}/{file}",
                    offset=place.offset,
                    pieces=pieces[first : first + FETCHED_PIECES],
                    target_fd=target_fd,
                )
            check_place(what, place, joined_checksum(checksums))

    def remove(self, file: str) -> None:
        """Remove a file. See SpillFiles."""
        with self._calling(file), contextlib.suppress(FileNotFoundError):
            system, root = self._system
            system.rm_file(f"{root}/{file}")

    def remove_all(self) -> None:
        """Remove everything below the URL. See SpillFiles."""
        with self._calling(""), contextlib.suppress(FileNotFoundError):
            system, root = self._system
            system.invalidate_cache()
            system.rm(root, recursive=True)

    def free_bytes(self) -> None:
        """Return None: stores of objects have no bound. See SpillFiles."""
        return

    @contextlib.contextmanager
    def _calling(self, file: str, *, full: type[StoreFullError] = StoreFullError) -> Iterator[None]:
        """Make errors of ours of what a file system raises."""
        what = f"{self._url}/{file}"
        with _told(what, full=full):
            try:
                yield
            except (OSError, EOFError, StoreFullError):
                raise
            except SpillError as error:
                raise SpillError(f"{what}: {error}") from error.__cause__
            except Exception as error:
                # The clients of stores raise what they like.
                raise SpillError(f"{what}: {type(error).__name__}: {error}") from error


def _created(system: Any, path: str) -> Any:
    """Return the stream to a new file."""
    try:
        return system.open(path, "wb", block_size=SENT_BYTES)
    except FileNotFoundError:  # A system whose directories have to be made.
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        return system.open(path, "wb", block_size=SENT_BYTES)


def _append(stream: Any, source: SpillSource, offset: int) -> int:
    """Write a segment to a stream; return its checksum."""
    stream.write(bytes(offset - stream.tell()))
    checksums = []
    for start, size_bytes in _pieces(source.size_bytes):
        checksum = 0
        for chunk in _chunks(source.path, start, size_bytes):
            checksum = zlib.crc32(chunk, checksum)
            stream.write(bytes(chunk))
        checksums.append(checksum)
    return joined_checksum(checksums)


def _fetch(
    system: Any, path: str, *, offset: int, pieces: Sequence[tuple[int, int]], target_fd: int
) -> list[int]:
    """Copy some pieces of the segment at `offset`; return their checksums."""
    starts = [offset + start for start, _ in pieces]
    ends = [offset + start + size_bytes for start, size_bytes in pieces]
    checksums = []
    for (start, size_bytes), data in zip(
        pieces, system.cat_ranges([path] * len(pieces), starts, ends), strict=True
    ):
        if isinstance(data, Exception):
            raise data
        if len(data) < size_bytes:
            end = offset + start + len(data)
            raise EOFError(f"{path} ends at byte {end}, {size_bytes - len(data)} bytes too early")
        _write_all(target_fd, data, start)
        checksums.append(zlib.crc32(data))
    return checksums
