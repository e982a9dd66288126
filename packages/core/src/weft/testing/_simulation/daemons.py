"""A node's daemon in a world: the real machines and what joins them, without processes or sockets.

Real are `Rules`, `Demands`, `Grants`, `ClusterScheduling`, `ClusterActing` and `Deaths`, so also
the machines of leases, workers, demands over nodes and the wants of actors. Modelled here: who is
connected (`_node/clients.py`), the processes (`_node/roster.py`), what the daemon makes of messages
and effects (`_node/daemon.py`), and what it does as one of its cluster (`_node/in_cluster.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from weft._lazy import lazy
from weft._machines import jobs
from weft._machines import leases as lease_rules
from weft._machines import workers as worker_rules
from weft._machines.placement import NodeView
from weft._node import acting
from weft._node.clients import GUEST, NEIGHBOUR, Client
from weft._node.cluster_scheduling import ClusterScheduling
from weft._node.deaths import Deaths
from weft._node.demands import Demands
from weft._node.far_owners import FarOwners
from weft._node.grants import Grants
from weft._node.questions import OF_GROUPS
from weft._node.rules import Effect, Later, Rules
from weft._override import override
from weft._transport.addresses import OBJECTS, Home, split
from weft._wire.messages import (
    Ask,
    Blocked,
    Certificate,
    CheckNode,
    CheckWorker,
    Demand,
    Discard,
    Explain,
    Hello,
    KillWorker,
    NodeLost,
    Quit,
    Reclaim,
    Refused,
    Restore,
    ReturnLease,
    Transfer,
    Unblocked,
    WatchOwner,
    WorkerLives,
)
from weft._wire.version import WIRE
from weft.testing._simulation.actors import JOB
from weft.testing._simulation.links import VirtualLink
from weft.testing._simulation.moves import VirtualMoves
from weft.testing._simulation.runtimes import VirtualJob, VirtualWorker
from weft.testing._simulation.stores import VirtualMemory
from weft.testing._simulation.world import VirtualEnd, VirtualProcess, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._ids import NodeId
    from weft._machines.bundles import HeldBundles
    from weft._machines.members import MemberFacts
    from weft._machines.orders import Order
    from weft._node import cluster_acting, cluster_groups
    from weft._resources import Resources
    from weft._transport.control import messages
    from weft.testing._simulation.plans import NodePlan
else:
    cluster_acting = lazy("weft._node.cluster_acting")
    cluster_groups = lazy("weft._node.cluster_groups")

# As in _node/daemon.py.
BROKEN_S = 2.0
# From a fork to the worker's Hello, and from its end until it is reaped.
START_S = (0.01, 0.1)
REAP_S = 0.002
CHECK_EVERY = 16
"""Machines are checked after so many steps of a daemon."""


class VirtualFacts:
    """What the real daemon finds out about its host."""

    def __init__(self, plan: NodePlan, node_id: NodeId) -> None:
        self.node_id = node_id
        self.cpus = plan.cpus
        self.accelerators = self
        self.devices = {"GPU": [str(index) for index in range(plan.gpus)]} if plan.gpus else {}
        self._view = NodeView(
            node_id, plan.total(), plan.total(), {"zone": plan.zone}, is_local=True
        )

    def view(self) -> NodeView:
        """Return the node as placement sees it, all of it free."""
        return self._view

    @property
    def total(self) -> Resources:
        """What the node has."""
        return self._view.total

    def shown(self, assigned: object) -> dict[str, str]:
        """Return the variables with which a process sees its devices: here there are none."""
        return {}


class _VirtualJobs:
    """Tells whose actors are (`_node/jobs.py`)."""

    def of(self, env: str) -> VirtualJob:
        return VirtualJob(bytes.fromhex(env.removeprefix(JOB)))


class VirtualDaemon(VirtualProcess):
    """The daemon of one node."""

    def __init__(self, world: World, plan: NodePlan, node_id: NodeId, host: str) -> None:
        super().__init__(world, host, host, f"{host}:1/node")
        world.story.call(node_id, host)
        self.node_id = node_id
        self.plan = plan
        facts: Any = VirtualFacts(plan, node_id)
        self.rules = Rules(facts, now=world.clock, id_head=node_id[:8])
        self.client_of: dict[bytes, Client] = {}
        self._jobs: set[bytes] = set()
        self.workers: dict[bytes, VirtualWorker] = {}
        shells: Any = self
        self.memory = VirtualMemory(self)
        home = Home("", split(self.address).node)
        self.far_owners = FarOwners(home, shells, shells.memory, shells)
        self.moving = VirtualMoves(self, self.far_owners.tell)
        transfers: Any = self.moving
        self.far_owners.transfers = transfers
        world.enter(self, f"{home.node}/{OBJECTS}")
        self._home = home
        self._demands = Demands(self.rules, shells, lambda: self.groups)
        self.scheduling = ClusterScheduling(
            self.rules,
            shells,
            self._demands,
            facts.view(),
            address=self.address,
            actor_sent_on=self._sent_actor_on,
        )
        self.grants = Grants(
            facts,
            self.rules,
            shells,
            shells,
            self.scheduling,
            self._placed,
        )
        self._deaths = Deaths(self.send)
        self._hello = Hello(WIRE, node_id, self.address, 0, "daemon")
        self._steps = 0
        self._said = facts.view()
        self.link = VirtualLink(self, self, node_id, facts.view())
        link: Any = self.link
        self.groups = cluster_groups.ClusterGroups(
            facts, self.rules, shells, link, self.scheduling.group_ended
        )
        self.reserving = self.groups.reserving
        node_jobs: Any = _VirtualJobs()
        self.acting = cluster_acting.ClusterActing(
            link,
            self.rules,
            shells,
            shells,
            self.scheduling,
            self.grants,
            node_id=node_id,
            address=self.address,
            jobs=node_jobs,
            end_worker=self.rules.doom,
        )
        self._reached: dict[str, Client] = {}
        opened = worker_rules.PoolOpened(min(plan.cpus, 2))
        self.step(lambda: self.rules.tell_pool(opened))
        self.step(self.link.begin)

    # -------------------------------------------------------------- the loop

    @override
    def step(self, do: Any) -> None:
        self.rules.settle(self._do)
        do()
        self._settle()

    def _settle(self) -> None:
        self.rules.settle(self._do)
        self.rules.tick()
        self.acting.tick()
        self.scheduling.tick()
        self.rules.settle(self._do)
        self.moving.tick()
        self.moving.links.flush()
        self.link.line.flush()
        self._steps += 1
        if not self._steps % CHECK_EVERY:
            self.check()
        view = self.view()
        if view != self._said:
            self._said = view
            self.link.publish(view)
        self._arm()

    @override
    def wake_at(self) -> float | None:
        times = (
            self.rules.wake_at(),
            self.acting.wake_at(),
            self.scheduling.wake_at(),
            self.link.wake_at(),
            self.reserving.wake_at(),
            self.moving.wake_at(),
        )
        return min((at for at in times if at is not None), default=None)

    @override
    def wake(self) -> None:
        self.link.wake()
        self.reserving.tick()

    def view(self) -> NodeView:
        """Return what this node has, its bundles too."""
        return self.reserving.shown(self.scheduling.view())

    def check(self) -> None:
        """Assert what is always true of the machines."""
        self.rules.leases.check()
        self.rules.pool.check()
        self.scheduling.check()
        self.acting.check()
        self.reserving.check()
        for name, units in self.rules.leases.free.items():
            assert units >= 0 or name == "CPU", f"{self.name} has {units} of {name} free"

    # -------------------------------------------------------------- clients (_node/clients.py)

    @override
    def takers(self, address: str) -> Any:
        return super().takers(address) if address == self.address else (self._bulk, _ignore_end)

    def _bulk(self, end: VirtualEnd, message: Any) -> None:
        """Hear the first word of a daemon that calls for objects."""
        self.moving.accept(end)
        end.receive(end, message)

    def call_later(self, delay_s: float, do: Callable[[], None]) -> None:
        """Do something later (`Timers`)."""
        self.later(delay_s, do)

    @override
    def called(self, end: VirtualEnd, message: Any) -> None:
        if not isinstance(end.peer, Client):
            hello: Hello = message
            node = hello.address.partition("/")[0]
            if hello.role == GUEST and self.link.standings.is_dead_at(node):
                end.close("its node is dead")
                return
            if hello.worker_id in self.client_of:
                end.close("says that it is one that is connected already")
                return
            end.send(self._hello)
            client = end.peer = Client(end, hello)  # type: ignore[arg-type]  # it stands for a connection
            self.client_of[client.worker_id] = client
            if client.worker_id in self.workers:
                self.rules.tell_pool(worker_rules.WorkerReady(client.worker_id))
            elif client.role == "driver":
                self._begin_job(client)
            return
        self._message(end.peer, message)

    @override
    def hung_up(self, end: VirtualEnd, why: str) -> None:
        client: Any = end.peer
        if not isinstance(client, Client) or self.client_of.get(client.worker_id) is not client:
            return
        if not client.is_local:
            self.far_owners.lost(client)
        if client.role == NEIGHBOUR:
            del self.client_of[client.worker_id]
            self.acting.daemon_lost(client)
            self._forget_far(client)
            return
        if client.worker_id in self.workers:
            return  # It is reaped soon: this host tells of no connection that broke by itself.
        del self.client_of[client.worker_id]
        self._forget_far(client)

    def reach(self, address: str) -> Client:
        """Return the daemon of another node, calling it if need be (`Clients.reach`)."""
        client = self._reached.get(address)
        if client is None:
            end = self.call(address, self._hello, self._answered, self._unreached)
            if end is None:
                raise ConnectionRefusedError(f"nobody is at {address}")
            asked = Hello(WIRE, b"", address, 0, NEIGHBOUR)
            client = end.peer = Client(end, asked)  # type: ignore[arg-type]  # it stands for a connection
            self._reached[address] = client
        return client

    def _answered(self, end: VirtualEnd, message: Any) -> None:
        if isinstance(message, Hello):
            end.peer.heard(message)
        else:
            self._message(end.peer, message)

    def _unreached(self, end: VirtualEnd, why: str) -> None:
        client: Client = end.peer
        if self._reached.get(client.address) is client:
            del self._reached[client.address]
            self.far_owners.lost(client)
            self.acting.daemon_lost(client)
            self._forget_far(client)

    def send(self, client: Client, message: Any) -> None:
        """Send a client a message."""
        end: Any = client.connection
        end.send(message)

    def send_to(self, worker_id: bytes, message: Any) -> bool:
        """Send a message; False: that process is not connected."""
        client = self.client_of.get(worker_id)
        if client is None:
            return False
        self.send(client, message)
        return True

    def _forget_far(self, client: Client) -> None:
        keeps = self.far_owners.hears(client.address)
        self._forget_client(client.worker_id, keeps_objects=keeps)

    def _forget_client(self, client: bytes, *, keeps_objects: bool = False) -> None:
        self.groups.forget(client)
        self.moving.client_lost(client)
        self.moving.owner_lost(self._home.address_of(client))
        self._deaths.gone(client)
        if not keeps_objects:
            self.memory.lost(client)
        if client not in self.workers and client in self._jobs:
            self._jobs.discard(client)
            self.link.command(jobs.EndJob(client, "its driver is gone"), _ignore)
        self._demands.forget(client)
        self.scheduling.gone(client)
        self.rules.tell_leases(lease_rules.ClientGone(client))
        self.acting.gone(client)

    # -------------------------------------------------------------- messages (_node/daemon.py)

    def _message(self, client: Client, message: Any) -> None:
        me = client.worker_id
        match message:
            case Demand(key, shape, workers, depth, name, hops):
                demanded = lease_rules.Demanded(me, key, shape, workers, depth, name)
                self.scheduling.demanded(demanded, hops)
            case ReturnLease(worker_id, retire):
                self.grants.take_back(me, worker_id, retire=retire)
            case Blocked():
                self.grants.note_blocked(me, lease_rules.TaskBlocked)
            case Unblocked():
                self.grants.note_blocked(me, lease_rules.TaskUnblocked)
            case KillWorker(worker_id, reason):
                if self.grants.served_to(me, worker_id) is not None:
                    self.rules.doom(worker_id, reason)
            case Explain(worker_id):
                if self._deaths.ask(client, worker_id, is_here=worker_id in self.workers):
                    why = "its connections broke while it lived on"
                    self.later(BROKEN_S, lambda: self.rules.doom(worker_id, why))
            case CheckWorker(worker_id):
                self._check_worker(client, worker_id)
            case CheckNode(node):
                if (dead := self.link.standings.dead_at(node)) is not None:
                    self.send(client, _lost_node(dead))
            case Restore() | Discard():
                self.memory.said(me, message)
            case Transfer():
                self.moving.said(me, client.address, message)
            case WatchOwner(address):
                self.far_owners.watch(address)
            case Ask(request, what, body) if what in acting.QUESTIONS:
                self.acting.ask(client, request, what, body)
            case Ask(request, what, body) if what in OF_GROUPS:
                self.groups.ask(client, request, what, body)
            case _:
                self.acting.said(client, message)

    def _check_worker(self, client: Client, worker: bytes) -> None:
        def over() -> None:
            if self._deaths.ask_no_more(client, worker) and not client.connection.closed:
                self.send(client, WorkerLives(worker))

        driver = self.client_of.get(worker)
        is_here = worker in self.workers or (driver is not None and driver.is_local)
        if self._deaths.ask(client, worker, is_here=is_here):
            self.later(BROKEN_S, over)

    # -------------------------------------------------------------- effects (_node/daemon.py)

    def _do(self, effect: Effect) -> None:
        match effect:
            case lease_rules.AmountsLent(bundle):
                self.reserving.lent(bundle)
            case lease_rules.BundleEmpty(bundle):
                self.reserving.emptied(bundle)
            case lease_rules.Grant():
                self.grants.add(effect)
            case lease_rules.CancelGrant(lease):
                self.grants.cancel(lease)
            case lease_rules.KillLease(lease, reason):
                self.rules.doom(self.grants.worker_of(lease), reason)
            case lease_rules.Refuse(actor, lease_rules.ACTOR_KEY, kind, reason):
                self.acting.refused(actor, kind, reason)
            case lease_rules.Refuse(client, key, kind, reason):
                self.scheduling.gone(client, key)
                self.send_to(client, Refused(key, kind, reason))
            case lease_rules.AskReclaim(client):
                self.send_to(client, Reclaim())
            case worker_rules.StartWorker(worker):
                self.later(self.world.random.uniform(*START_S), lambda: self._start(worker))
            case worker_rules.UseWorker(lease, worker):
                self.grants.bind(lease, worker)
            case worker_rules.EndWorker(worker, reason):
                if not self.send_to(worker, Quit(graceful=True)):
                    self.rules.doom(worker, reason)
            case worker_rules.KillProcess(worker, reason):
                if worker in self.workers:
                    self.workers[worker].die(reason)
            case worker_rules.LoseLease(lease):
                self.grants.lose(lease)
            case Later(do):
                do()
            case _:
                raise AssertionError(effect)

    # -------------------------------------------------------------- processes (_node/roster.py)

    def is_ready(self, env: str) -> bool:
        """Tell whether an environment is built: all are."""
        return True

    def get(self, worker: bytes) -> VirtualWorker | None:
        """Return a worker's process."""
        return self.workers.get(worker)

    def _start(self, worker: bytes) -> None:
        if self.rules.pool.state_of(worker) == "ending":  # It was doomed before it was there.
            self.rules.tell_pool(worker_rules.WorkerExited(worker))
            return
        self.workers[worker] = VirtualWorker(self.world, self, worker)

    def worker_died(self, worker: VirtualWorker, why: str) -> None:
        """A worker's process has ended."""
        self.later(REAP_S, lambda: self._ended(worker, why))

    def _ended(self, process: VirtualWorker, why: str) -> None:
        worker = process.worker_id
        client = self.client_of.get(worker)
        if client is not None:
            end: Any = client.connection
            end.read_rest()
            del self.client_of[worker]
        del self.workers[worker]
        actor = self.grants.actor_on(worker)
        if actor is not None:
            self.acting.lost(actor, worker, why)
        self.rules.tell_pool(worker_rules.WorkerExited(worker, why))
        self.memory.swept(worker)
        task_id, attempt = process.begun
        certificate = Certificate(
            worker_id=worker,
            pid=0,
            exit_code=-9,
            peak_bytes=0,
            limit_bytes=0,
            function="",
            stderr="",
            reason=why,
            task_id=task_id,
            attempt=attempt,
        )
        self._deaths.add(certificate)
        self._forget_client(worker)

    @override
    def die(self, why: str, *, with_host: bool = False) -> None:
        """End, and all workers with it."""
        if self.is_alive:
            super().die(why, with_host=with_host)
            for worker in list(self.workers.values()):
                worker.die("its daemon has ended", with_host=with_host)

    # -------------------------------------------------------------- control (_node/in_cluster.py)

    def fenced(self, reason: str) -> None:
        """This node was declared dead: end all that it does, and for whom (`Daemon.end_all`)."""
        self.acting.fenced()
        self.groups.fenced()
        for client in list(self.client_of.values()):
            if client.role == "driver":
                self._close(client, reason)
        for worker in list(self.workers):
            self.rules.doom(worker, reason)
        self.far_owners.leave_all()

    def views_changed(self, seen: Sequence[NodeView], gone: Sequence[NodeId]) -> None:
        """Other nodes have this, or are gone."""
        members = self.link.standings.members
        addresses = {view.node_id: members[view.node_id].facts.address for view in seen}
        self.scheduling.seen(tuple(seen), tuple(gone), addresses)

    def node_died(self, node: MemberFacts) -> None:
        """Another node is dead: its processes are no clients any more, and ours hear of it."""
        self.far_owners.bury(split(node.address).node, lambda: self._lose_node(node))
        lost = _lost_node(node)
        for client in self.client_of.values():
            if client.is_local:
                self.send(client, lost)

    def _lose_node(self, node: MemberFacts) -> None:
        host = split(node.address).node
        for client in list(self.client_of.values()):
            if not client.is_local and client.address.startswith(f"{host}/"):
                self._close(client, node.cause)
        for client in list(self._reached.values()):
            if client.address.startswith(f"{host}/"):
                end: Any = client.connection
                end.close(node.cause)
                self._unreached(end, node.cause)

    def _close(self, client: Client, why: str) -> None:
        end: Any = client.connection
        end.close(why)
        del self.client_of[client.worker_id]
        if not client.is_local:
            self.far_owners.lost(client)
        if client.role == NEIGHBOUR:
            self.acting.daemon_lost(client)
        self._forget_far(client)

    def sees(self, node_id: NodeId) -> NodeView | None:
        """Return what is known here of a node, as its own daemon would say it."""
        standing = self.link.standings.members.get(node_id)
        if standing is None or standing.is_dead or standing.view is None:
            return None
        return msgspec.structs.replace(standing.view, is_local=True)

    # -------------------------------------------------------------- placement groups

    def held(self) -> tuple[HeldBundles, ...]:
        """Return what the node holds for placement groups."""
        return self.reserving.held()

    def bundles_asked(self, asked: Any) -> None:
        """Control wants something done with bundles, or cannot be heard."""
        self.reserving.tell(asked)

    # -------------------------------------------------------------- actors

    def _placed(self, actor: bytes, worker: bytes, address: str) -> None:
        self.acting.placed(actor, worker, address)

    def _sent_actor_on(self, actor: bytes, address: str, hops: int) -> None:
        self.acting.sent_on(actor, address, hops)

    def registered(self) -> None:
        """This node is a member."""
        self.moving.registered(self.link.incarnation)
        self.acting.registered()

    def ordered(self, order: Order) -> None:
        """Control wants something done for an actor."""
        self.acting.ordered(order)

    def actor_changed(self, actor: messages.Actor) -> None:
        """An actor that is watched is so."""
        self.acting.watchers.changed(actor)

    # -------------------------------------------------------------- jobs

    def _begin_job(self, client: Client) -> None:
        job = client.worker_id
        self._jobs.add(job)
        self.link.command(jobs.BeginJob(job, job, self.node_id), _ignore)


def _lost_node(node: MemberFacts) -> NodeLost:
    return NodeLost(node.node_id, node.address, node.cause, node.incarnation)


def _ignore(ruling: Any) -> None:
    """Take note of nothing."""


def _ignore_end(end: VirtualEnd, why: str) -> None:
    """Who called is gone before it said a word."""
