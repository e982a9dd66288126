"""What clients on a host see while things happen to hosts is what was promised."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SEEDS = range(int(os.environ.get("WEFT_TEST_HOSTS_SEEDS", "20")))
"""Others by hand: `WEFT_TEST_HOSTS_SEEDS=100`."""
FAULTS = 4
PAUSE_S = (0.2, 1.5)
# Shorter and longer than the silence after which a host is dead.
BRIEFLY_S, LONG_S = (0.5, 3.0), 8.0
ENDS_S = 150.0


class Schedule:
    """Things that happen to a cluster whose clients are on the third host."""

    def __init__(
        self, cluster: Any, between: Any, kill: Callable[[list[int]], None], seed: int
    ) -> None:
        self.cluster = cluster
        self.between = between
        self.kill = kill
        self.draw = random.Random(seed)

    def do(self, faults: int) -> None:
        for _ in range(faults):
            time.sleep(self.draw.uniform(*PAUSE_S))
            self.draw.choice(KINDS)(self)

    def kill_worker(self) -> None:
        host = self.draw.choice(self.cluster.hosts.all)
        if workers := host.workers():
            self.kill([self.draw.choice(workers)])

    def kill_daemon(self) -> None:
        self.kill([self.cluster.second.daemon()])
        self.cluster.start_node(self.cluster.second)

    def kill_control(self) -> None:
        if control := self.cluster.head.control():
            self.kill(control)

    def kill_head(self) -> None:
        self.kill([self.cluster.head.daemon()])
        self.cluster.start_head()

    def break_connections(self) -> None:
        self.between.order("cut")

    def cut_briefly(self) -> None:
        self._cut(self.draw.uniform(*BRIEFLY_S))

    def cut_for_long(self) -> None:
        self._cut(LONG_S)

    def _cut(self, seconds: float) -> None:
        direction = self.draw.choice(("both", "what it says", "what it hears"))
        mend = self.cluster.cut_off(self.cluster.second, direction)
        time.sleep(seconds)
        mend()


KINDS: list[Callable[[Schedule], None]] = [
    Schedule.kill_worker, Schedule.kill_worker, Schedule.kill_daemon, Schedule.kill_control,
    Schedule.kill_head, Schedule.cut_briefly, Schedule.cut_for_long, Schedule.break_connections,
]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_clients_see_what_was_promised_whatever_happens_to_hosts(
    hosts: Any, make_cluster: Any, killed: Any, seed: int, tmp_path: Path
) -> None:
    _, second, third = hosts.all
    between = hosts.put_between(second, third)
    cluster = make_cluster(hosts)
    clients = cluster.drive(third, "clients.py", str(tmp_path), str(seed))
    Schedule(cluster, between, killed, seed).do(FAULTS)
    report = clients.ask("end", ENDS_S)
    assert report["lives"] >= 1
    assert report["ended"].keys() == {"call", "task", "retried task", "read", "add", "get"}
