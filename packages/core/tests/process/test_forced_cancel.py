"""What a cancel by force may cost others: nothing."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import weft
from weft._engine import current
from weft._wire import codec

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    weft.init(num_cpus=1, log_to_driver=False)
    yield
    weft.shutdown()


class Pipe:
    """A named pipe between a test and its tasks."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        # For both ways, so that no open waits for the other side.
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def put(self) -> None:
        os.write(self.fd, b".")

    def take(self) -> int:
        """Return how often somebody has put something."""
        return len(os.read(self.fd, 100))


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[list[Pipe]]:
    made = [Pipe(tmp_path / str(number)) for number in range(4)]
    yield made
    for pipe in made:
        os.close(pipe.fd)


@weft.remote(max_retries=0)
def wait_between(began: str, go: str) -> int:
    """Say that it has begun; end when it is let go."""
    Path(began).write_bytes(b".")
    with Path(go).open("rb") as pipe:
        pipe.read(1)
    return os.getpid()


def wait_for(*fds: int) -> None:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    assert poll.poll(20_000)


def ask_for_workers() -> list[dict[str, Any]]:
    """Ask the daemon, which has done what it was told before when it answers."""
    engine: Any = current.engine
    return codec.unpack(engine.questions.ask("workers"), list[dict[str, Any]])


def test_task_after_one_that_ends_as_it_is_cancelled_by_force_is_not_ended(
    pipes: list[Pipe],
) -> None:
    began, go, next_began, next_go = pipes
    cancelled = wait_between.remote(began.path, go.path)
    wait_for(began.fd)
    following = wait_between.remote(next_began.path, next_go.path)
    engine: Any = current.engine
    daemon = engine.links.daemon.pid
    (worker,) = [record for record in ask_for_workers() if record["state"] == "leased"]
    ended = os.pidfd_open(worker["pid"])
    # Whatever the daemon is told to kill, it kills when the next task has begun, if that can be.
    os.kill(daemon, signal.SIGSTOP)
    try:
        weft.cancel(cancelled, force=True)
        go.put()
        wait_for(ended, next_began.fd)
    finally:
        os.kill(daemon, signal.SIGCONT)
        os.close(ended)
    ask_for_workers()
    next_go.put()
    weft.get(following, timeout=20)
    assert next_began.take() == 1


def test_tasks_behind_one_that_is_cancelled_by_force_are_all_run(pipes: list[Pipe]) -> None:
    @weft.remote(max_retries=0)
    def quick(number: int, go: str = "") -> int:
        if go:
            Path(go).read_bytes()
        return number

    weft.get([quick.remote(number) for number in range(100)], timeout=20)
    before = [quick.remote(number) for number in range(100)]
    cancelled = quick.remote(100, pipes[0].path)
    behind = [quick.remote(number) for number in range(101, 200)]
    weft.cancel(cancelled, force=True)
    assert weft.get([*before, *behind], timeout=20) == [n for n in range(200) if n != 100]
    with pytest.raises(weft.exceptions.TaskCancelledError):
        weft.get(cancelled, timeout=20)
