"""Results that are lost while their owner lives are made again, by whoever made them."""

from __future__ import annotations

import asyncio
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
    # Each in a worker that ends: who makes one would read its own segments without their files.
    refs = [make.options(max_calls=1).remote(0)]
    for _ in range(5):
        refs.append(add_one.options(max_calls=1).remote(refs[-1]))
    weft.wait(refs, num_returns=len(refs))
    lose(*refs)
    assert is_made_of(weft.get(refs[-1], timeout=WAIT_S), 5)
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


def test_result_among_several_is_made_again_alone() -> None:
    runs = Runs.remote()

    @weft.remote(num_returns=3)
    def make_three() -> Any:
        run = weft.get(runs.add.remote())
        return [np.full(SIZE, run, np.uint8), run, np.full(SIZE, 10 + run, np.uint8)]

    refs = make_three.remote()
    weft.wait(refs, num_returns=3)
    lose(refs[2])
    first, second, third = weft.get(refs, timeout=WAIT_S)
    assert is_made_of(first, 1)
    assert second == 1
    assert is_made_of(third, 12)


def test_task_that_fails_when_it_is_run_again_gives_its_error() -> None:
    runs = Runs.remote()

    @weft.remote
    def make_once() -> Any:
        if weft.get(runs.add.remote()) > 1:
            raise KeyError("only once")
        return np.zeros(SIZE, np.uint8)

    ref = make_once.remote()
    weft.wait([ref])
    lose(ref)
    with pytest.raises(KeyError, match="only once"):
        weft.get(ref, timeout=WAIT_S)


def test_small_value_may_take_the_place_of_a_lost_large_one() -> None:
    runs = Runs.remote()

    @weft.remote
    def shrink() -> Any:
        return b"x" * (SIZE if weft.get(runs.add.remote()) == 1 else 1)

    ref = shrink.remote()
    weft.wait([ref])
    lose(ref)
    assert weft.get(ref, timeout=WAIT_S) == b"x"


def test_view_outlives_the_loss_of_its_segment() -> None:
    ref = make.remote(8)
    view = weft.get(ref)
    old = ref._entry.value
    lose(ref)

    @weft.remote
    def first(value: Any) -> int:
        return int(value[0])

    # Its worker may be the one that made it, and have it mapped.
    weft.get([first.remote(ref) for _ in range(4)], timeout=WAIT_S)
    ref._engine.objects.store._opened.pop(old.segment, None)
    assert is_made_of(weft.get(ref, timeout=WAIT_S), 8)
    assert ref._entry.value != old
    assert is_made_of(view, 8)


def test_items_of_a_stream_are_made_again() -> None:
    runs = Runs.remote()

    @weft.remote(num_returns="streaming")
    def items() -> Iterator[Any]:
        weft.get(runs.add.remote())
        for number in range(6):
            yield np.full(SIZE, number, np.uint8)

    refs = list(items.remote())
    lose(refs[4])
    assert is_made_of(weft.get(refs[4], timeout=WAIT_S), 4)
    assert weft.get(runs.read.remote()) == 2
    lose(refs[1], refs[3])
    for number, value in enumerate(weft.get(refs, timeout=WAIT_S)):
        assert is_made_of(value, number)
    # The second loss may be found when the third run has passed that item.
    assert weft.get(runs.read.remote()) in (3, 4)


def test_items_of_a_stream_without_end_are_made_again() -> None:
    @weft.remote(num_returns="streaming")
    def items() -> Iterator[Any]:
        number = 0
        while True:
            yield np.full(SIZE, number % 200, np.uint8)
            number += 1

    stream = items.remote()
    refs = [next(stream) for _ in range(4)]
    del stream
    engine: Any = refs[0]._engine
    while engine.leasing.tasks.open:
        weft.get(make.remote(1))
    lose(refs[2])
    assert is_made_of(weft.get(refs[2], timeout=WAIT_S), 2)


class Gate:
    """Lets callers through when it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def wait_open(self) -> None:
        await self.opened.wait()

    async def open(self) -> None:
        self.opened.set()


def test_item_that_is_lost_while_its_stream_goes_on_is_made_again_after_it() -> None:
    gate = weft.remote(Gate).remote()

    @weft.remote(num_returns="streaming")
    def items() -> Iterator[Any]:
        yield np.full(SIZE, 1, np.uint8)
        weft.get(gate.wait_open.remote())
        yield np.full(SIZE, 2, np.uint8)

    stream = items.remote()
    first = next(stream)
    lose(first)
    with pytest.raises(weft.exceptions.GetTimeoutError):
        weft.get(first, timeout=0.2)
    gate.open.remote()
    assert is_made_of(weft.get(first, timeout=WAIT_S), 1)
    assert is_made_of(weft.get(next(stream), timeout=WAIT_S), 2)


def test_lineage_over_the_bound_is_forgotten_and_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weft.shutdown()
    monkeypatch.setenv("WEFT_LINEAGE_BYTES", "10000")
    weft.init(num_cpus=2, log_to_driver=False)
    refs = [make.remote(number) for number in range(10)]
    weft.wait(refs, num_returns=10)
    kept = [ref for ref in refs if not ref._entry.lineage.why_not]
    gone = [ref for ref in refs if ref not in kept]
    assert len(kept) >= 1
    assert len(gone) >= 6
    lose(kept[0], gone[0])
    assert weft.get(kept[0], timeout=WAIT_S).size == SIZE
    with pytest.raises(weft.exceptions.ObjectLostError, match=r"forgotten.* 10000 bytes"):
        weft.get(gone[0], timeout=WAIT_S)


def test_references_that_wait_and_futures_see_the_value_made_again() -> None:
    refs = [make.remote(number) for number in range(3)]
    weft.wait(refs, num_returns=3)
    lose(*refs)

    async def take() -> Any:
        return await refs[0]

    assert is_made_of(asyncio.run(take()), 0)
    assert is_made_of(refs[1].future().result(WAIT_S), 1)
    assert is_made_of(refs[2].get(timeout=WAIT_S), 2)


def test_task_that_was_given_borrowed_references_is_run_again() -> None:
    @weft.remote
    class Owner:
        def own(self) -> Any:
            self.refs = [weft.put(np.full(SIZE, 3, np.uint8))]
            return self.refs

        def drop(self) -> None:
            self.refs = []

    @weft.remote
    def add_all(value: Any, more: Any) -> Any:
        return value + weft.get(more[0])

    owner = Owner.remote()
    refs = weft.get(owner.own.remote())
    sums = [add_all.remote(refs[0], refs) for _ in range(2)]
    weft.wait(sums, num_returns=2)
    del refs
    gc.collect()
    lose(*sums)
    assert is_made_of(weft.get(sums[0], timeout=WAIT_S), 6)
    weft.get(owner.drop.remote())
    with pytest.raises(weft.exceptions.ObjectLostError, match="add_all was to be run again"):
        weft.get(sums[1], timeout=WAIT_S)


def test_nothing_is_left_when_the_references_are_gone() -> None:
    refs = [make.remote(0)]
    for _ in range(5):
        refs.append(add_one.remote(refs[-1]))
    weft.wait(refs, num_returns=len(refs))
    lose(refs[2], refs[5])
    weft.get(refs, timeout=WAIT_S)
    engine: Any = refs[0]._engine
    ownership = engine.objects.machine
    assert len(ownership.lineages.kept) == 6
    del refs
    gc.collect()
    with engine.guard:
        engine.objects.drain()
        assert not ownership.lineages.kept
        assert not ownership.lineages.total_bytes
        assert not ownership.entries
