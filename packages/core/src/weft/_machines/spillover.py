"""Whether a demand waits on this node or is sent on to another: the decision of a node's daemon.

    DemandHeard -> QueueHere (leases.py grants it) ... GrantedHere -> BoundHere
                -> SendOn    (its client asks there, one hop further)
                -> parked    (no node can hold it, as far as is known here)  ... RefuseDemand

It stands before the queue of leases: what it queues here, leases.py grants as amounts come free;
what still waits is decided anew when the view of the nodes changes, and every `ANEW_S`. A client
that is sent on asks the other node itself, and counts the workers that it asked for there.

What is always true
1. Each worker that is wanted is in one place: queued here, granted here, parked, sent on or
   refused.
2. A demand is sent on `HOPS` times at once. From then on only after it has waited where it is,
   each time twice as long: in T seconds it makes HOPS + 1 + log2(1 + T / REST_S) hops at most, and
   none waits for ever beside an idle node.
3. Nothing is queued here that this node could never hold, or parked that it could.
4. A demand is refused only after no node known could hold it for `HOPELESS_S`, for the news of a
   node may be late; never while its placement group is on its way.
5. What was sent to a node counts there as in use for `DEBIT_S`, until the node itself has said so;
   else all demands of a moment would go to the same node.

A client that asks again before it has heard where it was sent may get more workers than it wants;
it returns them. The view of this node has to be what leases.py would grant, without what it keeps for others.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, TypeAlias, assert_never

import msgspec

from weft._ids import NodeId, PlacementGroupId
from weft._machines.nodes import Nodes
from weft._machines.placement import NodeView
from weft._machines.stock import NOTHING
from weft._resources import Resources
from weft._specs import Shape

if TYPE_CHECKING:
    from collections.abc import Iterable

HOPS = 2
REST_S = 1.0
HOPELESS_S = 0.5
ANEW_S = 0.1
# The node says what it granted within 0.1 s, and control passes it on within 0.1 s.
DEBIT_S = 0.3
# The rest is looked at with the next decision; nothing else is held up so long.
MOST_AT_ONCE = 256
DOUBLINGS = 30
"""The rest after a hop grows no further: it is decades."""

At: TypeAlias = tuple[bytes, int]
"""(client, key): whose demand it is."""


# ------------------------------------------------------------------ events


class DemandHeard(msgspec.Struct, frozen=True):
    """A client wants so many more workers of this node, or of who it names; replaces its last."""

    client: bytes
    key: int
    shape: Shape
    workers: int
    hops: int = 0
    """How many nodes have sent it on."""
    bytes_at: dict[NodeId, int] = {}
    """Where the arguments of its tasks are."""


class GrantedHere(msgspec.Struct, frozen=True):
    """One of the workers that wait here was granted."""

    client: bytes
    key: int


class BoundHere(msgspec.Struct, frozen=True):
    """One that was granted has its process: its client does not want it any more, it has it."""

    client: bytes
    key: int


class DemandsGone(msgspec.Struct, frozen=True):
    """A client has ended, or the queue of leases has refused it."""

    client: bytes
    key: int | None = None
    """None: all of its demands."""


class GroupEnded(msgspec.Struct, frozen=True):
    """A placement group was removed."""

    group: PlacementGroupId
    reason: str


class ViewsChanged(msgspec.Struct, frozen=True):
    """These nodes are so; those are gone. Told of this node, too, whenever its amounts change."""

    views: tuple[NodeView, ...]
    gone: tuple[NodeId, ...] = ()


class SpilloverTicked(msgspec.Struct, frozen=True):
    """`wake_at` has come."""


Event = (
    DemandHeard
    | GrantedHere
    | BoundHere
    | DemandsGone
    | GroupEnded
    | ViewsChanged
    | SpilloverTicked
)


# ------------------------------------------------------------------ effects


class QueueHere(msgspec.Struct, frozen=True):
    """Have so many workers in all queued or granted here for a demand, in place of what was."""

    client: bytes
    key: int
    shape: Shape
    workers: int


class SendOn(msgspec.Struct, frozen=True):
    """Tell the client to want so many of its workers of that node, and no more of this one."""

    client: bytes
    key: int
    shape: Shape
    workers: int
    node_id: NodeId
    hops: int
    """What it has to say there."""
    reason: str


class RefuseDemand(msgspec.Struct, frozen=True):
    """Tell the client that it will get no worker for this demand."""

    client: bytes
    key: int
    kind: str
    """unschedulable or placement_group."""
    reason: str


Effect = QueueHere | SendOn | RefuseDemand


# ------------------------------------------------------------------ state


class _DemandHere:
    """A demand, and where its workers are to come from."""

    __slots__ = (
        "at", "bytes_at", "granted", "hopeless_since", "hops", "parked", "queued", "rest_until",
        "shape", "since", "told", "waiting",
    )  # fmt: skip

    def __init__(self, event: DemandHeard, now: float) -> None:
        self.at: At = (event.client, event.key)
        self.shape = event.shape
        self.hops = event.hops
        self.bytes_at = event.bytes_at
        self.since = now
        self.waiting = 0
        """Workers that are neither granted nor sent on: queued here or parked."""
        self.granted = 0
        """Granted here, and without a process yet."""
        self.parked = False
        self.told = 0
        """What the queue of leases was last told."""
        self.rest_until = now
        self.hopeless_since: float | None = None
        self.rest(now)

    def rest(self, now: float) -> None:
        """Having come so far, wait before the next hop."""
        if self.hops >= HOPS:
            self.rest_until = now + REST_S * 2.0 ** min(self.hops - HOPS, DOUBLINGS)

    @property
    def here(self) -> int:
        """How many workers the queue of leases is to have."""
        return self.granted + (0 if self.parked else self.waiting)


class Spillover:
    """The demands that came to one node."""

    def __init__(self, local: NodeView) -> None:
        self._local = local.node_id
        self.nodes = Nodes()
        """As far as is known here: less of them is free than they said, by what was sent there."""
        self._said: dict[NodeId, NodeView] = {}
        self._debits: deque[tuple[float, NodeId, Resources]] = deque()
        """(until when, node, amounts) of what was sent on, in order of time."""
        self._debit_of: dict[NodeId, Resources] = {}
        """The sum of them."""
        self._wish_of: dict[At, _DemandHere] = {}
        self._anew_at = float("-inf")
        self._turn = 0
        self._see([local], ())

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event; return what to do, in order.

        For one demand: what it has to wait for here before what is sent on or refused.
        """
        effects: list[Effect] = []
        match event:
            case DemandHeard():
                self._heard(event, now, effects)
            case GrantedHere(client, key):
                self._granted(self._wish_of.get((client, key)))
            case BoundHere(client, key):
                self._bound(self._wish_of.get((client, key)))
            case DemandsGone(client, key):
                for at in [at for at in self._wish_of if at[0] == client and key in (None, at[1])]:
                    del self._wish_of[at]
            case GroupEnded(group, reason):
                self._group_ended(group, reason, effects)
            case ViewsChanged(views, gone):
                if self._see(views, gone):
                    self._decide_all(now, effects)
            case SpilloverTicked():
                if now >= self._anew_at:
                    self._decide_all(now, effects)
            case _:
                assert_never(event)
        return effects

    def wake_at(self) -> float | None:
        """Return when `SpilloverTicked` is due, in seconds; None: never."""
        return self._anew_at if any(wish.waiting for wish in self._wish_of.values()) else None

    # -------------------------------------------------------------- demands

    def _heard(self, event: DemandHeard, now: float, effects: list[Effect]) -> None:
        at = (event.client, event.key)
        old = self._wish_of.get(at)
        if event.workers <= 0:
            if old is not None:
                del self._wish_of[at]
                if old.told:
                    effects.append(QueueHere(*at, old.shape, 0))
            return
        wish = self._wish_of[at] = _DemandHere(event, now)
        if old is not None:
            wish.since, wish.told = old.since, old.told
            wish.hopeless_since = old.hopeless_since
            if event.hops <= old.hops:
                wish.hops, wish.rest_until = old.hops, old.rest_until
            wish.granted = min(old.granted, event.workers)
        wish.waiting = event.workers - wish.granted
        if self._anew_at < now:
            self._anew_at = now + ANEW_S
        self._decide(wish, now, effects)

    def _granted(self, wish: _DemandHere | None) -> None:
        if wish is not None and wish.waiting:
            wish.waiting -= 1
            wish.granted += 1

    def _bound(self, wish: _DemandHere | None) -> None:
        if wish is not None and wish.granted:
            wish.granted -= 1
            wish.told -= 1
            self._forget_if_done(wish)

    def _forget_if_done(self, wish: _DemandHere) -> None:
        if not wish.waiting and not wish.granted:
            del self._wish_of[wish.at]

    def _group_ended(self, group: PlacementGroupId, reason: str, effects: list[Effect]) -> None:
        named = f"group:{group.hex()}:"
        for wish in list(self._wish_of.values()):
            if wish.shape.strategy.startswith(named):
                self._refuse(wish, "placement_group", reason, effects)

    def _refuse(self, wish: _DemandHere, kind: str, reason: str, effects: list[Effect]) -> None:
        if wish.told > wish.granted:
            effects.append(QueueHere(*wish.at, wish.shape, wish.granted))
            wish.told = wish.granted
        effects.append(RefuseDemand(*wish.at, kind, reason))
        wish.waiting = 0
        self._forget_if_done(wish)

    # -------------------------------------------------------------- what is known of nodes

    def _see(self, views: Iterable[NodeView], gone: Iterable[NodeId]) -> bool:
        """Take what is said of nodes; return whether other nodes are among them."""
        others = False
        for view in views:
            is_local = view.node_id == self._local
            others = others or not is_local
            self._said[view.node_id] = msgspec.structs.replace(view, is_local=is_local)
            self._restate(view.node_id)
        for node_id in gone:
            others = True
            if self._said.pop(node_id, None) is not None:
                self.nodes.remove(node_id)
        return others

    def _restate(self, node_id: NodeId) -> None:
        """Count what was sent to a node against what it said last."""
        said = self._said[node_id]
        debit = self._debit_of.get(node_id)
        self.nodes.put(
            said if debit is None else msgspec.structs.replace(said, free=said.free - debit)
        )

    def _debit(self, node_id: NodeId, need: Resources, now: float) -> None:
        self.nodes.take(node_id, need)
        if need and node_id != self._local:
            self._debits.append((now + DEBIT_S, node_id, need))
            self._debit_of[node_id] = self._debit_of.get(node_id, NOTHING) + need

    def _forget_debits(self, now: float) -> None:
        ended: dict[NodeId, None] = {}
        while self._debits and self._debits[0][0] <= now:
            _, node_id, need = self._debits.popleft()
            self._debit_of[node_id] -= need
            if not self._debit_of[node_id]:
                del self._debit_of[node_id]
            ended[node_id] = None
        for node_id in ended.keys() & self._said.keys():
            self._restate(node_id)

    # -------------------------------------------------------------- decisions

    def _decide_all(self, now: float, effects: list[Effect]) -> None:
        """Decide anew what waits, the first come first."""
        self._anew_at = now + ANEW_S
        self._forget_debits(now)
        self._restate(self._local)
        for wish in [wish for wish in self._wish_of.values() if wish.waiting]:
            self._decide(wish, now, effects)

    def _decide(self, wish: _DemandHere, now: float, effects: list[Effect]) -> None:
        sent = self._place(wish, now)
        able = self.nodes.able(wish.shape)
        wish.parked = self._local not in able
        if wish.parked and able and now >= wish.rest_until:
            # They wait there, then, for none has it free.
            ring = sorted(able)
            for _ in range(wish.waiting):
                self._turn += 1
                sent[ring[self._turn % len(ring)]] += 1
            wish.waiting = 0
        if wish.here != wish.told:
            wish.told = wish.here
            effects.append(QueueHere(*wish.at, wish.shape, wish.told))
        reason = self.nodes.obstacle(wish.shape, self._local) or "another node is less in use"
        for node_id, workers in sent.items():
            hops = wish.hops + 1
            effects.append(SendOn(*wish.at, wish.shape, workers, node_id, hops, reason))
        if not able:
            self._see_if_hopeless(wish, now, effects)
        else:
            wish.hopeless_since = None
            self._forget_if_done(wish)

    def _place(self, wish: _DemandHere, now: float) -> Counter[NodeId]:
        """Find nodes for the workers that wait; return how many are sent where."""
        sent: Counter[NodeId] = Counter()
        need = Resources.of_units(dict(wish.shape.amounts))
        for _ in range(min(wish.waiting, MOST_AT_ONCE)):
            # Who was sent here has been told that it is free here.
            if wish.hops and self.nodes.has_free(wish.shape, self._local):
                node_id = self._local
            else:
                found = self.nodes.find(wish.shape, wish.bytes_at)
                if found is None:
                    break
                node_id = found.node_id
            if node_id != self._local:
                if now < wish.rest_until:
                    break
                sent[node_id] += 1
                wish.waiting -= 1
            self._debit(node_id, need, now)
        return sent

    def _see_if_hopeless(self, wish: _DemandHere, now: float, effects: list[Effect]) -> None:
        if not self.nodes.is_hopeless(wish.shape):
            wish.hopeless_since = None
        elif wish.hopeless_since is None:
            wish.hopeless_since = now
        elif now - wish.hopeless_since >= HOPELESS_S:
            self._refuse(wish, "unschedulable", self.nodes.why(wish.shape).text(), effects)

    # -------------------------------------------------------------- questions

    def waiting(self) -> list[tuple[bytes, int, Shape, int]]:
        """Return (client, key, shape, workers) of what waits here, queued or parked."""
        return [
            (*wish.at, wish.shape, wish.waiting) for wish in self._wish_of.values() if wish.waiting
        ]

    def explain(self, shape: Shape, now: float) -> str:
        """Say what demands of this shape wait for, in a few lines."""
        lines = []
        wishes = [wish for wish in self._wish_of.values() if wish.shape == shape and wish.waiting]
        if wishes:
            workers = sum(wish.waiting for wish in wishes)
            longest_s = max(now - wish.since for wish in wishes)
            lines.append(f"{workers} wait on this node, the longest for {longest_s:.1f} s")
            hops = max(wish.hops for wish in wishes)
            if hops:
                rest_s = max(0.0, *(wish.rest_until - now for wish in wishes))
                lines.append(f"sent on {hops} times, and not again for {rest_s:.1f} s")
        if self.nodes.find(shape) is None:
            lines.append(self.nodes.why(shape).text())
        return "\n".join(lines)

    def check(self) -> None:
        """Assert what is always true."""
        for wish in self._wish_of.values():
            assert wish.waiting + wish.granted > 0, 1
            assert wish.told == wish.here, 1
            assert wish.hops < HOPS or wish.rest_until > wish.since, 2
            assert not wish.parked or wish.told == wish.granted, 3
        for node_id, said in self._said.items():
            if node_id != self._local:
                debit = self._debit_of.get(node_id, NOTHING)
                assert self.nodes[node_id].free == said.free - debit, 5
