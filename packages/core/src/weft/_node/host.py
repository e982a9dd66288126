"""What this process may use of the machine: CPUs, memory, a disk.

Facts about cgroups: version 2 has one hierarchy, `/proc/self/cgroup` names the place in it in the
line `0::<path>`, and `memory.max` and `cpu.max` there and in every directory above apply, the least
of each. Version 1 has one hierarchy a controller, in lines `<n>:memory:<path>`; no limit is a
number near 2**63. In a container the hierarchy's own root can be the container's, so files at the
mount point count too.

Facts about mounts: a line of `/proc/self/mountinfo` is `<id> <parent> <major>:<minor> ... - <type>
<source> <options>`.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from weft import _settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_IN_MEMORY = {"tmpfs", "ramfs"}
# Kept longer than the temporary directory, so on a disk wherever there is one.
_VAR_TMP = "/var/tmp"  # noqa: S108


def cpus() -> int:
    """Return how many CPUs this process may use: its affinity, its cgroup's quota rounded up."""
    found = len(os.sched_getaffinity(0))
    for place in cgroup_dirs("cpu"):
        quota, period = read(place / "cpu.max").split()[:2] or ("", "")
        if not quota:
            quota, period = read(place / "cpu.cfs_quota_us"), read(place / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            found = min(found, -(-int(quota) // int(period)))
    return max(1, found)


def memory_bytes() -> int:
    """Return the least memory limit: this machine's, its cgroups', or the user's."""
    allowed = _settings.MEMORY_LIMIT.value()
    limits = [_host_bytes(), *(cgroup_limit(place) for place in cgroup_dirs("memory")), allowed]
    return min(limit for limit in limits if limit)


def limit_bytes(address_space_bytes: int = resource.RLIM_INFINITY) -> int:
    """Return the least memory limit of a process: its RLIMIT_AS, its cgroup's, the machine's."""
    limit = memory_bytes()
    return (
        limit if address_space_bytes == resource.RLIM_INFINITY else min(limit, address_space_bytes)
    )


def disk_root(fallback: str = _VAR_TMP) -> str:
    """Return the directory for what is to leave memory.

    The temporary one, unless its files are in memory and those of `fallback` are not.
    """
    temporary = str(Path(_settings.temp_root()).absolute())
    is_better = not is_in_memory(fallback) and os.access(fallback, os.W_OK | os.X_OK)
    return fallback if is_better and is_in_memory(temporary) else temporary


def is_in_memory(directory: str) -> bool:
    """Tell whether a directory's files take memory: whether it is on tmpfs, say."""
    try:
        device = Path(directory).stat().st_dev
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in read(Path("/proc/self/mountinfo")).splitlines():
        mount, _, file_system = line.partition(" - ")
        if mount.split()[2] == number:
            return file_system.split()[0] in _IN_MEMORY
    return False


def _host_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cgroup_limit(place: Path) -> int:
    """Return how many bytes a directory of the memory controller allows; 0: it does not say."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        limit = read(place / name)
        if limit.isdigit():
            return int(limit)
    return 0


def cgroup_dirs(controller: str, machine: Path = Path("/")) -> Iterator[Path]:
    """Yield every directory of this process's cgroups that can limit `controller`.

    `machine` is the root of the files that the kernel offers.
    """
    cgroups = machine / "sys/fs/cgroup"
    for line in read(machine / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = cgroups
        elif controller in controllers.split(","):
            root = cgroups / controllers
            if not root.is_dir():
                root = cgroups / controller
        else:
            continue
        place = root / path.lstrip("/")
        yield from (
            place,
            *(above for above in place.parents if above == root or root in above.parents),
        )


def read(path: Path) -> str:
    """Return a file's text, without white space around it; empty if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
