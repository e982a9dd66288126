"""The heartbeats of a daemon: that it lives, and what it has.

    daemon's loop -> put -> Heartbeats -> gRPC, which takes them in a thread of its own

What is always true
1. The first one says the whole view.
2. What changes is said at once, but the view not more often than its Publisher allows; if nothing
   does, one is sent each `HEARTBEAT_S`, or as often as control wants.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

import msgspec

from weft._clock import monotonic
from weft._control_messages import message_of_delta, node_of_view
from weft._machines.members import HEARTBEAT_S
from weft._machines.views import Publisher, PublisherTicked, TableChanged, WholeAsked
from weft._transport.control import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft._ids import NodeId
    from weft._machines.placement import NodeView

LOST_S = 3.0
FIRST_S = 10.0
"""A first answer may take so long: the connection has to be made."""
_CONTROL = b"control"


class Leaving(msgspec.Struct, frozen=True):
    """The node has nothing left, and ends."""

    reason: str


class DrainAnswer(msgspec.Struct, frozen=True):
    """Whether the node is idle, and takes nothing new."""

    agrees: bool


class WholeWanted(msgspec.Struct, frozen=True):
    """Control has missed something of the view."""


class Heartbeats:
    """The heartbeats of one stream. gRPC takes them, in a thread of its own."""

    def __init__(self, me: NodeId, incarnation: int, lost: Callable[[], None]) -> None:
        """`lost`: called when nobody answers them."""
        self._me = me
        self._lost = lost
        self._lost_at = monotonic() + FIRST_S
        self._sender = messages.Sender(node_id=me, incarnation=incarnation)
        self._publisher: Publisher[NodeId, NodeView] = Publisher(incarnation)
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._beat_at = 0.0
        self._beat_s = HEARTBEAT_S

    def put(self, said: NodeView | Leaving | DrainAnswer | WholeWanted | None) -> None:
        """Let something be said; None: the stream has ended."""
        self._inbox.put(said)

    def heard(self, answer: messages.HeartbeatAnswer) -> None:
        """Note that there was an answer. Any thread may."""
        self._lost_at = monotonic() + LOST_S
        if answer.heartbeat_s:
            self._beat_s = answer.heartbeat_s

    def __iter__(self) -> Iterator[messages.Heartbeat]:
        view = self._inbox.get()
        if view is None:
            return
        self._publish(TableChanged({self._me: view}))
        (first,) = self._publish(WholeAsked(_CONTROL))
        yield messages.Heartbeat(sender=self._sender, view=first)
        self._beat_at = monotonic() + self._beat_s
        while (said := self._wait()) is not None:
            if monotonic() > self._lost_at:
                self._lost()
                return
            yield from self._heartbeats(said)

    def _wait(self) -> list[Any] | None:
        """Return what is to be said, when there is something or it is time; None: the end."""
        at = self._publisher.wake_at()
        until = self._beat_at if at is None else min(at, self._beat_at)
        said: list[Any] = []
        try:
            said.append(self._inbox.get(timeout=max(0.0, until - monotonic())))
            while True:
                said.append(self._inbox.get_nowait())
        except queue.Empty:
            pass
        return None if None in said else said

    def _heartbeats(self, said: list[Any]) -> Iterator[messages.Heartbeat]:
        heartbeat = messages.Heartbeat(sender=self._sender)
        deltas = self._publish(PublisherTicked())
        is_empty = not said
        for each in said:
            match each:
                case Leaving(reason):
                    heartbeat.empty = reason
                case DrainAnswer(agrees):
                    heartbeat.agrees_to_drain = agrees
                case WholeWanted():
                    deltas += self._publish(WholeAsked(_CONTROL))
                case _:
                    deltas += self._publish(TableChanged({self._me: each}))
                    is_empty = is_empty or len(said) == 1
        for delta in deltas[:-1]:
            yield messages.Heartbeat(sender=self._sender, view=delta)
        if deltas:
            heartbeat.view.CopyFrom(deltas[-1])
        now = monotonic()
        if deltas or not is_empty or now >= self._beat_at:
            yield heartbeat
            self._beat_at = now + self._beat_s

    def _publish(self, event: Any) -> list[messages.ViewDelta]:
        effects = self._publisher.handle(event, monotonic())
        return [message_of_delta(effect.delta, node_of_view) for effect in effects]
