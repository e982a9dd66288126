"""Results that are lost while their owner lives are made again, by whoever made them."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

WAIT_S = 30.0
SIZE = 200_000


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WEFT_CHECK", "1")
    weft.init(num_cpus=2, log_to_driver=False)
    yield
    gc.collect()
    weft.shutdown()


def lose(*refs: Any) -> None:
    """Take the bytes of objects of this process away."""
    for ref in refs:
        gc.collect()
        engine, name = ref._engine, ref._entry.value.segment
        (Path(engine.welcome.store_dir) / name).unlink()
        store = engine.objects.store
        store._mine.pop(name, None)
        kept = store._kept.pop(name, None)
        if kept is not None:
            store._kept_bytes -= kept.size_bytes


@weft.remote
class Runs:
    """Counts how often tasks were run."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count

    def read(self) -> int:
        return self.count


@weft.remote
def make(number: int, runs: Any = None) -> Any:
    if runs is not None:
        weft.get(runs.add.remote())
    return np.full(SIZE, number, np.uint8)


def is_made_of(value: Any, number: int) -> bool:
    return bool(np.array_equal(value, np.full(SIZE, number, np.uint8)))


def test_lost_result_is_made_again_and_the_reader_goes_on() -> None:
    runs = Runs.remote()
    ref = make.remote(7, runs)
    weft.wait([ref])
    lose(ref)
    assert is_made_of(weft.get(ref, timeout=WAIT_S), 7)
    assert weft.get(runs.read.remote()) == 2
    assert is_made_of(weft.get(ref, timeout=WAIT_S), 7)
    assert weft.get(runs.read.remote()) == 2


@weft.remote
def add_one(value: Any, runs: Any = None) -> Any:
    if runs is not None:
        weft.get(runs.add.remote())
    return value + 1


def test_chain_whose_results_were_dropped_is_made_again_from_its_beginning() -> None:
    runs = Runs.remote()
    ref = make.remote(0, runs)
    for _ in range(50):
        ref = add_one.remote(ref, runs)
    weft.wait([ref])
    lose(ref)
    assert is_made_of(weft.get(ref, timeout=WAIT_S), 50)
    assert weft.get(runs.read.remote()) == 102


def test_chain_that_is_held_and_lost_as_a_whole_is_made_again() -> None:
    refs = [make.remote(0)]
    for _ in range(10):
        refs.append(add_one.remote(refs[-1]))
    weft.wait(refs, num_returns=len(refs))
    lose(*refs)
    assert is_made_of(weft.get(refs[-1], timeout=WAIT_S), 10)
    for number, value in enumerate(weft.get(refs, timeout=WAIT_S)):
        assert is_made_of(value, number)


def test_lost_results_of_one_get_are_made_again() -> None:
    refs = [make.remote(number) for number in range(20)]
    weft.wait(refs, num_returns=len(refs))
    lose(*refs[::2])
    for number, value in enumerate(weft.get(refs, timeout=WAIT_S)):
        assert is_made_of(value, number)


def test_value_that_was_put_is_lost_and_the_error_says_so() -> None:
    ref = weft.put(np.zeros(SIZE, np.uint8))
    weft.get(weft.remote(len).remote(ref))
    lose(ref)
    with pytest.raises(weft.exceptions.ObjectLostError, match=r"weft\.put stored it") as caught:
        weft.get(ref, timeout=WAIT_S)
    assert ref.hex() in str(caught.value)
    assert "\n" not in str(caught.value)


def test_task_that_may_not_be_retried_is_not_run_again() -> None:
    runs = Runs.remote()
    ref = make.options(max_retries=0).remote(1, runs)
    weft.wait([ref])
    lose(ref)
    with pytest.raises(weft.exceptions.ObjectLostError, match="max_retries=0"):
        weft.get(ref, timeout=WAIT_S)
    assert weft.get(runs.read.remote()) == 1


def test_each_recovery_costs_a_retry() -> None:
    ref = make.options(max_retries=2).remote(3)
    for _ in range(2):
        weft.wait([ref])
        lose(ref)
        assert is_made_of(weft.get(ref, timeout=WAIT_S), 3)
    lose(ref)
    with pytest.raises(weft.exceptions.ObjectLostError, match="has used up its max_retries"):
        weft.get(ref, timeout=WAIT_S)


def test_lost_argument_that_nothing_can_make_again_fails_what_needs_it() -> None:
    data = weft.put(np.zeros(SIZE, np.uint8))
    ref = add_one.remote(data)
    weft.wait([ref])
    del data
    gc.collect()
    lose(ref)
    with pytest.raises(weft.exceptions.ObjectLostError) as caught:
        weft.get(ref, timeout=WAIT_S)
    message = str(caught.value)
    assert "no file" in message or "no object" in message
    assert "add_one was to be run again" in message
    assert "its value was freed when nobody needed it; weft.put stored it" in message


def test_borrower_that_finds_the_loss_gets_the_value_made_again() -> None:
    runs = Runs.remote()
    ref = make.remote(4, runs)
    weft.wait([ref])
    lose(ref)

    @weft.remote
    def read(refs: list[Any]) -> Any:
        return int(weft.get(refs[0])[0])

    @weft.remote
    def first(value: Any) -> int:
        return int(value[0])

    assert weft.get([read.remote([ref]), first.remote(ref)], timeout=WAIT_S) == [4, 4]
    assert is_made_of(weft.get(ref, timeout=WAIT_S), 4)
    assert weft.get(runs.read.remote()) == 2


def test_worker_recovers_what_it_owns() -> None:
    @weft.remote
    def own() -> bool:
        ref = make.remote(5)
        weft.wait([ref])
        lose(ref)
        return is_made_of(weft.get(ref, timeout=WAIT_S), 5)

    assert weft.get(own.remote(), timeout=WAIT_S)
