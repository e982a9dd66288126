"""What a pool's methods return before there are results: AsyncResult, and the iterators of `imap`.

A job is a number of chunks of calls. The crew tells it the outcomes of each chunk, and at some time
how many chunks there are; its user waits here. Callbacks run in the crew's thread, as in
`multiprocessing`: one that blocks holds up the pool's results.
"""

from __future__ import annotations

import threading
from collections import deque
from multiprocessing import TimeoutError
from typing import TYPE_CHECKING, Any

from weft._clock import monotonic
from weft._log import logger
from weft._override import override
from weft._serialize.failures import unpack_failure
from weft._stories import story
from weft.exceptions import StandInError, TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Outcome = tuple[bool, Any]
"""(True, value), (False, bytes of a packed failure) or (False, error)."""


class PoolJob:
    """What a user waits for, as the crew sees it."""

    def __init__(self) -> None:
        self._abandoned = False
        """Nobody wants the rest: chunks that have not begun are dropped."""

    def _take(self, index: int, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of a chunk. By the crew's thread."""
        raise NotImplementedError

    def _end(self, chunks: int) -> None:
        """Take note that there are so many chunks. By the crew's thread."""
        raise NotImplementedError

    def _fail(self, error: BaseException) -> None:
        """Take note that no further chunk will come. By the crew's thread."""
        raise NotImplementedError


class AsyncResult(PoolJob):
    """The result of `apply_async`, `map_async` or `starmap_async`. Safe from threads."""

    def __init__(
        self,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        *,
        is_single: bool,
    ) -> None:
        """Wait for results; get one from a Pool instead."""
        super().__init__()
        self._callback = callback
        self._error_callback = error_callback
        self._is_single = is_single
        self._outcomes: dict[int, Sequence[Outcome]] = {}
        self._chunks = -1
        self._is_set = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    def get(self, timeout: float | None = None) -> Any:
        """Return the result. Blocks until it is there.

        Args:
            timeout: Seconds to wait at most; None: for ever.

        Raises:
            multiprocessing.TimeoutError: Time was up. The calls go on.
            Exception: What the function raised: the error itself, with a note that says where. With
                several calls, the first of them in the order of the items.
            ActorDiedError: The worker died that ran a call.
        """
        if not self._is_set.wait(timeout):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._value

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the result. Blocks until it is there, or time is up.

        Args:
            timeout: Seconds to wait at most; None: for ever.
        """
        self._is_set.wait(timeout)

    def ready(self) -> bool:
        """Tell whether every call has ended."""
        return self._is_set.is_set()

    def successful(self) -> bool:
        """Tell whether no call raised.

        Raises:
            ValueError: The result is not there yet.
        """
        if not self.ready():
            raise ValueError(f"{self!r} is not ready")
        return self._error is None

    @override
    def _take(self, index: int, outcomes: Sequence[Outcome]) -> None:
        self._outcomes[index] = outcomes
        self._settle_if_complete()

    @override
    def _end(self, chunks: int) -> None:
        self._chunks = chunks
        self._settle_if_complete()

    @override
    def _fail(self, error: BaseException) -> None:
        self._take(len(self._outcomes), [(False, error)])
        self._end(len(self._outcomes))

    def _settle_if_complete(self) -> None:
        if len(self._outcomes) != self._chunks:
            return
        values: list[Any] = []
        for index in range(self._chunks):
            for is_value, value in self._outcomes[index]:
                if is_value:
                    values.append(value)
                elif self._error is None:
                    self._error = error_of(value)
        self._outcomes.clear()
        if self._error is None:
            self._value = values[0] if self._is_single else values
            _call_back(self._callback, self._value)
        else:
            _call_back(self._error_callback, self._error)
        self._is_set.set()


class IMapIterator(PoolJob):
    """The results of `imap` or `imap_unordered`, item by item. Safe from threads.

    An item whose call raised raises that error in its turn; the iteration can go on after it.
    """

    def __init__(self) -> None:
        """Wait for results; get one from a Pool instead."""
        super().__init__()
        self._changed = threading.Condition()
        self._ready: deque[Outcome] = deque()
        self._chunks = -1
        self._taken = 0
        """Chunks whose outcomes are in `_ready`, or were."""

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result. Blocks until it is there.

        Args:
            timeout: Seconds to wait at most; None: for ever.

        Raises:
            StopIteration: There are no more.
            multiprocessing.TimeoutError: Time was up. The calls go on.
            Exception: What the function raised for this item: the error itself, with a note that
                says where.
        """
        deadline = None if timeout is None else monotonic() + timeout
        with self._changed:
            while not self._ready:
                if self._taken == self._chunks:
                    raise StopIteration
                left_s = None if deadline is None else deadline - monotonic()
                if left_s is not None and left_s <= 0:
                    raise TimeoutError
                self._changed.wait(left_s)
            is_value, value = self._ready.popleft()
        if not is_value:
            raise error_of(value)
        return value

    @override
    def _take(self, index: int, outcomes: Sequence[Outcome]) -> None:
        with self._changed:
            self._arrived(index, outcomes)
            self._changed.notify_all()

    def _arrived(self, index: int, outcomes: Sequence[Outcome]) -> None:
        raise NotImplementedError

    @override
    def _end(self, chunks: int) -> None:
        with self._changed:
            if not self._abandoned:
                self._chunks = chunks
                self._changed.notify_all()

    @override
    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._abandoned:
                return
            self._abandoned = True
            self._ready.append((False, error))
            self._chunks = self._taken
            self._changed.notify_all()


class OrderedIMapIterator(IMapIterator):
    """The results of `imap`, in the order of the items."""

    def __init__(self) -> None:
        """Wait for results; get one from a Pool instead."""
        super().__init__()
        self._early: dict[int, Sequence[Outcome]] = {}

    @override
    def _arrived(self, index: int, outcomes: Sequence[Outcome]) -> None:
        self._early[index] = outcomes
        while self._taken in self._early:
            self._ready.extend(self._early.pop(self._taken))
            self._taken += 1


class UnorderedIMapIterator(IMapIterator):
    """The results of `imap_unordered`, as they come."""

    @override
    def _arrived(self, index: int, outcomes: Sequence[Outcome]) -> None:
        self._ready.extend(outcomes)
        self._taken += 1


def error_of(failure: Any) -> BaseException:
    """Return what to raise for a failed call.

    The user's error itself where it travelled, with where it happened.
    """
    error: BaseException = unpack_failure(failure) if isinstance(failure, bytes) else failure
    if not isinstance(error, TaskError):
        return error
    cause = error.cause
    if not isinstance(cause, Exception) or isinstance(cause, StandInError):
        # No error of the user's, or one that would end the program here: SystemExit.
        return error
    told = story(error.hops)
    if told:
        cause.add_note(told)
    return cause


def _call_back(callback: Callable[[Any], object] | None, value: Any) -> None:
    if callback is None:
        return
    try:
        callback(value)
    except Exception:  # noqa: BLE001 - a user's callback must not end the pool
        logger().exception("a callback of a pool failed")
