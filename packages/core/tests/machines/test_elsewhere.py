"""What jobs with a quota take on other nodes."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from weft._ids import NodeId
from weft._machines.elsewhere import Elsewhere
from weft._machines.placement import NodeView
from weft._machines.shares import JobLimited
from weft._machines.stock import NOTHING
from weft._resources import JobLimits, Resources

HERE, NEAR, FAR = (NodeId(letter * 16) for letter in (b"h", b"n", b"f"))
X, Y = b"x", b"y"
QUOTA = JobLimits({"CPU": 20_000})


def cpus(count: float) -> Resources:
    return Resources({"CPU": count})


def view(node_id: NodeId, **used: float) -> NodeView:
    jobs = {job.encode(): cpus(count) for job, count in used.items() if count}
    return NodeView(node_id, cpus(8), cpus(8), jobs=jobs)


def test_quota_counts_what_other_nodes_have_said_and_say() -> None:
    elsewhere = Elsewhere(HERE)
    assert elsewhere.see([view(NEAR, x=1), view(HERE, x=5), view(FAR, y=1)], []) == []
    assert elsewhere.limit(X, QUOTA) == JobLimited(X, QUOTA, cpus(1))
    assert elsewhere.see([view(FAR, x=2, y=1)], []) == [JobLimited(X, QUOTA, cpus(3))]
    assert elsewhere.see([view(FAR, x=2, y=3)], []) == []
    assert elsewhere.see([view(NEAR, x=0)], [FAR]) == [JobLimited(X, QUOTA, NOTHING)]
    elsewhere.check()


def test_quota_that_changes_keeps_what_is_known() -> None:
    elsewhere = Elsewhere(HERE)
    elsewhere.limit(X, QUOTA)
    elsewhere.see([view(NEAR, x=1)], [])
    other = JobLimits({"CPU": 1}, weight=2)
    assert elsewhere.limit(X, other) == JobLimited(X, other, cpus(1))


def test_job_without_a_quota_is_told_once() -> None:
    elsewhere = Elsewhere(HERE)
    heavy = JobLimits(weight=3)
    elsewhere.limit(X, QUOTA)
    assert elsewhere.limit(X, heavy) == JobLimited(X, heavy)
    assert elsewhere.limit(Y, JobLimits()) == JobLimited(Y, JobLimits())
    assert elsewhere.see([view(NEAR, x=1, y=1)], [FAR]) == []
    elsewhere.check()


class ElsewhereStories(RuleBasedStateMachine):
    """What was told last of a job with a quota is what a plain sum says."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Elsewhere(HERE)
        self.said: dict[NodeId, dict[bytes, Resources]] = {}
        self.told: dict[bytes, Resources] = {}

    def take(self, event: JobLimited) -> None:
        if event.limits.quota:
            self.told[event.job] = event.elsewhere
        else:
            self.told.pop(event.job, None)

    @rule(node=st.sampled_from([HERE, NEAR, FAR]), x=st.integers(0, 2), y=st.integers(0, 2))
    def is_seen(self, node: NodeId, x: int, y: int) -> None:
        seen = view(node, x=x, y=y)
        if node != HERE:
            self.said[node] = dict(seen.jobs)
        for event in self.machine.see([seen], []):
            assert self.told[event.job] != event.elsewhere
            self.take(event)

    @rule(node=st.sampled_from([NEAR, FAR]))
    def goes(self, node: NodeId) -> None:
        self.said.pop(node, None)
        for event in self.machine.see([], [node]):
            self.take(event)

    @rule(job=st.sampled_from([X, Y]), limits=st.sampled_from([QUOTA, JobLimits()]))
    def is_limited(self, job: bytes, limits: JobLimits) -> None:
        self.take(self.machine.limit(job, limits))

    @invariant()
    def agrees(self) -> None:
        self.machine.check()
        for job, told in self.told.items():
            assert told == sum((used.get(job, NOTHING) for used in self.said.values()), NOTHING)


TestElsewhereStories = ElsewhereStories.TestCase
TestElsewhereStories.settings = settings(max_examples=40, deadline=None, database=None)
