"""Values of a capsule: references that are found in pickles, arguments that are taken apart."""

from __future__ import annotations

import hashlib
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft._capsules import pieces
from weft._capsules.pieces import describe, digest, fingerprint, hashed, references_in, take_apart
from weft._serialize.pickling import dump_code, dumps, dumps_call, unpack
from weft._serialize.refs import hooks, rebuild_ref

KEY, OTHER = b"k" * 16, b"o" * 16


class Reference:
    """Pickles as an ObjectRef does."""

    def __init__(self, object_id: bytes, owner: str = "owner") -> None:
        self.object_id = object_id
        self.owner = owner

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_ref, (self.object_id, self.owner)


class Bomb:
    """Fails whoever unpickles it."""

    def __init__(self, *inside: object) -> None:
        self.inside = inside

    def __setstate__(self, state: object) -> None:
        raise AssertionError("code of the capsule was run")


class Keyed(dict[Any, Any]):
    pass


# ------------------------------------------------------------------ references


@pytest.mark.parametrize(
    "value",
    [
        [Reference(KEY)],
        {"a": {"b": (1, Reference(KEY))}},
        Bomb(Reference(KEY), [Reference(KEY)]),
        Keyed({(1, 2): Reference(KEY)}),
        {frozenset({1}): [np.arange(100_000), Reference(KEY)]},
    ],
    ids=["list", "nested", "object", "mapping", "beside-an-array"],
)
def test_references_are_found_without_running_anything(value: object) -> None:
    packed = dumps(value).pack()
    assert set(references_in(packed)) == {(KEY, "owner")}


def test_references_in_code_are_found() -> None:
    captured, default = Reference(KEY), Reference(OTHER)

    def function(other: object = default) -> object:
        return captured, other

    _, code = dump_code(function)
    assert {key for key, _ in references_in(code)} == {KEY, OTHER}


def test_references_in_a_class_that_travels_by_value_are_found() -> None:
    class Holder:
        held = Reference(KEY)

    packed = dumps([Holder()]).pack()
    assert references_in(packed) == [(KEY, "owner")]


def test_value_without_references_has_none() -> None:
    for value in (1, "rebuild", [b"rebuild_ref"], np.arange(5)):
        assert references_in(dumps(value).pack()) == []
    assert references_in(cloudpickle.dumps(Bomb())) == []


# ------------------------------------------------------------------ taking apart


def test_large_arguments_are_taken_out_and_the_small_ones_stay() -> None:
    large, also_large = np.arange(10_000), b"x" * 10_000
    packed = dumps_call((1, large), {"name": "ada", "text": also_large}).pack()
    marks = iter(["first", "second"])
    rest, taken = take_apart(packed, lambda: next(marks))
    assert unpack(rest) == ((1, "first"), {"name": "ada", "text": "second"})
    assert [unpack(serialized.pack()) is not None for serialized, _ in taken] == [True, True]
    assert (taken[0][1] == large).all()
    assert taken[1][1] == also_large


def test_references_stay_references_when_arguments_are_taken_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = dumps_call(([Reference(KEY)], [Reference(OTHER), b"x" * 10_000]), {}).pack()
    rest, taken = take_apart(packed, lambda: None)
    assert references_in(rest) == [(KEY, "owner")]
    assert references_in(taken[0][0].pack()) == [(OTHER, "owner")]
    monkeypatch.setattr(hooks, "rebuild_ref", lambda object_id, owner: (object_id, owner))
    assert unpack(rest) == (([(KEY, "owner")], None), {})


# ------------------------------------------------------------------ describing


def test_array_is_described_by_its_shape() -> None:
    value = np.zeros((300, 20), dtype="int16")
    serialized = dumps(value)
    piece = describe(serialized.pack())
    assert (piece.type, piece.shape, piece.dtype) == ("numpy.ndarray", (300, 20), "int16")
    assert piece.size_bytes > value.nbytes
    assert piece == fingerprint(value, serialized)


@pytest.mark.parametrize(
    ("value", "kind", "length"),
    [(b"x" * 50_000, "bytes", 50_000), (bytearray(50_000), "bytearray", 50_000), ([1], "list", 1)],
)
def test_other_values_are_described_by_their_length(value: Any, kind: str, length: int) -> None:
    piece = describe(dumps(value).pack())
    assert (piece.type, piece.shape, piece.length) == (kind, None, length)


def test_what_would_take_long_to_read_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = dumps([str(number) for number in range(50_000)]).pack()
    monkeypatch.setattr(pieces, "unpack_by", None)
    assert describe(packed) == hashed(packed)


def test_what_cannot_be_read_is_described_by_its_size() -> None:
    packed = dumps(Bomb()).pack()
    assert describe(packed) == hashed(packed)


def test_arrays_that_may_and_may_not_be_written_to_have_one_hash() -> None:
    value = np.arange(1_000.0)
    frozen = value.copy()
    frozen.flags.writeable = False
    assert describe(dumps(value).pack()).sha256 == describe(dumps(frozen).pack()).sha256


def test_small_values_are_hashed_whole() -> None:
    parts = [memoryview(b"abc"), memoryview(b"def")]
    assert digest(parts) == (hashlib.sha256(b"abcdef").hexdigest(), False)


@given(position=st.floats(0, 1))
def test_large_values_are_hashed_in_blocks_to_both_ends(position: float) -> None:
    content = bytearray(4 * pieces.BLOCKS * pieces.BLOCK_BYTES)
    before = digest([memoryview(content)])
    assert before[1]
    for index in (0, len(content) - 1):
        content[index] = 1
        assert digest([memoryview(content)]) != before
        content[index] = 0
    # Every block of a value has a neighbour within twice the distance of two blocks.
    start = int(position * (len(content) - 4 * pieces.BLOCK_BYTES))
    content[start : start + 4 * pieces.BLOCK_BYTES] = b"\1" * (4 * pieces.BLOCK_BYTES)
    assert digest([memoryview(content)]) != before
