"""A driver for tests that speaks to a real daemon in plain messages."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest

from weft._ids import ActorId, FunctionId
from weft._launch import NodeOptions, Started, caller_path, start_daemon
from weft._specs import ActorMeta, Shape
from weft._transport.sockets import Poller, SocketConnection, connect
from weft._wire.messages import (
    Answer,
    Ask,
    Bye,
    Certificate,
    CreateActor,
    Demand,
    Done,
    Explain,
    Granted,
    Hello,
    Message,
    Output,
    ReturnLease,
    Run,
    WatchActor,
    Welcome,
)
from weft._wire.version import WIRE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

M = TypeVar("M", bound=Message)
HERE = str(Path(__file__).parent)
WAIT_S = 20.0
ANY_WORKER = Shape()


class Session:
    """A daemon and its driver."""

    def __init__(self, started: Started) -> None:
        self.started = started
        self.me = os.urandom(16)
        self.poller = Poller()
        self.inbox: list[Message] = []
        self.lost = ""
        self.numbers = itertools.count(1)
        self.links: list[SocketConnection] = []
        self.daemon = self.link(started.address)
        self.say(Hello(WIRE, self.me, "", os.getpid(), "driver"))
        self.welcome = self.expect(Welcome)

    def link(self, address: str) -> SocketConnection:
        connection = SocketConnection(self.poller, connect(address), self.received, self.closed)
        self.links.append(connection)
        return connection

    def received(self, connection: SocketConnection, messages: list[Message]) -> None:
        self.inbox += messages

    def closed(self, connection: SocketConnection, reason: str) -> None:
        if connection is self.daemon:
            self.lost = reason

    def say(self, message: Message, to: SocketConnection | None = None) -> None:
        to = to or self.daemon
        to.queue(message)
        to.flush()

    def wait(self, condition: Callable[[], Any], wait_s: float = WAIT_S) -> None:
        until = time.monotonic() + wait_s
        while not condition():
            assert time.monotonic() < until, (
                f"waited in vain; {self.inbox} {self.started.last_words()}"
            )
            assert not self.lost, f"{self.lost} {self.started.last_words()}"
            self.poller.poll(0.05)

    def expect(self, kind: type[M], is_it: Callable[[M], bool] = lambda _: True) -> M:
        """Wait for a message and take it out of the inbox."""
        found: list[M] = []

        def look() -> bool:
            for message in self.inbox:
                if isinstance(message, kind) and is_it(message):
                    self.inbox.remove(message)
                    found.append(message)
                    return True
            return False

        self.wait(look)
        return found[0]

    def lease(self, shape: Shape = ANY_WORKER, key: int = 1, **facts: Any) -> Granted:
        self.say(Demand(key, shape, 1, facts.pop("depth", 0), **facts))
        return self.expect(Granted, lambda message: message.key == key)

    def run(self, granted: Granted, what: str, *, wait: bool = True) -> bytes:
        """Let a worker do something; return the task's id."""
        task_id = next(self.numbers).to_bytes(16, "big")
        self.say(Run(task_id, b"f" * 16, b"", name=what), self.link(granted.address))
        if wait:
            self.expect(Done, lambda message: message.task_id == task_id)
        return task_id

    def give_back(self, granted: Granted) -> None:
        self.say(ReturnLease(granted.worker_id))

    def explain(self, worker_id: bytes) -> Certificate:
        self.say(Explain(worker_id))
        return self.expect(Certificate, lambda message: message.worker_id == worker_id)

    def ask(self, what: str, body: object = None) -> Answer:
        request = next(self.numbers)
        self.say(Ask(request, what, msgspec.msgpack.encode(body)))
        return self.expect(Answer, lambda message: message.request == request)

    def create_actor(
        self, name: str = "", shape: Shape = ANY_WORKER, **options: Any
    ) -> tuple[ActorId, Answer]:
        actor_id = ActorId.from_random()
        request = next(self.numbers)
        self.say(WatchActor(actor_id))
        self.say(
            CreateActor(
                meta=ActorMeta(actor_id, "Counter", {}, name=name),
                shape=shape,
                function_id=FunctionId(b"f" * 16),
                code=b"",
                args=b"",
                deps=[],
                owner="the driver",
                options=options,
                request=request,
            )
        )
        return actor_id, self.expect(Answer, lambda message: message.request == request)

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = msgspec.msgpack.decode(self.ask("workers").body)
        return found

    def output(self, is_stderr: bool = False) -> bytes:
        """What has come so far."""
        return b"".join(
            m.data for m in self.inbox if isinstance(m, Output) and m.is_stderr is is_stderr
        )

    def bye(self) -> int | None:
        """Leave cleanly; return the daemon's exit code."""
        if not self.lost:
            self.say(Bye())
            until = time.monotonic() + WAIT_S
            while not self.lost and time.monotonic() < until:
                self.poller.poll(0.05)
        code = self.started.process.wait(WAIT_S)
        for connection in self.links:
            connection.close()
        self.poller.close()
        return code


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Directories of their own for sessions and segments: (temp, store), under a short path."""
    short = Path(f"/tmp/wt-{os.getpid()}-{os.urandom(2).hex()}")
    temp, store = short / "t", short / "s"
    store.mkdir(parents=True)
    monkeypatch.setenv("WEFT_TEMP_DIR", str(temp))
    monkeypatch.setenv("WEFT_STORE_ROOT", str(store))
    monkeypatch.setenv("WEFT_CHECK", "1")
    yield temp, store
    left = [str(path) for path in short.rglob("*") if not path.is_dir()]
    for path in sorted(short.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    short.rmdir()
    assert not left


@pytest.fixture
def start(roots: tuple[Path, Path]) -> Iterator[Callable[..., Session]]:
    """Start sessions; each must end with nothing left."""
    sessions: list[Session] = []
    fds = len(list(Path("/proc/self/fd").iterdir()))

    def begin(**options: Any) -> Session:
        options = {"num_cpus": 2, "worker_entry": "stand_in:main", **options}
        started = start_daemon(node=NodeOptions(sys_path=(HERE, *caller_path()), **options))
        sessions.append(Session(started))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.bye()
        if session.started.process.poll() is None:
            session.started.process.kill()
            raise AssertionError(f"the daemon did not end: {session.started.last_words()}")
    assert len(list(Path("/proc/self/fd").iterdir())) == fds


@pytest.fixture
def session(start: Callable[..., Session]) -> Session:
    """One session with two CPUs."""
    return start()


def wait_until_gone(pids: list[int], wait_s: float) -> list[int]:
    """Wait for processes to end; return those that live on."""
    until = time.monotonic() + wait_s
    while (living := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < until:
        time.sleep(0.02)
    return living


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def gone() -> Callable[[list[int], float], list[int]]:
    """The function that waits for processes to end."""
    return wait_until_gone
