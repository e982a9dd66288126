"""`weft logs`: what workers wrote."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING

import click

from weft._cli.asking import format_option, session_options, telling_refusals
from weft._cli.out import note, say
from weft._cli.state import runs, say_json
from weft._cli.tables import table, width
from weft.util.state._listing import Session
from weft.util.state._logs import (
    find_worker,
    follow_log,
    log_directory,
    read_log,
    worker_log,
)
from weft.util.state.exception import StateApiException

if TYPE_CHECKING:
    from pathlib import Path

    from weft.util.state._logs import LogFile

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
@format_option
@session_options
def logs(
    whose: str | None,
    *,
    err: bool,
    tail: int,
    follow: bool,
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
        directory = log_directory(session)
        if whose is None:
            _list(session, directory, form)
            return
        worker = _worker(session, whose)
        log = worker_log(directory, worker, suffix)
    if form == "json":
        text = "".join(read_log(log, tail=tail))
        say_json({"worker_id": worker, "stream": f"std{suffix}", "lines": text.splitlines()})
        return
    is_empty = True
    texts = follow_log(log, directory, tail=tail) if follow else read_log(log, tail=tail)
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


def _list(session: Session, directory: Path, form: str) -> None:
    found = []
    for worker in session.workers():
        if worker.worker_type == "WORKER":
            out, err = (
                _written_bytes(worker_log(directory, worker.worker_id, suffix))
                for suffix in ("out", "err")
            )
            found.append(
                {
                    "pid": worker.pid,
                    "state": worker.state,
                    "stdout_bytes": out,
                    "stderr_bytes": err,
                    "running": runs(worker),
                    "worker_id": worker.worker_id,
                }
            )
    if form == "json":
        say_json(found)
        return
    rows = [list(each.values())[:-1] for each in found]
    say(table(["PID", "STATE", "STDOUT BYTES", "STDERR BYTES", "RUNS"], rows, width()))


def _written_bytes(log: LogFile) -> int:
    with log:
        return len(log.tail(-1))


def _worker(session: Session, whose: str) -> str:
    """Return the id of the worker that is meant."""
    workers = {worker.worker_id for worker in session.workers()}
    if whose in workers:
        return whose
    actors = [actor for actor in session.actors() if whose in (actor.name, actor.actor_id)]
    if actors:
        return find_worker(session, actor_id=actors[-1].actor_id)
    if _HEX.fullmatch(whose):
        return find_worker(session, task_id=whose.ljust(32, "0"))
    if whose.isdecimal():
        return find_worker(session, pid=int(whose))
    raise StateApiException(f"{whose!r} is no worker, actor or task of the session")
