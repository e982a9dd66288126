"""Records of machines as messages, and back."""

from __future__ import annotations

from weft._control_messages import node_of_view, view_of
from weft._ids import NodeId, PlacementGroupId
from weft._machines.placement import BundleView, NodeView
from weft._resources import Resources


def test_what_a_node_has_arrives_as_it_was_said() -> None:
    view = NodeView(
        NodeId.from_random(),
        Resources({"CPU": 4, "TPU": 1}),
        Resources.of_units({"CPU": -5_000, "TPU": 10_000}),
        {"zone": "a"},
        bundles={
            PlacementGroupId.from_random(): {
                2: BundleView(Resources({"CPU": 2}), Resources({"CPU": 1}), 3, 7)
            }
        },
        jobs={b"x" * 16: Resources({"CPU": 3}), b"y" * 16: Resources.of_units({"CPU": -1})},
    )
    message = node_of_view(view)
    assert view_of(type(message).FromString(message.SerializeToString())) == view
