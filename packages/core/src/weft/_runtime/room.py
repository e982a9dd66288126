"""Room for large objects: segments to write, and views of them wherever their bytes are.

The store of this process has a loan of shared memory; here it is asked for more, and for segments
whose objects have gone to disk (docs/design/0004). Both block, so that a `put` waits for room and a
`get` for the disk; the daemon's own wishes, to have memory back, are fulfilled by whoever reads.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from weft._clock import monotonic
from weft._runtime.links import SILENCE_S
from weft._runtime.loop import Waiter
from weft._runtime.running import running
from weft._store.shared_memory import size_class
from weft._wire.messages import OVERDRAWN, AskLoan, Evict, Loan, Recall, Restore, Restored
from weft.exceptions import StoreFullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._runtime.links import Links
    from weft._runtime.peers import Peer
    from weft._store.shared_memory import Mapping, Segment, SharedMemoryStore
    from weft._wire.messages import Shared


class SegmentLost(Exception):  # noqa: N818 - never leaves the runtime
    """A segment's bytes are neither in memory nor on disk; the text says why."""


class _Request:
    """What is asked of the daemon, until it has answered."""

    __slots__ = ("answer", "mapping", "name", "size_bytes", "waiter")

    def __init__(self, name: str = "", size_bytes: int = 0) -> None:
        self.name = name
        """Of the segment that is to come back; empty for a loan."""
        self.size_bytes = size_bytes
        """Of the segment for which there is no room."""
        self.waiter = Waiter()
        self.answer: Loan | Restored | None = None
        self.mapping: Mapping | None = None
        """Of the segment that came back: it is not evicted before it is viewed."""


class Room:
    """Asks the daemon for memory. Without the guard, where a docstring does not say otherwise."""

    why: Callable[[], str]
    """Asks the daemon what this process waits for."""

    def __init__(self, links: Links, store: SharedMemoryStore) -> None:
        self._links = links
        self._guard = links.guard
        self._store = store
        self._requests: dict[int, _Request] = {}
        self._asked = 0

    def reserve(self, size_bytes: int) -> Segment:
        """Return a segment for the caller to fill. Blocks until there is room.

        StoreFullError: there is none, neither in memory nor on disk.
        """
        while True:
            segment = self._try_reserve(size_bytes)
            if segment is not None:
                return segment
            loan = self._ask(_Request(size_bytes=size_class(size_bytes))).answer
            assert isinstance(loan, Loan)
            if loan.error:
                raise StoreFullError(loan.error)
            if loan.directory:
                with self._guard:
                    return self._store.reserve_on_disk(size_bytes, Path(loan.directory))

    def _try_reserve(self, size_bytes: int) -> Segment | None:
        segment: Segment | None = None
        try:
            with self._guard:
                segment = self._store.try_reserve(size_bytes)
        except BaseException:
            # An interrupt that was held back comes when the guard is left.
            if segment is not None:
                with self._guard:
                    self._store.abandon(segment)
            raise
        return segment

    def view(self, value: Shared, gone: Callable[[], object]) -> memoryview:
        """Return a stored object's bytes, read-only. Blocks while they are read from disk.

        `gone` is called when the last view of them is. SegmentLost: there are no such bytes; then
        it is not called.
        """
        name, size_bytes = value.segment, value.size_bytes
        while True:
            with self._guard:
                view = self._store.try_view(value, gone)
            if view is not None:
                return view
            request = self._ask(_Request(name))
            restored = request.answer
            assert isinstance(restored, Restored)
            if restored.error:
                raise SegmentLost(restored.error)
            if not restored.path:
                if request.mapping is None:
                    raise SegmentLost(f"segment {name} has no file any more")
                continue
            try:
                return self._store.view_file(restored.path, restored.offset, size_bytes, gone)
            except FileNotFoundError:
                # Dropped, or made room for, in this moment: the daemon knows.
                continue

    def _ask(self, request: _Request) -> _Request:
        with self._guard:
            self._links.refuse_if_ended()
            self._asked += 1
            number = self._asked
            self._requests[number] = request
            self._links.objects.send_news()
            if request.name:
                self._links.tell_daemon(Restore(number, request.name))
            else:
                self._links.tell_daemon(AskLoan(number, request.size_bytes))
        now = running.get()
        if now is not None:
            # Its CPU stays taken: a task that began in its place would want memory, too.
            now.waits_for_memory = True
        try:
            self._wait(request.waiter)
        finally:
            if now is not None:
                now.waits_for_memory = False
        if request.answer is None:
            self._links.refuse_if_ended()
        assert request.answer is not None
        return request

    def _wait(self, waiter: Waiter) -> None:
        """Wait for an answer; the driver says once that it takes long."""
        loop = self._links.loop
        if self._links.role != "driver" or loop.wait(waiter, monotonic() + SILENCE_S):
            loop.wait(waiter)
        elif not loop.closed:
            sys.stderr.write(
                f"weft: still waiting after {SILENCE_S:g} s. This process {self.why()}\n"
            )
            loop.wait(waiter)

    # -------------------------------------------------------------- messages; inside the guard

    def on_loan(self, peer: Peer, message: Loan) -> None:
        if message.request == OVERDRAWN:
            self._store.lend(message.size_bytes)
            return
        request = self._requests.pop(message.request)
        self._store.lend(message.size_bytes, message.file, request.size_bytes)
        self._answer(request, message)

    def on_restored(self, peer: Peer, message: Restored) -> None:
        request = self._requests.pop(message.request)
        if not message.error and not message.path:
            try:
                request.mapping = self._store.open(request.name)
            except FileNotFoundError:
                self._store.leave(request.name)
        self._answer(request, message)

    def _answer(self, request: _Request, answer: Loan | Restored) -> None:
        request.answer = answer
        request.waiter.ready()

    def on_recall(self, peer: Peer, message: Recall) -> None:
        self._store.recall(message.size_bytes)

    def on_evict(self, peer: Peer, message: Evict) -> None:
        self._store.evict(message.names)

    def fail_all(self) -> None:
        """Nothing will be answered any more."""
        for request in self._requests.values():
            request.waiter.ready()
        self._requests.clear()
