"""The shell round this process's tasks: it leases workers for them and sends them there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._clock import monotonic
from weft._ids import TaskId, WorkerId
from weft._machines import tasks as tasks_machine
from weft._machines.tasks import Task, Tasks
from weft._runtime.arguments import pack_arguments
from weft._runtime.running import running
from weft._runtime.submissions import Submission
from weft._serialize.failures import pack_error
from weft._serialize.pickling import dump_code
from weft._wire.messages import (
    Assigned,
    Cancel,
    Certificate,
    Demand,
    Done,
    Explain,
    Export,
    Failure,
    GiveBack,
    Granted,
    Held,
    KillWorker,
    Reclaim,
    Refused,
    ReturnLease,
    Run,
)
from weft.exceptions import (
    EnvSetupError,
    TaskCancelledError,
    TaskTimeoutError,
    TaskUnschedulableError,
    WorkerDiedError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft._refs import ObjectRef, ObjectRefGenerator
    from weft._runtime.links import Links
    from weft._runtime.peers import Peer
    from weft._runtime.submissions import Submissions
    from weft._specs import Shape, TaskSpec
    from weft._wire.messages import Value
    from weft.exceptions import WeftError

# A worker with so many tasks on their way is busy for a while: more are sent in batches, when
# somebody next reads.
EAGER_TASKS = 8
BATCH_TASKS = 64


class Leasing:
    """This process's tasks. Inside the guard, where a docstring does not say otherwise."""

    def __init__(self, links: Links, submissions: Submissions) -> None:
        self.machine = Tasks()
        self._links = links
        self._guard = links.guard
        self._objects = links.objects
        self._peers = links.peers
        self._submissions = submissions
        self._shapes: dict[Shape, int] = {}
        self._shape_of: list[Shape] = []
        self._name_of: list[str] = []
        self._workers: dict[WorkerId, Peer] = {}
        """Those leased, or lost and not yet explained."""

    def tick(self, now: float) -> float | None:
        """Do what is due; return when to call again."""
        deadline = self.machine.next_deadline
        if deadline is not None and deadline <= now:
            self._do(self.machine.handle(tasks_machine.TasksTicked(), now))
            deadline = self.machine.next_deadline
        return deadline

    def lost(self, peer: Peer) -> None:
        """The connection to a process broke; if it is a leased worker, ask how it ended."""
        if self._workers.get(peer.worker_id) is peer:
            self._do(self.machine.handle(tasks_machine.LeaseLost(peer.worker_id), monotonic()))
            self._peers.send(self._links.daemon, Explain(peer.worker_id))

    def give_up_idle(self) -> None:
        """Return the leases that have nothing to do."""
        self._do(self.machine.handle(tasks_machine.Reclaimed(others_wait=False), monotonic()))

    def cancel(self, task_id: TaskId, *, force: bool) -> bool:
        """Ask a task to end; False if it is none of these."""
        known = task_id in self.machine.tasks
        if known:
            self._do(self.machine.handle(tasks_machine.CancelAsked(task_id, force), monotonic()))
        return known

    def fail_all(self, failure: Failure) -> None:
        """End every task with a failure."""
        machine, self.machine = self.machine, Tasks()
        for task in machine.tasks.values():
            self._submissions.fail(task.note, failure)

    def peer_of(self, task_id: TaskId) -> Peer | None:
        """Return the worker that has a task, if one has."""
        task = self.machine.tasks.get(task_id)
        return None if task is None or task.worker is None else self._workers.get(task.worker)

    def shape_of(self, key: int) -> Shape:
        """Return the shape of a pool."""
        return self._shape_of[key]

    def worker(self, worker_id: WorkerId) -> Peer:
        """Return a leased worker."""
        return self._workers[worker_id]

    def on_done(self, peer: Peer, message: Done) -> bool:
        """A worker has answered; False if the task is none of these any more."""
        task = self.machine.tasks.get(TaskId(message.task_id))
        if task is None or task.worker != peer.worker_id:
            return False
        note: Submission = task.note
        note.values = message.values
        retriable = self._submissions.is_retriable(note)
        finished = tasks_machine.Finished(peer.worker_id, task.id, message.duration_s, retriable)
        self._do(self.machine.handle(finished, monotonic()))
        return True

    def submit(self, spec: TaskSpec) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Start a task; see Engine."""
        function_id, code = spec.code.pack(dump_code)
        options = spec.options
        arguments = pack_arguments(self._objects, spec.args, spec.kwargs)
        task_id = self._links.ids.task_id()
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
        with self._guard:
            self._links.refuse_if_ended()
            shape = self._shapes.get(spec.shape)
            if shape is None:
                shape = self._shapes[spec.shape] = len(self._shape_of)
                self._shape_of.append(spec.shape)
                self._name_of.append(note.name)
            task.shape = shape
            returned = self._submissions.prepare(note)
            if arguments.deps:
                task.waits = self._submissions.await_arguments(
                    arguments.deps,
                    lambda: self._do(
                        self.machine.handle(tasks_machine.ArgumentReady(task_id), monotonic())
                    ),
                )
            self._do(self.machine.handle(tasks_machine.Submitted(task), monotonic()))
        return returned

    def _do(self, effects: Sequence[tasks_machine.Effect]) -> None:
        for effect in effects:
            match effect:
                case tasks_machine.Send():
                    self._send_task(effect.worker, effect.task)
                case tasks_machine.Complete():
                    self._submissions.end(effect.task.note)
                case tasks_machine.Fail():
                    self._submissions.fail(effect.task.note, self._task_error(effect))
                case tasks_machine.Want():
                    depth = running_depth()
                    shape = self._shape_of[effect.key]
                    self._peers.send(
                        self._links.daemon,
                        Demand(effect.key, shape, effect.workers, depth, self._name_of[effect.key]),
                    )
                    self._peers.flush()
                case tasks_machine.GiveUpLease():
                    self._workers.pop(effect.worker, None)
                    self._peers.send(self._links.daemon, ReturnLease(effect.worker))
                    self._peers.flush()
                case tasks_machine.AskCancel():
                    self._peers.send(
                        self._workers[effect.worker], Cancel(effect.task.id, recursive=True)
                    )
                    self._peers.flush()
                case tasks_machine.Kill():
                    self._peers.send(self._links.daemon, KillWorker(effect.worker, effect.reason))
                    self._peers.flush()

    def _send_task(self, worker: WorkerId, task: Task) -> None:
        note: Submission = task.note
        peer = self._workers[worker]
        deps: list[Value] = []
        owners: list[Held] = []
        if note.arguments.deps or note.arguments.large is not None:
            found = self._submissions.dependencies(note)
            if isinstance(found, Failure):
                # Sent to nobody: the lease is asked to answer for it at once.
                note.values = [found] * len(note.returns)
                note.retry_on = False
                finished = tasks_machine.Finished(worker, task.id, 0.0, retriable=False)
                self._do(self.machine.handle(finished, monotonic()))
                return
            deps, owners = found
        function_id, name, code = note.code
        if function_id not in peer.exported:
            peer.exported.add(function_id)
            self._peers.send(peer, Export(function_id, name, code))
        self._peers.send(
            peer,
            Run(
                task.id,
                function_id,
                note.arguments.data,
                deps,
                note.num_returns,
                note.name,
                note.depth,
                task.timeout_s,
                note.max_calls,
                note.stream.limit if note.stream is not None else 0,
                task.attempt,
                note.is_dynamic,
                owners,
                note.arguments.large,
            ),
        )
        in_flight = len(self.machine.leases[worker].tasks)
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

    def on_granted(self, peer: Peer, message: Granted) -> None:
        worker_id = WorkerId(message.worker_id)
        worker = self._peers.connect(message.address)
        if worker is None:
            # It died between the grant and now; the daemon knows, or will.
            self._peers.send(self._links.daemon, ReturnLease(worker_id))
            self._do(self.machine.handle(tasks_machine.LeaseMissed(message.key), monotonic()))
            return
        worker.worker_id = worker_id
        self._workers[worker_id] = worker
        shape = self._shape_of[message.key]
        # On the connection that will bring the tasks, so that it comes first.
        self._peers.send(
            worker,
            Assigned(dict(shape.amounts), message.accelerators, shape.env, self._links.address),
        )
        granted = tasks_machine.LeaseGranted(message.key, worker_id, message.contended)
        self._do(self.machine.handle(granted, monotonic()))

    def on_refused(self, peer: Peer, message: Refused) -> None:
        refused = tasks_machine.LeaseRefused(message.key, message.kind, message.reason)
        self._do(self.machine.handle(refused, monotonic()))

    def on_reclaim(self, peer: Peer, message: Reclaim) -> None:
        self._do(self.machine.handle(tasks_machine.Reclaimed(), monotonic()))

    def on_certificate(self, peer: Peer, message: Certificate) -> None:
        worker_id = WorkerId(message.worker_id)
        self._workers.pop(worker_id, None)
        last = TaskId(message.task_id) if message.task_id else None
        self._do(
            self.machine.handle(tasks_machine.WorkerEnded(worker_id, last, message), monotonic())
        )

    def on_give_back(self, peer: Peer, message: GiveBack) -> None:
        given = tasks_machine.GivenBack(
            peer.worker_id, [TaskId(task_id) for task_id in message.task_ids], message.busy
        )
        self._do(self.machine.handle(given, monotonic()))


def running_depth() -> int:
    """How many tasks are above the calling code."""
    now = running.get()
    return 0 if now is None else now.depth + 1


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
