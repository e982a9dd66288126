"""`weft status`: the nodes, what they have, and what waits for more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from weft._cli.asking import format_option, session_options, telling_refusals
from weft._cli.out import plain, say
from weft._cli.state import say_json
from weft._cli.tables import table, width
from weft._exits import amount
from weft.util.state._listing import Session
from weft.util.state._sources import name_of
from weft.util.state.exception import StateApiException

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command()
@format_option
@session_options
def status(form: str, address: str | None, timeout: float) -> None:
    """Show nodes, what they have, and what waits for more."""
    with telling_refusals():
        session = Session(address, timeout)
        nodes = session.ask("status")["nodes"]
        replies = session.ask_nodes("session", "waiting", about="jobs and of what waits")
    told = [(reply, *map(msgspec.msgpack.decode, reply.bodies)) for reply in replies]
    jobs = [{**job, "node_id": reply.node_id} for reply, facts, _ in told for job in facts["jobs"]]
    waiting = merged([(name_of(reply), wishes) for reply, _, wishes in told])
    groups = _waiting_groups(session)
    found = {"nodes": nodes, "jobs": jobs, "waiting": waiting, "groups": groups}
    if form == "json":
        say_json(found)
        return
    say(_nodes(nodes))
    say("")
    say(_jobs(jobs))
    say("")
    say(_waiting(waiting))
    for group in groups:
        say(_group(group))


def merged(told: Sequence[tuple[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Join what waits on several nodes, by what it needs; those that want most come first.

    `told`: by name of a node. Of several nodes it is said who says why.
    """
    wishes: dict[object, dict[str, Any]] = {}
    whys: dict[object, dict[str, list[str]]] = {}
    for name, wanted in told:
        for one in wanted:
            key = (*sorted(one["needs"].items()), one["strategy"], one["are_actors"])
            first = wishes.setdefault(key, {**one, "workers": 0})
            first["workers"] += one["workers"]
            whys.setdefault(key, {}).setdefault(one["why"], []).append(name)
    for wish, one in wishes.items():
        reasons = whys[wish]
        if len(told) > 1:
            one["why"] = "\n".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())
    return sorted(wishes.values(), key=lambda one: -one["workers"])


def _nodes(nodes: list[dict[str, Any]]) -> str:
    names = dict.fromkeys(name for node in nodes for name in node["total"])
    rows = [
        [
            node["node_id"][:12],
            node["address"] or "this machine alone",
            _state(node),
            *(_used(name, node["total"].get(name), node["free"].get(name, 0)) for name in names),
        ]
        for node in nodes
    ]
    headers = [name.upper().replace("_", " ") for name in map(plain, names)]
    headers = ["OBJECTS" if name == "OBJECT STORE MEMORY" else name for name in headers]
    lines = [table(["NODE", "AT", "STATE", *headers], rows, width())]
    count = len(nodes)
    return "\n".join([f"{count} node{'s' if count != 1 else ''}: in use, of what there is", *lines])


def _state(node: dict[str, Any]) -> str:
    what = [node["state"]]
    if node["is_head"]:
        what.append("head")
    elif node["may_be_head"]:
        what.append("stands by")
    if node["is_here"]:
        what.append("asked")
    return ", ".join(what)


def _used(name: str, total: float | None, free: float) -> str:
    if total is None:
        return "-"
    if "memory" in name:
        return f"{amount(int(total - free))} of {amount(int(total))}"
    return f"{total - free:g} of {total:g}"


def _jobs(jobs: list[dict[str, Any]]) -> str:
    if not jobs:
        return "no driver is connected"
    rows = [
        [job["job_id"][:12], job["node_id"][:12], job["driver_pid"] or None, job["entrypoint"]]
        for job in jobs
    ]
    return table(["JOB", "DRIVER'S NODE", "PID", "PROGRAM"], rows, width())


def _waiting_groups(session: Session) -> list[dict[str, Any]]:
    """Return the placement groups that wait. Of those of a cluster its control service knows."""
    try:
        groups = session.ask("groups")
    except StateApiException as error:
        click.echo(f"no placement groups are shown: {plain(str(error))}", err=True)
        return []
    return [group for group in groups if group["state"] not in ("ready", "removed")]


def _group(group: dict[str, Any]) -> str:
    """Say why a placement group waits."""
    name = f" {plain(group['name'])}" if group["name"] else ""
    reason = [f"    {plain(line)}" for line in group["reason"].splitlines()]
    return "\n".join([f"placement group {group['group_id']}{name}:", *reason])


def _waiting(waiting: list[dict[str, Any]]) -> str:
    if not waiting:
        return "nothing waits for a worker"
    lines = []
    for one in waiting:
        needs = ", ".join(
            f"{plain(name)} {amount(int(units)) if 'memory' in name else f'{units:g}'}"
            for name, units in one["needs"].items()
        )
        what = "worker" if one["workers"] == 1 else "workers"
        what += " for actors" if one["are_actors"] else " for tasks"
        where = f", {plain(one['strategy'])}" if one["strategy"] != "DEFAULT" else ""
        lines.append(f"wanted: {one['workers']} {what} with {needs or 'nothing'}{where}")
        lines += [f"    {plain(line)}" for line in one["why"].splitlines()]
    return "\n".join(lines)
