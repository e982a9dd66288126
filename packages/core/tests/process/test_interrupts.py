"""Interrupts at places where they are inconvenient."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft import _runtime as runtime
from weft._clock import monotonic
from weft._engine import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from weft._runtime.loop import Guard

pytestmark = pytest.mark.slow

RUNTIME = str(Path(runtime.__file__).parent)
LIMIT_S = 20.0


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    weft.init(num_cpus=1, log_to_driver=False)
    yield
    weft.shutdown()


class Endless:
    """Its destructor says that it has begun, and does not end by itself."""

    def __init__(self, pipe: str) -> None:
        self.pipe = pipe

    def __del__(self) -> None:
        with open(self.pipe, "wb"):  # noqa: PTH123 - in a destructor, as little as can be
            threading.Event().wait()


@weft.remote(max_retries=0)
def drop_and_wait(pipe: str) -> None:
    Endless(pipe)
    threading.Event().wait()


@weft.remote(max_retries=0)
def miss_an_interrupt(pipe: str) -> None:
    take = signal.getsignal(signal.SIGINT)

    def miss(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, take)

    signal.signal(signal.SIGINT, miss)
    with open(pipe, "wb"):  # noqa: PTH123 - as above
        threading.Event().wait()


def test_cancel_whose_signal_comes_to_nothing_is_tried_again(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ref = miss_an_interrupt.remote(str(pipe))
    with pipe.open("rb"):
        weft.cancel(ref)
        with pytest.raises(weft.exceptions.TaskCancelledError):
            weft.get(ref, timeout=20)


def test_cancel_in_the_middle_of_a_destructor_ends_the_task(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ref = drop_and_wait.remote(str(pipe))
    with pipe.open("rb"):
        weft.cancel(ref)
        with pytest.raises(weft.exceptions.TaskCancelledError):
            weft.get(ref, timeout=20)


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    end = monotonic() + LIMIT_S
    while not condition():
        assert monotonic() < end, "it did not come about"
        threading.Event().wait(0.01)


class InterruptAt:
    """Interrupts the main thread at the n-th place of the runtime where a handler may run."""

    def __init__(self, guard: Guard, place: int) -> None:
        self.guard = guard
        self.left = place

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(RUNTIME):
            self.left -= 1
            if self.left == 0:
                self.guard.interrupt(KeyboardInterrupt())


@weft.remote
def length(data: bytes) -> int:
    return len(data)


@weft.remote
class Scale:
    def length(self, data: bytes) -> int:
        return len(data)


class Keeper:
    def __init__(self, data: bytes) -> None:
        self.data = data


def segments_in_use() -> int:
    engine: Any = current.engine
    with engine.loop.guard:
        engine.objects.drain()
        return len(engine.objects.store._mine)


@pytest.mark.parametrize("what", ["put", "task", "call", "creation"])
def test_interrupt_at_any_place_of_a_call_leaves_none_of_its_large_arguments(what: str) -> None:
    data = bytes(1024 * 1024)
    scale = Scale.remote()
    submit = {
        "put": weft.put,
        "task": length.remote,
        "call": scale.length.remote,
        "creation": weft.remote(Keeper).remote,
    }[what]
    # What is done once.
    first = submit(data)
    del first
    engine: Any = current.engine
    place = 0
    while True:
        place += 1
        interrupt = InterruptAt(engine.loop.guard, place)
        try:
            sys.setprofile(interrupt)
            made = submit(data)
            sys.setprofile(None)
            del made
        except KeyboardInterrupt:
            sys.setprofile(None)
        if interrupt.left > 0:
            break
    assert place > 30
    until(lambda: segments_in_use() == 0)
