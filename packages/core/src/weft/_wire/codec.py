"""Messages to frames and back.

Decoding is msgspec's: it checks every field's type and runs no code of the sender. What it refuses
is a ProtocolError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from weft._ids import UniqueId
from weft._wire.frame import HEADER, HEADER_BYTES, MAX_BODY_BYTES, MESSAGES
from weft._wire.messages import ANY, Message
from weft.exceptions import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence


def _plain(value: object) -> bytes:
    """Return an id as the bytes that it is: msgspec takes no subclasses."""
    if isinstance(value, UniqueId):
        return bytes(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a message")


def _typed(kind: type, value: object) -> object:
    """Return an id of the bytes that arrived."""
    if issubclass(kind, UniqueId) and isinstance(value, bytes):
        return kind.from_binary(value)
    raise ValueError(f"{value!r} is no {kind.__name__}")


_encode_into = msgspec.msgpack.Encoder(enc_hook=_plain).encode_into
_decode = msgspec.msgpack.Decoder(list[ANY], dec_hook=_typed).decode
pack = msgspec.msgpack.Encoder(enc_hook=_plain).encode
"""Encode the body of a question or an answer."""
Body = TypeVar("Body")


def unpack(body: bytes, kind: type[Body]) -> Body:
    """Decode the body of a question or an answer as `kind`. ProtocolError: it is none."""
    try:
        return msgspec.msgpack.decode(body, type=kind, dec_hook=_typed)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"not a {kind}: {error}") from None


def encode(messages: list[Message]) -> bytearray:
    """Return one frame that carries `messages` in order. ProtocolError if it is over the bound."""
    frame = bytearray(HEADER_BYTES)
    _encode_into(messages, frame, HEADER_BYTES)
    length = len(frame) - HEADER_BYTES
    if length > MAX_BODY_BYTES:
        raise ProtocolError(f"a frame of {length} bytes is over the bound of {MAX_BODY_BYTES}")
    HEADER.pack_into(frame, 0, length, MESSAGES)
    return frame


def decode(body: bytes) -> Sequence[Message]:
    """Return the messages of a frame's body. ProtocolError: they are not ours."""
    try:
        return _decode(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"not a message: {error}") from None
