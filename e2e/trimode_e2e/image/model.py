"""Images of a model's files, as `oci://` mounts them: `FROM scratch` and `COPY . /`.

Belongs here: that image.
"""

from __future__ import annotations

from pathlib import Path

from trimode_e2e.image.layer import Layer
from trimode_e2e.image.layout import Image, assemble
from trimode_e2e.image.store import Say, locked


def model(cache: Path, say: Say, name: str, folder: Path) -> Image:
    """An image of that full name with the files of `folder` at its root."""

    def fill(layer: Layer) -> None:
        for file in sorted(folder.iterdir()):
            if file.is_file():
                layer.file(file.name, file)

    with locked(cache / "image", say) as store:
        return assemble(store, name, {}, [store.write(fill)])
