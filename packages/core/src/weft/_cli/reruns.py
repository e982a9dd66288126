"""A capsule's call, made again in this process.

It is made by the inline engine, so that nested tasks run here too, and `get_runtime_context` knows
of a task. An actor is made anew by its constructor, and the call is its first: what earlier calls
had made of it is not in a capsule.
"""

from __future__ import annotations

import contextlib
import faulthandler
import inspect
import os
import signal
import sys
from bdb import BdbQuit
from math import ceil
from typing import TYPE_CHECKING, Any

import msgspec

import weft
from weft._api.session import running
from weft._capsules.reading import CapsuleError
from weft._capsules.writing import raised_of
from weft._cli.verdicts import Outcome
from weft._ids import ActorId
from weft._launch import DaemonProcess
from weft._options import DEFAULT_ACTOR, DEFAULT_TASK
from weft._resources import Resources
from weft._runtime.inline_values import ADDRESS
from weft._runtime.invocation import method_of
from weft._serialize.refs import hooks
from weft._specs import ActorMeta, ActorSpec, CallSpec, Code, Shape, TaskSpec
from weft.exceptions import TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from weft._capsules.records import Manifest
    from weft._cli.steps import StepDebugger
    from weft._cli.values import KeptValues
    from weft._engine import Engine

# A call that does not stop when it is interrupted at its time limit is ended so long after that.
GRACE_S = 2.0
# As long as it takes.
FOREVER_S = 1e6


class Rerun:
    """One call, to be made once."""

    def __init__(
        self, manifest: Manifest, values: KeptValues, debugger: StepDebugger | None = None
    ) -> None:
        """`debugger` stops as the call begins."""
        self.manifest = manifest
        self.error: BaseException | None = None
        """What the call raised, with its traceback."""
        self._values = values
        self._debugger = debugger
        # This computer may have less memory.
        self._units = {
            name: units for name, units in manifest.resources.items() if "memory" not in name
        }
        self._engine: Engine
        self._is_late = False

    def run(self) -> Outcome:
        """Make the call, in the main thread."""
        faulthandler.enable()
        with self._session(), self._time_limit():
            try:
                self._make()
            except TaskTimeoutError as error:
                self._is_late = self.manifest.is_late
                self.error = self.error or error
            except BaseException as error:  # noqa: BLE001 - whatever user code raises is the outcome
                # The engine's copy of it has no traceback.
                self.error = self.error or error
            finally:
                sys.settrace(None)
        if isinstance(self.error, CapsuleError):
            return Outcome(problem=str(self.error))
        return Outcome(
            remarks=self._values.remarks,
            raised=None if self.error is None else raised_of(self.error),
            is_late=self._is_late,
            has_quit=isinstance(self.error, BdbQuit),
        )

    @contextlib.contextmanager
    def _session(self) -> Iterator[None]:
        amounts = Resources.of_units(self._units).to_floats()
        weft.init(
            engine="inline",
            num_cpus=max(os.cpu_count() or 1, ceil(amounts.pop("CPU", 0))),
            num_gpus=ceil(amounts.pop("GPU", 0)),
            resources=amounts,
            namespace=self.manifest.namespace or None,
            configure_logging=False,
        )
        engine = self._engine = running()
        reference, travelled = self._values.reference, hooks.rebuild_ref
        hooks.rebuild_ref = lambda object_id, owner: (
            travelled(object_id, owner) if owner == ADDRESS else reference(object_id.hex(), engine)
        )
        try:
            yield
        finally:
            weft.shutdown()
            hooks.reset()

    @contextlib.contextmanager
    def _time_limit(self) -> Iterator[None]:
        """Interrupt the call where it was interrupted, unless somebody looks at it step by step."""
        if not self.manifest.is_late or self._debugger is not None:
            yield
            return
        before = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, self.manifest.timeout_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _ring(self, _number: int, _frame: object) -> None:
        self._is_late = True
        raise KeyboardInterrupt

    # -------------------------------------------------------------- the call

    def _make(self) -> None:
        manifest, engine = self.manifest, self._engine
        if not manifest.code.file and not manifest.code.size_bytes:
            raise CapsuleError(
                "the process that left the capsule had not made the actor, and did not know its "
                "class and what that was constructed with"
            )
        shape = Shape(amounts=tuple(sorted(self._units.items())))
        if manifest.kind == "task":
            options = msgspec.structs.replace(
                DEFAULT_TASK, num_returns=manifest.num_returns, name=manifest.name
            )
            code = Code(self._call_task, manifest.function)
            self._take(engine.submit(TaskSpec(code, (), {}, options, shape)))
            return
        actor_id = ActorId.from_hex(manifest.actor_id)
        meta = ActorMeta(actor_id, manifest.function, {}, is_async=manifest.is_async)
        code = Code(self._construct, manifest.function)
        token = engine.create_actor(ActorSpec(meta, code, (), {}, DEFAULT_ACTOR, shape))
        if manifest.kind == "method" and self.error is None:
            # The alarm reaches the main thread only.
            is_limited = manifest.is_late and manifest.is_async and self._debugger is None
            call = CallSpec(
                meta,
                _Instance.again.__name__,
                (),
                {},
                num_returns=manifest.num_returns,
                timeout_s=manifest.timeout_s if is_limited else None,
                name=manifest.name,
            )
            self._take(engine.call(call))
        del token  # The actor lives as long as this.

    def _take(self, made: Any) -> None:
        if isinstance(made, list):
            self._engine.get(made, None)
        else:
            for ref in made:
                self._engine.get([ref], None)

    def _call_task(self) -> Any:
        with self._watch():
            function = self._values.code()
            args, kwargs = self._values.arguments(self.manifest.call, function)
        return self._call(function, args, kwargs)

    def _construct(self) -> Any:
        manifest = self.manifest
        if manifest.kind == "constructor":
            with self._watch():
                cls = self._values.code()
                args, kwargs = self._values.arguments(manifest.call, cls)
            return self._call(cls, args, kwargs)
        with self._watch():
            cls = self._values.code()
            args, kwargs = self._values.arguments(manifest.constructor, cls, prefix="__init__.")
            return _Instance(cls(*args, **kwargs), self)

    def call_method(self, instance: Any) -> Any:
        """Make the call of an actor's method, on its new instance."""
        with self._watch():
            method = method_of(instance, self.manifest.method)
            args, kwargs = self._values.arguments(self.manifest.call, method)
        return self._call(method, args, kwargs)

    def _call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with self._watch():
            self._values.refuse_unknown()
            self._values.set_random_states()
            if self._debugger is not None:
                self._debugger.await_call(function)
            result = function(*args, **kwargs)
        if inspect.isgenerator(result):
            return self._iterate(result)
        if inspect.isasyncgen(result):
            return self._iterate_async(result)
        return self._await(result) if inspect.isawaitable(result) else result

    def _iterate(self, values: Iterator[Any]) -> Iterator[Any]:
        with self._watch():
            yield from values

    async def _iterate_async(self, values: AsyncIterator[Any]) -> AsyncIterator[Any]:
        with self._watch():
            async for value in values:
                yield value

    async def _await(self, result: Awaitable[Any]) -> Any:
        with self._watch():
            return await result

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        """Note what the call raises: its traceback does not come through the engine."""
        try:
            yield
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise


class _Instance:
    """Stands in the place of an actor's instance, and makes the call when it is called."""

    def __init__(self, instance: Any, rerun: Rerun) -> None:
        self._instance = instance
        self._rerun = rerun

    def again(self) -> Any:
        """Make the call."""
        return self._rerun.call_method(self._instance)


def run_in_child(rerun: Rerun) -> Outcome:
    """Run it in a child process, for a call that ends its process or does not end."""
    manifest = rerun.manifest
    limit_s = manifest.timeout_s + GRACE_S if manifest.is_late else FOREVER_S
    sys.stdout.flush()
    sys.stderr.flush()
    told = os.memfd_create("outcome")
    pid = os.fork()
    if not pid:
        outcome = rerun.run()
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(told, msgspec.json.encode(outcome))
        os._exit(0)
    process = DaemonProcess(pid)
    exit_code = process.wait(limit_s)
    if exit_code is None:
        process.kill()
        process.wait(FOREVER_S)
    words = os.pread(told, os.fstat(told).st_size, 0)
    os.close(told)
    if words:
        return msgspec.json.decode(words, type=Outcome)
    return Outcome(exit_code=exit_code, is_late=exit_code is None)
