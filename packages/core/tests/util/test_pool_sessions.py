"""What becomes of pools when their session ends."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft._engine import current
from weft.exceptions import SessionError
from weft.util.multiprocessing import Pool, _crew

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 30

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine", ["inline", "local"])]


def test_pool_ends_with_its_session(engine: str) -> None:
    with weft.init(engine=engine):
        pool = Pool(2)
        assert pool.map(abs, range(-3, 0)) == [3, 2, 1]
    pool._crew.thread.join(LIMIT_S)
    assert not pool._crew.thread.is_alive()
    with pytest.raises(SessionError):
        pool.map(abs, range(3))
    pool.close()
    pool.join()
    assert not weft.is_initialized()


def test_idle_pool_sleeps_until_it_is_told(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Patient(queue.SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            assert timeout is None
            return super().get(block)

    monkeypatch.setattr(_crew, "SimpleQueue", Patient)
    with weft.init(engine=engine):
        pool = Pool(1)
        assert pool.map(abs, [-1]) == [1]
    pool._crew.thread.join(LIMIT_S)
    assert not pool._crew.thread.is_alive()


def test_what_a_session_had_not_done_at_its_end_fails(engine: str) -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    with weft.init(engine=engine):
        results = Pool(1).imap(abs, endless())
        assert next(results) == 1
    with pytest.raises(SessionError):
        list(results)


def test_pool_that_has_ended_is_told_no_more(engine: str) -> None:
    with weft.init(engine=engine):
        others = set(current.at_end)
        with Pool(1) as pool:
            assert pool.map(abs, [-1]) == [1]
            assert current.at_end > others
        assert current.at_end == others
        closed = Pool(1)
        closed.close()
        closed.join()
        assert current.at_end == others


def test_pool_starts_no_worker_in_a_later_session(engine: str) -> None:
    with weft.init(engine=engine):
        pool = Pool(1)
    with weft.init(engine=engine), pytest.raises(SessionError):
        pool.map(abs, [-1])
