"""A connection until it is open: TCP, TLS, the certificate, the proof of the token.

    connecting -> greeting (TLS) -> proving (`_wire/handshake.py`) -> open

`step` goes on as far as what has arrived allows; whoever waits for the socket calls it again. It
has no callbacks and no clock: its owner tells about the end, and gives up on it (`arrivals.py`).

What is always true
1. Nothing of the peer's is interpreted before both sides have proven the token, but TLS and the
   handshake's own bytes.
2. After an error nothing more happens; the owner closes the socket.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING, Protocol

from weft._transport.credentials import certificate_refusal, check_fingerprint
from weft._transport.join import shown_address
from weft._transport.tls import RECORD_BYTES, words, wrap
from weft._wire.handshake import NONCE_BYTES, ClientHandshake, ServerHandshake
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._transport.credentials import Credentials, MemberCredentials
    from weft._transport.tls import SecureSocket
    from weft._transport.wide import WideSocket
    from weft._wire.handshake import Handshake

    Wrapped = SecureSocket | WideSocket
    Wrap = Callable[[ssl.SSLContext, socket.socket, str | None], Wrapped]
    """`tls.wrap`, or what does it for many bytes (`wide.py`)."""

SILENT = "closed the connection without a word: nobody of that name is there, or it is busy"


class Part(Protocol):
    """Which end of a connection this process is, and all that it needs for it."""

    def wrap(self, sock: socket.socket) -> Wrapped:
        """Put TLS around a connected socket; the given object is not used again."""
        ...

    def check(self, tls: Wrapped) -> None:
        """Look at what TLS has agreed on. ProtocolError: it will not do."""
        ...

    def begin(self) -> Handshake:
        """Return this end's side of the proof."""
        ...

    def explain(self, error: Exception) -> str:
        """Say in one line why there is no connection."""
        ...


class CalledPart:
    """This process was called."""

    def __init__(self, credentials: MemberCredentials, wrap: Wrap = wrap) -> None:
        self._credentials = credentials
        self._wrap = wrap

    def wrap(self, sock: socket.socket) -> Wrapped:
        """Put TLS around a connected socket."""
        return self._wrap(self._credentials.called, sock, None)

    def check(self, tls: Wrapped) -> None:
        """Look at nothing: who calls shows no certificate."""

    def begin(self) -> Handshake:
        """Return the server's side of the proof."""
        return ServerHandshake(self._credentials.token, os.urandom(NONCE_BYTES))

    def explain(self, error: Exception) -> str:
        """Say in one line why there is no connection."""
        return f"a caller did not get in: {words(error)}"


class CallingPart:
    """This process calls somebody by name at an address."""

    def __init__(
        self, credentials: Credentials, name: str, host: str, port: int, wrap: Wrap = wrap
    ) -> None:
        """`name`: whom the greeting is for, such as `credentials.NODE`."""
        self._credentials = credentials
        self._wrap = wrap
        self._name = name
        self._address = shown_address(host, port)

    def wrap(self, sock: socket.socket) -> Wrapped:
        """Put TLS around a connected socket."""
        return self._wrap(self._credentials.calling, sock, self._name)

    def check(self, tls: Wrapped) -> None:
        """Look whether it is the very certificate."""
        found = tls.getpeercert(binary_form=True) or b""
        check_fingerprint(found, self._credentials.fingerprint, self._address)

    def begin(self) -> Handshake:
        """Return the client's side of the proof."""
        return ClientHandshake(self._credentials.token, os.urandom(NONCE_BYTES))

    def explain(self, error: Exception) -> str:
        """Say in one line why there is no connection."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return certificate_refusal(self._address, error)
        if isinstance(error, ssl.SSLEOFError | ConnectionResetError):
            return f"{self._name} at {self._address} {SILENT}"
        return f"no connection to {self._name} at {self._address}: {words(error)}"


class Opening:
    """One connection on its way."""

    def __init__(self, sock: socket.socket, part: Part) -> None:
        """`sock` is connected, or being connected (`call`). It does not block."""
        self.socket = sock
        """The one to close."""
        self.fd = sock.fileno()
        """The one to wait for; TLS takes it over."""
        self.wants_writing = True
        """Whether it goes on when bytes can be sent, too: at first, since TCP is connected then."""
        self._part = part
        self._tls: Wrapped | None = None
        self._handshake: Handshake | None = None
        self._unsent = b""

    def step(self) -> Wrapped | None:
        """Go on, when the socket is ready; return None if there is more to wait for.

        When it is open, return it; what has arrived behind the proof is `early`. ProtocolError: it
        will not be open, for a reason of one line.
        """
        self.wants_writing = False
        try:
            tls = self._tls or self._connect()
            if self._handshake is None:
                tls.do_handshake()
                self._part.check(tls)
                self._handshake = self._part.begin()
            self._prove(tls, self._handshake)
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLWantWriteError, BlockingIOError):
            self.wants_writing = True
            return None
        except OSError as error:
            raise ProtocolError(self.explain(error)) from None
        return tls

    def explain(self, error: Exception) -> str:
        """Say in one line why there is no connection."""
        return self._part.explain(error)

    def _connect(self) -> Wrapped:
        failed = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))
        # If the peer is gone already, this closes the descriptor, or the next use says so.
        self._tls = self.socket = self._part.wrap(self.socket)
        return self._tls

    def _prove(self, tls: Wrapped, handshake: Handshake) -> None:
        while True:
            self._say(tls, handshake)
            if handshake.failure is not None:
                raise type(handshake.failure)(self.explain(handshake.failure))
            if handshake.is_proven:
                tls.early = handshake.rest
                return
            data = tls.read(RECORD_BYTES)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the peer closed the connection")
            handshake.receive(data)

    def _say(self, tls: Wrapped, handshake: Handshake) -> None:
        self._unsent += handshake.say()
        try:
            while self._unsent:
                # TLS wants to be asked again with the same bytes.
                self._unsent = self._unsent[tls.write(self._unsent) :]
        except ssl.SSLWantWriteError:
            raise
        except OSError:
            # A failure is worth more than that its last words were not taken.
            if handshake.failure is None:
                raise


def call(host: str, port: int) -> socket.socket:
    """Begin to connect, without waiting. `host` is an address, since names have to be looked up.

    OSError: it is none, or there is no way to it.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock
