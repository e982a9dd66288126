"""What clients of a real cluster see while parts of it are killed is what was promised."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from weft.cluster_utils import Cluster
from weft.testing.cluster_clients import ClusterClients

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("roots")]
SEEDS = range(int(os.environ.get("WEFT_TEST_CLUSTER_SEEDS", "3")))
"""More by hand: `WEFT_TEST_CLUSTER_SEEDS=50`."""
FAULTS = 4
PAUSE_S = (0.2, 1.2)
NODE_CPUS = 2


def workers(node: Any) -> list[psutil.Process]:
    """Return the workers of a node: the children of what its daemon has started."""
    try:
        started = psutil.Process(node.pid).children()
        return [worker for process in started for worker in process.children()]
    except psutil.NoSuchProcess:
        return []


def kill_worker(cluster: Cluster, draw: random.Random) -> None:
    found = [worker for node in cluster.list_all_nodes() for worker in workers(node)]
    if found:
        draw.choice(found).kill()


def kill_node(cluster: Cluster, draw: random.Random) -> None:
    nodes = [node for node in cluster.list_all_nodes() if not node.is_head]
    if nodes:
        cluster.remove_node(draw.choice(nodes), allow_graceful=False)


def kill_control(cluster: Cluster, draw: random.Random) -> None:
    assert cluster.head_node is not None
    pid = cluster.head_node.control_pid
    if pid:
        psutil.Process(pid).kill()


def add_node(cluster: Cluster, draw: random.Random) -> None:
    cluster.add_node(wait=False, num_cpus=NODE_CPUS)


FAULT_KINDS: list[Callable[[Cluster, random.Random], None]] = [
    kill_worker, kill_worker, kill_node, kill_control, add_node,
]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_clients_see_what_was_promised_whoever_is_killed(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    with Cluster(initialize_head=True, head_node_args={"num_cpus": NODE_CPUS}) as cluster:
        for _ in range(2):
            cluster.add_node(num_cpus=NODE_CPUS)
        cluster.connect()
        clients = ClusterClients(tmp_path, seed=seed)
        clients.begin()
        for _ in range(FAULTS):
            time.sleep(draw.uniform(*PAUSE_S))
            draw.choice(FAULT_KINDS)(cluster, draw)
        report = clients.end()
    assert report.lives >= 1
    assert report.ended.keys() == {"call", "task", "retried task", "read", "add", "get"}
