"""A node's one port: it looks for whom each connection is, and hands it on unread.

    accepted -> greeting (`greeting.py`) -> taken by who has the name, or closed without a word

Who takes it, in this process or in another (`doors.py`), does TLS itself: no byte passes through
here. Nothing is ever sent from here.

What is always true
1. At most `arrivals.most` connections have not been taken or closed, each for at most
   `arrivals.patience_s`.
2. A connection that is not taken is closed.
"""

from __future__ import annotations

import errno
import select
import socket
from typing import TYPE_CHECKING

from weft._transport.greeting import Greeting
from weft._transport.sockets import SocketAcceptor

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._transport.arrivals import Arrivals
    from weft._transport.sockets import Poller

BACKLOG = 1024
_ENDED = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP


class Gate:
    """The port. Its loop is that of its poller."""

    def __init__(
        self,
        poller: Poller,
        listening: socket.socket,
        arrivals: Arrivals,
        turned_away: Callable[[], None] = lambda: None,
    ) -> None:
        """`turned_away`: called when one was not taken, since there are no descriptors left."""
        self.takers: dict[str, Callable[[socket.socket], None]] = {}
        """By name: who takes its connections. Their bytes are all still to be read."""
        self.port: int = listening.getsockname()[1]
        self._poller = poller
        self._arrivals = arrivals
        self._greeted: set[_Caller] = set()
        self._acceptor = SocketAcceptor(
            poller, listening, self._accept, turned_away, admits=lambda _sock: True
        )

    def _accept(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller = _Caller(sock, self)
        self._greeted.add(caller)
        self._poller.add(sock.fileno(), caller.handle)
        self._arrivals.add(caller)

    def leave(self, caller: _Caller) -> None:
        """Have nothing more to do with a caller's socket."""
        self._greeted.discard(caller)
        self._arrivals.discard(caller)
        self._poller.remove(caller.sock.fileno())

    def close(self) -> None:
        """Stop listening, and close what is on its way."""
        self._acceptor.close()
        for caller in list(self._greeted):
            caller.give_up("")

    def abandon(self) -> None:
        """Let go of the sockets in a forked child."""
        self._acceptor.abandon()
        for caller in self._greeted:
            caller.sock.close()


class _Caller:
    """A connection whose greeting has not been read to the end."""

    def __init__(self, sock: socket.socket, gate: Gate) -> None:
        self.sock = sock
        self._gate = gate
        self._greeting = Greeting(sock)

    def handle(self, events: int) -> None:
        name = self._greeting.read()
        if name is None:
            if not events & _ENDED:
                return
            name = ""
        self._gate.leave(self)
        take = self._gate.takers.get(name)
        if take is None:
            self.sock.close()
        else:
            take(self.sock)

    def give_up(self, reason: str) -> None:
        self._gate.leave(self)
        self.sock.close()


def listen(host: str = "", port: int = 0) -> socket.socket:
    """Listen at an address of this machine.

    Args:
        host: A name or an address; empty: all addresses, IPv4 and IPv6 as far as there are any.
        port: 0: one that is free.

    Raises:
        OSError: It is in use, or not an address of this machine. Nothing listens.
    """
    if host:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
            )
        except OSError as error:
            # Where IPv6 is switched off, sockets of it can still be made.
            if error.errno != errno.EADDRNOTAVAIL:
                raise
    return socket.create_server(("", port), backlog=BACKLOG)
