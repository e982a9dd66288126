from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft._wire.frame import HEADER, MAX_BODY_BYTES, MESSAGES
from weft._wire.parcels import (
    GONE_END,
    WHOLE_END,
    Parcel,
    ParcelEnd,
    ParcelReader,
    parcel_header,
)
from weft.exceptions import ProtocolError

Sent = bytes | tuple[int, bytes]
"""The body of a frame, or a parcel."""


def coded(sent: list[Sent]) -> bytes:
    return b"".join(
        HEADER.pack(len(each), MESSAGES) + each
        if isinstance(each, bytes)
        else parcel_header(each[0], len(each[1])) + each[1] + WHOLE_END
        for each in sent
    )


def read(reader: ParcelReader, data: bytes, got: list[Sent]) -> None:
    """Read, and add what came to `got`; a parcel in parts is put together."""
    for each in reader.receive(data):
        match each:
            case Parcel():
                got.append((each.tag, b""))
            case memoryview():
                last = got[-1]
                assert isinstance(last, tuple)
                got[-1] = (last[0], last[1] + bytes(each))
            case ParcelEnd():
                assert each.is_whole
            case bytes():
                got.append(each)


sent_things = st.lists(
    st.one_of(st.binary(max_size=30), st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=60))),
    max_size=8,
)


def test_header_is_little_endian() -> None:
    assert parcel_header(3, 0x0102) == b"\x02\x01\x00\x00\x02\x03\x00\x00\x00\x00\x00\x00\x00"


@given(sent_things, st.lists(st.integers(1, 40), max_size=12))
def test_all_arrives_in_order_however_the_bytes_are_cut(sent: list[Sent], cuts: list[int]) -> None:
    reader, got, data = ParcelReader(), list[Sent](), coded(sent)
    for size in [*cuts, len(data)]:
        read(reader, data[:size], got)
        data = data[size:]
    assert got == sent
    assert reader.left == 0
    assert reader.missing() == 0


def test_bytes_that_went_to_their_place_by_themselves_are_not_seen() -> None:
    reader, got = ParcelReader(), list[Sent]()
    read(reader, coded([b"first", (7, b"x" * 100)])[: -100 + 10 - 1], got)
    assert got == [b"first", (7, b"x" * 10)]
    assert reader.left == 90
    reader.passed(90)
    read(reader, WHOLE_END + coded([b"next"]), got)
    assert got[-1] == b"next"


@pytest.mark.parametrize(("end", "is_whole"), [(WHOLE_END, True), (GONE_END, False)])
@pytest.mark.parametrize("size", [0, 3])
def test_end_of_a_parcel_says_whether_its_bytes_count(
    end: bytes, is_whole: bool, size: int
) -> None:
    reader = ParcelReader()
    first = list(reader.receive(parcel_header(7, size) + b"x" * size))
    assert first == [Parcel(7, size), *([memoryview(b"xxx")] if size else [])]
    assert list(reader.receive(end + coded([b"next"]))) == [ParcelEnd(is_whole), b"next"]


def test_parcel_with_another_end_raises_from_then_on() -> None:
    reader = ParcelReader()
    with pytest.raises(ProtocolError, match="not the end of a parcel: 02"):
        list(reader.receive(parcel_header(7, 1) + b"x\x02"))
    with pytest.raises(ProtocolError, match="not the end of a parcel: 02"):
        list(reader.receive(WHOLE_END))


def test_missing_says_how_much_of_a_frame_is_still_to_come() -> None:
    reader = ParcelReader()
    assert list(reader.receive(coded([b"x" * 100])[:25])) == []
    assert reader.missing() == 80


@pytest.mark.parametrize(
    "garbage",
    [HEADER.pack(1, 0), HEADER.pack(1, 3), HEADER.pack(MAX_BODY_BYTES + 1, MESSAGES), b"GET /"],
)
def test_what_is_neither_raises_from_then_on(garbage: bytes) -> None:
    reader = ParcelReader()
    with pytest.raises(ProtocolError):
        list(reader.receive(garbage))
    with pytest.raises(ProtocolError):
        list(reader.receive(coded([b"good"])))


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_raise(garbage: bytes) -> None:
    reader, got = ParcelReader(), list[Sent]()
    try:
        read(reader, garbage, got)
    except ProtocolError:
        return
    # All bytes are accounted for: nothing was made up. The last parcel's end may be missing.
    assert len(coded(got)) <= len(garbage) + 1
