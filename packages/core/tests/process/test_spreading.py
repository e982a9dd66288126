"""SPREAD over the nodes of a cluster."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import weft
from weft.cluster_utils import Cluster
from weft.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("roots")]
NODES = 4
WAIT_S = 60.0


@pytest.fixture
def cluster(roots: tuple[Path, Path]) -> Iterator[Cluster]:
    """Four nodes with one CPU each; this process is a driver at the head."""
    with Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1}) as cluster:
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster


@weft.remote(scheduling_strategy="SPREAD")
def node(lasts_s: float = 0.0) -> str:
    time.sleep(lasts_s)
    return weft.get_runtime_context().get_node_id()


@weft.remote(num_cpus=1)
class Holder:
    def node(self) -> str:
        return weft.get_runtime_context().get_node_id()


@pytest.mark.usefixtures("cluster")
def test_tasks_that_spread_go_round_one_after_another_and_many_at_once() -> None:
    weft.get([node.remote() for _ in range(NODES)], timeout=WAIT_S)
    one_by_one = Counter(weft.get(node.remote(), timeout=WAIT_S) for _ in range(10 * NODES))
    assert sorted(one_by_one.values()) == [10] * NODES
    at_once = Counter(weft.get([node.remote() for _ in range(10 * NODES)], timeout=WAIT_S))
    assert len(at_once) == NODES
    assert max(at_once.values()) - min(at_once.values()) <= 4


def test_tasks_that_spread_leave_a_node_that_stays_busy(cluster: Cluster) -> None:
    (other, *_) = cluster.worker_nodes
    where = NodeAffinitySchedulingStrategy(other.node_id, soft=False)
    holder = Holder.options(scheduling_strategy=where).remote()
    assert weft.get(holder.node.remote(), timeout=WAIT_S) == other.node_id
    found = Counter(weft.get([node.remote() for _ in range(3 * NODES)], timeout=WAIT_S))
    assert other.node_id not in found
    assert len(found) == NODES - 1
