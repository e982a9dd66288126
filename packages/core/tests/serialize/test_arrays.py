"""numpy, Arrow, pandas and torch: out of band, without copies."""

from __future__ import annotations

import warnings
from typing import Any

import numpy
import pandas
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nst

from weft._serialize import dumps, unpack
from weft._serialize.arrays import IN_BAND_BYTES

LARGE = IN_BAND_BYTES * 2


def back(value: Any) -> Any:
    serialized = dumps(value)
    memory = memoryview(bytearray(serialized.size_bytes))
    serialized.write_into(memory)
    assert serialized.pack() == bytes(memory)
    return unpack(memory)


def lies_within(array: Any, memory: Any) -> Any:
    start = numpy.frombuffer(memory, "u1").__array_interface__["data"][0]
    place = array.__array_interface__["data"][0]
    return start <= place < start + len(memory)


# ------------------------------------------------------------------ numpy

dtypes: Any = st.one_of(
    nst.integer_dtypes(),
    nst.unsigned_integer_dtypes(),
    nst.floating_dtypes(),
    nst.complex_number_dtypes(),
    nst.boolean_dtypes(),
    nst.datetime64_dtypes(),
    nst.timedelta64_dtypes(),
    nst.byte_string_dtypes(min_len=1),
    nst.unicode_string_dtypes(min_len=1),
)


@given(
    nst.arrays(dtypes, nst.array_shapes(min_dims=0, min_side=0, max_side=5)),
    st.sampled_from("CFTR"),
)
@settings(deadline=None)
def test_every_array_comes_back_equal(array: Any, layout: Any) -> None:
    value = {
        "C": array,
        "F": numpy.asfortranarray(array),
        "T": array.T,
        "R": array[::-1] if array.ndim else array,
    }
    found = back(value[layout])
    assert type(found) is numpy.ndarray
    assert found.dtype == array.dtype
    assert found.shape == value[layout].shape
    assert found.tobytes() == value[layout].tobytes()


@pytest.mark.parametrize("items", [1, 10, LARGE])
@pytest.mark.parametrize("dtype", ["f8", "M8[ns]", "U7", "?", "c16", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_only_at_every_size(items: Any, dtype: Any, order: Any) -> None:
    array = numpy.zeros((2, items), dtype, order)
    found = back(array)
    assert not found.flags.writeable
    assert found.flags.f_contiguous == array.flags.f_contiguous
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


@pytest.mark.parametrize("dtype", ["f8", "M8[ns]", "U7", "i1"])
def test_large_arrays_are_aligned_views_on_the_memory(dtype: Any) -> None:
    array = numpy.zeros(LARGE, dtype)
    serialized = dumps([array, array.copy()])
    assert len(serialized.buffers) == 2
    memory = memoryview(bytearray(serialized.size_bytes + 64))
    start = -numpy.frombuffer(memory, "u1").__array_interface__["data"][0] % 64
    memory = memory[start : start + serialized.size_bytes]
    serialized.write_into(memory)
    for found in unpack(memory):
        assert lies_within(found, memory)
        assert found.__array_interface__["data"][0] % 64 == 0


def test_nothing_is_copied_before_packing() -> None:
    array = numpy.zeros(LARGE)
    buffer = dumps({"a": array}).buffers[0]
    assert (
        numpy.frombuffer(buffer, "u1").__array_interface__["data"]
        == array.__array_interface__["data"]
    )


@pytest.mark.parametrize(
    "array",
    [
        numpy.array([{"a": 1}, None], object),
        numpy.zeros(LARGE, [("a", "i4"), ("b", "f8")]),
        numpy.zeros(LARGE, ">f8"),
        numpy.ma.masked_array([1, 2], [True, False]),
        numpy.float32(3),
        numpy.datetime64("2020-01-01"),
        numpy.zeros(LARGE).view(numpy.recarray),
    ],
    ids=lambda array: f"{type(array).__name__}-{array.dtype}",
)
def test_unusual_arrays_are_left_to_numpy(array: Any) -> None:
    found = back(array)
    assert type(found) is type(array)
    assert found.dtype == array.dtype
    assert (found == array).all()


def test_dtype_with_metadata_keeps_it() -> None:
    dtype = numpy.dtype("U3", metadata={"unit": "m"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy says that its own pickling drops it
        assert back(numpy.zeros(3, dtype)).shape == (3,)


# ------------------------------------------------------------------ Arrow


def table(rows: int) -> Any:
    return pyarrow.table(
        {
            "n": pyarrow.array(range(rows)),
            "s": pyarrow.array([f"row {row}" if row % 3 else None for row in range(rows)]),
            "l": pyarrow.array([[row] * (row % 4) for row in range(rows)]),
            "d": pyarrow.array([str(row % 5) for row in range(rows)]).dictionary_encode(),
        },
        metadata={"k": "v"},
    )


def pieces(rows: int) -> Any:
    whole = table(rows)
    return {
        "table": whole,
        "batch": whole.to_batches()[0],
        "chunked": whole.column("s"),
        "int64": whole.column("n").chunk(0),
        "string": whole.column("s").chunk(0),
        "list": whole.column("l").chunk(0),
        "dictionary": whole.column("d").chunk(0),
    }


@pytest.mark.parametrize("name", pieces(1))
@pytest.mark.parametrize("rows", [0, 1, 20_000])
def test_arrow_values_come_back_equal(name: str, rows: int) -> None:
    value = pieces(rows or 1)[name]
    value = value.slice(0, rows)
    found = back(value)
    assert type(found) is type(value)
    assert found.equals(value)
    assert found.validate(full=True) is None


@pytest.mark.parametrize("name", pieces(1))
def test_a_slice_sends_only_itself(name: str) -> None:
    value = pieces(50_000)[name].slice(40_000, 100)
    serialized = dumps({"slice": value})
    assert serialized.size_bytes < 20_000
    found = unpack(serialized.pack())["slice"]
    assert type(found) is type(value)
    assert found.equals(value)


def test_large_arrow_buffers_are_views_on_the_memory() -> None:
    value = pyarrow.table({"n": pyarrow.array(range(100_000))})
    serialized = dumps(value)
    assert sum(len(buffer) for buffer in serialized.buffers) >= 800_000
    assert len(serialized.inband) < 2000
    memory = bytearray(serialized.size_bytes)
    serialized.write_into(memoryview(memory))
    found = unpack(memory)
    assert found.equals(value)
    assert lies_within(found.column(0).chunk(0).to_numpy(), memory)


def test_schema_and_metadata_survive_slicing() -> None:
    value = table(20_000).slice(10, 5)
    found = back(value)
    assert found.schema.equals(value.schema, check_metadata=True)


# ------------------------------------------------------------------ pandas


def frame(rows: int) -> Any:
    return pandas.DataFrame(
        {
            "n": numpy.arange(rows),
            "f": numpy.linspace(0, 1, rows),
            "t": pandas.date_range("2020", periods=rows, freq="s"),
            "s": [f"row {row}" for row in range(rows)],
            "c": pandas.Categorical([str(row % 3) for row in range(rows)]),
            "i": pandas.array([row if row % 2 else None for row in range(rows)], dtype="Int64"),
            "z": pandas.date_range("2020", periods=rows, freq="s", tz="UTC"),
        }
    )


@pytest.mark.parametrize("rows", [0, 3, 20_000])
def test_frames_come_back_equal(rows: int) -> None:
    value = frame(rows)
    found = back(value)
    pandas.testing.assert_frame_equal(found, value)
    pandas.testing.assert_series_equal(back(value["t"]), value["t"])
    pandas.testing.assert_index_equal(back(value.index), value.index)


def test_columns_of_a_frame_leave_the_pickle() -> None:
    value = frame(20_000)
    serialized = dumps(value)
    assert len(serialized.inband) < 8000
    assert sum(len(buffer) for buffer in serialized.buffers) > 20_000 * 8 * 5


def test_a_frame_from_read_only_memory_can_be_worked_with() -> None:
    found = back(frame(20_000))
    grouped = found.groupby("c", observed=True)["n"].sum()
    assert grouped.sum() == sum(range(20_000))
    found["n"] = found["n"] + 1
    assert found["n"].iloc[0] == 1
    found.loc[0, "f"] = 5.0
    assert found["f"].iloc[0] == 5.0


@pytest.mark.parametrize("rows", [5, 20_000])
def test_writing_to_a_frame_leaves_the_memory_alone(rows: int) -> None:
    packed = dumps(frame(rows)).pack()
    found = unpack(packed)
    found.iloc[0, :2] = 7
    found.loc[1, "s"] = "other"
    found.loc[1, "i"] = 3
    found.fillna({"i": 0}, inplace=True)
    series = unpack(dumps(frame(rows)["f"]).pack())
    series.iloc[0] = 3.0
    pandas.testing.assert_frame_equal(unpack(packed), frame(rows))
    assert found["s"].iloc[1] == "other"
    assert series.iloc[0] == 3.0
