from __future__ import annotations

import errno
import gc
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft._clock import monotonic
from weft._override import override
from weft._store import shared_memory
from weft._store.mappings import REST_S, RESTING
from weft._store.shared_memory import (
    OVERDRAWN,
    SMALLEST_BYTES,
    Segment,
    SharedMemoryStore,
    size_class,
)
from weft._wire.messages import (
    AskLoan,
    Discard,
    Evicted,
    LoanReturned,
    MadeSegment,
    Message,
    SegmentsClosed,
    SegmentsFree,
    SegmentsMade,
    SegmentsOpened,
    Shared,
)
from weft.exceptions import StoreFullError
from weft.testing.store_suite import LARGE_BYTES, Ends, StoreSuite, never, put, view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1024 * 1024
NUMBERS = itertools.count()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory in shared memory, as a session has one."""
    path = Path(f"/dev/shm/weft-test-{os.getpid()}-{next(NUMBERS)}")
    path.mkdir(mode=0o700)
    yield path
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def opener(directory: Path) -> Callable[[], SharedMemoryStore]:
    made = iter(range(100))

    def open_store() -> SharedMemoryStore:
        store = SharedMemoryStore(f"process{next(made)}", lambda _message: None)
        store.directory = directory
        store.lend(1 << 40)
        return store

    return open_store


@pytest.fixture
def store(directory: Path) -> SharedMemoryStore:
    return opener(directory)()


def reserve(store: SharedMemoryStore, size_bytes: int) -> Segment:
    segment = store.try_reserve(size_bytes)
    assert segment is not None
    return segment


class TestSharedMemoryStore(StoreSuite):
    @pytest.fixture(autouse=True)
    def place(self, directory: Path) -> None:
        self.open_one = opener(directory)

    @pytest.fixture(autouse=True)
    def stores(self, place: None) -> None:
        self.writer, self.reader = self.open_store(), self.open_store()

    @override
    def open_store(self) -> SharedMemoryStore:
        return self.open_one()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# ------------------------------------------------------------------ sizes


@given(st.integers(0, 1 << 50))
def test_size_class_is_large_enough_and_not_much_larger(size_bytes: int) -> None:
    found = size_class(size_bytes)
    assert found >= max(size_bytes, SMALLEST_BYTES)
    assert found == SMALLEST_BYTES or found <= size_bytes * 1.25


@given(st.integers(0, 1 << 50))
def test_size_class_is_whole_pages_and_few_significant_bits(size_bytes: int) -> None:
    found = size_class(size_bytes)
    assert found % 4096 == 0
    assert found >> (found.bit_length() - 3) << (found.bit_length() - 3) == found


@given(st.integers(0, 1 << 50))
def test_size_class_is_its_own_class(size_bytes: int) -> None:
    assert size_class(size_class(size_bytes)) == size_class(size_bytes)


def test_segment_has_its_class_in_size(store: SharedMemoryStore, directory: Path) -> None:
    segment = reserve(store, 300_000)
    assert (directory / segment.name).stat().st_size == segment.size_bytes == 320 * 1024


def test_segment_is_for_this_user_only(store: SharedMemoryStore, directory: Path) -> None:
    assert (directory / reserve(store, 1).name).stat().st_mode & 0o777 == 0o600


# ------------------------------------------------------------------ recycled segments


def test_object_of_the_same_class_gets_the_warm_segment(store: SharedMemoryStore) -> None:
    name = put(store, b"x" * MIB).segment
    store.recycle(name)
    assert reserve(store, MIB - 1000).name == name


def test_object_of_another_class_gets_another_segment(store: SharedMemoryStore) -> None:
    name = put(store, b"x" * MIB).segment
    store.recycle(name)
    assert reserve(store, 2 * MIB).name != name


def test_recycled_segment_needs_no_new_mapping_in_a_reader(directory: Path) -> None:
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    for number in range(5):
        value = put(writer, bytes([number]) * LARGE_BYTES)
        assert view(reader, value)[0] == number
        writer.recycle(value.segment)
    assert mappings(directory) == 2


def test_spare_memory_is_bounded(
    store: SharedMemoryStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "SPARE_BYTES", 2 * MIB)
    names = [put(store, b"x" * MIB).segment for _ in range(3)]
    for name in names:
        store.recycle(name)
    assert {path.name for path in directory.iterdir()} == set(names[:2])
    put(store, b"x" * MIB)
    store.recycle(put(store, b"x" * MIB).segment)
    assert len(list(directory.iterdir())) == 2


def test_memory_of_a_segment_that_is_not_kept_goes_though_others_have_it_mapped(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "SPARE_BYTES", 0)
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    value = put(writer, b"x" * LARGE_BYTES)
    file = os.open(directory / value.segment, os.O_RDONLY)
    view(reader, value)
    writer.recycle(value.segment)
    assert os.fstat(file).st_blocks == 0
    os.close(file)


def test_recycling_a_segment_whose_file_is_gone_is_no_error(
    store: SharedMemoryStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon removes the directory when the session ends."""
    monkeypatch.setattr(shared_memory, "SPARE_BYTES", 0)
    name = put(store, b"x").segment
    (directory / name).unlink()
    store.recycle(name)


# ------------------------------------------------------------------ mappings of others


def mappings(directory: Path) -> int:
    """How many mappings this process has of the files in a directory."""
    return Path("/proc/self/maps").read_text().count(f"{directory}/")


@pytest.mark.parametrize(("bound", "most"), [("KEPT_MAPPINGS", 2), ("KEPT_BYTES", 2 * MIB)])
def test_few_mappings_of_other_processes_segments_are_kept(
    directory: Path, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    values = [put(writer, b"x" * MIB) for _ in range(5)]
    monkeypatch.setattr(shared_memory, bound, most)
    for value in values:
        view(reader, value)
    assert mappings(directory) == 2
    # The newest, and of those the one that was used last for longest.
    view(reader, values[3])
    view(reader, values[0])
    assert list(reader._kept) == [values[3].segment, values[0].segment]


def test_mapping_that_is_not_kept_lives_as_long_as_its_view(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "KEPT_MAPPINGS", 0)
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    value = put(writer, b"x" * MIB)
    found = view(reader, value)
    assert mappings(directory) == 1
    assert found == b"x" * MIB
    # A second view needs no second mapping.
    again = view(reader, value)
    assert mappings(directory) == 1
    del found
    assert again == b"x" * MIB
    del again
    assert mappings(directory) == 0


def test_what_is_written_once_is_not_mapped_by_who_wrote_it(
    store: SharedMemoryStore, directory: Path
) -> None:
    value = put(store, b"x" * MIB)
    assert mappings(directory) == 0
    store.recycle(value.segment)
    put(store, b"y" * MIB)
    assert mappings(directory) == 1


def test_objects_and_views_cost_no_descriptors(directory: Path) -> None:
    """A process may have a thousand descriptors, and many more objects."""
    before = open_descriptors()
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    kept = [view(reader, put(writer, b"x")) for _ in range(50)]
    assert open_descriptors() == before
    assert b"".join(kept) == b"x" * 50


def test_nothing_is_left_open_or_mapped(directory: Path) -> None:
    descriptors = open_descriptors()
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    for _ in range(20):
        value = put(writer, b"x" * LARGE_BYTES)
        view(reader, value)
        writer.recycle(value.segment)
    assert open_descriptors() == descriptors
    writer.close()
    reader.close()
    gc.collect()
    assert mappings(directory) == 0


# ------------------------------------------------------------------ what rests of copies


def read_copy(reader: SharedMemoryStore, value: Shared) -> memoryview:
    """Read a segment as a copy of another node's object is read."""
    reader.keep_copy(value.segment, reader.open(value.segment))
    found = reader.try_view_copy(value.segment, value.size_bytes, never)
    assert found is not None
    return found


def refill(directory: Path, old: Shared, new: str, data: bytes) -> Shared:
    """Do what a daemon does with the file of a copy that went."""
    file = directory / old.segment
    with file.open("r+b") as opened:
        opened.write(data)
    file.rename(directory / new)
    return Shared(new, len(data), old.creator)


def test_what_was_mapped_of_a_copy_is_mapped_for_the_next_one_in_the_file(
    directory: Path,
) -> None:
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    copy = put(writer, b"x" * MIB)
    assert read_copy(reader, copy) == b"x" * MIB
    reader.evict([copy.segment])
    assert mappings(directory) == 1
    copy = refill(directory, copy, "copy2", b"y" * MIB)
    assert read_copy(reader, copy) == b"y" * MIB
    assert mappings(directory) == 1
    # It is one as any other.
    reader.evict([copy.segment])
    copy = refill(directory, copy, "copy3", b"z" * MIB)
    assert read_copy(reader, copy) == b"z" * MIB
    reader.close()
    gc.collect()
    assert mappings(directory) == 0


def test_file_that_has_another_size_since_is_mapped_anew(directory: Path) -> None:
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    copy = put(writer, b"x" * MIB)
    read_copy(reader, copy)
    reader.evict([copy.segment])
    os.truncate(directory / copy.segment, 2 * MIB)
    copy = refill(directory, copy, "copy2", b"y" * 2 * MIB)
    assert read_copy(reader, copy) == b"y" * 2 * MIB
    assert mappings(directory) == 1


def test_copy_that_is_viewed_does_not_rest_before_the_view_is_gone(directory: Path) -> None:
    told: list[Message] = []
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    reader._tell = told.append
    copy = put(writer, b"x" * MIB)
    found = read_copy(reader, copy)
    reader.evict([copy.segment])
    assert told[-1] == Evicted([], [copy.segment])
    assert found == b"x" * MIB
    assert reader.resting.tick(0) is None
    del found
    reader.tell_ends()
    assert Evicted([copy.segment], []) in told
    assert reader.resting.tick(0) is not None


def test_only_what_was_mapped_of_copies_rests(directory: Path) -> None:
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    value = put(writer, b"x" * MIB)
    view(reader, value)
    reader.evict([value.segment])
    assert mappings(directory) == 0


def test_few_ranges_rest_and_not_for_long(directory: Path) -> None:
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    before = monotonic()
    for _ in range(RESTING + 2):
        copy = put(writer, b"x" * MIB)
        read_copy(reader, copy)
        reader.evict([copy.segment])
    assert mappings(directory) == RESTING
    due = reader.resting.tick(before)
    assert due is not None
    assert before + REST_S <= due <= monotonic() + REST_S
    assert reader.resting.tick(monotonic() + REST_S) is None
    assert mappings(directory) == 0


# ------------------------------------------------------------------ views


def test_array_over_a_view_keeps_it(store: SharedMemoryStore) -> None:
    ends = Ends()
    array = np.frombuffer(view(store, put(store, b"x" * 800), ends), dtype=np.float64)
    part = array[10:20].reshape(2, 5)
    assert not array.flags.writeable
    del array
    gc.collect()
    assert ends.count == 0
    assert part.tobytes() == b"x" * 80
    del part
    gc.collect()
    assert ends.count == 1


def test_empty_slice_keeps_a_view(store: SharedMemoryStore) -> None:
    ends = Ends()
    empty = view(store, put(store, b"data"), ends)[:0]
    assert ends.count == 0
    del empty
    assert ends.count == 1


def test_view_in_a_cycle_ends_when_the_cycle_is_collected(store: SharedMemoryStore) -> None:
    ends = Ends()
    cycle: list[object] = [view(store, put(store, b"data"), ends)]
    cycle.append(cycle)
    del cycle
    assert ends.count == 0
    gc.collect()
    assert ends.count == 1


def test_end_is_told_in_the_thread_that_drops_the_view(store: SharedMemoryStore) -> None:
    told: list[int] = []
    views = [view(store, put(store, b"data"), lambda: told.append(threading.get_ident()))]
    thread = threading.Thread(target=views.clear)
    thread.start()
    ident = thread.ident
    thread.join()
    assert told == [ident]


def test_many_threads_may_drop_views_at_once(store: SharedMemoryStore) -> None:
    ends = Ends()
    value = put(store, b"data")
    views = [[view(store, value, ends) for _ in range(200)] for _ in range(4)]
    threads = [threading.Thread(target=part.clear) for part in views]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends.count == 800


def test_view_outlives_the_file(store: SharedMemoryStore, directory: Path) -> None:
    value = put(store, b"x" * LARGE_BYTES)
    found = view(store, value)
    (directory / value.segment).unlink()
    store.close()
    gc.collect()
    assert found == b"x" * LARGE_BYTES


WRITER = """
import sys
from pathlib import Path
from weft._store.shared_memory import SharedMemoryStore
store = SharedMemoryStore("writer", lambda message: None)
store.directory = Path(sys.argv[1])
store.lend(1 << 30)
segment = store.try_reserve(1_000_000)
segment.fill([b"y" * 1_000_000])
print(segment.name, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_view_outlives_the_process_that_wrote_it(store: SharedMemoryStore, directory: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        name = writer.stdout.readline().strip()
        found = view(store, Shared(name, LARGE_BYTES, ""))
        writer.send_signal(signal.SIGKILL)
    (directory / name).unlink()
    assert found == b"y" * LARGE_BYTES


# ------------------------------------------------------------------ no room


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """The function that lets no file of this process grow over so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_segment_that_cannot_be_made_leaves_nothing(
    store: SharedMemoryStore, directory: Path, file_limit: Callable[[int], None]
) -> None:
    descriptors = open_descriptors()
    file_limit(MIB)
    with pytest.raises(StoreFullError, match=r"an object of 2097152 bytes does not fit: .*free"):
        reserve(store, 2 * MIB)
    assert list(directory.iterdir()) == []
    assert open_descriptors() == descriptors
    reserve(store, MIB)


def test_store_without_its_directory_is_full(store: SharedMemoryStore, directory: Path) -> None:
    store.directory = directory / "gone"
    with pytest.raises(StoreFullError, match="No such file or directory"):
        reserve(store, 1)


def test_interrupt_while_a_segment_is_made_leaves_nothing(
    store: SharedMemoryStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_fd: int, _length: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "ftruncate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reserve(store, 1)
    assert list(directory.iterdir()) == []


@pytest.fixture
def small_directory(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a file system")
    options = ["-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield tmp_path
    gc.collect()
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.slow
def test_full_directory_refuses_an_object_with_what_is_free(small_directory: Path) -> None:
    store = opener(small_directory)()
    kept = put(store, b"x" * (3 * MIB))
    segment = reserve(store, 2 * MIB)
    with pytest.raises(
        StoreFullError,
        match=r"an object of 2097152 bytes does not fit: No space left on device in .*, "
        r"where \d+ bytes are free; drop references, or store less",
    ):
        segment.fill([b"y" * (2 * MIB)])
    store.abandon(segment)
    store.recall(1 << 40)
    store.lend(MIB)
    assert view(store, put(store, b"z" * MIB)) == b"z" * MIB
    assert view(store, kept) == b"x" * (3 * MIB)


@pytest.mark.slow
def test_warm_segment_that_has_no_room_to_grow_refuses_instead_of_ending_the_process(
    small_directory: Path,
) -> None:
    """Memory that is only promised would end it at the first write too many."""
    store = opener(small_directory)()
    small, large = MIB + MIB // 4 - 300_000, MIB + MIB // 4
    store.recycle(put(store, b"x" * small).segment)
    put(store, b"y" * (4 * MIB - small - 8192))
    segment = reserve(store, large)
    with pytest.raises(StoreFullError):
        segment.fill([b"z" * large])


# ------------------------------------------------------------------ the loan


class Told:
    """A store, and what it tells the daemon."""

    def __init__(self, directory: Path, prefix: str = "teller") -> None:
        self.messages: list[Message] = []
        self.store = SharedMemoryStore(prefix, self.messages.append)
        self.store.directory = directory

    def said(self) -> list[Message]:
        """Return what was told since the last call."""
        said = self.messages[:]
        self.messages.clear()
        return said


@pytest.fixture
def teller(directory: Path) -> Told:
    return Told(directory)


def test_without_a_loan_nothing_is_made(teller: Told, directory: Path) -> None:
    assert teller.store.try_reserve(1) is None
    teller.store.lend(SMALLEST_BYTES - 1)
    assert teller.store.try_reserve(1) is None
    teller.store.lend(1)
    assert teller.store.try_reserve(1) is not None
    assert teller.store.try_reserve(1) is None
    assert len(list(directory.iterdir())) == 1


def test_spare_memory_pays_for_the_next_object_of_its_class(teller: Told) -> None:
    teller.store.lend(SMALLEST_BYTES)
    for _ in range(3):
        teller.store.recycle(put(teller.store, b"data").segment)
    assert teller.store.try_reserve(2 * SMALLEST_BYTES) is None


def test_daemon_is_told_what_was_made_and_what_is_free(teller: Told) -> None:
    teller.store.lend(SMALLEST_BYTES)
    name = put(teller.store, b"data").segment
    teller.store.recycle(name)
    made = MadeSegment(name, SMALLEST_BYTES, 4, b"owner", "put", "suite:1", False)
    assert teller.said() == [SegmentsMade([made]), SegmentsFree([name])]


def test_daemon_is_told_to_drop_what_is_not_here(teller: Told) -> None:
    teller.store.recycle("elsewhere-1")
    assert teller.said() == [Discard(["elsewhere-1"])]


def test_recall_takes_what_is_unused_and_then_what_is_spare(teller: Told, directory: Path) -> None:
    teller.store.lend(2 * MIB + MIB)
    kept = put(teller.store, b"x" * MIB)
    teller.store.recycle(put(teller.store, b"x" * MIB).segment)
    teller.said()
    teller.store.recall(100)
    teller.store.recall(MIB)
    teller.store.recall(5 * MIB)
    assert teller.said() == [LoanReturned(100), LoanReturned(2 * MIB - 100), LoanReturned(0)]
    assert [path.name for path in directory.iterdir()] == [kept.segment]
    assert teller.store.try_reserve(1) is None


def test_too_much_spare_memory_is_returned(teller: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "SPARE_BYTES", 0)
    teller.store.lend(MIB)
    name = put(teller.store, b"x" * MIB).segment
    teller.said()
    teller.store.recycle(name)
    assert teller.said() == [SegmentsFree([name]), LoanReturned(MIB)]


def test_reader_tells_when_it_maps_and_when_the_last_view_is_gone(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "KEPT_MAPPINGS", 0)
    writer, reader = opener(directory)(), Told(directory)
    value = put(writer, b"data")
    first, second = view(reader.store, value), view(reader.store, value)
    del first
    reader.store.tell_ends()
    assert reader.said() == [SegmentsOpened([value.segment])]
    del second
    reader.store.tell_ends()
    assert reader.said() == [SegmentsClosed([value.segment])]
    reader.store.tell_ends()
    assert reader.said() == []


def test_segment_that_is_mapped_again_is_not_told_to_be_closed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "KEPT_MAPPINGS", 0)
    writer, reader = opener(directory)(), Told(directory)
    value = put(writer, b"data")
    view(reader.store, value)
    again = view(reader.store, value)
    reader.said()
    reader.store.tell_ends()
    assert SegmentsClosed([value.segment]) not in reader.said()
    del again


def test_what_is_viewed_is_not_evicted(directory: Path) -> None:
    writer, reader = Told(directory, "writer"), Told(directory, "reader")
    writer.store.lend(MIB)
    value = put(writer.store, b"data")
    found = [view(writer.store, value), view(reader.store, value)]
    for told in (writer, reader):
        told.said()
        told.store.evict([value.segment])
        assert told.said() == [Evicted([], [value.segment])]
    assert [bytes(each) for each in found] == [b"data", b"data"]


def test_what_was_viewed_is_evicted_when_the_last_view_ends(directory: Path) -> None:
    writer, reader = Told(directory, "writer"), Told(directory, "reader")
    writer.store.lend(MIB)
    value = put(writer.store, b"data")
    for told in (writer, reader):
        found = [view(told.store, value), view(told.store, value)]
        told.store.evict([value.segment])
        told.said()
        found.pop()
        told.store.tell_ends()
        assert told.said() == []
        found.pop()
        told.store.tell_ends()
        assert told.said()[0] == Evicted([value.segment], [])
        told.store.tell_ends()
        told.said()
    assert mappings(directory) == 0


def test_what_is_not_viewed_is_evicted_and_its_memory_is_the_daemons(directory: Path) -> None:
    writer, reader = Told(directory, "writer"), Told(directory, "reader")
    writer.store.lend(SMALLEST_BYTES)
    value = put(writer.store, b"data")
    for told in (writer, reader):
        view(told.store, value)
        told.said()
        told.store.evict([value.segment, "unknown"])
        assert told.said() == [Evicted([value.segment, "unknown"], [])]
    gc.collect()
    assert mappings(directory) == 0
    # It is no longer this process's to recycle, nor is its memory.
    writer.store.recycle(value.segment)
    assert writer.said() == [Discard([value.segment])]
    assert writer.store.try_reserve(1) is None


def test_spare_segment_stays_when_it_is_to_be_evicted(teller: Told) -> None:
    """The question was about the object that it held."""
    teller.store.lend(SMALLEST_BYTES)
    name = put(teller.store, b"data").segment
    teller.store.recycle(name)
    teller.store.evict([name])
    assert reserve(teller.store, 1).name == name


def test_segment_that_is_being_filled_stays_when_it_is_to_be_evicted(teller: Told) -> None:
    teller.store.lend(SMALLEST_BYTES)
    name = put(teller.store, b"data").segment
    teller.store.recycle(name)
    segment = reserve(teller.store, 1)
    teller.store.evict([name])
    segment.fill([b"more"])
    teller.store.made(segment, 4, owner=b"", label="", site="")
    assert view(teller.store, Shared(name, 4, "")) == b"more"


def test_view_outlives_eviction(directory: Path) -> None:
    """A view that came after the question keeps the bytes, though the file is unlinked."""
    writer, reader = opener(directory)(), Told(directory)
    value = put(writer, b"data")
    reader.store.evict([value.segment])
    found = view(reader.store, value)
    (directory / value.segment).unlink()
    assert found == b"data"
    assert view(reader.store, value) == b"data"


def test_what_is_passing_overdraws_the_loan_and_pays_it_back(teller: Told, directory: Path) -> None:
    teller.store.lend(SMALLEST_BYTES - 1)
    segment = teller.store.reserve_passing(1)
    assert teller.said() == [AskLoan(OVERDRAWN, 1)]
    assert teller.store.try_reserve(1) is None
    teller.store.recall(100)
    assert teller.said() == [LoanReturned(0)]
    teller.store.recycle(segment.name)
    assert list(directory.iterdir()) == []
    teller.store.lend(1)
    assert teller.store.try_reserve(1) is not None


def test_what_is_passing_takes_the_loan_first(teller: Told) -> None:
    teller.store.lend(SMALLEST_BYTES)
    name = teller.store.reserve_passing(1).name
    assert teller.said() == []
    teller.store.recycle(name)
    assert reserve(teller.store, 1).name == name


# ------------------------------------------------------------------ files that are used again


def test_loan_that_brings_a_file_is_filled_there(teller: Told, directory: Path) -> None:
    old = directory / "old"
    old.write_bytes(b"x" * SMALLEST_BYTES)
    inode = old.stat().st_ino
    teller.store.lend(SMALLEST_BYTES + 1, "old", SMALLEST_BYTES)
    assert not old.exists()
    value = put(teller.store, b"data")
    assert view(teller.store, value) == b"data"
    assert (directory / value.segment).stat().st_ino == inode
    assert teller.store.try_reserve(1) is None
    teller.store.recall(SMALLEST_BYTES)
    assert teller.said()[-1] == LoanReturned(1)
    # It is recycled like any other.
    teller.store.recycle(value.segment)
    teller.store.recall(SMALLEST_BYTES)
    assert teller.said()[-1] == LoanReturned(SMALLEST_BYTES)
    assert list(directory.iterdir()) == []


def test_loan_whose_file_is_gone_is_a_loan(teller: Told) -> None:
    teller.store.lend(SMALLEST_BYTES, "gone", SMALLEST_BYTES)
    assert view(teller.store, put(teller.store, b"data")) == b"data"
    assert teller.store.try_reserve(1) is None


def test_loan_whose_file_cannot_be_opened_is_a_loan(
    teller: Told, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "old").write_bytes(b"x" * SMALLEST_BYTES)

    def fail(*args: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("os.open", fail)
        teller.store.lend(SMALLEST_BYTES, "old", SMALLEST_BYTES)
    assert list(directory.iterdir()) == []
    assert view(teller.store, put(teller.store, b"data")) == b"data"


def test_openings_are_counted_before_they_are_told(directory: Path) -> None:
    writer, reader = Told(directory, "writer"), Told(directory, "reader")
    writer.store.lend(MIB)
    value = put(writer.store, b"data")
    reader.store.open(value.segment)
    reader.store.open(value.segment)
    assert reader.said() == [SegmentsOpened([value.segment])]
    assert reader.store.opens.value == 1
    with pytest.raises(FileNotFoundError):
        reader.store.open("no such segment")
    assert reader.store.opens.value == 1
    assert writer.store.opens.value == 0


def test_mapping_that_somebody_is_about_to_view_is_not_said_to_be_gone(directory: Path) -> None:
    writer, reader = Told(directory, "writer"), Told(directory, "reader")
    writer.store.lend(MIB)
    value = put(writer.store, b"data")
    mapping = reader.store.open(value.segment)
    reader.said()
    reader.store.evict([value.segment])
    assert reader.said() == [Evicted([], [value.segment])]
    found = view(reader.store, value)
    del mapping
    assert found == b"data"
    assert reader.said() == []
    del found
    reader.store.tell_ends()
    assert reader.said()[0] == Evicted([value.segment], [])


# ------------------------------------------------------------------ on disk


def test_object_on_disk_costs_no_loan_and_is_read_by_its_path(
    teller: Told, directory: Path, tmp_path: Path
) -> None:
    segment = teller.store.reserve_on_disk(LARGE_BYTES, tmp_path)
    segment.fill([b"x" * LARGE_BYTES])
    teller.store.made(segment, LARGE_BYTES, owner=b"", label="", site="")
    value = Shared(segment.name, LARGE_BYTES, "")
    assert view(teller.store, value) == b"x" * LARGE_BYTES
    reader = opener(directory)()
    assert reader.try_view(value, never) is None
    ends = Ends()
    found = reader.view_file(segment.path, 0, LARGE_BYTES, ends)
    Path(segment.path).unlink()
    assert found.readonly
    assert found == b"x" * LARGE_BYTES
    del found
    assert ends.count == 1
    teller.said()
    teller.store.recycle(value.segment)
    assert teller.said() == [SegmentsFree([value.segment])]
    assert teller.store.try_reserve(1) is None


@pytest.mark.parametrize("offset", [0, 1, 4096, 5000])
def test_part_of_a_file_is_viewed_from_any_offset(
    store: SharedMemoryStore, tmp_path: Path, offset: int
) -> None:
    data = os.urandom(20_000)
    (tmp_path / "file").write_bytes(data)
    found = store.view_file(str(tmp_path / "file"), offset, 10_000, never)
    assert found == data[offset : offset + 10_000]


def test_abandoned_segment_on_disk_is_removed(teller: Told, tmp_path: Path) -> None:
    teller.store.abandon(teller.store.reserve_on_disk(1, tmp_path))
    assert list(tmp_path.iterdir()) == []
