"""Nodes that make calls: of functions, of classes and of actors' methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from weft._api.graphs.nodes import DAGNode, slot_in
from weft._api.signatures import checker
from weft._options import method_options
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from weft._api.graphs.plans import Plan, Slots
    from weft._specs import MethodSpec


class GraphCallee(Protocol):
    """What a node calls: a remote function, a remote class or a handle's method."""

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call."""
        ...


class FunctionNode(DAGNode):
    """A call of a remote function."""

    def __init__(
        self,
        callee: GraphCallee,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        """Hold the call."""
        super().__init__(args, kwargs, options)
        self._callee = callee
        self._name = name

    @override
    def _step(self, plan: Plan) -> Callable[[Slots], Any]:
        return _calling(self._callee.remote, self._arguments(plan))

    @override
    def _title(self) -> str:
        return self._name


class ClassNode(DAGNode):
    """A new actor. Its methods are there: `node.method.bind(...)`."""

    _not_compiled = "every run would make an actor of its own: make it before, by .remote(...)"

    def __init__(
        self,
        callee: GraphCallee,
        name: str,
        methods: Mapping[str, MethodSpec],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        """Hold the creation."""
        super().__init__(args, kwargs, options)
        self._callee = callee
        self._name = name
        self._methods = methods

    def __getattr__(self, name: str) -> UnboundMethod:
        if name.startswith("_") and name not in vars(self).get("_methods", ()):
            raise AttributeError(name)
        if name not in self._methods:
            raise AttributeError(
                f"{self._name} has no method {name!r}; it has {', '.join(sorted(self._methods))}"
            )
        return UnboundMethod(self, name, {})

    @override
    def _step(self, plan: Plan) -> Callable[[Slots], Any]:
        return _calling(self._callee.remote, self._arguments(plan))

    @override
    def _title(self) -> str:
        return self._name


class UnboundMethod:
    """A method of an actor that a graph will make, before its arguments are bound."""

    def __init__(self, actor: ClassNode, name: str, options: Mapping[str, Any]) -> None:
        """Hold the method's name."""
        self._actor = actor
        self._name = name
        self._options = dict(options)

    def options(self, **options: Any) -> UnboundMethod:
        """Return the same with other options, as those of `ActorMethod.options`. OptionError."""
        method_options(options, subject=self._title())
        return UnboundMethod(self._actor, self._name, {**self._options, **options})

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Make a node of a call; with `num_returns` over 1 a tuple of nodes, one a return.

        TypeError if the arguments do not fit.
        """
        spec = self._actor._methods[self._name]
        checker(spec.parameters, self._title())(*args, **kwargs)
        node = ClassMethodNode(self._name, args, kwargs, self._options, actor=self._actor)
        return outputs_of(node, self._options.get("num_returns", spec.num_returns))

    def _title(self) -> str:
        return f"{self._actor._title()}.{self._name}"


class ClassMethodNode(DAGNode):
    """A call of an actor's method, or one of the several returns of one."""

    def __init__(
        self,
        method_name: str,
        method_args: Sequence[Any],
        method_kwargs: Mapping[str, Any],
        method_options: Mapping[str, Any],
        *,
        actor: Any,
        output: tuple[ClassMethodNode, int] | None = None,
    ) -> None:
        """Hold the call; `actor` is a ClassNode or a handle."""
        other = {"parent_class_node": actor}
        if output is not None:
            other["class_method_call"] = output[0]
        super().__init__(method_args, method_kwargs, method_options, other)
        self._method_name = method_name
        self._index = output[1] if output is not None else None
        self._num_returns: Any = 1

    def get_method_name(self) -> str:
        """Return the name of the method."""
        return self._method_name

    @property
    def num_returns(self) -> Any:
        """How many references the call returns."""
        return self._num_returns

    @property
    def is_class_method_call(self) -> bool:
        """Whether this node makes the call."""
        return self._index is None

    @property
    def is_class_method_output(self) -> bool:
        """Whether this node is one of the returns of a call that another node makes."""
        return self._index is not None

    @property
    def class_method_call(self) -> ClassMethodNode | None:
        """The node that makes the call, if this is one of its returns."""
        call: ClassMethodNode | None = self._other.get("class_method_call")
        return call

    @property
    def output_idx(self) -> int | None:
        """Which of the call's returns this is, counted from zero."""
        return self._index

    @override
    def _step(self, plan: Plan) -> Callable[[Slots], Any]:
        if self._index is not None:
            returns, index = slot_in(plan, self.class_method_call), self._index
            return lambda slots: slots[returns][index]
        arguments = self._arguments(plan)
        handle = self._handle()
        if handle is not None:
            return _calling(self._method_of(handle).remote, arguments)
        made = slot_in(plan, self._other["parent_class_node"])

        def call(slots: Slots) -> Any:
            args, kwargs = arguments(slots)
            return self._method_of(slots[made]).remote(*args, **kwargs)

        return call

    @override
    def _handle(self) -> Any:
        actor = self._other["parent_class_node"]
        return None if isinstance(actor, DAGNode) else actor

    def _method_of(self, handle: Any) -> Any:
        method = getattr(handle, self._method_name)
        return method.options(**self._options) if self._options else method

    @override
    def _title(self) -> str:
        actor = self._other["parent_class_node"]
        owner = actor._title() if isinstance(actor, DAGNode) else actor._weft_meta.class_name
        part = "" if self._index is None else f"[{self._index}]"
        return f"{owner}.{self._method_name}{part}"


def _calling(
    remote: Callable[..., Any], arguments: Callable[[Slots], tuple[list[Any], dict[str, Any]]]
) -> Callable[[Slots], Any]:
    def call(slots: Slots) -> Any:
        args, kwargs = arguments(slots)
        return remote(*args, **kwargs)

    return call


def outputs_of(node: ClassMethodNode, num_returns: Any) -> Any:
    """Return a call's node, or a tuple of nodes for its several returns."""
    node._num_returns = num_returns
    if not isinstance(num_returns, int) or num_returns <= 1:
        return node
    actor = node._other["parent_class_node"]
    return tuple(
        ClassMethodNode(node._method_name, (), {}, {}, actor=actor, output=(node, index))
        for index in range(num_returns)
    )
