"""Layers of images: tar archives that are written as a stream.

Belongs here: the format of a layer, and who owns what in it.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

_BUFFER = 1 << 20


class Layer:
    """Files, links and folders for a layer. Everything belongs to root and may be read by all.

    Paths are relative to the image's root. Folders above a path are added by themselves. What is added twice stays
    as it was first: distributions may share a file.
    """

    def __init__(self, out: IO[bytes]) -> None:
        self._out = _Digesting(out)
        self._tar = tarfile.open(fileobj=self._out, mode="w|", bufsize=_BUFFER, format=tarfile.GNU_FORMAT)  # noqa: SIM115
        self.paths: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    @property
    def digest(self) -> str:
        """SHA-256 of what was written, in hexadecimal."""
        return self._out.sha256.hexdigest()

    def folder(self, path: str, mode: int = 0o755) -> None:
        info = tarfile.TarInfo(path)
        info.type = tarfile.DIRTYPE
        self._add(info, mode)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        info = tarfile.TarInfo(path)
        info.type, info.linkname = tarfile.SYMTYPE, target
        self._add(info, 0o777)

    def data(self, path: str, content: bytes, mode: int = 0o644) -> None:
        info = tarfile.TarInfo(path)
        info.size = len(content)
        self._add(info, mode, io.BytesIO(content))

    def file(self, path: str, source: Path) -> None:
        """A file of this machine; where it is a link, what it leads to.

        It keeps its time, in whole seconds: bytecode names the time of its source.
        """
        told = source.stat()
        info = tarfile.TarInfo(path)
        info.size, info.mtime = told.st_size, int(told.st_mtime)
        with source.open("rb") as file:
            self._add(info, 0o755 if told.st_mode & 0o100 else 0o644, file)

    def member(self, info: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        """A member of another archive, with its mode and time."""
        self._add(info, info.mode, content)

    def _add(self, info: tarfile.TarInfo, mode: int, content: IO[bytes] | None = None) -> None:
        if info.name in self.paths:
            return
        for parent in reversed(PurePosixPath(info.name).parents[:-1]):
            if str(parent) not in self.paths:
                self.folder(str(parent))
        self.paths.add(info.name)
        info.mode, info.uid, info.gid, info.uname, info.gname = mode, 0, 0, "root", "root"
        self._tar.addfile(info, content)


class _Digesting(io.RawIOBase):
    """A stream that is hashed on its way, since reading a large layer once more takes seconds."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._out.write(data)
