"""The heartbeats of a daemon: that it lives, and what it has, on its line to the control service.

    daemon's loop -> put -> Heartbeats -> SayBeat
                     heard <- BeatAnswered <-

What is always true
1. The first one on a line says the whole view.
2. What changes is said at once, but the view not more often than its Publisher allows; if nothing
   does, one is sent each `HEARTBEAT_S`, or as often as control wants.
3. When nobody has answered for `LOST_S` that is told, once, and no more is said.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from weft._clock import monotonic
from weft._control_messages import message_of_delta, node_of_view
from weft._machines.members import HEARTBEAT_S
from weft._machines.views import Publisher, PublisherTicked, TableChanged, WholeAsked
from weft._transport.control import messages
from weft._wire.lines import SayBeat

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._ids import NodeId
    from weft._machines.placement import NodeView
    from weft._transport.timers import Timers

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
    """The heartbeats on one line; they begin when it is made."""

    def __init__(
        self,
        view: NodeView,
        incarnation: int,
        timers: Timers,
        *,
        say: Callable[[SayBeat], None],
        lost: Callable[[], None],
    ) -> None:
        """`say`: sends one, soon. `lost`: called when nobody answers them."""
        self._me = view.node_id
        self._timers = timers
        self._say = say
        self._lost = lost
        self._publisher: Publisher[NodeId, NodeView] = Publisher(incarnation)
        self._beat_s = HEARTBEAT_S
        self._lost_at = monotonic() + FIRST_S
        self._rings_at = float("inf")
        """When the timer rings that counts; those of before are late."""
        self._is_over = False
        self._publish(TableChanged({self._me: view}))
        self._beat(view=self._publish(WholeAsked(_CONTROL))[-1])

    def put(self, said: NodeView | Leaving | DrainAnswer | WholeWanted) -> None:
        """Say something."""
        match said:
            case Leaving(reason):
                self._beat(empty=reason)
            case DrainAnswer(agrees):
                self._beat(agrees_to_drain=agrees)
            case WholeWanted():
                self._beat_all(self._publish(WholeAsked(_CONTROL)))
            case _:
                self._beat_all(self._publish(TableChanged({self._me: said})))
        self._time()

    def heard(self, answer: messages.HeartbeatAnswer) -> None:
        """Note that there was an answer."""
        self._lost_at = monotonic() + LOST_S
        if answer.heartbeat_s:
            self._beat_s = answer.heartbeat_s

    def end(self) -> None:
        """Say no more."""
        self._is_over = True

    def _beat(self, **said: Any) -> None:
        if not self._is_over:
            self._say(SayBeat(messages.Heartbeat(**said).SerializeToString()))
            self._beat_at = monotonic() + self._beat_s
            self._time()

    def _beat_all(self, deltas: list[messages.ViewDelta]) -> None:
        for delta in deltas:
            self._beat(view=delta)

    def _time(self) -> None:
        """Have the timer ring when something is to be said."""
        published_at = self._publisher.wake_at()
        at = self._beat_at if published_at is None else min(published_at, self._beat_at)
        if at < self._rings_at:
            self._rings_at = at
            self._timers.call_later(max(0.0, at - monotonic()), partial(self._ring, at))

    def _ring(self, at: float) -> None:
        if self._is_over or at != self._rings_at:
            return
        self._rings_at = float("inf")
        now = monotonic()
        if now > self._lost_at:
            self._is_over = True
            self._lost()
            return
        self._beat_all(self._publish(PublisherTicked()))
        if now >= self._beat_at:
            self._beat()
        self._time()

    def _publish(self, event: Any) -> list[messages.ViewDelta]:
        effects = self._publisher.handle(event, monotonic())
        return [message_of_delta(effect.delta, node_of_view) for effect in effects]
