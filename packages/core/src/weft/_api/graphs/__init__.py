"""Lazy graphs: `.bind(...)` makes a node where `.remote(...)` makes a call; `execute` calls.

    with InputNode() as number:
        graph = add.bind(double.bind(number), square.bind(number))
    weft.get(graph.execute(3))

A node's arguments may hold other nodes, also inside lists, tuples, dicts and sets. Within one
`execute` each node runs once, however many others take its result; results pass as references, so
nothing is fetched in between.
"""

from weft._api.graphs.calls import ClassMethodNode, ClassNode, FunctionNode, outputs_of
from weft._api.graphs.ends import DAGInputData, InputAttributeNode, InputNode, MultiOutputNode
from weft._api.graphs.nodes import DAGNode

__all__ = [
    "ClassMethodNode",
    "ClassNode",
    "DAGInputData",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
    "outputs_of",
]
