"""The ways on which nodes are told what to do with bundles and drains, and others the view.

What cannot be sent to a node is lost with its way: the next one begins with what the node holds,
and the tables say again what is needed. A follower of the view that is too slow for what changes is
sent all of it anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from weft._control.calls.desk import RefusedError
from weft._machines.rulings import Ruling
from weft._transport.control import messages

DELTAS = 64
"""So many wait for one follower; when there are more it gets the whole view instead."""


class NodeWay(Protocol):
    """How a node is answered that beats."""

    incarnation: int

    def send(self, answer: messages.HeartbeatAnswer) -> None:
        """Tell the node something, unless it is told no more."""
        ...

    def refuse(self, refusal: RefusedError) -> None:
        """Tell the node, after all else, that it is not listened to."""
        ...


class NodeLink:
    """One node's stream of gRPC's. What is to be said at one time is said in one message."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self._answer: messages.HeartbeatAnswer | None = None
        self._refusal: RefusedError | None = None
        self._is_over = False
        self._wake = asyncio.Event()

    def send(self, answer: messages.HeartbeatAnswer) -> None:
        """Tell the node something, unless it is told no more."""
        if self._is_over:
            return
        if self._answer is None:
            self._answer = messages.HeartbeatAnswer()
        self._answer.MergeFrom(answer)
        self._wake.set()

    def refuse(self, refusal: RefusedError) -> None:
        """Tell the node, after all else, that it is not listened to."""
        self._refusal = refusal
        self.end()

    def end(self) -> None:
        """Say no more than what is to be said already."""
        self._is_over = True
        self._wake.set()

    async def next(self) -> messages.HeartbeatAnswer | None:
        """Return what the node is to be told next; None: no more. RefusedError: it is told that."""
        await self._wake.wait()
        answer, self._answer = self._answer, None
        if answer is None and self._refusal is not None:
            raise self._refusal
        if not self._is_over:
            self._wake.clear()
        return answer


class NodeLinks:
    """The ways to all nodes, one each."""

    def __init__(self) -> None:
        self._way_to: dict[bytes, NodeWay] = {}

    def open(self, node: bytes, way: NodeWay) -> None:
        """Take a way to a node, in the place of one that there may be."""
        old = self._way_to.get(node)
        self._way_to[node] = way
        if old is not None:
            old.refuse(not_heard(node, old.incarnation, "it has begun another stream"))

    def close(self, node: bytes, way: NodeWay) -> bool:
        """End a way; tell whether it was the node's newest."""
        if self._way_to.get(node) is not way:
            return False
        del self._way_to[node]
        return True

    def send(self, node: bytes, incarnation: int, answer: messages.HeartbeatAnswer) -> None:
        """Tell a node something, if there is a way to it."""
        way = self._way_to.get(node)
        if way is not None and way.incarnation == incarnation:
            way.send(answer)

    def fence(self, node: bytes, incarnation: int, reason: str) -> None:
        """End the way to a node in this life, if there is one, and say why."""
        way = self._way_to.get(node)
        if way is not None and way.incarnation == incarnation:
            del self._way_to[node]
            way.refuse(not_heard(node, incarnation, reason))


def not_heard(node: bytes, incarnation: int, reason: str) -> RefusedError:
    """Return what a node is told that is not listened to."""
    text = f"node {node.hex()} is not listened to as incarnation {incarnation}: {reason}"
    return RefusedError(Ruling(code="fenced", reason=text))


class ViewFollower:
    """One stream of the view."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self.is_behind = False
        """It wants the whole view."""

    def add(self, delta: bytes) -> None:
        """Let it have a change: an encoded ViewDelta."""
        if len(self._waiting) >= DELTAS:
            self._waiting.clear()
            self.is_behind = True
        if not self.is_behind:
            self._waiting.append(delta)
        self._wake.set()

    def begin_anew(self, whole: bytes) -> None:
        """Let it have the whole view."""
        self.is_behind = False
        self.add(whole)

    async def wait(self) -> None:
        """Wait until there is something to send, or it is behind."""
        await self._wake.wait()
        self._wake.clear()

    def take(self) -> list[bytes]:
        """Return what is to be sent."""
        taken, self._waiting = list(self._waiting), deque()
        return taken
