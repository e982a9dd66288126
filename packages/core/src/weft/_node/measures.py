"""What a node has to tell of itself: its machines, its memory, its processes."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import psutil

from weft._metrics import Readings, measured
from weft._node.memory_samples import stored_bytes

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping

    from weft._metrics import K, Key
    from weft._node.acting import Acting
    from weft._node.governing import Governing
    from weft._node.grants import Grants
    from weft._node.rules import Rules

_WORKER_STATES = ("starting", "idle", "leased", "ending")
_ACTOR_STATES = ("pending", "alive", "restarting")
"""The dead are left out: they are remembered for a while, so their number would tell nothing."""


class StoreNumbers(Protocol):
    """What the index of a node's shared memory knows, in bytes."""

    @property
    def used_bytes(self) -> int:
        """Memory that is lent to processes."""
        ...

    @property
    def spare_bytes(self) -> int:
        """Of that, what holds no object."""
        ...

    @property
    def spilled_bytes(self) -> int:
        """Objects that are on disk only."""
        ...


def of_machines(rules: Rules, grants: Grants, acting: Acting) -> Iterator[Readings]:
    """Yield what the machines of a node hold."""
    pool, leases = rules.pool, rules.leases
    yield _amount(
        "weft_workers",
        "Worker processes.",
        ("state",),
        _tally(_WORKER_STATES, (state for _, state, _ in pool.workers())),
    )
    yield _amount(
        "weft_actors",
        "Actors that are not dead.",
        ("state",),
        _tally(_ACTOR_STATES, acting.states()),
    )
    bound, unbound = grants.leases()
    yield _amount(
        "weft_leases",
        "Workers that are lent to processes, or to actors. starting: the process is to come.",
        ("state",),
        {("bound",): bound, ("starting",): unbound},
    )
    yield _amount(
        "weft_workers_wanted",
        "Workers that processes and actors want, and that nothing is free for.",
        (),
        {(): sum(workers for _, _, _, workers in leases.waiting())},
    )
    free, total = leases.free.to_floats(), leases.total.to_floats()
    yield _amount(
        "weft_resources",
        "Amounts of resources that tasks and actors ask for; memory in bytes.",
        ("resource", "state"),
        {
            (name, state): amount
            for name, whole in total.items()
            for state, amount in (
                ("free", free.get(name, 0.0)),
                ("used", whole - free.get(name, 0.0)),
            )
        },
    )


def of_store(directory: str, numbers: StoreNumbers) -> Iterator[Readings]:
    """Yield what objects take: files in memory, and what their index knows."""
    yield _amount(
        "weft_store_memory_bytes",
        "Shared memory that the files of objects take.",
        (),
        {(): stored_bytes(directory)},
    )
    of_index = {
        ("used", "Shared memory that is lent to processes."): numbers.used_bytes,
        ("spare", "Of the used, what holds no object."): numbers.spare_bytes,
        ("spilled", "Objects that are on disk only."): numbers.spilled_bytes,
    }
    for (name, description), value in of_index.items():
        yield _amount(f"weft_store_{name}_bytes", description, (), {(): value})


def of_memory(governing: Governing) -> Iterator[Readings]:
    """Yield the limits that apply, what was done about them, and what tasks ask for."""
    bounds = governing.bounds()
    yield _amount(
        "weft_memory_limit_bytes",
        "Limits of memory that apply to the node: of the machine, a cgroup, or the user.",
        ("limit",),
        {(bound.name,): bound.limit_bytes for bound in bounds},
    )
    yield _amount(
        "weft_memory_used_bytes",
        "Memory in use of each limit, without page cache.",
        ("limit",),
        {(bound.name,): bound.used_bytes for bound in bounds},
    )
    yield measured(
        "counter",
        "weft_governor_steps_total",
        "Tasks that were paused and put back, and processes that were ended, as memory was short.",
        ("step",),
        {(step,): number for step, number in governing.machine.steps.items()},
    )
    yield _amount(
        "weft_function_memory_bytes",
        "Memory that a task of a function asks for, if such tasks were seen to take much.",
        ("function",),
        {(function,): size_bytes for function, size_bytes in governing.learned.items()},
    )


def of_process(process: str, pid: int) -> list[Readings]:
    """Return what a process takes, seen from outside: it may be busy. Nothing if it is gone."""
    with contextlib.suppress(psutil.Error):
        seen = psutil.Process(pid)
        with seen.oneshot():
            times, memory = seen.cpu_times(), seen.memory_info()
        return [
            _amount(
                "weft_process_resident_memory_bytes",
                "Resident memory of all processes of a kind; what they share is counted for each.",
                ("process",),
                {(process,): memory.rss},
            ),
            measured(
                "counter",
                "weft_process_cpu_seconds_total",
                "Processor time of user and system, of all processes of a kind.",
                ("process",),
                {(process,): times.user + times.system},
            ),
        ]
    return []


def _amount(name: str, description: str, tag_keys: Key, value_of: Mapping[K, float]) -> Readings:
    return measured("amount", name, description, tag_keys, value_of)


def _tally(states: Iterable[str], found: Iterable[Hashable]) -> dict[Key, int]:
    """Count by state, also those that nothing is in."""
    number_of = Counter(found)
    return {(state,): number_of[state] for state in states}
