from __future__ import annotations

from typing import Any

import msgspec

from weft._ids import NodeId
from weft._machines.members import MemberFacts
from weft._machines.membership import MemberStanding
from weft._machines.placement import NodeView
from weft._machines.standings import Standings, StandingsChange
from weft._machines.views import ApplyChange
from weft._resources import Resources

ME, A, B, C = (NodeId(bytes([97 + i] * 16)) for i in range(4))
NOTHING_NEW = StandingsChange((), (), (), ())


def facts(node_id: NodeId, incarnation: int, **more: Any) -> MemberFacts:
    known = MemberFacts(node_id, incarnation, b"", f"host-{node_id[:1].decode()}:1", "", "alive")
    return msgspec.structs.replace(known, **more)


def view(node_id: NodeId, cpus: float = 1) -> NodeView:
    return NodeView(node_id, Resources({"CPU": cpus}), Resources({"CPU": cpus}))


def heard(*standings: MemberStanding, gone: tuple[NodeId, ...] = ()) -> Any:
    return ApplyChange({standing.facts.node_id: standing for standing in standings}, gone)


def knowing(*standings: MemberStanding) -> Standings:
    known = Standings(ME)
    known.change(heard(*standings))
    return known


def test_life_of_another_node_is_told_when_it_begins_and_when_it_ends() -> None:
    known = Standings(ME)
    assert known.change(heard(MemberStanding(facts(A, 1)))).joined == (facts(A, 1),)
    assert known.address_of(A) == "host-b:1"
    dead = facts(A, 1, life="dead", cause="it was silent")
    assert known.change(heard(MemberStanding(dead))) == StandingsChange((), (A,), (dead,), ())
    assert known.change(heard(MemberStanding(dead))) == NOTHING_NEW
    assert known.address_of(A) is None
    assert known.address_of(B) is None


def test_what_a_node_has_is_told_with_it_and_whenever_it_changes() -> None:
    known = Standings(ME)
    first = known.change(heard(MemberStanding(facts(A, 1), view(A))))
    assert (first.views, first.joined) == ((view(A),), (facts(A, 1),))
    second = known.change(heard(MemberStanding(facts(A, 1), view(A, 2))))
    assert second == StandingsChange((view(A, 2),), (), (), ())


def test_node_that_lives_anew_has_died_even_if_that_was_not_heard() -> None:
    known = knowing(MemberStanding(facts(A, 1), view(A)))
    changed = known.change(heard(MemberStanding(facts(A, 2), view(A))))
    ended = facts(A, 1, life="dead", cause="it has registered anew")
    assert changed == StandingsChange((view(A),), (A,), (ended,), (facts(A, 2),))


def test_node_that_is_first_heard_of_when_it_is_dead_has_died() -> None:
    # A process of it may have called before: then nobody else says that it is gone.
    known = Standings(ME)
    dead = facts(A, 1, life="dead", cause="it was silent")
    assert known.change(heard(MemberStanding(dead))) == StandingsChange((), (A,), (dead,), ())


def test_node_is_not_taken_for_another_that_has_died_at_its_address() -> None:
    known = Standings(ME)
    dead, there = facts(A, 1, life="dead"), facts(B, 2, address=facts(A, 1).address)
    changed = known.change(heard(MemberStanding(dead), MemberStanding(there)))
    assert changed == StandingsChange((), (), (), (there,))


def test_node_that_is_not_known_any_more_has_died_if_it_lived() -> None:
    known = knowing(MemberStanding(facts(A, 1)), MemberStanding(facts(B, 2, life="dead")))
    changed = known.change(heard(gone=(A, B)))
    assert changed.gone == (A,)
    assert [each.cause for each in changed.died] == ["it is no member any more"]


def test_what_a_node_has_stays_known_until_a_new_control_service_has_heard_it() -> None:
    known = knowing(MemberStanding(facts(A, 1), view(A)))
    assert known.change(heard(MemberStanding(facts(A, 1)))) == NOTHING_NEW
    assert known.members[A].view == view(A)


def test_nothing_is_told_of_the_node_itself() -> None:
    known = Standings(ME)
    me = MemberStanding(facts(ME, 1), view(ME))
    assert known.change(heard(me)) == NOTHING_NEW
    assert known.members[ME] == me
    assert known.change(heard(gone=(ME,))) == NOTHING_NEW


def test_node_is_dead_at_an_address_until_another_lives_there() -> None:
    known = knowing(MemberStanding(facts(A, 1)))
    assert not known.is_dead_at("host-b:1")
    known.change(heard(MemberStanding(facts(A, 1, life="dead"))))
    assert known.is_dead_at("host-b:1")
    known.change(heard(MemberStanding(facts(B, 2, life="dead", address="host-b:1/node"))))
    known.change(heard(MemberStanding(facts(C, 3, life="dead", address="host-c:1/node"))))
    dead = known.dead_at("host-b:1")
    assert dead is not None
    assert dead.node_id == B
    assert not known.is_dead_at("host-d:1")
    known.change(heard(MemberStanding(facts(B, 4, address="host-b:1/node"))))
    assert not known.is_dead_at("host-b:1")
