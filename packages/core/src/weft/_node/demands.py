"""Demands on their way to the queue: they wait here until their environment is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._machines.leases import ACTOR_KEY, ActorWanted, Demanded, Refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.environments import Environments
    from weft._node.groups import NodeGroups
    from weft._node.rules import Rules
    from weft._specs import Shape

At = tuple[bytes, int]
"""A client and its key; an actor is a client too, with ACTOR_KEY."""


class Demands:
    """The demands of a node's clients and actors."""

    def __init__(
        self, rules: Rules, environments: Environments, groups: Callable[[], NodeGroups]
    ) -> None:
        self._rules = rules
        self._groups = groups
        """Makes them for the first one."""
        self._environments = environments
        self._building: dict[At, Demanded | ActorWanted] = {}
        """Those whose environment is being built."""

    def add(self, demand: Demanded | ActorWanted) -> None:
        """Queue a demand once its environment is there. It replaces the client's last one."""
        at = _at(demand)
        refusal = self.refusal(demand.shape)
        if refusal:
            self._building.pop(at, None)
            self._rules.add(Refuse(*at, "placement_group", refusal))
            return
        env = demand.shape.env
        if self._environments.is_ready(env):
            self._building.pop(at, None)
            self._rules.tell_leases(demand)
            return
        self._building[at] = demand
        self._environments.prepare(env, lambda reason: self._prepared(at, env, reason))

    def refusal(self, shape: Shape) -> str:
        """Say why nothing of this shape can ever go into its placement group; empty if it may."""
        return self._groups().refusal(shape) if _is_in_group(shape) else ""

    def _prepared(self, at: At, env: str, reason: str) -> None:
        demand = self._building.get(at)
        if demand is None or demand.shape.env != env:
            return
        del self._building[at]
        if reason:
            self._rules.add(Refuse(*at, "environment", reason))
        else:
            self._rules.tell_leases(demand)

    def drop(self, actor: bytes) -> None:
        """An actor wants no worker any more."""
        self._building.pop((actor, ACTOR_KEY), None)

    def forget(self, client: bytes) -> None:
        """A client is gone."""
        for at in [at for at in self._building if at[0] == client]:
            del self._building[at]

    def explain(self, shape: Shape, now: float) -> str:
        """Say what a demand of this shape waits for."""
        if any(demand.shape == shape for demand in self._building.values()):
            return "its runtime environment is being built"
        group = self._groups().state_of(shape) if _is_in_group(shape) else ""
        if group:
            return group
        return self._rules.leases.explain(shape, now)


def _is_in_group(shape: Shape) -> bool:
    return shape.strategy.startswith("group:")


def _at(demand: Demanded | ActorWanted) -> At:
    if isinstance(demand, ActorWanted):
        return demand.actor, ACTOR_KEY
    return demand.client, demand.key
