"""The programs of the cluster's benchmark: several nodes on this host, the same for both systems.

Each takes the name of the module, weft or ray, starts its own nodes by that module's
`cluster_utils.Cluster`, and connects to the head. Which node a task runs on is decided by resources
of its own that each node has.
"""

from __future__ import annotations

import os
from importlib import import_module
from time import perf_counter
from typing import Any

import numpy as np
from _timing import Rate

SECONDS = 3.0
MIB = 1024 * 1024
LARGE_BYTES = 100 * MIB
IN_FLIGHT = 1000
ACTORS = 20
STORE_BYTES = 1024 * MIB
LEAST_STORE_BYTES = 400 * MIB
WAIT_S = 60


class Nodes:
    """A head and some nodes, and this process as a driver at the head."""

    def __init__(self, system: str, nodes: int, *, cpus: int = 1, store_bytes: int = 0) -> None:
        self.ray = import_module(system)
        self._node_args = {"object_store_memory": store_bytes or LEAST_STORE_BYTES}
        head = {"num_cpus": cpus, "resources": {"head": 100}, **self._node_args}
        cluster = import_module(f"{system}.cluster_utils").Cluster
        self.cluster = cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add(number, cpus=cpus) for number in range(1, nodes + 1)]
        self.ray.init(address=self.cluster.address)
        for number in range(1, nodes + 1):
            self.run_on(number)

    def add(self, number: int, *, cpus: int = 1) -> Any:
        """Add a node that alone has the resource `node<number>`."""
        resources = {f"node{number}": 100}
        return self.cluster.add_node(num_cpus=cpus, resources=resources, **self._node_args)

    def run_on(self, number: int) -> None:
        """Run a task on a node."""
        where = self.ray.remote(node_id)
        where = where.options(num_cpus=0, resources={f"node{number}": 1})
        self.ray.get(where.remote(), timeout=WAIT_S)


def node_id() -> int:
    return os.getpid()


def small(*_: object) -> bytes:
    return b"ok"


def node_added_s(system: str) -> float:
    nodes = Nodes(system, 0)
    begin = perf_counter()
    nodes.add(1)
    nodes.run_on(1)
    return perf_counter() - begin


def _tasks(nodes: Nodes) -> float:
    task = nodes.ray.remote(small)
    return Rate(SECONDS)(
        lambda: nodes.ray.get([task.remote() for _ in range(IN_FLIGHT)]), IN_FLIGHT
    )


def tasks_two_nodes(system: str) -> float:
    return _tasks(Nodes(system, 1))


def tasks_four_nodes(system: str) -> float:
    return _tasks(Nodes(system, 3))


def tasks_elsewhere(system: str) -> float:
    nodes = Nodes(system, 1)
    task = nodes.ray.remote(small).options(num_cpus=0, resources={"node1": 1})
    return Rate(SECONDS)(lambda: nodes.ray.get(task.remote()))


def groups(system: str) -> float:
    nodes = Nodes(system, 1)
    util = import_module(f"{system}.util")

    def make_and_remove() -> None:
        group = util.placement_group([{"node1": 0.001}, {"head": 0.001}], strategy="SPREAD")
        nodes.ray.get(group.ready(), timeout=WAIT_S)
        util.remove_placement_group(group)

    return Rate(SECONDS)(make_and_remove)


def actors_elsewhere_s(system: str) -> float:
    nodes = Nodes(system, 1)

    class Small:
        def value(self) -> bytes:
            return b"ok"

    actor = nodes.ray.remote(Small).options(num_cpus=0, resources={"node1": 1})
    begin = perf_counter()
    actors = [actor.remote() for _ in range(ACTORS)]
    assert nodes.ray.get([each.value.remote() for each in actors]) == [b"ok"] * ACTORS
    return perf_counter() - begin


def _touch(array: Any) -> int:
    """Look at a byte of every page."""
    return int(array[:: 4 * 1024].sum())


def transfer(system: str) -> float:
    """Gigabytes (10^9 bytes) a second: put here, read by a task there."""
    nodes = Nodes(system, 1, store_bytes=STORE_BYTES)
    ray = nodes.ray
    read = ray.remote(_touch).options(num_cpus=0, resources={"node1": 1})
    array = np.ones(LARGE_BYTES, np.uint8)
    put_s = [0.0]

    def send() -> None:
        begin = perf_counter()
        ref = ray.put(array)
        put_s[0] += perf_counter() - begin
        assert ray.get(read.remote(ref)) == LARGE_BYTES // 4096

    begin, rounds = perf_counter(), 0
    send()
    put_s[0] = 0.0
    begin = perf_counter()
    while perf_counter() - begin < SECONDS:
        send()
        rounds += 1
    return rounds * LARGE_BYTES / 1e9 / (perf_counter() - begin - put_s[0])


def broadcast_s(system: str) -> float:
    nodes = Nodes(system, 4)
    ray = nodes.ray
    read = ray.remote(_touch)
    ref = ray.put(np.ones(LARGE_BYTES, np.uint8))
    begin = perf_counter()
    found = [
        read.options(num_cpus=0, resources={f"node{number}": 1}).remote(ref)
        for number in range(1, 5)
    ]
    assert ray.get(found) == [LARGE_BYTES // 4096] * 4
    return perf_counter() - begin
