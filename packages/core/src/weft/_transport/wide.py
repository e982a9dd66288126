"""TLS on a socket for many bytes: the kernel is asked once for many records.

OpenSSL itself asks it once for each record that it sends, and twice for each that comes. Here it
reads and writes memory, of which 128 KiB at a time go to the socket and come from there.

All sockets of this kind share a buffer: they belong to one thread of a process.

Facts about speed (measured: TLS 1.3 over loopback, from a file to a file whose pages exist, two
cores, GB/s): 1.5 with a call for each record, 2.0 with 128 KiB at a time, as a plain sendfile whose
bytes are dropped; with 64 KiB or 256 KiB less than 1.9.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Literal, cast

from weft._override import override
from weft._transport.tls import RECORD_BYTES, TURN_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

FETCH_BYTES = 128 * 1024
"""So much of what is encrypted is sent and received at once: it stays in the processor's cache."""


class WideSocket(socket.socket):
    """A socket with TLS that says BlockingIOError when it would have to wait, as SecureSocket.

    What was taken may not have gone: `has_rest` says so, and `send_rest` goes on.
    """

    early = b""
    """What arrived before anybody called `recv`; its next call returns this."""
    has_kernel_sending = False
    _fetched = memoryview(bytearray(FETCH_BYTES))

    def __init__(self, context: ssl.SSLContext, sock: socket.socket, name: str | None) -> None:
        """Take the socket over, which is not to be used again.

        `name`: who is called; None: this process was.
        """
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.setblocking(False)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=name is None, server_hostname=name
        )
        self._rest = memoryview(b"")
        """What is encrypted and has not gone."""

    # -------------------------------------------------------------- until it is open

    def do_handshake(self) -> None:
        """Go on with the handshake. SSLError: it has failed, or says what it waits for."""
        while True:
            self._send_or_want()
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send_or_want()
                self._fetch()
            except ssl.SSLError:
                # The peer is told why.
                with contextlib.suppress(OSError):
                    self.send_rest()
                raise
            else:
                break
        self._send_or_want()

    def getpeercert(self, *, binary_form: Literal[True]) -> bytes | None:
        """Return the peer's certificate, as an SSLSocket does."""
        return self._tls.getpeercert(binary_form)

    def read(self, size: int) -> bytes:
        """Return bytes of one record; nothing at the end. SSLWantReadError: none is there yet."""
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._fetch()
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return b""

    def write(self, data: bytes) -> int:
        """Take a few bytes; return how many. SSLWantWriteError: nothing can be taken now."""
        self._send_or_want()
        taken = self._tls.write(data)
        with contextlib.suppress(BlockingIOError):
            self.send_rest()
        return taken

    def _send_or_want(self) -> None:
        try:
            self.send_rest()
        except BlockingIOError:
            raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "it is full") from None

    def _fetch(self) -> None:
        try:
            size = super().recv_into(self._fetched)
        except BlockingIOError:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "nothing is there") from None
        if size:
            self._incoming.write(self._fetched[:size])
        else:
            self._incoming.write_eof()

    # -------------------------------------------------------------- sending

    @override
    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:  # type: ignore[override]
        """Take what the peer takes, and a little more; return how much. BlockingIOError: nothing.

        The next call goes on with the bytes that follow.
        """
        view = memoryview(data)
        taken = 0
        try:
            self.send_rest()
            while taken < len(view):
                taken += self._tls.write(view[taken : taken + FETCH_BYTES])
                self.send_rest()
        except BlockingIOError:
            if not taken:
                raise
        return taken

    @property
    def has_rest(self) -> bool:
        """Whether bytes were taken that have not gone."""
        return bool(self._rest)

    def send_rest(self) -> None:
        """Send what was taken. BlockingIOError: some of it has not gone."""
        rest = self._rest or memoryview(self._outgoing.read())
        while rest:
            self._rest = rest
            self._rest = rest = rest[super().send(rest) :]

    # -------------------------------------------------------------- receiving

    @override
    def recv(self, buflen: int = RECORD_BYTES, flags: int = 0) -> bytes:
        """Return what has arrived, up to about `buflen` bytes and a turn's; nothing at the end.

        BlockingIOError: nothing is there yet.
        """
        if self.early:
            early, self.early = self.early, b""
            return early
        parts: list[bytes] = []
        size = 0
        try:
            while size < min(buflen, TURN_BYTES):
                part = self.read(RECORD_BYTES)
                parts.append(part)
                size += len(part)
                if len(part) < RECORD_BYTES:
                    break  # What is behind it may have a place to go to. `pending` tells.
        except ssl.SSLWantReadError:
            if not parts:
                raise BlockingIOError from None
        except OSError:
            # What came before the end is handled first; the next read meets the end again.
            if not parts:
                raise
        return b"".join(parts)

    @override
    def recv_into(  # type: ignore[override]
        self, buffer: bytearray | memoryview, nbytes: int | None = None, flags: int = 0
    ) -> int:
        """Put what has arrived into a buffer, as much as fits; return how much, 0 at the end.

        BlockingIOError: nothing is there yet.
        """
        view = memoryview(buffer)[:nbytes]
        size, most = 0, len(view)
        read = cast("Callable[[int, memoryview], int]", self._tls.read)
        try:
            while size < most:
                # A record at a time.
                try:
                    part = read(most, view[size:])
                except ssl.SSLWantReadError:
                    self._fetch()
                    continue
                if not part:
                    break
                size += part
        except ssl.SSLWantReadError:
            if not size:
                raise BlockingIOError from None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            pass
        except OSError:
            # What came before the end is taken first; the next read meets the end again.
            if not size:
                raise
        return size

    def pending(self) -> int:
        """Return how many bytes have been received and not asked for, encrypted or not.

        If these are no whole record, the next read says that nothing is there.
        """
        return self._tls.pending() + self._incoming.pending
