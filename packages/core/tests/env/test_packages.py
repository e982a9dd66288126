from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from weft._env.packages import Installer, _locked
from weft._override import override

if TYPE_CHECKING:
    from pathlib import Path


class Rival(Installer):
    """Somebody who has the lock, and gives it up when another one begins to wait."""

    def __init__(self, path: Path) -> None:
        super().__init__(20.0, {})
        self.waits = 0
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    @override
    def wait(self, fds: set[int], limit_s: float = 60.0) -> set[int]:
        self.waits += 1
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return super().wait(fds, limit_s)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._daemon)


def test_builder_waits_for_the_lock_of_another_one_without_looking_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    rival = Rival(path)
    with _locked(str(path), rival):
        assert rival.waits == 1
        with pytest.raises(BlockingIOError):
            fcntl.flock(rival.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(rival.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    rival.close()


def test_lock_that_is_free_is_taken_at_once(tmp_path: Path) -> None:
    rival = Rival(tmp_path / "other")
    with _locked(str(tmp_path / "lock"), rival):
        assert rival.waits == 0
    rival.close()
