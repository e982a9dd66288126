from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft._wire.frame import HEADER, HEADER_BYTES, MAX_BODY_BYTES, MESSAGES, FrameReader
from weft.exceptions import ProtocolError


def frame(body: bytes, kind: int = MESSAGES) -> bytes:
    return HEADER.pack(len(body), kind) + body


BODIES = [b"one", b"", b"x" * 1000, b"\0", b"three"]
STREAM = b"".join(map(frame, BODIES))


def test_header_is_a_little_endian_length_and_a_kind() -> None:
    assert frame(b"ab") == b"\x02\x00\x00\x00\x01ab"


def test_all_frames_of_one_read_are_handed_out_in_order() -> None:
    assert FrameReader().receive(STREAM) == BODIES


def test_frames_that_come_byte_by_byte_are_the_same() -> None:
    reader = FrameReader()
    assert [body for byte in STREAM for body in reader.receive(bytes([byte]))] == BODIES


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_frames_are_the_same_however_the_bytes_are_cut(
    bodies: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(map(frame, bodies))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader = FrameReader()
    parts = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert [body for part in parts for body in reader.receive(part)] == bodies


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_taken_in_any_form_and_not_kept(kind: type) -> None:
    given_bytes = bytearray(frame(b"body") + frame(b"rest")[:-1])
    reader = FrameReader()
    assert reader.receive(kind(given_bytes)) == [b"body"]
    given_bytes[:] = bytes(len(given_bytes))
    assert reader.receive(b"t") == [b"rest"]


def test_bodies_are_bytes_of_their_own() -> None:
    (body,) = FrameReader().receive(bytearray(frame(b"body")))
    assert type(body) is bytes


def test_missing_says_how_much_of_a_frame_is_still_to_come() -> None:
    reader = FrameReader()
    assert reader.missing() == 0
    for length in range(1, HEADER_BYTES):
        reader.receive(frame(b"four")[length - 1 : length])
        assert reader.missing() == 0
    reader.receive(frame(b"four")[HEADER_BYTES - 1 : HEADER_BYTES + 1])
    assert reader.missing() == 3
    assert reader.receive(b"our") == [b"four"]
    assert reader.missing() == 0


def test_missing_counts_a_frame_that_follows_another() -> None:
    reader = FrameReader()
    reader.receive(frame(b"one") + frame(b"four")[:-2])
    assert reader.missing() == 2


BAD_HEADERS = {
    "unknown kind": HEADER.pack(1, 7),
    "kind zero": HEADER.pack(1, 0),
    "one byte over the bound": HEADER.pack(MAX_BODY_BYTES + 1, MESSAGES),
    "longest": HEADER.pack(0xFFFF_FFFF, MESSAGES),
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS)
@pytest.mark.parametrize("cut", range(HEADER_BYTES))
def test_bad_header_is_refused_as_soon_as_it_is_there(header: bytes, cut: int) -> None:
    reader = FrameReader()
    assert reader.receive(header[:cut]) == []
    with pytest.raises(ProtocolError, match="not a frame"):
        reader.receive(header[cut:])


def test_bad_header_is_refused_byte_by_byte() -> None:
    reader = FrameReader()
    *first, last = BAD_HEADERS["longest"]
    for byte in first:
        assert reader.receive(bytes([byte])) == []
    with pytest.raises(ProtocolError):
        reader.receive(bytes([last]))
    assert reader.missing() == 0


def test_nothing_is_read_after_a_bad_header() -> None:
    reader = FrameReader()
    with pytest.raises(ProtocolError):
        reader.receive(BAD_HEADERS["unknown kind"])
    with pytest.raises(ProtocolError):
        reader.receive(frame(b"good"))


def test_bad_header_behind_a_good_frame_is_refused() -> None:
    with pytest.raises(ProtocolError):
        FrameReader().receive(frame(b"good") + BAD_HEADERS["unknown kind"])


def test_body_of_the_greatest_length_is_announced() -> None:
    reader = FrameReader()
    assert reader.receive(HEADER.pack(MAX_BODY_BYTES, MESSAGES)) == []
    assert reader.missing() == MAX_BODY_BYTES


def test_large_frame_in_many_small_reads_is_joined_once() -> None:
    """The work is linear: a quadratic one would copy 16 GiB here, and take seconds."""
    size, piece = 8 * 1024 * 1024, 4096
    stream = frame(bytes(size))
    reader = FrameReader()
    bodies = [
        body
        for start in range(0, len(stream), piece)
        for body in reader.receive(stream[start : start + piece])
    ]
    assert [len(body) for body in bodies] == [size]


def test_many_small_frames_in_one_read_are_cut_once() -> None:
    count = 50_000
    assert len(FrameReader().receive(frame(b"x") * count)) == count


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_arbitrary_bytes_raise_nothing_but_protocol_errors(parts: list[bytes]) -> None:
    reader = FrameReader()
    for part in parts:
        try:
            reader.receive(part)
        except ProtocolError:
            return
        assert 0 <= reader.missing() <= MAX_BODY_BYTES
