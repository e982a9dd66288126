"""Daemons' shells in one process, with real stores and real TLS between them; the test is owner."""

from __future__ import annotations

import os
import socket
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from weft._clock import monotonic
from weft._machines.places import (
    ObjectEnded,
    OriginalMade,
    Places,
    PlacesDied,
    PlacesLost,
    TellNode,
)
from weft._node import object_links
from weft._node import transfers as shells
from weft._node.memory import NodeMemory
from weft._node.transfers import NodeTransfers
from weft._store.chunks import Arrival, ChunkFile
from weft._store.shared_memory import size_class
from weft._store.spill import SpillError
from weft._transport.addresses import OBJECTS, SUFFIX
from weft._transport.arrivals import Arrivals
from weft._transport.credentials import make_credentials
from weft._transport.gate import Gate, listen
from weft._transport.outside import Outside
from weft._transport.sockets import Poller
from weft._transport.timers import Timers
from weft._wire.messages import (
    AskLoan,
    Blocked,
    Hello,
    Loan,
    MadeSegment,
    Restored,
    SegmentsMade,
    Transfer,
)
from weft._wire.transfers import (
    CHUNK_BYTES,
    BeginCopy,
    Chunk,
    CopyHere,
    Edition,
    EndWant,
    NodeLife,
    RejectCopy,
    WantCopy,
    pack_transfer,
    unpack_transfer,
)
from weft._wire.version import WIRE
from weft.exceptions import ProtocolError, StoreFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from weft._machines import places
    from weft._wire.messages import Message

OWNER = "127.0.0.1:1/00"
BUDGET = 128 << 20
SIZE = 2 * CHUNK_BYTES + 1000
END_S = 20.0
CREATOR, READER = b"c" * 16, b"r" * 16


class World:
    """The nodes, and the owner of all objects, which is on none of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = Places(OWNER)
        self.nodes: list[Node] = []
        self.lost: list[tuple[Edition, str]] = []
        self._said: deque[Any] = deque()
        self._made = 0

    def tell_owner(self, event: places.Event) -> None:
        self._said.append(event)

    def step(self) -> None:
        for node in self.nodes:
            node.step()
        while self._said:
            for effect in self.places.handle(self._said.popleft(), 0.0):
                match effect:
                    case TellNode(life, message):
                        for node in self.nodes:
                            if node.life == life:
                                node.hear_owner(Transfer(pack_transfer(message)))
                    case PlacesLost(edition, reason):
                        self.lost.append((edition, reason))

    def run(self, until: Callable[[], object]) -> None:
        end = monotonic() + END_S
        while not until():
            assert monotonic() < end, "it does not come to that"
            self.step()

    def make(self, node: Node, size_bytes: int = SIZE) -> tuple[Edition, bytes]:
        """Let a process of a node make an object; return it and its bytes."""
        self._made += 1
        content = os.urandom(size_bytes)
        name = node.make(content)
        edition = Edition(b"object %d" % self._made, name)
        self.tell_owner(OriginalMade(edition, size_bytes, node.life))
        return edition, content


class Node:
    """One daemon, as far as objects go."""

    def __init__(self, world: World, number: int) -> None:
        folder = world.folder / f"node{number}"
        self.store_dir = folder / "store"
        self.store_dir.mkdir(parents=True)
        self.world = world
        self.told: list[Message] = []
        """What the reader was told."""
        self._loans: list[Loan] = []
        self.poller, self.timers = Poller(), Timers()
        self.outside = Outside(self.poller, self.timers, str(world.folder / "credentials"))
        self.gate = Gate(self.poller, listen("127.0.0.1"), Arrivals(self.timers.call_later))
        files = SimpleNamespace(session_dir=str(folder), store_dir=str(self.store_dir))
        self.memory = NodeMemory(
            cast("Any", files), BUDGET, cast("Any", self), self.poller, self.timers
        )
        address = f"127.0.0.1:{self.gate.port}"
        self.transfers = NodeTransfers(
            (b"node" * 3 + b"%04d" % number, 1, address),
            self.memory,
            self.outside,
            store_dir=str(self.store_dir),
            tell_client=self.send_to,
            tell_owner=self._tell_owner,
        )
        self.gate.takers[OBJECTS + SUFFIX] = self.transfers.accept
        for client in (CREATOR, READER):
            self.memory.met(client)
        self._requests = self._names = 0

    @property
    def life(self) -> NodeLife:
        return NodeLife(*self.transfers.life)

    def send_to(self, client: bytes, message: Message) -> bool:
        if isinstance(message, Loan):
            self._loans.append(message)
        else:
            self.told.append(message)
        return True

    def _tell_owner(self, address: str, message: Transfer) -> bool:
        assert address == OWNER
        self.world.tell_owner(cast("Any", unpack_transfer(message.body)))
        return True

    def hear_owner(self, message: Transfer) -> None:
        self.transfers.said(b"", OWNER, message)

    def step(self) -> None:
        self.poller.poll(self.timers.sleep_s(monotonic() + 0.001))
        self.timers.ring()
        self.memory.tick()
        self.transfers.tick()
        self.transfers.flush()

    def make(self, content: bytes) -> str:
        size_bytes = size_class(len(content))
        self.memory.said(CREATOR, AskLoan(1, size_bytes))
        assert self._loans.pop().size_bytes >= size_bytes
        self._names += 1
        name = f"{CREATOR.hex()}-{self._names}"
        with (self.store_dir / name).open("wb") as file:
            file.write(content)
            file.truncate(size_bytes)
        made = MadeSegment(name, size_bytes, len(content), CREATOR, "a test", "", False)
        self.memory.said(CREATOR, SegmentsMade([made]))
        return name

    def say(self, message: Any) -> None:
        self.transfers.said(READER, "", Transfer(pack_transfer(message)))

    def want(self, edition: Edition, size_bytes: int = SIZE) -> int:
        self._requests += 1
        self.say(WantCopy(edition, size_bytes, OWNER, 0, self._requests))
        return self._requests

    def answer(self) -> CopyHere:
        """Return the answer to the last want, when it is there."""
        found: list[CopyHere] = []

        def look() -> bool:
            for message in self.told:
                if isinstance(message, Transfer):
                    here = unpack_transfer(message.body)
                    if isinstance(here, CopyHere) and here.request == self._requests:
                        found.append(here)
            return bool(found)

        self.world.run(look)
        return found[0]

    def read(self, here: CopyHere) -> bytes:
        assert Restored(here.request) in self.told
        return (self.store_dir / here.name).read_bytes()

    def files(self) -> list[str]:
        """Return what is in the store, but for what the creator has made."""
        return [
            path.name
            for path in self.store_dir.iterdir()
            if not path.name.startswith(CREATOR.hex())
        ]

    def close(self) -> None:
        self.transfers.close()
        self.gate.close()
        self.memory.close()
        self.poller.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("WEFT_CHECK", "1")
    monkeypatch.setenv("WEFT_SPILL", str(tmp_path / "disk"))
    make_credentials(tmp_path / "credentials")
    made = World(tmp_path)
    made.nodes += [Node(made, number) for number in range(3)]
    yield made
    for node in made.nodes:
        node.close()


def lent_bytes(node: Node) -> int:
    """Return what the store has lent to the daemon itself, for an object that is on its way."""
    return node.memory.machine._table.account(node.life.node_id).lent_bytes


def test_copy_has_the_bytes_and_ends_with_its_object(world: World) -> None:
    there, here, _ = world.nodes
    edition, content = world.make(there)
    here.want(edition)
    copy = here.answer()
    assert here.read(copy)[:SIZE] == content
    assert here.memory.machine.facts(copy.name) is not None
    assert lent_bytes(here) == 0
    # Another who asks is answered at once.
    here.want(edition)
    assert here.answer().name == copy.name
    world.tell_owner(ObjectEnded(edition, "the test"))
    world.run(lambda: not here.files() and not here.transfers._open)


def test_copy_is_given_on_while_it_comes_and_when_it_is_whole(world: World) -> None:
    first, second, third = world.nodes
    edition, content = world.make(first, 10 * CHUNK_BYTES)
    for node in (second, third):
        node.want(edition, 10 * CHUNK_BYTES)
    for node in (second, third):
        assert node.read(node.answer())[: len(content)] == content
    world.tell_owner(PlacesDied(first.life, "the test"))
    world.run(lambda: [kind for _, kind in world.places.places(edition)] == ["kept", "whole"])


def test_who_does_not_want_it_any_more_is_told_so(world: World) -> None:
    there, here, _ = world.nodes
    edition, _ = world.make(there)
    request = here.want(edition)
    here.say(EndWant(edition, request))
    answer = here.answer()
    assert (answer.name, answer.failure) == ("", "ended")
    world.run(lambda: not here.files() and not lent_bytes(here))


def test_reader_that_ends_wants_nothing(world: World) -> None:
    there, here, _ = world.nodes
    edition, _ = world.make(there)
    here.want(edition)
    here.transfers.client_lost(READER)
    world.run(lambda: not here.files() and not lent_bytes(here))


def test_file_that_cannot_be_made_fails_the_copy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here, _ = world.nodes
    edition, _ = world.make(there)

    def fails(*_arguments: Any, **_keywords: Any) -> None:
        raise StoreFullError("no inodes")

    monkeypatch.setattr(shells, "Arrival", fails)
    here.want(edition)
    answer = here.answer()
    assert (answer.name, answer.failure, answer.reason) == ("", "failed", "no inodes")
    assert not lent_bytes(here)


def test_chunk_that_cannot_be_written_fails_the_copy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here, _ = world.nodes
    edition, _ = world.make(there)

    def fails(*_arguments: Any) -> None:
        raise StoreFullError("the memory is full")

    monkeypatch.setattr(Arrival, "write", fails)
    here.want(edition)
    answer = here.answer()
    assert (answer.failure, answer.reason) == ("failed", "the memory is full")
    assert not here.files()
    assert not lent_bytes(here)
    monkeypatch.undo()
    here.want(edition)
    assert here.answer().name


def test_original_whose_file_is_gone_is_lost(world: World) -> None:
    there, here, _ = world.nodes
    edition, _ = world.make(there)
    (there.store_dir / edition.segment).unlink()
    here.want(edition)
    answer = here.answer()
    assert answer.failure == "gone"
    assert "No such file" in answer.reason
    assert [lost for lost, _ in world.lost] == [edition]
    assert not here.files()
    assert not lent_bytes(here)


def test_object_that_no_store_knows_is_lost(world: World) -> None:
    there, here, _ = world.nodes
    edition = Edition(b"object", f"{CREATOR.hex()}-99")
    world.tell_owner(OriginalMade(edition, SIZE, there.life))
    here.want(edition)
    assert "no object is in segment" in here.answer().reason


def test_chunk_that_cannot_be_read_loses_the_object(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here, _ = world.nodes
    edition, _ = world.make(there)

    def fails(*_arguments: Any) -> int:
        raise SpillError("EIO")

    monkeypatch.setattr(ChunkFile, "read_into", fails)
    here.want(edition)
    assert "EIO" in here.answer().reason
    world.run(lambda: not there.transfers._open)


def is_coming(node: Node, edition: Edition) -> bool:
    """Tell whether the first chunk of an object has come."""
    coming = node.transfers._coming.get(edition)
    return coming is not None and coming.arrival is not None and coming.arrival.has(0)


def is_sending(node: Node) -> bool:
    """Tell whether a node has something for another one that did not go yet."""
    return any(link.connection.is_sending for link in node.transfers.links._callers.values())


def test_file_that_is_cut_while_it_is_sent_loses_the_object(world: World) -> None:
    there, here, _ = world.nodes
    size_bytes = 16 * CHUNK_BYTES
    edition, _ = world.make(there, size_bytes)
    here.want(edition, size_bytes)
    world.run(lambda: is_coming(here, edition))
    os.truncate(there.store_dir / edition.segment, CHUNK_BYTES)
    assert "bytes too early" in here.answer().reason
    assert not here.files()
    assert not lent_bytes(here)


def test_place_that_drops_an_object_while_it_is_sent_is_replaced_by_another(world: World) -> None:
    """What its memory is used for next reaches nobody."""
    first, second, third = world.nodes
    size_bytes = 16 * CHUNK_BYTES
    edition, content = world.make(first, size_bytes)
    second.want(edition, size_bytes)
    copy = second.answer()
    third.want(edition, size_bytes)

    world.run(lambda: is_sending(second))
    with (second.store_dir / copy.name).open("r+b") as memory:
        second.hear_owner(Transfer(pack_transfer(RejectCopy(edition, "the test"))))
        memory.write(b"x" * size_bytes)
    assert is_sending(second)
    assert third.read(third.answer())[:size_bytes] == content
    assert not is_sending(second)


def test_reader_that_dies_in_a_chunk_leaves_its_slot_to_others(world: World) -> None:
    there, here, third = world.nodes
    size_bytes = 16 * CHUNK_BYTES
    edition, content = world.make(there, size_bytes)
    here.want(edition, size_bytes)
    world.run(lambda: is_sending(there))
    here.gate.close()
    here.transfers.close()
    world.run(lambda: not there.transfers._open)
    assert not there.transfers.links._callers
    third.want(edition, size_bytes)
    assert third.read(third.answer())[:size_bytes] == content


def test_pull_goes_on_when_the_connection_broke(world: World) -> None:
    there, here, _ = world.nodes
    size_bytes = 16 * CHUNK_BYTES
    edition, content = world.make(there, size_bytes)
    here.want(edition, size_bytes)

    world.run(lambda: is_coming(here, edition))
    here.transfers.links.cut(there.life)
    assert here.read(here.answer())[:size_bytes] == content
    world.run(lambda: not there.transfers._open)


def test_connection_is_made_anew_before_its_key_is_worn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_links, "KEY_BYTES", 10 * CHUNK_BYTES)
    there, here, _ = world.nodes
    size_bytes = 16 * CHUNK_BYTES
    edition, content = world.make(there, size_bytes)
    here.want(edition, size_bytes)
    world.run(lambda: is_sending(there))
    (first,) = there.transfers.links._callers.values()
    assert here.read(here.answer())[:size_bytes] == content
    (second,) = there.transfers.links._callers.values()
    assert first.connection.closed
    assert not second.connection.closed


def test_nodes_of_one_host_do_not_pace_what_they_send(world: World) -> None:
    there, here, _ = world.nodes
    edition, _ = world.make(there)
    here.want(edition)
    here.answer()
    (link,) = there.transfers.links._callers.values()
    with socket.socket(fileno=os.dup(link.connection.fileno())) as sock:
        found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    assert found.rstrip(b"\0") == b"reno"


def test_source_that_is_dead_is_not_waited_for(world: World) -> None:
    first, second, third = world.nodes
    edition, content = world.make(first)
    second.want(edition)
    second.answer()
    first.gate.close()
    first.transfers.close()
    third.want(edition)
    third.transfers.node_died(first.life.address)
    world.tell_owner(PlacesDied(first.life, "the test"))
    assert third.read(third.answer())[:SIZE] == content


def test_node_that_registers_anew_has_nothing(world: World) -> None:
    there, here, _ = world.nodes
    edition, _ = world.make(there)
    late, _ = world.make(there)
    here.want(edition)
    here.answer()
    here.want(late)
    here.transfers.registered(2)
    assert here.answer().failure == "gone"
    world.run(lambda: not here.files() and not lent_bytes(here))
    assert here.life.incarnation == 2
    here.want(edition)
    assert here.answer().name.startswith(f"{here.life.node_id.hex()}-2.")


def test_owner_that_is_back_is_told_what_is_here(world: World) -> None:
    there, here, _ = world.nodes
    edition, _ = world.make(there)
    here.want(edition)
    here.answer()
    world.run(lambda: len(list(world.places.places(edition))) == 2)
    world.places = Places(OWNER)
    world.tell_owner(OriginalMade(edition, SIZE, there.life))
    here.transfers.owner_back(OWNER)
    world.run(lambda: (here.life, "whole") in world.places.places(edition))
    here.transfers.owner_lost(OWNER)
    world.run(lambda: not here.files())


# ------------------------------------------------------------------ strangers

HELLO = Hello(WIRE, b"s" * 16, "127.0.0.1:2", 1, "daemon", 1)
ASKS = Transfer(pack_transfer(BeginCopy(Edition(b"o", "s"), NodeLife(b"n", 1, "a:1"))))
COMES = Transfer(pack_transfer(Chunk(Edition(b"o", "s"), 0, 10)))


class Zeros:
    """Ten bytes to be sent."""

    size_bytes = 10

    def read_into(self, buffer: memoryview, at: int) -> int:
        return len(buffer)

    def send(self, socket_fd: int, at: int) -> int:
        return os.write(socket_fd, bytes(10 - at))


class Stranger:
    """Who calls a daemon for objects."""

    def __init__(self, node: Node) -> None:
        self.poller, self.timers = Poller(), Timers()
        outside = Outside(self.poller, self.timers, str(node.world.folder / "credentials"))
        self.reason = ""
        self.heard: list[Message] = []
        self.connection = outside.connect_bulk(
            f"{node.life.address}/{OBJECTS}", self.receive, self.lost, lambda _parcel: None
        )
        self.node = node

    def receive(self, connection: object, messages: Sequence[Message]) -> None:
        self.heard += messages

    def lost(self, connection: object, reason: str) -> None:
        self.reason = reason

    def say(self, *messages: Message) -> None:
        for message in messages:
            self.connection.queue(message)
        self.connection.flush()

    def run(self, until: Callable[[], object]) -> None:
        def look() -> object:
            self.poller.poll(0)
            return until()

        self.node.world.run(look)

    def close(self) -> None:
        self.connection.close()
        self.poller.close()


@pytest.fixture
def stranger(world: World) -> Iterator[Stranger]:
    made = Stranger(world.nodes[0])
    yield made
    made.close()


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ((Blocked(),), "began with Blocked"),
        ((Hello(WIRE, b"w", "", 1, "worker"),), "a worker called for objects"),
        ((HELLO, Blocked()), "Blocked came among objects"),
        ((HELLO, ASKS), "BeginCopy came among objects"),
        ((HELLO, Transfer(b"\x00")), "cannot be read"),
    ],
)
def test_who_says_what_cannot_be_is_let_go(
    stranger: Stranger,
    messages: tuple[Message, ...],
    why: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stranger.say(*messages)
    stranger.run(lambda: stranger.connection.closed)
    assert why in capfd.readouterr().err


def test_parcel_that_was_not_announced_ends_the_connection(stranger: Stranger) -> None:
    stranger.say(HELLO)
    stranger.connection.send_parcel(0, Zeros())
    stranger.run(lambda: stranger.connection.closed)


def test_chunk_that_nobody_waits_for_goes_nowhere(stranger: Stranger) -> None:
    stranger.say(HELLO, COMES)
    stranger.connection.send_parcel(0, Zeros())
    stranger.say(ASKS)
    stranger.run(lambda: stranger.connection.closed)
    assert [type(message) for message in stranger.heard] == [Hello]


def test_second_call_of_a_node_takes_the_place_of_the_first(
    world: World, stranger: Stranger
) -> None:
    stranger.say(HELLO)
    stranger.run(lambda: stranger.heard)
    again = Stranger(world.nodes[0])
    again.say(HELLO)
    again.run(lambda: again.heard and stranger.poller.poll(0) is None and stranger.reason)
    assert not again.connection.closed
    again.close()


@pytest.mark.parametrize("index", [-1, 3, 1])
def test_chunk_is_one_of_its_object(world: World, index: int) -> None:
    there, here, _ = world.nodes
    edition, _ = world.make(there)
    here.want(edition)
    world.run(lambda: edition in here.transfers._coming)
    with pytest.raises(ProtocolError, match="is none of"):
        here.transfers.sink_of(there.life, Chunk(edition, index, 10))
    here.answer()


def test_what_is_not_for_a_daemon_is_refused(world: World) -> None:
    with pytest.raises(ProtocolError, match="Chunk is not for a daemon"):
        world.nodes[0].transfers.said(READER, "", COMES)
