"""`weft memory`: what objects take of memory and disk, and what made them."""

from __future__ import annotations

import click
import msgspec

from weft._cli.asking import format_option, session_options, telling_refusals
from weft._cli.out import say
from weft._cli.state import columns_of, say_json, say_objects
from weft._cli.tables import table, width
from weft._exits import amount
from weft.util.state import _objects
from weft.util.state._listing import Session
from weft.util.state._sources import name_of
from weft.util.state.common import StateResource


@click.command()
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True, help="How many.")
@format_option
@session_options
def memory(limit: int, form: str, address: str | None, timeout: float) -> None:
    """Show what objects take, and what made them."""
    with telling_refusals():
        session = Session(address, timeout)
        replies = session.ask_nodes("store", about="memory")
        objects = session.objects()
    usages = [(reply, msgspec.msgpack.decode(reply.bodies[0])) for reply in replies]
    usage = {key: sum(each[key] for _, each in usages) for key in usages[0][1]}
    owned = [each for each in objects if each.is_owner]
    numbers = _objects.summary(owned)
    if form == "json":
        say_json(
            {
                "store": usage,
                "nodes": {reply.node_id: each for reply, each in usages},
                "objects": [each.asdict() for each in owned[:limit]],
                "summary": numbers,
            }
        )
        return
    say(f"shared memory: {_in_words(usage)}")
    if len(usages) > 1:
        for reply, each in usages:
            say(f"  {name_of(reply)}: {_in_words(each)}")
    size_bytes = sum(each.object_size for each in owned)
    say(f"{len(owned):,} objects, {amount(size_bytes)}")
    if owned:
        columns = columns_of(StateResource.OBJECTS, session)
        say(f"\nthe {min(limit, len(owned))} largest")
        rows = [[of(each) for of in columns.values()] for each in owned[:limit]]
        say(table(list(columns), rows, width()))
        say("\nby what made them")
        say_objects(numbers)


def _in_words(usage: dict[str, int]) -> str:
    sizes = {key: amount(size_bytes) for key, size_bytes in usage.items()}
    return (
        f"{sizes['used_bytes']} used ({sizes['spare_bytes']} of it spare) "
        f"of {sizes['budget_bytes']}, {sizes['spilled_bytes']} on disk only"
    )
