"""A floor: bytes from one process to another over TCP on this host, by sendfile."""

from __future__ import annotations

import os
import socket
import tempfile
from typing import TYPE_CHECKING

from _floors_processes import fork

if TYPE_CHECKING:
    from _timing import Rate

FILE_BYTES = 100 * 1024 * 1024
READ_BYTES = 1024 * 1024
BLOCK = bytes(range(256)) * 4096


def sendfile(rate: Rate) -> float:
    """Gigabytes (10^9 bytes) a second from a file in memory to a process that drops them."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        tempfile.TemporaryFile(dir="/dev/shm") as file,
    ):
        for _ in range(FILE_BYTES // len(BLOCK)):
            file.write(BLOCK)
        file.flush()
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()

        def drop() -> None:
            ours.close()
            buffer = bytearray(READ_BYTES)
            got = 0
            while size := theirs.recv_into(buffer):
                got += size
                if got >= FILE_BYTES:
                    got -= FILE_BYTES
                    theirs.send(b"k")

        pid = fork(drop)
        theirs.close()

        def send() -> None:
            at = 0
            while at < FILE_BYTES:
                at += os.sendfile(ours.fileno(), file.fileno(), at, FILE_BYTES - at)
            assert ours.recv(1) == b"k"

        found = rate(send, FILE_BYTES / 1e9)
        ours.close()
        os.waitpid(pid, 0)
    return found
