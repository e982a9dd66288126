"""What a driver or worker tells when the daemon asks for metrics: the user's, and its own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from weft._metrics import Readings, measured, registry
from weft._wire import codec
from weft._wire.messages import Measured

if TYPE_CHECKING:
    from weft._runtime.runtime import Runtime
    from weft._runtime.submissions import Submissions


_STATES = ("waiting", "ready", "sent")


def measure(runtime: Runtime, request: int) -> Measured:
    """Return all that is measured here. Inside the guard."""
    return Measured(request, codec.pack([*registry.readings(), *_own(runtime)]))


def _own(runtime: Runtime) -> list[Readings]:
    kinds: dict[str, Submissions[Any]] = {
        "task": runtime.leasing.tasks,
        "call": runtime.calling.calls,
    }
    tasks, ended = {}, {}
    for kind, submissions in kinds.items():
        found = Counter(task.state for task in submissions.open.values())
        tasks.update({(kind, state): found[state] for state in _STATES})
        ended.update({(kind, outcome): n for outcome, n in submissions.ended.items()})
    entries = runtime.objects.machine.entries
    borrowed = sum(1 for entry in entries.values() if entry.owner)
    return [
        measured(
            "amount",
            "weft_tasks",
            "Tasks and actors' calls that have not ended. "
            "waiting: for arguments; ready: for a worker or an actor; sent: it has them.",
            ("kind", "state"),
            tasks,
        ),
        measured(
            "counter",
            "weft_tasks_ended_total",
            "Tasks and actors' calls that have ended.",
            ("kind", "outcome"),
            ended,
        ),
        measured(
            "amount",
            "weft_objects",
            "Objects that processes know, by what the process is to them.",
            ("role",),
            {("owner",): len(entries) - borrowed, ("borrower",): borrowed},
        ),
        *runtime.loop.poller.traffic.readings(runtime.links.role),
    ]
