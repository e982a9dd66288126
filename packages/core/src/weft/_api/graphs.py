"""Lazy graphs: `.bind(...)` makes a node where `.remote(...)` makes a call; `execute` calls.

    with InputNode() as number:
        graph = add.bind(double.bind(number), square.bind(number))
    weft.get(graph.execute(3))

A node's arguments may hold other nodes, also inside lists, tuples, dicts and sets. Within one
`execute` each node runs once, however many others take its result; results pass as references, so
nothing is fetched in between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from weft._override import override

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from weft._refs import ObjectRef

_OF_INPUT: Final = "the input"


class GraphCallee(Protocol):
    """What a node calls: a remote function, a remote class or a handle's method."""

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call."""
        ...


class DAGInputData:
    """The arguments of `execute`, where there is not exactly one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Hold the arguments."""
        self._args = list(args)
        self._kwargs = kwargs

    def __getitem__(self, key: int | str) -> Any:
        """Return a positional argument by its index, or a keyword one by its name."""
        return self._args[key] if isinstance(key, int) else self._kwargs[key]


class _Run:
    """One `execute`: its input, and the result of every node that has run."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.input = args[0] if len(args) == 1 and not kwargs else DAGInputData(*args, **kwargs)
        self.given = len(args) + len(kwargs)
        self.results: dict[str, Any] = {}


class DAGNode:
    """A step of a lazy graph, with its arguments.

    Nodes do not change: a function that rewrites a graph makes others. Equal only to itself.
    """

    def __init__(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        other_args_to_resolve: Mapping[str, Any] | None = None,
    ) -> None:
        """Hold what the step was bound with."""
        self._args = tuple(args)
        self._kwargs = dict(kwargs)
        self._options = dict(options or {})
        self._other = dict(other_args_to_resolve or {})
        self._uuid = os.urandom(16).hex()
        self._last: _Run | None = None
        self._hint: Any = None

    # -------------------------------------------------------------- what it was made of

    def get_args(self) -> tuple[Any, ...]:
        """Return the positional arguments, which may hold nodes."""
        return self._args

    def get_kwargs(self) -> dict[str, Any]:
        """Return the keyword arguments, which may hold nodes."""
        return dict(self._kwargs)

    def get_options(self) -> dict[str, Any]:
        """Return the options of the call that were given by `.options(...)`."""
        return dict(self._options)

    def get_other_args_to_resolve(self) -> dict[str, Any]:
        """Return what else the step takes, such as the actor of a method."""
        return dict(self._other)

    def get_stable_uuid(self) -> str:
        """Return a name that no other node has, but copies made by `apply_recursive` keep."""
        return self._uuid

    @property
    def type_hint(self) -> Any:
        """What `with_type_hint` was told."""
        return self._hint

    def with_type_hint(self, typ: Any) -> Self:
        """Note the type of the result, for tools that read graphs."""
        self._hint = typ
        return self

    # -------------------------------------------------------------- running it

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Make the calls of the graph that this node needs. Does not block.

        Args:
            *args: The input: one argument is what InputNode stands for; of several, `inp[0]`,
                `inp[1]` ...
            **kwargs: More input: `inp.name` or `inp["name"]`.

        Returns:
            What `.remote(...)` returns for this step: an ObjectRef; a handle for a class; for
            MultiOutputNode a list of them.

        Raises:
            TypeError: There is no input, and the graph has an InputNode.
        """
        run = _Run(args, kwargs)
        self._last = run
        return self._result(run)

    def clear_cache(self) -> None:
        """Forget the references of the last `execute`, so that their values may go."""
        self._last = None

    def get_object_refs_from_last_execute(self) -> dict[str, ObjectRef[Any]]:
        """Return the references that the last `execute` of this node made, by the steps' uuids."""
        return dict(self._last.results) if self._last else {}

    def experimental_compile(self, *args: Any, **kwargs: Any) -> Any:
        """Raise NotImplementedError.

        Compiled graphs are not in this version; `execute` runs the same graph.
        """
        raise NotImplementedError(
            "compiled graphs are not in this version of Weft: call execute() on the same graph"
        )

    def _result(self, run: _Run) -> Any:
        if self._uuid not in run.results:
            run.results[self._uuid] = self._run(run)
        return run.results[self._uuid]

    def _run(self, run: _Run) -> Any:
        raise NotImplementedError

    def _resolved(self, run: _Run) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def result(node: DAGNode) -> Any:
            return node._result(run)

        return _mapped(self._args, result), _mapped(self._kwargs, result)

    # -------------------------------------------------------------- rewriting it

    def apply_recursive(self, fn: Callable[[DAGNode], Any]) -> Any:
        """Call `fn` for every node, arguments first, each once; its result takes the node's place.

        Returns:
            What `fn` returns for (a copy of) this node.
        """
        replaced: dict[str, Any] = {}

        def replace(node: DAGNode) -> Any:
            if node._uuid not in replaced:
                replaced[node._uuid] = fn(node._with(replace))
            return replaced[node._uuid]

        return replace(self)

    def traverse_and_apply(self, fn: Callable[[DAGNode], Any]) -> None:
        """Call `fn` for every node, this one first, then its arguments, each once."""
        seen: dict[str, DAGNode] = {self._uuid: self}
        waiting: list[DAGNode] = [self]
        for node in waiting:
            fn(node)
            for child in node._children():
                if seen.setdefault(child._uuid, child) is child and child not in waiting:
                    waiting.append(child)

    def apply_functional(
        self,
        source_input_list: Any,
        predicate_fn: Callable[[Any], bool],
        apply_fn: Callable[[Any], Any],
    ) -> Any:
        """Return a copy of a container, where `apply_fn` replaced what `predicate_fn` picks."""
        return _replaced(source_input_list, predicate_fn, apply_fn)

    def _children(self) -> list[DAGNode]:
        found: list[DAGNode] = []
        _mapped((self._args, self._kwargs, self._other), found.append)
        return found

    def _with(self, replace: Callable[[DAGNode], Any]) -> DAGNode:
        """Return this node with other nodes in its arguments; itself if there are none."""
        if not self._children():
            return self
        made = self.__class__.__new__(self.__class__)
        vars(made).update(vars(self))
        made._args, made._kwargs, made._other = _mapped(
            (self._args, self._kwargs, self._other), replace
        )
        made._last = None
        return made

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        kept = {name: value for name, value in vars(self).items() if name != "_last"}
        return _restored, (self.__class__, kept)

    @override
    def __repr__(self) -> str:
        words = [repr(item) for item in self._args] + [
            f"{name}={item!r}" for name, item in self._kwargs.items()
        ]
        return f"{type(self).__name__}({self._title()}{': ' if words else ''}{', '.join(words)})"

    def _title(self) -> str:
        return ""


def _restored(kind: type[DAGNode], state: dict[str, Any]) -> DAGNode:
    made = kind.__new__(kind)
    vars(made).update(state, _last=None)
    return made


def _mapped(value: Any, replace: Callable[[DAGNode], Any]) -> Any:
    return _replaced(value, lambda item: isinstance(item, DAGNode), replace)


def _replaced(value: Any, is_picked: Callable[[Any], bool], replace: Callable[[Any], Any]) -> Any:
    """Return a copy of plain containers, however deep, with what is picked replaced."""
    if is_picked(value):
        return replace(value)
    kind = type(value)
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        return kind([_replaced(item, is_picked, replace) for item in value])
    if kind is dict:
        return {key: _replaced(item, is_picked, replace) for key, item in value.items()}
    return value


# ------------------------------------------------------------------ the kinds of nodes


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
    def _run(self, run: _Run) -> Any:
        args, kwargs = self._resolved(run)
        return self._callee.remote(*args, **kwargs)

    @override
    def _title(self) -> str:
        return self._name


class ClassNode(DAGNode):
    """A new actor. Its methods are there: `node.method.bind(...)`."""

    def __init__(
        self,
        callee: GraphCallee,
        name: str,
        methods: Mapping[str, Any],
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
    def _run(self, run: _Run) -> Any:
        args, kwargs = self._resolved(run)
        return self._callee.remote(*args, **kwargs)

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
        """Return the same with other options, as those of `ActorMethod.options`."""
        return UnboundMethod(self._actor, self._name, {**self._options, **options})

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Make a node of a call; with `num_returns` over 1 a tuple of nodes, one a return."""
        spec = self._actor._methods[self._name]
        node = ClassMethodNode(self._name, args, kwargs, self._options, actor=self._actor)
        return outputs_of(node, self._options.get("num_returns", spec.num_returns))


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
    def _run(self, run: _Run) -> Any:
        call = self.class_method_call
        if call is not None:
            return call._result(run)[self._index]
        actor = self._other["parent_class_node"]
        handle = actor._result(run) if isinstance(actor, DAGNode) else actor
        method = getattr(handle, self._method_name)
        if self._options:
            method = method.options(**self._options)
        args, kwargs = self._resolved(run)
        return method.remote(*args, **kwargs)

    @override
    def _title(self) -> str:
        return self._method_name if self._index is None else f"{self._method_name}[{self._index}]"


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


class InputNode(DAGNode):
    """The input of a graph.

    What `execute` is called with. Use it as a context manager, and one in a graph.
    """

    def __init__(self, *args: Any, input_type: Any = None, **kwargs: Any) -> None:
        """Hold the type of the input, if it is told.

        Args:
            *args: Nothing is taken.
            input_type: The type of the input, or types by argument's index or name; for tools that
                read graphs.
            **kwargs: Nothing is taken.
        """
        if args or kwargs:
            raise TypeError("InputNode() takes no arguments: they are given to execute()")
        super().__init__((), {})
        self._input_type = input_type
        self._context: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Do nothing: the node stays what it is."""

    def __getattr__(self, name: str) -> InputAttributeNode:
        if name.startswith("_"):
            raise AttributeError(name)
        return InputAttributeNode(self, name, by_attribute=True)

    def __getitem__(self, key: int | str) -> InputAttributeNode:
        """Return a node for one argument or item of the input."""
        return InputAttributeNode(self, key, by_attribute=False)

    def get_result_type(self) -> Any:
        """Return the type that the input was told to have."""
        return self._input_type

    def set_context(self, key: str, val: Any) -> None:
        """Keep something beside the input, for tools that read graphs."""
        self._context[key] = val

    @override
    def _run(self, run: _Run) -> Any:
        if not run.given:
            raise TypeError("the graph has an InputNode: give execute() its input")
        return run.input

    @override
    def _title(self) -> str:
        return _OF_INPUT


class InputAttributeNode(DAGNode):
    """One argument of `execute`, or an item or attribute of the only one."""

    def __init__(self, source: InputNode, key: int | str, *, by_attribute: bool) -> None:
        """Hold what is taken of the input."""
        super().__init__((), {}, {}, {"dag_input_node": source})
        self._key = key
        self._by_attribute = by_attribute

    @property
    def key(self) -> int | str:
        """The index or name that is taken of the input."""
        return self._key

    def get_result_type(self) -> Any:
        """Return the type that this part of the input was told to have."""
        types = self._other["dag_input_node"].get_result_type()
        return types.get(self._key) if isinstance(types, Mapping) else None

    @override
    def _run(self, run: _Run) -> Any:
        source = self._other["dag_input_node"]._result(run)
        if self._by_attribute and not isinstance(source, DAGInputData):
            return getattr(source, str(self._key))
        return source[self._key]

    @override
    def _title(self) -> str:
        return f"{_OF_INPUT}.{self._key}" if self._by_attribute else f"{_OF_INPUT}[{self._key!r}]"


class MultiOutputNode(DAGNode):
    """Several nodes as one result: `execute` returns a list."""

    def __init__(
        self,
        args: Sequence[DAGNode] | DAGNode,
        other_args_to_resolve: Mapping[str, Any] | None = None,
    ) -> None:
        """Hold the nodes."""
        nodes = [args] if isinstance(args, DAGNode) else list(args)
        super().__init__((nodes,), {}, {}, other_args_to_resolve)

    @override
    def _run(self, run: _Run) -> list[Any]:
        (nodes,), _ = self._resolved(run)
        return list(nodes)

    @override
    def _title(self) -> str:
        return "outputs"
