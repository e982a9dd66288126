"""TLS in front of a server of this host that speaks without: the gRPC of the control service.

It runs in the process of that server, so the bytes of its callers pass through no other. It asks
for no token: each call of gRPC's carries it, and the server looks at it.

What is always true
1. While `BUFFER_BYTES` of one side wait here for the other to take them, no more are read from it.
2. Both sides of a caller's way end together.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from weft._override import override
from weft._transport.arrivals import MOST, PATIENCE_S
from weft._transport.credentials import CONTROL, GRPC
from weft._transport.loops import LoopPoller, listen_at_door
from weft._transport.silence import end_when_silent

if TYPE_CHECKING:
    import socket

    from weft._transport.credentials import MemberCredentials

BUFFER_BYTES = 64 * 1024


async def relay(
    credentials: MemberCredentials, *, doors: str, server: str, name: str = CONTROL
) -> None:
    """Carry bytes between callers and a server, until this is cancelled.

    While the daemon has no door for it, it asks again and again. Callers that came before stay.

    Args:
        credentials: Whose certificate the callers see.
        doors: The path of the daemon's Doors.
        server: The path of the unix socket that the server listens on.
        name: Whom the callers ask for.
    """
    ways = _Ways(credentials, server)
    async with asyncio.TaskGroup() as tasks:
        poller = LoopPoller(asyncio.get_running_loop())
        await listen_at_door(poller, doors, name, lambda sock: ways.begin(sock, tasks))


class _Ways:
    """The callers' ways to the server."""

    def __init__(self, credentials: MemberCredentials, server: str) -> None:
        self._context = credentials.called
        self._server = server
        self._greeting = 0
        """How many have not finished their TLS handshake."""

    def begin(self, sock: socket.socket, tasks: asyncio.TaskGroup) -> None:
        if self._greeting >= MOST:
            sock.close()
            return
        self._greeting += 1
        end_when_silent(sock, is_daemons=True)
        tasks.create_task(self._carry(sock))

    async def _carry(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        caller, server = Side(), Side()
        with contextlib.suppress(OSError), contextlib.closing(caller), contextlib.closing(server):
            try:
                await loop.connect_accepted_socket(
                    lambda: caller,
                    sock,
                    ssl=self._context,
                    ssl_handshake_timeout=PATIENCE_S,
                    ssl_shutdown_timeout=PATIENCE_S,
                )
            finally:
                self._greeting -= 1
            if caller.spoken == GRPC:
                await loop.create_unix_connection(lambda: server, self._server)
                caller.join(server)
                await caller.ended.wait()


class Side(asyncio.Protocol):
    """One end of a caller's way. Nothing is read from it until it is joined to the other."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self._transport: Any = None
        self._other: Any = None

    @property
    def spoken(self) -> str | None:
        """What is spoken over TLS, by its name in ALPN."""
        found: str | None = self._transport.get_extra_info("ssl_object").selected_alpn_protocol()
        return found

    def join(self, other: Side) -> None:
        """Let each take what the other says; both have a connection, or had one."""
        self._other, other._other = other, self
        for one, another in ((self, other), (other, self)):
            if one.ended.is_set():
                another.close()
            else:
                one._transport.resume_reading()

    def take(self, data: bytes) -> None:
        """Send what the other side has said."""
        self._transport.write(data)

    def close(self) -> None:
        """End the connection, if there is one, once what was said is sent. Idempotent."""
        if self._transport is not None:
            self._transport.close()

    @override
    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(BUFFER_BYTES)
        transport.pause_reading()

    @override
    def data_received(self, data: bytes) -> None:
        self._other.take(data)

    @override
    def pause_writing(self) -> None:
        if self._other is not None:
            self._other._transport.pause_reading()

    @override
    def resume_writing(self) -> None:
        if self._other is not None:
            self._other._transport.resume_reading()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()
        if self._other is not None:
            self._other.close()
