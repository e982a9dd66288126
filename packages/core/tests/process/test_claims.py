"""What is stored is somebody's: what fails or interrupts in between leaves no segment behind."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import weft
from weft._engine import current
from weft._wire import codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    weft.init(num_cpus=1, log_to_driver=False, object_store_memory=64 * MIB)
    yield
    weft.shutdown()


def segments() -> list[dict[str, Any]]:
    engine: Any = current.engine
    return codec.unpack(engine.questions.ask("segments"), list[dict[str, Any]])


def until(condition: Callable[[], object]) -> None:
    """Wait for what the daemon hears soon."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, segments()
        time.sleep(0.01)


def until_nothing_is_stored() -> None:
    until(lambda: not segments())


def until_one_is_stored() -> str:
    """Return its name."""
    until(segments)
    (segment,) = segments()
    return str(segment["name"])


class Interrupting:
    """A method of the store, in whose middle Ctrl-C is pressed."""

    def __init__(self, engine: Any, name: str) -> None:
        self.engine = engine
        self.name = name
        self.real = getattr(engine.objects.store, name)
        setattr(engine.objects.store, name, self)

    def __call__(self, *args: Any, **options: Any) -> Any:
        setattr(self.engine.objects.store, self.name, self.real)
        result = self.real(*args, **options)
        # It is held back until the guard is left.
        self.engine.guard.interrupt(KeyboardInterrupt())
        return result


@weft.remote(num_returns=2)
def return_what_travels_and_what_does_not() -> tuple[Any, Any]:
    return np.zeros(MIB, np.uint8), (each for each in ())


@weft.remote(num_returns="streaming", max_retries=0)
def be_interrupted_between_storing_and_sending() -> Iterator[Any]:
    engine: Any = current.engine
    answers = engine.executor.answers
    real = answers.send_item

    def interrupted(job: Any, value: Any) -> None:
        answers.send_item = real
        raise KeyboardInterrupt

    answers.send_item = interrupted
    yield np.zeros(MIB, np.uint8)


@weft.remote(max_retries=0)
def be_interrupted_while_a_result_is_stored() -> Any:
    Interrupting(current.engine, "made")
    return np.zeros(MIB, np.uint8)


@weft.remote
class Silent:
    """Makes objects, of which the daemon hears no more from some time on."""

    def make(self) -> Any:
        return np.zeros(MIB, np.uint8)

    def fall_silent(self) -> int:
        engine: Any = current.engine
        engine.objects.send_news = lambda: None
        return os.getpid()

    def own(self) -> list[Any]:
        return [weft.put(np.ones(MIB, np.uint8))]

    def spare(self) -> int:
        engine: Any = current.engine
        return int(engine.objects.store._spare_bytes)


def test_segment_that_a_killed_process_had_filled_anew_is_freed_with_its_first_object() -> None:
    silent = Silent.remote()
    made = silent.make.remote()
    assert weft.get(made)[0] == 0
    until_one_is_stored()
    pid = weft.get(silent.fall_silent.remote())
    del made
    until(lambda: weft.get(silent.spare.remote()))
    (own,) = weft.get(silent.own.remote())
    assert weft.get(own)[0] == 1
    os.kill(pid, signal.SIGKILL)
    until_nothing_is_stored()
    del own


@pytest.mark.parametrize("step", ["try_reserve", "made"])
def test_put_that_is_interrupted_leaves_nothing(step: str) -> None:
    data = np.zeros(MIB, np.uint8)
    ref = weft.put(data)
    first = until_one_is_stored()
    del ref
    until_nothing_is_stored()
    Interrupting(current.engine, step)
    with pytest.raises(KeyboardInterrupt):
        weft.put(data)
    until_nothing_is_stored()
    # What was reserved is spare, not lost.
    ref = weft.put(data)
    assert until_one_is_stored() == first
    del ref


def test_results_that_were_stored_before_another_one_failed_are_freed() -> None:
    first, second = return_what_travels_and_what_does_not.remote()
    for ref in (first, second):
        with pytest.raises(weft.exceptions.PicklingError):
            weft.get(ref)
    until_nothing_is_stored()


def test_item_that_was_stored_and_not_sent_is_freed() -> None:
    items = be_interrupted_between_storing_and_sending.remote()
    with pytest.raises(weft.exceptions.TaskError):
        weft.get(next(items))
    until_nothing_is_stored()


def test_result_that_was_stored_when_its_task_was_interrupted_is_freed() -> None:
    with pytest.raises(weft.exceptions.TaskError):
        weft.get(be_interrupted_while_a_result_is_stored.remote())
    until_nothing_is_stored()
