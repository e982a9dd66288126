"""Which node a demand goes to, or for every node the reason why not, in numbers.

A function without state: the same demand and the same views give the same answer.

What is always true
1. A demand is `Placed` on a node that has all of it free, or, blocked or not, never on one that
   cannot hold it.
2. `Never` is answered only when no node given could hold the demand with everything on it free.

The order of choice (pack below half load, then spread) is the hybrid policy that Ray's
documentation describes: few nodes stay warm and have the data, and no node is pressed while another
idles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from weft._ids import NodeId
from weft._resources import UNITS, Resources

if TYPE_CHECKING:
    from weft._specs import Shape

# A node below this share of use is filled further before another one is begun.
PACK_BELOW = 0.5


class NodeView(msgspec.Struct, frozen=True):
    """What is known of a node. Amounts in 1/10,000."""

    node_id: NodeId
    total: Resources
    free: Resources
    labels: dict[str, str] = {}
    is_local: bool = False
    """The node where the demand was made."""


class Placed(msgspec.Struct, frozen=True):
    """The demand goes to this node."""

    node_id: NodeId


class Waits(msgspec.Struct, frozen=True):
    """No node has it free; these could hold it once others end."""

    reasons: dict[NodeId, str]


class Never(msgspec.Struct, frozen=True):
    """No node could ever hold it."""

    reasons: dict[NodeId, str]

    def text(self) -> str:
        """Say it in a line a node."""
        return "; ".join(sorted(set(self.reasons.values()))) or "there is no node"


Placement = Placed | Waits | Never


def place(shape: Shape, nodes: list[NodeView]) -> Placement:
    """Choose a node for a demand of this shape."""
    try:
        wanted, is_hard = _affinity(shape.strategy)
    except ValueError:
        return Never({node.node_id: f"strategy {shape.strategy!r} is not known" for node in nodes})
    need = Resources.of_units(dict(shape.amounts))
    never: dict[NodeId, str] = {}
    waits: dict[NodeId, str] = {}
    fit: list[NodeView] = []
    for node in nodes:
        reason = _label_mismatch(shape.labels, node.labels) or _too_large(need, node)
        if is_hard and wanted != node.node_id:
            reason = f"needs node {shape.strategy.split(':')[1]}, this is node {node.node_id.hex()}"
        if reason:
            never[node.node_id] = reason
        elif need.fits(node.free):
            fit.append(node)
        else:
            waits[node.node_id] = lacking(need, node.free, "free")
    if fit:
        return Placed(_choose(shape.strategy, wanted, fit).node_id)
    return Waits(waits) if waits else Never(never)


def lacking(need: Resources, available: Resources, verb: str) -> str:
    """Say what falls short: `needs CPU 4, this node has 2 free`."""
    short = need.shortfall(available)
    return "; ".join(
        f"needs {name} {need[name] / UNITS:g}, this node has {available.get(name, 0) / UNITS:g}"
        + (f" {verb}" if verb else "")
        for name in sorted(short)
    )


def is_match(selector: tuple[tuple[str, str], ...], labels: dict[str, str]) -> bool:
    """Tell whether labels meet a selector."""
    return not _label_mismatch(selector, labels)


def _affinity(strategy: str) -> tuple[NodeId | None, bool]:
    """Return (node, whether it must be that one). ValueError: not a strategy."""
    if strategy in ("DEFAULT", "SPREAD"):
        return None, False
    kind, hex_id, hardness = strategy.split(":")
    if kind != "node" or hardness not in ("hard", "soft"):
        raise ValueError(strategy)
    return NodeId.from_hex(hex_id), hardness == "hard"


def _label_mismatch(selector: tuple[tuple[str, str], ...], labels: dict[str, str]) -> str:
    for key, condition in selector:
        is_negated = condition.startswith("!")
        positive = condition.removeprefix("!")
        values = (
            {value.strip() for value in positive[3:-1].split(",")}
            if positive.startswith("in(") and positive.endswith(")")
            else {positive}
        )
        if (labels.get(key) in values) is is_negated:
            has = f"this node has {labels[key]}" if key in labels else "this node has no such label"
            return f"needs label {key}={condition}, {has}"
    return ""


def _too_large(need: Resources, node: NodeView) -> str:
    return "" if need.fits(node.total) else lacking(need, node.total, "")


def _choose(strategy: str, wanted: NodeId | None, fit: list[NodeView]) -> NodeView:
    for node in fit:
        if node.node_id == wanted:
            return node
    if strategy == "SPREAD":
        return min(fit, key=lambda node: (_load(node), not node.is_local, node.node_id))
    return min(
        fit,
        key=lambda node: (
            max(_load(node), PACK_BELOW),
            not node.is_local,
            -_load(node),
            node.node_id,
        ),
    )


def _load(node: NodeView) -> float:
    """Return the share in use of the scarcest resource: [0, 1], above 1 if CPUs are lent twice."""
    return max(
        (1 - node.free.get(name, 0) / amount for name, amount in node.total.items()), default=0.0
    )
