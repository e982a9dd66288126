"""Threads of the inline engine, and what actors run on them: lanes and loops.

    InlineThreads   every thread that the engine starts, so that its shutdown can wait for them
    InlineLane      so many threads that run what they are given: a group of a threaded actor
    InlineLoop      a thread with an asyncio loop: an async actor

What is always true
1. What a lane or a loop was given before it was closed by its owner's lock is run or, once it is
   closed, known to its owner; what it is given afterwards is refused, so nothing is lost silently.
2. `close` does not wait, so any thread may call it, also one that runs there. The thread ends what
   it runs, and with a loop what that left: tasks, async generators, executor, descriptors.
3. A thread that is in a user's method cannot be ended from outside.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from weft._clock import monotonic
from weft._lazy import lazy

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine
else:
    asyncio = lazy("asyncio")


class InlineThreads:
    """The threads of one engine. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._threads: set[threading.Thread] = set()

    def start(self, name: str, function: Callable[[], object]) -> None:
        """Run a function on a thread of its own, named weft-`name`."""
        thread = threading.Thread(target=function, name=f"weft-{name}", daemon=True)
        with self._lock:
            self._threads = {each for each in self._threads if each.is_alive()}
            thread.start()
            self._threads.add(thread)

    def join(self, limit_s: float) -> list[str]:
        """Wait until they have ended, and those that they start.

        The names of those that have not when time is up. The calling thread is none of them.
        """
        deadline = monotonic() + limit_s
        while True:
            with self._lock:
                threads = [each for each in self._threads if each.is_alive()]
            others = [each for each in threads if each is not threading.current_thread()]
            if not others or monotonic() >= deadline:
                return sorted(each.name for each in others)
            others[0].join(max(0.0, deadline - monotonic()))


class InlineLane:
    """Threads that run what they are given, so many at a time, in order."""

    def __init__(self, threads: InlineThreads, limit: int, name: str) -> None:
        self._threads = threads
        self._limit = limit
        self._name = name
        self._jobs: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._started = 0
        self._idle = 0
        self.closed = False

    def run(self, job: Callable[[], object]) -> bool:
        """Run a job on one of the threads; False if the lane is closed."""
        with self._changed:
            if self.closed:
                return False
            self._jobs.append(job)
            if self._idle < len(self._jobs) and self._started < self._limit:
                self._started += 1
                self._threads.start(self._name, self._serve)
            self._changed.notify()
            return True

    def close(self) -> None:
        """Drop the jobs that wait and let the threads end. Idempotent."""
        with self._changed:
            self.closed = True
            self._jobs.clear()
            self._changed.notify_all()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._jobs and not self.closed:
                    self._changed.wait()
                self._idle -= 1
                if self.closed:
                    return
                job = self._jobs.popleft()
            job()


class InlineLoop:
    """An asyncio loop in a thread of its own.

    When it is closed, its tasks are cancelled and awaited, and its async generators shut down.

    Facts about asyncio: a loop refers to its tasks weakly. One that waits for what nobody else has
    is garbage, and its `finally` runs in whichever thread collects it, so they are kept here.
    """

    def __init__(self, threads: InlineThreads, limits: dict[str, int], name: str) -> None:
        """Start it. `limits`: so many calls at a time, by concurrency group."""
        self.slots = {group: asyncio.Semaphore(limit) for group, limit in limits.items()}
        self.closed = False
        self._lock = threading.RLock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        threads.start(name, self._serve)

    def post(self, function: Callable[..., object], *args: Any) -> bool:
        """Call a function on the loop, after those posted before; False if the loop is closed."""
        with self._lock:
            if self.closed:
                return False
            self._loop.call_soon_threadsafe(function, *args)
            return True

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Make a coroutine a task. In the loop's thread."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Let it end, after what was posted. Idempotent."""
        with self._lock:
            if not self.closed:
                self.closed = True
                self._loop.call_soon_threadsafe(self._loop.stop)

    def _serve(self) -> None:
        with self._runner:
            self._loop.run_forever()
