"""Which node a demand goes to, or for every node the reason why not, in numbers.

Functions without state: the same demand and the same views give the same answer. `nodes.py` gives
the same answers out of an index, for many demands on many nodes.

What is always true
1. A demand is `Placed` on a node, or in a bundle, that has all of it free, or, blocked or not,
   never on one that cannot hold it.
2. `Never` is answered only when no node given could hold the demand with everything on it free,
   whichever of its label selectors counts. Of a placement group all bundles have to be seen.
3. The first selector that some node could ever meet counts: a demand waits for such a node rather
   than go to one that meets a later selector.
4. What a shape prefers chooses among the nodes that have it all free; no demand waits for it.
5. A draining node is given nothing, in its bundles neither.
6. A demand with a soft affinity waits for its node as long as that is there and could hold it.
7. SPREAD goes round: the next demand goes to the next node, by id, that has it free.

Of the nodes that will do, the order of choice is: the one that the shape names; most of what the
shape prefers; most bytes of the arguments; below half load the fullest, then the emptiest; for each
node that decides another. Below half load the fullest (few nodes stay warm, and no node is
pressed while another idles) is the hybrid policy that Ray's documentation describes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from weft._exits import amount
from weft._ids import ID_BYTES, NodeId, PlacementGroupId
from weft._resources import UNITS, Resources
from weft._specs import LabelSelector, Shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# The names of labels that Weft gives to nodes begin so.
OWN_LABELS = "weft.io/"
# A node below this share of use is filled further before another one is begun.
PACK_BELOW = 0.5
# A reason for each of a thousand nodes is told in so many lines at most.
LINES = 8
# What is said of one node; among several it is said which.
HERE = "this node"
# Of a node's id, as commands show it.
SHOWN_DIGITS = 12
# Of a node that a soft affinity, or an earlier choice of labels, passes by.
OTHER = "would do, but another node is waited for"
ANY = -1
"""Any bundle of a placement group."""
ID_NUMBERS = 1 << 8 * ID_BYTES
Pressure: TypeAlias = tuple[float, bool, float, int]
NOWHERE: Final[Mapping[NodeId, int]] = {}


class BundleView(msgspec.Struct, frozen=True):
    """What is known of a bundle: a small node inside a node. Amounts in 1/10,000."""

    total: Resources
    free: Resources
    bundles: int
    """How many its placement group has."""
    attempt: int = 0
    """Which reservation it comes from."""


class NodeView(msgspec.Struct, frozen=True):
    """What is known of a node. Amounts in 1/10,000."""

    node_id: NodeId
    total: Resources
    free: Resources
    labels: dict[str, str] = {}
    is_local: bool = False
    """The node where the demand was made."""
    draining: str = ""
    """Why it is given nothing any more; empty if it is not so."""
    bundles: dict[PlacementGroupId, dict[int, BundleView]] = {}
    """By group and index: what it holds for placement groups, which is not `free`."""
    jobs: dict[bytes, Resources] = {}
    """What each job takes there."""


class Placed(msgspec.Struct, frozen=True):
    """The demand goes to this node."""

    node_id: NodeId
    bundle: int = ANY
    """And there into this bundle of the demand's placement group."""


class Waits(msgspec.Struct, frozen=True):
    """No node has it free; some could hold it once others end, or a bundle is not there yet."""

    reasons: dict[NodeId, str]

    def text(self) -> str:
        """Say it in a line for all nodes that are alike."""
        return summary(self.reasons)


class Never(msgspec.Struct, frozen=True):
    """No node could ever hold it."""

    reasons: dict[NodeId, str]

    def text(self) -> str:
        """Say it in a line for all nodes that are alike."""
        return summary(self.reasons)


Placement = Placed | Waits | Never


class Terms(msgspec.Struct, frozen=True):
    """What a shape asks of a node, taken apart once."""

    shape: Shape
    need: Resources
    node_id: NodeId | None = None
    affinity: str = ""
    """It has to be `node_id` (hard), unless that cannot hold it (soft) or is in use (spill)."""
    group: PlacementGroupId | None = None
    index: int = ANY

    @property
    def selectors(self) -> tuple[LabelSelector, ...]:
        """The labels that have to be met, the first choice first."""
        return (self.shape.labels, *self.shape.fallbacks)

    @property
    def is_spread(self) -> bool:
        """Whether demands go round the nodes."""
        return self.shape.strategy == "SPREAD"


def terms_of(shape: Shape) -> Terms:
    """Take a shape apart. ValueError: its strategy is not known."""
    need = Resources.of_units(dict(shape.amounts))
    if shape.strategy in ("DEFAULT", "SPREAD"):
        return Terms(shape, need)
    kind, hex_id, detail = shape.strategy.split(":")
    if kind == "node" and detail in ("hard", "soft", "spill"):
        return Terms(shape, need, NodeId.from_hex(hex_id), detail)
    if kind == "group":
        index = ANY if detail == "any" else int(detail)
        if shape.is_learned:
            # What tasks were seen to take is measured, and no part of a bundle.
            amounts = {name: units for name, units in need.items() if name != "memory"}
            need = Resources.of_units(amounts)
        return Terms(shape, need, group=PlacementGroupId.from_hex(hex_id), index=index)
    raise ValueError(shape.strategy)


def group_of(shape: Shape) -> PlacementGroupId | None:
    """Return the placement group that a shape names; None: none, or its strategy is not known."""
    try:
        return terms_of(shape).group
    except ValueError:
        return None


def place(
    shape: Shape,
    nodes: Iterable[NodeView],
    *,
    bytes_at: Mapping[NodeId, int] = NOWHERE,
    after: NodeId | None = None,
    near: NodeId | None = None,
) -> Placement:
    """Choose a node for a demand of this shape.

    `bytes_at`: how many bytes of its arguments nodes have. `after`: where SPREAD went last. `near`:
    the node that decides; each has an order of its own for nodes that are alike.
    """
    nodes = list(nodes)
    try:
        terms = terms_of(shape)
    except ValueError:
        return Never({node.node_id: f"strategy {shape.strategy!r} is not known" for node in nodes})
    candidates = able(terms, nodes)
    fit = [node for node in candidates if is_free(terms, node)]
    if fit:
        best = min(fit, key=lambda node: _order(terms, node, bytes_at, after, near))
        return Placed(best.node_id, bundle_of(terms, best))
    reasons = {node.node_id: obstacle(terms, node) or OTHER for node in nodes}
    return Waits(reasons) if candidates or not is_known(terms, nodes) else Never(reasons)


# ------------------------------------------------------------------ what a node can hold


def able(terms: Terms, nodes: Iterable[NodeView]) -> list[NodeView]:
    """Return the nodes that could hold it, and meet the selector that counts."""
    large = [node for node in nodes if is_able(terms, node)]
    for selector in terms.selectors:
        matching = [node for node in large if is_match(selector, node.labels)]
        if matching:
            named = [node for node in matching if node.node_id == terms.node_id]
            return named if named and terms.affinity == "soft" else matching
    return []


def is_able(terms: Terms, node: NodeView) -> bool:
    """Tell whether a node could hold it with all of it free; labels are not looked at."""
    if terms.group is not None:
        return any(terms.need.fits(bundle.total) for _, bundle in _bundles(terms, node))
    if terms.affinity == "hard" and node.node_id != terms.node_id:
        return False
    return not node.draining and terms.need.fits(node.total)


def is_free(terms: Terms, node: NodeView) -> bool:
    """Tell whether a node that could hold it has it free."""
    if terms.group is not None:
        return not node.draining and bundle_of(terms, node) != ANY
    return terms.need.fits(node.free)


def bundle_of(terms: Terms, node: NodeView) -> int:
    """Return the bundle of a node that has it free, the fullest; ANY: there is none."""
    fit = [
        (bundle.total.use(bundle.free), -index)
        for index, bundle in _bundles(terms, node)
        if terms.need.fits(bundle.free)
    ]
    return -max(fit)[1] if fit else ANY


def is_known(terms: Terms, nodes: Iterable[NodeView]) -> bool:
    """Tell whether there is no bundle that might hold it, and is not seen."""
    if terms.group is None:
        return True
    seen = {index: bundle for node in nodes for index, bundle in _bundles(terms, node)}
    if terms.index != ANY:
        return bool(seen)
    return any(len(seen) >= bundle.bundles for bundle in seen.values())


def _bundles(terms: Terms, node: NodeView) -> list[tuple[int, BundleView]]:
    """Return (index, bundle) of those that the demand may go to."""
    if terms.group is None:
        return []
    bundles = node.bundles.get(terms.group, {})
    return [pair for pair in bundles.items() if terms.index in (ANY, pair[0])]


def is_match(selector: LabelSelector, labels: dict[str, str]) -> bool:
    """Tell whether labels meet a selector."""
    return all(_holds(condition, labels.get(label)) for label, condition in selector)


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


# ------------------------------------------------------------------ which node is better


def liking(terms: Terms, node: NodeView) -> tuple[bool, int]:
    """Return how little a node is what the shape wishes for: what comes before all other order."""
    labels = node.labels
    met = sum(_holds(condition, labels.get(label)) for label, condition in terms.shape.preferred)
    return node.node_id != terms.node_id, -met


def pressure(node: NodeView, near: NodeId | None) -> Pressure:
    """Return the place of a node in the order of DEFAULT; the least is the best.

    Its load is the share in use of its scarcest resource: above 1 if CPUs are lent twice. Nodes
    that are alike have another order for each `near`: so daemons that decide at the same moment, on
    the same views, do not all send to the same node.
    """
    load = node.total.use(node.free)
    # To multiply by an odd number, modulo a power of two, is to rearrange.
    odd = int.from_bytes(near, "big") | 1 if near is not None else 1
    turned = int.from_bytes(node.node_id, "big") * odd % ID_NUMBERS
    return max(load, PACK_BELOW), not node.is_local, -load, turned


def _order(
    terms: Terms,
    node: NodeView,
    bytes_at: Mapping[NodeId, int],
    after: NodeId | None,
    near: NodeId | None,
) -> tuple[tuple[bool, int], object, object]:
    if terms.is_spread:
        return liking(terms, node), after is not None and node.node_id <= after, node.node_id
    return liking(terms, node), -bytes_at.get(node.node_id, 0), pressure(node, near)


# ------------------------------------------------------------------ why not


def obstacle(terms: Terms, node: NodeView) -> str:
    """Say all that stands between a demand and a node that has not taken it."""
    draining = f"{HERE} takes nothing new: {node.draining}" if node.draining else ""
    if terms.group is not None:
        what = "a bundle" if terms.index == ANY else f"bundle {terms.index}"
        bundles = _bundles(terms, node)
        if not bundles:
            return f"needs {what} of placement group {terms.group.hex()}, {HERE} has none"
        found = [draining, _mismatch(terms.selectors, node)]
        found += [_short(terms.need, b.total, b.free, f"bundle {index}") for index, b in bundles]
    elif terms.affinity == "hard" and terms.node_id and terms.node_id != node.node_id:
        # Alike for all of them, so that a thousand take one line.
        return f"needs node {terms.node_id.hex()}, {HERE} has another id"
    else:
        found = [draining, _mismatch(terms.selectors, node)]
        found.append(_short(terms.need, node.total, node.free, HERE))
    return "; ".join(filter(None, found))


def _short(need: Resources, total: Resources, free: Resources, who: str) -> str:
    return lacking(need, total, "", who) or lacking(need, free, "free", who)


def lacking(need: Resources, available: Resources, verb: str, who: str = HERE) -> str:
    """Say what falls short: `needs CPU 4, this node has 2 free`."""
    short = need.shortfall(available)
    return "; ".join(
        f"needs {name} {_shown(name, need[name])}, {who} has "
        # What is lent twice, or waits there, is more than there is.
        f"{_shown(name, max(0, available.get(name, 0)))}" + (f" {verb}" if verb else "")
        for name in sorted(short)
    )


def _shown(name: str, units: int) -> str:
    return amount(units // UNITS) if name == "memory" else f"{units / UNITS:g}"


def summary(reasons: Mapping[NodeId, str]) -> str:
    """Say each reason once, those of most nodes first, in a bounded number of lines.

    Of several nodes it says how many, or which: `needs CPU 4, 2 nodes have 2`.
    """
    alike: dict[str, list[NodeId]] = {}
    for node_id, text in reasons.items():
        alike.setdefault(text, []).append(node_id)
    ranked = sorted(alike.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    lines = [_of(text, nodes, len(reasons)) for text, nodes in ranked[:LINES]]
    left_out = sum(len(nodes) for _, nodes in ranked[LINES:])
    if left_out:
        lines.append(f"and {left_out} nodes more, for reasons like these")
    return "; ".join(lines) or "there is no node"


def _of(text: str, nodes: list[NodeId], among: int) -> str:
    """Say of which nodes a reason is, among so many."""
    if among == 1:
        return text
    if len(nodes) == 1:
        return text.replace(HERE, f"node {nodes[0].hex()[:SHOWN_DIGITS]}")
    if HERE not in text:
        return f"{text} ({len(nodes)} nodes)"
    several = f"{len(nodes)} nodes"
    return text.replace(f"{HERE} has", f"{several} have").replace(
        f"{HERE} takes", f"{several} take"
    )


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
    return f"needs label {' or else '.join(failing)}, {HERE} has {has or 'no labels'}"
