"""How many segments each process has begun to open; the daemon looks before a file is refilled.

A process says which segments it has mapped, but later. Before it opens one it adds 1 to a number in
a file that the daemon has mapped too, and takes it back if there is no such file. So when a segment
has lost its name, and then the number of every process is that of the openings that it has told of,
nobody has the segment but those who said so.

What is always true
1. A number is never less than the process's openings so far; it is more only while one is begun.
2. A slot is one process's until that has ended.

Facts about order (x86-64): open takes the lock of the process's table of files before it looks the
name up, and rename that of the folder before it is done; each is a full barrier. So an opening that
finds the name has its number in memory before rename returns. Other processors do not promise that;
there no file counts as told of, and none is filled again.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import TYPE_CHECKING

from weft._store.mappings import Mapping, map_file

if TYPE_CHECKING:
    from pathlib import Path

FILE = "opens"
"""Its name in the session's folder."""
# The file is sparse: a page of memory for every 512 processes.
SLOTS = 1 << 16
_SLOT_BYTES = 8
IS_ORDERED = platform.machine() in {"x86_64", "AMD64"}


def opens_counter(session_dir: Path, slot: int) -> ctypes.c_uint64:
    """Return the number of a process: it counts in `value`. OSError: there is no such file."""
    return ctypes.c_uint64.from_buffer(_map(session_dir, os.O_RDWR).window(), slot * _SLOT_BYTES)


def _map(session_dir: Path, flags: int) -> Mapping:
    fd = os.open(session_dir / FILE, flags | os.O_CLOEXEC, 0o600)
    try:
        if flags & os.O_CREAT:
            os.ftruncate(fd, SLOTS * _SLOT_BYTES)
        return map_file(fd, SLOTS * _SLOT_BYTES)
    finally:
        os.close(fd)


class Opens:
    """The numbers of all processes, as the daemon sees them."""

    def __init__(self, session_dir: Path) -> None:
        """Make the file."""
        window = _map(session_dir, os.O_RDWR | os.O_CREAT).window()
        self._begun = (ctypes.c_uint64 * SLOTS).from_buffer(window)
        self._slot_of: dict[bytes, int] = {}
        self._told: dict[int, int] = {}
        """By slot: how many openings the process has told of."""
        self._free: list[int] = []

    def met(self, client: bytes) -> int:
        """Return the slot of a process that has connected."""
        slot = self._free.pop() if self._free else len(self._slot_of)
        self._begun[slot] = 0
        self._slot_of[client] = slot
        self._told[slot] = 0
        return slot

    def told(self, client: bytes, count: int) -> None:
        """A process has told of so many openings."""
        self._told[self._slot_of[client]] += count

    def lost(self, client: bytes) -> None:
        """A process has ended, and all that it sent was told."""
        slot = self._slot_of.pop(client, None)
        if slot is not None:
            del self._told[slot]
            self._free.append(slot)

    def are_all_told(self) -> bool:
        """Tell whether no process has begun an opening that it has not told of."""
        begun = self._begun
        return IS_ORDERED and all(begun[slot] == told for slot, told in self._told.items())
