"""What the classes of the suite share: a session of the engine under test, and what it lacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import pytest

import weft

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

CAPABILITIES: Mapping[str, str] = {
    "processes": "tasks and actors run in processes of their own, which can die",
    "concurrency": "a task runs while the one that submitted it goes on",
    "timeouts": "the option `timeout` ends a task",
    "environments": "tasks have environment variables of their own",
    "one_node": "no node can come, so what this one can never hold is refused at once",
}
"""What a test may need beyond what every engine has."""

LIMIT_S = 30
"""How long a test waits for what has to come; never used up where all is well."""


def needs(*capabilities: str) -> Callable[[FunctionT], FunctionT]:
    """Mark a test: it is skipped on engines that lack one of these."""

    def mark(function: FunctionT) -> FunctionT:
        function.__dict__["weft_needs"] = capabilities
        return function

    return mark


class EngineSemantics:
    """One session of an engine for all tests of a class."""

    engine: ClassVar[str] = "local"
    options: ClassVar[Mapping[str, Any]] = {"num_cpus": 4}
    """More keywords for `weft.init`."""
    lacks: ClassVar[Mapping[str, str]] = {}
    """Which of CAPABILITIES the engine lacks, and why."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def weft_session(cls) -> Iterator[None]:
        """Start the engine, and end it after the class's tests."""
        weft.init(engine=cls.engine, **cls.options)
        yield
        weft.shutdown()

    @pytest.fixture(autouse=True)
    def weft_skips(self, request: pytest.FixtureRequest) -> None:
        """Skip a test that needs what the engine lacks."""
        for capability in getattr(request.function, "weft_needs", ()):
            if capability in self.lacks:
                pytest.skip(f"{self.engine} lacks {capability}: {self.lacks[capability]}")


@weft.remote
class Signal:
    """An async actor for tests to wait for, and to tell.

    `signal.wait.remote()` is pending until `send`.
    """

    def __init__(self) -> None:
        """Begin unsent."""
        self._event = asyncio.Event()

    @weft.method
    async def wait(self) -> str:
        """Return once it is sent."""
        await self._event.wait()
        return "sent"

    @weft.method
    async def send(self) -> None:
        """Let those who wait go on, now and later."""
        self._event.set()
