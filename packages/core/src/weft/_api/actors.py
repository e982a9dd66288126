"""Actors: what `@weft.remote` makes of a class, the handles of its instances, and their methods.

A handle holds what its holder must know of the actor (ActorMeta) and a token: a counted reference
that keeps the actor alive. So handles travel as values do, through Weft's serializer only, and the
actor ends when the last one is gone. A method that was taken from a handle holds the token too, not
the handle, so that no cycle keeps either alive.

Types. `ActorClass.remote` is typed as returning the class itself, so that checkers and editors know
the methods; what `@weft.method` decorates has `.remote` there, with the method's own parameters and
result.
"""

from __future__ import annotations

import pickle
from types import FunctionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    overload,
)

from msgspec import structs

from weft._api.graphs import ClassMethodNode, ClassNode, outputs_of
from weft._api.session import running, started
from weft._api.signatures import ANY_ARGUMENTS, checker, parameters_of
from weft._engine import Engine, current
from weft._env.inheritance import inherited
from weft._env.spec import with_environment
from weft._ids import ActorId
from weft._lazy import lazy
from weft._options import (
    DEFAULT_METHOD,
    ActorKeywords,
    ActorOptions,
    MethodKeywords,
    MethodOptions,
    actor_options,
    method_options,
)
from weft._override import override
from weft._refs import ObjectRef, ObjectRefGenerator
from weft._runtime.invocation import ALIASES, CALL, READY, TERMINATE, ActorLeaves
from weft._serialize.pickling import dumps
from weft._specs import ActorMeta, ActorSpec, CallSpec, Code, MethodSpec, Shape, shape_of
from weft.exceptions import ActorClassInheritanceException, OptionError, SessionError

if TYPE_CHECKING:
    import inspect
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping

    from weft._runtime.invocation import DynamicObjectRefGenerator
else:
    inspect = lazy("inspect")

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
F_co = TypeVar("F_co", covariant=True)
T_co = TypeVar("T_co", covariant=True)
C_co = TypeVar("C_co", covariant=True)
ClassT = TypeVar("ClassT", bound=type)

ActorProxy = Annotated[T, "an actor's handle"]
"""The type of a handle in annotations: `counter: ActorProxy[Counter]`."""

_OWN_OPTIONS = "__weft_method__"
_BUILT_IN = {
    READY: MethodSpec(parameters=()),
    CALL: MethodSpec(parameters=ANY_ARGUMENTS),
    TERMINATE: MethodSpec(parameters=()),
}
_SEVERAL = frozenset({0, "streaming"})

# ------------------------------------------------------------------ methods


class ActorMethod(Generic[P, R_co, F_co]):
    """A method of an actor: `handle.method.remote(...)`.

    `P` are its parameters, `R_co` is what it returns, `F_co` what `remote` returns. Inside the
    class, `self.method(...)` is a plain call.
    """

    __slots__ = (
        "_check",
        "_engine",
        "_given",
        "_meta",
        "_method",
        "_name",
        "_options",
        "_returns_one",
        "_token",
    )

    def __init__(
        self,
        meta: ActorMeta,
        token: ObjectRef[Any] | None,
        engine: Engine,
        method: str,
        given: MethodOptions,
    ) -> None:
        """Hold the method; take it from a handle instead."""
        spec = meta.methods.get(method) or _BUILT_IN[method]
        self._meta = meta
        self._token = token
        self._engine = engine
        self._method = method
        self._given = given
        self._name = given.name or f"{meta.class_name}.{method}"
        self._options = _effective(meta, spec, given)
        self._returns_one = self._options[0] in {1, "dynamic"}
        self._check = checker(
            spec.parameters, self._name if not given.name else f"{meta.class_name}.{method}"
        )

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
        """Call the method on the actor. Does not block.

        Calls of one caller start in the order in which they were made.

        Args:
            *args: The method's arguments. An ObjectRef stands for its value; references inside
                other values stay references.
            **kwargs: As above.

        Returns:
            An ObjectRef; with `num_returns` over 1 a list of them; for a generator method an
            ObjectRefGenerator.

        Raises:
            TypeError: The arguments do not fit the method. Nothing was sent.
            PicklingError: An argument cannot travel. Nothing was sent.
            PendingCallsLimitExceeded: `max_pending_calls` calls wait already. Nothing was sent.
        """
        self._check(*args, **kwargs)
        num_returns, group, retries, retried, timeout_s, backpressure = self._options
        refs = self._engine.call(
            CallSpec(
                self._meta, self._method, args, kwargs, num_returns, group, retries, retried,
                timeout_s, self._name, backpressure,
            )
        )  # fmt: skip
        return refs[0] if self._returns_one else refs or None  # type: ignore[index]  # a list then

    @overload
    def options(
        self,
        *,
        num_returns: Literal["streaming"],
        name: str | None = None,
        **options: Unpack[MethodKeywords],
    ) -> ActorMethod[P, R_co, ObjectRefGenerator[Any]]: ...
    @overload
    def options(
        self,
        *,
        num_returns: Literal["dynamic"],
        name: str | None = None,
        **options: Unpack[MethodKeywords],
    ) -> ActorMethod[P, R_co, ObjectRef[DynamicObjectRefGenerator[Any]]]: ...
    @overload
    def options(
        self, *, num_returns: int, name: str | None = None, **options: Unpack[MethodKeywords]
    ) -> ActorMethod[P, R_co, list[ObjectRef[Any]]]: ...
    @overload
    def options(
        self, *, name: str | None = None, **options: Unpack[MethodKeywords]
    ) -> ActorMethod[P, R_co, F_co]: ...
    def options(self, **options: Any) -> ActorMethod[P, R_co, Any]:
        """Return the same method with other options; those not given stay.

        Args:
            **options: num_returns, concurrency_group, max_task_retries, retry_exceptions, timeout,
                name.

        Raises:
            OptionError: An option is unknown or wrong.
        """
        changed = method_options(options, self._given, subject=self._name)
        return ActorMethod(self._meta, self._token, self._engine, self._method, changed)

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Return a node of a lazy graph instead of making the call.

        With `num_returns` over 1 it is a tuple of nodes.

        Args:
            *args: The method's arguments; other nodes stand for their results.
            **kwargs: As above.
        """
        self._check(*args, **kwargs)
        handle: ActorHandle[Any] = ActorHandle(self._meta, self._token, self._engine)
        given = {
            name: value
            for name in MethodOptions.__struct_fields__
            if (value := getattr(self._given, name)) is not None
        }
        changed = {
            name: value for name, value in given.items() if value != getattr(DEFAULT_METHOD, name)
        }
        node = ClassMethodNode(self._method, args, kwargs, changed, actor=handle)
        return outputs_of(node, self._options[0])

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Raise TypeError: an actor's method is called by `.remote(...)`."""
        raise TypeError(
            f"{self._name} is an actor's method: call handle.{self._method}.remote(...)"
        )

    @override
    def __repr__(self) -> str:
        return f"ActorMethod({self._name})"


_Effective = tuple[int | str, str, int, bool | tuple[type[BaseException], ...], float | None, int]


def _effective(meta: ActorMeta, spec: MethodSpec, given: MethodOptions) -> _Effective:
    """Lay a call's options over the method's, and those over the actor's."""
    retries = (
        given.max_task_retries if given.max_task_retries is not None else spec.max_task_retries
    )
    retried = given.retry_exceptions
    if retried is None:
        packed = spec.retry_exceptions
        # They came with the class.
        retried = pickle.loads(packed) if isinstance(packed, bytes) else packed  # noqa: S301
    return (
        given.num_returns if given.num_returns is not None else spec.num_returns,
        given.concurrency_group or spec.concurrency_group,
        retries if retries is not None else meta.max_task_retries,
        retried,
        given.timeout if given.timeout is not None else spec.timeout_s,
        given.backpressure or spec.backpressure,
    )


if TYPE_CHECKING:

    class RemoteType(type):
        """What weft.mypy takes for the metaclass of a class under `@weft.remote`."""

        def remote(cls: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...

        def options(cls: ClassT, **options: Unpack[ActorKeywords]) -> ActorClass[ClassT]: ...

        def bind(cls, *args: Any, **kwargs: Any) -> ClassNode: ...

    class GenericRemoteType(type):
        """The same for a class with type parameters."""

        def remote(cls, *args: Any, **kwargs: Any) -> Any: ...

        def options(cls, **options: Unpack[ActorKeywords]) -> ActorClass[Any]: ...

        def bind(cls, *args: Any, **kwargs: Any) -> ClassNode: ...

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


# ------------------------------------------------------------------ handles


class ActorHandle(Generic[T_co]):
    """Stands for an actor; its methods are attributes: `handle.method.remote(...)`.

    Pass it to tasks and actors, keep it in objects. The actor ends when its last handle is gone,
    unless it is detached. Equal to every other handle of the same actor. Safe from threads.
    """

    _weft_meta: ActorMeta
    _weft_token: ObjectRef[Any] | None
    _weft_engine: Engine

    def __init__(self, meta: ActorMeta, token: ObjectRef[Any] | None, engine: Engine) -> None:
        """Hold the actor; get a handle from `.remote(...)` or `get_actor` instead."""
        self.__dict__.update(_weft_meta=meta, _weft_token=token, _weft_engine=engine)

    def __getattr__(self, name: str) -> ActorMethod[..., Any, Any]:
        meta: ActorMeta = self.__dict__["_weft_meta"]
        method_name = ALIASES.get(name, name)
        if method_name not in meta.methods and method_name not in _BUILT_IN:
            raise AttributeError(_no_method(meta, name), name=name, obj=self)
        found: ActorMethod[..., Any, Any] = ActorMethod(
            meta, self._weft_token, self._weft_engine, method_name, DEFAULT_METHOD
        )
        self.__dict__[name] = found
        return found

    @override
    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"a handle has no attributes of its own: give {self._weft_meta.class_name} a method "
            f"that sets {name}"
        )

    @override
    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._weft_meta.methods})

    @property
    def _actor_id(self) -> ActorId:
        return self._weft_meta.actor_id

    @override
    def __hash__(self) -> int:
        return hash(self._weft_meta.actor_id)

    @override
    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ActorHandle) and self._weft_meta.actor_id == other._weft_meta.actor_id
        )

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        # The token is an ObjectRef: plain pickle refuses it, Weft's serializer counts it.
        return _restored, (self._weft_meta, self._weft_token)

    def __copy__(self) -> ActorHandle[T_co]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ActorHandle[T_co]:
        return self

    @override
    def __repr__(self) -> str:
        return f"ActorHandle({self._weft_meta.class_name}, {self._weft_meta.actor_id.hex()})"


def _restored(meta: ActorMeta, token: ObjectRef[Any] | None) -> ActorHandle[Any]:
    return ActorHandle(meta, token, running())


def _no_method(meta: ActorMeta, name: str) -> str:
    public = sorted(method for method in meta.methods if not method.startswith("_"))
    return f"{meta.class_name} has no method {name!r}; it has {', '.join(public) or 'none'}"


# ------------------------------------------------------------------ classes


class ActorClass(Generic[C_co]):
    """A class whose instances are actors: `Counter.remote(...)` instead of `Counter(...)`.

    `C_co` is the class's own type, `type[Counter]`.
    """

    def __init__(self, cls: type, options: ActorOptions, code: Code | None = None) -> None:
        """Hold the class; use `@weft.remote` instead."""
        self.__name__ = cls.__name__
        self.__qualname__ = cls.__qualname__
        self.__module__ = cls.__module__
        self.__doc__ = cls.__doc__
        self.__wrapped__ = cls
        self._class = cls
        self._options = options
        self._code = (
            code if code is not None else Code(cls, cls.__qualname__.rpartition("<locals>.")[2])
        )
        self._shape: Shape = shape_of(options)
        self._session: object = None
        """The session that the shape's environment holds for."""
        self._methods: dict[str, MethodSpec] | None = None
        self._is_async = False
        self._stub: Callable[..., None] | None = None

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._stub is None:
            self._stub = checker(parameters_of(self._class), self._code.name)
        self._stub(*args, **kwargs)

    def remote(self: ActorClass[Callable[P, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Start an actor. Does not block, except for a name: until the name is taken.

        Args:
            *args: The constructor's arguments. An ObjectRef stands for its value; references inside
                other values stay references.
            **kwargs: As above.

        Returns:
            A handle (ActorHandle). It is typed as an instance of the class, so that checkers know
            the methods.

        Raises:
            TypeError: The arguments do not fit the constructor. Nothing was sent.
            ActorAlreadyExistsError: The name is taken (a ValueError).
            PicklingError: An argument cannot travel. Nothing was sent.
        """
        engine = current.engine if current.engine is not None else started()
        handle: Any = self._create(engine, args, kwargs)
        return handle  # type: ignore[no-any-return]

    def _settle(self) -> None:
        """Lay the options' runtime environment over what this process is in, once a session."""
        session = inherited.session
        env = inherited.environment_of(self._options.runtime_env)
        self._shape = structs.replace(self._shape, env=env)
        self._session = session

    def _create(
        self, engine: Engine, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ActorHandle[Any]:
        self._check(args, kwargs)
        options = self._options
        namespace = (options.namespace or engine.context().namespace) if options.name else ""
        if options.get_if_exists:
            try:
                return ActorHandle(*engine.find_actor(options.name, namespace), engine)
            except ValueError:
                pass
        meta = ActorMeta(
            ActorId.from_random(), self._code.name, self.method_specs(), options.name, namespace,
            options.max_task_retries, options.max_pending_calls, self._is_async,
        )  # fmt: skip
        if self._session is not inherited.session:
            self._settle()
        spec = ActorSpec(meta, self._code, args, kwargs, options, self._shape)
        try:
            return ActorHandle(meta, engine.create_actor(spec), engine)
        except ValueError:
            if not options.get_if_exists:
                raise
            # Somebody else was quicker.
            return ActorHandle(*engine.find_actor(options.name, namespace), engine)

    def method_specs(self) -> dict[str, MethodSpec]:
        """Return what callers must know of each method; worked out once."""
        if self._methods is None:
            self._methods, self._is_async = _methods_of(self._class, self._code.name, self._options)
        return self._methods

    def options(self, **options: Unpack[ActorKeywords]) -> ActorClass[C_co]:
        """Return the same class with other options; those not given stay.

        Args:
            **options: As for `@weft.remote`: num_cpus, num_gpus, memory, resources, name,
                namespace, lifetime, get_if_exists, max_restarts, max_task_retries, max_concurrency,
                concurrency_groups, max_pending_calls, scheduling_strategy, label_selector,
                runtime_env ...

        Raises:
            OptionError: An option is unknown or wrong.
        """
        name = self._code.name
        changed = actor_options(with_environment(options, name), self._options, subject=name)
        made: ActorClass[C_co] = ActorClass(self._class, changed, self._code)
        made._stub = self._stub
        if "runtime_env" not in options:
            made._shape = structs.replace(made._shape, env=self._shape.env)
            made._session = self._session
        if changed.concurrency_groups == self._options.concurrency_groups:
            made._methods, made._is_async = self._methods, self._is_async
        return made

    def bind(self, *args: Any, **kwargs: Any) -> ClassNode:
        """Return a node of a lazy graph instead of starting the actor (see weft.dag).

        Args:
            *args: The constructor's arguments; other nodes stand for their results.
            **kwargs: As above.
        """
        self._check(args, kwargs)
        return ClassNode(self, self._code.name, self.method_specs(), args, kwargs, {})

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise TypeError: a remote class is instantiated by `.remote(...)`."""
        name = self._code.name
        raise TypeError(f"{name} is a remote class: call {name}.remote(...)")

    def __mro_entries__(self, bases: tuple[type, ...]) -> NoReturn:
        raise ActorClassInheritanceException(
            f"{self._code.name} is a remote class and cannot be inherited from: inherit from the "
            "plain class, then make the result remote"
        )

    def __getattr__(self, name: str) -> Any:
        # Constants, static and class methods of the class; copy and pickle ask for dunder names
        # before there is one.
        if name.startswith("__") or "_class" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._class, name)

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return ActorClass, (self._class, self._options)

    @override
    def __repr__(self) -> str:
        return f"ActorClass({self._code.name})"


def _methods_of(cls: type, name: str, options: ActorOptions) -> tuple[dict[str, MethodSpec], bool]:
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


def make_actor_class(cls: type, given: Mapping[str, Any]) -> ActorClass[Any]:
    """Make a class remote. OptionError."""
    name = cls.__qualname__.rpartition("<locals>.")[2]
    return ActorClass(cls, actor_options(with_environment(given, name), subject=name))


# ------------------------------------------------------------------ verbs


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """Return a handle of a living actor by its name. Blocks for one message.

    Args:
        name: The name it was given with `.options(name=...)`.
        namespace: Where to look; None: in the session's namespace.

    Raises:
        ValueError: There is no such actor.
    """
    given: object = name
    if not isinstance(given, str) or not given:
        raise OptionError(f"the name of an actor is a string that is not empty, not {name!r}")
    engine = current.engine if current.engine is not None else started()
    meta, token = engine.find_actor(name, namespace or engine.context().namespace)
    return ActorHandle(meta, token, engine)


@overload
def list_named_actors(all_namespaces: Literal[False] = False) -> list[str]: ...
@overload
def list_named_actors(all_namespaces: bool) -> list[Any]: ...
def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Return the names of living actors. Blocks for one message.

    Args:
        all_namespaces: Of all namespaces; else of the session's.

    Returns:
        Names; with `all_namespaces` dicts with "name" and "namespace".
    """
    engine = current.engine if current.engine is not None else started()
    if all_namespaces:
        return [
            {"namespace": namespace, "name": name} for namespace, name in engine.named_actors(None)
        ]
    return [name for _, name in engine.named_actors(engine.context().namespace)]


def kill(actor: Any, *, no_restart: bool = True) -> None:
    """End an actor at once: its running and waiting calls fail with ActorDiedError. Does not block.

    Args:
        actor: A handle of it.
        no_restart: False: let it start again if it has restarts left (`max_restarts`).

    Raises:
        TypeError: `actor` is no handle.
    """
    if not isinstance(actor, ActorHandle):
        hint = (
            "; to end a task use weft.cancel"
            if isinstance(actor, ObjectRef | ObjectRefGenerator)
            else ""
        )
        raise TypeError(f"weft.kill takes an actor's handle, not {type(actor).__name__}{hint}")
    actor._weft_engine.kill(actor._weft_meta.actor_id, no_restart=no_restart)


def exit_actor() -> NoReturn:
    """End the actor whose method calls this, after this call.

    The call itself fails with ActorDiedError.

    Exit hooks run: the class's `__weft_terminate__`, then those of `atexit`. The actor is not
    started again.

    Raises:
        SessionError: This is no actor.
    """
    engine = current.engine
    if engine is None or engine.context().actor_id is None:
        raise SessionError("weft.actor.exit_actor() was called outside an actor's method")
    engine.exit_actor()
    raise ActorLeaves
