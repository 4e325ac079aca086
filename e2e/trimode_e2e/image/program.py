"""Images of one program each, for what was built from Go modules: the rest of such an image is empty upstream, too.

Belongs here: that image.
"""

from __future__ import annotations

from pathlib import Path

from trimode_e2e.image.layout import Image, assemble
from trimode_e2e.image.store import Say, locked


def program(cache: Path, say: Say, name: str, binary: Path, path: str, user: str = "") -> Image:
    """An image of that full name which runs a statically linked `binary`, placed at `path`."""
    with locked(cache / "image", say) as store:
        layer = store.write(lambda layer: layer.file(path.lstrip("/"), binary))
        return assemble(store, name, {"Cmd": [path], "User": user}, [layer])
