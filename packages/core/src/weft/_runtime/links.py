"""What the parts of a runtime share.

The loop and its guard, the peers, the objects, and whether the session goes on.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from weft._clock import monotonic
from weft._ids import IdSource
from weft._transport.addresses import daemon_of
from weft.exceptions import SessionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._runtime.loop import Loop, Waiter
    from weft._runtime.objects import Objects
    from weft._runtime.peers import Peer, Peers
    from weft._specs import Shape
    from weft._transport.addresses import Home
    from weft._wire.messages import Message
    from weft.exceptions import WeftError


# So long a driver waits in silence; then it says once what it waits for.
SILENCE_S = 10.0


class Links:
    """The shared parts. Whatever touches a machine or a connection holds the guard."""

    daemon: Peer

    def __init__(
        self,
        loop: Loop,
        objects: Objects,
        peers: Peers,
        *,
        home: Home,
        address: str,
        role: str,
    ) -> None:
        self.loop = loop
        self.guard = loop.guard
        self.objects = objects
        self.peers = peers
        self.home = home
        self.address = address
        self.role = role
        self.ids = IdSource()
        self.ended: WeftError | None = None
        """Why nothing can be started any more."""
        self.parent: Shape | None = None
        """What runs here, if its placement group captures what it starts."""

    def refuse_if_ended(self) -> None:
        """Raise why the session is over, if it is."""
        if self.ended is not None:
            raise self.ended.with_traceback(None)
        if self.loop.closed:
            raise SessionError("the session has ended: call weft.init() again")

    def wait_aloud(
        self, waiter: Waiter, why: Callable[[], str], deadline: float | None = None
    ) -> bool:
        """Wait; after `SILENCE_S` a driver says once what for.

        Args:
            waiter: As of `Loop.wait`.
            why: What it is in words; empty: nothing is to be said. May block.
            deadline: As of `Loop.wait`.

        Returns:
            Whether nothing is missing.
        """
        loop, loud_at = self.loop, monotonic() + SILENCE_S
        if self.role != "driver" or (deadline is not None and deadline <= loud_at):
            return loop.wait(waiter, deadline)
        if not loop.wait(waiter, loud_at) and not loop.closed and (words := why()):
            sys.stderr.write(f"weft: still waiting after {SILENCE_S:g} s. {words}\n")
        return loop.wait(waiter, deadline)

    def tell_daemon(self, message: Message) -> None:
        """Send the daemon a message at once. Inside the guard."""
        self.peers.send(self.daemon, message)
        self.daemon.connection.flush()

    def daemon_of(self, peer: Peer) -> Peer | None:
        """Return the daemon of a process's node; None: it cannot be reached. Inside the guard."""
        if self.home.path_of(peer.address) is not None:
            return self.daemon
        return self.peers.connect(daemon_of(peer.address))
