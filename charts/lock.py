"""What the image installs: every distribution's version and the digests of its wheels, by pip's own resolver.

`make lock` runs it where pyproject.toml or constraints.txt has changed, and needs the package index once. What it
writes, `image-torch.lock` and `image.lock`, is all that builds of the image and the bill of materials ask.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("operator", "router", "workers", "otel")
TORCH = ROOT / "charts" / "image-torch.lock"
REST = ROOT / "charts" / "image.lock"
PYTHON = "3.11"
MACHINES = ("x86_64", "aarch64")
# Debian 12, on which the image is built, has glibc 2.36; manylinux2014 is what wheels for 2.17 were called before.
GLIBC = (*(f"manylinux_2_{minor}" for minor in range(36, 16, -1)), "manylinux2014")
HEAD = "# Written by `make lock`: what pip resolves for the image, with the digests of the wheels for {}.\n"


@dataclass(frozen=True, slots=True)
class Locked:
    """A distribution of the image. `digests` are of its wheels, SHA-256 in hexadecimal, at most one a machine."""

    name: str
    version: str
    digests: tuple[str, ...]


def requirements(pyproject: str) -> list[str]:
    """Requirements of the project and of the extras that the image has, each once."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]
    return sorted({*project["dependencies"], *(need for name in EXTRAS for need in extras[name])})


def locked(text: str) -> list[Locked]:
    """What a lock file holds. Raises ValueError where a line is no pin with digests."""
    pins: list[Locked] = []
    joined = text.replace("\\\n", " ").splitlines()
    for line in filter(None, (line.partition("#")[0].strip() for line in joined)):
        pin, *options = line.split()
        name, equals, version = pin.partition("==")
        digests = [option.removeprefix("--hash=sha256:") for option in options]
        if not equals or not digests or any(len(digest) != 64 for digest in digests):
            raise ValueError(f"no pin with SHA-256 digests: {line[:100]}")
        pins.append(Locked(name, version, tuple(digests)))
    return pins


def written(pins: list[Locked]) -> str:
    """The text that `locked` reads, and `pip install --require-hashes`."""
    lines = [
        f"{pin.name}=={pin.version}" + "".join(f" \\\n    --hash=sha256:{digest}" for digest in pin.digests)
        for pin in sorted(pins, key=lambda pin: pin.name.lower())
    ]
    return HEAD.format(" and ".join(MACHINES)) + "\n".join(lines) + "\n"


def merged(reports: list[dict[str, Any]]) -> list[Locked]:
    """The distributions in pip's reports, one report for each machine. Raises ValueError where the machines would get
    different versions, since a list has one."""
    versions: dict[str, set[str]] = defaultdict(set)
    digests: dict[str, set[str]] = defaultdict(set)
    for item in (item for report in reports for item in report["install"]):
        name = item["metadata"]["name"]
        versions[name].add(item["metadata"]["version"])
        digests[name].add(item["download_info"]["archive_info"]["hashes"]["sha256"])
    if apart := sorted(name for name, found in versions.items() if len(found) > 1):
        raise ValueError(f"pip resolves other versions on each of {MACHINES}: {', '.join(apart)}")
    return [Locked(name, *found, tuple(sorted(digests[name]))) for name, found in versions.items()]


def resolved(needs: list[str], machine: str) -> dict[str, Any]:
    """pip's report of what it would install for these, of wheels alone."""
    platforms = [f"--platform={libc}_{machine}" for libc in GLIBC]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
            *("--only-binary=:all:", f"--python-version={PYTHON}", *platforms, f"--target={folder}/none"),
            *(f"--report={report}", "--constraint", str(ROOT / "constraints.txt"), *needs),
        ]
        subprocess.run(command, check=True)
        found: dict[str, Any] = json.loads(report.read_text())
    return found


def main() -> None:
    everything = merged([resolved(requirements((ROOT / "pyproject.toml").read_text()), each) for each in MACHINES])
    torch = {pin.name for pin in merged([resolved(["torch"], MACHINES[0])])}
    TORCH.write_text(written([pin for pin in everything if pin.name in torch]))
    REST.write_text(written([pin for pin in everything if pin.name not in torch]))


if __name__ == "__main__":
    main()
