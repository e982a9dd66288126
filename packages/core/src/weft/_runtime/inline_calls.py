"""Calls of the inline engine: a task or an actor's method, from its arguments to its results.

A call runs in whichever thread starts it, most often the one that made it, under the same debugger.
What it runs in is noted in a context variable, so that `get_runtime_context` and cancellation find
it, in coroutines too.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec

from weft._clock import monotonic, wall
from weft._refs import ObjectRef
from weft._runtime.inline_values import FAILED, PENDING, PLAIN, Cell, InlineValues
from weft._runtime.invocation import ActorLeaves, DynamicObjectRefGenerator, split
from weft._serialize.failures import describe_failure, pack_failure
from weft._serialize.pickling import dumps_call, unpack
from weft.exceptions import ActorDiedError, TaskCancelledError, WeftError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from weft._ids import TaskId
    from weft._runtime.inline_actors import InlineActor
    from weft._serialize.pickling import Serialized
    from weft._specs import Shape

_UNCHANGEABLE = frozenset({int, float, str, bytes, bool, complex, type(None)})

here: ContextVar[InlineCall | None] = ContextVar("weft_here", default=None)
"""What the calling code is part of."""


class Placeholder(msgspec.Struct, frozen=True):
    """Stands in packed arguments for the value of the reference `index`."""

    index: int


class InlineArguments:
    """A call's arguments, as they were when the call was made."""

    __slots__ = ("_args", "_kwargs", "_packed", "_refs", "cells")

    def __init__(
        self, values: InlineValues, args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> None:
        """Copy the arguments. PicklingError: one of them cannot travel."""
        self.cells: list[Cell] = []
        """Of the references whose values are arguments."""
        self._refs: Sequence[ObjectRef[Any]] = ()
        self._packed = b""
        self._args, self._kwargs = args, kwargs
        kinds = set(map(type, args)) | set(map(type, kwargs.values()))
        if _UNCHANGEABLE.issuperset(kinds):
            return
        if ObjectRef in kinds:
            args = tuple([self._stand_in(values, value) for value in args])
            kwargs = {key: self._stand_in(values, value) for key, value in kwargs.items()}
        serialized = dumps_call(args, kwargs, name=name)
        values.note_travel(serialized.refs)
        self._refs = serialized.refs
        self._packed = serialized.pack()
        self._args, self._kwargs = (), {}

    def _stand_in(self, values: InlineValues, value: Any) -> Any:
        if type(value) is not ObjectRef:
            return value
        self.cells.append(values.cell_of(value))
        return Placeholder(len(self.cells) - 1)

    def pending(self) -> list[Cell]:
        """Return the cells that are still to come."""
        return [cell for cell in self.cells if cell.state == PENDING]

    def failure(self) -> Serialized | None:
        """Return the packed error of the first argument that failed, if one did."""
        for cell in self.cells:
            if cell.state == FAILED:
                failure: Serialized = cell.content
                return failure
        return None

    def load(self, values: InlineValues) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return (args, kwargs), copies of their own."""
        if not self._packed:
            return self._args, dict(self._kwargs)
        args, kwargs = unpack(self._packed)
        if self.cells:
            found = [values.load(cell) for cell in self.cells]
            args = tuple(
                [found[value.index] if type(value) is Placeholder else value for value in args]
            )
            kwargs = {
                key: found[value.index] if type(value) is Placeholder else value
                for key, value in kwargs.items()
            }
        return args, kwargs


class InlineCall:
    """One task, one call of a method, or the construction of an actor."""

    __slots__ = (
        "__weakref__",
        "actor",
        "arguments",
        "attempts",
        "backpressure",
        "began_at",
        "cells",
        "children",
        "coroutine",
        "ended",
        "ended_at",
        "error",
        "function_name",
        "group",
        "is_cancelled",
        "leaves",
        "made_at",
        "method",
        "name",
        "num_returns",
        "parent",
        "retries",
        "retry_on",
        "shape",
        "site",
        "task_id",
        "thread",
        "timeout_s",
        "values",
    )  # fmt: skip

    def __init__(
        self,
        values: InlineValues,
        arguments: InlineArguments,
        *,
        name: str,
        function_name: str,
        num_returns: int | str,
        shape: Shape | None = None,
        actor: InlineActor | None = None,
        method: str = "",
        retries: int = 0,
        retry_on: bool | tuple[type[BaseException], ...] = False,
    ) -> None:
        self.values = values
        self.arguments = arguments
        self.name = name
        self.site = ""
        """File and line of the call."""
        self.function_name = function_name
        self.num_returns = num_returns
        self.shape = shape
        self.actor = actor
        self.method = method
        self.retries = retries
        self.retry_on = retry_on
        self.task_id: TaskId = values.task_id()
        self.parent = here.get()
        if self.parent is not None:
            self.parent.children.append(self)
        self.children: list[InlineCall] = []
        self.cells: list[Cell] = []
        self.attempts = 0
        self.is_cancelled = False
        self.leaves = False
        """The method has called exit_actor."""
        self.ended = False
        self.thread = 0
        """Ident of the thread that runs it."""
        self.coroutine: Any = None
        """Its asyncio task, if it runs as one."""
        self.group = ""
        self.made_at = wall()
        self.began_at = 0.0
        self.ended_at = 0.0
        self.error: tuple[str, str] | None = None
        """(type, message) of what it failed with."""
        self.timeout_s: float | None = None
        self.backpressure = 0

    # -------------------------------------------------------------- what the caller gets

    def refs(self) -> list[ObjectRef[Any]]:
        """Make the call's cells, and the references to them."""
        number = self.num_returns if isinstance(self.num_returns, int) else 1
        made = []
        for index in range(1, number + 1):
            cell = Cell()
            cell.call = self
            self.cells.append(cell)
            made.append(self.values.ref(self.task_id.object_id(index), cell))
        return made

    # -------------------------------------------------------------- running it

    def run(self, function: Callable[..., Any]) -> None:
        """Run it in this thread, again where its options say so, and settle its cells."""
        while True:
            failure = self.arguments.failure()
            if failure is not None:
                self.settle_failure(failure)
                return
            if self.is_cancelled:
                self.settle_cancelled()
                return
            self.attempts += 1
            began_at, began = wall(), monotonic()
            token = here.set(self)
            self.thread = threading.get_ident()
            try:
                args, kwargs = self.arguments.load(self.values)
                parts = self.parts(function(*args, **kwargs))
            except BaseException as error:
                if self.is_retriable(error):
                    continue
                self.settle_error(error)
                if isinstance(error, KeyboardInterrupt) and not self.is_cancelled:
                    # Somebody pressed Ctrl-C: that is for the program, which runs in this very
                    # thread.
                    raise
            else:
                self.settle(parts)
            finally:
                here.reset(token)
                self.thread = 0
                self.record(began_at, monotonic() - began)
            return

    def parts(self, result: Any) -> list[tuple[int, Any, Sequence[ObjectRef[Any]]]]:
        """Return what its cells are to hold for what the function returned."""
        pack = self.values.pack
        if self.num_returns == 1:
            return [pack(result)]
        if self.num_returns == "dynamic":
            return [
                pack(
                    DynamicObjectRefGenerator(
                        [self.item(value, index) for index, value in enumerate(result)]
                    )
                )
            ]
        assert isinstance(self.num_returns, int)
        return [pack(value) for value in split(result, self.num_returns, self.function_name)]

    def item(self, value: Any, index: int) -> ObjectRef[Any]:
        """Return a reference to an item of a generator, counted from zero."""
        cell = Cell()
        self.values.settle(cell, *self.values.pack(value))
        return self.values.ref(self.task_id.object_id(index + 2), cell)

    def is_retriable(self, error: BaseException) -> bool:
        """Tell whether it is to run again after `error`."""
        if (
            self.is_cancelled
            or self.leaves
            or not isinstance(error, Exception)
            or self.retry_on is False
        ):
            return False
        if self.retry_on is not True and not isinstance(error, self.retry_on):
            return False
        return self.retries < 0 or self.attempts <= self.retries

    # -------------------------------------------------------------- settling it

    def settle(self, parts: Sequence[tuple[int, Any, Sequence[ObjectRef[Any]]]]) -> None:
        """It has ended well."""
        if self.leaves:
            self.settle_error(ActorLeaves())
            return
        self.end()
        for cell, part in zip(self.cells, parts, strict=True):
            self.values.settle(cell, *part)

    def settle_error(self, error: BaseException) -> None:
        """It has ended with an error of the user's, or by leaving its actor."""
        if self.leaves and self.actor is not None:
            self.end()
            died = self.actor.died(f"{self.name} called exit_actor()")
            self.error = (type(died).__name__, str(died))
            self.values.fail(self.cells, died)
        elif isinstance(error, KeyboardInterrupt) or (
            self.is_cancelled and not isinstance(error, Exception)
        ):
            self.settle_cancelled()
        else:
            self.settle_failure(self.packed(error))

    def packed(self, error: BaseException) -> Serialized:
        """Return an error of the user's as cells hold it."""
        actor = self.actor
        met: list[ObjectRef[Any]] = []
        packed = pack_failure(
            error,
            task=self.name,
            attempts=max(1, self.attempts),
            actor_id=actor.meta.actor_id.hex() if actor is not None else None,
            met=met,
        )
        return self.values.failure(packed, met)

    def settle_failure(self, failure: Serialized) -> None:
        """It has ended with a packed error."""
        self.end()
        self.error = describe_failure(failure.inband)
        for cell in self.cells:
            self.values.settle(cell, FAILED, failure)

    def settle_cancelled(self) -> None:
        """It was cancelled."""
        self.settle_stopped(TaskCancelledError(self.task_id, task=self.name))

    def settle_stopped(self, error: WeftError) -> None:
        """It was ended from outside."""
        self.end()
        self.error = (type(error).__name__, str(error))
        self.values.fail(self.cells, error)

    def settle_nothing(self) -> None:
        """It is a stream, and has ended well."""
        self.end()
        for cell in self.cells:
            self.values.settle(cell, PLAIN, None)

    def end(self) -> None:
        """Let go of what it needed."""
        self.ended = True
        self.children = []
        if self.parent is not None and self in self.parent.children:
            self.parent.children.remove(self)

    def record(self, began_at: float, duration_s: float) -> None:
        """Note when it ran; it may run again, or go on."""
        self.began_at = self.began_at or began_at
        self.ended_at = began_at + duration_s
        if self.ended:
            self.values.engine.records.add(self)

    # -------------------------------------------------------------- what it waits for

    def ancestors(self) -> Iterator[InlineCall]:
        """Yield this call and those that it is nested in, in this process."""
        call: InlineCall | None = self
        while call is not None:
            yield call
            call = call.parent

    def refuse_deadlock(self) -> None:
        """Raise WeftError if the calling thread waits for this call, and this call for it."""
        actor = self.actor
        if actor is None or self.thread or not actor.is_held_by_this_thread():
            return
        raise WeftError(
            f"deadlock: {self.name} waits until {actor.meta.class_name} is free, which runs the "
            "method that waits for it: "
            "await the call in an async method, or give the actor max_concurrency=2"
        )

    def why(self) -> str:
        """Say what it waits for."""
        pending = self.arguments.pending()
        if pending:
            makers = (
                ", ".join(sorted({cell.call.name for cell in pending if cell.call is not None}))
                or "a value"
            )
            return f"{self.name} waits for its arguments: {makers}"
        if self.actor is not None and not self.thread and self.coroutine is None:
            class_name = self.actor.meta.class_name
            return f"{self.name} waits until {class_name} is free: {self.actor.busy_with()}"
        return f"{self.name} runs"


def died_error(
    actor: InlineActor, cause: BaseException | str | None, *, init_failed: bool = False
) -> ActorDiedError:
    """Return the error of calls of an actor that is gone."""
    meta = actor.meta
    return ActorDiedError(
        cause, actor_id=meta.actor_id, class_name=meta.class_name, actor_init_failed=init_failed
    )
