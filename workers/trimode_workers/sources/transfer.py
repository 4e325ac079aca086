"""Large files over HTTP: continued where they broke off, also by another process, and checked at the end.

huggingface_hub continues within a process only. A part is kept beside the finished file, named by the content's
SHA-256, so it can never be continued with other content; a lock keeps two processes from writing the same part.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import tqdm

from trimode_workers.errors import SourceError
from trimode_workers.sources.uri import Progress


class Silent(tqdm):
    """A bar that draws nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["disable"] = True
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]


PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Blob:
    """One large file of a repository: its path there, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """Downloads of one repository at one commit into `folder`, each file under its SHA-256.

    `locks` is where huggingface_hub has its locks for the same files, so that it waits for us as we for it.
    """

    endpoint: str
    token: str | None
    repository: str
    commit: str
    folder: Path
    locks: Path

    def missing(self, blob: Blob) -> int:
        """Bytes still to come."""
        if (self.folder / blob.sha256).exists():
            return 0
        part = self.folder / (blob.sha256 + PARTIAL)
        return blob.size - (min(part.stat().st_size, blob.size) if part.exists() else 0)

    def get(self, blobs: Sequence[Blob], progress: Progress) -> None:
        """Download what is missing. Raises SourceError (damaged), httpx2's and the hub's errors, OSError."""
        total = sum(blob.size for blob in blobs)
        before = 0
        for blob in blobs:
            if missing := self.missing(blob):
                progress(blob.path, before + blob.size - missing, total)
                self._one(blob, _Tell(progress, blob.path, before, total))
            before += blob.size
            progress(blob.path, before, total)

    def _one(self, blob: Blob, tell: _Tell) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.locks.mkdir(parents=True, exist_ok=True)
        goal, part = self.folder / blob.sha256, self.folder / (blob.sha256 + PARTIAL)
        with WeakFileLock(self.locks / f"{blob.sha256}.lock"):
            if goal.exists():  # another process was quicker
                return
            with _Watched(part, tell) as file:
                there = file.seek(0, io.SEEK_END)
                if there > blob.size:
                    there = file.truncate(file.seek(0))
                http_get(
                    hf_hub_url(self.repository, blob.path, revision=self.commit, endpoint=self.endpoint),
                    file,
                    resume_size=there,
                    # A compressed answer could not be continued.
                    headers=build_hf_headers(token=self.token) | {"Accept-Encoding": "identity"},
                    expected_size=blob.size,
                    displayed_filename=blob.path,
                    tqdm_class=Silent,
                )
            with part.open("rb") as whole:
                found = hashlib.file_digest(whole, "sha256").hexdigest()
            if found != blob.sha256:
                part.unlink()
                raise SourceError(
                    f"model hf://{self.repository}@{self.commit}: {blob.path} arrived damaged: "
                    f"its SHA-256 is {found}, not {blob.sha256}; try again"
                )
            part.replace(goal)


class _Tell:
    """Turns a file's length into progress over all files."""

    def __init__(self, progress: Progress, path: str, before: int, total: int) -> None:
        self._progress, self._path, self._before, self._total = progress, path, before, total

    def __call__(self, length: int) -> None:
        self._progress(self._path, self._before + length, self._total)


class _Watched(io.FileIO):
    """A part that is appended to; reports its length after each write."""

    def __init__(self, path: Path, tell_length: Callable[[int], None]) -> None:
        path.touch()
        super().__init__(path, "r+")
        self._tell_length = tell_length

    def write(self, data: bytes) -> int:  # type: ignore[override]
        view = memoryview(data)
        while view:  # an unbuffered write may take a part only
            view = view[super().write(view) :]
        self._tell_length(self.tell())
        return len(data)


def git_blob_id(path: Path) -> str:
    """Git's name for the content: what a hub knows small files by."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
