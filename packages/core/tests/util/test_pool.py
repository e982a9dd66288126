"""The Pool: what it has in common with the standard library's, on both, and what is better here."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from functools import partial
from multiprocessing import pool as standard
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

import weft
from weft.exceptions import ActorDiedError, PicklingError, TaskCancelledError
from weft.util.multiprocessing import Pool
from weft.util.multiprocessing import TimeoutError as PoolTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_S = 30

# Workers of Weft cannot import this module; those of multiprocessing are forked with it.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """A session for the tests that make pools of Weft."""
    with weft.init(num_cpus=2):
        yield


@pytest.fixture(
    params=[
        pytest.param("standard", marks=pytest.mark.slow),
        pytest.param("weft", marks=pytest.mark.slow),
    ]
)
def make(request: pytest.FixtureRequest, session: None) -> Iterator[Callable[..., Any]]:
    """Makes pools of either kind, which end with the test."""
    made: list[Any] = []

    def make(*args: Any, **kwargs: Any) -> Any:
        if request.param == "weft":
            made.append(Pool(*args, **kwargs))
        else:
            made.append(multiprocessing.get_context("fork").Pool(*args, **kwargs))
        return made[-1]

    yield make
    for pool in made:
        pool.terminate()
        pool.join()
        if request.param == "standard":
            close_pipes(pool)


def close_pipes(pool: Any) -> None:
    """Do what the standard pool leaves to the garbage collector, before somebody looks."""
    for queue in (pool._inqueue, pool._outqueue, pool._change_notifier):
        queue._reader.close()
        queue._writer.close()
    for process in pool._pool:
        process.close()


# Python warns of forks in programs with threads from 3.12 on; these children only run the tests'
# functions.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture
def pool(make: Callable[..., Any]) -> Any:
    return make(2)


def square(number: int) -> int:
    return number * number


def careful(number: int) -> int:
    if number == 3:
        raise ValueError("three", number)
    return number


def power(base: int, exponent: int = 2) -> int:
    return int(base**exponent)


def slow(number: int) -> int:
    time.sleep(0.1)
    return number


def pid(_: int) -> int:
    return os.getpid()


state = 0
seen: list[int] = []


def initialize(value: int) -> None:
    global state  # noqa: PLW0603 - as programs for multiprocessing do
    state = value
    seen.append(value)


def use_state(number: int) -> tuple[int, int]:
    return state + number, len(seen)


class Counting:
    """Has state of its own."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _: int) -> int:
        self.calls += 1
        return self.calls


# ------------------------------------------------------------------ in common


@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
def test_map_gives_results_in_order(pool: Any, chunksize: int | None) -> None:
    assert pool.map(square, range(20), chunksize) == [square(number) for number in range(20)]
    assert pool.map(square, iter([3, 1]), chunksize) == [9, 1]
    assert pool.map(square, []) == []


def test_starmap_spreads_arguments(pool: Any) -> None:
    assert pool.starmap(power, [(2, 3), (3,), [4, 1]]) == [8, 9, 4]
    assert pool.starmap_async(power, [(2, 3)]).get(LIMIT_S) == [8]


def test_apply_passes_arguments_and_keywords(pool: Any) -> None:
    assert pool.apply(power, (2,), {"exponent": 5}) == 32
    assert pool.apply(power, [3]) == 9
    assert pool.apply_async(power, (2, 3)).get(LIMIT_S) == 8


@pytest.mark.parametrize("chunksize", [1, 4])
def test_imap_gives_results_in_order(pool: Any, chunksize: int) -> None:
    assert list(pool.imap(square, range(20), chunksize)) == [square(n) for n in range(20)]
    assert list(pool.imap(square, iter(range(20)), chunksize)) == [square(n) for n in range(20)]
    assert list(pool.imap(square, [])) == []


@pytest.mark.parametrize("chunksize", [1, 4])
def test_imap_unordered_gives_every_result_once(pool: Any, chunksize: int) -> None:
    results = pool.imap_unordered(square, iter(range(20)), chunksize)
    assert sorted(results) == [square(number) for number in range(20)]


def test_error_is_the_users_own(pool: Any) -> None:
    for call in (
        lambda: pool.map(careful, range(6)),
        lambda: pool.apply(careful, (3,)),
        lambda: pool.starmap(careful, [(3,)]),
        lambda: pool.map_async(careful, range(6), 1).get(LIMIT_S),
    ):
        with pytest.raises(ValueError, match="three") as caught:
            call()
        assert type(caught.value) is ValueError
        assert caught.value.args == ("three", 3)


def test_imap_raises_at_the_item_and_goes_on(pool: Any) -> None:
    results = pool.imap(careful, range(6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert list(results) == [4, 5]
    with pytest.raises(StopIteration):
        next(results)


def test_callbacks_get_the_result_or_the_error_itself(pool: Any) -> None:
    called: list[Any] = []
    pool.map_async(square, range(3), callback=called.append).wait(LIMIT_S)
    pool.apply_async(power, (2,), callback=called.append).wait(LIMIT_S)
    pool.starmap_async(power, [(2, 3)], callback=called.append).wait(LIMIT_S)
    assert called == [[0, 1, 4], 4, [8]]
    errors: list[Any] = []
    pool.map_async(careful, range(6), 1, error_callback=errors.append).wait(LIMIT_S)
    pool.apply_async(careful, (3,), error_callback=errors.append).wait(LIMIT_S)
    pool.starmap_async(careful, [(3,)], error_callback=errors.append).wait(LIMIT_S)
    assert [(type(error), error.args) for error in errors] == [(ValueError, ("three", 3))] * 3
    assert len(called) == 3


def test_result_says_whether_it_is_there(pool: Any) -> None:
    result = pool.apply_async(slow, (1,))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(PoolTimeoutError):
        result.get(0.001)
    result.wait(0.001)
    assert result.get(LIMIT_S) == 1
    assert result.ready()
    assert result.successful()
    failed = pool.apply_async(careful, (3,))
    failed.wait(LIMIT_S)
    assert not failed.successful()


def test_next_of_an_iterator_waits_for_a_time(pool: Any) -> None:
    results = pool.imap(slow, [1])
    with pytest.raises(PoolTimeoutError):
        results.next(timeout=0.001)
    assert results.next(LIMIT_S) == 1
    assert iter(results) is results


def test_initializer_runs_in_every_worker_and_sets_globals(make: Callable[..., Any]) -> None:
    pool = make(2, initialize, (100,))
    assert pool.map(use_state, range(4), 1) == [(100 + number, 1) for number in range(4)]
    assert pool.map(partial(use_state), range(2), 1) == [(100, 1), (101, 1)]


def test_function_with_state_comes_fresh_with_every_chunk(make: Callable[..., Any]) -> None:
    assert make(1).map(Counting(), range(6), chunksize=2) == [1, 2] * 3


def test_workers_are_processes_that_stay(pool: Any) -> None:
    pids = set(pool.map(pid, range(50), 1))
    assert os.getpid() not in pids
    pids |= set(pool.map(pid, range(50), 1))
    assert 1 <= len(pids) <= 2


def test_worker_is_replaced_after_its_share(make: Callable[..., Any]) -> None:
    pool = make(1, maxtasksperchild=2)
    pids = pool.map(pid, range(6), chunksize=1)
    assert len(set(pids)) == 3
    assert pids[0] == pids[1]


def test_iterable_that_raises_does_so_where_it_is_taken(pool: Any) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    with pytest.raises(KeyError):
        pool.map(square, broken())
    results = pool.imap(square, broken())
    assert next(results) == 1
    with pytest.raises(KeyError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    assert pool.map(square, [2]) == [4]


def test_iterable_that_waits_for_results_gets_them(pool: Any) -> None:
    taken = threading.Semaphore(1)

    def one_by_one() -> Iterator[int]:
        for number in range(5):
            assert taken.acquire(timeout=LIMIT_S)
            yield number

    results = []
    for result in pool.imap_unordered(square, one_by_one()):
        results.append(result)
        taken.release()
    assert results == [0, 1, 4, 9, 16]


def test_closed_pool_ends_its_work_and_takes_no_more(make: Callable[..., Any]) -> None:
    pool = make(2)
    with pytest.raises(ValueError, match="running"):
        pool.join()
    results = pool.imap(square, iter(range(10)))
    later = pool.map_async(square, range(10))
    pool.close()
    pool.close()
    for call in (
        lambda: pool.map(square, [1]),
        lambda: pool.apply_async(square, (1,)),
        lambda: pool.imap(square, [1]),
    ):
        with pytest.raises(ValueError, match="not running"):
            call()
    pool.join()
    assert list(results) == later.get(LIMIT_S) == [square(number) for number in range(10)]


def test_workers_of_a_closed_pool_are_gone_when_it_is_joined(make: Callable[..., Any]) -> None:
    pool = make(2)
    pids = set(pool.map(pid, range(40), 1))
    pool.close()
    pool.join()
    for worker in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_pool_is_terminated_at_the_end_of_its_block(make: Callable[..., Any]) -> None:
    with make(2) as pool:
        assert pool.map(square, [2]) == [4]
        pool.map_async(time.sleep, [LIMIT_S] * 4)
    with pytest.raises(ValueError, match="not running"):
        pool.map(square, [2])
    pool.join()
    with pytest.raises(ValueError, match="not running"), pool:
        pass


def test_wrong_arguments_are_refused(make: Callable[..., Any], pool: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make(0)
    with pytest.raises(TypeError, match="callable"):
        make(1, initializer=3)
    with pytest.raises(ValueError, match="maxtasksperchild"):
        make(1, maxtasksperchild=0)
    with pytest.raises(ValueError, match=r"[Cc]hunksize"):
        pool.imap(square, [1], chunksize=0)
    with pytest.raises(NotImplementedError):
        pickle.dumps(pool)


# ------------------------------------------------------------------ better here


def weft_only(test: Any) -> Any:
    return pytest.mark.parametrize(
        "make", [pytest.param("weft", marks=pytest.mark.slow)], indirect=True
    )(test)


@weft_only
def test_functions_need_not_be_importable(pool: Any) -> None:
    offset = 10
    assert pool.map(lambda number: number + offset, range(3)) == [10, 11, 12]
    offset = 20
    assert pool.apply(lambda: offset) == 20


@weft_only
def test_error_says_where_it_was_raised(pool: Any) -> None:
    with pytest.raises(ValueError, match="three") as caught:
        pool.map(careful, [3])
    note = "\n".join(caught.value.__notes__)
    assert "careful" in note
    assert __file__ in note


@weft_only
def test_call_whose_worker_dies_fails_and_the_pool_goes_on(pool: Any) -> None:
    def die(number: int) -> int:
        if number == 2:
            os._exit(3)
        return number

    with pytest.raises(ActorDiedError, match="code 3"):
        pool.map(die, range(4), chunksize=1)
    results = pool.imap(die, range(5))
    outcomes: list[Any] = []
    for _ in range(5):
        try:
            outcomes.append(next(results))
        except ActorDiedError as error:
            outcomes.append(type(error))
    assert outcomes == [0, 1, ActorDiedError, 3, 4]
    assert pool.map(square, range(4)) == [0, 1, 4, 9]


@weft_only
def test_error_of_the_initializer_comes_out(make: Callable[..., Any]) -> None:
    pool = make(2, careful, (3,))
    with pytest.raises(ValueError, match="three"):
        pool.map(square, range(4))
    with pytest.raises(ValueError, match="three"):
        next(pool.imap(square, iter(range(4))))
    with pytest.raises(ValueError, match="three"):
        pool.apply(square, (1,))


@weft_only
def test_what_cannot_be_pickled_fails_by_itself(pool: Any) -> None:
    lock = threading.Lock()
    with pytest.raises(PicklingError):
        pool.apply(lambda: lock)
    results = pool.imap(square, [1, lock, 3])
    assert next(results) == 1
    with pytest.raises(PicklingError):
        next(results)
    assert next(results) == 9
    quick = pool.imap(lambda number: threading.Lock() if number == 50 else number, range(100))
    outcomes = []
    for _ in range(100):
        try:
            outcomes.append(next(quick))
        except PicklingError:
            outcomes.append(None)
    assert outcomes == [None if number == 50 else number for number in range(100)]


@weft_only
def test_interrupt_leaves_a_usable_pool(pool: Any) -> None:
    main = threading.main_thread().ident
    assert main is not None
    pool.map(square, range(4))
    threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool.map(slow, range(2000), chunksize=1)
    assert pool.map(square, range(4)) == [0, 1, 4, 9]
    # What had not begun was dropped.
    assert time.monotonic() - began < 10


@weft_only
def test_items_behind_one_that_takes_longer_go_to_who_is_free(pool: Any) -> None:
    def first_is_slow(number: int) -> int:
        if number == 1000:
            time.sleep(1)
        return os.getpid()

    pool.map(first_is_slow, range(500), chunksize=1)  # so quick that they are given in batches
    pids = pool.map(first_is_slow, range(1000, 1300), chunksize=1)
    assert pids[1:].count(pids[0]) < 64 + 64


@weft_only
def test_terminated_pool_fails_what_was_not_done(make: Callable[..., Any]) -> None:
    pool = make(2)

    def endless() -> Iterator[int]:
        while True:
            yield LIMIT_S

    waiting = pool.map_async(time.sleep, [LIMIT_S] * 8, 1)
    results = pool.imap(time.sleep, endless())
    pool.terminate()
    with pytest.raises(TaskCancelledError):
        waiting.get(LIMIT_S)
    with pytest.raises(TaskCancelledError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@weft_only
def test_pool_that_is_dropped_ends_its_work(make: Callable[..., Any]) -> None:
    result = Pool(1).map_async(square, range(10))
    gc.collect()
    assert result.get(LIMIT_S) == [square(number) for number in range(10)]


@weft_only
def test_callback_that_raises_does_not_end_the_pool(
    pool: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("callback")

    assert pool.apply_async(square, (2,), callback=broken).get(LIMIT_S) == 4
    assert "callback" in caplog.text
    assert pool.map(square, [3]) == [9]


@weft_only
def test_pools_work_inside_tasks(make: Callable[..., Any]) -> None:
    @weft.remote
    def ours() -> list[int]:
        with Pool(2) as pool:
            return pool.map(square, range(5))

    @weft.remote
    def standard_pool() -> list[int]:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, range(-5, 0))

    refs = [ours.remote(), *(standard_pool.remote() for _ in range(4))]
    assert weft.get(refs, timeout=LIMIT_S) == [[0, 1, 4, 9, 16]] + [[5, 4, 3, 2, 1]] * 4


@pytest.mark.parametrize("name", ["Pool", "AsyncResult", "IMapIterator"])
def test_methods_of_the_standard_library_are_there(name: str) -> None:
    ours = getattr(sys.modules["weft.util.multiprocessing.pool"], name)
    theirs = {method for method in vars(getattr(standard, name)) if not method.startswith("_")}
    assert theirs - {"Process"} <= set(dir(ours))


def test_time_out_is_that_of_the_standard_library() -> None:
    assert PoolTimeoutError is multiprocessing.TimeoutError
