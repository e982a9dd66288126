"""Which daemons a process asks for workers, and for how many.

    WorkersWanted ----------> AskDaemon(its own)
    SentOn ----------> AskDaemon(the other)       its own knows: it has said so
    WorkerHad, AskRefused
    DaemonGone ------> AskDaemon(its own), in place of the one that is gone

A demand is made of the process's own daemon, which may send some of it on to another node
(spillover.py); the process then asks there itself, and may be sent on again.

What is always true
1. Under a key, the daemons that were asked are to find as many workers in all as are wanted.
2. What is not wanted any more is taken back from its own daemon first, then from who was asked
   last.
3. A daemon that is asked for none is forgotten.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

import msgspec

from weft._machines.spillover import HOPS

OWN = ""
"""The address of the process's own daemon, here."""


class WorkersWanted(msgspec.Struct, frozen=True):
    """So many more workers are wanted in all."""

    key: int
    workers: int


class SentTo(msgspec.Struct, frozen=True):
    """A daemon sends so many of what it was asked for on to another."""

    key: int
    workers: int
    source: str
    target: str
    hops: int


class WorkerHad(msgspec.Struct, frozen=True):
    """A daemon has granted a worker."""

    key: int
    source: str


class AskRefused(msgspec.Struct, frozen=True):
    """A daemon says that no worker can be had anywhere: nothing is wanted under the key."""

    key: int
    source: str


class DaemonGone(msgspec.Struct, frozen=True):
    """A daemon is dead, or cannot be reached."""

    source: str


Event: TypeAlias = WorkersWanted | SentTo | WorkerHad | AskRefused | DaemonGone


class AskDaemon(msgspec.Struct, frozen=True):
    """Tell a daemon how many workers it is to find, in place of what it was told before."""

    daemon: str
    key: int
    workers: int
    hops: int


class Asks:
    """What one process has asked of daemons."""

    def __init__(self) -> None:
        self._workers_at: dict[int, dict[str, int]] = {}
        """By key and daemon: how many it is to find."""

    def handle(self, event: Event) -> list[AskDaemon]:
        """Take an event; return what to do, in order."""
        match event:
            case WorkersWanted(key, workers):
                return self._want(key, workers)
            case SentTo():
                return self._send_on(event)
            case WorkerHad(key, source):
                self._take(key, source, 1)
                return []
            case AskRefused(key, source):
                at = self._workers_at.pop(key, {})
                return [AskDaemon(each, key, 0, 0) for each in at if each != source]
            case DaemonGone(source):
                return self._go_home(source)
            case _:
                assert_never(event)

    def _want(self, key: int, workers: int) -> list[AskDaemon]:
        at = self._workers_at.setdefault(key, {})
        more = workers - sum(at.values())
        changed = {OWN: None} if more > 0 else {}
        if more > 0:
            at[OWN] = at.get(OWN, 0) + more
        for each in [OWN, *(each for each in reversed(at) if each != OWN)]:
            back = min(-more, at.get(each, 0))
            if back > 0:
                more += back
                at[each] -= back
                changed[each] = None
        asked = [AskDaemon(each, key, at[each], 0) for each in changed]
        self._forget_empty(key)
        return asked

    def _send_on(self, event: SentTo) -> list[AskDaemon]:
        key, target = event.key, event.target
        workers = self._take(key, event.source, event.workers)
        if not workers:
            return []  # It is not wanted any more; the daemon has been told, or will be.
        at = self._workers_at.setdefault(key, {})
        at[target] = at.get(target, 0) + workers
        return [AskDaemon(target, key, at[target], event.hops)]

    def _go_home(self, source: str) -> list[AskDaemon]:
        asked = []
        for key, at in list(self._workers_at.items()):
            workers = at.pop(source, 0)
            if workers:
                at[OWN] = at.get(OWN, 0) + workers
                # It has come far: so its own daemon does not send it on at once to who is dead.
                asked.append(AskDaemon(OWN, key, at[OWN], HOPS))
        return asked

    def _take(self, key: int, source: str, workers: int) -> int:
        """Count what a daemon is to find no longer; return how many that are."""
        at = self._workers_at.get(key, {})
        taken = min(workers, at.get(source, 0))
        if taken:
            at[source] -= taken
            self._forget_empty(key)
        return taken

    def _forget_empty(self, key: int) -> None:
        at = {daemon: workers for daemon, workers in self._workers_at[key].items() if workers}
        if at:
            self._workers_at[key] = at
        else:
            del self._workers_at[key]

    def asked(self, key: int) -> dict[str, int]:
        """Return how many workers which daemon is to find."""
        return dict(self._workers_at.get(key, {}))

    def check(self) -> None:
        """Assert what is always true."""
        for at in self._workers_at.values():
            assert at, 3
            assert all(workers > 0 for workers in at.values()), 3
