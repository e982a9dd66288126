"""Nodes of a cluster as real processes: they join, die and are cut off; so does control."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import weft
from weft._launch import ClusterFile, NodeOptions
from weft._runtime.tools import Tool
from weft._starting import HeadOptions, start_head, start_neighbour, wait_for_node
from weft._transport.control import messages
from weft._transport.control.client import ControlClient
from weft._transport.control.joining import join_cluster
from weft._transport.credentials import open_credentials
from weft._wire.codec import unpack
from weft.exceptions import AuthenticationError, DaemonDiedError
from weft.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Etcd

    from weft._launch import Started

pytestmark = pytest.mark.slow
WAIT_S = 20.0
SHAPES = itertools.count(1)
"""Amounts of memory that differ."""


class RealCluster:
    """A head and those who join it."""

    def __init__(self, folder: Path, **options_of_head: Any) -> None:
        self.folder = folder
        options = HeadOptions(
            node=NodeOptions(num_cpus=2),
            host="127.0.0.1",
            lifeline_pid=os.getpid(),
            **options_of_head,
        )
        self.head = start_head(options)
        self.started = [self.head.started]
        wait_for_node(self.head.started)
        credentials = open_credentials(Path(self.head.cluster.credentials))
        self.client = ControlClient(self.head.join.address, credentials)

    def add(self) -> Started:
        """Let another node join, and wait until it is a member."""
        folder = self.folder / f"credentials{len(self.started)}"
        join_cluster(self.head.join, folder)
        options = NodeOptions(num_cpus=2)
        cluster = ClusterFile(node="", credentials=str(folder), control=self.head.cluster.control)
        started, _ = start_neighbour(options, cluster, host="127.0.0.1", lifeline_pid=os.getpid())
        self.started.append(started)
        wait_for_node(started)
        self.until(lambda: len(self.living()) == len(self.started))
        return started

    def members(self) -> list[Any]:
        return list(self.client.call("Members", "list", messages.ListMembersRequest()).nodes)

    def living(self) -> list[Any]:
        return [node for node in self.members() if node.state == messages.MEMBER]

    def until_used(self, nodes: int) -> None:
        """Run tasks until so many nodes have run one."""
        seen: set[str] = set()

        def use() -> bool:
            seen.update(spread())
            return len(seen) == nodes

        self.until(use)

    def control_pid(self) -> int:
        children = psutil.Process(self.head.started.process.pid).children()
        found = [child.pid for child in children if "_control.main" in child.cmdline()]
        return found[0] if found else 0

    def until(self, condition: Callable[[], Any]) -> float:
        began_at = time.monotonic()
        while not condition():
            assert time.monotonic() < began_at + WAIT_S, [s.last_words() for s in self.started]
            time.sleep(0.02)
        return time.monotonic() - began_at

    def close(self) -> None:
        weft.shutdown()
        self.client.close()
        for started in reversed(self.started):
            if started.process.poll() is None:
                os.kill(started.process.pid, signal.SIGCONT)
                os.kill(started.process.pid, signal.SIGTERM)
                assert started.process.wait(WAIT_S) == 0, started.last_words()
                assert not Path(started.session_dir).exists()
            else:  # The next node on this machine would remove them.
                shutil.rmtree(started.session_dir, ignore_errors=True)
                shutil.rmtree(started.store_dir, ignore_errors=True)


@pytest.fixture
def cluster(roots: tuple[Path, Path], tmp_path: Path) -> Iterator[RealCluster]:
    """A head."""
    made = RealCluster(tmp_path)
    yield made
    made.close()


@weft.remote(scheduling_strategy="SPREAD")
def where() -> str:
    return weft.get_runtime_context().get_node_id()


def spread(tasks: int = 8) -> set[str]:
    # Of a shape that was not asked for before: no worker is at hand that would take them all.
    asked = where.options(memory=next(SHAPES))
    return set(weft.get([asked.remote() for _ in range(tasks)], timeout=WAIT_S))


def test_tasks_run_on_nodes_that_have_joined(cluster: RealCluster) -> None:
    cluster.add()
    weft.init(address=cluster.head.started.session)
    ids = {node.node_id.hex() for node in cluster.living()}
    cluster.until_used(len(ids))


def test_wrong_token_joins_nothing(cluster: RealCluster, tmp_path: Path) -> None:
    cluster.until(cluster.living)
    join = cluster.head.join
    wrong = type(join)(join.host, join.port, bytes(16), join.fingerprint)
    with pytest.raises(AuthenticationError, match="the token is wrong"):
        join_cluster(wrong, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_killed_control_service_is_back_and_work_goes_on(cluster: RealCluster) -> None:
    cluster.add()
    weft.init(address=cluster.head.started.session)
    ids = {node.node_id.hex() for node in cluster.living()}
    cluster.until_used(len(ids))
    incarnations = [node.incarnation for node in cluster.living()]
    os.kill(cluster.control_pid(), signal.SIGKILL)
    # How long it may take is promised for a machine with time to spare: the benchmark tells.
    assert [node.incarnation for node in cluster.living()] == incarnations
    assert spread() <= ids
    cluster.until(lambda: all(node.is_known for node in cluster.living()))
    assert [node.incarnation for node in cluster.living()] == incarnations


@pytest.mark.parametrize(
    ("journal", "told"),
    [
        ("oracle://x", "give sqlite:PATH, etcd://HOST:PORT,.../PREFIX or memory:"),
        ("sqlite:/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_head_whose_journal_cannot_be_had_says_so_and_ends(
    roots: tuple[Path, Path], journal: str, told: str
) -> None:
    head = start_head(
        HeadOptions(
            node=NodeOptions(num_cpus=1),
            host="127.0.0.1",
            journal=journal,
            lifeline_pid=os.getpid(),
        )
    )
    with pytest.raises(DaemonDiedError, match="the node did not start: weft control") as caught:
        wait_for_node(head.started)
    assert told in str(caught.value)
    head.started.process.wait(WAIT_S)
    # The next node on this machine removes the log.
    shutil.rmtree(head.started.session_dir)


def test_template_that_was_killed_is_replaced_beside_threads(cluster: RealCluster) -> None:
    weft.init(address=cluster.head.started.session)
    cluster.until(cluster.living)
    assert spread() == {node.node_id.hex() for node in cluster.living()}
    daemon = psutil.Process(cluster.head.started.process.pid)
    assert daemon.num_threads() > 1
    control = cluster.control_pid()
    (template,) = [child.pid for child in daemon.children() if child.pid != control]
    os.kill(template, signal.SIGKILL)
    cluster.until(lambda: template not in {child.pid for child in daemon.children()})
    assert len(spread()) == 1
    assert len(cluster.living()) == 1


def test_killed_node_is_dead_for_all(cluster: RealCluster) -> None:
    gone = cluster.add()
    weft.init(address=cluster.head.started.session)
    cluster.until_used(2)
    gone.process.kill()
    gone.process.wait(WAIT_S)
    cluster.until(lambda: len(cluster.living()) == 1)
    cluster.until(lambda: len(spread()) == 1)


def test_node_that_was_silent_is_fenced_and_comes_back_as_a_fresh_one(
    cluster: RealCluster,
) -> None:
    other = cluster.add()
    before = {node.node_id: node.incarnation for node in cluster.living()}
    os.kill(other.process.pid, signal.SIGSTOP)
    cluster.until(lambda: len(cluster.living()) == 1)
    os.kill(other.process.pid, signal.SIGCONT)
    cluster.until(lambda: len(cluster.living()) == 2)
    after = {node.node_id: node.incarnation for node in cluster.living()}
    assert after.keys() == before.keys()
    assert sum(after[node_id] > before[node_id] for node_id in after) == 1
    assert "was declared dead" in other.last_words()


def test_head_that_is_started_again_knows_its_members(
    roots: tuple[Path, Path], tmp_path: Path
) -> None:
    kept = {"journal": f"sqlite:{tmp_path / 'journal'}", "credentials": str(tmp_path / "kept")}
    first = RealCluster(tmp_path, **kept)
    try:
        other = first.add()
        before = {node.address: node.incarnation for node in first.living()}
        first.head.started.process.kill()
        first.head.started.process.wait(WAIT_S)
        again = RealCluster(tmp_path, port=first.head.join.port, **kept)
        first.started.append(again.head.started)
        again.client.close()
        assert again.head.join == first.head.join
        weft.init(address=other.session)
        first.until_used(2)
        first.until(lambda: len(first.living()) == 2)
        after = {node.address: node.incarnation for node in first.living()}
        head = f"{first.head.cluster.node}/node"
        assert [before[address] == after[address] for address in before if address != head] == [
            True
        ]
        assert after[head] > before[head]
    finally:
        first.close()


def test_standby_head_takes_over_within_five_seconds(
    roots: tuple[Path, Path], tmp_path: Path, etcd: Etcd
) -> None:
    first = RealCluster(tmp_path, journal=f"etcd://{etcd.host}/takeover")
    try:
        options = NodeOptions(num_cpus=2)
        started, standby = weft._starting.join_cluster(
            options, first.head.join, host="127.0.0.1", standby=True
        )
        first.started.append(started)
        wait_for_node(started)
        other = first.add()
        weft.init(address=other.session)
        first.until_used(3)
        with Tool(other.session_dir, WAIT_S) as tool:
            nodes = unpack(tool.ask("status"), Any)["nodes"]
        heads = {node["address"]: node["is_head"] for node in nodes if node["may_be_head"]}
        assert heads == {first.head.cluster.node: True, standby.node: False}
        lease = Path(started.session_dir, "lease")
        first.until(lambda: lease.exists() and lease.read_bytes())
        head = first.head.started.process
        head.kill()
        head.wait(WAIT_S)
        client = ControlClient(standby.node, open_credentials(Path(standby.credentials)))
        client.call("Members", "list", messages.ListMembersRequest())
        first.client.close()
        first.client = client
        first.until(lambda: len(first.living()) == 2)
        assert {node.state for node in first.members()} == {messages.MEMBER, messages.GONE}
        first.until_used(2)
    finally:
        first.close()


@weft.remote
def waits_for(folder: str, number: int) -> int:
    """Say that it has begun, and end when it is told to."""
    Path(folder, f"{number}.begun").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return number


def test_quota_bounds_a_job_on_all_nodes_together(cluster: RealCluster, tmp_path: Path) -> None:
    cluster.add()
    weft.init(address=cluster.head.started.session)
    job = weft.get_runtime_context().get_job_id()
    known = messages.ListJobsRequest()
    cluster.until(
        lambda: (
            job in [each.job_id.hex() for each in cluster.client.call("Jobs", "list", known).jobs]
        )
    )

    def limit(cpus: int) -> None:
        limits = messages.Limits(quota={"CPU": cpus * 10_000})
        request = messages.LimitJobRequest(job_id=bytes.fromhex(job), limits=limits)
        cluster.client.call("Jobs", "limit", request)

    def begun() -> int:
        return len(list(tmp_path.glob("*.begun")))

    limit(0)
    # The nodes hear of it a moment later. Each of these wants a worker of its own.
    no_cpu = f"job {job} has used up its quota: 0 CPU at most, and this needs 1"
    sizes = itertools.count(1)
    cluster.until(lambda: no_cpu in weft.why(where.options(memory=next(sizes)).remote()))
    here = weft.get_runtime_context().get_node_id()
    there = next(n.node_id.hex() for n in cluster.living() if n.node_id.hex() != here)
    near, far = (NodeAffinitySchedulingStrategy(node, soft=False) for node in (here, there))
    first = waits_for.options(scheduling_strategy=near).remote(str(tmp_path), 0)
    assert no_cpu in weft.why(first)
    limit(1)
    cluster.until(begun)

    def is_held() -> bool:
        probe = where.options(scheduling_strategy=far, memory=next(sizes)).remote()
        return not weft.wait([probe], timeout=2)[0]

    cluster.until(is_held)
    others = [
        waits_for.options(scheduling_strategy=at).remote(str(tmp_path), number)
        for number, at in enumerate((far, far, near), 1)
    ]
    cluster.until(lambda: f"job {job} has used up its quota: 1 of 1 CPU" in weft.why(others[-1]))
    assert begun() == 1
    limit(3)
    cluster.until(lambda: begun() == 3)
    (tmp_path / "go").touch()
    assert weft.get([first, *others], timeout=WAIT_S) == [0, 1, 2, 3]
