"""Records of machines as messages of control.proto, and back: for both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from weft._ids import NodeId, PlacementGroupId
from weft._machines.bundles import HeldBundles
from weft._machines.members import Life, MemberFacts
from weft._machines.membership import MemberStanding
from weft._machines.placement import BundleView, NodeView
from weft._machines.views import Delta
from weft._resources import Resources
from weft._transport.control import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

V = TypeVar("V")
_LIFE_OF: dict[messages.NodeState, Life] = {
    messages.MEMBER: "alive",
    messages.DRAINING: "draining",
    messages.GONE: "dead",
}
_STATE_OF = {life: state for state, life in _LIFE_OF.items()}


# ------------------------------------------------------------------ nodes


def node_of_view(view: NodeView) -> messages.Node:
    """Return what a node says of itself."""
    node = messages.Node(node_id=view.node_id, is_known=True)
    _put_view(node, view)
    return node


def node_of_standing(standing: MemberStanding) -> messages.Node:
    """Return what is said of a node."""
    facts = standing.facts
    node = messages.Node(
        node_id=facts.node_id,
        incarnation=facts.incarnation,
        address=facts.address,
        host=facts.name,
        state=_STATE_OF[facts.life],
        reason=facts.cause,
        is_known=standing.view is not None,
        is_head=facts.is_head,
    )
    if standing.view is not None:
        _put_view(node, standing.view)
    return node


def standing_of(node: messages.Node) -> MemberStanding:
    """Read what is said of a node. ValueError: it is none."""
    life = _LIFE_OF.get(node.state)
    if life is None:
        raise ValueError(f"node {node.node_id.hex()} is in state {node.state}, which is not known")
    facts = MemberFacts(
        NodeId.from_binary(node.node_id),
        node.incarnation,
        b"",
        node.address,
        node.host,
        life,
        node.reason,
        is_head=node.is_head,
    )
    return MemberStanding(facts, view_of(node) if node.is_known else None)


def view_of(node: messages.Node) -> NodeView:
    """Read what a node has. ValueError: it is none."""
    bundles: dict[PlacementGroupId, dict[int, BundleView]] = {}
    for each in node.bundles:
        group = PlacementGroupId.from_binary(each.group_id)
        total, free = Resources.of_units(each.total), Resources.of_units(each.free)
        view = BundleView(total, free, each.size, each.attempt)
        bundles.setdefault(group, {})[each.index] = view
    is_draining = node.state == messages.DRAINING
    return NodeView(
        NodeId.from_binary(node.node_id),
        Resources.of_units(node.total),
        Resources.of_units(node.free),
        dict(node.labels),
        draining=(node.reason or "it is drained") if is_draining else "",
        bundles=bundles,
    )


def _put_view(node: messages.Node, view: NodeView) -> None:
    node.total.update(view.total)
    node.free.update(view.free)
    node.labels.update(view.labels)
    for group, bundle_of in view.bundles.items():
        for index, bundle in bundle_of.items():
            there = node.bundles.add(
                group_id=group, index=index, size=bundle.bundles, attempt=bundle.attempt
            )
            there.total.update(bundle.total)
            there.free.update(bundle.free)


# ------------------------------------------------------------------ changes of the view


def message_of_delta(
    delta: Delta[NodeId, V], node_of: Callable[[V], messages.Node]
) -> messages.ViewDelta:
    """Return what has changed of some nodes."""
    return messages.ViewDelta(
        source=delta.source,
        number=delta.number,
        base=delta.base,
        changed=[node_of(value) for value in delta.changed.values()],
        gone=delta.gone,
    )


def delta_of(message: messages.ViewDelta, read: Callable[[messages.Node], V]) -> Delta[NodeId, V]:
    """Read what has changed of some nodes. ValueError: it makes no sense."""
    changed = {NodeId.from_binary(node.node_id): read(node) for node in message.changed}
    gone = tuple(NodeId.from_binary(node_id) for node_id in message.gone)
    return Delta(message.source, message.number, message.base, changed, gone)


# ------------------------------------------------------------------ bundles


def message_of_held(held: Iterable[HeldBundles]) -> messages.HeldBundles:
    """Return what a node holds for placement groups."""
    return messages.HeldBundles(
        held=[
            messages.HeldBundles.Held(
                group_id=each.group,
                index=index,
                attempt=each.attempt,
                is_committed=each.is_committed,
            )
            for each in held
            for index in each.indices
        ]
    )


def held_of(message: messages.HeldBundles) -> tuple[HeldBundles, ...]:
    """Read what a node holds for placement groups. ValueError: it makes no sense."""
    indices_of: dict[tuple[Any, ...], list[int]] = {}
    for each in message.held:
        group = PlacementGroupId.from_binary(each.group_id)
        indices_of.setdefault((group, each.attempt, each.is_committed), []).append(each.index)
    return tuple(
        HeldBundles(group, attempt, tuple(indices), is_committed)
        for (group, attempt, is_committed), indices in indices_of.items()
    )
