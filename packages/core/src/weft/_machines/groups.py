"""The placement groups of a cluster: the machine of bundles.py, made a table of control.

    GroupCreated, GroupRemoved          -> bundles.py -> TellGroup
    JobEnded: its groups end
    NodesSeen, NodeResumed, reports     -> bundles.py -> ReserveBundles ...: what nodes are told

What is always true
1. Of bundles.py only what it journals is part of the image; where bundles are is what nodes hold.
2. What nodes say is noted only of members: who calls `note` looks. Their deaths are heard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from weft._ids import NodeId
from weft._machines.bundles import (
    BundleEvent,
    Bundles,
    BundlesCommitted,
    BundlesRefused,
    BundlesReserved,
    BundlesState,
    BundlesTicked,
    GroupCreated,
    GroupRemoved,
    NodeGone,
    NodeResumed,
    NodesSeen,
    OwnerEnded,
    RecoveryBegun,
    RefuseGroup,
)
from weft._machines.jobs import JobEnded
from weft._machines.rulings import Ruling
from weft._machines.tables import (
    Commands,
    Consequence,
    ControlTable,
    Kinds,
    MemberAdded,
    MemberRemoved,
    Noted,
    ServiceBegun,
)
from weft._override import override

if TYPE_CHECKING:
    from weft._ids import PlacementGroupId
    from weft._machines.bundles import GroupFacts

REPORTS = (NodesSeen, NodeResumed, BundlesReserved, BundlesRefused, BundlesCommitted)


class GroupsImage(msgspec.Struct, frozen=True):
    """All that is journaled."""

    bundles: BundlesState
    members: list[tuple[bytes, int]]


class Groups(ControlTable):
    """The table of placement groups."""

    name: ClassVar = "groups"
    commands: ClassVar[Commands] = {"create": GroupCreated, "remove": GroupRemoved}
    hears: ClassVar[Kinds] = (JobEnded, MemberAdded, MemberRemoved, NodesSeen)
    notes: ClassVar[Kinds] = (ServiceBegun, *REPORTS)
    image_type: ClassVar = GroupsImage

    def __init__(self) -> None:
        self._bundles = Bundles()
        self._members: dict[bytes, int] = {}
        """Their incarnations."""

    @override
    def apply(self, happened: Any, now: float) -> Consequence:
        """Do a command, or hear of a job, a member, or what a node has."""
        match happened:
            case JobEnded(job):
                return self._do(OwnerEnded(job), now)
            case MemberAdded(node, incarnation):
                self._members[node] = incarnation
                return Consequence()
            case MemberRemoved(node, incarnation):
                self._members.pop(node, None)
                return self._do(NodeGone(NodeId(node), incarnation), now)
            case _:
                return self._do(happened, now)

    def _do(self, event: BundleEvent, now: float) -> Consequence:
        effects = self._bundles.handle(event, now)
        refused = next((each for each in effects if isinstance(each, RefuseGroup)), None)
        if refused is None:
            return Consequence(events=tuple(effects))
        reason = f"placement group {refused.group.hex()}: {refused.reason}"
        return Consequence(Ruling(code=refused.code, reason=reason))

    @override
    def note(self, happened: Any, now: float) -> Noted:
        """Hear what nodes say of bundles."""
        if isinstance(happened, ServiceBegun):
            nodes = frozenset((NodeId(node), number) for node, number in self._members.items())
            happened = RecoveryBegun(nodes, happened.number)
        return Noted(tuple(self._bundles.handle(happened, now)))

    @override
    def wake_at(self) -> float | None:
        """Return when groups that wait are tried again."""
        return self._bundles.wake_at()

    @override
    def due(self, now: float) -> Noted:
        """Try those that wait."""
        at = self._bundles.wake_at()
        return self.note(BundlesTicked(), now) if at is not None and at <= now else Noted()

    # -------------------------------------------------------------- questions

    def facts(self, group: PlacementGroupId) -> GroupFacts | None:
        """Return what is known of a group; None: nothing."""
        return self._bundles.facts(group)

    def is_member(self, node: bytes, incarnation: int) -> bool:
        """Tell whether what a node says counts."""
        return self._members.get(node) == incarnation

    def groups(self) -> list[PlacementGroupId]:
        """Return the groups that are remembered: those not removed, then the others."""
        return [*self._bundles.groups(), *self._bundles.removed()]

    def named(self, name: str, namespace: str) -> PlacementGroupId | None:
        """Return the group of this name."""
        return self._bundles.find(name, namespace)

    def explain(self, group: PlacementGroupId, now: float) -> str:
        """Say in what state a group is, and what it waits for, in numbers."""
        return self._bundles.explain(group, now)

    # -------------------------------------------------------------- as a table

    @override
    def image(self) -> GroupsImage:
        """Return all groups."""
        return GroupsImage(self._bundles.state(), list(self._members.items()))

    @override
    def restore(self, image: GroupsImage) -> None:
        """Take the groups of an image."""
        self._bundles = Bundles()
        self._bundles.restore(image.bundles, 0.0)
        self._members = dict(image.members)

    @override
    def check(self) -> None:
        """Assert what is always true."""
        self._bundles.check()
