"""Streams at their consumer's end: what generator tasks have yielded and nobody has taken yet."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from weft._clock import monotonic
from weft._ids import TaskId
from weft._machines.lineage import Lineage, can_go
from weft._machines.ownership import ObjectMade, Released, Sealed, Yielding
from weft._runtime.loop import Waiter
from weft._wire.messages import Failure, Inline, Taken, Yielded
from weft.exceptions import GetTimeoutError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._ids import ObjectId
    from weft._machines.ownership import Entry
    from weft._refs import ObjectRef, ObjectRefGenerator
    from weft._runtime.links import Links
    from weft._runtime.peers import Peer
    from weft._wire.messages import Value

_NONE = Inline(b"")


class Stream:
    """One generator task, as its owner sees it. The loop's guard is held in every method."""

    __slots__ = ("ended", "limit", "lineage", "ready", "received", "taken", "task_id", "waiters")

    def __init__(self, task_id: TaskId, limit: int) -> None:
        self.task_id = task_id
        self.limit = limit
        """Items that may be ready before the task waits; 0: no limit."""
        self.ready: deque[Entry] = deque()
        """Pinned by this stream."""
        self.received = 0
        self.taken = 0
        self.ended = False
        self.lineage: Lineage | None = None
        """How it can be run again, where an item may be lost."""
        self.waiters: list[Callable[[], object]] = []

    def changed(self) -> None:
        """Tell those who wait for the next item, or the end."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter()

    @property
    def would_block(self) -> bool:
        """Whether the next item is still to come."""
        return not self.ready and not self.ended


class Streams:
    """The streams of this process. Inside the guard, where a docstring does not say otherwise."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._loop = links.loop
        self._guard = links.guard
        self._objects = links.objects
        self._peers = links.peers
        self._open: dict[TaskId, Stream] = {}
        self._dropped: deque[TaskId] = deque()
        """Streams that nobody holds any more."""
        self.peer_of: Callable[[TaskId], Peer | None]
        """The worker that runs a task of this process, if one does."""
        self.cancel: Callable[[TaskId], None]
        self.wait: Callable[[Waiter, float | None], bool]
        """Blocks, outside the guard, until a waiter is told."""

    def open(self, task_id: TaskId, limit: int) -> Stream:
        """Begin a stream whose task waits when `limit` items are not taken; 0: never."""
        stream = self._open[task_id] = Stream(task_id, limit)
        return stream

    def end(self, stream: Stream, completed: ObjectId, values: Sequence[Value]) -> None:
        """The task has ended: with None, or a failure, which comes after the last item."""
        value = values[0] if values else _NONE
        self._objects.handle(Sealed(completed, value))
        if type(value) is Failure and stream.task_id in self._open:
            self._add_item(stream, value)
        stream.ended = True
        stream.changed()

    def release(self, task_id: TaskId) -> None:
        """Nobody holds the stream any more.

        Without the guard: `__del__` calls this in the middle of anything.
        """
        self._dropped.append(task_id)
        self._loop.nudge()

    def _add_item(self, stream: Stream, value: Value) -> None:
        object_id = stream.task_id.object_id(stream.received + 2)
        stream.received += 1
        self._objects.handle(ObjectMade(object_id))
        self._objects.handle(Sealed(object_id, value))
        if can_go(value):
            if stream.lineage is None:
                stream.lineage = Lineage(stream.task_id)
            self._objects.handle(Yielding(object_id, stream.lineage))
        # Its one count is the stream's, until a reference is made for it.
        stream.ready.append(self._objects.machine.entries[object_id])
        stream.changed()

    def on_yielded(self, peer: Peer, message: Yielded) -> None:
        task_id = TaskId(message.task_id)
        stream = self._open.get(task_id)
        if stream is not None and message.index >= stream.received:
            self._add_item(stream, message.value)
            return
        if stream is not None and message.index == 0:
            # A new attempt may not wait until that is taken which the last one has yielded.
            self._peers.send(peer, Taken(task_id, stream.taken))
        # The task runs again, and what was lost has come; or nobody listens any more.
        object_id = task_id.object_id(message.index + 2)
        self._objects.handle(Sealed(object_id, message.value))
        lineage = self._objects.machine.lineages.kept.get(task_id)
        if lineage is not None and next(reversed(lineage.results)) == object_id:
            # It may have no end.
            self.cancel(task_id)

    def next_item(
        self, generator: ObjectRefGenerator[Any], timeout_s: float | None
    ) -> ObjectRef[Any] | None:
        """Return the next reference of a stream; see Engine."""
        stream: Stream = generator._stream
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while True:
            waiter = Waiter()
            with self._guard:
                if stream.ready:
                    return self._take_item(stream)
                if stream.ended:
                    self._open.pop(stream.task_id, None)
                    return None
                stream.waiters.append(waiter.ready)
            if not self.wait(waiter, deadline):
                with self._guard:
                    if waiter.ready in stream.waiters:
                        stream.waiters.remove(waiter.ready)
                    if stream.would_block:
                        if self._loop.closed:
                            raise SessionError("the session ended while this thread waited in it")
                        raise GetTimeoutError(f"the stream had no next item after {timeout_s:g} s")

    def _take_item(self, stream: Stream) -> ObjectRef[Any]:
        entry = stream.ready.popleft()
        stream.taken += 1
        if not stream.ended:
            peer = self.peer_of(stream.task_id)
            if peer is not None:
                self._peers.send(peer, Taken(stream.task_id, stream.taken))
                if len(stream.ready) < stream.limit // 2 or stream.limit < 4:
                    peer.connection.flush()
        return self._objects.ref(entry)

    def drop_released(self) -> None:
        """Nobody listens to these any more: their tasks and what they yielded can go."""
        while self._dropped:
            stream = self._open.pop(self._dropped.popleft(), None)
            if stream is None:
                continue
            self._objects.handle(Released([entry.id for entry in stream.ready]))
            if not stream.ended:
                self.cancel(stream.task_id)

    def when_next(self, generator: ObjectRefGenerator[Any], callback: Callable[[], None]) -> None:
        """Call back when `next_item` would not block; see Engine."""
        stream: Stream = generator._stream
        with self._guard:
            if stream.would_block:
                stream.waiters.append(lambda: self._loop.later(callback))
                return
        callback()
