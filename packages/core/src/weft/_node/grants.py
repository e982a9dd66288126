"""The leases that this node has granted: to whom, and which worker serves each.

    Grant -> WorkerWanted -> UseWorker -> LeaseBound, and Granted to the client
    ReturnLease (the client), LoseLease (the worker is gone) -> LeaseReturned

What is always true
1. A grant is kept from Grant to LeaseReturned or CancelGrant; its worker from LeaseBound on.
2. The client hears of a worker when the machines agree that it has it, and not before; and the
   driver of the worker's job has heard that there is one on this node. A job whose driver is slow
   to hear takes nothing meanwhile (JobWithheld): the worker idles, and others' are lent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._machines.leases import (
    ACTOR_KEY,
    Grant,
    JobWithheld,
    LeaseBound,
    LeaseReturned,
    TaskBlocked,
    TaskUnblocked,
)
from weft._machines.workers import WantCancelled, WorkerReleased, WorkerWanted
from weft._wire.messages import Granted

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.clients import Clients
    from weft._node.facts import NodeFacts
    from weft._node.jobs import NodeJob
    from weft._node.processes import Process
    from weft._node.roster import Roster
    from weft._node.rules import Rules
    from weft._node.scheduling import Scheduling


class Grants:
    """Joins the machine of leases with that of workers."""

    def __init__(
        self,
        facts: NodeFacts,
        rules: Rules,
        clients: Clients,
        roster: Roster,
        scheduling: Scheduling,
        placed: Callable[[bytes, bytes, str], None],
    ) -> None:
        """`placed(actor, worker, address)`: an actor has its worker."""
        self._facts = facts
        self._rules = rules
        self._clients = clients
        self._roster = roster
        self._scheduling = scheduling
        self._placed = placed
        self._grant_of: dict[int, Grant] = {}
        self._worker_of: dict[int, bytes] = {}
        self._withheld: dict[bytes, NodeJob] = {}
        """Jobs whose drivers have not heard yet, though workers are there."""

    # -------------------------------------------------------------- questions

    def served_by(self, worker: bytes) -> Grant | None:
        """Return the grant that a worker serves or is about to serve."""
        lease = self._rules.pool.lease_of(worker)
        return None if lease is None else self._grant_of.get(lease)

    def served_to(self, client: bytes, worker: bytes) -> Grant | None:
        """The same, if the client is the one who has it."""
        grant = self.served_by(worker)
        return grant if grant is not None and grant.client == client else None

    def actor_on(self, worker: bytes) -> bytes | None:
        """Return the actor that a worker is or is about to be."""
        grant = self.served_by(worker)
        return grant.client if grant is not None and grant.key == ACTOR_KEY else None

    def worker_of(self, lease: int) -> bytes:
        """Return the worker that serves a lease; empty if none does."""
        return self._worker_of.get(lease, b"")

    def leases(self) -> tuple[int, int]:
        """Return how many leases have a worker, and how many wait for one to start."""
        return len(self._worker_of), len(self._grant_of) - len(self._worker_of)

    def variables(self, grant: Grant) -> dict[str, str]:
        """Return what a worker has to set to see the devices of a lease."""
        return self._facts.accelerators.shown(grant.accelerators)

    # -------------------------------------------------------------- effects

    def add(self, grant: Grant) -> None:
        """Find a worker for a lease."""
        self._grant_of[grant.lease] = grant
        self._scheduling.granted(grant)
        self._rules.tell_pool(WorkerWanted(grant.lease, grant.shape.env))

    def cancel(self, lease: int) -> None:
        """A lease is gone before it had a worker."""
        self._forget(lease)
        self._rules.tell_pool(WantCancelled(lease))

    def bind(self, lease: int, worker: bytes) -> None:
        """A lease has its worker: tell the client, when the driver of its job knows that too."""
        process = self._roster.get(worker)
        if process is None:
            return
        process.job.works_here()
        if process.job.is_unheard_of():
            self._withhold(process.job)
        else:
            self._lend(lease, worker, process)

    def _withhold(self, job: NodeJob) -> None:
        """Lend a job nothing until its driver has heard that it has workers here."""
        if job.id not in self._withheld:
            self._withheld[job.id] = job
            where = job.when_heard_of(lambda: self._lend_again(job))
            why = (
                f"the node of its driver, {where}, has not answered yet: "
                "it is to know first that the job has workers here"
            )
            self._rules.tell_leases(JobWithheld(job.id, why))

    def _lend_again(self, job: NodeJob) -> None:
        del self._withheld[job.id]
        self._rules.tell_leases(JobWithheld(job.id, ""))

    def _lend(self, lease: int, worker: bytes, process: Process) -> None:
        grant = self._grant_of.get(lease)
        if grant is None or self._rules.pool.lease_of(worker) != lease:
            return
        if not self._rules.leases.is_unbound(lease):
            return  # It was cancelled meanwhile; CancelGrant follows and frees the worker.
        self._worker_of[lease] = worker
        self._rules.tell_leases(LeaseBound(lease))
        self._scheduling.bound(grant)
        if grant.key == ACTOR_KEY:
            self._placed(grant.client, worker, process.address)
            return
        granted = Granted(
            key=grant.key,
            worker_id=worker,
            address=process.address,
            contended=grant.contended,
            node_id=self._facts.node_id,
            accelerators=grant.accelerators,
            variables=self.variables(grant),
        )
        self._clients.send_to(grant.client, granted)

    def lose(self, lease: int) -> None:
        """The worker of a lease is gone."""
        grant = self._grant_of.get(lease)
        if grant is None:
            return
        if lease in self._worker_of:
            self._forget(lease)
            self._rules.tell_leases(LeaseReturned(lease))
        else:
            # It died between being chosen and being told: nobody else knows of it.
            self._rules.tell_pool(WorkerWanted(lease, grant.shape.env, first=True))

    def _forget(self, lease: int) -> None:
        self._grant_of.pop(lease, None)
        self._worker_of.pop(lease, None)

    # -------------------------------------------------------------- messages

    def take_back(self, client: bytes, worker: bytes, *, retire: bool) -> None:
        """A client needs a worker no longer. `retire`: the worker is not to be used again."""
        grant = self.served_to(client, worker)
        if grant is None:
            return  # The worker has died meanwhile.
        if retire or grant.accelerators:
            self._rules.tell_pool(WorkerReleased(worker, retire=True))
            return
        self._forget(grant.lease)
        self._rules.tell_pool(WorkerReleased(worker))
        self._rules.tell_leases(LeaseReturned(grant.lease))

    def note_blocked(self, worker: bytes, event: type[TaskBlocked | TaskUnblocked]) -> None:
        """The task on a worker waits in `get`, or goes on."""
        lease = self._rules.pool.lease_of(worker)
        if lease in self._worker_of:
            self._rules.tell_leases(event(lease))
