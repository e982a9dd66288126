"""Actors of other nodes to which the connection broke: have they ended, or is it the network?

Their daemons are asked. If an actor has ended, the directory will say so; if it is there, the call
goes on. A daemon that cannot be reached either is asked again until it can be, or the directory
says that its node is dead.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from weft._ids import WorkerId
from weft._machines.calls import LivesOn
from weft._transport.addresses import daemon_of, process_of
from weft._wire.messages import CheckWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._ids import ActorId
    from weft._machines.calls import Calls
    from weft._runtime.links import Links
    from weft._runtime.peers import Peer
    from weft._transport.timers import Timers
    from weft._wire.messages import WorkerLives

AGAIN_S = 1.0


class Checking:
    """Asks after them. Inside the guard."""

    def __init__(
        self, links: Links, timers: Timers, machine: Calls, handle: Callable[[LivesOn], None]
    ) -> None:
        self._links = links
        self._timers = timers
        self._machine = machine
        self._handle = handle
        self._asked: dict[WorkerId, tuple[ActorId, str]] = {}

    def begin(self, actor: ActorId, address: str) -> None:
        """Find out about an actor that cannot be reached.

        A process of this node that cannot be reached has ended.
        """
        if self._links.home.path_of(address) is not None:
            return
        if not self._machine.is_cut_off(actor, address):
            return
        worker = WorkerId(process_of(address))
        daemon = self._links.peers.connect(daemon_of(address))
        if daemon is None:
            self._begin_again(actor, address)
        else:
            self._asked[worker] = (actor, address)
            self._links.peers.send(daemon, CheckWorker(worker))

    def _begin_again(self, actor: ActorId, address: str) -> None:
        self._timers.call_later(AGAIN_S, partial(self.begin, actor, address))

    def ended(self, worker: WorkerId) -> None:
        """A worker has ended."""
        self._asked.pop(worker, None)

    def daemon_lost(self, daemon: Peer) -> None:
        """What another node's daemon was asked it does not answer."""
        for worker, (actor, address) in list(self._asked.items()):
            if daemon_of(address) == daemon.address:
                del self._asked[worker]
                self._begin_again(actor, address)

    def on_worker_lives(self, peer: Peer, message: WorkerLives) -> None:
        asked = self._asked.pop(WorkerId(message.worker_id), None)
        if asked is not None:
            self._handle(LivesOn(*asked))
