"""A daemon's connection to the control service in our own frames, in the daemon's own loop.

    say -> NodeSays -> the port of the head, or its socket here -> _control/lines.py
    LineNews <- ControlSays <-

gRPC costs two threads and a fraction of a millisecond a message, at each end. Here a message is a
part of a frame, and no thread is woken for it.

What is always true
1. There is a connection only while the node is a member: from `begin` to `end`. When it breaks, or
   nobody answers, another is made after a pause, in turn to each place where control may be.
2. Each connection begins with what the node holds, then with all that is said in `line_began`.
3. A control service that is older than one that has answered is not heard.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

from msgspec import structs

from weft._transport.addresses import GROUPS, GROUPS_SOCKET, SUFFIX, is_path, split
from weft._transport.arrivals import Arrivals
from weft._transport.opening import CallingPart, call
from weft._transport.secure import SecureConnection
from weft._transport.silence import end_when_silent
from weft._transport.sockets import SocketConnection, connect
from weft._wire.lines import ControlSays, HeldOnNode, pack_line, unpack_line
from weft._wire.messages import ControlTalk
from weft._wire.version import check_hello
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._machines.bundles import HeldBundles
    from weft._transport.credentials import Credentials
    from weft._transport.sockets import Poller
    from weft._transport.timers import Timers
    from weft._wire.lines import NodeSays
    from weft._wire.messages import Hello, Message

PAUSE_S = 0.05
"""Twice as long when all places have failed, up to `MOST_PAUSE_S`: many nodes may look for it."""
MOST_PAUSE_S = 0.5
OPEN_S = 10.0
"""A connection may take so long to open: many nodes may look for control, and it opens theirs."""
SOON_S = 0.005
"""What nobody waits for waits so long for company."""


class LineNews(Protocol):
    """Who hears what comes on the line."""

    def held(self) -> Sequence[HeldBundles]:
        """Return what the node holds for placement groups."""
        ...

    def line_began(self) -> None:
        """There is a connection: what is said from here on comes behind what is held."""
        ...

    def line_heard(self, said: ControlSays, control: int) -> None:
        """Take what control says. `control`: the number of its life."""
        ...

    def line_ended(self) -> None:
        """The connection is gone, or there was none; what was not answered may be lost."""
        ...


class ControlLine:
    """The connection of one daemon, when there is one."""

    def __init__(
        self,
        poller: Poller,
        timers: Timers,
        credentials: Credentials,
        news: LineNews,
        *,
        me: Hello,
        places: Callable[[], Sequence[str]],
    ) -> None:
        """`places()`: HOST:PORT of the nodes that may have control, or the path of its socket."""
        self._poller = poller
        self._timers = timers
        self._credentials = credentials
        self._news = news
        self._me = me
        self._places = places
        self._arrivals = Arrivals(timers.call_later, patience_s=OPEN_S)
        self._incarnation = 0
        """0: there is no link, and no line."""
        self._connection: SocketConnection | None = None
        self._is_urgent = False
        """Something was said that is to be sent."""
        self._is_timed = False
        self._control = 0
        """Who is at the other end; 0: it has not said so."""
        self._greatest = 0
        self._failures = 0
        """In a row; the next place is another then."""

    def begin(self, incarnation: int) -> None:
        """Keep a connection from here on."""
        self._incarnation = incarnation
        self._connect()

    def end(self) -> None:
        """Keep none any more, until `begin`."""
        self._incarnation = 0
        self._drop()

    def begin_anew(self) -> None:
        """Believe in this connection no more, and make another."""
        if self._connection is not None:
            self._failures += 1
            self._drop()
            self._again()

    def close(self) -> None:
        """Keep none any more, and tell nobody. Idempotent."""
        self._incarnation = 0
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def say(self, message: NodeSays) -> None:
        """Say something, with the next `flush`. If there is no connection it is lost."""
        self._is_urgent = True
        self._queue(message)

    def say_soon(self, message: NodeSays) -> None:
        """Say something for which nobody waits: with what is said next, if that is said soon."""
        self._queue(message)
        if not self._is_timed:
            self._is_timed = True
            self._timers.call_later(SOON_S, self._hurry)

    def _hurry(self) -> None:
        self._is_timed = False
        self._is_urgent = True

    def _queue(self, message: NodeSays) -> None:
        if self._connection is not None:
            self._connection.queue(ControlTalk(pack_line(message)))

    def flush(self) -> None:
        """Send what was said."""
        if self._is_urgent and self._connection is not None:
            self._is_urgent = False
            self._connection.flush()

    # -------------------------------------------------------------- the connection

    def _connect(self) -> None:
        if not self._incarnation or self._connection is not None:
            return
        places = self._places()
        try:
            self._connection = self._call(places[self._failures % len(places)])
        except OSError:
            self._failures += 1
            self._news.line_ended()
            self._again()
            return
        self._control = 0
        self._connection.queue(structs.replace(self._me, incarnation=self._incarnation))
        self.say(HeldOnNode([_held(each) for each in self._news.held()]))
        self._news.line_began()

    def _call(self, place: str) -> SocketConnection:
        if is_path(place):
            path = f"{place.rpartition('/')[0]}/{GROUPS_SOCKET}"
            return SocketConnection(self._poller, connect(path), self._receive, self._lost)
        there = split(place)
        sock = call(there.host, there.port)
        end_when_silent(sock, is_daemons=True)
        part = CallingPart(self._credentials, GROUPS + SUFFIX, there.host, there.port)
        return SecureConnection(
            self._poller, sock, self._receive, self._lost, part=part, arrivals=self._arrivals
        )

    def _again(self) -> None:
        places = self._places()
        # On the head itself there is one that looks.
        rounds = 0 if is_path(places[0]) else self._failures // len(places)
        pause_s = min(PAUSE_S * 2 ** min(rounds, 10), MOST_PAUSE_S)
        self._timers.call_later(pause_s, self._connect)

    def _drop(self) -> None:
        """Believe in this connection no more."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()
            self._news.line_ended()

    def _lost(self, connection: SocketConnection, reason: str) -> None:
        if connection is self._connection:
            self._failures += not self._control
            self._drop()
            self._again()

    def _receive(self, connection: SocketConnection, messages: Sequence[Message]) -> None:
        for message in messages:
            if connection is not self._connection:
                return
            try:
                self._hear(message)
            except ProtocolError as error:
                print(f"weft: the line to control was closed: {error}", file=sys.stderr)  # noqa: T201
                self._lost(connection, str(error))

    def _hear(self, message: Message) -> None:
        if not self._control:
            number = check_hello(message).incarnation
            if number < self._greatest:
                raise ProtocolError("a control service answered that was replaced")
            self._control = self._greatest = number
            self._failures = 0
            return
        if not isinstance(message, ControlTalk):
            raise ProtocolError(f"{type(message).__name__} came among placement groups")
        said = unpack_line(message.body)
        if not isinstance(said, ControlSays):
            raise ProtocolError(f"{type(said).__name__} came from control")
        self._news.line_heard(said, self._control)


def _held(bundles: HeldBundles) -> tuple[bytes, int, list[int], bool]:
    return bytes(bundles.group), bundles.attempt, list(bundles.indices), bundles.is_committed
