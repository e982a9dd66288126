"""What processes ask of actors in a cluster: control knows, or the daemon that finds a worker."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from weft._ids import NodeId
from weft._node.acting import ActorQuery, no_actor
from weft._node.control_link import patience_of
from weft._transport.addresses import split
from weft._transport.control import messages
from weft._wire.codec import pack, unpack
from weft._wire.messages import Answer, Ask
from weft.exceptions import ProtocolError, RpcError, WeftError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._machines.wants import Wants
    from weft._node.clients import Client, Clients
    from weft._node.control_link import ControlLink
    from weft._node.roster import Roster
    from weft._node.scheduling import Scheduling

NOT_FOUND = 5
"""gRPC's status."""


class ActorQuestions:
    """Answers the questions of acting.py."""

    def __init__(
        self,
        link: ControlLink,
        clients: Clients,
        roster: Roster,
        scheduling: Scheduling,
        *,
        node_id: NodeId,
        wants: Wants,
    ) -> None:
        self._link = link
        self._clients = clients
        self._roster = roster
        self._scheduling = scheduling
        self._node_id = node_id
        self._wants = wants
        self._requests = count(1)
        self._asked: dict[int, tuple[Client, Client, int]] = {}
        """By request to another daemon: (that, the client that asks, its request)."""

    def ask(self, client: Client, request: int, what: str, body: bytes) -> None:
        """Answer a question; see Acting."""
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
                reply = Answer(request, error=words_of(answer))
            else:
                reply = then(answer)
            if reply is not None:
                self._send(client, reply)

        self._link.call("Actors", method, question, answered, timeout_s=patience_of(client))

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

    # -------------------------------------------------------------- other daemons

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

    def take(self, answer: Answer) -> bool:
        """Another daemon has answered; False: it was not asked."""
        asked = self._asked.pop(answer.request, None)
        if asked is not None:
            daemon, client, request = asked
            # It says "this node", and is not the one that was asked first.
            said = f"node {split(daemon.address).node}: ".encode() + answer.body
            self._send(client, Answer(request, b"" if answer.error else said, answer.error))
        return asked is not None

    def daemon_lost(self, daemon: Client) -> None:
        """The connection to another daemon broke."""
        for number in [each for each, (to, *_) in self._asked.items() if to is daemon]:
            _, client, request = self._asked.pop(number)
            self._send(client, Answer(request, error=f"{daemon.address} is gone"))

    def _send(self, client: Client, answer: Answer) -> None:
        if not client.connection.closed:
            self._clients.send(client, answer)


def words_of(error: WeftError) -> str:
    """Return what control says, without what it was asked; or why it says nothing."""
    text = str(error)
    return text.partition(": ")[2] if isinstance(error, RpcError) else text
