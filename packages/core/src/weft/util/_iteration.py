"""Results in the order in which they come: `as_completed` and `map_unordered`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

from weft._api.decorators import remote
from weft._api.objects import get
from weft._api.session import started
from weft._refs import ObjectRef
from weft.exceptions import ArgumentError, GetTimeoutError, OptionError

T = TypeVar("T")


class WaitKeywords(TypedDict, total=False):
    """How the next result is waited for."""

    timeout: float | None
    fetch_local: bool


@overload
def as_completed(
    refs: Sequence[ObjectRef[T]],
    *,
    chunk_size: int = ...,
    yield_obj_refs: Literal[False] = ...,
    **kwargs: Unpack[WaitKeywords],
) -> Iterator[T]: ...
@overload
def as_completed(
    refs: Sequence[ObjectRef[T]],
    *,
    chunk_size: int = ...,
    yield_obj_refs: Literal[True],
    **kwargs: Unpack[WaitKeywords],
) -> Iterator[ObjectRef[T]]: ...
@overload
def as_completed(
    refs: Sequence[ObjectRef[T]],
    *,
    chunk_size: int = ...,
    yield_obj_refs: bool,
    **kwargs: Unpack[WaitKeywords],
) -> Iterator[Any]: ...
def as_completed(
    refs: Sequence[ObjectRef[Any]],
    *,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **kwargs: Unpack[WaitKeywords],
) -> Iterator[Any]:
    """Yield the values of references as they come. Blocks while none is there.

        for value in as_completed([f.remote(number) for number in range(100)]):
            print(value)

    An error of a task is raised where its value would be, and ends the iteration. To go on after
    errors, ask for references and `weft.get` each.

    Args:
        refs: References, each once.
        chunk_size: Ray's. Here every value is yielded as soon as it is there.
        yield_obj_refs: Yield the references instead of their values.
        **kwargs: `timeout`, seconds to wait for the next one at most; `fetch_local`, as of
            `weft.wait`.

    Raises:
        GetTimeoutError: No further one came within `timeout`. The tasks go on.
        ArgumentError: What was given is no list of references (a TypeError).
        OptionError: A number is out of range, or a reference is there twice.
    """
    pending = references(refs, "as_completed")
    _check_chunk_size(chunk_size)
    _check_keywords(kwargs)
    found = _completed(pending, kwargs)
    return found if yield_obj_refs else map(get, found)


@overload
def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = ...,
    chunk_size: int = ...,
    yield_obj_refs: Literal[True],
    **kwargs: Unpack[WaitKeywords],
) -> Iterator[ObjectRef[Any]]: ...
@overload
def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = ...,
    chunk_size: int = ...,
    yield_obj_refs: bool = ...,
    **kwargs: Unpack[WaitKeywords],
) -> Iterator[Any]: ...
def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **kwargs: Unpack[WaitKeywords],
) -> Iterator[Any]:
    """Call a remote function with each item and yield the results as they come.

    Blocks while none is there. Items are taken as results are: at most `backpressure_size` calls
    are unfinished or not yet taken, so `items` may be endless. When the iteration is given up,
    calls that were started run to their end.

    Args:
        fn: A remote function, an actor's method, or a plain function, which is made remote.
        items: What it is called with, one each.
        backpressure_size: How many calls there are at a time at most; None: all at once.
        chunk_size: Ray's. Here every result is yielded as soon as it is there.
        yield_obj_refs: Yield references instead of values.
        **kwargs: `timeout`, seconds to wait for the next one at most; `fetch_local`, as of
            `weft.wait`.

    Raises:
        GetTimeoutError: No further one came within `timeout`. The tasks go on.
        TypeError: `fn` cannot be called remotely.
        OptionError: A number is out of range.
    """
    _check_chunk_size(chunk_size)
    if backpressure_size is not None and backpressure_size < 1:
        raise OptionError(
            f"backpressure_size={backpressure_size!r} has to be a whole number from 1 up, or None"
        )
    _check_keywords(kwargs)
    start: Callable[[Any], ObjectRef[Any]] = getattr(fn, "remote", None) or remote(fn).remote
    found = _mapped(start, iter(items), backpressure_size, kwargs)
    return found if yield_obj_refs else map(get, found)


def _mapped(
    start: Callable[[Any], ObjectRef[Any]],
    items: Iterator[Any],
    limit: int | None,
    waiting: WaitKeywords,
) -> Iterator[ObjectRef[Any]]:
    pending: list[ObjectRef[Any]] = []
    ready: deque[ObjectRef[Any]] = deque()
    has_more = True
    while True:
        while has_more and (limit is None or len(pending) + len(ready) < limit):
            try:
                item = next(items)
            except StopIteration:
                has_more = False
            else:
                pending.append(start(item))
        if not ready:
            if not pending:
                return
            ready, pending = take_ready(pending, **waiting)
        # Popped as it is yielded: a value that was taken is kept by its taker alone.
        yield ready.popleft()


def _completed(pending: list[ObjectRef[Any]], waiting: WaitKeywords) -> Iterator[ObjectRef[Any]]:
    while pending:
        ready, pending = take_ready(pending, **waiting)
        while ready:
            yield ready.popleft()


def take_ready(
    pending: Sequence[ObjectRef[Any]], *, timeout: float | None = None, fetch_local: bool = True
) -> tuple[deque[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """Wait until one of several references is ready; return all that are, and the rest.

    GetTimeoutError if none is in time. One look at all of them serves many: a wait for each would
    look at all the others every time.
    """
    first, others = started().wait(pending, 1, timeout, fetch_local=fetch_local)
    if not first:
        raise GetTimeoutError(timeout_s=timeout, waiting=len(others))
    ready = deque(first)
    rest: list[ObjectRef[Any]] = []
    for ref in others:
        (ready if ref.done() else rest).append(ref)
    return ready, rest


def references(refs: Any, verb: str) -> list[ObjectRef[Any]]:
    """Return what `verb` was given as a list. ArgumentError, OptionError."""
    if isinstance(refs, ObjectRef) or not isinstance(refs, Iterable):
        raise ArgumentError(f"{verb} takes a list of references, not {type(refs).__name__}")
    found = list(refs)
    for ref in found:
        if not isinstance(ref, ObjectRef):
            raise ArgumentError(f"{verb} takes references, not {type(ref).__name__}")
    if len(set(found)) != len(found):
        raise OptionError(f"{verb} was given a reference twice: give each once")
    return found


def _check_chunk_size(chunk_size: Any) -> None:
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise OptionError(f"chunk_size={chunk_size!r} has to be a whole number from 1 up")


def _check_keywords(kwargs: WaitKeywords) -> None:
    for name in kwargs:
        if name not in WaitKeywords.__optional_keys__:
            raise TypeError(f"there is no option {name}: there are timeout and fetch_local")
