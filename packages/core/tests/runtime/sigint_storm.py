"""A program that is interrupted hundreds of times while it waits, and tells whether all is well."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING

from weft._clock import monotonic
from weft._runtime.loop import Loop, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

STORM_S = 3.0
LATE_S = 10.0


class Storm:
    def __init__(self) -> None:
        self.broken: list[str] = []
        self.loop = Loop(
            lambda _now: None, lambda: None, lambda error: self.broken.append(repr(error))
        )
        self.messages: deque[Callable[[], object]] = deque()
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.loop.poller.add(self.near.fileno(), self.handle)
        self.armed = False
        self.over = False
        self.interrupts = self.waits = self.late = self.others_late = 0
        self.random = random.Random(os.getpid())
        signal.signal(signal.SIGINT, self.interrupted)
        self.loop.start()

    def interrupted(self, _number: int, _frame: object) -> None:
        if self.armed:
            self.loop.guard.interrupt(KeyboardInterrupt())

    def handle(self, _events: int) -> None:
        for _ in self.near.recv(1 << 16):
            self.messages.popleft()()

    def message(self, function: Callable[[], object]) -> None:
        self.messages.append(function)
        self.far.send(b"x")

    # -------------------------------------------------------------- the main thread

    def attempt(self) -> None:
        waiter = Waiter()
        choice = self.random.random()
        if choice < 0.5:
            self.message(waiter.ready)
            if not self.loop.wait(waiter, monotonic() + LATE_S):
                self.late += 1
        elif choice < 0.7:
            self.loop.wait(waiter, monotonic() + self.random.random() * 0.004)
        elif choice < 0.8:
            self.loop.wait(waiter, monotonic())
        elif choice < 0.9:
            with self.loop.guard:
                self.message(waiter.ready)
            self.loop.wait(waiter)
        else:
            self.loop.later(lambda: None)
            self.loop.wait(waiter, monotonic() + 0.001)
        self.waits += 1

    def run(self) -> None:
        end = monotonic() + STORM_S
        while monotonic() < end:
            try:
                self.armed = True
                self.attempt()
                self.armed = False
            except KeyboardInterrupt:
                self.armed = False
                self.interrupts += 1

    # -------------------------------------------------------------- the other threads

    def strike(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        pause = threading.Event()
        while not self.over:
            signal.pthread_kill(main, signal.SIGINT)
            pause.wait(self.random.random() * 0.004)

    def wait_often(self) -> None:
        while not self.over:
            waiter = Waiter()
            self.message(waiter.ready)
            if not self.loop.wait(waiter, monotonic() + LATE_S):
                self.others_late += 1

    def report(self) -> dict[str, object]:
        others = [
            threading.Thread(target=self.strike),
            *(threading.Thread(target=self.wait_often) for _ in range(2)),
        ]
        for thread in others:
            thread.start()
        self.run()
        self.over = True
        for thread in others:
            thread.join()
        guard = self.loop.guard
        facts: dict[str, object] = {
            "interrupts": self.interrupts,
            "waits": self.waits,
            "shields": guard.shields,
            "pending": guard.interrupted,
            "holder": guard._holder,
            "broken": self.broken,
            "late": self.late,
            "others_late": self.others_late,
        }
        waiter = Waiter()
        self.message(waiter.ready)
        facts["works"] = self.loop.wait(waiter, monotonic() + LATE_S)
        done = threading.Event()
        self.message(lambda: self.loop.later(done.set))
        facts["io_works"] = done.wait(LATE_S)
        self.loop.close()
        return facts


if __name__ == "__main__":
    print(json.dumps(Storm().report()))
