"""What workers wrote, in files of the session's directory.

    logs/worker-<id>.out, .err        what the worker wrote, the newest `FILE_BYTES` at least
    logs/worker-<id>.out.1, .err.1    what was before that

What is always true
1. All files together have at most `TOTAL_BYTES`. Those that nobody writes to any more go first,
   the oldest of them before the others; a file that is full is closed, and another begins. Of
   those there are at most `FILES`.
2. A file that cannot be written (the disk is full) keeps nobody from his work: what would have
   been written is not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from weft._launch import LOGS

FILE_BYTES = 4 * 1024 * 1024
TOTAL_BYTES = 64 * 1024 * 1024
FILES = 2000


class WorkerLogs:
    """The log files of a node's workers."""

    def __init__(self, session_dir: str) -> None:
        self._directory = Path(session_dir, LOGS)
        self._size_of: dict[str, int] = {}
        """Of files that are written to."""
        self._closed: OrderedDict[str, int] = OrderedDict()
        """Of the others, the oldest first."""
        self._total_bytes = 0

    def write(self, worker: bytes, data: bytes, *, is_stderr: bool) -> None:
        """Append what a worker has written."""
        name = names_of(worker)[is_stderr]
        if name in self._closed:
            # It has left a child behind, which writes on.
            self._size_of[name] = self._closed.pop(name)
        elif self._size_of.get(name, 0) + len(data) > FILE_BYTES:
            self._turn(name)
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            with (self._directory / name).open("ab") as file:
                file.write(data)
        except OSError:
            return
        self._size_of[name] = self._size_of.get(name, 0) + len(data)
        self._total_bytes += len(data)
        self._make_room()

    def _turn(self, name: str) -> None:
        """Begin a file anew; what was in it is the one before."""
        if name not in self._size_of:
            return
        before = f"{name}.1"
        self._remove(before)
        (self._directory / name).replace(self._directory / before)
        self._closed[before] = self._size_of.pop(name)

    def _make_room(self) -> None:
        while self._total_bytes > TOTAL_BYTES:
            if not self._closed:
                self._turn(max(self._size_of, key=self._size_of.__getitem__))
            self._remove(next(iter(self._closed)))

    def _remove(self, name: str) -> None:
        size_bytes = self._closed.pop(name, None)
        if size_bytes is not None:
            self._total_bytes -= size_bytes
            (self._directory / name).unlink(missing_ok=True)

    def ended(self, worker: bytes) -> None:
        """A worker has ended, and all that it wrote is here."""
        for name in names_of(worker):
            if name in self._size_of:
                self._closed[name] = self._size_of.pop(name)
        while len(self._closed) > FILES:
            self._remove(next(iter(self._closed)))


def names_of(worker: bytes) -> tuple[str, str]:
    """Return the names of the files of a worker's stdout and stderr."""
    return f"worker-{worker.hex()}.out", f"worker-{worker.hex()}.err"
