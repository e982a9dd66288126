"""Streams at the end of a program that is far from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._clock import monotonic
from weft._runtime.loop import Waiter
from weft._serialize.failures import unpack_failure
from weft._wire import remote
from weft.exceptions import GetTimeoutError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._refs import ObjectRef, ObjectRefGenerator
    from weft._runtime.loop import Loop
    from weft._runtime.remote_objects import RemoteStream
    from weft._runtime.remote_talk import RemoteTalk


class RemoteStreams:
    """What consumers of streams ask for."""

    def __init__(self, loop: Loop, talk: RemoteTalk) -> None:
        self._loop = loop
        self._guard = loop.guard
        self._talk = talk
        self._objects = talk.objects

    def next_item(
        self, generator: ObjectRefGenerator[Any], timeout_s: float | None
    ) -> ObjectRef[Any] | None:
        """Return the next reference of a stream; see Engine."""
        stream: RemoteStream = generator._stream
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while True:
            waiter = Waiter()
            with self._guard:
                if stream.ready:
                    return stream.ready.popleft()
                if stream.error:
                    raise unpack_failure(stream.error)
                if stream.is_ended:
                    return None
                stream.waiters.append(waiter.ready)
                self._ask_next(stream)
            if not self._loop.wait(waiter, deadline):
                with self._guard:
                    if waiter.ready in stream.waiters:
                        stream.waiters.remove(waiter.ready)
                if self._loop.closed:
                    raise SessionError("the session ended while this thread waited in it")
                if stream.would_block:
                    raise GetTimeoutError(f"the stream had no next item after {timeout_s:g} s")

    def _ask_next(self, stream: RemoteStream) -> None:
        """Ask for the next item, once. Inside the guard."""
        if stream.is_asked:
            return

        def answered(answer: remote.Replied) -> None:
            stream.is_asked = False
            if answer.error:
                stream.error = answer.error
            elif not answer.refs:
                stream.is_ended = True
            else:
                stream.ready.extend(self._objects.take(held) for held in answer.refs)
            waiters, stream.waiters = stream.waiters, []
            for waiter in waiters:
                waiter()

        self._talk.send(lambda request: remote.Nexts(request, stream.task_id), answered)
        stream.is_asked = True

    def when_next(self, generator: ObjectRefGenerator[Any], callback: Callable[[], None]) -> None:
        """Call back when `next_item` would not block; see Engine."""
        stream: RemoteStream = generator._stream
        with self._guard:
            if stream.would_block:
                stream.waiters.append(lambda: self._loop.later(callback))
                self._ask_next(stream)
                return
        callback()
