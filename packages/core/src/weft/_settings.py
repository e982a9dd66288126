"""Every environment variable of Weft: the only reader of `os.environ` for settings.

Each is read when it is asked for, so a test or a program may set it before `init`. A value that
cannot be understood raises ValueError with the variable's name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Setting(NamedTuple, Generic[T]):
    """One environment variable."""

    name: str
    parse: Callable[[str], T]
    default: T
    text: str
    """What it means, with its unit, in one sentence."""

    def value(self) -> T:
        """Return what the environment says, or the default."""
        raw = os.environ.get(self.name, "")
        if not raw:
            return self.default
        try:
            return self.parse(raw)
        except ValueError as error:
            raise ValueError(f"{self.name}={raw!r}: {error} ({self.text})") from None


def _parse_bool(raw: str) -> bool:
    try:
        return {"1": True, "true": True, "0": False, "false": False}[raw.lower()]
    except KeyError:
        raise ValueError("expected 1, true, 0 or false") from None


def _parse_size(raw: str) -> int:
    number = int(raw)
    if number < 65536:
        raise ValueError("expected 65536 or more")
    return number


TEMP_DIR = Setting(
    "WEFT_TEMP_DIR",
    str,
    "",
    "Directory that holds the session directories; default TMPDIR or /tmp.",
)
ADDRESS = Setting(
    "WEFT_ADDRESS",
    str,
    "",
    "Which node or session programs and commands join that do not say: auto, a join string, a "
    "session's name or directory.",
)
STORE_ROOT = Setting(
    "WEFT_STORE_ROOT",
    str,
    "/dev/shm",  # noqa: S108
    "Directory that holds the segments of large objects.",
)
SPILL = Setting(
    "WEFT_SPILL",
    str,
    "",
    "Directory, or URL for fsspec, that objects go to when memory is short; default: the temporary "
    "directory, or /var/tmp if that is in memory.",
)
MEMORY_LIMIT = Setting(
    "WEFT_MEMORY_LIMIT",
    _parse_size,
    0,
    "Bytes of memory that a node's workers and shared memory may take together; default: what the "
    "machine and its cgroup allow.",
)
CHECK = Setting(
    "WEFT_CHECK",
    _parse_bool,
    False,
    "Check the invariants of every machine after every event (slow).",
)
IDLE_WORKERS = Setting(
    "WEFT_IDLE_WORKERS", int, -1, "Idle workers that a node keeps ready; -1: one a CPU."
)
CAPSULES = Setting(
    "WEFT_CAPSULES",
    str,
    "",
    "Directory that gets a file for each task that fails, for `weft replay`; default none.",
)
CAPSULE_BYTES = Setting(
    "WEFT_CAPSULE_BYTES",
    _parse_size,
    1_000_000,
    "Most bytes of one such file; larger arguments are left out.",
)
CAPSULES_KEPT = Setting(
    "WEFT_CAPSULES_KEPT",
    int,
    200,
    "So many such files in the directory, and no more are written.",
)


def _parse_port(raw: str) -> int:
    port = int(raw)
    if not 0 <= port <= 65535:
        raise ValueError("a port is at most 65535")
    return port


METRICS_PORT = Setting(
    "WEFT_METRICS_PORT", _parse_port, 0, "TCP port that tells metrics; 0: none, only the socket."
)
METRICS_HOST = Setting(
    "WEFT_METRICS_HOST",
    str,
    "127.0.0.1",
    "Address that the port of metrics is opened at; whoever reaches it can read them.",
)
LINEAGE = Setting(
    "WEFT_LINEAGE_BYTES",
    int,
    256 * 1024 * 1024,
    "How much a process keeps of how to make lost objects again; the oldest is forgotten first.",
)


def _parse_events(raw: str) -> int:
    events = int(raw)
    if not 0 <= events <= 10_000_000:
        raise ValueError("expected 0 to 10,000,000")
    return events


TASK_EVENTS = Setting(
    "WEFT_TASK_EVENTS",
    _parse_events,
    1_000_000,
    "Tasks that have ended of which a node keeps a record, the newest; each takes some 50 bytes.",
)


def _parse_patience(raw: str) -> float:
    seconds = float(raw)
    if not 0 <= seconds < float("inf"):
        raise ValueError("expected seconds, from 0 up")
    return seconds


HEAD_PATIENCE = Setting(
    "WEFT_HEAD_PATIENCE_S",
    _parse_patience,
    600.0,
    "Seconds that a node waits for a head that does not answer, before it ends; 0: for ever.",
)
WORKING_DIR = Setting(
    "WEFT_WORKING_DIR_BYTES",
    _parse_size,
    512 * 1024 * 1024,
    "Most bytes of a directory or an archive that a runtime environment names, since other nodes "
    "fetch it.",
)

SETTINGS: tuple[Setting[str] | Setting[bool] | Setting[int] | Setting[float], ...] = (
    ADDRESS,
    TEMP_DIR,
    STORE_ROOT,
    SPILL,
    MEMORY_LIMIT,
    CHECK,
    IDLE_WORKERS,
    METRICS_PORT,
    METRICS_HOST,
    CAPSULES,
    CAPSULE_BYTES,
    CAPSULES_KEPT,
    LINEAGE,
    TASK_EVENTS,
    HEAD_PATIENCE,
    WORKING_DIR,
)


def temp_root() -> str:
    """Return the directory for session directories."""
    return TEMP_DIR.value() or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108


OMP_THREADS = "OMP_NUM_THREADS"
"""How many threads the numerical libraries of a process use. Not Weft's own: workers set it."""


def are_threads_set() -> bool:
    """Tell whether the user has said how many threads numerical libraries use."""
    return bool(os.environ.get(OMP_THREADS))


def set_threads(threads: int) -> None:
    """Let numerical libraries that are loaded from here on use so many threads."""
    os.environ[OMP_THREADS] = str(max(1, threads))


def for_children() -> dict[str, str]:
    """Return the environment for a process of ours, which may run in another directory."""
    variables = dict(os.environ)
    if directory := CAPSULES.value():
        variables[CAPSULES.name] = os.path.abspath(directory)  # noqa: PTH100 - no other path here
    return variables
