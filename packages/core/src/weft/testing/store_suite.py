"""What every store has to do: one suite of tests, run on each implementation.

    import pytest

    pytest.register_assert_rewrite("weft.testing.store_suite")
    from weft.testing.store_suite import StoreSuite

    class TestMyStore(StoreSuite):
        def open_store(self):
            ...  # another process's store, as it were, in the same place
            return store

The tests hold a writer and a reader: two processes' stores in one process. They need pytest.
"""

# ruff: noqa: D102, S101
# The methods are tests: their names say what they check.

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from weft._store.shared_memory import Segment, SharedMemoryStore

LARGE_BYTES = 1_000_000


def never() -> None:
    """Stand where a view's end is of no interest."""


class Ends:
    """Counts how often a view has ended.

    Attributes:
        count: How often.
    """

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        """Count one more."""
        self.count += 1


def fill(segment: Segment, data: bytes) -> None:
    """Write `data` at a segment's beginning."""

    def write(view: memoryview) -> None:
        view[:] = data

    segment.fill(len(data), write)


class StoreSuite:
    """The promises of a store. A subclass says how to open one."""

    writer: SharedMemoryStore
    reader: SharedMemoryStore

    def open_store(self) -> SharedMemoryStore:
        """Return another store in the same place."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def stores(self) -> None:
        """Open two stores for each test."""
        self.writer, self.reader = self.open_store(), self.open_store()

    def put(self, data: bytes) -> str:
        """Store `data`; return the segment's name."""
        segment = self.writer.reserve(len(data))
        fill(segment, data)
        return segment.name

    # ---------------------------------------------------------------- writing and reading

    @pytest.mark.parametrize("data", [b"x", b"x" * LARGE_BYTES])
    def test_what_was_written_is_read_in_every_process(self, data: bytes) -> None:
        name = self.put(data)
        assert self.writer.view(name, len(data), never) == data
        assert self.reader.view(name, len(data), never) == data

    def test_readers_cannot_write(self) -> None:
        name = self.put(b"data")
        for store in (self.writer, self.reader):
            view = store.view(name, 4, never)
            assert view.readonly
            with pytest.raises(TypeError):
                view[0] = 0

    def test_segments_are_apart(self) -> None:
        names = [self.put(bytes([number]) * LARGE_BYTES) for number in range(4)]
        assert len(set(names)) == 4
        for number, name in enumerate(names):
            assert self.reader.view(name, LARGE_BYTES, never) == bytes([number]) * LARGE_BYTES

    def test_segment_that_is_no_more_is_not_found(self) -> None:
        with pytest.raises(FileNotFoundError):
            self.reader.view("no such segment", 1, never)

    def test_writer_that_fails_leaves_the_segment_to_be_recycled(self) -> None:
        segment = self.writer.reserve(LARGE_BYTES)

        def fail(view: memoryview) -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            segment.fill(LARGE_BYTES, fail)
        self.writer.recycle(segment.name)
        assert bytes(self.reader.view(self.put(b"x" * LARGE_BYTES), 1, never)) == b"x"

    # ---------------------------------------------------------------- recycling

    def test_recycled_segment_is_read_anew(self) -> None:
        name = self.put(b"a" * LARGE_BYTES)
        assert self.reader.view(name, LARGE_BYTES, never)[0] == ord("a")
        self.writer.recycle(name)
        again = self.put(b"b" * LARGE_BYTES)
        assert self.reader.view(again, LARGE_BYTES, never) == b"b" * LARGE_BYTES

    def test_recycling_twice_gives_a_segment_to_one_object_only(self) -> None:
        name = self.put(b"a" * LARGE_BYTES)
        self.writer.recycle(name)
        self.writer.recycle(name)
        first, second = self.writer.reserve(LARGE_BYTES), self.writer.reserve(LARGE_BYTES)
        assert first.name != second.name

    def test_recycling_what_is_not_of_this_process_does_nothing(self) -> None:
        name = self.put(b"a" * LARGE_BYTES)
        self.reader.recycle(name)
        assert self.writer.reserve(LARGE_BYTES).name != name

    # ---------------------------------------------------------------- views

    def test_end_of_a_view_is_told_once(self) -> None:
        ends = Ends()
        view = self.reader.view(self.put(b"data"), 4, ends)
        assert ends.count == 0
        del view
        gc.collect()
        assert ends.count == 1

    def test_view_ends_with_the_last_that_was_made_of_it(self) -> None:
        ends = Ends()
        view = self.reader.view(self.put(b"data"), 4, ends)
        parts = [view[:2], view[2:].cast("H"), memoryview(view)]
        del view
        while parts:
            assert ends.count == 0
            parts.pop()
        gc.collect()
        assert ends.count == 1

    def test_views_of_one_segment_end_one_by_one(self) -> None:
        name = self.put(b"data")
        first_ends, second_ends = Ends(), Ends()
        first = self.reader.view(name, 4, first_ends)
        second = self.reader.view(name, 4, second_ends)
        del first
        assert (first_ends.count, second_ends.count) == (1, 0)
        assert bytes(second) == b"data"

    def test_view_outlives_its_store(self) -> None:
        data = b"x" * LARGE_BYTES
        view = self.reader.view(self.put(data), LARGE_BYTES, never)
        self.reader.close()
        self.writer.close()
        del self.reader, self.writer
        gc.collect()
        assert view == data

    def test_closing_twice_is_closing(self) -> None:
        self.writer.close()
        self.writer.close()
