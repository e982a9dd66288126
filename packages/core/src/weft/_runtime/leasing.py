"""The shell round this process's tasks: it leases workers for them and sends them there."""

from __future__ import annotations

from itertools import count, islice
from typing import TYPE_CHECKING, Any

from msgspec import structs

from weft._ids import TaskId, WorkerId
from weft._machines import asks
from weft._machines import tasks as task_rules
from weft._machines.asks import Asks
from weft._machines.attempts import Fail, Kill
from weft._machines.tasks import Task, Tasks
from weft._resources import UNITS
from weft._runtime import bundles
from weft._runtime.arguments import pack_arguments
from weft._runtime.recovery import describe, restore_arguments
from weft._runtime.running import running
from weft._runtime.submissions import Submission, Submissions
from weft._serialize.pickling import dump_code
from weft._specs import captured, group_strategy
from weft._transport.addresses import split
from weft._wire.messages import (
    Abort,
    Assigned,
    Certificate,
    Demand,
    Explain,
    Export,
    GiveBack,
    Granted,
    KillWorker,
    Learned,
    Reclaim,
    Refused,
    ReturnLease,
    Run,
    SentOn,
    Shared,
    WorkerPaused,
)
from weft.exceptions import (
    EnvSetupError,
    NodeDiedError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    WorkerDiedError,
)

if TYPE_CHECKING:
    from weft._machines.lineage import Lineage
    from weft._refs import ObjectRef, ObjectRefGenerator
    from weft._runtime.capsules import Capsules
    from weft._runtime.links import Links
    from weft._runtime.peers import Peer
    from weft._runtime.recorder import TaskRecorder
    from weft._runtime.streams import Streams
    from weft._specs import Shape, TaskSpec
    from weft._wire.messages import Message
    from weft.exceptions import WeftError

# Those behind them may be of other arguments; when they come, the demand is made anew.
TASKS_LOOKED_AT = 8


class Leasing:
    """This process's tasks. Inside the guard, where a docstring does not say otherwise."""

    def __init__(self, links: Links, streams: Streams, recorder: TaskRecorder) -> None:
        self.machine = Tasks()
        self._asks = Asks()
        self.tasks: Submissions[Task] = Submissions(links, streams, recorder, self.machine, self)
        self.capsules: Capsules | None = None
        self._links = links
        self._guard = links.guard
        self._objects = links.objects
        self._peers = links.peers
        self._keys = count()
        self._key_of: dict[Shape, int] = {}
        self._pools: dict[int, tuple[Shape, str]] = {}
        """By key: the shape, and the name of the task that wanted it first."""
        self._workers: dict[WorkerId, Peer] = {}
        """Those leased, or lost and not yet explained."""
        self._lender_of: dict[WorkerId, Peer] = {}
        """The daemons that have lent them; of this process's own node, if a worker is not here."""
        self._paused: dict[WorkerId, str] = {}
        """Why, in words."""
        self._memory_of: dict[str, int] = {}
        """What tasks take, in bytes, by the name of the function: of those that take much."""

    def submit(self, spec: TaskSpec) -> list[ObjectRef[Any]] | ObjectRefGenerator[Any]:
        """Start a task; see Engine."""
        function_id, code = spec.code.pack(dump_code)
        options = spec.options
        arguments = pack_arguments(self._links, spec.args, spec.kwargs)
        task_id = spec.task_id or self._links.ids.task_id()
        note = Submission(task_id, options.name or spec.code.name, arguments, options.num_returns)
        note.shape = spec.shape
        if self._links.parent is not None:
            note.shape = captured(spec.shape, options.scheduling_strategy, self._links.parent)
        note.code = (function_id, spec.code.name, code)
        note.retry_on = options.retry_exceptions
        note.max_calls = options.max_calls
        note.backpressure = options.backpressure
        note.site = spec.site
        task = Task(
            task_id,
            note.name,
            function_id,
            retries=options.max_retries,
            timeout_s=options.timeout or 0.0,
            note=note,
            spreads=self._spreads(note),
        )
        with self._guard:
            self._links.refuse_if_ended()
            task.shape = self._pool_of(note)
            return self.tasks.start(task, task_rules.Submitted(task))

    def _pool_of(self, note: Submission) -> int:
        """Return the key of the pool that a task belongs to: one that spreads has its own."""
        shape = self._shape_of(note)
        key = self._key_of.get(shape)
        if key is None:
            key = next(self._keys)
            self._pools[key] = (shape, note.name)
            if not self._spreads(note):
                self._key_of[shape] = key
        return key

    def _shape_of(self, note: Submission) -> Shape:
        learned = self._memory_of.get(note.code[1])
        return note.shape if learned is None else with_memory(note.shape, learned)

    def _spreads(self, note: Submission) -> bool:
        """Tell whether each task like this goes where its turn brings it."""
        # On a machine alone there is nowhere else to go.
        return note.shape.strategy == "SPREAD" and bool(self._links.home.node)

    # -------------------------------------------------------------- lost results

    def remember(self, task: Task, lineage: Lineage) -> None:
        """Write down how a task that has ended can be run again, or why not."""
        note: Submission = task.note
        large = note.arguments.large
        if not task.retries:
            retries = "has used up its max_retries" if task.attempt else "has max_retries=0"
            lineage.why_not = f"its task {task.name} {retries}"
        elif large is not None:
            lineage.why_not = (
                f"its task {task.name} had arguments of {large.size_bytes} bytes, which are not "
                "kept: put what is large, and pass the reference"
            )
        else:
            describe(lineage, note)

    def run_again(self, lineage: Lineage) -> None:
        """Run a task again that has ended: something that it made is lost."""
        task: Task = lineage.note
        note: Submission = task.note
        borrowed = restore_arguments(note, self._objects)

        def start() -> None:
            task.shape = self._pool_of(note)
            self.tasks.start_again(task, task_rules.Resubmitted(task))

        # Until their owners count this process, nothing keeps these for the worker.
        self._objects.when_registered(borrowed, start)

    # -------------------------------------------------------------- what the machine says

    def perform(self, effect: task_rules.OwnEffect) -> None:
        """Do what is particular to tasks."""
        match effect:
            case task_rules.Send():
                self._send(effect.worker, effect.task)
            case task_rules.Want():
                self._ask(asks.WorkersWanted(effect.key, effect.workers))
            case task_rules.GiveUpLease():
                lender = self._forget_worker(effect.worker)
                self._tell(lender, ReturnLease(effect.worker))
            case task_rules.ForgetPool():
                shape, _ = self._pools.pop(effect.key)
                if self._key_of.get(shape) == effect.key:
                    del self._key_of[shape]
            case task_rules.AskAbort():
                self.tasks.tell(effect.task, Abort(effect.task.id))
            case Kill():
                worker = effect.task.worker
                assert worker is not None
                self._tell(self._lender(worker), KillWorker(worker, effect.reason))

    # -------------------------------------------------------------- daemons

    def _ask(self, event: asks.Event) -> None:
        """Tell daemons what they are to find, as the machine of asks decides."""
        for each in self._asks.handle(event):
            daemon = self._daemon_at(each.daemon)
            if daemon is None:
                self._ask(asks.DaemonGone(each.daemon))
            elif each.key in self._pools:
                shape, name = self._pools[each.key]
                wanted = Demand(
                    each.key,
                    shape,
                    each.workers,
                    running_depth(),
                    name,
                    each.hops,
                    self._bytes_at(each.key),
                )
                self._tell(daemon, wanted)

    def _bytes_at(self, key: int) -> dict[str, int]:
        """Return how many bytes of the arguments of the next tasks nodes have, by HOST:PORT."""
        found: dict[str, int] = {}
        pool = self.machine.pools.get(key)
        if self._links.home.node and pool is not None:  # None: its demand is taken back with it.
            for task in islice(pool.queue, TASKS_LOOKED_AT):
                for value in task.note.deps:
                    if isinstance(value, Shared):
                        node = split(value.creator).node
                        found[node] = found.get(node, 0) + value.size_bytes
        return found

    def _daemon_at(self, address: str) -> Peer | None:
        return self._links.daemon if address == asks.OWN else self._peers.connect(address)

    def _address_of(self, daemon: Peer) -> str:
        return asks.OWN if daemon is self._links.daemon else daemon.address

    def _lender(self, worker: WorkerId) -> Peer:
        """Return the daemon that has lent a worker."""
        return self._lender_of.get(worker, self._links.daemon)

    def _tell(self, daemon: Peer, message: Message) -> None:
        """Send a daemon a message at once."""
        self._peers.send(daemon, message)
        daemon.connection.flush()

    def _forget_worker(self, worker: WorkerId) -> Peer:
        """Have nothing to do with a worker any more; return who has lent it."""
        self._workers.pop(worker, None)
        self._paused.pop(worker, None)
        return self._lender_of.pop(worker, self._links.daemon)

    def on_sent_on(self, peer: Peer, message: SentOn) -> None:
        source, target = self._address_of(peer), message.address
        if target == self._links.home.daemon_address():
            target = asks.OWN
        self._ask(asks.SentTo(message.key, message.workers, source, target, message.hops))

    def _daemon_lost(self, daemon: Peer, reason: str) -> None:
        """The daemon of another node is gone, and its workers with it."""
        self._ask(asks.DaemonGone(daemon.address))
        for worker in [each for each, lender in self._lender_of.items() if lender is daemon]:
            peer = self._workers[worker]
            self.tasks.handle(task_rules.LeaseLost(worker))
            lease = self.machine.leases.get(worker)
            began = next(iter(lease.tasks.values()), None) if lease is not None else None
            self.on_certificate(
                Certificate(
                    worker_id=worker,
                    pid=peer.pid,
                    exit_code=None,
                    peak_bytes=0,
                    limit_bytes=0,
                    function="",
                    stderr="",
                    reason=reason,
                    task_id=began.id if began is not None else b"",
                    attempt=began.attempt if began is not None else 0,
                    node=daemon.worker_id.hex(),
                    is_seen=False,
                )
            )
            # It may live, and answer late what is tried again elsewhere.
            self._peers.lose(peer, reason)

    def _send(self, worker: WorkerId, task: Task) -> None:
        note: Submission = task.note
        peer = note.peer = self._workers[worker]
        function_id, name, code = note.code
        if function_id not in peer.exported:
            peer.exported.add(function_id)
            self._peers.send(peer, Export(function_id, name, code))
        run = Run(
            task.id,
            function_id,
            note.arguments.data,
            bundles.loosen(self._objects, note.deps) if peer.is_far else note.deps,
            note.num_returns,
            note.name,
            note.depth,
            task.timeout_s,
            note.max_calls,
            note.stream.limit if note.stream is not None else 0,
            task.attempt,
            note.is_dynamic,
            note.owners,
            note.arguments.large,
            task.may_repeat,
            note.site,
        )
        self.tasks.send(peer, run, len(self.machine.leases[worker].tasks))

    def peer_of(self, task: Task) -> Peer | None:
        """Return the worker that has a task, if one has."""
        return None if task.worker is None else self._workers.get(task.worker)

    def error_of(self, failed: Fail[Task]) -> WeftError:
        """Return the error of a task that no worker could be had for, or whose worker died."""
        task = failed.task
        match failed.kind:
            case "unschedulable":
                return TaskUnschedulableError(f"{task.name} can never run: {failed.detail}")
            case "environment":
                return EnvSetupError(str(failed.detail))
            case "placement_group":
                return TaskPlacementGroupRemoved(f"{task.name} cannot run: {failed.detail}")
            case _:
                return worker_died(failed.detail, task.name, task.attempt + 1)

    # -------------------------------------------------------------- workers

    def shape_of(self, key: int) -> Shape:
        """Return the shape of a pool."""
        return self._pools[key][0]

    def asked(self, key: int) -> list[str]:
        """Return the daemons that are to find workers for a pool; who is to find most is first."""
        found = self._asks.asked(key) or {asks.OWN: 0}
        own = self._links.home.daemon_address()
        return [at or own for at, _ in sorted(found.items(), key=lambda one: -one[1])]

    def worker(self, worker_id: WorkerId) -> Peer:
        """Return a leased worker."""
        return self._workers[worker_id]

    def pause_of(self, worker_id: WorkerId) -> str:
        """Return why a leased worker is stopped, in words; empty if it is not."""
        return self._paused.get(worker_id, "")

    def give_up_idle(self) -> None:
        """Return the leases that have nothing to do."""
        self.tasks.handle(task_rules.Reclaimed(others_wait=False))

    def lost(self, peer: Peer, reason: str) -> None:
        """The connection to a process broke; if it is a leased worker, ask how it ended."""
        if peer.connects_to_daemon:
            self._daemon_lost(peer, reason)
        elif self._workers.get(peer.worker_id) is peer:
            self.tasks.handle(task_rules.LeaseLost(peer.worker_id))
            self._peers.send(self._lender(peer.worker_id), Explain(peer.worker_id))

    def on_granted(self, peer: Peer, message: Granted) -> None:
        worker_id = WorkerId(message.worker_id)
        self._asks.handle(asks.WorkerHad(message.key, self._address_of(peer)))
        pool = self._pools.get(message.key)
        worker = None if pool is None else self._peers.connect(message.address)
        if pool is None or worker is None:
            # Nobody waits for it any more; or it died between the grant and now, and the daemon
            # knows, or will.
            self._peers.send(peer, ReturnLease(worker_id))
            self.tasks.handle(task_rules.LeaseMissed(message.key))
            return
        worker.worker_id = worker_id
        self._workers[worker_id] = worker
        if peer is not self._links.daemon:
            self._lender_of[worker_id] = peer
        shape, _ = pool
        # On the connection that will bring the tasks, so that it comes first.
        self._peers.send(
            worker,
            Assigned(
                dict(shape.amounts),
                message.accelerators,
                shape.env,
                self._links.address,
                message.variables,
                group_strategy(shape),
                shape.captures,
            ),
        )
        granted = task_rules.LeaseGranted(
            message.key, worker_id, message.contended, bool(message.accelerators)
        )
        self.tasks.handle(granted)

    def on_refused(self, peer: Peer, message: Refused) -> None:
        self._ask(asks.AskRefused(message.key, self._address_of(peer)))
        refused = task_rules.LeaseRefused(message.key, message.kind, message.reason)  # type: ignore[arg-type]  # the daemon's are among the kinds
        self.tasks.handle(refused)

    def on_reclaim(self, peer: Peer, message: Reclaim) -> None:
        self.tasks.handle(task_rules.Reclaimed())

    def on_certificate(self, message: Certificate) -> None:
        """Take note of how a worker ended."""
        worker_id = WorkerId(message.worker_id)
        self._forget_worker(worker_id)
        began = (TaskId(message.task_id), message.attempt) if message.task_id else None
        is_failure = message.retry != "free"
        if self.capsules is not None and began is not None and is_failure:
            task = self.tasks.open.get(began[0])
            if task is not None and (task.worker, task.attempt) == (worker_id, began[1]):
                self.capsules.of_task(task, self.shape_of(task.shape), message)
        self.tasks.handle(task_rules.WorkerEnded(worker_id, began, message))

    def on_paused(self, peer: Peer, message: WorkerPaused) -> None:
        worker_id = WorkerId(message.worker_id)
        if worker_id not in self._workers:
            return
        if message.words:
            self._paused[worker_id] = message.words
        else:
            self._paused.pop(worker_id, None)
        self.tasks.handle(task_rules.LeasePaused(worker_id, bool(message.words)))

    def on_learned(self, peer: Peer, message: Learned) -> None:
        if message.memory_bytes:
            self._memory_of[message.function] = message.memory_bytes
        else:
            self._memory_of.pop(message.function, None)
        moved: dict[int, list[Task]] = {}
        for task in self.tasks.open.values():
            note: Submission = task.note
            if (
                note.code[1] == message.function
                and self._shape_of(note) != self._pools[task.shape][0]
            ):
                moved.setdefault(self._pool_of(note), []).append(task)
        for key, tasks in moved.items():
            self.tasks.handle(task_rules.Moved(tasks, key))

    def on_give_back(self, peer: Peer, message: GiveBack) -> None:
        task_ids = [TaskId(task_id) for task_id in message.task_ids]
        self.tasks.handle(task_rules.GivenBack(peer.worker_id, task_ids, message.busy))


def with_memory(shape: Shape, memory_bytes: int) -> Shape:
    """Return a shape that asks for so much memory, if the user's does not ask for more."""
    amounts = dict(shape.amounts)
    if amounts.get("memory", 0) >= memory_bytes * UNITS:
        return shape
    amounts["memory"] = memory_bytes * UNITS
    return structs.replace(shape, amounts=tuple(sorted(amounts.items())), is_learned=True)


def running_depth() -> int:
    """How many tasks are above the calling code."""
    now = running.get()
    return 0 if now is None else now.depth + 1


def worker_died(
    certificate: Certificate, task: str, attempts: int
) -> WorkerDiedError | NodeDiedError:
    """Return the error that describes how a worker ended."""
    if certificate.node:
        tries = f" in attempt {attempts}" if attempts > 1 else ""
        return NodeDiedError(
            f"{task} was lost{tries} with its node {certificate.node}: {certificate.reason}",
            node_id=certificate.node,
        )
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
