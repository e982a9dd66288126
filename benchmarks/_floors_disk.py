"""A floor: plain files of the bytes that the objects' benchmark spills, on the same disk.

Each function gets a Rate, which it does not need, and returns gigabytes (10^9 bytes) a second.
"""

from __future__ import annotations

import mmap
import os
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
    return gigabytes_a_second(lambda: write(source().data))


def write_direct(_: Rate) -> float:
    """What the disk itself takes: past the page cache."""
    # Direct writes take whole pages only, which begin where a page does.
    with mmap.mmap(-1, OBJECT_BYTES) as data:
        data.write(source().data)
        return gigabytes_a_second(lambda: write(data, os.O_DIRECT))


def read_warm(_: Rate) -> float:
    write(source().data)
    warm()
    return gigabytes_a_second(read)


def read_cold(_: Rate) -> float:
    write(source().data)
    chill()
    return gigabytes_a_second(read)


def gigabytes_a_second(work: Callable[[], float]) -> float:
    """Return the rate of work that tells how long it took."""
    return SPILLED * OBJECT_BYTES / 1e9 / work()


def paths() -> list[Path]:
    return [folder() / f"plain-{number}" for number in range(SPILLED // FILE_OBJECTS)]


def write(data: mmap.mmap | memoryview, flags: int = 0) -> float:
    begin = perf_counter()
    for path in paths():
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags)
        for _ in range(FILE_OBJECTS):
            assert os.write(fd, data) == OBJECT_BYTES
        os.close(fd)
    return perf_counter() - begin


def read() -> float:
    target = source().data
    begin = perf_counter()
    for path in paths():
        with path.open("rb", buffering=0) as file:
            for _ in range(FILE_OBJECTS):
                assert file.readinto(target) == OBJECT_BYTES
    return perf_counter() - begin
