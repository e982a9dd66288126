from __future__ import annotations

import os
import select
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from weft._runtime.signals import Signals, in_main_thread

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """The signals that were handled; SIGUSR1 has a handler."""
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: came.append(number))
    yield came
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def signals() -> Iterator[Signals]:
    made = Signals()
    before = wakeup_fd()
    yield made
    made.close()
    assert wakeup_fd() == before


@pytest.fixture
def theirs() -> Iterator[socket.socket]:
    """What another library reads, whose wakeup descriptor is set."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    signal.set_wakeup_fd(far.fileno())
    yield near
    signal.set_wakeup_fd(-1)
    near.close()
    far.close()


def wakeup_fd() -> int:
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


def is_readable(signals: Signals) -> bool:
    return select.select([signals.fileno()], [], [], 0)[0] != []


def test_signal_is_to_be_read_while_the_main_thread_waits(
    signals: Signals, handled: list[int]
) -> None:
    signals.begin()
    assert not is_readable(signals)
    signal.raise_signal(signal.SIGUSR1)
    assert is_readable(signals)
    signals.receive()
    assert not is_readable(signals)
    signals.end()
    assert handled == [signal.SIGUSR1]


def test_signal_at_another_time_is_not(signals: Signals, handled: list[int]) -> None:
    signals.begin()
    signals.end()
    signal.raise_signal(signal.SIGUSR1)
    assert not is_readable(signals)
    assert handled == [signal.SIGUSR1]


def test_wait_inside_a_wait_changes_nothing(signals: Signals, handled: list[int]) -> None:
    signals.begin()
    signals.begin()
    signals.end()
    signal.raise_signal(signal.SIGUSR1)
    assert is_readable(signals)
    signals.end()
    assert wakeup_fd() == -1


@pytest.mark.parametrize("is_read", [True, False])
def test_another_library_learns_of_the_signals_too(
    theirs: socket.socket, signals: Signals, handled: list[int], is_read: bool
) -> None:
    signals.begin()
    signal.raise_signal(signal.SIGUSR1)
    if is_read:
        signals.receive()
    signals.end()
    assert theirs.recv(10) == bytes([signal.SIGUSR1])
    signal.raise_signal(signal.SIGUSR1)
    assert theirs.recv(10) == bytes([signal.SIGUSR1])
    with pytest.raises(BlockingIOError):
        theirs.recv(10)


def test_main_thread_is_told_from_others() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(in_main_thread()))
    thread.start()
    thread.join()
    assert (in_main_thread(), found) == (True, [False])


def test_descriptors_are_closed_after_the_wait_that_uses_them(signals: Signals) -> None:
    signals.begin()
    fd = signals.fileno()
    signals.close()
    assert signals.fileno() == fd
    signals.end()
    assert signals.fileno() == -1
    assert wakeup_fd() == -1


def test_forked_child_wakes_nobody(signals: Signals, handled: list[int]) -> None:
    signals.begin()
    pid = os.fork()
    if pid == 0:
        signals.abandon()
        signal.raise_signal(signal.SIGUSR1)
        os._exit(0 if wakeup_fd() == -1 and handled else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not is_readable(signals)
    signals.end()
