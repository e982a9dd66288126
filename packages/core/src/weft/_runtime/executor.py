"""The part of a worker that runs what others send.

Tasks, and the calls of the one actor that it may become.

Tasks and plain actors' calls run on the main thread, one at a time, in the order of arrival;
threaded actors' on pools, one a concurrency group; async actors' on an asyncio loop in the main
thread, which then also reads the sockets.

A worker that is busy for long, or blocked, gives the tasks that wait here back to their owners. An
answer with references inside waits until their owners count who holds them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from weft import _settings
from weft._clock import monotonic, wall
from weft._ids import TaskId
from weft._lazy import lazy
from weft._machines.ownership import TaskEnding
from weft._resources import UNITS
from weft._runtime.actors import Actor
from weft._runtime.answers import Answers, Job
from weft._runtime.arguments import prefetch, unpack_arguments
from weft._runtime.invocation import ActorLeaves
from weft._runtime.loop import QUIET_S, Waiter
from weft._runtime.reasons import Reason, Step, explain_waits, unknown_task
from weft._runtime.running import Running, running
from weft._serialize.pickling import load_code
from weft._specs import Shape
from weft._wire.messages import (
    Abort,
    ActorExit,
    ActorReady,
    Assigned,
    BecomeActor,
    Busy,
    Call,
    Cancel,
    Export,
    GiveBack,
    Quit,
    Run,
)

if TYPE_CHECKING:
    import inspect
    import mmap
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet
    from types import FrameType

    from weft._runtime import job_capsules
    from weft._runtime.job_capsules import JobCapsules
    from weft._runtime.peers import Peer
    from weft._runtime.runtime import Runtime
    from weft._wire.messages import Packed

    Find = Callable[[], tuple[Callable[..., Any], Any, Any]]
    """Finds a job's code and arguments: (callable, args, kwargs)."""
else:
    inspect = lazy("inspect")
    job_capsules = lazy("weft._runtime.job_capsules")


# A signal that comes just before the kernel's wait does not end it: so it is sent again after so
# long, and after twice as long, and so on.
AGAIN_S = 0.01
# The status page; see _node/processes.py.
_LENGTH_AT = 20
_ASKS_AT = 4094
_LENDER_AT = 4095
_MAY_REPEAT = 1
_IS_TIMED = 2


class Executor:
    """What a worker does beside being a Runtime."""

    def __init__(self, runtime: Runtime, page: mmap.mmap) -> None:
        self.runtime = runtime
        self.guard = runtime.guard
        self.actor: Actor | None = None
        self.assigned: Assigned | None = None
        self.capsules: JobCapsules | None = None
        if runtime.capsules is not None:
            self.capsules = job_capsules.JobCapsules(runtime.capsules, runtime.links)
        self.own_variables: AbstractSet[str] = frozenset()
        """What the runtime environment sets: that stays."""
        self.sets_threads = False
        """The user has not said how many threads numerical libraries use: the CPUs say it."""
        self._page = page
        self._queue: deque[Job | BecomeActor] = deque()
        self._running: dict[TaskId, Running] = {}
        self._idle: Waiter | None = None
        self._quit: Quit | None = None
        self._code: dict[bytes, tuple[str, bytes]] = {}
        self._functions: dict[bytes, Callable[..., Any]] = {}
        self._page_tails: dict[tuple[str, int], bytes] = {}
        self._calls_of: dict[bytes, int] = {}
        self._main: Running | None = None
        """What runs on the main thread."""
        self._main_began = 0.0
        self._to_interrupt: Running | None = None
        """What was cancelled, until the interrupt has reached it."""
        self._interrupt_at = 0.0
        """When it is interrupted again."""
        self._again_s = AGAIN_S
        self.answers = Answers(runtime, self._give_back)
        runtime.values.on_block = self._give_back
        runtime.on_quiet = self._give_back
        runtime.questions.explain_task = self._explain
        runtime.inspection.running = self._running.values
        runtime.ticks.append(self._tick)
        runtime.on_peer_lost = self._on_peer_lost
        runtime.handlers.update(
            {
                Export: self._on_export,
                Run: self._on_run,
                Call: self._on_call,
                Cancel: self._on_cancel,
                Abort: self._on_abort,
                Quit: self._on_quit,
                BecomeActor: self._on_become,
                Assigned: self._on_assigned,
            }
        )
        signal.signal(signal.SIGINT, self._interrupted)
        self._show_unraisable = sys.unraisablehook
        sys.unraisablehook = self._unraisable

    # -------------------------------------------------------------- messages, inside the guard

    def _on_export(self, peer: Peer, message: Export) -> None:
        self._code.setdefault(message.function_id, (message.name, message.code))

    def _on_run(self, peer: Peer, message: Run) -> None:
        is_busy = self._main is not None and monotonic() - self._main_began > QUIET_S
        if is_busy or self._quit is not None:
            self.runtime.peers.send(peer, GiveBack([message.task_id], busy=True))
            return
        self._receive(self._job(peer, message))

    def _job(self, peer: Peer, message: Run | Call) -> Job:
        """Return what a message asks for; large arguments of other nodes are sent for."""
        job = Job(peer, message)
        if message.owners and self.runtime.objects.copies is not None:
            job.brought = prefetch(self.runtime.objects, message)
        return job

    def _on_call(self, peer: Peer, message: Call) -> None:
        job = self._job(peer, message)
        if self.actor is None or self.actor.runs_on_main:
            self._receive(job)
        else:
            self.answers.jobs[TaskId(message.task_id)] = job
            self.actor.start(job, message.group)

    def _receive(self, job: Job) -> None:
        self.answers.jobs[TaskId(job.message.task_id)] = job
        self._enqueue(job)

    def _enqueue(self, item: Job | BecomeActor) -> None:
        self._queue.append(item)
        if self._idle is not None:
            idle, self._idle = self._idle, None
            idle.ready()

    def _on_become(self, peer: Peer, message: BecomeActor) -> None:
        self.runtime.links.parent = _parent(message)
        self._enqueue(message)

    def _on_assigned(self, peer: Peer, message: Assigned) -> None:
        self.assigned = message
        self.runtime.links.parent = _parent(message)
        self.show_share(message.resources, message.variables)

    def show_share(self, resources: dict[str, int], variables: dict[str, str]) -> None:
        """Let libraries see this process's own devices, and start threads for its CPUs, only.

        A library that has looked already keeps what it saw.
        """
        os.environ.update(
            {name: text for name, text in variables.items() if name not in self.own_variables}
        )
        if self.sets_threads:
            _settings.set_threads(resources.get("CPU", 0) // UNITS)

    def _on_cancel(self, peer: Peer, message: Cancel) -> None:
        task_id = TaskId(message.task_id)
        now = self._running.get(task_id)
        if now is None:
            self._drop(task_id)
            return
        if now.cancelled:
            return
        now.cancelled = True
        now.is_late = message.is_late
        if message.recursive and now.children:
            for child in list(now.children):
                self.runtime.cancel_task(child, force=False)
        if self.actor is not None and not self.actor.runs_on_main:
            self.actor.cancel(task_id)
        elif now is self._main:
            self._to_interrupt = now
            self._again_s = AGAIN_S
            self._interrupt()

    def _drop(self, task_id: TaskId) -> None:
        """End a job that was cancelled before it began."""
        job = self.answers.jobs.get(task_id)
        if job is None:
            return
        try:
            self._queue.remove(job)
        except ValueError:
            # A thread is just about to begin it: it looks first.
            job.is_cancelled = True
        else:
            self.answers.send(
                job,
                [self.answers.cancelled(job.message)] * max(1, job.message.num_returns),
                wall(),
                0.0,
            )

    def _on_abort(self, peer: Peer, message: Abort) -> None:
        """End this process if it runs the task.

        It cannot begin another meanwhile: at its end it takes the guard, which is held here.
        """
        task_id = TaskId(message.task_id)
        now = self._running.get(task_id)
        if now is None:
            self._drop(task_id)
        elif not now.finished:
            # What was answered before is still to be sent.
            self.runtime.peers.drain()
            os.killpg(0, signal.SIGKILL)

    def _interrupt(self) -> None:
        """Interrupt the main thread, and again unless `_interrupted` is called."""
        assert self._to_interrupt is not None
        self._interrupt_at = monotonic() + self._again_s
        self._again_s *= 2
        signal.pthread_kill(self._to_interrupt.thread, signal.SIGINT)

    def _interrupted(self, _number: int, frame: FrameType | None) -> None:
        now = self._main
        if now is None or not now.cancelled or now.finished:
            return
        while frame is not None:
            if frame.f_code is Executor._unraisable.__code__:
                # What it raises would be lost, so it is to come again.
                return
            frame = frame.f_back
        self._to_interrupt = None
        self.guard.interrupt(KeyboardInterrupt())

    def _unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        """An exception reaches nobody: a destructor raised it, or was interrupted."""
        now = self._main
        is_ours = now is not None and now.cancelled and not now.finished
        if is_ours and isinstance(unraisable.exc_value, KeyboardInterrupt):
            # The destructor has ended by it; its task is still to be.
            self._again_s, self._interrupt_at = AGAIN_S, 0.0
            self._to_interrupt = now
            self.runtime.loop.nudge()
        else:
            self._show_unraisable(unraisable)

    def _on_peer_lost(self, peer: Peer) -> None:
        """A caller is gone: what it asked for, and nobody would take, is not begun or is ended."""
        self.answers.forget(peer)
        for task_id, job in list(self.answers.jobs.items()):
            if job.peer is not peer:
                continue
            job.is_cancelled = True
            if job in self._queue:
                self._queue.remove(job)
                del self.answers.jobs[task_id]
            elif self.actor is not None:
                self.actor.cancel(task_id)

    def _on_quit(self, peer: Peer, message: Quit) -> None:
        self._quit = message
        if self._idle is not None:
            idle, self._idle = self._idle, None
            idle.ready()
        if self.actor is not None:
            self.actor.quit()

    def _explain(self, task_id: TaskId) -> Reason:
        now = self._running.get(task_id)
        if now is not None and now.waits_for_memory:
            home = self.runtime.links.home
            room = Step("room", home.daemon_address(), self.runtime.worker_id)
            return Reason(f"{now.name} (waits for room in shared memory)", [room])
        if now is not None:
            return explain_waits(now.name, now.began, now.waits, self.runtime.links.address)
        if task_id in self.answers.jobs:
            if self._main is not None:
                first = Step("task", self.runtime.links.address, self._main.task_id)
                return Reason(f"it waits behind {self._main.name}", [first])
            return Reason("it waits for a free thread of its actor")
        return unknown_task(task_id)

    def _give_back(self) -> None:
        """The main thread is busy for a while: its waiting tasks go back to their owners."""
        given: dict[Peer, list[bytes]] = {}
        kept: list[Job | BecomeActor] = []
        while self._queue:
            try:
                item = self._queue.popleft()
            except IndexError:
                break
            if isinstance(item, Job) and isinstance(item.message, Run):
                given.setdefault(item.peer, []).append(item.message.task_id)
                del self.answers.jobs[TaskId(item.message.task_id)]
            else:
                kept.append(item)
        self._queue.extendleft(reversed(kept))
        for peer, task_ids in given.items():
            self.runtime.peers.send(peer, GiveBack(task_ids, busy=True))
        self.runtime.peers.flush()

    # -------------------------------------------------------------- the main thread

    def serve(self) -> str:
        """Run what comes until told to quit; return why."""
        queue = self._queue
        loop = self.runtime.loop
        while not loop.closed:
            try:
                item = queue.popleft()
            except IndexError:
                self._page[_LENGTH_AT : _LENGTH_AT + 2] = b"\0\0"
                waiter = Waiter()
                with self.guard:
                    if queue:
                        continue
                    if self._quit is not None and not self._is_needed():
                        return "told to"
                    self._idle = waiter
                loop.wait(waiter)
                continue
            if isinstance(item, Job):
                self._run_on_main(item)
                if self.actor is not None and self.actor.exiting:
                    return self.actor.exiting
            else:
                actor = Actor(self, item)
                if actor.exiting:
                    return actor.exiting
                if not actor.runs_on_main:
                    return actor.serve()
        return "the daemon is gone"

    def _tick(self, now: float) -> float | None:
        """Do what is due, or what was waited for may have come; return when to call again."""
        self._page[_LENDER_AT] = self.runtime.objects.machine.is_lender
        if self._quit is not None and self._idle is not None and not self._is_needed():
            idle, self._idle = self._idle, None
            idle.ready()
        if self._to_interrupt is None:
            return None
        if self._to_interrupt is not self._main or self._to_interrupt.finished:
            self._to_interrupt = None
            return None
        if self._interrupt_at <= now:
            self._interrupt()
        return self._interrupt_at

    def _is_needed(self) -> bool:
        """Others hold objects of this process: a graceful end waits for them."""
        assert self._quit is not None
        return self._quit.graceful and any(
            entry.borrowers
            for entry in self.runtime.objects.machine.entries.values()
            if not entry.owner
        )

    def _run_on_main(self, job: Job) -> None:
        message = job.message
        self._main_began = monotonic()
        self.run(job, is_main=True)
        if type(message) is Run and message.max_calls:
            count = self._calls_of[message.function_id] = (
                self._calls_of.get(message.function_id, 0) + 1
            )
            if count >= message.max_calls:
                with self.guard:
                    self._give_back()
                    self._quit = Quit(graceful=True)

    def run(self, job: Job, *, is_main: bool) -> None:
        """Run a job in this thread and answer it."""
        message = job.message
        task_id = TaskId(message.task_id)
        began_at, began = wall(), monotonic()
        now, find = self.begin(job, task_id)
        token = running.set(now)
        if is_main:
            self._main = now
        else:
            job.is_eager = True
        try:
            values = self._outcome(job, now, find)
        except KeyboardInterrupt as late:
            # A cancellation that came while an error was being packed.
            now.finished = True
            values = self.answers.failures(job, late, cancelled=True)
        self.end(job, now, values, began_at, monotonic() - began)
        running.reset(token)
        if is_main:
            self._main = None

    def _outcome(self, job: Job, now: Running, find: Find) -> list[Packed]:
        try:
            values = self._call(job, *find())
            # Interrupts that come later are for nobody: see `_interrupted`.
            now.finished = True
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is the answer
            now.finished = True
            return self.failures(job, now, error, cancelled=now.cancelled or job.is_cancelled)
        return values

    def failures(
        self, job: Job, now: Running | None, error: BaseException, *, cancelled: bool
    ) -> list[Packed]:
        """Return the answer of a job that failed, and leave a capsule where those are wanted.

        `now` is None if it was cancelled before it began.
        """
        if self.capsules is not None and now is not None and not isinstance(error, ActorLeaves):
            is_its_own = isinstance(error, Exception) or not cancelled or now.is_late
            if is_its_own and self.actor is not None:
                self.capsules.of_call(job, now, error, self.actor)
            elif is_its_own:
                function_id = job.message.function_id  # type: ignore[union-attr]  # a Run
                self.capsules.of_task(
                    job,
                    now,
                    error,
                    code=self._code[function_id],
                    function=self._functions.get(function_id),
                    resources={} if self.assigned is None else self.assigned.resources,
                )
        return self.answers.failures(job, error, cancelled=cancelled)

    def _call(self, job: Job, target: Callable[..., Any], args: Any, kwargs: Any) -> list[Packed]:
        # Its frame holds the arguments: they, and the views in them, are gone when it returns.
        return self.answers.values(job, target(*args, **kwargs))

    def begin(self, job: Job, task_id: TaskId) -> tuple[Running, Find]:
        """Note that a job runs; return its record and what finds its code and arguments."""
        message = job.message
        if type(message) is Run:
            job.function = name = self._code[message.function_id][0]
            target = None
            facts = message.may_repeat * _MAY_REPEAT
        else:
            assert type(message) is Call
            assert self.actor is not None
            job.function = name = f"{self.actor.name}.{message.method}"
            target = message.method
            facts = 0
        facts |= (message.timeout_s > 0) * _IS_TIMED
        now = Running(
            task_id,
            name=message.name,
            function=name,
            depth=message.depth,
            thread=threading.get_ident(),
            began=monotonic(),
        )
        self._running[task_id] = now
        tail = self._page_tails.get((name, facts))
        if tail is None:
            tail = self._page_tails[name, facts] = page_tail(name, facts)
        attempt = message.attempt.to_bytes(4, "little")
        self._page[: _LENGTH_AT + len(tail)] = task_id + attempt + tail
        if self._page[_ASKS_AT]:
            self._page[_ASKS_AT] = 0
            self.tell_daemon(Busy())

        def find() -> tuple[Callable[..., Any], Any, Any]:
            if job.is_cancelled or now.cancelled:
                raise KeyboardInterrupt
            args, kwargs = unpack_arguments(
                self.runtime.objects, message.args, message.deps, message.owners, message.large
            )
            if target is None:
                function = self._function(message.function_id)  # type: ignore[union-attr]  # a Run
            else:
                assert self.actor is not None
                function = self.actor.method(target)
            if self.capsules is not None:
                self.capsules.begin(job)
            return function, args, kwargs

        return now, find

    def _function(self, function_id: bytes) -> Callable[..., Any]:
        function = self._functions.get(function_id)
        if function is None:
            function = self._functions[function_id] = load_code(self._code[function_id][1])
        return function

    def end(
        self,
        job: Job,
        now: Running | None,
        values: list[Packed],
        began_at: float,
        duration_s: float,
    ) -> None:
        """Answer a job. `now` is None if it was cancelled before it began."""
        with self.guard:
            if now is not None:
                now.finished = True
                self._running.pop(now.task_id, None)
                if self._main is None and not self._running:
                    # The main thread says so itself. If another thread begins between these two,
                    # the page is wrong until the next one begins.
                    self._page[_LENGTH_AT : _LENGTH_AT + 2] = b"\0\0"
            objects = self.runtime.objects
            objects.drain()
            machine = objects.machine
            if machine.unregistered:
                objects.handle(TaskEnding())
            if machine.asked:
                # Also those that other jobs here have asked for: this one may hold them too.
                object_ids = list(machine.asked)
                job.is_eager = True
                self.runtime.objects.when_registered(
                    object_ids, lambda: self.answers.send(job, values, began_at, duration_s)
                )
            else:
                self.answers.send(job, values, began_at, duration_s)

    def enter(self, now: Running) -> None:
        """Note that something runs here that is no job."""
        self._running[now.task_id] = now

    def leave(self, now: Running) -> None:
        """It runs no more."""
        del self._running[now.task_id]

    def register_held(self) -> None:
        """Let the owners count what an actor's constructor kept."""
        with self.guard:
            self.runtime.objects.drain()
            self.runtime.objects.handle(TaskEnding())
            self.runtime.peers.flush()

    def tell_daemon(self, message: ActorReady | ActorExit | Busy) -> None:
        """Send the daemon a message at once."""
        with self.guard:
            self.runtime.peers.send(self.runtime.links.daemon, message)
            self.runtime.peers.flush()


def _parent(message: Assigned | BecomeActor) -> Shape | None:
    """Return what captures what is started here, if it does."""
    return Shape(strategy=message.group, captures=True) if message.captures else None


def page_tail(name: str, facts: int) -> bytes:
    """Return what follows a task's attempt in the status page."""
    encoded = name.encode()[:4000]
    return len(encoded).to_bytes(2, "little") + bytes([facts]) + encoded + b"\0"
