"""`weft stop`: end nodes of this machine that live on by themselves."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import TYPE_CHECKING

import click

from weft._cli.out import note, plain, say
from weft._clock import monotonic
from weft._node.finding import find_session, sessions
from weft._node.sessions import remove_session, remove_tree
from weft.exceptions import OptionError, SessionError

if TYPE_CHECKING:
    from weft._node.finding import SessionPlace

# Of the kernel, to end a process that is killed.
KILLED_S = 5.0


@click.command()
@click.option(
    "--session",
    "--address",
    "address",
    metavar="NAME",
    help="Only this one: its name, the beginning of that, its directory, or a join string.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="How long it may take; then it is killed.",
)
def stop(address: str | None, timeout: float) -> None:
    """End the nodes on this machine that weft start has started.

    With them end all tasks, actors and objects that they have. Sessions of programs end with
    these, and nodes of other users are not touched.
    """
    try:
        found = [find_session(address)] if address else [s for s in sessions() if s.is_lasting]
    except (SessionError, OptionError) as error:
        raise click.ClickException(plain(str(error))) from None
    for place in found:
        if not place.is_lasting:
            raise click.ClickException(
                f"{place} was started by a program, and ends with it: end process "
                f"{place.node.parent_pid}"
            )
    if not found:
        note("no node runs here")
    # The head last: the others take leave of it.
    heads = [place for place in found if place.node.cluster and place.node.cluster.is_head]
    others = [place for place in found if place not in heads]
    until = monotonic() + timeout
    for group in (others, heads):
        _end(group, until, timeout)


def _end(places: list[SessionPlace], until: float, timeout_s: float) -> None:
    """End nodes, all at a time, and say so."""
    with contextlib.ExitStack() as stack:
        ends = [(place, _tell(place, stack)) for place in places]
        for place, pidfd in ends:
            if _wait(pidfd, until - monotonic()):
                say(f"stopped {plain(str(place))}")
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _wait(pidfd, KILLED_S)
            remove_tree(place.node.store_dir)
            remove_session(place.directory)
            say(f"killed {plain(str(place))}: it did not end within {timeout_s:g} s")


def _tell(place: SessionPlace, stack: contextlib.ExitStack) -> int:
    """Tell a node to end; return a descriptor of its process, -1 if that is gone."""
    pid = place.daemon_pid()
    try:
        pidfd = os.pidfd_open(pid) if pid else -1
    except ProcessLookupError:
        pidfd = -1
    if pidfd < 0:
        return pidfd
    stack.callback(os.close, pidfd)
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    return pidfd


def _wait(pidfd: int, timeout_s: float) -> bool:
    """Wait for a process to end; tell whether it has."""
    if pidfd < 0:
        return True
    waiter = select.poll()
    waiter.register(pidfd, select.POLLIN)
    return bool(waiter.poll(max(0.0, timeout_s) * 1000))
