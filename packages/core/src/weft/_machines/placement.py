"""Which node a demand goes to, or for every node the reason why not, in numbers.

A function without state: the same demand and the same views give the same answer.

What is always true
1. A demand is `Placed` on a node that has all of it free, or, blocked or not, never on one that
   cannot hold it.
2. `Never` is answered only when no node given could hold the demand with everything on it free,
   whichever of its label selectors counts.
3. The first selector that some node could ever meet counts: a demand waits for such a node rather
   than go to one that meets a later selector.
4. What a shape prefers chooses among the nodes that have it all free; no demand waits for it.

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
    from weft._specs import LabelSelector, Shape

# The names of labels that Weft gives to nodes begin so.
OWN_LABELS = "weft.io/"
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
    able = [
        node for node in nodes if need.fits(node.total) and (node.node_id == wanted or not is_hard)
    ]
    for selector in (shape.labels, *shape.fallbacks):
        matching = [node for node in able if is_match(selector, node.labels)]
        fit = [node for node in matching if need.fits(node.free)]
        if fit:
            return Placed(_choose(shape, wanted, fit).node_id)
        if matching:
            return Waits({node.node_id: lacking(need, node.free, "free") for node in matching})
    must_be = wanted if is_hard else None
    return Never({node.node_id: _obstacles(shape, need, must_be, node) for node in nodes})


def lacking(need: Resources, available: Resources, verb: str) -> str:
    """Say what falls short: `needs CPU 4, this node has 2 free`."""
    short = need.shortfall(available)
    return "; ".join(
        f"needs {name} {need[name] / UNITS:g}, this node has {available.get(name, 0) / UNITS:g}"
        + (f" {verb}" if verb else "")
        for name in sorted(short)
    )


def is_match(selector: LabelSelector, labels: dict[str, str]) -> bool:
    """Tell whether labels meet a selector."""
    return all(_holds(condition, labels.get(label)) for label, condition in selector)


def _affinity(strategy: str) -> tuple[NodeId | None, bool]:
    """Return (node, whether it must be that one). ValueError: not a strategy."""
    if strategy in ("DEFAULT", "SPREAD"):
        return None, False
    kind, hex_id, hardness = strategy.split(":")
    if kind != "node" or hardness not in ("hard", "soft"):
        raise ValueError(strategy)
    return NodeId.from_hex(hex_id), hardness == "hard"


def _holds(condition: str, value: str | None) -> bool:
    """Tell whether a label's value, None where there is no such label, meets a condition."""
    positive = condition.removeprefix("!")
    if positive == "exists()":
        holds = value is not None
    elif positive.startswith("in(") and positive.endswith(")"):
        holds = value in {each.strip() for each in positive[3:-1].split(",")}
    else:
        holds = value == positive
    return holds is not condition.startswith("!")


def _obstacles(shape: Shape, need: Resources, must_be: NodeId | None, node: NodeView) -> str:
    """Say all that stands against a node."""
    if must_be is not None and must_be != node.node_id:
        return f"needs node {must_be.hex()}, this is node {node.node_id.hex()}"
    found = [_mismatch((shape.labels, *shape.fallbacks), node), lacking(need, node.total, "")]
    return "; ".join(filter(None, found))


def _mismatch(selectors: tuple[LabelSelector, ...], node: NodeView) -> str:
    """Say which condition of each selector does not hold; empty if one selector is met."""
    labels = node.labels
    failing = []
    for selector in selectors:
        unmet = [pair for pair in selector if not _holds(pair[1], labels.get(pair[0]))]
        if not unmet:
            return ""
        failing.append("=".join(unmet[0]))
    asked = {label for selector in selectors for label, _ in selector}
    has = ", ".join(
        f"{label}={value}"
        for label, value in sorted(labels.items())
        if label in asked or not label.startswith(OWN_LABELS)
    )
    return f"needs label {' or else '.join(failing)}, this node has {has or 'no labels'}"


def _choose(shape: Shape, wanted: NodeId | None, fit: list[NodeView]) -> NodeView:
    for node in fit:
        if node.node_id == wanted:
            return node
    if shape.preferred:
        most = max(_met(shape.preferred, node) for node in fit)
        fit = [node for node in fit if _met(shape.preferred, node) == most]
    if shape.strategy == "SPREAD":
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


def _met(preferred: LabelSelector, node: NodeView) -> int:
    """Count the conditions that a node meets."""
    return sum(_holds(condition, node.labels.get(label)) for label, condition in preferred)


def _load(node: NodeView) -> float:
    """Return the share in use of the scarcest resource: [0, 1], above 1 if CPUs are lent twice."""
    return max(
        (1 - node.free.get(name, 0) / amount for name, amount in node.total.items()), default=0.0
    )
