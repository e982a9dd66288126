"""Records of machines as messages, and back."""

from __future__ import annotations

from weft._control_messages import (
    StandingsEncoder,
    delta_of,
    message_of_delta,
    node_of_standing,
    node_of_view,
    standing_of,
    view_of,
)
from weft._ids import NodeId, PlacementGroupId
from weft._machines.members import MemberFacts
from weft._machines.membership import MemberStanding
from weft._machines.placement import BundleView, NodeView
from weft._machines.views import Delta
from weft._resources import Resources
from weft._transport.control import messages


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


def standing(node_id: NodeId, cpus: int) -> MemberStanding:
    view = NodeView(node_id, Resources({"CPU": 4}), Resources({"CPU": cpus}))
    return MemberStanding(MemberFacts(node_id, 1, b"", "there:1/node", "there", "alive"), view)


def test_standings_that_are_encoded_once_arrive_as_they_were_said() -> None:
    a, b = NodeId.from_random(), NodeId.from_random()
    standings = {a: standing(a, 1), b: standing(b, 2)}
    encoder = StandingsEncoder()
    deltas = [
        Delta(7, 1, 0, dict(standings)),
        Delta(7, 2, 1, {a: standing(a, 3)}),
        Delta(7, 3, 2, {}, (b,)),
        Delta(7, 3, 0, {a: standing(a, 3)}),
        Delta(7, 4, 3, {a: standing(a, 4), b: standing(b, 4)}),
    ]
    for delta in deltas:
        encoded = encoder.encode(delta)
        assert encoder.encode(delta) == encoded
        message = messages.ViewDelta.FromString(encoded)
        assert message == message_of_delta(delta, node_of_standing)
        assert delta_of(message, standing_of) == delta
