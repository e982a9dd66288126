"""A pool of worker processes with the interface of `multiprocessing.Pool`.

What is better than there: functions and items may be whatever Weft can pickle (lambdas, closures,
classes of `__main__`); workers may be anywhere in the cluster; a call that its worker dies of
fails, where a Pool there hangs; an initializer that fails does so at the first result; `imap` goes
on after an item that raised whatever the size of its chunks.

What differs: `context` has no meaning, and workers are not copies of this process. A function of an
imported module finds there what the import made, not what this program has changed since: give that
to the initializer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from multiprocessing import TimeoutError
from types import FunctionType
from typing import TYPE_CHECKING, Any, NoReturn

from weft._api.cluster import cluster_resources
from weft._api.objects import put
from weft._api.session import init, is_initialized, started
from weft._override import override
from weft._serialize.pickling import dump_code
from weft.util.multiprocessing._backlog import PoolWork
from weft.util.multiprocessing._crew import Crew
from weft.util.multiprocessing._results import (
    AsyncResult,
    IMapIterator,
    OrderedIMapIterator,
    PoolJob,
    UnorderedIMapIterator,
)
from weft.util.multiprocessing._worker import (
    BOTH,
    KEPT_FUNCTIONS,
    ONE,
    STARRED,
    PoolCode,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = [
    "AsyncResult",
    "IMapIterator",
    "OrderedIMapIterator",
    "Pool",
    "TimeoutError",
    "UnorderedIMapIterator",
]

# A function whose pickle is larger is stored once instead of travelling with every chunk.
LARGE_CODE_BYTES = 16 * 1024
# So many chunks for each worker, so that one with harder items can be helped: the number of
# multiprocessing.
CHUNKS_PER_WORKER = 4

Callback = Callable[[Any], object]
ErrorCallback = Callable[[BaseException], object]


class Pool:
    """Worker processes that make calls: a drop-in for `multiprocessing.Pool`.

        with Pool(4) as pool:
            print(pool.map(square, range(100)))

    Safe from threads. Ctrl-C while a method blocks leaves a usable pool; what `map`, `starmap` or
    `apply` had not begun is dropped then.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: Mapping[str, Any] | None = None,
    ) -> None:
        """Start a pool. Does not wait for the workers. Starts a session if there is none.

        Args:
            processes: How many workers; None: one for each CPU of the cluster.
            initializer: Called in each worker when it starts.
            initargs: What it is called with.
            maxtasksperchild: How many chunks of calls a worker makes before a fresh one takes its
                place; None: any number.
            context: Not used: how workers start is Weft's business.
            ray_address: Where to connect if there is no session; as of `weft.init`.
            ray_remote_args: Options of the workers, which are actors: num_cpus, resources,
                runtime_env ...

        Raises:
            ValueError: A number is out of range.
            TypeError: The initializer cannot be called.
        """
        if processes is not None and processes < 1:
            raise ValueError("a pool needs at least 1 process")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer has to be callable")
        if maxtasksperchild is not None and maxtasksperchild < 1:
            raise ValueError("maxtasksperchild has to be a whole number from 1 up, or None")
        if ray_address is not None and not is_initialized():
            init(address=ray_address)
        started()
        self._size = processes or max(1, int(cluster_resources().get("CPU", 1)))
        self._state = "RUN"
        self._codes: dict[int, tuple[FunctionType, PoolCode]] = {}
        """By the id of a function, which is kept so that the id stays its own."""
        self._crew = Crew(
            self._size, dict(ray_remote_args or {}), initializer, tuple(initargs), maxtasksperchild
        )

    def __del__(self) -> None:
        crew: Crew | None = getattr(self, "_crew", None)
        if crew is not None:
            crew.close()

    @override
    def __repr__(self) -> str:
        return f"<Pool state={self._state} pool_size={self._size}>"

    @override
    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("a pool cannot be passed between processes or pickled")

    # -------------------------------------------------------------- one call

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function in a worker and return its result. Blocks.

        Args:
            func: What to call.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Raises:
            Exception: What the function raised: the error itself, with a note that says where.
            PicklingError: The function or an argument cannot travel.
            ActorDiedError: The worker died.
            ValueError: The pool is closed.
        """
        return _finish(self.apply_async(func, args, kwargs))

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: ErrorCallback | None = None,
    ) -> AsyncResult:
        """Call a function in a worker. Does not block.

        Args:
            func: What to call.
            args: Its arguments.
            kwargs: Its keyword arguments.
            callback: Called with the result, in a thread of the pool. It must not block.
            error_callback: Called with the error instead, if the call fails.

        Raises:
            PicklingError: The function cannot travel.
            ValueError: The pool is closed.
        """
        work = self._work(func, BOTH, stops=False)
        result = AsyncResult(callback, error_callback, is_single=True)
        self._crew.submit(result, work, iter([[(tuple(args), dict(kwargs or {}))]]))
        return result

    # -------------------------------------------------------------- many calls, all results at once

    def map(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Call a function with each item and return the results in order. Blocks.

        Args:
            func: What to call.
            iterable: The items; taken at once.
            chunksize: How many items go to a worker at a time; None: a quarter of its share.

        Raises:
            Exception: What the function raised for the first item that failed, once all calls have
                ended.
            PicklingError: The function cannot travel.
            ValueError: The pool is closed.
        """
        results: list[Any] = _finish(self.map_async(func, iterable, chunksize))
        return results

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: ErrorCallback | None = None,
    ) -> AsyncResult:
        """Call a function with each item. Does not block.

        Args:
            func: What to call.
            iterable: The items; taken at once.
            chunksize: How many items go to a worker at a time; None: a quarter of its share.
            callback: Called with the list of results, in a thread of the pool. It must not block.
            error_callback: Called with the first error instead, if a call fails.

        Raises:
            PicklingError: The function cannot travel.
            ValueError: The pool is closed.
        """
        return self._map(func, ONE, iterable, chunksize, callback, error_callback)

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[Any]:
        """Call a function with the arguments that each item holds, and return the results in order.

        Blocks.

        Args:
            func: What to call.
            iterable: Tuples of arguments; taken at once.
            chunksize: How many items go to a worker at a time; None: a quarter of its share.

        Raises:
            Exception: What the function raised for the first item that failed, once all calls have
                ended.
            PicklingError: The function cannot travel.
            ValueError: The pool is closed.
        """
        results: list[Any] = _finish(self.starmap_async(func, iterable, chunksize))
        return results

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: ErrorCallback | None = None,
    ) -> AsyncResult:
        """Call a function with the arguments that each item holds. Does not block.

        Args:
            func: What to call.
            iterable: Tuples of arguments; taken at once.
            chunksize: How many items go to a worker at a time; None: a quarter of its share.
            callback: Called with the list of results, in a thread of the pool. It must not block.
            error_callback: Called with the first error instead, if a call fails.

        Raises:
            PicklingError: The function cannot travel.
            ValueError: The pool is closed.
        """
        return self._map(func, STARRED, iterable, chunksize, callback, error_callback)

    def _map(
        self,
        func: Callable[..., Any],
        how: int,
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: ErrorCallback | None,
    ) -> AsyncResult:
        work = self._work(func, how, stops=True)
        items = iterable if isinstance(iterable, list | tuple | range) else list(iterable)
        if chunksize is None:
            chunksize = max(1, -(-len(items) // (self._size * CHUNKS_PER_WORKER)))
        _check_chunksize(chunksize)
        result = AsyncResult(callback, error_callback, is_single=False)
        self._crew.submit(result, work, _slices(items, chunksize))
        return result

    # -------------------------------------------------------------- many calls, results one by one

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> OrderedIMapIterator:
        """Call a function with each item; iterate the results in order, as they come.

        Does not block.

        Items are taken a little ahead of the workers, whether or not results are taken. An item
        whose call raised raises that error in its turn, and the iteration can go on.

        Args:
            func: What to call.
            iterable: The items.
            chunksize: How many items go to a worker at a time.

        Returns:
            An iterator; its `next(timeout)` waits so many seconds at most.

        Raises:
            PicklingError: The function cannot travel.
            ValueError: The pool is closed, or chunksize is below 1.
        """
        results = OrderedIMapIterator()
        self._imap(results, func, iterable, chunksize)
        return results

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> UnorderedIMapIterator:
        """Call a function with each item; iterate the results as they come. Does not block.

        Args:
            func: What to call.
            iterable: The items, as of `imap`.
            chunksize: How many items go to a worker at a time.

        Returns:
            An iterator; its `next(timeout)` waits so many seconds at most.

        Raises:
            PicklingError: The function cannot travel.
            ValueError: The pool is closed, or chunksize is below 1.
        """
        results = UnorderedIMapIterator()
        self._imap(results, func, iterable, chunksize)
        return results

    def _imap(
        self, job: PoolJob, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int
    ) -> None:
        _check_chunksize(chunksize)
        work = self._work(func, ONE, stops=False)
        if isinstance(iterable, list | tuple | range):
            self._crew.submit(job, work, _slices(iterable, chunksize))
        else:
            self._crew.feed(job, work, _portions(iter(iterable), chunksize))

    def _work(self, func: Callable[..., Any], how: int, *, stops: bool) -> PoolWork:
        if self._state != "RUN":
            raise ValueError("Pool not running")
        name = getattr(func, "__qualname__", type(func).__qualname__).rpartition("<locals>.")[2]
        return PoolWork(self._code_of(func), name, how, stops=stops)

    def _code_of(self, func: Callable[..., Any]) -> PoolCode:
        known = self._codes.get(id(func))
        if known is not None:
            return known[1]
        _, packed = dump_code(func)
        code = packed if len(packed) <= LARGE_CODE_BYTES else put(packed)
        if isinstance(func, FunctionType) and func.__closure__ is None:
            # What has variables of its own is pickled at each call, since they may have changed.
            if len(self._codes) >= KEPT_FUNCTIONS:
                self._codes.clear()
            self._codes[id(func)] = (func, code)
        return code

    # -------------------------------------------------------------- the end

    def close(self) -> None:
        """Take no more work.

        The workers end when what there is is done. Does not block. Idempotent.
        """
        if self._state == "RUN":
            self._state = "CLOSE"
            self._crew.close()

    def terminate(self) -> None:
        """End the workers now.

        Blocks until they are gone. What was not done raises TaskCancelledError. Idempotent.
        """
        self._state = "TERMINATE"
        self._crew.terminate()
        self._crew.thread.join()

    def join(self) -> None:
        """Wait until the workers have ended. Blocks.

        Raises:
            ValueError: The pool takes work: call `close` or `terminate` first.
        """
        if self._state == "RUN":
            raise ValueError("Pool is still running")
        self._crew.thread.join()

    def __enter__(self) -> Self:
        if self._state != "RUN":
            raise ValueError("Pool not running")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.terminate()


def _finish(result: AsyncResult) -> Any:
    try:
        return result.get()
    except BaseException:
        # After Ctrl-C nobody has the result: what has not begun need not begin.
        result._abandoned = True
        raise


def _check_chunksize(chunksize: int) -> None:
    if chunksize < 1:
        raise ValueError(f"chunksize={chunksize} has to be from 1 up")


def _slices(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _portions(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while portion := list(islice(items, size)):
        yield portion
