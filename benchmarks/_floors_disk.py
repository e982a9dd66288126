"""A floor: plain files of the bytes that the objects' benchmark spills, on the same disk.

Each function gets a Rate, which it does not need, and returns gigabytes (10^9 bytes) a second.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from _disk import chill, folder, warm
from _objects_spilling import OBJECT_BYTES, SPILLED, source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from _timing import Rate

FILE_OBJECTS = 4
"""Objects in one file, as they are spilled together."""


def write_files(_: Rate) -> float:
    return gigabytes_a_second(write)


def read_warm(_: Rate) -> float:
    write()
    warm()
    return gigabytes_a_second(read)


def read_cold(_: Rate) -> float:
    write()
    chill()
    return gigabytes_a_second(read)


def gigabytes_a_second(work: Callable[[], float]) -> float:
    """Return the rate of work that tells how long it took."""
    return SPILLED * OBJECT_BYTES / 1e9 / work()


def paths() -> list[Path]:
    return [folder() / f"plain-{number}" for number in range(SPILLED // FILE_OBJECTS)]


def write() -> float:
    data = source().data
    begin = perf_counter()
    for path in paths():
        with path.open("wb", buffering=0) as file:
            for _ in range(FILE_OBJECTS):
                assert file.write(data) == OBJECT_BYTES
    return perf_counter() - begin


def read() -> float:
    target = source().data
    begin = perf_counter()
    for path in paths():
        with path.open("rb", buffering=0) as file:
            for _ in range(FILE_OBJECTS):
                assert file.readinto(target) == OBJECT_BYTES
    return perf_counter() - begin
