"""The functions of weft.util.state that list, get and summarize."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from weft.util.state import _objects
from weft.util.state._filters import select, tests
from weft.util.state._listing import Session
from weft.util.state.common import (
    DEFAULT_LIMIT,
    DEFAULT_TIMEOUT_S,
    ActorState,
    ActorSummaries,
    ActorSummaryPerClass,
    ObjectState,
    StateResource,
    TaskState,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft.util.state.common import (
        ClusterEventState,
        Filter,
        JobState,
        NodeState,
        ObjectSummaries,
        PlacementGroupState,
        RuntimeEnvState,
        TaskSummaries,
        WorkerState,
    )


def _list(
    resource: StateResource,
    address: str | None,
    filters: Sequence[Filter] | None,
    limit: int,
    timeout: float,
    raise_on_missing_output: bool,
) -> list[Any]:
    session = Session(address, timeout, needs_all=raise_on_missing_output)
    return session.find(resource, filters, limit).records


def _get(
    resource: StateResource, key: str, id: str, address: str | None, timeout: float
) -> Any | None:
    found = _list(resource, address, [(key, "=", id)], 1, timeout, raise_on_missing_output=True)
    return found[0] if found else None


def list_tasks(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[TaskState]:
    """Return a session's tasks: those that have not ended, then the newest that have. Blocks.

    Args:
        address: Of the session; see this module.
        filters: (key, operator, value) each; all must hold. Keys are the fields of the records,
            operators =, !=, <, <=, >, >= and in.
        limit: How many records, at most 10,000.
        timeout: Seconds that the session's daemon may take.
        detail: All fields are always filled; the command line shows more of them with it.
        raise_on_missing_output: Raise DataSourceUnavailable if a process does not answer.

    Raises:
        ServerUnavailable: There is no session, or several, or its daemon does not answer.
        StateApiException: A filter or the limit cannot be understood.
    """
    return _list(StateResource.TASKS, address, filters, limit, timeout, raise_on_missing_output)


def list_actors(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[ActorState]:
    """Return a session's actors, also of those that have died. Blocks.

    Arguments and errors are those of list_tasks.
    """
    return _list(StateResource.ACTORS, address, filters, limit, timeout, raise_on_missing_output)


def list_objects(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[ObjectState]:
    """Return a session's objects, as each process sees them, the largest first. Blocks.

    Arguments and errors are those of list_tasks.
    """
    return _list(StateResource.OBJECTS, address, filters, limit, timeout, raise_on_missing_output)


def list_workers(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[WorkerState]:
    """Return a session's processes: the driver and the workers, also the ended. Blocks.

    Arguments and errors are those of list_tasks.
    """
    return _list(StateResource.WORKERS, address, filters, limit, timeout, raise_on_missing_output)


def list_nodes(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[NodeState]:
    """Return a session's nodes. Blocks.

    Arguments and errors are those of list_tasks.
    """
    return _list(StateResource.NODES, address, filters, limit, timeout, raise_on_missing_output)


def list_jobs(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[JobState]:
    """Return a session's jobs: a session on one machine has one, its driver's. Blocks.

    Arguments and errors are those of list_tasks.
    """
    return _list(StateResource.JOBS, address, filters, limit, timeout, raise_on_missing_output)


def list_runtime_envs(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[RuntimeEnvState]:
    """Return a session's runtime environments that workers have. Blocks.

    Arguments and errors are those of list_tasks.
    """
    return _list(
        StateResource.RUNTIME_ENVS, address, filters, limit, timeout, raise_on_missing_output
    )


def list_placement_groups(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[PlacementGroupState]:
    """Return a session's placement groups, also the newest that were removed. Blocks.

    Arguments and errors are those of list_tasks.
    """
    return _list(
        StateResource.PLACEMENT_GROUPS, address, filters, limit, timeout, raise_on_missing_output
    )


def list_cluster_events(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[ClusterEventState]:
    """Return a session's cluster events: one machine has none. Blocks.

    Arguments and errors are those of list_tasks.
    """
    return _list(
        StateResource.CLUSTER_EVENTS, address, filters, limit, timeout, raise_on_missing_output
    )


def get_task(
    id: str,
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> TaskState | None:
    """Return the task of a hexadecimal id; None: it is not known. Blocks as list_tasks does."""
    return Session(address, timeout).tasks().find(id)


def get_actor(
    id: str,
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> ActorState | None:
    """Return the actor of a hexadecimal id; None: it is not known. Blocks as list_actors does."""
    return _get(StateResource.ACTORS, "actor_id", id, address, timeout)


def get_worker(
    id: str,
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> WorkerState | None:
    """Return the process of a hexadecimal id; None: it is not known."""
    return _get(StateResource.WORKERS, "worker_id", id, address, timeout)


def get_node(
    id: str,
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> NodeState | None:
    """Return the node of a hexadecimal id; None: it is not known. Blocks as list_nodes does."""
    return _get(StateResource.NODES, "node_id", id, address, timeout)


def get_job(
    id: str,
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> JobState | None:
    """Return the job of a hexadecimal id; None: it is not known. Blocks as list_jobs does."""
    return _get(StateResource.JOBS, "job_id", id, address, timeout)


def get_placement_group(
    id: str,
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> PlacementGroupState | None:
    """Return the placement group of a hexadecimal id; None: it is not known."""
    return _get(StateResource.PLACEMENT_GROUPS, "placement_group_id", id, address, timeout)


def get_objects(
    id: str,
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> list[ObjectState]:
    """Return what processes know of an object, one record each. Blocks as list_objects does."""
    session = Session(address, timeout)
    return session.find(StateResource.OBJECTS, [("object_id", "=", id)], None).records


def summarize_tasks(
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    raise_on_missing_output: bool = True,
    *,
    filters: Sequence[Filter] | None = None,
) -> TaskSummaries:
    """Return how many tasks there are, by function and state. Blocks.

    Arguments and errors are those of list_tasks.
    """
    wanted = tests(filters, TaskState)
    return Session(address, timeout, needs_all=raise_on_missing_output).tasks().summary(wanted)


def summarize_actors(
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    raise_on_missing_output: bool = True,
    *,
    filters: Sequence[Filter] | None = None,
) -> ActorSummaries:
    """Return how many actors there are, by class and state. Blocks.

    Arguments and errors are those of list_tasks.
    """
    wanted = tests(filters, ActorState)
    session = Session(address, timeout, needs_all=raise_on_missing_output)
    actors = select(session.actors(), wanted)
    counts: dict[str, Counter[str]] = {}
    for actor in actors:
        counts.setdefault(actor.class_name, Counter())[actor.state] += 1
    return ActorSummaries(
        summary={
            name: ActorSummaryPerClass(class_name=name, state_counts=dict(states))
            for name, states in counts.items()
        },
        total_actors=len(actors),
    )


def summarize_objects(
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    raise_on_missing_output: bool = True,
    *,
    filters: Sequence[Filter] | None = None,
) -> ObjectSummaries:
    """Return how many objects there are, by what made them. Blocks.

    Arguments and errors are those of list_tasks.
    """
    wanted = tests(filters, ObjectState)
    session = Session(address, timeout, needs_all=raise_on_missing_output)
    return _objects.summary(select(session.objects(), wanted))
