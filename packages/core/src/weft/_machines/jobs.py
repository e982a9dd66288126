"""The jobs of a cluster: one driver's life each, and what they may take.

    JobBegan -> running -> ended: EndJob (the driver said goodbye, or its daemon lost it), or the
                                  node of the driver left

What is always true
1. A job that has ended stays ended, and tells JobEnded once.
2. At most `RUNNING_KEPT` jobs run; of those that ended the newest `ENDED_KEPT` are remembered.
3. A quota has no amounts below 0, a weight is at least 1.
4. Whoever follows the jobs learns of each change: `changes` grows with every one.

What it does not do: quota, weight and priority are applied by the daemons that grant leases.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, assert_never

import msgspec

from weft._machines.rulings import Ruling
from weft._machines.tables import Commands, Consequence, ControlTable, Kinds, MemberRemoved
from weft._override import override
from weft._resources import JobLimits

RUNNING_KEPT = 10_000
ENDED_KEPT = 10_000
METADATA_BYTES = 65_536
MOST_AMOUNTS = 100


class BeginJob(msgspec.Struct, frozen=True):
    """A driver begins a job. Done twice it is done once."""

    job: bytes
    driver: bytes
    """Its worker id."""
    node: bytes
    """Whose daemon the driver speaks to."""
    address: str = ""
    namespace: str = ""
    entrypoint: str = ""
    metadata: dict[str, str] = {}
    limits: JobLimits = JobLimits()


class EndJob(msgspec.Struct, frozen=True):
    """A job ends, and with it what it started, on all nodes."""

    job: bytes
    reason: str


class LimitJob(msgspec.Struct, frozen=True):
    """Set what a running job may take."""

    job: bytes
    limits: JobLimits


class JobFacts(msgspec.Struct, frozen=True):
    """What is known of a job. Times are the control service's own, in seconds."""

    begun: BeginJob
    limits: JobLimits
    began_at: float
    ended_at: float = -1.0
    """Below 0: it runs."""
    reason: str = ""
    change: int = 0
    """The number of its newest change."""


class JobChanged(msgspec.Struct, frozen=True):
    """A job began, ended or has other limits. Who follows the jobs looks again."""

    job: bytes


class JobEnded(msgspec.Struct, frozen=True):
    """A job has ended: so does what it started."""

    job: bytes
    driver: bytes
    reason: str


class JobsImage(msgspec.Struct, frozen=True):
    """All jobs, in a snapshot: those that ended in the order in which they did."""

    running: list[JobFacts]
    ended: list[JobFacts]
    changes: int


class Jobs(ControlTable):
    """The table of jobs."""

    name: ClassVar = "jobs"
    commands: ClassVar[Commands] = {"begin": BeginJob, "end": EndJob, "limit": LimitJob}
    hears: ClassVar[Kinds] = (MemberRemoved,)
    image_type: ClassVar = JobsImage

    def __init__(self) -> None:
        self._running: dict[bytes, JobFacts] = {}
        self._ended: OrderedDict[bytes, JobFacts] = OrderedDict()
        self.changes = 0
        """How often a job began, ended or got other limits."""

    @override
    def apply(
        self, happened: BeginJob | EndJob | LimitJob | MemberRemoved, now: float
    ) -> Consequence:
        """Do a command, or end the jobs of a node that left."""
        match happened:
            case BeginJob():
                return self._begin(happened, now)
            case EndJob(job, reason):
                return self._end(job, reason, now)
            case LimitJob(job, limits):
                return self._limit(job, limits)
            case MemberRemoved(node, _, reason):
                return self._node_left(node, reason, now)
            case _:
                assert_never(happened)

    def _begin(self, command: BeginJob, now: float) -> Consequence:
        known = self.find(command.job)
        if known is not None:
            if known.begun == command and known.ended_at < 0:
                return Consequence()
            reason = f"job {command.job.hex()} is there already; give each driver a new id"
            return Consequence(Ruling(code="exists", reason=reason))
        if refused := self._refusal(command):
            return Consequence(refused)
        self._running[command.job] = JobFacts(
            command, command.limits, now, change=self._next_change()
        )
        return Consequence(events=(JobChanged(command.job),))

    def _refusal(self, command: BeginJob) -> Ruling | None:
        size_bytes = sum(len(key) + len(value) for key, value in command.metadata.items())
        if size_bytes > METADATA_BYTES:
            reason = f"its metadata has {size_bytes} characters, at most {METADATA_BYTES} are kept"
            return Ruling(code="invalid", reason=f"job {command.job.hex()}: {reason}")
        if len(self._running) >= RUNNING_KEPT:
            reason = f"{RUNNING_KEPT} jobs run, and no more may; end one"
            return Ruling(code="full", reason=f"job {command.job.hex()}: {reason}")
        return _bad_limits(command.job, command.limits)

    def _end(self, job: bytes, reason: str, now: float) -> Consequence:
        facts = self._running.pop(job, None)
        if facts is None:
            return Consequence() if job in self._ended else Consequence(_missing(job))
        self._ended[job] = msgspec.structs.replace(
            facts, ended_at=now, reason=reason, change=self._next_change()
        )
        if len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)
        return Consequence(events=(JobChanged(job), JobEnded(job, facts.begun.driver, reason)))

    def _limit(self, job: bytes, limits: JobLimits) -> Consequence:
        facts = self._running.get(job)
        if facts is None:
            return Consequence(_missing(job))
        if refused := _bad_limits(job, limits):
            return Consequence(refused)
        self._running[job] = msgspec.structs.replace(
            facts, limits=limits, change=self._next_change()
        )
        return Consequence(events=(JobChanged(job),))

    def _node_left(self, node: bytes, reason: str, now: float) -> Consequence:
        lost = [job for job, facts in self._running.items() if facts.begun.node == node]
        why = f"the node of its driver is gone: {reason}"
        events = [event for job in lost for event in self._end(job, why, now).events]
        return Consequence(events=tuple(events))

    def _next_change(self) -> int:
        self.changes += 1
        return self.changes

    # -------------------------------------------------------------- questions

    def find(self, job: bytes) -> JobFacts | None:
        """Return what is known of a job."""
        return self._running.get(job) or self._ended.get(job)

    def running(self) -> list[JobFacts]:
        """Return the jobs that run, the oldest first."""
        return list(self._running.values())

    def changed_after(self, change: int) -> list[JobFacts]:
        """Return the jobs that changed after a change, in the order in which they did."""
        return sorted(
            (facts for facts in self.all() if facts.change > change), key=lambda facts: facts.change
        )

    def all(self) -> list[JobFacts]:
        """Return all jobs: those that run, then those that ended, the oldest first."""
        return [*self._running.values(), *self._ended.values()]

    # -------------------------------------------------------------- as a table

    @override
    def image(self) -> JobsImage:
        """Return all jobs."""
        return JobsImage(list(self._running.values()), list(self._ended.values()), self.changes)

    @override
    def restore(self, image: JobsImage) -> None:
        """Take the jobs of an image."""
        self._running = {facts.begun.job: facts for facts in image.running}
        self._ended = OrderedDict((facts.begun.job, facts) for facts in image.ended)
        self.changes = image.changes

    @override
    def check(self) -> None:
        """Assert what is always true."""
        assert not self._running.keys() & self._ended.keys(), 1
        assert all(facts.ended_at < 0 for facts in self._running.values()), 1
        assert all(facts.ended_at >= 0 for facts in self._ended.values()), 1
        assert len(self._running) <= RUNNING_KEPT and len(self._ended) <= ENDED_KEPT, 2
        for facts in self._running.values():
            assert facts.limits.weight >= 1, 3
            assert all(amount >= 0 for amount in facts.limits.quota.values()), 3
        numbers = [facts.change for facts in self.all()]
        assert len(set(numbers)) == len(numbers), 4
        assert max(numbers, default=0) <= self.changes, 4


def _missing(job: bytes) -> Ruling:
    return Ruling(code="missing", reason=f"no job {job.hex()} runs here; see `weft list jobs`")


def _bad_limits(job: bytes, limits: JobLimits) -> Ruling | None:
    wrong = ""
    if limits.weight < 1:
        wrong = f"weight {limits.weight}: it is at least 1"
    elif len(limits.quota) > MOST_AMOUNTS:
        wrong = f"a quota of {len(limits.quota)} resources: at most {MOST_AMOUNTS}"
    elif negative := {name: n for name, n in limits.quota.items() if n < 0}:
        wrong = f"quota {negative}: amounts are at least 0"
    return Ruling(code="invalid", reason=f"job {job.hex()}: {wrong}") if wrong else None
