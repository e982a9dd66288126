"""`weft.why`: what something waits for, followed from process to process.

Each process explains what it owns and what it runs, as one sentence and the next steps; who asks
follows the steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from weft._clock import monotonic
from weft._machines.placement import group_of
from weft._transport.addresses import split
from weft._wire import codec
from weft._wire.messages import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft._ids import ObjectId, TaskId
    from weft._machines.calls import ActorCall
    from weft._machines.ownership import Entry
    from weft._machines.tasks import Task
    from weft._runtime.calling import Calling
    from weft._runtime.groups import GroupRequests
    from weft._runtime.leasing import Leasing
    from weft._runtime.links import Links
    from weft._runtime.peers import Peer
    from weft._runtime.submissions import Submission

DAEMONS = ("shape", "actor", "room")
# Enough to show where a program stands; a value may wait for thousands of others.
STEPS = 3
LINES = 20


class Step(msgspec.Struct, frozen=True, array_like=True):
    """A further question: `key` at the process that listens at `address`."""

    kind: Literal["object", "task", "shape", "actor", "group", "room"]
    """The owner explains an object, the worker a task, a daemon (DAEMONS) a shape, an actor, or
    what room in memory the worker `key` waits for; its own daemon a placement group.
    """
    address: str
    key: bytes


class Reason(msgspec.Struct, frozen=True, array_like=True):
    """One process's part of the answer."""

    text: str
    steps: list[Step] = []


def tell(ask: Callable[[Step], Reason], start: Step) -> str:
    """Follow the steps from `start`; return a line for each.

    Blocks while other processes answer, a second each.
    """
    lines = []
    for depth, text in _follow(ask, start, []):
        indent = "  " * depth
        lines.append(indent + text.replace("\n", f"\n{indent}"))
        if len(lines) == LINES:
            lines.append("...")
            break
    return "\n".join(lines)


def _follow(
    ask: Callable[[Step], Reason], step: Step, path: list[tuple[Step, str]]
) -> Iterator[tuple[int, str]]:
    # Steps of a kind repeat only where something waits for itself.
    for index, (earlier, _) in enumerate(path):
        if earlier == step:
            names = [
                text.partition(" (")[0]
                for step, text in path[index:]
                if step.kind == "task" and "(" in text
            ]
            yield (
                len(path),
                f"which waits for itself: a deadlock of {' -> '.join([*names, names[0]])}",
            )
            return
    reason = ask(step)
    if reason.text:
        yield len(path), reason.text
    path.append((step, reason.text))
    for further in reason.steps[:STEPS]:
        yield from _follow(ask, further, path)
    path.pop()
    if len(reason.steps) > STEPS:
        yield len(path) + 1, f"and {len(reason.steps) - STEPS} more"


# ------------------------------------------------------------------ what an owner knows; inside the
# guard


class Reasons:
    """What this process knows of the objects that it owns. The loop's guard is held."""

    def __init__(
        self, links: Links, leasing: Leasing, calling: Calling, groups: GroupRequests
    ) -> None:
        self._links = links
        self._leasing = leasing
        self._calling = calling
        self._groups = groups

    def explain_object(self, object_id: ObjectId) -> Reason:
        """Say what an object of this process waits for."""
        entry = self._links.objects.machine.entries.get(object_id)
        if entry is None:
            return Reason(f"{_ref(object_id)} is no longer kept: nobody held it")
        if isinstance(entry.value, Failure):
            return Reason(f"{_ref(object_id)} is ready: it failed")
        if entry.value is not None:
            return Reason(f"{_ref(object_id)} is ready")
        if entry.owner:
            return Reason(
                f"{_ref(object_id)} is made elsewhere", [Step("object", entry.owner, object_id)]
            )
        task_id = object_id.task_id()
        task = self._leasing.tasks.open.get(task_id)
        if task is not None:
            return self._explain_task(task)
        call = self._calling.calls.open.get(task_id)
        if call is not None:
            return self._explain_call(call)
        group = self._groups.waits_for.get(object_id)
        if group is not None:
            return Reason(f"{_ref(object_id)} waits for a group", [Step("group", "", group)])
        return Reason(f"{_ref(object_id)} is on its way")

    def _explain_task(self, task: Task) -> Reason:
        if task.state == "waiting":
            return Reason(
                f"{task.name} waits for its arguments", list(self._missing_arguments(task.note))
            )
        if task.state == "ready":
            shape = self._leasing.shape_of(task.shape)
            ahead = self._leasing.machine.pools[task.shape].queue.index(task)
            behind = f", {ahead} before it" if ahead else ""
            if task.displaced:
                behind += f"; it was ended to make room in memory ({task.displaced}x)"
            daemons = self._leasing.asked(task.shape)
            steps = [Step("shape", daemon, codec.pack(shape)) for daemon in daemons]
            group = group_of(shape)
            if group is not None and self._links.home.node:
                # On a machine alone its daemon knows what the group waits for, and says so.
                steps.insert(0, Step("group", "", group))
            return Reason(f"{task.name} waits for a worker{behind}", steps)
        assert task.worker is not None
        lease = self._leasing.machine.leases[task.worker]
        if lease.lost:
            return Reason(f"{task.name}: its worker is gone, and is being looked for")
        peer = self._leasing.worker(task.worker)
        first = next(iter(lease.tasks))
        pause = self._leasing.pause_of(task.worker)
        if pause:
            return Reason(f"{task.name} is paused in {named(peer)}: memory is short, {pause}")
        if first == task.id:
            return Reason(
                f"{task.name} is with {named(peer)}", [Step("task", peer.address, task.id)]
            )
        text = f"{task.name} waits in {named(peer)} behind {lease.tasks[first].name}"
        return Reason(text, [Step("task", peer.address, first)])

    def _explain_call(self, call: ActorCall) -> Reason:
        callee = self._calling.machine.callees[call.actor]
        if call.state == "waiting":
            return Reason(
                f"{call.name} waits for its arguments", list(self._missing_arguments(call.note))
            )
        if call.state == "sent":
            return Reason(f"{call.name} is with its actor", [Step("task", callee.address, call.id)])
        first = callee.queue[0]
        if first is not call and first.state == "waiting":
            steps = [Step("object", self._links.address, first.id.object_id(1))]
            return Reason(f"{call.name} waits for the call before it", steps)
        step = Step("actor", self._links.home.daemon_address(), call.actor)
        return Reason(f"{call.name} waits for its actor", [step])

    def _missing_arguments(self, note: Submission) -> Iterator[Step]:
        for ref in note.arguments.deps:
            if ref._entry.value is None:
                yield step_of(ref._entry, self._links.address)


def named(worker: Peer) -> str:
    """Return which worker this is, for people."""
    where = f" of node {split(worker.address).node}" if worker.is_far else ""
    return f"worker {worker.pid}{where}" if worker.pid else f"a worker{where}"


def step_of(entry: Entry, address: str) -> Step:
    """Return the question what an object waits for, to its owner; `address` is this process's."""
    return Step("object", entry.owner or address, entry.id)


def _ref(object_id: ObjectId) -> str:
    return f"ObjectRef({object_id.hex()})"


# ------------------------------------------------------------------ what a worker knows; inside the
# guard


def explain_waits(name: str, began: float, waits: list[Entry], address: str) -> Reason:
    """Say what a running task does: it waits for these, or it runs."""
    pending = [entry for entry in waits if entry.value is None]
    if not pending:
        return Reason(f"{name} (has run for {monotonic() - began:.1f} s)")
    what = "a value" if len(pending) == 1 else f"{len(pending)} values"
    return Reason(
        f"{name} (waits in get for {what})", [step_of(entry, address) for entry in pending]
    )


def unknown_task(_task_id: TaskId) -> Reason:
    """Say that this process runs no such task."""
    return Reason("it has ended, and its answer is on the way")
