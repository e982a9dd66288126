"""Which nodes belong to the cluster, which are dead, and what number counts.

    RegisterAsked -> Welcomed --+--> alive -> draining --+--> dead (Buried)
                                |      |  (DrainStarted) |      ^
                                |      +--- silent ------+------+
                                +-- same node, before: dead

A node that registers gets an incarnation, greater than all before. It then says every 0.5 s that it
is there; less often where there are many nodes. Who is silent, was drained or has left is dead, in
two steps: the machine says `Bury`, the shell writes `Buried` to the journal and tells it here. So
what happened is what the journal says: what time has decided is never decided again.

What is always true
1. Incarnations grow, over all nodes and all lives of the control service.
2. A node is alive in one incarnation at most. What it says with another is answered `Fence`: it
   ends its workers and registers as a fresh node.
3. A node is buried for silence only after `silence_s` in which this process could have heard it;
   after `RELINK_S` if its link was closed. That time is counted in ticks, between which it reads
   what has come: one that is much too late counts no more than one in time. A control service that
   was restarted gives all nodes that time again. When more than `CROWD` nodes are late at once,
   each gets `CROWD_S` more for every late one: they may be alive and stand in a queue to be heard,
   as after a restart; and a closed link says nothing meanwhile. So who dies alone is as soon dead
   in a large cluster as in a small.
4. Every life ends in one NodeDied. An address has one node: who had it before is dead.
5. At most `MOST_NODES` are alive and the newest `DEAD_KEPT` dead are remembered; one that is
   forgotten is fenced like one that is remembered.
6. A draining node is given nothing new. It is buried when it says that it is empty, or at its
   deadline.

Journaled are the events in `JOURNALED`; replayed in order into a fresh machine, they make the same
members. `ControlStarted` comes after them. Times are of this process's monotonic clock: a clock on
the wall may jump as it likes. A deadline begins anew with a restart: the node keeps its own.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final, Literal, TypeAlias, assert_never

import msgspec

from weft._ids import NodeId

HEARTBEAT_S = 0.5
# Of many nodes each beats less often, so that all together beat no oftener than this, until ...
HEARTBEATS_PER_S = 1_000
# ... a node that is heard so seldom would soon be a silent one.
MOST_HEARTBEAT_S = 1.0
SILENCE_S = 5.0
# A daemon that lives links again at once; one that was killed has its links closed by its system.
RELINK_S = 2.0
# It ticks every HEARTBEAT_S. One that is later by more than this was kept from hearing, too.
TICK_S = 0.5
# Who has not been heard for so long is late: before RELINK_S is over.
LATE_S = 1.5
CROWD = 100
CROWD_S = 0.05
MOST_NODES = 10_000
DEAD_KEPT = 1_000

DrainReason: TypeAlias = Literal["idle", "preemption"]
Life: TypeAlias = Literal["alive", "draining", "dead"]


# ------------------------------------------------------------------ events


class RegisterAsked(msgspec.Struct, frozen=True):
    """A node wants to be a member. Repeated with the same `request`, it gets the same answer."""

    node_id: NodeId
    request: bytes
    address: str
    name: str = ""
    is_head: bool = False
    """The control service is there, or may be there next."""


class HeartbeatHeard(msgspec.Struct, frozen=True):
    """A node says that it is there."""

    node_id: NodeId
    incarnation: int


class LinkClosed(msgspec.Struct, frozen=True):
    """The connection to a node was closed; its daemon may be gone."""

    node_id: NodeId
    incarnation: int


class DrainAsked(msgspec.Struct, frozen=True):
    """Someone wants a node to be emptied. Idle: only if it has nothing to do."""

    node_id: NodeId
    reason: DrainReason
    message: str
    deadline_s: float
    """Seconds until it is gone; 0: whenever it is empty."""


class DrainStarted(msgspec.Struct, frozen=True):
    """The node takes nothing new: it has agreed, or was not asked."""

    node_id: NodeId
    incarnation: int
    reason: DrainReason
    message: str
    deadline_s: float


class NodeLeft(msgspec.Struct, frozen=True):
    """A node is empty, or its daemon ends in order."""

    node_id: NodeId
    incarnation: int
    cause: str


class Buried(msgspec.Struct, frozen=True):
    """`Bury` was journaled."""

    node_id: NodeId
    incarnation: int
    cause: str


class ControlStarted(msgspec.Struct, frozen=True):
    """The journal was replayed: from here on nodes are listened to."""


class MembersTicked(msgspec.Struct, frozen=True):
    """`wake_at` has come."""


MemberEvent = (
    RegisterAsked
    | HeartbeatHeard
    | LinkClosed
    | DrainAsked
    | DrainStarted
    | NodeLeft
    | Buried
    | ControlStarted
    | MembersTicked
)
JOURNALED: Final = (RegisterAsked, DrainStarted, Buried)


# ------------------------------------------------------------------ effects


class Welcomed(msgspec.Struct, frozen=True):
    """Answer a registration: the node is a member."""

    node_id: NodeId
    request: bytes
    incarnation: int


class Unwelcome(msgspec.Struct, frozen=True):
    """Answer a registration: the node is not taken."""

    node_id: NodeId
    request: bytes
    reason: str


class NodeJoined(msgspec.Struct, frozen=True):
    """Tell all who want to know: a node lives."""

    node_id: NodeId
    incarnation: int
    address: str
    name: str


class NodeDied(msgspec.Struct, frozen=True):
    """Tell all who want to know: a node is dead. What it has, has ended."""

    node_id: NodeId
    incarnation: int
    cause: str


class Fence(msgspec.Struct, frozen=True):
    """Tell a node that it is no member: it ends its workers and registers anew."""

    node_id: NodeId
    incarnation: int
    reason: str


class Bury(msgspec.Struct, frozen=True):
    """Journal that the node is dead, then say `Buried`."""

    node_id: NodeId
    incarnation: int
    cause: str


class AskDrain(msgspec.Struct, frozen=True):
    """Ask a node whether it is idle; if it is, journal `DrainStarted` and say it."""

    node_id: NodeId
    incarnation: int
    message: str
    deadline_s: float


class StartDrain(msgspec.Struct, frozen=True):
    """Journal `DrainStarted`, then say it."""

    event: DrainStarted


class TellDrain(msgspec.Struct, frozen=True):
    """Tell a node to move its last copies, to take nothing new, and to say when it is empty."""

    node_id: NodeId
    incarnation: int
    reason: DrainReason
    message: str
    deadline_s: float


class DrainRefused(msgspec.Struct, frozen=True):
    """Tell who asked for a drain that there is none."""

    node_id: NodeId
    reason: str


MemberEffect = (
    Welcomed
    | Unwelcome
    | NodeJoined
    | NodeDied
    | Fence
    | Bury
    | AskDrain
    | StartDrain
    | TellDrain
    | DrainRefused
)


# ------------------------------------------------------------------ state


class MemberFacts(msgspec.Struct, frozen=True):
    """A member as people see it, and as a snapshot of the journal keeps it."""

    node_id: NodeId
    incarnation: int
    request: bytes
    address: str
    name: str
    life: Life
    cause: str = ""
    """Why it is dead, or draining."""
    reason: DrainReason = "idle"
    deadline_s: float = 0.0
    is_head: bool = False


class MembersState(msgspec.Struct, frozen=True):
    """All that is journaled."""

    last_incarnation: int
    members: tuple[MemberFacts, ...]
    """The living, then the dead, oldest first."""


class _Living:
    __slots__ = ("deadline_at", "facts", "heard_at", "is_buried", "silent_at")

    def __init__(self, facts: MemberFacts, now: float) -> None:
        self.facts = facts
        self.heard_at = now
        self.silent_at = now
        """When it is buried if it says nothing more."""
        self.deadline_at = float("inf")
        self.is_buried = False
        """Bury was said."""


class Members:
    """The nodes of one cluster."""

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        self._last_incarnation = 0
        self._living: dict[NodeId, _Living] = {}
        self._node_at: dict[str, NodeId] = {}
        """The living, by their address."""
        self._dead: OrderedDict[tuple[NodeId, int], MemberFacts] = OrderedDict()
        self._last_of: dict[NodeId, MemberFacts] = {}
        """Of the dead: the last life of each node."""
        self._ticked_at: float | None = None
        """None: nodes are not listened to yet."""
        self._crowd_until = 0.0
        """When those will have been heard that were late together."""

    def handle(self, event: MemberEvent, now: float) -> list[MemberEffect]:
        """Take an event; return what to do, in order."""
        effects: list[MemberEffect] = []
        match event:
            case RegisterAsked():
                self._register(event, now, effects)
            case HeartbeatHeard(node_id, incarnation):
                self._heard(node_id, incarnation, now, effects)
            case LinkClosed(node_id, incarnation):
                living = self._in(node_id, incarnation)
                if living is not None and now >= self._crowd_until:
                    living.silent_at = min(living.silent_at, now + RELINK_S)
            case DrainAsked():
                self._drain_asked(event, effects)
            case DrainStarted():
                self._drain_started(event, now, effects)
            case NodeLeft(node_id, incarnation, cause):
                if living := self._in(node_id, incarnation):
                    self._bury(living, cause, effects)
            case Buried(node_id, incarnation, cause):
                if living := self._in(node_id, incarnation):
                    self._die(living, cause, effects)
            case ControlStarted():
                self._restart(now, effects)
            case MembersTicked():
                self._tick(now, effects)
            case _:
                assert_never(event)
        return effects

    def wake_at(self) -> float | None:
        """Return when `MembersTicked` is due, in seconds; None: never."""
        if self._ticked_at is None or not self._living:
            return None
        return self._ticked_at + HEARTBEAT_S

    # -------------------------------------------------------------- life

    def _register(self, event: RegisterAsked, now: float, effects: list[MemberEffect]) -> None:
        old = self._living.get(event.node_id)
        if old is not None and old.facts.request == event.request:
            effects.append(Welcomed(event.node_id, event.request, old.facts.incarnation))
            return
        if old is None and len(self._living) >= MOST_NODES:
            reason = f"the cluster has {MOST_NODES} nodes, which is the most it can have"
            effects.append(Unwelcome(event.node_id, event.request, reason))
            return
        if old is not None:
            self._die(old, "its daemon has started again", effects)
        other = self._node_at.get(event.address)
        if other is not None:
            self._die(self._living[other], f"node {event.node_id.hex()} has its address", effects)
        self._last_incarnation += 1
        facts = MemberFacts(
            event.node_id,
            self._last_incarnation,
            event.request,
            event.address,
            event.name,
            "alive",
            is_head=event.is_head,
        )
        self._live(facts, now)
        effects.append(Welcomed(event.node_id, event.request, facts.incarnation))
        effects.append(NodeJoined(event.node_id, facts.incarnation, event.address, event.name))

    def _live(self, facts: MemberFacts, now: float) -> None:
        if self._ticked_at is not None and not self._living:
            self._ticked_at = now  # There was nobody to tick for.
        living = self._living[facts.node_id] = _Living(facts, now)
        living.silent_at = now + self._silence_s
        self._node_at[facts.address] = facts.node_id

    def _heard(
        self, node_id: NodeId, incarnation: int, now: float, effects: list[MemberEffect]
    ) -> None:
        living = self._in(node_id, incarnation)
        if living is None:
            effects.append(Fence(node_id, incarnation, self.refusal(node_id, incarnation)))
        else:
            living.heard_at, living.silent_at = now, now + self._silence_s

    def _bury(self, living: _Living, cause: str, effects: list[MemberEffect]) -> None:
        if not living.is_buried:
            living.is_buried = True
            facts = living.facts
            effects.append(Bury(facts.node_id, facts.incarnation, cause))

    def _die(self, living: _Living, cause: str, effects: list[MemberEffect]) -> None:
        facts = msgspec.structs.replace(living.facts, life="dead", cause=cause)
        del self._living[facts.node_id]
        del self._node_at[facts.address]
        self._remember(facts)
        effects.append(NodeDied(facts.node_id, facts.incarnation, cause))

    def _remember(self, facts: MemberFacts) -> None:
        self._dead[facts.node_id, facts.incarnation] = facts
        self._last_of[facts.node_id] = facts
        if len(self._dead) > DEAD_KEPT:
            _, oldest = self._dead.popitem(last=False)
            if self._last_of[oldest.node_id] is oldest:
                del self._last_of[oldest.node_id]

    # -------------------------------------------------------------- drain

    def _drain_asked(self, event: DrainAsked, effects: list[MemberEffect]) -> None:
        living = self._living.get(event.node_id)
        if living is None:
            effects.append(DrainRefused(event.node_id, "it is no living member"))
            return
        incarnation = living.facts.incarnation
        if event.reason == "idle":
            effects.append(AskDrain(event.node_id, incarnation, event.message, event.deadline_s))
            return
        started = DrainStarted(
            event.node_id, incarnation, event.reason, event.message, event.deadline_s
        )
        effects.append(StartDrain(started))

    def _drain_started(self, event: DrainStarted, now: float, effects: list[MemberEffect]) -> None:
        living = self._in(event.node_id, event.incarnation)
        if living is None:
            effects.append(DrainRefused(event.node_id, "it is no living member"))
            return
        living.facts = msgspec.structs.replace(
            living.facts,
            life="draining",
            cause=event.message,
            reason=event.reason,
            deadline_s=event.deadline_s,
        )
        self._set_deadline(living, now)
        effects.append(self._tell_drain(living.facts))

    @staticmethod
    def _set_deadline(living: _Living, now: float) -> None:
        deadline_s = living.facts.deadline_s
        living.deadline_at = now + deadline_s if deadline_s > 0 else float("inf")

    @staticmethod
    def _tell_drain(facts: MemberFacts) -> TellDrain:
        return TellDrain(
            facts.node_id, facts.incarnation, facts.reason, facts.cause, facts.deadline_s
        )

    # -------------------------------------------------------------- time

    def _restart(self, now: float, effects: list[MemberEffect]) -> None:
        self._ticked_at = now
        self._expect(len(self._living), now)
        for living in self._living.values():
            living.is_buried = False
            living.heard_at, living.silent_at = now, now + self._silence_s
            if living.facts.life == "draining":
                self._set_deadline(living, now)
                effects.append(self._tell_drain(living.facts))

    def _tick(self, now: float, effects: list[MemberEffect]) -> None:
        assert self._ticked_at is not None, "time begins with ControlStarted"
        late_s = now - self._ticked_at - HEARTBEAT_S
        self._ticked_at = now
        if late_s > TICK_S:
            self._excuse(late_s)
        self._bear_with_crowd(now)
        for living in list(self._living.values()):
            if living.silent_at <= now:
                silent_s = now - living.heard_at
                self._bury(living, f"it was silent for {silent_s:.1f} s", effects)
            elif living.deadline_at <= now:
                facts = living.facts
                cause = f"drained ({facts.reason}: {facts.cause}), and its time was over"
                self._bury(living, cause, effects)

    def _excuse(self, late_s: float) -> None:
        """Count no time against nodes in which this process was busy, or stopped."""
        for living in self._living.values():
            living.silent_at += late_s
        self._crowd_until += late_s

    def _bear_with_crowd(self, now: float) -> None:
        late = [living for living in self._living.values() if now - living.heard_at >= LATE_S]
        if self._expect(len(late), now):
            patience_s = self._silence_s + CROWD_S * len(late)
            for living in late:
                living.silent_at = max(living.silent_at, living.heard_at + patience_s)

    def _expect(self, late: int, now: float) -> bool:
        """Tell whether so many that are late together are a crowd; if so expect it to be heard."""
        if late > CROWD:
            self._crowd_until = max(self._crowd_until, now + self._silence_s + CROWD_S * late)
        return late > CROWD

    def _in(self, node_id: NodeId, incarnation: int) -> _Living | None:
        """Return the node if it lives in this incarnation; news of another one is late."""
        living = self._living.get(node_id)
        return living if living and living.facts.incarnation == incarnation else None

    # -------------------------------------------------------------- questions

    def heartbeat_s(self) -> float:
        """Return how far the heartbeats of a node are to be apart; it changes in few steps."""
        wanted_s = math.ceil(10 * len(self._living) / HEARTBEATS_PER_S) / 10
        return min(max(HEARTBEAT_S, wanted_s), MOST_HEARTBEAT_S)

    def living(self) -> list[MemberFacts]:
        """Return the members that live, also the draining ones."""
        return [living.facts for living in self._living.values()]

    def dead(self) -> list[MemberFacts]:
        """Return those that are remembered, oldest first."""
        return list(self._dead.values())

    def find(self, node_id: NodeId) -> MemberFacts | None:
        """Return what is known of a node: of its life, or of the last one that is remembered."""
        living = self._living.get(node_id)
        return living.facts if living is not None else self._last_of.get(node_id)

    def drain_of(self, node_id: NodeId, now: float) -> TellDrain | None:
        """Return what a draining node is told: its deadline is counted from `now`."""
        living = self._living.get(node_id)
        if living is None or living.facts.life != "draining":
            return None
        left_s = 0.0
        if living.deadline_at < float("inf"):
            left_s = max(0.001, living.deadline_at - now)
        told = self._tell_drain(living.facts)
        return msgspec.structs.replace(told, deadline_s=left_s)

    def is_member(self, node_id: NodeId, incarnation: int) -> bool:
        """Tell whether what a node says with this incarnation counts."""
        return self._in(node_id, incarnation) is not None

    def refusal(self, node_id: NodeId, incarnation: int) -> str:
        """Return why what a node says with this incarnation does not count; empty: it does."""
        if self.is_member(node_id, incarnation):
            return ""
        dead = self._dead.get((node_id, incarnation))
        return f"it was declared dead: {dead.cause}" if dead else "it is no member"

    def explain(self, node_id: NodeId, now: float) -> str:
        """Say what is known of a node."""
        living = self._living.get(node_id)
        if living is not None:
            facts = living.facts
            text = f"{facts.life}, incarnation {facts.incarnation}"
            if facts.life == "draining":
                left = "when it is empty"
                if living.deadline_at < float("inf"):
                    left = f"{max(0.0, living.deadline_at - now):.1f} s left"
                text += f" ({facts.reason}: {facts.cause}; {left})"
            return f"{text}; last heard {max(0.0, now - living.heard_at):.1f} s ago"
        causes = [facts for facts in self._dead.values() if facts.node_id == node_id]
        if causes:
            return f"dead: {causes[-1].cause}; it was incarnation {causes[-1].incarnation}"
        return "no such node is known"

    # -------------------------------------------------------------- the journal

    def state(self) -> MembersState:
        """Return what a snapshot keeps."""
        members = (*self.living(), *self._dead.values())
        return MembersState(self._last_incarnation, members)

    def restore(self, state: MembersState, now: float) -> None:
        """Take what a snapshot has kept; the machine has to be fresh."""
        assert not self._last_incarnation, "a snapshot is taken by a machine that knows nothing"
        self._last_incarnation = state.last_incarnation
        for facts in state.members:
            if facts.life == "dead":
                self._remember(facts)
            else:
                self._live(facts, now)

    def check(self) -> None:
        """Assert what is always true."""
        numbers = [x.facts.incarnation for x in self._living.values()]
        numbers += [incarnation for _, incarnation in self._dead]
        assert len(set(numbers)) == len(numbers), 1
        assert max(numbers, default=0) <= self._last_incarnation, 1
        assert all(x.facts.node_id == node_id for node_id, x in self._living.items()), 2
        assert all(x.silent_at >= x.heard_at for x in self._living.values()), 3
        assert self._node_at == {x.facts.address: n for n, x in self._living.items()}, 4
        assert len(self._node_at) == len(self._living), 4
        assert all(x.facts.life != "dead" for x in self._living.values()), 4
        assert all(facts.life == "dead" for facts in self._dead.values()), 4
        assert len(self._living) <= MOST_NODES and len(self._dead) <= DEAD_KEPT, 5
        assert self._last_of == {facts.node_id: facts for facts in self._dead.values()}, 5
        for living in self._living.values():
            assert (living.deadline_at < float("inf")) <= (living.facts.life == "draining"), 6
