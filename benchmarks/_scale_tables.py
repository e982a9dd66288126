"""What a control service and an owner of tasks keep and decide in a cluster of a size.

    python _scale_tables.py NODES        prints the numbers as JSON

In a process of its own, so that its memory is that of one size. A node has ten actors, one
placement group of two bundles, and a thousand tasks that wait: with 1,000 nodes 10,000 actors and a
million tasks. It is told what gRPC would tell it; nothing is sent.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft._ids import NodeId, PlacementGroupId, TaskId, WorkerId
from weft._machines import tasks as task_rules
from weft._machines.attempts import Answered
from weft._machines.bundle_plans import BundleSpec
from weft._machines.bundles import (
    BundlesCommitted,
    BundlesReserved,
    CommitBundles,
    GroupCreated,
    GroupRemoved,
    ReserveBundles,
)
from weft._machines.directory import ActorDirectory
from weft._machines.enrolments import EnrolActor, FinishActor, PlaceActor, StartActor
from weft._machines.groups import Groups
from weft._machines.jobs import Jobs
from weft._machines.keyvalues import KeyValues
from weft._machines.ledger import Ledger, LedgerEntry
from weft._machines.members import Buried, HeartbeatHeard, RegisterAsked
from weft._machines.membership import Membership, NodeSaid
from weft._machines.orders import OrderGiven, Orders, TakeOrders
from weft._machines.placement import NodeView
from weft._machines.tables import ServiceBegun
from weft._machines.tasks import Task, Tasks
from weft._resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable

ACTORS, GROUPS, TASKS, WORKERS = 10, 1, 1_000, 16
"""A node."""
TOTAL = Resources({"CPU": 64, "GPU": 8, "memory": 256e9})
LESS = Resources({"CPU": 63, "GPU": 8, "memory": 256e9})
CREATION = b"x" * 600
"""What a small actor's creator sends."""
TASK_S = 0.05
WARM, AGAIN = 24_000, 12_000
"""Actors that come and go before it is measured whether that leaves anything, and meanwhile: of the
dead 10,000 are remembered."""


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def resident() -> int:
    """Return the bytes of memory that this process has."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


class Control:
    """The tables of a control service."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.orders = Orders()
        self.groups = Groups()
        self.ledger = Ledger(
            [Membership(5.0), self.orders, ActorDirectory(), Jobs(), self.groups, KeyValues()]
        )
        self.incarnations: list[int] = []
        self.now = 0.0
        self.waiting: dict[bytes, int] = {}
        self.ledger.note(ServiceBegun(1), 0.0)

    def do(self, command: Any) -> Any:
        applied = self.ledger.apply(LedgerEntry(self.now, command))
        assert not applied.answer.code, applied.answer
        self.hear(applied.events)
        return applied.answer.value

    def note(self, happened: Any) -> None:
        noted = self.ledger.note(happened, self.now)
        assert not noted.commands
        self.hear(noted.events)

    def hear(self, events: Any) -> None:
        for event in events:
            match event:
                case ReserveBundles(node, incarnation, group, attempt):
                    self.note(BundlesReserved(node, incarnation, group, attempt))
                case CommitBundles(node, incarnation, group, attempt):
                    self.note(BundlesCommitted(node, incarnation, group, attempt))
                case OrderGiven(node):
                    self.waiting[node] = self.waiting.get(node, 0) + 1

    def register(self) -> None:
        for number in range(self.nodes):
            asked = RegisterAsked(
                NodeId(name(number)), name(number), f"10.0.{number // 250}.{number % 250}:7700/node"
            )
            self.incarnations.append(int(self.do(asked)))

    def beat(self, free: Resources) -> None:
        """Have all nodes say that they live, and that something has changed."""
        self.now += 0.5
        for number, incarnation in enumerate(self.incarnations):
            node = NodeId(name(number))
            self.note(HeartbeatHeard(node, incarnation))
            self.note(NodeSaid(incarnation, NodeView(node, TOTAL, free, {"zone": "a"})))
        # What is published is what has changed by then.
        self.now += 0.5
        self.hear(self.ledger.due(self.now).events)

    def take(self) -> None:
        """Have all nodes say that they have their orders."""
        for number, incarnation in enumerate(self.incarnations):
            orders = self.orders.after(name(number), 0, 1 << 30)
            if orders:
                self.do(TakeOrders(name(number), incarnation, orders[-1][0]))

    def make_actor(self, number: int) -> None:
        node, actor, worker = (
            name(number % self.nodes),
            name(1 << 40 | number),
            name(number | 1 << 50),
        )
        self.do(
            EnrolActor(
                actor, name(1 << 60 | number % 100), node, name(1), CREATION, f"a{number}", "main",
                handle=CREATION[:100], class_name="Actor", amounts={"CPU": 10_000},
            )
        )  # fmt: skip
        self.do(PlaceActor(actor, node, node, worker, f"10.0.0.1:7700/{worker.hex()}"))
        self.do(StartActor(actor, worker))

    def end_actor(self, number: int) -> None:
        self.do(FinishActor(name(1 << 40 | number), False, True, "it is not needed"))

    def make_group(self, number: int) -> None:
        group = PlacementGroupId(name(1 << 45 | number))
        spec = BundleSpec(Resources({"CPU": 1}))
        self.do(GroupCreated(group, (spec, spec), "PACK", name(1)))
        facts = self.groups.facts(group)
        assert facts is not None
        assert facts.state == "ready"

    def end_group(self, number: int) -> None:
        self.do(GroupRemoved(PlacementGroupId(name(1 << 45 | number)), "it is not needed"))


def timed(many: int, do: Callable[[], object]) -> float:
    """Do so many; return how many a second."""
    began = time.perf_counter()
    do()
    return many / (time.perf_counter() - began)


def of_control(nodes: int) -> dict[str, float]:
    """Measure the tables."""
    empty = resident()
    control = Control(nodes)
    control.register()
    control.beat(TOTAL)
    found: dict[str, float] = {"a node takes, KB": (resident() - empty) / nodes / 1e3}
    beats = max(2, 2_000 // nodes)
    found["heartbeats with news, per s"] = timed(
        beats * nodes, lambda: [control.beat((LESS, TOTAL)[n % 2]) for n in range(beats)]
    )
    before = resident()
    actors = range(ACTORS * nodes)
    found["actors made, per s"] = timed(
        len(actors), lambda: [control.make_actor(number) for number in actors]
    )
    control.take()
    found["an actor takes, KB"] = (resident() - before) / len(actors) / 1e3
    before = resident()
    groups = range(GROUPS * nodes)
    found["placement groups made, per s"] = timed(
        len(groups), lambda: [control.make_group(number) for number in groups]
    )
    found["a placement group takes, KB"] = (resident() - before) / len(groups) / 1e3
    found["all of it, MB"] = (resident() - empty) / 1e6
    image = b""

    def write() -> None:
        nonlocal image
        image = control.ledger.image()

    found["a snapshot is made, ms"] = 1e3 / timed(1, write)
    del image
    numbers = iter(range(len(actors), 1 << 30))

    def again(many: int) -> None:
        for _ in range(many):
            number = next(numbers)
            control.make_actor(number)
            control.end_actor(number)
            control.make_group(number)
            control.end_group(number)
            if not number % 100:
                control.take()
        control.take()

    again(WARM)
    before = resident()
    again(AGAIN)
    found["it grows by, bytes an actor and group that came and went"] = (
        resident() - before
    ) / AGAIN
    lost = min(nodes, 20)
    last = list(enumerate(control.incarnations))[-lost:]

    def lose() -> None:
        for number, incarnation in last:
            control.do(Buried(NodeId(name(number)), incarnation, "its power is gone"))

    found["a node is lost, ms"] = 1e3 / timed(lost, lose)
    return found


def of_owner(nodes: int) -> dict[str, float]:
    """Measure a driver's machine of tasks: a thousand for each node, all submitted at once."""
    before = resident()
    machine, many = Tasks(), TASKS * nodes
    sent: deque[TaskId] = deque()
    now = 0.0

    def tell(event: task_rules.Event) -> None:
        for effect in machine.handle(event, now):
            if isinstance(effect, task_rules.Send):
                sent.append(effect.task.id)

    def submit() -> None:
        for number in range(many):
            task = Task(TaskId(name(number)), "task", b"f", retries=3, timeout_s=0.0, note=None)
            tell(task_rules.Submitted(task))

    def run() -> None:
        nonlocal now
        for number in range(WORKERS * nodes):
            tell(task_rules.LeaseGranted(0, WorkerId(name(number)), False))
        while sent:
            now += TASK_S / (WORKERS * nodes)
            tell(Answered(sent.popleft(), TASK_S, False))

    found = {"tasks submitted, per s": timed(many, submit)}
    found["a task that waits takes, bytes"] = (resident() - before) / many
    found["tasks sent to a worker and ended, per s"] = timed(many, run)
    assert not machine.attempts.open
    return found


def main() -> None:
    nodes = int(sys.argv[1])
    print(json.dumps({**of_control(nodes), **of_owner(nodes)}))


if __name__ == "__main__":
    main()
