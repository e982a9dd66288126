"""Accelerators that are no GPUs: Google's TPUs, AWS's Neuron cores, Habana's.

Facts about TPUs: a chip is /dev/accel0 ..., or, with newer drivers, a group of /dev/vfio, where
other devices may be as well. A process that uses one, two or four of a host's chips has to be told
how they lie; who uses all is told nothing.

Facts about Neuron: a device has several cores, and cores are what is handed out. They are listed as
`0,1` or `0-3`.

Facts about Habana: the older driver has /dev/hl0 ..., the newer /dev/accel/accel0 ..., where other
vendors' are, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft._node.accelerators.kinds import Accelerator, Devices
from weft._override import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft._node.accelerators.kinds import HostFiles

_GOOGLE = "0x1ae0"
_HABANA = "0x1da3"
_TPU_TYPES = {
    "0x005e": "TPU-V4",
    "0x0062": "TPU-V5P",
    "0x0063": "TPU-V5LITEPOD",
    "0x006f": "TPU-V6E",
    "0x0076": "TPU-V7X",
}
_TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1"}


class Tpu(Accelerator):
    """Google's, by their device files."""

    resource = "TPU"

    @override
    def found(self, host: HostFiles) -> Devices:
        types = [_TPU_TYPES[device] for _, _, device in host.pci(_GOOGLE) if device in _TPU_TYPES]
        chips = host.paths("dev/accel[0-9]*")
        if not chips and types:
            chips = host.paths("dev/vfio/[0-9]*")
        # As v4-8: the generation, and the size of the whole.
        generation = host.variables.get("TPU_ACCELERATOR_TYPE", "").partition("-")[0]
        if generation:
            types = [f"TPU-{generation.upper()}"]
        return Devices([str(index) for index in range(len(chips))], types[0] if types else "")

    @override
    def named(self, host: HostFiles) -> list[str] | None:
        return host.list_in("TPU_VISIBLE_CHIPS")

    @override
    def variables(self, ids: Sequence[str], of: int) -> dict[str, str]:
        chips = {"TPU_VISIBLE_CHIPS": ",".join(ids)}
        if len(ids) < of and len(ids) in _TPU_BOUNDS:
            chips["TPU_CHIPS_PER_HOST_BOUNDS"] = _TPU_BOUNDS[len(ids)]
            chips["TPU_HOST_BOUNDS"] = "1,1,1"
        return chips


class Neuron(Accelerator):
    """AWS's, by core."""

    resource = "neuron_cores"

    @override
    def found(self, host: HostFiles) -> Devices:
        cores = (
            len(host.paths(f"sys/devices/virtual/neuron_device/{device.name}/neuron_core*"))
            for device in host.paths("dev/neuron[0-9]*")
        )
        return Devices([str(index) for index in range(sum(cores))], "aws-neuron-core")

    @override
    def named(self, host: HostFiles) -> list[str] | None:
        listed = host.list_in("NEURON_RT_VISIBLE_CORES")
        return None if listed is None else [core for each in listed for core in _range(each)]

    @override
    def variables(self, ids: Sequence[str], of: int) -> dict[str, str]:
        return {"NEURON_RT_VISIBLE_CORES": ",".join(ids)}


class Habana(Accelerator):
    """Habana's Gaudi."""

    resource = "HPU"

    @override
    def found(self, host: HostFiles) -> Devices:
        modules = host.paths("dev/hl[0-9]*") or [
            place
            for place in host.paths("dev/accel/accel[0-9]*")
            if host.read(f"sys/class/accel/{place.name}/device/vendor") == _HABANA
        ]
        return Devices([str(index) for index in range(len(modules))], "Intel-GAUDI")

    @override
    def named(self, host: HostFiles) -> list[str] | None:
        return host.list_in("HABANA_VISIBLE_MODULES")

    @override
    def variables(self, ids: Sequence[str], of: int) -> dict[str, str]:
        return {"HABANA_VISIBLE_MODULES": ",".join(ids)}


def _range(cores: str) -> list[str]:
    """Return each of `0-3`."""
    first, _, last = cores.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        return [cores]
    return [str(core) for core in range(int(first), int(last) + 1)]
