"""What a soak sees from outside: memory, files, processes, descriptors."""

from __future__ import annotations

import collections
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from weft._engine import current
from weft.util import metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

LEFT = {
    "weft_store_spilled_bytes": "bytes on disk",
    "weft_tasks": "tasks",
    "weft_actors": "actors",
    "weft_objects": "objects",
}
"""Metrics that are 0 when everything has been dropped."""

Sample = dict[str, float]


def sample(store: Path, spill_dir: Path) -> Sample:
    """Return how much there is of everything at this moment, in MB or pieces."""
    me = psutil.Process()
    found: Sample = {
        "store, MB": bytes_in(store) / 1e6,
        "disk, MB": bytes_in(spill_dir) / 1e6,
        "processes": 1,
        "driver, descriptors": me.num_fds(),
        "driver, MB": own_megabytes(me.pid),
    }
    for daemon in me.children():
        below = children_of(daemon)
        found["processes"] += 1 + len(below)
        found["daemon, descriptors"] = fds_of(daemon)
        found["daemon, MB"] = own_megabytes(daemon.pid)
        found["workers, MB"] = sum(own_megabytes(process.pid) for process in below)
    return found


def own_megabytes(pid: int) -> float:
    """Return a process's share of memory (PSS), without segments; 0 once it has ended.

    What the template and its workers have in common is shared out between them.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    of = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return (int(of.get("Pss", 0)) - int(of.get("Pss_Shmem", 0))) * 1024 / 1e6


def fds_of(process: Any) -> int:
    """Return how many descriptors a process has; 0 once it has ended."""
    try:
        return int(process.num_fds())
    except psutil.Error:
        return 0


def children_of(process: Any) -> list[Any]:
    """Return all processes below one."""
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def files_in(folder: Path) -> list[Path]:
    """Return the files below a folder that is used meanwhile."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def bytes_in(folder: Path) -> int:
    """Return what the files below a folder take."""
    taken = 0
    for path in files_in(folder):
        try:
            taken += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return taken


def numbers() -> dict[str, float]:
    """Return the session's metrics, summed over their tags."""
    found: collections.defaultdict[str, float] = collections.defaultdict(float)
    for line in metrics.export().splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name.partition("{")[0]] += float(value)
    return found


def left_in_session() -> list[str]:
    """Return what a session has in which everything was dropped."""
    seen = numbers()
    found = [f"{seen[name]:g} {what} are left" for name, what in LEFT.items() if seen[name]]
    used = seen["weft_store_used_bytes"] - seen["weft_store_spare_bytes"]
    if used:
        found.append(f"{used:g} bytes of the store are left")
    engine: Any = current.engine
    return [*found, *objects(engine), *segments(engine)]


def objects(engine: Any) -> list[str]:
    """Return what the driver believes of its objects, and who needs them."""
    with engine.guard:
        return [
            f"object {entry.id.hex()} of {entry.owner or 'the driver'}: {entry.local} references, "
            f"{entry.pins} pins, {entry.mentions} mentions, {len(entry.requests or ())} requests, "
            f"registered: {entry.registered}, lent to processes "
            f"{[peer.pid for peer in entry.borrowers or ()]}, {entry.value!r:.200}"
            for entry in engine.objects.machine.entries.values()
        ]


def segments(engine: Any) -> list[str]:
    """Return what the daemon believes to be in the store, and whose it is."""
    worker_of = {
        worker["worker_id"]: f"worker {worker['pid']} ({worker['state']})"
        for worker in msgspec.msgpack.decode(engine.questions.ask("workers"))
    }
    worker_of[engine.worker_id.hex()] = "the driver"

    def who(process: bytes) -> str:
        return worker_of.get(process.hex(), f"a process that is gone ({process.hex()})")

    return [
        f"segment {found['name']} is in {found['state']}: {found['object_bytes']} bytes of "
        f"{found['label']} ({found['site']}), made by {who(found['creator'])}, owned by "
        f"{who(found['owner'])}, mapped by {found['mapped']}"
        for found in msgspec.msgpack.decode(engine.questions.ask("segments"))
    ]


def belongings() -> tuple[set[str], int]:
    """Return this process's descriptors, and how many processes are below it."""
    fds = {path.name for path in Path("/proc/self/fd").iterdir()}
    return fds, len(psutil.Process().children(recursive=True))


def left_after(before: tuple[set[str], int], folders: Sequence[Path]) -> list[str]:
    """Return what a session has left behind that has ended."""
    fds, processes = belongings()
    found = [str(path) for folder in folders for path in files_in(folder)]
    if len(fds) > len(before[0]):
        found.append(f"descriptors: {sorted(fds - before[0])}")
    if processes > before[1]:
        found.append(f"{processes - before[1]} processes are left")
    return found
