"""A first-in, first-out queue that tasks, actors and the driver share.

It is an async actor with the items in it. Who waits, waits there, so nobody polls. Items travel by
value: what was put stays when its producer ends.

What is always true
1. Items leave in the order in which they came; those of one producer in the order in which it put
   them.
2. Consumers that wait are served in the order in which they asked, and so are producers.
3. A consumer that gives up (a timeout, Ctrl-C, a cancelled `get_async`) takes no item: one that was
   on its way to it goes back to the head.

What is not: an item on its way to a process that dies is lost with it.
"""

from __future__ import annotations

import queue as standard_queue
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from weft._api.actors import kill
from weft._api.decorators import remote
from weft._api.objects import cancel, get
from weft._api.session import started
from weft._lazy import lazy
from weft.exceptions import OptionError, SessionError, WeftError
from weft.util._endings import wait_until_gone

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future

    from weft._refs import ObjectRef
else:
    asyncio = lazy("asyncio")

T = TypeVar("T")

WAITERS = 1_000_000
"""How many may wait at a time.

A wait costs the actor a coroutine, and must never keep out who would end it.
"""


END_S = 5.0
"""How long a process takes at most to end that was killed."""


class Empty(standard_queue.Empty):
    """There is no item, or none came in time. Nothing was taken."""


class Full(standard_queue.Full):
    """There is no room, or none came up in time. Nothing was put."""


class QueueActor:
    """The actor behind a Queue: the items, and who waits for them or for room."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: deque[Any] = deque()
        self._consumers: deque[asyncio.Future[Any]] = deque()
        self._producers: deque[tuple[asyncio.Future[None], Any]] = deque()

    def qsize(self) -> int:
        """Return the number of items."""
        return len(self._items)

    def has_room(self, items: int = 1) -> bool:
        """Tell whether so many items find room."""
        return self._maxsize <= 0 or len(self._items) + items <= self._maxsize

    async def put(self, item: Any, timeout_s: float | None) -> bool:
        """Wait for room and put an item; False if there was none in time."""
        if self.has_room() and not self._producers:
            self._items.append(item)
            self._match()
            return True
        admitted = asyncio.get_running_loop().create_future()
        self._producers.append((admitted, item))
        try:
            async with asyncio.timeout(timeout_s):
                await admitted
        except TimeoutError:
            # Admitted in the same turn of the loop: then it is in.
            return admitted.done() and not admitted.cancelled()
        return True

    async def get(self, timeout_s: float | None) -> tuple[bool, Any]:
        """Wait for an item and take it; (False, None) if there was none in time."""
        if self._items:
            return self.get_nowait()
        served = asyncio.get_running_loop().create_future()
        self._consumers.append(served)
        try:
            async with asyncio.timeout(timeout_s):
                return True, await served
        except TimeoutError:
            self._withdraw(served)
            return False, None
        except asyncio.CancelledError:
            self._withdraw(served)
            raise

    def _withdraw(self, served: asyncio.Future[Any]) -> None:
        if served.done() and not served.cancelled():
            self.put_back(served.result())

    def put_nowait(self, item: Any) -> bool:
        """Put an item if there is room."""
        return self.put_nowait_batch([item])

    def put_nowait_batch(self, items: list[Any]) -> bool:
        """Put all of several items, if there is room for all."""
        if self._producers or not self.has_room(len(items)):
            return False
        self._items.extend(items)
        self._match()
        return True

    def get_nowait(self) -> tuple[bool, Any]:
        """Take an item if there is one."""
        if not self._items:
            return False, None
        item = self._items.popleft()
        self._match()
        return True, item

    def get_nowait_batch(self, items: int) -> list[Any] | None:
        """Take so many items, if there are as many."""
        if len(self._items) < items:
            return None
        taken = [self._items.popleft() for _ in range(items)]
        self._match()
        return taken

    def put_back(self, item: Any) -> None:
        """Put an item at the head: it was taken and could not be handed over."""
        self._items.appendleft(item)
        self._match()

    def _match(self) -> None:
        """Give items to who waits for them, then room to who waits for that."""
        while self._items or self._producers:
            while self._items and self._consumers:
                served = self._consumers.popleft()
                if not served.done():
                    served.set_result(self._items.popleft())
            if not self._producers or not self.has_room():
                return
            admitted, item = self._producers.popleft()
            if not admitted.done():
                self._items.append(item)
                admitted.set_result(None)


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
        ref = self._putting(item, timeout, blocks=block)
        try:
            was_put = get(ref)
        except BaseException as error:
            if not isinstance(error, WeftError):
                # Ctrl-C, or what a signal handler raised.
                cancel(ref)
            raise
        self._check_put(was_put)

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
        ref = self._putting(item, timeout, blocks=block)
        try:
            was_put = await ref
        except asyncio.CancelledError:
            cancel(ref)
            raise
        self._check_put(was_put)

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
        self._check_put(get(self._actor.put_nowait_batch.remote(list(items))))

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
        ref = self._getting(timeout, blocks=block)
        try:
            answer = get(ref)
        except BaseException as error:
            if not isinstance(error, WeftError):
                self._give_back(ref)
            raise
        return self._item(answer)

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
        ref = self._getting(timeout, blocks=block)
        try:
            answer = await ref
        except asyncio.CancelledError:
            self._give_back(ref)
            raise
        return self._item(answer)

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
        if not blocks:
            return self._actor.put_nowait.remote(item)  # type: ignore[no-any-return]  # handles are Any
        return self._actor.put.remote(item, _checked(timeout_s))  # type: ignore[no-any-return]  # as above

    def _getting(self, timeout_s: float | None, *, blocks: bool) -> ObjectRef[tuple[bool, T]]:
        if not blocks:
            return self._actor.get_nowait.remote()  # type: ignore[no-any-return]  # as above
        return self._actor.get.remote(_checked(timeout_s))  # type: ignore[no-any-return]  # as above

    def _check_put(self, was_put: Any) -> None:
        if not was_put:
            raise Full("the queue has no room")

    def _item(self, answer: tuple[bool, T]) -> T:
        is_there, item = answer
        if not is_there:
            raise Empty("the queue has no item")
        return item

    def _give_back(self, ref: ObjectRef[tuple[bool, T]]) -> None:
        """Nobody waits for this answer any more.

        Withdraw the question, or the item if it was answered.
        """
        cancel(ref)
        ref.future().add_done_callback(partial(_return_item, self.actor))


def _return_item(actor: Any, answer: Future[tuple[bool, Any]]) -> None:
    if answer.exception() is None:
        is_there, item = answer.result()
        if is_there:
            actor.put_back.remote(item)


def _checked(timeout_s: float | None) -> float | None:
    if timeout_s is not None and timeout_s < 0:
        raise ValueError(f"timeout={timeout_s!r} has to be a number of seconds from 0 up")
    return timeout_s
