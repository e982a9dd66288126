"""Tells whether what clients saw of a cluster, while parts of it died, is what was promised.

    history = ClientHistory()
    with history.doing("client 1", "add", "counter") as operation:      in each client, any thread
        operation.value = weft.get(actor.add.remote(1))
    ...
    check_history(history.operations, CounterModel())        ForbiddenHistoryError says why

A client notes when an operation began, when it ended and what came of it. The checker looks for an
order of all operations, in which each takes effect at one moment between its begin and its end,
that gives every client what it saw (linearisability, for each key by itself). An operation whose
end nobody saw may have taken effect at any time after its begin, or never; but not twice: so a
counter shows whether calls without retries ran at most once.

The search is that of Wing and Gong (Testing and verifying concurrent objects, 1993), which forgets
no configuration that it has seen (Lowe, Testing for linearizability, 2017). It takes exponential
time at the worst, and is bounded.
"""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from weft._clock import monotonic
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

__all__ = [
    "ANY_KEY",
    "ClientHistory",
    "CounterModel",
    "ForbiddenHistoryError",
    "KeyValueModel",
    "LogModel",
    "Operation",
    "RegisterModel",
    "SequentialModel",
    "UndecidedHistoryError",
    "ValueModel",
    "check_calls",
    "check_history",
    "check_lives",
]

MOST_CONFIGURATIONS: Final = 500_000
SHOWN = 12


class _AnyKey:
    @override
    def __repr__(self) -> str:
        return "any key"


ANY_KEY: Final = _AnyKey()
"""The key of an operation of which nobody knows what it was done to, for it has not ended.

For a counter in an actor that may restart empty, say, the key is its restart: part of each answer.
"""


class Operation:
    """Something that one client did.

    Attributes:
        client: Who did it. A client does one thing at a time.
        kind: What it did, in a word of the model: "write", "add".
        key: To what. Keys are checked one by one.
        argument: With what.
        value: What came of it; only counts once it has ended.
        began_at: Seconds, of one clock for all clients.
        ended_at: Infinite: nobody has seen its end.
    """

    __slots__ = ("argument", "began_at", "client", "ended_at", "key", "kind", "value")

    def __init__(
        self,
        client: str,
        kind: str,
        key: Hashable,
        argument: Any = None,
        *,
        value: Any = None,
        began_at: float,
        ended_at: float = math.inf,
    ) -> None:
        """Note an operation; without `ended_at` it is one whose end nobody has seen."""
        self.client = client
        self.kind = kind
        self.key = key
        self.argument = argument
        self.value = value
        self.began_at = began_at
        self.ended_at = ended_at

    @property
    def has_ended(self) -> bool:
        """Whether its value was seen."""
        return self.ended_at < math.inf

    @override
    def __repr__(self) -> str:
        what = self.kind if self.argument is None else f"{self.kind}({self.argument!r})"
        if not self.has_ended:
            return f"{self.client}: {what} from {self.began_at:.4f}, not seen to end"
        times = f"{self.began_at:.4f} to {self.ended_at:.4f}"
        return f"{self.client}: {what} -> {self.value!r}, {times}"


class ClientHistory:
    """What clients have done, noted while they do it. Threads may share one."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """`clock` tells the seconds; it has to be the same for all clients."""
        self._clock = clock
        self._lock = threading.Lock()
        self._operations: list[Operation] = []

    @property
    def operations(self) -> list[Operation]:
        """All of them, in order of their beginnings."""
        with self._lock:
            return sorted(self._operations, key=lambda operation: operation.began_at)

    @contextmanager
    def doing(
        self, client: str, kind: str, key: Hashable, argument: Any = None
    ) -> Iterator[Operation]:
        """Note that a client does something while the block runs, which sets `operation.value`.

        An exception leaves the block as it came: the operation counts as one whose end nobody saw.
        If what failed surely did not happen, call `forget` as well.

        Args:
            client: Who does it.
            kind: What, in a word of the model.
            key: To what; the block may set `operation.key` once it is known.
            argument: With what.

        Yields:
            The operation.
        """
        operation = Operation(client, kind, key, argument, began_at=self._clock())
        with self._lock:
            self._operations.append(operation)
        yield operation
        operation.ended_at = self._clock()

    def forget(self, operation: Operation) -> None:
        """Count an operation as one that did not happen: it was refused."""
        with self._lock:
            self._operations.remove(operation)


# ------------------------------------------------------------------ what is right


class SequentialModel(Protocol):
    """What one thing does when nobody else is there. States are hashable, and never changed."""

    def initial(self) -> Hashable:
        """Return the state before the first operation."""
        ...

    def apply(self, state: Any, operation: Operation) -> tuple[Hashable, Any]:
        """Return the state after an operation, and the value that its client sees.

        ValueError: there is no operation of this kind.
        """
        ...


class RegisterModel:
    """One value: `write(v)` -> None, `read` -> v, `swap((old, new))` -> whether it was `old`."""

    def __init__(self, first: Hashable = None) -> None:
        """`first`: its value at the beginning."""
        self._first = first

    def initial(self) -> Hashable:
        """Return the first value."""
        return self._first

    def apply(self, state: Hashable, operation: Operation) -> tuple[Hashable, Any]:
        """See SequentialModel."""
        match operation.kind:
            case "write":
                return operation.argument, None
            case "read":
                return state, state
            case "swap":
                old, new = operation.argument
                return (new, True) if state == old else (state, False)
            case _:
                raise _unknown(operation, "a register")


class CounterModel:
    """A number: `add(n)` -> the number after it (n is 1 if not given), `read` -> the number."""

    def initial(self) -> Hashable:
        """Return zero."""
        return 0

    def apply(self, state: int, operation: Operation) -> tuple[Hashable, Any]:
        """See SequentialModel."""
        match operation.kind:
            case "add":
                more = 1 if operation.argument is None else operation.argument
                return state + more, state + more
            case "read":
                return state, state
            case _:
                raise _unknown(operation, "a counter")


class LogModel:
    """What was said, in order: `append(x)` -> how many there are, `read` -> all, as a tuple.

    It tells more than a counter: which of the calls ran, and in which order.
    """

    def initial(self) -> Hashable:
        """Return nothing."""
        return ()

    def apply(self, state: tuple[Any, ...], operation: Operation) -> tuple[Hashable, Any]:
        """See SequentialModel."""
        match operation.kind:
            case "append":
                return (*state, operation.argument), len(state) + 1
            case "read":
                return state, state
            case _:
                raise _unknown(operation, "a log")


class KeyValueModel:
    """What is there under a key, if anything is; also a name, or a placement group that has an id.

    `put(v)` -> None; `add(v)` -> whether it was added, which it is if nothing was there;
    `get` -> v, or None; `delete` -> whether anything was there.
    """

    def initial(self) -> Hashable:
        """Return nothing."""
        return None

    def apply(self, state: Hashable, operation: Operation) -> tuple[Hashable, Any]:
        """See SequentialModel."""
        match operation.kind:
            case "put":
                return operation.argument, None
            case "add":
                return (operation.argument, True) if state is None else (state, False)
            case "get":
                return state, state
            case "delete":
                return None, state is not None
            case _:
                raise _unknown(operation, "a key")


class ValueModel:
    """Something that never changes, and of which nobody knows before what it is: `read` -> it."""

    def initial(self) -> Hashable:
        """Return that nobody has read it."""
        return None

    def apply(self, state: Hashable, operation: Operation) -> tuple[Hashable, Any]:
        """See SequentialModel."""
        if operation.kind != "read":
            raise _unknown(operation, "a value")
        value: Hashable = operation.value if state is None else state
        return value, value


def _unknown(operation: Operation, what: str) -> ValueError:
    return ValueError(f"{what} knows no operation {operation.kind!r}")


# ------------------------------------------------------------------ the search


class ForbiddenHistoryError(AssertionError):
    """No order of the operations explains what clients saw.

    The message has the longest order that was found, and what cannot come after it.
    """


class UndecidedHistoryError(Exception):
    """The bound was reached: the history is too long, or too much of it has no seen end.

    Nothing is known of it. Use more keys, fewer clients at once, or a greater bound.
    """


def check_history(
    operations: Iterable[Operation],
    model: SequentialModel,
    *,
    most_configurations: int = MOST_CONFIGURATIONS,
) -> None:
    """Look for an order of operations that explains what clients saw, for each key.

    Computes, and does nothing else; may be called from any thread. Operations that nobody saw end
    may be in the order or not.

    Args:
        operations: What clients did.
        model: What they did it to.
        most_configurations: For each key: how many states of the search may be looked at.

    Raises:
        ForbiddenHistoryError: There is no such order.
        UndecidedHistoryError: It was not found out.
        ValueError: The model does not know an operation; or one that has ended has no key.
    """
    of_key: dict[Hashable, list[Operation]] = {}
    anywhere: list[Operation] = []
    for operation in operations:
        if operation.key is not ANY_KEY:
            of_key.setdefault(operation.key, []).append(operation)
        elif operation.has_ended:
            raise ValueError(f"it has ended, and has no key: {operation}")
        else:
            anywhere.append(operation)
    for key, those in of_key.items():
        # One of any key may count for several here: so a right history is never forbidden.
        _Search(key, [*those, *anywhere], model, most_configurations).run()


class _Search:
    """The search for an order of the operations of one key."""

    def __init__(
        self, key: Hashable, operations: list[Operation], model: SequentialModel, most: int
    ) -> None:
        self._key = key
        self._all = sorted(operations, key=lambda operation: operation.began_at)
        self._model = model
        self._left = most
        self._must = sum(1 << i for i, each in enumerate(self._all) if each.has_ended)
        """The operations that are in every order, as bits."""

    def run(self) -> None:
        """Find an order; else raise."""
        first = (0, self._model.initial())
        before: dict[tuple[int, Hashable], tuple[tuple[int, Hashable], int] | None] = {first: None}
        """By each configuration that was seen, done operations and state: how it was reached."""
        stack = [first]
        best = first
        while stack:
            at = stack.pop()
            done, state = at
            if done & self._must == self._must:
                return
            if (done & self._must).bit_count() > (best[0] & self._must).bit_count():
                best = at
            self._left -= 1
            if self._left < 0:
                raise UndecidedHistoryError(
                    f"{self._key!r}: {len(self._all)} operations are too many for the bound"
                )
            # The one that began first is tried first: it is put last.
            for index in reversed(self._next(done)):
                operation = self._all[index]
                after, value = self._model.apply(state, operation)
                if operation.has_ended and value != operation.value:
                    continue
                if not operation.has_ended and after == state:
                    continue  # Nobody would see it.
                reached = (done | 1 << index, after)
                if reached not in before:
                    before[reached] = (at, index)
                    stack.append(reached)
        raise ForbiddenHistoryError(self._explain(best, before))

    def _next(self, done: int) -> list[int]:
        """Return the operations that may come next: those that began before any other had ended."""
        found = []
        least_end = math.inf
        index = ((done + 1) & ~done).bit_length() - 1  # The first that is not done.
        while index < len(self._all):
            operation = self._all[index]
            if operation.began_at > least_end:
                break
            if not done >> index & 1:
                found.append(index)
                least_end = min(least_end, operation.ended_at)
            index += 1
        return [index for index in found if self._all[index].began_at <= least_end]

    def _explain(
        self,
        best: tuple[int, Hashable],
        before: dict[tuple[int, Hashable], tuple[tuple[int, Hashable], int] | None],
    ) -> str:
        order: list[Operation] = []
        at = best
        while (step := before[at]) is not None:
            at, index = step
            order.append(self._all[index])
        order.reverse()
        done, state = best
        left_out = f"    ... {len(order) - SHOWN} before\n" if len(order) > SHOWN else ""
        return (
            f"what was seen of {self._key!r} cannot be: after\n{left_out}"
            + "".join(f"    {operation}\n" for operation in order[-SHOWN:])
            + f"  it is {state!r}, and none of these can be next:\n"
            + "".join(f"    {self._all[index]}\n" for index in self._next(done)[:SHOWN])
        )


# ------------------------------------------------------------------ calls that leave marks


def check_calls(operations: Iterable[Operation], marks: Iterable[str]) -> None:
    """Check by the marks that calls and tasks have left that each ran at most once, and counted.

    What nobody saw end, but has left a mark, did run; so nothing is guessed. Computes, and does
    nothing else; may be called from any thread.

    Args:
        operations: Of one actor, of the kind `call`: its argument is its mark, its key the life of
            the actor that has answered, its value how many calls that life had then. Or of the kind
            `task`, of which the key is the mark. Others are left out.
        marks: `life LIFE`, `call MARK LIFE COUNT`, `task MARK`, in the order in which they were
            left.

    Raises:
        ForbiddenHistoryError: Something ran twice, or never and has a value, or was not counted.
        UndecidedHistoryError: It was not found out.
        ValueError: A mark is none.
    """
    ran: dict[str, int] = {}
    counted: dict[str, tuple[str, int]] = {}
    for line in marks:
        match line.split():
            case ["call", mark, life, number]:
                ran[mark] = ran.get(mark, 0) + 1
                counted[mark] = life, int(number)
            case ["task", mark]:
                ran[mark] = ran.get(mark, 0) + 1
            case ["life", _]:
                pass
            case _:
                raise ValueError(f"no mark: {line!r}")
    calls: dict[str, Operation] = {}
    for operation in operations:
        if operation.kind not in ("call", "task"):
            continue
        mark = str(operation.argument if operation.kind == "call" else operation.key)
        if ran.get(mark, 0) > 1:
            raise ForbiddenHistoryError(f"it ran {ran[mark]} times: {operation}")
        if operation.has_ended and mark not in ran:
            raise ForbiddenHistoryError(f"it has a value and never ran: {operation}")
        calls[mark] = operation
    over_at = max((each.ended_at for each in calls.values() if each.has_ended), default=0.0)
    check_history(
        [_as_addition(calls.get(mark), at, over_at) for mark, at in counted.items()], CounterModel()
    )


def _as_addition(call: Operation | None, at: tuple[str, int], over_at: float) -> Operation:
    """Return a call that has run as an operation on the counter of its life."""
    life, number = at
    if call is None:  # Of a client that is not looked at.
        return Operation("another", "add", life, value=number, began_at=0.0, ended_at=math.inf)
    if call.has_ended:
        life, number, over_at = call.key, call.value, call.ended_at  # type: ignore[assignment]  # as its kind has them
    return Operation(
        call.client,
        "add",
        life,
        value=number,
        began_at=call.began_at,
        ended_at=max(over_at, call.began_at),
    )


def check_lives(operations: Iterable[Operation], marks: Iterable[str]) -> int:
    """Check that who has heard of an actor's life hears nothing of an earlier one after that.

    Computes, and does nothing else; may be called from any thread.

    Args:
        operations: Of the clients of one program; see `check_calls`.
        marks: See there.

    Returns:
        How many lives there were.

    Raises:
        ForbiddenHistoryError: A call that began after another had been answered by a life was
            answered by a life before that.
    """
    lives: dict[str, int] = {}
    for line in marks:
        what, _, life = line.partition(" ")
        if what == "life":
            lives[life] = len(lives)
    calls = [each for each in operations if each.kind == "call" and each.has_ended]
    newest, answered = -1, None
    by_end = sorted(calls, key=lambda each: each.ended_at, reverse=True)
    for call in sorted(calls, key=lambda each: each.began_at):
        while by_end and by_end[-1].ended_at < call.began_at:
            ended = by_end.pop()
            if lives[str(ended.key)] > newest:
                newest, answered = lives[str(ended.key)], ended
        if lives[str(call.key)] < newest:
            raise ForbiddenHistoryError(f"an earlier life answers: {call}, after {answered}")
    return len(lives)
