"""The worker processes as the daemon sees them: their start through the template, their pages, their ends.

A status page is a file of 4 KiB that the worker maps. It holds what the worker runs: 16 bytes of task id, the length of
the function's name as two little-endian bytes, the name in UTF-8; the length is zero when it is idle. The page outlives the
process, so what a killed worker ran is known.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from weft._node import host
from weft._node.output import Outputs, Pipe
from weft._transport.sockets import Poller
from weft._wire.codec import decode, encode
from weft._wire.frame import HEADER_BYTES
from weft._wire.messages import Certificate, Fork, Message, Reaped

PAGE_BYTES = 4096
_NAME_AT = 18
_READ_NAME_BYTES = 512
_PACKET_BYTES = 256 * 1024


class Template:
    """The daemon's end of the template."""

    def __init__(
        self, poller: Poller, sock: socket.socket, pid: int, receive: Callable[[Sequence[Message]], None], lost: Callable[[], None]
    ) -> None:
        self.pid = pid
        self._poller = poller
        self._sock = sock
        self._receive = receive
        self._lost = lost
        poller.add(sock.fileno(), self._handle)

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send one message, with descriptors."""
        try:
            socket.send_fds(self._sock, [encode([message])], fds)
        except (BrokenPipeError, ConnectionResetError):
            pass  # Its end is told by the read that meets it.

    def _handle(self, events: int) -> None:
        try:
            packet = self._sock.recv(_PACKET_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            packet = b""
        if packet:
            self._receive(decode(packet[HEADER_BYTES:]))
        else:
            self._poller.remove(self._sock.fileno())
            self._lost()

    def poll(self, timeout_s: float) -> None:
        """Wait for what it says, and for nothing else."""
        self._sock.settimeout(max(timeout_s, 0.001))
        try:
            packet = self._sock.recv(_PACKET_BYTES)
        except TimeoutError:
            return
        except ConnectionResetError:
            packet = b""
        if packet:
            self._receive(decode(packet[HEADER_BYTES:]))

    def close(self) -> None:
        """Let it end; its workers end with it."""
        self._poller.remove(self._sock.fileno())
        self._sock.close()


class Process:
    """One worker process, from the request to fork it to its certificate."""

    def __init__(self, worker_id: bytes, session_dir: str, outputs: Outputs, deliver: Callable[[Process, bool, bytes], None]) -> None:
        self.worker_id = worker_id
        self.env = ""
        self.pid = 0
        """0: not forked yet."""
        self.address = f"{session_dir}/{worker_id.hex()}.s"
        self.killed_for = ""
        """Why it is being killed; empty if it is not."""
        self.reaped: Reaped | None = None
        self.has_left = False
        """Its connection is closed."""
        self._page_path = Path(session_dir, f"{worker_id.hex()}.page")
        self._page_fd = os.open(self._page_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._page_fd, PAGE_BYTES)
        self.stdout = Pipe(outputs, lambda data: deliver(self, False, data))
        self.stderr = Pipe(outputs, lambda data: deliver(self, True, data))

    def start(self, template: Template, env: dict[str, str]) -> None:
        """Ask the template for the process."""
        fds = (self.stdout.open(), self.stderr.open())
        template.send(Fork(self.worker_id, env), fds)
        for fd in fds:
            os.close(fd)

    def forked(self, pid: int) -> None:
        """Take note of the process's number; carry out a kill that came before."""
        self.pid = pid
        if self.killed_for:
            self.kill(self.killed_for)

    def kill(self, reason: str) -> None:
        """Kill the process and its children, now or as soon as it is there."""
        self.killed_for = self.killed_for or reason
        if self.pid and self.reaped is None:
            for send in (os.killpg, os.kill):
                try:
                    send(self.pid, signal.SIGKILL)
                    break
                except ProcessLookupError:
                    continue  # It has not made its group yet, or it is gone.

    def running(self) -> tuple[bytes, str]:
        """Return (task id, function name) of what it runs or last ran; (b"", "") if it is idle."""
        page = os.pread(self._page_fd, _READ_NAME_BYTES, 0)
        length = int.from_bytes(page[16:_NAME_AT], "little")
        if not length:
            return b"", ""
        return page[:16], page[_NAME_AT : _NAME_AT + length].decode(errors="replace")

    def certificate(self) -> Certificate:
        """Say how it ended. Reads what is left of its output first."""
        self.stdout.drain()
        self.stderr.drain()
        reaped = self.reaped or Reaped(self.pid, signal.SIGKILL, 0)
        task_id, function = self.running()
        return Certificate(
            worker_id=self.worker_id,
            pid=self.pid,
            exit_code=os.waitstatus_to_exitcode(reaped.status),
            peak_bytes=reaped.peak_bytes,
            limit_bytes=host.limit_bytes(reaped.address_space_bytes),
            function=function,
            stderr=self.stderr.tail.text(),
            reason=self.killed_for,
            task_id=task_id,
        )

    def close(self) -> None:
        """Remove what belonged to it. A child that it left behind may write on: that is read to its end."""
        os.close(self._page_fd)
        for path in (self._page_path, Path(self.address)):
            path.unlink(missing_ok=True)


def describe(certificate: Certificate) -> str:
    """Say in a line how a worker ended."""
    code = certificate.exit_code
    if certificate.reason:
        how = f"was ended: {certificate.reason}"
    elif code < 0:
        how = f"was killed by {_signal_name(-code)}"
    else:
        how = f"exited with code {code}"
    what = f" while it ran {certificate.function}" if certificate.function else ""
    return f"its process {certificate.pid} {how}{what}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
