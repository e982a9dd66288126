"""On which nodes the objects of one owner are, wholly or in part.

    (begins to pull) -> partial -> whole -> kept          each is gone with its node, or says so

An object begins with one place, its original, in the segment that its value names. A node that
begins to pull it is a partial place at once: it gives others the chunks that it has. A whole place
that is not kept may be dropped for room at any time; one that is kept is spilled. When the last
kept place goes, another whole one is asked to keep its copy; when that is gone as well, the next.

Who pulls gets a turn, a number above all before. It takes chunks from whole places and from those
with an earlier turn: so nobody ever waits in a circle. Each partial place is named to as many as it
serves at a time, the earliest first: so those who begin at once make a tree, and the last of them
is a logarithm away from the original.

A node that drains holds some objects that are nowhere else. Those are moved, a few at a time, the
smallest first: so most are saved before the deadline. What has another whole copy needs a message
only.

What is always true
1. An object that is known has a whole place. When the last goes it is lost, and who is getting it
   is told, though their chunks together might be all.
2. It has a kept place on a node that does not drain; or one is asked to keep it; or it is being
   moved or is to be moved; or no node could take it, and that was said.
3. A node gets at most one place of an object. A turn is given once; KnownPlaces names no place that
   is not earlier or whole.
4. At most `MOVES` objects are moved at a time.
5. What a dead incarnation says changes nothing.

An original ends by what ownership.py says to its creator: EndCopy and RejectCopy are for copies
only. What is said again after a connection broke is answered as the first time, and about what is
not known with EndCopy.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING, assert_never

import msgspec

from weft._machines.offers import SLOTS
from weft._machines.pulls import WHOLE_SOURCES
from weft._wire.transfers import (
    BeginCopy,
    BlamePlace,
    CopyEnded,
    CopyKept,
    CopyMessage,
    CopyWhole,
    Edition,
    EndCopy,
    KeepCopy,
    KnownPlaces,
    MakeCopy,
    NodeLife,
    OwnerMessage,
    RejectCopy,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# Places that are named to one who pulls: a few to choose from, and to go on with when one dies.
WHOLE_NAMED = 4
PARTIAL_NAMED = 2
# A node's uplink is shared by what it sends: more at once make none of them sooner.
MOVES = 4
# It may be that one reader's connection only lost bytes: the last copy is lost only when that was
# said several times, or by its place.
MAX_BLAMES = 3
DEAD_KEPT = 1000


# ------------------------------------------------------------------ events


class OriginalMade(msgspec.Struct, frozen=True):
    """An object was sealed, for the first time or again, with its value in a segment there."""

    edition: Edition
    size_bytes: int
    node: NodeLife


class ObjectEnded(msgspec.Struct, frozen=True):
    """Nobody needs the object any more, or it was freed by hand."""

    edition: Edition
    reason: str


class PlacesDied(msgspec.Struct, frozen=True):
    """A node is dead: all that was there is gone."""

    node: NodeLife
    reason: str


class PlacesBack(msgspec.Struct, frozen=True):
    """A node can be heard again; what was said meanwhile, on either side, is lost.

    It says again what it has and what it is getting (OwnerBack of transfers.py).
    """

    node: NodeLife


class PlacesDraining(msgspec.Struct, frozen=True):
    """A node is about to end. Said again when there are other targets."""

    node: NodeLife
    targets: list[NodeLife]
    """Where objects can go."""


Event = OriginalMade | ObjectEnded | PlacesDied | PlacesBack | PlacesDraining | CopyMessage

# ------------------------------------------------------------------ effects


class TellNode(msgspec.Struct, frozen=True):
    """Send a message to a node's daemon. It is lost with the node only."""

    node: NodeLife
    message: OwnerMessage


class PlacesLost(msgspec.Struct, frozen=True):
    """No whole place is left: the object has to be made again (SegmentGone of ownership.py)."""

    edition: Edition
    reason: str


class PlacesDrained(msgspec.Struct, frozen=True):
    """No object here needs the node any more, but for those that no other node could take."""

    node: NodeLife
    left: list[Edition]


Effect = TellNode | PlacesLost | PlacesDrained

# ------------------------------------------------------------------ state


class _Spot:
    """One place of one object."""

    __slots__ = (
        "blames",
        "is_asked",
        "is_kept",
        "is_original",
        "is_whole",
        "named",
        "node",
        "turn",
    )

    def __init__(self, node: NodeLife, turn: int) -> None:
        self.node = node
        self.turn = turn
        self.is_whole = False
        self.is_original = False
        self.is_kept = False
        self.is_asked = False
        """It was told to keep its copy, and has not answered."""
        self.named = 0
        """To how many it was named."""
        self.blames = 0


class _Object:
    """One edition of an object, and its places."""

    __slots__ = ("edition", "size_bytes", "spot_of", "target", "tried", "turns")

    def __init__(self, edition: Edition, size_bytes: int) -> None:
        self.edition = edition
        self.size_bytes = size_bytes
        self.spot_of: dict[NodeLife, _Spot] = {}
        self.turns = 0
        self.target: NodeLife | None = None
        """Where it is being moved."""
        self.tried: set[NodeLife] = set()
        """Where it could not be moved."""

    def whole(self) -> list[_Spot]:
        return [spot for spot in self.spot_of.values() if spot.is_whole]


class Places:
    """Where the objects of one owner are. `owner` is its address."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._object_of: dict[Edition, _Object] = {}
        self._objects_at: dict[NodeLife, dict[Edition, None]] = {}
        self._dead: OrderedDict[NodeLife, None] = OrderedDict()
        """The last that died."""
        self._targets_of: dict[NodeLife, list[NodeLife]] = {}
        """By the node that drains."""
        self._said_drained: set[NodeLife] = set()
        self._to_move: OrderedDict[Edition, None] = OrderedDict()
        self._moving: dict[Edition, NodeLife] = {}
        """By object, where it goes."""
        self._stuck: dict[Edition, None] = {}
        """What no node could take."""
        self._unsafe: dict[Edition, None] = {}
        """What is kept on no node that stays."""
        self._moved_to: dict[NodeLife, int] = {}
        self._effects: list[Effect] = []

    # -------------------------------------------------------------- events

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event; return what to do, in order. Time is of no matter."""
        match event:
            case OriginalMade():
                self._made(event)
            case ObjectEnded(edition, reason):
                self._ended(edition, reason)
            case PlacesDied(node, reason):
                self._died(node, reason)
            case PlacesBack(node):
                self._back(node)
            case PlacesDraining(node, targets):
                self._drain(node, targets)
            case BeginCopy() | CopyWhole() | CopyKept() | CopyEnded() | BlamePlace():
                if event.node not in self._dead:
                    self._heard(event)
            case _:
                assert_never(event)
        self._move()
        self._say_drained()
        effects, self._effects = self._effects, []
        return effects

    def _heard(self, message: CopyMessage) -> None:
        item = self._object_of.get(message.edition)
        if item is None:
            if not isinstance(message, CopyEnded | BlamePlace):
                self._tell(message.node, EndCopy(message.edition, "its object is gone"))
            return
        match message:
            case BeginCopy(_, node):
                self._begin(item, node)
            case CopyWhole(_, node, is_kept):
                self._whole(item, node, is_kept=is_kept)
            case CopyKept(_, node):
                self._whole(item, node, is_kept=True)
            case CopyEnded(_, node, reason):
                self._remove(item, node, reason)
            case BlamePlace():
                self._blame(item, message)
            case _:
                assert_never(message)

    def _tell(self, node: NodeLife, message: OwnerMessage) -> None:
        self._effects.append(TellNode(node, message))

    # -------------------------------------------------------------- objects come and go

    def _made(self, event: OriginalMade) -> None:
        assert event.edition not in self._object_of, event.edition
        item = self._object_of[event.edition] = _Object(event.edition, event.size_bytes)
        spot = self._spot(item, event.node)
        spot.is_whole = spot.is_kept = spot.is_original = True
        if event.node in self._dead:
            self._remove(item, event.node, "its node died")
        else:
            self._secure(item)

    def _ended(self, edition: Edition, reason: str) -> None:
        item = self._object_of.get(edition)
        if item is not None:
            self._forget(item, reason)

    def _forget(self, item: _Object, reason: str) -> None:
        """Tell all who have a copy, or are getting one."""
        del self._object_of[item.edition]
        for node, spot in item.spot_of.items():
            del self._objects_at[node][item.edition]
            if not spot.is_original:
                self._tell(node, EndCopy(item.edition, reason))
        item.spot_of.clear()
        self._stop_moving(item)

    def _stop_moving(self, item: _Object) -> None:
        item.target = None
        for table in (self._moving, self._to_move, self._stuck, self._unsafe):
            table.pop(item.edition, None)

    # -------------------------------------------------------------- places come and go

    def _spot(self, item: _Object, node: NodeLife) -> _Spot:
        """Return the place on a node, with a turn of its own if it is a fresh one."""
        spot = item.spot_of.get(node)
        if spot is None:
            item.turns += 1
            spot = item.spot_of[node] = _Spot(node, item.turns)
            self._objects_at.setdefault(node, {})[item.edition] = None
        return spot

    def _begin(self, item: _Object, node: NodeLife) -> None:
        spot = item.spot_of.get(node)
        if spot is not None and spot.is_whole:
            # It would not ask if it had it; what it said of that was lost.
            self._remove(item, node, "it has no copy any more")
            if item.edition not in self._object_of:
                self._tell(node, EndCopy(item.edition, "its last copy is gone"))
                return
        turn = self._spot(item, node).turn
        whole = [other for other in item.whole() if other.node != node]
        partial = [
            other for other in item.spot_of.values() if not other.is_whole and other.turn < turn
        ]
        self._tell(
            node,
            KnownPlaces(
                item.edition,
                turn,
                _named(whole, WHOLE_NAMED, asked=WHOLE_SOURCES),
                _named(partial, PARTIAL_NAMED, asked=1),
            ),
        )

    def _whole(self, item: _Object, node: NodeLife, *, is_kept: bool) -> None:
        spot = self._spot(item, node)
        if not spot.is_whole:
            # To how many it was named as a partial place, who are served by now, does not count.
            spot.is_whole, spot.named = True, 0
        if is_kept:
            spot.is_kept, spot.is_asked = True, False
        self._secure(item)

    def _remove(self, item: _Object, node: NodeLife, reason: str) -> None:
        """A place is gone, if there is one."""
        spot = item.spot_of.pop(node, None)
        if spot is None:
            return
        del self._objects_at[node][item.edition]
        if item.target == node:
            item.target = None
            item.tried.add(node)
            del self._moving[item.edition]
        if item.whole():
            self._secure(item)
        else:
            self._effects.append(PlacesLost(item.edition, reason))
            self._forget(item, reason)

    def _blame(self, item: _Object, event: BlamePlace) -> None:
        spot = item.spot_of.get(event.place)
        if spot is None or not spot.is_whole:
            return
        spot.blames += 1
        if event.is_gone or len(item.whole()) > 1 or spot.blames >= MAX_BLAMES:
            # It might have a copy by now of which nobody would tell it that the object is gone.
            if not spot.is_original:
                self._tell(spot.node, RejectCopy(item.edition, event.reason))
            self._remove(item, spot.node, event.reason)

    def _died(self, node: NodeLife, reason: str) -> None:
        self._dead[node] = None
        if len(self._dead) > DEAD_KEPT:
            self._dead.popitem(last=False)
        self._targets_of.pop(node, None)
        self._said_drained.discard(node)
        self._moved_to.pop(node, None)
        for edition in list(self._objects_at.get(node, ())):
            # One that was lost has taken no other with it.
            self._remove(self._object_of[edition], node, reason)
        self._objects_at.pop(node, None)

    def _back(self, node: NodeLife) -> None:
        """Say again what a node was told to do."""
        for edition in self._unsafe:
            item = self._object_of[edition]
            spot = item.spot_of.get(node)
            if item.target == node:
                self._tell(node, MakeCopy(edition, item.size_bytes, self._owner))
            elif spot is not None and spot.is_asked:
                self._tell(node, KeepCopy(edition))

    # -------------------------------------------------------------- one place keeps its copy

    def _secure(self, item: _Object) -> None:
        """See to it that a node that stays keeps the object."""
        safe = [spot for spot in item.whole() if spot.node not in self._targets_of]
        if any(spot.is_kept for spot in safe):
            self._stop_moving(item)
            return
        self._unsafe[item.edition] = None
        if any(spot.is_asked for spot in safe):
            return
        if safe:
            safe[0].is_asked = True
            self._tell(safe[0].node, KeepCopy(item.edition))
        elif item.target is None:
            self._stuck.pop(item.edition, None)
            self._to_move[item.edition] = None
            self._said_drained.difference_update(spot.node for spot in item.whole())

    def _drain(self, node: NodeLife, targets: list[NodeLife]) -> None:
        self._targets_of[node] = targets
        self._said_drained.discard(node)
        items = [self._object_of[edition] for edition in self._objects_at.get(node, ())]
        for item in sorted(items, key=lambda item: item.size_bytes):
            item.tried.clear()
            self._secure(item)

    def _move(self) -> None:
        """Have the next objects pulled by nodes that stay."""
        while self._to_move and len(self._moving) < MOVES:
            edition, _ = self._to_move.popitem(last=False)
            item = self._object_of[edition]
            target = self._target(item)
            if target is None:
                self._stuck[edition] = None
                continue
            item.target = self._moving[edition] = target
            self._moved_to[target] = self._moved_to.get(target, 0) + 1
            self._spot(item, target)
            self._tell(target, MakeCopy(edition, item.size_bytes, self._owner))

    def _target(self, item: _Object) -> NodeLife | None:
        """Return where to move an object: where it is on its way already, or few were moved."""
        able = {
            node: None
            for spot in item.whole()
            for node in self._targets_of[spot.node]
            if node not in self._dead and node not in self._targets_of and node not in item.tried
        }
        return min(
            able,
            key=lambda node: (node not in item.spot_of, self._moved_to.get(node, 0)),
            default=None,
        )

    def _say_drained(self) -> None:
        for node in list(self._targets_of):
            if node not in self._said_drained and not self._is_needed(node):
                self._said_drained.add(node)
                left = [e for e in self._objects_at.get(node, ()) if e in self._stuck]
                self._effects.append(PlacesDrained(node, left))

    def _is_needed(self, node: NodeLife) -> bool:
        """Tell whether something is to happen still to what a node that drains has."""
        return any(
            node in self._object_of[edition].spot_of
            for edition in self._unsafe
            if edition not in self._stuck
        )

    def _is_safe(self, item: _Object) -> bool:
        return any(spot.is_kept and spot.node not in self._targets_of for spot in item.whole())

    # -------------------------------------------------------------- questions

    def places(self, edition: Edition) -> Iterator[tuple[NodeLife, str]]:
        """Yield (node, partial, whole or kept) of an object, for people."""
        item = self._object_of.get(edition)
        for spot in item.spot_of.values() if item is not None else ():
            yield spot.node, "kept" if spot.is_kept else "whole" if spot.is_whole else "partial"

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        at: dict[NodeLife, set[Edition]] = {}
        for edition, item in self._object_of.items():
            assert item.whole(), (1, edition)
            asked = any(
                spot.is_asked and spot.node not in self._targets_of for spot in item.whole()
            )
            moves = [edition in moves for moves in (self._moving, self._to_move, self._stuck)]
            assert self._is_safe(item) or asked or any(moves), (2, edition)
            assert self._is_safe(item) is (edition not in self._unsafe), (2, edition)
            assert sum(moves) <= 1, (2, edition)
            assert (item.target is not None) == (edition in self._moving), (4, edition)
            turns = [spot.turn for spot in item.spot_of.values()]
            assert len(set(turns)) == len(turns) and max(turns) <= item.turns, (3, edition)
            for node, spot in item.spot_of.items():
                assert spot.node == node and node not in self._dead, (5, edition)
                assert spot.is_whole or not (spot.is_kept or spot.is_asked), (2, edition)
                at.setdefault(node, set()).add(edition)
        assert at == {n: set(es) for n, es in self._objects_at.items() if es}, 3
        assert len(self._moving) <= MOVES, 4
        for edition in (*self._moving, *self._to_move, *self._stuck, *self._unsafe):
            assert edition in self._object_of, (4, edition)


def _named(spots: list[_Spot], most: int, *, asked: int) -> list[NodeLife]:
    """Return those that have most room for others, the earliest first; so they make a tree.

    Of these `asked` will be asked first: count that.
    """
    chosen = heapq.nsmallest(most, spots, key=lambda spot: (spot.named // SLOTS, spot.turn))
    for spot in chosen[:asked]:
        spot.named += 1
    return [spot.node for spot in chosen]
