"""`weft.why`: staged waits, and the reason that is given for each."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import weft

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    weft.init(num_cpus=2, resources={"gate": 1}, log_to_driver=False)
    yield
    weft.shutdown()


@weft.remote(num_cpus=0)
class Gate:
    """Calls of `wait` block until `open`."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def wait(self) -> None:
        self.opened.wait(60)

    def open(self) -> None:
        self.opened.set()


@weft.remote(num_cpus=0)
def run_until(gate: Any) -> str:
    weft.get(gate.wait.remote())
    return "ended"


@pytest.fixture
def gate() -> Iterator[Any]:
    handle = Gate.options(max_concurrency=16).remote()
    yield handle
    weft.get(handle.open.remote())


def why_says(subject: Any, *words: str) -> str:
    """Ask until the answer has all words: what is staged needs a moment to get there."""
    until = time.monotonic() + 20
    while True:
        answer = weft.why(subject)
        if all(word in answer for word in words):
            return answer
        assert time.monotonic() < until, answer


def test_a_ready_value_is_ready() -> None:
    assert "is ready" in weft.why(weft.put(1))


def test_a_failed_task_has_failed() -> None:
    @weft.remote
    def fail() -> None:
        raise ValueError

    ref = fail.remote()
    weft.wait([ref])
    assert "failed" in weft.why(ref)


def test_a_running_task_is_with_its_worker(gate: Any) -> None:
    @weft.remote(num_cpus=0)
    def spin() -> None:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            pass

    why_says(spin.remote(), "spin", "with worker", "has run for")


def test_a_task_that_waits_in_get_names_what_for(gate: Any) -> None:
    why_says(run_until.remote(gate), "run_until", "waits in get", "Gate.wait")


def test_a_task_waits_for_its_arguments(gate: Any) -> None:
    @weft.remote(num_cpus=0)
    def follow(value: str) -> str:
        return value

    why_says(follow.remote(run_until.remote(gate)), "follow waits for its arguments", "run_until")


def test_a_resource_that_is_taken_is_named_with_its_amount(gate: Any) -> None:
    first = run_until.options(resources={"gate": 1}).remote(gate)
    why_says(first, "waits in get")
    second = run_until.options(resources={"gate": 1}).remote(gate)
    why_says(second, "waits for a worker", "needs gate 1", "has 0 free")


def test_an_actor_that_waits_for_a_resource_says_so(gate: Any) -> None:
    first = run_until.options(resources={"gate": 1}).remote(gate)
    why_says(first, "waits in get")
    late = Gate.options(resources={"gate": 1}).remote()
    why_says(late, "needs gate 1")
    why_says(late.open.remote(), "waits for its actor", "needs gate 1")


def test_a_call_waits_behind_the_one_that_runs(gate: Any) -> None:
    @weft.remote(num_cpus=0)
    class Busy:
        def first(self, gate: Any) -> None:
            weft.get(gate.wait.remote())

        def second(self) -> None: ...

    busy = Busy.remote()
    first = busy.first.remote(gate)
    why_says(first, "waits in get")
    why_says(busy.second.remote(), "Busy.second", "waits behind Busy.first", "Gate.wait")


def test_a_call_waits_for_the_arguments_of_the_call_before_it(gate: Any) -> None:
    @weft.remote(num_cpus=0)
    class Ordered:
        def take(self, value: str) -> str:
            return value

    ordered = Ordered.remote()
    _late = ordered.take.remote(run_until.remote(gate))
    why_says(ordered.take.remote("now"), "waits for the call before it", "run_until")


def test_two_actors_that_wait_for_each_other_are_a_deadlock() -> None:
    @weft.remote(num_cpus=0)
    class Left:
        def call(self, other: Any, me: Any) -> None:
            weft.get(other.call.remote(me))

    @weft.remote(num_cpus=0)
    class Right:
        def call(self, other: Any) -> None:
            weft.get(other.call.remote(None, None))

    left, right = Left.remote(), Right.remote()
    ref = left.call.remote(right, left)
    answer = why_says(ref, "a deadlock of")
    assert "Left.call" in answer
    assert "Right.call" in answer
    weft.kill(left)
    weft.kill(right)


def test_a_dead_actor_says_how_it_died() -> None:
    @weft.remote
    class Mortal:
        def die(self) -> None:
            os._exit(9)

    mortal = Mortal.remote()
    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(mortal.die.remote())
    why_says(mortal, "dead", "exited with code 9")


def test_a_value_of_another_process_is_asked_for_there(gate: Any) -> None:
    @weft.remote(num_cpus=0)
    class Holder:
        def begin(self, gate: Any) -> list[Any]:
            return [run_until.remote(gate)]

    holder = Holder.remote()
    inner = weft.get(holder.begin.remote(gate))[0]
    why_says(inner, "run_until", "Gate.wait")


def test_the_answer_is_quick(gate: Any) -> None:
    ref = run_until.remote(gate)
    why_says(ref, "waits in get")
    took = []
    for _ in range(20):
        began = time.perf_counter()
        weft.why(ref)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.01


def test_a_get_without_progress_says_why_once() -> None:
    program = """
        import time, weft
        weft.init(num_cpus=1)
        @weft.remote
        def slow(): time.sleep(11.5)
        weft.get(slow.remote())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout == ""
    assert ended.stderr.count("still waiting after 10 s") == 1
    assert "slow" in ended.stderr
