"""What processes of a world say where the real ones use gRPC, or send the user's values along."""

from __future__ import annotations

from typing import Any

import msgspec

from weft._ids import NodeId, TaskId
from weft._machines.ledger import Sender
from weft._machines.membership import MemberStanding
from weft._machines.placement import NodeView
from weft._machines.rulings import Request, Ruling
from weft._machines.views import Delta
from weft._wire.messages import Held, Value
from weft.testing._simulation.plans import CallPlan, TaskPlan


class ControlCall(msgspec.Struct, frozen=True):
    """Someone wants a command done; repeated under the same name until there is an answer."""

    request: Request
    command: Any
    sender: Sender | None = None


class ControlAnswer(msgspec.Struct, frozen=True):
    """It is done, or refused."""

    number: int
    ruling: Ruling


class AskService(msgspec.Struct, frozen=True):
    """A node asks a service of control, in the message that it is asked over gRPC."""

    request: Request
    service: str
    method: str
    message: Any


class ServiceSaid(msgspec.Struct, frozen=True):
    """The answer, or the error that stands for it."""

    number: int
    answer: Any


class FollowOrders(msgspec.Struct, frozen=True):
    """A node wants its orders behind those that it has."""

    sender: Sender
    after: int


class OrdersSent(msgspec.Struct, frozen=True):
    """A node is to do these."""

    first: int
    orders: tuple[Any, ...]


class OrdersTaken(msgspec.Struct, frozen=True):
    """The node has its orders up to a number."""

    through: int


class WatchActors(msgspec.Struct, frozen=True):
    """A node wants to hear what becomes of these."""

    actors: tuple[bytes, ...]
    no_more: tuple[bytes, ...] = ()


class ActorTold(msgspec.Struct, frozen=True):
    """Where an actor is in its life, in the message of gRPC."""

    actor: Any


class Heartbeat(msgspec.Struct, frozen=True):
    """A node lives; what of it has changed, if anything has."""

    node_id: NodeId
    incarnation: int
    delta: Delta[NodeId, NodeView] | None = None


class BeatHeard(msgspec.Struct, frozen=True):
    """Control has heard a heartbeat."""


class WholeViewWanted(msgspec.Struct, frozen=True):
    """A node is to say all that it has."""


class Fenced(msgspec.Struct, frozen=True):
    """A node is no member."""

    reason: str


class FollowView(msgspec.Struct, frozen=True):
    """A node wants to hear what all have."""


class ViewsSent(msgspec.Struct, frozen=True):
    """What of all nodes has changed."""

    delta: Delta[NodeId, MemberStanding]


class RunTask(msgspec.Struct, frozen=True):
    """An owner sends a task to a worker (Run)."""

    task_id: TaskId
    attempt: int
    plan: TaskPlan
    deps: tuple[Value, ...] = ()
    """Its arguments, in the order of those that its plan reads."""
    owners: tuple[Held, ...] = ()
    inner: tuple[tuple[str, Held], ...] = ()
    """References, by the names under which its own tasks read them."""


class TaskDone(msgspec.Struct, frozen=True):
    """A worker has run a task (Done)."""

    task_id: TaskId
    duration_s: float
    retriable: bool = False
    values: tuple[Value, ...] = ()


class CancelTask(msgspec.Struct, frozen=True):
    """An owner wants a task to stop (Cancel). `by_force`: with its process (Abort)."""

    task_id: TaskId
    by_force: bool = False


class RunCall(msgspec.Struct, frozen=True):
    """A caller sends an actor a call (Call)."""

    task_id: TaskId
    actor: bytes
    attempt: int
    plan: CallPlan


class CallDone(msgspec.Struct, frozen=True):
    """An actor has run a call (Done): in which life, and as the which of those that run once."""

    task_id: TaskId
    life: str
    number: int
