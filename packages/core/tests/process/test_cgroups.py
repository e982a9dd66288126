"""Sessions in a cgroup whose limit the kernel keeps: they find it, and nothing is killed by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest

from weft._node.host import cgroup_dirs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

MB = 1 << 20


class Container:
    """A directory of the memory controller, below that of this process or beside it."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def run(self, program: str, limit_bytes: int) -> subprocess.CompletedProcess[str]:
        """Run a program with so much memory, from its first instruction on."""
        is_second = (self.place / "memory.max").exists()
        name = "memory.max" if is_second else "memory.limit_in_bytes"
        (self.place / name).write_text(str(limit_bytes))
        enter = 'echo $$ > "$0" && exec "$@"'
        return subprocess.run(
            ["sh", "-c", enter, self.place / "cgroup.procs", sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    @property
    def kills(self) -> int:
        """How many processes the kernel has killed because they took more."""
        is_second = (self.place / "memory.events").exists()
        table = self.place / ("memory.events" if is_second else "memory.oom_control")
        return int(dict(line.split() for line in table.read_text().splitlines())["oom_kill"])

    def remove(self) -> list[int]:
        """End it; return who was still in it after a while."""
        procs = self.place / "cgroup.procs"
        until = time.monotonic() + 5
        while (pids := procs.read_text().split()) and time.monotonic() < until:
            time.sleep(0.02)
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        while procs.read_text():
            time.sleep(0.02)
        self.place.rmdir()
        return [int(pid) for pid in pids]


def parent() -> Path:
    """Return the nearest directory whose subdirectories can have a limit, or skip the test."""
    for place in cgroup_dirs("memory"):
        if (place / "memory.limit_in_bytes").exists():
            return place  # Version 1: each can.
        handed_on = place / "cgroup.subtree_control"
        if handed_on.exists() and "memory" in handed_on.read_text().split():
            return place
    pytest.skip("no cgroup of this process hands on the memory controller")


@pytest.fixture
def container() -> Iterator[Container]:
    """A cgroup of one's own."""
    place = parent() / f"weft-test-{os.getpid()}"
    try:
        place.mkdir()
    except OSError as error:
        pytest.skip(f"this user may make no cgroup: {error}")
    made = Container(place)
    yield made
    assert made.remove() == []


def test_the_kernel_kills_who_takes_more_than_a_cgroup_has(container: Container) -> None:
    ended = container.run("bytearray(b'x') * (300 << 20)", 100 * MB)
    assert ended.returncode == -signal.SIGKILL
    assert container.kills == 1


TELL = """
    from prometheus_client import parser
    from weft.util.metrics import export

    def told():
        found = {}
        for family in parser.text_string_to_metric_families(export()):
            for sample in family.samples:
                tags = sample.labels.values()
                found[" ".join([sample.name.removeprefix("weft_"), *tags])] = sample.value
        return found
"""


def told_by(container: Container, program: str, limit_bytes: int) -> dict[str, Any]:
    """Run a program that prints what it was told; return that, and the lines that it wrote."""
    text = textwrap.dedent(TELL) + textwrap.dedent(program)
    ended = container.run(text, limit_bytes)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return {**found, "lines": ended.stderr.splitlines()}


JOB = """
    import json, time
    import weft

    @weft.remote
    def work(index):
        kept = []
        for _ in range(60):
            kept.append(bytearray(5 << 20))
            time.sleep(0.02)
        time.sleep(0.2)
        return index

    weft.init(num_cpus=6)
    assert weft.get([work.remote(index) for index in range(12)]) == list(range(12))
    print(json.dumps(told()))
    weft.shutdown()
"""


def test_a_job_that_needs_three_times_a_cgroups_memory_ends_without_a_kernel_kill(
    container: Container,
) -> None:
    told = told_by(container, JOB, 600 * MB)
    assert container.kills == 0
    assert told[f"memory_limit_bytes cgroup {container.place}"] == 600 * MB
    assert told["governor_steps_total paused"] > 0
    assert told["governor_steps_total ended"] == 0
    assert any(f"of 600.0 MiB in use (cgroup {container.place})" in line for line in told["lines"])


OBJECTS = """
    import json, time
    import weft

    @weft.remote
    def work(megabytes):
        kept = []
        for _ in range(megabytes // 5):
            kept.append(bytearray(5 << 20))
            time.sleep(0.02)
        return megabytes

    weft.init(num_cpus=2, object_store_memory=400 << 20)
    refs = [weft.put(bytes([index]) * (30 << 20)) for index in range(10)]
    assert weft.get(work.remote(400)) == 400
    found = told()
    for index, ref in enumerate(refs):
        value = weft.get(ref)
        assert (len(value), value[0]) == (30 << 20, index)
        del value
    print(json.dumps(found))
    weft.shutdown()
"""


def test_shared_memory_is_a_cgroups_too_and_goes_to_disk_when_a_task_needs_it(
    container: Container,
) -> None:
    told = told_by(container, OBJECTS, 650 * MB)
    assert container.kills == 0
    assert told["store_spilled_bytes"] > 100 * MB
    assert told["governor_steps_total ended"] == 0
    assert any(": objects go to disk" in line for line in told["lines"])
