"""The upper layer: trimode's packages as they are in the tree, laid out as by pip from their wheel.

Belongs here: which files the wheel would have, and their bytecode.
"""

from __future__ import annotations

import py_compile
import tempfile
from importlib import metadata, util
from pathlib import Path

from trimode_e2e.image import containerfile
from trimode_e2e.image.distributions import add, files
from trimode_e2e.image.interpreter import PREFIX, VERSION
from trimode_e2e.image.layer import Layer

_SITE = f"{PREFIX}/lib/python{VERSION}/site-packages"
_EDITABLE_ONLY = ("RECORD", "direct_url.json", "REQUESTED")
"""Files of pip's that are true of the installation in the tree alone."""


def fill(layer: Layer) -> None:
    """Packages, the distribution's metadata and its command."""
    for folder in containerfile.packages():
        for source in sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts):
            path = f"{_SITE}/{source.relative_to(folder.parent)}"
            layer.file(path, source)
            if source.suffix == ".py":
                layer.data(util.cache_from_source(path), _bytecode(source, path))
    for source in files(metadata.distribution("trimode")):
        if source.suffix != ".pth" and source.name not in _EDITABLE_ONLY:
            add(layer, source)


def _bytecode(source: Path, path: str) -> bytes:
    """That of one module, which names no time of its source: so equal trees make equal layers."""
    with tempfile.TemporaryDirectory(prefix="trimode-image-") as folder:
        out = str(Path(folder) / "out.pyc")
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(source), out, f"/{path}", doraise=True, invalidation_mode=mode)
        return Path(out).read_bytes()
