"""torch tensors: out of band, without copies."""

from __future__ import annotations

import warnings
from typing import Any

import numpy
import pytest

from weft._serialize import dumps, unpack

torch = pytest.importorskip("torch")


def back(value: Any) -> Any:
    serialized = dumps(value)
    memory = memoryview(bytearray(serialized.size_bytes))
    serialized.write_into(memory)
    return unpack(memory)


TORCH_DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
    torch.bool, torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (100, 300)])
def test_tensors_come_back_equal(dtype: Any, shape: Any) -> None:
    tensor = (torch.rand(shape) * 8).to(dtype)
    found = back(tensor)
    assert found.dtype is dtype
    assert found.shape == tensor.shape
    assert found.stride() == tensor.stride()
    assert (
        found.contiguous().view(-1).untyped_storage().tolist()
        == tensor.contiguous().view(-1).untyped_storage().tolist()
    )


@pytest.mark.parametrize(
    "cut",
    [
        lambda t: t.T,
        lambda t: t[::2, 1:],
        lambda t: t[10:20],
        lambda t: t[:, 0],
        lambda t: t.expand(2, 100, 200),
    ],
    ids=["transposed", "strided", "slice", "column", "expanded"],
)
def test_views_of_tensors_send_only_themselves(cut: Any) -> None:
    tensor = cut(torch.rand(100, 200))
    found = back(tensor)
    assert torch.equal(found, tensor)
    if tensor.numel() < 20_000:
        assert dumps(tensor).size_bytes < tensor.numel() * 4 + 1000


def test_channels_last_keeps_its_layout() -> None:
    tensor = torch.rand(2, 3, 40, 50).to(memory_format=torch.channels_last)
    found = back(tensor)
    assert found.stride() == tensor.stride()
    assert torch.equal(found, tensor)


def test_tensors_are_read_without_a_copy_and_without_a_warning() -> None:
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


def test_a_tensor_from_bytes_may_be_changed_without_changing_the_bytes() -> None:
    packed = dumps(torch.zeros(10_000)).pack()
    unpack(packed).add_(1)
    assert unpack(packed).sum() == 0


def test_gradient_attributes_and_parameters_survive() -> None:
    tensor = torch.rand(20, requires_grad=True)
    tensor.label = "weights"
    found = back(tensor)
    assert found.requires_grad
    assert found.label == "weights"
    parameter = back(torch.nn.Parameter(torch.rand(5000)))
    assert type(parameter) is torch.nn.Parameter
    assert parameter.requires_grad


def test_a_model_travels_with_its_tied_weights() -> None:
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
def test_unusual_tensors_travel(make: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates quantized tensors
        tensor = make()
        found = back(tensor)
    assert found.shape == tensor.shape
    assert found.dtype == tensor.dtype
