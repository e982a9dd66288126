"""Whom this node gives chunks of the objects that it has, or is getting.

Each object has `SLOTS` pullers at a time, and a queue. Who is not served at once is told of those
who are, as these have chunks soon; and is served in its turn if it is still there. What this node
is only getting it gives to pullers with a later turn than its own.

What is always true
1. At most `SLOTS` are served of one object, and none waits while a slot is free.
2. A node is served, or waits, not both; and an offer without either is there only while its object
   is on its way, or is being opened.
3. A chunk is sent to who is served, and only if it is here.
4. Who is served of what is only coming has a later turn.

It is a part of transfers.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from weft._machines.pulls import UNKNOWN, TellPeer
from weft._wire.transfers import (
    Edition,
    MoreChunks,
    NoCopy,
    NodeLife,
    ServesOthers,
    Serving,
    pack_chunks,
)
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

# So a broadcast doubles what has the object with each step; with more, each would take longer.
SLOTS = 2
# The turn of who has all: before any that is given.
FIRST = -1


class OpenSegment(msgspec.Struct, frozen=True):
    """Open a segment to read its chunks, from memory or disk: then SegmentReady or SegmentMissing.

    To the store this is a process that has it mapped, until CloseSegment.
    """

    edition: Edition
    name: str


class CloseSegment(msgspec.Struct, frozen=True):
    """Nobody is served of this any more."""

    edition: Edition


class ReadChunk(msgspec.Struct, frozen=True):
    """Send a chunk of the open segment, or of what has arrived; ChunkBroken: it cannot be read."""

    peer: NodeLife
    edition: Edition
    index: int


class Offer:
    """One object that others want of this node."""

    __slots__ = ("edition", "fed", "has", "is_here", "is_open", "is_turned", "queue", "turn")

    def __init__(self, edition: Edition) -> None:
        self.edition = edition
        self.turn = UNKNOWN
        """This node's own, while the object is on its way."""
        self.is_here = False
        """All of it is on this node."""
        self.is_open = False
        """What is here can be read: a segment has to be opened first."""
        self.has = 0
        """The chunks, as bits."""
        self.fed: dict[NodeLife, int] = {}
        """Who is served, with its turn."""
        self.queue: dict[NodeLife, int] = {}
        self.is_turned = False
        """Whom a puller is sent to first alternates, so that both get as many."""


class Offers:
    """All that others want of this node."""

    def __init__(
        self, say: Callable[[TellPeer | OpenSegment | CloseSegment | ReadChunk], None]
    ) -> None:
        """`say` is called with each effect."""
        self._say = say
        self.offer_of: dict[Edition, Offer] = {}

    # -------------------------------------------------------------- what is here

    def coming(self, edition: Edition) -> None:
        """This node begins to get an object."""
        # Somebody may have asked for it too early.
        self.end(edition, "it is on its way here")
        offer = self.offer_of[edition] = Offer(edition)
        offer.is_open = True

    def turn(self, edition: Edition, turn: int) -> None:
        """This node's own turn is known; it gets a later one if its owner took it for ended."""
        offer = self.offer_of[edition]
        offer.turn = turn
        for peers in (offer.fed, offer.queue):
            for peer in [peer for peer, its_turn in peers.items() if its_turn <= turn]:
                del peers[peer]
                self._tell_early(offer, peer)
        self._serve(offer)

    def more(self, edition: Edition, chunks: int) -> None:
        """These have come."""
        offer = self.offer_of[edition]
        offer.has |= chunks
        for peer in offer.fed:
            self._say(TellPeer(peer, MoreChunks(edition, pack_chunks(chunks))))

    def whole(self, edition: Edition, chunks: int) -> bool:
        """All have come; tell whether some of them are to be read still."""
        offer = self.offer_of[edition]
        offer.is_here, offer.turn, offer.has = True, FIRST, chunks
        for peer in offer.fed:
            self._say(TellPeer(peer, MoreChunks(edition, b"", is_whole=True)))
        self._serve(offer)
        if not offer.fed:
            del self.offer_of[edition]
        return bool(offer.fed)

    def opened(self, edition: Edition, chunks: int) -> None:
        """A segment can be read."""
        offer = self.offer_of.get(edition)
        if offer is not None and not offer.is_open:
            offer.is_open, offer.has = True, chunks
            self._serve(offer)
            for peer, turn in offer.queue.items():
                self._refer(offer, peer, turn)
            self._close_unused(offer)

    def end(self, edition: Edition, reason: str) -> None:
        """Nothing of it is here any more."""
        offer = self.offer_of.pop(edition, None)
        if offer is not None:
            for peer in (*offer.fed, *offer.queue):
                self._say(TellPeer(peer, NoCopy(edition, reason)))
            if offer.is_here:
                self._say(CloseSegment(edition))

    # -------------------------------------------------------------- what others want

    def ask(self, peer: NodeLife, edition: Edition, turn: int, *, name: str) -> None:
        """A node wants an object. `name` is that of its segment here, if it is here."""
        offer = self.offer_of.get(edition)
        if offer is None:
            offer = self.offer_of[edition] = Offer(edition)
            offer.is_here, offer.turn = True, FIRST
            self._say(OpenSegment(edition, name))
        if peer in offer.fed:
            self._tell_serving(offer, peer)
        elif offer.turn != UNKNOWN and turn <= offer.turn:
            self._tell_early(offer, peer)
        else:
            offer.queue[peer] = turn
            self._serve(offer)
            if peer in offer.queue and offer.is_open:
                self._refer(offer, peer, turn)

    def wants(self, peer: NodeLife, edition: Edition, index: int) -> None:
        """A node asks for a chunk. One that is served no longer knows, or will soon."""
        offer = self.offer_of.get(edition)
        if offer is not None and peer in offer.fed:
            if index < 0 or not offer.has >> index & 1:
                raise ProtocolError(f"chunk {index} of {edition} was asked for, and is not here")
            self._say(ReadChunk(peer, edition, index))

    def leave(self, peer: NodeLife, edition: Edition) -> None:
        """A node wants no more of an object."""
        offer = self.offer_of.get(edition)
        if offer is not None:
            offer.fed.pop(peer, None)
            offer.queue.pop(peer, None)
            self._serve(offer)
            self._close_unused(offer)

    def leave_all(self, peer: NodeLife) -> None:
        """A node cannot be heard."""
        for edition in list(self.offer_of):
            self.leave(peer, edition)

    def _serve(self, offer: Offer) -> None:
        """Serve those who wait longest, as far as there are slots."""
        while offer.queue and len(offer.fed) < SLOTS and offer.is_open and offer.turn != UNKNOWN:
            peer = next(iter(offer.queue))
            offer.fed[peer] = offer.queue.pop(peer)
            self._tell_serving(offer, peer)

    def _tell_serving(self, offer: Offer, peer: NodeLife) -> None:
        chunks = b"" if offer.is_here else pack_chunks(offer.has)
        self._say(TellPeer(peer, Serving(offer.edition, offer.is_here, chunks)))

    def _tell_early(self, offer: Offer, peer: NodeLife) -> None:
        reason = "it is only on its way here, and began later than there"
        self._say(TellPeer(peer, NoCopy(offer.edition, reason)))

    def _refer(self, offer: Offer, peer: NodeLife, turn: int) -> None:
        others = [other for other, its_turn in offer.fed.items() if its_turn < turn]
        offer.is_turned = not offer.is_turned
        if offer.is_turned:
            others.reverse()
        self._say(TellPeer(peer, ServesOthers(offer.edition, others)))

    def _close_unused(self, offer: Offer) -> None:
        if offer.is_here and offer.is_open and not offer.fed and not offer.queue:
            del self.offer_of[offer.edition]
            self._say(CloseSegment(offer.edition))

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        for edition, offer in self.offer_of.items():
            can_serve = offer.is_open and offer.turn != UNKNOWN
            assert len(offer.fed) <= SLOTS, (1, edition)
            assert not (can_serve and offer.queue and len(offer.fed) < SLOTS), (1, edition)
            assert can_serve or not offer.fed, (1, edition)
            assert not offer.fed.keys() & offer.queue.keys(), (2, edition)
            is_begun = not (offer.is_here and offer.is_open)
            assert is_begun or offer.fed or offer.queue, (2, edition)
            assert all(turn > offer.turn for turn in offer.fed.values()), (4, edition)
