from __future__ import annotations

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

from weft._override import override
from weft._store import shared_memory
from weft._store.shared_memory import SMALLEST_BYTES, SharedMemoryStore, size_class
from weft.exceptions import StoreFullError
from weft.testing.store_suite import LARGE_BYTES, Ends, StoreSuite, fill, never

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
        store = SharedMemoryStore(f"process{next(made)}")
        store.directory = directory
        return store

    return open_store


@pytest.fixture
def store(directory: Path) -> SharedMemoryStore:
    return opener(directory)()


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


def put(store: SharedMemoryStore, data: bytes) -> str:
    segment = store.reserve(len(data))
    fill(segment, data)
    return segment.name


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
    segment = store.reserve(300_000)
    assert (directory / segment.name).stat().st_size == segment.size_bytes == 320 * 1024


def test_segment_is_for_this_user_only(store: SharedMemoryStore, directory: Path) -> None:
    assert (directory / store.reserve(1).name).stat().st_mode & 0o777 == 0o600


# ------------------------------------------------------------------ recycled segments


def test_object_of_the_same_class_gets_the_warm_segment(store: SharedMemoryStore) -> None:
    name = put(store, b"x" * MIB)
    store.recycle(name)
    assert store.reserve(MIB - 1000).name == name


def test_object_of_another_class_gets_another_segment(store: SharedMemoryStore) -> None:
    name = put(store, b"x" * MIB)
    store.recycle(name)
    assert store.reserve(2 * MIB).name != name


def test_recycled_segment_needs_no_new_mapping_in_a_reader(directory: Path) -> None:
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    for number in range(5):
        name = put(writer, bytes([number]) * LARGE_BYTES)
        assert reader.view(name, LARGE_BYTES, never)[0] == number
        writer.recycle(name)
    assert mappings(directory) == 2


def test_spare_memory_is_bounded(
    store: SharedMemoryStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "SPARE_BYTES", 2 * MIB)
    names = [store.reserve(MIB).name for _ in range(3)]
    for name in names:
        store.recycle(name)
    assert {path.name for path in directory.iterdir()} == set(names[:2])
    store.reserve(MIB)
    store.recycle(store.reserve(MIB).name)
    assert len(list(directory.iterdir())) == 2


def test_memory_of_a_segment_that_is_not_kept_goes_though_others_have_it_mapped(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "SPARE_BYTES", 0)
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    name = put(writer, b"x" * LARGE_BYTES)
    file = os.open(directory / name, os.O_RDONLY)
    reader.view(name, LARGE_BYTES, never)
    writer.recycle(name)
    assert os.fstat(file).st_blocks == 0
    os.close(file)


def test_recycling_a_segment_whose_file_is_gone_is_no_error(
    store: SharedMemoryStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon removes the directory when the session ends."""
    monkeypatch.setattr(shared_memory, "SPARE_BYTES", 0)
    name = store.reserve(1).name
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
    names = [put(writer, b"x" * MIB) for _ in range(5)]
    monkeypatch.setattr(shared_memory, bound, most)
    for name in names:
        reader.view(name, MIB, never)
    assert mappings(directory) == 5 + 2
    # The newest, and of those the one that was used last for longest.
    reader.view(names[3], MIB, never)
    reader.view(names[0], MIB, never)
    assert list(reader._mapped) == [names[3], names[0]]


def test_mapping_that_is_not_kept_lives_as_long_as_its_view(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "KEPT_MAPPINGS", 0)
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    view = reader.view(put(writer, b"x" * MIB), MIB, never)
    assert mappings(directory) == 2
    assert view == b"x" * MIB
    del view
    assert mappings(directory) == 1


def test_objects_and_views_cost_no_descriptors(directory: Path) -> None:
    """A process may have a thousand descriptors, and many more objects."""
    before = open_descriptors()
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    kept = [reader.view(put(writer, b"x"), 1, never) for _ in range(50)]
    assert open_descriptors() == before
    assert b"".join(kept) == b"x" * 50


def test_nothing_is_left_open_or_mapped(directory: Path) -> None:
    descriptors = open_descriptors()
    open_store = opener(directory)
    writer, reader = open_store(), open_store()
    for _ in range(20):
        name = put(writer, b"x" * LARGE_BYTES)
        reader.view(name, LARGE_BYTES, never)
        writer.recycle(name)
    assert open_descriptors() == descriptors
    writer.close()
    reader.close()
    gc.collect()
    assert mappings(directory) == 0


# ------------------------------------------------------------------ views


def test_array_over_a_view_keeps_it(store: SharedMemoryStore) -> None:
    ends = Ends()
    array = np.frombuffer(store.view(put(store, b"x" * 800), 800, ends), dtype=np.float64)
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
    empty = store.view(put(store, b"data"), 4, ends)[:0]
    assert ends.count == 0
    del empty
    assert ends.count == 1


def test_view_in_a_cycle_ends_when_the_cycle_is_collected(store: SharedMemoryStore) -> None:
    ends = Ends()
    cycle: list[object] = [store.view(put(store, b"data"), 4, ends)]
    cycle.append(cycle)
    del cycle
    assert ends.count == 0
    gc.collect()
    assert ends.count == 1


def test_end_is_told_in_the_thread_that_drops_the_view(store: SharedMemoryStore) -> None:
    told: list[int] = []
    views = [store.view(put(store, b"data"), 4, lambda: told.append(threading.get_ident()))]
    thread = threading.Thread(target=views.clear)
    thread.start()
    ident = thread.ident
    thread.join()
    assert told == [ident]


def test_many_threads_may_drop_views_at_once(store: SharedMemoryStore) -> None:
    ends = Ends()
    name = put(store, b"data")
    views = [[store.view(name, 4, ends) for _ in range(200)] for _ in range(4)]
    threads = [threading.Thread(target=part.clear) for part in views]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends.count == 800


def test_view_outlives_the_file(store: SharedMemoryStore, directory: Path) -> None:
    name = put(store, b"x" * LARGE_BYTES)
    view = store.view(name, LARGE_BYTES, never)
    (directory / name).unlink()
    store.close()
    gc.collect()
    assert view == b"x" * LARGE_BYTES


WRITER = """
import sys
from pathlib import Path
from weft._store.shared_memory import SharedMemoryStore
store = SharedMemoryStore("writer")
store.directory = Path(sys.argv[1])
segment = store.reserve(1_000_000)
def write(view):
    view[:] = b"y" * 1_000_000
segment.fill(1_000_000, write)
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
        view = store.view(name, LARGE_BYTES, never)
        writer.send_signal(signal.SIGKILL)
    (directory / name).unlink()
    assert view == b"y" * LARGE_BYTES


# ------------------------------------------------------------------ no room


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """The function that lets no file of this process grow over so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_object_that_does_not_fit_is_refused_and_leaves_nothing(
    store: SharedMemoryStore, directory: Path, file_limit: Callable[[int], None]
) -> None:
    descriptors = open_descriptors()
    file_limit(MIB)
    with pytest.raises(StoreFullError, match=r"an object of 2097152 bytes does not fit: .*free"):
        store.reserve(2 * MIB)
    assert list(directory.iterdir()) == []
    assert open_descriptors() == descriptors
    store.reserve(MIB)


def test_store_without_its_directory_is_full(store: SharedMemoryStore, directory: Path) -> None:
    store.directory = directory / "gone"
    with pytest.raises(StoreFullError, match="No such file or directory"):
        store.reserve(1)


def test_interrupt_while_memory_is_reserved_leaves_nothing(
    store: SharedMemoryStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_fd: int, _offset: int, _length: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "posix_fallocate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.reserve(1)
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
    store.reserve(3 * MIB)
    with pytest.raises(
        StoreFullError,
        match=r"an object of 2097152 bytes does not fit: No space left on device in .*, "
        r"where 1048576 bytes are free; drop references, or store less",
    ):
        store.reserve(2 * MIB)
    store.reserve(MIB)


@pytest.mark.slow
def test_spare_segments_make_room_for_an_object_of_another_size(small_directory: Path) -> None:
    open_store = opener(small_directory)
    writer, reader = open_store(), open_store()
    names = [put(writer, b"x" * MIB) for _ in range(3)]
    for name in names:
        reader.view(name, MIB, never)
        writer.recycle(name)
    assert writer.reserve(3 * MIB).size_bytes == 3 * MIB


@pytest.mark.slow
def test_reserved_memory_can_be_written_to_the_last_byte(small_directory: Path) -> None:
    """Memory that was only promised would end the process at the first write too many."""
    store = opener(small_directory)()
    reserved = [store.reserve(MIB) for _ in range(4)]
    with pytest.raises(StoreFullError):
        store.reserve(1)
    for segment in reserved:
        fill(segment, b"x" * segment.size_bytes)
