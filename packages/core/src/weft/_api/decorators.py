"""`@weft.remote`: what makes a function a task and a class an actor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, Unpack, overload

from weft._api.actors import ActorClass, make_actor_class
from weft._api.tasks import RemoteFunction, make_remote_function
from weft._options import check_keywords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft._options import ActorKeywords, TaskKeywords
    from weft._refs import ObjectRef, ObjectRefGenerator
    from weft._runtime.invocation import DynamicObjectRefGenerator

    class _Keywords(TaskKeywords, ActorKeywords, total=False):
        """Options of a task or of an actor."""

    class _Remote(Protocol):
        @overload
        def __call__(self, target: ClassT, /) -> ActorClass[ClassT]: ...  # type: ignore[overload-overlap]
        @overload
        def __call__(  # type: ignore[overload-overlap]
            self, target: Callable[P, Iterator[T]], /
        ) -> RemoteFunction[P, ObjectRefGenerator[T]]: ...
        @overload
        def __call__(self, target: Callable[P, R], /) -> RemoteFunction[P, ObjectRef[R]]: ...

    class _SeveralRemote(Protocol):
        def __call__(
            self, target: Callable[P, Any], /
        ) -> RemoteFunction[P, list[ObjectRef[Any]]]: ...

    class _StreamingRemote(Protocol):
        @overload
        def __call__(
            self, target: Callable[P, Iterator[T]], /
        ) -> RemoteFunction[P, ObjectRefGenerator[T]]: ...
        @overload
        def __call__(
            self, target: Callable[P, Any], /
        ) -> RemoteFunction[P, ObjectRefGenerator[Any]]: ...

    class _DynamicRemote(Protocol):
        def __call__(
            self, target: Callable[P, Any], /
        ) -> RemoteFunction[P, ObjectRef[DynamicObjectRefGenerator[Any]]]: ...


P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
ClassT = TypeVar("ClassT", bound=type)


@overload
def remote(target: ClassT, /) -> ActorClass[ClassT]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, Iterator[T]], /) -> RemoteFunction[P, ObjectRefGenerator[T]]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, R], /) -> RemoteFunction[P, ObjectRef[R]]: ...
@overload
def remote(
    *, num_returns: Literal["streaming"], **options: Unpack[TaskKeywords]
) -> _StreamingRemote: ...
@overload
def remote(
    *, num_returns: Literal["dynamic"], **options: Unpack[TaskKeywords]
) -> _DynamicRemote: ...
@overload
def remote(*, num_returns: int, **options: Unpack[TaskKeywords]) -> _SeveralRemote: ...
@overload
def remote(**options: Unpack[_Keywords]) -> _Remote: ...
def remote(*args: Any, **kwargs: Any) -> Any:
    """Make a function a remote function, or a class a remote class.

        @weft.remote                                @weft.remote(num_cpus=2, max_retries=0)
        def square(x): ...                          def fit(x): ...

    `label_selector={"disk": "in(ssd,nvme)", "spot": "!exists()"}` says what a node's labels have to
    be: a value, `in(...)` or `exists()`, or the opposite after `!`. The entries of
    `fallback_strategy=[{"label_selector": {...}}, ...]` take its place, in turn, where no node can
    ever meet it.

    Args:
        *args: The function or class, if the decorator is written without parentheses, or called.
        **kwargs: Options. Of both: num_cpus (tasks 1, actors 0), num_gpus, memory, resources,
            accelerator_type, scheduling_strategy, label_selector, fallback_strategy, runtime_env,
            name. Of tasks: num_returns, max_retries (3), retry_exceptions, max_calls, timeout. Of
            actors: namespace, lifetime, get_if_exists, max_restarts, max_task_retries,
            max_concurrency, concurrency_groups, max_pending_calls.

    Returns:
        A RemoteFunction or an ActorClass; with options alone, a decorator that makes one.

    Raises:
        OptionError: An option is unknown or wrong.
        TypeError: What is decorated is neither a function nor a class.
    """
    if not args:
        if not kwargs:
            raise TypeError(
                "write @weft.remote without parentheses, or with options: @weft.remote(num_cpus=2)"
            )
        check_keywords(kwargs)
        return lambda target: _made(target, kwargs)
    if len(args) != 1 or kwargs:
        raise TypeError(
            "weft.remote takes a function or a class, or options: weft.remote(num_cpus=2)"
        )
    return _made(args[0], {})


def _made(target: Any, given: dict[str, Any]) -> Any:
    if isinstance(target, RemoteFunction | ActorClass):
        raise TypeError(f"{target!r} is remote already: use .options(...) to change its options")
    if isinstance(target, type):
        return make_actor_class(target, given)
    if callable(target):
        return make_remote_function(target, given)
    raise TypeError(f"weft.remote takes a function or a class, not {type(target).__name__}")
