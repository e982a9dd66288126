"""A node's part in the actors of a cluster, beside a control service that answers when told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from weft._ids import ActorId, NodeId
from weft._machines.leases import ACTOR_KEY
from weft._machines.orders import DropOrder, KillOrder, MakeOrder, WantOrder
from weft._node.actor_questions import NOT_FOUND
from weft._node.clients import TOOL
from weft._node.cluster_acting import ClusterActing
from weft._node.control_link import FENCED, LOOK_S
from weft._specs import ActorMeta, Shape
from weft._transport.control import messages
from weft._transport.control.client import TIMEOUT_S
from weft._wire.codec import pack, unpack
from weft._wire.messages import (
    ActorNews,
    ActorReady,
    Answer,
    CreateActor,
    EndActor,
    Message,
    WantActor,
    WantSentOn,
    WantSettled,
    WantTaken,
    WatchActor,
)
from weft.exceptions import GetTimeoutError, ProtocolError, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable

ACTOR = ActorId(b"actor" + bytes(11))
HERE, THERE = NodeId(b"here" + bytes(12)), NodeId(b"there" + bytes(11))
HERE_ADDRESS, THERE_ADDRESS = "here:1/node", "there:1/node"
OWNER, OTHER, WORKER = b"owner", b"other", b"worker"
OWNER_ADDRESS = f"here:1/{OWNER.hex()}"


class FakeConnection:
    closed = False


class FakeClient:
    def __init__(self, worker_id: bytes, address: str = "") -> None:
        self.worker_id = worker_id
        self.address = address
        self.pid = 1
        self.role = "driver"
        self.connection = FakeConnection()
        self.heard: list[Message] = []


class Control:
    """What is asked of the control service, and not answered."""

    incarnation = 3

    @property
    def sender(self) -> messages.Sender:
        return messages.Sender(node_id=HERE, incarnation=self.incarnation)

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any, Callable[[Any], None]]] = []
        self.watched: list[bytes] = []
        self.patience_s = 0.0
        """How long the newest question is asked."""

    def call(
        self,
        service: str,
        method: str,
        request: Any,
        then: Callable[[Any], None] = lambda answer: None,
        *,
        lane: object = None,
        timeout_s: float = 0.0,
    ) -> None:
        self.asked.append((method, request, then))
        self.patience_s = timeout_s

    def watch_actor(self, actor: bytes) -> None:
        self.watched.append(actor)

    def leave_actor(self, actor: bytes) -> None:
        self.watched.remove(actor)

    def address_of(self, node_id: NodeId) -> str | None:
        return THERE_ADDRESS if node_id == THERE else None

    def methods(self) -> list[str]:
        return [method for method, _, _ in self.asked]

    def answer(self, method: str, answer: Any) -> Any:
        """Answer the oldest question of a method; return what was asked."""
        at = self.methods().index(method)
        _, request, then = self.asked.pop(at)
        then(answer)
        return request


class Node:
    """All round the part that is tested."""

    def __init__(self) -> None:
        self.control = Control()
        self.owner, self.other = FakeClient(OWNER), FakeClient(OTHER)
        self.there = FakeClient(THERE, THERE_ADDRESS)
        self.by_id = {each.worker_id: each for each in (self.owner, self.other, self.there)}
        self.demanded_of: list[tuple[int, int]] = []
        """(workers, hops)."""
        self.doomed: list[bytes] = []
        self.is_reachable = True
        self.client = ACTOR
        """Of the one grant that there is."""
        self.key = ACTOR_KEY
        self.accelerators: dict[str, list[str]] = {}
        self.shape = Shape()
        everything = cast("Any", self)
        self.acting = ClusterActing(
            cast("Any", self.control),
            everything,
            everything,
            everything,
            everything,
            everything,
            node_id=HERE,
            address=HERE_ADDRESS,
            jobs=everything,
            end_worker=self.doom,
        )

    # rules, clients, scheduling, jobs, roster

    def now(self) -> float:
        return 0.0

    def later(self, function: Callable[[], None]) -> None:
        function()

    def doom(self, worker: bytes, reason: str) -> None:
        self.doomed.append(worker)

    def send(self, client: FakeClient, message: Message) -> None:
        client.heard.append(message)

    def send_to(self, worker: bytes, message: Message) -> bool:
        self.by_id[worker].heard.append(message)
        return True

    def reach(self, address: str) -> FakeClient:
        if not self.is_reachable:
            raise ConnectionRefusedError
        return self.there

    def demanded(self, demand: Any, hops: int) -> None:
        self.demanded_of.append((demand.workers, hops))

    def explain(self, shape: Shape) -> str:
        return "for CPUs"

    def of(self, env: str) -> Any:
        return self

    id = b"job"

    def get(self, worker: bytes) -> None:
        return None

    def served_by(self, worker: bytes) -> Any:
        return self

    def variables(self, grant: Any) -> dict[str, str]:
        return {}

    # what is said

    def say(self, client: FakeClient, message: Message) -> None:
        self.acting.said(cast("Any", client), message)

    def create(self, *, request: int = 0, **options: Any) -> None:
        self.say(self.owner, creation(request=request, **options))

    def ask(self, what: str, body: Any) -> None:
        self.acting.ask(cast("Any", self.owner), 9, what, pack(body))

    def answered(self) -> Answer:
        answer = self.owner.heard.pop()
        assert isinstance(answer, Answer)
        assert answer.request == 9
        return answer


def creation(*, request: int = 0, **options: Any) -> CreateActor:
    meta = ActorMeta(ACTOR, "Counter", {}, "name", "space")
    return CreateActor(
        meta, Shape((("CPU", 10_000),)), b"f", b"code", b"", [], OWNER_ADDRESS, options, request
    )


@pytest.fixture
def node() -> Node:
    return Node()


# ------------------------------------------------------------------ creations


def test_creation_says_what_control_and_callers_need(node: Node) -> None:
    node.create(request=4, max_restarts=2)
    request = node.control.answer("create", messages.CreateActorAnswer(actor_id=ACTOR))
    assert (request.actor_id, request.owner_id, request.node_id) == (ACTOR, OWNER, HERE)
    assert (request.name, request.namespace, request.max_restarts) == ("name", "space", 2)
    assert (request.class_name, dict(request.amounts)) == ("Counter", {"CPU": 10_000})
    assert unpack(request.creation, CreateActor) == creation(request=4, max_restarts=2)
    assert unpack(request.handle, tuple[ActorMeta, str])[1] == OWNER_ADDRESS
    assert node.owner.heard == [Answer(4)]


def test_refused_creation_is_told_to_who_asked_or_to_all_as_a_death(node: Node) -> None:
    refused = RpcError("Actors.create: the name 'name' is taken", 6)
    node.create(request=4)
    node.control.answer("create", refused)
    node.create()
    node.control.answer("create", refused)
    text = "the name 'name' is taken"
    assert node.owner.heard == [Answer(4, error=text)]
    end = node.control.answer("end", messages.Done())
    assert (end.actor_id, end.no_restart, end.reason) == (ACTOR, True, text)


FENCED_ANSWER = RpcError("Actors.create: node here must register again", FENCED)


def test_creation_that_was_said_for_a_life_that_is_over_is_said_for_the_next(node: Node) -> None:
    node.control.incarnation = 0
    node.create(request=4)
    node.control.answer("create", FENCED_ANSWER)
    assert node.control.methods() == node.owner.heard == []
    node.control.incarnation = 4
    node.acting.registered()
    node.control.incarnation = 5
    assert node.control.answer("create", FENCED_ANSWER).header.sender.incarnation == 4
    request = node.control.answer("create", messages.CreateActorAnswer(actor_id=ACTOR))
    assert request.header.sender.incarnation == 5
    assert node.owner.heard == [Answer(4)]


def test_creation_that_was_not_taken_is_not_said_again_for_who_is_gone(node: Node) -> None:
    node.control.incarnation = 0
    node.create()
    node.control.answer("create", FENCED_ANSWER)
    node.acting.gone(OWNER)
    node.create()
    node.acting.gone(OWNER)
    node.control.answer("create", FENCED_ANSWER)
    node.control.answer("end_owner", messages.Done())
    node.acting.registered()
    assert node.control.methods() == []


def test_end_of_an_owner_is_told_after_what_it_has_created(node: Node) -> None:
    node.create()
    node.acting.gone(OWNER)
    assert node.control.methods() == ["create"]
    node.control.answer("create", messages.CreateActorAnswer(actor_id=ACTOR))
    assert node.control.methods() == ["end_owner"]


def test_end_of_who_owns_nothing_is_not_told(node: Node) -> None:
    node.create(lifetime="detached")
    node.control.answer("create", messages.CreateActorAnswer(actor_id=ACTOR))
    node.acting.gone(OWNER)
    node.acting.gone(OTHER)
    assert node.control.methods() == []
    node.say(node.owner, EndActor(ACTOR, graceful=False, no_restart=True, reason="asked"))
    assert node.control.methods() == ["end"]


@pytest.mark.parametrize(("options", "doomed"), [({}, [WORKER]), ({"lifetime": "detached"}, [])])
def test_what_a_process_owns_on_its_node_ends_with_it_at_once(
    node: Node, options: dict[str, Any], doomed: list[bytes]
) -> None:
    node.by_id[WORKER] = FakeClient(WORKER)
    node.acting.ordered(MakeOrder(ACTOR, WORKER, 0, pack(creation(**options))))
    assert (node.acting.states(), node.acting.label(ACTOR)) == (["pending"], "name")
    node.say(node.by_id[WORKER], ActorReady(ACTOR))
    assert node.acting.states() == ["alive"]
    node.acting.gone(OTHER)
    assert node.doomed == []
    node.acting.gone(OWNER)
    assert node.doomed == doomed
    node.acting.lost(ACTOR, WORKER, "it was ended")
    assert node.acting.states() == []


# ------------------------------------------------------------------ who watches


def news(state: str, restarts: int = 0) -> messages.Actor:
    value = messages.ActorState.Value(state.upper())
    return messages.Actor(actor_id=ACTOR, state=value, restarts=restarts)


def test_who_watches_is_told_each_change_once(node: Node) -> None:
    node.say(node.owner, WatchActor(ACTOR))
    node.acting.watchers.changed(news("pending"))
    node.acting.watchers.changed(news("pending"))
    node.say(node.other, WatchActor(ACTOR))
    node.acting.watchers.changed(news("alive"))
    for client in (node.owner, node.other):
        assert [cast("ActorNews", each).state for each in client.heard] == ["pending", "alive"]
    node.acting.watchers.changed(news("dead"))
    node.acting.watchers.changed(news("dead"))
    assert len(node.owner.heard) == len(node.other.heard) == 3
    node.acting.gone(OWNER)


def test_what_nobody_watches_any_more_is_left(node: Node) -> None:
    node.say(node.owner, WatchActor(ACTOR))
    node.say(node.other, WatchActor(ACTOR))
    node.acting.gone(OWNER)
    assert node.control.watched == [ACTOR]
    node.acting.gone(OTHER)
    assert node.control.watched == []


# ------------------------------------------------------------------ workers


def test_worker_that_was_found_for_another_node_is_reported_then_settled(node: Node) -> None:
    node.say(node.there, WantActor(ACTOR, Shape(), "Counter", THERE, 5, 1))
    assert node.demanded_of == [(1, 1)]
    node.acting.placed(ACTOR, WORKER, "address")
    assert node.there.heard == []
    request = node.control.answer("report", messages.Done())
    assert (request.placed.asked, request.placed.node_id) == (THERE, HERE)
    assert (request.header.sender.incarnation, request.worker_id) == (3, WORKER)
    assert node.there.heard == [WantSettled(ACTOR, 5)]


def test_report_of_a_node_that_is_dead_to_control_settles_nothing(node: Node) -> None:
    node.say(node.there, WantActor(ACTOR, Shape(), "Counter", THERE, 5, 1))
    node.acting.refused(ACTOR, "environment", "it fails")
    request = node.control.answer("report", RpcError("fenced", FENCED))
    assert (request.refused.kind, request.refused.asked) == ("environment", THERE)
    assert node.there.heard == []


def test_worker_that_nobody_wants_ends(node: Node) -> None:
    node.acting.placed(ACTOR, WORKER, "address")
    node.acting.ordered(KillOrder(b"another", "superfluous"))
    assert node.doomed == [WORKER, b"another"]
    assert node.control.methods() == []


def test_want_is_asked_of_another_node_and_taken_back_there(node: Node) -> None:
    node.acting.ordered(WantOrder(ACTOR, pack(creation())))
    node.acting.sent_on(ACTOR, THERE_ADDRESS, 1)
    node.acting.ordered(DropOrder(ACTOR))
    asked = WantActor(ACTOR, creation().shape, "Counter", HERE, 1, 1)
    assert node.there.heard == [asked, WantTaken(ACTOR, 1)]


def test_want_of_a_node_that_cannot_be_reached_is_looked_for_again(node: Node) -> None:
    node.acting.ordered(WantOrder(ACTOR, pack(creation())))
    node.is_reachable = False
    node.acting.sent_on(ACTOR, THERE_ADDRESS, 1)
    assert node.acting.wake_at() is not None
    assert node.demanded_of == [(1, 0)]


def test_who_has_asked_is_sent_on_and_what_it_wants_ends_with_it(node: Node) -> None:
    want = WantActor(ACTOR, Shape(), "Counter", THERE, 5, 1)
    node.say(node.there, want)
    node.acting.sent_on(ACTOR, "third:1/node", 2)
    assert node.there.heard == [WantSentOn(ACTOR, 5, "third:1/node", 2)]
    node.say(node.there, want)
    node.acting.daemon_lost(cast("Any", node.there))
    assert node.demanded_of == [(1, 1), (1, 1), (0, 0)]


def test_who_is_gone_when_its_answer_is_there_is_not_answered(node: Node) -> None:
    node.say(node.there, WantActor(ACTOR, Shape(), "Counter", THERE, 5, 1))
    node.acting.placed(ACTOR, WORKER, "address")
    node.acting.daemon_lost(cast("Any", node.there))
    node.control.answer("report", messages.Done())
    assert node.there.heard == []


# ------------------------------------------------------------------ questions


def test_name_that_nobody_has_is_an_error_that_says_so(node: Node) -> None:
    node.ask("find_actor", ["name", "space"])
    node.control.answer("resolve", RpcError("Actors.resolve: no actor named", NOT_FOUND))
    assert "no actor is named 'name' in namespace 'space'" in node.answered().error
    node.ask("find_actor", ["name", "space"])
    node.control.answer("resolve", messages.Actor(handle=b"handle"))
    assert node.answered().body == b"handle"
    node.ask("find_actor", ["name", "space"])
    node.control.answer("resolve", RpcError("Actors.resolve: it is full", 8))
    assert node.answered().error == "it is full"
    node.ask("find_actor", ["name", "space"])
    node.control.answer("resolve", GetTimeoutError("it was asked for 30 s: nobody answers"))
    assert node.answered().error == "it was asked for 30 s: nobody answers"


def test_who_only_looks_does_not_wait_for_a_head_that_is_gone(node: Node) -> None:
    node.ask("actors", "")
    assert node.control.patience_s == TIMEOUT_S
    node.owner.role = TOOL
    node.ask("actors", "")
    assert node.control.patience_s == LOOK_S


def test_all_pages_of_actors_are_listed(node: Node) -> None:
    first = messages.Actor(actor_id=ACTOR, state=messages.ALIVE, class_name="Counter")
    second = messages.Actor(actor_id=b"second", state=messages.DEAD, cause="asked")
    node.ask("actors", None)
    node.control.answer("list", messages.ListActorsAnswer(actors=[first]))
    asked = node.control.answer("list", messages.ListActorsAnswer(actors=[second], is_last=True))
    assert asked.after == ACTOR
    rows = unpack(node.answered().body, list[dict[str, Any]])
    assert [row["state"] for row in rows] == ["alive", "dead"]


def test_why_is_told_by_who_looks_for_the_worker(node: Node) -> None:
    def why(**standing: Any) -> None:
        node.ask("why_actor", ACTOR.hex())
        node.control.answer("resolve", messages.Actor(actor_id=ACTOR, **standing))

    why(why="alive; restarted 0 times")
    assert node.answered().body == b"alive; restarted 0 times"
    why()
    assert b"there is none" in node.answered().body
    why(asked_id=HERE)
    assert b"was found" in node.answered().body
    node.acting.ordered(WantOrder(ACTOR, pack(creation())))
    why(asked_id=HERE)
    assert node.answered().body == b"waits for a worker: for CPUs"
    why(asked_id=THERE)
    (asked,) = node.there.heard
    node.say(node.there, Answer(cast("Any", asked).request, b"there"))
    assert node.answered().body == b"node there:1: there"
    why(asked_id=THERE)
    node.acting.daemon_lost(cast("Any", node.there))
    assert "gone" in node.answered().error


def test_what_is_no_question_or_message_for_a_daemon_is_refused(node: Node) -> None:
    node.ask("find_actor", {"no": "query"})
    assert "ActorQuery" in node.answered().error
    with pytest.raises(ProtocolError, match="sent Answer, which is not for a daemon"):
        node.say(node.owner, Answer(3))
    with pytest.raises(ProtocolError, match="sent ActorNews, which is not for a daemon"):
        node.say(node.owner, ActorNews(ACTOR, "dead", "", 0, ""))
