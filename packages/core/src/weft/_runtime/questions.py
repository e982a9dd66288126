"""Questions to the daemon and to other processes, and their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from weft._clock import monotonic
from weft._ids import ActorId, ObjectId, PlacementGroupId, TaskId
from weft._metrics import Readings, of_nodes
from weft._runtime import reasons
from weft._runtime.loop import Waiter
from weft._runtime.peers import Peer
from weft._runtime.reasons import Reason, Step
from weft._runtime.tools import replies
from weft._specs import ActorMeta
from weft._transport.addresses import split
from weft._wire import codec
from weft._wire.messages import Answer, Ask, AskNodes, Because, Message, NodeTold, Why
from weft.exceptions import ObjectLostError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._machines.ownership import Entry
    from weft._refs import ObjectRef
    from weft._runtime.links import Links
    from weft._specs import NodeReply

# How long another process may take to say what it waits for.
ANSWER_S = 1.0


class Questions:
    """Asks, waits for the answer, and answers what others ask."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._loop = links.loop
        self._guard = links.guard
        self._peers = links.peers
        self._objects = links.objects
        self._answers: dict[int, tuple[Waiter, list[Message]]] = {}
        self._told_of: dict[int, list[NodeTold]] = {}
        """By request to all nodes: what has come before its answer."""
        self._later: dict[int, Callable[[Answer], None]] = {}
        """What is done with answers that no thread waits for."""
        self._requests = 0
        self.explain_object: Callable[[ObjectId], Reason]
        """What an object of this process waits for."""
        self.explain_task: Callable[[TaskId], Reason] = reasons.unknown_task
        """What a task that runs here waits for."""

    def forget(self, request: int) -> None:
        """The answer to a question matters to nobody. Inside the guard."""
        del self._answers[request]

    def fail_all(self) -> None:
        """No question will be answered any more. Inside the guard."""
        for waiter, _ in self._answers.values():
            waiter.ready()

    def ask(self, what: str, body: object = None) -> bytes:
        """Ask the daemon; return the answer's body.

        Blocks. ValueError with the daemon's words if it refuses.
        """
        waiter = Waiter()
        with self._guard:
            self._links.refuse_if_ended()
            request = self.expect(waiter)
            self._peers.send(self._links.daemon, Ask(request, what, codec.pack(body)))
            self._peers.flush()
        answer: Answer = self.wait(request, waiter)
        if answer.error:
            raise ValueError(answer.error)
        return answer.body

    def inspect_nodes(
        self, whats: Sequence[str], body: object = None, *, node_id: str = ""
    ) -> list[NodeReply]:
        """Return what nodes say; see Engine."""
        waiter = Waiter()
        with self._guard:
            self._links.refuse_if_ended()
            request = self.expect(waiter)
            question = AskNodes(request, list(whats), codec.pack(body), bytes.fromhex(node_id))
            self._peers.send(self._links.daemon, question)
            self._peers.flush()
            told = self._told_of[request] = []
        try:
            answer: Answer = self.wait(request, waiter)
        finally:
            with self._guard:
                del self._told_of[request]
        if answer.error:
            raise ValueError(answer.error)
        return replies(told)

    def on_told(self, peer: Peer, message: NodeTold) -> None:
        told = self._told_of.get(message.request)
        if told is not None:
            told.append(message)

    def ask_later(self, what: str, body: object, then: Callable[[Answer], None]) -> None:
        """Ask the daemon; `then` is called inside the guard when it answers, if it does.

        Inside the guard.
        """
        self._requests += 1
        self._later[self._requests] = then
        self._links.tell_daemon(Ask(self._requests, what, codec.pack(body)))

    def find_actor(self, name: str, namespace: str) -> tuple[ActorMeta, ObjectRef[Any] | None]:
        """Look a named actor up; see Engine."""
        body = self.ask("find_actor", [name, namespace])
        meta, owner = codec.unpack(body, tuple[ActorMeta, str])
        if not owner:
            return meta, None
        try:
            return meta, self._objects.rebuild_ref(meta.actor_id, owner)
        except ObjectLostError:
            # Its last handle went here while the directory was asked.
            raise ValueError(
                f"no actor is named {name!r} in namespace {namespace!r}: it has ended"
            ) from None

    def named_actors(self, namespace: str | None) -> list[tuple[str, str]]:
        """List names; see Engine."""
        return codec.unpack(self.ask("named_actors", namespace), list[tuple[str, str]])

    def nodes(self) -> list[dict[str, Any]]:
        """List nodes; see Engine."""
        return codec.unpack(self.ask("nodes"), list[dict[str, Any]])

    def inspect(self, what: str, body: object = None) -> bytes:
        """Return what processes tell of themselves; see Engine."""
        return self.ask(what, body)

    def metrics(self) -> list[Readings]:
        """Return what the session has measured; see Engine."""
        readings_of = {
            reply.address: None if reply.silent else codec.unpack(reply.bodies[0], list[Readings])
            for reply in self.inspect_nodes(["metrics"])
        }
        alone = readings_of.get("")
        return of_nodes(readings_of) if alone is None else alone

    def why(self, subject: ObjectRef[Any] | ActorId | PlacementGroupId) -> str:
        """Say what a reference, an actor or a placement group waits for; see Engine."""
        if isinstance(subject, PlacementGroupId):
            return reasons.tell(self.reason_of, Step("group", "", subject))
        if isinstance(subject, ActorId):
            step = Step("actor", self._links.home.daemon_address(), subject)
            return reasons.tell(self.reason_of, step)
        return self.why_entry(subject._entry)

    def why_room(self, worker_id: bytes) -> str:
        """Say what room in memory a process waits for. Blocks while the daemon answers."""
        return self.ask("why_room", worker_id.hex()).decode()

    def _why_silent(self) -> str:
        """Say why the daemon has not answered. Blocks for at most `ANSWER_S`."""
        waiter = Waiter()
        with self._guard:
            request = self.expect(waiter)
            self._links.tell_daemon(Ask(request, "why_silent", b""))
        answer: Answer | None = self.wait(request, waiter, monotonic() + ANSWER_S)
        if answer is None:
            return "The daemon of this node does not answer"
        why = answer.error or answer.body.decode() or "another node, or whom it asks, is slow"
        return f"The daemon of this node has no answer yet: {why}"

    def why_entry(self, entry: Entry) -> str:
        """Say what an object waits for. Blocks while other processes answer."""
        return reasons.tell(self.reason_of, reasons.step_of(entry, self._links.address))

    def reason_of(self, step: Step) -> Reason:
        """Answer one question, here or by asking who knows. Blocks for at most `ANSWER_S`."""
        if step.kind == "group":
            group = PlacementGroupId(step.key)
            return Reason(
                f"placement group {group.hex()} is {self.ask('why_group', group).decode()}"
            )
        if step.kind in reasons.DAEMONS:
            return self._reason_of_daemon(step)
        if step.address == self._links.address:
            with self._guard:
                return self._explain(step.kind, step.key)
        answer = self._ask_at(step.address, lambda request: Why(request, step.kind, step.key))
        match answer:
            case None:
                return Reason("the process that knows is gone")
            case Peer():
                who = reasons.named(answer) if answer.is_far else f"process {answer.pid}"
                or_else = ", or its node cannot be reached" if answer.is_far else ""
                words = f"it runs code that does not let others in{or_else}"
                return Reason(f"{who} does not answer: {words}")
            case _:
                assert isinstance(answer, Because)
                return codec.unpack(answer.body, Reason)

    def _reason_of_daemon(self, step: Step) -> Reason:
        what = f"why_{step.kind}"
        key = msgspec.msgpack.decode(step.key) if step.kind == "shape" else step.key.hex()
        if step.address == self._links.home.daemon_address():
            return Reason(self.ask(what, key).decode())
        body = codec.pack(key)
        answer = self._ask_at(step.address, lambda request: Ask(request, what, body))
        node = f"node {split(step.address).node}"
        match answer:
            case Answer(_, told, ""):
                return Reason(f"{node}: {told.decode()}" if told else "")
            case Answer(_, _, error):
                return Reason(f"{node}: {error}")
            case _:
                return Reason(f"{node} does not answer")

    def _ask_at(self, address: str, question: Callable[[int], Message]) -> Message | Peer | None:
        """Ask another process; return its answer, or who does not answer.

        Blocks for at most `ANSWER_S`. None: it is gone.
        """
        waiter = Waiter()
        with self._guard:
            peer = self._peers.connect(address)
            if peer is None:
                return None
            request = self.expect(waiter)
            self._peers.send(peer, question(request))
            self._peers.flush()
        answer: Message | None = self.wait(request, waiter, monotonic() + ANSWER_S)
        return peer if answer is None else answer

    def _explain(self, kind: str, key: bytes) -> Reason:
        if kind == "task":
            return self.explain_task(TaskId(key))
        return self.explain_object(ObjectId(key))

    def on_why(self, peer: Peer, message: Why) -> None:
        self._peers.send(
            peer, Because(message.request, codec.pack(self._explain(message.kind, message.key)))
        )

    def on_answer(self, peer: Peer, message: Answer | Because) -> None:
        later = self._later.pop(message.request, None)
        if later is not None:
            assert isinstance(message, Answer)
            later(message)
            return
        expected = self._answers.get(message.request)
        if expected is not None:
            expected[1].append(message)
            expected[0].ready()

    def expect(self, waiter: Waiter) -> int:
        self._requests += 1
        self._answers[self._requests] = (waiter, [])
        return self._requests

    def wait(self, request: int, waiter: Waiter, deadline: float | None = None) -> Any:
        """Return the answer, or None if the deadline came first."""
        try:
            in_time = self._links.wait_aloud(waiter, self._why_silent, deadline)
        finally:
            with self._guard:
                _, answers = self._answers.pop(request)
        if answers:
            return answers[0]
        if in_time or self._loop.closed:
            raise SessionError("the session ended before it answered")
        return None
