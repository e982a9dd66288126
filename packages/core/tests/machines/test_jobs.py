from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from weft._machines import jobs as rules
from weft._machines.jobs import (
    METADATA_BYTES,
    BeginJob,
    EndJob,
    JobChanged,
    JobEnded,
    Jobs,
    LimitJob,
)
from weft._machines.tables import Consequence, MemberRemoved
from weft._resources import JobLimits

JOB, OTHER = b"job", b"other"
DRIVER, NODE = b"driver", b"node"


class Office:
    """A table that is checked after every command."""

    def __init__(self) -> None:
        self.jobs = Jobs()
        self.now = 10.0

    def tell(self, happened: Any) -> Consequence:
        outcome = self.jobs.apply(happened, self.now)
        self.jobs.check()
        return outcome

    def begin(self, job: bytes = JOB, node: bytes = NODE, **facts: Any) -> Consequence:
        return self.tell(BeginJob(job, DRIVER, node, **facts))

    def restart(self) -> None:
        encoded = msgspec.msgpack.encode(self.jobs.image())
        self.jobs = Jobs()
        self.jobs.restore(msgspec.msgpack.decode(encoded, type=Jobs.image_type))
        self.jobs.check()


def test_job_begins_and_ends() -> None:
    office = Office()
    assert office.begin(metadata={"user": "me"}) == Consequence(events=(JobChanged(JOB),))
    found = office.jobs.find(JOB)
    assert found is not None
    assert (found.began_at, found.ended_at, found.begun.metadata) == (10.0, -1.0, {"user": "me"})
    office.now = 12.0
    assert office.tell(EndJob(JOB, "done")).events == (
        JobChanged(JOB),
        JobEnded(JOB, DRIVER, "done"),
    )
    found = office.jobs.find(JOB)
    assert found is not None
    assert (found.ended_at, found.reason) == (12.0, "done")
    assert office.jobs.running() == []
    assert office.jobs.all() == [found]


def test_what_is_done_again_is_done_once() -> None:
    office = Office()
    office.begin()
    assert office.begin() == Consequence()
    office.tell(EndJob(JOB, "done"))
    assert office.tell(EndJob(JOB, "again")) == Consequence()
    assert office.begin().answer.code == "exists"


def test_id_of_another_job_is_taken() -> None:
    office = Office()
    office.begin()
    answer = office.begin(address="another").answer
    assert (answer.code, "give each driver a new id" in answer.reason) == ("exists", True)


def test_job_that_is_not_known_can_neither_end_nor_be_limited() -> None:
    office = Office()
    for command in (EndJob(JOB, "done"), LimitJob(JOB, JobLimits())):
        assert office.tell(command).answer.code == "missing"


def test_limits_are_set_and_changes_are_numbered() -> None:
    office = Office()
    office.begin()
    office.begin(OTHER)
    limits = JobLimits({"CPU": 20_000}, weight=3, priority=-1)
    assert office.tell(LimitJob(JOB, limits)) == Consequence(events=(JobChanged(JOB),))
    assert [facts.begun.job for facts in office.jobs.changed_after(0)] == [OTHER, JOB]
    assert [facts.limits for facts in office.jobs.changed_after(2)] == [limits]
    assert office.jobs.changed_after(office.jobs.changes) == []


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (JobLimits(weight=0), "weight 0"),
        (JobLimits({"CPU": -1}), "at least 0"),
        (JobLimits({str(n): 1 for n in range(101)}), "a quota of 101 resources"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: JobLimits, told: str) -> None:
    office = Office()
    answer = office.begin(limits=limits).answer
    assert (answer.code, told in answer.reason) == ("invalid", True)
    office.begin()
    assert office.tell(LimitJob(JOB, limits)).answer.code == "invalid"
    found = office.jobs.find(JOB)
    assert found is not None
    assert found.limits == JobLimits()


def test_much_metadata_is_refused() -> None:
    answer = Office().begin(metadata={"key": "x" * METADATA_BYTES}).answer
    assert answer.code == "invalid"


def test_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "RUNNING_KEPT", 1)
    monkeypatch.setattr(rules, "ENDED_KEPT", 1)
    office = Office()
    office.begin()
    assert office.begin(OTHER).answer.code == "full"
    office.tell(EndJob(JOB, "done"))
    office.begin(OTHER)
    office.tell(EndJob(OTHER, "done"))
    assert office.jobs.find(JOB) is None
    assert [facts.begun.job for facts in office.jobs.all()] == [OTHER]


def test_jobs_end_with_the_node_of_their_driver() -> None:
    office = Office()
    office.begin()
    office.begin(OTHER, node=b"another")
    why = "the node of its driver is gone: it was silent"
    assert office.tell(MemberRemoved(NODE, 1, "it was silent")).events == (
        JobChanged(JOB),
        JobEnded(JOB, DRIVER, why),
    )
    assert [facts.begun.job for facts in office.jobs.running()] == [OTHER]


def test_restarted_table_has_the_same_jobs_and_goes_on_numbering_changes() -> None:
    office = Office()
    office.begin(metadata={"user": "me"}, limits=JobLimits({"CPU": 20_000}))
    office.begin(OTHER)
    office.tell(EndJob(OTHER, "done"))
    before, changes = office.jobs.all(), office.jobs.changes
    office.restart()
    assert office.jobs.all() == before
    assert office.begin(OTHER).answer.code == "exists"
    office.tell(EndJob(JOB, "done"))
    assert [facts.begun.job for facts in office.jobs.changed_after(changes)] == [JOB]


class JobStories(RuleBasedStateMachine):
    """Jobs that begin and end in any order, of which a follower keeps a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.office = Office()
        self.life: dict[bytes, str] = {}
        self.followed: dict[bytes, float] = {}
        self.seen = 0
        self.told: list[bytes] = []

    def do(self, happened: Any) -> Consequence:
        outcome = self.office.tell(happened)
        self.told += [event.job for event in outcome.events if isinstance(event, JobEnded)]
        return outcome

    @rule(number=st.integers(0, 5), node=st.sampled_from([NODE, b"another"]))
    def begins(self, number: int, node: bytes) -> None:
        job = bytes([number])
        outcome = self.do(BeginJob(job, DRIVER, node))
        if job not in self.life:
            assert not outcome.answer.code
            self.life[job] = "running"

    @rule(number=st.integers(0, 5))
    def ends(self, number: int) -> None:
        job = bytes([number])
        outcome = self.do(EndJob(job, "done"))
        assert bool(outcome.answer.code) is (job not in self.life)
        assert bool(outcome.events) is (self.life.get(job) == "running")
        if job in self.life:
            self.life[job] = "ended"

    @rule(node=st.sampled_from([NODE, b"another"]))
    def node_goes(self, node: bytes) -> None:
        for event in self.do(MemberRemoved(node, 1, "gone")).events:
            self.life[event.job] = "ended"

    @rule(number=st.integers(0, 5), weight=st.integers(1, 9))
    def is_limited(self, number: int, weight: int) -> None:
        self.do(LimitJob(bytes([number]), JobLimits(weight=weight)))

    @rule()
    def follows(self) -> None:
        for facts in self.office.jobs.changed_after(self.seen):
            self.followed[facts.begun.job] = facts.ended_at
        self.seen = self.office.jobs.changes
        assert self.followed == {f.begun.job: f.ended_at for f in self.office.jobs.all()}

    @rule()
    def restarts(self) -> None:
        self.office.restart()

    @invariant()
    def each_ends_once(self) -> None:
        running = {facts.begun.job for facts in self.office.jobs.running()}
        assert running == {job for job, life in self.life.items() if life == "running"}
        assert sorted(self.told) == sorted(j for j, life in self.life.items() if life == "ended")


TestJobStories = JobStories.TestCase
TestJobStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
