from __future__ import annotations

from collections import deque

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from weft._machines.wants import (
    PAUSE_S,
    AllOver,
    AskerLost,
    AskHere,
    AskThere,
    DaemonLost,
    Effect,
    Event,
    FoundHere,
    ReportFound,
    SendBack,
    SentBack,
    SettledThere,
    StopHere,
    TakeBack,
    WantAsked,
    WantDropped,
    WantOrdered,
    Wants,
    WantSpilled,
    WantsTicked,
    WantTakenBack,
)
from weft._specs import Shape

ACTOR, OTHER = b"actor", b"other"
A, B, C = "a:1/node", "b:1/node", "c:1/node"
SHAPE = Shape((("CPU", 10_000),))
ORDERED = WantOrdered(ACTOR, SHAPE, "Name")


class Node:
    """The wants of node A, which are checked at every event."""

    def __init__(self) -> None:
        self.wants = Wants(b"node a", A)
        self.now = 100.0

    def __call__(self, *events: Event) -> list[Effect]:
        effects: list[Effect] = []
        for event in events:
            effects = self.wants.handle(event, self.now)
            self.wants.check()
        return effects

    def asked(self, number: int = 7, *, hops: int = 1, asker: str = B) -> list[Effect]:
        return self(WantAsked(ACTOR, SHAPE, "Name", asker, b"node b", number, hops))

    def is_empty(self) -> bool:
        return self.wants.where(ACTOR) is None and self.wants.shape_of(ACTOR) is None


def here(hops: int = 0) -> AskHere:
    return AskHere(ACTOR, SHAPE, "Name", hops)


def there(address: str, hops: int, number: int = 1) -> AskThere:
    return AskThere(address, ACTOR, SHAPE, "Name", number, hops)


# ------------------------------------------------------------------ what control orders


def test_what_control_wants_is_looked_for_here_and_reported() -> None:
    node = Node()
    assert node(ORDERED) == [here()]
    assert (node.wants.where(ACTOR), node.wants.shape_of(ACTOR)) == ("", SHAPE)
    assert node(FoundHere(ACTOR)) == [ReportFound(ACTOR, b"node a", "", 1)]
    assert node.is_empty()
    assert node(FoundHere(ACTOR)) == []


def test_what_is_dropped_is_looked_for_no_more() -> None:
    node = Node()
    node(ORDERED)
    assert node(WantDropped(ACTOR)) == [StopHere(ACTOR, SHAPE)]
    assert node(WantDropped(ACTOR)) == []
    assert node.is_empty()


def test_what_is_sent_on_is_asked_there_until_control_knows() -> None:
    node = Node()
    node(ORDERED)
    assert node(WantSpilled(ACTOR, B, 1)) == [there(B, 1)]
    assert node.wants.where(ACTOR) == B
    assert node(SettledThere(ACTOR, C, 1)) == node(SettledThere(ACTOR, B, 2)) == []
    assert node.wants.where(ACTOR) == B
    assert node(SettledThere(ACTOR, B, 1)) == []
    assert node.is_empty()
    assert node(SettledThere(ACTOR, B, 1)) == []


def test_who_is_sent_back_asks_where_it_was_sent() -> None:
    node = Node()
    node(ORDERED, WantSpilled(ACTOR, B, 1))
    assert node(SentBack(ACTOR, C, 1, A, 9)) == []
    assert node(SentBack(ACTOR, B, 1, C, 2)) == [there(C, 2)]
    assert node(SentBack(ACTOR, C, 1, A, 3)) == [here(3)]
    assert node.wants.where(ACTOR) == ""


def test_what_is_dropped_is_taken_back_where_it_is() -> None:
    node = Node()
    node(ORDERED, WantSpilled(ACTOR, B, 1))
    assert node(WantDropped(ACTOR)) == [TakeBack(B, ACTOR, 1)]
    assert node.is_empty()


def test_what_is_wanted_again_is_looked_for_anew() -> None:
    node = Node()
    node(ORDERED, WantSpilled(ACTOR, B, 1))
    assert node(ORDERED) == [TakeBack(B, ACTOR, 1), here()]
    assert node(SentBack(ACTOR, B, 1, C, 2)) == []
    assert node(WantSpilled(ACTOR, B, 1)) == [there(B, 1, number=2)]


def test_what_a_lost_node_looked_for_is_looked_for_here_after_a_pause() -> None:
    node = Node()
    node(WantOrdered(OTHER, SHAPE, "Name"), ORDERED, WantSpilled(ACTOR, B, 1))
    assert node.wants.wake_at() is None
    assert node(DaemonLost(C)) == node(DaemonLost(B)) == []
    assert node.wants.wake_at() == node.now + PAUSE_S
    assert node(WantsTicked()) == []
    node.now += PAUSE_S
    assert node(WantsTicked()) == [here()]
    assert node.wants.wake_at() is None


def test_what_waits_for_its_pause_may_be_dropped() -> None:
    node = Node()
    node(ORDERED, WantSpilled(ACTOR, B, 1), DaemonLost(B))
    assert node(WantDropped(ACTOR)) == []
    assert node.is_empty()


def test_what_is_sent_on_and_not_wanted_goes_nowhere() -> None:
    assert Node()(WantSpilled(ACTOR, B, 1)) == []


# ------------------------------------------------------------------ what other daemons ask


def test_what_another_daemon_wants_is_reported_for_its_node() -> None:
    node = Node()
    assert node.asked() == [here(1)]
    assert node(FoundHere(ACTOR)) == [ReportFound(ACTOR, b"node b", B, 7)]
    assert node.is_empty()


def test_who_asks_is_told_where_to_ask() -> None:
    node = Node()
    node.asked()
    assert node(WantSpilled(ACTOR, C, 2)) == [SendBack(B, ACTOR, 7, C, 2)]
    assert node.is_empty()


def test_only_who_asked_takes_back_what_it_asked_for() -> None:
    node = Node()
    node.asked()
    assert node(WantDropped(ACTOR)) == []
    assert node(WantTakenBack(ACTOR, C, 7)) == node(WantTakenBack(ACTOR, B, 6)) == []
    assert node(WantTakenBack(ACTOR, B, 7)) == [StopHere(ACTOR, SHAPE)]
    assert node(WantTakenBack(ACTOR, B, 7)) == []
    assert node.is_empty()


def test_what_was_asked_ends_with_the_connection() -> None:
    node = Node()
    node.asked()
    node(WantOrdered(OTHER, SHAPE, "Name"))
    assert node(DaemonLost(B)) == node(AskerLost(C)) == []
    assert node(AskerLost(B)) == [StopHere(ACTOR, SHAPE)]
    assert node.is_empty()
    assert node.wants.where(OTHER) == ""


def test_what_a_node_asked_that_is_gone_since_changes_nothing_of_what_control_wants() -> None:
    node = Node()
    assert node(ORDERED) == [here()]
    assert node.asked() == [here(1)]
    assert node(WantTakenBack(ACTOR, B, 7)) == []
    assert node.wants.where(ACTOR) == ""
    assert node(FoundHere(ACTOR)) == [ReportFound(ACTOR, b"node a", "", 1)]


def test_of_several_that_want_it_control_comes_first_then_who_asked_last() -> None:
    node = Node()
    node(ORDERED)
    node.asked()
    node.asked(3, asker=C)
    assert node(FoundHere(ACTOR)) == [ReportFound(ACTOR, b"node a", "", 1), here(1)]
    assert node(FoundHere(ACTOR)) == [ReportFound(ACTOR, b"node b", C, 3), here(1)]
    assert node(FoundHere(ACTOR)) == [ReportFound(ACTOR, b"node b", B, 7)]
    assert node.is_empty()


def test_all_who_want_it_go_where_it_is_sent() -> None:
    node = Node()
    node(ORDERED)
    node.asked()
    assert node(WantSpilled(ACTOR, C, 2)) == [there(C, 2), SendBack(B, ACTOR, 7, C, 2)]
    assert node.wants.where(ACTOR) == C


def test_when_the_life_of_the_node_is_over_nothing_is_wanted_of_it() -> None:
    node = Node()
    node(ORDERED, WantSpilled(ACTOR, B, 1), WantOrdered(OTHER, SHAPE, "Name"))
    assert node(AllOver()) == [TakeBack(B, ACTOR, 1), StopHere(OTHER, SHAPE)]
    assert node.is_empty()


# ------------------------------------------------------------------ stories


class Cluster(RuleBasedStateMachine):
    """Three daemons and control, which wants one worker: it is found, whatever happens meanwhile.

    Connections keep the order of messages; when one breaks, what is on it is lost, and both sides
    hear of that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.nodes = {name: Wants(name.encode(), name) for name in (A, B, C)}
        self.queues: dict[str, dict[bytes, int]] = {name: {} for name in self.nodes}
        """By node: the hops of what is in its queue."""
        self.wires: dict[tuple[str, str], deque[Event]] = {
            (one, other): deque() for one in self.nodes for other in self.nodes if one != other
        }
        self.asked_by_control = ""
        self.is_found = False
        self.superfluous = 0
        self.tell(A, ORDERED)
        self.asked_by_control = A

    def tell(self, name: str, event: Event) -> None:
        effects = self.nodes[name].handle(event, self.now)
        self.nodes[name].check()
        for effect in effects:
            self.do(name, effect)

    def do(self, name: str, effect: Effect) -> None:
        match effect:
            case AskHere(actor, hops=hops):
                self.queues[name][actor] = hops
            case StopHere(actor):
                self.queues[name].pop(actor, None)
            case AskThere(address, actor, shape, text, number, hops):
                asked = WantAsked(actor, shape, text, name, name.encode(), number, hops)
                self.wires[name, address].append(asked)
            case TakeBack(address, actor, number):
                self.wires[name, address].append(WantTakenBack(actor, name, number))
            case SendBack(address, actor, number, target, hops):
                self.wires[name, address].append(SentBack(actor, name, number, target, hops))
            case ReportFound(actor, asked, asker, number):
                if not self.is_found and asked.decode() == self.asked_by_control:
                    self.is_found = True
                else:
                    self.superfluous += 1
                if asker:
                    self.wires[name, asker].append(SettledThere(actor, name, number))

    def waiting(self) -> list[str]:
        return [name for name, queue in self.queues.items() if queue]

    @rule(data=st.data())
    @precondition(lambda self: self.waiting())
    def one_sends_it_on(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.waiting()))
        target = data.draw(st.sampled_from([each for each in self.nodes if each != name]))
        hops = self.queues[name].pop(ACTOR)
        self.tell(name, WantSpilled(ACTOR, target, hops + 1))

    @rule(data=st.data())
    @precondition(lambda self: any(self.wires.values()))
    def a_message_comes(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from([at for at, wire in self.wires.items() if wire]))
        self.tell(at[1], self.wires[at].popleft())

    @rule(data=st.data())
    def a_connection_breaks(self, data: st.DataObject) -> None:
        one, other = data.draw(st.sampled_from(sorted(self.wires)))
        self.break_between(one, other)

    def break_between(self, caller: str, called: str) -> None:
        """Who has called asks on this connection; who was called answers on it."""
        asks, answers = WantAsked | WantTakenBack, SentBack | SettledThere
        forth, back = self.wires[caller, called], self.wires[called, caller]
        self.wires[caller, called] = deque(e for e in forth if not isinstance(e, asks))
        self.wires[called, caller] = deque(e for e in back if not isinstance(e, answers))
        self.tell(called, AskerLost(caller))
        self.tell(caller, DaemonLost(called))

    @rule()
    def time_passes(self) -> None:
        self.now += PAUSE_S
        for name in self.nodes:
            self.tell(name, WantsTicked())

    @rule(data=st.data())
    @precondition(lambda self: not self.is_found)
    def control_asks_another_node(self, data: st.DataObject) -> None:
        """The one that was asked is gone for control, and hears of that."""
        gone = self.asked_by_control
        self.asked_by_control = data.draw(
            st.sampled_from([name for name in (A, B) if name != gone])
        )
        self.tell(gone, AllOver())
        self.tell(self.asked_by_control, ORDERED)

    @rule(data=st.data())
    @precondition(lambda self: self.waiting())
    def one_finds_a_worker(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.waiting()))
        del self.queues[name][ACTOR]
        self.tell(name, FoundHere(ACTOR))

    def teardown(self) -> None:
        for _ in range(20):
            for at, wire in self.wires.items():
                while wire:
                    self.tell(at[1], wire.popleft())
            for name in self.waiting():
                del self.queues[name][ACTOR]
                self.tell(name, FoundHere(ACTOR))
            self.time_passes()
        assert self.is_found
        assert not any(node.where(ACTOR) is not None for node in self.nodes.values())


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
