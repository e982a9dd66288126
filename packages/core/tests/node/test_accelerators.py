"""Which accelerators a node finds, on machines whose files are made up; one test on a real one."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from weft._node.accelerators import nvml
from weft._node.accelerators.chips import Habana, Neuron, Tpu
from weft._node.accelerators.found import KINDS, Accelerators
from weft._node.accelerators.gpus import Amd, Intel, Nvidia
from weft._node.accelerators.kinds import HostFiles
from weft._resources import ACCELERATORS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weft._node.accelerators.kinds import Accelerator

    Hosts = Callable[..., HostFiles]

COUNT = """
import ctypes
cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
cuda.cuInit(0)
cuda.cuDeviceGetCount(ctypes.byref(count))
print(count.value)
"""
WITHOUT_LIBRARY: tuple[Accelerator, ...] = (Nvidia(lambda: None), *KINDS[1:])


@pytest.fixture
def machine(tmp_path: Path) -> Hosts:
    """Makes a machine of files and variables."""

    def make(files: dict[str, str], **variables: str) -> HostFiles:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return HostFiles(tmp_path, variables)

    return make


def found(
    host: HostFiles, kinds: Sequence[Accelerator] = WITHOUT_LIBRARY, **asked: float
) -> Accelerators:
    return Accelerators(asked, host, kinds)


def nvidia(*models: str) -> dict[str, str]:
    return {
        f"proc/driver/nvidia/gpus/0000:0{index}:00.0/information": (
            f"Model: \t\t {model}\nIRQ:   \t\t 42\nGPU UUID: \t GPU-{index}\n"
        )
        for index, model in enumerate(models, 1)
    }


def pci(address: str, vendor: str, kind: str, device: str) -> dict[str, str]:
    place = f"sys/bus/pci/devices/{address}"
    return {f"{place}/vendor": vendor, f"{place}/class": kind, f"{place}/device": device}


def amd(number: int, device_id: int, simd_count: int = 256) -> dict[str, str]:
    return {
        f"sys/class/kfd/kfd/topology/nodes/{number}/properties": (
            f"cpu_cores_count 0\nsimd_count {simd_count}\n"
            f"drm_render_minor {127 + number}\ndevice_id {device_id}\n"
        ),
        f"dev/dri/renderD{127 + number}": "",
    }


# ------------------------------------------------------------------ none


def test_machine_without_any_has_nothing_to_show_or_hide(machine: Hosts) -> None:
    none = found(machine({}))
    assert (none.devices, none.amounts, none.labels, none.hidden()) == ({}, {}, {}, {})


def test_every_kind_is_one_whose_ids_a_task_is_told() -> None:
    assert {kind.resource for kind in KINDS} == set(ACCELERATORS)


# ------------------------------------------------------------------ NVIDIA


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA GeForce GTX 1080 Ti", "GeForce-GTX-1080-Ti"),
    ],
)
def test_type_of_nvidias_is_the_models_short_name(machine: Hosts, model: str, name: str) -> None:
    node = found(machine(nvidia(model, model)))
    assert node.devices == {"GPU": ["0", "1"]}
    assert node.amounts == {"GPU": 2, f"accelerator_type:{name}": 1}
    assert node.labels == {"weft.io/accelerator-type": name}


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        ("2,0", ["2", "0"]),
        ("1,7,0", ["1"]),
        ("1,-1", ["1"]),
        ("-1", []),
        ("NoDevFiles", []),
        ("", []),
        ("GPU-2, MIG-5", ["GPU-2", "MIG-5"]),
    ],
)
def test_variable_limits_what_is_handed_out(machine: Hosts, visible: str, ids: list[str]) -> None:
    node = found(machine(nvidia("A", "B", "C"), CUDA_VISIBLE_DEVICES=visible))
    assert node.devices.get("GPU", []) == ids
    assert node.hidden() == {"CUDA_VISIBLE_DEVICES": ""}


def test_variable_alone_makes_no_device(machine: Hosts) -> None:
    assert found(machine({}, CUDA_VISIBLE_DEVICES="0,1")).devices == {}


@pytest.mark.parametrize(("asked", "ids"), [(1, ["4"]), (2, ["4", "2"]), (3, ["0", "1", "2"])])
def test_user_who_asks_for_a_number_gets_the_first_of_those_allowed(
    machine: Hosts, asked: int, ids: list[str]
) -> None:
    for files in (nvidia(*"ABCDE"), {}):
        node = found(machine(files, CUDA_VISIBLE_DEVICES="4,2"), GPU=asked)
        assert node.devices == {"GPU": ids}


def test_user_who_wants_none_handed_out_hides_all(machine: Hosts) -> None:
    node = found(machine(nvidia("H100")), GPU=0)
    assert (node.devices, node.amounts) == ({}, {})
    assert node.hidden() == {"CUDA_VISIBLE_DEVICES": ""}


def test_assigned_devices_are_shown_alone(machine: Hosts) -> None:
    node = found(machine(nvidia(*"ABC")))
    assert node.shown({"GPU": ["2", "0"]}) == {"CUDA_VISIBLE_DEVICES": "2,0"}
    assert node.shown({}) == {}


class Library:
    """NVIDIA's management library with made-up devices: (model, parts)."""

    def __init__(self, *devices: tuple[str, int], fails: str = "") -> None:
        self.devices = devices
        self.fails = fails
        self.open = 0

    def init(self) -> int:
        self.open += 1
        return int(self.fails == "init")

    def shut_down(self) -> int:
        self.open -= 1
        return 0

    def count(self, count: Any) -> int:
        count._obj.value = len(self.devices)
        return int(self.fails == "count")

    def handle(self, index: int, device: Any) -> int:
        device._obj.value = 100 * (index + 1)
        return int(self.fails == "second" and index == 1)

    def name(self, device: Any, buffer: Any, size: int) -> int:
        buffer.value = self.devices[device.value // 100 - 1][0].encode()
        return int(self.fails == "text")

    def uuid(self, device: Any, buffer: Any, size: int) -> int:
        buffer.value = f"UUID-{device.value}".encode()
        return 0

    def mig_mode(self, device: Any, current: Any, pending: Any) -> int:
        current._obj.value = self.devices[device.value // 100 - 1][1] > 0
        return 3 if self.fails == "mig" else 0

    def most_parts(self, device: Any, most: Any) -> int:
        most._obj.value = 7
        return 0

    def part(self, device: Any, index: int, part: Any) -> int:
        part._obj.value = device.value + index
        # Numbers have gaps.
        return 0 if 0 < index <= self.devices[device.value // 100 - 1][1] else 6


def by_library(library: Library) -> list[Accelerator]:
    functions = SimpleNamespace(
        nvmlInit_v2=library.init,
        nvmlShutdown=library.shut_down,
        nvmlDeviceGetCount_v2=library.count,
        nvmlDeviceGetHandleByIndex_v2=library.handle,
        nvmlDeviceGetName=library.name,
        nvmlDeviceGetUUID=library.uuid,
        nvmlDeviceGetMigMode=library.mig_mode,
        nvmlDeviceGetMaxMigDeviceCount=library.most_parts,
        nvmlDeviceGetMigDeviceHandleByIndex=library.part,
    )
    return [Nvidia(lambda: functions)]


def test_library_is_asked_before_the_drivers_files(machine: Hosts) -> None:
    library = Library(("NVIDIA H200", 0))
    node = found(machine(nvidia("A1", "B2")), by_library(library))
    assert node.devices == {"GPU": ["0"]}
    assert node.types == {"GPU": "H200"}
    assert library.open == 0


@pytest.mark.parametrize("file", ["dev/nvidiactl", "dev/dxg"])
def test_devices_without_the_drivers_files_are_found_by_the_library(
    machine: Hosts, file: str
) -> None:
    node = found(machine({file: ""}), by_library(Library(("NVIDIA L4", 0), ("NVIDIA L4", 0))))
    assert node.devices == {"GPU": ["0", "1"]}


def test_library_is_not_looked_for_where_there_is_no_driver(machine: Hosts) -> None:
    def load() -> Any:
        raise AssertionError("it takes time")

    assert found(machine({}), [Nvidia(load)]).devices == {}


def test_parts_of_split_devices_are_handed_out_by_their_uuids(machine: Hosts) -> None:
    library = Library(("NVIDIA A100-SXM4-40GB", 2), ("NVIDIA A100-SXM4-40GB", 0))
    node = found(machine({"dev/nvidiactl": ""}), by_library(library))
    assert node.devices == {"GPU": ["UUID-101", "UUID-102", "UUID-200"]}


@pytest.mark.parametrize(
    ("fails", "ids"),
    [
        ("init", ["0"]),
        ("count", ["0"]),
        ("second", ["UUID-101"]),
        ("mig", ["0", "1"]),
        ("text", ["UUID-101", "UUID-200"]),
    ],
)
def test_library_that_fails_is_believed_as_far_as_it_answers(
    machine: Hosts, fails: str, ids: list[str]
) -> None:
    library = Library(("NVIDIA A100", 1), ("NVIDIA A100", 0), fails=fails)
    node = found(machine(nvidia("NVIDIA H100")), by_library(library))
    assert node.devices == {"GPU": ids}


@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="this machine has no NVIDIA device")
def test_library_of_this_machine_tells_its_devices() -> None:
    devices = nvml.devices(nvml.load())
    assert devices
    assert all(device.model and device.uuid.startswith("GPU-") for device in devices)
    host = HostFiles(Path("/"), {})
    (kind,) = [kind for kind in KINDS if isinstance(kind, Nvidia)]
    node = Accelerators({}, host, [kind])
    assert len(node.devices["GPU"]) == sum(len(device.parts) or 1 for device in devices)
    # CUDA itself agrees on how many a process sees: none, and one.
    for shown, seen in ((node.hidden(), "0"), (node.shown({"GPU": node.devices["GPU"][:1]}), "1")):
        done = subprocess.run(
            [sys.executable, "-c", COUNT],
            env={**os.environ, **shown},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == seen


def test_machine_without_the_library_has_none_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "LIBRARY", "libweft-no-such.so.1")
    assert nvml.load() is None
    monkeypatch.setattr(nvml, "LIBRARY", "libc.so.6")
    assert isinstance(nvml.load(), ctypes.CDLL)


# ------------------------------------------------------------------ AMD, Intel


def test_amds_are_the_topologys_nodes_with_simd_units(machine: Hosts) -> None:
    files = {
        **amd(0, 0, simd_count=0),
        **amd(1, 29857),
        **amd(10, 29857),
        **amd(2, 29857),
    }
    node = found(machine(files))
    assert node.devices == {"GPU": ["0", "1", "2"]}
    assert node.types == {"GPU": "AMD-Instinct-MI300X-OAM"}
    assert node.hidden() == {"HIP_VISIBLE_DEVICES": "-1"}
    assert node.shown({"GPU": ["2"]}) == {"HIP_VISIBLE_DEVICES": "2"}


def test_amd_whose_file_a_container_lacks_is_not_there(machine: Hosts) -> None:
    files = amd(1, 1) | amd(2, 1)
    del files["dev/dri/renderD129"]
    assert found(machine(files)).devices == {"GPU": ["0"]}


def test_both_of_rocms_variables_limit_one_after_the_other(machine: Hosts) -> None:
    files = amd(1, 1) | amd(2, 1) | amd(3, 1) | amd(4, 1)
    assert found(machine(files, ROCR_VISIBLE_DEVICES="2,3")).devices == {"GPU": ["0", "1"]}
    both = found(machine(files, ROCR_VISIBLE_DEVICES="2,3", HIP_VISIBLE_DEVICES="1,2"))
    assert both.devices == {"GPU": ["1"]}
    assert found(machine(files, HIP_VISIBLE_DEVICES="-1")).devices == {}


def test_intels_are_those_on_cards_of_their_own(machine: Hosts) -> None:
    files = {
        **pci("0000:00:02.0", "0x8086", "0x030000", "0x46a6"),
        **pci("0000:4d:00.0", "0x8086", "0x038000", "0x0bd5"),
        **pci("0000:4e:00.0", "0x8086", "0x020000", "0x1592"),
        **pci("0000:5d:00.0", "0x10de", "0x030200", "0x2330"),
    }
    assert found(machine(files), [Intel()]).devices == {}, "nobody can open it"
    node = found(machine(files | {"dev/dri/renderD128": ""}), [Intel()])
    assert node.devices == {"GPU": ["0"]}
    assert node.types == {"GPU": "Intel-GPU-Max-1550"}
    assert node.hidden() == {"ONEAPI_DEVICE_SELECTOR": "!*:gpu"}
    assert node.shown({"GPU": ["0"]}) == {"ONEAPI_DEVICE_SELECTOR": "level_zero:0"}


@pytest.mark.parametrize(
    ("selector", "ids"),
    [
        ("level_zero:1", ["1"]),
        ("level_zero:*", ["0", "1"]),
        ("*:gpu", ["0", "1"]),
        ("!*:gpu", []),
        ("opencl:cpu", []),
    ],
)
def test_selector_of_oneapi_limits_intels(machine: Hosts, selector: str, ids: list[str]) -> None:
    files = {
        **pci("0000:4d:00.0", "0x8086", "0x038000", "0x0bd5"),
        **pci("0000:4e:00.0", "0x8086", "0x038000", "0x0bd5"),
        "dev/dri/renderD128": "",
    }
    node = found(machine(files, ONEAPI_DEVICE_SELECTOR=selector), [Intel()])
    assert node.devices.get("GPU", []) == ids


def test_first_kind_that_is_found_is_behind_the_name(machine: Hosts) -> None:
    assert set(found(machine(nvidia("H100") | amd(1, 1))).hidden()) == {"CUDA_VISIBLE_DEVICES"}


# ------------------------------------------------------------------ others


def test_tpus_are_device_files(machine: Hosts) -> None:
    files = {f"dev/accel{index}": "" for index in range(4)}
    node = found(machine(files, TPU_ACCELERATOR_TYPE="v4-8"))
    assert node.devices == {"TPU": ["0", "1", "2", "3"]}
    assert node.amounts == {"TPU": 4, "accelerator_type:TPU-V4": 1}


def test_tpus_behind_vfio_are_told_from_other_devices_there(machine: Hosts) -> None:
    files = {"dev/vfio/vfio": "", "dev/vfio/0": "", "dev/vfio/1": ""}
    assert found(machine(files)).devices == {}
    node = found(machine(files | pci("0000:00:05.0", "0x1ae0", "0xff0000", "0x006f")))
    assert node.devices == {"TPU": ["0", "1"]}
    assert node.types == {"TPU": "TPU-V6E"}


def test_part_of_a_hosts_tpus_is_told_how_it_lies(machine: Hosts) -> None:
    node = found(machine({f"dev/accel{index}": "" for index in range(4)}))
    assert node.shown({"TPU": ["1"]}) == {
        "TPU_VISIBLE_CHIPS": "1",
        "TPU_CHIPS_PER_HOST_BOUNDS": "1,1,1",
        "TPU_HOST_BOUNDS": "1,1,1",
    }
    two = node.shown({"TPU": ["2", "3"]})
    assert two["TPU_CHIPS_PER_HOST_BOUNDS"] == "1,2,1"
    everything = ["0", "1", "2", "3"]
    assert node.shown({"TPU": everything}) == {"TPU_VISIBLE_CHIPS": "0,1,2,3"}
    assert node.hidden() == {"TPU_VISIBLE_CHIPS": ""}


def test_variable_limits_tpus(machine: Hosts) -> None:
    files = {f"dev/accel{index}": "" for index in range(4)}
    assert found(machine(files, TPU_VISIBLE_CHIPS="2,3")).devices == {"TPU": ["2", "3"]}


@pytest.mark.parametrize(
    ("visible", "ids"),
    [(None, ["0", "1", "2", "3"]), ("1-3", ["1", "2", "3"]), ("0,2", ["0", "2"]), ("x-y", ["x-y"])],
)
def test_neuron_cores_are_counted_one_by_one(
    machine: Hosts, visible: str | None, ids: list[str]
) -> None:
    files = {f"dev/neuron{device}": "" for device in range(2)}
    for device in range(2):
        for core in range(2):
            files[f"sys/devices/virtual/neuron_device/neuron{device}/neuron_core{core}/info"] = ""
    variables = {} if visible is None else {"NEURON_RT_VISIBLE_CORES": visible}
    node = found(machine(files, **variables), [Neuron()])
    assert node.devices == {"neuron_cores": ids}
    assert node.shown({"neuron_cores": ids[:2]}) == {"NEURON_RT_VISIBLE_CORES": ",".join(ids[:2])}


def test_habanas_are_found_with_either_driver(machine: Hosts) -> None:
    new = {
        "dev/accel/accel0": "",
        "dev/accel/accel1": "",
        "sys/class/accel/accel0/device/vendor": "0x8086",
        "sys/class/accel/accel1/device/vendor": "0x1da3",
    }
    node = found(machine(new), [Tpu(), Habana()])
    assert node.devices == {"HPU": ["0"]}
    old = found(machine({"dev/hl0": "", "dev/hl1": ""}, HABANA_VISIBLE_MODULES="1"), [Habana()])
    assert old.devices == {"HPU": ["1"]}
    assert old.types == {"HPU": "Intel-GAUDI"}
    assert old.shown({"HPU": ["1"]}) == {"HABANA_VISIBLE_MODULES": "1"}


def test_fraction_of_a_name_is_an_amount_like_any_other(machine: Hosts) -> None:
    node = found(machine({"dev/accel0": ""}), [Tpu()], TPU=0.5)
    assert (node.devices, node.hidden()) == ({}, {})


def test_amount_that_the_user_names_is_behind_devices_of_its_kind(machine: Hosts) -> None:
    node = found(machine({}), [Amd(), Tpu()], TPU=2, licence=3)
    assert node.devices == {"TPU": ["0", "1"]}
    assert node.types == {}
