"""Files that only their user may read: what holds a token, a key or a join string.

Written whole or not at all. Read only if they are this user's own and closed to everybody else, so
that neither a file that another user has put there is believed, nor one that others could read is
taken for a secret.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from weft.exceptions import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MOST_BYTES = 64 * 1024


def write_private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600, in the place of what was there.

    OSError: there is the old file or the new one, and nothing in between.
    """
    scratch = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        _write(scratch, content)
        scratch.rename(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_private_folder(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Make a folder of mode 0700 with files of mode 0600; tell whether it was not there before.

    One that is there stays as it is: of several processes that do this at once, one makes it.
    OSError: there is the whole folder or none.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.{os.urandom(8).hex()}")
    scratch.mkdir(mode=0o700)
    try:
        for name, content in files.items():
            _write(scratch / name, content)
        _sync(scratch)
        # It fails if there is a folder with anything in it.
        scratch.rename(folder)
    except BaseException as error:
        for name in files:
            (scratch / name).unlink(missing_ok=True)
        scratch.rmdir()
        if isinstance(error, OSError) and folder.is_dir():
            return False
        raise
    _sync(folder.parent)
    return True


def read_private(path: Path, what: str) -> bytes:
    """Return what a private file holds. UsageError: it is none, or cannot be read."""
    try:
        fd = os.open(path, _OLD)
    except OSError as error:
        raise UsageError(f"the {what} cannot be read from {path}: {error.strerror}") from None
    try:
        _check(os.fstat(fd), path, what, is_right_kind=stat.S_ISREG, mode=0o600)
        content = os.read(fd, MOST_BYTES + 1)
    finally:
        os.close(fd)
    if len(content) > MOST_BYTES:
        raise UsageError(f"the {what} in {path} is over {MOST_BYTES} bytes: it is another file")
    return content


def check_private_folder(folder: Path, what: str) -> None:
    """Raise UsageError if others could put something into a folder, or it is no folder."""
    try:
        found = folder.lstat()
    except OSError as error:
        raise UsageError(f"the {what} cannot be read from {folder}: {error.strerror}") from None
    _check(found, folder, what, is_right_kind=stat.S_ISDIR, mode=0o700)


def _check(
    found: os.stat_result, path: Path, what: str, *, is_right_kind: Callable[[int], bool], mode: int
) -> None:
    if not is_right_kind(found.st_mode):
        raise UsageError(f"the {what} cannot be read from {path}: it is another kind of file")
    if found.st_uid != os.geteuid():
        raise UsageError(
            f"the {what} in {path} belongs to user {found.st_uid}, not to {os.geteuid()} who runs "
            "this: it is not believed; give a path of your own"
        )
    if found.st_mode & 0o077:
        raise UsageError(
            f"the {what} in {path} is open to others (mode {stat.S_IMODE(found.st_mode):04o}): "
            f"make a new one if they may have read it, else chmod {mode:o} it"
        )


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, _NEW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def _sync(folder: Path) -> None:
    """Let a file's new name outlast a crash of the machine."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
