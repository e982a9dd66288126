"""References: what stands for a value that is being made, and for a stream of them.

An ObjectRef counts: while one exists anywhere, its owner keeps the value. `__del__` only tells the
engine's queue, since it may run in the middle of anything. References cross processes inside values
that Weft's own serializer carries; plain pickle refuses them, because nobody would count them then.

Towards asyncio an ObjectRef behaves as a future: `await`, `asyncio.wait`, `gather` and
`as_completed` take it. Its callbacks run on the loop that was running when they were added.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from weft._ids import JobId, ObjectId, TaskId
from weft._lazy import lazy
from weft._override import override
from weft.exceptions import GetTimeoutError

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures
    from collections.abc import Callable, Generator
    from contextvars import Context

    from weft._engine import Engine
else:
    asyncio = lazy("asyncio")

T_co = TypeVar("T_co", covariant=True)


class ObjectRef(Generic[T_co]):
    """Stands for a value that a task makes or that `put` stored.

    Pass it to tasks, keep it in data structures, `weft.get` it, or `await` it. While one exists,
    its value is kept. Safe to use from any thread.
    """

    __slots__ = ("__weakref__", "_callbacks", "_engine", "_entry", "_id", "_owner")

    def __init__(self, object_id: ObjectId, engine: Engine, owner: str, entry: Any = None) -> None:
        self._id = object_id
        self._engine = engine
        self._owner = owner
        # The engine's own record of the value, so that a ready `get` needs no look-up.
        self._entry = entry

    def __del__(self) -> None:
        self._engine.release(self._id)

    @override
    def __hash__(self) -> int:
        return hash(self._id)

    @override
    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, ObjectRef) and self._id == other._id)

    @override
    def __repr__(self) -> str:
        return f"ObjectRef({self._id.hex()})"

    @override
    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be pickled by itself: pass it to a task, return it or put it, "
            "so that Weft counts who holds it"
        )

    def __copy__(self) -> ObjectRef[T_co]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ObjectRef[T_co]:
        return self

    def binary(self) -> bytes:
        """Return the id's 16 bytes."""
        return bytes(self._id)

    def hex(self) -> str:
        """Return the id in hexadecimal."""
        return self._id.hex()

    def is_nil(self) -> bool:
        """Tell whether the id stands for nothing; a reference that Weft made never does."""
        return self._id.is_nil()

    @classmethod
    def size(cls) -> int:
        """Return the length of an id in bytes."""
        return ObjectId.size()

    def task_id(self) -> TaskId:
        """Return the id of the task (or the `put`) that makes the value."""
        return self._id.task_id()

    def job_id(self) -> JobId:
        """Return the job in which this reference is used."""
        return self._engine.context().job_id

    def owner_address(self) -> str:
        """Return the address of the process that owns the value."""
        return self._owner

    def future(self) -> concurrent.futures.Future[T_co]:
        """Return a `concurrent.futures.Future` that gets the value, or the error of `get`."""
        return self._engine.future(self)

    def as_future(self) -> asyncio.Future[T_co]:
        """Return an asyncio future of the running loop that gets the value, or the error."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T_co] = loop.create_future()

        self._engine.when_ready(self, _on(loop, partial(self._settle, future)))
        return future

    def _settle(self, future: asyncio.Future[T_co]) -> None:
        """Give a future of the running loop its value.

        This is no closure: one that names itself goes only when garbage is collected.
        """
        if future.done():
            return
        try:
            future.set_result(self._engine.get([self], 0)[0])
        except Exception as error:  # noqa: BLE001 - it is the task's error, and goes to who awaits
            if isinstance(error, GetTimeoutError) and not self._engine.is_ready(self):
                # It was lost meanwhile, and is made again.
                again = partial(self._settle, future)
                self._engine.when_ready(self, _on(future.get_loop(), again))
            else:
                # Its traceback would lead through this frame to the future that has it.
                future.set_exception(error.with_traceback(None))

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.as_future().__await__()

    def done(self) -> bool:
        """Tell whether `get` would return (or raise) at once."""
        return self._engine.is_ready(self)

    def cancelled(self) -> bool:
        """Return False: a cancelled task shows in the error that `exception` returns."""
        return False

    def result(self) -> T_co:
        """Return the value, or raise the task's error. Blocks until it is there."""
        return self.get()

    def get(self, timeout: float | None = None) -> T_co:
        """Return the value, or raise the task's error. Blocks until it is there; see `weft.get`.

        Args:
            timeout: Seconds to wait at most; None: for ever.

        Raises:
            GetTimeoutError: Time was up. The task goes on.
        """
        value: T_co = self._engine.get([self], timeout)[0]
        return value

    def exception(self) -> BaseException | None:
        """Return the task's error, or None if it ended well. Blocks until it is known."""
        try:
            self._engine.get([self], None)
        except Exception as error:  # noqa: BLE001 - any error of the task is the answer here
            return error
        return None

    def add_done_callback(
        self, callback: Callable[[ObjectRef[T_co]], object], *, context: Context | None = None
    ) -> None:
        """Call `callback(self)` on the running asyncio loop once the value or error is there."""
        loop = asyncio.get_running_loop()
        pending: set[Callable[[ObjectRef[T_co]], object]] = getattr(self, "_callbacks", set())
        self._callbacks = pending
        pending.add(callback)

        def call() -> None:
            if callback in pending:
                pending.discard(callback)
                callback(self)

        self._engine.when_ready(self, _on(loop, call, context))

    def remove_done_callback(self, callback: Callable[[ObjectRef[T_co]], object]) -> int:
        """Forget a callback; returns how many were forgotten."""
        pending: set[Callable[[ObjectRef[T_co]], object]] = getattr(self, "_callbacks", set())
        known = callback in pending
        pending.discard(callback)
        return int(known)


class ObjectRefGenerator(Generic[T_co]):
    """The stream of a task with `num_returns="streaming"`.

    Yields an ObjectRef for each value, as it comes.

    Iterate it with `for` or `async for`. A task that fails raises its error where the failed value
    would be. The task waits when it is too far ahead of who iterates (back-pressure). Closing or
    dropping the stream ends the task.
    """

    __slots__ = ("__weakref__", "_completed", "_engine", "_finished", "_stream", "_task_id")

    def __init__(
        self, task_id: TaskId, engine: Engine, completed: ObjectRef[None], stream: Any = None
    ) -> None:
        self._task_id = task_id
        self._engine = engine
        self._completed = completed
        self._finished = False
        # The engine's own record of the stream.
        self._stream = stream

    @override
    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._task_id.hex()})"

    @override
    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot leave its process: pass on the ObjectRefs that it yields")

    def __iter__(self) -> ObjectRefGenerator[T_co]:
        return self

    def __next__(self) -> ObjectRef[T_co]:
        ref = self._next_sync(None)
        if ref is None:
            raise StopIteration
        return ref

    def __aiter__(self) -> ObjectRefGenerator[T_co]:
        return self

    async def __anext__(self) -> ObjectRef[T_co]:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not ready.done():
                ready.set_result(None)

        self._engine.when_next(self, _on(loop, settle))
        await ready
        ref = self._next_sync(0)
        if ref is None:
            raise StopAsyncIteration
        return ref

    def _next_sync(self, timeout_s: float | None) -> ObjectRef[T_co] | None:
        if self._finished:
            return None
        ref = self._engine.next_item(self, timeout_s)
        self._finished = ref is None
        return ref

    def task_id(self) -> TaskId:
        """Return the id of the task that yields."""
        return self._task_id

    def completed(self) -> ObjectRef[None]:
        """Return a reference that is ready when the task has yielded its last value, or failed."""
        return self._completed

    def is_finished(self) -> bool:
        """Tell whether every value has been taken."""
        return self._finished

    def next_ready(self) -> bool:
        """Tell whether `next()` would return at once."""
        if self._finished:
            return True
        found: list[None] = []
        self._engine.when_next(self, lambda: found.append(None))
        return bool(found)

    def close(self) -> None:
        """End the task, if it still runs, and the stream."""
        if not self._finished:
            self._finished = True
            self._engine.cancel(self, force=False, recursive=True)

    async def aclose(self) -> None:
        """End the task, if it still runs, and the stream."""
        self.close()

    def send(self, value: None) -> ObjectRef[T_co]:
        """Same as `next()`; values cannot be sent into a task, so only None is taken."""
        _refuse_value(value)
        return next(self)

    async def asend(self, value: None) -> ObjectRef[T_co]:
        """Same as `anext()`; values cannot be sent into a task, so only None is taken."""
        _refuse_value(value)
        return await anext(self)

    def throw(self, value: BaseException) -> NoReturn:
        """Close the stream and raise `value` here; it is not raised inside the task."""
        self.close()
        raise value

    async def athrow(self, value: BaseException) -> NoReturn:
        """Close the stream and raise `value` here; it is not raised inside the task."""
        self.throw(value)

    def __del__(self) -> None:
        self._engine.release(self._task_id)


def _refuse_value(value: object) -> None:
    if value is not None:
        raise TypeError(
            f"a task cannot receive values from its stream: send(None), not send({value!r})"
        )


def _on(
    loop: asyncio.AbstractEventLoop, function: Callable[[], None], context: Context | None = None
) -> Callable[[], None]:
    """Return what runs `function` on `loop`, from any thread; nothing once the loop is closed."""

    def post() -> None:
        try:
            loop.call_soon_threadsafe(function, context=context)
        except RuntimeError:
            if not loop.is_closed():
                raise

    return post
