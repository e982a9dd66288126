from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft._store.chunks import BUFFER_BYTES, Arrival, ChunkFile, Landing, chunk_bytes
from weft._store.spill import (
    PIECE_BYTES,
    LocalSpillFiles,
    SpillError,
    SpillPlace,
    SpillSource,
)
from weft._wire.transfers import CHUNK_BYTES
from weft.exceptions import StoreFullError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REST_BYTES = 300_001
SIZE_BYTES = 2 * CHUNK_BYTES + REST_BYTES
DATA = os.urandom(SIZE_BYTES)
CHUNKS = [DATA[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES] for i in range(3)]
BUFFER = memoryview(bytearray(BUFFER_BYTES))


def take(landing: Landing, data: bytes) -> None:
    """Let bytes come."""
    while data and (window := landing.window()):
        part = data[: len(window)]
        window[: len(part)] = part
        landing.took(len(part))
        data = data[len(part) :]


def land(arrival: Arrival, index: int, data: bytes | None = None, *, is_whole: bool = True) -> bool:
    """Let a chunk come, at once; tell whether it was right."""
    landing = arrival.begin(index, BUFFER)
    take(landing, CHUNKS[index] if data is None else data)
    landing.ended(is_whole=is_whole)
    return landing.is_right


@pytest.fixture
def arrival(tmp_path: Path) -> Iterator[Arrival]:
    made = Arrival(tmp_path / "copy", SIZE_BYTES)
    yield made
    made.file.close()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[ChunkFile]:
    (tmp_path / "segment").write_bytes(DATA + b"what is behind the object")
    file = ChunkFile.open(tmp_path / "segment", SIZE_BYTES)
    yield file
    file.close()


# ------------------------------------------------------------------ what comes


def test_chunk_is_as_large_as_a_piece_of_what_is_spilled() -> None:
    """So what was spilled is checked by the checksums of its chunks."""
    assert CHUNK_BYTES == PIECE_BYTES


def test_last_chunk_is_what_is_left() -> None:
    sizes = [chunk_bytes(SIZE_BYTES, index) for index in range(3)]
    assert sizes == [CHUNK_BYTES, CHUNK_BYTES, REST_BYTES]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_chunks_in_any_order_make_the_object(arrival: Arrival, order: tuple[int, ...]) -> None:
    for index in order:
        assert not arrival.is_whole
        assert not arrival.path.exists()
        assert land(arrival, index)
    assert arrival.is_whole
    arrival.finish()
    assert arrival.path.read_bytes() == DATA
    assert [path.name for path in arrival.path.parent.iterdir()] == ["copy"]


def test_file_is_as_large_as_its_segment(tmp_path: Path) -> None:
    arrival = Arrival(tmp_path / "copy", SIZE_BYTES, segment_bytes=3 * CHUNK_BYTES)
    for index in range(3):
        land(arrival, index)
    arrival.finish().close()
    data = (tmp_path / "copy").read_bytes()
    assert len(data) == 3 * CHUNK_BYTES
    assert data[:SIZE_BYTES] == DATA


def test_vacant_file_becomes_the_copy(tmp_path: Path) -> None:
    (tmp_path / "vacant").write_bytes(b"x" * 3 * CHUNK_BYTES)
    number = (tmp_path / "vacant").stat().st_ino
    arrival = Arrival(
        tmp_path / "copy", SIZE_BYTES, segment_bytes=3 * CHUNK_BYTES, over=tmp_path / "vacant"
    )
    for index in range(3):
        land(arrival, index)
    arrival.finish().close()
    assert (tmp_path / "copy").stat().st_ino == number
    assert (tmp_path / "copy").read_bytes()[:SIZE_BYTES] == DATA
    assert not (tmp_path / "vacant").exists()


def test_vacant_file_that_is_gone_is_not_missed(tmp_path: Path) -> None:
    arrival = Arrival(tmp_path / "copy", REST_BYTES, over=tmp_path / "vacant")
    landing = arrival.begin(0, BUFFER)
    take(landing, DATA[:REST_BYTES])
    landing.ended(is_whole=True)
    arrival.finish().close()
    assert (tmp_path / "copy").read_bytes() == DATA[:REST_BYTES]


def test_chunk_that_its_source_lost_is_not_there_and_may_come_again(arrival: Arrival) -> None:
    assert not land(arrival, 1, bytes(CHUNK_BYTES), is_whole=False)
    assert not arrival.has(1)
    assert land(arrival, 1)
    assert arrival.has(1)


def test_chunk_whose_source_broke_off_comes_from_another(arrival: Arrival) -> None:
    landing = arrival.begin(0, BUFFER)
    take(landing, b"x" * 1_000_000)
    landing.give_up()
    assert not landing.is_right
    assert not arrival.has(0)
    assert land(arrival, 0)


def test_chunk_that_comes_twice_at_once_is_what_was_right_first(arrival: Arrival) -> None:
    slow = arrival.begin(0, BUFFER)
    take(slow, b"x" * 1_000_000)
    fast = arrival.begin(0, BUFFER)
    take(fast, CHUNKS[0])
    fast.ended(is_whole=True)
    assert arrival.has(0)
    # What else comes of the first goes nowhere.
    take(slow, b"x" * (CHUNK_BYTES - 1_000_000))
    slow.ended(is_whole=False)
    assert not slow.is_right
    assert arrival.has(0)
    assert land(arrival, 1)
    assert land(arrival, 2)
    arrival.finish()
    assert arrival.path.read_bytes() == DATA


def test_second_of_two_that_is_wrong_changes_nothing(arrival: Arrival) -> None:
    first = arrival.begin(0, BUFFER)
    take(first, CHUNKS[0][:1_000_000])
    second = arrival.begin(0, BUFFER)
    take(second, b"x" * CHUNK_BYTES)
    second.ended(is_whole=False)
    assert not arrival.has(0)
    take(first, CHUNKS[0][1_000_000:])
    first.ended(is_whole=True)
    assert first.is_right
    assert land(arrival, 1)
    assert land(arrival, 2)
    arrival.finish()
    assert arrival.path.read_bytes() == DATA


def test_chunk_that_is_there_is_not_written_again(arrival: Arrival) -> None:
    assert land(arrival, 2)
    land(arrival, 2, b"x" * REST_BYTES)
    assert arrival.has(2)
    buffer = memoryview(bytearray(BUFFER_BYTES))
    assert bytes(arrival.file.read_into(buffer, 2, 0)) == CHUNKS[2][:BUFFER_BYTES]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 400_000)), max_size=60))
def test_parts_of_many_sources_make_the_object(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]]
) -> None:
    """Two sources, two chunks each, in any order; of each chunk one of them has lost some."""
    path = tmp_path_factory.mktemp("arrival") / "copy"
    arrival = Arrival(path, 2 * CHUNK_BYTES)
    landings = [arrival.begin(i // 2, BUFFER) for i in range(4)]
    is_right = [True, False, False, True]
    left = [CHUNKS[0], bytes(CHUNK_BYTES), bytes(CHUNK_BYTES), CHUNKS[1]]
    rest = [(which, CHUNK_BYTES) for which in range(4)]
    for which, size in (*parts, *rest):
        if left[which]:
            take(landings[which], left[which][:size])
            left[which] = left[which][size:]
            if not left[which]:
                landings[which].ended(is_whole=is_right[which])
    assert [landing.is_right for landing in landings] == is_right
    arrival.finish().close()
    assert path.read_bytes() == CHUNKS[0] + CHUNKS[1]


def test_abandoned_arrival_leaves_no_file(arrival: Arrival) -> None:
    land(arrival, 0)
    arrival.abandon()
    assert list(arrival.path.parent.iterdir()) == []


def test_copy_for_which_there_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreFullError, match=r"a copy of 10 bytes cannot be written to .*nowhere"):
        Arrival(tmp_path / "nowhere" / "copy", 10)


def test_copy_that_its_folder_has_no_room_for_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int, size: int) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(StoreFullError, match="File too large"):
        Arrival(tmp_path / "copy", 10)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_gets_full_is_said_and_the_rest_is_removed(
    arrival: Arrival, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(arrival, 0)

    def fail(fd: int, data: object, at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(StoreFullError, match="No space left on device"):
            land(arrival, 1)
    arrival.abandon()
    assert list(arrival.path.parent.iterdir()) == []


def test_short_writes_are_gone_on_with(arrival: Arrival, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:70_000], at))
    for index in range(3):
        assert land(arrival, index)
    arrival.finish()
    assert arrival.path.read_bytes() == DATA


# ------------------------------------------------------------------ what goes


def send(file: ChunkFile, index: int) -> bytes:
    """Send a chunk through a socket that takes little at a time."""
    ours, theirs = socket.socketpair()
    received = bytearray()
    with ours, theirs:
        ours.setblocking(False)
        at = 0
        while at < chunk_bytes(file.size_bytes, index):
            try:
                at += file.send(ours.fileno(), index, at)
            except BlockingIOError:
                received += theirs.recv(1 << 20)
        ours.close()
        while part := theirs.recv(1 << 20):
            received += part
    return bytes(received)


@pytest.mark.parametrize("index", range(3))
def test_chunk_of_a_segment_is_sent(source: ChunkFile, index: int) -> None:
    assert send(source, index) == CHUNKS[index]


def test_chunk_that_has_arrived_is_sent_on_before_the_rest_is_there(arrival: Arrival) -> None:
    land(arrival, 1)
    assert send(arrival.file, 1) == CHUNKS[1]


def test_what_came_can_be_sent_when_it_has_its_name_and_when_it_has_none(arrival: Arrival) -> None:
    for index in range(3):
        land(arrival, index)
    file = arrival.finish()
    arrival.path.unlink()
    assert [send(file, index) for index in range(3)] == CHUNKS


def test_file_that_ends_early_is_said(tmp_path: Path) -> None:
    (tmp_path / "segment").write_bytes(CHUNKS[0][:1000])
    file = ChunkFile.open(tmp_path / "segment", CHUNK_BYTES)
    with pytest.raises(SpillError, match=f"chunk 0 ends {BUFFER_BYTES} bytes too early"):
        file.read_into(BUFFER, 0, 1000)
    with pytest.raises(SpillError, match="chunk 0 ends"):
        send(file, 0)
    file.close()


def test_closed_file_is_not_read(source: ChunkFile) -> None:
    assert not source.closed
    source.close()
    source.close()
    assert source.closed
    for index in range(3):
        with pytest.raises(SpillError, match=f"chunk {index} cannot be read: its file was closed"):
            source.read_into(BUFFER, index, 0)
        with pytest.raises(SpillError, match=f"chunk {index} cannot be read: its file was closed"):
            send(source, index)


def test_disk_that_fails_is_said(source: ChunkFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(SpillError, match=r"chunk 1 cannot be read: .*Input/output error"):
        source.read_into(BUFFER, 1, 0)


def spilled(tmp_path: Path) -> tuple[Path, list[SpillPlace]]:
    (tmp_path / "a").write_bytes(DATA[:5000])
    (tmp_path / "b").write_bytes(DATA)
    sources = [SpillSource(str(tmp_path / "a"), 5000), SpillSource(str(tmp_path / "b"), SIZE_BYTES)]
    places = LocalSpillFiles(str(tmp_path)).write("spill-1", sources)
    return tmp_path / "spill-1", places


def test_spilled_object_is_sent_from_its_file(tmp_path: Path) -> None:
    path, places = spilled(tmp_path)
    file = ChunkFile.open_spilled(path, places[1])
    assert [send(file, index) for index in range(3)] == CHUNKS
    file.close()


def test_spilled_object_that_is_damaged_is_not_sent(tmp_path: Path) -> None:
    path, places = spilled(tmp_path)
    with path.open("r+b") as file:
        file.seek(places[1].offset + CHUNK_BYTES)
        file.write(b"damage")
    with pytest.raises(SpillError, match=r"spill-1 at offset 8192: its .* bytes are damaged"):
        ChunkFile.open_spilled(path, places[1])


def test_spilled_object_that_is_gone_or_cut_is_not_sent(tmp_path: Path) -> None:
    path, places = spilled(tmp_path)
    os.truncate(path, places[1].offset + 100)
    with pytest.raises(SpillError, match=r"ends .* bytes too early"):
        ChunkFile.open_spilled(path, places[1])
    path.unlink()
    with pytest.raises(SpillError, match="No such file"):
        ChunkFile.open_spilled(path, places[1])


def test_segment_that_is_gone_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ChunkFile.open(tmp_path / "segment", 10)
