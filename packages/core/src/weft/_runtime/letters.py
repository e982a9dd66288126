"""One side of a conversation that outlives its connections: of a program, or of its deputy.

`_machines/correspondence.py` decides; this is the shell round it, inside the guard of a loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._clock import monotonic
from weft._machines.correspondence import (
    PIECE_BYTES,
    Correspondence,
    HandOver,
    HeardBy,
    Parted,
    PieceCame,
    Reached,
    Said,
)
from weft._wire.codec import pack_legibly
from weft._wire.messages import Letter, LettersHeard, Resumes
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from weft._machines.correspondence import CorrespondenceEffect
    from weft._transport.secure import SecureConnection
    from weft._wire.messages import Message

# So many letters, or bytes, are heard before that is said.
UNTOLD = 16
UNTOLD_BYTES = 256 * 1024
# Letters on their way; more than UNTOLD, or nobody would say that they were heard. See `when_room`.
MOST_ON_THE_WAY = 64


class Letters:
    """What is said over one connection after the other."""

    def __init__(
        self, deliver: Callable[[bytes], None], parted: Callable[[str], None] = lambda _: None
    ) -> None:
        """`deliver(body)`: the other side has said this. `parted(why)`: the connection is gone."""
        self._machine = Correspondence()
        self._deliver = deliver
        self._parted = parted
        self._told = 0
        self._untold_bytes = 0
        self._waiting: list[Callable[[], object]] = []
        """For room."""
        self.connection: SecureConnection | None = None
        self.heard_at = monotonic()
        """When anything came from the other side."""

    @property
    def said(self) -> int:
        """How many letters were said."""
        return self._machine.said

    @property
    def heard(self) -> int:
        """How many of them were heard."""
        return self._machine.said - self._machine.unheard

    def say(self, record: Any) -> None:
        """Say something; it goes now, or over the next connection."""
        self._do(self._machine.handle(Said(pack_legibly(record))))

    def when_room(self, callback: Callable[[], object]) -> None:
        """Call back when what is large may be said: not too much waits to be heard by then."""
        self._waiting.append(callback)
        self._look_for_room()

    def _look_for_room(self) -> None:
        if self._waiting and self._machine.unheard <= MOST_ON_THE_WAY:
            waiting, self._waiting = self._waiting, []
            for callback in waiting:
                callback()

    def use(self, connection: SecureConnection) -> None:
        """Go on over a new connection."""
        if self.connection is not None:
            self.connection.close()
            self._machine.handle(Parted())
        self.connection = connection
        self._send(Resumes(self._machine.heard))

    def received(self, connection: SecureConnection, messages: Sequence[Message]) -> None:
        """Take what has come over a connection."""
        self.heard_at = monotonic()
        try:
            for message in messages:
                if connection is not self.connection:
                    return  # It is given up for another one.
                self._take(message)
        except ProtocolError as error:
            connection.close()
            self.lost(connection, str(error))
            return
        is_much = self._untold_bytes >= UNTOLD_BYTES
        if is_much or self._machine.heard >= self._told + UNTOLD:
            self._tell()

    def _take(self, message: Message) -> None:
        match message:
            case Letter(number, body, is_part):
                self._untold_bytes += len(body)
                self._do(self._machine.handle(PieceCame(number, body, is_part)))
            case LettersHeard(heard, wants_answer):
                self._machine.handle(HeardBy(heard))
                self._look_for_room()
                if wants_answer:
                    self._tell()
            case Resumes(heard):
                self._do(self._machine.handle(Reached(heard)))
                self._look_for_room()
            case _:
                raise ProtocolError(f"{type(message).__name__} came instead of a letter")

    def _tell(self, *, wants_answer: bool = False) -> None:
        self._told = self._machine.heard
        self._untold_bytes = 0
        self._send(LettersHeard(self._told, wants_answer))

    def ask_for_a_sign(self) -> None:
        """Have the other side say that it is there."""
        if self._machine.is_joined:
            self._tell(wants_answer=True)

    def _do(self, effects: Iterable[CorrespondenceEffect]) -> None:
        queued_bytes = 0
        for effect in effects:
            if isinstance(effect, HandOver):
                self._deliver(effect.body)
            elif self.connection is not None:
                letter = Letter(effect.number, bytes(effect.body), effect.is_part)
                self.connection.queue(letter)
                queued_bytes += len(letter.body)
                if queued_bytes >= PIECE_BYTES:
                    # A frame each: of what is cut off, what has come whole is heard.
                    self.connection.flush()
                    queued_bytes = 0
        if self.connection is not None:
            self.connection.flush()

    def _send(self, message: Message) -> None:
        if self.connection is not None:
            self.connection.queue(message)
            self.connection.flush()

    def lost(self, connection: SecureConnection, reason: str) -> None:
        """A connection is gone."""
        if connection is self.connection:
            self.connection = None
            self._machine.handle(Parted())
            self._parted(reason)

    def close(self) -> None:
        """End the connection, when what was said is sent, as far as that goes."""
        if self.connection is not None:
            self.connection.drain()
            self.connection.close()
            self.connection = None
            self._machine.handle(Parted())

    def abandon(self) -> None:
        """Let go of the connection in a forked child."""
        if self.connection is not None:
            self.connection.abandon()
