"""What a task's error has to be where it arrives."""

# ruff: noqa: D101, D102, D103, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

import gc
import pickle
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.exceptions import ActorDiedError, TaskError, WeftError
from weft.testing.semantics.engines import LIMIT_S, EngineSemantics

if TYPE_CHECKING:
    from pathlib import Path


class TwoPartError(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class HoldingError(Exception):
    def __init__(self, ref: Any, *others: Any) -> None:
        super().__init__("held", *others)
        self.ref = ref


@weft.remote
def raise_it(error: BaseException) -> None:
    raise error


@weft.remote
def open_missing() -> None:
    open("/no/such/file/anywhere")  # noqa: PTH123, SIM115 - it fails


@weft.remote
def through(levels: int) -> Any:
    if levels == 0:
        raise TwoPartError(7, "deep")
    return weft.get(through.remote(levels - 1))


class ErrorSemantics(EngineSemantics):
    def test_error_is_an_instance_of_the_users_class(self) -> None:
        with pytest.raises(ValueError, match="no"):
            weft.get(raise_it.remote(ValueError("no")))

    def test_error_is_a_weft_error(self) -> None:
        with pytest.raises(WeftError):
            weft.get(raise_it.remote(ValueError("no")))

    def test_attributes_and_arguments_survive(self) -> None:
        with pytest.raises(TwoPartError) as caught:
            weft.get(raise_it.remote(TwoPartError(3, "r")))
        assert (caught.value.code, caught.value.reason) == (3, "r")
        assert str(caught.value) == "3: r"

    def test_os_error_keeps_errno_and_filename(self) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            weft.get(open_missing.remote())
        assert caught.value.errno == 2
        assert caught.value.filename == "/no/such/file/anywhere"

    def test_cause_is_the_users_error(self) -> None:
        with pytest.raises(TaskError) as caught:
            weft.get(raise_it.remote(KeyError("k")))
        assert type(caught.value.cause) is KeyError

    def test_error_names_its_task(self) -> None:
        with pytest.raises(TaskError) as caught:
            weft.get(raise_it.options(name="census").remote(KeyError("k")))
        assert caught.value.task == "census"

    def test_every_get_raises_anew(self) -> None:
        ref = raise_it.remote(ValueError("no"))
        caught = []
        for _ in range(2):
            with pytest.raises(ValueError, match="no") as info:
                weft.get(ref)
            caught.append(info.value)
        assert caught[0] is not caught[1]

    def test_error_goes_through_tasks_that_take_the_value(self) -> None:
        ref = weft.remote(lambda value: value).remote(raise_it.remote(TwoPartError(1, "up")))
        with pytest.raises(TwoPartError, match="up"):
            weft.get(ref)

    def test_error_goes_through_nested_tasks_once(self) -> None:
        with pytest.raises(TwoPartError, match="deep") as caught:
            weft.get(through.remote(3), timeout=LIMIT_S)
        assert caught.value.code == 7
        assert type(caught.value.cause) is TwoPartError

    def test_task_can_catch_the_error_of_another(self) -> None:
        @weft.remote
        def catch() -> str:
            try:
                weft.get(raise_it.remote(KeyError("k")))
            except KeyError:
                return "caught"
            return "missed"

        assert weft.get(catch.remote()) == "caught"

    def test_error_that_cannot_be_pickled_arrives_as_a_stand_in(self) -> None:
        @weft.remote
        def fail() -> None:
            class Stubborn(Exception):  # noqa: N818 - its name is looked for
                def __reduce__(self) -> Any:
                    raise RuntimeError("never")

            raise Stubborn("told")

        with pytest.raises(TaskError, match="told") as caught:
            weft.get(fail.remote())
        assert "Stubborn" in repr(caught.value)

    def test_result_that_cannot_be_pickled_fails_the_task(self) -> None:
        @weft.remote
        def generator() -> Any:
            return (number for number in [1])

        with pytest.raises(TypeError):
            weft.get(generator.remote())

    def test_system_exit_fails_the_task_and_ends_nothing(self) -> None:
        @weft.remote(max_retries=0)
        def leave() -> None:
            raise SystemExit(3)

        with pytest.raises(TaskError) as caught:
            weft.get(leave.remote(), timeout=LIMIT_S)
        assert not isinstance(caught.value, SystemExit)
        assert isinstance(caught.value.cause, SystemExit)

    def test_stop_iteration_fails_the_task(self) -> None:
        with pytest.raises(TaskError) as caught:
            weft.get(raise_it.remote(StopIteration(1)))
        assert isinstance(caught.value.cause, StopIteration)

    def test_error_survives_pickling(self) -> None:
        with pytest.raises(ValueError, match="no") as caught:
            weft.get(raise_it.remote(ValueError("no")))
        assert str(pickle.loads(pickle.dumps(caught.value))) == "no"  # noqa: S301

    def test_first_error_of_a_list_is_raised(self) -> None:
        fine = weft.put(1)
        with pytest.raises(KeyError):
            weft.get([fine, raise_it.remote(KeyError("a")), raise_it.remote(ValueError("b"))])

    def test_method_error_is_of_the_users_class(self) -> None:
        @weft.remote
        class Fragile:
            def fail(self) -> None:
                raise TwoPartError(2, "method")

            def work(self) -> int:
                return 1

        fragile: Any = Fragile.remote()
        with pytest.raises(TwoPartError, match="method"):
            weft.get(fragile.fail.remote())
        assert weft.get(fragile.work.remote()) == 1

    # ---------------------------------------------------------------- references inside

    def test_reference_in_an_error_is_valid_for_who_catches_it(self) -> None:
        @weft.remote
        def fail() -> None:
            raise HoldingError(weft.put("kept"))

        ref = fail.remote()
        for _ in range(2):
            with pytest.raises(HoldingError) as caught:
                weft.get(ref)
            assert weft.get(caught.value.ref) == "kept"

    def test_reference_in_an_error_outlives_its_task(self) -> None:
        @weft.remote
        def fail() -> None:
            raise HoldingError(weft.put("kept"))

        ref = fail.remote()
        with pytest.raises(HoldingError) as caught:
            weft.get(ref)
        held = caught.value.ref
        del caught, ref
        gc.collect()
        assert weft.get(held, timeout=LIMIT_S) == "kept"

    def test_reference_that_came_as_an_argument_returns_in_an_error(self) -> None:
        result = raise_it.remote(HoldingError(weft.put("mine")))
        gc.collect()
        with pytest.raises(HoldingError) as caught:
            weft.get(result)
        assert weft.get(caught.value.ref) == "mine"

    def test_reference_in_an_error_goes_through_nested_tasks(self) -> None:
        @weft.remote
        def fail() -> None:
            raise HoldingError(weft.put("deep"))

        @weft.remote
        def pass_on() -> None:
            weft.get(fail.remote())

        with pytest.raises(HoldingError) as caught:
            weft.get(pass_on.remote())
        assert weft.get(caught.value.ref, timeout=LIMIT_S) == "deep"

    def test_reference_in_an_error_goes_through_tasks_that_take_the_value(self) -> None:
        @weft.remote
        def fail() -> None:
            raise HoldingError(weft.put("taken"))

        @weft.remote
        def take(value: Any) -> Any:
            return value

        @weft.remote
        def take_what_is_inside(refs: list[Any]) -> Any:
            return weft.get(take.remote(refs[0]))

        failed = fail.remote()
        twice = take.remote(take.remote(failed))
        elsewhere = take_what_is_inside.remote([failed])
        del failed
        for ref in (twice, elsewhere):
            with pytest.raises(HoldingError) as caught:
                weft.get(ref, timeout=LIMIT_S)
            assert weft.get(caught.value.ref, timeout=LIMIT_S) == "taken"

    def test_reference_in_the_cause_of_an_error_is_valid(self) -> None:
        @weft.remote
        def fail() -> None:
            raise ValueError("outer") from HoldingError(weft.put("cause"))

        with pytest.raises(ValueError, match="outer") as caught:
            weft.get(fail.remote())
        assert weft.get(caught.value.cause.__cause__.ref) == "cause"

    def test_reference_in_the_error_of_a_stream_is_valid(self) -> None:
        @weft.remote(num_returns="streaming")
        def fail() -> Any:
            yield 1
            raise HoldingError(weft.put("streamed"))

        stream = fail.remote()
        assert weft.get(next(stream)) == 1
        with pytest.raises(HoldingError) as caught:
            weft.get(next(stream))
        assert weft.get(caught.value.ref) == "streamed"

    def test_task_whose_error_holds_a_reference_is_retried(self, tmp_path: Path) -> None:
        mark = tmp_path / "mark"

        @weft.remote(max_retries=1, retry_exceptions=[HoldingError])
        def fail_once(ref: Any) -> str:
            if mark.exists():
                return "retried"
            mark.touch()
            raise HoldingError(ref[0], weft.put(1))

        assert weft.get(fail_once.remote([weft.put(1)]), timeout=LIMIT_S) == "retried"

    def test_reference_in_the_error_of_a_method_is_valid(self) -> None:
        @weft.remote
        class Fragile:
            def fail(self) -> None:
                raise HoldingError(weft.put("method"))

        fragile: Any = Fragile.remote()
        with pytest.raises(HoldingError) as caught:
            weft.get(fragile.fail.remote())
        assert weft.get(caught.value.ref) == "method"

    def test_reference_in_the_error_of_a_constructor_is_valid(self) -> None:
        @weft.remote
        class Stillborn:
            def __init__(self, refs: list[Any]) -> None:
                raise HoldingError(refs[0])

            def work(self) -> None:
                pass

        mine = weft.put("mine")
        stillborn: Any = Stillborn.remote([mine])
        with pytest.raises(ActorDiedError) as caught:
            weft.get(stillborn.work.remote(), timeout=LIMIT_S)
        assert isinstance(caught.value.cause, HoldingError)
        assert weft.get(caught.value.cause.ref) == "mine"
