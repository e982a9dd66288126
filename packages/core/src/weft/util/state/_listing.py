"""Everything of a session by kind: what is asked, and the records made of the answers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from weft._api.groups import STATES as GROUP_STATES
from weft._resources import UNITS
from weft._wire.codec import unpack
from weft._wire.records import SessionSnapshot
from weft.util.state import _objects
from weft.util.state._filters import checked_limit, select, tests
from weft.util.state._sources import (
    ask,
    ask_nodes,
    name_of,
    report_silent,
    report_silent_nodes,
)
from weft.util.state._tasks import NodeTasks, TaskTable
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
from weft.util.state.exception import ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from weft._specs import NodeReply
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
        self.is_cluster = False
        """Whether one of the nodes that were asked has said that it is of a cluster."""

    def ask(self, what: str) -> Any:
        """Ask the daemon alone."""
        return msgspec.msgpack.decode(self._ask(what))

    def _ask(self, what: str) -> bytes:
        return ask(what, address=self._address, timeout=self._timeout_s)

    def ask_nodes(self, *whats: str, about: str = "") -> list[NodeReply]:
        """Ask all nodes; return what those say that answer.

        Who does not is reported, as one of whom something `about` this is missing.
        DataSourceUnavailable: that is an error.
        """
        found = self.ask_any_nodes(*whats)
        report_silent_nodes(found, about or whats[0], needs_all=self._needs_all)
        return [reply for reply in found if not reply.silent]

    def ask_any_nodes(self, *whats: str) -> list[NodeReply]:
        """Ask all nodes; some may be silent."""
        replies = ask_nodes(whats, address=self._address, timeout=self._timeout_s)
        self.is_cluster = any(reply.address for reply in replies)
        return replies

    def ask_node(self, node_id: str, what: str, body: object = None) -> bytes:
        """Ask one node. ServerUnavailable: it does not answer."""
        (reply,) = ask_nodes(
            [what], body, address=self._address, timeout=self._timeout_s, node_id=node_id
        )
        if reply.silent:
            raise ServerUnavailable(f"{name_of(reply)}: {reply.silent}")
        return reply.bodies[0]

    def snapshots(self, what: str, *more: str) -> list[tuple[NodeReply, SessionSnapshot]]:
        """Ask all processes of all nodes; the snapshot is the first body of each reply.

        DataSourceUnavailable: some do not answer, and all are needed.
        """
        replies = self.ask_nodes(what, *more)
        found = [(reply, unpack(reply.bodies[0], SessionSnapshot)) for reply in replies]
        for reply, snapshot in found:
            report_silent(reply, snapshot, what, needs_all=self._needs_all)
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
        node_of = {node["Address"]: node["NodeID"] for node in self.ask("nodes")}
        told = [NodeTasks(reply.node_id, snapshot) for reply, snapshot in self.snapshots("tasks")]
        return TaskTable(told, node_of)

    def actors(self) -> list[ActorState]:
        """Return all actors, which any node of a cluster knows."""
        facts = self.ask("session")
        # Their processes only the node knows where they are.
        pid_of = {
            worker["worker_id"]: worker["pid"]
            for reply in self.ask_nodes("workers", about="actors")
            for worker in msgspec.msgpack.decode(reply.bodies[0])
        }
        return [_actor(one, pid_of, facts) for one in self.ask("actors")]

    def objects(self) -> list[ObjectState]:
        """Return all objects, as each process sees them, the largest first."""
        # What a node knows of segments is as new as what its processes have told.
        told = [
            _objects.NodeObjects(reply.node_id, snapshot, msgspec.msgpack.decode(reply.bodies[1]))
            for reply, snapshot in self.snapshots("objects", "segments")
        ]
        return sorted(_objects.states(told), key=lambda each: -each.object_size)

    def workers(self) -> list[WorkerState]:
        """Return the drivers and all workers, those that live first."""
        replies = self.ask_nodes("workers", "ended_workers", "session")
        by_kind: list[list[WorkerState]] = [[], [], []]
        for reply in replies:
            living, ended, facts = map(msgspec.msgpack.decode, reply.bodies)
            by_kind[0] += [_driver(reply.node_id, job) for job in facts["jobs"]]
            by_kind[1] += [_living(reply.node_id, one) for one in living]
            by_kind[2] += [_ended(reply.node_id, one) for one in ended]
        by_kind[2].sort(key=lambda worker: -(worker.end_time_ms or 0))
        return [worker for kind in by_kind for worker in kind]

    def nodes(self) -> list[NodeState]:
        """Return all nodes, also the newest of the dead."""
        reply_of = {reply.node_id: reply for reply in self.ask_any_nodes("session")}
        return [_node(one, reply_of.get(one["NodeID"])) for one in self.ask("nodes")]

    def jobs(self) -> list[JobState]:
        """Return the jobs whose drivers are connected, the oldest first."""
        found = [
            JobState(
                job_id=job["job_id"],
                type="DRIVER",
                status="RUNNING",
                entrypoint=job["entrypoint"],
                driver_pid=job["driver_pid"],
                start_time=job["began_at"] * 1000,
                driver_node_id=reply.node_id,
                quota={name: units / UNITS for name, units in job["quota"].items()},
                weight=job["weight"],
                priority=job["priority"],
            )
            for reply in self.ask_nodes("session", about="jobs")
            for job in msgspec.msgpack.decode(reply.bodies[0])["jobs"]
        ]
        return sorted(found, key=lambda job: job.start_time)

    def placement_groups(self) -> list[PlacementGroupState]:
        """Return all placement groups that are known."""
        return [
            PlacementGroupState(
                placement_group_id=one["group_id"],
                name=one["name"],
                creator_job_id=one["job_id"],
                state=GROUP_STATES[one["state"]],
                strategy=one["strategy"],
                topology_strategy={one["topology"]: "STRICT_PACK"} if one["topology"] else {},
                bundles=[
                    {
                        "bundle_index": index,
                        "resources": {
                            name: units / UNITS for name, units in bundle["amounts"].items()
                        },
                        "label_selector": dict(bundle["labels"]),
                        "node_id": bundle["node_id"],
                    }
                    for index, bundle in enumerate(one["bundles"])
                ],
                is_detached=one["is_detached"],
                stats={"scheduling_state": one["state"].upper(), "reason": one["reason"]},
            )
            for one in self.ask("groups")
        ]

    def runtime_envs(self) -> list[RuntimeEnvState]:
        """Return the environments that workers have."""
        found = []
        for reply in self.ask_nodes("workers"):
            envs = [one["runtime_env"] for one in msgspec.msgpack.decode(reply.bodies[0])]
            found += [
                RuntimeEnvState(
                    runtime_env=env, success=True, node_id=reply.node_id, ref_cnt=number
                )
                for env, number in Counter(filter(None, envs)).items()
            ]
        return found


def _actor(one: dict[str, Any], pid_of: dict[str, int], facts: dict[str, Any]) -> ActorState:
    worker = one["worker"].hex()
    return ActorState(
        actor_id=one["actor_id"].hex(),
        class_name=one["class_name"],
        state=_ACTOR_STATES[one["state"]],
        job_id=one.get("job_id") or _only_job(facts),
        name=one["name"],
        namespace=one["namespace"],
        node_id=(one.get("node_id", b"").hex() or facts["node_id"]) if worker else None,
        pid=one["pid"] or pid_of.get(worker),
        worker_id=worker or None,
        death_cause=one["cause"] or None,
        is_detached=one["is_detached"],
        num_restarts=one["restarts"],
        required_resources={name: units / UNITS for name, units in one["amounts"]},
    )


def _driver(node_id: str, job: dict[str, Any]) -> WorkerState:
    return WorkerState(
        worker_id=job["driver_id"],
        is_alive=True,
        worker_type="DRIVER",
        state="running",
        node_id=node_id,
        pid=job["driver_pid"],
        start_time_ms=_ms(job["began_at"]),
    )


def _living(node_id: str, one: dict[str, Any]) -> WorkerState:
    return WorkerState(
        worker_id=one["worker_id"],
        is_alive=True,
        worker_type="WORKER",
        state=one["state"],
        node_id=node_id,
        pid=one["pid"],
        running=one["function"],
        runtime_env=one["runtime_env"],
        actor_id=one["actor_id"] or None,
        actor=one["actor"],
        start_time_ms=_ms(one["started_at"]),
    )


def _ended(node_id: str, one: dict[str, Any]) -> WorkerState:
    return WorkerState(
        worker_id=one["worker_id"],
        is_alive=False,
        worker_type="WORKER",
        state="gone",
        node_id=node_id,
        pid=one["pid"],
        exit_type=one["how"],
        exit_detail=one["stderr"] or None,
        running=one["function"],
        start_time_ms=_ms(one["started_at"]),
        end_time_ms=_ms(one["ended_at"]),
    )


def _node(one: dict[str, Any], reply: NodeReply | None) -> NodeState:
    message, began_at = one["DeathReasonMessage"], None
    if reply is not None:
        message = reply.silent
        if not reply.silent:
            began_at = msgspec.msgpack.decode(reply.bodies[0])["began_at"] * 1000
    if one["Draining"]:
        message = f"it drains: {one['Draining']}"
    return NodeState(
        node_id=one["NodeID"],
        node_ip=one["NodeManagerAddress"],
        is_head_node=one["IsHeadNode"],
        state="ALIVE" if one["Alive"] else "DEAD",
        state_message=message or None,
        node_name=one["NodeName"],
        address=one["Address"],
        resources_total=one["Resources"],
        labels=one["Labels"],
        start_time_ms=began_at,
    )


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
    StateResource.PLACEMENT_GROUPS: (PlacementGroupState, Session.placement_groups),
    StateResource.CLUSTER_EVENTS: (ClusterEventState, lambda _: []),
}
