"""What one node gets from others, and gives them: whose turn it is, and what comes from where.

    wanted -> queued -> asking (for room) -> pulling -> here -> dropped, for room or with its object

A pull begins when the store has lent room for the whole object, which it takes at once: two pulls
never hold half of what both need. The store is asked for one at a time, what a get waits for first,
then what a task needs that is to run, then the rest. Of the latter two fewer are under way at a
time, so that a get does not wait for them. When all memory is viewed the store lends on disk: so a
loan that is asked for always comes to an end, and so does a pull, unless its sources end before.

All who want an object here wait for one pull (pulls.py). It ends with the last of them, unless the
owner asked for the copy. Others are given what is here, or has come so far (offers.py).

A copy that is whole stays while the store has room for it. Its name is one of this node's own: the
segment of the original may be filled with another object while the copy's end is on its way here.

What is always true
1. Of an object there is a pull, or a copy, or neither. A pull has somebody who waits, or is kept.
2. At most one loan is asked for, and what is pulled has one. It is returned if nobody wants it any
   more.
3. At most `LIMITS[priority]` pulls are under way when one of that priority begins.
4. Every want is answered once: with the copy's name, or why there is none; or it ends by itself.
5. The owner knows of every pull under way and every copy, or is told when it can be heard again.
What is true of a pull and of an offer stands in their files.

Order of effects: what ends comes before what its room is used for; the copy is finished before
anybody is told of it.

How a shell makes it act
- To the store (segments.py) the node's daemon is a process like others: AskRoom is an AskLoan, and
  ReturnRoom a LoanReturned. What is lent beyond what was asked for is returned at once; a Recall is
  answered with 0. FinishCopy is SegmentsMade, then Evicted: so the segment is the node's. DropCopy
  is a Discard. OpenSegment is SegmentsOpened, CloseSegment is SegmentsClosed; Evict is answered
  with what is open.
- AnswerWant without an error is, in the store, the client's Restore of that name: then it is
  promised to the client.
- A node's connections are one after another: PeerCut is told before what the next one brings. So
  are owners', with OwnerBack.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Literal, assert_never

import msgspec

from weft._machines.offers import Offers
from weft._machines.pulls import ObjectWaiter, Pull, TellOwner, TellPeer
from weft._machines.transfer_events import (
    AbandonArrival,
    AnswerWant,
    ArrivalFailed,
    AskRoom,
    BeginArrival,
    ChunkBroken,
    ChunkCame,
    CopyDropped,
    DropCopy,
    Effect,
    Event,
    FinishCopy,
    KeepSegment,
    ObjectWanted,
    OwnerBack,
    OwnerDied,
    OwnerSaid,
    PeerCut,
    PeerDied,
    PeerSaid,
    ReturnRoom,
    RoomLent,
    RoomRefused,
    SegmentMissing,
    SegmentReady,
    TransfersTicked,
    WaiterGone,
    WantEnded,
)
from weft._wire.transfers import (
    AskChunks,
    CopyEnded,
    CopyKept,
    CopyWhole,
    Edition,
    EndChunks,
    EndCopy,
    KeepCopy,
    KnownPlaces,
    MakeCopy,
    MoreChunks,
    NoCopy,
    NodeLife,
    OwnerMessage,
    PeerMessage,
    RejectCopy,
    SendChunk,
    ServesOthers,
    Serving,
    chunks_of,
    unpack_chunks,
)
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

# What is wanted first, by its number.
GET, ARGUMENT, REST = range(3)
# How many pulls may be under way when one more begins, by its priority.
LIMITS = (32, 24, 8)


# ------------------------------------------------------------------ state


class _Here(msgspec.Struct):
    """A copy that is whole."""

    edition: Edition
    name: str
    owner: str
    is_kept: bool


class Transfers:
    """The pulls and offers of one node, which is `me`."""

    def __init__(self, me: NodeLife) -> None:
        self._me = me
        self._pull_of: dict[Edition, Pull] = {}
        self._queues: tuple[OrderedDict[Edition, Pull], ...] = tuple(OrderedDict() for _ in LIMITS)
        """What waits until the store may be asked, by priority."""
        self._begun = 0
        """Pulls that have a loan, or one is asked for."""
        self._requests = 0
        self._asked = 0
        """The request that the store has not answered; 0: there is none."""
        self._asking: Pull | None = None
        """What it is for, unless that has ended."""
        self._here_of: dict[Edition, _Here] = {}
        self._called: dict[str, Edition] = {}
        """Copies by their names."""
        self._names = 0
        self._offers = Offers(self._say)
        self._effects: list[Effect] = []

    def _say(self, effect: Effect) -> None:
        self._effects.append(effect)

    # -------------------------------------------------------------- events

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event; return what to do, in order.

        ProtocolError: somebody says what cannot be. Nothing is changed then.
        """
        match event:
            case ObjectWanted():
                self._want(event)
            case WantEnded(edition, waiter):
                self._end_waits(edition, [waiter])
            case WaiterGone(client):
                self._waiter_gone(client)
            case RoomLent(request, directory):
                self._room_lent(request, directory, now)
            case RoomRefused(request, error):
                self._room_refused(request, error)
            case ChunkCame():
                self._chunk_came(event, now)
            case ArrivalFailed(edition, error):
                if (pull := self._pull_of.get(edition)) is not None:
                    self._fail(pull, "failed", error)
            case SegmentReady(edition, size_bytes):
                self._offers.opened(edition, (1 << chunks_of(size_bytes)) - 1)
            case SegmentMissing(edition, reason) | ChunkBroken(edition, reason):
                self._unreadable(edition, reason)
            case CopyDropped(name, reason):
                if name in self._called:
                    self._part(self._called[name], reason)
            case PeerSaid(peer, message):
                self._peer_said(peer, message, now)
            case OwnerSaid(owner, message):
                self._owner_said(owner, message, now)
            case PeerCut(peer):
                self._offers.leave_all(peer)
                for pull in self._pull_of.values():
                    pull.cut(peer, now)
            case PeerDied(peer):
                self._offers.leave_all(peer)
                for pull in self._pull_of.values():
                    pull.died(peer, now)
            case OwnerBack(owner):
                self._owner_back(owner, now)
            case OwnerDied(owner, reason):
                self._owner_ended(owner, reason)
            case TransfersTicked():
                for pull in self._pulling():
                    if pull.wake_at() <= now:
                        pull.look(now)
            case _:
                assert_never(event)
        self._admit()
        effects, self._effects = self._effects, []
        return effects

    def wake_at(self) -> float | None:
        """Return when `TransfersTicked` is due, in seconds; None: never."""
        return min((pull.wake_at() for pull in self._pulling()), default=None)

    def _pulling(self) -> list[Pull]:
        return [pull for pull in self._pull_of.values() if pull.state == "pulling"]

    # -------------------------------------------------------------- what is wanted

    def _want(self, event: ObjectWanted) -> None:
        if event.size_bytes <= 0:
            raise ProtocolError(f"{event.edition} of {event.size_bytes} bytes was wanted")
        here = self._here_of.get(event.edition)
        if here is not None:
            self._say(AnswerWant(event.waiter, event.edition, here.name))
            return
        pull = self._pull(event.edition, event.size_bytes, event.owner)
        pull.waiters[event.waiter] = event.priority
        self._queue(pull)

    def _pull(self, edition: Edition, size_bytes: int, owner: str) -> Pull:
        """Return the pull of an object, or a fresh one."""
        pull = self._pull_of.get(edition)
        if pull is None:
            pull = Pull(edition, size_bytes, owner, me=self._me, say=self._say)
            self._pull_of[edition] = pull
        return pull

    def _queue(self, pull: Pull) -> None:
        """Put a pull that waits where its priority says; behind those that were there before."""
        if pull.state == "queued":
            queue = self._queues[min(pull.waiters.values(), default=REST)]
            if pull.edition not in queue:
                self._unqueue(pull)
                queue[pull.edition] = pull

    def _unqueue(self, pull: Pull) -> None:
        for queue in self._queues:
            queue.pop(pull.edition, None)

    def _end_waits(self, edition: Edition, waiters: Iterable[ObjectWaiter]) -> None:
        pull = self._pull_of.get(edition)
        if pull is None:
            return
        for waiter in waiters:
            pull.waiters.pop(waiter, None)
        if pull.waiters or pull.keeps:
            self._queue(pull)
        else:
            self._end(pull, "nobody there needs it any more")

    def _waiter_gone(self, client: bytes) -> None:
        for edition, pull in list(self._pull_of.items()):
            self._end_waits(edition, [w for w in pull.waiters if w.client == client])

    # -------------------------------------------------------------- room

    def _admit(self) -> None:
        """Ask for room for the next pull."""
        if self._asked:
            return
        for limit, queue in zip(LIMITS, self._queues, strict=True):
            if queue and self._begun < limit:
                _, pull = queue.popitem(last=False)
                self._begun += 1
                self._requests += 1
                pull.state = "asking"
                self._asked, self._asking = self._requests, pull
                self._say(AskRoom(self._requests, pull.size_bytes))
                return

    def _answered(self, request: int) -> Pull | None:
        """Return what the store was asked for, if that is wanted still."""
        assert request == self._asked, request
        pull, self._asked, self._asking = self._asking, 0, None
        if pull is None:
            self._begun -= 1
        return pull

    def _room_lent(self, request: int, directory: str, now: float) -> None:
        pull = self._answered(request)
        if pull is None:
            self._say(ReturnRoom(request))
            return
        self._names += 1
        # A node that is registered again begins to count anew.
        pull.name = f"{self._me.node_id.hex()}-{self._me.incarnation}.{self._names}"
        self._say(BeginArrival(pull.edition, pull.name, pull.size_bytes, directory))
        self._offers.coming(pull.edition)
        pull.begin(now)

    def _room_refused(self, request: int, error: str) -> None:
        pull = self._answered(request)
        if pull is not None:
            self._fail(pull, "failed", error)

    # -------------------------------------------------------------- chunks

    def _chunk_came(self, event: ChunkCame, now: float) -> None:
        pull = self._pull_of.get(event.edition)
        if pull is None or pull.state != "pulling":
            return
        if not 0 <= event.index < pull.chunks:
            raise ProtocolError(f"{event.edition} has no chunk {event.index}")
        if pull.came(event.peer, event.index, is_right=event.is_right, now=now):
            if pull.missing:
                self._offers.more(event.edition, 1 << event.index)
            else:
                self._finish(pull)

    def _finish(self, pull: Pull) -> None:
        """The object is here."""
        edition = pull.edition
        pull.leave()
        del self._pull_of[edition]
        self._begun -= 1
        here = self._here_of[edition] = _Here(edition, pull.name, pull.owner, pull.keeps)
        self._called[here.name] = edition
        # The file is finished before anybody is told.
        at = len(self._effects)
        is_open = self._offers.whole(edition, (1 << pull.chunks) - 1)
        self._effects.insert(at, FinishCopy(edition, here.name, here.is_kept, is_open))
        self._say(TellOwner(here.owner, CopyWhole(edition, self._me, here.is_kept)))
        for waiter in pull.waiters:
            self._say(AnswerWant(waiter, edition, here.name))

    def _end(self, pull: Pull, reason: str, *, tells_owner: bool = True) -> None:
        """A pull is of no use, or cannot go on."""
        edition = pull.edition
        del self._pull_of[edition]
        self._unqueue(pull)
        if pull is self._asking:
            self._asking = None
        elif pull.state != "queued":
            self._begun -= 1
        if pull.name:
            pull.leave()
            self._offers.end(edition, reason)
            self._say(AbandonArrival(edition))
        if tells_owner and (pull.name or pull.keeps):
            self._say(TellOwner(pull.owner, CopyEnded(edition, self._me, reason)))

    def _fail(
        self,
        pull: Pull,
        failure: Literal["gone", "failed"],
        reason: str,
        *,
        tells_owner: bool = True,
    ) -> None:
        self._end(pull, reason, tells_owner=tells_owner)
        for waiter in pull.waiters:
            self._say(AnswerWant(waiter, pull.edition, "", failure, reason))

    # -------------------------------------------------------------- copies that are here

    def _part(self, edition: Edition, reason: str, *, tells_owner: bool = True) -> str:
        """A copy is here no longer; return its name."""
        here = self._here_of.pop(edition)
        del self._called[here.name]
        self._offers.end(edition, reason)
        if tells_owner:
            self._say(TellOwner(here.owner, CopyEnded(edition, self._me, reason)))
        return here.name

    def _drop(self, edition: Edition, reason: str) -> None:
        """The object is gone, and its owner knows."""
        if edition in self._here_of:
            self._say(DropCopy(self._part(edition, reason, tells_owner=False)))
        elif (pull := self._pull_of.get(edition)) is not None:
            self._fail(pull, "gone", reason, tells_owner=False)

    def _unreadable(self, edition: Edition, reason: str) -> None:
        """What is here cannot be read; who asked for it tells the owner of an original."""
        if edition in self._here_of:
            self._say(DropCopy(self._part(edition, reason)))
        elif (pull := self._pull_of.get(edition)) is not None and pull.name:
            self._fail(pull, "failed", reason)
        else:
            self._offers.end(edition, reason)

    # -------------------------------------------------------------- other nodes

    def _peer_said(self, peer: NodeLife, message: PeerMessage, now: float) -> None:
        pull = self._pull_of.get(message.edition)
        match message:
            case AskChunks(edition, turn):
                self._ask_chunks(peer, edition, turn)
            case EndChunks(edition):
                self._offers.leave(peer, edition)
            case SendChunk(edition, index):
                self._offers.wants(peer, edition, index)
            case Serving(_, is_whole, chunks):
                if pull is not None:
                    pull.serving(peer, unpack_chunks(chunks), is_whole=is_whole, now=now)
            case MoreChunks(_, chunks, is_whole):
                if pull is not None:
                    pull.more(peer, unpack_chunks(chunks), is_whole=is_whole, now=now)
            case ServesOthers(_, others):
                if pull is not None:
                    pull.busy(peer, others, now)
            case NoCopy(_, reason):
                if pull is not None:
                    pull.has_none(peer, reason, now)
            case _:
                assert_never(message)

    def _ask_chunks(self, peer: NodeLife, edition: Edition, turn: int) -> None:
        here, pull = self._here_of.get(edition), self._pull_of.get(edition)
        if pull is not None and not pull.name:
            self._say(TellPeer(peer, NoCopy(edition, "it waits for room here")))
        else:
            name = here.name if here is not None else edition.segment
            self._offers.ask(peer, edition, turn, name=name)

    # -------------------------------------------------------------- owners

    def _owner_said(self, owner: str, message: OwnerMessage, now: float) -> None:
        edition = message.edition
        pull, here = self._pull_of.get(edition), self._here_of.get(edition)
        match message:
            case KnownPlaces(_, turn, whole, partial):
                if pull is not None and pull.name:
                    self._offers.turn(edition, turn)
                    pull.told(turn, whole, partial, now)
            case MakeCopy(_, size_bytes):
                if here is not None:
                    self._keep(here)
                    self._say(TellOwner(owner, CopyWhole(edition, self._me, True)))
                else:
                    self._make(edition, size_bytes, owner)
            case KeepCopy():
                if here is not None:
                    self._keep(here)
                    self._say(TellOwner(owner, CopyKept(edition, self._me)))
                else:
                    reason = "it was dropped before it was to be kept"
                    self._say(TellOwner(owner, CopyEnded(edition, self._me, reason)))
            case RejectCopy(_, reason):
                if here is not None:
                    self._say(DropCopy(self._part(edition, reason)))
            case EndCopy(_, reason):
                self._drop(edition, reason)
            case _:
                assert_never(message)

    def _make(self, edition: Edition, size_bytes: int, owner: str) -> None:
        """The owner wants a copy here."""
        pull = self._pull(edition, size_bytes, owner)
        pull.keeps = True
        self._queue(pull)

    def _keep(self, here: _Here) -> None:
        here.is_kept = True
        self._say(KeepSegment(here.name))

    def _owner_back(self, owner: str, now: float) -> None:
        for pull in self._pulling():
            if pull.owner == owner:
                pull.owner_back(now)
        for here in self._here_of.values():
            if here.owner == owner:
                self._say(TellOwner(owner, CopyWhole(here.edition, self._me, here.is_kept)))

    def _owner_ended(self, owner: str, reason: str) -> None:
        here = [here.edition for here in self._here_of.values() if here.owner == owner]
        coming = [pull.edition for pull in self._pull_of.values() if pull.owner == owner]
        for edition in (*here, *coming):
            self._drop(edition, reason)

    # -------------------------------------------------------------- questions

    def owners(self) -> list[str]:
        """Return whose objects are here, or on their way."""
        coming = [pull.owner for pull in self._pull_of.values()]
        here = [here.owner for here in self._here_of.values()]
        return list(dict.fromkeys(coming + here))

    def explain(self, client: bytes) -> str:
        """Say what the wants of a process wait for, a line each."""
        lines = []
        for pull in self._pull_of.values():
            if any(waiter.client == client for waiter in pull.waiters):
                if pull.state == "pulling":
                    what = f"is on its way: {pull.explain()}"
                elif pull.state == "asking":
                    what = f"waits for room of {pull.size_bytes} bytes in the store"
                else:
                    what = f"waits for {self._begun} others that are on their way"
                lines.append(f"object {pull.edition.object_id.hex()} {what}")
        return "\n".join(lines)

    def check(self) -> None:
        """Assert what is always true, by its number above."""
        self._offers.check()
        assert not self._pull_of.keys() & self._here_of.keys(), 1
        queued = [pull for queue in self._queues for pull in queue.values()]
        begun = [pull for pull in self._pull_of.values() if pull.state != "queued"]
        for edition, pull in self._pull_of.items():
            pull.check()
            assert pull.edition == edition and (pull.waiters or pull.keeps), (1, edition)
            assert (pull.state == "pulling") == bool(pull.name), (2, edition)
            assert (pull.state == "asking") == (pull is self._asking), (2, edition)
            assert (pull.state == "queued") == (queued.count(pull) == 1), (3, edition)
            offer = self._offers.offer_of.get(edition)
            assert not pull.name or (offer is not None and not offer.is_here), (1, edition)
        assert len(queued) + len(begun) == len(self._pull_of), 1
        assert self._asked or self._asking is None, 2
        assert self._begun == len(begun) + (self._asked > 0 and self._asking is None), 3
        assert self._begun <= max(LIMITS), 3
        assert self._called == {here.name: here.edition for here in self._here_of.values()}, 1
