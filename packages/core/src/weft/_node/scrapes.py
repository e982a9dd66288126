"""A text over HTTP/1.1, for few readers: on unix sockets and on ports, one request a connection.

    reading -> answering -> sending -> leaving -> closed
       |                      ^
       +----------------------+  refused: 400, 404, 405, 431

A connection is closed after its answer, so nothing of a second request can be mistaken: HTTP allows
that to every server. A request is a line and headers; a body is not read. The head is read by hand:
the standard library's parsers want a blocking file, and the daemon has one thread.

What is always true
1. Nothing blocks: a peer that is slow waits in the poller.
2. At most `SCRAPES` connections are open; others wait in the kernel. Each holds at most twice
   `REQUEST_BYTES` and an answer, and is closed `SCRAPE_S` after it began, whatever the peer does.
3. While an answer is being made its connection is not read: a peer may have closed its half. One
   that has, and does not take the whole answer at once, is taken to be gone.

Source: RFC 9112, sections 2 to 5 and 9.6.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from weft._transport.sockets import Poller
    from weft._transport.timers import Timers

    Write = Callable[[str, Callable[[str, str], None]], None]
    """write(accept, done): writes the text for a request's Accept header; done(content_type, text)
    may be called later, once.
    """

# What browsers and scrapers send is a tenth of it.
REQUEST_BYTES = 8 * 1024
# What is sent beyond a request is read and thrown away, up to so much.
RECEIVED_BYTES = 1024 * 1024
SCRAPES = 32
SCRAPE_S = 10.0
# After a failure to accept: there are no descriptors, and without a pause the wait would be busy.
PAUSE_S = 1.0

_REQUEST_LINE = re.compile(rb"([!-~]+) ([!-~]+) HTTP/1\.[01]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
}


class RequestRefusedError(Exception):
    """A request that is answered with a status of its own."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


def read_request(
    data: bytes, paths: Container[str], *, is_all: bool
) -> tuple[str, str, str] | None:
    """Return (method, path, Accept header) of a request; None: its head is not whole yet.

    RequestRefusedError: it is no request, or for none of `paths`. `is_all`: nothing more will come.
    """
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    if re.search(rb"(?<!\r)\n", head):
        raise RequestRefusedError(400, "a line does not end in CR LF")
    if len(head) > REQUEST_BYTES:
        raise RequestRefusedError(431, f"the request has over {REQUEST_BYTES} bytes")
    if end < 0 and is_all:
        raise RequestRefusedError(400, "the request is not whole")
    if end < 0:
        return None
    first, *lines = head.split(b"\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if request is None:
        raise RequestRefusedError(400, "the first line is no request of HTTP/1.1")
    accepts = []
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise RequestRefusedError(400, "a line is no header")
        if header[1].lower() == b"accept":
            accepts.append(header[2].decode("latin-1"))
    method, target = request[1].decode(), request[2].decode()
    path = target.partition("?")[0]
    if path not in paths:
        raise RequestRefusedError(404, "metrics are at /metrics")
    if method not in {"GET", "HEAD"}:
        raise RequestRefusedError(405, "use GET")
    return method, path, ", ".join(accepts)


def response(status: int, content_type: str, text: str, *, has_body: bool = True) -> bytes:
    """Return an answer, or its head alone."""
    body = text.encode()
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(["Allow: GET, HEAD"] if status == 405 else []),
        "Connection: close",
    ]
    head = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"
    return head + body if has_body else head


def refusal(status: int, why: str) -> bytes:
    """Return the answer to a request that is refused."""
    return response(status, "text/plain; charset=utf-8", f"{why}\n")


class Scrape:
    """One connection, from its request to its end."""

    def __init__(self, server: ScrapeServer, poller: Poller, sock: socket.socket) -> None:
        self.closed = False
        self._server = server
        self._poller = poller
        self._sock = sock
        self._received = b""
        self._received_bytes = 0
        self._is_reading = True
        self._unsent = memoryview(b"")
        poller.add(sock.fileno(), self._handle)

    def _handle(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._send()
        if not self.closed:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._received_bytes += len(data)
        if self._is_reading:
            self._read(data)
        elif not data or self._received_bytes > RECEIVED_BYTES:
            self.close()

    def _read(self, data: bytes) -> None:
        self._received += data
        try:
            request = read_request(self._received, self._server.writers, is_all=not data)
        except RequestRefusedError as refused:
            self._answer(refusal(refused.status, refused.why))
            return
        if request is None:
            return
        method, path, accept = request
        self._is_reading = False
        self._poller.remove(self._sock.fileno())
        self._server.writers[path](
            accept,
            lambda content_type, text: self._made(
                response(200, content_type, text, has_body=method == "GET")
            ),
        )

    def _made(self, answer: bytes) -> None:
        if not self.closed:
            self._poller.add(self._sock.fileno(), self._handle)
            self._answer(answer)

    def _answer(self, answer: bytes) -> None:
        self._is_reading = False
        self._received = b""
        self._unsent = memoryview(answer)
        self._poller.watch_writing(self._sock.fileno(), on=True)
        self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._poller.watch_writing(self._sock.fileno(), on=False)
        # What the peer has sent beyond its request is read until it closes: a close now would reset
        # the connection, and could take the answer back.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End the connection."""
        if not self.closed:
            self.closed = True
            self._unsent = memoryview(b"")
            self._poller.remove(self._sock.fileno())
            self._sock.close()
            self._server.left(self)


class ScrapeServer:
    """Answers requests for texts."""

    def __init__(self, poller: Poller, timers: Timers, writers: Mapping[str, Write]) -> None:
        """`writers`: by path."""
        self.writers = writers
        self._poller = poller
        self._timers = timers
        self._scrapes: set[Scrape] = set()
        self._listeners: list[socket.socket] = []
        self._is_listening = True

    def listen(self, listener: socket.socket) -> None:
        """Take connections that come to a listening socket, from here on."""
        listener.setblocking(False)
        self._listeners.append(listener)
        self._poller.add(listener.fileno(), lambda _: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:
            self._pause()
            self._timers.call_later(PAUSE_S, self._resume)
            return
        sock.setblocking(False)
        scrape = Scrape(self, self._poller, sock)
        self._scrapes.add(scrape)
        self._timers.call_later(SCRAPE_S, scrape.close)
        if len(self._scrapes) == SCRAPES:
            self._pause()

    def left(self, scrape: Scrape) -> None:
        """A connection has ended."""
        self._scrapes.discard(scrape)
        self._resume()

    def _pause(self) -> None:
        """Let those who come wait in the kernel."""
        if self._is_listening:
            self._is_listening = False
            for listener in self._listeners:
                self._poller.remove(listener.fileno())

    def _resume(self) -> None:
        if not self._is_listening and len(self._scrapes) < SCRAPES:
            self._is_listening = True
            listeners, self._listeners = self._listeners, []
            for listener in listeners:
                self.listen(listener)
