"""`weft list`, `weft get`, `weft summary`: what a session is doing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click
import msgspec

from weft._cli.asking import format_option, session_options, telling_refusals
from weft._cli.out import note, plain, say
from weft._cli.tables import block, table, width
from weft._clock import wall
from weft._exits import amount
from weft.util import state
from weft.util.state._listing import Session
from weft.util.state.common import DEFAULT_LIMIT, MAX_LIMIT, StateResource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft.util.state._listing import Found
    from weft.util.state.common import Filter

_FILTER = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=|<|>|\bin\b)\s*(.*)", re.DOTALL)
NODE_DIGITS = 12
"""Of the id of a node or a job, where others have it too."""
# The objects of a task have numbers there, a task has not.
_TASK_TAIL = "0" * 8


def _task_id(task: Any) -> str:
    return str(task.task_id).removesuffix(_TASK_TAIL)


def _took(task: Any) -> str:
    if task.start_time_ms is None:
        return ""
    if task.end_time_ms is None:
        return f"for {max(0.0, wall() - task.start_time_ms / 1000):.0f} s"
    return f"{(task.end_time_ms - task.start_time_ms) / 1000:.3f} s"


def runs(worker: Any) -> str:
    """Return what a worker runs, or else which actor it is."""
    return worker.running or (f"actor {worker.actor}" if worker.actor else "")


def _error(task: Any) -> str:
    return f"{task.error_type}: {task.error_message}" if task.error_type else ""


def _bundle(bundle: dict[str, Any]) -> str:
    return " ".join(f"{name} {value:g}" for name, value in bundle["resources"].items())


def _limits(job: Any) -> str:
    parts = [f"{name} {most:g}" for name, most in job.quota.items()]
    parts += [f"weight {job.weight}"] if job.weight != 1 else []
    parts += [f"priority {job.priority}"] if job.priority else []
    return ", ".join(parts)


def _one(**parts: str) -> dict[str, Callable[[Any], object]]:
    def part(field: str) -> Callable[[Any], object]:
        return lambda record: getattr(record, field)

    return {header: part(field) for header, field in parts.items()}


COLUMNS: dict[StateResource, dict[str, Callable[[Any], object]]] = {
    StateResource.TASKS: {
        "TASK": _task_id,
        **_one(NAME="name", STATE="state", PID="worker_pid"),
        "RAN": _took,
        "ERROR": _error,
    },
    StateResource.ACTORS: _one(
        ACTOR="actor_id",
        CLASS="class_name",
        NAME="name",
        STATE="state",
        PID="pid",
        RESTARTS="num_restarts",
        CAUSE="death_cause",
    ),
    StateResource.OBJECTS: {
        **_one(OBJECT="object_id"),
        "SIZE": lambda each: amount(each.object_size),
        **_one(PLACE="place", HELD="reference_type", PID="pid"),
        "MADE": lambda each: each.call_site or each.label,
    },
    StateResource.WORKERS: {
        **_one(WORKER="worker_id", TYPE="worker_type", PID="pid", STATE="state"),
        "RUNS": runs,
        **_one(ENDED="exit_type"),
    },
    StateResource.NODES: {
        **_one(NODE="node_id", AT="address", NAME="node_name"),
        "STATE": lambda node: f"{node.state}, head" if node.is_head_node else node.state,
        "RESOURCES": lambda node: ", ".join(
            f"{name} {amount(value) if 'memory' in name else f'{value:g}'}"
            for name, value in node.resources_total.items()
        ),
        "NOTE": lambda node: node.state_message,
    },
    StateResource.JOBS: {
        **_one(JOB="job_id", STATUS="status", PID="driver_pid"),
        "LIMITS": _limits,
        **_one(ENTRYPOINT="entrypoint"),
    },
    StateResource.RUNTIME_ENVS: _one(WORKERS="ref_cnt", ENVIRONMENT="runtime_env"),
    StateResource.PLACEMENT_GROUPS: {
        **_one(GROUP="placement_group_id", NAME="name", STATE="state"),
        "STRATEGY": lambda group: " within ".join([group.strategy, *group.topology_strategy]),
        "BUNDLES": lambda group: ", ".join(map(_bundle, group.bundles)),
        "WHY": lambda group: group.stats["reason"],
    },
    StateResource.CLUSTER_EVENTS: _one(
        SEVERITY="severity", SOURCE="source_type", MESSAGE="message"
    ),
}
_AT_NODE: dict[StateResource, str] = {
    StateResource.TASKS: "node_id",
    StateResource.ACTORS: "node_id",
    StateResource.OBJECTS: "node_id",
    StateResource.WORKERS: "node_id",
    StateResource.JOBS: "driver_node_id",
    StateResource.RUNTIME_ENVS: "node_id",
}

_OF_JOBS = {StateResource.TASKS, StateResource.ACTORS}


def columns_of(kind: StateResource, session: Session) -> dict[str, Callable[[Any], object]]:
    """Return a table's columns; of a cluster, with job and node before the process."""
    columns = COLUMNS[kind]
    field = _AT_NODE.get(kind)
    if field is None or not session.is_cluster:
        return columns
    headers = list(columns)
    at = headers.index("PID") if "PID" in headers else 1
    parts = list(columns.items())
    places = [("NODE", lambda record: (getattr(record, field) or "")[:NODE_DIGITS])]
    if kind in _OF_JOBS:
        places.insert(0, ("JOB", lambda record: record.job_id[:NODE_DIGITS]))
    return dict([*parts[:at], *places, *parts[at:]])


_BY_NAME = {resource.value.replace("_", "-"): resource for resource in StateResource}


def read_filter(text: str) -> Filter:
    """Take a filter apart. BadParameter: it is none."""
    found = _FILTER.fullmatch(text)
    if found is None:
        raise click.BadParameter(
            f"{text!r} is no filter: write key=value, or with one of != < <= > >= in"
        )
    key, operator, value = found.groups()
    return key, operator, value


_filter_option = click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only those of which it is true; also != < <= > >= in. May be given several times.",
)


@click.command("list")
@click.argument("resource", type=click.Choice(sorted(_BY_NAME)), metavar="RESOURCE")
@_filter_option
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LIMIT),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="How many at most.",
)
@click.option("--detail", is_flag=True, help="Show all fields.")
@format_option
@session_options
def list_records(
    resource: str,
    filters: Sequence[str],
    limit: int,
    *,
    detail: bool,
    form: str,
    address: str | None,
    timeout: float,
) -> None:
    """List tasks, actors, objects, workers and more.

    Of tasks: those that have not ended, then those that ended last.
    """
    kind = _BY_NAME[resource]
    wanted = [read_filter(text) for text in filters]
    with telling_refusals():
        session = Session(address, timeout)
        found = session.find(kind, wanted, limit)
    if form == "json":
        say_json([record.asdict() for record in found.records])
    elif detail:
        say("\n\n".join(block(record.asdict()) for record in found.records))
    elif found.records:
        columns = columns_of(kind, session)
        rows = [[of(record) for of in columns.values()] for record in found.records]
        used = [index for index in range(len(columns)) if any(row[index] for row in rows)]
        headers = list(columns)
        say(
            table(
                [headers[index] for index in used],
                [[row[index] for index in used] for row in rows],
                width(),
            )
        )
    _say_what_is_missing(found, resource.replace("-", " "))


def _say_what_is_missing(found: Found[Any], what: str) -> None:
    shown = len(found.records)
    if not found.total:
        note(f"no {what} found")
    elif shown < found.total:
        note(f"{shown:,} of {found.total:,} {what}: --limit shows more, --filter the right ones")
    if found.dropped:
        note(f"{found.dropped:,} older {what} are not kept any more: see WEFT_TASK_EVENTS")


_GETS: dict[str, Callable[..., Any]] = {
    "tasks": state.get_task,
    "actors": state.get_actor,
    "objects": state.get_objects,
    "workers": state.get_worker,
    "nodes": state.get_node,
    "jobs": state.get_job,
    "placement-groups": state.get_placement_group,
}


@click.command()
@click.argument("resource", type=click.Choice(sorted(_GETS)), metavar="RESOURCE")
@click.argument("key", metavar="ID")
@format_option
@session_options
def get(resource: str, key: str, form: str, address: str | None, timeout: float) -> None:
    """Show one task, actor, object, worker or placement group."""
    if resource == "tasks" and len(key) == 24:
        key += _TASK_TAIL
    with telling_refusals():
        found = _GETS[resource](key, address=address, timeout=timeout)
    if not found:
        raise click.ClickException(f"no {resource.removesuffix('s')} {plain(key)} is known")
    records = found if isinstance(found, list) else [found]
    if form == "json":
        fields = [record.asdict() for record in records]
        say_json(fields if isinstance(found, list) else fields[0])
    else:
        say("\n\n".join(block(record.asdict()) for record in records))


@click.command()
@click.argument("resource", type=click.Choice(["tasks", "actors", "objects"]), metavar="RESOURCE")
@_filter_option
@format_option
@session_options
def summary(
    resource: str, filters: Sequence[str], form: str, address: str | None, timeout: float
) -> None:
    """Count tasks, actors or objects."""
    count: Callable[..., Any] = getattr(state, f"summarize_{resource}")
    wanted = [read_filter(text) for text in filters]
    with telling_refusals():
        found = count(address=address, timeout=timeout, filters=wanted)
    if form == "json":
        say_json(msgspec.to_builtins(found))
        return
    if resource == "objects":
        say_objects(found)
        return
    groups = found.summary.items()
    states = sorted({name for _, group in groups for name in group.state_counts})
    rows = [[key, *(group.state_counts.get(name, 0) for name in states)] for key, group in groups]
    header = "FUNCTION" if resource == "tasks" else "CLASS"
    say(table([header, *states], rows, width()))
    if getattr(found, "dropped", 0):
        note(f"{found.dropped:,} older tasks are not kept any more: see WEFT_TASK_EVENTS")


def say_objects(found: state.common.ObjectSummaries) -> None:
    """Print the numbers of objects, by what made them."""
    rows = [
        [
            key,
            group.total_objects,
            amount(int(group.total_size_mb * 1e6)),
            ", ".join(f"{number} {place}" for place, number in group.place_counts.items()),
        ]
        for key, group in found.summary.items()
    ]
    say(table(["MADE", "OBJECTS", "SIZE", "WHERE"], rows, width()))


def say_json(value: object) -> None:
    """Print a value as JSON."""
    say(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
