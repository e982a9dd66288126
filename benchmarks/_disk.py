"""The files of a measurement, in the page cache or out of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST_BYTES = 1024 * 1024
PIECE_BYTES = 1024 * 1024


def folder() -> Path:
    """Return the measurement's own folder, as _rounds.measure says."""
    return Path(os.environ["WEFT_SPILL"])


def large_files() -> Iterator[Path]:
    """Yield the files that hold objects: all others there are small."""
    for path in folder().rglob("*"):
        if path.is_file() and path.stat().st_size >= LEAST_BYTES:
            yield path


def warm() -> None:
    """Bring all of them into the page cache."""
    for path in large_files():
        with path.open("rb", buffering=0) as file:
            while file.read(PIECE_BYTES):
                pass


def chill() -> None:
    """Have them written, and take them out of the page cache."""
    for path in large_files():
        with path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
