"""What a node shows of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from weft._ids import NodeId
from weft._machines.leases import Demanded, LeaseBound
from weft._machines.placement import NodeView
from weft._node.rules import Rules
from weft._resources import Resources
from weft._specs import Shape

TWO = Resources({"CPU": 2})
NODE = NodeView(NodeId(b"n" * 16), TWO, TWO, is_local=True)


def demanded(client: bytes, cpus: float) -> Demanded:
    return Demanded(client, 1, Shape(tuple(Resources({"CPU": cpus}).items())), 1)


def test_view_is_made_again_when_the_leases_change_or_the_time_has_come_and_not_before() -> None:
    facts: Any = SimpleNamespace(
        cpus=2, view=lambda: NODE, accelerators=SimpleNamespace(devices={})
    )
    now = 10.0
    rules = Rules(facts, now=lambda: now)
    assert rules.view() == NODE
    assert rules.view() is rules.view()
    rules.tell_leases(demanded(b"a", 1))
    rules.tell_leases(LeaseBound(1))
    rules.tell_leases(demanded(b"b", 2))
    view = rules.view()
    assert view.free == Resources({"CPU": 1})
    now += 0.5
    assert rules.view() is view
    now += 1.0
    assert rules.view().free == Resources(), "the demand is late, and the rest is kept for it"
