"""The drivers that have joined this node: how they come, and how they go.

    BeginsJob -> Welcome, and workers are started ahead of demand
    JobHere   -> another node has workers for it, or will have: JobHeard
    Bye       -> its leases and actors end, gently, here and on other nodes; when the workers have,
                 its connection is closed
    gone      -> its leases and actors end, at once

What ends so, ends in turn what it has begun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._env.jobs import job_in
from weft._machines.workers import EnvironmentsLeft
from weft._wire.messages import JobHeard, JobLeaves, JobLeft, Quit
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.clients import Client, Clients
    from weft._node.jobs import NodeJob, NodeJobs
    from weft._node.roster import Roster
    from weft._node.rules import Rules
    from weft._transport.timers import Timers
    from weft._wire.messages import BeginsJob

# What a shutdown may cost (architecture.md section 13: 0.3 s) bounds the exit hooks of all workers
# together, where the session ends with its driver.
BYE_S = 0.2
REAP_S = 2.0
# The hooks of workers whose node lives on.
HOOKS_S = 1.0
# A driver that has joined is let go, however its workers are.
GOODBYE_S = 2.0


class Drivers:
    """Lets drivers in, and sees them off."""

    def __init__(
        self,
        jobs: NodeJobs,
        rules: Rules,
        clients: Clients,
        roster: Roster,
        timers: Timers,
        *,
        welcome: Callable[[Client, NodeJob], None],
        forget: Callable[[bytes], None],
        ended: Callable[[NodeJob], None],
    ) -> None:
        """`forget(client)`: what a client has here ends. `ended(job)`: its driver is gone."""
        self._job_ended = ended
        self._leaving: dict[Client, NodeJob] = {}
        """Drivers that have said goodbye."""
        self._leaving_from: dict[NodeJob, Client] = {}
        """Jobs that leave whose drivers are on other nodes, and the daemons there."""
        self._jobs = jobs
        self._rules = rules
        self._clients = clients
        self._roster = roster
        self._timers = timers
        self._welcome = welcome
        self._forget = forget

    def begin(self, client: Client, message: BeginsJob) -> NodeJob:
        """A driver says what its job is."""
        if client.role != "driver" or self._jobs.driven_by(client) or not job_in(message.env):
            raise ProtocolError(f"process {client.pid} begins a job, which is not for it to do")
        job = self._jobs.begin(client, message)
        self._welcome(client, job)
        return job

    def gone(self, client: Client) -> None:
        """A driver's process is gone; a child of its may hold the connection open."""
        if self._clients.get(client.worker_id) is client:
            client.connection.read_rest()
            self._clients.close(client.worker_id)
            self._forget(client.worker_id)
            self.ended(client.worker_id)

    def ended(self, client: bytes) -> None:
        """A client is gone, and forgotten: if it was a driver nobody wants its idle workers."""
        job = self._jobs.end(client)
        if job is not None:
            self.leave_workers(job)
            self._job_ended(job)

    def expel(self) -> None:
        """The node was declared dead, and so were the jobs whose drivers are here: they end."""
        for driver in [job.driver.worker_id for job in self._jobs.driven() if job.driver]:
            client = self._clients.get(driver)
            if client is not None:
                client.connection.drain()
                self._clients.close(driver)
                self._forget(driver)
                self.ended(driver)

    def leave_workers(self, job: NodeJob) -> None:
        """Nobody wants the idle workers of a job."""
        envs = {env for _, _, env in self._rules.pool.workers() if self._jobs.of(env) is job}
        self._rules.tell_pool(EnvironmentsLeft(frozenset(envs)))

    # -------------------------------------------------------------- goodbyes

    def leave(self, client: Client) -> None:
        """A driver says goodbye: its workers end, and what they print in that is shown to it."""
        job = self._jobs.driven_by(client)
        if job is None:
            return
        self._leaving[client] = job
        self._end_gently(client.worker_id, job)
        for node in job.elsewhere:
            self._clients.send_to(node, JobLeaves(job.id, client.worker_id))
        self._timers.call_later(GOODBYE_S, lambda: self._let_go(client))

    def _end_gently(self, driver: bytes, job: NodeJob) -> None:
        """End what a driver has here; what ends runs its exit hooks."""
        job.is_leaving = True
        client = self._clients.get(driver)
        if client is not None:
            client.has_left = True
        self._forget(driver)  # Actors end with it though it may have called nobody here.
        self.leave_workers(job)

    def works_elsewhere(self, daemon: Client, job_id: bytes) -> None:
        """Another node has workers for a driver of this one, and waits for the answer."""
        job = self._jobs.is_elsewhere(daemon.worker_id, job_id)
        self._clients.send(daemon, JobHeard(job_id))
        if job is not None and job.driver is not None and job.is_leaving:
            self._clients.send(daemon, JobLeaves(job_id, job.driver.worker_id))

    def leave_from_afar(self, daemon: Client, message: JobLeaves) -> None:
        """A driver of another node says goodbye; its daemon waits for what its workers say."""
        job = self._jobs.find(message.job_id)
        if job is None:
            self._clients.send(daemon, JobLeft(message.job_id))
            return
        self._end_gently(message.driver_id, job)
        self._leaving_from[job] = daemon
        self._timers.call_later(GOODBYE_S, lambda: self._say_left(job))

    def _say_left(self, job: NodeJob) -> None:
        daemon = self._leaving_from.pop(job, None)
        if daemon is not None:
            job.is_leaving = False
            if not daemon.connection.closed:
                self._clients.send(daemon, JobLeft(job.id))

    def end_worker(self, worker: bytes, reason: str) -> None:
        """End a worker at once; or soon, with its exit hooks, if its driver has said goodbye."""
        process = self._roster.get(worker)
        if process is None or not process.job.is_leaving:
            self._rules.doom(worker, reason)
            return
        process.resume()
        process.job.ending.add(worker)
        self._clients.send_to(worker, Quit(graceful=False))
        self._timers.call_later(HOOKS_S, lambda: self._rules.doom(worker, reason))

    def worker_ends(self, worker: bytes) -> None:
        """A worker was asked to end, as nobody wants it."""
        process = self._roster.get(worker)
        if process is not None and process.job.is_leaving:
            process.job.ending.add(worker)

    def see_off(self) -> None:
        """End the connections of drivers that leave and whose workers have ended."""
        if not self._leaving and not self._leaving_from:
            return
        for client, job in list(self._leaving.items()):
            if not job.ending and not job.elsewhere:
                self._let_go(client)
        for job in [job for job in self._leaving_from if not job.ending]:
            self._say_left(job)

    def _let_go(self, client: Client) -> None:
        self._leaving.pop(client, None)
        if self._clients.get(client.worker_id) is client:
            client.connection.drain()
            self._clients.close(client.worker_id)
            self.ended(client.worker_id)
