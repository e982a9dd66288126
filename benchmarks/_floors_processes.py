"""A floor: processes without a framework.

Each function gets a Rate and returns one number. numpy stays out: bare interpreters are measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from _memory import shared_out_bytes, tree_megabytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from _timing import Rate

IN_FLIGHT = 1000
CHILDREN = 20
REPEATS = 5


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; return its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def small() -> bytes:
    return b"ok"


def process_pool(rate: Rate) -> float:
    """The standard library's ProcessPoolExecutor with two workers, 1,000 tasks in flight."""
    with ProcessPoolExecutor(2) as pool:

        def run() -> None:
            for future in [pool.submit(small) for _ in range(IN_FLIGHT)]:
                future.result()

        return rate(run, IN_FLIGHT)


def seconds_of(work: Callable[[], object]) -> float:
    """Return the median time of a few runs in seconds."""
    taken = []
    for _ in range(REPEATS):
        begin = perf_counter()
        work()
        taken.append(perf_counter() - begin)
    return median(taken)


def python_start(_: Rate) -> float:
    return seconds_of(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))


def python_end(_: Rate) -> float:
    """Seconds from SIGTERM to the end of an interpreter."""
    taken = []
    for _repeat in range(REPEATS):
        with idle_python() as process:
            begin = perf_counter()
            process.terminate()
            process.wait()
            taken.append(perf_counter() - begin)
    return median(taken)


def idle_python() -> subprocess.Popen[bytes]:
    """Start an interpreter that says it is there and then waits for its input."""
    program = "import sys; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def fork_children(_: Rate) -> float:
    """Seconds to fork 20 children of which each says that it is there."""

    def run() -> None:
        reading, writing = os.pipe()
        pids = [fork(lambda: os.write(writing, b".")) for _ in range(CHILDREN)]
        missing = CHILDREN
        while missing:
            missing -= len(os.read(reading, CHILDREN))
        for pid in pids:
            os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)

    return seconds_of(run)


def one_python_megabytes(_: Rate) -> float:
    with idle_python() as process:
        used = shared_out_bytes(process.pid) / 1e6
        process.terminate()
    return used


def forked_megabytes(_: Rate) -> float:
    """An interpreter and 20 forked children that do nothing."""
    reading, writing = os.pipe()

    def wait_for_the_end() -> None:
        os.close(writing)
        os.read(reading, 1)

    pids = [fork(wait_for_the_end) for _ in range(CHILDREN)]
    used = tree_megabytes()
    os.close(writing)
    for pid in pids:
        os.waitpid(pid, 0)
    os.close(reading)
    return used
