"""A process's objects in a world: those that it owns, borrows, makes and reads.

Real are the table of objects and the shells round it: `Objects`, `Copies`, `Partings` and
`Orphans`, and what gathers arguments and writes down how they are made again. Modelled here is what
blocks in the real one: views of what is elsewhere (`_runtime/room.py`, `values.py`), and arguments
as they are loaded.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from weft._ids import ObjectId
from weft._machines.ownership import Adopted, Counted, PeerLost, Sealed, SegmentGone, TaskEnding
from weft._runtime.bundles import INLINE_BYTES
from weft._runtime.copies import Copies
from weft._runtime.objects import Objects
from weft._runtime.orphans import Orphans
from weft._runtime.partings import Partings
from weft._runtime.room import GET
from weft._transport.addresses import Home, split
from weft._wire.messages import (
    Borrow,
    Borrowed,
    Failure,
    Fetch,
    Fetched,
    Gone,
    Hello,
    Inline,
    Orphaned,
    Recycle,
    Restore,
    Restored,
    Return,
    SegmentsFree,
    SegmentsMade,
    Shared,
    Transfer,
    WorkerLives,
)
from weft._wire.transfers import CopyHere, WantCopy, pack_transfer
from weft.testing._simulation.promises import Broken
from weft.testing._simulation.stores import OWN, Blob, Read, Unread, VirtualSegments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._refs import ObjectRef
    from weft._wire.messages import Held, Value
    from weft.testing._simulation.runtimes import VirtualRuntime
    from weft.testing._simulation.world import VirtualEnd


class VirtualPeer:
    """A process at the other end of a connection (`Peer`)."""

    queued = 0

    def __init__(self, address: str, end: VirtualEnd) -> None:
        self.address = address
        self.role = ""
        self.is_far = end.process.host != end.other.process.host
        self._end = end

    @property
    def connection(self) -> VirtualPeer:
        """What is sent is on its way at once."""
        return self

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._end.closed

    def flush(self) -> None:
        """Nothing is kept back."""

    def send(self, message: Any) -> None:
        """Send a message."""
        self._end.send(message)

    def lose(self, why: str) -> None:
        """Hear nothing more of it."""
        if not self._end.closed:
            self._end.close(why)
            self._end.lost(self._end, why)


class _VirtualView:
    """Somebody wants to read what is not in memory here."""

    def __init__(
        self, ref: ObjectRef[Any], value: Shared, then: Callable[[Read], None], name: str
    ) -> None:
        self.ref = ref
        self.value = value
        self.then = then
        self.name = name
        """Of the segment that is to be opened, if that is known."""


class _VirtualPeers:
    """Whom a runtime is connected to (`Peers`)."""

    def __init__(self, runtime: VirtualRuntime) -> None:
        self._runtime = runtime
        self._peer_of: dict[VirtualEnd, VirtualPeer] = {}

    @property
    def by_address(self) -> dict[str, VirtualPeer]:
        return {address: self.at(end) for address, end in self._runtime.end_at.items()}

    def at(self, end: VirtualEnd) -> VirtualPeer:
        peer = self._peer_of.get(end)
        if peer is None:
            peer = self._peer_of[end] = VirtualPeer(end.peer, end)
        return peer

    def forget(self, end: VirtualEnd) -> None:
        self._peer_of.pop(end, None)

    def connect(self, address: str) -> VirtualPeer | None:
        end = self._runtime.connect(address)
        return None if end is None else self.at(end)

    def lose(self, peer: VirtualPeer, why: str) -> None:
        peer.lose(why)

    def send(self, peer: VirtualPeer, message: Any) -> None:
        if isinstance(message, SegmentsMade | SegmentsFree):
            # What was written to a socket of this host is read before what that has caused.
            self._runtime.memory.said(self._runtime.worker_id, message)
        else:
            peer.send(message)


class VirtualObjects:
    """The objects of one process; towards `Copies` and others its links, loop, room and engine."""

    guard = contextlib.nullcontext()

    def __init__(self, runtime: VirtualRuntime) -> None:
        self.address = runtime.address
        self._runtime = runtime
        self._world = runtime.world
        self.home = home = Home("", split(runtime.address).node)
        self.loop = self
        shells: Any = self
        self.objects = Objects(shells, runtime.worker_id, runtime.address, shells)
        self.machine = self.objects.machine
        self._files = runtime.memory.files
        self._store = VirtualSegments(
            runtime.memory.files, runtime.worker_id, self.objects._tell_daemon
        )
        store: Any = self._store
        self.objects.store = store
        peers: Any = _VirtualPeers(runtime)
        self.peers = self.objects.peers = peers
        self.copies = self.objects.copies = Copies(shells, self.objects, shells, home)
        self.partings = Partings(shells, shells, self._world.clock)
        self.objects.partings = self.partings
        own: Any = self.daemon
        self.objects.daemon = own
        self._orphans = Orphans(shells, self.objects)
        self._views: dict[int, _VirtualView] = {}
        """What is asked of the daemon."""
        self._numbers = 0
        self._steps = 0
        self.news_at: float | None = None

    # -------------------------------------------------------------- as loop, engine and links

    def nudge(self) -> None:
        """What was dropped is counted after this step anyway."""

    def call_later(self, delay_s: float, do: Callable[[], None]) -> None:
        """Do something later (`Timers`)."""
        self._runtime.later(delay_s, do)

    def release(self, object_id: ObjectId) -> None:
        """A reference is gone."""
        if self._runtime.is_alive:
            self.objects.release(object_id)

    @property
    def daemon(self) -> VirtualPeer:
        """This node's."""
        peer: VirtualPeer = self.peers.at(self._runtime.daemon)
        return peer

    def tell_daemon(self, message: Any) -> None:
        """Send the daemon a message."""
        self.daemon.send(message)

    def settle(self) -> None:
        """Count what was dropped, and tell what is due."""
        self.objects.drain()
        self.news_at = self.objects.tick(self._world.now)

    # -------------------------------------------------------------- what is heard

    def heard(self, end: VirtualEnd, message: Any) -> bool:
        """Take a message; False: it is not about objects."""
        objects, peer = self.objects, self.peers.at(end)
        match message:
            case Hello():
                peer.role = message.role
            case WorkerLives():
                pass
            case Fetch():
                objects.on_fetch(peer, message)
            case Fetched():
                objects.on_fetched(peer, message)
            case Borrow():
                objects.on_borrow(peer, message)
            case Borrowed():
                objects.on_borrowed(peer, message)
            case Return():
                objects.on_return(peer, message)
            case Gone():
                objects.on_gone(peer, message)
            case Recycle():
                objects.on_recycle(peer, message)
            case Orphaned():
                self._orphans.on_orphaned(peer, message)
            case Transfer():
                self.copies.on_transfer(peer, message)
            case Restored():
                self._restored(message)
            case _:
                return False
        self._steps += 1
        if not self._steps % 16:
            self.machine.check()
            self.copies.places.check()
        return True

    def lost(self, end: VirtualEnd) -> None:
        """A connection broke."""
        peer = self.peers.at(end)
        if not self.partings.part(peer):
            self.objects.handle(PeerLost(peer))
            self.objects.owner_lost(peer.address)

    def lost_all_of(self, end: VirtualEnd) -> None:
        """All others know of it."""
        self.peers.forget(end)
        self._orphans.answer()

    # -------------------------------------------------------------- making

    def make(self, object_id: ObjectId, size_bytes: int, text: str, owner: str = "") -> Value:
        """Return a value as it is kept or sent. `owner`: the address of whose it will be."""
        blob = Blob(bytes(object_id), size_bytes, self._world.serial(), text)
        if size_bytes <= INLINE_BYTES:
            return Inline(msgspec.msgpack.encode(blob))
        owner = owner or self.address
        node, process = split(owner)
        if node != split(self.address).node:
            self.objects.watch_owner(owner)
        name = self._store.fill(blob)
        self._store.tell_made(name, bytes.fromhex(process))
        if owner != self.address:
            self.objects.send_news()
        return Shared(name, size_bytes, self.address)

    def new_ref(self, ref: ObjectRef[Any]) -> ObjectRef[Any]:
        """Return one more reference."""
        return self.objects.new_ref(ref._entry)

    def adopt(self, held: Held) -> ObjectRef[Any]:
        """Return a reference that came with a task: the task's caller keeps it meanwhile."""
        self._count(held)
        return self.objects.ref(self.machine.entries[ObjectId(held.object_id)])

    def _count(self, held: Held) -> None:
        object_id = ObjectId(held.object_id)
        if held.owner == self.address:
            self.objects.handle(Counted(object_id))
        else:
            self.objects.handle(Adopted(object_id, held.owner, None, defer=True))

    def task_ends(self, then: Callable[[], None]) -> None:
        """Have the owners of what a task has kept count it, before the task is answered."""
        objects = self.objects
        objects.drain()
        if self.machine.unregistered:
            objects.handle(TaskEnding())
        objects.when_registered(list(self.machine.asked), then)

    # -------------------------------------------------------------- reading

    def get(self, ref: ObjectRef[Any], then: Callable[[Read], None]) -> None:
        """Read a value as soon as there is one."""
        self._read(ref, ref._entry, then)

    def load(
        self, values: Sequence[Value], owners: Sequence[Held], then: Callable[[list[Read]], None]
    ) -> list[ObjectRef[Any]]:
        """Read a task's arguments; return what keeps them."""
        kept: list[ObjectRef[Any]] = []
        found: dict[int, Read] = {}

        def came(index: int, read: Read) -> None:
            found[index] = read
            if len(found) == len(values):
                then([found[at] for at in range(len(values))])

        for index, (value, held) in enumerate(zip(values, owners, strict=True)):
            if isinstance(value, Shared):
                ref = self.adopt(held)
                kept.append(ref)
                if held.owner != self.address:
                    self.objects.handle(Sealed(ObjectId(held.object_id), value))
                self._view(ref, value, lambda read, i=index: came(i, read))  # type: ignore[misc]  # bound as it is
            else:
                came(index, _plain(value))
        if not values:
            then([])
        return kept

    def _read(self, ref: ObjectRef[Any], entry: Any, then: Callable[[Read], None]) -> None:
        def sealed(_entry: object = None) -> None:
            if isinstance(entry.value, Shared):
                self._view(ref, entry.value, then)
            else:
                then(_plain(entry.value))

        if entry.value is not None or not self.objects.when_sealed(entry, sealed):
            sealed()

    def _view(self, ref: ObjectRef[Any], value: Shared, then: Callable[[Read], None]) -> None:
        """Read a large value, wherever it is (`Room.view`)."""
        is_far = self.copies.is_far(value)
        blob = None if is_far else self._files.blob_of.get(value.segment)
        if blob is not None:
            self._seen(ref, blob, then)
            return
        self._numbers += 1
        # It has the reference: a closure that names itself would keep that until all is over.
        self._views[self._numbers] = _VirtualView(ref, value, then, "" if is_far else value.segment)
        self.objects.send_news()
        if is_far:
            self._want(self._numbers)
        else:
            self.tell_daemon(Restore(self._numbers, value.segment))

    def _want(self, number: int) -> None:
        """Have a value brought here from another node."""
        view = self._views[number]
        edition = self.copies.edition(view.ref._id, view.value)
        wanted = WantCopy(edition, view.value.size_bytes, view.ref._owner, GET, number)
        self.tell_daemon(Transfer(pack_transfer(wanted)))

    def _restored(self, message: Restored) -> None:
        view = self._views[message.request]
        blob = None if message.error else self._files.blob_of.get(view.name)
        if blob is None:
            self._want(message.request)
        else:
            del self._views[message.request]
            self._seen(view.ref, blob, view.then)

    def on_copy_here(self, message: CopyHere) -> None:
        """The daemon has an answer (`Room`)."""
        if message.name:
            self._views[message.request].name = message.name
            return
        view = self._views.pop(message.request)
        if message.failure == "failed":
            view.then(Unread(OWN, "StoreFullError"))
        else:
            gone = SegmentGone(view.ref._id, view.value.segment, message.reason)
            self.objects.handle(gone)
            self._read(view.ref, view.ref._entry, view.then)

    def _seen(self, ref: ObjectRef[Any], blob: Blob, then: Callable[[Read], None]) -> None:
        if blob.object_id != ref._id:
            name = self._world.story.name_of(ref._id)
            raise Broken(f"{name} is read as {blob.text}", name, self._runtime.name)
        then(blob)


def _plain(value: Value | None) -> Read:
    if isinstance(value, Inline):
        return msgspec.msgpack.decode(value.data, type=Blob)
    assert isinstance(value, Failure)
    return Unread.of(value)
