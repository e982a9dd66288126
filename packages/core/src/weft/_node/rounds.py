"""Questions to many processes at once, over when all have answered or time is up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._transport.timers import Timers

T = TypeVar("T")

# A process that runs C code for long does not answer; what the others say is worth having without
# it.
ROUND_S = 1.0


class Round(Generic[T]):
    """One question: who has not answered, what the others said, who wants to know."""

    def __init__(self, asked: set[bytes], over: Callable[[list[T]], None]) -> None:
        self.missing = asked
        self.answers: list[T] = []
        self.over = over


class Rounds(Generic[T]):
    """The questions that are being asked. Each ends once."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._rounds = 0
        self._round_of: dict[int, Round[T]] = {}

    def begin(self, send: Callable[[int], set[bytes]], over: Callable[[list[T]], None]) -> None:
        """Ask. `send(number)` returns whom it has asked; `over` gets the answers, maybe at once."""
        self._rounds += 1
        number = self._rounds
        asked = self._round_of[number] = Round(send(number), over)
        self._timers.call_later(ROUND_S, lambda: self._end(number))
        self._look(number, asked)

    def take(self, number: int, process: bytes, answer: T) -> None:
        """A process has answered. One that is late, or was not asked, is not heard."""
        asked = self._round_of.get(number)
        if asked is not None and process in asked.missing:
            asked.answers.append(answer)
            asked.missing.discard(process)
            self._look(number, asked)

    def forget(self, process: bytes) -> None:
        """A process is gone: nobody waits for its answer."""
        for number, asked in list(self._round_of.items()):
            asked.missing.discard(process)
            self._look(number, asked)

    def _look(self, number: int, asked: Round[T]) -> None:
        if not asked.missing:
            self._end(number)

    def _end(self, number: int) -> None:
        asked = self._round_of.pop(number, None)
        if asked is not None:
            asked.over(asked.answers)
