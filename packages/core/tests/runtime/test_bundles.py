from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft._runtime import bundles
from weft._store.shared_memory import SharedMemoryStore
from weft._wire.messages import Bundle, Failure, Held, Inline, Shared
from weft.exceptions import StoreFullError

if TYPE_CHECKING:
    from pathlib import Path

    from weft._store.shared_memory import Segment


class Table:
    """As much of a table of objects as bundles need."""

    address = "here"

    def __init__(self, directory: Path) -> None:
        self.store = SharedMemoryStore("mine", lambda _message: None)
        self.store.directory = directory

    def recycle(self, value: Shared) -> None:
        assert value.creator == self.address
        self.store.recycle(value.segment)

    def in_use(self) -> list[str]:
        return list(self.store._mine)


@pytest.fixture
def table(tmp_path: Path) -> Any:
    return Table(tmp_path)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "LOOSE_BYTES", 100)
    monkeypatch.setattr(bundles, "BUNDLE_BYTES", 50)


VALUES = st.one_of(
    st.binary(max_size=60).map(Inline),
    st.builds(Inline, st.binary(max_size=60), st.lists(st.just(Held(b"id", "owner")), max_size=2)),
    st.just(Shared("segment", 10**6, "there")),
    st.just(Failure(b"error")),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, max_size=12))
def test_values_come_out_as_they_went_in_and_leave_nothing(table: Any, values: Any) -> None:
    packed = bundles.pack_together(table, values)
    assert bundles.unpack_all(table, packed) == values
    assert not table.in_use()


def test_few_bytes_go_as_they_are(table: Any) -> None:
    values: Any = [Inline(bytes(50)), Shared("segment", 10**6, "there"), Inline(bytes(50))]
    assert bundles.pack_together(table, values) == values


def test_many_bytes_go_in_bundles_of_a_bounded_size(table: Any) -> None:
    packed = bundles.pack_together(table, [Inline(bytes(20))] * 10)
    assert [type(each) for each in packed] == [Bundle] * 4
    assert all(len(bundles.unpack(table, each)) <= 3 for each in packed if isinstance(each, Bundle))
    assert len(table.in_use()) == 4


def test_value_outlives_its_bundle(table: Any) -> None:
    packed = bundles.pack_together(table, [Inline(b"1" * 60), Inline(b"2" * 60)])
    first, second = bundles.unpack_all(table, packed)
    bundles.pack_together(table, [Inline(b"x" * 60)] * 2)
    assert (first, second) == (Inline(b"1" * 60), Inline(b"2" * 60))


def test_store_without_room_for_all_keeps_none(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = table.store.reserve_passing

    def only_two(size_bytes: int) -> Segment:
        if len(table.in_use()) == 2:
            raise StoreFullError("no room")
        segment: Segment = reserve(size_bytes)
        return segment

    monkeypatch.setattr(table.store, "reserve_passing", only_two)
    with pytest.raises(StoreFullError):
        bundles.pack_together(table, [Inline(bytes(50))] * 5)
    assert not table.in_use()
