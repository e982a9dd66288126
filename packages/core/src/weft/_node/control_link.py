"""A daemon's link to the control service: what it says there, and what it is told.

    daemon's loop                             threads of the link, and of gRPC's
    publish, leave           -> Heartbeats -> ControlLine, once it has registered; again if fenced
    ControlNews              <- ControlLine:  drains, fences
                             <- Inbox      <- view, orders, jobs: a stream each
    watch_actor              <- Inbox      <- what becomes of actors: one stream
    call(..., then)          <- Inbox      <- answers
    report, keep(GroupLine)  <-> ControlLine: placement groups, and calls without a limit of time

gRPC lives in threads of its own. They touch nothing of the daemon's: what they hear is left in its
inbox, and `ControlNews` is told of it in its loop.

What is always true
1. The daemon is registered again and again until it is taken, and each stream is begun anew when
   it breaks, with what was heard of it last: a control service that was started again is found by
   who was linked before.
2. Of the life of another node it is told once that it has joined and once that it has died.
3. Orders are told once each, in order, within an incarnation.
4. Who hears no answer to heartbeats for `LOST_S` believes in no connection any more.
5. While the node is a member there is a line, or it is looked for. Each begins with the whole view.
6. After `fenced` nothing is said for the life that is over; what was told for it may still come.
7. Heartbeats come from the loop: a daemon whose loop hangs is as silent as one that is dead.

Facts about fork: a child has none of these threads, and what they had locked stays locked. So a
daemon that has begun its link forks no more.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from weft._control_messages import delta_of, job_of, order_of, standing_of
from weft._machines.reservations import CommitAsked, ControlUnlinked, ReleaseAsked, ReserveAsked
from weft._machines.spillover import ViewsChanged
from weft._machines.standings import Standings
from weft._machines.views import ApplyChange, AskWhole, DeltaHeard, Follower, SourceLinked
from weft._node.clients import TOOL
from weft._node.control_line import ControlLine
from weft._node.heartbeats import DrainAnswer, Heartbeats, Leaving, WholeWanted
from weft._node.inbox import Inbox
from weft._node.line_calls import LineCalls
from weft._node.line_talk import asked_of, said_of
from weft._transport.addresses import is_path, split
from weft._transport.control import messages
from weft._transport.control.client import TIMEOUT_S, ControlClient
from weft._wire.lines import (
    BeatAnswered,
    CallAnswered,
    ControlSays,
    GroupAnswered,
    GroupChanged,
    NotMember,
)
from weft._wire.messages import Hello
from weft._wire.version import WIRE
from weft.exceptions import AuthenticationError, RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from weft._ids import NodeId
    from weft._machines.bundles import HeldBundles
    from weft._machines.jobs import JobFacts
    from weft._machines.members import MemberFacts
    from weft._machines.membership import MemberStanding
    from weft._machines.orders import Order
    from weft._machines.placement import NodeView
    from weft._node.clients import Client
    from weft._node.group_line import GroupLine
    from weft._node.line_talk import BundlesTold
    from weft._transport.control.client import ControlStream
    from weft._transport.credentials import Credentials
    from weft._transport.sockets import Poller
    from weft._transport.timers import Timers

# It is back within 2 s if it was killed, and elsewhere within 5.
LOOK_S = 5.0
PAUSE_S = 0.1
"""Before a stream that has broken is begun anew."""
WRONG_TOKEN_S = 5.0
FENCED = 9
"""gRPC's status FAILED_PRECONDITION."""

_Watching: TypeAlias = "queue.SimpleQueue[messages.WatchActorsRequest | None]"
BundlesAsked = ReserveAsked | CommitAsked | ReleaseAsked | ControlUnlinked


def patience_of(client: Client) -> float:
    """Return how long control is asked something for a client, in seconds.

    A person who looks wants to be told soon that nobody answers; a program waits for the head.
    """
    return LOOK_S if client.role == TOOL else TIMEOUT_S


class ControlNews:
    """What a daemon hears through its link, in its own loop. What is not overridden is ignored."""

    def registered(self, incarnation: int) -> None:
        """The node is a member."""

    def control_heard(self) -> None:
        """The control service answers, for the first time or again."""

    def control_lost(self) -> None:
        """It does not any more; told again and again while that is so."""

    def fenced(self, reason: str) -> None:
        """It was declared dead: all that it runs ends. When this returns it registers anew."""

    def views_changed(self, changed: ViewsChanged) -> None:
        """Other nodes have this, or are gone."""

    def node_joined(self, node: MemberFacts) -> None:
        """Another node has begun to live."""

    def node_died(self, node: MemberFacts) -> None:
        """Another node is dead; its `cause` says why."""

    def ordered(self, order: Order) -> None:
        """Control wants something done for an actor."""

    def held(self) -> Sequence[HeldBundles]:
        """Return what the node holds for placement groups."""
        return ()

    def bundles_asked(self, asked: BundlesAsked) -> None:
        """Control wants something done with bundles, or cannot be heard."""

    def actor_changed(self, actor: messages.Actor) -> None:
        """An actor that is watched is so; it may be told again, and changes may be told as one."""

    def job_changed(self, job: JobFacts) -> None:
        """A job has begun, has ended, or may take something else."""

    def drain_asked(self, message: str, deadline_s: float) -> bool:
        """Tell whether the node is idle; then it takes nothing new."""
        return False

    def drain_told(self, reason: str, message: str, deadline_s: float) -> None:
        """Take nothing new, move last copies, then `leave`. 0: there is no deadline."""

    def left(self) -> None:
        """Control knows that the node has left."""


class ControlLink:
    """The link of one daemon. Its methods are for the daemon's loop."""

    def __init__(
        self,
        poller: Poller,
        timers: Timers,
        news: ControlNews,
        credentials: Credentials,
        *,
        control: str | tuple[str, ...],
        address: str,
        name: str,
        view: NodeView,
        is_head: bool = False,
    ) -> None:
        """Make it; nothing is said before `begin`.

        Args:
            poller: Of the loop.
            timers: Of the loop.
            news: Is told what comes.
            credentials: Of the cluster.
            control: Where the control service is, as ControlClient takes it. Other nodes where it
                may be next are found by themselves.
            address: By which others reach this daemon.
            name: Of the node, for people.
            view: What the node has.
            is_head: The control service may come to be here.
        """
        self._standings = Standings(view.node_id)
        self.members = self._standings.members
        """The nodes of the cluster, this one too, and the dead that are remembered."""
        self.incarnation = 0
        """0: the node is no member yet."""
        self._inbox = Inbox(poller)
        self._news = news
        self._node = messages.Node(
            node_id=view.node_id, address=address, host=name, is_head=is_head
        )
        self._me = view.node_id
        self._view = view
        self._control = (control,) if isinstance(control, str) else control
        self._client = ControlClient(control, credentials)
        me = Hello(WIRE, view.node_id, address, os.getpid(), "daemon")
        self.line = ControlLine(poller, timers, credentials, self, me=me, places=self._places)
        """While the node is a member."""
        self._calls = LineCalls(self.line, self._client)
        self._groups: GroupLine | None = None
        self._closed = threading.Event()
        self._registered = threading.Event()
        self._member_as = 0
        """As `incarnation`, for the threads."""
        self._streams: dict[str, ControlStream] = {}
        self._streams_lock = threading.Lock()
        self._timers = timers
        self._beats: Heartbeats | None = None
        """Those of the connection that the line has; None: it has none."""
        self._is_heard = False
        """They were answered."""
        self._leaving = ""
        self._watched: dict[bytes, None] = {}
        """Actors."""
        self._watching: _Watching | None = None
        """Who takes more of them; None: there is no stream."""
        self._lanes: dict[object, deque[Callable[[], None]]] = {}
        """Calls that wait for another of their lane; the first of each is under way."""
        self._threads = [
            threading.Thread(target=function, name=f"weft-{function.__name__.strip('_')}")
            for function in (
                self._follow_view,
                self._follow_orders,
                self._follow_jobs,
                self._follow_actors,
            )
        ]

    def begin(self) -> None:
        """Register, and begin to listen. The process forks no more from here on."""
        for thread in self._threads:
            thread.start()
        self._register()

    @property
    def sender(self) -> messages.Sender:
        """How this node signs what it says."""
        return messages.Sender(node_id=self._me, incarnation=self.incarnation)

    def address_of(self, node_id: NodeId) -> str | None:
        """Return the address of a living node's daemon; None: there is no such node."""
        return self._standings.address_of(node_id)

    def dead_at(self, node: str) -> MemberFacts | None:
        """Return the dead node that was last known at HOST:PORT; None: one lives there, or none."""
        return self._standings.dead_at(node)

    # -------------------------------------------------------------- what is said

    def publish(self, view: NodeView) -> None:
        """Say what the node has."""
        self._view = view
        if self._beats is not None:
            self._beats.put(view)

    def report(self, told: BundlesTold) -> None:
        """Answer what was asked of bundles."""
        self.line.say(said_of(told))

    def flush(self) -> None:
        """Send what was said on the line."""
        self.line.flush()

    def leave(self, reason: str) -> None:
        """Say that the node has nothing left and ends; `left` follows when that is known."""
        self._leaving = reason
        if self._beats is not None:
            self._beats.put(Leaving(reason))

    def watch_actor(self, actor: bytes) -> None:
        """Hear of an actor (`actor_changed`), as it is and as it changes, until it is dead."""
        self._watched[actor] = None
        if self._watching is not None:
            self._watching.put(messages.WatchActorsRequest(actor_ids=[actor]))

    def leave_actor(self, actor: bytes) -> None:
        """Hear no more of it."""
        if self._watched.pop(actor, 0) is None and self._watching is not None:
            self._watching.put(messages.WatchActorsRequest(no_more=[actor]))

    def call(
        self,
        service: str,
        method: str,
        request: Any,
        then: Callable[[Any], None] = lambda answer: None,
        *,
        lane: object = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Ask the control service something, also while there is none.

        Args:
            service: As control.proto calls it.
            method: As Python writes it: `end_owner`.
            request: It is not to be changed any more.
            then: Gets the answer; or RpcError (refused), GetTimeoutError or AuthenticationError.
            lane: What has the same lane is asked in order, each when the one before was answered.
            timeout_s: How long to ask; infinity: until there is an answer, over the line.
        """
        done = partial(self._answered, lane, then)
        if timeout_s == float("inf"):
            ask = partial(self._calls.ask, service, method, request, done)
        else:
            ask = partial(
                self._client.begin,
                service,
                method,
                request,
                lambda answer: self._post(partial(done, answer)),
                timeout_s=timeout_s,
            )
        if lane is not None:
            waiting = self._lanes.setdefault(lane, deque())
            waiting.append(ask)
            if len(waiting) > 1:
                return
        ask()

    def keep(self, groups: GroupLine) -> None:
        """Let who asks for placement groups know what comes on the line, and when there is one."""
        self._groups = groups

    def new_name(self) -> messages.RequestId:
        """Name a request that is said on a stream, until `has_answer`."""
        return self._client.new_name()

    def has_answer(self, name: messages.RequestId) -> None:
        """Note that a request has its answer."""
        self._client.has_answer(name)

    def _answered(self, lane: object, then: Callable[[Any], None], answer: Any) -> None:
        if lane is not None:
            waiting = self._lanes[lane]
            waiting.popleft()
            if waiting:
                waiting[0]()
            else:
                del self._lanes[lane]
        then(answer)

    def close(self) -> None:
        """End the link, and wait for its threads; nothing is told any more. Idempotent."""
        self._closed.set()
        self._registered.set()
        self._inbox.close()
        self.line.close()
        with self._streams_lock:
            for stream in self._streams.values():
                stream.cancel()
        self._client.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    # -------------------------------------------------------------- what is heard, in the loop

    def _post(self, function: Callable[[], None]) -> None:
        self._inbox.post(function)

    def _register(self) -> None:
        if self._closed.is_set():
            return
        request = messages.RegisterRequest(node=self._node)
        self.call("Members", "register", request, self._registered_as)

    def _registered_as(self, answer: Any) -> None:
        if isinstance(answer, Exception):
            is_refused = isinstance(answer, AuthenticationError)
            self._timers.call_later(WRONG_TOKEN_S if is_refused else PAUSE_S, self._register)
            return
        self.incarnation = self._member_as = int(answer.incarnation)
        self._registered.set()
        self._news.registered(self.incarnation)
        self.line.begin(self.incarnation)

    def _fenced(self, reason: str) -> None:
        self.incarnation = 0
        self._registered.clear()
        self.line.end()
        if self._leaving:
            self._news.left()
        else:
            self._news.fenced(reason)
            self._register()

    def _beat_answered(self, answer: messages.HeartbeatAnswer) -> None:
        beats = self._beats
        if beats is None:
            return
        beats.heard(answer)
        if not self._is_heard:
            self._is_heard = True
            self._news.control_heard()
        if answer.ask_whole:
            beats.put(WholeWanted())
        if answer.HasField("ask_drain"):
            drain = answer.ask_drain
            beats.put(DrainAnswer(self._news.drain_asked(drain.message, drain.deadline_s)))
        if answer.HasField("tell_drain"):
            drain = answer.tell_drain
            self._news.drain_told(drain.reason, drain.message, drain.deadline_s)

    def _unheard(self) -> None:
        """Nobody answers: what gRPC has of connections is not believed in, either."""
        # It may have to look names up.
        threading.Thread(target=self._client.begin_anew, name="weft-begin-anew").start()
        self.line.begin_anew()

    def _view_changed(self, change: ApplyChange[NodeId, MemberStanding]) -> None:
        """Tell of other nodes; what becomes of this one is told by fences."""
        changed = self._standings.change(change)
        if changed.views or changed.gone:
            self._news.views_changed(ViewsChanged(changed.views, changed.gone))
        for facts in changed.died:
            self._news.node_died(facts)
        for facts in changed.joined:
            self._news.node_joined(facts)

    def _ordered(self, incarnation: int, orders: list[Order]) -> None:
        for order in orders:
            if incarnation == self.incarnation:
                self._news.ordered(order)

    def _watch_began(self, watching: _Watching) -> None:
        self._watching = watching
        watching.put(messages.WatchActorsRequest(actor_ids=list(self._watched)))

    def _watch_ended(self, watching: _Watching) -> None:
        if self._watching is watching:
            self._watching = None

    def _actor_changed(self, actor: messages.Actor) -> None:
        if actor.actor_id in self._watched:
            if actor.state == messages.DEAD:
                del self._watched[actor.actor_id]
            self._news.actor_changed(actor)

    # -------------------------------------------------------------- the line

    def _places(self) -> tuple[str, ...]:
        """Return where the control service may be, as `_follow_heads` does."""
        if is_path(self._control[0]):
            return self._control
        heads = [
            split(standing.facts.address).node
            for standing in self._standings.members.values()
            if standing.facts.is_head and not standing.is_dead
        ]
        return tuple(dict.fromkeys((*self._control, *heads)))

    def held(self) -> Sequence[HeldBundles]:
        """Return what the node holds for placement groups."""
        return self._news.held()

    def line_began(self) -> None:
        """Say what the node has, and again what was not answered."""
        self._is_heard = False
        self._beats = Heartbeats(
            self._view, self.incarnation, self._timers, say=self.line.say, lost=self._unheard
        )
        if self._leaving:
            self._beats.put(Leaving(self._leaving))
        self._calls.began()
        if self._groups is not None:
            self._groups.began()

    def line_heard(self, said: ControlSays, control: int) -> None:
        """Take what control says."""
        match said:
            case BeatAnswered(body):
                self._beat_answered(messages.HeartbeatAnswer.FromString(body))
            case NotMember(reason):
                self._fenced(reason)
            case CallAnswered():
                self._calls.heard(said)
            case GroupAnswered() | GroupChanged():
                if self._groups is not None:
                    self._groups.heard(said)
            case _:
                self._news.bundles_asked(asked_of(said, control))

    def line_ended(self) -> None:
        """Nobody hears heartbeats, nor asks for bundles any more."""
        if self._beats is not None:
            self._beats.end()
            self._beats = None
        self._news.control_lost()
        self._news.bundles_asked(ControlUnlinked())

    # -------------------------------------------------------------- threads

    def _follow_view(self) -> None:
        """Follow the view as a member: the end of a node that never was one nobody hears of."""
        follower: Follower[NodeId, MemberStanding] = Follower()
        while self._is_member():
            follower.handle(SourceLinked(), 0.0)
            try:
                with self._stream("ClusterView", "watch", messages.WatchViewRequest()) as stream:
                    for message in stream:
                        if not self._hear_view(follower, message):
                            break
            except (RpcError, AuthenticationError, ValueError):
                self._closed.wait(PAUSE_S)

    def _hear_view(
        self, follower: Follower[NodeId, MemberStanding], message: messages.ViewDelta
    ) -> bool:
        """Take what has changed; False: something was missed."""
        is_whole = True
        for effect in follower.handle(DeltaHeard(delta_of(message, standing_of)), 0.0):
            if isinstance(effect, AskWhole):
                is_whole = False
            else:
                self._post(partial(self._view_changed, effect))
                if effect.gone or any(each.facts.is_head for each in effect.changed.values()):
                    self._follow_heads(follower.table().values())
        return is_whole

    def _follow_heads(self, standings: Iterable[MemberStanding]) -> None:
        """Know where the control service may be next."""
        if is_path(self._control[0]):
            return
        heads = {
            split(standing.facts.address).node: None
            for standing in standings
            if standing.facts.is_head and not standing.is_dead
        }
        self._client.move(tuple(dict.fromkeys((*self._control, *sorted(heads)))))

    def _follow_orders(self) -> None:
        incarnation = has = 0
        """Of whose orders all up to `has` are in the inbox."""
        while self._is_member():
            if self._member_as != incarnation:
                incarnation, has = self._member_as, 0
            sender = messages.Sender(node_id=self._me, incarnation=incarnation)
            taken: queue.SimpleQueue[messages.FollowOrdersRequest | None] = queue.SimpleQueue()
            taken.put(messages.FollowOrdersRequest(sender=sender, after=has))
            try:
                with self._stream("Members", "follow", iter(taken.get, None)) as stream:
                    for said in stream:
                        orders = [order_of(each) for each in said.orders]
                        self._post(partial(self._ordered, incarnation, orders))
                        has = said.first + len(orders) - 1
                        taken.put(messages.FollowOrdersRequest(after=has))
            except (RpcError, AuthenticationError):
                self._closed.wait(PAUSE_S)
            finally:
                taken.put(None)

    def _is_member(self) -> bool:
        """Wait until the node is a member; False: the link was closed."""
        self._registered.wait()
        return not self._closed.is_set()

    def _follow_jobs(self) -> None:
        change = 0
        while self._is_member():
            request = messages.WatchJobsRequest(after=change)
            try:
                with self._stream("Jobs", "watch", request) as stream:
                    for job in stream:
                        change = max(change, job.change)
                        self._post(partial(self._news.job_changed, job_of(job)))
            except (RpcError, AuthenticationError):
                self._closed.wait(PAUSE_S)

    def _follow_actors(self) -> None:
        while self._is_member():
            watching: _Watching = queue.SimpleQueue()
            self._post(partial(self._watch_began, watching))
            try:
                with self._stream("Actors", "watch", iter(watching.get, None)) as stream:
                    for actor in stream:
                        self._post(partial(self._actor_changed, actor))
            except (RpcError, AuthenticationError):
                self._closed.wait(PAUSE_S)
            finally:
                watching.put(None)
                self._post(partial(self._watch_ended, watching))

    def _stream(self, service: str, method: str, requests: Any) -> _OpenStream:
        stream = self._client.stream(service, method, requests)
        name = f"{service}.{method}"
        with self._streams_lock:
            self._streams[name] = stream
            if self._closed.is_set():
                stream.cancel()
        return _OpenStream(stream)


class _OpenStream:
    """A stream that is ended by who leaves it."""

    def __init__(self, stream: ControlStream) -> None:
        self._stream = stream

    def __enter__(self) -> ControlStream:
        return self._stream

    def __exit__(self, *_: object) -> None:
        self._stream.cancel()
