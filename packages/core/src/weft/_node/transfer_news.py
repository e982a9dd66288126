"""What a daemon's machine of transfers is told: by processes, by other daemons, by the store.

The shells that act on what it says are subclasses: `NodeTransfers`, and the simulator's.

What is always true
1. Effects are done in the order in which the machine said them; what they lead to comes after.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from weft._machines.pulls import ObjectWaiter
from weft._machines.transfer_events import (
    CopyDropped,
    Effect,
    Event,
    ObjectWanted,
    OwnerBack,
    OwnerDied,
    OwnerSaid,
    PeerCut,
    PeerDied,
    PeerSaid,
    TransfersTicked,
    WaiterGone,
    WantEnded,
)
from weft._wire.messages import Transfer
from weft._wire.transfers import (
    CopyHere,
    EndCopy,
    EndWant,
    KeepCopy,
    KnownPlaces,
    MakeCopy,
    RejectCopy,
    WantCopy,
    pack_transfer,
    unpack_transfer,
)
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._machines.transfers import Transfers
    from weft._node.object_links import ObjectLinks
    from weft._wire.messages import Message
    from weft._wire.transfers import NodeLife, PeerMessage


class TransferNews(ABC):
    """Tells the machine what happens, and has done what it says."""

    machine: Transfers
    links: ObjectLinks

    def __init__(
        self,
        now: Callable[[], float],
        tell_client: Callable[[bytes, Message], object],
        *,
        checks: bool,
    ) -> None:
        """`tell_client` queues a message; `checks`: the machine's promises, with every event."""
        self._now = now
        self._tell_client = tell_client
        self._checks = checks
        self._effects: deque[Effect] = deque()
        self._is_settling = False

    # -------------------------------------------------------------- of this node, and of owners

    def said(self, client: bytes, address: str, message: Transfer) -> None:
        """A process has said something: of this node, or an owner. ProtocolError: it cannot be."""
        match unpack_transfer(message.body):
            case WantCopy(edition, size_bytes, owner, priority, request):
                waiter = ObjectWaiter(client, request)
                self._tell(ObjectWanted(edition, size_bytes, owner, priority, waiter))
            case EndWant(edition, request):
                self._tell(WantEnded(edition, ObjectWaiter(client, request)))
                ended = CopyHere(edition, request, "", "ended")
                self._tell_client(client, Transfer(pack_transfer(ended)))
            case (KnownPlaces() | MakeCopy() | KeepCopy() | RejectCopy() | EndCopy()) as said:
                self._tell(OwnerSaid(address, said))
            case other:
                raise ProtocolError(f"{type(other).__name__} is not for a daemon")

    def client_lost(self, client: bytes) -> None:
        """A process of this node has ended."""
        self._tell(WaiterGone(client))

    def owner_back(self, address: str) -> None:
        """The connection to an owner broke, and there is another one."""
        self._tell(OwnerBack(address))

    def owner_lost(self, address: str) -> None:
        """A process that may own copies here is gone."""
        self._tell(OwnerDied(address, "its owner is gone"))

    def node_died(self, address: str) -> None:
        """The node at HOST:PORT is dead."""
        for life in self.links.peers_at(address):
            self.links.forget(life)
            self._tell(PeerDied(life))

    def dropped(self, names: list[str], reason: str) -> None:
        """Copies are gone, or cannot be read."""
        for name in names:
            self._tell(CopyDropped(name, reason))

    # -------------------------------------------------------------- of other daemons (ChunkTaker)

    def peer_said(self, peer: NodeLife, message: PeerMessage) -> None:
        """Another daemon has said something."""
        self._tell(PeerSaid(peer, message))

    def peer_cut(self, peer: NodeLife) -> None:
        """The connections to another daemon broke, or there is none."""
        self._tell(PeerCut(peer))

    # -------------------------------------------------------------- time, and the machine

    def wake_at(self) -> float | None:
        """Return when `tick` is due, in seconds; None: never."""
        return self.machine.wake_at()

    def tick(self) -> None:
        """Tell the machine of the time if that has come."""
        at = self.machine.wake_at()
        if at is not None and at <= self._now():
            self._tell(TransfersTicked())

    def _tell(self, event: Event) -> None:
        self._effects += self.machine.handle(event, self._now())
        if self._checks:
            self.machine.check()
        # What an effect leads to at once comes after those that are here.
        if not self._is_settling:
            self._is_settling = True
            try:
                while self._effects:
                    self._do(self._effects.popleft())
            finally:
                self._is_settling = False

    @abstractmethod
    def _do(self, effect: Effect) -> None:
        """Do what the machine says."""
