"""Finished layers and small blobs in a folder, laid out as OCI has it: `blobs/sha256/<digest>`.

Belongs here: what is kept, under which key, and for how long.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e.image.layer import Layer

_KEPT_S = 900.0

Say = Callable[[str], None]
"""Told of progress, one line at a time."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file and its SHA-256 in hexadecimal, after which it is named."""

    path: Path
    digest: str

    @property
    def size(self) -> int:
        return self.path.stat().st_size


@dataclass(frozen=True, slots=True)
class Store:
    """Blobs below `folder`."""

    folder: Path
    say: Say

    def layer(self, name: str, key: str, fill: Callable[[Layer], None]) -> Blob:
        """The layer of this key, filled where it is not here yet. What `name` had under other keys is not kept."""
        note = self.folder / "layers" / f"{name}-{key}"
        if note.exists():
            blob = self._blob(note.read_text())
            if blob.path.exists():
                blob.path.touch()
                return blob
        for old in note.parent.glob(f"{name}-*"):
            old.unlink()
        self.say(f"image: building layer {name}")
        begun = time.monotonic()
        blob = self.write(fill)
        note.parent.mkdir(exist_ok=True)
        note.write_text(blob.digest)
        self.say(f"image: layer {name} of {blob.size / 1e6:.0f} MB built in {time.monotonic() - begun:.1f} s")
        return blob

    def write(self, fill: Callable[[Layer], None]) -> Blob:
        """A layer, filled anew."""
        partial = self._blob("").path / "partial"  # one at a time, see `locked`
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out, Layer(out) as layer:
            fill(layer)
        blob = self._blob(layer.digest)
        partial.rename(blob.path)
        return blob

    def add(self, content: bytes) -> Blob:
        blob = self._blob(hashlib.sha256(content).hexdigest())
        blob.path.parent.mkdir(parents=True, exist_ok=True)
        blob.path.write_bytes(content)
        return blob

    def drop_unused(self) -> None:
        """Remove what nothing has asked for lately: another run of the tests may be about to load what is newer."""
        for path in self._blob("").path.iterdir():
            if time.time() - path.stat().st_mtime > _KEPT_S:
                path.unlink()

    def _blob(self, digest: str) -> Blob:
        return Blob(self.folder / "blobs" / "sha256" / digest, digest)


@contextmanager
def locked(folder: Path, say: Say) -> Iterator[Store]:
    """The store in this folder, for one builder at a time: the next one finds everything made."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"image: waiting for another build ({folder})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield Store(folder, say)
