"""Types of accelerators, for `accelerator_type=`: which of them a node has, it finds out itself.

A type that is not listed works as well: it is a text that a node and a task have in common.
"""

from typing import Final

__all__ = [
    "AMD_INSTINCT_MI100",
    "AMD_INSTINCT_MI210",
    "AMD_INSTINCT_MI250",
    "AMD_RADEON_HD_7900",
    "AMD_RADEON_R9_200_HD_7900",
    "APPLE_M1",
    "APPLE_M1_MAX",
    "APPLE_M1_PRO",
    "APPLE_M1_ULTRA",
    "APPLE_M2",
    "APPLE_M2_MAX",
    "APPLE_M2_PRO",
    "APPLE_M3",
    "APPLE_M3_MAX",
    "APPLE_M3_PRO",
    "APPLE_SILICON",
    "AWS_NEURON_CORE",
    "GOOGLE_TPU_V2",
    "GOOGLE_TPU_V3",
    "GOOGLE_TPU_V4",
    "GOOGLE_TPU_V5LITEPOD",
    "GOOGLE_TPU_V5P",
    "GOOGLE_TPU_V6E",
    "GOOGLE_TPU_V7X",
    "INTEL_GAUDI",
    "INTEL_MAX_1100",
    "INTEL_MAX_1550",
    "METAX_C500",
    "METAX_C550",
    "MOBILINT_ARIES",
    "MOBILINT_REGULUS",
    "NVIDIA_A100",
    "NVIDIA_H100",
    "NVIDIA_L4",
    "NVIDIA_TESLA_A10G",
    "NVIDIA_TESLA_A100",
    "NVIDIA_TESLA_K80",
    "NVIDIA_TESLA_P4",
    "NVIDIA_TESLA_P100",
    "NVIDIA_TESLA_T4",
    "NVIDIA_TESLA_V100",
    "AMD_INSTINCT_MI250x",
    "AMD_INSTINCT_MI300x",
]  # fmt: skip

NVIDIA_TESLA_V100: Final = "V100"
NVIDIA_TESLA_P100: Final = "P100"
NVIDIA_TESLA_T4: Final = "T4"
NVIDIA_TESLA_P4: Final = "P4"
NVIDIA_TESLA_K80: Final = "K80"
NVIDIA_TESLA_A10G: Final = "A10G"
NVIDIA_TESLA_A100: Final = "A100"
NVIDIA_L4: Final = "L4"
NVIDIA_A100: Final = "A100"
NVIDIA_H100: Final = "H100"
INTEL_MAX_1550: Final = "Intel-GPU-Max-1550"
INTEL_MAX_1100: Final = "Intel-GPU-Max-1100"
INTEL_GAUDI: Final = "Intel-GAUDI"
AMD_INSTINCT_MI100: Final = "AMD-Instinct-MI100"
AMD_INSTINCT_MI210: Final = "AMD-Instinct-MI210"
AMD_INSTINCT_MI250: Final = "AMD-Instinct-MI250X-MI250"
AMD_INSTINCT_MI250x: Final = "AMD-Instinct-MI250X"
AMD_INSTINCT_MI300x: Final = "AMD-Instinct-MI300X-OAM"
AMD_RADEON_HD_7900: Final = "AMD-Radeon-HD-7900"
AMD_RADEON_R9_200_HD_7900: Final = "AMD-Radeon-R9-200-HD-7900"
AWS_NEURON_CORE: Final = "aws-neuron-core"
GOOGLE_TPU_V2: Final = "TPU-V2"
GOOGLE_TPU_V3: Final = "TPU-V3"
GOOGLE_TPU_V4: Final = "TPU-V4"
GOOGLE_TPU_V5P: Final = "TPU-V5P"
GOOGLE_TPU_V5LITEPOD: Final = "TPU-V5LITEPOD"
GOOGLE_TPU_V6E: Final = "TPU-V6E"
GOOGLE_TPU_V7X: Final = "TPU-V7X"
METAX_C500: Final = "MXC500"
METAX_C550: Final = "MXC550"
MOBILINT_ARIES: Final = "MOBILINT_ARIES"
MOBILINT_REGULUS: Final = "MOBILINT_REGULUS"
APPLE_M1: Final = "M1"
APPLE_M1_PRO: Final = "M1-Pro"
APPLE_M1_MAX: Final = "M1-Max"
APPLE_M1_ULTRA: Final = "M1-Ultra"
APPLE_M2: Final = "M2"
APPLE_M2_PRO: Final = "M2-Pro"
APPLE_M2_MAX: Final = "M2-Max"
APPLE_M3: Final = "M3"
APPLE_M3_PRO: Final = "M3-Pro"
APPLE_M3_MAX: Final = "M3-Max"
APPLE_SILICON: Final = "Apple-Silicon"
