"""Connections to processes of other nodes, in a cluster.

TLS is loaded with the first of them, or by the template for all its workers (`prepare`): together
with the certificate's rehearsal it takes longer than to fork one.

Facts about OpenSSL: a child draws random numbers of its own, and may use its parent's contexts.
"""

from __future__ import annotations

import importlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from weft._lazy import lazy
from weft._transport.addresses import DAEMON, OBJECTS, SUFFIX, split
from weft._transport.doors import Door

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from weft._transport import arrivals, bulk, credentials, opening, secure, silence, tls
    from weft._transport.base import Lost, Receive
    from weft._transport.sockets import Poller
    from weft._transport.timers import Timers
    from weft._wire.parcels import Parcel
else:
    arrivals = lazy("weft._transport.arrivals")
    bulk = lazy("weft._transport.bulk")
    credentials = lazy("weft._transport.credentials")
    opening = lazy("weft._transport.opening")
    secure = lazy("weft._transport.secure")
    silence = lazy("weft._transport.silence")
    tls = lazy("weft._transport.tls")


_prepared: dict[str, credentials.MemberCredentials] = {}
"""By folder; of the process that forked this one."""


def prepare(folder: str) -> None:
    """Load all that calls need, for processes that this one forks.

    UsageError: The credentials in the folder cannot be used.
    """
    for module in (arrivals, opening, secure, silence):
        importlib.import_module(module.__name__)
    _prepared[folder] = credentials.open_credentials(Path(folder))
    _prepared[folder].contexts()


class Outside:
    """Calls other nodes, and takes their calls."""

    def __init__(
        self, poller: Poller, timers: Timers, folder: str, *, is_daemons: bool = False
    ) -> None:
        """`folder` holds the credentials of the cluster. `is_daemons`: this process is one."""
        self._is_daemons = is_daemons
        self._poller = poller
        self._timers = timers
        self._folder = folder
        self._door: Door | None = None

    @cached_property
    def _credentials(self) -> credentials.MemberCredentials:
        found = _prepared.get(self._folder)
        return found or credentials.open_credentials(Path(self._folder))

    @cached_property
    def _arrivals(self) -> arrivals.Arrivals:
        return arrivals.Arrivals(self._timers.call_later)

    def listen(self, doors: str, name: str, accepted: Callable[[socket.socket], None]) -> None:
        """Take calls that the daemon's port gets for `name`. OSError: there is no such daemon."""
        self._door = Door(self._poller, doors, name + SUFFIX, accepted)

    def connect(self, address: str, receive: Receive, lost: Lost) -> secure.SecureConnection:
        """Begin to connect. OSError: there is no way to that host."""
        sock, part = self._call(address, tls.wrap)
        return self._open(sock, receive, lost, part)

    def _call(self, address: str, wrap: opening.Wrap) -> tuple[socket.socket, opening.Part]:
        there = split(address)
        sock = opening.call(there.host, there.port)
        is_daemons = self._is_daemons or there.name in {DAEMON, OBJECTS}
        silence.end_when_silent(sock, is_daemons=is_daemons)
        part = opening.CallingPart(self._credentials, there.greeting, there.host, there.port, wrap)
        return sock, part

    def accept(self, sock: socket.socket, receive: Receive, lost: Lost) -> secure.SecureConnection:
        """Take a call."""
        silence.end_when_silent(sock, is_daemons=self._is_daemons)
        return self._open(sock, receive, lost, opening.CalledPart(self._credentials))

    def _open(
        self, sock: socket.socket, receive: Receive, lost: Lost, part: opening.Part
    ) -> secure.SecureConnection:
        return secure.SecureConnection(
            self._poller, sock, receive, lost, part=part, arrivals=self._arrivals
        )

    def connect_bulk(
        self,
        address: str,
        receive: Receive,
        lost: Lost,
        sink_for: Callable[[Parcel], bulk.Sink | None],
    ) -> bulk.BulkConnection:
        """Begin to connect, for parcels too. OSError: there is no way to that host."""
        sock, part = self._call(address, bulk.wrap)
        return self._open_bulk(sock, receive, lost, part, sink_for)

    def accept_bulk(
        self,
        sock: socket.socket,
        receive: Receive,
        lost: Lost,
        sink_for: Callable[[Parcel], bulk.Sink | None],
    ) -> bulk.BulkConnection:
        """Take a call, for parcels too."""
        silence.end_when_silent(sock, is_daemons=self._is_daemons)
        bulk.hasten(sock)
        part = opening.CalledPart(self._credentials, bulk.wrap)
        return self._open_bulk(sock, receive, lost, part, sink_for)

    def _open_bulk(
        self,
        sock: socket.socket,
        receive: Receive,
        lost: Lost,
        part: opening.Part,
        sink_for: Callable[[Parcel], bulk.Sink | None],
    ) -> bulk.BulkConnection:
        return bulk.BulkConnection(
            self._poller, sock, receive, lost, part=part, arrivals=self._arrivals, sink_for=sink_for
        )

    def abandon(self) -> None:
        """Let go in a forked child."""
        if self._door is not None:
            self._door.abandon()

    def close(self) -> None:
        """Take no calls any more."""
        if self._door is not None:
            self._door.close()
