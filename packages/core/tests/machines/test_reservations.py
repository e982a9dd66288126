from __future__ import annotations

from msgspec.structs import replace

from weft._ids import PlacementGroupId
from weft._machines.bundles import HeldBundles
from weft._machines.placement import BundleView
from weft._machines.reservations import (
    WAIT_S,
    AmountsGranted,
    BundleEnded,
    BundleKey,
    CommitAsked,
    ControlUnlinked,
    DropAmounts,
    EndBundle,
    NodeFenced,
    OpenBundle,
    ReleaseAsked,
    ReservationEffect,
    ReservationEvent,
    Reservations,
    ReservationsTicked,
    ReserveAsked,
    TellCommitted,
    TellRefused,
    TellReserved,
    WantAmounts,
)
from weft._resources import Resources

G, H = PlacementGroupId(b"g" * 16), PlacementGroupId(b"h" * 16)
ONE, TWO, FOUR = (Resources({"CPU": amount}) for amount in (1, 2, 4))
FIRST, SECOND = BundleKey(G, 7, 0), BundleKey(G, 7, 1)
RESERVE = ReserveAsked(1, G, 7, {0: ONE, 1: TWO}, 3)


class Node:
    """The reservations of a node, checked after every event."""

    def __init__(self) -> None:
        self.reservations = Reservations(FOUR)
        self.now = 10.0

    def tell(self, *events: ReservationEvent) -> list[ReservationEffect]:
        effects: list[ReservationEffect] = []
        for event in events:
            effects = self.reservations.handle(event, self.now)
            self.reservations.check()
        return effects

    def reserve(self) -> list[ReservationEffect]:
        return self.tell(RESERVE, AmountsGranted(FIRST), AmountsGranted(SECOND))

    def commit(self) -> list[ReservationEffect]:
        return self.tell(CommitAsked(1, G, 7))


def test_bundles_are_reserved_when_all_their_amounts_are_granted() -> None:
    node = Node()
    assert node.tell(RESERVE) == [WantAmounts(FIRST, ONE), WantAmounts(SECOND, TWO)]
    assert node.tell(AmountsGranted(SECOND)) == []
    assert node.reservations.held() == ()
    assert node.tell(AmountsGranted(FIRST)) == [TellReserved(G, 7)]
    assert node.reservations.held() == (HeldBundles(G, 7, (0, 1), is_committed=False),)
    assert node.reservations.wake_at() is None


def test_committed_bundles_are_opened() -> None:
    node = Node()
    node.reserve()
    assert node.commit() == [OpenBundle(FIRST, 3), OpenBundle(SECOND, 3)]
    assert node.reservations.held() == (HeldBundles(G, 7, (0, 1), is_committed=True),)


def test_what_the_node_could_never_hold_is_refused_at_once_in_numbers() -> None:
    node = Node()
    asked = ReserveAsked(1, G, 7, {0: FOUR, 1: ONE}, 2)
    assert node.tell(asked) == [TellRefused(G, 7, "needs CPU 5, this node has 4")]
    assert node.reservations.wake_at() is None


def test_what_is_not_granted_in_time_is_refused_and_what_was_granted_is_dropped() -> None:
    node = Node()
    node.tell(RESERVE, AmountsGranted(FIRST))
    assert node.reservations.wake_at() == node.now + WAIT_S
    assert node.tell(ReservationsTicked(ONE, FOUR)) == []
    node.now += WAIT_S
    assert node.tell(ReservationsTicked(ONE, FOUR)) == [
        DropAmounts(FIRST),
        DropAmounts(SECOND),
        TellRefused(G, 7, "needs CPU 2, this node has 1 free"),
    ]
    node.tell(RESERVE)
    node.now += WAIT_S
    (*_, refused) = node.tell(ReservationsTicked(FOUR, FOUR))
    assert refused == TellRefused(G, 7, "it is kept for others, or in parts")


def test_amounts_that_are_granted_as_they_are_dropped_reserve_nothing() -> None:
    node = Node()
    node.tell(RESERVE, AmountsGranted(FIRST))
    node.now += WAIT_S
    node.tell(ReservationsTicked(ONE, FOUR))
    assert node.tell(AmountsGranted(SECOND)) == []
    assert node.reservations.held() == ()


def test_patient_bundles_wait_for_tasks_and_are_refused_when_these_are_not_all_they_wait_for() -> (
    None
):
    node = Node()
    node.tell(ReserveAsked(1, G, 7, {0: ONE, 1: TWO}, 2, patience_s=10), AmountsGranted(FIRST))
    node.now += WAIT_S
    assert node.tell(ReservationsTicked(ONE, TWO)) == []
    assert node.reservations.wake_at() == node.now + WAIT_S
    node.now += WAIT_S
    assert node.tell(ReservationsTicked(ONE, ONE)) == [
        DropAmounts(FIRST),
        DropAmounts(SECOND),
        TellRefused(G, 7, "needs CPU 2, this node has 1 free"),
    ]


def test_what_is_asked_again_is_answered_again_and_taken_once() -> None:
    node = Node()
    node.tell(RESERVE)
    assert node.tell(RESERVE) == []
    assert node.tell(CommitAsked(1, G, 7)) == []
    node.tell(AmountsGranted(FIRST), AmountsGranted(SECOND))
    assert node.tell(RESERVE) == [TellReserved(G, 7)]
    node.commit()
    assert node.tell(RESERVE) == [TellCommitted(G, 7)]
    assert node.commit() == []


def test_bundles_that_no_other_node_has_to_reserve_first_are_open_at_once() -> None:
    node = Node()
    node.tell(replace(RESERVE, commits=True))
    node.tell(AmountsGranted(FIRST))
    assert node.tell(AmountsGranted(SECOND)) == [
        OpenBundle(FIRST, 3),
        OpenBundle(SECOND, 3),
        TellCommitted(G, 7),
    ]
    assert node.commit() == []


def test_release_of_what_is_not_open_drops_it() -> None:
    node = Node()
    node.tell(RESERVE)
    dropped = [DropAmounts(FIRST), DropAmounts(SECOND)]
    assert node.tell(ReleaseAsked(1, G, 7)) == dropped
    node.reserve()
    assert node.tell(ReleaseAsked(1, G, 7)) == dropped
    assert node.tell(ReleaseAsked(1, G, 7)) == []
    assert node.commit() == []


def test_release_of_open_bundles_ends_what_runs_in_them_first() -> None:
    node = Node()
    node.reserve()
    node.commit()
    assert node.tell(ReleaseAsked(1, G, 7, "why")) == [
        EndBundle(FIRST, "why"),
        EndBundle(SECOND, "why"),
    ]
    assert node.tell(ReleaseAsked(1, G, 7)) == []
    assert node.reservations.held() == ()
    assert node.tell(RESERVE) == []
    assert node.tell(BundleEnded(SECOND)) == [DropAmounts(SECOND)]
    assert node.tell(BundleEnded(FIRST)) == [DropAmounts(FIRST)]
    assert node.tell(RESERVE) != []


def test_attempts_of_one_group_are_apart() -> None:
    node = Node()
    node.reserve()
    node.commit()
    node.tell(ReserveAsked(1, G, 8, {2: ONE}, 3), AmountsGranted(BundleKey(G, 8, 2)))
    assert node.tell(ReleaseAsked(1, G, 8)) == [DropAmounts(BundleKey(G, 8, 2))]
    assert len(node.reservations.held()) == 1


def test_broken_link_drops_only_what_was_not_answered() -> None:
    node = Node()
    node.reserve()
    node.tell(ReserveAsked(1, H, 9, {0: ONE}, 1))
    assert node.tell(ControlUnlinked()) == [DropAmounts(BundleKey(H, 9, 0))]
    assert [held.group for held in node.reservations.held()] == [G]


def test_fenced_node_ends_all_bundles() -> None:
    node = Node()
    node.reserve()
    node.commit()
    node.tell(ReserveAsked(1, H, 9, {0: ONE}, 1))
    assert node.tell(NodeFenced()) == [
        EndBundle(FIRST, "its node was declared dead"),
        EndBundle(SECOND, "its node was declared dead"),
        DropAmounts(BundleKey(H, 9, 0)),
    ]


def test_control_service_of_a_smaller_number_is_not_heard() -> None:
    node = Node()
    node.tell(ReleaseAsked(2, H, 1))
    assert node.tell(RESERVE) == []
    assert node.tell(ReserveAsked(2, G, 7, {0: ONE}, 1)) == [WantAmounts(FIRST, ONE)]


def test_bundles_are_shown_while_they_take_something_and_full_unless_they_are_open() -> None:
    node = Node()
    node.tell(RESERVE)
    assert node.reservations.views(lambda _: ONE) == {}
    node.tell(AmountsGranted(FIRST))
    assert node.reservations.views(lambda _: ONE) == {G: {0: BundleView(ONE, Resources(), 3, 7)}}
    node.tell(AmountsGranted(SECOND))
    assert node.reservations.views(lambda _: ONE) == {
        G: {0: BundleView(ONE, Resources(), 3, 7), 1: BundleView(TWO, Resources(), 3, 7)}
    }
    node.commit()
    assert node.reservations.views(lambda key: TWO if key == SECOND else ONE) == {
        G: {0: BundleView(ONE, ONE, 3, 7), 1: BundleView(TWO, TWO, 3, 7)}
    }
    node.tell(ReleaseAsked(1, G, 7))
    node.tell(BundleEnded(FIRST))
    assert node.reservations.views(lambda _: ONE) == {G: {1: BundleView(TWO, Resources(), 3, 7)}}
    node.tell(BundleEnded(SECOND))
    assert node.reservations.views(lambda _: ONE) == {}
