from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from weft._machines import orders as rules
from weft._machines.orders import (
    DropOrder,
    OrderGiven,
    OrderQueued,
    Orders,
    QuitOrder,
    TakeOrders,
)
from weft._machines.tables import Consequence, MemberAdded, MemberRemoved

NODE, OTHER = b"node", b"other"
FIRST, SECOND, THIRD = DropOrder(b"1"), QuitOrder(b"2"), DropOrder(b"3")


class Post:
    """A table that is checked after every command."""

    def __init__(self) -> None:
        self.orders = Orders()

    def tell(self, happened: Any) -> Consequence:
        outcome = self.orders.apply(happened, 0.0)
        self.orders.check()
        return outcome

    def restart(self) -> None:
        encoded = msgspec.msgpack.encode(self.orders.image())
        self.orders = Orders()
        self.orders.restore(msgspec.msgpack.decode(encoded, type=Orders.image_type))
        self.orders.check()


@pytest.fixture
def post() -> Post:
    """A table with one member, which has three orders."""
    post = Post()
    post.tell(MemberAdded(NODE, 4))
    for order in (FIRST, SECOND, THIRD):
        assert post.tell(OrderGiven(NODE, order)) == Consequence(events=(OrderQueued(NODE),))
    return post


def test_orders_wait_until_they_are_taken(post: Post) -> None:
    assert post.orders.after(NODE, 0, 10) == [(1, FIRST), (2, SECOND), (3, THIRD)]
    assert post.orders.after(NODE, 0, 2) == [(1, FIRST), (2, SECOND)]
    assert post.tell(TakeOrders(NODE, 4, 2)) == Consequence()
    for number in (0, 2):
        assert post.orders.after(NODE, number, 10) == [(3, THIRD)]
    assert post.orders.after(NODE, 3, 10) == []
    assert post.tell(TakeOrders(NODE, 4, 1)) == Consequence()


def test_orders_that_were_not_given_cannot_be_taken(post: Post) -> None:
    assert post.tell(TakeOrders(NODE, 4, 4)).answer.code == "invalid"
    assert len(post.orders.after(NODE, 0, 10)) == 3


def test_only_members_take_orders(post: Post) -> None:
    for node, incarnation in ((NODE, 3), (OTHER, 4)):
        answer = post.tell(TakeOrders(node, incarnation, 1)).answer
        assert (answer.code, "must register again" in answer.reason) == ("fenced", True)
    assert post.tell(OrderGiven(OTHER, FIRST)) == Consequence()
    assert post.orders.after(OTHER, 0, 10) == []
    assert (post.orders.incarnation_of(NODE), post.orders.incarnation_of(OTHER)) == (4, None)


@pytest.mark.parametrize("event", [MemberRemoved(NODE, 4, "it is dead"), MemberAdded(NODE, 5)])
def test_orders_of_an_earlier_life_are_gone(post: Post, event: Any) -> None:
    assert post.tell(event) == Consequence()
    assert post.orders.after(NODE, 0, 10) == []


def test_node_that_takes_no_orders_is_no_member_any_more(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "ORDERS_KEPT", 3)
    (removed,) = post.tell(OrderGiven(NODE, FIRST)).events
    assert removed == MemberRemoved(NODE, 4, "it takes no orders: 3 wait for it")


def test_restarted_table_has_the_orders_that_were_not_taken(post: Post) -> None:
    post.tell(TakeOrders(NODE, 4, 1))
    post.restart()
    assert post.orders.incarnation_of(NODE) == 4
    assert post.orders.after(NODE, 0, 10) == [(2, SECOND), (3, THIRD)]
    post.tell(OrderGiven(NODE, FIRST))
    assert post.orders.after(NODE, 3, 10) == [(4, FIRST)]


class OrderStories(RuleBasedStateMachine):
    """A node whose stream breaks, and a table that restarts: each order once, in order."""

    @initialize()
    def begin(self) -> None:
        self.post = Post()
        self.post.tell(MemberAdded(NODE, 1))
        self.given: list[bytes] = []
        self.got: list[bytes] = []
        self.has = 0

    @rule()
    def gives(self) -> None:
        self.given.append(bytes([len(self.given)]))
        self.post.tell(OrderGiven(NODE, DropOrder(self.given[-1])))

    @rule(most=st.integers(1, 3))
    def sends(self, most: int) -> None:
        for number, order in self.post.orders.after(NODE, self.has, most):
            assert number == self.has + 1
            assert isinstance(order, DropOrder)
            self.got.append(order.actor)
            self.has = number

    @rule(share=st.floats(0, 1))
    def says_what_it_has(self, share: float) -> None:
        assert self.post.tell(TakeOrders(NODE, 1, int(self.has * share))) == Consequence()

    @rule()
    def restarts(self) -> None:
        self.post.restart()

    @invariant()
    def nothing_is_lost(self) -> None:
        waiting = self.post.orders.after(NODE, self.has, 1000)
        assert self.got + [order.actor for _, order in waiting] == self.given  # type: ignore[union-attr]


TestOrderStories = OrderStories.TestCase
TestOrderStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
