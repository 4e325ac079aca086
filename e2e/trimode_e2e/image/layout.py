"""Images as OCI describes them, and the way into containerd.

Belongs here: configuration, manifest and index, and the archive that `ctr images import` reads.
"""

from __future__ import annotations

import io
import json
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trimode_e2e.control.programs import end_of
from trimode_e2e.errors import Broken, Missing
from trimode_e2e.image.store import Blob, Store

_OCI = "application/vnd.oci.image"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_CONTENT = "io.containerd.content.v1.content/blobs/sha256"


@dataclass(frozen=True, slots=True)
class Image:
    """An image of that full name (`docker.io/library/...:tag`). The lowest layer comes first."""

    name: str
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]


def assemble(store: Store, name: str, config: dict[str, Any], layers: Sequence[Blob]) -> Image:
    """An image of finished layers; `config` has what runs: `Cmd`, `Env`, `User` and so on."""
    described = store.add(
        _json(
            {
                "architecture": architecture(),
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
            }
        )
    )
    manifest = store.add(
        _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{_OCI}.manifest.v1+json",
                "config": _descriptor(described, "config.v1+json"),
                "layers": [_descriptor(layer, "layer.v1.tar") for layer in layers],
            }
        )
    )
    return Image(name, manifest, described, tuple(layers))


def load(image: Image, ctr: Sequence[str], root: Path) -> None:
    """Give the image to a running containerd, whose `root` is that folder; `ctr` names socket and namespace.

    Layers are linked into containerd's content instead of being sent, which it allows: content that is there needs
    only to be claimed. Of 2 GB that takes 6 to 17 s, where sending took 23 to 33 s (two cores, shared); 34 to 39 s on
    an ext4 where as many files were deleted less than a minute before, as it avoids their inodes one by one. Raises
    Broken where ctr fails.
    """
    content = root / _CONTENT
    content.mkdir(parents=True, exist_ok=True)
    for layer in dict.fromkeys(image.layers):
        _link(layer.path, content / layer.digest)
        claim = ["--expected-digest", f"sha256:{layer.digest}", "--expected-size", str(layer.size)]
        with layer.path.open("rb") as file:
            _run([*ctr, "content", "ingest", *claim, layer.digest], stdin=file)
    _run([*ctr, "images", "import", "-"], input=archive(image))


def archive(image: Image) -> bytes:
    """The image without its layers, in OCI's layout."""
    out = io.BytesIO()
    _write(image, out, (image.manifest, image.config))
    return out.getvalue()


def _write(image: Image, out: IO[bytes], blobs: Iterable[Blob]) -> None:
    index = _descriptor(image.manifest, "manifest.v1+json") | {
        "annotations": {
            "io.containerd.image.name": image.name,
            "org.opencontainers.image.ref.name": image.name.rpartition(":")[2],
        }
    }
    texts = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": [index]}),
    }
    with tarfile.open(fileobj=out, mode="w|", bufsize=1 << 20) as tar:
        for name, content in texts.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for blob in dict.fromkeys(blobs):
            info = tarfile.TarInfo(f"blobs/sha256/{blob.digest}")
            info.size = blob.size
            with blob.path.open("rb") as file:
                tar.addfile(info, file)


def architecture() -> str:
    """That of this machine, by OCI's name. Raises Missing for one that has none here."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise Missing(f"images are built on {' and '.join(_ARCHITECTURES)}, this machine is {machine}")
    return _ARCHITECTURES[machine]


def _link(source: Path, to: Path) -> None:
    if to.exists():
        return
    try:
        to.hardlink_to(source)
    except OSError:  # another file system
        shutil.copyfile(source, to)


def _run(command: list[str], **stdin: Any) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **stdin)
    if done.returncode:
        raise Broken(f"containerd takes no image: {' '.join(command)}:\n{end_of(done.stdout.decode(errors='replace'))}")


def _descriptor(blob: Blob, kind: str) -> dict[str, Any]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{blob.digest}", "size": blob.size}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
