"""The benchmarks run, and tell all that they should."""

from __future__ import annotations

import importlib
import json
import random
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
    "tune": ["fifo", "asha", "suggestion"],
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
    if name == "tune":
        pytest.importorskip("optuna")
        pytest.importorskip("joblib")
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


def test_comparison_tells_what_was_found_from_each_seed(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    file = tmp_path / "tune.json"
    completed = run("tune", "--no-ray", "--rounds", "1", "--json", str(file), "--only", "digits")
    assert completed.returncode == 0, completed.stderr
    results = json.loads(file.read_text())
    assert not results["rows"]
    (found,) = results["comparisons"]
    assert (found["p"], found["no_worse"], found["failures"]) == (None, None, [])
    table = json.loads((BENCHMARKS / "_tune_digits.json").read_text())
    for losses in found["losses"].values():
        assert len(losses) == 20
        assert set(losses) <= set(table["losses"])
    assert sum(found["losses"]["weft"]) < sum(found["losses"]["random"])
    (line,) = re.findall(r"^networks on digits.*", completed.stdout, re.MULTILINE)
    assert re.fullmatch(r"networks on digits, recorded +0\.07\d* +- +0\.07\d* +- +-", line)


def test_recorded_table_has_a_loss_for_each_point_of_its_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    digits = importlib.import_module("_tune_digits")
    sizes = [len(values) for values in digits.GRID.values()]
    assert len(digits.losses()) == 1152
    last = {name: size - 1 for name, size in zip(digits.GRID, sizes, strict=True)}
    assert digits.loss_of(dict.fromkeys(digits.GRID, 0)) == digits.losses()[0]
    assert digits.loss_of(last) == digits.losses()[-1]
    assert digits.loss_of({**last, "alpha": 0}) == digits.losses()[-4]


def test_recorded_loss_is_what_training_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    digits = importlib.import_module("_tune_digits")
    places = {
        "hidden_layer_sizes": 1,
        "activation": 0,
        "batch_size": 3,
        "learning_rate_init": 4,
        "alpha": 2,
    }
    parameters = {name: digits.GRID[name][place] for name, place in places.items()}
    images, labels = digits.shuffled()
    # Libraries for linear algebra differ in the last digits, which 20 epochs make larger.
    assert digits.trained_loss(images, labels, **parameters) == pytest.approx(
        digits.loss_of(places), rel=0.2
    )


def test_probability_of_losses_so_much_larger_is_that_of_wilcoxon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stats = pytest.importorskip("scipy.stats")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    probability = importlib.import_module("_comparisons").probability
    draws = random.Random(3)
    for shift in (-1.0, 0.0, 0.4, 1.0):
        theirs = [draws.gauss(0, 1) for _ in range(20)]
        ours = [value + draws.gauss(shift, 1) for value in theirs]
        wanted = stats.wilcoxon(ours, theirs, alternative="greater", method="exact").pvalue
        assert probability(ours, theirs) == pytest.approx(wanted)
    assert probability([1, 2], [1, 2]) == 1
    # Ties share their rank: of the 8 ways to sign 1.5, 1.5 and 3, two come to 4.5 or more, and one
    # of them to 6.
    assert probability([1, 1, 0], [0, 0, 2]) == 5 / 8


def test_row_that_ray_has_nothing_like_is_not_asked_of_it_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    rows = importlib.import_module("_cluster_rows")
    suite = importlib.import_module("_suite").Suite("cluster", rows.ROWS, rows.FLOORS, 3)
    asked = {
        (program.function, program.system)
        for group in suite._groups(rows.ROWS, ["weft", "ray"])
        for program in group
    }
    for row in rows.ROWS:
        assert callable(getattr(importlib.import_module(row.module), row.key))
        assert (row.key, "weft") in asked
        assert ((row.key, "ray") in asked) is not row.is_ours
        assert row.note or not row.is_ours


def test_notes_stand_beneath_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    section = importlib.import_module("_report").section
    row = {
        "what": "a node stands still", "unit": "s", "higher_is_better": False, "ray": None,
        "weft": 5.0, "ratio": None, "floors": [], "target": 6, "met": True,
    }  # fmt: skip
    results = {
        "date": "2026-11-21", "versions": {}, "rounds": 3, "seconds": 2.0,
        "machine": {
            "cpu": "one", "cores": 2, "memory_gib": 8, "kernel": "6", "load_at_start": 0.1
        },
        "rows": [{**row, "note": "Ray has none."}, {**row, "note": ""}],
    }  # fmt: skip
    _, _, table, *notes = section(results).split("\n\n")
    assert table.count("a node stands still") == 2
    assert notes == ["A node stands still: Ray has none."]


def test_chunks_are_measured_beside_a_plain_sendfile() -> None:
    completed = run("transfers", "8", "1")
    assert completed.returncode == 0, completed.stderr
    head, floor, *variants = completed.stdout.splitlines()
    assert "of floor" in head
    assert "100%" in floor
    assert len(variants) == 6
    assert all("%" in line for line in variants)


@pytest.mark.timeout(300)
def test_scale_is_measured_for_each_number_of_nodes(tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    completed = run("scale", "--nodes", "1", "8", "--seconds", "0.01", "--json", str(file))
    assert completed.returncode == 0, completed.stderr
    lines = completed.stdout.splitlines()
    assert lines[0].split() == ["decisions,", "per", "s", "1", "8"]
    assert lines[-1].startswith("simulated schedules with faults")
    found = json.loads(file.read_text())
    assert found["schedules"] > 0
    decisions, tables, process, secure, cluster = found["tables"].values()
    measured = {re.split("  +", line)[0] for line in lines}
    assert measured > {*decisions, *tables, *process, *secure, *cluster}
    assert all(rates["8"] > 0 for rates in decisions.values())
    assert "1" not in decisions["placement groups, STRICT_SPREAD of 8"]
    assert all(rates["8"] > 0 for what, rates in tables.items() if what.endswith("per s"))
    for each in (process, secure):
        assert each["heartbeats answered, per s"]["8"] > 0
        assert each["memory, MB"]["1"] > 10
        assert each["nodes that were taken for dead"]["8"] == 0
    assert cluster["the same, processor s"]["8"] > 0
