"""Connections over stream sockets, and the one wait for all of them.

A `Poller` waits for many sockets; who calls `poll` does the reading, in that thread. A
`SocketConnection` joins the messages queued between two flushes into one frame and one `send`, and
decodes all frames of one `recv` at once.

Facts about epoll: a descriptor may be registered, changed and removed by one thread while another
waits; the change holds for the wait in progress. A descriptor that was closed is gone from the set
by itself. An event that was fetched before its handler was removed can still be dispatched: `poll`
looks the handler up for each event and skips those.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from weft._transport.traffic import Traffic
from weft._wire.codec import decode, encode_all
from weft._wire.frame import FrameReader
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from pathlib import Path

    from weft._transport.base import Lost, Receive
    from weft._wire.messages import Message

# One read takes what a full unix socket buffer holds (208 KiB by default on Linux) and more.
READ_BYTES = 256 * 1024
# A process that ends waits so long for each peer to take what it is owed.
DRAIN_S = 5.0
ACCEPTED_AT_ONCE = 64

_IN = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
_CREDENTIALS = struct.Struct("3i")

Handler = Callable[[int], None]


class SocketWatch(Protocol):
    """What connections need of who waits for their sockets: a Poller, or a loop of asyncio's."""

    traffic: Traffic

    def add(self, fd: int, handler: Handler) -> None:
        """Call `handler(events)` when `fd` is readable or broken."""
        ...

    def watch_writing(self, fd: int, *, on: bool) -> None:
        """Say whether the handler of `fd` is called also when it takes bytes."""
        ...

    def remove(self, fd: int) -> None:
        """Forget `fd`; call it before closing it."""
        ...


class Poller:
    """Waits for sockets and calls their handlers."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wakes = False
        """Somebody has woken the wait, which has not seen it yet."""
        # Reentrant: `__del__` calls `wake`, also in the middle of it. It keeps `close` from giving
        # the descriptor away just before another thread writes to it.
        self._wake_lock = threading.RLock()
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._handlers[self._wake_fd] = self._woken
        self.closed = False

    def fileno(self) -> int:
        """Return a descriptor that is readable when `wait(0)` would find something."""
        return self._epoll.fileno()

    def add(self, fd: int, handler: Handler) -> None:
        """Call `handler(events)` when `fd` is readable or broken."""
        self._handlers[fd] = handler
        self._epoll.register(fd, _IN)

    def watch_writing(self, fd: int, *, on: bool) -> None:
        """Say whether the handler of `fd` is called also when it takes bytes."""
        self._epoll.modify(fd, _IN | select.EPOLLOUT if on else _IN)

    def remove(self, fd: int) -> None:
        """Forget `fd`; call it before closing it."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wake(self) -> None:
        """Let the wait in progress, or the next one, return.

        Safe from any thread, and from `__del__`.
        """
        with self._wake_lock:
            if not self._wakes and not self.closed:
                self._wakes = True
                os.eventfd_write(self._wake_fd, 1)

    def _woken(self, events: int) -> None:
        # In this order: a `wake` between the two finds that it has been done. Its caller's news is
        # seen after this wait. In the other order, its write would be read here and its mark stay:
        # no later `wake` would do anything.
        os.eventfd_read(self._wake_fd)
        self._wakes = False

    def wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        """Wait until something happens or time is up; return what happened, for `dispatch`."""
        return self._epoll.poll(timeout_s)

    def dispatch(self, events: list[tuple[int, int]]) -> None:
        """Call the handlers of these events."""
        handlers = self._handlers
        for fd, event in events:
            handler = handlers.get(fd)
            if handler is not None:
                handler(event)

    def poll(self, timeout_s: float | None) -> None:
        """Wait and dispatch."""
        self.dispatch(self.wait(timeout_s))

    def abandon(self) -> None:
        """Let go in a forked child, which must not change the set that it shares."""
        self.closed = True
        self._handlers.clear()
        self._epoll.close()
        os.close(self._wake_fd)

    def close(self) -> None:
        """Forget everything; the sockets stay open."""
        with self._wake_lock:
            if not self.closed:
                self.closed = True
                self._handlers.clear()
                self._epoll.close()
                os.close(self._wake_fd)


class SocketConnection:
    """A Connection over a stream socket."""

    __slots__ = (
        "_batch",
        "_lost",
        "_poller",
        "_reader",
        "_reason",
        "_receive",
        "_socket",
        "_unsent",
        "closed",
        "peer",
    )

    def __init__(
        self, poller: SocketWatch, sock: socket.socket, receive: Receive, lost: Lost
    ) -> None:
        sock.setblocking(False)
        self._poller = poller
        self._socket = sock
        self._receive = receive
        self._lost = lost
        self._reader = FrameReader()
        self._batch: list[Message] = []
        self._unsent: deque[memoryview] = deque()
        self._reason = "the peer closed the connection"
        self.closed = False
        self.peer: object = None
        """The user's own record of who is at the other end."""
        poller.add(sock.fileno(), self._handle)

    def queue(self, message: Message) -> None:
        """Add a message to the batch that the next `flush` sends."""
        self._batch.append(message)

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    @property
    def queued(self) -> int:
        """How many messages wait for `flush`."""
        return len(self._batch)

    def flush(self) -> None:
        """Send the batch as far as the peer takes it; the rest follows when it can.

        ProtocolError: a message alone is over the bound of a frame. The batch is lost then.
        """
        batch = self._batch
        if not batch:
            return
        self._batch = []
        if self.closed:
            return
        traffic = self._poller.traffic
        traffic.sent_messages += len(batch)
        for frame in encode_all(batch):
            traffic.sent_bytes += len(frame)
            if self._unsent:
                self._unsent.append(memoryview(frame))
                continue
            try:
                sent = self._socket.send(frame)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._stop_sending(error)
                return
            if sent < len(frame):
                self._unsent.append(memoryview(frame)[sent:])
                self._poller.watch_writing(self._socket.fileno(), on=True)

    def _stop_sending(self, error: OSError) -> None:
        """Nothing may follow what was not sent.

        What the peer had sent is still to be read, so the loss is told by the read that meets the
        end.
        """
        if not isinstance(error, ConnectionError):
            self._reason = f"sending failed: {error.strerror}"
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _handle(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._send_rest()
        if events & _IN and not self.closed:
            self._read()

    def _send_rest(self) -> None:
        unsent = self._unsent
        try:
            while unsent:
                sent = self._socket.send(unsent[0])
                if sent < len(unsent[0]):
                    unsent[0] = unsent[0][sent:]
                    return
                unsent.popleft()
        except BlockingIOError:
            return
        except OSError as error:
            unsent.clear()
            self._stop_sending(error)
        self._poller.watch_writing(self._socket.fileno(), on=False)

    def _read(self) -> bool:
        """Receive once; return whether there was anything, and may be more."""
        try:
            # A frame larger than one read is fetched with reads of its own size, so that it is
            # joined once.
            data = self._socket.recv(max(READ_BYTES, self._reader.missing()))
        except BlockingIOError:
            return False
        except OSError as error:
            self._break(f"{error.strerror or error}")
            return False
        if not data:
            self._break(self._reason)
            return False
        try:
            bodies = self._reader.receive(data)
            messages = [message for body in bodies for message in decode(body)] if bodies else []
        except ProtocolError as error:
            self._break(str(error))
            return False
        traffic = self._poller.traffic
        traffic.read_bytes += len(data)
        traffic.read_messages += len(messages)
        if messages:
            self._receive(self, messages)
        return True

    def _break(self, reason: str) -> None:
        self.close()
        self._lost(self, reason)

    def read_rest(self) -> None:
        """Receive what has arrived already."""
        while not self.closed and self._read():
            pass

    def drain(self) -> None:
        """Send the rest, waiting at most `DRAIN_S` for a peer that is slow to take it."""
        if self._unsent and not self.closed:
            self._socket.settimeout(DRAIN_S)
            with contextlib.suppress(OSError):
                for part in self._unsent:
                    self._socket.sendall(part)
            self._unsent.clear()

    def abandon(self) -> None:
        """Let go of the socket in a forked child.

        The parent's stays open, and so does its place in the epoll set.
        """
        self.closed = True
        self._socket.close()

    def close(self) -> None:
        """End the connection without telling `lost`."""
        if not self.closed:
            with contextlib.suppress(ProtocolError):
                self.flush()
            if self._unsent:
                self._send_rest()
            self.closed = True
            self._poller.remove(self._socket.fileno())
            self._socket.close()


class SocketAcceptor:
    """Accepts connections on a socket that listens: those of this user's processes, by default."""

    def __init__(
        self,
        poller: SocketWatch,
        sock: socket.socket,
        accepted: Callable[[socket.socket], None],
        turned_away: Callable[[], None] = lambda: None,
        *,
        admits: Callable[[socket.socket], bool] = lambda sock: peer_uid(sock) == os.getuid(),
    ) -> None:
        """`turned_away`: called when one was not taken, since there are no descriptors left."""
        self._poller = poller
        self._socket = sock
        self._admits = admits
        self._accepted = accepted
        self._turned_away = turned_away
        sock.setblocking(False)
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        """Given up to turn a connection away when there are no descriptors left."""
        poller.add(sock.fileno(), self._handle)

    def _handle(self, events: int) -> None:
        # Whoever comes without end gets no more than this of the loop at once.
        for _turn in range(ACCEPTED_AT_ONCE):
            try:
                sock, _ = self._socket.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_away()
                return
            if self._admits(sock):
                self._accepted(sock)
            else:
                sock.close()

    def _turn_away(self) -> None:
        """Close a connection that cannot be taken: its peer hears of it, and no wait is busy."""
        os.close(self._spare_fd)
        with contextlib.suppress(OSError):
            self._socket.accept()[0].close()
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._turned_away()

    def abandon(self) -> None:
        """Let go of the socket in a forked child."""
        if self._spare_fd >= 0:
            self._socket.close()
            os.close(self._spare_fd)
            self._spare_fd = -1

    def close(self) -> bool:
        """Stop accepting; return whether it had not been done before."""
        if self._spare_fd < 0:
            return False
        self._poller.remove(self._socket.fileno())
        self.abandon()
        return True


class SocketListener:
    """Listens on a unix socket of its own, for connections of this user's processes."""

    def __init__(
        self, poller: SocketWatch, path: Path, accepted: Callable[[socket.socket], None]
    ) -> None:
        self._path = path
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(os.fspath(path))
        path.chmod(0o600)
        sock.listen(1024)
        self.address = os.fspath(path)
        self._acceptor = SocketAcceptor(poller, sock, accepted)

    def abandon(self) -> None:
        """Let go of the socket in a forked child, and leave its file to the parent."""
        self._acceptor.abandon()

    def close(self) -> None:
        """Stop accepting and remove the socket's file."""
        if self._acceptor.close():
            self._path.unlink(missing_ok=True)


def peer_uid(sock: socket.socket) -> int:
    """Return the user id of the process at the other end of a unix socket."""
    _, uid, _ = _CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return int(uid)


def connect(address: str) -> socket.socket:
    """Connect to the process that listens at `address`. OSError if nobody does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock
