"""The examples do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


PROGRAMS = ["census.py", "tune_sklearn.py"]


def run(program: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / program)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert ended.returncode == 0, ended.stderr
    return ended


@pytest.mark.slow
def test_census_finds_what_a_loop_finds_though_a_worker_is_killed() -> None:
    pytest.importorskip("numpy")
    ended = run("census.py")
    assert "the numbers are the same: True" in ended.stdout
    assert re.search(r"a worker was killed; .* run again: \S+\.py", ended.stdout)
    assert re.search(r"[\d.]+ times as fast", ended.stdout)
    # Nothing is said beside: no bar without a terminal, no line of Weft's own.
    assert ended.stderr == ""


@pytest.mark.slow
def test_tuning_goes_on_where_it_was_killed_and_finds_a_network_that_reads_digits() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("optuna")
    ended = run("tune_sklearn.py")
    before, killed, after = ended.stdout.partition("killed after ")
    assert killed
    trial = re.compile(r"^trial (\w+): +[\d.]+%, +\d+ epochs$", re.MULTILINE)
    first, second = trial.findall(before), trial.findall(after)
    assert len(first) >= 20
    # One that ended as the program was killed may have had no time to say so.
    assert 58 <= len({*first, *second}) == len(first) + len(second) <= 60
    assert "run again: 0" in after
    whole = re.search(r"^60 trials, (\d+) of 1620 epochs$", after, re.MULTILINE)
    assert whole
    assert int(whole[1]) < 1620 / 2, "ASHA ends most trials early"
    reads = re.search(r"^it reads ([\d.]+)% of digits that it never saw$", after, re.MULTILINE)
    assert reads
    assert float(reads[1]) > 90
    drawn = re.search(r"is drawn in (\S+)$", after, re.MULTILINE)
    if drawn:
        assert Path(drawn[1]).read_bytes().startswith(b"\x89PNG")
    assert ended.stderr == ""


@pytest.mark.parametrize("program", PROGRAMS)
def test_example_is_a_page(program: str) -> None:
    assert len((EXAMPLES / program).read_text(encoding="utf-8").splitlines()) < 120
