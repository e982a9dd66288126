"""A table that one process keeps and others follow: changes go out together, late ones do no harm.

A node's daemon says so what it has, to the control service; that says to all daemons what all nodes
have. The one who keeps the table has a Publisher, those who follow have a Follower:

    TableChanged -> Publisher -> Publish(Delta) ... DeltaHeard -> Follower -> ApplyChange
                              <- WholeAsked     ...  AskWhole <-

A delta says whole values of what has changed, so that to hear one twice changes nothing. It carries
the number of its source (a node's incarnation, or the control service's own number), which grows
with each start; its own number; and that of the delta on which it builds, 0 for a whole table.

What is always true
1. A follower has what the publisher had with some delta, or later, and goes never back while the
   source lives: what is repeated or late is dropped.
2. What builds on a delta that was not heard is dropped, and a whole table asked for, once.
3. Of a source with a smaller number than was heard nothing is taken; of one with a greater number a
   whole table comes first.
4. The first change after a quiet time goes out at once. Then deltas are apart by the interval, and
   by so much that all followers together are sent no more than `VALUES_PER_S`.

A link between the two is in order, or it is broken; who links again is sent a whole table.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, assert_never

import msgspec

INTERVAL_S = 0.1
# A thousand nodes that all change are told to a thousand nodes once a second: some 60 MB/s.
VALUES_PER_S = 1_000_000
# What a delta costs besides its values: a thousand nodes are told of one each second.
DELTA_VALUES = 1_000

K = TypeVar("K")
V = TypeVar("V")


class Delta(msgspec.Struct, Generic[K, V], frozen=True):
    """What has changed in a table."""

    source: int
    number: int
    base: int
    """The number of the delta on which this one builds; 0: this is the whole table."""
    changed: dict[K, V]
    gone: tuple[K, ...] = ()


# ------------------------------------------------------------------ events


class TableChanged(msgspec.Struct, Generic[K, V], frozen=True):
    """Of the publisher: these are so, whatever was; those are gone."""

    changed: dict[K, V]
    gone: tuple[K, ...] = ()


class WholeAsked(msgspec.Struct, frozen=True):
    """Of the publisher: a follower has linked, or has missed something."""

    follower: bytes


class FollowerGone(msgspec.Struct, frozen=True):
    """Of the publisher: a follower has ended."""

    follower: bytes


class PublisherTicked(msgspec.Struct, frozen=True):
    """Of the publisher: `wake_at` has come."""


class DeltaHeard(msgspec.Struct, Generic[K, V], frozen=True):
    """Of the follower: the publisher has said this."""

    delta: Delta[K, V]


class SourceLinked(msgspec.Struct, frozen=True):
    """Of the follower: there is a link again; what was asked on the last one is not answered."""


# ------------------------------------------------------------------ effects


class Publish(msgspec.Struct, Generic[K, V], frozen=True):
    """Send this to all followers."""

    delta: Delta[K, V]


class SendWhole(msgspec.Struct, Generic[K, V], frozen=True):
    """Send this to one follower, after what was published before."""

    follower: bytes
    delta: Delta[K, V]


class ApplyChange(msgspec.Struct, Generic[K, V], frozen=True):
    """These have changed for who follows; those are gone."""

    changed: dict[K, V]
    gone: tuple[K, ...]


class AskWhole(msgspec.Struct, frozen=True):
    """Ask the publisher for the whole table."""


# ------------------------------------------------------------------ who keeps the table


class Publisher(Generic[K, V]):
    """The table, and what of it was not published yet."""

    def __init__(self, source: int, interval_s: float = INTERVAL_S) -> None:
        self._source = source
        self._interval_s = interval_s
        self._number = 1
        self._value_of: dict[K, V] = {}
        self._dirty: dict[K, None] = {}
        """Keys that have changed, or are gone, since the last delta."""
        self._whole: Delta[K, V] | None = None
        """What who asks is sent until the next delta: what has changed since is in that."""
        self._followers: dict[bytes, None] = {}
        self._free_at = float("-inf")
        """When the next delta may go out."""

    def handle(
        self,
        event: TableChanged[K, V] | WholeAsked | FollowerGone | PublisherTicked,
        now: float,
    ) -> list[Publish[K, V] | SendWhole[K, V]]:
        """Take an event; return what to do, in order."""
        match event:
            case TableChanged(changed, gone):
                self._change(changed, gone)
            case WholeAsked(follower):
                self._followers[follower] = None
                if self._whole is None:
                    self._whole = Delta(self._source, self._number, 0, dict(self._value_of))
                return [SendWhole(follower, self._whole), *self._publish(now)]
            case FollowerGone(follower):
                self._followers.pop(follower, None)
            case PublisherTicked():
                pass
            case _:
                assert_never(event)
        return self._publish(now)

    def wake_at(self) -> float | None:
        """Return when `PublisherTicked` is due, in seconds; None: never."""
        return self._free_at if self._dirty else None

    def _change(self, changed: dict[K, V], gone: tuple[K, ...]) -> None:
        for key, value in changed.items():
            if key not in self._value_of or self._value_of[key] != value:
                self._value_of[key] = value
                self._dirty[key] = None
        for key in gone:
            if self._value_of.pop(key, None) is not None:
                self._dirty[key] = None

    def _publish(self, now: float) -> list[Publish[K, V] | SendWhole[K, V]]:
        if not self._dirty or now < self._free_at:
            return []
        changed = {key: self._value_of[key] for key in self._dirty if key in self._value_of}
        gone = tuple(key for key in self._dirty if key not in self._value_of)
        sent = (len(self._dirty) + DELTA_VALUES) * len(self._followers)
        self._free_at = now + max(self._interval_s, sent / VALUES_PER_S)
        self._dirty.clear()
        self._whole = None
        self._number += 1
        delta = Delta(self._source, self._number, self._number - 1, changed, gone)
        return [Publish(delta)] if self._followers else []

    def table(self) -> dict[K, V]:
        """Return the table as it is."""
        return dict(self._value_of)

    def check(self) -> None:
        """Assert what is always true."""
        assert self._number > 0, 1
        assert not self._dirty or self.wake_at() is not None, 4


# ------------------------------------------------------------------ who follows


class Follower(Generic[K, V]):
    """The table as it was heard."""

    def __init__(self) -> None:
        self._source = 0
        self._number = 0
        """Of the last delta; 0: nothing of this source was heard."""
        self._is_asked = False
        self._value_of: dict[K, V] = {}

    def handle(
        self,
        event: DeltaHeard[K, V] | SourceLinked,
        now: float,
    ) -> list[ApplyChange[K, V] | AskWhole]:
        """Take an event; return what to do, in order."""
        match event:
            case DeltaHeard(delta):
                return self._heard(delta)
            case SourceLinked():
                self._is_asked = False
                return []
            case _:
                assert_never(event)

    def _heard(self, delta: Delta[K, V]) -> list[ApplyChange[K, V] | AskWhole]:
        if delta.source < self._source:
            return []
        if delta.source > self._source:
            self._source, self._number, self._is_asked = delta.source, 0, False
        if not delta.base:
            self._is_asked = False
        if delta.number <= self._number:
            return []
        if delta.base > self._number:
            return self._ask()
        self._number = delta.number
        gone = delta.gone
        if not delta.base:
            gone = tuple(key for key in self._value_of if key not in delta.changed)
        return self._apply(delta.changed, gone)

    def _ask(self) -> list[ApplyChange[K, V] | AskWhole]:
        if self._is_asked:
            return []
        self._is_asked = True
        return [AskWhole()]

    def _apply(
        self, changed: dict[K, V], gone: tuple[K, ...]
    ) -> list[ApplyChange[K, V] | AskWhole]:
        value_of: dict[K, Any] = self._value_of
        other = {k: v for k, v in changed.items() if k not in value_of or value_of[k] != v}
        gone = tuple(key for key in gone if key in value_of)
        value_of.update(other)
        for key in gone:
            del value_of[key]
        return [ApplyChange(other, gone)] if other or gone else []

    @property
    def heard(self) -> tuple[int, int]:
        """The source, and the number of the last delta."""
        return self._source, self._number

    def table(self) -> dict[K, V]:
        """Return the table as it was heard."""
        return dict(self._value_of)

    def check(self) -> None:
        """Assert what is always true."""
        assert self._number >= 0, 1
        assert self._number or not self._value_of or self._source, 3
