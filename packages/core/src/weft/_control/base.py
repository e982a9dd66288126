"""The journal of a control service: what journals promise, and how they fail.

A journal keeps lines of bytes in order, and a snapshot that stands for the lines before it. One
process has it at a time; each one that gets it has a number that is greater than all before.

What a journal guarantees
1. When `append` returns, its lines are there whatever ends: this process, the machine, and as far
   as the journal is replicated, the disk.
2. Who opens it gets the newest snapshot and all lines since, whole and in order. Of lines whose
   `append` did not return, a beginning may be there: each is whole or not there at all.
3. When `replace` returns, the snapshot stands for all lines before. If it does not, either the old
   snapshot and its lines are there, or the new one without.
4. Nothing is added by who has lost the journal to another: it fails, with JournalLostError where
   that can be told.
5. After JournalFullError nothing was added, and the journal goes on. After any other JournalError
   nobody knows: close it and open it again.

What it does not: it looks into no line, and is used from one thread at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from zlib import crc32

import msgspec

BATCH_BYTES = 1024 * 1024
"""The lines of one `append` take at most this much together, or there is only one of them."""
LINE_BYTES = BATCH_BYTES + 128 * 1024
"""The most of one line."""
FORMAT = 1
"""Of what journals keep; another one is refused."""


class JournalError(Exception):
    """A journal failed, and nobody knows what of the last call was done."""


class JournalFullError(JournalError):
    """There is no room: nothing was added. The operator makes some."""


class JournalTakenError(JournalError):
    """Another control service has the journal, and lives."""


class JournalLostError(JournalError):
    """Another control service may have the journal by now: this one must end."""


class Opened(msgspec.Struct, frozen=True):
    """What is in a journal."""

    number: int
    """Of who has opened it: greater than all before."""
    snapshot: bytes | None
    lines: list[bytes]


class CommandJournal(ABC):
    """One process's hold of a journal. Its methods block."""

    @abstractmethod
    def open(self, wait_s: float = 0.0) -> Opened:
        """Take the journal and read it, once.

        Args:
            wait_s: How long to wait for another process that has it to end.

        Raises:
            JournalTakenError: Another process has it; nothing was changed.
            JournalFullError: There is no room to note who has it; nothing was changed.
            JournalError: It cannot be read: what is there is damaged, or of a later release.
        """

    @abstractmethod
    def append(self, lines: list[bytes]) -> None:
        """Add lines, durably; an empty list is no line.

        Raises:
            JournalFullError: There is no room; nothing was added.
            JournalLostError: Another may have the journal; nothing was added.
            JournalError: It failed, and some of the lines may be there.
        """

    @abstractmethod
    def replace(self, snapshot: bytes) -> None:
        """Let a snapshot stand for all that was appended.

        Raises:
            JournalFullError: There is no room; the lines stand.
            JournalLostError: Another may have the journal; nothing was changed.
            JournalError: It failed, and the snapshot may stand or not.
        """

    @abstractmethod
    def close(self) -> None:
        """Let the journal go, so that another process can have it at once. Idempotent."""

    def held_until(self) -> float:
        """Return until when nobody else can have it, on the monotonic clock. Does not block.

        Any thread may ask. Who has a journal only for a time stops answering when it is over.
        """
        return float("inf")


def pack(lines: list[bytes]) -> bytes:
    """Return lines as one record that tells when it is damaged."""
    return seal(msgspec.msgpack.encode(lines))


def unpack(record: bytes, what: str) -> list[bytes]:
    """Read the lines of a record. JournalError: it is damaged."""
    return msgspec.msgpack.decode(unseal(record, what), type=list[bytes])


def seal(body: bytes) -> bytes:
    """Return a record that tells when it is damaged."""
    return crc32(body).to_bytes(4, "big") + body


def unseal(record: bytes, what: str) -> bytes:
    """Return what was sealed. JournalError: the record is damaged."""
    body = record[4:]
    if record[:4] != crc32(body).to_bytes(4, "big"):
        raise JournalError(f"{what} is damaged: restore the journal from a copy, or remove it")
    return body
