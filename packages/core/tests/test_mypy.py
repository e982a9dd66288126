"""The plug-in for mypy: what it makes of programs with `@weft.remote` above a class."""

from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api", reason="mypy is not installed")
pytestmark = pytest.mark.slow

PROGRAMS = Path(__file__).parent / "types"

UNDECORATED = """
from abc import ABC
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar, assert_type
import weft as ray
from weft import ObjectRef, ObjectRefGenerator

T = TypeVar("T")

@ray.remote
class Worker:
    def work(self, size: int = 1) -> str:
        assert_type(self.work(2), str)
        return "x" * size
    async def wait(self) -> bytes:
        return b""
    def items(self) -> Iterator[int]:
        yield 1
    async def lines(self) -> AsyncIterator[float]:
        yield 1.0
    @ray.method(num_returns=2)
    def both(self) -> tuple[int, int]:
        return 1, 2
    @staticmethod
    def plain(number: int) -> int:
        return number

worker = Worker.remote()
assert_type(worker.work.remote(size=3), ObjectRef[str])
assert_type(worker.wait.remote(), ObjectRef[bytes])
assert_type(worker.items.remote(), ObjectRefGenerator[int])
assert_type(worker.lines.remote(), ObjectRefGenerator[float])
assert_type(worker.both.remote(), list[ObjectRef[Any]])
assert_type(worker.work.options(name="n").remote(), ObjectRef[str])
assert_type(Worker.plain(1), int)
worker.work.remote("wrong")

def use(handle: Worker) -> str:
    return ray.get(handle.work.remote(1))

@ray.remote
class Box(Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item

Box.remote(3)

@ray.remote
class Abstract(ABC):
    def work(self) -> int:
        return 1

Abstract.remote()
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mypy.ini"
    path.write_text("[mypy]\nstrict = true\nplugins = weft.mypy\n")
    return path


def check(config: Path, program: Path) -> tuple[str, int]:
    cache = config.parent / "cache"
    out, errors, status = api.run(
        ["--config-file", str(config), "--cache-dir", str(cache), str(program)]
    )
    assert errors == ""
    return out, status


def test_decorated_classes_are_accepted(config: Path) -> None:
    out, status = check(config, PROGRAMS / "decorated_classes.py")
    assert (status, out.strip()) == (0, "Success: no issues found in 1 source file")


def test_methods_without_a_decorator_are_typed(config: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(UNDECORATED)
    for _ in range(2):  # the second time from mypy's cache
        out, _ = check(config, program)
        (mistake,) = [line for line in out.splitlines() if " error: " in line]
        assert (
            'work.remote("wrong")'
            in program.read_text().splitlines()[int(mistake.split(":")[1]) - 1]
        )
