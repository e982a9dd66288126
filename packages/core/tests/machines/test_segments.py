from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from weft._machines.holdings import SegmentFacts, StoreUsage
from weft._machines.segments import (
    AGAIN_S,
    ANSWER_S,
    FULL,
    GONE_KEPT,
    MAX_AGAIN,
    MAX_PASSES,
    REST_S,
    RETRY_S,
    VACANT_FILE,
    VACANT_S,
    ClientBack,
    ClientLost,
    ClientMessage,
    ClientSaid,
    CopiesDropped,
    CopyNoted,
    DiskFull,
    Effect,
    Event,
    FilesGone,
    LendFile,
    LendOnDisk,
    RoomAsked,
    Segments,
    SegmentsTicked,
    SweepFiles,
    TellClient,
    UnlinkSegments,
    VacateFiles,
)
from weft._wire.messages import (
    OVERDRAWN,
    AskLoan,
    Discard,
    Evict,
    Evicted,
    Loan,
    LoanReturned,
    MadeSegment,
    Orphaned,
    Recall,
    Restore,
    Restored,
    SegmentsClosed,
    SegmentsFree,
    SegmentsMade,
    SegmentsOpened,
    Spill,
    Spilled,
    Unlink,
    Unspill,
    Unspilled,
)
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

A, B, C, D = b"a", b"b", b"c", b"d"
MIB = 1 << 20


class Node:
    """A machine that is checked after every event."""

    def __init__(self, budget_bytes: int = 1000, *, is_remote: bool = False) -> None:
        self.segments = Segments(budget_bytes, "/disk", is_remote=is_remote)
        self.now = 0.0
        self.requests = 0

    def tell(self, event: Event) -> list[Effect]:
        effects = self.segments.handle(event, self.now)
        self.segments.check()
        return effects

    def say(self, client: bytes, message: ClientMessage) -> list[Effect]:
        return self.tell(ClientSaid(client, message))

    def ask(self, client: bytes, size_bytes: int) -> list[Effect]:
        self.requests += 1
        return self.say(client, AskLoan(self.requests, size_bytes))

    def restore(self, client: bytes, name: str) -> list[Effect]:
        self.requests += 1
        return self.say(client, Restore(self.requests, name))

    def lend(self, client: bytes, size_bytes: int) -> None:
        """Lend exactly so much."""
        (granted,) = self.ask(client, size_bytes)
        assert isinstance(granted, TellClient)
        assert isinstance(granted.message, Loan)
        self.say(client, LoanReturned(granted.message.size_bytes - size_bytes))

    def make(self, client: bytes, *sizes: int, owner: bytes = b"", on_disk: bool = False) -> None:
        """Make segments a0, a1, ... with objects one byte smaller, in a loan for just these."""
        if not on_disk:
            self.lend(client, sum(sizes))
        known = len(self.segments.list_segments())
        made = [
            made_segment(client, known + i, size, owner, on_disk) for i, size in enumerate(sizes)
        ]
        self.say(client, SegmentsMade(made))

    def spilled(self, spill: Effect, error: str = "") -> list[Effect]:
        """The spiller has written what it was told to."""
        assert isinstance(spill, Spill)
        places = [(1000 * i, size, 7) for i, size in enumerate(spill.sizes)]
        return self.tell(Spilled(spill.batch, error, [] if error else places))

    def spill(self, client: bytes, *names: str) -> list[Effect]:
        """Let a process give up what it was asked for, and all of it be written."""
        (spill, *_) = self.say(client, Evicted(list(names), []))
        return self.spilled(spill)

    def on_disk(self, client: bytes, size_bytes: int) -> None:
        """Bring one segment, a0, to disk, in a budget that is empty then."""
        self.make(client, size_bytes)
        effects = self.ask(B, 1000)
        assert evicts(effects) == {client: ["a0"]}
        self.spill(client, "a0")
        self.say(B, LoanReturned(1000))
        assert self.usage().used_bytes == 0
        assert self.states() == {"a0": "disk"}

    def usage(self) -> StoreUsage:
        return self.segments.usage()

    def states(self) -> dict[str, str]:
        return {facts.name: facts.state for facts in self.segments.list_segments()}


def made_segment(
    client: bytes, number: int, size_bytes: int, owner: bytes = b"", on_disk: bool = False
) -> MadeSegment:
    name = f"{client.decode()}{number}"
    label = f"object {number}"
    return MadeSegment(name, size_bytes, size_bytes - 1, owner or client, label, "x.py:1", on_disk)


def loan(client: bytes, request: int, size_bytes: int) -> TellClient:
    return TellClient(client, Loan(request, size_bytes))


def removed(name_of: dict[str, str]) -> list[Effect]:
    """What is done to remove files that nobody has: by new names and the old ones."""
    return [VacateFiles(name_of), UnlinkSegments(list(name_of))]


def evicts(effects: list[Effect]) -> dict[bytes, list[str]]:
    return {
        effect.client: effect.message.names
        for effect in effects
        if isinstance(effect, TellClient) and isinstance(effect.message, Evict)
    }


def restored(effects: list[Effect]) -> list[tuple[bytes, str]]:
    """Return (client, error) of the answers to Restore."""
    return [
        (effect.client, effect.message.error)
        for effect in effects
        if isinstance(effect, TellClient) and isinstance(effect.message, Restored)
    ]


# ------------------------------------------------------------------ loans


def test_first_loan_is_doubled() -> None:
    node = Node()
    assert node.ask(A, 10) == [loan(A, 1, 20)]
    assert node.usage().spare_bytes == 20


def test_surplus_grows_with_the_loan_and_shrinks_with_the_room() -> None:
    node = Node(8000)
    assert node.ask(A, 100) == [loan(A, 1, 200)]
    assert node.ask(A, 100) == [loan(A, 2, 400)]
    # 5,600 bytes are below the low mark; an eighth of the 4,900 that are free there.
    assert node.ask(A, 500) == [loan(A, 3, 500 + 4500 // 8)]


def test_loan_above_the_low_mark_is_granted_exactly() -> None:
    node = Node()
    node.lend(A, 650)
    assert node.ask(A, 100) == [loan(A, 2, 100)]


def test_loan_that_others_wait_behind_is_granted_exactly() -> None:
    node = Node()
    node.lend(A, 1000)
    node.ask(B, 10)
    node.ask(C, 10)
    assert node.say(A, LoanReturned(1000)) == [loan(B, 2, 10), loan(C, 3, 20)]


def test_large_loan_is_not_passed_by_small_ones() -> None:
    node = Node()
    node.lend(A, 900)
    assert node.ask(B, 500) == [TellClient(A, Recall(400))]
    assert node.ask(C, 50) == [TellClient(A, Recall(50))]
    assert node.usage().waiting == 2
    assert node.say(A, LoanReturned(400)) == [loan(B, 2, 500)]
    assert node.say(A, LoanReturned(50)) == [loan(C, 3, 50)]


def test_loan_over_the_budget_is_granted_on_disk_at_once() -> None:
    node = Node()
    node.lend(A, 900)
    node.ask(B, 200)
    assert node.ask(C, 1001) == [LendOnDisk(C, 3, 1001)]


def test_refused_loan_names_the_largest_segments() -> None:
    node = Node()
    node.make(A, 10, 30, 20, 15, 25, 5)
    (refused,) = node.tell(DiskFull(A, 9, 2000, "the disk has 77 free"))
    assert isinstance(refused, TellClient)
    assert isinstance(refused.message, Loan)
    assert refused.message.request == 9
    assert refused.message.size_bytes == 0
    assert refused.message.error == (
        "no room for 2000 bytes: 105 of 1000 are used, the disk has 77 free; drop references to "
        "the largest: 30 bytes of object 1 (x.py:1) in a1; 25 bytes of object 4 (x.py:1) in a4; "
        "20 bytes of object 2 (x.py:1) in a2; 15 bytes of object 3 (x.py:1) in a3; "
        "10 bytes of object 0 (x.py:1) in a0"
    )


def test_refused_loan_in_an_empty_store_names_nothing() -> None:
    (refused,) = Node().tell(DiskFull(A, 1, 2000, "the disk is full"))
    assert "the largest: there are none" in refused.message.error  # type: ignore[union-attr]


# ------------------------------------------------------------------ spare memory


def test_node_that_needs_room_gets_spare_memory_then_objects_and_counts_what_is_on_its_way() -> (
    None
):
    node = Node()
    node.make(A, 100, 100, 100)
    node.lend(B, 50)
    assert node.segments.used_bytes == 350
    effects = node.tell(RoomAsked(120))
    assert TellClient(B, Recall(50)) in effects
    assert evicts(effects) == {A: ["a0"]}
    assert node.tell(RoomAsked(150)) == []
    assert evicts(node.tell(RoomAsked(151))) == {A: ["a1"]}
    # More than there is: all of it goes.
    assert evicts(node.tell(RoomAsked(5000))) == {A: ["a2"]}
    assert node.tell(RoomAsked(5000)) == []


def test_spare_memory_is_recalled_from_those_who_have_most() -> None:
    node = Node()
    node.lend(A, 100)
    node.make(B, 100)
    node.lend(B, 500)
    node.lend(C, 300)
    assert node.ask(A, 700) == [
        TellClient(B, Recall(500)),
        TellClient(C, Recall(200)),
    ]
    assert node.say(B, LoanReturned(500)) == []
    assert node.say(C, LoanReturned(300)) == [loan(A, 5, 700)]


def test_objects_are_evicted_beside_a_recall_that_is_not_enough() -> None:
    node = Node()
    node.make(A, 600)
    node.lend(B, 400)
    assert node.ask(C, 500) == [TellClient(B, Recall(400)), TellClient(A, Evict(["a0"]))]


def test_who_returns_less_is_not_asked_again_for_the_same_loan() -> None:
    node = Node()
    node.lend(A, 1000)
    node.ask(B, 100)
    assert node.say(A, LoanReturned(40)) == [LendOnDisk(B, 2, 100)]
    assert node.ask(B, 100) == [TellClient(A, Recall(60))]


def test_who_returns_less_is_asked_again_when_it_frees_a_segment() -> None:
    node = Node()
    node.make(A, 300, 200)
    node.make(B, 300)
    node.lend(A, 200)
    assert node.ask(C, 500) == [TellClient(A, Recall(200)), TellClient(A, Evict(["a0"]))]
    node.say(A, LoanReturned(0))
    assert node.usage().waiting == 1
    assert node.say(A, SegmentsFree(["a1"])) == [TellClient(A, Recall(200))]


def test_spare_memory_of_a_process_that_made_nothing_for_a_while_is_recalled() -> None:
    node = Node()
    node.lend(A, 300)
    node.now = 1.0
    node.make(B, 200)
    node.lend(B, 100)
    assert node.segments.wake_at() == REST_S
    node.now = REST_S
    assert node.tell(SegmentsTicked()) == [TellClient(A, Recall(300))]
    node.say(A, LoanReturned(300))
    assert node.segments.wake_at() == REST_S + 1
    node.now = REST_S + 0.5
    # It is used again, so it may stay.
    node.say(B, SegmentsFree(["b0"]))
    node.now = REST_S + 1
    assert node.tell(SegmentsTicked()) == []
    node.now = node.segments.wake_at()
    assert node.now == 2 * REST_S + 0.5
    assert node.tell(SegmentsTicked()) == [TellClient(B, Recall(300))]
    node.say(B, LoanReturned(300))
    assert node.usage().used_bytes == 0
    assert node.segments.wake_at() is None


def test_process_that_rests_with_nothing_spare_or_does_not_answer_is_left_alone() -> None:
    node = Node()
    node.make(A, 300)
    node.now = REST_S
    assert node.tell(SegmentsTicked()) == []
    node.lend(A, 100)
    node.ask(B, 600)
    assert node.ask(C, 100) == [TellClient(B, Recall(100))]
    node.now += ANSWER_S
    node.tell(SegmentsTicked())
    node.tell(ClientLost(C))
    node.now += REST_S
    assert all(effect.client != B for effect in node.tell(SegmentsTicked()))
    assert node.segments.wake_at() is None


def test_late_answer_to_a_recall_is_not_waited_for() -> None:
    node = Node()
    node.lend(A, 1000)
    node.ask(B, 100)
    assert node.segments.wake_at() == ANSWER_S
    node.now = ANSWER_S
    assert node.tell(SegmentsTicked()) == [LendOnDisk(B, 2, 100)]
    assert node.segments.wake_at() == REST_S
    assert node.ask(B, 100) == [LendOnDisk(B, 3, 100)]
    assert node.say(A, LoanReturned(100)) == []
    assert node.ask(B, 110) == [TellClient(A, Recall(10))]


def test_returned_loan_that_was_not_recalled_goes_to_who_waits() -> None:
    node = Node()
    node.lend(A, 1000)
    node.ask(B, 400)
    node.say(A, LoanReturned(100))
    assert node.usage().waiting == 0
    node.ask(C, 200)
    assert node.say(A, LoanReturned(300)) == [loan(C, 3, 200)]


def test_room_that_is_made_for_a_later_one_and_is_there_at_once_serves_the_first() -> None:
    node = Node()
    node.on_disk(A, 400)
    node.make(A, 500)
    node.restore(B, "a0")
    node.tell(Unspilled(1, ""))
    node.say(B, SegmentsOpened(["a0"]))
    node.say(B, SegmentsClosed(["a0"]))
    assert node.states() == {"a0": "memory", "a1": "asked"}
    assert node.ask(C, 400) == []
    # a0 need not be written again.
    assert node.ask(D, 250) == [
        VacateFiles({".vacant-2": "a0"}),
        LendFile(C, node.requests - 1, 400, ".vacant-2"),
    ]


# ------------------------------------------------------------------ copies of what others keep


def copies(node: Node, *names: str) -> None:
    for name in names:
        assert node.tell(CopyNoted(name, is_elsewhere=True)) == []


def test_copy_goes_before_what_was_used_longer_ago_and_is_not_written() -> None:
    node = Node()
    node.make(A, 200, 200, 200)
    node.say(A, Evicted(["a2"], []))
    copies(node, "a2")
    assert node.states() == {"a0": "memory", "a1": "memory", "a2": "copy"}
    assert node.ask(B, 500) == [
        CopiesDropped(["a2"]),
        *removed({".vacant-1": "a2"}),
        loan(B, node.requests, 500),
    ]
    assert node.states() == {"a0": "memory", "a1": "memory"}


def test_who_has_a_copy_is_asked_and_may_keep_it() -> None:
    node = Node()
    node.make(A, 400, 400)
    node.say(A, Evicted(["a1"], []))
    node.say(C, SegmentsOpened(["a1"]))
    copies(node, "a1")
    assert evicts(node.ask(B, 300)) == {C: ["a1"]}
    # It is viewed: what is written goes then.
    assert evicts(node.say(C, Evicted([], ["a1"]))) == {A: ["a0"]}
    assert node.states() == {"a0": "asked", "a1": "viewed"}
    node.say(C, SegmentsClosed(["a1"]))
    assert node.states()["a1"] == "copy"
    assert node.say(A, Evicted([], ["a0"]))[0] == CopiesDropped(["a1"])


def test_copy_that_becomes_the_primary_is_written() -> None:
    node = Node()
    node.make(A, 500)
    node.say(A, Evicted(["a0"], []))
    copies(node, "a0")
    node.tell(CopyNoted("a0", is_elsewhere=False))
    assert node.states() == {"a0": "memory"}
    (spill, *_) = node.ask(B, 600)
    assert isinstance(spill, Spill)


def test_copy_that_becomes_the_primary_while_it_is_asked_for_is_written() -> None:
    node = Node()
    node.make(A, 500)
    copies(node, "a0")
    assert evicts(node.ask(B, 600)) == {A: ["a0"]}
    node.tell(CopyNoted("a0", is_elsewhere=False))
    (spill,) = node.say(A, Evicted(["a0"], []))
    assert isinstance(spill, Spill)


def test_copy_goes_though_the_disk_fails() -> None:
    node = Node()
    node.make(A, 300, 300)
    effects = node.ask(B, 500)
    assert evicts(effects) == {A: ["a0"]}
    (spill, *_) = node.say(A, Evicted(["a0"], []))
    node.spilled(spill, "no space left")
    node.say(A, Evicted(["a1"], []))
    copies(node, "a1")
    assert CopiesDropped(["a1"]) in node.ask(C, 500)


def test_copy_of_who_does_not_answer_is_passed_over() -> None:
    node = Node()
    node.make(A, 200, 200)
    node.make(B, 200)
    copies(node, "a0", "a1")
    assert evicts(node.ask(C, 600)) == {A: ["a0"]}
    node.now = ANSWER_S
    assert evicts(node.tell(SegmentsTicked())) == {B: ["b2"]}
    assert node.states() == {"a0": "viewed", "a1": "viewed", "b2": "asked"}


def test_note_of_a_segment_that_is_gone_is_of_no_matter() -> None:
    copies(Node(), "a0")


# ------------------------------------------------------------------ eviction


def test_least_recently_used_segments_are_evicted_together() -> None:
    node = Node()
    node.make(A, 100, 100, 100, 500)
    node.say(B, SegmentsOpened(["a0", "a1"]))
    assert node.ask(C, 800) == [TellClient(A, Evict(["a2", "a3"]))]
    (spill,) = node.say(A, Evicted(["a2", "a3"], []))
    assert spill == Spill(1, "spill-1", ["a2", "a3"], [99, 499])
    assert node.spilled(spill) == [
        VacateFiles({".vacant-1": "a2", ".vacant-2": "a3"}),
        UnlinkSegments([".vacant-2"]),
        UnlinkSegments([".vacant-1"]),
        loan(C, 2, 800),
    ]
    assert node.states() == {"a0": "memory", "a1": "memory", "a2": "disk", "a3": "disk"}
    assert node.usage().lent_bytes == 200 + 800


def test_creator_and_all_who_opened_a_segment_are_asked() -> None:
    node = Node()
    node.make(A, 800)
    node.say(B, SegmentsOpened(["a0"]))
    node.say(C, SegmentsOpened(["a0"]))
    assert evicts(node.ask(A, 300)) == {A: ["a0"], B: ["a0"], C: ["a0"]}
    assert node.say(A, Evicted(["a0"], [])) == []
    assert node.say(C, Evicted(["a0"], [])) == []
    (spill,) = node.say(B, Evicted(["a0"], []))
    assert isinstance(spill, Spill)


def test_segment_in_use_is_passed_over_for_another() -> None:
    node = Node()
    node.make(A, 400, 400)
    assert evicts(node.ask(B, 300)) == {A: ["a0"]}
    assert evicts(node.say(A, Evicted([], ["a0"]))) == {A: ["a1"]}
    assert node.states() == {"a0": "viewed", "a1": "asked"}


def test_loan_is_granted_on_disk_when_all_is_viewed() -> None:
    node = Node()
    node.make(A, 400, 400)
    node.ask(B, 700)
    assert node.say(A, Evicted([], ["a0", "a1"])) == [LendOnDisk(B, 2, 700)]


def test_nobody_is_disturbed_for_a_loan_for_which_no_room_can_be_made() -> None:
    node = Node()
    node.make(A, 400, 200)
    node.restore(B, "a0")
    assert node.ask(C, 700) == [LendOnDisk(C, 3, 700)]


def test_what_was_viewed_is_asked_for_again_for_the_next_loan() -> None:
    node = Node()
    node.make(A, 800)
    node.ask(B, 300)
    node.say(A, Evicted([], ["a0"]))
    assert evicts(node.ask(B, 300)) == {A: ["a0"]}


def test_not_all_that_was_viewed_is_asked_for_again_if_it_is_very_much() -> None:
    node = Node(2 * MAX_AGAIN)
    names = [f"a{i}" for i in range(MAX_AGAIN + 1)]
    node.make(A, *[1] * len(names))
    assert evicts(node.ask(B, 2 * MAX_AGAIN)) == {A: names}
    assert node.say(A, Evicted([], names)) == [LendOnDisk(B, 2, 2 * MAX_AGAIN)]
    assert evicts(node.ask(B, 2 * MAX_AGAIN)) == {A: names[:MAX_AGAIN]}
    node.say(A, Evicted([], names[:MAX_AGAIN]))
    node.now = AGAIN_S
    assert evicts(node.ask(B, 2 * MAX_AGAIN)) == {A: [*names[MAX_AGAIN:], *names[:MAX_AGAIN]]}


def test_viewed_segment_that_everybody_leaves_is_the_next_to_go() -> None:
    node = Node()
    node.make(A, 400, 400)
    node.say(B, SegmentsOpened(["a0"]))
    node.ask(C, 900)
    assert node.say(B, Evicted([], ["a0"])) == [LendOnDisk(C, 2, 900)]
    node.say(A, Evicted(["a0"], ["a1"]))
    node.say(B, SegmentsClosed(["a0"]))
    assert node.states() == {"a0": "memory", "a1": "viewed"}
    (spill,) = node.ask(C, 300)
    assert isinstance(spill, Spill)
    assert spill.names == ["a0"]


def test_viewed_segment_that_one_of_two_leaves_stays_aside() -> None:
    node = Node()
    node.make(A, 800)
    node.say(B, SegmentsOpened(["a0"]))
    node.ask(C, 300)
    node.say(A, Evicted([], ["a0"]))
    node.say(B, Evicted(["a0"], []))
    assert node.states() == {"a0": "viewed"}


def test_process_that_dies_counts_as_having_answered() -> None:
    node = Node()
    node.make(A, 800)
    node.say(B, SegmentsOpened(["a0"]))
    node.ask(C, 300)
    node.say(A, Evicted(["a0"], []))
    swept, spill = node.tell(ClientLost(B))
    assert swept == SweepFiles(B)
    assert isinstance(spill, Spill)


def test_closed_mapping_counts_as_an_answer() -> None:
    node = Node()
    node.make(A, 800)
    node.say(B, SegmentsOpened(["a0"]))
    node.ask(C, 300)
    node.say(A, Evicted(["a0"], []))
    (spill,) = node.say(B, SegmentsClosed(["a0"]))
    assert isinstance(spill, Spill)
    assert node.say(B, Evicted(["a0"], [])) == []


def test_late_answer_is_not_waited_for_but_believed() -> None:
    node = Node()
    node.make(A, 400)
    node.make(B, 400)
    assert evicts(node.ask(C, 300)) == {A: ["a0"]}
    assert node.segments.wake_at() == ANSWER_S
    node.now = ANSWER_S
    assert evicts(node.tell(SegmentsTicked())) == {B: ["b1"]}
    assert node.say(A, Evicted(["a0"], [])) == []
    assert node.states() == {"a0": "memory", "b1": "asked"}
    assert node.usage().lent_bytes == 400


def test_segments_of_a_process_that_does_not_answer_are_passed_over() -> None:
    node = Node()
    node.make(A, 200)
    node.make(B, 400)
    node.say(A, SegmentsOpened(["b1"]))
    node.make(C, 200)
    assert evicts(node.ask(C, 300)) == {A: ["a0"]}
    node.now = ANSWER_S
    assert evicts(node.tell(SegmentsTicked())) == {C: ["c2"]}
    assert node.states() == {"a0": "viewed", "b1": "viewed", "c2": "asked"}
    assert node.say(C, Evicted([], ["c2"])) == [LendOnDisk(C, 4, 300)]
    assert evicts(node.ask(C, 300)) == {C: ["c2"]}
    node.say(C, Evicted([], ["c2"]))
    # A says something, so it may answer.
    node.say(A, SegmentsOpened([]))
    assert evicts(node.ask(C, 800)) == {A: ["a0", "b1"], B: ["b1"]}


def test_segment_that_is_opened_while_it_is_asked_for_stays() -> None:
    node = Node()
    node.make(A, 400, 400)
    node.ask(B, 300)
    assert evicts(node.say(C, SegmentsOpened(["a0"]))) == {A: ["a1"]}
    assert node.say(A, Evicted(["a0"], [])) == []
    assert node.states() == {"a0": "memory", "a1": "asked"}


def test_segment_that_is_opened_before_it_is_written_stays() -> None:
    node = Node(1000 * MIB)
    node.make(A, *[100 * MIB] * 8)
    assert evicts(node.ask(B, 500 * MIB)) == {A: ["a0", "a1", "a2"]}
    first, second = node.say(A, Evicted(["a0", "a1", "a2"], []))
    assert list(node.states().values()) == ["memory"] * 5 + ["idle"] + ["spilling"] * 2
    assert evicts(node.say(B, SegmentsOpened(["a2"]))) == {A: ["a3"]}
    assert node.spilled(first) == [VacateFiles({".vacant-1": "a0"})]
    assert node.spilled(second) == [VacateFiles({".vacant-2": "a1"})]
    assert node.states()["a2"] == "memory"


def test_segment_that_is_opened_while_it_is_written_stays_and_has_a_copy() -> None:
    node = Node()
    node.make(A, 800)
    node.ask(B, 300)
    (spill,) = node.say(A, Evicted(["a0"], []))
    node.say(C, SegmentsOpened(["a0"]))
    assert evicts(node.spilled(spill)) == {C: ["a0"]}
    assert node.say(C, Evicted(["a0"], [])) == [
        *removed({".vacant-1": "a0"}),
        loan(B, 2, 350),
    ]


def test_wanted_segment_stays_until_its_reader_has_opened_it() -> None:
    node = Node()
    node.make(A, 400, 400)
    node.ask(B, 700)
    (spill,) = node.say(A, Evicted(["a0", "a1"], []))
    assert restored(node.restore(C, "a0")) == [(C, "")]
    assert node.spilled(spill) == [
        *removed({".vacant-1": "a1"}),
        LendOnDisk(B, 2, 700),
    ]
    assert node.states() == {"a0": "promised", "a1": "disk"}
    node.say(C, SegmentsOpened(["a0"]))
    assert node.states()["a0"] == "memory"
    assert evicts(node.ask(B, 700)) == {C: ["a0"]}


def test_wanted_segment_is_not_asked_for_any_more() -> None:
    node = Node()
    node.make(A, 800)
    node.ask(B, 300)
    assert node.restore(C, "a0") == [
        TellClient(C, Restored(3)),
        LendOnDisk(B, 2, 300),
    ]
    assert node.say(A, Evicted([], ["a0"])) == []
    assert node.states() == {"a0": "promised"}


def test_reader_that_does_not_open_what_it_wanted_says_so() -> None:
    node = Node()
    node.make(A, 300)
    node.restore(B, "a0")
    node.restore(C, "a0")
    node.say(B, SegmentsClosed(["a0"]))
    assert node.states() == {"a0": "promised"}
    node.tell(ClientLost(C))
    assert node.states() == {"a0": "memory"}


def test_segment_that_is_freed_while_it_is_asked_for_is_spare() -> None:
    node = Node()
    node.make(A, 800)
    node.ask(B, 300)
    assert node.say(A, SegmentsFree(["a0"])) == [TellClient(A, Recall(100))]
    assert node.say(A, Evicted(["a0"], [])) == []
    assert node.usage().spare_bytes == 800


def test_facts_of_a_segment_are_those_of_the_list() -> None:
    node = Node(1000 * MIB)
    node.make(A, MIB)
    (facts,) = node.segments.list_segments()
    assert (facts.name, facts.creator) == ("a0", A)
    assert node.segments.facts("a0") == facts
    assert node.segments.facts("a1") is None


def test_small_segments_are_written_together_and_two_files_at_a_time() -> None:
    node = Node(1000 * MIB)
    node.make(A, *[20 * MIB] * 40)
    names = [f"a{i}" for i in range(10)]
    assert evicts(node.ask(B, 400 * MIB)) == {A: names}
    first, second = node.say(A, Evicted(names, []))
    assert isinstance(first, Spill)
    assert isinstance(second, Spill)
    assert first.names == names[:3]
    assert second.names == names[3:6]
    vacated, third = node.spilled(first)
    assert vacated == VacateFiles({f".vacant-{i + 1}": names[i] for i in range(3)})
    assert isinstance(third, Spill)
    assert third.names == names[6:9]


def test_objects_are_spilled_ahead_of_need_between_the_marks() -> None:
    node = Node()
    node.make(A, *[100] * 8)
    assert node.states() == {f"a{i}": "memory" for i in range(8)}
    node.lend(A, 10)
    effects = node.say(A, SegmentsMade([made_segment(A, 8, 10)]))
    assert evicts(effects) == {A: ["a0", "a1"]}
    node.spill(A, "a0", "a1")
    assert node.usage().used_bytes == 610 + 200
    assert node.usage().vacant_bytes == 200
    node.lend(A, 190)
    assert node.say(A, SegmentsMade([made_segment(A, 9, 190)])) == []


def test_no_more_is_asked_for_ahead_of_need_than_the_spiller_has_work_for() -> None:
    node = Node(10_000 * MIB)
    node.make(A, *[50 * MIB] * 161)
    names = [f"a{i}" for i in range(6)]
    assert [name for name, state in node.states().items() if state == "asked"] == names
    (first, _) = node.say(A, Evicted(names, []))
    effects = node.spilled(first)
    assert effects[0] == VacateFiles({".vacant-1": "a0"})
    assert evicts(effects) == {A: ["a6"]}


def test_views_are_looked_for_again_after_a_while_only() -> None:
    node = Node()
    node.make(A, 900)
    assert node.states() == {"a0": "asked"}
    node.say(A, Evicted([], ["a0"]))
    assert node.say(A, SegmentsOpened([])) == []
    node.now = AGAIN_S
    assert evicts(node.say(A, SegmentsOpened([]))) == {A: ["a0"]}


def test_failed_spill_leaves_all_in_memory_for_a_while() -> None:
    node = Node(1000 * MIB)
    node.make(A, *[200 * MIB] * 4)
    names = ["a0", "a1", "a2", "a3"]
    assert evicts(node.ask(C, 1000 * MIB)) == {A: names}
    first, second = node.say(A, Evicted(names[:3], []))
    assert node.states() == {"a0": "spilling", "a1": "spilling", "a2": "idle", "a3": "asked"}
    effects = node.spilled(first, "the disk is full")
    assert effects == [LendOnDisk(C, 2, 1000 * MIB), Unlink(["spill-1"])]
    (refused,) = node.tell(DiskFull(C, 2, 1000 * MIB, "the disk has 5 free"))
    assert "the disk has 5 free; spilling fails (the disk is full)" in refused.message.error  # type: ignore[union-attr]
    assert node.say(A, Evicted(["a3"], [])) == []
    assert node.states() == {"a3": "memory", "a0": "memory", "a2": "memory", "a1": "spilling"}
    assert node.spilled(second) == [VacateFiles({".vacant-1": "a1"})]
    assert node.ask(C, 600 * MIB) == [LendOnDisk(C, 3, 600 * MIB)]
    node.now = RETRY_S
    rested, spill = node.ask(C, 600 * MIB)
    assert rested == UnlinkSegments([".vacant-1"])
    assert isinstance(spill, Spill)
    assert spill.names == ["a3"]
    assert node.spilled(spill) == [
        *removed({".vacant-2": "a3"}),
        loan(C, 4, 600 * MIB),
    ]


def test_nothing_is_written_ahead_of_need_while_the_disk_fails() -> None:
    node = Node()
    node.make(A, 900)
    (spill,) = node.say(A, Evicted(["a0"], []))
    assert node.spilled(spill, "the disk is full") == [Unlink(["spill-1"])]
    assert node.say(B, SegmentsOpened([])) == []
    node.now = RETRY_S
    (spill,) = node.say(B, SegmentsOpened([]))
    assert isinstance(spill, Spill)


def test_failed_spill_does_not_disturb_who_uses_the_segments() -> None:
    node = Node()
    node.make(A, 300, 300, 200)
    node.ask(B, 900)
    (spill,) = node.say(A, Evicted(["a0", "a1", "a2"], []))
    node.restore(C, "a1")
    node.say(C, SegmentsOpened(["a2"]))
    assert node.spilled(spill, "gone") == [LendOnDisk(B, 2, 900), Unlink(["spill-1"])]
    assert node.states() == {"a0": "memory", "a1": "promised", "a2": "memory"}


# ------------------------------------------------------------------ restoring


def test_restored_segment_is_promised_to_all_who_asked() -> None:
    node = Node()
    node.on_disk(A, 300)
    (unspill,) = node.restore(B, "a0")
    assert unspill == Unspill(1, "a0", "spill-1", 0, 299, 300, 7)
    assert node.restore(C, "a0") == []
    assert node.usage().used_bytes == 300
    assert restored(node.tell(Unspilled(1, ""))) == [(B, ""), (C, "")]
    assert node.states() == {"a0": "promised"}
    node.say(C, SegmentsOpened(["a0"]))
    node.say(B, SegmentsOpened(["a0"]))
    assert node.states() == {"a0": "memory"}


def test_restored_segment_is_evicted_again_without_a_write() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.restore(B, "a0")
    node.tell(Unspilled(1, ""))
    node.say(B, SegmentsOpened(["a0"]))
    assert evicts(node.ask(C, 900)) == {B: ["a0"]}
    assert node.say(B, Evicted(["a0"], [])) == [
        *removed({".vacant-2": "a0"}),
        loan(C, 4, 900),
    ]
    assert node.states() == {"a0": "disk"}


def test_restored_segment_that_nobody_has_is_evicted_without_a_question() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.restore(B, "a0")
    node.tell(Unspilled(1, ""))
    node.say(B, SegmentsClosed(["a0"]))
    assert node.ask(C, 900) == [*removed({".vacant-2": "a0"}), loan(C, 4, 900)]


def test_restore_waits_for_room_and_goes_before_loans() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.lend(B, 1000)
    assert node.ask(C, 600) == [TellClient(B, Recall(600))]
    assert node.restore(C, "a0") == [TellClient(B, Recall(300))]
    assert node.states() == {"a0": "waiting"}
    (unspill,) = node.say(B, LoanReturned(600))
    assert isinstance(unspill, Unspill)
    assert node.say(B, LoanReturned(300)) == [loan(C, 4, 600)]


def test_restores_do_not_pass_a_loan_for_ever() -> None:
    node = Node()
    names = [f"a{i}" for i in range(MAX_PASSES + 1)]
    node.make(A, *[10] * len(names))
    node.ask(B, 1000)
    node.spill(A, *names)
    assert node.ask(C, 500) == [TellClient(B, Recall(500))]
    for name in names:
        assert node.restore(A, name) == [TellClient(B, Recall(10))]
    unspills = node.say(B, LoanReturned(500))
    assert [type(effect) for effect in unspills] == [Unspill] * MAX_PASSES
    for _ in range(MAX_PASSES - 1):
        assert node.say(B, LoanReturned(10)) == []
    assert node.say(B, LoanReturned(10)) == [loan(C, 3, 500)]
    (unspill,) = node.say(B, LoanReturned(10))
    assert isinstance(unspill, Unspill)


def test_segment_is_read_from_disk_when_no_room_will_come() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.make(B, 800)
    assert evicts(node.restore(C, "a0")) == {B: ["b1"]}
    node.restore(A, "a0")
    assert node.say(B, Evicted([], ["b1"])) == [
        TellClient(C, Restored(4, path="/disk/spill-1", offset=0)),
        TellClient(A, Restored(5, path="/disk/spill-1", offset=0)),
    ]
    assert node.states() == {"b1": "viewed", "a0": "disk"}


def test_segment_that_cannot_be_read_is_lost_until_it_is_dropped() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.restore(B, "a0")
    node.restore(C, "a0")
    error = "segment a0 cannot be read from disk: its checksum is wrong"
    effects = node.tell(Unspilled(1, "its checksum is wrong"))
    assert restored(effects) == [(B, error), (C, error)]
    assert effects[-1] == Unlink(["spill-1"])
    assert node.states() == {"a0": "lost"}
    assert node.usage().used_bytes == 0
    assert restored(node.restore(B, "a0")) == [(B, error)]
    node.say(B, Discard(["a0"]))
    assert node.states() == {}


def test_segment_that_does_not_fit_its_file_system_is_read_where_it_lies() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.restore(B, "a0")
    assert node.tell(Unspilled(1, f"{FULL}no space left")) == [
        TellClient(B, Restored(3, path="/disk/spill-1", offset=0))
    ]
    assert node.states() == {"a0": "disk"}
    # The next who asks finds room, perhaps.
    (unspill,) = node.restore(C, "a0")
    assert isinstance(unspill, Unspill)


def fetching() -> Node:
    """Return a node whose copies are elsewhere, and which fetches a0 for B to its disk."""
    node = Node(is_remote=True)
    node.on_disk(A, 300)
    node.restore(B, "a0")
    (unspill,) = node.tell(Unspilled(1, f"{FULL}no space left"))
    assert isinstance(unspill, Unspill)
    assert (unspill.request, unspill.name, unspill.directory) == (2, "a0", "/disk")
    assert node.states() == {"a0": "fetching"}
    assert node.usage().used_bytes == 0
    return node


def test_segment_that_lies_elsewhere_is_fetched_to_this_disk_when_no_room_will_come() -> None:
    node = Node(is_remote=True)
    node.on_disk(A, 300)
    node.make(B, 800)
    node.restore(C, "a0")
    (unspill,) = node.say(B, Evicted([], ["b1"]))
    assert isinstance(unspill, Unspill)
    assert unspill.directory == "/disk"
    assert node.restore(A, "a0") == []
    assert node.segments.explain(A) == "segment a0 is being read from disk"
    assert node.tell(Unspilled(1, "")) == [
        TellClient(C, Restored(4, path="/disk/a0")),
        TellClient(A, Restored(5, path="/disk/a0")),
        Unlink(["spill-1"]),
    ]
    assert node.states() == {"b1": "viewed", "a0": "file"}
    assert node.restore(C, "a0") == [TellClient(C, Restored(6, path="/disk/a0"))]
    assert node.say(C, Discard(["a0"])) == [Unlink(["a0"])]


def test_segment_that_fits_nowhere_is_tried_again_after_a_while() -> None:
    node = fetching()
    assert node.tell(Unspilled(2, f"{FULL}no space left")) == []
    assert node.states() == {"a0": "waiting"}
    assert node.segments.wake_at() == node.now + RETRY_S
    # Others are served meanwhile.
    (granted,) = node.ask(C, 100)
    assert isinstance(granted, TellClient)
    assert isinstance(granted.message, Loan)
    node.now += RETRY_S
    assert any(isinstance(effect, Unspill) for effect in node.tell(SegmentsTicked()))
    assert node.tell(SegmentsTicked()) == []
    assert restored(node.tell(Unspilled(3, ""))) == [(B, "")]
    assert node.states() == {"a0": "promised"}


def test_segment_that_cannot_be_fetched_is_lost() -> None:
    node = fetching()
    error = "segment a0 cannot be read from disk: its checksum is wrong"
    assert restored(node.tell(Unspilled(2, "its checksum is wrong"))) == [(B, error)]
    assert node.states() == {"a0": "lost"}


def test_segment_for_which_nobody_waits_any_more_is_not_fetched() -> None:
    node = Node(is_remote=True)
    node.on_disk(A, 300)
    node.restore(B, "a0")
    node.tell(ClientLost(B))
    assert node.tell(Unspilled(1, f"{FULL}no space left")) == []
    assert node.states() == {"a0": "disk"}


@pytest.mark.parametrize(
    ("error", "dead"), [("", ["spill-1", "a0"]), ("lost", ["spill-1"]), (FULL, ["spill-1"])]
)
def test_object_that_is_dropped_while_it_is_fetched_goes_afterwards(
    error: str, dead: list[str]
) -> None:
    node = fetching()
    assert restored(node.say(C, Discard(["a0"]))) == [(B, "its object was dropped")]
    assert node.tell(Unspilled(2, error)) == [Unlink(dead)]
    assert node.states() == {}


def test_segment_that_nobody_knows_is_not_restored() -> None:
    assert restored(Node().restore(A, "b7")) == [(A, "no object is in segment b7")]


def test_restore_is_forgotten_with_the_last_who_asked() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.make(A, 1000)
    node.restore(B, "a0")
    node.restore(C, "a0")
    node.tell(ClientLost(B))
    assert node.states()["a0"] == "waiting"
    node.tell(ClientLost(C))
    assert node.states()["a0"] == "disk"


def test_segment_is_restored_although_who_asked_has_died() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.restore(B, "a0")
    node.tell(ClientLost(B))
    assert node.tell(Unspilled(1, "")) == []
    assert node.states() == {"a0": "memory"}


def test_object_that_is_dropped_before_it_is_restored_is_told_to_who_asked() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.make(A, 1000)
    node.restore(B, "a0")
    effects = node.say(C, Discard(["a0"]))
    assert restored(effects) == [(B, "its object was dropped")]
    assert effects[-1] == Unlink(["spill-1"])


@pytest.mark.parametrize(("error", "unlinked"), [("", [UnlinkSegments(["a0"])]), ("lost", [])])
def test_object_that_is_dropped_while_it_is_restored_goes_afterwards(
    error: str, unlinked: list[Effect]
) -> None:
    node = Node()
    node.on_disk(A, 300)
    node.restore(B, "a0")
    assert restored(node.say(C, Discard(["a0"]))) == [(B, "its object was dropped")]
    assert restored(node.restore(B, "a0")) == [(B, "no object is in segment a0")]
    assert node.tell(Unspilled(1, error)) == [*unlinked, Unlink(["spill-1"])]
    assert node.states() == {}
    assert node.usage().used_bytes == 0


# ------------------------------------------------------------------ unlinked and mapped


def test_file_that_was_opened_just_before_it_was_unlinked_is_counted() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.say(B, SegmentsOpened(["a0"]))
    node.say(C, SegmentsOpened(["a0"]))
    assert node.usage().used_bytes == 300
    assert [facts.mapped for facts in node.segments.list_segments()] == [2, 0]
    assert evicts(node.ask(A, 800)) == {B: ["a0"], C: ["a0"]}
    node.say(C, Evicted(["a0"], []))
    assert node.say(B, SegmentsClosed(["a0"])) == [loan(A, 3, 800)]
    assert node.states() == {"a0": "disk"}


def test_late_opened_file_that_is_asked_for_is_not_free_when_the_first_leaves() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.say(B, SegmentsOpened(["a0"]))
    node.ask(A, 800)
    assert evicts(node.say(C, SegmentsOpened(["a0"]))) == {B: ["a0"], C: ["a0"]}
    assert node.say(B, Evicted(["a0"], [])) == []
    assert node.say(C, Evicted([], ["a0"])) == [LendOnDisk(A, 3, 800)]


def test_file_that_is_opened_while_it_is_restored_is_the_old_one_if_that_fails() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.restore(B, "a0")
    node.say(C, SegmentsOpened(["a0"]))
    node.tell(Unspilled(1, "gone"))
    assert sorted(facts.state for facts in node.segments.list_segments()) == ["lost", "memory"]
    assert node.usage().used_bytes == 300
    node.say(C, SegmentsClosed(["a0"]))
    assert node.usage().used_bytes == 0


def test_two_unlinked_files_of_one_name_are_both_counted() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.say(B, SegmentsOpened(["a0"]))
    node.restore(C, "a0")
    node.tell(Unspilled(1, ""))
    node.say(C, SegmentsOpened(["a0"]))
    effects = node.say(C, Discard(["a0"]))
    assert evicts(effects) == {B: ["a0"], C: ["a0"]}
    assert node.usage().used_bytes == 600
    node.say(B, SegmentsClosed(["a0"]))
    assert node.usage().used_bytes == 300
    node.say(C, SegmentsClosed(["a0"]))
    assert node.usage().used_bytes == 0


def test_file_that_was_opened_before_its_object_went_to_this_disk_is_asked_back() -> None:
    node = fetching()
    node.tell(Unspilled(2, ""))
    assert node.states() == {"a0": "file"}
    node.say(C, SegmentsOpened(["a0"]))
    assert node.usage().used_bytes == 300
    assert evicts(node.say(A, Discard(["a0"]))) == {C: ["a0"]}
    node.say(C, Evicted(["a0"], []))
    assert node.usage().used_bytes == 0
    assert node.states() == {}


@pytest.mark.parametrize("answer", [Evicted(["a0"], []), SegmentsClosed(["a0"])])
def test_unlinked_file_is_asked_back_when_its_object_is_dropped(answer: ClientMessage) -> None:
    node = Node()
    node.on_disk(A, 300)
    node.say(B, SegmentsOpened(["a0"]))
    effects = node.say(A, Discard(["a0"]))
    assert effects == [TellClient(B, Evict(["a0"])), Unlink(["spill-1"])]
    node.say(B, answer)
    assert node.usage().used_bytes == 0


def test_unlinked_file_that_is_asked_for_is_not_asked_for_again_by_a_drop() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.say(B, SegmentsOpened(["a0"]))
    assert evicts(node.ask(C, 800)) == {B: ["a0"]}
    assert node.say(A, Discard(["a0"])) == [Unlink(["spill-1"])]


def test_late_mapping_of_an_unlinked_file_whose_object_is_dropped_is_asked_back_too() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.say(B, SegmentsOpened(["a0"]))
    assert evicts(node.say(A, Discard(["a0"]))) == {B: ["a0"]}
    assert "a0" in evicts(node.say(C, SegmentsOpened(["a0"])))[C]
    node.say(B, Evicted(["a0"], []))
    assert node.usage().used_bytes == 300
    node.say(C, Evicted(["a0"], []))
    assert node.usage().used_bytes == 0


def test_mapping_of_a_file_that_is_gone_with_its_object_is_asked_back() -> None:
    node = Node()
    node.make(A, 300, owner=B)
    node.tell(ClientLost(A))
    assert node.say(B, Discard(["a0"])) == [UnlinkSegments(["a0"])]
    assert node.say(C, SegmentsOpened(["a0"])) == [TellClient(C, Evict(["a0"]))]
    assert node.say(C, Evicted([], ["a0"])) == []
    assert node.say(C, Evicted(["a0"], [])) == []
    assert node.say(C, SegmentsOpened(["b7"])) == []


def test_discarded_segment_counts_until_nobody_has_it_mapped() -> None:
    node = Node()
    node.make(A, 300, owner=B)
    node.tell(ClientLost(A))
    node.say(C, SegmentsOpened(["a0"]))
    assert node.say(B, Discard(["a0"])) == [
        UnlinkSegments(["a0"]),
        TellClient(C, Evict(["a0"])),
    ]
    assert not node.segments.knows("a0")
    assert node.usage().used_bytes == 300
    node.say(C, Evicted([], ["a0"]))
    assert node.usage().used_bytes == 300
    # It is opened a second time, by a message that was late.
    node.say(B, SegmentsOpened(["a0"]))
    node.say(C, SegmentsClosed(["a0"]))
    assert node.usage().used_bytes == 300
    node.say(B, SegmentsClosed(["a0"]))
    assert node.usage().used_bytes == 0


# ------------------------------------------------------------------ vacant files


def emptied(*sizes: int) -> Node:
    """Return a node of 1000 bytes: segments of these sizes are on disk, 610 bytes are in memory."""
    node = Node()
    node.make(A, *sizes, *[61] * 10)
    names = [f"a{i}" for i in range(len(sizes))]
    node.tell(RoomAsked(sum(sizes)))
    assert [name for name, state in node.states().items() if state == "asked"] == names
    (spill,) = node.say(A, Evicted(names, []))
    node.spilled(spill)
    return node


def test_restore_is_made_over_a_vacant_file_of_its_size() -> None:
    node = emptied(100, 120)
    assert node.usage().vacant_bytes == 220
    assert node.usage().used_bytes == 610 + 220
    (unspill,) = node.restore(B, "a1")
    assert isinstance(unspill, Unspill)
    assert unspill.over == ".vacant-2"
    assert node.usage().vacant_bytes == 100
    assert node.usage().used_bytes == 610 + 220


def test_restore_of_another_size_takes_no_vacant_file() -> None:
    node = emptied(100, 120)
    assert node.tell(FilesGone([".vacant-2"])) == []
    (unspill,) = node.restore(B, "a1")
    assert isinstance(unspill, Unspill)
    assert unspill.over == ""
    assert node.usage().vacant_bytes == 100


def test_loan_of_the_size_of_a_vacant_file_brings_that() -> None:
    node = emptied(100, 120)
    (lent,) = node.ask(B, 120)
    assert lent == LendFile(B, node.requests, 120, ".vacant-2")
    assert node.usage().vacant_bytes == 100
    assert node.usage().spare_bytes == 120
    assert node.usage().used_bytes == 610 + 220


def test_what_a_process_has_taken_already_brings_no_file() -> None:
    node = emptied(100, 120)
    assert node.say(B, AskLoan(OVERDRAWN, 120)) == [loan(B, OVERDRAWN, 120)]
    assert node.usage().vacant_bytes == 220


def test_vacant_files_that_are_in_the_way_go_before_room_is_lent() -> None:
    node = emptied(100, 120)
    assert node.ask(B, 250) == [UnlinkSegments([".vacant-1"]), loan(B, node.requests, 250)]
    assert node.usage().used_bytes == 610 + 120 + 250


def test_files_of_the_size_that_was_asked_for_stay_longest() -> None:
    node = emptied(60, 60, 70)
    assert node.restore(B, "a0")
    # The file of 70 bytes goes before the other one of 60.
    assert node.ask(C, 250)[0] == UnlinkSegments([".vacant-3"])


def test_no_more_files_are_vacant_than_a_share_of_the_budget() -> None:
    node = emptied(100, 100, 90)
    assert node.usage().vacant_bytes == 200


def test_large_file_is_vacant_only_for_who_waits_for_its_size() -> None:
    node = Node()
    node.make(A, 400, 400)
    assert evicts(node.ask(B, 400)) == {A: ["a0"]}
    (spill,) = node.say(A, Evicted(["a0"], []))
    assert node.spilled(spill) == [
        VacateFiles({".vacant-1": "a0"}),
        LendFile(B, node.requests, 400, ".vacant-1"),
    ]
    assert node.usage().vacant_bytes == 0


def test_file_that_somebody_may_have_open_is_vacant_no_longer() -> None:
    node = emptied(100, 120)
    node.restore(B, "a0")
    assert node.tell(FilesGone([".vacant-1", ".vacant-2"])) == []
    assert node.usage().vacant_bytes == 0
    assert node.usage().used_bytes == 610 + 100


def test_vacant_files_of_which_nobody_makes_use_go_after_a_while() -> None:
    node = emptied(100, 120)
    assert node.segments.wake_at() == VACANT_S
    node.now = VACANT_S / 2
    node.ask(B, 100)
    assert node.segments.wake_at() == node.now + VACANT_S
    node.now += VACANT_S
    assert node.tell(SegmentsTicked()) == [UnlinkSegments([".vacant-2"])]
    assert node.usage().vacant_bytes == 0
    assert node.segments.wake_at() == REST_S


def test_vacant_files_go_with_the_objects() -> None:
    node = emptied(100, 120)
    assert node.say(A, SegmentsFree(["a2"])) == []
    assert node.say(A, SegmentsFree([f"a{i}" for i in range(3, 12)])) == [
        UnlinkSegments([".vacant-1", ".vacant-2"])
    ]


def test_node_that_needs_room_gets_vacant_files_first() -> None:
    node = emptied(100, 120)
    assert node.tell(RoomAsked(90)) == [UnlinkSegments([".vacant-1"])]
    assert evicts(node.tell(RoomAsked(150))) == {A: ["a2"]}
    assert node.usage().vacant_bytes == 0


def test_file_of_a_process_that_ends_is_vacant_before_the_others_are_swept() -> None:
    node = emptied(100)
    node.restore(B, "a0")
    node.tell(Unspilled(1, ""))
    node.say(B, SegmentsOpened(["a0"]))
    assert evicts(node.tell(RoomAsked(710))) == {A: [f"a{i}" for i in range(1, 11)], B: ["a0"]}
    effects = node.tell(ClientLost(B))
    assert effects[:2] == [VacateFiles({".vacant-2": "a0"}), SweepFiles(B)]


# ------------------------------------------------------------------ files of copies that go


def copied(size_bytes: int = 200) -> Node:
    """Return a node with a copy, which C has mapped."""
    node = Node()
    node.make(A, size_bytes)
    node.say(A, Evicted(["a0"], []))
    node.say(C, SegmentsOpened(["a0"]))
    copies(node, "a0")
    return node


def test_file_of_a_copy_that_goes_is_vacant_for_a_while() -> None:
    node = copied()
    node.say(C, SegmentsClosed(["a0"]))
    assert node.say(B, Discard(["a0"])) == [VacateFiles({".vacant-1": "a0"})]
    assert node.usage().vacant_bytes == 200
    (lent,) = node.ask(B, 200)
    assert isinstance(lent, LendFile)
    assert lent.name == ".vacant-1"
    assert node.usage().vacant_bytes == 0


def test_file_of_a_copy_goes_when_nobody_makes_use_of_it() -> None:
    node = copied()
    node.say(C, SegmentsClosed(["a0"]))
    node.say(B, Discard(["a0"]))
    assert node.segments.wake_at() == VACANT_S
    node.now = VACANT_S
    assert node.tell(SegmentsTicked()) == [UnlinkSegments([".vacant-1"])]
    assert node.usage().used_bytes == 0


def test_file_of_a_copy_is_vacant_when_nobody_has_it_any_more() -> None:
    node = copied()
    effects = node.say(B, Discard(["a0"]))
    assert effects == [VacateFiles({".vacant-1": "a0"}), TellClient(C, Evict(["a0"]))]
    assert node.usage().vacant_bytes == 0
    assert node.usage().used_bytes == 200
    # It is viewed, for long.
    node.say(C, Evicted([], ["a0"]))
    (lent,) = node.ask(B, 200)
    assert isinstance(lent, TellClient)
    node.now = VACANT_S
    assert node.say(C, SegmentsClosed(["a0"])) == []
    assert node.usage().vacant_bytes == 200
    (lent,) = node.ask(D, 200)
    assert isinstance(lent, LendFile)
    assert lent.name == ".vacant-1"


def test_file_of_a_copy_is_vacant_when_who_had_it_has_ended() -> None:
    node = copied()
    node.say(B, Discard(["a0"]))
    node.tell(ClientLost(C))
    assert node.usage().vacant_bytes == 200


def test_file_of_a_copy_that_somebody_may_be_opening_is_not_kept() -> None:
    node = copied()
    node.say(B, Discard(["a0"]))
    node.tell(FilesGone([".vacant-1"]))
    assert node.say(C, Evicted(["a0"], [])) == []
    assert node.usage().used_bytes == 0


def test_file_of_a_copy_that_is_larger_than_the_share_goes_when_nobody_has_it() -> None:
    node = copied(300)
    node.say(B, Discard(["a0"]))
    assert node.say(C, SegmentsClosed(["a0"])) == [UnlinkSegments([".vacant-1"])]


# ------------------------------------------------------------------ objects that are gone


def test_freed_segment_stays_in_the_loan_and_can_be_filled_again() -> None:
    node = Node()
    node.make(A, 300)
    node.say(B, SegmentsOpened(["a0"]))
    assert node.say(A, SegmentsFree(["a0", "a0"])) == []
    assert not node.segments.knows("a0")
    assert node.usage().spare_bytes == node.usage().lent_bytes == 300
    node.say(A, SegmentsMade([made_segment(A, 0, 300)]))
    # Who had it mapped for the last object has it for this one.
    assert evicts(node.ask(C, 1000)) == {A: ["a0"], B: ["a0"]}


def test_mapping_that_is_told_of_before_its_segment_is_known() -> None:
    node = Node()
    node.say(B, SegmentsOpened(["a0"]))
    node.say(C, SegmentsOpened(["a0"]))
    node.say(C, SegmentsClosed(["a0"]))
    node.make(A, 300)
    assert [facts.mapped for facts in node.segments.list_segments()] == [1]
    node.say(A, SegmentsFree(["a0"]))
    node.tell(ClientLost(B))
    node.say(A, SegmentsMade([made_segment(A, 0, 300)]))
    assert [facts.mapped for facts in node.segments.list_segments()] == [0]


def test_segment_that_was_promised_and_is_freed_is_promised_no_longer() -> None:
    node = Node()
    node.make(A, 300)
    node.restore(B, "a0")
    node.say(A, SegmentsFree(["a0"]))
    assert node.say(B, SegmentsClosed(["a0"])) == []


def test_discarded_segment_that_its_creator_keeps_is_asked_back_first() -> None:
    node = Node()
    node.make(A, 300, owner=B)
    assert node.say(B, Discard(["a0"])) == [TellClient(A, Evict(["a0"]))]
    assert node.say(B, Discard(["a0"])) == []
    assert node.say(A, Evicted([], ["a0"])) == []
    assert node.states() == {"a0": "viewed"}
    assert evicts(node.ask(C, 1000)) == {A: ["a0"]}
    assert node.say(A, Evicted(["a0"], [])) == [UnlinkSegments(["a0"]), loan(C, 2, 1000)]
    assert node.states() == {}


def test_segment_that_is_discarded_while_it_is_asked_for_is_not_written() -> None:
    node = Node()
    node.make(A, 800, owner=B)
    node.say(C, SegmentsOpened(["a0"]))
    node.ask(B, 800)
    assert node.say(B, Discard(["a0"])) == []
    node.say(C, Evicted(["a0"], []))
    assert node.say(A, Evicted(["a0"], [])) == [UnlinkSegments(["a0"]), loan(B, 2, 800)]


def test_segment_that_is_discarded_while_it_is_written_goes_afterwards() -> None:
    node = Node()
    node.make(A, 500, 500, owner=B)
    node.ask(C, 1000)
    (spill,) = node.say(A, Evicted(["a0", "a1"], []))
    assert node.say(B, Discard(["a0"])) == []
    assert node.spilled(spill) == [
        VacateFiles({".vacant-1": "a1"}),
        UnlinkSegments(["a0", ".vacant-1"]),
        loan(C, 2, 1000),
    ]
    assert node.states() == {"a1": "disk"}
    assert node.say(B, Discard(["a1"])) == [Unlink(["spill-1"])]


def test_discarded_segment_that_nobody_knows_is_nothing_to_do() -> None:
    assert Node().say(A, Discard(["b7"])) == []


def test_spill_file_is_deleted_when_its_last_object_is_dropped() -> None:
    node = Node()
    node.make(A, 200, 300)
    node.ask(B, 1000)
    node.spill(A, "a0", "a1")
    assert node.usage().disk_bytes == 199 + 299
    assert node.say(A, Discard(["a0"])) == []
    assert node.usage().spilled_bytes == 299
    assert node.usage().disk_bytes == 199 + 299
    assert node.say(A, Discard(["a1"])) == [Unlink(["spill-1"])]
    assert node.usage().disk_bytes == 0


def test_object_that_was_made_on_disk_takes_no_memory() -> None:
    node = Node()
    node.say(C, SegmentsOpened(["a0"]))
    node.make(A, 5000, on_disk=True)
    assert node.states() == {"a0": "file"}
    assert node.usage().used_bytes == 0
    assert node.usage().disk_bytes == 5000
    assert node.restore(B, "a0") == [TellClient(B, Restored(1, path="/disk/a0"))]
    assert node.say(A, SegmentsFree(["a0"])) == [Unlink(["a0"])]
    assert node.say(A, SegmentsFree(["a0"])) == []
    assert node.states() == {}


# ------------------------------------------------------------------ processes that end


def test_process_that_ends_leaves_what_others_own_to_the_node() -> None:
    node = Node()
    node.lend(A, 400)
    node.say(
        A,
        SegmentsMade(
            [
                made_segment(A, 0, 100, owner=B),
                made_segment(A, 1, 100),
                made_segment(A, 2, 50, owner=B, on_disk=True),
                made_segment(A, 3, 50, on_disk=True),
            ]
        ),
    )
    node.say(A, SegmentsOpened(["b9"]))
    assert node.tell(ClientLost(A)) == [
        TellClient(B, Orphaned(A, ["a0", "a2"])),
        UnlinkSegments(["a1"]),
        SweepFiles(A),
        Unlink(["a3"]),
    ]
    assert node.states() == {"a0": "memory", "a2": "file"}
    assert node.usage().used_bytes == 100
    assert node.usage().lent_bytes == 0
    assert node.tell(ClientLost(B)) == [
        UnlinkSegments(["a0"]),
        SweepFiles(B),
        Unlink(["a2"]),
    ]
    assert node.usage().used_bytes == 0


def test_process_that_ends_makes_room_and_waits_no_longer() -> None:
    node = Node()
    node.lend(A, 1000)
    node.ask(B, 500)
    node.ask(C, 200)
    assert node.tell(ClientLost(B)) == [SweepFiles(B)]
    assert node.tell(ClientLost(A)) == [SweepFiles(A), loan(C, 3, 200 + 62)]


def test_segments_of_an_owner_that_ends_are_asked_back_from_their_creators() -> None:
    node = Node()
    node.make(A, 300, owner=B)
    node.say(C, SegmentsOpened(["a0"]))
    assert node.tell(ClientLost(B)) == [
        SweepFiles(B),
        TellClient(A, Evict(["a0"])),
        TellClient(C, Evict(["a0"])),
    ]
    assert node.say(A, Evicted(["a0"], [])) == [
        UnlinkSegments(["a0"]),
        TellClient(C, Evict(["a0"])),
    ]
    assert node.say(C, Evicted(["a0"], [])) == []
    assert node.usage().used_bytes == 0


def test_segment_for_an_owner_that_has_ended_is_asked_back_at_once() -> None:
    node = Node()
    node.tell(ClientLost(B))
    node.lend(A, 300)
    effects = node.say(A, SegmentsMade([made_segment(A, 0, 300, owner=B)]))
    assert effects == [TellClient(A, Evict(["a0"]))]


def test_segment_for_an_owner_that_was_only_out_of_reach_stays() -> None:
    node = Node()
    node.tell(ClientLost(B))
    assert node.tell(ClientBack(B)) == []
    node.make(A, 300, owner=B)
    assert node.tell(ClientBack(C)) == []
    assert evicts(node.tell(ClientLost(B))) == {A: ["a0"]}


def test_only_the_last_ended_processes_are_remembered() -> None:
    node = Node()
    for number in range(GONE_KEPT + 1):
        node.tell(ClientLost(b"%d" % number))
    node.lend(A, 300)
    assert node.say(A, SegmentsMade([made_segment(A, 0, 100, owner=b"0")])) == []
    assert evicts(node.say(A, SegmentsMade([made_segment(A, 1, 100, owner=b"1")]))) == {A: ["a1"]}


# ------------------------------------------------------------------ what cannot be


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (AskLoan(1, 0), "a loan of 0 bytes was asked for"),
        (LoanReturned(-1), "-1 bytes of a loan were returned, of which 100 are spare"),
        (LoanReturned(101), "101 bytes of a loan were returned"),
        (SegmentsMade([made_segment(A, 1, 101)]), "101 bytes were made in a loan"),
        (SegmentsMade([made_segment(A, 0, 1)]), "a segment was made twice"),
        (SegmentsMade([made_segment(A, 1, 1), made_segment(A, 1, 1)]), "a segment was made twice"),
        (
            SegmentsMade([MadeSegment("a1", 5, 6, A, "", "", False)]),
            "an object is larger than its segment",
        ),
        (SegmentsFree(["a0", "b1"]), "segment b1 was freed by who does not keep it"),
    ],
)
def test_what_cannot_be_changes_nothing(message: ClientMessage, error: str) -> None:
    node = Node()
    node.make(A, 200)
    node.make(B, 200)
    node.lend(A, 100)
    before = node.usage(), node.segments.list_segments()
    with pytest.raises(ProtocolError, match=error):
        node.say(A, message)
    assert (node.usage(), node.segments.list_segments()) == before
    node.segments.check()
    assert node.say(A, SegmentsOpened([])) == []


# ------------------------------------------------------------------ questions


def test_usage_and_facts() -> None:
    node = Node()
    node.make(A, 300, owner=B)
    node.lend(A, 50)
    assert node.usage() == StoreUsage(
        budget_bytes=1000,
        used_bytes=350,
        vacant_bytes=0,
        lent_bytes=350,
        spare_bytes=50,
        spilled_bytes=0,
        disk_bytes=0,
        segments={"memory": 1},
        waiting=0,
    )
    facts = SegmentFacts("a0", "memory", 300, 299, A, B, "object 0", "x.py:1", 0)
    assert node.segments.list_segments() == [facts]
    assert node.segments.largest(5) == [facts]
    assert node.segments.knows("a0")
    assert not node.segments.knows("a1")


def test_explanation_says_what_a_loan_waits_for() -> None:
    node = Node(1000 * MIB)
    node.make(A, *[100 * MIB] * 8)
    node.lend(B, 100 * MIB)
    node.lend(C, 100 * MIB)
    node.ask(C, 300 * MIB)
    node.ask(C, 50 * MIB)
    used = f"{1000 * MIB} of {1000 * MIB} are used"
    recalled = f"{200 * MIB} spare bytes are recalled"
    assert node.segments.explain(C).splitlines() == [
        f"waits for {300 * MIB} bytes: {used}, 2 segments are asked for, {recalled}",
        f"waits for {50 * MIB} bytes: {used}, 2 segments are asked for, {recalled}",
    ]
    node.say(A, Evicted(["a0", "a1"], []))
    node.say(B, LoanReturned(100 * MIB))
    node.say(C, LoanReturned(100 * MIB))
    used = f"{800 * MIB} of {1000 * MIB} are used"
    assert node.segments.explain(C).splitlines() == [
        f"waits for {300 * MIB} bytes: {used}, 2 segments are being spilled",
        f"waits for {50 * MIB} bytes: {used}, 2 segments are being spilled",
    ]
    assert node.segments.explain(A) == ""


def test_explanation_says_what_a_restore_waits_for() -> None:
    node = Node()
    node.on_disk(A, 300)
    node.lend(B, 1000)
    node.restore(C, "a0")
    assert node.segments.explain(C) == (
        "segment a0 waits for 300 bytes: 1000 of 1000 are used, 300 spare bytes are recalled"
    )
    assert node.segments.explain(B) == ""
    node.say(B, LoanReturned(300))
    assert node.segments.explain(C) == "segment a0 is being read from disk"


# ------------------------------------------------------------------ any order of events


class Inode:
    """A file of shared memory, as the kernel sees it."""

    def __init__(self, name: str, size_bytes: int, thing: int) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.thing = thing
        """Number of the object that is in it; less than 0: none is."""
        self.is_counted = True
        """The machine can know that it is mapped."""
        self.is_mistaken = False
        """It was told of when its name stood for another file."""


class Thing:
    """An object, as its owner sees it."""

    def __init__(self, number: int, name: str, creator: Actor, owner: Actor) -> None:
        self.number = number
        self.name = name
        self.creator = creator
        self.owner = owner
        self.is_dropped = False
        self.is_lost = False
        self.is_elsewhere = False

    @property
    def is_needed(self) -> bool:
        return not self.is_dropped and self.owner.is_alive


class Actor:
    """A process: what it has, and the messages that it has not sent or read yet."""

    def __init__(self, world: World, client: bytes) -> None:
        self.world = world
        self.client = client
        self.loan = 0
        self.made = 0
        self.requests = 0
        self.is_alive = True
        self.mine: dict[str, Inode] = {}
        self.spare: list[Inode] = []
        self.mapped: dict[str, Inode] = {}
        self.views: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        """Numbers of the objects that it views, by name."""
        self.opening: Thing | None = None
        """What it has begun to open."""
        self.begun = 0
        """Openings, as the daemon can read at any time."""
        self.told = 0
        """Those of which the daemon has heard."""
        self.refused: set[str] = set()
        """What was viewed when the daemon wanted it."""
        self.puts: dict[int, tuple[int, Actor]] = {}
        self.restores: dict[int, Thing] = {}
        self.outbox: deque[Any] = deque()
        self.inbox: deque[Any] = deque()
        self.recycled: deque[str] = deque()

    def kept(self) -> dict[str, Inode]:
        return self.mine | {inode.name: inode for inode in self.spare}

    def room(self) -> int:
        return self.loan - sum(inode.size_bytes for inode in self.kept().values())

    def put(self, size_bytes: int, owner: Actor) -> None:
        for inode in self.spare:
            if inode.size_bytes == size_bytes:
                self.spare.remove(inode)
                self.fill(inode, owner)
                return
        if self.room() >= size_bytes:
            inode = Inode(self.new_name(), size_bytes, 0)
            self.world.shm[inode.name] = inode
            self.fill(inode, owner)
            return
        self.requests += 1
        self.puts[self.requests] = size_bytes, owner
        self.outbox.append(AskLoan(self.requests, size_bytes))

    def new_name(self) -> str:
        self.made += 1
        return f"{self.client.decode()}-{self.made}"

    def fill(self, inode: Inode, owner: Actor) -> None:
        thing = self.world.new_thing(inode.name, self, owner)
        inode.thing = thing.number
        self.mine[inode.name] = inode
        self.tell_made(thing, inode.size_bytes, on_disk=False)

    def tell_made(self, thing: Thing, size_bytes: int, *, on_disk: bool) -> None:
        record = MadeSegment(
            thing.name, size_bytes, size_bytes - 1, thing.owner.client, "put", "x.py:1", on_disk
        )
        self.outbox.append(SegmentsMade([record]))

    def view(self, thing: Thing, *, looked_early: bool = False) -> None:
        name = thing.name
        if name not in self.mine and name not in self.mapped:
            if name not in self.world.shm or looked_early:
                self.requests += 1
                self.restores[self.requests] = thing
                self.outbox.append(Restore(self.requests, name))
                return
            self.begin_to_open(thing)
            self.go_on()
            return
        self.views[name] = self.views.get(name, 0) + 1
        self.seen[name] = thing.number

    def begin_to_open(self, thing: Thing) -> None:
        assert self.opening is None
        self.opening = thing
        self.begun += 1

    def go_on(self) -> None:
        """It finds the file by its name or does not. It does nothing else before that."""
        thing, self.opening = self.opening, None
        if thing is None:
            return
        inode = self.world.shm.get(thing.name)
        if inode is not None:
            self.mapped[thing.name] = inode
            self.outbox.append(SegmentsOpened([thing.name]))
        else:
            self.begun -= 1
        self.view(thing)

    def check_views(self) -> None:
        """What it reads is what it wanted to read."""
        for name, number in self.seen.items():
            inode = self.mine.get(name) or self.mapped[name]
            assert inode.thing == number, "a view shows another object"

    def has_to_tell_of(self, name: str) -> bool:
        return any(isinstance(m, SegmentsOpened) and name in m.names for m in self.outbox)

    def close(self, name: str) -> None:
        del self.mapped[name]
        self.outbox.append(SegmentsClosed([name]))

    def recycle(self, name: str) -> None:
        """The owner says that nobody reads the object any more."""
        inode = self.mine.pop(name, None)
        if inode is not None:
            self.spare.append(inode)
            self.outbox.append(SegmentsFree([name]))
        elif name in self.world.disk:
            self.outbox.append(SegmentsFree([name]))
        else:
            self.outbox.append(Discard([name]))

    def read(self, message: Any) -> None:
        match message:
            case Loan(request, size_bytes, directory, error, file):
                wanted, owner = self.puts.pop(request)
                inode = self.world.shm.pop(file, None)
                if inode is not None:
                    assert inode.size_bytes == wanted
                    inode.name = self.new_name()
                    self.world.shm[inode.name] = inode
                    self.spare.append(inode)
                assert bool(size_bytes) + bool(error) >= 1
                if directory:
                    thing = self.world.new_thing(self.new_name(), self, owner)
                    self.world.disk[thing.name] = [thing.number]
                    self.tell_made(thing, wanted, on_disk=True)
                elif not error:
                    assert size_bytes >= wanted
                    self.loan += size_bytes
                    asked = self.requests
                    self.put(wanted, owner)
                    assert self.requests == asked, "what was lent is enough"
            case Recall(size_bytes):
                self.give_back(size_bytes)
            case Evict(names):
                self.evict(names)
            case Orphaned(_, names):
                needed = {thing.name for thing in self.world.needed() if thing.owner is self}
                self.outbox.append(Discard([name for name in names if name not in needed]))
            case Restored(request, error, path, _):
                self.restored(self.restores.pop(request), error, path)

    def evict(self, names: Sequence[str]) -> None:
        idle = [name for name in names if not self.views.get(name)]
        for name in idle:
            if name in self.mine:
                self.loan -= self.mine.pop(name).size_bytes
            self.mapped.pop(name, None)
        in_use = [name for name in names if name not in idle]
        self.refused.update(in_use)
        self.outbox.append(Evicted(idle, in_use))

    def end_views(self, names: Sequence[str]) -> None:
        """Also tell of those that the daemon wanted meanwhile."""
        for name in names:
            del self.views[name], self.seen[name]
        wanted = [name for name in names if name in self.refused]
        self.refused.difference_update(wanted)
        if wanted:
            self.evict(wanted)

    def restored(self, thing: Thing, error: str, path: str) -> None:
        if error:
            assert thing.is_lost or not thing.is_needed
        elif path:
            file = path.removeprefix("/disk/")
            assert not thing.is_needed or thing.number in self.world.disk[file]
        elif thing.is_needed:
            assert thing.name in self.mine or thing.name in self.world.shm
            self.view(thing)
        else:
            self.outbox.append(SegmentsClosed([thing.name]))

    def give_back(self, size_bytes: int) -> None:
        given = min(self.room(), size_bytes)
        while given < size_bytes and self.spare:
            inode = self.spare.pop()
            self.world.remove(inode.name)
            inode.size_bytes, size = 0, inode.size_bytes
            given += size
        self.loan -= given
        self.outbox.append(LoanReturned(given))


class World:
    """Processes, a kernel and a disk around the machine."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.segments = Segments(budget_bytes, "/disk")
        self.now = 0.0
        self.shm: dict[str, Inode] = {}
        self.disk: dict[str, list[int]] = {}
        self.things: list[Thing] = []
        self.actors: list[Actor] = []
        self.started = 0
        self.spiller: list[Spill | Unspill] = []
        self.effects: deque[Effect] = deque()
        self.is_doing = False
        self.is_disk_full = False

    def start(self) -> Actor:
        self.started += 1
        actor = Actor(self, f"p{self.started}".encode())
        self.actors.append(actor)
        return actor

    def alive(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.is_alive]

    def new_thing(self, name: str, creator: Actor, owner: Actor) -> Thing:
        thing = Thing(len(self.things), name, creator, owner)
        self.things.append(thing)
        return thing

    def needed(self) -> list[Thing]:
        return [thing for thing in self.things if thing.is_needed]

    # -------------------------------------------------------------- what the shell does

    def tell(self, event: Event) -> None:
        self.now += 0.001
        self.effects += self.segments.handle(event, self.now)
        self.segments.check()
        if not self.is_doing:
            self.is_doing = True
            while self.effects:
                self.do(self.effects.popleft())
            self.is_doing = False
        for actor in self.alive():
            actor.check_views()

    def do(self, effect: Effect) -> None:
        match effect:
            case TellClient(client, message):
                actor = next((a for a in self.actors if a.client == client), None)
                assert actor is not None, "nothing is sent to who is gone"
                actor.inbox.append(message)
            case LendOnDisk(client, request, size_bytes):
                if self.is_disk_full:
                    self.tell(DiskFull(client, request, size_bytes, "the disk is full"))
                else:
                    self.do(TellClient(client, Loan(request, size_bytes, "/disk")))
            case CopiesDropped(names):
                for thing in self.things:
                    if thing.name in names and thing.is_needed:
                        assert thing.is_elsewhere
                        thing.is_dropped = True
            case UnlinkSegments(names):
                for name in names:
                    if name.startswith(VACANT_FILE):
                        if name in self.shm:
                            # It is cut first.
                            self.use_again(name)
                    else:
                        self.check_unlinked(name)
                        self.remove(name)
            case VacateFiles(name_of):
                self.vacate(name_of)
            case LendFile(client, request, size_bytes, name):
                file = f"{client.decode()}-{name.lstrip('.')}"
                if name in self.shm:
                    self.shm[file] = self.use_again(name)
                self.do(TellClient(client, Loan(request, size_bytes, file=file)))
            case SweepFiles(client):
                for name in [name for name in self.shm if self.is_left(name, client)]:
                    self.shm[name].size_bytes = 0
                    self.remove(name)
                for name in [name for name in self.disk if self.is_left(name, client)]:
                    del self.disk[name]
            case Spill() | Unspill():
                self.spiller.append(effect)
            case Unlink(files):
                for name in files:
                    for number in self.disk.pop(name, ()):
                        thing = self.things[number]
                        is_fetched = thing.name in self.disk
                        assert is_fetched or thing.is_lost or not thing.is_needed

    def vacate(self, name_of: dict[str, str]) -> None:
        for other, name in name_of.items():
            self.check_unlinked(name)
            self.shm[other] = self.shm.pop(name)
            self.shm[other].is_counted = True
        if any(actor.begun != actor.told for actor in self.actors):
            for other in name_of:
                self.shm.pop(other).is_counted = False
            self.tell(FilesGone(list(name_of)))

    def use_again(self, name: str) -> Inode:
        inode = self.shm.pop(name)
        mapped = [other for actor in self.alive() for other in actor.mapped.values()]
        assert not any(other is inode for other in mapped), "a process may read what is made here"
        inode.thing = -1
        return inode

    def is_left(self, name: str, client: bytes) -> bool:
        return name.startswith(f"{client.decode()}-") and not self.segments.knows(name)

    def check_unlinked(self, name: str) -> None:
        inode = self.shm[name]
        thing = self.things[inode.thing]
        for actor in self.alive():
            assert name not in actor.kept(), "a process may write a segment that it keeps"
        if thing.is_needed:
            assert any(thing.number in numbers for numbers in self.disk.values())
            for actor in self.alive():
                for message in actor.inbox:
                    if isinstance(message, Restored) and not message.path and not message.error:
                        assert actor.restores[message.request] is not thing
        inode.is_counted = self.is_told_of(inode)

    def has_name(self, inode: Inode) -> bool:
        return self.shm.get(inode.name) is inode

    def is_told_of(self, inode: Inode) -> bool:
        """Tell whether the daemon has heard who has it mapped."""
        return any(
            inode is actor.mapped.get(inode.name) and not actor.has_to_tell_of(inode.name)
            for actor in self.alive()
        )

    def remove(self, name: str) -> None:
        del self.shm[name]

    # -------------------------------------------------------------- what is under way

    def send(self, actor: Actor) -> None:
        """Let the daemon read one message of a process."""
        message = actor.outbox.popleft()
        names = {Restore: lambda m: [m.name], Discard: lambda m: m.segments}
        wanted = names.get(type(message), lambda _: [])(message)
        if not all(self.segments.knows(name) for name in wanted):
            # What others have sent by then is read first, by the same rule.
            for other in self.actors:
                while other.outbox and other is not actor:
                    self.send(other)
        self.hear(actor, message)

    def hear(self, actor: Actor, message: Any) -> None:
        if isinstance(message, SegmentsOpened):
            known = {facts.name: facts.state for facts in self.segments.list_segments()}
            for name in message.names:
                away = {"disk", "waiting", "fetching", "file", "lost"}
                inode = actor.mapped.get(name)
                if inode is None or inode is self.shm.get(name):
                    continue
                alike = {other.mapped[name] for other in self.actors if name in other.mapped}
                is_first = not any(other.is_counted for other in alike - {inode})
                if is_first and known.get(name) in away:
                    # It was opened just before it was unlinked.
                    inode.is_counted = True
                else:
                    # There is or was another file of this name, which counts for both.
                    inode.is_mistaken = True
            actor.told += len(message.names)
        self.tell(ClientSaid(actor.client, message))

    def write(self, *, fails: bool, index: int = 0, is_full: bool = False) -> None:
        """Let the spiller do one of its jobs."""
        job = self.spiller.pop(index % len(self.spiller))
        if isinstance(job, Spill):
            inodes = [self.shm[name] for name in job.names]
            assert [inode.size_bytes - 1 for inode in inodes] == job.sizes
            if fails:
                self.disk[job.file] = []
                self.tell(Spilled(job.batch, "the disk is broken", []))
                return
            self.disk[job.file] = [inode.thing for inode in inodes]
            self.tell(Spilled(job.batch, "", [(i, n, 0) for i, n in enumerate(job.sizes)]))
            return
        assert job.directory or job.name not in self.shm
        thing = self.things[self.disk[job.file][job.offset]]
        assert thing.name == job.name
        inode = self.use_again(job.over) if job.over in self.shm else None
        if fails and not job.directory:
            for actor in self.alive():
                if (old := actor.mapped.get(job.name)) is not None:
                    # It was opened just before it was unlinked, which shows only now.
                    old.is_counted = old.is_counted or self.is_told_of(old)
        if fails and is_full:
            self.tell(Unspilled(job.request, f"{FULL}no space left"))
        elif fails:
            thing.is_lost = True
            self.tell(Unspilled(job.request, "its checksum is wrong"))
        elif job.directory:
            self.disk[job.name] = [thing.number]
            self.tell(Unspilled(job.request, ""))
        else:
            inode = inode or Inode(job.name, job.segment_bytes, thing.number)
            assert inode.size_bytes == job.segment_bytes
            inode.name, inode.thing = job.name, thing.number
            self.shm[job.name] = inode
            self.tell(Unspilled(job.request, ""))

    def reap(self, actor: Actor) -> None:
        while actor.outbox:
            self.send(actor)
        self.tell(ClientLost(actor.client))
        self.actors.remove(actor)

    def kill(self, actor: Actor) -> None:
        actor.is_alive = False
        actor.opening = None
        actor.mapped.clear()
        actor.mine.clear()
        actor.spare.clear()
        actor.inbox.clear()

    def drop(self, thing: Thing) -> None:
        thing.is_dropped = True
        if thing.creator.is_alive:
            thing.creator.recycled.append(thing.name)
        else:
            thing.owner.outbox.append(Discard([thing.name]))

    def can_drop(self, thing: Thing) -> bool:
        return not any(
            actor.views.get(thing.name)
            or thing in actor.restores.values()
            or thing is actor.opening
            for actor in self.alive()
        )

    def settle(self, but: Actor | None = None) -> None:
        """Let everything happen that is under way, but for what one process does."""
        while True:
            for actor in self.actors.copy():
                if actor is but:
                    continue
                if not actor.is_alive:
                    self.reap(actor)
                    break
                if actor.opening is not None:
                    actor.go_on()
                    break
                if actor.recycled:
                    actor.recycle(actor.recycled.popleft())
                    break
                if actor.outbox:
                    self.send(actor)
                    break
                if actor.inbox:
                    actor.read(actor.inbox.popleft())
                    break
            else:
                at = self.segments.wake_at()
                if self.spiller:
                    self.write(fails=False)
                elif at is not None:
                    # What has fitted nowhere is tried again.
                    self.now = max(self.now, at)
                    self.tell(SegmentsTicked())
                else:
                    return

    def check_settled(self) -> None:
        """Nothing is under way, so nobody waits, and all bytes are where they are counted."""
        for actor in self.actors:
            assert not actor.puts
            assert not actor.restores
        usage = self.segments.usage()
        assert usage.waiting == 0
        assert usage.lent_bytes == sum(actor.loan for actor in self.actors)
        kept = {inode for actor in self.actors for inode in actor.kept().values()}
        mapped = {inode for actor in self.actors for inode in actor.mapped.values()}
        mistaken = {inode for inode in mapped if inode.is_mistaken and not self.has_name(inode)}
        node = {inode for inode in (*self.shm.values(), *mapped) if inode.is_counted}
        least = usage.lent_bytes + sum(inode.size_bytes for inode in node - kept - mistaken)
        assert least <= usage.used_bytes <= least + sum(inode.size_bytes for inode in mistaken)
        # Also of what its owner let go of when its creator was dead or dying.
        needed = {thing.name for thing in self.needed()}
        viewed = {name for actor in self.actors for name, views in actor.views.items() if views}
        assert {facts.name for facts in self.segments.list_segments()} <= needed | viewed
        for actor in self.actors:
            for name in actor.mapped.keys() - needed - viewed - self.shm.keys():
                assert not actor.mapped[name].size_bytes, "it keeps the memory of what is gone"
        for thing in self.needed():
            inode = self.shm.get(thing.name)
            if not thing.is_lost:
                on_disk = any(thing.number in numbers for numbers in self.disk.values())
                assert on_disk or (inode is not None and inode.thing == thing.number)

    def end(self) -> None:
        """Drop everything, and then all processes: nothing is left."""
        self.settle()
        for actor in self.actors:
            actor.end_views(list(actor.views))
        for thing in self.needed():
            self.drop(thing)
        self.settle()
        self.check_settled()
        for actor in self.actors.copy():
            actor.is_alive = False
            self.reap(actor)
        assert not self.shm
        assert not self.disk
        assert is_empty(self.segments)


MANY = (8, 24, 60, 8, 24, 8, 24)
ALIKE = (24,) * 8


class SegmentStories(RuleBasedStateMachine):
    """The machine against processes that have files, mappings and views of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(128 * MIB)
        for _ in range(3):
            self.world.start()

    @initialize(sizes=st.sampled_from([(), MANY, ALIKE, ALIKE]), remote=st.booleans())
    def begins(self, sizes: tuple[int, ...], remote: bool) -> None:
        """Some stories begin with more objects than there is room for."""
        self.world.segments = Segments(self.world.budget_bytes, "/disk", is_remote=remote)
        for number, size in enumerate(sizes):
            self.actor(number).put(size * MIB, self.actor(0))
            self.world.settle()

    def actor(self, index: int) -> Actor:
        actors = self.world.alive()
        actor = actors[index % len(actors)]
        actor.go_on()
        return actor

    @rule(
        who=st.integers(0, 3),
        owner=st.integers(0, 3),
        size=st.sampled_from([2, 8, 8, 24, 24, 60, 110, 200]),
        count=st.integers(1, 3),
    )
    def puts(self, who: int, owner: int, size: int, count: int) -> None:
        for _ in range(count):
            self.actor(who).put(size * MIB, self.actor(owner))

    @precondition(lambda self: self.world.needed())
    @rule(who=st.integers(0, 3), which=st.integers(0, 100), early=st.booleans())
    def views(self, who: int, which: int, early: bool) -> None:
        """Perhaps it looked for the file before somebody else had it restored."""
        things = self.world.needed()
        self.actor(who).view(things[which % len(things)], looked_early=early)

    @precondition(lambda self: self.world.needed())
    @rule(who=st.integers(0, 3), which=st.integers(0, 100))
    def begins_to_view(self, who: int, which: int) -> None:
        """It may find the file, or not any more; and then, what was a file of that name goes on."""
        things, actor = self.world.needed(), self.actor(who)
        thing = things[which % len(things)]
        if thing.name not in actor.mine and thing.name not in actor.mapped:
            actor.begin_to_open(thing)

    @precondition(lambda self: self.world.needed())
    @rule(who=st.integers(0, 3), which=st.integers(0, 100), count=st.integers(1, 6))
    def views_unheard_while_another_reads(self, who: int, which: int, count: int) -> None:
        reader, other = self.actor(who), self.actor(who + 1)
        things = self.world.needed()
        reader.view(things[which % len(things)])
        for number in range(count):
            other.end_views(list(other.views))
            other.view(things[(which + 1 + number) % len(things)])
            self.world.settle(but=reader)

    @rule(who=st.integers(0, 3), count=st.integers(1, 3))
    def ends_views(self, who: int, count: int) -> None:
        actor = self.actor(who)
        actor.end_views(list(actor.views)[:count])

    @rule(who=st.integers(0, 3))
    def closes(self, who: int) -> None:
        actor = self.actor(who)
        for name in [name for name in actor.mapped if name not in actor.views]:
            actor.close(name)

    @rule(which=st.integers(0, 100), count=st.integers(1, 4))
    def drops(self, which: int, count: int) -> None:
        for _ in range(count):
            things = [thing for thing in self.world.needed() if self.world.can_drop(thing)]
            if things:
                self.world.drop(things[which % len(things)])

    @precondition(lambda self: self.world.needed())
    @rule(which=st.integers(0, 100), is_elsewhere=st.booleans())
    def is_noted_as_a_copy(self, which: int, is_elsewhere: bool) -> None:
        things = self.world.needed()
        thing = things[which % len(things)]
        thing.is_elsewhere = is_elsewhere
        self.world.tell(CopyNoted(thing.name, is_elsewhere))

    @rule(who=st.integers(0, 4), count=st.integers(1, 4))
    def is_heard(self, who: int, count: int) -> None:
        """Also of who has died, and is not reaped yet."""
        actor = self.world.actors[who % len(self.world.actors)]
        for _ in range(count):
            if actor.outbox:
                self.world.send(actor)

    @rule(who=st.integers(0, 3), count=st.integers(1, 4))
    def reads(self, who: int, count: int) -> None:
        actor = self.actor(who)
        for _ in range(min(count, len(actor.inbox))):
            actor.read(actor.inbox.popleft())

    @rule(who=st.integers(0, 3))
    def reads_peers(self, who: int) -> None:
        actor = self.actor(who)
        while actor.recycled:
            actor.recycle(actor.recycled.popleft())

    @precondition(lambda self: self.world.spiller)
    @rule(
        index=st.integers(0, 2),
        fails=st.sampled_from([False, False, False, True]),
        is_full=st.booleans(),
    )
    def writes(self, index: int, fails: bool, is_full: bool) -> None:
        self.world.write(fails=fails, index=index, is_full=is_full)

    @rule(is_full=st.booleans())
    def disk(self, is_full: bool) -> None:
        self.world.is_disk_full = is_full

    @precondition(lambda self: len(self.world.actors) < 5)
    @rule(who=st.integers(0, 3))
    def dies(self, who: int) -> None:
        self.world.kill(self.actor(who))
        self.world.start()

    @rule()
    def reaps(self) -> None:
        for actor in [actor for actor in self.world.actors if not actor.is_alive]:
            self.world.reap(actor)

    @rule(size=st.integers(1, 20))
    def node_needs_room(self, size: int) -> None:
        self.world.tell(RoomAsked(size))

    @rule(elapsed_s=st.sampled_from([0.1, ANSWER_S, RETRY_S]))
    def waits(self, elapsed_s: float) -> None:
        self.world.now += elapsed_s
        at = self.world.segments.wake_at()
        if at is not None and at <= self.world.now:
            self.world.tell(SegmentsTicked())

    @rule(who=st.integers(0, 3))
    def all_others_go_on(self, who: int) -> None:
        actors = self.world.alive()
        self.world.settle(but=actors[who % len(actors)])

    @rule()
    def settles(self) -> None:
        self.world.settle()
        self.world.check_settled()

    def teardown(self) -> None:
        self.world.end()


def is_empty(segments: Segments) -> bool:
    """Tell whether the machine remembers nothing, but for who has ended."""
    tables = vars(segments) | vars(segments._table)
    sized = [value for value in tables.values() if isinstance(value, dict | set | list | deque)]
    remembered = (segments._gone, segments._buried)
    assert not segments.used_bytes
    return not any(value for value in sized if all(value is not each for each in remembered)) and (
        not segments.list_segments()
    )


TestSegmentStories = SegmentStories.TestCase
TestSegmentStories.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
)


# ------------------------------------------------------------------ fail the k-th effect


class Worn(World):
    """A world in which the k-th effect fails, k = 1, 2, ...: who is told something dies of it."""

    def __init__(self, fail_at: int, *, is_remote: bool) -> None:
        super().__init__(128 * MIB)
        self.segments = Segments(self.budget_bytes, "/disk", is_remote=is_remote)
        self.fail_at = fail_at
        self.done = 0

    def do(self, effect: Effect) -> None:
        self.done += 1
        if self.done != self.fail_at:
            super().do(effect)
            return
        match effect:
            case TellClient(client):
                self.kill(next(actor for actor in self.actors if actor.client == client))
            case LendOnDisk(client, request, size_bytes):
                self.tell(DiskFull(client, request, size_bytes, "the disk is full"))
            case Spill(batch, file):
                self.disk[file] = []
                self.tell(Spilled(batch, "the spiller died", []))
            case Unspill():
                self.things[self.disk[effect.file][effect.offset]].is_lost = True
                self.shm.pop(effect.over, None)
                self.tell(Unspilled(effect.request, "its checksum is wrong"))
            case _:
                # The daemon removes files itself.
                super().do(effect)


STEPS = st.tuples(st.sampled_from(["put", "view", "end views", "drop"]), st.integers(0, 2))


@settings(max_examples=60)
@given(
    steps=st.lists(st.tuples(STEPS, st.integers(0, 20)), min_size=1, max_size=12),
    is_remote=st.booleans(),
)
def test_an_effect_that_fails_at_any_place_of_a_story_leaves_nothing(
    steps: list[tuple[tuple[str, int], int]], is_remote: bool
) -> None:
    fail_at = 0
    while True:
        fail_at += 1
        world = Worn(fail_at, is_remote=is_remote)
        for _ in range(3):
            world.start()
        for (what, who), which in steps:
            actors = world.alive()
            actor = actors[who % len(actors)]
            things = world.needed()
            match what:
                case "put":
                    actor.put((60 if which % 2 else 24) * MIB, actors[which % len(actors)])
                case "view" if things:
                    actor.view(things[which % len(things)])
                case "end views":
                    actor.end_views(list(actor.views))
                case "drop" if things and world.can_drop(things[which % len(things)]):
                    world.drop(things[which % len(things)])
            if which % 3:
                # Else it is on its way while the next happens.
                world.settle()
                world.check_settled()
        world.end()
        if fail_at > world.done:
            break
