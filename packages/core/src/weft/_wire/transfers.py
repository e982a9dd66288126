"""What daemons and owners say to each other while objects go from node to node.

    daemon -> owner      BeginCopy, CopyWhole, CopyKept, CopyEnded, BlamePlace
    owner -> daemon      KnownPlaces, MakeCopy, KeepCopy, RejectCopy, EndCopy
    daemon -> daemon     AskChunks, EndChunks, SendChunk -> <- Serving, MoreChunks, ServesOthers,
                         NoCopy, Chunk
    process -> daemon    WantCopy, EndWant
    daemon -> process    CopyHere

They travel packed in a `Transfer` of messages.py: a machine alone does without all of this.

A chunk's bytes follow the frame that ends with its `Chunk`; they are in no message.

What is always true
1. What is said of an object is said of one edition of it: an object that was lost and made again
   may have other bytes, and the chunks of two editions never meet.
2. Connections keep the order: an owner's EndCopy arrives before what it says of the next edition.
"""

from __future__ import annotations

import msgspec

from weft.exceptions import ProtocolError

CHUNK_BYTES = 4 * 1024 * 1024


class NodeLife(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
    """One registration of a node: what one says of an earlier one does not hold for it."""

    node_id: bytes
    incarnation: int
    address: str
    """Where its one port is."""


class Edition(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
    """An object as it was made once: made again after a loss, it is in another segment."""

    object_id: bytes
    segment: str
    """Of its creator: `Shared.segment` of its value."""


class TransferMessage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What these messages have in common. Their tags are apart from those of messages.py."""


def chunks_of(size_bytes: int) -> int:
    """Return how many chunks an object has."""
    return -(-size_bytes // CHUNK_BYTES)


def pack_chunks(chunks: int) -> bytes:
    """Return a set of chunks, bit by bit, as it is in a message."""
    return chunks.to_bytes((chunks.bit_length() + 7) // 8, "little")


def unpack_chunks(data: bytes) -> int:
    """Return the set of chunks that is in a message."""
    return int.from_bytes(data, "little")


# ------------------------------------------------------------------ daemon -> owner


class BeginCopy(TransferMessage, frozen=True, tag=1):
    """The sender has room for a copy and begins to pull it. Answered by KnownPlaces or EndCopy.

    Said again when no place that it knows is of use.
    """

    edition: Edition
    node: NodeLife


class CopyWhole(TransferMessage, frozen=True, tag=2):
    """The sender has the whole object, checked. Said again to an owner that could not be heard."""

    edition: Edition
    node: NodeLife
    is_kept: bool
    """It is not dropped for room: see KeepCopy."""


class CopyKept(TransferMessage, frozen=True, tag=3):
    """The answer to KeepCopy, if the copy is there; else CopyEnded is."""

    edition: Edition
    node: NodeLife


class CopyEnded(TransferMessage, frozen=True, tag=4):
    """The sender has no copy any more, nor is it getting one."""

    edition: Edition
    node: NodeLife
    reason: str


class BlamePlace(TransferMessage, frozen=True, tag=5):
    """A place that should have the whole object has not, or had not when it was to send it."""

    edition: Edition
    node: NodeLife
    """The sender."""
    place: NodeLife
    is_gone: bool
    """It says itself that it has no copy."""
    reason: str


# ------------------------------------------------------------------ owner -> daemon


class KnownPlaces(TransferMessage, frozen=True, tag=6):
    """Where an object can be had: some of the places, those first that few were sent to."""

    edition: Edition
    turn: int
    """The receiver's among all who pull: it takes chunks of whole places, and of earlier ones."""
    whole: list[NodeLife]
    partial: list[NodeLife]
    """Who is getting it, and began earlier than the receiver."""


class MakeCopy(TransferMessage, frozen=True, tag=7):
    """Pull this and keep it: its only places are about to end. CopyWhole follows, or CopyEnded."""

    edition: Edition
    size_bytes: int
    owner: str
    """Address of the sender."""


class KeepCopy(TransferMessage, frozen=True, tag=8):
    """The receiver's copy is the primary from here on: for room it is spilled, not dropped."""

    edition: Edition


class EndCopy(TransferMessage, frozen=True, tag=10):
    """The object is gone: drop the copy, and end the pull, if there is either."""

    edition: Edition
    reason: str


class RejectCopy(TransferMessage, frozen=True, tag=9):
    """Others found the receiver's copy to be bad: drop it, if it is there, and say CopyEnded.

    A pull that began meanwhile goes on.
    """

    edition: Edition
    reason: str


# ------------------------------------------------------------------ daemon that pulls -> daemon


class AskChunks(TransferMessage, frozen=True, tag=11):
    """Serve this object to the sender. Answered by Serving, ServesOthers or NoCopy."""

    edition: Edition
    turn: int


class EndChunks(TransferMessage, frozen=True, tag=12):
    """The sender needs no chunk more, or does not wait for its turn any longer."""

    edition: Edition


class SendChunk(TransferMessage, frozen=True, tag=13):
    """Send this one. Answered by Chunk, or NoCopy. The sender is being served."""

    edition: Edition
    index: int


# ------------------------------------------------------------------ daemon that serves -> daemon


class Serving(TransferMessage, frozen=True, tag=14):
    """The receiver may ask for chunks, until NoCopy."""

    edition: Edition
    is_whole: bool
    chunks: bytes
    """Which the sender has, if not all: bit by bit, the first in the lowest bit."""


class ServesOthers(TransferMessage, frozen=True, tag=15):
    """Others are served; Serving follows in its time. Meanwhile these are worth to be asked."""

    edition: Edition
    others: list[NodeLife]
    """Who is getting it from the sender, and began earlier than the receiver."""


class MoreChunks(TransferMessage, frozen=True, tag=16):
    """The sender has these as well."""

    edition: Edition
    chunks: bytes
    """As in Serving."""
    is_whole: bool = False


class NoCopy(TransferMessage, frozen=True, tag=17):
    """The sender has no copy (any more), or none for the receiver: nothing of it will follow."""

    edition: Edition
    reason: str


class Chunk(TransferMessage, frozen=True, tag=18):
    """A chunk: its bytes follow the frame, in a parcel that says in the end if they count."""

    edition: Edition
    index: int
    size_bytes: int


# ------------------------------------------------------------------ process <-> its own daemon


class WantCopy(TransferMessage, frozen=True, tag=19):
    """The sender needs an object that is on another node. Answered by CopyHere."""

    edition: Edition
    size_bytes: int
    owner: str
    """Address of the process that owns it."""
    priority: int
    """As in transfers.py."""
    request: int
    """One of the numbers of Restore."""


class EndWant(TransferMessage, frozen=True, tag=20):
    """The sender does not need it any more. It may have been answered."""

    edition: Edition
    request: int


class CopyHere(TransferMessage, frozen=True, tag=21):
    """The answer to WantCopy. If there is a copy, a Restored of its name follows."""

    edition: Edition
    request: int
    name: str
    """Of its segment; empty: there is none."""
    failure: str = ""
    """As in AnswerWant."""
    reason: str = ""


PeerMessage = AskChunks | EndChunks | SendChunk | Serving | ServesOthers | MoreChunks | NoCopy
"""What daemons say to each other, but for Chunk."""
OwnerMessage = KnownPlaces | MakeCopy | KeepCopy | RejectCopy | EndCopy
"""What owners say to daemons."""
CopyMessage = BeginCopy | CopyWhole | CopyKept | CopyEnded | BlamePlace
"""What daemons say to owners."""
Spoken = PeerMessage | OwnerMessage | CopyMessage | Chunk | WantCopy | EndWant | CopyHere

# An id is its bytes.
_encoder = msgspec.msgpack.Encoder(enc_hook=bytes)
_decoder: msgspec.msgpack.Decoder[Spoken] = msgspec.msgpack.Decoder(Spoken)


def pack_transfer(message: Spoken) -> bytes:
    """Return a message as it is in a `Transfer`."""
    return _encoder.encode(message)


def unpack_transfer(body: bytes) -> Spoken:
    """Return what is in a `Transfer`. ProtocolError: it is none of these messages."""
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"a message about an object cannot be read: {error}") from None
