from __future__ import annotations

import copy
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft._ids import (
    ActorId,
    FunctionId,
    IdSource,
    JobId,
    NodeId,
    ObjectId,
    PlacementGroupId,
    TaskId,
    UniqueId,
    WorkerId,
)

KINDS: list[type[UniqueId]] = [
    ActorId,
    FunctionId,
    JobId,
    NodeId,
    ObjectId,
    PlacementGroupId,
    TaskId,
    WorkerId,
]
every_kind = pytest.mark.parametrize("kind", KINDS)
SIXTEEN = bytes(range(16))


@every_kind
def test_id_is_its_bytes(kind: type[UniqueId]) -> None:
    made = kind.from_binary(SIXTEEN)
    assert type(made) is kind
    assert made == SIXTEEN
    assert hash(made) == hash(SIXTEEN)
    assert type(made.binary()) is bytes
    assert made.binary() == SIXTEEN
    assert kind.size() == 16


@every_kind
def test_id_is_known_by_its_digits(kind: type[UniqueId]) -> None:
    made = kind.from_hex(SIXTEEN.hex())
    assert made == SIXTEEN
    assert kind.from_hex(made.hex()) == made
    assert str(made) == repr(made) == f"{kind.__name__}({SIXTEEN.hex()})"


@pytest.mark.parametrize("wrong", [b"", SIXTEEN[:-1], SIXTEEN + b"x"])
def test_bytes_of_another_length_are_no_id(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=f"16 bytes, not {len(wrong)}"):
        TaskId.from_binary(wrong)
    with pytest.raises(ValueError, match="16 bytes"):
        TaskId.from_hex(wrong.hex())


def test_digits_that_are_none_are_no_id() -> None:
    with pytest.raises(ValueError, match="non-hexadecimal"):
        TaskId.from_hex("xy" * 16)


@every_kind
def test_nothing_has_an_id_of_its_own(kind: type[UniqueId]) -> None:
    assert kind.nil().is_nil()
    assert not kind.from_random().is_nil()
    assert len(kind.nil()) == 16


def test_random_ids_differ() -> None:
    assert len({NodeId.from_random() for _ in range(1000)}) == 1000


@every_kind
def test_id_keeps_its_type_when_it_is_copied(kind: type[UniqueId]) -> None:
    made = kind.from_random()
    for copied in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(copied) is kind
        assert copied == made


def test_ids_are_ordered_as_their_bytes() -> None:
    ids = [TaskId(bytes([number]) * 16) for number in (3, 1, 2)]
    assert sorted(ids) == [ids[1], ids[2], ids[0]]


def test_ids_hold_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        TaskId.nil().name = "x"  # type: ignore[attr-defined]


@given(st.binary(min_size=12, max_size=12), st.integers(0, 0xFFFF_FFFF))
def test_object_knows_its_task_and_its_place(head: bytes, index: int) -> None:
    task_id = TaskId(head + bytes(4))
    object_id = task_id.object_id(index)
    assert type(object_id) is ObjectId
    assert (object_id.task_id(), object_id.number()) == (task_id, index)


def test_object_beyond_the_last_has_no_id() -> None:
    with pytest.raises(OverflowError):
        TaskId(bytes(16)).object_id(1 << 32)


def test_ids_of_one_source_differ() -> None:
    source = IdSource()
    ids = [source.task_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(type(task_id) is TaskId and task_id.endswith(bytes(4)) for task_id in ids)


def test_ids_of_two_sources_differ() -> None:
    first, second = IdSource(), IdSource()
    assert not {first.task_id() for _ in range(100)} & {second.task_id() for _ in range(100)}


def test_source_with_a_seed_repeats_itself() -> None:
    first, second = IdSource(b"12345678"), IdSource(b"12345678")
    assert [first.task_id() for _ in range(3)] == [second.task_id() for _ in range(3)]
    assert first.task_id().startswith(b"12345678")


@pytest.mark.parametrize("seed", [b"12345678", b"\xff" * 8])
def test_source_goes_on_after_four_thousand_million_ids(seed: bytes) -> None:
    """A program that puts 60,000 objects a second gets there within a day."""
    source = IdSource(seed)
    last = (1 << 32) - 2
    source._next = iter(range(last, last + 5)).__next__
    ids = [source.task_id() for _ in range(5)]
    assert len(set(ids)) == 5
    assert all(len(task_id) == 16 and task_id.endswith(bytes(4)) for task_id in ids)


def test_threads_may_share_a_source() -> None:
    source = IdSource()
    found: list[list[TaskId]] = [[] for _ in range(4)]

    def draw(into: list[TaskId]) -> None:
        into.extend(source.task_id() for _ in range(2000))

    threads = [threading.Thread(target=draw, args=(into,)) for into in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({task_id for ids in found for task_id in ids}) == 8000
