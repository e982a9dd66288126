"""What this process counts and sets; how several processes' numbers are one; how they are written.

    Registry     a process's metrics: what its threads have counted, what was set
    Readings     the numbers of one metric at a moment, by its tags: what processes send
    Totals       the Readings of many processes, put together
    exposition   Readings as Prometheus reads them

A number's key is the metric's name and the values of its tags, in the order of its tag keys. Each
thread counts in dictionaries of its own, its shard: counting takes no lock. Who reads adds the
shards up.

What is always true
1. A shard's numbers are changed by its thread alone. They are in one place: with the shard while
   its thread lives, then among those that were kept. So a counter that is read never goes back.
2. A name stands for one declaration in a process, and in Totals.
3. Totals keep what a process that is gone had counted, and nothing that it had set.
4. A forked child has its parent's declarations and begins at zero: what was counted before the fork
   is the parent's to tell.

Facts about dictionaries: looking up, setting an item and copying are each one step for other
threads where keys are strings and tuples of strings, since no Python code runs in between.

Source: the text formats are Prometheus's 0.0.4 and OpenMetrics 1.0.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from itertools import accumulate, count
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

Kind = Literal["counter", "gauge", "histogram", "amount"]
"""An amount is a gauge that is added up over processes; of other gauges the newest value counts."""
Key = tuple[str, ...]
"""The values of a metric's tags, empty where there is none; in a Registry after the name."""
K = TypeVar("K", bound=Key)
Numbers = list[float]
"""counter, amount: [value]; gauge: [value, when it was set]; histogram: [*buckets, sum]."""

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Declaration(msgspec.Struct, frozen=True, array_like=True):
    """What a metric is."""

    kind: Kind
    name: str
    description: str = ""
    tag_keys: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()
    """Upper ends of a histogram's buckets, without the last, which is infinite."""

    @property
    def family(self) -> str:
        """The name without what the formats add to it."""
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name

    def names(self) -> list[str]:
        """Return every name that is taken where this is written."""
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        return [self.family, *(self.family + ending for ending in endings.get(self.kind, ()))]

    def nothing(self) -> Numbers:
        """Return the numbers of one that has counted nothing."""
        return [0.0] * (len(self.boundaries) + 2) if self.kind == "histogram" else [0.0]

    def joined(self, numbers: Numbers, more: Numbers) -> Numbers:
        """Return what two have under the same tags, as one."""
        if self.kind == "gauge":
            return max(numbers, more, key=lambda one: one[1])
        return [one + other for one, other in zip(numbers, more, strict=True)]

    def described(self) -> str:
        """Say what it is, for a message."""
        words = f"{self.name!r}, a {self.kind} with the tag keys {self.tag_keys}"
        return f"{words} and the boundaries {self.boundaries}" if self.boundaries else words


class Readings(msgspec.Struct, frozen=True, array_like=True):
    """A metric's numbers at a moment."""

    declaration: Declaration
    numbers_of: dict[Key, Numbers]


class Declarations:
    """Which name stands for what."""

    def __init__(self) -> None:
        self._of_name: dict[str, Declaration] = {}

    def add(self, new: Declaration) -> Declaration:
        """Return the first declaration of this metric: this one, or one with another description.

        ValueError: one of its names stands for something else.
        """
        for name in new.names():
            known = self._of_name.get(name)
            if known and msgspec.structs.replace(known, description=new.description) != new:
                raise ValueError(
                    f"the metric {new.described()} cannot be: "
                    f"{name!r} belongs to {known.described()}; use another name"
                )
        for name in new.names():
            self._of_name.setdefault(name, new)
        return self._of_name[new.family]

    def all(self) -> list[Declaration]:
        """Return each once."""
        return list({known.name: known for known in list(self._of_name.values())}.values())


# ------------------------------------------------------------------ in a process


class _ShardEnd:
    """Tells that the thread that it belongs to is gone."""

    def __init__(self, number: int, ended: deque[int]) -> None:
        self._number = number
        self._ended = ended

    def __del__(self) -> None:
        self._ended.append(self._number)


class _Shard(threading.local):
    """What the calling thread has counted: its attributes are another thread's others."""

    def __init__(self, register: Callable[[dict[Key, float], dict[Key, Numbers]], object]) -> None:
        self.counts: dict[Key, float] = {}
        self.histograms: dict[Key, Numbers] = {}
        self.end = register(self.counts, self.histograms)


class Registry:
    """The metrics of this process. Safe from threads, and from `__del__`."""

    def __init__(self) -> None:
        self._declarations = Declarations()
        self.begin()

    def begin(self) -> None:
        """Begin at zero."""
        # Reentrant: a collection may call a destructor that counts, in the middle of anything.
        self._lock = threading.RLock()
        self._number = count()
        self._shards: dict[int, tuple[dict[Key, float], dict[Key, Numbers]]] = {}
        self._ended: deque[int] = deque()
        """Shards whose threads are gone."""
        self._kept: dict[Key, Numbers] = {}
        """What threads that are gone had counted."""
        self._is_adding = False
        self.gauges: dict[Key, Numbers] = {}
        self.here = _Shard(self._register)
        """The calling thread's shard. Who counts changes its dictionaries."""

    def declare(self, new: Declaration) -> Declaration:
        """Take note of a metric; see `Declarations.add`."""
        with self._lock:
            return self._declarations.add(new)

    def _register(self, counts: dict[Key, float], histograms: dict[Key, Numbers]) -> _ShardEnd:
        number = next(self._number)
        self._shards[number] = counts, histograms
        # Also where nobody ever reads, threads that are gone leave nothing but their numbers.
        with self._lock:
            self._keep_ended()
        return _ShardEnd(number, self._ended)

    def _keep_ended(self) -> None:
        """Take over what threads that are gone had counted."""
        if self._is_adding:
            return  # In the middle of it a destructor counts: then nothing changes its place.
        self._is_adding = True
        try:
            while self._ended:
                _add(self._kept, *self._shards.pop(self._ended.popleft()))
        finally:
            self._is_adding = False

    def _sums(self) -> dict[Key, Numbers]:
        """Return what all threads have counted."""
        with self._lock:
            self._keep_ended()
            self._is_adding = True
            try:
                sums = self._kept.copy()
                for counts, histograms in self._shards.copy().values():
                    _add(sums, counts.copy(), histograms.copy())
            finally:
                self._is_adding = False
        return sums

    def readings(self) -> list[Readings]:
        """Return all numbers, in the order of the metrics' declarations."""
        numbers_of: dict[str, dict[Key, Numbers]] = {}
        for (name, *values), numbers in [*self._sums().items(), *self.gauges.copy().items()]:
            numbers_of.setdefault(name, {})[tuple(values)] = numbers
        return [
            Readings(known, numbers_of.get(known.name) or _at_first(known))
            for known in self._declarations.all()
        ]


def _add(
    sums: dict[Key, Numbers], counts: dict[Key, float], histograms: dict[Key, Numbers]
) -> None:
    """Add a shard's numbers to `sums`, whose lists are replaced and not changed."""
    for key, value in counts.items():
        known = sums.get(key)
        sums[key] = [known[0] + value] if known else [value]
    for key, numbers in histograms.items():
        seen = numbers.copy()  # its thread may be at it
        known = sums.get(key)
        sums[key] = [one + more for one, more in zip(known, seen, strict=True)] if known else seen


def _at_first(declaration: Declaration) -> dict[Key, Numbers]:
    """Return what is told before anything was counted: without tags there is one series, at zero.

    So that the first that is counted is seen as an increase.
    """
    if declaration.tag_keys or declaration.kind == "gauge":
        return {}
    return {(): declaration.nothing()}


registry = Registry()
"""This process's."""
os.register_at_fork(after_in_child=registry.begin)


# ------------------------------------------------------------------ of several processes


class Totals:
    """What several processes have measured. `clash` is told of a declaration that is left out."""

    def __init__(self, clash: Callable[[str], None]) -> None:
        self._clash = clash
        self._declarations = Declarations()
        self._refused: set[Declaration] = set()
        self._last_of: dict[Hashable, list[Readings]] = {}
        self._kept: dict[str, dict[Key, Numbers]] = {}
        """By a metric's name: what processes that are gone had counted."""

    def put(self, source: Hashable, readings: list[Readings]) -> None:
        """Take the numbers of a process, in place of its last ones."""
        self._last_of[source] = [one for one in readings if self._is_fit(one.declaration)]

    def _is_fit(self, declaration: Declaration) -> bool:
        if declaration in self._refused:
            return False
        try:
            self._declarations.add(declaration)
        except ValueError as error:
            self._refused.add(declaration)
            self._clash(str(error))
            return False
        return True

    def end(self, source: Hashable) -> None:
        """A process is gone."""
        for one in self._last_of.pop(source, ()):
            if one.declaration.kind in {"counter", "histogram"}:
                _join(self._kept.setdefault(one.declaration.name, {}), one)

    def readings(self) -> list[Readings]:
        """Return all, as one process's."""
        numbers_of = {name: dict(kept) for name, kept in self._kept.items()}
        for readings in self._last_of.values():
            for one in readings:
                _join(numbers_of.setdefault(one.declaration.name, {}), one)
        return [
            Readings(known, numbers_of.get(known.name, {})) for known in self._declarations.all()
        ]


def _join(numbers_of: dict[Key, Numbers], readings: Readings) -> None:
    for key, numbers in readings.numbers_of.items():
        known = numbers_of.get(key)
        numbers_of[key] = readings.declaration.joined(known, numbers) if known else numbers


def measured(
    kind: Kind, name: str, description: str, tag_keys: Key, value_of: Mapping[K, float]
) -> Readings:
    """Return the readings of a metric that is no histogram and that nobody made."""
    declaration = Declaration(kind, name, description, tag_keys)
    return Readings(declaration, {key: [float(value)] for key, value in value_of.items()})


def of_nodes(readings_of: Mapping[str, list[Readings] | None]) -> list[Readings]:
    """Return the numbers of several nodes with a tag more, the node, and who answers.

    `readings_of`: by a node's name; None: it does not answer, and has no numbers.
    """
    # What two nodes declare differently each has told its own drivers.
    totals = Totals(lambda why: None)
    for node, readings in readings_of.items():
        totals.put(node, [_of_node(one, node) for one in readings or ()])
    answers = {(node,): float(readings is not None) for node, readings in readings_of.items()}
    up = measured("gauge", "weft_node_up", "Whether the node answers.", ("node",), answers)
    return [*totals.readings(), up]


def _of_node(readings: Readings, node: str) -> Readings:
    known = readings.declaration
    # As Prometheus calls a label that is a target's own and the program's too.
    keys = tuple("exported_node" if key == "node" else key for key in known.tag_keys)
    declaration = msgspec.structs.replace(known, tag_keys=("node", *keys))
    return Readings(
        declaration, {(node, *key): numbers for key, numbers in readings.numbers_of.items()}
    )


# ------------------------------------------------------------------ the text


def exposition(readings: Iterable[Readings], *, openmetrics: bool) -> str:
    """Return readings as text, in Prometheus's format or as OpenMetrics."""
    ordered = sorted(readings, key=lambda one: one.declaration.name)
    lines = [line for one in ordered for line in _lines(one, openmetrics=openmetrics)]
    if openmetrics:
        lines.append("# EOF")
    return "".join(f"{line}\n" for line in lines)


def _lines(readings: Readings, *, openmetrics: bool) -> Iterator[str]:
    declaration = readings.declaration
    name = declaration.family
    is_counter = declaration.kind == "counter"
    title = f"{name}_total" if is_counter and not openmetrics else name
    if declaration.description:
        text = declaration.description.replace("\\", r"\\").replace("\n", r"\n")
        yield f"# HELP {title} " + (text.replace('"', r"\"") if openmetrics else text)
    yield f"# TYPE {title} {'gauge' if declaration.kind == 'amount' else declaration.kind}"
    for key, numbers in sorted(readings.numbers_of.items()):
        labels = [
            f'{tag}="{_quotable(value)}"'
            for tag, value in zip(declaration.tag_keys, key, strict=True)
            if value
        ]
        if declaration.kind == "histogram":
            yield from _histogram_lines(declaration, labels, numbers, openmetrics=openmetrics)
        else:
            yield _line(f"{name}_total" if is_counter else name, labels, numbers[0])


def _histogram_lines(
    declaration: Declaration, labels: list[str], numbers: Numbers, *, openmetrics: bool
) -> Iterator[str]:
    name = declaration.name
    *buckets, total = numbers
    below = list(accumulate(buckets))
    for boundary, value in zip((*declaration.boundaries, math.inf), below, strict=True):
        yield _line(f"{name}_bucket", [*labels, f'le="{_text(boundary)}"'], value)
    # OpenMetrics knows no sum that may go down, and no count without a sum.
    if not openmetrics or declaration.boundaries[0] >= 0:
        yield _line(f"{name}_sum", labels, total)
        yield _line(f"{name}_count", labels, below[-1])


def _line(name: str, labels: list[str], value: float) -> str:
    return f"{name}{{{','.join(labels)}}} {_text(value)}" if labels else f"{name} {_text(value)}"


def _text(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)


def _quotable(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
