"""Nodes of a cluster on this machine: real daemons, and TLS between them.

The first tests have a driver on each node, and no control service; the last ones a whole cluster.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

import weft
from weft._clock import monotonic
from weft._launch import ClusterFile, NodeOptions, start_daemon
from weft._node.sessions import remove_tree
from weft._options import InitOptions
from weft._runtime.local import join_node
from weft._runtime.loop import Waiter
from weft._runtime.tools import Tool
from weft._transport.credentials import make_credentials
from weft._transport.gate import listen
from weft._wire.codec import unpack
from weft._wire.transfers import CHUNK_BYTES
from weft.cluster_utils import Cluster, ClusterNode
from weft.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    OwnerDiedError,
    StoreFullError,
    TaskCancelledError,
)
from weft.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft._refs import ObjectRef

pytestmark = pytest.mark.slow
PATIENCE_S = 20.0


class Node:
    """A daemon, and a driver beside it."""

    def __init__(self, credentials: Path, **options: Any) -> None:
        self.store_dir = ""
        with listen("127.0.0.1") as gate:
            self.address = f"127.0.0.1:{gate.getsockname()[1]}"
            cluster = ClusterFile(
                node=self.address,
                credentials=str(credentials),
                control="",
            )
            options = {"num_cpus": 1, "prestart": 0, "object_store_memory": 1 << 28, **options}
            self.started = start_daemon(
                node=NodeOptions(**options),
                cluster=cluster,
                gate_fds=(gate.fileno(),),
                lifeline_pid=os.getpid(),
            )
        self.runtime: Any = join_node(InitOptions(), self.started.session_dir)
        self.store_dir = self.runtime.welcome.store_dir

    def borrow(self, ref: ObjectRef[Any]) -> ObjectRef[Any]:
        """Return a reference of this node's driver to what another one owns."""
        mine = self.runtime.objects.rebuild_ref(ref._id, ref._owner)
        registered = Waiter()
        with self.runtime.guard:
            self.runtime.objects.when_registered([ref._id], registered.ready)
        assert self.runtime.loop.wait(registered, monotonic() + PATIENCE_S)
        return mine

    def get(self, ref: ObjectRef[Any], timeout_s: float = PATIENCE_S) -> Any:
        return self.runtime.get([ref], timeout_s)[0]

    def states(self) -> dict[str, str]:
        """Return where the node's objects are, by their segments."""
        with Tool(self.started.session_dir, PATIENCE_S) as tool:
            found = unpack(tool.ask("segments"), list[dict[str, Any]])
        return {each["name"]: each["state"] for each in found}

    def segments(self) -> list[str]:
        """Return the segments that hold the node's objects."""
        return list(self.states())

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the daemon will do."""
        end = monotonic() + PATIENCE_S
        while not condition():
            assert monotonic() < end
            self.get(self.runtime.put(0))

    def stop(self) -> None:
        """Let the daemon stand still."""
        os.kill(self.started.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.started.process.pid, signal.SIGCONT)

    def end(self) -> None:
        if hasattr(self, "runtime"):
            self.runtime.shutdown()
        self.kill(signal.SIGTERM)

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.started.process.poll() is None:
            self.go_on()
            os.kill(self.started.process.pid, number)
            assert self.started.process.wait(PATIENCE_S) is not None
            # The next daemon would do that.
            for directory in (self.store_dir, self.started.session_dir):
                remove_tree(directory)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    make_credentials(tmp_path / "credentials")
    made: list[Node] = []

    def make(**options: Any) -> Node:
        made.append(Node(tmp_path / "credentials", **options))
        return made[-1]

    yield make
    for node in made:
        node.end()


def test_value_of_another_node_is_read_here(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    value = np.arange(5 * CHUNK_BYTES // 8 + 17)
    ref = there.runtime.put(value)
    mine = here.borrow(ref)
    assert np.array_equal(here.get(mine), value)
    assert np.array_equal(here.get(mine), value)


def test_many_values_are_brought_at_once(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    values = [np.full(200_000, number) for number in range(40)]
    refs = [there.runtime.put(value) for value in values]
    mine = [here.borrow(ref) for ref in refs]
    for value, got in zip(values, here.runtime.get(mine, PATIENCE_S), strict=True):
        assert np.array_equal(value, got)


def test_future_of_a_value_of_another_node(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    value = np.arange(1_000_000)
    future = here.runtime.future(here.borrow(there.runtime.put(value)))
    assert np.array_equal(future.result(PATIENCE_S), value)


def test_copy_goes_when_nobody_needs_the_object(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    ref = there.runtime.put(np.arange(1_000_000))
    mine = here.borrow(ref)
    here.get(mine)
    assert len(here.segments()) == 1
    del ref, mine
    here.until(lambda: not here.segments() and not there.segments())


def test_next_copy_in_the_same_file_is_read_through_the_same_memory(
    nodes: Callable[..., Node],
) -> None:
    here, there = nodes(), nodes()
    seen: list[int] = []
    for number in range(3):
        ref = there.runtime.put(np.full(1_000_000, number))
        mine = here.borrow(ref)
        found = here.get(mine)
        assert (found == number).all()
        seen.append(found.ctypes.data)
        assert mappings(here) == 1
        del found, ref, mine
        here.until(lambda: not here.segments())
        # It rests, and the file has no object.
        assert mappings(here) == 1
    assert len(set(seen)) == 1


def mappings(node: Node) -> int:
    """How many mappings this process has of the files in a node's store."""
    return Path("/proc/self/maps").read_text().count(f"{node.store_dir}/")


def test_memory_of_a_copy_that_nobody_needs_is_soon_free_whoever_had_it_mapped(
    nodes: Callable[..., Node],
) -> None:
    here, there = nodes(), nodes()
    ref = there.runtime.put(np.arange(1_000_000))
    mine = here.borrow(ref)
    here.get(mine)
    (path,) = (Path(here.store_dir, name) for name in here.segments())
    file = os.open(path, os.O_RDONLY)
    try:
        del ref, mine
        here.until(lambda: not here.segments())
        here.until(lambda: not list(Path(here.store_dir).glob(".vacant-*")))
        assert os.fstat(file).st_blocks == 0
    finally:
        os.close(file)


def test_time_is_up_before_a_value_has_come(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    mine = here.borrow(there.runtime.put(np.arange(1_000_000)))
    here.runtime.get([here.borrow(there.runtime.put(1))], PATIENCE_S)
    there.stop()
    with pytest.raises(GetTimeoutError, match="1 value was on other nodes"):
        here.get(mine, 0.5)
    there.go_on()
    assert len(here.get(mine)) == 1_000_000


def test_wait_can_ask_for_values_on_this_node(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    refs = [there.runtime.put(np.full(1_000_000, number)) for number in range(2)]
    mine = [here.borrow(ref) for ref in refs]
    here.runtime.wait(mine, 2, PATIENCE_S, fetch_local=False)
    there.stop()
    assert here.runtime.wait(mine, 1, 0.2, fetch_local=True) == ([], mine)
    assert here.runtime.wait(mine, 1, 0.2, fetch_local=False) == (mine[:1], mine[1:])
    there.go_on()
    assert here.runtime.wait(mine, 1, PATIENCE_S, fetch_local=True) == (mine[:1], mine[1:])
    assert len(here.segments()) == 1


MANY_BYTES = 20 << 20
SMALL_STORE = 64 << 20


def many(node: Node, count: int) -> list[ObjectRef[Any]]:
    """Put values that are larger together than a small store."""
    return [node.runtime.put(np.full(MANY_BYTES, number, np.uint8)) for number in range(count)]


def test_copies_make_room_for_others_and_are_not_written(nodes: Callable[..., Node]) -> None:
    here, there = nodes(object_store_memory=SMALL_STORE), nodes()
    mine = [here.borrow(ref) for ref in many(there, 8)]
    for number, ref in enumerate(mine):
        assert here.get(ref)[-1] == number
    states = here.states()
    assert set(states.values()) <= {"copy", "promised"}
    assert 0 < len(states) <= SMALL_STORE // MANY_BYTES
    assert here.get(mine[0])[-1] == 0


def test_object_that_is_on_the_disk_of_another_node_is_read(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes(object_store_memory=SMALL_STORE)
    refs = many(there, 8)
    assert "disk" in there.states().values()
    for number, value in enumerate(here.runtime.get([here.borrow(ref) for ref in refs], 60.0)):
        assert value[0] == value[-1] == number


def test_copy_goes_to_disk_while_all_memory_is_viewed(nodes: Callable[..., Node]) -> None:
    here, there = nodes(object_store_memory=SMALL_STORE), nodes()
    values = here.runtime.get([here.borrow(ref) for ref in many(there, 4)], PATIENCE_S)
    assert [value[-1] for value in values] == [0, 1, 2, 3]
    assert "file" in here.states().values()


def test_objects_of_an_owner_that_died_are_lost(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    mine = here.borrow(there.runtime.put(np.zeros(1_000_000)))
    here.runtime.wait([mine], 1, PATIENCE_S, fetch_local=False)
    there.runtime.shutdown()
    with pytest.raises((OwnerDiedError, ObjectLostError)):
        here.get(mine)
    here.until(lambda: not here.segments())


def test_owner_whose_connection_broke_is_called_again(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    ref = there.runtime.put(np.arange(1_000_000))
    mine = here.borrow(ref)
    here.get(mine)
    # The daemon here has called the owner there: that connection breaks.
    peers = there.runtime.peers

    def callers() -> list[Any]:
        return [peer for peer in list(peers._all) if peer.address == f"{here.address}/node"]

    with there.runtime.guard:
        (peer,) = callers()
        peer.connection.close()
        peers._on_lost(peer.connection, "the test has cut it")
    there.until(callers)
    assert len(here.segments()) == 1
    del ref, mine
    here.until(lambda: not here.segments() and not there.segments())


def cut(here: Node, there: Node) -> None:
    """Break the connection between two drivers, for both."""
    peers = here.runtime.peers
    with here.runtime.guard:
        peer = peers.by_address[there.runtime.links.address]
        peer.connection.close()
        peers._on_lost(peer.connection, "the test has cut it")


def test_owner_that_lives_is_believed_dead_by_nobody_whose_connection_to_it_broke(
    nodes: Callable[..., Node],
) -> None:
    here, there = nodes(), nodes()
    refs = [there.runtime.put(value) for value in (1, np.arange(300_000))]
    small, large = (here.borrow(ref) for ref in refs)
    cut(here, there)
    del refs
    assert here.get(small) == 1
    cut(here, there)
    assert len(here.get(large)) == 300_000
    del small, large
    here.until(lambda: not here.segments() and not there.segments())


@weft.remote(scheduling_strategy="SPREAD", max_retries=5)
def filled(number: int) -> Any:
    return np.full(300_000, number)


@weft.remote(scheduling_strategy="SPREAD", max_retries=5)
def look(value: Any) -> tuple[str, float]:
    return weft.get_runtime_context().get_node_id(), float(value.sum())


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three nodes with a CPU each, of which the control service knows; this is a driver there."""
    with Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1}) as made:
        for number in (1, 2):
            made.add_node(num_cpus=1, resources={f"node{number}": 9, "any": 9})
        made.wait_for_nodes()
        yield made


def on(number: int, **options: Any) -> dict[str, Any]:
    """Return options that lead to a node."""
    return {"resources": {f"node{number}": 1}, **options}


def has_resource(cluster: Cluster, name: str) -> ClusterNode:
    """Return the node that has a resource."""
    (found,) = (node for node in weft.nodes() if name in node["Resources"])
    return next(node for node in cluster.worker_nodes if node.node_id == found["NodeID"])


def kill(cluster: Cluster, node: ClusterNode) -> None:
    cluster.remove_node(node, allow_graceful=False)


def segments_of(node: ClusterNode) -> list[str]:
    with Tool(node.session_dir, PATIENCE_S) as tool:
        return [each["name"] for each in unpack(tool.ask("segments"), list[dict[str, Any]])]


@weft.remote
def add(first: Any, second: Any) -> Any:
    return first + second


@weft.remote(num_returns=3)
def split(value: Any) -> Any:
    return tuple(np.array_split(value, 3))


@weft.remote
def total(values: list[Any]) -> float:
    return float(sum(each.sum() for each in weft.get(values)))


@weft.remote(num_cpus=0)
class Keeper:
    def __init__(self, value: Any) -> None:
        self.value = value

    def sum(self) -> float:
        return float(self.value.sum())


@weft.remote(max_retries=0)
def own_and_die(fifo: str) -> None:
    kept = add.options(**on(2)).remote(np.zeros(1_000_000), 1.0)
    weft.wait([kept], fetch_local=False)
    Path(fifo).write_text("made")
    Path(fifo).read_text()
    os._exit(1)


def test_tasks_run_elsewhere_with_large_arguments_and_results(cluster: Cluster) -> None:
    value = np.arange(1_000_000.0)
    there = add.options(**on(1))
    result = there.remote(weft.put(value), value)
    assert np.array_equal(weft.get(result, timeout=60), 2 * value)
    # What was made there is an argument there.
    again = there.remote(result, 1.0)
    assert np.array_equal(weft.get(again, timeout=60), 2 * value + 1)
    parts = split.options(**on(2)).remote(again)
    # References inside an argument: the worker gets what lies on three nodes.
    sum_of_all = total.options(**on(1)).remote([result, *parts, weft.put(value)])
    assert weft.get(sum_of_all, timeout=60) == (5 * value + 1).sum()


def test_what_was_lost_with_its_node_is_made_again_the_rest_is_not(cluster: Cluster) -> None:
    elsewhere = split.options(resources={"any": 1}, max_retries=5)
    argument = weft.put(np.arange(3_000_000))
    first, second, _ = elsewhere.remote(argument)
    copy = weft.get(second, timeout=60)
    address = first._entry.value.creator.partition("/")[0]
    kill(cluster, next(node for node in cluster.worker_nodes if node.address == address))
    assert weft.get(first, timeout=60)[10] == 10
    assert weft.get(second, timeout=60)[10] == copy[10] == 1_000_010


def test_another_copy_is_read_when_the_node_of_the_original_died(cluster: Cluster) -> None:
    made = add.options(**on(1, max_retries=0)).remote(np.zeros(1_000_000), 1.0)
    assert weft.get(total.options(**on(2)).remote([made]), timeout=60) == 1_000_000
    kill(cluster, has_resource(cluster, "node1"))
    assert weft.get(made, timeout=60).sum() == 1_000_000


def test_loss_says_what_was_tried(cluster: Cluster) -> None:
    made = add.options(**on(1, max_retries=0)).remote(np.zeros(1_000_000), 1.0)
    weft.wait([made], timeout=60, fetch_local=False)
    node = has_resource(cluster, "node1")
    kill(cluster, node)
    with pytest.raises(
        ObjectLostError, match=rf"its node {node.node_id} died \(.*\); .*max_retries"
    ):
        weft.get(made, timeout=60)


def test_objects_end_with_their_owner_on_another_node(cluster: Cluster, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    node = has_resource(cluster, "node2")
    owner = own_and_die.options(**on(1)).remote(str(fifo))
    assert fifo.read_text() == "made"
    assert len(segments_of(node)) == 2
    fifo.write_text("die")
    with pytest.raises(weft.exceptions.WorkerDiedError):
        weft.get(owner, timeout=60)
    end = monotonic() + PATIENCE_S
    while segments_of(node):
        assert monotonic() < end


@weft.remote(num_cpus=0)
def own() -> list[Any]:
    return [weft.put(1)]


@weft.remote(num_cpus=0, max_retries=0)
def read(refs: list[Any]) -> Any:
    return weft.get(refs)


def test_process_that_starts_after_an_owners_node_died_hears_so_at_once(cluster: Cluster) -> None:
    [kept] = weft.get(own.options(**on(1)).remote(), timeout=60)
    node = has_resource(cluster, "node1")
    kill(cluster, node)
    late = read.options(**on(2), runtime_env={"env_vars": {"A_WORKER": "of its own"}})
    why = rf"its node {node.node_id} died \(.*\)"
    for reads in (lambda: weft.get(kept, timeout=60), lambda: weft.get(late.remote([kept]))):
        with pytest.raises(OwnerDiedError, match=why):
            reads()


def test_node_that_has_called_an_owner_lends_it_workers(cluster: Cluster) -> None:
    """What it grants goes to who has asked, over the connection on which that was."""
    large = weft.put(np.ones(1_000_000))
    keepers = [Keeper.options(**on(number)).remote(large) for number in (1, 2)]
    assert weft.get([keeper.sum.remote() for keeper in keepers], timeout=60) == [1_000_000] * 2
    there = add.options(**on(1))
    assert weft.get(there.remote(1, 2), timeout=60) == 3


@weft.remote
def where_it_is(value: Any) -> tuple[str, float]:
    return weft.get_runtime_context().get_node_id(), float(value.sum())


def test_tasks_go_where_most_of_their_arguments_are(cluster: Cluster) -> None:
    for number, node in enumerate(cluster.list_all_nodes()):
        there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        value = filled.options(num_cpus=0, scheduling_strategy=there).remote(number)
        weft.wait([value], timeout=60, fetch_local=False)
        # A shape of its own: it finds no worker that was leased before.
        ran_on, total = weft.get(where_it_is.options(num_cpus=0.1 + number / 10).remote(value))
        assert (ran_on, total) == (node.node_id, 300_000.0 * number)


def test_demand_is_taken_back_with_the_last_task_of_its_shape(cluster: Cluster) -> None:
    keeper = Keeper.options(resources={"node1": 9}).remote(np.ones(1))
    assert weft.get(keeper.sum.remote(), timeout=60) == 1.0
    waiting = where_it_is.options(resources={"node1": 1}).remote(np.ones(1))
    weft.cancel(waiting)
    with pytest.raises(TaskCancelledError):
        weft.get(waiting, timeout=60)
    assert weft.get(add.remote(1, 2), timeout=60) == 3


def test_objects_go_where_tasks_run(cluster: Cluster) -> None:
    large = weft.put(np.ones(1_000_000))
    made = [filled.remote(number) for number in range(12)]
    looks = weft.get([look.remote(each) for each in made], timeout=60)
    assert [total for _, total in looks] == [300_000.0 * number for number in range(12)]
    everywhere = weft.get([look.remote(large) for _ in range(12)], timeout=60)
    assert {total for _, total in everywhere} == {1_000_000.0}
    assert len({node for node, _ in looks + everywhere}) == 3
    assert [value[0] for value in weft.get(made, timeout=60)] == list(range(12))


def test_objects_of_a_node_that_was_killed_are_made_again(cluster: Cluster) -> None:
    made = [filled.remote(number) for number in range(12)]
    weft.wait(made, num_returns=12, timeout=60, fetch_local=False)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert [value[0] for value in weft.get(made, timeout=60)] == list(range(12))


def test_source_that_dies_on_the_way_is_replaced_by_another(nodes: Callable[..., Node]) -> None:
    options = {"object_store_memory": 1 << 30}
    owner, source, third = nodes(**options), nodes(**options), nodes(**options)
    value = np.random.default_rng(0).integers(0, 255, 200 << 20, np.uint8)
    ref = owner.runtime.put(value)
    source.get(source.borrow(ref))
    mine = third.borrow(ref)
    future = third.runtime.future(mine)
    third.until(lambda: any(Path(third.store_dir).glob(".*-*")))
    source.kill()
    assert np.array_equal(future.result(60), value)


def test_object_that_has_no_room_anywhere_is_refused(
    nodes: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A place for the disk that cannot be made.
    monkeypatch.setenv("WEFT_SPILL", "/proc/none")
    here = nodes(object_store_memory=SMALL_STORE)
    monkeypatch.delenv("WEFT_SPILL")
    there = nodes()
    mine = here.borrow(there.runtime.put(np.zeros(2 * SMALL_STORE, np.uint8)))
    with pytest.raises(StoreFullError, match="cannot be brought here: no room"):
        here.get(mine)
    # It is not lost for that.
    assert len(there.get(there.borrow(mine))) == 2 * SMALL_STORE


def test_object_that_many_nodes_want_reaches_them_all(nodes: Callable[..., Node]) -> None:
    first, *others = [nodes(object_store_memory=1 << 29) for _ in range(5)]
    value = np.random.default_rng(0).integers(0, 255, 64 << 20, np.uint8)
    ref = first.runtime.put(value)
    futures = [node.runtime.future(node.borrow(ref)) for node in others]
    for future in futures:
        assert np.array_equal(future.result(60), value)


def test_node_that_drains_leaves_when_its_objects_are_elsewhere(cluster: Cluster) -> None:
    weft.get([filled.remote(0) for _ in range(6)])
    made = [filled.options(max_retries=0).remote(number) for number in range(12)]
    weft.wait(made, num_returns=12, timeout=60, fetch_local=False)
    doomed = next(iter(cluster.worker_nodes))
    assert cluster.head_node is not None
    with Tool(cluster.head_node.session_dir, PATIENCE_S) as tool:
        body = {"node_id": doomed.node_id, "message": "", "deadline_s": 0.0, "only_if_idle": False}
        tool.ask("drain", body)
    end = monotonic() + PATIENCE_S
    while doomed.is_alive():
        assert monotonic() < end
        weft.get(weft.put(0))
    assert [value[0] for value in weft.get(made, timeout=60)] == list(range(12))


@weft.remote(num_cpus=0, resources={"node1": 1})
def noted(path: str, number: int) -> Any:
    with Path(path).open("a") as file:
        file.write(".")
    return np.full(300_000, number, np.uint8)


@weft.remote(num_cpus=0, resources={"node1": 1})
def sum_there(value: Any) -> int:
    return int(value.sum())


def test_what_a_node_had_that_was_declared_dead_is_gone_from_it_and_made_again(
    cluster: Cluster, tmp_path: Path, gone: Callable[[list[int], float], list[int]]
) -> None:
    runs = tmp_path / "runs"
    fenced = has_resource(cluster, "node1")
    made = noted.remote(str(runs), 7)
    weft.wait([made], timeout=60, fetch_local=False)
    mine = weft.put(np.ones(300_000, np.uint8))
    # So this driver knows the node by the life that is about to end.
    assert weft.get(sum_there.remote(mine), timeout=60) == 300_000
    before = set(segments_of(fenced))
    assert len(before) == 2
    workers = [p.pid for p in psutil.Process(fenced.pid).children(recursive=True)]
    os.kill(fenced.pid, signal.SIGSTOP)
    _until(lambda: not _is_alive(fenced))
    os.kill(fenced.pid, signal.SIGCONT)
    _until(lambda: _is_alive(fenced))
    _until(lambda: not before.intersection(segments_of(fenced)))
    assert weft.get(made, timeout=60).sum() == 7 * 300_000
    assert len(runs.read_text()) == 2, "it was made again, once"
    assert weft.get(sum_there.remote(mine), timeout=60) == 300_000
    assert weft.get(sum_there.remote(made), timeout=60) == 7 * 300_000
    assert len(gone(workers, PATIENCE_S)) <= 1, "all but those from which workers are forked"
    del made, mine
    _until(lambda: not segments_of(fenced))


def _is_alive(node: ClusterNode) -> bool:
    return any(each["Alive"] for each in weft.nodes() if each["NodeID"] == node.node_id)


def _until(condition: Callable[[], bool]) -> None:
    end = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < end
        time.sleep(0.02)
