"""What get_runtime_context and the cluster's facts have to say."""

# ruff: noqa: D101, D102, D103, S101
# mypy: ignore-errors
# These are tests: their names say what they check. mypy takes no notice of decorators of classes.

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft.exceptions import SessionError
from weft.testing.semantics.engines import EngineSemantics

if TYPE_CHECKING:
    from pathlib import Path


@weft.remote
def facts() -> dict[str, Any]:
    context = weft.get_runtime_context()
    return {
        "job": context.get_job_id(),
        "node": context.get_node_id(),
        "worker": context.get_worker_id(),
        "task": context.get_task_id(),
        "function": context.get_task_function_name(),
        "actor": context.get_actor_id(),
        "resources": context.get_assigned_resources(),
        "accelerators": context.get_accelerator_ids(),
        "namespace": context.namespace,
        "env": context.runtime_env,
        "cancelled": context.is_canceled(),
    }


@weft.remote
class Aware:
    @weft.method
    def facts(self) -> dict[str, Any]:
        context = weft.get_runtime_context()
        return {
            "actor": context.get_actor_id(),
            "name": context.get_actor_name(),
            "task": context.get_task_id(),
            "function": context.get_task_function_name(),
            "resources": context.get_assigned_resources(),
            "restarted": context.was_current_actor_reconstructed,
        }


class ContextSemantics(EngineSemantics):
    def test_driver_is_no_task_and_no_actor(self) -> None:
        context = weft.get_runtime_context()
        assert context.get_task_id() is None
        assert context.get_task_name() is None
        assert context.get_actor_id() is None
        assert context.get_actor_name() is None
        assert context.get_placement_group_id() is None
        assert not context.should_capture_child_tasks_in_placement_group
        assert not context.was_current_actor_reconstructed

    def test_ids_are_hexadecimal(self) -> None:
        context = weft.get_runtime_context()
        for text in (context.get_job_id(), context.get_node_id(), context.get_worker_id()):
            assert len(text) == 32
            int(text, 16)

    def test_driver_has_no_current_actor(self) -> None:
        with pytest.raises(RuntimeError, match="no current actor"):
            _ = weft.get_runtime_context().current_actor

    def test_task_knows_where_it_runs(self) -> None:
        here = weft.get_runtime_context()
        found = weft.get(facts.remote())
        assert found["job"] == here.get_job_id()
        assert found["node"] == here.get_node_id()
        assert found["namespace"] == here.namespace
        assert found["function"] == "facts"
        assert found["actor"] is None
        assert found["resources"] == {"CPU": 1}
        assert found["accelerators"]["GPU"] == []
        assert found["env"] == {}
        assert found["cancelled"] is False

    def test_tasks_have_ids_of_their_own(self) -> None:
        refs = [facts.remote(), facts.remote()]
        found = weft.get(refs)
        assert [each["task"] for each in found] == [ref.task_id().hex() for ref in refs]

    def test_actor_knows_itself(self) -> None:
        aware = Aware.options(name="aware", num_cpus=1).remote()
        found = weft.get(aware.facts.remote())
        assert found["actor"] == aware._actor_id.hex()
        assert found["name"] == "aware"
        assert found["function"] == "Aware.facts"
        assert found["resources"] == {"CPU": 1}
        assert found["restarted"] is False

    def test_actor_without_a_name_has_an_empty_one(self) -> None:
        assert weft.get(Aware.remote().facts.remote())["name"] == ""

    def test_get_gives_what_there_is(self) -> None:
        assert {"job_id", "node_id", "namespace"} == set(weft.get_runtime_context().get())

    def test_session_facts_are_there(self) -> None:
        context = weft.get_runtime_context()
        assert context.get_session_name()
        assert context.get_temp_dir()
        assert isinstance(context.gcs_address, str)
        assert isinstance(context.get_node_labels(), dict)
        assert context.get_runtime_env_string() == "{}"

    def test_driver_has_no_gpus(self) -> None:
        assert weft.get_gpu_ids() == []

    def test_cluster_has_the_cpus_it_was_given(self) -> None:
        assert weft.cluster_resources()["CPU"] == self.options["num_cpus"]

    def test_actor_takes_its_cpus_out_of_what_is_available(self) -> None:
        aware = Aware.options(num_cpus=3).remote()
        weft.get(aware.facts.remote())
        assert weft.available_resources().get("CPU", 0) <= 1
        del aware

    def test_nodes_lists_one_living_node(self) -> None:
        (node,) = weft.nodes()
        assert node["Alive"]
        assert node["NodeID"] == weft.get_runtime_context().get_node_id()
        assert node["Resources"]["CPU"] == self.options["num_cpus"]

    def test_timeline_shows_what_ran(self, tmp_path: Path) -> None:
        weft.get(facts.options(name="timed").remote())
        assert any(event["name"] == "timed" for event in weft.timeline())
        weft.timeline(tmp_path / "trace.json")
        events = json.loads((tmp_path / "trace.json").read_text())
        (timed, *_) = (event for event in events if event["name"] == "timed")
        assert {"name", "ph", "ts", "dur", "pid", "tid"} <= set(timed)

    def test_second_init_is_an_error(self) -> None:
        with pytest.raises(SessionError, match="ignore_reinit_error"):
            weft.init(engine=self.engine)

    def test_second_init_can_be_ignored(self) -> None:
        context = weft.init(engine=self.engine, ignore_reinit_error=True)
        assert context["node_id"] == weft.get_runtime_context().get_node_id()

    def test_session_is_known(self) -> None:
        assert weft.is_initialized()
