"""What is behind the amount GPU: NVIDIA's, AMD's and Intel's devices.

Facts about CUDA: `CUDA_VISIBLE_DEVICES` lists indices or UUIDs, and is read up to the first that is
not there. A process sees one part (MIG) of a split device at most, under its UUID.

Facts about ROCm: `ROCR_VISIBLE_DEVICES` chooses first; `HIP_VISIBLE_DEVICES` counts among those.
A node of the kernel's topology without SIMD units is a CPU; a container may be denied the file of
a device that the topology shows.

Facts about oneAPI: `ONEAPI_DEVICE_SELECTOR` is `level_zero:0,1`, or `!*:gpu` for none. A GPU that
is part of the processor is on PCI bus 00.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from weft._node.accelerators import nvml
from weft._node.accelerators.kinds import Accelerator, Devices
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._node.accelerators.kinds import HostFiles

# Of a model's name, what tells it from others: A100, H200, L40S, GH200 ...
_MODEL = re.compile(r"\b[A-Z]{1,3}\d+[A-Z]?\b")
_AMD_TYPES = {
    26273: "AMD-Instinct-MI50",
    29580: "AMD-Instinct-MI100",
    29704: "AMD-Instinct-MI250X",
    29708: "AMD-Instinct-MI250X-MI250",
    29711: "AMD-Instinct-MI210",
    29857: "AMD-Instinct-MI300X-OAM",
}
"""By the number of the device on PCI, which the topology writes in decimal."""
_INTEL_TYPES = {
    "0x0bd5": "Intel-GPU-Max-1550",
    "0x0bd9": "Intel-GPU-Max-1100",
    "0x0bda": "Intel-GPU-Max-1100",
}


class Nvidia(Accelerator):
    """NVIDIA's, as its management library tells them, else as the driver's files do."""

    resource = "GPU"

    def __init__(self, load: Callable[[], Any] = nvml.load) -> None:
        self._load = load

    @override
    def found(self, host: HostFiles) -> Devices:
        devices = self._devices(host)
        ids = [str(index) for index in range(len(devices))]
        if any(device.parts for device in devices):
            ids = [part for device in devices for part in device.parts or [device.uuid]]
        return Devices(ids, _nvidia_type(devices[0].model) if devices else "")

    def _devices(self, host: HostFiles) -> list[nvml.NvidiaDevice]:
        files = host.paths("proc/driver/nvidia/gpus/*")
        # The last is how a virtual machine inside Windows has it.
        if not files and not host.paths("dev/nvidiactl") and not host.paths("dev/dxg"):
            return []
        devices = nvml.devices(self._load())
        if devices is not None:
            return devices
        facts = [
            dict(line.split(":", 1) for line in host.read(place / "information").splitlines())
            for place in files
        ]
        return [
            nvml.NvidiaDevice(fact.get("Model", "").strip(), fact.get("GPU UUID", "").strip(), [])
            for fact in facts
        ]

    @override
    def named(self, host: HostFiles) -> list[str] | None:
        listed = host.list_in("CUDA_VISIBLE_DEVICES")
        return (
            None if listed is None else [id_ for id_ in listed if id_ not in ("-1", "NoDevFiles")]
        )

    @override
    def variables(self, ids: Sequence[str], of: int) -> dict[str, str]:
        return {"CUDA_VISIBLE_DEVICES": ",".join(ids)}


class Amd(Accelerator):
    """AMD's, as the kernel's topology of them tells."""

    resource = "GPU"

    @override
    def found(self, host: HostFiles) -> Devices:
        types = self._types(host)
        allowed = host.list_in("ROCR_VISIBLE_DEVICES")
        count = len(types) if allowed is None else min(len(types), len(allowed))
        return Devices([str(index) for index in range(count)], types[0] if types else "")

    def _types(self, host: HostFiles) -> list[str]:
        """Return the type of each device."""
        types: list[str] = []
        for place in host.paths("sys/class/kfd/kfd/topology/nodes/*"):
            lines = host.read(place / "properties").splitlines()
            facts = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
            minor = facts.get("drm_render_minor", 0)
            if facts.get("simd_count") and host.paths(f"dev/dri/renderD{minor}"):
                types.append(_AMD_TYPES.get(facts.get("device_id", 0), ""))
        return types

    @override
    def named(self, host: HostFiles) -> list[str] | None:
        listed = host.list_in("HIP_VISIBLE_DEVICES")
        return None if listed is None else [id_ for id_ in listed if id_ != "-1"]

    @override
    def variables(self, ids: Sequence[str], of: int) -> dict[str, str]:
        return {"HIP_VISIBLE_DEVICES": ",".join(ids) or "-1"}


class Intel(Accelerator):
    """Intel's on cards of their own."""

    resource = "GPU"

    @override
    def found(self, host: HostFiles) -> Devices:
        numbers = self._numbers(host)
        ids = [str(index) for index in range(len(numbers))]
        return Devices(ids, _INTEL_TYPES.get(numbers[0], "") if numbers else "")

    def _numbers(self, host: HostFiles) -> list[str]:
        """Return the PCI number of each device."""
        if not host.paths("dev/dri/renderD*"):
            return []
        return [
            device
            for address, kind, device in host.pci("0x8086")
            if kind.startswith("0x03") and address.split(":")[1] != "00"
        ]

    @override
    def named(self, host: HostFiles) -> list[str] | None:
        raw = host.variables.get("ONEAPI_DEVICE_SELECTOR", "*:gpu")
        backend, _, ids = raw.partition(":")
        if ids in ("*", "gpu") and not backend.startswith("!"):
            return None
        return [id_.strip() for id_ in ids.split(",")] if backend == "level_zero" else []

    @override
    def variables(self, ids: Sequence[str], of: int) -> dict[str, str]:
        return {"ONEAPI_DEVICE_SELECTOR": f"level_zero:{','.join(ids)}" if ids else "!*:gpu"}


def _nvidia_type(model: str) -> str:
    found = _MODEL.search(model)
    return found[0] if found else "-".join(model.removeprefix("NVIDIA").split())
