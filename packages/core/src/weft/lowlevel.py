"""What other distributions of Weft and plug-ins may use beyond the public names.

Kept as stable as those.
"""

from typing import Protocol, runtime_checkable

from weft._api.actors import list_named_actors
from weft._api.session import running
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


def preload(*modules: str) -> None:
    """Have modules imported once for all workers that the session starts from now on.

    They begin with them imported, at no cost of their own; `init(preload=[...])` does the same from
    the session's beginning. Workers that run in environments of their own interpreters, and those
    that are there already, import what they use. Does not block. Nothing is imported here.

    Args:
        modules: Their names. One that cannot be imported is passed over: the task that imports it
            fails.

    Raises:
        SessionError: There is no session.
    """
    running().preload(modules)


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
    "preload",
    "register_reducer",
    "unpack",
]
