"""The concerns of a control service: each with its tables, who answers for them, who is woken.

A control service is made of a list of them: another one is another entry (`concerns`, below).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from weft._control.calls.actors import ActorCalls
from weft._control.calls.groups import GroupCalls
from weft._control.calls.jobs import ANY_JOB, JobCalls
from weft._control.calls.keyvalues import KeyValueCalls
from weft._control.calls.links import NodeLinks
from weft._control.calls.members import Admission, MemberCalls, asked_drain, told_drain
from weft._control.calls.orders import OrderCalls
from weft._control.calls.topics import TopicCalls
from weft._control.calls.views import ViewCalls
from weft._control_messages import StandingsEncoder
from weft._machines.bundles import CommitBundles, ReleaseBundles, ReserveBundles, TellGroup
from weft._machines.directory import ActorDirectory
from weft._machines.enrolments import ActorChanged
from weft._machines.groups import Groups
from weft._machines.jobs import JobChanged, Jobs
from weft._machines.keyvalues import KeyValues
from weft._machines.members import AskDrain, Fence, TellDrain
from weft._machines.membership import Membership
from weft._machines.orders import OrderQueued, Orders
from weft._machines.tables import MemberAdded, MemberRemoved
from weft._machines.topics import Topics
from weft._machines.views import Publish, SendWhole
from weft._override import override

if TYPE_CHECKING:
    from weft._control.bells import Bells
    from weft._control.calls.desk import Desk
    from weft._control.calls.links import ViewFollower
    from weft._control.lines import NodeLines
    from weft._machines.tables import ControlTable


class Concern(ABC):
    """One concern.

    Attributes:
        tables: Those that hear of an event first come first.
    """

    tables: tuple[ControlTable, ...] = ()

    @abstractmethod
    def calls(self, desk: Desk) -> dict[str, object]:
        """Return who answers for services of control.proto, by their names.

        It is asked once, when the journal was read. Several concerns may answer for one service.
        """

    def tell(self, event: Any, bells: Bells) -> None:  # noqa: B027 - most are told nothing
        """Take an event of a table, once its command was answered.

        Of what was read from the journal at the start it is told nothing.
        """


class ValuesConcern(Concern):
    """Keys and values."""

    def __init__(self) -> None:
        self._values = KeyValues()
        self.tables = (self._values,)

    @override
    def calls(self, desk: Desk) -> dict[str, object]:
        return {"KeyValue": KeyValueCalls(desk, self._values)}


class TopicsConcern(Concern):
    """Publish and subscribe: nothing of it is journaled."""

    @override
    def calls(self, desk: Desk) -> dict[str, object]:
        return {"Topics": TopicCalls(desk, Topics(desk.service.number))}


class JobsConcern(Concern):
    """Jobs."""

    def __init__(self) -> None:
        self._jobs = Jobs()
        self.tables = (self._jobs,)

    @override
    def calls(self, desk: Desk) -> dict[str, object]:
        return {"Jobs": JobCalls(desk, self._jobs)}

    @override
    def tell(self, event: Any, bells: Bells) -> None:
        if isinstance(event, JobChanged):
            bells.ring(ANY_JOB)


class ActorsConcern(Concern):
    """Actors, and the orders that nodes get for them."""

    def __init__(self) -> None:
        self._orders, self._actors = Orders(), ActorDirectory()
        self.tables = (self._orders, self._actors)

    @override
    def calls(self, desk: Desk) -> dict[str, object]:
        return {
            "Actors": ActorCalls(desk, self._actors),
            "Members": OrderCalls(desk, self._orders),
        }

    @override
    def tell(self, event: Any, bells: Bells) -> None:
        match event:
            case ActorChanged(actor):
                bells.ring(("actor", actor))
            case OrderQueued(node) | MemberAdded(node) | MemberRemoved(node):
                bells.ring(("orders", node))
            case _:
                pass


class MembersConcern(Concern):
    """Members, and the view of what they have."""

    def __init__(self, links: NodeLinks, given: Admission, lines: NodeLines) -> None:
        self._membership = Membership()
        self.tables = (self._membership,)
        self._links = links
        self._lines = lines
        self._given = given
        self._followers: dict[bytes, ViewFollower] = {}
        self._encoder = StandingsEncoder()

    @override
    def calls(self, desk: Desk) -> dict[str, object]:
        members = MemberCalls(desk, self._membership, self._links, self._given)
        self._lines.hear(members)
        return {"Members": members, "ClusterView": ViewCalls(desk, self._followers)}

    @override
    def tell(self, event: Any, bells: Bells) -> None:
        match event:
            case MemberRemoved(node, incarnation, reason) | Fence(node, incarnation, reason):
                self._links.fence(node, incarnation, reason)
            case AskDrain(node, incarnation):
                self._links.send(node, incarnation, asked_drain(event))
            case TellDrain(node, incarnation):
                self._links.send(node, incarnation, told_drain(event))
            case Publish(delta):
                encoded = self._encoder.encode(delta)
                for follower in self._followers.values():
                    follower.add(encoded)
            case SendWhole(name, delta):
                self._followers[name].begin_anew(self._encoder.encode(delta))
            case _:
                pass


class GroupsConcern(Concern):
    """Placement groups."""

    def __init__(self, lines: NodeLines) -> None:
        self._groups = Groups()
        self.tables = (self._groups,)
        self._lines = lines

    @override
    def calls(self, desk: Desk) -> dict[str, object]:
        self._lines.begin(desk, self._groups)
        return {"PlacementGroups": GroupCalls(desk, self._groups)}

    @override
    def tell(self, event: Any, bells: Bells) -> None:
        match event:
            case TellGroup(group):
                bells.ring(("group", group))
            case ReserveBundles() | CommitBundles() | ReleaseBundles():
                self._lines.order(event)
            case MemberRemoved(node, incarnation, reason) | Fence(node, incarnation, reason):
                self._lines.end(node, incarnation, reason)
            case _:
                pass


def concerns(given: Admission, lines: NodeLines) -> list[Concern]:
    """Return the concerns of a control service.

    Args:
        given: To who joins.
        lines: Of the nodes.
    """
    return [
        MembersConcern(NodeLinks(), given, lines),
        ActorsConcern(),
        JobsConcern(),
        GroupsConcern(lines),
        ValuesConcern(),
        TopicsConcern(),
    ]
