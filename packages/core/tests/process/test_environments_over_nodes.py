"""Runtime environments on nodes that share no files with the driver's.

Each node has a cache of its own, as on a machine of its own, and what the driver has named is moved
away before any other node can have looked at it: what is found there has come from node to node.
"""

from __future__ import annotations

import importlib
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.cluster_utils import Cluster, ClusterNode
from weft.exceptions import EnvSetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow
PATIENCE_S = 30.0


class Machines:
    """A cluster whose nodes have temporary directories of their own."""

    def __init__(self, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.short = short
        self.monkeypatch = monkeypatch
        self.cluster = Cluster()
        self.add("head")

    def add(self, name: str) -> ClusterNode:
        with self.monkeypatch.context() as patch:
            patch.setenv("WEFT_TEMP_DIR", str(self.short / name))
            return self.cluster.add_node(num_cpus=1, resources={name: 1})

    def join(self, runtime_env: dict[str, Any] | None = None) -> None:
        """Be a driver on the head's machine."""
        self.monkeypatch.setenv("WEFT_TEMP_DIR", str(self.short / "head"))
        assert self.cluster.head_node is not None
        weft.init(
            address=self.cluster.head_node.session_dir,
            runtime_env=runtime_env,
            log_to_driver=False,
        )

    def cache(self, name: str) -> Path:
        return self.short / name / f"weft-env-{os.getuid()}"


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    short = Path(f"/tmp/wt-{os.getpid()}-{os.urandom(2).hex()}")
    (short / "s").mkdir(parents=True)
    monkeypatch.setenv("WEFT_STORE_ROOT", str(short / "s"))
    monkeypatch.setenv("WEFT_CHECK", "1")
    found = Machines(short, monkeypatch)
    try:
        yield found
    finally:
        weft.shutdown()
        found.cluster.shutdown()
        shutil.rmtree(short)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "far_helper.py").write_text("VALUE = 'of the working directory'\n")
    (root / "data" / "text").write_text("some text")
    (root / "data" / "large").write_bytes(b"x" * 3_000_000)
    (root / ".gitignore").write_text("*.secret\n")
    (root / "key.secret").write_text("not for others")
    module = tmp_path / "far_module"
    module.mkdir()
    (module / "__init__.py").write_text("from far_module.inner import NAME\n")
    (module / "inner.py").write_text("NAME = __name__\n")
    return root


def say_hello() -> None:
    os.environ["FROM_HOOK"] = "hello"


def environment(project: Path) -> dict[str, Any]:
    return {
        "working_dir": str(project),
        "py_modules": [str(project.parent / "far_module")],
        "worker_process_setup_hook": say_hello,
        "env_vars": {"A_VARIABLE": "set"},
    }


@weft.remote
def look() -> dict[str, Any]:
    return {
        "cwd": str(Path.cwd()),
        "files": sorted(str(path) for path in Path().rglob("*") if path.is_file()),
        "text": Path("data/text").read_text(),
        "large": Path("data/large").stat().st_size,
        "helper": importlib.import_module("far_helper").VALUE,
        "module": importlib.import_module("far_module").NAME,
        "hook": os.environ.get("FROM_HOOK"),
        "variable": os.environ.get("A_VARIABLE"),
    }


def check(seen: dict[str, Any], machine: Path) -> None:
    assert Path(seen.pop("cwd")).is_relative_to(machine)
    seen["files"] = [name for name in seen["files"] if "__pycache__" not in name]
    assert seen == {
        "files": [".gitignore", "data/large", "data/text", "far_helper.py"],
        "text": "some text",
        "large": 3_000_000,
        "helper": "of the working directory",
        "module": "far_module.inner",
        "hook": "hello",
        "variable": "set",
    }


def test_what_a_driver_names_reaches_nodes_that_have_no_such_files(
    machines: Machines, project: Path
) -> None:
    machines.add("second")
    machines.join(environment(project))
    for path in list(project.parent.iterdir()):
        path.rename(path.with_name(path.name + "-moved"))
    for name in ("second", "head"):
        seen = weft.get(look.options(resources={name: 1}).remote(), timeout=PATIENCE_S)
        check(seen, machines.cache(name))

    # Who has fetched it gives it too: the driver's machine has lost it.
    shutil.rmtree(machines.cache("head"))
    machines.add("third")
    seen = weft.get(look.options(resources={"third": 1}).remote(), timeout=PATIENCE_S)
    check(seen, machines.cache("third"))


def test_what_nobody_has_is_said_and_can_be_there_later(machines: Machines, project: Path) -> None:
    machines.join(environment(project))
    seen = weft.get(look.options(resources={"head": 1}).remote(), timeout=PATIENCE_S)
    check(seen, machines.cache("head"))
    there = look.options(resources={"second": 1})
    trees = machines.cache("head") / "trees"
    trees.rename(trees.with_name("away"))
    machines.add("second")
    with pytest.raises(EnvSetupError, match="no node that lives gives the files") as raised:
        weft.get(there.remote(), timeout=PATIENCE_S)
    assert "Traceback" not in str(raised.value)
    trees.rmdir()
    trees.with_name("away").rename(trees)
    check(weft.get(there.remote(), timeout=PATIENCE_S), machines.cache("second"))


def test_packages_of_local_files_are_installed_where_these_are_not(
    machines: Machines, wheel: Callable[[str, str], Path]
) -> None:
    path = wheel("far_wheel", "NAME = 'of a wheel'\n")
    machines.add("second")
    machines.join()

    @weft.remote(
        resources={"second": 1},
        runtime_env={"pip": {"packages": [str(path)], "pip_install_options": ["--no-index"]}},
    )
    def name() -> str:
        return str(importlib.import_module("far_wheel").NAME)

    ref = name.remote()
    path.unlink()
    assert weft.get(ref, timeout=PATIENCE_S * 2) == "of a wheel"


@pytest.fixture
def wheel(tmp_path: Path) -> Callable[[str, str], Path]:
    def make(name: str, source: str) -> Path:
        path = tmp_path / f"{name}-1.0-py3-none-any.whl"
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr(f"{name}.py", source)
            packed.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
            )
            packed.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            packed.writestr(f"{info}/RECORD", "")
        return path

    return make
