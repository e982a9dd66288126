"""What jobs may take: quota, weight and priority, as users say and see them."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.cluster_utils import Cluster
from weft.job_config import JobConfig
from weft.util import state
from weft.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("roots")]
WAIT_S = 20.0


def weft_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "weft", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )


def wait_until(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@weft.remote
def waits_for(folder: str, number: int) -> int:
    """Say that it has begun, and end when it is told to."""
    Path(folder, f"{number}.begun").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return number


def begun(folder: Path) -> int:
    return len(list(folder.glob("*.begun")))


def test_quota_of_a_session_on_one_machine_is_changed_by_a_command(tmp_path: Path) -> None:
    config = JobConfig(quota={"CPU": 1, "licence": 0}, weight=3)
    with weft.init(num_cpus=3, resources={"licence": 1}, job_config=config):
        job = weft.get_runtime_context().get_job_id()
        (facts,) = state.list_jobs()
        assert (facts.quota, facts.weight, facts.priority) == ({"CPU": 1, "licence": 0}, 3, 0)
        refs = [waits_for.remote(str(tmp_path), number) for number in range(3)]
        none = waits_for.options(num_cpus=0, resources={"licence": 1}).remote(str(tmp_path), 3)
        wait_until(lambda: begun(tmp_path) == 1)
        wait_until(
            lambda: (
                f"job {job} has used up its quota: 1 of 1 CPU" in weft.why(refs[-1])
                and "0 licence at most, and this needs 1" in weft.why(none)
            )
        )
        limited = weft_command("limit-job", job[:8], "--quota", "CPU=2", "--priority", "-1")
        assert (limited.returncode, limited.stderr) == (0, "")
        wait_until(lambda: begun(tmp_path) == 3)
        listed = weft_command("list", "jobs").stdout
        assert "CPU 2, weight 3, priority -1" in listed
        assert weft_command("limit-job", job, "--no-quota").returncode == 0
        wait_until(lambda: begun(tmp_path) == 4)
        (tmp_path / "go").touch()
        assert weft.get([*refs, none], timeout=WAIT_S) == [0, 1, 2, 3]
        refused = weft_command("limit-job", "ff", "--weight", "2")
        assert refused.stderr == f"Error: no job is 'ff'; there are {job}\n"


def test_limits_that_a_driver_brings_hold_on_all_nodes(tmp_path: Path) -> None:
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as cluster:
        assert cluster.head_node is not None
        other = cluster.add_node(num_cpus=2)
        config = JobConfig(quota={"CPU": 1}, priority=2)
        with weft.init(address=cluster.head_node.session_dir, job_config=config):
            job = weft.get_runtime_context().get_job_id()
            (facts,) = state.list_jobs()
            assert (facts.job_id, facts.quota, facts.priority) == (job, {"CPU": 1}, 2)
            near, far = (
                NodeAffinitySchedulingStrategy(node.node_id, soft=False)
                for node in (cluster.head_node, other)
            )
            first = waits_for.options(scheduling_strategy=near).remote(str(tmp_path), 0)
            wait_until(lambda: begun(tmp_path) == 1)
            sizes = itertools.count(1)

            def is_held() -> bool:
                probe = waits_for.options(scheduling_strategy=far, memory=next(sizes))
                return f"job {job} has used up its quota" in weft.why(
                    probe.remote(str(tmp_path), 1)
                )

            wait_until(is_held)
            assert begun(tmp_path) == 1
            # Asked of a node that does not have the driver.
            session = ("--session", other.session_dir)
            done = weft_command("limit-job", job, "--quota", "CPU=3", *session)
            assert (done.returncode, done.stderr) == (0, "")
            wait_until(lambda: begun(tmp_path) == 2)
            wait_until(lambda: state.list_jobs()[0].quota == {"CPU": 3})
            assert state.list_jobs()[0].priority == 2
            (tmp_path / "go").touch()
            assert weft.get(first, timeout=WAIT_S) == 0
        wait_until(lambda: not state.list_jobs(address=other.session_dir))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say what: --quota, --no-quota, --weight or --priority"),
        (("--weight", "0"), "weight=0 of weft limit-job has to be a whole number from 1 to"),
        (("--quota", "CPU"), "write it like a=1,b=0.5"),
        (("--quota", "CPU=-1"), "quota={'CPU': -1.0} of weft limit-job cannot be"),
        (("--quota", "CPU=1", "--no-quota"), "give one of them"),
        (("--priority", "1"), "no session"),
    ],
)
def test_wrong_limits_are_refused_in_a_line(arguments: tuple[str, ...], words: str) -> None:
    ended = weft_command("limit-job", "ab", *arguments)
    assert ended.returncode
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
