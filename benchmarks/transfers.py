"""How fast objects' bytes go from one process to another in chunks, beside a plain sendfile.

    ./dev bench transfers [MiB] [rounds]

Two processes over TCP on this machine: no messages, no machines, only what _store/chunks.py does,
and _transport/bulk.py where there is TLS.
Each round runs all variants one after the other, and the table shows the median of each and of its
share of the floor in the same round.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING

from weft._store.chunks import BUFFER_BYTES, Arrival, ChunkFile, Landing, chunk_bytes
from weft._transport.arrivals import Arrivals
from weft._transport.bulk import BulkConnection, wrap
from weft._transport.credentials import NODE, make_credentials
from weft._transport.opening import CalledPart, CallingPart, Part
from weft._transport.sockets import Poller
from weft._wire.transfers import CHUNK_BYTES, chunks_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._wire.parcels import Parcel

SHM = "/dev/shm"


def connected() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    for end in (ours, theirs):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


class Leaving:
    """A chunk that is sent: a ParcelSource of bulk.py."""

    def __init__(self, file: ChunkFile, index: int) -> None:
        self.file, self.index = file, index
        self.size_bytes = chunk_bytes(file.size_bytes, index)

    def read_into(self, buffer: memoryview, at: int) -> int:
        return len(self.file.read_into(buffer, self.index, at))

    def send(self, socket_fd: int, at: int) -> int:
        return self.file.send(socket_fd, self.index, at)


class Case:
    """One object to be sent, and where it goes."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self.size_bytes = size_bytes
        self.reason = ""
        """Why the connection ended."""
        self.source = folder / "segment"
        self.credentials = make_credentials(folder / "credentials")
        block = os.urandom(CHUNK_BYTES)
        with self.source.open("wb") as file:
            for index in range(chunks_of(size_bytes)):
                file.write(block[: chunk_bytes(size_bytes, index)])

    # ------------------------------------------------------------------ senders

    def send_plain(self, sock: socket.socket) -> None:
        with self.source.open("rb") as file:
            at = 0
            while at < self.size_bytes:
                at += os.sendfile(sock.fileno(), file.fileno(), at, self.size_bytes - at)

    def send_chunks(self, sock: socket.socket) -> None:
        file = ChunkFile.open(self.source, self.size_bytes)
        for index in range(chunks_of(self.size_bytes)):
            at = 0
            while at < chunk_bytes(self.size_bytes, index):
                at += file.send(sock.fileno(), index, at)
        file.close()

    def send_copied(self, sock: socket.socket) -> None:
        """Through this process's memory, as TLS does where the kernel has none."""
        file = ChunkFile.open(self.source, self.size_bytes)
        buffer = memoryview(bytearray(BUFFER_BYTES))
        for index in range(chunks_of(self.size_bytes)):
            at = 0
            while at < chunk_bytes(self.size_bytes, index):
                part = file.read_into(buffer, index, at)
                sock.sendall(part)
                at += len(part)
        file.close()

    def send_late(self, sock: socket.socket) -> None:
        """When the receiver is ready."""
        sock.recv(1)
        self.send_chunks(sock)

    def send_secured(self, sock: socket.socket) -> None:
        """As between daemons."""
        file = ChunkFile.open(self.source, self.size_bytes)
        part = CallingPart(self.credentials, NODE, "127.0.0.1", 0, wrap)
        connection = self._secure(Poller(), sock, part, lambda _parcel: None)
        for index in range(chunks_of(self.size_bytes)):
            connection.send_parcel(index, Leaving(file, index))
        connection.drain()
        file.close()

    # ------------------------------------------------------------------ receivers

    def drop(self, sock: socket.socket) -> None:
        buffer, left = memoryview(bytearray(BUFFER_BYTES)), self.size_bytes
        while left:
            left -= sock.recv_into(buffer)

    def copy(self, sock: socket.socket) -> None:
        """Into a file, unchecked."""
        buffer, at = memoryview(bytearray(BUFFER_BYTES)), 0
        with (self.folder / "copy").open("wb", buffering=0) as file:
            while at < self.size_bytes:
                length = sock.recv_into(buffer)
                at += os.pwrite(file.fileno(), buffer[:length], at)

    def land(self, sock: socket.socket) -> None:
        self._land(sock, Arrival(self.folder / "copy", self.size_bytes))

    def land_over(self, sock: socket.socket) -> None:
        """Into a vacant file: its pages exist."""
        arrival = Arrival(self.folder / "copy", self.size_bytes, over=self._vacant())
        sock.send(b"!")
        self._land(sock, arrival)

    def _vacant(self) -> Path:
        vacant = self.folder / "vacant"
        with vacant.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.size_bytes)
        return vacant

    def _land(self, sock: socket.socket, arrival: Arrival) -> None:
        self._begin()
        buffer = memoryview(bytearray(BUFFER_BYTES))
        for index in range(chunks_of(self.size_bytes)):
            landing = arrival.begin(index, buffer)
            while window := landing.window():
                landing.took(sock.recv_into(window))
            landing.ended(is_whole=True)
        arrival.finish().close()

    def land_secured(self, sock: socket.socket) -> None:
        self._land_secured(sock, Arrival(self.folder / "copy", self.size_bytes))

    def land_secured_over(self, sock: socket.socket) -> None:
        arrival = Arrival(self.folder / "copy", self.size_bytes, over=self._vacant())
        self._land_secured(sock, arrival)

    def _land_secured(self, sock: socket.socket, arrival: Arrival) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        poller = Poller()

        def sink_for(parcel: Parcel) -> Landing:
            if not parcel.tag:
                self._begin()
            return arrival.begin(parcel.tag, buffer)

        self.reason = ""
        self._secure(poller, sock, CalledPart(self.credentials, wrap), sink_for)
        while not arrival.is_whole:
            assert not self.reason, self.reason
            poller.poll(None)
        arrival.finish().close()
        poller.close()

    def _secure(
        self,
        poller: Poller,
        sock: socket.socket,
        part: Part,
        sink_for: Callable[[Parcel], Landing | None],
    ) -> BulkConnection:
        return BulkConnection(
            poller,
            sock,
            lambda _connection, _messages: None,
            self._lost,
            part=part,
            arrivals=Arrivals(lambda _delay_s, _function: None),
            sink_for=sink_for,
        )

    def _lost(self, connection: object, reason: str) -> None:
        self.reason = reason

    def _begin(self) -> None:
        self.began = perf_counter(), process_time()

    # ------------------------------------------------------------------ a run

    def run(self, send: Callable[..., None], receive: Callable[..., None]) -> tuple[float, float]:
        """Return gigabytes a second, and those a second of the receiver's processor."""
        ours, theirs = connected()
        pid = os.fork()
        if not pid:
            theirs.close()
            send(self, ours)
            os._exit(0)
        ours.close()
        self._begin()
        receive(self, theirs)
        wall_s, cpu_s = perf_counter() - self.began[0], process_time() - self.began[1]
        theirs.close()
        os.waitpid(pid, 0)
        (self.folder / "copy").unlink(missing_ok=True)
        return self.size_bytes / 1e9 / wall_s, self.size_bytes / 1e9 / cpu_s


VARIANTS: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {
    "plain sendfile, dropped by the receiver": (Case.send_plain, Case.drop),
    "plain sendfile, to a file": (Case.send_plain, Case.copy),
    "chunks": (Case.send_chunks, Case.land),
    "chunks, vacant file": (Case.send_late, Case.land_over),
    "chunks through memory": (Case.send_copied, Case.land),
    "chunks over TLS": (Case.send_secured, Case.land_secured),
    "chunks over TLS, vacant file": (Case.send_secured, Case.land_secured_over),
}


def main(size_mib: int = 512, rounds: int = 5) -> None:
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        case = Case(Path(folder), size_mib << 20)
        for _ in range(rounds):
            for name, (send, receive) in VARIANTS.items():
                rows[name].append(case.run(send, receive))
    floor = [wall for wall, _ in next(iter(rows.values()))]
    print(f"{'':42} {'GB/s':>6} {'of floor':>9} {'GB/s of receiver CPU':>21}")
    for name, runs in rows.items():
        share = median(wall / least for (wall, _), least in zip(runs, floor, strict=True))
        wall, cpu = (median(run[i] for run in runs) for i in range(2))
        print(f"{name:42} {wall:6.2f} {share:9.0%} {cpu:21.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
