"""What ends a wait of the main thread when a signal comes.

Facts about signals: Python runs their handlers in the main thread, between two instructions. The
kernel ends that thread's wait for a signal, but not for one that came just before the wait, or to
another thread. And to each signal's arrival Python writes a byte to the wakeup descriptor, of which
there is one: asyncio and others set it, too, and learn of signals by what they read there.

So while the main thread waits the descriptor is ours, and whoever reads the poller sees the byte.
What was there before is set again afterwards, and is told of the signals that came meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading

main_ident = threading.main_thread().ident
# More than ever wait to be read: one for each signal.
_READ_BYTES = 4096


def in_main_thread() -> bool:
    """Tell whether the caller is where signal handlers run."""
    return threading.get_ident() == main_ident


class Signals:
    """A descriptor to poll while the main thread waits. Inside the guard."""

    __slots__ = ("_closing", "_depth", "_far", "_near", "_theirs")

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        self._depth = 0
        """Waits of the main thread: a signal handler may wait in the middle of one."""
        self._theirs = -1
        """The wakeup descriptor before the first of them."""
        self._closing = False

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal has come."""
        return self._near.fileno()

    def begin(self) -> None:
        """The main thread is about to wait."""
        if not self._depth:
            self._theirs = signal.set_wakeup_fd(self._far.fileno(), warn_on_full_buffer=False)
        self._depth += 1

    def end(self) -> None:
        """The main thread has waited."""
        self._depth -= 1
        if self._depth:
            return
        theirs = self._theirs
        signal.set_wakeup_fd(theirs)
        if theirs >= 0:
            self.receive()
            self._theirs = -1
        if self._closing:
            self._close()

    def receive(self) -> None:
        """Read what has come, and pass it on."""
        with contextlib.suppress(OSError):
            came = self._near.recv(_READ_BYTES)
            if self._theirs >= 0:
                os.write(self._theirs, came)

    def abandon(self) -> None:
        """Let go in a forked child: its signals are not its parent's."""
        if self._depth:
            signal.set_wakeup_fd(self._theirs)
        self._close()

    def close(self) -> None:
        """Let go, once the main thread does not wait any more."""
        self._closing = True
        if not self._depth:
            self._close()

    def _close(self) -> None:
        self._near.close()
        self._far.close()
