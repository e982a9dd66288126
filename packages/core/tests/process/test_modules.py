"""Functions and classes of a module that workers cannot import."""

from __future__ import annotations

import sys
import textwrap
from importlib.util import module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.exceptions import TaskError

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

SOURCE = """
    from dataclasses import dataclass
    import weft

    STEP = 2

    @dataclass
    class Amount:
        units: int
    class TooMuch(Exception):
        pass

    def add(amount, units):
        if units > 100: raise TooMuch(units)
        return Amount(amount.units + STEP * units)

    class Counter:
        def __init__(self, amount): self.amount = amount
        def add(self, units):
            self.amount = add(self.amount, units)
            return self.amount

    @weft.remote
    def add_all(numbers):
        if not numbers: return Amount(0)
        return add(weft.get(add_all.remote(numbers[1:])), numbers[0])
"""


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with weft.init(num_cpus=2, log_to_driver=False):
        yield


@pytest.fixture
def module(session: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that was loaded from a file that is not on the path."""
    file = tmp_path / "elsewhere.py"
    file.write_text(textwrap.dedent(SOURCE))
    spec = spec_from_file_location("elsewhere", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    spec.loader.exec_module(module)
    return module


def test_a_function_of_it_runs_as_a_task(module: Any) -> None:
    made = weft.get(weft.remote(module.add).remote(module.Amount(1), 3))
    assert made == module.Amount(7)
    assert type(made) is module.Amount


def test_a_task_of_it_calls_itself(module: Any) -> None:
    assert weft.get(module.add_all.remote([1, 2, 3])) == module.Amount(12)


def test_a_class_of_it_becomes_an_actor(module: Any) -> None:
    counter = weft.remote(module.Counter).remote(module.Amount(1))
    assert weft.get([counter.add.remote(1), counter.add.remote(2)]) == [
        module.Amount(3),
        module.Amount(7),
    ]


def test_an_error_of_it_is_caught_by_its_class(module: Any) -> None:
    with pytest.raises(module.TooMuch) as caught:
        weft.get(weft.remote(module.add).remote(module.Amount(1), 101))
    assert isinstance(caught.value, TaskError)
    assert caught.value.args == (101,)
