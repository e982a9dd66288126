"""What the control service tells nodes to do: in order, each until its node says that it took it.

    another table tells OrderGiven -> queued -> TakeOrders (the node has it) -> gone

Orders come from commands alone, so a control service that starts again has the same queues, with
the same numbers: a node that follows again asks from the number on that it has not, and gets none
twice and none too late.

What is always true
1. The orders of a node are numbered from 1 on within its incarnation, without a gap.
2. Only members have orders. One that leaves, or joins anew, has none of those before.
3. At most `ORDERS_KEPT` orders wait for a node. What would go above is not queued: the node is
   told as stuck, once, and the members' table declares it dead.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any, ClassVar, assert_never

import msgspec

from weft._machines.answers import Answer
from weft._machines.ledger import NodeJoined, NodeLeft, Outcome

ORDERS_KEPT = 100_000


# ------------------------------------------------------------------ what nodes are told to do


class WantActor(msgspec.Struct, frozen=True, tag="want"):
    """Find a worker for an actor, here or on another node; answer with ActorPlaced."""

    actor: bytes
    creation: bytes
    """What its creator sent to start it."""


class DropActor(msgspec.Struct, frozen=True, tag="drop"):
    """Find no worker for it any more."""

    actor: bytes


class BecomeActor(msgspec.Struct, frozen=True, tag="become"):
    """Make a worker of this node the actor."""

    actor: bytes
    worker: bytes
    restarts: int
    creation: bytes


class QuitWorker(msgspec.Struct, frozen=True, tag="quit"):
    """Let an actor's worker end after the calls that it has."""

    worker: bytes


class KillWorker(msgspec.Struct, frozen=True, tag="kill"):
    """End an actor's worker at once."""

    worker: bytes
    reason: str


class ForeignOrder(msgspec.Struct, frozen=True, tag="foreign"):
    """An order of a table that this module does not know."""

    kind: str
    body: bytes


Order = WantActor | DropActor | BecomeActor | QuitWorker | KillWorker | ForeignOrder


# ------------------------------------------------------------------ events and commands


class OrderGiven(msgspec.Struct, frozen=True):
    """A table wants a node to do something."""

    node: bytes
    order: Order


class OrderQueued(msgspec.Struct, frozen=True):
    """There is an order for a node. Who sends them looks."""

    node: bytes


class NodeStuck(msgspec.Struct, frozen=True):
    """A node takes no orders."""

    node: bytes
    incarnation: int


class TakeOrders(msgspec.Struct, frozen=True, tag="orders.take"):
    """A node has its orders up to a number."""

    node: bytes
    incarnation: int
    through: int


class OrdersOfNode(msgspec.Struct, frozen=True):
    """A node's queue, in a snapshot."""

    incarnation: int
    first: int
    orders: list[Order]
    is_stuck: bool


class _Queue:
    __slots__ = ("first", "incarnation", "is_stuck", "orders")

    def __init__(self, incarnation: int, first: int = 1, *, is_stuck: bool = False) -> None:
        self.incarnation = incarnation
        self.first = first
        """The number of the oldest order that waits, or of the next one."""
        self.orders: deque[Order] = deque()
        self.is_stuck = is_stuck


class Orders:
    """The table of orders."""

    name = "orders"
    commands = (TakeOrders,)
    hears = (NodeJoined, NodeLeft, OrderGiven)
    image_type: ClassVar = dict[bytes, OrdersOfNode]

    def __init__(self) -> None:
        self._queue_of: dict[bytes, _Queue] = {}

    def apply(
        self, happened: TakeOrders | NodeJoined | NodeLeft | OrderGiven, now: float
    ) -> Outcome:
        """Do a command, or hear of an order or a member."""
        match happened:
            case TakeOrders(node, incarnation, through):
                return Outcome(self._take(node, incarnation, through))
            case OrderGiven(node, order):
                return self._give(node, order)
            case NodeJoined(node, incarnation):
                self._queue_of[node] = _Queue(incarnation)
            case NodeLeft(node):
                self._queue_of.pop(node, None)
            case _:
                assert_never(happened)
        return Outcome()

    def _take(self, node: bytes, incarnation: int, through: int) -> Answer:
        queue = self._queue_of.get(node)
        if queue is None or queue.incarnation != incarnation:
            reason = f"node {node.hex()} is no member as incarnation {incarnation}"
            return Answer(code="fenced", reason=f"{reason}: it must register again")
        if through >= queue.first + len(queue.orders):
            reason = f"node {node.hex()} has no order {through} yet"
            return Answer(code="invalid", reason=reason)
        while queue.first <= through:
            queue.orders.popleft()
            queue.first += 1
        return Answer()

    def _give(self, node: bytes, order: Order) -> Outcome:
        queue = self._queue_of.get(node)
        if queue is None or queue.is_stuck:
            return Outcome()  # It is gone, or about to be: then what it was to do is decided anew.
        if len(queue.orders) >= ORDERS_KEPT:
            queue.is_stuck = True
            return Outcome(events=(NodeStuck(node, queue.incarnation),))
        queue.orders.append(order)
        return Outcome(events=(OrderQueued(node),))

    # -------------------------------------------------------------- questions

    def after(self, node: bytes, number: int, most: int) -> list[tuple[int, Order]]:
        """Return a node's orders that come after one, at most so many, each with its number."""
        queue = self._queue_of.get(node)
        if queue is None:
            return []
        skipped = max(0, number + 1 - queue.first)
        waiting = islice(queue.orders, skipped, skipped + most)
        return list(enumerate(waiting, queue.first + skipped))

    def incarnation_of(self, node: bytes) -> int | None:
        """Return under which number a node is a member; None: it is none."""
        queue = self._queue_of.get(node)
        return queue.incarnation if queue else None

    # -------------------------------------------------------------- as a table

    def wake_at(self) -> None:
        """Return None: time brings nothing."""

    def due(self, now: float) -> list[Any]:
        """Return nothing."""
        return []

    def image(self) -> dict[bytes, OrdersOfNode]:
        """Return all queues."""
        return {
            node: OrdersOfNode(queue.incarnation, queue.first, list(queue.orders), queue.is_stuck)
            for node, queue in self._queue_of.items()
        }

    def restore(self, image: dict[bytes, OrdersOfNode]) -> None:
        """Take the queues of an image."""
        self._queue_of = {}
        for node, found in image.items():
            queue = _Queue(found.incarnation, found.first, is_stuck=found.is_stuck)
            queue.orders.extend(found.orders)
            self._queue_of[node] = queue

    def check(self) -> None:
        """Assert what is always true."""
        for queue in self._queue_of.values():
            assert queue.first >= 1, 1
            assert len(queue.orders) <= ORDERS_KEPT, 3
