"""Placement groups: what is reserved together, and who runs in it."""

# ruff: noqa: D101, D102, D103, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.exceptions import (
    ActorPlacementGroupRemoved,
    OptionError,
    TaskPlacementGroupRemoved,
    UnschedulableError,
)
from weft.testing.semantics.engines import LIMIT_S, EngineSemantics, Signal, needs
from weft.util.placement_group import (
    PlacementGroup,
    check_placement_group_index,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from weft.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from weft.util.state import get_placement_group as get_state
from weft.util.state import list_placement_groups

if TYPE_CHECKING:
    from collections.abc import Iterator


@weft.remote
def place() -> tuple[str | None, bool]:
    """Return the group that this runs in, and whether it captures."""
    context = weft.get_runtime_context()
    captures = context.should_capture_child_tasks_in_placement_group
    return context.get_placement_group_id(), captures


@weft.remote
def places_of_children(*options: dict[str, Any]) -> list[str | None]:
    """Return the groups that tasks run in which are started here."""
    return [group for group, _ in weft.get([place.options(**each).remote() for each in options])]


@weft.remote
def current() -> PlacementGroup | None:
    return get_current_placement_group()


@weft.remote
def assigned() -> dict[str, float]:
    return weft.get_runtime_context().get_assigned_resources()


@weft.remote
def is_ready(group: PlacementGroup) -> bool:
    return group.wait(LIMIT_S)


@weft.remote
class Inhabitant:
    @weft.method
    def own_place(self) -> tuple[str | None, bool]:
        context = weft.get_runtime_context()
        captures = context.should_capture_child_tasks_in_placement_group
        return context.get_placement_group_id(), captures

    @weft.method
    def places_of_children(self) -> list[str | None]:
        child = Inhabitant.remote()
        return [weft.get(each)[0] for each in (place.remote(), child.own_place.remote())]


def get(ref: Any) -> Any:
    return weft.get(ref, timeout=LIMIT_S)


def call_until_it_fails(actor: Any) -> None:
    """Call an actor that is about to end; its process may live a little longer than it."""
    while True:
        get(actor.own_place.remote())


def inside(group: PlacementGroup | None, index: int = -1, captures: bool | None = None) -> Any:
    return PlacementGroupSchedulingStrategy(group, index, captures)


class PlacementGroupSemantics(EngineSemantics):
    options = {"num_cpus": 4, "resources": {"licence": 2}, "labels": {"disk": "ssd"}}  # noqa: RUF012 - a Mapping

    @pytest.fixture
    @staticmethod
    def group() -> Iterator[PlacementGroup]:
        """Make a group that is ready, of two bundles; it is removed afterwards."""
        made = placement_group([{"CPU": 1}, {"CPU": 2, "licence": 1}])
        assert made.wait(LIMIT_S)
        yield made
        remove_placement_group(made)

    # ---------------------------------------------------------------- handles

    def test_group_is_ready_and_says_what_it_has(self, group: PlacementGroup) -> None:
        assert get(group.ready()) == group
        assert group.bundle_count == 2
        assert group.bundle_specs == [{"CPU": 1}, {"CPU": 2, "licence": 1}]
        assert not group.is_empty
        assert weft.why(group).endswith(f"{group.id.hex()} is ready")

    def test_handle_travels(self, group: PlacementGroup) -> None:
        assert get(is_ready.remote(group))
        copy = pickle.loads(pickle.dumps(group))  # noqa: S301 - its own bytes
        assert (copy, copy.bundle_specs) == (group, group.bundle_specs)
        assert hash(copy) == hash(group)

    def test_handle_that_knows_only_its_id_finds_out_the_rest(self, group: PlacementGroup) -> None:
        assert PlacementGroup(group.id).bundle_specs == group.bundle_specs

    def test_empty_handle_stands_for_no_group(self) -> None:
        empty = PlacementGroup.empty()
        assert empty.is_empty
        assert empty.bundle_count == 0
        assert get(place.options(scheduling_strategy=inside(empty)).remote()) == (None, False)

    # ---------------------------------------------------------------- who runs where

    @pytest.mark.parametrize("index", [-1, 0, 1])
    def test_tasks_and_actors_run_in_the_group(self, group: PlacementGroup, index: int) -> None:
        where = inside(group, index)
        actor = Inhabitant.options(scheduling_strategy=where).remote()
        assert get(place.options(scheduling_strategy=where).remote()) == (group.id.hex(), False)
        assert get(actor.own_place.remote()) == (group.id.hex(), False)

    def test_task_goes_to_a_bundle_that_can_hold_it(self, group: PlacementGroup) -> None:
        task = assigned.options(num_cpus=2, scheduling_strategy=inside(group))
        assert get(task.remote()) == {"CPU": 2}
        task = assigned.options(resources={"licence": 1}, scheduling_strategy=inside(group))
        assert get(task.remote()) == {"CPU": 1, "licence": 1}

    def test_options_of_their_own_name_a_group_too(self, group: PlacementGroup) -> None:
        captures = place.options(
            placement_group=group,
            placement_group_bundle_index=1,
            placement_group_capture_child_tasks=True,
        )
        assert get(captures.remote()) == (group.id.hex(), True)
        not_any_more = captures.options(placement_group_capture_child_tasks=False)
        assert get(not_any_more.remote()) == (group.id.hex(), False)
        assert get(captures.options(placement_group=None).remote()) == (None, False)

    def test_bundle_is_not_free_for_others(self, group: PlacementGroup) -> None:
        assert weft.available_resources()["licence"] == 1
        assert weft.cluster_resources()["licence"] == 2

    def test_program_that_runs_in_no_group_says_so(self) -> None:
        assert get_current_placement_group() is None
        assert weft.get_runtime_context().get_placement_group_id() is None
        assert get(place.remote()) == (None, False)

    def test_current_group_is_that_of_the_task(self, group: PlacementGroup) -> None:
        found = get(current.options(scheduling_strategy=inside(group, 0)).remote())
        assert found == group
        assert found.bundle_specs == group.bundle_specs

    # ---------------------------------------------------------------- capture

    def test_children_are_not_captured_unless_asked(self, group: PlacementGroup) -> None:
        parent = places_of_children.options(scheduling_strategy=inside(group, 0))
        assert get(parent.remote({})) == [None]

    def test_captured_children_run_in_the_group_unless_they_say_otherwise(
        self, group: PlacementGroup
    ) -> None:
        parent = places_of_children.options(scheduling_strategy=inside(group, 0, captures=True))
        hex_id = group.id.hex()
        given = [
            ({}, hex_id),
            ({"num_cpus": 2}, hex_id),
            ({"scheduling_strategy": "DEFAULT"}, None),
            ({"scheduling_strategy": "SPREAD"}, None),
            ({"scheduling_strategy": inside(None)}, None),
            ({"placement_group": None}, None),
        ]
        assert get(parent.remote(*(options for options, _ in given))) == [at for _, at in given]

    def test_capture_goes_on_to_childrens_children(self, group: PlacementGroup) -> None:
        @weft.remote(num_cpus=0)
        def grandparent() -> list[str | None]:
            return weft.get(places_of_children.options(num_cpus=0).remote({"num_cpus": 0}))

        strategy = inside(group, captures=True)
        assert get(grandparent.options(scheduling_strategy=strategy).remote()) == [group.id.hex()]

    def test_actor_captures_what_its_methods_start(self, group: PlacementGroup) -> None:
        actor = Inhabitant.options(scheduling_strategy=inside(group, captures=True)).remote()
        assert get(actor.places_of_children.remote()) == [group.id.hex()] * 2

    # ---------------------------------------------------------------- waiting

    @needs("concurrency")
    def test_group_waits_for_room_and_is_ready_when_there_is_some(self) -> None:
        first, second = (placement_group([{"CPU": 3}]) for _ in range(2))
        assert first.wait(LIMIT_S)
        ready = second.ready()
        assert not second.wait(0.01)
        assert "needs CPU 3, this node has" in weft.why(second)
        assert "needs CPU 3, this node has" in weft.why(ready)
        assert placement_group_table(second)["state"] == "PENDING"
        task = place.options(scheduling_strategy=inside(second)).remote()
        remove_placement_group(first)
        assert get(ready) == second
        assert get(task) == (second.id.hex(), False)
        remove_placement_group(second)

    @needs("concurrency")
    def test_tasks_in_a_bundle_wait_for_each_other_and_for_nobody_else(
        self, group: PlacementGroup
    ) -> None:
        where = inside(group, 0)
        busy = Inhabitant.options(num_cpus=1, scheduling_strategy=where).remote()
        assert get(busy.own_place.remote())
        waiting = place.options(scheduling_strategy=where).remote()
        other = place.options(scheduling_strategy=inside(group, 1)).remote()
        assert get(other) == (group.id.hex(), False)
        assert weft.wait([waiting], timeout=0.01)[1] == [waiting]
        assert "needs CPU 1, bundle 0 has 0 free" in weft.why(waiting)
        weft.kill(busy)
        assert get(waiting) == (group.id.hex(), False)

    # ---------------------------------------------------------------- names

    def test_group_is_found_by_its_name_until_it_is_removed(self) -> None:
        group = placement_group([{"CPU": 1}], name="here")
        assert get_placement_group("here") == group
        assert get_placement_group("here").bundle_specs == [{"CPU": 1}]
        with pytest.raises(OptionError, match="the name 'here' is taken"):
            placement_group([{"CPU": 1}], name="here")
        remove_placement_group(group)
        with pytest.raises(ValueError, match="no placement group is named 'here'"):
            get_placement_group("here")

    # ---------------------------------------------------------------- removal

    def test_removed_group_lets_nobody_in(self, group: PlacementGroup) -> None:
        remove_placement_group(group)
        remove_placement_group(group)
        where = inside(group)
        with pytest.raises(TaskPlacementGroupRemoved, match=f"{group.id.hex()} was removed"):
            get(place.options(scheduling_strategy=where).remote())
        actor = Inhabitant.options(scheduling_strategy=where).remote()
        with pytest.raises(ActorPlacementGroupRemoved, match=f"{group.id.hex()} was removed"):
            get(actor.own_place.remote())
        with pytest.raises(TaskPlacementGroupRemoved):
            get(group.ready())
        with pytest.raises(TaskPlacementGroupRemoved):
            group.wait(LIMIT_S)

    def test_removal_gives_the_room_back(self) -> None:
        for _ in range(3):
            group = placement_group([{"CPU": 2, "licence": 2}])
            assert group.wait(LIMIT_S)
            assert get(place.options(scheduling_strategy=inside(group)).remote())[0]
            remove_placement_group(group)
        assert get(assigned.options(resources={"licence": 2}).remote())["licence"] == 2

    def test_removal_ends_the_groups_actors_and_they_say_why(self, group: PlacementGroup) -> None:
        where = inside(group)
        actors = [
            Inhabitant.options(scheduling_strategy=where, max_restarts=restarts).remote()
            for restarts in (0, -1)
        ]
        other = Inhabitant.remote()
        assert get([actor.own_place.remote() for actor in actors])
        remove_placement_group(group)
        # Its answer comes after the removal was heard of.
        assert placement_group_table(group)["state"] == "REMOVED"
        for actor in actors:
            with pytest.raises(ActorPlacementGroupRemoved, match="was removed"):
                call_until_it_fails(actor)
        assert get(other.own_place.remote()) == (None, False)

    @needs("processes")
    def test_removal_ends_tasks_that_run_in_the_group(self, group: PlacementGroup) -> None:
        signal, began = Signal.remote(), Signal.remote()

        @weft.remote
        def hold() -> None:
            weft.get(began.send.remote())
            weft.get(signal.wait.remote())

        running = hold.options(scheduling_strategy=inside(group, 0)).remote()
        get(began.wait.remote())
        waiting = hold.options(scheduling_strategy=inside(group, 0)).remote()
        remove_placement_group(group)
        for task in (running, waiting):
            with pytest.raises(TaskPlacementGroupRemoved, match="was removed"):
                get(task)

    @needs("concurrency")
    def test_group_that_is_removed_while_it_waits_is_never_ready(self) -> None:
        first, second = (placement_group([{"CPU": 3}]) for _ in range(2))
        ready = second.ready()
        task = place.options(scheduling_strategy=inside(second)).remote()
        remove_placement_group(second)
        with pytest.raises(TaskPlacementGroupRemoved):
            get(ready)
        with pytest.raises(TaskPlacementGroupRemoved):
            get(task)
        remove_placement_group(first)

    # ---------------------------------------------------------------- what is refused

    @pytest.mark.parametrize(
        ("bundles", "options", "words"),
        [
            ([], {}, "needs one bundle"),
            ([{}], {}, "bundle 0, {}, has to have an amount"),
            ([{"CPU": 1}, {"CPU": 0}], {}, "bundle 1"),
            ([{"CPU": "1"}], {}, "has to hold numbers"),
            ([{"CPU": -1}], {}, "from 0 up"),
            ([{"GPU": 1.5}], {}, "whole number"),
            (["CPU"], {}, "a dict of amounts"),
            ([{"CPU": 1}], {"strategy": "TIGHT"}, "STRICT_PACK"),
            ([{"CPU": 1}], {"lifetime": "long"}, "'detached' or None"),
            ([{"CPU": 1}], {"name": 7}, "a name is a string"),
            ([{"CPU": 1}] * 2, {"bundle_label_selector": [{}]}, "one for each"),
            ([{"CPU": 1}], {"bundle_label_selector": [{"a": 1}]}, "selector 0"),
            ([{"CPU": 1}], {"topology_strategy": {"disk": "PACK"}}, "'STRICT_PACK'"),
            ([{"CPU": 1}], {"topology_strategy": {"": "STRICT_PACK"}}, "'STRICT_PACK'"),
            ([{"CPU": 1}], {"topology_strategy": {}}, "one label"),
            ([{"CPU": 1}], {"topology_strategy": "disk"}, "one label"),
        ],
    )
    def test_wrong_group_is_refused(self, bundles: Any, options: Any, words: str) -> None:
        with pytest.raises(OptionError, match=words):
            placement_group(bundles, **options)

    @needs("one_node")
    @pytest.mark.parametrize(
        ("bundles", "options", "words"),
        [
            ([{"CPU": 5}], {}, "bundle 0: needs CPU 5, this node has 4"),
            ([{"CPU": 3}] * 2, {"strategy": "STRICT_PACK"}, "needs CPU 6, this node has 4"),
            ([{"CPU": 3}] * 2, {}, "needs CPU 3, this node has 1 free"),
            ([{"CPU": 1}] * 2, {"strategy": "STRICT_SPREAD"}, "has other bundles of it"),
            (
                [{"CPU": 1}],
                {"bundle_label_selector": [{"disk": "hdd"}]},
                "needs label disk=hdd, this node has disk=ssd",
            ),
            (
                [{"CPU": 1}],
                {"topology_strategy": {"rack": "STRICT_PACK"}},
                "one value of label rack, and none has it",
            ),
            (
                [{"CPU": 5}],
                {"topology_strategy": {"disk": "STRICT_PACK"}},
                "where disk is ssd: bundle 0: needs CPU 5",
            ),
        ],
    )
    def test_group_that_can_never_be_placed_is_refused_with_the_reason(
        self, bundles: Any, options: Any, words: str
    ) -> None:
        with pytest.raises(UnschedulableError, match=words):
            placement_group(bundles, **options)

    @pytest.mark.parametrize("strategy", ["PACK", "SPREAD", "STRICT_PACK"])
    def test_one_node_can_hold_all_bundles_but_of_strict_spread(self, strategy: str) -> None:
        selectors = [{"disk": "ssd"}, {"disk": "!hdd"}]
        group = placement_group([{"CPU": 1}] * 2, strategy, bundle_label_selector=selectors)
        assert group.wait(LIMIT_S)
        assert placement_group_table(group)["strategy"] == strategy
        remove_placement_group(group)

    def test_group_within_a_topology_says_so(self) -> None:
        topology = {"disk": "STRICT_PACK"}
        group = placement_group([{"CPU": 1}] * 2, "SPREAD", topology_strategy=topology)
        assert group.wait(LIMIT_S)
        assert placement_group_table(group)["topology_strategy"] == topology
        assert placement_group_table(group)["strategy"] == "SPREAD"
        remove_placement_group(group)

    def test_demand_that_no_bundle_can_hold_is_refused_at_the_call(
        self, group: PlacementGroup
    ) -> None:
        with pytest.raises(OptionError, match=r"needs \{CPU: 2\}.*bundle 0 .*\{CPU: 1\}"):
            place.options(num_cpus=2, scheduling_strategy=inside(group, 0))
        with pytest.raises(OptionError, match="any bundle"):
            Inhabitant.options(num_gpus=1, scheduling_strategy=inside(group))

    @pytest.mark.parametrize("index", [2, -2, 0.5, True])
    def test_bundle_that_there_is_not_is_refused_at_the_call(
        self, group: PlacementGroup, index: Any
    ) -> None:
        with pytest.raises(OptionError, match="bundles 0 to 1"):
            place.options(scheduling_strategy=inside(group, index))
        with pytest.raises(OptionError, match="bundles 0 to 1"):
            check_placement_group_index(group, index)
        check_placement_group_index(group, 1)

    def test_bundle_of_no_group_is_refused_at_the_call(self) -> None:
        for options in (
            {"scheduling_strategy": inside(None, 0)},
            {"placement_group_bundle_index": 0},
            {"placement_group": None, "placement_group_bundle_index": 0},
        ):
            with pytest.raises(OptionError, match="no placement group"):
                place.options(**options)
        with pytest.raises(OptionError, match="no placement group"):
            check_placement_group_index(PlacementGroup.empty(), 0)

    def test_what_is_no_group_is_refused_at_the_call(self, group: PlacementGroup) -> None:
        with pytest.raises(OptionError, match="PlacementGroup"):
            place.options(scheduling_strategy=inside("a group"))
        with pytest.raises(OptionError, match="PlacementGroup"):
            place.options(placement_group="a group")
        with pytest.raises(OptionError, match="no placement group"):
            remove_placement_group("a group")
        with pytest.raises(OptionError, match="both"):
            place.options(placement_group=group, scheduling_strategy="SPREAD")

    # ---------------------------------------------------------------- looking at them

    def test_table_has_all_groups(self, group: PlacementGroup) -> None:
        node = weft.get_runtime_context().get_node_id()
        row = placement_group_table(group)
        assert placement_group_table()[group.id.hex()] == row
        assert row["bundles"] == {0: {"CPU": 1}, 1: {"CPU": 2, "licence": 1}}
        assert row["bundles_to_node_id"] == {0: node, 1: node}
        assert (row["state"], row["strategy"], row["name"]) == ("CREATED", "PACK", "")
        remove_placement_group(group)
        row = placement_group_table(group)
        assert row["state"] == "REMOVED"
        assert row["bundles_to_node_id"] == {0: "", 1: ""}

    def test_state_api_has_all_groups(self, group: PlacementGroup) -> None:
        (found,) = list_placement_groups(
            filters=[("placement_group_id", "=", group.id.hex())], limit=10_000
        )
        assert found == get_state(group.id.hex())
        assert (found.state, found.strategy, found.is_detached) == ("CREATED", "PACK", False)
        assert [bundle["resources"] for bundle in found.bundles] == group.bundle_specs
        assert found.creator_job_id == weft.get_runtime_context().get_job_id()
