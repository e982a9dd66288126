from __future__ import annotations

import os
from typing import TYPE_CHECKING

from weft._node import sessions

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_directory_that_gets_its_name_while_it_is_looked_at_is_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that starts gives its directory its name when that is locked."""
    (tmp_path / ".session").mkdir()
    with os.scandir(tmp_path) as found:
        entries = list(found)
    (tmp_path / ".session").rename(tmp_path / "session")
    monkeypatch.setattr("os.scandir", lambda root: entries)
    assert sessions.remove_leftovers(str(tmp_path)) == []
    assert (tmp_path / "session").is_dir()
