from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from weft._ids import PlacementGroupId
from weft._machines import actors as actor_rules
from weft._machines import directory as rules
from weft._machines.bundles import TellGroup
from weft._machines.directory import AMOUNTS_KEPT, CREATION_BYTES, NAME_LENGTH, ActorDirectory
from weft._machines.enrolments import (
    ActorChanged,
    EndOwner,
    EnrolActor,
    FailActor,
    FinishActor,
    LeaveActor,
    LoseActor,
    PlaceActor,
    RefuseActor,
    StartActor,
    TickActors,
)
from weft._machines.jobs import JobEnded
from weft._machines.orders import (
    DropOrder,
    KillOrder,
    MakeOrder,
    Order,
    OrderGiven,
    QuitOrder,
    WantOrder,
)
from weft._machines.rulings import Ruling
from weft._machines.tables import (
    Consequence,
    MemberAdded,
    MemberDrains,
    MemberRemoved,
    Noted,
)

ACTOR, OTHER = b"actor", b"other"
OWNER, JOB = b"owner", b"job"
HOME, AWAY = b"home", b"away"
W1, W2 = b"worker 1", b"worker 2"


class Office:
    """A directory that is checked, and restarted, at every event."""

    def __init__(self, *members: bytes) -> None:
        self.directory = ActorDirectory()
        self.now = 100.0
        for member in members:
            self.tell(MemberAdded(member, 1))

    def tell(self, happened: Any) -> Consequence:
        outcome = self.directory.apply(happened, self.now)
        self.directory.check()
        self.restart()
        return outcome

    def restart(self) -> None:
        encoded = msgspec.msgpack.encode(self.directory.image())
        self.directory = ActorDirectory()
        self.directory.restore(msgspec.msgpack.decode(encoded, type=ActorDirectory.image_type))
        self.directory.check()
        assert msgspec.msgpack.encode(self.directory.image()) == encoded

    def enrol(self, actor: bytes = ACTOR, **facts: Any) -> Consequence:
        facts = {"owner": OWNER, "node": HOME, "job": JOB, "creation": b"how", **facts}
        return self.tell(EnrolActor(actor, **facts))

    def place(
        self, actor: bytes = ACTOR, worker: bytes = W1, *, asked: bytes = HOME, node: bytes = HOME
    ) -> Consequence:
        return self.tell(PlaceActor(actor, asked, node, worker, "address"))

    def alive(self, actor: bytes = ACTOR, worker: bytes = W1, **facts: Any) -> None:
        self.enrol(actor, **facts)
        self.place(actor, worker)
        self.tell(StartActor(actor, worker))
        assert self.state(actor) == "alive"
        self.now += 10.0

    def state(self, actor: bytes = ACTOR) -> str:
        news = self.directory.find(actor)
        return news.life.state if news else "unknown"


def orders(outcome: Consequence) -> list[tuple[bytes, Order]]:
    return [(e.node, e.order) for e in outcome.events if isinstance(e, OrderGiven)]


def changes(outcome: Consequence) -> list[bytes]:
    return [e.actor for e in outcome.events if isinstance(e, ActorChanged)]


# ------------------------------------------------------------------ a life


def test_actor_is_wanted_placed_started_and_resolved() -> None:
    office = Office(HOME, AWAY)
    created = office.enrol(name="counter", namespace="here", is_detached=True)
    assert created.answer == Ruling(ACTOR)
    assert created.events == (
        ActorChanged(ACTOR),
        OrderGiven(HOME, WantOrder(ACTOR, b"how")),
    )
    assert orders(office.place(node=AWAY)) == [(AWAY, MakeOrder(ACTOR, W1, 0, b"how"))]
    assert changes(office.tell(StartActor(ACTOR, W1))) == [ACTOR]
    news = office.directory.find(ACTOR)
    assert news is not None
    assert (news.life.state, news.life.address, news.life.worker) == ("alive", "address", W1)
    assert (news.node, news.facts.name) == (AWAY, "counter")
    assert office.directory.named("counter", "here") == ACTOR
    assert office.directory.names() == [("here", "counter")]


def test_of_a_dead_actor_its_class_is_known_and_not_what_callers_needed() -> None:
    office = Office(HOME)
    office.enrol(handle=b"methods", class_name="Counter", amounts={"CPU": 10_000})
    news = office.directory.find(ACTOR)
    assert news is not None
    assert (news.facts.handle, news.asked, news.node) == (b"methods", HOME, b"")
    assert office.directory.explain(ACTOR, office.now) == ""
    office.tell(FinishActor(ACTOR, graceful=False, no_restart=True, reason="asked"))
    news = office.directory.find(ACTOR)
    assert news is not None
    assert (news.facts.handle, news.facts.class_name, news.asked) == (b"", "Counter", b"")
    assert news.facts.amounts == {"CPU": 10_000}
    assert office.directory.explain(ACTOR, office.now) == "dead: asked; restarted 0 times of 0"


def test_name_of_a_living_actor_is_taken_or_found() -> None:
    office = Office(HOME)
    office.enrol(name="counter")
    taken = office.enrol(OTHER, name="counter")
    assert (taken.answer.code, taken.events) == ("exists", ())
    found = office.enrol(OTHER, name="counter", get_if_exists=True)
    assert found == Consequence(Ruling(ACTOR))
    assert office.state(OTHER) == "unknown"


def test_id_is_taken_once() -> None:
    office = Office(HOME)
    office.enrol()
    assert office.enrol().answer.code == "exists"


@pytest.mark.parametrize(
    "facts",
    [
        {"owner": b""},
        {"creation": bytes(CREATION_BYTES + 1)},
        {"name": "x" * (NAME_LENGTH + 1)},
        {"namespace": "x" * (NAME_LENGTH + 1)},
        {"class_name": "x" * (NAME_LENGTH + 1)},
        {"creation": bytes(CREATION_BYTES), "handle": b"x"},
        {"amounts": {str(number): 1 for number in range(AMOUNTS_KEPT + 1)}},
    ],
)
def test_creation_that_makes_no_sense_is_refused(facts: dict[str, Any]) -> None:
    office = Office(HOME)
    outcome = office.enrol(**facts)
    assert (outcome.answer.code, outcome.events) == ("invalid", ())
    assert office.state() == "unknown"


@pytest.mark.parametrize(("limit", "value"), [("ACTORS_KEPT", 1), ("TOTAL_BYTES", 5)])
def test_directory_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(rules, limit, value)
    office = Office(HOME)
    office.enrol()
    assert office.enrol(OTHER).answer.code == "full"
    office.tell(FinishActor(ACTOR, graceful=False, no_restart=True, reason="done"))
    assert not office.enrol(OTHER).answer.code


@pytest.mark.parametrize("limit", ["DEAD_KEPT", "DEAD_BYTES"])
def test_dead_actors_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(actor_rules, limit, 1)
    office = Office(HOME)
    for actor in (ACTOR, OTHER):
        office.enrol(actor)
        office.tell(FinishActor(actor, graceful=False, no_restart=True, reason="done"))
    assert (office.state(ACTOR), office.state(OTHER)) == ("unknown", "dead")


def test_pages_go_through_all_actors() -> None:
    office = Office(HOME)
    for actor in (b"1", b"2", b"3"):
        office.enrol(actor)
    page, is_last = office.directory.page(None, 2)
    assert ([news.facts.actor for news in page], is_last) == ([b"1", b"2"], False)
    page, is_last = office.directory.page(b"2", 2)
    assert ([news.facts.actor for news in page], is_last) == ([b"3"], True)
    page, is_last = office.directory.page(b"forgotten", 3)
    assert (len(page), is_last) == (3, True)


# ------------------------------------------------------------------ who is asked for a worker


def test_node_of_the_owner_is_asked_else_the_members_in_turn() -> None:
    office = Office(HOME, AWAY)
    asked = [orders(office.enrol(bytes([n]), node=b"gone"))[0][0] for n in range(4)]
    assert asked == [HOME, AWAY, HOME, AWAY]
    assert orders(office.enrol(node=AWAY))[0][0] == AWAY


def test_first_member_is_asked_for_those_that_waited_for_one() -> None:
    office = Office()
    assert orders(office.enrol()) == []
    office.enrol(OTHER)
    office.tell(FinishActor(OTHER, graceful=False, no_restart=True, reason="done"))
    asked = orders(office.tell(MemberAdded(AWAY, 1)))
    assert asked == [(AWAY, WantOrder(ACTOR, b"how"))]


def test_another_member_is_asked_when_one_leaves() -> None:
    office = Office(HOME, AWAY)
    office.enrol(owner=b"elsewhere", node=HOME, is_detached=True)
    left = office.tell(MemberRemoved(HOME, 1, "it is dead"))
    assert orders(left) == [(AWAY, WantOrder(ACTOR, b"how"))]
    late = office.place(asked=HOME, node=AWAY)
    assert late.answer.code == "missing"
    assert orders(late)[0][0] == AWAY
    assert isinstance(orders(late)[0][1], KillOrder)
    assert not office.place(asked=AWAY, node=AWAY).answer.code


def test_worker_on_a_node_that_left_is_looked_for_again() -> None:
    office = Office(HOME)
    office.enrol()
    outcome = office.place(node=AWAY)
    assert outcome.answer.code == "missing"
    assert orders(outcome) == [(HOME, WantOrder(ACTOR, b"how"))]


def test_superfluous_worker_is_ended() -> None:
    office = Office(HOME)
    for actor in (ACTOR, OTHER):
        office.enrol(actor)
    office.place()
    for late in (office.place(worker=W2), office.place(b"nobody", W2)):
        (node, order) = orders(late)[0]
        assert node == HOME
        assert isinstance(order, KillOrder)
        assert order.worker == W2


@pytest.mark.parametrize("worker", [W1, b""])
def test_worker_is_one_actor(worker: bytes) -> None:
    office = Office(HOME)
    office.alive()
    office.enrol(OTHER)
    outcome = office.place(OTHER, worker)
    assert (outcome.answer.code, outcome.events) == ("invalid", ())


def test_actors_end_with_their_placement_group_and_say_so() -> None:
    office = Office(HOME)
    group = PlacementGroupId(b"g" * 16)
    office.alive(group=bytes(group), max_restarts=-1)
    office.enrol(OTHER, group=bytes(group))
    third = b"3" * 16
    office.enrol(third)
    assert orders(office.tell(TellGroup(group, "ready", {}))) == []
    ended = office.tell(TellGroup(group, "removed", {}, "it was removed"))
    why = f"placement group {group.hex()} was removed: it was removed"
    assert orders(ended) == [(HOME, KillOrder(W1, why)), (HOME, DropOrder(OTHER))]
    office.tell(LoseActor(ACTOR, W1, "it was killed"))
    for actor in (ACTOR, OTHER):
        news = office.directory.find(actor)
        assert news is not None
        assert (news.life.state, news.life.refused, news.life.cause) == (
            "dead", "placement_group", why,
        )  # fmt: skip
    assert office.state(third) == "pending"
    assert office.tell(TellGroup(group, "removed", {}, "it was removed")).events == ()


def test_refusal_counts_from_who_was_asked() -> None:
    office = Office(HOME)
    office.enrol()
    assert office.tell(RefuseActor(ACTOR, AWAY, "no room")).answer.code == "missing"
    assert office.tell(RefuseActor(OTHER, HOME, "no room")).answer.code == "missing"
    refused = office.tell(RefuseActor(ACTOR, HOME, "no room", "environment"))
    assert refused == Consequence(events=(ActorChanged(ACTOR),))
    news = office.directory.find(ACTOR)
    assert news is not None
    assert (news.life.state, news.life.cause, news.life.refused) == (
        "dead", "no room", "environment",
    )  # fmt: skip


# ------------------------------------------------------------------ ends


def test_constructor_that_fails_ends_the_actor_and_its_worker() -> None:
    office = Office(HOME)
    office.enrol()
    office.place()
    failed = office.tell(FailActor(ACTOR, W1, b"error"))
    assert orders(failed) == [(HOME, KillOrder(W1, "its constructor failed"))]
    news = office.directory.find(ACTOR)
    assert news is not None
    assert (news.life.error, news.facts.creation, news.node) == (b"error", b"", b"")


def test_lost_actor_restarts_with_its_creation_then_dies() -> None:
    office = Office(HOME)
    office.alive(max_restarts=1)
    lost = office.tell(LoseActor(ACTOR, W1, "killed"))
    assert orders(lost) == [(HOME, WantOrder(ACTOR, b"how"))]
    assert office.state() == "restarting"
    assert orders(office.place(worker=W2)) == [(HOME, MakeOrder(ACTOR, W2, 1, b"how"))]
    assert orders(office.tell(LoseActor(ACTOR, W2, "killed"))) == []
    assert office.state() == "dead"


def test_actor_that_keeps_dying_young_waits_and_starts_by_the_clock() -> None:
    office = Office(HOME)
    office.enrol(max_restarts=-1)
    assert office.directory.wake_at() is None
    for worker in (W1, W2):
        office.place(worker=worker)
        office.tell(LoseActor(ACTOR, worker, "killed"))
    at = office.directory.wake_at()
    assert at is not None
    assert office.directory.due(office.now) == Noted()
    office.now = at
    assert office.directory.due(at) == Noted(commands=(TickActors(),))
    assert orders(office.tell(TickActors())) == [(HOME, WantOrder(ACTOR, b"how"))]
    assert office.directory.wake_at() is None


def test_actor_that_leaves_is_not_restarted() -> None:
    office = Office(HOME)
    office.alive(max_restarts=-1)
    office.tell(LeaveActor(ACTOR, W1, "exit_actor was called"))
    office.tell(LoseActor(ACTOR, W1, "exited with 0"))
    assert office.state() == "dead"


def test_report_of_a_worker_that_is_not_the_actor_is_late() -> None:
    office = Office(HOME)
    office.alive()
    for report in (
        LoseActor(ACTOR, W2, "killed"),
        LoseActor(OTHER, W1, "killed"),
        LoseActor(ACTOR, b"", "killed"),
    ):
        assert office.tell(report).answer.code == "missing"
    assert office.state() == "alive"


def test_end_goes_to_the_node_of_the_worker() -> None:
    office = Office(HOME, AWAY)
    office.enrol(max_restarts=-1)
    office.place(node=AWAY)
    office.tell(StartActor(ACTOR, W1))
    gentle = office.tell(FinishActor(ACTOR, graceful=True, no_restart=True, reason="asked"))
    assert orders(gentle) == [(AWAY, QuitOrder(W1))]
    killed = office.tell(FinishActor(ACTOR, graceful=False, no_restart=False, reason="asked"))
    assert orders(killed) == [(AWAY, KillOrder(W1, "asked"))]
    ended = office.tell(FinishActor(ACTOR, graceful=False, no_restart=True, reason="asked"))
    assert orders(ended) == [(AWAY, KillOrder(W1, "asked"))]
    assert office.state() == "dead"


def test_actor_that_ends_while_it_is_wanted_is_wanted_no_more() -> None:
    office = Office(HOME)
    office.enrol()
    ended = office.tell(FinishActor(ACTOR, graceful=False, no_restart=True, reason="asked"))
    assert orders(ended) == [(HOME, DropOrder(ACTOR))]
    (node, order) = orders(office.place())[0]
    assert (node, type(order)) == (HOME, KillOrder)


def test_actor_that_was_ended_before_it_was_created_is_dead_at_once() -> None:
    office = Office(HOME)
    ended = FinishActor(ACTOR, graceful=False, no_restart=True, reason="its handle is gone")
    assert office.tell(ended) == Consequence(events=(ActorChanged(ACTOR),))
    found = office.directory.find(ACTOR)
    assert found is not None
    assert (found.life.state, found.life.cause) == ("dead", "its handle is gone")
    assert orders(office.enrol()) == []
    assert office.state() == "dead"


def test_actors_end_with_their_owner_and_detached_ones_stay() -> None:
    office = Office(HOME)
    office.alive()
    office.alive(OTHER, W2, is_detached=True)
    for owner in (b"", OWNER):
        office.tell(EndOwner(owner))
    assert (office.state(ACTOR), office.state(OTHER)) == ("dead", "alive")


def test_actors_end_with_their_job_and_detached_ones_stay() -> None:
    office = Office(HOME)
    office.alive()
    office.alive(OTHER, W2, is_detached=True)
    office.enrol(b"third", job=b"another")
    office.tell(JobEnded(JOB, OWNER, "its driver has exited"))
    states = [office.state(actor) for actor in (ACTOR, OTHER, b"third")]
    assert states == ["dead", "alive", "pending"]
    news = office.directory.find(ACTOR)
    assert news is not None
    assert news.life.cause == "its job has ended: its driver has exited"


def test_actors_of_a_node_that_left_restart_and_those_of_its_owners_end() -> None:
    office = Office(HOME, AWAY)
    office.enrol(owner=b"far", node=AWAY, max_restarts=1)
    office.place(asked=AWAY, node=HOME)
    office.enrol(OTHER, max_restarts=1)
    office.place(OTHER, W2)
    left = office.tell(MemberRemoved(HOME, 1, "it was silent for 5.0 s"))
    assert orders(left)[-1] == (AWAY, WantOrder(ACTOR, b"how"))
    assert (office.state(ACTOR), office.state(OTHER)) == ("restarting", "dead")
    news = office.directory.find(ACTOR)
    assert news is not None
    assert news.life.cause == "node 686f6d65 is gone: it was silent for 5.0 s"


def test_actors_leave_a_node_that_drains_and_nobody_becomes_one_there() -> None:
    office = Office(HOME, AWAY)
    office.enrol(owner=b"far", node=AWAY, max_restarts=1)
    office.place(asked=AWAY, node=HOME)
    office.tell(StartActor(ACTOR, W1))
    office.alive(OTHER, W2)
    office.enrol(b"third")
    drained = office.tell(MemberDrains(HOME, "its node is drained: enough"))
    assert orders(drained) == [(HOME, QuitOrder(W1))], "the other one may not restart"
    assert (office.state(ACTOR), office.state(OTHER)) == ("alive", "alive")
    late = office.place(b"third", b"worker 3")
    assert late.answer.code == "missing"
    reason = "node 686f6d65 is drained: another worker is looked for"
    assert orders(late) == [
        (HOME, KillOrder(b"worker 3", reason)),
        (HOME, WantOrder(b"third", b"how")),
    ]
    lost = office.tell(LoseActor(ACTOR, W1, "exited with code 0"))
    assert orders(lost) == [(AWAY, WantOrder(ACTOR, b"how"))]
    news = office.directory.find(ACTOR)
    assert news is not None
    assert (news.life.state, news.life.cause) == ("restarting", "its node is drained: enough")
    office.tell(MemberRemoved(HOME, 1, "it is drained: enough"))
    assert (office.state(ACTOR), office.state(OTHER)) == ("restarting", "dead")
    office.tell(MemberAdded(HOME, 2))
    assert (
        office.directory.apply(
            PlaceActor(ACTOR, AWAY, HOME, b"worker 4", "address"), office.now
        ).answer
        == Ruling()
    ), "it is another life of the node"


def test_actor_that_is_still_there_at_the_deadline_of_a_drain_is_moved_all_the_same() -> None:
    office = Office(HOME, AWAY)
    office.enrol(owner=b"far", node=AWAY, max_restarts=1)
    office.place(asked=AWAY, node=HOME)
    office.tell(StartActor(ACTOR, W1))
    office.tell(MemberDrains(HOME, "its node is drained: enough"))
    left = office.tell(MemberRemoved(HOME, 1, "drained, and its time was over"))
    assert orders(left) == [(AWAY, WantOrder(ACTOR, b"how"))]
    office.place(worker=W2, asked=AWAY, node=AWAY)
    office.tell(StartActor(ACTOR, W2))
    office.now += 10.0
    office.tell(LoseActor(ACTOR, W2, "killed"))
    assert office.state() == "restarting", "the move did not count"


def test_node_that_joins_anew_has_left() -> None:
    office = Office(HOME)
    office.alive(owner=b"far", node=AWAY, max_restarts=1)
    assert orders(office.tell(MemberAdded(HOME, 2))) == [(HOME, WantOrder(ACTOR, b"how"))]
    assert office.state() == "restarting"
    assert office.directory.page(None, 9)[1]


class DirectoryStories(RuleBasedStateMachine):
    """Nodes that do their orders late and die: nobody becomes an actor twice, names are one's."""

    def __init__(self) -> None:
        super().__init__()
        self.office = Office()
        self.incarnations = 0
        self.member: dict[bytes, int] = {}
        self.orders: dict[bytes, list[Order]] = {}
        self.hosts: dict[bytes, dict[bytes, bytes]] = {}
        """Of each member: which actor a living worker is, or is to be; empty: none yet."""
        self.numbers = 0
        self.wanted: dict[bytes, bytes] = {}
        """Who looks for a worker for an actor."""
        self.draining: set[bytes] = set()
        self.unmet: list[tuple[bytes, Order]] = []
        """Wants for which no node takes anything."""

    def do(self, happened: Any) -> Consequence:
        outcome = self.office.tell(happened)
        for node, order in orders(outcome):
            if node in self.member:
                self.orders[node].append(order)
        return outcome

    def number(self) -> bytes:
        self.numbers += 1
        return self.numbers.to_bytes(4, "big")

    @rule(node=st.sampled_from([HOME, AWAY]))
    def joins(self, node: bytes) -> None:
        self.incarnations += 1
        self.member[node] = self.incarnations
        self.draining.discard(node)
        self.orders[node], self.hosts[node] = [], {}
        self.do(MemberAdded(node, self.incarnations))

    @precondition(lambda self: self.member)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.member)))
        incarnation = self.member.pop(node)
        del self.orders[node], self.hosts[node]
        self.draining.discard(node)
        self.do(MemberRemoved(node, incarnation, "it is dead"))

    @precondition(lambda self: self.member)
    @rule(data=st.data())
    def drains(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.member)))
        self.draining.add(node)
        self.do(MemberDrains(node, "its node is drained"))

    @rule(
        name=st.sampled_from(["", "x"]), node=st.sampled_from([HOME, AWAY]),
        restarts=st.integers(-1, 2), detached=st.booleans(),
    )  # fmt: skip
    def creates(self, name: str, node: bytes, restarts: int, detached: bool) -> None:
        facts = EnrolActor(
            self.number(), OWNER, node, JOB, b"how", name, "", detached, max_restarts=restarts
        )
        living = self.office.directory.named("x", "")
        answer = self.do(facts).answer
        assert (answer.code == "exists") is bool(name and living)

    @precondition(lambda self: any(self.orders.values()))
    @rule(data=st.data())
    def obeys(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(n for n, queue in self.orders.items() if queue)))
        order = self.orders[node].pop(0)
        hosts = self.hosts[node]
        match order:
            case WantOrder(actor):
                worker = self.number()
                where = data.draw(st.sampled_from(sorted(self.member)))
                self.hosts[where][worker] = b""
                self.do(PlaceActor(actor, node, where, worker, "address"))
            case MakeOrder(actor, worker):
                if worker in hosts:
                    hosts[worker] = actor
                    self.do(StartActor(actor, worker))
            case KillOrder(worker):
                if worker in hosts:
                    actor = hosts.pop(worker)
                    self.do(LoseActor(actor, worker, "killed"))
            case QuitOrder(worker):
                if worker in hosts:
                    self.do(LoseActor(hosts.pop(worker), worker, "exited"))
            case _:
                pass

    @precondition(lambda self: any(self.hosts.values()))
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(n for n, w in self.hosts.items() if w)))
        worker = data.draw(st.sampled_from(sorted(self.hosts[node])))
        actor = self.hosts[node].pop(worker)
        found = [n for n in self.office.directory.page(None, 1000)[0] if n.life.worker == worker]
        actor = actor or (found[0].facts.actor if found else b"")
        self.do(LoseActor(actor, worker, "died"))

    @rule(graceful=st.booleans(), no_restart=st.booleans())
    def ends(self, graceful: bool, no_restart: bool) -> None:
        actor = self.office.directory.named("x", "") or self.numbers.to_bytes(4, "big")
        self.do(FinishActor(actor, graceful, no_restart, "asked"))

    @rule(happened=st.sampled_from([EndOwner(OWNER), JobEnded(JOB, OWNER, "over")]))
    def owner_ends(self, happened: Any) -> None:
        self.do(happened)

    @rule(seconds=st.floats(0, 5))
    def waits(self, seconds: float) -> None:
        self.office.now += seconds
        for command in self.office.directory.due(self.office.now).commands:
            self.do(command)

    @rule()
    def nobody_is_an_actor_twice(self) -> None:
        """Once all orders are obeyed; until then a superfluous worker may live."""
        unmet, self.unmet = self.unmet, []
        for node, order in unmet:
            if node in self.member:
                self.orders[node].append(order)
        while any(self.orders.values()):
            for node in [n for n, queue in self.orders.items() if queue]:
                self._obey_all(node)
        news = self.office.directory.page(None, 100_000)[0]
        alive = {n.facts.actor: n.life.worker for n in news if n.life.state == "alive"}
        hosted = [(a, w) for hosts in self.hosts.values() for w, a in hosts.items() if a]
        assert dict(hosted) == alive
        assert len(hosted) == len(alive)
        waiting = [n for n in news if n.life.state in ("pending", "restarting")]
        if self.member.keys() - self.draining and self.office.directory.wake_at() is None:
            assert all(n.node for n in waiting) or not waiting

    def _obey_all(self, node: bytes) -> None:
        for order in [*self.orders[node]]:
            self.orders[node].remove(order)
            match order:
                case WantOrder(actor):
                    # A node that drains finds workers elsewhere, if there is an elsewhere.
                    elsewhere = sorted(self.member.keys() - self.draining)
                    if not elsewhere:
                        self.unmet.append((node, order))
                        continue
                    worker = self.number()
                    self.hosts[elsewhere[0]][worker] = b""
                    self.do(PlaceActor(actor, node, elsewhere[0], worker, "address"))
                case MakeOrder(actor, worker) if worker in self.hosts[node]:
                    self.hosts[node][worker] = actor
                    self.do(StartActor(actor, worker))
                case KillOrder(worker) | QuitOrder(worker) if worker in self.hosts[node]:
                    self.do(LoseActor(self.hosts[node].pop(worker), worker, "killed"))
                case _:
                    pass


TestDirectoryStories = DirectoryStories.TestCase
TestDirectoryStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
