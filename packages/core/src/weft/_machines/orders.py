"""What the control service tells nodes to do: in order, each until its node says that it took it.

    another table tells OrderGiven -> queued -> TakeOrders (the node has it) -> gone

Orders come from commands alone, so a control service that starts again has the same queues, with
the same numbers: a node that follows again asks from the number on that it has not, and gets none
twice and none too late.

What is always true
1. The orders of a node are numbered from 1 on within its incarnation, without a gap.
2. Only members have orders. One that leaves, or joins anew, has none of those before.
3. At most `ORDERS_KEPT` orders wait for a node. One for which more would is no member any more.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import ClassVar, assert_never

import msgspec

from weft._machines.rulings import Ruling
from weft._machines.tables import (
    Commands,
    Consequence,
    ControlTable,
    Kinds,
    MemberAdded,
    MemberRemoved,
)
from weft._override import override

ORDERS_KEPT = 100_000


# ------------------------------------------------------------------ what nodes are told to do


class WantOrder(msgspec.Struct, frozen=True, tag="want"):
    """Find a worker for an actor, here or on another node; answer with ActorPlaced."""

    actor: bytes
    creation: bytes
    """What its creator sent to start it."""


class DropOrder(msgspec.Struct, frozen=True, tag="drop"):
    """Find no worker for it any more."""

    actor: bytes


class MakeOrder(msgspec.Struct, frozen=True, tag="become"):
    """Make a worker of this node the actor."""

    actor: bytes
    worker: bytes
    restarts: int
    creation: bytes


class QuitOrder(msgspec.Struct, frozen=True, tag="quit"):
    """Let an actor's worker end after the calls that it has."""

    worker: bytes


class KillOrder(msgspec.Struct, frozen=True, tag="kill"):
    """End an actor's worker at once."""

    worker: bytes
    reason: str


Order = WantOrder | DropOrder | MakeOrder | QuitOrder | KillOrder


# ------------------------------------------------------------------ events and commands


class OrderGiven(msgspec.Struct, frozen=True):
    """A table wants a node to do something."""

    node: bytes
    order: Order


class OrderQueued(msgspec.Struct, frozen=True):
    """There is an order for a node. Who sends them looks."""

    node: bytes


class TakeOrders(msgspec.Struct, frozen=True):
    """A node has its orders up to a number."""

    node: bytes
    incarnation: int
    through: int


class OrdersOfNode(msgspec.Struct, frozen=True):
    """A node's queue, in a snapshot."""

    incarnation: int
    first: int
    orders: list[Order]


class _Queue:
    __slots__ = ("first", "incarnation", "orders")

    def __init__(self, incarnation: int, first: int = 1) -> None:
        self.incarnation = incarnation
        self.first = first
        """The number of the oldest order that waits, or of the next one."""
        self.orders: deque[Order] = deque()


class Orders(ControlTable):
    """The table of orders."""

    name: ClassVar = "orders"
    commands: ClassVar[Commands] = {"take": TakeOrders}
    hears: ClassVar[Kinds] = (MemberAdded, MemberRemoved, OrderGiven)
    image_type: ClassVar = dict[bytes, OrdersOfNode]

    def __init__(self) -> None:
        self._queue_of: dict[bytes, _Queue] = {}

    @override
    def apply(
        self, happened: TakeOrders | MemberAdded | MemberRemoved | OrderGiven, now: float
    ) -> Consequence:
        """Do a command, or hear of an order or a member."""
        match happened:
            case TakeOrders(node, incarnation, through):
                return Consequence(self._take(node, incarnation, through))
            case OrderGiven(node, order):
                return self._give(node, order)
            case MemberAdded(node, incarnation):
                self._queue_of[node] = _Queue(incarnation)
            case MemberRemoved(node):
                self._queue_of.pop(node, None)
            case _:
                assert_never(happened)
        return Consequence()

    def _take(self, node: bytes, incarnation: int, through: int) -> Ruling:
        queue = self._queue_of.get(node)
        if queue is None or queue.incarnation != incarnation:
            reason = f"node {node.hex()} is no member as incarnation {incarnation}"
            return Ruling(code="fenced", reason=f"{reason}: it must register again")
        if through >= queue.first + len(queue.orders):
            reason = f"node {node.hex()} has no order {through} yet"
            return Ruling(code="invalid", reason=reason)
        while queue.first <= through:
            queue.orders.popleft()
            queue.first += 1
        return Ruling()

    def _give(self, node: bytes, order: Order) -> Consequence:
        queue = self._queue_of.get(node)
        if queue is None:
            return Consequence()  # It is gone: what it was to do is decided anew.
        if len(queue.orders) >= ORDERS_KEPT:
            reason = f"it takes no orders: {ORDERS_KEPT} wait for it"
            return Consequence(events=(MemberRemoved(node, queue.incarnation, reason),))
        queue.orders.append(order)
        return Consequence(events=(OrderQueued(node),))

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

    @override
    def image(self) -> dict[bytes, OrdersOfNode]:
        """Return all queues."""
        return {
            node: OrdersOfNode(queue.incarnation, queue.first, list(queue.orders))
            for node, queue in self._queue_of.items()
        }

    @override
    def restore(self, image: dict[bytes, OrdersOfNode]) -> None:
        """Take the queues of an image."""
        self._queue_of = {}
        for node, found in image.items():
            queue = _Queue(found.incarnation, found.first)
            queue.orders.extend(found.orders)
            self._queue_of[node] = queue

    @override
    def check(self) -> None:
        """Assert what is always true."""
        for queue in self._queue_of.values():
            assert queue.first >= 1, 1
            assert len(queue.orders) <= ORDERS_KEPT, 3
