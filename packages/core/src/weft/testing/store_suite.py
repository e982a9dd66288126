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

from weft._wire.messages import Shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._store.shared_memory import SharedMemoryStore

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


def put(store: SharedMemoryStore, data: bytes) -> Shared:
    """Store some bytes, as an object of the process that has the store."""
    segment = store.try_reserve(len(data))
    assert segment is not None, "the loan is used up"
    segment.fill([data])
    store.made(segment, len(data), owner=b"owner", label="put", site="suite:1")
    return Shared(segment.name, len(data), "")


def view(store: SharedMemoryStore, value: Shared, gone: Callable[[], object] = never) -> memoryview:
    """Return the bytes of an object whose segment is there."""
    found = store.try_view(value, gone)
    assert found is not None, f"there is no segment {value.segment}"
    return found


class StoreSuite:
    """The promises of a store. A subclass says how to open one."""

    writer: SharedMemoryStore
    reader: SharedMemoryStore

    def open_store(self) -> SharedMemoryStore:
        """Return another store in the same place, with a loan that is large enough."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def stores(self) -> None:
        """Open two stores for each test."""
        self.writer, self.reader = self.open_store(), self.open_store()

    def put(self, data: bytes) -> Shared:
        """Store some bytes in the writer."""
        return put(self.writer, data)

    # ---------------------------------------------------------------- writing and reading

    @pytest.mark.parametrize("data", [b"x", b"x" * LARGE_BYTES])
    def test_what_was_written_is_read_in_every_process(self, data: bytes) -> None:
        value = self.put(data)
        assert view(self.writer, value) == data
        assert view(self.reader, value) == data

    def test_object_of_several_parts_is_written_without_a_gap(self) -> None:
        parts: list[bytes | memoryview] = [b"", b"ab", memoryview(b"c" * LARGE_BYTES), b"d"]
        for _ in range(2):  # Fresh, then warm.
            segment = self.writer.try_reserve(LARGE_BYTES + 3)
            assert segment is not None
            segment.fill(parts)
            self.writer.made(segment, LARGE_BYTES + 3, owner=b"", label="", site="")
            value = Shared(segment.name, LARGE_BYTES + 3, "")
            assert view(self.reader, value) == b"".join(parts)
            self.writer.recycle(segment.name)

    def test_readers_cannot_write(self) -> None:
        value = self.put(b"data")
        for store in (self.writer, self.reader):
            found = view(store, value)
            assert found.readonly
            with pytest.raises(TypeError):
                found[0] = 0

    def test_segments_are_apart(self) -> None:
        values = [self.put(bytes([number]) * LARGE_BYTES) for number in range(4)]
        assert len({value.segment for value in values}) == 4
        for number, value in enumerate(values):
            assert view(self.reader, value) == bytes([number]) * LARGE_BYTES

    def test_segment_that_is_no_more_is_not_found(self) -> None:
        assert self.reader.try_view(Shared("no such segment", 1, ""), never) is None

    def test_segment_that_is_not_filled_after_all_is_for_another_object(self) -> None:
        segment = self.writer.try_reserve(LARGE_BYTES)
        assert segment is not None
        self.writer.abandon(segment)
        value = self.put(b"x" * LARGE_BYTES)
        assert value.segment == segment.name
        assert view(self.reader, value) == b"x" * LARGE_BYTES

    # ---------------------------------------------------------------- recycling

    def test_recycled_segment_is_read_anew(self) -> None:
        value = self.put(b"a" * LARGE_BYTES)
        assert view(self.reader, value)[0] == ord("a")
        self.writer.recycle(value.segment)
        again = self.put(b"b" * LARGE_BYTES)
        assert view(self.reader, again) == b"b" * LARGE_BYTES

    def test_recycling_twice_gives_a_segment_to_one_object_only(self) -> None:
        value = self.put(b"a" * LARGE_BYTES)
        self.writer.recycle(value.segment)
        self.writer.recycle(value.segment)
        first, second = self.put(b"a" * LARGE_BYTES), self.put(b"b" * LARGE_BYTES)
        assert first.segment != second.segment

    def test_recycling_what_is_not_of_this_process_does_nothing(self) -> None:
        value = self.put(b"a" * LARGE_BYTES)
        self.reader.recycle(value.segment)
        assert self.put(b"b" * LARGE_BYTES).segment != value.segment

    # ---------------------------------------------------------------- views

    def test_end_of_a_view_is_told_once(self) -> None:
        ends = Ends()
        found = view(self.reader, self.put(b"data"), ends)
        assert ends.count == 0
        del found
        gc.collect()
        assert ends.count == 1

    def test_view_ends_with_the_last_that_was_made_of_it(self) -> None:
        ends = Ends()
        found = view(self.reader, self.put(b"data"), ends)
        parts = [found[:2], found[2:].cast("H"), memoryview(found)]
        del found
        while parts:
            assert ends.count == 0
            parts.pop()
        gc.collect()
        assert ends.count == 1

    def test_views_of_one_segment_end_one_by_one(self) -> None:
        value = self.put(b"data")
        first_ends, second_ends = Ends(), Ends()
        first = view(self.reader, value, first_ends)
        second = view(self.reader, value, second_ends)
        del first
        assert (first_ends.count, second_ends.count) == (1, 0)
        assert bytes(second) == b"data"

    def test_view_outlives_its_store(self) -> None:
        data = b"x" * LARGE_BYTES
        found = view(self.reader, self.put(data))
        self.reader.close()
        self.writer.close()
        del self.reader, self.writer
        gc.collect()
        assert found == data

    def test_closing_twice_is_closing(self) -> None:
        self.writer.close()
        self.writer.close()
