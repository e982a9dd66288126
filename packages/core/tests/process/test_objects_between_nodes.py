"""Two nodes of a cluster on this machine: real daemons, TLS between them, a driver on each."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from weft._clock import monotonic
from weft._env.jobs import JobEnvironment, with_job
from weft._launch import ClusterFile, NodeOptions, caller_path, start_daemon
from weft._runtime.local import Driver
from weft._runtime.loop import Waiter
from weft._runtime.tools import Tool
from weft._transport.credentials import make_credentials
from weft._transport.gate import listen
from weft._wire.codec import unpack
from weft._wire.messages import BeginsJob
from weft._wire.transfers import CHUNK_BYTES
from weft.exceptions import GetTimeoutError, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from weft._refs import ObjectRef

PATIENCE_S = 20.0


class Node:
    """A daemon, and a driver beside it."""

    def __init__(self, credentials: Path, **options: Any) -> None:
        with listen("127.0.0.1") as gate:
            cluster = ClusterFile(
                node=f"127.0.0.1:{gate.getsockname()[1]}",
                credentials=str(credentials),
                control="",
            )
            options = {"num_cpus": 1, "prestart": 0, "object_store_memory": 1 << 28, **options}
            self.started = start_daemon(
                node=NodeOptions(**options), cluster=cluster, gate_fds=(gate.fileno(),)
            )
        # Its doors are open when it answers.
        try:
            with Tool(self.started.session_dir, PATIENCE_S) as tool:
                tool.ask("resources")
        except SessionError as error:
            error.add_note(self.started.last_words())
            raise
        self.runtime = Driver(self.started.session_dir, cluster, None)
        job = JobEnvironment(id=os.urandom(16).hex(), sys_path=caller_path())
        self.runtime.begin(self.started.address, BeginsJob(with_job("", job)))

    def borrow(self, ref: ObjectRef[Any]) -> ObjectRef[Any]:
        """Return a reference of this node's driver to what another one owns."""
        mine = self.runtime.objects.rebuild_ref(ref._id, ref._owner)
        registered = Waiter()
        with self.runtime.guard:
            self.runtime.objects.when_registered([ref._id], registered.ready)
        assert self.runtime.loop.wait(registered, monotonic() + PATIENCE_S)
        return mine

    def get(self, ref: ObjectRef[Any], timeout_s: float = PATIENCE_S) -> Any:
        return self.runtime.get([ref], timeout_s)[0]

    def segments(self) -> list[str]:
        """Return the segments in the node's memory that hold objects."""
        with Tool(self.started.session_dir, PATIENCE_S) as tool:
            return [each["name"] for each in unpack(tool.ask("segments"), list[dict[str, Any]])]

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the daemon will do."""
        end = monotonic() + PATIENCE_S
        while not condition():
            assert monotonic() < end
            self.get(self.runtime.put(0))

    def stop(self) -> None:
        """Let the daemon stand still."""
        os.kill(self.started.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.started.process.pid, signal.SIGCONT)

    def end(self) -> None:
        if hasattr(self, "runtime"):
            self.runtime.close()
        self.kill(signal.SIGTERM)

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.started.process.poll() is None:
            self.go_on()
            os.kill(self.started.process.pid, number)
            assert self.started.process.wait(PATIENCE_S) is not None


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    make_credentials(tmp_path / "credentials")
    made: list[Node] = []

    def make(**options: Any) -> Node:
        made.append(Node(tmp_path / "credentials", **options))
        return made[-1]

    yield make
    for node in made:
        node.end()


def test_value_of_another_node_is_read_here(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    value = np.arange(5 * CHUNK_BYTES // 8 + 17)
    ref = there.runtime.put(value)
    mine = here.borrow(ref)
    assert np.array_equal(here.get(mine), value)
    assert np.array_equal(here.get(mine), value)


def test_many_values_are_brought_at_once(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    values = [np.full(200_000, number) for number in range(40)]
    refs = [there.runtime.put(value) for value in values]
    mine = [here.borrow(ref) for ref in refs]
    for value, got in zip(values, here.runtime.get(mine, PATIENCE_S), strict=True):
        assert np.array_equal(value, got)


def test_future_of_a_value_of_another_node(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    value = np.arange(1_000_000)
    future = here.runtime.future(here.borrow(there.runtime.put(value)))
    assert np.array_equal(future.result(PATIENCE_S), value)


def test_copy_goes_when_nobody_needs_the_object(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    ref = there.runtime.put(np.arange(1_000_000))
    mine = here.borrow(ref)
    here.get(mine)
    assert len(here.segments()) == 1
    del ref, mine
    here.until(lambda: not here.segments() and not there.segments())


def test_time_is_up_before_a_value_has_come(nodes: Callable[..., Node]) -> None:
    here, there = nodes(), nodes()
    mine = here.borrow(there.runtime.put(np.arange(1_000_000)))
    here.runtime.get([here.borrow(there.runtime.put(1))], PATIENCE_S)
    there.stop()
    with pytest.raises(GetTimeoutError, match=r"another node|other nodes"):
        here.get(mine, 0.5)
    there.go_on()
    assert len(here.get(mine)) == 1_000_000
