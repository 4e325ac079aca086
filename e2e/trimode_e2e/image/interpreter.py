"""The Python that runs the tests, moved to /usr/local as in python:slim.

Belongs here: which of its files, and which libraries of the machine it loads.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from trimode_e2e.image.layer import Layer

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
PREFIX = "usr/local"
EXECUTABLE = f"/{PREFIX}/bin/python{VERSION}"
_NOT_NEEDED = {"test", "tests", "idlelib", "ensurepip", "site-packages", "dist-packages", "turtledemo", "tkinter"}
_NOT_NEEDED_NAMES = ("_tkinter.", "libpython")
"""As python:slim does it; Tk would bring X11, libpython.a is 40 MB."""


def fill(layer: Layer) -> None:
    """The interpreter, its standard library with bytecode, and libpython where it is a shared one."""
    for path, source in _files():
        layer.file(path, source)
    for name in ("python", "python3"):
        layer.link(f"{PREFIX}/bin/{name}", f"python{VERSION}")
    layer.link(f"{PREFIX}/lib/python{VERSION}/dist-packages", "site-packages")  # where Debian's own Python looks


def libraries() -> set[str]:
    """Names of the shared libraries that it loads and does not bring."""
    binaries = [str(source) for path, source in _files() if _is_binary(path)]
    told = subprocess.run(["ldd", *binaries], capture_output=True, text=True).stdout
    own = {path.rpartition("/")[2] for path, _ in _files()}
    return set(re.findall(r"^\t(?:/\S+/)?(\S+) (?:=>|\(0x)", told, re.MULTILINE)) - own - {"linux-vdso.so.1"}


def _files() -> Iterator[tuple[str, Path]]:
    yield EXECUTABLE.lstrip("/"), Path(sys.executable).resolve()
    home = Path(sysconfig.get_path("stdlib"))
    for source in sorted(file for file in home.rglob("*") if file.is_file()):
        inside = source.relative_to(home)
        optimised = ".opt-" in source.name  # bytecode for python -O
        if not (_NOT_NEEDED & set(inside.parts) or source.name.startswith(_NOT_NEEDED_NAMES) or optimised):
            yield f"{PREFIX}/lib/python{VERSION}/{inside}", source
    shared = Path(str(sysconfig.get_config_var("LIBDIR")), str(sysconfig.get_config_var("INSTSONAME")))
    if shared.is_file() and sysconfig.get_config_var("Py_ENABLE_SHARED"):
        # Where the loader looks by itself: without installing there is no cache that would name /usr/local/lib.
        yield f"usr/lib/{shared.name}", shared


def _is_binary(path: str) -> bool:
    return path == EXECUTABLE.lstrip("/") or ".so" in Path(path).suffixes
