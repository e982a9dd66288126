"""Processes of other nodes to which the connection broke; what carries messages is a stand-in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from weft._machines.ownership import OwnerMetAgain, PeerLost, PeerParted
from weft._runtime import partings as partings_module
from weft._runtime.partings import DEAD_KEPT, PATIENCE_S, PAUSES_S, Partings
from weft._transport.addresses import Home
from weft._wire.messages import CheckNode, CheckWorker, NodeLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._runtime.peers import Peer

HERE, THERE = "127.0.0.1:1", "127.0.0.1:2"
OTHER, DAEMON = f"{THERE}/0a", f"{THERE}/node"
ASKED = (DAEMON, CheckWorker(b"\x0a"))
UNREACHABLE = f"it was not to be reached for {PATIENCE_S:g} s"


class Surroundings:
    """Notes what is asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[Any] = []
        self.now = 100.0
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.by_address: dict[str, Any] = {}
        self.no_way: set[str] = set()
        self.owners: set[str] = set()
        self.borrowers: list[Any] = []
        self.checked: list[str] = []
        mine = cast("Any", self)
        self.loop = SimpleNamespace(nudge=lambda: None)
        self.home = Home("/s", HERE)
        self.objects = self.peers = self.machine = mine
        monkeypatch.setattr(partings_module, "monotonic", lambda: self.now)
        self.partings = Partings(mine, mine)

    # As timers.

    def call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        self.later.append((self.now + delay_s, function))

    def ring(self) -> float:
        """Let the time come for what is due first; return how long that took."""
        self.later.sort(key=lambda each: each[0])
        at, function = self.later.pop(0)
        passed_s, self.now = at - self.now, at
        function()
        return passed_s

    # As objects, and their table.

    def handle(self, event: Any) -> None:
        self.log.append(event)
        if isinstance(event, PeerLost):
            self.borrowers.remove(event.peer)

    def owner_lost(self, address: str, why: str) -> None:
        self.owners.discard(address)
        self.log.append(("lost", address, why))

    def borrows_from(self, address: str) -> bool:
        return address in self.owners

    def lends_to(self, peer: Any) -> bool:
        return peer in self.borrowers

    def tell_daemon(self, message: CheckNode) -> None:
        self.checked.append(message.node)

    # As peers.

    def peer(self, address: str = OTHER, *, role: str = "worker", is_far: bool = True) -> Peer:
        return cast("Any", SimpleNamespace(address=address, role=role, is_far=is_far))

    def connect(self, address: str) -> Peer | None:
        if address in self.no_way:
            return None
        if address not in self.by_address:
            self.by_address[address] = self.peer(address, role="")
            if address != DAEMON:
                self.log.append(("called", address))
        return cast("Peer", self.by_address[address])

    def send(self, peer: Peer, message: Any) -> None:
        self.log.append((peer.address, message))

    def lose(self, peer: Peer, cause: str) -> None:
        self.log.append(("closed", cause))
        del self.by_address[peer.address]

    def breaks(self) -> bool:
        """The newest connection is lost."""
        return self.partings.part(self.by_address.pop(OTHER))

    def taken(self) -> list[Any]:
        """Return what was noted since the last time."""
        taken, self.log = self.log, []
        return taken


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    return Surroundings(monkeypatch)


@pytest.fixture
def owner(around: Surroundings) -> Peer:
    """One that owns what is needed here, just parted."""
    around.owners.add(OTHER)
    peer = around.peer()
    assert around.partings.part(peer)
    assert around.taken() == [PeerParted(peer)]
    return peer


@pytest.fixture
def borrower(around: Surroundings) -> Peer:
    """One that needs what is owned here, just parted."""
    peer = around.peer()
    around.borrowers.append(peer)
    assert around.partings.part(peer)
    assert around.taken() == [PeerParted(peer)]
    return peer


CALLED = [ASKED, ("called", OTHER), OwnerMetAgain(OTHER)]


def test_owner_is_called_at_once_and_hears_all_again(around: Surroundings, owner: Peer) -> None:
    assert around.ring() == 0.0
    assert around.taken() == CALLED
    around.by_address[OTHER].role = "worker"
    around.ring()
    assert not around.taken()
    around.ring()
    assert not around.taken()
    assert not around.later, "all is as before"


def test_owner_that_does_not_answer_is_called_until_patience_ends(
    around: Surroundings, owner: Peer
) -> None:
    began = around.now
    pauses: list[float] = []
    while around.now < began + PATIENCE_S:
        pauses.append(around.ring())
        around.taken()
        if around.now < began + PATIENCE_S:
            assert around.breaks()
    steps = len(PAUSES_S)
    assert pauses[:steps] == pytest.approx(PAUSES_S)
    assert not around.owners
    assert around.by_address.keys() <= {DAEMON}


def test_connection_that_does_not_come_about_is_given_up(around: Surroundings, owner: Peer) -> None:
    around.ring()
    assert around.taken() == CALLED
    while around.owners:
        assert around.taken() in ([], [ASKED])
        around.ring()
    assert around.taken()[-2:] == [("lost", OTHER, UNREACHABLE), ("closed", UNREACHABLE)]


def test_what_is_said_to_an_owner_comes_after_what_it_has_missed(
    around: Surroundings, owner: Peer
) -> None:
    again = around.connect(OTHER)
    assert again is not None
    around.taken()
    for _ in range(2):
        around.partings.met(OTHER, again)
    assert around.taken() == [OwnerMetAgain(OTHER)]
    around.partings.met("127.0.0.1:3/0b", again)
    assert not around.taken()


def test_owner_to_whom_there_is_no_way_is_waited_for(around: Surroundings) -> None:
    around.owners.add(OTHER)
    around.no_way = {OTHER, DAEMON}
    assert not around.partings.wait_for(f"{HERE}/0b"), "of this node: it has ended"
    for _ in range(2):
        assert around.partings.wait_for(OTHER)
    around.ring()
    assert not around.taken()
    around.no_way.clear()
    around.ring()
    assert around.taken() == CALLED


def test_owner_of_what_nobody_needs_any_more_is_left_alone(
    around: Surroundings, owner: Peer
) -> None:
    around.owners.clear()
    around.ring()
    assert not around.taken()


def test_borrower_borrows_until_it_has_borrowed_again(around: Surroundings, borrower: Peer) -> None:
    around.ring()
    assert around.taken() == [ASKED], "it calls by itself"
    around.partings.borrows_again(around.peer())
    assert around.taken() == [PeerLost(borrower)]
    around.partings.borrows_again(around.peer())
    around.ring()
    around.partings.borrows_again(around.peer())
    assert not around.taken()


def test_borrower_that_stays_away_is_given_up(around: Surroundings, borrower: Peer) -> None:
    while borrower in around.borrowers:
        around.ring()
    assert around.taken()[-2:] == [PeerLost(borrower), ("lost", OTHER, UNREACHABLE)]


def test_owner_that_is_back_may_still_have_to_borrow(around: Surroundings, borrower: Peer) -> None:
    around.owners.add(OTHER)
    around.ring()
    around.by_address[OTHER].role = "worker"
    while borrower in around.borrowers:
        around.ring()
    assert around.taken()[-1] == PeerLost(borrower)
    assert around.owners == {OTHER}


def test_process_that_has_ended_is_gone(around: Surroundings, owner: Peer) -> None:
    around.partings.ended(b"\x0b")
    assert not around.taken()
    around.partings.ended(b"\x0a")
    assert around.taken() == [("lost", OTHER, "")]
    around.ring()
    around.ring()
    assert not around.taken()
    assert not around.later


def test_processes_of_a_dead_node_are_gone(around: Surroundings, owner: Peer) -> None:
    around.owners.add(f"{THERE}/0b")
    said: list[bool] = []
    other = around.peer(f"{THERE}/0b")
    around.partings.bury(THERE, "how", lambda: said.append(around.partings.part(other)))
    assert said == [False]
    assert around.partings.why_lost(f"{THERE}/0c") == "how"
    assert not around.partings.why_lost("127.0.0.1:3/0c")
    assert around.taken() == [("lost", OTHER, "how")]
    around.owners.add(OTHER)
    assert not around.partings.part(around.peer(role="")), "it is known to be dead"
    assert around.partings.part(around.peer()), "another node has its port"
    for number in range(DEAD_KEPT + 1):
        around.partings.bury(f"127.0.0.1:{number}", "how", list)
    assert around.partings.wait_for(f"{THERE}/0c") is False
    assert around.partings.wait_for("127.0.0.1:0/0c") is True, "that is too long ago"


def test_node_that_is_called_is_asked_about_once_until_it_dies(around: Surroundings) -> None:
    around.partings.met(f"{HERE}/0b", around.peer(f"{HERE}/0b", role="", is_far=False))
    around.partings.met(OTHER, around.peer())
    assert not around.checked, "it is of this node, or has answered"
    for name in ("0a", "0b"):
        around.partings.met(f"{THERE}/{name}", around.peer(f"{THERE}/{name}", role=""))
    assert around.checked == [THERE]
    around.partings.bury(THERE, "how", list)
    around.partings.met(OTHER, around.peer(role=""))
    assert around.checked == [THERE] * 2
    around.partings.wait_for("127.0.0.1:3/0a")
    assert around.checked[2:] == ["127.0.0.1:3"], "there is no way to it"


def test_death_of_a_node_is_said_in_words() -> None:
    lost = NodeLost(b"\x0a", DAEMON, "it was silent")
    assert partings_module.died_in_words(lost) == "its node 0a died (it was silent)"


def test_end_of_a_connection_on_which_nothing_hangs_is_no_parting(around: Surroundings) -> None:
    assert not around.partings.part(around.peer())
    around.owners |= {OTHER, "", DAEMON}
    for peer in (around.peer(is_far=False), around.peer(""), around.peer(DAEMON)):
        assert not around.partings.part(peer)
    assert not around.later
