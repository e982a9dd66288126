"""What this process may use of the machine: CPUs, devices, memory.

Facts about cgroups: version 2 has one hierarchy, `/proc/self/cgroup` names the place in it in the
line `0::<path>`, and `memory.max` and `cpu.max` there and in every directory above apply, the least
of each. Version 1 has one hierarchy a controller, in lines `<n>:memory:<path>`; no limit is a
number near 2**63. In a container the hierarchy's own root can be the container's, so files at the
mount point count too.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from weft import _settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_NVIDIA = Path("/proc/driver/nvidia/gpus")


def cpus() -> int:
    """Return how many CPUs this process may use: its affinity, its cgroup's quota rounded up."""
    found = len(os.sched_getaffinity(0))
    for place in _cgroup_dirs("cpu"):
        quota, period = _read(place / "cpu.max").split()[:2] or ("", "")
        if not quota:
            quota, period = _read(place / "cpu.cfs_quota_us"), _read(place / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            found = min(found, -(-int(quota) // int(period)))
    return max(1, found)


def gpus() -> list[str]:
    """Return the ids of NVIDIA devices: those in CUDA_VISIBLE_DEVICES, else the driver's."""
    visible = _settings.visible_gpus()
    if visible is not None:
        return visible
    try:
        return [str(index) for index in range(len(list(_NVIDIA.iterdir())))]
    except OSError:
        return []


def memory_bytes() -> int:
    """Return the memory limit of this machine and the cgroup."""
    return min([_host_bytes(), *_cgroup_limits()])


def limit_bytes(address_space_bytes: int = resource.RLIM_INFINITY) -> int:
    """Return the least memory limit of a process: its RLIMIT_AS, its cgroup's, the machine's."""
    limit = memory_bytes()
    return (
        limit if address_space_bytes == resource.RLIM_INFINITY else min(limit, address_space_bytes)
    )


def _host_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_limits() -> Iterator[int]:
    for place in _cgroup_dirs("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _read(place / name)
            if limit.isdigit():
                yield int(limit)


def _cgroup_dirs(controller: str) -> Iterator[Path]:
    """Yield every directory of this process's cgroups that can limit `controller`."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = _CGROUP_ROOT
        elif controller in controllers.split(","):
            root = _CGROUP_ROOT / controllers
            if not root.is_dir():
                root = _CGROUP_ROOT / controller
        else:
            continue
        place = root / path.lstrip("/")
        yield from (
            place,
            *(above for above in place.parents if above == root or root in above.parents),
        )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
