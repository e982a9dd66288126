"""What control believes to be free on each node: what the node said, less what it cannot know yet.

A node says what it has free and which bundles it holds. What was planned there since, and is not
among these bundles, is taken off; what is released comes back when the node says so. So no amount
is counted twice, and none is planned twice, however late the news of nodes are.

What is always true
1. A node's free amounts in `nodes` are those that it said, less all planned that it has not shown.
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
        self._unseen: dict[NodeId, dict[Planned, Resources]] = {}
        """What was planned, and the node has not shown yet."""

    def see(self, view: NodeView) -> None:
        """Take what a node says of itself."""
        self._said[view.node_id] = view
        unseen = self._unseen.get(view.node_id)
        if unseen:
            for group, index, attempt in [*unseen]:
                bundle = view.bundles.get(group, {}).get(index)
                if bundle is not None and bundle.attempt == attempt:
                    del unseen[group, index, attempt]
        free = view.free - sum((unseen or {}).values(), NOTHING) if unseen else view.free
        self.nodes.put(msgspec.structs.replace(view, free=free))

    def forget(self, node_id: NodeId) -> None:
        """A node is gone, with all that was planned there."""
        self._unseen.pop(node_id, None)
        if self._said.pop(node_id, None) is not None:
            self.nodes.remove(node_id)

    def plan(self, node_id: NodeId, planned: Planned, amounts: Resources) -> None:
        """Count amounts as in use until the node says so itself."""
        self._unseen.setdefault(node_id, {})[planned] = amounts
        self.nodes.take(node_id, amounts)

    def release(self, node_id: NodeId, planned: Planned) -> None:
        """Count amounts as in use no longer, unless the node has said that they are."""
        amounts = self._unseen.get(node_id, {}).pop(planned, None)
        if amounts is not None:
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
                bundles = (b.total for each in said.bundles.values() for b in each.values())
                others = (said.total - sum(bundles, NOTHING)).shortfall(said.free)
                nodes.put(msgspec.structs.replace(view, free=view.free + others))
        return nodes

    def check(self) -> None:
        """Assert what is always true."""
        for node_id, said in self._said.items():
            unseen = sum(self._unseen.get(node_id, {}).values(), NOTHING)
            assert self.nodes[node_id].free == said.free - unseen, 1
        assert self._unseen.keys() <= self._said.keys(), 1
