"""One control service, a real process, and many nodes that are streams in this one.

    python _scale_process.py NODES [SECONDS]        prints the numbers as JSON

Each node registers, sends a heartbeat twice a second, with news of itself in one of ten, and
follows the view of all; no daemon, no TLS. A hundred want to be members each second. What they see
is read by one of them: else this process, which is a thousand nodes, would be measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc.aio

from weft._control_messages import message_of_delta, node_of_view
from weft._ids import NodeId
from weft._machines.members import HEARTBEAT_S
from weft._machines.placement import NodeView
from weft._machines.views import Publish, Publisher, SendWhole, TableChanged, WholeAsked
from weft._resources import Resources
from weft._transport.control import messages
from weft._transport.control.methods import bearer, methods_of
from weft._transport.credentials import make_credentials

TOTAL = Resources({"CPU": 64, "memory": 256e9})
NEWS = 10
"""One heartbeat in so many has news."""
CHANNEL_NODES = 50
JOIN_PER_S = 100
PAUSE_S = 0.1
"""As in _node/control_link.py."""
START_S = 60.0


def of_process(pid: int) -> tuple[float, int]:
    """Return the seconds of processor that a process has had, and its bytes of memory."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")


class Node:
    """A node, as the control service sees it."""

    def __init__(self, number: int, channel: Any, metadata: Any) -> None:
        self.number = number
        self.node_id = NodeId(number.to_bytes(16, "big"))
        self.lives = 1
        self.beats = 0
        """That were answered."""
        self.seen: set[bytes] = set()
        """The nodes that it knows, if it reads what it is told."""
        self._channel = channel
        self._metadata = metadata

    def _method(self, service: str, name: str, read: Any = None) -> Any:
        method = methods_of(service)[name]
        make = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, True): self._channel.stream_stream,
        }[method.takes_stream, method.gives_stream]
        read = read or method.answer.FromString
        return make(method.path, method.request.SerializeToString, read)

    async def live(self) -> None:
        """Be a member, until this is cancelled."""
        await asyncio.sleep(self.number / JOIN_PER_S)
        asked = messages.RegisterRequest(
            node=messages.Node(node_id=self.node_id, address=f"10.0.0.1:{self.number}/node")
        )
        register = self._method("Members", "register")
        while True:
            answer = await register(asked, metadata=self._metadata, wait_for_ready=True)
            try:
                async with asyncio.TaskGroup() as streams:
                    streams.create_task(self._beat(answer.incarnation))
                    streams.create_task(self._follow())
            except* grpc.aio.AioRpcError:
                self.lives += 1
                await asyncio.sleep(PAUSE_S)

    def _view(self, number: int) -> NodeView:
        free = Resources({"CPU": 64 - number % 2, "memory": 256e9})
        return NodeView(self.node_id, TOTAL, free, {"zone": "a"})

    async def _heartbeats(self, incarnation: int) -> Any:
        sender = messages.Sender(node_id=self.node_id, incarnation=incarnation)
        publisher: Publisher[NodeId, NodeView] = Publisher(incarnation)
        publisher.handle(TableChanged({self.node_id: self._view(0)}), 0.0)
        (whole,) = publisher.handle(WholeAsked(b"control"), 0.0)
        assert isinstance(whole, SendWhole)
        yield messages.Heartbeat(sender=sender, view=message_of_delta(whole.delta, node_of_view))
        number = self.number
        loop = asyncio.get_running_loop()
        due_at = loop.time() + HEARTBEAT_S * (number % 100) / 100
        while True:
            # One that is a little late makes no later one late: so many are due as time has passed.
            await asyncio.sleep(max(0.0, due_at - loop.time()))
            due_at = max(due_at + HEARTBEAT_S, loop.time())
            number += 1
            heartbeat = messages.Heartbeat(sender=sender)
            if not number % NEWS:
                changed = TableChanged({self.node_id: self._view(number // NEWS)})
                for effect in publisher.handle(changed, float(number)):
                    if isinstance(effect, Publish):
                        heartbeat.view.CopyFrom(message_of_delta(effect.delta, node_of_view))
            yield heartbeat

    async def _beat(self, incarnation: int) -> None:
        stream = self._method("Members", "heartbeats")(
            self._heartbeats(incarnation), metadata=self._metadata
        )
        async for _ in stream:
            self.beats += 1

    async def _follow(self) -> None:
        read = None if self.number == 0 else len
        watch = self._method("ClusterView", "watch", read)
        async for delta in watch(messages.WatchViewRequest(), metadata=self._metadata):
            if read is None:
                self.seen.update(node.node_id for node in delta.changed)


async def measure(
    folder: Path, token: bytes, pid: int, nodes: int, seconds: float
) -> dict[str, float]:
    """Have the nodes live for so long."""
    metadata = (bearer(token),)
    channels = [
        grpc.aio.insecure_channel(
            f"unix:{folder / 'control'}",
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
            ],
        )
        for _ in range((nodes + CHANNEL_NODES - 1) // CHANNEL_NODES)
    ]
    members = [Node(each, channels[each // CHANNEL_NODES], metadata) for each in range(nodes)]
    began = time.perf_counter()
    lives = [asyncio.create_task(node.live()) for node in members]
    while len(members[0].seen) < nodes or not all(node.beats for node in members):
        assert time.perf_counter() < began + START_S, "they do not become members"
        await asyncio.sleep(0.05)
    joined_s = time.perf_counter() - began
    processor_s, _ = of_process(pid)
    heard = sum(node.beats for node in members)
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    passed = time.perf_counter() - began
    then_s, memory = of_process(pid)
    beats = (sum(node.beats for node in members) - heard) / passed
    for life in lives:
        life.cancel()
    for life in lives:
        with suppress(asyncio.CancelledError):
            await life
    for channel in channels:
        await channel.close()
    return {
        "until all are members and seen, s": joined_s,
        "heartbeats answered, per s": beats,
        "of those due, %": 100 * beats / (nodes / HEARTBEAT_S),
        "nodes that had to begin again": sum(node.lives - 1 for node in members),
        "processor, % of a core": 100 * (then_s - processor_s) / passed,
        "memory, MB": memory / 1e6,
    }


def main() -> None:
    nodes = int(sys.argv[1])
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "session")
        folder.mkdir(mode=0o700)
        token = make_credentials(folder / "credentials").token
        command = ["weft._control", str(folder), "--credentials", str(folder / "credentials")]
        with subprocess.Popen([sys.executable, "-m", *command]) as process:
            try:
                found = asyncio.run(measure(folder, token, process.pid, nodes, seconds))
                print(json.dumps(found))
            finally:
                process.kill()


if __name__ == "__main__":
    main()
