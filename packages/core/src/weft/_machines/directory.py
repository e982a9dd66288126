"""The actors of a cluster: the machine of actors.py, made a table of the control service.

    EnrolActor -> Actors -> WantWorker -> WantOrder: a node finds a worker, as for any demand
    PlaceActor -> Actors -> Become     -> MakeOrder: the node of that worker makes it the actor
    StartActor -> Actors -> Tell       -> ActorChanged: who watches is told

What this adds to the machine is where things are: which node was asked for a worker, which has the
one that there is, where the owner lives; and that nodes leave.

What is always true
1. A living actor without a worker that wants one has asked one member for it, or there is none.
2. A worker is taken for an actor only from whom it was asked, and only while it is wanted; a
   superfluous one is ended. So nobody becomes an actor twice.
3. What the node of a worker, or of an owner, did is over when that node leaves: actors restart
   elsewhere, those whose owner is gone end. Those that may restart leave a node that is to be
   emptied before it ends, each after the calls that it has; nobody becomes an actor there.
4. At most `ACTORS_KEPT` actors live, whose creations and handles take at most `CREATION_BYTES`
   each and `TOTAL_BYTES` together. They are kept as long as the actor may start again.
5. Each change of an actor's state is told as ActorChanged, once, in order.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, assert_never

import msgspec

from weft._machines.actors import (
    ActorCreated,
    ActorLeft,
    ActorLost,
    ActorPlaced,
    ActorRefused,
    Actors,
    ActorsImage,
    ActorStarted,
    ActorsTicked,
    Become,
    ClientEnded,
    ConstructorFailed,
    DropWant,
    EndAsked,
    Forget,
    KillActor,
    MoveAsked,
    QuitActor,
    Reply,
    Tell,
    WantWorker,
    Watched,
)
from weft._machines.bundles import TellGroup, removed_in_words
from weft._machines.enrolments import (
    ActorChanged,
    Command,
    EndOwner,
    EnrolActor,
    FailActor,
    FinishActor,
    LeaveActor,
    LoseActor,
    PlaceActor,
    RefuseActor,
    StartActor,
    TickActors,
)
from weft._machines.jobs import JobEnded
from weft._machines.orders import (
    DropOrder,
    KillOrder,
    MakeOrder,
    Order,
    OrderGiven,
    QuitOrder,
    WantOrder,
)
from weft._machines.rulings import Ruling
from weft._machines.tables import (
    Commands,
    Consequence,
    ControlTable,
    Kinds,
    MemberAdded,
    MemberDrains,
    MemberRemoved,
    Noted,
)
from weft._override import override

if TYPE_CHECKING:
    from typing import Any

    from weft._machines import actors as rules

ACTORS_KEPT = 100_000
CREATION_BYTES = 1024 * 1024
TOTAL_BYTES = 128 * 1024 * 1024
NAME_LENGTH = 1024
AMOUNTS_KEPT = 100
_ASKED = 1
_SELF = b"the control service"
"""Who watches all actors."""


class Enrolled(msgspec.Struct, eq=False):
    """What is known of an actor besides its life. Only its table changes it."""

    facts: EnrolActor
    """Without creation and handle, once the actor is dead."""
    asked: bytes = b""
    """The node that looks for a worker; empty: none does."""
    node: bytes = b""
    """Where its worker is; empty: it has none."""
    worker: bytes = b""


class ActorDirectoryImage(msgspec.Struct, frozen=True):
    """The whole directory."""

    actors: ActorsImage
    enrolled: list[Enrolled]
    dead: list[bytes]
    unasked: list[bytes]
    members: list[tuple[bytes, int]]
    turn: int
    draining: list[bytes] = []


class ActorStanding(msgspec.Struct, frozen=True):
    """All that is known of an actor."""

    facts: EnrolActor
    life: Tell
    node: bytes
    """Where its worker is; empty: it has none."""
    asked: bytes
    """The node that looks for one; empty: none does."""


class ActorDirectory(ControlTable):
    """The table of actors."""

    name: ClassVar = "actors"
    commands: ClassVar[Commands] = {
        "create": EnrolActor,
        "placed": PlaceActor,
        "started": StartActor,
        "failed": FailActor,
        "lost": LoseActor,
        "left": LeaveActor,
        "refused": RefuseActor,
        "end": FinishActor,
        "owner-ended": EndOwner,
        "tick": TickActors,
    }
    hears: ClassVar[Kinds] = (MemberAdded, MemberDrains, MemberRemoved, JobEnded, TellGroup)
    image_type: ClassVar = ActorDirectoryImage

    def __init__(self) -> None:
        self._actors = Actors()
        self._enrolled: dict[bytes, Enrolled] = {}
        self._by_worker: dict[bytes, Enrolled] = {}
        self._dead: deque[bytes] = deque()
        """As the machine remembers them: the one that died first comes first."""
        self._unasked: dict[bytes, None] = {}
        """Those that want a worker while there is no member."""
        self._members: dict[bytes, int] = {}
        """Incarnations."""
        self._draining: dict[bytes, None] = {}
        """Members that are to be emptied."""
        self._of_group: dict[bytes, dict[bytes, None]] = {}
        """Living actors by the placement group that they are in."""
        self._turn = 0
        self._creations_bytes = 0

    @override
    def apply(
        self,
        happened: Command | MemberAdded | MemberDrains | MemberRemoved | JobEnded | TellGroup,
        now: float,
    ) -> Consequence:
        """Do a command, or hear of a member, a job or a placement group."""
        events: list[Any] = []
        answer = Ruling()
        match happened:
            case EnrolActor():
                answer = self._enrol(happened, now, events)
            case PlaceActor():
                answer = self._place(happened, now, events)
            case RefuseActor(actor, asked, reason, kind):
                answer = self._refuse(actor, asked, ActorRefused(actor, reason, kind), now, events)
            case StartActor(actor, worker):
                answer = self._report(ActorStarted(actor, worker), now, events)
            case FailActor(actor, worker, error):
                answer = self._report(ConstructorFailed(actor, worker, error), now, events)
            case LeaveActor(actor, worker, reason):
                answer = self._report(ActorLeft(actor, worker, reason), now, events)
            case LoseActor(actor, worker, cause):
                answer = self._report(ActorLost(actor, worker, cause), now, events)
            case FinishActor(actor, graceful, no_restart, reason):
                self._tell(EndAsked(actor, graceful, no_restart, reason), now, events)
                if actor not in self._enrolled:
                    events.append(ActorChanged(actor))  # Who watches it may be there already.
            case EndOwner(owner):
                if owner:  # The machine calls detached actors' owner so.
                    self._tell(ClientEnded(owner), now, events)
            case TickActors():
                self._tell(ActorsTicked(), now, events)
            case MemberAdded(node, incarnation):
                self._joined(node, incarnation, now, events)
            case MemberDrains(node, reason):
                self._drains(node, reason, now, events)
            case MemberRemoved(node, _, reason):
                self._left(node, reason, now, events)
            case JobEnded(job, _, reason):
                self._job_ended(job, f"its job has ended: {reason}", now, events)
            case TellGroup(group, "removed", reason=reason):
                for actor in [*self._of_group.get(bytes(group), ())]:
                    told = removed_in_words(group, reason)
                    self._tell(ActorRefused(actor, told, "placement_group"), now, events)
            case TellGroup():
                pass
            case _:
                assert_never(happened)
        return Consequence(answer, tuple(events))

    # -------------------------------------------------------------- commands

    def _enrol(self, command: EnrolActor, now: float, events: list[Any]) -> Ruling:
        known = self._enrolled.get(command.actor)
        if known is not None:
            reason = f"actor {command.actor.hex()} is there already; each has an id of its own"
            return Ruling(code="exists", reason=reason)
        if refused := self._refusal(command):
            return refused
        created = ActorCreated(
            command.actor, command.owner, _ASKED, command.name, command.namespace,
            command.is_detached, command.get_if_exists, command.max_restarts,
        )  # fmt: skip
        effects = self._actors.handle(created, now)
        reply = effects[0]
        assert isinstance(reply, Reply)
        if reply.error:
            return Ruling(code="exists", reason=reply.error)
        if reply.existing:
            return Ruling(reply.existing)
        self._enrol_in_group(command)
        self._enrolled[command.actor] = Enrolled(command)
        self._creations_bytes += _bytes_of(command)
        watching = self._actors.handle(Watched(command.actor, _SELF), now)
        self._do([reply, *watching, *effects[1:]], events)
        return Ruling(command.actor)

    def _enrol_in_group(self, facts: EnrolActor) -> None:
        if facts.group:
            self._of_group.setdefault(facts.group, {})[facts.actor] = None

    def _refusal(self, command: EnrolActor) -> Ruling | None:
        what = f"actor {command.actor.hex()}"
        if not command.owner:
            return Ruling(code="invalid", reason=f"{what}: the process that asks is not named")
        size_bytes = _bytes_of(command)
        if size_bytes > CREATION_BYTES:
            reason = f"its creation takes {size_bytes} bytes, at most {CREATION_BYTES}"
            return Ruling(code="invalid", reason=f"{what}: {reason}; put large arguments")
        names = (command.name, command.namespace, command.class_name, *command.amounts)
        if max(map(len, names)) > NAME_LENGTH or len(command.amounts) > AMOUNTS_KEPT:
            reason = f"names and namespaces have at most {NAME_LENGTH} characters"
            reason += f", and it may ask for {AMOUNTS_KEPT} resources"
            return Ruling(code="invalid", reason=f"{what}: {reason}")
        living = len(self._enrolled) - len(self._dead)
        total_bytes = self._creations_bytes + size_bytes
        if living >= ACTORS_KEPT or total_bytes > TOTAL_BYTES:
            limits = f"{ACTORS_KEPT} actors and {TOTAL_BYTES} bytes are kept at most"
            there = f"there are {living} with {self._creations_bytes} bytes"
            return Ruling(code="full", reason=f"{what}: {limits}, {there}; end some")
        return None

    def _place(self, command: PlaceActor, now: float, events: list[Any]) -> Ruling:
        if not command.worker or command.worker in self._by_worker:
            reason = f"worker {command.worker.hex()} is an actor already"
            return Ruling(code="invalid", reason=reason)
        enrolled = self._enrolled.get(command.actor)
        if enrolled is None or not enrolled.asked or enrolled.asked != command.asked:
            reason = f"actor {command.actor.hex()} wants no worker from there"
            self._order(command.node, KillOrder(command.worker, reason), events)
            return Ruling(code="missing", reason=reason)
        if command.node not in self._members:
            self._ask(enrolled, events)
            reason = f"node {command.node.hex()} is no member: another worker is looked for"
            return Ruling(code="missing", reason=reason)
        if command.node in self._draining:
            reason = f"node {command.node.hex()} is drained: another worker is looked for"
            self._order(command.node, KillOrder(command.worker, reason), events)
            self._ask(enrolled, events)
            return Ruling(code="missing", reason=reason)
        enrolled.asked, enrolled.node, enrolled.worker = b"", command.node, command.worker
        self._by_worker[command.worker] = enrolled
        self._tell(ActorPlaced(command.actor, command.worker, command.address), now, events)
        return Ruling()

    def _refuse(
        self, actor: bytes, asked: bytes, event: ActorRefused, now: float, events: list[Any]
    ) -> Ruling:
        enrolled = self._enrolled.get(actor)
        if enrolled is None or not enrolled.asked or enrolled.asked != asked:
            reason = f"actor {actor.hex()} wants no worker from there"
            return Ruling(code="missing", reason=reason)
        enrolled.asked = b""
        self._tell(event, now, events)
        return Ruling()

    def _report(
        self,
        event: ActorStarted | ConstructorFailed | ActorLeft | ActorLost,
        now: float,
        events: list[Any],
    ) -> Ruling:
        """Hear from an actor's worker. What another one says, that it was before, is late."""
        enrolled = self._by_worker.get(event.worker)
        if enrolled is None or enrolled.facts.actor != event.actor:
            reason = f"worker {event.worker.hex()} is not actor {event.actor.hex()}"
            return Ruling(code="missing", reason=reason)
        if isinstance(event, ActorLost):
            self._clear_worker(enrolled)
        self._tell(event, now, events)
        return Ruling()

    # -------------------------------------------------------------- members and jobs

    def _joined(self, node: bytes, incarnation: int, now: float, events: list[Any]) -> None:
        if node in self._members:
            self._left(node, "it has registered anew", now, events)
        self._members[node] = incarnation
        for actor in [*self._unasked]:
            self._ask(self._enrolled[actor], events)

    def _drains(self, node: bytes, reason: str, now: float, events: list[Any]) -> None:
        self._draining[node] = None
        for enrolled in self._living():
            if enrolled.node == node:
                self._tell(MoveAsked(enrolled.facts.actor, reason), now, events)

    def _left(self, node: bytes, reason: str, now: float, events: list[Any]) -> None:
        self._members.pop(node, None)
        self._draining.pop(node, None)
        cause = f"node {node.hex()} is gone: {reason}"
        living = self._living()
        owners = {e.facts.owner: None for e in living if e.facts.node == node}
        for owner in owners:
            self._tell(ClientEnded(owner), now, events)
        for enrolled in living:
            if enrolled.node == node:
                actor, worker = enrolled.facts.actor, enrolled.worker
                self._clear_worker(enrolled)
                self._tell(ActorLost(actor, worker, cause), now, events)
        for enrolled in living:
            if enrolled.asked == node:
                self._ask(enrolled, events)

    def _job_ended(self, job: bytes, reason: str, now: float, events: list[Any]) -> None:
        for enrolled in self._living():
            if enrolled.facts.job == job and not enrolled.facts.is_detached:
                ended = EndAsked(enrolled.facts.actor, False, True, reason)
                self._tell(ended, now, events)

    def _living(self) -> list[Enrolled]:
        dead = set(self._dead)
        return [enrolled for actor, enrolled in self._enrolled.items() if actor not in dead]

    # -------------------------------------------------------------- effects

    def _tell(self, event: rules.Event, now: float, events: list[Any]) -> None:
        self._do(self._actors.handle(event, now), events)

    def _do(self, effects: list[rules.Effect], events: list[Any]) -> None:
        over: list[bytes] = []
        for effect in effects:
            match effect:
                case WantWorker(actor):
                    self._ask(self._enrolled[actor], events)
                case DropWant(actor):
                    self._drop(self._enrolled[actor], events)
                case Become(actor, worker, restarts):
                    enrolled = self._enrolled[actor]
                    order = MakeOrder(actor, worker, restarts, enrolled.facts.creation)
                    self._order(enrolled.node, order, events)
                case QuitActor(worker):
                    self._order(self._by_worker[worker].node, QuitOrder(worker), events)
                case KillActor(worker, reason):
                    self._order(self._by_worker[worker].node, KillOrder(worker, reason), events)
                case Tell(_, actor):
                    events.append(ActorChanged(actor))
                case Forget(actor):
                    over.append(actor)
                case Reply():
                    pass  # It is the answer to the creation.
                case _:
                    assert_never(effect)
        for actor in over:
            self._bury(actor)

    def _ask(self, enrolled: Enrolled, events: list[Any]) -> None:
        """Ask a member for a worker: the owner's node, else one after the other."""
        actor = enrolled.facts.actor
        self._unasked.pop(actor, None)
        if not self._members:
            enrolled.asked = b""
            self._unasked[actor] = None
            return
        node = enrolled.facts.node
        if node not in self._members:
            members = list(self._members)
            node = members[self._turn % len(members)]
            self._turn += 1
        enrolled.asked = node
        self._order(node, WantOrder(actor, enrolled.facts.creation), events)

    def _drop(self, enrolled: Enrolled, events: list[Any]) -> None:
        self._unasked.pop(enrolled.facts.actor, None)
        if enrolled.asked:
            self._order(enrolled.asked, DropOrder(enrolled.facts.actor), events)
            enrolled.asked = b""

    @staticmethod
    def _order(node: bytes, order: Order, events: list[Any]) -> None:
        events.append(OrderGiven(node, order))

    def _clear_worker(self, enrolled: Enrolled) -> None:
        self._by_worker.pop(enrolled.worker, None)
        enrolled.node = enrolled.worker = b""

    def _bury(self, actor: bytes) -> None:
        """Keep of a dead actor what people may ask for, as long as the machine remembers it."""
        enrolled = self._enrolled[actor]
        self._clear_worker(enrolled)
        group = enrolled.facts.group
        if group:
            del self._of_group[group][actor]
            if not self._of_group[group]:
                del self._of_group[group]
        self._creations_bytes -= _bytes_of(enrolled.facts)
        enrolled.facts = msgspec.structs.replace(enrolled.facts, creation=b"", handle=b"")
        self._dead.append(actor)
        while self._dead and self._actors.state_of(self._dead[0]) is None:
            del self._enrolled[self._dead.popleft()]

    # -------------------------------------------------------------- questions

    def find(self, actor: bytes) -> ActorStanding | None:
        """Return what is known of an actor; None: nothing."""
        enrolled, life = self._enrolled.get(actor), self._actors.news(actor)
        if life is None:
            return None
        if enrolled is None:  # It was ended before its creation came, if that comes.
            return ActorStanding(EnrolActor(actor, b"", b"", b"", b""), life, b"", b"")
        return ActorStanding(enrolled.facts, life, enrolled.node, enrolled.asked)

    def explain(self, actor: bytes, now: float) -> str:
        """Say where an actor is in its life, and why. Empty while it waits for a worker."""
        return self._actors.explain(actor, now)

    def named(self, name: str, namespace: str) -> bytes | None:
        """Return the living actor of this name."""
        return self._actors.find(name, namespace)

    def names(self) -> list[tuple[str, str]]:
        """Return (namespace, name) of the living named actors, in order."""
        return self._actors.names()

    def page(self, after: bytes | None, most: int) -> tuple[list[ActorStanding], bool]:
        """Return what is known of so many actors, the oldest first, and whether that is all.

        It goes on behind an actor; if that one is forgotten, at the beginning.
        """
        ids = iter(self._enrolled)
        if after in self._enrolled:
            while next(ids) != after:
                pass
        found = [self.find(actor) for actor in islice(ids, most + 1)]
        return [news for news in found if news][:most], len(found) <= most

    # -------------------------------------------------------------- as a table

    @override
    def wake_at(self) -> float | None:
        """Return when an actor that waits may start again."""
        return self._actors.wake_at()

    @override
    def due(self, now: float) -> Noted:
        """Start those that waited."""
        at = self._actors.wake_at()
        return Noted(commands=(TickActors(),)) if at is not None and at <= now else Noted()

    @override
    def image(self) -> ActorDirectoryImage:
        """Return the whole directory."""
        return ActorDirectoryImage(
            self._actors.image(),
            list(self._enrolled.values()),
            list(self._dead),
            list(self._unasked),
            list(self._members.items()),
            self._turn,
            list(self._draining),
        )

    @override
    def restore(self, image: ActorDirectoryImage) -> None:
        """Take the directory of an image."""
        self._actors = Actors()
        self._actors.restore(image.actors)
        self._enrolled = {enrolled.facts.actor: enrolled for enrolled in image.enrolled}
        self._by_worker = {e.worker: e for e in image.enrolled if e.worker}
        self._dead = deque(image.dead)
        self._unasked = dict.fromkeys(image.unasked)
        self._members = dict(image.members)
        self._turn = image.turn
        self._draining = dict.fromkeys(image.draining)
        self._of_group = {}
        for enrolled in self._living():
            self._enrol_in_group(enrolled.facts)
        self._creations_bytes = sum(_bytes_of(enrolled.facts) for enrolled in image.enrolled)

    @override
    def check(self) -> None:
        """Assert what is always true."""
        self._actors.check()
        assert len(self._actors.states()) == len(self._enrolled), 1
        living = {e.facts.actor: e for e in self._living()}
        for actor, enrolled in self._enrolled.items():
            life = self._actors.state_of(actor)
            assert life is not None and (life[0] == "dead") is (actor not in living), 1
            assert life[2] == enrolled.worker, 2
            assert not (enrolled.asked and enrolled.worker), 2
            assert bool(enrolled.worker) == bool(enrolled.node), 2
            assert not enrolled.asked or enrolled.asked in self._members, 1
            assert not enrolled.node or enrolled.node in self._members, 3
        assert not self._unasked or not self._members, 1
        assert self._draining.keys() <= self._members.keys(), 3
        assert self._by_worker == {e.worker: e for e in living.values() if e.worker}, 2
        in_groups = {(g, actor) for g, actors in self._of_group.items() for actor in actors}
        assert in_groups == {(e.facts.group, a) for a, e in living.items() if e.facts.group}, 1
        assert all(self._of_group.values()), 1
        assert len(living) <= ACTORS_KEPT, 4
        creations_bytes = sum(_bytes_of(e.facts) for e in self._enrolled.values())
        assert self._creations_bytes == creations_bytes <= TOTAL_BYTES, 4


def _bytes_of(facts: EnrolActor) -> int:
    """Return what is kept of an actor that may start again."""
    return len(facts.creation) + len(facts.handle)
