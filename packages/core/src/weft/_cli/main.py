"""The command `weft`.

Commands are named in a table, and their modules are loaded when they are called: `weft --help`
loads none of them.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from weft import __version__
from weft._cli.out import plain, say
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = {
    "drain-node": (
        "weft._cli.drain:drain_node",
        "Let a node take nothing new, and end when it is empty.",
    ),
    "get": ("weft._cli.state:get", "Show one task, actor, object, worker or placement group."),
    "limit-job": (
        "weft._cli.limits:limit_job",
        "Set what a job may take: quota, weight and priority.",
    ),
    "list": ("weft._cli.state:list_records", "List tasks, actors, objects, workers and more."),
    "logs": ("weft._cli.logs:logs", "Show what a worker wrote."),
    "memory": ("weft._cli.memory:memory", "Show what objects take, and what made them."),
    "replay": ("weft._cli.replay:replay", "Run a failed task again, from its capsule."),
    "start": (
        "weft._cli.start:start",
        "Start a node that stays: a cluster's head, or one that joins.",
    ),
    "status": ("weft._cli.status:status", "Show nodes, what they have, and what waits for more."),
    "stop": ("weft._cli.stop:stop", "End the nodes on this machine that weft start has started."),
    "stack": ("weft._cli.stack:stack", "Show where the code of every process is now."),
    "summary": ("weft._cli.state:summary", "Count tasks, actors or objects."),
    "timeline": ("weft._cli.timeline:timeline", "Write what ran when, for a trace viewer."),
}
"""By name: where the command is, and what help says of it."""


class Misuse(click.ClickException):
    """A command line that cannot be understood, told in one line."""

    exit_code = click.UsageError.exit_code


@contextmanager
def _telling_misuse() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        words = " ".join(error.format_message().split()).rstrip(".")
        where = error.ctx.command_path if error.ctx is not None else "weft"
        raise Misuse(f"{plain(words)}; see {where} --help") from None


class CommandTable(click.Group):
    """A group whose commands are in `COMMANDS`."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words before the command, as click asks for it."""
        with _telling_misuse():
            return super().parse_args(ctx, args)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        """Find the command and run it, as click asks for it."""
        with _telling_misuse():
            return super().invoke(ctx)

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names, as click asks for them."""
        return sorted(COMMANDS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command, as click asks for it; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what help says of the commands, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(
    cls=CommandTable,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
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
