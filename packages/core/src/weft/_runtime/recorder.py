"""What became of this process's tasks and calls, on the way to the daemon.

A row a task, kept here until there are a thousand or somebody asks. What this process has not sent
when it is killed is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._serialize.failures import describe_failure
from weft._transport.addresses import split
from weft._wire.messages import Recorded
from weft._wire.records import OWN_FIELDS, What, pack_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._ids import TaskId, WorkerId
    from weft._runtime.links import Links
    from weft._runtime.submissions import Submission
    from weft._wire.messages import Value

BATCH_ROWS = 1000
FIELDS = 14
# Of an error's message.
MESSAGE_CHARACTERS = 1000


class TaskRecorder:
    """Collects rows and sends them. Inside the guard."""

    def __init__(self, links: Links, worker_id: WorkerId, job: Callable[[], bytes]) -> None:
        """`job` tells whose tasks these are."""
        self._links = links
        self._job = job
        self._me = worker_id
        self._rows: list[Any] = []
        """The fields of all rows, one after the other: a thousand tuples that stay for a while
        would have the collector look at all that there is more often."""
        self._errors: dict[int, tuple[str, str]] = {}

    def add(self, task_id: TaskId, attempt: int, note: Submission, failure: Value | None) -> None:
        """A task has ended; with a failure, if there is one."""
        rows = self._rows
        actor, parent = note.actor, note.parent
        if failure is not None:
            kind, message = describe_failure(failure.error)  # type: ignore[union-attr]  # a Failure
            self._errors[len(rows) // FIELDS] = (kind, message[:MESSAGE_CHARACTERS])
        # For every task: only references, of what is there already.
        rows += (
            task_id,
            note.made_at,
            note.began_at,
            note.ended_at,
            note.name,
            note.code[1] if actor is None else actor.class_name,
            note.method,
            b"" if actor is None else actor.actor_id,
            # Not the task itself: it may hold objects.
            b"" if parent is None else parent.task_id,
            note.peer,
            attempt,
            failure is not None,
            note.shape.amounts,
            note.site,
        )
        if len(rows) >= BATCH_ROWS * FIELDS:
            self.send()

    def send(self) -> None:
        """Queue what there is for the daemon."""
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        errors, self._errors = self._errors, {}
        if not self._links.daemon.connection.closed:
            columns = [rows[field::FIELDS] for field in range(FIELDS)]
            whats = zip(*columns[OWN_FIELDS:], strict=True)
            shared = (*columns[:OWN_FIELDS], whats)
            body = pack_columns(self._me, shared, errors, what_of, job=self._job())
            self._links.peers.send(self._links.daemon, Recorded(len(rows) // FIELDS, body))


def what_now(note: Submission, attempt: int) -> What:
    """Return what the row of a submission would share if it ended as it is."""
    actor, parent = note.actor, note.parent
    return what_of(
        (
            note.name,
            note.code[1] if actor is None else actor.class_name,
            note.method,
            b"" if actor is None else actor.actor_id,
            b"" if parent is None else parent.task_id,
            note.peer,
            attempt,
            False,
            note.shape.amounts,
            note.site,
        )
    )


def what_of(key: tuple[Any, ...]) -> What:
    """Return what a row's key stands for."""
    name, function, method, actor, parent, peer, attempt, has_failed, amounts, site = key
    if method:
        function = f"{function}.{method}"
    worker, pid = (b"", 0) if peer is None else (peer.worker_id, peer.pid)
    node = split(peer.address).node if peer is not None and peer.is_far else ""
    return What(
        name, function, actor, parent, worker, pid, attempt, has_failed, amounts, site, node
    )
