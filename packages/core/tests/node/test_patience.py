"""Waits for a control service that does not answer."""

from __future__ import annotations

from weft._clock import monotonic
from weft._node.patience import Patience
from weft._transport.timers import Timers


class Waiting:
    """A patience of ten seconds, on a clock that the test moves."""

    def __init__(self, limit_s: float = 10.0) -> None:
        self.over = 0
        self.timers = Timers()
        self.began_at = monotonic()
        self.patience = Patience(self.timers, limit_s, self.give_up)

    def give_up(self) -> None:
        self.over += 1

    def pass_s(self, seconds: float) -> None:
        self.timers.tick(self.began_at + seconds)


def test_wait_without_an_answer_comes_to_its_end_once() -> None:
    waiting = Waiting()
    waiting.patience.begin()
    waiting.patience.begin()
    waiting.pass_s(9)
    assert not waiting.over
    waiting.pass_s(11)
    waiting.pass_s(30)
    assert waiting.over == 1


def test_answer_ends_the_wait_and_the_next_one_counts_from_its_beginning() -> None:
    waiting = Waiting()
    waiting.patience.begin()
    waiting.patience.end()
    waiting.patience.begin()
    waiting.patience.end()
    waiting.pass_s(11)
    assert not waiting.over
    waiting.patience.begin()
    waiting.pass_s(9)
    assert not waiting.over
    waiting.pass_s(11)
    assert waiting.over == 1


def test_no_limit_is_no_wait() -> None:
    waiting = Waiting(0.0)
    waiting.patience.begin()
    assert waiting.timers.tick(waiting.began_at) is None


def test_who_asks_is_told_for_how_long_there_is_no_answer() -> None:
    waiting = Waiting(600.0)
    assert waiting.patience.explain() == ""
    waiting.patience.begin()
    assert waiting.patience.explain() == (
        "no head has answered for 0 s; if none does, this node ends in 600 s"
    )
    waiting.patience.end()
    assert waiting.patience.explain() == ""
    for_ever = Waiting(0.0)
    for_ever.patience.begin()
    assert for_ever.patience.explain() == "no head has answered for 0 s"
