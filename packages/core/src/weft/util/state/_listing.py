"""Everything of a session by kind: what is asked, and the records made of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from weft._resources import UNITS
from weft._wire.codec import unpack
from weft._wire.records import SessionSnapshot
from weft.util.state import _objects
from weft.util.state._filters import checked_limit, select, tests
from weft.util.state._sources import ask, report_silent
from weft.util.state._tasks import TaskTable
from weft.util.state.common import (
    ActorState,
    ClusterEventState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    StateResource,
    TaskState,
    WorkerState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from weft.util.state.common import Filter

S = TypeVar("S", bound=msgspec.Struct)

_ACTOR_STATES = {
    "pending": "PENDING_CREATION",
    "alive": "ALIVE",
    "restarting": "RESTARTING",
    "dead": "DEAD",
}


class Found(NamedTuple, Generic[S]):
    """The records that were asked for."""

    records: list[S]
    total: int
    """How many pass the filters."""
    dropped: int = 0
    """How many older ones are not kept any more."""


class Session:
    """Questions to one session."""

    def __init__(self, address: str | None, timeout: float, *, needs_all: bool = False) -> None:
        """`needs_all`: a process that does not answer is an error."""
        self._address = address
        self._timeout_s = timeout
        self._needs_all = needs_all

    def ask(self, what: str) -> Any:
        """Ask the daemon alone."""
        return msgspec.msgpack.decode(self._ask(what))

    def _ask(self, what: str) -> bytes:
        return ask(what, address=self._address, timeout=self._timeout_s)

    def ask_all(self, what: str) -> SessionSnapshot:
        """Ask all processes; some may not answer."""
        return unpack(self._ask(what), SessionSnapshot)

    def snapshot(self, what: str) -> SessionSnapshot:
        """Ask all processes. DataSourceUnavailable: some do not answer, and all are needed."""
        found = self.ask_all(what)
        report_silent(found, what, needs_all=self._needs_all)
        return found

    # -------------------------------------------------------------- by kind

    def find(
        self, resource: StateResource, filters: Iterable[Filter] | None, limit: int | None
    ) -> Found[Any]:
        """Return what passes the filters. StateApiException: they cannot be understood."""
        kind, list_all = KINDS[resource]
        wanted = tests(filters, kind)
        most = checked_limit(limit)
        if resource is StateResource.TASKS:
            tasks = self.tasks()
            return Found(*tasks.select(wanted, most), tasks.dropped)
        found = select(list_all(self), wanted)
        return Found(found[:most], len(found))

    def tasks(self) -> TaskTable:
        """Return all tasks."""
        facts = self.ask("session")
        return TaskTable(self.snapshot("tasks"), job_id=_only_job(facts), node_id=facts["node_id"])

    def actors(self) -> list[ActorState]:
        """Return all actors."""
        facts = self.ask("session")
        return [
            ActorState(
                actor_id=one["actor_id"].hex(),
                class_name=one["class_name"],
                state=_ACTOR_STATES[one["state"]],
                job_id=one.get("job_id") or _only_job(facts),
                name=one["name"],
                namespace=one["namespace"],
                node_id=one["node_id"].hex() or None,
                pid=one["pid"] or None,
                worker_id=one["worker"].hex() or None,
                death_cause=one["cause"] or None,
                is_detached=one["is_detached"],
                num_restarts=one["restarts"],
                required_resources={name: units / UNITS for name, units in one["amounts"]},
            )
            for one in self.ask("actors")
        ]

    def objects(self) -> list[ObjectState]:
        """Return all objects, as each process sees them, the largest first."""
        found = _objects.states(self.snapshot("objects"), self.ask("segments"))
        return sorted(found, key=lambda each: -each.object_size)

    def workers(self) -> list[WorkerState]:
        """Return the drivers and all workers, those that live first."""
        facts = self.ask("session")
        node = facts["node_id"]
        drivers = [
            WorkerState(
                worker_id=job["driver_id"],
                is_alive=True,
                worker_type="DRIVER",
                state="running",
                node_id=job["node_id"],
                pid=job["driver_pid"],
                start_time_ms=_ms(job["began_at"]),
            )
            for job in facts["jobs"]
        ]
        living = [
            WorkerState(
                worker_id=one["worker_id"],
                is_alive=True,
                worker_type="WORKER",
                state=one["state"],
                node_id=node,
                pid=one["pid"],
                running=one["function"],
                runtime_env=one["runtime_env"],
                actor_id=one["actor_id"] or None,
                actor=one["actor"],
                start_time_ms=_ms(one["started_at"]),
            )
            for one in self.ask("workers")
        ]
        ended = [
            WorkerState(
                worker_id=one["worker_id"],
                is_alive=False,
                worker_type="WORKER",
                state="gone",
                node_id=node,
                pid=one["pid"],
                exit_type=one["how"],
                exit_detail=one["stderr"] or None,
                running=one["function"],
                start_time_ms=_ms(one["started_at"]),
                end_time_ms=_ms(one["ended_at"]),
            )
            for one in reversed(self.ask("ended_workers"))
        ]
        return [*drivers, *living, *ended]

    def nodes(self) -> list[NodeState]:
        """Return all nodes."""
        began_at = self.ask("session")["began_at"]
        return [
            NodeState(
                node_id=one["NodeID"],
                node_ip=one["NodeManagerAddress"],
                is_head_node=one["IsHeadNode"],
                state="ALIVE" if one["Alive"] else "DEAD",
                node_name=one["NodeName"],
                resources_total=one["Resources"],
                labels=one["Labels"],
                start_time_ms=began_at * 1000,
            )
            for one in self.ask("nodes")
        ]

    def jobs(self) -> list[JobState]:
        """Return the jobs whose drivers are connected, the oldest first."""
        return [
            JobState(
                job_id=job["job_id"],
                type="DRIVER",
                status="RUNNING",
                entrypoint=job["entrypoint"],
                driver_pid=job["driver_pid"],
                start_time=job["began_at"] * 1000,
            )
            for job in self.ask("session")["jobs"]
        ]

    def runtime_envs(self) -> list[RuntimeEnvState]:
        """Return the environments that workers have."""
        node = self.ask("session")["node_id"]
        counts: dict[str, int] = {}
        for one in self.ask("workers"):
            if one["runtime_env"]:
                counts[one["runtime_env"]] = counts.get(one["runtime_env"], 0) + 1
        return [
            RuntimeEnvState(runtime_env=env, success=True, node_id=node, ref_cnt=number)
            for env, number in counts.items()
        ]


def _only_job(facts: dict[str, Any]) -> str:
    """Return the job if there is but one; what is not told by job is its."""
    jobs = facts["jobs"]
    return str(jobs[0]["job_id"]) if len(jobs) == 1 else ""


def _ms(at_s: float) -> float | None:
    """Return milliseconds; None for what has not been."""
    return round(at_s * 1000, 3) or None


KINDS: dict[StateResource, tuple[type[msgspec.Struct], Callable[[Session], list[Any]]]] = {
    StateResource.TASKS: (TaskState, lambda session: session.tasks().live),
    StateResource.ACTORS: (ActorState, Session.actors),
    StateResource.OBJECTS: (ObjectState, Session.objects),
    StateResource.WORKERS: (WorkerState, Session.workers),
    StateResource.NODES: (NodeState, Session.nodes),
    StateResource.JOBS: (JobState, Session.jobs),
    StateResource.RUNTIME_ENVS: (RuntimeEnvState, Session.runtime_envs),
    StateResource.PLACEMENT_GROUPS: (PlacementGroupState, lambda _: []),
    StateResource.CLUSTER_EVENTS: (ClusterEventState, lambda _: []),
}
