"""Actors in a cluster: the control service decides, and this is its hand on one node.

    CreateActor, WatchActor, EndActor   -> Actors.Create, Watch, End
    ActorNews                           <- what is watched has changed
    WantOrder -> Wants -> Scheduling -> Grants -> Report: placed, with a worker of this node
                       -> another node's daemon, whose it is then
    MakeOrder                           -> BecomeActor to the worker
    ActorReady, ActorExit, the worker's end -> Report

What is always true
1. What is said of one actor is said in order, each when the one before was answered.
2. That an owner is gone is said after all that it created.
3. While there is no control service all of this waits; calls to actors go on. But what a process
   of this node owns on this node ends with it, also then.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

from weft import _settings
from weft._machines import wants
from weft._machines.leases import ACTOR_DEPTH, ACTOR_KEY, Demanded
from weft._machines.orders import DropOrder, KillOrder, MakeOrder, Order, QuitOrder, WantOrder
from weft._machines.placement import group_of
from weft._node.acting import (
    Acting,
    become,
    is_detached,
    label_of,
    unexpected,
)
from weft._node.actor_questions import ActorQuestions, words_of
from weft._node.actor_watchers import ActorWatchers
from weft._node.control_link import FENCED
from weft._override import override
from weft._transport.addresses import process_of
from weft._transport.control import messages
from weft._wire.codec import pack, unpack
from weft._wire.messages import (
    ActorExit,
    ActorReady,
    Answer,
    CreateActor,
    EndActor,
    Quit,
    WantActor,
    WantSentOn,
    WantSettled,
    WantTaken,
    WatchActor,
)
from weft.exceptions import RpcError, WeftError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._ids import NodeId
    from weft._node.clients import Client, Clients
    from weft._node.control_link import ControlLink
    from weft._node.grants import Grants
    from weft._node.jobs import NodeJobs
    from weft._node.roster import Roster
    from weft._node.rules import Rules
    from weft._node.scheduling import Scheduling
    from weft._specs import Shape
    from weft._wire.messages import Message


class _ActorHere:
    """An actor that a worker of this node is."""

    __slots__ = ("label", "owner", "state", "worker")

    def __init__(self, worker: bytes, creation: CreateActor) -> None:
        self.worker = worker
        self.label = label_of(creation)
        self.owner = None if is_detached(creation) else process_of(creation.owner)
        self.state = "pending"


class ClusterActing(Acting):
    """The control service has the directory."""

    def __init__(
        self,
        link: ControlLink,
        rules: Rules,
        clients: Clients,
        roster: Roster,
        scheduling: Scheduling,
        grants: Grants,
        *,
        node_id: NodeId,
        address: str,
        jobs: NodeJobs,
        end_worker: Callable[[bytes, str], None],
    ) -> None:
        """`address`: of this daemon."""
        self._link = link
        self._rules = rules
        self._clients = clients
        self._scheduling = scheduling
        self._grants = grants
        self._node_id = node_id
        self._jobs = jobs
        self._end_worker = end_worker
        self._wants = wants.Wants(node_id, address)
        self._checks = _settings.CHECK.value()
        self._askers: dict[str, Client] = {}
        """Other nodes' daemons that have asked for workers."""
        self._here: dict[bytes, _ActorHere] = {}
        """The actors of this node."""
        self._owners: set[bytes] = set()
        """Processes of this node that have actors which end with them."""
        self._creating: Counter[bytes] = Counter()
        """By owner: the creations that are not answered yet."""
        self._ended: set[bytes] = set()
        """Owners that are gone, of which that is not said yet."""
        self._refused: list[tuple[bytes, CreateActor]] = []
        """By owners here: creations that were said for a life of the node which is over."""
        self.watchers = ActorWatchers(link, clients)
        self._questions = ActorQuestions(
            link, clients, roster, scheduling, node_id=node_id, wants=self._wants
        )

    # -------------------------------------------------------------- what processes say

    @override
    def said(self, client: Client, message: Message) -> None:
        match message:
            case CreateActor():
                self._create(client.worker_id, message)
            case WatchActor(actor):
                self.watchers.add(client, actor)
            case EndActor(actor, graceful, no_restart, reason):
                end = messages.EndActorRequest(
                    actor_id=actor, graceful=graceful, no_restart=no_restart, reason=reason
                )
                self._say("end", actor, end)
            case ActorReady(actor, error):
                self._ready(client, actor, error)
            case ActorExit(actor, reason):
                report = self._report(actor, client.worker_id)
                report.left = reason
                self._say("report", actor, report)
            case WantActor(actor, shape, name, asked, number, hops):
                self._askers[client.address] = client
                asker = client.address
                self._tell(wants.WantAsked(actor, shape, name, asker, asked, number, hops))
            case WantTaken(actor, number):
                self._tell(wants.WantTakenBack(actor, client.address, number))
            case WantSentOn(actor, number, target, hops):
                self._tell(wants.SentBack(actor, client.address, number, target, hops))
            case WantSettled(actor, number):
                self._tell(wants.SettledThere(actor, client.address, number))
            case Answer() if self._questions.take(message):
                pass
            case _:
                raise unexpected(client, message)

    def _say(
        self,
        method: str,
        actor: bytes,
        request: Any,
        then: Callable[[Any], None] = lambda answer: None,
    ) -> None:
        """Tell control something of an actor, after all that was said of it before."""
        self._link.call("Actors", method, request, then, lane=actor, timeout_s=math.inf)

    def _report(self, actor: bytes, worker: bytes = b"") -> messages.ReportActorRequest:
        header = messages.Header(sender=self._link.sender)
        return messages.ReportActorRequest(header=header, actor_id=actor, worker_id=worker)

    def _create(self, owner: bytes, creation: CreateActor) -> None:
        """Have an actor made; none from a dead node, for nobody would hear of its owner's end."""
        meta = creation.meta
        request = messages.CreateActorRequest(
            header=messages.Header(sender=self._link.sender),
            actor_id=bytes(meta.actor_id),
            owner_id=owner,
            node_id=bytes(self._node_id),
            job_id=bytes(self._jobs.of(creation.shape.env).id),
            creation=pack(creation),
            name=meta.name,
            namespace=meta.namespace,
            is_detached=is_detached(creation),
            max_restarts=int(creation.options.get("max_restarts") or 0),
            handle=pack((meta, "" if is_detached(creation) else creation.owner)),
            class_name=meta.class_name,
            amounts=dict(creation.shape.amounts),
            group_id=bytes(group_of(creation.shape) or b""),
        )
        self._creating[owner] += 1
        self._say("create", meta.actor_id, request, partial(self._created, owner, creation))

    def _created(self, owner: bytes, creation: CreateActor, answer: Any) -> None:
        is_over = owner in self._ended
        is_refused = _is_fenced(answer) and not is_over
        if not is_detached(creation) and not is_refused:
            self._owners.add(owner)
        self._creating[owner] -= 1
        if not self._creating[owner]:
            del self._creating[owner]
            if is_over:
                self._end_owner(owner)
        if is_refused:
            self._refused.append((owner, creation))
            if self._link.incarnation:
                self.registered()
            return
        error = words_of(answer) if isinstance(answer, WeftError) else ""
        if creation.request:
            self._clients.send_to(owner, Answer(creation.request, error=error))
        elif error and not is_over:
            # Others may have a handle already, and watch it as its owner does.
            actor = creation.meta.actor_id
            end = messages.EndActorRequest(actor_id=actor, no_restart=True, reason=error)
            self._say("end", actor, end)

    def _ready(self, client: Client, actor: bytes, error: bytes) -> None:
        """The constructor of an actor of this node has ended."""
        report = self._report(actor, client.worker_id)
        if error:
            report.failed = error
        else:
            report.started.SetInParent()
            if actor in self._here:
                self._here[actor].state = "alive"
        self._say("report", actor, report)

    @override
    def lost(self, actor: bytes, worker: bytes, cause: str) -> None:
        self._here.pop(actor, None)
        report = self._report(actor, worker)
        report.lost = cause
        self._say("report", actor, report)

    @override
    def gone(self, client: bytes) -> None:
        self.watchers.remove(client)
        self._refused = [each for each in self._refused if each[0] != client]
        for actor in [each for each in self._here.values() if each.owner == client]:
            self._end_worker(actor.worker, "the process that created it has ended")
        if client in self._creating:
            self._ended.add(client)
        elif client in self._owners:
            self._end_owner(client)

    def _end_owner(self, owner: bytes) -> None:
        self._owners.discard(owner)
        self._ended.discard(owner)
        request = messages.EndOwnerRequest(owner_id=owner)
        self._link.call("Actors", "end_owner", request, timeout_s=math.inf)

    # -------------------------------------------------------------- what control orders

    def ordered(self, order: Order) -> None:
        """Do what control orders."""
        match order:
            case WantOrder(actor, creation):
                made = unpack(creation, CreateActor)
                self._tell(wants.WantOrdered(actor, made.shape, made.meta.class_name))
            case DropOrder(actor):
                self._tell(wants.WantDropped(actor))
            case MakeOrder(actor, worker, restarts, creation):
                self._become(actor, worker, restarts, unpack(creation, CreateActor))
            case QuitOrder(worker):
                self._clients.send_to(worker, Quit(graceful=True))
            case KillOrder(worker, reason):
                self._end_worker(worker, reason)
            case _:
                assert_never(order)

    def _become(self, actor: bytes, worker: bytes, restarts: int, creation: CreateActor) -> None:
        grant = self._grants.served_by(worker)
        if grant is None or (grant.client, grant.key) != (actor, ACTOR_KEY):
            return  # It has ended, and control knows or will.
        self._here[actor] = _ActorHere(worker, creation)
        variables = self._grants.variables(grant)
        self._clients.send_to(worker, become(creation, grant, variables, restarts))

    def check(self) -> None:
        """Assert what is always true."""
        self._wants.check()

    def registered(self) -> None:
        """A life of this node has begun."""
        refused, self._refused = self._refused, []
        for owner, creation in refused:
            self._create(owner, creation)

    def fenced(self) -> None:
        """This life of the node is over: nothing is wanted of it."""
        self._tell(wants.AllOver())

    # -------------------------------------------------------------- workers for actors

    @override
    def placed(self, actor: bytes, worker: bytes, address: str) -> None:
        report = self._report(actor, worker)
        report.placed.node_id, report.placed.address = bytes(self._node_id), address
        if not self._found(actor, report):
            self._rules.doom(worker, "the actor that it was for is wanted no more")

    @override
    def refused(self, actor: bytes, kind: str, reason: str) -> None:
        report = self._report(actor)
        report.refused.kind, report.refused.reason = kind, reason
        self._found(actor, report)

    def _found(self, actor: bytes, report: messages.ReportActorRequest) -> bool:
        """Report what was found; False: it is not wanted."""
        effects = self._wants.handle(wants.FoundHere(actor), self._rules.now())
        for effect in effects:
            if isinstance(effect, wants.ReportFound):
                getattr(report, report.WhichOneof("what")).asked = effect.asked
                self._say("report", actor, report, partial(self._settled, effect))
            else:
                self._rules.later(partial(self._do, effect))
        return bool(effects)

    def _settled(self, found: wants.ReportFound, answer: Any) -> None:
        """Control has answered. If this node is dead to it, it has not heard the report."""
        if not _is_fenced(answer):
            self._answer_daemon(found.asker, WantSettled(found.actor, found.number))

    @override
    def sent_on(self, actor: bytes, address: str, hops: int) -> None:
        self._tell(wants.WantSpilled(actor, address, hops))

    @override
    def daemon_lost(self, client: Client) -> None:
        if self._askers.get(client.address) is client:
            del self._askers[client.address]
            self._tell(wants.AskerLost(client.address))
        else:
            self._tell(wants.DaemonLost(client.address))
        self._questions.daemon_lost(client)

    def _tell(self, event: wants.Event) -> None:
        for effect in self._wants.handle(event, self._rules.now()):
            self._rules.later(partial(self._do, effect))
        if self._checks:
            self._wants.check()

    def _do(self, effect: wants.Effect) -> None:
        match effect:
            case wants.AskHere(actor, shape, name, hops):
                self._scheduling.demanded(self._demand(actor, shape, 1, name), hops)
            case wants.StopHere(actor, shape):
                self._scheduling.demanded(self._demand(actor, shape, 0), 0)
            case wants.AskThere(address, actor, shape, name, number, hops):
                asked = bytes(self._node_id)
                self._ask_daemon(address, WantActor(actor, shape, name, asked, number, hops))
            case wants.TakeBack(address, actor, number):
                self._ask_daemon(address, WantTaken(actor, number))
            case wants.SendBack(asker, actor, number, target, hops):
                self._answer_daemon(asker, WantSentOn(actor, number, target, hops))
            case wants.ReportFound():
                raise AssertionError("what is found is reported by who has found it")
            case _:
                assert_never(effect)

    def _ask_daemon(self, address: str, message: Message) -> None:
        try:
            self._clients.send(self._clients.reach(address), message)
        except OSError:
            self._tell(wants.DaemonLost(address))

    def _answer_daemon(self, asker: str, message: Message) -> None:
        """Answer a daemon that has asked; one that is gone meanwhile asks others."""
        client = self._askers.get(asker)
        if client is not None:
            self._clients.send(client, message)

    def _demand(self, actor: bytes, shape: Shape, workers: int, name: str = "") -> Demanded:
        job = self._jobs.of(shape.env).id
        return Demanded(actor, ACTOR_KEY, shape, workers, ACTOR_DEPTH, name, job)

    @override
    def tick(self) -> None:
        if (at := self._wants.wake_at()) is not None and at <= self._rules.now():
            self._tell(wants.WantsTicked())

    @override
    def wake_at(self) -> float | None:
        return self._wants.wake_at()

    # -------------------------------------------------------------- questions

    @override
    def ask(self, client: Client, request: int, what: str, body: bytes) -> None:
        self._questions.ask(client, request, what, body)

    @override
    def label(self, actor: bytes) -> str:
        here = self._here.get(actor)
        return "" if here is None else here.label

    @override
    def states(self) -> list[str]:
        return [actor.state for actor in self._here.values()]


def _is_fenced(answer: Any) -> bool:
    return isinstance(answer, RpcError) and answer.rpc_code == FENCED
