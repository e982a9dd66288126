"""The worker processes of a node, and the template that forks them.

A process is on the roster from the request to fork it until `remove`. The template says when it was
forked and reaped; if the template dies, its workers are gone with it, and nobody saw how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._node.forks import Template, spawn_template
from weft._node.processes import Process
from weft._wire.messages import Forked, Reaped
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from weft._launch import NodeFile
    from weft._node.jobs import NodeJob
    from weft._node.output import Outputs
    from weft._transport.sockets import Poller
    from weft._wire.messages import Message


class Roster:
    """Who works on this node."""

    def __init__(
        self,
        poller: Poller,
        node: NodeFile,
        outputs: Outputs,
        *,
        template: tuple[socket.socket, int],
        wrote: Callable[[Process, bool, bytes], None],
        ended: Callable[[Process], None],
        bereft: Callable[[], None],
    ) -> None:
        """`template`: the socket to the first one, and its process id.

        `wrote(process, is_stderr, data)`; `bereft()`: the template is gone, `renew` it.
        """
        self._poller = poller
        self._node = node
        self._outputs = outputs
        self._wrote = wrote
        self._ended = ended
        self._bereft = bereft
        self._process_of: dict[bytes, Process] = {}
        self._process_by_pid: dict[int, Process] = {}
        self.template = self._attend(*template)

    def _attend(self, sock: socket.socket, pid: int) -> Template:
        return Template(self._poller, sock, pid, said=self._said, lost=self._bereft)

    def get(self, worker: bytes) -> Process | None:
        """Return a worker's process."""
        return self._process_of.get(worker)

    def all(self) -> list[Process]:
        """Return the processes, the oldest first."""
        return list(self._process_of.values())

    def start(self, worker: bytes, job: NodeJob, variables: dict[str, str]) -> None:
        """Start a process under this id, for a job."""
        process = Process(worker, self._node.home, self._outputs, job, self._wrote)
        self._process_of[worker] = process
        process.start(self.template, variables)

    def kill(self, worker: bytes, reason: str) -> None:
        """Kill a process, if it is still here."""
        if worker in self._process_of:
            self._process_of[worker].kill(reason)

    def remove(self, process: Process) -> None:
        """A process has ended, and all that it had to say is read."""
        del self._process_of[process.worker_id]
        process.close()

    def renew(self) -> None:
        """Start another template in the place of one that has died with its workers."""
        orphans = self.all()
        self._process_by_pid.clear()
        self.template = self._attend(*spawn_template(self._node))
        for process in orphans:
            process.orphaned()
            self._ended(process)

    def _said(self, message: Message) -> None:
        match message:
            case Forked(worker_id, pid):
                process = self._process_of[worker_id]
                self._process_by_pid[pid] = process
                process.forked(pid)
            case Reaped(pid):
                ended = self._process_by_pid.pop(pid, None)
                if ended is not None:  # A preloaded module may have children of its own.
                    ended.reaped = message
                    self._ended(ended)
            case _:
                raise ProtocolError(f"the template sent {message!r}")
