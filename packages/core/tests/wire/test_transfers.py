from __future__ import annotations

import inspect

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft._wire import transfers
from weft._wire.transfers import (
    CHUNK_BYTES,
    Edition,
    KnownPlaces,
    NodeLife,
    TransferMessage,
    chunks_of,
    pack_chunks,
    pack_transfer,
    unpack_chunks,
    unpack_transfer,
)
from weft.exceptions import ProtocolError

KINDS = [
    kind
    for _, kind in inspect.getmembers(transfers, inspect.isclass)
    if issubclass(kind, TransferMessage) and kind is not TransferMessage
]
A, B = NodeLife(b"a", 1, "a:1"), NodeLife(b"b", 2, "b:1")
SAMPLES = {
    Edition: Edition(b"object", "a-1"),
    NodeLife: A,
    list[NodeLife]: [A, B],
    int: 7,
    bool: True,
    str: "text",
    bytes: b"\5",
}


@pytest.mark.parametrize("kind", KINDS)
def test_message_arrives_as_it_was_sent(kind: type[TransferMessage]) -> None:
    sent = kind(*(SAMPLES[field.type] for field in msgspec.structs.fields(kind)))
    assert unpack_transfer(pack_transfer(sent)) == sent  # type: ignore[arg-type]


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(ProtocolError, match="cannot be read"):
        unpack_transfer(b"\x91\xcc\xff")


def test_every_message_is_of_one_edition() -> None:
    assert all(msgspec.structs.fields(kind)[0].type is Edition for kind in KINDS)
    assert KnownPlaces in KINDS


@pytest.mark.parametrize(
    ("size_bytes", "chunks"),
    [(1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2), (10 * CHUNK_BYTES - 1, 10)],
)
def test_object_has_as_many_chunks_as_it_begins(size_bytes: int, chunks: int) -> None:
    assert chunks_of(size_bytes) == chunks


@given(st.sets(st.integers(0, 500)))
def test_sets_of_chunks_arrive_as_they_were(chunks: set[int]) -> None:
    bits = sum(1 << index for index in chunks)
    packed = pack_chunks(bits)
    assert unpack_chunks(packed) == bits
    assert len(packed) <= max(chunks, default=-1) // 8 + 1
