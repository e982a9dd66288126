"""The wheel of weft-core alone, in an environment that has nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from release import REPOSITORY, version_of

if TYPE_CHECKING:
    from pathlib import Path

CORE = REPOSITORY / "packages" / "core"
VERSION = version_of(CORE)

PROGRAM = """
import weft


@weft.remote
def double(x):
    return 2 * x


@weft.remote
class Total:
    def __init__(self):
        self.total = 0

    def add(self, x):
        self.total += x
        return self.total


weft.init(num_cpus=2)
total = Total.remote()
for x in weft.get([double.remote(i) for i in range(5)]):
    last = total.add.remote(x)
print(weft.get(last))
weft.shutdown()
"""


def run(*command: str | Path, cwd: Path) -> str:
    ended = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=CORE)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    constraints = REPOSITORY / "constraints.txt"
    run(folder / "bin" / "pip", "install", "-c", constraints, wheel, cwd=folder)
    return folder


def test_wheel_holds_the_package_its_types_mark_and_its_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    facts = f"weft_core-{VERSION}.dist-info"
    assert {name.split("/")[0] for name in names} == {"weft", facts}
    assert {"weft/__init__.py", "weft/py.typed", f"{facts}/licenses/LICENSE"} <= names


def test_wheel_brings_four_distributions_and_no_more(environment: Path) -> None:
    frozen = run(environment / "bin" / "pip", "list", "--format", "freeze", cwd=environment)
    installed = {line.split("==")[0].lower() for line in frozen.splitlines()}
    needed = {"click", "cloudpickle", "msgspec", "psutil"}
    assert installed - {"pip", "setuptools", "wheel"} == {"weft-core", *needed}


def test_task_and_actor_run(environment: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert run(environment / "bin" / "python", program, cwd=tmp_path) == "20\n"


def test_command_tells_its_version(environment: Path, tmp_path: Path) -> None:
    assert VERSION in run(environment / "bin" / "weft", "--version", cwd=tmp_path)


def test_missing_library_is_named_with_its_distribution(environment: Path, tmp_path: Path) -> None:
    command = [environment / "bin" / "python", "-c", "import weft.data"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.stderr.splitlines()[-1].endswith("pip install weft-data")
