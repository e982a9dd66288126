"""Start nodes that live on by themselves: the head of a cluster, and those that join it.

The node's port is bound before its daemon starts, so its number is known at once, also where 0 was
asked for. The cluster's credentials lie in the session's folder, which nobody else can open and
which ends with the node; a head that is to come back with what it knew is given a folder of its
own.

Nothing here is loaded by a session of one machine.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from weft._clock import monotonic
from weft._launch import (
    ClusterFile,
    NodeOptions,
    Started,
    claim_session,
    read_cluster,
    start_daemon,
)
from weft._lazy import lazy
from weft._node.sessions import remove_session
from weft._runtime.local import START_S, daemon_died
from weft._runtime.tools import Tool
from weft._transport.addresses import CONTROL_SOCKET
from weft._transport.credentials import (
    MemberCredentials,
    make_credentials,
    open_credentials,
    save_credentials,
)
from weft._transport.join import JoinString, shown_address
from weft._transport.private import read_private
from weft.exceptions import OptionError, SessionError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft._launch import ClaimedSession
    from weft._transport.control import joining
else:
    # gRPC comes with it, which a head and who starts nodes on one machine do without.
    joining = lazy("weft._transport.control.joining")

CREDENTIALS = "credentials"
# Callers that come at once, before the daemon has begun to take them.
BACKLOG = 1024
# Slurm starts the tasks of a job within seconds of each other; nodes may boot meanwhile.
JOIN_FILE_S = 120.0
LOOK_AGAIN_S = 0.1
LOOK_SOON_S = 0.01
# Any address that is not this machine's: nothing is sent there.
_ELSEWHERE = ("192.0.2.1", 9)


class HeadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the head of a cluster is to be."""

    node: NodeOptions
    host: str = ""
    """The address by which other nodes reach it; empty: the one that its packets come from."""
    port: int = 0
    """0: any that is free."""
    journal: str = ""
    """Where the control service keeps what it knows; empty: in the session."""
    credentials: str = ""
    """A folder that outlives the session; empty: in the session."""
    lifeline_pid: int = 0
    """A process with which the node ends; 0: none."""


class StartedHead(NamedTuple):
    """A head that is starting, and how others join it."""

    started: Started
    cluster: ClusterFile
    join: JoinString


def start_head(options: HeadOptions) -> StartedHead:
    """Start the head of a new cluster; do not wait for it.

    Raises:
        OptionError: The port cannot be had, or the credentials cannot be used.
        OSError: A directory cannot be made.
    """
    host = options.host or own_address()
    with _bind(host, options.port) as listening:
        address = shown_address(host, listening.getsockname()[1])
        claimed = claim_session(options.node)
        folder = Path(options.credentials or f"{claimed.directory}/{CREDENTIALS}").absolute()
        with _giving_up(claimed):
            made = make_credentials(folder)
        cluster = ClusterFile(
            node=address,
            credentials=str(folder),
            control=address,
            is_head=True,
            journal=options.journal,
        )
        started = start_daemon(
            node=options.node,
            cluster=cluster,
            gate_fds=(listening.fileno(),),
            claimed=claimed,
            lifeline_pid=options.lifeline_pid,
        )
    return StartedHead(started, cluster, _join_string(made, address))


def join_cluster(
    options: NodeOptions,
    join: JoinString,
    *,
    host: str = "",
    port: int = 0,
    lifeline_pid: int = 0,
    standby: bool = False,
) -> tuple[Started, ClusterFile]:
    """Start a node that joins a cluster by its join string; do not wait for it.

    It ends with the process `lifeline_pid`, if that is given. If it is to stand by, the control
    service is taken over there when the head dies.

    Raises:
        AuthenticationError: It is another cluster, or the token is wrong.
        GetTimeoutError: The head's control service does not answer.
        OptionError: The port cannot be had; or nobody can stand by for this head.
        OSError: A directory cannot be made.
        SessionError: Nobody answers there.
    """

    def fetch(folder: Path) -> str:
        journal = joining.join_cluster(join, folder).journal
        if standby and not journal:
            raise OptionError(
                f"the head at {join.address} keeps its journal for itself, so no other can stand "
                "by: start it with --journal etcd://HOST:PORT/PREFIX"
            )
        return journal if standby else ""

    return _start_member(options, join.address, fetch, (host, port), lifeline_pid)


def start_neighbour(
    options: NodeOptions, of: ClusterFile, *, host: str = "", port: int = 0, lifeline_pid: int = 0
) -> tuple[Started, ClusterFile]:
    """Start a node that joins the cluster of one on this machine; do not wait for it.

    It ends with the process `lifeline_pid`, if that is given.

    Raises:
        OptionError: The port cannot be had.
        OSError: A directory cannot be made.
    """
    known = open_credentials(Path(of.credentials))

    def copy(folder: Path) -> str:
        save_credentials(folder, token=known.token, key=known.key, certificate=known.certificate)
        return ""

    return _start_member(options, of.control, copy, (host, port), lifeline_pid)


def _start_member(
    options: NodeOptions,
    control: str,
    save: Callable[[Path], str],
    at: tuple[str, int],
    lifeline_pid: int = 0,
) -> tuple[Started, ClusterFile]:
    """`save` puts credentials into a folder; and returns the journal by which the node stands by.

    Without one it does not.
    """
    host = at[0] or own_address(control)
    with _bind(host, at[1]) as listening:
        claimed = claim_session(options)
        folder = Path(claimed.directory, CREDENTIALS)
        with _giving_up(claimed):
            journal = save(folder)
        cluster = ClusterFile(
            node=shown_address(host, listening.getsockname()[1]),
            credentials=str(folder),
            control=control,
            is_head=bool(journal),
            standby=bool(journal),
            journal=journal,
        )
        started = start_daemon(
            node=options,
            cluster=cluster,
            gate_fds=(listening.fileno(),),
            claimed=claimed,
            lifeline_pid=lifeline_pid,
        )
    return started, cluster


def read_join_file(path: Path, timeout_s: float = JOIN_FILE_S) -> JoinString:
    """Return what a head has written, waiting for the file to appear. Blocks.

    The file may lie on a network's file system, which tells nobody of what appears: it is looked at
    again and again.

    Raises:
        UsageError: It is not there in time, is open to others, or holds something else.
    """
    until = monotonic() + timeout_s
    while not path.exists():
        if monotonic() >= until:
            raise UsageError(
                f"{path} was not there within {timeout_s:g} s: start the head with "
                f"`weft start --head --join-file {path}`"
            )
        time.sleep(LOOK_AGAIN_S)
    return JoinString.parse(read_private(path, "join string").decode(errors="replace"))


def wait_for_node(started: Started) -> None:
    """Wait until a node serves drivers and callers, and a head those who join. Blocks.

    DaemonDiedError, with its last words: it has ended, or does not answer.
    """
    try:
        with Tool(started.session_dir, START_S) as tool:
            tool.ask("session")
        cluster = read_cluster(started.session_dir)
        if cluster is not None and cluster.is_head and not cluster.standby:
            _wait_for_control(started)
    except SessionError as error:
        started.process.kill()
        words = started.last_words() or str(error)
        raise daemon_died("the node did not start", words, "mend that and start it again") from None


def _wait_for_control(started: Started) -> None:
    """Wait until a head's control service serves. SessionError: it does not."""
    place, until = Path(started.session_dir, CONTROL_SOCKET), monotonic() + START_S
    while not place.exists():
        if started.process.wait(LOOK_SOON_S) is not None or monotonic() >= until:
            raise SessionError("the control service does not start")


def amounts(started: Started) -> dict[str, float]:
    """Return what a node has, in all. Blocks for one message. SessionError: it is gone."""
    with Tool(started.session_dir, START_S) as tool:
        found: dict[str, dict[str, float]] = msgspec.msgpack.decode(tool.ask("resources"))
    return found["total"]


def own_address(other: str = "") -> str:
    """Return the address of this machine that another one (HOST:PORT) sees; 127.0.0.1 if none."""
    host, _, port = other.rpartition(":")
    place = (host.strip("[]"), int(port)) if host else _ELSEWHERE
    try:
        family, kind, _, _, where = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as sock:
            sock.connect(where)
            return str(sock.getsockname()[0])
    except OSError:
        return "127.0.0.1"


@contextmanager
def _giving_up(claimed: ClaimedSession) -> Iterator[None]:
    """Leave nothing of a session if what has to be there before its daemon cannot be had."""
    try:
        yield
    except BaseException:
        remove_session(claimed.directory)
        os.close(claimed.lock_fd)
        raise


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise OptionError(
            f"host {host!r} is no address of this machine: {error.strerror}"
        ) from None
    try:
        # Calls of an earlier node may be in the kernel's memory still.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise OptionError(
            f"nobody can listen at {shown_address(host, port)}: {os.strerror(error.errno or 0)}; "
            "give another --host or --port (0: any that is free)"
        ) from None
    return listening


def _join_string(credentials: MemberCredentials, address: str) -> JoinString:
    host, _, port = address.rpartition(":")
    return credentials.join_string(host.strip("[]"), int(port))
