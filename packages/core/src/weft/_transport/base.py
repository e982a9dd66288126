"""What a connection between two processes promises.

Order: messages arrive in the order of `queue`. Loss: none while the connection lives; when it
breaks, everything from some message on is lost, and `lost` is called once, after the last message
that arrived. Duplication: never. Threads: an object here is used by one thread at a time; the owner
of the loop sees to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from weft._wire.messages import Message


class Connection(Protocol):
    """One end of a two-way stream of messages."""

    closed: bool

    def queue(self, message: Message) -> None:
        """Add a message to the batch that the next `flush` sends. Never blocks."""
        ...

    def flush(self) -> None:
        """Send the batch as far as the peer takes it; the rest follows when it can.

        Never blocks.
        """
        ...

    def close(self) -> None:
        """Send what was flushed if that does not block, then end. `lost` is not called."""
        ...


Receive = Callable[[Any, Sequence["Message"]], None]
"""Called with the connection and the messages of one read."""
Lost = Callable[[Any, str], None]
"""Called with the connection and the reason, once, when the peer is gone or broke the protocol."""
