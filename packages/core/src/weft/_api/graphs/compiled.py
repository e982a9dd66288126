"""Compiled graphs: checked and made ready once, to be executed often.

A compiled graph runs by the same plan as the graph itself, with the same results. What is done once
instead of in every run: the checks, waiting for the actors' constructors, and sending large
arguments that are the same in every run, which are stored.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn

from weft._api.objects import get, put
from weft._lazy import lazy
from weft._override import override
from weft._refs import ObjectRef
from weft._serialize.pickling import dumps
from weft.exceptions import OptionError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from weft._api.graphs import pictures
    from weft._api.graphs.nodes import DAGNode
else:
    pictures = lazy("weft._api.graphs.pictures")

# A constant whose pickle is larger is stored once instead of travelling with every run.
LARGE_BYTES = 16 * 1024

_OF_BUFFERS = frozenset(
    {"_submit_timeout", "_buffer_size_bytes", "_max_inflight_executions", "_max_buffered_results"}
)
"""Options that programs from Ray give, of what is not needed here."""
_OF_GPUS: Mapping[str, tuple[object, ...]] = {
    "_overlap_gpu_communication": (None, False),
    "_default_communicator": (None, "create"),
}
"""Options of what is not here, and their values that ask for nothing."""


class CompiledDAG:
    """A graph that was checked and made ready once, by `experimental_compile`. Safe from threads.

    Its references are as any other: `weft.get` them, as often as wanted, await them, pass them on.
    """

    def __init__(self, root: DAGNode, actors: list[Any]) -> None:
        """Hold the graph; use `experimental_compile` instead."""
        self._id = os.urandom(16).hex()
        self._root = root
        self._actors = actors
        self._run: Callable[..., Any] | None = root._plan(_stored_if_large).run

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Make the calls of the graph. Does not block.

        Runs overlap; an actor gets its calls in the order of the runs. A call that fails fails the
        results that need it, and no other run.

        Args:
            *args: The input: one argument is what InputNode stands for; of several, `inp[0]`,
                `inp[1]` ...
            **kwargs: More input: `inp.name` or `inp["name"]`.

        Returns:
            An ObjectRef; for MultiOutputNode a list of them.

        Raises:
            TypeError: There is no input, and the graph has an InputNode. Nothing was sent.
            SessionError: It was torn down.
        """
        run = self._run
        if run is None:
            raise SessionError("this compiled graph was torn down: compile the graph again")
        return run(args, kwargs)[-1]

    async def execute_async(self, *args: Any, **kwargs: Any) -> Any:
        """Do as `execute`, for programs that await it: `await (await graph.execute_async(1))`.

        Args:
            *args: As of `execute`.
            **kwargs: As above.

        Returns:
            An ObjectRef, which is awaitable; for MultiOutputNode a list of them.

        Raises:
            TypeError: There is no input, and the graph has an InputNode. Nothing was sent.
            SessionError: It was torn down.
        """
        return self.execute(*args, **kwargs)

    def teardown(self, kill_actors: bool = False) -> None:
        """Let go of what was stored: `execute` raises from here on. Idempotent.

        Does not block. What was executed before goes on.

        Args:
            kill_actors: End the actors of the graph at once: what they have not done fails.
        """
        self._run = None
        actors, self._actors = self._actors, []
        if kill_actors:
            for actor in actors:
                actor._weft_engine.kill(actor._weft_meta.actor_id, no_restart=True)

    @property
    def is_teardown(self) -> bool:
        """Whether `teardown` was called."""
        return self._run is None

    def get_id(self) -> str:
        """Return a name that no other compiled graph has."""
        return self._id

    def visualize(
        self,
        filename: str = "compiled_graph",
        format: str = "png",
        view: bool = False,
        channel_details: bool = False,
    ) -> str:
        """Draw the graph.

        Args:
            filename: Where to write the picture, without the suffix.
            format: "ascii": text, which is returned and not written; "dot": the language of
                Graphviz; another one, such as "png" or "svg": what its program `dot` makes of that.
            view: Open the picture; write the text to standard output.
            channel_details: Only False: there are no channels, results travel as objects.

        Returns:
            The graph as text, or in the language of Graphviz.

        Raises:
            OptionError: Graphviz is not installed, or has no such format. Nothing was written.
        """
        if channel_details:
            raise OptionError("channel_details=True of visualize: there are no channels to show")
        return pictures.visualize(self._root, filename, format, views=view)

    def get_channel_details(self, channel: Any, downstream_actor_id: str) -> NoReturn:
        """Raise NotImplementedError: there are no channels, results travel as objects.

        Args:
            channel: Not taken.
            downstream_actor_id: Not taken.
        """
        raise NotImplementedError(
            "a compiled graph of Weft has no channels: its results are objects"
        )

    @override
    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a compiled graph cannot leave its process: pass the graph, and compile it there"
        )


def compile_graph(root: DAGNode, limits: Mapping[str, Any]) -> CompiledDAG:
    """Compile the graph of a node; see DAGNode.experimental_compile."""
    for name, value in limits.items():
        if name not in _OF_BUFFERS and value not in _OF_GPUS.get(name, ()):
            raise NotImplementedError(
                f"{name}={value!r} of experimental_compile is not in this version of Weft: "
                "leave it out"
            )
    nodes = root._in_order()
    for node in nodes:
        if node._not_compiled:
            raise ValueError(f"{node!r} cannot be in a compiled graph: {node._not_compiled}")
    if sum(node._reads_input and not node._children() for node in nodes) > 1:
        raise ValueError("the graph has two inputs: use one InputNode, and inp[0], inp[1] of it")
    actors = root._actors()
    get([actor.__weft_ready__.remote() for actor in actors])
    return CompiledDAG(root, actors)


def _stored_if_large(value: Any) -> Any:
    """Return a constant, or a reference to it. PicklingError."""
    if isinstance(value, ObjectRef) or dumps(value).size_bytes <= LARGE_BYTES:
        return value
    return put(value)
