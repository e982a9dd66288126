"""How Weft slows down with the number of nodes.

    ./dev bench scale [--nodes 1 100 1000] [--seconds 1] [--json FILE] [--write]

Ray has nothing that could be asked the same way. The tables, from the smallest part to the largest:

Decisions: the machines alone, in this process. They decide without doing: no process, no message.

Tables: what a control service and an owner of tasks keep, with ten actors, a placement group and a
thousand tasks for each node (`_scale_tables.py`, a process of its own for each size).

The control service as a process, with nodes that are lines and streams (`_scale_process.py`): over
unix sockets, and over TLS through the port of a head.

A whole cluster on a virtual clock (`weft.testing.simulate`), with a daemon for each node, the
control service, messages that take their time, and views that are late: ten programs ask for ten
tasks a node, all at once, while nearly two thirds of the CPUs stay free.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _machine import machine, today, versions
from _report import figure, fill_in, wrapped

from weft._ids import NodeId, PlacementGroupId
from weft._machines.bundle_plans import BundleSpec, Strategy
from weft._machines.bundles import (
    Bundles,
    BundlesCommitted,
    BundlesReserved,
    CommitBundles,
    GroupCreated,
    GroupRemoved,
    NodesSeen,
    ReserveBundles,
)
from weft._machines.nodes import Nodes
from weft._machines.placement import NodeView, place
from weft._machines.spillover import DemandHeard, Spillover, ViewsChanged
from weft._resources import Resources
from weft._specs import Shape
from weft.testing import simulate
from weft.testing._simulation.controls import VirtualControl, VirtualJournal
from weft.testing._simulation.daemons import VirtualDaemon
from weft.testing._simulation.plans import NodePlan, TaskPlan, node_id
from weft.testing._simulation.promises import SimulationTally
from weft.testing._simulation.runtimes import VirtualDriver
from weft.testing._simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from weft._machines.bundles import BundleEvent

NODES = (1, 8, 20, 100, 300, 1_000)
FOLDER = Path(__file__).parent
CPUS = 64
TOTAL = Resources({"CPU": CPUS, "GPU": 8, "memory": 256e9})
ZONES = 8
# A rate is that of the best of so many parts of the time: other programs only make it less.
PARTS = 5
SEEDS = 200
"""For each second that a number is given."""
LEAST_S = 0.6
"""Of nodes' lives: there is a heartbeat."""


def shape(strategy: str = "DEFAULT", **amounts: float) -> Shape:
    """Return what a demand asks."""
    return Shape(tuple(sorted(Resources(amounts).items())), strategy)


def views(nodes: int, free: Resources = TOTAL) -> list[NodeView]:
    """Return nodes that are alike but for a label."""
    return [
        NodeView(
            NodeId(number.to_bytes(16, "big")),
            TOTAL,
            free,
            {"zone": str(number % ZONES)},
            is_local=number == 1,
        )
        for number in range(1, nodes + 1)
    ]


def taking(nodes: Nodes, *wanted: Shape, kept: int) -> Callable[[], None]:
    """Place one after the other; so many run at a time, and the oldest ends."""
    needs = [Resources.of_units(dict(each.amounts)) for each in wanted]
    running: deque[tuple[NodeId, Resources]] = deque()
    turn = 0

    def once() -> None:
        nonlocal turn
        turn = (turn + 1) % len(wanted)
        found = nodes.find(wanted[turn])
        assert found is not None
        nodes.take(found.node_id, needs[turn])
        running.append((found.node_id, needs[turn]))
        if len(running) > kept:
            nodes.give(*running.popleft())

    return once


def default(nodes: int) -> Callable[[], None]:
    """Demands of one shape, at half load."""
    return taking(Nodes(views(nodes)), shape(CPU=1), kept=nodes * CPUS // 2)


def spread(nodes: int) -> Callable[[], None]:
    """The same with SPREAD."""
    return taking(Nodes(views(nodes)), shape("SPREAD", CPU=1), kept=nodes * CPUS // 2)


def mixed(nodes: int) -> Callable[[], None]:
    """Demands of 16 shapes in turn."""
    wanted = [shape(CPU=1 + number % 4, GPU=number // 4) for number in range(16)]
    return taking(Nodes(views(nodes)), *wanted, kept=nodes)


def labels(nodes: int) -> Callable[[], None]:
    """Demands for one zone of eight."""
    wanted = Shape((("CPU", 10_000),), labels=(("zone", "1"),))
    return taking(Nodes(views(nodes)), wanted, kept=nodes * CPUS // 2 // ZONES)


def full(nodes: int) -> Callable[[], None]:
    """Demands for which no node has room."""
    known = Nodes(views(nodes, Resources()))
    wanted = shape(CPU=1)

    def once() -> None:
        assert known.find(wanted) is None

    return once


def plain(nodes: int) -> Callable[[], None]:
    """The same decision without an index: the rule itself over all nodes."""
    known, wanted = views(nodes), shape(CPU=1)

    def once() -> None:
        place(wanted, known)

    return once


def after_news(nodes: int) -> Callable[[], None]:
    """A decision after all nodes have said that they have changed; counted per node."""
    known, wanted = Nodes(views(nodes)), shape(CPU=1)
    said = [views(nodes), views(nodes, Resources({"CPU": 1}))]
    turn = 0

    def once() -> None:
        nonlocal turn
        turn = 1 - turn
        for view in said[turn]:
            known.put(view)
        known.find(wanted)

    return once


def spilled(nodes: int) -> Callable[[], None]:
    """A daemon that is full: each demand is heard, sent on, and its answer made."""
    local, *others = views(nodes)
    spillover = Spillover(NodeView(local.node_id, TOTAL, Resources()))
    spillover.handle(ViewsChanged(tuple(others)), 0.0)
    wanted = shape(CPU=1)
    now = 0.0

    def once() -> None:
        nonlocal now
        now += 0.01  # what was sent to a node counts there for a while
        effects = spillover.handle(DemandHeard(b"client", 1, wanted, 1), now)
        assert effects

    return once


def groups(nodes: int, strategy: Strategy, bundles: int) -> Callable[[], None]:
    """A placement group is created, reserved and committed by its nodes, and removed."""
    control = Bundles()
    said = tuple((1, view) for view in views(nodes))
    control.handle(NodesSeen(said), 0.0)
    specs = tuple(BundleSpec(Resources({"CPU": 1})) for _ in range(bundles))
    number = 0

    def once() -> None:
        nonlocal number
        number += 1
        group = PlacementGroupId(number.to_bytes(16, "big"))
        todo: deque[BundleEvent] = deque([GroupCreated(group, specs, strategy)])
        while todo:
            for effect in control.handle(todo.popleft(), 0.0):
                match effect:
                    case ReserveBundles(node_id, incarnation, _, attempt, commits=True):
                        todo.append(BundlesCommitted(node_id, incarnation, group, attempt))
                    case ReserveBundles(node_id, incarnation, _, attempt):
                        todo.append(BundlesReserved(node_id, incarnation, group, attempt))
                    case CommitBundles(node_id, incarnation, _, attempt):
                        todo.append(BundlesCommitted(node_id, incarnation, group, attempt))
        facts = control.facts(group)
        assert facts is not None
        assert facts.state == "ready"
        control.handle(GroupRemoved(group, "done"), 0.0)

    return once


def crowd(nodes: int) -> dict[str, float]:
    """Ten programs on ten nodes want ten workers a node at the same moment."""
    world = World(nodes, most_steps=100_000_000, keeps_story=False)
    tally = world.tally = SimulationTally(world)
    control = VirtualControl(world, VirtualJournal(), silence_s=5.0)
    daemons: list[VirtualDaemon] = []

    def start(number: int) -> None:
        daemons.append(VirtualDaemon(world, NodePlan(16), node_id(number), f"n{number}"))

    for number in range(nodes):
        world.later(world.random.random(), lambda number=number: start(number))  # type: ignore[misc]  # bound as it is
    began = time.process_time()
    world.run(4.0, lambda: False)
    joined_s = time.process_time() - began
    assert len(control.membership.all()) == nodes
    programs = [
        VirtualDriver(
            world, daemons[number % nodes], b"driver %09d" % number, f"d{number}", "driver"
        )
        for number in range(10)
    ]
    wanted = 10 * nodes
    for driver in programs:
        for number in range(wanted // len(programs)):
            driver.step(
                lambda d=driver, n=number: d.submit(TaskPlan(f"t{n}", b"f", 60.0), _nothing, {})
            )  # type: ignore[misc]  # bound as they are
    asked_at = world.now
    began = time.process_time()
    world.run(asked_at + 60.0, lambda: tally.runs >= wanted)
    assert tally.runs >= wanted, tally.runs
    return {
        "all nodes join, processor s": joined_s,
        "ten tasks a node have begun, virtual s": world.now - asked_at,
        "the same, processor s": time.process_time() - began,
    }


def schedules(seconds: float) -> float:
    """Return how many schedules with up to four faults are simulated in a minute of a core."""
    seeds = max(1, round(SEEDS * seconds))
    began = time.process_time()
    for seed in range(seeds):
        simulate(seed, faults=4)
    return seeds / (time.process_time() - began) * 60


def _nothing() -> None:
    pass


ROWS: Mapping[str, tuple[int, Callable[[int], Callable[[], None]]]] = {
    "one shape, half load": (1, default),
    "SPREAD": (1, spread),
    "16 shapes in turn": (1, mixed),
    "one label of eight": (8, labels),
    "no node has room": (1, full),
    "without an index": (1, plain),
    "after news of all nodes": (1, after_news),
    "demands sent on by a full daemon": (8, spilled),
    "placement groups, PACK of 2": (1, lambda nodes: groups(nodes, "PACK", 2)),
    "placement groups, STRICT_SPREAD of 8": (8, lambda nodes: groups(nodes, "STRICT_SPREAD", 8)),
}
"""With the least number of nodes that it takes."""


def rate(once: Callable[[], None], seconds: float) -> float:
    """Return how often it is done in a second."""
    best = 0.0
    for _ in range(PARTS):
        done, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds / PARTS:
            once()
            done += 1
        best = max(best, done / passed)
    return best


def child(program: str, *arguments: object) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, str(FOLDER / program), *map(str, arguments)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(told)
    return found


Table = dict[str, dict[int, float]]
"""A number for each row and each number of nodes; what cannot be is not there."""


def turned(columns: Mapping[int, Mapping[str, float]]) -> Table:
    """Return the rows of a table of which the columns are known."""
    rows: Table = {}
    for nodes, column in columns.items():
        for what, value in column.items():
            rows.setdefault(what, {})[nodes] = value
    return rows


def measured(sizes: Sequence[int], seconds: float) -> dict[str, Table]:
    """Return all tables."""
    return {
        "decisions, per s": {
            what: {nodes: rate(make(nodes), seconds) for nodes in sizes if nodes >= least}
            for what, (least, make) in ROWS.items()
        },
        "tables of a control service, and an owner's tasks": turned(
            {nodes: child("_scale_tables.py", nodes) for nodes in sizes}
        ),
        "the control service as a process": turned(
            {nodes: child("_scale_process.py", nodes, max(LEAST_S, 5 * seconds)) for nodes in sizes}
        ),
        "the same over TLS": turned(
            {
                nodes: child("_scale_process.py", nodes, max(LEAST_S, 5 * seconds), "tls")
                for nodes in sizes
            }
        ),
        "a cluster on a virtual clock": turned({nodes: crowd(nodes) for nodes in sizes}),
    }


def cells(sizes: Sequence[int], row: Mapping[int, float]) -> list[str]:
    return [figure(row[nodes]) if nodes in row else "-" for nodes in sizes]


def text(tables: Mapping[str, Table], sizes: Sequence[int]) -> str:
    """Return the tables for a terminal."""
    width = max(len(what) for rows in tables.values() for what in [*rows, *tables])
    lines = []
    for title, rows in tables.items():
        heads = [f"{nodes:,}" for nodes in sizes]
        for what, shown in [(title, heads), *((w, cells(sizes, row)) for w, row in rows.items())]:
            lines.append(what.ljust(width) + "".join(each.rjust(12) for each in shown))
        lines.append("")
    return "\n".join(lines)


def markdown(results: Mapping[str, Any], sizes: Sequence[int]) -> str:
    """Return all that was found, for RESULTS.md."""
    about = results["machine"]
    names = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    paragraphs = [
        wrapped(
            f"{results['date']}, {about['cpu']}, {about['cores']} cores, "
            f"{about['memory_gib']} GiB, Linux {about['kernel']}, {names}. "
            f"Load at the start: {about['load_at_start']:g}. "
            f"Schedules with faults that are simulated in a minute of a core: "
            f"{results['schedules']:,.0f}."
        )
    ]
    for title, rows in results["tables"].items():
        lines = [[title, *(f"{nodes:,} nodes" for nodes in sizes)], ["---", *["---:"] * len(sizes)]]
        lines += [[what, *cells(sizes, row)] for what, row in rows.items()]
        paragraphs.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(paragraphs)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description="Measure decisions over many nodes.")
    parser.add_argument("--nodes", nargs="+", type=int, default=NODES)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each number")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--write", action="store_true", help="fill RESULTS.md")
    given = parser.parse_args()
    about = {"date": today(), "machine": machine(), "versions": versions("weft-core")}
    tables = measured(given.nodes, given.seconds)
    results = {**about, "tables": tables, "schedules": schedules(given.seconds)}
    print(text(tables, given.nodes))
    print(f"simulated schedules with faults, per minute of a core: {results['schedules']:,.0f}")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(results, indent=2) + "\n")
    if given.write:
        fill_in(FOLDER / "RESULTS.md", "scale", markdown(results, given.nodes))


if __name__ == "__main__":
    main()
