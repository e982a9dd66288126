"""`weft timeline`: what ran when, for trace viewers."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from weft._api.timelines import trace_events
from weft._cli.asking import session_options, telling_refusals
from weft._cli.out import note
from weft.util.state._listing import Session


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("timeline.json"),
    show_default=True,
    help="The file to write.",
)
@session_options
def timeline(output: Path, address: str | None, timeout: float) -> None:
    """Write what ran when, for a trace viewer.

    That is, for chrome://tracing or ui.perfetto.dev.
    """
    with telling_refusals():
        events = trace_events(Session(address, timeout).ask_nodes("tasks"))
    try:
        output.write_bytes(msgspec.json.encode(events))
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}") from None
    ran = sum(event["ph"] == "X" for event in events)
    note(f"{ran:,} events in {output}: open it in chrome://tracing or ui.perfetto.dev")
