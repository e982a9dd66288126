"""The reservations of a node, together with its queue of leases."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from weft._ids import NodeId, PlacementGroupId
from weft._machines.leases import AmountsLent, BundleEmpty
from weft._machines.placement import NodeView
from weft._machines.reservations import ReserveAsked, TellReserved
from weft._node.reserving import Report, Reserving
from weft._node.rules import Effect, Rules
from weft._resources import Resources

G = PlacementGroupId(b"g" * 16)
ONE = Resources({"CPU": 1})
NODE = NodeView(NodeId(b"n" * 16), ONE, ONE, is_local=True)


class Site:
    """A node that lends what it has."""

    def __init__(self) -> None:
        facts: Any = SimpleNamespace(
            cpus=1, total=ONE, view=lambda: NODE, accelerators=SimpleNamespace(devices={})
        )
        self.now = 10.0
        self.told: list[Report] = []
        self.rules = Rules(facts, now=lambda: self.now)
        self.reserving = Reserving(facts, self.rules, self.told.append)

    def do(self, effect: Effect) -> None:
        match effect:
            case AmountsLent(bundle):
                self.reserving.lent(bundle)
            case BundleEmpty(bundle):
                self.reserving.emptied(bundle)
            case _:
                effect.do()  # type: ignore[union-attr]

    def settle(self) -> None:
        self.rules.settle(self.do)
        self.reserving.check()
        self.rules.leases.check()


def test_who_waits_for_tasks_and_finds_none_is_not_refused_before_it_hears_of_its_amounts() -> None:
    site = Site()
    site.reserving.tell(ReserveAsked(1, G, 7, {0: ONE}, 1, patience_s=1.0))
    site.reserving.tick()
    site.settle()
    assert site.told == [TellReserved(G, 7)]
