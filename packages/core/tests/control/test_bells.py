from __future__ import annotations

import asyncio

import pytest

from weft._control import bells as rules
from weft._control.bells import Bells


def test_follower_is_woken_once_for_all_that_has_changed() -> None:
    async def go() -> None:
        bells = Bells()
        with bells.listen() as listener, bells.listen() as other:
            listener.follow(["a", "b"])
            other.follow(["b"])
            assert await listener.wait_rung() == ["a", "b"]
            assert await other.wait_rung() == ["b"]
            for key in ("b", "a", "b", "c"):
                bells.ring(key)
            assert await listener.wait_rung() == ["b", "a"]
            assert await other.wait_rung() == ["b"]
            waiting = asyncio.create_task(listener.wait_rung())
            await asyncio.sleep(0)
            assert not waiting.done()
            bells.ring("a")
            assert await waiting == ["a"]

    asyncio.run(go())


def test_what_is_left_rings_no_more_and_who_is_closed_is_forgotten() -> None:
    async def go() -> None:
        bells = Bells()
        with bells.listen() as listener:
            listener.follow(["a", "b"])
            listener.leave(["b", "never followed"])
            bells.ring("b")
            assert await listener.wait_rung() == ["a"]
        assert bells._listeners_of == {}

    asyncio.run(go())


def test_one_follower_follows_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "KEYS", 2)
    with Bells().listen() as listener:
        listener.follow("ab")
        with pytest.raises(ValueError, match="open another"):
            listener.follow("c")
