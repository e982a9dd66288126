"""The reader of the kernel's accounts: trees of files as kernels write them, and this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from weft._machines.governor import MemoryBound
from weft._node.memory_samples import EXACT_BYTES, MemoryReader, stored_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Write = Callable[[str, str], None]

MB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")
TOTAL, AVAILABLE = 24684092 << 10, 23824676 << 10

MEMINFO = """\
MemTotal:       24684092 kB
MemFree:        20153972 kB
MemAvailable:   23824676 kB
Buffers:          134000 kB
Cached:          3106272 kB
HugePages_Total:       0
"""

VERSION_2_STAT = """\
anon 419430400
file 1289748480
kernel_stack 1245184
shmem 104857600
file_mapped 29655040
inactive_anon 524300288
active_anon 20480
inactive_file 838860800
active_file 346030080
unevictable 0
"""

VERSION_1_STAT = """\
cache 10420224
rss 18141184
shmem 9068544
inactive_file 16384
active_file 1335296
hierarchical_memory_limit 9223372036854771712
total_cache 4022992896
total_rss 504193024
total_shmem 613048320
total_inactive_file 2302865408
total_active_file 1107079168
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of the tree."""

    def write_file(path: str, text: str) -> None:
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    write_file("proc/meminfo", MEMINFO)
    write_file("proc/self/cgroup", "0::/\n")
    return write_file


MACHINE = MemoryBound("this machine", TOTAL, TOTAL - AVAILABLE)

# ------------------------------------------------------------------ limits


def test_without_a_cgroup_the_machine_is_the_limit_and_page_cache_is_no_use(
    tmp_path: Path, write: Write
) -> None:
    assert MemoryReader(tmp_path).bounds() == [MACHINE]


def test_limit_of_a_container_of_version_2_leaves_its_page_cache_out(
    tmp_path: Path, write: Write
) -> None:
    # Its namespace shows it the container's own directory as the root.
    write("sys/fs/cgroup/memory.max", "2147483648\n")
    write("sys/fs/cgroup/memory.current", "1800000000\n")
    write("sys/fs/cgroup/memory.stat", VERSION_2_STAT)
    used = 1800000000 - 838860800 - 346030080
    container = MemoryBound(f"cgroup {tmp_path}/sys/fs/cgroup", 2147483648, used)
    assert MemoryReader(tmp_path).bounds() == [MACHINE, container]


def test_each_directory_above_a_cgroup_may_have_a_limit(tmp_path: Path, write: Write) -> None:
    write("proc/self/cgroup", "0::/user.slice/user-1000.slice/job.scope\n")
    tree = "sys/fs/cgroup/user.slice"
    for place, limit, used in (
        ("", "max", 9),
        ("/user-1000.slice", str(900 * MB), 300 * MB),
        ("/user-1000.slice/job.scope", str(500 * MB), 200 * MB),
    ):
        write(f"{tree}{place}/memory.max", limit)
        write(f"{tree}{place}/memory.current", str(used))
    assert MemoryReader(tmp_path).bounds()[1:] == [
        MemoryBound(f"cgroup {tmp_path}/{tree}/user-1000.slice/job.scope", 500 * MB, 200 * MB),
        MemoryBound(f"cgroup {tmp_path}/{tree}/user-1000.slice", 900 * MB, 300 * MB),
    ]


def test_version_1_sums_up_what_is_below(tmp_path: Path, write: Write) -> None:
    write(
        "proc/self/cgroup",
        "9:name=systemd:/\n4:memory:/docker/4f5e\n3:cpuset:/\n2:cpu,cpuacct:/docker/4f5e\n0::/\n",
    )
    tree = "sys/fs/cgroup/memory/docker"
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(f"{tree}/memory.limit_in_bytes", "9223372036854771712\n")
    write(f"{tree}/4f5e/memory.limit_in_bytes", "8589934592\n")
    write(f"{tree}/4f5e/memory.usage_in_bytes", "5000000000\n")
    write(f"{tree}/4f5e/memory.stat", VERSION_1_STAT)
    used = 5000000000 - 2302865408 - 1107079168
    assert MemoryReader(tmp_path).bounds()[1:] == [
        MemoryBound(f"cgroup {tmp_path}/{tree}/4f5e", 8589934592, used)
    ]


def test_limit_above_what_the_machine_has_is_none(tmp_path: Path, write: Write) -> None:
    write("sys/fs/cgroup/memory.max", str(TOTAL + 1))
    assert MemoryReader(tmp_path).bounds() == [MACHINE]


def test_this_machine_has_memory_and_uses_some() -> None:
    for bound in MemoryReader().bounds():
        assert 0 < bound.used_bytes < bound.limit_bytes


# ------------------------------------------------------------------ processes, in a tree


def describe(write: Write, pid: int, *, anonymous: int, private: int, parent: int = 1) -> None:
    """Write a process's files; sizes in MB."""
    pages = anonymous * MB // PAGE
    write(f"proc/{pid}/statm", f"99999 {pages + 700} 700 1 0 500 0\n")
    write(f"proc/{pid}/stat", f"{pid} (a name) with )) S {parent} {pid} 1 0 -1 4194560 25 0")
    write(
        f"proc/{pid}/smaps_rollup",
        f"5567dc7dd000-7fffffab5000 ---p 00000000 00:00 0  [rollup]\n"
        f"Rss: 1696 kB\nPrivate_Clean: 40 kB\nPrivate_Dirty: {private << 10} kB\n",
    )


def test_what_a_worker_shares_with_its_template_is_not_its_own(
    tmp_path: Path, write: Write
) -> None:
    reader = MemoryReader(tmp_path)
    describe(write, 7, anonymous=30, private=5)
    assert reader.own_bytes(7) == 5 * MB
    # From then on the counters tell how it changes.
    describe(write, 7, anonymous=90, private=0)
    assert reader.own_bytes(7) == 65 * MB


def test_of_a_large_process_its_parents_memory_counts_as_shared(
    tmp_path: Path, write: Write
) -> None:
    large = (EXACT_BYTES // MB) + 1
    reader = MemoryReader(tmp_path)
    describe(write, 1, anonymous=100, private=100)
    describe(write, 7, anonymous=large, private=3)
    assert reader.own_bytes(7) == (large - 100) * MB
    describe(write, 1, anonymous=2 * large, private=3)
    describe(write, 8, anonymous=large, private=3)
    assert reader.own_bytes(8) == 0


def test_process_that_executes_another_program_is_looked_at_again(
    tmp_path: Path, write: Write
) -> None:
    reader = MemoryReader(tmp_path)
    describe(write, 7, anonymous=30, private=1)
    assert reader.own_bytes(7) == 1 * MB
    describe(write, 7, anonymous=4, private=4)
    assert reader.own_bytes(7) == 4 * MB


def test_children_of_any_thread_count_for_the_worker_once_a_census_has_found_them(
    tmp_path: Path, write: Write
) -> None:
    reader = MemoryReader(tmp_path)
    for pid in (7, 8, 9, 10):
        describe(write, pid, anonymous=10, private=pid)
    write("proc/7/task/7/children", "8 ")
    write("proc/7/task/71/children", "9 ")
    write("proc/9/task/9/children", "10 ")
    assert reader.own_bytes(7) == 7 * MB
    reader.take_census([7])
    assert reader.own_bytes(7) == (7 + 8 + 9 + 10) * MB
    write("proc/9/task/9/children", "")
    reader.take_census([7])
    assert reader.own_bytes(7) == (7 + 8 + 9) * MB


def test_processor_time_is_that_of_a_worker_and_its_children_at_the_last_census(
    tmp_path: Path, write: Write
) -> None:
    reader = MemoryReader(tmp_path)
    ticks = os.sysconf("SC_CLK_TCK")
    assert reader.cpu_s(7) == 0.0
    for pid in (7, 8):
        describe(write, pid, anonymous=10, private=1)
        rest = f"S 1 {pid} 1 0 -1 4194560 25 0 0 0 {3 * ticks} {2 * ticks} {ticks} {ticks} 20 0"
        write(f"proc/{pid}/stat", f"{pid} (a name) with )) {rest}")
    write("proc/7/task/7/children", "8 ")
    reader.take_census([7])
    assert reader.cpu_s(7) == 14.0


def test_kernel_that_does_not_say_what_is_available_sets_no_limit(
    tmp_path: Path, write: Write
) -> None:
    write("proc/meminfo", "MemTotal: 100 kB\nMemFree: 10 kB\n")
    assert MemoryReader(tmp_path).bounds() == []


def test_process_that_is_gone_has_no_memory(tmp_path: Path, write: Write) -> None:
    reader = MemoryReader(tmp_path)
    assert reader.own_bytes(7) == 0
    reader.take_census([7])
    assert reader.own_bytes(7) == 0


def test_number_of_a_process_that_is_gone_may_be_taken_by_another(
    tmp_path: Path, write: Write
) -> None:
    reader = MemoryReader(tmp_path)
    describe(write, 7, anonymous=30, private=5)
    reader.own_bytes(7)
    reader.take_census([])
    describe(write, 7, anonymous=40, private=30)
    assert reader.own_bytes(7) == 30 * MB


def test_segments_count_with_what_they_take(tmp_path: Path) -> None:
    assert stored_bytes(str(tmp_path)) == 0
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(100 * MB)
    (tmp_path / "full").write_bytes(bytes(4 * MB))
    assert 4 * MB <= stored_bytes(str(tmp_path)) < 5 * MB


# ------------------------------------------------------------------ processes, here

HOLDER = """
    import mmap, os, subprocess, sys
    size = 64 << 20
    match sys.argv[1]:
        case "anonymous":
            kept = bytearray(size)
        case "file":
            file = open(sys.argv[2], "rb")
            kept = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
            total = sum(kept[at] for at in range(0, size, 4096))
        case "child":
            child = subprocess.Popen(
                [sys.executable, "-c", "kept = bytearray(64 << 20); print(); input()"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            child.stdout.readline()
        case "forked":
            kept = bytearray(size)
            print("ready", flush=True)
            input()
            (come, tell), (wait, go) = os.pipe(), os.pipe()
            if (pid := os.fork()) == 0:
                more = bytearray(size // 4)
                os.write(tell, b"!")
                os.read(wait, 1)
                os._exit(0)
            os.read(come, 1)
    print("ready", flush=True)
    input()
    if sys.argv[1] == "child":
        child.communicate(b"\\n")
    if sys.argv[1] == "forked":
        os.write(go, b"!")
        os.waitpid(pid, 0)
"""


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start a process that holds 64 MB somehow."""
    processes = []

    def start(how: str) -> subprocess.Popen[bytes]:
        place = tmp_path / "file"
        place.write_bytes(os.urandom(MB) * 64)
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLDER), how, place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.communicate(b"\n")
        assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "least", "most"), [("anonymous", 64, 80), ("file", 0, 16), ("child", 64, 96)]
)
def test_own_memory_of_a_real_process_is_what_ends_with_it(
    hold: Callable[[str], subprocess.Popen[bytes]], how: str, least: int, most: int
) -> None:
    reader = MemoryReader()
    pid = hold(how).pid
    reader.take_census([pid])
    assert least * MB < reader.own_bytes(pid) < most * MB


@pytest.mark.slow
def test_what_a_worker_and_its_children_have_in_common_counts_once(
    hold: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    reader = MemoryReader()
    process = hold("forked")
    before = reader.own_bytes(process.pid)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    process.stdout.readline()
    reader.take_census([process.pid])
    assert 16 * MB < reader.own_bytes(process.pid) - before < 24 * MB
