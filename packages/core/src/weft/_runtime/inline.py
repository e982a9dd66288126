"""The inline engine: the same program in this one process, for debuggers, tests and small data.

A task runs when it is submitted, in the thread that submits it, so `breakpoint()` works in it and a
step goes into it. A task whose arguments are still to come (from an async or threaded actor) runs
on a thread of its own once they are there. Actors: see inline_actors.py. Generators run when their
items are asked for: see inline_streams.py.

What differs from worker processes: globals of modules are shared; a task cannot be ended from
outside, so `timeout` and `runtime_env` are refused; nothing waits for resources, though a demand
that is more than `init` declared fails. An actor whose last handle is gone ends when the session is
next called.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from weft._clock import monotonic
from weft._ids import ActorId, JobId, NodeId, ObjectId, PlacementGroupId, TaskId, WorkerId
from weft._lazy import lazy
from weft._log import logger
from weft._machines.placement import Never, NodeView, group_of, place
from weft._refs import ObjectRef, ObjectRefGenerator
from weft._resources import ACCELERATORS, UNITS, Resources
from weft._runtime.inline_actors import InlineActor
from weft._runtime.inline_calls import InlineArguments, InlineCall, here
from weft._runtime.inline_inspection import InlineRecords, describe_actors
from weft._runtime.inline_streams import InlineStream
from weft._runtime.inline_values import ADDRESS, FAILED, PENDING, PLAIN, Cell, InlineValues
from weft._serialize.refs import hooks
from weft._settings import temp_root
from weft._specs import ActorMeta, NodeReply, Place, captured
from weft.exceptions import (
    ActorAlreadyExistsError,
    ActorHandleNotFoundError,
    ActorPlacementGroupRemoved,
    ActorUnschedulableError,
    GetTimeoutError,
    ObjectFreedError,
    OptionError,
    SessionError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
)

if TYPE_CHECKING:
    import concurrent.futures as futures
    import platform
    from collections.abc import Callable, Sequence

    from weft import _metrics as process_metrics
    from weft._metrics import Readings
    from weft._options import InitOptions, TaskOptions
    from weft._runtime import inline_groups
    from weft._specs import ActorSpec, CallSpec, GroupSpec, Shape, TaskSpec
    from weft._wire import codec
else:
    codec = lazy("weft._wire.codec")
    futures = lazy("concurrent.futures")
    inline_groups = lazy("weft._runtime.inline_groups")
    platform = lazy("platform")
    process_metrics = lazy("weft._metrics")

# How long `shutdown` waits for threads that users' methods do not leave.
END_S = 5.0


class InlineEngine:
    """An Engine without processes."""

    name = "inline"

    def __init__(self, options: InitOptions) -> None:
        """Start it. OptionError for what needs processes."""
        if options.runtime_env:
            raise OptionError(
                "runtime_env of init: the inline engine runs in this process; use engine='local'"
            )
        self._values = InlineValues(self)
        self._actors: dict[ActorId, InlineActor] = {}
        self._names: dict[tuple[str, str], InlineActor] = {}
        self._ended: dict[ActorId, InlineActor] = {}
        self._streams: dict[TaskId, InlineStream] = {}
        self._dropped: deque[TaskId | InlineActor] = deque()
        self._job_id = JobId.from_random()
        self._node_id = NodeId.from_random()
        self._worker_id = WorkerId.from_random()
        self.records = InlineRecords(self._worker_id, self._job_id)
        self._namespace = options.namespace or JobId.from_random().hex()
        self._limits = options.limits
        """Told, and no more: tasks run one at a time, and there is no other job."""
        cpus = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        self._total = Resources(
            {
                **options.resources,
                "CPU": options.num_cpus if options.num_cpus is not None else cpus,
                "GPU": options.num_gpus or 0,
                "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                "object_store_memory": options.object_store_memory or 0,
            }
        )
        self._labels = {"weft.io/node-id": self._node_id.hex(), **options.labels}
        self._view = NodeView(self._node_id, self._total, self._total, self._labels, is_local=True)
        self._obstacle_to: dict[Shape, str] = {}
        self._groups: inline_groups.InlineGroups | None = None
        """Made for the first one."""
        self._is_ending = False
        hooks.rebuild_ref = self._values.rebuild_ref

    # -------------------------------------------------------------- tasks

    def submit(self, spec: TaskSpec) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Run a task; see Engine."""
        self._collect()
        options = spec.options
        name = options.name or spec.code.name
        if options.timeout is not None or spec.shape.env:
            self._refuse(options, name)
        values = self._values
        shape = _shape_here(spec)
        call = InlineCall(
            values,
            InlineArguments(values, spec.args, spec.kwargs, name),
            name=name,
            function_name=spec.code.name,
            num_returns=options.num_returns,
            shape=shape,
            retries=options.max_retries,
            retry_on=options.retry_exceptions,
        )
        call.backpressure, call.site = options.backpressure, spec.site
        refs = call.refs()
        impossible = self._impossible(shape)
        gone = self._gone(shape)
        if impossible or gone:
            error = (
                TaskPlacementGroupRemoved(f"{name} cannot run: {gone}")
                if gone
                else TaskUnschedulableError(f"{name} can never run: {impossible}")
            )
            values.fail(call.cells, error)
            return self._stream_of(call, refs) if options.num_returns == "streaming" else refs
        function = spec.code.target
        if options.num_returns == "streaming":
            generator = self._stream_of(call, refs)
            generator._stream.start(function)
            return generator
        if call.arguments.pending():
            self._run_later(call, function)
        else:
            call.run(function)
        return refs

    def _stream_of(self, call: InlineCall, refs: list[ObjectRef[Any]]) -> ObjectRefGenerator[Any]:
        stream = InlineStream(call)
        if call.cells[0].state == FAILED:
            stream.finish(call.cells[0].content)
        self._streams[call.task_id] = stream
        return ObjectRefGenerator(call.task_id, self, refs[0], stream)

    def _refuse(self, options: TaskOptions, name: str) -> None:
        what = (
            f"timeout={options.timeout}"
            if options.timeout is not None
            else f"runtime_env={options.runtime_env}"
        )
        why = (
            "cannot end a task"
            if options.timeout is not None
            else "runs everything in this process"
        )
        raise OptionError(
            f"{what} of {name}: the inline engine {why}; leave it out, or use engine='local'"
        )

    def _run_later(self, call: InlineCall, function: Callable[..., Any]) -> None:
        """Run a task on a thread of its own once its arguments are there."""
        for cell in call.arguments.pending():
            if cell.drive is not None:
                cell.drive()
        pending = call.arguments.pending()
        if not pending or call.is_cancelled:
            call.run(function)
        elif self._values.when_settled(pending[0], lambda: self._start_thread(call, function)):
            self._run_later(call, function)

    def _start_thread(self, call: InlineCall, function: Callable[..., Any]) -> None:
        self._values.threads.start(call.name, lambda: self._run_later(call, function))

    def _impossible(self, shape: Shape) -> str:
        """Say why nothing of this shape can ever run here; empty if it can."""
        found = self._obstacle_to.get(shape)
        if found is None:
            is_in_group = shape.strategy.startswith("group:")
            placement = place(shape, [self.groups.seen_by(shape) if is_in_group else self._view])
            found = placement.text() if isinstance(placement, Never) else ""
            self._obstacle_to[shape] = found
        return found

    # -------------------------------------------------------------- placement groups

    @property
    def groups(self) -> inline_groups.InlineGroups:
        """The placement groups."""
        if self._groups is None:
            self._groups = inline_groups.InlineGroups(self._view)
        return self._groups

    def _gone(self, shape: Shape) -> str:
        """Say why the placement group of a shape is not there; empty if it is."""
        group = group_of(shape) if shape.strategy.startswith("group:") else None
        return self.groups.gone(group) if group is not None else ""

    def create_group(self, spec: GroupSpec) -> None:
        """Create a placement group; see Engine."""
        self._check_open()
        self.groups.create(spec)

    def remove_group(self, group: PlacementGroupId, reason: str) -> None:
        """End the actors of a placement group, and the group; see Engine."""
        self._check_open()
        self.groups.remove(group, reason)
        for actor in [*self._actors.values()]:
            if group_of(actor.shape) == group:
                actor.die(_group_removed(actor.meta, self.groups.gone(group)))

    def group_ready(self, group: PlacementGroupId, value: Any) -> ObjectRef[Any]:
        """Return a reference to a value that is there; see Engine."""
        gone = self.groups.gone(group)
        if not gone:
            return self.put(value)
        cell = Cell()
        ref = self._values.ref(self._values.task_id().object_id(1), cell)
        self._values.fail([cell], TaskPlacementGroupRemoved(gone))
        return ref

    # -------------------------------------------------------------- actors

    def create_actor(self, spec: ActorSpec) -> ObjectRef[Any] | None:
        """Start an actor; see Engine."""
        self._collect()
        meta, values = spec.meta, self._values
        self._check_open()
        if spec.shape.env:
            raise OptionError(
                f"runtime_env of {meta.class_name}: the inline engine runs in this process; "
                "leave it out, or use engine='local'"
            )
        spec = msgspec.structs.replace(spec, shape=_shape_here(spec))
        actor = InlineActor(values, spec)
        actor.on_dead = self._forget_actor
        with values.lock:
            if self._is_ending:
                raise SessionError(f"the session ends: {meta.class_name} cannot be started in it")
            if meta.name:
                key = (meta.namespace, meta.name)
                if key in self._names:
                    raise ActorAlreadyExistsError(
                        f"an actor named {meta.name!r} is alive in namespace {meta.namespace!r}: "
                        "use get_if_exists=True"
                    )
                self._names[key] = actor
            self._actors[meta.actor_id] = actor
        token = actor.make_token()
        impossible = self._impossible(spec.shape)
        gone = self._gone(spec.shape)
        if gone:
            actor.die(_group_removed(meta, gone))
        elif impossible:
            actor.die(
                ActorUnschedulableError(f"{meta.class_name} can never be started: {impossible}")
            )
        else:
            actor.pump()
        return None if token is None else values.ref(_token_id(meta.actor_id), token)

    def find_actor(self, name: str, namespace: str) -> tuple[ActorMeta, ObjectRef[Any] | None]:
        """Look up a named actor; see Engine."""
        self._collect()
        self._check_open()
        actor = self._names.get((namespace, name))
        if actor is None or actor.ending:
            raise ActorHandleNotFoundError(
                f"there is no actor named {name!r} in namespace {namespace!r}: it was never made, "
                "or has ended"
            )
        return self._parts(actor)

    def _parts(self, actor: InlineActor) -> tuple[ActorMeta, ObjectRef[Any] | None]:
        token = actor.make_token()
        return actor.meta, None if token is None else self._values.ref(
            _token_id(actor.meta.actor_id), token
        )

    def current_actor(self) -> tuple[ActorMeta, ObjectRef[Any] | None] | None:
        """Return (meta, token) of the actor whose method runs here, or None."""
        call = here.get()
        return None if call is None or call.actor is None else self._parts(call.actor)

    def named_actors(self, namespace: str | None) -> list[tuple[str, str]]:
        """List named actors; see Engine."""
        self._collect()
        return [key for key in self._names if namespace is None or key[0] == namespace]

    def call(self, spec: CallSpec) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Call a method; see Engine."""
        self._collect()
        self._check_open()
        actor = self._actor(spec.actor.actor_id)
        function_name = f"{spec.actor.class_name}.{spec.method}"
        values = self._values
        call = InlineCall(
            values,
            InlineArguments(values, spec.args, spec.kwargs, function_name),
            name=spec.name or function_name,
            function_name=function_name,
            num_returns=spec.num_returns,
            shape=actor.shape,
            actor=actor,
            method=spec.method,
            retries=spec.max_task_retries,
            retry_on=spec.retry_exceptions,
        )
        call.group, call.timeout_s = spec.concurrency_group, spec.timeout_s
        call.backpressure, call.site = spec.backpressure, spec.site
        refs = call.refs()
        if spec.num_returns != "streaming":
            actor.submit(call, None)
            return refs
        generator = self._stream_of(call, refs)
        actor.submit(call, generator._stream)
        return generator

    def _actor(self, actor_id: ActorId) -> InlineActor:
        actor = self._actors.get(actor_id) or self._ended.get(actor_id)
        if actor is None:
            raise ActorHandleNotFoundError(
                f"actor {actor_id.hex()} belongs to another session: look it up by its name"
            )
        return actor

    def _forget_actor(self, actor: InlineActor) -> None:
        with self._values.lock:
            self._actors.pop(actor.meta.actor_id, None)
            # Handles may remain; their calls fail with the cause.
            self._ended[actor.meta.actor_id] = actor
            key = (actor.meta.namespace, actor.meta.name)
            if self._names.get(key) is actor:
                del self._names[key]

    def kill(self, actor_id: ActorId, *, no_restart: bool) -> None:
        """End an actor; see Engine."""
        self._check_open()
        self._actor(actor_id).kill(no_restart=no_restart)

    def exit_actor(self) -> None:
        """Note that the current actor leaves; see Engine."""
        call = here.get()
        if call is None or call.actor is None:
            raise SessionError("exit_actor works inside an actor's method only")
        call.leaves = True

    # -------------------------------------------------------------- objects

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value; see Engine."""
        self._check_open()
        values = self._values
        cell = Cell()
        cell.state, cell.content, cell.refs = values.pack(value)
        return values.ref(values.task_id().object_id(1), cell)

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Return values; see Engine."""
        values = self._values
        if len(refs) == 1:
            cell = values.cell_of(refs[0])
            content = cell.content
            if cell.state == PLAIN:
                return [content]
        deadline = None if timeout_s is None else monotonic() + timeout_s
        found = []
        for ref in refs:
            cell = values.cell_of(ref)
            if cell.state == PENDING:
                self._nudge(cell, deadline)
                if not values.await_cell(cell, deadline):
                    waiting = sum(values.cell_of(ref).state == PENDING for ref in refs)
                    raise GetTimeoutError(timeout_s=timeout_s, waiting=waiting)
            found.append(values.load(cell))
        return found

    def _nudge(self, cell: Cell, deadline: float | None) -> None:
        """Let a value that nobody makes be made."""
        self._collect()
        call = cell.call
        if (
            call is not None
            and call.actor is not None
            and (deadline is None or deadline > monotonic())
        ):
            call.actor.nudge()

    def wait(
        self,
        refs: Sequence[ObjectRef[Any]],
        ready: int,
        timeout_s: float | None,
        *,
        fetch_local: bool,
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait for some values; see Engine."""
        values = self._values
        deadline = None if timeout_s is None else monotonic() + timeout_s
        cells = [values.cell_of(ref) for ref in refs]
        if sum(cell.state != PENDING for cell in cells) < ready:
            for cell in cells:
                if cell.state == PENDING:
                    self._nudge(cell, deadline)
            values.await_some(cells, ready, deadline)
        chosen: list[ObjectRef[Any]] = []
        rest: list[ObjectRef[Any]] = []
        for ref, cell in zip(refs, cells, strict=True):
            (chosen if cell.state != PENDING and len(chosen) < ready else rest).append(ref)
        return chosen, rest

    def free(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """Let values go; see Engine."""
        for ref in refs:
            error = ObjectFreedError(ref.hex(), ADDRESS)
            self._values.free(self._values.cell_of(ref), error)

    def is_ready(self, ref: ObjectRef[Any]) -> bool:
        """Tell whether a value is there; see Engine."""
        return self._values.cell_of(ref).state != PENDING

    def when_ready(self, ref: ObjectRef[Any], callback: Callable[[], None]) -> None:
        """Call back when a value is there; see Engine."""
        cell = self._values.cell_of(ref)
        drive = cell.drive
        if drive is not None:
            self._values.threads.start("stream", drive)
        if self._values.when_settled(cell, callback):
            callback()

    def future(self, ref: ObjectRef[Any]) -> futures.Future[Any]:
        """Return a future of a value; see Engine."""
        future: futures.Future[Any] = futures.Future()

        def settle() -> None:
            try:
                value = self.get([ref], 0)[0]
            except BaseException as error:  # noqa: BLE001 - it goes to who waits
                # Its traceback would lead through this frame to the future that has it.
                future.set_exception(error.with_traceback(None))
            else:
                future.set_result(value)

        self.when_ready(ref, settle)
        return future

    def release(self, object_id: ObjectId | TaskId) -> None:
        """Note that a stream's consumer is gone; cells go with their references. See Engine."""
        if isinstance(object_id, TaskId):
            self._dropped.append(object_id)

    def drop(self, actor: InlineActor) -> None:
        """Note that an actor's last handle is gone. Takes no lock."""
        self._dropped.append(actor)

    def adopt(self, object_id: ObjectId, owner: str) -> None:
        """Do nothing: references travel with their cells."""

    def _collect(self) -> None:
        """End what nobody can ask for any more."""
        while self._dropped:
            try:
                gone = self._dropped.popleft()
            except IndexError:
                return
            if isinstance(gone, InlineActor):
                if gone.token is None or gone.token() is None:
                    gone.drop_handles()
            else:
                stream = self._streams.pop(gone, None)
                if stream is not None:
                    stream.cancel()

    # -------------------------------------------------------------- streams

    def next_item(
        self, generator: ObjectRefGenerator[Any], timeout_s: float | None
    ) -> ObjectRef[Any] | None:
        """Return the next reference of a stream; see Engine."""
        self._check_open()
        stream: InlineStream = generator._stream
        actor = stream.call.actor
        if actor is not None and stream.call.thread == 0:
            actor.nudge_for(stream)
        return stream.next_item(timeout_s)

    def when_next(self, generator: ObjectRefGenerator[Any], callback: Callable[[], None]) -> None:
        """Call back when `next_item` would not block; see Engine."""
        generator._stream.when_next(callback)

    # -------------------------------------------------------------- cancelling

    def cancel(
        self, ref: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool, recursive: bool
    ) -> None:
        """Ask a task to end; see Engine."""
        if isinstance(ref, ObjectRefGenerator):
            call: InlineCall | None = ref._stream.call
        else:
            call = self._values.cell_of(ref).call
        if call is None or call.ended:
            return
        if force and call.actor is not None:
            raise OptionError(
                f"force=True cannot cancel {call.name}, an actor's method: weft.kill ends the actor"
            )
        self._cancel(call, recursive=recursive)

    def _cancel(self, call: InlineCall, *, recursive: bool) -> None:
        if recursive:
            for child in list(call.children):
                self._cancel(child, recursive=True)
        call.is_cancelled = True
        if call.actor is not None:
            call.actor.cancel(call)
        stream = self._streams.get(call.task_id)
        if stream is not None:
            stream.cancel()
        elif call.actor is None and not call.thread:
            # It waits for its arguments.
            call.settle_cancelled()

    # -------------------------------------------------------------- facts

    def context(self) -> Place:
        """Say where the calling code runs; see Engine."""
        call = here.get()
        place = Place(
            job_id=self._job_id,
            node_id=self._node_id,
            worker_id=self._worker_id,
            namespace=self._namespace,
            session=f"inline_{self._job_id.hex()[:8]}",
            temp_dir=temp_root(),
            address=ADDRESS,
            labels=self._labels,
        )
        if call is None:
            return place
        actor = call.actor
        amounts = Resources.of_units(dict(call.shape.amounts if call.shape is not None else ()))
        return msgspec.structs.replace(
            place,
            task_id=call.task_id,
            task_name=call.name,
            function_name=call.function_name,
            actor_id=actor.meta.actor_id if actor is not None else None,
            actor_name=actor.meta.name if actor is not None else "",
            resources=amounts.to_floats(),
            accelerators={
                name: [str(index) for index in range(-(-amounts[name] // UNITS))]
                for name in ACCELERATORS
                if name in amounts
            },
            placement_group_id=group_of(call.shape) if call.shape is not None else None,
            captures=call.shape is not None and call.shape.captures,
            was_restarted=actor is not None and actor.restarts > 0,
            is_cancelled=call.is_cancelled,
            in_worker=True,
        )

    def nodes(self) -> list[dict[str, Any]]:
        """List this node; see Engine."""
        return [
            {
                "NodeID": self._node_id.hex(),
                "Alive": True,
                "alive": True,
                "Address": "",
                "Draining": "",
                "DeathReasonMessage": "",
                "NodeName": platform.node(),
                "IsHeadNode": True,
                "NodeManagerAddress": ADDRESS,
                "NodeManagerHostname": platform.node(),
                "Resources": self._total.to_floats(),
                "Labels": dict(self._labels),
            }
        ]

    def resources(self, *, available: bool) -> dict[str, float]:
        """Return amounts; see Engine."""
        if not available:
            return self._total.to_floats()
        free = self._total
        with self._values.lock:
            shapes = [actor.shape for actor in self._actors.values()]
        call = here.get()
        if call is not None:
            shapes += [
                each.shape
                for each in call.ancestors()
                if each.actor is None and each.shape is not None
            ]
        for shape in shapes:
            if not shape.strategy.startswith("group:"):
                free -= Resources.of_units(dict(shape.amounts))
        if self._groups is not None:
            free -= self._groups.taken()
        return Resources.of_units(
            {name: max(0, amount) for name, amount in free.items()}
        ).to_floats()

    def metrics(self) -> list[Readings]:
        """Return what this process has measured; see Engine."""
        return process_metrics.registry.readings()

    def preload(self, modules: Sequence[str]) -> None:
        """There are no workers; see Engine."""

    def inspect(self, what: str, body: object = None) -> bytes:
        """Answer a question about the session; see Engine."""
        match what:
            case "tasks":
                return self.records.tasks()
            case "stacks":
                return self.records.stacks()
            case "actors":
                known = {**self._ended, **self._actors}
                return codec.pack(describe_actors(known.values()))
            case "groups":
                return codec.pack(self.groups.describe())
            case "nodes":
                return codec.pack(self.nodes())
            case "session":
                return codec.pack(self._describe())
            case "workers" | "ended_workers":
                return codec.pack([])
            case _:
                raise ValueError(
                    f"the inline engine cannot tell of {what}: weft.init(engine='local') can"
                )

    def inspect_nodes(
        self, whats: Sequence[str], body: object = None, *, node_id: str = ""
    ) -> list[NodeReply]:
        """Answer for the one node; see Engine."""
        if node_id not in ("", self._node_id.hex()):
            raise ValueError(f"no node {node_id} lives")
        bodies = [self.inspect(what, body) for what in whats]
        return [NodeReply(self._node_id.hex(), "", bodies)]

    def _describe(self) -> dict[str, Any]:
        pid = os.getpid()
        return {
            "session": f"inline_{self._job_id.hex()[:8]}",
            "session_dir": "",
            "jobs": [
                {
                    "job_id": self._job_id.hex(),
                    "driver_id": self._worker_id.hex(),
                    "driver_pid": pid,
                    "entrypoint": " ".join(sys.orig_argv),
                    "namespace": self._namespace,
                    "began_at": self.records.began_at,
                    "node_id": self._node_id.hex(),
                    **msgspec.structs.asdict(self._limits),
                }
            ],
            "node_id": self._node_id.hex(),
            "daemon_pid": pid,
            "began_at": self.records.began_at,
        }

    def why(self, subject: ObjectRef[Any] | ActorId | PlacementGroupId) -> str:
        """Say what something waits for; see Engine."""
        if isinstance(subject, PlacementGroupId):
            return self.groups.gone(subject) or f"placement group {subject.hex()} is ready"
        if isinstance(subject, ActorId):
            actor = self._actor(subject)
            if actor.cause is not None:
                return str(actor.cause)
            return f"actor {actor.meta.class_name} is {actor.state}: {actor.busy_with()}"
        cell = self._values.cell_of(subject)
        if cell.state == FAILED:
            return f"{subject!r} has failed: get raises its error"
        if cell.state != PENDING:
            return f"{subject!r} is ready"
        return cell.call.why() if cell.call is not None else f"{subject!r} is being made"

    # -------------------------------------------------------------- the end

    def _check_open(self) -> None:
        if self._values.closed:
            raise SessionError("the session has ended: call weft.init() for a new one")

    def shutdown(self) -> None:
        """End every actor, and wait for the threads; see Engine.

        A thread that a user's method holds for END_S is left, with a warning.
        """
        with self._values.lock:
            if self._is_ending:
                return
            self._is_ending = True
            actors = list(self._actors.values())
        for actor in actors:
            actor.end("the session has ended")
        for stream in list(self._streams.values()):
            stream.cancel()
        self._streams.clear()
        self._values.closed = True
        if hooks.rebuild_ref == self._values.rebuild_ref:
            hooks.reset()
        left = self._values.threads.join(END_S)
        if left:
            logger().warning(
                "the session has ended, and %d of its threads still run after %g s, in methods "
                "that cannot be ended from outside: %s",
                len(left),
                END_S,
                ", ".join(left),
            )


def _shape_here(spec: TaskSpec | ActorSpec) -> Shape:
    """Return the shape of what is started here, which a placement group may capture."""
    call = here.get()
    parent = call.shape if call is not None else None
    return captured(spec.shape, spec.options.scheduling_strategy, parent)


def _group_removed(meta: ActorMeta, why: str) -> ActorPlacementGroupRemoved:
    return ActorPlacementGroupRemoved(f"actor {meta.class_name} has ended: {why}")


def _token_id(actor_id: ActorId) -> ObjectId:
    return ObjectId(actor_id)
