"""Graphs that are checked and made ready once."""

from weft._api.graphs.compiled import CompiledDAG

__all__ = ["CompiledDAG"]
