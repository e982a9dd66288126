"""What requests were answered, so that a repeated one gets the same answer and is not done twice.

A client numbers its requests, and says with each below which number it has all answers. What it
has is forgotten here. (Client sessions: Ongaro, "Consensus: Bridging Theory and Practice", section
6.3.)

What is always true
1. The answer to a request is kept until its client says that it has it, or has `OPEN_KEPT` newer
   ones open: then the oldest is forgotten.
2. A request whose answer is forgotten is refused, not done again, while its client is known.
3. At most `CLIENTS_KEPT` clients are known; the one that was silent longest is forgotten. A request
   of such a client that comes again is done again: so late is nobody.
"""

from __future__ import annotations

from typing import Literal

import msgspec

OPEN_KEPT = 1024
CLIENTS_KEPT = 20_000

Code = Literal["", "exists", "missing", "invalid", "full", "fenced", "stale", "internal"]
"""Why a request is refused, for programs; empty: it is not."""


class Request(msgspec.Struct, frozen=True, array_like=True):
    """The name of a request."""

    client: bytes
    number: int
    """From 1 on."""
    done_below: int = 1
    """The client has the answers to all requests of smaller numbers."""


class Ruling(msgspec.Struct, frozen=True, array_like=True):
    """What a command came to."""

    value: int | bytes = 0
    code: Code = ""
    reason: str = ""
    """For people; empty if it is not refused."""


class ClientImage(msgspec.Struct, frozen=True, array_like=True):
    """One client, in a snapshot."""

    client: bytes
    done_below: int
    answers: list[tuple[int, Ruling]]


class _Client:
    __slots__ = ("answers", "done_below")

    def __init__(self, done_below: int, answers: dict[int, Ruling]) -> None:
        self.done_below = done_below
        self.answers = answers


class Rulings:
    """The answers that clients may still ask for again."""

    def __init__(self) -> None:
        self._client_of: dict[bytes, _Client] = {}
        """The one that was silent longest comes first."""

    def find(self, request: Request) -> Ruling | None:
        """Return what is known of a request: its answer, or that it is too old; None: it is new."""
        client = self._client_of.get(request.client)
        if client is None:
            return None
        if request.number < client.done_below:
            reason = (
                f"request {request.number} of client {request.client.hex()} was answered, and "
                f"the client has the answers to all below {client.done_below}"
            )
            return Ruling(code="stale", reason=reason)
        return client.answers.get(request.number)

    def keep(self, request: Request, answer: Ruling) -> None:
        """Remember what a new request was answered."""
        client = self._client_of.pop(request.client, None) or _Client(1, {})
        self._client_of[request.client] = client
        client.answers[request.number] = answer
        # What is just answered is not in the client's hands, whatever it says.
        self._forget_below(client, min(request.done_below, request.number))
        if len(client.answers) > OPEN_KEPT:
            self._forget_below(client, sorted(client.answers)[-OPEN_KEPT])
        if len(self._client_of) > CLIENTS_KEPT:
            del self._client_of[next(iter(self._client_of))]

    @staticmethod
    def _forget_below(client: _Client, number: int) -> None:
        if number > client.done_below:
            client.done_below = number
            for old in [each for each in client.answers if each < number]:
                del client.answers[old]

    def image(self) -> list[ClientImage]:
        """Return all that is remembered."""
        return [
            ClientImage(name, client.done_below, list(client.answers.items()))
            for name, client in self._client_of.items()
        ]

    def restore(self, image: list[ClientImage]) -> None:
        """Remember what an image says, and nothing else."""
        self._client_of = {
            each.client: _Client(each.done_below, dict(each.answers)) for each in image
        }

    def check(self) -> None:
        """Assert what is always true."""
        for client in self._client_of.values():
            assert len(client.answers) <= OPEN_KEPT, 1
            assert all(number >= client.done_below for number in client.answers), 2
        assert len(self._client_of) <= CLIENTS_KEPT, 3
