"""Whether this machine can hold a node, and its cgroups.

Belongs here: every look at the machine itself. Nothing of it is changed but cgroups, which are removed again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from trimode_e2e.errors import Missing

_MOUNTS = Path("/proc/self/mounts")
_TOOLS = {"ip": "iproute2", "nsenter": "util-linux", "mount": "mount", "ldd": "libc-bin"}
_CONTROLLERS = frozenset({"cpu", "cpuacct", "cpuset", "memory", "pids"})
"""Those that kubelet 1.20 insists on."""
_SHARES = 16 * 1024
"""What sixteen processes outside have, about as many as a fleet's pods hold.

The kernel weighs a cgroup as it weighs one process beside it (1024), so all pods together got as much as one: beside
forty busy processes probes of live workers timed out, and kubelet restarted them.
"""
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_MKNOD": 27}


def require() -> None:
    """Raises Missing with everything that this machine lacks for a node."""
    if lacking := list(_lacking()):
        raise Missing(f"a node with real pods cannot run here: {'; '.join(lacking)}")


def _lacking() -> Iterator[str]:
    if os.geteuid() != 0:
        yield "it needs root (run the tests as root)"
    elif missing := [name for name, bit in _CAPABILITIES.items() if not _effective() >> bit & 1]:
        yield f"root lacks {', '.join(missing)} (in a container: run it privileged)"
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            yield f"no {tool} on the path (Debian's package {package})"
    if "\toverlay" not in Path("/proc/filesystems").read_text():
        yield "the kernel knows no overlay file system (modprobe overlay)"
    held = {option for _, options in _hierarchies() for option in options}
    if lost := sorted(_CONTROLLERS - held):
        yield (
            f"no cgroup v1 hierarchy for {', '.join(lost)} (the harness knows v1 only: boot with "
            "systemd.unified_cgroup_hierarchy=0, or use kind: make kind-test)"
        )
    for path, _ in _hierarchies():
        if os.geteuid() == 0 and not os.access(path, os.W_OK):
            yield f"{path} is not writable"


def _effective() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("CapEff:")), 16)


def _hierarchies(kinds: tuple[str, ...] = ("cgroup",)) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Mount points of cgroup v1 with their options, the controllers among them."""
    for line in _MOUNTS.read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind in kinds:
            yield Path(where), tuple(options.split(","))


def make_cgroups(name: str) -> None:
    """One cgroup of this name in every hierarchy, below which kubelet makes its own."""
    for path, options in _hierarchies():
        (path / name).mkdir(exist_ok=True)
        if "cpuset" in options:  # without these no process can join
            for file in ("cpuset.cpus", "cpuset.mems"):
                (path / name / file).write_text((path / file).read_text())
        if "cpu" in options:
            (path / name / "cpu.shares").write_text(str(_SHARES))


def cgroups(name: str) -> list[Path]:
    """Those of this name, in a v2 hierarchy beside v1, too: runc makes one there."""
    return [path / name for path, _ in _hierarchies(("cgroup", "cgroup2")) if (path / name).exists()]


def remove_cgroups(name: str) -> None:
    """Those of this name and all below, whose processes have ended."""
    for path in cgroups(name):
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(FileNotFoundError):
                Path(folder).rmdir()
