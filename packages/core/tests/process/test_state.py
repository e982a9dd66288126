"""The state of real sessions: what runs, waits, is kept and is gone."""

from __future__ import annotations

import _thread
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.util import state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weft import ClientContext

pytestmark = pytest.mark.slow


@pytest.fixture
def session() -> Iterator[ClientContext]:
    with weft.init(num_cpus=2) as context:
        yield context


@weft.remote(num_cpus=0)
class Door:
    """Opens once."""

    def __init__(self, path: str) -> None:
        self.path = path

    def wait(self) -> None:
        Path(self.path).read_text()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def opened(path: Path) -> None:
    path.write_text("x")


@weft.remote
def started(path: str, reached: str) -> str:
    """Say that it runs, then wait until somebody writes."""
    Path(reached).write_text("here")
    return Path(path).read_text()


@weft.remote
def after(value: Any) -> Any:
    return value


@weft.remote
def second(first: Any, second: Any) -> Any:
    return second


def states(**by: str) -> list[str]:
    return [task.state for task in state.list_tasks(filters=[(k, "=", v) for k, v in by.items()])]


def test_states_of_tasks_that_have_not_ended(
    session: ClientContext, tmp_path: Path, fifo: Path
) -> None:
    reached = tmp_path / "reached"
    os.mkfifo(reached)
    running = started.options(name="running", num_cpus=2).remote(str(fifo), str(reached))
    assert reached.read_text() == "here"
    queued = after.options(name="queued", num_cpus=1).remote(1)
    waiting = after.options(name="waiting", num_cpus=1).remote(running)
    assert states(name="running") == ["RUNNING"]
    assert states(name="queued") == ["PENDING_NODE_ASSIGNMENT"]
    assert states(name="waiting") == ["PENDING_ARGS_AVAIL"]
    (task,) = state.list_tasks(filters=[("name", "=", "running")])
    assert task.start_time_ms >= task.creation_time_ms
    assert task.end_time_ms is None
    (worker,) = [one for one in state.list_workers() if one.pid == task.worker_pid]
    assert (worker.state, worker.running, worker.is_alive) == ("leased", "started", True)
    opened(fifo)
    weft.get([running, queued, waiting])
    assert states(name="running") == states(name="waiting") == ["FINISHED"]


def test_task_that_waits_for_another_is_in_get(
    session: ClientContext, tmp_path: Path, fifo: Path
) -> None:
    reached = tmp_path / "reached"
    os.mkfifo(reached)

    @weft.remote
    def outer() -> str:
        return weft.get(started.options(name="inner").remote(str(fifo), str(reached)))

    ref = outer.options(name="outer").remote()
    reached.read_text()
    assert states(name="outer") == ["RUNNING_IN_GET"]
    (inner,) = state.list_tasks(filters=[("name", "=", "inner")])
    assert inner.parent_task_id == ref.task_id().hex()
    opened(fifo)
    weft.get(ref)


def test_worker_that_died_is_listed_with_how(session: ClientContext) -> None:
    @weft.remote(max_retries=0)
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(weft.exceptions.WorkerDiedError):
        weft.get(die.options(name="dying").remote())
    (worker,) = state.list_workers(filters=[("is_alive", "=", False)])
    assert "was killed by SIGKILL while it ran" in worker.exit_type
    assert state.get_worker(worker.worker_id) == worker
    (task,) = state.list_tasks(filters=[("name", "=", "dying")])
    assert (task.state, task.error_type) == ("FAILED", "WorkerDiedError")
    assert task.worker_pid == worker.pid


def test_records_of_a_worker_that_has_ended_are_kept(session: ClientContext) -> None:
    @weft.remote(max_calls=1)
    def outer() -> None:
        weft.get([after.options(name="kept").remote(number) for number in range(3)])

    weft.get(outer.remote())

    @weft.remote
    def nothing() -> None: ...

    while any(one.running.endswith("outer") or one.state == "ending" for one in living()):
        weft.get(nothing.remote())
    assert states(name="kept") == ["FINISHED"] * 3


def living() -> list[Any]:
    return state.list_workers(filters=[("is_alive", "=", True)])


def test_oldest_records_are_dropped_and_their_number_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEFT_TASK_EVENTS", "2500")
    with weft.init(num_cpus=2):
        for _ in range(4):
            weft.get([after.remote(number) for number in range(1000)])
        summary = state.summarize_tasks()
        assert summary.dropped == 2000
        assert summary.total_tasks == 2000


def test_objects_say_who_needs_them(session: ClientContext, fifo: Path) -> None:
    small = weft.put(1)
    large = weft.put(bytes(1_000_000))
    box = weft.put([small])
    found = {each.object_id: each for each in state.list_objects()}
    assert found[large.hex()].place == "memory"
    assert found[large.hex()].object_size >= 1_000_000
    assert "test_state.py:" in found[large.hex()].call_site
    assert found[large.hex()].reference_type == "LOCAL_REFERENCE"
    assert found[small.hex()].place == "heap"
    assert found[small.hex()].container_references == 1
    assert found[small.hex()].reference_type == "CAPTURED_IN_OBJECT"

    door = Door.remote(str(fifo))
    weft.get(after.remote(1))
    gate = door.wait.remote()
    boxed = second.remote(gate, [large])
    waits = after.remote(gate)
    held = {each.object_id: each for each in state.list_objects() if each.is_owner}
    assert held[gate.hex()].argument_references == 2
    assert held[gate.hex()].reference_type == "USED_BY_PENDING_TASK"
    assert held[gate.hex()].place == "pending"
    assert held[large.hex()].argument_references == 1
    opened(fifo)
    weft.get([boxed, waits])
    summary = state.summarize_objects()
    assert summary.total_size_mb >= 1.0
    (key, row) = next(iter(summary.summary.items()))
    assert "test_state.py:" in key
    assert row.total_size_mb >= 1.0
    assert row.task_state_counts == {"NIL": row.total_objects}
    del box


@weft.remote
def large_values() -> Iterator[bytes]:
    yield bytes(200_000)
    yield bytes(200_000)


@weft.remote
class Maker:
    def make(self) -> bytes:
        return bytes(200_000)

    def stream(self) -> Iterator[bytes]:
        yield bytes(200_000)


def line_of(text: str) -> str:
    """Return the place in this file that a comment marks."""
    lines = Path(__file__).read_text().splitlines()
    return f"{__file__}:{next(at for at, line in enumerate(lines, 1) if line.endswith(text))}"


def test_large_results_are_told_by_the_line_that_submitted_their_task(
    session: ClientContext,
) -> None:
    maker = Maker.remote()
    several = large_values.options(num_returns=2)
    dynamic = large_values.options(num_returns="dynamic")
    refs = {
        "one of several": several.remote()[1],  # one of several
        "dynamic": next(iter(weft.get(dynamic.remote()))),  # dynamic
        "streamed": next(large_values.remote()),  # streamed
        "called": maker.make.remote(),  # called
        "of a graph": after.bind(bytes(200_000)).execute(),  # of a graph
        "streamed by an actor": next(maker.stream.remote()),  # streamed by an actor
    }
    weft.wait(list(refs.values()), num_returns=len(refs))
    site_of = {each.object_id: each.call_site for each in state.list_objects()}
    assert {what: site_of[ref.hex()] for what, ref in refs.items()} == {
        what: line_of(f"# {what}") for what in refs
    }


def test_borrower_is_counted_by_the_owner(session: ClientContext) -> None:
    @weft.remote
    class Keeper:
        def keep(self, refs: list[Any]) -> None:
            self.refs = refs

    keeper = Keeper.remote()
    ref = weft.put(5)
    weft.get(keeper.keep.remote([ref]))
    owner, borrower = sorted(state.get_objects(ref.hex()), key=lambda each: not each.is_owner)
    assert (owner.borrowers, owner.type) == (1, "DRIVER")
    assert (borrower.is_owner, borrower.type, borrower.local_references) == (False, "WORKER", 1)


def test_process_that_does_not_answer_is_named(session: ClientContext) -> None:
    weft.get(after.remote(1))
    worker = next(one for one in living() if one.worker_type == "WORKER")
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        with pytest.raises(state.exception.DataSourceUnavailable, match=f"worker {worker.pid}"):
            state.list_tasks()
        assert state.list_tasks(raise_on_missing_output=False)
    finally:
        os.kill(worker.pid, signal.SIGCONT)


# ------------------------------------------------------------------ logs


@weft.remote(num_cpus=0)
class Talker:
    def say(self, text: str) -> None:
        print(text, flush=True)

    def say_and_end(self, text: str) -> None:
        print(text, end="", flush=True)
        os._exit(3)


def test_followed_log_ends_with_all_that_its_worker_wrote(session: ClientContext) -> None:
    talker = Talker.remote()
    weft.get(talker.say.remote("one"))
    written = state.get_log(actor_id=talker._actor_id.hex(), follow=True)
    assert next(written) == "one\n"
    weft.get(talker.say.remote("two"))
    assert next(written) == "two\n"
    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(talker.say_and_end.remote("three"))
    assert "".join(written) == "three"


def test_log_of_a_worker_that_has_ended_is_followed_to_its_end(session: ClientContext) -> None:
    talker = Talker.remote()
    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(talker.say_and_end.remote("last"))
    assert list(state.get_log(actor_id=talker._actor_id.hex(), follow=True)) == ["last"]


def test_log_can_be_had_without_colours(session: ClientContext) -> None:
    talker = Talker.remote()
    weft.get(talker.say.remote("\x1b[31mred\x1b[0m"))
    actor_id = talker._actor_id.hex()
    written = state.get_log(actor_id=actor_id, follow=True, filter_ansi_code=True)
    assert next(written) == "red\n"
    written.close()
    assert "".join(state.get_log(actor_id=actor_id)) == "\x1b[31mred\x1b[0m\n"


# ------------------------------------------------------------------ times and filters


def test_processes_say_when_they_began_and_ended(session: ClientContext) -> None:
    talker = Talker.remote()
    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(talker.say_and_end.remote("last"))
    (ended,) = state.list_workers(filters=[("is_alive", "=", False)])
    assert 0 < ended.start_time_ms < ended.end_time_ms
    (driver,) = state.list_workers(filters=[("worker_type", "=", "DRIVER")])
    assert 0 < driver.start_time_ms < ended.start_time_ms
    for worker in living():
        assert worker.start_time_ms > 0
        assert worker.end_time_ms is None
    later = state.list_workers(filters=[("start_time_ms", ">=", ended.start_time_ms)])
    assert driver not in later
    assert ended in later


def test_summaries_count_what_passes_the_filters(session: ClientContext) -> None:
    weft.get([after.options(name="few").remote(number) for number in range(3)])
    weft.get([after.options(name="many").remote(number) for number in range(5)])
    few = state.summarize_tasks(filters=[("name", "=", "few")])
    assert (few.total_tasks, few.summary["after"].state_counts) == (3, {"FINISHED": 3})
    assert state.summarize_tasks(filters=[("state", "=", "FAILED")]).total_tasks == 0
    doors = [Door.options(name=name).remote("nowhere") for name in ("front", "back")]
    for door in doors:
        weft.get(door.__ray_ready__.remote())
    front = state.summarize_actors(filters=[("name", "=", "front")])
    assert front.summary["Door"].state_counts == {"ALIVE": 1}
    large = weft.put(bytes(1_000_000))
    assert state.summarize_objects(filters=[("object_size", ">", 900_000)]).total_objects == 1
    options = state.common.SummaryApiOptions(filters=[("object_size", ">", 900_000)])
    found = state.StateApiClient().summary(state.common.SummaryResource.OBJECTS, options)
    assert found.node_id_to_summary["cluster"].total_objects == 1
    del large
    with pytest.raises(state.exception.StateApiException, match="has no 'colour'"):
        state.summarize_tasks(filters=[("colour", "=", "red")])


def test_tasks_are_told_by_the_line_that_submitted_them(session: ClientContext, fifo: Path) -> None:
    door = Door.remote(str(fifo))  # the creation
    waits = door.wait.remote()  # the call
    weft.get(after.remote(1))  # the task
    site_of = {task.func_or_class_name: task.call_site for task in state.list_tasks()}
    assert site_of == {
        "Door.__init__": line_of("# the creation"),
        "Door.wait": line_of("# the call"),
        "after": line_of("# the task"),
    }
    opened(fifo)
    weft.get(waits)


def test_task_that_is_submitted_from_c_code_is_of_no_line(
    session: ClientContext, tmp_path: Path, fifo: Path
) -> None:
    reached = tmp_path / "reached"
    os.mkfifo(reached)
    # Nothing of Python's calls it.
    _thread.start_new_thread(started.remote, (str(fifo), str(reached)))
    assert reached.read_text() == "here"
    (task,) = state.list_tasks()
    assert task.call_site is None
    opened(fifo)
