"""The placement groups of a cluster: their bundles are reserved together or not at all.

    pending -> preparing -> ready -> rescheduling -> preparing
       |           |          |           |
       +-----------+----------+-----------+-> removed

Preparing: every node that bundles go to is asked to reserve them (ReserveBundles); it may refuse,
for its own amounts count. When all have reserved, all are told to commit, and the group is ready:
none of them can refuse any more, and what a task is sent to waits there for that word. If one
refuses or dies, what was reserved for this attempt is released. Where one node has all that is
missing, it is asked to do both at once. reservations.py is the node's side.

What is always true
1. A bundle has one place at most: a node in one incarnation, and an attempt. What a node holds
   besides is released as soon as it says so.
2. A group that was never ready holds nothing while it waits: two groups do not wait for each other.
   One that was ready and lost a node keeps the rest of its bundles, where they are.
3. Ready: all bundles are committed, or will be, as their nodes are told. Preparing: all have a
   place. Removed: none has.
4. Nothing is planned on a node that is dead, or beyond what it has free (accounts.py); but for a
   group that has found no room for a while: that may wait for tasks to end, for a while again.
5. Who waits is tried in order: first those that lost bundles, then the first come (group_queue.py).
6. A node that has refused a group is not asked again before it has said that something has changed.
7. At most `MOST_GROUPS` are not removed, and the newest `REMOVED_KEPT` removed are remembered. Of a
   job that is over, of which the newest `OWNERS_KEPT` are remembered, none is created: what a node
   that was cut off has asked for before comes late.

What a node is told comes there in order, and its answers come back in order, or the node is gone,
or it resumes: then it says what it holds, and what was lost on the way is said again.

Journaled are GroupCreated, GroupRemoved and OwnerEnded. Where bundles are is what the nodes hold:
after a restart (RecoveryBegun) each node says it, or is gone, and then the groups are as they were.
Attempts of a new life of the control service are greater than those of all before.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, assert_never

import msgspec

from weft._ids import NodeId, PlacementGroupId
from weft._machines.accounts import Accounts
from weft._machines.bundle_plans import BundleSpec, GroupWish, Strategy, plan, why_never, why_not
from weft._machines.group_queue import GroupQueue, Waiting
from weft._machines.placement import NodeView
from weft._resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST_GROUPS = 100_000
REMOVED_KEPT = 1_000
OWNERS_KEPT = 10_000
# A group that finds no room for so long goes where tasks are, and waits for them to end.
PRESS_S = 1.0
MOST_PRESS_S = 60.0
GIVEN_UP = "the bundle of its placement group is not wanted on this node any more"

Stage: TypeAlias = Literal["asked", "reserved", "committed"]
GroupState: TypeAlias = Literal["pending", "preparing", "ready", "rescheduling", "removed"]


# ------------------------------------------------------------------ events


class GroupCreated(msgspec.Struct, frozen=True):
    """Someone wants a placement group."""

    group: PlacementGroupId
    bundles: tuple[BundleSpec, ...]
    strategy: Strategy
    owner: bytes = b""
    """The job with which it ends; empty: detached."""
    name: str = ""
    namespace: str = ""
    topology: str = ""
    """The label of which all its nodes have one value; empty: none."""


class GroupRemoved(msgspec.Struct, frozen=True):
    """Nobody needs a group any more."""

    group: PlacementGroupId
    reason: str


class OwnerEnded(msgspec.Struct, frozen=True):
    """A job is over."""

    owner: bytes


class BundlesReserved(msgspec.Struct, frozen=True):
    """A node has reserved what it was asked to."""

    node_id: NodeId
    incarnation: int
    group: PlacementGroupId
    attempt: int


class BundlesRefused(msgspec.Struct, frozen=True):
    """A node has reserved nothing of what it was asked to."""

    node_id: NodeId
    incarnation: int
    group: PlacementGroupId
    attempt: int
    reason: str


class BundlesCommitted(msgspec.Struct, frozen=True):
    """A node lets tasks into the bundles that it was to commit at once."""

    node_id: NodeId
    incarnation: int
    group: PlacementGroupId
    attempt: int


class NodesSeen(msgspec.Struct, frozen=True):
    """Living nodes, and what they say of themselves: (incarnation, view)."""

    views: tuple[tuple[int, NodeView], ...]


class NodeGone(msgspec.Struct, frozen=True):
    """A node is dead."""

    node_id: NodeId
    incarnation: int


class HeldBundles(msgspec.Struct, frozen=True):
    """What a node holds of a group from one attempt."""

    group: PlacementGroupId
    attempt: int
    indices: tuple[int, ...]
    is_committed: bool


class NodeResumed(msgspec.Struct, frozen=True):
    """A node is linked again after a break, or after a restart of the control service."""

    node_id: NodeId
    incarnation: int
    held: tuple[HeldBundles, ...]


class RecoveryBegun(msgspec.Struct, frozen=True):
    """The journal was replayed; each of these living nodes will resume or die."""

    nodes: frozenset[tuple[NodeId, int]]
    control: int
    """The number of this life of the control service: greater than all before."""


class BundlesTicked(msgspec.Struct, frozen=True):
    """`wake_at` has come."""


BundleEvent = (
    GroupCreated
    | GroupRemoved
    | OwnerEnded
    | BundlesReserved
    | BundlesRefused
    | BundlesCommitted
    | NodesSeen
    | NodeGone
    | NodeResumed
    | RecoveryBegun
    | BundlesTicked
)
JOURNALED: Final = (GroupCreated, GroupRemoved, OwnerEnded)


# ------------------------------------------------------------------ effects


class ReserveBundles(msgspec.Struct, frozen=True):
    """Ask a node to reserve these, all or none."""

    node_id: NodeId
    incarnation: int
    group: PlacementGroupId
    attempt: int
    bundles: dict[int, Resources]
    """By index."""
    size: int
    """How many bundles the group has."""
    owner: bytes = b""
    """The job that they count for; empty: none."""
    patience_s: float = 0.0
    """So long they may wait for tasks to end."""
    commits: bool = False
    """No other node has to reserve first: let tasks in at once."""


class CommitBundles(msgspec.Struct, frozen=True):
    """Tell a node to let tasks into what it has reserved."""

    node_id: NodeId
    incarnation: int
    group: PlacementGroupId
    attempt: int


class ReleaseBundles(msgspec.Struct, frozen=True):
    """Tell a node to end what runs in these bundles, and take their amounts back."""

    node_id: NodeId
    incarnation: int
    group: PlacementGroupId
    attempt: int
    reason: str


class TellGroup(msgspec.Struct, frozen=True):
    """Tell all who want to know in what state a group is."""

    group: PlacementGroupId
    state: GroupState
    places: dict[int, NodeId]
    """Of the bundles that are committed."""
    reason: str = ""


class RefuseGroup(msgspec.Struct, frozen=True):
    """Tell who created it that there is no such group."""

    group: PlacementGroupId
    reason: str
    code: Literal["exists", "invalid", "full"]


BundleEffect = ReserveBundles | CommitBundles | ReleaseBundles | TellGroup | RefuseGroup


# ------------------------------------------------------------------ state


class GroupFacts(msgspec.Struct, frozen=True):
    """A group as people see it."""

    created: GroupCreated
    state: GroupState
    places: dict[int, NodeId]
    reason: str
    """Why it was removed, or was last refused; empty otherwise."""


class BundlesState(msgspec.Struct, frozen=True):
    """All that is journaled."""

    groups: tuple[GroupCreated, ...]
    removed: tuple[tuple[GroupCreated, str], ...]
    over: tuple[bytes, ...] = ()
    """Owners that have ended, the oldest first."""


class _Part:
    """What one node holds of a group from one attempt: all of it has the same fate."""

    __slots__ = ("attempt", "incarnation", "indices", "is_alone", "node_id", "stage")

    def __init__(
        self, node_id: NodeId, incarnation: int, attempt: int, indices: tuple[int, ...]
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.attempt = attempt
        self.indices = indices
        self.stage: Stage = "asked"
        self.is_alone = False
        """No other node was asked in its attempt."""


class _PlacementGroup(Waiting):
    __slots__ = (
        "busy_at", "created", "has_patience", "is_recovering", "parts", "press_at", "press_s",
        "reason", "refused", "state", "was_ready",
    )  # fmt: skip

    def __init__(self, created: GroupCreated, arrival: int, now: float, press_s: float) -> None:
        super().__init__(arrival, now)
        self.created = created
        self.state: GroupState = "pending"
        self.parts: dict[tuple[NodeId, int], _Part] = {}
        """By node and attempt."""
        self.was_ready = False
        self.is_recovering = False
        self.refused: dict[NodeId, Resources] = {}
        """What nodes said to be free when they refused."""
        self.press_at = now + press_s
        """From then on it may go where tasks have to end first..."""
        self.press_s = press_s
        """...and wait there for so long."""
        self.has_patience = False
        """This attempt waits for tasks to end."""
        self.busy_at: set[NodeId] = set()
        """Nodes where others than tasks are in the way, or tasks have not ended in time."""
        self.reason = ""

    @property
    def id(self) -> PlacementGroupId:
        return self.created.group

    def held(self) -> dict[int, NodeId]:
        """Return where its bundles are, or are to be."""
        return {index: part.node_id for part in self.parts.values() for index in part.indices}

    def places(self) -> dict[int, NodeId]:
        """Return where its bundles are."""
        done = [part for part in self.parts.values() if part.stage == "committed"]
        return {index: part.node_id for part in done for index in sorted(part.indices)}


class Bundles:
    """The placement groups of one cluster."""

    def __init__(self, press_s: float = PRESS_S) -> None:
        """`press_s`: so long a group looks for room that is free before it waits for tasks."""
        self._press_s = press_s
        self._accounts = Accounts()
        self._attempts = 0
        self._group_of: dict[PlacementGroupId, _PlacementGroup] = {}
        self._removed: OrderedDict[PlacementGroupId, tuple[GroupCreated, str]] = OrderedDict()
        self._over: OrderedDict[bytes, None] = OrderedDict()
        """Owners that have ended."""
        self._group_by_name: dict[tuple[str, str], PlacementGroupId] = {}
        self._queue: GroupQueue[_PlacementGroup] = GroupQueue()
        self._arrivals = 0
        self._incarnation_of: dict[NodeId, int] = {}
        self._at: dict[NodeId, dict[PlacementGroupId, None]] = {}
        """Which groups have parts on a node."""
        self._awaited: frozenset[tuple[NodeId, int]] = frozenset()
        """Nodes that have not said yet what they hold since the restart."""

    def handle(self, event: BundleEvent, now: float) -> list[BundleEffect]:
        """Take an event; return what to do, in order."""
        effects: list[BundleEffect] = []
        match event:
            case GroupCreated():
                self._create(event, now, effects)
            case GroupRemoved(group_id, reason):
                group = self._group_of.get(group_id)
                self._remove([group] if group else [], reason, now, effects)
            case OwnerEnded(owner):
                self._end(owner)
                ended = [g for g in self._group_of.values() if g.created.owner == owner]
                self._remove(ended, "the job that created it is over", now, effects)
            case BundlesReserved() | BundlesCommitted() | BundlesRefused():
                self._answered(event, now, effects)
            case NodesSeen(views):
                self._see(views, now, effects)
            case NodeGone(node_id, incarnation):
                self._node_gone(node_id, incarnation, now, effects)
            case NodeResumed():
                self._resume(event, now, effects)
            case RecoveryBegun(nodes, control):
                self._awaited = nodes
                self._attempts = control << 32
                for group in self._group_of.values():
                    group.is_recovering = True
                    self._queue.drop(group)
                self._recover(list(self._group_of), effects)
            case BundlesTicked():
                self._round(now, effects)
            case _:
                assert_never(event)
        return effects

    def wake_at(self) -> float | None:
        """Return when `BundlesTicked` is due, in seconds; None: never."""
        return self._queue.wake_at()

    # -------------------------------------------------------------- groups

    def _create(self, event: GroupCreated, now: float, effects: list[BundleEffect]) -> None:
        known = self._group_of.get(event.group)
        if known is not None:
            effects.append(self._news(known))
            return
        name = (event.namespace, event.name)
        reason = ""
        code: Literal["exists", "invalid", "full"] = "exists"
        if event.group in self._removed:
            reason = f"it was removed: {self._removed[event.group][1]}"
        elif event.owner in self._over:
            reason = "the job that creates it is over"
        elif not event.bundles or not all(spec.amounts for spec in event.bundles):
            reason = "it needs at least one bundle, and each bundle an amount of something"
            code = "invalid"
        elif event.name and name in self._group_by_name:
            reason = (
                f"the name {event.name!r} is taken in namespace {event.namespace!r}: choose "
                "another, or remove that group"
            )
        elif len(self._group_of) >= MOST_GROUPS:
            reason = f"there are {MOST_GROUPS} placement groups, which is the most there can be"
            code = "full"
        if reason:
            effects.append(RefuseGroup(event.group, reason, code))
            return
        group = self._add(event, now)
        effects.append(self._news(group))
        self._queue.put(group)
        self._round(now, effects, only=group)

    def _add(self, event: GroupCreated, now: float) -> _PlacementGroup:
        self._arrivals += 1
        group = self._group_of[event.group] = _PlacementGroup(
            event, self._arrivals, now, self._press_s
        )
        if event.name:
            self._group_by_name[event.namespace, event.name] = event.group
        return group

    def _remove(
        self,
        groups: list[_PlacementGroup],
        reason: str,
        now: float,
        effects: list[BundleEffect],
    ) -> None:
        leave_room = any(group.parts for group in groups)
        for group in groups:
            self._remove_one(group, reason, effects)
        if leave_room:
            self._round(now, effects)

    def _remove_one(self, group: _PlacementGroup, reason: str, effects: list[BundleEffect]) -> None:
        self._queue.drop(group)
        for part in list(group.parts.values()):
            self._release(group, part, f"its placement group was removed: {reason}", effects)
        group.state = "removed"
        del self._group_of[group.id]
        if group.created.name:
            del self._group_by_name[group.created.namespace, group.created.name]
        self._remember(group.created, reason)
        effects.append(TellGroup(group.id, "removed", {}, reason))

    def _end(self, owner: bytes) -> None:
        self._over[owner] = None
        if len(self._over) > OWNERS_KEPT:
            self._over.popitem(last=False)

    def _remember(self, created: GroupCreated, reason: str) -> None:
        self._removed[created.group] = (created, reason)
        if len(self._removed) > REMOVED_KEPT:
            self._removed.popitem(last=False)

    @staticmethod
    def _news(group: _PlacementGroup) -> TellGroup:
        return TellGroup(group.id, group.state, group.places(), group.reason)

    # -------------------------------------------------------------- places

    def _round(
        self, now: float, effects: list[BundleEffect], only: _PlacementGroup | None = None
    ) -> None:
        """Try to place those that wait, or one of them."""

        def place(group: _PlacementGroup) -> bool:
            found = plan(self._wanted(group), self._accounts.nodes)
            group.has_patience = False
            if found is None and group.press_at <= now:
                found = self._press(group, now)
            if found is not None:
                self._prepare(group, found, effects)
            return found is not None

        self._queue.round(now, place, self._ideal, self._accounts.nodes, only)

    def _press(self, group: _PlacementGroup, now: float) -> dict[int, NodeId] | None:
        """Return where a group could go once tasks have ended; None: nowhere, for a while."""
        nodes = self._accounts.once_tasks_ended(group.busy_at)
        wish = msgspec.structs.replace(self._wanted(group), refused_by=frozenset())
        found = plan(wish, nodes)
        group.has_patience = found is not None
        if found is None:
            self._let_be(group, now)
        return found

    @staticmethod
    def _let_be(group: _PlacementGroup, now: float) -> None:
        """Let tasks run for as long as it was willing to wait for them; twice that, next time."""
        group.press_at = now + group.press_s
        group.press_s = min(2 * group.press_s, MOST_PRESS_S)
        group.busy_at.clear()

    def _wanted(self, group: _PlacementGroup) -> GroupWish:
        free = self._accounts.said_free
        group.refused = {at: was for at, was in group.refused.items() if free(at) == was}
        held = group.held()
        specs = enumerate(group.created.bundles)
        missing = {index: spec for index, spec in specs if index not in held}
        created, refused = group.created, frozenset(group.refused)
        return GroupWish(created.strategy, missing, held, refused, created.topology)

    def _ideal(self, group: _PlacementGroup) -> list[tuple[NodeId, Resources]] | None:
        """Return where a group would go if all others ended; None: it would not fit."""
        others = (
            (part.node_id, self._planned(other, part, index), amounts)
            for other in self._group_of.values()
            if other is not group
            for part in other.parts.values()
            for index, amounts in self._amounts(other, part).items()
        )
        found = plan(self._wanted(group), self._accounts.without(others))
        if found is None:
            return None
        bundles = group.created.bundles
        return [(node_id, bundles[index].amounts) for index, node_id in found.items()]

    def _prepare(
        self, group: _PlacementGroup, node_of: Mapping[int, NodeId], effects: list[BundleEffect]
    ) -> None:
        self._queue.drop(group)
        group.state = "preparing"
        self._attempts += 1
        indices_at: dict[NodeId, list[int]] = {}
        for index, node_id in sorted(node_of.items()):
            indices_at.setdefault(node_id, []).append(index)
        for node_id, indices in indices_at.items():
            part = _Part(node_id, self._incarnation_of[node_id], self._attempts, tuple(indices))
            part.is_alone = len(indices_at) == 1
            self._adopt(group, part)
            effects.append(self._ask(group, part))

    def _adopt(self, group: _PlacementGroup, part: _Part) -> None:
        group.parts[part.node_id, part.attempt] = part
        self._at.setdefault(part.node_id, {})[group.id] = None
        for index, amounts in self._amounts(group, part).items():
            self._accounts.plan(part.node_id, self._planned(group, part, index), amounts)

    def _ask(self, group: _PlacementGroup, part: _Part) -> ReserveBundles:
        return ReserveBundles(
            part.node_id,
            part.incarnation,
            group.id,
            part.attempt,
            self._amounts(group, part),
            len(group.created.bundles),
            group.created.owner,
            group.press_s if group.has_patience else 0.0,
            part.is_alone,
        )

    @staticmethod
    def _amounts(group: _PlacementGroup, part: _Part) -> dict[int, Resources]:
        return {index: group.created.bundles[index].amounts for index in part.indices}

    @staticmethod
    def _planned(
        group: _PlacementGroup, part: _Part, index: int
    ) -> tuple[PlacementGroupId, int, int]:
        return group.id, index, part.attempt

    def _release(
        self, group: _PlacementGroup, part: _Part, reason: str, effects: list[BundleEffect]
    ) -> None:
        self._lose(group, part)
        effects.append(
            ReleaseBundles(part.node_id, part.incarnation, group.id, part.attempt, reason)
        )

    def _lose(self, group: _PlacementGroup, part: _Part) -> None:
        del group.parts[part.node_id, part.attempt]
        if all(other.node_id != part.node_id for other in group.parts.values()):
            at = self._at[part.node_id]
            del at[group.id]
            if not at:
                del self._at[part.node_id]
        for index in part.indices:
            self._accounts.release(part.node_id, self._planned(group, part, index))

    # -------------------------------------------------------------- answers

    def _answered(
        self,
        event: BundlesReserved | BundlesCommitted | BundlesRefused,
        now: float,
        effects: list[BundleEffect],
    ) -> None:
        group = self._group_of.get(event.group)
        part = group.parts.get((event.node_id, event.attempt)) if group else None
        if group is None or part is None or part.incarnation != event.incarnation:
            return  # of an attempt that was given up
        match event:
            case BundlesReserved():
                part.stage = "reserved" if part.stage == "asked" else part.stage
            case BundlesCommitted():
                part.stage = "committed"
            case BundlesRefused(node_id, reason=reason):
                self._lose(group, part)
                group.refused[node_id] = self._accounts.said_free(node_id)
                if group.has_patience:
                    group.busy_at.add(node_id)
                group.reason = f"node {node_id.hex()} has refused it: {reason}"
                self._give_up(group, effects)
                self._round(now, effects, only=group)
                return
            case _:
                assert_never(event)
        self._advance(group, effects)

    def _advance(self, group: _PlacementGroup, effects: list[BundleEffect]) -> None:
        """Commit when all is reserved; then it is ready."""
        parts = group.parts.values()
        if group.is_recovering or len(group.held()) < len(group.created.bundles):
            return
        if any(part.stage == "asked" for part in parts):
            return
        for part in parts:
            if part.stage == "reserved":
                part.stage = "committed"
                effects.append(self._commit(group, part))
        if group.state != "ready":
            group.state, group.was_ready, group.reason = "ready", True, ""
            group.refused.clear()
            effects.append(self._news(group))

    @staticmethod
    def _commit(group: _PlacementGroup, part: _Part) -> CommitBundles:
        return CommitBundles(part.node_id, part.incarnation, group.id, part.attempt)

    def _give_up(self, group: _PlacementGroup, effects: list[BundleEffect]) -> None:
        """End an attempt: release what it has reserved, and wait again."""
        for part in list(group.parts.values()):
            if part.stage != "committed" or not group.was_ready:
                self._release(group, part, GIVEN_UP, effects)
        group.state = "rescheduling" if group.was_ready else "pending"
        self._queue.put(group, is_first=group.was_ready)

    # -------------------------------------------------------------- nodes

    def _see(
        self,
        views: Iterable[tuple[int, NodeView]],
        now: float,
        effects: list[BundleEffect],
    ) -> None:
        for incarnation, view in views:
            # What comes from before its death is late.
            if incarnation >= self._incarnation_of.setdefault(view.node_id, incarnation):
                assert incarnation == self._incarnation_of[view.node_id], "its death comes first"
                self._accounts.see(view)
        self._round(now, effects)

    def _node_gone(
        self, node_id: NodeId, incarnation: int, now: float, effects: list[BundleEffect]
    ) -> None:
        if self._incarnation_of.get(node_id, incarnation) == incarnation:
            self._incarnation_of.pop(node_id, None)
            self._accounts.forget(node_id)
        touched = list(self._at.get(node_id, ()))
        for group_id in touched:
            group = self._group_of[group_id]
            at = (node_id, incarnation)
            lost = [p for p in group.parts.values() if (p.node_id, p.incarnation) == at]
            self._lost(group, lost, f"node {node_id.hex()} died", effects)
        self._heard_of(node_id, incarnation, touched, effects)
        self._round(now, effects)

    def _lost(
        self, group: _PlacementGroup, lost: Iterable[_Part], why: str, effects: list[BundleEffect]
    ) -> None:
        lost = list(lost)
        for part in lost:
            self._lose(group, part)
        if not lost or group.is_recovering:
            return
        group.reason = why
        if group.state == "preparing":
            self._give_up(group, effects)
        elif group.state == "ready":
            group.state = "rescheduling"
            self._queue.put(group, is_first=True)
            effects.append(self._news(group))

    # -------------------------------------------------------------- breaks and restarts

    def _resume(self, event: NodeResumed, now: float, effects: list[BundleEffect]) -> None:
        node_id, incarnation = event.node_id, event.incarnation
        self._incarnation_of[node_id] = incarnation
        held = {(each.group, each.attempt): each for each in event.held}
        touched = list(self._at.get(node_id, ()))
        for group_id in touched:
            group = self._group_of[group_id]
            for part in [p for p in group.parts.values() if p.node_id == node_id]:
                if (node_id, part.attempt) in group.parts:
                    self._compare(group, part, held.pop((group_id, part.attempt), None), effects)
            self._advance(group, effects)
        for each in held.values():
            self._offered(node_id, incarnation, each, effects)
        self._heard_of(node_id, incarnation, list(self._at.get(node_id, ())), effects)
        self._round(now, effects)

    def _compare(
        self,
        group: _PlacementGroup,
        part: _Part,
        held: HeldBundles | None,
        effects: list[BundleEffect],
    ) -> None:
        """Say again what was lost on the way to a node, and hear what was lost on the way back."""
        if held is None:
            if part.stage == "asked":
                effects.append(self._ask(group, part))
            else:
                self._lost(group, [part], f"node {part.node_id.hex()} lost it", effects)
        elif held.is_committed:
            part.stage = "committed"
        elif part.stage == "asked":
            part.stage = "reserved"
        elif part.stage == "committed":
            effects.append(self._commit(group, part))

    def _offered(
        self, node_id: NodeId, incarnation: int, held: HeldBundles, effects: list[BundleEffect]
    ) -> None:
        """Take what a node holds from before the restart, if it is wanted; else release it."""
        group = self._group_of.get(held.group)
        part = _Part(node_id, incarnation, held.attempt, held.indices)
        part.stage = "committed" if held.is_committed else "reserved"
        size = len(group.created.bundles) if group is not None else 0
        if group is not None and group.is_recovering and all(i < size for i in part.indices):
            rivals = [p for p in group.parts.values() if {*p.indices} & {*part.indices}]
            if all(_weight(part) > _weight(rival) for rival in rivals):
                for rival in rivals:
                    self._release(group, rival, GIVEN_UP, effects)
                self._adopt(group, part)
                return
        effects.append(ReleaseBundles(node_id, incarnation, held.group, held.attempt, GIVEN_UP))

    def _heard_of(
        self,
        node_id: NodeId,
        incarnation: int,
        touched: list[PlacementGroupId],
        effects: list[BundleEffect],
    ) -> None:
        """After a restart: it is known what a node holds."""
        if (node_id, incarnation) in self._awaited:
            self._awaited -= {(node_id, incarnation)}
            self._recover(touched if self._awaited else list(self._group_of), effects)

    def _recover(self, group_ids: list[PlacementGroupId], effects: list[BundleEffect]) -> None:
        """Go on with those groups of which all is known that can be known."""
        for group in [self._group_of[group_id] for group_id in group_ids]:
            size = len(group.created.bundles)
            is_whole = len(group.held()) == size
            # What is only reserved may be committed on a node that has not spoken yet.
            if not group.is_recovering or (self._awaited and len(group.places()) < size):
                continue
            group.is_recovering = False
            group.was_ready = any(part.stage == "committed" for part in group.parts.values())
            group.state = "preparing"
            if is_whole:
                self._advance(group, effects)
            else:
                self._give_up(group, effects)
                effects.append(self._news(group))

    # -------------------------------------------------------------- questions

    def facts(self, group_id: PlacementGroupId) -> GroupFacts | None:
        """Return what is known of a group; None: nothing."""
        group = self._group_of.get(group_id)
        if group is not None:
            return GroupFacts(group.created, group.state, group.places(), group.reason)
        removed = self._removed.get(group_id)
        return GroupFacts(removed[0], "removed", {}, removed[1]) if removed else None

    def groups(self) -> list[PlacementGroupId]:
        """Return the groups that are not removed, in the order of their creation."""
        return list(self._group_of)

    def removed(self) -> list[PlacementGroupId]:
        """Return the removed groups that are remembered, the oldest first."""
        return list(self._removed)

    def find(self, name: str, namespace: str) -> PlacementGroupId | None:
        """Return the group of this name."""
        return self._group_by_name.get((namespace, name))

    def why_never(self, created: GroupCreated) -> str:
        """Say why a group has no place on these nodes even when nothing runs; empty if it has."""
        bundles = dict(enumerate(created.bundles))
        wish = GroupWish(created.strategy, bundles, topology=created.topology)
        return why_never(wish, self._accounts.nodes)

    def explain(self, group_id: PlacementGroupId, now: float) -> str:
        """Say in what state a group is, and what it waits for, in numbers."""
        group = self._group_of.get(group_id)
        if group is None:
            removed = self._removed.get(group_id)
            return f"removed: {removed[1]}" if removed else "no such placement group is known"
        if group.is_recovering:
            return f"{len(self._awaited)} nodes have not said yet what they hold of it"
        if group.state == "ready":
            return "ready"
        if group.state == "preparing":
            waits = sum(part.stage == "asked" for part in group.parts.values())
            return f"preparing: {waits} nodes have not answered yet"
        lines = [f"{group.state} for {now - group.since:.1f} s"]
        if group.reason:
            lines.append(group.reason)
        wanted, nodes = self._wanted(group), self._accounts.nodes
        lines.append(why_not(wanted, nodes) or self._queue.explain(group, now))
        if why_never(wanted, nodes):
            lines.append("it would not fit if all of every node were free")
        return "\n".join(lines)

    # -------------------------------------------------------------- the journal

    def state(self) -> BundlesState:
        """Return what a snapshot keeps."""
        groups = tuple(group.created for group in self._group_of.values())
        return BundlesState(groups, tuple(self._removed.values()), tuple(self._over))

    def restore(self, state: BundlesState, now: float) -> None:
        """Take what a snapshot has kept; the machine has to be fresh. `RecoveryBegun` follows."""
        for created in state.groups:
            self._queue.put(self._add(created, now))
        for created, reason in state.removed:
            self._remember(created, reason)
        self._over.update(dict.fromkeys(state.over))

    def check(self) -> None:
        """Assert what is always true."""
        self._accounts.check()
        self._queue.check()
        planned: dict[Any, Resources] = {}
        for group in self._group_of.values():
            parts = group.parts.values()
            indices = [index for part in parts for index in part.indices]
            size = len(group.created.bundles)
            assert len(set(indices)) == len(indices) <= size, 1
            assert all(group.id in self._at[part.node_id] for part in parts), 1
            waits = not group.is_recovering and group.state in ("pending", "rescheduling")
            assert (group in self._queue) is waits, 3
            if waits:
                assert all(part.stage == "committed" for part in parts), 2
                assert group.was_ready or not parts, 2
            if group.state == "ready":
                assert all(p.stage == "committed" for p in parts) and len(indices) == size, 3
            if group.state == "preparing" and not group.is_recovering:
                assert len(indices) == size, 3
            for part in parts:
                assert self._incarnation_of.get(part.node_id) == part.incarnation, 4
                for index, amounts in self._amounts(group, part).items():
                    planned[part.node_id, self._planned(group, part, index)] = amounts
        assert self._accounts.planned() == planned, 4
        assert all(groups.keys() <= self._group_of.keys() for groups in self._at.values()), 3
        assert len(self._group_of) <= MOST_GROUPS and len(self._removed) <= REMOVED_KEPT, 7


def removed_in_words(group: PlacementGroupId, reason: str) -> str:
    """Say that a group is not there any more."""
    return f"placement group {group.hex()} was removed: {reason}"


def _weight(part: _Part) -> tuple[bool, int]:
    """Of two that hold the same bundle, what was committed counts, then what came later."""
    return part.stage == "committed", part.attempt
