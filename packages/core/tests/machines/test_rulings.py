from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis.strategies as st
import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from weft._machines import rulings as rules
from weft._machines.rulings import ClientImage, Request, Ruling, Rulings

if TYPE_CHECKING:
    import pytest

A, B = b"client a", b"client b"


def test_answer_is_found_until_its_client_has_it() -> None:
    answers = Rulings()
    assert answers.find(Request(A, 1)) is None
    answers.keep(Request(A, 1), Ruling(7))
    assert answers.find(Request(A, 1)) == Ruling(7)
    assert answers.find(Request(B, 1)) is None
    answers.keep(Request(A, 2, done_below=2), Ruling(8))
    stale = answers.find(Request(A, 1))
    assert stale is not None
    assert stale.code == "stale"
    assert "has the answers to all below 2" in stale.reason
    assert answers.find(Request(A, 2)) == Ruling(8)


def test_answer_just_given_is_kept_whatever_the_client_says() -> None:
    answers = Rulings()
    answers.keep(Request(A, 3, done_below=99), Ruling(7))
    answers.check()
    assert answers.find(Request(A, 3)) == Ruling(7)


def test_client_with_too_many_open_requests_loses_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "OPEN_KEPT", 3)
    answers = Rulings()
    for number in (5, 2, 7, 6):
        answers.keep(Request(A, number), Ruling(number))
        answers.check()
    assert [bool(answers.find(Request(A, n))) for n in (5, 6, 7)] == [True] * 3
    forgotten = answers.find(Request(A, 2))
    assert forgotten is not None
    assert forgotten.code == "stale"


def test_client_that_was_silent_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "CLIENTS_KEPT", 2)
    answers = Rulings()
    for client in (A, B, A, b"client c"):
        answers.keep(Request(client, 1), Ruling(1))
        answers.check()
    assert answers.find(Request(A, 1)) == Ruling(1)
    assert answers.find(Request(B, 1)) is None


class AnswerStories(RuleBasedStateMachine):
    """Clients that repeat: what was answered is answered so again, or too old."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = Rulings()
        self.given: dict[tuple[bytes, int], Ruling] = {}
        self.done_below = {A: 1, B: 1}

    @rule(client=st.sampled_from([A, B]), number=st.integers(1, 30), value=st.integers(0, 9))
    def asks(self, client: bytes, number: int, value: int) -> None:
        found = self.answers.find(Request(client, number))
        known = self.given.get((client, number))
        is_old = found is not None and found.code == "stale"
        if is_old:
            assert number < max(self.done_below[client], *(n for _, n in self.given))
        elif known is not None:
            assert found == known
        else:
            assert found is None
            answer = Ruling(value)
            self.given[client, number] = answer
            self.answers.keep(Request(client, number, self.done_below[client]), answer)

    @rule(client=st.sampled_from([A, B]), by=st.integers(1, 3))
    def says_what_it_has(self, client: bytes, by: int) -> None:
        self.done_below[client] += by

    @rule()
    def restarts(self) -> None:
        encoded = msgspec.msgpack.encode(self.answers.image())
        self.answers = Rulings()
        self.answers.restore(msgspec.msgpack.decode(encoded, type=list[ClientImage]))

    @invariant()
    def is_well(self) -> None:
        self.answers.check()


TestAnswerStories = AnswerStories.TestCase
TestAnswerStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
