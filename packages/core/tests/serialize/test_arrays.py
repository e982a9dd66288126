"""numpy, Arrow, pandas and torch: out of band, without copies."""

from __future__ import annotations

import warnings

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


def back(value):
    serialized = dumps(value)
    memory = memoryview(bytearray(serialized.size_bytes))
    serialized.write_into(memory)
    assert serialized.pack() == bytes(memory)
    return unpack(memory)


def lies_within(array, memory):
    start = numpy.frombuffer(memory, "u1").__array_interface__["data"][0]
    place = array.__array_interface__["data"][0]
    return start <= place < start + len(memory)


# ------------------------------------------------------------------ numpy

dtypes = (
    nst.integer_dtypes() | nst.unsigned_integer_dtypes() | nst.floating_dtypes() | nst.complex_number_dtypes()
    | nst.boolean_dtypes() | nst.datetime64_dtypes() | nst.timedelta64_dtypes() | nst.byte_string_dtypes(min_len=1)
    | nst.unicode_string_dtypes(min_len=1)
)  # fmt: skip


@given(nst.arrays(dtypes, nst.array_shapes(min_dims=0, min_side=0, max_side=5)), st.sampled_from("CFTR"))
@settings(deadline=None)
def test_every_array_comes_back_equal(array, layout):
    value = {"C": array, "F": numpy.asfortranarray(array), "T": array.T, "R": array[::-1] if array.ndim else array}
    found = back(value[layout])
    assert type(found) is numpy.ndarray
    assert found.dtype == array.dtype
    assert found.shape == value[layout].shape
    assert found.tobytes() == value[layout].tobytes()


@pytest.mark.parametrize("items", [1, 10, LARGE])
@pytest.mark.parametrize("dtype", ["f8", "M8[ns]", "U7", "?", "c16", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_only_at_every_size(items, dtype, order):
    array = numpy.zeros((2, items), dtype, order)
    found = back(array)
    assert not found.flags.writeable
    assert found.flags.f_contiguous == array.flags.f_contiguous
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


@pytest.mark.parametrize("dtype", ["f8", "M8[ns]", "U7", "i1"])
def test_large_arrays_are_aligned_views_on_the_memory(dtype):
    array = numpy.zeros(LARGE, dtype)
    serialized = dumps([array, array.copy()])
    assert len(serialized.buffers) == 2
    memory = memoryview(numpy.zeros(serialized.size_bytes + 64, "u1"))
    start = -numpy.frombuffer(memory, "u1").__array_interface__["data"][0] % 64
    memory = memory[start : start + serialized.size_bytes]
    serialized.write_into(memory)
    for found in unpack(memory):
        assert lies_within(found, memory)
        assert found.__array_interface__["data"][0] % 64 == 0


def test_nothing_is_copied_before_packing():
    array = numpy.zeros(LARGE)
    buffer = dumps({"a": array}).buffers[0]
    assert numpy.frombuffer(buffer, "u1").__array_interface__["data"] == array.__array_interface__["data"]


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
def test_unusual_arrays_are_left_to_numpy(array):
    found = back(array)
    assert type(found) is type(array)
    assert found.dtype == array.dtype
    assert (found == array).all()


def test_dtype_with_metadata_keeps_it():
    dtype = numpy.dtype("U3", metadata={"unit": "m"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy says that its own pickling drops it
        assert back(numpy.zeros(3, dtype)).shape == (3,)


# ------------------------------------------------------------------ Arrow


def table(rows):
    return pyarrow.table(
        {
            "n": pyarrow.array(range(rows)),
            "s": pyarrow.array([f"row {row}" if row % 3 else None for row in range(rows)]),
            "l": pyarrow.array([[row] * (row % 4) for row in range(rows)]),
            "d": pyarrow.array([str(row % 5) for row in range(rows)]).dictionary_encode(),
        },
        metadata={"k": "v"},
    )


def pieces(rows):
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
def test_arrow_values_come_back_equal(name, rows):
    if rows == 0 and name == "batch":
        pytest.skip("a table of no rows has no batch")
    value = pieces(rows or 1)[name]
    value = value.slice(0, rows)
    found = back(value)
    assert type(found) is type(value)
    assert found.equals(value)
    assert found.validate(full=True) is None


@pytest.mark.parametrize("name", pieces(1))
def test_a_slice_sends_only_itself(name):
    value = pieces(50_000)[name].slice(40_000, 100)
    serialized = dumps({"slice": value})
    assert serialized.size_bytes < 20_000
    found = unpack(serialized.pack())["slice"]
    assert type(found) is type(value)
    assert found.equals(value)


def test_large_arrow_buffers_are_views_on_the_memory():
    value = pyarrow.table({"n": pyarrow.array(range(100_000))})
    serialized = dumps(value)
    assert sum(len(buffer) for buffer in serialized.buffers) >= 800_000
    assert len(serialized.inband) < 2000
    memory = bytearray(serialized.size_bytes)
    serialized.write_into(memoryview(memory))
    found = unpack(memory)
    assert found.equals(value)
    assert lies_within(found.column(0).chunk(0).to_numpy(), memory)


def test_schema_and_metadata_survive_slicing():
    value = table(20_000).slice(10, 5)
    found = back(value)
    assert found.schema.equals(value.schema, check_metadata=True)


# ------------------------------------------------------------------ pandas


def frame(rows):
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
def test_frames_come_back_equal(rows):
    value = frame(rows)
    found = back(value)
    pandas.testing.assert_frame_equal(found, value)
    pandas.testing.assert_series_equal(back(value["t"]), value["t"])
    pandas.testing.assert_index_equal(back(value.index), value.index)


def test_columns_of_a_frame_leave_the_pickle():
    value = frame(20_000)
    serialized = dumps(value)
    assert len(serialized.inband) < 8000
    assert sum(len(buffer) for buffer in serialized.buffers) > 20_000 * 8 * 5


def test_a_frame_from_read_only_memory_can_be_worked_with():
    found = back(frame(20_000))
    grouped = found.groupby("c", observed=True)["n"].sum()
    assert grouped.sum() == sum(range(20_000))
    found["n"] = found["n"] + 1
    assert found["n"].iloc[0] == 1
    found.loc[0, "f"] = 5.0
    assert found["f"].iloc[0] == 5.0


# ------------------------------------------------------------------ torch

torch = pytest.importorskip("torch")

TORCH_DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool,
    torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (100, 300)])
def test_tensors_come_back_equal(dtype, shape):
    tensor = (torch.rand(shape) * 8).to(dtype)
    found = back(tensor)
    assert found.dtype is dtype
    assert found.shape == tensor.shape
    assert found.stride() == tensor.stride()
    assert found.contiguous().view(-1).untyped_storage().tolist() == tensor.contiguous().view(-1).untyped_storage().tolist()


@pytest.mark.parametrize(
    "cut",
    [lambda t: t.T, lambda t: t[::2, 1:], lambda t: t[10:20], lambda t: t[:, 0], lambda t: t.expand(2, 100, 200)],
    ids=["transposed", "strided", "slice", "column", "expanded"],
)
def test_views_of_tensors_send_only_themselves(cut):
    tensor = cut(torch.rand(100, 200))
    found = back(tensor)
    assert torch.equal(found, tensor)
    if tensor.numel() < 20_000:
        assert dumps(tensor).size_bytes < tensor.numel() * 4 + 1000


def test_channels_last_keeps_its_layout():
    tensor = torch.rand(2, 3, 40, 50).to(memory_format=torch.channels_last)
    found = back(tensor)
    assert found.stride() == tensor.stride()
    assert torch.equal(found, tensor)


def test_tensors_are_read_without_a_copy_and_without_a_warning():
    tensor = torch.rand(10_000)
    serialized = dumps([tensor, tensor.to(torch.bfloat16)])
    assert len(serialized.buffers) == 2
    memory = bytearray(serialized.size_bytes)
    serialized.write_into(memoryview(memory))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = unpack(memory)
    assert torch.equal(found[0], tensor)
    start = numpy.frombuffer(memory, "u1").__array_interface__["data"][0]
    assert start <= found[0].data_ptr() < start + len(memory)


def test_a_tensor_from_bytes_may_be_changed_without_changing_the_bytes():
    packed = dumps(torch.zeros(10_000)).pack()
    unpack(packed).add_(1)
    assert unpack(packed).sum() == 0


def test_gradient_attributes_and_parameters_survive():
    tensor = torch.rand(20, requires_grad=True)
    tensor.label = "weights"
    found = back(tensor)
    assert found.requires_grad
    assert found.label == "weights"
    parameter = back(torch.nn.Parameter(torch.rand(5000)))
    assert type(parameter) is torch.nn.Parameter
    assert parameter.requires_grad


def test_a_model_travels_with_its_tied_weights():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    model[1].weight = model[0].weight
    serialized = dumps(model.state_dict())
    assert serialized.size_bytes < 64 * 64 * 4 * 1.5 + 4000
    found = unpack(serialized.pack())
    assert found["0.weight"].data_ptr() == found["1.weight"].data_ptr()
    other = back(model)
    assert other[0].weight is other[1].weight
    sample = torch.rand(3, 64)
    assert torch.equal(other(sample), model(sample))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(4).to_sparse(),
        lambda: torch.zeros(3, device="meta"),
        lambda: torch.quantize_per_tensor(torch.rand(4), 0.1, 0, torch.quint8),
        lambda: torch.rand(4, dtype=torch.complex64).conj(),
    ],
    ids=["sparse", "meta", "quantized", "conjugate"],
)
def test_unusual_tensors_travel(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates quantized tensors
        tensor = make()
        found = back(tensor)
    assert found.shape == tensor.shape
    assert found.dtype == tensor.dtype
