"""Rows by columns: what goes in comes out, in order, and what rows share stands once."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft._wire.codec import unpack
from weft._wire.records import NUMBER, TIME, Batch, Row, What, column, pack_columns

OWNER = b"o" * 16
times = st.floats(0, 2e9)
ids = st.binary(min_size=16, max_size=16)
keys = st.tuples(st.sampled_from(["f", "g"]), st.booleans())
rows = st.lists(st.tuples(ids, times, times, times, keys), min_size=1, unique_by=lambda row: row[0])


def what_of(key: tuple[Any, ...]) -> What:
    name, has_failed = key
    return What(name, name, b"", b"", b"w", 1, 0, has_failed, (("CPU", 10_000),))


def batch_of(some: list[Row], errors: dict[int, tuple[str, str]] | None = None) -> Batch:
    return unpack(pack_columns(OWNER, zip(*some, strict=True), errors or {}, what_of), Batch)


@given(rows)
def test_rows_come_back_as_they_were(some: list[Row]) -> None:
    batch = batch_of(some)
    found = [
        (batch.id_at(row), made, began, ended, (what.name, what.has_failed))
        for row, (made, began, ended, what) in enumerate(
            zip(
                column(TIME, batch.made_at),
                column(TIME, batch.began_at),
                column(TIME, batch.ended_at),
                (batch.whats[int(number)] for number in column(NUMBER, batch.numbers)),
                strict=True,
            )
        )
    ]
    assert found == some
    assert batch.owner == OWNER


@given(rows)
def test_what_rows_share_stands_once(some: list[Row]) -> None:
    whats = batch_of(some).whats
    assert len(whats) == len({row[4] for row in some}) == len({str(what) for what in whats})


@given(rows)
def test_each_row_is_found_by_its_task(some: list[Row]) -> None:
    batch = batch_of(some)
    assert [batch.row_of(row[0]) for row in some] == list(range(len(some)))


@pytest.mark.parametrize(
    ("task_id", "found"), [(b"a" * 16, None), (b"ab" * 8, 2), (b"b", None), (b"", None)]
)
def test_part_of_an_id_and_what_two_neighbours_make_up_are_no_rows(
    task_id: bytes, found: int | None
) -> None:
    some: list[Row] = [
        (task, 0.0, 0.0, 0.0, ("f", False)) for task in (b"b" + b"a" * 15, b"a" + b"b" * 15)
    ]
    some.append((b"ab" * 8, 0.0, 0.0, 0.0, ("f", False)))
    assert batch_of(some).row_of(task_id) == found


def test_errors_stand_by_row() -> None:
    some: list[Row] = [(bytes([n]) * 16, 1.0, 2.0, 3.0, ("f", n == 1)) for n in range(2)]
    batch = batch_of(some, {1: ("ValueError", "no number")})
    assert batch.errors == {1: ("ValueError", "no number")}


def test_column_is_as_wide_as_its_type() -> None:
    assert column(TIME, array(TIME, [1.5]).tobytes()).tolist() == [1.5]
    assert column(NUMBER, array(NUMBER, [65_535]).tobytes()).tolist() == [65_535]
