"""The template as the daemon sees it: its start, what is asked of it, its end.

The two speak in packets: Fork (with the descriptors of the worker's stdout and stderr), Forked, and
Reaped when a worker has ended. What the template does with them is in template.py.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING

from weft._launch import spawn
from weft._wire.codec import decode, encode
from weft._wire.frame import HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._launch import NodeFile
    from weft._transport.sockets import Poller
    from weft._wire.messages import Message

_PACKET_BYTES = 256 * 1024


def fork_template(node: NodeFile) -> tuple[socket.socket, int]:
    """Fork the template; return the socket to it and its process id.

    The daemon does this once, before it has any state or another thread.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    daemon_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.closerange(3, theirs.fileno())
        os.closerange(theirs.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        importlib.import_module("weft._node.template").serve(theirs, daemon_pid, node)
    theirs.close()
    return ours, pid


def spawn_template(node: NodeFile) -> tuple[socket.socket, int]:
    """Start another template, in the place of one that has died.

    It is a fresh interpreter: a fork of a daemon with a cluster's threads would be a process in
    which locks are held by nobody, and every fork would carry the daemon's memory along.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        fd = theirs.fileno()
        words = ("_node.template", node.session_dir, str(fd), str(os.getpid()))
        pid = spawn(*words, fds=(fd,), output_fd=sys.stderr.fileno())
    return ours, pid


class Template:
    """The daemon's end of the template."""

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        pid: int,
        *,
        said: Callable[[Message], None],
        lost: Callable[[], None],
    ) -> None:
        self.pid = pid
        self.has_forked = False
        self._poller = poller
        self._sock = sock
        self._said = said
        self._lost = lost
        poller.add(sock.fileno(), self._handle)

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send one message, with descriptors."""
        # Its end is told by the read that meets it.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._sock, [encode([message])], fds)

    def _handle(self, events: int) -> None:
        try:
            packet = self._sock.recv(_PACKET_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            packet = b""
        if not packet:
            self.close()
            self._lost()
            return
        for message in decode(packet[HEADER_BYTES:]):
            self.has_forked = True
            self._said(message)

    def close(self) -> None:
        """Let it end; its workers end with it."""
        self._poller.remove(self._sock.fileno())
        self._sock.close()

    def wait(self, grace_s: float) -> int:
        """Wait for its end, and kill it when time is up; return its exit code."""
        pidfd = os.pidfd_open(self.pid)
        waiter = select.poll()
        waiter.register(pidfd, select.POLLIN)
        if not waiter.poll(grace_s * 1000):
            os.kill(self.pid, signal.SIGKILL)
        os.close(pidfd)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)
