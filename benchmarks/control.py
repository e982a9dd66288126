"""The control service: commands a second at each of its layers, and how long a restart takes.

    ./dev bench control [--etcd HOST:PORT] [--seconds 1]

It needs grpcio and protobuf; with --etcd, an etcd that runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft import _clock
from weft._control.etcd import EtcdJournal
from weft._control.memory import MemoryJournal
from weft._control.service import Service
from weft._control.sqlite import SqliteJournal
from weft._machines.directory import ActorDirectory
from weft._machines.enrolments import EnrolActor
from weft._machines.keyvalues import KeyValues, PutValue
from weft._machines.ledger import Ledger, LedgerEntry
from weft._machines.orders import Orders
from weft._transport.control import messages
from weft._transport.control.client import ControlClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weft._control.base import CommandJournal

LINE = b"x" * 200
THINGS = 10_000


def tell(what: str, value: float, unit: str) -> None:
    print(f"{what:<58}{value:>12,.{3 if unit == 's' else 0}f} {unit}", flush=True)


def rate(seconds: float, step: Callable[[], int]) -> float:
    """Return how many a second, of what each step does so many of."""
    began_at = time.perf_counter()
    done = 0
    while (took_s := time.perf_counter() - began_at) < seconds:
        done += step()
    return done / took_s


def journals(folder: Path, etcd: str) -> Iterator[tuple[str, CommandJournal]]:
    yield "memory", MemoryJournal()
    yield "SQLite", SqliteJournal(folder / f"{os.urandom(4).hex()}.db")
    if etcd:
        yield "etcd", EtcdJournal([f"http://{etcd}"], f"bench/{os.urandom(4).hex()}")


def floor(folder: Path, seconds: float) -> None:
    with (folder / "floor").open("wb", buffering=0) as file:

        def step() -> int:
            file.write(LINE)
            os.fdatasync(file.fileno())
            return 1

        tell("a plain file: write and fdatasync", rate(seconds, step), "/s")


def appends(folder: Path, etcd: str, seconds: float) -> None:
    for name, journal in journals(folder, etcd):
        journal.open()
        for batch in (1, 16, 256):

            def step(journal: CommandJournal = journal, batch: int = batch) -> int:
                journal.append([LINE] * batch)
                return batch

            tell(f"{name}: lines appended, {batch} at a time", rate(seconds, step), "/s")
        journal.close()


def applying(seconds: float) -> None:
    ledger = Ledger([KeyValues()])
    numbers = iter(range(1 << 60))

    def step() -> int:
        command = PutValue(b"", b"%d" % (next(numbers) % 50_000), b"value")
        ledger.apply(ledger.decode(ledger.encode(LedgerEntry(1.0, command))))
        return 1

    tell("ledger alone: encode, decode and apply a put", rate(seconds, step), "/s")


async def commanding(journal: CommandJournal, together: int, seconds: float) -> float:
    service = Service(journal, Ledger([KeyValues()]), _clock, lambda _: None)
    await service.start()
    began_at = time.perf_counter()
    done = 0

    async def work(name: int) -> None:
        nonlocal done
        number = 0
        while time.perf_counter() - began_at < seconds:
            number += 1
            await service.do(PutValue(b"", b"%d/%d" % (name, number % 100), b"value"))
            done += 1

    await asyncio.gather(*(work(name) for name in range(together)))
    took_s = time.perf_counter() - began_at
    await service.stop()
    return done / took_s


class Running:
    """A control service in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        (folder / "token").touch(0o600)
        (folder / "token").write_text("token")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "weft._control", str(self.folder)]
        self.process = subprocess.Popen(command)

    def client(self) -> ControlClient:
        return ControlClient(f"unix:{self.folder / 'control'}", "token")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def calling(
    running: Running, threads: int, seconds: float, call: Callable[[Any, int], Any]
) -> float:
    counts = [0] * threads
    began = threading.Barrier(threads)

    def work(name: int) -> None:
        client = running.client()
        call(client, name)
        began.wait()
        began_at = time.perf_counter()
        while time.perf_counter() - began_at < seconds:
            call(client, name)
            counts[name] += 1
        client.close()

    workers = [threading.Thread(target=work, args=(name,)) for name in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / seconds


def put(client: ControlClient, name: int) -> None:
    request = messages.PutRequest(key=b"%d" % name, value=b"value", overwrite=True)
    client.call("KeyValue", "put", request)


def get(client: ControlClient, name: int) -> None:
    client.call("KeyValue", "get", messages.GetRequest(keys=[b"%d" % name]))


def restart(running: Running) -> None:
    """Kill a service that knows many things; see how long its next life takes to answer."""
    running.end()
    ledger = Ledger([Orders(), ActorDirectory(), KeyValues()])
    journal = SqliteJournal(running.folder / "journal.db")
    journal.open()
    lines = []
    for number in range(THINGS):
        actor = number.to_bytes(16, "big")
        enrol = EnrolActor(actor, b"o" * 16, b"", b"", LINE, f"actor {number}", max_restarts=-1)
        for command in (enrol, PutValue(b"", b"key %d" % number, LINE)):
            lines.append(ledger.encode(LedgerEntry(1.0, command)))  # noqa: PERF401 - it reads better
    for at in range(0, len(lines), 100):
        journal.append(lines[at : at + 100])
    journal.close()
    client = running.client()
    for what in ("from its log", "the same again"):
        began_at = time.perf_counter()
        running.start()
        request = messages.GetRequest(keys=[b"key %d" % (THINGS - 1)])
        assert client.call("KeyValue", "get", request).found
        tell(
            f"kill -9 to an answer, {THINGS:,} actors and keys, {what}",
            time.perf_counter() - began_at,
            "s",
        )
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        tell("  its memory", int(resident.split()[1]) / 1024, "MB")
        running.end()
    client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--etcd", default="")
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, seconds = Path(name), options.seconds
        floor(folder, seconds)
        appends(folder, options.etcd, seconds)
        applying(seconds)
        for together in (1, 16, 256):
            for journal_name, journal in journals(folder, options.etcd):
                found = asyncio.run(commanding(journal, together, seconds))
                tell(f"service on {journal_name}: commands, {together} at a time", found, "/s")
        running = Running(folder / "session")
        for threads in (1, 4, 16):
            tell(f"gRPC: puts, {threads} clients", calling(running, threads, seconds, put), "/s")
        tell("gRPC: gets, 1 client", calling(running, 1, seconds, get), "/s")
        tell("gRPC: gets, 4 clients", calling(running, 4, seconds, get), "/s")
        restart(running)
        running.end()


if __name__ == "__main__":
    main()
