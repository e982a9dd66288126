"""The actor that a worker is: its instance, and on what its calls run."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from weft._clock import monotonic, wall
from weft._ids import ActorId, TaskId
from weft._lazy import lazy
from weft._runtime.answers import NOT_NOTED
from weft._runtime.arguments import unpack_arguments
from weft._runtime.invocation import TERMINATE, ActorLeaves, method_of, run_exit_hook, split
from weft._runtime.running import Running, running
from weft._serialize.failures import pack_short_failure
from weft._serialize.pickling import load_code
from weft._wire.messages import ERROR_BYTES, ActorExit, ActorReady

if TYPE_CHECKING:
    import asyncio
    import inspect
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor, thread

    from weft._runtime.answers import Job
    from weft._runtime.executor import Executor
    from weft._wire.messages import BecomeActor, Packed
else:
    asyncio = lazy("asyncio")
    inspect = lazy("inspect")
    thread = lazy("concurrent.futures.thread")

# An async actor takes so many calls at once where its class does not say.
ASYNC_CALLS = 1000


class LoopWaiter:
    """A coroutine's wait for its consumer."""

    __slots__ = ("_event", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        self._loop = loop
        self._event = event

    def ready(self) -> None:
        """The consumer has taken something."""
        _post(self._loop, self._event.set)


def _post(
    loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object
) -> None:
    """Run `function` on another thread's loop; nothing if the actor has ended and closed it."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise


class Actor:
    """One actor in its process."""

    def __init__(self, executor: Executor, message: BecomeActor) -> None:
        self.executor = executor
        self.actor_id = ActorId(message.meta.actor_id)
        self.meta = message.meta
        self.name = message.meta.class_name
        self.owner = message.owner
        self.restarts = message.restarts
        self.resources = message.resources
        self.accelerators = message.accelerators
        self.group = message.group
        self.captures = message.captures
        self.exiting = ""
        """Why the actor ends itself."""
        options = message.options
        self.is_detached = options.get("lifetime") == "detached"
        self._limit: int | None = options.get("max_concurrency")
        self._groups: dict[str, int] = options.get("concurrency_groups") or {}
        self.is_async = message.meta.is_async
        threaded = bool(self._groups) or (self._limit or 1) > 1
        self.runs_on_main = not self.is_async and not threaded
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._tasks: dict[TaskId, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event
        self._over = threading.Event()
        self._flushing = False
        self.instance: Any = None
        self._group_of: dict[str, str] = {
            name: method.concurrency_group
            for name, method in message.meta.methods.items()
            if method.concurrency_group
        }
        self.creation = message
        if threaded and not self.is_async:
            for group, limit in {"": self._limit or 1, **self._groups}.items():
                self._pools[group] = thread.ThreadPoolExecutor(
                    limit, thread_name_prefix=f"weft-{group or 'actor'}"
                )
        if not self.is_async:
            self._construct()

    def _construct(self) -> None:
        message = self.creation
        executor = self.executor
        now = Running(
            TaskId(self.actor_id),
            name=f"{self.name}.__init__",
            function=f"{self.name}.__init__",
            depth=0,
            thread=threading.get_ident(),
            began=monotonic(),
        )
        executor.actor = self
        executor.show_share(self.resources, message.variables)
        token = running.set(now)
        capsules, cls, states = executor.capsules, None, NOT_NOTED
        executor.enter(now)
        try:
            args, kwargs = unpack_arguments(
                executor.runtime.objects, message.args, message.deps, message.owners, message.large
            )
            cls = load_code(message.code)
            if capsules is not None:
                states = capsules.begin_constructor()
            self.instance = cls(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - the constructor's error is the creation's answer
            if capsules is not None and not isinstance(error, ActorLeaves):
                capsules.of_constructor(message, error, cls, states)
            packed = pack_short_failure(error, ERROR_BYTES, task=f"{self.name}.__init__")
            executor.tell_daemon(ActorReady(self.actor_id, packed))
            self.exiting = "its constructor failed"
            return
        finally:
            running.reset(token)
            executor.leave(now)
        executor.register_held()
        executor.tell_daemon(ActorReady(self.actor_id))

    def method(self, name: str) -> Callable[..., Any]:
        """Return the bound method `name`."""
        if name == TERMINATE:
            return self._end_by_call
        return method_of(self.instance, name)

    def _end_by_call(self) -> None:
        self.exit("it was asked to terminate")

    def exit(self, reason: str) -> None:
        """End the actor after the running call."""
        self.exiting = reason

    # -------------------------------------------------------------- threads and loops

    def start(self, job: Job, group: str) -> None:
        """Start a call on its pool or on the loop. Inside the guard, in the order of arrival."""
        if self.exiting:
            # Its caller learns from the directory that the actor is gone.
            del self.executor.answers.jobs[TaskId(job.message.task_id)]
            return
        method = getattr(job.message, "method", "")
        group = group or self._group_of.get(method, "")
        if self._loop is not None:
            _post(self._loop, self._start_on_loop, job, group)
        elif group in self._pools:
            self._pools[group].submit(self._run_on_pool, job)
        else:
            self.executor.answers.refuse(job, self._no_group(group))

    def _no_group(self, group: str) -> ValueError:
        known = ", ".join(sorted(self._groups)) or "none"
        return ValueError(f"{self.name} has no concurrency group {group!r}; it has: {known}")

    def _run_on_pool(self, job: Job) -> None:
        self.executor.run(job, is_main=False)
        if self.exiting:
            self._over.set()

    def serve(self) -> str:
        """Run calls until the actor ends; return why. On the main thread."""
        if self.is_async:
            asyncio.run(self._serve_async())
        else:
            self._over.wait()
            for pool in self._pools.values():
                pool.shutdown(wait=True, cancel_futures=True)
        return self.exiting or "told to"

    async def _serve_async(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._slots = {
            group: asyncio.Semaphore(limit)
            for group, limit in {"": self._limit or ASYNC_CALLS, **self._groups}.items()
        }
        self._construct()
        if self.exiting:
            return
        await self._ended.wait()

    def _start_on_loop(self, job: Job, group: str) -> None:
        assert self._loop is not None
        task_id = TaskId(job.message.task_id)
        if self._ended.is_set():
            return
        if group not in self._slots:
            with self.executor.guard:
                self.executor.answers.refuse(job, self._no_group(group))
            return
        task = self._loop.create_task(self._run_async(job, self._slots[group], task_id))
        self._tasks[task_id] = task

    async def _run_async(self, job: Job, slots: asyncio.Semaphore, task_id: TaskId) -> None:
        executor = self.executor
        began_at, began = wall(), monotonic()
        values: list[Packed]
        now: Running | None = None
        try:
            async with slots:
                began_at, began = wall(), monotonic()
                now, find = executor.begin(job, task_id)
                running.set(now)
                values = await self._call(job, *find())
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is the call's answer
            cancelled = isinstance(error, asyncio.CancelledError) and (now is None or now.cancelled)
            if isinstance(error, asyncio.CancelledError) and self._ended.is_set():
                # The actor ends: its callers learn that from the directory.
                return
            values = executor.failures(job, now, error, cancelled=cancelled)
        executor.end(job, now, values, began_at, monotonic() - began)
        self._tasks.pop(task_id, None)
        self._flush_soon()
        if self.exiting:
            self._ended.set()

    async def _call(
        self, job: Job, target: Callable[..., Any], args: Any, kwargs: Any
    ) -> list[Packed]:
        # Its frame holds the arguments: they, and the views in them, are gone when it returns.
        result = target(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
        return await self._values(job, result)

    async def _values(self, job: Job, result: Any) -> list[Packed]:
        executor = self.executor
        count = job.message.num_returns
        if count == 1:
            return [executor.answers.pack(job, result)]
        if count >= 0:
            return executor.answers.pack_all(job, split(result, count, job.function))
        if hasattr(result, "__aiter__"):
            async for value in result:
                executor.answers.send_item(job, executor.answers.pack(job, value))
                self._flush_soon()
                await self._await_consumer(job)
        else:
            for value in result:
                executor.answers.send_item(job, executor.answers.pack(job, value))
                self._flush_soon()
                await self._await_consumer(job)
        return [executor.answers.pack(job, None)]

    async def _await_consumer(self, job: Job) -> None:
        assert self._loop is not None
        while True:
            changed = asyncio.Event()
            if not self.executor.answers.wait_for_consumer(job, LoopWaiter(self._loop, changed)):
                return
            await changed.wait()

    def _flush_soon(self) -> None:
        """Send what is queued when the loop has run what is ready.

        Answers of one turn go together.
        """
        if not self._flushing:
            assert self._loop is not None
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        with self.executor.guard:
            self.executor.runtime.peers.flush()

    def cancel(self, task_id: TaskId) -> None:
        """Cancel a running call: of a coroutine at its next `await`; of a thread not at all.

        Inside the guard.
        """
        task = self._tasks.get(task_id)
        if task is not None and self._loop is not None:
            _post(self._loop, task.cancel)

    def quit(self) -> None:
        """Let `serve` return. Inside the guard."""
        if self._loop is not None:
            _post(self._loop, self._ended.set)
        self._over.set()

    def terminate(self) -> None:
        """Run the class's own exit hook, if it has one."""
        if self.instance is not None:
            run_exit_hook(self.instance)

    def end_message(self) -> ActorExit:
        """Return what tells the directory that the actor ends itself."""
        return ActorExit(self.actor_id, self.exiting)
