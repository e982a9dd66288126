"""How a process ended, in words: what a death certificate's numbers and last lines mean.

The exit code alone does not say it: a process that the kernel killed for its memory ended by the
same signal as one that an operator killed, and a stack that overflowed looks like any bad pointer.
The memory it had, and faulthandler's report in what it wrote last, tell them apart.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from weft._lazy import lazy

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
else:
    signal = lazy("signal")

# Plain strings: `re` compiles them at their first use, and keeps them.
_FRAME_LINE = r'^\s*File "(.+)", line (\d+)(?: in (.*))?$'
_NO_MEMORY = (
    r"MemoryError|bad_alloc|[Cc]annot allocate memory|[Oo]ut of memory"
    r"|memory allocation of \d+ bytes failed"
)
_FATAL = r"Fatal Python error|terminate called|[Aa]ssertion|what\(\):"
_NEAR_LIMIT = 0.9


def signal_name(exit_code: int | None) -> str:
    """Return the name of the signal that a negative exit code stands for, else nothing."""
    if exit_code is None or exit_code >= 0:
        return ""
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def describe_exit(
    exit_code: int | None,
    *,
    stderr: str = "",
    peak_bytes: int = 0,
    limit_bytes: int = 0,
    reason: str = "",
) -> tuple[str, str]:
    """Say how a process ended: (kind, words).

    Args:
        exit_code: As of `Popen.returncode`: negative for a signal. None if nobody saw the end.
        stderr: The last that the process wrote; faulthandler's report is recognised in it.
        peak_bytes: Most resident memory it ever had; 0 if unknown.
        limit_bytes: The memory limit that applied; 0 if there is none.
        reason: Why Weft ended it, if Weft did.

    Returns:
        One of the kinds that WorkerDiedError lists, and a clause without a full stop.
    """
    memory = _memory(peak_bytes, limit_bytes)
    if reason:
        if reason.startswith("memory"):
            return "memory", f"Weft ended it: {reason}"
        return "ended", f"Weft ended it: {reason}{memory}"
    if exit_code is None:
        return "parent gone", "nobody saw how: the process that started it is gone"
    name = signal_name(exit_code)
    no_memory = _last(stderr, _NO_MEMORY)
    is_near = limit_bytes > 0 and peak_bytes >= _NEAR_LIMIT * limit_bytes
    match name:
        case "SIGKILL" if is_near or no_memory:
            return "memory", f"out of memory, killed by the system (SIGKILL){memory}"
        case "SIGKILL":
            return "killed", f"killed from outside (SIGKILL){memory}"
        case "SIGSEGV" | "SIGBUS" | "SIGABRT" if _is_overflow(stderr):
            return "stack overflow", f"stack overflow ({name}): recursion too deep{_where(stderr)}"
        case "SIGSEGV" | "SIGABRT" | "SIGBUS" if no_memory:
            return "memory", f"out of memory ({name}): {no_memory}{memory}"
        case "SIGSEGV":
            # faulthandler reports on a stack of its own, which the interpreter gives to the main
            # thread only: a thread whose stack is used up dies without a word.
            silent = (
                "" if _last(stderr, _FATAL) else ", unreported: often a thread's stack overflow"
            )
            return "segfault", f"segmentation fault (SIGSEGV){_where(stderr)}{silent}"
        case "SIGABRT":
            fatal = _last(stderr, _FATAL)
            said = f": {fatal}" if fatal and not fatal.endswith("Aborted") else ""
            return "aborted", f"aborted (SIGABRT){said}{_where(stderr)}"
        case "SIGBUS":
            return "bus error", f"bus error (SIGBUS): often a full /dev/shm{_where(stderr)}"
        case "":
            if exit_code and no_memory:
                return "memory", f"out of memory: exit code {exit_code}, {no_memory}{memory}"
            if exit_code and "Traceback (most recent call last)" in stderr:
                return "exited", f"it left with exit code {exit_code}: {_last(stderr, '.')}"
            return "exited", f"it left with exit code {exit_code} (os._exit, or C code that exits)"
        case _:
            return "signal", f"ended by {name}{memory}"


def _memory(peak_bytes: int, limit_bytes: int) -> str:
    if not peak_bytes:
        return ""
    limit = f" of {amount(limit_bytes)} allowed" if limit_bytes else ""
    return f", memory at most {amount(peak_bytes)}{limit}"


def amount(size_bytes: int) -> str:
    """Return a number of bytes for a reader: `3.9 GiB`."""
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _last(text: str, pattern: str) -> str:
    """Return the last line in which the pattern is found, shortened."""
    for line in reversed(text.splitlines()):
        if re.search(pattern, line):
            return line.strip()[:200]
    return ""


def _crash_frames(stderr: str) -> Iterator[re.Match[str]]:
    """Yield the frames that faulthandler printed for the thread that crashed, innermost first."""
    _, found, report = stderr.rpartition("Current thread ")
    for line in (report if found else stderr).splitlines()[1 if found else 0 :]:
        if frame := re.match(_FRAME_LINE, line):
            yield frame
        elif found and not line.strip():
            return


def _is_overflow(stderr: str) -> bool:
    if "stack overflow" in stderr or "Cannot recover from stack overflow" in stderr:
        return True
    # faulthandler prints the innermost hundred frames: few functions over and over recurse.
    functions = [(frame[1], frame[3]) for frame in _crash_frames(stderr)]
    return len(functions) >= 50 and len(set(functions)) <= len(functions) // 5


def _where(stderr: str) -> str:
    frame = next(_crash_frames(stderr), None)
    return f", in {frame[3] or '?'} at {frame[1]}:{frame[2]}" if frame else ""
