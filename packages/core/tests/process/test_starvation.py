"""Tasks that need the whole node, among others that need little and keep coming."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

WAIT_S = 30
TASK_S = 0.01
"""Too long for tasks to be sent ahead, and short against all bounds."""
LATE_S = 1.2
"""A demand that has waited for so long is late."""


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    weft.init(num_cpus=2, log_to_driver=False)
    yield
    weft.shutdown()


@weft.remote
def small() -> None:
    time.sleep(TASK_S)


@weft.remote(num_cpus=2)
def large() -> str:
    return "large"


@weft.remote
def read(path: str) -> str:
    """Hold a CPU until somebody writes a line into the pipe; weft sees no wait."""
    with Path(path).open() as pipe:
        return pipe.readline()


@contextmanager
def held_cpu(path: Path) -> Iterator[tuple[weft.ObjectRef[str], IO[str]]]:
    """Hold a CPU; yield the task, and where to write what ends it."""
    os.mkfifo(path)
    held = read.remote(str(path))
    with path.open("w", buffering=1) as end:  # blocks until the task has opened it
        yield held, end


def keep_small_ones_coming(is_over: Callable[[], bool]) -> None:
    """Have more of them on their way than there are CPUs."""
    refs = deque(small.remote() for _ in range(8))
    until = time.monotonic() + WAIT_S
    ended = 0
    while not is_over():
        assert time.monotonic() < until, f"{ended} small tasks ended meanwhile"
        weft.get(refs.popleft())
        refs.append(small.remote())
        ended += 1
    weft.get(list(refs))


def is_ready(ref: weft.ObjectRef[object]) -> bool:
    return bool(weft.wait([ref], timeout=0)[0])


def test_large_task_runs_while_small_ones_keep_coming() -> None:
    waiting: list[weft.ObjectRef[str]] = []

    def is_over() -> bool:
        if not waiting:
            weft.get(small.remote())  # behind the first ones: they have all workers
            waiting.append(large.remote())
        return is_ready(waiting[0])

    keep_small_ones_coming(is_over)
    assert weft.get(waiting) == ["large"]


def test_large_task_of_the_driver_runs_while_those_of_an_actor_keep_coming() -> None:
    """They are deeper, and would go first if a task waited for them."""

    @weft.remote(num_cpus=0, max_concurrency=3)
    class Producer:
        def __init__(self) -> None:
            self.begun = threading.Event()
            self.over = threading.Event()

        def run(self) -> None:
            keep_small_ones_coming(self.note)

        def note(self) -> bool:
            self.begun.set()
            return self.over.is_set()

        def wait_begun(self) -> None:
            self.begun.wait(WAIT_S)

        def stop(self) -> None:
            self.over.set()

    producer = Producer.remote()
    run = producer.run.remote()
    weft.get(producer.wait_begun.remote())
    assert weft.get(large.remote(), timeout=WAIT_S) == "large"
    weft.get([producer.stop.remote(), run])


def test_tasks_that_blocked_ones_wait_for_pass_a_large_one(tmp_path: Path) -> None:
    @weft.remote
    def child(depth: int) -> int:
        return 0 if not depth else weft.get(child.remote(depth - 1)) + 1

    @weft.remote
    def parent(path: str) -> int:
        with Path(path).open() as pipe:
            pipe.readline()
        return weft.get(child.remote(5))

    with held_cpu(tmp_path / "one") as (held, end):
        os.mkfifo(tmp_path / "other")
        blocked = parent.remote(str(tmp_path / "other"))
        with (tmp_path / "other").open("w", buffering=1) as other:
            waiting = large.remote()
            assert not weft.wait([waiting], timeout=LATE_S)[0]
            other.write("go on\n")
        assert weft.get(blocked, timeout=WAIT_S) == 5
        assert not is_ready(waiting)
        end.write("over\n")
        assert weft.get([held, waiting], timeout=WAIT_S) == ["over\n", "large"]


def test_tasks_that_a_running_one_waits_for_unseen_pass_after_a_while(tmp_path: Path) -> None:
    """A group that meets outside of weft: the large task must not keep it apart."""

    @weft.remote
    def write(path: str) -> None:
        Path(path).write_text("met\n")

    with held_cpu(tmp_path / "pipe") as (reader, _):
        waiting = large.remote()
        assert not weft.wait([waiting], timeout=LATE_S)[0]
        writer = write.remote(str(tmp_path / "pipe"))
        assert weft.get([reader, writer, waiting], timeout=WAIT_S) == ["met\n", None, "large"]


def test_why_and_available_tell_what_is_kept_and_for_whom(tmp_path: Path) -> None:
    with held_cpu(tmp_path / "pipe") as (held, end):
        waiting = large.remote()
        until = time.monotonic() + WAIT_S
        while True:
            ref = small.remote()
            answers = [weft.why(ref), weft.why(waiting)]
            available = weft.available_resources().get("CPU", 0)
            if all("kept for" in answer for answer in answers):
                break
            weft.get(ref)
            assert time.monotonic() < until, answers
        assert "needs CPU 1, this node has 1 free, kept for others" in answers[0]
        assert "kept for tasks of large: needs CPU 2, this node has 1 free" in answers[0]
        assert "needs CPU 2, this node has 1 free, kept for this" in answers[1]
        assert available == 0
        end.write("over\n")
        weft.get([held, waiting, ref], timeout=WAIT_S)
