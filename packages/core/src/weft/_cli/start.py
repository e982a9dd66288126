"""`weft start`: start a node that lives on by itself, as the head of a cluster or as one more."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from weft import _starting
from weft._cli.amounts import amounts, size, texts
from weft._cli.asking import format_option
from weft._cli.out import note, plain, say
from weft._cli.state import say_json
from weft._exits import amount
from weft._launch import NodeOptions, caller_path
from weft._options import init_options
from weft._transport.join import JoinString
from weft._transport.private import write_private
from weft.exceptions import WeftError

if TYPE_CHECKING:
    from weft._launch import ClusterFile, Started

Command = TypeVar("Command", bound=Callable[..., Any])

_SUBJECT = "weft start"


def _what_it_has(command: Command) -> Command:
    """Add the options that say what a node has."""
    options = (
        click.option("--num-cpus", type=click.IntRange(0), help="CPUs to hand out."),
        click.option("--num-gpus", type=click.IntRange(0), help="GPUs to hand out."),
        click.option(
            "--resources",
            type=amounts,
            metavar="NAME=AMOUNT,...",
            help="Resources of your own.",
        ),
        click.option(
            "--labels",
            type=texts,
            metavar="NAME=TEXT,...",
            help="Labels, by which tasks can choose the node.",
        ),
        click.option(
            "--object-store-memory",
            type=size,
            metavar="SIZE",
            help="Shared memory for objects, like 4GiB.",
        ),
        click.option("--temp-dir", metavar="FOLDER", help="Where the session's folder goes."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.option("--head", is_flag=True, help="Start a new cluster.")
@click.option(
    "--address",
    metavar="JOIN",
    help="Join a cluster, by its join string. Other users of this machine can see the words of a "
    "command: - reads it from the standard input.",
)
@click.option(
    "--join-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --head: write the join string there, readable for you alone. Else: join by what is "
    "there, waiting for the file if need be.",
)
@click.option(
    "--host",
    metavar="ADDRESS",
    default="",
    help="By which other nodes reach this one; the port is opened there. Default: the address "
    "that this machine's packets come from.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="The node's one port; 0: any that is free.",
)
@_what_it_has
@click.option(
    "--journal",
    metavar="URL",
    default="",
    help="With --head: where the cluster's state is kept: sqlite:PATH, etcd://HOST:PORT/PREFIX. "
    "Default: in the session.",
)
@click.option(
    "--credentials",
    metavar="FOLDER",
    default="",
    help="With --head: keep token and certificate there, so that a head that is started again has "
    "the same join string if its port is the same. Default: in the session.",
)
@click.option(
    "--standby",
    is_flag=True,
    help="With --address: take over the control service when the head dies. The head needs a "
    "--journal that both reach: etcd.",
)
@click.option(
    "--block",
    is_flag=True,
    help="Stay until the node has ended. It ends with this command, by Ctrl-C or otherwise.",
)
@format_option
def start(
    *,
    head: bool,
    address: str | None,
    join_file: Path | None,
    host: str,
    port: int,
    journal: str,
    credentials: str,
    standby: bool,
    block: bool,
    form: str,
    **has: Any,
) -> None:
    """Start a node that stays: a cluster's head, or one that joins."""
    if standby:
        head = False  # It is one, but of a cluster that has one.
    _check(head=head, address=address, join_file=join_file, journal=journal, kept=credentials)
    with _telling_refusals():
        node = _node_options(has)
        lifeline_pid = os.getpid() if block else 0
        if head:
            begun = _starting.start_head(
                _starting.HeadOptions(
                    node=node,
                    host=host,
                    port=port,
                    journal=journal,
                    credentials=credentials,
                    lifeline_pid=lifeline_pid,
                )
            )
            started, cluster, join = begun
            _starting.wait_for_node(started)
            if join_file is not None:
                write_private(join_file.absolute(), f"{join.format()}\n".encode())
        else:
            join = _join_string(address, join_file)
            started, cluster = _starting.join_cluster(
                node, join, host=host, port=port, lifeline_pid=lifeline_pid, standby=standby
            )
            _starting.wait_for_node(started)
    if block:
        _pass_signals_on(started.process.pid)
    if started.warning:
        note(f"weft: {started.warning}")
    if form == "json":
        say_json(
            {
                "session": started.session,
                "session_dir": started.session_dir,
                "address": cluster.node,
                "head": cluster.control,
                "join": join.format(),
                "pid": started.process.pid,
            }
        )
    else:
        say(_welcome(started, cluster, join, join_file if head else None))
    if block:
        _, status = os.waitpid(started.process.pid, 0)
        if status:
            note(started.last_words().rpartition("\n")[2])
        sys.exit(os.waitstatus_to_exitcode(status))


def _check(
    *, head: bool, address: str | None, join_file: Path | None, journal: str, kept: str
) -> None:
    if head and address:
        raise click.UsageError("--head starts a cluster and --address joins one: give one of them")
    if not head and not address and join_file is None:
        raise click.UsageError(
            "say which: --head starts a cluster, --address JOIN (or --join-file FILE) joins one"
        )
    if address and join_file:
        raise click.UsageError("--address and --join-file both say which cluster: give one of them")
    for name, given in (("--journal", journal), ("--credentials", kept)):
        if given and not head:
            raise click.UsageError(f"{name} is for --head")


def _join_string(address: str | None, join_file: Path | None) -> JoinString:
    if join_file is not None:
        if not join_file.exists():
            note(f"weft: waits for {join_file}, for {_starting.JOIN_FILE_S:g} s at most")
        return _starting.read_join_file(join_file)
    return JoinString.parse(sys.stdin.readline() if address == "-" else address or "")


def _node_options(has: dict[str, Any]) -> NodeOptions:
    checked = init_options(has, _SUBJECT)
    # Where this command was called from is nothing to tasks.
    path = caller_path()[0 if sys.flags.safe_path else 1 :]
    return NodeOptions(
        num_cpus=checked.num_cpus,
        num_gpus=checked.num_gpus,
        resources=checked.resources,
        labels=checked.labels,
        object_store_memory=checked.object_store_memory,
        temp_dir=checked.temp_dir,
        sys_path=path,
    )


def _welcome(
    started: Started, cluster: ClusterFile, join: JoinString, join_file: Path | None
) -> str:
    with _telling_refusals():
        total = _starting.amounts(started)
    has = [f"{total.pop('CPU', 0):g} CPU"]
    if gpus := total.pop("GPU", 0):
        has.append(f"{gpus:g} GPU")
    store = amount(int(total.pop("object_store_memory", 0)))
    total.pop("memory", None)
    has += [f"{units:g} {plain(name)}" for name, units in sorted(total.items())]
    is_first = cluster.is_head and not cluster.standby
    what = "The head of a new cluster" if is_first else "A node of the cluster"
    lines = [
        f"{what} runs: {', '.join(has)}, {store} for objects",
        f"  it is at {cluster.node}, its session is {started.session}",
    ]
    if not is_first:
        lines.insert(1, f"  the head is at {cluster.control}")
    if cluster.standby:
        lines.insert(2, "  it takes over when that dies")
    lines += ["", "Programs on this machine join with", '  weft.init(address="auto")']
    if is_first:
        if join_file is not None:
            how = f"--join-file {shlex.quote(str(join_file.absolute()))}"
            why = "Other machines that see the file join with"
        else:
            how, why = f"--address {shlex.quote(join.format())}", "Other machines join with"
        lines += ["", why, f"  weft start {how}"]
        lines += ["", "Whoever has the join string can run programs here: keep it to yourself."]
    lines += ["", "See what there is with `weft status`; end it with `weft stop`."]
    return "\n".join(lines)


def _pass_signals_on(pid: int) -> None:
    """Let a process end by what would end this one."""

    def pass_on(number: int, frame: object) -> None:
        os.kill(pid, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)


@contextmanager
def _telling_refusals() -> Iterator[None]:
    """Tell in one line why a node is not started."""
    try:
        yield
    except (WeftError, ModuleNotFoundError) as error:
        words = [str(error), *getattr(error, "__notes__", ())]
        raise click.ClickException(plain("\n".join(words))) from None
    except OSError as error:
        raise click.ClickException(plain(f"the node cannot be started: {error}")) from None
