"""Connections, listeners and doors on a loop of asyncio's, which waits in the place of a Poller."""

from __future__ import annotations

import asyncio
import contextlib
import select
from typing import TYPE_CHECKING

from weft._transport.doors import Door
from weft._transport.traffic import Traffic

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from weft._transport.sockets import Handler

# Until the daemon has its doors, or has seen that who had the name is gone.
AGAIN_S = 0.1


class LoopPoller:
    """Waits for sockets as a Poller does; the loop calls their handlers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.traffic = Traffic()
        self._loop = loop
        self._handlers: dict[int, Handler] = {}

    def add(self, fd: int, handler: Handler) -> None:
        """Call `handler(events)` when `fd` is readable or broken."""
        self._handlers[fd] = handler
        self._loop.add_reader(fd, handler, select.EPOLLIN)

    def watch_writing(self, fd: int, *, on: bool) -> None:
        """Say whether the handler of `fd` is called also when it takes bytes."""
        if on:
            self._loop.add_writer(fd, self._handlers[fd], select.EPOLLOUT)
        else:
            self._loop.remove_writer(fd)

    def remove(self, fd: int) -> None:
        """Forget `fd`; call it before closing it."""
        if self._handlers.pop(fd, None) is not None:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)


async def listen_at_door(
    poller: LoopPoller, doors: str, name: str, accepted: Callable[[socket.socket], None]
) -> None:
    """Take the calls that a daemon's port gets for a name, until this is cancelled.

    While the daemon has no door for it, it asks again and again.

    Args:
        poller: Of this loop.
        doors: The path of the daemon's Doors.
        name: Whom the callers ask for.
        accepted: Gets their sockets, as from a Door.
    """
    while True:
        lost = asyncio.Event()
        with contextlib.suppress(OSError):  # There are no doors yet.
            door = Door(poller, doors, name, accepted, lost.set)
            with contextlib.closing(door):
                await lost.wait()
        await asyncio.sleep(AGAIN_S)
