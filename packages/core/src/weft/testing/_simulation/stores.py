"""A node's large objects in a world: files in memory, and the daemon that knows whose they are.

Modelled here are a process's store (`_store/shared_memory.py`), what the daemon knows of segments
(`_node/memory.py`) and the bytes themselves. There is always room, but copies of other nodes'
objects are dropped for it by chance, as `Segments` does when memory is short.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from weft._serialize.failures import unpack_failure
from weft._wire.messages import (
    Discard,
    Failure,
    MadeSegment,
    Orphaned,
    Restore,
    Restored,
    SegmentsFree,
    SegmentsMade,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft.testing._simulation.daemons import VirtualDaemon

DROPPED_SHARE = 0.1
"""How many copies are dropped when another one has come."""


class Blob(msgspec.Struct, frozen=True):
    """The bytes of one object, as they were made once."""

    object_id: bytes
    size_bytes: int
    made: int
    """No two are the same."""
    text: str
    """What the program reads."""


OWN = b"!"
"""Before the word for why a task of a world has failed; errors of Weft are packed."""


class Unread(msgspec.Struct, frozen=True):
    """What a reader got instead of a value."""

    error: bytes
    kind: str
    """In a word, or the class of the error."""

    @staticmethod
    def of(failure: Failure) -> Unread:
        """Return what is read of a failure."""
        error = failure.error
        if error.startswith(OWN):
            return Unread(error, error.removeprefix(OWN).decode())
        return Unread(error, type(unpack_failure(error)).__name__)


def failed(kind: str) -> Failure:
    """Return what a task has instead of a value that has failed so."""
    return Failure(OWN + kind.encode())


Read = Blob | Unread


class VirtualFiles:
    """The segments of a host, by their names: all of its processes can read them."""

    def __init__(self) -> None:
        self.blob_of: dict[str, Blob] = {}
        self.open: dict[str, int] = {}
        """How often the daemon has one open, to send it."""


class VirtualSegments:
    """A process's store (`SharedMemoryStore`): it fills segments, and fills them again."""

    def __init__(self, files: VirtualFiles, worker_id: bytes, tell: Callable[[Any], None]) -> None:
        self._files = files
        self._tell = tell
        self._head = worker_id.hex()
        self._mine: dict[str, int] = {}
        self._spare: dict[str, int] = {}
        self._names = 0

    def fill(self, blob: Blob) -> str:
        """Put an object in a segment, of which only this process knows; return its name."""
        able = (
            name
            for name, size_bytes in self._spare.items()
            if size_bytes == blob.size_bytes and not self._files.open.get(name)
        )
        name = next(able, "")
        if name:
            del self._spare[name]
        else:
            self._names += 1
            name = f"{self._head}.{self._names}"
        self._mine[name] = blob.size_bytes
        self._files.blob_of[name] = blob
        return name

    def tell_made(self, name: str, owner: bytes) -> None:
        """Tell the daemon of it."""
        size_bytes = self._mine[name]
        self._tell(
            SegmentsMade([MadeSegment(name, size_bytes, size_bytes, owner, "", "", on_disk=False)])
        )

    def recycle(self, name: str) -> None:
        """Nobody reads it any more."""
        size_bytes = self._mine.pop(name, None)
        if size_bytes is None:
            self._tell(Discard([name]))
        else:
            self._spare[name] = size_bytes
            self._tell(SegmentsFree([name]))

    def tell_ends(self) -> None:
        """No view outlives its reading."""


class VirtualMemory:
    """What a daemon knows of the segments of its node (`NodeMemory`)."""

    def __init__(self, daemon: VirtualDaemon) -> None:
        self.files = VirtualFiles()
        self.owner_of: dict[str, bytes] = {}
        """Of all objects, by their segments."""
        self._daemon = daemon
        self._creator_of: dict[str, bytes] = {}
        self._gone: dict[bytes, None] = {}
        self._droppable: dict[str, None] = {}
        """Copies that other nodes keep."""

    # -------------------------------------------------------------- what processes say

    def said(self, client: bytes, message: Any) -> None:
        """A process has said something."""
        match message:
            case SegmentsMade(segments):
                for each in segments:
                    self._made(client, each)
            case SegmentsFree(names):
                for name in names:
                    self._forget(name)
            case Restore() | Discard() if not all(map(self.owner_of.get, _names(message))):
                # What a dead worker's answer brought may be known sooner than what it told.
                self._daemon.later(0.0, lambda: self._heard(client, message))
            case _:
                self._heard(client, message)

    def _heard(self, client: bytes, message: Restore | Discard) -> None:
        if isinstance(message, Discard):
            for name in message.segments:
                self.discard(name)
        else:
            self.restore(client, message.request, message.name)

    def _made(self, client: bytes, made: MadeSegment) -> None:
        self.owner_of[made.name] = made.owner
        self._creator_of[made.name] = client
        if made.owner in self._gone:
            self.discard(made.name)

    def _forget(self, name: str) -> None:
        self.owner_of.pop(name, None)
        self._creator_of.pop(name, None)
        self._droppable.pop(name, None)

    def discard(self, name: str) -> None:
        """An object is not needed any more."""
        if name in self.owner_of:
            self._forget(name)
            self.files.blob_of.pop(name, None)

    def restore(self, client: bytes, request: int, name: str) -> None:
        """A process wants to open a segment."""
        error = "" if name in self.owner_of else f"segment {name} is not known"
        self._daemon.send_to(client, Restored(request, error))

    # -------------------------------------------------------------- processes that end

    def lost(self, client: bytes) -> None:
        """A process has ended: so have the objects that it owned."""
        for name in [name for name, owner in self.owner_of.items() if owner == client]:
            self.discard(name)
        self._gone[client] = None
        names_of: dict[bytes, list[str]] = {}
        for name, creator in self._creator_of.items():
            if creator == client:
                names_of.setdefault(self.owner_of[name], []).append(name)
        for owner, names in names_of.items():
            self._daemon.send_to(owner, Orphaned(client, names))

    def swept(self, worker: bytes) -> None:
        """Remove what a process has left, of which nobody was told."""
        head = f"{worker.hex()}."
        blobs = self.files.blob_of
        for name in [name for name in blobs if name.startswith(head)]:
            if name not in self.owner_of:
                del blobs[name]

    def back(self, client: bytes) -> None:
        """A process of another node is not dead, if it was taken for that."""
        self._gone.pop(client, None)

    def discard_of(self, owners: set[bytes]) -> None:
        """These need nothing of what is here."""
        for name in [name for name, owner in self.owner_of.items() if owner in owners]:
            self.discard(name)

    # -------------------------------------------------------------- copies

    def add_copy(self, name: str, blob: Blob, *, is_kept: bool) -> None:
        """A copy has come; there may be no room for others."""
        node = self._daemon.node_id
        self.files.blob_of[name] = blob
        self.owner_of[name] = self._creator_of[name] = node
        draw = self._daemon.world.random
        dropped = [each for each in self._droppable if draw.random() < DROPPED_SHARE]
        if not is_kept:
            self._droppable[name] = None
        for each in dropped:
            self.discard(each)
        if dropped:
            self._daemon.later(
                0.0, lambda: self._daemon.moving.dropped(dropped, "there was no room for it")
            )

    def keep(self, name: str) -> None:
        """A copy is not dropped for room."""
        self._droppable.pop(name, None)


def _names(message: Restore | Discard) -> list[str]:
    return [message.name] if isinstance(message, Restore) else message.segments
