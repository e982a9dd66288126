"""Several real nodes: jobs over nodes, and nodes that join by hand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft._runtime import links
from weft.cluster_utils import Cluster
from weft.util import state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow
WAIT_S = 30.0


@pytest.fixture
def cluster(roots: tuple[Path, Path]) -> Iterator[Cluster]:
    """A head of two CPUs, and a node that alone has `there`."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as found:
        found.add_node(num_cpus=2, resources={"there": 4})
        yield found


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def wait_until(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@weft.remote(num_cpus=0, resources={"there": 1})
def there() -> tuple[str, int]:
    return weft.get_runtime_context().get_node_id(), os.getpid()


@weft.remote(num_cpus=0, resources={"there": 1})
def nested() -> tuple[str, int]:
    return weft.get(there.remote())


def test_tasks_run_on_the_node_that_has_what_they_need(cluster: Cluster) -> None:
    (other,) = cluster.worker_nodes
    cluster.connect()
    assert weft.get(there.remote())[0] == other.node_id
    assert weft.get(nested.remote())[0] == other.node_id


def test_workers_of_other_nodes_print_and_import_as_their_driver_does(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "only_here.py").write_text("WORD = 'found'\n")
    ended = run(
        """
import sys, weft
sys.path.insert(0, sys.argv[2])
weft.init(address=sys.argv[1])
@weft.remote(num_cpus=0, resources={"there": 1})
def inner():
    import only_here
    print("inner has", only_here.WORD)
@weft.remote(num_cpus=0, resources={"there": 1})
def outer():
    print("outer begins")
    weft.get(inner.remote())
    print(chr(10).join(f"line {number}" for number in range(3000)))
weft.get(outer.remote())
""",
        cluster.address,
        str(tmp_path),
    )
    assert (ended.stderr, ended.returncode) == ("", 0)
    lines = ended.stdout.splitlines()
    assert lines[:2] == ["outer begins", "inner has found"]
    assert lines[2:] == [f"line {number}" for number in range(3000)]


def test_exit_hooks_of_workers_on_other_nodes_run_when_their_driver_leaves(
    cluster: Cluster,
) -> None:
    ended = run(
        """
import atexit, sys, weft
weft.init(address=sys.argv[1])
@weft.remote(num_cpus=0, resources={"there": 1})
def task():
    atexit.register(print, "the worker says goodbye")
@weft.remote(num_cpus=0, resources={"there": 1})
class Actor:
    def __init__(self):
        atexit.register(print, "the actor says goodbye")
    def ready(self): return True
actor = Actor.remote()
weft.get([task.remote(), actor.ready.remote()])
""",
        cluster.address,
    )
    lines = ["the actor says goodbye", "the worker says goodbye"]
    assert (sorted(ended.stdout.splitlines()), ended.stderr) == (lines, "")


def test_workers_of_a_job_end_on_all_nodes_when_its_driver_does(
    cluster: Cluster, gone: Callable[[list[int], float], list[int]]
) -> None:
    cluster.connect()
    pids = [weft.get(there.remote())[1], weft.get(nested.remote())[1]]
    weft.shutdown()
    assert gone(pids, 5) == []


def run_weft(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "weft", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )


def weft_command(*arguments: str) -> str:
    ended = run_weft(*arguments)
    assert (ended.stderr, ended.returncode) == ("", 0)
    return ended.stdout


def test_node_joins_by_the_join_string_and_is_stopped(cluster: Cluster) -> None:
    words = ("--host", "127.0.0.1", "--num-cpus", "1", "--resources", "third=1")
    said = weft_command("start", "--address", cluster.address, *words, "--format", "json")
    found = json.loads(said)
    folder = Path(found["session_dir"], "credentials")
    assert folder.stat().st_mode & 0o777 == 0o700
    cluster.connect()
    third = there.options(resources={"third": 1})
    node_id = weft.get(third.remote())[0]
    told: Any = json.loads(weft_command("status", "--session", cluster.address, "--format", "json"))
    assert [node["address"] for node in told["nodes"] if node["node_id"] == node_id] == [
        found["address"]
    ]
    assert found["session"] in weft_command("stop", "--session", found["session"])
    assert not Path(found["session_dir"]).exists()
    cluster.wait_for_nodes()


def test_join_string_of_another_cluster_is_refused_in_a_line(cluster: Cluster) -> None:
    address, _, secrets = cluster.address.partition("#")
    token, _, fingerprint = secrets.partition(".")
    wrong_token = f"{address}#{'A' * 22}.{fingerprint}"
    wrong_print = f"{address}#{token}.{'A' * 43}"
    for join, words in (
        (wrong_token, "token"),
        (wrong_print, "it is another cluster, or somebody in between"),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "weft", "start", "--address", join],
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )
        assert len(ended.stderr.splitlines()) == 1
        assert words in ended.stderr
        assert ended.returncode == 1


def test_what_a_driver_began_ends_on_all_nodes_when_its_node_is_killed(
    cluster: Cluster, gone: Callable[[list[int], float], list[int]]
) -> None:
    (other,) = cluster.worker_nodes
    third = cluster.add_node(num_cpus=1)
    program = """
import os, sys, time, weft
weft.init(address=sys.argv[1])
@weft.remote(num_cpus=0, resources={"there": 1})
def hang():
    print(os.getpid(), flush=True)
    time.sleep(1000)
@weft.remote(num_cpus=0, resources={"there": 1})
def outer():
    ref = hang.remote()
    print(os.getpid(), flush=True)
    weft.get(ref)
ref = outer.remote()
weft.get(ref)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, third.session_dir],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as driver:
        assert driver.stdout is not None
        pids = [int(driver.stdout.readline()) for _ in range(2)]
        cluster.remove_node(third, allow_graceful=False)
        assert gone(pids, 2 * WAIT_S) == []
        driver.kill()
    cluster.wait_for_nodes()
    assert other.is_alive()


@weft.remote(num_cpus=0, resources={"there": 4})
def read_all_there(path: str) -> str:
    return Path(path).read_text()


def test_node_of_a_driver_that_stands_still_keeps_nothing_from_the_drivers_of_others(
    cluster: Cluster, tmp_path: Path
) -> None:
    (other,) = cluster.worker_nodes
    third = cluster.add_node(num_cpus=1)
    cluster.connect()
    os.mkfifo(fifo := tmp_path / "fifo")
    first = read_all_there.remote(str(fifo))
    with fifo.open("w") as end:
        program = """
import sys, weft
weft.init(address=sys.argv[1])
@weft.remote(num_cpus=0, resources={"there": 4})
def task():
    return 7
assert weft.get(task.remote()) == 7
weft.shutdown()
"""
        held = start(program, third.session_dir)
        wait_until(lambda: len(other._ask("waiting")) == 1)
        second = there.remote()
        wait_until(lambda: len(other._ask("waiting")) == 2)
        os.kill(third.pid, signal.SIGSTOP)
        end.write("read")
    try:
        assert weft.get(first, timeout=WAIT_S) == "read"
        assert weft.get(second, timeout=WAIT_S)[0] == other.node_id
        alive = [node["NodeID"] for node in weft.nodes() if node["Alive"]]
        assert third.node_id in alive, "nobody had to wait for its end"
    finally:
        os.kill(third.pid, signal.SIGCONT)
    assert held.wait(WAIT_S) == 0


def test_nodes_and_amounts_of_all_nodes_are_told(cluster: Cluster) -> None:
    third = cluster.add_node(num_cpus=3, labels={"zone": "a"})
    cluster.connect()
    assert weft.cluster_resources()["CPU"] == 7
    assert weft.cluster_resources()["there"] == weft.available_resources()["there"] == 4
    by_id = {node["NodeID"]: node for node in weft.nodes()}
    assert by_id.keys() == {node.node_id for node in cluster.list_all_nodes()}
    assert all(node["Alive"] for node in by_id.values())
    heads = [one.node_id for one in state.list_nodes() if one.is_head_node]
    assert cluster.head_node is not None
    assert heads == [cluster.head_node.node_id]
    told = by_id[third.node_id]
    assert (told["Resources"]["CPU"], told["Labels"]["zone"]) == (3, "a")
    assert f"{told['NodeManagerAddress']}:{told['NodeManagerPort']}" == third.address
    cluster.remove_node(third, allow_graceful=False)
    cluster.wait_for_nodes()
    (dead,) = [node for node in weft.nodes() if not node["Alive"]]
    assert dead["NodeID"] == third.node_id
    assert dead["DeathReasonMessage"]
    assert weft.cluster_resources()["CPU"] == 4


def test_node_that_is_stopped_is_no_member_at_once(cluster: Cluster) -> None:
    (other,) = cluster.worker_nodes
    cluster.remove_node(other)
    cluster.wait_for_nodes(timeout=1.0)
    cluster.connect()
    (dead,) = [node for node in weft.nodes() if not node["Alive"]]
    assert dead["DeathReasonMessage"] == "the daemon was told to end"


@weft.remote(num_cpus=1)
def read(path: str) -> str:
    Path(path).read_text()
    return weft.get_runtime_context().get_node_id()


def test_node_that_drains_takes_nothing_new_and_ends_when_it_is_empty(
    cluster: Cluster, tmp_path: Path, gone: Callable[[list[int], float], list[int]]
) -> None:
    (other,) = cluster.worker_nodes
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    cluster.connect()
    running = read.options(resources={"there": 1}).remote(str(fifo))
    with fifo.open("w"):
        asked = ("drain-node", other.node_id[:8], "--session", cluster.address)
        said = weft_command(*asked, "--reason", "enough")
        assert said.startswith(f"node {other.node_id[:12]} at {other.address} takes nothing new")
        text = weft_command("status", "--session", cluster.address, "--format", "json")
        states = {node["node_id"]: node["state"] for node in json.loads(text)["nodes"]}
        assert states[other.node_id].startswith("drains: ")
        elsewhere = [read.remote("/dev/null") for _ in range(4)]
        assert other.node_id not in weft.get(elsewhere)
        assert other.is_alive()
    assert weft.get(running) == other.node_id
    del running
    assert gone([other.pid], WAIT_S) == []
    wait_until(lambda: not all(node["Alive"] for node in weft.nodes()))
    (dead,) = [node for node in weft.nodes() if not node["Alive"]]
    assert dead["DeathReasonMessage"] == "it is drained: enough"
    again = run_weft(*asked)
    assert again.stderr == f"Error: node {other.node_id[:12]} is dead: it is drained: enough\n"


def test_node_that_is_busy_is_not_drained_if_idle_and_ends_at_its_deadline(
    cluster: Cluster, tmp_path: Path, gone: Callable[[list[int], float], list[int]]
) -> None:
    (other,) = cluster.worker_nodes
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    cluster.connect()
    running = read.options(resources={"there": 1}, max_retries=0).remote(str(fifo))
    with fifo.open("w"):
        asked = ("drain-node", other.address, "--session", cluster.address)
        refused = run_weft(*asked, "--if-idle")
        assert "is not idle" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert other.is_alive()
        weft_command(*asked, "--deadline", "0.2")
        assert gone([other.pid], WAIT_S) == []
    with pytest.raises(weft.exceptions.WeftError):
        weft.get(running)


def test_jobs_of_all_nodes_are_listed_until_they_end(cluster: Cluster) -> None:
    (other,) = cluster.worker_nodes
    cluster.connect()
    here = weft.get_runtime_context().get_job_id()
    head_id = weft.get_runtime_context().get_node_id()

    def jobs() -> list[tuple[str, str]]:
        return [(job.job_id, job.entrypoint) for job in state.list_jobs(other.session_dir)]

    def drivers() -> list[str]:
        found = state.list_workers(other.session_dir)
        return [one.node_id for one in found if one.worker_type == "DRIVER"]

    _wait(jobs)
    ((job, entrypoint),) = jobs()
    assert job == here
    assert "pytest" in entrypoint
    assert drivers() == [head_id]
    weft.shutdown()
    _wait(lambda: not jobs())


def _wait(condition: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@weft.remote(num_cpus=0, resources={"there": 1})
def word_there() -> str:
    return Path("word").read_text()


def test_environments_are_built_beside_the_threads_of_a_cluster(
    cluster: Cluster, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    (other,) = cluster.worker_nodes
    (tmp_path / "word").write_text("found")
    cluster.connect()
    good = word_there.options(runtime_env={"working_dir": str(tmp_path)})
    assert weft.get(good.remote()) == "found"
    bad = word_there.options(runtime_env={"pip": ["./no-such-file.whl"]})
    with pytest.raises(weft.exceptions.RuntimeEnvSetupError, match="no-such-file"):
        weft.get(bad.remote())
    log = Path(other.session_dir, "daemon.log").read_text()
    assert "fork" not in log
    assert not list(Path(other.session_dir).glob("env-????????????????"))
    cluster.shutdown()
    # What is built outlasts sessions, in a place of the user's.
    shutil.rmtree(roots[0] / f"weft-env-{os.getuid()}")


class Named:
    def value(self) -> int:
        return 7


def test_who_asks_what_no_head_answers_is_told_that_once(
    cluster: Cluster, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.connect()
    monkeypatch.setattr(links, "SILENCE_S", 4.0)  # A head is missed after three.
    control = cluster.head_node.control_pid
    said = ""

    def has_said() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "still waiting" in said

    with ThreadPoolExecutor(1) as pool:
        os.kill(control, signal.SIGSTOP)
        try:
            made = pool.submit(weft.remote(Named).options(name="named", num_cpus=0).remote)
            wait_until(has_said)
        finally:
            os.kill(control, signal.SIGCONT)
        assert weft.get(made.result(WAIT_S).value.remote(), timeout=WAIT_S) == 7
    has_said()
    assert said.count("still waiting after 4 s") == 1
    assert "no head has answered for " in said
