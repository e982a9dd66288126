from __future__ import annotations

from typing import Any, ClassVar

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from weft._machines import ledger as rules
from weft._machines.jobs import BeginJob, EndJob, JobChanged, JobEnded, Jobs
from weft._machines.keyvalues import DeleteValues, KeyValues, PutValue
from weft._machines.ledger import Applied, Ledger, LedgerEntry, Sender, TableBroke
from weft._machines.rulings import Request, Ruling
from weft._machines.tables import (
    Commands,
    Consequence,
    ControlTable,
    Kinds,
    MemberAdded,
    MemberRemoved,
    Noted,
    ServiceBegun,
)
from weft._override import override

NODE, OTHER, CLIENT = b"node", b"other", b"client"


class Join(msgspec.Struct, frozen=True):
    node: bytes


class Concern(msgspec.Struct, frozen=True):
    node: bytes
    incarnation: int


class Stumble(msgspec.Struct, frozen=True):
    pass


class Heard(msgspec.Struct, frozen=True):
    node: bytes


class Overdue(msgspec.Struct, frozen=True):
    node: bytes


class Members(ControlTable):
    """As small as a table of members can be."""

    name: ClassVar[str] = "members"
    commands: ClassVar[Commands] = {"join": Join, "part": Concern, "stumble": Stumble}
    hears: ClassVar[Kinds] = (JobEnded,)
    notes: ClassVar[Kinds] = (ServiceBegun, Heard)
    image_type: ClassVar[Any] = int

    def __init__(self) -> None:
        self.last = 0
        self.heard: list[bytes] = []

    @override
    def apply(self, happened: Any, now: float) -> Consequence:
        match happened:
            case Join(node):
                self.last += 1
                return Consequence(Ruling(self.last), (MemberAdded(node, self.last),))
            case Concern(node, incarnation):
                return Consequence(events=(MemberRemoved(node, incarnation, "it has gone"),))
            case _:
                raise RuntimeError("this cannot be")

    @override
    def note(self, happened: Any, now: float) -> Noted:
        match happened:
            case Heard(node):
                self.heard.append(node)
                return Noted((Overdue(node),), (Concern(node, 1),))
            case _:
                return Noted()

    @override
    def wake_at(self) -> float | None:
        return 3.0 if self.last else None

    @override
    def due(self, now: float) -> Noted:
        return Noted((Overdue(NODE),), (Concern(NODE, self.last),))

    @override
    def image(self) -> int:
        return self.last

    @override
    def restore(self, image: int) -> None:
        self.last = image

    @override
    def check(self) -> None:
        assert self.last >= 0


class Watcher(ControlTable):
    """Hears and notes, and takes no command."""

    name: ClassVar[str] = "watcher"
    commands: ClassVar[Commands] = {}
    hears: ClassVar[Kinds] = (MemberAdded, MemberRemoved)
    notes: ClassVar[Kinds] = (Overdue,)
    image_type: ClassVar[Any] = list[bytes]

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.overdue: list[bytes] = []

    @override
    def apply(self, happened: Any, now: float) -> Consequence:
        self.seen.append(happened.node)
        return Consequence()

    @override
    def note(self, happened: Any, now: float) -> Noted:
        self.overdue.append(happened.node)
        return Noted()

    @override
    def image(self) -> list[bytes]:
        return self.seen

    @override
    def restore(self, image: list[bytes]) -> None:
        self.seen = image

    @override
    def check(self) -> None:
        pass


class Cluster:
    """A ledger of four tables that is checked after every entry."""

    def __init__(self) -> None:
        self.members, self.watcher = Members(), Watcher()
        self.jobs, self.values = Jobs(), KeyValues()
        self.ledger = Ledger([self.members, self.jobs, self.values, self.watcher])

    def do(self, command: Any, **facts: Any) -> Applied:
        entry = LedgerEntry(facts.pop("at", 1.0), command, **facts)
        assert self.ledger.decode(self.ledger.encode(entry)) == entry
        applied = self.ledger.apply(entry)
        self.ledger.check()
        return applied


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_command_goes_to_its_table_and_events_to_who_hears_them(cluster: Cluster) -> None:
    cluster.do(BeginJob(b"job", b"driver", NODE))
    assert cluster.do(Join(NODE)) == Applied(Ruling(1), (MemberAdded(NODE, 1),))
    applied = cluster.do(Concern(NODE, 1))
    removed, changed, ended = applied.events[:3]
    assert removed == MemberRemoved(NODE, 1, "it has gone")
    assert changed == JobChanged(b"job")
    assert isinstance(ended, JobEnded)
    assert cluster.watcher.seen == [NODE, NODE]


def test_repeated_request_is_done_once(cluster: Cluster) -> None:
    request = Request(CLIENT, 1)
    assert cluster.ledger.answer_of(request) is None
    assert cluster.do(PutValue(b"", b"k", b"1"), request=request) == Applied(Ruling(0))
    assert cluster.ledger.answer_of(request) == Ruling(0)
    assert cluster.do(PutValue(b"", b"k", b"1"), request=request) == Applied(Ruling(0))
    assert cluster.do(PutValue(b"", b"k", b"1")) == Applied(Ruling(1))


def test_refused_request_is_refused_again_the_same(cluster: Cluster) -> None:
    request = Request(CLIENT, 1)
    first = cluster.do(EndJob(b"job", "why"), request=request)
    cluster.do(BeginJob(b"job", b"driver", NODE))
    assert cluster.do(EndJob(b"job", "why"), request=request) == first
    assert first.answer.code == "missing"


def test_late_incarnation_is_fenced(cluster: Cluster) -> None:
    put = PutValue(b"", b"k", b"1")
    assert cluster.do(put, sender=Sender(NODE, 5)).answer == Ruling(0)
    refused = cluster.do(put, sender=Sender(NODE, 4)).answer
    assert refused.code == "fenced"
    assert "speaks as incarnation 4, and 5 is the first that counts" in refused.reason
    assert cluster.do(put, sender=Sender(OTHER, 4)).answer == Ruling(1)


def test_node_that_left_is_fenced_until_it_joins_again(cluster: Cluster) -> None:
    put = PutValue(b"", b"k", b"1")
    cluster.do(Join(NODE))
    cluster.do(Concern(NODE, 1))
    assert cluster.do(put, sender=Sender(NODE, 1)).answer.code == "fenced"
    cluster.do(Join(NODE))
    assert cluster.do(put, sender=Sender(NODE, 1)).answer.code == "fenced"
    assert cluster.do(put, sender=Sender(NODE, 2)).answer == Ruling(0)


def test_fences_are_bounded(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "FENCES_KEPT", 1)
    put = PutValue(b"", b"k", b"1")
    cluster.do(put, sender=Sender(NODE, 5))
    cluster.do(put, sender=Sender(OTHER, 5))
    assert cluster.do(put, sender=Sender(NODE, 1)).answer == Ruling(1)


def test_table_that_breaks_refuses_and_the_service_goes_on(cluster: Cluster) -> None:
    request = Request(CLIENT, 1)
    applied = cluster.do(Stumble(), request=request)
    assert applied.answer == Ruling(code="internal", reason="members cannot take Stumble")
    assert applied.events == (TableBroke("members", "Stumble", "RuntimeError: this cannot be"),)
    assert cluster.do(Stumble(), request=request) == Applied(applied.answer)
    assert cluster.do(Join(NODE)).answer == Ruling(1)


def test_table_that_breaks_at_an_event_does_not_undo_the_command(cluster: Cluster) -> None:
    cluster.do(BeginJob(b"job", b"driver", NODE))
    applied = cluster.do(EndJob(b"job", "why"))
    assert applied.answer == Ruling()
    assert applied.events[-1] == TableBroke("members", "JobEnded", "RuntimeError: this cannot be")


def test_time_does_not_go_back(cluster: Cluster) -> None:
    cluster.do(BeginJob(b"job", b"driver", NODE), at=5.0)
    cluster.do(EndJob(b"job", "why"), at=3.0)
    found = cluster.jobs.find(b"job")
    assert found is not None
    assert (found.began_at, found.ended_at, cluster.ledger.now) == (5.0, 5.0, 5.0)


def test_what_is_not_journaled_is_noted_and_may_lead_to_commands(cluster: Cluster) -> None:
    assert cluster.ledger.note(ServiceBegun(1), 1.0) == Noted()
    assert cluster.ledger.note(Heard(NODE), 1.0) == Noted((Overdue(NODE),), (Concern(NODE, 1),))
    assert cluster.members.heard == cluster.watcher.overdue == [NODE]


def test_time_alone_brings_what_tables_say(cluster: Cluster) -> None:
    assert cluster.ledger.wake_at() is None
    cluster.do(Join(NODE))
    assert cluster.ledger.wake_at() == 3.0
    assert cluster.ledger.due(3.0) == Noted((Overdue(NODE),), (Concern(NODE, 1),))
    assert cluster.watcher.overdue == [NODE]


def test_command_that_no_table_takes_is_told(cluster: Cluster) -> None:
    assert cluster.ledger.takes(Join)
    assert not cluster.ledger.takes(Heard)
    with pytest.raises(KeyError):
        cluster.ledger.encode(LedgerEntry(1.0, Heard(NODE)))
    line = cluster.ledger.encode(LedgerEntry(1.0, Join(NODE)))
    with pytest.raises(ValueError, match=r"no table takes the command 'members\.join'"):
        Ledger([KeyValues()]).decode(line)


def test_table_that_notes_nothing_says_so() -> None:
    table = KeyValues()
    assert (table.wake_at(), table.due(1.0)) == (None, Noted())
    with pytest.raises(NotImplementedError, match="key-values notes nothing, Heard neither"):
        table.note(Heard(NODE), 1.0)


def test_image_without_a_table_leaves_that_empty(cluster: Cluster) -> None:
    alone = Ledger([KeyValues()])
    alone.apply(LedgerEntry(1.0, PutValue(b"", b"k", b"v")))
    cluster.ledger.restore(alone.image())
    assert cluster.values.get(b"", b"k") == b"v"
    assert cluster.members.last == 0


def test_bytes_that_are_no_image_change_nothing(cluster: Cluster) -> None:
    cluster.do(PutValue(b"", b"k", b"v"))
    with pytest.raises(msgspec.DecodeError):
        cluster.ledger.restore(b"\x01")
    assert cluster.values.get(b"", b"k") == b"v"


COMMANDS = st.one_of(
    st.builds(PutValue, st.just(b""), st.binary(max_size=1), st.binary(max_size=2), st.booleans()),
    st.builds(DeleteValues, st.just(b""), st.binary(max_size=1), st.booleans()),
    st.builds(BeginJob, st.sampled_from([b"1", b"2", b"3"]), st.just(b"d"), st.just(NODE)),
    st.builds(EndJob, st.sampled_from([b"1", b"2", b"3"]), st.just("done")),
    st.builds(Join, st.sampled_from([NODE, OTHER])),
    st.builds(Concern, st.sampled_from([NODE, OTHER]), st.integers(0, 3)),
    st.just(Stumble()),
)
REQUESTS = st.none() | st.builds(Request, st.just(CLIENT), st.integers(1, 20), st.integers(1, 10))
SENDERS = st.none() | st.builds(Sender, st.sampled_from([NODE, OTHER]), st.integers(0, 3))


class LedgerStories(RuleBasedStateMachine):
    """Two ledgers, one of which is made again from its journal: they never differ."""

    def __init__(self) -> None:
        super().__init__()
        self.steady, self.restarting = Cluster(), Cluster()
        self.snapshot: bytes | None = None
        self.lines: list[bytes] = []
        self.now = 0.0

    @rule(command=COMMANDS, request=REQUESTS, sender=SENDERS, passed_s=st.floats(0, 2))
    def does(self, command: Any, request: Any, sender: Any, passed_s: float) -> None:
        self.now += passed_s
        entry = LedgerEntry(self.now, command, request, sender)
        self.lines.append(self.steady.ledger.encode(entry))
        assert self.steady.ledger.apply(entry) == self.restarting.ledger.apply(entry)

    @rule()
    def takes_a_snapshot(self) -> None:
        self.snapshot = self.restarting.ledger.image()
        self.lines.clear()

    @rule()
    def restarts(self) -> None:
        self.restarting = Cluster()
        if self.snapshot is not None:
            self.restarting.ledger.restore(self.snapshot)
        for line in self.lines:
            self.restarting.ledger.apply(self.restarting.ledger.decode(line))

    @invariant()
    def are_the_same(self) -> None:
        self.restarting.ledger.check()
        assert self.steady.ledger.image() == self.restarting.ledger.image()


TestLedgerStories = LedgerStories.TestCase
TestLedgerStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
