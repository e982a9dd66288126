"""Clusters for tests: nodes as processes on one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

import weft
from weft.cluster_utils import Cluster
from weft.exceptions import OptionError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("roots")]
WAIT_S = 20.0


def test_cluster_of_one_node_runs_tasks_and_leaves_nothing() -> None:
    @weft.remote
    def add(a: int, b: int) -> int:
        return a + b

    with Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 2}) as cluster:
        assert weft.cluster_resources()["CPU"] == 2
        assert weft.get(add.remote(1, 2)) == 3
        assert cluster.address.startswith("weft://127.0.0.1:")
        assert cluster.gcs_address == cluster.address
        assert cluster.remaining_processes_alive()
        (node,) = cluster.list_all_nodes()
        assert node is cluster.head_node
        assert node.node_id == weft.get_runtime_context().get_node_id()
    assert not weft.is_initialized()
    assert not node.is_alive()
    assert not Path(node.session_dir).exists()
    cluster.shutdown()


def test_node_that_is_removed_is_gone(
    gone: Callable[[list[int], float], list[int]],
) -> None:
    for graceful in (True, False):
        with Cluster(initialize_head=True) as cluster:
            node = cluster.add_node(wait=False, num_cpus=1, labels={"zone": "a"})
            assert cluster.list_all_nodes() == [cluster.head_node, node]
            assert cluster.worker_nodes == {node}
            assert cluster.head_node is not None
            assert psutil.Process(cluster.head_node.control_pid).ppid() == cluster.head_node.pid
            assert node.control_pid == 0
            cluster.remove_node(node, allow_graceful=graceful)
            assert gone([node.pid], WAIT_S) == []
            assert not Path(node.session_dir).exists()
            assert cluster.list_all_nodes() == [cluster.head_node]
            with pytest.raises(ValueError, match="is no node of this cluster, or was removed"):
                cluster.remove_node(node)


def test_cluster_without_a_head_says_so() -> None:
    cluster = Cluster()
    with pytest.raises(SessionError, match="no head yet"):
        cluster.connect()
    with pytest.raises(SessionError, match="no head yet"):
        _ = cluster.address
    with pytest.raises(OptionError, match="need initialize_head"):
        Cluster(connect=True)
    with pytest.raises(OptionError, match="num_cpu of Cluster"):
        cluster.add_node(num_cpu=1)
    with pytest.raises(OptionError, match="num_cpus=-1 of Cluster"):
        cluster.add_node(num_cpus=-1)
    assert cluster.list_all_nodes() == []
    cluster.shutdown()


def test_nodes_end_when_the_process_that_has_made_them_is_killed(
    gone: Callable[[list[int], float], list[int]],
) -> None:
    program = (
        "from weft.cluster_utils import Cluster\n"
        "cluster = Cluster(initialize_head=True)\n"
        "cluster.add_node(wait=False)\n"
        "print(*[node.pid for node in cluster.list_all_nodes()], flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as maker:
        assert maker.stdout is not None
        pids = list(map(int, maker.stdout.readline().split()))
        assert len(pids) == 2
        maker.send_signal(signal.SIGKILL)
    assert gone(pids, WAIT_S) == []
