"""What other threads leave for the daemon's loop: functions, called there in order."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._transport.sockets import Poller


class Inbox:
    """Functions that wait to be called by the loop of a poller."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._waiting: deque[Callable[[], None]] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # It keeps `close` from giving the descriptor away just before another thread writes to it.
        self._lock = threading.Lock()
        self._closed = False
        poller.add(self._fd, self._handle)

    def post(self, function: Callable[[], None]) -> bool:
        """Let the loop call a function; any thread may. False: the loop has ended."""
        with self._lock:
            if not self._closed:
                self._waiting.append(function)
                os.eventfd_write(self._fd, 1)
            return not self._closed

    def _handle(self, events: int) -> None:
        os.eventfd_read(self._fd)
        for _ in range(len(self._waiting)):
            self._waiting.popleft()()
            if self._closed:
                return

    def close(self) -> None:
        """Call nothing any more."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._poller.remove(self._fd)
                os.close(self._fd)
