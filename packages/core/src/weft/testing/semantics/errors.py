"""What a task's error has to be where it arrives."""

# ruff: noqa: D101, D102, D103, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

import pickle
from typing import Any

import pytest

import weft
from weft.exceptions import TaskError, WeftError
from weft.testing.semantics.engines import LIMIT_S, EngineSemantics


class TwoPartError(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


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
