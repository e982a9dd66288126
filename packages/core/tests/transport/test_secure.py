from __future__ import annotations

import datetime
import os
import pickle
import resource
import socket
import ssl
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft._override import override
from weft._transport import credentials as credentials_module
from weft._transport import secure, sockets
from weft._transport.credentials import Credentials, make_credentials
from weft._transport.opening import call
from weft._wire import codec, handshake
from weft._wire.codec import encode
from weft._wire.handshake import ClientHandshake, ServerHandshake
from weft.exceptions import AuthenticationError, ProtocolError
from weft.testing.transport_suite import End, TransportSuite, large, numbered, send

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from weft._transport.base import Connection
    from weft._transport.credentials import MemberCredentials


class SecureSuite(TransportSuite):
    """Two processes, as it were: each end has a poller of its own."""

    net: Any
    credentials: MemberCredentials
    address = "127.0.0.1"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _have_helpers(cls, net: Any, credentials: MemberCredentials) -> None:
        cls.net, cls.credentials = net, credentials

    @override
    def connect(self, first: End, second: End) -> tuple[Connection, Connection]:
        self.hosts = [self.net.Host(), self.net.Host()]
        socks = self.net.tcp_pair(self.address)
        parts = (self.net.calling(self.credentials), self.net.called(self.credentials))
        made = []
        for host, sock, part, end in zip(self.hosts, socks, parts, (first, second), strict=True):
            self.prepare(sock)
            connection = host.open(sock, part)
            connection._receive, connection._lost = end.receive, end.lost
            made.append(connection)
        self.net.run(*self.hosts, until=lambda: not any(host.arrivals for host in self.hosts))
        return made[0], made[1]

    def prepare(self, sock: socket.socket) -> None:
        pass

    @override
    def move(self) -> None:
        # Who is not closed hears of the other's end.
        self.net.run(*self.hosts, until=lambda: self.near.closed == self.far.closed)

    @override
    def disconnect(self) -> None:
        super().disconnect()
        for host in self.hosts:
            host.close()


class TestSecureConnections(SecureSuite):
    pass


class TestSecureConnectionsWithSmallBuffers(SecureSuite):
    @override
    def prepare(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
class TestSecureConnectionsOverIPv6(SecureSuite):
    address = "::1"


# ------------------------------------------------------------------ opening


@pytest.fixture
def pair(net: Any, hosts: Any, credentials: MemberCredentials) -> Any:
    """Return a function that connects two hosts: caller, called."""

    def make(calling: Credentials | None = None, called: MemberCredentials | None = None) -> Any:
        near, far = hosts(), hosts()
        mine, theirs = net.tcp_pair()
        near.open(mine, net.calling(calling or credentials))
        far.open(theirs, net.called(called or credentials))
        return near, far

    return make


def reason(net: Any, host: Any) -> str:
    """The one line that a host was told."""
    net.run(host, until=lambda: host.is_lost)
    (line,) = host.ends[0].log
    assert isinstance(line, str)
    assert "\n" not in line
    assert host.connections[0].closed
    assert str(host.connections[0].failure) == line
    return line


def test_what_is_queued_before_it_is_open_arrives(net: Any, pair: Any) -> None:
    near, far = pair()
    for host, start in ((near, 0), (far, 100)):
        for message in numbered(start, start + 50):
            send(host.connections[0], [message])
    near.connections[0].queue(numbered(50, 51)[0])
    net.run(near, far)
    assert far.ends[0].log == numbered(0, 50)
    assert near.ends[0].log == numbered(100, 150)
    near.connections[0].flush()
    net.run(near, far)
    assert far.ends[0].log == numbered(0, 51)


def test_message_over_the_bound_is_refused_before_it_is_open_too(
    net: Any, pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = pair()
    monkeypatch.setattr(codec, "MAX_BODY_BYTES", 20)
    with pytest.raises(ProtocolError):
        send(near.connections[0], [large(1, 100)])
    send(near.connections[0], numbered(0, 1))
    net.run(near, far)
    assert far.ends[0].log == numbered(0, 1)


def test_what_comes_right_behind_the_proof_is_received(net: Any, pair: Any) -> None:
    """It is in the same record of TLS, so the socket does not tell of it."""
    near, far = pair()
    proof = ServerHandshake.receive

    def receive(self: Any, data: bytes) -> None:
        proof(self, data)
        if self.is_proven:
            self._said += encode(numbered(0, 3))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServerHandshake, "receive", receive)
        net.run(near, far)
    assert near.ends[0].log == numbered(0, 3)


def test_small_batch_is_one_record_and_one_write(net: Any, pair: Any) -> None:
    near, far = pair()
    net.run(near, far)
    writes: list[int] = []
    tls = near.connections[0]._socket
    write = tls.write
    tls.write = lambda data: writes.append(len(data)) or write(data)
    send(near.connections[0], numbered(0, 100))
    net.run(near, far)
    assert writes == [len(encode(numbered(0, 100)))]
    assert far.ends[0].log == numbered(0, 100)


def test_wrong_token_is_one_clear_line_at_both_ends(
    net: Any, pair: Any, credentials: MemberCredentials
) -> None:
    near, far = pair(calling=Credentials(b"x" * 16, credentials.certificate))
    send(near.connections[0], numbered(0, 1))
    net.run(near, far)
    assert reason(net, near) == (
        "no connection to node.weft at 10.0.0.1:6379: the peer refused: the token is not this "
        "cluster's: use the join string of `weft start --head`"
    )
    assert reason(net, far) == "a caller did not get in: the peer has another token"
    assert isinstance(near.connections[0].failure, AuthenticationError)
    assert isinstance(far.connections[0].failure, AuthenticationError)


def test_wrong_version_is_one_clear_line_at_both_ends(net: Any, pair: Any) -> None:
    near, far = pair()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClientHandshake.__init__, "__defaults__", (9,))
        net.run(near, far)
    what = "install neighbouring releases of weft-core"
    assert reason(net, near) == (
        "no connection to node.weft at 10.0.0.1:6379: the peer speaks wire version 1, this process "
        f"9: {what}"
    )
    assert reason(net, far) == (
        f"a caller did not get in: the peer speaks wire version 9, this process 1: {what}"
    )


def test_another_clusters_certificate_is_one_clear_line(
    net: Any, pair: Any, other_credentials: MemberCredentials
) -> None:
    near, far = pair(called=other_credentials)
    net.run(near, far)
    assert reason(net, near) == (
        "the certificate of 10.0.0.1:6379 was refused: self-signed certificate; get the join "
        "string anew from who started the cluster"
    )
    assert reason(net, far).startswith("a caller did not get in: TLS failed: ")


def test_certificate_that_the_pinned_one_signed_is_refused(
    net: Any, pair: Any, credentials: MemberCredentials, tmp_path: Path
) -> None:
    """Who has the key could sign others; they are not the one that was pinned."""
    tls = type("Tls", (), {"getpeercert": lambda _self, binary_form: b"another"})()
    with pytest.raises(AuthenticationError, match="it is another cluster, or somebody in between"):
        net.calling(credentials).check(tls)


@pytest.mark.parametrize(
    ("name", "days", "words"),
    [
        ("VALID", -0.5, "certificate has expired; set this machine's clock, or stop the cluster"),
        ("SKEW", -2, "certificate is not yet valid; set this machine's clock"),
    ],
)
def test_certificate_out_of_its_dates_is_one_clear_line(
    net: Any, pair: Any, tmp_path: Path, name: str, days: float, words: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(credentials_module, name, datetime.timedelta(days=days))
        patch.setattr(credentials_module, "_rehearse", lambda _made: None)
        dated = make_credentials(tmp_path / "cluster")
    near, far = pair(dated, dated)
    net.run(near, far)
    assert f"the certificate of 10.0.0.1:6379 was refused: {words}" in reason(net, near)


def test_nobody_at_the_address_is_one_clear_line(
    net: Any, hosts: Any, credentials: MemberCredentials
) -> None:
    near = hosts()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    near.open(call("127.0.0.1", port), net.calling(credentials))
    net.run(near)
    assert reason(net, near) == "no connection to node.weft at 10.0.0.1:6379: Connection refused"


def test_call_connects_without_waiting(
    net: Any, hosts: Any, credentials: MemberCredentials
) -> None:
    near, far = hosts(), hosts()
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = near.open(call(*server.getsockname()), net.calling(credentials))
        send(connection, numbered(0, 2))
        net.run(near)
        assert not connection.closed
        far.open(server.accept()[0], net.called(credentials))
    net.run(near, far)
    assert far.ends[0].log == numbered(0, 2)


@pytest.mark.parametrize("host", ["999.1.1.1", "localhost", "::x"])
def test_call_of_what_is_no_address_leaves_nothing(host: str) -> None:
    """A name would have to be looked up, which waits."""
    with pytest.raises(OSError, match="Name or service not known"):
        call(host, 80)


@pytest.mark.parametrize("greeted", [False, True])
def test_peer_that_closes_without_a_word_is_one_clear_line(
    net: Any, hosts: Any, credentials: MemberCredentials, *, greeted: bool
) -> None:
    near = hosts()
    mine, theirs = net.tcp_pair()
    near.open(mine, net.calling(credentials))
    if greeted:
        net.Stranger(near, theirs, credentials.called).greet()
    else:
        net.run(near)
    theirs.close()
    net.run(near)
    assert reason(net, near) == (
        "node.weft at 10.0.0.1:6379 closed the connection without a word: nobody of that name is "
        "there, or it is busy"
    )


def test_peer_that_is_gone_before_anything_happened_leaves_nothing(
    net: Any, hosts: Any, credentials: MemberCredentials
) -> None:
    for part in (net.calling, net.called):
        near = hosts()
        mine, theirs = net.tcp_pair()
        # Closing with unread bytes, or without lingering, resets the connection.
        mine.send(b"unread")
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.send(b"something")
        theirs.close()
        near.open(mine, part(credentials))
        net.run(near)
        assert reason(net, near)


def test_who_is_slow_to_open_gives_up(net: Any, hosts: Any, credentials: MemberCredentials) -> None:
    near, far = hosts(), hosts()
    mine, theirs = net.tcp_pair()
    near.open(mine, net.calling(credentials))
    far.open(theirs, net.called(credentials))
    for host in (near, far):
        host.timers.go_on(5.0)
    assert reason(net, near) == "no connection to node.weft at 10.0.0.1:6379: it took over 5 s"
    assert reason(net, far) == "a caller did not get in: it took over 5 s"


def test_who_is_open_never_gives_up(net: Any, pair: Any) -> None:
    near, far = pair()
    net.run(near, far)
    for host in (near, far):
        host.timers.go_on(100.0)
    send(near.connections[0], numbered(0, 1))
    near.connections[0].give_up("late news")
    net.run(near, far)
    assert far.ends[0].log == numbered(0, 1)


def test_too_many_on_their_way_push_out_the_oldest(
    net: Any, hosts: Any, credentials: MemberCredentials
) -> None:
    far = hosts(2)
    callers = []
    for _ in range(3):
        mine, theirs = net.tcp_pair()
        callers.append(mine)
        far.open(theirs, net.called(credentials))
    assert reason(net, far) == ("a caller did not get in: over 2 connections are on their way")
    assert not far.connections[1].closed
    for caller in callers:
        caller.close()
    net.run(far)


def test_closing_before_it_is_open_tells_nobody_and_leaves_nothing(net: Any, pair: Any) -> None:
    near, far = pair()
    send(near.connections[0], numbered(0, 1))
    near.connections[0].close()
    near.connections[0].close()
    net.run(near, far, until=lambda: far.is_lost)
    assert near.ends[0].log == []
    assert len(far.ends[0].reasons) == 1


def test_drain_waits_until_it_is_open_and_all_is_sent(
    net: Any, hosts: Any, credentials: MemberCredentials
) -> None:
    near = hosts()
    mine, theirs = net.tcp_pair()
    connection = near.open(mine, net.calling(credentials))
    send(connection, [large(1), *numbered(0, 3)])
    pid = os.fork()
    if not pid:
        connection.abandon()
        far = net.Host()
        far.open(theirs, net.called(credentials))
        while not far.ends[0].reasons:
            far.poller.poll(None)
        os._exit(0 if far.ends[0].messages == [large(1), *numbered(0, 3)] else 1)
    theirs.close()
    connection.drain()
    connection.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_drain_gives_up_in_the_end(
    net: Any, hosts: Any, credentials: MemberCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secure, "DRAIN_S", 0.05)
    near = hosts()
    mine, theirs = net.tcp_pair()
    connection = near.open(mine, net.calling(credentials))
    send(connection, numbered(0, 1))
    connection.drain()
    assert not connection.closed
    theirs.close()
    connection.drain()
    assert connection.closed


def test_forked_child_leaves_its_parents_connections_alone(net: Any, pair: Any) -> None:
    for opened in (False, True):
        near, far = pair()
        if opened:
            net.run(near, far)
        pid = os.fork()
        if not pid:
            for host in (near, far):
                host.connections[0].abandon()
                host.connections[0].close()
                host.poller.abandon()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        send(near.connections[0], numbered(0, 1))
        net.run(near, far)
        assert far.ends[0].log == numbered(0, 1)


def test_bytes_that_were_changed_on_the_way_end_the_connection(
    net: Any, hosts: Any, credentials: MemberCredentials
) -> None:
    far = hosts()
    mine, theirs = net.tcp_pair()
    far.open(theirs, net.called(credentials))
    stranger = net.Stranger(far, mine, credentials.calling)
    stranger.greet()
    client = ClientHandshake(credentials.token, bytes(32))
    client.receive(stranger.hear())
    stranger.say(client.say())
    stranger.say(bytes(encode(numbered(0, 2))))
    stranger.tls.write(bytes(encode(numbered(2, 4))))
    record = bytearray(stranger.outgoing.read())
    record[-1] ^= 1
    stranger.send_raw(bytes(record))
    assert far.ends[0].messages == numbered(0, 2)
    assert far.ends[0].reasons == ["TLS failed: decryption failed or bad record mac"]
    mine.close()


# ------------------------------------------------------------------ whatever bytes come

hostile = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""The fixtures keep nothing between examples."""


@pytest.fixture
def nothing_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test fail if anything is decoded."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("something was decoded before the proof")

    for module, name in (
        (pickle, "loads"), (pickle, "load"), (msgspec.msgpack, "decode"), (sockets, "decode"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, refuse)


@pytest.fixture
def attacked(net: Any, credentials: MemberCredentials) -> Any:
    """Return a function that lets a host meet a stranger, and looks at what is left."""

    def attack(attack_it: Callable[[Any], None], *, is_called: bool) -> str:
        before = net.descriptors()
        host = net.Host()
        mine, theirs = net.tcp_pair()
        if is_called:
            host.open(theirs, net.called(credentials))
            stranger = net.Stranger(host, mine, credentials.calling)
        else:
            host.open(mine, net.calling(credentials))
            stranger = net.Stranger(host, theirs, credentials.called)
        attack_it(stranger)
        stranger.sock.close()
        net.run(host, until=lambda: host.is_lost)
        (line,) = host.ends[0].log
        assert isinstance(line, str)
        assert "\n" not in line
        assert host.connections[0].closed
        host.close()
        del stranger
        assert net.descriptors() == before
        return line

    return attack


@hostile
@given(st.binary(max_size=1000), st.booleans())
def test_no_bytes_instead_of_tls_do_more_than_end_the_connection(
    attacked: Any, nothing_decoded: None, garbage: bytes, is_called: bool
) -> None:
    attacked(lambda stranger: stranger.send_raw(garbage), is_called=is_called)


@hostile
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=4, max_size=4), st.booleans())
def test_no_greeting_that_was_cut_or_changed_does_more_than_end_the_connection(
    attacked: Any, nothing_decoded: None, harm: list[tuple[bool, float]], is_called: bool
) -> None:
    """Each flight of bytes is cut, or one bit is changed, at a part of its length."""

    def attack(stranger: Any) -> None:
        for is_cut, at in harm:
            try:
                stranger.tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return
            flight = bytearray(stranger.outgoing.read())
            if not flight:
                stranger.move()
                continue
            if is_cut:
                flight = flight[: int(at * len(flight))]
            else:
                flight[int(at * (len(flight) - 1))] ^= 1
            stranger.send_raw(bytes(flight))
            stranger.incoming.write(stranger.read_raw())

    attacked(attack, is_called=is_called)


@hostile
@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_inside_tls_do_more_than_end_the_connection(
    attacked: Any, nothing_decoded: None, garbage: bytes, is_called: bool
) -> None:
    def attack(stranger: Any) -> None:
        stranger.greet()
        stranger.say(garbage)

    attacked(attack, is_called=is_called)


@hostile
@given(st.integers(6, 69), st.integers(0, 70))
def test_no_proof_that_was_cut_or_changed_is_taken(
    attacked: Any,
    nothing_decoded: None,
    credentials: MemberCredentials,
    changed: int,
    size: int,
) -> None:
    def attack(stranger: Any) -> None:
        stranger.greet()
        client = ClientHandshake(credentials.token, bytes(32))
        client.receive(stranger.hear())
        proof = bytearray(client.say())
        if size < len(proof):
            proof = proof[:size]
        else:
            proof[changed] ^= 1
        # What would be a message follows at once.
        stranger.say(bytes(proof) + (bytes(encode(numbered(0, 9))) if size == 70 else b""))

    attacked(attack, is_called=True)


def test_replayed_proof_is_not_taken(
    attacked: Any, nothing_decoded: None, credentials: MemberCredentials
) -> None:
    said: list[bytes] = []

    def record(stranger: Any) -> None:
        stranger.greet()
        client = ClientHandshake(credentials.token, bytes(32))
        client.receive(stranger.hear())
        said.append(client.say())
        stranger.say(said[0])
        assert len(stranger.hear()) == 33

    def replay(stranger: Any) -> None:
        stranger.greet()
        stranger.hear()
        stranger.say(said[0])
        assert stranger.hear().startswith(b"\x00the token is not this cluster's")

    assert "closed" in attacked(record, is_called=True)
    assert "another token" in attacked(replay, is_called=True)


@hostile
@given(st.binary(min_size=1, max_size=400))
def test_no_bytes_behind_the_proof_do_more_than_end_the_connection(
    attacked: Any, credentials: MemberCredentials, garbage: bytes
) -> None:
    """They come from who has the token; still they are no reason to fall."""

    def attack(stranger: Any) -> None:
        stranger.greet()
        client = ClientHandshake(credentials.token, bytes(32))
        client.receive(stranger.hear())
        stranger.say(client.say())
        stranger.say(garbage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle, "loads", None)
        attacked(attack, is_called=True)


def test_frame_over_the_bound_ends_the_connection(
    attacked: Any, credentials: MemberCredentials
) -> None:
    def attack(stranger: Any) -> None:
        stranger.greet()
        client = ClientHandshake(credentials.token, bytes(32))
        client.receive(stranger.hear())
        stranger.say(client.say())
        stranger.say(b"\xff\xff\xff\xff\x01")

    assert "not a frame" in attacked(attack, is_called=True)


def test_server_that_talks_without_end_is_left(attacked: Any, nothing_decoded: None) -> None:
    def attack(stranger: Any) -> None:
        stranger.greet()
        stranger.say(handshake.VERSION.pack(handshake.MAGIC, 1) + bytes(32))
        stranger.say(b"\x00" + b"x" * 100_000)

    line = attacked(attack, is_called=False)
    assert line.endswith("x" * handshake.MOST_WORDS)
    assert len(line) < 300


def test_process_without_descriptors_left_opens_what_it_has(net: Any, pair: Any) -> None:
    """TLS and the proof need none of their own."""
    near, far = pair()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        for _ in range(20):
            for host in (near, far):
                host.poller.poll(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    send(near.connections[0], numbered(0, 1))
    net.run(near, far)
    assert far.ends[0].log == numbered(0, 1)


def test_failure_is_a_protocol_error(net: Any, pair: Any) -> None:
    near, far = pair()
    far.connections[0].close()
    net.run(near, until=lambda: near.is_lost)
    assert isinstance(near.connections[0].failure, ProtocolError)
