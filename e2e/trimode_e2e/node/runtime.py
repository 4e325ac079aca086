"""The programs of a node: from our build of Go modules, and what Debian has new enough.

Belongs here: where each program lies, and the environment they need to run from there. Nothing is installed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e.control.build import CLUSTER, Say, build, built, cache_folder
from trimode_e2e.control.debian import Debian, unpack
from trimode_e2e.errors import Missing

SUITE = "bookworm"
_PACKAGES = (
    *("runc", "containernetworking-plugins", "conntrack", "iptables"),
    *("libip4tc2", "libip6tc2", "libxtables12", "libmnl0", "libnftnl11", "libnetfilter-conntrack3", "libnfnetlink0"),
    "libseccomp2",
)
"""runc with libseccomp (a build without C would have no seccomp filters), CNI plugins, iptables for kube-proxy."""
_PARTS = "debian-1"
"""Folder of the unpacked packages; another name whenever the list above changes."""
_MULTIARCH = "usr/lib/x86_64-linux-gnu"
_TABLES = [f"ip{version}tables{job}" for version in ("", "6") for job in ("", "-save", "-restore")]


@dataclass(frozen=True, slots=True)
class Runtime:
    """`programs` holds what was built, `debian` the unpacked packages."""

    programs: Path
    debian: Path

    @property
    def runc(self) -> Path:
        return self.debian / "usr/sbin/runc"

    @property
    def network_plugins(self) -> Path:
        return self.debian / "usr/lib/cni"

    def environment(self) -> dict[str, str]:
        """Lets programs find each other and their libraries where they were unpacked."""
        paths = (self.programs, self.debian / "usr/bin", self.debian / "usr/sbin", os.environ.get("PATH", ""))
        return {
            **os.environ,
            "PATH": ":".join(map(str, paths)),
            "LD_LIBRARY_PATH": str(self.debian / _MULTIARCH),
            "XTABLES_LIBDIR": str(self.debian / _MULTIARCH / "xtables"),
        }


def find() -> Runtime:
    """What `prepare` left. Raises Missing where it did not run."""
    programs, debian = built(CLUSTER), cache_folder() / _PARTS
    if programs is None or not _made(debian).exists():
        raise Missing("the programs of a node are not here: run `make cluster-programs`")
    return Runtime(programs, debian)


def prepare(say: Say) -> Runtime:
    """Build and fetch what is missing. Raises Missing and Broken."""
    programs, debian = build(CLUSTER, say), cache_folder() / _PARTS
    if not _made(debian).exists():
        say("fetching runc, network plugins and iptables from Debian")
        source = Debian(SUITE, debian / "apt")
        source.prepare()
        unpack(source.download(debian / "debs", *_PACKAGES), debian)
        for name in _TABLES:  # what a package's installation would link
            link = debian / "usr/sbin" / name
            link.unlink(missing_ok=True)
            link.symlink_to("xtables-legacy-multi")
        _made(debian).touch()
    return Runtime(programs, debian)


def _made(folder: Path) -> Path:
    return folder / ".made"
