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
3. While there is no control service all of this waits; calls to actors go on.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from weft import _settings
from weft._clock import monotonic
from weft._ids import NodeId
from weft._machines import wants
from weft._machines.leases import ACTOR_DEPTH, ACTOR_KEY, Demanded
from weft._machines.orders import DropOrder, KillOrder, MakeOrder, Order, QuitOrder, WantOrder
from weft._node.acting import (
    Acting,
    ActorQuery,
    become,
    is_detached,
    label_of,
    no_actor,
    unexpected,
)
from weft._node.control_link import FENCED
from weft._override import override
from weft._transport.control import messages
from weft._wire.codec import pack, unpack
from weft._wire.messages import (
    ActorExit,
    ActorNews,
    ActorReady,
    Answer,
    Ask,
    CreateActor,
    EndActor,
    Quit,
    WantActor,
    WantSentOn,
    WantSettled,
    WantTaken,
    WatchActor,
)
from weft.exceptions import ProtocolError, RpcError, WeftError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.clients import Client, Clients
    from weft._node.grants import Grants
    from weft._node.jobs import NodeJobs
    from weft._node.roster import Roster
    from weft._node.rules import Rules
    from weft._node.scheduling import Scheduling
    from weft._specs import Shape
    from weft._wire.messages import Message

NOT_FOUND = 5
"""gRPC's status."""


class ActorControl(Protocol):
    """What is needed of the link to the control service."""

    @property
    def sender(self) -> messages.Sender:
        """How this node signs what it says."""
        ...

    def call(
        self,
        service: str,
        method: str,
        request: Any,
        then: Callable[[Any], None] = ...,
        *,
        lane: object = None,
        timeout_s: float = ...,
    ) -> None:
        """Ask; see ControlLink."""
        ...

    def watch_actor(self, actor: bytes) -> None:
        """Hear of an actor, as it is and at every change, until it is dead."""
        ...

    def leave_actor(self, actor: bytes) -> None:
        """Hear no more of it."""
        ...

    def address_of(self, node_id: NodeId) -> str | None:
        """Return the address of a living node's daemon."""
        ...


class ClusterActing(Acting):
    """The control service has the directory."""

    def __init__(
        self,
        link: ActorControl,
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
        self._roster = roster
        self._scheduling = scheduling
        self._grants = grants
        self._node_id = node_id
        self._address = address
        self._jobs = jobs
        self._end_worker = end_worker
        self._wants = wants.Wants(node_id, address)
        self._checks = _settings.CHECK.value()
        self._askers: dict[str, Client] = {}
        """Other nodes' daemons that have asked for workers."""
        self._here: dict[bytes, tuple[str, str]] = {}
        """The actors of this node: (label, state)."""
        self._watchers_of: dict[bytes, dict[bytes, None]] = {}
        self._watched_by: dict[bytes, dict[bytes, None]] = {}
        self._news_of: dict[bytes, ActorNews] = {}
        """The last of what is watched."""
        self._owners: set[bytes] = set()
        """Processes of this node that have actors which end with them."""
        self._creating: Counter[bytes] = Counter()
        """By owner: the creations that are not answered yet."""
        self._ended: set[bytes] = set()
        """Owners that are gone, of which that is not said yet."""
        self._requests = count(1)
        self._asked: dict[int, tuple[Client, Client, int]] = {}
        """By request to another daemon: (that, the client that asks, its request)."""

    # -------------------------------------------------------------- what processes say

    @override
    def said(self, client: Client, message: Message) -> None:
        match message:
            case CreateActor():
                self._create(client, message)
            case WatchActor(actor):
                self._watch(client, actor)
            case EndActor(actor, graceful, no_restart, reason):
                end = messages.EndActorRequest(
                    actor_id=actor, graceful=graceful, no_restart=no_restart, reason=reason
                )
                self._say("end", actor, end)
            case ActorReady(actor, error):
                self._fares(client, actor, message, "failed" if error else "alive")
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
            case Answer(request) if request in self._asked:
                _, waiting, number = self._asked.pop(request)
                if not waiting.connection.closed:
                    self._clients.send(waiting, Answer(number, message.body, message.error))
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

    def _create(self, client: Client, creation: CreateActor) -> None:
        meta, owner = creation.meta, client.worker_id
        request = messages.CreateActorRequest(
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
        )
        self._creating[owner] += 1
        self._say("create", meta.actor_id, request, partial(self._created, owner, creation))

    def _created(self, owner: bytes, creation: CreateActor, answer: Any) -> None:
        if not is_detached(creation):
            self._owners.add(owner)
        self._creating[owner] -= 1
        if not self._creating[owner]:
            del self._creating[owner]
            if owner in self._ended:
                self._end_owner(owner)
        error = _words(answer) if isinstance(answer, WeftError) else ""
        if creation.request:
            # Without an error: it is made, or another one has its name.
            self._clients.send_to(owner, Answer(creation.request, error=error))
        elif error:
            actor = creation.meta.actor_id
            self._clients.send_to(owner, ActorNews(actor, "dead", "", 0, error))

    def _fares(self, client: Client, actor: bytes, ready: ActorReady, state: str) -> None:
        """The constructor of an actor of this node has ended."""
        report = self._report(actor, client.worker_id)
        if ready.error:
            report.failed = ready.error
        else:
            report.started.SetInParent()
        if actor in self._here:
            self._here[actor] = (self._here[actor][0], state)
        self._say("report", actor, report)

    @override
    def lost(self, actor: bytes, worker: bytes, cause: str) -> None:
        self._here.pop(actor, None)
        report = self._report(actor, worker)
        report.lost = cause
        self._say("report", actor, report)

    @override
    def gone(self, client: bytes) -> None:
        for actor in self._watched_by.pop(client, ()):
            watchers = self._watchers_of[actor]
            del watchers[client]
            if not watchers:
                self._forget_watched(actor)
                self._link.leave_actor(actor)
        if client in self._creating:
            self._ended.add(client)
        elif client in self._owners:
            self._end_owner(client)

    def _end_owner(self, owner: bytes) -> None:
        self._owners.discard(owner)
        self._ended.discard(owner)
        request = messages.EndOwnerRequest(owner_id=owner)
        self._link.call("Actors", "end_owner", request, timeout_s=math.inf)

    # -------------------------------------------------------------- who watches

    def _watch(self, client: Client, actor: bytes) -> None:
        watchers = self._watchers_of.get(actor)
        if watchers is None:
            watchers = self._watchers_of[actor] = {}
            self._link.watch_actor(actor)
        elif actor in self._news_of:
            self._clients.send(client, self._news_of[actor])
        watchers[client.worker_id] = None
        self._watched_by.setdefault(client.worker_id, {})[actor] = None

    def changed(self, actor: messages.Actor) -> None:
        """What is watched is so."""
        watchers = self._watchers_of.get(actor.actor_id)
        if watchers is None:
            return
        news = ActorNews(
            actor.actor_id,
            messages.ActorState.Name(actor.state).lower(),
            actor.address,
            actor.restarts,
            actor.cause,
            actor.error,
            actor.worker_id,
            actor.refused,
        )
        if news == self._news_of.get(actor.actor_id):
            return  # The watch was begun anew.
        self._news_of[actor.actor_id] = news
        for client in watchers:
            self._clients.send_to(client, news)
        if news.state == "dead":
            for client in watchers:
                del self._watched_by[client][actor.actor_id]
            self._forget_watched(actor.actor_id)

    def _forget_watched(self, actor: bytes) -> None:
        del self._watchers_of[actor]
        self._news_of.pop(actor, None)

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
        self._here[actor] = (label_of(creation), "pending")
        variables = self._grants.variables(grant)
        self._clients.send_to(worker, become(creation, grant, variables, restarts))

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
        effects = self._wants.handle(wants.FoundHere(actor), monotonic())
        for effect in effects:
            if isinstance(effect, wants.ReportFound):
                getattr(report, report.WhichOneof("what")).asked = effect.asked
                self._say("report", actor, report, partial(self._settled, effect))
            else:
                self._rules.later(partial(self._do, effect))
        return bool(effects)

    def _settled(self, found: wants.ReportFound, answer: Any) -> None:
        """Control has answered. If this node is dead to it, it has not heard the report."""
        is_heard = not (isinstance(answer, RpcError) and answer.rpc_code == FENCED)
        if is_heard and found.asker in self._askers:
            asker = self._askers[found.asker]
            self._clients.send(asker, WantSettled(found.actor, found.number))

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
        for request in [each for each, (to, *_) in self._asked.items() if to is client]:
            _, asker, number = self._asked.pop(request)
            if not asker.connection.closed:
                self._clients.send(asker, Answer(number, error=f"{client.address} is gone"))

    def _tell(self, event: wants.Event) -> None:
        for effect in self._wants.handle(event, monotonic()):
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
                want = WantActor(actor, shape, name, bytes(self._node_id), number, hops)
                try:
                    self._clients.send(self._clients.reach(address), want)
                except OSError:
                    self._tell(wants.DaemonLost(address))
            case wants.TakeBack(address, actor, number):
                self._clients.send(self._clients.reach(address), WantTaken(actor, number))
            case wants.SendBack(address, actor, number, target, hops):
                self._clients.send(self._askers[address], WantSentOn(actor, number, target, hops))
            case wants.ReportFound():
                raise AssertionError("what is found is reported by who has found it")
            case _:
                assert_never(effect)

    def _demand(self, actor: bytes, shape: Shape, workers: int, name: str = "") -> Demanded:
        job = self._jobs.of(shape.env).id
        return Demanded(actor, ACTOR_KEY, shape, workers, ACTOR_DEPTH, name, job)

    @override
    def tick(self) -> None:
        if (at := self._wants.wake_at()) is not None and at <= monotonic():
            self._tell(wants.WantsTicked())

    @override
    def wake_at(self) -> float | None:
        return self._wants.wake_at()

    # -------------------------------------------------------------- questions

    @override
    def ask(self, client: Client, request: int, what: str, body: bytes) -> None:
        try:
            match what:
                case "find_actor":
                    self._find(client, request, unpack(body, ActorQuery))
                case "named_actors":
                    namespace = unpack(body, str | None)  # type: ignore[arg-type]  # a type to msgspec
                    self._name(client, request, namespace)
                case "why_actor":
                    self._why(client, request, bytes.fromhex(unpack(body, str)))
                case _:
                    self._list(client, request, [], messages.ListActorsRequest())
        except (ValueError, ProtocolError) as error:
            self._clients.send(client, Answer(request, error=str(error)))

    def _question(
        self,
        client: Client,
        request: int,
        method: str,
        question: Any,
        then: Callable[[Any], Answer | None],
        missing: Answer | None = None,
    ) -> None:
        """Ask control for a client. `missing`: the answer if what is asked for is not there."""

        def answered(answer: Any) -> None:
            if isinstance(answer, RpcError) and answer.rpc_code == NOT_FOUND:
                reply = missing
            elif isinstance(answer, WeftError):
                reply = Answer(request, error=_words(answer))
            else:
                reply = then(answer)
            if reply is not None and not client.connection.closed:
                self._clients.send(client, reply)

        self._link.call("Actors", method, question, answered)

    def _find(self, client: Client, request: int, query: ActorQuery) -> None:
        name = messages.ActorName(name=query.name, namespace=query.namespace)
        self._question(
            client,
            request,
            "resolve",
            messages.ResolveActorRequest(name=name),
            lambda found: Answer(request, found.handle),
            missing=Answer(request, error=no_actor(query)),
        )

    def _name(self, client: Client, request: int, namespace: str | None) -> None:
        def told(answer: messages.ActorNamesAnswer) -> Answer:
            return Answer(request, pack([(each.namespace, each.name) for each in answer.names]))

        question = messages.ActorNamesRequest(namespace=namespace)
        self._question(client, request, "names", question, told)

    def _why(self, client: Client, request: int, actor: bytes) -> None:
        question = messages.ResolveActorRequest(actor_id=actor)

        def told(found: messages.Actor) -> Answer | None:
            if found.why:
                return Answer(request, found.why.encode())
            return self._why_waits(client, request, actor, found.asked_id)

        missing = Answer(request, b"no such actor is known here")
        self._question(client, request, "resolve", question, told, missing)

    def _why_waits(self, client: Client, request: int, actor: bytes, asked: bytes) -> Answer | None:
        """Say what the want for an actor waits for; None: another daemon is asked."""
        if not asked:
            return Answer(request, b"waits for a node: there is none")
        if asked != self._node_id:
            address = self._link.address_of(NodeId(asked))
            if address is None:
                return Answer(request, b"waits for a worker: its node is going")
            return self._pass_on(client, request, address, Ask(0, "why_actor", pack(actor.hex())))
        where, shape = self._wants.where(actor), self._wants.shape_of(actor)
        if where is None or shape is None:
            return Answer(request, b"a worker was found for it")
        if where:
            return self._pass_on(client, request, where, Ask(0, "why_shape", pack(shape)))
        words = f"waits for a worker: {self._scheduling.explain(shape)}"
        return Answer(request, words.encode())

    def _pass_on(self, client: Client, request: int, address: str, question: Ask) -> Answer | None:
        """Let another daemon answer a client."""
        try:
            daemon = self._clients.reach(address)
        except OSError as error:
            return Answer(request, f"waits for a worker of {address}: {error}".encode())
        number = next(self._requests)
        self._asked[number] = (daemon, client, request)
        self._clients.send(daemon, Ask(number, question.what, question.body))
        return None

    def _list(
        self,
        client: Client,
        request: int,
        rows: list[dict[str, Any]],
        question: messages.ListActorsRequest,
    ) -> None:
        def told(page: messages.ListActorsAnswer) -> Answer | None:
            rows.extend(map(self._row, page.actors))
            if page.is_last or not page.actors:
                return Answer(request, pack(rows))
            following = messages.ListActorsRequest(after=page.actors[-1].actor_id)
            self._list(client, request, rows, following)
            return None

        self._question(client, request, "list", question, told)

    def _row(self, actor: messages.Actor) -> dict[str, Any]:
        process = self._roster.get(actor.worker_id)
        return {
            "actor_id": actor.actor_id,
            "class_name": actor.class_name,
            "name": actor.name,
            "namespace": actor.namespace,
            "is_detached": actor.is_detached,
            "amounts": sorted(actor.amounts.items()),
            "state": messages.ActorState.Name(actor.state).lower(),
            "worker": actor.worker_id,
            "node_id": actor.node_id,
            "job_id": actor.job_id.hex(),
            "restarts": actor.restarts,
            "cause": actor.cause,
            "pid": 0 if process is None else process.pid,
        }

    @override
    def label(self, actor: bytes) -> str:
        return self._here.get(actor, ("", ""))[0]

    @override
    def states(self) -> list[str]:
        return [state for _, state in self._here.values()]


def _words(error: WeftError) -> str:
    """Return what control says, without who was asked."""
    return str(error).partition(": ")[2] or str(error)
