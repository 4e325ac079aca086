"""Packages from Debian without touching this machine: an apt of its own below one folder, no root needed.

Belongs here: apt-get and dpkg-deb. Fetches packages of a named release from the mirror that the machine's own apt uses.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e.control.programs import run
from trimode_e2e.errors import Broken, Missing

MIRROR = "TRIMODE_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TOOLS = ("apt-get", "dpkg-deb")


@dataclass(frozen=True, slots=True)
class Debian:
    """One release of Debian (`suite`), with its state below `folder`."""

    suite: str
    folder: Path

    def prepare(self) -> None:
        """Fetch the lists of packages. Raises Missing where this machine has no apt or names no mirror."""
        require_tools()
        for path in ("lists/partial", "cache/archives/partial"):
            (self.folder / path).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        (self.folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {self.suite} main\n")
        self._apt("update", cwd=self.folder)

    def download(self, into: Path, *packages: str) -> tuple[Path, ...]:
        """Fetch binary packages; returns all files of `into` that are packages."""
        into.mkdir(parents=True, exist_ok=True)
        self._apt("download", *packages, cwd=into)
        return tuple(sorted(into.glob("*.deb")))

    def download_with_needs(self, *packages: str) -> list[Path]:
        """Fetch these and all that they depend on: nothing counts as installed."""
        self._apt("install", "--yes", "--no-install-recommends", "--download-only", *packages, cwd=self.folder)
        return sorted((self.folder / "cache" / "archives").glob("*.deb"))

    def _apt(self, *words: str, cwd: Path) -> None:
        options = {
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::Lists": self.folder / "lists",
            "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder / "cache",
            "APT::Sandbox::User": "root",  # apt would hand the download to a user who may not write here
            "Debug::NoLocking": "true",
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        run(["apt-get", "-qq", *flags, *words], cwd=cwd)


def require_tools() -> None:
    """Raises Missing where apt's tools or Debian's keyring are not here."""
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if not KEYRING.exists():
        lacking.append(f"{KEYRING} (package debian-archive-keyring)")
    if lacking:
        raise Missing(f"building from Debian's packages needs {', '.join(lacking)}")


def mirror() -> str:
    """The mirror of Debian that this machine's apt uses, or the one that TRIMODE_DEBIAN_MIRROR names."""
    if chosen := os.environ.get(MIRROR):
        return chosen
    listed = run(["apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Created-By: Packages"])
    for line in listed.splitlines():
        origin, codename, *uri = line.split()
        if origin == "Debian" and "-" not in codename and uri:
            return uri[0]
    raise Missing(f"apt knows no mirror of Debian here: name one in {MIRROR}")


@contextmanager
def contents(package: Path) -> Iterator[tarfile.TarFile]:
    """The files of a package, to be read once from front to back. Raises Broken where it cannot be read."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            yield tar
        process.stdout.read()  # what follows the end of the archive: else dpkg-deb complains of a broken pipe
    if process.returncode:
        raise Broken(f"dpkg-deb cannot read {package.name}: it ended with {process.returncode}")


def unpack(packages: tuple[Path, ...], into: Path) -> None:
    """Unpack binary packages below a folder, without installing them."""
    into.mkdir(parents=True, exist_ok=True)
    for package in packages:
        run(["dpkg-deb", "--extract", str(package), str(into)])
