"""What the directory of a cluster's actors (directory.py) is told by journaled commands."""

from __future__ import annotations

import msgspec


class EnrolActor(msgspec.Struct, frozen=True):
    """A process asks for an actor.

    Answered with the id of the actor: another one's, if `get_if_exists` and the name is taken.
    """

    actor: bytes
    owner: bytes
    node: bytes
    """Whose daemon the owner speaks to: it is asked for a worker first."""
    job: bytes
    creation: bytes
    """What its node needs to start it."""
    name: str = ""
    namespace: str = ""
    is_detached: bool = False
    get_if_exists: bool = False
    max_restarts: int = 0
    """-1: no limit."""
    handle: bytes = b""
    """What its callers need to know of it."""
    class_name: str = ""
    amounts: dict[str, int] = {}
    """What it takes of its node."""
    group: bytes = b""
    """The placement group that it is in, and ends with; empty: none."""


class PlaceActor(msgspec.Struct, frozen=True):
    """A worker was found, on this node."""

    actor: bytes
    asked: bytes
    """The node that was asked for it."""
    node: bytes
    worker: bytes
    address: str


class StartActor(msgspec.Struct, frozen=True):
    """The constructor has returned."""

    actor: bytes
    worker: bytes


class FailActor(msgspec.Struct, frozen=True):
    """The constructor has raised."""

    actor: bytes
    worker: bytes
    error: bytes


class LoseActor(msgspec.Struct, frozen=True):
    """The actor's worker is gone. `cause`: how it ended, in words."""

    actor: bytes
    worker: bytes
    cause: str


class LeaveActor(msgspec.Struct, frozen=True):
    """The actor is ending itself: the end of its worker is no failure."""

    actor: bytes
    worker: bytes
    reason: str


class RefuseActor(msgspec.Struct, frozen=True):
    """No worker can ever be had for the actor."""

    actor: bytes
    asked: bytes
    reason: str
    kind: str = "unschedulable"
    """Or environment."""


class FinishActor(msgspec.Struct, frozen=True):
    """Someone wants an actor to end. `graceful`: after the calls that it has."""

    actor: bytes
    graceful: bool
    no_restart: bool
    reason: str


class EndOwner(msgspec.Struct, frozen=True):
    """A process is gone: the actors that it owns end."""

    owner: bytes


class TickActors(msgspec.Struct, frozen=True):
    """Actors that waited to start again are due."""


Command = (
    EnrolActor
    | PlaceActor
    | StartActor
    | FailActor
    | LoseActor
    | LeaveActor
    | RefuseActor
    | FinishActor
    | EndOwner
    | TickActors
)


class ActorChanged(msgspec.Struct, frozen=True):
    """Where an actor is in its life."""

    actor: bytes
