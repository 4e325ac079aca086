"""Container images without a registry and without a builder: files of this machine as a docker archive.

Belongs here: the format (one layer, a configuration, a manifest), which `ctr images import` reads.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_FOLDERS = {"tmp": 0o1777, "etc": 0o755, "proc": 0o755, "sys": 0o755, "dev": 0o755}


@dataclass(frozen=True, slots=True)
class Entry:
    """A path in the image, and the file that lies there: `source` of this machine, or a link to `target`."""

    path: str
    source: Path | None = None
    target: str = ""


def write_image(
    out: Path, name: str, entries: Iterable[Entry], *, command: list[str], user: str, environment: dict[str, str]
) -> None:
    """An image of that full name (`docker.io/...`). Everything in it belongs to root and may be read by all."""
    layer = out.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        for folder, mode in _FOLDERS.items():
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, mode
            tar.addfile(info)
        for entry in entries:
            _add(tar, entry)
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": command, "User": user, "Env": [f"{key}={value}" for key, value in environment.items()]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "trimode e2e"}],
        }
    ).encode()
    names = (f"{hashlib.sha256(config).hexdigest()}.json", f"{digest}/layer.tar")
    manifest = json.dumps([{"Config": names[0], "RepoTags": [name], "Layers": [names[1]]}]).encode()
    with tarfile.open(out, "w") as tar:
        for path, content in ((names[0], config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        tar.add(layer, names[1])
    layer.unlink()


def _add(tar: tarfile.TarFile, entry: Entry) -> None:
    if entry.source is None:
        info = tarfile.TarInfo(entry.path)
        info.type, info.linkname = tarfile.SYMTYPE, entry.target
        tar.addfile(info)
        return
    source = entry.source.resolve()  # a link's target may lie outside the image
    info = tar.gettarinfo(source, entry.path)
    info.type, info.linkname, info.size = tarfile.REGTYPE, "", source.stat().st_size
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    info.mode = 0o755 if info.mode & 0o100 else 0o644
    with source.open("rb") as file:
        tar.addfile(info, file)
