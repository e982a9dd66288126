"""Questions that are asked of all nodes: each daemon answers for its own, this one hands it on.

    tool, driver or worker --AskNodes--> its daemon --Ask--> the other daemons, and itself
                           <--NodeTold--            <--Answer--
                           <--Answer--  when all have answered, or are known to be silent

Nothing is put together here: who asks gets what each node says, as it comes, and who says nothing.
So the daemon keeps no more than the questions, however much the answers are.

What is always true
1. For each node that is asked there is one NodeTold, and after the last of them one Answer.
2. A node that has not answered after `NODES_S` is silent, and nobody waits for it, unless who asks
   is patient; nor for one whose daemon cannot be reached.
3. A daemon that was asked for somebody who is gone is told so.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, NamedTuple, cast

from weft._node.clients import NEIGHBOUR, Client
from weft._transport.addresses import split
from weft._wire.messages import Answer, Ask, AskNodes, AskNoMore, Hello, NodeTold
from weft._wire.version import WIRE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from weft._ids import NodeId
    from weft._node.clients import Clients
    from weft._transport.sockets import SocketConnection
    from weft._transport.timers import Timers
    from weft._wire.messages import Message

# A daemon waits a second for its own processes (rounds.py): who is not stopped answers in time.
NODES_S = 1.6
# Apart from the numbers of what else this daemon asks others.
FIRST_NUMBER = 1 << 32


class NodePlace(NamedTuple):
    """A node that can be asked."""

    node_id: NodeId
    daemon: str
    """The address of its daemon."""

    @property
    def address(self) -> str:
        """HOST:PORT; empty: a machine alone."""
        return "" if self.daemon.startswith("/") else split(self.daemon).node


class OwnConnection:
    """The daemon as its own client: what is said to it comes back at once."""

    closed = False

    def __init__(self, heard: Callable[[Message], None]) -> None:
        self.queue = heard

    def flush(self) -> None:
        """Do nothing: all was heard."""


class _Errand:
    """What one node is asked for somebody."""

    __slots__ = ("bodies", "daemon", "node", "round")

    def __init__(self, asked: _NodeRound, node: NodePlace) -> None:
        self.round = asked
        self.node = node
        self.bodies: list[bytes] = []
        self.daemon: Client | None = None
        """Who is to answer now."""


class _NodeRound:
    """One question of one client."""

    __slots__ = ("client", "message", "missing")

    def __init__(self, client: Client, message: AskNodes) -> None:
        self.client = client
        self.message = message
        self.missing = 0
        """How many nodes have not answered."""


class Everywhere:
    """Asks daemons for clients of this one."""

    def __init__(
        self,
        me: NodeId,
        clients: Clients,
        timers: Timers,
        *,
        nodes: Callable[[], Iterable[NodePlace]],
        ask_here: Callable[[Client, Message], None],
    ) -> None:
        """`nodes` tells which live, this one too; `ask_here` asks this daemon as a client does."""
        self._me = me
        self._clients = clients
        self._timers = timers
        self._nodes = nodes
        self._ask_here = ask_here
        self._own = self._client(self._heard_here)
        self._numbers = count(FIRST_NUMBER)
        self._errand_of: dict[int, _Errand] = {}

    def ask(self, client: Client, message: AskNodes) -> None:
        """A client asks."""
        nodes = [node for node in self._nodes() if message.node_id in (b"", node.node_id)]
        if not nodes:
            words = f"no node {message.node_id.hex()} lives"
            self._clients.send(client, Answer(message.request, error=words))
            return
        asked = _NodeRound(client, message)
        asked.missing = len(nodes)
        errands = [_Errand(asked, node) for node in nodes]
        if not message.is_patient:
            self._timers.call_later(NODES_S, lambda: self._give_up(errands))
        for errand in errands:
            self._send(errand)

    def gather(self, what: str, then: Callable[[list[NodeTold]], None]) -> None:
        """Ask all nodes for this daemon itself; `then` gets what they have said."""
        told: list[NodeTold] = []

        def heard(message: Message) -> None:
            if isinstance(message, NodeTold):
                told.append(message)
            else:
                then(told)

        self.ask(self._client(heard), AskNodes(0, [what]))

    def _client(self, heard: Callable[[Message], None]) -> Client:
        connection = cast("SocketConnection", OwnConnection(heard))
        return Client(connection, Hello(WIRE, self._me, "", 0, NEIGHBOUR))

    def _send(self, errand: _Errand) -> None:
        """Ask a node the next question."""
        number = next(self._numbers)
        message = errand.round.message
        ask = Ask(number, message.whats[len(errand.bodies)], message.body)
        self._errand_of[number] = errand
        if errand.node.node_id == self._me:
            errand.daemon = self._own
            self._ask_here(self._own, ask)
            return
        try:
            errand.daemon = self._clients.reach(errand.node.daemon)
        except OSError as error:
            del self._errand_of[number]
            self._end(errand, silent=f"there is no way to it: {error.strerror}")
            return
        self._clients.send(errand.daemon, ask)

    def _heard_here(self, message: Message) -> None:
        assert isinstance(message, Answer)
        self.take(self._own, message)

    def take(self, daemon: Client, answer: Answer) -> bool:
        """A daemon has answered; False: this was not asked here. One that is late is dropped."""
        errand = self._errand_of.get(answer.request)
        if errand is None or errand.daemon is not daemon:
            return answer.request >= FIRST_NUMBER
        del self._errand_of[answer.request]
        if answer.error:
            self._end(errand, error=answer.error)
            return True
        errand.bodies.append(answer.body)
        if len(errand.bodies) < len(errand.round.message.whats):
            self._send(errand)
        else:
            self._end(errand)
        return True

    def _end(self, errand: _Errand, *, silent: str = "", error: str = "") -> None:
        asked, node = errand.round, errand.node
        request = asked.message.request
        bodies = [] if silent or error else errand.bodies
        told = NodeTold(request, node.node_id, node.address, bodies, silent, error)
        self._clients.send(asked.client, told)
        asked.missing -= 1
        if not asked.missing:
            self._clients.send(asked.client, Answer(request))

    def _give_up(self, errands: list[_Errand]) -> None:
        for errand in self._take_out(lambda errand: errand in errands):
            self._end(errand, silent=f"no answer for {NODES_S:g} s")

    def lost(self, client: Client) -> None:
        """A daemon cannot be reached, or who has asked is gone."""
        for errand in self._take_out(lambda errand: errand.daemon is client):
            self._end(errand, silent="its daemon cannot be reached")
        self._take_out(lambda errand: errand.round.client is client)

    def _take_out(self, is_it: Callable[[_Errand], bool]) -> list[_Errand]:
        """Let go of errands, and tell the daemons that were asked."""
        found = {number: errand for number, errand in self._errand_of.items() if is_it(errand)}
        for number, errand in found.items():
            del self._errand_of[number]
            assert errand.daemon is not None
            if errand.daemon is self._own:
                self._ask_here(self._own, AskNoMore(number))
            elif not errand.daemon.connection.closed:
                self._clients.send(errand.daemon, AskNoMore(number))
        return list(found.values())
