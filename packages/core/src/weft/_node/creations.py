"""What actors are made of: kept from CreateActor until no restart can need it."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from weft._machines import actors as actor_rules
from weft._machines.leases import ActorEnded, ActorWanted
from weft._specs import group_strategy
from weft._wire.codec import pack
from weft._wire.messages import ActorNews, Answer, BecomeActor, CreateActor
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from weft._node.clients import Client, Clients
    from weft._node.demands import Demands
    from weft._node.grants import Grants
    from weft._node.jobs import NodeJobs
    from weft._node.rules import Rules
    from weft._specs import ActorMeta


class Creations:
    """Does what the machine of actors decides."""

    def __init__(
        self, rules: Rules, clients: Clients, demands: Demands, grants: Grants, jobs: NodeJobs
    ) -> None:
        self._rules = rules
        self._jobs = jobs
        self._clients = clients
        self._demands = demands
        self._grants = grants
        self._creation_of: dict[bytes, CreateActor] = {}
        self._about: OrderedDict[bytes, dict[str, Any]] = OrderedDict()
        """What is told of actors, also of as many dead ones as the directory remembers."""

    # -------------------------------------------------------------- questions

    def record(self, actor: bytes) -> tuple[ActorMeta, str]:
        """Return (ActorMeta, address of the owner; empty if detached)."""
        creation = self._creation_of[actor]
        return creation.meta, "" if _is_detached(creation) else creation.owner

    def list_actors(self) -> list[dict[str, Any]]:
        """Return what is known of each actor: those that live, and the newest of the dead."""
        found = []
        for actor, about in self._about.items():
            facts = self._rules.actors.facts(actor)
            if facts is not None:
                found.append({**about, **msgspec.structs.asdict(facts)})
        return found

    def label(self, actor: bytes) -> str:
        """Return what an actor's output is marked with; empty if it is not known."""
        creation = self._creation_of.get(actor)
        return "" if creation is None else creation.meta.name or creation.meta.class_name

    def explain(self, actor: bytes, now: float) -> str:
        """Say where an actor is in its life, or what it waits for."""
        creation = self._creation_of.get(actor)
        words = self._rules.actors.explain(actor, now)
        if words or creation is None:
            return words
        return f"waits for a worker: {self._demands.explain(creation.shape, now)}"

    # -------------------------------------------------------------- messages

    def add(self, client: Client, creation: CreateActor) -> None:
        """A client creates an actor."""
        options, meta = creation.options, creation.meta
        if meta.actor_id in self._creation_of:
            raise ProtocolError(f"process {client.pid} created an actor twice")
        self._creation_of[meta.actor_id] = creation
        self._about[meta.actor_id] = {
            "actor_id": bytes(meta.actor_id),
            "class_name": meta.class_name,
            "name": meta.name,
            "namespace": meta.namespace,
            "is_detached": _is_detached(creation),
            "amounts": creation.shape.amounts,
            "job_id": self._jobs.of(creation.shape.env).id.hex(),
        }
        self._rules.tell_actors(
            actor_rules.ActorCreated(
                actor=meta.actor_id,
                client=client.worker_id,
                request=creation.request,
                name=meta.name,
                namespace=meta.namespace,
                is_detached=_is_detached(creation),
                get_if_exists=bool(options.get("get_if_exists")),
                max_restarts=int(options.get("max_restarts") or 0),
            )
        )

    # -------------------------------------------------------------- effects

    def reply(self, effect: actor_rules.Reply) -> None:
        """Answer the creator."""
        body = pack(self.record(effect.existing)) if effect.existing else b""
        self._clients.send_to(effect.client, Answer(effect.request, body, effect.error))

    def want_worker(self, actor: bytes) -> None:
        """Queue an actor's demand."""
        creation = self._creation_of.get(actor)
        if creation is not None:
            shape = creation.shape
            job = self._jobs.of(shape.env).id
            self._demands.add(ActorWanted(actor, shape, creation.meta.class_name, job))

    def drop_want(self, actor: bytes) -> None:
        """Take an actor's demand back."""
        self._demands.drop(actor)
        self._rules.tell_leases(ActorEnded(actor))

    def become(self, actor: bytes, worker: bytes, restarts: int) -> None:
        """Make a worker the actor."""
        creation = self._creation_of.get(actor)
        grant = self._grants.served_by(worker)
        if creation is None or grant is None:
            return
        self._clients.send_to(
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
                variables=self._grants.variables(grant),
                resources=dict(grant.shape.amounts),
                owners=creation.owners,
                large=creation.large,
                owner=creation.owner,
                group=group_strategy(creation.shape),
                captures=creation.shape.captures,
            ),
        )

    def tell(self, effect: actor_rules.Tell) -> None:
        """Tell a client where an actor is in its life."""
        state = ActorNews(*msgspec.structs.astuple(effect)[1:])
        self._clients.send_to(effect.client, state)

    def forget(self, actor: bytes) -> None:
        """Keep no longer what would start an actor again."""
        self._creation_of.pop(actor, None)
        if self._rules.actors.facts(actor) is None:
            # It never was: another one has its name.
            self._about.pop(actor, None)
        elif actor in self._about:
            self._about.move_to_end(actor)
            dead = len(self._about) - len(self._creation_of)
            if dead > actor_rules.DEAD_KEPT:
                self._about.popitem(last=False)


def _is_detached(creation: CreateActor) -> bool:
    return bool(creation.options.get("lifetime") == "detached")
