"""TLS in front of a server of this host that speaks without: the gRPC of the control service.

It runs in the process of that server, so the bytes of its callers pass through no other. It asks
for no token: each call of gRPC's carries it, and the server looks at it.

What is always true
1. Of what one side has said, at most `BUFFER_BYTES` wait here for the other side to take them.
2. Both sides of a caller's way end together.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from weft._transport.arrivals import MOST, PATIENCE_S
from weft._transport.credentials import CONTROL, GRPC
from weft._transport.doors import Door
from weft._transport.silence import end_when_silent

if TYPE_CHECKING:
    import socket

    from weft._transport.credentials import MemberCredentials
    from weft._transport.sockets import Handler

BUFFER_BYTES = 64 * 1024
# Until the daemon has its doors, or has seen that who had the name is gone.
AGAIN_S = 0.1


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
    reactor = _LoopReactor(asyncio.get_running_loop())
    ways = _Ways(credentials, server)
    async with asyncio.TaskGroup() as tasks:
        while True:
            lost = asyncio.Event()
            with contextlib.suppress(OSError):  # There are no doors yet.
                door = Door(reactor, doors, name, lambda sock: ways.begin(sock, tasks), lost.set)
                with contextlib.closing(door):
                    await lost.wait()
            await asyncio.sleep(AGAIN_S)


class _LoopReactor:
    """An asyncio loop, as a door sees it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def add(self, fd: int, handler: Handler) -> None:
        self._loop.add_reader(fd, handler, 0)

    def remove(self, fd: int) -> None:
        self._loop.remove_reader(fd)


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
        try:
            reader, writer = await self._greet(sock)
        except OSError:
            return
        finally:
            self._greeting -= 1
        with contextlib.suppress(OSError), contextlib.closing(writer):
            spoken = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            if spoken == GRPC:
                await self._join(reader, writer)

    async def _greet(
        self, sock: socket.socket
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Do the handshake. OSError: the caller did not."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(BUFFER_BYTES, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            sock,
            ssl=self._context,
            ssl_handshake_timeout=PATIENCE_S,
            ssl_shutdown_timeout=PATIENCE_S,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_unix_connection(self._server, limit=BUFFER_BYTES)
        with contextlib.closing(there):
            ways = [
                asyncio.ensure_future(_copy(reader, there)),
                asyncio.ensure_future(_copy(back, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(BUFFER_BYTES):
        writer.write(data)
        await writer.drain()
