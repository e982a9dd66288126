from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from weft import _clock
from weft._control.bells import Bells
from weft._control.calls.desk import Desk, RefusedError
from weft._control.calls.links import DELTAS, NodeLinks, ViewFollower
from weft._control.calls.members import Admission, MemberCalls
from weft._control.memory import Memory, MemoryJournal
from weft._control.service import Service
from weft._ids import NodeId
from weft._machines.ledger import Ledger
from weft._machines.members import HEARTBEAT_S
from weft._machines.membership import Membership
from weft._machines.placement import NodeView
from weft._node.heartbeats import Heartbeats
from weft._resources import Resources
from weft._transport.control import messages
from weft._transport.credentials import make_credentials

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NODE = b"n" * 16
ANSWER = messages.HeartbeatAnswer(ask_whole=True)


def test_what_is_for_a_node_goes_to_its_newest_stream() -> None:
    async def go() -> None:
        links = NodeLinks()
        links.send(NODE, 1, ANSWER)  # There is none: it is lost.
        old = links.open(NODE, 1)
        new = links.open(NODE, 1)
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


def test_node_beats_as_often_as_it_is_told() -> None:
    me = NodeId(NODE)
    beats = Heartbeats(me, 1, lost=lambda: None)
    beats.put(NodeView(me, Resources(), Resources()))
    said = iter(beats)
    next(said)
    beats.heard(messages.HeartbeatAnswer(heartbeat_s=0.001))
    began = _clock.monotonic()
    for _ in range(20):
        next(said)
    assert _clock.monotonic() - began < 10 * HEARTBEAT_S
