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
   none waits for ever beside an idle node. One that spreads looks elsewhere no sooner than it has
   waited for `DEAL_REST_S` where its turn has brought it.
3. Nothing is queued here that this node could never hold, or parked that it could.
4. A demand is refused only after no node known could hold it for `HOPELESS_S`, for the news of a
   node may be late; never while its placement group is on its way.
5. What was sent to a node counts there as in use for `DEBIT_S`, until the node itself has said so;
   else all demands of a moment would go to the same node.

Demands that spread are dealt out, to one node after the other, whether they have it free or not:
what is known here of others is late, and short tasks leave a node free again before that is heard.
Where it is not free a demand waits, and then is sent on.

A client that asks again before it has heard where it was sent may get more workers than it wants;
it returns them. What is said of this node has to be what leases.py would grant, without what it
keeps for others. Which of a group's bundles here takes what is queued for any of them is not
decided here.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, TypeAlias, assert_never

import msgspec

from weft._ids import NodeId, PlacementGroupId
from weft._machines.nodes import Nodes
from weft._machines.placement import ANY, NodeView, Placed, group_of
from weft._machines.stock import NOTHING
from weft._resources import Resources
from weft._specs import Shape

if TYPE_CHECKING:
    from collections.abc import Iterable

HOPS = 2
REST_S = 1.0
# Longer than views of other nodes are late: who is busy there then has been so for a while.
DEAL_REST_S = 0.3
HOPELESS_S = 0.5
ANEW_S = 0.1
# The node says what it granted within 0.1 s, and control passes it on within 0.1 s.
DEBIT_S = 0.3
# The rest is looked at with the next decision; nothing else is held up so long.
MOST_AT_ONCE = 256
DOUBLINGS = 30
"""The rest after a hop grows no further: it is decades."""

Debit: TypeAlias = dict[tuple[PlacementGroupId | None, int], Resources]
"""By placement group and bundle, or (None, ANY): of what the node has besides."""
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
    """These nodes are so, and those are gone; what is said of this node is not looked at."""

    views: tuple[NodeView, ...]
    gone: tuple[NodeId, ...] = ()


class LocalChanged(msgspec.Struct, frozen=True):
    """This node is so."""

    view: NodeView


class SpilloverTicked(msgspec.Struct, frozen=True):
    """`wake_at` has come."""


Event = (
    DemandHeard
    | GrantedHere
    | BoundHere
    | DemandsGone
    | GroupEnded
    | ViewsChanged
    | LocalChanged
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
        "at", "bytes_at", "dealt", "granted", "group", "hopeless_since", "hops", "need", "parked",
        "rest_until", "shape", "since", "spreads", "told", "waiting",
    )  # fmt: skip

    def __init__(self, event: DemandHeard, now: float) -> None:
        self.at: At = (event.client, event.key)
        self.shape = event.shape
        self.need = Resources.of_units(dict(event.shape.amounts))
        self.group = group_of(event.shape)
        self.hops = event.hops
        self.bytes_at = event.bytes_at
        self.spreads = event.shape.strategy == "SPREAD"
        self.dealt = 0
        """Of those that wait, so many have had their turn: it was this node's."""
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
        elif self.spreads:
            self.rest_until = now + DEAL_REST_S

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
        self._debits: deque[tuple[float, Placed, _DemandHere]] = deque()
        """(until when, where to, for what) of what was sent on, in order of time."""
        self._debit_of: dict[NodeId, Debit] = {}
        """The sum of them."""
        self._wish_of: dict[At, _DemandHere] = {}
        self._anew_at = float("-inf")
        self._turn = 0
        self._see_local(local)

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
                self._see(views, gone)
                self._decide_all(now, effects)
            case LocalChanged(view):
                self._see_local(view)
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
                wish.rest_until = old.rest_until
            wish.granted = min(old.granted, event.workers)
            wish.dealt = old.dealt
        wish.waiting = event.workers - wish.granted
        if self._anew_at < now:
            self._anew_at = now + ANEW_S
        self._forget_debits(now)
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
        for wish in list(self._wish_of.values()):
            if wish.group == group:
                self._refuse(wish, "placement_group", reason, effects)

    def _refuse(self, wish: _DemandHere, kind: str, reason: str, effects: list[Effect]) -> None:
        if wish.told > wish.granted:
            effects.append(QueueHere(*wish.at, wish.shape, wish.granted))
            wish.told = wish.granted
        effects.append(RefuseDemand(*wish.at, kind, reason))
        wish.waiting = 0
        self._forget_if_done(wish)

    # -------------------------------------------------------------- what is known of nodes

    def _see(self, views: Iterable[NodeView], gone: Iterable[NodeId]) -> None:
        for view in views:
            if view.node_id != self._local:
                self._said[view.node_id] = view
                self._restate(view.node_id)
        for node_id in gone:
            if node_id in self._said and node_id != self._local:
                del self._said[node_id]
                self.nodes.remove(node_id)

    def _see_local(self, view: NodeView) -> None:
        self._said[self._local] = msgspec.structs.replace(view, is_local=True)
        self._restate(self._local)

    def _restate(self, node_id: NodeId) -> None:
        """Count what was sent to a node against what it said last."""
        self.nodes.put(self._said[node_id])
        for (group, index), amounts in self._debit_of.get(node_id, {}).items():
            self.nodes.take(node_id, amounts, group, index)

    def _debit(self, wish: _DemandHere, placed: Placed, now: float) -> None:
        self.nodes.take(placed.node_id, wish.need, wish.group, placed.bundle)
        if wish.need and placed.node_id != self._local:
            self._debits.append((now + DEBIT_S, placed, wish))
            debit = self._debit_of.setdefault(placed.node_id, {})
            at = (wish.group, placed.bundle)
            debit[at] = debit.get(at, NOTHING) + wish.need

    def _forget_debits(self, now: float) -> None:
        ended: dict[NodeId, None] = {}
        while self._debits and self._debits[0][0] <= now:
            _, placed, wish = self._debits.popleft()
            debit = self._debit_of[placed.node_id]
            at = (wish.group, placed.bundle)
            debit[at] -= wish.need
            if not debit[at]:
                del debit[at]
                if not debit:
                    del self._debit_of[placed.node_id]
            ended[placed.node_id] = None
        for node_id in ended.keys() & self._said.keys():
            self._restate(node_id)

    # -------------------------------------------------------------- decisions

    def _decide_all(self, now: float, effects: list[Effect]) -> None:
        """Decide anew what waits, the first come first."""
        self._anew_at = now + ANEW_S
        self._forget_debits(now)
        self._restate(self._local)
        full: set[Shape] = set()
        """There is no room for these: of ten thousand demands that are alike one is looked at."""
        for wish in [wish for wish in self._wish_of.values() if wish.waiting]:
            shape = wish.shape
            if shape in full and not wish.parked:
                continue
            self._decide(wish, now, effects)
            if wish.waiting and not wish.parked and self.nodes.find(shape) is None:
                full.add(shape)

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
        if sent:
            reason = self.nodes.obstacle(wish.shape, self._local) or "another node is less in use"
            effects += [
                SendOn(*wish.at, wish.shape, workers, node_id, wish.hops + 1, reason)
                for node_id, workers in sent.items()
            ]
        if not able:
            self._see_if_hopeless(wish, now, effects)
        else:
            wish.hopeless_since = None
            self._forget_if_done(wish)

    def _place(self, wish: _DemandHere, now: float) -> Counter[NodeId]:
        """Find nodes for the workers that wait; return how many are sent where."""
        sent: Counter[NodeId] = Counter()
        if wish.spreads:
            self._deal(wish, sent, now)
            if now < wish.rest_until:
                return sent
            wish.rest(now)
        for _ in range(min(wish.waiting, MOST_AT_ONCE)):
            # Who was sent here has been told that it is free here.
            stays = wish.hops or wish.spreads
            found = self.nodes.find_at(wish.shape, self._local) if stays else None
            found = found or self.nodes.find(wish.shape, wish.bytes_at)
            if found is None:
                break
            if found.node_id != self._local:
                if now < wish.rest_until and not wish.spreads:
                    break
                sent[found.node_id] += 1
                wish.waiting -= 1
            self._debit(wish, found, now)
        return sent

    def _deal(self, wish: _DemandHere, sent: Counter[NodeId], now: float) -> None:
        """Give each of the workers that have not had their turn to the next node."""
        wish.dealt = wish.waiting if wish.hops else min(wish.dealt, wish.waiting)
        for _ in range(min(wish.waiting - wish.dealt, MOST_AT_ONCE)):
            node_id = self.nodes.deal(wish.shape)
            if node_id is None:
                return
            if node_id == self._local:
                wish.dealt += 1
            else:
                sent[node_id] += 1
                wish.waiting -= 1
                self._debit(wish, Placed(node_id), now)

    def _see_if_hopeless(self, wish: _DemandHere, now: float, effects: list[Effect]) -> None:
        if not self.nodes.is_hopeless(wish.shape):
            wish.hopeless_since = None
        elif wish.hopeless_since is None:
            wish.hopeless_since = now
        elif now - wish.hopeless_since >= HOPELESS_S:
            self._refuse(wish, "unschedulable", self.nodes.why(wish.shape).text(), effects)

    # -------------------------------------------------------------- questions

    def has(self, at: At) -> bool:
        """Tell whether workers of a demand wait here, or were granted and are not bound yet."""
        return at in self._wish_of

    def views(self, now: float) -> list[NodeView]:
        """Return the nodes; what was sent there counts as in use, as far as it is free."""
        self._forget_debits(now)
        return [self._shown(view) for view in self.nodes.views()]

    def _shown(self, view: NodeView) -> NodeView:
        """Return a view in which what waits at a node takes no more than there is."""
        if view.node_id not in self._debit_of:
            return view
        free = {
            name: min(units, max(0, view.free.get(name, 0)))
            for name, units in self._said[view.node_id].free.items()
        }
        return msgspec.structs.replace(view, free=Resources.of_units(free))

    def waiting(self) -> list[tuple[bytes, int, Shape, int]]:
        """Return (client, key, shape, workers) of what waits here, queued or parked."""
        return [
            (*wish.at, wish.shape, wish.waiting) for wish in self._wish_of.values() if wish.waiting
        ]

    def explain(self, shape: Shape, now: float) -> str:
        """Say what demands of this shape wait for, in a few lines."""
        self._forget_debits(now)
        lines = []
        wishes = [wish for wish in self._wish_of.values() if wish.shape == shape and wish.waiting]
        if wishes:
            workers = sum(wish.waiting for wish in wishes)
            longest_s = max(now - wish.since for wish in wishes)
            lines.append(f"{workers} wait on this node, the longest for {longest_s:.1f} s")
            hops = max(wish.hops for wish in wishes)
            if hops:
                rest_s = max(wish.rest_until - now for wish in wishes)
                times = "once" if hops == 1 else f"{hops} times"
                rests = f", and not again for {rest_s:.1f} s" if rest_s >= 0.05 else ""
                lines.append(f"sent on {times}{rests}")
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
                debit = self._debit_of.get(node_id, {}).get((None, ANY), NOTHING)
                assert self.nodes[node_id].free == said.free - debit, 5
