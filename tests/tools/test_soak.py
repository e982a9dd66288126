from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import soak
from release import REPOSITORY

if TYPE_CHECKING:
    from soak_watch import Sample


def samples(values: list[float]) -> list[Sample]:
    return [{"driver, MB": value} for value in values]


def test_memory_that_grows_is_told_with_both_medians() -> None:
    assert soak.judge(samples([100.0 + number for number in range(100)])) == [
        "driver, MB: 129.5 has become 189.5"
    ]


def test_growth_while_it_warms_up_counts_for_nothing() -> None:
    assert soak.judge(samples([10.0] * 20 + [500.0] * 80)) == []


@pytest.mark.parametrize(("first", "last"), [(30.0, 49.0), (1000.0, 1099.0), (500.0, 10.0)])
def test_what_stays_within_20_or_a_tenth_is_flat(first: float, last: float) -> None:
    assert soak.is_flat(first, last)


@pytest.mark.parametrize(("first", "last"), [(30.0, 51.0), (1000.0, 1101.0)])
def test_what_becomes_more_than_that_is_not_flat(first: float, last: float) -> None:
    assert not soak.is_flat(first, last)


@pytest.mark.slow
def test_ten_seconds_of_random_work_leave_nothing() -> None:
    command = [sys.executable, str(REPOSITORY / "tools" / "soak.py"), "--minutes", "0.17"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.match(r"seed \d+\n", ended.stdout)
    assert "nothing was wrong" in ended.stdout
    assert re.search(r"^workers, MB +\d", ended.stdout, re.MULTILINE)
    assert re.search(r"^done: .*\bkill_worker \d", ended.stdout, re.MULTILINE)
