"""What hardware can do: priors for the roofline, to be corrected by measurement.

Belongs here: figures of machines. None was measured by us: they are the vendors' data sheets, bandwidth and dense
bf16 arithmetic, times the share that decoding usually reaches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trimode_policy.roofline import ModelShape, Roofline

BANDWIDTH_REACHED = 0.85
"""Share of the data sheet's bandwidth that a decoding step reaches."""
ARITHMETIC_REACHED = 0.7
"""Share of the data sheet's dense bf16 operations per second that large batches reach."""
GPU_OVERHEAD_S = 2e-4
"""Seconds per forward for launching captured graphs and for the interpreter between them."""


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """One device. `bytes_per_s` and `flops_per_s` are what is expected to be reached, not the peak.

    `overhead_s`: per forward. `measured`: False for a prior from a data sheet. `source`: where the figures are from.
    """

    name: str
    bytes_per_s: float
    flops_per_s: float
    memory_bytes: float
    overhead_s: float
    measured: bool
    source: str

    def roofline(self, shape: ModelShape) -> Roofline:
        """This device's roofline for a model of that shape."""
        return Roofline.for_model(
            shape, flops_per_s=self.flops_per_s, bytes_per_s=self.bytes_per_s, overhead_s=self.overhead_s
        )


def _gpu(name: str, terabytes_per_s: float, dense_bf16_teraflops: float, gigabytes: float) -> HardwareProfile:
    return HardwareProfile(
        name=name,
        bytes_per_s=BANDWIDTH_REACHED * terabytes_per_s * 1e12,
        flops_per_s=ARITHMETIC_REACHED * dense_bf16_teraflops * 1e12,
        memory_bytes=gigabytes * 1e9,
        overhead_s=GPU_OVERHEAD_S,
        measured=False,
        source=f"NVIDIA {name} data sheet: {terabytes_per_s:g} TB/s, {dense_bf16_teraflops:g} TFLOP/s dense bf16",
    )


PROFILES = {
    profile.name: profile
    for profile in (
        _gpu("A100", 2.039, 312.0, 80.0),
        _gpu("H100", 3.35, 989.0, 80.0),
        _gpu("H200", 4.8, 989.0, 141.0),
        _gpu("B200", 8.0, 2250.0, 180.0),
        _gpu("L4", 0.3, 121.0, 24.0),
    )
}
"""Priors by device: A100 80 GB SXM, H100 SXM, H200 SXM, B200 (HGX), L4."""


def known_gpu(name: str) -> HardwareProfile | None:
    """The prior for a GPU by the name its driver gives it (`NVIDIA A100-SXM4-80GB`); None where it is another one."""
    # By whole words: an L40S is no L4, and a GH200 no H200.
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    return next((profile for device, profile in PROFILES.items() if device in words), None)


def generic_cpu(cores: int, layers: int) -> HardwareProfile:
    """A prior for float32 on `cores` cores of a server: 40 GFLOP/s each, 10 GB/s in all, 0.5 ms per layer and forward.

    Fits the packaged tiny model on two cores (2 ms for one token, 86 ms for 2,048) and is a guess elsewhere.
    Raises ValueError for fewer than one core or layer.
    """
    if cores < 1 or layers < 1:
        raise ValueError(f"generic_cpu: cores and layers must be at least 1, not {cores} and {layers}")
    return HardwareProfile(
        name="cpu",
        bytes_per_s=10e9,
        flops_per_s=40e9 * cores,
        memory_bytes=4e9 * cores,
        overhead_s=5e-4 * layers,
        measured=False,
        source="fitted by eye to a 1.8M-parameter model, eager float32, 2 cores",
    )
