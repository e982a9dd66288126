"""The members of a cluster as a table of the control service: who they are, and what each has.

    RegisterAsked, DrainStarted, Buried -> members.py -> MemberAdded, MemberRemoved
    HeartbeatHeard, LinkClosed ...      -> members.py -> Bury: it is proposed as a command
    NodeSaid: what a node has, beside what members.py says of it
                                        -> views.py   -> Publish, SendWhole: who follows the view
                                        -> NodesSeen:    placement groups are planned on it

What is always true
1. What is published has every living member in the incarnation in which it lives, from the moment
   on at which the journal was read, also those that have not said yet what they have; and the dead
   that are remembered, with the cause. So who follows it learns of each death, and of no other.
2. What a node says counts only while it is a member.
3. A node that another table removes (MemberRemoved) is dead here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, assert_never

import msgspec

from weft._ids import NodeId
from weft._machines.bundles import NodesSeen
from weft._machines.members import (
    SILENCE_S,
    Buried,
    Bury,
    ControlStarted,
    DrainAsked,
    DrainRefused,
    DrainStarted,
    HeartbeatHeard,
    LinkClosed,
    MemberEffect,
    MemberEvent,
    MemberFacts,
    Members,
    MembersState,
    MembersTicked,
    NodeDied,
    NodeJoined,
    NodeLeft,
    RegisterAsked,
    StartDrain,
    TellDrain,
    Unwelcome,
    Welcomed,
)
from weft._machines.placement import NodeView
from weft._machines.rulings import Ruling
from weft._machines.tables import (
    Commands,
    Consequence,
    ControlTable,
    Kinds,
    MemberAdded,
    MemberDrains,
    MemberRemoved,
    Noted,
    ServiceBegun,
)
from weft._machines.views import (
    FollowerGone,
    Publisher,
    PublisherTicked,
    TableChanged,
    WholeAsked,
)
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Sequence


class NodeSaid(msgspec.Struct, frozen=True):
    """What a node says that it has."""

    incarnation: int
    view: NodeView


class MemberStanding(msgspec.Struct, frozen=True):
    """All that is known of a node."""

    facts: MemberFacts
    view: NodeView | None = None
    """None: it has not said yet, since this control service began."""

    @property
    def is_dead(self) -> bool:
        """Whether it is no member any more."""
        return self.facts.life == "dead"


class Membership(ControlTable):
    """The table of members."""

    name: ClassVar = "members"
    commands: ClassVar[Commands] = {
        "register": RegisterAsked,
        "drain": DrainStarted,
        "bury": Buried,
    }
    hears: ClassVar[Kinds] = (MemberRemoved,)
    notes: ClassVar[Kinds] = (
        ServiceBegun,
        HeartbeatHeard,
        LinkClosed,
        NodeLeft,
        DrainAsked,
        NodeSaid,
        WholeAsked,
        FollowerGone,
    )
    image_type: ClassVar = MembersState

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        self._members = Members(silence_s)
        self._said: dict[NodeId, NodeView] = {}
        """What living members have said, as they have said it."""
        self._publisher: Publisher[NodeId, MemberStanding] | None = None
        """None: the journal was not read yet."""

    # -------------------------------------------------------------- what is journaled

    @override
    def apply(
        self, happened: RegisterAsked | DrainStarted | Buried | MemberRemoved, now: float
    ) -> Consequence:
        """Do a command, or hear that another table has removed a member."""
        match happened:
            case MemberRemoved(node, incarnation, reason):
                buried = Buried(NodeId(node), incarnation, reason)
                self._members.handle(buried, now)
                self._said.pop(NodeId(node), None)
                return Consequence(events=tuple(self._publish_death(NodeId(node), now)))
            case RegisterAsked() | DrainStarted() | Buried():
                return self._do(happened, now)
            case _:
                assert_never(happened)

    def _do(self, command: RegisterAsked | DrainStarted | Buried, now: float) -> Consequence:
        answer = Ruling()
        events: list[Any] = []
        for effect in self._members.handle(command, now):
            match effect:
                case Welcomed(incarnation=incarnation):
                    answer = Ruling(incarnation)
                case Unwelcome(reason=reason):
                    answer = Ruling(code="full", reason=reason)
                case NodeJoined(node_id, incarnation):
                    events.append(MemberAdded(bytes(node_id), incarnation))
                case NodeDied(node_id, incarnation, cause):
                    events.append(MemberRemoved(bytes(node_id), incarnation, cause))
                case TellDrain(node_id, reason=reason, message=message):
                    why = (
                        f"its node is drained: {message}"
                        if message
                        else f"its node is drained ({reason})"
                    )
                    events += [effect, MemberDrains(bytes(node_id), why)]
                case DrainRefused(node_id, reason):
                    answer = Ruling(code="missing", reason=f"node {node_id.hex()}: {reason}")
                case _:
                    # What else there is follows from what is heard of nodes, not from a command.
                    assert_never(effect)  # type: ignore[arg-type]
        if not isinstance(command, Buried):  # A death is published when it is heard.
            events += self._publish([command.node_id], now)
        if isinstance(command, DrainStarted):
            events += self._seen(command.node_id)
        return Consequence(answer, tuple(events))

    # -------------------------------------------------------------- what is not

    @override
    def note(self, happened: Any, now: float) -> Noted:
        """Hear from nodes, and from those who follow the view."""
        match happened:
            case ServiceBegun(number):
                self._publisher = Publisher(number)
                noted = self._noted(ControlStarted(), now)
                ids = [facts.node_id for facts in (*self._members.dead(), *self._members.living())]
                return Noted((*noted.events, *self._publish(ids, now)), noted.commands)
            case NodeSaid(incarnation, view):
                if not self._members.is_member(view.node_id, incarnation):
                    return Noted()
                self._said[view.node_id] = view
                events = (*self._publish([view.node_id], now), *self._seen(view.node_id))
                return Noted(events)
            case WholeAsked() | FollowerGone():
                assert self._publisher is not None
                return Noted(tuple(self._publisher.handle(happened, now)))
            case _:
                return self._noted(happened, now)

    def _noted(self, event: MemberEvent, now: float) -> Noted:
        return _proposed(self._members.handle(event, now))

    def _seen(self, node_id: NodeId) -> Sequence[NodesSeen]:
        standing = self.find(node_id)
        if standing is None or standing.view is None:
            return ()
        return (NodesSeen(((standing.facts.incarnation, standing.view),)),)

    def _publish(self, node_ids: Sequence[NodeId], now: float) -> list[Any]:
        """Tell those who follow what has changed of some nodes."""
        if self._publisher is None:
            return []
        found = {node_id: self.find(node_id) for node_id in node_ids}
        changed = {node_id: standing for node_id, standing in found.items() if standing}
        return list(self._publisher.handle(TableChanged(changed), now))

    def _publish_death(self, node_id: NodeId, now: float) -> list[Any]:
        """Tell those who follow, also of who is forgotten for it."""
        if self._publisher is None:
            return []
        gone = [known for known in self._publisher.table() if self.find(known) is None]
        standing = self.find(node_id)
        changed = {node_id: standing} if standing else {}
        return list(self._publisher.handle(TableChanged(changed, tuple(gone)), now))

    # -------------------------------------------------------------- time

    @override
    def wake_at(self) -> float | None:
        """Return when somebody may have been silent for too long, or something can be published."""
        publisher = self._publisher
        times = (self._members.wake_at(), publisher.wake_at() if publisher is not None else None)
        return min((at for at in times if at is not None), default=None)

    @override
    def due(self, now: float) -> Noted:
        """Bury who was silent, and publish what has changed."""
        if self._publisher is None:
            return Noted()
        noted = self._noted(MembersTicked(), now)
        published = self._publisher.handle(PublisherTicked(), now)
        return Noted((*noted.events, *published), noted.commands)

    # -------------------------------------------------------------- questions

    def find(self, node_id: NodeId) -> MemberStanding | None:
        """Return what is known of a node: of its life, or of the last one that is remembered."""
        facts = self._members.find(node_id)
        if facts is None:
            return None
        said = self._said.get(node_id)
        if said is not None and facts.life == "draining":
            why = facts.cause or f"it is drained ({facts.reason})"
            said = msgspec.structs.replace(said, draining=why)
        return MemberStanding(facts, said)

    def all(self) -> list[MemberStanding]:
        """Return the members that live, then the dead that are remembered, oldest first."""
        living = [self.find(facts.node_id) for facts in self._members.living()]
        dead = [MemberStanding(facts) for facts in self._members.dead()]
        return [standing for standing in living if standing] + dead

    def heartbeat_s(self) -> float:
        """Return how far the heartbeats of a node are to be apart."""
        return self._members.heartbeat_s()

    def is_member(self, node_id: NodeId, incarnation: int) -> bool:
        """Tell whether what a node says with this incarnation counts."""
        return self._members.is_member(node_id, incarnation)

    def refusal(self, node_id: NodeId, incarnation: int) -> str:
        """Return why it does not count; empty: it does."""
        return self._members.refusal(node_id, incarnation)

    def drain_of(self, node_id: NodeId, now: float) -> TellDrain | None:
        """Return what a draining node is told: its deadline is counted from `now`."""
        return self._members.drain_of(node_id, now)

    # -------------------------------------------------------------- as a table

    @override
    def image(self) -> MembersState:
        """Return all members."""
        return self._members.state()

    @override
    def restore(self, image: MembersState) -> None:
        """Take the members of an image."""
        self._members = Members(self._silence_s)
        self._members.restore(image, 0.0)

    @override
    def check(self) -> None:
        """Assert what is always true."""
        self._members.check()
        living = {facts.node_id for facts in self._members.living()}
        assert self._said.keys() <= living, 2
        if self._publisher is not None:
            self._publisher.check()
            table = self._publisher.table()
            assert table.keys() == living | {f.node_id for f in self._members.dead()}, 1
            assert all(self.find(node_id) == standing for node_id, standing in table.items()), 1


def _proposed(effects: list[MemberEffect]) -> Noted:
    """Return what is to be told, and what is to be journaled first."""
    events: list[Any] = []
    commands: list[Any] = []
    for effect in effects:
        match effect:
            case Bury(node_id, incarnation, cause):
                commands.append(Buried(node_id, incarnation, cause))
            case StartDrain(event):
                commands.append(event)
            case _:
                events.append(effect)
    return Noted(tuple(events), tuple(commands))
