"""What programs need beside tasks, actors and objects."""

from weft._api.actors import list_named_actors
from weft.util._iteration import as_completed, map_unordered
from weft.util._network import get_node_ip_address
from weft.util._progress import progress
from weft.util.actor_pool import ActorPool
from weft.util.check_serialize import inspect_serializability
from weft.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
from weft.util.serialization import deregister_serializer, register_serializer

__all__ = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_node_ip_address",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "progress",
    "register_serializer",
]
