from __future__ import annotations

import asyncio

import pytest

from weft._control.calls.desk import RefusedError
from weft._control.calls.links import DELTAS, NodeLinks, ViewFollower
from weft._transport.control import messages

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
