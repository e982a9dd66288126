"""Workers that die, in eight ways and more.

What the caller is told, and that the session goes on.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    weft.init(num_cpus=2, log_to_driver=False)
    yield
    weft.shutdown()


def oom_score() -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


def test_when_the_kernel_is_short_of_memory_it_ends_a_worker_before_the_driver() -> None:
    assert weft.get(weft.remote(oom_score).remote()) >= 500 > oom_score()


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_null() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(3)


def abort() -> None:
    os.abort()


def overflow_the_stack() -> None:
    sys.setrecursionlimit(10**9)

    def deeper(depth: int) -> int:
        # Through C code, which does not count the interpreter's own depth.
        return max([depth], key=lambda value: deeper(value + 1))

    deeper(0)


def use_all_memory() -> None:
    # The C library aborts where Python would raise MemoryError: as an extension does that does not
    # check.
    resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
    kept = []
    try:
        while True:
            kept.append(bytearray(1 << 20))
    except MemoryError:
        print("MemoryError: cannot allocate", file=sys.stderr, flush=True)
        os.abort()


def crash_in_a_thread() -> None:
    thread = threading.Thread(target=read_null)
    thread.start()
    thread.join()


def lose_the_parent() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(30)


WAYS: dict[str, tuple[Callable[[], None], str]] = {
    "SIGKILL": (be_killed, "killed"),
    "SIGSEGV": (read_null, "segfault"),
    "os._exit": (leave, "exited"),
    "abort": (abort, "aborted"),
    "stack overflow": (overflow_the_stack, "stack overflow"),
    "out of memory": (use_all_memory, "memory"),
    "a thread's crash": (crash_in_a_thread, "segfault"),
    "parent gone": (lose_the_parent, "parent gone"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_death_certificate_names_how_the_worker_died(way: str) -> None:
    function, kind = WAYS[way]
    doomed = weft.remote(function).options(max_retries=0)
    with pytest.raises(weft.exceptions.WorkerDiedError) as caught:
        weft.get(doomed.remote(), timeout=20)
    assert caught.value.kind == kind, caught.value
    assert function.__name__ in caught.value.function
    assert caught.value.peak_bytes > 1 << 20 or way == "parent gone"
    assert weft.get(weft.remote(os.getpid).remote(), timeout=20) != caught.value.pid


def test_a_thread_whose_stack_overflows_is_suspected() -> None:
    @weft.remote(max_retries=0)
    def overflow_in_a_thread() -> None:
        thread = threading.Thread(target=overflow_the_stack)
        thread.start()
        thread.join()

    with pytest.raises(weft.exceptions.WorkerDiedError, match="often a thread's stack overflow"):
        weft.get(overflow_in_a_thread.remote(), timeout=20)


def test_a_crash_that_is_reported_is_not_suspected_to_be_another() -> None:
    with pytest.raises(weft.exceptions.WorkerDiedError) as caught:
        weft.get(weft.remote(read_null).options(max_retries=0).remote(), timeout=20)
    assert "thread" not in str(caught.value)


def test_the_tail_of_stderr_is_in_the_certificate() -> None:
    @weft.remote(max_retries=0)
    def complain() -> None:
        for number in range(50):
            print("complaint", number, file=sys.stderr)
        os._exit(1)

    with pytest.raises(weft.exceptions.WorkerDiedError) as caught:
        weft.get(complain.remote(), timeout=20)
    assert caught.value.stderr.splitlines()[-1] == "complaint 49"


def test_a_task_whose_worker_dies_is_retried_as_often_as_allowed() -> None:
    @weft.remote
    class Count:
        def __init__(self) -> None:
            self.calls = 0

        def up(self) -> int:
            self.calls += 1
            return self.calls

    @weft.remote(max_retries=2)
    def die_until(counter: object, attempt: int) -> int:
        count: int = weft.get(counter.up.remote())  # type: ignore[attr-defined]  # an actor's handle
        if count < attempt:
            os._exit(1)
        return count

    assert weft.get(die_until.remote(Count.remote(), 3), timeout=20) == 3
    counter = Count.remote()
    with pytest.raises(weft.exceptions.WorkerDiedError) as caught:
        weft.get(die_until.remote(counter, 10), timeout=20)
    assert caught.value.attempts == 3
    assert weft.get(counter.up.remote(), timeout=20) == 4


def test_tasks_that_wait_in_a_dying_worker_are_not_lost() -> None:
    @weft.remote(max_retries=0)
    def quick(number: int) -> int:
        return number

    weft.get([quick.remote(number) for number in range(100)], timeout=20)

    @weft.remote(max_retries=0)
    def die() -> None:
        os._exit(1)

    refs = [die.remote() if number in {50, 150} else quick.remote(number) for number in range(200)]
    outcomes = []
    for ref in refs:
        try:
            outcomes.append(weft.get(ref, timeout=20))
        except weft.exceptions.WorkerDiedError:
            outcomes.append(None)
    lost = [number for number, outcome in enumerate(outcomes) if outcome is None]
    assert {50, 150} <= set(lost)
    # Quick tasks whose answers were still on the way count as started: at most a millisecond's
    # worth.
    assert all(outcome in {None, number} for number, outcome in enumerate(outcomes))


def test_a_time_limit_ends_blocked_c_code_within_a_second() -> None:
    @weft.remote(timeout=0.3, max_retries=0)
    def block() -> None:
        # PyDLL keeps the interpreter's lock: nothing in that process can run until the call
        # returns.
        ctypes.PyDLL(None).sleep(30)

    began = time.monotonic()
    with pytest.raises(weft.exceptions.TaskTimeoutError):
        weft.get(block.remote(), timeout=20)
    assert time.monotonic() - began < 1.3


def test_cancel_interrupts_a_sleeping_task() -> None:
    @weft.remote
    def sleep() -> None:
        time.sleep(60)

    ref = sleep.remote()
    with pytest.raises(weft.exceptions.GetTimeoutError):
        weft.get(ref, timeout=0.3)
    weft.cancel(ref)
    with pytest.raises(weft.exceptions.TaskCancelledError):
        weft.get(ref, timeout=20)


def test_cancel_with_force_ends_a_process_that_does_not_listen() -> None:
    @weft.remote
    def block() -> None:
        ctypes.PyDLL(None).sleep(60)

    ref = block.remote()
    with pytest.raises(weft.exceptions.GetTimeoutError):
        weft.get(ref, timeout=0.3)
    weft.cancel(ref, force=True)
    with pytest.raises(weft.exceptions.TaskCancelledError):
        weft.get(ref, timeout=20)


def test_a_demand_that_this_machine_can_never_meet_fails_with_the_numbers() -> None:
    @weft.remote(num_cpus=100)
    def never() -> None: ...

    began = time.monotonic()
    with pytest.raises(weft.exceptions.TaskUnschedulableError, match=r"CPU 100, this node has 2"):
        weft.get(never.remote(), timeout=20)
    assert time.monotonic() - began < 1


def test_an_actor_that_dies_restarts_and_then_is_dead() -> None:
    @weft.remote(max_restarts=1)
    class Mortal:
        def pid(self) -> int:
            return os.getpid()

        def die(self) -> None:
            os._exit(1)

    mortal = Mortal.remote()
    first = weft.get(mortal.pid.remote(), timeout=20)
    with pytest.raises(weft.exceptions.ActorUnavailableError):
        weft.get(mortal.die.remote(), timeout=20)
    assert weft.get(mortal.pid.remote(), timeout=20) != first
    with pytest.raises(weft.exceptions.ActorDiedError, match="exited with code 1"):
        weft.get(mortal.die.remote(), timeout=20)
    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(mortal.pid.remote(), timeout=20)


def test_calls_that_may_be_retried_survive_a_restart() -> None:
    @weft.remote(max_restarts=-1, max_task_retries=-1)
    class Moody:
        def answer(self, mark: str) -> int:
            path = f"{mark}"
            if not os.path.exists(path):  # noqa: PTH110 - a mark on disk survives the process
                os.close(os.open(path, os.O_CREAT))
                os._exit(1)
            return 42

    mark = f"/tmp/weft-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        assert weft.get(Moody.remote().answer.remote(mark), timeout=20) == 42
    finally:
        os.unlink(mark)  # noqa: PTH108


def test_references_of_a_dead_owner_say_so() -> None:
    @weft.remote(max_retries=0)
    def make() -> list[object]:
        return [weft.put(1), os.getpid()]

    inner, pid = weft.get(make.remote(), timeout=20)
    assert weft.get(inner, timeout=20) == 1
    again, pid = weft.get(make.remote(), timeout=20)
    os.kill(pid, signal.SIGKILL)

    @weft.remote
    def read(refs: list[object]) -> object:
        return weft.get(refs[0])

    with pytest.raises(weft.exceptions.OwnerDiedError):
        weft.get(read.remote([again]), timeout=20)
