"""Connections to other hosts that carry parcels too: bytes of files, straight to their place.

A parcel's bytes go from the file to the socket, and on the other side from the socket into the
windows that its receiver shows for its tag: they are in no message, and nobody joins them. Parcels
and messages keep their order. A long parcel holds up what is behind it, so what is urgent goes over
another connection.

Where the kernel encrypts (`tls.py`), the file is sent with `sendfile`. Elsewhere pieces of it are
read and encrypted one by one.
"""

from __future__ import annotations

import os
import select
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

from weft._clock import monotonic
from weft._override import override
from weft._transport.secure import SecureConnection
from weft._transport.sockets import DRAIN_S, READ_BYTES
from weft._transport.tls import TURN_BYTES, SecureSocket, words
from weft._wire.codec import decode, encode_all
from weft._wire.parcels import Parcel, ParcelReader, parcel_header
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from weft._transport.arrivals import Arrivals
    from weft._transport.base import Lost, Receive
    from weft._transport.opening import Part
    from weft._transport.sockets import Poller
    from weft._wire.messages import Message

PIECE_BYTES = 64 * 1024
"""What is read of a file at once, to be encrypted while it is in the processor's cache."""


class Sink(Protocol):
    """Takes the bytes of one parcel."""

    def window(self) -> memoryview:
        """Return where the next bytes go: writable, no longer than what is missing, not empty."""
        ...

    def took(self, size_bytes: int) -> bool:
        """So many came into the window; tell whether these were the last."""
        ...


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

        It returns who takes a parcel's bytes, all of them; None: they are not wanted any more. Of
        an empty parcel nothing more is told; if the connection ends before, neither.
        ProtocolError: there is no place of that size, and the connection ends.
        """
        super().__init__(poller, sock, receive, lost, part=part, arrivals=arrivals)
        self._sink_for = sink_for
        self._outbox: deque[memoryview | _FilePart] = deque()
        self._is_waiting = True
        """The poller waits until bytes can be sent."""
        self._parcels = ParcelReader()
        self._sink: Sink | None = None
        """Of the parcel that is coming."""

    # -------------------------------------------------------------- sending

    def send_file(self, tag: int, fd: int, offset: int, size: int) -> None:
        """Send bytes of a file as a parcel, behind what is queued so far. Never blocks.

        `fd` may be closed at once. The bytes may not change until they are sent, unless the
        receiver can tell. If there are fewer by then, zeros follow.
        """
        if self.closed:
            return
        self._frame()
        self._outbox.append(memoryview(parcel_header(tag, size)))
        self._outbox.append(_FilePart(os.dup(fd), offset, size))
        self._poller.traffic.sent_bytes += size
        self._push()

    @property
    def is_sending(self) -> bool:
        """Whether there is something that the peer has not taken yet."""
        return bool(self._outbox)

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
        if self.closed or not isinstance(tls, SecureSocket):
            return
        left = TURN_BYTES
        try:
            while outbox:
                first = outbox[0]
                if isinstance(first, memoryview):
                    outbox[0] = first = first[tls.send(first) :]
                elif left > 0:
                    left -= first.send(tls)
                else:
                    break
                if not first:
                    self._drop_first()
        except BlockingIOError:
            pass
        except OSError as error:
            self._drop_outbox()
            self._stop_sending(error)
        if bool(outbox) != self._is_waiting:
            self._is_waiting = bool(outbox)
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
        while self._outbox and self._opening is None and not self.closed:
            waiter.register(self._socket, select.POLLOUT)
            if not waiter.poll(max(0.0, until - monotonic()) * 1000):
                return
            self._push()

    def _drop_first(self) -> None:
        first = self._outbox.popleft()
        if isinstance(first, _FilePart):
            first.close()

    def _drop_outbox(self) -> None:
        while self._outbox:
            self._drop_first()

    # -------------------------------------------------------------- receiving

    @override
    def _read(self) -> bool:
        """Receive for one turn; return whether there was anything, and may be more."""
        size = 0
        tls = cast("SecureSocket", self._socket)
        # What is inside TLS already makes no socket readable.
        while not self.closed and (size < TURN_BYTES or tls.pending()):
            got = self._read_once(tls)
            if not got:
                break
            size += got
        self._poller.traffic.read_bytes += size
        return size > 0

    def _read_once(self, tls: SecureSocket) -> int:
        """Receive; return how many bytes came, 0 if there are none or the connection ended."""
        sink, data = self._sink, b""
        try:
            if sink is None:
                data = tls.recv(max(READ_BYTES, self._parcels.missing()))
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
            self._took(sink, got)
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
        sink = self._sink_for(parcel)
        self._sink = sink if parcel.size else None

    def _put(self, part: memoryview) -> None:
        while part and (sink := self._sink) is not None:
            window = sink.window()[: len(part)]
            window[:], part = part[: len(window)], part[len(window) :]
            self._took(sink, len(window))

    def _took(self, sink: Sink, size: int) -> None:
        if sink.took(size) and self._sink is sink:
            self._sink = None

    # -------------------------------------------------------------- the end

    @override
    def abandon(self) -> None:
        """Let go of the socket and the files in a forked child."""
        self._drop_outbox()
        super().abandon()

    @override
    def close(self) -> None:
        """End the connection without telling `lost`. Parcels that have not gone are lost."""
        super().close()
        self._sink = None
        self._drop_outbox()


class _FilePart:
    """Bytes of a file that are to be sent; its length is how many are left."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._offset = offset
        self._end = offset + size
        self._piece = memoryview(b"")

    def __len__(self) -> int:
        return self._end - self._offset

    def send(self, tls: SecureSocket) -> int:
        """Send some; return how many. BlockingIOError: none for now. OSError: it has failed."""
        if not self:
            return 0
        sent = 0
        if tls.has_kernel_sending and not self._piece:
            most = min(TURN_BYTES, len(self))
            sent = os.sendfile(tls.fileno(), self._fd, self._offset, most)
        if not sent:
            if not self._piece:
                most = min(PIECE_BYTES, len(self))
                self._piece = memoryview(os.pread(self._fd, most, self._offset) or bytes(most))
            # TLS wants to be asked again with the same bytes, so they are kept.
            sent = tls.send(self._piece)
            self._piece = self._piece[sent:]
        self._offset += sent
        return sent

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)
