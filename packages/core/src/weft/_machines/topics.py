"""Publish and subscribe: the newest messages of each topic, and cursors that readers keep.

    cursor = (epoch, position)      of the first message that was not read yet

A reader asks for what comes from its cursor on, and gets messages, the cursor to go on from, and
how many it missed: those that were dropped before it came. So a slow reader costs nobody anything,
and knows that it was slow. The epoch is the control service's number: topics are not journaled, so
a cursor of an earlier epoch has missed an unknown number of messages, told as -1. What must not be
missed is state: readers look at that after a gap.

What is always true
1. Positions of a topic count up from 0, each message has one, and messages are read in that order.
2. A topic keeps at most `MESSAGES_KEPT` messages and `TOPIC_BYTES`; there are at most `TOPICS_KEPT`
   topics, with `TOTAL_BYTES`. The oldest message of a topic goes first; then, of the topics, the
   one that was published to longest ago. A later topic of its name begins at a later position.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice

import msgspec

MESSAGE_BYTES = 256 * 1024
MESSAGES_KEPT = 1000
TOPIC_BYTES = 1024 * 1024
TOPICS_KEPT = 10_000
TOTAL_BYTES = 64 * 1024 * 1024
NAME_BYTES = 4096


class Cursor(msgspec.Struct, frozen=True):
    """Where a reader is."""

    epoch: int
    position: int


class Reading(msgspec.Struct, frozen=True):
    """What a reader gets."""

    messages: list[bytes]
    cursor: Cursor
    missed: int
    """Messages that were dropped before they were read; -1: not known how many."""


class _Topic:
    __slots__ = ("begin", "first", "messages", "size_bytes")

    def __init__(self, begin: int) -> None:
        self.begin = begin
        """The position of its very first message; before it, others of this name may have been."""
        self.first = begin
        """The position of the oldest message that is kept."""
        self.messages: deque[bytes] = deque()
        self.size_bytes = 0

    @property
    def end(self) -> int:
        return self.first + len(self.messages)

    def drop_oldest(self) -> int:
        size_bytes = len(self.messages.popleft())
        self.size_bytes -= size_bytes
        self.first += 1
        return size_bytes


class Topics:
    """The topics of one life of the control service, whose number is the epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._topic_of: OrderedDict[bytes, _Topic] = OrderedDict()
        """The one that was published to longest ago comes first."""
        self._total_bytes = 0
        self._forgotten = 0
        """No topic that was forgotten had a message at this position, or after."""

    def publish(self, topic: bytes, message: bytes) -> int:
        """Add a message; return its position. ValueError: too long; nothing has changed."""
        if len(message) > MESSAGE_BYTES or len(topic) > NAME_BYTES:
            raise ValueError(
                f"a message of {len(message)} bytes to topic {topic[:40]!r}: a message has at most "
                f"{MESSAGE_BYTES} bytes, a topic's name {NAME_BYTES}; put it into an object"
            )
        found = self._topic_of.pop(topic, None) or _Topic(self._forgotten)
        self._topic_of[topic] = found
        position = found.end
        found.messages.append(message)
        found.size_bytes += len(message)
        self._total_bytes += len(message)
        while len(found.messages) > MESSAGES_KEPT or found.size_bytes > TOPIC_BYTES:
            self._total_bytes -= found.drop_oldest()
        while len(self._topic_of) > TOPICS_KEPT or self._total_bytes > TOTAL_BYTES:
            self._forget_oldest()
        return position

    def _forget_oldest(self) -> None:
        _, topic = self._topic_of.popitem(last=False)
        self._total_bytes -= topic.size_bytes
        self._forgotten = max(self._forgotten, topic.end)

    def end(self, topic: bytes) -> Cursor:
        """Return the cursor of who wants only what comes next."""
        found = self._topic_of.get(topic)
        return Cursor(self.epoch, found.end if found else self._forgotten)

    def read(self, topic: bytes, cursor: Cursor, most: int) -> Reading:
        """Return what comes from a cursor on, at most so many messages."""
        found = self._topic_of.get(topic) or _Topic(self._forgotten)
        is_known = cursor.epoch == self.epoch and found.begin <= cursor.position <= found.end
        position = max(cursor.position, found.first) if is_known else found.first
        missed = position - cursor.position if is_known else -1
        start = position - found.first
        messages = list(islice(found.messages, start, start + most))
        return Reading(messages, Cursor(self.epoch, position + len(messages)), missed)

    def check(self) -> None:
        """Assert what is always true."""
        topics = self._topic_of.values()
        assert all(0 <= topic.begin <= topic.first for topic in topics), 1
        assert all(len(topic.messages) <= MESSAGES_KEPT for topic in topics), 2
        assert all(topic.size_bytes <= TOPIC_BYTES for topic in topics), 2
        assert all(t.size_bytes == sum(map(len, t.messages)) for t in topics), 2
        assert self._total_bytes == sum(t.size_bytes for t in topics) <= TOTAL_BYTES, 2
        assert len(self._topic_of) <= TOPICS_KEPT, 2
