"""What two sides say to each other over connections that come and go: all of it, once, in order.

    Said -> Send (kept until it is heard)       PieceCame -> Hand (to whom it is for)
    Parted: nothing is sent                     Reached -> Send (all that was not heard)

Both sides number what they say, and keep it until the other one has heard it. When there is another
connection each says first how much it has heard, so nothing is lost with the one before and nothing
is handed on twice. What is long goes in pieces: of one that was cut off the rest is sent.

What is always true
1. Pieces are numbered from 1 on, and sent in this order.
2. What is kept is exactly what was said and is not known to be heard.
3. Every piece that comes is the next one, or was heard before.
4. Without a connection nothing is sent.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias, assert_never

import msgspec

from weft.exceptions import ProtocolError

# Over a slow way it takes seconds, and what was cut off is sent again.
PIECE_BYTES = 128 * 1024


# ------------------------------------------------------------------ events


class Said(msgspec.Struct, frozen=True):
    """This side says something."""

    body: bytes


class PieceCame(msgspec.Struct, frozen=True):
    """A piece has come."""

    number: int
    body: bytes
    is_part: bool
    """More of the same follows."""


class HeardBy(msgspec.Struct, frozen=True):
    """The other side has heard all up to this number."""

    number: int


class Reached(msgspec.Struct, frozen=True):
    """There is a connection; the other side has heard all up to this number."""

    heard: int


class Parted(msgspec.Struct, frozen=True):
    """The connection is gone."""


CorrespondenceEvent: TypeAlias = Said | PieceCame | HeardBy | Reached | Parted

# ------------------------------------------------------------------ effects


class SendPiece(msgspec.Struct, frozen=True):
    """Send a piece over the connection."""

    number: int
    body: bytes | memoryview
    is_part: bool


class HandOver(msgspec.Struct, frozen=True):
    """The other side has said this."""

    body: bytes


CorrespondenceEffect: TypeAlias = SendPiece | HandOver


class Correspondence:
    """One side of it."""

    def __init__(self) -> None:
        self.heard = 0
        """How much this side has heard."""
        self.said = 0
        """How many pieces this side has said."""
        self.is_joined = False
        self._kept: deque[SendPiece] = deque()
        self._parts: list[bytes] = []
        """Of what is coming in pieces."""

    @property
    def unheard(self) -> int:
        """How many pieces are not known to be heard."""
        return len(self._kept)

    def handle(self, event: CorrespondenceEvent) -> list[CorrespondenceEffect]:
        """Take an event. ProtocolError: the other side speaks of what never was."""
        match event:
            case Said(body):
                return self._say(body)
            case PieceCame():
                return self._take(event)
            case HeardBy(number):
                self._forget(number)
                return []
            case Reached(heard):
                self._forget(heard)
                self.is_joined = True
                return [*self._kept]
            case Parted():
                self.is_joined = False
                return []
            case _:
                assert_never(event)

    def _say(self, body: bytes) -> list[CorrespondenceEffect]:
        view = memoryview(body)
        pieces: list[CorrespondenceEffect] = []
        for start in range(0, max(1, len(body)), PIECE_BYTES):
            end = start + PIECE_BYTES
            self.said += 1
            piece = SendPiece(self.said, view[start:end], end < len(body))
            self._kept.append(piece)
            pieces.append(piece)
        return pieces if self.is_joined else []

    def _take(self, came: PieceCame) -> list[CorrespondenceEffect]:
        if came.number <= self.heard:
            return []
        if came.number != self.heard + 1:
            raise ProtocolError(f"piece {came.number} came after piece {self.heard}")
        self.heard = came.number
        if came.is_part:
            self._parts.append(came.body)
            return []
        if not self._parts:
            return [HandOver(came.body)]
        parts, self._parts = [*self._parts, came.body], []
        return [HandOver(b"".join(parts))]

    def _forget(self, heard: int) -> None:
        if heard > self.said:
            raise ProtocolError(f"piece {heard} was heard, and {self.said} were said")
        while self._kept and self._kept[0].number <= heard:
            self._kept.popleft()

    def check(self) -> None:
        """Assert what is always true."""
        numbers = [piece.number for piece in self._kept]
        assert numbers == list(range(self.said - len(numbers) + 1, self.said + 1))
        assert self.heard >= len(self._parts)
