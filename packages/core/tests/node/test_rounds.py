from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from weft._node import rounds
from weft._node.rounds import Rounds
from weft._transport.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable


class Asking:
    """Rounds, what was sent and what came out."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.rounds: Rounds[str] = Rounds(self.timers)
        self.numbers: list[int] = []
        self.over: list[list[str]] = []

    def begin(self, *asked: bytes) -> int:
        def send(number: int) -> set[bytes]:
            self.numbers.append(number)
            return set(asked)

        self.rounds.begin(send, self.over.append)
        return self.numbers[-1]


@pytest.fixture
def asking() -> Asking:
    return Asking()


def test_round_is_over_when_all_have_answered(asking: Asking) -> None:
    number = asking.begin(b"one", b"two")
    asking.rounds.take(number, b"two", "from two")
    assert asking.over == []
    asking.rounds.take(number, b"one", "from one")
    assert asking.over == [["from two", "from one"]]


def test_round_that_asks_nobody_is_over_at_once(asking: Asking) -> None:
    asking.begin()
    assert asking.over == [[]]


def test_nobody_waits_for_a_process_that_is_gone(asking: Asking) -> None:
    first, _ = asking.begin(b"one", b"two"), asking.begin(b"two")
    asking.rounds.forget(b"two")
    assert asking.over == [[]]
    asking.rounds.take(first, b"one", "from one")
    assert asking.over == [[], ["from one"]]


@pytest.mark.parametrize(
    "strange",
    [
        lambda rounds, number: rounds.take(number, b"one", "again"),
        lambda rounds, number: rounds.take(number, b"nobody", "not asked"),
        lambda rounds, number: rounds.take(number + 1, b"two", "to another question"),
        lambda rounds, number: rounds.take(0, b"two", "to no question"),
        lambda rounds, number: rounds.forget(b"one"),
    ],
)
def test_answers_that_nobody_waits_for_are_not_heard(
    asking: Asking, strange: Callable[[Rounds[str], int], None]
) -> None:
    number = asking.begin(b"one", b"two")
    asking.rounds.take(number, b"one", "from one")
    strange(asking.rounds, number)
    asking.rounds.take(number, b"two", "from two")
    assert asking.over == [["from one", "from two"]]
    asking.rounds.take(number, b"two", "late")
    assert asking.over == [["from one", "from two"]]


def test_time_ends_a_round_with_what_there_is(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "ROUND_S", 0.0)
    number = asking.begin(b"one", b"two")
    asking.rounds.take(number, b"one", "from one")
    asking.timers.ring()
    assert asking.over == [["from one"]]
    asking.rounds.take(number, b"two", "late")
    asking.timers.ring()
    assert asking.over == [["from one"]]
