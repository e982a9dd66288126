from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from weft._transport.credentials import CONTROL
from weft._transport.doors import Doors
from weft._transport.gate import Gate, listen
from weft._transport.relay import Side, relay

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from weft._transport.credentials import MemberCredentials


class Service:
    """A server on a unix socket, which sends back what it gets, and a relay, in a thread."""

    def __init__(self, credentials: MemberCredentials, folder: Path) -> None:
        self.credentials = credentials
        self.server = str(folder / "server")
        self.doors = str(folder / "doors")
        self.callers = 0
        self.answers = True
        self.error: BaseException | None = None
        self.loop = asyncio.new_event_loop()
        self.task = self.loop.create_task(self.serve())
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        try:
            self.loop.run_until_complete(self.task)
        except (OSError, asyncio.CancelledError) as error:
            self.error = error
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    async def serve(self) -> None:
        listening = await asyncio.start_unix_server(self.answer, self.server)
        try:
            await relay(self.credentials, doors=self.doors, server=self.server)
        finally:
            listening.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.callers += 1
        while self.answers and (data := await reader.read(1 << 16)):
            writer.write(data)
            try:
                await writer.drain()
            except ConnectionError:
                break
        writer.close()

    def close(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join()


class Head:
    """The daemon's part: doors, and callers that have been accepted."""

    def __init__(self, net: Any, folder: Path) -> None:
        self.net = net
        self.host = net.Host()
        self.takers: dict[str, Callable[[socket.socket], None]] = {}
        self.doors = Doors(self.host.poller, folder / "doors", self.takers)

    def wait_door(self) -> None:
        while CONTROL not in self.takers:
            self.host.poller.poll(5)

    def call(self) -> socket.socket:
        caller, called = self.net.tcp_pair()
        caller.settimeout(10)
        self.takers[CONTROL](called)
        return caller

    def close(self) -> None:
        self.doors.close()
        self.host.close()


@pytest.fixture
def head(net: Any, tmp_path: Path) -> Iterator[Head]:
    made = Head(net, tmp_path)
    yield made
    made.close()


@pytest.fixture
def service(head: Head, credentials: MemberCredentials, tmp_path: Path) -> Iterator[Service]:
    made = Service(credentials, tmp_path)
    head.wait_door()
    yield made
    made.close()


def greet(sock: socket.socket, credentials: MemberCredentials, spoken: str = "h2") -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=credentials.certificate.decode())
    context.set_alpn_protocols([spoken])
    return context.wrap_socket(sock, server_hostname=CONTROL)


def test_bytes_go_both_ways(head: Head, service: Service, credentials: MemberCredentials) -> None:
    content = os.urandom(1 << 20)
    with greet(head.call(), credentials) as caller:
        sender = threading.Thread(target=caller.sendall, args=(content,))
        sender.start()
        got = b""
        while len(got) < len(content):
            got += caller.recv(1 << 16)
        sender.join()
    assert got == content


class Pipe:
    """A transport of asyncio that notes what it is told."""

    def __init__(self) -> None:
        self.is_read = True
        self.is_closed = False
        self.written = b""

    def set_write_buffer_limits(self, high: int) -> None:
        assert high > 0

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True


def test_who_is_too_slow_stops_the_other_side() -> None:
    sides, pipes = (Side(), Side()), (Pipe(), Pipe())
    for side, pipe in zip(sides, pipes, strict=True):
        side.connection_made(pipe)
    assert [pipe.is_read for pipe in pipes] == [False, False]
    sides[0].pause_writing()
    sides[0].resume_writing()
    sides[0].join(sides[1])
    assert [pipe.is_read for pipe in pipes] == [True, True]
    sides[0].pause_writing()
    assert [pipe.is_read for pipe in pipes] == [True, False]
    sides[0].data_received(b"x")
    assert pipes[1].written == b"x"
    sides[0].resume_writing()
    assert [pipe.is_read for pipe in pipes] == [True, True]


def test_side_that_is_gone_before_both_are_joined_ends_the_other() -> None:
    gone, there, pipe = Side(), Side(), Pipe()
    gone.connection_made(Pipe())
    gone.connection_lost(None)
    there.connection_made(pipe)
    there.join(gone)
    assert pipe.is_closed


def test_caller_that_speaks_something_else_is_closed(
    head: Head, service: Service, credentials: MemberCredentials
) -> None:
    with greet(head.call(), credentials, "http/1.1") as caller:
        assert caller.recv(1) == b""
    assert service.callers == 0


def test_caller_that_does_no_tls_is_closed(head: Head, service: Service) -> None:
    with head.call() as caller:
        caller.sendall(b"GET / HTTP/1.1\r\n\r\n")
        got = caller.recv(100)
        # TLS says that this is none; nothing else is said.
        assert got[:1] in (b"", b"\x15")
    assert service.callers == 0


def test_both_sides_end_together(
    head: Head, service: Service, credentials: MemberCredentials
) -> None:
    service.answers = False
    with greet(head.call(), credentials) as caller:
        assert caller.recv(1) == b""
    service.answers = True
    with greet(head.call(), credentials) as caller:
        caller.sendall(b"x")
        assert caller.recv(1) == b"x"
    assert service.callers == 2


def test_server_that_is_gone_is_told_by_closing(
    head: Head, service: Service, credentials: MemberCredentials
) -> None:
    Path(service.server).unlink()
    with greet(head.call(), credentials) as caller:
        assert caller.recv(1) == b""
    # The relay goes on: the server may come again.
    assert service.thread.is_alive()


def test_relay_keeps_its_callers_and_is_found_by_the_next_daemon(
    net: Any, credentials: MemberCredentials, tmp_path: Path
) -> None:
    service = Service(credentials, tmp_path)  # There is no daemon yet.
    callers = []
    for _ in range(2):
        head = Head(net, tmp_path)
        head.wait_door()
        callers.append(greet(head.call(), credentials))
        head.close()
    for caller in callers:
        caller.sendall(b"x")
        assert caller.recv(1) == b"x"
        caller.close()
    service.close()
    assert isinstance(service.error, asyncio.CancelledError)


SERVER = """
import asyncio, grpc, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weft._transport.credentials import open_credentials
from weft._transport.relay import relay

folder, doors, server = sys.argv[1:]
mine = open_credentials(Path(folder))

async def double(request, context):
    told = dict(context.invocation_metadata()).get("authorization")
    if told != "Bearer " + mine.token.hex():
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
    return request * 2

async def main():
    served = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(double)
    served.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("weft.Test", {"Double": handler})]
    )
    served.add_insecure_port("unix:" + server)
    await served.start()
    await relay(mine, doors=doors, server=server)

asyncio.run(main())
"""

CLIENT = """
import grpc, sys

port, certificate, token = sys.argv[1:]
channel = grpc.secure_channel(
    f"127.0.0.1:{port}",
    grpc.ssl_channel_credentials(open(certificate, "rb").read()),
    [("grpc.ssl_target_name_override", "control.weft")],
)
double = channel.unary_unary("/weft.Test/Double")
metadata = [("authorization", "Bearer " + token)]
for size in (3, 1_000_000):
    assert double(b"x" * size, metadata=metadata, timeout=30) == b"x" * 2 * size
try:
    double(b"x", timeout=30)
except grpc.RpcError as error:
    print(error.code().name)
channel.close()
"""


@pytest.mark.slow
def test_grpc_finds_the_control_service_behind_the_nodes_port(
    net: Any, credentials: MemberCredentials, tmp_path: Path
) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed")
    head = Head(net, tmp_path)
    gate = Gate(head.host.poller, listen("127.0.0.1"), head.host.arrivals)
    gate.takers = head.takers
    folder = credentials.folder

    def start(program: str, *args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, *map(str, args)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    with start(SERVER, folder, tmp_path / "doors", tmp_path / "server") as server:
        head.wait_door()
        with start(
            CLIENT, gate.port, folder / "certificate.pem", credentials.token.hex()
        ) as client:
            while client.poll() is None:
                head.host.poller.poll(0.05)
            assert client.stdout is not None
            said = client.stdout.read()
        server.kill()
    assert (client.returncode, said) == (0, "UNAUTHENTICATED\n")
    gate.close()
    head.close()
