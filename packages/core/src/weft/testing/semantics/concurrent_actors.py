"""What async and threaded actors have to do: several calls at once, groups, order of starts."""

# ruff: noqa: D101, D102, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import weft
from weft.actor import exit_actor
from weft.exceptions import ActorDiedError, OptionError
from weft.testing.semantics.engines import LIMIT_S, EngineSemantics, Signal


@weft.remote
class Meeting:
    """Calls that wait for each other, on a loop."""

    def __init__(self, parties: int = 2) -> None:
        self.parties = parties
        self.there = 0
        self.most = 0
        self.started: list[int] = []
        self.all_there = asyncio.Event()

    @weft.method
    async def arrive(self) -> int:
        self.there += 1
        self.most = max(self.most, self.there)
        if self.there >= self.parties:
            self.all_there.set()
        await self.all_there.wait()
        return self.there

    @weft.method
    async def pass_by(self, number: int) -> int:
        self.started.append(number)
        self.there += 1
        self.most = max(self.most, self.there)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.there -= 1
        return number

    @weft.method
    async def pass_once_met(self) -> None:
        """As `pass_by`, but the first ones wait until there are enough of them."""
        self.there += 1
        self.most = max(self.most, self.there)
        if self.there >= self.parties:
            self.all_there.set()
        await self.all_there.wait()
        await asyncio.sleep(0)
        self.there -= 1

    @weft.method
    async def facts(self) -> tuple[int, list[int]]:
        return self.most, self.started

    @weft.method
    def plain(self) -> int:
        return self.parties

    @weft.method
    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise ValueError("async")

    @weft.method
    async def leave(self) -> None:
        await asyncio.sleep(0)
        exit_actor()

    @weft.method
    async def context(self, name: str) -> tuple[str | None, str | None]:
        before = weft.get_runtime_context().get_task_name()
        await asyncio.sleep(0)
        return before, weft.get_runtime_context().get_task_name()

    @weft.method
    async def ask(self, ref: list[Any]) -> Any:
        return await ref[0]

    @weft.method
    async def loop_is_running(self) -> bool:
        return asyncio.get_running_loop().is_running()


class AsyncActorSemantics(EngineSemantics):
    def test_async_methods_return_their_values(self) -> None:
        assert weft.get(Meeting.remote().pass_by.remote(3), timeout=LIMIT_S) == 3

    def test_async_calls_run_at_the_same_time(self) -> None:
        meeting = Meeting.remote(3)
        refs = [meeting.arrive.remote() for _ in range(3)]
        assert weft.get(refs, timeout=LIMIT_S) == [3, 3, 3]

    def test_async_calls_start_in_the_order_they_were_made(self) -> None:
        meeting = Meeting.remote()
        weft.get([meeting.pass_by.remote(number) for number in range(50)], timeout=LIMIT_S)
        assert weft.get(meeting.facts.remote())[1] == list(range(50))

    def test_max_concurrency_limits_async_calls(self) -> None:
        meeting = Meeting.options(max_concurrency=2).remote(2)
        weft.get([meeting.pass_once_met.remote() for _ in range(20)], timeout=LIMIT_S)
        assert weft.get(meeting.facts.remote())[0] == 2

    def test_plain_methods_of_async_actors_work(self) -> None:
        assert weft.get(Meeting.remote(7).plain.remote(), timeout=LIMIT_S) == 7

    def test_async_error_is_of_the_users_class(self) -> None:
        with pytest.raises(ValueError, match="async"):
            weft.get(Meeting.remote().fail.remote(), timeout=LIMIT_S)

    def test_async_actor_can_await_references(self) -> None:
        meeting = Meeting.remote()
        ref = weft.remote(abs).remote(-4)
        assert weft.get(meeting.ask.remote([ref]), timeout=LIMIT_S) == 4

    def test_async_actors_await_each_other(self) -> None:
        first, second = Meeting.remote(), Meeting.remote()
        inner = second.pass_by.remote(5)
        assert weft.get(first.ask.remote([inner]), timeout=LIMIT_S) == 5

    def test_context_belongs_to_the_call(self) -> None:
        meeting = Meeting.remote()
        refs = [meeting.context.options(name=f"call {number}").remote("") for number in range(5)]
        names = [(f"call {number}", f"call {number}") for number in range(5)]
        assert weft.get(refs, timeout=LIMIT_S) == names

    def test_loop_runs_in_async_methods(self) -> None:
        assert weft.get(Meeting.remote().loop_is_running.remote(), timeout=LIMIT_S)

    def test_exit_actor_works_in_async_methods(self) -> None:
        meeting = Meeting.remote(2)
        waiting = meeting.arrive.remote()
        with pytest.raises(ActorDiedError):
            weft.get(meeting.leave.remote(), timeout=LIMIT_S)
        with pytest.raises(ActorDiedError):
            weft.get(waiting, timeout=LIMIT_S)

    def test_kill_ends_async_calls(self) -> None:
        meeting = Meeting.remote(2)
        waiting = meeting.arrive.remote()
        weft.kill(meeting)
        with pytest.raises(ActorDiedError):
            weft.get(waiting, timeout=LIMIT_S)

    def test_async_groups_have_limits_of_their_own(self) -> None:
        @weft.remote(concurrency_groups={"io": 1})
        class Grouped:
            def __init__(self) -> None:
                self.now = self.most = 0

            @weft.method(concurrency_group="io")
            async def narrow(self) -> int:
                self.now += 1
                self.most = max(self.most, self.now)
                await asyncio.sleep(0)
                self.now -= 1
                return self.most

            async def wide(self) -> str:
                return "wide"

        grouped: Any = Grouped.remote()
        assert set(weft.get([grouped.narrow.remote() for _ in range(5)], timeout=LIMIT_S)) == {1}
        assert weft.get(grouped.wide.remote(), timeout=LIMIT_S) == "wide"

    def test_group_can_be_chosen_for_a_call(self) -> None:
        @weft.remote(concurrency_groups={"io": 1})
        class Grouped:
            async def work(self) -> str:
                return "done"

        grouped: Any = Grouped.remote()
        assert (
            weft.get(grouped.work.options(concurrency_group="io").remote(), timeout=LIMIT_S)
            == "done"
        )

    def test_async_call_can_have_a_timeout(self) -> None:
        @weft.remote
        class Slow:
            @weft.method(timeout=0.05)
            async def work(self) -> None:
                await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            weft.get(Slow.remote().work.remote(), timeout=LIMIT_S)


@weft.remote
class Rendezvous:
    """Calls that wait for each other, on threads."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)

    @weft.method
    def arrive(self) -> bool:
        self.barrier.wait(LIMIT_S)
        return True

    @weft.method
    def thread(self) -> int:
        return threading.get_ident()

    @weft.method
    def fail(self) -> None:
        raise ValueError("threaded")


class ThreadedActorSemantics(EngineSemantics):
    def test_threaded_calls_run_at_the_same_time(self) -> None:
        rendezvous = Rendezvous.options(max_concurrency=3).remote(3)
        assert (
            weft.get([rendezvous.arrive.remote() for _ in range(3)], timeout=LIMIT_S) == [True] * 3
        )

    def test_threaded_error_is_of_the_users_class(self) -> None:
        with pytest.raises(ValueError, match="threaded"):
            weft.get(Rendezvous.options(max_concurrency=2).remote(1).fail.remote(), timeout=LIMIT_S)

    def test_no_more_threads_than_allowed_are_used(self) -> None:
        rendezvous = Rendezvous.options(max_concurrency=2).remote(1)
        refs = [rendezvous.thread.remote() for _ in range(30)]
        assert 1 <= len(set(weft.get(refs, timeout=LIMIT_S))) <= 2

    def test_groups_have_threads_of_their_own(self) -> None:
        @weft.remote(concurrency_groups={"io": 1, "compute": 1})
        class Grouped:
            def __init__(self) -> None:
                self.barrier = threading.Barrier(3)

            @weft.method(concurrency_group="io")
            def read(self) -> str:
                self.barrier.wait(LIMIT_S)
                return "read"

            @weft.method(concurrency_group="compute")
            def count(self) -> str:
                self.barrier.wait(LIMIT_S)
                return "counted"

            def other(self) -> str:
                self.barrier.wait(LIMIT_S)
                return "other"

        grouped: Any = Grouped.remote()
        refs = [grouped.read.remote(), grouped.count.remote(), grouped.other.remote()]
        assert weft.get(refs, timeout=LIMIT_S) == ["read", "counted", "other"]

    def test_unknown_group_of_a_call_is_refused(self) -> None:
        rendezvous = Rendezvous.options(max_concurrency=2).remote(1)
        with pytest.raises((OptionError, ValueError), match="nowhere"):
            weft.get(
                rendezvous.thread.options(concurrency_group="nowhere").remote(), timeout=LIMIT_S
            )

    def test_threaded_actor_can_call_itself(self) -> None:
        @weft.remote(max_concurrency=2)
        class Selfish:
            def outer(self) -> int:
                return weft.get(weft.get_runtime_context().current_actor.inner.remote()) + 1

            def inner(self) -> int:
                return 1

        selfish: Any = Selfish.remote()
        assert weft.get(selfish.outer.remote(), timeout=LIMIT_S) == 2

    def test_generator_methods_of_threaded_actors_stream(self) -> None:
        @weft.remote(max_concurrency=2)
        class Source:
            def items(self) -> Any:
                yield from range(5)

        source: Any = Source.remote()
        stream = source.items.options(backpressure=1).remote()
        assert [weft.get(ref) for ref in stream] == [0, 1, 2, 3, 4]

    def test_calls_of_threads_of_the_driver_all_run(self) -> None:
        signal, results = Signal.remote(), []

        def run() -> None:
            results.append(weft.get(signal.wait.remote(), timeout=LIMIT_S))

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        weft.get(signal.send.remote())
        for thread in threads:
            thread.join(LIMIT_S)
        assert results == ["sent"] * 4
