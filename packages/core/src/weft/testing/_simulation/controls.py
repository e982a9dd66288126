"""The control service in a world: its tables, a journal that is synced, a process that dies.

Real are the ledger and all tables in it. Modelled is what stands round them: the writer
(`_control/service.py`), the streams of nodes (`_control/calls/members.py`, `links.py`) and what
events of tables cause (`_control/concerns.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weft._machines import bundles, members, views
from weft._machines.directory import ActorDirectory
from weft._machines.groups import Groups
from weft._machines.jobs import Jobs
from weft._machines.keyvalues import KeyValues
from weft._machines.ledger import Ledger, LedgerEntry, TableBroke
from weft._machines.membership import Membership, NodeSaid
from weft._machines.orders import Orders
from weft._machines.reservations import (
    CommitAsked,
    ReleaseAsked,
    ReserveAsked,
    TellCommitted,
    TellRefused,
    TellReserved,
)
from weft._machines.tables import MemberRemoved, ServiceBegun
from weft._override import override
from weft.testing._simulation.letters import (
    BundlesOrdered,
    ControlAnswer,
    ControlCall,
    Fenced,
    FollowView,
    Heartbeat,
    ViewsSent,
    WholeViewWanted,
)
from weft.testing._simulation.world import VirtualEnd, VirtualProcess, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from weft._ids import NodeId
    from weft._machines.rulings import Ruling
    from weft._machines.tables import Noted

SYNC_S = (0.0005, 0.01)
START_AGAIN_S = (0.3, 2.0)
SNAPSHOT_LINES = 8
# As in _control/service.py.
ALARM_S = 0.01


class VirtualJournal:
    """What stays of a control service that dies."""

    def __init__(self) -> None:
        self.snapshot: bytes | None = None
        self.lines: list[bytes] = []
        self.starts = 0


class _Stream:
    """A node's stream of heartbeats."""

    def __init__(self, end: VirtualEnd, node_id: NodeId, incarnation: int) -> None:
        self.end = end
        self.node_id = node_id
        self.incarnation = incarnation
        self.follower: views.Follower[NodeId, Any] = views.Follower()


class VirtualControl(VirtualProcess):
    """One life of the control service."""

    def __init__(self, world: World, journal: VirtualJournal, silence_s: float) -> None:
        super().__init__(world, "control", "control", "control:1/control")
        self._journal = journal
        journal.starts += 1
        self.number = journal.starts
        self.membership = Membership(silence_s)
        self.groups = Groups()
        self.ledger = Ledger(
            [self.membership, Orders(), ActorDirectory(), Jobs(), self.groups, KeyValues()]
        )
        if journal.snapshot is not None:
            self.ledger.restore(journal.snapshot)
        for line in journal.lines:
            self.ledger.apply(self.ledger.decode(line))
        self._began_at = world.now - self.ledger.now
        self._waiting: list[tuple[LedgerEntry, list[VirtualEnd]]] = []
        self._is_writing = False
        self._under_way: dict[tuple[bytes, int], list[VirtualEnd]] = {}
        self._stream_of: dict[bytes, _Stream] = {}
        self._follower_of: dict[bytes, VirtualEnd] = {}
        self._followers = 0
        self.step(lambda: self._note(ServiceBegun(self.number)))

    @property
    def now(self) -> float:
        """The service's own time."""
        return self.world.now - self._began_at

    # -------------------------------------------------------------- time

    @override
    def wake_at(self) -> float | None:
        at = self.ledger.wake_at()
        return None if at is None else max(self.world.now + ALARM_S, at + self._began_at)

    @override
    def wake(self) -> None:
        self._do_noted(self.ledger.due(self.now))

    def _note(self, happened: Any) -> None:
        self._do_noted(self.ledger.note(happened, self.now))

    def _do_noted(self, noted: Noted) -> None:
        for event in noted.events:
            self._tell(event)
        for command in noted.commands:
            self._enqueue(LedgerEntry(0.0, command), [])

    # -------------------------------------------------------------- commands

    def _call(self, end: VirtualEnd, call: ControlCall) -> None:
        known = self.ledger.answer_of(call.request)
        name = (call.request.client, call.request.number)
        if known is not None:
            end.send(ControlAnswer(call.request.number, known))
        elif name in self._under_way:
            self._under_way[name].append(end)
        else:
            asking = self._under_way[name] = [end]
            self._enqueue(LedgerEntry(0.0, call.command, call.request, call.sender), asking)

    def _enqueue(self, entry: LedgerEntry, asking: list[VirtualEnd]) -> None:
        self._waiting.append((entry, asking))
        if not self._is_writing:
            self._write()

    def _write(self) -> None:
        """Make durable what waits, then do it."""
        self._is_writing = bool(self._waiting)
        if not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        entries = [
            LedgerEntry(self.now, entry.command, entry.request, entry.sender) for entry, _ in batch
        ]
        lines = [self.ledger.encode(entry) for entry in entries]

        def synced() -> None:
            for entry, (_, asking) in zip(entries, batch, strict=True):
                self._apply(entry, asking)
            self.ledger.check()
            if len(self._journal.lines) >= SNAPSHOT_LINES:
                self._journal.snapshot, self._journal.lines = self.ledger.image(), []
            self._write()

        def durable() -> None:
            self._journal.lines += lines
            # Who dies here has done what nobody was answered.
            self.later(self.world.random.uniform(*SYNC_S), synced)

        self.later(self.world.random.uniform(*SYNC_S), durable)

    def _apply(self, entry: LedgerEntry, asking: list[VirtualEnd]) -> None:
        applied = self.ledger.apply(entry)
        if entry.request is not None:
            del self._under_way[entry.request.client, entry.request.number]
            self._answer(asking, entry.request.number, applied.answer)
        for event in applied.events:
            self._tell(event)

    @staticmethod
    def _answer(asking: list[VirtualEnd], number: int, ruling: Ruling) -> None:
        for end in asking:
            end.send(ControlAnswer(number, ruling))

    # -------------------------------------------------------------- what tables tell

    def _tell(self, event: Any) -> None:
        match event:
            case TableBroke(table, what, error):
                raise AssertionError(f"table {table} cannot take {what}: {error}")
            case MemberRemoved(node, _, reason) | members.Fence(node, _, reason):
                self._fence(bytes(node), reason)
            case views.Publish(delta):
                for end in self._follower_of.values():
                    end.send(ViewsSent(delta))
            case views.SendWhole(follower, delta):
                self._follower_of[follower].send(ViewsSent(delta))
            case bundles.ReserveBundles():
                order: Any = ReserveAsked(
                    self.number,
                    event.group,
                    event.attempt,
                    event.bundles,
                    event.size,
                    event.patience_s,
                    event.owner,
                    event.commits,
                )
                self._order(event, order)
            case bundles.CommitBundles():
                self._order(event, CommitAsked(self.number, event.group, event.attempt))
            case bundles.ReleaseBundles():
                self._order(
                    event, ReleaseAsked(self.number, event.group, event.attempt, event.reason)
                )
            case _:
                pass

    def _order(
        self,
        event: bundles.ReserveBundles | bundles.CommitBundles | bundles.ReleaseBundles,
        order: Any,
    ) -> None:
        stream = self._stream_of.get(event.node_id)
        if stream is not None and stream.incarnation == event.incarnation:
            stream.end.send(BundlesOrdered(order))

    def _fence(self, node: bytes, reason: str) -> None:
        stream = self._stream_of.pop(node, None)
        if stream is not None:
            stream.end.send(Fenced(reason))
            stream.end.close("it is fenced")

    # -------------------------------------------------------------- streams

    @override
    def called(self, end: VirtualEnd, message: Any) -> None:
        match message:
            case ControlCall():
                self._call(end, message)
            case FollowView():
                self._followers += 1
                end.peer = self._followers.to_bytes(8, "big")
                self._follower_of[end.peer] = end
                self._note(views.WholeAsked(end.peer))
            case Heartbeat(node_id, incarnation):
                if end.peer is None:
                    self._fence(node_id, "it has begun another stream")
                    end.peer = self._stream_of[node_id] = _Stream(end, node_id, incarnation)
                self._heard(end.peer, message)
            case _:
                raise AssertionError(message)

    @override
    def hung_up(self, end: VirtualEnd, why: str) -> None:
        match end.peer:
            case bytes():
                del self._follower_of[end.peer]
                self._note(views.FollowerGone(end.peer))
            case _Stream(node_id=node_id, incarnation=incarnation):
                if self._stream_of.get(node_id) is end.peer:
                    del self._stream_of[node_id]
                    self._note(members.LinkClosed(node_id, incarnation))
            case _:
                pass

    def _heard(self, stream: _Stream, message: Heartbeat) -> None:
        """Take what a node says (`MemberCalls.hear`)."""
        node_id, incarnation = message.node_id, message.incarnation
        view = self._view(stream, message)
        self._note(members.HeartbeatHeard(node_id, incarnation))
        if not self.membership.is_member(node_id, incarnation):
            return
        if message.held is not None:
            self._note(bundles.NodeResumed(node_id, incarnation, message.held))
        if view is not None:
            self._note(NodeSaid(incarnation, view))
        for report in message.reports:
            self._note(_report(node_id, incarnation, report))

    def _view(self, stream: _Stream, message: Heartbeat) -> Any:
        if message.delta is None:
            return None
        effects = stream.follower.handle(views.DeltaHeard(message.delta), self.world.now)
        if any(isinstance(effect, views.AskWhole) for effect in effects):
            stream.end.send(WholeViewWanted())
        return stream.follower.table().get(message.node_id) if effects else None


def _report(node_id: NodeId, incarnation: int, report: Any) -> Any:
    match report:
        case TellReserved(group, attempt):
            return bundles.BundlesReserved(node_id, incarnation, group, attempt)
        case TellRefused(group, attempt, reason):
            return bundles.BundlesRefused(node_id, incarnation, group, attempt, reason)
        case TellCommitted(group, attempt):
            return bundles.BundlesCommitted(node_id, incarnation, group, attempt)
        case _:
            raise AssertionError(report)


def start_again(
    world: World,
    journal: VirtualJournal,
    silence_s: float,
    started: Callable[[VirtualControl], None],
) -> None:
    """Start the control service some time after it has died."""
    delay_s = world.random.uniform(*START_AGAIN_S)
    world.later(delay_s, lambda: started(VirtualControl(world, journal, silence_s)))
