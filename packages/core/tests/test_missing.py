from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from weft import _missing

if TYPE_CHECKING:
    from pathlib import Path

# For a process of its own, in which the package `weft` has only the folder given: no library, or a
# made-up one.
PROLOGUE = """
import sys
import weft
from weft import _missing
_missing.install()
weft.__path__ = sys.argv[1:]
"""


def run(program: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROLOGUE + program, *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "import weft.data",
        "import weft.data.blocks",
        "from weft import data",
        "from weft.data import read_csv",
        "weft.data",
    ],
)
def test_library_that_is_not_installed_is_named_with_its_distribution(program: str) -> None:
    ended = run(program)
    message = ended.stderr.splitlines()[-1]
    assert message == "ModuleNotFoundError: weft.data is not installed: pip install weft-data"


@pytest.mark.slow
@pytest.mark.parametrize("program", ["import weft.data", "from weft import data", "weft.data"])
def test_library_that_is_installed_is_loaded(program: str, tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("print('loaded')\n")
    ended = run(program, tmp_path)
    assert (ended.stdout, ended.stderr) == ("loaded\n", "")


@pytest.mark.slow
def test_error_inside_an_installed_library_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("import no_such_module\n")
    ended = run("from weft import data", tmp_path)
    assert ended.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'no_such_module'"


@pytest.mark.slow
def test_install_twice_changes_nothing() -> None:
    ended = run("before = list(sys.meta_path); _missing.install(); print(sys.meta_path == before)")
    assert ended.stdout == "True\n"


@pytest.mark.parametrize(("library", "distribution"), sorted(_missing.DISTRIBUTION_OF.items()))
def test_finder_knows_every_library(library: str, distribution: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=f"pip install {distribution}$") as caught:
        _missing.LibraryFinder.find_spec(f"weft.{library}")
    assert caught.value.name == f"weft.{library}"


@pytest.mark.parametrize("name", ["data", "weft", "weft.dat", "weft.data.blocks", "other.data"])
def test_finder_leaves_other_names_alone(name: str) -> None:
    assert _missing.LibraryFinder.find_spec(name) is None


@pytest.mark.slow
def test_other_names_fail_as_in_any_module() -> None:
    ended = run("weft.dat")
    assert ended.stderr.splitlines()[-1] == "AttributeError: module 'weft' has no attribute 'dat'"
    ended = run("import weft.dat")
    assert ended.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'weft.dat'"
