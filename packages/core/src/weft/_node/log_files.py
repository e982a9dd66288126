"""Log files as they are read: by who asks, if the files are here, else by their node's daemon.

    logs/NAME.1, logs/NAME    what was written before, and what is written to (logs.py)
    daemon.log                the daemon's own

A reader has a place, the file and how far it was read, so that who answers keeps nothing. When the
daemon has begun another file in between, the rest of the old one comes first.

What is always true
1. Of a file that is only appended to and turned once between two looks, every byte is read once.
2. No more than `PART_BYTES` are read at a time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from weft._launch import LOG_FILE, LOGS

if TYPE_CHECKING:
    from typing import BinaryIO

PART_BYTES = 16 * 1024 * 1024


class LogPlace(NamedTuple):
    """How far a log was read."""

    file: int = 0
    """The number that the file system knows the file by; 0: there was none."""
    offset: int = 0


class LogPart(NamedTuple):
    """A part of a log."""

    data: bytes
    place: LogPlace
    """Behind it."""


def path_of(session_dir: str, name: str) -> Path | None:
    """Return the path of a log file; None: there is none of this name."""
    if name == LOG_FILE:
        return Path(session_dir, LOG_FILE)
    path = Path(session_dir, LOGS, name)
    return path if path.name == name and name.startswith("worker-") else None


def sizes(session_dir: str) -> dict[str, int]:
    """Return how large each log file is, by name."""
    directory = Path(session_dir, LOGS)
    found = sorted(os.scandir(directory), key=lambda file: file.name) if directory.is_dir() else []
    return {
        LOG_FILE: Path(session_dir, LOG_FILE).stat().st_size,
        **{file.name: file.stat().st_size for file in found},
    }


def read_tail(path: Path, lines: int) -> LogPart:
    """Return the last lines of a log; -1: all that there are."""
    before, file = _open(path.with_name(f"{path.name}.1")), _open(path)
    whole, place = b"", LogPlace()
    # The daemon may have begun another one in this moment.
    if before is not None and (file is None or _number(before) != _number(file)):
        whole, _ = _read_end(before)
    if file is not None:
        data, place = _read_end(file)
        whole += data
    for each in (before, file):
        if each is not None:
            each.close()
    if lines >= 0:
        whole = b"".join(whole.splitlines(keepends=True)[-lines:]) if lines else b""
    return LogPart(whole, place)


def read_more(path: Path, place: LogPlace) -> LogPart:
    """Return what is behind a place, and maybe not all of it."""
    file = _open(path)
    if file is None:
        return LogPart(b"", place)
    with file:
        if _number(file) == place.file:
            return _read_from(file, place.offset)
        before = _open(path.with_name(f"{path.name}.1"))
        if before is not None:
            with before:
                if _number(before) == place.file:
                    rest = _read_from(before, place.offset)
                    if rest.data:
                        return rest
        return _read_from(file, 0)


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except OSError:
        return None


def _number(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_ino


def _read_from(file: BinaryIO, offset: int) -> LogPart:
    file.seek(offset)
    data = file.read(PART_BYTES)
    return LogPart(data, LogPlace(_number(file), offset + len(data)))


def _read_end(file: BinaryIO) -> LogPart:
    size_bytes = os.fstat(file.fileno()).st_size
    return _read_from(file, max(0, size_bytes - PART_BYTES))
