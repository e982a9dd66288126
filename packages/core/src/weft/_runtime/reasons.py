"""`weft.why`: what something waits for, followed from process to process until it is found, or until it bites its tail.

Each process explains what it owns and what it runs, as one sentence and the next steps; who asks follows the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from weft._clock import monotonic
from weft._ids import ActorId, ObjectId, TaskId
from weft._machines.calls import ActorCall
from weft._machines.tasks import Task
from weft._wire import codec
from weft._wire.messages import Failure

if TYPE_CHECKING:
    from weft._machines.ownership import Entry
    from weft._runtime.runtime import Runtime, Submission

# Enough to show where a program stands; a value may wait for thousands of others.
STEPS = 3
LINES = 20


class Step(msgspec.Struct, frozen=True, array_like=True):
    """A further question: `key` at the process that listens at `address`."""

    kind: Literal["object", "task", "shape", "actor"]
    """The owner explains an object, the worker a task, the daemon a shape or an actor."""
    address: str
    key: bytes


class Reason(msgspec.Struct, frozen=True, array_like=True):
    """One process's part of the answer."""

    text: str
    steps: list[Step] = []


def tell(runtime: Runtime, start: Step) -> str:
    """Follow the steps from `start`; return a line for each. Blocks while other processes answer, a second each."""
    lines = []
    for depth, text in _follow(runtime, start, []):
        lines.append("  " * depth + text)
        if len(lines) == LINES:
            lines.append("...")
            break
    return "\n".join(lines)


def _follow(runtime: Runtime, step: Step, path: list[tuple[Step, str]]) -> Iterator[tuple[int, str]]:
    # Steps of a kind repeat only where something waits for itself.
    for index, (earlier, _) in enumerate(path):
        if earlier == step:
            names = [text.partition(" (")[0] for step, text in path[index:] if step.kind == "task" and "(" in text]
            yield len(path), f"which waits for itself: a deadlock of {' -> '.join([*names, names[0]])}"
            return
    reason = runtime.reason_of(step)
    if reason.text:
        yield len(path), reason.text
    path.append((step, reason.text))
    for further in reason.steps[:STEPS]:
        yield from _follow(runtime, further, path)
    path.pop()
    if len(reason.steps) > STEPS:
        yield len(path) + 1, f"and {len(reason.steps) - STEPS} more"


# ------------------------------------------------------------------ what an owner knows; inside the guard


def explain_object(runtime: Runtime, object_id: ObjectId) -> Reason:
    """Say what an object of this process waits for."""
    entry = runtime.objects.machine.entries.get(object_id)
    if entry is None:
        return Reason(f"{_ref(object_id)} is no longer kept: nobody held it")
    if isinstance(entry.value, Failure):
        return Reason(f"{_ref(object_id)} is ready: it failed")
    if entry.value is not None:
        return Reason(f"{_ref(object_id)} is ready")
    if entry.owner:
        return Reason(f"{_ref(object_id)} is made elsewhere", [Step("object", entry.owner, object_id)])
    task_id = object_id.task_id()
    task = runtime.tasks.tasks.get(task_id)
    if task is not None:
        return _explain_task(runtime, task)
    call = runtime.calls.calls.get(task_id)
    if call is not None:
        return _explain_call(runtime, call)
    return Reason(f"{_ref(object_id)} is on its way")


def _explain_task(runtime: Runtime, task: Task) -> Reason:
    if task.state == "waiting":
        return Reason(f"{task.name} waits for its arguments", list(_missing_arguments(runtime, task.note)))
    if task.state == "queued":
        shape = codec.pack(runtime.shape_of(task.shape))
        ahead = runtime.tasks.pools[task.shape].queue.index(task)
        behind = f", {ahead} before it" if ahead else ""
        return Reason(f"{task.name} waits for a worker{behind}", [Step("shape", "", shape)])
    assert task.worker is not None
    lease = runtime.tasks.leases[task.worker]
    if lease.lost:
        return Reason(f"{task.name}: its worker is gone, and is being looked for")
    peer = runtime.worker(task.worker)
    first = next(iter(lease.tasks))
    if first == task.id:
        return Reason(f"{task.name} is with worker {peer.pid}", [Step("task", peer.address, task.id)])
    text = f"{task.name} waits in worker {peer.pid} behind {lease.tasks[first].name}"
    return Reason(text, [Step("task", peer.address, first)])


def _explain_call(runtime: Runtime, call: ActorCall) -> Reason:
    callee = runtime.calls.callees[call.actor]
    if call.state == "waiting":
        return Reason(f"{call.name} waits for its arguments", list(_missing_arguments(runtime, call.note)))
    if call.state == "sent":
        return Reason(f"{call.name} is with its actor", [Step("task", callee.address, call.id)])
    first = callee.queue[0]
    if first is not call and first.state == "waiting":
        steps = [Step("object", runtime.address, first.id.object_id(1))]
        return Reason(f"{call.name} waits for the call before it", steps)
    return Reason(f"{call.name} waits for its actor", [Step("actor", "", call.actor)])


def _missing_arguments(runtime: Runtime, note: Submission) -> Iterator[Step]:
    for ref in note.arguments.deps:
        if ref._entry.value is None:
            yield step_of(runtime, ref._entry)


def step_of(runtime: Runtime, entry: Entry) -> Step:
    """Return the question what an object waits for, to its owner."""
    return Step("object", entry.owner or runtime.address, entry.id)


def _ref(object_id: ObjectId) -> str:
    return f"ObjectRef({object_id.hex()})"


# ------------------------------------------------------------------ what a worker knows; inside the guard


def explain_waits(name: str, began: float, waits: list[Entry], runtime: Runtime) -> Reason:
    """Say what a running task does: it waits for these, or it runs."""
    pending = [entry for entry in waits if entry.value is None]
    if not pending:
        return Reason(f"{name} (has run for {monotonic() - began:.1f} s)")
    what = "a value" if len(pending) == 1 else f"{len(pending)} values"
    return Reason(f"{name} (waits in get for {what})", [step_of(runtime, entry) for entry in pending])


Explain = Callable[[TaskId], Reason]


def unknown_task(_task_id: TaskId) -> Reason:
    """Say that this process runs no such task."""
    return Reason("it has ended, and its answer is on the way")


def actor_step(actor: ActorId) -> Step:
    """Return the question what an actor waits for, to the directory."""
    return Step("actor", "", actor)
