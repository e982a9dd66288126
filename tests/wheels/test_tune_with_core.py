"""The wheels of weft-core and weft-tune, in an environment that has nothing else."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from release import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
from weft import tune


def objective(config):
    tune.report({"score": (config["x"] - 1) ** 2})


tuner = tune.Tuner(
    objective,
    param_space={"x": tune.grid_search([0, 1, 2])},
    tune_config=tune.TuneConfig(metric="score", mode="min"),
    run_config=tune.RunConfig(name="wheels", storage_path="results", verbose=0),
)
print(tuner.fit().get_best_result().config)
"""


def run(*command: str | Path, cwd: Path) -> str:
    ended = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    for package in ("core", "tune"):
        source = REPOSITORY / "packages" / package
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    constraints = REPOSITORY / "constraints.txt"
    wheels = sorted(folder.glob("*.whl"))
    run(folder / "venv/bin/pip", "install", "-c", constraints, *wheels, cwd=folder)
    return folder / "venv"


def test_tune_brings_pyarrow_and_nothing_else(environment: Path) -> None:
    frozen = run(environment / "bin" / "pip", "list", "--format", "freeze", cwd=environment)
    installed = {line.split("==")[0].lower() for line in frozen.splitlines()}
    of_core = {"click", "cloudpickle", "msgspec", "psutil", "weft-core"}
    assert installed - {"pip", "setuptools", "wheel"} - of_core == {"pyarrow", "weft-tune"}


def test_experiment_runs(environment: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert run(environment / "bin" / "python", program, cwd=tmp_path) == "{'x': 1}\n"
