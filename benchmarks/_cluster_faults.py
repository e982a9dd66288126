"""The programs of the cluster's benchmark in which something breaks: how soon work goes on.

As those of _cluster_programs.py they take the name of the module, weft or ray. Where Ray has
nothing like it they are for Weft alone, and start its nodes as `weft start` does.
"""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from _cluster_programs import WAIT_S, Nodes, node_id
from _etcd import etcd, free_ports
from _memory import descendants

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._launch import Started

HOST = "127.0.0.1"
SILENT_WAIT_S = 90
"""Ray's raylet is asked five times, and has 10 s for each answer."""
HEAD_GONE_S = 2.0
"""It is down for so long, and for as long as it takes to start."""
HEAD_BACK_S = 4.0
"""So long its nodes have to come back."""


# ------------------------------------------------------------------ a node


def node_killed_s(system: str) -> float:
    """From the kill of a node and its worker to the result of the task's next attempt."""

    def kill(nodes: Nodes, doomed: Any, worker: int) -> None:
        nodes.cluster.remove_node(doomed, allow_graceful=False)
        with contextlib.suppress(ProcessLookupError):  # It may have ended with its node.
            os.kill(worker, signal.SIGKILL)

    return _until_retried_s(system, kill, WAIT_S)


def node_silent_s(system: str) -> float:
    """From the moment on at which a node's processes stand still; no connection of theirs ends."""
    stopped: list[int] = []

    def stop(_nodes: Nodes, doomed: Any, _worker: int) -> None:
        raylets = doomed.all_processes["raylet"] if system == "ray" else []
        daemon = raylets[0].process.pid if raylets else doomed.pid
        stopped.extend([daemon, *descendants(daemon)])
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    try:
        return _until_retried_s(system, stop, SILENT_WAIT_S)
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def first_waits(place: str) -> bytes:
    """Say where it runs and stay there; the next attempt ends at once."""
    try:
        with Path(place).open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return b"ok"
    sleep(2 * SILENT_WAIT_S)
    return b"not lost"


def _until_retried_s(system: str, lose: Callable[[Nodes, Any, int], None], wait_s: float) -> float:
    """Return how long it takes from the loss of a node to the result of its task's retry.

    `lose`: is given all nodes, the one, and the process of its worker.
    """
    nodes = Nodes(system, 0)
    doomed = nodes.cluster.add_node(num_cpus=1, resources={"any": 1})
    ray = nodes.ray
    task = ray.remote(first_waits).options(num_cpus=1, resources={"any": 1}, max_retries=3)
    with TemporaryDirectory() as folder:
        place = Path(folder, "pid")
        ref = task.remote(str(place))
        while not (place.exists() and place.read_text()):
            sleep(0.01)
        nodes.cluster.add_node(num_cpus=1, resources={"any": 1})
        begin = perf_counter()
        lose(nodes, doomed, int(place.read_text()))
        assert ray.get(ref, timeout=wait_s) == b"ok"
        return perf_counter() - begin


# ------------------------------------------------------------------ the head


def control_killed_s(system: str) -> float:
    """From the kill of the control service to an actor that is created and found by its name."""
    nodes = Nodes(system, 1)
    begin = perf_counter()
    os.kill(nodes.cluster.head_node.control_pid, signal.SIGKILL)
    _name_an_actor(nodes.ray)
    return perf_counter() - begin


class Named:
    def value(self) -> bytes:
        return b"ok"


def _name_an_actor(ray: Any, **options: Any) -> None:
    actor = ray.remote(Named).options(name="named", num_cpus=0, **options).remote()
    assert ray.get_actor("named") == actor
    assert ray.get(actor.value.remote(), timeout=WAIT_S) == b"ok"


def head_taken_over_s(_system: str) -> float:
    """From the kill of a head to an actor that is named, and to a task, both on who stood by."""
    weft = import_module("weft")
    with TemporaryDirectory() as folder, etcd(Path(folder)) as place:
        head = Head(f"etcd://{place}/bench")
        standby = head.add("standby", standby=True)
        weft.init(address=head.add("other").session)
        where = weft.remote(node_id).options(num_cpus=0, resources={"standby": 1})
        weft.get(where.remote(), timeout=WAIT_S)
        lease = Path(standby.session_dir, "lease")  # It is there once the journal is waited for.
        while not (lease.exists() and lease.read_bytes()):
            sleep(0.01)
        begin = perf_counter()
        head.kill()
        _name_an_actor(weft, resources={"standby": 1})
        weft.get(where.remote(), timeout=WAIT_S)
        return perf_counter() - begin


class Head:
    """The head of a cluster of Weft's that can be killed and started again, and other nodes."""

    def __init__(self, journal: str, credentials: str = "", port: int = 0) -> None:
        self._starting = import_module("weft._starting")
        self._kept = {"journal": journal, "credentials": credentials, "port": port}
        self._start()

    def _start(self) -> None:
        options = self._starting.HeadOptions(
            node=_options("head"), host=HOST, lifeline_pid=os.getpid(), **self._kept
        )
        self._head = self._starting.start_head(options)
        self._starting.wait_for_node(self._head.started)

    def add(self, name: str, *, standby: bool = False) -> Started:
        """Add a node that alone has the resource `name`."""
        started, _ = self._starting.join_cluster(
            _options(name), self._head.join, host=HOST, lifeline_pid=os.getpid(), standby=standby
        )
        self._starting.wait_for_node(started)
        return started

    def kill(self) -> None:
        """Kill its daemon and the control service."""
        started = self._head.started
        with import_module("weft._runtime.tools").Tool(started.session_dir, WAIT_S) as tool:
            control = msgspec.msgpack.decode(tool.ask("session"))["control_pid"]
        started.process.kill()
        os.kill(control, signal.SIGKILL)
        started.process.wait(WAIT_S)

    def start_again(self) -> None:
        """Start it at the same place, with what it knew. Blocks until it serves."""
        self._start()


class Worked(NamedTuple):
    """What a driver has seen while it worked."""

    calls: int
    failed: int
    """They raised, or what came of them is not what was to come."""
    longest_s: float


class Counts:
    """Knows how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def call(self) -> int:
        self.calls += 1
        return self.calls


def same(value: int) -> int:
    return value


def drive(session: str, there: str, folder: str) -> Worked:
    """Be a driver that calls an actor and runs a task on another node, until it is told to end."""
    weft = import_module("weft")
    weft.init(address=session)
    options = {"num_cpus": 0, "resources": {there: 1}}
    actor = weft.remote(Counts).options(**options).remote()
    task = weft.remote(same).options(**options)
    calls = failed = 0
    longest_s = 0.0
    over, began = Path(folder, "over"), Path(folder, there)
    while not over.exists():
        calls += 1
        begin = perf_counter()
        try:
            failed += weft.get([actor.call.remote(), task.remote(calls)], timeout=WAIT_S) != [
                calls, calls
            ]  # fmt: skip
        except weft.exceptions.WeftError:
            failed += 1
        if began.exists():
            longest_s = max(longest_s, perf_counter() - begin)
        else:  # The first call starts what is called.
            began.touch()
    return Worked(calls, failed, longest_s)


def _worked_meanwhile() -> list[Worked]:
    """Return what two drivers saw that call each other's nodes while their head dies and comes."""
    with TemporaryDirectory() as folder:
        (port,) = free_ports(1)
        head = Head(f"sqlite:{folder}/journal", f"{folder}/credentials", port)
        sessions = {name: head.add(name).session for name in ("one", "other")}
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as drivers:
            working = [
                drivers.submit(drive, sessions[here], there, folder)
                for here, there in (("one", "other"), ("other", "one"))
            ]
            try:
                while not all(Path(folder, name).exists() for name in sessions):
                    sleep(0.01)
                head.kill()
                sleep(HEAD_GONE_S)
                head.start_again()
                sleep(HEAD_BACK_S)
            finally:
                Path(folder, "over").touch()
            return [each.result(2 * WAIT_S) for each in working]


def calls_failed_without_head(_system: str) -> float:
    """How many calls between living nodes fail, are lost or are done twice."""
    return sum(each.failed for each in _worked_meanwhile())


def longest_call_without_head_s(_system: str) -> float:
    """The longest of all calls between living nodes."""
    return max(each.longest_s for each in _worked_meanwhile())


def _options(name: str) -> Any:
    return import_module("weft._launch").NodeOptions(num_cpus=1, resources={name: 100})
