"""Cancelling tasks in the middle of things that swallow exceptions."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


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
