"""TLS on a socket, in the words of a socket that does not block.

Facts about OpenSSL: a write that would block is repeated with the same bytes, and at least as many.
A read that has room for a whole record leaves nothing inside, so that the socket alone tells
whether there is more. After a failed write, what has arrived can still be read. Without session
tickets a server sends nothing by itself after the handshake.

Facts about kernel TLS: the kernel can encrypt what is sent (kTLS) if it has the protocol "tls" for
TCP. OpenSSL 3 asks it to with an option that Python has a name for from 3.12 on; then `sendfile`
works. A connection tells by an option of the socket whether it came to that.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from functools import lru_cache
from typing import cast

from weft._override import override

RECORD_BYTES = 16 * 1024
"""The most that TLS puts into one record."""
WRITE_BYTES = 256 * 1024
"""So much is given to one write, which leaves the interpreter's lock to others."""
TURN_BYTES = 1024 * 1024
"""So much of one socket's before others get their turn, if the peer is as fast as this process."""
_ENABLE_KTLS = 1 << 3
_TCP_ULP = 31
_SOL_TLS, _TLS_TX = 282, 1


class SecureSocket(ssl.SSLSocket):
    """A socket with TLS that says BlockingIOError when it would have to wait.

    Until the handshake is done only `do_handshake` may be called; it says in SSLError what it waits
    for.
    """

    early = b""
    """What arrived before anybody called `recv`; its next call returns this."""
    has_rest = False
    """What was taken has gone: see WideSocket."""

    def send_rest(self) -> None:
        """Do nothing."""

    # The flags of a socket's own methods have no meaning here.
    @override
    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:  # type: ignore[override]
        """Send what the peer takes; return how much. BlockingIOError: nothing.

        The next call goes on with the bytes that follow.
        """
        view = memoryview(data)
        sent = 0
        try:
            while sent < len(view):
                sent += self.write(view[sent : sent + WRITE_BYTES])
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            if not sent:
                raise BlockingIOError from None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise BrokenPipeError(errno.EPIPE, "the peer closed the connection") from None
        return sent

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
                    break  # Usually it was the last. If not, the socket is still readable.
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not parts:
                raise BlockingIOError from None
        except OSError as error:
            # What came before the end is handled first; the next read meets the end again.
            if not parts:
                raise OSError(error.errno, words(error)) from None
        return b"".join(parts)

    @override
    def recv_into(  # type: ignore[override]
        self, buffer: bytearray | memoryview, nbytes: int | None = None, flags: int = 0
    ) -> int:
        """Put what has arrived into a buffer, as much as fits; return how much, 0 at the end.

        BlockingIOError: nothing is there yet.
        """
        view = memoryview(buffer)[:nbytes]
        size = 0
        try:
            while size < len(view):
                # A record at a time.
                part = self.read(len(view) - size, view[size:])
                if not part:
                    break
                size += cast("int", part)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not size:
                raise BlockingIOError from None
        except OSError:
            # What came before the end is taken first; the next read meets the end again.
            if not size:
                raise
        return size

    @override
    def shutdown(self, how: int) -> None:
        """End one or both directions. What has arrived can still be read."""
        # The one of SSLSocket forgets TLS, and goes on without.
        socket.socket.shutdown(self, how)

    @property
    def has_kernel_sending(self) -> bool:
        """Whether the kernel encrypts what is sent here: then `os.sendfile` may be used."""
        with contextlib.suppress(OSError):
            return bool(self.getsockopt(_SOL_TLS, _TLS_TX, 4))
        return False


def new_context(protocol: int) -> ssl.SSLContext:
    """Return a context for connections as they are everywhere in Weft."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslsocket_class = SecureSocket
    if has_kernel_tls():
        context.options |= _ENABLE_KTLS
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    return context


def wrap(
    context: ssl.SSLContext, sock: socket.socket, server_hostname: str | None = None
) -> SecureSocket:
    """Put TLS around a connected socket, which is not to be used again.

    `server_hostname`: who is called; None: this process was.
    """
    return cast(
        "SecureSocket",
        context.wrap_socket(
            sock,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
            do_handshake_on_connect=False,
        ),
    )


@lru_cache
def has_kernel_tls() -> bool:
    """Tell whether the kernel can encrypt for TCP connections, and OpenSSL would ask it to."""
    if ssl.OPENSSL_VERSION_INFO < (3, 0):
        return False
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"tls")
        except OSError as error:
            # Who knows the protocol says that there is no connection to use it on.
            return error.errno == errno.ENOTCONN
    return True


def words(error: Exception) -> str:
    """Return why, without OpenSSL's numbers and file names."""
    match error:
        case ssl.SSLError(reason=str(reason)):
            return f"TLS failed: {reason.lower().replace('_', ' ')}"
        case OSError(strerror=str(reason)):
            return reason
        case _:
            return str(error)
