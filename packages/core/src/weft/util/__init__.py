"""What programs need beside tasks, actors and objects."""

from weft._api.actors import list_named_actors
from weft.util._iteration import as_completed, map_unordered
from weft.util._network import get_node_ip_address
from weft.util._progress import progress
from weft.util.actor_pool import ActorPool
from weft.util.check_serialize import inspect_serializability
from weft.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
from weft.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from weft.util.serialization import deregister_serializer, register_serializer

__all__ = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "progress",
    "register_serializer",
    "remove_placement_group",
]
