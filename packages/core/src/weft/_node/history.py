"""What processes have told of their tasks, kept for who asks; and the questions that go to them.

Records come in batches that are kept as they came: a record costs nothing here. When there are too
many, or they take too much, the oldest batches go, and how many records went is told with every
answer. However much the newest says, it stays.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from weft import _settings
from weft._node.rounds import Rounds
from weft._wire.codec import pack
from weft._wire.messages import Answer, Inspect
from weft._wire.records import ProcessTold, SessionSnapshot

if TYPE_CHECKING:
    from weft._node.clients import Client, Clients
    from weft._node.roster import Roster
    from weft._transport.timers import Timers
    from weft._wire.messages import Inspected, Recorded

QUESTIONS = ("tasks", "objects", "stacks")
# What a record may take on average. Most take 42 bytes, those of failures a kilobyte.
RECORD_BYTES = 64


class History:
    """Answers QUESTIONS. No body. Answer: a SessionSnapshot."""

    def __init__(self, clients: Clients, roster: Roster, timers: Timers) -> None:
        self._clients = clients
        self._roster = roster
        self._rounds: Rounds[tuple[bytes, bytes, int]] = Rounds(timers)
        """Answers are (worker id, body, how many batches had come before)."""
        self._batches: deque[Recorded] = deque()
        self._came = 0
        """Batches, also those that went."""
        self._records = 0
        self._bytes = 0
        self._dropped = 0
        self._most = _settings.TASK_EVENTS.value()

    def add(self, batch: Recorded) -> None:
        """Keep records."""
        self._batches.append(batch)
        self._came += 1
        self._records += batch.records
        self._bytes += len(batch.body)
        most, most_bytes = self._most, self._most * RECORD_BYTES
        while self._records > most or (self._bytes > most_bytes and len(self._batches) > 1):
            oldest = self._batches.popleft()
            self._records -= oldest.records
            self._bytes -= len(oldest.body)
            self._dropped += oldest.records

    def ask(self, client: Client, request: int, what: str) -> None:
        """Ask all drivers and workers, then answer."""
        asked: dict[bytes, tuple[int, str]] = {}

        def send(number: int) -> set[bytes]:
            found = self._clients.send_to_runtimes(Inspect(number, what))
            for worker in found:
                one = self._clients.get(worker)
                if one is not None:
                    asked[worker] = (one.pid, one.role)
            return found

        def over(answers: list[tuple[bytes, bytes, int]]) -> None:
            body_of = {worker: body for worker, body, _ in answers}
            late = self._came - min((came for _, _, came in answers), default=self._came)
            told = [
                ProcessTold(worker, pid, role, body_of.get(worker))
                for worker, (pid, role) in asked.items()
                # One that has ended meanwhile is missed by nobody: what it knew, it sent before.
                if worker in body_of or self._clients.get(worker) is not None
            ]
            self._clients.send(client, Answer(request, pack(self._snapshot(told, what, late))))

        self._rounds.begin(send, over)

    def _snapshot(self, told: list[ProcessTold], what: str, late: int) -> SessionSnapshot:
        pages = [
            (process.worker_id, process.pid, task_id)
            for process in self._roster.all()
            if (task_id := process.running()[0])
        ]
        if what != "tasks":
            return SessionSnapshot(told, pages)
        bodies = [batch.body for batch in self._batches]
        return SessionSnapshot(told, pages, bodies, min(late, len(bodies)), self._dropped)

    def take(self, process: bytes, inspected: Inspected) -> None:
        """A process has answered."""
        self._rounds.take(inspected.request, process, (process, inspected.body, self._came))

    def forget(self, process: bytes) -> None:
        """A process is gone: nobody waits for its answer."""
        self._rounds.forget(process)
