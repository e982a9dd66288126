"""What two sides say to each other over connections that come and go."""

from __future__ import annotations

from collections import deque

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft._machines import correspondence
from weft._machines.correspondence import (
    Correspondence,
    CorrespondenceEffect,
    HandOver,
    HeardBy,
    Parted,
    PieceCame,
    Reached,
    Said,
    SendPiece,
)
from weft.exceptions import ProtocolError


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correspondence, "PIECE_BYTES", 4)


def sent(effects: list[CorrespondenceEffect]) -> list[tuple[int, bytes, bool]]:
    pieces = [each for each in effects if isinstance(each, SendPiece)]
    return [(piece.number, bytes(piece.body), piece.is_part) for piece in pieces]


def test_what_is_long_goes_in_pieces_and_arrives_whole() -> None:
    here, there = Correspondence(), Correspondence()
    here.handle(Reached(0))
    pieces = sent(here.handle(Said(b"0123456789")))
    assert pieces == [(1, b"0123", True), (2, b"4567", True), (3, b"89", False)]
    handed = [effect for piece in pieces for effect in there.handle(PieceCame(*piece))]
    assert handed == [HandOver(b"0123456789")]


def test_what_is_empty_is_said_too() -> None:
    here = Correspondence()
    here.handle(Reached(0))
    assert sent(here.handle(Said(b""))) == [(1, b"", False)]


def test_what_is_said_without_a_connection_goes_over_the_next_one() -> None:
    here = Correspondence()
    assert here.handle(Said(b"a")) == []
    assert sent(here.handle(Reached(0))) == [(1, b"a", False)]


def test_what_was_heard_is_not_sent_again() -> None:
    here = Correspondence()
    here.handle(Reached(0))
    for body in (b"a", b"b", b"c"):
        here.handle(Said(body))
    here.handle(HeardBy(1))
    here.handle(Parted())
    assert sent(here.handle(Reached(2))) == [(3, b"c", False)]
    assert here.unheard == 1


def test_what_comes_again_is_handed_over_once() -> None:
    there = Correspondence()
    assert there.handle(PieceCame(1, b"a", is_part=False)) == [HandOver(b"a")]
    assert there.handle(PieceCame(1, b"a", is_part=False)) == []
    assert there.heard == 1


def test_piece_that_skips_one_is_refused() -> None:
    with pytest.raises(ProtocolError, match="piece 2 came after piece 0"):
        Correspondence().handle(PieceCame(2, b"a", is_part=False))


@pytest.mark.parametrize("event", [HeardBy(1), Reached(1)])
def test_who_has_heard_what_was_never_said_is_refused(event: HeardBy | Reached) -> None:
    with pytest.raises(ProtocolError, match="piece 1 was heard, and 0 were said"):
        Correspondence().handle(event)


class Talk(RuleBasedStateMachine):
    """Two sides; each has a wire of its own, which is cut together with the other."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = (Correspondence(), Correspondence())
        self.wires: tuple[deque[SendPiece | HeardBy], deque[SendPiece | HeardBy]]
        self.wires = (deque(), deque())
        self.said: tuple[list[bytes], list[bytes]] = ([], [])
        self.heard: tuple[list[bytes], list[bytes]] = ([], [])
        self.is_whole = False

    def do(self, side: int, effects: list[CorrespondenceEffect]) -> None:
        for effect in effects:
            if isinstance(effect, HandOver):
                self.heard[side].append(effect.body)
            else:
                assert self.is_whole
                self.wires[side].append(effect)

    @rule(side=st.integers(0, 1), body=st.binary(max_size=11))
    def say(self, side: int, body: bytes) -> None:
        self.said[side].append(body)
        self.do(side, self.sides[side].handle(Said(body)))

    @precondition(lambda self: not self.is_whole)
    @rule()
    def connect(self) -> None:
        self.is_whole = True
        for side in (0, 1):
            self.do(side, self.sides[side].handle(Reached(self.sides[1 - side].heard)))

    @precondition(lambda self: self.is_whole)
    @rule()
    def cut(self) -> None:
        self.is_whole = False
        for side in (0, 1):
            self.wires[side].clear()
            self.sides[side].handle(Parted())

    @rule(side=st.integers(0, 1))
    def tell(self, side: int) -> None:
        if self.is_whole:
            self.wires[side].append(HeardBy(self.sides[side].heard))

    @rule(side=st.integers(0, 1))
    def bring(self, side: int) -> None:
        if self.wires[side]:
            piece = self.wires[side].popleft()
            other = 1 - side
            if isinstance(piece, HeardBy):
                self.do(other, self.sides[other].handle(piece))
            else:
                came = PieceCame(piece.number, bytes(piece.body), piece.is_part)
                self.do(other, self.sides[other].handle(came))

    @invariant()
    def everything_is_heard_once_and_in_order(self) -> None:
        for side in (0, 1):
            self.sides[side].check()
            heard = self.heard[1 - side]
            assert heard == self.said[side][: len(heard)]

    def teardown(self) -> None:
        if not self.is_whole:
            self.connect()
        while self.wires[0] or self.wires[1]:
            self.bring(0)
            self.bring(1)
        assert self.heard == (self.said[1], self.said[0])


TestTalk = Talk.TestCase
