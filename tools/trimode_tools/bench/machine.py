"""What a measurement was made on.

Belongs here: facts of the machine and versions of what ran.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from trimode_local.preflight import machine_cores, machine_gpus, machine_memory

PACKAGES = ("trimode", "torch", "ray", "numpy", "aiohttp")


def facts() -> dict[str, object]:
    """Processor, cores, memory, GPUs, system, and the load of others as the run began."""
    return {
        "processor": _processor(),
        "cores": machine_cores(),
        "memoryMiB": machine_memory() >> 20,
        "gpus": machine_gpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "loadAverage": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
