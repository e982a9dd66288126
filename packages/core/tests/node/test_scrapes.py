"""A text over HTTP: good and bad requests, slow and rude readers."""

from __future__ import annotations

import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft._node import scrapes
from weft._node.scrapes import (
    REQUEST_BYTES,
    SCRAPES,
    RequestRefusedError,
    ScrapeServer,
    read_request,
)
from weft._transport.sockets import Poller
from weft._transport.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
TEXT = "text/plain"


# ------------------------------------------------------------------ requests


def status_of(data: bytes, *, is_all: bool = False) -> int:
    """Return the status that a request gets; 0: more is to come."""
    try:
        return 200 if read_request(data, {"/metrics"}, is_all=is_all) else 0
    except RequestRefusedError as refused:
        return refused.status


@pytest.mark.parametrize(
    ("data", "accept"),
    [
        (GET, ""),
        (b"GET /metrics HTTP/1.0\r\n\r\n", ""),
        (b"GET /metrics?name=x HTTP/1.1\r\nAccept: a/b\r\n\r\n", "a/b"),
        (
            b"GET /metrics HTTP/1.1\r\naccept:a/b;q=1\r\nX: y\r\nACCEPT: \tc/d\r\n\r\n",
            "a/b;q=1, c/d",
        ),
        (b"GET /metrics HTTP/1.1\r\nX-Empty:\r\n\r\nand what follows", ""),
    ],
)
def test_request_is_understood(data: bytes, accept: str) -> None:
    assert read_request(data, {"/metrics"}, is_all=False) == ("GET", "/metrics", accept)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\n\n", 400),
        (b"GET /met\x00rics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nName : value\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nA: \x01\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/x HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"get /metrics HTTP/1.1\r\n\r\n", 405),
        (b"x" * (REQUEST_BYTES + 1), 431),
        (b"GET /metrics HTTP/1.1\r\nA: " + b"b" * REQUEST_BYTES + b"\r\n\r\n", 431),
    ],
)
def test_bad_request_is_refused(data: bytes, status: int) -> None:
    assert status_of(data) == status


def test_request_is_whole_with_its_last_byte_and_refused_if_that_never_comes() -> None:
    for end in range(len(GET)):
        assert status_of(GET[:end]) == 0
        assert status_of(GET[:end], is_all=True) == 400
    assert status_of(GET) == 200


@given(st.binary() | st.lists(st.sampled_from([*b"GET /metrics HTTP/1.1\r\n:A "])).map(bytes))
def test_no_bytes_do_anything_else(data: bytes) -> None:
    assert status_of(data, is_all=True) in {200, 400, 404, 405, 431}


# ------------------------------------------------------------------ connections


class Served:
    """A server, whose poller turns while a client waits."""

    def __init__(self, path: Path) -> None:
        self.poller = Poller()
        self.timers = Timers()
        self.text = "the text\n"
        self.accepts: list[str] = []
        self.waiting: list[Callable[[str, str], None]] = []
        self.is_slow = False
        self.server = ScrapeServer(self.poller, self.timers, {"/metrics": self.write})
        self.listener = socket.socket(socket.AF_UNIX)
        self.path = str(path)
        self.listener.bind(self.path)
        self.listener.listen(100)
        self.server.listen(self.listener)
        self.clients: list[socket.socket] = []

    def write(self, accept: str, done: Callable[[str, str], None]) -> None:
        self.accepts.append(accept)
        if self.is_slow:
            self.waiting.append(done)
        else:
            done(TEXT, self.text)

    def connect(self, data: bytes = b"") -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        self.clients.append(client)
        client.setblocking(False)
        client.connect(self.path)
        client.sendall(data)
        return client

    def turn(self) -> None:
        """Do all that can be done now."""
        while events := self.poller.wait(0):
            self.poller.dispatch(events)

    def answer(self, client: socket.socket) -> bytes:
        """Return all that comes, up to the end of it."""
        found = b""
        while True:
            self.turn()
            try:
                data = client.recv(1 << 20)
            except BlockingIOError:
                raise AssertionError(f"no end after {found!r}") from None
            if not data:
                client.close()
                self.turn()
                return found
            found += data

    def open_scrapes(self) -> int:
        return len(self.server._scrapes)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.turn()
        assert self.open_scrapes() == 0
        self.poller.remove(self.listener.fileno())
        self.listener.close()
        self.poller.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "s")
    yield served
    served.close()


def parts(answer: bytes) -> tuple[str, list[str], bytes]:
    """Return (status line, headers, body)."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *headers = head.decode().split("\r\n")
    return first, headers, body


def test_text_is_served_and_the_connection_closed(served: Served) -> None:
    first, headers, body = parts(served.answer(served.connect(GET)))
    assert first == "HTTP/1.1 200 OK"
    assert headers == ["Content-Type: text/plain", "Content-Length: 9", "Connection: close"]
    assert body == b"the text\n"
    assert served.open_scrapes() == 0


def test_request_may_come_byte_by_byte(served: Served) -> None:
    client = served.connect()
    for number in GET:
        served.turn()
        client.sendall(bytes([number]))
    assert parts(served.answer(client))[2] == b"the text\n"


def test_writer_is_told_what_is_accepted(served: Served) -> None:
    served.answer(served.connect(b"GET /metrics HTTP/1.1\r\nAccept: a/b\r\n\r\n"))
    assert served.accepts == ["a/b"]


def test_head_is_the_same_without_the_text(served: Served) -> None:
    got = parts(served.answer(served.connect(GET)))
    assert parts(served.answer(served.connect(GET.replace(b"GET", b"HEAD")))) == (*got[:2], b"")


def test_bad_request_is_answered_and_harms_nobody(served: Served) -> None:
    other = served.connect(GET[:10])
    first, headers, body = parts(served.answer(served.connect(b"nonsense\r\n\r\n")))
    assert first == "HTTP/1.1 400 Bad Request"
    assert f"Content-Length: {len(body)}" in headers
    assert served.accepts == []
    other.sendall(GET[10:])
    assert parts(served.answer(other))[0] == "HTTP/1.1 200 OK"


def test_other_methods_are_told_which_are_allowed(served: Served) -> None:
    first, headers, _ = parts(served.answer(served.connect(b"PUT /metrics HTTP/1.1\r\n\r\n")))
    assert first == "HTTP/1.1 405 Method Not Allowed"
    assert "Allow: GET, HEAD" in headers


def test_answer_arrives_although_more_was_sent_than_was_read(served: Served) -> None:
    client = served.connect(b"x" * (4 * REQUEST_BYTES))
    assert parts(served.answer(client))[0].startswith("HTTP/1.1 431 ")


def test_who_sends_on_and_on_is_not_read_for_ever(served: Served) -> None:
    client = served.connect(GET)

    def send_on_and_on() -> None:
        while True:
            served.turn()
            client.sendall(b"x" * REQUEST_BYTES)

    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        send_on_and_on()
    assert served.open_scrapes() == 0


def test_second_request_is_not_answered(served: Served) -> None:
    assert served.answer(served.connect(GET + GET)).count(b"HTTP/1.1") == 1


def test_reader_that_has_closed_its_half_is_answered_without_busy_waiting(served: Served) -> None:
    served.is_slow = True
    client = served.connect(GET)
    client.shutdown(socket.SHUT_WR)
    served.turn()
    assert served.poller.wait(0) == [], "nothing is to be done while the text is made"
    served.waiting.pop()(TEXT, "late\n")
    assert parts(served.answer(client))[2] == b"late\n"


def test_reader_that_closes_its_half_too_early_is_told(served: Served) -> None:
    client = served.connect(GET[:-2])
    client.shutdown(socket.SHUT_WR)
    assert parts(served.answer(client))[0] == "HTTP/1.1 400 Bad Request"


def test_large_text_goes_to_a_slow_reader_in_parts(served: Served) -> None:
    served.text = "line\n" * 1_000_000
    client = served.connect(GET)
    served.turn()
    assert served.open_scrapes() == 1
    assert parts(served.answer(client))[2] == served.text.encode()


@pytest.mark.parametrize("sent", [b"", GET[:10], GET])
def test_reader_that_leaves_is_forgotten(served: Served, sent: bytes) -> None:
    served.text = "line\n" * 1_000_000
    client = served.connect(sent)
    served.turn()
    assert served.open_scrapes() == 1
    client.close()
    served.turn()
    assert served.open_scrapes() == 0


def test_reader_that_leaves_while_the_text_is_made_is_forgotten(served: Served) -> None:
    served.is_slow = True
    served.connect(GET).close()
    served.turn()
    served.waiting.pop()(TEXT, "late\n")
    served.turn()
    assert served.open_scrapes() == 0


@pytest.mark.parametrize("sent", [b"", GET[:10], GET])
def test_connection_ends_in_time_whatever_its_reader_does(
    served: Served, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrapes, "SCRAPE_S", 0.0)
    served.text = "line\n" * 1_000_000
    client = served.connect(sent)
    served.turn()
    assert served.open_scrapes() == 1
    served.timers.ring()
    assert served.open_scrapes() == 0
    client.setblocking(True)
    rest = b"".join(iter(lambda: client.recv(1 << 20), b""))
    assert len(rest) < len(served.text)


def test_text_that_is_made_too_late_is_for_nobody(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrapes, "SCRAPE_S", 0.0)
    served.is_slow = True
    client = served.connect(GET)
    served.turn()
    served.timers.ring()
    served.waiting.pop()(TEXT, "too late\n")
    assert served.answer(client) == b""


def test_connections_are_bounded_and_those_beyond_wait(served: Served) -> None:
    idle = [served.connect() for _ in range(SCRAPES)]
    late = [served.connect(GET) for _ in range(3)]
    served.turn()
    assert served.open_scrapes() == SCRAPES
    assert served.accepts == []
    idle[0].close()
    assert [parts(served.answer(client))[0] for client in late] == ["HTTP/1.1 200 OK"] * 3
    assert served.open_scrapes() == SCRAPES - 1


def test_lack_of_descriptors_is_no_end_and_no_busy_wait(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrapes, "PAUSE_S", 0.0)
    client = served.connect(GET)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        served.turn()
        assert served.open_scrapes() == 0
        served.timers.ring()
        served.turn()
        assert served.open_scrapes() == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    served.timers.ring()
    assert parts(served.answer(client))[0] == "HTTP/1.1 200 OK"
