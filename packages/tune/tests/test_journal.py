from __future__ import annotations

import logging
import os
import resource
import time
from typing import TYPE_CHECKING, Any

import fsspec
import msgspec
import pytest

from weft.tune import _journal
from weft.tune._journal import Header, open_journal, read
from weft.tune._records import JournalEntry, Stopped, TrialEnded
from weft.tune._storage import LocalStorage, Storage, storage_at
from weft.tune.error import ExperimentInUseError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

HEADER = Header("exp", "objective", "abc")


def entry(number: int) -> JournalEntry:
    return JournalEntry(TrialEnded(f"t{number}"), [Stopped(f"t{number}")])


@pytest.fixture(params=["local", "remote"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return LocalStorage(str(tmp_path / "exp"))
    return storage_at(f"{tmp_path.name}/exp", fsspec.filesystem("memory"))


def write(storage: Storage, *numbers: int) -> None:
    journal, past = open_journal(storage)
    if past.header is None:
        journal.begin(HEADER)
    for number in numbers:
        journal.append(entry(number))
    journal.close()
    journal.close()


def test_what_was_appended_is_read_in_its_order(storage: Storage) -> None:
    assert read(storage).header is None
    assert not _journal.is_there(storage)
    write(storage, 1, 2)
    write(storage, 3)
    past = read(storage)
    assert _journal.is_there(storage)
    assert past.header == HEADER
    assert list(past.entries()) == [entry(1), entry(2), entry(3)]
    assert len(past) == 3


def test_journal_that_is_open_cannot_be_opened_again(storage: Storage) -> None:
    journal, _ = open_journal(storage)
    journal.begin(HEADER)
    with pytest.raises(ExperimentInUseError, match="runs the experiment"):
        open_journal(storage)
    assert read(storage).header == HEADER
    journal.close()
    open_journal(storage)[0].close()


@pytest.mark.parametrize("torn", [b'{"event":{"type":"ended","tri', b'{"event":{"ty\n', b"\0\0\0"])
def test_last_record_that_is_torn_is_dropped_and_overwritten(
    tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    storage = LocalStorage(str(tmp_path))
    write(storage, 1, 2)
    with (tmp_path / _journal.FILE).open("ab") as file:
        file.write(torn)
    with caplog.at_level(logging.WARNING, "weft.tune"):
        journal, past = open_journal(storage)
    assert caplog.messages == [
        f"the last record of the journal in {tmp_path} is torn: it is dropped"
    ]
    assert list(past.entries()) == [entry(1), entry(2)]
    journal.append(entry(3))
    journal.close()
    assert list(read(storage).entries()) == [entry(1), entry(2), entry(3)]


def test_header_that_is_torn_was_never_written(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    (tmp_path / _journal.FILE).write_bytes(b'{"experiment":"exp","tra')
    journal, past = open_journal(storage)
    assert past.header is None
    journal.begin(HEADER)
    journal.close()
    assert read(storage).header == HEADER


def test_record_in_the_middle_that_cannot_be_read_is_an_error_with_its_line(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    write(storage, 1, 2)
    path = tmp_path / _journal.FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{}\n" + lines[2])
    with pytest.raises(StorageError, match="line 2 of the journal cannot be read"):
        list(read(storage).entries())


def test_journal_of_another_version_or_of_something_else_is_refused(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    path = tmp_path / _journal.FILE
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(HEADER, journal=99)) + b"\n")
    with pytest.raises(StorageError, match="is of version 99, and this is 1"):
        read(storage)
    path.write_bytes(b"[1, 2]\n")
    with pytest.raises(StorageError, match="cannot be read"):
        open_journal(storage)
    # And it is not locked then.
    path.unlink()
    open_journal(storage)[0].close()


def test_journal_on_a_full_disk_is_an_error_and_what_was_written_stays(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    write(storage, 1)
    size = (tmp_path / _journal.FILE).stat().st_size
    journal, _ = open_journal(storage)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"journal\.jsonl cannot be written"):
            journal.append(entry(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.close()
    assert list(read(storage).entries()) == [entry(1)]
    write(storage, 2)
    assert list(read(storage).entries()) == [entry(1), entry(2)]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_directory_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written"):
        open_journal(LocalStorage(str(tmp_path / "exp")))


# ------------------------------------------------------------------ on an object store


@pytest.fixture
def remote(tmp_path: Path) -> Storage:
    return storage_at(f"{tmp_path.name}/exp", fsspec.filesystem("memory"))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_segments_are_written_every_second_and_begin_anew_when_they_are_full(
    remote: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(_journal, "SEGMENT_BYTES", 200)
    journal, _ = open_journal(remote)
    journal.begin(HEADER)
    for number in range(6):
        journal.append(entry(number))
        journal.flush()
    assert len(read(remote)) == 0
    clock.now += 1.1
    journal.flush()
    assert len(read(remote)) == 6
    assert len(remote.join("journal").names()) == 1
    journal.append(entry(6))
    clock.now += 1.1
    journal.flush()
    assert len(remote.join("journal").names()) == 2
    journal.append(entry(7))
    journal.close()
    assert [e.event for e in read(remote).entries()] == [entry(n).event for n in range(8)]
    assert remote.names() == ["journal"]


def test_lease_is_renewed_and_one_that_is_not_ends(
    remote: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, wall = Clock(), Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(time, "time", wall)
    journal, _ = open_journal(remote)
    journal.begin(HEADER)
    for _ in range(5):
        clock.now += 20
        wall.now += 20
        journal.flush()
    with pytest.raises(ExperimentInUseError, match=r"process \d+ on .* if it was killed"):
        open_journal(remote)
    wall.now += 61
    other, past = open_journal(remote)
    assert past.header == HEADER
    other.close()


def test_segment_that_was_torn_by_hand_is_mended(remote: Storage) -> None:
    write(remote, 1, 2)
    segments = remote.join("journal")
    (name,) = segments.names()
    segments.write(name, segments.read(name)[:-5])
    write(remote, 3)
    assert list(read(remote).entries()) == [entry(1), entry(3)]


def test_object_store_that_fails_is_said(remote: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = open_journal(remote)
    journal.begin(HEADER)
    journal.append(entry(1))

    def full(*args: Any) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(remote, "write", full)
    with pytest.raises(StorageError, match="no space left"):
        journal.close()
    monkeypatch.undo()
    remote.remove("journal.lease")
