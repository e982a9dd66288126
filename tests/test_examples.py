"""The examples do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.mark.slow
def test_census_finds_what_a_loop_finds_though_a_worker_is_killed() -> None:
    pytest.importorskip("numpy")
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / "census.py")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert ended.returncode == 0, ended.stderr
    assert "the numbers are the same: True" in ended.stdout
    assert re.search(r"a worker was killed; .* run again: \S+\.py", ended.stdout)
    assert re.search(r"[\d.]+ times as fast", ended.stdout)
    # Nothing is said beside: no bar without a terminal, no line of Weft's own.
    assert ended.stderr == ""


def test_census_is_a_page() -> None:
    assert len((EXAMPLES / "census.py").read_text(encoding="utf-8").splitlines()) < 120
