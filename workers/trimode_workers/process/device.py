"""Where an engine computes, in which numbers, and how much memory it may still take there.

What follows from the answers is pure (`engine.footprint`).
"""

from __future__ import annotations

from pathlib import Path

import torch

USABLE = 0.92
"""Share of a GPU's memory that an engine plans with: the rest is the driver's, and lost between blocks."""

GRAPHS = 1 << 30
"""Bytes left for recorded forwards: their pool and some MiB for each. An estimate, not measured."""

_CGROUP = Path("/sys/fs/cgroup")


def pick_device() -> torch.device:
    """The first GPU where there is one. Ray hides those that belong to other replicas."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on a GPU; on CPUs it is slower than float32."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def free_memory(device: torch.device) -> int:
    """Bytes that the engine may take beside what it holds already."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        return int(free - (1 - USABLE) * total) - GRAPHS
    return _free_in_memory(_CGROUP, Path("/proc/meminfo"))


def _free_in_memory(cgroup: Path, meminfo: Path) -> int:
    """The machine's available memory, or what the container's limit leaves where that is less. Files that the kernel
    keeps in memory count as free, as it drops them when asked for memory."""
    available = 1024 * _table(meminfo)["MemAvailable:"]
    try:
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))
        stat = _table(cgroup / "memory.stat")
    except (OSError, ValueError):  # no such controller, or the limit is "max"
        return available
    used = sum(stat.get(kind, 0) for kind in ("anon", "shmem", "slab_unreclaimable"))
    return min(available, limit - used)


def _table(path: Path) -> dict[str, int]:
    """The first number behind each line's first word."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {words[0]: int(words[1]) for words in lines}
