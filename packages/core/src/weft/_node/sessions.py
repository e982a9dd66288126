"""The directories of sessions: those of dead ones are removed.

One that was given another place has a link among the others, by which it is found.

A directory belongs to a living session exactly while its lock is held (_launch.py). One that is
about to appear has a name that begins with a dot; it is a leftover if it is still called so after
`UNBORN_S`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from weft._clock import wall
from weft._launch import LOCK, session_root

if TYPE_CHECKING:
    from collections.abc import Callable

UNBORN_S = 60.0


def remove_tree(path: str) -> None:
    """Remove a directory and all in it, or a link; what cannot be removed stays."""
    if Path(path).is_symlink():
        _try(os.unlink, path)
        return
    for place, directories, files in os.walk(path, topdown=False):
        for name in files:
            _try(os.unlink, f"{place}/{name}")
        for name in directories:
            below = f"{place}/{name}"
            _try(os.unlink if Path(below).is_symlink() else os.rmdir, below)
    _try(os.rmdir, path)


def remove_session(directory: str) -> None:
    """Remove a session's directory, and the link by which it is found if it is elsewhere."""
    remove_tree(directory)
    link = Path(session_root(), Path(directory).name)
    if link.is_symlink():
        _try(os.unlink, str(link))


def remove_leftovers(root: str) -> list[str]:
    """Remove the directories under `root` whose sessions are dead; return them."""
    found = leftovers(root)
    for path in found:
        remove_tree(path)
    return found


def remove_links() -> None:
    """Remove the links of dead sessions that were elsewhere."""
    root = session_root()
    for path in leftovers(root) if Path(root).is_dir() else ():
        if Path(path).is_symlink():
            remove_tree(path)


def leftovers(root: str) -> list[str]:
    """Return the directories under `root` whose sessions are dead."""
    return [
        entry.path
        for entry in os.scandir(root)
        if (entry.is_symlink() or entry.is_dir()) and _is_leftover(entry)
    ]


def living(root: str) -> list[str]:
    """Return the directories under `root` of sessions that are alive, the oldest first."""
    try:
        found = sorted(Path(root).iterdir())
    except FileNotFoundError:
        return []
    return [
        str(path)
        for path in found
        if not path.name.startswith(".") and path.is_dir() and not _is_unlocked(str(path))
    ]


def _is_leftover(entry: os.DirEntry[str]) -> bool:
    if not entry.name.startswith("."):
        return _is_unlocked(entry.path)
    try:
        return wall() - entry.stat().st_mtime > UNBORN_S
    except FileNotFoundError:
        return False  # It has got its name meanwhile.


def _is_unlocked(directory: str) -> bool:
    try:
        fd = os.open(f"{directory}/{LOCK}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def _try(remove: Callable[[str], None], path: str) -> None:
    with contextlib.suppress(OSError):
        remove(path)
