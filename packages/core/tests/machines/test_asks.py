from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from weft._machines.asks import (
    OWN,
    AskDaemon,
    AskRefused,
    Asks,
    DaemonGone,
    Event,
    SentTo,
    WorkerHad,
    WorkersWanted,
)
from weft._machines.spillover import HOPS

B, C = "b:1/node", "c:1/node"


def told(asks: Asks, event: Event) -> list[tuple[str, int, int]]:
    effects = asks.handle(event)
    asks.check()
    return [(each.daemon, each.workers, each.hops) for each in effects]


def test_its_own_daemon_is_asked_first() -> None:
    asks = Asks()
    assert told(asks, WorkersWanted(1, 3)) == [(OWN, 3, 0)]
    assert told(asks, WorkersWanted(1, 5)) == [(OWN, 5, 0)]
    assert told(asks, WorkersWanted(1, 5)) == []
    assert told(asks, WorkersWanted(1, 0)) == [(OWN, 0, 0)]
    assert asks.asked(1) == {}


def test_who_is_sent_on_asks_there_and_may_be_sent_on_again() -> None:
    asks = Asks()
    asks.handle(WorkersWanted(1, 5))
    assert told(asks, SentTo(1, 3, OWN, B, 1)) == [(B, 3, 1)]
    assert told(asks, SentTo(1, 2, B, C, 2)) == [(C, 2, 2)]
    assert told(asks, SentTo(1, 1, OWN, C, 1)) == [(C, 3, 1)]
    assert asks.asked(1) == {OWN: 1, B: 1, C: 3}


def test_what_more_is_wanted_is_asked_of_its_own_daemon() -> None:
    asks = Asks()
    asks.handle(WorkersWanted(1, 2))
    asks.handle(SentTo(1, 2, OWN, B, 1))
    assert told(asks, WorkersWanted(1, 3)) == [(OWN, 1, 0)]


def test_what_is_not_wanted_is_taken_back_from_its_own_daemon_first_then_from_the_last() -> None:
    asks = Asks()
    asks.handle(WorkersWanted(1, 6))
    asks.handle(SentTo(1, 2, OWN, B, 1))
    asks.handle(SentTo(1, 2, OWN, C, 1))
    assert told(asks, WorkersWanted(1, 3)) == [(OWN, 0, 0), (C, 1, 0)]
    assert told(asks, WorkersWanted(1, 0)) == [(C, 0, 0), (B, 0, 0)]


def test_worker_that_is_had_is_wanted_no_more() -> None:
    asks = Asks()
    asks.handle(WorkersWanted(1, 2))
    asks.handle(SentTo(1, 1, OWN, B, 1))
    assert told(asks, WorkerHad(1, B)) == []
    assert asks.asked(1) == {OWN: 1}
    assert told(asks, WorkerHad(1, B)) == []
    assert told(asks, WorkersWanted(1, 1)) == []


def test_who_is_sent_on_for_what_it_wants_no_more_asks_nobody() -> None:
    asks = Asks()
    asks.handle(WorkersWanted(1, 2))
    asks.handle(WorkersWanted(1, 0))
    assert told(asks, SentTo(1, 2, OWN, B, 1)) == []


def test_refusal_ends_what_was_asked_elsewhere() -> None:
    asks = Asks()
    asks.handle(WorkersWanted(1, 2))
    asks.handle(SentTo(1, 1, OWN, B, 1))
    assert told(asks, AskRefused(1, B)) == [(OWN, 0, 0)]
    assert told(asks, AskRefused(1, OWN)) == []


def test_what_a_dead_daemon_was_to_find_its_own_has_to() -> None:
    asks = Asks()
    asks.handle(WorkersWanted(1, 3))
    asks.handle(WorkersWanted(2, 1))
    asks.handle(SentTo(1, 2, OWN, B, 1))
    assert told(asks, DaemonGone(B)) == [(OWN, 3, HOPS)]
    assert told(asks, DaemonGone(B)) == []


daemons = st.sampled_from([OWN, B, C])
keys = st.integers(1, 2)
events = st.one_of(
    st.builds(WorkersWanted, keys, st.integers(0, 5)),
    st.builds(SentTo, keys, st.integers(1, 3), daemons, st.sampled_from([B, C]), st.just(1)),
    st.builds(WorkerHad, keys, daemons),
    st.builds(AskRefused, keys, daemons),
    st.builds(DaemonGone, st.sampled_from([B, C])),
)


@given(st.lists(events, max_size=30))
def test_as_many_are_asked_for_as_are_wanted(story: list[Event]) -> None:
    asks = Asks()
    wanted = {1: 0, 2: 0}
    believed: dict[tuple[str, int], int] = {}
    for event in story:
        match event:
            case WorkersWanted(key, workers):
                wanted[key] = workers
            case WorkerHad(key, source):
                wanted[key] -= min(1, asks.asked(key).get(source, 0))
            case AskRefused(key):
                wanted[key] = 0
            case _:
                pass
        if isinstance(event, WorkerHad | SentTo):
            count = event.workers if isinstance(event, SentTo) else 1
            at = (event.source, event.key)
            believed[at] = max(0, believed.get(at, 0) - count)
        elif isinstance(event, AskRefused):
            believed[event.source, event.key] = 0
        elif isinstance(event, DaemonGone):
            believed = {at: n for at, n in believed.items() if at[0] != event.source}
        for effect in asks.handle(event):
            assert isinstance(effect, AskDaemon)
            believed[effect.daemon, effect.key] = effect.workers
        asks.check()
        for key in (1, 2):
            asked = asks.asked(key)
            assert sum(asked.values()) == wanted[key]
            said = {each: n for (each, at), n in believed.items() if at == key and n}
            assert said == asked
