"""Processes of other nodes that own objects here, originals or copies; and what drains with a node.

This daemon calls such a process when it has something to say to it, or when a worker here makes an
object for it, and keeps the connection. One that breaks is called again, a few times within
`sum(PAUSES_S)`: a process that has ended never answers, a network that broke off may do so soon.
With each call what was said meanwhile is said again (OwnerBack).

When this node is about to end, owners elsewhere have what is nowhere else moved to other nodes:

    NodeDrains -> each owner moves its objects -> NodeDrained

An owner whose connection breaks meanwhile is asked again when it is back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._transport.addresses import is_daemon, split
from weft._wire.messages import NodeDrains

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.clients import Client, Clients
    from weft._node.memory import NodeMemory
    from weft._node.transfers import NodeTransfers
    from weft._transport.addresses import Home
    from weft._transport.timers import Timers
    from weft._wire.messages import NodeDrained, Transfer

# Long enough for a network to be mended by itself, short enough for who waits for room.
PAUSES_S = (0.0, 0.1, 0.2, 0.4, 0.8)

Life = tuple[bytes, int, str]
"""As NodeLife: the node's id, its incarnation, HOST:PORT."""


class FarOwners:
    """Those of one daemon in a cluster."""

    transfers: NodeTransfers

    def __init__(self, home: Home, clients: Clients, memory: NodeMemory, timers: Timers) -> None:
        self._home = home
        self._clients = clients
        self._memory = memory
        self._timers = timers
        self._dead = ""
        """HOST:PORT of a node that is being buried."""
        self._owners: dict[str, Client] = {}
        """Those to whom there is a connection, by address."""
        self._calls: dict[str, int] = {}
        """By address: how often an owner whose connection broke was called again, of late."""
        self._draining: set[str] = set()
        """Who has not said that it needs nothing here any more."""
        self._left = 0
        self._drains = 0
        """How often owners were asked to move what they have here."""
        self._drained: Callable[[int], None] | None = None
        self._targets: list[Life] = []
        """To which nodes they move it."""

    def tell(self, address: str, message: Transfer) -> bool:
        """Queue a message to an owner anywhere; False: it is not there."""
        if self._home.path_of(address) is not None:
            return self._clients.send_to(bytes.fromhex(split(address).name), message)
        client = self._reach(address)
        if client is not None:
            self._clients.send(client, message)
        return self.hears(address)

    def watch(self, address: str) -> None:
        """A process of another node owns objects here: they end with it."""
        if self._reach(address) is None and address not in self._calls:
            self._call_later(address, 0)

    def _reach(self, address: str) -> Client | None:
        try:
            client = self._clients.reach(address)
        except OSError:
            return None
        if self._owners.get(address) is not client:
            self._owners[address] = client
            self._memory.back(bytes.fromhex(split(address).name))
            if self._drained is not None:
                self._draining.add(address)
                self._ask_to_drain(client)
        return client

    # -------------------------------------------------------------- their ends

    def lost(self, client: Client) -> None:
        """A connection to another node broke."""
        address = client.address
        if is_daemon(address):
            return
        if self._owners.get(address) is client:
            del self._owners[address]
            self._call_later(address, 0 if client.worker_id else self._calls.get(address, 0))
        elif not self.hears(address):
            self._end(address)

    def _call_later(self, address: str, calls: int) -> None:
        """Call an owner again, which was called so often since it last answered."""
        if calls == len(PAUSES_S) or split(address).node == self._dead:
            self._end(address)
        else:
            self._calls[address] = calls + 1
            self._timers.call_later(PAUSES_S[calls], lambda: self._call(address))

    def _call(self, address: str) -> None:
        if address in self._owners or address not in self._calls:
            return
        if self._reach(address) is None:
            self._call_later(address, self._calls[address])
        else:
            self.transfers.owner_back(address)

    def hears(self, address: str) -> bool:
        """Tell whether there is a connection to an owner, or may soon be: then its objects stay."""
        return address in self._owners or address in self._calls

    def _end(self, address: str) -> None:
        self._calls.pop(address, None)
        self.transfers.owner_lost(address)
        self._memory.lost(bytes.fromhex(split(address).name))
        self._drained_of(address, 0)

    def leave_all(self) -> None:
        """This node was declared dead: owners have made again, or lost, what they had here."""
        known = (*self._owners, *self._calls)
        self._memory.discard_of({bytes.fromhex(split(address).name) for address in known})

    def bury(self, node: str, lose: Callable[[], None]) -> None:
        """The node at HOST:PORT is dead: `lose` its processes, and call none of them again."""
        self._dead = node
        lose()
        for address in [each for each in self._calls if split(each).node == node]:
            self._end(address)
        self._dead = ""
        self.transfers.node_died(node)

    # -------------------------------------------------------------- drain

    def drain(self, targets: list[Life], drained: Callable[[int], None]) -> None:
        """Have what is nowhere else moved to these nodes.

        Call `drained` when no owner needs this node any more, or can have more moved, with the
        number of objects that no node could take.
        """
        self._drained, self._left = drained, 0
        self._drains += 1
        self._targets = targets
        self._draining = {*self._owners, *self._calls}
        for client in self._owners.values():
            self._ask_to_drain(client)
        self._look()

    def _ask_to_drain(self, client: Client) -> None:
        self._clients.send(client, NodeDrains(self.transfers.life, self._targets, self._drains))

    def said_drained(self, client: Client, message: NodeDrained) -> None:
        """An owner needs nothing here any more but for what no node could take."""
        if message.request == self._drains:
            self._drained_of(client.address, message.left)

    def _drained_of(self, address: str, left: int) -> None:
        if address in self._draining:
            self._draining.remove(address)
            self._left += left
            self._look()

    def _look(self) -> None:
        if self._drained is not None and not self._draining:
            drained, self._drained = self._drained, None
            drained(self._left)
