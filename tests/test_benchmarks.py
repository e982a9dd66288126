"""The benchmarks run, and tell all that they should."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from release import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

BENCHMARKS = REPOSITORY / "benchmarks"
QUICK = {
    "core": ["init_s", "get_small", "tasks_async", "shutdown_s"],
    "objects": ["put_small", "small_put_and_freed", "shared_with_readers", "restore_cold"],
}


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=QUICK)
def ended(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, dict[str, Any]]:
    """The name of a benchmark, what it said, and what it wrote."""
    name: str = request.param
    file: Path = tmp_path_factory.mktemp("results") / "deeper" / f"{name}.json"
    brief = ["--rounds", "1", "--seconds", "0.05", "--no-ray", "--json", str(file)]
    completed = run(name, *brief, "--only", *QUICK[name])
    assert completed.returncode == 0, completed.stderr
    return name, completed.stdout, json.loads(file.read_text())


def test_table_has_a_line_for_each_row_with_weft_floor_target_and_verdict(
    ended: tuple[str, str, dict[str, Any]],
) -> None:
    _, said, results = ended
    assert "failed" not in said
    head, *lines = said.splitlines()
    assert head.split() == ["what", "Ray", "Weft", "ratio", "floor", "target", "met"]
    for row, line in zip(results["rows"], lines, strict=False):
        what, ray, weft, ratio, floor, target, met = re.split("  +", line)
        assert what == row["what"]
        assert (ray, ratio) == ("-", "-"), "Ray was not measured"
        assert weft[0].isdecimal()
        assert row["floors"][0]["words"] in floor
        assert target[0] in "≤≥"
        assert met in {"yes", "no"}


def test_json_has_every_value_and_where_it_was_measured(
    ended: tuple[str, str, dict[str, Any]],
) -> None:
    name, _, results = ended
    assert [row["key"] for row in results["rows"]] == QUICK[name]
    for row in results["rows"]:
        assert row["weft_values"] == [row["weft"]]
        assert row["weft"] > 0
        assert not row["failures"]
        assert all(floor["value"] > 0 for floor in row["floors"])
    assert set(results["machine"]) == {"cpu", "cores", "memory_gib", "kernel", "load_at_start"}
    assert {"python", "weft-core"} <= set(results["versions"])
    assert results["rounds"] == 1


@pytest.mark.parametrize("name", QUICK)
def test_pages_are_written_only_from_a_whole_run_with_ray(name: str) -> None:
    completed = run(name, "--write", "--no-ray")
    assert completed.returncode == 2
    assert "--write takes all rows" in completed.stderr


@pytest.mark.parametrize("name", QUICK)
def test_page_of_results_has_a_place_for_each_benchmark(name: str) -> None:
    page = (BENCHMARKS / "RESULTS.md").read_text()
    begin = page.index(f"<!-- {name}: written by ./dev bench {name} --write -->")
    assert page.index(f"<!-- {name}: end -->") > begin
