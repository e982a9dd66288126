"""Lanes and loops of inline actors: what they are given ends somehow, and shutdown waits for them.

The orders of events that matter are forced: a plain method that holds the actor's loop lets what
comes meanwhile pile up behind it.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft._runtime import inline
from weft._runtime.inline_threads import InlineLane, InlineLoop, InlineThreads
from weft.exceptions import ActorDiedError, ActorUnavailableError, SessionError, TaskCancelledError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

LIMIT_S = 10


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    weft.init(engine="inline", num_cpus=2)
    yield
    weft.shutdown()


class Gate:
    """Holds a thread. It is in this process, so it stands in no argument but is found by name."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def hold(self) -> None:
        self.reached.set()
        assert self.open.wait(LIMIT_S)


gates: dict[str, Gate] = {}
notes: list[str] = []


@pytest.fixture
def gate() -> Iterator[Gate]:
    gates["gate"] = Gate()
    yield gates["gate"]
    gates.pop("gate").open.set()


class Loop:
    """An async actor."""

    def __init__(self) -> None:
        self.ran: list[int] = []

    def hold(self) -> None:
        gates["gate"].hold()

    async def run(self, number: int) -> int:
        self.ran.append(number)
        return number

    async def all(self) -> list[int]:
        return self.ran

    async def stay(self) -> None:
        await asyncio.Event().wait()

    async def end_session(self) -> None:
        weft.shutdown()
        gates["gate"].open.set()

    async def shrug(self) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "shrugged"
        return "never"

    async def hold_at_the_end(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            gates["gate"].hold()

    async def note_the_end(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            notes.append(threading.current_thread().name)

    async def count(self) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            gates["gate"].open.set()


class Busy:
    """A threaded actor that goes on until it is refused."""

    def work(self) -> None:
        gates["gate"].reached.set()
        double = weft.remote(lambda number: number * 2)
        while True:
            double.remote(1)


def held(gate: Gate, **options: Any) -> tuple[Any, Any]:
    """Return an async actor whose loop is in `hold`, and the reference of that call."""
    actor: Any = weft.remote(Loop).options(**options).remote()
    holding = actor.hold.remote()
    assert gate.reached.wait(LIMIT_S)
    return actor, holding


def weft_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("weft")]


# ------------------------------------------------------------------ the end of a session


def test_shutdown_waits_for_loops_and_lanes() -> None:
    for _ in range(20):
        loops: list[Any] = [weft.remote(Loop).remote() for _ in range(3)]
        lanes: list[Any] = [weft.remote(max_concurrency=2)(Loop).remote() for _ in range(3)]
        weft.get([each.run.remote(1) for each in loops + lanes], timeout=LIMIT_S)
        pending = [each.stay.remote() for each in loops]
        weft.shutdown()
        assert weft_threads() == []
        with pytest.raises(SessionError):
            weft.get(pending)
        weft.init(engine="inline")


def test_shutdown_closes_the_generators_of_a_loop(gate: Gate) -> None:
    actor: Any = weft.remote(Loop).remote()
    stream = actor.count.options(backpressure=1).remote()
    assert weft.get(next(stream)) == 0
    weft.shutdown()
    assert gate.open.is_set()


def test_shutdown_waits_for_threads_of_tasks(gate: Gate) -> None:
    actor, _ = held(gate)
    weft.remote(lambda _: gates["gate"].hold()).remote(actor.run.remote(1))
    gate.open.set()
    weft.shutdown()
    assert weft_threads() == []


def test_shutdown_names_the_threads_that_a_method_holds(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inline, "END_S", 0.01)
    held(gate)
    weft.shutdown()
    assert "1 of its threads" in caplog.text
    assert "weft-Loop" in caplog.text
    gate.open.set()


def test_shutdown_in_a_method_does_not_wait_for_itself(gate: Gate) -> None:
    actor: Any = weft.remote(Loop).remote()
    actor.end_session.remote()
    assert gate.open.wait(LIMIT_S)
    assert not weft.is_initialized()


def test_method_that_outlives_the_session_starts_no_other_one(gate: Gate) -> None:
    busy: Any = weft.remote(max_concurrency=2)(Busy).remote()
    busy.work.remote()
    assert gate.reached.wait(LIMIT_S)
    weft.shutdown()
    assert weft_threads() == []
    assert not weft.is_initialized()


def test_nothing_is_started_while_the_session_ends(capsys: pytest.CaptureFixture[str]) -> None:
    class Hooked:
        def __weft_terminate__(self) -> None:
            Loop_.remote()

    Loop_: Any = weft.remote(Loop)  # noqa: N806 - a class
    context: Any = weft.remote(Hooked).remote()
    engine = weft._engine.current.engine
    assert engine is not None
    engine.shutdown()
    assert "the session ends" in capsys.readouterr().err
    assert context is not None


# ------------------------------------------------------------------ the end of an actor


def test_calls_posted_behind_a_kill_fail(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    actor, holding = held(gate)
    waiting = [actor.run.remote(number) for number in range(5)]
    weft.kill(actor)
    gate.open.set()
    for ref in [holding, *waiting]:
        with pytest.raises(ActorDiedError):
            weft.get(ref, timeout=LIMIT_S)
    weft.shutdown()
    assert caplog.text == ""


def test_killed_actors_calls_fail_whatever_they_do_with_their_cancellation() -> None:
    for _ in range(20):
        actor: Any = weft.remote(Loop).remote()
        refs = [actor.shrug.remote(), actor.stay.remote()]
        weft.get(actor.run.remote(1), timeout=LIMIT_S)
        weft.kill(actor)
        for ref in refs:
            with pytest.raises(ActorDiedError):
                weft.get(ref, timeout=LIMIT_S)


def test_calls_that_may_be_retried_run_again_in_order_after_a_kill(gate: Gate) -> None:
    actor, holding = held(gate, max_restarts=1, max_task_retries=1)
    waiting = [actor.run.remote(number) for number in range(20)]
    weft.kill(actor, no_restart=False)
    gate.open.set()
    assert weft.get([holding, *waiting], timeout=LIMIT_S) == [None, *range(20)]
    assert weft.get(actor.all.remote(), timeout=LIMIT_S) == list(range(20))


def test_stream_is_not_begun_again_after_a_kill(gate: Gate) -> None:
    actor: Any = weft.remote(Loop).options(max_restarts=1, max_task_retries=1).remote()
    stream = actor.count.options(backpressure=1).remote()
    assert weft.get(next(stream)) == 0
    weft.kill(actor, no_restart=False)
    with pytest.raises(ActorUnavailableError):
        weft.get(list(stream), timeout=LIMIT_S)
    assert gate.open.wait(LIMIT_S)


def test_end_of_a_call_of_a_killed_actor_is_not_one_of_its_successor(gate: Gate) -> None:
    actor: Any = weft.remote(Loop).options(max_restarts=1, max_task_retries=1).remote()
    first = actor.hold_at_the_end.remote()
    weft.get(actor.run.remote(1), timeout=LIMIT_S)
    weft.kill(actor, no_restart=False)
    assert gate.reached.wait(LIMIT_S)
    # The first loop is in the `finally` of the call that runs again on the second one.
    assert weft.get(actor.all.remote(), timeout=LIMIT_S) == []
    gate.open.set()
    ready, _ = weft.wait([first], timeout=0)
    assert ready == []
    weft.cancel(first)
    with pytest.raises(TaskCancelledError):
        weft.get(first, timeout=LIMIT_S)


def test_call_ends_in_its_loop_though_nobody_else_refers_to_it(gate: Gate) -> None:
    notes.clear()
    actor: Any = weft.remote(Loop).remote()
    actor.note_the_end.remote()
    actor.hold.remote()
    assert gate.reached.wait(LIMIT_S)
    weft.kill(actor)
    gc.collect()
    assert notes == []
    gate.open.set()
    weft.shutdown()
    assert notes == ["weft-Loop"]


# ------------------------------------------------------------------ cancelling


def test_call_that_is_cancelled_before_its_first_step_ends(gate: Gate) -> None:
    actor, holding = held(gate)
    ref = actor.run.remote(1)
    weft.cancel(ref)
    gate.open.set()
    with pytest.raises(TaskCancelledError):
        weft.get(ref, timeout=LIMIT_S)
    weft.get(holding, timeout=LIMIT_S)
    assert weft.get(actor.all.remote(), timeout=LIMIT_S) == []


def test_call_that_is_cancelled_while_it_waits_for_its_turn_ends() -> None:
    actor: Any = weft.remote(Loop).options(max_concurrency=1).remote()
    first, second = actor.stay.remote(), actor.run.remote(1)
    weft.cancel(second)
    with pytest.raises(TaskCancelledError):
        weft.get(second, timeout=LIMIT_S)
    weft.cancel(first)
    assert weft.get(actor.all.remote(), timeout=LIMIT_S) == []


def test_async_generator_is_closed_when_its_consumer_leaves(gate: Gate) -> None:
    actor: Any = weft.remote(Loop).remote()
    stream = actor.count.options(backpressure=1).remote()
    assert weft.get(next(stream)) == 0
    stream.close()
    assert gate.open.wait(LIMIT_S)
    assert weft.get(actor.run.remote(1), timeout=LIMIT_S) == 1


# ------------------------------------------------------------------ the parts


def test_closed_loop_and_lane_refuse() -> None:
    threads = InlineThreads()
    loop, lane = InlineLoop(threads, {"": 1}, "loop"), InlineLane(threads, 1, "lane")
    seen: list[int] = []
    posted = [loop.post(seen.append, number) for number in range(100)]
    loop.close()
    loop.close()
    lane.close()
    lane.close()
    assert all(posted)
    assert not loop.post(seen.append, -1)
    assert not lane.run(lambda: seen.append(-1))
    assert threads.join(LIMIT_S) == []
    assert seen == list(range(100)), "what was posted before the end is run"


def test_threads_that_threads_start_are_waited_for() -> None:
    threads = InlineThreads()
    ended: list[int] = []

    def run(depth: int) -> None:
        if depth:
            threads.start("deeper", lambda: run(depth - 1))
        ended.append(depth)

    run(10)
    assert threads.join(LIMIT_S) == []
    assert sorted(ended) == list(range(11))
