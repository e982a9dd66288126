"""What commands print: the only module of the command line that writes."""

from __future__ import annotations

import click


def say(text: str) -> None:
    """Print a line of what was asked for."""
    click.echo(text)
