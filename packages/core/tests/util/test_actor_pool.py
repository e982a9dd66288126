from __future__ import annotations

import os
from typing import Any

import pytest

import weft
from weft.exceptions import ActorDiedError, GetTimeoutError, SessionError
from weft.util import ActorPool

# For what the inline engine cannot do.
processes = pytest.mark.parametrize(
    "engine", [pytest.param("local", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def worker_class() -> Any:
    @weft.remote
    class Worker:
        def double(self, number: int) -> int:
            if number < 0:
                raise ValueError("negative")
            return 2 * number

        def die_at(self, number: int, fatal: int) -> int:
            if number == fatal:
                os._exit(3)
            return number

        def wait_for(self, refs: list[Any]) -> str:
            weft.get(refs)
            return "waited"

        def arrive_at(self, gate: Any, number: int) -> int:
            weft.get(gate.arrive.remote())
            return number

    return Worker


@pytest.fixture
def pool(worker_class: Any) -> ActorPool[Any]:
    return ActorPool([worker_class.remote() for _ in range(2)])


def double(actor: Any, number: int) -> Any:
    return actor.double.remote(number)


def test_map_keeps_the_order_of_the_values(engine: str, pool: ActorPool[Any]) -> None:
    assert list(pool.map(double, range(10))) == [2 * number for number in range(10)]
    assert list(pool.map(double, [])) == []


def test_map_unordered_gives_every_result_once(engine: str, pool: ActorPool[Any]) -> None:
    assert sorted(pool.map_unordered(double, range(10))) == [2 * number for number in range(10)]


@processes
def test_actor_that_is_done_works_on_while_another_is_slow(pool: ActorPool[Any], gate: Any) -> None:
    pool.submit(lambda actor, _: actor.wait_for.remote([gate.wait.remote()]), 0)
    for number in range(3):
        pool.submit(lambda actor, value: actor.arrive_at.remote(gate, value), number)
    # It returns only if the other actor was given all three meanwhile.
    assert pool.get_next() == "waited"
    assert [pool.get_next() for _ in range(3)] == [0, 1, 2]


def test_results_not_taken_are_forgotten_by_map(engine: str, pool: ActorPool[Any]) -> None:
    for number in range(5):
        pool.submit(double, 100 + number)
    assert list(pool.map(double, range(3))) == [0, 2, 4]
    assert not pool.has_next()


def test_error_counts_as_a_result(engine: str, pool: ActorPool[Any]) -> None:
    for number in (1, -1, 3):
        pool.submit(double, number)
    assert pool.get_next() == 2
    with pytest.raises(ValueError, match="negative"):
        pool.get_next()
    assert pool.get_next() == 6
    assert not pool.has_next()


def test_nothing_to_wait_for_stops_the_iteration(engine: str, pool: ActorPool[Any]) -> None:
    with pytest.raises(StopIteration):
        pool.get_next()
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


def test_ordered_and_unordered_can_be_mixed(engine: str, pool: ActorPool[Any]) -> None:
    for number in range(6):
        pool.submit(double, number)
    results = [pool.get_next_unordered(), pool.get_next(), pool.get_next_unordered()]
    while pool.has_next():
        results.append(pool.get_next())
    assert sorted(results) == [0, 2, 4, 6, 8, 10]


def test_free_actors_can_be_taken_out_and_put_back(engine: str, pool: ActorPool[Any]) -> None:
    assert pool.has_free()
    first, second = pool.pop_idle(), pool.pop_idle()
    assert first is not None
    assert second is not None
    assert pool.pop_idle() is None
    assert not pool.has_free()
    pool.submit(double, 1)
    with pytest.raises(SessionError, match="push"):
        pool.get_next()
    pool.push(first)
    with pytest.raises(ValueError, match="already"):
        pool.push(first)
    pool.submit(double, 2)
    assert pool.get_next() == 4


def test_function_that_raises_drops_its_value_only(engine: str, pool: ActorPool[Any]) -> None:
    def broken(actor: Any, number: int) -> Any:
        raise KeyError(number)

    with pytest.raises(KeyError):
        pool.submit(broken, 1)
    assert not pool.has_next()
    assert list(pool.map(double, range(4))) == [0, 2, 4, 6]


@processes
def test_time_is_up_and_the_result_is_kept_or_forgotten(pool: ActorPool[Any], gate: Any) -> None:
    pool.submit(lambda actor, ref: actor.wait_for.remote([ref]), gate.wait.remote())
    with pytest.raises(GetTimeoutError):
        pool.get_next(timeout=0.01)
    assert pool.has_next()
    with pytest.raises(TimeoutError, match="forgotten"):
        pool.get_next_unordered(timeout=0.01, ignore_if_timedout=True)
    assert not pool.has_next()
    assert list(pool.map(double, range(3))) == [0, 2, 4]


@processes
def test_dead_actor_gets_no_more_work(engine: str, pool: ActorPool[Any]) -> None:
    for number in range(8):
        pool.submit(lambda actor, value: actor.die_at.remote(value, 2), number)
    results = []
    deaths = 0
    while pool.has_next():
        try:
            results.append(pool.get_next())
        except ActorDiedError:
            deaths += 1
    assert deaths == 1
    assert results == [0, 1, 3, 4, 5, 6, 7]


@processes
def test_values_fail_when_no_actor_is_left(engine: str, worker_class: Any) -> None:
    pool: ActorPool[int] = ActorPool([worker_class.remote()])
    for number in range(4):
        pool.submit(lambda actor, value: actor.die_at.remote(value, 0), number)
    failures = 0
    while pool.has_next():
        with pytest.raises(ActorDiedError):
            pool.get_next()
        failures += 1
    assert failures == 4
