"""Streams of the inline engine: what a generator yields, one value at a time.

A task's or plain actor's generator is pulled: its code runs in the thread that asks for the next
item, and not before, so a debugger stops where one expects it to. A threaded or async actor's
generator is pushed: it runs on the actor's own thread or loop, and waits when it is too far ahead.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from weft._clock import monotonic, wall
from weft._runtime.inline_calls import InlineCall, here
from weft._runtime.inline_values import FAILED, Cell
from weft.exceptions import GetTimeoutError, TaskCancelledError

if TYPE_CHECKING:
    from weft._refs import ObjectRef
    from weft._serialize.pickling import Serialized

# How many items a pushed stream holds before its generator waits, where its options do not say.
ITEMS = 1000


class InlineStream:
    """One generator call's items."""

    def __init__(self, call: InlineCall) -> None:
        self.call = call
        self.ended = False
        self.on_end: Callable[[], None] = lambda: None
        self._function: Callable[..., Any] | None = None
        """Of a pulled stream: makes the iterator."""
        self._iterator: Iterator[Any] | None = None
        self._items: deque[Cell] = deque()
        self._produced = 0
        self._skip = 0
        """Items that a retry makes a second time."""
        self._pulling = threading.RLock()
        self._changed = threading.Condition(call.values.lock)
        self._waiters: list[Callable[[], object]] = []
        self._limit = call.backpressure or ITEMS
        self._room: Callable[[], object] | None = None
        """Tells a coroutine that there is room."""

    # -------------------------------------------------------------- the consumer

    def next_item(self, timeout_s: float | None) -> ObjectRef[Any] | None:
        """Return the next item's reference, or None at the end. GetTimeoutError."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while True:
            with self._changed:
                if self._items:
                    return self._taken()
                if self.ended:
                    return None
                if self._function is None:
                    left_s = None if deadline is None else deadline - monotonic()
                    if left_s is not None and left_s <= 0:
                        raise GetTimeoutError(f"the stream had no next item after {timeout_s:g} s")
                    self.call.refuse_deadlock()
                    self._changed.wait(left_s)
                    continue
            self.pull(deadline)

    def _taken(self) -> ObjectRef[Any]:
        cell = self._items.popleft()
        index = self._produced - len(self._items) + 1
        self._changed.notify_all()
        if self._room is not None:
            room, self._room = self._room, None
            room()
        return self.call.values.ref(self.call.task_id.object_id(index), cell)

    def when_next(self, callback: Callable[[], None]) -> None:
        """Call back when `next_item` would not block; a pulled stream makes the item then."""
        values = self.call.values
        with self._changed:
            is_there = bool(self._items) or self.ended
            if not is_there and self._function is not None:
                pending = self.call.arguments.pending()
                if pending and not values.when_settled(
                    pending[0], lambda: self.when_next(callback)
                ):
                    return
                is_there = True
            if not is_there:
                self._waiters.append(callback)
                return
        callback()

    # -------------------------------------------------------------- a pulled stream

    def start(self, function: Callable[..., Any]) -> None:
        """Make it a pulled one: `function` is the user's generator function."""
        with self._changed:
            if self.ended:
                return
            self._function = function
            for cell in self.call.cells:
                cell.drive = self.run_to_end
            waiters, self._waiters = self._waiters, []
            self._changed.notify_all()
        for waiter in waiters:
            waiter()

    def pull(self, deadline: float | None = None) -> None:
        """Run the generator up to its next item.

        GetTimeoutError while its arguments are to come.
        """
        for cell in self.call.arguments.pending():
            if not self.call.values.await_cell(cell, deadline):
                raise GetTimeoutError(
                    f"{self.call.name} waited for its arguments; {self.call.why()}"
                )
        with self._pulling:
            if not self._items and not self.ended:
                self._advance()

    def run_to_end(self) -> None:
        """Run the generator to its end, if it is a pulled one; its items wait here."""
        while not self.ended and self._function is not None:
            for cell in self.call.arguments.pending():
                self.call.values.await_cell(cell, None)
            with self._pulling:
                if not self.ended:
                    self._advance()

    def _advance(self) -> None:
        call, function = self.call, self._function
        failure = call.arguments.failure()
        if failure is not None:
            self.finish(failure)
            return
        if function is None:
            return  # another thread has just ended it
        began_at, began = wall(), monotonic()
        token = here.set(call)
        call.thread = threading.get_ident()
        try:
            while True:
                try:
                    iterator = self._iterator
                    if iterator is None:
                        iterator = self._iterator = self._begin(function)
                    value = next(iterator)
                except StopIteration:
                    self.finish()
                    return
                if self._skip:
                    self._skip -= 1
                    continue
                self.add(value)
                return
        except BaseException as error:
            if call.is_retriable(error):
                self._iterator, self._skip = None, self._produced
                self._advance()
                return
            self.finish(call.packed(error))
            if isinstance(error, KeyboardInterrupt) and not call.is_cancelled:
                raise
        finally:
            call.thread = 0
            here.reset(token)
            call.record(began_at, monotonic() - began)

    def _begin(self, function: Callable[..., Any]) -> Iterator[Any]:
        call = self.call
        call.attempts += 1
        args, kwargs = call.arguments.load(call.values)
        return as_iterator(function(*args, **kwargs), call.function_name)

    # -------------------------------------------------------------- a pushed stream

    def add(self, value: Any) -> None:
        """Add an item. PicklingError."""
        cell = Cell()
        self.call.values.settle(cell, *self.call.values.pack(value))
        self._append(cell)

    def _append(self, cell: Cell) -> None:
        with self._changed:
            if self.ended:
                return
            self._items.append(cell)
            self._produced += 1
            waiters, self._waiters = self._waiters, []
            self._changed.notify_all()
        for waiter in waiters:
            waiter()

    def await_room(self) -> bool:
        """Wait until the consumer is near; False if the stream is over."""
        with self._changed:
            while len(self._items) >= self._limit and not self.ended:
                self._changed.wait()
            return not self.ended

    def has_room(self, tell: Callable[[], object]) -> bool:
        """Tell whether the consumer is near; if not, `tell` is called when it is."""
        with self._changed:
            if len(self._items) < self._limit or self.ended:
                return True
            self._room = tell
            return False

    # -------------------------------------------------------------- the end

    def finish(self, failure: Serialized | None = None) -> None:
        """The generator has ended; its packed error, if it failed, is the last item."""
        if failure is not None:
            cell = Cell()
            self.call.values.settle(cell, FAILED, failure)
            self._append(cell)
        with self._changed:
            if self.ended:
                return
            self.ended = True
            self._iterator = self._function = None
            waiters, self._waiters = self._waiters, []
            room, self._room = self._room, None
            self._changed.notify_all()
        if failure is None:
            self.call.settle_nothing()
        else:
            self.call.settle_failure(failure)
        for waiter in waiters:
            waiter()
        if room is not None:
            room()
        self.on_end()

    def cancel(self) -> None:
        """End the generator where it is.

        Its `finally` blocks run in this thread if it was a pulled one.
        """
        call = self.call
        call.is_cancelled = True
        if self.ended:
            return
        iterator = self._iterator
        if iterator is not None and call.thread == 0:
            with self._pulling:
                token = here.set(call)
                try:
                    close = getattr(iterator, "close", None)
                    if close is not None:
                        close()
                except BaseException as error:  # noqa: BLE001 - of a `finally` of the user's
                    self.finish(call.packed(error))
                finally:
                    here.reset(token)
        with self._changed:
            self._items.clear()
        cancelled = TaskCancelledError(call.task_id, task=call.name)
        self.finish(call.values.pack_error(cancelled))


def as_iterator(result: Any, name: str) -> Iterator[Any]:
    """Return a generator's iterator. TypeError if the function returned something else."""
    if not isinstance(result, Iterator):
        raise TypeError(
            f'{name} has num_returns="streaming", so it must be a generator, and returned '
            f"{type(result).__name__}"
        )
    return result
