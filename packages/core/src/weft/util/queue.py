"""A first-in, first-out queue that tasks, actors and the driver share.

The items are in an async actor, and who waits, waits there, so nobody polls. Items travel by value:
what was put stays when its producer ends. A consumer that gives up (a timeout, Ctrl-C, a cancelled
`get_async`) takes no item: one that was on its way to it goes back to the head. What is not: an
item on its way to a process that dies is lost with it.
"""

from __future__ import annotations

import queue as standard_queue
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from weft._api.actors import kill
from weft._api.decorators import remote
from weft._api.objects import cancel, get
from weft._api.session import started
from weft._lazy import lazy
from weft.exceptions import OptionError, SessionError, WeftError
from weft.util._endings import wait_until_gone
from weft.util._queue_actor import QueueActor

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Future

    from weft._refs import ObjectRef
else:
    asyncio = lazy("asyncio")

__all__ = ["Empty", "Full", "Queue"]

T = TypeVar("T")
A = TypeVar("A")

# So many may wait at a time. A wait costs the actor a coroutine, and must never keep out who would
# end it.
WAITERS = 1_000_000
# How long a process takes at most to end that was killed.
END_S = 5.0


class Empty(standard_queue.Empty):
    """There is no item, or none came in time. Nothing was taken."""


class Full(standard_queue.Full):
    """There is no room, or none came up in time. Nothing was put."""


class Queue(Generic[T]):
    """A first-in, first-out queue between tasks, actors and the driver; used like `queue.Queue`.

    Pass it to tasks and actors: all copies are one queue. It ends when the last copy is gone, or by
    `shutdown`; its methods raise ActorDiedError then. Safe from threads. The methods whose names
    end in `_async` are for coroutines.

    Attributes:
        maxsize: How many items it holds at most; 0 or less: no limit.
        actor: The handle of the actor behind it; None after `shutdown` here.
    """

    def __init__(self, maxsize: int = 0, actor_options: Mapping[str, Any] | None = None) -> None:
        """Make a queue, and the actor behind it.

        Args:
            maxsize: How many items it holds at most; 0 or less: no limit.
            actor_options: Options of that actor, such as its name.

        Raises:
            OptionError: An option is unknown or wrong.
        """
        if isinstance(maxsize, bool) or not isinstance(maxsize, int):
            raise OptionError(f"maxsize={maxsize!r} of a queue has to be a whole number")
        self.maxsize = maxsize
        options = {"max_concurrency": WAITERS, **(actor_options or {})}
        self.actor: Any = remote(QueueActor).options(**options).remote(maxsize)

    def __len__(self) -> int:
        return self.size()

    # -------------------------------------------------------------- how full it is

    def size(self) -> int:
        """Return the number of items; another process may have changed it meanwhile."""
        return self.qsize()

    def qsize(self) -> int:
        """Return the number of items; another process may have changed it meanwhile."""
        number: int = get(self._actor.qsize.remote())
        return number

    def empty(self) -> bool:
        """Tell whether there is no item; another process may have changed that meanwhile."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Tell whether there is no room; another process may have changed that meanwhile."""
        return self.maxsize > 0 and self.qsize() >= self.maxsize

    # -------------------------------------------------------------- putting

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item. Blocks while there is no room.

        Args:
            item: Anything that can be pickled; a reference is put as the value that it stands for.
            block: False: do not wait for room.
            timeout: Seconds to wait at most; None: for ever.

        Raises:
            Full: There is no room, or none came up in time.
            ValueError: The timeout is negative.
        """
        _check_put(_wait(self._putting(item, timeout, blocks=block), cancel))

    async def put_async(
        self,
        item: T,
        block: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109 - Ray's parameter
    ) -> None:
        """Put an item, from a coroutine. Waits while there is no room.

        Args:
            item: Anything that can be pickled; a reference is put as the value that it stands for.
            block: False: do not wait for room.
            timeout: Seconds to wait at most; None: for ever.

        Raises:
            Full: There is no room, or none came up in time.
            ValueError: The timeout is negative.
        """
        _check_put(await _wait_async(self._putting(item, timeout, blocks=block), cancel))

    def put_nowait(self, item: T) -> None:
        """Put an item if there is room.

        Args:
            item: As of `put`.

        Raises:
            Full: There is no room.
        """
        self.put(item, block=False)

    def put_nowait_batch(self, items: Iterable[T]) -> None:
        """Put all of several items, if there is room for all.

        Args:
            items: What to put, in this order.

        Raises:
            Full: There is no room for all of them. None was put.
            TypeError: `items` is no iterable.
        """
        _check_put(get(self._actor.put_nowait_batch.remote(list(items))))

    # -------------------------------------------------------------- getting

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take an item. Blocks while there is none.

        Args:
            block: False: do not wait for an item.
            timeout: Seconds to wait at most; None: for ever.

        Raises:
            Empty: There is no item, or none came in time.
            ValueError: The timeout is negative.
        """
        return _item(_wait(self._getting(timeout, blocks=block), self._give_back))

    async def get_async(
        self,
        block: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109 - Ray's parameter
    ) -> T:
        """Take an item, from a coroutine. Waits while there is none.

        Args:
            block: False: do not wait for an item.
            timeout: Seconds to wait at most; None: for ever.

        Raises:
            Empty: There is no item, or none came in time.
            ValueError: The timeout is negative.
        """
        return _item(await _wait_async(self._getting(timeout, blocks=block), self._give_back))

    def get_nowait(self) -> T:
        """Take an item if there is one.

        Raises:
            Empty: There is none.
        """
        return self.get(block=False)

    def get_nowait_batch(self, num_items: int) -> list[T]:
        """Take so many items, if there are as many.

        Args:
            num_items: How many, from 0 up.

        Raises:
            Empty: There are fewer. None was taken.
            ValueError: The number is negative.
        """
        if isinstance(num_items, bool) or not isinstance(num_items, int):
            raise TypeError(f"num_items={num_items!r} has to be a whole number")
        if num_items < 0:
            raise ValueError(f"num_items={num_items} has to be from 0 up")
        taken: list[T] | None = get(self._actor.get_nowait_batch.remote(num_items))
        if taken is None:
            raise Empty(f"the queue has fewer than {num_items} items")
        return taken

    # -------------------------------------------------------------- the end

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the queue and drop its items.

        Blocks until it is gone. Who waits for it gets ActorDiedError. Idempotent.

        Args:
            force: Do not wait for calls that were made before.
            grace_period_s: How many seconds to wait for them at most.
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        engine = started()
        if not force:
            actor.__weft_terminate__.remote()
            force = not wait_until_gone(engine, [actor], grace_period_s)
        if force:
            kill(actor)
            wait_until_gone(engine, [actor], END_S)

    # -------------------------------------------------------------- inside

    @property
    def _actor(self) -> Any:
        if self.actor is None:
            raise SessionError("this queue was shut down")
        return self.actor

    def _putting(self, item: T, timeout_s: float | None, *, blocks: bool) -> ObjectRef[bool]:
        actor = self._actor
        ref: ObjectRef[bool] = (
            actor.put.remote(item, _checked(timeout_s)) if blocks else actor.put_nowait.remote(item)
        )
        return ref

    def _getting(self, timeout_s: float | None, *, blocks: bool) -> ObjectRef[tuple[bool, T]]:
        actor = self._actor
        ref: ObjectRef[tuple[bool, T]] = (
            actor.get.remote(_checked(timeout_s)) if blocks else actor.get_nowait.remote()
        )
        return ref

    def _give_back(self, ref: ObjectRef[tuple[bool, T]]) -> None:
        """Nobody waits for this item any more: withdraw the question, or return the item."""
        cancel(ref)
        ref.future().add_done_callback(partial(_return_item, self.actor))


def _wait(ref: ObjectRef[A], withdraw: Callable[[ObjectRef[A]], object]) -> A:
    """Return the actor's answer. Who gives up waiting withdraws the question."""
    try:
        return get(ref)
    except WeftError:
        raise
    except BaseException:
        # Ctrl-C, or what a signal handler raised.
        withdraw(ref)
        raise


async def _wait_async(ref: ObjectRef[A], withdraw: Callable[[ObjectRef[A]], object]) -> A:
    """Do as `_wait` does, in a coroutine."""
    try:
        return await ref
    except asyncio.CancelledError:
        withdraw(ref)
        raise


def _check_put(was_put: bool) -> None:
    if not was_put:
        raise Full("the queue has no room")


def _item(answer: tuple[bool, T]) -> T:
    is_there, item = answer
    if not is_there:
        raise Empty("the queue has no item")
    return item


def _return_item(actor: Any, answer: Future[tuple[bool, Any]]) -> None:
    if answer.exception() is None:
        is_there, item = answer.result()
        if is_there:
            actor.put_back.remote(item)


def _checked(timeout_s: float | None) -> float | None:
    if timeout_s is not None and timeout_s < 0:
        raise ValueError(f"timeout={timeout_s!r} has to be a number of seconds from 0 up")
    return timeout_s
