"""A tool's connection to a session's daemon: it asks, owns nothing, and its end changes nothing."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from weft._clock import monotonic
from weft._ids import WorkerId
from weft._runtime.peers import hello
from weft._specs import NodeReply
from weft._transport.addresses import DAEMON_SOCKET
from weft._transport.sockets import Poller, SocketConnection, connect
from weft._wire.codec import pack
from weft._wire.messages import Answer, Ask, AskNodes, NodeTold
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
        answer, _ = self._ask(Ask(next(self._numbers), what, pack(body)))
        return answer.body

    def ask_nodes(
        self,
        whats: Sequence[str],
        body: object = None,
        *,
        node_id: str = "",
        is_patient: bool = False,
    ) -> list[NodeReply]:
        """Return what all nodes say, or one; see Engine.inspect_nodes.

        `is_patient`: it may take as long as it does. What is refused is a ValueError.
        """
        request = next(self._numbers)
        of = bytes.fromhex(node_id)
        _, told = self._ask(AskNodes(request, list(whats), pack(body), of, is_patient))
        return replies(told)

    def _ask(self, message: Ask | AskNodes) -> tuple[Answer, list[NodeTold]]:
        request = message.request
        told: list[NodeTold] = []
        self._connection.queue(message)
        self._connection.flush()
        timeout_s = self._timeout_s
        until = None if timeout_s is None else monotonic() + timeout_s
        while True:
            inbox, self._inbox = self._inbox, []
            for heard in inbox:
                if isinstance(heard, NodeTold) and heard.request == request:
                    told.append(heard)
                elif isinstance(heard, Answer) and heard.request == request:
                    if heard.error:
                        raise ValueError(heard.error)
                    return heard, told
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


def replies(told: Sequence[NodeTold]) -> list[NodeReply]:
    """Return what nodes have said, by address. ValueError: one refuses to answer."""
    for one in told:
        if one.error:
            raise ValueError(one.error)
    # As they come the order would be another each time.
    ordered = sorted(told, key=lambda one: one.address)
    return [NodeReply(one.node_id.hex(), one.address, one.bodies, one.silent) for one in ordered]
