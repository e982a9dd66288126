"""A queue of which only the first few of each lane are looked at, however long it is.

    add -> in front, if fewer than `WINDOW` of its lane are
        -> behind: in front once one that is has left, in order of rank

A lane is what cannot be told apart: while the first ones of a lane do not get what they wait for,
those behind them would not either. So who decides looks at `front` alone, and one decision costs
the same for ten that wait as for a million, but for a heap's logarithm.

What is always true
1. Each is once in the queue: in front, or behind others of its lane.
2. `front` is in order of rank, and a rank is held once. Of a lane, `WINDOW` are in front if any is
   behind; those behind come in front in order of rank.
3. A lane that nothing waits in is not kept, nor more than twice the ranks of those that wait.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

# Some of them may be waiting for processes that start; the next still has its turn.
WINDOW = 16

Rank: TypeAlias = tuple[int, int]


class Laned(Protocol):
    """What waits. Neither of these changes meanwhile."""

    @property
    def rank(self) -> Rank:
        """Its place in the queue."""
        ...

    @property
    def alike(self) -> Hashable:
        """Its lane."""
        ...


W = TypeVar("W", bound=Laned)


class _Lane(Generic[W]):
    __slots__ = ("behind", "ranks", "width")

    def __init__(self) -> None:
        self.width = 0
        """How many are in front."""
        self.behind: dict[Rank, W] = {}
        self.ranks: list[Rank] = []
        """A heap of the ranks behind, and of some that have left."""


class Lanes(Generic[W]):
    """The queue."""

    def __init__(self) -> None:
        self.front: list[tuple[Rank, W]] = []
        """What is looked at, in order of rank. Only to be read."""
        self._lane_of: dict[Hashable, _Lane[W]] = {}

    def add(self, one: W) -> bool:
        """Queue one; tell whether it is in front."""
        lane = self._lane_of.get(one.alike)
        if lane is None:
            lane = self._lane_of[one.alike] = _Lane()
        if lane.width < WINDOW:
            lane.width += 1
            insort(self.front, (one.rank, one), key=_rank)
            return True
        lane.behind[one.rank] = one
        heappush(lane.ranks, one.rank)
        return False

    def remove(self, one: W) -> W | None:
        """Take one out; return the one that comes in front in its place, if one does."""
        lane = self._lane_of[one.alike]
        if lane.behind.pop(one.rank, None) is not None:
            if len(lane.ranks) > 2 * len(lane.behind):
                lane.ranks = list(lane.behind)
                heapify(lane.ranks)
            return None
        del self.front[self._place(one)]
        while lane.ranks:
            following = lane.behind.pop(heappop(lane.ranks), None)
            if following is not None:
                insort(self.front, (following.rank, following), key=_rank)
                return following
        lane.width -= 1
        if not lane.width:
            del self._lane_of[one.alike]
        return None

    def replace(self, old: W, new: W) -> None:
        """Put one in the place of another of its rank and lane."""
        behind = self._lane_of[old.alike].behind
        if old.rank in behind:
            behind[old.rank] = new
        else:
            self.front[self._place(old)] = (old.rank, new)

    def _place(self, one: W) -> int:
        return bisect_left(self.front, one.rank, key=_rank)

    def __iter__(self) -> Iterator[W]:
        """Yield all that wait, lane by lane."""
        yield from (one for _, one in self.front)
        for lane in self._lane_of.values():
            yield from lane.behind.values()

    def check(self) -> None:
        """Assert what is always true."""
        ranks = [rank for rank, _ in self.front]
        assert ranks == sorted(set(ranks)), 2
        width_of: dict[Hashable, int] = {}
        for rank, one in self.front:
            assert rank == one.rank, 2
            width_of[one.alike] = width_of.get(one.alike, 0) + 1
        assert width_of == {alike: lane.width for alike, lane in self._lane_of.items()}, (1, 3)
        for alike, lane in self._lane_of.items():
            assert lane.width == WINDOW or not lane.behind, 2
            assert lane.behind.keys() <= set(lane.ranks), 2
            assert len(lane.ranks) <= 2 * max(len(lane.behind), WINDOW), 3
            for rank, one in lane.behind.items():
                assert (rank, alike) == (one.rank, one.alike), 1
                assert rank not in ranks, 1


def _rank(entry: tuple[Rank, Laned]) -> Rank:
    return entry[0]
