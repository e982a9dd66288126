"""The nodes that one process knows of, with an index: `place` for many demands on many nodes.

For each shape that is asked for the index keeps the nodes that could hold it, and those that have
it free in the order of choice. What changes at a node is noted, and sorted in when such a demand
comes again: a decision costs as much as has changed, not as much as there is.

What is always true
1. `find` and `why` answer as `place` does over `views()`.
2. At most `SHAPES` shapes are kept, those that were last asked for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from weft._machines.placement import (
    ANY,
    NOWHERE,
    Never,
    NodeView,
    Placed,
    Pressure,
    Terms,
    Waits,
    able,
    bundle_of,
    group_of,
    is_free,
    liking,
    obstacle,
    place,
    pressure,
    terms_of,
)
from weft._resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from weft._ids import NodeId, PlacementGroupId
    from weft._specs import Shape

SHAPES = 128


# What of a shape decides where it goes.
_Key: TypeAlias = tuple[Any, ...]


class _Ranking:
    """The nodes for demands of one shape."""

    __slots__ = (
        "_liking_of", "_near", "_round", "able", "key_of", "order", "stale", "terms",
    )  # fmt: skip

    def __init__(self, terms: Terms, nodes: Iterable[NodeView], near: NodeId | None) -> None:
        self.terms = terms
        self._near = near
        self._liking_of = {node.node_id: liking(terms, node) for node in able(terms, nodes)}
        self.able = self._liking_of.keys()
        self._round: list[NodeId] | None = None
        self.stale: set[NodeId] = set(self.able)
        """Nodes that have changed since they were sorted in."""
        self.key_of: dict[NodeId, Any] = {}
        self.order: list[tuple[Any, NodeId]] = []
        """Those that have it free, the best first."""

    def freshen(
        self, node_of: Mapping[NodeId, NodeView], pressure_of: dict[NodeId, Pressure]
    ) -> None:
        """Sort in what has changed."""
        if 2 * len(self.stale) > len(self.order):
            for node_id in self.stale:
                self._set_key(node_of[node_id], pressure_of)
            self.order = sorted((key, node_id) for node_id, key in self.key_of.items())
        else:
            for node_id in self.stale:
                old = self.key_of.get(node_id)
                if old is not None:
                    del self.order[bisect_left(self.order, (old, node_id))]
                if self._set_key(node_of[node_id], pressure_of):
                    insort(self.order, (self.key_of[node_id], node_id))
        self.stale.clear()

    def _set_key(self, node: NodeView, pressure_of: dict[NodeId, Pressure]) -> bool:
        """Give a node its place in the order; False: it has none, for it is not free."""
        node_id = node.node_id
        if not is_free(self.terms, node):
            self.key_of.pop(node_id, None)
            return False
        last: Any = node_id
        if not self.terms.is_spread:
            last = pressure_of.get(node_id)
            if last is None:
                last = pressure_of[node_id] = pressure(node, self._near)
        self.key_of[node_id] = (self._liking_of[node_id], last)
        return True

    def next_after(self, after: NodeId | None) -> NodeId | None:
        """Return the next of those that are liked best, free or not; None: there is none."""
        if self._round is None:
            best = min(self._liking_of.values(), default=None)
            self._round = sorted(at for at, liked in self._liking_of.items() if liked == best)
        if not self._round:
            return None
        at = bisect_right(self._round, after) if after is not None else 0
        return self._round[at % len(self._round)]

    def best(
        self,
        bytes_at: Mapping[NodeId, int],
        after: NodeId | None,
        but_not: AbstractSet[NodeId],
    ) -> NodeId | None:
        """Return the node that is to be taken; None: none is free."""
        if but_not:
            # Of those that a placement group has already.
            return next((at for _, at in self.order if at not in but_not), None)
        if not self.order:
            return None
        (liked, _), first = self.order[0]
        if self.terms.is_spread:
            if after is None:
                return first
            at = bisect_right(self.order, ((liked, after), after))
            is_round = at == len(self.order) or self.order[at][0][0] != liked
            return first if is_round else self.order[at][1]
        having = [
            (-size, self.key_of[node_id][1], node_id)
            for node_id, size in bytes_at.items()
            if size > 0 and node_id in self.key_of and self.key_of[node_id][0] == liked
        ]
        return min(having)[2] if having else first


class Nodes:
    """What is known of each node, as the last that was said of it."""

    def __init__(self, views: Iterable[NodeView] = ()) -> None:
        self.total = Resources()
        """Of all nodes together."""
        self._node_of: dict[NodeId, NodeView] = {}
        self._pressure_of: dict[NodeId, Pressure] = {}
        """Of those that have not changed since it was asked for: it is the same for all shapes."""
        self._at_of_group: dict[PlacementGroupId, dict[NodeId, None]] = {}
        """Where bundles of a placement group are."""
        self._ranking_of: OrderedDict[_Key, _Ranking] = OrderedDict()
        self._after: OrderedDict[_Key, NodeId] = OrderedDict()
        """Where SPREAD went last."""
        self._local: NodeId | None = None
        """SPREAD begins after it, and nodes that are alike are in its order: each daemon's own."""
        for view in views:
            self.put(view)

    # -------------------------------------------------------------- what is known

    def put(self, view: NodeView) -> None:
        """Take what is known of a node, in place of what was."""
        old = self._node_of.get(view.node_id)
        self._node_of[view.node_id] = view
        if view.is_local and self._local != view.node_id:
            self._local = view.node_id
            self._pressure_of.clear()
        if old is None or old.bundles.keys() != view.bundles.keys():
            self._put_groups(view.node_id, old.bundles if old else (), view.bundles)
        if old is not None and _is_alike(old, view):
            self._touch(view.node_id)
        else:
            self._ranking_of.clear()
            self._pressure_of.pop(view.node_id, None)
            self.total += view.total - old.total if old else view.total

    def remove(self, node_id: NodeId) -> None:
        """Forget a node that is gone."""
        old = self._node_of.pop(node_id)
        self.total -= old.total
        self._pressure_of.pop(node_id, None)
        self._put_groups(node_id, old.bundles, ())
        self._ranking_of.clear()

    def set_free(self, node_id: NodeId, free: Resources) -> None:
        """Take what is free on a node."""
        self._node_of[node_id] = msgspec.structs.replace(self._node_of[node_id], free=free)
        self._touch(node_id)

    def take(
        self,
        node_id: NodeId,
        need: Resources,
        group: PlacementGroupId | None = None,
        index: int = ANY,
    ) -> None:
        """Count amounts as in use on a node, or in a bundle there if that is known."""
        view = self._node_of[node_id]
        if group is None:
            self.set_free(node_id, view.free - need)
            return
        bundle = view.bundles.get(group, {}).get(index)
        if bundle is not None:
            used = msgspec.structs.replace(bundle, free=bundle.free - need)
            bundles = {**view.bundles, group: {**view.bundles[group], index: used}}
            self._node_of[node_id] = msgspec.structs.replace(view, bundles=bundles)

    def give(self, node_id: NodeId, need: Resources) -> None:
        """Count amounts as free again on a node."""
        self.set_free(node_id, self._node_of[node_id].free + need)

    def _touch(self, node_id: NodeId) -> None:
        self._pressure_of.pop(node_id, None)
        for ranking in self._ranking_of.values():
            if node_id in ranking.able:
                ranking.stale.add(node_id)

    def _put_groups(
        self,
        node_id: NodeId,
        old: Iterable[PlacementGroupId],
        new: Iterable[PlacementGroupId],
    ) -> None:
        for group in old:
            at = self._at_of_group[group]
            at.pop(node_id)
            if not at:
                del self._at_of_group[group]
        for group in new:
            self._at_of_group.setdefault(group, {})[node_id] = None

    # -------------------------------------------------------------- questions

    def find(
        self,
        shape: Shape,
        bytes_at: Mapping[NodeId, int] = NOWHERE,
        but_not: AbstractSet[NodeId] = frozenset(),
    ) -> Placed | None:
        """Choose a node that has it free; `why` tells why there is none.

        Nothing is taken. The next demand for SPREAD goes to the next node.
        """
        if shape.strategy.startswith("group:"):
            found = place(shape, self._holding(shape), bytes_at=bytes_at, near=self._local)
            return found if isinstance(found, Placed) else None
        key = _key(shape)
        ranking = self._ranking(key, shape)
        if ranking is None:
            return None
        node_id = ranking.best(bytes_at, self._after.get(key, self._local), but_not)
        if node_id is None:
            return None
        if ranking.terms.is_spread:
            self._went_to(key, node_id)
        return Placed(node_id)

    def deal(self, shape: Shape) -> NodeId | None:
        """Return the node whose turn it is for SPREAD, free or not; None: no node could hold it."""
        key = _key(shape)
        ranking = self._ranking(key, shape)
        node_id = ranking.next_after(self._after.get(key, self._local)) if ranking else None
        if node_id is not None:
            self._went_to(key, node_id)
        return node_id

    def _went_to(self, key: _Key, node_id: NodeId) -> None:
        self._after[key] = node_id
        self._after.move_to_end(key)
        if len(self._after) > SHAPES:
            self._after.popitem(last=False)

    def able(self, shape: Shape) -> AbstractSet[NodeId]:
        """Return the nodes that a demand of this shape may wait for; they are the index's own."""
        if shape.strategy.startswith("group:"):
            holding = self._holding(shape)
            return {node.node_id for node in able(terms_of(shape), holding)} if holding else set()
        ranking = self._ranking(_key(shape), shape)
        return ranking.able if ranking else set()

    def find_at(self, shape: Shape, node_id: NodeId) -> Placed | None:
        """Place a demand on this node, if it may go there and finds it free."""
        if node_id not in self.able(shape):
            return None
        terms, node = terms_of(shape), self._node_of[node_id]
        return Placed(node_id, bundle_of(terms, node)) if is_free(terms, node) else None

    def is_hopeless(self, shape: Shape) -> bool:
        """Tell whether no node could ever hold it, and no bundle is on its way that might."""
        if shape.strategy.startswith("group:"):
            return isinstance(place(shape, self._holding(shape)), Never)
        return not self.able(shape)

    def obstacle(self, shape: Shape, node_id: NodeId) -> str:
        """Say what stands between a demand and this node; empty: nothing."""
        terms = _terms(shape)
        return obstacle(terms, self._node_of[node_id]) if terms else ""

    def _ranking(self, key: _Key, shape: Shape) -> _Ranking | None:
        ranking = self._ranking_of.get(key)
        if ranking is None:
            terms = _terms(shape)
            if terms is None:
                return None
            ranking = self._ranking_of[key] = _Ranking(terms, self._node_of.values(), self._local)
            if len(self._ranking_of) > SHAPES:
                self._ranking_of.popitem(last=False)
        else:
            self._ranking_of.move_to_end(key)
        if ranking.stale:
            ranking.freshen(self._node_of, self._pressure_of)
        return ranking

    def _holding(self, shape: Shape) -> list[NodeView]:
        """Return the nodes that have bundles of the placement group that a shape names."""
        group = group_of(shape)
        at = self._at_of_group.get(group, ()) if group is not None else ()
        return [self._node_of[node_id] for node_id in at]

    def why(self, shape: Shape) -> Waits | Never:
        """Say for every node why a demand, for which none was found, is not there."""
        found = place(shape, self._node_of.values())
        assert not isinstance(found, Placed), found
        return found

    def __getitem__(self, node_id: NodeId) -> NodeView:
        return self._node_of[node_id]

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._node_of

    def __len__(self) -> int:
        return len(self._node_of)

    def views(self) -> list[NodeView]:
        """Return what is known of each node."""
        return list(self._node_of.values())


def _key(shape: Shape) -> _Key:
    return shape.amounts, shape.strategy, shape.labels, shape.fallbacks, shape.preferred


def _terms(shape: Shape) -> Terms | None:
    """Take a shape apart; None: its strategy is not known."""
    try:
        return terms_of(shape)
    except ValueError:
        return None


def _is_alike(old: NodeView, new: NodeView) -> bool:
    """Tell whether the same demands could ever go to a node, and are drawn to it as before."""
    return (
        old.total == new.total
        and old.labels == new.labels
        and old.draining == new.draining
        and old.is_local is new.is_local
    )
