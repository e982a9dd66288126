"""The actor behind a Queue: the items, and who waits for them or for room.

What is always true
1. Items leave in the order in which they came; those of one producer in the order in which it put
   them.
2. Consumers that wait are served in the order in which they asked, and so are producers.
3. While an item is there no consumer waits, and while there is room no producer.
4. Nothing is left of who gave up waiting.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from weft._lazy import lazy

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = lazy("asyncio")


class QueueActor:
    """The actor behind a Queue: the items, and who waits for them or for room."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: deque[Any] = deque()
        self._consumers: OrderedDict[asyncio.Future[Any], None] = OrderedDict()
        self._producers: OrderedDict[asyncio.Future[None], Any] = OrderedDict()
        """With their items."""

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
        self._producers[admitted] = item
        try:
            async with asyncio.timeout(timeout_s):
                await admitted
        except TimeoutError:
            # Admitted in the same turn of the loop: then it is in.
            return admitted.done() and not admitted.cancelled()
        finally:
            self._producers.pop(admitted, None)
        return True

    async def get(self, timeout_s: float | None) -> tuple[bool, Any]:
        """Wait for an item and take it; (False, None) if there was none in time."""
        if self._items:
            return self.get_nowait()
        served = asyncio.get_running_loop().create_future()
        self._consumers[served] = None
        try:
            async with asyncio.timeout(timeout_s):
                return True, await served
        except TimeoutError:
            self._withdraw(served)
            return False, None
        except asyncio.CancelledError:
            self._withdraw(served)
            raise
        finally:
            self._consumers.pop(served, None)

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
                served, _ = self._consumers.popitem(last=False)
                if not served.done():
                    served.set_result(self._items.popleft())
            if not self._producers or not self.has_room():
                return
            admitted, item = self._producers.popitem(last=False)
            if not admitted.done():
                self._items.append(item)
                admitted.set_result(None)
