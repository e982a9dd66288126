"""Where tasks of a cluster run: SPREAD, affinity to a node, labels."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.cluster_utils import Cluster
from weft.exceptions import TaskUnschedulableError
from weft.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("roots")]
NODES = 4
WAIT_S = 60.0


@pytest.fixture
def cluster(roots: tuple[Path, Path]) -> Iterator[Cluster]:
    """Four nodes with one CPU each, all but the head with a zone; this process is a driver."""
    with Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1}) as cluster:
        for number in range(1, NODES):
            cluster.add_node(num_cpus=1, labels={"zone": f"z{number}"})
        cluster.wait_for_nodes()
        yield cluster


@weft.remote
def node(lasts_s: float = 0.0) -> str:
    time.sleep(lasts_s)
    return weft.get_runtime_context().get_node_id()


@weft.remote(num_cpus=1)
class Holder:
    def node(self) -> str:
        return weft.get_runtime_context().get_node_id()


spreading = node.options(scheduling_strategy="SPREAD")


def get(refs: Any) -> Any:
    return weft.get(refs, timeout=WAIT_S)


def at(strategy: Any) -> str:
    """Return where a task runs; no other is in its way."""
    found: str = get(node.options(num_cpus=0, scheduling_strategy=strategy).remote())
    return found


# ------------------------------------------------------------------ spread


@pytest.mark.usefixtures("cluster")
def test_tasks_that_spread_go_round_one_after_another_and_many_at_once() -> None:
    one_by_one = Counter(get(spreading.remote()) for _ in range(10 * NODES))
    assert sorted(one_by_one.values()) == [10] * NODES
    at_once = Counter(get([spreading.remote() for _ in range(10 * NODES)]))
    assert len(at_once) == NODES
    assert max(at_once.values()) - min(at_once.values()) <= 4


def test_tasks_that_spread_leave_a_node_that_stays_busy(cluster: Cluster) -> None:
    (other, *_) = cluster.worker_nodes
    where = NodeAffinitySchedulingStrategy(other.node_id, soft=False)
    holder = Holder.options(scheduling_strategy=where).remote()
    assert get(holder.node.remote()) == other.node_id
    found = Counter(get([spreading.remote() for _ in range(3 * NODES)]))
    assert other.node_id not in found
    assert len(found) == NODES - 1


# ------------------------------------------------------------------ this node, these labels


def test_tasks_run_on_the_node_that_they_name_and_softly_elsewhere_once_it_is_dead(
    cluster: Cluster,
) -> None:
    lost, *_, other = cluster.worker_nodes
    for named in (lost, other):
        for soft in (False, True):
            assert at(NodeAffinitySchedulingStrategy(named.node_id, soft=soft)) == named.node_id
    cluster.remove_node(lost, allow_graceful=False)
    with pytest.raises(TaskUnschedulableError, match=lost.node_id):
        at(NodeAffinitySchedulingStrategy(lost.node_id, soft=False))
    assert at(NodeAffinitySchedulingStrategy(lost.node_id, soft=True)) != lost.node_id


def test_task_waits_for_the_node_that_it_names_while_others_are_idle(cluster: Cluster) -> None:
    (other, *_) = cluster.worker_nodes
    hard = NodeAffinitySchedulingStrategy(other.node_id, soft=False)
    holder = Holder.options(scheduling_strategy=hard).remote()
    get(holder.node.remote())
    task = node.options(scheduling_strategy=hard).remote()
    assert weft.wait([task], timeout=1.0) == ([], [task])
    weft.kill(holder)
    assert get(task) == other.node_id


def test_tasks_run_where_the_labels_are_and_softly_elsewhere_once_they_are_gone(
    cluster: Cluster,
) -> None:
    assert cluster.head_node is not None
    head = cluster.head_node.node_id
    zone_of = {each["NodeID"]: each["Labels"].get("zone") for each in weft.nodes()}
    labelled = {zone: node_id for node_id, zone in zone_of.items() if zone}
    hard = {
        In("z2"): {labelled["z2"]},
        In("z1", "z3"): {labelled["z1"], labelled["z3"]},
        NotIn("z1", "z2"): {labelled["z3"], head},
        Exists(): {*labelled.values()},
        DoesNotExist(): {head},
    }
    for condition, nodes in hard.items():
        assert at(NodeLabelSchedulingStrategy({"zone": condition})) in nodes
    soft = NodeLabelSchedulingStrategy({}, soft={"zone": In("z1")})
    both = NodeLabelSchedulingStrategy({"zone": Exists()}, soft={"zone": In("z1")})
    assert at(soft) == at(both) == labelled["z1"]
    (lost,) = [each for each in cluster.worker_nodes if each.node_id == labelled["z1"]]
    cluster.remove_node(lost, allow_graceful=False)
    with pytest.raises(TaskUnschedulableError, match="zone"):
        at(NodeLabelSchedulingStrategy({"zone": In("z1")}))
    assert at(soft) != lost.node_id
    assert at(both) in {labelled["z2"], labelled["z3"]}
