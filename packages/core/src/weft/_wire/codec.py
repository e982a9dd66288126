"""Messages to frames and back.

Decoding is msgspec's: it checks every field's type and runs no code of the sender. What it refuses
is a ProtocolError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

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
# The last two are how msgspec refuses text that is no UTF-8, and what is nested too deeply.
_REFUSALS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def unpack(body: bytes, kind: type[Body]) -> Body:
    """Decode the body of a question or an answer as `kind`. ProtocolError: it is none."""
    try:
        return msgspec.msgpack.decode(body, type=kind, dec_hook=_typed)
    except _REFUSALS as error:
        raise ProtocolError(f"not a {kind}: {error}") from None


def encode(messages: list[Message]) -> bytearray:
    """Return one frame that carries `messages` in order. ProtocolError if it is over the bound."""
    frame = bytearray(HEADER_BYTES)
    try:
        _encode_into(messages, frame, HEADER_BYTES)
    except UnicodeEncodeError:
        # Text from outside, such as a file's name, can hold what UTF-8 cannot.
        _encode_into(_legible(messages), frame, HEADER_BYTES)
    length = len(frame) - HEADER_BYTES
    if length > MAX_BODY_BYTES:
        raise ProtocolError(f"a frame of {length} bytes is over the bound of {MAX_BODY_BYTES}")
    HEADER.pack_into(frame, 0, length, MESSAGES)
    return frame


def encode_all(messages: list[Message]) -> list[bytearray]:
    """Return the frames that carry `messages` in order, each within the bound.

    ProtocolError: one message alone is over it.
    """
    try:
        return [encode(messages)]
    except ProtocolError:
        if len(messages) == 1:
            raise
    half = len(messages) // 2
    return [*encode_all(messages[:half]), *encode_all(messages[half:])]


def _legible(value: Any) -> Any:
    """Return the same with every text such that UTF-8 can hold it."""
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case list() | tuple():
            return [_legible(part) for part in value]
        case dict():
            return {_legible(key): _legible(part) for key, part in value.items()}
        case msgspec.Struct():
            parts = {name: _legible(getattr(value, name)) for name in value.__struct_fields__}
            return msgspec.structs.replace(value, **parts)
        case _:
            return value


def pack_legibly(record: object) -> bytes:
    """Encode a record that may hold text from outside, as `encode` does."""
    try:
        return pack(record)
    except UnicodeEncodeError:
        return pack(_legible(record))


def decode(body: bytes) -> Sequence[Message]:
    """Return the messages of a frame's body. ProtocolError: they are not ours."""
    try:
        return _decode(body)
    except _REFUSALS as error:
        raise ProtocolError(f"not a message: {error}") from None
