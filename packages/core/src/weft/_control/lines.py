"""Connections of nodes' daemons that are none of gRPC's: `_node/control_line.py` is the other end.

    SayBeat     -> calls/members.py, as a heartbeat over gRPC   -> BeatAnswered, NotMember
    CallControl -> who answers gRPC's call of the same name, too -> CallAnswered
    AskGroup, EndGroup -> service -> GroupAnswered      in order, once a command is durable
    FollowGroup        -> bells   -> GroupChanged
    ReserveOrder, CommitOrder, ReleaseOrder -> SayReserved, SayRefused, SayCommitted: noted

What is always true
1. A node has one line at most: its newest. What is said on another is not heard.
2. Who is no member as it says, or is none any more, is told so (NotMember), and not heard.
3. An order for a node that has no line is lost. Its next line begins with what it holds, and the
   table says again what follows from that.
4. What is to be told at one time is told in one frame.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, assert_never

from google.protobuf.message import DecodeError

from weft._control.bells import Listener
from weft._control.calls.desk import STATUS_OF, RefusedError
from weft._control.calls.groups import created_of, removal_of
from weft._control.calls.links import not_heard
from weft._control.service import ServiceEndedError
from weft._ids import ID_BYTES, NodeId, PlacementGroupId
from weft._log import logger
from weft._machines.bundles import (
    BundlesCommitted,
    BundlesRefused,
    BundlesReserved,
    CommitBundles,
    HeldBundles,
    NodeResumed,
    ReleaseBundles,
    ReserveBundles,
)
from weft._machines.rulings import Request
from weft._override import override
from weft._specs import GroupSpec
from weft._transport.addresses import GROUPS, GROUPS_SOCKET, SUFFIX
from weft._transport.arrivals import Arrivals
from weft._transport.control import messages
from weft._transport.control.methods import methods_of
from weft._transport.loops import LoopPoller, listen_at_door
from weft._transport.opening import CalledPart
from weft._transport.secure import SecureConnection
from weft._transport.silence import end_when_silent
from weft._transport.sockets import SocketConnection, SocketListener
from weft._wire.codec import unpack
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
from weft._wire.messages import ControlTalk, Hello
from weft._wire.version import WIRE, check_hello
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from weft._control.bells import Bells
    from weft._control.calls.desk import Desk
    from weft._control.calls.members import Hearing, MemberCalls
    from weft._machines.groups import Groups
    from weft._machines.rulings import Ruling
    from weft._transport.control.methods import Method
    from weft._transport.credentials import MemberCredentials
    from weft._wire.lines import ControlSays, OnLine
    from weft._wire.messages import Message

TEXT = 4096
"""Of a reason, in characters: more is not taken."""
CALLERS = 1024
"""So many may be on their way: after a restart all nodes call at once."""
OPEN_S = 10.0
"""So long may each be on its way, for the same reason."""
UNKNOWN = 2
"""gRPC's status for what went wrong unforeseen."""
_WAITS, _MISSING = "waits", "missing"


class NodeLines:
    """The lines of all nodes, one each."""

    members: MemberCalls
    _desk: Desk
    _groups: Groups

    def __init__(self) -> None:
        self._line_of: dict[bytes, _NodeLine] = {}
        self._strangers: set[_NodeLine] = set()
        """Who has called and has not said who it is."""
        self._unsent: dict[_NodeLine, None] = {}
        self.answered: dict[tuple[str, str], tuple[Callable[..., Any], Method]] = {}
        """By (service, method)."""

    def answer_calls(self, answers: Mapping[str, list[object]]) -> None:
        """Answer calls of these services' methods that take one message and give one."""
        for service, who in answers.items():
            for name, method in methods_of(service).items():
                function = next((f for each in who if (f := getattr(each, name, None))), None)
                if function and not method.takes_stream and not method.gives_stream:
                    self.answered[service, name] = function, method

    def hear(self, members: MemberCalls) -> None:
        """Let who answers for members hear heartbeats, too."""
        self.members = members

    def begin(self, desk: Desk, groups: Groups) -> None:
        """Let nodes be answered from here on: the journal was read."""
        self._desk = desk
        self._groups = groups

    async def listen(self, session_dir: Path, credentials: MemberCredentials, doors: str) -> None:
        """Take calls of this host's daemon, and through its port those of others.

        It goes on until it is cancelled; then all lines end.
        """
        loop = asyncio.get_running_loop()
        poller = LoopPoller(loop)

        def call_later(delay_s: float, function: Callable[[], None]) -> None:
            loop.call_later(delay_s, function)

        arrivals = Arrivals(call_later, patience_s=OPEN_S, most=CALLERS)
        path = session_dir / GROUPS_SOCKET
        path.unlink(missing_ok=True)
        listener = SocketListener(poller, path, lambda sock: self._near(poller, sock))
        far = partial(self._far, poller, credentials, arrivals)
        try:
            await listen_at_door(poller, doors, GROUPS + SUFFIX, far)
        finally:
            listener.close()
            for line in [*self._line_of.values(), *self._strangers]:
                self._drop(line)

    def _near(self, poller: LoopPoller, sock: socket.socket) -> None:
        line = _NodeLine(self, self._desk, self._groups)
        self._strangers.add(line)
        line.connection = SocketConnection(poller, sock, line.receive, line.lost)

    def _far(
        self,
        poller: LoopPoller,
        credentials: MemberCredentials,
        arrivals: Arrivals,
        sock: socket.socket,
    ) -> None:
        line = _NodeLine(self, self._desk, self._groups)
        self._strangers.add(line)
        end_when_silent(sock, is_daemons=True)
        part = CalledPart(credentials)
        line.connection = SecureConnection(
            poller, sock, line.receive, line.lost, part=part, arrivals=arrivals
        )

    # -------------------------------------------------------------- what nodes are told

    def order(self, order: ReserveBundles | CommitBundles | ReleaseBundles) -> None:
        """Tell a node what to do with bundles, if there is a way to it."""
        line = self._line_of.get(order.node_id)
        if line is not None and line.incarnation == order.incarnation:
            line.say(_order_of(order))

    def end(self, node: bytes, incarnation: int, reason: str) -> None:
        """A node is no member any more, as it was."""
        line = self._line_of.get(node)
        if line is not None and line.incarnation == incarnation:
            line.fence(reason)

    def send_soon(self, line: _NodeLine) -> None:
        """Send what is queued once this turn of the loop is over."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent[line] = None

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, {}
        for line in unsent:
            line.connection.flush()

    # -------------------------------------------------------------- of one line

    def met(self, line: _NodeLine) -> None:
        """A line has said whose it is."""
        old = self._line_of.get(line.node_id)
        if old is not None:
            self._drop(old)
        self._strangers.discard(line)
        self._line_of[line.node_id] = line

    def retire(self, line: _NodeLine) -> None:
        """A line's node is not heard any more; the node ends it."""
        if self._line_of.get(line.node_id) is line:
            del self._line_of[line.node_id]
        self._strangers.add(line)

    def _drop(self, line: _NodeLine) -> None:
        self.lost(line)
        line.connection.close()

    def lost(self, line: _NodeLine) -> None:
        """A line is gone."""
        self._strangers.discard(line)
        self._unsent.pop(line, None)
        if self._line_of.get(line.node_id) is line:
            del self._line_of[line.node_id]
        line.end()


class _Prompt(Listener):
    """One that is told at once."""

    def __init__(self, bells: Bells, rung: Any) -> None:
        super().__init__(bells)
        self._tell = rung

    @override
    def ring(self, key: Hashable) -> None:
        self._tell(key)


class _NodeLine:
    """One connection."""

    connection: SocketConnection

    def __init__(self, lines: NodeLines, desk: Desk, groups: Groups) -> None:
        self.node_id = NodeId(bytes(ID_BYTES))
        self.incarnation = 0
        """0: it has not said which node it is."""
        self.listener = _Prompt(desk.bells, self._rung)
        self._lines = lines
        self._desk = desk
        self._groups = groups
        self._told: dict[PlacementGroupId, str] = {}
        """By group that it follows: what was told of it last; empty: nothing."""
        self._calls: set[asyncio.Task[None]] = set()
        self._hearing: Hearing | None = None
        """Of heartbeats; None: there was none yet."""
        self._is_fenced = False

    def say(self, message: ControlSays) -> None:
        """Tell the node something, soon."""
        self._queue(ControlTalk(pack_line(message)))

    def _queue(self, message: Message) -> None:
        self.connection.queue(message)
        self._lines.send_soon(self)

    def lost(self, connection: object, reason: str) -> None:
        """It broke."""
        self._lines.lost(self)

    def send(self, answer: messages.HeartbeatAnswer) -> None:
        """Answer a heartbeat, or tell the node what it is to do (`NodeWay`)."""
        if not self._is_fenced:
            self.say(BeatAnswered(answer.SerializeToString()))

    def refuse(self, refusal: RefusedError) -> None:
        """Tell the node that it is not listened to (`NodeWay`)."""
        self.fence(refusal.answer.reason)

    def fence(self, reason: str) -> None:
        """Tell the node that it is no member, and hear it no more."""
        if self._is_fenced:
            return
        self._is_fenced = True
        self._lines.retire(self)
        self.end()
        if not self.connection.closed:
            self.say(NotMember(reason))

    def end(self) -> None:
        """Answer nothing any more; what was begun is done all the same."""
        if self._hearing is not None:
            hearing, self._hearing = self._hearing, None
            self._lines.members.end(hearing)
        self.listener.close()
        for call in self._calls:
            call.cancel()

    def receive(self, connection: object, heard: Sequence[Message]) -> None:
        """Hear what the node says."""
        try:
            for message in heard:
                if self.connection.closed or self._is_fenced:
                    return
                self._take(message)
        except (ProtocolError, RefusedError, ServiceEndedError) as error:
            self._close(error)

    def _close(self, error: Exception) -> None:
        logger().warning("the line of node %s was closed: %s", self.node_id.hex(), error)
        self._lines.lost(self)
        self.connection.close()

    def _take(self, message: Message) -> None:
        self._desk.read()
        if not self.incarnation:
            self._greet(check_hello(message))
            return
        if not isinstance(message, ControlTalk):
            raise ProtocolError(f"{type(message).__name__} came among placement groups")
        self._hear(unpack_line(message.body))

    def _greet(self, hello: Hello) -> None:
        if len(hello.worker_id) != ID_BYTES or not hello.incarnation:
            raise ProtocolError("nobody says which node is there")
        self.node_id, self.incarnation = NodeId(hello.worker_id), hello.incarnation
        number = self._desk.service.number
        self._queue(Hello(WIRE, b"", "", os.getpid(), "control", number))
        refusal = self._lines.members.refusal(self.node_id, self.incarnation)
        if refusal:
            self.refuse(not_heard(self.node_id, self.incarnation, refusal))
        else:
            self._lines.met(self)

    def _beat(self, body: bytes) -> None:
        try:
            heartbeat = messages.Heartbeat.FromString(body)
        except DecodeError as error:
            raise ProtocolError(f"a heartbeat: {error}") from None
        if self._hearing is None:
            self._hearing = self._lines.members.begin(self.node_id, self)
        self._hearing.hear(heartbeat)

    def _hear(self, said: OnLine) -> None:
        me = self.node_id, self.incarnation
        note = self._desk.service.note
        match said:
            case SayReserved(group, attempt):
                note(BundlesReserved(*me, PlacementGroupId(group), attempt))
            case SayCommitted(group, attempt):
                note(BundlesCommitted(*me, PlacementGroupId(group), attempt))
            case SayRefused(group, attempt, reason):
                note(BundlesRefused(*me, PlacementGroupId(group), attempt, reason[:TEXT]))
            case AskGroup():
                self._create(said)
            case EndGroup():
                self._do(said, removal_of(_group_id(said.group)), None)
            case FollowGroup(group):
                self._follow(_group_id(group), "")
            case SayBeat(body):
                self._beat(body)
            case CallControl():
                self._call(said)
            case HeldOnNode(held):
                note(NodeResumed(*me, tuple(map(_held_of, held))))
            case _:
                raise ProtocolError(f"{type(said).__name__} came from a node")

    # -------------------------------------------------------------- calls

    def _call(self, said: CallControl) -> None:
        found = self._lines.answered.get((said.service, said.method))
        if found is None:
            raise ProtocolError(f"{said.service}.{said.method} cannot be called so")
        function, method = found
        try:
            request = method.request.FromString(said.body)
        except DecodeError as error:
            raise ProtocolError(f"{said.service}.{said.method}: {error}") from None
        task = asyncio.create_task(self._answer(said, function(request, None)))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _answer(self, said: CallControl, called: Awaitable[Any]) -> None:
        try:
            answer = await called
        except RefusedError as refused:
            ruling = refused.answer
            status = STATUS_OF[ruling.code].value[0]
            self.say(CallAnswered(said.number, b"", status, ruling.reason))
        except ServiceEndedError as error:
            self._close(error)
        except Exception:  # noqa: BLE001 - as gRPC does: one call has failed, not the service
            logger().exception("%s.%s failed", said.service, said.method)
            self.say(CallAnswered(said.number, b"", UNKNOWN, "the control service failed at it"))
        else:
            self.say(CallAnswered(said.number, answer.SerializeToString()))

    # -------------------------------------------------------------- commands

    def _create(self, asked: AskGroup) -> None:
        spec = unpack(asked.spec, GroupSpec)
        try:
            command = created_of(spec)
        except RefusedError as refused:
            self.say(GroupAnswered(asked.number, refused.answer.reason))
        else:
            self._do(asked, command, spec.group_id)

    def _do(self, asked: AskGroup | EndGroup, command: Any, group: PlacementGroupId | None) -> None:
        """Do a command, answer it, and follow a group that was created."""

        def answered(ruling: asyncio.Future[Ruling]) -> None:
            if self.connection.closed or ruling.exception() is not None:
                return  # The service has ended, or it is asked again on another line.
            self.say(GroupAnswered(asked.number, ruling.result().reason))
            if group is not None and not ruling.result().code:
                self._follow(group, _WAITS)

        request = Request(asked.client, asked.number, asked.done_below)
        self._desk.service.begin(command, request).add_done_callback(answered)

    # -------------------------------------------------------------- what is followed

    def _follow(self, group: PlacementGroupId, told: str) -> None:
        self._told[group] = told
        try:
            self.listener.follow([("group", group)])
        except ValueError as error:
            self._close(error)

    def _rung(self, key: tuple[str, PlacementGroupId]) -> None:
        """Tell of a group if that is news."""
        group = key[1]
        facts = self._groups.facts(group)
        state = facts.state if facts is not None else _MISSING
        if state not in (_MISSING, "ready", "removed"):
            state = _WAITS
        if self._told.get(group) == state:
            return
        self._told[group] = state
        reason = facts.reason if facts is not None and state == "removed" else ""
        self.say(GroupChanged(bytes(group), state, reason))
        if state in (_MISSING, "removed"):
            del self._told[group]
            self.listener.leave([key])


def _group_id(value: bytes) -> PlacementGroupId:
    try:
        return PlacementGroupId.from_binary(value)
    except ValueError as error:
        raise ProtocolError(f"no placement group: {error}") from None


def _held_of(held: tuple[bytes, int, list[int], bool]) -> HeldBundles:
    group, attempt, indices, is_committed = held
    return HeldBundles(_group_id(group), attempt, tuple(indices), is_committed)


def _order_of(
    order: ReserveBundles | CommitBundles | ReleaseBundles,
) -> ReserveOrder | CommitOrder | ReleaseOrder:
    at = bytes(order.group), order.attempt
    match order:
        case ReserveBundles():
            return ReserveOrder(
                *at,
                {index: dict(amounts) for index, amounts in order.bundles.items()},
                order.size,
                order.patience_s,
                order.owner,
                order.commits,
            )
        case CommitBundles():
            return CommitOrder(*at)
        case ReleaseBundles(reason=reason):
            return ReleaseOrder(*at, reason)
        case _:
            assert_never(order)
