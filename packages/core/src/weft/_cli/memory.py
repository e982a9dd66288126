"""`weft memory`: what objects take of memory and disk, and what made them."""

from __future__ import annotations

import click

from weft._cli.asking import format_option, session_options, telling_refusals
from weft._cli.out import say
from weft._cli.state import COLUMNS, say_json, say_objects
from weft._cli.tables import table, width
from weft._exits import amount
from weft.util.state import _objects
from weft.util.state._listing import Session
from weft.util.state.common import StateResource


@click.command()
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True, help="How many.")
@format_option
@session_options
def memory(limit: int, form: str, address: str | None, timeout: float) -> None:
    """Show what objects take, and what made them."""
    with telling_refusals():
        session = Session(address, timeout)
        usage = session.ask("store")
        objects = session.objects()
    owned = [each for each in objects if each.is_owner]
    numbers = _objects.summary(owned)
    if form == "json":
        say_json(
            {
                "store": usage,
                "objects": [each.asdict() for each in owned[:limit]],
                "summary": numbers,
            }
        )
        return
    sizes = {key: amount(size_bytes) for key, size_bytes in usage.items()}
    say(
        f"shared memory: {sizes['used_bytes']} used ({sizes['spare_bytes']} of it spare) "
        f"of {sizes['budget_bytes']}, {sizes['spilled_bytes']} on disk only"
    )
    size_bytes = sum(each.object_size for each in owned)
    say(f"{len(owned):,} objects, {amount(size_bytes)}")
    if owned:
        columns = COLUMNS[StateResource.OBJECTS]
        say(f"\nthe {min(limit, len(owned))} largest")
        rows = [[of(each) for of in columns.values()] for each in owned[:limit]]
        say(table(list(columns), rows, width()))
        say("\nby what made them")
        say_objects(numbers)
