"""Who reads along in log files: they are told that there is more, and read it themselves.

A question is answered once, when there is something new. So nothing piles up here for who is slow,
and who has gone is owed nothing.

The daemon's own log is written by others too, those that it starts: what they write is told when
the daemon is next awake.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from weft._launch import LOG_FILE
from weft._wire.codec import pack, unpack
from weft._wire.messages import Answer
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.clients import Client, Clients

QUESTION = "log"
_WORKER_FILE = re.compile(r"worker-((?:[0-9a-f]{2})+)\.(?:out|err)")


class Followers:
    """Answers QUESTION. Body: [name of a log file, how much is known to be written].

    Answer: [how much is written, whether that is all]; as soon as there is more than is known, or
    nobody is left to write. The number counts from the first follower of the file on.
    """

    def __init__(
        self, session_dir: str, clients: Clients, is_here: Callable[[bytes], bool]
    ) -> None:
        """`is_here` tells whether a worker has not ended."""
        self._clients = clients
        self._is_here = is_here
        self._own_path = Path(session_dir, LOG_FILE)
        self._written_of: dict[str, int] = {}
        """Of files that are followed, or were, as long as somebody may write to them."""
        self._asked_of: dict[str, list[tuple[Client, int]]] = {}
        """By file: who has asked, in which request that is not answered yet."""

    def ask(self, client: Client, request: int, body: bytes) -> None:
        """A client follows a file."""
        try:
            name, known = unpack(body, tuple[str, int])
        except ProtocolError as error:
            self._clients.send(client, Answer(request, error=str(error)))
            return
        if name == LOG_FILE:
            self._measure_own()
        elif not self._may_grow(name):
            self._clients.send(client, Answer(request, pack((known, True))))
            return
        written = self._written_of.setdefault(name, 0)
        if written != known:
            self._clients.send(client, Answer(request, pack((written, False))))
        else:
            self._asked_of.setdefault(name, []).append((client, request))

    def _may_grow(self, name: str) -> bool:
        found = _WORKER_FILE.fullmatch(name)
        return found is not None and self._is_here(bytes.fromhex(found[1]))

    def wrote(self, name: str, size_bytes: int) -> None:
        """So much more is in a file."""
        if name in self._written_of:
            self._written_of[name] += size_bytes
            self._tell(name, is_over=False)

    def ended(self, name: str) -> None:
        """Nobody is left who writes to a file."""
        if name in self._written_of:
            self._tell(name, is_over=True)
            del self._written_of[name]

    def look_at_own(self) -> None:
        """The daemon was awake, and may have written to its log."""
        if LOG_FILE in self._asked_of:
            self._measure_own()

    def _measure_own(self) -> None:
        written = self._own_path.stat().st_size
        if written != self._written_of.get(LOG_FILE):
            self._written_of[LOG_FILE] = written
            self._tell(LOG_FILE, is_over=False)

    def _tell(self, name: str, *, is_over: bool) -> None:
        body = pack((self._written_of[name], is_over))
        for client, request in self._asked_of.pop(name, ()):
            self._clients.send(client, Answer(request, body))

    def answer_no_more(self, client: Client, request: int) -> None:
        """A client does not want an answer any more, if it has not come."""
        self._forget(lambda asked: asked == (client, request))

    def forget(self, client: bytes) -> None:
        """A client is gone."""
        self._forget(lambda asked: asked[0].worker_id == client)

    def _forget(self, is_it: Callable[[tuple[Client, int]], bool]) -> None:
        for name, asked in list(self._asked_of.items()):
            left = [one for one in asked if not is_it(one)]
            if left:
                self._asked_of[name] = left
            else:
                del self._asked_of[name]
