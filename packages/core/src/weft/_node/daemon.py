"""The node daemon: the shell round the machines of leases, workers and actors.

One thread, one wait. A message or the end of a process becomes an event of a machine; the effects
that the machine returns are done in order, and may tell other machines. When nothing is left to do,
what was queued is sent.

    facts      what the node is and has            rules    the machines, and effects not done yet
    clients    who is connected                    jobs     whose they are, and their drivers
    roster     the worker processes, their template
    demands    those whose environment is built    grants   leases and the workers that serve them
    scheduling which of them go to other nodes     port     where other nodes call
    acting     where actors are decided about      deaths   certificates of workers that are gone
    memory     what is lent of it, and spilled
    governing  what is done when memory is short
    metrics    what all processes have measured
    history    what became of their tasks          everywhere what other nodes are asked
    logs       what they wrote                 followers  who reads along
    groups     placement groups; made for the first one

Each owns what is named beside it, and nobody else changes that. The daemon has the order: which
event a message is, which of them does an effect, and how the session ends.

What is always true
1. Only this thread touches the machines. A client's message is handled, and its effects are done,
   before the next one is read.
2. Every worker that was started ends in one certificate, made after its process was reaped and what
   it had sent and written was read.
3. The session ends when the driver that began it is gone, or when it is told to if there is none:
   no process and no file of it is left.
4. With nothing to do it sleeps: no timer runs while no wait has an end.
5. What it keeps of what is gone is bounded, in number and in bytes: records of tasks (history.py,
   64 MB), ends of workers (deaths.py, 5 MB), dead actors (_machines/actors.py, 20 MB), names of
   segments and processes (_machines/segments.py, 1 MB), functions' peaks (_machines/peaks.py).

    leases.Grant -> pool.WorkerWanted -> UseWorker -> leases.LeaseBound
                                      Granted to the client, who tells the worker (Assigned)
    process ends -> pool.WorkerExited -> LoseLease -> leases.LeaseReturned
                    leases.ClientGone, Acting.gone
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from weft import _settings
from weft._clock import monotonic, wall
from weft._launch import LOG_FILE, NodeFile, user_root
from weft._lazy import lazy
from weft._machines import leases as lease_rules
from weft._machines import workers as worker_rules
from weft._node import acting, followers, history, limits, questions, sessions
from weft._node.acting import Acting, AloneActing
from weft._node.clients import GUEST, NEIGHBOUR, Client, Clients
from weft._node.deaths import Deaths
from weft._node.demands import Demands
from weft._node.deputies import QUESTION as DEPUTY
from weft._node.deputies import Deputies
from weft._node.drivers import BYE_S, REAP_S, Drivers
from weft._node.environments import Environments
from weft._node.everywhere import Everywhere, NodePlace
from weft._node.facts import NodeFacts
from weft._node.followers import Followers
from weft._node.governing import Governing
from weft._node.grants import Grants
from weft._node.jobs import NodeJob, NodeJobs
from weft._node.limits import Limiting
from weft._node.logs import WorkerLogs, names_of
from weft._node.memory import NodeMemory
from weft._node.metrics import NodeMetrics
from weft._node.output import Outputs
from weft._node.processes import Process, describe
from weft._node.roster import Roster
from weft._node.rules import Effect, Later, Rules
from weft._node.scheduling import AloneScheduling, Scheduling
from weft._transport.addresses import DAEMON, OBJECTS, split
from weft._transport.outside import Outside
from weft._transport.sockets import Poller
from weft._transport.timers import Timers
from weft._wire.codec import pack, unpack
from weft._wire.messages import (
    Answer,
    Ask,
    AskLoan,
    AskNodes,
    AskNoMore,
    BeginsJob,
    Blocked,
    Busy,
    Bye,
    CheckNode,
    CheckWorker,
    Demand,
    Discard,
    Evicted,
    Explain,
    Hello,
    Inspected,
    JobHeard,
    JobHere,
    JobLeaves,
    JobLeft,
    JobOutput,
    KillWorker,
    LoanReturned,
    Measured,
    Message,
    NodeDrained,
    NodeLost,
    OutputTaken,
    Preload,
    Quit,
    Reclaim,
    Recorded,
    Refused,
    Restore,
    ReturnLease,
    SegmentsClosed,
    SegmentsFree,
    SegmentsMade,
    SegmentsOpened,
    Transfer,
    Unblocked,
    WatchOwner,
    WorkerLives,
)
from weft._wire.version import WIRE
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    import socket

    from weft._machines.members import MemberFacts
    from weft._node import cluster_scheduling, far_owners, groups, in_cluster, port, transfers
    from weft._node.far_owners import FarOwners
    from weft._node.in_cluster import InCluster
    from weft._node.port import Port
    from weft._node.transfers import NodeTransfers
else:
    cluster_scheduling = lazy("weft._node.cluster_scheduling")
    groups = lazy("weft._node.groups")
    in_cluster = lazy("weft._node.in_cluster")
    port = lazy("weft._node.port")
    far_owners = lazy("weft._node.far_owners")
    transfers = lazy("weft._node.transfers")

# A worker whose connection broke is dead or dying. After so long it is killed, so that those who
# asked get an answer; if they are of another node, they are told that it lives.
BROKEN_S = 2.0
# Exit hooks of the user's run after the connection is closed.
LEFT_S = 5.0
# Between the end of the template's connection and its own.
TEMPLATE_END_S = 1.0


class Daemon:
    """The daemon of one node."""

    def __init__(self, node: NodeFile, template_sock: socket.socket, template_pid: int) -> None:
        self._node = node
        self._over = ""
        """Why the session ends; empty while it goes on."""
        self._is_clean = False
        self._has_failed = False
        self._is_told_to_end = False
        self._has_swept = False
        self._began_at = wall()

        self.facts = NodeFacts(node)
        self.rules = Rules(self.facts)
        self._poller = Poller()
        self._timers = Timers()
        self._hello = Hello(
            WIRE, self.facts.node_id, node.home.daemon_address(), os.getpid(), "daemon"
        )
        self.clients = Clients(
            self._poller,
            node.listen_fd,
            met=self._met,
            said=self._said,
            lost=self._lost,
            me=self._hello,
            outside=(outside := _outside(node, self._poller, self._timers)),
        )
        self.jobs = NodeJobs(
            self._poller,
            node,
            self.clients,
            session_over=self.finish,
            driver_gone=lambda client: self._timers.call_next(lambda: self._drivers.gone(client)),
        )
        own = self.jobs.own.id
        self.limits = Limiting(self.rules, self.clients, own, node.options.limits)
        self._logs = WorkerLogs(node.session_dir)
        outputs = Outputs(self._poller, self._timers)
        self.roster = Roster(
            self._poller,
            node,
            outputs,
            template=(template_sock, template_pid),
            wrote=self._wrote,
            ended=self._ended,
            bereft=self._lost_template,
        )
        self._followers = Followers(
            node.session_dir, self.clients, lambda worker: self.roster.get(worker) is not None
        )
        self._environments = Environments(
            self._poller, outputs, node.session_dir, may_fork=node.cluster is None
        )
        self._groups: groups.NodeGroups | None = None
        self.demands = Demands(self.rules, self._environments, lambda: self.groups)
        self.scheduling: Scheduling = (
            AloneScheduling(self.rules, self.demands)
            if node.cluster is None
            else cluster_scheduling.ClusterScheduling(
                self.rules,
                self.clients,
                self.demands,
                self.facts.view(),
                address=node.home.daemon_address(),
                actor_sent_on=self._sent_actor_on,
            )
        )
        self.grants = Grants(
            self.facts, self.rules, self.clients, self.roster, self.scheduling, self._placed
        )
        self._drivers = Drivers(
            self.jobs,
            self.rules,
            self.clients,
            self.roster,
            self._timers,
            welcome=self._welcome,
            forget=self._forget_client,
            ended=self._driver_ended,
        )
        self.memory = NodeMemory(
            node, self.facts.store_bytes, self.clients, self._poller, self._timers
        )
        self._deputies = Deputies(self._poller, node, self.clients)
        self.far_owners: FarOwners | None = None
        self.transfers: NodeTransfers | None = None
        self._port: Port | None = None
        if outside is not None:
            self.far_owners = far_owners.FarOwners(
                node.home, self.clients, self.memory, self._timers
            )
            self.transfers = self.far_owners.transfers = transfers.NodeTransfers(
                (self.facts.node_id, 0, node.home.node),
                self.memory,
                outside,
                store_dir=node.store_dir,
                tell_client=self.clients.send_to,
                tell_owner=self.far_owners.tell,
            )
            takers = {DAEMON: self.clients.accept_remote, OBJECTS: self.transfers.accept}
            self._port = port.Port(node, self._poller, self._timers, takers)
        self.in_cluster: InCluster | None = None
        if node.cluster is not None and node.cluster.control:
            assert isinstance(self.scheduling, cluster_scheduling.ClusterScheduling)
            self.in_cluster = in_cluster.InCluster(
                node,
                self,
                self._poller,
                self._timers,
                self.scheduling,
                say=self._say,
                end_worker=self._drivers.end_worker,
            )
            self.acting: Acting = self.in_cluster.acting
        else:
            self.acting = AloneActing(
                self.rules,
                self.clients,
                self.roster,
                self.demands,
                self.grants,
                node_id=self.facts.node_id,
                jobs=self.jobs,
                end_worker=self._drivers.end_worker,
            )
        self.governing = Governing(
            self.facts,
            self.rules,
            self.clients,
            self.roster,
            self.grants,
            self.memory,
            self._timers,
            store_dir=node.store_dir,
            say=self._say,
        )
        self.deaths = Deaths(self.clients.send)
        self._history = history.History(self.clients, self.roster, self._timers)
        self._everywhere = Everywhere(
            self.facts.node_id,
            self.clients,
            self._timers,
            nodes=self._places,
            ask_here=self._message,
        )
        self._metrics = NodeMetrics(
            self,
            node,
            self._poller,
            self._timers,
            warn=self._say,
            everywhere=self._everywhere,
            store=self.memory.machine.usage,
        )

    @property
    def groups(self) -> groups.NodeGroups:
        """The placement groups. Most sessions have none: they are made for the first one."""
        if self._groups is None and self.in_cluster is not None:
            self._groups = self.in_cluster.groups()
        elif self._groups is None:
            self._groups = groups.LocalGroups(self.facts, self.rules, self.clients)
        return self._groups

    # -------------------------------------------------------------- the loop

    def run(self) -> int:
        """Serve until the session is over; return the exit code."""
        signal.signal(signal.SIGTERM, self._terminated)
        if self._node.lifeline_pid:
            self._watch_lifeline(self._node.lifeline_pid)
        if self.jobs.own.driver is not None:
            self._start_ahead(self._node.options.runtime_env)
        if self.in_cluster is not None:
            self.in_cluster.begin()
        self.rules.settle(self._do)
        try:
            while not self._over:
                self._poller.poll(self._timers.sleep_s(self._wake_at()))
                self._timers.ring()
                self.rules.tick()
                self.acting.tick()
                self.scheduling.tick()
                self.memory.tick()
                if self.transfers is not None:
                    self.transfers.tick()
                    self.transfers.flush()
                if self._groups is not None:
                    self._groups.tick()
                self.rules.settle(self._do)
                if self.in_cluster is not None:
                    self.in_cluster.tick()
                self._followers.look_at_own()
                self._drivers.see_off()
                if self._is_told_to_end:
                    self._end_as_told()
                if self.in_cluster is not None:
                    self.in_cluster.link.flush()
                self.clients.flush()
        except Exception as error:  # noqa: BLE001 - the shell's outermost loop
            traceback.print_exc()
            self._say(f"weft: the node daemon failed and ends the session: {error}")
            self._end(keep_log=True)
            return 1
        self._end(keep_log=self._has_failed)
        return int(self._has_failed)

    def _start_ahead(self, env: str) -> None:
        """Start workers of a driver's environment before it wants any."""
        prestart = self._node.options.prestart
        opened = worker_rules.PoolOpened(self.facts.cpus if prestart is None else prestart, env)
        # One that cannot be built is told to the first task that wants it.
        self._environments.prepare_early(
            env, lambda reason: None if reason else self.rules.tell_pool(opened)
        )

    def _wake_at(self) -> float | None:
        times = [self.rules.wake_at(), self.acting.wake_at()]
        times += [self.scheduling.wake_at(), self.memory.wake_at()]
        if self.transfers is not None:
            times.append(self.transfers.wake_at())
        if self._groups is not None:
            times.append(self._groups.wake_at())
        return min((at for at in times if at is not None), default=None)

    @property
    def session_dir(self) -> str:
        """Where the session's files are."""
        return self._node.session_dir

    @property
    def head(self) -> str:
        """HOST:PORT of the cluster's head; empty: a machine alone."""
        return self._node.cluster.control if self._node.cluster is not None else ""

    def describe(self) -> dict[str, Any]:
        """Return what the session is, for people and tools."""
        return {
            "session": self._node.session,
            "session_dir": self._node.session_dir,
            "jobs": self.jobs.describe(self.limits.of),
            "node_id": self.facts.node_id.hex(),
            "daemon_pid": os.getpid(),
            "control_pid": 0 if self.in_cluster is None else self.in_cluster.control_pid,
            "began_at": self._began_at,
        }

    # -------------------------------------------------------------- connections

    def _met(self, client: Client) -> None:
        process = self.roster.get(client.worker_id)
        if client.role == "worker" and process is None:
            raise ProtocolError(
                f"process {client.pid} says that it is a worker, but was not started here"
            )
        if client.role == GUEST and self._is_of_dead_node(client):
            raise ProtocolError(f"process {client.pid} was of a node that is dead")
        self.clients.send(client, self._hello)
        self._deputies.met(client)
        if not client.is_local or (client.role == "driver" and not self.jobs.is_own_driver(client)):
            return  # A driver that has joined says what its job is, and is welcomed then.
        self._welcome(client, self.jobs.own if process is None else process.job)
        if process is not None:
            process.address = client.address or process.address
            process.forked(client.pid)  # The template's own word may come later.
            self.rules.tell_pool(worker_rules.WorkerReady(client.worker_id))
            if not self._has_swept and not self.rules.is_starting():
                # After what waited for these workers has been sent.
                self._timers.call_later(0.0, self._remove_leftovers)
        elif self.jobs.is_own_driver(client):
            self.jobs.own_connected(client)

    def _is_of_dead_node(self, client: Client) -> bool:
        """Tell whether a client greets after its node was declared dead: nobody tells it again."""
        return self._dead_at(split(client.address).node) is not None

    def _dead_at(self, node: str) -> MemberFacts | None:
        return None if self.in_cluster is None else self.in_cluster.link.dead_at(node)

    def _welcome(self, client: Client, job: NodeJob) -> None:
        """Tell a process of this node what there is, and whose it is."""
        opens_slot = self.memory.met(client.worker_id)
        self.clients.send(client, self.facts.welcome(job, opens_slot))
        self.governing.met(client)

    def _said(self, client: Client, message: Message) -> None:
        if not self._over and not client.has_left:
            self.rules.settle(self._do)
            self._message(client, message)
            self.rules.settle(self._do)

    def _places(self) -> list[NodePlace]:
        """Return the nodes that live, this one first."""
        here = NodePlace(self.facts.node_id, self._node.home.daemon_address())
        others = [] if self.in_cluster is None else self.in_cluster.others()
        return [here, *others]

    def _lost(self, client: Client) -> None:
        self._everywhere.lost(client)
        if not client.is_local and self.far_owners is not None:
            self.far_owners.lost(client)
        if client.role == NEIGHBOUR:
            self.jobs.unreachable(client.worker_id, client.address)
        process = self.roster.get(client.worker_id)
        if process is not None:
            if not process.has_ended:
                why = "it closed its connection and did not end"
                self._timers.call_later(LEFT_S, lambda: self.rules.doom(process.worker_id, why))
        elif self.jobs.is_own_driver(client):
            self.finish("the driver has closed its connection")
        else:
            if client.role == NEIGHBOUR:
                self.acting.daemon_lost(client)
            if not client.worker_id:
                return  # Nobody has answered there, so there is nothing of anybody's to end.
            keeps = self.far_owners is not None and self.far_owners.hears(client.address)
            self._forget_client(client.worker_id, keeps_objects=keeps)
            self._drivers.ended(client.worker_id)

    def _forget_client(self, client: bytes, *, keeps_objects: bool = False) -> None:
        """A process is no client any more. `keeps_objects`: it is an owner elsewhere, and lives."""
        if self.transfers is not None:
            self.transfers.client_lost(client)
            self.transfers.owner_lost(self._node.home.address_of(client))
        self.deaths.gone(client)
        self.demands.forget(client)
        self.scheduling.gone(client)
        self._history.forget(client)
        self._followers.forget(client)
        if self._groups is not None:
            self._groups.forget(client)
        if not keeps_objects:
            self.memory.lost(client)
        self._metrics.forget(client)
        self.rules.tell_leases(lease_rules.ClientGone(client))
        self.acting.gone(client)

    def node_died(self, node: MemberFacts) -> None:
        """Another node is dead: its processes are no clients any more, and ours hear of it."""
        if self.far_owners is not None:
            lose = partial(self.clients.lose_node, node.address, node.cause)
            self.far_owners.bury(split(node.address).node, lose)
        self.clients.send_to_runtimes(_lost_node(node))

    def _begin_job(self, client: Client, message: BeginsJob) -> None:
        job = self._drivers.begin(client, message)
        self._start_ahead(message.env)
        if self.in_cluster is not None:
            self.in_cluster.job_begun(job.id, client.worker_id, message)

    def _driver_ended(self, job: NodeJob) -> None:
        """A driver that had joined is gone, and what it had here ends."""
        if self.in_cluster is not None:
            self.in_cluster.job_ended(job.id, "its driver has ended")
        elif self._groups is not None:
            self._groups.job_ended(job.id)

    def job_ended(self, job_id: bytes) -> None:
        """A job has ended in the cluster: nobody wants its idle workers, or hears what it says."""
        job = self.jobs.over(job_id)
        if job is not None:
            self._drivers.leave_workers(job)

    def end_all(self, why: str) -> None:
        """End what this node runs, keeps, and for whom: the cluster goes on without."""
        self._drivers.expel()
        for process in self.roster.all():
            client = self.clients.get(process.worker_id)
            if client is not None:
                client.has_left = True
            self.rules.doom(process.worker_id, why)
        if self.far_owners is not None:
            self.far_owners.leave_all()

    # -------------------------------------------------------------- messages

    def _message(self, client: Client, message: Message) -> None:
        """Make events of a client's message."""
        me = client.worker_id
        match message:
            case Demand(key, shape, workers, depth, name, hops, bytes_at):
                job = self.jobs.of(shape.env).id
                demanded = lease_rules.Demanded(me, key, shape, workers, depth, name, job)
                self.scheduling.demanded(demanded, hops, bytes_at)
            case ReturnLease(worker_id, retire):
                self.grants.take_back(me, worker_id, retire=retire)
            case Blocked():
                self.grants.note_blocked(me, lease_rules.TaskBlocked)
            case Unblocked():
                self.grants.note_blocked(me, lease_rules.TaskUnblocked)
            case Busy():
                self.governing.watch()
            case KillWorker(worker_id, reason):
                if self.grants.served_to(me, worker_id) is not None:
                    self.rules.doom(worker_id, reason)
            case Explain(worker_id):
                self._explain(client, worker_id)
            case CheckWorker(worker_id):
                self._check(client, worker_id)
            case CheckNode(node):
                if (dead := self._dead_at(node)) is not None:
                    self.clients.send(client, _lost_node(dead))
            case (
                AskLoan() | LoanReturned() | SegmentsMade() | SegmentsFree() | SegmentsOpened()
                | SegmentsClosed() | Evicted() | Restore() | Discard()
            ):  # fmt: skip
                self.memory.said(me, message)
            case Transfer() if self.transfers is not None:
                self.transfers.said(me, client.address, message)
            case WatchOwner(address) if self.far_owners is not None:
                self.far_owners.watch(address)
            case NodeDrained() if self.far_owners is not None:
                self.far_owners.said_drained(client, message)
            case Ask(request, what) if what in history.QUESTIONS:
                self._history.ask(client, request, what)
            case Ask(request, followers.QUESTION, body):
                self._followers.ask(client, request, body)
            case Ask(request, limits.QUESTION, body):
                self.limits.ask(client, request, body)
            case Ask(request, "drain", body):
                self._drain(client, request, body)
            case Ask(request, what, body) if what in questions.OF_GROUPS:
                self.groups.ask(client, request, what, body)
            case Ask(request, what, body) if what == DEPUTY and self._port is not None:
                self._deputies.ask(client, request, body)
            case Ask(request, "metrics"):
                self._metrics.ask(client, request)
            case AskNodes():
                self._everywhere.ask(client, message)
            case AskNoMore(request):
                self._followers.answer_no_more(client, request)
            case Answer() if self._everywhere.take(client, message):
                pass
            case Ask(request, what, body) if what in acting.QUESTIONS:
                self.acting.ask(client, request, what, body)
            case Ask(request, what, body):
                self.clients.send(client, Answer(request, *questions.answer(self, what, body)))
            case Recorded():
                self._history.add(message)
            case Inspected():
                self._history.take(me, message)
            case Measured():
                self._metrics.take(me, message)
            case Preload():
                self.roster.template.send(message)
            case JobHere(job_id):
                self._drivers.works_elsewhere(client, job_id)
            case JobHeard(job_id):
                self.jobs.heard_of(job_id)
            case JobLeaves():
                self._drivers.leave_from_afar(client, message)
            case JobLeft(job_id):
                self.jobs.has_left(me, job_id)
            case JobOutput():
                self.jobs.pass_on(client, message)
            case OutputTaken():
                self.jobs.taken(message)
            case BeginsJob():
                self._begin_job(client, message)
            case Bye():
                if self.jobs.is_own_driver(client):
                    self._is_clean = True
                    self.finish("the driver has left")
                else:
                    self._drivers.leave(client)
            case _:
                self.acting.said(client, message)

    def _drain(self, client: Client, request: int, body: bytes) -> None:
        """A tool has a node drained, this one or another."""

        def then(error: str) -> None:
            self.clients.send_to(client.worker_id, Answer(request, pack(None), error))

        if self.in_cluster is None:
            then("this is no node of a cluster: a session of a program ends with that")
            return
        try:
            self.in_cluster.drain(unpack(body, in_cluster.DrainBody), then)
        except (ProtocolError, ValueError) as error:
            then(str(error))

    def _explain(self, client: Client, worker: bytes) -> None:
        if self.deaths.ask(client, worker, is_here=self.roster.get(worker) is not None):
            why = "its connections broke while it lived on"
            self._timers.call_later(BROKEN_S, lambda: self.rules.doom(worker, why))

    def _check(self, client: Client, worker: bytes) -> None:
        def over() -> None:
            if self.deaths.ask_no_more(client, worker) and not client.connection.closed:
                self.clients.send(client, WorkerLives(worker))

        if self.deaths.ask(client, worker, is_here=self._is_here(worker)):
            self._timers.call_later(BROKEN_S, over)

    def _is_here(self, process: bytes) -> bool:
        """Tell whether a worker lives, or a driver that has not said goodbye."""
        client = self.clients.get(process)
        is_driver = client is not None and client.is_local and not client.has_left
        return is_driver or self.roster.get(process) is not None

    # -------------------------------------------------------------- effects

    def _placed(self, actor: bytes, worker: bytes, address: str) -> None:
        self.acting.placed(actor, worker, address)

    def _sent_actor_on(self, actor: bytes, address: str, hops: int) -> None:
        self.acting.sent_on(actor, address, hops)

    def _do(self, effect: Effect) -> None:
        """Do one effect of a machine."""
        match effect:
            case lease_rules.Grant():
                self.grants.add(effect)
            case lease_rules.CancelGrant(lease):
                self.grants.cancel(lease)
            case lease_rules.KillLease(lease, reason):
                self._drivers.end_worker(self.grants.worker_of(lease), reason)
            case lease_rules.Refuse(actor, lease_rules.ACTOR_KEY, kind, reason):
                self.acting.refused(actor, kind, reason)
            case lease_rules.Refuse(client, key, kind, reason):
                self.scheduling.gone(client, key)
                self.clients.send_to(client, Refused(key, kind, reason))
            case lease_rules.AmountsLent(bundle):
                self.groups.reserving.lent(bundle)
            case lease_rules.BundleEmpty(bundle):
                self.groups.reserving.emptied(bundle)
            case lease_rules.AskReclaim(client):
                self.clients.send_to(client, Reclaim())
            case worker_rules.StartWorker(worker, env):
                hidden = self.facts.accelerators.hidden()
                variables = {**hidden, **self._environments.variables(env)}
                job = self.jobs.of(env)
                job.works_here()
                self.roster.start(worker, job, variables)
                if job.is_over:
                    # Who wants it may go on for long, like a detached actor, but nobody after that.
                    self.rules.tell_pool(worker_rules.EnvironmentsLeft(frozenset({env})))
            case worker_rules.UseWorker(lease, worker):
                self.grants.bind(lease, worker)
            case worker_rules.EndWorker(worker, reason):
                self._drivers.worker_ends(worker)
                if not self.clients.send_to(worker, Quit(graceful=True)):
                    self.rules.doom(worker, reason)
            case worker_rules.KillProcess(worker, reason):
                self.roster.kill(worker, reason)
            case worker_rules.LoseLease(lease):
                self.grants.lose(lease)
            case worker_rules.GiveUp(env, reason):
                self.rules.tell_leases(lease_rules.EnvironmentFailed(env, reason))
            case Later(do):
                do()
            case _:
                assert_never(effect)

    # -------------------------------------------------------------- processes

    def _ended(self, process: Process) -> None:
        """A worker process is gone: read what it sent and wrote last, and tell of its end."""
        worker = process.worker_id
        client = self.clients.get(worker)
        if client is not None:
            # A child of its may hold the connection open: nobody waits for that.
            client.connection.read_rest()
            self.clients.close(worker)
        certificate = process.certificate()
        words = describe(certificate)
        why = process.entry_failure() or f"{words}\n{certificate.stderr}".strip()
        self.roster.remove(process)
        process.job.ending.discard(worker)
        self._logs.ended(worker)
        for name in names_of(worker):
            self._followers.ended(name)
        actor = self.grants.actor_on(worker)
        if actor is not None:
            self.acting.lost(actor, worker, words)
        self.rules.tell_pool(worker_rules.WorkerExited(worker, why, blameless=process.is_orphan))
        self.deaths.add(certificate)
        self._forget_client(worker)

    def _lost_template(self) -> None:
        """The template has died, and with it all workers. Another one takes its place."""
        if self._over:
            return
        template = self.roster.template
        how = f"the template process {template.pid} ended with {template.wait(TEMPLATE_END_S)}"
        if not template.has_forked:
            log = Path(self._node.session_dir, LOG_FILE).read_text(errors="replace")
            self._say(log[-2000:].rstrip())
            raise RuntimeError(f"{how} before it could start a worker")
        print(f"weft: {how}, and its workers with it; another is started", file=sys.stderr)  # noqa: T201
        self.roster.renew()

    def _wrote(self, process: Process, is_stderr: bool, data: bytes) -> None:
        self._logs.write(process.worker_id, data, is_stderr=is_stderr)
        self._followers.wrote(names_of(process.worker_id)[is_stderr], len(data))
        actor = self.grants.actor_on(process.worker_id)
        label = process.last_run() if actor is None else self.acting.label(actor)
        process.job.show(process.worker_id, process.pid, label, data, is_stderr=is_stderr)

    def _say(self, text: str) -> None:
        """Tell the drivers' users."""
        self.jobs.say(self.facts.node_id, os.getpid(), text)

    # -------------------------------------------------------------- the end

    def _watch_lifeline(self, pid: int) -> None:
        why = "the process that the node ends with is gone"
        try:
            self._poller.add(os.pidfd_open(pid), lambda _: self.finish(why))
        except ProcessLookupError:
            self.finish(why)

    def _terminated(self, signal_number: int, frame: object) -> None:
        self._is_told_to_end = True
        self._poller.wake()

    def _end_as_told(self) -> None:
        """End; one of a cluster says so first. The head has nobody to say it to."""
        why = "the daemon was told to end"
        if self.in_cluster is None or (self._node.cluster and self._node.cluster.is_head):
            self.finish(why)
        else:
            self.in_cluster.draining.leave(why)

    def has(self) -> str:
        """Say what there is here that would be lost with the node; empty for nothing."""
        work = self.has_work()
        if work:
            return work
        usage = self.memory.machine.usage()
        if usage.used_bytes > usage.spare_bytes or usage.spilled_bytes:
            return "it keeps objects"
        return ""

    def has_work(self) -> str:
        """Say what uses this node, beside who needs the objects here; empty for nothing."""
        if any(self.grants.leases()):
            return "workers are lent"
        if self.jobs.driven():
            return "drivers are connected"
        return ""

    def fail(self) -> None:
        """End: the node cannot do what it is for, and the last line of its log says why."""
        self._has_failed = True
        self.finish("the node has failed")

    def finish(self, why: str) -> None:
        """End the session, when what is being done is done."""
        self._over = self._over or why

    def _end(self, *, keep_log: bool = False) -> None:
        """End everything of the session; serve nobody meanwhile.

        A log that is kept is removed when the next session starts.
        """
        if self._is_clean:
            self.governing.let_all_go_on()
            self.clients.send_to_workers(Quit(graceful=False))
            self._wait_for_ends(BYE_S)
        if self.in_cluster is not None:
            self.in_cluster.close()
        for process in self.roster.all():
            process.kill("the session has ended")
        self._deputies.close()
        for pid in self._environments.pids():
            os.killpg(pid, signal.SIGKILL)
        if self._is_clean:
            self._wait_for_ends(REAP_S)
        self.clients.flush()
        self.jobs.drain()
        with contextlib.suppress(OSError):
            self.roster.template.close()
            self.roster.template.wait(0)
        if self._port is not None:
            self._port.close()
        if self.transfers is not None:
            self.transfers.close()
        self._remove_leftovers()
        self.memory.close()
        sessions.remove_tree(self._node.store_dir)
        if not keep_log:
            sessions.remove_session(self._node.session_dir)
        self.jobs.close()

    def _wait_for_ends(self, limit_s: float) -> None:
        """Wait for the workers to end; pass on what they write. The machines are not asked."""
        self.clients.flush()
        until = monotonic() + limit_s
        while self.roster.all() and monotonic() < until:
            self._poller.poll(self._timers.sleep_s(until))
            self._timers.ring()
            self.rules.drop_effects()
            self.clients.flush()

    def _remove_leftovers(self) -> None:
        """Remove what dead sessions have left: once, and not while somebody waits for a worker."""
        if self._has_swept:
            return
        self._has_swept = True
        sessions.remove_leftovers(str(Path(self._node.session_dir).parent))
        sessions.remove_leftovers(user_root(_settings.STORE_ROOT.value()))
        sessions.remove_links()
        self.memory.remove_leftovers()


def _lost_node(node: MemberFacts) -> NodeLost:
    return NodeLost(node.node_id, node.address, node.cause, node.incarnation)


def _outside(node: NodeFile, poller: Poller, timers: Timers) -> Outside | None:
    if node.cluster is None:
        return None
    return Outside(poller, timers, node.cluster.credentials, is_daemons=True)


def serve(node: NodeFile, template_sock: socket.socket, template_pid: int) -> int:
    """Be the daemon until the session is over; return the exit code."""
    # Three descriptors a worker: two hundred workers need more than the usual 1,024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return Daemon(node, template_sock, template_pid).run()
