"""Connections to processes of other nodes, in a cluster.

TLS is loaded with the first of them: a process that talks to its own node only does without.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from weft._lazy import lazy
from weft._transport.addresses import SUFFIX, split
from weft._transport.doors import Door

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from weft._transport import arrivals, credentials, opening, secure
    from weft._transport.base import Lost, Receive
    from weft._transport.sockets import Poller
    from weft._transport.timers import Timers
else:
    arrivals = lazy("weft._transport.arrivals")
    credentials = lazy("weft._transport.credentials")
    opening = lazy("weft._transport.opening")
    secure = lazy("weft._transport.secure")


class Outside:
    """Calls other nodes, and takes their calls."""

    def __init__(self, poller: Poller, timers: Timers, folder: str) -> None:
        """`folder` holds the credentials of the cluster."""
        self._poller = poller
        self._timers = timers
        self._folder = Path(folder)
        self._door: Door | None = None

    @cached_property
    def _credentials(self) -> credentials.MemberCredentials:
        return credentials.open_credentials(self._folder)

    @cached_property
    def _arrivals(self) -> arrivals.Arrivals:
        return arrivals.Arrivals(self._timers.call_later)

    def listen(self, doors: str, name: str, accepted: Callable[[socket.socket], None]) -> None:
        """Take calls that the daemon's port gets for `name`. OSError: there is no such daemon."""
        self._door = Door(self._poller, doors, name + SUFFIX, accepted)

    def connect(self, address: str, receive: Receive, lost: Lost) -> secure.SecureConnection:
        """Begin to connect. OSError: there is no way to that host."""
        there = split(address)
        sock = opening.call(there.host, there.port)
        part = opening.CallingPart(self._credentials, there.greeting, there.host, there.port)
        return self._open(sock, receive, lost, part)

    def accept(self, sock: socket.socket, receive: Receive, lost: Lost) -> secure.SecureConnection:
        """Take a call."""
        return self._open(sock, receive, lost, opening.CalledPart(self._credentials))

    def _open(
        self, sock: socket.socket, receive: Receive, lost: Lost, part: opening.Part
    ) -> secure.SecureConnection:
        return secure.SecureConnection(
            self._poller, sock, receive, lost, part=part, arrivals=self._arrivals
        )

    def abandon(self) -> None:
        """Let go in a forked child."""
        if self._door is not None:
            self._door.abandon()

    def close(self) -> None:
        """Take no calls any more."""
        if self._door is not None:
            self._door.close()
