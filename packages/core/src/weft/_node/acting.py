"""Where it is decided about actors, for the processes of a node.

A machine alone has the directory itself (`AloneActing`). In a cluster the control service has it
(`ClusterActing`, in cluster_acting.py).
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, assert_never

import msgspec

from weft import _settings
from weft._clock import monotonic
from weft._machines import actors as actor_rules
from weft._machines.leases import ActorEnded, ActorWanted
from weft._override import override
from weft._specs import group_strategy
from weft._wire.codec import pack, unpack
from weft._wire.messages import (
    ActorExit,
    ActorNews,
    ActorReady,
    Answer,
    BecomeActor,
    CreateActor,
    EndActor,
    Quit,
    WatchActor,
)
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._ids import NodeId
    from weft._machines.leases import Grant
    from weft._node.clients import Client, Clients
    from weft._node.demands import Demands
    from weft._node.grants import Grants
    from weft._node.jobs import NodeJobs
    from weft._node.roster import Roster
    from weft._node.rules import Rules
    from weft._specs import ActorMeta
    from weft._wire.messages import Message

QUESTIONS = frozenset({"actors", "find_actor", "named_actors", "why_actor"})


class ActorQuery(msgspec.Struct, array_like=True):
    """Body of find_actor."""

    name: str
    namespace: str


class Acting(Protocol):
    """Who is told of this node's part in actors, and answers for all of them."""

    def said(self, client: Client, message: Message) -> None:
        """A client creates, watches or ends an actor, or says how it fares as one."""
        ...

    def placed(self, actor: bytes, worker: bytes, address: str) -> None:
        """A worker was found for an actor."""
        ...

    def refused(self, actor: bytes, kind: str, reason: str) -> None:
        """No worker can ever be had for an actor."""
        ...

    def sent_on(self, actor: bytes, address: str, hops: int) -> None:
        """A worker for an actor is to be wanted of another daemon."""
        ...

    def lost(self, actor: bytes, worker: bytes, cause: str) -> None:
        """An actor's worker is gone; what it had to say was heard."""
        ...

    def gone(self, client: bytes) -> None:
        """A process of this node is gone."""
        ...

    def daemon_lost(self, client: Client) -> None:
        """The connection to another node's daemon broke, or it is dead."""
        ...

    def ask(self, client: Client, request: int, what: str, body: bytes) -> None:
        """Answer one of QUESTIONS.

        actors        no body; one map an actor, also of the newest of the dead
        find_actor    [name, namespace]; [ActorMeta, its owner's address; empty if detached]
        named_actors  a namespace, or nil for all; [[namespace, name], ...]
        why_actor     an actor's id in hexadecimal; what it waits for, as plain text
        """
        ...

    def label(self, actor: bytes) -> str:
        """Return what the output of an actor of this node is marked with; empty: not known."""
        ...

    def states(self) -> list[str]:
        """Return the state of each actor that this node counts."""
        ...

    def tick(self) -> None:
        """Do what is due."""
        ...

    def wake_at(self) -> float | None:
        """Return when `tick` is due, in seconds; None: never."""
        ...


class AloneActing(Acting):
    """There is no other node: the directory is here, and what actors are made of.

    A creation is kept until no restart can need it.
    """

    def __init__(
        self,
        rules: Rules,
        clients: Clients,
        roster: Roster,
        demands: Demands,
        grants: Grants,
        *,
        node_id: NodeId,
        jobs: NodeJobs,
        end_worker: Callable[[bytes, str], None],
    ) -> None:
        self._rules = rules
        self._clients = clients
        self._roster = roster
        self._demands = demands
        self._grants = grants
        self._node_id = node_id
        self._jobs = jobs
        self._end_worker = end_worker
        self._machine = actor_rules.Actors()
        self._checks = _settings.CHECK.value()
        self._creation_of: dict[bytes, CreateActor] = {}
        self._about: OrderedDict[bytes, dict[str, Any]] = OrderedDict()
        """What is told of actors, also of as many dead ones as the directory remembers."""

    def _tell(self, event: actor_rules.Event) -> None:
        for effect in self._machine.handle(event, monotonic()):
            self._rules.later(partial(self._do, effect))
        if self._checks:
            self._machine.check()

    # -------------------------------------------------------------- events

    @override
    def said(self, client: Client, message: Message) -> None:
        match message:
            case CreateActor():
                self._create(client, message)
            case WatchActor(actor):
                self._tell(actor_rules.Watched(actor, client.worker_id))
            case EndActor(actor, graceful, no_restart, reason):
                self._tell(actor_rules.EndAsked(actor, graceful, no_restart, reason))
            case ActorReady(actor, b""):
                self._tell(actor_rules.ActorStarted(actor, client.worker_id))
            case ActorReady(actor, error):
                self._tell(actor_rules.ConstructorFailed(actor, client.worker_id, error))
            case ActorExit(actor, reason):
                self._tell(actor_rules.ActorLeft(actor, client.worker_id, reason))
            case _:
                raise unexpected(client, message)

    def _create(self, client: Client, creation: CreateActor) -> None:
        options, meta = creation.options, creation.meta
        if meta.actor_id in self._creation_of:
            raise ProtocolError(f"process {client.pid} created an actor twice")
        self._creation_of[meta.actor_id] = creation
        self._about[meta.actor_id] = {
            "actor_id": bytes(meta.actor_id),
            "class_name": meta.class_name,
            "name": meta.name,
            "namespace": meta.namespace,
            "is_detached": is_detached(creation),
            "amounts": creation.shape.amounts,
            "job_id": self._jobs.of(creation.shape.env).id.hex(),
        }
        self._tell(
            actor_rules.ActorCreated(
                actor=meta.actor_id,
                client=client.worker_id,
                request=creation.request,
                name=meta.name,
                namespace=meta.namespace,
                is_detached=is_detached(creation),
                get_if_exists=bool(options.get("get_if_exists")),
                max_restarts=int(options.get("max_restarts") or 0),
            )
        )

    @override
    def placed(self, actor: bytes, worker: bytes, address: str) -> None:
        self._tell(actor_rules.ActorPlaced(actor, worker, address))

    @override
    def refused(self, actor: bytes, kind: str, reason: str) -> None:
        self._tell(actor_rules.ActorRefused(actor, reason, kind))

    @override
    def sent_on(self, actor: bytes, address: str, hops: int) -> None:
        raise AssertionError("there is no other daemon")

    @override
    def lost(self, actor: bytes, worker: bytes, cause: str) -> None:
        self._tell(actor_rules.ActorLost(actor, worker, cause))

    @override
    def gone(self, client: bytes) -> None:
        self._tell(actor_rules.ClientEnded(client))

    @override
    def daemon_lost(self, client: Client) -> None:
        pass

    @override
    def tick(self) -> None:
        if (at := self._machine.wake_at()) is not None and at <= monotonic():
            self._tell(actor_rules.ActorsTicked())

    @override
    def wake_at(self) -> float | None:
        return self._machine.wake_at()

    # -------------------------------------------------------------- effects

    def _do(self, effect: actor_rules.Effect) -> None:
        match effect:
            case actor_rules.Reply(client, request, existing, error):
                body = pack(self._record(existing)) if existing else b""
                self._clients.send_to(client, Answer(request, body, error))
            case actor_rules.WantWorker(actor):
                creation = self._creation_of.get(actor)
                if creation is not None:
                    shape, name = creation.shape, creation.meta.class_name
                    job = self._jobs.of(shape.env).id
                    self._demands.add(ActorWanted(actor, shape, name, job))
            case actor_rules.DropWant(actor):
                self._demands.drop(actor)
                self._rules.tell_leases(ActorEnded(actor))
            case actor_rules.Become(actor, worker, restarts):
                creation, grant = self._creation_of.get(actor), self._grants.served_by(worker)
                if creation is not None and grant is not None:
                    variables = self._grants.variables(grant)
                    self._clients.send_to(worker, become(creation, grant, variables, restarts))
            case actor_rules.Tell(client):
                self._clients.send_to(client, ActorNews(*msgspec.structs.astuple(effect)[1:]))
            case actor_rules.QuitActor(worker):
                self._clients.send_to(worker, Quit(graceful=True))
            case actor_rules.KillActor(worker, reason):
                self._end_worker(worker, reason)
            case actor_rules.Forget(actor):
                self._forget(actor)
            case _:
                assert_never(effect)

    def _forget(self, actor: bytes) -> None:
        """Keep no longer what would start an actor again."""
        self._creation_of.pop(actor, None)
        if self._machine.facts(actor) is None:
            # It never was: another one has its name.
            self._about.pop(actor, None)
        elif actor in self._about:
            self._about.move_to_end(actor)
            dead = len(self._about) - len(self._creation_of)
            if dead > actor_rules.DEAD_KEPT:
                self._about.popitem(last=False)

    # -------------------------------------------------------------- questions

    @override
    def ask(self, client: Client, request: int, what: str, body: bytes) -> None:
        try:
            answer = Answer(request, self._answer(what, body))
        except (ValueError, ProtocolError) as error:
            answer = Answer(request, error=str(error))
        self._clients.send(client, answer)

    def _answer(self, what: str, body: bytes) -> bytes:
        match what:
            case "find_actor":
                query = unpack(body, ActorQuery)
                found = self._machine.find(query.name, query.namespace)
                if found is None:
                    raise ValueError(no_actor(query))
                return pack(self._record(found))
            case "named_actors":
                namespace = unpack(body, str | None)  # type: ignore[arg-type]  # a type to msgspec
                names = self._machine.names()
                return pack([each for each in names if namespace in (None, each[0])])
            case "why_actor":
                return self._explain(bytes.fromhex(unpack(body, str))).encode()
            case _:
                return pack(self._list())

    def _record(self, actor: bytes) -> tuple[ActorMeta, str]:
        creation = self._creation_of[actor]
        return creation.meta, "" if is_detached(creation) else creation.owner

    def _list(self) -> list[dict[str, Any]]:
        found = []
        for actor, about in self._about.items():
            facts = self._machine.facts(actor)
            if facts is not None:
                process = self._roster.get(facts.worker)
                pid = process.pid if process is not None else 0
                where = {"pid": pid, "node_id": bytes(self._node_id) if facts.worker else b""}
                found.append({**about, **msgspec.structs.asdict(facts), **where})
        return found

    def _explain(self, actor: bytes) -> str:
        """Say where an actor is in its life, or what it waits for."""
        creation, now = self._creation_of.get(actor), monotonic()
        words = self._machine.explain(actor, now)
        if words or creation is None:
            return words
        return f"waits for a worker: {self._demands.explain(creation.shape, now)}"

    @override
    def label(self, actor: bytes) -> str:
        creation = self._creation_of.get(actor)
        return "" if creation is None else label_of(creation)

    @override
    def states(self) -> list[str]:
        return list(self._machine.states())


def is_detached(creation: CreateActor) -> bool:
    """Tell whether an actor outlives who made it."""
    return bool(creation.options.get("lifetime") == "detached")


def label_of(creation: CreateActor) -> str:
    """Return what an actor's output is marked with."""
    return creation.meta.name or creation.meta.class_name


def become(
    creation: CreateActor, grant: Grant, variables: dict[str, str], restarts: int
) -> BecomeActor:
    """Return what makes a worker the actor, with what the node has granted.

    `variables`: what it has to set to see its devices.
    """
    return BecomeActor(
        meta=creation.meta,
        function_id=creation.function_id,
        code=creation.code,
        args=creation.args,
        deps=creation.deps,
        options=creation.options,
        restarts=restarts,
        accelerators=grant.accelerators,
        variables=variables,
        resources=dict(grant.shape.amounts),
        owners=creation.owners,
        large=creation.large,
        owner=creation.owner,
        group=group_strategy(creation.shape),
        captures=creation.shape.captures,
    )


def no_actor(query: ActorQuery) -> str:
    """Say that there is no such actor."""
    return (
        f"no actor is named {query.name!r} in namespace {query.namespace!r}: "
        "it was never created, or it has ended"
    )


def unexpected(client: Client, message: Message) -> ProtocolError:
    """Return the error of a message that a daemon has no use for."""
    return ProtocolError(
        f"process {client.pid} sent {type(message).__name__}, which is not for a daemon"
    )
