"""In which order the shell does what the machines of tasks and calls say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from weft._ids import IdSource
from weft._machines.attempts import Attempted, Complete, Fail
from weft._machines.ownership import ObjectMade
from weft._runtime.arguments import NO_ARGUMENTS
from weft._runtime.submissions import Submission, Submissions
from weft._wire.messages import Failure, Inline


class TellDaemon(msgspec.Struct, frozen=True):
    """An effect of a machine's own."""

    wanted: int


class ScriptedMachine:
    """Returns what it is told."""

    next_deadline = None

    def __init__(self) -> None:
        self.attempts = SimpleNamespace(open={})

    def handle(self, event: list[Any], now: float) -> list[Any]:
        return event


class Desk:
    """One process's tasks, alone."""

    def __init__(self) -> None:
        self.performed: list[Any] = []
        self.sealed: dict[bytes, Any] = {}
        self.when_sealed: Any = lambda: None
        shells: Any = self
        self.objects = self.peers = self
        machine: Any = ScriptedMachine()
        self.tasks: Submissions[Any] = Submissions(shells, shells, shells, machine, shells)

    def perform(self, effect: Any) -> None:
        self.performed.append(effect)

    def add(self, *_recorded: object) -> None:
        pass

    def handle(self, event: Any) -> None:
        if not isinstance(event, ObjectMade):
            self.performed.append(type(event.value).__name__)
            self.when_sealed()


def a_task(name: str) -> Attempted:
    task_id = IdSource().task_id()
    note = Submission(task_id, name, NO_ARGUMENTS, 1)
    note.returns = [task_id.object_id(1)]
    note.values = [Inline(b"1")]
    task: Any = SimpleNamespace(id=task_id, name=name, attempt=0, note=note, retries=0)
    return task


@pytest.mark.parametrize(
    ("end", "sealed"),
    [
        (Complete(a_task("f")), "Inline"),
        (Fail(a_task("f"), "argument", Failure(b"")), "Failure"),
    ],
)
def test_what_an_end_leads_to_comes_after_what_was_decided_before(end: Any, sealed: str) -> None:
    desk = Desk()

    def argument_came() -> None:
        # As a task does that waited for this result: what it wants is the daemon's last word.
        desk.tasks.handle([TellDaemon(1)])

    desk.when_sealed = argument_came
    desk.tasks.handle([end, TellDaemon(0)])
    assert desk.performed == [TellDaemon(0), sealed, TellDaemon(1)]
