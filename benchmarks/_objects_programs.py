"""The programs of the objects' benchmark that run in a session: the same for Weft and for Ray.

Each gets the module, weft or ray, in a session that has just begun, and returns a rate. Those that
core's benchmark has, too, are in _core_programs.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from _timing import Rate

MIB = 1024 * 1024
SHARED_BYTES = 100 * MIB
READERS = 8
TRIP_BYTES = 1024 * MIB
PAGE_BYTES = 4096


def shared_with_readers(ray: Any, rate: Rate) -> float:
    """Gigabytes (10^9 bytes) put in a second, each read by 8 actors: a byte of every page."""

    @ray.remote
    class Reader:
        def read(self, array: Any) -> int:
            return int(array[::PAGE_BYTES].sum())

    readers = [Reader.remote() for _ in range(READERS)]
    array = np.ones(SHARED_BYTES, np.uint8)

    def share() -> None:
        ref = ray.put(array)
        found = ray.get([reader.read.remote(ref) for reader in readers])
        assert found == [SHARED_BYTES // PAGE_BYTES] * READERS

    return rate(share, SHARED_BYTES / 1e9)


def round_trip(ray: Any, rate: Rate) -> float:
    """Gigabytes (10^9 bytes) that go to a task and come back in a second, both ways counted."""

    @ray.remote
    def echo(array: Any) -> Any:
        return array

    array = np.ones(TRIP_BYTES, np.uint8)

    def travel() -> None:
        assert ray.get(echo.remote(array))[-1] == 1

    return rate(travel, 2 * TRIP_BYTES / 1e9)
