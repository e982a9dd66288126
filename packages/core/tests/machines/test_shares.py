"""What jobs may take of a node: the account by itself, and the queue of leases that asks it."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft._ids import NodeId
from weft._machines.leases import (
    ActorWanted,
    AskReclaim,
    ClientGone,
    Demanded,
    Effect,
    Event,
    Grant,
    LeaseBound,
    LeaseReturned,
    Leases,
    TaskBlocked,
    TaskUnblocked,
)
from weft._machines.placement import NodeView
from weft._machines.shares import NO_TURN, JobLimited, Shares
from weft._machines.stock import NOTHING
from weft._resources import UNITS, JobLimits, Resources
from weft._specs import Shape

X, Y, Z = b"\x0a", b"\x0b", b"\x0c"


def shape(job: bytes = b"", **amounts: float) -> Shape:
    """Shapes of two jobs are never the same: their environments are not."""
    return Shape(amounts=tuple(sorted(Resources(amounts).items())), env=job.hex())


def quota(**amounts: float) -> dict[str, int]:
    return {name: round(amount * UNITS) for name, amount in amounts.items()}


class Node:
    """Leases that are checked after every event; each is bound as soon as it is granted."""

    def __init__(self, **amounts: float) -> None:
        total = Resources(amounts)
        self.leases = Leases(NodeView(NodeId(b"n" * 16), total, total, is_local=True))
        self.now = 0.0
        self.held: list[Grant] = []
        self.said: list[Effect] = []

    def tell(self, event: Event) -> str:
        """Tell the machine; return to whom leases went, in order."""
        events = [event]
        to = b""
        while events:
            effects = self.leases.handle(events.pop(0), self.now)
            self.leases.check()
            self.said += effects
            granted = [effect for effect in effects if isinstance(effect, Grant)]
            self.held += granted
            to += b"".join(grant.client for grant in granted)
            events += [LeaseBound(grant.lease) for grant in granted]
        return to.decode()

    def limit(self, job: bytes, *, elsewhere: Resources = NOTHING, **limits: Any) -> str:
        return self.tell(JobLimited(job, JobLimits(**limits), elsewhere))

    def demand(
        self, job: bytes, client: str, workers: int = 1, depth: int = 0, **amounts: float
    ) -> str:
        wanted = shape(job, **(amounts or {"CPU": 1}))
        return self.tell(Demanded(client.encode(), 1, wanted, workers, depth, "f", job))

    def returned(self, client: str = "") -> str:
        """The oldest lease, or the oldest of a client, is returned; say to whom others go then."""
        grant = next(g for g in self.held if not client or g.client == client.encode())
        self.held.remove(grant)
        return self.tell(LeaseReturned(grant.lease))

    def why(self, job: bytes, **amounts: float) -> list[str]:
        return self.leases.explain(shape(job, **amounts), self.now).splitlines()


# ------------------------------------------------------------------ the account


def test_job_that_takes_nothing_and_has_no_limits_is_not_kept() -> None:
    shares = Shares(Resources({"CPU": 4}))
    shares.count(X, Resources({"CPU": 1}), 1)
    shares.limit(JobLimited(Y, JobLimits(weight=2)))
    shares.limit(JobLimited(Z, JobLimits(), Resources({"CPU": 1})))
    shares.check()
    assert shares.used() == {X: Resources({"CPU": 1})}
    shares.count(X, Resources({"CPU": 1}), -1)
    shares.limit(JobLimited(Y, JobLimits()))
    shares.limit(JobLimited(Z, JobLimits()))
    shares.check()
    assert vars_of(shares) == {}


def vars_of(shares: Shares) -> dict[bytes, object]:
    return {job: shares.turn(job) for job in (X, Y, Z) if shares.turn(job) != NO_TURN}


def test_share_is_that_of_the_resource_of_which_it_takes_most() -> None:
    shares = Shares(Resources({"CPU": 10, "GPU": 2}))
    shares.limit(JobLimited(X, JobLimits(weight=2, priority=3)))
    shares.count(X, Resources({"CPU": 1, "GPU": 1, "no node has it": 1}), 1)
    assert shares.turn(X) == (-3, 0.25)


# ------------------------------------------------------------------ quota


def test_quota_bounds_what_a_job_has_at_one_time() -> None:
    node = Node(CPU=8)
    node.limit(X, quota=quota(CPU=2))
    assert node.demand(X, "x", 5) == "xx"
    assert node.demand(Y, "y", 3) == "yyy"
    assert node.returned("x") == "x"
    assert node.leases.free == Resources({"CPU": 3})


def test_quota_of_one_resource_leaves_the_others() -> None:
    node = Node(CPU=8, disk=1)
    node.limit(X, quota=quota(CPU=0))
    assert node.demand(X, "x") == ""
    assert node.demand(X, "d", disk=1) == "d"


def test_raised_quota_is_used_at_once_and_a_lowered_one_ends_nothing() -> None:
    node = Node(CPU=8)
    node.limit(X, quota=quota(CPU=1))
    node.demand(X, "x", 4)
    assert node.limit(X, quota=quota(CPU=3)) == "xx"
    assert node.limit(X, quota=quota(CPU=1)) == ""
    assert [node.returned(), node.returned(), node.returned()] == ["", "", "x"]
    assert node.limit(X) == ""


def test_what_a_job_takes_on_other_nodes_counts() -> None:
    node = Node(CPU=8)
    node.limit(X, quota=quota(CPU=3), elsewhere=Resources({"CPU": 2}))
    assert node.demand(X, "x", 4) == "x"
    assert node.limit(X, quota=quota(CPU=3), elsewhere=Resources({"CPU": 1})) == "x"


def test_actors_count_and_wait_as_tasks_do() -> None:
    node = Node(CPU=8)
    node.limit(X, quota=quota(CPU=1))
    assert node.tell(ActorWanted(b"a", shape(X, CPU=1), "A", X)) == "a"
    assert node.tell(ActorWanted(b"b", shape(X, CPU=1), "A", X)) == ""
    assert node.returned() == "b"


def test_task_that_waits_for_others_lends_its_part_of_the_quota() -> None:
    node = Node(CPU=8)
    node.limit(X, quota=quota(CPU=1))
    node.demand(X, "x", 2)
    assert node.tell(TaskBlocked(1)) == "x"
    assert node.tell(TaskUnblocked(1)) == ""
    assert node.returned() == ""


def test_job_over_its_quota_is_asked_for_idle_leases_and_no_other_job() -> None:
    node = Node(CPU=8)
    node.limit(X, quota=quota(CPU=2))
    node.demand(Y, "y", 1)
    node.demand(X, "x", 2)
    node.said.clear()
    node.demand(X, "w", CPU=2)
    assert node.said == [AskReclaim(b"x")]


def test_grant_is_contended_when_its_own_job_has_no_quota_left() -> None:
    node = Node(CPU=8)
    node.limit(X, quota=quota(CPU=2))
    node.demand(X, "w", CPU=3)
    node.demand(Y, "y", 1)
    node.demand(X, "x", 1)
    assert [(grant.client, grant.contended) for grant in node.held] == [(b"y", False), (b"x", True)]


def test_nothing_is_kept_for_a_late_demand_over_its_quota() -> None:
    node = Node(CPU=4)
    node.demand(X, "x", 2)
    node.limit(X, quota=quota(CPU=2))
    node.demand(X, "w", CPU=2)
    node.now = 2.0
    assert node.demand(Y, "y", 4) == "yy"
    assert node.leases.available(node.now) == NOTHING
    assert not node.leases.holds_back()
    node.returned("y")
    assert node.leases.wake_at() is None


def test_what_was_kept_before_a_quota_came_is_free_for_others() -> None:
    node = Node(CPU=2)
    node.demand(Y, "y", 2)
    node.demand(X, "w", CPU=2)
    node.now = 2.0
    node.demand(Y, "z", 1)
    assert node.returned("y") == ""
    assert node.leases.available(node.now) == NOTHING
    assert node.limit(X, quota=quota(CPU=1)) == "z"
    assert node.leases.available(node.now) == NOTHING
    assert node.returned("z") == ""
    assert node.leases.available(node.now) == Resources({"CPU": 1})


def test_why_says_which_quota_is_used_up() -> None:
    node = Node(CPU=8, memory=8)
    node.limit(X, quota=quota(CPU=2), elsewhere=Resources({"CPU": 0.5}))
    node.demand(X, "x", 3)
    assert node.why(X, CPU=1)[0] == (
        "job 0a has used up its quota: 1.5 of 2 CPU (0.5 of it on other nodes)"
    )
    assert node.why(X, CPU=1)[1].startswith("2 wait for this")
    node.limit(X, quota=quota(CPU=1, memory=1))
    assert node.why(X, CPU=1)[0] == "job 0a has used up its quota: 1 of 1 CPU"
    node.demand(X, "w", CPU=2, memory=1)
    assert node.why(X, CPU=2, memory=1)[0] == (
        "job 0a has used up its quota: 1 CPU at most, and this needs 2"
    )
    assert node.leases.shares.explain(X, Resources({"memory": 1})) == ""


# ------------------------------------------------------------------ weight


def test_jobs_that_want_different_things_get_equal_shares_of_what_they_want_most() -> None:
    """The example of the paper: a third of the CPUs and two thirds of the memory, or so."""
    node = Node(CPU=9, memory=18)
    node.demand(Z, "z", 1, CPU=9, memory=18)
    node.demand(X, "x", 10, CPU=1, memory=4)
    node.demand(Y, "y", 10, CPU=3, memory=1)
    granted = node.returned()
    assert (granted.count("x"), granted.count("y")) == (3, 2)


@pytest.mark.parametrize(("weight", "share"), [(1, 4), (3, 6), (7, 7)])
def test_weight_is_the_share_beside_others(weight: int, share: int) -> None:
    node = Node(CPU=8)
    node.demand(Z, "z", 1, CPU=8)
    node.limit(X, weight=weight)
    node.demand(Y, "y", 100)
    node.demand(X, "x", 100)
    assert node.returned().count("x") == share


def test_job_with_a_million_tasks_takes_its_share_and_no_more_as_leases_go_round() -> None:
    node = Node(CPU=4)
    assert node.demand(X, "x", 1_000_000) == "xxxx"
    node.demand(Y, "y", 1_000)
    given = "".join(node.returned() for _ in range(40))
    assert len(given) == 40
    assert sorted(given[-4:]) == ["x", "x", "y", "y"]
    assert given.startswith("yy")


def test_job_alone_has_everything() -> None:
    node = Node(CPU=4)
    node.limit(X, weight=1, priority=-5)
    assert node.demand(X, "x", 4) == "xxxx"


def test_within_a_job_the_deepest_goes_first_and_a_job_with_less_before_it() -> None:
    node = Node(CPU=2)
    node.demand(X, "x", 2)
    node.demand(X, "d", 1, depth=3)
    node.demand(X, "s", 1)
    node.demand(Y, "y", 1)
    assert node.returned("x") == "y"
    assert node.returned("x") == "d"


def test_late_demand_of_a_job_with_less_is_kept_for() -> None:
    node = Node(CPU=4)
    node.demand(X, "x", 4)
    node.demand(Y, "y", CPU=4)
    node.demand(X, "x", 100)
    node.now = 2.0
    node.demand(X, "v", 100)
    assert [node.returned() for _ in range(4)] == ["", "", "", "y"]


def test_why_counts_the_demands_of_jobs_whose_turn_is_before() -> None:
    node = Node(CPU=2)
    node.demand(X, "x", 3)
    node.demand(Y, "y", 1)
    assert node.why(X, CPU=1)[1].endswith("1 demands are before it")
    assert node.why(Y, CPU=1)[1].endswith("0 demands are before it")


# ------------------------------------------------------------------ priority


def test_higher_priority_goes_first_whatever_its_share() -> None:
    node = Node(CPU=4)
    node.limit(X, priority=1)
    node.demand(Y, "y", 10)
    node.demand(X, "x", 10)
    assert "".join(node.returned("y") for _ in range(4)) == "xxxx"
    assert node.returned("x") == "x"


def test_lower_priority_gets_what_the_higher_has_no_use_for() -> None:
    node = Node(CPU=4)
    node.limit(X, priority=1)
    node.demand(X, "x", CPU=3)
    assert node.demand(Y, "y", 4) == "y"


# ------------------------------------------------------------------ a story


class Plain:
    """What the queue grants, worked out from the beginning each time: one CPU a task."""

    def __init__(self, cpus: int) -> None:
        self.free = cpus
        self.limits: dict[bytes, JobLimits] = {}
        self.used = {X: 0, Y: 0, Z: 0}
        self.waiting: list[list[Any]] = []
        """[client, job, workers] in order of arrival."""

    def demand(self, client: bytes, job: bytes, workers: int) -> None:
        known = next((each for each in self.waiting if each[0] == client), None)
        if known is not None and workers:
            known[2] = workers
        elif known is not None:
            self.waiting.remove(known)
        elif workers:
            self.waiting.append([client, job, workers])

    def grants(self) -> list[bytes]:
        granted = []
        while self.free:
            able = [each for each in self.waiting if self.may(each[1])]
            if not able:
                break
            best = min(able, key=lambda each: (self.place(each[1]), self.waiting.index(each)))
            self.waiting.remove(best)
            if best[2] > 1:
                self.waiting.append([best[0], best[1], best[2] - 1])
            self.used[best[1]] += 1
            self.free -= 1
            granted.append(best[0])
        return granted

    def may(self, job: bytes) -> bool:
        most = self.limits.get(job, JobLimits()).quota.get("CPU")
        return most is None or (self.used[job] + 1) * UNITS <= most

    def place(self, job: bytes) -> tuple[int, float]:
        limits = self.limits.get(job, JobLimits())
        return -limits.priority, self.used[job] / 6 / limits.weight


CLIENTS = {b"p": X, b"q": X, b"r": Y, b"s": Z}


class ShareStories(RuleBasedStateMachine):
    """Three jobs on six CPUs, against the plain account."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(CPU=6)
        self.plain = Plain(6)

    def compare(self, granted: str) -> None:
        assert granted.encode() == b"".join(self.plain.grants())

    @rule(client=st.sampled_from(sorted(CLIENTS)), workers=st.integers(0, 9))
    def demands(self, client: bytes, workers: int) -> None:
        self.plain.demand(client, CLIENTS[client], workers)
        self.compare(self.node.demand(CLIENTS[client], client.decode(), workers))

    @precondition(lambda self: self.node.held)
    @rule(data=st.data())
    def returns(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(sorted({grant.client for grant in self.node.held})))
        self.plain.used[CLIENTS[client]] -= 1
        self.plain.free += 1
        self.compare(self.node.returned(client.decode()))

    @rule(
        job=st.sampled_from([X, Y, Z]),
        most=st.sampled_from([None, 0, 1, 3]),
        weight=st.integers(1, 3),
        priority=st.integers(-1, 1),
    )
    def is_limited(self, job: bytes, most: int | None, weight: int, priority: int) -> None:
        of = {} if most is None else quota(CPU=most)
        self.plain.limits[job] = JobLimits(of, weight, priority)
        self.compare(self.node.limit(job, quota=of, weight=weight, priority=priority))

    @rule(client=st.sampled_from(sorted(CLIENTS)))
    def goes(self, client: bytes) -> None:
        self.plain.demand(client, CLIENTS[client], 0)
        self.compare(self.node.tell(ClientGone(client)))

    @invariant()
    def accounts_agree(self) -> None:
        used = {job: Resources({"CPU": units}) for job, units in self.plain.used.items() if units}
        assert self.node.leases.shares.used() == used


TestShareStories = ShareStories.TestCase
TestShareStories.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, database=None
)
