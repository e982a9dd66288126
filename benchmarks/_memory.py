"""Memory of a process and all that it started, as the kernel shares it out (PSS)."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
SETTLE_S = 15.0
BETWEEN_S = 0.5
STEADY = 0.01


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that none is lost from sight."""
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def parents() -> dict[int, int]:
    """Return the parent of each process of the machine."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            found[int(entry.name)] = int(after_name[1])
    return found


def descendants(root: int) -> list[int]:
    """Return the processes below `root`, parents first."""
    parent_of = parents()
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parent_of.items() if parent == pid]
    return tree[1:]


def shared_out_bytes(pid: int) -> int:
    """Return the PSS of one process; 0 once it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0


def tree_megabytes() -> float:
    """Return the PSS of this process and all below it in MB, once it is steady."""
    until = time.monotonic() + SETTLE_S
    last = 0.0
    while True:
        total = sum(map(shared_out_bytes, [os.getpid(), *descendants(os.getpid())])) / 1e6
        if abs(total - last) <= STEADY * total or time.monotonic() > until:
            return total
        last = total
        time.sleep(BETWEEN_S)
