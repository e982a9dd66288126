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
from pathlib import Path
from typing import NamedTuple

import msgspec

from weft._launch import (
    ClusterFile,
    NodeOptions,
    Started,
    claim_session,
    start_daemon,
)
from weft._runtime.local import START_S, daemon_died
from weft._runtime.tools import Tool
from weft._transport.credentials import MemberCredentials, make_credentials
from weft._transport.join import JoinString, shown_address
from weft.exceptions import OptionError, SessionError

CREDENTIALS = "credentials"
# Callers that come at once, before the daemon has begun to take them.
BACKLOG = 1024
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
        )
    return StartedHead(started, cluster, _join_string(made, address))


def start_member(
    options: NodeOptions, head: ClusterFile, *, host: str = "", port: int = 0
) -> tuple[Started, ClusterFile]:
    """Start a node that joins a cluster whose credentials it has; do not wait for it.

    Raises:
        OptionError: The port cannot be had.
        OSError: A directory cannot be made.
    """
    host = host or own_address(head.control)
    with _bind(host, port) as listening:
        cluster = ClusterFile(
            node=shown_address(host, listening.getsockname()[1]),
            credentials=head.credentials,
            control=head.control,
        )
        started = start_daemon(node=options, cluster=cluster, gate_fds=(listening.fileno(),))
    return started, cluster


def wait_for_node(started: Started) -> None:
    """Wait until a node serves drivers and callers. Blocks.

    DaemonDiedError, with its last words: it has ended, or does not answer.
    """
    try:
        with Tool(started.session_dir, START_S) as tool:
            tool.ask("session")
    except SessionError as error:
        started.process.kill()
        words = started.last_words() or str(error)
        raise daemon_died("the node did not start", words, "mend that and start it again") from None


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
