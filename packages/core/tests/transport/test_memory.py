from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from weft._override import override
from weft._transport.memory import MemoryConnection, MemoryNetwork
from weft._wire.messages import Export
from weft.testing.transport_suite import End, TransportSuite, numbered, send

if TYPE_CHECKING:
    from weft._transport.base import Connection


class TestMemoryTransport(TransportSuite):
    @override
    def connect(self, first: End, second: End) -> tuple[Connection, Connection]:
        self.network = MemoryNetwork()
        return self.network.connect(first.receive, first.lost, second.receive, second.lost)

    @override
    def move(self) -> None:
        self.network.deliver()


class Pair:
    def __init__(self, network: MemoryNetwork) -> None:
        self.first, self.second = End(), End()
        self.near, self.far = network.connect(
            self.first.receive, self.first.lost, self.second.receive, self.second.lost
        )


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
def pair(network: MemoryNetwork) -> Pair:
    return Pair(network)


def test_nothing_arrives_by_itself(network: MemoryNetwork, pair: Pair) -> None:
    send(pair.near, numbered(0, 1))
    assert pair.second.log == []
    assert network.deliver()
    assert pair.second.log == numbered(0, 1)
    assert not network.deliver()


def test_delay_holds_messages_back_until_their_time(network: MemoryNetwork, pair: Pair) -> None:
    pair.near.delay_s = 2.0
    send(pair.near, numbered(0, 1))
    assert network.next_at == 2.0
    assert not network.deliver(until=1.9)
    assert network.deliver(until=2.0)
    assert (network.now, network.next_at) == (2.0, None)


def test_delay_is_of_one_direction(network: MemoryNetwork, pair: Pair) -> None:
    pair.near.delay_s = 2.0
    send(pair.far, numbered(0, 1))
    network.deliver(until=0.0)
    assert pair.first.log == numbered(0, 1)


def test_shorter_delay_lets_nothing_overtake(network: MemoryNetwork, pair: Pair) -> None:
    pair.near.delay_s = 2.0
    send(pair.near, numbered(0, 1))
    pair.near.delay_s = 0.0
    send(pair.near, numbered(1, 2))
    network.deliver(until=1.0)
    assert pair.second.log == []
    network.deliver()
    assert pair.second.log == numbered(0, 2)


def test_time_does_not_run_backwards(network: MemoryNetwork) -> None:
    network.deliver(until=5.0)
    network.deliver(until=3.0)
    assert network.now == 5.0


def test_connections_are_served_in_the_order_of_sending(network: MemoryNetwork) -> None:
    order: list[int] = []
    pairs = [Pair(network) for _ in range(3)]
    for number in (2, 0, 1):
        pairs[number].second.on_receive = lambda _connection, _news, n=number: order.append(n)
        send(pairs[number].near, numbered(0, 1))
    network.deliver()
    assert order == [2, 0, 1]


def test_held_connection_sends_when_it_is_let_go(network: MemoryNetwork, pair: Pair) -> None:
    pair.near.is_held = True
    send(pair.near, numbered(0, 1))
    send(pair.near, numbered(1, 2))
    assert pair.near.is_held
    assert not network.deliver()
    pair.near.is_held = False
    network.deliver()
    assert pair.second.log == numbered(0, 2)


def test_held_connection_holds_its_end_too(network: MemoryNetwork, pair: Pair) -> None:
    pair.near.is_held = True
    send(pair.near, numbered(0, 1))
    pair.near.close()
    network.deliver()
    assert pair.second.log == []
    pair.near.is_held = False
    network.deliver()
    assert pair.second.log == [*numbered(0, 1), "the peer closed the connection"]


def test_cut_loses_what_is_on_its_way_and_tells_both_ends(
    network: MemoryNetwork, pair: Pair
) -> None:
    send(pair.near, numbered(0, 1))
    network.deliver()
    send(pair.near, numbered(1, 2))
    send(pair.far, numbered(2, 3))
    pair.near.cut()
    assert not pair.near.closed
    network.deliver()
    assert pair.second.log == [*numbered(0, 1), "the connection was cut"]
    assert pair.first.log == ["the connection was cut"]
    assert pair.near.closed
    assert pair.far.closed


def test_cut_loses_what_is_held(network: MemoryNetwork, pair: Pair) -> None:
    pair.near.is_held = True
    send(pair.near, numbered(0, 1))
    pair.far.cut("gone")
    pair.near.is_held = False
    network.deliver()
    assert pair.second.log == ["gone"]


def test_cut_is_told_once(network: MemoryNetwork, pair: Pair) -> None:
    pair.near.cut("first")
    pair.near.cut("second")
    network.deliver()
    assert (pair.first.log, pair.second.log) == (["second"], ["second"])


def test_queue_can_be_counted(pair: Pair) -> None:
    pair.near.queue(numbered(0, 1)[0])
    assert pair.near.queued == 1
    pair.near.flush()
    assert pair.near.queued == 0


def test_what_cannot_travel_between_processes_cannot_travel_here(pair: Pair) -> None:
    with pytest.raises(TypeError):
        send(pair.near, [Export(b"", "", object())])  # type: ignore[arg-type]


def test_ends_know_each_other_only_through_the_network(network: MemoryNetwork) -> None:
    """A handler that closes the other end's connection is as free as any."""
    pair = Pair(network)

    def close_both(connection: MemoryConnection, _news: object) -> None:
        connection.close()
        pair.near.close()

    pair.second.on_receive = close_both
    send(pair.near, numbered(0, 1))
    send(pair.near, numbered(1, 2))
    network.deliver()
    assert pair.second.log == numbered(0, 1)
    assert pair.first.log == []
