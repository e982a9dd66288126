"""Actors: their classes, handles and methods, and the verbs that are no method."""

from weft._api.actors import ActorClass, exit_actor
from weft._api.handles import ActorHandle, ActorMethod, ActorProxy
from weft._api.methods import method
from weft.exceptions import ActorClassInheritanceException

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "ActorProxy",
    "exit_actor",
    "method",
]
