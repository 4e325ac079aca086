"""Builds trimode's image, and the one that holds pods together.

Belongs here: the order of layers, and what each one's key is made of.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from trimode_e2e.control.programs import run
from trimode_e2e.errors import Missing
from trimode_e2e.image import base, containerfile, distributions, interpreter, packages
from trimode_e2e.image.layout import Image, assemble
from trimode_e2e.image.store import Say, locked
from trimode_operator.settings import Settings

NAME = f"docker.io/library/{Settings().image}"
PAUSE = "docker.io/local/pause:1"
_HERE = Path(__file__).parent


def build(cache: Path, say: Say) -> Image:
    """trimode's image. Layers stay in `cache/image`, so that only what has changed is made.

    Raises Missing where this machine lacks something, Broken where a program fails.
    """
    described = containerfile.ours()
    needed = distributions.needed(containerfile.requirements())
    with locked(cache / "image", say) as store:
        layers = [
            store.layer("base", _key([described.suite, sys.version]), lambda layer: base.fill(layer, described.suite)),
            store.layer(
                "dependencies",
                _key([interpreter.VERSION, *(f"{each.name}=={each.version}" for each in needed)]),
                lambda layer: distributions.fill(layer, needed),
            ),
            store.write(packages.fill),
        ]
        config = {
            "User": described.user,
            "Env": [f"{name}={value}" for name, value in (base.ENVIRONMENT | described.environment).items()],
            "WorkingDir": described.folder,
            "Cmd": described.command,
            "Labels": described.labels,
        }
        image = assemble(store, NAME, config, layers)
        store.drop_unused()
    return image


def pause(cache: Path, say: Say) -> Image:
    """The image of pods' sandboxes: one program that waits. Raises Missing without a C compiler."""
    with locked(cache / "image", say) as store:
        layer = store.layer("pause", _key([]), lambda layer: layer.data("pause", _compiled(), 0o755))
        return assemble(store, PAUSE, {"Cmd": ["/pause"], "User": "65535:65535"}, [layer])


def _compiled() -> bytes:
    if shutil.which("cc") is None:
        raise Missing("the image of pods' sandboxes is compiled by cc, which is not on the path (package gcc)")
    with tempfile.TemporaryDirectory(prefix="trimode-image-") as folder:
        out = Path(folder) / "pause"
        run(["cc", "-Os", "-static", "-s", "-o", str(out), str(_HERE / "pause.c")])
        return out.read_bytes()


def _key(parts: Iterable[str]) -> str:
    """Another one whenever these or the code of this package change: what it leaves out is decided there."""
    digest = hashlib.sha256("\n".join(parts).encode())
    for file in sorted(_HERE.glob("*.[cp]*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
