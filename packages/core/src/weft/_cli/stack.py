"""`weft stack`: where the code of every process is now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from weft._cli.asking import format_option, node_option, of_node, session_options, telling_refusals
from weft._cli.out import plain, say
from weft._cli.state import say_json
from weft._wire.codec import unpack
from weft._wire.records import ProcessTold, SessionSnapshot, ThreadTold
from weft.util.state._listing import Session
from weft.util.state._sources import name_of

if TYPE_CHECKING:
    from weft._specs import NodeReply

Frame = tuple[str, int, str, str]

_IO_THREAD = "weft-io"
_HERE = f"{Path(__file__).parents[1]}/"


@click.command()
@click.argument("pids", nargs=-1, type=int, metavar="[PID]...")
@click.option("--all", "shows_all", is_flag=True, help="Also Weft's own threads and calls.")
@node_option
@format_option
@session_options
def stack(
    pids: tuple[int, ...],
    *,
    shows_all: bool,
    node: str | None,
    form: str,
    address: str | None,
    timeout: float,
) -> None:
    """Show where the code of every process is now.

    The innermost call is the last.
    """
    with telling_refusals():
        session = Session(address, timeout)
        wanted = of_node(session, node)
        replies = [
            reply for reply in session.ask_nodes("stacks") if wanted in (None, reply.node_id)
        ]
    found = [
        (reply, one) for reply in replies for one in unpack(reply.bodies[0], SessionSnapshot).told
    ]
    known = {one.pid for _, one in found}
    for pid in pids:
        if pid not in known:
            raise click.ClickException(f"the session has no process {pid}")
    processes = [
        (reply, one, None if one.body is None else _threads(one.body, shows_all=shows_all))
        for reply, one in sorted(found, key=lambda of: (of[1].role, of[0].address, of[1].pid))
        if not pids or one.pid in pids
    ]
    if form == "json":
        say_json(
            [
                {
                    "node_id": reply.node_id,
                    "pid": one.pid,
                    "role": one.role,
                    "threads": threads,
                }
                for reply, one, threads in processes
            ]
        )
    else:
        say("\n\n".join(_words(*process) for process in processes))


def _threads(body: bytes, *, shows_all: bool) -> list[ThreadTold]:
    threads = unpack(body, list[ThreadTold])
    if shows_all:
        return threads
    return [
        msgspec.structs.replace(one, frames=_without_ours(one.frames))
        for one in threads
        if one.name != _IO_THREAD
    ]


def _without_ours(frames: list[Frame]) -> list[Frame]:
    """Leave out Weft's calls around the user's: those that led there, and those that tell of it.

    Of what the user has called of Weft, the first call stays.
    """
    users = [index for index, (file, *_) in enumerate(frames) if not _is_ours(file)]
    return frames[users[0] : users[-1] + 2] if users else []


def _is_ours(file: str) -> bool:
    return file.startswith((_HERE, "<frozen"))


def _words(reply: NodeReply, one: ProcessTold, threads: list[ThreadTold] | None) -> str:
    where = f", {name_of(reply)}" if reply.address else ""
    lines = [f"{one.role} {one.pid}{where}"]
    if threads is None:
        lines.append("  does not answer: it is stopped, or runs C code that does not let others in")
    for thread in threads or ():
        task = f", runs {thread.task}" if thread.task else ""
        lines.append(f"  thread {thread.name or thread.ident}{task}")
        if not thread.frames:
            lines.append("    idle")
        for file, line, function, text in thread.frames:
            lines.append(f"    {function} ({file}:{line})")
            if text:
                lines.append(f"      {text}")
    return plain("\n".join(lines))
