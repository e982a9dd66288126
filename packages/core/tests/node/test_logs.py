"""Log files of workers: bounded, whatever is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from weft._launch import LOGS
from weft._node import logs
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
