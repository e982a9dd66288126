"""Sessions of both engines for the tests of `weft.util`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=["inline", pytest.param("local", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """A session of either engine, for all tests of a module; its name."""
    name: str = request.param
    with weft.init(engine=name, num_cpus=2):
        yield name


@pytest.fixture
def gate(engine: str) -> Iterator[Any]:
    """An actor whose method `wait` returns once `arrive` was called three times, or `open` once."""

    @weft.remote
    class Gate:
        def __init__(self) -> None:
            self.arrived = 0
            self.opened = asyncio.Event()

        async def wait(self) -> str:
            await self.opened.wait()
            return "waited"

        def arrive(self) -> None:
            self.arrived += 1
            if self.arrived == 3:
                self.opened.set()

        def open(self) -> None:
            self.opened.set()

    handle = Gate.remote()
    yield handle
    weft.kill(handle)
