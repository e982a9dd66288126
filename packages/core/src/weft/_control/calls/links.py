"""The streams over which nodes are told what to do with bundles and drains, and others the view.

A queue for each stream. What cannot be sent to a node is lost with its stream: the next one begins
with what the node holds, and the tables say again what is needed. A follower of the view that is
too slow for what changes is sent all of it anew.
"""

from __future__ import annotations

import asyncio
from collections import deque

from weft._control.calls.desk import RefusedError
from weft._machines.rulings import Ruling
from weft._transport.control import messages

DELTAS = 64
"""So many wait for one follower; when there are more it gets the whole view instead."""


class NodeLink:
    """One node's stream. What is to be said at one time is said in one message."""

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
    """The streams of all nodes, one each."""

    def __init__(self) -> None:
        self._link_of: dict[bytes, NodeLink] = {}

    def open(self, node: bytes, incarnation: int) -> NodeLink:
        """Begin a node's stream, in the place of one that there may be."""
        self.fence(node, "it has begun another stream")
        link = self._link_of[node] = NodeLink(incarnation)
        return link

    def close(self, node: bytes, link: NodeLink) -> bool:
        """End a stream; tell whether it was the node's newest."""
        if self._link_of.get(node) is not link:
            return False
        del self._link_of[node]
        return True

    def send(self, node: bytes, incarnation: int, answer: messages.HeartbeatAnswer) -> None:
        """Tell a node something, if there is a way to it."""
        link = self._link_of.get(node)
        if link is not None and link.incarnation == incarnation:
            link.send(answer)

    def fence(self, node: bytes, reason: str) -> None:
        """End a node's stream, and say why."""
        link = self._link_of.pop(node, None)
        if link is not None:
            text = f"node {node.hex()} is not listened to as incarnation {link.incarnation}"
            link.refuse(RefusedError(Ruling(code="fenced", reason=f"{text}: {reason}")))


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
