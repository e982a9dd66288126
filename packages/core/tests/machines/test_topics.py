from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from weft._machines import topics as rules
from weft._machines.topics import MESSAGE_BYTES, NAME_BYTES, Cursor, Reading, Topics
from weft._override import override

T, OTHER = b"topic", b"other"


def published(*messages: bytes, topic: bytes = T, epoch: int = 1) -> Topics:
    topics = Topics(epoch)
    for message in messages:
        topics.publish(topic, message)
        topics.check()
    return topics


def test_reader_gets_what_comes_after_it_began() -> None:
    topics = published(b"before")
    cursor = topics.end(T)
    assert topics.read(T, cursor, 10) == Reading([], cursor, 0)
    assert topics.publish(T, b"after") == 1
    assert topics.read(T, cursor, 10) == Reading([b"after"], Cursor(1, 2), 0)


def test_reader_goes_on_from_its_cursor() -> None:
    topics = published(b"a", b"b", b"c")
    first = topics.read(T, Cursor(1, 0), 2)
    assert first == Reading([b"a", b"b"], Cursor(1, 2), 0)
    assert topics.read(T, first.cursor, 2) == Reading([b"c"], Cursor(1, 3), 0)


def test_slow_reader_is_told_how_many_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MESSAGES_KEPT", 2)
    topics = published(b"a", b"b", b"c", b"d")
    assert topics.read(T, Cursor(1, 1), 10) == Reading([b"c", b"d"], Cursor(1, 4), 1)


def test_topic_keeps_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "TOPIC_BYTES", 5)
    topics = published(b"12", b"34", b"5678")
    assert topics.read(T, Cursor(1, 0), 10) == Reading([b"5678"], Cursor(1, 3), 2)


def test_reader_of_an_earlier_life_has_missed_it_is_not_known_how_many() -> None:
    topics = published(b"a", epoch=2)
    assert topics.read(T, Cursor(1, 0), 10) == Reading([b"a"], Cursor(2, 1), -1)
    assert topics.read(T, Cursor(2, 9), 10) == Reading([b"a"], Cursor(2, 1), -1)
    assert topics.read(OTHER, Cursor(1, 5), 10) == Reading([], Cursor(2, 0), -1)


@pytest.mark.parametrize(("limit", "value"), [("TOPICS_KEPT", 1), ("TOTAL_BYTES", 4)])
def test_topic_that_is_published_to_least_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(rules, limit, value)
    topics = published(b"ab", b"c")
    cursor = topics.end(T)
    topics.publish(OTHER, b"de")
    topics.check()
    assert topics.read(T, Cursor(1, 0), 10) == Reading([], cursor, -1)
    assert topics.read(OTHER, Cursor(1, 0), 10).messages == [b"de"]
    topics.publish(T, b"f")
    assert topics.read(T, cursor, 10).messages == [b"f"]


def test_what_is_too_long_is_refused() -> None:
    topics = published(b"a")
    for topic, message in ((T, bytes(MESSAGE_BYTES + 1)), (bytes(NAME_BYTES + 1), b"")):
        with pytest.raises(ValueError, match="put it into an object"):
            topics.publish(topic, message)
    assert topics.end(T) == Cursor(1, 1)


class TopicStories(RuleBasedStateMachine):
    """Two readers of two topics that forget: each message once, in order, or counted as missed."""

    @initialize()
    def begin(self) -> None:
        self.topics = Topics(1)
        self.sent: dict[bytes, list[bytes]] = {T: [], OTHER: []}
        self.cursors = {T: self.topics.end(T), OTHER: self.topics.end(OTHER)}
        self.seen: dict[bytes, int] = {T: 0, OTHER: 0}
        """How many of the messages that were sent are read, or known as missed."""

    @rule(topic=st.sampled_from([T, OTHER]), size=st.integers(1, 4))
    def publishes(self, topic: bytes, size: int) -> None:
        message = bytes([len(self.sent[topic]) % 256]) * size
        self.topics.publish(topic, message)
        self.topics.check()
        self.sent[topic].append(message)

    @rule(topic=st.sampled_from([T, OTHER]), most=st.integers(0, 3))
    def reads(self, topic: bytes, most: int) -> None:
        reading = self.topics.read(topic, self.cursors[topic], most)
        self.cursors[topic] = reading.cursor
        assert len(reading.messages) <= most
        left = self.sent[topic][self.seen[topic] :]
        if reading.missed >= 0:
            missed = reading.missed
        else:  # Some are gone, nobody knows how many: what is there is the end of what was sent.
            rest = len(self.topics.read(topic, reading.cursor, 1000).messages)
            missed = len(left) - len(reading.messages) - rest
        assert missed >= 0
        assert left[missed : missed + len(reading.messages)] == reading.messages
        self.seen[topic] += missed + len(reading.messages)
        assert self.topics.end(topic).position >= reading.cursor.position


class SmallTopicStories(TopicStories):
    """The same, with little room."""

    @initialize()
    def shrink(self) -> None:
        self.patch = pytest.MonkeyPatch()
        for name, value in (("MESSAGES_KEPT", 3), ("TOPIC_BYTES", 8), ("TOTAL_BYTES", 10)):
            self.patch.setattr(rules, name, value)

    @override
    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()


TestTopicStories = TopicStories.TestCase
TestSmallTopicStories = SmallTopicStories.TestCase
TestSmallTopicStories.settings = TestTopicStories.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, database=None
)
