"""Actors of the inline engine: objects of this process, each with a queue of calls.

    plain      calls run one at a time, in the thread that makes them (or in the one that is in the
               actor already)
    threaded   (max_concurrency, concurrency_groups) on threads of the actor's own: a lane a group
    async      on an asyncio loop in a thread of the actor's own

What is always true
1. Calls leave the queue in the order in which they came in; one whose arguments are still to come
   holds up those behind it.
2. A plain actor is in one call at a time. A generator method is in it until its stream has ended:
   who waits for another call of the actor runs the generator to its end.
3. A dead actor has no queue, no lane, no loop and no instance. Who ends it does not wait for the
   threads of those, since it may run on one; the engine's shutdown does.
4. When an actor ends or starts again, each of its calls fails or goes back to the queue, once and
   under the lock. What its closed lanes and loop do with a call afterwards counts for nothing.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from weft._clock import monotonic, wall
from weft._lazy import lazy
from weft._runtime.inline_calls import InlineArguments, InlineCall, died_error, here
from weft._runtime.inline_streams import InlineStream, as_iterator
from weft._runtime.inline_threads import InlineLane, InlineLoop
from weft._runtime.inline_values import InlineValues, Token
from weft._runtime.invocation import TERMINATE, ActorLeaves, method_of, run_exit_hook
from weft._serialize.failures import describe_failure, unpack_failure
from weft.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    OptionError,
    PendingCallsLimitExceeded,
    TaskTimeoutError,
    WeftError,
)

if TYPE_CHECKING:
    import asyncio
    import inspect
    from collections.abc import AsyncIterable, Callable

    from weft._specs import ActorMeta, ActorSpec
else:
    asyncio = lazy("asyncio")
    inspect = lazy("inspect")

# How many calls an async actor takes at once where its class does not say: Ray's number.
ASYNC_CALLS = 1000


class InlineActor:
    """One actor."""

    def __init__(self, values: InlineValues, spec: ActorSpec) -> None:
        self.values = values
        self.meta: ActorMeta = spec.meta
        self.options = spec.options
        self.shape = spec.shape
        self.state = "pending"
        self.cause: WeftError | None = None
        self.restarts = 0
        self.token: ReferenceType[Token] | None = None
        self.instance: Any = None
        self.ending = False
        """Its last handle is gone: it ends after its calls."""
        self.on_dead: Callable[[InlineActor], None] = lambda _actor: None
        self._target: Callable[..., Any] = spec.code.target
        self._arguments = InlineArguments(values, spec.args, spec.kwargs, spec.meta.class_name)
        self._queue: deque[InlineCall] = deque()
        self._active: dict[InlineCall, None] = {}
        """Calls that have left the queue and not ended, in the order in which they started."""
        self._running: InlineCall | None = None
        """The call, or the constructor, that a plain actor is in."""
        self._stream: InlineStream | None = None
        """Whose generator a plain actor is in."""
        self._streams: dict[InlineCall, InlineStream] = {}
        self._is_awaiting = False
        groups = spec.options.concurrency_groups
        limit = spec.options.max_concurrency
        self._limits = {"": limit or (ASYNC_CALLS if spec.meta.is_async else 1), **groups}
        self._is_async = spec.meta.is_async
        self._is_threaded = not self._is_async and (bool(groups) or self._limits[""] > 1)
        self._lanes: dict[str, InlineLane] = {}
        self._loop: InlineLoop | None = None

    # -------------------------------------------------------------- calls come in

    def make_token(self) -> Token | None:
        """Return what the handles share; None for a detached actor."""
        if self.options.lifetime == "detached":
            return None
        token = self.token() if self.token is not None else None
        if token is None:
            token = Token(self, self.values.engine.drop)
            self.token = ref(token)
        return token

    def submit(self, call: InlineCall, stream: InlineStream | None) -> None:
        """Take a call.

        Its cells are made already. PendingCallsLimitExceeded, OptionError: it was not taken.
        """
        if call.group not in self._limits:
            known = ", ".join(sorted(filter(None, self._limits))) or "none"
            raise OptionError(
                f"concurrency_group={call.group!r} of {call.name} is no group of its class; "
                f"it has {known}"
            )
        if call.timeout_s is not None and not self._is_async:
            raise OptionError(
                f"timeout={call.timeout_s} of {call.name}: the inline engine cannot end a method; "
                "leave it out, or use engine='local'"
            )
        with self.values.lock:
            limit = self.meta.max_pending_calls
            if 0 <= limit <= len(self._queue) + len(self._active):
                raise PendingCallsLimitExceeded(
                    f"{self.meta.class_name} has {limit} calls waiting: {call.name} was not sent"
                )
            if stream is not None:
                self._streams[call] = stream
            if self.state != "dead":
                self._queue.append(call)
        if self.cause is not None:
            self._fail([call], self.cause)
        else:
            self.pump()

    def pump(self) -> None:
        """Start what can be started, in order. A plain actor's calls run in this thread."""
        while True:
            with self.values.lock:
                if self._running is not None or self.state == "dead" or self._is_awaiting:
                    return
                if self.state != "pending" and not self._queue:
                    if self.ending and not self._active:
                        break
                    return
                first = self._queue[0] if self.state != "pending" else None
                pending = (first.arguments if first is not None else self._arguments).pending()
                if pending and not (first is not None and first.is_cancelled):
                    self._is_awaiting = True
                    if not self.values.when_settled(pending[0], self._pump_elsewhere):
                        return
                    self._is_awaiting = False
                    continue
                is_plain = not self._is_async and not self._is_threaded
                call = first if first is not None else self._construction()
                if first is None or is_plain:
                    self._running = call
                if first is not None:
                    self._queue.popleft()
                    self._active[call] = None
                    if not is_plain and not call.is_cancelled:
                        # Inside the lock, so that calls start in the order of the queue.
                        self._start(call, self.instance)
                        continue
                instance = self.instance
            if first is None:
                self._construct(call)
            elif call.is_cancelled:
                call.settle_cancelled()
                self._done(call)
            else:
                self._run_plain(call, instance)
        self.end("its last handle is gone")

    def _pump_elsewhere(self) -> None:
        """An argument is there.

        Go on in a thread of its own, for this one belongs to somebody else.
        """
        self._is_awaiting = False
        if self.state != "dead":
            self.values.threads.start(self.meta.class_name, self.pump)

    # -------------------------------------------------------------- running them

    def _construction(self) -> InlineCall:
        name = f"{self.meta.class_name}.__init__"
        return InlineCall(
            self.values,
            self._arguments,
            name=name,
            function_name=name,
            num_returns=0,
            shape=self.shape,
            actor=self,
        )

    def _construct(self, call: InlineCall) -> None:
        failure = call.arguments.failure()
        instance: Any = None
        began_at, began = wall(), monotonic()
        token = here.set(call)
        call.thread = threading.get_ident()
        try:
            if failure is None:
                args, kwargs = call.arguments.load(self.values)
                instance = self._target(*args, **kwargs)
        except BaseException as error:
            if call.leaves:
                self._running = None
                self.end(f"{call.name} called exit_actor()")
                return
            failure = call.packed(error)
            if isinstance(error, KeyboardInterrupt):
                self.die(died_error(self, unpack_failure(failure.inband), init_failed=True))
                raise
        finally:
            call.thread = 0
            here.reset(token)
            call.end()
            if failure is not None:
                call.error = describe_failure(failure.inband)
            call.record(began_at, monotonic() - began)
        with self.values.lock:
            self._running = None
            if failure is None and self.state == "pending":
                self.instance = instance
                self.state = "alive"
        if failure is not None:
            self.die(died_error(self, unpack_failure(failure.inband), init_failed=True))
        elif call.leaves:
            self.end(f"{call.name} called exit_actor()")

    def _function(self, call: InlineCall, instance: Any) -> Callable[..., Any]:
        """Return what looks the method up when it is called: not finding it is the call's error."""

        def function(*args: Any, **kwargs: Any) -> Any:
            if call.method == TERMINATE:
                call.leaves = True
                raise ActorLeaves
            return method_of(instance, call.method)(*args, **kwargs)

        return function

    def _run_plain(self, call: InlineCall, instance: Any) -> None:
        stream = self._streams.get(call)
        if stream is not None:
            self._stream = stream
            stream.on_end = lambda: self._stream_ended(call)
            stream.start(self._function(call, instance))
            return
        try:
            call.run(self._function(call, instance))
        finally:
            self._done(call)

    def _stream_ended(self, call: InlineCall) -> None:
        self._stream = None
        self._done(call)
        self.pump()

    def _done(self, call: InlineCall, ran_on: InlineLane | InlineLoop | None = None) -> None:
        """A call has ended."""
        with self.values.lock:
            if ran_on is not None and ran_on.closed:
                return
            self._active.pop(call, None)
            self._streams.pop(call, None)
            if self._running is call:
                self._running = None
        if call.leaves:
            self.end(f"{call.name} called exit_actor()")

    def _start(self, call: InlineCall, instance: Any) -> None:
        """Let a call run on one of the actor's threads, or on its loop. Inside the lock."""
        function = self._function(call, instance)
        threads, class_name = self.values.threads, self.meta.class_name
        if self._is_async:
            loop = self._loop
            if loop is None:
                loop = self._loop = InlineLoop(threads, self._limits, class_name)
            is_taken = loop.post(self._start_coroutine, call, function, loop)
        else:
            lane = self._lanes.get(call.group)
            if lane is None:
                name = f"{class_name}-{call.group or 'calls'}"
                lane = self._lanes[call.group] = InlineLane(threads, self._limits[call.group], name)
            is_taken = lane.run(lambda: self._run_on_lane(call, function, lane))
        assert is_taken, "an actor lets go of what it closes, inside the lock"

    # -------------------------------------------------------------- a threaded actor's lanes

    def _run_on_lane(
        self, call: InlineCall, function: Callable[..., Any], lane: InlineLane
    ) -> None:
        with self.values.lock:
            if lane.closed:
                return
            stream = self._streams.get(call)
        if stream is not None:
            self._push(call, function, stream)
        else:
            # The call's references have it; this thread is none that Ctrl-C is meant for.
            with contextlib.suppress(KeyboardInterrupt):
                call.run(function)
        self._done(call, lane)
        self.pump()

    def _push(self, call: InlineCall, function: Callable[..., Any], stream: InlineStream) -> None:
        """Run a generator method to its end, no further ahead than its consumer allows."""
        token = here.set(call)
        call.thread = threading.get_ident()
        try:
            args, kwargs = call.arguments.load(self.values)
            for value in as_iterator(function(*args, **kwargs), call.function_name):
                stream.add(value)
                if not stream.await_room():
                    break
        except BaseException as error:  # noqa: BLE001 - the user's error is the answer
            stream.finish(call.packed(error))
        else:
            stream.finish()
        finally:
            call.thread = 0
            here.reset(token)

    # -------------------------------------------------------------- an async actor's loop

    def _start_coroutine(
        self, call: InlineCall, function: Callable[..., Any], loop: InlineLoop
    ) -> None:
        with self.values.lock:
            if loop.closed:
                return
            stream = self._streams.get(call)
        call.coroutine = loop.start(self._run_async(call, function, stream, loop))
        # A callback, for a task that is cancelled before its first step runs nothing of its own.
        call.coroutine.add_done_callback(
            lambda task: self._coroutine_ended(call, stream, loop, cancelled=task.cancelled())
        )

    def _coroutine_ended(
        self, call: InlineCall, stream: InlineStream | None, loop: InlineLoop, *, cancelled: bool
    ) -> None:
        if loop.closed:
            return
        if cancelled:
            # It was still waiting for its turn.
            call.settle_cancelled()
            if stream is not None:
                stream.cancel()
        self._done(call, loop)
        self.pump()

    async def _run_async(
        self,
        call: InlineCall,
        function: Callable[..., Any],
        stream: InlineStream | None,
        loop: InlineLoop,
    ) -> None:
        async with loop.slots[call.group]:
            here.set(call)
            while await self._attempt(call, function, stream, loop):
                pass

    async def _attempt(
        self,
        call: InlineCall,
        function: Callable[..., Any],
        stream: InlineStream | None,
        loop: InlineLoop,
    ) -> bool:
        """Run a call once; True if it is to run again."""
        failure = call.arguments.failure()
        if failure is not None:
            call.settle_failure(failure)
            if stream is not None:
                stream.finish(failure)
            return False
        call.attempts += 1
        began_at, began = wall(), monotonic()
        try:
            async with asyncio.timeout(call.timeout_s):
                args, kwargs = call.arguments.load(self.values)
                result = function(*args, **kwargs)
                if stream is not None:
                    await self._push_async(stream, result, loop)
                    stream.finish()
                    return False
                if inspect.isawaitable(result):
                    result = await result
                parts = call.parts(result)
        except BaseException as error:  # noqa: BLE001 - the user's error is the answer
            if loop.closed:
                return False
            if (
                isinstance(error, TimeoutError)
                and call.timeout_s is not None
                and monotonic() - began >= call.timeout_s
            ):
                call.settle_stopped(TaskTimeoutError(task=call.name, timeout_s=call.timeout_s))
            elif call.is_retriable(error) and stream is None:
                return True
            elif stream is not None:
                stream.finish(call.packed(error))
            else:
                call.settle_error(error)
        else:
            if not loop.closed:
                call.settle(parts)
        finally:
            call.record(began_at, monotonic() - began)
        return False

    async def _push_async(self, stream: InlineStream, result: Any, loop: InlineLoop) -> None:
        if inspect.isasyncgen(result):
            # Closed here and at once, not when the garbage collector finds it.
            async with contextlib.aclosing(result):
                await self._push_all(stream, result, loop)
        elif hasattr(result, "__aiter__"):
            await self._push_all(stream, result, loop)
        else:
            for value in as_iterator(result, stream.call.function_name):
                stream.add(value)
                if not await self._await_room(stream, loop):
                    return

    async def _push_all(
        self, stream: InlineStream, values: AsyncIterable[Any], loop: InlineLoop
    ) -> None:
        async for value in values:
            stream.add(value)
            if not await self._await_room(stream, loop):
                return

    async def _await_room(self, stream: InlineStream, loop: InlineLoop) -> bool:
        while True:
            changed = asyncio.Event()
            if stream.has_room(lambda changed=changed: loop.post(changed.set)):  # type: ignore[misc]
                return not stream.ended
            await changed.wait()

    # -------------------------------------------------------------- cancelling, and who waits

    def cancel(self, call: InlineCall) -> None:
        """End a call that waits here; ask one that runs on the loop to end."""
        call.is_cancelled = True
        with self.values.lock:
            is_waiting = call in self._queue
            if is_waiting:
                self._queue.remove(call)
                self._streams.pop(call, None)
                self._is_awaiting = False
            if self._loop is not None and call in self._active:
                # After what starts it.
                self._loop.post(self._cancel_coroutine, call, self._loop)
        if is_waiting:
            call.settle_cancelled()
            self.pump()

    def _cancel_coroutine(self, call: InlineCall, loop: InlineLoop) -> None:
        if not loop.closed and call.coroutine is not None:
            call.coroutine.cancel()

    def is_held_by_this_thread(self) -> bool:
        """Tell whether a plain actor is in a call that the calling thread runs."""
        running = self._running
        return running is not None and running.thread == threading.get_ident()

    def nudge(self) -> None:
        """Somebody waits for a call that waits here.

        Run the generator that the actor is in to its end.
        """
        stream = self._stream
        if stream is not None and not self.is_held_by_this_thread():
            stream.run_to_end()

    def nudge_for(self, stream: InlineStream) -> None:
        """Somebody waits for an item of a generator that waits here: as `nudge`."""
        if self._stream is not stream:
            self.nudge()

    def busy_with(self) -> str:
        """Say what holds up the calls that wait."""
        if self.state == "pending":
            return "its constructor has not run yet"
        names = [call.name for call in (self._active or ())]
        return f"it runs {', '.join(sorted(names)[:3])}" if names else "nothing runs in it"

    # -------------------------------------------------------------- its end

    def died(self, cause: str) -> ActorDiedError:
        """Return the error of calls of this actor once it is gone."""
        return died_error(self, cause)

    def drop_handles(self) -> None:
        """The last handle is gone: end after the calls that are there."""
        self.ending = True
        self.pump()

    def end(self, reason: str) -> None:
        """End it cleanly: exit hooks run."""
        with self.values.lock:
            if self.state == "dead":
                return
            instance = self.instance
            is_alive = self.state == "alive"
        self.die(self.died(reason))
        if is_alive:
            try:
                run_exit_hook(instance)
            except BaseException:  # noqa: BLE001 - a hook's error is shown, and that is all
                sys.excepthook(*sys.exc_info())

    def kill(self, *, no_restart: bool) -> None:
        """End it at once; start it again if it may be."""
        left = self.options.max_restarts
        if no_restart or (0 <= left <= self.restarts):
            self.die(self.died("it was killed with weft.kill"))
            return
        with self.values.lock:
            if self.state == "dead":
                return
            self.restarts += 1
            again = [call for call in self._active if self._is_repeatable(call)]
            lost = [call for call in self._active if call not in again]
            for call in again:
                call.coroutine = None
            self._queue.extendleft(reversed(again))
            self._stop()
            self.state = "pending"
        error = ActorUnavailableError("it was killed and starts again", self.meta.actor_id)
        self._fail(lost, error)
        self.pump()

    def _is_repeatable(self, call: InlineCall) -> bool:
        """Tell whether a call that runs is to run again after a kill."""
        # A stream's consumer has had items already.
        if call.ended or call in self._streams:
            return False
        return call.retries < 0 or call.attempts <= call.retries

    def die(self, cause: WeftError) -> None:
        """End it at once; its calls fail with `cause`."""
        with self.values.lock:
            if self.state == "dead":
                return
            self.state = "dead"
            self.cause = cause
            lost = [*self._active, *self._queue]
            self._queue.clear()
            self._stop()
        self._fail(lost, cause)
        self.on_dead(self)

    def _stop(self) -> None:
        """Let go of the instance and of what its calls run on."""
        self.instance = None
        self._running = self._stream = None
        self._is_awaiting = False
        self._active = {}
        for lane in self._lanes.values():
            lane.close()
        self._lanes = {}
        if self._loop is not None:
            self._loop.close()
        self._loop = None

    def _fail(self, calls: list[InlineCall], error: WeftError) -> None:
        packed = self.values.pack_error(error)
        for call in calls:
            stream = self._streams.pop(call, None)
            if stream is not None:
                stream.on_end = lambda: None
                stream.finish(packed)
            call.settle_failure(packed)
