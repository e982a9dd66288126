"""What a pool's worker does with a batch, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft._serialize.pickling import dump_code
from weft.util.multiprocessing import _worker
from weft.util.multiprocessing._worker import KEPT_FUNCTIONS, ONE, PoolWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft.util.multiprocessing._worker import Given


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the worker reads, to be set."""
    now = [0.0]
    monkeypatch.setattr(_worker, "monotonic", lambda: now[0])
    return now


def chunk(function: Callable[[Any], Any], *calls: Any) -> Given:
    return dump_code(function)[1], "f", ONE, calls, False


def adding(number: int) -> Callable[[int], int]:
    return lambda other: other + number


def test_batch_is_left_where_its_time_is_up(times: list[float]) -> None:
    worker = PoolWorker(None, ())
    slow = chunk(adding(1), 1)
    worker._functions[slow[0]] = lambda _: times.__setitem__(0, times[0] + 1.0)
    answers = worker.run([slow, slow, slow])
    assert answers == [(1.0, [(True, None)])]


def test_few_functions_are_kept() -> None:
    worker = PoolWorker(None, ())
    for number in range(2 * KEPT_FUNCTIONS):
        worker.run([chunk(adding(number), 1)])
    assert len(worker._functions) == KEPT_FUNCTIONS


def test_of_functions_that_are_stored_the_last_is_kept() -> None:
    with weft.init(engine="inline"):
        worker = PoolWorker(None, ())
        small = chunk(adding(1), 1)
        worker.run([small])
        for number in range(3):
            stored = weft.put(dump_code(adding(number))[1])
            assert worker.run([(stored, "f", ONE, [10], False)])[0][1] == [(True, 10 + number)]
        assert list(worker._functions) == [small[0], stored]
