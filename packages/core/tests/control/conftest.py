"""A small cluster: the ports of heads, control services, links of daemons, wires between."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from weft._ids import NodeId
from weft._machines.placement import NodeView
from weft._node.control_link import ControlLink, ControlNews
from weft._override import override
from weft._resources import Resources
from weft._transport.arrivals import Arrivals
from weft._transport.control import messages
from weft._transport.control.client import ControlClient
from weft._transport.credentials import make_credentials
from weft._transport.doors import Doors
from weft._transport.gate import Gate, listen
from weft._transport.sockets import Poller
from weft._transport.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from weft._machines.bundles import HeldBundles
    from weft._machines.jobs import JobFacts
    from weft._machines.members import MemberFacts
    from weft._machines.orders import Order
    from weft._machines.spillover import ViewsChanged
    from weft._node.control_link import BundlesAsked

# ------------------------------------------------------------------ a cluster

WAIT_S = 20.0


class HeadPort:
    """The port of a head, as its daemon has it; in a thread."""

    def __init__(self, folder: Path) -> None:
        self._poller, self._timers = Poller(), Timers()
        self._gate = Gate(self._poller, listen("127.0.0.1"), Arrivals(self._timers.call_later))
        self._doors = Doors(self._poller, folder / "doors", self._gate.takers)
        self.address = f"127.0.0.1:{self._gate.port}"
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over:
            self._poller.poll(self._timers.sleep_s())
            self._timers.ring()

    def close(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._poller.wake()
        self._thread.join()
        self._gate.close()
        self._doors.close()
        self._poller.close()


class SlowWire:
    """A forwarder between nodes and a port: it delays what passes, or keeps it, as a cut cable."""

    def __init__(self, target: str, delay_s: float) -> None:
        self.delay_s = delay_s
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._ready = threading.Event()
        self.address = ""
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._over, self._whole = asyncio.Event(), asyncio.Event()
        self._whole.set()
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._over.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there = await asyncio.open_connection(self._host, self._port)
            ways = [self._copy(reader, there[1]), self._copy(there[0], writer)]
            await asyncio.gather(*ways, return_exceptions=True)
        writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await asyncio.sleep(self.delay_s)
                await self._whole.wait()
                writer.write(data)
        finally:
            writer.close()

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.clear)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.set)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


class LinkedNode(ControlNews):
    """A node as far as its link goes. Its loop runs while `SmallCluster.until` waits."""

    def __init__(
        self,
        number: int,
        cluster: SmallCluster,
        control: str | tuple[str, ...],
        address: str,
        is_head: bool,
        **free: float,
    ) -> None:
        self.poller, self.timers = Poller(), Timers()
        self.node_id = NodeId(number.to_bytes(16, "big"))
        self.total = Resources(free or {"CPU": 2})
        self.told: list[Any] = []
        self.views: dict[NodeId, NodeView] = {}
        self.bundles: list[HeldBundles] = []
        self.is_idle = False
        self.link = ControlLink(
            self.poller, self.timers, self, cluster.credentials, control=control,
            address=address, name=f"node {number}", view=self.view(self.total), is_head=is_head,
        )  # fmt: skip
        self.link.begin()

    def view(self, free: Resources, **facts: Any) -> NodeView:
        return NodeView(self.node_id, self.total, free, {"zone": "a"}, **facts)

    def of(self, what: str) -> list[Any]:
        return [told[1] for told in self.told if told[0] == what]

    @override
    def registered(self, incarnation: int) -> None:
        self.told.append(("registered", incarnation))

    @override
    def fenced(self, reason: str) -> None:
        self.told.append(("fenced", reason))

    @override
    def views_changed(self, changed: ViewsChanged) -> None:
        self.told.append(("views", changed))
        self.views.update((view.node_id, view) for view in changed.views)
        for node_id in changed.gone:
            self.views.pop(node_id, None)

    @override
    def node_joined(self, node: MemberFacts) -> None:
        self.told.append(("joined", node.node_id))

    @override
    def node_died(self, node: MemberFacts) -> None:
        self.told.append(("died", (node.node_id, node.incarnation, node.cause)))

    @override
    def ordered(self, order: Order) -> None:
        self.told.append(("order", order))

    @override
    def held(self) -> Sequence[HeldBundles]:
        return self.bundles

    @override
    def bundles_asked(self, asked: BundlesAsked) -> None:
        self.told.append(("bundles", asked))

    @override
    def actor_changed(self, actor: messages.Actor) -> None:
        self.told.append(("actor", (actor.actor_id, messages.ActorState.Name(actor.state))))

    @override
    def job_changed(self, job: JobFacts) -> None:
        self.told.append(("job", job))

    @override
    def drain_asked(self, message: str, deadline_s: float) -> bool:
        self.told.append(("drain asked", message))
        return self.is_idle

    @override
    def drain_told(self, reason: str, message: str, deadline_s: float) -> None:
        self.told.append(("drain told", (reason, message, deadline_s)))

    @override
    def left(self) -> None:
        self.told.append(("left", None))

    def close(self) -> None:
        self.link.close()
        self.poller.close()


class Head:
    """A head's port and its control service, which can be killed."""

    def __init__(self, folder: Path, credentials: Path) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self._credentials = credentials
        self.port = HeadPort(folder)
        self.control: Any = None

    def start(self, *options: str) -> None:
        command = [
            sys.executable, "-m", "weft._control", str(self.folder),
            "--credentials", str(self._credentials), *options,
        ]  # fmt: skip
        self.control = subprocess.Popen(command)

    def kill(self) -> None:
        self.control.kill()
        self.control.wait()

    def close(self) -> None:
        if self.control is not None:
            self.kill()
        self.port.close()


class SmallCluster:
    """A head, perhaps others that stand by, and nodes that are linked."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self.credentials = make_credentials(folder / "credentials")
        self.heads: list[Head] = []
        self.head = self.add_head()
        self.start, self.kill = self.head.start, self.head.kill
        self.nodes: list[LinkedNode] = []
        self.wires: list[SlowWire] = []
        self.client = ControlClient(self.head.port.address, self.credentials)

    def add_head(self) -> Head:
        folder = self._folder / f"head{len(self.heads)}"
        self.heads.append(Head(folder, self._folder / "credentials"))
        return self.heads[-1]

    def add(self, *, is_local: bool = False, **free: float) -> LinkedNode:
        control = str(self.head.folder / "control") if is_local else self.head.port.address
        return self.add_linked(control, f"there:{len(self.nodes) + 1}", **free)

    def add_linked(
        self, control: str | tuple[str, ...], address: str, *, is_head: bool = False, **free: float
    ) -> LinkedNode:
        number = len(self.nodes) + 1
        node = LinkedNode(number, self, control, f"{address}/node", is_head, **free)
        self.nodes.append(node)
        return node

    def wire(self, delay_s: float = 0.0) -> SlowWire:
        """Return a wire to the head."""
        self.wires.append(SlowWire(self.head.port.address, delay_s))
        return self.wires[-1]

    def lose(self, node: LinkedNode) -> None:
        """Let a node's process be gone."""
        self.nodes.remove(node)
        node.close()

    def until(self, condition: Callable[[], Any], limit_s: float = WAIT_S) -> float:
        """Run the nodes' loops until something is so; return how long it took."""
        began_at = time.monotonic()
        while not condition():
            assert time.monotonic() < began_at + limit_s, [node.told for node in self.nodes]
            for node in self.nodes:
                node.poller.poll(0.005)
                node.timers.ring()
                node.link.flush()
        return time.monotonic() - began_at

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        self.client.close()
        for wire in self.wires:
            wire.close()
        for head in self.heads:
            head.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    """A small cluster."""
    made = SmallCluster(tmp_path / "c")
    yield made
    made.close()
