"""What all nodes of a lazy graph have in common: their arguments, their order, their rewriting."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from weft._api.graphs.plans import Plan
from weft._lazy import lazy
from weft._override import override
from weft._refs import ObjectRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self

    from weft._api.graphs import compiled
    from weft._api.graphs.compiled import CompiledDAG
    from weft._api.graphs.plans import Slots
else:
    compiled = lazy("weft._api.graphs.compiled")


class DAGNode:
    """A step of a lazy graph, with its arguments.

    Nodes do not change: a function that rewrites a graph makes others. Equal only to itself.
    """

    _reads_input: ClassVar[bool] = False
    """Whether it makes no call, and is part of what `execute` is called with."""
    _not_compiled: ClassVar[str] = ""
    """Why it cannot be in a compiled graph."""

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
        self._hint: Any = None
        self._planned: Plan | None = None
        self._last: Slots = []
        """Of the last `execute`."""

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

    def with_tensor_transport(
        self, transport: Any = "auto", device: Any = "default", **options: Any
    ) -> NoReturn:
        """Raise NotImplementedError: results travel as objects, whatever they are.

        Args:
            transport: Not taken.
            device: Not taken.
            **options: Not taken.
        """
        raise NotImplementedError(
            "how tensors travel is not a choice in this version of Weft: leave out "
            "with_tensor_transport()"
        )

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
            TypeError: There is no input, and the graph has an InputNode. Nothing was sent.
        """
        if self._planned is None:
            self._planned = self._plan()
        self._last = self._planned.run(args, kwargs)
        return self._last[-1]

    def clear_cache(self) -> None:
        """Forget the references of the last `execute`, so that their values may go."""
        self._last = []

    def get_object_refs_from_last_execute(self) -> dict[str, ObjectRef[Any]]:
        """Return the references that the last `execute` of this node made, by the steps' uuids."""
        if self._planned is None or not self._last:
            return {}
        made = {uuid: self._last[slot] for uuid, slot in self._planned.slot_of.items()}
        return {uuid: ref for uuid, ref in made.items() if isinstance(ref, ObjectRef)}

    def experimental_compile(self, enable_asyncio: bool = False, **limits: Any) -> CompiledDAG:
        """Check the graph and make it ready, once, to be executed often.

        Blocks until the constructors of its actors have run.

        Arguments that are the same in every run, and large, are stored once, as they are now. There
        are no buffers to fill: any number of runs may be unfinished.

        Args:
            enable_asyncio: Taken from programs that come from Ray: `execute_async` works either
                way.
            **limits: Taken likewise: _submit_timeout, _buffer_size_bytes, _max_inflight_executions
                and _max_buffered_results, which are of buffers.

        Raises:
            ValueError: The graph makes an actor of its own, or has two inputs.
            PicklingError: An argument cannot travel.
            ActorDiedError: An actor is dead.
            NotImplementedError: Another option is given.
        """
        return compiled.compile_graph(self, limits)

    def _plan(self, keep: Callable[[Any], Any] | None = None) -> Plan:
        plan = Plan(keep)
        for node in self._in_order():
            plan.slot_of[node._uuid] = plan.add_step(node._step(plan), is_read=node._reads_input)
        return plan

    def _step(self, plan: Plan) -> Callable[[Slots], Any]:
        """Return what gives this node's result, once those of its children are in their slots."""
        raise NotImplementedError

    def _arguments(self, plan: Plan) -> Callable[[Slots], tuple[list[Any], dict[str, Any]]]:
        """Return what finds the arguments of this node's call: (args, kwargs)."""
        picks = [slot_in(plan, value) for value in self._args]
        names = {name: slot_in(plan, value) for name, value in self._kwargs.items()}

        def find(slots: Slots) -> tuple[list[Any], dict[str, Any]]:
            return [slots[pick] for pick in picks], {
                name: slots[pick] for name, pick in names.items()
            }

        return find

    # -------------------------------------------------------------- its graph

    def _children(self) -> list[DAGNode]:
        """Return the nodes whose results this one takes."""
        found: list[DAGNode] = []
        mapped((self._other, self._args, self._kwargs), found.append)
        return found

    def _in_order(self) -> list[DAGNode]:
        """Return the nodes of this one's graph, each once, after its children; this one is last."""
        ordered: list[DAGNode] = []
        seen = {self._uuid}
        # No recursion: graphs may be deeper than Python's stack.
        path: list[tuple[DAGNode, Iterator[DAGNode]]] = [(self, iter(self._children()))]
        while path:
            node, children = path[-1]
            child = next(children, None)
            if child is None:
                path.pop()
                ordered.append(node)
            elif child._uuid not in seen:
                seen.add(child._uuid)
                path.append((child, iter(child._children())))
        return ordered

    def _actors(self) -> list[Any]:
        """Return the handles of the actors that its graph calls and does not make, each once."""
        handles = (node._handle() for node in self._in_order())
        return list(dict.fromkeys(handle for handle in handles if handle is not None))

    # -------------------------------------------------------------- rewriting it

    def apply_recursive(self, fn: Callable[[DAGNode], Any]) -> Any:
        """Call `fn` for every node, arguments first, each once; its result takes the node's place.

        Returns:
            What `fn` returns for (a copy of) this node.
        """
        replaced: dict[str, Any] = {}
        for node in self._in_order():
            replaced[node._uuid] = fn(node._with(lambda child: replaced[child._uuid]))
        return replaced[self._uuid]

    def traverse_and_apply(self, fn: Callable[[DAGNode], Any]) -> None:
        """Call `fn` for every node, this one first, then its arguments, each once."""
        seen = {self._uuid}
        waiting: list[DAGNode] = [self]
        for node in waiting:
            fn(node)
            for child in node._children():
                if child._uuid not in seen:
                    seen.add(child._uuid)
                    waiting.append(child)

    def apply_functional(
        self,
        source_input_list: Any,
        predicate_fn: Callable[[Any], bool],
        apply_fn: Callable[[Any], Any],
    ) -> Any:
        """Return a copy of a container, where `apply_fn` replaced what `predicate_fn` picks."""
        return _replaced(source_input_list, predicate_fn, apply_fn)

    def _with(self, replace: Callable[[DAGNode], Any]) -> DAGNode:
        """Return this node with other nodes in its arguments; itself if there are none."""
        if not self._children():
            return self
        made = _restored(self.__class__, self._kept())
        made._args, made._kwargs, made._other = mapped(
            (self._args, self._kwargs, self._other), replace
        )
        return made

    def _kept(self) -> dict[str, Any]:
        """Return what a copy of this node has, too."""
        return {**vars(self), "_planned": None, "_last": []}

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.__class__, self._kept())

    @override
    def __repr__(self) -> str:
        # Without the children's own: a shared node would be written again and again.
        words = self._words(lambda node: f"{type(node).__name__}({node._title()})", repr)
        return f"{type(self).__name__}({self._title()}{': ' if words else ''}{', '.join(words)})"

    def _words(self, name_of: Callable[[DAGNode], str], show: Callable[[Any], str]) -> list[str]:
        """Return the arguments as text: nodes as `name_of` calls them, `show` of all else."""
        args, kwargs = mapped((self._args, self._kwargs), lambda node: _Name(name_of(node)))
        return [show(item) for item in args] + [
            f"{name}={show(item)}" for name, item in kwargs.items()
        ]

    def _title(self) -> str:
        return ""

    def _handle(self) -> Any:
        """Return the handle of the actor that it calls, if it is there before the graph runs."""
        return None


class _Name(str):
    """Stands for a node in text."""

    __slots__ = ()
    __repr__ = str.__str__


def _restored(kind: type[DAGNode], state: dict[str, Any]) -> DAGNode:
    made = kind.__new__(kind)
    vars(made).update(state)
    return made


def slot_in(plan: Plan, value: Any) -> int:
    """Return the slot in which an argument is when its call is made."""
    if isinstance(value, DAGNode):
        return plan.slot_of[value._uuid]
    inner: list[DAGNode] = []
    mapped(value, inner.append)
    if not inner:
        return plan.add_constant(value)
    slot_of = plan.slot_of
    template = mapped(value, lambda node: node)
    return plan.add_step(
        lambda slots: mapped(template, lambda node: slots[slot_of[node._uuid]]), is_read=False
    )


def mapped(value: Any, replace: Callable[[DAGNode], Any]) -> Any:
    """Return a copy of plain containers, however deep, with nodes replaced."""
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
