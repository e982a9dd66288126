"""What commands that look at a session have in common: which session, and how refusals are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from weft._cli.out import plain
from weft.util.state.exception import StateApiException

if TYPE_CHECKING:
    from weft.util.state._listing import Session

Command = TypeVar("Command", bound=Callable[..., Any])


def session_options(command: Command) -> Command:
    """Add the options --session and --timeout."""
    command = click.option(
        "--session",
        "--address",
        "address",
        metavar="NAME",
        help="The session: its name, the beginning of that, or its directory. "
        "Default: the only one that is alive.",
    )(command)
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long the session's daemon may take.",
    )(command)


node_option = click.option(
    "--node",
    metavar="NODE",
    help="Only of this node of a cluster: the beginning of its id, or its HOST:PORT.",
)


def of_node(session: Session, node: str | None) -> str | None:
    """Return the id of the node that --node means; None: all. StateApiException: there is none."""
    if node is None:
        return None
    nodes = session.ask("nodes")
    found = [one["NodeID"] for one in nodes if one["NodeID"].startswith(node)]
    found += [one["NodeID"] for one in nodes if one["Address"] == node]
    if len(found) == 1:
        return str(found[0])
    raise StateApiException(f"{'no node' if not found else 'more than one node'} is {node}")


format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How it is printed.",
)


@contextmanager
def telling_refusals() -> Iterator[None]:
    """Tell in one line why a session does not answer."""
    try:
        yield
    except StateApiException as error:
        raise click.ClickException(plain(str(error))) from None
