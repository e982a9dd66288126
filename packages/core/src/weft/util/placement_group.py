"""Placement groups: amounts of resources that are reserved together, or not at all.

group = placement_group([{"CPU": 2}, {"CPU": 2}])
strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
task.options(scheduling_strategy=strategy).remote()
"""

from weft._api.groups import (
    PlacementGroup,
    check_placement_group_index,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "PlacementGroup",
    "check_placement_group_index",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]
