"""What a node says of itself, in parts that change by themselves: what views.py carries.

A node publishes {part: value}, the control service {(node, part): value}. What is free changes all
the time, the rest hardly ever; so a change of what is free is told without the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from weft._ids import NodeId, PlacementGroupId
from weft._machines.placement import BundleView, NodeView
from weft._resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NATURE: Final = b"nature"
FREE: Final = b"free"

Part: TypeAlias = bytes
"""NATURE, FREE, or the id of a placement group: its bundles there."""


class Nature(msgspec.Struct, frozen=True):
    """What a node is."""

    incarnation: int
    address: str
    total: Resources
    labels: dict[str, str]
    draining: str = ""


PartValue: TypeAlias = Nature | Resources | dict[int, BundleView]


def parts_of(view: NodeView, incarnation: int, address: str) -> dict[Part, PartValue]:
    """Take a node's view of itself apart."""
    nature = Nature(incarnation, address, view.total, view.labels, view.draining)
    bundles: dict[Part, PartValue] = {bytes(group): at for group, at in view.bundles.items()}
    return {NATURE: nature, FREE: view.free, **bundles}


def view_of(node_id: NodeId, parts: Mapping[Part, PartValue], *, is_local: bool) -> NodeView | None:
    """Put a node's view together; None: not enough is known yet."""
    nature, free = parts.get(NATURE), parts.get(FREE)
    if not isinstance(nature, Nature) or not isinstance(free, Resources):
        return None
    bundles = {
        PlacementGroupId(part): value for part, value in parts.items() if isinstance(value, dict)
    }
    return NodeView(node_id, nature.total, free, nature.labels, is_local, nature.draining, bundles)


class NodeParts:
    """What was heard of all nodes, part by part."""

    def __init__(self) -> None:
        self._parts_of: dict[NodeId, dict[Part, PartValue]] = {}

    def apply(
        self,
        changed: Mapping[tuple[NodeId, Part], PartValue],
        gone: Iterable[tuple[NodeId, Part]] = (),
    ) -> tuple[list[NodeView], list[NodeId]]:
        """Take what was heard; return the views that are other, and the nodes that are gone."""
        touched: dict[NodeId, None] = {}
        for (node_id, part), value in changed.items():
            self._parts_of.setdefault(node_id, {})[part] = value
            touched[node_id] = None
        for node_id, part in gone:
            self._parts_of.get(node_id, {}).pop(part, None)
            touched[node_id] = None
        views, ended = [], []
        for node_id in touched:
            view = view_of(node_id, self._parts_of.get(node_id, {}), is_local=False)
            if view is not None:
                views.append(view)
            else:
                ended.append(node_id)
            if not self._parts_of.get(node_id):
                self._parts_of.pop(node_id, None)
        return views, ended

    def nature(self, node_id: NodeId) -> Nature | None:
        """Return what a node is; None: it is not known."""
        found = self._parts_of.get(node_id, {}).get(NATURE)
        return found if isinstance(found, Nature) else None
