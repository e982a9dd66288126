"""Connections inside one process, with faults on demand: what tests and simulations run on.

A `MemoryNetwork` holds what was sent until somebody lets it `deliver`: nothing happens by itself,
and the same calls bring the same order. Messages pass through the codec, so that what cannot
travel between processes cannot travel here.

Faults: a connection's `delay_s` holds back what it sends, `is_held` holds it until further notice,
`cut` loses what is on its way in both directions and tells both ends. Order within a connection is
never changed, as no stream socket does.

Time is the network's own, in seconds; `deliver` moves it on.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

from weft._wire.codec import decode, encode_all
from weft._wire.frame import FrameReader

if TYPE_CHECKING:
    from weft._transport.base import Lost, Receive
    from weft._wire.messages import Message


class MemoryNetwork:
    """All connections of a test, and what is on its way between them."""

    def __init__(self) -> None:
        self.now = 0.0
        self._number = count().__next__
        self._on_their_way: list[tuple[float, int, MemoryConnection, int, bytearray | str]] = []
        """A heap: when due, a number that keeps the order, to whom, in which life, frame or end."""

    def connect(
        self, receive: Receive, lost: Lost, far_receive: Receive, far_lost: Lost
    ) -> tuple[MemoryConnection, MemoryConnection]:
        """Return the two ends of a connection, each with its own handlers."""
        near = MemoryConnection(self, receive, lost)
        far = MemoryConnection(self, far_receive, far_lost)
        near._far, far._far = far, near
        return near, far

    @property
    def next_at(self) -> float | None:
        """When the next thing arrives; None: nothing is on its way, or all of it is held."""
        return self._on_their_way[0][0] if self._on_their_way else None

    def deliver(self, until: float | None = None) -> bool:
        """Let everything arrive that is due by `until`, and what that causes; tell if any was.

        Args:
            until: In seconds; the network's time becomes this. None: the time of the last arrival,
                however late.
        """
        happened = False
        while self._on_their_way and (until is None or self._on_their_way[0][0] <= until):
            at, _, target, life, what = heapq.heappop(self._on_their_way)
            self.now = max(self.now, at)
            happened = target._arrive(life, what) or happened
        if until is not None:
            self.now = max(self.now, until)
        return happened

    def _send(self, at: float, target: MemoryConnection, what: bytearray | str) -> None:
        heapq.heappush(self._on_their_way, (at, self._number(), target, target._life, what))


class MemoryConnection:
    """A Connection to another object of this process."""

    _far: MemoryConnection

    def __init__(self, network: MemoryNetwork, receive: Receive, lost: Lost) -> None:
        self.closed = False
        self.peer: object = None
        """The user's own record of who is at the other end."""
        self.delay_s = 0.0
        """How long what is flushed from here takes to arrive."""
        self._network = network
        self._receive = receive
        self._lost = lost
        self._reader = FrameReader()
        self._batch: list[Message] = []
        self._is_held = False
        self._held: deque[bytearray | str] = deque()
        self._last_at = 0.0
        """When the last thing from here arrives: none may overtake it."""
        self._life = 0
        """Grows when what is on its way is lost."""

    def queue(self, message: Message) -> None:
        """Add a message to the batch that the next `flush` sends."""
        self._batch.append(message)

    @property
    def queued(self) -> int:
        """How many messages wait for `flush`."""
        return len(self._batch)

    def flush(self) -> None:
        """Put the batch on its way."""
        batch, self._batch = self._batch, []
        if not self.closed and batch:
            for frame in encode_all(batch):
                self._put(frame)

    def close(self) -> None:
        """End the connection without telling `lost` here; the other end hears of it."""
        if not self.closed:
            self.flush()
            self.closed = True
            self._put("the peer closed the connection")

    # -------------------------------------------------------------- faults

    @property
    def is_held(self) -> bool:
        """Whether what is flushed from here stays here until this is set to False."""
        return self._is_held

    @is_held.setter
    def is_held(self, is_held: bool) -> None:
        self._is_held = is_held
        while self._held and not is_held:
            self._put(self._held.popleft())

    def cut(self, reason: str = "the connection was cut") -> None:
        """Lose what is on its way in both directions; both ends are told at the next `deliver`."""
        for end in (self, self._far):
            end._life += 1
            end._held.clear()
            self._network._send(self._network.now, end, reason)

    # -------------------------------------------------------------- the way

    def _put(self, what: bytearray | str) -> None:
        if self._is_held:
            self._held.append(what)
            return
        self._last_at = max(self._last_at, self._network.now + self.delay_s)
        self._network._send(self._last_at, self._far, what)

    def _arrive(self, life: int, what: bytearray | str) -> bool:
        if self.closed or life != self._life:
            return False
        if isinstance(what, str):
            self.closed = True
            self._batch.clear()
            self._lost(self, what)
        else:
            messages = [m for body in self._reader.receive(what) for m in decode(body)]
            self._receive(self, messages)
        return True
