"""Connections to other hosts that carry parcels too: bytes of files, straight to their place.

A parcel's bytes go from the file to the socket, and on the other side from the socket into the
windows that its receiver shows for its tag: they are in no message, and nobody joins them. Parcels
and messages keep their order. A long parcel holds up what is behind it, so what is urgent goes over
another connection.

Where the kernel encrypts (`tls.py`), the file is sent with `sendfile`. Elsewhere pieces of it are
read and encrypted one by one (`wide.py`). Each byte is read once, when the peer can take it.

Facts about pacing: where the host uses BBR, the kernel sets a timer for every 64 KiB that it sends.
Between processes of one host that only costs (measured: 100 MiB from daemon to daemon over
loopback: of both sides' processor time 12 to 16 %).
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

from weft._clock import monotonic
from weft._override import override
from weft._transport.secure import SecureConnection
from weft._transport.sockets import DRAIN_S
from weft._transport.tls import RECORD_BYTES, TURN_BYTES, SecureSocket, has_kernel_tls, words
from weft._transport.tls import wrap as wrap_records
from weft._transport.wide import FETCH_BYTES, WideSocket
from weft._wire.codec import decode, encode_all
from weft._wire.parcels import (
    GONE_END,
    WHOLE_END,
    Parcel,
    ParcelEnd,
    ParcelReader,
    parcel_header,
)
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from weft._transport.arrivals import Arrivals
    from weft._transport.base import Lost, Receive
    from weft._transport.opening import Part, Wrapped
    from weft._transport.sockets import Poller
    from weft._wire.messages import Message

PIECE_BYTES = FETCH_BYTES
"""What is read of a file at once, to be encrypted while it is in the processor's cache."""


class ParcelSource(Protocol):
    """Where the bytes of one parcel are read when they can be sent."""

    size_bytes: int
    """Of all; not 0."""

    def read_into(self, buffer: memoryview, at: int) -> int:
        """Put bytes from `at` on into a buffer; return how many. 0: they are gone."""
        ...

    def send(self, socket_fd: int, at: int) -> int:
        """Have the kernel send bytes from `at` on; return how many. 0: they are gone.

        What a socket raises comes through, BlockingIOError too.
        """
        ...


class Sink(Protocol):
    """Takes the bytes of one parcel."""

    def window(self) -> memoryview:
        """Return where the next bytes go: writable, no longer than what is missing, not empty."""
        ...

    def took(self, size_bytes: int) -> None:
        """So many came into the window."""
        ...

    def ended(self, *, is_whole: bool) -> None:
        """All have come. They count; or not, since the last of them were gone at their source."""
        ...


def wrap(context: ssl.SSLContext, sock: socket.socket, name: str | None) -> Wrapped:
    """Put TLS around a connected socket, as it is best for many bytes."""
    return (wrap_records if has_kernel_tls() else WideSocket)(context, sock, name)


def hasten(sock: socket.socket) -> None:
    """Have a socket whose other end is on this host send as soon as that takes it."""
    # Where Reno is not allowed, or the peer is gone again, all stays as it is.
    with contextlib.suppress(OSError):
        if sock.getpeername()[0] == sock.getsockname()[0]:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


_SECURE = (SecureSocket, WideSocket)


class BulkConnection(SecureConnection):
    """A Connection over TLS that carries parcels as well."""

    __slots__ = ("_is_waiting", "_outbox", "_parcels", "_sink", "_sink_for")

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        receive: Receive,
        lost: Lost,
        *,
        part: Part,
        arrivals: Arrivals,
        sink_for: Callable[[Parcel], Sink | None],
    ) -> None:
        """`sink_for` is called while the poller is waited for, and so is what it returns.

        It returns who takes a parcel's bytes, all of them; None: they are not wanted any more. If
        the connection ends before, nothing more is told.
        ProtocolError: there is no place of that size, and the connection ends.
        """
        super().__init__(poller, sock, receive, lost, part=part, arrivals=arrivals)
        self._sink_for = sink_for
        self._outbox: deque[memoryview | _Leaving] = deque()
        self._is_waiting = True
        """The poller waits until bytes can be sent."""
        self._parcels = ParcelReader()
        self._sink: Sink | None = None
        """Of the parcel that is coming."""

    # -------------------------------------------------------------- sending

    def send_parcel(self, tag: int, source: ParcelSource) -> None:
        """Send a parcel, behind what is queued so far. Never blocks.

        If bytes are gone when they are to be sent, zeros take their place, and the receiver is told
        that none count.
        """
        if self.closed:
            return
        self._frame()
        self._outbox.append(memoryview(parcel_header(tag, source.size_bytes)))
        self._outbox.append(_Leaving(source))
        self._poller.traffic.sent_bytes += source.size_bytes
        self._push()

    @property
    def is_sending(self) -> bool:
        """Whether there is something that the peer has not taken yet."""
        tls = self._socket
        return bool(self._outbox) or (isinstance(tls, _SECURE) and tls.has_rest)

    @override
    def flush(self) -> None:
        """Send the batch as far as the peer takes it; the rest follows when it can.

        Before the connection is open, all of it waits for that.
        ProtocolError: a message alone is over the bound of a frame. The batch is lost then.
        """
        self._frame()
        self._push()

    def _frame(self) -> None:
        batch, self._batch = self._batch, []
        if batch and not self.closed:
            traffic = self._poller.traffic
            traffic.sent_messages += len(batch)
            for frame in encode_all(batch):
                traffic.sent_bytes += len(frame)
                self._outbox.append(memoryview(frame))

    def _push(self) -> None:
        outbox, tls = self._outbox, self._socket
        if self.closed or not isinstance(tls, _SECURE):
            return
        left = TURN_BYTES
        try:
            tls.send_rest()
            while outbox and not tls.has_rest:
                first = outbox[0]
                if isinstance(first, memoryview):
                    outbox[0] = first = first[tls.send(first) :]
                    if not first:
                        outbox.popleft()
                elif left > 0:
                    left -= first.send(tls, left)
                    if not first.left:
                        outbox[0] = first.end()
                else:
                    break
        except BlockingIOError:
            pass
        except OSError as error:
            outbox.clear()
            self._stop_sending(error)
        if self.is_sending != self._is_waiting:
            self._is_waiting = self.is_sending
            self._poller.watch_writing(tls.fileno(), on=self._is_waiting)

    @override
    def _send_rest(self) -> None:
        self._push()

    @override
    def drain(self) -> None:
        """Send the rest, waiting at most `DRAIN_S` for a peer that is slow to open or take it."""
        super().drain()
        until = monotonic() + DRAIN_S
        waiter = select.poll()
        while self.is_sending and self._opening is None and not self.closed:
            waiter.register(self._socket, select.POLLOUT)
            if not waiter.poll(max(0.0, until - monotonic()) * 1000):
                return
            self._push()

    # -------------------------------------------------------------- receiving

    @override
    def _read(self) -> bool:
        """Receive for one turn; return whether there was anything, and may be more."""
        size = 0
        tls = cast("Wrapped", self._socket)
        # What is inside TLS already makes no socket readable.
        while not self.closed and (size < TURN_BYTES or tls.pending()):
            got = self._read_once(tls)
            if not got:
                break
            size += got
        self._poller.traffic.read_bytes += size
        return size > 0

    def _read_once(self, tls: Wrapped) -> int:
        """Receive; return how many bytes came, 0 if there are none or the connection ended."""
        sink, data = self._sink if self._parcels.left else None, b""
        try:
            if sink is None:
                # No more than a record: what is behind it may have a place to go to.
                data = tls.recv(max(RECORD_BYTES, self._parcels.missing()))
                got = len(data)
            else:
                got = tls.recv_into(sink.window())
        except BlockingIOError:
            return 0
        except OSError as error:
            self._break(words(error))
            return 0
        if not got:
            self._break(self._reason)
        elif sink is None:
            self._sort(data)
        else:
            self._parcels.passed(got)
            sink.took(got)
        return got

    def _sort(self, data: bytes) -> None:
        """Hand out messages, and put bytes of parcels into their places."""
        messages: list[Message] = []
        try:
            for got in self._parcels.receive(data):
                match got:
                    case Parcel():
                        self._hand_out(messages)
                        self._begin(got)
                    case memoryview():
                        self._put(got)
                    case ParcelEnd(is_whole):
                        self._end(is_whole=is_whole)
                    case bytes():
                        messages += decode(got)
                if self.closed:
                    return
        except ProtocolError as error:
            self._break(str(error))
        else:
            self._hand_out(messages)

    def _hand_out(self, messages: list[Message]) -> None:
        if messages:
            handed, messages[:] = messages[:], []
            self._poller.traffic.read_messages += len(handed)
            self._receive(self, handed)

    def _begin(self, parcel: Parcel) -> None:
        if self.closed:
            return
        self._sink = self._sink_for(parcel)

    def _put(self, part: memoryview) -> None:
        while part and (sink := self._sink) is not None:
            window = sink.window()[: len(part)]
            window[:], part = part[: len(window)], part[len(window) :]
            sink.took(len(window))

    def _end(self, *, is_whole: bool) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.ended(is_whole=is_whole)

    # -------------------------------------------------------------- the end

    @override
    def abandon(self) -> None:
        """Let go of the socket in a forked child."""
        self._outbox.clear()
        super().abandon()

    @override
    def close(self) -> None:
        """End the connection without telling `lost`. Parcels that have not gone are lost."""
        super().close()
        self._sink = None
        self._outbox.clear()


class _Leaving:
    """A parcel whose bytes are to be sent."""

    _buffer = memoryview(bytearray(PIECE_BYTES))

    def __init__(self, source: ParcelSource) -> None:
        self._source = source
        self.left = source.size_bytes
        self._piece = b""
        """What was read and TLS has not taken."""
        self._is_gone = False

    def send(self, tls: Wrapped, most: int) -> int:
        """Send at least so much, if the peer takes it; return how much that is.

        BlockingIOError: it takes no more for now. OSError: it has failed.
        """
        left = self.left
        while left - self.left < most and self.left and not tls.has_rest:
            self.left -= self._send_piece(tls)
        return left - self.left

    def _send_piece(self, tls: Wrapped) -> int:
        if tls.has_kernel_sending and not self._piece and not self._is_gone:
            sent = self._source.send(tls.fileno(), self._source.size_bytes - self.left)
            if sent:
                return sent
            self._is_gone = True
        piece, sent = self._piece or self._read(), 0
        try:
            sent = tls.send(piece)
        finally:
            # OpenSSL wants to be asked again with the same bytes, and the buffer is for all.
            self._piece = bytes(piece[sent:]) if sent < len(piece) else b""
        return sent

    def _read(self) -> memoryview:
        part = self._buffer[: self.left]
        size = (
            0
            if self._is_gone
            else self._source.read_into(part, self._source.size_bytes - self.left)
        )
        if size == len(part):
            return part
        if not size:
            self._is_gone = True
            size = len(part)
            part[:] = bytes(size)
        return part[:size]

    def end(self) -> memoryview:
        """Return what stands behind the bytes."""
        return memoryview(GONE_END if self._is_gone else WHOLE_END)
