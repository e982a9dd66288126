"""Arrays, tables and tensors, whose memory travels out of band: it is copied once, or not at all.

numpy, Arrow, pandas and torch are never imported here: a value of theirs can only be met once they
are. `reducers_of` returns their reducers at that moment.

What is always true
1. numpy and Arrow values that were unpickled are read-only, whatever their size, and views on the
   memory given to `unpack` if they are not small. Of small ones the bytes lie inside the pickle.
2. A slice sends its own part only, not the whole that it is a slice of.
3. Dense torch tensors of the CPU that share their whole storage (tied weights) still share it
   afterwards.
4. What cannot be told apart surely (subclasses, object and structured dtypes, tensors on a device,
   sparse and quantized ones) is left to the library's own pickling.

Facts about torch. It knows no read-only tensors. A tensor that was unpickled from shared memory is
a view on it without a copy, so it must not be changed in place: `clone()` it first. One from a
small value, whose memory is a `bytes` of this process, is a copy and may be changed.

Facts about the buffer protocol. numpy exports no buffer for datetimes, bfloat16 and the like;
their bytes are taken through a view as integers. Arrow pickles a slice with all its parent's
buffers (apache/arrow#26685), so slices go through Arrow's IPC format, which cuts them.
"""

from __future__ import annotations

import sys
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any

from weft._lazy import lazy

if TYPE_CHECKING:
    import ctypes
    import warnings
    from collections.abc import Callable
    from types import ModuleType
else:
    ctypes = lazy("ctypes")
    warnings = lazy("warnings")

Buffer = bytes | bytearray | memoryview
Reducer = "Callable[[Any], Any]"

IN_BAND_BYTES = 16 * 1024
"""Buffers below this size lie inside the pickle. Measured: a buffer of its own costs about 1.5 us
more to write and to read, as long as the copies that it saves fit the cache."""

SLICE_BYTES = 4 * 1024
"""From this size of the whole on, Arrow slices are cut."""


def reducers_of(module_name: str) -> dict[type, Callable[[Any], Any]]:
    """Return the reducers for the types of a library, by the module that its types name."""
    module = sys.modules[module_name.partition(".")[0]]
    return LIBRARIES[module_name](module)


# ------------------------------------------------------------------ numpy


def _numpy_reducers(numpy: ModuleType) -> dict[type, Callable[[Any], Any]]:
    return {numpy.ndarray: _reduce_ndarray}


def _reduce_ndarray(array: Any) -> Any:
    dtype = array.dtype
    kind = dtype.kind
    # isbuiltin is 2 for the types of extensions, whose `str` does not name them.
    if kind not in "biufcmMSU" or dtype.isbuiltin == 2 or dtype.metadata:
        return NotImplemented
    flags = array.flags
    order = "C"
    if not flags.c_contiguous:
        if flags.f_contiguous:
            order = "F"
        else:
            array = array.copy(order="C")
    content: Any
    if array.nbytes < IN_BAND_BYTES:
        content = array.tobytes(order)
    elif kind in "biufc":
        content = PickleBuffer(array)
    else:
        content = PickleBuffer(array.reshape(-1, order=order).view("u1"))
    return rebuild_ndarray, (content, dtype.str, array.shape, order)


def rebuild_ndarray(content: Buffer, dtype: str, shape: tuple[int, ...], order: str) -> Any:
    """Make the numpy array that was pickled. Its name is part of the format of pickles."""
    return _numpy_ndarray(shape, dtype, content, 0, None, order)


class _Numpy:
    """`numpy.ndarray`, looked up once; a process may unpickle before it imports numpy."""

    ndarray: Any = None


def _numpy_ndarray(*args: Any) -> Any:
    if _Numpy.ndarray is None:
        _Numpy.ndarray = numpy.ndarray
    return _Numpy.ndarray(*args)


# ------------------------------------------------------------------ pandas


def _pandas_reducers(pandas: ModuleType) -> dict[type, Callable[[Any], Any]]:
    return {pandas.DataFrame: _reduce_frame, pandas.Series: _reduce_frame}


def _reduce_frame(frame: Any) -> Any:
    function, args, state = frame.__reduce_ex__(5)[:3]
    return rebuild_frame, (function, args, state)


def rebuild_frame(function: Callable[..., Any], args: tuple[Any, ...], state: Any) -> Any:
    """Make the pandas frame or series that was pickled. Its name is part of the format of pickles.

    pandas copies a column before it writes to it if another frame shows the same column. Here one
    does, so that the user may write although the memory is read-only.
    """
    frame = function(*args)
    frame.__setstate__(state)
    frame.__dict__["_weft_other"] = frame.copy(deep=False)
    return frame


# ------------------------------------------------------------------ Arrow


def _arrow_reducers(pyarrow: ModuleType) -> dict[type, Callable[[Any], Any]]:
    reducers: dict[type, Callable[[Any], Any]] = {
        pyarrow.Table: _reduce_table,
        pyarrow.RecordBatch: _reduce_batch,
        pyarrow.ChunkedArray: _reduce_chunked,
    }
    kinds = [pyarrow.Array]
    while kinds:
        kind = kinds.pop()
        reducers[kind] = _reduce_arrow_array
        kinds += kind.__subclasses__()
    return reducers


def _is_slice(value: Any) -> bool:
    """Tell whether pickling `value` would send much more than it shows."""
    total: int = value.get_total_buffer_size()
    return total > SLICE_BYTES and value.nbytes < total - total // 4


def _through_ipc(table: Any) -> PickleBuffer:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    return PickleBuffer(sink.getvalue())


def _reduce_table(table: Any) -> Any:
    if not _is_slice(table):
        return NotImplemented
    return rebuild_arrow, (_through_ipc(table), "table")


def _reduce_batch(batch: Any) -> Any:
    if not _is_slice(batch):
        return NotImplemented
    return rebuild_arrow, (_through_ipc(batch), "batch")


def _reduce_chunked(chunked: Any) -> Any:
    if not _is_slice(chunked):
        return NotImplemented
    return rebuild_arrow, (_through_ipc(pyarrow.table({"": chunked})), "chunked")


def _reduce_arrow_array(array: Any) -> Any:
    if not _is_slice(array):
        return NotImplemented
    batch = pyarrow.RecordBatch.from_arrays([array], [""])
    return rebuild_arrow, (_through_ipc(batch), "array")


def rebuild_arrow(content: Buffer, kind: str) -> Any:
    """Make the Arrow value that was pickled. Its name is part of the format of pickles."""
    reader = pyarrow.ipc.open_stream(content)
    if kind == "batch":
        return reader.read_next_batch()
    if kind == "array":
        return reader.read_next_batch().column(0)
    table = reader.read_all()
    return table if kind == "table" else table.column(0)


# ------------------------------------------------------------------ torch


def _torch_reducers(torch: ModuleType) -> dict[type, Callable[[Any], Any]]:
    return {torch.Tensor: _reduce_tensor, torch.UntypedStorage: _reduce_storage}


def _reduce_tensor(tensor: Any) -> Any:
    if (
        tensor.device.type != "cpu"
        or tensor.layout is not torch.strided
        or tensor.is_quantized
        or tensor.is_nested
    ):
        return NotImplemented
    needs_grad = tensor.requires_grad
    plain = tensor.detach().resolve_conj().resolve_neg()
    storage = plain.untyped_storage()
    size_bytes = plain.numel() * plain.element_size()
    if size_bytes != storage.nbytes():
        if not plain.is_contiguous():
            plain = plain.contiguous()
            storage = plain.untyped_storage()
        content: Any = storage
        if size_bytes != storage.nbytes():
            start = plain.storage_offset() * plain.element_size()
            content = PickleBuffer(_storage_view(storage)[start : start + size_bytes])
        offset = 0
    else:
        # The storage object is one for all tensors on it, so pickle writes it once.
        content, offset = storage, plain.storage_offset()
    dtype = str(plain.dtype).removeprefix("torch.")
    attributes = tensor.__dict__ or None
    return rebuild_tensor, (
        content, dtype, offset, tuple(plain.shape), plain.stride(), needs_grad, attributes,
    )  # fmt: skip


def _reduce_storage(storage: Any) -> Any:
    if storage.device.type != "cpu":
        return NotImplemented
    return rebuild_storage, (PickleBuffer(_storage_view(storage)),)


def _storage_view(storage: Any) -> memoryview:
    """Return the storage's bytes; the view keeps the storage alive."""
    content: Any = (ctypes.c_ubyte * storage.nbytes()).from_address(storage.data_ptr())
    content.storage = storage
    return memoryview(content).cast("B")


def rebuild_storage(content: Buffer) -> Any:
    """Make the torch storage that was pickled. Its name is part of the format of pickles."""
    if not len(content):
        return torch.UntypedStorage(0)
    is_bytes = isinstance(content, bytes) or (
        isinstance(content, memoryview) and isinstance(content.obj, bytes)
    )
    if is_bytes:
        # Others may see the same bytes: a tensor that is changed in place needs its own.
        content = bytearray(content)
    elif not _Torch.is_quiet:
        _Torch.is_quiet = True
        # torch warns once per process of memory that is read-only: have it said, unheard.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.frombuffer(bytes(1), dtype=torch.uint8)
    return torch.frombuffer(content, dtype=torch.uint8).untyped_storage()


class _Torch:
    is_quiet = False


def rebuild_tensor(
    content: Any,
    dtype: str,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    needs_grad: bool,
    attributes: dict[str, Any] | None,
) -> Any:
    """Make the torch tensor that was pickled. Its name is part of the format of pickles."""
    storage = content if isinstance(content, torch.UntypedStorage) else rebuild_storage(content)
    tensor = torch.empty(0, dtype=getattr(torch, dtype)).set_(storage, offset, shape, stride)
    if needs_grad:
        tensor.requires_grad_()
    if attributes:
        tensor.__dict__.update(attributes)
    return tensor


LIBRARIES: dict[str, Callable[[ModuleType], dict[type, Callable[[Any], Any]]]] = {
    "numpy": _numpy_reducers,
    "pyarrow.lib": _arrow_reducers,
    "torch": _torch_reducers,
    "torch.storage": _torch_reducers,
    "pandas": _pandas_reducers,
    "pandas.core.frame": _pandas_reducers,
    "pandas.core.series": _pandas_reducers,
}

numpy = lazy("numpy")
pyarrow = lazy("pyarrow")
torch = lazy("torch")
