"""A node's metrics: its processes are asked, and what they tell is put together.

Nothing is counted here between two questions. A process that does not answer in time stands with
its last numbers, so no counter goes back; what a process that is gone had counted is kept. A worker
that ends by itself sends its last numbers; of one that is killed, those of the last question are
known.

They are served over HTTP on the socket `metrics` in the session's directory, and on the port that
WEFT_METRICS_PORT asks for: those of this node at /metrics, those of all at /metrics/nodes.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from weft._launch import METRICS_SOCKET
from weft._lazy import lazy
from weft._metrics import OPENMETRICS_TYPE, TEXT_TYPE, Readings, Totals, exposition, of_nodes
from weft._node.rounds import Rounds
from weft._node.scrapes import ScrapeServer
from weft._wire import codec
from weft._wire.messages import Answer, Measure, Measured

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._launch import NodeFile
    from weft._node import measures
    from weft._node.clients import Client
    from weft._node.daemon import Daemon
    from weft._node.everywhere import Everywhere
    from weft._node.measures import StoreNumbers
    from weft._transport.sockets import Poller
    from weft._transport.timers import Timers
    from weft._wire.messages import NodeTold
else:
    # With psutil: 10 ms and 3 MB that a node does without until somebody asks.
    measures = lazy("weft._node.measures")

PATH = "/metrics"
NODES_PATH = "/metrics/nodes"
"""Of all nodes of a cluster."""
_OPENMETRICS = OPENMETRICS_TYPE.partition(";")[0]


class NodeMetrics:
    """Answers who asks for a node's metrics: over HTTP, or with a message."""

    def __init__(
        self,
        daemon: Daemon,
        node: NodeFile,
        poller: Poller,
        timers: Timers,
        *,
        warn: Callable[[str], None],
        everywhere: Everywhere,
        store: Callable[[], StoreNumbers],
    ) -> None:
        """`warn` tells the driver's user a line; `store` reads the index of shared memory."""
        self._daemon = daemon
        self._node = node
        self._clients = daemon.clients
        self._traffic = poller.traffic
        self._store = store
        self._everywhere = everywhere
        self._totals = Totals(lambda why: warn(f"weft: {why}; it is left out of the metrics"))
        self._watched: set[str] = set()
        """The processes that were there at the last question."""
        self._rounds: Rounds[None] = Rounds(timers)
        writers = {PATH: self._write, NODES_PATH: self._write_nodes}
        server = ScrapeServer(poller, timers, writers)
        server.listen(_bind(f"{node.session_dir}/{METRICS_SOCKET}"))
        for fd in node.metrics_fds:
            server.listen(socket.socket(fileno=fd))

    # -------------------------------------------------------------- who asks

    def ask(self, client: Client, request: int) -> None:
        """A process asks, as its user does with `weft.util.metrics.export`."""
        self._collect(
            lambda readings: self._clients.send(client, Answer(request, codec.pack(readings)))
        )

    def _write(self, accept: str, done: Callable[[str, str], None]) -> None:
        self._collect(lambda readings: done(*_text(readings, accept)))

    def _write_nodes(self, accept: str, done: Callable[[str, str], None]) -> None:
        def over(told: list[NodeTold]) -> None:
            readings_of = {
                one.address: codec.unpack(one.bodies[0], list[Readings]) if one.bodies else None
                for one in sorted(told, key=lambda one: one.address)
            }
            done(*_text(of_nodes(readings_of), accept))

        self._everywhere.gather("metrics", over)

    def _collect(self, over: Callable[[list[Readings]], None]) -> None:
        self._rounds.begin(
            lambda number: self._clients.send_to_runtimes(Measure(number)),
            lambda _: over(self._readings()),
        )

    # -------------------------------------------------------------- who answers

    def take(self, process: bytes, measured: Measured) -> None:
        """A process tells its numbers."""
        self._totals.put(process, codec.unpack(measured.body, list[Readings]))
        self._rounds.take(measured.request, process, None)

    def forget(self, process: bytes) -> None:
        """A process is gone, and all that it sent is read."""
        self._totals.end(process)
        self._rounds.forget(process)

    def _readings(self) -> list[Readings]:
        daemon, totals = self._daemon, self._totals
        totals.put(
            "node",
            [
                *measures.of_machines(daemon.rules, daemon.grants, daemon.acting),
                *measures.of_store(self._node.store_dir, self._store()),
                *measures.of_memory(daemon.governing),
                *self._traffic.readings("daemon"),
            ],
        )
        processes = self._processes()
        for gone in self._watched - processes.keys():
            totals.end(gone)
        self._watched = set(processes)
        for name, (what, pid) in processes.items():
            seen = measures.of_process(what, pid)
            if seen:
                totals.put(name, seen)
        return totals.readings()

    def _processes(self) -> dict[str, tuple[str, int]]:
        """Return what each process is, and its pid, by a name that no later one gets."""
        roster = self._daemon.roster
        template = roster.template.pid
        return {
            "daemon": ("daemon", os.getpid()),
            **{
                f"driver {job.driver.pid}": ("driver", job.driver.pid)
                for job in self._daemon.jobs.driven()
                if job.driver is not None and job.driver.pid
            },
            f"template {template}": ("template", template),
            **{
                f"worker {process.worker_id.hex()}": ("worker", process.pid)
                for process in roster.all()
                if process.pid
            },
        }


def _text(readings: list[Readings], accept: str) -> tuple[str, str]:
    """Return the type that an Accept header asks for, and readings as text of it."""
    accepted = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    openmetrics = _OPENMETRICS in accepted
    content_type = OPENMETRICS_TYPE if openmetrics else TEXT_TYPE
    return content_type, exposition(readings, openmetrics=openmetrics)


def _bind(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    Path(path).chmod(0o600)
    listener.listen()
    return listener
