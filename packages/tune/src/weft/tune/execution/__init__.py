"""How trials are run."""

from weft.tune.execution.placement_groups import PlacementGroupFactory

__all__ = ["PlacementGroupFactory"]
