"""A queue of which the first few of each lane are in front."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft._machines.lanes import WINDOW, Lanes, Rank


class One:
    def __init__(self, number: int, alike: str = "") -> None:
        self.rank: Rank = (0, number)
        self.alike = alike


def filled(count: int, alike: str = "") -> tuple[Lanes[One], list[One]]:
    lanes: Lanes[One] = Lanes()
    ones = [One(number, alike) for number in range(count)]
    assert [lanes.add(one) for one in ones] == [number < WINDOW for number in range(count)]
    lanes.check()
    return lanes, ones


def front(lanes: Lanes[One]) -> list[One]:
    return [one for _, one in lanes.front]


def test_first_of_a_lane_are_in_front_and_the_others_follow_in_order() -> None:
    lanes, ones = filled(WINDOW + 3)
    for number, one in enumerate(ones):
        assert lanes.front[0][1] is one
        following = lanes.remove(one)
        assert following is (ones[number + WINDOW] if number < 3 else None)
        lanes.check()
    assert list(lanes) == []


def test_lanes_do_not_stand_in_each_others_way() -> None:
    lanes, _ = filled(WINDOW + 1, "long")
    other = One(1000, "other")
    assert lanes.add(other)
    assert front(lanes)[-1] is other


def test_one_that_leaves_from_behind_lets_nobody_in_front() -> None:
    lanes, ones = filled(WINDOW + 3)
    assert lanes.remove(ones[WINDOW]) is None
    lanes.check()
    assert lanes.remove(ones[3]) is ones[WINDOW + 1]


def test_those_that_left_from_behind_are_forgotten() -> None:
    lanes, ones = filled(1000)
    for one in ones[WINDOW:]:
        lanes.remove(one)
        lanes.check()
    assert front(lanes) == list(lanes) == ones[:WINDOW]


def test_one_of_an_earlier_rank_waits_behind_but_comes_before_others() -> None:
    lanes, ones = filled(WINDOW + 2)
    early = One(-1)
    assert not lanes.add(early)
    assert lanes.remove(ones[5]) is early
    assert lanes.front[0][1] is early


def test_one_takes_the_place_of_another() -> None:
    lanes, ones = filled(WINDOW + 2)
    for number in (3, WINDOW + 1):
        lanes.replace(ones[number], other := One(number))
        lanes.check()
        assert other in list(lanes)
        assert ones[number] not in list(lanes)


class LaneStories(RuleBasedStateMachine):
    """Against a plain list of all that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[One] = Lanes()
        self.waiting: list[One] = []
        self.front: set[One] = set()
        self.numbers = 0

    def ahead(self, alike: str) -> int:
        return sum(one.alike == alike for one in self.front)

    @rule(alike=st.sampled_from("ab"), count=st.integers(1, WINDOW), back=st.integers(0, 40))
    def adds(self, alike: str, count: int, back: int) -> None:
        for _ in range(count):
            self.numbers += 1
            one = One(self.numbers, alike)
            one.rank = (-(back % 3), self.numbers)
            fits = self.ahead(alike) < WINDOW
            assert self.lanes.add(one) is fits
            self.waiting.append(one)
            if fits:
                self.front.add(one)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def removes(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(one)
        following = self.lanes.remove(one)
        behind = [each for each in self.waiting if each not in self.front]
        alike = [each for each in behind if each.alike == one.alike]
        if one in self.front and alike:
            assert following is min(alike, key=lambda each: each.rank)
            self.front.add(following)
        else:
            assert following is None
        self.front.discard(one)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def replaces(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.waiting) - 1))
        old = self.waiting[index]
        new = One(0, old.alike)
        new.rank = old.rank
        self.lanes.replace(old, new)
        self.waiting[index] = new
        if old in self.front:
            self.front.remove(old)
            self.front.add(new)

    @invariant()
    def is_the_same(self) -> None:
        self.lanes.check()
        assert set(self.lanes) == set(self.waiting)
        assert front(self.lanes) == sorted(self.front, key=lambda one: one.rank)


TestLaneStories = LaneStories.TestCase
TestLaneStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
