"""Measurements in fresh processes, interleaved: what disturbs the machine disturbs all alike."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from _memory import adopt_orphans, descendants

FOLDER = Path(__file__).parent
LIMIT_S = 120.0
QUIET = {
    # No reports to Ray's makers from a benchmark, and no warning about how GPUs are hidden.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Program:
    """A function that returns one number, and how to call it: see _child.py."""

    module: str
    function: str
    system: str
    cpus: int = 0


@dataclass
class Numbers:
    """What one program gave, round by round."""

    values: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        return median(self.values) if self.values else None

    def add(self, found: float | str) -> None:
        """Keep a number, or why there is none."""
        if isinstance(found, str):
            self.failures.append(found)
        else:
            self.values.append(found)


def measure(program: Program, seconds: float) -> float | str:
    """Run a program in a process of its own; return its number, or why there is none."""
    found, how = answer_of(program, seconds)
    return how if found is None else float(found)


def answer_of(program: Program, seconds: float) -> tuple[str | None, str]:
    """Run a program in a process of its own; return what it wrote, if it did, and how it ended."""
    # Short, whatever TMPDIR says: Ray puts unix sockets deep below, and hangs where their paths
    # are over 107 bytes.
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder:
        file = Path(folder) / "number"
        command = [
            sys.executable, str(FOLDER / "_child.py"), program.module, program.function,
            program.system, str(program.cpus), str(seconds), str(file),
        ]  # fmt: skip
        # Both spill to it.
        environment = {**os.environ, **QUIET, "RAY_TMPDIR": folder, "WEFT_SPILL": folder}
        # Not a pipe: that would stay open as long as a process that is left behind.
        with (Path(folder) / "said").open("w+") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
            try:
                process.wait(LIMIT_S)
                how = f"exit code {process.returncode}"
            except subprocess.TimeoutExpired:
                how = f"no number after {LIMIT_S:g} s"
            finally:
                process.kill()
                process.wait()
                end_below()
            said.seek(0)
            how = f"{how}: {last_line(said.read())}"
        return file.read_text() if file.exists() else None, how


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def end_below() -> None:
    """Kill every process below this one: what a measurement has left behind."""
    while pids := descendants(os.getpid()):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            continue


def run_rounds(
    programs: list[list[Program]], *, rounds: int, seconds: float
) -> dict[Program, Numbers]:
    """Measure everything in each round.

    Args:
        programs: Groups of programs to compare: those of a group run one after the other, and in
            every second round the other way round.
        rounds: How many.
        seconds: How long a program measures a rate.
    """
    adopt_orphans()
    numbers = {program: Numbers() for group in programs for program in group}
    for number in range(rounds):
        for group in programs:
            for program in group if number % 2 == 0 else reversed(group):
                found = measure(program, seconds)
                numbers[program].add(found)
                shown = found if isinstance(found, str) else f"{found:.6g}"
                print(
                    f"round {number + 1}  {program.system:5} {program.function:28} {shown}",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
    return numbers
