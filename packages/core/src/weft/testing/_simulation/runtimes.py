"""Drivers and workers in a world: who owns tasks, and who runs them.

Real are the machines of tasks and of asks. Modelled here is what joins them to connections
(`_runtime/leasing.py`), and in a worker the thread that runs tasks (`_runtime/executor.py`).
"""

from __future__ import annotations

from collections import deque
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from weft._ids import TaskId, WorkerId
from weft._machines import asks
from weft._machines import tasks as task_rules
from weft._machines.asks import Asks
from weft._machines.attempts import (
    Answered,
    ArgumentFailed,
    ArgumentsReady,
    AskCancel,
    CancelAsked,
    Complete,
    Fail,
    Kill,
    Ticked,
)
from weft._machines.lineage import Lineage, can_go
from weft._machines.ownership import ObjectMade, Sealed, TaskEnded
from weft._machines.tasks import Task, Tasks
from weft._node.clients import GUEST
from weft._override import override
from weft._runtime.arguments import NO_ARGUMENTS, Arguments
from weft._runtime.gathering import gather, try_gather
from weft._runtime.partings import died_in_words
from weft._runtime.recovery import describe, restore_arguments
from weft._transport.addresses import split
from weft._wire.codec import pack
from weft._wire.messages import (
    Ask,
    BecomeActor,
    Blocked,
    Certificate,
    Demand,
    Explain,
    Failure,
    GiveBack,
    Granted,
    Held,
    Hello,
    KillWorker,
    NodeLost,
    Quit,
    Reclaim,
    Refused,
    ReturnLease,
    SentOn,
    Shared,
    Unblocked,
)
from weft._wire.version import WIRE
from weft.testing._simulation.actors import VirtualActor, VirtualCalling
from weft.testing._simulation.letters import CancelTask, RunCall, RunTask, TaskDone
from weft.testing._simulation.objects import VirtualObjects
from weft.testing._simulation.stores import Blob, Read, Unread, failed
from weft.testing._simulation.world import VirtualEnd, VirtualProcess, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._ids import ObjectId, PlacementGroupId
    from weft._refs import ObjectRef
    from weft._specs import Shape
    from weft._wire.messages import Value
    from weft.testing._simulation.daemons import VirtualDaemon
    from weft.testing._simulation.plans import GroupPlan, TaskPlan
    from weft.testing._simulation.promises import SimulationTally

# As in _runtime/loop.py.
QUIET_S = 0.004
CHECK_EVERY = 16
TEXT = 200
"""Letters of a value that are compared."""


class VirtualRuntime(VirtualProcess):
    """A process that owns tasks."""

    def __init__(
        self, world: World, daemon: VirtualDaemon, worker_id: bytes, name: str, role: str
    ) -> None:
        node = daemon.address.partition("/")[0]
        super().__init__(world, daemon.host, name, f"{node}/{worker_id.hex()}")
        world.story.call(worker_id, name)
        self.worker_id = WorkerId(worker_id)
        self.node_id = daemon.node_id
        self.daemon_address = daemon.address
        self.machine = Tasks()
        self.asks = Asks()
        self.tally: SimulationTally = world.tally
        self._keys = count()
        self._key_of: dict[Shape, int] = {}
        self._shape_of: dict[int, Shape] = {}
        self._numbers = count(1)
        self._steps = 0
        self.leased: dict[WorkerId, VirtualEnd] = {}
        self.lender_of: dict[WorkerId, VirtualEnd] = {}
        self.end_at: dict[str, VirtualEnd] = {}
        """By address: the connections to other processes, whoever has called."""
        self._ended: dict[TaskId, Callable[[], None]] = {}
        self.depth = 0
        hello = Hello(WIRE, self.worker_id, self.address, 0, role)
        self._hello = hello
        found = self.call(daemon.address, hello, self._heard, self._daemon_gone)
        assert found is not None
        self.daemon = found
        found.peer = daemon.address
        self.memory = daemon.memory
        self.objects = VirtualObjects(self)
        self.objects.objects.run_again = self._run_again
        self.named: dict[str, ObjectRef[Any]] = {}
        """What a program has, by the names of what made it."""

    # -------------------------------------------------------------- tasks

    def submit(
        self,
        plan: TaskPlan,
        ended: Callable[[], None],
        named: dict[str, ObjectRef[Any]],
        group: PlacementGroupId | None = None,
    ) -> Task:
        """Start a task; `ended` is called when it has.

        `named` has what it reads, and gets what it makes. `group`: in which it runs.
        """
        number = next(self._numbers)
        task_id = TaskId(
            self.worker_id[4:8] + self.worker_id[12:] + number.to_bytes(4, "big") + bytes(4)
        )
        self.story.call(task_id, plan.name)
        note = TaskNote(plan, group)
        task = Task(
            task_id,
            plan.name,
            plan.function,
            retries=plan.retries,
            timeout_s=plan.timeout_s,
            note=note,
            spreads=plan.strategy == "SPREAD",
        )
        task.shape = self._pool_of(note)
        self._ended[task_id] = ended
        self.tally.submitted(self, task)
        self._take_arguments(note, named)
        if plan.makes:
            named[plan.name] = self._return_of(task)
        is_ready = not note.arguments.deps or try_gather(self._links(), self._as_real(note))
        if not is_ready:
            task.state = "waiting"
        self.tell(task_rules.Submitted(task))
        if not is_ready:
            self._gather(task)
        return task

    def _pool_of(self, note: TaskNote) -> int:
        shape = note.shape()
        spreads = note.plan.strategy == "SPREAD"
        key = None if spreads else self._key_of.get(shape)
        if key is None:
            key = next(self._keys)
            self._shape_of[key] = shape
            if not spreads:
                self._key_of[shape] = key
        return key

    def _links(self) -> Any:
        return self.objects

    @staticmethod
    def _as_real(note: TaskNote) -> Any:
        """Return a note where a `Submission` is wanted: it has all that is read of it."""
        return note

    # -------------------------------------------------------------- objects of tasks
    # (_runtime/submissions.py)

    def _take_arguments(self, note: TaskNote, named: dict[str, ObjectRef[Any]]) -> None:
        plan, again = note.plan, self.objects.new_ref
        deps = [again(named[name]) for name in plan.reads if name in named]
        note.names = [name for name in plan.inner() if name in named]
        note.arguments = Arguments(b"", deps, [again(named[name]) for name in note.names])

    def _return_of(self, task: Task) -> ObjectRef[Any]:
        object_id = task.id.object_id(1)
        self.story.call(object_id, f"the result of {task.name}")
        self.objects.objects.handle(ObjectMade(object_id))
        task.note.returns = [object_id]
        return self.objects.objects.ref(self.objects.machine.entries[object_id])

    def _gather(self, task: Task) -> None:
        def gathered(failure: Failure | None) -> None:
            if failure is None:
                self.tell(ArgumentsReady(task.id))
            else:
                self.tell(ArgumentFailed(task.id, failure))

        gather(self._links(), self._as_real(task.note), gathered)

    def _run_again(self, lineage: Lineage) -> None:
        """A result is lost (`Leasing.run_again`)."""
        task: Task = lineage.note
        note: TaskNote = task.note
        borrowed = restore_arguments(self._as_real(note), self.objects.objects)

        def start() -> None:
            task.shape = self._pool_of(note)
            self.tally.again(self, task)
            self.tell(task_rules.Resubmitted(task))
            if task.id in self.machine.attempts.open:
                self._gather(task)

        self.objects.objects.when_registered(borrowed, start)

    def _seal(self, task: Task, kind: str, detail: Any) -> None:
        """A task has its answer, or none (`Submissions._end`, `_fail`)."""
        note: TaskNote = task.note
        objects = self.objects.objects
        values, note.values = note.values, ()
        loss = ""
        if kind == "exhausted":
            loss = f"its task {task.name} has used up its max_retries"
        elif kind:
            for value in values:
                if isinstance(value, Shared):
                    objects.recycle(value)
            values = ()
            if note.lineage is not None and note.lineage.ended:
                loss = f"its task {task.name} was to be run again: {kind}"
            else:
                failure = detail if kind == "argument" else failed(kind)
                values = [failure] * len(note.returns)
        for object_id, value in zip(note.returns, values, strict=False):
            objects.handle(Sealed(object_id, value))
            if can_go(value) and note.lineage is None:
                note.lineage = Lineage(task.id)
        arguments, lineage = note.arguments, note.lineage
        if lineage is not None and not lineage.ended:
            lineage.note = task
            if task.retries:
                describe(lineage, self._as_real(note))
            else:
                lineage.why_not = f"its task {task.name} has no retries"
        note.arguments = NO_ARGUMENTS
        note.deps = ()
        if lineage is not None:
            objects.handle(TaskEnded(lineage, note.returns, loss))
            if lineage.task_id not in objects.machine.lineages.kept:
                note.lineage = lineage.note = None
        del arguments

    def cancel(self, task: Task, *, force: bool) -> None:
        """Stop a task."""
        self.tell(CancelAsked(task.id, force))

    def tell(self, event: Any) -> None:
        """Tell the machine of tasks, and do what it says (`Submissions.handle`)."""
        ends: list[Any] = []
        for effect in self.machine.handle(event, self.world.now):
            if isinstance(effect, Complete | Fail):
                ends.append(effect)
            else:
                self._perform(effect)
        for end in ends:
            # What an end leads to is told to the machine at once.
            self._perform(end)
        self._steps += 1
        if not self._steps % CHECK_EVERY:
            self.check()

    def check(self) -> None:
        """Assert what is always true of the machines."""
        self.machine.check()
        self.asks.check()
        self.objects.machine.check()

    def _perform(self, effect: task_rules.Effect) -> None:
        match effect:
            case task_rules.Send(worker, task):
                self.leased[worker].send(self._run_of(task))
            case task_rules.Want(key, workers):
                self._ask(asks.WorkersWanted(key, workers))
            case task_rules.GiveUpLease(worker):
                self._forget_worker(worker).send(ReturnLease(worker))
            case task_rules.ForgetPool(key):
                shape = self._shape_of.pop(key)
                if self._key_of.get(shape) == key:
                    del self._key_of[shape]
            case task_rules.AskAbort(task):
                self._tell_worker(task, CancelTask(task.id, by_force=True))
            case AskCancel(task):
                self._tell_worker(task, CancelTask(task.id))
            case Kill(task, reason):
                assert task.worker is not None
                self._lender(task.worker).send(KillWorker(task.worker, reason))
            case Complete(task):
                self._task_ended(task, "")
            case Fail(task, kind, detail):
                self._task_ended(task, kind, detail)

    def _tell_worker(self, task: Task, message: Any) -> None:
        assert task.worker is not None
        if task.worker in self.leased:
            self.leased[task.worker].send(message)

    @staticmethod
    def _run_of(task: Task) -> RunTask:
        note: TaskNote = task.note
        inner = [Held(ref._id, ref._owner) for ref in note.arguments.inner]
        named = tuple(zip(note.names, inner, strict=True))
        deps, owners = tuple(note.deps), tuple(note.owners)
        return RunTask(task.id, task.attempt, note.plan, deps, owners, named)

    def _task_ended(self, task: Task, kind: str, detail: Any = None) -> None:
        self.tally.ended(self, task, kind, detail)
        self._seal(task, kind, detail)
        ended = self._ended.pop(task.id, None)
        if ended is not None:
            ended()

    @override
    def step(self, do: Callable[[], None]) -> None:
        do()
        if self.is_alive:
            self.objects.settle()
        self._arm()

    @override
    def wake_at(self) -> float | None:
        times = (self.machine.next_deadline, self.objects.news_at)
        return min((at for at in times if at is not None), default=None)

    @override
    def wake(self) -> None:
        at = self.machine.next_deadline
        if at is not None and at <= self.world.now:
            self.tell(Ticked())

    # -------------------------------------------------------------- daemons (_runtime/leasing.py)

    def _ask(self, event: asks.Event) -> None:
        for each in self.asks.handle(event):
            daemon = self._daemon_at(each.daemon)
            if daemon is None:
                self._ask(asks.DaemonGone(each.daemon))
            elif each.key in self._shape_of:
                shape = self._shape_of[each.key]
                daemon.send(Demand(each.key, shape, each.workers, self.depth, "", each.hops))

    def _daemon_at(self, address: str) -> VirtualEnd | None:
        return self.daemon if address == asks.OWN else self.connect(address)

    def connect(self, address: str) -> VirtualEnd | None:
        """Connect to a process, if that is not done yet; None: it is not there."""
        end = self.end_at.get(address)
        if end is None:
            hello = self._hello
            if address.endswith("/node"):
                hello = Hello(WIRE, self.worker_id, self.address, 0, GUEST)
            end = self.call(address, hello, self._heard, self._lost)
            if end is not None:
                end.peer = address
                self.end_at[address] = end
        return end

    def _source(self, end: VirtualEnd) -> str:
        address: str = end.peer
        return asks.OWN if end is self.daemon else address

    def _lender(self, worker: WorkerId) -> VirtualEnd:
        return self.lender_of.get(worker, self.daemon)

    def _forget_worker(self, worker: WorkerId) -> VirtualEnd:
        self.leased.pop(worker, None)
        return self.lender_of.pop(worker, self.daemon)

    def _heard(self, end: VirtualEnd, message: Any) -> None:
        match message:
            case Granted():
                self._granted(end, message)
            case SentOn(key, workers, _, target, hops):
                if target == self.daemon_address:
                    target = asks.OWN
                self._ask(asks.SentTo(key, workers, self._source(end), target, hops))
            case Refused(key, kind, reason):
                self._ask(asks.AskRefused(key, self._source(end)))
                self.tell(task_rules.LeaseRefused(key, kind, reason))  # type: ignore[arg-type]  # as in _runtime/leasing.py
            case Reclaim():
                self.tell(task_rules.Reclaimed())
            case Certificate():
                self._certificate(message)
                self.objects.partings.ended(message.worker_id)
            case NodeLost(_, address, cause):
                node, how = split(address).node, died_in_words(message)
                self.objects.partings.bury(node, how, lambda: self._lose_node(node, cause))
                self.objects.copies.node_lost(message)
            case TaskDone():
                self._task_done(message)
            case GiveBack(task_ids, busy):
                worker: WorkerId = next(w for w, e in self.leased.items() if e is end)
                self.tell(task_rules.GivenBack(worker, [TaskId(t) for t in task_ids], busy))
            case _:
                if not self.objects.heard(end, message):
                    raise AssertionError(message)

    def _task_done(self, message: TaskDone) -> None:
        task = self.machine.attempts.open.get(message.task_id)
        if task is not None:
            task.note.values = message.values
            self.tell(Answered(message.task_id, message.duration_s, message.retriable))
            return
        for index, value in enumerate(message.values):
            # It was ended here meanwhile: its segments are nobody's.
            self.objects.objects.handle(Sealed(message.task_id.object_id(index + 1), value))

    def _granted(self, end: VirtualEnd, message: Granted) -> None:
        worker_id = WorkerId(message.worker_id)
        self.asks.handle(asks.WorkerHad(message.key, self._source(end)))
        known = message.key in self._shape_of
        worker = self.connect(message.address) if known else None
        if worker is None:
            end.send(ReturnLease(worker_id))
            self.tell(task_rules.LeaseMissed(message.key))
            return
        self.leased[worker_id] = worker
        if end is not self.daemon:
            self.lender_of[worker_id] = end
        granted = task_rules.LeaseGranted(
            message.key, worker_id, message.contended, bool(message.accelerators)
        )
        self.tell(granted)

    def _certificate(self, message: Certificate) -> None:
        worker_id = WorkerId(message.worker_id)
        self._forget_worker(worker_id)
        began = (TaskId(message.task_id), message.attempt) if message.task_id else None
        self.tell(task_rules.WorkerEnded(worker_id, began, message))

    def _lost(self, end: VirtualEnd, why: str) -> None:
        address: str = end.peer
        has_called = self.end_at.get(address) is not end
        if not has_called:
            del self.end_at[address]
        self.objects.lost(end)
        self._lease_lost(end, why, has_called=has_called)
        self.objects.lost_all_of(end)

    def _lease_lost(self, end: VirtualEnd, why: str, *, has_called: bool) -> None:
        if end.peer.endswith("/node"):
            if not has_called:
                self._other_daemon_lost(end, why)
            return
        for worker, each in list(self.leased.items()):
            if each is end:
                self.tell(task_rules.LeaseLost(worker))
                self._lender(worker).send(Explain(worker))

    def _other_daemon_lost(self, end: VirtualEnd, why: str) -> None:
        self._ask(asks.DaemonGone(end.peer))
        for worker in [each for each, lender in self.lender_of.items() if lender is end]:
            peer = self.leased[worker]
            self.tell(task_rules.LeaseLost(worker))
            lease = self.machine.leases.get(worker)
            began = next(iter(lease.tasks.values()), None) if lease is not None else None
            self._certificate(
                Certificate(
                    worker_id=worker,
                    pid=0,
                    exit_code=None,
                    peak_bytes=0,
                    limit_bytes=0,
                    function="",
                    stderr="",
                    reason=why,
                    task_id=began.id if began is not None else b"",
                    attempt=began.attempt if began is not None else 0,
                    node=end.peer,
                    is_seen=False,
                )
            )
            if not peer.closed:
                peer.close(why)
                self._lost(peer, why)

    def _lose_node(self, node: str, cause: str) -> None:
        ends = [end for end in self.ends if end.peer is not None and not end.closed]
        ends = [end for end in ends if end.peer.startswith(f"{node}/")]
        for end in sorted(ends, key=lambda each: not self._is_called_daemon(each)):
            if not end.closed:
                end.close(cause)
                self._lost(end, cause)

    def _is_called_daemon(self, end: VirtualEnd) -> bool:
        address: str = end.peer
        return address.endswith("/node") and self.end_at.get(address) is end

    def _daemon_gone(self, end: VirtualEnd, why: str) -> None:
        self.die("its daemon is gone")

    @override
    def called(self, end: VirtualEnd, message: Any) -> None:
        if end.peer is None:
            hello: Hello = message
            end.peer = hello.address
            if not hello.address.endswith("/node"):
                self.end_at.setdefault(hello.address, end)
            end.send(self._hello)
            self._heard(end, hello)
        else:
            self._heard(end, message)

    @override
    def hung_up(self, end: VirtualEnd, why: str) -> None:
        if end.peer is not None:
            self._lost(end, why)

    @override
    def die(self, why: str, *, with_host: bool = False) -> None:
        if self.is_alive:
            super().die(why, with_host=with_host)
            self.tally.owner_died(self)


class TaskNote:
    """What an owner knows of a task: what of `Submission` is about its objects, and its plan."""

    __slots__ = (
        "arguments", "code", "deps", "group", "lineage", "names", "owners", "plan", "returns",
        "sources", "values",
    )  # fmt: skip

    def __init__(self, plan: TaskPlan, group: PlacementGroupId | None) -> None:
        self.plan = plan
        self.group = group
        self.arguments = NO_ARGUMENTS
        self.code = (plan.function, "", b"")
        self.deps: Sequence[Value] = ()
        self.lineage: Lineage | None = None
        self.names: list[str] = []
        """Of the references that are no arguments."""
        self.owners: Sequence[Held] = ()
        self.returns: list[ObjectId] = []
        self.sources: Any = None
        self.values: Sequence[Value] = ()
        """The answer, when it is there."""

    def shape(self) -> Shape:
        """Return what its worker must be."""
        return self.plan.shape(self.group)


class _Job:
    __slots__ = (
        "attempt", "caller", "is_blocked", "kept", "message", "named", "open", "plan", "read",
        "task_id",
    )  # fmt: skip

    def __init__(self, caller: VirtualEnd, message: RunTask) -> None:
        self.caller = caller
        self.message = message
        self.task_id = message.task_id
        self.attempt = message.attempt
        self.plan = message.plan
        self.open = 0
        """Children that have not ended, and values that are not read."""
        self.is_blocked = False
        self.named: dict[str, ObjectRef[Any]] = {}
        self.kept: list[ObjectRef[Any]] = []
        """Arguments that are read."""
        self.read: list[Read] = []


class VirtualJob:
    """Whose a worker, or an actor, is (`NodeJob`)."""

    def __init__(self, job_id: bytes) -> None:
        self.id = job_id

    def works_here(self) -> None:
        """It has a worker here."""

    def is_unheard_of(self) -> bool:
        """Tell whether its driver is to hear that first; here it leaves by breaking off."""
        return False


class VirtualWorker(VirtualRuntime):
    """A worker: it runs the tasks of others, one at a time, and may own some."""

    def __init__(self, world: World, daemon: VirtualDaemon, worker_id: bytes) -> None:
        self._queue: deque[_Job] = deque()
        self._now: _Job | None = None
        self._began_at = 0.0
        self._is_quitting = False
        self.actor: VirtualActor | None = None
        """What it was made."""
        self.job = VirtualJob(b"")
        self.begun: tuple[bytes, int] = (b"", 0)
        """The task that it began last, and which attempt: in the real one a page of memory."""
        self._my_daemon = daemon
        name = f"{daemon.name}.w{int.from_bytes(worker_id[8:], 'big')}"
        super().__init__(world, daemon, worker_id, name, "worker")

    @override
    def _lease_lost(self, end: VirtualEnd, why: str, *, has_called: bool) -> None:
        self._queue = deque(job for job in self._queue if job.caller is not end)
        if self.actor is not None:
            self.actor.forget(end)
        super()._lease_lost(end, why, has_called=has_called)

    @override
    def _heard(self, end: VirtualEnd, message: Any) -> None:
        match message:
            case Quit() if self.actor is not None:
                self.actor.quit()
            case Quit():
                self._is_quitting = True
                self._next()
            case BecomeActor():
                self.actor = VirtualActor(self, message)
            case RunTask():
                self._run(end, _Job(end, message))
            case RunCall():
                assert self.actor is not None
                self.actor.run(end, message)
            case CancelTask(task_id, by_force):
                self._stop(task_id, by_force=by_force)
            case _:
                super()._heard(end, message)

    def _run(self, end: VirtualEnd, job: _Job) -> None:
        is_busy = self._now is not None and self.world.now - self._began_at > QUIET_S
        if is_busy or self._is_quitting:
            end.send(GiveBack([job.task_id], busy=True))
            return
        self._queue.append(job)
        self._next()

    def _next(self) -> None:
        if self._now is not None:
            return
        if not self._queue:
            if self._is_quitting:
                self.die("it was told to end")
            return
        job = self._now = self._queue.popleft()
        self._began_at = self.world.now
        self.begun = (job.task_id, job.attempt)
        self.depth = job.plan.depth + 1
        self.tally.began(self, job.task_id, job.attempt, job.plan)
        self.later(QUIET_S, lambda: self._give_back(job))
        message = job.message
        if not message.owners and not message.inner:
            self._work(job)
            return
        job.named = {name: self.objects.adopt(held) for name, held in message.inner}
        is_loaded = False

        def loaded(read: list[Read]) -> None:
            nonlocal is_loaded
            is_loaded = True
            self._loaded(job, read)

        kept = self.objects.load(message.deps, message.owners, loaded)
        if self._now is job:
            job.kept = kept
            if not is_loaded:
                self._block(job)

    def _loaded(self, job: _Job, read: list[Read]) -> None:
        if self._now is not job:
            return
        self._unblock(job)
        job.read = read
        for each in read:
            if isinstance(each, Unread):
                self._end(job, (Failure(each.error),))
                return
        self._work(job)

    def _block(self, job: _Job) -> None:
        job.is_blocked = True
        self.daemon.send(Blocked())

    def _unblock(self, job: _Job) -> None:
        if job.is_blocked:
            job.is_blocked = False
            self.daemon.send(Unblocked())

    def _work(self, job: _Job) -> None:
        if job.plan.crashes_at > job.attempt:
            self.later(job.plan.lasts_s, lambda: self._crash(job))
        elif job.plan.children:
            self.later(job.plan.lasts_s, lambda: self._nest(job))
        else:
            self.later(job.plan.lasts_s, lambda: self._finish(job))

    def _crash(self, job: _Job) -> None:
        if self._now is job:
            self.die(f"{job.plan.name} crashed it")

    def _nest(self, job: _Job) -> None:
        """Submit the task's own tasks, wait for them, and read what they have made."""
        if self._now is not job:
            return
        job.open = len(job.plan.children)

        def ended(child: TaskPlan) -> None:
            if self._now is job and child.makes:
                self.objects.get(job.named[child.name], read)
            else:
                closed()

        def read(_value: Read) -> None:
            closed()

        def closed() -> None:
            job.open -= 1
            if not job.open and self._now is job:
                self._unblock(job)
                self._finish(job)

        for child in job.plan.children:
            self.submit(child, partial(ended, child), job.named)
        if job.open:
            self._block(job)

    def _finish(self, job: _Job) -> None:
        if self._now is not job:
            return
        plan = job.plan
        fails = plan.raises_at > job.attempt
        values: tuple[Value, ...] = ()
        if plan.makes and not fails:
            object_id = job.task_id.object_id(1)
            read = (each.text for each in job.read if isinstance(each, Blob))
            text = f"{plan.name}({', '.join(read)})"
            owner = job.caller.peer
            values = (self.objects.make(object_id, plan.makes, text[:TEXT], owner),)
        elif plan.makes:
            values = (failed("raised"),)
        self._end(job, values, retriable=fails)

    def _end(self, job: _Job, values: tuple[Value, ...], *, retriable: bool = False) -> None:
        """Answer a task, and begin the next one."""
        self._now = None
        duration_s = self.world.now - self._began_at
        values = values if job.plan.makes else ()
        job.named.clear()
        job.kept.clear()
        done = TaskDone(job.task_id, duration_s, retriable, values)
        self.objects.task_ends(lambda: job.caller.send(done))
        self._next()

    def _give_back(self, job: _Job) -> None:
        if self._now is job and self._queue:
            given: dict[VirtualEnd, list[bytes]] = {}
            for each in self._queue:
                given.setdefault(each.caller, []).append(each.task_id)
            self._queue.clear()
            for end, task_ids in given.items():
                end.send(GiveBack(task_ids, busy=True))

    def _stop(self, task_id: TaskId, *, by_force: bool) -> None:
        job = self._now
        if job is not None and job.task_id == task_id:
            if by_force:
                self.die("it was cancelled by force")
            elif job.plan.heeds_cancel:
                self._unblock(job)
                self._end(job, (failed("cancelled"),))
            return
        for each in self._queue:
            if each.task_id == task_id:
                self._queue.remove(each)
                values = (failed("cancelled"),) if each.plan.makes else ()
                each.caller.send(TaskDone(task_id, 0.0, values=values))
                break

    @override
    def die(self, why: str, *, with_host: bool = False) -> None:
        if self.is_alive:
            super().die(why, with_host=with_host)
            if not with_host:
                self._my_daemon.worker_died(self, why)


class VirtualDriver(VirtualRuntime):
    """A program: it submits tasks, makes actors and calls them, and waits for all."""

    def __init__(
        self, world: World, daemon: VirtualDaemon, worker_id: bytes, name: str, role: str
    ) -> None:
        super().__init__(world, daemon, worker_id, name, role)
        self.calling = VirtualCalling(self)

    @override
    def check(self) -> None:
        super().check()
        self.calling.machine.check()

    @override
    def _heard(self, end: VirtualEnd, message: Any) -> None:
        if not self.calling.heard(end, message):
            super()._heard(end, message)

    @override
    def _certificate(self, message: Certificate) -> None:
        super()._certificate(message)
        self.calling.ended(message.worker_id)

    @override
    def _lost(self, end: VirtualEnd, why: str) -> None:
        super()._lost(end, why)
        self.calling.lost(end)

    def make_group(
        self, group: PlacementGroupId, plan: GroupPlan, made: Callable[[str], None]
    ) -> None:
        """Create a placement group; `made` gets why it is not, or nothing."""
        number = self.calling.expect(lambda answer: made(answer.error))
        self.daemon.send(Ask(number, "create_group", pack(plan.spec(group, self.worker_id))))

    def drop_group(self, group: PlacementGroupId) -> None:
        """Remove one (`GroupRequests.remove`)."""
        self.tell(task_rules.Reclaimed(others_wait=False))
        self.daemon.send(Ask(0, "remove_group", pack((group, "nobody needs it"))))

    def put(self, name: str, size_bytes: int) -> None:
        """Store a value."""
        number = next(self._numbers)
        task_id = TaskId(b"put." + self.worker_id[4:8] + number.to_bytes(4, "big") + bytes(4))
        object_id = task_id.object_id(1)
        self.story.call(object_id, f"{name} of {self.name}")
        value = self.objects.make(object_id, size_bytes, name)
        self.named[name] = self.objects.objects.own(object_id, value)

    def get(self, name: str, ended: Callable[[], None]) -> None:
        """Read a value; `ended` is called when that is done."""
        ref = self.named.get(name)
        if ref is None:
            ended()
            return
        read = self.tally.reads(self, ref, name)

        def came(value: Read) -> None:
            self.tally.has_read(read, value)
            ended()

        self.objects.get(ref, came)

    def leave(self) -> None:
        """End in order."""
        for end in list(self.ends):
            end.close("the driver has left")
        self.is_alive = False
