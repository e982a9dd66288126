"""`weft logs`: what workers wrote."""

from __future__ import annotations

import contextlib
import re
import sys

import click
import msgspec

from weft._cli.asking import format_option, node_option, of_node, session_options, telling_refusals
from weft._cli.out import note, say
from weft._cli.state import NODE_DIGITS, runs, say_json
from weft._cli.tables import table, width
from weft.util.state._listing import Session
from weft.util.state._logs import (
    WorkerPlace,
    find_worker,
    follow_log,
    log_source,
    read_log,
)
from weft.util.state.exception import StateApiException

INTERRUPTED = 130
"""What a shell expects of a program that Ctrl-C has ended."""
_HEX = re.compile(r"[0-9a-f]{24}|[0-9a-f]{32}")


@click.command()
@click.argument("whose", required=False)
@click.option("--err", is_flag=True, help="What was written to stderr, not to stdout.")
@click.option(
    "--tail",
    type=click.IntRange(min=-1),
    default=100,
    show_default=True,
    metavar="LINES",
    help="How many of the last lines; -1: all that are kept.",
)
@click.option("--follow", "-f", is_flag=True, help="Go on until the worker has ended.")
@node_option
@format_option
@session_options
def logs(
    whose: str | None,
    *,
    err: bool,
    tail: int,
    follow: bool,
    node: str | None,
    form: str,
    address: str | None,
    timeout: float,
) -> None:
    """Show what a worker wrote.

    WHOSE is a worker's process id or id, an actor's name or id, or the id of a task. Without it
    the workers are listed, with how much they have written.
    """
    if follow and form == "json":
        raise click.UsageError("what is followed has no end, and so no JSON: leave out one of them")
    suffix = "err" if err else "out"
    with telling_refusals():
        session = Session(address, timeout)
        source = log_source(session)
        if whose is None:
            _list(session, of_node(session, node), form)
            return
        worker = _worker(session, whose, of_node(session, node))
        log = source.worker_log(worker, suffix)
    if form == "json":
        with telling_refusals():
            text = "".join(read_log(log, tail=tail))
        say_json(
            {"worker_id": worker.worker_id, "stream": f"std{suffix}", "lines": text.splitlines()}
        )
        return
    is_empty = True
    texts = follow_log(log, source.directory, tail=tail) if follow else read_log(log, tail=tail)
    with telling_refusals(), contextlib.closing(texts):
        try:
            for text in texts:
                is_empty = False
                # As the program wrote it, colours too.
                sys.stdout.write(text)
                sys.stdout.flush()
        except KeyboardInterrupt:
            # Who follows ends so, and has seen what there was.
            sys.exit(INTERRUPTED)
    if is_empty:
        note(f"nothing was written to std{suffix}")


def _list(session: Session, node_id: str | None, form: str) -> None:
    size_of: dict[str, int] = {}
    for reply in session.ask_nodes("log_sizes", about="logs"):
        for name, size_bytes in msgspec.msgpack.decode(reply.bodies[0]).items():
            whole = name.removesuffix(".1")
            size_of[whole] = size_of.get(whole, 0) + size_bytes
    found = [
        {
            "node_id": worker.node_id,
            "pid": worker.pid,
            "state": worker.state,
            "stdout_bytes": size_of.get(f"worker-{worker.worker_id}.out", 0),
            "stderr_bytes": size_of.get(f"worker-{worker.worker_id}.err", 0),
            "running": runs(worker),
            "worker_id": worker.worker_id,
        }
        for worker in session.workers()
        if worker.worker_type == "WORKER" and node_id in (None, worker.node_id)
    ]
    if form == "json":
        say_json(found)
        return
    if not found:
        note("no workers found")
        return
    rows = [[str(each["node_id"])[:NODE_DIGITS], *list(each.values())[1:-1]] for each in found]
    headers = ["NODE", "PID", "STATE", "STDOUT BYTES", "STDERR BYTES", "RUNS"]
    first = 0 if session.is_cluster else 1
    say(table(headers[first:], [row[first:] for row in rows], width()))


def _worker(session: Session, whose: str, node_id: str | None) -> WorkerPlace:
    """Return the worker that is meant."""
    for worker in session.workers():
        if whose == worker.worker_id:
            return WorkerPlace(worker.node_id, worker.worker_id)
    actors = [actor for actor in session.actors() if whose in (actor.name, actor.actor_id)]
    if actors:
        return find_worker(session, actor_id=actors[-1].actor_id)
    if _HEX.fullmatch(whose):
        return find_worker(session, task_id=whose.ljust(32, "0"))
    if whose.isdecimal():
        return find_worker(session, pid=int(whose), node_id=node_id)
    raise StateApiException(f"{whose!r} is no worker, actor or task of the session")
