"""`weft drain-node`: let a node run empty, then end."""

from __future__ import annotations

import click

from weft._cli.asking import session_options, telling_refusals
from weft._cli.out import plain, say
from weft.util.state._listing import Session
from weft.util.state._sources import ask


@click.command("drain-node")
@click.argument("node", metavar="NODE")
@click.option(
    "--if-idle",
    is_flag=True,
    help="Only if nothing runs there, no driver is there, and no object.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Then it ends, whatever it has. Default: when it is empty.",
)
@click.option("--reason", default="", metavar="TEXT", help="Why, for those who ask later.")
@session_options
def drain_node(
    node: str,
    *,
    if_idle: bool,
    deadline: float | None,
    reason: str,
    address: str | None,
    timeout: float,
) -> None:
    """Let a node take nothing new, and end when it is empty.

    NODE is its id, the beginning of that, or where it is (HOST:PORT); `weft status` shows both.
    """
    with telling_refusals():
        session = Session(address, timeout)
        nodes = session.ask("status")["nodes"]
        found = [
            each
            for each in nodes
            if each["node_id"].startswith(node) or (each["address"] and each["address"] == node)
        ]
        if not found:
            _tell_if_dead(session, node)
        if len(found) != 1:
            known = ", ".join(f"{each['node_id'][:12]} at {each['address']}" for each in nodes)
            what = "several nodes are" if found else "no node is"
            raise click.ClickException(plain(f"{what} {node!r}; there are {known}"))
        (one,) = found
        if one["is_head"]:
            raise click.ClickException(
                f"{one['address']} is the head, without which there is no cluster: end it with "
                "`weft stop`"
            )
        body = {
            "node_id": one["node_id"],
            "message": reason,
            "deadline_s": deadline or 0.0,
            "only_if_idle": if_idle,
        }
        ask("drain", body, address=address, timeout=timeout)
    until = f"in {deadline:g} s at the latest" if deadline else "when it is empty"
    say(f"node {one['node_id'][:12]} at {one['address']} takes nothing new, and ends {until}")


def _tell_if_dead(session: Session, node: str) -> None:
    for each in session.ask("nodes"):
        if not each["Alive"] and (each["NodeID"].startswith(node) or each["Address"] == node):
            why = each["DeathReasonMessage"]
            raise click.ClickException(plain(f"node {each['NodeID'][:12]} is dead: {why}"))
