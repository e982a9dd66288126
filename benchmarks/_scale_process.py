"""One control service, a real process, and many nodes that are no daemons in this one.

    python _scale_process.py NODES SECONDS [tls]        prints the numbers as JSON

Each node has what a daemon has at the control service: it registers, has a line and heartbeats (a
daemon's own, `_node/control_line.py` and `heartbeats.py`), with news of itself in every tenth beat,
and follows the view of all, its orders, jobs and actors. With `tls` it comes through the port of a
head, over connections of its own; else over the unix sockets, where fifty nodes share one for gRPC.
A hundred want to be members each second. When all have lived for a while the control service is
killed and started again.

What they see is read by one of them: else this process, which is all nodes, would be measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio

from weft._ids import NodeId
from weft._machines.members import HEARTBEAT_S
from weft._machines.placement import NodeView
from weft._node.control_line import ControlLine
from weft._node.heartbeats import Heartbeats
from weft._resources import Resources
from weft._transport.control import messages
from weft._transport.control.client import OPTIONS
from weft._transport.control.methods import bearer, methods_of
from weft._transport.credentials import CONTROL, make_credentials
from weft._transport.loops import LoopPoller
from weft._wire.lines import BeatAnswered, NotMember, SayBeat
from weft._wire.messages import Hello
from weft._wire.version import WIRE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft._transport.credentials import MemberCredentials

TOTAL = Resources({"CPU": 64, "memory": 256e9})
NEWS = 10
"""One heartbeat in so many has news."""
CHANNEL_NODES = 50
JOIN_PER_S = 100
PAUSE_S = 0.1
"""As in _node/control_link.py."""
START_S = 100.0
LOOK_S = 0.05
DOWN_S = 0.5
"""As long as a control service is gone that was killed, until its daemon has started it again."""
STEADY_S = 3.0
"""After so long all that begins has begun; or as long as the nodes live, if that is less."""


def of_process(pid: int) -> tuple[float, int]:
    """Return the seconds of processor that a process has had, and its bytes of memory."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")


class Timers:
    """Those of a daemon's loop, in this one."""

    def call_later(self, delay_s: float, function: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(delay_s, function)


class Cluster:
    """What all nodes know."""

    def __init__(self, place: str, credentials: MemberCredentials) -> None:
        """`place`: HOST:PORT, or the path of the control service's socket."""
        self.place = place
        self.is_secure = not place.startswith("/")
        self.credentials = credentials
        self.metadata = (bearer(credentials.token),)
        self.poller = LoopPoller(asyncio.get_running_loop())
        self.timers = Timers()

    def channel(self) -> Any:
        """Return a connection for gRPC."""
        if not self.is_secure:
            return grpc.aio.insecure_channel(f"unix:{self.place}", OPTIONS)
        pinned = grpc.ssl_channel_credentials(root_certificates=self.credentials.certificate)
        named = ("grpc.ssl_target_name_override", CONTROL)
        return grpc.aio.secure_channel(self.place, pinned, [*OPTIONS, named])


class Node:
    """A node, as the control service sees it."""

    def __init__(self, number: int, channel: Any, cluster: Cluster) -> None:
        self.number = number
        self.node_id = NodeId(number.to_bytes(16, "big"))
        self.lives = 0
        self.lines = 0
        """How often it has begun one."""
        self.beats = 0
        """That were answered."""
        self.heartbeat_s = HEARTBEAT_S
        self.follows = False
        """It has the view of all."""
        self.seen: set[bytes] = set()
        """The nodes of which it knows what they have, if it reads what it is told."""
        self._incarnation = 0
        self._channel = channel
        self._cluster = cluster
        self._fenced = asyncio.Event()
        self._beats: Heartbeats | None = None
        address = f"10.0.0.1:{number}/node"
        self._node = messages.Node(node_id=self.node_id, address=address)
        me = Hello(WIRE, self.node_id, address, os.getpid(), "daemon")
        self._line = ControlLine(
            cluster.poller,
            cluster.timers,  # type: ignore[arg-type]  # it is asked for nothing else
            cluster.credentials,
            self,
            me=me,
            places=lambda: [cluster.place],
        )

    def forget(self) -> None:
        """Count from here on."""
        self.beats = self.lines = 0
        self.follows = False
        self.seen.clear()

    async def live(self) -> None:
        """Be a member, life after life, until this is cancelled."""
        await asyncio.sleep(self.number / JOIN_PER_S)
        while True:
            await self._live_once()

    async def _live_once(self) -> None:
        self.lives += 1
        register = self._method("Members", "register")
        asked = messages.RegisterRequest(node=self._node)
        answer = await register(asked, metadata=self._cluster.metadata, wait_for_ready=True)
        self._incarnation = answer.incarnation
        sender = messages.Sender(node_id=self.node_id, incarnation=answer.incarnation)

        def orders() -> Any:
            request = messages.FollowOrdersRequest(sender=sender)
            return self._hear("Members", "follow", Kept(request))

        def jobs() -> Any:
            return self._hear("Jobs", "watch", messages.WatchJobsRequest())

        def actors() -> Any:
            return self._hear("Actors", "watch", Kept(messages.WatchActorsRequest()))

        streams = [asyncio.create_task(_again(x)) for x in (self._follow, orders, jobs, actors)]
        try:
            self._line.begin(answer.incarnation)
            await self._fenced.wait()
            self._fenced.clear()
        finally:
            self._line.end()
            for each in streams:
                each.cancel()

    # -------------------------------------------------------------- the line

    def held(self) -> list[Any]:
        return []

    def line_began(self) -> None:
        self.lines += 1
        self._beats = Heartbeats(
            self._view(),
            self._incarnation,
            self._cluster.timers,  # type: ignore[arg-type]
            say=self._say,
            lost=self._line.begin_anew,
        )

    def _say(self, beat: SayBeat) -> None:
        """As the daemon's loop does, which sends what was said in one of its rounds."""
        self._line.say(beat)
        asyncio.get_running_loop().call_soon(self._line.flush)

    def line_heard(self, said: Any, _control: int) -> None:
        match said:
            case BeatAnswered(body) if self._beats is not None:
                answer = messages.HeartbeatAnswer.FromString(body)
                self.heartbeat_s = answer.heartbeat_s or self.heartbeat_s
                self._beats.heard(answer)
                self.beats += 1
                if (self.beats + self.number) % NEWS == 0:
                    self._beats.put(self._view())
            case NotMember():
                self._fenced.set()

    def line_ended(self) -> None:
        if self._beats is not None:
            self._beats.end()
            self._beats = None

    def _view(self) -> NodeView:
        free = Resources({"CPU": 64 - self.beats // NEWS % 2, "memory": 256e9})
        return NodeView(self.node_id, TOTAL, free, {"zone": "a"})

    # -------------------------------------------------------------- streams

    def _method(self, service: str, name: str, read: Any = None) -> Any:
        method = methods_of(service)[name]
        make = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, True): self._channel.stream_stream,
        }[method.takes_stream, method.gives_stream]
        read = read or method.answer.FromString
        return make(method.path, method.request.SerializeToString, read)

    async def _hear(self, service: str, name: str, asked: Any) -> None:
        async for _ in self._method(service, name, len)(
            asked, metadata=self._cluster.metadata, wait_for_ready=True
        ):
            pass

    async def _follow(self) -> None:
        watch = self._method("ClusterView", "watch", len if self.number else None)
        async for delta in watch(
            messages.WatchViewRequest(), metadata=self._cluster.metadata, wait_for_ready=True
        ):
            self.follows = True
            if not self.number:
                self.seen.update(node.node_id for node in delta.changed if node.is_known)


async def _again(make: Callable[[], Any]) -> None:
    """Begin a stream anew whenever it breaks."""
    while True:
        with suppress(grpc.aio.AioRpcError):
            await make()
        await asyncio.sleep(PAUSE_S)


class Kept:
    """What is said on a stream that goes on: one message."""

    def __init__(self, first: Any) -> None:
        self._first = first

    def __aiter__(self) -> Kept:
        return self

    async def __anext__(self) -> Any:
        first, self._first = self._first, None
        if first is None:
            await asyncio.Event().wait()
        return first


class Service:
    """The control service's process."""

    def __init__(self, folder: Path) -> None:
        credentials = ("--credentials", str(folder / "credentials"))
        self._command = [sys.executable, "-m", "weft._control", str(folder), *credentials]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def used(self) -> tuple[float, int]:
        """Return the seconds of processor that it has had, and its bytes of memory."""
        return of_process(self._process.pid)


async def until(what: Callable[[], int], nodes: int) -> float:
    """Wait until something is so for all nodes; return how long it took."""
    began = time.perf_counter()
    while (found := what()) < nodes:
        if time.perf_counter() > began + START_S:
            raise SystemExit(f"only {found} of {nodes} after {START_S:g} s")
        await asyncio.sleep(LOOK_S)
    return time.perf_counter() - began


async def measure(
    place: str, credentials: MemberCredentials, service: Service, nodes: int, seconds: float
) -> dict[str, float]:
    """Have the nodes live for so long, then without a control service, and with another."""
    steady_s = min(STEADY_S, seconds)
    cluster = Cluster(place, credentials)
    together = 1 if cluster.is_secure else CHANNEL_NODES
    channels = [cluster.channel() for _ in range(0, nodes, together)]
    members = [Node(each, channels[each // together], cluster) for each in range(nodes)]
    await cluster.channel().channel_ready()  # It has loaded all that it needs.
    _, empty = service.used()

    def heard() -> int:
        return sum(node.beats > 0 for node in members)

    def seen() -> int:
        return len(members[0].seen)

    def follow() -> int:
        return sum(node.follows for node in members)

    lives = [asyncio.create_task(node.live()) for node in members]
    joined_s = await until(heard, nodes) + await until(seen, nodes) + await until(follow, nodes)
    await asyncio.sleep(steady_s)
    processor_s, _ = service.used()
    before = sum(node.beats for node in members)
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    passed = time.perf_counter() - began
    then_s, memory = service.used()
    beats = (sum(node.beats for node in members) - before) / passed
    due = sum(1 / node.heartbeat_s for node in members)
    found = {
        "until all are members and seen, s": joined_s,
        "heartbeats answered, per s": beats,
        "of those due without news, %": 100 * beats / due,
        "processor, % of a core": 100 * (then_s - processor_s) / passed,
        "memory, MB": memory / 1e6,
        "for each node, KB": (memory - empty) / nodes / 1e3,
    }
    service.kill()
    for node in members:
        node.forget()
    await asyncio.sleep(DOWN_S)
    service.start()
    heard_s = await until(heard, nodes)
    found["killed and started again: until all are heard, s"] = heard_s
    seen_s = await until(seen, nodes) + await until(follow, nodes)
    found["until they see each other, s"] = heard_s + seen_s
    found["processor for that, s"] = service.used()[0]
    await asyncio.sleep(steady_s)
    found["connections begun by each"] = sum(node.lines for node in members) / nodes
    found["nodes that were taken for dead"] = sum(node.lives - 1 for node in members)
    assert not any(life.done() for life in lives)
    return found


@contextmanager
def served(folder: Path, *, is_secure: bool) -> Iterator[str]:
    """Have a head's port, if it is wanted; give where the control service is reached."""
    if not is_secure:
        yield str(folder / "control")
        return
    command = [sys.executable, str(Path(__file__).parent / "_scale_port.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as port:
        try:
            assert port.stdout is not None
            yield f"127.0.0.1:{int(port.stdout.readline())}"
        finally:
            port.kill()


def main() -> None:
    nodes, seconds = int(sys.argv[1]), float(sys.argv[2])
    is_secure = sys.argv[3:] == ["tls"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "session")
        folder.mkdir(mode=0o700)
        credentials = make_credentials(folder / "credentials")
        with served(folder, is_secure=is_secure) as place:
            service = Service(folder)
            try:
                living = measure(place, credentials, service, nodes, seconds)
                found = asyncio.new_event_loop().run_until_complete(living)
            finally:
                service.kill()
    print(json.dumps(found), flush=True)
    # Thousands of gRPC's streams would each be told of the end, and some complain of it.
    os._exit(0)


if __name__ == "__main__":
    main()
