"""Drivers that are killed at random moments, and started again until the experiment is through."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from weft.tune import _journal
from weft.tune._archive import Archive
from weft.tune._records import Failed, Reported, TrialEnded
from weft.tune._storage import LocalStorage

HERE = Path(__file__).parent
# So many at least; WEFT_TUNE_KILLS=50 takes minutes.
KILLS = int(os.environ.get("WEFT_TUNE_KILLS", "6"))

pytestmark = pytest.mark.slow


def run(directory: Path, after_s: float) -> bool:
    """Run the program; returns whether it came to its end."""
    done = subprocess.run(
        [sys.executable, HERE / "killed_experiment.py", directory, str(after_s)],
        check=False, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode in {0, -9}, done.stderr
    return done.returncode == 0


def ended(directory: Path) -> set[str]:
    """Return the trials whose ends are in the journal."""
    past = _journal.read(LocalStorage(str(directory / "killed")))
    return {
        entry.event.trial_id
        for entry in past.entries()
        if isinstance(entry.event, TrialEnded)
        or (isinstance(entry.event, Reported) and entry.decided)
    }


def started(directory: Path) -> Counter[str]:
    log = directory / "log"
    return Counter(log.read_text().split() if log.exists() else ())


def check(directory: Path) -> tuple[list[object], object]:
    """See that each trial is there once and whole; return configurations and the best."""
    archive = Archive.of(LocalStorage(str(directory / "killed")))
    assert len(archive.runs) == 24
    assert {run.status for run in archive.runs} == {"TERMINATED"}
    for trial in archive.runs:
        iterations = [result["training_iteration"] for result in archive.results(trial)]
        # What came after the last checkpoint that was written down is done again, and nothing else.
        assert sorted(set(iterations)) == [1, 2, 3, 4]
        assert iterations == sorted(iterations)
        checkpoint = archive.checkpoint(trial)
        assert checkpoint is not None
        with checkpoint.as_directory() as folder:
            assert Path(folder, "step").read_text() == "4"
    assert not any(
        isinstance(entry.event, Failed) for entry in _journal.read(archive.storage).entries()
    )
    best = archive.best("loss", "min", "last", finite_only=True)
    assert best is not None
    configs = [{**archive.config(trial), "log": ""} for trial in archive.runs]
    return [config["x"] for config in configs], archive.config(best)["x"]


def test_killed_driver_repeats_no_finished_trial_loses_none_and_finds_the_same_best(
    tmp_path: Path,
) -> None:
    random = Random(5)
    whole = tmp_path / "whole"
    assert run(whole, 0)
    expected = check(whole)
    kills, number = 0, 0
    while kills < KILLS:
        number += 1
        directory = tmp_path / f"killed-{number}"
        directory.mkdir()
        while True:
            before, begun = (
                (ended(directory), started(directory)) if (directory / "killed").exists()
                else (set[str](), Counter[str]())
            )  # fmt: skip
            is_through = run(directory, random.uniform(0.02, 0.6) if kills < KILLS else 0)
            after = started(directory)
            assert all(after[trial_id] == begun[trial_id] for trial_id in before)
            if is_through:
                break
            kills += 1
        assert check(directory) == expected
