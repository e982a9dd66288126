"""The jobs that this node works for: one driver's life each.

A driver that has started its node begins the node's own job, and the node ends with it. One that
has joined says what its job is (BeginsJob), and the node goes on when it is gone. Of a job whose
driver is elsewhere this node learns by the environment of the first task that comes from it.

    own:     begun with the node                                       the session ends
    joined:  begin -> (Bye) leaving -> ended, or the connection is lost -> ended
    other:   known while workers of its are here; its driver is on another node, or gone
    over:    the control service has told of its end; what a detached actor of it, or a worker that
             has not heard of the end, still starts here is for nobody else

What is always true
1. A worker belongs to one job, from its start to its end: that of its environment.
2. What a worker writes is shown to its job's driver, and to no other.
3. When a driver is gone its leases, its actors that are not detached and its objects end, as those
   of any client do; so do theirs. Workers of its job that idle end too, and those that start
   later end when they idle. Other jobs go on.
4. Of jobs that are over the newest `OVER_KEPT` are remembered, as by the control service.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import msgspec

from weft._clock import wall
from weft._env.jobs import job_in, without_job
from weft._ids import JobId
from weft._node.driver import JobDriver
from weft._node.far_drivers import FarDriver
from weft._transport.addresses import split
from weft._wire.messages import OutputTaken

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._env.jobs import JobEnvironment
    from weft._launch import NodeFile
    from weft._node.clients import Client, Clients
    from weft._resources import JobLimits
    from weft._transport.sockets import Poller
    from weft._wire.messages import BeginsJob, JobOutput

OVER_KEPT = 10_000
_CREDENTIALS = struct.Struct("3i")


class NodeJob:
    """What this node knows of a job. As a reader of output it is its driver."""

    __slots__ = (
        "__weakref__",
        "began_at",
        "driver",
        "elsewhere",
        "ending",
        "entrypoint",
        "id",
        "is_leaving",
        "log_to_driver",
        "logging",
        "namespace",
        "runtime_env",
    )

    def __init__(self, job_id: bytes, *, namespace: str = "", logging: str = "") -> None:
        self.id = job_id
        self.namespace = namespace
        self.logging = logging
        self.runtime_env = ""
        """The driver's, as its user wrote it."""
        self.entrypoint = ""
        self.log_to_driver = True
        self.began_at = wall()
        self.driver: JobDriver | FarDriver | None = None
        """None: it is gone."""
        self.is_leaving = False
        """The driver has said goodbye: its workers end by themselves, if they do so soon."""
        self.ending: set[bytes] = set()
        """Workers that end because it leaves, and have not ended."""
        self.elsewhere: set[bytes] = set()
        """Nodes that have started workers for it, if its driver is here."""

    @property
    def is_over(self) -> bool:
        """Whether its driver is gone."""
        return self.driver is None

    def works_here(self) -> None:
        """A worker is started for it, or lent."""
        if isinstance(self.driver, FarDriver):
            self.driver.announce()

    def is_unheard_of(self) -> bool:
        """Tell whether its driver is to hear first that it has workers here."""
        return isinstance(self.driver, FarDriver) and self.driver.is_awaited()

    def when_heard_of(self, function: Callable[[], None]) -> str:
        """Call a function once, when a driver has heard that, or cannot hear; say where it is."""
        assert isinstance(self.driver, FarDriver)
        self.driver.when_heard(function)
        return split(self.driver.daemon).node

    def show(self, worker: bytes, pid: int, label: str, data: bytes, *, is_stderr: bool) -> None:
        """Show what a worker has written."""
        if self.driver is not None and self.log_to_driver:
            self.driver.show(worker, pid, label, data, is_stderr=is_stderr)

    def is_behind(self) -> bool:
        """Tell whether the driver has much to read yet."""
        return self.driver is not None and self.driver.is_behind()

    def when_it_has_read(self, function: Callable[[], None]) -> None:
        """Call a function once, when a driver that is behind is so no longer, or is gone."""
        assert self.driver is not None
        self.driver.when_it_has_read(function)


class NodeJobs:
    """The jobs of one node."""

    def __init__(
        self,
        poller: Poller,
        node: NodeFile,
        clients: Clients,
        *,
        session_over: Callable[[str], None],
        driver_gone: Callable[[Client], None],
    ) -> None:
        """`session_over(why)`: the driver that has started the node is gone.

        `driver_gone(client)`: the process of one that has joined is, though its connection may be
        held open by another.
        """
        self._poller = poller
        self._clients = clients
        self._here = node.home.daemon_address()
        self._driver_gone = driver_gone
        options = node.options
        self.own = NodeJob(
            JobId.from_random() if node.parent_pid else JobId.nil(),
            namespace=options.namespace,
            logging=options.logging,
        )
        """Of who has started the node; of nobody if the node lives on by itself."""
        self.own.runtime_env = options.runtime_env
        self.own.log_to_driver = options.log_to_driver
        self._known: WeakValueDictionary[bytes, NodeJob] = WeakValueDictionary()
        self._over: OrderedDict[bytes, None] = OrderedDict()
        """Jobs that have ended in the cluster."""
        self._job_of: dict[bytes, NodeJob] = {}
        """By driver that is connected and has joined."""
        self._own_driver: JobDriver | None = None
        if node.parent_pid:
            driver = JobDriver(poller, node.parent_pid, send=clients.send, ended=session_over)
            self.own.driver = self._own_driver = driver
            self.own.entrypoint = driver.entrypoint()

    # -------------------------------------------------------------- questions

    def of(self, env: str) -> NodeJob:
        """Return the job that tasks of this environment are of."""
        part = job_in(env)
        return self.own if part is None else self._of_part(part)

    def _of_part(self, part: JobEnvironment) -> NodeJob:
        job_id = bytes.fromhex(part.id)
        job = self._known.get(job_id)
        if job is None:
            job = NodeJob(job_id, namespace=part.namespace, logging=part.logging)
            job.log_to_driver = part.log_to_driver
            if part.daemon and part.daemon != self._here and job_id not in self._over:
                job.driver = FarDriver(job_id, part.daemon, self._clients)
            self._known[job_id] = job
        return job

    def find(self, job_id: bytes) -> NodeJob | None:
        """Return a job that is known here."""
        return self._known.get(job_id)

    def driven_by(self, client: Client) -> NodeJob | None:
        """Return the job whose driver this is; None: it drives none."""
        if self.is_own_driver(client):
            return self.own
        return self._job_of.get(client.worker_id)

    def is_own_driver(self, client: Client) -> bool:
        """Tell whether this client is the driver that has started the node, or says so now."""
        driver = self._own_driver
        if driver is None or client.role != "driver":
            return False
        return driver.is_client(client) or (not driver.worker_id and client.pid == driver.pid)

    def own_connected(self, client: Client) -> None:
        """The driver that has started the node is connected."""
        assert self._own_driver is not None
        self._own_driver.connected(client)

    def driven(self) -> list[NodeJob]:
        """Return the jobs whose drivers are here, the oldest first."""
        own = [self.own] if self.own.driver is not None else []
        return own + list(self._job_of.values())

    def describe(self, limits_of: Callable[[bytes], JobLimits]) -> list[dict[str, Any]]:
        """Return what is told of jobs, for people and tools."""
        return [
            {
                "job_id": job.id.hex(),
                "driver_id": job.driver.worker_id.hex(),
                "driver_pid": job.driver.pid,
                "entrypoint": job.entrypoint,
                "namespace": job.namespace,
                "began_at": job.began_at,
                **msgspec.structs.asdict(limits_of(job.id)),
            }
            for job in self.driven()
            if job.driver is not None
        ]

    # -------------------------------------------------------------- drivers

    def begin(self, client: Client, message: BeginsJob) -> NodeJob:
        """A driver that has joined says what its job is."""
        part = job_in(message.env)
        assert part is not None, "checked by who has got the message"
        job = self._of_part(part)
        job.runtime_env = without_job(message.env)
        job.entrypoint = message.entrypoint
        driver = JobDriver(
            self._poller,
            _pid_of(client),
            send=self._clients.send,
            ended=lambda _: self._driver_gone(client),
        )
        driver.connected(client)
        job.driver = driver
        self._job_of[client.worker_id] = job
        return job

    def end(self, client: bytes) -> NodeJob | None:
        """A driver that has joined is gone; None: it had no job."""
        job = self._job_of.pop(client, None)
        if job is not None and job.driver is not None:
            job.driver.close()
            job.driver = None
        return job

    # -------------------------------------------------------------- drivers of other nodes

    def is_elsewhere(self, node: bytes, job_id: bytes) -> NodeJob | None:
        """Another node has started workers for a job; None: its driver is not here."""
        job = self._known.get(job_id)
        if job is None or not isinstance(job.driver, JobDriver):
            return None
        job.elsewhere.add(node)
        return job

    def heard_of(self, job_id: bytes) -> None:
        """A driver's daemon has heard that workers of the job are here."""
        job = self._known.get(job_id)
        if job is not None and isinstance(job.driver, FarDriver):
            job.driver.heard()

    def has_left(self, node: bytes, job_id: bytes) -> None:
        """On another node they have ended."""
        job = self._known.get(job_id)
        if job is not None:
            job.elsewhere.discard(node)

    def pass_on(self, client: Client, message: JobOutput) -> None:
        """A worker of another node has written something for a driver of this one."""
        job = self._known.get(message.job_id)
        taken = OutputTaken(message.job_id, len(message.data))
        if job is None or not isinstance(job.driver, JobDriver):
            self._clients.send(client, taken)
            return
        job.driver.show(
            message.worker_id,
            message.pid,
            message.label,
            message.data,
            is_stderr=message.is_stderr,
            node=split(client.address).node,
        )
        if job.is_behind():
            job.when_it_has_read(lambda: self._clients.send(client, taken))
        else:
            self._clients.send(client, taken)

    def taken(self, message: OutputTaken) -> None:
        """A driver's daemon has passed on what was written here."""
        job = self._known.get(message.job_id)
        if job is not None and isinstance(job.driver, FarDriver):
            job.driver.taken(message.size_bytes)

    def over(self, job_id: bytes) -> NodeJob | None:
        """A job has ended in the cluster; None: it has nothing here.

        If its driver was on another node, nobody hears its workers.
        """
        self._over[job_id] = None
        if len(self._over) > OVER_KEPT:
            self._over.popitem(last=False)
        job = self._known.get(job_id)
        if job is not None and isinstance(job.driver, FarDriver):
            driver = job.driver
            job.driver = None
            driver.close()
        return job

    def unreachable(self, node: bytes, daemon: str) -> None:
        """The connection to or from another node's daemon is lost."""
        for job in list(self._known.values()):
            job.elsewhere.discard(node)
            if isinstance(job.driver, FarDriver) and job.driver.daemon == daemon:
                job.driver.unreachable()

    def say(self, worker: bytes, pid: int, text: str) -> None:
        """Tell the users of all drivers something of the node."""
        for job in self.driven():
            if job.driver is not None:
                job.driver.show(worker, pid, "weft", f"{text}\n".encode(), is_stderr=True)

    def drain(self) -> None:
        """Send the drivers what is queued, waiting for them to take it."""
        for job in self.driven():
            if isinstance(job.driver, JobDriver):
                job.driver.drain()

    def close(self) -> None:
        """End the drivers' connections."""
        for job in self.driven():
            if job.driver is not None:
                job.driver.close()


def _pid_of(client: Client) -> int:
    """Return the process at the other end, by the kernel's word; 0: it is not seen from here."""
    if not client.is_local:
        return 0
    with socket.socket(fileno=os.dup(client.connection.fileno())) as sock:
        sent = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(sent)[0]
    return pid
