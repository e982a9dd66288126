"""NVIDIA's management library, which its driver brings along.

Called without a package in between. It knows what its files in /proc do not tell: which devices
this container may use, and the parts (MIG) that a device is split into.

Facts about it: every function returns 0 if it went well. A device that cannot be split answers
another number when it is asked whether it is. Parts have numbers with gaps.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARY = "libnvidia-ml.so.1"
_TEXT_BYTES = 96


class NvidiaDevice(NamedTuple):
    """One device."""

    model: str
    uuid: str
    parts: list[str]
    """The UUIDs of the parts it is split into; none if it is whole."""


def load() -> Any:
    """Return the library; None: the driver has not brought it."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        return None


def devices(library: Any) -> list[NvidiaDevice] | None:
    """Return the devices in order; None: the library does not work here."""
    if library is None or library.nvmlInit_v2():
        return None
    try:
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return None
        return list(_devices(library, count.value))
    finally:
        library.nvmlShutdown()


def _devices(library: Any, count: int) -> Iterator[NvidiaDevice]:
    for index in range(count):
        device = ctypes.c_void_p()
        # One that fails is lost to CUDA as well.
        if not library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
            model = _text(library.nvmlDeviceGetName, device)
            uuid = _text(library.nvmlDeviceGetUUID, device)
            yield NvidiaDevice(model, uuid, list(_parts(library, device)))


def _parts(library: Any, device: ctypes.c_void_p) -> Iterator[str]:
    is_split, will_be, most = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
    if library.nvmlDeviceGetMigMode(device, ctypes.byref(is_split), ctypes.byref(will_be)):
        return
    if not is_split.value or library.nvmlDeviceGetMaxMigDeviceCount(device, ctypes.byref(most)):
        return
    for index in range(most.value):
        part = ctypes.c_void_p()
        if not library.nvmlDeviceGetMigDeviceHandleByIndex(device, index, ctypes.byref(part)):
            yield _text(library.nvmlDeviceGetUUID, part)


def _text(ask: Any, device: ctypes.c_void_p) -> str:
    buffer = ctypes.create_string_buffer(_TEXT_BYTES)
    return buffer.value.decode() if not ask(device, buffer, _TEXT_BYTES) else ""
