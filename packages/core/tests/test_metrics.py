"""A process's numbers, those of several, and the text, which Prometheus's own parsers read."""

from __future__ import annotations

import gc
import math
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from weft._metrics import (
    Declaration,
    Declarations,
    Key,
    Numbers,
    Readings,
    Registry,
    Totals,
    exposition,
    measured,
    of_nodes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

COUNTER = Declaration("counter", "rows", "Rows.", ("kind",))
GAUGE = Declaration("gauge", "depth", "Depth.", ("kind",))
SIZES = Declaration("histogram", "sizes", "Sizes.", (), (1.0, 10.0))
AMOUNT = Declaration("amount", "weft_things", "Things.", ("state",))


def read(text: str, *, openmetrics: bool = False) -> tuple[Samples, dict[str, tuple[str, str]]]:
    """Return what Prometheus's parser finds: samples, and (type, help) by family."""
    parse: Any = (openmetrics_parser if openmetrics else parser).text_string_to_metric_families
    samples: Samples = {}
    families = {}
    for family in parse(text):
        families[family.name] = (family.type, family.documentation)
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in samples
            samples[key] = sample.value
    return samples, families


def count(registry: Registry, amount: float, *key: str) -> None:
    counts = registry.here.counts
    counts[key] = counts.get(key, 0.0) + amount


def numbers_of(readings: list[Readings]) -> dict[str, dict[Key, Numbers]]:
    return {one.declaration.name: one.numbers_of for one in readings}


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    for declaration in (COUNTER, GAUGE, SIZES):
        registry.declare(declaration)
    return registry


# ------------------------------------------------------------------ a process


def in_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_what_threads_count_is_added_up_and_stays_when_they_have_ended(registry: Registry) -> None:
    count(registry, 1.0, "rows", "a")
    for _ in range(5):
        in_thread(lambda: count(registry, 2.0, "rows", "a"))
        in_thread(lambda: count(registry, 1.0, "rows", "b"))
        assert numbers_of(registry.readings())["rows"].keys() == {("a",), ("b",)}
    assert numbers_of(registry.readings())["rows"] == {("a",): [11.0], ("b",): [5.0]}


def test_histograms_of_threads_are_added_bucket_by_bucket(registry: Registry) -> None:
    def observe() -> None:
        registry.here.histograms[("sizes",)] = [1.0, 2.0, 3.0, 40.0]

    observe()
    in_thread(observe)
    in_thread(observe)
    for _ in range(2):  # a reading changes nothing
        assert numbers_of(registry.readings())["sizes"] == {(): [3.0, 6.0, 9.0, 120.0]}
    assert registry.here.histograms[("sizes",)] == [1.0, 2.0, 3.0, 40.0]


def test_threads_that_ended_leave_only_their_numbers_though_nobody_reads(
    registry: Registry,
) -> None:
    for _ in range(50):
        in_thread(lambda: count(registry, 1.0, "rows", "a"))
    assert len(registry._shards) <= 2
    assert numbers_of(registry.readings())["rows"] == {("a",): [50.0]}


def test_readings_beside_threads_that_count_never_go_back_and_end_exact(
    registry: Registry,
) -> None:
    def work() -> None:
        for _ in range(2000):
            count(registry, 1.0, "rows", "a")

    def work_in_short_threads() -> None:
        for _ in range(100):
            in_thread(lambda: count(registry, 1.0, "rows", "a"))

    threads = [threading.Thread(target=work) for _ in range(3)]
    threads.append(threading.Thread(target=work_in_short_threads))
    for thread in threads:
        thread.start()
    seen = 0.0
    while any(thread.is_alive() for thread in threads):
        (now,) = numbers_of(registry.readings())["rows"].get(("a",), [0.0])
        assert now >= seen
        seen = now
    assert numbers_of(registry.readings())["rows"] == {("a",): [6100.0]}


def test_a_destructor_may_count_while_the_numbers_are_read(registry: Registry) -> None:
    """Also in a thread that has counted nothing, so that its shard is made then."""

    class Counting:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            count(registry, 1.0, "rows", "late")

    class CollectingDict(dict[Key, Numbers]):
        def copy(self) -> CollectingDict:
            Counting()
            gc.collect(0)
            return self

    registry.gauges = CollectingDict()
    in_thread(registry.readings)
    assert numbers_of(registry.readings())["rows"][("late",)] >= [1.0]


def test_a_thread_that_ends_while_the_numbers_are_read_is_counted_once(registry: Registry) -> None:
    go = threading.Event()
    has_counted = threading.Event()

    def work() -> None:
        count(registry, 5.0, "rows", "a")
        has_counted.set()
        go.wait()

    thread = threading.Thread(target=work)
    thread.start()
    has_counted.wait()

    class SlowDict(dict[Key, Numbers]):
        def copy(self) -> dict[Key, Numbers]:
            copied = dict(self)
            if not go.is_set():
                go.set()
                thread.join()
                count(registry, 1.0, "rows", "b")  # as a destructor may: here a shard is made
            return copied

    found: list[list[Readings]] = []
    registry._kept = SlowDict()
    in_thread(lambda: found.append(registry.readings()))
    assert numbers_of(found[0])["rows"][("a",)] == [5.0]
    assert numbers_of(registry.readings())["rows"] == {("a",): [5.0], ("b",): [1.0]}


def test_a_forked_child_begins_at_zero_with_the_same_declarations(registry: Registry) -> None:
    count(registry, 7.0, "rows", "a")
    registry.begin()  # as the child does: see the test of the hook in util
    assert numbers_of(registry.readings()) == {
        "rows": {}, "depth": {}, "sizes": {(): [0.0, 0.0, 0.0, 0.0]},
    }  # fmt: skip
    count(registry, 1.0, "rows", "a")
    assert numbers_of(registry.readings())["rows"] == {("a",): [1.0]}


def test_without_tags_a_counter_and_a_histogram_are_told_from_the_beginning() -> None:
    registry = Registry()
    registry.declare(Declaration("counter", "plain"))
    registry.declare(Declaration("gauge", "level"))
    registry.declare(SIZES)
    assert numbers_of(registry.readings()) == {
        "plain": {(): [0.0]}, "level": {}, "sizes": {(): [0.0, 0.0, 0.0, 0.0]},
    }  # fmt: skip


# ------------------------------------------------------------------ declarations


@pytest.mark.parametrize(
    "other",
    [
        Declaration("gauge", "rows", "Rows.", ("kind",)),
        Declaration("counter", "rows", "Rows.", ("kind", "more")),
        Declaration("counter", "rows_total", "Rows.", ("kind",)),
        Declaration("gauge", "rows_total"),
        Declaration("histogram", "rows", boundaries=(1.0,)),
        Declaration("histogram", "sizes", boundaries=(1.0, 11.0)),
        Declaration("gauge", "sizes_count"),
        Declaration("counter", "sizes_sum"),
        Declaration("gauge", "sizes_bucket"),
    ],
    ids=lambda declaration: f"{declaration.kind} {declaration.name}",
)
def test_a_name_that_stands_for_something_else_is_refused(other: Declaration) -> None:
    declarations = Declarations()
    declarations.add(COUNTER)
    declarations.add(SIZES)
    with pytest.raises(ValueError, match=other.name):
        declarations.add(other)
    assert declarations.all() == [COUNTER, SIZES]


def test_the_first_description_holds() -> None:
    declarations = Declarations()
    declarations.add(COUNTER)
    again = msgspec.structs.replace(COUNTER, description="Lines.")
    assert declarations.add(again) == COUNTER
    assert declarations.all() == [COUNTER]


# ------------------------------------------------------------------ several processes


class Node:
    """Totals, and what they complained of."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.totals = Totals(self.said.append)

    def put(self, source: str, declaration: Declaration, **numbers: Numbers) -> None:
        self.totals.put(source, [Readings(declaration, {(k,): v for k, v in numbers.items()})])

    def now(self) -> dict[Key, Numbers]:
        (one,) = self.totals.readings()
        return one.numbers_of


@pytest.fixture
def node() -> Node:
    return Node()


def test_counters_of_processes_are_added_and_kept(node: Node) -> None:
    node.put("first", COUNTER, a=[1.0])
    node.put("second", COUNTER, a=[2.0], b=[5.0])
    node.put("first", COUNTER, a=[4.0])
    assert node.now() == {("a",): [6.0], ("b",): [5.0]}
    node.totals.end("second")
    node.totals.end("second")
    node.totals.end("never there")
    assert node.now() == {("a",): [6.0], ("b",): [5.0]}
    node.put("third", COUNTER, b=[1.0])
    node.totals.end("first")
    assert node.now() == {("a",): [6.0], ("b",): [6.0]}


def test_histograms_of_processes_are_added_and_kept(node: Node) -> None:
    for source in ("first", "second"):
        node.totals.put(source, [Readings(SIZES, {(): [1.0, 0.0, 2.0, 30.5]})])
    node.totals.end("first")
    assert node.now() == {(): [2.0, 0.0, 4.0, 61.0]}


def test_the_gauge_that_was_set_last_is_told_of_those_that_live(node: Node) -> None:
    node.put("first", GAUGE, a=[1.0, 100.0], b=[3.0, 90.0])
    node.put("second", GAUGE, a=[2.0, 101.0])
    assert {key: numbers[0] for key, numbers in node.now().items()} == {("a",): 2.0, ("b",): 3.0}
    node.totals.end("second")
    assert {key: numbers[0] for key, numbers in node.now().items()} == {("a",): 1.0, ("b",): 3.0}
    node.totals.end("first")
    assert node.now() == {}


def test_amounts_are_added_and_go_with_their_process(node: Node) -> None:
    node.put("first", AMOUNT, ready=[3.0])
    node.put("second", AMOUNT, ready=[2.0])
    assert node.now() == {("ready",): [5.0]}
    node.totals.end("first")
    assert node.now() == {("ready",): [2.0]}


def test_what_is_declared_otherwise_is_left_out_and_told_once(node: Node) -> None:
    other = Declaration("gauge", "rows")
    node.put("first", COUNTER, a=[1.0])
    for source in ("second", "third", "second"):
        node.totals.put(source, [Readings(other, {(): [7.0, 1.0]}), Readings(SIZES, {})])
    assert numbers_of(node.totals.readings()) == {"rows": {("a",): [1.0]}, "sizes": {}}
    assert len(node.said) == 1
    assert "'rows'" in node.said[0]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "end"]), st.integers(0, 5)),
        max_size=30,
    )
)
def test_a_total_never_goes_back_and_loses_nothing(steps: list[tuple[str, str, int]]) -> None:
    """Whatever processes come, count and go."""
    node = Node()
    lives: dict[str, int] = {}
    counted: dict[tuple[str, int], int] = {}
    node.put("none", COUNTER)
    before = 0.0
    for process, what, amount in steps:
        life = process, lives.setdefault(process, 0)
        if what == "put":
            counted[life] = counted.get(life, 0) + amount
            node.put(str(life), COUNTER, a=[float(counted[life])])
        else:
            node.totals.end(str(life))
            lives[process] += 1
        (now,) = node.now().get(("a",), [0.0])
        assert now == sum(counted.values())
        assert now >= before
        before = now


# ------------------------------------------------------------------ the text

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x85\u2028\u2029"))
VALUES = st.floats(allow_nan=False)
COUNTS = st.integers(0, 2**50).map(float)


@st.composite
def some_readings(draw: st.DrawFn) -> Readings:
    tag_keys = tuple(draw(st.lists(NAMES.filter(lambda k: k != "le"), unique=True, max_size=3)))
    kind = draw(st.sampled_from(["counter", "gauge", "histogram", "amount"]))
    boundaries: tuple[float, ...] = ()
    if kind == "histogram":
        finite = st.floats(allow_nan=False, allow_infinity=False)
        boundaries = tuple(sorted(draw(st.sets(finite.map(lambda x: x + 0.0), min_size=1))))
        numbers = st.lists(COUNTS, min_size=len(boundaries) + 1, max_size=len(boundaries) + 1).map(
            lambda counts: [*counts, 1.5]
        )
    else:
        numbers = st.tuples(COUNTS if kind == "counter" else VALUES).map(list)
    key = st.tuples(*(TEXTS for _ in tag_keys))
    return Readings(
        Declaration(kind, draw(NAMES), draw(TEXTS), tag_keys, boundaries),
        draw(st.dictionaries(key, numbers, max_size=3)),
    )


def expected(one: Readings, *, openmetrics: bool) -> Samples:
    what = one.declaration
    found: Samples = {}
    for key, numbers in one.numbers_of.items():
        labels = {tag: v for tag, v in zip(what.tag_keys, key, strict=True) if v}

        def put(name: str, value: float, labels: dict[str, str] = labels, **le: str) -> None:
            found[name, frozenset({**labels, **le}.items())] = value

        if what.kind != "histogram":
            put(f"{what.name}_total" if what.kind == "counter" else what.name, numbers[0])
            continue
        *buckets, total = numbers
        for index, end in enumerate([*map(repr, what.boundaries), "+Inf"]):
            put(f"{what.name}_bucket", sum(buckets[: index + 1]), le=end)
        if not openmetrics or what.boundaries[0] >= 0:
            put(f"{what.name}_count", sum(buckets))
            put(f"{what.name}_sum", total)
    return found


@pytest.mark.parametrize("openmetrics", [False, True])
@given(one=some_readings())
def test_parsers_read_what_was_written(one: Readings, openmetrics: bool) -> None:
    text = exposition([one], openmetrics=openmetrics)
    samples, families = read(text, openmetrics=openmetrics)
    assert samples == expected(one, openmetrics=openmetrics)
    what = one.declaration
    if samples or openmetrics:  # the other parser finds no family without samples
        ((name, (kind, _)),) = families.items()
        assert name == what.name
        assert kind == ("gauge" if what.kind == "amount" else what.kind)


@pytest.mark.parametrize("openmetrics", [False, True])
def test_help_keeps_lines_quotes_and_backslashes(openmetrics: bool) -> None:
    words = 'two\nlines, a "quote" and \\n'
    one = measured("gauge", "level", words, (), {(): 1.0})
    _, families = read(exposition([one], openmetrics=openmetrics), openmetrics=openmetrics)
    assert families == {"level": ("gauge", words)}


@pytest.mark.parametrize("openmetrics", [False, True])
def test_all_kinds_together_are_one_page(openmetrics: bool) -> None:
    readings = [
        Readings(SIZES, {(): [1.0, 0.0, 2.0, 30.5]}),
        measured("counter", "b_total", "B.", ("x",), {("1",): 2, ("2",): 3}),
        measured("gauge", "a", "", (), {(): math.inf}),
        measured("gauge", "c", "C.", (), {(): math.nan}),
    ]
    text = exposition(readings, openmetrics=openmetrics)
    samples, families = read(text, openmetrics=openmetrics)
    assert families == {
        "a": ("gauge", ""), "b": ("counter", "B."), "c": ("gauge", "C."),
        "sizes": ("histogram", "Sizes."),
    }  # fmt: skip
    assert samples["a", frozenset()] == math.inf
    assert math.isnan(samples["c", frozenset()])
    assert samples["b_total", frozenset({("x", "2")})] == 3.0
    assert samples["sizes_bucket", frozenset({("le", "10.0")})] == 1.0
    assert samples["sizes_bucket", frozenset({("le", "+Inf")})] == 3.0
    assert samples["sizes_sum", frozenset()] == 30.5
    assert text.endswith("# EOF\n") == openmetrics


def test_the_order_of_the_page_does_not_depend_on_the_order_of_readings() -> None:
    readings = [measured("counter", f"m{i}", "", ("x",), {("2",): 2, ("1",): 1}) for i in range(3)]
    turned = [
        Readings(one.declaration, dict(reversed(one.numbers_of.items())))
        for one in reversed(readings)
    ]
    assert exposition(readings, openmetrics=False) == exposition(turned, openmetrics=False)


def test_readings_travel() -> None:
    sent = [Readings(SIZES, {(): [1.0, 0.0, 2.0, 30.5]}), Readings(GAUGE, {("a",): [1.0, 2.0]})]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=list[Readings]) == sent


# ------------------------------------------------------------------ over nodes


def test_numbers_of_nodes_stand_beside_each_other_with_who_answers() -> None:
    rows = Readings(Declaration("counter", "rows", "", ("table",)), {("users",): [3.0]})
    text = exposition(of_nodes({"a:1": [rows], "b:2": [rows], "c:3": None}), openmetrics=False)
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        'rows_total{node="a:1",table="users"} 3.0',
        'rows_total{node="b:2",table="users"} 3.0',
        'weft_node_up{node="a:1"} 1.0',
        'weft_node_up{node="b:2"} 1.0',
        'weft_node_up{node="c:3"} 0.0',
    ]


def test_tag_of_a_program_that_is_called_node_stays_beside_the_nodes() -> None:
    rows = Readings(Declaration("gauge", "rows", "", ("node",)), {("leaf",): [3.0, 1.0]})
    text = exposition(of_nodes({"a:1": [rows]}), openmetrics=False)
    assert 'rows{node="a:1",exported_node="leaf"} 3.0\n' in text
