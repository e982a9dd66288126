"""Connections to other hosts: those of `sockets.py`, over TLS, with the token proven.

Messages may be queued at once. They go when both sides have proven themselves, and nothing of the
peer's is decoded before. If it never comes to that, `lost` says why, as for any connection.

A frame that fits into one record of TLS (16 KiB) is one `send` of the kernel's, a longer one is one
a record. What has arrived is decrypted record by record and joined, so that all frames of one read
are decoded at once.
"""

from __future__ import annotations

import contextlib
import select
from typing import TYPE_CHECKING

from weft._clock import monotonic
from weft._override import override
from weft._transport.opening import Opening
from weft._transport.sockets import DRAIN_S, SocketConnection
from weft._wire.codec import encode_all
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    import socket

    from weft._transport.arrivals import Arrivals
    from weft._transport.base import Lost, Receive
    from weft._transport.opening import Part
    from weft._transport.sockets import SocketWatch


class SecureConnection(SocketConnection):
    """A Connection over TLS. It opens by itself, while its poller is waited for."""

    __slots__ = ("_arrivals", "_opening", "failure")

    def __init__(
        self,
        poller: SocketWatch,
        sock: socket.socket,
        receive: Receive,
        lost: Lost,
        *,
        part: Part,
        arrivals: Arrivals,
    ) -> None:
        """`sock` is connected, or being connected (`opening.call`)."""
        super().__init__(poller, sock, receive, lost)
        self.failure: ProtocolError | None = None
        """Why it did not open; `lost` was told the same."""
        self._opening: Opening | None = Opening(self._socket, part)
        self._arrivals = arrivals
        poller.watch_writing(sock.fileno(), on=True)
        arrivals.add(self)

    @override
    def flush(self) -> None:
        """Send the batch as far as the peer takes it; the rest follows when it can.

        Before the connection is open, all of it waits for that.
        ProtocolError: a message alone is over the bound of a frame. The batch is lost then.
        """
        if self._opening is None:
            super().flush()
            return
        batch, self._batch = self._batch, []
        if batch and not self.closed:
            traffic = self._poller.traffic
            traffic.sent_messages += len(batch)
            for frame in encode_all(batch):
                traffic.sent_bytes += len(frame)
                self._unsent.append(memoryview(frame))

    @override
    def _handle(self, events: int) -> None:
        if self._opening is None:
            super()._handle(events)
        else:
            self._open(self._opening)

    def _open(self, opening: Opening) -> None:
        try:
            tls = opening.step()
        except ProtocolError as error:
            self._fail(error)
            return
        self._poller.watch_writing(opening.fd, on=opening.wants_writing or tls is not None)
        if tls is not None:
            self._socket = tls
            self._opening = None
            self._arrivals.discard(self)
            self._send_rest()
            if tls.early or tls.pending():
                self._read()

    def give_up(self, reason: str) -> None:
        """End it: it has not opened in time, or too many are on their way."""
        if self._opening is not None and not self.closed:
            self._fail(ProtocolError(self._opening.explain(TimeoutError(reason))))

    def _fail(self, failure: ProtocolError) -> None:
        self.failure = failure
        self._break(str(failure))

    @override
    def drain(self) -> None:
        """Send the rest, waiting at most `DRAIN_S` for a peer that is slow to open or take it."""
        until = monotonic() + DRAIN_S
        while self._opening is not None and not self.closed:
            waiter = select.poll()
            writing = select.POLLOUT if self._opening.wants_writing else 0
            waiter.register(self._opening.fd, select.POLLIN | writing)
            if not waiter.poll(max(0.0, until - monotonic()) * 1000):
                return
            self._open(self._opening)
        super().drain()

    @override
    def abandon(self) -> None:
        """Let go of the socket in a forked child.

        The parent's stays open, and so does its place in the epoll set.
        """
        if self._opening is not None:
            self._opening.socket.close()
        super().abandon()

    @override
    def close(self) -> None:
        """End the connection without telling `lost`. What was queued before it opened is lost."""
        if self._opening is None:
            super().close()
        elif not self.closed:
            self.closed = True
            self._arrivals.discard(self)
            # TLS may have closed it: then the kernel has forgotten it, too.
            with contextlib.suppress(OSError):
                self._poller.remove(self._opening.fd)
            self._opening.socket.close()
