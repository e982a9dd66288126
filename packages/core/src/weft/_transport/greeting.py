"""For whom a connection is, read from its TLS greeting, which stays in the socket.

OpenSSL reads it, from memory: there is no parser here that could err. Its answer is thrown away;
who is asked for reads the same bytes again and answers itself.

Facts about Linux: what is peeked at stays readable, so a wait for more would return at once. With
SO_RCVLOWAT it returns when there is more than that, and at the end.
"""

from __future__ import annotations

import socket
import ssl
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_BYTES = 16 * 1024
"""Greetings have some 500 bytes, or 2,000 with keys for the time after quantum computers."""


class _Reader(ssl.SSLObject):
    asked: str | None = None
    """The name in the greeting."""


class Greeting:
    """What has come of one connection's greeting."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._incoming = ssl.MemoryBIO()
        self._given = 0
        self._reader = cast(
            "_Reader", _context().wrap_bio(self._incoming, ssl.MemoryBIO(), server_side=True)
        )

    def read(self) -> str | None:
        """Return for whom it is, empty for nobody; None: there is more to come, if it comes."""
        try:
            seen = self._socket.recv(MOST_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return ""
        self._incoming.write(seen[self._given :])
        self._given = len(seen)
        if not self._is_read() and self._given < MOST_BYTES:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._given + 1)
            return None
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        return self._reader.asked or ""

    def _is_read(self) -> bool:
        """Let OpenSSL read on; tell whether it has come to a name, or to where there can be none.

        A name that is no ASCII is an error in the callback, which Python reports to stderr: not
        here, where whoever reaches the port could fill the log with it.
        """
        report = sys.unraisablehook
        sys.unraisablehook = lambda met: _report_others(met, report)
        try:
            self._reader.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            pass
        finally:
            sys.unraisablehook = report
        return True


def _report_others(met: Any, report: Callable[[Any], object]) -> None:
    if not isinstance(met.exc_value, UnicodeDecodeError):
        report(met)


def _note(reader: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int:
    """Note the name, and end the handshake before anything is computed for it."""
    cast("_Reader", reader).asked = name
    return ssl.ALERT_DESCRIPTION_USER_CANCELLED


@cache
def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslobject_class = _Reader
    context.sni_callback = _note
    return context
