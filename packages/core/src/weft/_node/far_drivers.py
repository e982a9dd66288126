"""The drivers of jobs on other nodes: what workers here write goes by way of the driver's daemon.

    the first worker starts -> JobHere ->
                               <- JobHeard <- from here on workers are lent
    worker's pipe -> FarDriver -> JobOutput -> the driver's daemon -> its JobDriver -> Output
                               <- OutputTaken <-
                               <- JobLeaves <- the driver says goodbye
    its workers have ended -> JobLeft ->

What is always true
1. At most `UNTAKEN_BYTES`, and one write more, are on their way for a driver: its daemon says what
   it has passed on, and says nothing while the driver is behind. Meanwhile pipes are not read.
2. A worker is lent when that daemon has heard of it, or cannot hear: so the driver's goodbye finds
   all that has run for it.
3. What was on its way when the connection to that daemon broke is lost; what is written later goes
   over another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._wire.messages import JobHere, JobOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.clients import Clients
    from weft._wire.messages import Message

# A quarter of a second's worth of a network that is not the fastest.
UNTAKEN_BYTES = 1024 * 1024


class FarDriver:
    """The driver of a job, on another node."""

    pid = 0
    """Of a process that is not seen from here."""
    worker_id = b""

    def __init__(self, job_id: bytes, daemon: str, clients: Clients) -> None:
        """`daemon`: the address of the driver's."""
        self.daemon = daemon
        self._job_id = job_id
        self._clients = clients
        self._is_announced = False
        self._is_awaited = False
        """Its daemon has not heard of the workers here, and may."""
        self._was_deaf = False
        """It was waited for in vain: nobody waits again before it has heard."""
        self._when_heard: list[Callable[[], None]] = []
        self._untaken_bytes = 0
        self._has_read: Callable[[], None] | None = None

    def announce(self) -> None:
        """A worker is started here: the driver is not to leave without having heard it."""
        if not self._is_announced:
            self._is_announced = self._send(JobHere(self._job_id))
            self._is_awaited = self._is_announced and not self._was_deaf

    def is_awaited(self) -> bool:
        """Tell whether it is to hear first that workers are here."""
        return self._is_awaited

    def when_heard(self, function: Callable[[], None]) -> None:
        """Call a function once, when it has heard, or cannot hear."""
        self._when_heard.append(function)

    def heard(self) -> None:
        """Its daemon knows that workers are here."""
        self._was_deaf = False
        self._go_on()

    def _go_on(self) -> None:
        self._is_awaited = False
        waiting, self._when_heard = self._when_heard, []
        for function in waiting:
            function()

    def _send(self, message: Message) -> bool:
        """Send its daemon a message; False: there is no way to that host."""
        try:
            client = self._clients.reach(self.daemon)
        except OSError:
            return False
        self._clients.send(client, message)
        return True

    def show(self, worker: bytes, pid: int, label: str, data: bytes, *, is_stderr: bool) -> None:
        """Show what a process has written."""
        if self._send(JobOutput(self._job_id, worker, pid, label, is_stderr, data)):
            self._untaken_bytes += len(data)

    def is_behind(self) -> bool:
        """Tell whether the driver has much to read yet."""
        return self._untaken_bytes >= UNTAKEN_BYTES

    def when_it_has_read(self, function: Callable[[], None]) -> None:
        """Call a function once, when a driver that is behind is so no longer."""
        self._has_read = function

    def taken(self, size_bytes: int) -> None:
        """So much was passed on to the driver."""
        self._untaken_bytes = max(0, self._untaken_bytes - size_bytes)
        if self._has_read is not None and not self.is_behind():
            has_read, self._has_read = self._has_read, None
            has_read()

    def unreachable(self) -> None:
        """The connection to its daemon is lost, with all that was on its way."""
        self._is_announced = False
        self.taken(self._untaken_bytes)
        self._was_deaf = self._was_deaf or bool(self._when_heard)
        self._go_on()

    def close(self) -> None:
        """The job has ended: nobody is to be waited for."""
        self.unreachable()
