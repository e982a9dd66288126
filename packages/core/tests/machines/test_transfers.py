from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

from weft._machines.offers import SLOTS, CloseSegment, OpenSegment, ReadChunk
from weft._machines.pulls import (
    LOOK_S,
    MAX_LOOK_S,
    REST_S,
    WINDOW,
    ObjectWaiter,
    TellOwner,
    TellPeer,
)
from weft._machines.transfer_events import (
    AbandonArrival,
    AnswerWant,
    ArrivalFailed,
    AskRoom,
    BeginArrival,
    ChunkBroken,
    ChunkCame,
    CopyDropped,
    DropCopy,
    FinishCopy,
    KeepSegment,
    ObjectWanted,
    OwnerBack,
    OwnerDied,
    OwnerSaid,
    PeerCut,
    PeerDied,
    PeerSaid,
    ReturnRoom,
    RoomLent,
    RoomRefused,
    SegmentMissing,
    SegmentReady,
    TransfersTicked,
    WaiterGone,
    WantEnded,
)
from weft._machines.transfers import ARGUMENT, GET, LIMITS, REST, Transfers
from weft._wire.transfers import (
    CHUNK_BYTES,
    AskChunks,
    BeginCopy,
    BlamePlace,
    CopyEnded,
    CopyKept,
    CopyWhole,
    Edition,
    EndChunks,
    EndCopy,
    KeepCopy,
    KnownPlaces,
    MakeCopy,
    MoreChunks,
    NoCopy,
    NodeLife,
    RejectCopy,
    SendChunk,
    ServesOthers,
    Serving,
    pack_chunks,
)
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weft._machines.transfer_events import Effect, Event
    from weft._wire.transfers import OwnerMessage, PeerMessage

Kind = TypeVar("Kind")

OWNER = "owner"
ME, A, B, C, D = (NodeLife(name, 1, "") for name in (b"m", b"a", b"b", b"c", b"d"))
X, Y, Z = Edition(b"x", "a-1"), Edition(b"y", "a-2"), Edition(b"z", "a-3")
TURN = 5
W, V = ObjectWaiter(b"w", 1), ObjectWaiter(b"v", 2)
NAME = f"{ME.node_id.hex()}-1.1"


class Daemon:
    """A machine that is checked after every event."""

    def __init__(self) -> None:
        self.machine = Transfers(ME)
        self.now = 0.0

    def tell(self, *events: Event) -> list[Effect]:
        effects = []
        for event in events:
            effects += self.machine.handle(event, self.now)
            self.machine.check()
        return effects

    def hear(self, peer: NodeLife, *messages: PeerMessage) -> list[Effect]:
        return self.tell(*(PeerSaid(peer, message) for message in messages))

    def hear_owner(self, *messages: OwnerMessage) -> list[Effect]:
        return self.tell(*(OwnerSaid(OWNER, message) for message in messages))

    def want(
        self, edition: Edition, chunks: int = 1, priority: int = GET, waiter: ObjectWaiter = W
    ) -> list[Effect]:
        return self.tell(ObjectWanted(edition, chunks * CHUNK_BYTES, OWNER, priority, waiter))

    def lend(self, effects: Iterable[Effect]) -> list[Effect]:
        """Let the store lend what was asked for."""
        (asked,) = of(effects, AskRoom)
        return self.tell(RoomLent(asked.request))

    def pull(
        self,
        edition: Edition = X,
        chunks: int = 1,
        *,
        whole: Iterable[NodeLife] = (A,),
        partial: Iterable[NodeLife] = (),
    ) -> list[Effect]:
        """Bring a pull so far that places are known."""
        self.lend(self.want(edition, chunks))
        return self.hear_owner(KnownPlaces(edition, TURN, list(whole), list(partial)))

    def serve(self, peer: NodeLife = A, edition: Edition = X) -> list[Effect]:
        """Let a whole place serve."""
        return self.hear(peer, Serving(edition, True, b""))

    def come(
        self, index: int, peer: NodeLife = A, edition: Edition = X, *, is_right: bool = True
    ) -> list[Effect]:
        return self.tell(ChunkCame(peer, edition, index, is_right))

    def wake(self) -> list[Effect]:
        """Let time pass until something is due."""
        at = self.machine.wake_at()
        assert at is not None
        assert at > self.now
        self.now = at
        return self.tell(TransfersTicked())

    def have(self, edition: Edition = X, chunks: int = 1) -> None:
        """Bring a copy here."""
        self.pull(edition, chunks)
        self.serve(edition=edition)
        for index in range(chunks):
            self.come(index, edition=edition)


def of(effects: Iterable[Effect], kind: type[Kind]) -> list[Kind]:
    return [effect for effect in effects if isinstance(effect, kind)]


def asked_chunks(effects: Iterable[Effect]) -> list[tuple[NodeLife, int]]:
    """Return (source, chunk) of what is asked for."""
    return [
        (effect.peer, effect.message.index)
        for effect in of(effects, TellPeer)
        if isinstance(effect.message, SendChunk)
    ]


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


# ------------------------------------------------------------------ a pull


def test_owner_of_what_comes_and_of_what_is_here_is_named_once(daemon: Daemon) -> None:
    assert daemon.machine.owners() == []
    daemon.have(X)
    assert daemon.machine.owners() == [OWNER]
    daemon.want(Y)
    assert daemon.machine.owners() == [OWNER]


def test_object_is_pulled_chunk_by_chunk_into_room_that_was_lent(daemon: Daemon) -> None:
    assert daemon.want(X, 2) == [AskRoom(1, 2 * CHUNK_BYTES)]
    assert daemon.tell(RoomLent(1)) == [
        BeginArrival(X, NAME, 2 * CHUNK_BYTES, ""),
        TellOwner(OWNER, BeginCopy(X, ME)),
    ]
    assert daemon.hear_owner(KnownPlaces(X, TURN, [A], [])) == [TellPeer(A, AskChunks(X, TURN))]
    assert daemon.serve() == [TellPeer(A, SendChunk(X, 0)), TellPeer(A, SendChunk(X, 1))]
    assert daemon.come(1) == []
    assert daemon.come(0) == [
        TellPeer(A, EndChunks(X)),
        FinishCopy(X, NAME, False, False),
        TellOwner(OWNER, CopyWhole(X, ME, False)),
        AnswerWant(W, X, NAME),
    ]


def test_all_who_want_an_object_wait_for_one_pull(daemon: Daemon) -> None:
    daemon.pull()
    assert daemon.want(X, waiter=V) == []
    daemon.serve()
    assert of(daemon.come(0), AnswerWant) == [AnswerWant(W, X, NAME), AnswerWant(V, X, NAME)]


def test_object_that_is_here_is_answered_at_once(daemon: Daemon) -> None:
    daemon.have()
    assert daemon.want(X) == [AnswerWant(W, X, NAME)]


def test_object_goes_to_disk_if_the_store_says_so(daemon: Daemon) -> None:
    daemon.want(X)
    effects = daemon.tell(RoomLent(1, "/disk"))
    assert of(effects, BeginArrival) == [BeginArrival(X, NAME, CHUNK_BYTES, "/disk")]


def test_object_that_finds_no_room_is_not_pulled(daemon: Daemon) -> None:
    daemon.want(X)
    assert daemon.tell(RoomRefused(1, "all is full")) == [
        AnswerWant(W, X, "", "failed", "all is full")
    ]


def test_object_that_cannot_be_written_is_given_up_and_its_owner_told(daemon: Daemon) -> None:
    daemon.pull()
    daemon.serve()
    assert daemon.tell(ArrivalFailed(X, "ENOSPC")) == [
        TellPeer(A, EndChunks(X)),
        AbandonArrival(X),
        TellOwner(OWNER, CopyEnded(X, ME, "ENOSPC")),
        AnswerWant(W, X, "", "failed", "ENOSPC"),
    ]
    assert daemon.tell(ArrivalFailed(X, "ENOSPC")) == []


def test_object_of_no_size_is_refused(daemon: Daemon) -> None:
    with pytest.raises(ProtocolError, match="of 0 bytes"):
        daemon.want(X, 0)


def test_object_that_is_gone_is_answered_so(daemon: Daemon) -> None:
    daemon.pull()
    assert daemon.hear_owner(EndCopy(X, "lost")) == [
        TellPeer(A, EndChunks(X)),
        AbandonArrival(X),
        AnswerWant(W, X, "", "gone", "lost"),
    ]
    assert daemon.hear_owner(EndCopy(X, "lost"), KnownPlaces(X, TURN, [A], [])) == []


def test_objects_of_an_owner_that_died_are_gone(daemon: Daemon) -> None:
    daemon.have(X)
    daemon.pull(Y)
    effects = daemon.tell(OwnerDied("another", ""), OwnerDied(OWNER, "dead"))
    assert of(effects, DropCopy) == [DropCopy(NAME)]
    assert of(effects, AnswerWant) == [AnswerWant(W, Y, "", "gone", "dead")]
    assert not any(isinstance(effect, TellOwner) for effect in effects)


# ------------------------------------------------------------------ who waits no longer


def test_pull_that_nobody_waits_for_is_ended(daemon: Daemon) -> None:
    daemon.pull()
    daemon.want(X, waiter=V)
    assert daemon.tell(WantEnded(X, W), WantEnded(X, W)) == []
    assert daemon.tell(WaiterGone(V.client)) == [
        TellPeer(A, EndChunks(X)),
        AbandonArrival(X),
        TellOwner(OWNER, CopyEnded(X, ME, "nobody there needs it any more")),
    ]
    assert daemon.tell(WantEnded(X, V)) == []


def test_room_that_comes_for_what_nobody_wants_is_returned(daemon: Daemon) -> None:
    daemon.want(X)
    daemon.want(Y)
    assert daemon.tell(WantEnded(X, W)) == []
    assert daemon.tell(RoomLent(1)) == [ReturnRoom(1), AskRoom(2, CHUNK_BYTES)]


def test_refusal_of_what_nobody_wants_is_of_no_matter(daemon: Daemon) -> None:
    daemon.want(X)
    daemon.tell(WantEnded(X, W))
    assert daemon.tell(RoomRefused(1, "full")) == []
    assert daemon.want(Y) == [AskRoom(2, CHUNK_BYTES)]


def test_chunks_that_come_late_are_of_no_matter(daemon: Daemon) -> None:
    daemon.pull()
    daemon.serve()
    daemon.tell(WantEnded(X, W))
    late = (Serving(X, True, b""), MoreChunks(X, b"\1"), ServesOthers(X, [B]), NoCopy(X, ""))
    assert daemon.hear(A, *late) == []
    assert daemon.come(0) == []


# ------------------------------------------------------------------ whose turn it is


def test_what_a_get_waits_for_goes_first_then_arguments_then_the_rest(daemon: Daemon) -> None:
    asked = daemon.want(Edition(b"first", ""))
    order = [(X, REST), (Y, ARGUMENT), (Z, GET)]
    for edition, priority in order:
        assert daemon.want(edition, priority=priority) == []
    begun = []
    for _ in range(4):
        asked = daemon.lend(asked)
        begun += [arrival.edition for arrival in of(asked, BeginArrival)]
    assert begun == [Edition(b"first", ""), Z, Y, X]


def test_pull_goes_forward_with_who_needs_it_most_and_back_with_its_end(daemon: Daemon) -> None:
    daemon.want(Edition(b"first", ""))
    daemon.want(X, priority=REST)
    daemon.want(Y, priority=ARGUMENT)
    daemon.want(X, waiter=V)
    assert daemon.machine._queues[GET].keys() == {X}
    daemon.tell(WantEnded(X, V))
    assert daemon.machine._queues[REST].keys() == {X}
    # Who wants it again does not lose its place.
    daemon.want(X, priority=REST, waiter=V)
    assert daemon.machine._queues[REST].keys() == {X}


def test_fewer_pulls_for_later_are_under_way_than_for_a_get(daemon: Daemon) -> None:
    editions = iter(Edition(b"%d" % number, "") for number in range(1000))

    def fill(priority: int) -> int:
        """Return how many are under way when no more of the priority begins."""
        asked = daemon.want(next(editions), priority=priority)
        while of(asked, AskRoom):
            daemon.lend(asked)
            asked = daemon.want(next(editions), priority=priority)
        return daemon.machine._begun

    assert [fill(priority) for priority in (REST, ARGUMENT, GET)] == list(reversed(LIMITS))


def test_next_pull_begins_when_one_has_ended(daemon: Daemon) -> None:
    for number in range(LIMITS[REST] + 1):
        edition = Edition(b"%d" % number, "")
        asked = daemon.want(edition, priority=REST)
        if of(asked, AskRoom):
            daemon.lend(asked)
    assert of(daemon.tell(WantEnded(Edition(b"3", ""), W)), AskRoom) == [AskRoom(9, CHUNK_BYTES)]


# ------------------------------------------------------------------ sources


def test_two_whole_places_give_chunks_at_once_and_a_window_each(daemon: Daemon) -> None:
    effects = daemon.pull(chunks=20, whole=[A, B, C])
    assert [effect.peer for effect in of(effects, TellPeer)] == [A, B]
    assert asked_chunks(daemon.serve(A)) == [(A, index) for index in range(WINDOW)]
    assert asked_chunks(daemon.serve(B)) == [(B, WINDOW + index) for index in range(WINDOW)]
    assert asked_chunks(daemon.come(5, B)) == [(B, 2 * WINDOW)]
    assert asked_chunks(daemon.come(0, A)) == [(A, 2 * WINDOW + 1)]


def test_source_is_asked_only_for_what_it_has(daemon: Daemon) -> None:
    daemon.pull(chunks=3, partial=[B])
    assert asked_chunks(daemon.hear(B, Serving(X, False, pack_chunks(0b100)))) == [(B, 2)]
    assert asked_chunks(daemon.hear(B, MoreChunks(X, pack_chunks(0b001)))) == [(B, 0)]
    assert asked_chunks(daemon.hear(B, MoreChunks(X, b"", is_whole=True))) == [(B, 1)]


def test_one_partial_place_at_a_time_is_asked(daemon: Daemon) -> None:
    effects = daemon.pull(partial=[B, C])
    assert [effect.peer for effect in of(effects, TellPeer)] == [A, B]
    assert daemon.hear(B, NoCopy(X, "")) == [TellPeer(C, AskChunks(X, TURN))]


def test_who_serves_others_sends_us_to_them(daemon: Daemon) -> None:
    daemon.pull()
    assert daemon.hear(A, ServesOthers(X, [ME, B, C])) == [TellPeer(B, AskChunks(X, TURN))]
    assert daemon.hear(B, ServesOthers(X, [D])) == [TellPeer(C, AskChunks(X, TURN))]


def test_who_is_served_leaves_the_queues_of_others_and_asks_them_no_more(daemon: Daemon) -> None:
    daemon.pull(chunks=2)
    daemon.hear(A, ServesOthers(X, [B]))
    effects = daemon.hear(B, Serving(X, False, pack_chunks(1)))
    assert effects == [TellPeer(B, SendChunk(X, 0)), TellPeer(A, EndChunks(X))]
    assert daemon.come(0, B) == []
    # The turn came as it left.
    assert daemon.serve(A) == []


def test_who_serves_others_and_says_so_too_late_is_not_waited_for(daemon: Daemon) -> None:
    daemon.pull()
    daemon.hear(A, ServesOthers(X, [B]))
    daemon.hear(B, Serving(X, False, b""))
    assert daemon.hear(A, ServesOthers(X, [])) == []
    assert TellPeer(A, AskChunks(X, TURN)) in daemon.tell(PeerDied(B))


def test_partial_place_that_answers_after_a_whole_one_is_left_to_others(daemon: Daemon) -> None:
    daemon.pull(partial=[B])
    daemon.serve(A)
    assert daemon.hear(B, Serving(X, False, b"")) == [TellPeer(B, EndChunks(X))]


def test_source_that_serves_us_no_longer_is_asked_for_nothing(daemon: Daemon) -> None:
    daemon.pull(chunks=2, whole=[A, B])
    daemon.serve(A)
    daemon.hear(A, ServesOthers(X, []))
    assert asked_chunks(daemon.serve(B)) == [(B, 0), (B, 1)]


@pytest.mark.parametrize("end", [PeerCut(A), PeerDied(A), PeerSaid(A, NoCopy(X, "dropped"))])
def test_what_a_source_owes_when_it_ends_is_asked_of_others_and_the_rest_stays(
    daemon: Daemon, end: Event
) -> None:
    daemon.pull(chunks=10, whole=[A, B])
    daemon.serve(A)
    daemon.serve(B)
    daemon.come(0, A)
    daemon.come(4, B)
    daemon.come(5, B)
    asked = asked_chunks(daemon.tell(end))
    for index in (6, 7, 9):
        asked += asked_chunks(daemon.come(index, B))
    assert asked == [(B, 1), (B, 2), (B, 3), (B, 8)]


def test_source_without_a_copy_is_named_to_the_owner_and_places_are_asked_for(
    daemon: Daemon,
) -> None:
    daemon.pull()
    daemon.now = REST_S
    assert daemon.hear(A, NoCopy(X, "dropped")) == [
        TellOwner(OWNER, BlamePlace(X, ME, A, True, "dropped")),
        TellOwner(OWNER, BeginCopy(X, ME)),
    ]
    assert daemon.hear_owner(KnownPlaces(X, TURN, [B], [])) == [TellPeer(B, AskChunks(X, TURN))]


def test_source_that_lost_a_chunk_is_left_and_named_and_its_chunk_asked_of_another(
    daemon: Daemon,
) -> None:
    daemon.pull(whole=[A, B])
    daemon.serve(A)
    daemon.serve(B)
    assert daemon.come(0, A, is_right=False) == [
        TellPeer(A, EndChunks(X)),
        TellOwner(OWNER, BlamePlace(X, ME, A, False, "chunk 0 was gone before it was sent")),
        TellPeer(B, SendChunk(X, 0)),
    ]
    # What else of it was on its way is not held against it twice.
    assert daemon.come(0, A, is_right=False) == []


def test_only_place_that_cannot_be_heard_is_asked_again_after_a_rest(daemon: Daemon) -> None:
    daemon.pull()
    daemon.serve()
    daemon.now = 0.9
    assert daemon.tell(PeerCut(A)) == [TellOwner(OWNER, BeginCopy(X, ME))]
    assert daemon.wake() == []
    assert daemon.wake() == [TellPeer(A, AskChunks(X, TURN))]
    assert daemon.now == 0.9 + REST_S
    assert asked_chunks(daemon.serve()) == [(A, 0)]


def test_chunk_that_was_gone_when_its_source_had_been_left_is_held_against_nobody(
    daemon: Daemon,
) -> None:
    daemon.pull()
    daemon.serve(A)
    daemon.hear(A, NoCopy(X, "it is on its way there"))
    daemon.wake()
    assert daemon.machine._pull_of[X].sources[A].state == "asked"
    assert daemon.come(0, A, is_right=False) == []
    assert asked_chunks(daemon.serve(A))[0] == (A, 0)
    assert daemon.come(0, A, is_right=False)


def test_owner_is_not_asked_again_at_once(daemon: Daemon) -> None:
    daemon.pull()
    assert daemon.tell(PeerDied(A)) == []
    assert daemon.wake() == [TellOwner(OWNER, BeginCopy(X, ME))]
    assert daemon.now == REST_S
    assert daemon.hear_owner(KnownPlaces(X, TURN, [], [])) == []
    assert daemon.wake() == [TellOwner(OWNER, BeginCopy(X, ME))]


def test_chunk_that_is_late_is_asked_of_another_source_once_and_what_is_first_counts(
    daemon: Daemon,
) -> None:
    daemon.pull(chunks=5, whole=[A, B])
    daemon.serve(A)
    assert asked_chunks(daemon.serve(B)) == [(B, 4)]
    daemon.now = 0.9
    assert asked_chunks(daemon.come(4, B)) == []
    daemon.wake()
    assert daemon.now == 0.9 + LOOK_S
    # All that A owes was asked of B by now; of whom it is asked again only when that is late too.
    assert set(daemon.machine._pull_of[X].sources[B].asked_at) == {0, 1, 2, 3}
    daemon.hear(C, AskChunks(X, TURN + 1))
    assert daemon.come(0, B) == [TellPeer(C, MoreChunks(X, pack_chunks(1)))]
    assert daemon.come(0, A) == []
    daemon.hear(C, EndChunks(X))
    for index in (1, 2):
        assert daemon.come(index, B) == []
    assert of(daemon.come(3, A), FinishCopy)


def test_wrong_duplicate_of_a_chunk_that_is_here_costs_only_its_source(daemon: Daemon) -> None:
    daemon.pull(chunks=2, whole=[A, B])
    daemon.serve(A)
    daemon.serve(B)
    daemon.wake()
    daemon.come(0, B)
    daemon.come(0, A, is_right=False)
    assert of(daemon.come(1, B), FinishCopy)


def test_pull_to_which_nothing_comes_asks_all_again_less_and_less_often(daemon: Daemon) -> None:
    daemon.pull(chunks=2)
    daemon.hear(A, ServesOthers(X, [B]))
    daemon.hear(B, Serving(X, False, b""))
    begun, waits = daemon.now, []
    for _ in range(8):
        effects = daemon.wake()
        waits.append(daemon.now - begun)
        begun = daemon.now
        if len(waits) == 1:
            assert effects == [TellOwner(OWNER, BeginCopy(X, ME)), TellPeer(A, AskChunks(X, TURN))]
        # It stays in the queue of who serves others: the one that serves it is stuck.
        effects = daemon.hear(A, ServesOthers(X, [C]))
        assert TellPeer(A, EndChunks(X)) not in effects
        daemon.hear_owner(KnownPlaces(X, TURN, [A], [B]))
    assert waits == [LOOK_S * factor for factor in (1, 2, 4, 8, 16)] + [MAX_LOOK_S] * 3
    assert asked_chunks(daemon.hear(B, MoreChunks(X, pack_chunks(1)))) == [(B, 0)]
    daemon.come(0, B)
    assert daemon.machine.wake_at() == daemon.now + LOOK_S


def test_owner_that_has_not_answered_is_not_asked_twice(daemon: Daemon) -> None:
    daemon.lend(daemon.want(X))
    assert daemon.wake() == []
    assert daemon.tell(OwnerBack("another")) == []
    assert daemon.tell(OwnerBack(OWNER)) == [TellOwner(OWNER, BeginCopy(X, ME))]


def test_chunk_that_an_object_does_not_have_is_refused(daemon: Daemon) -> None:
    daemon.pull()
    with pytest.raises(ProtocolError, match="no chunk 1"):
        daemon.come(1)


def test_unknown_peers_and_places_change_nothing(daemon: Daemon) -> None:
    daemon.pull()
    others = (Serving(X, True, b""), MoreChunks(X, b"", True), ServesOthers(X, []), NoCopy(X, ""))
    assert daemon.hear(D, *others) == []
    assert daemon.tell(PeerCut(D), PeerDied(D)) == []
    assert daemon.come(0, D, is_right=False) == []


# ------------------------------------------------------------------ serving


def test_object_that_is_here_is_opened_for_the_first_and_closed_after_the_last(
    daemon: Daemon,
) -> None:
    daemon.have(chunks=2)
    assert daemon.hear(A, AskChunks(X, 7)) == [OpenSegment(X, NAME)]
    assert daemon.tell(SegmentReady(X, 2 * CHUNK_BYTES)) == [TellPeer(A, Serving(X, True, b""))]
    assert daemon.hear(B, AskChunks(X, 8)) == [TellPeer(B, Serving(X, True, b""))]
    assert daemon.hear(A, SendChunk(X, 1)) == [ReadChunk(A, X, 1)]
    assert daemon.hear(A, EndChunks(X)) == []
    assert daemon.hear(B, EndChunks(X)) == [CloseSegment(X)]
    assert daemon.hear(B, EndChunks(X)) == []


def test_original_is_served_by_the_name_of_its_segment(daemon: Daemon) -> None:
    assert daemon.hear(A, AskChunks(X, 7)) == [OpenSegment(X, X.segment)]
    reason = "no such segment"
    assert daemon.tell(SegmentMissing(X, reason)) == [
        TellPeer(A, NoCopy(X, reason)),
        CloseSegment(X),
    ]
    assert daemon.tell(SegmentMissing(X, reason)) == []


def test_third_waits_for_its_turn_and_is_sent_to_the_first_two_alternately(daemon: Daemon) -> None:
    peers = [NodeLife(b"%d" % number, 1, "") for number in range(6)]
    daemon.hear(peers[0], AskChunks(X, 10))
    for number in range(1, 4):
        assert daemon.hear(peers[number], AskChunks(X, 10 + number)) == []
    first, second = peers[:SLOTS]
    assert daemon.tell(SegmentReady(X, CHUNK_BYTES)) == [
        TellPeer(first, Serving(X, True, b"")),
        TellPeer(second, Serving(X, True, b"")),
        TellPeer(peers[2], ServesOthers(X, [second, first])),
        TellPeer(peers[3], ServesOthers(X, [first, second])),
    ]
    # One that began earlier than those is sent to nobody.
    assert daemon.hear(peers[4], AskChunks(X, 1)) == [TellPeer(peers[4], ServesOthers(X, []))]
    assert daemon.hear(first, AskChunks(X, 10)) == [TellPeer(first, Serving(X, True, b""))]
    assert daemon.hear(first, EndChunks(X)) == [TellPeer(peers[2], Serving(X, True, b""))]
    assert daemon.tell(PeerCut(second)) == [TellPeer(peers[3], Serving(X, True, b""))]
    assert daemon.tell(PeerDied(peers[2])) == [TellPeer(peers[4], Serving(X, True, b""))]


def test_who_left_before_the_segment_was_open_leaves_it_closed(daemon: Daemon) -> None:
    daemon.hear(A, AskChunks(X, 7))
    assert daemon.hear(A, EndChunks(X)) == []
    assert daemon.tell(SegmentReady(X, CHUNK_BYTES)) == [CloseSegment(X)]
    assert daemon.tell(SegmentReady(X, CHUNK_BYTES)) == []


def test_chunk_is_sent_only_to_who_is_served(daemon: Daemon) -> None:
    assert daemon.hear(A, SendChunk(X, 0)) == []
    daemon.hear(A, AskChunks(X, 7))
    assert daemon.hear(A, SendChunk(X, 0)) == []


@pytest.mark.parametrize("index", [-1, 1])
def test_chunk_that_is_not_here_is_refused(daemon: Daemon, index: int) -> None:
    daemon.hear(A, AskChunks(X, 7))
    daemon.tell(SegmentReady(X, CHUNK_BYTES))
    with pytest.raises(ProtocolError, match=f"chunk {index} of .* was asked for, and is not here"):
        daemon.hear(A, SendChunk(X, index))


def test_what_comes_is_given_on_chunk_by_chunk(daemon: Daemon) -> None:
    daemon.pull(chunks=3)
    daemon.serve()
    daemon.come(2)
    later = TURN + 1
    assert daemon.hear(B, AskChunks(X, later)) == [TellPeer(B, Serving(X, False, b"\4"))]
    assert daemon.hear(B, SendChunk(X, 2)) == [ReadChunk(B, X, 2)]
    assert daemon.come(0) == [TellPeer(B, MoreChunks(X, b"\1"))]
    assert daemon.come(1) == [
        TellPeer(A, EndChunks(X)),
        FinishCopy(X, NAME, False, True),
        TellPeer(B, MoreChunks(X, b"", True)),
        TellOwner(OWNER, CopyWhole(X, ME, False)),
        AnswerWant(W, X, NAME),
    ]
    assert daemon.hear(B, SendChunk(X, 1)) == [ReadChunk(B, X, 1)]
    assert daemon.hear(B, EndChunks(X)) == [CloseSegment(X)]


def test_what_comes_is_given_only_to_later_ones(daemon: Daemon) -> None:
    daemon.pull()
    reason = "it is only on its way here, and began later than there"
    assert daemon.hear(B, AskChunks(X, TURN - 1)) == [TellPeer(B, NoCopy(X, reason))]


def test_who_asks_before_our_turn_is_known_waits_for_that(daemon: Daemon) -> None:
    daemon.lend(daemon.want(X))
    assert daemon.hear(B, AskChunks(X, TURN + 1)) == [TellPeer(B, ServesOthers(X, []))]
    assert daemon.hear(C, AskChunks(X, TURN - 1)) == [TellPeer(C, ServesOthers(X, []))]
    effects = daemon.hear_owner(KnownPlaces(X, TURN, [A], []))
    reason = "it is only on its way here, and began later than there"
    assert effects == [
        TellPeer(C, NoCopy(X, reason)),
        TellPeer(B, Serving(X, False, b"")),
        TellPeer(A, AskChunks(X, TURN)),
    ]


def test_node_that_gets_a_later_turn_serves_those_no_more_that_are_earlier_by_it(
    daemon: Daemon,
) -> None:
    daemon.pull(chunks=2)
    peers = [NodeLife(b"%d" % number, 1, "") for number in range(4)]
    for number, peer in enumerate(peers):
        daemon.hear(peer, AskChunks(X, TURN + 1 + number))
    effects = daemon.hear_owner(KnownPlaces(X, TURN + 3, [A], []))
    reason = "it is only on its way here, and began later than there"
    assert effects == [
        *(TellPeer(peer, NoCopy(X, reason)) for peer in peers[:3]),
        TellPeer(peers[3], Serving(X, False, b"")),
    ]


def test_what_waits_for_room_is_not_served(daemon: Daemon) -> None:
    daemon.want(X)
    assert daemon.hear(A, AskChunks(X, 7)) == [TellPeer(A, NoCopy(X, "it waits for room here"))]


def test_who_asked_for_an_original_that_begins_to_come_here_is_sent_away(daemon: Daemon) -> None:
    daemon.hear(B, AskChunks(X, 9))
    effects = daemon.lend(daemon.want(X))
    assert TellPeer(B, NoCopy(X, "it is on its way here")) in effects


def test_end_of_a_pull_is_told_to_who_is_served(daemon: Daemon) -> None:
    daemon.pull()
    daemon.hear(B, AskChunks(X, TURN + 1))
    effects = daemon.tell(WantEnded(X, W))
    assert TellPeer(B, NoCopy(X, "nobody there needs it any more")) in effects
    assert CloseSegment(X) not in effects


# ------------------------------------------------------------------ copies


def test_copy_that_is_dropped_for_room_is_told_to_its_owner_and_to_who_is_served(
    daemon: Daemon,
) -> None:
    daemon.have()
    daemon.hear(B, AskChunks(X, 9))
    assert daemon.tell(CopyDropped(NAME, "no room")) == [
        TellPeer(B, NoCopy(X, "no room")),
        CloseSegment(X),
        TellOwner(OWNER, CopyEnded(X, ME, "no room")),
    ]
    assert daemon.tell(CopyDropped(NAME, "no room")) == []
    assert of(daemon.want(X), AskRoom)


def test_copy_goes_with_its_object(daemon: Daemon) -> None:
    daemon.have()
    assert daemon.hear_owner(EndCopy(X, "freed")) == [DropCopy(NAME)]


def test_copy_that_is_rejected_is_dropped_and_a_pull_goes_on(daemon: Daemon) -> None:
    daemon.have()
    assert daemon.hear_owner(RejectCopy(X, "bad")) == [
        TellOwner(OWNER, CopyEnded(X, ME, "bad")),
        DropCopy(NAME),
    ]
    daemon.pull()
    assert daemon.hear_owner(RejectCopy(X, "bad")) == []


def test_copy_that_cannot_be_read_is_dropped(daemon: Daemon) -> None:
    daemon.have()
    daemon.hear(B, AskChunks(X, 9))
    daemon.tell(SegmentReady(X, CHUNK_BYTES))
    effects = daemon.tell(ChunkBroken(X, "EIO"))
    assert effects == [
        TellPeer(B, NoCopy(X, "EIO")),
        CloseSegment(X),
        TellOwner(OWNER, CopyEnded(X, ME, "EIO")),
        DropCopy(NAME),
    ]


def test_pull_of_which_a_chunk_cannot_be_read_back_fails(daemon: Daemon) -> None:
    daemon.pull()
    assert of(daemon.tell(ChunkBroken(X, "EIO")), AnswerWant) == [
        AnswerWant(W, X, "", "failed", "EIO")
    ]


def test_copy_becomes_the_primary_or_its_owner_hears_that_it_is_gone(daemon: Daemon) -> None:
    daemon.have()
    assert daemon.hear_owner(KeepCopy(X)) == [
        KeepSegment(NAME),
        TellOwner(OWNER, CopyKept(X, ME)),
    ]
    assert daemon.hear_owner(KeepCopy(Y)) == [
        TellOwner(OWNER, CopyEnded(Y, ME, "it was dropped before it was to be kept"))
    ]


def test_copy_is_made_and_kept_for_the_owner_though_nobody_waits(daemon: Daemon) -> None:
    daemon.lend(daemon.hear_owner(MakeCopy(X, CHUNK_BYTES, OWNER)))
    daemon.want(X)
    assert daemon.tell(WantEnded(X, W)) == []
    daemon.hear_owner(KnownPlaces(X, TURN, [A], []))
    daemon.serve()
    effects = daemon.come(0)
    assert FinishCopy(X, NAME, True, False) in effects
    assert TellOwner(OWNER, CopyWhole(X, ME, True)) in effects


def test_copy_that_is_to_be_made_and_is_here_is_kept(daemon: Daemon) -> None:
    daemon.have()
    assert daemon.hear_owner(MakeCopy(X, CHUNK_BYTES, OWNER)) == [
        KeepSegment(NAME),
        TellOwner(OWNER, CopyWhole(X, ME, True)),
    ]


def test_copy_that_was_to_be_made_and_finds_no_room_is_told_to_its_owner(daemon: Daemon) -> None:
    daemon.hear_owner(MakeCopy(X, CHUNK_BYTES, OWNER))
    assert daemon.tell(RoomRefused(1, "full")) == [TellOwner(OWNER, CopyEnded(X, ME, "full"))]


def test_owner_that_can_be_heard_again_is_told_of_copies_and_pulls(daemon: Daemon) -> None:
    daemon.have(X)
    daemon.pull(Y)
    assert daemon.tell(OwnerBack(OWNER), OwnerBack("another")) == [
        TellOwner(OWNER, BeginCopy(Y, ME)),
        TellOwner(OWNER, CopyWhole(X, ME, False)),
    ]


# ------------------------------------------------------------------ questions


def test_what_an_object_waits_for_is_said(daemon: Daemon) -> None:
    daemon.pull(chunks=3)
    daemon.serve()
    daemon.come(1)
    daemon.want(Y)
    daemon.want(Z)
    daemon.want(Edition(b"o", ""), waiter=V)
    assert daemon.machine.explain(W.client).splitlines() == [
        (
            "object 78 is on its way: 1 of 3 chunks are here; "
            "sources: 1 serving, 0 busy, 0 asked, 0 known"
        ),
        f"object 79 waits for room of {CHUNK_BYTES} bytes in the store",
        "object 7a waits for 2 others that are on their way",
    ]
    assert daemon.machine.explain(b"nobody") == ""
