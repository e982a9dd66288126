from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft._ids import NodeId, PlacementGroupId
from weft._machines.parts import FREE, NATURE, Nature, NodeParts, Part, PartValue, parts_of
from weft._machines.placement import BundleView, NodeView
from weft._machines.views import (
    DELTA_VALUES,
    INTERVAL_S,
    VALUES_PER_S,
    ApplyChange,
    AskWhole,
    Delta,
    DeltaHeard,
    Follower,
    FollowerGone,
    Publish,
    Publisher,
    PublisherTicked,
    SendWhole,
    SourceLinked,
    TableChanged,
    WholeAsked,
)
from weft._resources import Resources

X = b"follower x"


def publisher(followers: int = 1) -> Publisher[str, int]:
    table: Publisher[str, int] = Publisher(7)
    for number in range(followers):
        table.handle(WholeAsked(b"%d" % number), 0.0)
    return table


def test_first_change_goes_out_at_once_and_later_ones_together() -> None:
    table = publisher()
    (first,) = table.handle(TableChanged({"a": 1}), 1.0)
    assert first == Publish(Delta(7, 2, 1, {"a": 1}))
    assert table.wake_at() is None
    assert table.handle(TableChanged({"a": 2, "b": 1}), 1.01) == []
    assert table.handle(TableChanged({"a": 3}, gone=("b",)), 1.02) == []
    assert table.wake_at() == 1.0 + INTERVAL_S
    assert table.handle(PublisherTicked(), 1.05) == []
    (second,) = table.handle(PublisherTicked(), 1.0 + INTERVAL_S)
    assert second == Publish(Delta(7, 3, 2, {"a": 3}, ("b",)))
    table.check()


def test_what_does_not_change_is_not_published() -> None:
    table = publisher()
    table.handle(TableChanged({"a": 1}), 1.0)
    assert table.handle(TableChanged({"a": 1}, gone=("z",)), 2.0) == []
    assert table.wake_at() is None
    assert table.table() == {"a": 1}


def test_who_asks_is_sent_the_whole_table() -> None:
    table = publisher(0)
    assert table.handle(TableChanged({"a": 1}), 1.0) == []
    assert table.handle(TableChanged({"a": 2}), 1.01) == []
    assert table.handle(WholeAsked(X), 1.02) == [SendWhole(X, Delta(7, 2, 0, {"a": 2}))]
    assert table.handle(PublisherTicked(), 1.1) == [Publish(Delta(7, 3, 2, {"a": 2}))]
    assert table.handle(FollowerGone(X), 2.0) == []
    assert table.handle(TableChanged({"a": 3}), 3.0) == []


def test_those_who_ask_between_two_deltas_are_sent_the_same() -> None:
    table = publisher(0)
    table.handle(TableChanged({"a": 1}), 1.0)
    (first,) = table.handle(WholeAsked(b"first"), 1.01)
    assert table.handle(TableChanged({"b": 2}), 1.02) == []
    (second,) = table.handle(WholeAsked(b"second"), 1.03)
    assert isinstance(first, SendWhole)
    assert isinstance(second, SendWhole)
    assert second.delta is first.delta
    assert table.handle(PublisherTicked(), 1.1) == [Publish(Delta(7, 3, 2, {"b": 2}))]
    third = SendWhole(b"third", Delta(7, 3, 0, {"a": 1, "b": 2}))
    assert table.handle(WholeAsked(b"third"), 1.11) == [third]


def test_many_values_to_many_followers_are_further_apart() -> None:
    table = publisher(1000)
    table.handle(TableChanged({str(key): 0 for key in range(1000)}), 1.0)
    table.handle(TableChanged({"a": 1}), 1.1)
    assert table.wake_at() == 1.0 + 1000 * (1000 + DELTA_VALUES) / VALUES_PER_S


def heard(
    follower: Follower[str, int], number: int, base: int, source: int = 1, **changed: int
) -> list[ApplyChange[str, int] | AskWhole]:
    effects = follower.handle(DeltaHeard(Delta(source, number, base, changed)), 0.0)
    follower.check()
    return effects


def test_follower_applies_what_is_new_and_drops_what_is_repeated_or_late() -> None:
    follower: Follower[str, int] = Follower()
    assert heard(follower, 5, 0, a=1, b=1) == [ApplyChange({"a": 1, "b": 1}, ())]
    assert heard(follower, 6, 5, a=2) == [ApplyChange({"a": 2}, ())]
    assert heard(follower, 6, 5, a=2) == []
    assert heard(follower, 5, 4, a=1) == []
    assert heard(follower, 5, 0, a=1) == []
    assert follower.table() == {"a": 2, "b": 1}
    assert follower.heard == (1, 6)


def test_follower_that_missed_something_asks_once_for_the_whole_table() -> None:
    follower: Follower[str, int] = Follower()
    heard(follower, 1, 0, a=1, b=1)
    assert heard(follower, 3, 2, a=3) == [AskWhole()]
    assert heard(follower, 4, 3, a=4) == []
    assert heard(follower, 4, 0, a=4) == [ApplyChange({"a": 4}, ("b",))]
    assert heard(follower, 6, 5, a=6) == [AskWhole()]
    assert follower.handle(SourceLinked(), 0.0) == []
    assert heard(follower, 7, 6, a=7) == [AskWhole()]


def test_deltas_that_arrive_in_another_order_end_in_the_same_table() -> None:
    follower: Follower[str, int] = Follower()
    heard(follower, 1, 0, a=1)
    assert heard(follower, 3, 2, a=3) == [AskWhole()]
    assert heard(follower, 2, 1, a=2) == [ApplyChange({"a": 2}, ())]
    assert heard(follower, 3, 0, a=3) == [ApplyChange({"a": 3}, ())]


def test_source_of_a_smaller_number_is_not_heard_and_one_of_a_greater_begins_anew() -> None:
    follower: Follower[str, int] = Follower()
    heard(follower, 9, 0, source=2, a=1, b=2)
    assert heard(follower, 10, 0, source=1, a=5) == []
    assert heard(follower, 2, 1, source=3, a=6) == [AskWhole()]
    assert follower.table() == {"a": 1, "b": 2}
    assert heard(follower, 2, 0, source=3, a=6) == [ApplyChange({"a": 6}, ("b",))]
    assert heard(follower, 3, 0, source=3, a=6) == []


class ViewStories(RuleBasedStateMachine):
    """A network that repeats, delays and loses; the follower never goes back, and ends right."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.source = 1
        self.table: Publisher[int, int] = Publisher(1)
        self.follower: Follower[int, int] = Follower()
        self.copy: dict[int, int] = {}
        """What a user of the follower has, by what it was told."""
        self.sent: list[Delta[int, int]] = []
        self.version = 0
        self.link()

    def tell(self, event: TableChanged[int, int] | WholeAsked | PublisherTicked) -> None:
        for effect in self.table.handle(event, self.now):
            self.sent.append(effect.delta)
        self.table.check()

    def deliver(self, delta: Delta[int, int]) -> None:
        before = dict(self.copy)
        source = self.follower.heard[0]
        for effect in self.follower.handle(DeltaHeard(delta), self.now):
            if isinstance(effect, ApplyChange):
                self.copy.update(effect.changed)
                for key in effect.gone:
                    del self.copy[key]
            else:
                self.tell(WholeAsked(X))
        if self.follower.heard[0] == source:
            assert all(self.copy.get(key, value) >= value for key, value in before.items())
        self.follower.check()

    @rule(keys=st.sets(st.integers(0, 5)), gone=st.sets(st.integers(0, 5)))
    def changes(self, keys: set[int], gone: set[int]) -> None:
        # Values grow, so that one who goes back is seen.
        self.version += 1
        self.tell(TableChanged(dict.fromkeys(keys, self.version), tuple(gone - keys)))

    @rule(seconds=st.sampled_from([0.01, INTERVAL_S]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(PublisherTicked())

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), is_kept=st.booleans())
    def arrives(self, data: st.DataObject, is_kept: bool) -> None:
        at = data.draw(st.integers(0, len(self.sent) - 1))
        self.deliver(self.sent[at] if is_kept else self.sent.pop(at))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def is_lost(self, data: st.DataObject) -> None:
        self.sent.pop(data.draw(st.integers(0, len(self.sent) - 1)))

    @rule()
    def starts_again(self) -> None:
        self.source += 1
        old = self.table.table()
        self.table = Publisher(self.source)
        self.tell(TableChanged(old))
        self.link()

    def link(self) -> None:
        self.follower.handle(SourceLinked(), self.now)
        self.tell(WholeAsked(X))

    @invariant()
    def user_has_what_the_follower_has(self) -> None:
        assert self.copy == self.follower.table()

    def teardown(self) -> None:
        self.link()
        self.now += 10.0
        self.tell(PublisherTicked())
        for _ in range(100):
            if not self.sent:
                break
            self.deliver(self.sent.pop(0))
        assert not self.sent
        assert self.copy == self.table.table()


TestViewStories = ViewStories.TestCase
TestViewStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)


# ------------------------------------------------------------------ a node's view, in parts

A, B = NodeId(b"a" * 16), NodeId(b"b" * 16)
G = PlacementGroupId(b"g" * 16)
TWO, ONE = Resources({"CPU": 2}), Resources({"CPU": 1})


def of(node_id: NodeId, view: NodeView) -> dict[tuple[NodeId, Part], PartValue]:
    return {(node_id, part): value for part, value in parts_of(view, 3, "host:1").items()}


def test_node_is_put_together_from_its_parts() -> None:
    bundles = {G: {0: BundleView(ONE, ONE, 1)}}
    view = NodeView(A, TWO, ONE, {"zone": "a"}, False, "idle", bundles)
    parts = NodeParts()
    assert parts.apply(of(A, view)) == ([view], [])
    assert parts.nature(A) == Nature(3, "host:1", TWO, {"zone": "a"}, "idle")
    (other,), gone = parts.apply({(A, FREE): TWO}, [(A, G)])
    assert (other.free, other.bundles, gone) == (TWO, {}, [])


def test_node_of_which_parts_are_missing_is_not_there() -> None:
    parts = NodeParts()
    assert parts.apply({(A, FREE): ONE}) == ([], [A])
    assert parts.nature(A) is None
    parts.apply(of(B, NodeView(B, TWO, TWO)))
    assert parts.apply({}, [(B, NATURE), (B, FREE)]) == ([], [B])
    assert parts.nature(B) is None
