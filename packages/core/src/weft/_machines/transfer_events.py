"""What the machine of transfers.py is told, and what it has done.

The messages of other daemons and of owners are in _wire/transfers.py.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from weft._machines.offers import CloseSegment, OpenSegment, ReadChunk
from weft._machines.pulls import ObjectWaiter, TellOwner, TellPeer
from weft._wire.transfers import Edition, NodeLife, OwnerMessage, PeerMessage

# ------------------------------------------------------------------ events


class ObjectWanted(msgspec.Struct, frozen=True):
    """Somebody on this node needs an object that is on others. It holds a reference meanwhile."""

    edition: Edition
    size_bytes: int
    owner: str
    """Address of the process that owns it."""
    priority: int
    waiter: ObjectWaiter


class WantEnded(msgspec.Struct, frozen=True):
    """It is not needed any more."""

    edition: Edition
    waiter: ObjectWaiter


class WaiterGone(msgspec.Struct, frozen=True):
    """A process has ended: all its wants have."""

    client: bytes


class RoomLent(msgspec.Struct, frozen=True):
    """The answer to AskRoom."""

    request: int
    directory: str = ""
    """If not empty nothing is lent: it goes to disk, there."""


class RoomRefused(msgspec.Struct, frozen=True):
    """There is room neither in memory nor on disk."""

    request: int
    error: str


class ChunkCame(msgspec.Struct, frozen=True):
    """A chunk was received, and is where it belongs if it is right."""

    peer: NodeLife
    edition: Edition
    index: int
    is_right: bool
    """Its source had all of it until it was sent."""


class ArrivalFailed(msgspec.Struct, frozen=True):
    """What comes cannot be written, or its file cannot be made."""

    edition: Edition
    error: str


class SegmentReady(msgspec.Struct, frozen=True):
    """The answer to OpenSegment."""

    edition: Edition
    size_bytes: int
    """Of the object."""


class SegmentMissing(msgspec.Struct, frozen=True):
    """The answer to OpenSegment: the object is neither in memory nor on disk, or is damaged."""

    edition: Edition
    reason: str


class ChunkBroken(msgspec.Struct, frozen=True):
    """A chunk of what was open cannot be read."""

    edition: Edition
    reason: str


class CopyDropped(msgspec.Struct, frozen=True):
    """The store had no room for a copy any more, or cannot read it back."""

    name: str
    reason: str


class PeerSaid(msgspec.Struct, frozen=True):
    """Another node's daemon has sent a message."""

    peer: NodeLife
    message: PeerMessage


class OwnerSaid(msgspec.Struct, frozen=True):
    """An owner has sent a message."""

    owner: str
    message: OwnerMessage


class PeerCut(msgspec.Struct, frozen=True):
    """The connection to a node broke, or cannot be made."""

    peer: NodeLife


class PeerDied(msgspec.Struct, frozen=True):
    """A node is dead."""

    peer: NodeLife


class OwnerBack(msgspec.Struct, frozen=True):
    """An owner can be heard again; what was said meanwhile, on either side, is lost."""

    owner: str


class OwnerDied(msgspec.Struct, frozen=True):
    """An owner is dead, and its objects are nobody's."""

    owner: str
    reason: str


class TransfersTicked(msgspec.Struct, frozen=True):
    """Time has passed."""


Event = (
    ObjectWanted | WantEnded | WaiterGone | RoomLent | RoomRefused | ChunkCame | ArrivalFailed
    | SegmentReady | SegmentMissing | ChunkBroken | CopyDropped | PeerSaid | OwnerSaid | PeerCut
    | PeerDied | OwnerBack | OwnerDied | TransfersTicked
)  # fmt: skip

# ------------------------------------------------------------------ effects


class AskRoom(msgspec.Struct, frozen=True):
    """Ask the store for a loan for one object: then RoomLent or RoomRefused."""

    request: int
    size_bytes: int
    """Of the object; its segment is larger."""


class ReturnRoom(msgspec.Struct, frozen=True):
    """What was lent is not needed."""

    request: int


class BeginArrival(msgspec.Struct, frozen=True):
    """Make the file into which an object's chunks go as they come; ArrivalFailed: it cannot be."""

    edition: Edition
    name: str
    size_bytes: int
    directory: str
    """If not empty, it is made on disk."""


class AbandonArrival(msgspec.Struct, frozen=True):
    """Remove that file, and return its loan."""

    edition: Edition


class FinishCopy(msgspec.Struct, frozen=True):
    """All chunks are there: give the file its name, and the store the segment."""

    edition: Edition
    name: str
    is_kept: bool
    """For room it is spilled, not dropped."""
    is_open: bool
    """Its chunks are read still, until CloseSegment."""


class KeepSegment(msgspec.Struct, frozen=True):
    """A copy is not to be dropped for room any more: it is the primary."""

    name: str


class DropCopy(msgspec.Struct, frozen=True):
    """The object of a copy is gone."""

    name: str


class AnswerWant(msgspec.Struct, frozen=True):
    """Tell who waits that the object is on this node, or why it cannot be."""

    waiter: ObjectWaiter
    edition: Edition
    name: str = ""
    """Of its segment."""
    failure: Literal["", "gone", "failed"] = ""
    """gone: the object is, as its owner knows, or the owner is. failed: it cannot be kept here."""
    reason: str = ""


Effect = (
    TellPeer | TellOwner | AskRoom | ReturnRoom | BeginArrival | AbandonArrival | FinishCopy
    | KeepSegment | DropCopy | AnswerWant | OpenSegment | CloseSegment | ReadChunk
)  # fmt: skip
