from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.exceptions import ArgumentError, GetTimeoutError, OptionError
from weft.util import as_completed, map_unordered

if TYPE_CHECKING:
    from collections.abc import Iterator


# For what the inline engine cannot do.
processes = pytest.mark.parametrize(
    "engine", [pytest.param("local", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def square() -> Any:
    @weft.remote
    def square(number: int) -> int:
        if number < 0:
            raise ValueError("negative", number)
        return number * number

    return square


def test_every_value_comes_once(engine: str, square: Any) -> None:
    refs = [square.remote(number) for number in range(50)]
    assert sorted(as_completed(refs)) == [number * number for number in range(50)]


@processes
def test_what_is_ready_comes_before_what_is_not(square: Any, gate: Any) -> None:
    late = gate.wait.remote()
    values = as_completed([late, square.remote(3)])
    assert next(values) == 9
    gate.open.remote()
    assert list(values) == ["waited"]


def test_references_are_yielded_where_they_are_asked_for(engine: str, square: Any) -> None:
    refs = [square.remote(number) for number in range(5)]
    assert set(as_completed(refs, yield_obj_refs=True)) == set(refs)


def test_error_of_a_task_is_raised_at_its_turn(engine: str, square: Any) -> None:
    with pytest.raises(ValueError, match="negative"):
        list(as_completed([square.remote(-1)]))


@processes
def test_time_is_up_when_nothing_comes(gate: Any) -> None:
    with pytest.raises(GetTimeoutError):
        next(as_completed([gate.wait.remote()], timeout=0.01))


def test_no_references_give_no_values(engine: str) -> None:
    assert list(as_completed([])) == []


def test_wrong_arguments_are_refused_at_the_call(engine: str, square: Any) -> None:
    ref = square.remote(1)
    with pytest.raises(ArgumentError):
        as_completed(ref)
    with pytest.raises(ArgumentError):
        as_completed([1])  # type: ignore[list-item]
    with pytest.raises(OptionError, match="twice"):
        as_completed([ref, ref])
    with pytest.raises(OptionError, match="chunk_size"):
        as_completed([ref], chunk_size=0)
    with pytest.raises(TypeError, match="there is no option timeuot"):
        as_completed([ref], timeuot=1)
    with pytest.raises(OptionError, match="backpressure_size"):
        map_unordered(square, [1], backpressure_size=0)


def test_map_calls_with_each_item(engine: str, square: Any) -> None:
    assert sorted(map_unordered(square, range(30), backpressure_size=4)) == [
        number * number for number in range(30)
    ]
    refs = map_unordered(square, range(3), yield_obj_refs=True)
    assert sorted(weft.get(list(refs))) == [0, 1, 4]


def test_map_takes_a_plain_function_and_a_method(engine: str) -> None:
    @weft.remote
    class Adder:
        def add(self, number: int) -> int:
            return number + 1

    assert sorted(map_unordered(lambda number: -number, range(3))) == [-2, -1, 0]
    assert sorted(map_unordered(Adder.remote().add, range(3))) == [1, 2, 3]


def test_map_takes_items_as_results_are_taken(engine: str, square: Any) -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    values = map_unordered(square, endless(), backpressure_size=5)
    first = [next(values) for _ in range(20)]
    assert len(set(first)) == 20
    assert taken <= 25
