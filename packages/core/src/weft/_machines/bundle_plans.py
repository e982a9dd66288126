"""Which nodes the bundles of a placement group go to, or why there are none, in numbers.

| strategy | |
|---|---|
| PACK | on as few nodes as can be found by filling one after the other |
| SPREAD | on different nodes, as long as there are any |
| STRICT_PACK | on one node |
| STRICT_SPREAD | on different nodes |

Within a topology all nodes of a group have one value of a label, and the strategy holds among the
nodes that have it. Of the values that have room it is the one with the plan on the fewest nodes (of
SPREAD: on the most), then the first in order. What is placed again later goes to the value of what
is there.

What is always true
1. A plan has a place for every bundle that needs one, or there is none.
2. No node is planned to hold more than it has free.
3. The nodes are afterwards as they were before.

The scarcest bundles are placed first: those that need the largest share of what the cluster has of
something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, assert_never

import msgspec

from weft._ids import NodeId
from weft._machines.placement import NOWHERE, Never
from weft._machines.stock import NOTHING
from weft._resources import Resources
from weft._specs import LabelSelector, Shape

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from weft._machines.nodes import Nodes
    from weft._machines.placement import NodeView

SHOWN = 3
"""For so many values of a label it is said why there is no place."""
Strategy: TypeAlias = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


class BundleSpec(msgspec.Struct, frozen=True):
    """What one bundle is to have."""

    amounts: Resources
    labels: LabelSelector = ()
    """Of the node that it is on."""

    def shape(self) -> Shape:
        """Return it as a demand."""
        return Shape(tuple(sorted(self.amounts.items())), labels=self.labels)


class GroupWish(msgspec.Struct, frozen=True):
    """Bundles that need a place."""

    strategy: Strategy
    bundles: dict[int, BundleSpec]
    """By index."""
    held: dict[int, NodeId] = {}
    """Where the other bundles of the group are."""
    refused_by: frozenset[NodeId] = frozenset()
    """Nodes that have refused it, and have not changed since."""
    topology: str = ""
    """The label of which all its nodes have one value; empty: none."""


class _Plan:
    """Places that are found one after the other; their amounts are taken until `undo`."""

    def __init__(self, wanted: GroupWish, nodes: Nodes) -> None:
        self._wanted = wanted
        self._nodes = nodes
        self.used: dict[NodeId, None] = dict.fromkeys(wanted.held.values())
        self.node_of: dict[int, NodeId] = {}
        self.left = sorted(wanted.bundles, key=lambda index: (-self._share(index), index))
        """Those without a place, the scarcest first."""

    def _share(self, index: int) -> float:
        total = self._nodes.total
        amounts = self._wanted.bundles[index].amounts
        return max(
            (units / (total.get(name, 0) or 1) for name, units in amounts.items()), default=0
        )

    def shape(self, bundles: int) -> Shape:
        """Return so many of those that are left, as one demand."""
        specs = [self._wanted.bundles[index] for index in self.left[:bundles]]
        if bundles == 1:
            return specs[0].shape()
        labels = {pair for spec in specs for pair in spec.labels}
        amounts = sum((spec.amounts for spec in specs), NOTHING)
        return BundleSpec(amounts, tuple(sorted(labels))).shape()

    def find(self, bundles: int, but_not: AbstractSet[NodeId] = frozenset()) -> NodeId | None:
        """Return a node for so many of those that are left."""
        found = self._nodes.find(self.shape(bundles), NOWHERE, self._wanted.refused_by | but_not)
        return found.node_id if found else None

    def find_used(self) -> NodeId | None:
        """Return a node for the next one among those that the group has already."""
        shape = self.shape(1)
        for node_id in self.used:
            if node_id not in self._wanted.refused_by and self._nodes.find_at(shape, node_id):
                return node_id
        return None

    def put(self, bundles: int, node_id: NodeId) -> None:
        """Place so many of those that are left."""
        for index in self.left[:bundles]:
            self._nodes.take(node_id, self._wanted.bundles[index].amounts)
            self.node_of[index] = node_id
        del self.left[:bundles]
        self.used[node_id] = None

    def undo(self) -> None:
        """Give back what was taken."""
        for index, node_id in self.node_of.items():
            self._nodes.give(node_id, self._wanted.bundles[index].amounts)

    # -------------------------------------------------------------- strategies

    def fill(self) -> None:
        """Place what can be placed."""
        match self._wanted.strategy:
            case "STRICT_PACK":
                self._pack_strictly()
            case "PACK":
                self._pack()
            case "SPREAD":
                self._spread(is_strict=False)
            case "STRICT_SPREAD":
                self._spread(is_strict=True)
            case _:
                assert_never(self._wanted.strategy)

    def _pack_strictly(self) -> None:
        bundles = len(self.left)
        others = self._nodes.able(self.shape(bundles)) - self.used.keys() if self.used else set()
        node_id = self.find(bundles, others)
        if node_id is not None:
            self.put(bundles, node_id)

    def _pack(self) -> None:
        while self.left and (node_id := self.find_used()) is not None:
            self.put(1, node_id)
        while (most := self._most_on_one()) and (node_id := self.find(most)) is not None:
            self.put(most, node_id)
            while self.left and (node_id := self.find_used()) is not None:
                self.put(1, node_id)

    def _most_on_one(self) -> int:
        """Return how many of those that are left, the scarcest first, fit on one node."""
        most, too_many = 0, len(self.left) + 1
        tried = len(self.left)
        while most + 1 < too_many:
            if self.find(tried) is None:
                too_many = tried
            else:
                most = tried
            tried = (most + too_many) // 2
        return most

    def _spread(self, *, is_strict: bool) -> None:
        while self.left:
            node_id = self.find(1, self.used.keys())
            if node_id is None and not is_strict:
                node_id = self.find(1)
            if node_id is None:
                return
            self.put(1, node_id)


def plan(wanted: GroupWish, nodes: Nodes) -> dict[int, NodeId] | None:
    """Return the node of each bundle; None: there is no place for all of them."""
    if wanted.topology:
        return _plan_within(wanted, nodes)
    if not all(spec.amounts.fits(nodes.total) for spec in wanted.bundles.values()):
        return None
    found = _Plan(wanted, nodes)
    found.fill()
    found.undo()
    return None if found.left else found.node_of


def _plan_within(wanted: GroupWish, nodes: Nodes) -> dict[int, NodeId] | None:
    """Return the best of the plans for each value of the label."""
    free = msgspec.structs.replace(wanted, topology="")
    plans = [plan(free, part) for part in _domains(wanted, nodes).values()]
    sign = -1 if wanted.strategy == "SPREAD" else 1
    return min(
        (found for found in plans if found is not None),
        key=lambda node_of: sign * len({*node_of.values()}),
        default=None,
    )


def _domains(wanted: GroupWish, nodes: Nodes) -> dict[str, Nodes]:
    """Return the nodes that have the label, by its values in order: those with all that is held."""
    views_of: dict[str, list[NodeView]] = {}
    for view in nodes.views():
        if wanted.topology in view.labels:
            views_of.setdefault(view.labels[wanted.topology], []).append(view)
    held = {*wanted.held.values()}
    return {
        value: type(nodes)(views)
        for value, views in sorted(views_of.items())
        if held <= {view.node_id for view in views}
    }


def why_not(wanted: GroupWish, nodes: Nodes) -> str:
    """Say which bundle has no place, and for every node the reason in numbers."""
    if wanted.topology:
        return _why_not_within(wanted, nodes)
    found = _Plan(wanted, nodes)
    found.fill()
    if not found.left:
        found.undo()
        return ""
    together = len(found.left) if wanted.strategy == "STRICT_PACK" else 1
    shape = found.shape(together)
    used = found.used.keys() if wanted.strategy == "STRICT_SPREAD" else set()
    lines = []
    if nodes.find(shape) is None:
        short = nodes.why(shape)
        lines.append(short.text())
        if isinstance(short, Never):
            lines.append("no node could ever hold it")
    if used:
        lines.append(f"{_nodes(used)} other bundles of it")
    if wanted.refused_by:
        lines.append(f"{_nodes(wanted.refused_by)} refused it")
    which = f"bundle {found.left[0]}" if together == 1 else f"all {together} bundles on one node"
    found.undo()
    return f"{which}: " + "; ".join(lines)


def _why_not_within(wanted: GroupWish, nodes: Nodes) -> str:
    free = msgspec.structs.replace(wanted, topology="")
    domains = _domains(wanted, nodes)
    reasons = {value: why_not(free, part) for value, part in domains.items()}
    if not reasons:
        has = "none that has the others" if wanted.held else "none"
        return f"all its nodes are to have one value of label {wanted.topology}, and {has} has it"
    if not all(reasons.values()):
        return ""
    lines = [f"where {wanted.topology} is {value}: {why}" for value, why in reasons.items()]
    more = [f"as little with {len(lines) - SHOWN} other values"] if len(lines) > SHOWN else []
    return "; ".join(lines[:SHOWN] + more)


def _nodes(some: AbstractSet[NodeId]) -> str:
    return "1 node has" if len(some) == 1 else f"{len(some)} nodes have"


def why_never(wanted: GroupWish, nodes: Nodes) -> str:
    """Say why there would be no plan even with all of every node free; empty if there would be."""
    views = nodes.views()
    empty = type(nodes)(msgspec.structs.replace(view, free=view.total) for view in views)
    wanted = msgspec.structs.replace(wanted, refused_by=frozenset())
    return why_not(wanted, empty) if plan(wanted, empty) is None else ""
