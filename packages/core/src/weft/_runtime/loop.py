"""Who reads the sockets: one thread at a time, and best the one that waits for what they bring.

Every hand-over between threads costs 20 to 50 us, as much as a whole call. So a thread that blocks
in `get` takes the right to read, the baton, and processes messages itself until its own wait is
over. When no user thread waits, an I/O thread of the runtime reads: it takes the baton a few
milliseconds after the last user thread laid it down, so that a loop of short waits never meets it.

    nobody  -> a waiting user thread, at once
    nobody  -> the I/O thread, after QUIET_S
    I/O     -> a waiting user thread, at once (it is woken for that)
    user    -> the next waiting user thread, or nobody

Callbacks (`later`) run in the I/O thread, without the baton: they may be the user's, and block, or
wait here themselves.

What is always true
1. Whoever reads `reader` or touches a machine or a connection holds the guard.
2. The reader, and only the reader, waits on the poller.
3. A user thread waits either as the reader or on its own lock, which whoever ends its wait, or
   makes it the reader, opens.
4. The I/O thread sleeps without a time limit while a user thread reads for long, or while it reads
   itself.
5. A wait in the middle of another one of its thread, which a signal handler or a destructor may
   begin, stands in its place until it is over.

Facts about signals: Python runs signal handlers in the main thread, after a call returns, at a
function's beginning and where a loop jumps back. A KeyboardInterrupt inside a machine would leave
it half changed, and one between two steps of `wait` would lose the baton. So the main thread is
shielded there: our SIGINT handler only notes the interrupt, and the end of the shield raises it.
The places that block are not shielded, so Ctrl-C ends a blocking `get` at once; that a signal ends
them is the work of signals.py. After them the shield is up again by an assignment to `shields`: a
call would be one more place for a handler to run.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from sys import _getframe, getrecursionlimit
from typing import TYPE_CHECKING, Any

from weft._clock import monotonic
from weft._log import logger
from weft._runtime.signals import Signals, main_ident
from weft._transport.sockets import Poller

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# Long against a round trip (0.1 ms), short against what a person or a timeout notices.
QUIET_S = 0.004
# The kernel's waits take no longer times; a wait that is longer goes on after it.
LONGEST_S = 1e6
# A wait of the main thread that takes longer is watched for signals: a loop of short waits does not
# pay for that, and a signal that just missed the kernel's wait is late by no more.
SHORT_S = 0.01
# As many frames as handling a message may need, and more.
HEADROOM = 120

_get_ident = threading.get_ident


def refuse_deep_stack(more: int = 0) -> None:
    """Raise RecursionError now, where it breaks nothing, if one might be raised further down.

    `more`: frames that the caller needs above what the guard itself looks for.
    """
    limit = getrecursionlimit()
    try:
        _getframe((limit - HEADROOM if limit > 2 * HEADROOM else limit // 2) - more)
    except ValueError:
        return
    raise RecursionError(f"Weft was called with fewer than {HEADROOM} frames left on the stack")


def _left_s(until: float | None, now: float) -> float:
    """Return how long the kernel is to wait, in [0, LONGEST_S]."""
    if until is None or until - now > LONGEST_S:
        return LONGEST_S
    return until - now if until > now else 0.0


class Guard:
    """The lock round what a loop's reader touches, and the main thread's shield."""

    __slots__ = ("_holder", "_lock", "interrupted", "shields")

    def __init__(self) -> None:
        # Reentrant for a signal handler that runs when it is taken and not marked so yet.
        self._lock = threading.RLock()
        self._holder = 0
        self.shields = 0
        """How many reasons the main thread has not to be interrupted just now."""
        self.interrupted: BaseException | None = None

    def __enter__(self) -> None:
        ident = _get_ident()
        if self._holder == ident:
            raise RuntimeError(
                "Weft was called from a destructor or a signal handler that ran inside Weft: "
                "call it from a thread"
            )
        if ident != main_ident:
            refuse_deep_stack()
        elif self.shields:
            self.shields += 1
        else:
            refuse_deep_stack()
            self.shields += 1
        self._lock.acquire()
        self._holder = ident

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._holder = 0
        self._lock.release()
        if _get_ident() == main_ident:
            self.shields -= 1
            if self.interrupted is not None and not self.shields:
                self._raise()

    def _raise(self) -> None:
        if self.interrupted is not None:
            # No variable has it: else its traceback would lead to itself, and would keep what is in
            # the frames of the code that was interrupted until garbage is collected.
            raise self._take_interrupted()

    def _take_interrupted(self) -> BaseException:
        interrupted, self.interrupted = self.interrupted, None
        assert interrupted is not None
        return interrupted

    def shield(self) -> None:
        """Hold interrupts of the main thread back; for another thread this does nothing."""
        if _get_ident() == main_ident:
            self.shields += 1

    def unshield(self) -> None:
        """End one `shield`; raise what was held back if it was the last."""
        if _get_ident() == main_ident:
            self.shields -= 1
            if self.interrupted is not None and not self.shields:
                self._raise()

    def interrupt(self, error: BaseException) -> None:
        """Raise `error` in the main thread, which calls this from a signal handler.

        Now, or when the shields are down.
        """
        self.interrupted = error
        del error  # See `_raise`.
        if not self.shields:
            self._raise()


class Waiter:
    """One thread's wait for `missing` things.

    `ready` is called, inside the guard, as each comes.
    """

    __slots__ = ("is_reader", "lock", "missing", "thread")

    def __init__(self, missing: int = 1) -> None:
        self.missing = missing
        self.lock = threading.Lock()
        self.lock.acquire()
        self.is_reader = False
        self.thread = 0
        """Ident of the thread that waits."""

    def ready(self, _: Any = None) -> None:
        """One of the things is there."""
        self.missing -= 1
        if self.missing == 0 and not self.is_reader:
            self.open()

    def open(self) -> None:
        """Let the thread look what has changed. Inside the guard."""
        if self.lock.locked():
            self.lock.release()


class Loop:
    """The poller of a process, and the threads that take turns at it."""

    def __init__(
        self,
        before_wait: Callable[[float], float | None],
        on_quiet: Callable[[], None],
        on_broken: Callable[[Exception], None],
    ) -> None:
        """Make a loop.

        Args:
            before_wait: Called inside the guard before every wait, with the time: flushes, handles
                deadlines; returns when it has to be called again (None: when something happens).
            on_quiet: Called inside the guard when the I/O thread takes over because user code runs
                for long.
            on_broken: Called inside the guard when handling a message raised: a bug, after which
                nothing can be trusted.
        """
        self.poller = Poller()
        self._signals = Signals()
        self.poller.add(self._signals.fileno(), self._signalled)
        self.guard = Guard()
        self.closed = False
        self._before_wait = before_wait
        self._on_quiet = on_quiet
        self._on_broken = on_broken
        self._reader: Waiter | Loop | None = None
        """Who has the baton: a user thread, the I/O thread (this loop), or nobody."""
        self._rounds = 0
        """Grows with each change of the reader.

        How the I/O thread sees whether user threads are at it.
        """
        self._waiting: deque[Waiter] = deque()
        self._io_sleeps = False
        self._io_bell = threading.Lock()
        """The I/O thread sleeps on it between two looks."""
        self._io_bell.acquire()
        self._leaving: threading.Lock | None = None
        """`close` waits on it for a user thread that reads."""
        self._in_round = False
        """The reader handles what has come, inside the guard: it will look at everything after."""
        self._later: deque[Callable[[], object]] = deque()
        self._io_thread = threading.Thread(target=self._io, name="weft-io", daemon=True)

    def start(self) -> None:
        """Start the I/O thread."""
        self._io_thread.start()

    def later(self, function: Callable[[], object]) -> None:
        """Call `function` soon, outside the guard, in the I/O thread.

        For whatever may block or be the user's. Safe from any thread.
        """
        self._later.append(function)
        if self._reader is not self:
            self._ring()
        elif not self._in_round:
            self.poller.wake()

    def _ring(self) -> None:
        if self._io_bell.locked():
            # Another thread may have rung it just now.
            with contextlib.suppress(RuntimeError):
                self._io_bell.release()

    def nudge(self) -> None:
        """Let `before_wait` run again soon, whoever reads. Safe from `__del__`."""
        self.poller.wake()

    # -------------------------------------------------------------- user threads

    def wait(self, waiter: Waiter, deadline: float | None = None) -> bool:
        """Block until nothing is missing or the deadline (monotonic) has come.

        Return whether nothing is missing.
        """
        guard = self.guard
        waiter.thread = _get_ident()
        refuse_deep_stack()
        is_watched = False
        outer: Waiter | None = None
        guard.shield()
        try:
            with guard:
                if waiter.missing <= 0 or self.closed:
                    return waiter.missing <= 0
                outer = self._wait_of(waiter.thread)
                if outer is not None:
                    self._replace(outer, waiter)
                elif self._reader is None:
                    self._take(waiter)
                else:
                    self._waiting.append(waiter)
                    if self._reader is self:
                        self.poller.wake()
            if waiter.thread == main_ident:
                short = monotonic() + SHORT_S
                if (deadline is None or deadline > short) and not self._block(waiter, short):
                    with guard:
                        self._signals.begin()
                        is_watched = True
            self._block(waiter, deadline)
            return waiter.missing <= 0
        finally:
            try:
                with guard:
                    if is_watched:
                        self._signals.end()
                    if outer is not None:
                        self._replace(waiter, outer)
                        # It may be over: let it look, wherever it was when this one began.
                        outer.open()
                        self.poller.wake()
                    elif waiter.is_reader:
                        waiter.is_reader = False
                        self._pass_on()
                    elif waiter in self._waiting:
                        self._waiting.remove(waiter)
            finally:
                guard.unshield()

    def _signalled(self, _events: int) -> None:
        """The main thread has a signal to handle: let it, if it does not read itself."""
        self._signals.receive()
        for waiter in self._waiting:
            if waiter.thread == main_ident:
                waiter.open()

    def _block(self, waiter: Waiter, deadline: float | None) -> bool:
        """Wait for the baton, then read. Return whether it is over, and not just the time up."""
        self._await_baton(waiter, deadline)
        if waiter.is_reader and waiter.missing > 0:
            self._read(lambda: waiter.missing <= 0 or self.closed, deadline)
        return waiter.missing <= 0 or self.closed

    def _await_baton(self, waiter: Waiter, deadline: float | None) -> None:
        """Block until the waiter is the reader, or need not be it."""
        guard = self.guard
        is_main = waiter.thread == main_ident
        while not (waiter.is_reader or waiter.missing <= 0 or self.closed):
            left_s = _left_s(deadline, monotonic())
            shields = guard.shields
            try:
                guard.unshield()
                opened = waiter.lock.acquire(timeout=left_s)
            finally:
                if is_main:
                    guard.shields = shields
            if not opened and deadline is not None and monotonic() >= deadline:
                return

    def _wait_of(self, thread: int) -> Waiter | None:
        """Return the wait in whose middle a thread runs a signal handler, or a destructor."""
        if isinstance(self._reader, Waiter) and self._reader.thread == thread:
            return self._reader
        for waiter in self._waiting:
            if waiter.thread == thread:
                return waiter
        return None

    def _replace(self, old: Waiter, new: Waiter) -> None:
        """Let one wait of a thread stand where another one of it stood."""
        if old.is_reader:
            old.is_reader = False
            self._take(new)
        elif old in self._waiting:
            self._waiting[self._waiting.index(old)] = new

    def _take(self, waiter: Waiter) -> None:
        self._reader = waiter
        waiter.is_reader = True
        self._rounds += 1

    def _pass_on(self) -> None:
        self._rounds += 1
        if self._waiting:
            waiter = self._waiting.popleft()
            self._take(waiter)
            waiter.open()
            return
        self._reader = None
        if self._io_sleeps:
            self._ring()
        if self._leaving is not None and self._leaving.locked():
            self._leaving.release()

    def _read(self, over: Callable[[], bool], deadline: float | None) -> None:
        """Read until it is over, or the deadline has come. The main thread is shielded."""
        guard, poller = self.guard, self.poller
        is_main = _get_ident() == main_ident
        events: list[tuple[int, int]] = []
        # Even without any time to wait, what has arrived is read once.
        has_looked = False
        while True:
            with guard:
                if over():
                    return
                now = monotonic()
                wake_at = self._round(events, now)
                if over():
                    return
            until = wake_at
            if deadline is not None:
                if deadline <= now and has_looked:
                    return
                if until is None or deadline < until:
                    until = deadline
            has_looked = True
            left_s = _left_s(until, now)
            shields = guard.shields
            try:
                guard.unshield()
                events = poller.wait(left_s)
            except (OSError, ValueError):
                # A signal handler that ran here has closed the loop.
                if not self.closed:
                    raise
                events = []
            finally:
                if is_main:
                    guard.shields = shields

    def _round(self, events: list[tuple[int, int]], now: float) -> float | None:
        """Handle what has come; return when to look again."""
        self._in_round = True
        try:
            if events:
                self.poller.dispatch(events)
            return self._before_wait(now)
        except Exception as error:  # noqa: BLE001 - the outermost place: whoever reads must not die of it
            self._on_broken(error)
            return None
        finally:
            self._in_round = False

    # -------------------------------------------------------------- the I/O thread

    def _io(self) -> None:
        seen = -1
        had_baton = False
        while not self.closed:
            self._run_later()
            with self.guard:
                is_quiet = seen == self._rounds
                if self._reader is None and (is_quiet or had_baton):
                    self._reader = self
                    if not had_baton:
                        self._call_on_quiet()
                self._io_sleeps = isinstance(self._reader, Waiter) and is_quiet
                seen = self._rounds
                reads = self._reader is self
                sleeps = self._io_sleeps
            had_baton = False
            if reads:
                self._read(lambda: bool(self._waiting or self._later) or self.closed, None)
                with self.guard:
                    self._pass_on()
                    # Nobody else wants it: it was laid down for callbacks only.
                    had_baton = self._reader is None
            else:
                self._io_bell.acquire(timeout=-1 if sleeps else QUIET_S)
        self._run_later()

    def _call_on_quiet(self) -> None:
        try:
            self._on_quiet()
        except Exception as error:  # noqa: BLE001 - as in a round
            self._on_broken(error)

    def _run_later(self) -> None:
        later = self._later
        while later:
            try:
                function = later.popleft()
            except IndexError:
                return
            try:
                function()
            except Exception:  # noqa: BLE001 - a user's callback must not end the thread that happens to read
                logger().exception("a callback failed")

    def close(self) -> None:
        """Stop the I/O thread, once it has run all callbacks, and let every waiting thread go."""
        with self.guard:
            self.closed = True
            for waiter in self._waiting:
                waiter.open()
            self._waiting.clear()
            self._ring()
            self.poller.wake()
        if threading.current_thread() is not self._io_thread and self._io_thread.is_alive():
            self._io_thread.join()
        leaving = None
        with self.guard:
            reader = self._reader
            if isinstance(reader, Waiter) and reader.thread != _get_ident():
                # It wakes, but until it has left it may still wait on the poller.
                leaving = self._leaving = self._leaving or threading.Lock()
                leaving.acquire(blocking=False)
        if leaving is not None:
            with leaving:
                pass
        with self.guard:
            self._signals.close()
        self.poller.close()

    def abandon(self) -> None:
        """Let go of everything in a forked child: the parent goes on with it."""
        self.poller.abandon()
        self._signals.abandon()
