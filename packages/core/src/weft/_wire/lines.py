"""What a node's daemon and the control service say to each other where gRPC would take too long.

    daemon -> control    SayBeat, HeldOnNode, SayReserved, SayRefused, SayCommitted,
                         AskGroup, EndGroup, FollowGroup, CallControl
    control -> daemon    BeatAnswered, NotMember, ReserveOrder, CommitOrder, ReleaseOrder,
                         GroupAnswered, GroupChanged, CallAnswered

They travel packed in a `ControlTalk` of messages.py: a machine alone does without all of this.

What is always true
1. Both sides begin with Hello: the daemon's has the incarnation of its node, control's its number.
2. The daemon's next message is HeldOnNode: what was lost with a connection follows from it.
3. Connections keep the order: a node hears of what is released before what is reserved next.
"""

from __future__ import annotations

import msgspec

from weft.exceptions import ProtocolError


class LineMessage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What these messages have in common. Their tags are apart from those of messages.py."""


# ------------------------------------------------------------------ daemon -> control


class HeldOnNode(LineMessage, frozen=True, tag=1):
    """What the node holds for placement groups."""

    held: list[tuple[bytes, int, list[int], bool]]
    """(group, attempt, indices of bundles, whether tasks are let in)."""


class SayReserved(LineMessage, frozen=True, tag=2):
    """All bundles of an order are reserved."""

    group: bytes
    attempt: int


class SayRefused(LineMessage, frozen=True, tag=3):
    """None of them is."""

    group: bytes
    attempt: int
    reason: str


class SayCommitted(LineMessage, frozen=True, tag=4):
    """Tasks may come into what an order wanted committed at once."""

    group: bytes
    attempt: int


class AskGroup(LineMessage, frozen=True, tag=5):
    """Create a group, once, and follow it. Answered by GroupAnswered."""

    client: bytes
    number: int
    done_below: int
    """The three are the name of the request."""
    spec: bytes
    """A packed GroupSpec."""


class EndGroup(LineMessage, frozen=True, tag=6):
    """Remove a group. Answered by GroupAnswered."""

    client: bytes
    number: int
    done_below: int
    group: bytes


class FollowGroup(LineMessage, frozen=True, tag=7):
    """Tell of a group, as it is and as it changes, until it is removed."""

    group: bytes


class CallControl(LineMessage, frozen=True, tag=13):
    """A call of a method of control.proto that takes and gives one message.

    Answered by CallAnswered.
    """

    number: int
    service: str
    method: str
    """As Python writes it: `end_owner`."""
    body: bytes
    """The message that it takes."""


class SayBeat(LineMessage, frozen=True, tag=15):
    """The node is there. Answered by BeatAnswered, or by NotMember: it is no member."""

    body: bytes = b""
    """A Heartbeat of control.proto; who says it is known."""


# ------------------------------------------------------------------ control -> daemon


class ReserveOrder(LineMessage, frozen=True, tag=8):
    """Reserve these bundles, all or none. Answered by SayReserved, SayRefused or SayCommitted."""

    group: bytes
    attempt: int
    bundles: dict[int, dict[str, int]]
    """By index: amounts in 1/10,000."""
    size: int
    """How many bundles the group has."""
    patience_s: float
    """So long they may wait for tasks to end."""
    job: bytes
    """They count for it; empty: for none."""
    commits: bool
    """No other node has to reserve first: let tasks in at once."""


class CommitOrder(LineMessage, frozen=True, tag=9):
    """Let tasks into what was reserved."""

    group: bytes
    attempt: int


class ReleaseOrder(LineMessage, frozen=True, tag=10):
    """End what runs there, and take the amounts back."""

    group: bytes
    attempt: int
    reason: str


class GroupAnswered(LineMessage, frozen=True, tag=11):
    """A request was done, or refused."""

    number: int
    refusal: str
    """Empty: it was done."""


class GroupChanged(LineMessage, frozen=True, tag=12):
    """How a group is that is followed. Changes between waiting and waiting are not told."""

    group: bytes
    state: str
    """waits, ready or removed; missing: no such group is known."""
    reason: str
    """Of its removal."""


class CallAnswered(LineMessage, frozen=True, tag=14):
    """A call was done, or refused."""

    number: int
    body: bytes
    """The message that the method gives."""
    status: int = 0
    """As gRPC counts them; 0: it was done."""
    reason: str = ""


class BeatAnswered(LineMessage, frozen=True, tag=16):
    """The node was heard, and may be told what it is to do."""

    body: bytes = b""
    """A HeartbeatAnswer of control.proto."""


class NotMember(LineMessage, frozen=True, tag=17):
    """The node is no member: it ends what it runs and registers anew. Nothing follows."""

    reason: str


NodeSays = (
    HeldOnNode
    | SayReserved
    | SayRefused
    | SayCommitted
    | AskGroup
    | EndGroup
    | FollowGroup
    | CallControl
    | SayBeat
)
ControlSays = (
    ReserveOrder
    | CommitOrder
    | ReleaseOrder
    | GroupAnswered
    | GroupChanged
    | CallAnswered
    | BeatAnswered
    | NotMember
)
OnLine = NodeSays | ControlSays

# An id is its bytes.
_encoder = msgspec.msgpack.Encoder(enc_hook=bytes)
_decoder: msgspec.msgpack.Decoder[OnLine] = msgspec.msgpack.Decoder(OnLine)


def pack_line(message: OnLine) -> bytes:
    """Return a message as it is in a `ControlTalk`."""
    return _encoder.encode(message)


def unpack_line(body: bytes) -> OnLine:
    """Return what is in a `ControlTalk`. ProtocolError: it is none of these messages."""
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"what is said on a line cannot be read: {error}") from None
