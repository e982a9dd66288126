"""The control service in a world: its tables, a journal that is synced, a process that dies.

Real are the ledger and all tables in it. Modelled is what stands round them: the writer
(`_control/service.py`), the streams of nodes (`_control/calls/members.py`, `links.py`) and what
events of tables cause (`_control/concerns.py`).
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from weft._lazy import lazy
from weft._machines import bundles, members, views
from weft._machines.directory import ActorDirectory
from weft._machines.enrolments import ActorChanged
from weft._machines.groups import Groups
from weft._machines.jobs import Jobs
from weft._machines.keyvalues import KeyValues
from weft._machines.ledger import Ledger, LedgerEntry, Sender, TableBroke
from weft._machines.membership import Membership, NodeSaid
from weft._machines.orders import OrderQueued, Orders, TakeOrders
from weft._machines.tables import MemberRemoved, ServiceBegun
from weft._override import override
from weft.exceptions import RpcError
from weft.testing._simulation.letters import (
    ActorTold,
    AskService,
    BeatHeard,
    ControlAnswer,
    ControlCall,
    Fenced,
    FollowOrders,
    FollowView,
    Heartbeat,
    OrdersSent,
    OrdersTaken,
    ServiceSaid,
    ViewsSent,
    WatchActors,
    WholeViewWanted,
)
from weft.testing._simulation.links import LINES, VirtualConnection
from weft.testing._simulation.world import VirtualEnd, VirtualProcess, World

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from weft._control import bells
    from weft._control import lines as node_lines
    from weft._control.calls import actors as actor_calls
    from weft._control.calls import desk as desks
    from weft._ids import NodeId
    from weft._machines.rulings import Request, Ruling
    from weft._machines.tables import Noted
else:
    bells = lazy("weft._control.bells")
    node_lines = lazy("weft._control.lines")
    actor_calls = lazy("weft._control.calls.actors")
    desks = lazy("weft._control.calls.desk")

SYNC_S = (0.0005, 0.01)
START_AGAIN_S = (0.3, 2.0)
SNAPSHOT_LINES = 8
# As in _control/service.py.
ALARM_S = 0.01
# Until who watches something looks at it after a bell.
RING_S = 0.002
MOST_ORDERS = 3
"""In one message; few, so that they are taken in parts."""


class VirtualJournal:
    """What stays of a control service that dies."""

    def __init__(self) -> None:
        self.snapshot: bytes | None = None
        self.lines: list[bytes] = []
        self.starts = 0


class _Stream:
    """A node's stream of heartbeats."""

    def __init__(self, end: VirtualEnd, node_id: NodeId, incarnation: int) -> None:
        self.end = end
        self.node_id = node_id
        self.incarnation = incarnation
        self.follower: views.Follower[NodeId, Any] = views.Follower()


@types.coroutine
def _ask(command: Any, header: Any) -> Generator[Any, Ruling, Ruling]:
    ruling = yield command, header
    return ruling


class _VirtualDesk:
    """Stands between the real service of actors and the writer.

    Whoever runs the call goes on with it when its command is done.
    """

    def __init__(self, control: VirtualControl) -> None:
        self.service = control

    async def do(self, command: Any, header: Any) -> int | bytes:
        answer = await _ask(command, header)
        if answer.code:
            raise desks.RefusedError(answer)
        return answer.value

    def read(self) -> None:
        pass


class _VirtualRuling:
    """The answer to a command, when it is there (`Future`)."""

    def __init__(self) -> None:
        self._ruling: Ruling | None = None
        self._done: list[Callable[[_VirtualRuling], None]] = []

    def come(self, ruling: Ruling) -> None:
        self._ruling = ruling
        for done in self._done:
            done(self)

    def add_done_callback(self, done: Callable[[_VirtualRuling], None]) -> None:
        self._done.append(done)
        if self._ruling is not None:
            done(self)

    def exception(self) -> None:
        return None

    def result(self) -> Ruling:
        assert self._ruling is not None
        return self._ruling


def _gone(end: VirtualEnd, why: str) -> None:
    """Who called is gone before it said a word."""


class _OrderStream:
    """A node that follows its orders."""

    def __init__(self, end: VirtualEnd, sender: Sender, after: int) -> None:
        self.end = end
        self.sender = sender
        self.number = after
        self.begun = False


class _Watching:
    """A node that watches actors."""

    def __init__(self) -> None:
        self.actors: dict[bytes, None] = {}
        self.rung: dict[bytes, None] = {}


class VirtualControl(VirtualProcess):
    """One life of the control service."""

    def __init__(self, world: World, journal: VirtualJournal, silence_s: float) -> None:
        super().__init__(world, "control", "control", "control:1/control")
        self._journal = journal
        journal.starts += 1
        self.number = journal.starts
        self.membership = Membership(silence_s)
        self.groups = Groups()
        self.orders = Orders()
        self.actors = ActorDirectory()
        self.ledger = Ledger(
            [self.membership, self.orders, self.actors, Jobs(), self.groups, KeyValues()]
        )
        if journal.snapshot is not None:
            self.ledger.restore(journal.snapshot)
        for line in journal.lines:
            self.ledger.apply(self.ledger.decode(line))
        self._began_at = world.now - self.ledger.now
        self._waiting: list[tuple[LedgerEntry, list[Callable[[Ruling], None]]]] = []
        self._is_writing = False
        self._under_way: dict[tuple[bytes, int], list[Callable[[Ruling], None]]] = {}
        self._order_streams: dict[bytes, _OrderStream] = {}
        self._watching: dict[VirtualEnd, _Watching] = {}
        self._stream_of: dict[bytes, _Stream] = {}
        self._follower_of: dict[bytes, VirtualEnd] = {}
        self._followers = 0
        self.bells = bells.Bells()
        lines: Any = node_lines.NodeLines()
        lines.send_soon = lambda line: line.connection.flush()
        self._lines = lines
        desk: Any = self
        self.service = self
        self._lines.begin(desk, self.groups)
        self._lines.hear(desk)
        world.enter(self, LINES)
        self.step(lambda: self._note(ServiceBegun(self.number)))

    @property
    def now(self) -> float:
        """The service's own time."""
        return self.world.now - self._began_at

    # -------------------------------------------------------------- time

    @override
    def wake_at(self) -> float | None:
        at = self.ledger.wake_at()
        return None if at is None else max(self.world.now + ALARM_S, at + self._began_at)

    @override
    def wake(self) -> None:
        self._do_noted(self.ledger.due(self.now))

    # -------------------------------------------------------------- as desk and service of lines

    def read(self) -> None:
        """The journal is read when a process begins."""

    def refusal(self, node_id: NodeId, incarnation: int) -> str:
        """Return why a node is not listened to; empty: it is (`MemberCalls`)."""
        return self.membership.refusal(node_id, incarnation)

    def note(self, happened: Any) -> None:
        """Tell all tables what has happened."""
        self._note(happened)

    def begin(self, command: Any, request: Request) -> _VirtualRuling:
        """Have a command done."""
        coming = _VirtualRuling()
        self._do(request, command, None, coming.come)
        return coming

    @override
    def takers(self, address: str) -> Any:
        return (self._line_said, _gone) if address == LINES else super().takers(address)

    def _line_said(self, end: VirtualEnd, message: Any) -> None:
        """Hear the first word of a node on a line."""
        desk: Any = self
        line: Any = node_lines._NodeLine(self._lines, desk, self.groups)
        line.connection = VirtualConnection(end, line.receive, line.lost)

        def close(_error: Exception) -> None:
            # The real one logs it.
            line.connection.close()
            self._lines.lost(line)

        line._close = close
        end.receive(end, message)

    # -------------------------------------------------------------- what happens

    def _note(self, happened: Any) -> None:
        self._do_noted(self.ledger.note(happened, self.now))

    def _do_noted(self, noted: Noted) -> None:
        for event in noted.events:
            self._tell(event)
        for command in noted.commands:
            self._enqueue(LedgerEntry(0.0, command), [])

    # -------------------------------------------------------------- commands

    def _call(self, end: VirtualEnd, call: ControlCall) -> None:
        number = call.request.number
        self._do(
            call.request,
            call.command,
            call.sender,
            lambda ruling: end.send(ControlAnswer(number, ruling)),
        )

    def _do(
        self,
        request: Request,
        command: Any,
        sender: Sender | None,
        answered: Callable[[Ruling], None],
    ) -> None:
        known = self.ledger.answer_of(request)
        name = (request.client, request.number)
        if known is not None:
            answered(known)
        elif name in self._under_way:
            self._under_way[name].append(answered)
        else:
            asking = self._under_way[name] = [answered]
            self._enqueue(LedgerEntry(0.0, command, request, sender), asking)

    def _serve(self, end: VirtualEnd, asked: AskService) -> None:
        """Have a request answered by the real service."""
        desk: Any = _VirtualDesk(self)
        calls = actor_calls.ActorCalls(desk, self.actors)
        call: Coroutine[Any, Any, Any] = getattr(calls, asked.method)(asked.message, None)
        self._go_on(call, None, end, asked.request)

    def _go_on(
        self, call: Coroutine[Any, Any, Any], ruling: Any, end: VirtualEnd, request: Request
    ) -> None:
        answer: Any
        try:
            command, header = call.send(ruling)
        except StopIteration as over:
            answer = over.value
        except desks.RefusedError as refused:
            status = desks.STATUS_OF[refused.answer.code]
            answer = RpcError(f"control: {refused.answer.reason}", status.value[0])
        else:
            sender = desks.a_sender(header.sender) if header.HasField("sender") else None
            self._do(request, command, sender, lambda each: self._go_on(call, each, end, request))
            return
        end.send(ServiceSaid(request.number, answer))

    def _enqueue(self, entry: LedgerEntry, asking: list[Callable[[Ruling], None]]) -> None:
        self._waiting.append((entry, asking))
        if not self._is_writing:
            self._write()

    def _write(self) -> None:
        """Make durable what waits, then do it."""
        self._is_writing = bool(self._waiting)
        if not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        entries = [
            LedgerEntry(self.now, entry.command, entry.request, entry.sender) for entry, _ in batch
        ]
        lines = [self.ledger.encode(entry) for entry in entries]

        def synced() -> None:
            for entry, (_, asking) in zip(entries, batch, strict=True):
                self._apply(entry, asking)
            self.ledger.check()
            if len(self._journal.lines) >= SNAPSHOT_LINES:
                self._journal.snapshot, self._journal.lines = self.ledger.image(), []
            self._write()

        def durable() -> None:
            self._journal.lines += lines
            # Who dies here has done what nobody was answered.
            self.later(self.world.random.uniform(*SYNC_S), synced)

        self.later(self.world.random.uniform(*SYNC_S), durable)

    def _apply(self, entry: LedgerEntry, asking: list[Callable[[Ruling], None]]) -> None:
        applied = self.ledger.apply(entry)
        if entry.request is not None:
            del self._under_way[entry.request.client, entry.request.number]
        for answered in asking:
            answered(applied.answer)
        for event in applied.events:
            self._tell(event)

    # -------------------------------------------------------------- what tables tell

    def _tell(self, event: Any) -> None:
        match event:
            case TableBroke(table, what, error):
                raise AssertionError(f"table {table} cannot take {what}: {error}")
            case MemberRemoved(node, incarnation, reason) | members.Fence(
                node, incarnation, reason
            ):
                self._fence(bytes(node), reason)
                self._lines.end(node, incarnation, reason)
            case views.Publish(delta):
                for end in self._follower_of.values():
                    end.send(ViewsSent(delta))
            case views.SendWhole(follower, delta):
                self._follower_of[follower].send(ViewsSent(delta))
            case OrderQueued(node):
                self._give_orders(node)
            case ActorChanged(actor):
                for end, watching in list(self._watching.items()):
                    if actor in watching.actors:
                        self._ring(end, watching, actor)
            case bundles.TellGroup(group):
                self.bells.ring(("group", group))
            case bundles.ReserveBundles() | bundles.CommitBundles() | bundles.ReleaseBundles():
                self._lines.order(event)
            case _:
                pass

    def _fence(self, node: bytes, reason: str) -> None:
        stream = self._stream_of.pop(node, None)
        if stream is not None:
            stream.end.send(Fenced(reason))
            stream.end.close("it is fenced")

    # -------------------------------------------------------------- orders and actors

    def _follow_orders(self, end: VirtualEnd, message: FollowOrders) -> None:
        """See `_control/calls/orders.py`."""
        stream = end.peer = _OrderStream(end, message.sender, message.after)
        self._order_streams[message.sender.node] = stream

        def begin(ruling: Ruling) -> None:
            if ruling.code:
                end.close(ruling.reason)
            else:
                stream.begun = True
                self._give_orders(message.sender.node)

        self._take_orders(stream, message.after, begin)

    def _take_orders(
        self, stream: _OrderStream, through: int, then: Callable[[Ruling], None]
    ) -> None:
        sender = stream.sender
        command = TakeOrders(sender.node, sender.incarnation, through)
        self._enqueue(LedgerEntry(0.0, command, None, sender), [then])

    def _give_orders(self, node: bytes) -> None:
        stream = self._order_streams.get(node)
        if stream is None or not stream.begun or stream.end.closed:
            return
        if self.orders.incarnation_of(node) != stream.sender.incarnation:
            stream.end.close("its node is no member")
            return
        while found := self.orders.after(node, stream.number, MOST_ORDERS):
            stream.end.send(OrdersSent(found[0][0], tuple(order for _, order in found)))
            stream.number = found[-1][0]

    def _ring(self, end: VirtualEnd, watching: _Watching, actor: bytes) -> None:
        def look() -> None:
            rung, watching.rung = watching.rung, {}
            for each in rung:
                standing = self.actors.find(each) if each in watching.actors else None
                if standing is not None:
                    end.send(ActorTold(actor_calls._actor(standing)))
                    if standing.life.state == "dead":
                        del watching.actors[each]

        if not watching.rung:
            self.later(self.world.random.random() * RING_S, look)
        watching.rung[actor] = None

    # -------------------------------------------------------------- streams

    @override
    def called(self, end: VirtualEnd, message: Any) -> None:
        match message:
            case ControlCall():
                self._call(end, message)
            case AskService():
                self._serve(end, message)
            case FollowOrders():
                self._follow_orders(end, message)
            case OrdersTaken(through):
                self._take_orders(end.peer, through, lambda ruling: None)
            case WatchActors(actors, no_more):
                watching = self._watching.setdefault(end, _Watching())
                watching.actors.update(dict.fromkeys(actors))
                for actor in actors:
                    self._ring(end, watching, actor)
                for actor in no_more:
                    watching.actors.pop(actor, None)
            case FollowView():
                self._followers += 1
                end.peer = self._followers.to_bytes(8, "big")
                self._follower_of[end.peer] = end
                self._note(views.WholeAsked(end.peer))
            case Heartbeat(node_id, incarnation):
                if end.peer is None:
                    self._fence(node_id, "it has begun another stream")
                    end.peer = self._stream_of[node_id] = _Stream(end, node_id, incarnation)
                self._heard(end.peer, message)
            case _:
                raise AssertionError(message)

    @override
    def hung_up(self, end: VirtualEnd, why: str) -> None:
        self._watching.pop(end, None)
        match end.peer:
            case _OrderStream(sender=sender):
                if self._order_streams.get(sender.node) is end.peer:
                    del self._order_streams[sender.node]
            case bytes():
                del self._follower_of[end.peer]
                self._note(views.FollowerGone(end.peer))
            case _Stream(node_id=node_id, incarnation=incarnation):
                if self._stream_of.get(node_id) is end.peer:
                    del self._stream_of[node_id]
                    self._note(members.LinkClosed(node_id, incarnation))
            case _:
                pass

    def _heard(self, stream: _Stream, message: Heartbeat) -> None:
        """Take what a node says (`MemberCalls.hear`)."""
        node_id, incarnation = message.node_id, message.incarnation
        stream.end.send(BeatHeard())
        view = self._view(stream, message)
        self._note(members.HeartbeatHeard(node_id, incarnation))
        if not self.membership.is_member(node_id, incarnation):
            return
        if view is not None:
            self._note(NodeSaid(incarnation, view))

    def _view(self, stream: _Stream, message: Heartbeat) -> Any:
        if message.delta is None:
            return None
        effects = stream.follower.handle(views.DeltaHeard(message.delta), self.world.now)
        if any(isinstance(effect, views.AskWhole) for effect in effects):
            stream.end.send(WholeViewWanted())
        return stream.follower.table().get(message.node_id) if effects else None


def start_again(
    world: World,
    journal: VirtualJournal,
    silence_s: float,
    started: Callable[[VirtualControl], None],
) -> None:
    """Start the control service some time after it has died."""
    delay_s = world.random.uniform(*START_AGAIN_S)
    world.later(delay_s, lambda: started(VirtualControl(world, journal, silence_s)))
