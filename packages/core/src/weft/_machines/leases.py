"""One node's queue of demands: who gets a worker next, and what that takes from the node.

    Demanded -> waiting -> granted (no worker yet) -> bound (LeaseBound) -> ended (LeaseReturned)
        |          |             |                        |
        v          v             v                        v
      Refuse   replaced,     CancelGrant              KillLease (its client is gone),
               ClientGone                             then LeaseReturned

A lease says what a client may use; which process does the work is the worker pool's matter
(workers.py), so the shell maps leases to workers. Actors wait in the same queue, before all tasks:
their client is the actor itself. So do the amounts of a placement group's bundles; a bundle that
has them is opened (open_bundles.py), and demands of its group are granted out of it.

What is always true
1. Free amounts are the total, less the amounts of all leases, plus the CPU of those that are
   blocked, and the memory that such tasks were seen to take.
2. A grant never makes a free amount negative. Only a lease that goes on after it was blocked may,
   for CPU alone; and memory that tasks were seen to take, for what is free of that is measured.
3. Of the first demands of each kind (lanes.py) none waits that fits the free amounts, unless
   `UNBOUND_PER_DEMAND` of its leases have no worker yet, what it needs is kept for another, its
   job's quota is used up, its job is withheld, or memory is short.
4. A device is lent whole to one lease, or in fractions that do not exceed it.
5. Of the demands that fit, the deepest is granted first, among those the first come; a granted
   demand goes behind the others of its depth, so that no client keeps the node to itself.
6. A demand that had no grant for `PASSED_S` is late. It goes before all tasks but those that are
   deeper than a blocked one, which may wait for them. If it fits as soon as the tasks that run have
   ended, those behind it get only what it does not need. So no demand that fits beside actors and
   blocked tasks waits for ever while leases are returned, however many small ones come. This goes
   for the demands of one job; of several, each job's turn is by priority, weight and what it takes
   (shares.py), and no demand is granted that exceeds its job's quota.
7. Every lease ends in one LeaseReturned or one CancelGrant; that of a bundle in AmountsDropped,
   when nothing runs in the bundle any more.

Those that are held back may be what a running task waits for in a way that nobody sees: the rest of
a group that meets over sockets, say. So a late demand holds others back for a while, then lets them
pass for a while, each time for twice as long. A while comes in which all that runs ends; and what
is kept is idle for half of the time at most. Nothing is kept for a demand that fits only once an
actor ends, or a blocked task: the one may never, the other may wait for those held back.

While memory is short (headroom.py) tasks wait also where they fit. Nothing is kept for one that
does. Nor for one whose job is withheld: none of its leases gets a worker meanwhile, and those that
have none yet give back what they took, so that no other job waits for them.

Why the deepest first: a task that waits for tasks that it started holds memory and a process; to
finish those first bounds both by depth times cores (the order of a depth-first search, as in Cilk's
"busy-leaves" property: Blumofe and Leiserson, Scheduling Multithreaded Computations by Work
Stealing, section 3).

It is one file, since what is granted, kept and asked back hangs together in every line of it.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, TypeAlias, assert_never

import msgspec

from weft._ids import PlacementGroupId
from weft._machines.headroom import Headroom, MemoryMeasured
from weft._machines.lanes import Lanes, Rank
from weft._machines.open_bundles import (
    BundleKey,
    BundleRoom,
    OpenBundles,
    entry_to,
    is_own,
    plain_name,
)
from weft._machines.placement import (
    ANY,
    Never,
    NodeView,
    group_of,
    lacking,
    obstacle,
    place,
    terms_of,
)
from weft._machines.shares import NO_TURN, JobLimited, Shares
from weft._machines.stock import NOTHING, Stock
from weft._resources import UNITS, Resources
from weft._specs import Shape

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from weft._machines.shares import Turn

# A demand of many workers that need no resources would start as many processes at once.
UNBOUND_PER_DEMAND = 16
# A demand that comes so long after the last round of AskReclaim begins a new round: clients forget
# a request.
RECLAIM_AGAIN_S = 0.1
# Long against the round trips of a client that returns a lease, short for a user who waits.
PASSED_S = 1.0
FOREVER = float("inf")
ACTOR_DEPTH = 1 << 40
ACTOR_KEY = -1
BUNDLE_KEY = -2

Short: TypeAlias = dict[tuple[bytes | None, str], set[tuple[bytes, int]]]
"""Demands that wait, by what falls short."""


# ------------------------------------------------------------------ events


class Demanded(msgspec.Struct, frozen=True):
    """A client wants so many more workers in all; replaces its last demand under the key."""

    client: bytes
    key: int
    shape: Shape
    workers: int
    depth: int = 0
    task_name: str = ""
    job: bytes = b""
    """Whose quota, weight and priority count; empty: nobody's."""


class ActorWanted(msgspec.Struct, frozen=True):
    """An actor needs a worker."""

    actor: bytes
    shape: Shape
    name: str = ""
    job: bytes = b""


class ActorEnded(msgspec.Struct, frozen=True):
    """An actor needs no worker any more. If it has one, LeaseReturned follows when that is gone."""

    actor: bytes


class LeaseBound(msgspec.Struct, frozen=True):
    """A worker was found for the lease."""

    lease: int


class LeaseReturned(msgspec.Struct, frozen=True):
    """What the lease took is free: its client is done with the worker, or the worker is gone."""

    lease: int


class TaskBlocked(msgspec.Struct, frozen=True):
    """The lease's worker waits for other tasks."""

    lease: int


class TaskUnblocked(msgspec.Struct, frozen=True):
    """The lease's worker goes on."""

    lease: int


class ClientGone(msgspec.Struct, frozen=True):
    """A client has ended: its demands and its leases end with it."""

    client: bytes


class EnvironmentFailed(msgspec.Struct, frozen=True):
    """No worker can be had in this environment."""

    env: str
    reason: str


class AmountsWanted(msgspec.Struct, frozen=True):
    """A bundle is to have these amounts."""

    bundle: BundleKey
    amounts: Resources
    job: bytes = b""


class AmountsDropped(msgspec.Struct, frozen=True):
    """A bundle does not need its amounts: it is not open, or BundleEmpty was said of it."""

    bundle: BundleKey


class BundleOpened(msgspec.Struct, frozen=True):
    """Who demands a bundle may have what was lent to it."""

    bundle: BundleKey
    size: int
    """How many bundles the group has."""


class BundleClosed(msgspec.Struct, frozen=True):
    """What runs in a bundle is to end; BundleEmpty follows."""

    bundle: BundleKey
    reason: str


class JobWithheld(msgspec.Struct, frozen=True):
    """Lend a job no workers for the moment, in words of why; empty: go on."""

    job: bytes
    why: str


class GroupGone(msgspec.Struct, frozen=True):
    """A placement group is no more: what waits for its bundles waits in vain."""

    group: PlacementGroupId
    reason: str


class LeasesTicked(msgspec.Struct, frozen=True):
    """`wake_at` has come."""


Event = (
    Demanded
    | ActorWanted
    | ActorEnded
    | LeaseBound
    | LeaseReturned
    | TaskBlocked
    | TaskUnblocked
    | ClientGone
    | EnvironmentFailed
    | AmountsWanted
    | AmountsDropped
    | BundleOpened
    | BundleClosed
    | GroupGone
    | LeasesTicked
    | MemoryMeasured
    | JobLimited
    | JobWithheld
)


# ------------------------------------------------------------------ effects


class Grant(msgspec.Struct, frozen=True):
    """Find a worker for this lease, then say LeaseBound."""

    lease: int
    client: bytes
    key: int
    """ACTOR_KEY: the client is an actor."""
    shape: Shape
    accelerators: dict[str, list[str]]
    contended: bool
    """Others wait for what this lease takes."""


class CancelGrant(msgspec.Struct, frozen=True):
    """Look for a worker no longer; the lease is gone."""

    lease: int


class KillLease(msgspec.Struct, frozen=True):
    """The client is gone: end the worker, then say LeaseReturned."""

    lease: int
    reason: str


class Refuse(msgspec.Struct, frozen=True):
    """Tell the client that no worker of this shape can ever be had."""

    client: bytes
    key: int
    kind: str
    """unschedulable, environment or placement_group."""
    reason: str


class AskReclaim(msgspec.Struct, frozen=True):
    """Ask a client to return leases that have nothing to do."""

    client: bytes


class AmountsLent(msgspec.Struct, frozen=True):
    """A bundle has what it wanted."""

    bundle: BundleKey


class BundleEmpty(msgspec.Struct, frozen=True):
    """Nothing runs any more in a bundle that was closed."""

    bundle: BundleKey


Effect = Grant | CancelGrant | KillLease | Refuse | AskReclaim | AmountsLent | BundleEmpty


# ------------------------------------------------------------------ state


class _Demand:
    __slots__ = (
        "alike",
        "asked",
        "client",
        "depth",
        "group",
        "index",
        "is_free_to_choose",
        "job",
        "kept_until",
        "key",
        "late_at",
        "learned",
        "need",
        "patience_s",
        "rank",
        "shape",
        "since",
        "takes",
        "task_name",
        "wanted",
    )

    def __init__(self, event: Demanded, need: Resources, wanted: int, since: float) -> None:
        self.client = event.client
        self.job = event.job
        self.key = event.key
        self.shape = event.shape
        self.asked = need
        """What its shape says; `takes` is what it takes of the stock."""
        self.learned = need.get("memory", 0) if event.shape.is_learned else None
        """Memory that such tasks were seen to take, in 1/10,000 bytes."""
        terms = terms_of(event.shape)
        self.group = terms.group
        self.is_free_to_choose = terms.index == ANY
        """Among the bundles of its group, if it has one."""
        self.aim(terms.index)
        self.wanted = wanted
        self.depth = event.depth
        self.task_name = event.task_name
        self.since = since
        self.rank = (0, 0)
        """Place in the queue: (-depth, number of arrival)."""
        shape = event.shape
        kind = (shape.amounts, shape.strategy, shape.is_learned, min(event.key, 0))
        self.alike = (*kind, event.depth, event.job)
        """Demands of which this is the same fit at the same time."""
        self.let_pass(since, PASSED_S)

    def aim(self, index: int) -> None:
        """Take from this bundle of its placement group, if it has one."""
        self.index = index
        to_be_free = _to_be_free(self.shape, self.asked)
        if self.group is None:
            self.takes, self.need = self.asked, to_be_free
        else:
            # Memory that such tasks were seen to take is no part of a bundle.
            self.takes = self.need = entry_to(self.group, index, to_be_free)

    def let_pass(self, now: float, patience_s: float) -> None:
        """Let others pass for so long."""
        self.patience_s = patience_s
        self.late_at = now + patience_s
        self.kept_until = FOREVER
        """Set when it holds another back for the first time."""

    def go_on(self, old: _Demand) -> None:
        """Wait on as the demand that this one replaces."""
        self.since, self.patience_s = old.since, old.patience_s
        self.late_at, self.kept_until = old.late_at, old.kept_until


class _Lease:
    __slots__ = (
        "asked",
        "blocked",
        "bound",
        "bundle",
        "client",
        "contended",
        "depth",
        "devices",
        "job",
        "key",
        "need",
        "number",
        "shape",
        "task_name",
    )

    def __init__(
        self,
        number: int,
        demand: _Demand,
        devices: list[tuple[str, str, int]],
        bundle: BundleRoom | None,
    ) -> None:
        self.number = number
        self.client = demand.client
        self.job = demand.job
        self.key = demand.key
        self.depth = demand.depth
        self.shape = demand.shape
        self.asked = demand.asked
        self.need = demand.takes
        self.task_name = demand.task_name
        self.devices = devices
        self.bundle = bundle
        """The one that it takes from; None: from the node."""
        self.contended = False
        """Its client is told with the grant that others wait for it."""
        self.bound = False
        self.blocked = False

    @property
    def is_task(self) -> bool:
        """Whether it is for tasks, not for an actor or a bundle."""
        return self.key >= 0

    @property
    def memory(self) -> int:
        """Memory that it takes at this moment, in 1/10,000 bytes."""
        return 0 if self.blocked and self.shape.is_learned else self.asked.get("memory", 0)

    @property
    def is_in_stock(self) -> bool:
        """Whether what it takes comes back to the stock, as it does not to a closed bundle."""
        return self.bundle is None or not self.bundle.is_closed

    def lent(self) -> Resources:
        """Return what it gives to others while it is blocked."""
        names = ("CPU", "memory") if self.shape.is_learned else ("CPU",)
        return _only(names if self.bundle is None else map(self.bundle.name, names), self.need)

    def taken(self) -> Resources:
        """Return what the lease takes at this moment."""
        return self.need - self.lent() if self.blocked else self.need

    def grant(self) -> Grant:
        accelerators: dict[str, list[str]] = {}
        for name, device, _ in self.devices:
            accelerators.setdefault(plain_name(name), []).append(device)
        return Grant(
            self.number, self.client, self.key, self.shape, accelerators, contended=self.contended
        )


class Leases:
    """The queue of one node."""

    def __init__(self, node: NodeView, accelerators: dict[str, list[str]] | None = None) -> None:
        """`accelerators`: ids of the devices behind an amount, as {"GPU": ["0", "1"]}."""
        self._node = node
        self.total = node.total
        self._stock = Stock(
            node.total,
            {name: dict.fromkeys(devices, UNITS) for name, devices in (accelerators or {}).items()},
        )
        self.bundles = OpenBundles(self._stock)
        self.lasting = NOTHING
        """What actors and bundles take of the node; the rest is free once tasks have ended."""
        self._wanted_for: dict[bytes, BundleKey] = {}
        """By client: the bundles that want amounts, or have them."""
        self._emptied: list[BundleKey] = []
        self._demand_of: dict[tuple[bytes, int], _Demand] = {}
        self._lanes: Lanes[_Demand] = Lanes()
        """Demands that want at least one worker."""
        self._queue: list[tuple[Rank, _Demand]] = self._lanes.front
        """Those that are looked at, in order of rank."""
        self._keys_of: dict[bytes, dict[int, None]] = {}
        """By client, under which it waits."""
        self._lease_of: dict[int, _Lease] = {}
        self._unbound_of: dict[tuple[bytes, int], list[_Lease]] = {}
        self._leases_of_client: dict[bytes, set[int]] = {}
        self._arrivals = 0
        self._leases = 0
        self._asked: set[bytes] = set()
        self._asked_at = float("-inf")
        self._headroom = Headroom(node.total.get("memory", 0))
        self.shares = Shares(node.total)
        self.events = 0
        """How many were handled: nothing here changes but by one, or by `same_until`."""
        self._withheld: dict[bytes, str] = {}
        """Jobs that are lent no workers, and why."""

    # -------------------------------------------------------------- events

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event; return what to do, in order."""
        self.events += 1
        effects: list[Effect] = []
        match event:
            case Demanded():
                self._demanded(event, now, effects)
            case ActorWanted(actor, shape, name, job):
                self._demanded(
                    Demanded(actor, ACTOR_KEY, shape, 1, ACTOR_DEPTH, name, job), now, effects
                )
            case ActorEnded(actor):
                self._lower((actor, ACTOR_KEY), 0, effects)
            case LeaseBound(number):
                self._bound(self._lease_of[number])
            case LeaseReturned(number):
                self._end(self._lease_of[number])
            case TaskBlocked(number):
                self._set_blocked(self._lease_of[number], blocked=True)
            case TaskUnblocked(number):
                self._set_blocked(self._lease_of[number], blocked=False)
            case ClientGone(client):
                self._client_gone(client, effects)
            case EnvironmentFailed(env, reason):
                self._environment_failed(env, reason, effects)
            case AmountsWanted() | AmountsDropped() | BundleOpened() | BundleClosed():
                self._reserve(event, now, effects)
            case GroupGone(group, reason):
                self._group_ended(group, reason, effects)
            case LeasesTicked():
                pass
            case MemoryMeasured():
                self._headroom.measured = event
            case JobLimited():
                self.shares.limit(event)
            case JobWithheld(job, why):
                self._withhold(job, why, now, effects)
            case _:
                assert_never(event)
        granted = self._grant(now)
        # Who waits is known only now.
        short = self._short()
        for lease in granted:
            if lease.key == BUNDLE_KEY:
                self._bound(lease)
                effects.append(AmountsLent(self._wanted_for[lease.client]))
                continue
            lease.contended = self._is_wanted(lease, short)
            effects.append(lease.grant())
        effects.extend(map(BundleEmpty, self._emptied))
        self._emptied.clear()
        self._reclaim(short, now, effects)
        return effects

    def wake_at(self) -> float | None:
        """Return when `LeasesTicked` is due, in seconds; None: never."""
        at = min((demand.kept_until for _, demand in self._queue), default=FOREVER)
        return None if at == FOREVER else at

    def _demanded(self, event: Demanded, now: float, effects: list[Effect]) -> None:
        at = (event.client, event.key)
        need = Resources.of_units(dict(event.shape.amounts))
        reason = self._never(event.shape, need)
        if reason and event.workers > 0:
            self._lower(at, 0, effects)
            effects.append(Refuse(event.client, event.key, "unschedulable", reason))
            return
        old = self._demand_of.get(at)
        self._lower(at, event.workers, effects)
        unbound = len(self._unbound_of.get(at, ()))
        if event.workers <= unbound:
            return
        demand = _Demand(event, need, event.workers - unbound, now)
        if old is None:
            if now - self._asked_at >= RECLAIM_AGAIN_S:
                self._asked.clear()
            self._enqueue(demand)
        else:
            demand.go_on(old)
            if demand.alike == old.alike:
                demand.rank = old.rank
                self._demand_of[at] = demand
                self._lanes.replace(old, demand)
            else:
                self._dequeue(old)
                self._enqueue(demand, arrival=old.rank[1])

    def _never(self, shape: Shape, need: Resources) -> str:
        placement = place(shape, [self._seen_by(shape)])
        if isinstance(placement, Never):
            return placement.text()
        for name in self._stock.devices:
            amount = need.get(name, 0)
            if amount > UNITS and amount % UNITS:
                return f"needs {name} {amount / UNITS:g}: more than one device is lent whole"
        return ""

    def _seen_by(self, shape: Shape) -> NodeView:
        """Return the node as a demand of this shape sees it: empty, but for its group's bundles."""
        group = group_of(shape)
        if group is None:
            return self._node
        return msgspec.structs.replace(self._node, bundles={group: self.bundles.views_of(group)})

    def _lower(self, at: tuple[bytes, int], workers: int, effects: list[Effect]) -> None:
        """Take back what `at` was promised beyond `workers`."""
        unbound = self._unbound_of.get(at, [])
        while len(unbound) > workers:
            lease = unbound[-1]
            effects.append(CancelGrant(lease.number))
            self._end(lease)
        old = self._demand_of.get(at)
        if old is not None and workers <= len(unbound):
            self._dequeue(old)

    def _bound(self, lease: _Lease) -> None:
        self._forget_unbound(lease)
        lease.bound = True
        if not lease.contended:
            # Its client hears of it only now: what it was asked before was not about this lease.
            self._asked.discard(lease.client)

    def _set_blocked(self, lease: _Lease, *, blocked: bool) -> None:
        if lease.blocked is not blocked:
            self._count(lease, -1)
            lease.blocked = blocked
            self._count(lease, 1)
            if lease.is_in_stock:
                lent = lease.lent()
                self._stock.amounts += lent if blocked else NOTHING - lent

    def _client_gone(self, client: bytes, effects: list[Effect]) -> None:
        for key in tuple(self._keys_of.get(client, ())):
            self._dequeue(self._demand_of[client, key])
        for number in sorted(self._leases_of_client.get(client, ())):
            lease = self._lease_of[number]
            if lease.bound:
                effects.append(KillLease(number, "the process that started its task has ended"))
            else:
                effects.append(CancelGrant(number))
                self._end(lease)
        self._asked.discard(client)

    def _environment_failed(self, env: str, reason: str, effects: list[Effect]) -> None:
        keys = {at: None for at, demand in self._demand_of.items() if demand.shape.env == env}
        keys |= {at: None for at, leases in self._unbound_of.items() if leases[0].shape.env == env}
        for client, key in keys:
            self._lower((client, key), 0, effects)
            effects.append(Refuse(client, key, "environment", reason))

    # -------------------------------------------------------------- bundles

    def _reserve(
        self,
        event: AmountsWanted | AmountsDropped | BundleOpened | BundleClosed,
        now: float,
        effects: list[Effect],
    ) -> None:
        key, client = event.bundle, event.bundle.client
        match event:
            case AmountsWanted(_, amounts, job):
                self._wanted_for[client] = key
                shape = Shape(tuple(sorted(amounts.items())))
                name = f"{key.index} of placement group {key.group.hex()}"
                wanted = Demanded(client, BUNDLE_KEY, shape, 1, ACTOR_DEPTH, name, job)
                self._demanded(wanted, now, effects)
            case AmountsDropped():
                self._lower((client, BUNDLE_KEY), 0, effects)
                for number in tuple(self._leases_of_client.get(client, ())):
                    self._end(self._lease_of[number])
                del self._wanted_for[client]
            case BundleOpened(_, size):
                (number,) = self._leases_of_client[client]
                lease = self._lease_of[number]
                self.bundles.open(key, size, lease.asked, lease.devices)
            case BundleClosed(_, reason):
                self._close(key, reason, now, effects)
            case _:
                assert_never(event)

    def _close(self, key: BundleKey, reason: str, now: float, effects: list[Effect]) -> None:
        bundle = self.bundles.close(key)
        if bundle is None:
            return
        for number in sorted(bundle.leases):
            lease = self._lease_of[number]
            if lease.bound:
                effects.append(KillLease(number, reason))
            else:
                effects.append(CancelGrant(number))
                self._end(lease)
                self._want_again(lease, now)
        self._forget_if_over(bundle)

    def _withhold(self, job: bytes, why: str, now: float, effects: list[Effect]) -> None:
        if not why:
            self._withheld.pop(job, None)
            return
        self._withheld[job] = why
        unbound = [lease for leases in self._unbound_of.values() for lease in leases]
        for lease in unbound:
            if lease.job == job and lease.key != BUNDLE_KEY:
                effects.append(CancelGrant(lease.number))
                self._end(lease)
                self._want_again(lease, now)

    def _want_again(self, lease: _Lease, now: float) -> None:
        """A lease ended before its client heard of it: the client waits on."""
        demand = self._demand_of.get((lease.client, lease.key))
        if demand is not None:
            demand.wanted += 1
        else:
            at = (lease.client, lease.key, lease.shape)
            wanted = Demanded(*at, 1, lease.depth, lease.task_name, lease.job)
            self._enqueue(_Demand(wanted, lease.asked, 1, now))

    def _forget_if_over(self, bundle: BundleRoom) -> None:
        if self.bundles.forget_if_over(bundle):
            self._emptied.append(bundle.key)

    def _group_ended(self, group: PlacementGroupId, reason: str, effects: list[Effect]) -> None:
        keys = {at: None for at, demand in self._demand_of.items() if demand.group == group}
        keys |= {
            at: None
            for at, leases in self._unbound_of.items()
            if (bundle := leases[0].bundle) is not None and bundle.key.group == group
        }
        keys |= {
            (lease.client, lease.key): None
            for lease in self._lease_of.values()
            if lease.key == ACTOR_KEY
            and lease.bundle is not None
            and lease.bundle.key.group == group
        }
        for client, key in keys:
            self._lower((client, key), 0, effects)
            effects.append(Refuse(client, key, "placement_group", reason))

    def _aim(self, demand: _Demand) -> None:
        """Choose a bundle for a demand that may go into any of its group."""
        if demand.group is not None and demand.is_free_to_choose:
            need = _to_be_free(demand.shape, demand.asked)
            demand.aim(self.bundles.choose(demand.group, need))

    # -------------------------------------------------------------- the queue

    def _enqueue(self, demand: _Demand, arrival: int | None = None) -> bool:
        """Let a demand wait; tell whether it is looked at, and not those before it alone."""
        if arrival is None:
            self._arrivals += 1
            arrival = self._arrivals
        demand.rank = (-demand.depth, arrival)
        self._demand_of[demand.client, demand.key] = demand
        self._keys_of.setdefault(demand.client, {})[demand.key] = None
        return self._lanes.add(demand)

    def _dequeue(self, demand: _Demand) -> _Demand | None:
        """Let a demand wait no longer; return one that is looked at from now on, if there is."""
        del self._demand_of[demand.client, demand.key]
        keys = self._keys_of[demand.client]
        del keys[demand.key]
        if not keys:
            del self._keys_of[demand.client]
        return self._lanes.remove(demand)

    def _grant(self, now: float) -> list[_Lease]:
        """Lend what is free to those whose turn it is."""
        for _, demand in self._queue:
            if demand.kept_until <= now:
                demand.let_pass(now, 2 * demand.patience_s)
        granted: list[_Lease] = []
        full: set[Resources] = set()
        late: dict[Resources, _Demand] = {}
        lines = self._lines(now)
        while lines:
            _, _, line = heappop(lines)
            demand = line.popleft()[1]
            self._aim(demand)
            if (
                self._is_capped(demand)
                or self._is_withheld(demand)
                or self._is_held(demand)
                or self._exceeds(demand)
            ):
                pass
            elif demand.need in full or not self._may_have(demand, late.values(), now):
                full.add(demand.need)
                if demand.late_at <= now:
                    late.setdefault(demand.need, demand)
            else:
                granted.append(self._lend(demand))
                self._headroom.granted()
                following = self._dequeue(demand)
                if following is not None:
                    insort(line, self._entry(following, now), key=_rank)
                if demand.wanted > 1:
                    demand.wanted -= 1
                    demand.let_pass(now, PASSED_S)
                    if self._enqueue(demand):
                        insort(line, (demand.rank, demand), key=_rank)
            if line:
                turn = self.shares.turn(demand.job) if lines else NO_TURN
                heappush(lines, (turn, line[0][0], line))
        return granted

    def _lines(self, now: float) -> list[tuple[Turn, Rank, deque[tuple[Rank, _Demand]]]]:
        """Return each job's demands in the order in which they are looked at, as a heap by turn.

        No two ranks are the same, so lines are never compared.
        """
        line_of: dict[bytes, deque[tuple[Rank, _Demand]]] = {}
        for entry in self._turns(now):
            line_of.setdefault(entry[1].job, deque()).append(entry)
        if len(line_of) == 1:
            # Whatever it takes, its turn is the next.
            return [(NO_TURN, line[0][0], line) for line in line_of.values()]
        lines = [(self.shares.turn(job), line[0][0], line) for job, line in line_of.items()]
        heapify(lines)
        return lines

    def _is_capped(self, demand: _Demand) -> bool:
        return len(self._unbound_of.get((demand.client, demand.key), ())) >= UNBOUND_PER_DEMAND

    def _is_withheld(self, demand: _Demand) -> bool:
        """Tell whether a demand has to wait because of its job. A bundle needs no worker."""
        return demand.job in self._withheld and demand.key != BUNDLE_KEY

    def _is_held(self, demand: _Demand) -> bool:
        """Tell whether a demand has to wait because memory is short."""
        return demand.key >= 0 and self._headroom.holds(demand.learned)

    def _exceeds(self, demand: _Demand) -> bool:
        """Tell whether a demand has to wait because its job has used up its quota."""
        return bool(self.shares.exceeded(demand.job, demand.takes))

    def _count(self, lease: _Lease, sign: int) -> None:
        self.shares.count(lease.job, lease.taken(), sign)
        if lease.is_task:
            self._headroom.count(lease.memory, sign, is_blocked=lease.blocked)

    def _turns(self, now: float) -> list[tuple[Rank, _Demand]]:
        """Return the queue in the order in which the demands of each job are looked at."""
        if all(demand.late_at > now for _, demand in self._queue):
            return self._queue
        waited_for = self._waited_for()
        return sorted(_as_late(entry, waited_for, now) for entry in self._queue)

    def _entry(self, demand: _Demand, now: float) -> tuple[Rank, _Demand]:
        """Return the place of a demand among those that are looked at."""
        entry = (demand.rank, demand)
        return _as_late(entry, self._waited_for(), now) if demand.late_at <= now else entry

    def _waited_for(self) -> int:
        """Return the least depth that is a reason to go first.

        With no task blocked, none is: nobody waits for the deep ones.
        """
        return min(
            (lease.depth for lease in self._lease_of.values() if lease.blocked and lease.is_task),
            default=ACTOR_DEPTH - 1,
        )

    def _may_have(self, demand: _Demand, late: Iterable[_Demand], now: float) -> bool:
        """Tell whether a demand fits beside what is kept for those `late` ones before it."""
        if not self._stock.fits(demand.need):
            return False
        keeping = self._kept_for(late)
        if not keeping or self._stock.fits(demand.need, _sum_of(keeping)):
            return True
        for other in keeping:
            if other.kept_until == FOREVER and other.need.keys() & demand.need.keys():
                other.kept_until = now + other.patience_s
        return False

    def _kept_for(self, late: Iterable[_Demand]) -> list[_Demand]:
        """Return those that fit once the tasks that run have ended."""
        late = list(late)
        if not late:
            return late
        stock = self._stock.copy()
        for lease in self._lease_of.values():
            if lease.is_task and not lease.blocked and lease.is_in_stock:
                stock.give(lease.need, lease.devices)
        return [demand for demand in late if stock.fits(demand.need)]

    def _lend(self, demand: _Demand) -> _Lease:
        self._leases += 1
        group = demand.group
        bundle = None if group is None else self.bundles.at(group, demand.index)
        lease = _Lease(self._leases, demand, self._stock.take(demand.takes), bundle)
        self._count(lease, 1)
        if bundle is not None:
            bundle.leases.add(lease.number)
        elif not lease.is_task:
            self.lasting += lease.need
        self._lease_of[lease.number] = lease
        self._unbound_of.setdefault((lease.client, lease.key), []).append(lease)
        self._leases_of_client.setdefault(lease.client, set()).add(lease.number)
        return lease

    def _end(self, lease: _Lease) -> None:
        self._count(lease, -1)
        if lease.is_in_stock:
            self._stock.give(lease.taken(), lease.devices)
        del self._lease_of[lease.number]
        if lease.bundle is not None:
            lease.bundle.leases.remove(lease.number)
            self._forget_if_over(lease.bundle)
        elif not lease.is_task:
            self.lasting -= lease.need
        numbers = self._leases_of_client[lease.client]
        numbers.remove(lease.number)
        if not numbers:
            del self._leases_of_client[lease.client]
        if not lease.bound:
            self._forget_unbound(lease)

    def _forget_unbound(self, lease: _Lease) -> None:
        at = (lease.client, lease.key)
        self._unbound_of[at].remove(lease)
        if not self._unbound_of[at]:
            del self._unbound_of[at]

    # -------------------------------------------------------------- who is asked to give way

    def _short(self) -> Short:
        """Return which resources fall short, and for each, two at most of the demands that wait.

        By (None, name) of the node; by (job, name) of what a job's quota allows.
        """
        short: Short = {}
        names_of: dict[Resources, AbstractSet[str]] = {}
        for _, demand in self._queue:
            if self._is_capped(demand) or self._is_withheld(demand):
                continue
            need = demand.need
            names: AbstractSet[str] = self.shares.exceeded(demand.job, demand.takes)
            whose = demand.job if names else None
            if not names:
                if need not in names_of:
                    names_of[need] = need.shortfall(self.free).keys() or (
                        self._stock.devices.keys() & need.keys()
                    )
                names = need.keys() if self._is_held(demand) else names_of[need]
            for name in names:
                waiting = short.setdefault((whose, name), set())
                if len(waiting) < 2:
                    waiting.add((demand.client, demand.key))
        return short

    def _is_wanted(self, lease: _Lease, short: Short) -> bool:
        """Tell whether another demand than the lease's own waits for what the lease takes."""
        own = {(lease.client, lease.key)}
        return any(
            name in lease.need and whose in (None, lease.job) and waiting - own
            for (whose, name), waiting in short.items()
        )

    def _reclaim(self, short: Short, now: float, effects: list[Effect]) -> None:
        if not self._queue:
            self._asked.clear()
        if not short:
            return
        for client, numbers in self._leases_of_client.items():
            if client in self._asked:
                continue
            leases = [self._lease_of[number] for number in numbers]
            if any(lease.is_task and self._is_wanted(lease, short) for lease in leases):
                self._asked.add(client)
                self._asked_at = now
                effects.append(AskReclaim(client))

    # -------------------------------------------------------------- questions

    @property
    def free(self) -> Resources:
        """What no lease takes, in 1/10,000, also of open bundles by names of their own.

        Of CPU it can be less than nothing.
        """
        return self._stock.amounts

    def available(self, now: float) -> Resources:
        """Return what a demand that comes may have: what is free and not kept for another."""
        rest = self.free - _sum_of(self._kept_now(now))
        return Resources.of_units(
            {name: max(0, units) for name, units in rest.items() if not is_own(name)}
        )

    def same_until(self, now: float) -> float:
        """Return until when the same is available, if there is no event."""
        times = (at for _, demand in self._queue for at in (demand.late_at, demand.kept_until))
        return min((at for at in times if at > now), default=FOREVER)

    def _kept_now(self, now: float) -> list[_Demand]:
        return self._kept_for(
            demand
            for _, demand in self._queue
            if demand.late_at <= now < demand.kept_until
            and not self._is_capped(demand)
            and not self._is_withheld(demand)
            and not self._exceeds(demand)
            and not self._stock.fits(demand.need)
        )

    def waiting(self) -> Iterable[tuple[bytes, int, Shape, int]]:
        """Return (client, key, shape, workers wanted) of each demand that waits, in order."""
        return [(d.client, d.key, d.shape, d.wanted) for d in sorted(self._lanes, key=_rank_of)]

    def is_unbound(self, number: int) -> bool:
        """Tell whether a lease is there and has no worker yet."""
        lease = self._lease_of.get(number)
        return lease is not None and not lease.bound

    def amounts_of(self, number: int) -> dict[str, int]:
        """Return what a lease takes, in 1/10,000, as if it were not blocked."""
        return dict(self._lease_of[number].asked)

    def memory_of(self, number: int) -> int:
        """Return the memory that a lease takes at this moment, in 1/10,000 bytes."""
        return self._lease_of[number].memory

    def is_blocked(self, number: int) -> bool:
        """Tell whether a lease's worker waits for other tasks."""
        return self._lease_of[number].blocked

    def holds_back(self) -> bool:
        """Tell whether tasks wait for nothing but memory that is short."""
        return any(
            demand.learned is None
            and self._is_held(demand)
            and not self._is_capped(demand)
            and not self._is_withheld(demand)
            and not self._exceeds(demand)
            and self._stock.fits(demand.need)
            for _, demand in self._queue
        )

    def over_quota(self, shape: Shape) -> str:
        """Say which quota keeps a demand of this shape waiting; empty if none does."""
        waiting = (demand for demand in self._lanes if demand.shape == shape)
        first = next(waiting, None)
        return "" if first is None else self.shares.explain(first.job, first.takes)

    def explain(self, shape: Shape, now: float) -> str:
        """Say what a demand of this shape waits for, in a few lines."""
        need = Resources.of_units(dict(shape.amounts))
        reason = self._never(shape, need)
        if reason:
            return f"no node can ever hold it: {reason}"
        turns = self._in_order(now)
        waiting = [demand for demand in turns if demand.shape == shape]
        asked = waiting[0] if waiting else _Demand(Demanded(b"", 0, shape, 1), need, 1, now)
        self._aim(asked)
        asks = asked.need
        if waiting and self._is_withheld(asked):
            lines = [self._withheld[asked.job]]
        elif over := self.over_quota(shape):
            lines = [over]
        elif waiting and self._is_held(asked) and self._stock.fits(asks):
            lines = [self._headroom.explain(waiting[0].learned)]
        else:
            lines = self._lacks(shape, asks, now)
        if waiting:
            longest_s = max(now - demand.since for demand in waiting)
            lines.append(
                f"{sum(d.wanted for d in waiting)} wait for this, the longest for "
                f"{longest_s:.1f} s; {turns.index(waiting[0])} demands are before it"
            )
        lines += self._users(set(asks.shortfall(self.free)))
        return "\n".join(lines)

    def _in_order(self, now: float) -> list[_Demand]:
        """Return the demands in the order in which they would be looked at."""
        waited_for = self._waited_for()
        entries = (_as_late((demand.rank, demand), waited_for, now) for demand in self._lanes)
        turns = [(self.shares.turn(demand.job), rank, demand) for rank, demand in entries]
        return [demand for _, _, demand in sorted(turns, key=_place)]

    def _lacks(self, shape: Shape, need: Resources, now: float) -> list[str]:
        """Say what keeps a demand from being granted at once."""
        view = self._seen_by(shape)
        if view.bundles and (why := obstacle(terms_of(shape), view)):
            return [why]
        kept = self._kept_now(now)
        others = [demand for demand in kept if demand.shape != shape]
        if not self._stock.fits(need):
            is_kept = len(others) < len(kept) and any(self.free.get(name, 0) > 0 for name in need)
            return [self._falls_short(need) + (", kept for this" if is_kept else "")]
        if self._stock.fits(need, _sum_of(others)):
            return ["a worker process is being started"]
        others = [demand for demand in others if demand.need.keys() & need.keys()]
        return [
            f"needs {plain_name(name)} {need[name] / UNITS:g}, this node has "
            f"{self.free[name] / UNITS:g} free, kept for others"
            for name in sorted(need.keys() & _sum_of(others).keys())
        ] + [
            f"kept for {_who(demand.key, demand.task_name)}: {self._falls_short(demand.need)}; "
            f"has waited {now - demand.since:.1f} s"
            for demand in others
        ]

    def _falls_short(self, need: Resources) -> str:
        if need.fits(self.free):
            return f"needs {need!r}, which is free only in parts of several devices"
        return lacking(need, self.free, "free")

    def _users(self, names: set[str]) -> list[str]:
        """Say who holds these resources."""
        held: dict[tuple[str, str], int] = {}
        for lease in self._lease_of.values():
            for name in names & lease.taken().keys():
                user = (name, _who(lease.key, lease.task_name))
                held[user] = held.get(user, 0) + lease.need[name]
        return [
            f"{plain_name(name)} {units / UNITS:g} in use by {user}"
            for (name, user), units in held.items()
        ]

    def check(self) -> None:
        """Assert what is always true."""
        leases = self._lease_of.values()
        taken = Resources()
        for lease in leases:
            taken += lease.taken() if lease.is_in_stock else NOTHING
        is_open = [bundle for bundle in self.bundles.all() if not bundle.is_closed]
        bundles = sum((bundle.own_amounts() for bundle in is_open), NOTHING)
        assert self.free == self.total + bundles - taken, 1
        learned = {"CPU", "memory"} if any(x.shape.is_learned for x in leases) else {"CPU"}
        assert all(
            units >= 0 for name, units in self.free.items() if plain_name(name) not in learned
        ), 2
        lasting = (x.need for x in leases if not x.is_task and x.bundle is None)
        assert self.lasting == sum(lasting, NOTHING), 1
        for _, demand in self._queue:
            if self._stock.fits(demand.need) and not (
                self._is_capped(demand)
                or self._is_withheld(demand)
                or self._is_held(demand)
                or self._exceeds(demand)
            ):
                holding = [d for _, d in self._queue if d.kept_until < FOREVER and d is not demand]
                assert any(other.need.keys() & demand.need.keys() for other in holding), 3
        running = [lease for lease in leases if lease.is_task]
        assert self._headroom.running == sum(not lease.blocked for lease in running), 3
        assert self._headroom.promised == sum(x.memory for x in running), 3
        parts = {
            (bundle.name(name), device): units
            for bundle in is_open
            for name, device, units in bundle.devices
        }
        for name, free in self._stock.devices.items():
            for device, units in free.items():
                lent = [u for x in leases for n, d, u in x.devices if (n, d) == (name, device)]
                assert units == parts.get((name, device), UNITS) - sum(lent), 4
                assert units >= 0, 4
        for bundle in self.bundles.all():
            assert bundle.leases == {x.number for x in leases if x.bundle is bundle}, 7
            assert not bundle.is_closed or bundle.leases, 7
        self._lanes.check()
        assert all(demand.wanted > 0 for demand in self._lanes), 5
        assert set(self._lanes) == set(self._demand_of.values()), 5
        assert {(c, k) for c, keys in self._keys_of.items() for k in keys} == set(
            self._demand_of
        ), 5
        assert all(d.late_at < d.kept_until for _, d in self._queue), 6
        for group in self._unbound_of.values():
            assert not any(x.job in self._withheld and x.key != BUNDLE_KEY for x in group), 3
        unbound = {x.number for group in self._unbound_of.values() for x in group}
        assert unbound == {x.number for x in leases if not x.bound}, 7
        used: dict[bytes, Resources] = {}
        for lease in leases:
            used[lease.job] = used.get(lease.job, NOTHING) + lease.taken()
        assert self.shares.used() == {job: amounts for job, amounts in used.items() if amounts}, 6
        self.shares.check()
        by_client = {n for group in self._leases_of_client.values() for n in group}
        assert by_client == self._lease_of.keys(), 7


def _only(names: Iterable[str], amounts: Resources) -> Resources:
    return Resources.of_units({name: amounts.get(name, 0) for name in names})


def _to_be_free(shape: Shape, need: Resources) -> Resources:
    """Return what has to be free: memory that is known is compared with what was measured."""
    return need - _only(("memory",), need) if shape.is_learned else need


def _sum_of(demands: Iterable[_Demand]) -> Resources:
    return sum((demand.need for demand in demands), NOTHING)


def _who(key: int, name: str) -> str:
    kind = {ACTOR_KEY: "actor", BUNDLE_KEY: "bundle"}.get(key, "tasks of")
    return f"{kind} {name or 'no name'}"


def _as_late(entry: tuple[Rank, _Demand], waited_for: int, now: float) -> tuple[Rank, _Demand]:
    """Return an entry of the queue in its place if it is late."""
    (depth, arrival), demand = entry
    return ((min(depth, -waited_for), arrival), demand) if demand.late_at <= now else entry


def _rank_of(demand: _Demand) -> Rank:
    return demand.rank


def _rank(entry: tuple[Rank, _Demand]) -> Rank:
    return entry[0]


def _place(entry: tuple[Turn, Rank, _Demand]) -> tuple[Turn, Rank]:
    return entry[:2]
