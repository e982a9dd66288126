"""Several results of a graph."""

from weft._api.graphs import MultiOutputNode

__all__ = ["MultiOutputNode"]
