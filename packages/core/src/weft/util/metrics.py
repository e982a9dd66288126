"""Counters, gauges and histograms of a program, told in Prometheus's format.

Make one anywhere: in the driver, in tasks, in actors. All that have the same name are one metric,
and what processes count is added up. docs/metrics.md tells how they are read.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from weft._api.session import running
from weft._clock import monotonic
from weft._metrics import Declaration, Key, Kind, exposition, registry
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DEFAULT_BOUNDARIES", "Counter", "Gauge", "Histogram", "Metric", "export"]

DEFAULT_BOUNDARIES = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
"""Of a histogram that is made without: for requests, in seconds."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_TAG_KEY = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_OWN = "weft_"


class Metric:
    """What all metrics have in common: a name, a description and tags.

    Make a Counter, a Gauge or a Histogram. Several with one name are one metric, also in several
    processes; they have the same class, tag keys and boundaries. A metric can be sent to tasks and
    actors. Threads may use it, and so may `__del__`.

    A tag that was declared and has no value is left out of what is told. Each combination of values
    is kept for as long as the process lives, and by the node for as long as the session lives: so a
    tag's values should be few. An id is no tag.

    Args:
        name: Letters, digits, `_` and `:`; no digit at the beginning. What begins with `weft_` is
            Weft's own.
        description: Told as the metric's help.
        tag_keys: Names of the tags: letters, digits and `_`; no digit and no `__` at the beginning.

    Raises:
        ValueError: A name is not allowed, or stands for another metric in this process.
        TypeError: A name is no string.
    """

    _kind: ClassVar[Kind]

    def __init__(
        self, name: str, description: str = "", tag_keys: Sequence[str] | None = None
    ) -> None:
        self._declare(name, description, tag_keys)

    def _declare(
        self,
        name: str,
        description: str,
        tag_keys: Sequence[str] | None,
        boundaries: tuple[float, ...] = (),
    ) -> None:
        kind = getattr(self, "_kind", None)
        if kind is None:
            raise TypeError("a Metric is a Counter, a Gauge or a Histogram: make one of those")
        _check(name, tag_keys or ())
        declaration = Declaration(
            kind,
            _plain(name),
            _plain(description),
            tuple(_plain(tag_key) for tag_key in tag_keys or ()),
            boundaries,
        )
        self._declaration = registry.declare(declaration)
        self._description = description
        self.set_default_tags({})

    @property
    def info(self) -> dict[str, Any]:
        """What it is: `name`, `description`, `tag_keys`, `default_tags`."""
        return {
            "name": self._declaration.name,
            "description": self._description,
            "tag_keys": self._declaration.tag_keys,
            "default_tags": dict(self._default_tags),
        }

    def set_default_tags(self, default_tags: Mapping[str, str]) -> None:
        """Set the tags that hold where a call gives no others.

        They are this object's: another one of the same name has its own.

        Args:
            default_tags: Values by tag key. They replace the default tags from before.

        Raises:
            ValueError: A tag was not declared. The default tags from before hold on.
            TypeError: A value is no string. The default tags from before hold on.
        """
        self._check_tags(default_tags)
        self._default_tags = dict(default_tags)
        self._key_of: dict[tuple[tuple[str, str], ...], Key] = {}
        self._default_key = self._make_key({})

    def _key(self, tags: Mapping[str, str]) -> Key:
        given = tuple(tags.items())
        try:
            return self._key_of[given]
        except (KeyError, TypeError):  # unheard of, or not hashable and so no strings
            self._check_tags(tags)
        key = self._key_of[given] = self._make_key(tags)
        return key

    def _make_key(self, tags: Mapping[str, str]) -> Key:
        values = {**self._default_tags, **tags}
        declaration = self._declaration
        return (
            declaration.name,
            *(_plain(values.get(tag_key, "")) for tag_key in declaration.tag_keys),
        )

    def _check_tags(self, tags: Mapping[str, str]) -> None:
        name, tag_keys = self._declaration.name, self._declaration.tag_keys
        for tag_key, value in tags.items():
            if tag_key not in tag_keys:
                raise ValueError(f"the metric {name!r} has no tag {tag_key!r}; it has {tag_keys}")
            if not isinstance(value, str):
                raise TypeError(f"the tag {tag_key!r} of the metric {name!r} is {value!r}: no str")

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_key_of": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        registry.declare(self._declaration)

    @override
    def __repr__(self) -> str:
        tag_keys = self._declaration.tag_keys
        return f"{type(self).__name__}({self._declaration.name!r}, tag_keys={tag_keys})"


class Counter(Metric):
    """A number that only grows: requests served, rows read, seconds spent.

    It is told under its name with `_total` at the end. What a process has counted stays when it has
    ended.
    """

    _kind: ClassVar[Kind] = "counter"

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        """Add to the counter. Does not block.

        Args:
            value: A number in [0, infinity).
            tags: Values by tag key, before the default tags.

        Raises:
            ValueError: The number is negative or not finite, or a tag was not declared. Nothing was
                counted.
            TypeError: It is no number, or a tag's value is no string. Nothing was counted.
        """
        number = value if type(value) is float else _number(value)
        if not 0.0 <= number < math.inf:
            raise ValueError(
                f"a counter grows: {value!r} cannot be added to {self._declaration.name!r}"
            )
        key = self._key(tags) if tags else self._default_key
        counts = registry.here.counts
        counts[key] = counts.get(key, 0.0) + number


class Gauge(Metric):
    """A number that goes up and down: the length of a queue, a loss, a temperature.

    Where several processes set it with the same tags, the value that was set last is told, of those
    that live: give it a tag that tells them apart if each is to be seen.
    """

    _kind: ClassVar[Kind] = "gauge"

    def set(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Set the gauge. Does not block.

        Args:
            value: A number; it may be infinite or not a number.
            tags: Values by tag key, before the default tags.

        Raises:
            ValueError: A tag was not declared. Nothing was set.
            TypeError: It is no number, or a tag's value is no string. Nothing was set.
        """
        number = value if type(value) is float else _number(value)
        key = self._key(tags) if tags else self._default_key
        registry.gauges[key] = [number, monotonic()]


class Histogram(Metric):
    """How often numbers fell into which range: how long requests took, how large they were.

    Args:
        name: As of every Metric.
        description: As of every Metric.
        boundaries: Upper ends of the buckets, each included, in growing order; a last bucket takes
            what is larger than all. None: `DEFAULT_BOUNDARIES`.
        tag_keys: As of every Metric; none is `le`, which the formats use for the boundaries.

    Raises:
        ValueError: A name is not allowed, or stands for another metric in this process; or the
            boundaries do not grow or are not finite.
        TypeError: A name is no string, or a boundary no number.
    """

    _kind: ClassVar[Kind] = "histogram"

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: Sequence[str] | None = None,
    ) -> None:
        numbers = DEFAULT_BOUNDARIES if boundaries is None else tuple(map(_number, boundaries))
        grow = all(low < high for low, high in pairwise(numbers))
        if not numbers or not grow or not all(map(math.isfinite, numbers)):
            raise ValueError(
                f"boundaries={boundaries!r} of the histogram {name!r}: "
                "give at least one number, finite, each larger than the one before"
            )
        if tag_keys and "le" in tag_keys:
            raise ValueError(
                f"the histogram {name!r} cannot have the tag 'le': it tells the buckets apart"
            )
        self._declare(name, description, tag_keys, numbers)

    @property
    @override
    def info(self) -> dict[str, Any]:
        """What it is: also its `boundaries`."""
        return {**super().info, "boundaries": list(self._declaration.boundaries)}

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Count a number in the bucket that it falls into. Does not block.

        Args:
            value: A finite number.
            tags: Values by tag key, before the default tags.

        Raises:
            ValueError: The number is not finite, or a tag was not declared. Nothing was counted.
            TypeError: It is no number, or a tag's value is no string. Nothing was counted.
        """
        number = value if type(value) is float else _number(value)
        if not math.isfinite(number):
            raise ValueError(f"{value!r} falls into no bucket of {self._declaration.name!r}")
        key = self._key(tags) if tags else self._default_key
        histograms = registry.here.histograms
        numbers = histograms.get(key)
        if numbers is None:
            numbers = histograms[key] = self._declaration.nothing()
        numbers[bisect_left(self._declaration.boundaries, number)] += 1.0
        numbers[-1] += number


def export(*, openmetrics: bool = False) -> str:
    """Return what the session's metrics are at this moment, as text for Prometheus.

    Blocks while the session's processes are asked, at most a second: of one that does not answer
    in time, the numbers are those of its last answer. With the inline engine there is one process,
    and no metrics of Weft's own.

    In a cluster each series has a label more, `node`. A node that does not answer for 1.6 s is left
    out, and `weft_node_up` is 0 for it.

    Args:
        openmetrics: In the format of OpenMetrics 1.0 instead of Prometheus's 0.0.4.

    Raises:
        SessionError: There is no session.
    """
    return exposition(running().metrics(), openmetrics=openmetrics)


def _check(name: str, tag_keys: Sequence[str]) -> None:
    if isinstance(tag_keys, str) or not all(isinstance(key, str) for key in (name, *tag_keys)):
        raise TypeError(
            f"a metric has a name and a sequence of tag keys, not {name!r}, {tag_keys!r}"
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for a metric: use letters, digits, '_' and ':', "
            "and no digit at the beginning"
        )
    if name.startswith(_OWN):
        raise ValueError(f"the metric {name!r} cannot be: what begins with {_OWN!r} is Weft's own")
    for tag_key in tag_keys:
        if not _TAG_KEY.fullmatch(tag_key):
            raise ValueError(
                f"{tag_key!r} is no tag key for the metric {name!r}: use letters, digits and '_', "
                "and no digit or '__' at the beginning"
            )
    if len(set(tag_keys)) < len(tag_keys):
        raise ValueError(f"the metric {name!r} has a tag key twice: {tuple(tag_keys)}")


def _number(value: object) -> float:
    if isinstance(value, str | bytes | bytearray):
        raise TypeError(f"a metric takes numbers, not {value!r}")
    return float(value)  # type: ignore[arg-type]  # raises for what is none; arrays of one number are


def _plain(text: str) -> str:
    """Return a text as one that messages can hold: no subclass, and nothing that UTF-8 cannot."""
    return text.encode(errors="backslashreplace").decode()
