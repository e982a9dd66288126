from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from weft._machines.places import (
    DEAD_KEPT,
    MAX_BLAMES,
    MOVES,
    PARTIAL_NAMED,
    WHOLE_NAMED,
    ObjectEnded,
    OriginalMade,
    Places,
    PlacesBack,
    PlacesDied,
    PlacesDrained,
    PlacesDraining,
    PlacesLost,
    TellNode,
)
from weft._wire.transfers import (
    BeginCopy,
    BlamePlace,
    CopyEnded,
    CopyKept,
    CopyWhole,
    Edition,
    EndCopy,
    KeepCopy,
    KnownPlaces,
    MakeCopy,
    NodeLife,
    RejectCopy,
)

if TYPE_CHECKING:
    from weft._machines.places import Effect, Event

OWNER = "owner"
A, B, C, D, E = (NodeLife(name, 1, f"{name.decode()}:1") for name in (b"a", b"b", b"c", b"d", b"e"))
X, Y = Edition(b"x", "a-1"), Edition(b"y", "a-2")
SIZE = 100


class Owner:
    """A machine that is checked after every event."""

    def __init__(self) -> None:
        self.places = Places(OWNER)

    def tell(self, *events: Event) -> list[Effect]:
        effects = []
        for event in events:
            effects += self.places.handle(event, 0.0)
            self.places.check()
        return effects

    def named(self, node: NodeLife, edition: Edition = X) -> KnownPlaces:
        """Let a node begin to pull; return what it is told."""
        (told,) = self.tell(BeginCopy(edition, node))
        assert isinstance(told, TellNode)
        assert told.node == node
        assert isinstance(told.message, KnownPlaces)
        return told.message

    def states(self, edition: Edition = X) -> dict[NodeLife, str]:
        return dict(self.places.places(edition))


@pytest.fixture
def owner() -> Owner:
    owner = Owner()
    assert owner.tell(OriginalMade(X, SIZE, A)) == []
    return owner


def life(number: int) -> NodeLife:
    return NodeLife(b"n%03d" % number, 1, "")


# ------------------------------------------------------------------ who is told of whom


def test_who_begins_to_pull_is_a_place_that_later_ones_are_told_of(owner: Owner) -> None:
    assert owner.named(B) == KnownPlaces(X, 2, [A], [])
    assert owner.named(C) == KnownPlaces(X, 3, [A], [B])
    assert owner.states() == {A: "kept", B: "partial", C: "partial"}


def test_who_asks_again_keeps_its_turn_and_is_never_told_of_later_ones(owner: Owner) -> None:
    owner.named(B)
    owner.named(C)
    assert owner.named(B) == KnownPlaces(X, 2, [A], [])


def test_partial_places_are_named_to_as_many_as_they_serve_before_later_ones_are(
    owner: Owner,
) -> None:
    firsts = []
    for number in range(9):
        told = owner.named(life(number))
        assert len(told.partial) <= PARTIAL_NAMED
        firsts += told.partial[:1]
    # A tree: each has two below it.
    assert firsts == [life(0), life(0), life(1), life(1), life(2), life(2), life(3), life(3)]


def test_whole_places_are_named_in_turn_and_not_all(owner: Owner) -> None:
    nodes = [life(number) for number in range(8)]
    for node in nodes:
        owner.tell(CopyWhole(X, node, is_kept=False))
    told = [owner.named(life(100 + number)).whole for number in range(9)]
    assert all(len(whole) == WHOLE_NAMED for whole in told)
    first = [node for whole in told for node in whole[:2]]
    assert {first.count(node) for node in (A, *nodes)} <= {1, 2, 3}


def test_copy_that_is_whole_is_named_to_all(owner: Owner) -> None:
    owner.named(C)
    owner.named(B)
    owner.tell(CopyWhole(X, B, is_kept=False))
    assert set(owner.named(C).whole) == {A, B}


def test_copy_that_was_dropped_is_not_named(owner: Owner) -> None:
    owner.tell(CopyWhole(X, B, is_kept=False), CopyEnded(X, B, "no room"))
    assert owner.named(C).whole == [A]


def test_node_that_begins_again_has_no_copy_whatever_it_said_before(owner: Owner) -> None:
    owner.tell(CopyWhole(X, B, is_kept=False))
    assert owner.named(B).whole == [A]
    assert owner.states()[B] == "partial"


def test_object_whose_only_place_begins_to_pull_it_is_lost(owner: Owner) -> None:
    assert owner.tell(BeginCopy(X, A)) == [
        PlacesLost(X, "it has no copy any more"),
        TellNode(A, EndCopy(X, "its last copy is gone")),
    ]


# ------------------------------------------------------------------ the end


def test_end_of_an_object_is_told_to_all_but_its_creator(owner: Owner) -> None:
    owner.named(B)
    owner.tell(CopyWhole(X, C, is_kept=False))
    assert owner.tell(ObjectEnded(X, "nobody needs it")) == [
        TellNode(B, EndCopy(X, "nobody needs it")),
        TellNode(C, EndCopy(X, "nobody needs it")),
    ]
    assert owner.states() == {}
    assert owner.tell(ObjectEnded(X, "nobody needs it")) == []


@pytest.mark.parametrize("message", [BeginCopy(X, B), CopyWhole(X, B, True), CopyKept(X, B)])
def test_who_has_what_is_gone_is_told_so(message: Event) -> None:
    assert Owner().tell(message) == [TellNode(B, EndCopy(X, "its object is gone"))]


@pytest.mark.parametrize("message", [CopyEnded(X, B, ""), BlamePlace(X, B, A, True, "")])
def test_what_is_said_of_the_end_of_what_is_gone_is_not_answered(message: Event) -> None:
    assert Owner().tell(message) == []


# ------------------------------------------------------------------ losses


def test_object_is_lost_with_its_last_whole_place_and_who_gets_it_is_told(owner: Owner) -> None:
    owner.named(B)
    assert owner.tell(PlacesDied(A, "its node died")) == [
        PlacesLost(X, "its node died"),
        TellNode(B, EndCopy(X, "its node died")),
    ]


def test_object_that_is_made_again_is_another_edition(owner: Owner) -> None:
    owner.tell(PlacesDied(A, ""))
    again = Edition(X.object_id, "b-1")
    owner.tell(OriginalMade(again, SIZE, B))
    assert owner.named(C, again).whole == [B]
    assert owner.tell(CopyWhole(X, D, is_kept=False)) == [
        TellNode(D, EndCopy(X, "its object is gone"))
    ]


def test_what_a_dead_node_says_changes_nothing_and_its_next_life_is_another(owner: Owner) -> None:
    owner.tell(PlacesDied(B, "silent"))
    assert owner.tell(CopyWhole(X, B, is_kept=False), BeginCopy(X, B)) == []
    again = NodeLife(B.node_id, 2, B.address)
    assert owner.named(again).whole == [A]


def test_object_that_was_made_on_a_node_that_is_dead_by_now_is_lost() -> None:
    owner = Owner()
    owner.tell(PlacesDied(A, "silent"))
    assert owner.tell(OriginalMade(X, SIZE, A)) == [PlacesLost(X, "its node died")]


def test_only_so_many_dead_nodes_are_remembered(owner: Owner) -> None:
    for number in range(DEAD_KEPT + 1):
        owner.tell(PlacesDied(life(number), ""))
    assert len(owner.places._dead) == DEAD_KEPT


def test_place_that_says_that_it_has_nothing_is_none(owner: Owner) -> None:
    assert owner.tell(BlamePlace(X, B, A, True, "no such segment")) == [
        PlacesLost(X, "no such segment")
    ]


def test_copy_that_is_damaged_is_rejected_if_there_is_another(owner: Owner) -> None:
    owner.tell(CopyWhole(X, B, is_kept=False))
    assert owner.tell(BlamePlace(X, C, B, False, "bad")) == [TellNode(B, RejectCopy(X, "bad"))]
    assert owner.states() == {A: "kept"}


def test_last_copy_is_lost_only_when_it_is_blamed_again_and_again(owner: Owner) -> None:
    for _ in range(MAX_BLAMES - 1):
        assert owner.tell(BlamePlace(X, B, A, False, "bad")) == []
    assert owner.tell(BlamePlace(X, B, A, False, "bad")) == [PlacesLost(X, "bad")]


def test_place_that_only_gets_the_object_is_not_blamed(owner: Owner) -> None:
    owner.named(B)
    assert owner.tell(BlamePlace(X, C, B, True, ""), BlamePlace(X, C, D, True, "")) == []
    assert owner.states() == {A: "kept", B: "partial"}


# ------------------------------------------------------------------ who keeps it


def test_another_copy_is_to_be_kept_when_the_kept_one_is_gone(owner: Owner) -> None:
    owner.tell(CopyWhole(X, B, is_kept=False), CopyWhole(X, C, is_kept=False))
    assert owner.tell(PlacesDied(A, "")) == [TellNode(B, KeepCopy(X))]
    assert owner.tell(CopyKept(X, B)) == []
    assert owner.states() == {B: "kept", C: "whole"}


def test_next_copy_is_to_be_kept_when_the_first_was_dropped_meanwhile(owner: Owner) -> None:
    owner.tell(CopyWhole(X, B, is_kept=False), CopyWhole(X, C, is_kept=False))
    owner.tell(PlacesDied(A, ""))
    assert owner.tell(CopyEnded(X, B, "no room")) == [TellNode(C, KeepCopy(X))]
    assert owner.tell(CopyEnded(X, C, "no room")) == [PlacesLost(X, "no room")]


def test_node_that_can_be_heard_again_is_told_again_what_to_keep(owner: Owner) -> None:
    owner.tell(CopyWhole(X, B, is_kept=False), OriginalMade(Y, SIZE, C))
    owner.tell(PlacesDied(A, ""))
    assert owner.tell(PlacesBack(B)) == [TellNode(B, KeepCopy(X))]
    assert owner.tell(PlacesBack(C)) == []
    owner.tell(CopyKept(X, B))
    assert owner.tell(PlacesBack(B)) == []


# ------------------------------------------------------------------ nodes that drain


def test_last_copy_is_moved_and_what_is_elsewhere_is_kept_there(owner: Owner) -> None:
    owner.tell(OriginalMade(Y, SIZE, A), CopyWhole(Y, C, is_kept=False))
    assert owner.tell(PlacesDraining(A, [B])) == [
        TellNode(C, KeepCopy(Y)),
        TellNode(B, MakeCopy(X, SIZE, OWNER)),
    ]
    assert owner.tell(CopyKept(Y, C)) == []
    assert owner.tell(CopyWhole(X, B, is_kept=True)) == [PlacesDrained(A, [])]
    assert owner.tell(PlacesDied(A, "")) == []


def test_node_that_has_nothing_of_ours_is_drained_at_once(owner: Owner) -> None:
    assert owner.tell(PlacesDraining(B, [A])) == [PlacesDrained(B, [])]


def test_few_objects_are_moved_at_a_time_the_smallest_first_to_all_targets_alike() -> None:
    owner = Owner()
    editions = [Edition(b"%d" % number, f"a-{number}") for number in range(MOVES + 2)]
    for number, edition in enumerate(editions):
        owner.tell(OriginalMade(edition, 1000 - number, A))
    moves = owner.tell(PlacesDraining(A, [B, C]))
    assert [move.message.edition for move in moves] == editions[:1:-1]  # type: ignore[union-attr]
    assert [move.node for move in moves] == [B, C, B, C]  # type: ignore[union-attr]
    (move,) = owner.tell(CopyWhole(editions[-1], B, is_kept=True))
    assert move == TellNode(B, MakeCopy(editions[1], 999, OWNER))


def test_object_is_moved_to_who_is_getting_it_already(owner: Owner) -> None:
    owner.named(C)
    assert owner.tell(PlacesDraining(A, [B, C])) == [TellNode(C, MakeCopy(X, SIZE, OWNER))]


def test_object_that_one_target_cannot_take_goes_to_the_next(owner: Owner) -> None:
    owner.tell(PlacesDraining(A, [B, C, D]))
    assert owner.tell(CopyEnded(X, B, "no room")) == [TellNode(C, MakeCopy(X, SIZE, OWNER))]
    assert owner.tell(PlacesDied(C, "")) == [TellNode(D, MakeCopy(X, SIZE, OWNER))]


def test_object_that_no_node_can_take_is_named(owner: Owner) -> None:
    assert owner.tell(PlacesDraining(A, [])) == [PlacesDrained(A, [X])]
    assert owner.tell(PlacesDraining(A, [B])) == [TellNode(B, MakeCopy(X, SIZE, OWNER))]
    assert owner.tell(CopyEnded(X, B, "no room")) == [PlacesDrained(A, [X])]


def test_target_that_drains_itself_is_none(owner: Owner) -> None:
    owner.tell(PlacesDraining(B, []))
    assert owner.tell(PlacesDraining(A, [B])) == [PlacesDrained(A, [X])]


def test_target_that_can_be_heard_again_is_told_again(owner: Owner) -> None:
    owner.tell(PlacesDraining(A, [B]))
    assert owner.tell(PlacesBack(B)) == [TellNode(B, MakeCopy(X, SIZE, OWNER))]


def test_object_that_ends_while_it_is_moved_is_moved_no_more(owner: Owner) -> None:
    owner.tell(PlacesDraining(A, [B]))
    assert owner.tell(ObjectEnded(X, "freed")) == [
        TellNode(B, EndCopy(X, "freed")),
        PlacesDrained(A, []),
    ]


def test_object_that_is_made_on_a_node_that_drains_is_moved(owner: Owner) -> None:
    owner.tell(PlacesDraining(A, [B]), CopyWhole(X, B, is_kept=True))
    assert owner.tell(OriginalMade(Y, SIZE, A)) == [TellNode(B, MakeCopy(Y, SIZE, OWNER))]
    assert owner.tell(CopyWhole(Y, B, is_kept=True)) == [PlacesDrained(A, [])]


def test_copy_that_is_kept_on_a_node_that_drains_does_not_count(owner: Owner) -> None:
    owner.tell(CopyWhole(X, B, is_kept=False), PlacesDied(A, ""))
    assert owner.tell(PlacesDraining(B, [C])) == [TellNode(C, MakeCopy(X, SIZE, OWNER))]
    assert owner.tell(CopyKept(X, B)) == []
    assert owner.tell(CopyWhole(X, C, is_kept=True)) == [PlacesDrained(B, [])]


def test_numbers_of_moves_are_forgotten_with_the_target(owner: Owner) -> None:
    owner.tell(PlacesDraining(A, [B]), PlacesDied(B, ""))
    assert owner.places._moved_to == {}
