from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from weft._transport.arrivals import Arrivals


class Loop:
    """A loop's clock and timers, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, object]] = []

    def call_later(self, delay_s: float, function: object) -> None:
        assert delay_s >= 0
        self.timers.append((self.now + delay_s, function))

    def go_on(self, delay_s: float) -> None:
        until = self.now + delay_s
        while self.timers and min(self.timers, key=lambda timer: timer[0])[0] <= until:
            timer = min(self.timers, key=lambda timer: timer[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()  # type: ignore[operator]
        self.now = until


class Slow:
    """Something on its way."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def give_up(self, reason: str) -> None:
        self.reasons.append(reason)


def made(most: int = 3) -> tuple[Loop, Arrivals]:
    loop = Loop()
    return loop, Arrivals(loop.call_later, patience_s=5.0, most=most, clock=lambda: loop.now)


def test_what_takes_too_long_gives_up_once() -> None:
    loop, arrivals = made()
    slow = Slow()
    arrivals.add(slow)
    loop.go_on(4.9)
    assert slow.reasons == []
    loop.go_on(0.2)
    assert slow.reasons == ["it took over 5 s"]
    assert len(arrivals) == 0
    loop.go_on(100)
    assert len(slow.reasons) == 1
    assert loop.timers == []


def test_what_has_arrived_is_left_alone() -> None:
    loop, arrivals = made()
    quick, slow = Slow(), Slow()
    arrivals.add(quick)
    loop.go_on(1)
    arrivals.add(slow)
    arrivals.discard(quick)
    arrivals.discard(quick)
    loop.go_on(4.5)
    assert (quick.reasons, slow.reasons) == ([], [])
    loop.go_on(1)
    assert (quick.reasons, len(slow.reasons)) == ([], 1)


def test_oldest_gives_way_to_one_too_many() -> None:
    loop, arrivals = made(most=2)
    first, second, third = Slow(), Slow(), Slow()
    for each in (first, second, third):
        arrivals.add(each)
        loop.go_on(0.1)
    assert first.reasons == ["over 2 connections are on their way"]
    assert (second.reasons, third.reasons) == ([], [])
    assert len(arrivals) == 2


@given(st.lists(st.one_of(st.none(), st.integers(0, 20), st.floats(0, 7)), max_size=60))
def test_each_gives_up_in_its_time_or_arrives(steps: list[float | int | None]) -> None:
    """None: one more comes; a whole number: that one arrives; another: time passes."""
    loop, arrivals = made(most=4)
    came_at: dict[Slow, float] = {}
    arrived: set[Slow] = set()
    for step in steps:
        if step is None:
            slow = Slow()
            arrivals.add(slow)
            came_at[slow] = loop.now
        elif isinstance(step, int):
            for each in list(came_at)[step : step + 1]:
                if not each.reasons:
                    arrived.add(each)
                arrivals.discard(each)
        else:
            loop.go_on(step)
        waiting = [each for each in came_at if not each.reasons and each not in arrived]
        assert len(arrivals) == len(waiting) <= 4
        assert all(loop.now - came_at[each] <= 5 for each in waiting)
        assert all(not each.reasons for each in arrived)
        assert len(loop.timers) <= 1
        assert not waiting or loop.timers
