"""What the operator's and the router's image holds, taken from the environment that runs the tests.

Laid out as the Containerfile does it: Python and all packages below /usr/local. Workers are left out, with torch and
Ray, which the operator's pods never load.
Belongs here: the choice of files.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from trimode_e2e.crds import ROOT
from trimode_e2e.errors import Missing
from trimode_e2e.node.image import Entry

EXTRAS = ("operator", "router")
OURS = ("crds/trimode_api", "policy/trimode_policy", "operator/trimode_operator", "router/trimode_router")
USER = "65532:65532"
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_HOME = f"usr/local/lib/python{_VERSION}"
_PACKAGES = f"{_HOME}/site-packages"
_NEVER_LOADED = {"test", "tests", "idlelib", "ensurepip", "site-packages", "dist-packages", "turtledemo", "tkinter"}
_NEVER_LOADED_NAMES = ("_tkinter.", "libpython")
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "PYTHONPATH": f"/{_PACKAGES}",  # Debian's Python looks elsewhere by itself
    "HOME": "/tmp",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


def entries(busybox: Path) -> list[Entry]:
    """Python, the packages, ours, the libraries that all of them load, and the `sleep` of preStop hooks."""
    files = [*_python(), *_packages(), *_ours()]
    binaries = [entry.source for entry in files if entry.source and _is_binary(entry)]
    return [
        *files,
        *(Entry(f"{path}".lstrip("/"), path) for path in _libraries(binaries)),
        *_own_library(),
        *(Entry(f"usr/local/bin/{name}", target=f"python{_VERSION}") for name in ("python", "python3")),
        Entry("bin/busybox", busybox),
        Entry("bin/sleep", target="busybox"),
    ]


def _python() -> Iterator[Entry]:
    """The interpreter and its standard library."""
    yield Entry(f"usr/local/bin/python{_VERSION}", Path(sys.executable).resolve())
    home = Path(sysconfig.get_path("stdlib"))
    for file in _below(home):
        inside = file.relative_to(home)
        optimised = ".opt-" in file.name  # bytecode for python -O
        if not (_NEVER_LOADED & set(inside.parts) or file.name.startswith(_NEVER_LOADED_NAMES) or optimised):
            yield Entry(f"{_HOME}/{inside}", file)


def _packages() -> Iterator[Entry]:
    """Files of all distributions that the extras need, their compiled code among them."""
    for distribution in _needed():
        for path in distribution.files or ():
            file = Path(str(distribution.locate_file(path)))
            if ".." not in path.parts and path.suffix != ".pth" and file.is_file():
                yield Entry(f"{_PACKAGES}/{path}", file)


def _ours() -> Iterator[Entry]:
    """The packages as they are in the tree."""
    for name in OURS:
        for file in _below(ROOT / name):
            if "__pycache__" not in file.parts:
                yield Entry(f"{_PACKAGES}/{file.relative_to((ROOT / name).parent)}", file)


def _below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _needed() -> list[metadata.Distribution]:
    """trimode with the extras, and what it needs, and what those need."""
    found: dict[str, metadata.Distribution] = {}
    waiting: list[tuple[str, frozenset[str]]] = [("trimode", frozenset(EXTRAS))]
    asked: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        if wanted in asked:
            continue
        asked.add(wanted)
        name, extras = wanted
        distribution = metadata.distribution(name)
        found[name] = distribution
        for text in distribution.requires or ():
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((_canonical(need.name), frozenset(need.extras)))
    return list(found.values())


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_binary(entry: Entry) -> bool:
    return entry.path.startswith("usr/local/bin/") or ".so" in Path(entry.path).suffixes


def _libraries(binaries: list[Path]) -> list[Path]:
    """The shared libraries that these load, at the paths where the loader looks. Raises Missing without glibc's ldd."""
    told = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True)
    found = {Path(match) for match in re.findall(r"(?:=> |^\t)(/\S+) \(0x", told.stdout, re.MULTILINE)}
    own = {Path(sys.prefix), Path(sys.base_prefix)}
    libraries = {path for path in found if not any(path.is_relative_to(folder) for folder in own)}
    if not any(path.name.startswith("ld-linux") for path in libraries):
        raise Missing(f"ldd does not tell what Python loads: {told.stderr.strip()[:200]!r}")
    return sorted(libraries)


def _own_library() -> list[Entry]:
    """libpython where the interpreter has a shared one, in a folder where the loader looks without being told."""
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return []
    return [Entry(f"usr/lib/{name}", Path(str(folder)) / str(name))]
