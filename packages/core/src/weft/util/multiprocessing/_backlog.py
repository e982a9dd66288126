"""What a pool has to do, and how much of it a worker is given at a time. No I/O.

Jobs are drawn from in the order in which they came, chunk by chunk. Chunks that take a moment are
given several at a time; what comes back, because its worker died or did not come to it, is given
out before anything else.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from weft.util.multiprocessing._worker import BATCH_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from weft.util.multiprocessing._results import PoolJob
    from weft.util.multiprocessing._worker import Given, PoolCode

BATCH_CHUNKS = 64
# Functions whose pace is remembered.
KNOWN_FUNCTIONS = 64


class PoolWork:
    """A function that is called many times. `stops`: a chunk ends at the first call that raises."""

    __slots__ = ("code", "how", "name", "stops")

    def __init__(self, code: PoolCode, name: str, how: int, *, stops: bool) -> None:
        self.code = code
        self.name = name
        self.how = how
        self.stops = stops


class PoolChunk:
    """Calls that are made one after the other by one worker."""

    __slots__ = ("calls", "index", "is_suspect", "job", "work")

    def __init__(self, job: PoolJob, work: PoolWork, index: int, calls: Sequence[Any]) -> None:
        self.job = job
        self.work = work
        self.index = index
        self.calls = calls
        self.is_suspect = False
        """Its worker died, perhaps of it: it gets one for itself."""

    def as_given(self) -> Given:
        """Return what a worker gets of it."""
        work = self.work
        return work.code, work.name, work.how, self.calls, work.stops

    def fail(self, error: BaseException) -> None:
        """Tell its job that it has ended, and how."""
        self.job._take(self.index, [(False, error)])


class Backlog:
    """The chunks that no worker has."""

    def __init__(self, *, is_one_by_one: bool) -> None:
        """Begin with nothing to do. `is_one_by_one`: a worker gets one chunk at a time."""
        self._is_one_by_one = is_one_by_one
        self._sources: deque[tuple[PoolJob, Iterator[PoolChunk]]] = deque()
        self._returned: deque[PoolChunk] = deque()
        self._pace: dict[int, float] = {}
        """Seconds that a call of a function takes, in the mean of the last few chunks.

        By the hash of its code, which may be large and is not to be kept.
        """

    def __bool__(self) -> bool:
        """Tell whether there may be chunks: a source may turn out to be empty."""
        return bool(self._sources or self._returned)

    def add(self, job: PoolJob, chunks: Iterator[PoolChunk]) -> None:
        """Queue a job's chunks. They are drawn when there is a worker for them."""
        self._sources.append((job, chunks))

    def put_back(self, chunks: Sequence[PoolChunk]) -> None:
        """Take chunks back, in their order: they go first."""
        self._returned.extendleft(reversed(chunks))

    def take(self) -> PoolChunk | None:
        """Draw the next chunk of a job that somebody waits for; None if there is none."""
        while self._returned:
            chunk = self._returned.popleft()
            if not chunk.job._abandoned:
                return chunk
        while self._sources:
            job, chunks = self._sources[0]
            drawn = None if job._abandoned else next(chunks, None)
            if drawn is not None:
                return drawn
            self._sources.popleft()
        return None

    def take_batch(self, *, is_urgent: bool) -> list[PoolChunk]:
        """Draw chunks for a moment's work.

        One at least if it `is_urgent`, for a worker with nothing to do; a busy one gets none that
        takes longer.
        """
        batch: list[PoolChunk] = []
        takes_s = 0.0
        while len(batch) < BATCH_CHUNKS and (chunk := self.take()) is not None:
            takes_s += self._pace.get(hash(chunk.work.code), BATCH_S) * len(chunk.calls)
            is_alone = chunk.is_suspect or self._is_one_by_one
            if (takes_s > BATCH_S or is_alone) and (batch or not is_urgent):
                self._returned.appendleft(chunk)
                break
            batch.append(chunk)
            if is_alone:
                break
        return batch

    def note_pace(self, chunk: PoolChunk, duration_s: float) -> None:
        """Learn from a chunk that took so long."""
        function, call_s = hash(chunk.work.code), duration_s / len(chunk.calls)
        before = self._pace.get(function, call_s)
        self._pace[function] = before + (call_s - before) / 4
        if len(self._pace) > KNOWN_FUNCTIONS:
            del self._pace[next(iter(self._pace))]


def numbered(job: PoolJob, work: PoolWork, chunks: Iterator[Sequence[Any]]) -> Iterator[PoolChunk]:
    """Yield a job's chunks; tell it in the end how many those were."""
    index = 0
    for calls in chunks:
        yield PoolChunk(job, work, index, calls)
        index += 1
    job._end(index)
