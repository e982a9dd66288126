from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from weft._override import override
from weft._store import spill
from weft._store.spill import (
    PAGE_BYTES,
    PIECE_BYTES,
    LocalSpillFiles,
    SpillError,
    SpillPlace,
    SpillSource,
    UrlSpillFiles,
    open_spill_files,
    restore,
)
from weft.exceptions import OutOfDiskError, StoreFullError
from weft.testing.spill_suite import SpillSuite

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._store.spill import SpillFiles

DATA = os.urandom(300_000)


class TestLocalSpillFiles(SpillSuite):
    @override
    def open_files(self) -> SpillFiles:
        self.directory = self.folder.with_name("spilled")
        self.directory.mkdir()
        return LocalSpillFiles(str(self.directory))

    @override
    def contents(self, file: str) -> bytes:
        return (self.directory / file).read_bytes()

    @override
    def replace(self, file: str, contents: bytes) -> None:
        (self.directory / file).write_bytes(contents)


class TestFileUrls(SpillSuite):
    @override
    def open_files(self) -> SpillFiles:
        self.directory = self.folder.with_name("spilled")
        return UrlSpillFiles(f"file://{self.directory}/of-a-session")

    @override
    def contents(self, file: str) -> bytes:
        return (self.directory / "of-a-session" / file).read_bytes()

    @override
    def replace(self, file: str, contents: bytes) -> None:
        (self.directory / "of-a-session" / file).write_bytes(contents)


class TestMemoryUrls(SpillSuite):
    @override
    def open_files(self) -> SpillFiles:
        # The memory is of the whole process.
        self.url = f"memory:/{self.folder}"
        return UrlSpillFiles(self.url)

    @override
    def contents(self, file: str) -> bytes:
        with fsspec.open(f"{self.url}/{file}") as stream:
            contents: bytes = stream.read()
        return contents

    @override
    def replace(self, file: str, contents: bytes) -> None:
        with fsspec.open(f"{self.url}/{file}", "wb") as stream:
            stream.write(contents)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where files are spilled to."""
    path = tmp_path / "spilled"
    path.mkdir()
    return path


@pytest.fixture
def source(tmp_path: Path) -> SpillSource:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return SpillSource(str(path), len(DATA))


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """The name of a segment to be restored, in a store's directory."""
    path = tmp_path / "store" / "segment"
    path.parent.mkdir()
    return path


def failing(number: int) -> Callable[..., int]:
    """A system call that fails."""

    def fail(*args: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


# ------------------------------------------------------------------ where


def test_url_is_told_from_a_directory() -> None:
    assert isinstance(open_spill_files("s3://bucket/path"), UrlSpillFiles)
    assert isinstance(open_spill_files("/tmp/s3:bucket"), LocalSpillFiles)


def test_spilled_bytes_are_for_this_user_only(directory: Path, source: SpillSource) -> None:
    LocalSpillFiles(str(directory)).write("file", [source])
    assert (directory / "file").stat().st_mode & 0o777 == 0o600


def test_free_room_is_that_of_the_disk(directory: Path) -> None:
    state = os.statvfs(directory)
    assert 0 < LocalSpillFiles(str(directory)).free_bytes() <= state.f_blocks * state.f_frsize
    assert open_spill_files("memory://x").free_bytes() is None


def test_directory_that_is_gone_is_an_error_and_no_surprise_at_the_end(
    directory: Path, source: SpillSource
) -> None:
    directory.rmdir()
    files = LocalSpillFiles(str(directory))
    with pytest.raises(SpillError, match=r"spilled/file: FileNotFoundError"):
        files.write("file", [source])
    with pytest.raises(SpillError, match=r"spilled: FileNotFoundError"):
        files.free_bytes()
    files.remove_all()


def test_what_cannot_be_removed_is_named(directory: Path) -> None:
    files = LocalSpillFiles(str(directory))
    (directory / "folder").mkdir()
    with pytest.raises(SpillError, match=r"spilled/folder: \w+Error"):
        files.remove("folder")
    with pytest.raises(SpillError, match=r"spilled: \w+Error: .*folder"):
        files.remove_all()


# ------------------------------------------------------------------ no room


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_told_from_other_failures_and_leaves_no_file(
    directory: Path, source: SpillSource, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", failing(number))
        with pytest.raises(OutOfDiskError, match=os.strerror(number)):
            LocalSpillFiles(str(directory)).write("file", [source])
    assert list(directory.iterdir()) == []


def test_disk_that_says_only_at_the_end_that_it_is_full_keeps_no_file(
    directory: Path, source: SpillSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network's file system does."""
    really_close = os.close

    def close(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        really_close(fd)
        if path == directory / "file":
            raise OSError(errno.ENOSPC, "no room after all")

    with monkeypatch.context() as patch:
        patch.setattr("os.close", close)
        with pytest.raises(OutOfDiskError, match="no room after all"):
            LocalSpillFiles(str(directory)).write("file", [source])
    assert list(directory.iterdir()) == []


def test_disk_that_fails_is_not_full(
    directory: Path, source: SpillSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", failing(errno.EIO))
        with pytest.raises(SpillError, match="Input/output error"):
            LocalSpillFiles(str(directory)).write("file", [source])
    assert list(directory.iterdir()) == []


def test_disk_that_takes_little_at_a_time_gets_everything(
    directory: Path, source: SpillSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", lambda fd, data, at: pwrite(fd, data[:100_000], at))
        LocalSpillFiles(str(directory)).write("file", [source])
    assert (directory / "file").read_bytes() == DATA


# ------------------------------------------------------------------ restored segments


@pytest.mark.parametrize("more_bytes", [0, 1, 100_000])
def test_restored_segment_has_its_size_and_every_page(
    directory: Path, source: SpillSource, segment: Path, more_bytes: int
) -> None:
    files = LocalSpillFiles(str(directory))
    (place,) = files.write("file", [source])
    size_bytes = len(DATA) + more_bytes
    restore(files, "file", place, segment=segment, segment_bytes=size_bytes)
    assert segment.read_bytes() == DATA + bytes(more_bytes)
    status = segment.stat()
    assert status.st_blocks * 512 >= size_bytes
    assert status.st_mode & 0o777 == 0o600
    assert [path.name for path in segment.parent.iterdir()] == ["segment"]


@pytest.mark.parametrize("old_bytes", [0, 1000, 400_000])
def test_segment_is_restored_over_another_file(
    directory: Path, source: SpillSource, segment: Path, old_bytes: int
) -> None:
    files = LocalSpillFiles(str(directory))
    (place,) = files.write("file", [source])
    over = segment.with_name("over")
    over.write_bytes(b"x" * old_bytes)
    os.truncate(over, 400_000)
    inode = over.stat().st_ino
    restore(files, "file", place, segment=segment, segment_bytes=400_000, over=over)
    assert segment.stat().st_ino == inode
    assert segment.stat().st_blocks * 512 >= 400_000
    assert segment.stat().st_size == 400_000
    assert segment.read_bytes()[: len(DATA)] == DATA
    assert [path.name for path in segment.parent.iterdir()] == ["segment"]


def test_segment_is_restored_if_the_other_file_is_gone(
    directory: Path, source: SpillSource, segment: Path
) -> None:
    files = LocalSpillFiles(str(directory))
    (place,) = files.write("file", [source])
    over = segment.with_name("over")
    restore(files, "file", place, segment=segment, segment_bytes=len(DATA), over=over)
    assert segment.read_bytes() == DATA


def test_damaged_bytes_leave_no_other_file(
    directory: Path, source: SpillSource, segment: Path
) -> None:
    files = LocalSpillFiles(str(directory))
    (place,) = files.write("file", [source])
    over = segment.with_name("over")
    over.write_bytes(DATA)
    wrong = place._replace(checksum=place.checksum ^ 1)
    with pytest.raises(SpillError, match="damaged"):
        restore(files, "file", wrong, segment=segment, segment_bytes=len(DATA), over=over)
    assert list(segment.parent.iterdir()) == []


def test_piece_that_cannot_be_read_fails_all_and_nothing_is_copied_afterwards(
    directory: Path, segment: Path, tmp_path: Path
) -> None:
    size_bytes = 5 * PIECE_BYTES
    (tmp_path / "large").write_bytes(bytes(size_bytes))
    files = LocalSpillFiles(str(directory))
    (place,) = files.write("file", [SpillSource(str(tmp_path / "large"), size_bytes)])
    restore(files, "file", place, segment=segment, segment_bytes=size_bytes)
    assert segment.read_bytes() == bytes(size_bytes)
    for end in (0, PIECE_BYTES, 3 * PIECE_BYTES + 5):
        os.truncate(directory / "file", end)
        with pytest.raises(SpillError, match="too early"):
            restore(files, "file", place, segment=segment, segment_bytes=size_bytes)


def test_damaged_bytes_make_no_segment(directory: Path, source: SpillSource, segment: Path) -> None:
    files = LocalSpillFiles(str(directory))
    (place,) = files.write("file", [source])
    wrong = place._replace(checksum=place.checksum ^ 1)
    with pytest.raises(SpillError, match="damaged"):
        restore(files, "file", wrong, segment=segment, segment_bytes=len(DATA))
    assert list(segment.parent.iterdir()) == []


class LookingFiles(LocalSpillFiles):
    """Looks at the store while a segment is restored."""

    store: Path
    seen: list[str]

    @override
    def read(self, file: str, place: SpillPlace, target_fd: int) -> None:
        super().read(file, place, target_fd)
        self.seen = [path.name for path in self.store.iterdir()]


def test_segment_has_no_name_of_its_own_until_it_is_whole(
    directory: Path, source: SpillSource, segment: Path
) -> None:
    files = LookingFiles(str(directory))
    files.store = segment.parent
    (place,) = files.write("file", [source])
    restore(files, "file", place, segment=segment, segment_bytes=len(DATA))
    assert files.seen == [".segment"]


@pytest.mark.parametrize("call", ["open", "pwrite", "posix_fallocate"])
def test_store_without_room_is_told_and_keeps_nothing(
    directory: Path,
    source: SpillSource,
    segment: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    files = LocalSpillFiles(str(directory))
    (place,) = files.write("file", [source])
    with monkeypatch.context() as patch:
        patch.setattr(f"os.{call}", failing(errno.ENOSPC))
        with pytest.raises(StoreFullError, match=r"segment of 400000 bytes .* into .*/store") as it:
            restore(files, "file", place, segment=segment, segment_bytes=400_000)
    assert not isinstance(it.value, OutOfDiskError)
    assert list(segment.parent.iterdir()) == []


def test_store_that_fails_otherwise_is_an_error(
    directory: Path, source: SpillSource, segment: Path
) -> None:
    files = LocalSpillFiles(str(directory))
    (place,) = files.write("file", [source])
    segment.parent.rmdir()
    with pytest.raises(SpillError, match=r"store/\.segment: FileNotFoundError"):
        restore(files, "file", place, segment=segment, segment_bytes=len(DATA))


# ------------------------------------------------------------------ fsspec


def test_missing_fsspec_says_what_to_install(
    source: SpillSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setattr(spill, "fsspec", spill.lazy("fsspec"))
    with pytest.raises(SpillError, match=r"memory://x/file: .*pip install fsspec"):
        UrlSpillFiles("memory://x").write("file", [source])


def test_missing_package_of_a_protocol_is_named(
    source: SpillSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SpillError, match=r"s3://bucket/path/file: .*pip install s3fs"):
        UrlSpillFiles("s3://bucket/path").write("file", [source])


def test_protocol_that_nobody_knows_says_what_to_install(source: SpillSource) -> None:
    with pytest.raises(SpillError, match=r"odd://x/file: .*not known: odd: pip install"):
        UrlSpillFiles("odd://x").write("file", [source])


class OddError(Exception):
    """What the client of a store raises."""


class OddSystem:
    """A store behind fsspec that fails in ways of its own."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.removed: list[str] = []

    def open(self, path: str, mode: str, block_size: int) -> Any:
        raise self.error

    def cat_ranges(self, paths: list[str], starts: list[int], ends: list[int]) -> list[Any]:
        return [self.error for _ in paths]

    def rm_file(self, path: str) -> None:
        self.removed.append(path)


def odd_files(error: Exception) -> UrlSpillFiles:
    files = UrlSpillFiles("odd://x")
    files.__dict__["_system"] = (OddSystem(error), "x")
    return files


def test_errors_of_a_store_name_the_file(source: SpillSource, segment: Path) -> None:
    files = odd_files(OddError("no"))
    with pytest.raises(SpillError, match="odd://x/file: OddError: no"):
        files.write("file", [source])
    place = SpillPlace(PAGE_BYTES, 10, 0)
    with pytest.raises(SpillError, match="odd://x/file at offset 4096: OddError: no"):
        restore(files, "file", place, segment=segment, segment_bytes=10)


def test_store_that_is_full_is_told(source: SpillSource) -> None:
    full = OSError(errno.EDQUOT, "over quota")
    with pytest.raises(OutOfDiskError, match=r"odd://x/file: .*over quota"):
        odd_files(full).write("file", [source])
