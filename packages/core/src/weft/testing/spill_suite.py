"""What every place for spilled bytes has to do: one suite of tests, run on each implementation.

    import pytest

    pytest.register_assert_rewrite("weft.testing.spill_suite")
    from weft.testing.spill_suite import SpillSuite

    class TestMySpillFiles(SpillSuite):
        def open_files(self):
            ...  # in an empty place
            return files

        def contents(self, file):
            ...  # of a file in that place
            return bytes

        def replace(self, file, contents):
            ...  # write other bytes in its place

They need pytest.
"""

# ruff: noqa: D102, S101
# The methods are tests: their names say what they check.

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from weft._store.spill import CHUNK_BYTES, PAGE_BYTES, PIECE_BYTES, SpillError, SpillSource

if TYPE_CHECKING:
    from pathlib import Path

    from weft._store.spill import SpillFiles, SpillPlace

SIZES = [
    0, 1, PAGE_BYTES - 1, PAGE_BYTES, CHUNK_BYTES + 1, PIECE_BYTES - 1, PIECE_BYTES,
    2 * PIECE_BYTES + 12_345,
]  # fmt: skip
"""Around every boundary of a copy."""


def _data(size_bytes: int, seed: int) -> bytes:
    """Return bytes of which no two pages are alike."""
    return random.Random(seed).randbytes(size_bytes)  # noqa: S311 - they are no secret


class SpillSuite:
    """The promises of `SpillFiles`. A subclass says how to open them and how to damage a file."""

    files: SpillFiles
    folder: Path

    def open_files(self) -> SpillFiles:
        """Return spill files in an empty place."""
        raise NotImplementedError

    def contents(self, file: str) -> bytes:
        """Return what is in a file. FileNotFoundError: there is none."""
        raise NotImplementedError

    def replace(self, file: str, contents: bytes) -> None:
        """Put other bytes in a file's place."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def opened(self, tmp_path: Path) -> None:
        """Open the files for each test."""
        self.folder = tmp_path / "segments"
        self.folder.mkdir()
        self.files = self.open_files()

    def source(self, size_bytes: int, *, seed: int = 0) -> SpillSource:
        """Return a segment that has some bytes more than what is spilled."""
        path = self.folder / f"source-{size_bytes}-{seed}"
        path.write_bytes(_data(size_bytes, seed) + b"more")
        return SpillSource(str(path), size_bytes)

    def bytes_of(self, source: SpillSource) -> bytes:
        """Return what is to be spilled of a source."""
        with open(source.path, "rb") as file:  # noqa: PTH123 - it is a string
            return file.read(source.size_bytes)

    def restored(self, file: str, place: SpillPlace) -> bytes:
        """Read a segment; return its bytes."""
        path = self.folder / f"target-{file}-{place.offset}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self.files.read(file, place, fd)
        finally:
            os.close(fd)
        return path.read_bytes()

    # ---------------------------------------------------------------- there and back

    @pytest.mark.parametrize("size_bytes", SIZES)
    def test_what_was_written_is_read(self, size_bytes: int) -> None:
        source = self.source(size_bytes)
        (place,) = self.files.write("file", [source])
        assert place.size_bytes == size_bytes
        assert self.restored("file", place) == self.bytes_of(source)

    def test_segments_of_one_file_are_apart(self) -> None:
        sources = [self.source(size, seed=seed) for seed, size in enumerate(SIZES)]
        places = self.files.write("file", sources)
        assert [place.size_bytes for place in places] == SIZES
        for source, place in reversed(list(zip(sources, places, strict=True))):
            assert self.restored("file", place) == self.bytes_of(source)

    def test_segment_is_in_its_file_as_it_was_from_a_page_on(self) -> None:
        sources = [self.source(size, seed=size) for size in (1, CHUNK_BYTES + 1, 100)]
        places = self.files.write("file", sources)
        contents = self.contents("file")
        for source, (offset, size_bytes, _) in zip(sources, places, strict=True):
            assert offset % PAGE_BYTES == 0
            assert contents[offset : offset + size_bytes] == self.bytes_of(source)

    def test_checksum_is_of_the_bytes_and_not_of_the_place(self) -> None:
        twins = [self.source(PIECE_BYTES + 1), self.source(PIECE_BYTES + 1)]
        other = self.source(PIECE_BYTES + 1, seed=1)
        first, second, third = self.files.write("file", [*twins, other])
        (again,) = self.files.write("another file", [twins[0]])
        assert first.checksum == second.checksum == again.checksum != third.checksum

    def test_files_are_written_and_read_by_several_threads(self) -> None:
        sources = [self.source(PIECE_BYTES + 1, seed=seed) for seed in range(4)]

        def there_and_back(number: int) -> bytes:
            (place,) = self.files.write(str(number), [sources[number]])
            return self.restored(str(number), place)

        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(there_and_back, range(4)))
        assert read == [self.bytes_of(source) for source in sources]

    # ---------------------------------------------------------------- damage

    @pytest.mark.parametrize("at", [0, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES])
    def test_damaged_byte_is_found_and_its_place_is_named(self, at: int) -> None:
        sources = [self.source(100), self.source(2 * PIECE_BYTES + 1), self.source(200)]
        before, place, after = self.files.write("file", sources)
        contents = bytearray(self.contents("file"))
        contents[place.offset + at] ^= 0x10
        self.replace("file", bytes(contents))
        with pytest.raises(SpillError, match=f"file at offset {place.offset}: .*damaged"):
            self.restored("file", place)
        assert self.restored("file", before) == self.bytes_of(sources[0])
        assert self.restored("file", after) == self.bytes_of(sources[2])

    @pytest.mark.parametrize("kept", [0, 1, PIECE_BYTES, PIECE_BYTES + CHUNK_BYTES + 7])
    def test_file_that_is_too_short_is_found_and_its_end_is_named(self, kept: int) -> None:
        sources = [self.source(100), self.source(2 * PIECE_BYTES)]
        _, place = self.files.write("file", sources)
        end = place.offset + kept
        self.replace("file", self.contents("file")[:end])
        # S3 refuses a range that begins at the end.
        what = rf"(ends at byte {end}, \d+ bytes too early|range is not satisfiable)"
        with pytest.raises(SpillError, match=rf"file at offset {place.offset}: .*{what}"):
            self.restored("file", place)

    def test_file_that_is_not_there_is_named(self) -> None:
        (place,) = self.files.write("file", [self.source(100)])
        self.files.remove("file")
        with pytest.raises(SpillError, match="file at offset 0: FileNotFoundError"):
            self.restored("file", place)

    # ---------------------------------------------------------------- what cannot be written

    def test_segment_that_is_missing_leaves_no_file(self) -> None:
        missing = SpillSource(str(self.folder / "missing"), 10)
        with pytest.raises(SpillError, match=r"file: FileNotFoundError: .*missing"):
            self.files.write("file", [self.source(CHUNK_BYTES), missing])
        with pytest.raises(FileNotFoundError):
            self.contents("file")

    def test_segment_that_is_shorter_than_said_leaves_no_file(self) -> None:
        short = self.source(3 * PIECE_BYTES)
        said = short._replace(size_bytes=4 * PIECE_BYTES)
        with pytest.raises(SpillError, match=r"file: .*source.* ends at byte 12582916, 4194300"):
            self.files.write("file", [self.source(CHUNK_BYTES), said])
        with pytest.raises(FileNotFoundError):
            self.contents("file")

    # ---------------------------------------------------------------- removal

    def test_removed_file_is_gone_and_others_are_not(self) -> None:
        source = self.source(100)
        self.files.write("file", [source])
        (place,) = self.files.write("another file", [source])
        self.files.remove("file")
        with pytest.raises(FileNotFoundError):
            self.contents("file")
        assert self.restored("another file", place) == self.bytes_of(source)

    def test_removing_what_is_not_there_does_nothing(self) -> None:
        self.files.remove("file")
        self.files.write("file", [self.source(1)])
        self.files.remove("file")
        self.files.remove("file")

    def test_end_removes_everything_and_may_come_twice(self) -> None:
        for file in ("one", "two"):
            self.files.write(file, [self.source(100)])
        self.files.remove_all()
        for file in ("one", "two"):
            with pytest.raises(FileNotFoundError):
                self.contents(file)
        self.files.remove_all()
