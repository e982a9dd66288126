"""What of the service Members is about nodes: they register, beat, drain and are listed."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from weft._control.calls.desk import RefusedError, a_sender, an_id, invalid, missing
from weft._control.calls.links import NodeLink, not_heard
from weft._control_messages import delta_of, node_of_standing, view_of
from weft._ids import NodeId
from weft._machines.members import (
    HEARTBEAT_S,
    SILENCE_S,
    AskDrain,
    DrainAsked,
    DrainReason,
    DrainStarted,
    HeartbeatHeard,
    LinkClosed,
    NodeLeft,
    RegisterAsked,
    TellDrain,
)
from weft._machines.membership import NodeSaid
from weft._machines.rulings import Ruling
from weft._machines.views import AskWhole, DeltaHeard, Follower
from weft._transport.control import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weft._control.calls.desk import Desk
    from weft._control.calls.links import NodeLinks, NodeWay
    from weft._machines.membership import Membership
    from weft._machines.placement import NodeView
    from weft._transport.credentials import MemberCredentials

TEXT = 4096
"""Of a reason, in characters: more is not taken."""
_DONE = messages.Done()
_HEARD = messages.HeartbeatAnswer()


class Admission(NamedTuple):
    """What who joins is given."""

    credentials: MemberCredentials
    journal: str
    """Where another head finds the journal; empty: nowhere."""


class MemberCalls:
    """Answers nodes, and those who ask for nodes."""

    def __init__(
        self,
        desk: Desk,
        membership: Membership,
        links: NodeLinks,
        given: Admission,
    ) -> None:
        """`given`: to who joins."""
        self._desk = desk
        self._membership = membership
        self._links = links
        self._given = given
        self._asked: dict[tuple[bytes, int], asyncio.Future[bool]] = {}
        """Drains that wait for what the node says."""

    async def register(self, request: messages.RegisterRequest, _: Any) -> messages.RegisterAnswer:
        """Make a node a member."""
        node = request.node
        name = request.id.client + request.id.number.to_bytes(8, "big")
        command = RegisterAsked(
            NodeId(an_id(node.node_id, "node")),
            name if request.HasField("id") else os.urandom(len(name)),
            node.address[:TEXT],
            node.host[:TEXT],
            node.is_head,
        )
        header = messages.Header(id=request.id) if request.HasField("id") else messages.Header()
        incarnation = await self._desk.do(command, header)
        return messages.RegisterAnswer(
            incarnation=int(incarnation), heartbeat_s=HEARTBEAT_S, silence_s=SILENCE_S
        )

    async def get_credentials(
        self, _: messages.GetCredentialsRequest, __: Any
    ) -> messages.GetCredentialsAnswer:
        """Give a node what it needs to be called as one of this cluster."""
        self._desk.read()
        found = self._given.credentials
        return messages.GetCredentialsAnswer(
            certificate=found.certificate, key=found.key, journal=self._given.journal
        )

    async def list(self, _: messages.ListMembersRequest, __: Any) -> messages.ListMembersAnswer:
        """Return the nodes that live, then the dead."""
        self._desk.read()
        return messages.ListMembersAnswer(
            nodes=[node_of_standing(standing) for standing in self._membership.all()]
        )

    # -------------------------------------------------------------- drains

    async def drain(self, request: messages.DrainRequest, _: Any) -> messages.Done:
        """Let a node be emptied: at once, or if it says that it is idle."""
        self._desk.read()
        node_id = NodeId(an_id(request.node_id, "node"))
        standing = self._membership.find(node_id)
        if standing is None or standing.is_dead:
            raise missing(f"node {node_id.hex()} is no living member; see `weft list nodes`")
        reason: DrainReason = "preemption" if request.is_preemption else "idle"
        message, deadline_s = request.message[:TEXT], max(0.0, request.deadline_s)
        incarnation = standing.facts.incarnation
        if standing.facts.life == "draining":
            return _DONE
        if reason == "idle" and not await self._agrees(node_id, incarnation, message, deadline_s):
            text = f"node {node_id.hex()} is not idle: wait, or drain it as preempted"
            raise RefusedError(Ruling(code="full", reason=text))
        started = DrainStarted(node_id, incarnation, reason, message, deadline_s)
        await self._desk.do(started, request.header)
        return _DONE

    async def _agrees(
        self, node_id: NodeId, incarnation: int, message: str, deadline_s: float
    ) -> bool:
        """Ask a node whether it is idle and takes nothing more."""
        key = (bytes(node_id), incarnation)
        agrees = self._asked.get(key)
        if agrees is None:
            agrees = self._asked[key] = asyncio.get_running_loop().create_future()
            self._desk.service.note(DrainAsked(node_id, "idle", message, deadline_s))
        try:
            return await asyncio.wait_for(asyncio.shield(agrees), SILENCE_S)
        except TimeoutError:
            return False
        finally:
            self._asked.pop(key, None)

    # -------------------------------------------------------------- heartbeats

    async def heartbeats(
        self, requests: AsyncIterator[messages.Heartbeat], _: Any
    ) -> AsyncIterator[messages.HeartbeatAnswer]:
        """Hear a node, and tell it what it is to do."""
        iterator = aiter(requests)
        first = await anext(iterator, None)
        if first is None:
            raise invalid("nobody says which node is there")
        sender = a_sender(first.sender)
        link = NodeLink(sender.incarnation)
        hearing = self.begin(NodeId(sender.node), link)
        reader = asyncio.create_task(_read(hearing, first, iterator))
        reader.add_done_callback(lambda _: link.end())
        try:
            while (answer := await link.next()) is not None:
                yield answer
            reader.result()
        finally:
            if not reader.cancel() and not reader.cancelled():
                reader.exception()  # It was told, or nobody is there to be told.
            self.end(hearing)

    def refusal(self, node_id: NodeId, incarnation: int) -> str:
        """Return why a node is not listened to; empty: it is."""
        return self._membership.refusal(node_id, incarnation)

    def begin(self, node_id: NodeId, way: NodeWay) -> Hearing:
        """Hear a node from here on, and tell it what it is to do. RefusedError: it is no member."""
        refusal = self._membership.refusal(node_id, way.incarnation)
        if refusal:
            raise not_heard(node_id, way.incarnation, refusal)
        self._links.open(node_id, way)
        told = self._membership.drain_of(node_id, self._desk.service.now)
        if told is not None:
            way.send(told_drain(told))
        return Hearing(self, node_id, way)

    def end(self, hearing: Hearing) -> None:
        """Hear it no more: its connection is gone."""
        if self._links.close(hearing.node_id, hearing.way):
            self._desk.service.note(LinkClosed(hearing.node_id, hearing.way.incarnation))

    def heartbeat_s(self) -> float:
        """Return how far the heartbeats of a node are to be apart."""
        return self._membership.heartbeat_s()

    def hear(
        self,
        node_id: NodeId,
        incarnation: int,
        heartbeat: messages.Heartbeat,
        view: NodeView | None,
    ) -> None:
        """Note what a node says, in the order in which tables want it."""
        self._desk.read()
        service = self._desk.service
        service.note(HeartbeatHeard(node_id, incarnation))
        if not self._membership.is_member(node_id, incarnation):
            return  # It is told so: Fence.
        if view is not None:
            service.note(NodeSaid(incarnation, view))
        if heartbeat.HasField("agrees_to_drain"):
            asked = self._asked.get((bytes(node_id), incarnation))
            if asked is not None and not asked.done():
                asked.set_result(heartbeat.agrees_to_drain)
        if heartbeat.HasField("empty"):
            service.note(NodeLeft(node_id, incarnation, heartbeat.empty[:TEXT]))


class Hearing:
    """What is heard of a node, on one stream or line."""

    def __init__(self, calls: MemberCalls, node_id: NodeId, way: NodeWay) -> None:
        self.node_id = node_id
        self.way = way
        self._calls = calls
        self._follower: Follower[NodeId, NodeView] = Follower()
        self._heartbeat_s = HEARTBEAT_S
        """As the node was told."""

    def hear(self, heartbeat: messages.Heartbeat) -> None:
        """Take a heartbeat, and answer it. RefusedError: it makes no sense."""
        view = self._view(heartbeat.view) if heartbeat.HasField("view") else None
        self._calls.hear(self.node_id, self.way.incarnation, heartbeat, view)
        wanted_s = self._calls.heartbeat_s()
        if wanted_s == self._heartbeat_s:
            self.way.send(_HEARD)
        else:
            self._heartbeat_s = wanted_s
            self.way.send(messages.HeartbeatAnswer(heartbeat_s=wanted_s))

    def _view(self, said: messages.ViewDelta) -> NodeView | None:
        """Return what the node has, if that has changed."""
        try:
            delta = delta_of(said, view_of)
        except ValueError as error:
            raise invalid(f"the view of node {self.node_id.hex()}: {error}") from None
        if delta.changed.keys() - {self.node_id} or delta.source != self.way.incarnation:
            raise invalid(f"node {self.node_id.hex()} speaks for another")
        effects = self._follower.handle(DeltaHeard(delta), 0.0)
        if any(isinstance(effect, AskWhole) for effect in effects):
            self.way.send(messages.HeartbeatAnswer(ask_whole=True))
        return self._follower.table().get(self.node_id) if effects else None


async def _read(
    hearing: Hearing, first: messages.Heartbeat, others: AsyncIterator[messages.Heartbeat]
) -> None:
    hearing.hear(first)
    async for heartbeat in others:
        hearing.hear(heartbeat)


def asked_drain(effect: AskDrain) -> messages.HeartbeatAnswer:
    """Return what a node is asked that may be idle."""
    drain = messages.Drain(reason="idle", message=effect.message, deadline_s=effect.deadline_s)
    return messages.HeartbeatAnswer(ask_drain=drain)


def told_drain(effect: TellDrain) -> messages.HeartbeatAnswer:
    """Return what a node is told that is to be emptied."""
    drain = messages.Drain(
        reason=effect.reason, message=effect.message, deadline_s=effect.deadline_s
    )
    return messages.HeartbeatAnswer(tell_drain=drain)
