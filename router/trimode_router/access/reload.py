"""Files that are read again when they change: API keys, certificates."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Protocol

Stamp = tuple[tuple[int, int, int] | None, ...] | None
"""Of each file when it was changed, its size and which it is; None for one that is not there."""


class Watched(Protocol):
    """`field`: where the configuration names the files. `problem`: why they, as they are now, are not in force, empty
    where they are. `usable`: something is."""

    field: ClassVar[str]
    problem: str

    @property
    def usable(self) -> bool: ...


def stamp(*files: Path) -> Stamp:
    """Another value once any of the files is another one. A mounted Secret changes by a link that then leads
    elsewhere, so links are followed."""
    found: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            status = os.stat(file)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)
