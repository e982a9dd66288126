"""Which nodes a daemon names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from weft._ids import NodeId
from weft._machines.members import MemberFacts
from weft._machines.membership import MemberStanding
from weft._machines.placement import NodeView
from weft._machines.stock import NOTHING
from weft._node import questions
from weft._node.in_cluster import InCluster
from weft._resources import Resources

HERE, THERE, LATE, DEAD = (NodeId(bytes([number]) * 16) for number in range(4))


def view(node_id: NodeId) -> NodeView:
    return NodeView(node_id, Resources({"CPU": 1}), NOTHING)


def standing(node_id: NodeId, life: Any = "alive", *, has_said: bool = False) -> MemberStanding:
    address = f"10.0.0.{node_id[0] + 1}:4000/node"
    cause = "it was silent" if life == "dead" else ""
    facts = MemberFacts(node_id, 1, b"", address, f"host{node_id[0]}", life, cause)
    return MemberStanding(facts, view(node_id) if has_said else None)


def test_member_that_has_not_said_what_it_has_is_named() -> None:
    in_cluster: Any = object.__new__(InCluster)
    members = [
        standing(HERE), standing(THERE, has_said=True), standing(LATE), standing(DEAD, "dead"),
    ]  # fmt: skip
    in_cluster.link = SimpleNamespace(members={each.facts.node_id: each for each in members})
    in_cluster._view = view(HERE)
    seen = [(view(HERE), "10.0.0.1:4000/node"), (view(THERE), "10.0.0.2:4000/node")]
    daemon: Any = SimpleNamespace(
        in_cluster=in_cluster, head="10.0.0.1:4000", scheduling=SimpleNamespace(nodes=lambda: seen)
    )
    found = questions.nodes(daemon, b"")
    assert [(node["NodeName"], node["Alive"], node["Resources"]) for node in found] == [
        ("host0", True, {"CPU": 1.0}),
        ("host1", True, {"CPU": 1.0}),
        ("host2", True, {}),
        ("host3", False, {}),
    ]
