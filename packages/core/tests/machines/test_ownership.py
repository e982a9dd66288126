from __future__ import annotations

from collections import Counter, deque
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from weft._ids import ObjectId
from weft._machines.ownership import (
    Adopted,
    Counted,
    Discarded,
    Effect,
    Entry,
    Event,
    FreeAsked,
    Freed,
    Lent,
    ObjectMade,
    OwnerLost,
    OwnerMetAgain,
    Ownership,
    PeerLost,
    PeerParted,
    Pinned,
    Ready,
    Recycled,
    Registered,
    Released,
    Requested,
    Returned,
    Sealed,
    SendBorrow,
    SendBorrowed,
    SendFetch,
    SendFree,
    SendReturn,
    SendValue,
    TaskEnding,
    Unpinned,
    Wanted,
)
from weft._wire.messages import Failure, Held, Inline, Shared, Value


def an_id(number: int) -> ObjectId:
    return ObjectId(number.to_bytes(16, "big"))


A, B, C, D = (an_id(number) for number in (0xA, 0xB, 0xC, 0xD))
LINEAGE_BYTES = 1000
HERE = "here"
ELSEWHERE = "elsewhere"
GONE = Failure(b"gone")


def inline(*held: ObjectId, owner: str = HERE) -> Inline:
    return Inline(b"", [Held(object_id, owner) for object_id in held])


def shared(segment: str, *held: ObjectId) -> Shared:
    return Shared(segment, 1, HERE, [Held(object_id, HERE) for object_id in held])


class Table:
    """An Ownership whose invariants are checked after every event."""

    def __init__(self) -> None:
        self.machine = Ownership(LINEAGE_BYTES)

    def __call__(self, *events: Event) -> list[Effect]:
        effects: list[Effect] = []
        for event in events:
            effects = self.machine.handle(event)
            self.machine.check()
        return effects

    def __contains__(self, object_id: ObjectId) -> bool:
        return object_id in self.machine.entries

    def __getitem__(self, object_id: ObjectId) -> Entry:
        return self.machine.entries[object_id]

    def is_empty(self) -> bool:
        machine = self.machine
        left = (machine.entries, machine.unregistered, machine._requested, machine._lent_to)
        return not any(left)

    def put(self, object_id: ObjectId, value: Value | None = None) -> Entry:
        self(ObjectMade(object_id), Sealed(object_id, inline() if value is None else value))
        return self[object_id]

    def borrow(self, object_id: ObjectId, owner: str = ELSEWHERE) -> Entry:
        self(Adopted(object_id, owner, None, False), Registered([object_id], [], GONE))
        return self[object_id]


@pytest.fixture
def table() -> Table:
    return Table()


# ------------------------------------------------------------------ owned objects


def test_object_is_freed_when_its_last_reference_goes(table: Table) -> None:
    entry = table.put(A)
    table(Counted(A))
    assert table(Released([A])) == []
    assert table(Released([A])) == [Freed(entry)]
    assert table.is_empty()


def test_object_that_was_never_sealed_is_freed_too(table: Table) -> None:
    table(ObjectMade(A))
    entry = table[A]
    assert table(Released([A])) == [Freed(entry)]


def test_several_references_are_released_in_one_event(table: Table) -> None:
    first, second = table.put(A), table.put(B)
    table(Counted(A))
    assert table(Released([A, B, A])) == [Freed(second), Freed(first)]


def test_making_an_object_twice_raises_and_keeps_the_first(table: Table) -> None:
    entry = table.put(A)
    with pytest.raises(KeyError):
        table(ObjectMade(A))
    assert table[A] is entry


def test_sealing_tells_those_who_wait_and_then_those_who_asked(table: Table) -> None:
    table(ObjectMade(A), Requested(A, "p"), Requested(A, "q"))
    assert table(Sealed(A, inline())) == [
        Ready(table[A]),
        SendValue("p", A, inline()),
        SendValue("q", A, inline()),
    ]


def test_value_does_not_change_once_sealed(table: Table) -> None:
    table.put(A, inline())
    assert table(Sealed(A, Failure(b"late"))) == []
    assert table[A].value == inline()


def test_result_that_nobody_waits_for_gives_its_segment_back(table: Table) -> None:
    assert table(Sealed(A, shared("s"))) == [Recycled(shared("s"))]
    assert table(Sealed(A, inline())) == []


def test_result_that_comes_after_its_task_was_ended_gives_its_segment_back(table: Table) -> None:
    table.put(A, Failure(b"timed out"))
    assert table(Sealed(A, shared("s"))) == [Recycled(shared("s"))]


def test_sealing_with_the_same_segment_again_keeps_it(table: Table) -> None:
    table.put(A, shared("s"))
    assert table(Sealed(A, shared("s"))) == []


def test_freed_object_gives_its_segment_back(table: Table) -> None:
    entry = table.put(A, shared("s"))
    assert table(Released([A])) == [Freed(entry), Recycled(shared("s"))]


def test_failure_holds_nothing(table: Table) -> None:
    entry = table.put(A, GONE)
    assert table(Released([A])) == [Freed(entry)]


def test_pending_task_keeps_its_arguments(table: Table) -> None:
    entry = table.put(A)
    table(Pinned([A]), Released([A]))
    assert A in table
    assert table(Unpinned([A])) == [Freed(entry)]


@pytest.mark.parametrize(
    "event",
    [
        Counted(B),
        Pinned([A, B]),
        Unpinned([A, B]),
        Requested(B, "p"),
        Wanted(B),
    ],
)
def test_event_about_an_unknown_object_raises_and_changes_nothing(
    table: Table, event: Event
) -> None:
    table.put(A)
    table(Pinned([A]))
    with pytest.raises(KeyError):
        table(event)
    assert (table[A].local, table[A].pins) == (1, 1)
    assert B not in table


def test_releasing_an_unknown_object_does_nothing(table: Table) -> None:
    assert table(Released([A])) == []


def test_released_reference_of_a_pinned_object_is_counted(table: Table) -> None:
    table.put(A)
    table(Pinned([A]), Released([A]), Counted(A), Unpinned([A]))
    assert table[A].local == 1


# ------------------------------------------------------------------ values that hold references


def test_object_inside_another_lives_as_long_as_that(table: Table) -> None:
    inner, outer = table.put(A), table.put(B, inline(A))
    table(Released([A]))
    assert A in table
    assert table(Released([B])) == [Freed(outer), Freed(inner)]


def test_object_inside_an_error_lives_as_long_as_the_failed_one(table: Table) -> None:
    inner, failed = table.put(A), table.put(B, Failure(b"error", [Held(A, HERE)]))
    table(Released([A]))
    assert A in table
    assert table(Released([B])) == [Freed(failed), Freed(inner)]


def test_object_held_twice_by_one_value_is_freed_once(table: Table) -> None:
    inner, outer = table.put(A), table.put(B, inline(A, A))
    table(Released([A]))
    assert table(Released([B])) == [Freed(outer), Freed(inner)]


def test_object_held_by_two_values_outlives_the_first(table: Table) -> None:
    inner = table.put(A)
    table.put(B, inline(A))
    outer = table.put(C, inline(A))
    table(Released([A]), Released([B]))
    assert A in table
    assert table(Released([C])) == [Freed(outer), Freed(inner)]


def test_freeing_a_long_chain_of_objects_needs_no_deep_stack(table: Table) -> None:
    machine, length = table.machine, 20_000
    table.put(an_id(1))
    for number in range(2, length + 1):
        machine.handle(ObjectMade(an_id(number)))
        machine.handle(Sealed(an_id(number), inline(an_id(number - 1))))
        machine.handle(Released([an_id(number - 1)]))
    effects = table(Released([an_id(length)]))
    assert len(effects) == length
    assert table.is_empty()


def test_result_that_holds_a_borrowed_reference_registers_with_its_owner(table: Table) -> None:
    table(ObjectMade(A))
    value = inline(B, owner=ELSEWHERE)
    assert table(Sealed(A, value)) == [SendBorrow(ELSEWHERE, [B]), Ready(table[A])]
    table(Registered([B], [], GONE))
    assert B in table
    assert table(Released([A]))[1:] == [SendReturn(ELSEWHERE, [B])]
    assert table.is_empty()


def test_value_that_is_freed_while_its_inner_reference_registers_returns_it_after(
    table: Table,
) -> None:
    entry = table.put(A, inline(B, owner=ELSEWHERE))
    assert table(Released([A])) == [Freed(entry)]
    assert table(Registered([B], [], GONE)) == [SendReturn(ELSEWHERE, [B])]
    assert table.is_empty()


# ------------------------------------------------------------------ lending


def test_borrower_keeps_an_object(table: Table) -> None:
    entry = table.put(A)
    assert not table.machine.is_lender
    assert table(Lent("p", [A])) == [SendBorrowed("p", [A], [])]
    assert table.machine.is_lender
    table(Lent("q", [A]), Released([A]), Returned("p", [A]))
    assert A in table
    assert table(Returned("q", [A])) == [Freed(entry)]
    assert table.is_empty()


def test_borrower_of_a_freed_object_is_told_that_it_is_lost(table: Table) -> None:
    table.put(A)
    assert table(Lent("p", [A, B])) == [SendBorrowed("p", [A], [B])]


def test_object_of_another_process_is_not_lent(table: Table) -> None:
    table.borrow(A)
    assert table(Lent("p", [A])) == [SendBorrowed("p", [], [A])]


def test_return_of_what_was_not_lent_changes_nothing(table: Table) -> None:
    table.put(A)
    assert table(Returned("p", [A, B])) == []
    table(Lent("p", [A]))
    assert table(Returned("q", [A])) == []
    assert table[A].borrowers == {"p"}


def test_lost_process_borrows_nothing(table: Table) -> None:
    first = table.put(A)
    table.put(B)
    table(Lent("p", [A, B]), Lent("q", [B]), Released([A, B]))
    assert table(PeerLost("p")) == [Freed(first)]
    assert table[B].borrowers == {"q"}
    assert table(PeerLost("unknown")) == []


def test_lost_process_that_had_returned_some_gives_up_the_rest(table: Table) -> None:
    first, second = table.put(A), table.put(B)
    table(Lent("p", [A, B]), Released([A, B]))
    assert table(Returned("p", [A])) == [Freed(first)]
    assert table(PeerLost("p")) == [Freed(second)]
    assert table.is_empty()


def test_known_value_is_sent_at_once(table: Table) -> None:
    table.put(A, GONE)
    assert table(Requested(A, "p")) == [SendValue("p", A, GONE)]


def test_object_that_was_asked_for_lives_until_the_answer(table: Table) -> None:
    table(ObjectMade(A))
    entry = table[A]
    table(Requested(A, "p"), Released([A]))
    assert A in table
    assert table(Sealed(A, shared("s"))) == [
        Ready(entry),
        SendValue("p", A, shared("s")),
        Freed(entry),
        Recycled(shared("s")),
    ]
    assert table.is_empty()


def test_lost_process_is_not_answered(table: Table) -> None:
    table(ObjectMade(A), Requested(A, "p"), Requested(A, "q"), Requested(A, "p"))
    table(PeerLost("p"))
    assert table(Sealed(A, inline()))[1:] == [SendValue("q", A, inline())]


def test_object_that_only_a_lost_process_asked_for_is_freed(table: Table) -> None:
    table(ObjectMade(A))
    entry = table[A]
    table(ObjectMade(B), Requested(A, "p"), Requested(B, "p"), Released([A]))
    assert table(PeerLost("p")) == [Freed(entry)]
    assert B in table
    table(Released([B]))
    assert table.is_empty()


def test_process_whose_connection_broke_borrows_on_and_asks_anew(table: Table) -> None:
    table(ObjectMade(A), ObjectMade(B), Lent("p", [A]), Requested(A, "p"), Requested(B, "p"))
    entry = table[B]
    table(Released([A, B]))
    assert table.machine.lends_to("p")
    assert table(PeerParted("p")) == [Freed(entry)], "only the request kept it"
    assert table(Sealed(A, inline())) == [Ready(table[A])]
    table(Lent("p again", [A]), PeerLost("p"))
    assert not table.machine.lends_to("p")
    assert A in table


# ------------------------------------------------------------------ borrowing


def test_reference_from_elsewhere_is_registered_and_returned_once(table: Table) -> None:
    assert table(Adopted(A, ELSEWHERE, None, False)) == [SendBorrow(ELSEWHERE, [A])]
    assert table(Adopted(A, ELSEWHERE, None, False)) == []
    table(Registered([A], [], GONE))
    assert table(Released([A])) == []
    assert table(Released([A])) == [SendReturn(ELSEWHERE, [A])]
    assert table.is_empty()


def test_reference_that_goes_before_it_is_registered_is_returned_after(table: Table) -> None:
    table(Adopted(A, ELSEWHERE, None, False))
    assert table(Released([A])) == []
    assert table(Registered([A], [], GONE)) == [SendReturn(ELSEWHERE, [A])]
    assert table.is_empty()


def test_keeper_is_pinned_until_its_reference_is_registered(table: Table) -> None:
    table.borrow(A)
    table(Adopted(B, "third", A, False), Released([A]))
    assert A in table
    assert table(Registered([B], [], GONE)) == [SendReturn(ELSEWHERE, [A])]
    assert B in table


def test_keeper_that_is_unknown_keeps_nothing(table: Table) -> None:
    assert table(Adopted(B, ELSEWHERE, A, False)) == [SendBorrow(ELSEWHERE, [B])]
    assert table[B].keeps is None


def test_reference_that_a_running_task_keeps_is_registered_at_its_end(table: Table) -> None:
    assert table(Adopted(A, "one", None, True)) == []
    table(Adopted(B, "two", None, True), Adopted(C, "one", None, True))
    assert table(TaskEnding()) == [SendBorrow("one", [A, C]), SendBorrow("two", [B])]
    assert table(TaskEnding()) == []


def test_reference_that_a_task_drops_again_is_never_registered(table: Table) -> None:
    table(Adopted(A, ELSEWHERE, None, True))
    assert table(Released([A])) == []
    assert table(TaskEnding()) == []
    assert table.is_empty()


def test_reference_that_a_task_puts_into_an_object_is_registered_at_its_end(table: Table) -> None:
    table(Adopted(A, ELSEWHERE, None, True))
    table.put(B, inline(A, owner=ELSEWHERE))
    table(Released([A]))
    assert table(TaskEnding()) == [SendBorrow(ELSEWHERE, [A])]


def test_value_of_a_borrowed_object_is_fetched_once(table: Table) -> None:
    table.borrow(A)
    assert table(Wanted(A)) == [SendFetch(ELSEWHERE, A)]
    assert table(Wanted(A)) == []
    assert table(Sealed(A, shared("s"))) == [Ready(table[A])]
    assert table(Wanted(A)) == []


def test_value_of_an_own_object_is_not_fetched(table: Table) -> None:
    table(ObjectMade(A))
    assert table(Wanted(A)) == []


def test_borrower_of_a_value_does_not_pin_what_lies_inside(table: Table) -> None:
    table.borrow(A)
    assert table(Sealed(A, inline(B))) == [Ready(table[A])]
    assert B not in table


def test_borrower_never_recycles_a_segment(table: Table) -> None:
    table.borrow(A)
    table(Sealed(A, shared("s")))
    assert table(Sealed(A, shared("other"))) == []
    assert table(Released([A])) == [SendReturn(ELSEWHERE, [A])]


def test_registration_that_came_too_late_ends_in_a_failure(table: Table) -> None:
    table(Adopted(A, ELSEWHERE, None, False))
    assert table(Registered([], [A], GONE)) == [Ready(table[A])]
    assert table[A].value == GONE
    assert table(Released([A])) == []
    assert table.is_empty()


def test_registration_that_came_too_late_keeps_a_known_value(table: Table) -> None:
    table(Adopted(A, ELSEWHERE, None, False), Sealed(A, inline()))
    assert table(Registered([], [A], GONE)) == []
    assert table[A].value == inline()


def test_registration_that_came_too_late_for_a_dropped_reference_ends_it(table: Table) -> None:
    table(Adopted(A, ELSEWHERE, None, False), Released([A]))
    table(Registered([], [A], GONE))
    assert table.is_empty()


def test_registration_of_what_was_not_asked_for_changes_nothing(table: Table) -> None:
    table.borrow(A)
    table.put(B)
    assert table(Registered([A, B, C], [D], GONE)) == []
    assert (table[A].registered, table[B].registered) == ("yes", "no")


def test_request_for_a_borrowed_object_is_answered_with_what_becomes_of_it(table: Table) -> None:
    table(Adopted(A, ELSEWHERE, None, False))
    entry = table[A]
    table(Requested(A, "p"), Released([A]))
    assert table(Registered([], [A], GONE)) == [Ready(entry), SendValue("p", A, GONE)]
    assert table.is_empty()


# ------------------------------------------------------------------ owners that are gone


def test_object_of_a_lost_owner_becomes_its_failure(table: Table) -> None:
    table.borrow(A)
    table.borrow(B, "other")
    assert table(OwnerLost(ELSEWHERE, GONE)) == [Ready(table[A])]
    assert table[A].value == GONE
    assert table[B].value is None
    assert table(Released([A])) == []


def test_value_that_is_known_outlives_its_owner(table: Table) -> None:
    table.borrow(A)
    table(Sealed(A, inline()))
    assert table(OwnerLost(ELSEWHERE, GONE)) == []
    assert table[A].value == inline()


def test_registration_with_a_lost_owner_is_over(table: Table) -> None:
    table.borrow(C, "keeper's owner")
    table(Adopted(A, ELSEWHERE, C, False), Adopted(B, ELSEWHERE, None, True), Released([A, C]))
    assert table(OwnerLost(ELSEWHERE, GONE)) == [
        SendReturn("keeper's owner", [C]),
        Ready(Entry_of(A)),
        Ready(table[B]),
    ]
    assert table(TaskEnding()) == []
    assert table.machine.entries.keys() == {B}


def test_keeper_of_the_same_lost_owner_leaves_with_it(table: Table) -> None:
    table.borrow(A)
    table(Adopted(B, ELSEWHERE, A, False), Released([A, B]))
    table(OwnerLost(ELSEWHERE, GONE))
    assert table.is_empty()


def test_owner_with_another_connection_is_told_and_asked_all_that_it_may_have_missed(
    table: Table,
) -> None:
    table.borrow(A)
    table.borrow(B, "other")
    table(Adopted(C, ELSEWHERE, None, False), Adopted(D, ELSEWHERE, None, True))
    table(Wanted(A), Wanted(C), Wanted(D), Sealed(C, inline()))
    assert table.machine.borrows_from(ELSEWHERE)
    assert not table.machine.borrows_from("nobody")
    assert table(OwnerMetAgain(ELSEWHERE)) == [
        SendBorrow(ELSEWHERE, [A, C]),
        SendFetch(ELSEWHERE, A),
        SendFetch(ELSEWHERE, D),
    ]
    table(Released([A]))
    assert A in table, "it may not be returned before it is registered"
    assert table(Registered([A], [], GONE)) == [SendReturn(ELSEWHERE, [A])]
    assert table(OwnerMetAgain("nobody")) == []


# ------------------------------------------------------------------ freed by hand


def test_object_that_is_freed_by_hand_is_a_failure_and_its_segment_is_removed(
    table: Table,
) -> None:
    table.put(B)
    entry = table.put(A, shared("s", B))
    inner = table[B]
    table(Released([B]))
    assert table(FreeAsked(A, GONE)) == [Discarded(shared("s", B)), Freed(inner)]
    assert table[A].value == GONE
    assert table(FreeAsked(A, GONE)) == []
    assert table(Requested(A, "p")) == [SendValue("p", A, GONE)]
    assert table(Released([A])) == [Freed(entry)]


def test_small_object_that_is_freed_by_hand_has_no_segment(table: Table) -> None:
    table.put(A)
    assert table(FreeAsked(A, GONE)) == []
    assert table[A].value == GONE


def test_result_that_is_freed_before_it_comes_is_given_back(table: Table) -> None:
    table(ObjectMade(A), Requested(A, "p"))
    assert table(FreeAsked(A, GONE)) == [Ready(table[A]), SendValue("p", A, GONE)]
    assert table(Sealed(A, shared("s"))) == [Recycled(shared("s"))]
    assert table[A].value == GONE


def test_borrower_that_frees_tells_the_owner(table: Table) -> None:
    table.borrow(A)
    table(Sealed(A, shared("s")))
    assert table(FreeAsked(A, GONE)) == [SendFree(ELSEWHERE, A)]
    assert table[A].value == GONE


def test_borrower_that_frees_what_it_does_not_have_waits_for_it_no_longer(table: Table) -> None:
    entry = table.borrow(A)
    table(Wanted(A))
    assert table(FreeAsked(A, GONE)) == [SendFree(ELSEWHERE, A), Ready(entry)]
    assert table(Sealed(A, inline())) == []


def test_unknown_object_is_freed_already(table: Table) -> None:
    assert table(FreeAsked(A, GONE)) == []


class Entry_of:  # noqa: N801 - stands for an entry in a list of effects
    """Equal to the entry of an object that has left the table."""

    def __init__(self, object_id: ObjectId) -> None:
        self.id = object_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]


# ------------------------------------------------------------------ check


def test_check_names_the_rule_that_is_broken(table: Table) -> None:
    table.put(A)
    table[A].local = 0
    with pytest.raises(AssertionError, match="1, "):
        table.machine.check()


def test_check_finds_an_object_that_a_value_does_not_pin(table: Table) -> None:
    table.put(A)
    table.put(B, inline(A))
    table[A].pins = 0
    with pytest.raises(AssertionError, match="2, "):
        table.machine.check()


# ------------------------------------------------------------------ several processes


class Handing(msgspec.Struct, eq=False):
    """A task of the model: what it was given, where it runs, what it holds on to."""

    caller: str
    worker: str
    result: ObjectId
    args: list[ObjectId]
    """References inside the arguments: the caller holds one more of each until the end."""
    dep: ObjectId | None
    """An argument whose value is sent."""
    returned: list[ObjectId] = []
    """Inside the result: the worker holds one more of each until the caller has counted them."""
    value: Value | None = None
    has_ended: bool = False
    """For the caller."""
    is_settled: bool = False
    """For the worker."""


class Process:
    """The shell of the model: one table, the references in users' hands."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.machine = Ownership(LINEAGE_BYTES)
        self.refs: Counter[ObjectId] = Counter()
        """Living references and views in users' hands."""
        self.kept: Counter[ObjectId] = Counter()
        """Those that the shell keeps: inside arguments and results on their way."""
        self.waiting: list[tuple[set[ObjectId], Any]] = []
        """What is done once these are registered."""


FORMS = st.sampled_from(["inline", "shared", "failure"])


class Processes(RuleBasedStateMachine):
    """Processes that exchange references: in order on each link, and arbitrarily between links.

    The naive model is the set of living references: what one of them reaches must exist, and once
    all is quiet nothing else may.
    """

    NAMES = ("p", "q", "r")

    def __init__(self) -> None:
        super().__init__()
        self.processes = {name: Process(name) for name in self.NAMES}
        self.links: dict[tuple[str, str], deque[tuple[Any, ...]]] = {}
        self.owner_of: dict[ObjectId, str] = {}
        self.tasks: list[Handing] = []
        """That run."""
        self.handed: list[Handing] = []
        """All that ever were."""
        self.segments: Counter[str] = Counter()
        """Not given back yet."""
        self.inside: dict[ObjectId, list[ObjectId]] = {}
        """What the value of each object holds."""
        self.made = 0
        self.crashed = False
        self.breaks: Counter[frozenset[str]] = Counter()
        """How often the connection of two broke."""
        self.parted: list[tuple[str, tuple[str, int]]] = []
        """Who may still borrow over a connection that broke, and of whom."""

    # -------------------------------------------------------------- the shell

    def tell(self, name: str, event: Event) -> None:
        process = self.processes[name]
        effects = process.machine.handle(event)
        process.machine.check()
        for effect in effects:
            match effect:
                case Recycled():
                    self.segments[effect.value.segment] -= 1
                    assert self.segments[effect.value.segment] == 0, "given back twice"
                case Discarded():
                    self.segments[effect.value.segment] -= 1
                    assert self.segments[effect.value.segment] == 0, "given back twice"
                case SendFree():
                    self.ask_owner(name, effect.owner, ("free", effect.object_id))
                case SendBorrow():
                    self.ask_owner(name, effect.owner, ("borrow", effect.object_ids))
                case SendFetch():
                    self.ask_owner(name, effect.owner, ("fetch", effect.object_id))
                case SendReturn():
                    self.send(name, effect.owner, ("return", effect.object_ids))
                case SendBorrowed():
                    self.reply(name, effect.peer, ("borrowed", effect.object_ids, effect.lost))
                case SendValue():
                    self.reply(name, effect.peer, ("fetched", effect.object_id, effect.value))
        self.go_on(process)

    def peer(self, source: str, target: str) -> tuple[str, int]:
        """Return what one process is for another: a connection."""
        return source, self.breaks[frozenset((source, target))]

    def reply(self, source: str, peer: tuple[str, int], message: tuple[Any, ...]) -> None:
        assert peer == self.peer(peer[0], source), "nobody hears that"
        self.send(source, peer[0], message)

    def go_on(self, process: Process) -> None:
        """Do what has waited for registrations."""
        entries = process.machine.entries
        for waited in list(process.waiting):
            object_ids, action = waited
            if waited in process.waiting and not any(
                key in entries and entries[key].registered == "asked" for key in object_ids
            ):
                process.waiting.remove(waited)
                action()

    def when_registered(self, name: str, object_ids: set[ObjectId], action: Any) -> None:
        process = self.processes[name]
        process.waiting.append((object_ids, action))
        self.go_on(process)

    def send(self, source: str, target: str, message: tuple[Any, ...]) -> None:
        if target in self.processes:
            self.links.setdefault((source, target), deque()).append(message)

    def ask_owner(self, source: str, owner: str, message: tuple[Any, ...]) -> None:
        if owner in self.processes:
            self.send(source, owner, message)
        else:
            self.tell(source, OwnerLost(owner, GONE))

    def hold(self, name: str, object_id: ObjectId, *, keeper: ObjectId | None, defer: bool) -> None:
        """One more reference comes to exist in the process."""
        if self.owner_of[object_id] == name:
            self.tell(name, Counted(object_id))
        else:
            self.tell(name, Adopted(object_id, self.owner_of[object_id], keeper, defer))
        self.processes[name].refs[object_id] += 1

    def hold_again(self, name: str, object_id: ObjectId) -> None:
        self.tell(name, Counted(object_id))
        self.processes[name].refs[object_id] += 1

    def let_go(self, name: str, object_ids: list[ObjectId]) -> None:
        self.processes[name].refs.subtract(object_ids)
        self.tell(name, Released(object_ids))

    def keep(self, name: str, object_ids: list[ObjectId]) -> None:
        for object_id in object_ids:
            self.tell(name, Counted(object_id))
        self.processes[name].kept.update(object_ids)

    def keep_no_more(self, name: str, object_ids: list[ObjectId]) -> None:
        self.processes[name].kept.subtract(object_ids)
        self.tell(name, Released(object_ids))

    def new_value(self, name: str, held: list[ObjectId], form: str) -> Value:
        inside = [Held(object_id, self.owner_of[object_id]) for object_id in held]
        if form == "inline":
            return Inline(b"", inside)
        if form == "failure":
            return Failure(b"", inside)
        segment = f"segment {len(self.segments)}"
        self.segments[segment] = 1
        return Shared(segment, 1, name, inside)

    def new_object(self, name: str) -> ObjectId:
        self.made += 1
        object_id = an_id(self.made)
        self.owner_of[object_id] = name
        self.tell(name, ObjectMade(object_id))
        self.processes[name].refs[object_id] += 1
        return object_id

    def held_by(self, name: str) -> list[ObjectId]:
        return sorted(key for key, count in self.processes[name].refs.items() if count > 0)

    def some(self, data: st.DataObject, name: str, most: int = 3) -> list[ObjectId]:
        held = self.held_by(name)
        return data.draw(st.lists(st.sampled_from(held), max_size=most)) if held else []

    def one_process(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.processes)))

    # -------------------------------------------------------------- what users do

    @initialize()
    def hand_round(self) -> None:
        """Each has an object of its neighbour, which holds one of the neighbour's neighbour."""
        ring = list(zip(self.NAMES, (*self.NAMES[1:], self.NAMES[0]), strict=True))
        inner = {name: self.put_value(name, [], "inline") for name in self.NAMES}
        for name, neighbour in ring:
            self.hand(name, neighbour, [inner[name]], None)
        self.settle()
        outer = {after: self.put_value(after, [inner[name]], "shared") for name, after in ring}
        for name, neighbour in ring:
            self.hand(name, neighbour, [outer[name]], None)
            self.let_go(neighbour, [inner[name]])
        self.settle()

    @rule(data=st.data(), form=FORMS)
    def put(self, data: st.DataObject, form: str) -> None:
        name = self.one_process(data)
        self.put_value(name, self.some(data, name), form)

    def put_value(self, name: str, held: list[ObjectId], form: str) -> ObjectId:
        object_id = self.new_object(name)
        self.inside[object_id] = held
        self.tell(name, Sealed(object_id, self.new_value(name, held, form)))
        return object_id

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        name = self.one_process(data)
        dropped = dict.fromkeys(self.some(data, name, most=2))
        refs = self.processes[name].refs
        self.let_go(name, [object_id for object_id in dropped for _ in range(refs[object_id])])

    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        name = self.one_process(data)
        for object_id in self.some(data, name, most=1):
            value = self.processes[name].machine.entries[object_id].value
            if value is None:
                self.tell(name, Wanted(object_id))
            else:
                if isinstance(value, Shared):
                    self.hold_again(name, object_id)  # a view
                for held in value.held:
                    self.hold(name, ObjectId(held.object_id), keeper=object_id, defer=False)

    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        caller, worker = self.one_process(data), self.one_process(data)
        args = self.some(data, caller)
        entries = self.processes[caller].machine.entries
        dep = next(iter(self.some(data, caller, most=1)), None)
        if dep is not None and not isinstance(entries[dep].value, Inline | Shared):
            dep = None
        self.hand(caller, worker, args, dep)

    def hand(self, caller: str, worker: str, args: list[ObjectId], dep: ObjectId | None) -> None:
        self.keep(caller, [*args, *([dep] if dep else ())])
        task = Handing(caller, worker, self.new_object(caller), args, dep)
        self.handed.append(task)
        value = self.processes[caller].machine.entries[dep].value if dep else None
        self.send(caller, worker, ("run", task, value))

    @rule(data=st.data(), form=FORMS)
    @precondition(lambda self: self.tasks)
    def end_task(self, data: st.DataObject, form: str) -> None:
        task = data.draw(st.sampled_from(self.tasks))
        self.finish(task, self.some(data, task.worker), self.some(data, task.worker), form)

    def finish(
        self, task: Handing, returned: list[ObjectId], dropped: list[ObjectId], form: str
    ) -> None:
        self.tasks.remove(task)
        worker = task.worker
        # Objects that hold each other are never freed: counting cannot see that nobody needs them.
        returned = [key for key in returned if task.result not in self.reached({key})]
        self.keep(worker, returned)
        task.returned = self.inside[task.result] = returned
        task.value = self.new_value(worker, returned, form)
        self.let_go(worker, list(dict.fromkeys(dropped)))
        self.tell(worker, TaskEnding())
        entries = self.processes[worker].machine.entries
        asked = {key for key, entry in entries.items() if entry.registered == "asked"}
        self.when_registered(worker, asked, lambda: self.answer(task))

    def answer(self, task: Handing) -> None:
        if task.caller in self.processes:
            self.send(task.worker, task.caller, ("done", task))
        else:
            self.settle_task(task)

    def settle_task(self, task: Handing) -> None:
        task.is_settled = True
        self.keep_no_more(task.worker, task.returned)

    # -------------------------------------------------------------- what comes over the links

    @rule(data=st.data())
    @precondition(lambda self: any(self.links.values()))
    def deliver(self, data: st.DataObject) -> None:
        self.deliver_one(data.draw(st.sampled_from(sorted(k for k, v in self.links.items() if v))))

    def deliver_one(self, link: tuple[str, str]) -> None:
        source, target = link
        match self.links[link].popleft():
            case ("borrow", object_ids):
                self.tell(target, Lent(self.peer(source, target), object_ids))
                self.end_partings(target, source)
            case ("borrowed", object_ids, lost):
                assert self.crashed or not lost, "freed too early"
                self.tell(target, Registered(object_ids, lost, GONE))
            case ("return", object_ids):
                self.tell(target, Returned(self.peer(source, target), object_ids))
            case ("free", object_id):
                self.free(target, object_id)
            case ("fetch", object_id):
                if object_id in self.processes[target].machine.entries:
                    self.tell(target, Requested(object_id, self.peer(source, target)))
                else:
                    assert self.crashed, "freed too early"
                    self.send(target, source, ("fetched", object_id, GONE))
            case ("fetched", object_id, value):
                if object_id in self.processes[target].machine.entries:
                    self.tell(target, Sealed(object_id, value))
            case ("run", task, value):
                self.tasks.append(task)
                if isinstance(value, Shared) and self.can_hold(target, task.dep):
                    self.hold(target, task.dep, keeper=None, defer=True)
                    if self.owner_of[task.dep] != target:
                        self.tell(target, Sealed(task.dep, value))
                inside = [] if value is None else [ObjectId(held.object_id) for held in value.held]
                for object_id in (*task.args, *inside):
                    if self.can_hold(target, object_id):
                        self.hold(target, object_id, keeper=None, defer=True)
            case ("done", task):
                self.tell(target, Sealed(task.result, task.value))
                self.end(task)
                held = {ObjectId(held.object_id) for held in task.value.held}
                self.when_registered(
                    target, held, lambda: self.send(target, source, ("settled", task))
                )
            case ("settled", task):
                self.settle_task(task)

    def end_partings(self, name: str, other: str) -> None:
        """Who was parted has borrowed again, or stays away."""
        for parting in [each for each in self.parted if each[0] == name and each[1][0] == other]:
            self.parted.remove(parting)
            self.tell(name, PeerLost(parting[1]))

    def free(self, name: str, object_id: ObjectId) -> None:
        if name == self.owner_of[object_id]:
            self.inside[object_id] = []
        self.tell(name, FreeAsked(object_id, GONE))

    def can_hold(self, name: str, object_id: ObjectId) -> bool:
        """Only a crash may have taken an object that arrives at its owner."""
        if self.owner_of[object_id] != name or object_id in self.processes[name].machine.entries:
            return True
        assert self.crashed, "freed too early"
        return False

    def end(self, task: Handing) -> None:
        task.has_ended = True
        self.keep_no_more(task.caller, [*task.args, *([task.dep] if task.dep else ())])

    # -------------------------------------------------------------- what must hold

    @invariant()
    def what_a_reference_stands_for_exists(self) -> None:
        if self.crashed:
            return
        for process in self.processes.values():
            for object_id in +process.refs + process.kept:
                owner = self.processes[self.owner_of[object_id]]
                assert object_id in process.machine.entries
                assert object_id in owner.machine.entries, "freed too early"

    @rule()
    def settle(self) -> None:
        """Deliver everything, end all tasks: then exactly what references reach is kept."""
        while self.tasks or any(self.links.values()) or self.parted:
            for task in list(self.tasks):
                self.finish(task, [], [], "inline")
            for link in [link for link, messages in self.links.items() if messages]:
                self.deliver_one(link)
            if not any(self.links.values()):
                for name, (other, _) in list(self.parted):
                    self.end_partings(name, other)
        if not self.crashed:
            kept = {
                object_id
                for process in self.processes.values()
                for object_id, entry in process.machine.entries.items()
                if not entry.owner
            }
            assert kept == self.reached(
                {key for process in self.processes.values() for key in +process.refs}
            )

    def reached(self, object_ids: set[ObjectId]) -> set[ObjectId]:
        found: set[ObjectId] = set()
        while object_ids:
            found |= object_ids
            object_ids = {key for outer in object_ids for key in self.inside.get(outer, ())} - found
        return found

    def teardown(self) -> None:
        self.settle()
        for name, process in self.processes.items():
            self.let_go(name, list((+process.refs).elements()))
        self.settle()
        for process in self.processes.values():
            machine = process.machine
            assert not machine.entries
            assert not machine.unregistered
            assert not machine._requested
            assert not machine._lent_to
            assert not process.waiting
        assert self.crashed or not +self.segments


class PartingProcesses(Processes):
    """Connections break and are made again: nothing is freed too early, and nothing stays."""

    @rule(data=st.data())
    def part(self, data: st.DataObject) -> None:
        pair = sorted(data.draw(st.permutations(self.NAMES))[:2])
        both = list(zip(pair, reversed(pair), strict=True))
        for link in both:
            # What tasks say is told again by others; here all of it arrives.
            kept = [m for m in self.links.get(link, ()) if m[0] in {"run", "done", "settled"}]
            self.links[link] = deque(kept)
        before = [self.peer(other, name) for name, other in both]
        self.breaks[frozenset(pair)] += 1
        for (name, _), peer in zip(both, before, strict=True):
            self.parted.append((name, peer))
            self.tell(name, PeerParted(peer))
        for name, other in both:
            self.tell(name, OwnerMetAgain(other))


class CrashingProcesses(Processes):
    """Some of the processes die: whatever was lost with them, the others' tables end empty."""

    NAMES = ("p", "q", "r", "s")

    @rule(data=st.data())
    @precondition(lambda self: len(self.processes) > 2)
    def crash(self, data: st.DataObject) -> None:
        name = self.one_process(data)
        self.crashed = True
        del self.processes[name]
        self.tasks = [task for task in self.tasks if task.worker != name]
        for link in [link for link in self.links if name in link]:
            del self.links[link]
        for other in self.processes:
            self.tell(other, PeerLost(self.peer(name, other)))
            self.tell(other, OwnerLost(name, GONE))
        for task in self.handed:
            if task.worker == name and task.caller in self.processes and not task.has_ended:
                self.tell(task.caller, Sealed(task.result, GONE))
                self.end(task)
            elif task.caller == name and self.is_owed(task):
                self.settle_task(task)

    @rule(data=st.data())
    @precondition(lambda self: any(self.held_by(name) for name in self.processes))
    def free_by_hand(self, data: st.DataObject) -> None:
        """What others were sent already may hold what is lost with it."""
        name = data.draw(st.sampled_from([n for n in sorted(self.processes) if self.held_by(n)]))
        self.crashed = True
        self.free(name, data.draw(st.sampled_from(self.held_by(name))))

    def is_owed(self, task: Handing) -> bool:
        """Whether its worker keeps what the result holds until somebody has counted it."""
        return task.worker in self.processes and task.value is not None and not task.is_settled


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(stateful_step_count=40)
TestPartingProcesses = PartingProcesses.TestCase
TestPartingProcesses.settings = settings(stateful_step_count=40)
TestCrashingProcesses = CrashingProcesses.TestCase
TestCrashingProcesses.settings = settings(stateful_step_count=40)
