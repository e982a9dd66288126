"""What jobs with limits take on other nodes, as these say: a node's part in quotas over nodes.

    limits (the control service)        -> JobLimited, for the queue of leases
    ViewsChanged (what other nodes say) -> JobLimited, if a job with a quota takes more or less

What is always true
1. What is told of a job is the sum of what the other nodes said last; this node says nothing here.
2. It is told again only when it has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._machines.shares import JobLimited
from weft._machines.stock import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from weft._ids import NodeId
    from weft._machines.placement import NodeView
    from weft._resources import JobLimits, Resources


class Elsewhere:
    """The other nodes, as one node sees them."""

    def __init__(self, here: NodeId) -> None:
        self._here = here
        self._jobs_at: dict[NodeId, Mapping[bytes, Resources]] = {}
        self._limits_of: dict[bytes, JobLimits] = {}
        """Of jobs with a quota."""
        self._taken_by: dict[bytes, Resources] = {}
        """By these jobs, elsewhere."""

    def limit(self, job: bytes, limits: JobLimits) -> JobLimited:
        """A job may take so much; the default: as much as there is, or it is over."""
        if not limits.quota:
            self._limits_of.pop(job, None)
            self._taken_by.pop(job, None)
            return JobLimited(job, limits)
        if job not in self._limits_of:
            self._taken_by[job] = self._sum_of(job)
        self._limits_of[job] = limits
        return self._told(job)

    def see(self, views: Iterable[NodeView], gone: Iterable[NodeId]) -> list[JobLimited]:
        """Other nodes are so, and those are gone; return what has changed by that."""
        before = dict(self._taken_by)
        for view in views:
            if view.node_id != self._here:
                self._set(view.node_id, view.jobs)
        for node_id in gone:
            self._set(node_id, {})
        return [self._told(job) for job, taken in self._taken_by.items() if taken != before[job]]

    def _set(self, node_id: NodeId, used: Mapping[bytes, Resources]) -> None:
        old = self._jobs_at.pop(node_id, {})
        if used:
            self._jobs_at[node_id] = used
        for job in (old.keys() | used.keys()) & self._limits_of.keys():
            self._taken_by[job] += used.get(job, NOTHING) - old.get(job, NOTHING)

    def _told(self, job: bytes) -> JobLimited:
        return JobLimited(job, self._limits_of[job], self._taken_by[job])

    def _sum_of(self, job: bytes) -> Resources:
        return sum((used.get(job, NOTHING) for used in self._jobs_at.values()), NOTHING)

    def check(self) -> None:
        """Assert what is always true."""
        assert self._here not in self._jobs_at, 1
        assert all(limits.quota for limits in self._limits_of.values()), 1
        assert self._taken_by == {job: self._sum_of(job) for job in self._limits_of}, 1
