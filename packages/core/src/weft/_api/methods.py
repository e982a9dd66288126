"""The methods of a remote class as it declares them: `@weft.method`, and what callers must know.

What `@weft.method` decorates has `.remote` to type checkers, with the method's own parameters and
result.
"""

from __future__ import annotations

from types import FunctionType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    overload,
)

from weft._api.signatures import parameters_of
from weft._lazy import lazy
from weft._options import (
    DEFAULT_METHOD,
    ActorOptions,
    MethodKeywords,
    MethodOptions,
    method_options,
)
from weft._serialize.pickling import dumps
from weft._specs import MethodSpec
from weft.exceptions import OptionError

if TYPE_CHECKING:
    import inspect
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from weft._api.handles import ActorMethod
    from weft._refs import ObjectRef, ObjectRefGenerator
    from weft._runtime.invocation import DynamicObjectRefGenerator
else:
    inspect = lazy("inspect")

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
F_co = TypeVar("F_co", covariant=True)

_OWN_OPTIONS = "__weft_method__"


if TYPE_CHECKING:

    class DecoratedMethod(Protocol[P, R_co, F_co]):
        """What checkers see in place of a method that `@weft.method` decorates."""

        def __get__(
            self, instance: object, owner: type | None = None, /
        ) -> ActorMethod[P, R_co, F_co]: ...

    class _Decorator(Protocol):
        @overload
        def __call__(
            self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /
        ) -> DecoratedMethod[P, Coroutine[Any, Any, T], ObjectRef[T]]: ...
        @overload
        def __call__(  # type: ignore[overload-overlap]
            self, function: Callable[Concatenate[Any, P], Iterator[T] | AsyncIterator[T]], /
        ) -> DecoratedMethod[P, Iterator[T], ObjectRefGenerator[T]]: ...
        @overload
        def __call__(
            self, function: Callable[Concatenate[Any, P], R], /
        ) -> DecoratedMethod[P, R, ObjectRef[R]]: ...

    class _SeveralDecorator(Protocol):
        def __call__(
            self, function: Callable[Concatenate[Any, P], R], /
        ) -> DecoratedMethod[P, R, list[ObjectRef[Any]]]: ...

    class _StreamingDecorator(Protocol):
        def __call__(
            self, function: Callable[Concatenate[Any, P], R], /
        ) -> DecoratedMethod[P, R, ObjectRefGenerator[Any]]: ...

    class _DynamicDecorator(Protocol):
        def __call__(
            self, function: Callable[Concatenate[Any, P], R], /
        ) -> DecoratedMethod[P, R, ObjectRef[DynamicObjectRefGenerator[Any]]]: ...


@overload
def method(
    function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /
) -> DecoratedMethod[P, Coroutine[Any, Any, T], ObjectRef[T]]: ...
@overload
def method(  # type: ignore[overload-overlap]
    function: Callable[Concatenate[Any, P], Iterator[T] | AsyncIterator[T]], /
) -> DecoratedMethod[P, Iterator[T], ObjectRefGenerator[T]]: ...
@overload
def method(
    function: Callable[Concatenate[Any, P], R], /
) -> DecoratedMethod[P, R, ObjectRef[R]]: ...
@overload
def method(
    *, num_returns: Literal["streaming"], **options: Unpack[MethodKeywords]
) -> _StreamingDecorator: ...
@overload
def method(
    *, num_returns: Literal["dynamic"], **options: Unpack[MethodKeywords]
) -> _DynamicDecorator: ...
@overload
def method(*, num_returns: int, **options: Unpack[MethodKeywords]) -> _SeveralDecorator: ...
@overload
def method(**options: Unpack[MethodKeywords]) -> _Decorator: ...
def method(*args: Any, **kwargs: Any) -> Any:
    """Give a method of a remote class options, and checkers its type.

    Args:
        *args: The method, if the decorator is written without parentheses.
        **kwargs: num_returns, concurrency_group, max_task_retries, retry_exceptions, timeout.

    Returns:
        The method itself.

    Raises:
        OptionError: An option is unknown or wrong.
    """
    if args:
        if kwargs or len(args) != 1 or not callable(getattr(args[0], "__func__", args[0])):
            raise TypeError(
                "write @weft.method above a method, or @weft.method(num_returns=2) with keywords"
            )
        return _mark(args[0], DEFAULT_METHOD)
    options = method_options(kwargs, subject="@method")
    return lambda function: _mark(function, options)


def _mark(function: Any, options: MethodOptions) -> Any:
    setattr(getattr(function, "__func__", function), _OWN_OPTIONS, options)
    return function


def methods_of(cls: type, name: str, options: ActorOptions) -> tuple[dict[str, MethodSpec], bool]:
    """Return what callers must know of each method, and whether any is async."""
    found: dict[str, MethodSpec] = {}
    is_async = False
    for base in reversed(cls.__mro__[:-1]):
        for attribute, member in vars(base).items():
            function = getattr(member, "__func__", member)
            if not isinstance(function, FunctionType) and not hasattr(function, _OWN_OPTIONS):
                found.pop(attribute, None)
                continue
            if attribute in vars(object) or attribute in {"__getattr__", "__del__"}:
                continue
            is_async |= inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(
                function
            )
            found[attribute] = _method_spec(member, function, f"{name}.{attribute}", options)
    return found, is_async


def _method_spec(
    member: Any, function: Callable[..., Any], name: str, options: ActorOptions
) -> MethodSpec:
    own: MethodOptions = getattr(function, _OWN_OPTIONS, DEFAULT_METHOD)
    group = own.concurrency_group
    if group and group not in options.concurrency_groups:
        known = ", ".join(sorted(options.concurrency_groups)) or "none"
        raise OptionError(
            f"concurrency_group={group!r} of {name} is no group of its class; it has {known}"
        )
    is_generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    retried = own.retry_exceptions
    return MethodSpec(
        parameters=parameters_of(function, without_first=not isinstance(member, staticmethod)),
        num_returns=own.num_returns
        if own.num_returns is not None
        else "streaming"
        if is_generator
        else 1,
        concurrency_group=group,
        max_task_retries=own.max_task_retries,
        is_generator=is_generator,
        retry_exceptions=bytes(dumps(retried).pack())
        if isinstance(retried, tuple)
        else bool(retried),
        timeout_s=own.timeout,
        backpressure=own.backpressure,
    )
