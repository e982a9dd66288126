"""Programs that go on for long: what is over is kept nowhere."""

from __future__ import annotations

import gc
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft._engine import current
from weft._runtime.loop import Waiter

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

WAIT_S = 20.0
BY_DESIGN = {
    # Connections stay while the processes at their other ends live.
    *("peers.by_address", "peers._all", "peers._unflushed"),
    # What went since the last look.
    "objects._released",
    # Code that came is not sent again.
    *("executor._code", "executor._functions", "executor._page_tails", "answers.trace"),
}


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    weft.init(num_cpus=2, log_to_driver=False)
    yield
    weft.shutdown()


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def up(self) -> int:
        self.count += 1
        return self.count

    def fail(self) -> None:
        raise ValueError(self.count)

    def items(self) -> Iterator[int]:
        yield from range(self.count)


@weft.remote
def double(value: int) -> int:
    return 2 * value


@weft.remote
def fill(size: int, before: bytes = b"") -> bytes:
    return bytes(size)


@weft.remote
def refuse() -> int:
    raise ValueError("never")


@weft.remote
def call(counter: Any) -> int:
    value: int = weft.get(counter.up.remote())
    return value


@weft.remote
def call_twice(counter: Any) -> tuple[int, list[str]]:
    engine: Any = current.engine
    ends = 0
    for _ in range(2):
        try:
            weft.get(counter.up.remote(), timeout=WAIT_S)
        except weft.exceptions.ActorDiedError:
            ends += 1
    return ends, [actor.hex() for actor in engine.calling.machine.callees]


@weft.remote
def look() -> dict[str, list[str]]:
    """Return what its worker keeps."""
    engine: Any = current.engine
    return {name: list(map(repr, table)) for name, table in what_is_kept(engine).items()}


def what_is_kept(engine: Any) -> dict[str, Any]:
    """All containers of a runtime that are not empty, by name."""
    parts = {
        name: getattr(engine, name)
        for name in ("leasing", "calling", "streams", "questions", "objects", "peers", "values")
    }
    parts |= {
        "tasks": engine.leasing.machine,
        "task attempts": engine.leasing.machine.attempts,
        "calls": engine.calling.machine,
        "call attempts": engine.calling.machine.attempts,
        "ownership": engine.objects.machine,
        "lineages": engine.objects.machine.lineages,
    }
    if engine.links.role == "worker":
        parts |= {"executor": engine.executor, "answers": engine.executor.answers}
    return {
        name: table
        for part, owner in parts.items()
        for attribute, table in vars(owner).items()
        if (name := f"{part}.{attribute}") not in BY_DESIGN
        and isinstance(table, dict | set | list | deque)
        and table
    }


def check_that_all_is_forgotten() -> None:
    engine: Any = current.engine
    gc.collect()
    until = monotonic() + WAIT_S
    while (kept := what_is_kept(engine)) and monotonic() < until:
        # Reads what comes: the ends of actors, and the end of each lease's time.
        engine.loop.wait(Waiter(), monotonic() + 0.05)
    assert not kept


def test_tasks_that_are_over_are_kept_nowhere() -> None:
    refs = [double.remote(number) for number in range(100)]
    chain = double.remote(double.remote(1))
    shapes = [double.options(num_cpus=0.01 * number).remote(1) for number in range(1, 10)]
    functions = [weft.remote(lambda number=number: number).remote() for number in range(10)]
    weft.get([*refs, chain, *shapes, *functions], timeout=WAIT_S)
    failed = refuse.remote()
    behind = double.options(num_cpus=0.5).remote(failed)
    never = double.options(num_cpus=100).remote(1)
    for ref in (failed, behind, never):
        with pytest.raises(weft.exceptions.WeftError):
            weft.get(ref, timeout=WAIT_S)
    del refs, chain, shapes, functions, failed, behind, never, ref
    check_that_all_is_forgotten()


def test_large_results_that_are_over_are_kept_nowhere() -> None:
    first = fill.remote(200_000)
    second = fill.remote(200_000, first)
    weft.get(second, timeout=WAIT_S)
    engine: Any = current.engine
    assert len(engine.objects.machine.lineages.kept) == 2
    del first, second
    check_that_all_is_forgotten()


def test_actors_that_are_over_are_kept_nowhere() -> None:
    actor_class = weft.remote(Counter)
    actors = [actor_class.remote(number) for number in range(6)]
    assert weft.get([actor.up.remote() for actor in actors], timeout=WAIT_S) == [*range(1, 7)]
    assert weft.get([call.remote(actor) for actor in actors], timeout=WAIT_S) == [*range(2, 8)]
    assert len(list(actors[1].items.options(num_returns="streaming").remote())) == 3
    with pytest.raises(ValueError, match="2"):
        weft.get(actors[0].fail.remote(), timeout=WAIT_S)
    weft.kill(actors[0])
    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(actors[0].up.remote(), timeout=WAIT_S)
    del actors
    check_that_all_is_forgotten()


def test_actors_that_never_lived_are_kept_nowhere() -> None:
    actor_class = weft.remote(Counter)
    taken = actor_class.options(name="taken").remote()
    with pytest.raises(ValueError, match="taken"):
        actor_class.options(name="taken").remote()
    failed = actor_class.remote(refuse.remote())
    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(failed.up.remote(), timeout=WAIT_S)
    never = actor_class.options(num_cpus=100).remote()
    with pytest.raises(weft.exceptions.ActorUnschedulableError):
        weft.get(never.up.remote(), timeout=WAIT_S)
    del taken, failed, never
    check_that_all_is_forgotten()


def test_worker_keeps_nothing_of_what_it_has_run() -> None:
    actor = weft.remote(Counter).remote()
    refs = [call.remote(actor) for _ in range(20)]
    weft.get([double.remote(ref) for ref in refs], timeout=WAIT_S)
    with pytest.raises(ValueError, match="never"):
        weft.get(refuse.remote(), timeout=WAIT_S)
    the_looking_task = {"executor._running", "answers.jobs"}
    the_living_actor = {"calling._actors", "calls.callees"}
    for _ in range(20):
        kept = weft.get(look.remote(), timeout=WAIT_S)
        assert kept.keys() <= the_looking_task | the_living_actor
        assert all(len(names) == 1 for names in kept.values())


def test_detached_actor_is_forgotten_when_it_is_dead() -> None:
    detached = weft.remote(Counter).options(name="stays", lifetime="detached").remote()
    assert weft.get(detached.up.remote(), timeout=WAIT_S) == 1
    weft.kill(detached)
    check_that_all_is_forgotten()


def test_handle_that_is_left_says_how_its_actor_ended() -> None:
    actor = weft.remote(Counter).remote()
    weft.get(actor.up.remote(), timeout=WAIT_S)
    weft.kill(actor)
    for _ in range(2):
        with pytest.raises(weft.exceptions.ActorDiedError, match="kill ended it"):
            weft.get(actor.up.remote(), timeout=WAIT_S)


def test_worker_that_calls_dead_actors_learns_it_each_time_and_keeps_nothing() -> None:
    actor = weft.remote(Counter).remote()
    weft.get(actor.up.remote(), timeout=WAIT_S)
    weft.kill(actor)
    assert weft.get(call_twice.remote(actor), timeout=WAIT_S) == (2, [])


def test_named_actor_whose_constructors_argument_fails_does_not_block_its_maker() -> None:
    actor = weft.remote(Counter).options(name="brief").remote(refuse.remote())
    with pytest.raises(weft.exceptions.ActorDiedError, match="constructor"):
        weft.get(actor.up.remote(), timeout=WAIT_S)
    with pytest.raises(ValueError, match="brief"):
        weft.get_actor("brief")


def test_others_learn_of_an_actor_whose_constructors_argument_failed() -> None:
    actor = weft.remote(Counter).remote(refuse.remote())
    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(call.remote(actor), timeout=WAIT_S)
