"""Room for large objects: segments to write, and views of them wherever their bytes are.

The store of this process has a loan of shared memory; here it is asked for more, and for segments
whose objects have gone to disk (docs/design/0004). Both block, so that a `put` waits for room and a
`get` for the disk; the daemon's own wishes, to have memory back, are fulfilled by whoever reads.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from weft._lazy import lazy
from weft._runtime.loop import Waiter
from weft._runtime.running import running
from weft._store.shared_memory import size_class
from weft._wire.messages import OVERDRAWN, AskLoan, Evict, Loan, Recall, Restore, Restored, Transfer
from weft.exceptions import StoreFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._runtime.copies import Copies
    from weft._runtime.links import Links
    from weft._runtime.peers import Peer
    from weft._store.mappings import Mapping
    from weft._store.shared_memory import Segment, SharedMemoryStore
    from weft._wire import transfers
    from weft._wire.messages import Held, Shared
else:
    transfers = lazy("weft._wire.transfers")

# What is wanted first, by its number: see _machines/transfers.py.
GET, ARGUMENT = range(2)


class SegmentLost(Exception):  # noqa: N818 - never leaves the runtime
    """A segment's bytes are neither in memory nor on disk; the text says why."""


class Brought:
    """What is asked of the daemon; when it has answered, this keeps what has come."""

    __slots__ = ("answer", "edition", "mapping", "name", "size_bytes", "waiter")

    def __init__(
        self, name: str = "", size_bytes: int = 0, edition: transfers.Edition | None = None
    ) -> None:
        self.name = name
        """Of the segment that is to come back; empty for a loan."""
        self.size_bytes = size_bytes
        """Of the segment for which there is no room."""
        self.edition = edition
        """What is to come from another node: then the name is that of its copy."""
        self.waiter = Waiter()
        self.answer: Loan | Restored | transfers.CopyHere | None = None
        self.mapping: Mapping | None = None
        """Of the segment that came back: it is not evicted before it is viewed."""


def _far_request(value: Shared, source: Held) -> Brought:
    edition = transfers.Edition(source.object_id, value.segment)
    return Brought(size_bytes=value.size_bytes, edition=edition)


def check_copy(request: Brought) -> None:
    """See whether what was asked of other nodes has come.

    SegmentLost: its owner does not know of it any more. StoreFullError: it cannot be kept here.
    """
    answer = request.answer
    if isinstance(answer, transfers.CopyHere):
        if answer.failure == "failed":
            object_hex = answer.edition.object_id.hex()
            raise StoreFullError(f"object {object_hex} cannot be brought here: {answer.reason}")
        raise SegmentLost(answer.reason)


class Room:
    """Asks the daemon for memory. Without the guard, where a docstring does not say otherwise."""

    why: Callable[[], str]
    """Asks the daemon what this process waits for."""
    copies: Copies | None = None
    """In a cluster: where objects are."""

    def __init__(self, links: Links, store: SharedMemoryStore) -> None:
        self._links = links
        self._guard = links.guard
        self._store = store
        self._requests: dict[int, Brought] = {}
        self._asked = 0

    def reserve(self, size_bytes: int) -> Segment:
        """Return a segment for the caller to fill. Blocks until there is room.

        StoreFullError: there is none, neither in memory nor on disk.
        """
        while True:
            segment = self._try_reserve(size_bytes)
            if segment is not None:
                return segment
            loan = self._ask(Brought(size_bytes=size_class(size_bytes))).answer
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

    def view(self, value: Shared, source: Held, gone: Callable[[], object]) -> memoryview:
        """Return a stored object's bytes, read-only.

        Blocks while they are read from disk, or brought from another node.

        Args:
            value: Where they are.
            source: The object whose value it is, and its owner.
            gone: Called when the last view of them is.

        Raises:
            SegmentLost: There are no such bytes; then `gone` is not called.
            StoreFullError: They are on another node, and there is no room for them on this one.
        """
        may_be_here = self.copies is None or not self.copies.is_far(value)
        while True:
            view = self.try_view(value, source.object_id, gone)
            if view is not None:
                return view
            if may_be_here:
                request = self._ask(Brought(value.segment))
                may_be_here = False
            else:
                request = self._ask(_far_request(value, source), source.owner)
            answer = request.answer
            if isinstance(answer, Restored):
                error = answer.error
                if not error and answer.path:
                    with contextlib.suppress(FileNotFoundError):
                        # Else: dropped, or made room for, in this moment. The daemon knows.
                        return self._store.view_file(
                            answer.path, answer.offset, value.size_bytes, gone
                        )
                if not error and (request.mapping is not None or answer.path):
                    may_be_here = request.edition is None
                elif self.copies is None:
                    raise SegmentLost(error or f"segment {value.segment} has no file any more")
            else:
                check_copy(request)

    def try_view(
        self, value: Shared, object_id: bytes, gone: Callable[[], object]
    ) -> memoryview | None:
        """Return a stored object's bytes if they are in memory here; see `view`."""
        with self._guard:
            view = self._store.try_view(value, gone)
            if view is None and self.copies is not None:
                key = transfers.Edition(object_id, value.segment)
                view = self._store.try_view_copy(key, value.size_bytes, gone)
            return view

    def want(
        self, missing: Sequence[tuple[Shared, Held]], waiter: Waiter, priority: int
    ) -> list[Brought]:
        """Have copies brought from other nodes. Inside the guard; does not block.

        Args:
            missing: The values, each with the object that it is of, and its owner.
            waiter: Is told of each when it is here, or cannot be.
            priority: As in _machines/transfers.py.

        Returns:
            Who keeps them here; for `check_copy` when the waiter is done, or for `end`.
        """
        requests: list[Brought] = []
        self._links.objects.send_news()
        for value, source in missing:
            request = _far_request(value, source)
            request.waiter = waiter
            self._add(request, source.owner, priority)
            requests.append(request)
        return requests

    def end(self, requests: Sequence[Brought]) -> None:
        """Nobody waits for these any more. Inside the guard."""
        for number, request in self._requests.items():
            if request in requests:
                request.waiter = Waiter()
                assert request.edition is not None
                self._tell_transfer(transfers.EndWant(request.edition, number))

    def _add(self, request: Brought, owner: str, priority: int) -> None:
        self._asked += 1
        number = self._asked
        self._requests[number] = request
        if request.edition is not None:
            self._tell_transfer(
                transfers.WantCopy(request.edition, request.size_bytes, owner, priority, number)
            )
        elif request.name:
            self._links.tell_daemon(Restore(number, request.name))
        else:
            self._links.tell_daemon(AskLoan(number, request.size_bytes))

    def _tell_transfer(self, message: transfers.WantCopy | transfers.EndWant) -> None:
        self._links.tell_daemon(Transfer(transfers.pack_transfer(message)))

    def _ask(self, request: Brought, owner: str = "") -> Brought:
        with self._guard:
            self._links.refuse_if_ended()
            self._links.objects.send_news()
            self._add(request, owner, GET)
        now = running.get()
        if now is not None:
            # Its CPU stays taken: a task that began in its place would want memory, too.
            now.waits_for_memory = True
        try:
            self._links.wait_aloud(request.waiter, self.why)
        finally:
            if now is not None:
                now.waits_for_memory = False
        if request.answer is None:
            self._links.refuse_if_ended()
        assert request.answer is not None
        return request

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
            else:
                if request.edition is not None:
                    self._store.keep_copy(request.edition, request.mapping)
                    # Its file is filled again only if the daemon knows who has it: a copy that is
                    # read once may go before the news would.
                    self._links.objects.send_news()
                    self._links.daemon.connection.flush()
        self._answer(request, message)

    def on_copy_here(self, message: transfers.CopyHere) -> None:
        request = self._requests.get(message.request)
        if request is None or request.name:
            # It was answered just before the daemon read that nobody waits for it.
            return
        request.name = message.name
        if not message.name:
            del self._requests[message.request]
            self._answer(request, message)

    def _answer(self, request: Brought, answer: Loan | Restored | transfers.CopyHere) -> None:
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
