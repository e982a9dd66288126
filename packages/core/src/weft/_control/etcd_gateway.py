"""Speaking with etcd through its gateway: JSON over HTTP, which the standard library can do.

Facts about etcd's gateway
- The path is /v3/ and the call's name; bytes travel as base64, 64-bit numbers as strings, fields
  that are zero are left out.
- An error is an answer with a status over 200 and a `code` as of gRPC: 8 where there is no room, 14
  while the members elect a leader.
- A watch is one answer that does not end, with one JSON object a line.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from base64 import b64decode, b64encode
from typing import Any
from urllib.parse import urlsplit

from weft._clock import monotonic
from weft._control.base import JournalError, JournalFullError

RESOURCE_EXHAUSTED, UNAVAILABLE = 8, 14
RETRY_S = 0.05


class EtcdGateway:
    """A connection to one of etcd's members, made when it is needed; for one thread."""

    def __init__(self, endpoints: list[str], *, timeout_s: float) -> None:
        self._endpoints = endpoints
        self._timeout_s = timeout_s
        self._turn = 0
        self._pause = threading.Event()
        """Never set."""
        self._connection: http.client.HTTPConnection | None = None

    def call(
        self, what: str, body: dict[str, Any], *, until: float = float("-inf")
    ) -> dict[str, Any]:
        """Ask the members in turn until one answers: each once, then on until a time.

        Raises:
            JournalFullError: etcd has no room, and did nothing.
            JournalError: No member answered, or one said no.
        """
        tries = len(self._endpoints)
        is_sure = True
        while True:
            try:
                return self._ask(what, body)
            except JournalFullError as error:
                if is_sure:
                    raise
                raise JournalError(str(error)) from None  # An earlier try may have been done.
            except (OSError, http.client.HTTPException) as error:
                is_sure = False
                tries -= 1
                self._drop()
                if tries <= 0 and monotonic() >= until:
                    where = self._endpoints[self._turn]
                    raise JournalError(f"etcd at {where} does not answer: {error}") from error
                self._turn = (self._turn + 1) % len(self._endpoints)
                self._pause.wait(RETRY_S if tries <= 0 else 0)

    def _ask(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        with contextlib.closing(self._sent(what, body)) as response:
            text = response.read()
        try:
            answer: dict[str, Any] = json.loads(text)
        except ValueError:
            raise http.client.HTTPException(f"{response.status}: {text[:80]!r}") from None
        if response.status != http.client.OK:
            message = answer.get("message") or answer.get("error") or text.decode()
            if answer.get("code") == UNAVAILABLE:
                raise http.client.HTTPException(message)
            kind = JournalFullError if answer.get("code") == RESOURCE_EXHAUSTED else JournalError
            raise kind(f"etcd: {message}")
        return answer

    def _sent(self, what: str, body: dict[str, Any]) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = self._connect(self._timeout_s)
        self._connection.request("POST", f"/v3/{what}", json.dumps(body))
        return self._connection.getresponse()

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        url = urlsplit(self._endpoints[self._turn])
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        return kind(url.hostname or "localhost", url.port, timeout=timeout_s)

    def range(self, first: bytes, end: bytes = b"", most: int = 0) -> list[tuple[bytes, bytes]]:
        """Return the keys from one to before another and their values, in order, at most so many.

        Without an end: the one key, if it is there.
        """
        body = {"key": _text(first), "range_end": _text(end), "limit": most}
        found = self.call("kv/range", body).get("kvs", [])
        return [(b64decode(each["key"]), b64decode(each.get("value", ""))) for each in found]

    def wait_deleted(self, key: bytes, revision: int, wait_s: float) -> None:
        """Wait until a key is deleted after a revision, or for so long, or while etcd is well."""
        request = {"key": _text(key), "filters": ["NOPUT"], "start_revision": str(revision + 1)}
        watch = {"create_request": request}
        connection = self._connect(wait_s)
        until = monotonic() + wait_s
        with contextlib.closing(connection), contextlib.suppress(OSError, ValueError):
            connection.request("POST", "/v3/watch", json.dumps(watch))
            response = connection.getresponse()
            while monotonic() < until and (line := response.readline()):
                if json.loads(line).get("result", {}).get("events"):
                    return

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Close the connection."""
        self._drop()


def compare_created(key: bytes, revision: int) -> dict[str, Any]:
    """Return the condition that a key was created at a revision; 0: that it is not there."""
    return {"key": _text(key), "target": "CREATE", "create_revision": str(revision)}


def put(key: bytes, value: bytes, *, lease: int = 0) -> dict[str, Any]:
    """Return the request to set a key."""
    return {
        "request_put": {"key": _text(key), "value": _text(value), "lease": str(lease)},
    }


def delete(first: bytes, end: bytes) -> dict[str, Any]:
    """Return the request to delete the keys from one to before another."""
    return {"request_delete_range": {"key": _text(first), "range_end": _text(end)}}


def _text(value: bytes) -> str:
    return b64encode(value).decode()
