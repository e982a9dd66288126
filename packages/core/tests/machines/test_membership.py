from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft._ids import NodeId
from weft._machines import members as members_module
from weft._machines.bundles import NodesSeen
from weft._machines.ledger import Applied, Ledger, LedgerEntry
from weft._machines.members import (
    HEARTBEAT_S,
    RELINK_S,
    SILENCE_S,
    AskDrain,
    Buried,
    DrainAsked,
    DrainStarted,
    Fence,
    HeartbeatHeard,
    LinkClosed,
    NodeLeft,
    RegisterAsked,
    TellDrain,
)
from weft._machines.membership import Membership, MemberStanding, NodeSaid
from weft._machines.orders import Orders
from weft._machines.placement import NodeView
from weft._machines.tables import MemberAdded, MemberRemoved, Noted, ServiceBegun
from weft._machines.views import (
    INTERVAL_S,
    ApplyChange,
    DeltaHeard,
    Follower,
    FollowerGone,
    Publish,
    SendWhole,
    WholeAsked,
)
from weft._override import override
from weft._resources import Resources

if TYPE_CHECKING:
    import pytest

A, B, C = (NodeId(bytes([97 + i] * 16)) for i in range(3))
ME = b"a follower"


def view(node_id: NodeId, cpus: float = 2) -> NodeView:
    return NodeView(node_id, Resources({"CPU": 2}), Resources({"CPU": cpus}))


class Control:
    """A control service's tables, its journal, and one that follows what it publishes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.number = 0
        self.lines: list[bytes] = []
        self.image = b""
        self.told: list[Any] = []
        self.follower: Follower[NodeId, MemberStanding] = Follower()
        self.begin()

    def begin(self) -> None:
        """Begin another life, of the journal."""
        self.number += 1
        self.membership, self.orders = Membership(), Orders()
        self.ledger = Ledger([self.orders, self.membership])
        if self.image:
            self.ledger.restore(self.image)
        for line in self.lines:
            self.ledger.apply(self.ledger.decode(line))
        self.ledger.check()
        self.note(ServiceBegun(self.number))
        self.note(WholeAsked(ME))

    def snapshot(self) -> None:
        self.image, self.lines = self.ledger.image(), []

    def do(self, command: Any) -> Applied:
        line = self.ledger.encode(LedgerEntry(self.now, command))
        self.lines.append(line)
        applied = self.ledger.apply(self.ledger.decode(line))
        self.tell(applied.events)
        return applied

    def note(self, happened: Any) -> Noted:
        return self.noted(self.ledger.note(happened, self.now))

    def noted(self, noted: Noted) -> Noted:
        self.tell(noted.events)
        for command in noted.commands:
            self.do(command)
        return noted

    def tell(self, events: tuple[Any, ...]) -> None:
        self.ledger.check()
        self.told += events
        for event in events:
            match event:
                case Publish(delta) | SendWhole(_, delta):
                    effects = self.follower.handle(DeltaHeard(delta), self.now)
                    assert all(isinstance(effect, ApplyChange) for effect in effects)

    def of(self, kind: type) -> list[Any]:
        """Return what was told of a kind since the last time."""
        found = [each for each in self.told if isinstance(each, kind)]
        self.told = [each for each in self.told if not isinstance(each, kind)]
        return found

    def register(self, node_id: NodeId, request: bytes = b"1") -> int:
        applied = self.do(RegisterAsked(node_id, request, f"{node_id.hex()}:1/node", "there"))
        assert not applied.answer.code
        return int(applied.answer.value)

    def pass_time(self, seconds: float, **living: tuple[NodeId, int]) -> None:
        """Let time pass in which these nodes are heard."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now = min(self.now + 0.25, until)
            for node_id, incarnation in living.values():
                self.note(HeartbeatHeard(node_id, incarnation))
            at = self.ledger.wake_at()
            if at is not None and at <= self.now:
                self.noted(self.ledger.due(self.now))

    def seen(self) -> dict[NodeId, tuple[int, str]]:
        """Return what the follower knows."""
        table = self.follower.table()
        return {node_id: (s.facts.incarnation, s.facts.life) for node_id, s in table.items()}


def test_node_that_registers_is_seen_by_all_before_it_has_said_what_it_has() -> None:
    control = Control()
    assert control.register(A) == 1
    assert control.of(MemberAdded) == [MemberAdded(A, 1)]
    assert control.seen() == {A: (1, "alive")}
    assert control.follower.table()[A].view is None
    control.note(NodeSaid(1, view(A)))
    control.pass_time(INTERVAL_S)
    assert control.follower.table()[A].view == view(A)
    assert control.of(NodesSeen) == [NodesSeen(((1, view(A)),))]
    assert control.membership.is_member(A, 1)
    assert control.membership.refusal(A, 1) == ""


def test_repeated_registration_gets_the_same_answer() -> None:
    control = Control()
    assert control.register(A) == control.register(A) == 1
    assert control.of(MemberAdded) == [MemberAdded(A, 1)]


def test_cluster_that_is_full_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_module, "MOST_NODES", 1)
    control = Control()
    control.register(A)
    answer = control.do(RegisterAsked(B, b"1", "there")).answer
    assert (answer.code, "most it can have" in answer.reason) == ("full", True)


def test_members_beat_less_often_the_more_of_them_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_module, "HEARTBEATS_PER_S", 3)
    control = Control()
    control.register(A)
    assert control.membership.heartbeat_s() == HEARTBEAT_S
    control.register(B)
    assert control.membership.heartbeat_s() == 0.7


def test_silent_node_is_removed_and_seen_as_dead_with_the_cause() -> None:
    control = Control()
    control.register(A)
    control.note(NodeSaid(1, view(A)))
    control.pass_time(SILENCE_S + 1)
    (removed,) = control.of(MemberRemoved)
    assert (removed.node, removed.incarnation, "it was silent for 5." in removed.reason) == (
        A, 1, True,
    )  # fmt: skip
    standing = control.follower.table()[A]
    assert (standing.is_dead, standing.facts.cause) == (True, removed.reason)
    assert standing.view is None
    assert control.membership.all() == [standing]
    assert control.of(Fence) == []
    control.note(HeartbeatHeard(A, 1))
    (fence,) = control.of(Fence)
    assert "declared dead: it was silent" in fence.reason
    assert control.membership.refusal(A, 1) == fence.reason
    assert control.note(NodeSaid(1, view(A))) == Noted()


def test_node_whose_link_was_closed_is_dead_sooner() -> None:
    control = Control()
    control.register(A)
    control.note(LinkClosed(A, 1))
    control.pass_time(RELINK_S + 1)
    assert control.seen() == {A: (1, "dead")}


def test_node_that_leaves_is_removed_at_once() -> None:
    control = Control()
    control.register(A)
    control.note(NodeLeft(A, 1, "weft stop"))
    assert control.of(MemberRemoved) == [MemberRemoved(A, 1, "weft stop")]


def test_node_that_registers_anew_is_seen_in_its_new_life() -> None:
    control = Control()
    control.register(A)
    control.note(NodeSaid(1, view(A)))
    assert control.register(A, b"2") == 2
    assert control.of(MemberRemoved) == [MemberRemoved(A, 1, "its daemon has started again")]
    control.pass_time(INTERVAL_S)
    assert control.seen() == {A: (2, "alive")}
    assert control.follower.table()[A].view is None
    assert [standing.is_dead for standing in control.membership.all()] == [False, True]


def test_node_that_another_table_removes_is_dead() -> None:
    control = Control()
    control.register(A)
    control.note(NodeSaid(1, view(A)))
    removed = MemberRemoved(A, 1, "it takes no orders")
    control.tell(control.membership.apply(removed, control.now).events)
    control.pass_time(INTERVAL_S)
    assert control.follower.table()[A].facts.cause == "it takes no orders"


def test_dead_that_are_forgotten_are_seen_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_module, "DEAD_KEPT", 1)
    control = Control()
    for node_id in (A, B, C):
        incarnation = control.register(node_id)
        control.note(NodeLeft(node_id, incarnation, "done"))
    control.pass_time(INTERVAL_S)
    assert control.seen() == {C: (3, "dead")}
    assert control.membership.find(A) is None


def test_node_that_is_preempted_is_told_and_given_nothing() -> None:
    control = Control()
    control.register(A)
    control.note(NodeSaid(1, view(A)))
    control.note(DrainAsked(A, "preemption", "", 10.0))
    assert control.of(TellDrain) == [TellDrain(A, 1, "preemption", "", 10.0)]
    assert [seen.views[0][1].draining for seen in control.of(NodesSeen)] == [
        "",
        "it is drained (preemption)",
    ]
    control.pass_time(4.0, a=(A, 1))
    assert control.follower.table()[A].facts.life == "draining"
    told = control.membership.drain_of(A, control.now)
    assert told is not None
    assert 5.9 < told.deadline_s < 6.1
    control.pass_time(7.0, a=(A, 1))
    assert control.seen() == {A: (1, "dead")}
    assert control.membership.drain_of(A, control.now) is None


def test_drain_without_a_deadline_goes_on_and_is_said_again() -> None:
    control = Control()
    control.register(A)
    assert control.membership.drain_of(A, control.now) is None
    control.do(DrainStarted(A, 1, "idle", "too many", 0.0))
    assert control.membership.drain_of(A, control.now) == TellDrain(A, 1, "idle", "too many", 0.0)
    control.begin()
    assert len(control.of(TellDrain)) == 2


def test_idle_node_is_asked_before_it_is_drained() -> None:
    control = Control()
    control.register(A)
    control.note(DrainAsked(A, "idle", "too many", 0.0))
    assert control.of(AskDrain) == [AskDrain(A, 1, "too many", 0.0)]
    assert control.seen() == {A: (1, "alive")}


def test_drain_of_who_is_gone_is_refused() -> None:
    control = Control()
    answer = control.do(DrainStarted(A, 1, "idle", "", 0.0)).answer
    assert answer.code == "missing"


def test_end_of_a_life_that_is_over_changes_nothing() -> None:
    control = Control()
    control.register(A)
    assert control.do(Buried(A, 7, "late")).events == ()


def test_restarted_service_knows_its_members_and_nothing_of_what_they_have() -> None:
    for is_snapshot in (False, True):
        control = Control()
        control.register(A)
        control.register(B)
        control.note(NodeSaid(1, view(A)))
        control.note(NodeLeft(B, 2, "done"))
        if is_snapshot:
            control.snapshot()
        control.begin()
        assert control.seen() == {A: (1, "alive"), B: (2, "dead")}
        assert control.follower.table()[A].view is None
        assert control.register(C) == 3


def test_nothing_is_published_to_who_has_gone() -> None:
    control = Control()
    control.note(FollowerGone(ME))
    control.register(A)
    assert control.of(Publish) == []


def test_time_brings_nothing_before_the_journal_was_read() -> None:
    membership = Membership()
    membership.check()
    assert membership.wake_at() is None
    assert membership.due(1.0) == Noted()
    membership.apply(RegisterAsked(A, b"1", "there"), 1.0)
    membership.apply(Buried(A, 1, "silent"), 1.0)
    assert membership.apply(MemberRemoved(A, 1, "silent"), 1.0).events == ()


# ------------------------------------------------------------------ stories

NODES = st.sampled_from([A, B, C])


class MembershipStories(RuleBasedStateMachine):
    """What is published is what is so, whatever nodes, time and restarts do."""

    def __init__(self) -> None:
        super().__init__()
        self.control = Control()
        self.request = 0
        self.life: dict[NodeId, int] = {}

    @rule(node_id=NODES)
    def registers(self, node_id: NodeId) -> None:
        self.request += 1
        self.life[node_id] = self.control.register(node_id, b"%d" % self.request)

    @rule(node_id=NODES, cpus=st.integers(0, 2), late=st.integers(0, 1))
    def says(self, node_id: NodeId, cpus: int, late: int) -> None:
        incarnation = self.life.get(node_id, 1) - late
        self.control.note(HeartbeatHeard(node_id, incarnation))
        self.control.note(NodeSaid(incarnation, view(node_id, cpus)))

    @precondition(lambda self: self.life)
    @rule(node_id=NODES, what=st.sampled_from(["closed", "left", "idle", "preempted", "orders"]))
    def happens(self, node_id: NodeId, what: str) -> None:
        incarnation = self.life.get(node_id, 1)
        match what:
            case "closed":
                self.control.note(LinkClosed(node_id, incarnation))
            case "left":
                self.control.note(NodeLeft(node_id, incarnation, "done"))
            case "idle":
                self.control.note(DrainAsked(node_id, "idle", "", 0.0))
            case "preempted":
                self.control.note(DrainAsked(node_id, "preemption", "", 1.0))
            case _:
                removed = MemberRemoved(node_id, incarnation, "it takes no orders")
                for table in (self.control.orders, self.control.membership):
                    self.control.tell(table.apply(removed, self.control.now).events)
                self.control.lines.append(
                    self.control.ledger.encode(
                        LedgerEntry(self.control.now, Buried(node_id, incarnation, "no orders"))
                    )
                )

    @rule(seconds=st.sampled_from([0.05, 0.5, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.control.pass_time(seconds)

    @rule(is_snapshot=st.booleans())
    def restarts(self, is_snapshot: bool) -> None:
        before = {s.facts.node_id: s.facts for s in self.control.membership.all() if not s.is_dead}
        if is_snapshot:
            self.control.snapshot()
        self.control.begin()
        after = {s.facts.node_id: s.facts for s in self.control.membership.all() if not s.is_dead}
        assert after == before

    @invariant()
    def is_consistent(self) -> None:
        self.control.ledger.check()
        members = {node for node in (A, B, C) if self.control.orders.incarnation_of(node)}
        living = {s.facts.node_id for s in self.control.membership.all() if not s.is_dead}
        assert members == living

    @override
    def teardown(self) -> None:
        self.control.pass_time(0.5)
        table = self.control.follower.table()
        assert table == {node_id: self.control.membership.find(node_id) for node_id in table}
        known = {s.facts.node_id for s in self.control.membership.all()}
        assert table.keys() == known


TestMembershipStories = MembershipStories.TestCase
TestMembershipStories.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, database=None
)
