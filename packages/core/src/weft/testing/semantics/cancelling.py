"""What cancel has to do, in every state that a task can be in."""

# ruff: noqa: D101, D102, D103, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.exceptions import TaskCancelledError
from weft.testing.semantics.engines import LIMIT_S, EngineSemantics, Signal, needs

if TYPE_CHECKING:
    from collections.abc import Iterator


@weft.remote
def echo(value: Any) -> Any:
    return value


@weft.remote
class Sleeper:
    def __init__(self) -> None:
        self.noticed = False
        self.ran: list[str] = []

    @weft.method
    async def sleep(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.noticed = True
            raise

    @weft.method
    async def shrug(self) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "shrugged"
        return "never"

    @weft.method
    async def run(self, word: str) -> None:
        self.ran.append(word)

    @weft.method
    async def facts(self) -> tuple[bool, list[str]]:
        return self.noticed, self.ran


class CancelSemantics(EngineSemantics):
    def test_cancelling_a_task_that_has_ended_changes_nothing(self) -> None:
        ref = echo.remote(1)
        assert weft.get(ref) == 1
        weft.cancel(ref)
        assert weft.get(ref) == 1

    def test_cancelling_a_stored_value_changes_nothing(self) -> None:
        ref = weft.put(1)
        weft.cancel(ref)
        assert weft.get(ref) == 1

    def test_task_that_waits_for_its_argument_is_dropped(self) -> None:
        signal = Signal.remote()
        ref = echo.remote(signal.wait.remote())
        weft.cancel(ref)
        with pytest.raises(TaskCancelledError):
            weft.get(ref, timeout=LIMIT_S)
        weft.get(signal.send.remote())

    def test_task_that_takes_a_cancelled_value_fails(self) -> None:
        signal = Signal.remote()
        first = echo.remote(signal.wait.remote())
        second = echo.remote(first)
        weft.cancel(first)
        with pytest.raises(TaskCancelledError):
            weft.get(second, timeout=LIMIT_S)

    def test_running_async_call_is_cancelled(self) -> None:
        sleeper = Sleeper.remote()
        ref = sleeper.sleep.remote()
        weft.get(sleeper.run.remote("after"), timeout=LIMIT_S)
        weft.cancel(ref)
        with pytest.raises(TaskCancelledError):
            weft.get(ref, timeout=LIMIT_S)
        assert weft.get(sleeper.facts.remote()) == (True, ["after"])

    def test_call_that_ends_well_all_the_same_gives_its_value(self) -> None:
        sleeper = Sleeper.remote()
        ref = sleeper.shrug.remote()
        weft.get(sleeper.run.remote("after"), timeout=LIMIT_S)
        weft.cancel(ref)
        assert weft.get(ref, timeout=LIMIT_S) == "shrugged"

    def test_call_that_waits_never_runs_and_fails_at_once(self) -> None:
        signal, sleeper = Signal.remote(), Sleeper.remote()
        ref = sleeper.run.remote(signal.wait.remote())
        weft.cancel(ref)
        with pytest.raises(TaskCancelledError):
            weft.get(ref, timeout=LIMIT_S)
        weft.get(signal.send.remote())
        weft.get(sleeper.run.remote("other"), timeout=LIMIT_S)
        assert weft.get(sleeper.facts.remote())[1] == ["other"]

    def test_cancel_with_force_is_not_for_actors(self) -> None:
        sleeper = Sleeper.remote()
        ref = sleeper.sleep.remote()
        weft.get(sleeper.run.remote("after"), timeout=LIMIT_S)
        with pytest.raises(ValueError, match="kill"):
            weft.cancel(ref, force=True)

    def test_cancel_of_something_else_is_refused(self) -> None:
        with pytest.raises(TypeError, match="int"):
            weft.cancel(3)

    def test_cancelled_stream_ends_with_the_error(self) -> None:
        @weft.remote
        def forever() -> Iterator[int]:
            while True:
                yield 1

        stream = forever.options(backpressure=1).remote()
        weft.get(next(stream))
        weft.cancel(stream)
        with pytest.raises(TaskCancelledError):
            weft.get(list(stream), timeout=LIMIT_S)

    @needs("concurrency")
    def test_running_task_is_interrupted(self) -> None:
        signal = Signal.remote()

        @weft.remote
        def spin(signal: Any) -> None:
            weft.get(signal.send.remote())
            while True:
                pass

        ref = spin.remote(signal)
        weft.get(signal.wait.remote(), timeout=LIMIT_S)
        weft.cancel(ref)
        with pytest.raises(TaskCancelledError):
            weft.get(ref, timeout=LIMIT_S)

    @needs("concurrency")
    def test_running_task_that_blocks_in_get_is_interrupted(self) -> None:
        signal, never = Signal.remote(), Signal.remote()

        @weft.remote
        def block(signal: Any, never: Any) -> None:
            weft.get(signal.send.remote())
            weft.get(never.wait.remote())

        ref = block.remote(signal, never)
        weft.get(signal.wait.remote(), timeout=LIMIT_S)
        weft.cancel(ref)
        with pytest.raises(TaskCancelledError):
            weft.get(ref, timeout=LIMIT_S)

    @needs("concurrency")
    def test_children_are_cancelled_with_their_parent(self) -> None:
        signal, never = Signal.remote(), Signal.remote()
        keeper = Sleeper.remote()

        @weft.remote
        def parent(signal: Any, never: Any, keeper: Any) -> None:
            child = keeper.sleep.remote()
            weft.get(keeper.run.remote("child"))
            weft.get(signal.send.remote())
            weft.get([never.wait.remote(), child])

        ref = parent.remote(signal, never, keeper)
        weft.get(signal.wait.remote(), timeout=LIMIT_S)
        weft.cancel(ref)
        with pytest.raises(TaskCancelledError):
            weft.get(ref, timeout=LIMIT_S)
        for _ in range(2000):
            if weft.get(keeper.facts.remote())[0]:
                return
            weft.wait([never.wait.remote()], timeout=0.005)
        raise AssertionError("the child goes on")

    @needs("processes")
    def test_force_ends_the_process(self) -> None:
        signal = Signal.remote()

        @weft.remote(max_retries=0)
        def stubborn(signal: Any) -> None:
            weft.get(signal.send.remote())
            while True:
                try:
                    while True:
                        pass
                except KeyboardInterrupt:
                    continue

        ref = stubborn.remote(signal)
        weft.get(signal.wait.remote(), timeout=LIMIT_S)
        weft.cancel(ref, force=True)
        with pytest.raises(TaskCancelledError):
            weft.get(ref, timeout=LIMIT_S)
