"""The spiller as the daemon sees it: its start, what is asked of it, its end.

What is always true
1. Every Spill and Unspill is answered once: by the process, or with an error if that cannot be
   started or dies. It may be answered before the call returns. What was being restored when the
   process died is asked of the next one, once: an object is not lost for that.
2. What a process that dies leaves half done is removed: segments at once, files by the next
   process, before it writes any. The next need brings that one. (A file that it was to remove and
   did not is there until the session ends.)
3. The directory appears locked, as the session's others do (_launch.py). The lock is the daemon's.
4. The process ends with the session or the daemon, and removes all that was spilled. It learns of
   that from the end of a pipe: a connection can break while both live.

    <where>/weft-spill-<uid>/<session>/   0700  lock, spill files
    <URL>/weft-spill-<session>/                 spill files
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from weft import _launch
from weft._machines.segments import FULL
from weft._node import sessions
from weft._store.spill import is_full, is_url, unborn_segment
from weft._transport.sockets import SocketConnection
from weft._wire.messages import Message, Spill, Spilled, Unlink, Unspill, Unspilled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._transport.sockets import Poller

ROOT = "weft-spill"
# So long a process has to remove everything. It is killed then, and the daemon removes what is on
# this machine.
END_S = 10.0


class Spiller:
    """The spiller of a session: a process while it is needed, and the place of its files."""

    def __init__(
        self,
        poller: Poller,
        *,
        session_dir: str,
        store_dir: str,
        where: str,
        answered: Callable[[Spilled | Unspilled], None],
    ) -> None:
        """`where` is a directory, or a URL for fsspec; `answered` is called in the loop."""
        self._poller = poller
        self._session_dir = session_dir
        self._store_dir = store_dir
        self._where = where
        self._answered = answered
        session = Path(session_dir).name
        if is_url(where):
            self.place = f"{where.removesuffix('/')}/{ROOT}-{session}"
        else:
            self.place = f"{where}/{ROOT}-{os.getuid()}/{session}"
        """The directory or the URL of the session's files, once there are any."""
        self._lock_fd = -1
        self._process: _SpillerProcess | None = None
        self._spills: dict[int, Spill] = {}
        self._restores: dict[int, Unspill] = {}
        self._asked_again: set[int] = set()
        """Restores that have outlived a process."""
        self._unwanted: list[str] = []
        """Files for the next process to remove."""

    # -------------------------------------------------------------- what is asked

    def spill(self, message: Spill) -> None:
        """Write segments to a file. Answered by Spilled."""
        self._spills[message.batch] = message
        self._send(message)

    def unspill(self, message: Unspill) -> None:
        """Make a segment of what a file holds. Answered by Unspilled."""
        self._restores[message.request] = message
        self._send(message)

    def unlink(self, files: list[str]) -> None:
        """Remove files, as far as they are there. They are gone before the next spill begins."""
        if self._process is None:
            self._unwanted += files
        else:
            self._process.send(Unlink(files))

    def directory(self) -> str:
        """Return `place`, which is made if need be. OSError: it cannot be made."""
        if self._lock_fd < 0 and not is_url(self._where):
            root = _launch.user_root(self._where, ROOT)
            _, self._lock_fd = _launch.make_session_dir(root, Path(self._session_dir).name)
        return self.place

    def remove_leftovers(self) -> None:
        """Let a process remove what dead sessions have left on this machine, if there is any."""
        root = f"{self._where}/{ROOT}-{os.getuid()}"
        try:
            if self._process is None and Path(root).is_dir() and sessions.leftovers(root):
                self._start()
        except OSError as error:
            print(f"weft: leftovers stay: {error}", file=sys.stderr)  # noqa: T201

    # -------------------------------------------------------------- the process

    @property
    def pid(self) -> int:
        """The process's number, 0 if there is none."""
        return self._process.pid if self._process else 0

    @property
    def is_writing(self) -> bool:
        """Whether segments are being written."""
        return bool(self._spills)

    def _send(self, message: Message) -> None:
        try:
            process = self._process or self._start()
        except OSError as error:
            full = FULL if is_full(error) else ""
            self._give_up(f"{full}the spiller cannot be started: {error}")
        else:
            process.send(message)

    def _start(self) -> _SpillerProcess:
        """Start the process. What another one left is removed before anything is written."""
        arguments = (self._store_dir, self.directory())
        process = self._process = _SpillerProcess(
            self._poller, self._session_dir, arguments, said=self._said, ended=self._ended
        )
        if self._unwanted:
            process.send(Unlink(self._unwanted))
            self._unwanted = []
        return process

    def _said(self, message: Message) -> None:
        match message:
            case Spilled(batch):
                del self._spills[batch]
                self._answered(message)
            case Unspilled(request):
                del self._restores[request]
                self._asked_again.discard(request)
                self._answered(message)
            case _:
                raise TypeError(f"the spiller sent {message!r}")

    def _ended(self, how: str) -> None:
        self._process = None
        self._unwanted += [message.file for message in self._spills.values()]
        for message in self._restores.values():
            place = Path(message.directory or self._store_dir, message.name)
            unborn_segment(place).unlink(missing_ok=True)
        again = {
            request: message
            for request, message in self._restores.items()
            if request not in self._asked_again
        }
        for request in again:
            del self._restores[request]
        self._give_up(f"the spiller died: {how}")
        self._asked_again.update(again)
        for message in again.values():
            self.unspill(message)

    def _give_up(self, error: str) -> None:
        """Answer everything that waits."""
        spills, self._spills = self._spills, {}
        restores, self._restores = self._restores, {}
        self._asked_again.clear()
        for batch in spills:
            self._answered(Spilled(batch, error, []))
        for message in restores.values():
            if message.over:
                Path(self._store_dir, message.over).unlink(missing_ok=True)
            self._answered(Unspilled(message.request, error))

    def close(self) -> None:
        """End the session's spilling: no process and no file is left. Nothing is answered.

        Blocks until all is removed. What is behind a URL and takes longer than `END_S` stays.
        """
        if self._process is not None:
            self._process.close(END_S)
            self._process = None
        if self._lock_fd >= 0:
            sessions.remove_tree(self.place)
            os.close(self._lock_fd)
            self._lock_fd = -1


class _SpillerProcess:
    """One process, from its start to its end."""

    def __init__(
        self,
        poller: Poller,
        session_dir: str,
        arguments: tuple[str, ...],
        *,
        said: Callable[[Message], None],
        ended: Callable[[str], None],
    ) -> None:
        self._poller = poller
        self._said = said
        self._ended = ended
        ours, theirs = socket.socketpair()
        life_fd, self._life_fd = os.pipe()
        fds = (theirs.fileno(), life_fd)
        try:
            self.pid = _launch.spawn(
                "_node.spiller", session_dir, *arguments, *map(str, fds), fds=fds, output_fd=2
            )
        except OSError:
            ours.close()
            os.close(self._life_fd)
            raise
        finally:
            theirs.close()
            os.close(life_fd)
        self._connection = SocketConnection(poller, ours, self._receive, self._lost)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            # Killed first: let go, it would take the session for over.
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._let_go()
            raise
        poller.add(self._pidfd, self._exited)

    def send(self, message: Message) -> None:
        """Send a message; it is lost if the process has ended."""
        self._connection.queue(message)
        self._connection.flush()

    def _receive(self, connection: SocketConnection, messages: Sequence[Message]) -> None:
        for message in messages:
            self._said(message)

    def _lost(self, connection: SocketConnection, reason: str) -> None:
        """Its end is told when it is reaped; see to it that there is one."""
        os.kill(self.pid, signal.SIGKILL)

    def _exited(self, events: int) -> None:
        self._connection.read_rest()
        self._let_go()
        code = self._reap()
        self._ended(f"exit code {code}" if code >= 0 else f"killed by signal {-code}")

    def _let_go(self) -> None:
        self._connection.close()
        os.close(self._life_fd)

    def _reap(self) -> int:
        self._poller.remove(self._pidfd)
        os.close(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def close(self, grace_s: float) -> None:
        """Let it end, and kill it when time is up."""
        self._let_go()
        waiter = select.poll()
        waiter.register(self._pidfd, select.POLLIN)
        if not waiter.poll(grace_s * 1000):
            os.kill(self.pid, signal.SIGKILL)
        self._reap()
