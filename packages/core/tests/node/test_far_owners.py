"""Owners on other nodes, with stand-ins for what carries messages to them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from weft._node.far_owners import PAUSES_S, FarOwners
from weft._transport.addresses import Home
from weft._wire.messages import NodeDrained, NodeDrains, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.clients import Client

HERE, THERE = "127.0.0.1:1", "127.0.0.1:2"
OWNER, OTHER = f"{THERE}/0a", f"{THERE}/0b"
LIFE = (b"here", 3, HERE)
SAID = Transfer(b"said")


class Surroundings:
    """Notes what is asked of them."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.life = LIFE
        self.unreachable: set[str] = set()
        self.later: list[tuple[float, Callable[[], None]]] = []
        mine = cast("Any", self)
        self.owners = FarOwners(Home("/s", HERE), mine, mine, mine)
        self.owners.transfers = cast("Any", self)

    # As clients.

    def reach(self, address: str) -> Client:
        if address in self.unreachable:
            raise OSError("no way")
        self.log.append(("reach", address))
        return cast("Any", SimpleNamespace(address=address, worker_id=b""))

    def send(self, client: Client, message: object) -> None:
        self.log.append((client.address, message))

    def send_to(self, client: bytes, message: object) -> bool:
        self.log.append((client, message))
        return True

    # As timers.

    def call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        self.later.append((delay_s, function))

    def ring(self) -> None:
        """Let the time come for what is due first."""
        self.later.pop(0)[1]()

    # As transfers, and memory.

    def owner_lost(self, address: str) -> None:
        self.log.append(("lost", address))

    def owner_back(self, address: str) -> None:
        self.log.append(("back", address))

    def node_died(self, address: str) -> None:
        self.log.append(("died", address))

    def lost(self, client: bytes) -> None:
        self.log.append(("freed", client))

    def back(self, client: bytes) -> None:
        self.log.append(("known", client))

    def taken(self) -> list[Any]:
        """Return what was noted since the last time."""
        taken, self.log = self.log, []
        return taken

    def client_of(self, address: str, *, answers: bool = True) -> Client:
        """Return the connection to an owner that is watched."""
        client = self.owners._owners[address]
        if answers:
            client.worker_id = b"\x0a"
        return client


@pytest.fixture
def around() -> Surroundings:
    return Surroundings()


def test_owner_of_this_node_is_told_over_its_own_connection(around: Surroundings) -> None:
    assert around.owners.tell(f"{HERE}/0a", SAID)
    assert around.taken() == [(b"\x0a", SAID)]


def test_owner_elsewhere_is_called(around: Surroundings) -> None:
    assert around.owners.tell(OWNER, SAID)
    assert around.taken() == [("reach", OWNER), ("known", b"\x0a"), (OWNER, SAID)]
    around.unreachable.add(OTHER)
    assert not around.owners.tell(OTHER, SAID)


def test_objects_of_an_owner_to_whom_there_is_no_way_end(around: Surroundings) -> None:
    around.unreachable.add(OWNER)
    around.owners.watch(OWNER)
    around.owners.watch(OWNER)
    for pause_s in PAUSES_S:
        assert around.owners.tell(OWNER, SAID)  # When it is back it is told what it did not hear.
        assert [delay_s for delay_s, _ in around.later] == [pause_s]
        assert not around.taken()
        around.ring()
    assert around.taken() == [("lost", OWNER), ("freed", b"\x0a")]
    assert not around.later


def test_owner_that_does_not_answer_any_more_is_called_again_for_a_while(
    around: Surroundings,
) -> None:
    around.owners.watch(OWNER)
    around.taken()
    around.owners.lost(around.client_of(OWNER))
    for _ in PAUSES_S:
        assert not around.taken()
        around.ring()
        assert around.taken() == [("reach", OWNER), ("known", b"\x0a"), ("back", OWNER)]
        around.owners.lost(around.client_of(OWNER, answers=False))
    assert around.taken() == [("lost", OWNER), ("freed", b"\x0a")]
    assert not around.later


def test_owner_that_has_answered_is_called_as_often_again(around: Surroundings) -> None:
    around.owners.watch(OWNER)
    for _ in range(2 * len(PAUSES_S)):
        around.owners.lost(around.client_of(OWNER))
        around.ring()
    assert ("lost", OWNER) not in around.taken()


def test_owner_that_was_reached_meanwhile_is_not_called_again(around: Surroundings) -> None:
    around.owners.watch(OWNER)
    around.owners.lost(around.client_of(OWNER))
    assert around.owners.tell(OWNER, SAID)
    around.taken()
    around.ring()
    assert not around.taken()


def test_owner_that_waits_for_a_call_ends_with_its_node(around: Surroundings) -> None:
    around.owners.watch(OWNER)
    around.owners.lost(around.client_of(OWNER))
    around.taken()
    around.owners.bury(THERE, lambda: None)
    around.ring()
    assert around.taken() == [("lost", OWNER), ("freed", b"\x0a"), ("died", THERE)]


def test_owner_of_a_dead_node_is_not_called_again(around: Surroundings) -> None:
    around.owners.watch(OWNER)
    around.taken()
    client = around.client_of(OWNER)
    around.owners.bury(THERE, lambda: around.owners.lost(client))
    assert around.taken() == [("lost", OWNER), ("freed", b"\x0a"), ("died", THERE)]


def test_end_of_another_daemon_is_no_owners(around: Surroundings) -> None:
    around.owners.lost(cast("Any", SimpleNamespace(address=f"{THERE}/node", worker_id=b"n")))
    assert not around.taken()


def test_caller_that_ends_frees_nothing_while_its_owner_can_be_heard(
    around: Surroundings,
) -> None:
    around.owners.watch(OWNER)
    around.taken()
    around.owners.lost(cast("Any", SimpleNamespace(address=OWNER, worker_id=b"\x0a")))
    assert not around.taken()


def test_drain_ends_with_the_last_owner_that_needs_something(around: Surroundings) -> None:
    for address in (OWNER, OTHER):
        around.owners.watch(address)
    around.taken()
    ended: list[int] = []
    targets = [(b"there", 1, THERE)]
    around.owners.drain(targets, ended.append)
    drains = NodeDrains(LIFE, targets, 1)
    assert around.taken() == [(OWNER, drains), (OTHER, drains)]
    around.owners.said_drained(around.client_of(OWNER), NodeDrained(0, 9))  # It was asked before.
    around.owners.said_drained(around.client_of(OWNER), NodeDrained(1, 2))
    assert not ended
    around.owners.bury(THERE, lambda: around.owners.lost(around.client_of(OTHER)))
    assert ended == [2]


def test_drain_waits_for_an_owner_that_is_called_again(around: Surroundings) -> None:
    for address in (OWNER, OTHER):
        around.owners.watch(address)
    around.owners.lost(around.client_of(OWNER))
    around.taken()
    ended: list[int] = []
    around.owners.drain([], ended.append)
    drains = NodeDrains(LIFE, [], 1)
    assert around.taken() == [(OTHER, drains)]
    around.owners.said_drained(around.client_of(OTHER), NodeDrained(1, 0))
    assert not ended
    around.ring()
    assert (OWNER, drains) in around.taken()
    # What it was asked may be lost with the connection.
    around.owners.lost(around.client_of(OWNER))
    around.ring()
    assert (OWNER, drains) in around.taken()
    around.owners.said_drained(around.client_of(OWNER), NodeDrained(1, 3))
    assert ended == [3]
    around.owners.lost(around.client_of(OWNER))
    around.ring()
    assert (OWNER, drains) not in around.taken()


def test_drain_without_owners_is_over_at_once(around: Surroundings) -> None:
    ended: list[int] = []
    around.owners.drain([], ended.append)
    assert ended == [0]
