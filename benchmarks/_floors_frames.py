"""A floor: length-prefixed frames on a unix socket pair between two processes, in plain Python.

Each function gets a Rate and returns frames there and back in a second.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from _floors_processes import fork

if TYPE_CHECKING:
    from _timing import Rate

MIB = 1024 * 1024
BODY = bytes(100)
LENGTH = struct.Struct("<I")
IN_FLIGHT = 1000


def take_frames(connection: socket.socket, left: bytes) -> tuple[list[bytes], bytes]:
    """Read once; return the bodies that are complete, and what is left. No body at the end."""
    data = connection.recv(256 * 1024)
    if not data:
        return [], b""
    data = left + data
    bodies = []
    at = 0
    while len(data) - at >= LENGTH.size:
        (size,) = LENGTH.unpack_from(data, at)
        end = at + LENGTH.size + size
        if end > len(data):
            break
        bodies.append(data[at + LENGTH.size : end])
        at = end
    return bodies, data[at:]


def joined(bodies: list[bytes]) -> bytes:
    """Return the frames of `bodies`, for one write."""
    return b"".join([LENGTH.pack(len(body)) + body for body in bodies])


def answer(connection: socket.socket) -> None:
    """Send each frame back, those of one read together, until the other side closes."""
    left = b""
    while True:
        bodies, left = take_frames(connection, left)
        if not bodies and not left:
            return
        connection.sendall(joined(bodies))


def exchange(rate: Rate, frames: int) -> float:
    """Send so many frames at a time to a forked process and take the answers."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)

        def serve() -> None:
            ours.close()
            answer(theirs)

        pid = fork(serve)
        theirs.close()

        def call() -> None:
            ours.sendall(joined([BODY] * frames))
            missing = frames
            left = b""
            while missing:
                bodies, left = take_frames(ours, left)
                missing -= len(bodies)

        found = rate(call, frames)
        ours.close()
        os.waitpid(pid, 0)
    return found


def frames_one_by_one(rate: Rate) -> float:
    return exchange(rate, 1)


def frames_in_flight(rate: Rate) -> float:
    return exchange(rate, IN_FLIGHT)


def frames_thousands(rate: Rate) -> float:
    return exchange(rate, IN_FLIGHT) / 1000


def frames_two_pairs(rate: Rate) -> float:
    """Two pairs of processes at the same time; the sum of their rates."""
    reading, writing = os.pipe()
    pids = [fork(lambda: os.write(writing, b"%f\n" % exchange(rate, IN_FLIGHT))) for _ in range(2)]
    for pid in pids:
        os.waitpid(pid, 0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        return sum(map(float, lines))
