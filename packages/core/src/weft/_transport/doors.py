"""Sockets of callers, handed from the daemon that has the port to the process that is asked for.

A process opens a door: a unix connection to the daemon, over which it says its name once. From
then on each packet of the daemon's brings one socket (SCM_RIGHTS) that was called by that name. A
name that somebody has already is refused, by the end of the connection. When the process ends, its
name is nobody's.

Lost sockets: a process that is too slow to take them, or has no descriptors left, loses some. They
are closed, and their callers hear of it.

Facts about Linux: packets (SOCK_SEQPACKET) keep their borders, and arrive whole or not at all. One
whose descriptors cannot be made arrives without them.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Protocol

from weft._transport.sockets import SocketAcceptor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from weft._transport.sockets import Handler, Poller

MOST_BYTES = 255
"""Of a name, as TLS has it."""
_CALL = b"c"


class Doors:
    """The daemon's end: it listens for processes, and adds them to those who take connections."""

    def __init__(
        self, poller: Poller, path: Path, takers: dict[str, Callable[[socket.socket], None]]
    ) -> None:
        """`takers` is the gate's."""
        self._poller = poller
        self._path = path
        self._takers = takers
        self._links: dict[socket.socket, str] = {}
        """Their names, once they have said them."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind(os.fspath(path))
        path.chmod(0o600)
        sock.listen(1024)
        self._acceptor = SocketAcceptor(poller, sock, self._accept)

    def _accept(self, link: socket.socket) -> None:
        link.setblocking(False)
        self._links[link] = ""
        self._poller.add(link.fileno(), lambda _events: self._read(link))

    def _read(self, link: socket.socket) -> None:
        try:
            name = link.recv(MOST_BYTES).decode("latin-1")
        except BlockingIOError:
            return
        except OSError:
            name = ""
        if not name or self._links[link] or name in self._takers:
            self._drop(link)
            return
        self._links[link] = name
        self._takers[name] = lambda sock: self._hand(link, sock)

    def _hand(self, link: socket.socket, sock: socket.socket) -> None:
        with sock:
            try:
                socket.send_fds(link, [_CALL], [sock.fileno()])
            except BlockingIOError:
                pass  # It does not take those that it has got.
            except OSError:
                self._drop(link)

    def _drop(self, link: socket.socket) -> None:
        self._takers.pop(self._links.pop(link), None)
        self._poller.remove(link.fileno())
        link.close()

    def abandon(self) -> None:
        """Let go of the sockets in a forked child, and leave the file to the parent."""
        self._acceptor.abandon()
        for link in self._links:
            link.close()

    def close(self) -> None:
        """End all, and remove the socket's file."""
        if self._acceptor.close():
            self._path.unlink(missing_ok=True)
            for link in list(self._links):
                self._drop(link)


class Reactor(Protocol):
    """What a door needs of the loop of its process: a Poller, for one."""

    def add(self, fd: int, handler: Handler) -> None:
        """Call `handler(events)` when `fd` is readable or broken."""
        ...

    def remove(self, fd: int) -> None:
        """Forget `fd`."""
        ...


class Door:
    """A process's end: it takes the sockets that were called by its name."""

    def __init__(
        self,
        reactor: Reactor,
        address: str,
        name: str,
        accepted: Callable[[socket.socket], None],
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Ask for what is called by `name` (`credentials.name_of`).

        Args:
            reactor: Of this process's loop.
            address: The path of the daemon's Doors. OSError: nobody listens there.
            name: Whom greetings are for.
            accepted: Gets sockets that do not block, with all that they want still unread.
            lost: Called once, when the daemon has ended or refused the name.
        """
        self._reactor = reactor
        self._accepted = accepted
        self._lost = lost
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(address)
            self._socket.send(name.encode())
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        reactor.add(self._socket.fileno(), self._handle)
        self.closed = False
        """Also true when the daemon has ended."""

    def _handle(self, events: int) -> None:
        try:
            packet, fds, _, _ = socket.recv_fds(self._socket, len(_CALL), 1)
        except BlockingIOError:
            return
        except OSError:
            packet, fds = b"", []
        if not packet:
            self.close()
            self._lost()
        for fd in fds:
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            self._accepted(sock)

    def abandon(self) -> None:
        """Let go of the socket in a forked child."""
        self.closed = True
        self._socket.close()

    def close(self) -> None:
        """Take no more; those on their way are closed."""
        if not self.closed:
            self._reactor.remove(self._socket.fileno())
            self.abandon()
