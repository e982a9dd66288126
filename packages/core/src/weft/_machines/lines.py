"""Records as the journal keeps them: ids and amounts are plain there, and typed when read."""

from __future__ import annotations

from typing import Any

import msgspec

from weft._ids import UniqueId
from weft._resources import Resources


def _plain(value: object) -> object:
    match value:
        case UniqueId():
            return bytes(value)
        case Resources():
            return dict(value)
        case _:
            raise TypeError(f"{type(value).__name__} cannot be journaled")


def _typed(kind: Any, value: Any) -> object:
    return kind.of_units(value) if kind is Resources else kind.from_binary(value)


encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """Return what reads records of a type. It raises ValueError: what it was given is none."""
    return msgspec.msgpack.Decoder(kind, dec_hook=_typed)
