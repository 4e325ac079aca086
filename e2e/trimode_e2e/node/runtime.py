"""The programs of a node: kubelet and kube-proxy from the harness's own build, the rest from Debian's packages.

Belongs here: where each program lies, and the environment they need to run from there. Nothing is installed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e.control.build import NODE_COMMANDS, SUITE, Say, build, built, cache_folder
from trimode_e2e.control.debian import Debian, unpack
from trimode_e2e.errors import Missing

_PACKAGES = (
    *("containerd", "runc", "containernetworking-plugins", "busybox-static", "conntrack", "iptables"),
    *("libip4tc2", "libip6tc2", "libxtables12", "libmnl0", "libnftnl11", "libnetfilter-conntrack3", "libnfnetlink0"),
    "libseccomp2",
)
_PARTS = "node-1"
"""Folder of the unpacked packages; another name whenever the list above changes."""
_MULTIARCH = "usr/lib/x86_64-linux-gnu"
_TABLES = [f"ip{version}tables{job}" for version in ("", "6") for job in ("", "-save", "-restore")]
HOW = "run `make node-test` as root on Debian or with its apt, which builds and fetches them"


@dataclass(frozen=True, slots=True)
class Runtime:
    """`kubernetes` holds kubelet, kube-proxy and kube-scheduler, `debian` the unpacked packages."""

    kubernetes: Path
    debian: Path

    @property
    def containerd(self) -> Path:
        return self.debian / "usr/bin/containerd"

    @property
    def ctr(self) -> Path:
        return self.debian / "usr/bin/ctr"

    @property
    def runc(self) -> Path:
        return self.debian / "usr/sbin/runc"

    @property
    def network_plugins(self) -> Path:
        return self.debian / "usr/lib/cni"

    @property
    def busybox(self) -> Path:
        """Linked statically."""
        return self.debian / "bin/busybox"

    def environment(self) -> dict[str, str]:
        """Lets programs find each other and their libraries where they were unpacked."""
        paths = (self.debian / "usr/bin", self.debian / "usr/sbin", os.environ.get("PATH", ""))
        return {
            **os.environ,
            "PATH": ":".join(map(str, paths)),
            "LD_LIBRARY_PATH": str(self.debian / _MULTIARCH),
            "XTABLES_LIBDIR": str(self.debian / _MULTIARCH / "xtables"),
        }


def find() -> Runtime:
    """What `prepare` left. Raises Missing where it did not run."""
    kubernetes, debian = built(NODE_COMMANDS), _unpacked()
    if kubernetes is None or not _made(debian).exists():
        raise Missing(f"the programs of a node are not here: {HOW}")
    return Runtime(kubernetes, debian)


def prepare(say: Say) -> Runtime:
    """Build and fetch what is missing (about two minutes). Raises Missing and Broken."""
    kubernetes, debian = build(say, NODE_COMMANDS), _unpacked()
    if not _made(debian).exists():
        say(f"fetching containerd and its company from Debian into {debian}")
        source = Debian(SUITE, debian / "apt")
        source.prepare()
        unpack(source.download(debian / "debs", *_PACKAGES), debian)
        for name in _TABLES:  # what a package's installation would link
            link = debian / "usr/sbin" / name
            link.unlink(missing_ok=True)
            link.symlink_to("xtables-legacy-multi")
        _made(debian).touch()
    return Runtime(kubernetes, debian)


def _unpacked() -> Path:
    return cache_folder() / _PARTS


def _made(folder: Path) -> Path:
    return folder / ".made"
