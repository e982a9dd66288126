"""The command `weft`, and what it has for one machine."""

from __future__ import annotations

import click

from weft import __version__
from weft._cli.out import say


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.option("-V", "--version", is_flag=True, help="Say which version this is.")
@click.pass_context
def main(context: click.Context, *, version: bool) -> None:
    """Scale Python from a laptop to a cluster: tasks, actors and objects.

    A session on this machine needs no command: write a program that imports weft, and run it.
    """
    if version:
        say(f"weft {__version__}")
    elif context.invoked_subcommand is None:
        say(context.get_help())
