"""The placement groups of a session on one machine: this daemon is their control service, too.

    GroupCreated -> bundles.ReserveBundles -> reservations.WantAmounts -> leases.AmountsLent
                 -> TellReserved -> CommitBundles -> OpenBundle, TellGroup("ready") -> Answer

What control is told to be free of the node is what is free once the tasks that run have ended: on
one machine there is no other node to go to, so bundles wait for them, before any other task.

What is always true
1. Who asks for a group is answered once, when it is ready or removed.
2. A group that this machine can never hold is refused when it is created.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from msgspec import structs

from weft import _settings
from weft._clock import monotonic
from weft._ids import PlacementGroupId
from weft._machines.bundle_plans import BundleSpec
from weft._machines.bundles import (
    Bundles,
    BundlesCommitted,
    BundlesRefused,
    BundlesReserved,
    BundlesTicked,
    CommitBundles,
    GroupCreated,
    GroupRemoved,
    NodesSeen,
    OwnerEnded,
    RefuseGroup,
    ReleaseBundles,
    ReserveBundles,
    TellGroup,
    removed_in_words,
)
from weft._machines.leases import GroupGone
from weft._machines.placement import group_of
from weft._machines.reservations import (
    CommitAsked,
    NodeFenced,
    ReleaseAsked,
    ReserveAsked,
    TellCommitted,
    TellRefused,
    TellReserved,
)
from weft._machines.stock import NOTHING
from weft._node.reserving import Reserving
from weft._override import override
from weft._resources import Resources
from weft._specs import GroupSpec
from weft._wire.codec import pack, unpack
from weft._wire.messages import Answer

if TYPE_CHECKING:
    from weft._machines.bundles import BundleEffect, BundleEvent
    from weft._node.clients import Client, Clients
    from weft._node.facts import NodeFacts
    from weft._node.reserving import Report
    from weft._node.rules import Rules
    from weft._specs import Shape


class NodeGroups(Protocol):
    """The placement groups, as a daemon deals with them."""

    reserving: Reserving

    def ask(self, client: Client, request: int, what: str, body: bytes) -> None:
        """Answer one of questions.OF_GROUPS, sooner or later.

        create_group: a GroupSpec; the answer is why it can never be placed, empty if it can.
        remove_group: [a group's id, why]; it is not waited for.
        groups: no body; the answer is one map a group, also of the newest that were removed.
        group_ready: a group's id; answered when it is ready, with an error if it is removed.
        why_group: a group's id; the answer is its state and what it waits for, as plain text.
        """
        ...

    def refusal(self, shape: Shape) -> str:
        """Say why nothing of this shape can ever go into its group; empty if it may."""
        ...

    def state_of(self, shape: Shape) -> str:
        """Say what the group of a shape waits for; empty if it is ready, or that is not known."""
        ...

    def job_ended(self, job_id: bytes) -> None:
        """A job is over: its groups end with it, but for those that are detached."""
        ...

    def forget(self, client: bytes) -> None:
        """A client is gone: it is answered no more."""
        ...

    def fenced(self) -> None:
        """This node was declared dead: what runs in bundles ends, and so did who wanted groups."""
        self.reserving.tell(NodeFenced())

    def wake_at(self) -> float | None:
        """Return when `tick` is due, in seconds; None: never."""
        ...

    def tick(self) -> None:
        """Do what is due."""
        ...


# There is one control service and one life of this node.
CONTROL = INCARNATION = 1
FOREVER = float("inf")


class LocalGroups(NodeGroups):
    """Does what the machine of placement groups decides."""

    def __init__(self, facts: NodeFacts, rules: Rules, clients: Clients) -> None:
        self._facts = facts
        self._rules = rules
        self._clients = clients
        # What it is told to be free is what is free once tasks have ended: there is nothing else to
        # wait for.
        self._machine = Bundles(press_s=FOREVER)
        self.reserving = Reserving(facts, rules, self._reported)
        self._checks = _settings.CHECK.value()
        self._effects: deque[BundleEffect] = deque()
        self._said = NOTHING
        """What lasts of the node's amounts in use, as control was told last."""
        self._is_stale = True
        """Control was told of other bundles than there are."""
        self._refused = ""
        self._waiting: dict[PlacementGroupId, list[tuple[bytes, int]]] = {}
        """By group: (client, request) of those that want to know when it is ready."""

    # -------------------------------------------------------------- what clients ask

    @override
    def ask(self, client: Client, request: int, what: str, body: bytes) -> None:
        answer = b""
        try:
            match what:
                case "create_group":
                    answer = pack(self._create(unpack(body, GroupSpec)))
                case "remove_group":
                    self._tell(GroupRemoved(*unpack(body, tuple[PlacementGroupId, str])))
                case "groups":
                    answer = pack(self._list_groups())
                case "why_group":
                    answer = self._explain(unpack(body, PlacementGroupId)).encode()
                case _:
                    self._ask_ready(client, request, unpack(body, PlacementGroupId))
                    return
        except ValueError as error:
            self._clients.send(client, Answer(request, b"", str(error)))
        else:
            self._clients.send(client, Answer(request, answer))

    def _create(self, spec: GroupSpec) -> str:
        created = GroupCreated(
            spec.group_id,
            tuple(
                BundleSpec(Resources.of_units(dict(bundle.amounts)), bundle.labels)
                for bundle in spec.bundles
            ),
            spec.strategy,  # type: ignore[arg-type]  # the API lets no others through
            b"" if spec.is_detached else spec.job_id,
            spec.name,
            spec.namespace,
            spec.topology,
        )
        self._look()
        never = self._machine.why_never(created)
        if never:
            return never
        self._refused = ""
        self._tell(created)
        if self._refused:
            raise ValueError(self._refused)
        return ""

    @override
    def job_ended(self, job_id: bytes) -> None:
        self._tell(OwnerEnded(job_id))

    def _ask_ready(self, client: Client, request: int, group: PlacementGroupId) -> None:
        facts = self._machine.facts(group)
        if facts is None:
            error = f"no placement group {group.hex()} is known here"
            self._clients.send(client, Answer(request, b"", error))
        elif facts.state == "ready":
            self._clients.send(client, Answer(request))
        elif facts.state == "removed":
            self._clients.send(client, Answer(request, b"", removed_in_words(group, facts.reason)))
        else:
            self._waiting.setdefault(group, []).append((client.worker_id, request))

    def _list_groups(self) -> list[dict[str, Any]]:
        known = [*self._machine.groups(), *self._machine.removed()]
        return [self._describe(group) for group in known]

    def _describe(self, group: PlacementGroupId) -> dict[str, Any]:
        facts = self._machine.facts(group)
        assert facts is not None
        created = facts.created
        return {
            "group_id": group.hex(),
            "name": created.name,
            "namespace": created.namespace,
            "strategy": created.strategy,
            "topology": created.topology,
            "state": facts.state,
            "reason": facts.reason if facts.state in ("ready", "removed") else self._explain(group),
            "is_detached": not created.owner,
            "job_id": created.owner.hex(),
            "bundles": [
                {
                    "amounts": dict(spec.amounts),
                    "labels": spec.labels,
                    "node_id": facts.places[index].hex() if index in facts.places else "",
                }
                for index, spec in enumerate(created.bundles)
            ],
        }

    def _explain(self, group: PlacementGroupId) -> str:
        return self._machine.explain(group, monotonic())

    @override
    def refusal(self, shape: Shape) -> str:
        group = group_of(shape)
        facts = self._machine.facts(group) if group is not None else None
        if group is None or (facts is not None and facts.state != "removed"):
            return ""
        if facts is None:
            return f"no placement group {group.hex()} is known here"
        return removed_in_words(group, facts.reason)

    @override
    def state_of(self, shape: Shape) -> str:
        group = group_of(shape)
        facts = self._machine.facts(group) if group is not None else None
        if group is None or facts is None or facts.state == "ready":
            return ""
        return f"placement group {group.hex()} is {self._explain(group)}"

    @override
    def forget(self, client: bytes) -> None:
        for group, asks in list(self._waiting.items()):
            self._waiting[group] = [ask for ask in asks if ask[0] != client]

    # -------------------------------------------------------------- time and room

    @override
    def wake_at(self) -> float | None:
        times = (self._machine.wake_at(), self.reserving.wake_at())
        return min((at for at in times if at is not None), default=None)

    @override
    def tick(self) -> None:
        self.reserving.tick()
        at = self._machine.wake_at()
        if at is None:
            return  # Nobody waits: what is free is looked at when somebody comes.
        self._look()
        if at <= monotonic():
            self._tell(BundlesTicked())

    def _look(self) -> None:
        """Tell control what is free, if that has changed."""
        lasting = self._rules.leases.lasting
        if lasting is self._said and not self._is_stale:
            return
        self._said, self._is_stale = lasting, False
        view = structs.replace(self._facts.view(), free=self._facts.total - lasting)
        self._tell(NodesSeen(((INCARNATION, self.reserving.shown(view)),)))

    # -------------------------------------------------------------- what the machine says

    def _tell(self, event: BundleEvent) -> None:
        is_outermost = not self._effects
        self._effects += self._machine.handle(event, monotonic())
        if self._checks:
            self._machine.check()
        while is_outermost and self._effects:
            # It is taken off when it is done: what is done may tell more.
            self._do(self._effects[0])
            self._effects.popleft()

    def _do(self, effect: BundleEffect) -> None:
        match effect:
            case ReserveBundles(_, _, group, attempt, bundles, size, job, _, commits):
                at = (CONTROL, group, attempt)
                asked = ReserveAsked(*at, bundles, size, FOREVER, job, commits)
                self.reserving.tell(asked)
            case CommitBundles(group=group, attempt=attempt):
                self.reserving.tell(CommitAsked(CONTROL, group, attempt))
            case ReleaseBundles(group=group, attempt=attempt, reason=reason):
                self._is_stale = True
                self.reserving.tell(ReleaseAsked(CONTROL, group, attempt, reason))
            case TellGroup(group, "ready"):
                self._answer(group, "")
            case TellGroup(group, "removed", reason=reason):
                self._answer(group, removed_in_words(group, reason))
                self._rules.tell_leases(GroupGone(group, removed_in_words(group, reason)))
            case TellGroup():
                pass
            case RefuseGroup(reason=reason):
                self._refused = reason
            case _:
                assert_never(effect)

    def _answer(self, group: PlacementGroupId, error: str) -> None:
        for client, request in self._waiting.pop(group, ()):
            self._clients.send_to(client, Answer(request, b"", error))

    def _reported(self, report: Report) -> None:
        self._is_stale = True
        at = (self._facts.node_id, INCARNATION, report.group, report.attempt)
        match report:
            case TellReserved():
                self._tell(BundlesReserved(*at))
            case TellRefused(reason=reason):
                self._tell(BundlesRefused(*at, reason))
            case TellCommitted():
                self._tell(BundlesCommitted(*at))
            case _:
                assert_never(report)
