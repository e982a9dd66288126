"""A driver on this node: what its user is shown, and how its end is learned.

Facts about unix sockets: a socket is writable while less than a quarter of its send buffer is not
read by the peer (unix_writable in the kernel's af_unix.c), and epoll tells when it becomes so. A
copy of a descriptor has a place of its own in an epoll set.
"""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import TYPE_CHECKING

from weft._wire.messages import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.clients import Client
    from weft._transport.sockets import Poller
    from weft._wire.messages import Message

_WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


class JobDriver:
    """The driver of a job: not connected yet, connected, or gone."""

    def __init__(
        self,
        poller: Poller,
        pid: int,
        *,
        send: Callable[[Client, Message], None],
        ended: Callable[[str], None],
    ) -> None:
        """`ended(why)` is called when the process is gone, before this returns if it is so now.

        `pid` 0: the process is not seen from here, and its connection says all.
        """
        self.pid = pid
        self._poller = poller
        self._send = send
        self._client: Client | None = None
        self._pidfd = -1
        self._waiting_fd = -1
        """Where it is seen that the driver has read."""
        self._waiting: list[Callable[[], None]] = []
        if not pid:
            return
        try:
            # Its children may hold its connection open: the kernel knows better.
            self._pidfd = os.pidfd_open(pid)
            poller.add(self._pidfd, lambda _: ended("the driver is gone"))
        except ProcessLookupError:
            ended("the driver is gone")

    def connected(self, client: Client) -> None:
        """The driver has connected."""
        self._client = client

    @property
    def worker_id(self) -> bytes:
        """Its id; empty until it has connected."""
        return self._client.worker_id if self._client is not None else b""

    def entrypoint(self) -> str:
        """Return the command that it is; empty if it is gone."""
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return ""
        return b" ".join(words).decode(errors="replace").strip()

    def is_client(self, client: Client) -> bool:
        """Tell whether a client is the driver."""
        return client is self._client

    def show(
        self,
        worker: bytes,
        pid: int,
        label: str,
        data: bytes,
        *,
        is_stderr: bool,
        node: str = "",
    ) -> None:
        """Show what a process has written; `node`: HOST:PORT of its, if that is another."""
        if self._client is not None and not self._client.connection.closed:
            self._send(self._client, Output(worker, pid, label, is_stderr, data, node))

    def is_behind(self) -> bool:
        """Tell whether the driver has much to read yet."""
        if self._client is None or self._client.connection.closed:
            return False
        look = select.poll()
        look.register(self._client.connection.fileno(), select.POLLOUT)
        return not look.poll(0)

    def when_it_has_read(self, function: Callable[[], None]) -> None:
        """Call a function once, when a driver that is behind is so no longer."""
        assert self._client is not None
        self._waiting.append(function)
        if len(self._waiting) > 1:
            return
        fd = self._waiting_fd = os.dup(self._client.connection.fileno())

        def told(events: int) -> None:
            if events & _WRITABLE:
                self._stop_waiting()

        self._poller.add(fd, told)
        self._poller.watch_writing(fd, on=True)

    def _stop_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._poller.remove(self._waiting_fd)
            os.close(self._waiting_fd)
        for function in waiting:
            function()

    def drain(self) -> None:
        """Send what is queued, waiting for the driver to take it."""
        if self._client is not None:
            self._client.connection.drain()

    def close(self) -> None:
        """End the connection, and forget the process."""
        if self._client is not None:
            self._client.connection.close()
        self._stop_waiting()
        if self._pidfd >= 0:
            self._poller.remove(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
