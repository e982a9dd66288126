"""What this machine has: where files are in memory, and where they are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from weft._node.host import disk_root, is_in_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

ON_DISK = str(Path(__file__).parent)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory on tmpfs."""
    if is_in_memory(ON_DISK) or not is_in_memory("/dev/shm"):
        pytest.skip("this needs a tmpfs at /dev/shm, and these tests outside of it")
    place = Path(f"/dev/shm/weft-test-{os.getpid()}")
    place.mkdir()
    yield place
    place.rmdir()


def test_files_of_proc_and_of_no_directory_are_not_in_memory(tmp_path: Path) -> None:
    assert not is_in_memory("/proc")
    assert not is_in_memory(str(tmp_path / "gone"))


def test_what_leaves_memory_goes_to_the_temporary_directory_unless_that_is_in_memory(
    in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_TEMP_DIR", "/proc")
    assert disk_root(ON_DISK) == "/proc"
    monkeypatch.setenv("WEFT_TEMP_DIR", str(in_memory))
    assert disk_root(ON_DISK) == ON_DISK
    # Neither is a directory outside memory that may be written.
    assert disk_root(str(in_memory)) == str(in_memory)
    assert disk_root(f"{ON_DISK}/gone") == str(in_memory)
