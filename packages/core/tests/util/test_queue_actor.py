"""The actor behind a queue, alone on a loop. No engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from weft.util._queue_actor import QueueActor

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def begun(waiting: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start something, and return when it waits."""
    task = asyncio.create_task(waiting)
    await asyncio.sleep(0)
    return task


def test_who_waits_is_served_in_the_order_of_asking() -> None:
    async def program() -> None:
        actor = QueueActor(1)
        consumers = [await begun(actor.get(None)) for _ in range(3)]
        producers = [await begun(actor.put(number, None)) for number in range(5)]
        assert await asyncio.gather(*consumers) == [(True, 0), (True, 1), (True, 2)]
        assert not producers[4].done()
        assert actor.get_nowait() == (True, 3)
        assert await asyncio.gather(*producers) == [True] * 5
        assert actor.get_nowait_batch(1) == [4]

    asyncio.run(program())


def test_nothing_is_left_of_who_gave_up() -> None:
    async def program() -> None:
        actor = QueueActor(1)
        assert await actor.get(0.0) == (False, None)
        cancelled = await begun(actor.get(None))
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert not actor._consumers
        assert actor.put_nowait("first")
        assert not await actor.put("second", 0.0)
        cancelled = await begun(actor.put("third", None))
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert not actor._producers
        assert actor.get_nowait() == (True, "first")
        assert actor.get_nowait() == (False, None)

    asyncio.run(program())


def test_item_on_its_way_to_who_gave_up_goes_to_the_next() -> None:
    async def program() -> None:
        actor = QueueActor(0)
        first = await begun(actor.get(None))
        second = await begun(actor.get(None))
        actor.put_nowait("item")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == (True, "item")

    asyncio.run(program())


def test_item_that_comes_back_goes_first() -> None:
    actor = QueueActor(2)
    actor.put_nowait_batch(["first", "second"])
    _, item = actor.get_nowait()
    actor.put_nowait("third")
    actor.put_back(item)
    assert actor.get_nowait_batch(3) == ["first", "second", "third"]
