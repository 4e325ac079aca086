"""Packages from Debian without touching this machine: an apt of its own below one folder, no root needed.

Belongs here: apt-get and dpkg-deb. It is an apt that has nothing installed, so it fetches all that is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trimode_e2e.control.programs import run
from trimode_e2e.errors import Broken, Missing

MIRROR = "TRIMODE_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TOOLS = ("apt-get", "dpkg-deb")


def download(suite: str, names: Sequence[str], folder: Path) -> list[Path]:
    """Fetch these packages of a release and all that they depend on, into a new folder.

    Raises Missing where this machine has no apt or names no mirror, Broken where apt fails.
    """
    _require_tools()
    for path in ("lists/partial", "cache/archives/partial"):
        (folder / path).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",  # apt would hand the download to a user who may not write here
        "Debug::NoLocking": "true",
    }
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    run(["apt-get", "-qq", *flags, "update"])
    run(["apt-get", "-qq", *flags, "install", "--yes", "--no-install-recommends", "--download-only", *names])
    return sorted((folder / "cache" / "archives").glob("*.deb"))


@contextmanager
def contents(package: Path) -> Iterator[tarfile.TarFile]:
    """The files of a package, to be read once from front to back."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            yield tar
        process.stdout.read()  # what follows the end of the archive: else dpkg-deb complains of a broken pipe
    if process.returncode:
        raise Broken(f"dpkg-deb cannot read {package.name}: it ended with {process.returncode}")


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


def _require_tools() -> None:
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if not KEYRING.exists():
        lacking.append(f"{KEYRING} (package debian-archive-keyring)")
    if lacking:
        raise Missing(f"building from Debian's packages needs {', '.join(lacking)}")
