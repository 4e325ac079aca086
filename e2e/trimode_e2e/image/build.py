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
from types import ModuleType

from trimode_e2e.control import debian
from trimode_e2e.control.programs import run
from trimode_e2e.errors import Missing
from trimode_e2e.image import base, containerfile, distributions, interpreter, layer, nvidia, packages
from trimode_e2e.image.layout import Image, assemble
from trimode_e2e.image.store import Say, locked
from trimode_operator.plan.settings import Settings

NAME = f"docker.io/library/{Settings().image}"
PAUSE = "docker.io/local/pause:1"
_PAUSE = Path(__file__).with_name("pause.c")


def build(cache: Path, say: Say) -> Image:
    """trimode's image. Layers stay in `cache/image`, so that only what has changed is made.

    Raises Missing where this machine lacks something, Broken where a program fails.
    """
    described = containerfile.ours()
    needed = distributions.needed(containerfile.requirements())
    with locked(cache / "image", say) as store:
        layers = [
            store.layer(
                "base",
                _key(described.suite, sys.version, made_by=(base, debian, interpreter, layer)),
                lambda into: base.fill(into, described.suite),
            ),
            store.layer(
                "dependencies",
                _key(
                    interpreter.VERSION,
                    *(f"{each.name}=={each.version}" for each in needed),
                    made_by=(distributions, nvidia, layer),
                ),
                lambda into: distributions.fill(into, needed),
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
        key = _key(_PAUSE.read_text(), made_by=(layer,))
        made = store.layer("pause", key, lambda into: into.data("pause", _compiled(), 0o755))
        return assemble(store, PAUSE, {"Cmd": ["/pause"], "User": "65535:65535"}, [made])


def _compiled() -> bytes:
    if shutil.which("cc") is None:
        raise Missing("the image of pods' sandboxes is compiled by cc, which is not on the path (package gcc)")
    with tempfile.TemporaryDirectory(prefix="trimode-image-") as folder:
        out = Path(folder) / "pause"
        run(["cc", "-Os", "-static", "-s", "-o", str(out), str(_PAUSE)])
        return out.read_bytes()


def _key(*parts: str, made_by: Iterable[ModuleType]) -> str:
    """Another one whenever these change, or the modules that decide what is in the layer."""
    digest = hashlib.sha256("\n".join(parts).encode())
    for module in made_by:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:16]
