"""A worker process as the daemon sees it: its start, its page, its end.

A status page is a file of 4 KiB that the worker maps. It holds what the worker runs: 16 bytes of
task id, the attempt's number in four bytes, the length of the function's name in two (both
little-endian), a byte of facts about the task, the name in UTF-8 and a zero byte. When the worker
is idle the length is zero, and the rest is what it ran last. The last byte of the page is 1 while
other processes hold objects of this one. The daemon writes 1 into the byte before it to be told
(Busy) when the worker next begins something; the worker writes 0 there as it tells. The page
outlives the process, so what a killed worker had begun is known.

Facts about job control: SIGSTOP takes effect later than `kill` returns. SIGKILL ends a stopped
process too, also that of PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from weft._clock import wall
from weft._env.spec import FAILED_SUFFIX
from weft._exits import signal_name
from weft._node import host
from weft._node.output import Outputs, Pipe
from weft._wire.messages import Certificate, Fork, Reaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.forks import Template
    from weft._node.jobs import NodeJob
    from weft._transport.addresses import Home

PAGE_BYTES = 4096
_ATTEMPT_AT = 16
_LENGTH_AT = 20
_FACTS_AT = 22
_NAME_AT = 23
_READ_NAME_BYTES = 512
_ASKS_AT = PAGE_BYTES - 2
_LENDER_AT = PAGE_BYTES - 1
_MAY_REPEAT = 1
_IS_TIMED = 2


class Doing(msgspec.Struct, frozen=True):
    """What a worker's page says."""

    begun: bytes = b""
    """Which task and attempt it runs or ran last."""
    function: str = ""
    """Of what it runs; empty if it is idle."""
    may_repeat: bool = False
    """If the attempt is ended to make room in memory, there is another."""
    is_timed: bool = False
    is_lender: bool = False
    """Other processes hold objects of this one."""


class Process:
    """One worker process, from the request to fork it to its certificate."""

    def __init__(
        self,
        worker_id: bytes,
        home: Home,
        outputs: Outputs,
        job: NodeJob,
        deliver: Callable[[Process, bool, bytes], None],
    ) -> None:
        self.worker_id = worker_id
        self.job = job
        """Whose tasks it runs, from its start to its end."""
        self.pid = 0
        """0: not forked yet."""
        self.started_at = 0.0
        """When it was forked, by the wall clock; 0: not yet."""
        self.address = home.address_of(worker_id)
        self.killed_for = ""
        """Why it is being killed; empty if it is not."""
        self.retry: Literal["counts", "free", "never"] = "counts"
        """What another attempt of its task costs, if it is being killed."""
        self.is_paused = False
        self.reaped: Reaped | None = None
        self.is_orphan = False
        """The template has died, and so has this; nobody saw how."""
        self._socket_path = Path(home.socket_of(worker_id.hex()))
        self._page_path = self._socket_path.with_suffix(".page")
        self._failed_path = self._page_path.with_suffix(FAILED_SUFFIX)
        self._page_fd = os.open(self._page_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._page_fd, PAGE_BYTES)
        self.ask_when_busy()
        self.stdout = Pipe(outputs, lambda data: deliver(self, False, data), job)
        self.stderr = Pipe(outputs, lambda data: deliver(self, True, data), job)

    def start(self, template: Template, env: dict[str, str]) -> None:
        """Ask the template for the process."""
        fds = (self.stdout.open(), self.stderr.open())
        template.send(Fork(self.worker_id, env), fds)
        for fd in fds:
            os.close(fd)

    def forked(self, pid: int) -> None:
        """Take note of the process's number; carry out a kill that came before."""
        if not self.pid:
            self.pid, self.started_at = pid, wall()
        if self.killed_for:
            self.kill(self.killed_for)

    def kill(self, reason: str) -> None:
        """Kill the process and its children, now or as soon as it is there."""
        self.killed_for = self.killed_for or reason
        if self.reaped is None:
            self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """Stop the process and its children."""
        self.is_paused = True
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        if self.is_paused:
            self.is_paused = False
            self._signal(signal.SIGCONT)

    def orphaned(self) -> None:
        """Take note that the template is gone, and with it the process; end its children too."""
        self.is_orphan = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for send in (os.killpg, os.kill) if self.pid else ():
            try:
                send(self.pid, number)
                break
            except ProcessLookupError:
                continue  # It has not made its group yet, or it is gone.

    @property
    def has_ended(self) -> bool:
        """Whether it was reaped, or is gone with the template."""
        return self.reaped is not None or self.is_orphan

    def ask_when_busy(self) -> None:
        """Have the worker tell when it next begins something."""
        os.pwrite(self._page_fd, b"\1", _ASKS_AT)

    def doing(self) -> Doing:
        """Read the page."""
        page = os.pread(self._page_fd, _READ_NAME_BYTES, 0)
        length = int.from_bytes(page[_LENGTH_AT:_FACTS_AT], "little")
        facts = page[_FACTS_AT] if length else 0
        return Doing(
            page[:_LENGTH_AT],
            page[_NAME_AT : _NAME_AT + length].decode(errors="replace"),
            may_repeat=bool(facts & _MAY_REPEAT),
            is_timed=bool(facts & _IS_TIMED),
            is_lender=os.pread(self._page_fd, 1, _LENDER_AT) == b"\1",
        )

    def running(self) -> tuple[bytes, str]:
        """Return (task id, function name) of what it runs; (b"", "") if it is idle."""
        if self._page_fd < 0:
            return b"", ""
        doing = self.doing()
        return doing.begun[:_ATTEMPT_AT] if doing.function else b"", doing.function

    def last_run(self) -> str:
        """Return the function that it runs, or that it ran last; empty if none, or if it ended."""
        if self._page_fd < 0:
            return ""
        name = os.pread(self._page_fd, _READ_NAME_BYTES - _NAME_AT, _NAME_AT)
        return name.partition(b"\0")[0].decode(errors="replace")

    def _begun(self) -> tuple[bytes, int]:
        """Return (task id, attempt) of what it began last; (b"", 0) if nothing."""
        page = os.pread(self._page_fd, _LENGTH_AT, 0)
        task_id, attempt = page[:_ATTEMPT_AT], page[_ATTEMPT_AT:]
        return task_id if any(task_id) else b"", int.from_bytes(attempt, "little")

    def entry_failure(self) -> str:
        """Return why it could not enter its environment; empty if it could."""
        try:
            return self._failed_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def certificate(self) -> Certificate:
        """Say how it ended. Reads what is left of its output first."""
        self.stdout.drain()
        self.stderr.drain()
        reaped = self.reaped or Reaped(self.pid, signal.SIGKILL, 0)
        exit_code = None if self.is_orphan else os.waitstatus_to_exitcode(reaped.status)
        task_id, attempt = self._begun()
        return Certificate(
            worker_id=self.worker_id,
            pid=self.pid,
            exit_code=exit_code,
            peak_bytes=reaped.peak_bytes,
            limit_bytes=host.limit_bytes(reaped.address_space_bytes),
            function=self.running()[1],
            stderr=self.stderr.tail.text(),
            reason=self.killed_for,
            task_id=task_id,
            attempt=attempt,
            retry=self.retry,
            started_at=self.started_at,
            ended_at=wall(),
        )

    def close(self) -> None:
        """Remove what belonged to it. A child that it left behind may write on, and is read."""
        os.close(self._page_fd)
        self._page_fd = -1
        for path in (self._page_path, self._failed_path, self._socket_path):
            path.unlink(missing_ok=True)


def describe(certificate: Certificate) -> str:
    """Say in a line how a worker ended."""
    code = certificate.exit_code
    why = f": {certificate.reason}" if certificate.reason else ""
    if why:
        how = "was ended"
    elif code is None:
        how = "ended with the process that had started it"
    elif code < 0:
        how = f"was killed by {signal_name(code)}"
    else:
        how = f"exited with code {code}"
    what = f" while it ran {certificate.function}" if certificate.function else ""
    return f"its process {certificate.pid} {how}{what}{why}"
