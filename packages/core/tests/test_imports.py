"""What `import weft` costs: programs pay it in every worker and for every command."""

import subprocess
import sys

import pytest

MODULES = 180
"""Three modules out of four are Python's own; a library of some size is another hundred."""


def loaded(program: str) -> set[str]:
    """Return the modules that a fresh interpreter has after a program."""
    code = f"{program}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def modules() -> set[str]:
    return loaded("import weft")


@pytest.mark.parametrize(
    "module",
    [
        "asyncio", "cloudpickle", "click", "grpc", "multiprocessing", "numpy", "pandas", "psutil",
        "pyarrow", "socket", "ssl", "subprocess", "torch", "weft._runtime.local",
        "weft._runtime.runtime", "weft._api.graphs", "weft.testing", "weft.util", "pytest",
    ],
)  # fmt: skip
def test_import_does_not_load(modules: set[str], module: str) -> None:
    assert module not in modules


def test_import_loads_few_modules(modules: set[str]) -> None:
    assert len(modules) < MODULES, sorted(modules)


def test_inline_task_loads_no_heavy_module() -> None:
    program = (
        "import weft\n"
        "weft.init(engine='inline')\n"
        "assert weft.get(weft.remote(lambda: 1).remote()) == 1\n"
    )
    assert loaded(program).isdisjoint({"asyncio", "cloudpickle", "multiprocessing", "numpy"})


def test_import_starts_nothing() -> None:
    program = (
        "import threading, weft\n"
        "assert not weft.is_initialized()\n"
        "assert threading.active_count() == 1\n"
    )
    loaded(program)


def test_every_public_name_is_there() -> None:
    loaded("import weft\nfor name in weft.__all__: getattr(weft, name)\nfrom weft import *")
