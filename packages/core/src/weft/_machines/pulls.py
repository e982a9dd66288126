"""One object on its way to this node: what is missing, who has it, what is asked of whom.

A source is a place that was named, by the owner or by another source:

    known -> asked -> serving              it gives chunks, until all are here or it has none
               |         ^
               +-> busy -+                 it serves others; we are in its queue

Up to `WHOLE_SOURCES` whole places serve at once, and one that is itself getting the object is
enough: its turn is earlier, so it comes to have all. Who is served leaves the queues of the others.
Each source is asked for the first chunk that it has and nobody is asked for, up to a window; so a
fast one gives more than a slow one. What is late is asked of another source as well, as soon as
that has nothing else to do; what comes first counts.

If nothing comes for `LOOK_S`, busy sources and the owner are asked again, less and less often. A
source that broke off, has nothing, or lost what it was sending rests for `REST_S`: what came of it
stays.

What is always true
1. A chunk that is asked for, and not late, is asked of one source.
2. A source is asked for what it said it has, and for at most `WINDOW` chunks at a time.
3. If nobody serves, is asked or has us in its queue, the owner is asked, or a time is set for that.

It is a part of transfers.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from weft._wire.transfers import (
    AskChunks,
    BeginCopy,
    BlamePlace,
    CopyMessage,
    Edition,
    EndChunks,
    NodeLife,
    PeerMessage,
    SendChunk,
    chunks_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Enough to fill a fast link at its delay; little enough to lose when a source dies.
WINDOW = 4
WHOLE_SOURCES = 2
# A chunk takes a third of a second on a link of 100 Mbit/s.
LOOK_S = 1.0
MAX_LOOK_S = 30.0
REST_S = 0.5
UNKNOWN = 0
"""The turn of who was not told one."""


class TellPeer(msgspec.Struct, frozen=True):
    """Send a message to another node's daemon; PeerCut if that cannot be."""

    peer: NodeLife
    message: PeerMessage


class TellOwner(msgspec.Struct, frozen=True):
    """Send a message to the process that owns the object."""

    owner: str
    message: CopyMessage


class ObjectWaiter(msgspec.Struct, frozen=True):
    """Who wants an object on this node."""

    client: bytes
    request: int


class ChunkSource:
    """A place that was named."""

    __slots__ = ("asked_at", "has", "is_refused", "is_whole", "node", "rests_until", "state")

    def __init__(self, node: NodeLife, *, is_whole: bool) -> None:
        self.node = node
        self.is_whole = is_whole
        self.state: Literal["known", "asked", "busy", "serving"] = "known"
        self.has = 0
        """The chunks that it says it has, as bits."""
        self.asked_at: dict[int, float] = {}
        """By chunk that is to come from it, since when."""
        self.rests_until = float("-inf")
        self.is_refused = False
        """It served others when it was asked; so it is not asked again while another one serves."""


class Pull:
    """One object on its way, or about to be."""

    __slots__ = (
        "_say", "chunks", "edition", "flying", "has_asked_owner", "keeps", "look_at", "look_s",
        "me", "missing", "name", "owner", "owner_rests_until", "size_bytes", "sources", "state",
        "turn", "waiters",
    )  # fmt: skip

    def __init__(
        self,
        edition: Edition,
        size_bytes: int,
        owner: str,
        *,
        me: NodeLife,
        say: Callable[[TellPeer | TellOwner], None],
    ) -> None:
        """`say` is called with what is to be said."""
        self.edition = edition
        self.size_bytes = size_bytes
        self.owner = owner
        self.me = me
        self._say = say
        self.waiters: dict[ObjectWaiter, int] = {}
        """By who waits, with what priority."""
        self.keeps = False
        """The owner wants this node to have it."""
        self.name = ""
        """Of its segment, once there is room for it."""
        self.state: Literal["queued", "asking", "pulling"] = "queued"
        self.chunks = chunks_of(size_bytes)
        self.missing = (1 << self.chunks) - 1
        self.flying = 0
        """Of these, those that are to come and are not late."""
        self.sources: dict[NodeLife, ChunkSource] = {}
        self.turn = UNKNOWN
        self.has_asked_owner = False
        """It has not answered yet."""
        self.owner_rests_until = 0.0
        self.look_at = 0.0
        self.look_s = LOOK_S

    # -------------------------------------------------------------- to and from the owner

    def begin(self, now: float) -> None:
        """There is room: ask the owner for places."""
        self.state = "pulling"
        self.look_at = now + self.look_s
        self._ask_owner(now)

    def _ask_owner(self, now: float) -> None:
        self.has_asked_owner = True
        self.owner_rests_until = now + REST_S
        self._say(TellOwner(self.owner, BeginCopy(self.edition, self.me)))

    def owner_back(self, now: float) -> None:
        """What the owner was asked, or has answered, may be lost."""
        self._ask_owner(now)

    def told(
        self, turn: int, whole: Sequence[NodeLife], partial: Sequence[NodeLife], now: float
    ) -> None:
        """The owner names places."""
        self.has_asked_owner = False
        self.turn = turn
        for node in whole:
            source = self.sources.setdefault(node, ChunkSource(node, is_whole=True))
            source.is_whole = True
        self._add(partial)
        self.seek(now)

    def _add(self, nodes: Sequence[NodeLife]) -> None:
        for node in nodes:
            if node != self.me and node not in self.sources:
                self.sources[node] = ChunkSource(node, is_whole=False)

    # -------------------------------------------------------------- what sources say

    def serving(self, node: NodeLife, has: int, *, is_whole: bool, now: float) -> None:
        """A source lets us ask for chunks, if we still wait for that."""
        source = self.sources.get(node)
        if source is None or source.state == "known":
            return
        if not is_whole and self.look_s == LOOK_S and self._is_served_whole():
            # It can do more for others.
            source.state, source.is_refused = "known", True
            self._say(TellPeer(node, EndChunks(self.edition)))
            return
        source.state, source.is_refused = "serving", False
        self.more(node, has, is_whole=is_whole, now=now)
        self.seek(now)

    def _is_served_whole(self) -> bool:
        return any(s.is_whole and s.state == "serving" for s in self.sources.values())

    def more(self, node: NodeLife, has: int, *, is_whole: bool, now: float) -> None:
        """A source has more chunks than it had."""
        source = self.sources.get(node)
        if source is not None and source.state == "serving":
            source.is_whole = is_whole
            source.has |= (1 << self.chunks) - 1 if is_whole else has
            self.order(now)

    def busy(self, node: NodeLife, others: Sequence[NodeLife], now: float) -> None:
        """A source serves others, and has us in its queue."""
        source = self.sources.get(node)
        if source is not None and source.state != "known":
            self._take_back(source)
            source.state = "busy"
            source.is_refused = True
            self._add(others)
            self.seek(now)

    def has_none(self, node: NodeLife, reason: str, now: float) -> None:
        """A source has no copy."""
        source = self.sources.get(node)
        if source is not None:
            if source.is_whole:
                self._blame(node, reason, is_gone=True)
            self._rest(source, now)
            self.seek(now)

    def cut(self, node: NodeLife, now: float) -> None:
        """A source cannot be heard."""
        if (source := self.sources.get(node)) is not None:
            self._rest(source, now)
            self.seek(now)

    def died(self, node: NodeLife, now: float) -> None:
        """A source's node is dead."""
        if (source := self.sources.pop(node, None)) is not None:
            self._take_back(source)
            self.seek(now)

    def came(self, node: NodeLife, index: int, *, is_right: bool, now: float) -> bool:
        """A chunk came; tell whether it is right and was missing."""
        source, bit = self.sources.get(node), 1 << index
        # One that was asked for before the source was left may be gone since then.
        is_due = source is not None and source.asked_at.pop(index, None) is not None
        is_fresh = is_right and bool(self.missing & bit)
        if is_fresh:
            self.missing &= ~bit
            self.flying &= ~bit
            self.look_s = LOOK_S
            self.look_at = now + LOOK_S
        elif source is not None and is_due and not is_right:
            is_asked = any(index in other.asked_at for other in self.sources.values())
            self.flying &= -1 if is_asked else ~bit
            self._say(TellPeer(node, EndChunks(self.edition)))
            self._blame(node, f"chunk {index} was gone before it was sent", is_gone=False)
            self._rest(source, now)
        if self.missing:
            self.seek(now)
        return is_fresh

    def _blame(self, node: NodeLife, reason: str, *, is_gone: bool) -> None:
        message = BlamePlace(self.edition, self.me, node, is_gone, reason)
        self._say(TellOwner(self.owner, message))

    def _rest(self, source: ChunkSource, now: float) -> None:
        """Ask this one no more for a while."""
        self._take_back(source)
        source.state = "known"
        source.rests_until = now + REST_S

    def _take_back(self, source: ChunkSource) -> None:
        """What was asked of a source will not come: others may be asked."""
        asked, source.asked_at, source.has = source.asked_at, {}, 0
        for index in asked:
            if not any(index in other.asked_at for other in self.sources.values()):
                self.flying &= ~(1 << index)

    # -------------------------------------------------------------- whom to ask

    def seek(self, now: float) -> None:
        """Ask for as many sources as are of use, and these for chunks."""
        states = [source.state for source in self.sources.values()]
        is_served = "serving" in states
        if is_served:
            self._leave_queues(now)
        whole = sum(s.is_whole and s.state in ("asked", "serving") for s in self.sources.values())
        seeks_partial = not is_served and not any(
            s.state == "asked" and not s.is_whole for s in self.sources.values()
        )
        for source in self._able(now):
            if source.is_refused and is_served:
                continue
            if source.is_whole and whole < WHOLE_SOURCES:
                whole += 1
            elif not source.is_whole and seeks_partial:
                seeks_partial = False
            else:
                continue
            source.state = "asked"
            self._say(TellPeer(source.node, AskChunks(self.edition, self.turn)))
        if self._is_alone() and not self.has_asked_owner and now >= self.owner_rests_until:
            self._ask_owner(now)
        self.order(now)

    def _able(self, now: float) -> list[ChunkSource]:
        return [
            source
            for source in self.sources.values()
            if source.state == "known" and source.rests_until <= now
        ]

    def _leave_queues(self, now: float) -> None:
        """Others need them more; unless who serves us is stuck."""
        if self.look_s > LOOK_S:
            return
        for source in self.sources.values():
            if source.state == "busy":
                source.state = "known"
                self._say(TellPeer(source.node, EndChunks(self.edition)))

    def _is_alone(self) -> bool:
        return all(source.state == "known" for source in self.sources.values())

    def order(self, now: float) -> None:
        """Ask each source for chunks, until its window is full."""
        for source in self.sources.values():
            if source.state != "serving":
                continue
            while len(source.asked_at) < WINDOW:
                index = self._next_chunk(source, now)
                if index is None:
                    break
                source.asked_at[index] = now
                self.flying |= 1 << index
                self._say(TellPeer(source.node, SendChunk(self.edition, index)))

    def _next_chunk(self, source: ChunkSource, now: float) -> int | None:
        able = self.missing & ~self.flying & source.has
        for index in source.asked_at:
            able &= ~(1 << index)
        if able:
            return (able & -able).bit_length() - 1
        late = [
            (at, index)
            for other in self.sources.values()
            if other is not source
            for index, at in other.asked_at.items()
            if at <= now - LOOK_S
            and self.missing & source.has & (1 << index)
            and index not in source.asked_at
            and self._last_asked(index) <= now - LOOK_S
        ]
        return min(late)[1] if late else None

    def _last_asked(self, index: int) -> float:
        return max(source.asked_at.get(index, 0.0) for source in self.sources.values())

    # -------------------------------------------------------------- time

    def wake_at(self) -> float:
        """Return when `look` is due."""
        times = [self.look_at]
        if self._is_alone():
            times += [source.rests_until for source in self.sources.values()]
            if not self.has_asked_owner:
                times.append(self.owner_rests_until)
        return min(times)

    def look(self, now: float) -> None:
        """Time has passed: look for other sources if nothing came."""
        if now >= self.look_at:
            self.look_s = min(2 * self.look_s, MAX_LOOK_S)
            self.look_at = now + self.look_s
            for source in self.sources.values():
                source.is_refused = False
            if not self.has_asked_owner:
                self._ask_owner(now)
        self.seek(now)

    # -------------------------------------------------------------- the end

    def leave(self) -> None:
        """No source is needed any more."""
        for source in self.sources.values():
            if source.state != "known":
                self._say(TellPeer(source.node, EndChunks(self.edition)))
        self.sources.clear()
        self.flying = 0

    def explain(self) -> str:
        """Say what it waits for."""
        have = self.chunks - self.missing.bit_count()
        counts = [
            f"{sum(s.state == state for s in self.sources.values())} {state}"
            for state in ("serving", "busy", "asked", "known")
        ]
        return f"{have} of {self.chunks} chunks are here; sources: {', '.join(counts)}"

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        asked: dict[int, int] = {}
        for source in self.sources.values():
            assert len(source.asked_at) <= WINDOW, (2, self.edition)
            assert source.state == "serving" or not source.asked_at, (2, self.edition)
            for index in source.asked_at:
                assert source.has & 1 << index, (2, index)
                asked[index] = asked.get(index, 0) + 1
        assert self.flying & ~self.missing == 0, (1, self.edition)
        for index in range(self.chunks):
            if self.flying >> index & 1:
                assert asked.get(index), (1, index)
        if self.state == "pulling" and self._is_alone():
            assert self.has_asked_owner or self.wake_at() > float("-inf"), (3, self.edition)
