"""What commands print: the only module of the command line that writes."""

from __future__ import annotations

import click


def say(text: str) -> None:
    """Print a line of what was asked for."""
    click.echo(text)


def plain(text: str) -> str:
    """Return a text from elsewhere without what a terminal would obey."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else f"\\x{ord(character):02x}"
        for character in text
    )


def note(text: str) -> None:
    """Print a line about what was asked for, where it does not mix with that."""
    click.echo(text, err=True)
