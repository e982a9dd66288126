"""What of the service Members is about orders: a node follows those that it gets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, assert_never

from weft._control.calls.desk import RefusedError, an_id, invalid, rung_beside
from weft._machines.orders import (
    DropOrder,
    KillOrder,
    MakeOrder,
    Order,
    Orders,
    QuitOrder,
    TakeOrders,
    WantOrder,
)
from weft._machines.rulings import Ruling
from weft._transport.control import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weft._control.calls.desk import Desk

MOST = 100
"""Orders that are sent at once."""
MOST_BYTES = 1024 * 1024


class OrderCalls:
    """Gives nodes their orders."""

    def __init__(self, desk: Desk, orders: Orders) -> None:
        self._desk = desk
        self._orders = orders

    async def follow(
        self, requests: AsyncIterator[messages.FollowOrdersRequest], _: Any
    ) -> AsyncIterator[messages.Orders]:
        """Yield the orders behind those that the node has."""
        first = await anext(aiter(requests), None)
        if first is None:
            raise invalid("nobody says which node follows its orders")
        node, incarnation = an_id(first.sender.node_id, "node"), first.sender.incarnation
        await self._take(first.sender, first.after)
        number = first.after
        with self._desk.bells.listen() as listener:
            listener.follow([("orders", node)])
            reader = asyncio.create_task(self._read(requests, first.sender))
            try:
                while True:
                    await rung_beside(reader, listener)
                    while found := self._orders_after(node, incarnation, number):
                        yield messages.Orders(
                            first=found[0][0], orders=[_order(each) for _, each in found]
                        )
                        number = found[-1][0]
            finally:
                reader.cancel()

    def _orders_after(self, node: bytes, incarnation: int, number: int) -> list[tuple[int, Order]]:
        self._desk.read()
        if self._orders.incarnation_of(node) != incarnation:
            reason = f"node {node.hex()} is no member as incarnation {incarnation}"
            raise RefusedError(Ruling(code="fenced", reason=reason))
        return _as_much_as_fits(self._orders.after(node, number, MOST))

    async def _read(
        self, requests: AsyncIterator[messages.FollowOrdersRequest], sender: messages.Sender
    ) -> None:
        async for request in requests:
            await self._take(sender, request.after)

    async def _take(self, sender: messages.Sender, through: int) -> None:
        command = TakeOrders(sender.node_id, sender.incarnation, through)
        await self._desk.do(command, messages.Header(sender=sender))


def _as_much_as_fits(found: list[tuple[int, Order]]) -> list[tuple[int, Order]]:
    size_bytes = taken = 0
    for _, order in found:
        size_bytes += len(order.creation) if isinstance(order, WantOrder | MakeOrder) else 0
        if taken and size_bytes > MOST_BYTES:
            break
        taken += 1
    return found[:taken]


def _order(order: Order) -> messages.Order:
    match order:
        case WantOrder(actor, creation):
            want = messages.Order.WantActor(actor_id=actor, creation=creation)
            return messages.Order(want=want)
        case DropOrder(actor):
            return messages.Order(drop=actor)
        case MakeOrder(actor, worker, restarts, creation):
            become = messages.Order.BecomeActor(
                actor_id=actor, worker_id=worker, restarts=restarts, creation=creation
            )
            return messages.Order(become=become)
        case QuitOrder(worker):
            return messages.Order(quit=worker)
        case KillOrder(worker, reason):
            return messages.Order(kill=messages.Order.KillWorker(worker_id=worker, reason=reason))
        case _:
            assert_never(order)
