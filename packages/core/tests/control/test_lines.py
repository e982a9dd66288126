"""Lines of nodes, as control sees them; test_links.py has them with real daemons."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from weft import _clock
from weft._control.bells import Bells
from weft._control.calls.desk import Desk
from weft._control.calls.links import NodeLinks
from weft._control.calls.members import Admission
from weft._control.concerns import GroupsConcern, MembersConcern
from weft._control.lines import NodeLines
from weft._control.memory import Memory, MemoryJournal
from weft._control.service import Service, ServiceEndedError
from weft._ids import JobId, NodeId, PlacementGroupId
from weft._machines.ledger import Ledger
from weft._machines.members import DrainAsked, RegisterAsked
from weft._machines.membership import NodeSaid
from weft._machines.placement import NodeView
from weft._resources import Resources
from weft._specs import GroupSpec, Shape
from weft._transport.control import messages
from weft._transport.credentials import make_credentials
from weft._transport.loops import LoopPoller
from weft._transport.sockets import SocketConnection, connect
from weft._wire.codec import pack
from weft._wire.lines import (
    AskGroup,
    BeatAnswered,
    CallAnswered,
    CallControl,
    CommitOrder,
    EndGroup,
    FollowGroup,
    GroupAnswered,
    GroupChanged,
    HeldOnNode,
    NotMember,
    ReleaseOrder,
    ReserveOrder,
    SayBeat,
    SayCommitted,
    SayRefused,
    SayReserved,
    pack_line,
    unpack_line,
)
from weft._wire.messages import ControlTalk, Hello, Quit
from weft._wire.version import WIRE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from weft._wire.messages import Message

NODE, OTHER = NodeId(b"n" * 16), NodeId(b"o" * 16)
G, H = PlacementGroupId(b"g" * 16), PlacementGroupId(b"h" * 16)
CLIENT, JOB = b"c" * 16, JobId(b"j" * 16)
CPU = (("CPU", 10_000),)
WAIT_S = 20.0


class Fails:
    """Answers calls about jobs, or does not."""

    async def list(self, _: Any, __: Any) -> None:
        raise ValueError("unforeseen")

    async def end(self, _: Any, __: Any) -> None:
        raise ServiceEndedError("it is over")

    async def begin(self, _: Any, __: Any) -> None:
        await asyncio.Event().wait()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - anything may make it so
            await asyncio.sleep(0.001)


class Control:
    """A control service about members and groups, and the lines to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bells = Bells()
        self.lines = NodeLines()
        self.credentials = make_credentials(folder / "credentials")
        admission = Admission(self.credentials, "")
        self.members = MembersConcern(NodeLinks(), admission, self.lines)
        self.concern = GroupsConcern(self.lines)
        ledger = Ledger([*self.members.tables, *self.concern.tables])
        self.service = Service(MemoryJournal(Memory()), ledger, _clock, self.tell)
        self.poller = LoopPoller(asyncio.get_running_loop())

    def tell(self, event: Any) -> None:
        for concern in (self.members, self.concern):
            concern.tell(event, self.bells)

    async def join(self, node_id: NodeId) -> int:
        request = RegisterAsked(
            node_id, os.urandom(24), f"{node_id.hex()}:1", "host", is_head=False
        )
        incarnation = int((await self.service.do(request)).value)
        view = NodeView(node_id, Resources({"CPU": 2}), Resources({"CPU": 2}))
        self.service.note(NodeSaid(incarnation, view))
        return incarnation

    def call(self, node_id: NodeId, incarnation: int) -> End:
        return End(self, Hello(WIRE, node_id, "address", 1, "daemon", incarnation))


class End:
    """A node's end of a line."""

    def __init__(self, control: Control, *first: Message) -> None:
        self.heard: list[Any] = []
        self.is_lost = False
        path = str(control.folder / "groups")
        self.connection = SocketConnection(control.poller, connect(path), self.receive, self.lost)
        for message in first:
            self.send(message)

    def send(self, message: Message) -> None:
        self.connection.queue(message)
        self.connection.flush()

    def say(self, *said: Any) -> None:
        for each in said:
            self.send(ControlTalk(pack_line(each)))

    def receive(self, connection: object, messages: Any) -> None:
        for message in messages:
            is_talk = isinstance(message, ControlTalk)
            self.heard.append(unpack_line(message.body) if is_talk else message)

    def lost(self, connection: object, reason: str) -> None:
        self.is_lost = True

    def of(self, kind: type) -> list[Any]:
        return [each for each in self.heard if isinstance(each, kind)]


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Control]:
    control = Control(folder)
    await control.service.start()
    desk = Desk(control.service, control.bells)
    answers = {**control.members.calls(desk), **control.concern.calls(desk)}
    control.lines.answer_calls(
        {**{name: [who] for name, who in answers.items()}, "Jobs": [Fails()]}
    )
    doors = str(folder / "nobody")
    listening = asyncio.create_task(control.lines.listen(folder, control.credentials, doors))
    await until((folder / "groups").exists)
    try:
        yield control
    finally:
        listening.cancel()
        await asyncio.wait({listening})
        await control.service.stop()
    assert not (folder / "groups").exists()


def ask(group: PlacementGroupId, number: int, *bundles: Any, **facts: Any) -> AskGroup:
    shapes = tuple(Shape(amounts) for amounts in bundles or [CPU])
    spec = GroupSpec(group, shapes, **{"strategy": "PACK", "job_id": JOB, **facts})
    return AskGroup(CLIENT, number, 1, pack(spec))


def test_group_goes_over_a_line_from_its_creation_to_its_removal(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path) as control:
            ends = [control.call(each, await control.join(each)) for each in (NODE, OTHER)]
            for end in ends:
                end.say(HeldOnNode([]))
            end, other = ends
            end.say(ask(G, 1, CPU, CPU, strategy="STRICT_SPREAD"))
            await until(lambda: all(each.of(ReserveOrder) for each in ends))
            other.say(FollowGroup(G))
            assert end.heard[0].incarnation == control.service.number
            order = end.of(ReserveOrder)[0]
            at = order.group, order.attempt
            assert (order.size, order.job, order.commits) == (2, JOB, False)
            assert list(order.bundles.values()) == [{"CPU": 10_000}]
            for each in ends:
                each.say(SayReserved(*at))
            await until(lambda: all(each.of(CommitOrder) for each in ends))
            for each in ends:
                await until(lambda each=each: GroupChanged(G, "ready", "") in each.heard)
            assert end.of(GroupAnswered) == [GroupAnswered(1, "")]
            end.say(EndGroup(CLIENT, 2, 1, G), ask(H, 3))
            removed = GroupChanged(G, "removed", "it was removed")
            for each in ends:
                await until(lambda each=each: removed in each.heard)
            await until(lambda: GroupAnswered(3, "") in end.heard)
            assert end.of(ReleaseOrder)[0].attempt == order.attempt
            (asked,) = (o for each in ends for o in each.of(ReserveOrder) if o.group == H)
            assert asked.commits
            (at_node,) = (each for each in ends if asked in each.heard)
            at_node.say(SayCommitted(H, asked.attempt))
            await until(lambda: GroupChanged(H, "ready", "") in end.heard)

    asyncio.run(go())


def test_refusals_of_nodes_and_of_requests_are_told(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path) as control:
            end = control.call(NODE, await control.join(NODE))
            end.say(HeldOnNode([]), ask(G, 1, name="mine"), ask(H, 2, strategy="LOOSE"))
            end.say(ask(H, 3, name="mine"), FollowGroup(H))
            await until(lambda: end.of(ReserveOrder) and len(end.of(GroupAnswered)) == 3)
            refusal_of = {each.number: each.refusal for each in end.of(GroupAnswered)}
            assert refusal_of[1] == ""
            assert "it is one of PACK" in refusal_of[2]
            assert "the name 'mine' is taken" in refusal_of[3]
            assert GroupChanged(H, "missing", "") in end.heard
            end.say(SayRefused(G, end.of(ReserveOrder)[0].attempt, "it is full"))
            (groups,) = control.concern.tables
            explain = lambda: groups.explain(G, control.service.now)  # noqa: E731
            await until(lambda: "has refused it: it is full" in explain())

    asyncio.run(go())


def test_next_line_of_a_node_takes_the_place_of_the_last_and_hears_what_was_lost(
    tmp_path: Path,
) -> None:
    async def go() -> None:
        async with serving(tmp_path) as control:
            incarnation = await control.join(NODE)
            stranger = End(control)
            first = control.call(NODE, incarnation)
            first.say(HeldOnNode([]), ask(G, 1))
            await until(lambda: first.of(ReserveOrder))
            second = control.call(NODE, incarnation)
            await until(lambda: first.is_lost)
            held = [(bytes(H), 1, [0], True)]
            second.say(HeldOnNode(held), ask(G, 1))
            await until(lambda: second.of(ReserveOrder) and second.of(ReleaseOrder))
            assert second.of(ReserveOrder) == first.of(ReserveOrder)
            assert second.of(ReleaseOrder)[0].group == H
            assert second.of(GroupAnswered) == [GroupAnswered(1, "")]
            anew = await control.join(NODE)  # Whoever it was before, it is another now.
            await until(lambda: second.of(NotMember))
            assert "its daemon has started again" in second.of(NotMember)[0].reason
            second.say(SayBeat(), FollowGroup(H))  # It is not heard any more.
            third = control.call(NODE, anew)
            third.say(FollowGroup(H))
            await until(lambda: third.of(GroupChanged))
            assert not second.of(GroupChanged)
            assert not stranger.is_lost

    asyncio.run(go())


def test_node_that_beats_on_its_line_is_answered_and_told_what_it_is_to_do(
    tmp_path: Path,
) -> None:
    def answers(end: End) -> list[Any]:
        return [messages.HeartbeatAnswer.FromString(each.body) for each in end.of(BeatAnswered)]

    async def go() -> None:
        async with serving(tmp_path) as control:
            end = control.call(NODE, await control.join(NODE))
            end.say(SayBeat(), SayBeat())
            await until(lambda: len(answers(end)) == 2)
            assert answers(end) == [messages.HeartbeatAnswer()] * 2
            control.service.note(DrainAsked(NODE, "idle", "too many", 0.0))
            await until(lambda: len(answers(end)) == 3)
            assert answers(end)[2].ask_drain.message == "too many"
            leaving = messages.Heartbeat(empty="it is empty").SerializeToString()
            end.say(SayBeat(leaving))
            await until(lambda: end.of(NotMember))
            assert end.of(NotMember)[0].reason.endswith("it is empty")
            again = control.call(NODE, 1)
            await until(lambda: again.of(NotMember))
            assert "it was declared dead: it is empty" in again.of(NotMember)[0].reason

    asyncio.run(go())


@pytest.mark.parametrize(
    "said",
    [
        Quit(graceful=True),
        ControlTalk(pack_line(CommitOrder(G, 1))),
        ControlTalk(pack_line(FollowGroup(b"short"))),
        ControlTalk(pack_line(AskGroup(CLIENT, 1, 1, b"no spec"))),
        ControlTalk(b"nothing"),
        ControlTalk(pack_line(SayBeat(b"no heartbeat"))),
        ControlTalk(pack_line(CallControl(1, "PlacementGroups", "watch", b""))),
        ControlTalk(pack_line(CallControl(1, "PlacementGroups", "get", b"no request"))),
    ],
)
def test_node_that_says_nonsense_loses_its_line(tmp_path: Path, said: Message) -> None:
    async def go() -> None:
        async with serving(tmp_path) as control:
            incarnation = await control.join(NODE)
            end = control.call(NODE, incarnation)
            end.send(said)
            end.say(FollowGroup(H))
            await until(lambda: end.is_lost)
            assert not end.of(GroupChanged)
            again = control.call(NODE, incarnation)
            again.say(FollowGroup(H))
            await until(lambda: again.of(GroupChanged))

    asyncio.run(go())


def test_calls_are_answered_with_what_grpc_would_say(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path) as control:
            end = control.call(NODE, await control.join(NODE))
            asked = messages.GetGroupRequest(group_id=G).SerializeToString()
            end.say(ask(G, 1), CallControl(1, "PlacementGroups", "list", b""))
            await until(lambda: end.of(GroupAnswered) and end.of(CallAnswered))
            end.say(CallControl(2, "PlacementGroups", "get", asked))
            end.say(CallControl(3, "PlacementGroups", "get", asked[:-1] + b"-"))
            end.say(CallControl(4, "Jobs", "list", b""))
            await until(lambda: len(end.of(CallAnswered)) == 4)
            answer_of = {each.number: each for each in end.of(CallAnswered)}
            found = messages.PlacementGroup.FromString(answer_of[2].body)
            assert (found.group_id, answer_of[2].status) == (G, 0)
            not_found, unknown = 5, 2
            assert (answer_of[3].status, answer_of[3].reason[:18]) == (
                not_found,
                "no placement group",
            )
            assert answer_of[4].status == unknown
            end.say(CallControl(5, "Jobs", "begin", b""), CallControl(6, "Jobs", "end", b""))
            await until(lambda: end.is_lost)
            assert len(end.of(CallAnswered)) == 4

    asyncio.run(go())


def test_who_is_no_member_is_told_so_and_who_says_no_hello_gets_no_line(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path) as control:
            incarnation = await control.join(NODE)
            for end in (control.call(NODE, incarnation + 1), control.call(OTHER, incarnation)):
                end.say(FollowGroup(H))
                await until(lambda end=end: end.of(NotMember))
                assert end.of(NotMember)[0].reason.endswith("it is no member")
                assert len(end.heard) == 2
            for first in (Quit(graceful=True), Hello(WIRE, b"short", "address", 1, "daemon", 1)):
                end = End(control, first)
                await until(lambda end=end: end.is_lost)
                assert not end.heard

    asyncio.run(go())


def test_line_that_follows_too_much_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        monkeypatch.setattr("weft._control.bells.KEYS", 0)
        async with serving(tmp_path) as control:
            end = control.call(NODE, await control.join(NODE))
            end.say(ask(G, 1))
            await until(lambda: end.is_lost)

    asyncio.run(go())


def test_lines_of_a_service_that_has_ended_end(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path) as control:
            end = control.call(NODE, await control.join(NODE))
            await until(lambda: end.heard)
            await control.service.stop()
            end.say(ask(G, 1))
            await until(lambda: end.is_lost)

    asyncio.run(go())
