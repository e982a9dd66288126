"""Demands over nodes: what waits here, and what is sent on to a node that has room.

The machine of spillover.py decides, on what is known of the other nodes:

    Demand -> DemandHeard -> QueueHere -> Demands (its environment) -> Leases -> Granted
                          -> SendOn    -> SentOn to the client, who asks there
                          -> RefuseDemand -> Refused
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from msgspec import structs

from weft._machines import leases as lease_rules
from weft._machines import spillover
from weft._machines.spillover import Spillover
from weft._node.scheduling import NOTHING_THERE, Scheduling, queued
from weft._override import override
from weft._transport.addresses import split
from weft._wire.messages import Refused, SentOn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from weft._ids import NodeId, PlacementGroupId
    from weft._machines.placement import NodeView
    from weft._node.clients import Clients
    from weft._node.demands import Demands
    from weft._node.rules import Rules
    from weft._specs import Shape


class ClusterScheduling(Scheduling):
    """There may be others."""

    def __init__(
        self,
        rules: Rules,
        clients: Clients,
        demands: Demands,
        local: NodeView,
        *,
        address: str,
        actor_sent_on: Callable[[bytes, str, int], None],
    ) -> None:
        """`local`: this node, all of it free; `address`: where others reach its daemon.

        `actor_sent_on(actor, address, hops)`: its worker is to be wanted of that daemon.
        """
        self._address = address
        self._rules = rules
        self._clients = clients
        self._demands = demands
        self._local = local
        self._looked_at: NodeView | None = None
        """What was taken note of last."""
        self._draining = ""
        self._actor_sent_on = actor_sent_on
        self._machine = Spillover(local)
        self._demand_of: dict[spillover.At, lease_rules.Demanded] = {}
        """As its client has made it, until nothing of it is here."""
        self._node_at = {split(address).node: local.node_id}
        """By HOST:PORT."""
        self._address_of: dict[NodeId, str] = {}
        """Of the other nodes' daemons."""

    @override
    def demanded(
        self, demand: lease_rules.Demanded, hops: int, bytes_at: Mapping[str, int] = NOTHING_THERE
    ) -> None:
        at = demand.client, demand.key
        refusal = self._demands.refusal(demand.shape)
        if refusal:
            self.gone(*at)
            self._rules.add(lease_rules.Refuse(*at, "placement_group", refusal))
            return
        self._demand_of[at] = demand
        self._look_here()
        known = {
            self._node_at[node]: size for node, size in bytes_at.items() if node in self._node_at
        }
        self._tell(spillover.DemandHeard(*at, demand.shape, demand.workers, hops, known))
        self._forget_if_done(at)

    @override
    def granted(self, grant: lease_rules.Grant) -> None:
        self._tell(spillover.GrantedHere(grant.client, grant.key))

    @override
    def bound(self, grant: lease_rules.Grant) -> None:
        self._tell(spillover.BoundHere(grant.client, grant.key))
        self._forget_if_done((grant.client, grant.key))

    @override
    def gone(self, client: bytes, key: int | None = None) -> None:
        for at in [at for at in self._demand_of if at[0] == client and key in (None, at[1])]:
            del self._demand_of[at]
        self._tell(spillover.DemandsGone(client, key))

    def group_ended(self, group: PlacementGroupId, reason: str) -> None:
        """A placement group was removed."""
        self._tell(spillover.GroupEnded(group, reason))

    def seen(
        self, views: tuple[NodeView, ...], gone: tuple[NodeId, ...], addresses: Mapping[NodeId, str]
    ) -> None:
        """Other nodes are so, and are reached so; those are gone."""
        self._address_of.update(addresses)
        self._node_at.update((split(each).node, node_id) for node_id, each in addresses.items())
        for node_id in gone:
            node = split(self._address_of.pop(node_id, "")).node
            if self._node_at.get(node) == node_id:  # Else another one has its address.
                del self._node_at[node]
        self._look_here()
        self._tell(spillover.ViewsChanged(views, gone))

    @override
    def tick(self) -> None:
        at = self._machine.wake_at()
        if at is not None and at <= self._rules.now():
            self._look_here()
            self._tell(spillover.SpilloverTicked())

    @override
    def wake_at(self) -> float | None:
        return self._machine.wake_at()

    @override
    def explain(self, shape: Shape) -> str:
        self._look_here()
        here = self._machine.explain(shape, self._rules.now())
        # No room on any node helps who has used up what it may have on all.
        over = self._rules.leases.over_quota(shape) if here else ""
        told = "\n".join(filter(None, (over, here)))
        return told or self._demands.explain(shape, self._rules.now())

    @override
    def waiting(self) -> dict[spillover.At, tuple[Shape, int]]:
        wishes = {
            (client, key): (shape, workers)
            for client, key, shape, workers in self._machine.waiting()
        }
        return {**queued(self._rules), **wishes}

    @override
    def nodes(self) -> list[tuple[NodeView, str]]:
        self._look_here()
        here = self._local.node_id
        views = self._machine.views(self._rules.now())
        others = [view for view in views if view.node_id != here]
        return [(self._local, self._address)] + [
            (view, self._address_of.get(view.node_id, "")) for view in others
        ]

    def view(self) -> NodeView:
        """Return what this node has."""
        self._look_here()
        return self._local

    def check(self) -> None:
        """Assert what is always true."""
        self._machine.check()
        assert all(self._machine.has(at) for at in self._demand_of)

    def drain(self, why: str) -> None:
        """Place nothing here any more."""
        self._draining = why
        self._looked_at = None
        self._look_here()

    def _look_here(self) -> None:
        """Take note of what is free here."""
        view = self._rules.view()
        if view is self._looked_at:
            return
        self._looked_at = view
        if self._draining:
            view = structs.replace(view, draining=self._draining)
        if view != self._local:
            self._local = view
            self._tell(spillover.LocalChanged(view))

    def _tell(self, event: spillover.Event) -> None:
        effects = self._machine.handle(event, self._rules.now())
        for effect in effects:
            self._do(effect)
        for effect in effects:
            self._forget_if_done((effect.client, effect.key))

    def _forget_if_done(self, at: spillover.At) -> None:
        if not self._machine.has(at):
            self._demand_of.pop(at, None)

    def _do(self, effect: spillover.Effect) -> None:
        match effect:
            case spillover.QueueHere(client, key, shape, workers):
                made = self._demand_of[client, key]
                self._demands.add(structs.replace(made, shape=shape, workers=workers))
            case spillover.SendOn(actor, lease_rules.ACTOR_KEY, _, _, node_id, hops):
                address = self._address_of[node_id]
                self._rules.later(lambda: self._actor_sent_on(actor, address, hops))
            case spillover.SendOn(client, key, _, workers, node_id, hops, reason):
                address = self._address_of[node_id]
                self._clients.send_to(client, SentOn(key, workers, node_id, address, hops, reason))
            case spillover.RefuseDemand(actor, lease_rules.ACTOR_KEY, kind, reason):
                self._rules.add(lease_rules.Refuse(actor, lease_rules.ACTOR_KEY, kind, reason))
            case spillover.RefuseDemand(client, key, kind, reason):
                self._clients.send_to(client, Refused(key, kind, reason))
            case _:
                assert_never(effect)
