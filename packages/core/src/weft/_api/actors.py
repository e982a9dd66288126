"""Actors: what `@weft.remote` makes of a class, and the verbs.

`ActorClass.remote` is typed as returning the class itself, so that checkers and editors know the
methods.
"""

from __future__ import annotations

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

from weft._api.handles import ActorHandle
from weft._api.methods import methods_of
from weft._api.session import started
from weft._api.signatures import checker, parameters_of
from weft._engine import Engine, current
from weft._env.inheritance import inherited
from weft._env.spec import with_environment
from weft._ids import ActorId
from weft._lazy import lazy
from weft._options import ActorKeywords, ActorOptions, actor_options
from weft._override import override
from weft._refs import ObjectRef, ObjectRefGenerator
from weft._runtime.invocation import ActorLeaves
from weft._specs import ActorMeta, ActorSpec, Code, MethodSpec, Shape, shape_of
from weft.exceptions import ActorClassInheritanceException, OptionError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from weft._api import graphs
    from weft._api.graphs import ClassNode
else:
    graphs = lazy("weft._api.graphs")

P = ParamSpec("P")
T = TypeVar("T")
C_co = TypeVar("C_co", covariant=True)
ClassT = TypeVar("ClassT", bound=type)

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
            self._methods, self._is_async = methods_of(self._class, self._code.name, self._options)
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
        return graphs.ClassNode(self, self._code.name, self.method_specs(), args, kwargs, {})

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
    engine = started()
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
    engine = started()
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
