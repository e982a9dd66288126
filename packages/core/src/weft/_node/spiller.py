"""The spiller: the process that writes spilled segments to files, and restores them.

The daemon starts it at the first need (spilling.py) and speaks with it over one socket pair. The
main thread reads messages and sends answers; the work is done in other threads, so that a restore,
for which a reader waits, does not wait behind a spill.

What is always true
1. Spill and Unspill are answered once each, whatever happens to the work.
2. Files are written one batch at a time, in the order of the messages. Before a batch begins, all
   files are removed that were to be by then: what an earlier Unlink freed is free.
3. When the session is over, or its daemon is dead, what was spilled is removed, and the process
   ends. It takes no longer than `END_S`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from weft._machines.segments import FULL
from weft._node import sessions
from weft._node.spilling import END_S
from weft._store.spill import (
    SpillError,
    SpillPlace,
    SpillSource,
    is_url,
    open_spill_files,
    restore,
)
from weft._transport.sockets import Poller, SocketConnection
from weft._wire.messages import Message, Spill, Spilled, Unlink, Unspill, Unspilled
from weft.exceptions import StoreFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Readers wait for these, and each can use two threads: enough to keep any disk busy.
RESTORES = 4


def run(session_dir: str, store_dir: str, where: str, fd: str, life_fd: str) -> NoReturn:
    """Be the spiller of a session: serve the daemon at the other end of `fd`.

    The end of `life_fd`, a pipe, is that of the session.
    """
    # What fsspec makes on this machine is for this user only.
    os.umask(0o077)
    code = 1
    try:
        desk = _Desk(Path(store_dir), where, socket.socket(fileno=int(fd)))
        desk.serve()
        # If the connection alone is broken, the daemon kills this process; another one goes on.
        os.read(int(life_fd), 1)
        signal.setitimer(signal.ITIMER_REAL, END_S)
        desk.remove_all()
        code = 0
    except BaseException:  # noqa: BLE001 - the outermost frame of the process
        traceback.print_exc()
    finally:
        # The threads that still work, for nobody, are not waited for.
        os._exit(code)


class _Desk:
    """Takes messages from the daemon, gives work to threads, sends their answers."""

    def __init__(self, store_dir: Path, where: str, sock: socket.socket) -> None:
        self._store_dir = store_dir
        self._files = open_spill_files(where)
        self._poller = Poller()
        self._daemon = SocketConnection(self._poller, sock, self._receive, self._lost)
        self._answers: deque[Message] = deque()
        self._spilling = ThreadPoolExecutor(1, "weft-spill")
        self._restoring = ThreadPoolExecutor(RESTORES, "weft-restore")
        self._removing = ThreadPoolExecutor(1, "weft-remove")
        self._removed: Future[None] = Future()
        """The last removal that was asked for; there is one at a time."""
        self._removed.set_result(None)
        if not is_url(where):
            self._removing.submit(_remove_leftovers, str(Path(where).parent))

    def serve(self) -> None:
        """Do what the daemon says until it is gone."""
        while not self._daemon.closed:
            self._poller.poll(None)
            while self._answers:
                self._daemon.queue(self._answers.popleft())
            self._daemon.flush()

    def remove_all(self) -> None:
        """Begin nothing more, and remove everything."""
        for pool in (self._spilling, self._restoring, self._removing):
            pool.shutdown(wait=False, cancel_futures=True)
        if error := _attempt(self._files.remove_all):
            _say(f"spilled files are left behind: {error}")

    def _receive(self, connection: SocketConnection, messages: Sequence[Message]) -> None:
        for message in messages:
            match message:
                case Spill():
                    self._spilling.submit(self._spill, message, self._removed)
                case Unspill():
                    self._restoring.submit(self._unspill, message)
                case Unlink(files):
                    self._removed = self._removing.submit(self._remove, files)
                case _:
                    raise TypeError(f"the spiller does not understand {message!r}")

    def _lost(self, connection: SocketConnection, reason: str) -> None:
        """The loop ends, since the connection is closed."""

    # -------------------------------------------------------------- in other threads

    def _spill(self, message: Spill, removed: Future[None]) -> None:
        places: list[tuple[int, int, int]] = []

        def write() -> None:
            removed.result()
            sources = [
                SpillSource(str(self._store_dir / name), size_bytes)
                for name, size_bytes in zip(message.names, message.sizes, strict=True)
            ]
            places.extend(self._files.write(message.file, sources))

        error = _attempt(write)
        self._answer(Spilled(message.batch, error, places))

    def _unspill(self, message: Unspill) -> None:
        def read() -> None:
            restore(
                self._files,
                message.file,
                SpillPlace(message.offset, message.size_bytes, message.checksum),
                segment=Path(message.directory or self._store_dir, message.name),
                segment_bytes=message.segment_bytes,
                over=self._store_dir / message.over if message.over else None,
            )

        self._answer(Unspilled(message.request, _attempt(read)))

    def _remove(self, files: list[str]) -> None:
        for file in files:
            if error := _attempt(partial(self._files.remove, file)):
                _say(f"a spilled file is left behind: {error}")

    def _answer(self, message: Message) -> None:
        self._answers.append(message)
        self._poller.wake()


def _attempt(work: Callable[[], object]) -> str:
    """Do something; return what went wrong, in words, or nothing."""
    try:
        work()
    except SpillError as error:
        return str(error)
    except StoreFullError as error:
        return f"{FULL}{error}"
    except Exception as error:  # noqa: BLE001 - a thread's outermost frame: it must answer
        return f"{type(error).__name__}: {error}"
    return ""


def _remove_leftovers(root: str) -> None:
    if error := _attempt(partial(sessions.remove_leftovers, root)):
        _say(f"leftovers of dead sessions stay: {error}")


def _say(text: str) -> None:
    """Write to the daemon's log."""
    print(f"weft: {text}", file=sys.stderr, flush=True)  # noqa: T201
