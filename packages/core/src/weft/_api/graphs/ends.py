"""Where a graph begins and ends: its input and its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from weft._api.graphs.nodes import DAGNode, slot_in
from weft._api.graphs.plans import INPUT
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from weft._api.graphs.plans import Plan, Slots

_OF_INPUT: Final = "the input"


class DAGInputData:
    """The arguments of `execute`, where there is not exactly one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Hold the arguments."""
        self._args = list(args)
        self._kwargs = kwargs

    def __getitem__(self, key: int | str) -> Any:
        """Return a positional argument by its index, or a keyword one by its name."""
        return self._args[key] if isinstance(key, int) else self._kwargs[key]


class InputNode(DAGNode):
    """The input of a graph.

    What `execute` is called with. Use it as a context manager, and one in a graph.
    """

    _reads_input = True

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

    def __exit__(self, *exc: object) -> None:
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
    def _step(self, plan: Plan) -> Callable[[Slots], Any]:
        return _given

    @override
    def _title(self) -> str:
        return _OF_INPUT


def _given(slots: Slots) -> Any:
    args, kwargs = slots[INPUT]
    if not args and not kwargs:
        raise TypeError("the graph has an InputNode: give execute() its input")
    return args[0] if len(args) == 1 and not kwargs else DAGInputData(*args, **kwargs)


class InputAttributeNode(DAGNode):
    """One argument of `execute`, or an item or attribute of the only one."""

    _reads_input = True

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
    def _step(self, plan: Plan) -> Callable[[Slots], Any]:
        source = slot_in(plan, self._other["dag_input_node"])
        key = self._key
        name = str(key) if self._by_attribute else None

        def take(slots: Slots) -> Any:
            given = slots[source]
            if name is not None and not isinstance(given, DAGInputData):
                return getattr(given, name)
            return given[key]

        return take

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
    def _step(self, plan: Plan) -> Callable[[Slots], Any]:
        outputs = [slot_in(plan, node) for node in self._args[0]]
        return lambda slots: [slots[slot] for slot in outputs]

    @override
    def _title(self) -> str:
        return "outputs"
