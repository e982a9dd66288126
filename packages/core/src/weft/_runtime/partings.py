"""Processes of other nodes to which the connection broke: have they ended, or is it the network?

What a process owns ends with it, and so does what it has borrowed here; but neither ends with a
connection. One that owns something that is needed here is called again, as daemons do
(far_owners.py), and whoever is called registers and asks anew. Its daemon is asked whether it has
ended. The own daemon tells of nodes that die; of those that were dead before this process began it
tells when it is asked, which is done once for each node that is called.

    connection lost -> parted -> called again, and answers -> together
                              -> has borrowed again        -> together
                              -> its daemon knows its end  -> gone
                              -> its node is dead          -> gone
                              -> PATIENCE_S                -> gone

What is always true
1. Over a new connection to an owner nothing is said before all that is borrowed of it was
   registered, and all that is missing was asked for.
2. What a process had borrowed over the broken connection stays until it has borrowed again over
   another, or is gone.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from weft._clock import monotonic
from weft._machines.ownership import OwnerMetAgain, PeerLost, PeerParted
from weft._transport.addresses import daemon_of, is_daemon, process_of, split
from weft._wire.messages import CheckNode, CheckWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._runtime.links import Links
    from weft._runtime.peers import Peer
    from weft._transport.timers import Timers
    from weft._wire.messages import NodeLost

PAUSES_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.0)
"""Before each call. The last one stands for all that follow."""
# Longer than it takes until a node that is silent is declared dead.
PATIENCE_S = 10.0
DEAD_KEPT = 1_000


def died_in_words(lost: NodeLost) -> str:
    """Say which node died, and how."""
    return f"its node {lost.node_id.hex()} died ({lost.cause})"


class _Parting:
    """One process."""

    __slots__ = ("before", "calls", "is_due", "told", "until")

    def __init__(self) -> None:
        self.before: list[Peer] = []
        """Over which it had borrowed."""
        self.calls = 0
        """How often it was tried since it last answered."""
        self.is_due = False
        """A timer runs for the next try."""
        self.told: Peer | None = None
        """Over which it has heard all that it may have missed."""
        self.until = 0.0


class Partings:
    """Those of one process. Inside the guard."""

    def __init__(
        self, links: Links, timers: Timers, clock: Callable[[], float] | None = None
    ) -> None:
        """`clock` is that of the timers; None: the machine's."""
        self._links = links
        self._clock = monotonic if clock is None else clock
        self._objects = links.objects
        self._timers = timers
        self._parting_of: dict[str, _Parting] = {}
        """By address."""
        self._buried = ""
        """HOST:PORT of a node that is being buried."""
        self._dead: OrderedDict[str, str] = OrderedDict()
        """Nodes that were declared dead, of late, and how; by HOST:PORT."""
        self._checked: set[str] = set()
        """Nodes that were called: if one of them is dead, that is told."""

    # -------------------------------------------------------------- it breaks

    def part(self, peer: Peer) -> bool:
        """A connection broke; False: nothing hangs on it, or its process is gone for sure."""
        address = peer.address
        if not peer.is_far or not address or is_daemon(address):
            return False
        lends = self._objects.machine.lends_to(peer)
        if not lends and not self._objects.machine.borrows_from(address):
            return False
        node = split(address).node
        if peer.role and node != self._buried:
            # Another node may have the port of one that is dead.
            self._dead.pop(node, None)
        if not self._begin(address, has_answered=bool(peer.role)):
            return False
        if lends:
            self._parting_of[address].before.append(peer)
        self._objects.handle(PeerParted(peer))
        return True

    def wait_for(self, address: str) -> bool:
        """There is no way to an owner, for the moment; False: it is gone for sure."""
        return self._links.home.path_of(address) is None and self._begin(address)

    def why_lost(self, address: str) -> str:
        """Say how the node of a process died; empty if it is not known to be dead."""
        return self._dead.get(split(address).node, "")

    def _begin(self, address: str, *, has_answered: bool = False) -> bool:
        node = split(address).node
        if node in self._dead:
            return False
        self._check(node)
        parting = self._parting_of.get(address)
        if parting is None or has_answered:
            parting = self._parting_of.setdefault(address, _Parting())
            parting.calls = 0
            parting.until = self._clock() + PATIENCE_S
            self._timers.call_later(PATIENCE_S, partial(self._expire, address, parting))
        self._try_later(address, parting)
        return True

    # -------------------------------------------------------------- it is called again

    def _try_later(self, address: str, parting: _Parting) -> None:
        if not parting.is_due:
            parting.is_due = True
            pause_s = PAUSES_S[min(parting.calls, len(PAUSES_S) - 1)]
            self._timers.call_later(pause_s, partial(self._try, address, parting))
            self._links.loop.nudge()

    def _try(self, address: str, parting: _Parting) -> None:
        parting.is_due = False
        if self._parting_of.get(address) is not parting:
            return
        needs = self._objects.machine.borrows_from(address)
        if not parting.before and (not needs or self._has_answered(address)):
            del self._parting_of[address]
            return
        parting.calls += 1
        peers = self._links.peers
        daemon = peers.connect(daemon_of(address))
        if daemon is not None:
            peers.send(daemon, CheckWorker(process_of(address)))
        if needs and (peer := peers.connect(address)) is not None:
            self.met(address, peer)
        self._try_later(address, parting)

    def _has_answered(self, address: str) -> bool:
        """Tell whether there is a connection again, over which it has heard all."""
        told, peer = self._parting_of[address].told, self._links.peers.by_address.get(address)
        return peer is not None and peer is told and bool(peer.role)

    def met(self, address: str, peer: Peer) -> None:
        """There is a connection to a process: if it was parted, say again what it has missed."""
        if peer.is_far and not peer.role:
            self._check(split(address).node)
        parting = self._parting_of.get(address)
        if parting is not None and parting.told is not peer:
            parting.told = peer
            self._objects.handle(OwnerMetAgain(address))

    def _check(self, node: str) -> None:
        """A node is called."""
        if node not in self._checked:
            self._checked.add(node)
            self._links.tell_daemon(CheckNode(node))

    def borrows_again(self, peer: Peer) -> None:
        """A process borrows: what it holds of before it has borrowed again."""
        parting = self._parting_of.get(peer.address)
        if parting is not None:
            before, parting.before = parting.before, []
            for lost in before:
                self._objects.handle(PeerLost(lost))

    # -------------------------------------------------------------- it is gone

    def ended(self, process: bytes) -> None:
        """A process has ended, as its daemon says."""
        for address in [each for each in self._parting_of if process_of(each) == process]:
            self._end(address)

    def bury(self, node: str, how: str, lose: Callable[[], None]) -> None:
        """The node at HOST:PORT is dead: `lose` its processes, and call none of them again.

        `how`: as in "its node 0a died (it was silent)".
        """
        self._checked.discard(node)  # Another one may have its port.
        self._dead[node] = how
        self._buried = node
        lose()
        self._buried = ""
        if len(self._dead) > DEAD_KEPT:
            self._dead.popitem(last=False)
        for address in [each for each in self._parting_of if split(each).node == node]:
            self._end(address, how)

    def _expire(self, address: str, parting: _Parting) -> None:
        if self._parting_of.get(address) is not parting or self._clock() < parting.until:
            return
        if self._has_answered(address):
            self._forget(address)
        else:
            self._end(address, f"it was not to be reached for {PATIENCE_S:g} s")

    def _end(self, address: str, why: str = "") -> None:
        """`why` it is believed to be gone; empty: it has ended."""
        self._forget(address)
        self._objects.owner_lost(address, why)
        peer = self._links.peers.by_address.get(address)
        if peer is not None:
            self._links.peers.lose(peer, why or "its process has ended")

    def _forget(self, address: str) -> None:
        for lost in self._parting_of.pop(address).before:
            self._objects.handle(PeerLost(lost))
