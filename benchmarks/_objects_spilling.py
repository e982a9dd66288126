"""The programs of the objects' benchmark that start their session by themselves.

Each takes the name of the module, weft or ray. What is spilled goes to the folder that
_rounds.measure makes for the measurement; the floors write and read there as well.
"""

from __future__ import annotations

import gc
from importlib import import_module
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from _disk import chill, warm

if TYPE_CHECKING:
    from collections.abc import Callable

CPUS = 2
MIB = 1024 * 1024
SMALL = 100_000
SMALL_BYTES = 1000
STORE_BYTES = 256 * MIB
OBJECT_BYTES = 16 * MIB
FILLING = STORE_BYTES // OBJECT_BYTES
"""So many objects fill the store."""
SPILLED = 4 * FILLING
"""So many are put or read while the clock runs: 1 GiB."""
WORKING_SET_BYTES = 4 * 10**9
WORKING_STORE_BYTES = WORKING_SET_BYTES // 10


def small_put_and_freed(system: str) -> float:
    """Seconds from the first of 100,000 puts of 1,000 bytes until all have been freed."""
    ray = import_module(system)
    ray.init(num_cpus=CPUS)
    value = bytes(SMALL_BYTES)
    begin = perf_counter()
    refs = [ray.put(value) for _ in range(SMALL)]
    assert ray.get(refs[-1]) == value
    del refs
    gc.collect()
    # What is put after them is served after they are let go.
    assert ray.get(ray.put(0)) == 0
    return perf_counter() - begin


def spill(system: str) -> float:
    """Gigabytes (10^9 bytes) put in a second while the store is full."""
    ray = start(system)
    data = source()
    refs = [ray.put(data) for _ in range(FILLING)]
    begin = perf_counter()
    refs += [ray.put(data) for _ in range(SPILLED)]
    took_s = perf_counter() - begin
    del refs
    return SPILLED * OBJECT_BYTES / 1e9 / took_s


def restore(system: str) -> float:
    """Gigabytes a second out of files that are in the page cache."""
    return read_back(system, warm)


def restore_cold(system: str) -> float:
    """Gigabytes a second out of files that are not in the page cache."""
    return read_back(system, chill)


def read_back(system: str, prepare: Callable[[], None]) -> float:
    ray = start(system)
    data = source()
    refs = [ray.put(data) for _ in range(FILLING + SPILLED)]
    # What is in memory still, the last that were put, goes to disk for the first.
    for ref in refs[:FILLING]:
        assert ray.get(ref)[-1] == data[-1]
    prepare()
    begin = perf_counter()
    for ref in refs[FILLING:]:
        assert ray.get(ref)[-1] == data[-1]
    return SPILLED * OBJECT_BYTES / 1e9 / (perf_counter() - begin)


def working_set(system: str) -> float:
    """Gigabytes put and read back in a second, ten times as many as fit, with every byte compared.

    Each object differs from all others in its first bytes, and from itself shifted.
    """
    ray = start(system, WORKING_STORE_BYTES)
    data = source()
    numbers = data[:8].view(np.int64)
    count = WORKING_SET_BYTES // OBJECT_BYTES
    begin = perf_counter()
    refs = []
    for number in range(count):
        numbers[0] = number
        refs.append(ray.put(data))
    for number, ref in enumerate(refs):
        numbers[0] = number
        assert np.array_equal(ray.get(ref), data), f"object {number} has changed"
    return count * OBJECT_BYTES / 1e9 / (perf_counter() - begin)


def start(system: str, store_bytes: int = STORE_BYTES) -> Any:
    ray = import_module(system)
    ray.init(num_cpus=CPUS, object_store_memory=store_bytes)
    return ray


def source() -> Any:
    """Return the bytes of an object: such as no file system can make smaller."""
    return np.random.default_rng(0).integers(0, 256, OBJECT_BYTES, np.uint8)
