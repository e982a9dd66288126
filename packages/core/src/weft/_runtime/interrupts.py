"""Ctrl-C in a program: held back while it would break the runtime's middle."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft._runtime.loop import Guard


class Interrupts:
    """The handler of SIGINT while a session goes on, if the program has none of its own."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._old_handler: Any = None

    def begin(self) -> None:
        """Take the interrupts, in the main thread; elsewhere do nothing."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._old_handler = signal.signal(signal.SIGINT, self._interrupted)

    def _interrupted(self, _number: int, _frame: object) -> None:
        self._guard.interrupt(KeyboardInterrupt())

    def end(self) -> None:
        """Give them back."""
        if self._old_handler is not None and signal.getsignal(signal.SIGINT) == self._interrupted:
            signal.signal(signal.SIGINT, self._old_handler)
