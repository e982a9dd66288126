from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from weft._node.environments import Environments
from weft._node.output import Outputs
from weft._transport.sockets import Poller
from weft._transport.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

ENV = '{"working_dir": "."}'


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


def environments(poller: Poller, builder: Callable[[str], int]) -> Environments:
    outputs = Outputs(poller, Timers())
    return Environments(poller, outputs, "", builder=lambda env, _: builder(env))


def failing(words: bytes, code: int) -> Callable[[str], int]:
    def build(env: str) -> int:
        os.write(2, words)
        return code

    return build


def printing(text: str) -> Callable[[str], int]:
    def build(env: str) -> int:
        os.write(1, text.replace("LENGTH", str(len(env))).encode())
        return 0

    return build


def prepare(poller: Poller, made: Environments, times: int = 1) -> list[str]:
    reasons: list[str] = []
    for _ in range(times):
        made.prepare(ENV, reasons.append)
    while len(reasons) < times:
        poller.poll(10)
    return reasons


def test_built_environment_gives_what_its_builder_printed(poller: Poller) -> None:
    made = environments(poller, printing('{"PLACE": "LENGTH"}'))
    assert not made.is_ready(ENV)
    assert prepare(poller, made, times=3) == ["", "", ""]
    assert made.is_ready(ENV)
    assert made.variables(ENV) == {"PLACE": str(len(ENV))}
    assert made.pids() == []


@pytest.mark.parametrize(
    ("builder", "reason"),
    [
        (failing(b"pip said no\n", 1), "pip said no"),
        (failing(b"", 3), "its builder ended with code 3"),
        (printing("nonsense"), "its builder answered what cannot be read"),
    ],
)
def test_failed_build_gives_the_reason_and_is_tried_again(
    poller: Poller, builder: Callable[[str], int], reason: str
) -> None:
    made = environments(poller, builder)
    for _ in range(2):
        (said,) = prepare(poller, made)
        assert reason in said
        assert not made.is_ready(ENV)


def test_one_process_builds_for_all_who_wait(poller: Poller) -> None:
    made = environments(poller, failing(b"", 1))
    reasons: list[str] = []
    note: Callable[[str], None] = reasons.append
    made.prepare(ENV, note)
    made.prepare(ENV, note)
    assert len(made.pids()) == 1
    while len(reasons) < 2:
        poller.poll(10)
