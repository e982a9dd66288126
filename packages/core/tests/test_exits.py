"""How the end of a process is told, of its exit code, its memory and its last lines."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from weft._exits import describe_exit
from weft.exceptions import OutOfMemoryError, WorkerDiedError


@pytest.mark.parametrize(
    ("facts", "kind", "words"),
    [
        ({"exit_code": -9}, "killed", "SIGKILL"),
        ({"exit_code": -9, "peak_bytes": 95, "limit_bytes": 100}, "memory", "95 bytes of 100"),
        ({"exit_code": -9, "peak_bytes": 5, "limit_bytes": 100}, "killed", "5 bytes of 100 bytes"),
        ({"exit_code": -11}, "segfault", "(SIGSEGV), unreported: often a thread's stack"),
        ({"exit_code": -7}, "bus error", "/dev/shm"),
        ({"exit_code": -6}, "aborted", "SIGABRT"),
        ({"exit_code": -6, "stderr": "what():  std::bad_alloc"}, "memory", "bad_alloc"),
        ({"exit_code": -15}, "signal", "SIGTERM"),
        ({"exit_code": 3}, "exited", "exit code 3"),
        ({"exit_code": 0}, "exited", "exit code 0"),
        ({"exit_code": None}, "parent gone", "nobody saw"),
        ({"exit_code": -9, "reason": "it ran past its timeout"}, "ended", "past its timeout"),
        ({"exit_code": -9, "reason": "memory of the node ran out"}, "memory", "ran out"),
    ],
)  # fmt: skip
def test_a_death_is_described(facts: dict[str, Any], kind: str, words: str) -> None:
    found, text = describe_exit(**facts)
    assert found == kind
    assert words in text
    error = WorkerDiedError.from_certificate(pid=7, function="f", **facts)
    assert isinstance(error, OutOfMemoryError) == (kind == "memory")
    assert str(error).startswith("worker 7 died while it ran f: ")
    assert words in str(error)


def test_numbers_that_a_reason_tells_are_not_told_twice() -> None:
    reason = "memory ran out: it held 95 bytes, with 99 bytes of 100 bytes in use"
    _, text = describe_exit(exit_code=-9, reason=reason, peak_bytes=96, limit_bytes=100)
    assert text == f"Weft ended it: {reason}"


def test_stderr_goes_into_a_note_of_five_lines() -> None:
    error = WorkerDiedError(exit_code=1, stderr="\n".join(str(line) for line in range(30)))
    assert error.__notes__ == ["  it wrote last:\n    25\n    26\n    27\n    28\n    29"]
    assert "\n" not in str(error)


HEAD = "import faulthandler, os, sys, ctypes, threading, resource, signal; faulthandler.enable()\n"
NULL = "ctypes.string_at(0)"
DEATHS = {
    "SIGKILL": ("def work(): os.kill(os.getpid(), signal.SIGKILL)", "killed", "SIGKILL"),
    "SIGSEGV": (f"def work(): {NULL}", "segfault", "in string_at"),
    "os._exit": ("def work(): os._exit(3)", "exited", "exit code 3"),
    "abort": ("def work(): os.abort()", "aborted", "SIGABRT"),
    "stack overflow": (
        """
        def work():
            sys.setrecursionlimit(10**9)
            resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))
            dive(1)
        def dive(x): return sorted([x, x], key=dive)
        """,
        "stack overflow",
        "recursion too deep",
    ),
    "out of memory": (
        """
        def work():
            resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
            kept = bytearray(1 << 30)
        """,
        "memory",
        "MemoryError",
    ),
    "thread crash": (
        f"""
        def crash(): {NULL}
        def work():
            thread = threading.Thread(target=crash); thread.start(); thread.join()
        """,
        "segfault",
        "in string_at",
    ),
    "parent gone": ("def work(): pass", "parent gone", "nobody saw"),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", DEATHS)
def test_eight_ways_to_die_are_told_apart(way: str) -> None:
    program, kind, words = DEATHS[way]
    done = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(program) + "\nwork()"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )
    tail = "\n".join(done.stderr.splitlines()[-120:])
    code = None if way == "parent gone" else done.returncode
    found, text = describe_exit(code, stderr=tail)
    assert (found, words in text) == (kind, True), (text, done.returncode, tail[-2000:])
    if code is not None and code < 0:
        assert signal.Signals(-code).name in text
