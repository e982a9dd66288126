"""Counters, gauges and histograms in the driver, in tasks and in actors."""

from __future__ import annotations

import copy
import math
import os
import pickle
from itertools import count
from typing import Any

import pytest
from prometheus_client import parser

import weft
from weft._metrics import registry
from weft.util.metrics import DEFAULT_BOUNDARIES, Counter, Gauge, Histogram, Metric, export

names = map("test_metric_{}".format, count())
"""A metric stays for as long as the process: each test has its own."""


@pytest.fixture
def name() -> str:
    return next(names)


def told(name: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return what is told of a metric: (what follows its name, values of its labels) -> value."""
    return {
        (sample.name.removeprefix(name), tuple(sample.labels.values())): sample.value
        for family in parser.text_string_to_metric_families(export())
        if family.name == name
        for sample in family.samples
    }


def refused(kind: type[BaseException], call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# ------------------------------------------------------------------ both engines


def test_driver_tasks_and_actors_count_together(engine: str, name: str) -> None:
    counter = Counter(name, tag_keys=("who",))

    @weft.remote
    def task() -> None:
        counter.inc(2, {"who": "task"})

    @weft.remote
    class Actor:
        def __init__(self) -> None:
            self.counter = Counter(name, tag_keys=("who",))

        def work(self) -> None:
            self.counter.inc(3, tags={"who": "actor"})
            counter.inc(tags={"who": "task"})

    counter.inc(0.5, {"who": "driver"})
    actors = [Actor.remote() for _ in range(2)]
    weft.get([task.remote() for _ in range(4)] + [actor.work.remote() for actor in actors])
    assert told(name) == {
        ("_total", ("driver",)): 0.5,
        ("_total", ("task",)): 10.0,
        ("_total", ("actor",)): 6.0,
    }


def test_histograms_count_together(engine: str, name: str) -> None:
    histogram = Histogram(name, boundaries=[1, 10])

    @weft.remote
    def task(number: float) -> None:
        histogram.observe(number)

    weft.get([task.remote(number) for number in (0, 1, 2, 10, 10.5)])
    histogram.observe(100)
    assert told(name) == {
        ("_bucket", ("1.0",)): 2.0,
        ("_bucket", ("10.0",)): 4.0,
        ("_bucket", ("+Inf",)): 6.0,
        ("_sum", ()): 123.5,
        ("_count", ()): 6.0,
    }


def test_gauge_is_what_was_set_last_by_anyone(engine: str, name: str) -> None:
    gauge = Gauge(name, tag_keys=("queue",))

    @weft.remote
    def task(value: float) -> None:
        gauge.set(value, {"queue": "shared"})

    gauge.set(1, {"queue": "mine"})
    for value in (5, 3, 4):
        weft.get(task.remote(value))
    assert told(name) == {("", ("mine",)): 1.0, ("", ("shared",)): 4.0}
    gauge.set(-math.inf, {"queue": "shared"})
    assert told(name)["", ("shared",)] == -math.inf


def test_metric_travels_as_an_argument_with_its_default_tags(engine: str, name: str) -> None:
    counter = Counter(name, tag_keys=("a", "b"))
    counter.set_default_tags({"a": "default"})

    @weft.remote
    def task(metrics: list[Counter]) -> dict[str, Any]:
        metrics[0].inc(1, {"b": "given"})
        return metrics[0].info

    assert weft.get(task.remote([counter])) == counter.info
    assert told(name) == {("_total", ("default", "given")): 1.0}


def test_worker_may_ask_for_all_metrics(engine: str, name: str) -> None:
    counter = Counter(name)
    counter.inc(4)

    @weft.remote
    def task() -> str:
        counter.inc()
        return export()

    assert f"{name}_total 5.0\n" in weft.get(task.remote())


def test_openmetrics_is_told_on_demand(engine: str, name: str) -> None:
    Counter(name).inc()
    text = export(openmetrics=True)
    assert f"# TYPE {name} counter\n{name}_total 1.0\n" in text
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize("value", ["ü", 'a "quote"', "two\nlines", "back\\slash", "\udc80file"])
def test_any_text_can_be_a_tag(engine: str, name: str, value: str) -> None:
    Counter(name, value, tag_keys=("x",)).inc(tags={"x": value})
    assert told(name) == {("_total", (value.encode(errors="backslashreplace").decode(),)): 1.0}


# ------------------------------------------------------------------ one process


@pytest.fixture(params=[Counter, Gauge, Histogram])
def kind(request: pytest.FixtureRequest) -> type[Metric]:
    made: type[Metric] = request.param
    return made


def value_of(name: str, *values: str) -> list[float]:
    """Return the numbers of this process."""
    (one,) = (one for one in registry.readings() if one.declaration.name == name)
    return one.numbers_of[values]


def test_info_says_what_it_is(name: str, kind: type[Metric]) -> None:
    metric = kind(name, "What it is.", tag_keys=["a", "b"])
    metric.set_default_tags({"a": "x"})
    histogram = {"boundaries": list(DEFAULT_BOUNDARIES)} if kind is Histogram else {}
    assert metric.info == {
        "name": name,
        "description": "What it is.",
        "tag_keys": ("a", "b"),
        "default_tags": {"a": "x"},
        **histogram,
    }


def test_parameters_have_rays_order(name: str) -> None:
    assert Histogram(name, "What.", [1, 2], ("a",)).info["boundaries"] == [1.0, 2.0]
    assert Counter(next(names), "What.", ("a",)).info["tag_keys"] == ("a",)
    assert Gauge(next(names), "What.", ("a",)).info["tag_keys"] == ("a",)


def test_default_tags_are_the_objects_own_and_give_way(name: str) -> None:
    first, second = (Counter(name, tag_keys=("a", "b")) for _ in range(2))
    first.set_default_tags({"a": "1", "b": "2"})
    first.inc()
    first.inc(tags={"b": "3"})
    second.inc()
    first.set_default_tags({"b": "4"})
    first.inc()
    first.inc(tags={"b": "3"})
    assert value_of(name, "1", "2") == value_of(name, "1", "3") == value_of(name, "", "") == [1.0]
    assert value_of(name, "", "4") == value_of(name, "", "3") == [1.0]


def test_order_of_tags_does_not_matter(name: str) -> None:
    counter = Counter(name, tag_keys=("a", "b"))
    counter.inc(tags={"a": "1", "b": "2"})
    counter.inc(tags={"b": "2", "a": "1"})
    assert value_of(name, "1", "2") == [2.0]


def test_boundary_belongs_to_the_bucket_below(name: str) -> None:
    histogram = Histogram(name, boundaries=(-1, 0, 1))
    for number in (-1, -0.5, 0, 1, 1.5):
        histogram.observe(number)
    assert value_of(name) == [1.0, 2.0, 1.0, 1.0, 1.0]


def test_numbers_of_any_kind_are_taken(name: str) -> None:
    class Number:
        def __float__(self) -> float:
            return 2.5

    counter, gauge, histogram = Counter(name), Gauge(next(names)), Histogram(next(names))
    for metric_call in (counter.inc, gauge.set, histogram.observe):
        for number in (1, True, 0, 2**80, Number()):
            metric_call(number)  # type: ignore[arg-type]  # it can be made a float
    assert value_of(name) == [2.0**80 + 4.5]
    counter.inc(0)


@pytest.mark.parametrize("value", [-1, -1e-9, math.nan, math.inf, -math.inf])
def test_counter_refuses_what_is_no_growth(name: str, value: float) -> None:
    assert name in refused(ValueError, Counter(name).inc, value)
    assert value_of(name) == [0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_histogram_refuses_what_falls_into_no_bucket(name: str, value: float) -> None:
    assert name in refused(ValueError, Histogram(name, boundaries=[1]).observe, value)
    assert value_of(name) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("value", ["1", b"1", None, [1.0]])
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    for metric_call in (Counter(name).inc, Gauge(next(names)).set, Histogram(next(names)).observe):
        refused(TypeError, metric_call, value)
    assert value_of(name) == [0.0]


def test_tags_that_were_not_declared_are_refused(name: str) -> None:
    counter = Counter(name, tag_keys=("a",))
    assert "'c'" in refused(ValueError, counter.inc, 1, {"a": "1", "c": "2"})
    assert "'c'" in refused(ValueError, counter.set_default_tags, {"c": "2"})
    for value in (1, None, ["x"], b"x"):
        assert "'a'" in refused(TypeError, counter.inc, 1, {"a": value})
        assert "'a'" in refused(TypeError, counter.set_default_tags, {"a": value})
    counter.inc()
    assert value_of(name, "") == [1.0]


@pytest.mark.parametrize("bad", ["", "1a", "a b", "a-b", "ä", "weft_mine"])
def test_names_that_prometheus_would_not_take_are_refused(kind: type[Metric], bad: str) -> None:
    assert repr(bad) in refused(ValueError, kind, bad)


@pytest.mark.parametrize("bad", ["", "1a", "a b", "a:b", "ä", "__a"])
def test_tag_keys_that_prometheus_would_not_take_are_refused(
    kind: type[Metric], name: str, bad: str
) -> None:
    assert repr(bad) in refused(ValueError, kind, name, tag_keys=("ok", bad))


def test_other_mistakes_in_a_declaration_are_refused(name: str, kind: type[Metric]) -> None:
    refused(ValueError, kind, name, tag_keys=("a", "a"))
    refused(TypeError, kind, name, tag_keys="ab")
    refused(TypeError, kind, name, tag_keys=(1,))
    refused(TypeError, kind, 1)
    refused(TypeError, Metric, name)
    refused(ValueError, Histogram, name, tag_keys=("le",))
    kind(name)


@pytest.mark.parametrize("bad", [[], [1, 1], [2, 1], [1, math.inf], [math.nan]])
def test_boundaries_that_make_no_buckets_are_refused(name: str, bad: list[float]) -> None:
    refused(ValueError, Histogram, name, boundaries=bad)


def test_same_declaration_is_the_same_metric(name: str, kind: type[Metric]) -> None:
    first = kind(name, tag_keys=("a",))
    kind(name, "Described later.", tag_keys=("a",))
    other = Gauge if kind is Counter else Counter
    for declare, options in [(kind, {}), (other, {"tag_keys": ("a",)})]:
        assert name in refused(ValueError, declare, name, **options)
    assert first.info["tag_keys"] == ("a",)


def test_copies_count_with_the_original(name: str) -> None:
    class Subclass(Counter):
        def __init__(self) -> None:
            super().__init__(name, tag_keys=("a",))
            self.extra = "kept"

    counter = Subclass()
    counter.set_default_tags({"a": "x"})
    copied = copy.copy(counter)
    copied.inc()
    counter.inc()
    assert copied.extra == "kept"
    assert value_of(name, "x") == [2.0]


def test_metric_of_another_declaration_is_refused_when_it_arrives(name: str) -> None:
    other = f"b{name[1:]}"
    sent = pickle.dumps(Gauge(name)).replace(name.encode(), other.encode())
    Counter(other)
    assert other in refused(ValueError, pickle.loads, sent)


def test_forked_child_begins_at_zero(name: str) -> None:
    counter = Counter(name)
    counter.inc(5)
    ends, told_to = os.pipe()
    pid = os.fork()
    if not pid:
        counter.inc()
        os.write(told_to, str(value_of(name)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(told_to)
    assert os.read(ends, 100) == b"[1.0]"
    os.close(ends)
    assert value_of(name) == [5.0]
