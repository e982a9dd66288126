"""What a seed means: nodes, programs with their tasks, and what goes wrong when.

A plan is data: so it can be printed, and made smaller while it still shows what was wrong.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import msgspec

from weft._ids import JobId, NodeId
from weft._machines.bundle_plans import Strategy
from weft._resources import Resources
from weft._specs import GroupSpec, Shape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weft._ids import PlacementGroupId

FaultKind: TypeAlias = Literal[
    "kill worker", "kill node", "lose host", "kill driver", "kill control", "stop", "cut", "tear"
]
KINDS: tuple[FaultKind, ...] = (
    "kill worker", "kill worker", "kill node", "lose host", "kill driver", "kill control", "stop",
    "cut", "cut", "tear", "tear",
)  # fmt: skip
ZONES = ("a", "b")
OBJECTS_SHARE = 0.5
"""So many schedules have objects."""
SIZES = (100, 200_000, 200_000, 3_000_000, 5_000_000, 13_000_000)
"""Of values, in bytes: in a message, in one chunk, in several."""
_replace = msgspec.structs.replace


def node_id(number: int) -> NodeId:
    """Return the id of the node that started as the `number`th."""
    return NodeId(random.Random(number).randbytes(16))


class NodePlan(msgspec.Struct, frozen=True):
    """A node."""

    cpus: int
    gpus: int = 0
    zone: str = "a"

    def total(self) -> Resources:
        """Return what it has."""
        return Resources({"CPU": self.cpus, "GPU": self.gpus, "memory": 1e9})


class TaskPlan(msgspec.Struct, frozen=True):
    """A task, and what happens when it runs."""

    name: str
    function: bytes
    lasts_s: float
    retries: int = 3
    timeout_s: float = 0.0
    cpus: float = 1.0
    gpus: float = 0.0
    strategy: str = "DEFAULT"
    """Or SPREAD; or `node:<index>:hard|soft|spill`, of the nodes that were there first.

    Of a group's: `any`, or the index of its bundle.
    """
    labels: tuple[tuple[str, str], ...] = ()
    depth: int = 0
    children: tuple[TaskPlan, ...] = ()
    """It submits these, and waits for them."""
    crashes_at: int = 0
    """It takes its worker along in so many first attempts."""
    raises_at: int = 0
    """It raises, and is to be retried for it, in so many first attempts."""
    heeds_cancel: bool = True
    cancel_after_s: float = 0.0
    """Its owner cancels it so long after it was submitted; 0: never."""
    cancel_force: bool = False
    makes: int = 0
    """So many bytes are its result; 0: it has none."""
    reads: tuple[str, ...] = ()
    """The results of these tasks, or puts, are its arguments."""

    def inner(self) -> list[str]:
        """Return what its own tasks read that they do not make."""
        below = [task for child in self.children for task in child.all()]
        made = {task.name for task in below}
        return sorted({name for task in below for name in task.reads} - made)

    def shape(self, group: PlacementGroupId | None = None) -> Shape:
        """Return what its worker must be; in a placement group, if it is a task of one."""
        amounts = Resources({"CPU": self.cpus, "GPU": self.gpus})
        strategy = f"group:{group.hex()}:{self.strategy}" if group else _placed(self.strategy)
        return Shape(tuple(sorted(amounts.items())), strategy, self.labels)

    def all(self) -> list[TaskPlan]:
        """Return it and its children, and theirs."""
        return [self, *(each for child in self.children for each in child.all())]


class GroupPlan(msgspec.Struct, frozen=True):
    """A placement group, and how long its driver wants it."""

    name: str
    cpus: tuple[float, ...]
    """Of each bundle."""
    strategy: Strategy
    at_s: float
    """After the driver has begun."""
    lasts_s: float = 0.0
    """0: from when all tasks have ended, as long as its driver."""
    topology: str = ""
    """The label of which all its nodes are to have one value."""
    tasks: tuple[TaskPlan, ...] = ()
    """That run in its bundles, from when it is known."""

    def spec(self, group: PlacementGroupId, job: bytes) -> GroupSpec:
        """Return it as it is created."""
        bundles = (Resources({"CPU": cpus}) for cpus in self.cpus)
        return GroupSpec(
            group,
            tuple(Shape(tuple(sorted(amounts.items()))) for amounts in bundles),
            self.strategy,
            JobId(job),
            topology=self.topology,
        )


class CallPlan(msgspec.Struct, frozen=True):
    """A call of an actor's method."""

    name: str
    at_s: float
    """After its caller knows the actor."""
    lasts_s: float
    retries: int = 0
    crashes_at: int = 0
    """It takes its actor along in so many first attempts."""


class ActorPlan(msgspec.Struct, frozen=True):
    """An actor, and how its maker calls it.

    One with a name is called by all who wanted to be its maker, and outlives them.
    """

    name: str
    at_s: float
    """After the driver has begun."""
    calls: tuple[CallPlan, ...]
    is_named: bool = False
    memory: float = 0.0
    strategy: str = "DEFAULT"
    max_restarts: int = 0
    builds_s: float = 0.001
    """What its constructor takes."""
    fails: bool = False
    """Its constructor raises."""
    killed_at_s: float = 0.0
    """Its maker kills it so long after it is known; 0: never."""
    may_restart: bool = False
    """When it is killed."""

    def shape(self, env: str) -> Shape:
        """Return what its worker must be."""
        amounts = Resources({"memory": self.memory} if self.memory else {})
        return Shape(tuple(sorted(amounts.items())), _placed(self.strategy), env=env)


def _placed(strategy: str) -> str:
    """Return a strategy as a demand has it, with the id of the node that it names."""
    if not strategy.startswith("node:"):
        return strategy
    _, index, affinity = strategy.split(":")
    return f"node:{node_id(int(index) + 1).hex()}:{affinity}"


class PutPlan(msgspec.Struct, frozen=True):
    """A value that a program stores itself, before its tasks."""

    name: str
    size_bytes: int


class GetPlan(msgspec.Struct, frozen=True):
    """A program reads a result of its tasks, or what it has put."""

    name: str
    at_s: float
    """After it has begun."""
    drops: bool = False
    """Then it needs it no more."""


class DriverPlan(msgspec.Struct, frozen=True):
    """A program."""

    node: int
    at_s: float
    tasks: tuple[TaskPlan, ...]
    groups: tuple[GroupPlan, ...] = ()
    actors: tuple[ActorPlan, ...] = ()
    puts: tuple[PutPlan, ...] = ()
    gets: tuple[GetPlan, ...] = ()

    def all_tasks(self) -> list[TaskPlan]:
        """Return its tasks, also those in placement groups."""
        return [*self.tasks, *(task for group in self.groups for task in group.tasks)]


class FaultPlan(msgspec.Struct, frozen=True):
    """Something that goes wrong."""

    at_s: float
    kind: FaultKind
    pick: float
    """Which of those there are then: from 0 to 1."""
    lasts_s: float = 0.0


class SchedulePlan(msgspec.Struct, frozen=True):
    """One schedule."""

    seed: int
    nodes: tuple[NodePlan, ...]
    drivers: tuple[DriverPlan, ...]
    faults: tuple[FaultPlan, ...]
    silence_s: float = 5.0

    def actors(self) -> int:
        """Return how many actors there are to be."""
        return sum(len(driver.actors) for driver in self.drivers)

    def tasks(self) -> int:
        """Return how many tasks there are."""
        return sum(len(task.all()) for driver in self.drivers for task in driver.all_tasks())


def plan_of(seed: int, *, faults: int = 3) -> SchedulePlan:
    """Return the plan of a seed, in which up to `faults` things go wrong."""
    draw = random.Random(repr(("plan", seed)))
    nodes = tuple(_node(draw) for _ in range(draw.randint(2, 4)))
    nodes = (msgspec.structs.replace(nodes[0], cpus=max(2, nodes[0].cpus)), *nodes[1:])
    names = iter(f"t{number}" for number in range(10_000))
    drivers = tuple(
        DriverPlan(
            draw.randrange(len(nodes)),
            draw.choice([0.0, 0.3, 1.0]),
            tuple(task for _ in range(draw.randint(1, 3)) for task in _burst(draw, names)),
            tuple(_group(draw, number) for number in range(draw.choice([0, 0, 0, 1, 3]))),
        )
        for _ in range(draw.randint(1, 3))
    )
    wrong = tuple(
        FaultPlan(
            round(draw.choice([0.3, 1.2, 4.0]) * draw.uniform(0.1, 1.0), 4),
            draw.choice(KINDS),
            draw.random(),
            round(draw.choice([0.2, 1.0, 3.0, 7.0]) * draw.uniform(0.5, 1.5), 3),
        )
        for _ in range(draw.randint(0, faults))
    )
    drivers = tuple(
        msgspec.structs.replace(
            driver, actors=tuple(_actor(draw) for _ in range(draw.choice([0, 0, 1, 2, 4])))
        )
        for driver in drivers
    )
    more = random.Random(repr(("objects", seed)))
    drivers = tuple(
        _replace(
            driver,
            groups=tuple(
                _with_tasks(more, group, f"{group.name}.{number}") for group in driver.groups
            ),
        )
        for number, driver in enumerate(drivers)
    )
    if more.random() < OBJECTS_SHARE:
        drivers = tuple(_with_objects(more, driver, at) for at, driver in enumerate(drivers))
    return SchedulePlan(seed, nodes, drivers, tuple(sorted(wrong, key=lambda fault: fault.at_s)))


def _with_objects(draw: random.Random, driver: DriverPlan, number: int) -> DriverPlan:
    """Let a program's tasks make objects, and read each other's."""
    puts = tuple(
        PutPlan(f"p{number}.{each}", draw.choice(SIZES)) for each in range(draw.choice([0, 1, 2]))
    )
    made = [put.name for put in puts]
    tasks: list[TaskPlan] = []
    makers = draw.choice([0.1, 0.5, 1.0])
    for task in driver.tasks:
        reads = _some(draw, made)
        makes = draw.choice(SIZES) if draw.random() < makers else 0
        children = tuple(
            _replace(
                child,
                makes=draw.choice(SIZES) if not child.children and draw.random() < 0.3 else 0,
                reads=_some(draw, made),
            )
            for child in task.children
        )
        tasks.append(_replace(task, makes=makes, reads=reads, children=children))
        if makes:
            made.append(task.name)
    gets = tuple(
        GetPlan(name, round(draw.choice([0.5, 2.0, 8.0]) * draw.random(), 3), draw.random() < 0.3)
        for name in made
        for _ in range(draw.choice([0, 1, 1, 2]))
    )
    return _replace(driver, tasks=tuple(tasks), puts=puts, gets=gets)


def _with_tasks(draw: random.Random, group: GroupPlan, name: str) -> GroupPlan:
    """Let a group have a topology, and tasks if it ends: else they might wait for ever."""
    tasks = []
    for number in range(draw.choice([0, 1, 5, 20]) if group.lasts_s else 0):
        index = draw.randrange(len(group.cpus))
        tasks.append(
            TaskPlan(
                f"{name}.{number}",
                bytes([draw.randrange(4)]),
                draw.choice([0.0002, 0.02, 0.3]),
                retries=draw.choice([0, 3, -1]),
                cpus=min(group.cpus[index], draw.choice([0.5, 1.0])),
                strategy=draw.choice(["any", str(index)]),
            )
        )
    return _replace(group, topology=draw.choice(["", "", "zone"]), tasks=tuple(tasks))


def _some(draw: random.Random, names: list[str]) -> tuple[str, ...]:
    """Return a few of the last names, or none."""
    if not names or draw.random() < 0.5:
        return ()
    return tuple(sorted({draw.choice(names[-8:]) for _ in range(draw.choice([1, 1, 2, 3]))}))


def _node(draw: random.Random) -> NodePlan:
    return NodePlan(draw.randint(1, 4), draw.choice([0, 0, 1, 2]), draw.choice(ZONES))


def _group(draw: random.Random, number: int) -> GroupPlan:
    return GroupPlan(
        f"g{number}",
        tuple(draw.choice([0.5, 1.0, 1.0, 2.0]) for _ in range(draw.randint(1, 3))),
        draw.choice(get_args(Strategy)),
        round(draw.uniform(0.0, 2.0), 3),
        draw.choice([0.0, 0.1, 1.0, 3.0, 7.0]),
    )


def _actor(draw: random.Random) -> ActorPlan:
    is_named = draw.random() < 0.5
    name = f"a{draw.randrange(2)}" if is_named else f"b{draw.randrange(1_000)}"
    odd = draw.random()
    return ActorPlan(
        name,
        round(draw.uniform(0.0, 1.0), 3),
        tuple(_call(draw, name, number) for number in range(draw.choice([1, 5, 20]))),
        is_named,
        memory=draw.choice([0.0, 0.0, 0.1e9]),
        strategy=draw.choice(["DEFAULT"] * 4 + ["SPREAD"] * 3 + ["node:1:soft", "node:1:hard"]),
        max_restarts=draw.choice([0, 1, 3, -1, -1]),
        builds_s=draw.choice([0.0005, 0.02, 0.3]),
        fails=odd < 0.05,
        killed_at_s=draw.choice([0.1, 1.0, 3.0]) if odd > 0.8 else 0.0,
        may_restart=draw.random() < 0.5,
    )


def _call(draw: random.Random, actor: str, number: int) -> CallPlan:
    return CallPlan(
        f"{actor}.{number}",
        round(draw.choice([0.0, 0.01, 1.0, 5.0]) * draw.random(), 4),
        draw.choice([0.0001, 0.001, 0.02, 0.3]),
        draw.choice([0, 0, 0, 1, -1]),
        draw.choice([0] * 30 + [1]),
    )


def _burst(draw: random.Random, names: Iterator[str]) -> list[TaskPlan]:
    """Return tasks that are alike."""
    first = _task(draw, names, depth=0)
    many = draw.choice([1, 2, 5, 12, 40 if first.lasts_s < 0.1 else 3])
    if first.children:
        many = min(many, 3)
    return [first, *(_renamed(first, names) for _ in range(many - 1))]


def _task(draw: random.Random, names: Iterator[str], *, depth: int) -> TaskPlan:
    children: tuple[TaskPlan, ...] = ()
    if depth < 2 and draw.random() < 0.15:
        child = _task(draw, names, depth=depth + 1)
        children = (child, *(_renamed(child, names) for _ in range(draw.randint(0, 2))))
    odd = draw.random()
    retries = draw.choice([0, 0, 1, 3, -1])
    return TaskPlan(
        name=next(names),
        function=bytes([draw.randrange(4)]),
        lasts_s=draw.choice([0.0002, 0.002, 0.02, 0.3, 1.5]),
        retries=retries,
        timeout_s=draw.choice([0.0] * 7 + [0.2]),
        cpus=draw.choice([1.0, 1.0, 1.0, 0.5, 2.0, 0.0]),
        # Who waits for its children keeps its devices: with some in both they would wait for ever.
        gpus=0.0 if depth or children else draw.choice([0.0] * 6 + [0.5, 1.0]),
        strategy=draw.choice(
            ["DEFAULT"] * 7 + ["SPREAD"] * 2 + ["node:0:soft", "node:1:hard", "node:1:spill"]
        ),
        labels=draw.choice([()] * 5 + [(("zone", "a"),), (("zone", "b"),)]),
        depth=depth,
        children=children,
        crashes_at=draw.choice([1, 2]) if odd < 0.05 else 0,
        raises_at=draw.choice([1, 2]) if 0.05 < odd < 0.1 else 0,
        heeds_cancel=draw.random() < 0.7,
        cancel_after_s=draw.choice([0.0] * 11 + [0.01, 0.3]),
        cancel_force=draw.random() < 0.3,
    )


def _renamed(task: TaskPlan, names: Iterator[str]) -> TaskPlan:
    children = tuple(_renamed(child, names) for child in task.children)
    return msgspec.structs.replace(
        task,
        name=next(names),
        children=children,
    )
