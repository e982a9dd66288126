"""The daemon's eye on memory: the shell round the machine of the governor.

It takes samples while workers run something, as often as the machine asks for, and so that they
take less than a hundredth of one CPU, but for `CREDIT_S` in advance. When nothing has run since the
last sample it takes no more, until a worker says that it does (Busy).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from weft import _settings
from weft._clock import monotonic, processor
from weft._machines.governor import (
    LEAST_INTERVAL_S,
    MOST_INTERVAL_S,
    Effect,
    EndForMemory,
    FreeStore,
    Governor,
    Learn,
    MemoryBound,
    PauseWorker,
    Restrain,
    ResumeWorker,
    Sampled,
    TellUser,
    WorkerMemory,
)
from weft._machines.headroom import MemoryMeasured
from weft._machines.leases import ACTOR_KEY
from weft._node import host
from weft._node.memory_samples import MemoryReader, stored_bytes
from weft._resources import UNITS
from weft._wire.messages import Learned, WorkerPaused

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._node.clients import Client, Clients
    from weft._node.facts import NodeFacts
    from weft._node.grants import Grants
    from weft._node.memory import NodeMemory
    from weft._node.processes import Process
    from weft._node.roster import Roster
    from weft._node.rules import Rules
    from weft._transport.timers import Timers

# Of the time, so much is for samples; that the loop wakes for them takes half as much again. What
# was not used for long is there when it gets tight, or when new processes are looked at closely.
SAMPLING_SHARE = 0.006
CREDIT_S = 0.1
# To look for children costs as much as ten samples.
CENSUS_S = 1.0


class Governing:
    """What is done about memory on this node."""

    def __init__(
        self,
        facts: NodeFacts,
        rules: Rules,
        clients: Clients,
        roster: Roster,
        grants: Grants,
        memory: NodeMemory,
        timers: Timers,
        *,
        store_dir: str,
        say: Callable[[str], None],
    ) -> None:
        self._rules = rules
        self._clients = clients
        self._roster = roster
        self._grants = grants
        self._memory = memory
        self._timers = timers
        self._store_dir = store_dir
        self._say = say
        self.machine = Governor(
            cpus=facts.cpus,
            cores=host.cpus(),
            most_bytes=facts.total.get("memory", 0) // UNITS,
        )
        self._reader = MemoryReader()
        self._limit_bytes = _settings.MEMORY_LIMIT.value()
        self._checks = _settings.CHECK.value()
        self.learned: dict[str, int] = {}
        """What tasks ask for, in bytes, by function: of those that take much."""
        self._is_watching = False
        self._begun: list[bytes] = []
        """What workers ran last, at the last sample."""
        self._census_at = 0.0
        self._looked_at = 0.0
        self._credit_s = CREDIT_S

    # -------------------------------------------------------------- what happens

    def watch(self) -> None:
        """A worker runs something: take samples."""
        if not self._is_watching:
            self._is_watching = True
            self._timers.call_later(LEAST_INTERVAL_S, self._look)

    def met(self, client: Client) -> None:
        """A driver or a worker has connected: tell it what is known of tasks."""
        for function, memory_bytes in self.learned.items():
            self._clients.send(client, Learned(function, memory_bytes))

    def let_all_go_on(self) -> None:
        """Resume who is paused: the session ends, and who ends by itself must run."""
        for process in self._roster.all():
            process.resume()

    def bounds(self) -> list[MemoryBound]:
        """Return the limits that apply, and how much of each is in use."""
        return self._bounds(self._workers(monotonic()))

    # -------------------------------------------------------------- samples

    def _look(self) -> None:
        now, cost_s = monotonic(), processor()
        workers = self._workers(now)
        bounds = self._bounds(workers)
        if not bounds:
            return  # The kernel does not say: nothing can be done about memory.
        sampled = Sampled(
            bounds,
            workers,
            holds_back=self._rules.leases.holds_back(),
            store_bytes=self._memory.machine.used_bytes,
            is_writing=self._memory.is_writing,
        )
        for effect in self.machine.handle(sampled, now):
            self._do(effect)
        if self._checks:
            self.machine.check()
        self._is_watching = not (self.machine.is_at_rest and self._is_quiet())
        if self._is_watching:
            pause_s = self._pause_s(now, processor() - cost_s)
            self._timers.call_later(max(self.machine.interval_s, pause_s), self._look)

    def _is_quiet(self) -> bool:
        """Tell whether nothing runs, nor has run since the last sample."""
        if not self._has_nothing_begun():
            return False
        # A worker first writes what it begins, and then looks whether somebody asks.
        for process in self._roster.all():
            process.ask_when_busy()
        return self._has_nothing_begun()

    def _has_nothing_begun(self) -> bool:
        doings = [process.doing() for process in self._roster.all()]
        before, self._begun = self._begun, [doing.begun for doing in doings]
        return before == self._begun and not any(doing.function for doing in doings)

    def _pause_s(self, now: float, took_s: float) -> float:
        """Return how long to take no samples after one, so that they do not take too much."""
        self._credit_s += (now - self._looked_at) * SAMPLING_SHARE
        self._credit_s = min(self._credit_s, CREDIT_S) - took_s
        self._looked_at = now
        return min(-self._credit_s / SAMPLING_SHARE, MOST_INTERVAL_S)

    def _bounds(self, workers: list[WorkerMemory]) -> list[MemoryBound]:
        bounds = self._reader.bounds()
        if self._limit_bytes:
            used = sum(seen.own_bytes for seen in workers) + stored_bytes(self._store_dir)
            bounds.append(MemoryBound(_settings.MEMORY_LIMIT.name, self._limit_bytes, used))
        return bounds

    def _workers(self, now: float) -> list[WorkerMemory]:
        processes = [each for each in self._roster.all() if each.pid and not each.has_ended]
        if self._census_at <= now:
            self._census_at = now + CENSUS_S
            self._reader.take_census([process.pid for process in processes])
        return [self._worker(process) for process in processes]

    def _worker(self, process: Process) -> WorkerMemory:
        worker, own_bytes = process.worker_id, self._reader.own_bytes(process.pid)
        lease = self._rules.pool.lease_of(worker)
        if lease is None or self._grants.worker_of(lease) != worker:
            return WorkerMemory(worker, process.pid, own_bytes)
        doing = process.doing()
        leases = self._rules.leases
        return WorkerMemory(
            worker,
            process.pid,
            own_bytes,
            lease,
            is_actor=self._grants.actor_on(worker) is not None,
            is_blocked=leases.is_blocked(lease),
            kept_bytes=leases.memory_of(lease) // UNITS,
            task=doing.begun if doing.function else b"",
            function=doing.function,
            may_repeat=doing.may_repeat,
            is_timed=doing.is_timed,
            is_lender=doing.is_lender,
            cpu_s=self._reader.cpu_s(process.pid),
        )

    # -------------------------------------------------------------- effects

    def _do(self, effect: Effect) -> None:
        match effect:
            case Restrain(width, room_bytes, words, lets_one_pass):
                room = room_bytes * UNITS
                self._rules.tell_leases(MemoryMeasured(width, room, words, lets_one_pass))
            case FreeStore(size_bytes):
                self._memory.free(size_bytes)
            case PauseWorker(worker, words):
                if (process := self._roster.get(worker)) is not None:
                    process.pause()
                    self._tell_client(worker, words)
            case ResumeWorker(worker):
                if (process := self._roster.get(worker)) is not None:
                    process.resume()
                    self._tell_client(worker, "")
            case EndForMemory(worker, retry, reason):
                if (process := self._roster.get(worker)) is not None:
                    process.retry = retry
                    self._rules.doom(worker, reason)
            case Learn(function, memory_bytes):
                self.learned[function] = memory_bytes
                if not memory_bytes:
                    del self.learned[function]
                self._clients.send_to_runtimes(Learned(function, memory_bytes))
            case TellUser(text):
                self._say(f"weft: {text}")
            case _:
                assert_never(effect)

    def _tell_client(self, worker: bytes, words: str) -> None:
        """Tell who leases a worker that it is paused, or goes on."""
        grant = self._grants.served_by(worker)
        if grant is not None and grant.key != ACTOR_KEY:
            self._clients.send_to(grant.client, WorkerPaused(worker, words))
