"""Lazy graphs of tasks and actors' calls.

with InputNode() as number:
    graph = add.bind(double.bind(number), square.bind(number))
weft.get(graph.execute(3))
"""

from weft._api.graphs import (
    ClassMethodNode,
    ClassNode,
    DAGInputData,
    DAGNode,
    FunctionNode,
    InputAttributeNode,
    InputNode,
    MultiOutputNode,
)
from weft._api.graphs.pictures import plot

__all__ = [
    "ClassMethodNode",
    "ClassNode",
    "DAGInputData",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
    "plot",
]
