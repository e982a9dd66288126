"""Objects: put, get, wait, cancel."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar, overload

from weft._api.session import running, started
from weft._clock import monotonic
from weft._engine import Engine, current
from weft._refs import ObjectRef, ObjectRefGenerator
from weft._serialize.failures import user_traceback
from weft.exceptions import ArgumentError, OptionError, WeftError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft._ids import ObjectId

T = TypeVar("T")
WaitableT = TypeVar("WaitableT", bound="ObjectRef[Any] | ObjectRefGenerator[Any]")


def put(value: T, *, _tensor_transport: str | None = None) -> ObjectRef[T]:
    """Store a value and return a reference to it.

    Blocks while the value is copied, and while there is no room.

    The stored value is a copy, and `get` gives copies (or read-only views of arrays), so nobody can
    change it.

    Args:
        value: Anything that Weft can pickle.
        _tensor_transport: Only None: how tensors move is not a choice in this version.

    Raises:
        ArgumentError: The value is an ObjectRef already (a TypeError).
        PicklingError: The value cannot be pickled; the message has the path to what is to blame.
        StoreFullError: There is no room, in memory or on disk.
    """
    if isinstance(value, ObjectRef):
        raise ArgumentError(
            "weft.put(ref) would make a reference to a reference: use the ref itself, or put [ref]"
        )
    if _tensor_transport is not None:
        raise OptionError(
            f"_tensor_transport={_tensor_transport!r} of put is not supported: leave it out"
        )
    engine = current.engine
    if engine is None:
        engine = started()
    return engine.put(value)


@overload
def get(object_refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(object_refs: Sequence[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...
def get(object_refs: Any, *, timeout: float | None = None) -> Any:
    """Return the values of references.

    Blocks until they are there; in a task, its CPU is lent out meanwhile.

    Args:
        object_refs: A reference, or a list of them.
        timeout: Seconds to wait at most; 0: do not wait; None: for ever.

    Returns:
        The value, or the list of values in the order of the references.

    Raises:
        TaskError: The task failed. It is an instance of the class that the task raised, too.
        GetTimeoutError: Time was up. The task goes on.
        TaskCancelledError: The task was cancelled.
        WorkerDiedError: The task's worker died, and its retries are used up.
        ActorDiedError: The actor died before it had answered.
        ObjectLostError: The value is gone.
        ArgumentError: What was given is no reference (a TypeError).
    """
    if timeout is not None:
        _check_timeout("get", timeout)
    if type(object_refs) is ObjectRef:
        engine = current.engine
        if engine is None:
            engine = running()
        try:
            return engine.get((object_refs,), timeout)[0]
        except (WeftError, KeyboardInterrupt) as error:
            raise _without_engine(error)  # noqa: B904 - it is the same error
    if not isinstance(object_refs, list | tuple):
        raise ArgumentError(_not_gettable(object_refs))
    for ref in object_refs:
        if type(ref) is not ObjectRef:
            raise ArgumentError(_not_gettable(ref))
    if not object_refs:
        return []
    try:
        return running().get(object_refs, timeout)
    except (WeftError, KeyboardInterrupt) as error:
        raise _without_engine(error)  # noqa: B904 - likewise


def _without_engine(error: BaseException) -> BaseException:
    """Take the engine's frames out of an error: they say nothing to a user."""
    return error.with_traceback(user_traceback(error.__traceback__))


def _check_timeout(what: str, timeout_s: float) -> None:
    if timeout_s < 0:
        raise OptionError(
            f"timeout={timeout_s!r} of {what} has to be a number of seconds from 0 up, or None"
        )


def _not_gettable(value: Any) -> str:
    if isinstance(value, ObjectRefGenerator):
        return "weft.get takes references, not a stream: iterate it, and get what it yields"
    return f"weft.get takes an ObjectRef or a list of them, not {type(value).__name__}"


class _Rest:
    """What the last `wait` left over: the ids of references, each once, in its order.

    A program that waits for a thousand tasks one by one brings that back a thousand times. To
    compare it takes a third of the time that a look for duplicates takes.
    """

    __slots__ = ("ids",)

    def __init__(self) -> None:
        self.ids: list[ObjectId] = []


_rest = _Rest()


def wait(
    ray_waitables: Sequence[WaitableT],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[WaitableT], list[WaitableT]]:
    """Wait until some of several references are ready.

    Blocks; in a task, its CPU is lent out meanwhile.

    A failed or cancelled task is ready too: `get` raises its error. A stream is ready when its next
    item is.

    Args:
        ray_waitables: References and streams, each once.
        num_returns: How many to wait for.
        timeout: Seconds to wait at most; 0: do not wait; None: for ever.
        fetch_local: Wait until the values are on this node, not only until they exist somewhere.

    Returns:
        (ready, not ready). Both keep the given order; the first has at most `num_returns`.

    Raises:
        ArgumentError: What was given is no list of references (a TypeError).
        OptionError: A reference is there twice, or a number is out of range.
    """
    if not isinstance(ray_waitables, list | tuple):
        raise ArgumentError(
            f"weft.wait takes a list of references, not {type(ray_waitables).__name__}: write [ref]"
        )
    # Nobody can change it meanwhile.
    waitables: list[Any] = list(ray_waitables)
    ids = _ids_of(waitables)
    if timeout is not None:
        _check_timeout("wait", timeout)
    if not waitables:
        return [], []
    number: object = num_returns
    if type(number) is not int or not 1 <= number <= len(waitables):
        raise OptionError(
            f"num_returns={num_returns!r} of wait has to be a whole number from 1 to the number of "
            f"references, {len(waitables)}"
        )
    engine = running()
    if ids is None:
        return _wait_mixed(engine, waitables, num_returns, timeout)
    try:
        found: Any = engine.wait(waitables, num_returns, timeout, fetch_local=fetch_local)
    except (WeftError, KeyboardInterrupt) as error:
        raise _without_engine(error)  # noqa: B904 - likewise
    if len(found[0]) == 1:
        ids.remove(found[0][0]._id)
        _rest.ids = ids
    return found  # type: ignore[no-any-return]  # the same items


def _ids_of(waitables: Sequence[Any]) -> list[ObjectId] | None:
    """Return the ids of references, or None if there are streams among them.

    ArgumentError: something is neither. OptionError: something is there twice.
    """
    try:
        ids = [ref._id for ref in waitables]
    except AttributeError:
        ids = None
    if ids is not None and ids == _rest.ids:
        return ids
    if len({ref._id for ref in waitables if type(ref) is ObjectRef}) == len(waitables):
        return ids
    distinct: set[bytes] = set()
    for item in waitables:
        if type(item) is ObjectRef:
            distinct.add(item._id)
        elif type(item) is ObjectRefGenerator:
            distinct.add(item._task_id)
        else:
            kind = type(item).__name__
            raise ArgumentError(f"weft.wait takes references and streams, not {kind}")
    if len(distinct) < len(waitables):
        raise OptionError("weft.wait was given a reference twice: give each once")
    return None


def _wait_mixed(
    engine: Engine, waitables: Sequence[Any], num_returns: int, timeout_s: float | None
) -> tuple[list[Any], list[Any]]:
    """Wait for references and streams together."""
    ready: set[int] = set()
    changed = threading.Condition()

    def note(index: int) -> None:
        with changed:
            ready.add(index)
            changed.notify()

    for index, item in enumerate(waitables):
        if isinstance(item, ObjectRef):
            engine.when_ready(item, lambda index=index: note(index))  # type: ignore[misc]
        else:
            engine.when_next(item, lambda index=index: note(index))  # type: ignore[misc]
    until = None if timeout_s is None else monotonic() + timeout_s
    with changed:
        while len(ready) < num_returns:
            left_s = None if until is None else until - monotonic()
            if left_s is not None and left_s <= 0:
                break
            changed.wait(left_s)
        chosen = sorted(ready)[:num_returns]
    return [waitables[index] for index in chosen], [
        item for index, item in enumerate(waitables) if index not in chosen
    ]


def cancel(
    ray_waitable: ObjectRef[Any] | ObjectRefGenerator[Any],
    *,
    force: bool = False,
    recursive: bool = True,
) -> None:
    """Ask the task that makes a value to end. Does not block.

    Without effect once the task has ended.

    A task that waits is dropped. One that runs gets KeyboardInterrupt where it is in Python code
    (an async method CancelledError). `get` of the reference then raises TaskCancelledError, unless
    the task ended well all the same.

    Args:
        ray_waitable: A reference or stream of the task.
        force: End its process at once. Not for actors: use `kill`.
        recursive: Cancel what the task has started, too.

    Raises:
        ArgumentError: What was given is no reference (a TypeError).
        OptionError: `force` for an actor's method.
    """
    if not isinstance(ray_waitable, ObjectRef | ObjectRefGenerator):
        raise ArgumentError(f"weft.cancel takes a reference, not {type(ray_waitable).__name__}")
    engine = running()
    engine.cancel(ray_waitable, force=force, recursive=recursive)
