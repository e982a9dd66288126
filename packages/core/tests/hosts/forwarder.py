"""Stands between two hosts: what one sends to the other goes through here, late or not at all.

    forwarder.py PID,ADDRESS PID,ADDRESS PID PORT

Takes calls in the networks of the first two processes, each at the other's address, and passes them
on from that of the third. Orders come as lines, and each is answered with `done`:

    delay S     what is taken from now on is passed on S seconds later
    stall       nothing is passed on until `pass`
    pass
    cut         all connections end, by resets
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import sys
from typing import Any

CLONE_NEWNET = 0x40000000
RESET_AT_CLOSE = struct.pack("ii", 1, 0)
libc = ctypes.CDLL(None, use_errno=True)


def enter(pid: str) -> None:
    """Sockets that are made from now on are of that process's network."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(fd)


class Forwarder:
    def __init__(self) -> None:
        self.delay_s = 0.0
        self.passing = asyncio.Event()
        self.passing.set()
        self.sockets: set[socket.socket] = set()

    async def take(self, listening: socket.socket, target: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        tasks = set()
        while True:
            caller, _ = await loop.sock_accept(listening)
            task = loop.create_task(self.forward(caller, target))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def forward(self, caller: socket.socket, target: tuple[str, int]) -> None:
        called = socket.socket()
        called.setblocking(False)
        pair = caller, called
        self.sockets.update(pair)
        try:
            await asyncio.get_running_loop().sock_connect(called, target)
            for sock in pair:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self.pump(caller, called))
                pumps.create_task(self.pump(called, caller))
        except* OSError:
            pass  # Nobody is there, or one has hung up: the other is told so by the end.
        finally:
            for sock in pair:
                self.sockets.discard(sock)
                sock.close()

    async def pump(self, source: socket.socket, target: socket.socket) -> None:
        """Pass on what comes; what is on its way is bounded, as in a real cable."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)

        async def send() -> None:
            while True:
                at, data = await queue.get()
                await asyncio.sleep(max(0.0, at - loop.time()))
                await self.passing.wait()
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                await loop.sock_sendall(target, data)

        sending = loop.create_task(send())
        try:
            while True:
                data = await loop.sock_recv(source, 1 << 16)
                await queue.put((loop.time() + self.delay_s, data))
                if not data:
                    break
            await sending
        finally:
            sending.cancel()

    def obey(self, line: str) -> None:
        match line.split():
            case ["delay", seconds]:
                self.delay_s = float(seconds)
            case ["stall"]:
                self.passing.clear()
            case ["pass"]:
                self.passing.set()
            case ["cut"]:
                for sock in self.sockets:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                    with contextlib.suppress(OSError):  # It may be no more, or not yet.
                        # Whoever waits for it is woken, and closes it.
                        sock.shutdown(socket.SHUT_RDWR)


async def main(first: str, second: str, middle: str, port: str) -> None:
    ends = [tuple(each.split(",")) for each in (first, second)]
    forwarder = Forwarder()
    taking: list[Any] = []
    loop = asyncio.get_running_loop()
    for (pid, _), (_, address) in (ends, ends[::-1]):
        enter(pid)
        listening = socket.create_server((address, int(port)), backlog=1024)
        listening.setblocking(False)
        taking.append((listening, (address, int(port))))
    enter(middle)
    tasks = [loop.create_task(forwarder.take(*each)) for each in taking]
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print("done", flush=True)
    while line := await orders.readline():
        forwarder.obey(line.decode())
        print("done", flush=True)
    for task in tasks:
        task.cancel()


asyncio.run(main(*sys.argv[1:]))
