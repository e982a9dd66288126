from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from weft import _clock
from weft._control.bells import Bells
from weft._control.calls.desk import Desk, RefusedError
from weft._control.calls.links import DELTAS, NodeLink, NodeLinks, ViewFollower
from weft._control.calls.members import Admission, MemberCalls
from weft._control.memory import Memory, MemoryJournal
from weft._control.service import Service
from weft._ids import NodeId
from weft._machines.ledger import Ledger
from weft._machines.membership import Membership
from weft._machines.placement import NodeView
from weft._node.heartbeats import (
    FIRST_S,
    LOST_S,
    DrainAnswer,
    Heartbeats,
    Leaving,
    WholeWanted,
)
from weft._resources import Resources
from weft._transport.control import messages
from weft._transport.credentials import make_credentials

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

NODE = b"n" * 16
ANSWER = messages.HeartbeatAnswer(ask_whole=True)


def test_what_is_for_a_node_goes_to_its_newest_stream() -> None:
    async def go() -> None:
        links = NodeLinks()
        links.send(NODE, 1, ANSWER)  # There is none: it is lost.
        old, new = NodeLink(1), NodeLink(1)
        for link in (old, new):
            links.open(NODE, link)
        with pytest.raises(RefusedError, match="it has begun another stream"):
            await old.next()
        links.send(NODE, 2, ANSWER)  # For another life.
        links.send(NODE, 1, ANSWER)
        assert await new.next() == ANSWER
        links.send(NODE, 1, ANSWER)
        drain = messages.HeartbeatAnswer(tell_drain=messages.Drain(reason="idle"))
        links.send(NODE, 1, drain)
        together = await new.next()
        assert together is not None
        assert (together.ask_whole, together.tell_drain.reason) == (True, "idle")
        links.send(NODE, 1, ANSWER)
        new.end()
        assert [await new.next(), await new.next()] == [ANSWER, None]
        assert links.close(NODE, old) is False
        assert links.close(NODE, new) is True

    asyncio.run(go())


def test_follower_that_is_too_slow_wants_the_whole_view() -> None:
    async def go() -> None:
        follower = ViewFollower()
        for number in range(DELTAS):
            follower.add(b"%d" % number)
        assert not follower.is_behind
        follower.add(b"one more")
        follower.add(b"another")
        await follower.wait()
        assert (follower.is_behind, follower.take()) == (True, [])
        follower.begin_anew(b"whole")
        follower.add(b"next")
        await follower.wait()
        assert follower.take() == [b"whole", b"next"]

    asyncio.run(go())


def test_node_of_many_is_told_to_beat_less_often(tmp_path: Path) -> None:
    async def beat(node_id: bytes, incarnation: int) -> AsyncIterator[messages.Heartbeat]:
        sender = messages.Sender(node_id=node_id, incarnation=incarnation)
        for _ in range(3):
            yield messages.Heartbeat(sender=sender)

    async def go() -> None:
        membership = Membership()
        service = Service(MemoryJournal(Memory()), Ledger([membership]), _clock, lambda event: None)
        await service.start()
        desk = Desk(service, Bells())
        calls = MemberCalls(
            desk, membership, NodeLinks(), Admission(make_credentials(tmp_path / "credentials"), "")
        )
        ids = [number.to_bytes(16, "big") for number in range(1, 502)]
        asked = [
            messages.RegisterRequest(node=messages.Node(node_id=each, address=each.hex()))
            for each in ids
        ]
        answers = await asyncio.gather(*(calls.register(each, None) for each in asked))
        heartbeats: Any = calls.heartbeats(beat(ids[0], answers[0].incarnation), None)
        told = [answer.heartbeat_s async for answer in heartbeats if answer.heartbeat_s]
        assert told == [0.6]
        await service.stop()

    asyncio.run(go())


class Clocked:
    """Timers of a test, and the clock of what they are for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._due: list[tuple[float, Callable[[], None]]] = []
        monkeypatch.setattr("weft._node.heartbeats.monotonic", lambda: self.now)

    def call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        self._due.append((self.now + delay_s, function))

    def run(self, until: float) -> None:
        while due := [each for each in self._due if each[0] <= until]:
            first = min(due, key=lambda each: each[0])
            self._due.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = until


class Beating:
    """Heartbeats, and what they said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.timers = Clocked(monkeypatch)
        self.said: list[messages.Heartbeat] = []
        self.lost = 0
        me = NodeId(NODE)
        self.beats = Heartbeats(
            NodeView(me, Resources(), Resources()),
            1,
            self.timers,  # type: ignore[arg-type]  # they are asked for nothing else
            say=lambda beat: self.said.append(messages.Heartbeat.FromString(beat.body)),
            lost=self._lost,
        )

    def _lost(self) -> None:
        self.lost += 1

    def put(self, amount: int) -> None:
        free = Resources.of_units({"CPU": amount})
        self.beats.put(NodeView(NodeId(NODE), Resources(), free))


def test_node_beats_as_often_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Beating(monkeypatch)
    assert [beat.view.changed[0].node_id for beat in node.said] == [NODE]
    node.timers.run(2.0)
    assert len(node.said) == 5
    node.beats.heard(messages.HeartbeatAnswer(heartbeat_s=0.1))
    node.timers.run(4.5)
    assert len(node.said) == 5 + 21
    assert not any(beat.HasField("view") for beat in node.said[1:])


def test_changes_are_told_together_and_each_time_but_once(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Beating(monkeypatch)
    node.timers.run(0.2)
    for amount in range(10):
        node.put(amount)
    node.timers.run(0.49)
    found = [beat.view.changed[0].free["CPU"] for beat in node.said[1:]]
    assert (found[-1], len(found)) == (9, 2)
    node.beats.put(WholeWanted())
    node.beats.put(DrainAnswer(agrees=True))
    node.beats.put(Leaving("it is empty"))
    whole, agrees, leaves = node.said[3:]
    assert (whole.view.base, len(whole.view.changed)) == (0, 1)
    assert (agrees.agrees_to_drain, leaves.empty) == (True, "it is empty")


def test_heartbeats_that_nobody_answers_end_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Beating(monkeypatch)
    node.timers.run(FIRST_S)
    assert node.lost == 0
    node.beats.heard(messages.HeartbeatAnswer())
    node.timers.run(FIRST_S + LOST_S)
    assert node.lost == 0
    node.timers.run(FIRST_S + LOST_S + 1.0)
    assert node.lost == 1
    said = len(node.said)
    node.put(1)
    node.timers.run(100.0)
    assert (len(node.said), node.lost) == (said, 1)


def test_heartbeats_that_were_ended_say_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Beating(monkeypatch)
    node.beats.end()
    node.put(1)
    node.timers.run(100.0)
    assert (len(node.said), node.lost) == (1, 0)
