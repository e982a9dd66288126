"""What a function's task and an actor's call have in common: they are tried until they end.

    waiting (arguments) -> ready -> sent -> done
                             ^        |
                             +--------+  the next attempt

The machine of either (tasks.py, calls.py) decides where they are sent; the rest is here.

What is always true
1. What was asked to stop, or was found to be late, is not tried again.
2. The time limit begins with each attempt. At its end a task is asked to stop; `GRACE_S` later its
   process is ended.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec

from weft._ids import TaskId

# What is asked to stop and does not has its process ended so long after.
GRACE_S = 0.5


class Attempted:
    """One task or call, through all its attempts. `note` is the shell's."""

    __slots__ = (
        "asked",
        "attempt",
        "cancelled",
        "deadline",
        "displaced",
        "id",
        "name",
        "note",
        "retries",
        "state",
        "timed_out",
        "timeout_s",
    )

    def __init__(
        self, task_id: TaskId, name: str, *, retries: int, timeout_s: float, note: Any
    ) -> None:
        self.id = task_id
        self.name = name
        self.retries = retries
        """Attempts left after this one; -1: no end."""
        self.timeout_s = timeout_s
        """0: none."""
        self.state: Literal["waiting", "ready", "sent", "done"] = "ready"
        """The shell makes it "waiting" if arguments are still to come."""
        self.attempt = 0
        self.displaced = 0
        """How many of its attempts were ended to make room for others."""
        self.cancelled = False
        self.timed_out = False
        self.asked = False
        """It was asked to stop: at its deadline its process is ended."""
        self.deadline = 0.0
        self.note = note

    @property
    def may_repeat(self) -> bool:
        """Whether it may run more than once: it has attempts left, or has used some."""
        return self.retries != 0 or self.attempt > 0


T = TypeVar("T", bound=Attempted)
FailKind = Literal[
    "argument",
    "cancelled",
    "timeout",
    "died",
    "unavailable",
    "unschedulable",
    "environment",
    "placement_group",
    "exhausted",
]


# ------------------------------------------------------------------ events


class ArgumentsReady(msgspec.Struct, frozen=True):
    """All arguments of a waiting task are there."""

    task_id: TaskId


class ArgumentFailed(msgspec.Struct, frozen=True):
    """An argument of a waiting task ended in an error: it cannot run."""

    task_id: TaskId
    error: Any


class Answered(msgspec.Struct, frozen=True):
    """The process that has the task answered. `retriable`: with an exception to be retried."""

    task_id: TaskId
    duration_s: float
    retriable: bool


class CancelAsked(msgspec.Struct, frozen=True):
    """The user cancels a task. `force`: with the process that runs it, if that is a task's."""

    task_id: TaskId
    force: bool = False


class Ticked(msgspec.Struct, frozen=True):
    """`next_deadline` has come."""


AttemptEvent = ArgumentsReady | ArgumentFailed | Answered | CancelAsked | Ticked

# ------------------------------------------------------------------ effects


class Complete(msgspec.Struct, Generic[T], frozen=True):
    """The answer is the task's end."""

    task: T


class Fail(msgspec.Struct, Generic[T], frozen=True):
    """The task ends without an answer. `detail` depends on `kind`."""

    task: T
    kind: FailKind
    detail: Any = None


class AskCancel(msgspec.Struct, Generic[T], frozen=True):
    """Ask the process that has the task to stop it."""

    task: T


class Kill(msgspec.Struct, Generic[T], frozen=True):
    """End the process that runs the task: it does not stop."""

    task: T
    reason: str


# ------------------------------------------------------------------ state


class Attempts(Generic[T]):
    """The tasks of one machine that have not ended."""

    def __init__(self) -> None:
        self.open: dict[TaskId, T] = {}
        self._timed: dict[TaskId, T] = {}
        """Those that have a deadline."""

    @property
    def next_deadline(self) -> float | None:
        """When `tick` is due; None: never, as things are."""
        return min((task.deadline for task in self._timed.values()), default=None)

    def waiting(self, task_id: TaskId) -> T | None:
        """Return the task if it still waits for its arguments."""
        task = self.open.get(task_id)
        return task if task is not None and task.state == "waiting" else None

    def send(self, task: T, now: float) -> None:
        """Begin an attempt."""
        task.state = "sent"
        if task.timeout_s:
            task.deadline = now + task.timeout_s
            self._timed[task.id] = task

    def unsend(self, task: T) -> None:
        """Take an attempt back that was not begun."""
        self._timed.pop(task.id, None)
        task.state = "ready"

    def try_again(self, task: T, *, is_free: bool = False) -> bool:
        """Take back an attempt that came to nothing, if there may be another; return whether.

        `is_free`: that was not its fault, and does not count.
        """
        may = task.may_repeat if is_free else bool(task.retries)
        if not may or task.cancelled or task.timed_out:
            return False
        if is_free:
            task.displaced += 1
        elif task.retries > 0:
            task.retries -= 1
        task.attempt += 1
        self.unsend(task)
        return True

    def begin_again(self, task: T) -> bool:
        """Take a retry of a task that has ended, if there is one left; return whether."""
        if not task.retries:
            return False
        if task.retries > 0:
            task.retries -= 1
        task.attempt += 1
        task.cancelled = task.timed_out = task.asked = False
        return True

    def answer(self, task: T) -> Complete[T] | Fail[T]:
        """End a task with its answer, if that was in time."""
        if task.timed_out:
            return self.fail(task, "timeout")
        self._timed.pop(task.id, None)
        task.state = "done"
        del self.open[task.id]
        return Complete(task)

    def fail(self, task: T, kind: FailKind, detail: Any = None) -> Fail[T]:
        """End a task; for what it was asked to stop for, if it was."""
        self._timed.pop(task.id, None)
        task.state = "done"
        del self.open[task.id]
        if task.timed_out:
            kind = "timeout"
        elif task.cancelled:
            kind = "cancelled"
        return Fail(task, kind, detail)

    def end_by(self, task: T, deadline: float) -> None:
        """Have the process of a task that was asked to stop ended, if it goes on for so long."""
        task.asked = True
        task.deadline = deadline
        self._timed[task.id] = task

    def tick(self, now: float) -> list[AskCancel[T] | Kill[T]]:
        """Do what is due."""
        effects: list[AskCancel[T] | Kill[T]] = []
        for task in [task for task in self._timed.values() if task.deadline <= now]:
            if task.asked:
                del self._timed[task.id]
                why = (
                    f"ran over its time limit of {task.timeout_s:g} s"
                    if task.timed_out
                    else "was cancelled with force"
                )
                effects.append(Kill(task, f"{task.name} {why}"))
            else:
                task.timed_out = True
                self.end_by(task, now + GRACE_S)
                effects.append(AskCancel(task))
        return effects

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        for task_id, task in self.open.items():
            assert task.id == task_id and task.state != "done", (1, task_id)
        for task_id, task in self._timed.items():
            assert self.open[task_id] is task and task.state == "sent", (2, task_id)
