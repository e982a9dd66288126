"""The node daemon: the shell round the machines of leases, workers and actors.

One thread, one wait. A message or the end of a process becomes an event of a machine; the effects
that the machine returns are done in order, and may tell other machines. When nothing is left to do,
what was queued is sent.

What is always true
1. Only this thread touches the machines. An event is handled at once; effects wait their turn, so
   an effect can be stale (its lease was cancelled meanwhile): then it does nothing.
2. Every worker that was started ends in one certificate, made after its process was reaped, its
   connection was read to the end, and its output too.
3. The session ends when the driver that began it is gone: no process and no file of it is left.
4. With nothing to do it sleeps: no timer runs while no wait has an end.

    leases.Grant -> pool.WorkerWanted -> UseWorker -> leases.LeaseBound
                                      Granted to the client, who tells the worker (Assigned)
    process ends -> pool.WorkerExited -> LoseLease -> leases.LeaseReturned
                    leases.ClientGone, actors.ClientEnded
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import traceback
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from weft import _settings
from weft._clock import monotonic
from weft._ids import JobId, NodeId
from weft._launch import LOG_FILE, NodeFile, user_root
from weft._machines import actors as actor_rules
from weft._machines import leases as lease_rules
from weft._machines import workers as worker_rules
from weft._machines.placement import NodeView
from weft._node import host, questions, sessions
from weft._node.clients import Client, Clients
from weft._node.deaths import Deaths
from weft._node.environments import Environments
from weft._node.output import BEHIND_BYTES, Outputs
from weft._node.processes import Process, Template, describe, fork_template
from weft._node.timers import Timers
from weft._resources import Resources
from weft._transport.sockets import Poller
from weft._wire.codec import pack
from weft._wire.messages import (
    ActorExit,
    ActorReady,
    ActorState,
    Answer,
    Ask,
    BecomeActor,
    Blocked,
    Bye,
    CreateActor,
    Demand,
    Discard,
    EndActor,
    Events,
    Explain,
    Forked,
    Granted,
    Hello,
    KillWorker,
    Message,
    Output,
    Quit,
    Reaped,
    Reclaim,
    Refused,
    ReturnLease,
    Unblocked,
    WatchActor,
    Welcome,
)
from weft._wire.version import WIRE
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    import socket

    from weft._specs import Shape

# Forking is serial in the template; more in flight would only fill its socket.
MAX_STARTING = 16
# The end of a dead process's connection is read in the same round; a child that holds it open must
# not delay the news.
LAST_MESSAGES_S = 0.2
# A worker whose connection broke is dead or dying. After so long it is killed, so that those who
# asked get an answer.
BROKEN_S = 2.0
# Exit hooks of the user's run after the connection is closed.
LEFT_S = 5.0
# What a shutdown may cost (architecture.md section 13: 0.3 s) bounds the exit hooks of all workers
# together.
BYE_S = 0.2
REAP_S = 2.0
# Between the end of its connection and its own.
TEMPLATE_END_S = 1.0
# Leftovers of dead sessions are removed when the first tasks have had their workers.
LEFTOVERS_S = 1.0
MEMORY_SHARE = 0.7
STORE_SHARE = 0.3


class Daemon:
    """The daemon of one node."""

    def __init__(self, node: NodeFile, template_sock: socket.socket, template_pid: int) -> None:
        options = node.options
        self._node = node
        self.node_id = NodeId.from_random()
        self._job_id = JobId.from_random()
        self.labels = {"weft.io/node-id": self.node_id.hex(), **options.labels}
        self._cpus = host.cpus() if options.num_cpus is None else options.num_cpus
        devices = _devices(options.num_gpus)
        view = NodeView(
            node_id=self.node_id,
            total=_total(node, self._cpus, devices),
            free=_total(node, self._cpus, devices),
            labels=self.labels,
            is_local=True,
        )
        keep = _settings.IDLE_WORKERS.value()
        self.leases = lease_rules.Leases(view, {"GPU": devices} if devices else {})
        self.pool = worker_rules.Workers(
            keep=self._cpus if keep < 0 else keep, max_starting=MAX_STARTING, id_head=os.urandom(8)
        )
        self.actors = actor_rules.Actors()
        self._checks = _settings.CHECK.value()
        self._effects: deque[Any] = deque()

        self._poller = Poller()
        self._timers = Timers()
        self.call_later = self._timers.call_later
        self.clients = Clients(
            self._poller, node.listen_fd, met=self._met, said=self._said, lost=self._lost
        )
        self._template = self._attend(template_sock, template_pid)
        self._outputs = Outputs(self._poller, self.call_later, self._is_driver_behind)
        self._environments = Environments(self._poller, self._outputs, node.session_dir)
        self._timelines = questions.Timelines(self)

        self._deaths = Deaths(self.clients.send)
        self._process_of: dict[bytes, Process] = {}
        self._process_by_pid: dict[int, Process] = {}
        self._grant_of: dict[int, lease_rules.Grant] = {}
        self._worker_of_lease: dict[int, bytes] = {}
        self._creation_of: dict[bytes, CreateActor] = {}
        self._demand_by_building: dict[
            tuple[bytes, int], lease_rules.Demanded | lease_rules.ActorWanted
        ] = {}
        """Demands whose environment is being built."""
        self._driver: Client | None = None
        """The driver that began the session."""
        self._over = ""
        """Why the session ends; empty while it goes on."""
        self._is_clean = False
        self._has_swept = False
        self._driver_fd = self._watch_driver()

    # -------------------------------------------------------------- the loop

    def run(self) -> int:
        """Serve until the session is over; return the exit code."""
        signal.signal(signal.SIGTERM, self._terminated)
        prestart = self._node.options.prestart
        opened = worker_rules.PoolOpened(
            self._cpus if prestart is None else prestart, self._node.options.runtime_env
        )
        # One that cannot be built is told to the first task that wants it.
        self._environments.prepare_early(
            opened.env, lambda reason: None if reason else self._tell_pool(opened)
        )
        self._settle()
        self.call_later(LEFTOVERS_S, self._remove_leftovers)
        try:
            while not self._over:
                self._poller.poll(self._timeout_s())
                self._ring()
                self._settle()
                self.clients.flush()
        except Exception as error:  # noqa: BLE001 - the shell's outermost loop
            traceback.print_exc()
            self._say(f"weft: the node daemon failed and ends the session: {error}")
            self._end(keep_log=True)
            return 1
        self._end()
        return 0

    def _timeout_s(self) -> float | None:
        times = (self._timers.next_at(), self.pool.wake_at(), self.actors.wake_at())
        at = min((at for at in times if at is not None), default=None)
        return None if at is None else max(0.0, at - monotonic())

    def _ring(self) -> None:
        """Do what is due."""
        self._timers.ring()
        now = monotonic()
        if (at := self.pool.wake_at()) is not None and at <= now:
            self._tell_pool(worker_rules.WorkersTicked())
        if (at := self.actors.wake_at()) is not None and at <= now:
            self._tell_actors(actor_rules.ActorsTicked())

    def _settle(self) -> None:
        """Do all effects, and those that they lead to."""
        effects = self._effects
        while effects:
            self._do(effects.popleft())

    def _tell_leases(self, event: lease_rules.Event) -> None:
        self._effects += self.leases.handle(event, monotonic())
        if self._checks:
            self.leases.check()

    def _tell_pool(self, event: worker_rules.Event) -> None:
        self._effects += self.pool.handle(event, monotonic())
        if self._checks:
            self.pool.check()

    def _tell_actors(self, event: actor_rules.Event) -> None:
        self._effects += self.actors.handle(event, monotonic())
        if self._checks:
            self.actors.check()

    # -------------------------------------------------------------- connections

    def _watch_driver(self) -> int:
        """Learn of the driver's end from the kernel: its children may hold its connection open."""
        try:
            fd = os.pidfd_open(self._node.parent_pid)
        except ProcessLookupError:
            self._over = "the driver is gone"
            return -1
        self._poller.add(fd, lambda _: self._finish("the driver is gone"))
        return fd

    def _met(self, client: Client) -> None:
        process = self._process_of.get(client.worker_id)
        if client.role == "worker" and process is None:
            raise ProtocolError(
                f"process {client.pid} says that it is a worker, but was not started here"
            )
        hello = Hello(WIRE, self.node_id, self._node.address, os.getpid(), "daemon")
        self.clients.send(client, hello)
        self.clients.send(client, self._welcome())
        if process is not None:
            process.address = client.address or process.address
            process.forked(client.pid)  # The template's own word may come later.
            self._tell_pool(worker_rules.WorkerReady(client.worker_id))
        elif client.pid == self._node.parent_pid:
            self._driver = client

    def _said(self, client: Client, message: Message) -> None:
        # Effects of one message are done before the next is read, so a client's messages act in
        # order.
        self._settle()
        if not self._over:
            self._message(client, message)
            self._settle()

    def _welcome(self) -> Welcome:
        options = self._node.options
        return Welcome(
            job_id=self._job_id,
            node_id=self.node_id,
            session=self._node.session,
            session_dir=self._node.session_dir,
            store_dir=self._node.store_dir,
            namespace=options.namespace,
            resources=self.leases.total.to_floats(),
            labels=self.labels,
            runtime_env=options.runtime_env,
            logging=options.logging,
        )

    def _lost(self, client: Client) -> None:
        process = self._process_of.get(client.worker_id)
        if process is not None:
            self._left(process)
        elif client is self._driver:
            self._finish("the driver has closed its connection")
        else:
            self._client_gone(client.worker_id)

    def send_to_workers(self, message: Message) -> set[bytes]:
        """Queue a message to every connected worker; return which."""
        return {worker for worker in self._process_of if self.clients.send_to(worker, message)}

    def _is_driver_behind(self) -> bool:
        return self._driver is not None and self._driver.unread_bytes() > BEHIND_BYTES

    # -------------------------------------------------------------- messages

    def _message(self, client: Client, message: Message) -> None:
        """Make events of a client's message."""
        match message:
            case Demand(key, shape, workers, depth, task_name):
                self._demand(
                    lease_rules.Demanded(client.worker_id, key, shape, workers, depth, task_name)
                )
            case ReturnLease(worker_id, retire):
                self._return_lease(client, worker_id, retire=retire)
            case Blocked():
                self._set_blocked(client, lease_rules.TaskBlocked)
            case Unblocked():
                self._set_blocked(client, lease_rules.TaskUnblocked)
            case CreateActor():
                self._create_actor(client, message)
            case WatchActor(actor_id):
                self._tell_actors(actor_rules.Watched(actor_id, client.worker_id))
            case EndActor(actor_id, graceful, no_restart, reason):
                self._tell_actors(
                    actor_rules.EndAsked(
                        actor_id, graceful=graceful, no_restart=no_restart, reason=reason
                    )
                )
            case ActorReady(actor_id, error):
                self._tell_actors(
                    actor_rules.ConstructorFailed(actor_id, client.worker_id, error)
                    if error
                    else actor_rules.ActorStarted(actor_id, client.worker_id)
                )
            case ActorExit(actor_id, reason):
                self._tell_actors(actor_rules.ActorLeft(actor_id, client.worker_id, reason))
            case KillWorker(worker_id, reason):
                grant = self._grant_of.get(self.pool.lease_of(worker_id) or 0)
                if grant is not None and grant.client == client.worker_id:
                    self._doom(worker_id, reason)
            case Explain(worker_id):
                self._explain(client, worker_id)
            case Discard(segments):
                for name in segments:
                    self._discard(name)
            case Ask(request, "timeline"):
                self._timelines.ask(client, request)
            case Ask(request, what, body):
                self.clients.send(client, Answer(request, *questions.answer(self, what, body)))
            case Events():
                self._timelines.take(client.worker_id, message)
            case Bye():
                if client is self._driver:
                    self._is_clean = True
                    self._finish("the driver has left")
            case _:
                raise ProtocolError(
                    f"process {client.pid} sent {type(message).__name__}, which is not for a daemon"
                )

    def _demand(self, event: lease_rules.Demanded | lease_rules.ActorWanted) -> None:
        """Queue a demand once its environment is there."""
        is_actor = isinstance(event, lease_rules.ActorWanted)
        at = (event.actor, lease_rules.ACTOR_KEY) if is_actor else (event.client, event.key)  # type: ignore[union-attr]
        env = event.shape.env
        if self._environments.is_ready(env):
            self._demand_by_building.pop(at, None)
            self._tell_leases(event)
            return
        self._demand_by_building[at] = event
        self._environments.prepare(env, lambda reason: self._prepared(at, env, reason))

    def _prepared(self, at: tuple[bytes, int], env: str, reason: str) -> None:
        event = self._demand_by_building.get(at)
        if event is None or event.shape.env != env:
            return
        del self._demand_by_building[at]
        if reason:
            self._do(lease_rules.Refuse(*at, "environment", reason))
        else:
            self._tell_leases(event)

    def _return_lease(self, client: Client, worker_id: bytes, *, retire: bool) -> None:
        lease = self.pool.lease_of(worker_id)
        grant = self._grant_of.get(lease) if lease is not None else None
        if lease is None or grant is None or grant.client != client.worker_id:
            return  # The worker has died meanwhile.
        if retire or grant.accelerators:
            self._tell_pool(worker_rules.WorkerReleased(worker_id, retire=True))
            return
        self._forget_lease(lease)
        self._tell_pool(worker_rules.WorkerReleased(worker_id))
        self._tell_leases(lease_rules.LeaseReturned(lease))

    def _set_blocked(
        self, client: Client, event: type[lease_rules.TaskBlocked | lease_rules.TaskUnblocked]
    ) -> None:
        lease = self.pool.lease_of(client.worker_id)
        if lease in self._worker_of_lease:
            self._tell_leases(event(lease))

    def _create_actor(self, client: Client, message: CreateActor) -> None:
        options, meta = message.options, message.meta
        if meta.actor_id in self._creation_of:
            raise ProtocolError(f"process {client.pid} created an actor twice")
        self._creation_of[meta.actor_id] = message
        self._tell_actors(
            actor_rules.ActorCreated(
                actor=meta.actor_id,
                client=client.worker_id,
                request=message.request,
                name=meta.name,
                namespace=meta.namespace,
                is_detached=options.get("lifetime") == "detached",
                get_if_exists=bool(options.get("get_if_exists")),
                max_restarts=int(options.get("max_restarts") or 0),
            )
        )

    def actor_record(self, actor_id: bytes) -> tuple[Any, str]:
        """Return (ActorMeta, address of the owner; empty if detached)."""
        creation = self._creation_of[actor_id]
        is_detached = creation.options.get("lifetime") == "detached"
        return creation.meta, "" if is_detached else creation.owner

    def _explain(self, client: Client, worker: bytes) -> None:
        if self._deaths.ask(client, worker, is_here=worker in self._process_of):
            why = "its connections broke while it lived on"
            self.call_later(BROKEN_S, lambda: self._doom(worker, why))

    def _discard(self, name: str) -> None:
        if "/" in name or name.startswith(".") or name == "lock":
            raise ProtocolError(f"{name!r} is not the name of a segment")
        with contextlib.suppress(FileNotFoundError):
            Path(self._node.store_dir, name).unlink()

    # -------------------------------------------------------------- effects

    def _do(self, effect: Any) -> None:
        """Do one effect of a machine."""
        match effect:
            case lease_rules.Grant(lease, shape=shape):
                self._grant_of[lease] = effect
                self._tell_pool(worker_rules.WorkerWanted(lease, shape.env))
            case lease_rules.CancelGrant(lease):
                self._forget_lease(lease)
                self._tell_pool(worker_rules.WantCancelled(lease))
            case lease_rules.KillLease(lease, reason):
                self._doom(self._worker_of_lease.get(lease, b""), reason)
            case lease_rules.Refuse(client, lease_rules.ACTOR_KEY, kind, reason):
                self._tell_actors(actor_rules.ActorRefused(client, reason, kind))
            case lease_rules.Refuse(client, key, kind, reason):
                self.clients.send_to(client, Refused(key, kind, reason))
            case lease_rules.AskReclaim(client):
                self.clients.send_to(client, Reclaim())
            case worker_rules.StartWorker(worker, env):
                self._start_worker(worker, env)
            case worker_rules.UseWorker(lease, worker):
                self._use_worker(lease, worker)
            case worker_rules.EndWorker(worker, reason):
                if not self.clients.send_to(worker, Quit(graceful=True)):
                    self._doom(worker, reason)
            case worker_rules.KillProcess(worker, reason):
                if worker in self._process_of:
                    self._process_of[worker].kill(reason)
            case worker_rules.LoseLease(lease, _):
                self._lose_lease(lease)
            case worker_rules.GiveUp(env, reason):
                self._tell_leases(lease_rules.EnvironmentFailed(env, reason))
            case _:
                self._do_for_actor(effect)

    def _do_for_actor(self, effect: actor_rules.Effect) -> None:
        match effect:
            case actor_rules.Reply(client, request, existing, error):
                body = pack(self.actor_record(existing)) if existing else b""
                self.clients.send_to(client, Answer(request, body, error))
            case actor_rules.WantWorker(actor):
                creation = self._creation_of.get(actor)
                if creation is not None:
                    name = creation.meta.class_name
                    self._demand(lease_rules.ActorWanted(actor, creation.shape, name))
            case actor_rules.DropWant(actor):
                self._demand_by_building.pop((actor, lease_rules.ACTOR_KEY), None)
                self._tell_leases(lease_rules.ActorEnded(actor))
            case actor_rules.Become(actor, worker, restarts):
                self._become(actor, worker, restarts)
            case actor_rules.Tell():
                self.clients.send_to(
                    effect.client, ActorState(*msgspec.structs.astuple(effect)[1:])
                )
            case actor_rules.QuitActor(worker):
                self.clients.send_to(worker, Quit(graceful=True))
            case actor_rules.KillActor(worker, reason):
                self._doom(worker, reason)
            case actor_rules.Forget(actor):
                self._creation_of.pop(actor, None)
            case _:
                assert_never(effect)

    def _forget_lease(self, lease: int) -> None:
        self._grant_of.pop(lease, None)
        self._worker_of_lease.pop(lease, None)

    def _lose_lease(self, lease: int) -> None:
        grant = self._grant_of.get(lease)
        if grant is None:
            return
        if lease in self._worker_of_lease:
            self._forget_lease(lease)
            self._tell_leases(lease_rules.LeaseReturned(lease))
        else:
            # It died between being chosen and being told: nobody else knows of it.
            self._tell_pool(worker_rules.WorkerWanted(lease, grant.shape.env, first=True))

    def _use_worker(self, lease: int, worker: bytes) -> None:
        grant = self._grant_of.get(lease)
        process = self._process_of.get(worker)
        if grant is None or process is None or self.pool.lease_of(worker) != lease:
            return
        if not self.leases.is_unbound(lease):
            return  # It was cancelled meanwhile; CancelGrant follows and frees the worker.
        self._worker_of_lease[lease] = worker
        self._tell_leases(lease_rules.LeaseBound(lease))
        if grant.key == lease_rules.ACTOR_KEY:
            self._tell_actors(actor_rules.ActorPlaced(grant.client, worker, process.address))
            return
        self.clients.send_to(
            grant.client,
            Granted(
                key=grant.key,
                worker_id=worker,
                address=process.address,
                contended=grant.contended,
                node_id=self.node_id,
                accelerators=grant.accelerators,
            ),
        )

    def _become(self, actor: bytes, worker: bytes, restarts: int) -> None:
        creation = self._creation_of.get(actor)
        grant = self._grant_of.get(self.pool.lease_of(worker) or 0)
        if creation is None or grant is None:
            return
        self.clients.send_to(
            worker,
            BecomeActor(
                meta=creation.meta,
                function_id=creation.function_id,
                code=creation.code,
                args=creation.args,
                deps=creation.deps,
                options=creation.options,
                restarts=restarts,
                accelerators=grant.accelerators,
                resources=dict(grant.shape.amounts),
                owners=creation.owners,
                large=creation.large,
                owner=creation.owner,
            ),
        )

    # -------------------------------------------------------------- processes

    def processes(self) -> list[Process]:
        """Return the worker processes."""
        return list(self._process_of.values())

    def _start_worker(self, worker: bytes, env: str) -> None:
        process = Process(worker, self._node.session_dir, self._outputs, self._wrote)
        self._process_of[worker] = process
        process.start(self._template, self._environments.variables(env))

    def _doom(self, worker: bytes, reason: str) -> None:
        if self.pool.state_of(worker) != "gone":
            self._tell_pool(worker_rules.WorkerDoomed(worker, reason))

    def _attend(self, sock: socket.socket, pid: int) -> Template:
        return Template(self._poller, sock, pid, said=self._template_said, lost=self._template_lost)

    def _template_said(self, message: Message) -> None:
        match message:
            case Forked(worker_id, pid):
                process = self._process_of[worker_id]
                self._process_by_pid[pid] = process
                process.forked(pid)
            case Reaped(pid):
                ended = self._process_by_pid.pop(pid, None)
                if ended is not None:  # A preloaded module may have children of its own.
                    ended.reaped = message
                    self._ended(ended)
            case _:
                raise ProtocolError(f"the template sent {message!r}")

    def _template_lost(self) -> None:
        """The template has died, and with it all workers. Another one takes its place."""
        if self._over:
            return
        code = self._template.wait(TEMPLATE_END_S)
        how = f"the template process {self._template.pid} ended with {code}"
        if not self._template.has_forked:
            log = Path(self._node.session_dir, LOG_FILE).read_text(errors="replace")
            self._say(log[-2000:].rstrip())
            raise RuntimeError(f"{how} before it could start a worker")
        print(f"weft: {how}, and its workers with it; another is started", file=sys.stderr)  # noqa: T201
        self._process_by_pid.clear()
        for process in self.processes():
            process.orphaned()
            self._ended(process)
        self._template = self._attend(*fork_template(self._node))

    def _ended(self, process: Process) -> None:
        """A process has ended; what it sent last may not be read yet."""
        if self.clients.get(process.worker_id) is None:
            self._gone(process)
        else:
            self.call_later(LAST_MESSAGES_S, lambda: self._gone(process))

    def _left(self, process: Process) -> None:
        """A worker's connection is closed."""
        if process.reaped is not None or process.is_orphan:
            self._gone(process)
        else:
            why = "it closed its connection and did not end"
            self.call_later(LEFT_S, lambda: self._doom(process.worker_id, why))

    def _gone(self, process: Process) -> None:
        """A worker process has ended, and all that it had to say is read."""
        worker = process.worker_id
        if self._process_of.get(worker) is not process:
            return
        certificate = process.certificate()
        why = process.entry_failure() or f"{describe(certificate)}\n{certificate.stderr}".strip()
        self.clients.close(worker)
        del self._process_of[worker]
        process.close()
        grant = self._grant_of.get(self.pool.lease_of(worker) or 0)
        if grant is not None and grant.key == lease_rules.ACTOR_KEY:
            self._tell_actors(actor_rules.ActorLost(grant.client, worker, describe(certificate)))
        self._tell_pool(worker_rules.WorkerExited(worker, why, blameless=process.is_orphan))
        self._client_gone(worker)
        self._deaths.add(certificate)

    def _client_gone(self, client: bytes) -> None:
        for at in [at for at in self._demand_by_building if at[0] == client]:
            del self._demand_by_building[at]
        self._tell_leases(lease_rules.ClientGone(client))
        self._tell_actors(actor_rules.ClientEnded(client))

    def _wrote(self, process: Process, is_stderr: bool, data: bytes) -> None:
        if self._driver is None or not self._node.options.log_to_driver:
            return
        grant = self._grant_of.get(self.pool.lease_of(process.worker_id) or 0)
        creation = self._creation_of.get(grant.client) if grant else None
        if creation is not None:
            label = creation.meta.name or creation.meta.class_name
        else:
            label = process.running()[1]
        self._output(process.worker_id, process.pid, label, data, is_stderr=is_stderr)

    def _output(self, worker: bytes, pid: int, label: str, data: bytes, *, is_stderr: bool) -> None:
        if self._driver is not None and not self._driver.connection.closed:
            self.clients.send(self._driver, Output(worker, pid, label, is_stderr, data))

    def _say(self, text: str) -> None:
        """Tell the driver's user."""
        self._output(self.node_id, os.getpid(), "weft", f"{text}\n".encode(), is_stderr=True)

    # -------------------------------------------------------------- questions

    def explain_shape(self, shape: Shape, now: float) -> str:
        """Say what a demand of this shape waits for."""
        if any(event.shape == shape for event in self._demand_by_building.values()):
            return "its runtime environment is being built"
        return self.leases.explain(shape, now)

    def explain_actor(self, actor: bytes, now: float) -> str:
        """Say where an actor is in its life, or what it waits for."""
        creation = self._creation_of.get(actor)
        words = self.actors.explain(actor, now)
        if words or creation is None:
            return words
        return f"waits for a worker: {self.explain_shape(creation.shape, now)}"

    # -------------------------------------------------------------- the end

    def _terminated(self, signal_number: int, frame: object) -> None:
        self._finish("the daemon was told to end")
        self._poller.wake()

    def _finish(self, why: str) -> None:
        self._over = self._over or why

    def _end(self, *, keep_log: bool = False) -> None:
        """End everything of the session; serve nobody meanwhile.

        A log that is kept is removed when the next session starts.
        """
        if self._is_clean:
            self.send_to_workers(Quit(graceful=False))
            self._wait_for_ends(BYE_S)
        for process in self._process_of.values():
            process.kill("the session has ended")
        for pid in self._environments.pids():
            os.killpg(pid, signal.SIGKILL)
        if self._is_clean:
            self._wait_for_ends(REAP_S)
        self.clients.flush()
        if self._driver is not None:
            self._driver.connection.drain()
        with contextlib.suppress(OSError):
            self._template.close()
            self._template.wait(0)
        if not self._has_swept:
            self._remove_leftovers()
        sessions.remove_tree(self._node.store_dir)
        if not keep_log:
            sessions.remove_tree(self._node.session_dir)
        if self._driver is not None:
            self._driver.connection.close()

    def _wait_for_ends(self, limit_s: float) -> None:
        """Wait for the workers to end; pass on what they write. The machines are not asked."""
        self.clients.flush()
        until = monotonic() + limit_s
        while self._process_of and (left_s := until - monotonic()) > 0:
            ring_at = self._timers.next_at()
            self._poller.poll(
                left_s if ring_at is None else min(left_s, max(0.0, ring_at - monotonic()))
            )
            self._timers.ring()
            self._effects.clear()
            self.clients.flush()

    def _remove_leftovers(self) -> None:
        self._has_swept = True
        for root in (
            str(Path(self._node.session_dir).parent),
            user_root(_settings.STORE_ROOT.value()),
        ):
            sessions.remove_leftovers(root)


def _devices(num_gpus: int | None) -> list[str]:
    found = host.gpus()
    if num_gpus is None:
        return found
    return found[:num_gpus] if num_gpus <= len(found) else [str(index) for index in range(num_gpus)]


def _total(node: NodeFile, cpus: int, devices: list[str]) -> Resources:
    options = node.options
    memory = host.memory_bytes()
    store = options.object_store_memory
    return Resources(
        {
            "CPU": cpus,
            "GPU": len(devices),
            "memory": int(memory * MEMORY_SHARE),
            "object_store_memory": int(memory * STORE_SHARE) if store is None else store,
            **options.resources,
        }
    )


def serve(node: NodeFile, template_sock: socket.socket, template_pid: int) -> int:
    """Be the daemon until the session is over; return the exit code."""
    # Three descriptors a worker: two hundred workers need more than the usual 1,024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return Daemon(node, template_sock, template_pid).run()
