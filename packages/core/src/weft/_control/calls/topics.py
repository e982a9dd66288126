"""The service Topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._control.calls.desk import invalid
from weft._machines.topics import Cursor, Topics
from weft._transport.control import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weft._control.calls.desk import Desk

MOST = 100
"""Messages that are sent at once."""


class TopicCalls:
    """Takes messages, and gives them to those who read."""

    def __init__(self, desk: Desk, topics: Topics) -> None:
        self._desk = desk
        self._topics = topics

    async def publish(self, request: messages.PublishRequest, _: Any) -> messages.PublishAnswer:
        """Add a message to a topic."""
        self._desk.read()
        try:
            position = self._topics.publish(request.topic, request.message)
        except ValueError as error:
            raise invalid(str(error)) from None
        self._desk.bells.ring(("topic", request.topic))
        cursor = messages.Cursor(epoch=self._topics.epoch, position=position)
        return messages.PublishAnswer(cursor=cursor)

    async def subscribe(
        self, request: messages.SubscribeRequest, _: Any
    ) -> AsyncIterator[messages.Published]:
        """Yield what comes from a cursor on."""
        topic = request.topic
        given = request.cursor
        has_cursor = request.HasField("cursor")
        cursor = Cursor(given.epoch, given.position) if has_cursor else self._topics.end(topic)
        is_first = True
        with self._desk.bells.listen() as listener:
            listener.follow([("topic", topic)])
            while True:
                await listener.wait_rung()
                while True:
                    self._desk.read()
                    reading = self._topics.read(topic, cursor, MOST)
                    if not (is_first or reading.messages or reading.missed):
                        break
                    is_first, cursor = False, reading.cursor
                    yield messages.Published(
                        messages=reading.messages,
                        cursor=messages.Cursor(epoch=cursor.epoch, position=cursor.position),
                        missed=reading.missed,
                    )
