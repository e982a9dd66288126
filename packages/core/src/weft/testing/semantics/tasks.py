"""What tasks have to do: arguments, options, several returns, retries, nesting."""

# ruff: noqa: D101, D102, D103, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

import asyncio
import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.exceptions import OptionError, PicklingError, TaskError, UnschedulableError
from weft.testing.semantics.engines import LIMIT_S, EngineSemantics, needs

if TYPE_CHECKING:
    from collections.abc import Iterator


@weft.remote
def add(left: int, right: int = 10) -> int:
    return left + right


@weft.remote
def fib(number: int) -> int:
    if number < 2:
        return number
    return sum(weft.get([fib.remote(number - 1), fib.remote(number - 2)]))


@dataclass
class Point:
    x: int
    y: list[int]


class TaskSemantics(EngineSemantics):
    # ---------------------------------------------------------------- arguments

    def test_task_returns_its_functions_value(self) -> None:
        assert weft.get(add.remote(1, 2), timeout=LIMIT_S) == 3

    def test_defaults_are_used(self) -> None:
        assert weft.get(add.remote(1)) == 11

    def test_keywords_are_passed(self) -> None:
        assert weft.get(add.remote(left=1, right=3)) == 4

    def test_keyword_only_parameters_work(self) -> None:
        @weft.remote
        def show(*, name: str, mark: str = "!") -> str:
            return name + mark

        assert weft.get(show.remote(name="a")) == "a!"
        assert weft.get(show.remote(name="a", mark="?")) == "a?"

    def test_variable_parameters_work(self) -> None:
        @weft.remote
        def collect(first: int, /, *rest: int, **named: int) -> tuple[Any, ...]:
            return first, rest, named

        assert weft.get(collect.remote(1, 2, 3, a=4)) == (1, (2, 3), {"a": 4})

    def test_no_arguments_and_no_value_work(self) -> None:
        @weft.remote
        def nothing() -> None:
            return

        assert weft.get(nothing.remote()) is None

    @pytest.mark.parametrize(
        ("args", "kwargs", "word"),
        [
            ((), {}, "left"),
            ((1, 2, 3), {}, "positional"),
            ((1,), {"up": 2}, "up"),
            ((1,), {"left": 2}, "left"),
        ],
    )
    def test_wrong_arguments_raise_at_the_call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], word: str
    ) -> None:
        with pytest.raises(TypeError, match=rf"add\(\).*{word}"):
            add.remote(*args, **kwargs)

    def test_calling_a_remote_function_says_what_to_write(self) -> None:
        with pytest.raises(TypeError, match=r"add\.remote\(\.\.\.\)"):
            add(1)

    def test_reference_as_argument_is_resolved(self) -> None:
        assert weft.get(add.remote(add.remote(1), right=add.remote(2))) == 23

    def test_stored_object_as_argument_is_resolved(self) -> None:
        @weft.remote
        def total(numbers: list[int]) -> int:
            return sum(numbers)

        assert weft.get(total.remote(weft.put([1, 2, 3]))) == 6

    def test_reference_inside_a_list_stays_a_reference(self) -> None:
        @weft.remote
        def kind(refs: list[Any]) -> tuple[str, int]:
            return type(refs[0]).__name__, weft.get(refs[0])

        assert weft.get(kind.remote([add.remote(1)])) == ("ObjectRef", 11)

    def test_same_reference_may_be_several_arguments(self) -> None:
        ref = add.remote(1)
        assert weft.get(add.remote(ref, ref)) == 22

    def test_mutating_an_argument_does_not_reach_the_caller(self) -> None:
        @weft.remote
        def grow(numbers: list[int]) -> list[int]:
            numbers.append(4)
            return numbers

        numbers = [1, 2, 3]
        assert weft.get(grow.remote(numbers)) == [1, 2, 3, 4]
        assert numbers == [1, 2, 3]

    def test_argument_is_as_it_was_at_the_call(self) -> None:
        @weft.remote
        def first(numbers: list[int]) -> int:
            return numbers[0]

        numbers = [1]
        ref = first.remote(numbers)
        numbers[0] = 2
        assert weft.get(ref) == 1

    def test_large_arguments_and_results_travel(self) -> None:
        @weft.remote
        def double(data: bytes) -> bytes:
            return data * 2

        data = os.urandom(300_000)
        assert weft.get(double.remote(data)) == data * 2

    def test_dataclasses_travel(self) -> None:
        @weft.remote
        def move(point: Point) -> Point:
            return Point(point.x + 1, [*point.y, 0])

        assert weft.get(move.remote(Point(1, [2]))) == Point(2, [2, 0])

    def test_local_classes_travel(self) -> None:
        class Local:
            def __init__(self, value: int) -> None:
                self.value = value

        @weft.remote
        def value_of(thing: Local) -> int:
            return thing.value

        assert weft.get(value_of.remote(Local(7))) == 7

    def test_argument_that_cannot_travel_raises_at_the_call(self) -> None:
        generator: Any = (number for number in [1])
        with pytest.raises(PicklingError, match="args"):
            add.remote(generator)

    # ---------------------------------------------------------------- functions

    def test_lambdas_and_closures_can_be_tasks(self) -> None:
        offset = 5
        assert weft.get(weft.remote(lambda number: number + offset).remote(1)) == 6

    def test_built_in_functions_can_be_tasks(self) -> None:
        assert weft.get(weft.remote(len).remote([1, 2])) == 2

    def test_partial_functions_can_be_tasks(self) -> None:
        assert weft.get(weft.remote(functools.partial(max, 3)).remote(2)) == 3

    def test_wrapped_functions_can_be_tasks(self) -> None:
        def doubled(function: Any) -> Any:
            @functools.wraps(function)
            def wrapper(*args: Any) -> Any:
                return 2 * function(*args)

            return wrapper

        @weft.remote
        @doubled
        def one_more(number: int) -> int:
            return number + 1

        assert weft.get(one_more.remote(1)) == 4
        assert one_more.__name__ == "one_more"

    def test_remote_function_keeps_name_doc_and_function(self) -> None:
        def documented() -> int:
            """Return one."""
            return 1

        made = weft.remote(documented)
        assert (made.__name__, made.__doc__) == ("documented", "Return one.")
        assert made.__wrapped__ is documented

    def test_remote_functions_travel_as_arguments(self) -> None:
        @weft.remote
        def call(function: Any, number: int) -> int:
            return weft.get(function.remote(number))

        assert weft.get(call.remote(add, 1)) == 11

    def test_async_functions_are_refused_as_tasks(self) -> None:
        async def wait() -> None: ...

        with pytest.raises(TypeError, match="async"):
            weft.remote(wait)

    def test_what_is_no_function_is_refused(self) -> None:
        with pytest.raises(TypeError, match="function or a class"):
            weft.remote(3)

    # ---------------------------------------------------------------- options

    def test_options_of_one_call_change_no_other(self) -> None:
        @weft.remote(num_cpus=2)
        def amounts() -> dict[str, float]:
            return weft.get_runtime_context().get_assigned_resources()

        assert weft.get(amounts.options(num_cpus=1).remote())["CPU"] == 1
        assert weft.get(amounts.remote())["CPU"] == 2

    def test_fractions_of_a_cpu_are_granted(self) -> None:
        @weft.remote(num_cpus=0.25)
        def amounts() -> dict[str, float]:
            return weft.get_runtime_context().get_assigned_resources()

        assert weft.get([amounts.remote() for _ in range(8)])[0] == {"CPU": 0.25}

    def test_task_without_cpus_runs(self) -> None:
        assert weft.get(add.options(num_cpus=0).remote(1)) == 11

    def test_unknown_option_names_the_near_one(self) -> None:
        with pytest.raises(OptionError, match="max_retries"):
            add.options(max_retry=1)

    def test_demand_beyond_the_machine_fails_with_numbers(self) -> None:
        ref = add.options(num_cpus=1000).remote(1)
        with pytest.raises(UnschedulableError, match="1000"):
            weft.get(ref, timeout=LIMIT_S)

    def test_unknown_resource_fails_with_its_name(self) -> None:
        ref = add.options(resources={"unobtainium": 1}).remote(1)
        with pytest.raises(UnschedulableError, match="unobtainium"):
            weft.get(ref, timeout=LIMIT_S)

    def test_name_shows_in_the_context(self) -> None:
        @weft.remote
        def name() -> str | None:
            return weft.get_runtime_context().get_task_name()

        assert weft.get(name.options(name="census").remote()) == "census"

    @needs("timeouts")
    def test_timeout_ends_a_task(self) -> None:
        @weft.remote(timeout=0.2, max_retries=0)
        def spin() -> None:
            while True:
                pass

        with pytest.raises(TimeoutError):
            weft.get(spin.remote(), timeout=LIMIT_S)

    @needs("environments")
    def test_environment_variables_are_the_tasks_own(self) -> None:
        @weft.remote(runtime_env={"env_vars": {"WEFT_TEST_COLOUR": "red"}})
        def colour() -> str | None:
            return os.environ.get("WEFT_TEST_COLOUR")

        assert weft.get(colour.remote()) == "red"
        assert "WEFT_TEST_COLOUR" not in os.environ

    @needs("processes")
    def test_max_calls_ends_the_worker(self) -> None:
        @weft.remote(max_calls=1)
        def pid() -> int:
            return os.getpid()

        assert len({weft.get(pid.remote()) for _ in range(3)}) == 3

    # ---------------------------------------------------------------- several returns

    def test_several_returns_give_as_many_references(self) -> None:
        @weft.remote(num_returns=3)
        def three() -> tuple[int, str, None]:
            return 1, "b", None

        refs = three.remote()
        assert isinstance(refs, list)
        assert weft.get(refs) == [1, "b", None]

    def test_no_returns_give_no_reference(self) -> None:
        @weft.remote(num_returns=0)
        def nothing() -> None:
            return

        assert nothing.remote() is None

    def test_generator_fills_several_returns(self) -> None:
        @weft.remote(num_returns=2)
        def two() -> Iterator[int]:
            yield 1
            yield 2

        assert weft.get(two.remote()) == [1, 2]

    def test_wrong_number_of_returns_fails_every_reference(self) -> None:
        @weft.remote(num_returns=3, max_retries=0)
        def two() -> tuple[int, int]:
            return 1, 2

        for ref in two.remote():
            with pytest.raises(ValueError, match="3"):
                weft.get(ref)

    def test_one_return_may_be_a_tuple(self) -> None:
        @weft.remote
        def pair() -> tuple[int, int]:
            return 1, 2

        assert weft.get(pair.remote()) == (1, 2)

    def test_number_of_returns_can_be_changed_for_a_call(self) -> None:
        @weft.remote
        def pair() -> tuple[int, int]:
            return 1, 2

        assert weft.get(pair.options(num_returns=2).remote()) == [1, 2]

    def test_dynamic_returns_give_a_reference_to_references(self) -> None:
        @weft.remote(num_returns="dynamic")
        def squares(limit: int) -> Iterator[int]:
            for number in range(limit):
                yield number * number

        found = weft.get(squares.remote(4))
        assert isinstance(found, weft.DynamicObjectRefGenerator)
        assert len(found) == 4
        assert weft.get(list(found)) == [0, 1, 4, 9]

    # ---------------------------------------------------------------- retries

    def test_exception_is_not_retried_unless_asked(self) -> None:
        counter = Ups.remote()

        @weft.remote
        def fail() -> None:
            weft.get(counter.up.remote())
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            weft.get(fail.remote())
        assert weft.get(counter.up.remote()) == 2

    def test_exception_is_retried_as_often_as_asked(self) -> None:
        counter = Ups.remote()

        @weft.remote(max_retries=2, retry_exceptions=True)
        def fail() -> None:
            weft.get(counter.up.remote())
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            weft.get(fail.remote())
        assert weft.get(counter.up.remote()) == 4

    def test_task_that_succeeds_when_retried_gives_its_value(self) -> None:
        counter = Ups.remote()

        @weft.remote(retry_exceptions=[ValueError])
        def fail_once() -> int:
            times: int = weft.get(counter.up.remote())
            if times == 1:
                raise ValueError("once")
            return times

        assert weft.get(fail_once.remote()) == 2

    def test_only_the_exceptions_listed_are_retried(self) -> None:
        counter = Ups.remote()

        @weft.remote(max_retries=5, retry_exceptions=[KeyError])
        def fail() -> None:
            weft.get(counter.up.remote())
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            weft.get(fail.remote())
        assert weft.get(counter.up.remote()) == 2

    @needs("processes")
    def test_task_whose_worker_dies_is_retried(self) -> None:
        counter = Ups.remote()

        @weft.remote(max_retries=1)
        def die_once() -> int:
            times: int = weft.get(counter.up.remote())
            if times == 1:
                os._exit(1)
            return times

        assert weft.get(die_once.remote(), timeout=LIMIT_S) == 2

    @needs("processes")
    def test_task_whose_worker_dies_too_often_fails(self) -> None:
        @weft.remote(max_retries=0)
        def die() -> None:
            os._exit(7)

        with pytest.raises(weft.exceptions.WorkerDiedError, match="7"):
            weft.get(die.remote(), timeout=LIMIT_S)

    # ---------------------------------------------------------------- nesting

    def test_tasks_start_tasks(self) -> None:
        @weft.remote
        def outer(number: int) -> int:
            return weft.get(add.remote(number)) + 1

        assert weft.get(outer.remote(1)) == 12

    def test_recursive_tasks_do_not_deadlock(self) -> None:
        assert weft.get(fib.remote(8), timeout=LIMIT_S) == 21

    def test_more_nested_tasks_than_cpus_do_not_deadlock(self) -> None:
        @weft.remote
        def deep(level: int) -> int:
            return level if level == 0 else 1 + weft.get(nested[0].remote(level - 1))

        nested = [deep]
        assert weft.get(deep.remote(10), timeout=LIMIT_S) == 10

    def test_task_returns_a_reference(self) -> None:
        @weft.remote
        def outer() -> Any:
            return add.remote(1)

        inner = weft.get(outer.remote())
        assert isinstance(inner, weft.ObjectRef)
        assert weft.get(inner) == 11

    def test_many_tasks_give_many_values_in_order(self) -> None:
        assert weft.get([add.remote(number, 0) for number in range(200)]) == list(range(200))

    def test_task_error_is_a_task_error_too(self) -> None:
        @weft.remote
        def fail() -> None:
            raise KeyError("k")

        with pytest.raises(TaskError):
            weft.get(fail.remote())

    @needs("concurrency")
    def test_tasks_run_side_by_side(self) -> None:
        @weft.remote(num_cpus=1)
        def meet(barrier: Any) -> int:
            return weft.get(barrier.arrive.remote())

        barrier = Barrier.remote(2)
        assert weft.get([meet.remote(barrier), meet.remote(barrier)], timeout=LIMIT_S) == [2, 2]

    @needs("processes")
    def test_tasks_run_in_processes_of_their_own(self) -> None:
        @weft.remote
        def pid() -> int:
            return os.getpid()

        assert weft.get(pid.remote()) != os.getpid()


@weft.remote
class Ups:
    def __init__(self) -> None:
        self.times = 0

    @weft.method
    def up(self) -> int:
        self.times += 1
        return self.times


@weft.remote
class Barrier:
    def __init__(self, parties: int) -> None:
        self.parties = parties
        self.arrived = 0
        self.all_there = asyncio.Event()

    @weft.method
    async def arrive(self) -> int:
        self.arrived += 1
        if self.arrived >= self.parties:
            self.all_there.set()
        await self.all_there.wait()
        return self.arrived
