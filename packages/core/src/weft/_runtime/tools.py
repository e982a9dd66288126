"""A tool's connection to a session's daemon: it asks, owns nothing, and its end changes nothing."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from weft._clock import monotonic
from weft._ids import WorkerId
from weft._runtime.peers import hello
from weft._transport.addresses import DAEMON_SOCKET
from weft._transport.sockets import Poller, SocketConnection, connect
from weft._wire.codec import pack
from weft._wire.messages import Answer, Ask
from weft.exceptions import SessionError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from weft._wire.messages import Message


class Tool:
    """Asks the daemon of the session in a directory. SessionError: it is not there, or gone.

    One thread uses it.
    """

    def __init__(self, session_dir: str, timeout_s: float | None) -> None:
        """`timeout_s`: of each question; None: the answer may take as long as it does."""
        self.session_dir = session_dir
        self._timeout_s = timeout_s
        self._poller = Poller()
        self._numbers = count(1)
        self._inbox: list[Message] = []
        self._lost = ""
        try:
            sock = connect(f"{session_dir}/{DAEMON_SOCKET}")
        except OSError as error:
            self._poller.close()
            raise SessionError(
                f"the daemon of the session in {session_dir} cannot be reached: {error.strerror}"
            ) from None
        self._connection = SocketConnection(self._poller, sock, self._received, self._closed)
        self._connection.queue(hello(WorkerId.from_random(), "", "tool"))

    def _received(self, connection: SocketConnection, messages: Sequence[Message]) -> None:
        self._inbox += messages

    def _closed(self, connection: SocketConnection, reason: str) -> None:
        self._lost = reason

    def ask(self, what: str, body: object = None) -> bytes:
        """Return the answer's body. Blocks. ValueError with the daemon's words if it refuses."""
        request = next(self._numbers)
        self._connection.queue(Ask(request, what, pack(body)))
        self._connection.flush()
        timeout_s = self._timeout_s
        until = None if timeout_s is None else monotonic() + timeout_s
        while True:
            inbox, self._inbox = self._inbox, []
            for message in inbox:
                if isinstance(message, Answer) and message.request == request:
                    if message.error:
                        raise ValueError(message.error)
                    return message.body
            if self._lost:
                raise SessionError(f"the daemon ended before it answered: {self._lost}")
            left_s = None if until is None else until - monotonic()
            if left_s is not None and left_s <= 0:
                raise SessionError(
                    f"the daemon of the session in {self.session_dir} did not answer within "
                    f"{timeout_s:g} s"
                )
            self._poller.poll(left_s)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
        self._poller.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the connection."""
        self.close()
