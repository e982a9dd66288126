"""What a pool's workers are given next. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.util.multiprocessing._backlog import BATCH_CHUNKS, Backlog, PoolChunk, PoolWork, numbered
from weft.util.multiprocessing._results import PoolJob
from weft.util.multiprocessing._worker import BATCH_S, ONE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Noted(PoolJob):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[int, Sequence[Any]] = {}
        self.chunks = -1

    def _take(self, index: int, outcomes: Sequence[Any]) -> None:
        self.outcomes[index] = outcomes

    def _end(self, chunks: int) -> None:
        self.chunks = chunks

    def _fail(self, error: BaseException) -> None:
        raise error


def work(code: bytes = b"f") -> PoolWork:
    return PoolWork(code, "f", ONE, stops=False)


def chunks_of(job: PoolJob, chunks: int, code: bytes = b"f") -> Iterator[PoolChunk]:
    return numbered(job, work(code), iter([[number] for number in range(chunks)]))


def backlog_of(job: PoolJob, chunks: int, *, pace_s: float | None = None) -> Backlog:
    backlog = Backlog(is_one_by_one=False)
    backlog.add(job, chunks_of(job, chunks))
    if pace_s is not None:
        backlog.note_pace(PoolChunk(job, work(), 0, [0]), pace_s)
    return backlog


def indices(batch: list[PoolChunk]) -> list[int]:
    return [chunk.index for chunk in batch]


def test_job_is_told_how_many_chunks_it_had_when_the_last_is_drawn() -> None:
    job = Noted()
    backlog = backlog_of(job, 2, pace_s=0.0)
    assert indices(backlog.take_batch(is_urgent=True)) == [0, 1]
    assert job.chunks == 2
    assert not backlog


def test_function_of_unknown_pace_is_given_alone_and_only_to_who_is_free() -> None:
    backlog = backlog_of(Noted(), 3, pace_s=None)
    assert indices(backlog.take_batch(is_urgent=True)) == [0]
    assert indices(backlog.take_batch(is_urgent=False)) == [1]
    slow = backlog_of(Noted(), 3, pace_s=2 * BATCH_S)
    assert slow.take_batch(is_urgent=False) == []
    assert indices(slow.take_batch(is_urgent=True)) == [0]


def test_quick_chunks_go_together_up_to_a_limit() -> None:
    backlog = backlog_of(Noted(), 2 * BATCH_CHUNKS, pace_s=0.0)
    assert indices(backlog.take_batch(is_urgent=False)) == list(range(BATCH_CHUNKS))
    paced = backlog_of(Noted(), 10, pace_s=BATCH_S / 4)
    assert indices(paced.take_batch(is_urgent=True)) == [0, 1, 2, 3]
    assert indices(paced.take_batch(is_urgent=True)) == [4, 5, 6, 7]


def test_pace_follows_what_was_measured() -> None:
    backlog = backlog_of(Noted(), 100, pace_s=10 * BATCH_S)
    for _ in range(40):
        backlog.note_pace(PoolChunk(Noted(), work(), 0, [0]), 0.0)
    assert len(backlog.take_batch(is_urgent=True)) == BATCH_CHUNKS


def test_what_comes_back_goes_first_and_in_order() -> None:
    backlog = backlog_of(Noted(), 6, pace_s=BATCH_S / 2)
    first = backlog.take_batch(is_urgent=True)
    backlog.put_back(first)
    assert indices(backlog.take_batch(is_urgent=True)) == indices(first) == [0, 1]


def test_suspect_has_a_worker_for_itself() -> None:
    backlog = backlog_of(Noted(), 4, pace_s=0.0)
    suspects = backlog.take_batch(is_urgent=True)[:2]
    for chunk in suspects:
        chunk.is_suspect = True
    backlog.put_back(suspects)
    assert backlog.take_batch(is_urgent=False) == []
    assert indices(backlog.take_batch(is_urgent=True)) == [0]
    assert indices(backlog.take_batch(is_urgent=True)) == [1]


def test_workers_with_a_share_get_one_chunk_at_a_time() -> None:
    job = Noted()
    backlog = Backlog(is_one_by_one=True)
    backlog.add(job, chunks_of(job, 2))
    assert backlog.take_batch(is_urgent=False) == []
    assert indices(backlog.take_batch(is_urgent=True)) == [0]


def test_what_nobody_waits_for_is_dropped() -> None:
    given_up, wanted = Noted(), Noted()
    backlog = backlog_of(given_up, 5, pace_s=0.0)
    backlog.add(wanted, chunks_of(wanted, 1, b"g"))
    backlog.put_back([PoolChunk(given_up, work(), 9, [0])])
    given_up._abandoned = True
    assert [chunk.job for chunk in backlog.take_batch(is_urgent=True)] == [wanted]


def test_failed_chunk_tells_its_job() -> None:
    job, error = Noted(), ValueError()
    PoolChunk(job, work(), 3, [0]).fail(error)
    assert job.outcomes == {3: [(False, error)]}
