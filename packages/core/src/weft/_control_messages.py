"""Records of machines as messages of control.proto, and back: for both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from weft._ids import NodeId, PlacementGroupId
from weft._machines.jobs import BeginJob, JobFacts
from weft._machines.members import Life, MemberFacts
from weft._machines.membership import MemberStanding
from weft._machines.orders import DropOrder, KillOrder, MakeOrder, Order, QuitOrder, WantOrder
from weft._machines.placement import BundleView, NodeView
from weft._machines.views import Delta
from weft._resources import JobLimits, Resources
from weft._transport.control import messages

if TYPE_CHECKING:
    from collections.abc import Callable

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
        jobs={each.job_id: Resources.of_units(each.used) for each in node.jobs},
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
    for job, used in view.jobs.items():
        node.jobs.add(job_id=job).used.update(used)


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


class StandingsEncoder:
    """Encodes what is said of nodes: each standing once, however many want it."""

    def __init__(self) -> None:
        self._known: dict[NodeId, tuple[MemberStanding, bytes]] = {}
        self._whole: tuple[Delta[NodeId, MemberStanding] | None, bytes] = (None, b"")

    def encode(self, delta: Delta[NodeId, MemberStanding]) -> bytes:
        """Return a delta as a ViewDelta is encoded.

        Encoded messages one after the other are those messages merged.
        """
        if delta is self._whole[0]:
            return self._whole[1]
        head = messages.ViewDelta(
            source=delta.source, number=delta.number, base=delta.base, gone=delta.gone
        )
        pieces = [self._piece(node_id, each) for node_id, each in delta.changed.items()]
        encoded = b"".join((head.SerializeToString(), *pieces))
        for node_id in delta.gone:
            self._known.pop(node_id, None)
        if not delta.base:
            self._whole = (delta, encoded)
        return encoded

    def _piece(self, node_id: NodeId, standing: MemberStanding) -> bytes:
        known, piece = self._known.get(node_id, (None, b""))
        if known is not standing:
            piece = messages.ViewDelta(changed=[node_of_standing(standing)]).SerializeToString()
            self._known[node_id] = (standing, piece)
        return piece


def delta_of(message: messages.ViewDelta, read: Callable[[messages.Node], V]) -> Delta[NodeId, V]:
    """Read what has changed of some nodes. ValueError: it makes no sense."""
    changed = {NodeId.from_binary(node.node_id): read(node) for node in message.changed}
    gone = tuple(NodeId.from_binary(node_id) for node_id in message.gone)
    return Delta(message.source, message.number, message.base, changed, gone)


# ------------------------------------------------------------------ orders and jobs


def order_of(order: messages.Order) -> Order:
    """Read what a node is to do for an actor."""
    match order.WhichOneof("what"):
        case "want":
            return WantOrder(order.want.actor_id, order.want.creation)
        case "drop":
            return DropOrder(order.drop)
        case "become":
            made = order.become
            return MakeOrder(made.actor_id, made.worker_id, made.restarts, made.creation)
        case "quit":
            return QuitOrder(order.quit)
        case _:
            return KillOrder(order.kill.worker_id, order.kill.reason)


def job_of(job: messages.Job) -> JobFacts:
    """Read what is known of a job."""
    limits = JobLimits(dict(job.limits.quota), job.limits.weight, job.limits.priority)
    begun = BeginJob(
        job.job_id,
        job.driver_id,
        job.node_id,
        job.address,
        job.namespace,
        job.entrypoint,
        dict(job.metadata),
        limits,
    )
    ended_at = job.ended_at if job.HasField("ended_at") else -1.0
    return JobFacts(begun, limits, job.began_at, ended_at, job.reason, job.change)
