"""What is written for a driver on another node."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from weft._node.far_drivers import UNTAKEN_BYTES, FarDriver
from weft._wire.messages import JobHere, JobOutput

if TYPE_CHECKING:
    from weft._node.clients import Clients
    from weft._wire.messages import Message

THERE = "10.0.0.2:4000/node"


class Wires:
    """Takes what is sent to daemons of other nodes."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.is_cut = False

    def reach(self, address: str) -> str:
        if self.is_cut:
            raise OSError("no way to that host")
        return address

    def send(self, client: str, message: Message) -> None:
        self.sent.append((client, message))


@pytest.fixture
def wires() -> Wires:
    return Wires()


@pytest.fixture
def driver(wires: Wires) -> FarDriver:
    return FarDriver(b"job", THERE, cast("Clients", wires))


def write(driver: FarDriver, data: bytes) -> None:
    driver.show(b"worker", 7, "f", data, is_stderr=True)


def test_what_is_written_goes_to_the_daemon_of_the_driver(wires: Wires, driver: FarDriver) -> None:
    write(driver, b"words\n")
    assert wires.sent == [(THERE, JobOutput(b"job", b"worker", 7, "f", True, b"words\n"))]
    assert not driver.is_behind()


def test_driver_is_behind_until_enough_was_taken(driver: FarDriver) -> None:
    told: list[str] = []
    while not driver.is_behind():
        write(driver, bytes(UNTAKEN_BYTES // 4))
    driver.when_it_has_read(lambda: told.append("it has"))
    assert told == []
    for _ in range(2):
        driver.taken(UNTAKEN_BYTES // 4)
        assert told == ["it has"], "once"
    driver.taken(UNTAKEN_BYTES * 2)
    assert not driver.is_behind()


@pytest.mark.parametrize("how", ["unreachable", "close"])
def test_nobody_waits_for_a_driver_that_cannot_be_reached(driver: FarDriver, how: str) -> None:
    told: list[str] = []
    write(driver, bytes(UNTAKEN_BYTES))
    driver.when_it_has_read(lambda: told.append("on"))
    getattr(driver, how)()
    assert told == ["on"]
    assert not driver.is_behind()


def test_what_is_written_is_dropped_where_there_is_no_way(wires: Wires, driver: FarDriver) -> None:
    wires.is_cut = True
    write(driver, bytes(UNTAKEN_BYTES))
    assert not driver.is_behind()
    wires.is_cut = False
    write(driver, b"again")
    assert len(wires.sent) == 1


def test_driver_hears_once_that_workers_are_here_and_again_over_another_connection(
    wires: Wires, driver: FarDriver
) -> None:
    here = (THERE, JobHere(b"job"))
    wires.is_cut = True
    driver.announce()
    wires.is_cut = False
    for _ in range(2):
        driver.announce()
    assert wires.sent == [here]
    driver.unreachable()
    driver.announce()
    assert wires.sent == [here, here]


def test_who_waits_for_a_driver_to_hear_goes_on_when_it_has_or_cannot(
    wires: Wires, driver: FarDriver
) -> None:
    told: list[str] = []
    assert not driver.is_awaited()
    for way in (driver.heard, driver.unreachable):
        driver.announce()
        assert driver.is_awaited()
        driver.when_heard(lambda: told.append("on"))
        way()
        way()
        assert not driver.is_awaited()
        driver.unreachable()
    assert told == ["on", "on"], "once each"
    wires.is_cut = True
    driver.announce()
    assert not driver.is_awaited()
