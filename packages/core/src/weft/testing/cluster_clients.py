"""Clients that use a real cluster while parts of it die, and whether what they saw was promised.

    weft.init(address=...)
    clients = ClusterClients(folder, seed=7)
    clients.begin()
    ...                                 kill what you like
    print(clients.end())                raises if something promised was not kept

The clients are threads of this program. They call one named actor that is restarted for ever, whose
calls are not retried; run tasks with and without retries; read objects, here and on other nodes;
and create actors under names that others want as well. All that runs leaves a mark in a file.

What is checked
1. A call or a task without retries runs at most once, and once if its value was seen.
2. The named actor is one process at a time: what its lives have answered is in the order of these
   lives, and each life has counted its calls as one after the other.
3. A name belongs to one actor: who has created it and who finds it agree.
4. A value that is read twice is the same.
5. What may fail fails with the documented error; tasks with retries, reads and names do not fail.
6. Nothing takes longer than `HANGS_S`; and in the end all works again.
"""

from __future__ import annotations

import os
import random
import threading
import zlib
from collections import Counter
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

import weft
from weft._clock import monotonic
from weft.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    WeftError,
    WorkerDiedError,
)
from weft.testing.histories import (
    ANY_KEY,
    ClientHistory,
    KeyValueModel,
    ValueModel,
    check_calls,
    check_history,
    check_lives,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ClientsReport", "ClusterClients"]

HANGS_S: Final = 60.0
"""What takes longer hangs: all that is documented together takes less."""
BACK_S: Final = 30.0
PAUSE_S: Final = 0.05
"""After an error, before the next attempt at something else."""
OBJECTS: Final = 8
NAMES: Final = 6
OBJECT_BYTES: Final = 1024 * 1024
NAMESPACE: Final = "weft.testing"
_TALLY: Final = "tally"


class ClientsReport(msgspec.Struct, frozen=True):
    """What clients did, all of which was as promised.

    Attributes:
        ended: How many operations of each kind have ended well.
        failed: How many of each kind have failed as they may.
        lives: How often the named actor was started.
    """

    ended: dict[str, int]
    failed: dict[str, int]
    lives: int


# ------------------------------------------------------------------ what runs in the cluster


def _mark(file: str, *words: object) -> None:
    """Leave a line that stays even if this process is killed after it."""
    with open(file, "ab", buffering=0) as marks:  # noqa: PTH123 - the fewest calls there are
        marks.write(" ".join(map(str, words)).encode() + b"\n")


class _Tally:
    """The named actor."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._life = os.urandom(8).hex()
        self._calls = 0
        _mark(file, "life", self._life)

    def add(self, mark: str) -> tuple[str, int]:
        """Count a call."""
        _mark(self._file, "call", mark, self._life, self._calls + 1)
        self._calls += 1
        return self._life, self._calls


class _Named:
    """An actor of which only the name counts."""


def _task(file: str, mark: str) -> str:
    _mark(file, "task", mark)
    return mark


def _make(number: int) -> bytes:
    return number.to_bytes(4, "big") * (OBJECT_BYTES // 4)


def _read(content: bytes) -> int:
    return zlib.crc32(content)


# ------------------------------------------------------------------ the clients


class ClusterClients:
    """Threads that use the cluster of this program's session until they are told to end.

    A program has one at a time. It is left in the cluster what was named, until that ends.
    """

    def __init__(self, folder: str | Path, *, seed: int, clients: int = 4) -> None:
        """Make clients that do nothing yet.

        Args:
            folder: Empty, and seen under this name by all nodes: marks go there.
            seed: What each client does when. What becomes of it is up to the cluster.
            clients: How many there are.
        """
        self.history = ClientHistory()
        self._file = str(Path(folder, "marks"))
        self._over = threading.Event()
        self._marks = count()
        self._failed: Counter[str] = Counter()
        self._wrong: list[str] = []
        self._threads = [
            threading.Thread(target=self._client, args=(f"client {number}", seed), daemon=True)
            for number in range(clients)
        ]
        self._objects: list[weft.ObjectRef[bytes]] = []
        self._does: dict[str, Callable[[str, random.Random], None]] = {
            "call": self._call,
            "task": self._once,
            "retried task": self._again,
            "read": self._read,
            "name": self._name,
        }

    def begin(self) -> None:
        """Start the clients, when there is what they use. Blocks for that."""
        tally: Any = weft.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(_Tally)
        self._tally = tally.options(
            name=_TALLY, namespace=NAMESPACE, lifetime="detached", scheduling_strategy="SPREAD"
        ).remote(self._file)
        self._named: Any = weft.remote(num_cpus=0, max_restarts=-1)(_Named)
        spread: Any = weft.remote(scheduling_strategy="SPREAD")
        self._run_once = spread(_task).options(max_retries=0)
        self._run_again = spread(_task).options(max_retries=-1)
        self._run_read = spread(_read).options(max_retries=-1)
        make = spread(_make).options(max_retries=-1)
        self._objects = [make.remote(number) for number in range(OBJECTS // 2)]
        self._objects += [weft.put(_make(number)) for number in range(OBJECTS // 2, OBJECTS)]
        weft.get([self._tally.add.remote("first"), *self._objects], timeout=HANGS_S)
        for thread in self._threads:
            thread.start()

    def end(self) -> ClientsReport:
        """Let the clients end, see that all works again, and check what they saw.

        Blocks until what is under way has ended, `HANGS_S` at most.

        Returns:
            What they did.

        Raises:
            ForbiddenHistoryError: What they saw was not promised.
            AssertionError: Something hangs, or has failed in a way that is not documented.
            UndecidedHistoryError: It was not found out.
        """
        self._over.set()
        for thread in self._threads:
            thread.join(HANGS_S)
            if thread.is_alive():
                raise AssertionError(f"a client hangs: {self.history.operations[-8:]}")
        self._see_that_all_works()
        if self._wrong:
            raise AssertionError("\n".join(self._wrong))
        operations = self.history.operations
        marks = Path(self._file).read_text().splitlines()
        check_calls(operations, marks)
        lives = check_lives(operations, marks)
        check_history([each for each in operations if each.kind == "read"], ValueModel())
        named = [each for each in operations if each.kind in ("add", "get")]
        check_history([each for each in named if isinstance(each.key, int)], KeyValueModel())
        ended = Counter(each.kind for each in operations if each.has_ended)
        return ClientsReport(dict(ended), dict(self._failed), lives)

    def _client(self, name: str, seed: int) -> None:
        draw = random.Random(f"{name} {seed}")  # noqa: S311 - to be repeated
        kinds = ["call"] * 8 + ["task"] * 4 + ["retried task"] * 2 + ["read"] * 4 + ["name"]
        while not self._over.is_set():
            self._do(draw.choice(kinds), name, draw)

    def _do(self, kind: str, client: str, draw: random.Random) -> bool:
        """Do something; tell whether it ended well."""
        before = sum(self._failed.values()) + len(self._wrong)
        try:
            self._does[kind](client, draw)
        except GetTimeoutError as error:
            self._wrong.append(f"{client}: {kind} hangs: {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not what was promised
            self._wrong.append(f"{client}: {kind} fails: {error!r}")
        return before == sum(self._failed.values()) + len(self._wrong)

    def _see_that_all_works(self) -> None:
        draw = random.Random(0)  # noqa: S311 - to be repeated
        for kind in self._does:
            until = monotonic() + BACK_S
            while not self._do(kind, "in the end", draw):
                if monotonic() > until:
                    raise AssertionError(f"{kind} does not work in the end: {self._wrong[-3:]}")
                threading.Event().wait(PAUSE_S)

    def _fails(self, kind: str, error: WeftError) -> None:
        self._failed[f"{kind}: {type(error).__name__}"] += 1
        self._over.wait(PAUSE_S)

    # -------------------------------------------------------------- what they do

    def _call(self, client: str, draw: random.Random) -> None:
        mark = f"c{next(self._marks)}"
        try:
            with self.history.doing(client, "call", ANY_KEY, mark) as operation:
                told = weft.get(self._tally.add.remote(mark), timeout=HANGS_S)
                operation.key, operation.value = told
        except ActorUnavailableError as error:
            self._fails("call", error)

    def _once(self, client: str, draw: random.Random) -> None:
        mark = f"t{next(self._marks)}"
        try:
            with self.history.doing(client, "task", mark) as operation:
                ref = self._run_once.remote(self._file, mark)
                operation.value = weft.get(ref, timeout=HANGS_S)
        except (WorkerDiedError, NodeDiedError) as error:
            self._fails("task", error)

    def _again(self, client: str, draw: random.Random) -> None:
        mark = f"r{next(self._marks)}"
        with self.history.doing(client, "retried task", mark) as operation:
            ref = self._run_again.remote(self._file, mark)
            operation.value = weft.get(ref, timeout=HANGS_S)

    def _read(self, client: str, draw: random.Random) -> None:
        number = draw.randrange(OBJECTS)
        ref = self._objects[number]
        with self.history.doing(client, "read", number) as operation:
            if draw.random() < 0.5:
                operation.value = _read(weft.get(ref, timeout=HANGS_S))
            else:
                operation.value = weft.get(self._run_read.remote(ref), timeout=HANGS_S)

    def _name(self, client: str, draw: random.Random) -> None:
        number = draw.randrange(NAMES)
        name = f"name {number}"
        if draw.random() < 0.5:
            with self.history.doing(client, "get", number) as operation:
                operation.value = _find(name)
            return
        options = {"name": name, "namespace": NAMESPACE, "lifetime": "detached"}
        with self.history.doing(client, "add", number) as operation:
            try:
                operation.argument = self._named.options(**options).remote()._actor_id
                operation.value = True
            except ValueError:
                operation.argument, operation.value = b"", False


def _find(name: str) -> bytes | None:
    try:
        return bytes(weft.get_actor(name, NAMESPACE)._actor_id)
    except ValueError:
        return None
