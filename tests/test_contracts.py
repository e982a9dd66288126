"""Each import contract catches what it is there for: a check that cannot fail is no check."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
CONTRACTS = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"][
    "contracts"
]
NAME_OF = {contract["id"]: contract["name"] for contract in CONTRACTS}
# Every module that the contracts know, as a package, so that a test can put a file into it.
MODULES = [
    name
    for layer in next(contract["layers"] for contract in CONTRACTS if contract["id"] == "layers")
    for name in re.findall(r"\w+", layer)
]


def broken(root: Path, files: dict[str, str]) -> set[str]:
    """Lint a tree of empty modules with some files added; return the names of broken contracts."""
    for module in ["", *MODULES]:
        folder = root / "weft" / module
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
    for path, text in files.items():
        (root / "weft" / path).write_text(text + "\n")
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    options = ["--config", str(PYPROJECT), "--no-cache", "--no-logo"]
    ended = subprocess.run(
        [sys.executable, "-c", lint, *options],
        cwd=root,
        env={"PYTHONPATH": str(root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    results = re.findall(r"^(.+) (KEPT|BROKEN)", ended.stdout, re.MULTILINE)
    assert {name for name, _ in results} == set(NAME_OF.values()), ended.stdout + ended.stderr
    found = {name for name, result in results if result == "BROKEN"}
    assert ended.returncode == bool(found)
    return found


@pytest.mark.slow
def test_tree_that_keeps_every_contract_passes(tmp_path: Path) -> None:
    files = {
        "_machines/leases.py": "from weft._specs import x\nfrom weft._ids import y",
        "_wire/frame.py": "import struct\nfrom weft.exceptions import z",
        "_clock/real.py": "import time",
        "_api/tasks.py": "from weft import _engine",
        "data/read.py": "from weft import lowlevel",
        "_refs/late.py": (
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n"
            "    from weft._engine import Engine"
        ),
    }
    assert broken(tmp_path, files) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contract", "files"),
    [
        pytest.param("layers", {"_wire/codec.py": "import weft._runtime"}, id="upwards"),
        pytest.param("layers", {"_node/daemon.py": "import weft._runtime"}, id="sideways"),
        pytest.param("layers", {"_machines/tasks.py": "import weft._env"}, id="rules-to-adapter"),
        pytest.param("layers", {"utils.py": ""}, id="module-without-a-layer"),
        pytest.param(
            "layers", {"_ids/new.py": "def f():\n    import weft._api"}, id="inside-a-function"
        ),
        pytest.param("layers", {"train/eat.py": "import weft.data"}, id="library-to-library"),
        pytest.param("private", {"data/read.py": "import weft._api"}, id="library-to-private"),
        pytest.param("pure-machines", {"_machines/leases.py": "import time"}, id="clock"),
        pytest.param(
            "pure-machines", {"_machines/leases.py": "import weft._clock"}, id="our-clock"
        ),
        pytest.param("pure-machines", {"_machines/leases.py": "import weft._log"}, id="log"),
        pytest.param("pure-machines", {"_machines/tasks.py": "import asyncio.tasks"}, id="loop"),
        pytest.param("silent-wire", {"_wire/codec.py": "from socket import socket"}, id="socket"),
        pytest.param(
            "no-cycles",
            {"_node/pull.py": "import weft._node.push", "_node/push.py": "import weft._node.pull"},
            id="cycle",
        ),
    ],
)
def test_violation_is_caught(contract: str, files: dict[str, str], tmp_path: Path) -> None:
    assert NAME_OF[contract] in broken(tmp_path, files)
