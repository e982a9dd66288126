"""Streams and actors whose processes die in the middle go on."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

WAIT_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    weft.init(num_cpus=2, log_to_driver=False)
    yield
    weft.shutdown()


def first_time(mark: str) -> bool:
    """Tell whether nobody was here before, also in a process that has died."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@pytest.mark.parametrize("size", [1, 200_000])
@pytest.mark.parametrize("dies_at", [0, 3, 9])
def test_stream_whose_worker_dies_goes_on_where_it_was(
    tmp_path: Path, dies_at: int, size: int
) -> None:
    mark = str(tmp_path / "mark")

    @weft.remote(max_retries=1)
    def items() -> Iterator[bytes]:
        for number in range(10):
            if number == dies_at and first_time(mark):
                os._exit(1)
            yield bytes([number]) * size

    taken = [weft.get(ref, timeout=WAIT_S) for ref in items.remote()]
    assert taken == [bytes([number]) * size for number in range(10)]


def test_stream_that_is_consumed_while_its_worker_dies_repeats_nothing() -> None:
    @weft.remote(max_retries=2, num_returns="streaming", _generator_backpressure_num_objects=1)
    def items() -> Iterator[tuple[int, int]]:
        for number in range(20):
            yield number, os.getpid()

    taken: list[int] = []
    pids: set[int] = set()
    for ref in items.remote():
        number, pid = weft.get(ref, timeout=WAIT_S)
        taken.append(number)
        pids.add(pid)
        if number in (5, 12):
            os.kill(pid, signal.SIGKILL)
    assert taken == list(range(20))
    assert len(pids) == 3


def test_stream_that_may_not_be_retried_ends_in_the_error_after_its_items(tmp_path: Path) -> None:
    @weft.remote(max_retries=0)
    def items() -> Iterator[int]:
        yield 1
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(weft.exceptions.WorkerDiedError):
        [weft.get(ref, timeout=WAIT_S) for ref in items.remote()]


def test_stream_that_raises_is_retried_from_its_next_item(tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")

    @weft.remote(max_retries=1, retry_exceptions=[ValueError])
    def items() -> Iterator[int]:
        for number in range(6):
            if number == 4 and first_time(mark):
                raise ValueError("once")
            yield number

    assert [weft.get(ref, timeout=WAIT_S) for ref in items.remote()] == list(range(6))


@weft.remote
class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    def up(self, mark: str = "") -> int:
        self.count += 1
        if mark and first_time(mark):
            os._exit(1)
        return self.count

    def items(self, mark: str) -> Iterator[int]:
        for number in range(8):
            if number == 5 and first_time(mark):
                os._exit(1)
            yield number


def test_calls_in_flight_at_a_restart_are_repeated_on_the_constructors_state(
    tmp_path: Path,
) -> None:
    counter = Counter.options(max_restarts=1, max_task_retries=-1).remote(100)
    assert weft.get(counter.up.remote(), timeout=WAIT_S) == 101
    mark = str(tmp_path / "mark")
    refs = [counter.up.remote(mark if number == 10 else "") for number in range(50)]
    counts = weft.get(refs, timeout=WAIT_S)
    before = counts.index(101)
    assert counts[:before] == list(range(102, 102 + before))
    assert counts[before:] == list(range(101, 101 + 50 - before))
    # Answers that were on the way were lost with the process: their calls are repeated, too.
    assert before <= 10


def test_calls_in_flight_without_retries_fail_and_the_next_ones_reach_the_new_life(
    tmp_path: Path,
) -> None:
    counter = Counter.options(max_restarts=1).remote(0)
    weft.get(counter.up.remote(), timeout=WAIT_S)
    refs = [counter.up.remote(str(tmp_path / "mark")) for _ in range(3)]
    with pytest.raises(weft.exceptions.ActorUnavailableError, match="may or may not have run"):
        weft.get(refs[0], timeout=WAIT_S)

    def comes_back() -> int:
        while True:
            try:
                return weft.get(counter.up.remote(), timeout=WAIT_S)  # type: ignore[no-any-return]  # an int
            except weft.exceptions.ActorUnavailableError:
                continue

    assert comes_back() in range(1, 5)


@pytest.mark.parametrize("retries", [1, -1])
def test_stream_of_an_actor_goes_on_after_its_restart(tmp_path: Path, retries: int) -> None:
    counter = Counter.options(max_restarts=1, max_task_retries=retries).remote(0)
    stream = counter.items.options(num_returns="streaming").remote(str(tmp_path / "mark"))
    assert [weft.get(ref, timeout=WAIT_S) for ref in stream] == list(range(8))


def test_stream_of_an_actor_without_retries_ends_in_the_error(tmp_path: Path) -> None:
    counter = Counter.options(max_restarts=1).remote(0)
    stream: Any = counter.items.options(num_returns="streaming").remote(str(tmp_path / "mark"))
    with pytest.raises(weft.exceptions.ActorUnavailableError):
        [weft.get(ref, timeout=WAIT_S) for ref in stream]
