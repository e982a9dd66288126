"""What a program has of an actor: its handle, and the methods that it takes from that.

A handle holds what its holder must know of the actor (ActorMeta) and a token: a counted reference
that keeps the actor alive. So handles travel as values do, through Weft's serializer only, and the
actor ends when the last one is gone. A method that was taken from a handle holds the token too, not
the handle, so that no cycle keeps either alive.
"""

from __future__ import annotations

import pickle
from sys import _getframe
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    TypeVar,
    Unpack,
    overload,
)

from weft._api.session import running
from weft._api.signatures import ANY_ARGUMENTS, checker
from weft._lazy import lazy
from weft._options import DEFAULT_METHOD, MethodKeywords, MethodOptions, method_options
from weft._override import override
from weft._runtime.invocation import ALIASES, CALL, READY, TERMINATE
from weft._serialize.failures import NOWHERE, site_of
from weft._specs import ActorMeta, CallSpec, MethodSpec

if TYPE_CHECKING:
    from weft._api import graphs
    from weft._engine import Engine
    from weft._ids import ActorId
    from weft._refs import ObjectRef, ObjectRefGenerator
    from weft._runtime.invocation import DynamicObjectRefGenerator
else:
    graphs = lazy("weft._api.graphs")

P = ParamSpec("P")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)
F_co = TypeVar("F_co", covariant=True)
T_co = TypeVar("T_co", covariant=True)

ActorProxy = Annotated[T, "an actor's handle"]
"""The type of a handle in annotations: `counter: ActorProxy[Counter]`."""

_BUILT_IN = {
    READY: MethodSpec(parameters=()),
    CALL: MethodSpec(parameters=ANY_ARGUMENTS),
    TERMINATE: MethodSpec(parameters=()),
}


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
        "_site",
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
        self._site = NOWHERE
        """Of the last call: most come from where the one before came from."""
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
        # For every call: a function of its own would cost as much again.
        site = self._site
        try:
            frame = _getframe(1)
        except ValueError:
            site = NOWHERE  # Called from C, as a thread begins or the interpreter ends.
        else:
            if site[0] is not frame.f_code or site[1] != frame.f_lasti:
                site = self._site = site_of(frame)
        refs = self._engine.call(
            CallSpec(
                self._meta, self._method, args, kwargs, num_returns, group, retries, retried,
                timeout_s, self._name, backpressure, site[2],
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
        changed = {
            name: value
            for name in MethodOptions.__struct_fields__
            if (value := getattr(self._given, name)) != getattr(DEFAULT_METHOD, name)
        }
        node = graphs.ClassMethodNode(self._method, args, kwargs, changed, actor=handle)
        return graphs.outputs_of(node, self._options[0])

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
