"""What a cluster promises, and who counts whether it is kept.

1. Every task ends exactly once, or its owner is dead.
2. A task is begun at most once more often than it has retries; with none, at most once.
3. No task waits for ever: all have ended some time after the last fault.
   Nor does it wait beside a node that has room, for much longer than it has waited before.
4. When all is quiet nothing is kept: no lease, no demand, no amount, nothing of who is dead. Every
   node that lives is a member, and all nodes see what it has.
5. No task is refused as one that no node could ever hold while one that was long a member could.
6. Every call of an actor ends exactly once, or its caller is dead; it is begun at most once more
   often than it has retries. Without faults all calls of an actor that lives are done.
7. An actor is one process of a member at a time. What a caller was answered is in the order of its
   lives, and each life has run the calls that are not retried one after the other (histories.py).
8. Whoever reads an object, whenever, reads the same, or an error. Without faults nothing is lost;
   and nothing is that tasks can make again, while its owner lives. A read never waits for ever.
   What nobody needs any more has no segment, copy or open file on any node.
9. No machine is told what is impossible, none breaks its own invariants, and all come to rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft.testing._simulation.stores import Blob, Unread
from weft.testing.histories import (
    ANY_KEY,
    ForbiddenHistoryError,
    Operation,
    ValueModel,
    check_calls,
    check_history,
    check_lives,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._ids import ActorId, TaskId
    from weft._machines.calls import ActorCall
    from weft._machines.tasks import Task
    from weft._refs import ObjectRef
    from weft.testing._simulation.actors import VirtualActor
    from weft.testing._simulation.letters import RunCall
    from weft.testing._simulation.plans import ActorPlan, SchedulePlan, TaskPlan
    from weft.testing._simulation.runtimes import VirtualDriver, VirtualRuntime, VirtualWorker
    from weft.testing._simulation.stores import Read
    from weft.testing._simulation.world import World


class Broken(Exception):  # noqa: N818 - what is raised in the end is BrokenPromiseError
    """A promise was not kept. `about`: the names of what it was about."""

    def __init__(self, promise: str, *about: str) -> None:
        super().__init__(promise)
        self.about = about


LOSSES = {"ObjectLostError", "ObjectReconstructionFailedError", "OwnerDiedError", "InternalError"}
"""What is read of an object whose value was there."""


def _never_lost(plan: SchedulePlan) -> set[str]:
    """Return whose results can always be made again while their owner lives."""
    sure: set[str] = set()
    for driver in plan.drivers:
        for task in driver.tasks:
            is_at_home = not (task.labels or task.gpus or task.strategy.startswith("node:"))
            if task.retries < 0 and task.cpus <= 1 and is_at_home and set(task.reads) <= sure:
                sure.add(task.name)
    return sure


class SimulationTally:
    """What owners and workers have done."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.open: dict[TaskId, tuple[VirtualRuntime, Task]] = {}
        self.ended_as: dict[TaskId, str] = {}
        self.begun: dict[TaskId, int] = {}
        self.runs = 0
        self.calls: dict[TaskId, tuple[VirtualDriver, ActorCall]] = {}
        """That have not ended."""
        self.calls_ended_as: dict[TaskId, str] = {}
        self.plan_of: dict[bytes, ActorPlan] = {}
        self.is_member: Callable[[bytes], bool] = lambda node: True
        """Tells whether control has a node as a member."""
        self.open_reads: dict[Operation, VirtualRuntime] = {}
        self.all_reads: list[Operation] = []
        """That have ended."""
        self._lives: dict[bytes, list[VirtualWorker]] = {}
        """By actor: the processes that were it."""
        self._marks: dict[bytes, list[str]] = {}
        self._operations: dict[TaskId, tuple[ActorCall, Operation]] = {}
        self.refused: Callable[[VirtualRuntime, Task], None] = lambda owner, task: None

    def submitted(self, owner: VirtualRuntime, task: Task) -> None:
        """A task was submitted."""
        self.open[task.id] = (owner, task)

    def began(self, worker: VirtualWorker, task_id: TaskId, attempt: int, plan: TaskPlan) -> None:
        """A worker begins a task."""
        self._world.story.add(worker, "begins", None, f"{plan.name}, attempt {attempt}")
        begun = self.begun[task_id] = self.begun.get(task_id, 0) + 1
        self.runs += 1
        if 0 <= plan.retries < begun - 1:
            raise Broken(f"{plan.name} with {plan.retries} retries ran {begun} times", plan.name)

    def ended(self, owner: VirtualRuntime, task: Task, kind: str, detail: Any) -> None:
        """A task has ended; `kind`: empty if it has its answer."""
        said = f"{task.name} as {kind or 'done'}{': ' + str(detail)[:200] if detail else ''}"
        self._world.story.add(owner, "ends", None, said)
        if task.id in self.ended_as:
            raise Broken(f"{task.name} ended twice", task.name)
        if kind == "unschedulable":
            self.refused(owner, task)
        self.ended_as[task.id] = kind
        del self.open[task.id]

    def again(self, owner: VirtualRuntime, task: Task) -> None:
        """A task that had ended is run again, for what it made is lost."""
        self._world.story.add(owner, "runs again", None, task.name)
        self.open[task.id] = (owner, task)
        del self.ended_as[task.id]

    def reads(self, reader: VirtualRuntime, ref: ObjectRef[Any], name: str) -> Operation:
        """A process begins to read an object."""
        read = Operation(reader.name, "read", ref._id, name, began_at=self._world.now)
        self.open_reads[read] = reader
        return read

    def has_read(self, read: Operation, value: Read) -> None:
        """It has what it wanted, or an error."""
        reader = self.open_reads.pop(read)
        said = f"{read.argument} as {value.text if isinstance(value, Blob) else value.kind}"
        self._world.story.add(reader, "reads", None, said)
        read.ended_at = self._world.now
        read.value = value
        self.all_reads.append(read)

    def owner_died(self, owner: VirtualRuntime) -> None:
        """An owner is gone, and nobody waits for its tasks or calls."""
        self.open = {at: pair for at, pair in self.open.items() if pair[0] is not owner}
        self.calls = {at: pair for at, pair in self.calls.items() if pair[0] is not owner}
        self.open_reads = {at: each for at, each in self.open_reads.items() if each is not owner}

    # -------------------------------------------------------------- actors

    def made(self, owner: VirtualDriver, actor: ActorId, plan: ActorPlan) -> None:
        """An actor is to be made."""
        self.plan_of[actor] = plan

    def life_began(self, worker: VirtualWorker, actor: VirtualActor) -> None:
        """A worker was made an actor."""
        name = self._world.story.name_of(actor.actor_id)
        self._world.story.add(worker, "becomes", None, name)
        lives = self._lives.setdefault(actor.actor_id, [])
        for other in lives:
            if other.is_alive and self.is_member(other.node_id):
                raise Broken(f"{name} is {other.name} and {worker.name}", name)
        lives.append(worker)
        self._marks.setdefault(actor.actor_id, []).append(f"life {actor.life}")

    def called(self, caller: VirtualDriver, call: ActorCall) -> None:
        """A call was made."""
        self.calls[call.id] = (caller, call)
        operation = Operation(caller.name, "call", ANY_KEY, call.id.hex(), began_at=self._world.now)
        self._operations[call.id] = (call, operation)

    def call_began(
        self, worker: VirtualWorker, actor: VirtualActor, message: RunCall, number: int
    ) -> None:
        """An actor begins a call."""
        plan = message.plan
        self._world.story.add(worker, "begins", None, f"{plan.name}, attempt {message.attempt}")
        begun = self.begun[message.task_id] = self.begun.get(message.task_id, 0) + 1
        self.runs += 1
        if 0 <= plan.retries < begun - 1:
            raise Broken(f"{plan.name} with {plan.retries} retries ran {begun} times", plan.name)
        if number:
            mark = f"call {message.task_id.hex()} {actor.life} {number}"
            self._marks[actor.actor_id].append(mark)

    def answered(self, call: ActorCall, life: str, number: int) -> None:
        """A caller hears what came of its call."""
        _, operation = self._operations[call.id]
        operation.key, operation.value = life, number
        operation.ended_at = self._world.now

    def call_ended(
        self, caller: VirtualDriver, call: ActorCall, kind: str, detail: Any = None
    ) -> None:
        """A call has ended; `kind`: empty if it has its answer."""
        said = f"{call.name} as {kind or 'done'}{': ' + str(detail)[:200] if detail else ''}"
        self._world.story.add(caller, "ends", None, said)
        if call.id in self.calls_ended_as:
            raise Broken(f"{call.name} ended twice", call.name)
        self.calls_ended_as[call.id] = kind
        del self.calls[call.id]

    def see_reads(self, plan: SchedulePlan) -> None:
        """See whether all have read one and the same, and have lost only what could be lost."""
        values = [read for read in self.all_reads if isinstance(read.value, Blob)]
        for read in values:
            read.value = read.value.text
        try:
            check_history(values, ValueModel())
        except ForbiddenHistoryError as error:
            raise Broken(f"values change: {error}") from error
        surest = _never_lost(plan)
        for read in self.all_reads:
            if isinstance(read.value, Unread) and read.value.kind in LOSSES:
                name = read.argument
                said = f"{name} is read as {read.value.kind}"
                if not plan.faults:
                    raise Broken(f"{said} though nothing has failed", name)
                if name in surest:
                    raise Broken(f"{said} though it can be made again", name)

    def see_histories(self) -> None:
        """See whether what callers were answered can be."""
        of_actor: dict[bytes, list[Operation]] = {}
        for call, operation in self._operations.values():
            if not call.note.retries:
                of_actor.setdefault(call.actor, []).append(operation)
        for actor, operations in of_actor.items():
            marks = self._marks.get(actor, [])
            try:
                check_calls(operations, marks)
                for name in sorted({each.client for each in operations}):
                    check_lives([each for each in operations if each.client == name], marks)
            except ForbiddenHistoryError as error:
                name = self._world.story.name_of(actor)
                raise Broken(f"{name} cannot be: {error}", name) from error
