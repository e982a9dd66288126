"""What every transport has to do: one suite of tests, run on each implementation of Connection.

    import pytest

    pytest.register_assert_rewrite("weft.testing.transport_suite")
    from weft.testing.transport_suite import End, TransportSuite

    class TestMyTransport(TransportSuite):
        def connect(self, first, second):
            ...  # make two connected ends with the handlers first.receive, first.lost, second. ...
            return near, far

        def move(self):
            ...  # let all that can happen happen, and return when nothing does

The tests do not wait: between their steps they call `move`. It needs pytest.
"""

# ruff: noqa: D102, S101
# The methods are tests: their names say what they check.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from weft._wire.messages import Export, Taken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._transport.base import Connection
    from weft._wire.messages import Message

LARGE_BYTES = 8 * 1024 * 1024
"""More than any socket takes at once."""


class End:
    """One side of a connection: it keeps what it is told.

    Attributes:
        log: Every message that was received, and the reason of every loss, in order.
        on_receive: Called with the connection and the messages of one read, after they are logged.
    """

    def __init__(self) -> None:
        self.log: list[Message | str] = []
        self.on_receive: Callable[[Any, Sequence[Message]], object] = ignore

    def receive(self, connection: Connection, messages: Sequence[Message]) -> None:
        """Take messages: the handler for a connection's constructor."""
        self.log.extend(messages)
        self.on_receive(connection, messages)

    def lost(self, connection: Connection, reason: str) -> None:
        """Take the news of the end: the handler for a connection's constructor."""
        self.log.append(reason)

    @property
    def messages(self) -> list[Message]:
        """What was received, without the loss."""
        return [entry for entry in self.log if not isinstance(entry, str)]

    @property
    def reasons(self) -> list[str]:
        """The reasons of losses: one at most."""
        return [entry for entry in self.log if isinstance(entry, str)]


def ignore(connection: Connection, messages: Sequence[Message]) -> None:
    """Do nothing with what was received."""


def numbered(start: int, stop: int) -> list[Message]:
    """Return small messages that differ."""
    return [Taken(b"task", number) for number in range(start, stop)]


def large(number: int, size_bytes: int = LARGE_BYTES) -> Message:
    """Return a message of about `size_bytes`."""
    return Export(b"function", str(number), number.to_bytes(1, "big") * size_bytes)


def send(connection: Connection, messages: Sequence[Message]) -> None:
    """Queue messages and flush them as one batch."""
    for message in messages:
        connection.queue(message)
    connection.flush()


class TransportSuite:
    """The promises of `weft._transport.base.Connection`.

    A subclass says how to connect and move.
    """

    first: End
    second: End
    near: Connection
    far: Connection

    def connect(self, first: End, second: End) -> tuple[Connection, Connection]:
        """Return two connected ends with the handlers of `first` and `second`."""
        raise NotImplementedError

    def move(self) -> None:
        """Let everything happen that can, on both sides, until nothing does."""
        raise NotImplementedError

    def disconnect(self) -> None:
        """Release what `connect` made; called after each test, whatever it left open."""
        self.near.close()
        self.far.close()

    @pytest.fixture(autouse=True)
    def pair(self) -> Any:
        """Connect for each test."""
        self.first, self.second = End(), End()
        self.near, self.far = self.connect(self.first, self.second)
        yield
        self.disconnect()

    # ---------------------------------------------------------------- order

    def test_messages_arrive_in_the_order_in_which_they_were_queued(self) -> None:
        for start in range(0, 300, 100):
            send(self.near, numbered(start, start + 100))
        self.move()
        assert self.second.log == numbered(0, 300)

    def test_both_directions_are_independent(self) -> None:
        send(self.near, numbered(0, 10))
        send(self.far, numbered(100, 110))
        self.move()
        assert (self.first.log, self.second.log) == (numbered(100, 110), numbered(0, 10))

    def test_nothing_is_sent_before_flush(self) -> None:
        self.near.queue(Taken(b"task", 1))
        self.move()
        assert self.second.log == []
        self.near.flush()
        self.move()
        assert self.second.log == numbered(1, 2)

    def test_flush_of_nothing_sends_nothing(self) -> None:
        self.near.flush()
        self.move()
        assert self.second.log == []

    def test_handler_can_answer_at_once(self) -> None:
        self.second.on_receive = send
        send(self.near, numbered(0, 5))
        self.move()
        assert self.first.log == numbered(0, 5)

    # ---------------------------------------------------------------- size

    def test_large_message_arrives_whole(self) -> None:
        send(self.near, [large(1), Taken(b"task", 2)])
        self.move()
        assert self.second.log == [large(1), Taken(b"task", 2)]

    def test_many_messages_arrive(self) -> None:
        send(self.near, numbered(0, 50_000))
        self.move()
        assert self.second.log == numbered(0, 50_000)

    def test_flush_does_not_block_while_the_peer_does_not_read(self) -> None:
        sent = [large(1), *numbered(0, 100), large(2), large(3)]
        for message in sent:
            send(self.near, [message])
        assert self.second.log == []
        self.move()
        assert self.second.log == sent

    def test_both_ends_can_be_full_at_once(self) -> None:
        for number in range(3):
            send(self.near, [large(number)])
            send(self.far, [large(100 + number)])
        self.move()
        assert self.first.log == [large(100), large(101), large(102)]
        assert self.second.log == [large(0), large(1), large(2)]

    # ---------------------------------------------------------------- the end

    def test_loss_is_told_once_after_the_last_message(self) -> None:
        send(self.near, numbered(0, 10))
        self.near.close()
        self.move()
        self.move()
        assert self.second.messages == self.second.log[:10] == numbered(0, 10)
        assert len(self.second.reasons) == 1
        assert self.second.reasons[0]

    def test_loss_is_not_told_to_who_closed(self) -> None:
        self.near.close()
        self.move()
        assert self.first.log == []

    def test_both_ends_know_that_they_are_closed(self) -> None:
        assert (self.near.closed, self.far.closed) == (False, False)
        self.near.close()
        self.move()
        assert (self.near.closed, self.far.closed) == (True, True)

    def test_what_is_lost_is_the_end_and_nothing_in_between(self) -> None:
        sent = [large(1), *numbered(0, 100), large(2)]
        for message in sent:
            send(self.near, [message])
        self.near.close()
        self.move()
        arrived = self.second.messages
        assert arrived == sent[: len(arrived)]
        assert len(self.second.reasons) == 1

    def test_ends_that_close_at_once_are_told_nothing(self) -> None:
        self.near.close()
        self.far.close()
        self.move()
        assert self.first.log == []
        assert self.second.log == []

    def test_closing_twice_is_closing(self) -> None:
        self.near.close()
        self.near.close()
        self.move()
        self.far.close()
        assert len(self.second.reasons) == 1

    def test_nothing_is_received_after_closing(self) -> None:
        send(self.far, numbered(0, 10))
        self.near.close()
        self.move()
        assert self.first.log == []

    def test_handler_can_close(self) -> None:
        self.second.on_receive = lambda connection, _messages: connection.close()
        send(self.near, numbered(0, 10))
        self.move()
        send(self.near, numbered(10, 20))
        self.move()
        assert self.second.reasons == []
        assert self.second.messages == numbered(0, len(self.second.messages))
        assert len(self.first.reasons) == 1

    def test_handler_can_answer_and_close(self) -> None:
        def answer(connection: Connection, messages: Sequence[Message]) -> None:
            send(connection, messages)
            connection.close()

        self.second.on_receive = answer
        send(self.near, numbered(0, 1))
        self.move()
        assert self.first.messages == numbered(0, 1)
        assert len(self.first.reasons) == 1

    def test_what_is_queued_after_closing_goes_nowhere(self) -> None:
        self.near.close()
        send(self.near, numbered(0, 10))
        self.move()
        assert self.second.messages == []

    def test_what_is_queued_after_the_loss_goes_nowhere(self) -> None:
        self.far.close()
        self.move()
        send(self.near, numbered(0, 10))
        self.near.close()
        assert len(self.first.log) == 1
        assert self.second.log == []

    def test_what_is_sent_to_a_peer_that_is_gone_raises_nothing(self) -> None:
        self.far.close()
        send(self.near, numbered(0, 10))
        send(self.near, [large(1)])
        self.move()
        assert len(self.first.reasons) == 1
        assert self.near.closed
