"""What of a disk is for objects."""

from __future__ import annotations

import os

from weft._node.memory import disk_room

GIB = 1 << 30


def disk(size_gib: int, free_gib: int) -> os.statvfs_result:
    block = 4096
    blocks, free = size_gib * GIB // block, free_gib * GIB // block
    return os.statvfs_result((block, block, blocks, free, free, 0, 0, 0, 0, 255))


def test_a_twentieth_of_a_small_disk_is_kept_for_others() -> None:
    assert disk_room(disk(20, 5)) == (4 * GIB, 1 * GIB)


def test_no_more_of_a_large_disk_is_kept_than_others_need() -> None:
    assert disk_room(disk(10_000, 400)) == (398 * GIB, 2 * GIB)


def test_there_is_no_room_where_only_that_is_left_which_is_kept() -> None:
    assert disk_room(disk(20, 1)) == (0, 1 * GIB)
