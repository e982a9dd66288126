"""The shell of the control service: commands go through the journal to the tables, in one order.

    do(command) -> waiting -> one batch is appended and synced by the journal's thread
                                 |            what comes meanwhile is the next batch
                                 v
                    the ledger applies each, its answer is given, its events are told

Nothing that is not durable is seen: the tables, and so all who read them, know of a command once
the journal has it. When the journal has grown by `SNAPSHOT_BYTES` since the last snapshot, and by
as much as that took, a snapshot takes its place: commands wait while it is written, reads do not.

What is always true
1. A command that was answered is in the journal. One that was not may be there, or not.
2. Two requests of one name are one command, while it is under way and after (ledger.py).
3. At most `WAITING` commands wait; more are refused at once, and were not done.
4. When the journal is full commands are refused, and were not done; reads go on. When it fails in
   any other way, or may be another's, nothing is answered any more: the process ends, and what it
   was about is read from the journal by who comes next.
5. Times of entries never go back, over restarts too.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from weft import _settings
from weft._control.base import (
    BATCH_BYTES,
    LINE_BYTES,
    JournalError,
    JournalFullError,
    JournalLostError,
    JournalTakenError,
)
from weft._log import logger
from weft._machines.ledger import Ledger, LedgerEntry, Sender, TableBroke
from weft._machines.rulings import Request, Ruling
from weft._machines.tables import Noted, ServiceBegun

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._clock import Clock
    from weft._control.base import CommandJournal, Opened

WAITING = 20_000
SNAPSHOT_BYTES = 16 * 1024 * 1024
SNAPSHOT_LINES = 100_000
LOOK_S = 1.0
"""Who waits for another's journal sees so often whether it is still to wait."""
ALARM_S = 0.02
"""Time is told to tables no oftener."""


class ServiceEndedError(Exception):
    """The service answers nothing any more; why is its message."""


class _Waiting(NamedTuple):
    entry: LedgerEntry
    """Its time is set when it goes to the journal."""
    line_bytes: int
    answered: asyncio.Future[Ruling]


class Service:
    """The tables of a control service and its journal. Everything runs on one loop.

    Attributes:
        number: Of this life of the service; 0 before `start`.
        ended: Done when the service has failed; its exception says why.
    """

    def __init__(
        self,
        journal: CommandJournal,
        ledger: Ledger,
        clock: Clock,
        tell: Callable[[Any], None],
    ) -> None:
        self._journal = journal
        self._ledger = ledger
        self._clock = clock
        self._tell = tell
        self.number = 0
        self._waiting: list[_Waiting] = []
        self._under_way: dict[tuple[bytes, int], asyncio.Future[Ruling]] = {}
        self._wanted = asyncio.Event()
        self._stopping = False
        self._began_at = 0.0
        """What the clock said when the service's own time was what the journal says."""
        self._lines = self._log_bytes = self._snapshot_bytes = 0
        self._thread = ThreadPoolExecutor(1, "weft-journal")
        self._writer: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -------------------------------------------------------------- life

    async def start(self, wait_s: float = 0.0) -> None:
        """Take the journal, waiting so long for it, and make the state that it tells.

        Raises:
            JournalError: It cannot be had, or not be read.
            ServiceEndedError: The service was stopped meanwhile.
        """
        opened = await self._opened(wait_s)
        try:
            self._replay(opened)
        except (ValueError, msgspec.MsgspecError) as error:
            await self._in_thread(self._journal.close)
            raise JournalError(f"the journal cannot be understood: {error}") from error
        self.number = opened.number
        self._began_at = self._clock.monotonic() - self._ledger.now
        self._writer = asyncio.create_task(self._write())
        self._watch_hold()
        self.note(ServiceBegun(self.number))

    async def _opened(self, wait_s: float) -> Opened:
        until = self._clock.monotonic() + wait_s
        while True:
            left_s = max(0.0, until - self._clock.monotonic())
            try:
                opened: Opened = await self._in_thread(self._journal.open, min(left_s, LOOK_S))
            except JournalTakenError:
                if left_s == 0.0:
                    raise
            else:
                if not self._stopping:
                    return opened
            if self._stopping:
                raise ServiceEndedError("the control service was told to end")

    def _replay(self, opened: Opened) -> None:
        if opened.snapshot is not None:
            self._ledger.restore(opened.snapshot)
            self._snapshot_bytes = len(opened.snapshot)
        for line in opened.lines:
            self._ledger.apply(self._ledger.decode(line))
            self._log_bytes += len(line)
        self._lines = len(opened.lines)

    async def stop(self) -> None:
        """Do what waits, then let the journal go. Idempotent."""
        if self._stopping:
            return
        self._stopping = True
        self._wanted.set()
        if self._writer is not None:
            await self._writer
        for timer in (self._alarm, self._watch):
            if timer is not None:
                timer.cancel()
        await self._in_thread(self._journal.close)
        self._thread.shutdown()

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    @property
    def now(self) -> float:
        """The service's own time, in seconds: it stands still while there is no service."""
        return self._clock.monotonic() - self._began_at

    def check_alive(self) -> None:
        """Raise ServiceEndedError if nothing may be answered any more, reads included."""
        if self._held_s() <= 0 and not self.ended.done():
            self._fail(JournalLostError("the journal may be another's: it could not be held"))
        if self.ended.done():
            raise ServiceEndedError(str(self.ended.exception()))

    def _held_s(self) -> float:
        return self._journal.held_until() - self._clock.monotonic()

    def _watch_hold(self) -> None:
        """End in time if the journal is held no more, also while nobody asks for anything."""
        self._watch = None
        with contextlib.suppress(ServiceEndedError):
            self.check_alive()
            left_s = self._held_s()
            if left_s < float("inf"):
                loop = asyncio.get_running_loop()
                self._watch = loop.call_later(left_s, self._watch_hold)

    # -------------------------------------------------------------- commands

    async def do(
        self, command: Any, request: Request | None = None, sender: Sender | None = None
    ) -> Ruling:
        """Do a command and return its answer; being cancelled does not undo it.

        Raises:
            ServiceEndedError: The service has ended; whether the command was done is not known.
        """
        return await asyncio.shield(self.begin(command, request, sender))

    def begin(
        self, command: Any, request: Request | None = None, sender: Sender | None = None
    ) -> asyncio.Future[Ruling]:
        """Have a command done, after those that were begun before; return its answer to come.

        Raises:
            ServiceEndedError: The service has ended, or ends; the future may end so, too.
        """
        self.check_alive()
        if request is not None:
            known = self._ledger.answer_of(request)
            if known is not None:
                answered: asyncio.Future[Ruling] = asyncio.get_running_loop().create_future()
                answered.set_result(known)
                return answered
            under_way = self._under_way.get((request.client, request.number))
            if under_way is not None:
                return under_way
        if self._stopping:
            raise ServiceEndedError("the control service ends")
        return self._enqueue(LedgerEntry(0.0, command, request, sender))

    def _enqueue(self, entry: LedgerEntry) -> asyncio.Future[Ruling]:
        answered: asyncio.Future[Ruling] = asyncio.get_running_loop().create_future()
        line_bytes = len(self._ledger.encode(entry))
        if len(self._waiting) >= WAITING:
            answered.set_result(Ruling(code="full", reason=f"{WAITING} commands wait; try later"))
        elif line_bytes > LINE_BYTES:
            reason = f"a command of {line_bytes} bytes: {LINE_BYTES} are the most"
            answered.set_result(Ruling(code="invalid", reason=reason))
        else:
            self._waiting.append(_Waiting(entry, line_bytes, answered))
            if entry.request is not None:
                name = (entry.request.client, entry.request.number)
                self._under_way[name] = answered
                answered.add_done_callback(lambda _: self._under_way.pop(name, None))
            self._wanted.set()
        return answered

    # -------------------------------------------------------------- the writer

    async def _write(self) -> None:
        while not self.ended.done():
            if not self._waiting:
                if self._stopping:
                    return
                self._wanted.clear()
                await self._wanted.wait()
                continue
            batch = self._next_batch()
            try:
                await self._do_batch(batch)
            except Exception as error:  # noqa: BLE001 - rule 4: whatever it was, this life is over
                self._fail(error, batch)

    def _next_batch(self) -> list[_Waiting]:
        """Take what waits, as much as the journal takes at once."""
        size_bytes = taken = 0
        for waiting in self._waiting:
            size_bytes += waiting.line_bytes
            if taken and size_bytes > BATCH_BYTES:
                break
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    async def _do_batch(self, batch: list[_Waiting]) -> None:
        now = self.now
        entries = [
            LedgerEntry(now, each.entry.command, each.entry.request, each.entry.sender)
            for each in batch
        ]
        lines = [self._ledger.encode(entry) for entry in entries]
        try:
            await self._in_thread(self._journal.append, lines)
        except JournalFullError as error:
            logger().error("commands are refused: %s", error)
            for each in batch:
                _give(each.answered, Ruling(code="full", reason=str(error)))
            return
        self._lines += len(lines)
        self._log_bytes += sum(map(len, lines))
        for each, entry in zip(batch, entries, strict=True):
            self._apply(entry, each.answered)
        self._set_alarm()
        await self._snapshot_if_due()

    def _apply(self, entry: LedgerEntry, answered: asyncio.Future[Ruling]) -> None:
        applied = self._ledger.apply(entry)
        if _settings.CHECK.value():
            self._ledger.check()
        _give(answered, applied.answer)
        for event in applied.events:
            if isinstance(event, TableBroke):
                text = "the table %s cannot take %s: %s"
                logger().error(text, event.table, event.what, event.error)
            self._tell(event)

    async def _snapshot_if_due(self) -> None:
        if self._lines < SNAPSHOT_LINES and self._log_bytes < SNAPSHOT_BYTES:
            return
        if self._log_bytes < self._snapshot_bytes:
            return
        snapshot = self._ledger.image()
        try:
            await self._in_thread(self._journal.replace, snapshot)
        except JournalFullError as error:
            logger().error("no snapshot of the journal is made: %s", error)
        self._snapshot_bytes = len(snapshot)
        self._lines = self._log_bytes = 0

    def _fail(self, error: BaseException, batch: list[_Waiting] | None = None) -> None:
        """End this life: nobody gets an answer any more."""
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # It is told by who waits for the end, if anybody does.
        for each in [*(batch or []), *self._waiting]:
            if not each.answered.done():
                each.answered.set_exception(ServiceEndedError(str(error)))
                each.answered.exception()
        self._waiting.clear()
        self._wanted.set()

    # -------------------------------------------------------------- time

    def _set_alarm(self) -> None:
        """Have an alarm when something is due, or before: then it is set anew."""
        at = self._ledger.wake_at()
        if at is None or self._stopping:
            return
        loop = asyncio.get_running_loop()
        # What is due stays due until its command is durable: so it is not asked for at once.
        rings_at = loop.time() + max(ALARM_S, at - self.now)
        if self._alarm is not None:
            if self._alarm.when() <= rings_at:
                return
            self._alarm.cancel()
        self._alarm = loop.call_at(rings_at, self._due)

    def _due(self) -> None:
        self._alarm = None
        if not self.ended.done():
            self._do_noted(self._ledger.due(self.now))
            self._set_alarm()

    def note(self, happened: Any) -> None:
        """Tell the tables what is not journaled."""
        self._do_noted(self._ledger.note(happened, self.now))
        self._set_alarm()

    def _do_noted(self, noted: Noted) -> None:
        for event in noted.events:
            self._tell(event)
        for command in noted.commands:
            self._enqueue(LedgerEntry(0.0, command))


def _give(answered: asyncio.Future[Ruling], answer: Ruling) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        answered.set_result(answer)
