"""Placement groups over several nodes of one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.cluster_utils import Cluster
from weft.exceptions import (
    ActorDiedError,
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    OptionError,
    TaskPlacementGroupRemoved,
)
from weft.util import (
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from weft.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from weft.util.state import list_placement_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from weft.util.placement_group import PlacementGroup

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("roots")]
WAIT_S = 30.0


@pytest.fixture
def cluster(roots: tuple[Path, Path]) -> Iterator[Cluster]:
    """Three nodes: the head, with one CPU, and two with two; this process is a driver there."""
    with Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1}) as cluster:
        for zone in ("a", "b"):
            cluster.add_node(num_cpus=2, labels={"zone": zone})
        yield cluster


@weft.remote
def node() -> str:
    return weft.get_runtime_context().get_node_id()


@weft.remote
def node_in_group() -> tuple[str, str | None]:
    context = weft.get_runtime_context()
    return context.get_node_id(), context.get_placement_group_id()


@weft.remote
class Inhabitant:
    def where(self) -> tuple[str, str | None]:
        context = weft.get_runtime_context()
        return context.get_node_id(), context.get_placement_group_id()

    def pid(self) -> int:
        return os.getpid()


@weft.remote
def busy() -> None:
    time.sleep(0.01)


@weft.remote
def children(count: int) -> list[tuple[str, str | None]]:
    return weft.get([node_in_group.remote() for _ in range(count)])


def get(ref: Any) -> Any:
    return weft.get(ref, timeout=WAIT_S)


def inside(group: PlacementGroup, index: int = -1, captures: bool = False) -> Any:
    return PlacementGroupSchedulingStrategy(group, index, captures)


def places(group: PlacementGroup) -> list[str]:
    found: dict[int, str] = placement_group_table(group)["bundles_to_node_id"]
    return [found[index] for index in sorted(found)]


def run_in_each(group: PlacementGroup) -> list[str]:
    """Return where tasks ran, one in each bundle."""
    at = [inside(group, index) for index in range(group.bundle_count)]
    return get([node.options(scheduling_strategy=each).remote() for each in at])


def wait_until(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def made(*bundles: float, strategy: str, **facts: Any) -> PlacementGroup:
    group = placement_group([{"CPU": amount} for amount in bundles], strategy, **facts)
    assert group.wait(WAIT_S), weft.why(group)
    return group


@pytest.mark.usefixtures("cluster")
def test_bundles_go_where_the_strategy_says_and_tasks_where_the_bundles_are() -> None:
    spread = made(1, 1, 1, strategy="STRICT_SPREAD")
    assert len(set(places(spread))) == 3
    assert run_in_each(spread) == places(spread)
    remove_placement_group(spread)
    packed = made(1, 1, strategy="STRICT_PACK")
    assert len(set(places(packed))) == 1
    assert run_in_each(packed) == places(packed)
    strategy = inside(packed, captures=True)
    found = get(children.options(scheduling_strategy=strategy, num_cpus=0).remote(3))
    assert found == [(places(packed)[0], packed.id.hex())] * 3
    remove_placement_group(packed)


@pytest.mark.usefixtures("cluster")
def test_bundles_go_to_nodes_with_their_labels() -> None:
    selectors = [{"zone": "b"}, {"zone": "a"}]
    group = made(1, 1, strategy="PACK", bundle_label_selector=selectors)
    zone_of = {each["NodeID"]: each["Labels"].get("zone") for each in weft.nodes()}
    assert [zone_of[at] for at in places(group)] == ["b", "a"]
    assert run_in_each(group) == places(group)


@pytest.mark.usefixtures("cluster")
def test_group_without_room_waits_and_says_why() -> None:
    first = made(2, 2, strategy="SPREAD")
    second = placement_group([{"CPU": 2}])
    task = node.options(scheduling_strategy=inside(second)).remote()
    assert not second.wait(0.1)
    assert "bundle 0: needs CPU 2" in weft.why(second)
    ready = second.ready()
    remove_placement_group(first)
    assert get(ready) == second
    assert get(task) == places(second)[0]


def test_group_that_no_node_can_ever_hold_waits_for_one_that_can(cluster: Cluster) -> None:
    group = placement_group([{"CPU": 3}], name="large")
    task = node.options(scheduling_strategy=inside(group)).remote()
    short = "bundle 0: needs CPU 3, 2 nodes have 2"
    wait_until(lambda: short in weft.why(task))
    for told in (weft.why(group), weft.why(task), status(cluster)):
        assert short in told
        assert "no node could ever hold it" in told
    added = cluster.add_node(num_cpus=3)
    assert get(task) == added.node_id
    assert "large" not in status(cluster)


def status(cluster: Cluster) -> str:
    """Return what `weft status` says."""
    command = [sys.executable, "-m", "weft", "status", "--session", cluster.address]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=WAIT_S
    ).stdout


@pytest.mark.usefixtures("cluster")
def test_group_gets_its_room_while_tasks_keep_coming() -> None:
    is_over = threading.Event()

    def press() -> None:
        while not is_over.is_set():
            weft.get([busy.remote() for _ in range(20)])

    presses = [threading.Thread(target=press) for _ in range(2)]
    for one in presses:
        one.start()
    try:
        wait_until(lambda: weft.available_resources().get("CPU", 0) == 0)
        group = made(1, 1, 1, strategy="STRICT_SPREAD")
        assert run_in_each(group) == places(group)
    finally:
        is_over.set()
        for one in presses:
            one.join()


@pytest.mark.usefixtures("cluster")
def test_actors_run_in_bundles_and_end_with_their_group() -> None:
    group = made(1, 1, 1, strategy="STRICT_SPREAD")
    actors = [
        Inhabitant.options(num_cpus=1, max_restarts=restarts, **at).remote()
        for restarts, at in (
            (0, {"scheduling_strategy": inside(group, 0, captures=True)}),
            (-1, {"scheduling_strategy": inside(group, 1)}),
            (0, {"scheduling_strategy": inside(group)}),
        )
    ]
    assert get([actor.where.remote() for actor in actors]) == [
        (at, group.id.hex()) for at in places(group)
    ]
    child = Inhabitant.options(scheduling_strategy=inside(group, 2)).remote()
    assert get(child.where.remote()) == (places(group)[2], group.id.hex())
    os.kill(get(actors[1].pid.remote()), signal.SIGKILL)
    wait_until(lambda: is_back(actors[1]))
    assert get(actors[1].where.remote()) == (places(group)[1], group.id.hex())
    remove_placement_group(group)
    for actor in actors:
        with pytest.raises(ActorPlacementGroupRemoved, match="was removed"):
            call_until_it_fails(actor)
    waiting = Inhabitant.options(scheduling_strategy=inside(group)).remote()
    with pytest.raises(ActorPlacementGroupRemoved, match="was removed"):
        get(waiting.where.remote())


def is_back(actor: Any) -> bool:
    try:
        return bool(get(actor.pid.remote()))
    except ActorUnavailableError:
        return False


def call_until_it_fails(actor: Any) -> None:
    """Call an actor that is about to end; its process may live a little longer than it."""
    while True:
        try:
            get(actor.where.remote())
        except ActorUnavailableError:
            time.sleep(0.02)


@pytest.mark.usefixtures("cluster")
def test_removed_group_refuses_who_waits_on_any_node() -> None:
    held = made(2, 2, strategy="SPREAD")
    never = placement_group([{"CPU": 2}], name="mine")
    waiting = [
        node.options(scheduling_strategy=inside(never)).remote(),
        never.ready(),
        node.options(scheduling_strategy=inside(held, 0), num_cpus=2).remote(),
    ]
    get(waiting.pop())
    with pytest.raises(OptionError, match="the name 'mine' is taken"):
        placement_group([{"CPU": 1}], name="mine")
    remove_placement_group(never)
    for ref in waiting:
        with pytest.raises(TaskPlacementGroupRemoved, match="was removed"):
            get(ref)
    with pytest.raises(TaskPlacementGroupRemoved, match="was removed"):
        get(node.options(scheduling_strategy=inside(never, 0)).remote())
    with pytest.raises(ValueError, match="no placement group is named"):
        get_placement_group("mine")
    states = {each.placement_group_id: each.state for each in list_placement_groups()}
    assert states == {held.id.hex(): "CREATED", never.id.hex(): "REMOVED"}


def test_bundle_of_a_dead_node_goes_to_another(cluster: Cluster) -> None:
    group = made(1, 1, 1, strategy="STRICT_SPREAD")
    before = places(group)
    lost = next(iter(cluster.worker_nodes))
    cluster.remove_node(lost, allow_graceful=False)
    wait_until(lambda: placement_group_table(group)["state"] == "RESCHEDULING")
    waiting = node.options(scheduling_strategy=inside(group, before.index(lost.node_id))).remote()
    added = cluster.add_node(num_cpus=2)
    assert group.wait(WAIT_S), weft.why(group)
    assert places(group) == [added.node_id if at == lost.node_id else at for at in before]
    assert get(waiting) == added.node_id
    assert run_in_each(group) == places(group)


def test_actor_moves_with_its_bundle_when_their_node_dies(cluster: Cluster) -> None:
    lost = next(iter(cluster.worker_nodes))
    zone = {each["NodeID"]: each["Labels"].get("zone", "") for each in weft.nodes()}[lost.node_id]
    group = made(1, strategy="PACK", bundle_label_selector=[{"zone": zone}])
    where = inside(group, 0)
    stays, ends = (
        Inhabitant.options(num_cpus=0.5, max_restarts=restarts, scheduling_strategy=where).remote()
        for restarts in (-1, 0)
    )
    assert get([stays.where.remote(), ends.where.remote()]) == [(lost.node_id, group.id.hex())] * 2
    cluster.remove_node(lost, allow_graceful=False)
    added = cluster.add_node(num_cpus=1, labels={"zone": zone})
    wait_until(lambda: is_back(stays))
    assert get(stays.where.remote()) == (added.node_id, group.id.hex())
    with pytest.raises(ActorDiedError, match=lost.node_id):
        call_until_it_fails(ends)


def test_groups_outlive_the_control_service(cluster: Cluster) -> None:
    group = made(1, 1, 1, strategy="STRICT_SPREAD", name="mine")
    before = places(group)
    assert cluster.head_node is not None
    os.kill(cluster.head_node.control_pid, signal.SIGKILL)
    assert run_in_each(group) == before
    assert get_placement_group("mine") == group
    wait_until(lambda: placement_group_table(group)["state"] == "CREATED")
    assert places(group) == before
    remove_placement_group(group)
    assert len(set(places(made(1, 1, 1, strategy="STRICT_SPREAD")))) == 3


def test_group_ends_with_its_job_unless_it_is_detached(cluster: Cluster) -> None:
    mine = made(1, strategy="PACK", name="mine")
    kept = made(1, strategy="PACK", name="kept", lifetime="detached")
    namespace = weft.get_runtime_context().namespace
    weft.shutdown()
    weft.init(address=cluster.address, namespace=namespace)
    wait_until(lambda: placement_group_table(mine)["state"] == "REMOVED")
    assert get_placement_group("kept") == kept
    assert run_in_each(kept) == places(kept)


def test_what_a_group_had_is_free_again_when_it_is_removed(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=0, resources={"mine": 1})
    for _ in range(20):
        group = placement_group([{"mine": 1}])
        assert group.wait(WAIT_S), weft.why(group)
        remove_placement_group(group)
        wait_until(lambda: weft.available_resources().get("mine") == 1)
