"""What other distributions of Weft and plug-ins may use beyond the public names.

Kept as stable as those.
"""

from typing import Protocol, runtime_checkable

from weft._api.actors import list_named_actors
from weft._engine import Engine, current
from weft._ids import ActorId, JobId, NodeId, ObjectId, PlacementGroupId, TaskId, UniqueId, WorkerId
from weft._lazy import lazy
from weft._override import override
from weft._resources import Resources
from weft._serialize.pickling import deregister_reducer, dumps, register_reducer, unpack


@runtime_checkable
class Tunable(Protocol):
    """What weft-tune runs as a trial besides functions and classes: trainers, algorithms."""

    def as_trainable(self) -> object:
        """Return the function or the class to run, which takes a configuration."""
        ...


__all__ = [
    "ActorId",
    "Engine",
    "JobId",
    "NodeId",
    "ObjectId",
    "PlacementGroupId",
    "Resources",
    "TaskId",
    "Tunable",
    "UniqueId",
    "WorkerId",
    "current",
    "deregister_reducer",
    "dumps",
    "lazy",
    "list_named_actors",
    "override",
    "register_reducer",
    "unpack",
]
