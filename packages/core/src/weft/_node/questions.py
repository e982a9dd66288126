"""What a driver, a worker or a tool may ask the daemon: one table.

A question's body is msgpack, and so is its answer unless the question's entry says otherwise. A
question that cannot be answered raises ValueError, whose text is the answer's `error`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from weft._env.jobs import without_job
from weft._lazy import lazy
from weft._machines.leases import ACTOR_KEY
from weft._machines.placement import NodeView
from weft._machines.stock import NOTHING
from weft._node import log_files
from weft._node.acting import QUESTIONS as ACTING
from weft._node.followers import QUESTION as FOLLOWED
from weft._node.history import QUESTIONS as HISTORY
from weft._node.processes import describe
from weft._resources import Resources
from weft._specs import Shape
from weft._transport.addresses import DAEMON, split
from weft._wire import codec
from weft._wire.codec import unpack
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from weft._env import cache, sharing
    from weft._node.daemon import Daemon
    from weft._node.processes import Process
else:
    cache = lazy("weft._env.cache")
    sharing = lazy("weft._env.sharing")

OF_GROUPS = ("create_group", "remove_group", "groups", "group_ready", "why_group")
"""See groups.py."""
# Each costs a look at the whole queue.
SHAPES_TOLD = 50


def nodes(daemon: Daemon, body: bytes) -> Any:
    """No body. Answer: one record a node, as a list of maps; in a cluster also of the dead."""
    cluster = daemon.in_cluster
    names = {} if cluster is None else cluster.names()
    found = [_node(view, address, names.get(view.node_id)) for view, address in _nodes(daemon)]
    for facts in [] if cluster is None else (*cluster.untold(), *cluster.dead()):
        nothing = NodeView(facts.node_id, NOTHING, NOTHING)
        death = facts.cause if facts.life == "dead" else ""
        found.append(_node(nothing, facts.address, facts.name, death))
    for node in found:
        node["IsHeadNode"] = node["Alive"] and daemon.head in {"", node["Address"]}
    return found


def _nodes(daemon: Daemon) -> list[tuple[NodeView, str]]:
    """Return the nodes that live, this one first, and the addresses of their daemons."""
    return daemon.scheduling.nodes()


def _node(view: NodeView, address: str, name: str | None, death: str = "") -> dict[str, Any]:
    where = split(address) if address else None
    name = name or os.uname().nodename
    return {
        "NodeID": view.node_id.hex(),
        "Address": where.node if where else "",
        "Alive": not death,
        "alive": not death,
        "NodeManagerAddress": where.host if where else "127.0.0.1",
        "NodeManagerHostname": name,
        "NodeManagerPort": where.port if where else 0,
        "NodeName": name,
        "Resources": view.total.to_floats(),
        "Labels": view.labels,
        "Draining": view.draining,
        "DeathReasonMessage": death,
    }


def resources(daemon: Daemon, body: bytes) -> Any:
    """No body. Answer: {"total": amounts, "available": amounts}, as users write them."""
    views = [view for view, _ in _nodes(daemon)]
    total = sum((view.total for view in views), NOTHING).to_floats()
    # A node may have lent more CPUs than it has; that is not taken from what others have.
    free = sum((_positive(view.free) for view in views), NOTHING).to_floats()
    return {"total": total, "available": {name: free.get(name, 0.0) for name in total}}


def _positive(amounts: Resources) -> Resources:
    return Resources.of_units({name: max(0, units) for name, units in amounts.items()})


def why_shape(daemon: Daemon, body: bytes) -> bytes:
    """Body: a Shape. Answer: what a demand of this shape waits for, as plain text."""
    return daemon.scheduling.explain(unpack(body, Shape)).encode()


def why_room(daemon: Daemon, body: bytes) -> bytes:
    """Body: a process's id in hexadecimal digits. Answer: what room it waits for, as plain text."""
    client = bytes.fromhex(unpack(body, str))
    lines = [daemon.memory.machine.explain(client)]
    if daemon.transfers is not None:
        lines.append(daemon.transfers.machine.explain(client))
    return "\n".join(filter(None, lines)).encode()


def why_silent(daemon: Daemon, body: bytes) -> bytes:
    """No body. Answer: why what the cluster is asked has no answer yet; empty: not known here."""
    return b"" if daemon.in_cluster is None else daemon.in_cluster.why_silent().encode()


def workers(daemon: Daemon, body: bytes) -> Any:
    """No body. Answer: one map a worker: id, pid, job, state, environment, what it runs."""
    states = {worker: (state, env) for worker, state, env in daemon.rules.pool.workers()}
    return [
        _worker(daemon, process, *states.get(process.worker_id, ("gone", "")))
        for process in daemon.roster.all()
    ]


def _worker(daemon: Daemon, process: Process, state: str, env: str) -> dict[str, Any]:
    task_id, function = process.running()
    actor = daemon.grants.actor_on(process.worker_id)
    return {
        "actor_id": actor.hex() if actor is not None else "",
        "actor": daemon.acting.label(actor) if actor is not None else "",
        "worker_id": process.worker_id.hex(),
        "pid": process.pid,
        "state": "paused" if process.is_paused else state,
        "job_id": process.job.id.hex(),
        "runtime_env": without_job(env),
        "task_id": task_id.hex(),
        "function": function,
        "started_at": process.started_at,
    }


def ended_workers(daemon: Daemon, body: bytes) -> Any:
    """No body. Answer: one map a worker that has ended, the newest."""
    return [
        {
            "worker_id": certificate.worker_id.hex(),
            "pid": certificate.pid,
            "how": describe(certificate),
            "stderr": certificate.stderr,
            "function": certificate.function,
            "started_at": certificate.started_at,
            "ended_at": certificate.ended_at,
        }
        for certificate in daemon.deaths.list_certificates()
    ]


def log_sizes(daemon: Daemon, body: bytes) -> Any:
    """No body. Answer: how many bytes each log file has, by name."""
    return log_files.sizes(daemon.session_dir)


def log_tail(daemon: Daemon, body: bytes) -> Any:
    """Body: [name of a log file, how many lines; -1: all]. Answer: a LogPart."""
    name, lines = unpack(body, tuple[str, int])
    return log_files.read_tail(_log(daemon, name), lines)


def log_more(daemon: Daemon, body: bytes) -> Any:
    """Body: [name of a log file, LogPlace]. Answer: a LogPart, of no bytes at the end."""
    name, place = unpack(body, tuple[str, log_files.LogPlace])
    return log_files.read_more(_log(daemon, name), place)


def _log(daemon: Daemon, name: str) -> Path:
    path = log_files.path_of(daemon.session_dir, name)
    if path is None:
        raise ValueError(f"there is no log {name!r}")
    return path


def segments(daemon: Daemon, body: bytes) -> Any:
    """No body. Answer: one map a segment of the store."""
    return [msgspec.structs.asdict(facts) for facts in daemon.memory.machine.list_segments()]


def store(daemon: Daemon, body: bytes) -> Any:
    """No body. Answer: a map of what is used of the store, in bytes."""
    usage = daemon.memory.machine.usage()
    numbers = ("budget_bytes", "used_bytes", "spare_bytes", "spilled_bytes")
    return {name: getattr(usage, name) for name in numbers}


def session(daemon: Daemon, body: bytes) -> Any:
    """No body. Answer: a map of what the session is."""
    return daemon.describe()


def status(daemon: Daemon, body: bytes) -> Any:
    """No body. Answer: a map of the nodes, as this one knows them."""
    head = daemon.head
    heads = set() if daemon.in_cluster is None else daemon.in_cluster.heads()
    return {
        "nodes": [
            {
                "node_id": view.node_id.hex(),
                "address": address.removesuffix(f"/{DAEMON}"),
                "is_head": head == address.removesuffix(f"/{DAEMON}"),
                "may_be_head": view.node_id in heads,
                "is_here": view.node_id == daemon.facts.node_id,
                "state": f"drains: {view.draining}" if view.draining else "alive",
                "total": view.total.to_floats(),
                "free": _free(view),
                "labels": view.labels,
            }
            for view, address in _nodes(daemon)
        ],
    }


def _free(view: NodeView) -> dict[str, float]:
    free = view.free.to_floats()
    return {name: max(0.0, free.get(name, 0.0)) for name in view.total}


def waiting(daemon: Daemon, body: bytes) -> Any:
    """No body. Answer: a map for each need of what waits here; those that want most come first."""
    workers_by: dict[tuple[Shape, bool], int] = {}
    for (_, key), (shape, workers) in daemon.scheduling.waiting().items():
        of = shape, key == ACTOR_KEY
        workers_by[of] = workers_by.get(of, 0) + workers
    most = sorted(workers_by.items(), key=lambda one: -one[1])[:SHAPES_TOLD]
    return [
        {
            "needs": Resources.of_units(dict(shape.amounts)).to_floats(),
            "strategy": shape.strategy,
            "are_actors": are_actors,
            "workers": workers,
            "why": daemon.scheduling.explain(shape),
        }
        for (shape, are_actors), workers in most
    ]


def has_content(daemon: Daemon, body: bytes) -> Any:
    """Body: a PartWanted. Answer: whether this machine can give it."""
    return sharing.has(_env_cache(), unpack(body, sharing.PartWanted))


def give_contents(daemon: Daemon, body: bytes) -> Any:
    """Body: a list of PartWanted. Answer: a list of ContentPart, for the first of them."""
    try:
        return sharing.give(_env_cache(), unpack(body, list[sharing.PartWanted]))
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from None


def _env_cache() -> cache.EnvCache:
    return cache.EnvCache(cache.default_root())


QUESTIONS: dict[str, Callable[[Daemon, bytes], Any]] = {
    "ended_workers": ended_workers,
    "give_contents": give_contents,
    "has_content": has_content,
    "nodes": nodes,
    "resources": resources,
    "log_more": log_more,
    "log_sizes": log_sizes,
    "log_tail": log_tail,
    "segments": segments,
    "session": session,
    "status": status,
    "store": store,
    "waiting": waiting,
    "why_room": why_room,
    "why_shape": why_shape,
    "why_silent": why_silent,
    "workers": workers,
}


def answer(daemon: Daemon, what: str, body: bytes) -> tuple[bytes, str]:
    """Return (body, error) of the answer to a question."""
    question = QUESTIONS.get(what)
    if question is None:
        known = ", ".join(sorted([*QUESTIONS, *ACTING, *HISTORY, FOLLOWED, *OF_GROUPS, "metrics"]))
        return b"", f"the daemon does not know the question {what!r}; it knows {known}"
    try:
        found = question(daemon, body)
        return (found if isinstance(found, bytes) else codec.pack(found)), ""
    except (ValueError, ProtocolError) as error:
        return b"", str(error)
