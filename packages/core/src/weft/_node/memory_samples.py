"""How much memory is in use: by each worker for itself, and of every limit that applies.

What counts
1. A worker's own memory is what would be free if it ended: its anonymous pages that no other
   process has (USS), and those of the processes that it started. Segments are the store's, and
   pages of files can be read again: neither counts.
2. Of a cgroup's use, and of the machine's, page cache does not count: the kernel gives it up before
   anything is killed.
3. Every directory of the cgroup's way up to the root can have a limit; the least room counts.

Facts about proc: `statm` is read from counters of the kernel, in 10 us whatever the process's size.
`smaps_rollup` knows what is private, and visits every page for it: 40 ms a GiB. So it is read once,
when a process is first seen and small; what it shares with its parent then, the pages that `fork`
left in common, is subtracted from the counters from then on: too much, where it writes to them and
so gets copies. The kernel lists the children of each
thread, in `task/*/children`, if it was built so (CONFIG_PROC_CHILDREN).

Facts about cgroups: `inactive_file` and `active_file` are page cache without shared memory. Version
1 writes the sums over the directories below with a `total_` before their names, version 2 without.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from weft._machines.governor import MemoryBound
from weft._node import host

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# To read exactly what a process of this size shares takes 5 ms.
EXACT_BYTES = 128 << 20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_S = os.sysconf("SC_CLK_TCK")
# stat(2) counts in these.
_BLOCK_BYTES = 512


class MemoryReader:
    """Reads the kernel's accounts. A process that is gone has no memory."""

    def __init__(self, machine: Path = Path("/")) -> None:
        """`machine` is the root of the files that the kernel offers."""
        self._proc = str(machine / "proc")
        self._cgroups = list(host.cgroup_dirs("memory", machine))
        self._limit_of = self._limits()
        """By directory of a cgroup, as of the last census."""
        self._shared_of: dict[int, int] = {}
        """Bytes that a process has in common with its parent, as of when it was first seen."""
        self._children_of: dict[int, list[int]] = {}
        self._cpu_s_of: dict[int, float] = {}
        """With that of children, as of the last census."""

    # -------------------------------------------------------------- limits

    def bounds(self) -> list[MemoryBound]:
        """Return the limits that apply, and how much of each is in use."""
        meminfo = self._read("meminfo")
        total, available = number(meminfo, "MemTotal:"), number(meminfo, "MemAvailable:")
        found = []
        if available:
            found.append(MemoryBound("this machine", total << 10, (total - available) << 10))
        for place, limit in self._limit_of.items():
            if limit < (total << 10 or 1 << 63):
                found.append(MemoryBound(f"cgroup {place}", limit, _cgroup_use(place)))
        return found

    def _limits(self) -> dict[Path, int]:
        limit_of = {place: host.cgroup_limit(place) for place in self._cgroups}
        return {place: limit for place, limit in limit_of.items() if limit}

    # -------------------------------------------------------------- processes

    def own_bytes(self, worker: int) -> int:
        """Return a worker's own memory, with that of the children found by the last census."""
        return sum(map(self._own, (worker, *self._children_of.get(worker, ()))))

    def cpu_s(self, worker: int) -> float:
        """Return what a worker and its children have taken of processors until the last census."""
        return self._cpu_s_of.get(worker, 0.0)

    def take_census(self, workers: Collection[int]) -> None:
        """Look which processes these have started, and forget what is known of all others.

        Limits are read again as well.
        """
        self._limit_of = self._limits()
        self._children_of = {
            worker: found for worker in workers if (found := list(self._descendants(worker)))
        }
        self._cpu_s_of = {
            worker: sum(map(self._cpu_s, (worker, *self._children_of.get(worker, ()))))
            for worker in workers
        }
        living = {*workers, *(pid for found in self._children_of.values() for pid in found)}
        self._shared_of = {pid: n for pid, n in self._shared_of.items() if pid in living}

    def _own(self, pid: int) -> int:
        anonymous = self._anonymous(pid)
        shared = self._shared_of.get(pid)
        if shared is None or anonymous < shared:
            shared = self._shared_of[pid] = self._shared(pid, anonymous)
        return max(0, anonymous - shared)

    def _shared(self, pid: int, anonymous: int) -> int:
        if anonymous > EXACT_BYTES:
            # It has just been forked by one as large, or has grown since: then this is too much.
            return min(anonymous, self._anonymous(self._parent(pid)))
        private = number(self._read(f"{pid}/smaps_rollup"), "Private_Dirty:")
        return max(0, anonymous - (private << 10))

    def _anonymous(self, pid: int) -> int:
        words = self._read(f"{pid}/statm").split()
        return (int(words[1]) - int(words[2])) * _PAGE_BYTES if words else 0

    def _parent(self, pid: int) -> int:
        words = self._stat(pid)
        return int(words[1]) if words else 0

    def _cpu_s(self, pid: int) -> float:
        # Its own time in the program and in the kernel, and that of children that have ended.
        return sum(map(int, self._stat(pid)[11:15])) / _TICKS_S

    def _stat(self, pid: int) -> list[bytes]:
        """Return what follows the name, which is in parentheses and may hold some itself."""
        return self._read(f"{pid}/stat").rpartition(b")")[2].split()

    def _descendants(self, pid: int) -> Iterator[int]:
        try:
            threads = os.listdir(f"{self._proc}/{pid}/task")  # noqa: PTH208 - once a second for each
        except OSError:
            return
        for thread in threads:
            for child in self._read(f"{pid}/task/{thread}/children").split():
                yield int(child)
                yield from self._descendants(int(child))

    def _read(self, path: str) -> bytes:
        return _read(f"{self._proc}/{path}")


def stored_bytes(directory: str) -> int:
    """Return how much memory the segments in a directory take."""
    taken = 0
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # removed meanwhile
                taken += entry.stat().st_blocks * _BLOCK_BYTES
    return taken


def number(table: bytes, name: str) -> int:
    """Return the number after a name, of a file with such lines; 0: it is not there."""
    _, found, rest = (b"\n" + table).partition(f"\n{name}".encode())
    words = rest.split(None, 1)
    return int(words[0]) if found and words and rest[:1].isspace() else 0


def _cgroup_use(place: Path) -> int:
    used = _read(f"{place}/memory.current") or _read(f"{place}/memory.usage_in_bytes")
    parts = _read(f"{place}/memory.stat")
    prefix = "total_" if b"\ntotal_inactive_file" in parts else ""
    cache = sum(number(parts, f"{prefix}{name}") for name in ("inactive_file", "active_file"))
    return max(0, int(used or 0) - cache)


def _read(path: str) -> bytes:
    # A third of what pathlib takes: this is done for every worker, many times a second.
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(fd, 1 << 14)
    except OSError:
        return b""
    finally:
        os.close(fd)
