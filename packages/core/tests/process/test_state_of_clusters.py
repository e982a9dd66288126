"""The state of three nodes, asked of one of them: what each does, and which does not answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft._clock import monotonic
from weft._runtime.tools import Tool
from weft.cluster_utils import Cluster, ClusterNode
from weft.util import metrics, state
from weft.util.state.exception import DataSourceUnavailable, ServerUnavailable, StateApiException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft.util.state.common import TaskState

pytestmark = pytest.mark.slow
WAIT_S = 20.0
# A node that is stopped is dead after five seconds.
ANSWER_S = 2.5


@weft.remote(num_cpus=0)
def speak(word: Any) -> str:
    print("said", word)
    print("warned", word, file=sys.stderr)
    return weft.get_runtime_context().get_node_id()


@weft.remote(num_cpus=0, max_retries=0)
def hold(path: str) -> str:
    return Path(path).read_text()


@weft.remote(num_cpus=0)
class Teller:
    def tell(self, word: str) -> int:
        print(word, flush=True)
        return os.getpid()


class Three:
    """A head, and a node each with `left` and `right`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        assert cluster.head_node is not None
        self.head: ClusterNode = cluster.head_node
        self.left = cluster.add_node(num_cpus=1, resources={"left": 2}, labels={"side": "left"})
        self.right = cluster.add_node(num_cpus=1, resources={"right": 2})

    @contextmanager
    def stopped(self, node: ClusterNode) -> Iterator[None]:
        """Let a node's daemon say nothing."""
        os.kill(node.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(node.pid, signal.SIGCONT)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "weft", *arguments, "--session", self.head.session_dir],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def shown(self, *arguments: str) -> str:
        ended = self.command(*arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def listed(self, *arguments: str) -> Any:
        return json.loads(self.shown(*arguments, "--format", "json"))


@contextmanager
def three_nodes() -> Iterator[Three]:
    """Start a head and two nodes, in a directory of their own: pytest's is too long for sockets."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("WEFT_TEMP_DIR", folder)
        patch.setenv("WEFT_CHECK", "1")
        with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as cluster:
            yield Three(cluster)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Three]:
    with three_nodes() as three:
        yield three


@pytest.fixture
def three(nodes: Three) -> Iterator[Three]:
    """Three nodes that are there for all tests; this process drives a job of its own."""
    nodes.cluster.connect()
    yield nodes
    weft.shutdown()


@pytest.fixture
def fragile() -> Iterator[Three]:
    """Three nodes of which one may be killed."""
    with three_nodes() as three:
        three.cluster.connect()
        yield three


def tasks_of(name: str, **fields: str) -> list[TaskState]:
    """Return this job's tasks of a name."""
    filters = {"name": name, "job_id": weft.get_runtime_context().get_job_id(), **fields}
    return state.list_tasks(filters=[(key, "=", value) for key, value in filters.items()])


def on(name: str) -> dict[str, Any]:
    return {"resources": {name: 1}}


def until(condition: Callable[[], Any]) -> Any:
    """Wait for what other processes are about to tell."""
    end = monotonic() + WAIT_S
    while not (found := condition()):
        assert monotonic() < end
        time.sleep(0.05)
    return found


def test_state_of_all_nodes_is_told_by_one(three: Three) -> None:
    assert weft.get(speak.options(**on("left")).remote("one")) == three.left.node_id
    assert weft.get(speak.options(**on("right")).remote("two")) == three.right.node_id
    teller = Teller.options(name="teller", **on("right")).remote()
    weft.get(teller.tell.remote("hello"))
    data = weft.put(bytes(2_000_000))

    nodes = {node["NodeID"]: node for node in weft.nodes()}
    assert set(nodes) == {node.node_id for node in (three.head, three.left, three.right)}
    left = nodes[three.left.node_id]
    assert left["Alive"]
    assert left["Labels"]["side"] == "left"
    assert left["Address"] == three.left.address
    assert [node_id for node_id, node in nodes.items() if node["IsHeadNode"]] == [
        three.head.node_id
    ]
    assert weft.cluster_resources()["CPU"] == 3
    assert weft.cluster_resources()["left"] == 2

    listed = {node.node_id: node for node in state.list_nodes()}
    assert listed[three.right.node_id].resources_total["right"] == 2
    assert listed[three.right.node_id].start_time_ms is not None
    where = {task.node_id for task in tasks_of("speak")}
    assert where == {three.left.node_id, three.right.node_id}
    (task,) = tasks_of("speak", node_id=three.left.node_id)
    assert state.get_task(task.task_id) == task
    counts = state.summarize_tasks(filters=[("job_id", "=", task.job_id)]).summary["speak"]
    assert counts.state_counts == {"FINISHED": 2}

    workers = {worker.worker_id: worker for worker in state.list_workers()}
    assert task.worker_id is not None
    assert workers[task.worker_id].node_id == three.left.node_id
    (actor,) = state.list_actors(filters=[("state", "=", "ALIVE")])
    assert (actor.name, actor.node_id) == ("teller", three.right.node_id)
    assert actor.pid == weft.get(teller.tell.remote("again"))
    (kept,) = state.list_objects(filters=[("object_id", "=", data.hex())])
    assert (kept.node_id, kept.place) == (three.head.node_id, "memory")
    (job,) = state.list_jobs()
    assert (job.driver_pid, job.driver_node_id) == (os.getpid(), three.head.node_id)

    # As another process sees it, from a terminal.
    assert {one["node_id"] for one in three.listed("list", "nodes")} == set(nodes)
    for resource in ("tasks", "actors"):
        header, *_ = three.shown("list", resource).splitlines()
        assert header.index(" JOB ") < header.index(" NODE ") < header.index(" PID")
    assert three.right.node_id[:12] in three.shown("list", "workers")
    assert "node" in three.shown("memory")
    told = three.listed("status")
    assert len(told["nodes"]) == 3
    assert [job["driver_pid"] for job in told["jobs"]] == [os.getpid()]


def test_a_node_that_says_nothing_is_named_and_holds_nobody_up(three: Three) -> None:
    weft.get([speak.options(**on(name)).remote("x") for name in ("left", "right")])
    with three.stopped(three.right):
        began = monotonic()
        with pytest.raises(DataSourceUnavailable, match=f"{three.right.address}: no answer"):
            state.list_workers()
        assert monotonic() - began < ANSWER_S
        began = monotonic()
        with Tool(three.head.session_dir, WAIT_S) as tool:
            replies = {reply.node_id: reply for reply in tool.ask_nodes(["session", "workers"])}
        assert monotonic() - began < ANSWER_S
        assert replies[three.right.node_id].silent
        assert not replies[three.left.node_id].silent
        assert len(replies[three.left.node_id].bodies) == 2
    ended = three.command("list", "workers")
    assert ended.returncode == 0
    with three.stopped(three.right):
        ended = three.command("list", "workers")
    assert three.left.node_id[:12] in ended.stdout
    assert three.right.node_id[:12] not in ended.stdout
    words = f"node {three.right.node_id[:12]} at {three.right.address}: no answer for 1.6 s; "
    assert ended.stderr == f"{words}what only it knows of workers is missing\n"


def test_a_node_that_is_dead_is_listed_as_dead_and_asked_no_more(fragile: Three) -> None:
    fragile.cluster.remove_node(fragile.right, allow_graceful=False)
    dead = until(lambda: [node for node in weft.nodes() if not node["Alive"]])
    assert [node["NodeID"] for node in dead] == [fragile.right.node_id]
    assert dead[0]["DeathReasonMessage"]
    states = {node.node_id: node.state for node in state.list_nodes()}
    assert states[fragile.right.node_id] == "DEAD"
    assert {worker.node_id for worker in state.list_workers()} <= set(states) - {
        fragile.right.node_id
    }
    with pytest.raises(StateApiException, match=r"no node .* lives"):
        state.list_logs(node_id=fragile.right.node_id)


@weft.remote(num_cpus=0, max_retries=0)
def talk(path: str) -> None:
    print("first", flush=True)
    Path(path).read_text()
    print("second", flush=True)


def follow_talk(three: Three, folder: Path) -> tuple[Iterator[str], Any, Path]:
    """Follow what a task writes on the right: its log, the task, and what it waits for."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    talking = talk.options(**on("right")).remote(str(pipe))
    (task,) = until(lambda: tasks_of("talk", state="RUNNING"))
    texts = state.get_log(task_id=task.task_id, follow=True)
    assert next(texts) == "first\n"
    return texts, talking, pipe


def test_logs_of_any_node_are_read_and_followed(three: Three, tmp_path: Path) -> None:
    weft.get(speak.options(**on("left")).remote("one\nsaid two"))
    (task,) = tasks_of("speak")
    worker = task.worker_id
    log = f"worker-{worker}.out"
    assert log in state.list_logs(node_id=three.left.node_id)["worker_out"]
    assert log in state.list_logs()["worker_out"]
    assert log not in state.list_logs(node_ip=three.right.address)["worker_out"]
    said = until(lambda: "".join(state.get_log(task_id=task.task_id)))
    assert said == "said one\nsaid two\n"
    assert "".join(state.get_log(filename=log, tail=1)) == "said two\n"
    assert "warned one" in "".join(state.get_log(task_id=task.task_id, suffix="err"))
    node = three.left.node_id
    assert "said one" in "".join(state.get_log(pid=task.worker_pid, node_id=node))
    assert list(state.get_log(filename="daemon.log", node_id=node)) == []

    texts, talking, pipe = follow_talk(three, tmp_path)
    pipe.write_text("over")
    weft.get(talking)
    heard = "first\n"
    while "second" not in heard:
        heard += next(texts)
    (task,) = tasks_of("talk")
    assert task.worker_pid is not None
    os.kill(task.worker_pid, signal.SIGKILL)
    assert heard + "".join(texts) == "first\nsecond\n"

    (task,) = tasks_of("speak")
    text = three.shown("logs", str(task.worker_pid), "--node", three.left.address)
    assert "said two" in text
    assert three.left.node_id[:12] in three.shown("logs")
    assert "no node is nowhere" in three.command("logs", "--node", "nowhere").stderr


def test_who_follows_a_log_is_told_when_its_node_is_gone(fragile: Three, tmp_path: Path) -> None:
    texts, _, _ = follow_talk(fragile, tmp_path)
    fragile.cluster.remove_node(fragile.right, allow_graceful=False)
    with pytest.raises(ServerUnavailable, match=f"{fragile.right.address}: its daemon"):
        list(texts)


TERMINAL_PROGRAM = """
import sys, weft
weft.init(address=sys.argv[1])

@weft.remote(num_cpus=0)
def speak(word):
    print("said", word)

weft.get(speak.remote("here"))
weft.get(speak.options(resources={"right": 1}).remote("there"))
"""


def test_what_is_written_on_another_node_says_so_on_the_drivers_terminal(three: Three) -> None:
    reader, terminal = os.openpty()
    with os.fdopen(reader, "rb", buffering=0) as shown:
        try:
            subprocess.run(
                [sys.executable, "-c", TERMINAL_PROGRAM, three.cluster.address],
                stdout=terminal,
                check=True,
                timeout=60,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            here, there = (line.decode().split("pid=") for line in shown.read(10_000).splitlines())
        finally:
            os.close(terminal)
    assert here[0] == there[0] == "(speak "
    assert here[1].lstrip("0123456789") == ") said here"
    assert there[1].lstrip("0123456789") == f", node={three.right.address}) said there"


def test_stacks_and_times_are_those_of_all_nodes(three: Three, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    held = hold.options(**on("left")).remote(str(pipe))
    weft.get([speak.options(**on(name)).remote("x") for name in ("left", "right")])
    until(lambda: tasks_of("hold", state="RUNNING"))
    text = three.shown("stack", "--node", three.left.address)
    assert f"node {three.left.node_id[:12]} at {three.left.address}" in text
    assert "hold (" in text
    assert three.right.address not in text
    assert f"driver {os.getpid()}" in three.shown("stack")
    # Where it waits is asked of the worker, wherever that is.
    said = until(lambda: text if "has run for" in (text := weft.why(held)) else "")
    assert f"of node {three.left.address}" in said
    pipe.write_text("over")
    assert weft.get(held) == "over"

    events = weft.timeline()
    names = {event["pid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    ran = [(event["name"], names[event["pid"]]) for event in events if event["ph"] == "X"]
    assert ("hold", f"node {three.left.address}") in ran
    assert ("speak", f"node {three.right.address}") in ran
    trace = tmp_path / "trace.json"
    ended = three.command("timeline", "--output", str(trace))
    assert f"{len(ran)} events" in ended.stderr
    assert json.loads(trace.read_text()) == events


def test_why_asks_the_daemon_that_a_demand_was_sent_to(three: Three, tmp_path: Path) -> None:
    @weft.remote(num_cpus=0, resources={"left": 2})
    def full(path: str) -> None:
        Path(path).read_text()

    @weft.remote(num_cpus=0, resources={"right": 1})
    def outer() -> None:
        weft.get(full.remote("/dev/null"))

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    first = full.remote(str(pipe))
    until(lambda: tasks_of("full", state="RUNNING"))
    second = outer.remote()
    words = ("outer (waits in get", "full waits for a worker", "needs left 2", "has 0 free")
    said = until(lambda: text if all(word in (text := weft.why(second)) for word in words) else "")
    assert f"of node {three.right.address}" in said
    told = three.shown("status")
    assert "wanted: 1 worker for tasks with left 2" in told
    pipe.write_text("over")
    weft.get([first, second])


def test_metrics_of_all_nodes_are_told_with_who_answers(three: Three) -> None:
    @weft.remote(num_cpus=0)
    def count() -> None:
        metrics.Counter("rows", tag_keys=("table",)).inc(3, tags={"table": "users"})

    weft.get([count.options(**on(name)).remote() for name in ("left", "right")])
    lines = metrics.export().splitlines()
    for node in (three.left, three.right):
        assert f'rows_total{{node="{node.address}",table="users"}} 3.0' in lines
        assert f'weft_node_up{{node="{node.address}"}} 1.0' in lines
    with three.stopped(three.left):
        lines = metrics.export().splitlines()
    assert f'weft_node_up{{node="{three.left.address}"}} 0.0' in lines
    assert f'rows_total{{node="{three.right.address}",table="users"}} 3.0' in lines
