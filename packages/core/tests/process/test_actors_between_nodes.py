"""Actors in a cluster of real nodes: their places, names, ends and restarts, and who may die."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import weft
from weft._engine import current
from weft._runtime.tools import Tool
from weft.cluster_utils import Cluster
from weft.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    GetTimeoutError,
)
from weft.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from weft.util.state import list_actors
from weft.util.state.exception import DataSourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("roots")]
WAIT_S = 30.0


@pytest.fixture
def cluster(roots: Any) -> Iterator[Cluster]:
    """Two nodes: the driver is on the first, and only the second has `there`."""
    with Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "resources": {"here": 8}}
    ) as made:
        made.add_node(num_cpus=2, resources={"there": 8})
        made.connect(namespace="tests")
        yield made


def there(cluster: Cluster) -> Any:
    (node,) = cluster.worker_nodes
    return node


def get(ref: Any) -> Any:
    return weft.get(ref, timeout=WAIT_S)


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


@weft.remote(num_cpus=0, resources={"there": 1})
class Counter:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def place(self) -> tuple[str, int]:
        return weft.get_runtime_context().get_node_id(), os.getpid()

    def sleep(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    def leave(self) -> None:
        weft.actor.exit_actor()

    def make(self, **options: Any) -> Any:
        return Counter.options(**options).remote(100)


@weft.remote(num_cpus=0)
def add_to(counter: Any) -> tuple[str, int]:
    return weft.get_runtime_context().get_node_id(), weft.get(counter.add.remote())


@weft.remote(num_cpus=0)
def find_or_make(name: str) -> tuple[str, str, int]:
    counter = Counter.options(
        name=name, namespace="n", get_if_exists=True, lifetime="detached", resources={}
    ).remote()
    node_id, pid = weft.get(counter.place.remote())
    return weft.get_runtime_context().get_node_id(), node_id, pid


HERE, THERE = {"resources": {"here": 1}}, {"resources": {"there": 1}}


def test_actor_of_another_node_is_called_from_everywhere(cluster: Cluster) -> None:
    head, far = cluster.head_node, there(cluster)
    assert head is not None
    counter = Counter.remote(1)
    assert get(counter.add.remote()) == 2
    assert get(counter.place.remote())[0] == far.node_id
    assert get(add_to.options(**HERE).remote(counter)) == (head.node_id, 3)
    assert get(add_to.options(**THERE).remote(counter)) == (far.node_id, 4)
    back = get(counter.make.remote(**HERE))
    assert get(back.place.remote())[0] == head.node_id
    assert get(add_to.options(**THERE).remote(back)) == (far.node_id, 101)


def test_names_are_those_of_the_cluster(cluster: Cluster) -> None:
    parent = Counter.remote()
    child = get(parent.make.remote(name="child", **HERE))
    assert get(weft.get_actor("child").add.remote()) == get(child.add.remote()) - 1 == 101
    assert {"name": "child", "namespace": "tests"} in weft.util.list_named_actors(True)
    with pytest.raises(ValueError, match="the name 'child' is taken in namespace 'tests'"):
        Counter.options(name="child").remote()
    with pytest.raises(ValueError, match="no actor is named 'child' in namespace 'other'"):
        weft.get_actor("child", namespace="other")
    rows = {row.node_id: row for row in list_actors()}
    row = rows[weft.get_runtime_context().get_node_id()]
    assert (row.class_name, row.state, row.name) == ("Counter", "ALIVE", "child")
    assert there(cluster).node_id in rows
    weft.kill(child)
    until(lambda: "child" not in weft.util.list_named_actors())
    with pytest.raises(ValueError, match="no actor is named 'child'"):
        weft.get_actor("child")


def test_of_those_who_want_one_name_at_once_all_get_one_actor(cluster: Cluster) -> None:
    for name in ("first", "second", "third"):
        refs = [find_or_make.options(**each).remote(name) for each in (HERE, THERE) * 2]
        found = get(refs)
        assert len({asked for asked, _, _ in found}) == 2
        assert len({(node_id, pid) for _, node_id, pid in found}) == 1


def test_actor_ends_as_it_is_told_and_restarts_as_it_may(cluster: Cluster) -> None:
    counter = Counter.options(max_restarts=2, max_task_retries=-1).remote(1)
    before = get(counter.place.remote())
    os.kill(before[1], signal.SIGKILL)
    assert get(counter.add.remote()) == 2
    weft.kill(counter, no_restart=False)
    assert get(counter.add.remote()) == 2
    get(counter.place.remote())
    with pytest.raises(ActorDiedError, match="exit_actor"):
        get(counter.leave.remote())
    once = Counter.remote()
    _, pid = get(once.place.remote())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ActorDiedError, match="SIGKILL"):
        get(once.add.remote())
    assert not psutil.pid_exists(pid)


def test_last_handle_takes_the_actor_along(cluster: Cluster) -> None:
    counter = Counter.remote()
    _, pid = get(counter.place.remote())
    del counter
    until(lambda: not psutil.pid_exists(pid))


def test_actors_of_a_dead_node_restart_elsewhere(cluster: Cluster) -> None:
    head, far = cluster.head_node, there(cluster)
    assert head is not None
    near_far = NodeAffinitySchedulingStrategy(far.node_id, soft=True)
    moves = Counter.options(
        resources={}, max_restarts=1, max_task_retries=-1, scheduling_strategy=near_far
    ).remote(1)
    stays = Counter.remote()
    assert get(moves.add.remote()) == 2
    assert get([moves.place.remote(), stays.place.remote()])[0][0] == far.node_id
    slow, lost = moves.sleep.remote(0.5), stays.sleep.remote(60)
    time.sleep(0.1)
    cluster.remove_node(far, allow_graceful=False)
    with pytest.raises(ActorDiedError, match=f"node {far.node_id} is gone"):
        get(lost)
    assert get(slow) == "slept"
    assert get(moves.place.remote())[0] == head.node_id
    assert get(moves.add.remote()) == 2


def test_actor_of_a_node_that_was_silent_lives_once_in_the_end(cluster: Cluster) -> None:
    head, far = cluster.head_node, there(cluster)
    assert head is not None
    near_far = NodeAffinitySchedulingStrategy(far.node_id, soft=True)
    moves = Counter.options(
        name="moves", resources={}, max_restarts=-1, scheduling_strategy=near_far
    ).remote()
    node_id, pid = get(moves.place.remote())
    assert node_id == far.node_id
    os.kill(far.pid, signal.SIGSTOP)
    try:
        until(
            lambda: (
                get(weft.get_actor("moves").place.options(max_task_retries=-1).remote())[0]
                == head.node_id
            )
        )
        assert psutil.pid_exists(pid)
    finally:
        os.kill(far.pid, signal.SIGCONT)
    until(lambda: not psutil.pid_exists(pid))
    assert get(moves.place.remote())[0] == head.node_id


@weft.remote(num_cpus=0)
class Failing:
    def __init__(self, *words: str) -> None:
        raise ValueError(*words)

    def add(self) -> int:
        return 0


@weft.remote(num_cpus=0)
def fail() -> str:
    raise KeyError("no word")


@weft.remote(num_cpus=0)
def read(path: str) -> str:
    return Path(path).read_text()


@weft.remote(num_cpus=0)
class Maker:
    def make(self, path: str) -> list[Any]:
        """Return an actor that is not created before somebody writes into the pipe."""
        return [Counter.remote(read.remote(path))]

    def end(self) -> None:
        os._exit(1)


def test_actor_that_was_refused_or_failed_is_dead_for_whoever_has_its_handle(
    cluster: Cluster,
) -> None:
    class Large:
        data = os.urandom(1_100_000)

        def add(self) -> int:
            return 0

    large = weft.remote(Large).remote()
    failing = Failing.options(max_restarts=2).remote("w" * 100_000)
    without = Failing.remote(fail.remote())
    told = {large: "at most 1048576", failing: "w" * 1000, without: "KeyError: 'no word'"}
    for actor, words in told.items():
        for caller in (add_to.options(**THERE).remote(actor), actor.add.remote()):
            with pytest.raises(ActorDiedError, match=words):
                get(caller)


def test_actor_whose_owner_died_before_it_was_created_is_dead(
    cluster: Cluster, tmp_path: Path
) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    maker = Maker.options(**THERE).remote()
    [actor] = get(maker.make.remote(str(fifo)))
    called = actor.add.remote()
    maker.end.remote()
    why = "the process that was to create it, at .*, has ended"
    for caller in (called, add_to.options(**HERE).remote(actor)):
        with pytest.raises(ActorDiedError, match=why):
            get(caller)


def test_actors_go_where_strategies_and_labels_say(cluster: Cluster) -> None:
    head, far = cluster.head_node, there(cluster)
    assert head is not None
    labelled = cluster.add_node(num_cpus=1, labels={"zone": "far"})
    free: dict[str, Any] = {"resources": {}}
    spread = [Counter.options(scheduling_strategy="SPREAD", **free).remote() for _ in range(6)]
    found = {node_id for node_id, _ in get([each.place.remote() for each in spread])}
    assert found == {head.node_id, far.node_id, labelled.node_id}
    by_label = Counter.options(label_selector={"zone": "far"}, **free).remote()
    assert get(by_label.place.remote())[0] == labelled.node_id
    hard = NodeAffinitySchedulingStrategy(labelled.node_id, soft=False)
    by_node = Counter.options(scheduling_strategy=hard, **free).remote()
    assert get(by_node.place.remote())[0] == labelled.node_id
    cluster.remove_node(labelled, allow_graceful=False)
    with pytest.raises(ActorDiedError):
        get(by_node.add.remote())
    nobody = Counter.options(scheduling_strategy=hard, **free).remote()
    with pytest.raises(ActorUnschedulableError, match=labelled.node_id):
        get(nobody.add.remote())


def test_actors_end_with_their_owner_and_detached_ones_do_not(cluster: Cluster) -> None:
    owner = Counter.remote()
    _, owner_pid = get(owner.place.remote())
    mortal = get(owner.make.remote(**HERE))
    get(owner.make.remote(name="stays", lifetime="detached", **HERE))
    get([mortal.add.remote(), weft.get_actor("stays").add.remote()])
    os.kill(owner_pid, signal.SIGKILL)
    with pytest.raises(ActorDiedError, match="the process that created it has ended"):
        until(lambda: get(mortal.add.remote()) < 0)
    assert get(weft.get_actor("stays").add.remote()) == 102


def test_detached_actor_outlives_its_job_on_every_node(cluster: Cluster) -> None:
    kept = Counter.options(name="kept", lifetime="detached").remote(5)
    ends = Counter.options(name="ends").remote()
    _, pid = get(ends.place.remote())
    assert get(kept.add.remote()) == 6
    weft.shutdown()
    until(lambda: not psutil.pid_exists(pid))
    cluster.connect(namespace="tests")
    assert get(weft.get_actor("kept").add.remote()) == 7
    with pytest.raises(ValueError, match="no actor is named 'ends'"):
        weft.get_actor("ends")
    weft.kill(weft.get_actor("kept"))


def test_detached_actor_lives_on_when_a_node_that_is_gone_is_asked(cluster: Cluster) -> None:
    kept = Counter.options(lifetime="detached", **HERE).remote(5)
    assert get(kept.add.remote()) == 6
    cluster.remove_node(there(cluster), allow_graceful=False)
    # The first may be asked over the connection that breaks; the second finds nobody there.
    for _ in range(2):
        with contextlib.suppress(DataSourceUnavailable):
            list_actors()
    assert get(kept.add.remote()) == 7


def test_actors_of_a_killed_driver_end_on_every_node(cluster: Cluster) -> None:
    assert cluster.head_node is not None
    program = """if True:
        import sys, weft
        weft.init(address=sys.argv[1], namespace="tests")

        @weft.remote(num_cpus=0, resources={"there": 1})
        class Pid:
            def get(self):
                import os
                return os.getpid()

        mortal, stays = Pid.remote(), Pid.options(name="stays", lifetime="detached").remote()
        print(*weft.get([mortal.get.remote(), stays.get.remote()]), flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", program, cluster.head_node.session_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        mortal, stays = map(int, driver.stdout.readline().split())
        assert psutil.pid_exists(mortal)
        driver.kill()
    until(lambda: not psutil.pid_exists(mortal))
    assert get(weft.get_actor("stays").get.remote()) == stays
    weft.kill(weft.get_actor("stays"))


def test_calls_go_on_without_a_control_service_and_creations_wait_for_it(cluster: Cluster) -> None:
    assert cluster.head_node is not None
    counter = Counter.remote()
    assert get(counter.add.remote()) == 1
    os.kill(cluster.head_node.control_pid, signal.SIGKILL)
    for number in range(50):
        assert get(counter.add.remote()) == number + 2
    another = Counter.remote(10)
    assert get(another.add.remote()) == 11
    os.kill(get(counter.place.remote())[1], signal.SIGKILL)
    with pytest.raises(ActorDiedError):
        get(counter.add.remote())


def test_call_whose_connection_broke_may_have_run_and_later_ones_go_on(cluster: Cluster) -> None:
    counter = Counter.options(max_concurrency=2).remote()
    assert get(counter.add.remote()) == 1
    slow, again = counter.sleep.remote(60), counter.sleep.options(max_task_retries=1).remote(0.2)
    with pytest.raises(GetTimeoutError):
        weft.get(slow, timeout=0.1)
    runtime: Any = current.engine
    with runtime.guard:
        address = runtime.calling.machine.callees[counter._actor_id].address
        connection = runtime.peers.by_address[address].connection
        with socket.socket(fileno=os.dup(connection.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ActorUnavailableError, match="may or may not have run"):
        get(slow)
    assert get(again) == "slept"
    assert get(counter.add.remote()) == 2


def test_actor_waits_for_what_others_have_and_is_refused_what_nobody_has(cluster: Cluster) -> None:
    first = Counter.options(resources={"there": 8}).remote()
    assert get(first.add.remote()) == 1
    second = Counter.options(resources={"there": 8}).remote()
    waiting = second.add.remote()
    why = until(lambda: text if "there" in (text := weft.why(waiting)) else "")
    assert "8" in why
    weft.kill(first)
    assert get(waiting) == 1
    nowhere = Counter.options(resources={"nowhere": 1}).remote()
    with pytest.raises(ActorUnschedulableError, match="nowhere"):
        get(nowhere.add.remote())


def drain(cluster: Cluster, node: Any, deadline_s: float = 0.0) -> None:
    body = {"node_id": node.node_id, "message": "enough", "deadline_s": deadline_s}
    assert cluster.head_node is not None
    with Tool(cluster.head_node.session_dir, WAIT_S) as tool:
        tool.ask("drain", body)


def test_actors_that_may_restart_leave_a_node_that_drains_and_it_counts_for_nothing(
    cluster: Cluster, gone: Callable[[list[int], float], list[int]]
) -> None:
    first = there(cluster)
    moved = [Counter.options(max_restarts=1).remote() for _ in range(2)]
    places = [get(actor.place.remote()) for actor in moved]
    assert {node for node, _ in places} == {first.node_id}
    second = cluster.add_node(num_cpus=2, resources={"there": 8})
    drain(cluster, first)
    assert gone([first.pid, *(pid for _, pid in places)], WAIT_S) == []
    for actor in moved:
        node, pid = get(actor.place.remote())
        assert node == second.node_id
        os.kill(pid, signal.SIGKILL)
        # The restart that it was made with is still its own.
        until(lambda actor=actor: is_back(actor))
    for state in list_actors(filters=[("state", "=", "ALIVE")]):
        assert (state.node_id, state.num_restarts) == (second.node_id, 2)


def is_back(actor: Any) -> bool:
    try:
        return bool(get(actor.add.remote()))
    except ActorUnavailableError:
        return False


def test_actor_without_restarts_stays_until_the_deadline_and_one_that_is_busy_moves_then(
    cluster: Cluster,
) -> None:
    first = there(cluster)
    stays = Counter.remote()
    busy = Counter.options(max_restarts=1, max_task_retries=0).remote()
    places = [get(actor.place.remote()) for actor in (stays, busy)]
    assert {node for node, _ in places} == {first.node_id}
    running = busy.sleep.remote(WAIT_S)
    second = cluster.add_node(num_cpus=2, resources={"there": 8})
    drain(cluster, first, deadline_s=3.0)
    assert get(stays.place.remote()) == places[0], "it may not restart"
    with pytest.raises(ActorUnavailableError):
        get(running)
    assert get(busy.place.remote())[0] == second.node_id
    with pytest.raises(ActorDiedError, match="drained"):
        get(stays.place.remote())
