"""What a cluster promises, and who counts whether it is kept.

1. Every task ends exactly once, or its owner is dead.
2. A task is begun at most once more often than it has retries; with none, at most once.
3. No task waits for ever: all have ended some time after the last fault.
   Nor does it wait beside a node that has room, for much longer than it has waited before.
4. When all is quiet nothing is kept: no lease, no demand, no amount, nothing of who is dead. Every
   node that lives is a member, and all nodes see what it has.
5. No task is refused as one that no node could ever hold while one that was long a member could.
6. No machine is told what is impossible, none breaks its own invariants, and all come to rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._ids import TaskId
    from weft._machines.tasks import Task
    from weft.testing._simulation.plans import TaskPlan
    from weft.testing._simulation.runtimes import VirtualRuntime, VirtualWorker
    from weft.testing._simulation.world import World


class Broken(Exception):  # noqa: N818 - what is raised in the end is BrokenPromiseError
    """A promise was not kept. `about`: the names of what it was about."""

    def __init__(self, promise: str, *about: str) -> None:
        super().__init__(promise)
        self.about = about


class SimulationTally:
    """What owners and workers have done."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.open: dict[TaskId, tuple[VirtualRuntime, Task]] = {}
        self.ended_as: dict[TaskId, str] = {}
        self.begun: dict[TaskId, int] = {}
        self.runs = 0
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

    def owner_died(self, owner: VirtualRuntime) -> None:
        """An owner is gone, and nobody waits for its tasks."""
        self.open = {at: pair for at, pair in self.open.items() if pair[0] is not owner}
