"""What the jobs of a node may take, and how that is changed.

BeginsJob                    -> here at once, and with the job to the control service
limit_job (a tool asks)      -> the control service, or this daemon where there is none
the control service's news   -> here; leases are granted by it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from weft._machines.shares import JobLimited
from weft._resources import JobLimits
from weft._wire.codec import pack, unpack
from weft._wire.messages import Answer
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.clients import Client, Clients
    from weft._node.rules import Rules

QUESTION = "limit_job"


class LimitBody(msgspec.Struct):
    """Body of the question `limit_job`. None: as it is."""

    job_id: str
    quota: dict[str, int] | None = None
    weight: int | None = None
    priority: int | None = None


class Limiting:
    """The limits of jobs, as one node knows them."""

    def __init__(self, rules: Rules, clients: Clients, own: bytes, limits: JobLimits) -> None:
        """`own`: the job that the node was started for, which may take `limits`."""
        self._rules = rules
        self._clients = clients
        self._own = own
        self._limits_of: dict[bytes, JobLimits] = {}
        """Of jobs that run and have some."""
        self.change: Callable[[bytes, JobLimits, Callable[[str], None]], None] = self._change_own
        """Has a job limited; then calls back with why not, or nothing."""
        if limits != JobLimits():
            self._change_own(own, limits, lambda _: None)

    def of(self, job: bytes) -> JobLimits:
        """Return what a job may take."""
        return self._limits_of.get(job, JobLimits())

    def heard(self, job: bytes, limits: JobLimits) -> None:
        """A job may take so much; the default also if it is over."""
        if limits == JobLimits():
            self._limits_of.pop(job, None)
        else:
            self._limits_of[job] = limits

    def ask(self, client: Client, request: int, body: bytes) -> None:
        """A tool has a job limited."""

        def then(error: str) -> None:
            self._clients.send_to(client.worker_id, Answer(request, pack(None), error))

        try:
            asked = unpack(body, LimitBody)
            job = bytes.fromhex(asked.job_id)
        except (ProtocolError, ValueError) as error:
            then(str(error))
            return
        before = self.of(job)
        limits = JobLimits(
            before.quota if asked.quota is None else asked.quota,
            before.weight if asked.weight is None else asked.weight,
            before.priority if asked.priority is None else asked.priority,
        )
        self.change(job, limits, then)

    def _change_own(self, job: bytes, limits: JobLimits, then: Callable[[str], None]) -> None:
        """On a machine alone there is one job."""
        if job != self._own:
            then(f"no job {job.hex()} runs here; see `weft list jobs`")
            return
        self.heard(job, limits)
        self._rules.tell_leases(JobLimited(job, limits))
        then("")
