"""Questions to all nodes: what is sent where, and what comes back to who asks."""

from __future__ import annotations

from typing import Any

import pytest

from weft._ids import NodeId
from weft._node import everywhere
from weft._node.everywhere import Everywhere, NodePlace
from weft._transport.timers import Timers
from weft._wire.messages import Answer, Ask, AskNodes, AskNoMore, NodeTold

HERE, NEAR, FAR = (NodeId(bytes([number]) * 16) for number in range(3))
PLACES = [
    NodePlace(HERE, "10.0.0.1:7/node"),
    NodePlace(NEAR, "10.0.0.2:7/node"),
    NodePlace(FAR, "10.0.0.3:7/node"),
]


class Someone:
    """A client, and what it was told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.connection = self
        self.closed = False

    def take(self) -> list[Any]:
        heard, self.heard = self.heard, []
        return heard


class Daemons:
    """Stands for a daemon's clients: it keeps what they are sent, and those that it calls."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.reached: dict[str, Any] = {}
        self.asked_here: list[Any] = []
        self.me: Any = None
        self.no_way_to = ""
        clients: Any = self
        self.everywhere = Everywhere(
            HERE, clients, self.timers, nodes=lambda: PLACES, ask_here=self.ask_here
        )

    def send(self, client: Any, message: Any) -> None:
        if isinstance(client, Someone):
            client.heard.append(message)
        else:
            client.connection.queue(message)

    def reach(self, address: str) -> Any:
        if address == self.no_way_to:
            raise OSError(113, "No route to host")
        return self.reached.setdefault(address, Someone())

    def ask_here(self, client: Any, message: Any) -> None:
        self.me = client
        self.asked_here.append(message)

    def daemon(self, place: NodePlace) -> Any:
        return self.reached[place.daemon]

    def answer(self, place: NodePlace, body: bytes = b"", error: str = "") -> None:
        """Let a node answer what it was asked last."""
        if place.node_id == HERE:
            asked = self.asked_here.pop()
            self.send(self.me, Answer(asked.request, body, error))
        else:
            (asked,) = self.daemon(place).take()
            assert self.everywhere.take(self.daemon(place), Answer(asked.request, body, error))


@pytest.fixture
def daemons() -> Daemons:
    return Daemons()


def test_all_nodes_are_asked_at_once_and_each_answer_is_passed_on(daemons: Daemons) -> None:
    tool: Any = Someone()
    daemons.everywhere.ask(tool, AskNodes(5, ["tasks"], b"body"))
    for place in PLACES[1:]:
        (asked,) = daemons.daemon(place).heard
        assert (asked.what, asked.body) == ("tasks", b"body")
    daemons.answer(PLACES[2], b"far")
    assert tool.take() == [NodeTold(5, FAR, "10.0.0.3:7", [b"far"])]
    daemons.answer(PLACES[0], b"here")
    daemons.answer(PLACES[1], b"near")
    assert tool.take() == [
        NodeTold(5, HERE, "10.0.0.1:7", [b"here"]),
        NodeTold(5, NEAR, "10.0.0.2:7", [b"near"]),
        Answer(5),
    ]


def test_a_question_is_asked_when_the_one_before_was_answered(daemons: Daemons) -> None:
    tool: Any = Someone()
    daemons.everywhere.ask(tool, AskNodes(5, ["objects", "segments"], node_id=NEAR))
    daemons.answer(PLACES[1], b"objects")
    assert tool.take() == []
    assert [asked.what for asked in daemons.daemon(PLACES[1]).heard] == ["segments"]
    daemons.answer(PLACES[1], b"segments")
    assert tool.take() == [NodeTold(5, NEAR, "10.0.0.2:7", [b"objects", b"segments"]), Answer(5)]


def test_a_node_that_refuses_is_asked_no_more(daemons: Daemons) -> None:
    tool: Any = Someone()
    daemons.everywhere.ask(tool, AskNodes(5, ["strange", "tasks"], node_id=NEAR))
    daemons.answer(PLACES[1], error="it does not know that")
    assert tool.take() == [
        NodeTold(5, NEAR, "10.0.0.2:7", error="it does not know that"),
        Answer(5),
    ]


def test_nodes_that_do_not_answer_are_named_when_time_is_up(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(everywhere, "NODES_S", 0.0)
    tool: Any = Someone()
    daemons.everywhere.ask(tool, AskNodes(5, ["tasks"]))
    daemons.answer(PLACES[0], b"here")
    daemons.answer(PLACES[2], b"far")
    tool.take()
    (asked,) = daemons.daemon(PLACES[1]).take()
    daemons.timers.ring()
    assert tool.take() == [NodeTold(5, NEAR, "10.0.0.2:7", silent="no answer for 0 s"), Answer(5)]
    assert daemons.daemon(PLACES[1]).take() == [AskNoMore(asked.request)]
    # One that is late is nobody's.
    assert daemons.everywhere.take(daemons.daemon(PLACES[1]), Answer(asked.request, b"late"))
    daemons.timers.ring()
    assert tool.take() == []


def test_who_is_patient_waits_for_as_long_as_it_takes(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(everywhere, "NODES_S", 0.0)
    tool: Any = Someone()
    daemons.everywhere.ask(tool, AskNodes(5, ["log"], b"", NEAR, is_patient=True))
    daemons.timers.ring()
    assert tool.take() == []
    daemons.answer(PLACES[1], b"more")
    assert tool.take() == [NodeTold(5, NEAR, "10.0.0.2:7", [b"more"]), Answer(5)]


def test_a_daemon_that_is_lost_is_waited_for_no_longer(daemons: Daemons) -> None:
    tool: Any = Someone()
    daemons.everywhere.ask(tool, AskNodes(5, ["tasks"], node_id=FAR))
    daemon = daemons.daemon(PLACES[2])
    daemon.closed = True
    daemons.everywhere.lost(daemon)
    words = "its daemon cannot be reached"
    assert tool.take() == [NodeTold(5, FAR, "10.0.0.3:7", silent=words), Answer(5)]


def test_a_host_to_which_there_is_no_way_is_silent_at_once(daemons: Daemons) -> None:
    daemons.no_way_to = PLACES[2].daemon
    tool: Any = Someone()
    daemons.everywhere.ask(tool, AskNodes(5, ["tasks"], node_id=FAR))
    words = "there is no way to it: No route to host"
    assert tool.take() == [NodeTold(5, FAR, "10.0.0.3:7", silent=words), Answer(5)]


def test_who_is_gone_is_told_nothing_and_daemons_hear_of_it(daemons: Daemons) -> None:
    tool: Any = Someone()
    daemons.everywhere.ask(tool, AskNodes(5, ["log"], is_patient=True))
    asked = {place: daemons.daemon(place).take()[0] for place in PLACES[1:]}
    daemons.everywhere.lost(tool)
    for place, ask in asked.items():
        assert isinstance(ask, Ask)
        assert daemons.daemon(place).take() == [AskNoMore(ask.request)]
    here, no_more = daemons.asked_here
    assert no_more == AskNoMore(here.request)
    assert tool.take() == []


def test_a_node_that_is_not_there_is_refused(daemons: Daemons) -> None:
    tool: Any = Someone()
    daemons.everywhere.ask(tool, AskNodes(5, ["tasks"], node_id=b"x" * 16))
    assert tool.take() == [Answer(5, error=f"no node {(b'x' * 16).hex()} lives")]


def test_answers_to_what_others_have_asked_are_left_to_them(daemons: Daemons) -> None:
    neighbour: Any = Someone()
    assert not daemons.everywhere.take(neighbour, Answer(1))


def test_the_daemon_itself_asks_as_its_clients_do(daemons: Daemons) -> None:
    found: list[Any] = []
    daemons.everywhere.gather("metrics", found.extend)
    for place in PLACES:
        daemons.answer(place, b"numbers")
    assert [told.node_id for told in found] == [HERE, NEAR, FAR]
