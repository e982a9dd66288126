"""The service Jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._control.calls.desk import an_id, an_id_or_none
from weft._machines.jobs import BeginJob, EndJob, JobFacts, Jobs, LimitJob
from weft._resources import JobLimits
from weft._transport.control import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weft._control.calls.desk import Desk

ANY_JOB = "any job"


class JobCalls:
    """Answers what is asked of jobs."""

    def __init__(self, desk: Desk, jobs: Jobs) -> None:
        self._desk = desk
        self._jobs = jobs

    async def begin(self, request: messages.BeginJobRequest, _: Any) -> messages.Done:
        """Begin a job."""
        command = BeginJob(
            an_id(request.job_id, "job"),
            an_id(request.driver_id, "driver"),
            an_id_or_none(request.node_id, "node"),
            request.address,
            request.namespace,
            request.entrypoint,
            dict(request.metadata),
            _limits(request.limits),
        )
        await self._desk.do(command, request.header)
        return messages.Done()

    async def end(self, request: messages.EndJobRequest, _: Any) -> messages.Done:
        """End a job."""
        await self._desk.do(EndJob(an_id(request.job_id, "job"), request.reason), request.header)
        return messages.Done()

    async def limit(self, request: messages.LimitJobRequest, _: Any) -> messages.Done:
        """Set what a job may take."""
        command = LimitJob(an_id(request.job_id, "job"), _limits(request.limits))
        await self._desk.do(command, request.header)
        return messages.Done()

    async def list(self, _: messages.ListJobsRequest, __: Any) -> messages.ListJobsAnswer:
        """Return all jobs that are remembered."""
        self._desk.read()
        return messages.ListJobsAnswer(jobs=[_job(facts) for facts in self._jobs.all()])

    async def watch(
        self, request: messages.WatchJobsRequest, _: Any
    ) -> AsyncIterator[messages.Job]:
        """Yield the jobs that run, or have changed since, then each that changes."""
        with self._desk.bells.listen() as listener:
            listener.follow([ANY_JOB])
            self._desk.read()
            seen, after = self._jobs.changes, request.after
            knows = 0 < after <= seen
            for facts in self._jobs.changed_after(after) if knows else self._jobs.running():
                yield _job(facts)
            while True:
                await listener.wait_rung()
                self._desk.read()
                since, seen = seen, self._jobs.changes
                for facts in self._jobs.changed_after(since):
                    yield _job(facts)


def _limits(limits: messages.Limits) -> JobLimits:
    return JobLimits(dict(limits.quota), limits.weight or 1, limits.priority)


def _job(facts: JobFacts) -> messages.Job:
    begun = facts.begun
    return messages.Job(
        job_id=begun.job,
        driver_id=begun.driver,
        node_id=begun.node,
        address=begun.address,
        namespace=begun.namespace,
        entrypoint=begun.entrypoint,
        metadata=begun.metadata,
        limits=messages.Limits(
            quota=facts.limits.quota, weight=facts.limits.weight, priority=facts.limits.priority
        ),
        began_at=facts.began_at,
        ended_at=facts.ended_at if facts.ended_at >= 0 else None,
        reason=facts.reason,
        change=facts.change,
    )
