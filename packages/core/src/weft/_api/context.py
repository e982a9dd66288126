"""Where the calling code runs: ids, names, resources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from weft._api.handles import ActorHandle
from weft._api.session import started
from weft._engine import current
from weft._env.environment import RuntimeEnv
from weft._env.inheritance import inherited
from weft._resources import ACCELERATORS
from weft.exceptions import SessionError

if TYPE_CHECKING:
    from weft._refs import ObjectRef
    from weft._specs import ActorMeta, Place


class _KnowsItself(Protocol):
    """An engine that can say which actor the calling code is in."""

    def current_actor(self) -> tuple[ActorMeta, ObjectRef[Any] | None] | None:
        """(meta, token) of the actor whose method runs here, or None."""
        ...


class RuntimeContext:
    """Facts about where the calling code runs. Each call asks anew; ids are in hexadecimal."""

    def _place(self) -> Place:
        engine = current.engine
        return (engine if engine is not None else started()).context()

    def get(self) -> dict[str, Any]:
        """Return job, node, task, actor and namespace by name, without those that there are not."""
        place = self._place()
        facts = {
            "job_id": place.job_id,
            "node_id": place.node_id,
            "task_id": place.task_id,
            "actor_id": place.actor_id,
            "namespace": place.namespace,
        }
        return {name: value for name, value in facts.items() if value is not None}

    def get_job_id(self) -> str:
        """Return the id of the job: this driver's, or the one whose task runs here."""
        return self._place().job_id.hex()

    def get_node_id(self) -> str:
        """Return the id of this node."""
        return self._place().node_id.hex()

    def get_worker_id(self) -> str:
        """Return the id of this process."""
        return self._place().worker_id.hex()

    def get_task_id(self) -> str | None:
        """Return the id of the running task; None in a driver."""
        task_id = self._place().task_id
        return task_id.hex() if task_id is not None else None

    def get_task_name(self) -> str | None:
        """Return the name of the running task, as `.options(name=...)` set it; None in a driver."""
        return self._place().task_name or None

    def get_task_function_name(self) -> str | None:
        """Return the name of the running function or method; None in a driver."""
        return self._place().function_name or None

    def get_actor_id(self) -> str | None:
        """Return the id of the actor whose method runs here; None elsewhere."""
        actor_id = self._place().actor_id
        return actor_id.hex() if actor_id is not None else None

    def get_actor_name(self) -> str | None:
        """Return the name of the actor whose method runs here, empty if it has none.

        None elsewhere.
        """
        place = self._place()
        return place.actor_name if place.actor_id is not None else None

    @property
    def namespace(self) -> str:
        """Where names of actors are looked up."""
        return self._place().namespace

    @property
    def current_actor(self) -> ActorHandle[Any]:
        """A handle of the actor whose method runs here. SessionError elsewhere."""
        engine = current.engine
        found = cast("_KnowsItself", engine).current_actor() if engine is not None else None
        if engine is None or found is None:
            raise SessionError("there is no current actor: this is not an actor's method")
        return ActorHandle(*found, engine)

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor whose method runs here was started again after it had died."""
        return self._place().was_restarted

    def get_placement_group_id(self) -> str | None:
        """Return the id of the placement group that this task or actor runs in, if there is one."""
        group_id = self._place().placement_group_id
        return group_id.hex() if group_id is not None else None

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether tasks started here run in the same placement group."""
        return self._place().captures

    def get_assigned_resources(self) -> dict[str, float]:
        """Return the amounts that the running task or actor holds."""
        return dict(self._place().resources)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Return the ids of the devices that the running task or actor may use, by kind."""
        return {**{name: [] for name in ACCELERATORS}, **self._place().accelerators}

    def get_runtime_env_string(self) -> str:
        """Return the runtime environment as JSON."""
        return inherited.of_user() or "{}"

    @property
    def runtime_env(self) -> RuntimeEnv:
        """The runtime environment."""
        return RuntimeEnv.deserialize(self.get_runtime_env_string())

    def get_node_labels(self) -> dict[str, str]:
        """Return the labels of this node."""
        return dict(self._place().labels)

    def get_session_name(self) -> str:
        """Return the name of the session."""
        return self._place().session

    def get_temp_dir(self) -> str:
        """Return the session's directory."""
        return self._place().temp_dir

    @property
    def gcs_address(self) -> str:
        """The address of the control service."""
        return self._place().address

    def is_canceled(self) -> bool:
        """Tell whether somebody has asked the running task to end."""
        return self._place().is_cancelled


_context = RuntimeContext()


def get_runtime_context() -> RuntimeContext:
    """Return facts about where the calling code runs. Starts a session if there is none."""
    return _context


def get_gpu_ids() -> list[int] | list[str]:
    """Return the ids of the GPUs that the running task or actor may use.

    Numbers where they are numbers.
    """
    engine = current.engine
    ids = (engine if engine is not None else started()).context().accelerators.get("GPU", [])
    return (
        [int(device) for device in ids] if all(device.isdecimal() for device in ids) else list(ids)
    )
