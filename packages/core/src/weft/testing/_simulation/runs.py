"""Runs a plan, looks whether the promises were kept, and makes plans that break them smaller."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from weft._ids import PlacementGroupId
from weft._machines.bundle_plans import GroupWish
from weft._machines.bundle_plans import plan as plan_bundles
from weft._machines.nodes import Nodes
from weft._machines.placement import Placed, able, place, terms_of
from weft._machines.tasks import LINGER_S
from weft._wire.messages import EndActor
from weft.testing._simulation.controls import (
    START_AGAIN_S,
    VirtualControl,
    VirtualJournal,
    start_again,
)
from weft.testing._simulation.daemons import BROKEN_S, VirtualDaemon
from weft.testing._simulation.plans import (
    ActorPlan,
    DriverPlan,
    FaultPlan,
    GetPlan,
    GroupPlan,
    NodePlan,
    SchedulePlan,
    TaskPlan,
    node_id,
)
from weft.testing._simulation.promises import Broken, SimulationTally
from weft.testing._simulation.runtimes import VirtualDriver
from weft.testing._simulation.world import VirtualEnd, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._machines.tasks import Task
    from weft.testing._simulation.runtimes import VirtualRuntime

T = TypeVar("T")

# Longer than a node takes to be found dead, and than what waits then rests before it is sent on.
PATIENCE_S = 60.0
# What is idle is given back; how a worker ended, whose connection broke, is heard of.
QUIET_S = LINGER_S + BROKEN_S + 1.0
# A change here is published, heard by control, published again and heard everywhere.
SEEN_S = 1.0
# A group that is refused is tried again after 0.1 s, then twice that; the last orders are heard.
GROUPS_S = 4.0
# A control service that dies when a node has registered is back, and has told all of it.
KNOWN_S = 4.0
SMALLER_STEPS = 50_000
"""What may be spent on making a plan smaller: a few seconds."""
# How often is looked whether somebody waits beside a node with room, and how long one may: besides,
# who was sent on in vain rests as long as it has waited.
LOOK_S = 0.5
_NOBODY: Any = None
"""Who asks for what nobody is answered."""
BESIDE_S = 5.0


class Schedule:
    """One run of a plan."""

    def __init__(self, plan: SchedulePlan) -> None:
        self.plan = plan
        self.world = World(plan.seed)
        self.tally = self.world.tally = SimulationTally(self.world)
        self._draw = random.Random(repr(("faults", plan.seed)))
        self._journal = VirtualJournal()
        self.control = VirtualControl(self.world, self._journal, plan.silence_s)
        self.daemons: list[VirtualDaemon] = []
        self._slots: list[VirtualDaemon] = []
        """The daemon of each node of the plan that lives, or lived last."""
        for node in plan.nodes:
            self._slots.append(self._start_node(node))
        self.drivers: list[VirtualDriver] = []
        self._waits: dict[VirtualDriver, int] = {}
        self._late_groups: list[tuple[VirtualDriver, Callable[[], None]]] = []
        self._programs = len(plan.drivers)
        self._quiet_from = 0.0
        self._disturbed_until = 0.0
        """Nodes may be cut off, or stand still."""
        self.tally.refused = self._see_refusal
        self.tally.is_member = lambda node: self.control.orders.incarnation_of(node) is not None
        self._beside_s: dict[tuple[VirtualRuntime, int], float] = {}
        self._group_waits_s: dict[PlacementGroupId, float] = {}
        self._waits_s: dict[tuple[VirtualRuntime, int], float] = {}
        self.world.later(LOOK_S, self._look)
        for number, driver in enumerate(plan.drivers):
            self.world.later(driver.at_s, lambda n=number, d=driver: self._start_driver(n, d))  # type: ignore[misc]  # bound as it is
        for fault in plan.faults:
            self.world.later(fault.at_s, lambda f=fault: self._fail(f))  # type: ignore[misc]  # bound as it is
            lasts_s = fault.lasts_s
            if fault.kind == "kill control":
                lasts_s = START_AGAIN_S[1]
            if fault.kind in ("kill control", "lose host", "cut", "stop"):
                # Until it is found out; after a standstill of control all have that time again.
                lasts_s += plan.silence_s + SEEN_S
            self._quiet_from = max(self._quiet_from, fault.at_s + lasts_s)

    def _start_node(self, node: NodePlan) -> VirtualDaemon:
        number = len(self.daemons) + 1
        daemon = VirtualDaemon(self.world, node, node_id(number), f"n{number}")
        self.daemons.append(daemon)
        return daemon

    def _start_driver(self, number: int, plan: DriverPlan) -> None:
        daemon = self._slots[plan.node]
        if not daemon.is_alive:
            self._programs -= 1
            return
        worker_id = (1 << 31 | number).to_bytes(8, "big") + bytes(8)
        driver = VirtualDriver(self.world, daemon, worker_id, f"d{number}", "driver")
        self.drivers.append(driver)
        self._programs -= 1
        self._waits[driver] = len(plan.tasks)

        def begin() -> None:
            for put in plan.puts:
                driver.put(put.name, put.size_bytes)
            for task in plan.tasks:
                self._submit(driver, task)
            for get in plan.gets:
                self._waits[driver] += 1
                driver.later(get.at_s, lambda g=get: self._get(driver, g))  # type: ignore[misc]  # bound as it is
            for number, group in enumerate(plan.groups):
                self._make_group(driver, group, number)
            for number, actor in enumerate(plan.actors):
                self._waits[driver] += 1
                driver.later(actor.at_s, lambda a=actor, n=number: self._make_actor(driver, a, n))  # type: ignore[misc]  # bound as they are

        driver.later(0.0, begin)

    def _submit(self, driver: VirtualDriver, plan: TaskPlan) -> None:
        def ended() -> None:
            self._waits[driver] -= 1

        task: Task = driver.submit(plan, ended, driver.named)
        if plan.cancel_after_s:
            driver.later(plan.cancel_after_s, lambda: driver.cancel(task, force=plan.cancel_force))

    def _get(self, driver: VirtualDriver, plan: GetPlan) -> None:
        def ended() -> None:
            self._waits[driver] -= 1
            if plan.drops:
                driver.named.pop(plan.name, None)

        driver.get(plan.name, ended)

    def _make_actor(self, driver: VirtualDriver, plan: ActorPlan, number: int) -> None:
        self._waits[driver] -= 1
        driver.calling.make(plan, number)

    def _make_group(self, driver: VirtualDriver, plan: GroupPlan, number: int) -> None:
        group = PlacementGroupId(driver.worker_id[:8] + b"g" + number.to_bytes(7, "big"))
        self.world.story.call(group, f"{plan.name} of {driver.name}")

        def made(refusal: str) -> None:
            for task in plan.tasks:
                if refusal:
                    ended()
                else:
                    driver.submit(task, ended, driver.named, group)

        def ended() -> None:
            self._waits[driver] -= 1

        def make() -> None:
            driver.make_group(group, plan, made)

        self._waits[driver] += len(plan.tasks)
        if plan.lasts_s:
            ends_s = plan.at_s + plan.lasts_s
            driver.later(plan.at_s, make)
            driver.later(ends_s, lambda: driver.drop_group(group))
            self._quiet_from = max(self._quiet_from, self.world.now + ends_s)
        else:
            self._late_groups.append((driver, make))

    # -------------------------------------------------------------- faults

    def _fail(self, fault: FaultPlan) -> None:
        """Let something go wrong, if there is anything that may."""
        world = self.world
        living = [daemon for daemon in self._slots if daemon.is_alive]
        world.story.add(self.control, "sees a fault:", None, f"{fault.kind}, {fault.lasts_s:g} s")
        match fault.kind:
            case "kill worker":
                workers = [w for daemon in living for w in daemon.workers.values() if w.is_alive]
                if workers:
                    _pick(workers, fault).die("a fault killed it")
            case "kill node" | "lose host":
                if living:
                    daemon = _pick(living, fault)
                    with_host = fault.kind == "lose host"
                    for driver in self.drivers:
                        if driver.host == daemon.host:
                            driver.die("its host has failed", with_host=with_host)
                    daemon.die("its host has failed", with_host=with_host)
                    slot = self._slots.index(daemon)
                    world.later(fault.lasts_s, lambda: self._revive(slot))
            case "kill driver":
                drivers = [driver for driver in self.drivers if driver.is_alive]
                if drivers:
                    _pick(drivers, fault).die("a fault killed it")
            case "kill control":
                if self.control.is_alive:
                    self.control.die("a fault killed it")
                    start_again(world, self._journal, self.plan.silence_s, self._control_back)
            case "stop":
                self._disturbed_until = max(self._disturbed_until, world.now + fault.lasts_s + 1.0)
                processes = [self.control, *living, *self.drivers]
                processes += [w for daemon in living for w in daemon.workers.values()]
                _pick(processes, fault).stopped_until = world.now + fault.lasts_s
            case "cut":
                self._disturbed_until = max(self._disturbed_until, world.now + fault.lasts_s + 1.0)
                hosts = ["control", *(daemon.host for daemon in living)]
                away = {host for host in hosts if self._draw.random() < 0.4} or {hosts[-1]}
                world.cut(away, set(hosts), fault.lasts_s)
            case "tear":
                self._tear(fault)

    def _tear(self, fault: FaultPlan) -> None:
        """Break a connection between two hosts."""
        ends: list[VirtualEnd] = []
        for process in [*self.daemons, *self.drivers, self.control]:
            ends += [
                e for e in process.ends if not e.closed and e.other.process.host != process.host
            ]
        if ends:
            end = _pick(ends, fault)
            end.tear("the connection was torn")
            end.other.tear("the connection was torn")

    def _revive(self, slot: int) -> None:
        if not self._slots[slot].is_alive:
            self._slots[slot] = self._start_node(self._slots[slot].plan)

    def _control_back(self, control: VirtualControl) -> None:
        self.control = control

    # -------------------------------------------------------------- who waits beside room

    def _see_refusal(self, owner: VirtualRuntime, task: Task) -> None:
        """See whether a task was refused that a node could hold which others know well."""
        now = self.world.now
        if now < self._disturbed_until:
            return
        known = [
            daemon.view()
            for daemon in self._slots
            if daemon.is_alive and daemon.link.member_since + KNOWN_S < now
        ]
        asked = {daemon.address: daemon for daemon in self._slots}[owner.daemon_address]
        if asked.link.member_since + KNOWN_S < now and able(terms_of(task.note.shape()), known):
            raise Broken(f"{task.name} is refused, and a node could hold it", task.name, owner.name)

    def _look(self) -> None:
        """See whether anybody waits while a node that is known has room."""
        self.world.later(LOOK_S, self._look)
        self._look_at_groups()
        owners = [*self.drivers, *(w for d in self._slots for w in d.workers.values())]
        waiting = {
            (owner, key): pool
            for owner in owners
            if owner.is_alive
            for key, pool in owner.machine.pools.items()
            if pool.queue
        }
        rooms = [
            daemon.view() for daemon in self._slots if daemon.is_alive and daemon.link.incarnation
        ]
        for at in [at for at in self._waits_s if at not in waiting]:
            del self._waits_s[at], self._beside_s[at]
        for at, pool in waiting.items():
            waits_s = self._waits_s[at] = self._waits_s.get(at, 0.0) + LOOK_S
            shape = pool.queue[0].note.shape()
            is_beside = (
                isinstance(place(shape, rooms), Placed) and self.world.now > self._quiet_from
            )
            self._beside_s[at] = self._beside_s.get(at, 0.0) + LOOK_S if is_beside else 0.0
            if self._beside_s[at] > BESIDE_S + waits_s / 2:
                name = pool.queue[0].name
                said = f"{name} waits for {waits_s:g} s beside a node with room"
                raise Broken(said, name, at[0].name)

    # -------------------------------------------------------------- the run

    def run(self) -> None:
        """Run it to its end. Broken: a promise was not kept."""
        world = self.world
        try:
            world.run(self._quiet_from + PATIENCE_S + self._work_s(), self._is_over)
            if not self._is_over():
                self._blame()
            for driver in self.drivers:
                driver.later(0.0, driver.named.clear)
            world.run(max(world.now, self._quiet_from) + QUIET_S, lambda: False)
            for driver, make in self._late_groups:
                driver.later(0.0, make)
            world.run(world.now + GROUPS_S, lambda: not self._late_groups)
            self._see_groups()
            self.tally.see_histories()
            self.tally.see_reads(self.plan)
            for daemon in self._slots:
                self._see_objects(daemon)
            for driver in self.drivers:
                if driver.is_alive:
                    self._see_if_quiet(driver)
                    driver.leave()
            self._end_named()
            world.run(world.now + self.plan.silence_s + QUIET_S + 3.0, self._is_quiet)
            for daemon in self._slots:
                self._see_if_empty(daemon)
            world.run(world.now + SEEN_S, lambda: False)
            for daemon in self._slots:
                self._see_if_member(daemon)
        except Broken:
            raise
        except Exception as error:
            raise Broken(f"a machine has raised: {error!r}") from error

    def _work_s(self) -> float:
        """Return what all tasks last, one after the other."""
        return sum(
            each.lasts_s * (2 + max(0, each.retries))
            for driver in self.plan.drivers
            for task in driver.all_tasks()
            for each in task.all()
        )

    def _is_over(self) -> bool:
        return not self._programs and not any(
            waits or driver.calling.waits
            for driver, waits in self._waits.items()
            if driver.is_alive
        )

    def _blame(self) -> None:
        """Say which task or call never ends."""
        found = next((pair for pair in self.tally.open.values() if pair[0].is_alive), None)
        reads = ((read, who) for read, who in self.tally.open_reads.items() if who.is_alive)
        read, reader = next(reads, (None, None))
        if found is None and read is not None and reader is not None:
            name = read.argument
            raise Broken(f"{reader.name} waits for {name} and does not get it", name, reader.name)
        if found is None:
            self._blame_call()
            return
        owner, task = found
        asked = owner.asks.asked(task.shape)
        why = [
            daemon.scheduling.explain(task.note.shape())
            for daemon in self._slots
            if daemon.address in asked or (daemon.address == owner.daemon_address and "" in asked)
        ]
        raise Broken(
            f"{task.name} of {owner.name} is {task.state} and does not end; asked: {asked}; "
            f"{'; '.join(why)}",
            task.name,
            owner.name,
        )

    def _blame_call(self) -> None:
        for caller, call in self.tally.calls.values():
            if caller.is_alive:
                callee = caller.calling.machine.callees[call.actor]
                standing = self.control.actors.find(call.actor)
                life = "not known" if standing is None else standing.life.state
                name = self.world.story.name_of(call.actor)
                raise Broken(
                    f"{call.name} of {caller.name} is {call.state} and does not end; to it {name} "
                    f"is {callee.state}, {'' if callee.connected else 'not '}connected; to control "
                    f"it is {life}",
                    call.name,
                    caller.name,
                    name,
                )
        raise Broken("an actor is never made")

    def _see_if_quiet(self, driver: VirtualDriver) -> None:
        kept = {
            "tasks": driver.machine.attempts.open,
            "pools": driver.machine.pools,
            "workers": driver.leased,
            "lenders": driver.lender_of,
            "objects": driver.objects.machine.entries,
        }
        for what, left in kept.items():
            if left:
                raise Broken(f"{driver.name} keeps {what} when all is quiet: {left}", driver.name)

    def _look_at_groups(self) -> None:
        """See whether a group waits for long while there is a plan for it."""
        waiting = {
            facts.created.group: facts
            for group in self.control.groups.groups()
            if (facts := self.control.groups.facts(group))
            and facts.state not in ("ready", "removed")
        }
        for group in [group for group in self._group_waits_s if group not in waiting]:
            del self._group_waits_s[group]
        if waiting:
            nodes = Nodes(daemon.view() for daemon in self._slots if daemon.is_alive)
        for group, facts in waiting.items():
            wish = GroupWish(
                facts.created.strategy,
                {i: b for i, b in enumerate(facts.created.bundles) if i not in facts.places},
                facts.places,
                topology=facts.created.topology,
            )
            is_beside = (
                self.world.now > self._quiet_from
                and plan_bundles(wish, nodes) is not None
                and self.control.is_alive
            )
            waits_s = self._group_waits_s.get(group, 0.0) + LOOK_S if is_beside else 0.0
            self._group_waits_s[group] = waits_s
            if waits_s > GROUPS_S:
                name = self.world.story.name_of(group)
                raise Broken(f"{name} is {facts.state} for {waits_s:g} s beside room", name)

    def _see_groups(self) -> None:
        """See whether placement groups are where control says, and none waits beside room."""
        groups = self.control.groups
        known = [facts for group in groups.groups() if (facts := groups.facts(group))]
        held = {
            (each.group, index): daemon.node_id
            for daemon in self._slots
            if daemon.is_alive
            for each in daemon.held()
            for index in each.indices
        }
        nodes = Nodes(daemon.view() for daemon in self._slots if daemon.is_alive)
        for facts in known:
            group = facts.created.group
            here = {index: at for (each, index), at in held.items() if each == group}
            name = self.world.story.name_of(group)
            if here != facts.places:
                said = f"{name} is at {facts.places} as control knows, and held at {here}"
                raise Broken(f"{said} ({facts.state})", name)
            if facts.state == "removed" or facts.state == "ready":
                continue
            left = {i: b for i, b in enumerate(facts.created.bundles) if i not in here}
            wish = GroupWish(facts.created.strategy, left, here, topology=facts.created.topology)
            if plan_bundles(wish, nodes) is not None:
                raise Broken(f"{name} is {facts.state} beside nodes with room", name)

    def _end_named(self) -> None:
        """End the actors that outlive their makers, as people would."""
        daemon = next((each for each in self._slots if each.is_alive), None)
        for actor in [bytes(actor) for _, actor in self._named()]:
            assert daemon is not None
            ended = EndActor(actor, graceful=False, no_restart=True, reason="all is over")
            daemon.step(lambda e=ended: daemon.acting.said(_NOBODY, e))

    def _named(self) -> list[tuple[str, bytes]]:
        directory = self.control.actors
        found = [(name, directory.named(name, namespace)) for namespace, name in directory.names()]
        return [(name, actor) for name, actor in found if actor is not None]

    def _is_quiet(self) -> bool:
        return all(self._left_at(daemon) == {} for daemon in self._slots if daemon.is_alive)

    def _left_at(self, daemon: VirtualDaemon) -> dict[str, object]:
        rules = daemon.rules
        left: dict[str, object] = {
            "amounts": rules.leases.total - rules.leases.free,
            "demands": list(rules.leases.waiting()),
            "grants": [n for n in daemon.grants.leases() if n],
            "wishes": daemon.scheduling.waiting(),
            "bundles": daemon.reserving.held(),
            "clients": [
                worker_id
                for worker_id, client in daemon.client_of.items()
                if not client.connection.other.process.is_alive  # type: ignore[attr-defined]  # it is a VirtualEnd
            ],
        }
        return {what: each for what, each in left.items() if each}

    def _see_objects(self, daemon: VirtualDaemon) -> None:
        """See whether a node keeps objects that nobody has any more."""
        if not daemon.is_alive:
            return
        daemon.moving.machine.check()
        left = {
            "segments": daemon.memory.owner_of,
            "copies": daemon.moving.machine.owners(),
            "open files": [name for name, count in daemon.memory.files.open.items() if count],
        }
        for what, each in left.items():
            if each:
                raise Broken(f"{daemon.name} keeps {what} that nobody needs: {each}", daemon.name)

    def _see_if_empty(self, daemon: VirtualDaemon) -> None:
        if not daemon.is_alive:
            return
        daemon.check()
        for what, left in self._left_at(daemon).items():
            raise Broken(f"{daemon.name} keeps {what} when nobody is there: {left}", daemon.name)

    def _see_if_member(self, daemon: VirtualDaemon) -> None:
        if not daemon.is_alive:
            return
        if not self.control.membership.is_member(daemon.node_id, daemon.link.incarnation):
            raise Broken(f"{daemon.name} lives and is no member when all is quiet", daemon.name)
        for other in self._slots:
            if other.is_alive and daemon.sees(other.node_id) != other.view():
                raise Broken(
                    f"{daemon.name} does not see what {other.name} has when all is quiet",
                    daemon.name,
                    other.name,
                )


def _pick(things: Sequence[T], fault: FaultPlan) -> T:
    return things[int(fault.pick * len(things))]


def verdict(plan: SchedulePlan) -> tuple[Broken | None, Schedule]:
    """Run a plan."""
    schedule = Schedule(plan)
    try:
        schedule.run()
    except Broken as broken:
        return broken, schedule
    return None, schedule


def smaller(plan: SchedulePlan, broken: Broken) -> SchedulePlan:
    """Leave out of a plan what is not needed for a promise to be broken."""
    left = SMALLER_STEPS
    parts = _parts_less(plan)
    while parts and left > 0:
        less = parts.pop(0)
        other, schedule = verdict(less)
        left -= schedule.world.steps
        if other is not None and _alike(other, broken):
            plan, parts = less, _parts_less(less)
    return plan


def _alike(one: Broken, other: Broken) -> bool:
    """Tell whether two are about the same promise."""
    words = str(one).split()[1:4], str(other).split()[1:4]
    return words[0] == words[1]


def _parts_less(plan: SchedulePlan) -> list[SchedulePlan]:
    """Return plans that have something less."""
    replace = msgspec.structs.replace
    plans = [replace(plan, drivers=_without(plan.drivers, i)) for i in range(len(plan.drivers))]
    plans += [replace(plan, faults=_without(plan.faults, i)) for i in range(len(plan.faults))]
    for number, driver in enumerate(plan.drivers):
        for fewer_actors in (_without(driver.actors, i) for i in range(len(driver.actors))):
            drivers = list(plan.drivers)
            drivers[number] = replace(driver, actors=fewer_actors)
            plans.append(replace(plan, drivers=tuple(drivers)))
        tasks = driver.tasks
        halves = [tasks[: len(tasks) // 2], tasks[len(tasks) // 2 :]] if len(tasks) > 3 else []
        for fewer in [*halves, *(_without(tasks, i) for i in range(len(tasks)))]:
            drivers = list(plan.drivers)
            drivers[number] = replace(driver, tasks=fewer)
            plans.append(replace(plan, drivers=tuple(drivers)))
    return plans


def _without(things: tuple[T, ...], index: int) -> tuple[T, ...]:
    return things[:index] + things[index + 1 :]
