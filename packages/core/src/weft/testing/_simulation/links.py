"""A daemon's link to the control service in a world (`_node/control_link.py`).

Real are the machines that publish and follow views, what a node makes of the standing of the
others, and the line for placement groups (`ControlLine`, `GroupLine`).
Modelled are the streams: calls that are repeated until they are answered, heartbeats, and
the view, each begun anew when it breaks.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from weft._lazy import lazy
from weft._machines import views
from weft._machines.ledger import Sender
from weft._machines.members import HEARTBEAT_S, RegisterAsked
from weft._machines.reservations import ControlUnlinked
from weft._machines.rulings import Request
from weft._machines.standings import Standings
from weft._transport.addresses import GROUPS
from weft._wire.lines import GroupAnswered, GroupChanged, NotMember
from weft._wire.messages import Hello
from weft._wire.version import WIRE
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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._ids import NodeId
    from weft._machines.bundles import HeldBundles
    from weft._machines.members import MemberFacts
    from weft._machines.orders import Order
    from weft._machines.placement import NodeView
    from weft._machines.rulings import Ruling
    from weft._node import control_line, line_talk
    from weft._node.group_line import GroupLine
    from weft._transport.control import messages
    from weft.testing._simulation.world import VirtualEnd, VirtualProcess
else:
    control_line = lazy("weft._node.control_line")
    line_talk = lazy("weft._node.line_talk")
    messages = lazy("weft._transport.control.messages")

CONTROL = "control:1/control"
LINES = f"control:1/{GROUPS}"
# As in _node/control_link.py, and as long again by chance.
PAUSE_S = 0.1
FIRST_S, LOST_S = 10.0, 3.0
"""As in _node/heartbeats.py."""
ORDER_S = 0.001
"""What is asked at one time is not heard in that order: each is a stream of its own."""


class LinkNews(Protocol):
    """What of `ControlNews` is modelled."""

    def registered(self) -> None:
        """The node is a member."""
        ...

    def fenced(self, reason: str) -> None:
        """It was declared dead: all that it runs ends."""
        ...

    def views_changed(self, seen: Sequence[NodeView], gone: Sequence[NodeId]) -> None:
        """Other nodes have this, or are gone."""
        ...

    def node_died(self, node: MemberFacts) -> None:
        """Another node is dead."""
        ...

    def held(self) -> tuple[HeldBundles, ...]:
        """Return what the node holds for placement groups."""
        ...

    def bundles_asked(self, asked: Any) -> None:
        """Control wants something done with bundles, or cannot be heard."""
        ...

    def ordered(self, order: Order) -> None:
        """Control wants something done for an actor."""
        ...

    def actor_changed(self, actor: messages.Actor) -> None:
        """An actor that is watched is so."""
        ...


class VirtualConnection:
    """A connection for messages (`SocketConnection`); what is queued goes with `flush`."""

    def __init__(self, end: VirtualEnd, receive: Any, lost: Any) -> None:
        self._end = end
        self._receive = receive
        self._lost = lost
        self._queued: list[Any] = []
        end.receive, end.lost = self.heard, self.lose

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._end.closed

    def queue(self, message: Any) -> None:
        """Have something sent with the next `flush`."""
        self._queued.append(message)

    def flush(self) -> None:
        """Send what is queued."""
        queued, self._queued = self._queued, []
        for each in queued:
            self._end.send(each)

    def close(self) -> None:
        """End it."""
        self._end.close()

    def heard(self, end: VirtualEnd, message: Any) -> None:
        """Take a message."""
        self._receive(self, [message])

    def lose(self, end: VirtualEnd, why: str) -> None:
        """Hear that it broke."""
        self._lost(self, why)


class VirtualLink:
    """The link of one daemon."""

    def __init__(
        self, daemon: VirtualProcess, news: LinkNews, node_id: NodeId, view: NodeView
    ) -> None:
        self.incarnation = 0
        self.member_since = float("inf")
        """When it became a member in this incarnation."""
        self.standings = Standings(node_id)
        self._daemon = daemon
        self._world = daemon.world
        self._news = news
        self._node_id = node_id
        self._view = _as_sent(view)
        self._calls: VirtualEnd | None = None
        self._beats: VirtualEnd | None = None
        self._watch: VirtualEnd | None = None
        self._number = 0
        self._open: dict[int, tuple[ControlCall | AskService, Callable[[Any], None]]] = {}
        """Calls that are not answered."""
        self._lanes: dict[object, deque[Callable[[], None]]] = {}
        self._orders: VirtualEnd | None = None
        self._has_orders = 0
        """Of this incarnation, up to this number."""
        self._watched: dict[bytes, None] = {}
        self._watching: VirtualEnd | None = None
        self._early: list[tuple[Any, Callable[[Ruling], None]]] = []
        """Calls that wait until the node is a member."""
        self._named: dict[int, None] = {}
        """Numbers of requests on the line that have no answer."""
        self._groups: GroupLine | None = None
        shells: Any = self
        line: Any = control_line.ControlLine(
            shells,
            shells,
            shells,
            shells,
            me=Hello(WIRE, node_id, daemon.address, 0, "daemon"),
            places=lambda: [CONTROL],
        )
        line._call = self._call_for_line
        self.line = line
        self._publisher: views.Publisher[NodeId, NodeView] = views.Publisher(0)
        self._others: views.Follower[NodeId, Any] = views.Follower()
        self._beat_at = 0.0
        self._lost_at = 0.0
        """When the link believes in no connection any more, if there is no answer."""

    def begin(self) -> None:
        """Register, and follow the view from then on."""
        self._register()

    def _give_up(self) -> None:
        """Believe in no connection any more, for nobody answers."""
        streams = (self._beats, self._orders, self._watching, self._watch, self._calls)
        for end in streams:
            if end is not None and not end.closed:
                end.close("nobody answers")
                end.lost(end, "nobody answers")

    def wake_at(self) -> float | None:
        """Return when `wake` is due, in seconds; None: never."""
        if self._beats is None:
            return None
        at = self._publisher.wake_at()
        return self._beat_at if at is None else min(at, self._beat_at)

    def wake(self) -> None:
        """Say that the node lives, and what it has."""
        if self._beats is not None and self._lost_at < self._world.now:
            self._give_up()
        elif self._beats is not None:
            self._publish(views.PublisherTicked())
            if self._beat_at <= self._world.now:
                self._beat()

    def _again(self, do: Callable[[], None]) -> None:
        self._daemon.later(PAUSE_S * (1 + self._world.random.random()), do)

    # -------------------------------------------------------------- calls

    @property
    def sender(self) -> messages.Sender:
        """As whom this node speaks."""
        return messages.Sender(node_id=self._node_id, incarnation=self.incarnation)

    def address_of(self, node_id: NodeId) -> str | None:
        """Return where a node's daemon is."""
        standing = self.standings.members.get(node_id)
        return None if standing is None or standing.is_dead else standing.facts.address

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
        """Ask control something, until it answers, as the real one does but without an end."""

        def ask() -> None:
            name = self._name()
            self._send(AskService(name, service, method, request), done)

        def done(answer: Any) -> None:
            if lane is not None:
                waiting = self._lanes[lane]
                waiting.popleft()
                if waiting:
                    waiting[0]()
                else:
                    del self._lanes[lane]
            then(answer)

        if lane is not None:
            waiting = self._lanes.setdefault(lane, deque())
            waiting.append(lambda: self._soon(ask))
            if len(waiting) > 1:
                return
            waiting[0]()
        else:
            self._soon(ask)

    def _soon(self, ask: Callable[[], None]) -> None:
        """What is asked in no lane, or in different ones, comes in any order."""
        self._daemon.later(self._world.random.random() * ORDER_S, ask)

    def command(
        self, command: Any, then: Callable[[Ruling], None], *, as_node: bool = True
    ) -> None:
        """Have a command done; as one of this node, once it is a member, if it is not said else.

        All of these are in one lane: what a driver did is not heard of after its end.
        """
        if as_node and not self.incarnation:
            self._early.append((command, then))
            return
        request = self._name()
        sender = Sender(bytes(self._node_id), self.incarnation) if as_node else None
        self._send(ControlCall(request, command, sender), then)

    def _name(self) -> Request:
        """Return the name of the next request."""
        self._number += 1
        done_below = min((*self._open, *self._named), default=self._number)
        return Request(bytes(self._node_id), self._number, done_below)

    def _send(self, call: ControlCall | AskService, then: Callable[[Any], None]) -> None:
        self._open[call.request.number] = (call, then)
        if self._calls is not None:
            self._calls.send(call)
        elif len(self._open) == 1:
            self._call_again()

    def _call_again(self) -> None:
        if self._calls is None and self._open:
            first, *others = (call for call, _ in self._open.values())
            self._calls = self._daemon.call(CONTROL, first, self._answered, self._calls_lost)
            assert self._calls is not None
            for call in others:
                self._calls.send(call)

    def _calls_lost(self, end: VirtualEnd, why: str) -> None:
        self._calls = None
        self._again(self._call_again)

    def _answered(self, end: VirtualEnd, message: ControlAnswer | ServiceSaid) -> None:
        _, then = self._open.pop(message.number, (None, None))
        if then is not None:
            then(message.ruling if isinstance(message, ControlAnswer) else message.answer)

    # -------------------------------------------------------------- heartbeats

    def _register(self) -> None:
        name = self._node_id + (self._number + 1).to_bytes(8, "big")
        asked = RegisterAsked(self._node_id, name, self._daemon.address)
        self.command(asked, self._registered, as_node=False)

    def _registered(self, ruling: Ruling) -> None:
        assert not ruling.code, ruling
        self.incarnation = int(ruling.value)
        self.member_since = self._world.now
        self._link()
        early, self._early = self._early, []
        for command, then in early:
            self.command(command, then)
        self._has_orders = 0
        if self._watch is None:
            self._follow()
        self._follow_orders()
        self._watch_actors()
        self._news.registered()

    def _link(self) -> None:
        """Begin a stream of heartbeats, with all that the node has."""
        if not self.incarnation:
            return
        self._publisher = views.Publisher(self.incarnation)
        self._publisher.handle(views.TableChanged({self._node_id: self._view}), self._world.now)
        first = Heartbeat(self._node_id, self.incarnation, self._whole())
        self._lost_at = self._world.now + FIRST_S
        self._beats = self._daemon.call(CONTROL, first, self._told, self._beats_lost)
        self._beat_at = self._world.now + HEARTBEAT_S
        self.line.begin(self.incarnation)

    def _whole(self) -> Any:
        effects = self._publisher.handle(views.WholeAsked(b"control"), self._world.now)
        return next(e.delta for e in effects if isinstance(e, views.SendWhole))

    def _beats_lost(self, end: VirtualEnd, why: str) -> None:
        if end is self._beats:
            self._beats = None
            self.line.end()
            self._again(self._link)

    def _told(self, end: VirtualEnd, message: Any) -> None:
        if end is not self._beats:
            return
        self._lost_at = self._world.now + LOST_S
        match message:
            case BeatHeard():
                pass
            case WholeViewWanted():
                self._beat(self._whole())
            case Fenced(reason):
                end.close()
                self._beats, self.incarnation = None, 0
                for stream in (self._orders, self._watching):
                    if stream is not None:
                        stream.close()
                self._orders = self._watching = None
                self.member_since = float("inf")
                self._early.clear()
                self.line.end()
                self._news.fenced(reason)
                self._register()
            case _:
                raise AssertionError(message)

    def publish(self, view: NodeView) -> None:
        """Say what the node has."""
        self._view = _as_sent(view)
        if self._beats is not None:
            self._publish(views.TableChanged({self._node_id: self._view}))

    def _publish(self, event: Any) -> None:
        for effect in self._publisher.handle(event, self._world.now):
            if isinstance(effect, views.Publish):
                self._beat(effect.delta)

    def _beat(self, delta: Any = None) -> None:
        assert self._beats is not None
        self._beat_at = self._world.now + HEARTBEAT_S
        self._beats.send(Heartbeat(self._node_id, self.incarnation, delta))

    # -------------------------------------------------------------- placement groups

    def call_later(self, delay_s: float, do: Callable[[], None]) -> None:
        """Do something later (`Timers`)."""
        self._daemon.later(delay_s, do)

    def _call_for_line(self, place: str) -> VirtualConnection:
        end = self._daemon.call(LINES, None, self._too_early, self._too_early)
        assert end is not None
        return VirtualConnection(end, self.line._receive, self.line._lost)

    def _too_early(self, end: VirtualEnd, what: Any) -> None:
        raise AssertionError(what)

    def keep(self, groups: GroupLine) -> None:
        """Let who asks for placement groups know what comes on the line."""
        self._groups = groups

    def new_name(self) -> Request:
        """Name a request that is said on the line, until `has_answer`."""
        name = self._name()
        self._named[name.number] = None
        return name

    def has_answer(self, name: Request) -> None:
        """Note that it has its answer."""
        self._named.pop(name.number, None)

    def report(self, told: Any) -> None:
        """Answer what was asked of bundles."""
        self.line.say(line_talk.said_of(told))

    def held(self) -> tuple[HeldBundles, ...]:
        """Return what the node holds for placement groups."""
        return self._news.held()

    def line_began(self) -> None:
        """Say again what was not answered."""
        if self._groups is not None:
            self._groups.began()

    def line_heard(self, said: Any, control: int) -> None:
        """Take what control says of bundles and groups."""
        if isinstance(said, NotMember):
            return  # Heartbeats, which have a connection of their own here, are told the same.
        if not isinstance(said, GroupAnswered | GroupChanged):
            self._news.bundles_asked(line_talk.asked_of(said, control))
        elif self._groups is not None:
            self._groups.heard(said)

    def line_ended(self) -> None:
        """Nobody asks for bundles any more."""
        self._news.bundles_asked(ControlUnlinked())

    # -------------------------------------------------------------- the view

    def _follow(self) -> None:
        self._others.handle(views.SourceLinked(), self._world.now)
        self._watch = self._daemon.call(CONTROL, FollowView(), self._seen, self._watch_lost)

    def _watch_lost(self, end: VirtualEnd, why: str) -> None:
        if end is self._watch:
            self._again(self._follow)

    def _seen(self, end: VirtualEnd, message: ViewsSent) -> None:
        if end is not self._watch:
            return
        for effect in self._others.handle(views.DeltaHeard(message.delta), self._world.now):
            if isinstance(effect, views.AskWhole):
                end.close()
                self._follow()
                return
            changed = self.standings.change(effect)
            if changed.views or changed.gone:
                self._news.views_changed(changed.views, changed.gone)
            for facts in changed.died:
                self._news.node_died(facts)

    # -------------------------------------------------------------- actors

    def _follow_orders(self) -> None:
        if self._orders is None and self.incarnation:
            sender = Sender(bytes(self._node_id), self.incarnation)
            first = FollowOrders(sender, self._has_orders)
            self._orders = self._daemon.call(CONTROL, first, self._ordered, self._orders_lost)

    def _orders_lost(self, end: VirtualEnd, why: str) -> None:
        if end is self._orders:
            self._orders = None
            self._again(self._follow_orders)

    def _ordered(self, end: VirtualEnd, message: OrdersSent) -> None:
        if end is not self._orders:
            return
        self._has_orders = message.first + len(message.orders) - 1
        end.send(OrdersTaken(self._has_orders))
        for order in message.orders:
            self._news.ordered(order)

    def watch_actor(self, actor: bytes) -> None:
        """Hear of an actor, as it is and as it changes, until it is dead."""
        self._watched[actor] = None
        if self._watching is not None:
            self._watching.send(WatchActors((actor,)))

    def leave_actor(self, actor: bytes) -> None:
        """Hear no more of it."""
        if self._watched.pop(actor, 0) is None and self._watching is not None:
            self._watching.send(WatchActors((), (actor,)))

    def _watch_actors(self) -> None:
        if self._watching is None and self.incarnation:
            first = WatchActors(tuple(self._watched))
            self._watching = self._daemon.call(CONTROL, first, self._actor_told, self._watch_over)

    def _watch_over(self, end: VirtualEnd, why: str) -> None:
        if end is self._watching:
            self._watching = None
            self._again(self._watch_actors)

    def _actor_told(self, end: VirtualEnd, message: ActorTold) -> None:
        actor = message.actor
        if end is self._watching and actor.actor_id in self._watched:
            if actor.state == messages.DEAD:
                del self._watched[actor.actor_id]
            self._news.actor_changed(actor)


def _as_sent(view: NodeView) -> NodeView:
    """Return a view as it is when it was encoded and decoded: nobody's own."""
    return msgspec.structs.replace(view, is_local=False)
