from __future__ import annotations

from typing import Any

import pytest

from weft._ids import NodeId, PlacementGroupId
from weft._machines import lines
from weft._machines.bundle_plans import BundleSpec
from weft._machines.bundles import (
    BundlesReserved,
    CommitBundles,
    GroupCreated,
    GroupRemoved,
    HeldBundles,
    NodeResumed,
    NodesSeen,
    ReleaseBundles,
    ReserveBundles,
    TellGroup,
)
from weft._machines.groups import Groups
from weft._machines.jobs import BeginJob, EndJob, Jobs
from weft._machines.ledger import Applied, Ledger, LedgerEntry
from weft._machines.members import NodeLeft, RegisterAsked
from weft._machines.membership import Membership, NodeSaid
from weft._machines.placement import NodeView
from weft._machines.rulings import Ruling
from weft._machines.tables import Noted, ServiceBegun
from weft._resources import Resources

A, B = (NodeId(bytes([97 + i] * 16)) for i in range(2))
G, H = (PlacementGroupId(bytes([103 + i] * 16)) for i in range(2))
JOB = b"j" * 16
CPU = Resources({"CPU": 1})


class Control:
    """The tables of members, jobs and groups, and what their shell is told."""

    def __init__(
        self, lines: list[bytes] | None = None, number: int = 1, image: bytes = b""
    ) -> None:
        self.now = 1.0
        self.groups = Groups()
        self.ledger = Ledger([Membership(), Jobs(), self.groups])
        self.told: list[Any] = []
        self.lines = lines or []
        if image:
            self.ledger.restore(image)
        for line in self.lines:
            self.ledger.apply(self.ledger.decode(line))
        self.note(ServiceBegun(number))

    def do(self, command: Any) -> Applied:
        line = self.ledger.encode(LedgerEntry(self.now, command))
        self.lines.append(line)
        applied = self.ledger.apply(self.ledger.decode(line))
        self.ledger.check()
        self.told += applied.events
        return applied

    def note(self, happened: Any) -> None:
        self.noted(self.ledger.note(happened, self.now))

    def noted(self, noted: Noted) -> None:
        self.ledger.check()
        self.told += noted.events
        for command in noted.commands:
            self.do(command)

    def join(self, node_id: NodeId, cpus: float = 2) -> int:
        incarnation = int(self.do(RegisterAsked(node_id, b"1", node_id.hex())).answer.value)
        self.note(NodeResumed(node_id, incarnation, ()))
        self.note(NodeSaid(incarnation, view(node_id, cpus)))
        return incarnation

    def create(self, group: PlacementGroupId = G, **facts: Any) -> Ruling:
        return self.do(GroupCreated(group, (BundleSpec(CPU),), "PACK", JOB, **facts)).answer

    def of(self, kind: type) -> list[Any]:
        return [each for each in self.told if isinstance(each, kind)]

    def ready(self, node_id: NodeId, incarnation: int) -> ReserveBundles:
        """Answer for a node; return what it was asked last."""
        asked: ReserveBundles = self.of(ReserveBundles)[-1]
        self.note(BundlesReserved(node_id, incarnation, asked.group, asked.attempt))
        assert self.of(CommitBundles)[-1].attempt == asked.attempt
        return asked


def view(node_id: NodeId, cpus: float = 2) -> NodeView:
    return NodeView(node_id, Resources({"CPU": 2}), Resources({"CPU": cpus}))


def state(control: Control, group: PlacementGroupId = G) -> str:
    facts = control.groups.facts(group)
    return facts.state if facts else ""


def test_group_is_reserved_committed_and_told() -> None:
    control = Control()
    incarnation = control.join(A)
    assert control.create(name="mine", namespace="here") == Ruling()
    asked = control.ready(A, incarnation)
    assert (asked.node_id, asked.bundles, asked.size) == (A, {0: CPU}, 1)
    assert [told.state for told in control.of(TellGroup)] == ["pending", "ready"]
    assert control.groups.named("mine", "here") == G
    assert control.groups.explain(G, control.now) == "ready"
    control.do(GroupRemoved(G, "it was removed"))
    assert control.of(ReleaseBundles)[-1].node_id == A
    assert control.groups.groups() == [G]
    assert state(control) == "removed"


@pytest.mark.parametrize(
    ("bundles", "code"), [((), "invalid"), ((BundleSpec(Resources()),), "invalid")]
)
def test_group_that_makes_no_sense_is_refused(bundles: tuple[BundleSpec, ...], code: str) -> None:
    control = Control()
    answer = control.do(GroupCreated(G, bundles, "PACK")).answer
    assert (answer.code, f"placement group {G.hex()}: it needs" in answer.reason) == (code, True)


def test_name_that_is_taken_is_refused() -> None:
    control = Control()
    control.create(name="mine")
    assert control.create(H, name="mine").code == "exists"


def test_group_ends_with_its_job() -> None:
    control = Control()
    control.do(BeginJob(JOB, b"d" * 16, A))
    control.create()
    control.do(EndJob(JOB, "done"))
    assert state(control) == "removed"


def test_group_waits_for_a_node_and_goes_to_another_when_that_dies() -> None:
    control = Control()
    control.create()
    assert control.groups.wake_at() is not None
    incarnation = control.join(A)
    control.ready(A, incarnation)
    other = control.join(B, cpus=0)
    control.note(NodeLeft(A, incarnation, "gone"))
    assert state(control) == "rescheduling"
    control.note(NodeSaid(other, view(B)))
    control.ready(B, other)
    assert state(control) == "ready"


def test_group_that_waits_is_tried_again_when_it_is_time() -> None:
    control = Control()
    control.create()
    assert control.groups.due(control.now) == Noted()
    at = control.groups.wake_at()
    assert at is not None
    control.now = at
    control.noted(control.ledger.due(control.now))
    later = control.groups.wake_at()
    assert later is not None
    assert later > at


def test_registration_of_a_node_anew_is_the_end_of_its_bundles() -> None:
    control = Control()
    control.join(A)
    control.create()
    control.ready(A, 1)
    assert control.groups.is_member(A, 1)
    control.do(RegisterAsked(A, b"2", A.hex()))
    assert state(control) == "rescheduling"
    assert [control.groups.is_member(A, number) for number in (1, 2)] == [False, True]
    assert not control.groups.is_member(B, 1)


@pytest.mark.parametrize("is_snapshot", [False, True])
def test_restarted_service_hears_from_nodes_where_bundles_are(is_snapshot: bool) -> None:
    control = Control()
    incarnation = control.join(A)
    control.create()
    asked = control.ready(A, incarnation)
    image = control.ledger.image() if is_snapshot else b""
    control = Control([] if is_snapshot else control.lines, 2, image)
    assert state(control) == "pending"
    assert "1 nodes have not said yet" in control.groups.explain(G, control.now)
    held = HeldBundles(G, asked.attempt, (0,), is_committed=True)
    control.note(NodeResumed(A, incarnation, (held,)))
    assert state(control) == "ready"
    control.create(H)
    control.note(NodesSeen(((incarnation, view(A)),)))
    assert control.of(ReserveBundles)[-1].attempt > asked.attempt


def test_what_is_no_part_of_a_record_is_not_journaled() -> None:
    with pytest.raises(TypeError, match="object cannot be journaled"):
        lines.encode(object())
