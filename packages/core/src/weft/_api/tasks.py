"""Remote functions: what `@weft.remote` makes of a function.

A call costs the stub that checks its arguments and one record for the engine, some 0.5 us;
everything else is worked out once for the function and once for each `.options(...)`.
"""

from __future__ import annotations

from functools import update_wrapper
from sys import _getframe
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    TypeVar,
    Unpack,
    overload,
)

from msgspec import structs

from weft._api.session import started
from weft._api.signatures import checker, parameters_of
from weft._engine import current
from weft._env.inheritance import inherited
from weft._env.spec import with_environment
from weft._lazy import lazy
from weft._options import DEFAULT_TASK, STREAMING_TASK, TaskKeywords, TaskOptions, task_options
from weft._override import override
from weft._serialize.failures import NOWHERE, site_of
from weft._specs import Code, Shape, TaskSpec, shape_of

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Mapping

    from weft._api import graphs
    from weft._api.graphs import FunctionNode
    from weft._refs import ObjectRef, ObjectRefGenerator
    from weft._runtime.invocation import DynamicObjectRefGenerator
else:
    graphs = lazy("weft._api.graphs")
    inspect = lazy("inspect")

P = ParamSpec("P")
F_co = TypeVar("F_co", covariant=True)


class RemoteFunction(Generic[P, F_co]):
    """A function that runs as a task: `f.remote(...)` instead of `f(...)`.

    `P` are the function's parameters, `F_co` is what `remote` returns: `ObjectRef[int]` for a
    function that returns int.
    """

    def __init__(
        self, function: Callable[..., Any], options: TaskOptions, code: Code | None = None
    ) -> None:
        """Hold the function; use `@weft.remote` instead."""
        update_wrapper(self, function)
        self._function = function
        self._options = options
        self._shape: Shape = shape_of(options)
        self._session: object = None
        """The session that the shape's environment holds for."""
        self._code = code if code is not None else Code(function, _name(function))
        self._returns_one = options.num_returns in {1, "dynamic"}
        self._site = NOWHERE
        """Of the last call: most come from where the one before came from."""
        self._stub: Callable[..., None] | None = None
        self._check: Callable[..., None] = self._check_first

    def _settle(self) -> None:
        """Lay the options' runtime environment over what this process is in, once a session."""
        session = inherited.session
        env = inherited.environment_of(self._options.runtime_env)
        self._shape = structs.replace(self._shape, env=env)
        self._session = session

    def _check_first(self, *args: Any, **kwargs: Any) -> None:
        stub = checker(parameters_of(self._function), self._code.name)
        self._stub = self._check = stub
        stub(*args, **kwargs)

    @overload
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> F_co: ...
    @overload
    def remote(self, arg: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> F_co: ...
    @overload
    def remote(self, arg: Any, arg2: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> F_co: ...
    @overload
    def remote(
        self, arg: Any, arg2: Any, arg3: ObjectRef[Any], /, *args: Any, **kwargs: Any
    ) -> F_co: ...
    @overload
    def remote(self, **kwargs: ObjectRef[Any]) -> F_co: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function as a task. Does not block; safe from threads.

        Args:
            *args: The function's arguments. An ObjectRef stands for its value; references inside
                other values stay references. The values are copies: what the task does to them
                shows nowhere else.
            **kwargs: As above.

        Returns:
            An ObjectRef; with `num_returns` over 1 a list of them; for a generator function an
            ObjectRefGenerator; with `num_returns=0` None.

        Raises:
            TypeError: The arguments do not fit the function. Nothing was sent.
            OptionError: A directory of its runtime environment cannot be read. Nothing was sent.
            PicklingError: An argument cannot travel; the message has the path to it. Nothing was
                sent.
        """
        engine = current.engine
        if engine is None:
            engine = started()
        self._check(*args, **kwargs)
        if self._session is not inherited.session:
            self._settle()
        # For every call: a function of its own would cost as much again.
        site = self._site
        try:
            frame = _getframe(1)
        except ValueError:
            site = NOWHERE  # Called from C, as a thread begins or the interpreter ends.
        else:
            if site[0] is not frame.f_code or site[1] != frame.f_lasti:
                site = self._site = site_of(frame)
        refs = engine.submit(
            TaskSpec(self._code, args, kwargs, self._options, self._shape, site[2])
        )
        return refs[0] if self._returns_one else refs or None  # type: ignore[index]  # a list then

    @overload
    def options(
        self, *, num_returns: Literal["streaming"], **options: Unpack[TaskKeywords]
    ) -> RemoteFunction[P, ObjectRefGenerator[Any]]: ...
    @overload
    def options(
        self, *, num_returns: Literal["dynamic"], **options: Unpack[TaskKeywords]
    ) -> RemoteFunction[P, ObjectRef[DynamicObjectRefGenerator[Any]]]: ...
    @overload
    def options(
        self, *, num_returns: int, **options: Unpack[TaskKeywords]
    ) -> RemoteFunction[P, list[ObjectRef[Any]]]: ...
    @overload
    def options(self, **options: Unpack[TaskKeywords]) -> RemoteFunction[P, F_co]: ...
    def options(self, **options: Any) -> RemoteFunction[P, Any]:
        """Return the same function with other options; those not given stay.

        Args:
            **options: As for `@weft.remote`: num_cpus, num_gpus, memory, resources, num_returns,
                max_retries, retry_exceptions, max_calls, timeout, scheduling_strategy,
                label_selector, fallback_strategy, runtime_env, name ...

        Raises:
            OptionError: An option is unknown or wrong.
        """
        name = self._code.name
        changed = task_options(with_environment(options, name), self._options, subject=name)
        made: RemoteFunction[P, Any] = RemoteFunction(self._function, changed, self._code)
        if self._stub is not None:
            made._stub = made._check = self._stub
        if "runtime_env" not in options:
            made._shape = structs.replace(made._shape, env=self._shape.env)
            made._session = self._session
        return made

    def bind(self, *args: Any, **kwargs: Any) -> FunctionNode:
        """Return a node of a lazy graph instead of making the call (see weft.dag).

        Args:
            *args: The function's arguments; other nodes stand for their results.
            **kwargs: As above.

        Raises:
            TypeError: The arguments do not fit the function.
        """
        self._check(*args, **kwargs)
        return graphs.FunctionNode(self, self._code.name, args, kwargs, {})

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise TypeError: a remote function is called by `.remote(...)`."""
        name = self._code.name
        raise TypeError(
            f"{name} is a remote function: call {name}.remote(...), or the plain one with "
            f"{name}.__wrapped__(...)"
        )

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFunction, (self._function, self._options)

    @override
    def __repr__(self) -> str:
        return f"RemoteFunction({self._code.name})"


def _name(function: Callable[..., Any]) -> str:
    name: str = getattr(function, "__qualname__", None) or repr(function)
    return name.rpartition("<locals>.")[2]


def make_remote_function(
    function: Callable[..., Any], given: Mapping[str, Any]
) -> RemoteFunction[..., Any]:
    """Make a function remote. TypeError for what cannot be a task; OptionError."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{_name(function)} is an async function, which cannot be a task: make it an actor's "
            "method, or wrap it in a function that calls asyncio.run"
        )
    base = STREAMING_TASK if inspect.isgeneratorfunction(function) else DEFAULT_TASK
    name = _name(function)
    given = with_environment(given, name)
    return RemoteFunction(function, task_options(given, base, subject=name))
