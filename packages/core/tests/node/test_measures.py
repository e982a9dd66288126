from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from weft._node.measures import of_process, of_store

if TYPE_CHECKING:
    from pathlib import Path


class Numbers(NamedTuple):
    used_bytes: int
    spare_bytes: int
    spilled_bytes: int


def store(directory: Path) -> dict[str, float]:
    return {
        one.declaration.name: one.numbers_of[()][0]
        for one in of_store(str(directory), Numbers(3, 2, 1))
    }


def test_memory_of_the_store_is_what_its_files_take(tmp_path: Path) -> None:
    assert store(tmp_path)["weft_store_memory_bytes"] == 0
    (tmp_path / "full").write_bytes(b"x" * 100_000)
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 30)
    assert 100_000 <= store(tmp_path)["weft_store_memory_bytes"] < 1 << 20


def test_what_the_index_knows_is_told_and_a_directory_that_is_gone_takes_nothing(
    tmp_path: Path,
) -> None:
    assert store(tmp_path / "gone") == {
        "weft_store_memory_bytes": 0.0,
        "weft_store_used_bytes": 3.0,
        "weft_store_spare_bytes": 2.0,
        "weft_store_spilled_bytes": 1.0,
    }


def test_process_is_seen_from_outside_and_not_when_it_is_gone() -> None:
    seen = {one.declaration.name: one.numbers_of for one in of_process("driver", os.getpid())}
    assert seen["weft_process_resident_memory_bytes"][("driver",)][0] > 1 << 20
    assert seen["weft_process_cpu_seconds_total"][("driver",)][0] > 0
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    assert of_process("worker", pid) == []
