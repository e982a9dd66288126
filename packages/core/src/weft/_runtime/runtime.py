"""The engine of worker processes: the shell round a process's tasks, calls and objects.

Drivers and workers run the same Runtime; a worker has an Executor beside it (executor.py), which runs what others
send. Everything here that touches a machine or a connection does so inside the loop's guard.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from weft._clock import monotonic
from weft._engine import current
from weft._ids import ActorId, IdSource, JobId, NodeId, ObjectId, TaskId, WorkerId
from weft._lazy import lazy
from weft._machines import calls as calls_machine
from weft._machines import tasks as tasks_machine
from weft._machines.calls import ActorCall, Calls
from weft._machines.ownership import (
    Entry,
    Lent,
    Made,
    PeerLost,
    Registered,
    Released,
    Requested,
    Returned,
    Sealed,
    Wanted,
)
from weft._machines.tasks import Task, Tasks
from weft._refs import ObjectRef, ObjectRefGenerator
from weft._runtime.arguments import NO_ARGUMENTS, Arguments, pack_arguments
from weft._runtime.loop import Loop, Waiter
from weft._runtime.objects import Objects, lost_failure
from weft._runtime.peers import Peer, Peers, hello
from weft._runtime import reasons
from weft._runtime.reasons import Reason, Step
from weft._runtime.running import running
from weft._runtime.streams import Stream
from weft._serialize.failures import pack_error, unpack_failure
from weft._serialize.pickling import dump_code
from weft._serialize.refs import hooks
from weft._specs import ActorMeta, Place
from weft._store.shared_memory import SharedMemoryStore
from weft._transport.sockets import SocketListener
from weft._wire import codec
from weft._wire.messages import (
    ActorState,
    Answer,
    Ask,
    Assigned,
    Because,
    Blocked,
    Borrow,
    Borrowed,
    Call,
    Cancel,
    CancelObject,
    Certificate,
    CreateActor,
    Demand,
    Done,
    EndActor,
    Explain,
    Export,
    Failure,
    Fetch,
    Fetched,
    GiveBack,
    Granted,
    Held,
    Inline,
    KillWorker,
    Message,
    Output,
    Reclaim,
    Recycle,
    Refused,
    Return,
    ReturnLease,
    Run,
    Settled,
    Shared,
    Taken,
    Unblocked,
    WatchActor,
    Welcome,
    Why,
    Yielded,
)
from weft.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    InternalError,
    ObjectLostError,
    PendingCallsLimitExceeded,
    SessionError,
    EnvSetupError,
    TaskCancelledError,
    TaskTimeoutError,
    TaskUnschedulableError,
    WeftError,
    WorkerDiedError,
)

if TYPE_CHECKING:
    import traceback

    from weft._specs import ActorSpec, CallSpec, Code, Shape, TaskSpec
    from weft._wire.messages import Value
else:
    traceback = lazy("traceback")

# A worker with so many tasks on their way is busy for a while: more are sent in batches, when somebody next reads.
EAGER_TASKS = 8
BATCH_TASKS = 64
# How long `get` waits for an actor's answer before it says that this worker is blocked: most answers are quicker.
CALL_PATIENCE_S = 0.002
# How long a `get` without progress waits before it says why.
SILENCE_S = 10.0
# How long another process may take to say what it waits for.
ANSWER_S = 1.0
# A stream's consumer that is slower than its task holds so many items at most.
STREAM_ITEMS = 1000

_EMPTY = Inline(b"")


class Submission:
    """What the shell knows of one task or call."""

    __slots__ = (
        "arguments", "attempt_of", "backpressure", "code", "depth", "is_dynamic", "max_calls", "method", "group", "name",
        "num_returns", "parent", "retry_on", "returns", "stream", "task_id", "token", "values",
    )  # fmt: skip

    def __init__(self, task_id: TaskId, name: str, arguments: Arguments, num_returns: int | str) -> None:
        self.task_id = task_id
        self.name = name
        self.arguments = arguments
        """Holds the references that the task needs, until it ends."""
        self.is_dynamic = num_returns == "dynamic"
        self.num_returns = num_returns if isinstance(num_returns, int) else 1 if self.is_dynamic else -1
        self.returns: list[ObjectId] = []
        self.values: list[Value] = []
        self.stream: Stream | None = None
        self.code: tuple[bytes, str, bytes] = (b"", "", b"")
        self.method = ""
        self.group = ""
        self.token: ObjectRef[Any] | None = None
        """The called actor's: it lives while calls are on their way."""
        self.retry_on: bool | tuple[type[BaseException], ...] = False
        self.backpressure = 0
        self.max_calls = 0
        self.depth = 0
        self.parent: Any = None


class Countdown:
    """Calls back when it was told so many times."""

    __slots__ = ("_callback", "_missing")

    def __init__(self, missing: int, callback: Callable[[], object]) -> None:
        self._missing = missing
        self._callback = callback

    def tell(self) -> None:
        """One of them has come."""
        self._missing -= 1
        if not self._missing:
            self._callback()


class Runtime:
    """One process's part of a session: an Engine."""

    name = "local"

    def __init__(self, *, worker_id: WorkerId, address: str, role: str) -> None:
        self.worker_id = worker_id
        self.address = address
        self.role = role
        self.ids = IdSource()
        self.loop = Loop(self._before_wait, self._on_quiet, self._broken)
        self.guard = self.loop.guard
        self.store = SharedMemoryStore(worker_id.hex())
        self.objects = Objects(self.loop, self.store, address, self)
        self.peers = Peers(self.loop, hello(worker_id, address, role), self._received, self._lost)
        self.objects.peers = self.peers
        self.objects.on_freed = self._on_freed
        self.tasks = Tasks()
        self.calls = Calls()
        self.listener = SocketListener(self.loop.poller, Path(address), self.peers.accept)
        self.daemon: Peer
        self.welcome: Welcome | None = None
        self.welcomed = Waiter()
        self.left = Waiter()
        """The daemon has closed its connection after Bye."""
        self.closing = False
        self.on_block: Callable[[], None] = lambda: None
        self.on_quiet: Callable[[], None] = lambda: None
        self.on_idle: Callable[[], None] = lambda: None
        self.explain_task: reasons.Explain = reasons.unknown_task
        self.on_output: Callable[[Output], None] = lambda _output: None
        self.on_broken: Callable[[InternalError], None] = self.fail_everything
        self.on_daemon_lost: Callable[[str], None] = lambda _reason: None
        self.handlers: dict[type, Callable[[Peer, Any], None]] = {
            Done: self._on_done,
            Yielded: self._on_yielded,
            GiveBack: self._on_give_back,
            Fetch: self._on_fetch,
            Fetched: self._on_fetched,
            Borrow: self._on_borrow,
            Borrowed: self._on_borrowed,
            Return: self._on_return,
            Recycle: self._on_recycle,
            CancelObject: self._on_cancel_object,
            Granted: self._on_granted,
            Refused: self._on_refused,
            Reclaim: self._on_reclaim,
            Certificate: self._on_certificate,
            ActorState: self._on_actor_state,
            Answer: self._on_answer,
            Welcome: self._on_welcome,
            Output: self._on_output,
            Because: self._on_answer,
            Why: self._on_why,
        }
        self._shapes: dict[Shape, int] = {}
        self._shape_of: list[Shape] = []
        self._name_of: list[str] = []
        self._workers: dict[WorkerId, Peer] = {}
        """Those leased, or lost and not yet explained."""
        self._actors: dict[ActorId, Peer] = {}
        self._actor_of: dict[Peer, set[ActorId]] = {}
        self._actor_holds: dict[ActorId, Submission] = {}
        """Constructor arguments: a restart needs them again."""
        self._mortal: set[ActorId] = set()
        """Actors made here that end with their last handle."""
        self.ended: WeftError | None = None
        """Why nothing can be started any more."""
        self._streams: dict[TaskId, Stream] = {}
        self._dropped: deque[TaskId] = deque()
        """Streams that nobody holds any more."""
        self._answers: dict[int, tuple[Waiter, list[Message]]] = {}
        self._requests = 0
        self._blocked = 0
        self._after_round: deque[Callable[[], object]] = deque()
        """What is done when all messages of one read are."""
        self._registering: dict[ObjectId, list[Countdown]] = {}
        hooks.rebuild_ref = self.objects.rebuild_ref
        _alive.add(self)

    def start(self, daemon_address: str) -> None:
        """Connect to the daemon. OSError if it is not there."""
        with self.guard:
            daemon = self.peers.connect(daemon_address)
            if daemon is None:
                raise ConnectionRefusedError(f"no daemon listens at {daemon_address}")
            self.daemon = self.objects.daemon = daemon
        self.loop.start()

    def abandon(self) -> None:
        """Let go of everything in a forked child: the connections are its parent's."""
        self.closing = True
        self.peers.abandon()
        self.listener.abandon()
        self.loop.poller.abandon()
        if current.engine is self:
            current.engine = None

    # -------------------------------------------------------------- the loop's hooks

    def _before_wait(self, now: float) -> float | None:
        self.objects.drain()
        if self._dropped:
            self._drop_streams()
        deadline = self.tasks.next_deadline
        if deadline is not None and deadline <= now:
            self._do_tasks(self.tasks.handle(tasks_machine.Ticked(), now))
            deadline = self.tasks.next_deadline
        call_deadline = self.calls.next_deadline
        if call_deadline is not None and call_deadline <= now:
            self._do_calls(self.calls.handle(calls_machine.Ticked(), now))
            call_deadline = self.calls.next_deadline
        self.on_idle()
        self.peers.flush()
        if deadline is None or call_deadline is None:
            return deadline if call_deadline is None else call_deadline
        return min(deadline, call_deadline)

    def _on_quiet(self) -> None:
        self.on_quiet()

    def _broken(self, error: Exception) -> None:
        """A message could not be handled: a bug. Everything that waits is told, and nothing is begun any more."""
        story = "".join(traceback.format_exception(error))
        self.on_broken(InternalError(error, story))

    def _received(self, peer: Peer, messages: Sequence[Message]) -> None:
        handlers = self.handlers
        for message in messages:
            handlers[type(message)](peer, message)
        while self._after_round:
            self._after_round.popleft()()

    def _lost(self, peer: Peer, reason: str) -> None:
        if peer is getattr(self, "daemon", None):
            self.left.ready()
            if self.closing:
                return
            self.on_daemon_lost(reason)
            self.welcomed.ready()
            return
        if self.closing:
            return
        self.objects.handle(PeerLost(peer))
        if peer.address:
            self.objects.owner_lost(peer.address)
        if self._workers.get(peer.worker_id) is peer:
            self._do_tasks(self.tasks.handle(tasks_machine.LeaseLost(peer.worker_id), monotonic()))
            self.peers.send(self.daemon, Explain(peer.worker_id))
        for actor in self._actor_of.pop(peer, ()):
            if self._actors.get(actor) is peer:
                del self._actors[actor]
                self._do_calls(self.calls.handle(calls_machine.ConnectionLost(actor), monotonic()))

    # -------------------------------------------------------------- submitting

    def submit(self, spec: TaskSpec) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Start a task; see Engine."""
        function_id, code = spec.code.pack(dump_code)
        options = spec.options
        arguments = pack_arguments(self.objects, spec.args, spec.kwargs)
        task_id = self.ids.task_id()
        note = Submission(task_id, options.name or spec.code.name, arguments, options.num_returns)
        note.code = (function_id, spec.code.name, code)
        note.retry_on = options.retry_exceptions
        note.max_calls = options.max_calls
        note.backpressure = options.backpressure
        task = Task(
            task_id,
            note.name,
            function_id,
            retries=options.max_retries,
            timeout_s=options.timeout or 0.0,
            note=note,
        )
        with self.guard:
            self._refuse_if_ended()
            shape = self._shapes.get(spec.shape)
            if shape is None:
                shape = self._shapes[spec.shape] = len(self._shape_of)
                self._shape_of.append(spec.shape)
                self._name_of.append(note.name)
            task.shape = shape
            returned = self._prepare(note)
            if arguments.deps:
                task.waits = self._await_arguments(
                    arguments.deps,
                    lambda: self._do_tasks(self.tasks.handle(tasks_machine.ArgumentReady(task_id), monotonic())),
                )
            self._do_tasks(self.tasks.handle(tasks_machine.Submitted(task), monotonic()))
        return returned

    def _prepare(self, note: Submission) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Make the objects that a submission will return, and the references to them."""
        task_id = note.task_id
        objects = self.objects
        objects.drain()
        parent = running.get()
        if parent is not None:
            note.parent = parent
            note.depth = parent.depth + 1
            if parent.children is None:
                parent.children = set()
            parent.children.add(task_id)
        if note.arguments.large is not None:
            self._own_large_arguments(note)
        entries = objects.machine.entries
        refs: list[ObjectRef[Any]] = []
        # A stream has one object of its own: its end.
        for index in range(1, abs(note.num_returns) + 1):
            object_id = task_id.object_id(index)
            objects.handle(Made(object_id))
            note.returns.append(object_id)
            refs.append(ObjectRef(object_id, self, self.address, entries[object_id]))
        if note.num_returns >= 0:
            return refs
        stream = note.stream = Stream(task_id, note.backpressure or STREAM_ITEMS)
        self._streams[task_id] = stream
        return ObjectRefGenerator(task_id, self, refs[0], stream)

    def _own_large_arguments(self, note: Submission) -> None:
        arguments = note.arguments
        assert arguments.large is not None
        object_id = note.task_id.object_id(0xFFFF_FFFF)
        self.objects.handle(Made(object_id))
        self.objects.handle(Sealed(object_id, arguments.large))
        holder = self.objects.ref(self.objects.machine.entries[object_id])
        note.arguments = msgspec.structs.replace(arguments, inner=[*arguments.inner, holder])

    def _await_arguments(self, deps: Sequence[ObjectRef[Any]], ready: Callable[[], None]) -> int:
        """Call `ready` once for each argument that is still to come; return how many those are."""
        waits = 0
        for ref in deps:
            entry = ref._entry
            if entry.value is None and self._when_sealed(entry, lambda _entry: ready()):
                waits += 1
        return waits

    def _when_sealed(self, entry: Entry, callback: Callable[[Entry], object]) -> bool:
        """Call back when the value comes; False: it is there, perhaps because its owner turned out to be gone."""
        if entry.owner:
            self.objects.handle(Wanted(entry.id))
            if entry.value is not None:
                return False
        if entry.waiters is None:
            entry.waiters = []
        entry.waiters.append(callback)
        return True

    def _dependencies(self, note: Submission) -> tuple[list[Value], list[Held]] | Failure:
        """Return the values of a submission's arguments and whose they are, or the error of one of them."""
        values: list[Value] = []
        owners: list[Held] = []
        for ref in note.arguments.deps:
            value = ref._entry.value
            if type(value) is Failure:
                return value
            values.append(value)
            owners.append(Held(ref._id, ref._owner))
        if note.arguments.large is not None:
            owners.append(Held(note.task_id.object_id(0xFFFF_FFFF), self.address))
        return values, owners

    def _do_tasks(self, effects: Sequence[tasks_machine.Effect]) -> None:
        for effect in effects:
            match effect:
                case tasks_machine.Send():
                    self._send_task(effect.worker, effect.task)
                case tasks_machine.Complete():
                    self._end(effect.task.note)
                case tasks_machine.Fail():
                    self._fail(effect.task.note, self._task_error(effect))
                case tasks_machine.Want():
                    depth = running_depth()
                    shape = self._shape_of[effect.key]
                    self.peers.send(
                        self.daemon, Demand(effect.key, shape, effect.workers, depth, self._name_of[effect.key])
                    )
                    self.peers.flush()
                case tasks_machine.GiveUp():
                    self._workers.pop(effect.worker, None)
                    self.peers.send(self.daemon, ReturnLease(effect.worker))
                    self.peers.flush()
                case tasks_machine.AskCancel():
                    self.peers.send(self._workers[effect.worker], Cancel(effect.task.id, recursive=True))
                    self.peers.flush()
                case tasks_machine.Kill():
                    self.peers.send(self.daemon, KillWorker(effect.worker, effect.reason))
                    self.peers.flush()

    def _send_task(self, worker: WorkerId, task: Task) -> None:
        note: Submission = task.note
        peer = self._workers[worker]
        deps: list[Value] = []
        owners: list[Held] = []
        if note.arguments.deps or note.arguments.large is not None:
            found = self._dependencies(note)
            if isinstance(found, Failure):
                # Sent to nobody: the lease is asked to answer for it at once.
                note.values = [found] * len(note.returns)
                note.retry_on = False
                finished = tasks_machine.Finished(worker, task.id, 0.0, retriable=False)
                self._do_tasks(self.tasks.handle(finished, monotonic()))
                return
            deps, owners = found
        function_id, name, code = note.code
        if function_id not in peer.exported:
            peer.exported.add(function_id)
            self.peers.send(peer, Export(function_id, name, code))
        self.peers.send(
            peer,
            Run(
                task.id, function_id, note.arguments.data, deps, note.num_returns, note.name, note.depth, task.timeout_s,
                note.max_calls, note.stream.limit if note.stream is not None else 0, task.attempt, note.is_dynamic,
                owners, note.arguments.large,
            ),
        )  # fmt: skip
        in_flight = len(self.tasks.leases[worker].tasks)
        if in_flight <= EAGER_TASKS or peer.connection.queued >= BATCH_TASKS:
            peer.connection.flush()

    def _task_error(self, effect: tasks_machine.Fail) -> Failure:
        task = effect.task
        error: WeftError
        match effect.kind:
            case "cancelled":
                error = TaskCancelledError(task.id, task=task.name)
            case "timeout":
                error = TaskTimeoutError(task=task.name, timeout_s=task.timeout_s)
            case "died":
                error = worker_died(effect.detail, task.name, task.attempt + 1)
            case "unschedulable":
                error = TaskUnschedulableError(f"{task.name} can never run: {effect.detail}")
            case "environment":
                error = EnvSetupError(str(effect.detail))
            case "argument":
                assert isinstance(effect.detail, Failure)
                return effect.detail
        return Failure(pack_error(error))

    # -------------------------------------------------------------- ends of tasks and calls

    def _end(self, note: Submission) -> None:
        """A task or call has its answer: seal what it returns."""
        objects = self.objects
        stream = note.stream
        values = note.values
        if stream is not None:
            self._end_stream(stream, note, values)
        else:
            # A task that returns nothing has one failure all the same, for nobody.
            for object_id, value in zip(note.returns, values, strict=False):
                objects.handle(Sealed(object_id, value))
        self._forget(note)

    def _fail(self, note: Submission, failure: Failure) -> None:
        note.values = [failure] * len(note.returns)
        self._end(note)

    def _forget(self, note: Submission) -> None:
        note.arguments = NO_ARGUMENTS
        note.token = None
        if note.parent is not None and note.parent.children is not None:
            note.parent.children.discard(note.task_id)

    def _end_stream(self, stream: Stream, note: Submission, values: Sequence[Value]) -> None:
        value = values[0] if values else _EMPTY
        self.objects.handle(Sealed(note.returns[0], value))
        if type(value) is Failure and stream.task_id in self._streams:
            self._add_item(stream, value)
        stream.ended = True
        stream.changed()

    def _add_item(self, stream: Stream, value: Value) -> None:
        object_id = stream.task_id.object_id(stream.received + 2)
        stream.received += 1
        self.objects.handle(Made(object_id))
        self.objects.handle(Sealed(object_id, value))
        # Its one count is the stream's, until a reference is made for it.
        stream.ready.append(self.objects.machine.entries[object_id])
        stream.changed()

    def _is_retriable(self, note: Submission, values: Sequence[Value]) -> bool:
        if not note.retry_on or not values or not isinstance(values[0], Failure):
            return False
        if isinstance(note.retry_on, bool):
            return True
        return isinstance(unpack_failure(values[0].error), note.retry_on)

    def _on_done(self, peer: Peer, message: Done) -> None:
        task_id = TaskId(message.task_id)
        values = message.values
        for value in values:
            if not isinstance(value, Failure) and value.held:
                self._settle(peer, message)
                break
        call = self.calls.calls.get(task_id)
        if call is not None:
            note: Submission = call.note
            note.values = values
            retriable = self._is_retriable(note, values) if note.retry_on else False
            answered = calls_machine.Answered(call.actor, task_id, retriable)
            self._do_calls(self.calls.handle(answered, monotonic()))
            return
        task = self.tasks.tasks.get(task_id)
        if task is None or task.worker != peer.worker_id:
            # It was ended here meanwhile: its segments are nobody's.
            for index, value in enumerate(values):
                self.objects.handle(Sealed(task_id.object_id(index + 1), value))
            return
        note = task.note
        note.values = values
        retriable = self._is_retriable(note, values) if note.retry_on else False
        finished = tasks_machine.Finished(peer.worker_id, task_id, message.duration_s, retriable)
        self._do_tasks(self.tasks.handle(finished, monotonic()))

    def _settle(self, peer: Peer, message: Done) -> None:
        """References come with a result: the worker keeps them until their owners count this process."""
        held = [ObjectId(held.object_id) for value in message.values if not isinstance(value, Failure) for held in value.held]
        settled = Settled(message.task_id)
        self._after_round.append(lambda: self.when_registered(held, lambda: self.peers.send(peer, settled)))

    def when_registered(self, object_ids: Sequence[ObjectId], callback: Callable[[], object]) -> None:
        """Call `callback`, inside the guard, when the owners have counted this process for all of these."""
        entries = self.objects.machine.entries
        waiting = [key for key in set(object_ids) if key in entries and entries[key].registered == "asked"]
        if not waiting:
            callback()
            return
        waiter = Countdown(len(waiting), callback)
        for object_id in waiting:
            self._registering.setdefault(object_id, []).append(waiter)

    def _on_yielded(self, peer: Peer, message: Yielded) -> None:
        stream = self._streams.get(TaskId(message.task_id))
        if stream is None or message.index < stream.received:
            # Taken before a retry began anew, or nobody listens any more.
            if type(message.value) is Shared:
                self.objects._recycle(message.value)
            return
        self._add_item(stream, message.value)

    def _on_give_back(self, peer: Peer, message: GiveBack) -> None:
        given = tasks_machine.GivenBack(
            peer.worker_id, [TaskId(task_id) for task_id in message.task_ids], message.busy
        )
        self._do_tasks(self.tasks.handle(given, monotonic()))

    # -------------------------------------------------------------- actors

    def create_actor(self, spec: ActorSpec) -> ObjectRef[Any] | None:
        """Start an actor; see Engine."""
        function_id, code = spec.code.pack(dump_code)
        arguments = pack_arguments(self.objects, spec.args, spec.kwargs)
        options = spec.options
        meta = spec.meta
        token_id = ObjectId(meta.actor_id)
        note = Submission(TaskId(meta.actor_id), f"{meta.class_name}.__init__", arguments, 1)
        waits = 0
        answer = Waiter()
        with self.guard:
            self._refuse_if_ended()
            self.objects.drain()
            self.objects.handle(Made(token_id))
            self.objects.handle(Sealed(token_id, _EMPTY))
            token = self.objects.ref(self.objects.machine.entries[token_id])
            if arguments.large is not None:
                self._own_large_arguments(note)
            self._actor_holds[meta.actor_id] = note
            if options.lifetime != "detached":
                self._mortal.add(meta.actor_id)
            request = self._expect(answer)

            def create() -> None:
                nonlocal waits
                waits -= 1
                if waits > 0:
                    return
                found = self._dependencies(note)
                if isinstance(found, Failure):
                    told = ActorState(meta.actor_id, "dead", "", 0, "a constructor argument failed", found.error)
                    self._told_of_actor(told)
                    return
                deps, owners = found
                self.peers.send(
                    self.daemon,
                    CreateActor(
                        meta, spec.shape, function_id, code, note.arguments.data, deps, self.address,
                        actor_options(options), request, owners, note.arguments.large,
                    ),
                )  # fmt: skip
                self.peers.flush()

            callee = calls_machine.Callee(in_any_order=False)
            self.calls.callees[meta.actor_id] = callee
            self.peers.send(self.daemon, WatchActor(meta.actor_id))
            waits = self._await_arguments(arguments.deps, create)
            if not waits:
                create()
        if meta.name:
            reply = self._await_answer(request, answer)
            if reply.error:
                raise ValueError(reply.error)
        else:
            with self.guard:
                del self._answers[request]
        return None if options.lifetime == "detached" else token

    def call(self, spec: CallSpec) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Call an actor's method; see Engine."""
        meta = spec.actor
        actor = meta.actor_id
        if 0 <= meta.max_pending_calls <= self.calls.pending(actor):
            raise PendingCallsLimitExceeded(
                f"{meta.class_name} has {meta.max_pending_calls} unfinished calls from here, its max_pending_calls: "
                "wait for some before calling again"
            )
        arguments = pack_arguments(self.objects, spec.args, spec.kwargs)
        task_id = self.ids.task_id()
        name = spec.name or f"{meta.class_name}.{spec.method}"
        note = Submission(task_id, name, arguments, spec.num_returns)
        note.method = spec.method
        note.group = spec.concurrency_group
        note.retry_on = spec.retry_exceptions
        note.backpressure = spec.backpressure
        call = ActorCall(
            task_id, actor, name=name, retries=spec.max_task_retries, timeout_s=spec.timeout_s or 0.0, note=note
        )
        with self.guard:
            self._refuse_if_ended()
            returned = self._prepare(note)
            token = self.objects.machine.entries.get(ObjectId(actor))
            if token is not None:
                note.token = self.objects.new_ref(token)
            if arguments.deps:
                call.waits = self._await_arguments(
                    arguments.deps,
                    lambda: self._do_calls(self.calls.handle(calls_machine.ArgumentReady(task_id), monotonic())),
                )
                if call.waits:
                    call.state = "waiting"
            self._do_calls(
                self.calls.handle(calls_machine.Made(call, meta.is_async or meta.in_any_order), monotonic())
            )
        return returned

    def _do_calls(self, effects: Sequence[calls_machine.Effect]) -> None:
        for effect in effects:
            match effect:
                case calls_machine.SendCall():
                    self._send_call(effect.call)
                case calls_machine.Completed():
                    self._end(effect.call.note)
                case calls_machine.Failed():
                    self._fail(effect.call.note, self._call_error(effect))
                case calls_machine.Watch():
                    self.peers.send(self.daemon, WatchActor(effect.actor))
                    self.peers.flush()
                case calls_machine.Connect():
                    self._connect_actor(effect.actor, effect.address)
                case calls_machine.AskCancel():
                    peer = self._actors.get(effect.call.actor)
                    if peer is not None:
                        self.peers.send(peer, Cancel(effect.call.id, recursive=True))
                        self.peers.flush()
                case calls_machine.KillActor():
                    self.peers.send(
                        self.daemon, EndActor(effect.actor, graceful=False, no_restart=False, reason=effect.reason)
                    )
                    self.peers.flush()

    def _connect_actor(self, actor: ActorId, address: str) -> None:
        peer = self.peers.connect(address)
        if peer is None:
            # It died already: the directory will say so.
            return
        self._actors[actor] = peer
        self._actor_of.setdefault(peer, set()).add(actor)
        self._do_calls(self.calls.handle(calls_machine.Connected(actor, address), monotonic()))

    def _send_call(self, call: ActorCall) -> None:
        note: Submission = call.note
        peer = self._actors[call.actor]
        deps: list[Value] = []
        owners: list[Held] = []
        if note.arguments.deps or note.arguments.large is not None:
            found = self._dependencies(note)
            if isinstance(found, Failure):
                note.values = [found] * len(note.returns)
                note.retry_on = False
                self._do_calls(
                    self.calls.handle(calls_machine.Answered(call.actor, call.id, retriable=False), monotonic())
                )
                return
            deps, owners = found
        self.peers.send(
            peer,
            Call(
                call.id, call.actor, note.method, note.arguments.data, deps, note.num_returns, note.group, note.name,
                note.depth, call.timeout_s, note.stream.limit if note.stream is not None else 0, call.attempt,
                note.is_dynamic, owners, note.arguments.large,
            ),
        )  # fmt: skip
        in_flight = len(self.calls.callees[call.actor].sent)
        if in_flight <= EAGER_TASKS or peer.connection.queued >= BATCH_TASKS:
            peer.connection.flush()

    def _call_error(self, effect: calls_machine.Failed) -> Failure:
        call = effect.call
        told: ActorState | None = effect.detail if isinstance(effect.detail, ActorState) else None
        cause = told.cause if told is not None else effect.detail if isinstance(effect.detail, str) else ""
        error: WeftError
        match effect.kind:
            case "cancelled":
                error = TaskCancelledError(call.id, task=call.name)
            case "timeout":
                error = TaskTimeoutError(task=call.name, timeout_s=call.timeout_s)
            case "unavailable":
                error = ActorUnavailableError(
                    error_message=f"{call.name} may or may not have run: {cause or 'its actor is restarting'}",
                    actor_id=call.actor,
                )
            case "died":
                if told is not None and told.error:
                    return self._constructor_failed(call, told.error)
                error = ActorDiedError(cause, actor_id=call.actor, class_name=call.name.rpartition(".")[0])
            case "argument":
                assert isinstance(effect.detail, Failure)
                return effect.detail
        return Failure(pack_error(error))

    def _constructor_failed(self, call: ActorCall, packed: bytes) -> Failure:
        cause = unpack_failure(packed)
        name = call.name.rpartition(".")[0]
        return Failure(
            pack_error(ActorDiedError(cause, actor_id=call.actor, class_name=name, actor_init_failed=True))
        )

    def _on_actor_state(self, peer: Peer, message: ActorState) -> None:
        self._told_of_actor(message)

    def _told_of_actor(self, message: ActorState) -> None:
        actor = ActorId(message.actor_id)
        if message.state == "dead":
            self._actor_holds.pop(actor, None)
        if actor in self.calls.callees:
            self._do_calls(self.calls.handle(calls_machine.Told(message), monotonic()))

    def _on_freed(self, entry: Entry) -> None:
        """An owned object has left the table: if it was an actor's token, the actor ends."""
        actor = ActorId(entry.id)
        if actor in self._mortal:
            self._mortal.discard(actor)
            ended = EndActor(actor, graceful=True, no_restart=True, reason="its last handle is gone")
            self.peers.send(self.daemon, ended)
            self.peers.flush()

    def find_actor(self, name: str, namespace: str) -> tuple[ActorMeta, ObjectRef[Any] | None]:
        """Look a named actor up; see Engine."""
        body = self.ask("find_actor", [name, namespace])
        meta, owner = codec.unpack(body, tuple[ActorMeta, str])
        if not owner:
            return meta, None
        try:
            return meta, self.objects.rebuild_ref(meta.actor_id, owner)
        except ObjectLostError:
            # Its last handle went here while the directory was asked.
            raise ValueError(f"no actor is named {name!r} in namespace {namespace!r}: it has ended") from None

    def named_actors(self, namespace: str | None) -> list[tuple[str, str]]:
        """List names; see Engine."""
        return codec.unpack(self.ask("named_actors", namespace), list[tuple[str, str]])

    def kill(self, actor_id: ActorId, *, no_restart: bool) -> None:
        """End an actor; see Engine."""
        reason = "weft.kill ended it"
        with self.guard:
            self._refuse_if_ended()
            self.peers.send(self.daemon, EndActor(actor_id, graceful=False, no_restart=no_restart, reason=reason))
            self.peers.flush()
            if actor_id in self.calls.callees:
                # What is called after this is for the next life, not for the process that is being killed.
                self._do_calls(self.calls.handle(calls_machine.Killed(actor_id, reason), monotonic()))

    # -------------------------------------------------------------- values

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value; see Engine."""
        packed = self.objects.pack(value)
        object_id = self.ids.task_id().object_id(1)
        objects = self.objects
        with self.guard:
            objects.drain()
            objects.handle(Made(object_id))
            objects.handle(Sealed(object_id, packed))
            return objects.ref(objects.machine.entries[object_id])

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Wait for values; see Engine."""
        pending = [ref._entry for ref in refs if ref._entry.value is None]
        if pending and not self._await(pending, len(pending), timeout_s):
            raise self._too_late(pending, timeout_s)
        return [self._value(ref) for ref in refs]

    def _too_late(self, pending: Sequence[Entry], timeout_s: float | None) -> GetTimeoutError:
        with self.guard:
            missing = [entry for entry in pending if entry.value is None]
            reason = f": {reasons.explain_object(self, missing[0].id).text}" if missing else ""
        values = "the value was" if len(missing) == 1 else f"{len(missing)} values were"
        return GetTimeoutError(
            f"{values} not there after {timeout_s or 0:g} s{reason}; weft.why(ref) tells more",
            timeout_s=timeout_s,
            waiting=len(missing),
        )

    def _value(self, ref: ObjectRef[Any]) -> Any:
        entry: Entry = ref._entry
        value = entry.value
        assert value is not None
        return self.objects.load(value, entry)

    def wait(
        self, refs: Sequence[ObjectRef[Any]], ready: int, timeout_s: float | None, *, fetch_local: bool
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait for some; see Engine."""
        refs = list(refs)
        missing = ready
        for ref in refs:
            if ref._entry.value is not None:
                missing -= 1
                if not missing:
                    break
        if missing > 0 and (timeout_s is None or timeout_s > 0):
            pending = [ref._entry for ref in refs if ref._entry.value is None]
            self._await(pending, min(missing, len(pending)), timeout_s)
        elif missing > 0:
            # Not blocking, and yet a chance for what has arrived to be read.
            self._await([ref._entry for ref in refs if ref._entry.value is None], missing, 0.0)
        done: list[ObjectRef[Any]] = []
        rest: list[ObjectRef[Any]] = []
        for index, ref in enumerate(refs):
            if ref._entry.value is None:
                rest.append(ref)
                continue
            done.append(ref)
            if len(done) == ready:
                return done, rest + refs[index + 1 :]
        return done, rest

    def _await(self, entries: Sequence[Entry], count: int, timeout_s: float | None) -> bool:
        """Block until `count` of these are sealed, or time is up; return whether they are."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        waiter = Waiter(count)
        with self.guard:
            self.objects.drain()
            for entry in entries:
                if entry.value is not None or not self._when_sealed(entry, waiter.ready):
                    waiter.ready()
        try:
            if running.get() is None:
                return self._wait_aloud(waiter, deadline, entries)
            return self._wait_in_task(waiter, deadline, entries)
        finally:
            with self.guard:
                if waiter.missing > 0 or count < len(entries):
                    for entry in entries:
                        if entry.waiters and waiter.ready in entry.waiters:
                            entry.waiters.remove(waiter.ready)
            if self.loop.closed and waiter.missing > 0:
                raise SessionError("the session ended while this thread waited in it")

    def _wait_aloud(self, waiter: Waiter, deadline: float | None, entries: Sequence[Entry]) -> bool:
        """Wait; after `SILENCE_S` the driver says once what for."""
        if self.role != "driver":
            return self.loop.wait(waiter, deadline)
        loud_at = monotonic() + SILENCE_S
        if deadline is not None and deadline <= loud_at:
            return self.loop.wait(waiter, deadline)
        if self.loop.wait(waiter, loud_at) or self.loop.closed:
            return waiter.missing <= 0
        for entry in entries:
            if entry.value is None:
                print(f"weft: still waiting after {SILENCE_S:g} s. {self.why_entry(entry)}", file=sys.stderr)
                break
        return self.loop.wait(waiter, deadline)

    def _wait_in_task(self, waiter: Waiter, deadline: float | None, entries: Sequence[Entry]) -> bool:
        """Wait inside a task: tell the daemon that this worker's CPU is free meanwhile."""
        if not any(entry.id.task_id() in self.tasks.tasks for entry in entries):
            patience = monotonic() + CALL_PATIENCE_S
            if deadline is not None and deadline <= patience:
                return self.loop.wait(waiter, deadline)
            if self.loop.wait(waiter, patience) or self.loop.closed:
                return waiter.missing <= 0
        now = running.get()
        assert now is not None
        with self.guard:
            self._blocked += 1
            self.on_block()
            if self._blocked == 1:
                self.peers.send(self.daemon, Blocked())
            now.waits.extend(entries)
        try:
            return self._wait_aloud(waiter, deadline, entries)
        finally:
            with self.guard:
                now.waits.clear()
                self._blocked -= 1
                if not self._blocked:
                    self.peers.send(self.daemon, Unblocked())

    def is_ready(self, ref: ObjectRef[Any]) -> bool:
        """Tell whether `get` would return at once; see Engine."""
        return ref._entry.value is not None

    def when_ready(self, ref: ObjectRef[Any], callback: Callable[[], None]) -> None:
        """Call back when the value is there; see Engine."""
        entry = ref._entry
        with self.guard:
            self.objects.drain()
            if entry.value is None:
                now = running.get()
                if now is not None:
                    now.waits.append(entry)
                # Outside the guard: the callback may be the user's.
                if self._when_sealed(entry, lambda _entry: self.loop.later(callback)):
                    self.peers.flush()
                    return
        callback()

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        """Return a future; see Engine."""
        future: Future[Any] = Future()

        def settle() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(self._value(ref))
            except BaseException as error:  # noqa: BLE001 - it belongs to who asks the future
                future.set_exception(error)

        self.when_ready(ref, settle)
        return future

    def release(self, object_id: ObjectId) -> None:
        """A reference is gone; see Engine. Without the guard: `__del__` calls this in the middle of anything."""
        if type(object_id) is TaskId:
            self._dropped.append(object_id)
            self.loop.nudge()
        else:
            self.objects.release(object_id)

    def adopt(self, object_id: ObjectId, owner: str) -> None:
        """A reference made elsewhere appeared; see Engine."""
        self.objects.rebuild_ref(object_id, owner)

    # -------------------------------------------------------------- streams

    def next_item(self, generator: ObjectRefGenerator[Any], timeout_s: float | None) -> ObjectRef[Any] | None:
        """Return the next reference of a stream; see Engine."""
        stream: Stream = generator._stream
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while True:
            waiter = Waiter()
            with self.guard:
                if stream.ready:
                    return self._take_item(stream)
                if stream.ended:
                    self._streams.pop(stream.task_id, None)
                    return None
                stream.waiters.append(waiter.ready)
            if not self._wait_for_item(waiter, deadline):
                with self.guard:
                    if waiter.ready in stream.waiters:
                        stream.waiters.remove(waiter.ready)
                    if stream.would_block:
                        if self.loop.closed:
                            raise SessionError("the session ended while this thread waited in it")
                        raise GetTimeoutError(f"the stream had no next item after {timeout_s:g} s")

    def _wait_for_item(self, waiter: Waiter, deadline: float | None) -> bool:
        if running.get() is None:
            return self.loop.wait(waiter, deadline)
        return self._wait_in_task(waiter, deadline, ())

    def _take_item(self, stream: Stream) -> ObjectRef[Any]:
        entry = stream.ready.popleft()
        stream.taken += 1
        if not stream.ended:
            peer = self._peer_of(stream.task_id)
            if peer is not None:
                self.peers.send(peer, Taken(stream.task_id, stream.taken))
                if len(stream.ready) < stream.limit // 2 or stream.limit < 4:
                    peer.connection.flush()
        return self.objects.ref(entry)

    def _drop_streams(self) -> None:
        """Nobody listens to these any more: their tasks and what they yielded can go."""
        while self._dropped:
            stream = self._streams.pop(self._dropped.popleft(), None)
            if stream is None:
                continue
            self.objects.handle(Released([entry.id for entry in stream.ready]))
            if not stream.ended:
                self.cancel_task(stream.task_id, force=False)

    def _peer_of(self, task_id: TaskId) -> Peer | None:
        task = self.tasks.tasks.get(task_id)
        if task is not None:
            return None if task.worker is None else self._workers.get(task.worker)
        call = self.calls.calls.get(task_id)
        return None if call is None else self._actors.get(call.actor)

    def when_next(self, generator: ObjectRefGenerator[Any], callback: Callable[[], None]) -> None:
        """Call back when `next_item` would not block; see Engine."""
        stream: Stream = generator._stream
        with self.guard:
            if stream.would_block:
                stream.waiters.append(lambda: self.loop.later(callback))
                return
        callback()

    # -------------------------------------------------------------- ending things

    def cancel(self, ref: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool, recursive: bool) -> None:
        """Ask a task to end; see Engine."""
        with self.guard:
            if isinstance(ref, ObjectRefGenerator):
                self.cancel_task(ref._task_id, force=force)
                return
            entry: Entry = ref._entry
            if entry.owner:
                peer = self.peers.connect(entry.owner)
                if peer is not None:
                    self.peers.send(peer, CancelObject(entry.id, force, recursive))
                    self.peers.flush()
                return
            self.cancel_task(entry.id.task_id(), force=force)

    def cancel_task(self, task_id: TaskId, *, force: bool) -> None:
        """Ask one of this process's tasks or calls to end. Inside the guard."""
        now = monotonic()
        if task_id in self.tasks.tasks:
            self._do_tasks(self.tasks.handle(tasks_machine.CancelAsked(task_id, force), now))
        elif task_id in self.calls.calls:
            if force:
                raise ValueError("a call of an actor cannot be cancelled with force: weft.kill ends the actor")
            self._do_calls(self.calls.handle(calls_machine.CancelAsked(task_id), now))

    # -------------------------------------------------------------- messages from owners and borrowers

    def _on_fetch(self, peer: Peer, message: Fetch) -> None:
        object_id = ObjectId(message.object_id)
        if object_id in self.objects.machine.entries:
            self.objects.handle(Requested(object_id, peer))
        else:
            self.peers.send(peer, Fetched(message.object_id, lost_failure(object_id, self.address)))

    def _on_fetched(self, peer: Peer, message: Fetched) -> None:
        object_id = ObjectId(message.object_id)
        if object_id in self.objects.machine.entries:
            self.objects.handle(Sealed(object_id, message.value))

    def _on_borrow(self, peer: Peer, message: Borrow) -> None:
        self.objects.handle(Lent(peer, [ObjectId(object_id) for object_id in message.object_ids]))

    def _on_borrowed(self, peer: Peer, message: Borrowed) -> None:
        lost = [ObjectId(object_id) for object_id in message.lost]
        known = [ObjectId(object_id) for object_id in message.object_ids]
        failure = lost_failure(lost[0], peer.address) if lost else Failure(b"")
        self.objects.handle(Registered(known, lost, failure))
        for object_id in (*known, *lost):
            for waiter in self._registering.pop(object_id, ()):
                waiter.tell()

    def _on_return(self, peer: Peer, message: Return) -> None:
        self.objects.handle(Returned(peer, [ObjectId(object_id) for object_id in message.object_ids]))

    def _on_recycle(self, peer: Peer, message: Recycle) -> None:
        for segment in message.segments:
            self.store.recycle(segment)

    def _on_cancel_object(self, peer: Peer, message: CancelObject) -> None:
        self.cancel_task(ObjectId(message.object_id).task_id(), force=message.force)

    # -------------------------------------------------------------- messages from the daemon

    def _on_welcome(self, peer: Peer, message: Welcome) -> None:
        self.welcome = message
        self.store.directory = Path(message.store_dir)
        self.welcomed.ready()

    def _on_granted(self, peer: Peer, message: Granted) -> None:
        worker_id = WorkerId(message.worker_id)
        worker = self.peers.connect(message.address)
        if worker is None:
            # It died between the grant and now; the daemon knows, or will.
            self.peers.send(self.daemon, ReturnLease(worker_id))
            pool = self.tasks.pools[message.key]
            pool.wanted = 0
            self._do_tasks(self.tasks.handle(tasks_machine.Reclaimed(), monotonic()))
            return
        worker.worker_id = worker_id
        self._workers[worker_id] = worker
        shape = self._shape_of[message.key]
        # On the connection that will bring the tasks, so that it comes first.
        self.peers.send(worker, Assigned(dict(shape.amounts), message.accelerators, shape.env, self.address))
        granted = tasks_machine.LeaseGranted(message.key, worker_id, message.contended)
        self._do_tasks(self.tasks.handle(granted, monotonic()))

    def _on_refused(self, peer: Peer, message: Refused) -> None:
        refused = tasks_machine.LeaseRefused(message.key, message.kind, message.reason)
        self._do_tasks(self.tasks.handle(refused, monotonic()))

    def _on_reclaim(self, peer: Peer, message: Reclaim) -> None:
        self._do_tasks(self.tasks.handle(tasks_machine.Reclaimed(), monotonic()))

    def _on_certificate(self, peer: Peer, message: Certificate) -> None:
        worker_id = WorkerId(message.worker_id)
        self._workers.pop(worker_id, None)
        last = TaskId(message.task_id) if message.task_id else None
        self._do_tasks(self.tasks.handle(tasks_machine.WorkerEnded(worker_id, last, message), monotonic()))

    def _on_output(self, peer: Peer, message: Output) -> None:
        self.loop.later(lambda: self.on_output(message))

    # -------------------------------------------------------------- questions

    def _expect(self, waiter: Waiter) -> int:
        self._requests += 1
        self._answers[self._requests] = (waiter, [])
        return self._requests

    def _on_answer(self, peer: Peer, message: Answer | Because) -> None:
        expected = self._answers.get(message.request)
        if expected is not None:
            expected[1].append(message)
            expected[0].ready()

    def _await_answer(self, request: int, waiter: Waiter, deadline: float | None = None) -> Any:
        """Return the answer, or None if the deadline came first."""
        try:
            in_time = self.loop.wait(waiter, deadline)
        finally:
            with self.guard:
                _, answers = self._answers.pop(request)
        if answers:
            return answers[0]
        if in_time or self.loop.closed:
            raise SessionError("the session ended before it answered")
        return None

    def ask(self, what: str, body: object = None) -> bytes:
        """Ask the daemon; return the answer's body. Blocks. ValueError with the daemon's words if it refuses."""
        waiter = Waiter()
        with self.guard:
            self._refuse_if_ended()
            request = self._expect(waiter)
            self.peers.send(self.daemon, Ask(request, what, codec.pack(body)))
            self.peers.flush()
        answer: Answer = self._await_answer(request, waiter)
        if answer.error:
            raise ValueError(answer.error)
        return answer.body

    def nodes(self) -> list[dict[str, Any]]:
        """List nodes; see Engine."""
        return codec.unpack(self.ask("nodes"), list[dict[str, Any]])

    def resources(self, *, available: bool) -> dict[str, float]:
        """Return amounts; see Engine."""
        if available:
            with self.guard:
                reclaimed = tasks_machine.Reclaimed(others_wait=False)
                self._do_tasks(self.tasks.handle(reclaimed, monotonic()))
        both = codec.unpack(self.ask("resources"), dict[str, dict[str, float]])
        return both["available" if available else "total"]

    def timeline(self) -> list[dict[str, Any]]:
        """Return trace events; see Engine."""
        return codec.unpack(self.ask("timeline"), list[dict[str, Any]])

    def why(self, subject: ObjectRef[Any] | ActorId) -> str:
        """Say what a reference or actor waits for; see Engine."""
        if isinstance(subject, ActorId):
            return reasons.tell(self, reasons.actor_step(subject))
        return self.why_entry(subject._entry)

    def why_entry(self, entry: Entry) -> str:
        """Say what an object waits for. Blocks while other processes answer."""
        return reasons.tell(self, reasons.step_of(self, entry))

    def reason_of(self, step: Step) -> Reason:
        """Answer one question, here or by asking who knows. Blocks for at most `ANSWER_S`."""
        if step.kind == "shape":
            return Reason(self.ask("why_shape", msgspec.msgpack.decode(step.key)).decode())
        if step.kind == "actor":
            return Reason(self.ask("why_actor", step.key.hex()).decode())
        if step.address == self.address:
            with self.guard:
                return self._explain(step.kind, step.key)
        waiter = Waiter()
        with self.guard:
            peer = self.peers.connect(step.address)
            if peer is None:
                return Reason("the process that knows is gone")
            request = self._expect(waiter)
            self.peers.send(peer, Why(request, step.kind, step.key))
            self.peers.flush()
        answer: Because | None = self._await_answer(request, waiter, monotonic() + ANSWER_S)
        if answer is None:
            return Reason(f"process {peer.pid} does not answer: it runs code that does not let others in")
        return codec.unpack(answer.body, Reason)

    def _explain(self, kind: str, key: bytes) -> Reason:
        if kind == "task":
            return self.explain_task(TaskId(key))
        return reasons.explain_object(self, ObjectId(key))

    def _on_why(self, peer: Peer, message: Why) -> None:
        self.peers.send(peer, Because(message.request, codec.pack(self._explain(message.kind, message.key))))

    def shape_of(self, key: int) -> Shape:
        """Return the shape of a pool."""
        return self._shape_of[key]

    def worker(self, worker_id: WorkerId) -> Peer:
        """Return a leased worker."""
        return self._workers[worker_id]

    # -------------------------------------------------------------- context and end

    def context(self) -> Place:
        """Say where the calling code runs; see Engine."""
        welcome = self.welcome
        assert welcome is not None
        now = running.get()
        return Place(
            job_id=JobId(welcome.job_id),
            node_id=NodeId(welcome.node_id),
            worker_id=self.worker_id,
            task_id=None if now is None else now.task_id,
            task_name="" if now is None else now.name,
            function_name="" if now is None else now.function,
            namespace=welcome.namespace,
            runtime_env=welcome.runtime_env or "{}",
            session=welcome.session,
            temp_dir=welcome.session_dir,
            address=self.daemon.address,
            labels=welcome.labels,
            is_cancelled=now is not None and now.cancelled,
            in_worker=self.role == "worker",
        )

    def current_actor(self) -> tuple[ActorMeta, ObjectRef[Any] | None] | None:
        """Return None: a driver is no actor; see Engine."""
        return None

    def exit_actor(self) -> None:
        """Refuse: a driver is no actor."""
        raise TypeError("exit_actor works inside an actor's method only")

    def fail_everything(self, error: WeftError) -> None:
        """End every task, call and question of this process with `error`, and refuse new ones. Inside the guard."""
        self.ended = error
        failure = Failure(pack_error(error))
        for task in self.tasks.tasks.values():
            self._fail(task.note, failure)
        for call in self.calls.calls.values():
            self._fail(call.note, failure)
        self.tasks, self.calls = Tasks(), Calls()
        for waiter, _ in self._answers.values():
            waiter.ready()

    def _refuse_if_ended(self) -> None:
        if self.ended is not None:
            raise self.ended.with_traceback(None)
        if self.loop.closed:
            raise SessionError("the session has ended: call weft.init() again")

    def shutdown(self) -> None:
        """Refuse: a worker does not end the session that it serves."""
        raise SessionError("shutdown works in the driver only: a task or an actor cannot end its session")

    def drain(self) -> None:
        """Send all that is queued, waiting for peers that are slow to take it."""
        with self.guard:
            self.peers.drain()

    def close(self) -> None:
        """End the loop and all connections. Waiting threads get WeftError."""
        self.closing = True
        self.loop.close()
        self.peers.close()
        self.listener.close()
        self.store.close()


_alive: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _abandon_all() -> None:
    for runtime in list(_alive):
        if not runtime.closing:
            runtime.abandon()


os.register_at_fork(after_in_child=_abandon_all)


def running_depth() -> int:
    """How many tasks are above the calling code."""
    now = running.get()
    return 0 if now is None else now.depth + 1


def actor_options(options: Any) -> dict[str, Any]:
    """Return what the directory and the actor's process need of an actor's options."""
    return {
        "max_restarts": options.max_restarts,
        "lifetime": options.lifetime,
        "max_concurrency": options.max_concurrency,
        "concurrency_groups": options.concurrency_groups,
    }


def worker_died(certificate: Certificate, task: str, attempts: int) -> WorkerDiedError:
    """Return the error that describes how a worker ended."""
    return WorkerDiedError.from_certificate(
        pid=certificate.pid,
        exit_code=certificate.exit_code,
        peak_bytes=certificate.peak_bytes,
        limit_bytes=certificate.limit_bytes,
        function=certificate.function or task,
        stderr=certificate.stderr,
        reason=certificate.reason,
        attempts=attempts,
    )
