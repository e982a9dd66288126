"""Drivers and workers in a world: who owns tasks, and who runs them.

Real are the machines of tasks and of asks. Modelled here is what joins them to connections
(`_runtime/leasing.py`), and in a worker the thread that runs tasks (`_runtime/executor.py`).
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any

from weft._ids import TaskId, WorkerId
from weft._machines import asks
from weft._machines import tasks as task_rules
from weft._machines.asks import Asks
from weft._machines.attempts import (
    Answered,
    AskCancel,
    CancelAsked,
    Complete,
    Fail,
    Kill,
    Ticked,
)
from weft._machines.tasks import Task, Tasks
from weft._node.clients import GUEST
from weft._override import override
from weft._wire.messages import (
    BecomeActor,
    Blocked,
    Certificate,
    Demand,
    Explain,
    GiveBack,
    Granted,
    Hello,
    KillWorker,
    NodeLost,
    Quit,
    Reclaim,
    Refused,
    ReturnLease,
    SentOn,
    Unblocked,
)
from weft._wire.version import WIRE
from weft.testing._simulation.actors import VirtualActor, VirtualCalling
from weft.testing._simulation.letters import CancelTask, RunCall, RunTask, TaskDone
from weft.testing._simulation.world import VirtualEnd, VirtualProcess, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._specs import Shape
    from weft.testing._simulation.daemons import VirtualDaemon
    from weft.testing._simulation.plans import TaskPlan
    from weft.testing._simulation.promises import SimulationTally

# As in _runtime/loop.py.
QUIET_S = 0.004
CHECK_EVERY = 16


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
        self._end_at: dict[str, VirtualEnd] = {}
        self._ended: dict[TaskId, Callable[[], None]] = {}
        self.depth = 0
        hello = Hello(WIRE, self.worker_id, self.address, 0, role)
        self._hello = hello
        found = self.call(daemon.address, hello, self._heard, self._daemon_gone)
        assert found is not None
        self.daemon = found
        found.peer = daemon.address

    # -------------------------------------------------------------- tasks

    def submit(self, plan: TaskPlan, ended: Callable[[], None]) -> Task:
        """Start a task; `ended` is called when it has."""
        number = next(self._numbers)
        task_id = TaskId(
            self.worker_id[4:8] + self.worker_id[12:] + number.to_bytes(4, "big") + bytes(4)
        )
        self.story.call(task_id, plan.name)
        task = Task(
            task_id,
            plan.name,
            plan.function,
            retries=plan.retries,
            timeout_s=plan.timeout_s,
            note=plan,
            spreads=plan.strategy == "SPREAD",
        )
        shape = plan.shape()
        key = None if task.spreads else self._key_of.get(shape)
        if key is None:
            key = next(self._keys)
            self._shape_of[key] = shape
            if not task.spreads:
                self._key_of[shape] = key
        task.shape = key
        self._ended[task_id] = ended
        self.tally.submitted(self, task)
        self.tell(task_rules.Submitted(task))
        return task

    def cancel(self, task: Task, *, force: bool) -> None:
        """Stop a task."""
        self.tell(CancelAsked(task.id, force))

    def tell(self, event: Any) -> None:
        """Tell the machine of tasks, and do what it says (`Submissions.handle`)."""
        for effect in self.machine.handle(event, self.world.now):
            self._perform(effect)
        self._steps += 1
        if not self._steps % CHECK_EVERY:
            self.check()

    def check(self) -> None:
        """Assert what is always true of the machines."""
        self.machine.check()
        self.asks.check()

    def _perform(self, effect: task_rules.Effect) -> None:
        match effect:
            case task_rules.Send(worker, task):
                self.leased[worker].send(RunTask(task.id, task.attempt, task.note))
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

    def _task_ended(self, task: Task, kind: str, detail: Any = None) -> None:
        self.tally.ended(self, task, kind, detail)
        self._ended.pop(task.id)()

    @override
    def wake_at(self) -> float | None:
        return self.machine.next_deadline

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
        end = self._end_at.get(address)
        if end is None:
            hello = self._hello
            if address.endswith("/node"):
                hello = Hello(WIRE, self.worker_id, self.address, 0, GUEST)
            end = self.call(address, hello, self._heard, self._lost)
            if end is not None:
                end.peer = address
                self._end_at[address] = end
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
            case Hello():
                pass
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
            case NodeLost(_, address, cause):
                self._lose_node(address, cause)
            case TaskDone(task_id, duration_s, retriable):
                self.tell(Answered(task_id, duration_s, retriable))
            case GiveBack(task_ids, busy):
                worker: WorkerId = next(w for w, e in self.leased.items() if e is end)
                self.tell(task_rules.GivenBack(worker, [TaskId(t) for t in task_ids], busy))
            case _:
                raise AssertionError(message)

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
        if self._end_at.get(address) is end:
            del self._end_at[address]
        if address.endswith("/node"):
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

    def _lose_node(self, address: str, cause: str) -> None:
        node = address.partition("/")[0]
        ends = [end for at, end in self._end_at.items() if at.startswith(f"{node}/")]
        for end in sorted(ends, key=lambda each: not each.peer.endswith("/node")):
            if not end.closed:
                end.close(cause)
                self._lost(end, cause)

    def _daemon_gone(self, end: VirtualEnd, why: str) -> None:
        self.die("its daemon is gone")

    @override
    def called(self, end: VirtualEnd, message: Any) -> None:
        raise NotImplementedError

    @override
    def hung_up(self, end: VirtualEnd, why: str) -> None:
        raise NotImplementedError

    @override
    def die(self, why: str, *, with_host: bool = False) -> None:
        if self.is_alive:
            super().die(why, with_host=with_host)
            self.tally.owner_died(self)


class _Job:
    __slots__ = ("attempt", "caller", "children", "plan", "task_id")

    def __init__(self, caller: VirtualEnd, message: RunTask) -> None:
        self.caller = caller
        self.task_id = message.task_id
        self.attempt = message.attempt
        self.plan = message.plan
        self.children = 0


class VirtualWorker(VirtualRuntime):
    """A worker: it runs the tasks of others, one at a time, and may own some."""

    def __init__(self, world: World, daemon: VirtualDaemon, worker_id: bytes) -> None:
        self._queue: deque[_Job] = deque()
        self._now: _Job | None = None
        self._began_at = 0.0
        self._is_quitting = False
        self.actor: VirtualActor | None = None
        """What it was made."""
        self.begun: tuple[bytes, int] = (b"", 0)
        """The task that it began last, and which attempt: in the real one a page of memory."""
        self._my_daemon = daemon
        name = f"{daemon.name}.w{int.from_bytes(worker_id[8:], 'big')}"
        super().__init__(world, daemon, worker_id, name, "worker")

    @override
    def called(self, end: VirtualEnd, message: Any) -> None:
        match message:
            case Hello():
                pass
            case RunTask():
                self._run(end, _Job(end, message))
            case RunCall():
                assert self.actor is not None
                self.actor.run(end, message)
            case CancelTask(task_id, by_force):
                self._stop(task_id, by_force=by_force)
            case _:
                raise AssertionError(message)

    @override
    def hung_up(self, end: VirtualEnd, why: str) -> None:
        self._queue = deque(job for job in self._queue if job.caller is not end)
        if self.actor is not None:
            self.actor.forget(end)

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
        """Submit the task's own tasks, and wait for them."""
        if self._now is not job:
            return
        job.children = len(job.plan.children)

        def ended() -> None:
            job.children -= 1
            if not job.children and self._now is job:
                self.daemon.send(Unblocked())
                self._finish(job)

        for child in job.plan.children:
            self.submit(child, ended)
        if job.children:
            self.daemon.send(Blocked())

    def _finish(self, job: _Job) -> None:
        if self._now is not job:
            return
        self._now = None
        fails = job.plan.raises_at > job.attempt
        job.caller.send(TaskDone(job.task_id, self.world.now - self._began_at, fails))
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
                self._now = None
                if job.children:
                    self.daemon.send(Unblocked())
                job.caller.send(TaskDone(task_id, self.world.now - self._began_at))
                self._next()
            return
        for each in self._queue:
            if each.task_id == task_id:
                self._queue.remove(each)
                each.caller.send(TaskDone(task_id, 0.0))
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

    def leave(self) -> None:
        """End in order."""
        for end in list(self.ends):
            end.close("the driver has left")
        self.is_alive = False
