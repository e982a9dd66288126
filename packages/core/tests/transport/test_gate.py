from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft._transport.credentials import NODE, name_of
from weft._transport.doors import Door, Doors
from weft._transport.gate import Gate, listen
from weft._transport.opening import CallingPart, call
from weft.testing.transport_suite import numbered, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft._transport.credentials import MemberCredentials

WORKER = bytes(range(16))


class Node:
    """A daemon with its port, and the sockets that it has taken."""

    def __init__(self, net: Any, folder: Path, most: int = 256, host: str = "127.0.0.1") -> None:
        self.net = net
        self.host = net.Host(most)
        self.turned_away = 0
        self.gate = Gate(
            self.host.poller, listen(host), self.host.arrivals, turned_away=self.turn_away
        )
        self.doors = Doors(self.host.poller, folder / "doors", self.gate.takers)
        self.path = str(folder / "doors")
        self.taken: list[socket.socket] = []
        self.gate.takers[NODE] = self.taken.append
        self.callers: list[socket.socket] = []

    def turn_away(self) -> None:
        self.turned_away += 1

    def call(self, data: bytes = b"", host: str = "127.0.0.1") -> socket.socket:
        caller = socket.create_connection((host, self.gate.port))
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.callers.append(caller)
        caller.sendall(data)
        return caller

    def run(self, until: Callable[[], bool] = lambda: True) -> None:
        self.net.run(self.host, until=until)

    def take(self, many: int = 1) -> list[socket.socket]:
        """Run until so many have been taken."""
        self.run(lambda: len(self.taken) >= many)
        return self.taken

    def forget(self) -> None:
        """Run until nobody is on their way."""
        self.run(lambda: len(self.host.arrivals) == 0)

    def closes(self, caller: socket.socket) -> bool:
        """Tell whether a caller is closed without a word."""
        self.run(lambda: bool(select.select([caller], [], [], 0)[0]))
        caller.settimeout(0)
        try:
            return caller.recv(100) == b""
        except ConnectionResetError:
            return True

    def open(self, name: str) -> None:
        """Run until somebody takes what is for a name."""
        self.run(lambda: name in self.gate.takers)

    def close(self) -> None:
        self.doors.close()
        self.gate.close()
        for sock in (*self.callers, *self.taken):
            sock.close()
        self.host.close()


@pytest.fixture
def node(net: Any, tmp_path: Path) -> Iterator[Node]:
    made = Node(net, tmp_path)
    yield made
    made.close()


def greeting(name: str | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = version
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


# ------------------------------------------------------------------ whom it is for


def test_greeting_is_handed_on_unread(node: Node) -> None:
    data = greeting(NODE)
    node.call(data + b"and more")
    (sock,) = node.take()
    assert sock.recv(10_000) == data + b"and more"
    assert len(node.host.arrivals) == 0


def test_greeting_that_comes_byte_by_byte_is_understood(node: Node) -> None:
    data = greeting(NODE)
    caller = node.call()
    for byte in data[:-1]:
        caller.sendall(bytes([byte]))
        node.host.poller.poll(0.001)
    node.run()
    assert node.taken == []
    # What has been seen does not wake the loop again.
    assert node.host.poller.wait(0) == []
    caller.sendall(data[-1:])
    (sock,) = node.take()
    assert sock.recv(10_000) == data
    # Its receiver is woken by every byte.
    caller.sendall(b"x")
    assert select.select([sock], [], [], 5)[0]


@pytest.mark.parametrize(
    "data",
    [
        greeting("other.weft"),
        greeting("weft"),
        greeting(NODE.upper() + ".org"),
        greeting(name_of(WORKER)),
        greeting(None),
        greeting(NODE, ssl.TLSVersion.TLSv1_2),
        greeting(NODE).replace(NODE.encode(), b"n\xffde.weft"),
        greeting(NODE).replace(NODE.encode(), b"n\0de.weft"),
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"\x16\x03\x01\x40\x00" + b"\x01\x00\x3f\xfc" + bytes(17_000),
        b"\x16\x03\x01\xff\xff" + bytes(17_000),
        bytes(17_000),
    ],
    ids=[
        "another", "short", "other domain", "no such worker", "no name", "old TLS", "no ASCII",
        "zero", "HTTP", "SSH", "long", "too long", "zeros",
    ],
)  # fmt: skip
def test_greeting_for_nobody_is_closed_without_a_word(
    node: Node, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    caller = node.call()
    with contextlib.suppress(ConnectionError):
        caller.sendall(data)
    assert node.closes(caller)
    assert node.taken == []
    assert len(node.host.arrivals) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("sent", [b"", greeting(NODE)[:100]])
def test_caller_that_goes_away_is_forgotten(node: Node, sent: bytes) -> None:
    caller = node.call(sent)
    node.run(lambda: len(node.host.arrivals) == 1)
    caller.shutdown(socket.SHUT_WR)
    assert node.closes(caller)
    assert len(node.host.arrivals) == 0


def test_caller_that_greets_too_slowly_is_closed_without_a_word(node: Node) -> None:
    """A byte a second: each is no reason to wait any longer."""
    caller = node.call()
    node.run(lambda: len(node.host.arrivals) == 1)
    for byte in greeting(NODE)[:4]:
        caller.sendall(bytes([byte]))
        node.run()
        node.host.timers.go_on(1.0)
    assert len(node.host.arrivals) == 1
    node.host.timers.go_on(1.0)
    assert node.closes(caller)


def test_callers_without_end_do_not_keep_others_out(net: Any, tmp_path: Path) -> None:
    node = Node(net, tmp_path, most=16)
    silent = [node.call() for _ in range(50)]
    assert all(node.closes(caller) for caller in silent[:34])
    assert len(node.host.arrivals) == 16
    node.call(greeting(NODE))
    assert len(node.take()) == 1
    node.close()


def test_caller_is_turned_away_when_there_are_no_descriptors_left(node: Node) -> None:
    callers = [socket.socket() for _ in range(2)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        callers[0].connect(("127.0.0.1", node.gate.port))
        node.host.poller.poll(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert node.turned_away == 1
    assert node.closes(callers[0])
    callers[1].connect(("127.0.0.1", node.gate.port))
    callers[1].sendall(greeting(NODE))
    assert len(node.take()) == 1
    for caller in callers:
        caller.close()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_bytes_do_more_than_be_closed_or_handed_on(node: Node, data: st.DataObject) -> None:
    sent = data.draw(
        st.one_of(
            st.binary(max_size=2000),
            st.builds(
                lambda at, bit: bytes(
                    byte ^ (bit if at == index else 0) for index, byte in enumerate(greeting(NODE))
                ),
                st.integers(0, 516),
                st.integers(1, 255),
            ),
            st.builds(lambda size: greeting(NODE)[:size], st.integers(0, 517)),
        )
    )
    before = node.net.descriptors()
    caller = node.call(sent)
    node.run()
    caller.close()
    node.callers.remove(caller)
    node.forget()
    for sock in node.taken:
        assert sock.recv(10_000) == sent
        sock.close()
    node.taken.clear()
    assert node.net.descriptors() == before


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_port_is_there_for_both_kinds_of_addresses(net: Any, tmp_path: Path, host: str) -> None:
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    node = Node(net, tmp_path, host="")
    assert node.gate.port > 0
    node.call(greeting(NODE), host)
    assert len(node.take()) == 1
    node.close()


def test_port_is_at_the_address_that_was_given() -> None:
    with listen("localhost") as first:
        assert first.getsockname()[0] in ("127.0.0.1", "::1")
        with pytest.raises(OSError, match="in use"):
            listen("localhost", first.getsockname()[1])


def test_port_does_without_ipv6_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def refuse(address: Any, *, family: int = socket.AF_INET, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(99, "Cannot assign requested address")
        return create(address, family=family, **options)

    monkeypatch.setattr(socket, "create_server", refuse)
    with listen() as sock:
        assert sock.family == socket.AF_INET


def test_port_in_use_is_an_error() -> None:
    with listen() as sock, pytest.raises(OSError, match="in use"):
        listen("", sock.getsockname()[1])


# ------------------------------------------------------------------ doors


def test_door_brings_the_sockets_of_its_name(node: Node, net: Any) -> None:
    worker, got = net.Host(), []
    door = Door(worker.poller, node.path, name_of(WORKER), got.append)
    node.open(name_of(WORKER))
    data = greeting(name_of(WORKER))
    for number in range(3):
        node.call(data)
        net.run(worker, node.host, until=lambda: len(got) > number)  # noqa: B023 - at once
    assert [sock.recv(10_000) for sock in got] == [data] * 3
    assert all(not sock.getblocking() for sock in got)
    door.close()
    door.close()
    node.run()
    assert node.closes(node.call(data))
    for sock in got:
        sock.close()
    worker.close()


def test_name_of_who_has_ended_is_nobodys(node: Node, net: Any) -> None:
    worker = net.Host()
    Door(worker.poller, node.path, name_of(WORKER), socket.socket.close).close()
    node.run()
    assert node.closes(node.call(greeting(name_of(WORKER))))
    assert list(node.gate.takers) == [NODE]
    worker.close()


@pytest.mark.parametrize("name", [NODE, name_of(WORKER)])
def test_name_that_somebody_has_is_refused(node: Node, net: Any, name: str) -> None:
    worker, lost = net.Host(), []
    first = Door(worker.poller, node.path, name_of(WORKER), socket.socket.close)
    node.open(name_of(WORKER))
    second = Door(worker.poller, node.path, name, socket.socket.close, lambda: lost.append(name))
    net.run(node.host, worker, until=lambda: bool(lost))
    assert lost == [name]
    assert second.closed
    assert not first.closed
    assert set(node.gate.takers) == {NODE, name_of(WORKER)}
    first.close()
    worker.close()


def test_process_that_says_two_names_or_none_is_refused(node: Node) -> None:
    for packets in ((b"",), (b"one.weft", b"two.weft")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
            link.connect(node.path)
            for packet in packets:
                link.send(packet)
                node.run()
            assert list(node.gate.takers) == [NODE]
            assert link.recv(1) == b""


def test_process_that_takes_nothing_loses_callers_and_holds_up_nobody(node: Node, net: Any) -> None:
    """It may be stopped, as the governor does with a worker while memory is short."""
    worker, got = net.Host(), []
    door = Door(worker.poller, node.path, name_of(WORKER), got.append)
    node.open(name_of(WORKER))
    data = greeting(name_of(WORKER))
    callers = [node.call(data) for _ in range(400)]
    while select.select([node.host.poller], [], [], 0.2)[0] or len(node.host.arrivals):
        node.host.poller.poll(0)
    handed = [caller for caller in callers if not select.select([caller], [], [], 0)[0]]
    assert 50 < len(handed) < 400
    assert all(node.closes(caller) for caller in callers if caller not in handed)
    node.call(greeting(NODE))
    assert len(node.take()) == 1
    net.run(worker, until=lambda: len(got) >= len(handed))
    assert len(got) == len(handed)
    for sock in got:
        sock.close()
    door.close()
    worker.close()


def test_door_of_a_daemon_that_is_gone_says_so(net: Any, tmp_path: Path) -> None:
    node, worker, lost = Node(net, tmp_path), net.Host(), []
    door = Door(
        worker.poller, node.path, name_of(WORKER), socket.socket.close, lambda: lost.append(1)
    )
    node.open(name_of(WORKER))
    node.close()
    net.run(worker, until=lambda: bool(lost))
    assert lost == [1]
    assert door.closed
    with pytest.raises(FileNotFoundError):
        Door(worker.poller, node.path, name_of(WORKER), socket.socket.close)
    worker.close()


def test_doors_are_for_this_user_alone(
    node: Node, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Path(node.path).stat().st_mode & 0o777 == 0o600
    worker, lost = net.Host(), []
    Door(worker.poller, node.path, name_of(WORKER), socket.socket.close, lambda: lost.append(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12345)
        net.run(node.host, worker, until=lambda: bool(lost))
    assert lost == [1]
    worker.close()


def test_socket_is_lost_where_there_are_no_descriptors_left(node: Node, net: Any) -> None:
    worker, got = net.Host(), []
    door = Door(worker.poller, node.path, name_of(WORKER), got.append)
    node.open(name_of(WORKER))
    caller = node.call(greeting(name_of(WORKER)))
    net.run(node.host, until=lambda: bool(select.select([worker.poller], [], [], 0)[0]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        worker.poller.poll(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert got == []
    assert node.closes(caller)
    assert not door.closed
    door.close()
    worker.close()


def test_forked_child_leaves_its_parents_port_alone(node: Node, net: Any) -> None:
    worker, got = net.Host(), []
    door = Door(worker.poller, node.path, name_of(WORKER), got.append)
    silent = node.call()
    node.run(lambda: len(node.host.arrivals) == 1 and name_of(WORKER) in node.gate.takers)
    pid = os.fork()
    if not pid:
        node.gate.abandon()
        node.doors.abandon()
        door.abandon()
        node.host.poller.abandon()
        worker.poller.abandon()
        node.doors.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    silent.sendall(greeting(name_of(WORKER)))
    net.run(node.host, worker, until=lambda: len(got) == 1)
    assert len(got) == 1
    got[0].close()
    door.close()
    worker.close()


# ------------------------------------------------------------------ all of it


def serve(net: Any, credentials: MemberCredentials, path: str, name: str) -> None:
    """A worker: it sends back what it is sent, to each caller."""
    host = net.Host()

    def accepted(sock: socket.socket) -> None:
        connection = host.open(sock, net.called(credentials))
        host.ends[-1].on_receive = send
        assert not connection.closed

    door = Door(host.poller, path, name, accepted)
    while not door.closed:
        host.poller.poll(None)


@pytest.mark.slow
def test_callers_of_two_workers_and_the_daemon_come_through_one_port(
    node: Node, net: Any, credentials: MemberCredentials
) -> None:
    names = [name_of(bytes([number] * 16)) for number in (1, 2)]
    pids = []
    for name in names:
        pid = os.fork()
        if not pid:
            try:
                node.gate.abandon()
                node.doors.abandon()
                serve(net, credentials, node.path, name)
            finally:
                os._exit(0)
        pids.append(pid)
    while not set(names) <= set(node.gate.takers):
        node.host.poller.poll(5)

    def answer(sock: socket.socket) -> None:
        node.host.open(sock, net.called(credentials))
        node.host.ends[-1].on_receive = send

    node.gate.takers[NODE] = answer
    near = net.Host()
    for number, name in enumerate([*names, NODE, name_of(WORKER)]):
        part = CallingPart(credentials, name, "127.0.0.1", node.gate.port)
        connection = near.open(call("127.0.0.1", node.gate.port), part)
        send(connection, numbered(number, number + 3))
    while sum(len(end.log) for end in near.ends) < 10:
        node.host.poller.poll(0.01)
        near.poller.poll(0.01)
    logs = [end.log for end in near.ends]
    assert logs[:3] == [numbered(number, number + 3) for number in range(3)]
    assert "closed the connection without a word" in str(logs[3])
    near.close()
    node.doors.close()
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.slow
def test_scan_without_the_token_learns_nothing(
    node: Node, net: Any, credentials: MemberCredentials, other_credentials: MemberCredentials
) -> None:
    """Whatever is tried: nothing comes but TLS, and inside it a version and random bytes."""
    seen: list[Callable[[], object]] = []
    node.gate.takers[NODE] = lambda sock: seen.append(
        node.host.open(sock, net.called(credentials)).give_up
    )
    for probe in (b"", b"\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", greeting("a.weft")):
        caller = node.call(probe)
        caller.shutdown(socket.SHUT_WR)
        assert node.closes(caller)
    assert seen == []
    stranger = net.Stranger(node.host, node.call(), _believing_all())
    stranger.sock.setblocking(False)
    stranger.greet()
    heard = stranger.hear()
    assert heard[:6] == b"weft\x01\x00"
    assert len(heard) == 38
    stranger.say(b"weft\x01\x00" + bytes(64))
    assert stranger.hear() == (
        b"\x00the token is not this cluster's: use the join string of `weft start --head`\n"
    )
    assert len(seen) == 1


def _believing_all() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
