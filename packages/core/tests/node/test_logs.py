"""Log files of workers: bounded, whatever is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from weft._launch import LOG_FILE, LOGS
from weft._node import log_files, logs
from weft._node.logs import WorkerLogs
from weft.util.state._logs import LogFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 100)
    monkeypatch.setattr(logs, "TOTAL_BYTES", 400)


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (folder / LOGS).iterdir()}


def test_nothing_is_there_before_something_is_written(tmp_path: Path) -> None:
    WorkerLogs(str(tmp_path)).ended(b"a")
    assert not (tmp_path / LOGS).exists()


def test_file_that_is_full_is_kept_beside_a_new_one(tmp_path: Path) -> None:
    kept = WorkerLogs(str(tmp_path))
    for number in range(5):
        kept.write(b"a", b"%d" % number * 60, is_stderr=False)
    assert sizes(tmp_path) == {"worker-61.out": 60, "worker-61.out.1": 60}
    with LogFile(tmp_path / LOGS / "worker-61.out") as log:
        assert log.tail(-1) == b"3" * 60 + b"4" * 60


def test_all_files_together_are_bounded_and_the_oldest_dead_go_first(tmp_path: Path) -> None:
    kept = WorkerLogs(str(tmp_path))
    for name in (b"a", b"b", b"c"):
        kept.write(name, b"x" * 90, is_stderr=True)
    kept.ended(b"b")
    kept.ended(b"a")
    kept.write(b"d", b"x" * 90, is_stderr=True)
    kept.write(b"c", b"x" * 90, is_stderr=True)
    assert set(sizes(tmp_path)) == {
        "worker-61.err",
        "worker-63.err",
        "worker-63.err.1",
        "worker-64.err",
    }
    for number in range(50):
        kept.write(bytes([number]), b"x" * 90, is_stderr=False)
        assert sum(sizes(tmp_path).values()) <= 400


def test_files_of_ended_workers_are_bounded_in_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FILES", 3)
    kept = WorkerLogs(str(tmp_path))
    kept.write(b"0", b"x", is_stderr=False)
    for number in range(1, 9):
        kept.write(b"%d" % number, b"x", is_stderr=False)
        kept.ended(b"%d" % number)
    assert set(sizes(tmp_path)) == {f"worker-{name}.out" for name in ("30", "36", "37", "38")}


def test_what_a_child_writes_after_its_worker_is_kept(tmp_path: Path) -> None:
    kept = WorkerLogs(str(tmp_path))
    kept.write(b"a", b"before\n", is_stderr=False)
    kept.ended(b"a")
    kept.write(b"a", b"after\n", is_stderr=False)
    with LogFile(tmp_path / LOGS / "worker-61.out") as log:
        assert log.tail(-1) == b"before\nafter\n"


def test_file_that_cannot_be_written_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / LOGS).write_text("in the way")
    WorkerLogs(str(tmp_path)).write(b"a", b"lost", is_stderr=False)


def test_who_follows_a_file_reads_over_its_turn(tmp_path: Path) -> None:
    kept = WorkerLogs(str(tmp_path))
    path = tmp_path / LOGS / "worker-61.out"
    with LogFile(path) as log:
        assert log.tail(10) == log.more() == b""
        kept.write(b"a", b"one\ntwo\n", is_stderr=False)
        assert log.more() == b"one\ntwo\n"
        kept.write(b"a", b"x" * 90, is_stderr=False)
        kept.write(b"a", b"y" * 90, is_stderr=False)
        assert log.more() == b"x" * 90 + b"y" * 90
        assert log.more() == b""
    with LogFile(path) as log:
        assert log.tail(1)[-90:] == b"y" * 90


def test_who_follows_a_file_reads_its_rest_though_it_is_removed(tmp_path: Path) -> None:
    kept = WorkerLogs(str(tmp_path))
    kept.write(b"a", b"one\n", is_stderr=False)
    path = tmp_path / LOGS / "worker-61.out"
    with LogFile(path) as log:
        assert log.tail(-1) == b"one\n"
        kept.write(b"a", b"two\n", is_stderr=False)
        path.unlink()
        assert log.more() == b"two\n"
        assert log.more() == b""


# ------------------------------------------------------------------ as a daemon reads for others


def test_log_is_read_from_a_place_over_its_turn(tmp_path: Path) -> None:
    kept = WorkerLogs(str(tmp_path))
    path = tmp_path / LOGS / "worker-61.out"
    part = log_files.read_tail(path, 10)
    assert part.data == log_files.read_more(path, part.place).data == b""
    kept.write(b"a", b"one\ntwo\n", is_stderr=False)
    part = log_files.read_more(path, part.place)
    assert part.data == b"one\ntwo\n"
    kept.write(b"a", b"x" * 90, is_stderr=False)
    kept.write(b"a", b"y" * 90, is_stderr=False)
    read = b""
    while (part := log_files.read_more(path, part.place)).data:
        read += part.data
    assert read == b"x" * 90 + b"y" * 90


def test_last_lines_of_a_log_are_those_of_both_its_files(tmp_path: Path) -> None:
    kept = WorkerLogs(str(tmp_path))
    path = tmp_path / LOGS / "worker-61.out"
    kept.write(b"a", b"one\n" * 20, is_stderr=False)
    kept.write(b"a", b"two\n" * 10, is_stderr=False)
    part = log_files.read_tail(path, 11)
    assert part.data == b"one\n" + b"two\n" * 10
    assert log_files.read_more(path, part.place).data == b""
    assert log_files.read_tail(path, 0).data == b""
    assert log_files.read_tail(path, -1).data == b"one\n" * 20 + b"two\n" * 10


def test_parts_of_a_log_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "PART_BYTES", 10)
    log = tmp_path / LOG_FILE
    log.write_bytes(b"0123456789abcdefghijklm")
    assert log_files.read_tail(log, -1).data == b"defghijklm"
    place = log_files.LogPlace(log.stat().st_ino, 0)
    read = []
    while (part := log_files.read_more(log, place)).data:
        place = part.place
        read.append(part.data)
    assert read == [b"0123456789", b"abcdefghij", b"klm"]


@pytest.mark.parametrize(
    "name", ["../daemon.log", "worker-/../../x", "", ".", "other", "/etc/passwd"]
)
def test_nothing_but_logs_can_be_asked_for(tmp_path: Path, name: str) -> None:
    assert log_files.path_of(str(tmp_path), name) is None


def test_sizes_of_logs_are_told_by_name(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_text("began")
    assert log_files.sizes(str(tmp_path)) == {LOG_FILE: 5}
    WorkerLogs(str(tmp_path)).write(b"a", b"one\n", is_stderr=True)
    assert log_files.sizes(str(tmp_path)) == {LOG_FILE: 5, "worker-61.err": 4}
