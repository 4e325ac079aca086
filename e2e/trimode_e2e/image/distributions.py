"""The layer of dependencies: what pip installed into this environment for the image's requirements.

Belongs here: which distributions those are, and where their files lie in the image. The environment is a prefix like
/usr/local, so every file keeps its path below it; bytecode is taken along, as the image's root is read-only.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trimode_e2e.errors import Missing
from trimode_e2e.image import nvidia
from trimode_e2e.image.interpreter import EXECUTABLE, PREFIX
from trimode_e2e.image.layer import Layer

_HERE = os.fsencode(f"{sys.prefix}/bin/python")


def fill(layer: Layer, distributions: Iterable[metadata.Distribution]) -> None:
    """All files of these, but for what only a GPU needs; see `nvidia`. Raises Missing without binutils or cc."""
    for distribution in distributions:
        if not nvidia.left_out(distribution.name):
            for source in files(distribution):
                add(layer, source)
    for source in nvidia.small_libraries():
        add(layer, source)
    if large := nvidia.large_libraries():
        stand_in = nvidia.stand_in()
        for path in large:
            layer.data(in_image(path), stand_in, 0o755)


def needed(requirements: Iterable[str]) -> list[metadata.Distribution]:
    """What fulfils these, and what that needs in turn, by name. Raises Missing where it is not installed here."""
    found: dict[str, metadata.Distribution] = {}
    asked: set[tuple[str, frozenset[str]]] = set()
    waiting = [_wanted(Requirement(text)) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        if wanted in asked:
            continue
        asked.add(wanted)
        name, extras = wanted
        found[name] = _installed(name)
        needs = map(Requirement, found[name].requires or ())
        waiting += [_wanted(need) for need in needs if _applies(need, extras)]
    return [found[name] for name in sorted(found)]


def files(distribution: metadata.Distribution) -> Iterator[Path]:
    """Those on this machine, scripts and bytecode among them."""
    for path in distribution.files or ():
        file = Path(os.path.normpath(str(distribution.locate_file(path))))
        if file.is_file():
            yield file


def add(layer: Layer, source: Path) -> None:
    """A file of the environment at its place in the image. Scripts name the image's Python, not this one."""
    path = in_image(source)
    if source.parent == Path(sys.prefix, "bin"):
        content = source.read_bytes()
        if content.startswith(b"#!") and _HERE in content:
            layer.data(path, moved(content, _HERE, EXECUTABLE.encode()), 0o755)
            return
    layer.file(path, source)


def moved(script: bytes, here: bytes, there: bytes) -> bytes:
    """A script of pip's with another interpreter, which the first line names, or the second where its path is long."""
    return re.sub(re.escape(here) + rb"[\d.]*", there, script, count=1)


def in_image(file: Path) -> str:
    return f"{PREFIX}/{file.relative_to(sys.prefix)}"


def _wanted(need: Requirement) -> tuple[str, frozenset[str]]:
    return canonicalize_name(need.name), frozenset(need.extras)


def _applies(need: Requirement, extras: frozenset[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _installed(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise Missing(
            f"{name}, which the image needs, is not installed here: pip install --editable '.[dev]'"
        ) from None
