"""Ctrl-C while an experiment runs."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from weft.tune import _journal
from weft.tune._archive import Archive
from weft.tune._storage import LocalStorage

HERE = Path(__file__).parent

pytestmark = pytest.mark.slow


def begun(directory: Path, kind: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, HERE / "interrupted_experiment.py", directory, kind],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_once_saves_what_runs_and_says_how_to_go_on(tmp_path: Path) -> None:
    program = begun(tmp_path, "once")
    _, said = program.communicate(timeout=60)
    assert program.returncode != 0
    assert "to go on: start the same program again, with the name 'interrupted'" in said
    archive = Archive.of(LocalStorage(str(tmp_path / "interrupted")))
    saved = archive.checkpoint(archive.runs[0])
    assert saved is not None
    assert Path(saved.path, "count").read_text() == "3"
    again = begun(tmp_path, "once")
    _, said = again.communicate(timeout=60)
    assert again.returncode == 0, said
    archive = Archive.of(LocalStorage(str(tmp_path / "interrupted")))
    assert [result["loss"] for result in archive.results(archive.runs[0])] == [1, 2, 3, 4, 5, 6]


def test_twice_ends_at_once(tmp_path: Path) -> None:
    program = begun(tmp_path, "twice")
    assert program.stderr is not None
    for line in program.stderr:
        if "Ctrl-C again" in line:
            break
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=20)
    assert program.returncode != 0
    past = _journal.read(LocalStorage(str(tmp_path / "interrupted")))
    assert len(list(past.entries())) == 3
