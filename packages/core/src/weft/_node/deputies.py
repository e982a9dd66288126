"""The deputies of this node: drivers for programs on machines that have no node.

    Ask("deputy") -> a process is started -> it says Hello -> the answer: how it is called
    Ask("deputy", its id) -> whether it lives

They end by themselves; what a deputy had ends as of any driver.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from weft._ids import WorkerId
from weft._launch import spawn
from weft._wire.codec import pack, unpack
from weft._wire.messages import Answer

if TYPE_CHECKING:
    from weft._launch import NodeFile
    from weft._node.clients import Client, Clients
    from weft._transport.sockets import Poller

QUESTION = "deputy"


class DeputyAsked(msgspec.Struct, frozen=True):
    """Body of the question."""

    id: bytes = b""
    """Empty: another one is wanted. The answer is DeputyFound, else whether this one lives."""
    patience_s: float = 600.0
    """How long it lives on when it does not hear of its program."""


class DeputyFound(msgspec.Struct, frozen=True):
    """A deputy that is there."""

    id: bytes
    daemon: str
    """The address of its daemon."""


class _Process(NamedTuple):
    pid: int
    pidfd: int


class Deputies:
    """Starts them, and knows which of them live."""

    def __init__(self, poller: Poller, node: NodeFile, clients: Clients) -> None:
        self._poller = poller
        self._home = node.home
        self._clients = clients
        self._processes: dict[bytes, _Process] = {}
        self._asked: dict[bytes, tuple[bytes, int]] = {}
        """Who waits for one that starts, and the number of the question."""

    def ask(self, client: Client, request: int, body: bytes) -> None:
        """Answer, at once or when the deputy is there. ProtocolError."""
        asked = unpack(body, DeputyAsked)
        if asked.id:
            self._clients.send(client, Answer(request, pack(asked.id in self._processes)))
            return
        deputy = WorkerId.from_random()
        pid = spawn(
            "_node.deputy",
            self._home.session_dir,
            deputy.hex(),
            str(asked.patience_s),
            fds=(),
            output_fd=sys.stderr.fileno(),
        )
        pidfd = os.pidfd_open(pid)
        self._processes[deputy] = _Process(pid, pidfd)
        self._asked[deputy] = (client.worker_id, request)
        self._poller.add(pidfd, lambda _: self._ended(deputy))

    def met(self, client: Client) -> None:
        """A driver has connected: if it is a deputy, who wants one is told."""
        found = DeputyFound(client.worker_id, self._home.daemon_address())
        self._tell(client.worker_id, pack(found))

    def _tell(self, deputy: bytes, body: bytes, error: str = "") -> None:
        waiting = self._asked.pop(deputy, None)
        if waiting is not None:
            asker, request = waiting
            self._clients.send_to(asker, Answer(request, body, error))

    def _ended(self, deputy: bytes) -> None:
        process = self._processes.pop(deputy)
        self._poller.remove(process.pidfd)
        os.close(process.pidfd)
        os.waitpid(process.pid, 0)
        self._tell(deputy, pack(None), "the driver for this program ended as it began")

    def close(self) -> None:
        """End them all."""
        for process in self._processes.values():
            os.kill(process.pid, signal.SIGKILL)
        for deputy in list(self._processes):
            self._ended(deputy)
