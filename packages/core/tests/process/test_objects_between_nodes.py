"""Two nodes of a cluster on this machine: real daemons, TLS between them, a driver on each."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from weft._clock import monotonic
from weft._ids import WorkerId
from weft._launch import ClusterFile, NodeOptions, start_daemon
from weft._runtime.runtime import Runtime
from weft._runtime.tools import Tool
from weft._transport.credentials import make_credentials
from weft._transport.gate import listen
from weft._wire.transfers import CHUNK_BYTES
from weft.exceptions import SessionError

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
        self.runtime = Runtime(
            worker_id=WorkerId(os.urandom(16)),
            session_dir=self.started.session_dir,
            role="driver",
            cluster=cluster,
        )
        self.runtime.start(self.started.address)
        assert self.runtime.loop.wait(self.runtime.welcomed, monotonic() + PATIENCE_S)

    def borrow(self, ref: ObjectRef[Any]) -> ObjectRef[Any]:
        """Return a reference of this node's driver to what another one owns."""
        return self.runtime.objects.rebuild_ref(ref._id, ref._owner)

    def get(self, ref: ObjectRef[Any], timeout_s: float = PATIENCE_S) -> Any:
        return self.runtime.get([ref], timeout_s)[0]

    def end(self) -> None:
        if hasattr(self, "runtime"):
            self.runtime.close()
        self.kill(signal.SIGTERM)

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.started.process.poll() is None:
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
