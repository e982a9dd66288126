"""What workers write: from their pipes to their drivers, in whole lines where possible.

What is always true
1. Every byte that a worker wrote is delivered once and in order, within one of its two streams.
2. A chunk ends at the end of a line, unless the line is longer than `LINE_BYTES`, or has not ended
   for `PARTIAL_S` (a prompt, a progress bar), or the stream has ended.
3. While a driver is behind, the pipes of its workers are not read: they wait in `write`, and this
   process does not grow.

Facts about pipes: a reader sees the end only when every copy of the write end is closed; a child
that the worker left behind may keep one. So what a dead worker left is read until there is nothing
now, without waiting for the end.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._transport.sockets import Poller
    from weft._transport.timers import Timers

READ_BYTES = 64 * 1024
LINE_BYTES = 64 * 1024
PARTIAL_S = 0.2
TAIL_LINES = 20
TAIL_LINE_BYTES = 500
# faulthandler writes up to a hundred frames a thread, the crashed thread last: all that says how a
# process crashed.
REPORT_LINES = 400
_REPORT = b"Fatal Python error:"


class Reader(Protocol):
    """Who gets what workers write."""

    def is_behind(self) -> bool:
        """Tell whether it has much to read yet."""
        ...

    def when_it_has_read(self, function: Callable[[], None]) -> None:
        """Call a function once, when it is behind no longer."""
        ...


class Anybody:
    """A reader that is never behind: what is written is kept here, or told to nobody."""

    def is_behind(self) -> bool:
        """Return False."""
        return False

    def when_it_has_read(self, function: Callable[[], None]) -> None:
        """Call it at once."""
        function()


ANYBODY = Anybody()


class Tail:
    """The last lines of a stream, and all of the interpreter's report of a crash."""

    __slots__ = ("_lines", "_open")

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._open = b""

    def add(self, data: bytes) -> None:
        """Take bytes as they come."""
        *whole, self._open = (self._open + data).split(b"\n")
        for line in whole:
            if line.startswith(_REPORT) and self._lines.maxlen == TAIL_LINES:
                self._lines = deque(self._lines, maxlen=TAIL_LINES + REPORT_LINES)
            self._lines.append(line[-TAIL_LINE_BYTES:])
        self._open = self._open[-TAIL_LINE_BYTES:]

    def text(self) -> str:
        """Return the lines, without the end of the last."""
        lines = [*self._lines, self._open] if self._open else self._lines
        return b"\n".join(lines).decode(errors="replace")


class Pipe:
    """The read end of a worker's stdout or stderr."""

    __slots__ = ("_deliver", "_outputs", "_partial", "closed", "fd", "reader", "tail")

    def __init__(
        self, outputs: Outputs, deliver: Callable[[bytes], None], reader: Reader = ANYBODY
    ) -> None:
        self.fd, self._partial = -1, b""
        self.reader = reader
        self._outputs = outputs
        self._deliver = deliver
        self.tail = Tail()
        self.closed = False

    def open(self) -> int:
        """Make the pipe; return the write end, for the worker. The caller closes it."""
        self.fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.fd, False)
        self._outputs.watch(self)
        return write_fd

    def read(self) -> bool:
        """Read once; False: there is nothing now, or the stream has ended."""
        if self.closed:
            return False
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self.close()
            return False
        self.tail.add(data)
        data = self._partial + data
        end = data.rfind(b"\n") + 1
        if not end and len(data) > LINE_BYTES:
            end = len(data)
        self._partial = data[end:]
        if end:
            self._deliver(data[:end])
        if self._partial:
            self._outputs.flush_later(self)
        return True

    def flush(self) -> None:
        """Deliver the line that has not ended."""
        if self._partial:
            data, self._partial = self._partial, b""
            self._deliver(data)

    def drain(self) -> None:
        """Deliver everything that is there now."""
        while self.read():
            pass
        self.flush()

    def close(self) -> None:
        """Deliver what is left and close."""
        if not self.closed:
            self.closed = True
            self.flush()
            self._outputs.forget(self)
            os.close(self.fd)


class Outputs:
    """All pipes of a node."""

    def __init__(self, poller: Poller, timers: Timers) -> None:
        self._poller = poller
        self._timers = timers
        self._paused_for: dict[Reader, list[Pipe]] = {}
        self._partial: set[Pipe] = set()

    def watch(self, pipe: Pipe) -> None:
        """Read a pipe when it has something."""
        self._poller.add(pipe.fd, lambda _: self._readable(pipe))

    def forget(self, pipe: Pipe) -> None:
        """Read a pipe no more."""
        self._poller.remove(pipe.fd)
        self._partial.discard(pipe)
        if pipe in (paused := self._paused_for.get(pipe.reader, [])):
            paused.remove(pipe)

    def flush_later(self, pipe: Pipe) -> None:
        """Deliver a pipe's partial line if the rest does not come soon."""
        if not self._partial:
            self._timers.call_later(PARTIAL_S, self._flush_partial)
        self._partial.add(pipe)

    def _flush_partial(self) -> None:
        partial, self._partial = self._partial, set()
        for pipe in partial:
            pipe.flush()

    def _readable(self, pipe: Pipe) -> None:
        reader = pipe.reader
        if not reader.is_behind():
            pipe.read()
            return
        self._poller.remove(pipe.fd)
        if reader in self._paused_for:
            self._paused_for[reader].append(pipe)
        else:
            self._paused_for[reader] = [pipe]
            reader.when_it_has_read(lambda: self._resume(reader))

    def _resume(self, reader: Reader) -> None:
        for pipe in self._paused_for.pop(reader):
            self.watch(pipe)
