"""What control believes to be free on each node for placement groups.

What of a node is in bundles control decides: those that it has planned there, whether the node has
heard of them or not. What else is in use there the node says: its free amounts, and the bundles
that it shows, which are not among them. So a view of any age and the plans of any moment make one
sum; no amount is counted twice, and what is released is free for the next plan at once: a node is
told of both in order, and gives what is reserved the time that others take to end.

What is always true
1. A node's free amounts in `nodes` are those that it said, and those of the bundles that it showed
   with them, less those of the bundles that are planned there.
2. Nothing is planned on a node that is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from weft._machines.nodes import Nodes
from weft._machines.stock import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from weft._ids import NodeId, PlacementGroupId
    from weft._machines.placement import NodeView
    from weft._resources import Resources

Planned: TypeAlias = "tuple[PlacementGroupId, int, int]"
"""(group, index of the bundle, attempt)."""


class Accounts:
    """The nodes as groups are planned on."""

    def __init__(self) -> None:
        self.nodes = Nodes()
        self._said: dict[NodeId, NodeView] = {}
        self._planned: dict[NodeId, dict[Planned, Resources]] = {}

    def see(self, view: NodeView) -> None:
        """Take what a node says of itself."""
        self._said[view.node_id] = view
        self.nodes.put(msgspec.structs.replace(view, free=self._free(view)))

    def _free(self, said: NodeView) -> Resources:
        planned = self._planned.get(said.node_id, {}).values()
        return said.free + _shown(said) - sum(planned, NOTHING)

    def forget(self, node_id: NodeId) -> None:
        """A node is gone, with all that was planned there."""
        self._planned.pop(node_id, None)
        if self._said.pop(node_id, None) is not None:
            self.nodes.remove(node_id)

    def plan(self, node_id: NodeId, planned: Planned, amounts: Resources) -> None:
        """Count a bundle as on a node."""
        self._planned.setdefault(node_id, {})[planned] = amounts
        if node_id in self.nodes:
            self.nodes.take(node_id, amounts)

    def release(self, node_id: NodeId, planned: Planned) -> None:
        """Count a bundle as on this node no longer, if the node is there."""
        there = self._planned.get(node_id, {})
        amounts = there.pop(planned, None)
        if amounts is None:
            return
        if not there:
            del self._planned[node_id]
        if node_id in self.nodes:
            self.nodes.give(node_id, amounts)

    def said_free(self, node_id: NodeId) -> Resources:
        """Return what a node said to be free; nothing if it has not said anything."""
        said = self._said.get(node_id)
        return said.free if said else NOTHING

    def without(self, bundles: Iterable[tuple[NodeId, Planned, Resources]]) -> Nodes:
        """Return the nodes as they would be without these bundles, for trying plans on."""
        free = {view.node_id: view.free for view in self.nodes.views()}
        for node_id, _, amounts in bundles:
            if node_id in free:
                free[node_id] += amounts
        return Nodes(
            msgspec.structs.replace(view, free=free[view.node_id]) for view in self.nodes.views()
        )

    def once_tasks_ended(self, but_not: AbstractSet[NodeId]) -> Nodes:
        """Return the nodes as they would be if nothing ran there but bundles, for trying plans on.

        What actors hold there the nodes know; `but_not` are those that have said that they do.
        """
        nodes = Nodes()
        for view in self.nodes.views():
            if view.node_id not in but_not:
                said = self._said[view.node_id]
                others = (said.total - _shown(said)).shortfall(said.free)
                nodes.put(msgspec.structs.replace(view, free=view.free + others))
        return nodes

    def planned(self) -> dict[tuple[NodeId, Planned], Resources]:
        """Return all that is planned."""
        return {
            (node_id, planned): amounts
            for node_id, there in self._planned.items()
            for planned, amounts in there.items()
        }

    def check(self) -> None:
        """Assert what is always true."""
        for node_id, said in self._said.items():
            assert self.nodes[node_id].free == self._free(said), 1
        assert all(self._planned.values()), 2


def _shown(said: NodeView) -> Resources:
    """Return what a node shows to be in bundles."""
    bundles = (bundle.total for each in said.bundles.values() for bundle in each.values())
    return sum(bundles, NOTHING)
