"""Sessions with little memory: jobs that need more than there is, and what is said and done."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from prometheus_client import parser

import weft
from weft.util.metrics import export
from weft.util.state import list_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

MB = 1 << 20
STEP = 5 * MB


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Begin a session whose node has so many MB."""

    def begin(megabytes: int, **options: Any) -> None:
        monkeypatch.setenv("WEFT_MEMORY_LIMIT", str(megabytes * MB))
        monkeypatch.setenv("WEFT_CHECK", "1")
        weft.init(log_to_driver=False, **options)

    yield begin
    weft.shutdown()


class Told(NamedTuple):
    """What the metrics tell of memory."""

    limits: set[str]
    paused: float
    put_back: float
    ended: float
    asked_bytes: dict[str, float]
    """By function."""


def memory() -> Told:
    samples = [
        sample
        for family in parser.text_string_to_metric_families(export())
        for sample in family.samples
    ]
    steps = {s.labels["step"]: s.value for s in samples if s.name == "weft_governor_steps_total"}
    return Told(
        {s.labels["limit"] for s in samples if s.name == "weft_memory_used_bytes"},
        steps["paused"],
        steps["put back"],
        steps["ended"],
        {s.labels["function"]: s.value for s in samples if s.name == "weft_function_memory_bytes"},
    )


def wait_until(condition: Callable[[], Any], what: str) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, f"{what}; {memory()}"
        time.sleep(0.01)


def fill(megabytes: int, kept: list[bytearray]) -> None:
    """Take memory as fast as a task that computes what it fills it with."""
    while len(kept) * STEP < megabytes * MB:
        kept.append(bytearray(STEP))
        time.sleep(0.005)


@weft.remote
def work(index: int, megabytes: int, log: str) -> int:
    with Path(log).open("a") as file:
        file.write(f"{index}\n")
    kept: list[bytearray] = []
    fill(megabytes, kept)
    time.sleep(0.2)
    return sum(map(len, kept)) // MB + index


@weft.remote(max_retries=0)
def hold(megabytes: int, folder: str, name: str) -> str:
    """Take so much, then wait for a file, and for another to take a little more."""
    kept: list[bytearray] = []
    fill(megabytes, kept)
    Path(folder, f"{name} is full").touch()
    while not Path(folder, f"{name} may go").exists():
        if Path(folder, f"{name} may grow").exists():
            fill(megabytes + 60, kept)
        time.sleep(0.01)
    return name


@weft.remote
def small(index: int) -> int:
    return index


# ------------------------------------------------------------------ jobs


def test_a_job_that_needs_three_times_the_memory_ends_with_the_right_results(
    limit: Callable[..., None], tmp_path: Path
) -> None:
    limit(400, num_cpus=8)
    log = tmp_path / "log"
    expected = [150 + index for index in range(8)]
    assert weft.get([work.remote(i, 150, str(log)) for i in range(8)], timeout=60) == expected
    first = memory()
    assert {"WEFT_MEMORY_LIMIT", "this machine"} <= first.limits
    assert first.paused > 0
    assert first.ended == 0
    # With what the worker itself took, where the task was its first.
    assert 140 < first.asked_bytes["work"] / MB < 200
    # One that is put back may have had no time to write.
    assert 8 <= len(log.read_text().split()) <= 8 + first.put_back
    # What was learned serves the next round: no more start than fit.
    assert weft.get([work.remote(i, 150, str(log)) for i in range(8)], timeout=60) == expected
    second = memory()
    assert (second.paused, second.put_back) == (first.paused, first.put_back)


def test_small_tasks_run_at_full_width_beside_large_ones(
    limit: Callable[..., None], tmp_path: Path
) -> None:
    limit(400, num_cpus=4)
    log = str(tmp_path / "log")
    weft.get([work.remote(i, 150, log) for i in range(4)], timeout=60)
    held = [hold.remote(5, str(tmp_path), "small") for _ in range(2)]
    large = [work.remote(i, 150, log) for i in range(4)]
    assert weft.get([small.remote(i) for i in range(100)], timeout=60) == list(range(100))
    (tmp_path / "small may go").touch()
    assert weft.get(held, timeout=60) == ["small"] * 2
    assert weft.get(large, timeout=60) == [150 + index for index in range(4)]


def test_tasks_that_wait_for_tasks_end_although_memory_is_short(
    limit: Callable[..., None], tmp_path: Path
) -> None:
    limit(600, num_cpus=4)
    log = str(tmp_path / "log")

    @weft.remote
    def parent(index: int) -> int:
        kept: list[bytearray] = []
        fill(60, kept)
        return int(weft.get(work.remote(index, 120, log)))

    for _ in range(2):
        found = weft.get([parent.remote(index) for index in range(4)], timeout=60)
        assert found == [120 + index for index in range(4)]
    assert memory().ended == 0


def test_actors_are_not_paused_and_answer_while_tasks_take_all_memory(
    limit: Callable[..., None], tmp_path: Path
) -> None:
    limit(500, num_cpus=6)

    @weft.remote
    class Holder:
        def __init__(self) -> None:
            self.kept: list[bytearray] = []
            fill(200, self.kept)

        def held(self) -> int:
            return sum(map(len, self.kept)) // MB

    holder = Holder.remote()
    assert weft.get(holder.held.remote(), timeout=20) == 200
    log = str(tmp_path / "log")
    tasks = [work.remote(i, 120, log) for i in range(8)]
    left = tasks
    while left:
        _, left = weft.wait(left, num_returns=1, timeout=0.05)
        assert weft.get(holder.held.remote(), timeout=20) == 200
    assert weft.get(tasks) == [120 + index for index in range(8)]
    assert memory().ended == 0


def test_objects_go_to_disk_when_a_task_needs_their_memory(
    limit: Callable[..., None], tmp_path: Path
) -> None:
    limit(600, num_cpus=2, object_store_memory=400 * MB)
    refs = [weft.put(bytes([index]) * (30 * MB)) for index in range(10)]
    assert weft.get(work.remote(0, 400, str(tmp_path / "log")), timeout=60) == 400
    assert memory().ended == 0
    for index, ref in enumerate(refs):
        value: bytes = weft.get(ref, timeout=20)
        assert (len(value), value[0]) == (30 * MB, index)
        del value


# ------------------------------------------------------------------ what is too large


def test_a_task_that_alone_takes_more_than_there_is_fails_with_the_numbers_and_once(
    limit: Callable[..., None], tmp_path: Path
) -> None:
    limit(300, num_cpus=2)
    log = tmp_path / "log"
    with pytest.raises(weft.exceptions.OutOfMemoryError) as caught:
        weft.get(work.remote(0, 1000, str(log)), timeout=60)
    error = caught.value
    assert error.function == "work"
    assert error.limit_bytes == 300 * MB
    assert error.peak_bytes > 250 * MB
    assert error.attempts == 1
    assert "memory ran out: it held" in str(error)
    assert "(WEFT_MEMORY_LIMIT)" in str(error)
    assert "let it do less at a time, or give it more memory" in str(error)
    assert log.read_text().split() == ["0"]
    assert memory().ended == 1
    assert weft.get(small.remote(3), timeout=20) == 3


def test_a_task_that_does_not_fit_beside_the_one_that_waits_for_it_fails(
    limit: Callable[..., None], tmp_path: Path
) -> None:
    limit(400, num_cpus=2)
    log = tmp_path / "log"

    @weft.remote(max_retries=0)
    def parent() -> int:
        kept: list[bytearray] = []
        fill(150, kept)
        return int(weft.get(work.options(max_retries=1).remote(0, 1000, str(log))))

    with pytest.raises(weft.exceptions.OutOfMemoryError, match="run fewer at once"):
        weft.get(parent.remote(), timeout=60)
    assert log.read_text().split() == ["0", "0"]


def test_an_actor_that_takes_more_than_there_is_dies_of_it(limit: Callable[..., None]) -> None:
    limit(300, num_cpus=2)

    @weft.remote
    class Glutton:
        def eat(self) -> None:
            self.kept: list[bytearray] = []
            fill(1000, self.kept)

    with pytest.raises(
        weft.exceptions.ActorDiedError, match=r"ended while it ran Glutton\.eat: memory"
    ):
        weft.get(Glutton.remote().eat.remote(), timeout=60)


# ------------------------------------------------------------------ paused tasks


@pytest.fixture
def paused(limit: Callable[..., None], tmp_path: Path) -> tuple[Any, Any]:
    """A task that holds much, and one that is paused because it takes the rest."""
    limit(800, num_cpus=3)
    old = hold.remote(480, str(tmp_path), "old")
    wait_until((tmp_path / "old is full").exists, "the first has no memory")
    young = hold.remote(260, str(tmp_path), "young")
    wait_until(lambda: "is paused" in weft.why(young), "the second is not paused")
    return old, young


def test_why_says_that_a_task_is_paused_and_what_others_wait_for(paused: tuple[Any, Any]) -> None:
    old, young = paused
    reason = weft.why(young)
    assert reason.startswith("hold is paused in worker")
    assert "memory is short" in reason
    assert "of 800.0 MiB in use (WEFT_MEMORY_LIMIT)" in reason
    assert "has run for" in weft.why(old)
    states = {worker.state for worker in list_workers() if worker.running}
    assert states == {"leased", "paused"}
    waiting = small.remote(1)
    wait_until(lambda: "not more than 1 tasks at once" in weft.why(waiting), "it does not wait")


def test_a_paused_task_goes_on_when_there_is_room(paused: tuple[Any, Any], tmp_path: Path) -> None:
    old, young = paused
    (tmp_path / "young may go").touch()
    ready, _ = weft.wait([young], timeout=0.3)
    assert ready == []
    (tmp_path / "old may go").touch()
    assert weft.get([old, young], timeout=30) == ["old", "young"]
    assert memory().put_back == 0


def test_a_paused_task_is_put_back_when_another_needs_its_room_and_why_says_so(
    limit: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capsules = tmp_path / "capsules"
    capsules.mkdir()
    monkeypatch.setenv("WEFT_CAPSULES", str(capsules))
    limit(800, num_cpus=3)
    old = hold.remote(480, str(tmp_path), "old")
    wait_until((tmp_path / "old is full").exists, "the first has no memory")
    young = hold.options(max_retries=1).remote(260, str(tmp_path), "young")
    wait_until(lambda: "is paused" in weft.why(young), "the second is not paused")
    (tmp_path / "old may grow").touch()
    wait_until(lambda: "waits for a worker" in weft.why(young), "the second was not put back")
    assert "it was ended to make room in memory (1x)" in weft.why(young)
    (tmp_path / "old may go").touch()
    (tmp_path / "young may go").touch()
    assert weft.get([old, young], timeout=30) == ["old", "young"]
    assert memory().put_back == 1
    # That it was put back is no failure.
    assert list(capsules.iterdir()) == []


def test_a_paused_task_can_be_cancelled(paused: tuple[Any, Any], tmp_path: Path) -> None:
    old, young = paused
    weft.cancel(young)
    with pytest.raises(weft.exceptions.TaskCancelledError):
        weft.get(young, timeout=20)
    (tmp_path / "old may go").touch()
    assert weft.get(old, timeout=20) == "old"


def test_a_session_with_paused_tasks_ends_at_once(paused: tuple[Any, Any]) -> None:
    began = time.monotonic()
    weft.shutdown()
    assert time.monotonic() - began < 2


KILLED = """
    import os, time, weft
    weft.init(num_cpus=2)

    @weft.remote(max_retries=0)
    def hold(megabytes):
        kept = [bytearray(5 << 20) for _ in range(megabytes // 5)]
        time.sleep(60)

    old = hold.remote(480)
    while "has run" not in weft.why(old):
        pass
    young = hold.remote(260)
    while "is paused" not in (why := weft.why(young)):
        pass
    print(weft.why(old).split("worker ")[1].split()[0], why.split("worker ")[1].split(":")[0])
    print("paused", flush=True)
    time.sleep(60)
"""


def test_stopped_workers_end_with_a_driver_that_is_killed(
    gone: Callable[[list[int], float], list[int]],
) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "WEFT_MEMORY_LIMIT": str(800 * MB)},
    )
    assert driver.stdout is not None
    pids = [int(word) for word in driver.stdout.readline().split()]
    assert driver.stdout.readline() == "paused\n"
    driver.kill()
    driver.wait()
    driver.stdout.close()
    assert len(pids) == 2
    assert gone(pids, 5) == []


def test_a_worker_that_others_have_objects_of_says_so(limit: Callable[..., None]) -> None:
    limit(800, num_cpus=1)

    @weft.remote
    def make() -> list[Any]:
        return [weft.put(1)]

    def is_lender() -> bool:
        folder = Path(weft.get_runtime_context().get_temp_dir())
        return any(page.read_bytes()[-1] == 1 for page in folder.glob("*.page"))

    assert not is_lender()
    refs = weft.get(make.remote(), timeout=20)
    wait_until(is_lender, "nobody says that it lends")
    del refs
    # Its reference is returned with the next message.
    wait_until(
        lambda: weft.get(small.remote(1), timeout=20) and not is_lender(), "somebody still lends"
    )


def test_workers_that_run_nothing_say_so_and_no_samples_are_taken(
    limit: Callable[..., None],
) -> None:
    limit(800, num_cpus=2)

    @weft.remote
    class Concurrent:
        async def answer(self) -> int:
            return 1

    @weft.remote(max_concurrency=3)
    class Threaded:
        def answer(self) -> int:
            return 1

    actors = [Concurrent.remote(), Threaded.remote()]
    assert weft.get([actor.answer.remote() for actor in actors], timeout=20) == [1, 1]
    assert weft.get(small.remote(1), timeout=20) == 1
    folder = Path(weft.get_runtime_context().get_temp_dir())
    pages = list(folder.glob("*.page"))
    assert pages

    def all_are_asked() -> bool:
        """The daemon asks to be told of the next task, for it looks no more."""
        return all((data := page.read_bytes())[-2] and not any(data[20:22]) for page in pages)

    wait_until(all_are_asked, "somebody seems to run")


# ------------------------------------------------------------------ what the user is told

PROGRAM = """
    import time, weft
    weft.init(num_cpus=8)

    @weft.remote
    def work(index):
        kept = []
        for _ in range(30):
            kept.append(bytearray(5 << 20))
            time.sleep(0.005)
        time.sleep(0.2)
        return index

    assert weft.get([work.remote(index) for index in range(10)]) == list(range(10))
    print("done")
    weft.shutdown()
"""


def test_each_step_is_told_in_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env={**os.environ, "WEFT_MEMORY_LIMIT": str(400 * MB)},
    )
    assert ended.stdout == "done\n"
    lines = ended.stderr.splitlines()
    assert all(line.startswith("weft: memory is ") for line in lines), ended.stderr
    assert sum("is paused" in line for line in lines) == 1
    for what in ("is ended, and its task runs again later", "no more tasks start", "no longer"):
        assert sum(what in line for line in lines) <= 1
    first = next(line for line in lines if "is paused" in line)
    assert "of 400.0 MiB in use (WEFT_MEMORY_LIMIT): work (process " in first
