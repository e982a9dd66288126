"""A journal in memory, for tests and for a control service that need not outlive its process."""

from __future__ import annotations

from weft._control.base import (
    CommandJournal,
    JournalError,
    JournalFullError,
    JournalLostError,
    JournalTakenError,
    Opened,
)
from weft._override import override


class Memory:
    """What a journal in memory is about; several hold it one after the other.

    Attributes:
        room_bytes: How much more fits.
    """

    def __init__(self, room_bytes: float = float("inf")) -> None:
        self.room_bytes = room_bytes
        self.number = 0
        self.snapshot: bytes | None = None
        self.lines: list[bytes] = []
        self.holder: MemoryJournal | None = None


class MemoryJournal(CommandJournal):
    """A hold of a journal in memory."""

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = memory or Memory()

    @override
    def open(self, wait_s: float = 0.0) -> Opened:
        memory = self._memory
        if memory.holder is not None:
            raise JournalTakenError("the journal in memory is held by another")
        memory.holder = self
        memory.number += 1
        return Opened(memory.number, memory.snapshot, list(memory.lines))

    @override
    def append(self, lines: list[bytes]) -> None:
        self._take(sum(map(len, lines)))
        self._memory.lines += lines

    @override
    def replace(self, snapshot: bytes) -> None:
        self._take(len(snapshot))
        self._memory.snapshot = snapshot
        self._memory.lines.clear()

    def _take(self, size_bytes: int) -> None:
        memory = self._memory
        if memory.holder is None:
            raise JournalError("the journal is not open")
        if memory.holder is not self:
            raise JournalLostError("the journal in memory is held by another")
        if size_bytes > memory.room_bytes:
            raise JournalFullError(f"the journal in memory has no room for {size_bytes} bytes")
        memory.room_bytes -= size_bytes

    @override
    def close(self) -> None:
        if self._memory.holder is self:
            self._memory.holder = None
