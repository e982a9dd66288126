"""The records that weft.util.state returns, and what may be asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import msgspec

DEFAULT_LIMIT = 100
DEFAULT_TIMEOUT_S = 30
MAX_LIMIT = 10_000

Filter = tuple[str, str, Any]
"""(key, operator, value); operators are =, !=, <, <=, >, >= and in."""


class StateResource(Enum):
    """What can be listed."""

    ACTORS = "actors"
    JOBS = "jobs"
    PLACEMENT_GROUPS = "placement_groups"
    NODES = "nodes"
    WORKERS = "workers"
    TASKS = "tasks"
    OBJECTS = "objects"
    RUNTIME_ENVS = "runtime_envs"
    CLUSTER_EVENTS = "cluster_events"


class ListApiOptions(msgspec.Struct, frozen=True):
    """How StateApiClient lists; see list_tasks."""

    limit: int = DEFAULT_LIMIT
    timeout: float = DEFAULT_TIMEOUT_S
    detail: bool = False
    filters: Sequence[Filter] = ()


class GetApiOptions(msgspec.Struct, frozen=True):
    """How StateApiClient gets one; see get_task."""

    timeout: float = DEFAULT_TIMEOUT_S


class SummaryApiOptions(msgspec.Struct, frozen=True):
    """How StateApiClient summarizes; see summarize_tasks."""

    timeout: float = DEFAULT_TIMEOUT_S
    filters: Sequence[Filter] = ()


class SummaryResource(Enum):
    """What can be summarized."""

    ACTORS = "actors"
    TASKS = "tasks"
    OBJECTS = "objects"


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """One thing of a session. A field that is None is not known, or does not apply."""

    def asdict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return msgspec.structs.asdict(self)

    def __getitem__(self, key: str) -> Any:
        """Return a field."""
        if key not in self.__struct_fields__:
            raise KeyError(key)
        return getattr(self, key)


class TaskState(_State, frozen=True, kw_only=True):
    """A task, a call of an actor or an actor's creation: its last attempt."""

    task_id: str
    attempt_number: int
    """Counted from 0."""
    name: str
    state: str
    """PENDING_ARGS_AVAIL (waits for arguments), PENDING_NODE_ASSIGNMENT (for a worker, or for its
    actor to live), SUBMITTED_TO_WORKER (waits there), RUNNING, RUNNING_IN_GET (it waits for what
    others make), FINISHED or FAILED."""
    type: str
    """NORMAL_TASK, ACTOR_TASK or ACTOR_CREATION_TASK."""
    func_or_class_name: str
    job_id: str
    node_id: str
    """Where it ran last, or runs; else where it was submitted. Empty: a node that is forgotten."""
    actor_id: str | None = None
    parent_task_id: str | None = None
    worker_id: str | None = None
    worker_pid: int | None = None
    """Of the process that ran it last, or has it."""
    error_type: str | None = None
    error_message: str | None = None
    required_resources: dict[str, float] = {}
    creation_time_ms: float
    """Since 1970; all times are."""
    start_time_ms: float | None = None
    """Of the last attempt."""
    end_time_ms: float | None = None
    call_site: str | None = None
    """File and line of the call."""


class ActorState(_State, frozen=True, kw_only=True):
    """An actor; of dead ones, the newest 10,000 are known."""

    actor_id: str
    class_name: str
    state: str
    """PENDING_CREATION, ALIVE, RESTARTING or DEAD."""
    job_id: str
    name: str
    namespace: str
    node_id: str | None = None
    pid: int | None = None
    """Of a living one."""
    worker_id: str | None = None
    death_cause: str | None = None
    """Also of one that restarts."""
    is_detached: bool = False
    num_restarts: int = 0
    required_resources: dict[str, float] = {}


class WorkerState(_State, frozen=True, kw_only=True):
    """A worker process or a driver; of those that have ended, the newest 1,000 are known."""

    worker_id: str
    is_alive: bool
    worker_type: str
    """WORKER or DRIVER."""
    state: str
    """Of a worker: starting, idle, leased, paused (memory is short), ending or gone."""
    node_id: str
    pid: int
    exit_type: str | None = None
    """Of one that has ended: how, in a line."""
    exit_detail: str | None = None
    """The last lines that it wrote to stderr."""
    running: str = ""
    """The function that it runs; of one that has ended: ran."""
    actor_id: str | None = None
    """Of the actor that it is."""
    actor: str = ""
    """That one's name; of one without a name, its class."""
    runtime_env: str = ""
    start_time_ms: float | None = None
    """Of a worker: when it was forked; of the driver: when it began the session."""
    end_time_ms: float | None = None
    """When its end was seen."""


class ObjectState(_State, frozen=True, kw_only=True):
    """An object, in the eyes of one process that has references to it."""

    object_id: str
    object_size: int
    """Bytes; 0: not known yet."""
    task_status: str
    """Of the task that makes it, as TaskState.state, while that has not ended; else NIL."""
    reference_type: str
    """The first that applies of: ACTOR_HANDLE, USED_BY_PENDING_TASK, CAPTURED_IN_OBJECT,
    LOCAL_REFERENCE, BORROWED (elsewhere only)."""
    place: str
    """pending, heap (in the process), memory (shared), disk (spilled), failed (it is an error) or
    owner (this process has not asked for its value)."""
    call_site: str
    """File and line that made it, where that is known: of what lies in shared memory."""
    label: str
    """What made it, where that is known."""
    type: str
    """WORKER or DRIVER: the process that has the references."""
    node_id: str
    """Of that process."""
    pid: int
    is_owner: bool
    local_references: int
    """References and views in the process; those that arguments hold are among them."""
    argument_references: int
    """References that tasks which have not ended need."""
    container_references: int
    """Objects that contain it."""
    borrowers: int
    """Other processes that have references."""


class NodeState(_State, frozen=True, kw_only=True):
    """A node."""

    node_id: str
    node_ip: str
    is_head_node: bool
    state: str
    node_name: str
    resources_total: dict[str, float]
    labels: dict[str, str]
    start_time_ms: float | None
    """None: it does not answer, or is dead."""
    state_message: str | None = None
    """Why it is dead, that it drains, or does not answer."""
    address: str = ""
    """HOST:PORT by which other nodes reach it; empty: a machine alone."""


class JobState(_State, frozen=True, kw_only=True):
    """A job: one driver's life."""

    job_id: str
    type: str
    status: str
    entrypoint: str
    driver_pid: int
    start_time: float
    driver_node_id: str = ""
    quota: dict[str, float] = {}
    """The most of each resource that it may have at one time, on all nodes together."""
    weight: int = 1
    """Its share of a node where several jobs wait, beside theirs."""
    priority: int = 0
    """Where jobs wait, the one of the highest goes first."""


class RuntimeEnvState(_State, frozen=True, kw_only=True):
    """A runtime environment that workers have."""

    runtime_env: str
    success: bool
    node_id: str
    ref_cnt: int
    """How many workers have it."""


class PlacementGroupState(_State, frozen=True, kw_only=True):
    """A placement group."""

    placement_group_id: str
    name: str
    creator_job_id: str
    """The job that it ends with; empty: it is detached."""
    state: str
    strategy: str
    topology_strategy: dict[str, str]
    """The label of which all its nodes have one value, with STRICT_PACK; empty: none."""
    bundles: list[dict[str, Any]]
    """Of each bundle_index, resources, label_selector and node_id (empty: it has no place)."""
    is_detached: bool
    stats: dict[str, Any]
    """scheduling_state, and the reason: why it waits, or was removed."""


class ClusterEventState(_State, frozen=True, kw_only=True):
    """An event of a cluster. One machine has none."""

    severity: str
    time: float
    source_type: str
    message: str
    event_id: str


STATES: dict[type[msgspec.Struct], tuple[str, ...]] = {
    TaskState: (
        "PENDING_ARGS_AVAIL", "PENDING_NODE_ASSIGNMENT", "SUBMITTED_TO_WORKER", "RUNNING",
        "RUNNING_IN_GET", "FINISHED", "FAILED",
    ),
    ActorState: ("PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD"),
    PlacementGroupState: ("PENDING", "CREATED", "RESCHEDULING", "REMOVED"),
    WorkerState: ("starting", "idle", "leased", "ending", "gone", "running"),
}  # fmt: skip
"""By kind: what `state` may be."""


class TaskSummaryPerFuncOrClassName(_State, frozen=True, kw_only=True):
    """The tasks of one function."""

    func_or_class_name: str
    type: str
    state_counts: dict[str, int]


class TaskSummaries(_State, frozen=True, kw_only=True):
    """How many tasks there are, by function and state."""

    summary: dict[str, TaskSummaryPerFuncOrClassName]
    total_tasks: int
    total_actor_tasks: int
    total_actor_scheduled: int
    """Creations of actors."""
    dropped: int
    """Records of older tasks that are not kept any more; they are in no other number."""
    summary_by: str = "func_name"


class ActorSummaryPerClass(_State, frozen=True, kw_only=True):
    """The actors of one class."""

    class_name: str
    state_counts: dict[str, int]


class ActorSummaries(_State, frozen=True, kw_only=True):
    """How many actors there are, by class and state."""

    summary: dict[str, ActorSummaryPerClass]
    total_actors: int
    summary_by: str = "class"


class ObjectSummaryPerKey(_State, frozen=True, kw_only=True):
    """The objects that were made at one place."""

    total_objects: int
    total_size_mb: float
    total_num_workers: int
    total_num_nodes: int
    place_counts: dict[str, int]
    ref_type_counts: dict[str, int]
    task_state_counts: dict[str, int]
    """By ObjectState.task_status."""


class ObjectSummaries(_State, frozen=True, kw_only=True):
    """How many objects there are and how large, by the place that made them."""

    summary: dict[str, ObjectSummaryPerKey]
    total_objects: int
    total_size_mb: float
    callsite_enabled: bool = True
    summary_by: str = "callsite"


class StateSummary(_State, frozen=True, kw_only=True):
    """What StateApiClient.summary returns."""

    node_id_to_summary: dict[str, TaskSummaries | ActorSummaries | ObjectSummaries]
    """One, of all nodes together, under "cluster"."""
