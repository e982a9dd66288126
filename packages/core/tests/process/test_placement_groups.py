"""Placement groups among processes: what is reserved, while others want it and die."""

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
from weft._launch import NodeOptions
from weft._starting import HeadOptions, start_head, wait_for_node
from weft.exceptions import ActorPlacementGroupRemoved, TaskPlacementGroupRemoved
from weft.util import placement_group, placement_group_table, remove_placement_group
from weft.util.placement_group import PlacementGroup, get_current_placement_group
from weft.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from weft.util.state import list_placement_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
WAIT_S = 30.0


@pytest.fixture
def session(roots: tuple[Path, Path]) -> Iterator[None]:
    weft.init(num_cpus=2, num_gpus=4, log_to_driver=False)
    yield
    weft.shutdown()


@weft.remote
def devices() -> tuple[list[int] | list[str], str]:
    return weft.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]


@weft.remote
def small() -> None:
    time.sleep(0.001)


@weft.remote
def here() -> PlacementGroup | None:
    return get_current_placement_group()


@weft.remote
def die_once(path: str) -> PlacementGroup | None:
    if not os.path.exists(path):  # noqa: PTH110 - the shortest program
        open(path, "w").close()  # noqa: PTH123
        os.kill(os.getpid(), signal.SIGKILL)
    return get_current_placement_group()


class Inhabitant:
    def pid(self) -> int:
        return os.getpid()

    def group(self) -> PlacementGroup | None:
        return get_current_placement_group()


def inside(group: PlacementGroup, index: int = -1, **facts: Any) -> Any:
    return PlacementGroupSchedulingStrategy(group, index, **facts)


def get(ref: Any) -> Any:
    return weft.get(ref, timeout=WAIT_S)


def call_until_it_fails(actor: Any) -> None:
    """Call an actor that is about to end; its process may live a little longer than it."""
    while True:
        get(actor.group.remote())


def run_until_it_fails(group: PlacementGroup) -> None:
    """Run tasks in a group that another process has removed: its workers are about to end."""
    while True:
        get(here.options(scheduling_strategy=inside(group)).remote())


def wait_until(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


# ------------------------------------------------------------------ what is reserved


@pytest.mark.usefixtures("session")
def test_group_gets_its_room_while_tasks_keep_coming() -> None:
    is_over = threading.Event()

    def press() -> None:
        while not is_over.is_set():
            weft.get([small.remote() for _ in range(20)])

    presses = [threading.Thread(target=press) for _ in range(2)]
    for one in presses:
        one.start()
    try:
        for _ in range(3):
            group = placement_group([{"CPU": 1}, {"CPU": 1}])
            assert group.wait(WAIT_S)
            assert get(here.options(scheduling_strategy=inside(group)).remote()) == group
            remove_placement_group(group)
    finally:
        is_over.set()
        for one in presses:
            one.join()


@pytest.mark.usefixtures("session")
def test_tasks_see_the_devices_of_their_bundle_alone() -> None:
    group = placement_group([{"GPU": 2, "CPU": 0.5}, {"GPU": 1, "CPU": 0.5}])
    second = devices.options(num_gpus=1, num_cpus=0.5, scheduling_strategy=inside(group, 1))
    first = devices.options(num_gpus=2, num_cpus=0.5, scheduling_strategy=inside(group, 0))
    assert get([second.remote(), first.remote()]) == [([2], "2"), ([0, 1], "0,1")]
    assert get(devices.options(num_gpus=1).remote()) == ([3], "3")
    remove_placement_group(group)
    assert get(devices.options(num_gpus=4).remote())[0] == [0, 1, 2, 3]


@pytest.mark.usefixtures("session")
def test_room_of_a_removed_group_is_free_again_though_its_workers_were_busy() -> None:
    for _ in range(3):
        group = placement_group([{"CPU": 2}])
        actor = weft.remote(Inhabitant).options(num_cpus=2, scheduling_strategy=inside(group))
        pid = get(actor.remote().pid.remote())
        assert pid != os.getpid()
        remove_placement_group(group)
    wait_until(lambda: weft.available_resources()["CPU"] == 2)


# ------------------------------------------------------------------ deaths


@pytest.mark.usefixtures("session")
def test_task_whose_worker_died_is_tried_again_in_its_group(tmp_path: Path) -> None:
    group = placement_group([{"CPU": 1}])
    died = die_once.options(scheduling_strategy=inside(group)).remote(str(tmp_path / "died"))
    assert get(died) == group


@pytest.mark.usefixtures("session")
def test_actor_that_died_starts_again_in_its_group() -> None:
    group = placement_group([{"CPU": 1}])
    options = {"num_cpus": 1, "max_restarts": 1, "max_task_retries": -1}
    actor = (
        weft.remote(Inhabitant).options(scheduling_strategy=inside(group, 0), **options).remote()
    )
    os.kill(get(actor.pid.remote()), signal.SIGKILL)
    assert get(actor.group.remote()) == group
    remove_placement_group(group)
    with pytest.raises(ActorPlacementGroupRemoved, match="was removed"):
        call_until_it_fails(actor)


@pytest.mark.usefixtures("session")
def test_group_can_be_made_and_removed_in_a_task() -> None:
    @weft.remote(num_cpus=0)
    def make() -> PlacementGroup:
        group = placement_group([{"CPU": 1}])
        assert group.wait(WAIT_S)
        assert weft.get(here.options(scheduling_strategy=inside(group)).remote()) == group
        return group

    @weft.remote(num_cpus=0)
    def remove(group: PlacementGroup) -> None:
        remove_placement_group(group)

    group = get(make.remote())
    assert get(here.options(scheduling_strategy=inside(group)).remote()) == group
    get(remove.remote(group))
    with pytest.raises(TaskPlacementGroupRemoved):
        run_until_it_fails(group)


# ------------------------------------------------------------------ looking at them


@pytest.mark.usefixtures("session")
def test_commands_show_groups_and_what_they_wait_for() -> None:
    session = weft.get_runtime_context().get_session_name()

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "weft", *words, "--session", session],
            capture_output=True,
            text=True,
            check=True,
            timeout=WAIT_S,
        )
        return done.stdout

    group = placement_group([{"CPU": 1}, {"CPU": 1, "GPU": 2}], "SPREAD", name="trainers")
    late = placement_group([{"CPU": 1}])
    assert group.wait(WAIT_S)
    listed = command("list", "placement-groups")
    assert f"{group.id.hex()}  trainers  CREATED  SPREAD    CPU 1, CPU 1 GPU 2" in listed
    assert f"{late.id.hex()}            PENDING  PACK      CPU 1" in listed
    shown = command("get", "placement-groups", group.id.hex())
    assert "trainers" in shown
    assert "needs CPU 1, this node has 0 free" in weft.why(late)


# ------------------------------------------------------------------ jobs


def test_group_ends_with_the_job_that_created_it_unless_it_is_detached(
    roots: tuple[Path, Path],
) -> None:
    head = start_head(
        HeadOptions(node=NodeOptions(num_cpus=3), host="127.0.0.1", lifeline_pid=os.getpid())
    )
    wait_for_node(head.started)
    try:
        weft.init(address="auto", namespace="n", log_to_driver=False)
        mine = placement_group([{"CPU": 1}], name="mine")
        kept = placement_group([{"CPU": 1}], name="kept", lifetime="detached")
        for group in (mine, kept):
            assert get(here.options(scheduling_strategy=inside(group)).remote()) == group
        weft.shutdown()

        weft.init(address="auto", namespace="n", log_to_driver=False)
        wait_until(lambda: placement_group_table(mine)["state"] == "REMOVED")
        table = placement_group_table()
        assert "the job that created it is over" in table[mine.id.hex()]["stats"]["reason"]
        assert table[kept.id.hex()]["state"] == "CREATED"
        assert weft.util.get_placement_group("kept") == kept
        assert get(here.options(scheduling_strategy=inside(kept, 0)).remote()) == kept
        by_name = {group.name: group for group in list_placement_groups()}
        assert by_name["kept"].is_detached
        assert by_name["mine"].bundles[0]["node_id"] == ""
        wait_until(lambda: weft.available_resources()["CPU"] == 2)
    finally:
        weft.shutdown()
        process = head.started.process
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(WAIT_S) == 0, head.started.last_words()
