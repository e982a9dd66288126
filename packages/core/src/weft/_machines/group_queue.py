"""In what order placement groups are tried that wait, and how a large one gets its turn.

What is always true
1. Those that lost bundles come first, then the first come. Who fits goes before those that do not.
2. A group that has waited for `PASSED_S` and would fit if all others ended is late. It is kept a
   place: those behind it get only what it does not need there, for a while; then they pass for a
   while; each time for twice as long. One group at a time is kept a place. So no group that fits
   once others have ended waits for ever while they end, however many small ones come.
3. `FAILED_PER_ROUND` plans fail in one round at most; the next round goes on from there.

Why for a while only: the groups that are to end first may never. What is kept stands idle for half
of the time at most.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._ids import NodeId
    from weft._machines.nodes import Nodes
    from weft._resources import Resources

FAILED_PER_ROUND = 64
# A round that goes on, and one in which somebody may have become late.
ROUND_S = 0.1
LATE_S = 0.25
# Long against the time that a group which is removed takes to end.
PASSED_S = 1.0
FOREVER = float("inf")

Rank: TypeAlias = "tuple[int, int]"
Amounts: TypeAlias = "list[tuple[NodeId, Resources]]"


class Waiting:
    """What the queue has to know of a group."""

    __slots__ = ("arrival", "kept", "kept_until", "late_at", "patience_s", "rank", "since")

    def __init__(self, arrival: int, now: float) -> None:
        self.arrival = arrival
        self.rank: Rank = (1, arrival)
        self.since = now
        self.patience_s = PASSED_S
        self.late_at = now + PASSED_S
        self.kept_until = FOREVER
        self.kept: Amounts = []
        """Where it is kept a place."""

    def let_pass(self, now: float) -> None:
        """Let others pass, for twice as long as before."""
        self.patience_s *= 2
        self.late_at, self.kept_until, self.kept = now + self.patience_s, FOREVER, []


W = TypeVar("W", bound=Waiting)


class GroupQueue(Generic[W]):
    """The groups that have no place."""

    def __init__(self) -> None:
        self._queue: list[tuple[Rank, W]] = []
        self._keeper: W | None = None
        """Who is kept a place."""
        self._resume_at: Rank | None = None
        """Where the last round has stopped."""
        self._round_at = 0.0

    def put(self, group: W, *, is_first: bool = False) -> None:
        """Let a group wait; who waited before has its old place."""
        group.rank = (0 if is_first else 1, group.arrival)
        insort(self._queue, (group.rank, group), key=_rank)

    def drop(self, group: W) -> None:
        """A group does not wait any more."""
        if group in self:
            del self._queue[bisect_left(self._queue, group.rank, key=_rank)]
        if self._keeper is group:
            self._keeper = None
            group.kept, group.kept_until = [], FOREVER

    def __contains__(self, group: W) -> bool:
        at = bisect_left(self._queue, group.rank, key=_rank)
        return at < len(self._queue) and self._queue[at][1] is group

    def wake_at(self) -> float | None:
        """Return when the next round is due; None: nobody waits."""
        if not self._queue:
            return None
        return self._round_at + (LATE_S if self._resume_at is None else ROUND_S)

    def round(
        self,
        now: float,
        place: Callable[[W], bool],
        ideal: Callable[[W], Amounts | None],
        nodes: Nodes,
        only: W | None = None,
    ) -> None:
        """Try to place those that wait, or only one that has just come.

        `place` places a group and drops it, or cannot; `ideal` says where it would go if all others
        ended.
        """
        keeper = self._keeper
        if keeper is not None and keeper.kept_until <= now:
            keeper.let_pass(now)
            self._keeper = keeper = None
        if keeper is not None and only is not keeper and place(keeper):
            keeper = None
        taken = _take(keeper, nodes) if keeper is not None and only is not keeper else []
        if only is not None:
            place(only)
        else:
            self._round_at = now
            taken += self._walk(now, place, ideal, nodes)
        for node_id, amounts in taken:
            nodes.give(node_id, amounts)

    def _walk(
        self,
        now: float,
        place: Callable[[W], bool],
        ideal: Callable[[W], Amounts | None],
        nodes: Nodes,
    ) -> Amounts:
        """Try those that wait; return what was taken for the one that is kept a place."""
        start = self._resume_at
        begin = 0 if start is None else bisect_right(self._queue, start, key=_rank)
        self._resume_at = None
        taken: Amounts = []
        failed = 0
        has_asked = False
        for rank, group in self._queue[begin:]:
            if group is self._keeper or place(group):
                continue
            if self._keeper is None and group.late_at <= now and not has_asked:
                has_asked = True
                taken = self._keep(group, now, ideal, nodes)
            failed += 1
            if failed == FAILED_PER_ROUND:
                self._resume_at = rank
                break
        return taken

    def _keep(
        self, group: W, now: float, ideal: Callable[[W], Amounts | None], nodes: Nodes
    ) -> Amounts:
        """Keep a late group its place, if there is one."""
        kept = ideal(group)
        if kept is None:
            group.let_pass(now)
            return []
        self._keeper = group
        group.kept, group.kept_until = kept, now + group.patience_s
        return _take(group, nodes)

    def explain(self, group: W, now: float) -> str:
        """Say why a group waits that would fit."""
        keeper = self._keeper
        if keeper is not None and keeper is not group:
            left_s = max(0.0, keeper.kept_until - now)
            return f"a group that has waited longer is kept a place, for {left_s:.1f} s more"
        return "it is tried with the next round"

    def check(self) -> None:
        """Assert what is always true."""
        ranks = [rank for rank, _ in self._queue]
        assert ranks == sorted(set(ranks)), 1
        assert all(group.rank == rank for rank, group in self._queue), 1
        keeping = [group for _, group in self._queue if group.kept_until < FOREVER]
        assert keeping == ([self._keeper] if self._keeper is not None else []), 2


def _take(group: Waiting, nodes: Nodes) -> Amounts:
    """Take what is kept for a group from what others see."""
    taken = [(node_id, amounts) for node_id, amounts in group.kept if node_id in nodes]
    for node_id, amounts in taken:
        nodes.take(node_id, amounts)
    return taken


def _rank(entry: tuple[Rank, Waiting]) -> Rank:
    return entry[0]
