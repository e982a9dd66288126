"""The control service's process, as the daemon of the head has it: its start, and its next one.

When it ends it is started again: at once the first time, then after pauses that grow. If it has
not served even once, and says that it cannot, the node ends: its user is there to mend that.

It ends with the daemon, whatever ends that: the daemon holds the other end of its lifeline.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from weft._clock import monotonic
from weft._launch import is_journal_shared, spawn
from weft._transport.addresses import CONTROL_SOCKET

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._launch import NodeFile
    from weft._transport.sockets import Poller
    from weft._transport.timers import Timers

PAUSES_S = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Before it is started again; the last one from then on."""
WELL_S = 30.0
"""Who has lived so long is not blamed for the ends before."""
_REFUSED = "exit code 1"
"""How it ends when its journal cannot be had, its folder will not do, and so on."""
# It does what waits, and lets its journal go.
END_S = 2.0


class ControlProcess:
    """Keeps a control service running beside the daemon of the head."""

    def __init__(
        self,
        poller: Poller,
        timers: Timers,
        node: NodeFile,
        *,
        say: Callable[[str], None],
        failed: Callable[[], None],
    ) -> None:
        """`say` tells the users of the node.

        `failed`: it cannot even be started, and has said why in the daemon's log.
        """
        assert node.cluster is not None
        self._poller = poller
        self._timers = timers
        self._session_dir = node.session_dir
        self._socket = f"{node.session_dir}/{CONTROL_SOCKET}"
        journal = node.cluster.journal
        self._options = ["--credentials", node.cluster.credentials]
        if journal:
            self._options += ["--journal", journal]
        # Where several heads share a journal, one that has lost it stands by from then on. But a
        # head that is started is told if it is not the first.
        self._is_shared = is_journal_shared(journal)
        self._stands_by = node.cluster.standby
        self._say = say
        self._failed = failed
        self._ends = 0
        """How often in a row it has ended soon."""
        self._began_at = 0.0
        self._closed = False
        self._read_fd, self._lifeline = os.pipe2(os.O_CLOEXEC)
        self.pid = 0
        """0: it does not run at the moment."""
        self._pidfd = -1

    def start(self) -> None:
        """Start it; it serves a moment later."""
        if self._closed:
            return
        self._began_at = monotonic()
        self.pid = spawn(
            "_control.main",
            self._session_dir,
            *self._options,
            *(["--standby"] if self._stands_by else []),
            "--lifeline",
            str(self._read_fd),
            fds=(self._read_fd,),
            output_fd=sys.stderr.fileno(),
        )
        self._pidfd = os.pidfd_open(self.pid)
        self._poller.add(self._pidfd, self._ended)

    def _ended(self, events: int) -> None:
        how = self._reap()
        if not self._ends and how == _REFUSED and not Path(self._socket).exists():
            self._failed()
            return
        self._stands_by = self._is_shared
        if monotonic() - self._began_at > WELL_S:
            self._ends = 0
        pause_s = PAUSES_S[min(self._ends, len(PAUSES_S) - 1)]
        self._ends += 1
        text = f"weft: the control service ended with {how}; it is started again"
        if self._ends == 1:
            self._say(text)
        print(f"{text} in {pause_s:g} s", file=sys.stderr, flush=True)  # noqa: T201
        self._timers.call_later(pause_s, self.start)

    def _reap(self) -> str:
        self._poller.remove(self._pidfd)
        os.close(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        code = os.waitstatus_to_exitcode(status)
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    def close(self) -> None:
        """Let it end, and wait for that. Idempotent."""
        if self._closed:
            return
        self._closed = True
        os.close(self._lifeline)
        os.close(self._read_fd)
        if self.pid:
            waiter = select.poll()
            waiter.register(self._pidfd, select.POLLIN)
            if not waiter.poll(END_S * 1000):
                os.kill(self.pid, signal.SIGKILL)
            self._reap()
