"""A pool of actors that share work: one call at a time each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from weft._api.objects import get, wait
from weft._clock import monotonic
from weft._refs import ObjectRef
from weft.exceptions import ActorDiedError, GetTimeoutError, SessionError, TaskError

__all__ = ["ActorPool"]

V = TypeVar("V")
Submit = Callable[[Any, V], ObjectRef[Any]]


class _Item(Generic[V]):
    """One value that was submitted, until its result is taken and its call has ended."""

    __slots__ = ("actor", "error", "function", "ignored", "number", "ref", "result", "value")

    def __init__(self, number: int, function: Submit[V], value: V) -> None:
        self.number = number
        self.function = function
        self.value = value
        self.actor: Any = None
        """Whose call it is, from when it begins."""
        self.ref: ObjectRef[Any]
        """Of the call; set while it runs."""
        self.result: Any = None
        self.error: Exception | None = None
        self.ignored = False


class ActorPool(Generic[V]):
    """Actors that take values one at a time, whichever is free.

        pool = ActorPool([Model.remote() for _ in range(4)])
        for result in pool.map(lambda actor, batch: actor.predict.remote(batch), batches):
            ...

    A free actor gets the next value whenever the pool is used: at `submit`, and while a `get_next`
    waits. An actor that is found dead gets no more. What a submitted function raises comes out of
    the method that called it, and its value is dropped. For use by one thread at a time.
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        """Make a pool.

        Args:
            actors: Handles of the actors. They do not end with the pool but with their last
                handles.
        """
        self._idle = deque(actors)
        self._busy: dict[int, _Item[V]] = {}
        self._queue: deque[_Item[V]] = deque()
        self._untaken: dict[int, _Item[V]] = {}
        """In the order of submission."""
        self._done: dict[int, _Item[V]] = {}
        """Of those, the ones whose calls have ended, in that order."""
        self._death: ActorDiedError | None = None
        """Of the actor that was found dead last."""
        self._submitted = 0

    # -------------------------------------------------------------- all at once

    def map(self, fn: Submit[V], values: Iterable[V]) -> Iterator[Any]:
        """Submit all values at once, and yield the results in their order.

        Results not taken before are forgotten.

        Args:
            fn: Called with an actor and a value; returns the actor's reference.
            values: What the actors are to work on.

        Raises:
            TaskError: A call failed; raised at the turn of its result. `get_next` gives the ones
                after it.
        """
        self._start_over(fn, values)
        return self._results(self.get_next)

    def map_unordered(self, fn: Submit[V], values: Iterable[V]) -> Iterator[Any]:
        """Submit all values at once, and yield the results as they come.

        Results not taken before are forgotten.

        Args:
            fn: Called with an actor and a value; returns the actor's reference.
            values: What the actors are to work on.

        Raises:
            TaskError: A call failed. `get_next_unordered` gives the ones after it.
        """
        self._start_over(fn, values)
        return self._results(self.get_next_unordered)

    def _start_over(self, fn: Submit[V], values: Iterable[V]) -> None:
        for item in self._untaken.values():
            item.ignored = True
        self._untaken.clear()
        self._done.clear()
        self._queue.clear()
        for value in values:
            self.submit(fn, value)

    def _results(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()

    # -------------------------------------------------------------- one by one

    def submit(self, fn: Submit[V], value: V) -> None:
        """Give a value to a free actor, or keep it until one is free. Does not block.

        Args:
            fn: Called with an actor and the value; returns the actor's reference.
            value: What the actor is to work on.
        """
        item = _Item(self._submitted, fn, value)
        self._submitted += 1
        self._untaken[item.number] = item
        self._queue.append(item)
        self._hand_out()

    def get_next(
        self,
        timeout: float | None = None,
        ignore_if_timedout: bool = False,
    ) -> Any:
        """Return the next result in the order of submission. Blocks until it is there.

        Args:
            timeout: Seconds to wait at most; None: for ever.
            ignore_if_timedout: When time is up, forget the result. Its actor is free once the call
                has ended.

        Raises:
            StopIteration: There is nothing to wait for.
            GetTimeoutError: Time was up (a TimeoutError).
            TaskError: The call failed. Its result counts as taken.
            ActorDiedError: The actor died, or no actor is left for the value. It counts as taken.
        """
        return self._take(timeout, in_order=True, ignores=ignore_if_timedout)

    def get_next_unordered(
        self,
        timeout: float | None = None,
        ignore_if_timedout: bool = False,
    ) -> Any:
        """Return the next result that is there, whichever it is. Blocks until one is.

        Args:
            timeout: Seconds to wait at most; None: for ever.
            ignore_if_timedout: When time is up, forget the result of the value that was submitted
                first.

        Raises:
            StopIteration: There is nothing to wait for.
            GetTimeoutError: Time was up (a TimeoutError).
            TaskError: The call failed. Its result counts as taken.
            ActorDiedError: The actor died, or no actor is left for the values. One counts as taken.
        """
        return self._take(timeout, in_order=False, ignores=ignore_if_timedout)

    def has_next(self) -> bool:
        """Tell whether there are results to take, now or later."""
        return bool(self._untaken)

    def has_free(self) -> bool:
        """Tell whether an actor is free and no value waits for one."""
        self._hand_out()
        return bool(self._idle)

    def pop_idle(self) -> Any:
        """Take a free actor out of the pool and return it; None if none is free."""
        return self._idle.popleft() if self.has_free() else None

    def push(self, actor: Any) -> None:
        """Add an actor to the pool.

        Args:
            actor: A handle of it.

        Raises:
            ValueError: It is in the pool already.
        """
        if actor in self._idle or any(item.actor == actor for item in self._busy.values()):
            raise ValueError(f"{actor!r} is in the pool already")
        self._idle.append(actor)
        self._hand_out()

    # -------------------------------------------------------------- inside

    def _hand_out(self) -> None:
        """Take back the actors whose calls have ended, and give the free ones work."""
        for item in [item for item in self._busy.values() if item.ref.done()]:
            self._collect(item)
        while self._idle and self._queue:
            item = self._queue.popleft()
            item.actor = self._idle.popleft()
            try:
                item.ref = item.function(item.actor, item.value)
            except BaseException:
                self._idle.append(item.actor)
                del self._untaken[item.number]
                raise
            self._busy[item.number] = item

    def _collect(self, item: _Item[V]) -> None:
        """Fetch what a call has given, at once.

        A dead actor would eat up all the values quickly.
        """
        try:
            item.result = get(item.ref)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised at its turn
            item.error = error
            # A TaskError tells of another actor's death, which the method met.
            if isinstance(error, ActorDiedError) and TaskError not in type(error).__mro__:
                self._death = error
                item.actor = None
        if item.actor is not None:
            self._idle.append(item.actor)
        if not item.ignored:
            self._done[item.number] = item
        del self._busy[item.number], item.ref

    def _take(self, timeout_s: float | None, *, in_order: bool, ignores: bool) -> Any:
        oldest = next(iter(self._untaken.values()), None)
        if oldest is None:
            raise StopIteration("there is no result to wait for: submit something first")
        deadline = None if timeout_s is None else monotonic() + timeout_s
        self._hand_out()
        while oldest.number not in self._done if in_order else not self._done:
            refs = [item.ref for item in self._busy.values()]
            if not refs:
                raise self._nobody_left(oldest)
            left_s = None if deadline is None else max(0.0, deadline - monotonic())
            ready, _ = wait(refs, timeout=left_s)
            if not ready:
                raise self._time_is_up(oldest, timeout_s, ignores=ignores)
            self._hand_out()
        item = oldest if in_order else next(iter(self._done.values()))
        del self._untaken[item.number], self._done[item.number]
        if item.error is not None:
            raise item.error
        return item.result

    def _time_is_up(
        self, oldest: _Item[V], timeout_s: float | None, *, ignores: bool
    ) -> GetTimeoutError:
        if not ignores:
            return GetTimeoutError(f"the pool had no result after {timeout_s} s")
        self._forget(oldest)
        return GetTimeoutError(
            f"the pool had no result after {timeout_s} s: value {oldest.number} is forgotten"
        )

    def _forget(self, item: _Item[V]) -> None:
        del self._untaken[item.number]
        item.ignored = True
        if item in self._queue:
            self._queue.remove(item)

    def _nobody_left(self, item: _Item[V]) -> Exception:
        """Return what to raise: no actor works, and none will come back."""
        self._forget(item)
        return self._death or SessionError("the pool has no actors: push one first")
