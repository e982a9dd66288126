"""A floor: what Python does with values in one process. Each gets a Rate and returns one number."""

from __future__ import annotations

import os
import pickle
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from _timing import Rate

MIB = 1024 * 1024
LARGE_BYTES = 100 * MIB


def look_up(rate: Rate) -> float:
    table = dict.fromkeys(range(1000), 0)
    return rate(lambda: table[500])


def pickle_small(rate: Rate) -> float:
    """Pickle a small value and keep it under a fresh id."""
    table: dict[bytes, bytes] = {}

    def keep() -> None:
        key = os.urandom(16)
        table[key] = pickle.dumps(0, 5)
        del table[key]

    return rate(keep)


def look_at_names(_: Rate) -> float:
    """Seconds to find 100 of 1,000,000 names in a list."""
    names = ["small"] * 1_000_000
    names[::10_000] = ["odd"] * 100
    begin = perf_counter()
    found = [row for row, name in enumerate(names) if name == "odd"]
    passed_s = perf_counter() - begin
    assert len(found) == 100
    return passed_s


def pickle_many(_: Rate) -> float:
    """Seconds to pickle 100,000 values of 1,000 bytes, keep them and let them go."""
    value = bytes(1000)
    begin = perf_counter()
    table = {os.urandom(16): pickle.dumps(value, 5) for _ in range(100_000)}
    table.clear()
    return perf_counter() - begin


def unpickle_large(rate: Rate) -> float:
    """Unpickle an array of 100 MiB that lies out of band, so that nothing is copied."""
    buffers: list[pickle.PickleBuffer] = []
    array = np.zeros(LARGE_BYTES, np.uint8)
    data = pickle.dumps(array, 5, buffer_callback=buffers.append)
    return rate(lambda: pickle.loads(data, buffers=buffers))


def unpickle_ids(rate: Rate) -> float:
    data = pickle.dumps([os.urandom(16) for _ in range(10_000)], 5)
    return rate(lambda: pickle.loads(data))


def copy(rate: Rate, size_bytes: int, count: float) -> float:
    source = np.ones(size_bytes, np.uint8)
    target = np.ones(size_bytes, np.uint8)
    return rate(lambda: np.copyto(target, source), count)


def copy_large(rate: Rate) -> float:
    """Gigabytes (10^9 bytes) a second into memory that is warm."""
    return copy(rate, LARGE_BYTES, LARGE_BYTES / 1e9)


def copy_1_mib(rate: Rate) -> float:
    return copy(rate, MIB, 1)
