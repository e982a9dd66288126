from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft._ids import NodeId
from weft._machines import members as members_module
from weft._machines.members import (
    CROWD,
    CROWD_S,
    HEARTBEAT_S,
    JOURNALED,
    MOST_HEARTBEAT_S,
    RELINK_S,
    SILENCE_S,
    TICK_S,
    AskDrain,
    Buried,
    Bury,
    ControlStarted,
    DrainAsked,
    DrainRefused,
    DrainStarted,
    Fence,
    HeartbeatHeard,
    LinkClosed,
    MemberEffect,
    MemberEvent,
    Members,
    MembersTicked,
    NodeDied,
    NodeJoined,
    NodeLeft,
    RegisterAsked,
    StartDrain,
    TellDrain,
    Unwelcome,
    Welcomed,
)

if TYPE_CHECKING:
    import pytest

A, B, C = (NodeId(bytes([97 + i] * 16)) for i in range(3))


class Control:
    """Members, and the journal of which they can be made again; checked after every event."""

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        self.silence_s = silence_s
        self.now = 100.0
        self.journal: list[MemberEvent] = []
        self.members = Members(silence_s)
        self.died: list[NodeDied] = []
        self.tell(ControlStarted())

    def tell(self, event: MemberEvent) -> list[MemberEffect]:
        """Tell an event; what is to be journaled first is journaled and told as well."""
        if isinstance(event, JOURNALED):
            self.journal.append(event)
        effects = self.members.handle(event, self.now)
        self.members.check()
        self.died += [each for each in effects if isinstance(each, NodeDied)]
        out: list[MemberEffect] = []
        for effect in effects:
            out.append(effect)
            if isinstance(effect, Bury):
                out += self.tell(Buried(effect.node_id, effect.incarnation, effect.cause))
            elif isinstance(effect, StartDrain):
                out += self.tell(effect.event)
        return out

    def register(self, node_id: NodeId, request: bytes = b"1") -> int:
        effects = self.tell(RegisterAsked(node_id, request, f"{node_id.hex()}:1"))
        (welcomed,) = [each for each in effects if isinstance(each, Welcomed)]
        return welcomed.incarnation

    def pass_time(self, seconds: float, *beating: tuple[NodeId, int]) -> list[MemberEffect]:
        """Let time pass in which these nodes are heard and the machine ticks."""
        effects = []
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + HEARTBEAT_S)
            for node_id, incarnation in beating:
                effects += self.tell(HeartbeatHeard(node_id, incarnation))
            effects += self.tell(MembersTicked())
        return effects

    def restart(self, *, snapshot: bool = False) -> list[MemberEffect]:
        """Make the machine again of what is journaled; the clock begins somewhere else."""
        state = self.members.state()
        self.now = 5.0
        self.members = Members(self.silence_s)
        if snapshot:
            self.members.restore(state, 0.0)
        else:
            for event in self.journal:
                self.members.handle(event, 0.0)
        assert self.members.state() == state
        return self.tell(ControlStarted())


def test_node_that_registers_is_welcomed_with_a_greater_number_than_all_before() -> None:
    control = Control()
    assert control.tell(RegisterAsked(A, b"1", "host:1", "one")) == [
        Welcomed(A, b"1", 1),
        NodeJoined(A, 1, "host:1", "one"),
    ]
    assert control.register(B) == 2
    assert control.members.is_member(A, 1)
    assert not control.members.is_member(A, 2)
    assert [facts.node_id for facts in control.members.living()] == [A, B]


def test_repeated_registration_gets_the_same_answer() -> None:
    control = Control()
    control.register(A)
    assert control.tell(RegisterAsked(A, b"1", "host:1")) == [Welcomed(A, b"1", 1)]


def test_node_that_registers_anew_is_another_life_and_the_old_one_is_dead() -> None:
    control = Control()
    control.register(A)
    effects = control.tell(RegisterAsked(A, b"2", "host:2"))
    assert effects == [
        NodeDied(A, 1, "its daemon has started again"),
        Welcomed(A, b"2", 2),
        NodeJoined(A, 2, "host:2", ""),
    ]
    assert control.tell(HeartbeatHeard(A, 1)) == [
        Fence(A, 1, "it was declared dead: its daemon has started again")
    ]
    assert control.tell(HeartbeatHeard(A, 2)) == []
    assert control.tell(Buried(A, 1, "it was silent")) == []


def test_node_at_the_address_of_another_is_the_end_of_that_one() -> None:
    control = Control()
    control.tell(RegisterAsked(A, b"1", "host:1"))
    assert control.tell(RegisterAsked(B, b"1", "host:1"))[0] == NodeDied(
        A, 1, f"node {B.hex()} has its address"
    )
    assert [facts.node_id for facts in control.members.living()] == [B]


def test_silent_node_is_dead_after_the_time_and_not_before() -> None:
    control = Control()
    control.register(A)
    control.register(B)
    assert control.pass_time(SILENCE_S - HEARTBEAT_S, (B, 2)) == []
    assert control.pass_time(HEARTBEAT_S, (B, 2)) == [
        Bury(A, 1, "it was silent for 5.0 s"),
        NodeDied(A, 1, "it was silent for 5.0 s"),
    ]
    assert control.members.explain(A, control.now) == (
        "dead: it was silent for 5.0 s; it was incarnation 1"
    )


def test_dead_node_that_speaks_again_is_fenced_and_registers_as_a_fresh_one() -> None:
    control = Control()
    control.register(A)
    control.pass_time(SILENCE_S)
    assert control.tell(HeartbeatHeard(A, 1)) == [
        Fence(A, 1, "it was declared dead: it was silent for 5.0 s")
    ]
    assert control.register(A, b"2") == 2
    assert control.tell(HeartbeatHeard(A, 1)) != []
    assert control.tell(HeartbeatHeard(A, 2)) == []


def test_stranger_is_fenced() -> None:
    assert Control().tell(HeartbeatHeard(A, 7)) == [Fence(A, 7, "it is no member")]


def test_node_that_is_heard_while_its_end_is_journaled_is_dead_all_the_same() -> None:
    control = Control()
    control.register(A)
    control.now += 0.5
    (bury,) = control.members.handle(NodeLeft(A, 1, "it was stopped"), control.now)
    assert control.tell(HeartbeatHeard(A, 1)) == []
    assert control.tell(NodeLeft(A, 1, "it was stopped")) == []
    assert isinstance(bury, Bury)
    assert control.tell(Buried(A, 1, bury.cause)) == [NodeDied(A, 1, "it was stopped")]
    assert control.tell(Buried(A, 1, bury.cause)) == []
    assert control.tell(NodeLeft(A, 1, "it was stopped")) == []


def test_node_whose_link_was_closed_has_less_time_to_come_back() -> None:
    control = Control()
    control.register(A)
    control.register(B)
    control.tell(LinkClosed(A, 1))
    control.tell(LinkClosed(B, 2))
    control.tell(LinkClosed(B, 1))
    control.pass_time(HEARTBEAT_S)
    control.tell(HeartbeatHeard(B, 2))
    control.pass_time(RELINK_S - HEARTBEAT_S)
    assert [each.node_id for each in control.died] == [A]


def test_control_service_that_was_stopped_holds_it_against_nobody() -> None:
    control = Control()
    control.register(A)
    control.now += 60.0
    assert control.tell(MembersTicked()) == []
    assert control.pass_time(SILENCE_S - 2 * HEARTBEAT_S) == []
    control.pass_time(HEARTBEAT_S)
    assert len(control.died) == 1


def test_first_node_after_a_time_without_any_has_no_more_time_than_others() -> None:
    control = Control()
    control.now += 60.0
    control.register(A)
    control.pass_time(SILENCE_S)
    assert len(control.died) == 1


def test_control_service_that_is_busy_gives_nodes_so_much_more_time_to_be_heard() -> None:
    for late_s, ticks in ((TICK_S, 5), (TICK_S + 0.25, 10)):
        control = Control()
        control.register(A)
        died_after = 0
        while not control.died:
            died_after += 1
            control.now += HEARTBEAT_S + late_s
            control.tell(MembersTicked())
        assert died_after == ticks


def test_restarted_control_service_gives_all_nodes_the_time_again() -> None:
    for snapshot in (False, True):
        control = Control()
        control.register(A)
        control.register(B)
        control.pass_time(SILENCE_S, (A, 1))
        control.pass_time(SILENCE_S - HEARTBEAT_S)
        assert control.restart(snapshot=snapshot) == []
        assert control.pass_time(SILENCE_S - HEARTBEAT_S) == []
        assert control.tell(HeartbeatHeard(B, 2)) == [
            Fence(B, 2, "it was declared dead: it was silent for 5.0 s")
        ]
        assert control.tell(HeartbeatHeard(A, 1)) == []
        assert control.register(C) == 3


def crowd(control: Control, nodes: int, after: int = 0) -> list[tuple[NodeId, int]]:
    """Let so many be members; return who they are."""
    ids = [NodeId(number.to_bytes(16, "big")) for number in range(after + 1, after + nodes + 1)]
    return [(node_id, control.register(node_id)) for node_id in ids]


def test_crowd_that_was_cut_off_has_time_to_be_heard_again_one_after_the_other() -> None:
    for restarts in (False, True):
        control = Control()
        members = crowd(control, 3 * CROWD)
        control.pass_time(HEARTBEAT_S, *members)
        if restarts:
            control.restart()
        else:
            for node_id, incarnation in members:
                control.tell(LinkClosed(node_id, incarnation))
        back = 0
        while back < len(members):
            back += 25  # So many are heard again with each tick.
            control.pass_time(HEARTBEAT_S, *members[:back])
        assert control.died == []


def test_crowd_that_has_died_is_dead_after_a_time_for_each_of_it() -> None:
    control = Control()
    members = crowd(control, 2 * CROWD)
    control.pass_time(SILENCE_S + CROWD_S * 2 * CROWD - HEARTBEAT_S)
    assert control.died == []
    control.pass_time(2 * HEARTBEAT_S)
    assert len(control.died) == len(members)


def test_closed_link_says_nothing_while_a_crowd_is_heard_again() -> None:
    control = Control()
    members = crowd(control, 2 * CROWD)
    control.pass_time(HEARTBEAT_S, *members)
    control.restart()
    control.pass_time(HEARTBEAT_S, *members[1:])
    control.tell(LinkClosed(*members[1]))
    control.pass_time(SILENCE_S - 2 * HEARTBEAT_S, *members[2:])
    assert control.died == []
    control.pass_time(2 * HEARTBEAT_S, *members[2:])
    assert [each.node_id for each in control.died] == [members[0][0], members[1][0]]
    # They have all been heard in the time that such a crowd takes.
    control.pass_time(SILENCE_S + CROWD_S * 2 * CROWD, *members[2:])
    control.tell(LinkClosed(*members[2]))
    control.pass_time(RELINK_S, *members[3:])
    assert len(control.died) == 3


def test_nodes_beat_less_often_when_they_are_many() -> None:
    control = Control()
    told = []
    for nodes in (3, 500, 501, 700, 999, 1500):
        crowd(control, nodes - len(control.members.living()), len(control.members.living()))
        told.append(control.members.heartbeat_s())
    assert told == [HEARTBEAT_S, HEARTBEAT_S, 0.6, 0.7, MOST_HEARTBEAT_S, MOST_HEARTBEAT_S]


def test_few_of_a_crowd_are_dead_as_soon_as_those_of_a_small_cluster() -> None:
    control = Control()
    members = crowd(control, 3 * CROWD)
    control.pass_time(SILENCE_S - HEARTBEAT_S, *members[CROWD:])
    assert control.died == []
    control.pass_time(HEARTBEAT_S, *members[CROWD:])
    assert len(control.died) == CROWD


def test_drain_for_preemption_begins_at_once_and_ends_at_its_deadline() -> None:
    control = Control()
    control.register(A)
    effects = control.tell(DrainAsked(A, "preemption", "spot instance", 3.0))
    assert effects == [
        StartDrain(DrainStarted(A, 1, "preemption", "spot instance", 3.0)),
        TellDrain(A, 1, "preemption", "spot instance", 3.0),
    ]
    assert control.members.explain(A, control.now) == (
        "draining, incarnation 1 (preemption: spot instance; 3.0 s left); last heard 0.0 s ago"
    )
    assert control.pass_time(2.5, (A, 1)) == []
    control.pass_time(0.5, (A, 1))
    cause = "drained (preemption: spot instance), and its time was over"
    assert control.died == [NodeDied(A, 1, cause)]


def test_drain_of_an_idle_node_begins_when_the_node_agrees_and_ends_when_it_is_empty() -> None:
    control = Control()
    control.register(A)
    effects = control.tell(DrainAsked(A, "idle", "autoscaler", 0))
    assert effects == [AskDrain(A, 1, "autoscaler", 0)]
    assert control.members.living()[0].life == "alive"
    effects = control.tell(DrainStarted(A, 1, "idle", "autoscaler", 0))
    assert effects == [TellDrain(A, 1, "idle", "autoscaler", 0)]
    assert "(idle: autoscaler; when it is empty)" in control.members.explain(A, control.now)
    assert control.pass_time(60.0, (A, 1)) == []
    control.tell(NodeLeft(A, 1, "drained"))
    assert control.died == [NodeDied(A, 1, "drained")]


def test_drain_of_a_node_that_is_not_there_is_refused() -> None:
    control = Control()
    refused = [DrainRefused(A, "it is no living member")]
    assert control.tell(DrainAsked(A, "idle", "", 0)) == refused
    control.register(A)
    assert control.tell(DrainStarted(A, 7, "idle", "", 0)) == refused


def test_drain_goes_on_after_a_restart() -> None:
    control = Control()
    control.register(A)
    control.tell(DrainAsked(A, "preemption", "", 4.0))
    assert control.restart() == [TellDrain(A, 1, "preemption", "", 4.0)]
    assert control.pass_time(3.5, (A, 1)) == []
    control.pass_time(0.5, (A, 1))
    assert len(control.died) == 1


def test_cluster_and_the_memory_of_the_dead_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_module, "MOST_NODES", 2)
    monkeypatch.setattr(members_module, "DEAD_KEPT", 2)
    control = Control()
    control.register(A)
    control.register(B)
    (refused,) = control.tell(RegisterAsked(C, b"1", "host:1"))
    assert isinstance(refused, Unwelcome)
    assert "2 nodes" in refused.reason
    for request in (b"2", b"3", b"4"):
        control.register(A, request)
    assert [facts.incarnation for facts in control.members.dead()] == [3, 4]
    assert control.tell(HeartbeatHeard(A, 1)) == [Fence(A, 1, "it is no member")]


def test_silent_node_is_noticed_while_others_are_heard_all_the_time() -> None:
    control = Control()
    control.register(A)
    control.register(B)
    dead: list[MemberEffect] = []
    while not dead and control.now < 200.0:
        control.now += HEARTBEAT_S / 5
        control.tell(HeartbeatHeard(B, 2))
        at = control.members.wake_at()
        if at is not None and at <= control.now:
            dead = control.tell(MembersTicked())
    assert [each.node_id for each in dead if isinstance(each, NodeDied)] == [A]
    assert control.now < 100.0 + SILENCE_S + 2 * HEARTBEAT_S


def test_wake_is_due_while_there_are_nodes() -> None:
    assert Members().wake_at() is None
    control = Control()
    assert control.members.wake_at() is None
    control.register(A)
    assert control.members.wake_at() == control.now + HEARTBEAT_S
    assert control.members.explain(A, control.now) == ("alive, incarnation 1; last heard 0.0 s ago")
    assert control.members.explain(B, control.now) == "no such node is known"


class MemberStories(RuleBasedStateMachine):
    """Nodes that speak, fall silent, come back; control stops and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.control = Control(silence_s=2.0)
        self.requests = 0
        self.number_of: dict[NodeId, int] = {}
        """What each node believes its incarnation to be."""
        self.heard_at: dict[int, float] = {}
        """When control could last have heard an incarnation, by its clock."""
        self.lives = 0

    def tell(self, event: MemberEvent) -> list[MemberEffect]:
        effects = self.control.tell(event)
        for effect in effects:
            if isinstance(effect, Welcomed):
                assert effect.incarnation > self.lives
                self.lives = effect.incarnation
                self.number_of[effect.node_id] = effect.incarnation
                self.heard_at[effect.incarnation] = self.control.now
            elif isinstance(effect, Fence):
                assert not self.control.members.is_member(effect.node_id, effect.incarnation)
            elif isinstance(effect, NodeDied) and "silent" in effect.cause:
                silent_s = self.control.now - self.heard_at[effect.incarnation]
                assert silent_s >= 2.0
        return effects

    @rule(node_id=st.sampled_from([A, B, C]))
    def registers(self, node_id: NodeId) -> None:
        self.requests += 1
        self.tell(RegisterAsked(node_id, b"%d" % self.requests, "host:1"))

    @precondition(lambda self: self.number_of)
    @rule(data=st.data(), is_late=st.booleans())
    def speaks(self, data: st.DataObject, is_late: bool) -> None:
        node_id = data.draw(st.sampled_from(sorted(self.number_of)))
        number = self.number_of[node_id] - is_late
        is_member = self.control.members.is_member(node_id, number)
        effects = self.tell(HeartbeatHeard(node_id, number))
        assert bool(effects) is not is_member
        if is_member:
            self.heard_at[number] = self.control.now

    @rule(node_id=st.sampled_from([A, B, C]), deadline_s=st.sampled_from([0, 1.0]))
    def drains(self, node_id: NodeId, deadline_s: float) -> None:
        self.tell(DrainAsked(node_id, "preemption", "", deadline_s))

    @rule(node_id=st.sampled_from([A, B, C]), kind=st.sampled_from(["leaves", "closes"]))
    def ends(self, node_id: NodeId, kind: Any) -> None:
        number = self.number_of.get(node_id, 1)
        if kind == "leaves":
            self.tell(NodeLeft(node_id, number, "stopped"))
        else:
            self.tell(LinkClosed(node_id, number))
            # Not by silence alone, then.
            self.heard_at[number] = self.heard_at.get(number, 0.0) - 2.0

    @rule(ticks=st.integers(1, 3))
    def time_passes(self, ticks: int) -> None:
        for _ in range(ticks):
            self.control.now += HEARTBEAT_S
            self.tell(MembersTicked())

    @rule()
    def stops_for_a_while(self) -> None:
        self.control.now += 10.0
        late_s = 10.0 - HEARTBEAT_S
        self.heard_at = {number: at + late_s for number, at in self.heard_at.items()}
        self.tell(MembersTicked())

    @rule(snapshot=st.booleans())
    def restarts(self, snapshot: bool) -> None:
        died = len(self.control.died)
        self.control.restart(snapshot=snapshot)
        self.heard_at = dict.fromkeys(self.heard_at, self.control.now)
        assert len(self.control.died) == died

    @invariant()
    def each_life_ends_once(self) -> None:
        ended = [each.incarnation for each in self.control.died]
        assert len(set(ended)) == len(ended)
        living = {facts.incarnation for facts in self.control.members.living()}
        assert living | set(ended) == set(range(1, self.lives + 1))
        assert not living & set(ended)

    def teardown(self) -> None:
        self.control.pass_time(2.0)
        assert self.control.members.living() == []


TestMemberStories = MemberStories.TestCase
TestMemberStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
