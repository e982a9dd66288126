from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from weft._clock import monotonic
from weft._runtime import loop as loop_module
from weft._runtime import signals as signals_module
from weft._runtime.loop import HEADROOM, QUIET_S, SHORT_S, Guard, Loop, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

LIMIT_S = 20.0
"""How long a test waits for what has to come; never used up where all is well."""
IO = "weft-io"


class Bench:
    """A loop, and a way to have something done by whoever reads: as a message would."""

    def __init__(self) -> None:
        self.rounds = 0
        self.wake_at: float | None = None
        self.quiet: Future[None] = Future()
        self.broken: list[Exception] = []
        self.fails = False
        self.loop = Loop(self.before_wait, self.on_quiet, self.broken.append)
        self.messages: deque[Callable[[], object]] = deque()
        self.near, self.far = socket.socketpair()
        self.loop.poller.add(self.near.fileno(), self.handle)
        self.loop.start()

    def before_wait(self, now: float) -> float | None:
        self.rounds += 1
        return self.wake_at

    def on_quiet(self) -> None:
        if not self.quiet.done():
            self.quiet.set_result(None)
        if self.fails:
            raise ValueError("on_quiet")

    def handle(self, _events: int) -> None:
        self.near.recv(1)
        self.messages.popleft()()

    def message(self, function: Callable[[], object]) -> None:
        """Have something done in the next round, inside the guard."""
        self.messages.append(function)
        self.far.send(b"x")

    def wait_until_quiet(self) -> None:
        """Wait until the I/O thread has the baton."""
        self.quiet.result(LIMIT_S)

    def close(self) -> None:
        self.loop.close()
        self.near.close()
        self.far.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


class Waiting:
    """A thread that waits, and what came of it."""

    def __init__(self, bench: Bench, missing: int = 1, timeout_s: float = LIMIT_S) -> None:
        self.waiter = Waiter(missing)
        self.result: Future[bool] = Future()
        self.bench = bench
        self.timeout_s = timeout_s
        self.thread = threading.Thread(target=self.run, name="user")
        self.thread.start()

    def run(self) -> None:
        try:
            self.result.set_result(self.bench.loop.wait(self.waiter, monotonic() + self.timeout_s))
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.result.set_exception(error)

    def come(self) -> bool:
        found = self.result.result(LIMIT_S)
        self.thread.join()
        return found


def until_baton(bench: Bench, waiting: Waiting) -> None:
    """Return when this thread reads."""
    settle(bench, lambda: waiting.waiter.is_reader)


def until_queued(bench: Bench, count: int) -> None:
    """Return when so many threads wait for the baton."""
    settle(bench, lambda: len(bench.loop._waiting) == count)


def settle(bench: Bench, condition: Callable[[], bool]) -> None:
    """Look again and again, in the guard, until something is so: it will be within microseconds."""
    until = monotonic() + LIMIT_S
    while True:
        with bench.loop.guard:
            if condition():
                return
        assert monotonic() < until
        os.sched_yield()


def name_of_thread(into: list[str]) -> None:
    into.append(threading.current_thread().name)


# ------------------------------------------------------------------ one thread


def test_thread_that_waits_reads_what_it_waits_for(bench: Bench) -> None:
    readers: list[str] = []
    waiting = Waiting(bench, missing=2)
    until_baton(bench, waiting)
    for _ in range(2):
        bench.message(partial(name_of_thread, readers))
        bench.message(waiting.waiter.ready)
    assert waiting.come()
    assert readers == [waiting.thread.name] * 2


def test_wait_for_nothing_returns_at_once(bench: Bench) -> None:
    assert bench.loop.wait(Waiter(0))
    assert bench.loop.wait(Waiter(-1))


def test_what_came_before_the_wait_counts(bench: Bench) -> None:
    waiter = Waiter()
    waiter.ready()
    waiter.ready()
    assert bench.loop.wait(waiter)


def test_wait_ends_at_its_deadline(bench: Bench) -> None:
    waiter = Waiter()
    deadline = monotonic() + 0.02
    assert not bench.loop.wait(waiter, deadline)
    assert monotonic() >= deadline


@pytest.mark.parametrize("late_s", [0.0, 100.0])
def test_waits_without_any_time_read_what_has_arrived(bench: Bench, late_s: float) -> None:
    """A loop of `weft.wait(refs, timeout=0)` keeps the I/O thread from reading."""
    for _ in range(100):
        waiter = Waiter()
        bench.message(waiter.ready)
        until = monotonic() + LIMIT_S
        while not bench.loop.wait(waiter, monotonic() - late_s):
            assert monotonic() < until


@pytest.mark.parametrize("timeout_s", [1e9, float("inf")])
def test_very_long_waits_are_waits(bench: Bench, timeout_s: float) -> None:
    bench.wake_at = timeout_s
    waiter = Waiter()
    bench.message(waiter.ready)
    assert bench.loop.wait(waiter, timeout_s)


def test_hook_is_called_before_every_wait_and_when_it_says(bench: Bench) -> None:
    waiter = Waiter()
    bench.wake_at = 0.0

    def count_down() -> float | None:
        bench.rounds += 1
        if bench.rounds == 10:
            waiter.ready()
        return 0.0

    bench.loop._before_wait = lambda _now: count_down()
    assert bench.loop.wait(waiter)
    assert bench.rounds == 10


def test_nudge_lets_the_hook_run_again(bench: Bench) -> None:
    waiting = Waiting(bench)
    until_baton(bench, waiting)
    bench.loop._before_wait = lambda _now: waiting.waiter.ready()
    bench.loop.nudge()
    assert waiting.come()


# ------------------------------------------------------------------ several threads


def test_thread_that_reads_ends_the_waits_of_others(bench: Bench) -> None:
    first = Waiting(bench)
    until_baton(bench, first)
    others = [Waiting(bench) for _ in range(3)]
    until_queued(bench, 3)
    for other in others:
        bench.message(other.waiter.ready)
        assert other.come()
    assert not first.result.done()
    bench.message(first.waiter.ready)
    assert first.come()


def test_baton_goes_to_the_thread_that_waits_for_longest(bench: Bench) -> None:
    waiting = []
    for number in range(3):
        waiting.append(Waiting(bench))
        until_baton(bench, waiting[0])
        until_queued(bench, number)
    for number in range(3):
        assert waiting[number].waiter.is_reader
        bench.message(waiting[number].waiter.ready)
        assert waiting[number].come()
        if number < 2:
            until_baton(bench, waiting[number + 1])


def test_reader_whose_time_is_up_hands_the_baton_on(bench: Bench) -> None:
    first = Waiting(bench, timeout_s=0.05)
    until_baton(bench, first)
    second = Waiting(bench)
    assert not first.come()
    until_baton(bench, second)
    bench.message(second.waiter.ready)
    assert second.come()


def test_waiting_thread_whose_time_is_up_leaves_the_others_alone(bench: Bench) -> None:
    first = Waiting(bench)
    until_baton(bench, first)
    second = Waiting(bench, timeout_s=0.01)
    assert not second.come()
    until_queued(bench, 0)
    assert first.waiter.is_reader
    bench.message(first.waiter.ready)
    assert first.come()


def test_thread_that_is_done_when_it_gets_the_baton_hands_it_on(bench: Bench) -> None:
    threads = [Waiting(bench) for _ in range(3)]
    settle(bench, lambda: len(bench.loop._waiting) == 2)

    def all_ready() -> None:
        for waiting in threads:
            waiting.waiter.ready()

    bench.message(all_ready)
    assert all(waiting.come() for waiting in threads)


@pytest.mark.slow
def test_many_threads_that_wait_for_each_other_all_come_through(bench: Bench) -> None:
    """Each wait is ended by a message that any thread may read; none is forgotten."""
    count, threads = 300, 6
    late: list[int] = []

    def work(number: int) -> None:
        for turn in range(count):
            waiter = Waiter()
            bench.message(waiter.ready)
            if not bench.loop.wait(waiter, monotonic() + LIMIT_S):
                late.append(number * count + turn)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert late == []
    assert bench.broken == []


# ------------------------------------------------------------------ the I/O thread


def test_io_thread_reads_when_no_user_thread_does(bench: Bench) -> None:
    read: Future[str] = Future()
    bench.wait_until_quiet()
    bench.message(lambda: read.set_result(threading.current_thread().name))
    assert read.result(LIMIT_S) == IO


def test_user_thread_gets_the_baton_from_the_io_thread(bench: Bench) -> None:
    bench.wait_until_quiet()
    waiting = Waiting(bench)
    until_baton(bench, waiting)
    bench.message(waiting.waiter.ready)
    assert waiting.come()


def test_io_thread_takes_over_again_after_a_user_thread(bench: Bench) -> None:
    bench.wait_until_quiet()
    bench.loop.wait(Waiter(), monotonic() + 0.01)
    read: Future[str] = Future()
    bench.message(lambda: read.set_result(threading.current_thread().name))
    assert read.result(LIMIT_S) == IO


def voluntary_switches(thread: threading.Thread) -> int:
    """How often a thread has gone to sleep."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("voluntary")]
    return int(line.split()[1])


@pytest.mark.slow
def test_io_thread_sleeps_while_nothing_happens(bench: Bench) -> None:
    bench.wait_until_quiet()
    before = voluntary_switches(bench.loop._io_thread)
    threading.Event().wait(50 * QUIET_S)  # what is counted is what happens in some time
    assert voluntary_switches(bench.loop._io_thread) - before <= 2


@pytest.mark.slow
def test_io_thread_sleeps_while_a_user_thread_reads_for_long(bench: Bench) -> None:
    bench.loop.wait(Waiter(), monotonic() + 5 * QUIET_S)
    before = voluntary_switches(bench.loop._io_thread)
    bench.loop.wait(Waiter(), monotonic() + 50 * QUIET_S)
    assert voluntary_switches(bench.loop._io_thread) - before <= 6


# ------------------------------------------------------------------ callbacks


def test_callback_runs_in_the_io_thread_outside_the_guard(bench: Bench) -> None:
    ran: Future[str] = Future()

    def callback() -> None:
        with bench.loop.guard:
            ran.set_result(threading.current_thread().name)

    waiter = Waiter()
    bench.message(lambda: bench.loop.later(callback))
    bench.message(waiter.ready)
    assert bench.loop.wait(waiter)
    assert ran.result(LIMIT_S) == IO


@pytest.mark.parametrize("reads", ["nobody", "io", "user"])
def test_callback_is_called_whoever_reads(bench: Bench, reads: str) -> None:
    """A cancelled task is news without a message: nobody else wakes the loop."""
    waiting = None
    if reads == "io":
        bench.wait_until_quiet()
    if reads == "user":
        waiting = Waiting(bench)
        until_baton(bench, waiting)
    for _ in range(3):
        called: Future[None] = Future()
        bench.loop.later(lambda called=called: called.set_result(None))
        called.result(LIMIT_S)
    if waiting is not None:
        bench.message(waiting.waiter.ready)
        waiting.come()


def test_callback_may_wait_itself(bench: Bench) -> None:
    bench.wait_until_quiet()
    got: Future[bool] = Future()

    def callback() -> None:
        waiter = Waiter()
        bench.message(waiter.ready)
        got.set_result(bench.loop.wait(waiter, monotonic() + LIMIT_S))

    bench.message(lambda: bench.loop.later(callback))
    assert got.result(LIMIT_S)


def test_callback_that_blocks_keeps_nobody_from_reading(bench: Bench) -> None:
    bench.wait_until_quiet()
    blocks: Future[None] = Future()
    began: Future[None] = Future()

    def callback() -> None:
        began.set_result(None)
        blocks.result(LIMIT_S)

    bench.loop.later(callback)
    began.result(LIMIT_S)
    waiter = Waiter()
    bench.message(waiter.ready)
    assert bench.loop.wait(waiter, monotonic() + LIMIT_S)
    blocks.set_result(None)


def test_callback_that_fails_is_logged_and_the_next_is_called(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    called: Future[None] = Future()
    logging.getLogger("weft").propagate = True

    def fail() -> None:
        raise ValueError("of the user")

    bench.loop.later(fail)
    bench.loop.later(lambda: called.set_result(None))
    called.result(LIMIT_S)
    assert "of the user" in caplog.text


def test_callbacks_are_called_before_close_returns(bench: Bench) -> None:
    called: list[int] = []
    for number in range(5):
        bench.loop.later(partial(called.append, number))
    bench.loop.close()
    assert called == list(range(5))


# ------------------------------------------------------------------ failures


def fail() -> None:
    raise ValueError("in a handler")


@pytest.mark.parametrize("reads", ["user", "io"])
def test_handler_that_fails_is_told_and_ends_no_thread(bench: Bench, reads: str) -> None:
    if reads == "io":
        bench.wait_until_quiet()
    waiter = Waiter()
    bench.message(fail)
    bench.message(waiter.ready)
    assert bench.loop.wait(waiter, monotonic() + LIMIT_S)
    assert [str(error) for error in bench.broken] == ["in a handler"]
    assert bench.loop._io_thread.is_alive()


def test_hook_that_fails_is_told(bench: Bench) -> None:
    def fail_once(_now: float) -> float | None:
        bench.loop._before_wait = bench.before_wait
        raise ValueError("in the hook")

    bench.loop._before_wait = fail_once
    waiter = Waiter()
    bench.message(waiter.ready)
    assert bench.loop.wait(waiter)
    assert [str(error) for error in bench.broken] == ["in the hook"]


def test_hook_of_the_io_thread_that_fails_is_told(bench: Bench) -> None:
    bench.fails = True
    # The loop may have been quiet before: it is so again after a wait.
    bench.loop.wait(Waiter(), monotonic())
    settle(bench, lambda: bool(bench.broken))
    read: Future[str] = Future()
    bench.message(lambda: read.set_result(threading.current_thread().name))
    assert read.result(LIMIT_S) == IO
    assert {str(error) for error in bench.broken} == {"on_quiet"}


# ------------------------------------------------------------------ the end


def test_close_lets_every_waiting_thread_go(bench: Bench) -> None:
    waiting = [Waiting(bench) for _ in range(4)]
    until_queued(bench, 3)
    bench.loop.close()
    assert [thread.come() for thread in waiting] == [False] * 4


def test_wait_on_a_closed_loop_returns_at_once(bench: Bench) -> None:
    bench.loop.close()
    assert not bench.loop.wait(Waiter())
    assert bench.loop.wait(Waiter(0))


def test_closing_twice_is_closing(bench: Bench) -> None:
    bench.loop.close()
    bench.loop.close()


def test_loop_that_was_never_started_can_be_closed() -> None:
    Loop(lambda _now: None, lambda: None, lambda _error: None).close()


def test_callback_may_close_the_loop(bench: Bench) -> None:
    waiting = Waiting(bench)
    until_baton(bench, waiting)
    bench.loop.later(bench.loop.close)
    assert not waiting.come()


@pytest.mark.slow
def test_close_meets_a_reader_at_any_moment() -> None:
    for _ in range(100):
        bench = Bench()
        waiting = [Waiting(bench) for _ in range(2)]
        for _ in range(3):
            bench.message(lambda: None)
        bench.close()
        assert [thread.come() for thread in waiting] == [False, False]


# ------------------------------------------------------------------ the guard


def test_guard_keeps_others_out() -> None:
    guard = Guard()
    order: list[str] = []

    def enter() -> None:
        with guard:
            order.append("other")

    with guard:
        other = threading.Thread(target=enter)
        other.start()
        order.append("first")
    other.join()
    assert order == ["first", "other"]


def test_guard_refuses_the_thread_that_has_it(bench: Bench) -> None:
    """A destructor that calls Weft can run inside Weft: waiting would be for ever."""
    guard = bench.loop.guard
    with guard:
        with pytest.raises(RuntimeError, match="from a destructor"), guard:
            raise AssertionError
        with pytest.raises(RuntimeError, match="from a destructor"):
            bench.loop.wait(Waiter(), monotonic())
    assert guard.shields == 0


def test_guard_is_free_for_a_handler_that_runs_as_it_is_taken(bench: Bench) -> None:
    """The lock is taken then, and nothing is begun."""
    guard = bench.loop.guard
    ran: list[str] = []

    def handler(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_return" and argument.__name__ == "acquire" and not ran:
            ran.append("handler")
            with guard:
                ran.append("guard")

    sys.setprofile(handler)
    with guard:
        sys.setprofile(None)
    assert ran == ["handler", "guard"]
    assert bench.loop.wait(Waiter(0))


def test_interrupt_is_raised_at_once_where_nothing_is_shielded() -> None:
    with pytest.raises(KeyboardInterrupt):
        Guard().interrupt(KeyboardInterrupt())


def test_interrupt_inside_the_guard_is_raised_at_its_end() -> None:
    guard = Guard()
    steps: list[str] = []

    def work() -> None:
        with guard:
            guard.interrupt(KeyboardInterrupt())
            steps.append("inside")
        steps.append("after")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["inside"]
    with guard:
        pass


def test_interrupt_under_several_shields_is_raised_by_the_last() -> None:
    guard = Guard()
    guard.shield()
    with guard:
        guard.interrupt(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        guard.unshield()
    assert (guard.shields, guard.interrupted) == (0, None)


def test_shields_are_the_main_threads() -> None:
    guard = Guard()

    def work() -> None:
        guard.shield()
        with guard:
            assert guard.shields == 0
        guard.unshield()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert guard.shields == 0


# ------------------------------------------------------------------ deep stacks


@pytest.mark.parametrize("in_main", [True, False])
def test_deep_stack_is_refused_before_anything_is_begun(bench: Bench, in_main: bool) -> None:
    """A RecursionError inside the loop or a machine would leave it half changed."""
    refused: list[int] = []

    def wait(frames: int) -> bool:
        if frames:
            return wait(frames - 1)
        waiter = Waiter()
        bench.message(waiter.ready)
        return bench.loop.wait(waiter, monotonic() + LIMIT_S)

    def try_all() -> None:
        for frames in range(sys.getrecursionlimit() - 300, sys.getrecursionlimit()):
            try:
                assert wait(frames)
            except RecursionError:
                refused.append(frames)

    if in_main:
        try_all()
    else:
        thread = threading.Thread(target=try_all)
        thread.start()
        thread.join()
    assert len(refused) > HEADROOM // 2
    assert bench.broken == []
    assert bench.loop.guard.shields == 0
    assert bench.loop._waiting == deque()
    assert wait(0)


# ------------------------------------------------------------------ Ctrl-C

STORM = Path(__file__).with_name("sigint_storm.py")


@pytest.mark.slow
def test_interrupts_at_any_moment_leave_the_loop_whole() -> None:
    ended = subprocess.run(
        [sys.executable, str(STORM)], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.stderr == ""
    report: dict[str, Any] = json.loads(ended.stdout)
    assert report.pop("interrupts") > 200
    assert report.pop("waits") > 100
    assert report == {
        "shields": 0,
        "pending": None,
        "holder": 0,
        "broken": [],
        "late": 0,
        "others_late": 0,
        "works": True,
        "io_works": True,
    }


OURS = {loop_module.__file__, signals_module.__file__}


class InterruptAt:
    """Interrupts the main thread at the n-th of the places where a signal's handler may run.

    Those are where a function begins and where a call of a built-in one returns; a handler that
    raises does it there.
    """

    def __init__(self, guard: Guard, place: int) -> None:
        self.guard = guard
        self.left = place

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename in OURS:
            self.left -= 1
            if self.left == 0:
                self.guard.interrupt(KeyboardInterrupt())


@pytest.mark.parametrize("short_s", [0, SHORT_S], ids=["long", "short"])
@pytest.mark.parametrize("case", ["reads", "is late", "waits", "waits and is late", "is ready"])
def test_interrupt_at_every_place_leaves_the_loop_whole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, case: str, short_s: float
) -> None:
    monkeypatch.setattr(loop_module, "SHORT_S", short_s)
    loop, guard = bench.loop, bench.loop.guard
    other = Waiting(bench) if "waits" in case else None
    if other is not None:
        until_baton(bench, other)
    place = 0
    while True:
        place += 1
        waiter = Waiter(0 if case == "is ready" else 1)
        if "late" not in case:
            bench.message(waiter.ready)
        interrupt = InterruptAt(guard, place)
        try:
            sys.setprofile(interrupt)
            loop.wait(waiter, monotonic() + (0.0005 if "late" in case else LIMIT_S))
            sys.setprofile(None)
        except KeyboardInterrupt:
            sys.setprofile(None)
        assert (guard.shields, guard.interrupted) == (0, None), place
        assert guard._holder != threading.get_ident(), place
        assert loop._reader is not waiter, place
        assert waiter not in loop._waiting, place
        assert signal.set_wakeup_fd(-1) == -1, place
        if interrupt.left > 0:
            break
        finish = Waiter(0)
        assert loop.wait(finish)
    assert place > 10
    if other is not None:
        bench.message(other.waiter.ready)
        assert other.come()


@pytest.fixture
def interruptible(bench: Bench) -> Iterator[Guard]:
    """Lets SIGINT interrupt the main thread, as in a driver."""
    guard = bench.loop.guard
    before = signal.signal(
        signal.SIGINT, lambda _number, _frame: guard.interrupt(KeyboardInterrupt())
    )
    yield guard
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("reads", ["main", "user", "io"])
@pytest.mark.parametrize("hit", ["main", "other"])
def test_interrupt_ends_a_blocking_wait_at_once(
    bench: Bench, interruptible: Guard, reads: str, hit: str
) -> None:
    """Also one that does not end the kernel's wait: here, since the kernel gives it elsewhere."""
    other = Waiting(bench) if reads == "user" else None
    if other is not None:
        until_baton(bench, other)
    if reads == "io":
        bench.wait_until_quiet()
    waiter = Waiter()
    killer = threading.Thread(target=interrupt_when_watched, args=(bench, hit))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        bench.loop.wait(waiter)
    killer.join()
    assert interruptible.shields == 0
    assert signal.set_wakeup_fd(-1) == -1
    if other is not None:
        bench.message(other.waiter.ready)
        assert other.come()


def interrupt_when_watched(bench: Bench, hit: str) -> None:
    # So that it is watched for signals.
    settle(bench, lambda: bench.loop._signals._depth > 0)
    target = threading.main_thread().ident if hit == "main" else threading.get_ident()
    assert target is not None
    signal.pthread_kill(target, signal.SIGINT)


@pytest.mark.parametrize("reads", ["main", "user", "user who leaves"])
def test_handler_may_wait_in_the_middle_of_a_wait(bench: Bench, reads: str) -> None:
    """It stands in its thread's place, and the wait in whose middle it ran goes on."""
    other = Waiting(bench) if reads != "main" else None
    if other is not None:
        until_baton(bench, other)
    guard, outer = bench.loop.guard, Waiter()
    order: list[str] = []

    def handler(_number: int, _frame: object) -> None:
        inner = Waiter()
        if other is not None and "leaves" in reads:
            bench.message(other.waiter.ready)
            assert other.come()
        bench.message(outer.ready)
        bench.message(inner.ready)
        assert bench.loop.wait(inner, monotonic() + LIMIT_S)
        order.append("inner")

    def strike() -> None:
        waiting = bench.loop._waiting
        settle(bench, lambda: not guard.shields and (outer.is_reader or outer in waiting))
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    killer = threading.Thread(target=strike)
    killer.start()
    assert bench.loop.wait(outer)
    order.append("outer")
    killer.join()
    signal.signal(signal.SIGUSR1, before)
    assert order == ["inner", "outer"]
    assert signal.set_wakeup_fd(-1) == -1
    if reads == "user":
        assert other is not None
        bench.message(other.waiter.ready)
        assert other.come()
    assert bench.loop.wait(Waiter(0))
    assert bench.loop._waiting == deque()
