"""Lists, filters and numbers of a session, on both engines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.util import state
from weft.util.state.common import (
    GetApiOptions,
    ListApiOptions,
    StateResource,
    SummaryApiOptions,
    SummaryResource,
)
from weft.util.state.exception import ServerUnavailable, StateApiException

if TYPE_CHECKING:
    from collections.abc import Callable

local_only = pytest.mark.parametrize("engine", ["local"], indirect=True)


def named(name: str, **more: Any) -> list[Any]:
    filters = [("name", "=", name), *more.pop("filters", [])]
    return state.list_tasks(filters=filters, **more)


@weft.remote
def add(a: int, b: int) -> int:
    return a + b


@weft.remote
def fail(words: str) -> None:
    raise LookupError(words)


@weft.remote
def parent(name: str) -> int:
    return weft.get(add.options(name=name).remote(1, 2))


@weft.remote
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def count(self) -> int:
        self.value += 1
        return self.value


# ------------------------------------------------------------------ tasks


def test_task_that_has_ended_is_listed_with_its_times(engine: str) -> None:
    before = time.time() * 1000
    ref = add.options(name="ended").remote(1, 2)
    weft.get(ref)
    (task,) = named("ended")
    assert task.task_id == ref.task_id().hex()
    assert (task.state, task.type, task.func_or_class_name) == ("FINISHED", "NORMAL_TASK", "add")
    assert (task.error_type, task.actor_id, task.attempt_number) == (None, None, 0)
    assert before - 1 <= task.creation_time_ms <= task.start_time_ms <= task.end_time_ms
    assert task.end_time_ms <= time.time() * 1000 + 1
    assert task.required_resources == {"CPU": 1.0}
    assert task.worker_pid
    assert task["name"] == task.asdict()["name"] == "ended"


def test_failed_task_is_listed_with_its_error(engine: str) -> None:
    with pytest.raises(LookupError):
        weft.get(fail.options(name="failing").remote("no such thing"))
    (task,) = named("failing")
    assert task.state == "FAILED"
    assert (task.error_type, task.error_message) == ("LookupError", "no such thing")
    assert named("failing", filters=[("error_type", "=", "LookupError")]) == [task]
    assert named("failing", filters=[("state", "=", "finished")]) == []
    assert named("failing", filters=[("state", "=", "failed")]) == [task]


def test_task_names_the_task_that_submitted_it(engine: str) -> None:
    ref = parent.options(name="above").remote("below")
    weft.get(ref)
    (task,) = named("below")
    assert task.parent_task_id == ref.task_id().hex()
    (above,) = named("above")
    assert above.parent_task_id is None


def test_task_that_is_tried_again_is_one_record_with_its_last_attempt(engine: str) -> None:
    counter = Counter.remote()

    @weft.remote(max_retries=5, retry_exceptions=True)
    def third_time() -> int:
        tries = weft.get(counter.count.remote())
        if tries < 3:
            raise ValueError(tries)
        return tries

    assert weft.get(third_time.options(name="again").remote()) == 3
    (task,) = named("again")
    assert (task.state, task.attempt_number, task.error_type) == ("FINISHED", 2, None)


def test_actor_its_creation_and_its_calls_are_listed(engine: str) -> None:
    counter = Counter.options(name="listed", namespace="here").remote()
    weft.get(counter.count.remote())
    (actor,) = state.list_actors(filters=[("name", "=", "listed")])
    assert (actor.class_name, actor.state, actor.namespace) == ("Counter", "ALIVE", "here")
    assert actor.pid
    assert state.get_actor(actor.actor_id) == actor
    kinds = {
        task.type: task for task in state.list_tasks(filters=[("actor_id", "=", actor.actor_id)])
    }
    assert kinds["ACTOR_TASK"].func_or_class_name == "Counter.count"
    assert kinds["ACTOR_TASK"].state == "FINISHED"
    assert kinds["ACTOR_CREATION_TASK"].state == "FINISHED"
    weft.kill(counter)
    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(counter.count.remote())
    (dead,) = state.list_actors(filters=[("actor_id", "=", actor.actor_id)])
    assert (dead.state, dead.pid) == ("DEAD", None)
    assert dead.death_cause


def test_constructor_that_fails_is_a_failed_creation(engine: str) -> None:
    @weft.remote
    class Broken:
        def __init__(self) -> None:
            raise LookupError("no parts")

        def work(self) -> None: ...

    with pytest.raises(weft.exceptions.ActorDiedError):
        weft.get(Broken.remote().work.remote())
    (task,) = state.list_tasks(filters=[("func_or_class_name", "=", "Broken.__init__")])
    assert (task.state, task.error_type, task.error_message) == (
        "FAILED",
        "LookupError",
        "no parts",
    )


def test_newest_tasks_come_first_and_the_limit_holds(engine: str) -> None:
    for number in range(5):
        weft.get(add.options(name=f"ordered {number}").remote(1, 1))
    found = state.list_tasks(filters=[("name", "in", [f"ordered {n}" for n in range(5)])], limit=3)
    assert [task.name for task in found] == ["ordered 4", "ordered 3", "ordered 2"]


@pytest.mark.parametrize(
    ("operator", "value", "found"),
    [
        ("=", 0, True),
        ("=", "0", True),
        ("!=", 0, False),
        ("<", 1, True),
        ("<=", 0, True),
        (">", 0, False),
        (">=", 0, True),
        ("in", [0, 1], True),
        ("in", "0,1", True),
        ("in", [1], False),
        ("=", None, False),
        ("!=", None, True),
        ("<", None, False),
    ],
)
def test_filter_compares(engine: str, operator: str, value: Any, found: bool) -> None:
    weft.get(add.options(name="compared").remote(1, 1))
    assert bool(named("compared", filters=[("attempt_number", operator, value)])) is found


def test_filter_by_what_is_not_known(engine: str) -> None:
    weft.get(add.options(name="fine").remote(1, 1))
    assert named("fine", filters=[("error_type", "=", None)])
    assert not named("fine", filters=[("error_type", "!=", None)])
    assert named("fine", filters=[("error_type", "!=", "ValueError")])
    assert not named("fine", filters=[("error_type", ">", "A")])


def test_filter_by_time_and_id(engine: str) -> None:
    weft.get(add.options(name="timed").remote(1, 1))
    (task, *_) = named("timed")
    assert named("timed", filters=[("end_time_ms", ">=", task.end_time_ms)])
    assert not named("timed", filters=[("creation_time_ms", ">", time.time() * 1000 + 60_000)])
    assert named("timed", filters=[("task_id", "=", task.task_id)]) == [task]
    assert state.get_task(task.task_id) == task
    assert state.get_task("00" * 16) is None
    assert state.get_task("not an id") is None
    assert state.get_task(task.task_id[:2]) is state.get_task("") is None


def test_filter_that_cannot_be_understood_is_refused_with_what_there_is(engine: str) -> None:
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: state.list_tasks(filters=[("nmae", "=", "x")]), "TaskState has no 'nmae'; it has"),
        (lambda: state.list_tasks(filters=[("name", "~", "x")]), "there are = != < <= > >= in"),
        (lambda: state.list_tasks(filters=[("name", "=")]), "a filter is"),  # type: ignore[list-item]  # on purpose
        (lambda: state.list_tasks(limit=0), "limit is a number from 1 to 10,000, not 0"),
        (lambda: state.list_actors(filters=[("pidd", "=", 1)]), "ActorState has no 'pidd'"),
        (
            lambda: state.list_tasks(filters=[("attempt_number", "<", "abc")]),
            "attempt_number is a number, not 'abc'",
        ),
        (
            lambda: state.list_tasks(filters=[("state", "in", "failed,lost")]),
            "there is no state 'lost'; there are PENDING_ARGS_AVAIL, ",
        ),
        (
            lambda: state.list_workers(filters=[("is_alive", "=", "perhaps")]),
            "is_alive is true or false, not 'perhaps'",
        ),
        (
            lambda: state.list_tasks(filters=[("required_resources", "=", 3)]),
            "required_resources cannot be compared with 3",
        ),
    ]
    for call, words in refused:
        with pytest.raises(StateApiException, match=words):
            call()


def test_summary_counts_by_function_and_state(engine: str) -> None:
    @weft.remote
    def summarized(number: int) -> None:
        if number % 2:
            raise ValueError(number)

    refs = [summarized.remote(number) for number in range(10)]
    for ref in refs:
        try:
            weft.get(ref)
        except ValueError:
            continue
    summary = state.summarize_tasks()
    (row,) = [row for key, row in summary.summary.items() if "summarized" in key]
    assert row.state_counts == {"FINISHED": 5, "FAILED": 5}
    assert summary.total_tasks >= 10
    assert summary.dropped == 0
    actors = state.summarize_actors()
    assert actors.total_actors == sum(
        sum(each.state_counts.values()) for each in actors.summary.values()
    )


def test_what_one_machine_has(engine: str) -> None:
    (node,) = state.list_nodes()
    assert node.node_id == weft.get_runtime_context().get_node_id()
    assert node.resources_total["CPU"] == 2.0
    assert state.get_node(node.node_id) == node
    (job,) = state.list_jobs()
    assert job.job_id == weft.get_runtime_context().get_job_id()
    assert job.status == "RUNNING"
    assert "pytest" in job.entrypoint
    assert state.list_placement_groups() == state.list_cluster_events() == []


def test_client_answers_as_the_functions_do(engine: str) -> None:
    ref = add.options(name="by client").remote(1, 1)
    weft.get(ref)
    client = state.StateApiClient()
    options = ListApiOptions(filters=[("name", "=", "by client")], limit=1)
    (task,) = client.list(StateResource.TASKS, options)
    assert client.get(StateResource.TASKS, task.task_id) == state.get_task(task.task_id) == task
    assert client.get(StateResource.ACTORS, "00", GetApiOptions(timeout=5)) is None
    (job,) = client.list(StateResource.JOBS)
    assert client.get(StateResource.JOBS, job.job_id) == job
    summary = client.summary(SummaryResource.TASKS, SummaryApiOptions(timeout=5))
    assert summary["node_id_to_summary"] == {"cluster": state.summarize_tasks()}
    assert client.get_version() == weft.__version__
    assert bool(client.get_address()) is (engine == "local")
    with pytest.raises(StateApiException, match="cluster_events have no ids: list them"):
        client.get(StateResource.CLUSTER_EVENTS, "00")
    with pytest.raises(ServerUnavailable, match="no session 'nowhere' is alive"):
        state.StateApiClient("nowhere").list(StateResource.TASKS)


def test_timeline_has_ids_and_ends(engine: str) -> None:
    ref = add.options(name="on the line").remote(1, 1)
    weft.get(ref)
    (event,) = [event for event in weft.timeline() if event["name"] == "on the line"]
    assert event["args"] == {"task_id": ref.task_id().hex(), "state": "FINISHED"}
    assert event["ph"] == "X"
    assert event["dur"] >= 0


@pytest.mark.parametrize("engine", ["inline"], indirect=True)
def test_inline_engine_says_that_it_cannot_tell_of_objects(engine: str) -> None:
    with pytest.raises(StateApiException, match="the inline engine cannot tell of objects"):
        state.list_objects()


def test_session_that_is_not_there_is_named(engine: str) -> None:
    with pytest.raises(ServerUnavailable, match="no session 'nowhere' is alive"):
        state.list_tasks(address="nowhere")
